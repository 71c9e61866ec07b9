"""Bench: percentiles by hand, fair turns, ratios within a round, and nothing timed that may not be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdk.bench import bench, race, race_runners
from sdk.bundle import Bundle
from sdk.errors import MissingRuntimeError, UsageError
from sdk.latency import percentile, summarize
from sdk.report import bench_markdown_text, bench_text, write_bench_json, write_bench_markdown
from sdk.runtimes import RUNTIMES
from sdk.spec import Kind

SIZES = ((None, (32, 48)), ("comic", (64, 48)))


def test_percentiles_are_nearest_rank_by_hand() -> None:
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [percentile(values, p) for p in (5, 30, 40, 50, 90, 100)] == [15, 20, 20, 35, 50, 50]
    assert percentile([7.0], 50) == 7.0
    latency = summarize([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0], threads=2)
    assert (latency.p50, latency.p90, latency.min, latency.n, latency.threads) == (5.0, 9.0, 1.0, 10, 2)
    with pytest.raises(UsageError, match="no run was timed"):
        summarize([], threads=1)


def test_everything_is_timed_under_its_runtime(make_toy_bundle: Callable[..., Bundle]) -> None:
    bundle = make_toy_bundle(artifacts=SIZES)
    report = bench(bundle, threads=1, rounds=3, runs=4, warm_up=2)
    assert [result.file for result in report.results] == [artifact.file for artifact in bundle.artifacts]
    for result in report.results:
        assert result.reason == ""
        assert result.latency_ms is not None
        assert result.latency_ms.n == 12  # the warm-up does not count
        assert 0 < result.latency_ms.min <= result.latency_ms.p50 <= result.latency_ms.p90
        assert result.latency_ms.threads == 1
        assert result.load_ms is not None
        assert result.load_ms > 0
        assert result.peak_rss_bytes is not None
        assert result.peak_rss_bytes > 10_000_000
    assert (report.rounds, report.runs, report.warm_up) == (3, 4, 2)
    assert report.host.threads == 1


def test_a_benchmark_as_json_and_as_a_table(make_toy_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    report = bench(make_toy_bundle(artifacts=SIZES), rounds=1, runs=2, warm_up=0)
    content = json.loads(bench_text(report))
    assert content["schema"] == 1
    assert [result["file"] for result in content["results"]] == [result.file for result in report.results]
    assert content["host"]["cpu"]
    slow = replace(report.results[0], file="odd|name.onnx", latency_ms=summarize([3000.0], threads=2))
    dead = replace(report.results[0], latency_ms=None, load_ms=None, peak_rss_bytes=None, reason="it crashed")
    text = bench_markdown_text(replace(report, results=(slow, report.results[1], dead)))
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 2
    assert "3000.0" in rows[1]  # the fastest first
    assert f"- `{dead.file}` (onnxruntime): it crashed" in text
    write_bench_json(report, tmp_path / "out" / "bench.json")
    write_bench_markdown(report, tmp_path / "out" / "bench.md")
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == content


FAULTY = '''
from sdk.runtimes.ort import OnnxRuntime
from sdk.spec import Kind
import os

class Posing(OnnxRuntime):
    """A reference executor, which may not have a latency."""
    name = "onnxruntime"
    kind = Kind.REFERENCE

class Crashing(OnnxRuntime):
    name = "onnxruntime"
    def load(self, path, io, *, threads=1):
        if "comic" in path.name: os.abort()
        return super().load(path, io, threads=threads)
'''


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    (tmp_path / "faulty_bench_runtime.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: monkeypatch.setitem(RUNTIMES, "onnxruntime", f"faulty_bench_runtime:{name}")


def test_a_reference_executor_never_gets_a_latency(toy_bundle: Bundle, faulty: Callable[[str], None]) -> None:
    faulty("Posing")
    (result,) = bench(toy_bundle, rounds=1, runs=1, warm_up=0).results
    assert result.kind is Kind.REFERENCE
    assert (result.latency_ms, result.load_ms, result.peak_rss_bytes) == (None, None, None)
    assert result.reason == "a reference runtime has no latency"


def test_a_crash_is_a_reason_and_the_others_are_timed(
    make_toy_bundle: Callable[..., Bundle], faulty: Callable[[str], None]
) -> None:
    faulty("Crashing")
    results = {r.style: r for r in bench(make_toy_bundle(artifacts=SIZES), rounds=2, runs=1, warm_up=1).results}
    assert "signal SIGABRT" in results["comic"].reason
    assert results["comic"].latency_ms is None
    assert results[None].latency_ms is not None


def test_bad_input_is_one_sentence(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, words in (
        ({"rounds": 0}, "rounds is 0"),
        ({"runs": 0}, "runs is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"artifacts": ["x.onnx"]}, "unknown artifact"),
        ({"runtimes": ["onnxrt"]}, "did you mean 'onnxruntime'"),
    ):
        with pytest.raises(UsageError, match=words):
            bench(toy_bundle, **options)  # type: ignore[arg-type]
    path = toy_bundle.path(toy_bundle.artifacts[0])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UsageError, match="it was changed"):
        bench(toy_bundle)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(MissingRuntimeError, match=r"toonedge\[onnx\]"):
        bench(toy_bundle, runtimes=["onnxruntime"])


# --- races -----------------------------------------------------------------------------------------------------------


def test_a_race_takes_turns_and_turns_round() -> None:
    order: list[str] = []

    def runner(name: str) -> Callable[[int], list[float]]:
        def run(runs: int) -> list[float]:
            order.append(f"{name}{runs}")
            return [1.0] * runs

        return run

    race_runners({"a": runner("a"), "b": runner("b")}, baseline="a", rounds=3, runs=2, warm_up=5, threads=1)
    assert order == ["a5", "b5", "a2", "b2", "b2", "a2", "a2", "b2"]


def test_ratios_are_formed_within_a_round_so_a_drifting_machine_does_not_matter() -> None:
    # Round by round the machine slows down threefold; b is always twice as fast as a, but for one round.
    a = iter([[10.0, 10.0], [30.0, 30.0], [90.0, 90.0]])
    b = iter([[5.0, 5.0], [15.0, 15.0], [30.0, 30.0]])
    first, second = race_runners(
        {"a": lambda _: next(a), "b": lambda _: next(b)}, baseline="a", rounds=3, runs=2, warm_up=0, threads=2
    )
    assert (first.ratio, first.ratio_min, first.ratio_max) == (1.0, 1.0, 1.0)
    assert (second.ratio, second.ratio_min, second.ratio_max) == (2.0, 2.0, 3.0)
    assert second.round_p50_ms == (5.0, 15.0, 30.0)
    assert second.latency_ms.n == 6
    assert second.latency_ms.threads == 2


def test_a_race_of_callables_sees_which_one_is_slower() -> None:
    quick, slow = race(
        {"quick": lambda: time.sleep(0.001), "slow": lambda: time.sleep(0.02)},
        baseline="slow",
        rounds=3,
        runs=3,
        warm_up=1,
    )
    assert quick.latency_ms.min >= 1.0
    assert slow.latency_ms.min >= 20.0
    assert quick.ratio_max > 1.5  # of the least disturbed round: a busy machine wakes a sleeper late
    assert slow.ratio == 1.0


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        race({"onnx": lambda: None}, baseline="onnyx")
