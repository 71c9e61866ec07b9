"""Gates together, the model card, and the result of an export."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra export")

import converters
from converters.card import model_card
from converters.export import ExportResult, result_line
from converters.produce import Result, Status, delegate_faults, fidelity_faults, judge
from converters.registry import TARGETS, row_for
from sdk.bundle import Artifact, Bundle, Delegation, Fidelity, Manifest, ModelInfo, Quantization, Reference
from sdk.errors import ExitCode
from sdk.spec import Backend, DType, IOSpec, Kind, Layout, Precision, Target, image_spec, style_spec
from sdk.verify import Gate, Outcome, Spread, Verdict

ONE = Delegation(delegates=("XnnpackBackend",), operators_outside=(), layout_copies=2)


def make_artifact(target: Target = Target.EXECUTORCH, delegation: Delegation | None = ONE) -> Artifact:
    backend, suffix = {Target.EXECUTORCH: (Backend.XNNPACK, "pte"), Target.ONNX: (Backend.ORT, "onnx")}[target]
    image = image_spec("image", Layout.NCHW, DType.FLOAT32, 256, 256)
    return Artifact(
        file=f"m_256x256_multi_{backend}_int8.{suffix}", target=target, backend=backend, precision=Precision.INT8,
        style=None, size=(256, 256), bytes=640_000, sha256="1" * 64, delegation=delegation, min_runtime="r 1",
        io=IOSpec(image=image, output=dataclasses.replace(image, name="cartoon"), style=style_spec("style", 2)),
        quantization=Quantization(method="static", calibration_sha256="2" * 64, calibration_images=32),
    )  # fmt: skip


def make_verdict(
    artifact: Artifact, outcome: Outcome = Outcome.PASS, *, worst: float = 0.93, reason: str = ""
) -> Verdict:
    ran = outcome is not Outcome.NOT_RUNNABLE
    return Verdict(
        file=artifact.file, target=artifact.target, backend=artifact.backend, precision=artifact.precision, style=None,
        runtime="somewhere", kind=Kind.HOST, verdict=outcome, reason=reason, gates=Gate(ssim_worst=0.87), bytes=1,
        images=24, max_abs=0.05 if ran else None, ssim=Spread(mean=0.97, worst=worst) if ran else None,
    )  # fmt: skip


def test_what_every_runtime_passes_passes() -> None:
    artifact = make_artifact()
    result = judge(artifact, [make_verdict(artifact)], seconds=3.0)
    assert (result.status, result.reason, result.seconds) == (Status.PASS, "", 3.0)


def test_one_runtime_that_fails_is_enough() -> None:
    artifact = make_artifact()
    bad = make_verdict(artifact, Outcome.FAIL, worst=0.5, reason="comic: SSIM worst 0.5000 < 0.87")
    result = judge(artifact, [make_verdict(artifact), bad])
    assert result.status is Status.FAIL
    assert result.reason == "somewhere: comic: SSIM worst 0.5000 < 0.87"
    assert result.verdict is not None
    assert result.verdict.ssim == bad.ssim


def test_what_no_runtime_here_can_run_is_said_and_is_no_failure() -> None:
    artifact = make_artifact()
    result = judge(artifact, [make_verdict(artifact, Outcome.NOT_RUNNABLE, reason="not on this host")])
    assert (result.status, result.reason) == (Status.NOT_RUNNABLE, "not on this host")


@pytest.mark.parametrize(("asked", "status"), [(0.92, Status.PASS), (0.94, Status.FAIL)])
def test_the_callers_own_least_ssim_comes_on_top_of_the_gates(asked, status) -> None:
    artifact = make_artifact()
    result = judge(artifact, [make_verdict(artifact)], min_ssim=asked)
    assert result.status is status
    if status is Status.FAIL:
        assert result.reason == "somewhere: SSIM worst 0.9300 < 0.94 (--min-ssim)"
        assert result.verdict is not None
        assert result.verdict.verdict is Outcome.FAIL  # what lies beside the rejected file says so


def test_an_ssim_that_is_not_a_number_never_reaches_the_callers_least() -> None:
    artifact = make_artifact()
    assert judge(artifact, [make_verdict(artifact, worst=math.nan)], min_ssim=0.1).status is Status.FAIL


@pytest.mark.parametrize(
    ("delegation", "fault"),
    [
        (None, "did not say what is delegated"),
        (dataclasses.replace(ONE, delegates=("a", "b")), "2 delegates instead of exactly 1"),
        (dataclasses.replace(ONE, delegates=()), "0 delegates instead of exactly 1"),
        (dataclasses.replace(ONE, operators_outside=("aten::mm",)), "operators outside of the delegate: aten::mm"),
    ],
)
def test_an_xnnpack_file_with_anything_but_one_delegate_is_rejected_though_its_pictures_are_right(
    delegation, fault
) -> None:
    artifact = make_artifact(delegation=delegation)
    result = judge(artifact, [make_verdict(artifact)])
    assert result.status is Status.FAIL
    assert fault in result.reason


def test_copies_of_layout_at_the_border_are_no_operators_and_other_targets_have_no_such_gate() -> None:
    assert delegate_faults(make_artifact()) == []
    assert delegate_faults(make_artifact(Target.ONNX, None)) == []


GATE = row_for(Target.EXECUTORCH, Backend.XNNPACK).fidelity
HELD = Fidelity(
    simulation="a graph", runtime="executorch", images=3, max_abs_steps=GATE.max_abs_steps,
    mean_abs_steps=GATE.mean_abs_steps, drift_steps=GATE.drift_steps,
)  # fmt: skip


def compared(**figures: float) -> Artifact:
    artifact = make_artifact()
    assert artifact.quantization is not None
    fidelity = dataclasses.replace(HELD, **figures)  # type: ignore[arg-type]
    return dataclasses.replace(artifact, quantization=dataclasses.replace(artifact.quantization, fidelity=fidelity))


@pytest.mark.parametrize(
    ("figure", "said"), [("max_abs_steps", "max-abs"), ("mean_abs_steps", "mean-abs"), ("drift_steps", "drift")]
)
def test_a_file_that_draws_something_else_than_its_quantized_graph_is_the_exports_fault(figure, said) -> None:
    worse = getattr(GATE, figure) * 1.01
    artifact = compared(**{figure: worse})
    result = judge(artifact, [make_verdict(artifact)])  # against the float model all is well
    assert result.status is Status.FAIL
    assert f"({said} {worse:.3g} > {getattr(GATE, figure):g} steps of 1/255)" in result.reason
    assert "the fault is the export's and not int8's" in result.reason
    assert "executorch" in result.reason


def test_a_file_at_its_fidelity_gate_passes_and_one_that_was_not_compared_has_none() -> None:
    artifact = compared()
    assert judge(artifact, [make_verdict(artifact)]).status is Status.PASS
    assert fidelity_faults(make_artifact()) == []
    assert fidelity_faults(compared(drift_steps=math.nan)) != []


def test_no_targets_gate_lets_a_step_of_drift_pass() -> None:
    assert all(row.fidelity.drift_steps < 1 for row in TARGETS)


def test_a_result_is_one_line_that_says_all() -> None:
    artifact = make_artifact()
    assert result_line(judge(artifact, [make_verdict(artifact)], seconds=12.34)) == (
        "pass          m_256x256_multi_xnnpack_int8.pte  0.64 MB  SSIM 0.9700 worst 0.9300, max-abs 0.05  12.3 s"
    )
    failed = Result(file="m.pte", artifact=None, status=Status.FAIL, reason="the converter failed (E: x)", seconds=1)
    assert result_line(failed) == "fail          m.pte  1.0 s  (the converter failed (E: x))"


MODEL = ModelInfo(
    name="m", version="1.0", checkpoint_sha256="3" * 64, styles=("comic", "pencil"), params=1234567, macs=390_000_000,
    macs_size=(256, 256), licence="Apache-2.0", author="somebody",
)  # fmt: skip
REFERENCE = Reference(file="reference.onnx", sha256="4" * 64, bytes=5, io=make_artifact(Target.ONNX).io)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.PASS, Status.NOT_RUNNABLE, Status.UNVERIFIED], ExitCode.OK),
        ([Status.PASS, Status.FAIL], ExitCode.GATE_FAILED),
    ],
)
def test_an_export_fails_when_an_artifact_does(statuses, code) -> None:
    artifact = make_artifact()
    manifest = Manifest(model=MODEL, reference=REFERENCE, artifacts=(artifact,), toonedge="1")
    results = tuple(Result(file=str(i), artifact=artifact, status=status) for i, status in enumerate(statuses))
    done = ExportResult(bundle=Bundle(Path("dist"), manifest), results=results, reference_max_abs=1e-6, seconds=9.0)
    assert done.exit_code is code
    assert bool(done) is done.ok is (code is ExitCode.OK)
    assert done.explain().startswith("1 pass, 1 ")
    assert done.explain().endswith("dist holds 1 artifacts (0.6 MB), 9 s.")


def test_the_card_says_what_each_file_is_what_it_takes_and_how_it_was_made() -> None:
    artifact = make_artifact()
    card = model_card(
        MODEL, REFERENCE, [artifact], {artifact.file: make_verdict(artifact)},
        provenance=["distilled for 7 steps"], credits=["`p`: by A, licence MIT"],
    )  # fmt: skip
    for part in (
        "# m 1.0\n",
        "1,234,567 parameters, 0.39 GMAC at 256x256",
        f"`{'3' * 64}`",
        "| `m_256x256_multi_xnnpack_int8.pte` | all | 256x256 | int8 | 640,000 | r 1 | 0.9700 / 0.9300 | 0.05 |",
        "* `.pte` (int8): takes `image`, N x 3 x H x W (channels first) float32 in [0, 1], gives `cartoon`",
        "in the order `comic`, `pencil`",
        "* static: `m_256x256_multi_xnnpack_int8.pte`.",
        "* distilled for 7 steps",
    ):
        assert part in card
    assert "`p`: by A" not in card  # credits come with pictures, and there are none
    assert card == model_card(MODEL, REFERENCE, [artifact], {artifact.file: make_verdict(artifact)},
                              provenance=["distilled for 7 steps"])  # fmt: skip


def test_the_card_of_an_artifact_of_an_earlier_export_has_no_figures() -> None:
    assert "| r 1 |  |  |" in model_card(MODEL, REFERENCE, [make_artifact()], {})


def test_converters_export_is_a_function_and_a_module_however_it_is_imported() -> None:
    import converters.export as module

    assert converters.export is module
    assert callable(converters.export)
    assert module.export.__name__ == "export"
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = converters.exprot  # type: ignore[attr-defined]
