"""``python -m converters.export``: a real export of a small network, and one sentence for every mistake."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the extra export")
pytest.importorskip("onnxruntime", reason="needs the extra export")

import torch
from safetensors.torch import save_file

import converters
from converters import plan
from converters.export import app
from sdk import console
from sdk.bundle import Bundle
from sdk.errors import UsageError
from sdk.verify import verify
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.models.generator import Generator, GeneratorConfig

pytestmark = pytest.mark.export
PHOTOS = Path(__file__).parents[1] / "photos"
NAMES = ("comic", "pencil")
NARROW = {"encoder_width": 0.5, "stem": 8, "widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process; converters still run in theirs."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            console.run(app)
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, *capsys.readouterr())

    return run


def save_network(path: Path, seed: int = 0, **info: object) -> Path:
    torch.manual_seed(seed)
    network = Generator(GeneratorConfig(styles=2, **NARROW)).train()  # type: ignore[arg-type]
    for _ in range(3):  # population statistics that a fold has to get right
        network.raw(torch.rand(2, 3, 32, 32), torch.eye(2))
    for name, values in network.named_parameters():
        if "gamma" in name or "beta" in name:
            values.data.add_(0.3 * torch.rand_like(values))
    described = {"name": "tiny", "version": "1.0", "styles": NAMES, "size": (32, 32)} | info
    save_checkpoint(path, network.eval(), CheckpointInfo(**described))  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the multi-style fp32 and int8 artifacts of ONNX."""
    folder = tmp_path_factory.mktemp("exported") / "dist"
    # No gate: what int8 makes of random weights is not what these tests are about.
    converters.export(target="onnx", precision="all", checkpoint=checkpoint, out=folder, verify=False)
    return folder


@pytest.fixture
def dist(exported: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be changed."""
    shutil.copytree(exported, tmp_path / "dist")
    return tmp_path / "dist"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- what an export leaves -------------------------------------------------------------------------------------------


def test_a_bundle_is_whole_and_holds_what_was_asked_for(exported: Path) -> None:
    bundle = Bundle.open(exported)
    bundle.check()
    assert [artifact.file for artifact in bundle.artifacts] == [
        "tiny_32x32_multi_ort_fp32.onnx",
        "tiny_32x32_multi_ort_int8.onnx",
    ]
    model = bundle.manifest.model
    assert (model.name, model.version, model.styles, model.macs_size) == ("tiny", "1.0", NAMES, (32, 32))
    assert model.params > 0
    assert model.macs > 0
    pictures = bundle.manifest.reference.pictures
    assert len({picture.photo for picture in pictures}) == 3
    assert {picture.style for picture in pictures} == set(NAMES)
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert all(artifact.file in card for artifact in bundle.artifacts)
    assert "cropped and scaled" in card  # the photos' licences ask for this
    assert not [path.name for path in exported.parent.iterdir() if path.name != "dist"]
    assert not [path.name for path in exported.iterdir() if path.name.startswith(".")]


def test_a_quantized_artifact_says_what_calibrated_it(exported: Path) -> None:
    floating, quantized = Bundle.open(exported).artifacts
    assert floating.quantization is None
    assert quantized.quantization is not None
    assert quantized.quantization.calibration_images == 32 * len(NAMES)  # every photo in every style


def test_the_exported_fp32_artifact_passes_the_sdks_own_verification(exported: Path) -> None:
    file = "tiny_32x32_multi_ort_fp32.onnx"
    report = verify(exported, artifacts=[file], images=sorted((PHOTOS / "test").glob("*.jpg"))[:3])
    assert report.ok
    assert [verdict.file for verdict in report.results] == [file]


def test_exporting_again_adds_to_the_bundle_and_verifies_what_it_adds(export, checkpoint, dist) -> None:
    before = contents(dist)
    done = export("--target", "onnx", "--checkpoint", checkpoint, "--style", "comic", "--out", dist, "--dynamic-batch")
    assert done.code == 0, done.err
    line, last = done.out.splitlines()
    assert line.startswith("pass          tiny_32x32_comic_ort_fp32.onnx  ")
    assert "SSIM 1.0000 worst 1.0000" in line
    assert last.startswith("1 pass; ")
    after = contents(dist)
    assert {name for name in after if name not in before} == {"tiny_32x32_comic_ort_fp32.onnx"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json", "README.md"}  # the reference came out as the same bytes
    bundle = Bundle.open(dist)
    bundle.check()
    assert bundle.artifact(style="comic", baked=True).io.image.shape[0] is None


def test_an_artifact_that_misses_a_gate_is_rejected_with_its_verdict_and_exit_code_1(export, checkpoint, dist) -> None:
    done = export(
        *("--target", "onnx", "--precision", "int8", "--checkpoint", checkpoint, "--style", "pencil"),
        *("--min-ssim", "0.9999999", "--out", dist),
    )
    assert done.code == 1
    assert "fail          tiny_32x32_pencil_ort_int8.onnx" in done.out
    assert "(--min-ssim)" in done.out
    assert "1 fail; " in done.out
    assert len(Bundle.open(dist).artifacts) == 2  # those that were there
    verdict = json.loads((dist / "rejected/tiny_32x32_pencil_ort_int8.onnx.json").read_text())
    assert verdict["verdict"] == "fail"
    assert "--min-ssim" in verdict["reason"]
    assert (dist / "rejected/tiny_32x32_pencil_ort_int8.onnx").is_file()
    assert "pencil_ort_int8" not in (dist / "README.md").read_text(encoding="utf-8")


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(export, checkpoint: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs an export that must be refused; returns its one sentence. Nothing may be left on the disk."""

    def run(code: int, **options: object) -> str:
        given = {"target": "onnx", "checkpoint": checkpoint, "out": tmp_path / "dist"} | options
        before = contents(tmp_path)
        arguments = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
        done = export(*(part for part in arguments if part is not True))
        assert done.code == code, done.err
        assert done.out == ""
        (line,) = done.err.splitlines()
        assert line.startswith("error: ")
        assert line.endswith(".")
        assert "Traceback" not in line
        assert contents(tmp_path) == before
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return line

    return run


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "coremel"}, "unknown target 'coremel': did you mean 'coreml'?"),
        ({"backend": "otr"}, "unknown backend 'otr': did you mean 'ort'?"),
        ({"precision": "int88"}, "unknown precision 'int88': did you mean 'int8'?"),
        ({"precision": "fp16"}, "onnx (ort) has no precision fp16: choose from fp32, int8."),
        ({"precision": "dynamic"}, "precision 'dynamic' is refused: dynamic quantization leaves convolutions in float"),
        ({"style": "pencl"}, "unknown style 'pencl': did you mean 'pencil'?"),
        ({"size": "100x64"}, "size 100x64 is not divisible by 16: use 96x64, for example."),
        ({"size": "big"}, "size 'big' is not of the form HxW: write for example 256x256."),
        ({"min_ssim": "1.5"}, "--min-ssim is 1.5: give a number above 0 and at most 1."),
        ({"jobs": "0"}, "--jobs is 0: give at least 1."),
        ({"target": "coreml", "dynamic_batch": True}, "--dynamic-batch is not possible for coreml"),
    ],
)
def test_a_wrong_argument_gets_one_sentence_and_exit_code_2(refused, options, sentence) -> None:
    assert sentence in refused(2, **options)


def test_everything_that_is_wrong_is_said_at_once(refused, tmp_path) -> None:
    line = refused(2, target="onxx", precision="fp99", size="17x16", style="cmic", min_ssim=2)
    for part in ("5 problems", "'onxx'", "'fp99'", "17x16", "'cmic'", "--min-ssim is 2"):
        assert part in line
    line = refused(2, checkpoint=tmp_path / "gone.safetensors", precision="int8", calibration=tmp_path / "none")
    assert "2 problems" in line
    assert "gone.safetensors does not exist" in line
    assert "none does not exist: give a folder" in line


def truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:5000])


def not_safetensors(path: Path, good: Path) -> None:
    path.write_bytes(b"PK\x03\x04 a pickled module, perhaps" * 100)


def foreign(path: Path, good: Path) -> None:
    save_file({"weight": torch.zeros(3)}, str(path))


def other_architecture(path: Path, good: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(str(good), framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(str(good))
    tensors.pop(next(iter(tensors)))
    save_file(tensors, str(path), metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path, good: None, "does not exist: give the path of a .safetensors file."),
        (truncated, "cannot be read as safetensors"),
        (not_safetensors, "cannot be read as safetensors"),
        (foreign, "has no 'toonedge' metadata"),
        (other_architecture, "is of another architecture: 1 tensors are absent"),
    ],
    ids=["missing", "truncated", "not safetensors", "not ours", "another architecture"],
)
def test_an_unusable_checkpoint_gets_one_sentence_and_exit_code_2(
    refused, checkpoint, tmp_path, damage, sentence
) -> None:
    bad = tmp_path / "bad.safetensors"
    damage(bad, checkpoint)
    assert sentence in refused(2, checkpoint=bad)


@pytest.mark.parametrize("name", ["../evil", "a/b", "two words", ""])
def test_a_checkpoint_whose_name_cannot_be_a_file_name_is_refused(refused, tmp_path, name) -> None:
    bad = save_network(tmp_path / "bad.safetensors", name=name)
    assert "cannot be a part of a file name" in refused(2, checkpoint=bad)


def test_an_int8_export_of_a_network_on_instance_statistics_is_refused_before_any_work(refused, tmp_path) -> None:
    network = Generator(GeneratorConfig(styles=2, statistics="instance", **NARROW))  # type: ignore[arg-type]
    path = tmp_path / "instance.safetensors"
    save_checkpoint(path, network, CheckpointInfo(name="tiny", version="1", styles=NAMES, size=(32, 32)))
    assert "cannot be exported as int8" in refused(2, checkpoint=path, precision="int8")


def test_a_calibration_folder_that_is_missing_empty_or_broken_is_refused(refused, tmp_path) -> None:
    folder = tmp_path / "photos"
    assert "does not exist: give a folder" in refused(2, precision="int8", calibration=folder)
    folder.mkdir()
    assert "holds no picture" in refused(2, precision="int8", calibration=folder)
    for index in range(16):
        Image.fromarray(np.full((40, 40, 3), index, np.uint8)).save(folder / f"{index:02}.png")
    (folder / "03.png").write_bytes((folder / "04.png").read_bytes()[:60])
    (folder / "07.png").write_bytes(b"not a picture")
    line = refused(2, precision="int8", calibration=folder)
    assert "2 of 16 calibration photos" in line
    assert "(03.png, 07.png)" in line


def test_an_output_that_is_a_file_or_holds_something_else_is_refused(refused, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file: give a folder for the bundle." in refused(2, out=tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "is not empty and not a bundle" in refused(2, out=tmp_path / "full")


def test_the_bundle_of_another_checkpoint_is_not_touched(refused, dist, tmp_path) -> None:
    other = save_network(tmp_path / "other.safetensors", seed=1)
    assert "holds the bundle of another checkpoint" in refused(2, checkpoint=other, out=dist)


def test_a_read_only_output_folder_is_file_trouble(refused, tmp_path, monkeypatch) -> None:
    # Tests may run as root, whom no permission stops: the system's answer is planted.
    def mkdtemp(*arguments: object, **options: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(plan.tempfile, "mkdtemp", mkdtemp)
    assert "the file system is read-only: choose another folder." in refused(4)


@pytest.mark.parametrize("module", ["converters.to_onnx", "converters.export"], ids=["the reference", "the card"])
def test_a_full_disk_leaves_the_older_bundle_as_it_was(refused, dist, monkeypatch, module) -> None:
    def write(path: Path, content: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # The module, not the function that hides it in its package.
    monkeypatch.setattr(importlib.import_module(module), "write_atomically", write)
    if module == "converters.export":  # everything but the last step is done by then
        from converters import export as pipeline

        monkeypatch.setattr(pipeline, "produce", lambda *arguments: ())
    assert "the disk is full: free some space or choose another folder." in refused(4, out=dist)


def test_a_full_disk_in_a_converters_process_is_file_trouble(refused, monkeypatch) -> None:
    from converters.job import Conversion, JobProcess
    from sdk.errors import FileTroubleError

    def conversions(self: JobProcess) -> Iterator[Conversion]:
        (self.job.folder / "half.onnx").write_bytes(b"half")
        error = FileTroubleError("could not write the bundle: the disk is full.")
        yield Conversion(spec=self.job.specs[0], artifact=None, failure=str(error), error=error)

    monkeypatch.setattr(JobProcess, "conversions", conversions)
    assert "the disk is full" in refused(4)


@pytest.mark.parametrize(
    ("target", "missing", "package"),
    [
        ("tflite", "litert_torch", "litert-torch"),
        ("executorch", "executorch", "executorch"),
        ("coreml", "coremltools", "coremltools"),
        ("onnx", "onnxruntime", "onnxruntime"),
        ("all", "onnxscript", "onnxscript"),
    ],
)
def test_a_missing_tool_is_exit_code_3_and_names_the_extra(refused, monkeypatch, target, missing, package) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else found(name, *a))
    line = refused(3, target=target)
    assert f"{package!r}" in line
    assert "pip install 'toonedge[export]'" in line


def test_a_reference_that_is_not_the_network_is_exit_code_1_and_nothing_is_written(refused, monkeypatch) -> None:
    from converters import to_onnx

    honest = to_onnx.trace

    def swapping(module, example):
        model = honest(module, example)
        stem = next(tensor for tensor in model.graph.initializer if "conv_stem" in tensor.name)
        values = to_onnx.onnx.numpy_helper.to_array(stem)[:, ::-1]
        stem.CopyFrom(to_onnx.onnx.numpy_helper.from_array(np.ascontiguousarray(values), stem.name))
        return model

    monkeypatch.setattr(to_onnx, "trace", swapping)
    assert "reference.onnx differs from the checkpoint's network" in refused(1)


def test_the_python_call_raises_what_the_command_line_says(tmp_path) -> None:
    with pytest.raises(UsageError, match="unknown target 'onix': did you mean 'onnx'"):
        converters.export(target="onix", out=tmp_path / "dist")
    assert not list(tmp_path.iterdir())


def test_help_names_every_target_and_imports_no_tool(export) -> None:
    done = export("--help")
    assert done.code == 0
    for word in ("executorch", "coreml", "tflite", "onnx", "--min-ssim", "--no-verify", "--dynamic-batch"):
        assert word in done.out
