"""Profiles: each runtime's own record is read, sums and shares by hand, and what says nothing says so."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdk.bundle import Bundle
from sdk.errors import MissingRuntimeError, UsageError
from sdk.latency import summarize
from sdk.profile import OTHER, ArtifactProfile, group, kind_of, profile, summarize_runs
from sdk.report import profile_markdown_text, profile_text
from sdk.report.read import read_json
from sdk.runtimes import RUNTIMES, get_runtime
from sdk.runtimes.base import OperatorRuns, ProfiledRuns, Profiler
from sdk.runtimes.litert_c import _Event, _EventType, _operators
from sdk.runtimes.ort import parse_trace
from sdk.spec import DType, IOSpec, Layout, Precision, Target, image_spec

DESCRIBED = ArtifactProfile(
    file="toy.onnx", target=Target.ONNX, precision=Precision.FP32, style=None, size=(32, 48), runtime="onnxruntime"
)
SEEN = ProfiledRuns(
    run_ms=(10.0, 12.0, 20.0),
    operators=(
        OperatorRuns(name="Conv a", runs_ms=(4.0, 5.0, 6.0), output=(1, 8, 4, 4)),
        OperatorRuns(name="Mul b", runs_ms=(1.0, 2.0, 3.0)),
        OperatorRuns(name="Conv c", runs_ms=(3.0, 1.0, 2.0), delegate="XNNPACK"),
    ),
)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_sums_shares_and_kinds_by_hand() -> None:
    made = summarize_runs(DESCRIBED, SEEN, summarize([9.0], threads=1))
    assert [(one.name, one.ms) for one in made.operators] == [("Conv a", 5.0), ("Mul b", 2.0), ("Conv c", 2.0)]
    assert [one.share for one in made.operators] == pytest.approx([5 / 12, 2 / 12, 2 / 12])
    assert (made.profiled_ms, made.operators_ms) == (12.0, 8.0)  # the runs' sums are 8, 8 and 11
    assert made.outside_ms == 4.0  # of 2, 4 and 9
    assert [(one.kind, one.count, one.ms) for one in made.kinds] == [("convolution", 2, 7.0), ("elementwise", 1, 2.0)]
    assert sum(one.share for one in made.kinds) == pytest.approx(9 / 12)
    assert group(()) == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Convolution (NHWC, F32) IGEMM #4", "convolution"),
        ("Convolution (NHWC, QC8) DWConv #1", "depthwise convolution"),
        ("Fully Connected (NC, QS8, QC8W) GEMM #2", "1x1 convolution or matrix product"),
        ("Depth To Space (NHWC, X8) Transpose #111", "layout"),
        ("Resize Bilinear (NHWC) #1", "upsampling"),
        ("Convert (NC) #3", "quantize or dequantize"),
        ("Clamp (NC) #9", "elementwise"),
        ("QLinearConv node_conv2d_59", "convolution"),
        ("DepthwiseConv node_conv2d_1", "depthwise convolution"),
        ("ReorderOutput ReorderOutput_token_187", "layout"),
        ("DequantizeLinear hardtanh_DequantizeLinear/duplicated", "quantize or dequantize"),
        ("QLinearAdd node_add_21", "elementwise"),
        ("Add after_Conv/Transpose", "elementwise"),
        ("native_call_add.out", OTHER),
        ("Unheard of", OTHER),
    ],
)
def test_the_kind_of_an_operator_is_known_by_each_runtimes_name_for_it(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    "seen",
    [
        ProfiledRuns(run_ms=(1.0, 2.0), operators=(OperatorRuns(name="Conv a", runs_ms=(1.0,)),)),
        ProfiledRuns(run_ms=(1.0,), operators=()),
        ProfiledRuns(run_ms=(), operators=(OperatorRuns(name="Conv a", runs_ms=()),)),
    ],
)
def test_operators_without_a_time_for_each_run_are_refused(seen: ProfiledRuns) -> None:
    with pytest.raises(UsageError, match="profile it again"):
        summarize_runs(DESCRIBED, seen, summarize([1.0], threads=1))


# --- what the runtimes write ------------------------------------------------------------------------------------------


def test_onnx_runtimes_trace_is_read_without_its_warm_up_and_other_events() -> None:
    def event(node: str, operator: str, us: int, weights: list[int]) -> dict[str, Any]:
        shapes = {
            "output_type_shape": [{"float": [1, 8, 4, 4]}],
            "input_type_shape": [{"float": [1]}, {"float": weights}],
        }
        return {"cat": "Node", "name": f"{node}_kernel_time", "dur": us, "args": {"op_name": operator, **shapes}}

    trace: list[dict[str, Any]] = [{"cat": "Session", "name": "model_run", "dur": 99}]
    for us in (900, 100, 200):  # the first is the warm-up
        trace += [event("a", "Conv", us, [8, 1, 3, 3]), event("b", "Conv", 2 * us, [8, 8, 3, 3])]
        trace.append({"cat": "Node", "name": "a_fence_before", "dur": 5, "args": {}})
    first, second = parse_trace(trace, runs=2)
    assert first == OperatorRuns(name="DepthwiseConv a", runs_ms=(0.1, 0.2), output=(1, 8, 4, 4))
    assert (second.name, second.runs_ms) == ("Conv b", (0.2, 0.4))


def litert_events(*rows: tuple[int, bytes, int]) -> tuple[list[_Event], list[Any]]:
    """Events of (type, tag, microseconds), and the tags, which must outlive them."""
    kept = [ctypes.create_string_buffer(tag) for _, tag, _ in rows]
    events = [
        _Event(tag=ctypes.addressof(tag), kind=kind, elapsed_us=us)
        for (kind, _, us), tag in zip(rows, kept, strict=True)
    ]
    return events, kept


def test_litert_events_are_told_apart_by_run_and_place() -> None:
    rows = []
    for us in (1000, 3000):
        rows += [
            (_EventType.DEFAULT, b"LiteRT::Run[buffer registration]", 7),
            (_EventType.DEFAULT, b"Invoke", 9999),
            (_EventType.DELEGATE_PROFILED_OPERATOR, b"Add (ND)", us),
            (_EventType.OPERATOR, b"CAST", 500),
            (_EventType.DELEGATE_PROFILED_OPERATOR, b"Add (ND)", 2 * us),
            (_EventType.TELEMETRY, b"Invoke", 0),
        ]
    events, _kept = litert_events(*rows)
    assert _operators(events, 2) == (
        OperatorRuns(name="Add (ND) #0", delegate="XNNPACK", runs_ms=(1.0, 3.0)),
        OperatorRuns(name="CAST #1", runs_ms=(0.5, 0.5)),
        OperatorRuns(name="Add (ND) #2", delegate="XNNPACK", runs_ms=(2.0, 6.0)),
    )


@pytest.mark.parametrize(
    "rows",
    [
        [(12345, b"Invoke", 1)],  # another layout: what is read as a type is none
        [(_EventType.DEFAULT, b"Invoke", 1)],  # a run is missing
        [(_EventType.DEFAULT, b"Invoke", 1), (_EventType.OPERATOR, b"ADD", 1), (_EventType.DEFAULT, b"Invoke", 1)],
    ],
)
def test_litert_events_of_an_unknown_layout_are_a_sentence(rows: list[tuple[int, bytes, int]]) -> None:
    events, _kept = litert_events(*rows)
    with pytest.raises(MissingRuntimeError, match="not known here"):
        _operators(events, 2)


def test_litert_without_its_c_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sdk.runtimes import litert_c

    monkeypatch.setattr(litert_c, "_LIBRARIES", ("libNoSuch.so",))
    with pytest.raises(MissingRuntimeError, match="ai-edge-litert"):
        litert_c.profile_file(tmp_path / "x.tflite", [], threads=1, warm_up=0, runs=1)


# --- the runtimes themselves -----------------------------------------------------------------------------------------


def border(layout: Layout, side: int) -> IOSpec:
    return IOSpec(
        image=image_spec("image", layout, DType.FLOAT32, side, side),
        output=image_spec("cartoon", layout, DType.FLOAT32, side, side),
    )


def check(runtime: str, path: Path, layout: Layout, side: int, *, delegates: list[str | None]) -> None:
    """A real profile of a convolution with something after it: all runs are there and the sums are within the whole."""
    executor = get_runtime(runtime)
    assert isinstance(executor, Profiler)
    spec = border(layout, side)
    image = spec.image.encode(np.random.default_rng(0).random((1, side, side, 3), dtype=np.float32))
    seen = executor.profile(path, spec, image, None, threads=1, warm_up=2, runs=15)
    made = summarize_runs(DESCRIBED, seen, summarize(seen.run_ms, threads=1))
    assert len(seen.run_ms) == 15
    assert "convolution" in {kind.kind for kind in made.kinds}
    assert list(dict.fromkeys(operator.delegate for operator in made.operators)) == delegates
    sums = [sum(times) for times in zip(*(operator.runs_ms for operator in seen.operators), strict=True)]
    # The clocks are whole microseconds, so a sum may exceed the whole by one an operator. Other processes take the core
    # between operators, in most runs of a busy machine: the least disturbed one shows that no operator is missing.
    assert all(part <= run + 1e-3 * len(seen.operators) for part, run in zip(sums, seen.run_ms, strict=True))
    assert max(part / run for part, run in zip(sums, seen.run_ms, strict=True)) > 0.3


@pytest.fixture(scope="module")
def convolution() -> Any:
    """A torch module: ``cartoon = clamp(conv3x3(image))``, on 3 channels by way of 32."""
    torch = pytest.importorskip("torch", reason="needs the extra train")

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 32, 3, padding=1)
            self.last = torch.nn.Conv2d(32, 3, 3, padding=1)

        def forward(self, image: Any) -> Any:
            return torch.clamp(self.last(torch.relu(self.first(image))), 0, 1)

    torch.manual_seed(0)
    return Tiny().eval()


def test_onnx_runtime_tells_what_each_node_takes(convolution: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    path = tmp_path / "tiny.onnx"
    program = torch.onnx.export(
        convolution, (torch.zeros(1, 3, 128, 128),), dynamo=True, verbose=False, input_names=["image"],
        output_names=["cartoon"],
    )  # fmt: skip
    program.save(path)
    check("onnxruntime", path, Layout.NCHW, 128, delegates=[None])


def test_executorch_tells_what_each_operator_in_its_delegate_takes(convolution: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    exir = pytest.importorskip("executorch.exir", reason="needs the extra executorch")
    partition = pytest.importorskip("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    program = exir.to_edge_transform_and_lower(
        torch.export.export(convolution, (torch.rand(1, 3, 128, 128),)), partitioner=[partition.XnnpackPartitioner()]
    ).to_executorch()
    path = tmp_path / "tiny.pte"
    path.write_bytes(program.buffer)
    check("executorch", path, Layout.NCHW, 128, delegates=["XNNPACK"])


@pytest.mark.slow
def test_litert_tells_what_each_operator_in_its_delegate_and_outside_takes(convolution: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    litert_torch = pytest.importorskip("litert_torch", reason="needs the extra export")
    path = tmp_path / "tiny.tflite"
    nhwc = litert_torch.to_channel_last_io(convolution, args=[0], outputs=[0])
    litert_torch.convert(nhwc, (torch.rand(1, 128, 128, 3),)).export(str(path))
    # The clamp, RELU_0_TO_1, is none of XNNPACK's.
    check("litert", path, Layout.NHWC, 128, delegates=["XNNPACK", None])


# --- a bundle --------------------------------------------------------------------------------------------------------


def test_a_bundle_is_profiled_and_the_report_comes_back_as_written(
    make_toy_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    report = profile(make_toy_bundle(artifacts=((None, (256, 256)),)), threads=1, runs=4, warm_up=1)
    (one,) = report.profiles
    assert one.reason == ""
    assert one.latency_ms is not None
    assert one.latency_ms.n == 4
    assert "elementwise" in {kind.kind for kind in one.kinds}
    assert one.operators_ms is not None
    assert one.outside_ms is not None
    assert one.operators_ms > 0
    assert one.outside_ms > 0
    file = tmp_path / "profile.json"
    file.write_text(profile_text(report))
    assert read_json(file) == report
    assert json.loads(file.read_text())["schema"] == 1
    text = profile_markdown_text(report)
    assert "| | onnxruntime fp32 |" in text
    assert f"| outside operators | {one.outside_ms:.2f} |" in text


SILENT = '''
from sdk.runtimes.base import Availability
from sdk.runtimes.ort import OnnxRuntime
from sdk.spec import Kind, Target
import os

class Silent:
    """Runs, and tells nothing about its operators."""
    name, kind, targets, extra = "onnxruntime", Kind.HOST, frozenset({Target.ONNX}), "onnx"
    def available(self): return Availability(ok=True)
    def load(self, path, io, *, threads=1): return OnnxRuntime().load(path, io, threads=threads)

class Posing(OnnxRuntime):
    kind = Kind.REFERENCE

class Crashing(OnnxRuntime):
    def profile(self, *args, **options): os.abort()
'''


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Silent", "tells nothing about its operators"),
        ("Posing", "a reference runtime has no latency"),
        ("Crashing", "signal SIGABRT"),
    ],
)
def test_what_cannot_be_profiled_has_a_reason_and_no_figures(
    name: str, words: str, toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_runtime.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(RUNTIMES, "onnxruntime", f"silent_runtime:{name}")
    report = profile(toy_bundle, threads=1, runs=1, warm_up=0)
    (one,) = report.profiles
    assert words in one.reason
    assert (one.latency_ms, one.profiled_ms, one.operators, one.kinds) == (None, None, (), ())
    assert f"({one.runtime}): {one.reason}" in profile_markdown_text(report)


def test_bad_input_is_one_sentence(toy_bundle: Bundle) -> None:
    for options, words in (
        ({"runs": 0}, "runs is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"artifacts": ["x.onnx"]}, "unknown artifact"),
        ({"runtimes": ["onnxrt"]}, "did you mean 'onnxruntime'"),
    ):
        with pytest.raises(UsageError, match=words):
            profile(toy_bundle, **options)  # type: ignore[arg-type]
