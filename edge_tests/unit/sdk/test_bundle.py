"""The bundle: a strictly read manifest, files compared with their hashes, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sdk.bundle import (
    MANIFEST,
    Artifact,
    Bundle,
    BundleWriter,
    Delegation,
    Fidelity,
    ModelInfo,
    Quantization,
    Reference,
    ReferencePicture,
    hash_path,
    io_from_json,
    manifest_text,
    read_manifest,
    size_of,
    write_manifest,
)
from sdk.errors import ExitCode, FileTroubleError, UsageError
from sdk.spec import Backend, DType, IOSpec, Layout, Precision, Target, image_spec, style_spec

ROOT = Path(__file__).resolve().parents[3]
VALIDATOR = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "manifest.schema.json").read_text()))
MODEL = ModelInfo(
    name="toon",
    version="1.0.0",
    checkpoint_sha256="a" * 64,
    styles=("comic", "pencil"),
    params=10,
    macs=20,
    macs_size=(64, 64),
    licence="Apache-2.0",
    author="nobody",
)

FIDELITY = Fidelity(
    simulation="a graph", runtime="litert", images=3, max_abs_steps=7.0, mean_abs_steps=0.5, drift_steps=0.01
)


def io(style: str | None, layout: Layout = Layout.NCHW, dtype: DType = DType.FLOAT32) -> IOSpec:
    return IOSpec(
        image=image_spec("image", layout, dtype, 64, 64),
        output=image_spec("cartoon", layout, dtype, 64, 64),
        style=style_spec("style", 2) if style is None else None,
    )


def put(folder: Path, file: str, content: bytes, **changes: Any) -> Artifact:
    """Writes an artifact's bytes and describes it."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    style = changes.pop("style", None)
    fields: dict[str, Any] = {
        "target": Target.ONNX,
        "backend": Backend.ORT,
        "precision": Precision.FP32,
        "size": (64, 64),
        "io": io(style),
    }
    return Artifact(file=file, style=style, bytes=size_of(path), sha256=hash_path(path), **{**fields, **changes})


def put_reference(folder: Path, content: bytes = b"float model", *, pictures: bool = True) -> Reference:
    (folder / "reference.onnx").write_bytes(content)
    found: tuple[ReferencePicture, ...] = ()
    if pictures:
        (folder / "reference").mkdir(exist_ok=True)
        for name in ("photo.png", "comic.png"):
            (folder / "reference" / name).write_bytes(name.encode() + content)
        found = (
            ReferencePicture(
                photo="reference/photo.png",
                photo_sha256=hash_path(folder / "reference/photo.png"),
                style="comic",
                result="reference/comic.png",
                result_sha256=hash_path(folder / "reference/comic.png"),
            ),
        )
    path = folder / "reference.onnx"
    return Reference(file="reference.onnx", sha256=hash_path(path), bytes=size_of(path), io=io(None), pictures=found)


def make(folder: Path, artifacts: dict[str, bytes] | None = None, model: ModelInfo = MODEL) -> Bundle:
    with BundleWriter(folder, model, toonedge="0.1.0") as writer:
        writer.set_reference(put_reference(writer.folder))
        for file, content in ({"a.onnx": b"first"} if artifacts is None else artifacts).items():
            writer.add(put(writer.folder, file, content))
    return Bundle.open(folder)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def no_litter(folder: Path) -> bool:
    """Nothing but the bundle lies beside it: no work folder, no backup, no temporary file."""
    return [path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}")] == []


# --- hashes ----------------------------------------------------------------------------------------------------------


def test_a_folder_hash_is_what_sha256sum_of_sorted_sha256sum_lines_gives(tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    for name, content in (("Data/weights.bin", b"w"), ("Manifest.json", b"{}"), ("Data/Z", b"z")):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(content)
    command = "find . -type f | sed 's|^[.]/||' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    by_shell = subprocess.run(command, shell=True, cwd=package, capture_output=True, text=True, check=True)
    assert hash_path(package) == by_shell.stdout.split()[0]
    assert size_of(package) == 4


def test_a_folder_hash_changes_with_a_byte_a_name_and_a_place(tmp_path: Path) -> None:
    def package(name: str, files: dict[str, bytes]) -> str:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return hash_path(tmp_path / name)

    base = package("base", {"x/a": b"1", "x/b": b"2"})
    assert base == package("same", {"x/b": b"2", "x/a": b"1"})
    others = [
        package("byte", {"x/a": b"1", "x/b": b"3"}),
        package("name", {"x/a": b"1", "x/c": b"2"}),
        package("place", {"x/a": b"1", "y/b": b"2"}),
        package("swapped", {"x/a": b"2", "x/b": b"1"}),
    ]
    assert len({base, *others}) == 5


def test_a_file_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert hash_path(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(UsageError, match="there is no file"):
        hash_path(tmp_path / "missing")
    with pytest.raises(UsageError, match="there is no file"):
        size_of(tmp_path / "missing")


# --- manifest.json ---------------------------------------------------------------------------------------------------


def full_manifest(folder: Path) -> dict[str, Any]:
    """A manifest with every optional part present, as JSON."""
    with BundleWriter(folder, MODEL, toonedge="0.1.0") as writer:
        writer.set_reference(put_reference(writer.folder))
        quantized = put(
            writer.folder,
            "b.tflite",
            b"int8",
            target=Target.TFLITE,
            backend=Backend.LITERT,
            precision=Precision.INT8,
            style="pencil",
            io=io("pencil", Layout.NHWC, DType.INT8),
            quantization=Quantization(
                method="static",
                calibration_sha256="b" * 64,
                calibration_images=32,
                float_layers=("head",),
                fidelity=FIDELITY,
            ),
            delegation=Delegation(delegates=("xnnpack",), operators_outside=(), layout_copies=1),
            min_runtime="2.0",
            min_os="Android 8",
            tools={"litert-torch": "0.10.0"},
        )
        writer.add(quantized)
        writer.add(put(writer.folder, "a.onnx", b"fp32"))
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return content


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    full_manifest(tmp_path / "b")
    manifest = read_manifest(tmp_path / "b")
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.artifacts[1].quantization == Quantization(
        method="static", calibration_sha256="b" * 64, calibration_images=32, float_layers=("head",), fidelity=FIDELITY
    )
    assert manifest.artifacts[1].io == io("pencil", Layout.NHWC, DType.INT8)


def test_the_written_manifest_fits_its_published_schema(tmp_path: Path) -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(full_manifest(tmp_path / "b"))


def test_the_schema_shipped_in_the_wheel_is_the_one_in_docs() -> None:
    for name in ("manifest.schema.json", "report.schema.json"):
        assert (ROOT / "docs" / name).read_bytes() == (ROOT / "sdk" / "schemas" / name).read_bytes()


def test_the_same_bundle_gives_the_same_manifest_bytes_in_any_order(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"a.onnx": b"1", "b.onnx": b"2"})
    two = make(tmp_path / "two", {"b.onnx": b"2", "a.onnx": b"1"})
    text = (one.folder / MANIFEST).read_text()
    assert text == (two.folder / MANIFEST).read_text() == manifest_text(one.manifest)
    assert text.endswith("}\n")
    assert "\r" not in text
    mirrored = replace(one.manifest, artifacts=one.manifest.artifacts[::-1])
    assert manifest_text(mirrored) == text


Edit = Callable[[dict[str, Any]], object]


def at(content: dict[str, Any], *keys: str | int) -> Any:
    for key in keys:
        content = content[key]  # type: ignore[index]
    return content


FIDELITY_AT = ("artifacts", 1, "quantization", "fidelity")
MALFORMED: dict[str, tuple[Edit, str]] = {
    "another schema": (lambda m: m.update(schema=2), "schema is 2, not 1"),
    "schema as text": (lambda m: m.update(schema="1"), "schema is"),
    "schema as a boolean": (lambda m: m.update(schema=True), "schema is true"),
    "no schema": (lambda m: m.pop("schema"), "the field schema is missing"),
    "no model": (lambda m: m.pop("model"), "the field model is missing"),
    "model as a list": (lambda m: m.update(model=[]), "model is"),
    "no styles": (lambda m: m["model"].update(styles=[]), "model.styles is"),
    "a style twice": (lambda m: m["model"].update(styles=["comic", "comic", "pencil"]), "model.styles is"),
    "params below 0": (lambda m: m["model"].update(params=-1), "model.params is -1"),
    "params as a float": (lambda m: m["model"].update(params=1.5), "model.params is 1.5"),
    "params as a boolean": (lambda m: m["model"].update(params=True), "model.params is true"),
    "a short hash": (lambda m: m["model"].update(checkpoint_sha256="abc"), "checkpoint_sha256 is"),
    "a hash in capitals": (lambda m: m["model"].update(checkpoint_sha256="A" * 64), "checkpoint_sha256 is"),
    "an empty name": (lambda m: m["model"].update(name=""), "model.name is"),
    "a size of three": (lambda m: m["model"].update(macs_size=[1, 2, 3]), "macs_size is"),
    "a size of zero": (lambda m: m["artifacts"][0].update(size=[0, 64]), "size is"),
    "no reference": (lambda m: m.pop("reference"), "the field reference is missing"),
    "no artifacts": (lambda m: m.pop("artifacts"), "the field artifacts is missing"),
    "artifacts as an object": (lambda m: m.update(artifacts={}), "artifacts is"),
    "an artifact as a text": (lambda m: m["artifacts"].append("x"), r"artifacts\[2\] is"),
    "an unknown target": (lambda m: m["artifacts"][0].update(target="onyx"), "did you mean 'onnx'"),
    "an unknown backend": (lambda m: m["artifacts"][0].update(backend="orts"), "did you mean 'ort'"),
    "an unknown precision": (lambda m: m["artifacts"][0].update(precision="int9"), "did you mean 'int8'"),
    "an unknown layout": (lambda m: m["artifacts"][0]["io"]["image"].update(layout="NHCW"), "unknown layout"),
    "an unknown dtype": (lambda m: m["artifacts"][0]["io"]["image"].update(dtype="float16"), "unknown dtype"),
    "five axes": (lambda m: m["artifacts"][0]["io"]["image"].update(shape=[1, 3, 4, 4, 4]), "shape is"),
    "an extent below 0": (lambda m: m["artifacts"][0]["io"]["image"].update(shape=[1, 3, -4, 4]), "shape"),
    "int8 without a scale": (lambda m: m["artifacts"][1]["io"]["image"].update(scale=None), "scale is"),
    "float with a scale": (lambda m: m["artifacts"][0]["io"]["image"].update(scale=0.1), "scale is"),
    "a scale as a text": (lambda m: m["artifacts"][1]["io"]["image"].update(scale="0.1"), "scale is"),
    "multi-style without weights": (lambda m: m["artifacts"][0]["io"].update(style=None), "io is"),
    "baked with weights": (lambda m: m["artifacts"][0].update(style="comic"), "io is"),
    "an absolute path": (lambda m: m["artifacts"][0].update(file="/etc/passwd"), "file is"),
    "a path upwards": (lambda m: m["artifacts"][0].update(file="../a.onnx"), "file is"),
    "a path up in the middle": (lambda m: m["artifacts"][0].update(file="x/../../a.onnx"), "file is"),
    "a Windows path": (lambda m: m["artifacts"][0].update(file="C:\\a.onnx"), "file is"),
    "a Windows drive": (lambda m: m["artifacts"][0].update(file="C:a.onnx"), "file is"),
    "a backslash": (lambda m: m["artifacts"][0].update(file="..\\a.onnx"), "file is"),
    "a path with a NUL": (lambda m: m["artifacts"][0].update(file="a\u0000.onnx"), "file is"),
    "the folder itself": (lambda m: m["artifacts"][0].update(file="."), "file is"),
    "an empty path": (lambda m: m["artifacts"][0].update(file=""), "file is"),
    "a path with an empty part": (lambda m: m["artifacts"][0].update(file="x//a.onnx"), "file is"),
    "an upward reference": (lambda m: m["reference"].update(file="../r.onnx"), "reference.file is"),
    "an upward picture": (lambda m: m["reference"]["pictures"][0].update(photo="../p.png"), "photo is"),
    "a tool version as a number": (lambda m: m["artifacts"][1]["tools"].update(x=1), "tools.x is 1"),
    "tools as a list": (lambda m: m["artifacts"][0].update(tools=[]), "tools is"),
    "quantization as a text": (lambda m: m["artifacts"][1].update(quantization="yes"), "quantization is"),
    "fidelity as a text": (lambda m: m["artifacts"][1]["quantization"].update(fidelity="good"), "fidelity is"),
    "a drift as a text": (lambda m: at(m, *FIDELITY_AT).update(drift_steps="0.1"), "fidelity.drift_steps is"),
    "no drift": (lambda m: at(m, *FIDELITY_AT).pop("drift_steps"), "fidelity.drift_steps is missing"),
    "min_os as a number": (lambda m: m["artifacts"][1].update(min_os=16), "min_os is 16"),
}
#: Relations between fields, which a JSON Schema cannot express.
MALFORMED_RELATIONS: dict[str, tuple[Edit, str]] = {
    "two artifacts of one name": (lambda m: m["artifacts"][1].update(file="a.onnx"), "the only artifact"),
    "a style the model lacks": (lambda m: m["artifacts"][1].update(style="pencl"), "did you mean 'pencil'"),
    "a picture of a style it lacks": (lambda m: m["reference"]["pictures"][0].update(style="x"), "unknown style"),
}


@pytest.mark.parametrize("name", [*MALFORMED, *MALFORMED_RELATIONS])
def test_a_malformed_manifest_is_one_sentence_that_names_the_field(name: str, tmp_path: Path) -> None:
    content = full_manifest(tmp_path / "b")
    edit, message = {**MALFORMED, **MALFORMED_RELATIONS}[name]
    edit(content)
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as caught:
        Bundle.open(tmp_path / "b")
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", MALFORMED)
def test_the_schema_refuses_what_the_reader_refuses(name: str, tmp_path: Path) -> None:
    content = full_manifest(tmp_path / "b")
    MALFORMED[name][0](content)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(content)


def test_a_bundle_from_before_there_was_a_fidelity_opens_and_fits_the_schema(tmp_path: Path) -> None:
    content = full_manifest(tmp_path / "b")
    del content["artifacts"][1]["quantization"]["fidelity"]
    VALIDATOR.validate(content)
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(content))
    quantization = Bundle.open(tmp_path / "b").artifacts[1].quantization
    assert quantization is not None
    assert quantization.fidelity is None


def test_a_field_this_version_does_not_know_is_passed_over(tmp_path: Path) -> None:
    content = full_manifest(tmp_path / "b")
    before = read_manifest(tmp_path / "b")
    content["signature"] = {"by": "later"}
    content["artifacts"][0]["colour"] = "red"
    VALIDATOR.validate(content)
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(content))
    assert read_manifest(tmp_path / "b") == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not an object"),
        (b"3", "not an object"),
        (b"[" * 200_000, "not JSON"),
        (b'{"schema": NaN}', "schema is NaN"),
    ],
)
def test_a_manifest_that_is_not_a_json_object_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        Bundle.open(tmp_path)


def test_a_folder_that_is_no_bundle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "file", "not a folder"),
        (tmp_path, "no"),
    ):
        with pytest.raises(UsageError, match=f"{message}.*give the folder that an export wrote"):
            Bundle.open(place)


def test_an_io_is_read_back_from_its_own_json() -> None:
    from dataclasses import asdict

    spec = io(None, Layout.NHWC, DType.INT8)
    assert io_from_json(json.loads(json.dumps(asdict(spec)))) == spec
    with pytest.raises(UsageError, match=r"io\.output is missing"):
        io_from_json({"image": asdict(spec)["image"]})


# --- reading ---------------------------------------------------------------------------------------------------------


def test_check_passes_on_a_whole_bundle_and_names_the_file_that_was_altered(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b", {"a.onnx": b"first", "sub/b.onnx": b"second"})
    bundle.check()
    for file in tree(bundle.folder):
        if file == MANIFEST:
            continue
        path = bundle.folder / file
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])  # planted fault: one bit, same size
        with pytest.raises(UsageError, match=f"{file}.*SHA-256"):
            bundle.check()
        path.write_bytes(good[:-1])
        with pytest.raises(UsageError, match=f"{file}"):
            bundle.check()
        path.unlink()
        with pytest.raises(UsageError, match=f"there is no file.*{file}"):
            bundle.check()
        path.write_bytes(good)
    bundle.check()


def test_check_sees_a_file_added_to_a_package_folder(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b", MODEL, toonedge="0.1.0") as writer:
        writer.set_reference(put_reference(writer.folder))
        package = writer.folder / "a.mlpackage"
        (package / "Data").mkdir(parents=True)
        (package / "Data" / "weights.bin").write_bytes(b"w")
        writer.add(
            replace(
                put(writer.folder, "x", b""),
                file="a.mlpackage",
                target=Target.COREML,
                backend=Backend.MLPROGRAM,
                bytes=size_of(package),
                sha256=hash_path(package),
            )
        )
    bundle = Bundle.open(tmp_path / "b")
    bundle.check()
    (bundle.folder / "a.mlpackage" / "empty").touch()
    with pytest.raises(UsageError, match=r"a\.mlpackage.*SHA-256"):
        bundle.check()


def test_a_link_that_leads_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    (tmp_path / "secret").write_bytes(b"first")
    (bundle.folder / "a.onnx").unlink()
    (bundle.folder / "a.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"'a\.onnx' leads out"):
        bundle.check()


def test_select_orders_by_use_and_filters_by_every_condition(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b", MODEL, toonedge="0.1.0") as writer:
        writer.set_reference(put_reference(writer.folder))
        for file, changes in {
            "comic8": {"style": "comic", "precision": Precision.INT8},
            "comic32": {"style": "comic"},
            "multi8": {"precision": Precision.INT8},
            "multi32": {},
            "multi32big": {"size": (128, 64)},
            "lite": {"target": Target.TFLITE, "backend": Backend.LITERT},
        }.items():
            writer.add(put(writer.folder, file, b"x", **changes))
    bundle = Bundle.open(tmp_path / "b")

    def names(**conditions: Any) -> list[str]:
        return [artifact.file for artifact in bundle.select(**conditions)]

    assert names() == ["multi32big", "lite", "multi32", "multi8", "comic32", "comic8"]
    assert names(target=Target.ONNX, baked=True) == ["comic32", "comic8"]
    assert names(style="pencil", precision=Precision.INT8) == ["multi8"]
    assert names(style="comic", precision=Precision.INT8) == ["multi8", "comic8"]
    assert names(size=(128, 64)) == ["multi32big"]
    assert bundle.artifact("comic8").style == "comic"
    assert bundle.artifact(backend=Backend.LITERT).file == "lite"
    with pytest.raises(UsageError, match="did you mean 'comic8'"):
        bundle.artifact("comic9")
    with pytest.raises(UsageError, match="did you mean 'pencil'"):
        bundle.select(style="pencl")
    with pytest.raises(UsageError, match="no artifact with target coreml, style comic: it has comic32"):
        bundle.artifact(target=Target.COREML, style="comic")


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_bundle_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    bundle = make(tmp_path / "deep" / "b")
    bundle.check()
    assert set(tree(bundle.folder)) == {
        "a.onnx",
        "manifest.json",
        "reference.onnx",
        "reference/comic.png",
        "reference/photo.png",
    }
    assert no_litter(bundle.folder)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make(tmp_path / "b").check()


def test_files_get_the_modes_any_new_file_gets(tmp_path: Path) -> None:
    bundle = make(tmp_path / "b")
    (tmp_path / "plain").write_text("x")
    (tmp_path / "plain_folder").mkdir()
    assert (bundle.folder / MANIFEST).stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert bundle.folder.stat().st_mode == (tmp_path / "plain_folder").stat().st_mode


def test_the_same_checkpoint_merges_and_keeps_what_is_not_replaced(tmp_path: Path) -> None:
    make(tmp_path / "b", {"a.onnx": b"first", "sub/b.onnx": b"second"})
    (tmp_path / "b" / "README.md").write_text("the user's own note")
    with BundleWriter(tmp_path / "b", replace(MODEL, version="1.0.1"), toonedge="0.2.0") as writer:
        writer.add(put(writer.folder, "a.onnx", b"better"))
        writer.add(put(writer.folder, "c.onnx", b"third"))
    bundle = Bundle.open(tmp_path / "b")
    bundle.check()
    files = tree(bundle.folder)
    assert [artifact.file for artifact in bundle.artifacts] == ["a.onnx", "c.onnx", "sub/b.onnx"]
    assert files["a.onnx"] == b"better"
    assert files["sub/b.onnx"] == b"second"
    assert files["README.md"] == b"the user's own note"
    assert bundle.manifest.model.version == "1.0.1"
    assert no_litter(bundle.folder)


def test_a_new_reference_replaces_the_old_one_and_its_pictures(tmp_path: Path) -> None:
    make(tmp_path / "b")
    with BundleWriter(tmp_path / "b", MODEL, toonedge="0.1.0") as writer:
        assert writer.reference is not None
        writer.set_reference(put_reference(writer.folder, b"newer", pictures=False))
    bundle = Bundle.open(tmp_path / "b")
    bundle.check()
    assert bundle.manifest.reference.pictures == ()
    assert (bundle.folder / "reference.onnx").read_bytes() == b"newer"


def test_another_checkpoint_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    before = tree(make(tmp_path / "b").folder)
    with (
        pytest.raises(UsageError, match="another checkpoint"),
        BundleWriter(tmp_path / "b", replace(MODEL, checkpoint_sha256="c" * 64)),
    ):
        pytest.fail("entered")
    assert tree(tmp_path / "b") == before
    assert no_litter(tmp_path / "b")


def test_a_folder_with_files_but_no_bundle_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and not a bundle"), BundleWriter(tmp_path / "b", MODEL):
        pytest.fail("entered")
    assert tree(tmp_path / "b") == {"thesis.txt": b"years of work"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"), BundleWriter(tmp_path / "file", MODEL):
        pytest.fail("entered")


def test_a_writer_refuses_what_is_not_there_or_not_what_it_says(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use it as"):
        _ = BundleWriter(tmp_path / "b", MODEL).folder
    with BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.set_reference(put_reference(writer.folder))
        artifact = put(writer.folder, "a.onnx", b"x")
        with pytest.raises(UsageError, match="SHA-256"):
            writer.add(replace(artifact, sha256="d" * 64))
        with pytest.raises(UsageError, match="1 bytes and the manifest says 2"):
            writer.add(replace(artifact, bytes=2))
        with pytest.raises(UsageError, match="there is no file"):
            writer.add(replace(artifact, file="missing.onnx"))
        with pytest.raises(UsageError, match="unknown style"):
            writer.add(replace(artifact, style="manga"))


def test_a_bundle_without_a_reference_cannot_be_committed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reference yet"), BundleWriter(tmp_path / "b", MODEL):
        pass
    assert list(tmp_path.iterdir()) == []


def test_staged_can_be_checked_before_the_bundle_is_committed(tmp_path: Path) -> None:
    make(tmp_path / "b")
    with BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.add(put(writer.folder, "new.onnx", b"x"))
        staged = writer.staged()
        staged.check()
        assert [artifact.file for artifact in staged.artifacts] == ["new.onnx"]
        assert not (tmp_path / "b" / "new.onnx").exists()


def test_a_rejected_artifact_lies_outside_the_manifest_with_its_verdict(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.set_reference(put_reference(writer.folder))
        bad = put(writer.folder, "bad.onnx", b"bad")
        writer.add(bad)
        writer.add(put(writer.folder, "good.onnx", b"good"))
        place = writer.reject(bad, '{"verdict": "fail"}')
    bundle = Bundle.open(tmp_path / "b")
    assert [artifact.file for artifact in bundle.artifacts] == ["good.onnx"]
    assert place == bundle.folder / "rejected" / "bad.onnx"
    assert place.read_bytes() == b"bad"
    assert json.loads((bundle.folder / "rejected" / "bad.onnx.json").read_text()) == {"verdict": "fail"}
    assert not (bundle.folder / "bad.onnx").exists()


def test_a_rejected_replacement_leaves_the_older_proven_artifact(tmp_path: Path) -> None:
    make(tmp_path / "b", {"a.onnx": b"proven"})
    with BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.add(put(writer.folder, "a.onnx", b"worse"))
        writer.reject("a.onnx", "{}")
    bundle = Bundle.open(tmp_path / "b")
    bundle.check()
    assert (bundle.folder / "a.onnx").read_bytes() == b"proven"
    assert (bundle.folder / "rejected" / "a.onnx").read_bytes() == b"worse"


def test_an_artifact_that_passes_at_last_leaves_the_rejected(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.set_reference(put_reference(writer.folder))
        for file in ("a.onnx", "b.onnx"):
            put(writer.folder, file, b"bad")
            writer.reject(file, "{}")
    with BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.add(put(writer.folder, "a.onnx", b"good"))
    assert {file for file in tree(tmp_path / "b") if file.startswith("rejected")} == {
        "rejected/b.onnx",
        "rejected/b.onnx.json",
    }


# --- trouble on the way ----------------------------------------------------------------------------------------------


def test_an_exception_in_the_middle_leaves_the_older_bundle_as_it_was(tmp_path: Path) -> None:
    before = tree(make(tmp_path / "b").folder)
    with pytest.raises(ZeroDivisionError), BundleWriter(tmp_path / "b", MODEL) as writer:  # noqa: PT012
        writer.add(put(writer.folder, "a.onnx", b"half"))
        _ = 1 / 0
    assert tree(tmp_path / "b") == before
    assert no_litter(tmp_path / "b")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_while_exporting_is_file_trouble_and_leaves_nothing(tmp_path: Path) -> None:
    before = tree(make(tmp_path / "b").folder)
    with pytest.raises(FileTroubleError, match=r"'.*b': the disk is full") as caught:  # noqa: PT012, SIM117
        with BundleWriter(tmp_path / "b", MODEL) as writer:
            (writer.folder / "a.onnx").symlink_to("/dev/full")
            (writer.folder / "a.onnx").write_bytes(b"x" * 100_000)  # a real ENOSPC
    assert caught.value.exit_code is ExitCode.FILE_TROUBLE
    assert tree(tmp_path / "b") == before
    assert no_litter(tmp_path / "b")


def test_a_native_library_that_only_mentions_the_full_disk_is_understood(tmp_path: Path) -> None:
    with pytest.raises(FileTroubleError, match="the disk is full"), BundleWriter(tmp_path / "b", MODEL):
        raise RuntimeError("flatbuffer write failed: No space left on device [28]")
    assert list(tmp_path.iterdir()) == []


def test_a_users_mistake_inside_stays_what_it_was(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="my own"), BundleWriter(tmp_path / "b", MODEL):
        raise UsageError("my own")
    with pytest.raises(FileNotFoundError), BundleWriter(tmp_path / "b", MODEL):
        (tmp_path / "no such file").read_bytes()


@pytest.mark.parametrize("step", ["copy", "manifest", "first rename", "second rename"])
def test_a_disk_that_fails_at_any_step_of_the_commit_leaves_the_older_bundle(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(make(tmp_path / "b", {"a.onnx": b"1", "b.onnx": b"2"}).folder)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    copyfile, rename, fdopen = shutil.copyfile, Path.rename, os.fdopen

    def failing_copy(source: Path, target: Path) -> Any:
        if Path(source).name == "b.onnx":
            Path(target).write_bytes(b"ha")  # half of it
            raise full
        return copyfile(source, target)

    def failing_rename(self: Path, target: Path) -> Path:
        moved_away, moved_in = Path(target).name == ".b.old", self.name.startswith(".b.work-")
        if (step == "first rename" and moved_away) or (step == "second rename" and moved_in):
            raise full
        return rename(self, target)

    def failing_fdopen(handle: int, mode: str) -> Any:
        stream = fdopen(handle, mode)
        stream.write = lambda data: (_ for _ in ()).throw(full)  # type: ignore[method-assign]
        return stream

    with pytest.raises(FileTroubleError, match="the disk is full"):  # noqa: PT012, SIM117
        with BundleWriter(tmp_path / "b", MODEL) as writer:
            writer.add(put(writer.folder, "a.onnx", b"new"))
            if step == "copy":
                monkeypatch.setattr(shutil, "copyfile", failing_copy)
            elif step == "manifest":
                monkeypatch.setattr(
                    "sdk.files.os.fdopen",
                    lambda handle, mode: _FullStream(fdopen(handle, mode), full),
                )
            else:
                monkeypatch.setattr(Path, "rename", failing_rename)
    monkeypatch.undo()
    assert tree(tmp_path / "b") == before
    assert no_litter(tmp_path / "b")
    Bundle.open(tmp_path / "b").check()


class _FullStream:
    """A file on a full disk."""

    def __init__(self, stream: Any, error: OSError) -> None:
        self._stream, self._error = stream, error

    def __enter__(self) -> _FullStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, data: bytes) -> int:
        self._stream.write(data[: len(data) // 2])
        raise self._error


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_place_that_cannot_be_written_is_file_trouble_with_a_remedy(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> str:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("sdk.bundle.tempfile.mkdtemp", refused)
    with pytest.raises(FileTroubleError, match="choose another folder"), BundleWriter(tmp_path / "b", MODEL):
        pytest.fail("entered")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_file_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileTroubleError, match="is a file, not a folder"), BundleWriter(tmp_path / "file/b", MODEL):
        pytest.fail("entered")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_system_that_takes_no_folders_is_file_trouble() -> None:
    with pytest.raises(FileTroubleError, match="could not write the bundle"), BundleWriter("/proc/b", MODEL):
        pytest.fail("entered")


def test_a_bundle_changed_by_somebody_else_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "b")
    with pytest.raises(FileTroubleError, match="changed by somebody else"):  # noqa: PT012, SIM117
        with BundleWriter(tmp_path / "b", MODEL) as slow:
            slow.add(put(slow.folder, "slow.onnx", b"x"))
            with BundleWriter(tmp_path / "b", MODEL) as fast:
                fast.add(put(fast.folder, "fast.onnx", b"x"))
    assert [artifact.file for artifact in Bundle.open(tmp_path / "b").artifacts] == ["a.onnx", "fast.onnx"]


def test_an_older_artifact_that_rotted_is_noticed_instead_of_carried_over(tmp_path: Path) -> None:
    make(tmp_path / "b", {"a.onnx": b"1", "b.onnx": b"2"})
    (tmp_path / "b" / "b.onnx").write_bytes(b"3")
    with pytest.raises(UsageError, match=r"b\.onnx.*SHA-256"), BundleWriter(tmp_path / "b", MODEL) as writer:
        writer.add(put(writer.folder, "a.onnx", b"new"))
    assert (tmp_path / "b" / "a.onnx").read_bytes() == b"1"


KILLED = """
    import os, signal
    from pathlib import Path
    from sdk.bundle import BundleWriter, ModelInfo, read_manifest
    folder = Path({folder!r})
    rename = Path.rename
    def killing_rename(self, target):
        if self.name.startswith(".b.work-"):
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    with BundleWriter(folder, read_manifest(folder).model) as writer:
        (writer.folder / "half.onnx").write_bytes(b"half")
        if {between}:
            Path.rename = killing_rename
        else:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("between", [False, True])
def test_a_killed_export_costs_nothing_that_was_there(between: bool, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    before = tree(make(folder).folder)
    script = textwrap.dedent(KILLED.format(folder=str(folder), between=between))
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    if not between:
        assert tree(folder) == before
    with BundleWriter(folder, MODEL, toonedge="0.1.0") as writer:
        writer.add(put(writer.folder, "c.onnx", b"third"))
    bundle = Bundle.open(folder)
    bundle.check()
    assert [artifact.file for artifact in bundle.artifacts] == ["a.onnx", "c.onnx"]
    litter = [path for path in tmp_path.iterdir() if path != folder]
    assert all(path.name.startswith(".b.work-") for path in litter)
    for path in litter:  # of a process that might still live; a day later it is taken for dead
        os.utime(path, (0, 0))
    with BundleWriter(folder, MODEL):
        pass
    assert list(tmp_path.iterdir()) == [folder]
