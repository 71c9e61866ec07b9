"""The bundle that ships with the package: whole, of the shipped checkpoint, and in the wheel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sdk
from sdk.bundle import Bundle
from sdk.imaging import read_photo
from sdk.spec import Precision, Target
from training.checkpoint import PRETRAINED, load_checkpoint

ROOT = Path(__file__).parents[2]

#: What the wheel may carry of it, bytes.
MOST = 6_000_000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(sdk.default_bundle())


def _files(bundle: Bundle) -> set[str]:
    return {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()}


def test_it_was_made_from_the_shipped_checkpoint(bundle):
    model, shipped = bundle.manifest.model, load_checkpoint(PRETRAINED)
    assert model.checkpoint_sha256 == hashlib.sha256(PRETRAINED.read_bytes()).hexdigest(), "run: make bundle"
    assert model.styles == tuple(shipped.info.styles)


def test_it_serves_every_target_in_int8_and_in_float(bundle):
    for target in Target:
        precisions = {artifact.precision for artifact in bundle.artifacts if artifact.target is target}
        assert precisions > {Precision.INT8}, target
    assert all(artifact.style is None for artifact in bundle.artifacts)


def test_every_file_is_the_one_its_manifest_describes_and_none_is_left_over(bundle):
    for artifact in bundle.artifacts:
        bundle.check_file(artifact.file, artifact.sha256, artifact.bytes)
    reference = bundle.manifest.reference
    bundle.check_file(reference.file, reference.sha256, reference.bytes)
    named = {"manifest.json", "README.md", reference.file, *(artifact.file for artifact in bundle.artifacts)}
    for picture in reference.pictures:
        bundle.check_file(picture.photo, picture.photo_sha256)
        bundle.check_file(picture.result, picture.result_sha256)
        named |= {picture.photo, picture.result}
    # A Core ML package is a folder: its files belong to the first part of their path.
    assert {file.partition("/")[0] if ".mlpackage/" in file else file for file in _files(bundle)} == named


def test_it_is_a_few_megabytes(bundle):
    assert sum((bundle.folder / file).stat().st_size for file in _files(bundle)) <= MOST


def test_load_without_a_path_draws_what_the_float_model_drew_for_it(bundle):
    toon = sdk.load()
    assert toon.bundle.folder == bundle.folder
    assert toon.engines[0].file != bundle.manifest.reference.file
    pictures = bundle.manifest.reference.pictures
    assert {picture.style for picture in pictures} == set(toon.styles)
    for picture in pictures:
        drawn = np.asarray(toon.stylize(bundle.path(picture.photo), picture.style), np.int16)
        assert np.abs(drawn - read_photo(bundle.path(picture.result)).rgb).max() <= 2, picture


@pytest.mark.slow
def test_the_wheel_carries_all_of_it(bundle, tmp_path):
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    for room in ("sdk", "training", "converters"):  # a copy: setuptools writes beside what it builds
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source))
    subprocess.run([*command, "--wheel-dir", str(wheels)], check=True, cwd=tmp_path)
    (wheel,) = wheels.glob("toonedge-*.whl")
    with zipfile.ZipFile(wheel) as content:
        carried = {name: content.read(name) for name in content.namelist() if name.startswith("sdk/default_bundle/")}
    assert carried == {f"sdk/default_bundle/{file}": (bundle.folder / file).read_bytes() for file in _files(bundle)}
