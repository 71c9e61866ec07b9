"""Reports read back are the ones that were written."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from sdk.bench import BenchReport, Measurement
from sdk.errors import UsageError
from sdk.host import Host
from sdk.latency import Latency
from sdk.report import bench_text, markdown_text, report_text
from sdk.report.read import read_json
from sdk.spec import Backend, Kind, Precision, Target
from sdk.verify import Gate, Outcome, Passed, Report, Spread, StyleFigures, Verdict

HOST = Host(os="Linux", cpu="a cpu", isa=("avx2", "fma"), cores=2, threads=2, versions={"numpy": "2"})
LATENCY = Latency(p50=6.5, p90=7.0, min=6.0, n=20, threads=2)
VERDICT = Verdict(
    file="toy_32x48_multi_ort_int8.onnx",
    target=Target.ONNX,
    backend=Backend.ORT,
    precision=Precision.INT8,
    style=None,
    runtime="onnxruntime",
    kind=Kind.HOST,
    verdict=Outcome.FAIL,
    reason="comic: SSIM mean 0.9 < 0.955",
    gates=Gate(ssim_mean=0.955, ssim_worst=0.87),
    bytes=650_000,
    images=2,
    max_abs=0.25,
    psnr_db=Spread(mean=30.0, worst=25),
    ssim=Spread(mean=0.9, worst=0.8),
    latency_ms=LATENCY,
    load_ms=12.5,
    peak_rss_bytes=90_000_000,
    styles=(
        StyleFigures(
            style="comic",
            images=2,
            max_abs=0.25,
            psnr_db=Spread(mean=30.0, worst=25.0),
            ssim=Spread(mean=0.9, worst=0.8),
            worst_photo="a.jpg",
        ),
    ),
)
BARE = Verdict(
    file="toy_32x48_comic_mlprogram_fp16.mlpackage",
    target=Target.COREML,
    backend=Backend.MLPROGRAM,
    precision=Precision.FP16,
    style="comic",
    runtime="mil",
    kind=Kind.REFERENCE,
    verdict=Outcome.NOT_RUNNABLE,
    reason="not here",
    gates=Gate(ssim_worst=0.999),
    bytes=900_000,
)
REPORT = Report(
    model="toy",
    checkpoint_sha256="0" * 64,
    created="2026-01-01T00:00:00+00:00",
    toonedge="0.1.0",
    photos=("a.jpg", "b.jpg"),
    host=HOST,
    results=(VERDICT, BARE),
    left_out=(Passed(runtime="coreml", reason="macOS only"),),
)
BENCH = BenchReport(
    model="toy",
    checkpoint_sha256="0" * 64,
    host=HOST,
    rounds=5,
    runs=20,
    warm_up=10,
    results=(
        Measurement(
            file="toy.onnx",
            target=Target.ONNX,
            backend=Backend.ORT,
            precision=Precision.FP32,
            style=None,
            size=(32, 48),
            bytes=9,
            runtime="onnxruntime",
            kind=Kind.HOST,
            latency_ms=LATENCY,
            load_ms=1.0,
            peak_rss_bytes=70,
        ),
    ),
)


def test_a_verification_comes_back_equal(tmp_path):
    (tmp_path / "report.json").write_text(report_text(REPORT))
    assert read_json(tmp_path / "report.json") == REPORT
    assert markdown_text(read_json(tmp_path / "report.json")) == markdown_text(REPORT)


def test_a_benchmark_comes_back_equal(tmp_path):
    (tmp_path / "bench.json").write_text(bench_text(BENCH))
    assert read_json(tmp_path / "bench.json") == BENCH


def test_a_figure_that_was_not_finite_comes_back_as_nan(tmp_path):
    broken = dataclasses.replace(VERDICT, ssim=Spread(mean=math.nan, worst=math.nan))
    (tmp_path / "report.json").write_text(report_text(dataclasses.replace(REPORT, results=(broken,))))
    report = read_json(tmp_path / "report.json")
    assert isinstance(report, Report)
    assert report.results[0].ssim is not None
    assert math.isnan(report.results[0].ssim.mean)
    assert "not finite" in markdown_text(report)


def test_unknown_fields_of_a_later_version_are_passed_over(tmp_path):
    content = json.loads(report_text(REPORT)) | {"weather": "fine"}
    content["host"]["altitude"] = 400
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "report.json") == REPORT


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("host",), [], r"host is \[\], not an object"),
        (("photos",), "a.jpg", 'photos is "a.jpg", not a list'),
        (("results", 0, "bytes"), "many", r"results\[0\]\.bytes is \"many\", not a whole number"),
        (("results", 0, "bytes"), True, r"results\[0\]\.bytes is true, not a whole number"),
        (("results", 0, "verdict"), "maybe", "not one of pass, fail, not_runnable"),
        (("results", 0, "ssim", "mean"), "high", r"results\[0\]\.ssim\.mean is \"high\", not a number"),
        (("host", "versions"), [1], "host.versions is .*, not an object"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, keys, value, words):
    content = json.loads(report_text(REPORT))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=words) as error:
        read_json(tmp_path / "report.json")
    assert "\n" not in str(error.value)
