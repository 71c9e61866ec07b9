"""The table of targets, and all that is made from it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from converters.problems import Problems
from converters.registry import (
    ALL,
    TARGETS,
    backend_help,
    choose,
    precision_help,
    row_for,
    target_help,
    targets_markdown,
)
from sdk.errors import ExitCode, FileTroubleError, MissingRuntimeError, UsageError
from sdk.runtimes import get_runtime
from sdk.spec import Backend, Precision, Target
from sdk.verify import GATES

ROOT = Path(__file__).parents[3]


def names(choices) -> list[tuple[str, str]]:
    return [(choice.row.target.value, choice.precision.value) for choice in choices]


def test_every_target_of_the_sdk_has_a_row_and_all_of_all_is_at_least_nine_artifacts() -> None:
    assert {row.target for row in TARGETS} == set(Target)
    assert {row.backend for row in TARGETS} == set(Backend)
    assert len(choose([ALL], None, [ALL])) >= 9


@pytest.mark.parametrize("row", TARGETS, ids=lambda row: row.target)
def test_a_row_names_a_converter_that_exists_runtimes_that_serve_it_and_precisions_that_have_a_gate(row) -> None:
    module, _, function = row.converter.partition(":")
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert f"\ndef {function}(graph: DeployGraph, spec: ExportSpec, options: ExportOptions) -> Artifact:" in source
    for name in row.runtimes:
        assert row.target in get_runtime(name).targets
    assert row.runtime_extra in {get_runtime(name).extra for name in row.runtimes}
    assert len(set(row.precisions)) == len(row.precisions)
    assert set(row.precisions) <= {gate.precision for gate in GATES}
    assert set(row.min_os) in (set(), set(row.precisions))


def test_the_document_is_what_the_table_says() -> None:
    written = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    assert written == targets_markdown(), "run: python -m converters.registry docs/targets.md"


def test_the_help_texts_name_every_target_backend_and_precision() -> None:
    for target in Target:
        assert target in target_help()
        assert target in precision_help()
    for backend in Backend:
        assert backend in backend_help()
    for precision in Precision:
        assert precision in precision_help()


def test_without_a_precision_each_target_gets_its_own_default() -> None:
    assert names(choose(["coreml"])) == [("coreml", "fp16")]
    assert names(choose(["onnx", "tflite"])) == [("onnx", "fp32"), ("tflite", "fp32")]


def test_all_means_what_there_is_but_a_pair_named_in_full_must_exist() -> None:
    assert names(choose([ALL], None, ["fp16"])) == [("coreml", "fp16")]
    assert names(choose(["onnx"], None, [ALL])) == [("onnx", "fp32"), ("onnx", "int8")]
    with pytest.raises(UsageError, match=r"onnx \(ort\) has no precision fp16: choose from fp32, int8"):
        choose(["onnx"], None, ["fp16"])


def test_a_backend_must_belong_to_the_target() -> None:
    assert names(choose(["onnx"], "ort")) == [("onnx", "fp32")]
    with pytest.raises(UsageError, match="onnx has no backend litert: choose from ort"):
        choose(["onnx"], "litert")
    with pytest.raises(UsageError, match="tflite has no backend ort: choose from litert"):
        row_for(Target.TFLITE, Backend.ORT)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["onx"], None, ()), "unknown target 'onx': did you mean 'onnx'?"),
        ((["onnx"], "orte", ()), "unknown backend 'orte': did you mean 'ort'?"),
        ((["onnx"], None, ["int9"]), "unknown precision 'int9': did you mean 'int8'?"),
        ((["onnx"], None, ["dynamic"]), "precision 'dynamic' is refused: dynamic quantization leaves convolutions in"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(arguments, sentence) -> None:
    with pytest.raises(UsageError) as caught:
        choose(*arguments)
    assert str(caught.value).startswith(sentence)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        choose(["corml", "onnx"], "ortt", ["fp61", "dynamic"])
    for part in ("4 problems", "'corml'", "'ortt'", "'fp61'", "'dynamic' is refused"):
        assert part in str(caught.value)


@pytest.mark.parametrize("row", TARGETS, ids=lambda row: row.target)
def test_a_missing_tool_is_named_with_its_extra_and_exit_code_3(row, monkeypatch) -> None:
    missing = list(row.packages)[-1]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else found(name, *a))
    with pytest.raises(MissingRuntimeError, match=r"toonedge\[export\]") as caught:
        row.load()
    assert row.packages[missing] in str(caught.value)
    assert caught.value.exit_code is ExitCode.MISSING_RUNTIME


def test_looking_up_targets_and_showing_help_imports_no_tool() -> None:
    code = "import sys, converters, converters.registry, converters.export; print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for tool in ("torch", "onnx", "onnxruntime", "coremltools", "executorch", "litert_torch", "timm"):
        assert f"'{tool}'" not in shown


def test_problems_are_one_error_of_the_kind_with_the_lowest_exit_code() -> None:
    problems = Problems()
    for error in (FileTroubleError("the disk."), UsageError("a name."), UsageError("a name.")):
        with problems.collect():
            raise error
    with pytest.raises(UsageError, match=r"^2 problems: \(1\) the disk\. \(2\) a name\.$"):
        problems.raise_any()


def test_a_single_problem_is_raised_as_it_is_and_none_is_not() -> None:
    problems = Problems()
    problems.raise_any()
    problems.add(FileTroubleError("the disk."))
    with pytest.raises(FileTroubleError, match=r"^the disk\.$"):
        problems.raise_any()


def test_mistakes_that_are_not_the_users_are_not_collected() -> None:
    problems = Problems()
    with pytest.raises(ZeroDivisionError), problems.collect():
        _ = 1 / 0
    assert not problems
