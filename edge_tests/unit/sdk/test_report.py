"""Reports: report.json fits its published schema, and the Markdown table says what the verdicts say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from sdk.bundle import Bundle
from sdk.errors import FileTroubleError
from sdk.host import Host, cpu_name, describe_host, isa_names, parse_cpuinfo
from sdk.latency import summarize
from sdk.report import markdown_text, report_text, verdict_text, write_json, write_markdown
from sdk.spec import Kind
from sdk.verify import Outcome, Passed, Report, Spread, verify

ROOT = Path(__file__).resolve().parents[3]
VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((ROOT / "docs" / "report.schema.json").read_text()), format_checker=jsonschema.FormatChecker()
)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def report(make_toy_bundle: Callable[..., Bundle], photo: Path) -> Report:
    """A real report: two passes, made into a fail, a not_runnable and a reference verdict beside a pass."""
    bundle = make_toy_bundle(artifacts=((None, (32, 48)), ("comic", (32, 48))))
    found = verify(bundle, images=[photo], threads=1)
    baked, multi = found.results
    baked = replace(baked, latency_ms=summarize([12.34, 20.0], threads=1))
    nan = replace(multi.styles[0], max_abs=math.nan, ssim=Spread(mean=math.nan, worst=math.nan))
    results = (
        baked,
        multi,
        replace(multi, verdict=Outcome.FAIL, reason="comic: SSIM | worst", max_abs=math.nan, styles=(nan,)),
        replace(
            baked, verdict=Outcome.NOT_RUNNABLE, reason="no Core ML here", styles=(), images=0, max_abs=None, ssim=None,
            psnr_db=None, latency_ms=None, load_ms=None, peak_rss_bytes=None,
        ),
        replace(baked, kind=Kind.REFERENCE, runtime="mil", latency_ms=None, load_ms=None),
    )  # fmt: skip
    return replace(found, results=results, left_out=(Passed(runtime="coreml", reason="Core ML runs on macOS"),))


def test_a_report_fits_its_published_schema(report: Report) -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(json.loads(report_text(report)))


def test_the_schema_refuses_a_latency_of_a_reference_executor_and_a_pass_without_pictures(report: Report) -> None:
    def broken(index: int, **changes: Any) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(report_text(report))
        content["results"][index].update(changes)
        return content

    latency = json.loads(report_text(report))["results"][0]["latency_ms"]
    assert latency["p50"] == 12.34
    for content in (
        broken(4, latency_ms=latency),
        broken(4, kind="emulated", latency_ms=latency),
        broken(0, images=0),
        broken(0, reason="but it passed"),
        broken(2, reason=""),
        broken(0, verdict="passed"),
        broken(0, surprise=1),
        {**json.loads(report_text(report)), "schema": 2},
    ):
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(content)
    VALIDATOR.validate(broken(0, kind="device"))


def test_a_report_is_strict_json_with_null_for_what_is_no_number(report: Report) -> None:
    text = report_text(report)
    assert text.endswith("}\n")
    assert "NaN" not in text
    assert json.loads(text)["results"][2]["max_abs"] is None
    assert json.loads(text)["results"][2]["styles"][0]["ssim"] == {"mean": None, "worst": None}
    assert report_text(report) == text


def test_every_verdict_repeats_the_thresholds_it_was_judged_by(report: Report) -> None:
    for result in json.loads(report_text(report))["results"]:
        assert result["gates"] == {"max_abs": 0.001, "ssim_mean": None, "ssim_worst": None, "psnr_mean": None}
    assert json.loads(verdict_text(report.results[2])) == json.loads(report_text(report))["results"][2]


def test_the_table_has_a_row_a_verdict_and_the_reasons_below(report: Report) -> None:
    text = markdown_text(report)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    header = next(line for line in text.splitlines() if line.startswith("| File"))
    assert header == (
        "| File | Runtime | Kind | Verdict | SSIM mean | SSIM worst | PSNR dB | Max-abs | p50 ms | Bytes |"
    )
    assert len(rows) == 5
    assert all(line.count(" | ") == 9 for line in rows)
    assert "| pass | 1.0000 | 1.0000 |" in rows[0]
    assert "**fail**" in rows[2]
    assert "not finite" in rows[2]
    assert "| not runnable |  |  |  |  |  |" in rows[3]
    assert "| mil | reference | pass |" in rows[4]
    assert "| 12.3 |" in rows[0]
    assert "12.3" not in rows[4]  # a reference executor has no latency
    assert r"comic: SSIM \| worst" in text
    assert "3 pass, 1 fail, 1 not_runnable." in text
    assert "coreml: not on this host: Core ML runs on macOS; another runtime served." in text


def test_reports_are_written_whole_or_not_at_all(report: Report, tmp_path: Path) -> None:
    write_json(report, tmp_path / "new" / "report.json")
    write_markdown(report, tmp_path / "new" / "report.md")
    assert (tmp_path / "new" / "report.json").read_text() == report_text(report)
    assert (tmp_path / "new" / "report.md").read_text() == markdown_text(report)
    with pytest.raises(FileTroubleError, match="is a file, not a folder"):
        write_json(report, tmp_path / "new" / "report.json" / "report.json")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.json", "report.md"]


# --- the host --------------------------------------------------------------------------------------------------------

X86 = (
    "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse4_1 avx2 avx512f avx512_vnni\n\nprocessor\t: 1\n"
)
ARM = "processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm bf16\nCPU implementer : 0x41\nHardware : Board\n"


def test_the_instruction_set_is_read_from_cpuinfo() -> None:
    assert isa_names(parse_cpuinfo(X86)) == ("sse4.1", "avx2", "avx512f", "avx512_vnni")
    assert isa_names(parse_cpuinfo(ARM)) == ("neon", "fp16", "dotprod", "i8mm", "bf16")
    assert isa_names({"hw.optional.arm.FEAT_DotProd": "1", "hw.optional.arm.FEAT_I8MM": "0"}) == ("dotprod",)
    assert isa_names({}) == ()


def test_the_processors_name_is_found_wherever_it_stands() -> None:
    assert cpu_name(parse_cpuinfo(X86)) == "Some CPU @ 2 GHz"
    assert cpu_name(parse_cpuinfo(ARM)) == "Board"
    assert cpu_name({"machdep.cpu.brand_string": "Apple M9"}) == "Apple M9"
    assert cpu_name({}) != ""


def test_this_host_is_described_with_what_is_installed() -> None:
    host = describe_host(3)
    assert isinstance(host, Host)
    assert host.threads == 3
    assert host.cores >= 1
    assert host.versions["numpy"] == np.__version__
    assert "python" in host.versions
