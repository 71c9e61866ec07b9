"""Verify: the table of gates, and planted faults in real artifacts that it must catch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from sdk.bundle import (
    Artifact,
    Bundle,
    BundleWriter,
    ModelInfo,
    Reference,
    hash_path,
    size_of,
    write_manifest,
)
from sdk.errors import ExitCode, FileTroubleError, MissingRuntimeError, UsageError
from sdk.metrics import ssim
from sdk.report import gates_markdown_text, report_text
from sdk.runtimes import RUNTIMES
from sdk.runtimes.base import Availability
from sdk.spec import Backend, DType, IOSpec, Kind, Layout, Precision, Target, image_spec, style_spec
from sdk.verify import (
    GATES,
    Gate,
    Outcome,
    Report,
    Spread,
    StyleFigures,
    gate_for,
    gate_of,
    load_photos,
    shortfalls,
    verify,
)

STYLES = ("comic", "pencil")
#: Style to gain per channel: the network draws ``image * gain``.
GAINS = np.array([[1.0, 0.6, 0.2], [0.4, 0.8, 1.0]], np.float32)
SIZE = (32, 48)


@dataclass(frozen=True)
class Net:
    """The network as one artifact has it: its gains, channel order, and the step its output is rounded to."""

    gains: np.ndarray
    bias: float = 0.0
    channels: tuple[int, int, int] = (0, 1, 2)
    step: float = 0.0
    scale: float = 1.0


def write_onnx(path: Path, net: Net, *, style: str | None, fixed: bool = True) -> IOSpec:
    onnx = pytest.importorskip("onnx", reason="needs the extra dev")
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    height, width = SIZE if fixed else (None, None)
    kind, shape = onnx.TensorProto.FLOAT, [1 if fixed else "n", 3, height or "h", width or "w"]
    inputs = [helper.make_tensor_value_info("image", kind, shape)]
    constants = [constant(np.array(net.channels), "order"), constant(np.float32(net.bias), "bias")]
    nodes = [helper.make_node("Gather", ["image", "order"], ["ordered"], axis=1)]
    if style is None:
        inputs.append(helper.make_tensor_value_info("style", kind, [1, len(STYLES)]))
        constants += [constant(net.gains, "gains"), constant(np.array([1, 3, 1, 1]), "grid")]
        nodes.append(helper.make_node("MatMul", ["style", "gains"], ["row"]))
        nodes.append(helper.make_node("Reshape", ["row", "grid"], ["gain"]))
    else:
        constants.append(constant(net.gains[STYLES.index(style)].reshape(1, 3, 1, 1), "gain"))
    nodes.append(helper.make_node("Mul", ["ordered", "gain"], ["scaled"]))
    nodes.append(helper.make_node("Add", ["scaled", "bias"], ["drawn" if net.step or net.scale != 1 else "cartoon"]))
    if net.step or net.scale != 1:
        constants += [constant(np.float32(net.step or 1), "step"), constant(np.float32(net.scale), "scale")]
        nodes.append(helper.make_node("Mul", ["drawn", "scale"], ["rescaled" if net.step else "cartoon"]))
    if net.step:
        nodes.append(helper.make_node("Div", ["rescaled", "step"], ["steps"]))
        nodes.append(helper.make_node("Round", ["steps"], ["whole"]))
        nodes.append(helper.make_node("Mul", ["whole", "step"], ["cartoon"]))
    outputs = [helper.make_tensor_value_info("cartoon", kind, shape)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    batch = 1 if fixed else None
    return IOSpec(
        image=image_spec("image", Layout.NCHW, DType.FLOAT32, height, width, batch=batch),
        output=image_spec("cartoon", Layout.NCHW, DType.FLOAT32, height, width, batch=batch),
        style=style_spec("style", len(STYLES)) if style is None else None,
    )


def write_bundle(folder: Path, artifacts: dict[str, tuple[Net, dict[str, Any]]]) -> Bundle:
    """A bundle whose reference is the true network and whose artifacts are the given ones."""
    model = ModelInfo(
        name="net", version="1", checkpoint_sha256="a" * 64, styles=STYLES, params=6, macs=3, macs_size=SIZE,
        licence="Apache-2.0", author="nobody",
    )  # fmt: skip
    with BundleWriter(folder, model, toonedge="0.1.0") as writer:
        path = writer.folder / "reference.onnx"
        io = write_onnx(path, Net(GAINS), style=None, fixed=False)
        writer.set_reference(Reference(file=path.name, sha256=hash_path(path), bytes=size_of(path), io=io))
        for file, (net, changes) in artifacts.items():
            path = writer.folder / file
            style = changes.get("style")
            io = write_onnx(path, net, style=style)
            fields: dict[str, Any] = {
                "target": Target.ONNX, "backend": Backend.ORT, "precision": Precision.FP32, "style": None,
            }  # fmt: skip
            fields |= changes
            writer.add(Artifact(file=file, size=SIZE, bytes=size_of(path), sha256=hash_path(path), io=io, **fields))
    return Bundle.open(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three colourful photos of different shapes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, (height, width) in enumerate([(80, 120), (100, 90), (64, 64)]):
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x / (5 + index)), np.cos(y / (7 - index)), np.sin((x + 2 * y) / 11)]
        picture = np.stack([127 + 120 * wave for wave in waves], axis=-1).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"photo{index}.png")
    return folder


def only(report: Report) -> Any:
    assert len(report.results) == 1
    return report.results[0]


# --- the table -------------------------------------------------------------------------------------------------------


def artifact(precision: Precision, style: str | None = None, layout: Layout = Layout.NCHW) -> Artifact:
    dtype = DType.UINT8 if layout is Layout.IMAGE else DType.FLOAT32
    io = IOSpec(
        image=image_spec("image", layout, dtype, 32, 32),
        output=image_spec("cartoon", layout, dtype, 32, 32),
        style=None if style else style_spec("style", 2),
    )
    return Artifact(
        file="a", target=Target.ONNX, backend=Backend.ORT, precision=precision, style=style, size=(32, 32), bytes=1,
        sha256="a" * 64, io=io,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "gate"),
    [
        (artifact(Precision.FP32), Gate(max_abs=1e-3)),
        (artifact(Precision.FP32, "comic"), Gate(max_abs=1e-3)),
        (artifact(Precision.FP32, layout=Layout.IMAGE), Gate(max_abs=1e-3 + 1 / 255)),
        (artifact(Precision.FP16), Gate(ssim_worst=0.999)),
        (artifact(Precision.FP16, "pencil", Layout.IMAGE), Gate(ssim_worst=0.999)),
        (artifact(Precision.INT8), Gate(ssim_mean=0.98, ssim_worst=0.94, psnr_mean=36.0)),
        (artifact(Precision.INT8, "comic"), Gate(ssim_mean=0.99, ssim_worst=0.975, psnr_mean=36.0)),
        (artifact(Precision.INT8, "pencil"), Gate(ssim_mean=0.99, ssim_worst=0.975, psnr_mean=36.0)),
    ],
)
def test_every_kind_of_artifact_has_the_gate_it_was_promised(one: Artifact, gate: Gate) -> None:
    assert gate_of(one) == gate


def test_the_documented_gates_are_the_ones_in_force() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "verification.md").read_text()
    assert gates_markdown_text() in page


def test_no_row_of_the_table_lets_everything_through() -> None:
    assert all(row.gate != Gate() for row in GATES)


def figures(style: str = "comic", **changes: Any) -> StyleFigures:
    values: dict[str, Any] = {
        "images": 3, "max_abs": 1e-4, "psnr_db": Spread(mean=60, worst=50), "ssim": Spread(mean=0.99, worst=0.98),
        "worst_photo": "dark.jpg",
    }  # fmt: skip
    return StyleFigures(style=style, **{**values, **changes})


def test_a_gate_is_met_at_its_threshold_and_missed_just_beyond() -> None:
    gate = Gate(max_abs=1e-3, ssim_mean=0.955, ssim_worst=0.87, psnr_mean=36.0)
    good = figures(max_abs=1e-3, ssim=Spread(mean=0.955, worst=0.87), psnr_db=Spread(mean=36.0, worst=20.0))
    assert shortfalls(gate, [good]) == []
    assert shortfalls(gate, [replace(good, max_abs=1.01e-3)]) == ["comic: max-abs 0.00101 > 0.001"]
    assert shortfalls(gate, [replace(good, ssim=Spread(mean=0.9549, worst=0.9))]) == ["comic: SSIM mean 0.9549 < 0.955"]
    assert shortfalls(gate, [replace(good, ssim=Spread(mean=0.99, worst=0.8699))]) == [
        "comic: SSIM worst 0.8699 < 0.87 (dark.jpg)"
    ]
    assert shortfalls(gate, [replace(good, psnr_db=Spread(mean=35.99, worst=35.0))]) == [
        "comic: PSNR mean 35.99 dB < 36 dB"
    ]


def test_one_bad_style_is_not_hidden_by_good_ones() -> None:
    gate = Gate(ssim_mean=0.955)
    styles = [figures("comic"), figures("pencil", ssim=Spread(mean=0.9, worst=0.9)), figures("anime")]
    assert [clause.split(":")[0] for clause in shortfalls(gate, styles)] == ["pencil"]


def test_what_is_not_a_number_misses_every_gate() -> None:
    nothing = Spread(mean=math.nan, worst=math.nan)
    nan = figures(max_abs=math.nan, ssim=nothing, psnr_db=nothing)
    assert len(shortfalls(Gate(max_abs=1e-3, ssim_mean=0.5, ssim_worst=0.5, psnr_mean=1.0), [nan])) == 4


# --- planted faults --------------------------------------------------------------------------------------------------


def test_true_artifacts_pass_and_the_figures_are_there(tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(
        tmp_path / "b",
        {
            "comic.onnx": (Net(GAINS), {"style": "comic"}),
            "multi.onnx": (Net(GAINS), {}),
            "multi8.onnx": (Net(GAINS, step=1 / 100), {"precision": Precision.INT8}),
        },
    )
    seen: list[str] = []
    report = verify(bundle, images=images, threads=1, progress=lambda verdict: seen.append(verdict.file))
    assert [verdict.verdict for verdict in report.results] == [Outcome.PASS] * 3
    assert report.exit_code is ExitCode.OK
    assert report.ok
    assert seen == ["comic.onnx", "multi.onnx", "multi8.onnx"]
    assert report.photos == ("photo0.png", "photo1.png", "photo2.png")
    comic, multi, quantized = report.results
    assert [style.style for style in comic.styles] == ["comic"]
    assert [style.style for style in multi.styles] == list(STYLES)
    assert comic.max_abs is not None
    assert comic.max_abs < 1e-6
    assert comic.images == 3
    assert quantized.max_abs == pytest.approx(0.5 / 100, rel=0.05)
    assert quantized.ssim is not None
    assert 0.98 < quantized.ssim.worst < 1
    assert quantized.ssim.worst == min(style.ssim.worst for style in quantized.styles)
    assert quantized.latency_ms is not None
    assert quantized.latency_ms.n == 3  # 2 styles x 3 photos, less the 3 that warm up
    assert quantized.latency_ms.threads == 1
    assert quantized.load_ms is not None
    assert quantized.peak_rss_bytes is not None
    assert quantized.gates == gate_for(Precision.INT8, None)


FAULTS: dict[str, tuple[Net, dict[str, Any], str]] = {
    "swapped channels": (Net(GAINS, channels=(2, 1, 0)), {}, "comic: max-abs"),
    "swapped channels in int8": (Net(GAINS, channels=(2, 1, 0)), {"precision": Precision.INT8}, "comic: SSIM"),
    "swapped channels in fp16": (Net(GAINS, channels=(2, 1, 0)), {"precision": Precision.FP16}, "comic: SSIM worst"),
    "style rows swapped": (Net(GAINS[::-1].copy()), {}, "pencil: max-abs"),
    "one style row wrong": (Net(np.stack([GAINS[0], GAINS[0]])), {}, "pencil: max-abs"),
    "another style baked than said": (Net(GAINS[::-1].copy()), {"style": "comic"}, "comic: max-abs"),
    "another style baked, int8": (
        Net(GAINS[::-1].copy()),
        {"style": "comic", "precision": Precision.INT8},
        "comic: SSIM",
    ),
    "an artifact of another checkpoint": (Net(GAINS * np.float32(1.01)), {}, "max-abs"),
    "a bias of 2 thousandths": (Net(GAINS, bias=2e-3), {}, "max-abs"),
    "too few steps": (Net(GAINS, step=1 / 8), {"precision": Precision.INT8}, "SSIM"),
    "a wrong scale": (Net(GAINS, scale=0.5), {"precision": Precision.INT8}, "SSIM"),
    "values in 0..255": (Net(GAINS, scale=255.0), {"precision": Precision.INT8}, "SSIM"),
    "not finite": (Net(GAINS * np.float32(np.inf)), {}, "comic: max-abs nan"),
    "not finite in int8": (Net(GAINS * np.float32(np.nan)), {"precision": Precision.INT8}, "comic: SSIM mean nan"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_its_artifact_and_no_other(fault: str, tmp_path: Path, images: Path) -> None:
    net, changes, words = FAULTS[fault]
    bundle = write_bundle(tmp_path / "b", {"bad.onnx": (net, changes), "good.onnx": (Net(GAINS), {})})
    report = verify(bundle, images=images)
    bad, good = report.results
    assert bad.verdict is Outcome.FAIL
    assert words in bad.reason
    assert good.verdict is Outcome.PASS
    assert report.exit_code is ExitCode.GATE_FAILED
    assert report.failed("bad.onnx")
    assert not report.failed("good.onnx")
    json.loads(report_text(report))  # strict JSON, whatever the figures were


def test_only_the_style_whose_row_is_wrong_is_blamed(tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"bad.onnx": (Net(np.stack([GAINS[0], GAINS[0]])), {})})
    verdict = only(verify(bundle, images=images))
    assert "comic" not in verdict.reason
    assert verdict.styles[0].max_abs < 1e-6 < verdict.styles[1].max_abs


def test_an_altered_file_is_not_loaded_fails_and_is_exit_2(tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {}), "b.onnx": (Net(GAINS), {})})
    path = bundle.folder / "a.onnx"
    # Planted: the file still runs and draws the same, but it is not the file that was proven.
    path.write_bytes(path.read_bytes() + b"\x82\x01\x04evil")
    altered, good = verify(bundle, images=images).results
    assert (altered.verdict, altered.altered, altered.styles) == (Outcome.FAIL, True, ())
    assert "it was changed" in altered.reason
    assert good.verdict is Outcome.PASS
    report = verify(bundle, images=images)
    assert report.exit_code is ExitCode.USAGE


def test_an_altered_reference_stops_everything(tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {})})
    write_onnx(bundle.folder / "reference.onnx", Net(GAINS * 2), style=None, fixed=False)
    with pytest.raises(UsageError, match=r"reference\.onnx.*it was changed"):
        verify(bundle, images=images)


def test_an_artifact_of_another_checkpoint_with_a_matching_hash_is_still_caught(tmp_path: Path, images: Path) -> None:
    mine = write_bundle(tmp_path / "mine", {"a.onnx": (Net(GAINS), {})})
    other = write_bundle(tmp_path / "other", {"a.onnx": (Net(GAINS * np.float32(0.97)), {})})
    (mine.folder / "a.onnx").write_bytes((other.folder / "a.onnx").read_bytes())
    write_manifest(mine.folder, replace(mine.manifest, artifacts=other.manifest.artifacts))
    assert only(verify(mine.folder, images=images)).verdict is Outcome.FAIL


def test_a_reference_that_does_not_run_or_is_not_finite_is_one_sentence(tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {})})

    def swap(content: Callable[[Path], object]) -> Bundle:
        path = bundle.folder / "reference.onnx"
        content(path)
        reference = replace(bundle.manifest.reference, sha256=hash_path(path), bytes=size_of(path))
        return Bundle(bundle.folder, replace(bundle.manifest, reference=reference))

    with pytest.raises(UsageError, match=r"'reference\.onnx' does not run at 32x48 \(ONNX Runtime cannot load"):
        verify(swap(lambda path: path.write_bytes(b"broken")), images=images)
    with pytest.raises(UsageError, match="not finite in the style 'comic'"):
        verify(swap(lambda path: write_onnx(path, Net(GAINS * np.nan), style=None, fixed=False)), images=images)


# --- runtimes --------------------------------------------------------------------------------------------------------

FAULTY = """
import ctypes, os, time
from sdk.errors import MissingRuntimeError
from sdk.runtimes.ort import OnnxRuntime

class Crashing(OnnxRuntime):
    name = "onnxruntime"
    def load(self, path, io, *, threads=1):
        if "crash" in path.name: ctypes.string_at(0)
        if "hang" in path.name: time.sleep(600)
        if "fancy" in path.name: raise MissingRuntimeError("operator 'fancy' is unknown here")
        return super().load(path, io, threads=threads)
"""


@pytest.mark.slow
def test_a_crash_and_a_hang_are_verdicts_and_the_others_still_run(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a.onnx", "crash.onnx", "fancy.onnx", "hang.onnx", "z.onnx")
    bundle = write_bundle(tmp_path / "b", {name: (Net(GAINS), {"style": "comic"}) for name in names})
    (tmp_path / "crashing_runtime.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RUNTIMES, "onnxruntime", "crashing_runtime:Crashing")
    first, crashed, unknown, hung, last = verify(bundle, images=images, time_limit_s=20).results
    assert (first.verdict, last.verdict) == (Outcome.PASS, Outcome.PASS)
    assert (crashed.verdict, hung.verdict) == (Outcome.FAIL, Outcome.FAIL)
    assert "signal SIGSEGV" in crashed.reason
    assert "no answer within 20 s" in hung.reason
    # An operator that this host's runtime does not know says nothing about the artifact.
    assert (unknown.verdict, unknown.reason) == (Outcome.NOT_RUNNABLE, "operator 'fancy' is unknown here")


class Elsewhere:
    """A runtime this host cannot have."""

    name: ClassVar[str] = "elsewhere"
    kind: ClassVar[Kind] = Kind.HOST
    targets: ClassVar[frozenset[Target]] = frozenset({Target.ONNX, Target.TFLITE})
    extra: ClassVar[str] = "onnx"

    def available(self) -> Availability:
        return Availability(ok=False, reason="it runs on the moon", by_host=True)


class NotInstalled(Elsewhere):
    name: ClassVar[str] = "notinstalled"

    def available(self) -> Availability:
        return Availability(ok=False, reason="the package 'x' is not installed")


class OnnxReference:
    """ONNX Runtime posing as a reference executor."""

    name: ClassVar[str] = "posing"
    kind: ClassVar[Kind] = Kind.REFERENCE
    targets: ClassVar[frozenset[Target]] = frozenset({Target.ONNX})
    extra: ClassVar[str] = "onnx"

    def __init__(self) -> None:
        from sdk.runtimes.ort import OnnxRuntime

        self.available, self.load = OnnxRuntime().available, OnnxRuntime().load


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The table of runtimes with this module's own ones added; workers find them in a copy of this file."""
    before = dict(RUNTIMES)
    (tmp_path / "test_runtimes_of_verify.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    for name, made in (("elsewhere", "Elsewhere"), ("notinstalled", "NotInstalled"), ("posing", "OnnxReference")):
        RUNTIMES[name] = f"test_runtimes_of_verify:{made}"
    yield RUNTIMES
    RUNTIMES.clear()
    RUNTIMES.update(before)


def test_a_runtime_the_host_cannot_have_is_left_out_aloud_when_another_serves(
    table: dict[str, str], tmp_path: Path, images: Path
) -> None:
    table.pop("posing")
    table.pop("notinstalled")
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    report = verify(bundle, images=images)
    assert only(report).verdict is Outcome.PASS
    assert [(left.runtime, left.reason) for left in report.left_out] == [("elsewhere", "it runs on the moon")]
    assert report.ok


def test_what_nothing_here_can_run_is_not_runnable_and_no_failure(
    table: dict[str, str], tmp_path: Path, images: Path
) -> None:
    table.pop("posing")
    table["litert"] = table.pop("notinstalled").replace("NotInstalled", "Elsewhere")
    table.pop("elsewhere")
    bundle = write_bundle(
        tmp_path / "b",
        {
            "a.onnx": (Net(GAINS), {"style": "comic"}),
            "b.tflite": (Net(GAINS), {"style": "comic", "target": Target.TFLITE, "backend": Backend.LITERT}),
        },
    )
    report = verify(bundle, images=images)
    there, moon = report.verdicts("a.onnx")[0], report.verdicts("b.tflite")[0]
    assert there.verdict is Outcome.PASS
    assert (moon.verdict, moon.reason) == (Outcome.NOT_RUNNABLE, "it runs on the moon")
    assert report.exit_code is ExitCode.OK
    nothing = verify(bundle, images=images, artifacts=["b.tflite"])
    assert nothing.exit_code is ExitCode.MISSING_RUNTIME
    assert not nothing.ok


def test_a_runtime_asked_for_by_name_must_be_there(table: dict[str, str], tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    with pytest.raises(MissingRuntimeError, match=r"notinstalled.*is not installed.*toonedge"):
        verify(bundle, images=images, runtimes=["notinstalled"])
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        verify(bundle, images=images, runtimes=["onnxruntim"])


def test_a_reference_executor_is_judged_but_gets_no_latency(
    table: dict[str, str], tmp_path: Path, images: Path
) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    verdict = only(verify(bundle, images=images, runtimes=["posing"]))
    assert (verdict.verdict, verdict.kind) == (Outcome.PASS, Kind.REFERENCE)
    assert (verdict.latency_ms, verdict.load_ms) == (None, None)


IMAGES = '''
import numpy as np
from sdk.runtimes.ort import OnnxRuntime
from sdk.runtimes.base import Session
from sdk.spec import DType, IOSpec, Kind, Layout, Target, image_spec

class Rounding(Session):
    """Runs the float network behind an 8-bit border, as Core ML does; ``off`` levels too bright."""
    def __init__(self, inner, io, off):
        super().__init__(io)
        self.inner, self.off = inner, off
    def _execute(self, image, style):
        drawn = self.inner.stylize(image.astype(np.float32) / 255)
        return np.clip(np.rint(drawn * 255) + self.off, 0, 255).astype(np.uint8)

class Images(OnnxRuntime):
    name, kind, targets = "mil", Kind.REFERENCE, frozenset({Target.COREML})
    def load(self, path, io, *, threads=1):
        assert threads == 1
        floats = IOSpec(
            image=image_spec("image", Layout.NCHW, DType.FLOAT32, *io.image.shape[1:3]),
            output=image_spec("cartoon", Layout.NCHW, DType.FLOAT32, *io.output.shape[1:3]),
        )
        return Rounding(super().load(path, floats), io, 3 if "off" in path.name else 0)
'''


def test_an_8_bit_image_output_is_not_blamed_for_its_own_rounding_but_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dark"
    folder.mkdir()
    rng = np.random.default_rng(0)
    # Dark and nearly flat: here rounding to 8 bits alone costs more SSIM than the gate of fp16 allows.
    Image.fromarray(rng.integers(1, 4, (*SIZE, 3)).astype(np.uint8)).save(folder / "night.png")
    dark = load_photos([folder / "night.png"], SIZE)[0] * GAINS[0]
    assert ssim(np.rint(dark * 255) / 255, dark) < 0.999
    (tmp_path / "image_runtime.py").write_text(IMAGES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RUNTIMES, "mil", "image_runtime:Images")
    changes = {"style": "comic", "target": Target.COREML, "backend": Backend.MLPROGRAM}
    files = {
        "a32": (Net(GAINS), changes),
        "b16": (Net(GAINS), {**changes, "precision": Precision.FP16}),
        "c32off": (Net(GAINS), changes),
        "d16off": (Net(GAINS), {**changes, "precision": Precision.FP16}),
    }
    bundle = write_bundle(tmp_path / "b", files)
    io = IOSpec(
        image=image_spec("image", Layout.IMAGE, DType.UINT8, *SIZE),
        output=image_spec("cartoon", Layout.IMAGE, DType.UINT8, *SIZE),
    )
    artifacts = tuple(replace(one, io=io) for one in bundle.artifacts)
    results = verify(
        Bundle(bundle.folder, replace(bundle.manifest, artifacts=artifacts)), images=folder, runtimes=["mil"]
    ).results
    fp32, fp16, fp32_off, fp16_off = results
    assert (fp32.verdict, fp16.verdict) == (Outcome.PASS, Outcome.PASS)
    assert fp16.ssim is not None
    assert fp16.ssim.worst == pytest.approx(1.0)
    assert fp32.max_abs == pytest.approx(0.4 / 255, rel=0.1)  # the rounding shows in max-abs: 0.2 * 2 = 0.4 levels
    assert (fp32_off.verdict, fp16_off.verdict) == (Outcome.FAIL, Outcome.FAIL)


# --- what it is given ------------------------------------------------------------------------------------------------


def test_photos_are_cropped_to_the_artifacts_shape_and_are_8_bit(images: Path) -> None:
    loaded = load_photos(sorted(images.iterdir()), SIZE)
    assert loaded.shape == (3, *SIZE, 3)
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded * 255, np.rint(loaded * 255), atol=1e-4)


def test_photos_are_found_in_the_bundle_when_the_repository_is_not_there(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdk.bundle import ReferencePicture

    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    monkeypatch.setattr("sdk.verify.__file__", str(tmp_path / "elsewhere" / "sdk" / "verify.py"))
    with pytest.raises(UsageError, match="name a folder with --images"):
        verify(bundle)
    photo = bundle.folder / "photo.png"
    photo.write_bytes((images / "photo0.png").read_bytes())
    digest = hash_path(photo)
    picture = ReferencePicture(
        photo="photo.png", photo_sha256=digest, style="comic", result="photo.png", result_sha256=digest
    )
    manifest = replace(bundle.manifest, reference=replace(bundle.manifest.reference, pictures=(picture,)))
    assert verify(Bundle(bundle.folder, manifest)).photos == ("photo.png",)
    photo.write_bytes((images / "photo1.png").read_bytes())
    with pytest.raises(UsageError, match=r"photo\.png.*it was changed"):
        verify(Bundle(bundle.folder, manifest))


def test_the_repositorys_own_test_photos_are_the_default(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    ours = Path(__file__).resolve().parents[3] / "edge_tests" / "photos" / "test"
    report = verify(bundle)
    assert set(report.photos) == {photo.name for photo in ours.iterdir()}


def test_bad_input_is_one_sentence(tmp_path: Path, images: Path) -> None:
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    empty = write_bundle(tmp_path / "empty", {})
    (tmp_path / "none").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photo")
    for call, words in (
        (lambda: verify(tmp_path / "nowhere"), "does not exist"),
        (lambda: verify(bundle, images=tmp_path / "none"), "holds no picture"),
        (lambda: verify(bundle, images=[]), "no photos were given"),
        (lambda: verify(bundle, images=[tmp_path / "broken.jpg"]), r"broken\.jpg"),
        (lambda: verify(bundle, images=images, threads=0), "threads is 0"),
        (lambda: verify(bundle, images=images, artifacts=["b.onnx"]), "did you mean 'a.onnx'"),
        (lambda: verify(bundle, images=images, runtimes=["litert"]), "no artifact here is served by .*litert"),
        (lambda: verify(empty, images=images), "has no artifacts"),
    ):
        with pytest.raises(UsageError, match=words):
            call()


def test_no_room_for_the_temporary_pictures_is_file_trouble(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"})})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sdk.verify.np.save", full)
    with pytest.raises(FileTroubleError, match="the disk is full"):
        verify(bundle, images=images)


def test_a_scratch_folder_keeps_the_float_models_pictures_and_never_serves_stale_ones(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdk.worker import Worker

    drawn: list[str] = []
    produce = Worker.produce

    def counted(self: Worker, photos: Path, weights: list[float] | None, out: Path) -> None:
        drawn.append(str(weights))
        produce(self, photos, weights, out)

    monkeypatch.setattr(Worker, "produce", counted)
    bundle = write_bundle(tmp_path / "b", {"a.onnx": (Net(GAINS), {"style": "comic"}), "m.onnx": (Net(GAINS), {})})
    first = verify(bundle, images=images, artifacts=["a.onnx"], scratch=tmp_path / "scratch")
    assert len(drawn) == 1  # only the style that is needed
    second = verify(bundle, images=images, artifacts=["m.onnx"], scratch=tmp_path / "scratch")
    assert len(drawn) == 2
    again = verify(bundle, images=images, scratch=tmp_path / "scratch")
    assert len(drawn) == 2
    assert first.ok
    assert second.ok
    assert again.ok
    verify(bundle, images=[images / "photo1.png"], artifacts=["a.onnx"], scratch=tmp_path / "scratch")
    assert len(drawn) == 3  # other photos
    other = write_bundle(tmp_path / "other", {"a.onnx": (Net(GAINS), {"style": "comic"})})
    path = other.folder / "reference.onnx"
    write_onnx(path, Net(GAINS * np.float32(0.5)), style=None, fixed=False)
    reference = replace(other.manifest.reference, sha256=hash_path(path), bytes=size_of(path))
    changed = Bundle(other.folder, replace(other.manifest, reference=reference))
    assert only(verify(changed, images=images, scratch=tmp_path / "scratch")).verdict is Outcome.FAIL
    assert len(drawn) == 4  # another float model
    assert not list((tmp_path / "scratch").rglob(".*"))
