"""The MIL reference executor's border and its answers to bad input: one sentence each, the right exit code."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the extra mil")
ct = pytest.importorskip("coremltools", reason="needs the extra mil")

import torch  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.proto import Model_pb2  # noqa: E402

from sdk.errors import ExitCode, MissingRuntimeError, ToonEdgeError, UsageError  # noqa: E402
from sdk.runtimes import mil  # noqa: E402
from sdk.runtimes.mil.features import Color, Feature  # noqa: E402
from sdk.runtimes.mil.rounding import round_to  # noqa: E402

MODEL = Path("Data", "com.apple.CoreML", "model.mlmodel")
WEIGHTS = Path("Data", "com.apple.CoreML", "weights", "weight.bin")


@pytest.fixture(scope="module", autouse=True)
def _frozen_garbage() -> Iterator[None]:
    """ct.convert calls gc.collect(), which takes seconds beside torch unless everything older is set aside."""
    gc.freeze()
    yield
    gc.unfreeze()


def save(path: Path, build: Callable[..., Any], *shape: int, dtype: Any = types.fp32) -> Path:
    """A one-input program as a package."""
    program = mb.program(input_specs=[mb.TensorSpec(shape, dtype=dtype)], opset_version=ct.target.iOS17)(build)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS17,
        pass_pipeline=ct.PassPipeline.EMPTY,
    )
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution of 1 x 3 x 6 x 6 with 8 filters: its weights lie in the weight file."""
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    folder = tmp_path_factory.mktemp("good")
    return save(folder / "good.mlpackage", lambda x: mb.conv(x=x, weight=weight, pad_type="valid"), 1, 3, 6, 6)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy.mlpackage"))


def refused(path: Path, match: str, kind: type[ToonEdgeError] = UsageError) -> ToonEdgeError:
    """Loads, expects the error, and checks that it is one sentence."""
    with pytest.raises(kind, match=match) as caught:
        mil.load(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return caught.value


# --- damaged packages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9])
def test_a_cut_weight_file_is_refused(copy: Path, kept: float) -> None:
    blob = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(blob[: int(len(blob) * kept) if isinstance(kept, float) else kept])
    assert refused(copy, "the program or the weights of .* cannot be read").exit_code is ExitCode.USAGE


def test_a_missing_weight_file_is_refused(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    refused(copy, "the program or the weights of .* cannot be read")


def test_a_weight_file_of_noise_is_refused(copy: Path) -> None:
    size = (copy / WEIGHTS).stat().st_size
    (copy / WEIGHTS).write_bytes(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes())
    refused(copy, "the program or the weights of .* cannot be read")


def test_a_package_without_its_manifest_is_refused(copy: Path) -> None:
    (copy / "Manifest.json").unlink()
    refused(copy, "has no Manifest.json, so it is not a whole .mlpackage")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"itemInfoEntries": {}, "rootModelIdentifier": "a"}'])
def test_a_broken_manifest_is_refused(copy: Path, text: str) -> None:
    (copy / "Manifest.json").write_text(text)
    refused(copy, "does not name a root model")


def test_a_manifest_that_points_outside_of_the_package_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "Manifest.json").read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["path"] = "../../elsewhere.mlmodel"
    (copy / "Manifest.json").write_text(json.dumps(manifest))
    (copy.parent / "elsewhere.mlmodel").write_bytes(b"")
    refused(copy, "names a model outside of the package")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.95])
def test_a_cut_model_description_is_refused(copy: Path, kept: float) -> None:
    blob = (copy / MODEL).read_bytes()
    (copy / MODEL).write_bytes(blob[: int(len(blob) * kept)])
    refused(copy, "cut short|type nothing|cannot be read|does not have")


def test_a_missing_model_description_is_refused(copy: Path) -> None:
    (copy / MODEL).unlink()
    refused(copy, "has no Data/com.apple.CoreML/model.mlmodel, which its manifest names")


def test_a_neural_network_is_refused_by_its_type(copy: Path) -> None:
    spec = Model_pb2.Model()
    spec.specificationVersion = 4
    spec.neuralNetwork.SetInParent()
    (copy / MODEL).write_bytes(spec.SerializeToString())
    refused(copy, "a model of the type neuralNetwork: only mlProgram can be executed")


def test_a_program_of_a_newer_coremltools_is_refused(copy: Path) -> None:
    spec = Model_pb2.Model()
    spec.ParseFromString((copy / MODEL).read_bytes())
    spec.specificationVersion = 99
    (copy / MODEL).write_bytes(spec.SerializeToString())
    refused(copy, "cannot be read")


def test_a_path_that_is_no_package_is_refused(good: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none.mlpackage", "does not exist")
    refused(good / MODEL, "is a file, but an .mlpackage is a folder")


def test_an_unknown_function_is_refused_with_the_known_ones(good: Path) -> None:
    with pytest.raises(UsageError, match="unknown function 'mian': did you mean 'main'"):
        mil.load(good, function="mian")


# --- operators and values ---------------------------------------------------------------------------------------------


def test_unknown_operators_are_named_all_at_once_and_count_as_not_runnable(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        values, _ = mb.topk(x=x, k=2, axis=1)
        return mb.band_part(x=values)

    path = save(tmp_path / "unknown.mlpackage", build, 4, 5)
    error = refused(path, "uses the operators topk, band_part, which", MissingRuntimeError)
    assert isinstance(error, mil.UnsupportedOperatorError)
    assert error.operators == ("topk", "band_part")
    assert error.exit_code is ExitCode.MISSING_RUNTIME


def test_a_value_beyond_its_integer_type_is_an_error_that_names_the_operator(tmp_path: Path) -> None:
    path = save(
        tmp_path / "narrow.mlpackage",
        lambda x: mb.cast(x=mb.cast(x=x, dtype="int8", name="narrow"), dtype="int32"),
        4,
    )
    model = mil.load(path)
    np.testing.assert_array_equal(model.predict({"x": [-128.9, 127.9, 0.5, -0.5]})["cast_0"], [-128, 127, 0, 0])
    with pytest.raises(mil.RangeError, match=r"cast \('narrow'\) is out of range: the value 128 does not fit int8"):
        model.predict({"x": [0, 1, 2, 128]})
    with pytest.raises(mil.RangeError, match="the value nan does not fit int8"):
        model.predict({"x": [0, 1, 2, np.nan]})


def test_an_index_outside_of_its_axis_is_an_error_that_names_the_operator(tmp_path: Path) -> None:
    table = np.arange(4, dtype=np.float32)
    path = save(tmp_path / "gather.mlpackage", lambda x: mb.gather(x=table, indices=x), 2, dtype=types.int32)
    model = mil.load(path)
    np.testing.assert_array_equal(model.predict({"x": np.array([3, 0])})[model.outputs[0].name], [3, 0])
    with pytest.raises(mil.ExecutionError, match=r"the operator gather .* cannot be computed"):
        model.predict({"x": np.array([4, 0])})


def test_constants_are_computed_once_and_a_caller_cannot_change_them(tmp_path: Path) -> None:
    base = np.arange(4, dtype=np.float32)
    path = save(tmp_path / "fixed.mlpackage", lambda x: (mb.mul(x=x, y=x), mb.exp(x=mb.add(x=base, y=base))), 4)
    model = mil.load(path)
    name = model.outputs[1].name
    first = model.predict_raw({"x": base})
    first[name][:] = -1
    again = model.predict_raw({"x": base})
    np.testing.assert_allclose(again[name], np.exp(2 * base), rtol=1e-6)


def test_float16_rounds_half_to_even_and_overflows_where_ieee_754_says() -> None:
    values = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11, 65504.0, 65519.9, 65520.0, -7e4, 2.0**-25, 2.0**-24])
    want = [1.0, 1 + 2**-9, 65504.0, 65504.0, np.inf, -np.inf, 0.0, 2.0**-24]
    np.testing.assert_array_equal(round_to(values, "fp16", torch.float32).numpy(), np.array(want, np.float32))


@pytest.mark.parametrize(("declared", "low", "high"), [("int8", -128, 127), ("uint8", 0, 255), ("uint16", 0, 65535)])
def test_integers_are_checked_against_the_declared_type_not_its_carrier(declared: str, low: int, high: int) -> None:
    ends = torch.tensor([low, high], dtype=torch.int64)
    assert round_to(ends, declared, torch.float32).tolist() == [low, high]
    for beyond in (low - 1, high + 1):
        with pytest.raises(mil.RangeError, match=f"does not fit {declared}"):
            round_to(torch.tensor([beyond], dtype=torch.int64), declared, torch.float32)
    with pytest.raises(mil.RangeError, match=r"0\.5 is not a whole number"):
        round_to(torch.tensor([0.5]), declared, torch.float32)


# --- what predict takes -----------------------------------------------------------------------------------------------


def test_inputs_are_checked_by_name_type_and_shape(good: Path) -> None:
    model = mil.load(good)
    x = np.zeros((1, 3, 6, 6), np.float32)
    for inputs, match in (
        ({}, "needs the input 'x', which was not given"),
        ({"x": x, "y": x}, "unknown input 'y'"),
        ({"x": x[0]}, "has the shape 3 x 6 x 6: the model takes 1 x 3 x 6 x 6"),
        ({"x": np.full(x.shape, "a")}, "give an array of real numbers"),
        ({"x": x * 1j}, "give an array of real numbers"),
    ):
        with pytest.raises(UsageError, match=match):
            model.predict(inputs)


def test_images_are_taken_as_arrays_or_pil_images_of_the_right_size_and_type() -> None:
    feature = Feature(name="image", dtype="uint8", shape=(1, 2, 3, 3), color=Color.RGB)
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    want = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    for given in (pixels, pixels[None], Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        np.testing.assert_array_equal(feature.to_program(given), want)
    with pytest.raises(UsageError, match="is float32: give uint8 pixels from 0 to 255"):
        feature.to_program(pixels.astype(np.float32))
    with pytest.raises(UsageError, match="1 x 3 x 2 x 3: the model takes 1 x 2 x 3 x 3"):
        feature.to_program(pixels.transpose(1, 0, 2))


def test_an_image_result_that_is_no_number_becomes_black_and_infinities_the_ends() -> None:
    feature = Feature(name="out", dtype="uint8", shape=(1, 1, 5, 1), color=Color.GRAYSCALE)
    values = np.array([np.nan, np.inf, -np.inf, 0.49, 254.5], np.float32).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(feature.from_program(values).reshape(-1), [0, 255, 0, 0, 255])


def test_enumerated_sizes_are_taken_and_others_refused() -> None:
    feature = Feature(name="x", dtype="float32", shape=(None, None), shapes=((1, 4), (2, 8)), ranges=())
    feature.to_program(np.zeros((2, 8)))
    with pytest.raises(UsageError, match="1 x 8: the model takes 1 x 4 or 2 x 8"):
        feature.to_program(np.zeros((1, 8)))


# --- imports ----------------------------------------------------------------------------------------------------------


def test_importing_the_executor_imports_neither_torch_nor_coremltools() -> None:
    code = "import sys, sdk.runtimes.mil; print([n for n in ('torch', 'coremltools') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_says_nothing_on_stdout_or_stderr(good: Path) -> None:
    code = f"from sdk.runtimes import mil; mil.load({str(good)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("package", ["torch", "coremltools"])
def test_a_missing_package_names_the_extra(good: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingRuntimeError, match=rf"needs the package '{package}'.*pip install 'toonedge\[mil\]'"
    ) as error:
        mil.load(good)
    assert error.value.exit_code is ExitCode.MISSING_RUNTIME
