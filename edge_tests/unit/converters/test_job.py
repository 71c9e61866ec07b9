"""Conversions in a process of their own: what fails, fails alone, and every end has a sentence."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("torch", reason="needs the extra export")

from converters import registry
from converters.job import Conversion, Job, JobProcess, run_job
from converters.request import ExportSpec
from sdk.bundle import Artifact
from sdk.errors import FileTroubleError, GateError, UsageError
from sdk.spec import Backend, IOSpec, Layout, Precision, Target, image_spec
from sdk.spec import DType as D
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.models.generator import Generator, GeneratorConfig

NAMES = ("comic", "pencil", "anime")


def make_spec(precision: Precision = Precision.FP32, style: str | None = None) -> ExportSpec:
    return ExportSpec(
        name="tiny", version="1", author="somebody", licence="Apache-2.0", styles=NAMES, target=Target.ONNX,
        backend=Backend.ORT, precision=precision, size=(32, 32), style=style,
    )  # fmt: skip


def make_artifact(file: str) -> Artifact:
    image = image_spec("image", Layout.NCHW, D.FLOAT32, 32, 32)
    return Artifact(
        file=file, target=Target.ONNX, backend=Backend.ORT, precision=Precision.FP32, style=None, size=(32, 32),
        bytes=1, sha256="0" * 64, io=IOSpec(image=image, output=image),
    )  # fmt: skip


@pytest.fixture
def job(network: Generator, tmp_path: Path) -> Job:
    """Two styles baked in fp32."""
    file = tmp_path / "tiny.safetensors"
    sha256 = save_checkpoint(file, network, CheckpointInfo(name="tiny", version="1", styles=NAMES, size=(32, 32)))
    folder = tmp_path / "out"
    folder.mkdir()
    specs = tuple(make_spec(style=style) for style in ("comic", "pencil"))
    return Job(checkpoint=file, checkpoint_sha256=sha256, specs=specs, folder=folder, destination=tmp_path / "dist")


@pytest.fixture
def convert_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Artifact]], None]:
    """Replaces every converter by a function of the spec."""

    def replace(converter: Callable[..., Artifact]) -> None:
        monkeypatch.setattr(registry.TargetRow, "load", lambda self: lambda graph, spec, options: converter(spec))

    return replace


def test_a_conversion_that_fails_does_not_keep_the_next_from_being_tried(job, convert_with) -> None:
    def converter(spec: ExportSpec) -> Artifact:
        if spec.style == "comic":
            raise RuntimeError("no kernel for this\nand a long dump")
        return make_artifact(spec.file_name("onnx"))

    convert_with(converter)
    first, second = run_job(job)
    assert first.artifact is None
    assert first.failure == "the converter failed (RuntimeError: no kernel for this)"
    assert first.error is None
    assert second.artifact is not None
    assert (second.spec.style, second.failure) == ("pencil", "")


def test_a_users_mistake_and_a_missed_gate_keep_their_kind(job, convert_with) -> None:
    errors = iter([UsageError("not like this."), GateError("the fold is wrong.")])

    def converter(spec: ExportSpec) -> Artifact:
        raise next(errors)

    convert_with(converter)
    first, second = run_job(job)
    assert (type(first.error), first.failure) == (UsageError, "not like this.")
    assert (type(second.error), second.failure) == (GateError, "the fold is wrong.")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: No space left on device")],
    ids=["by number", "in a native library's words"],
)
def test_a_full_disk_is_file_trouble_about_the_bundle_and_not_about_a_work_folder(job, convert_with, error) -> None:
    def converter(spec: ExportSpec) -> Artifact:
        raise error

    convert_with(converter)
    conversion = next(run_job(job))
    assert isinstance(conversion.error, FileTroubleError)
    assert str(conversion.error).startswith(f"could not write the bundle '{job.destination}': the disk is full")


def test_a_tools_own_missing_file_is_not_called_a_full_disk(job, convert_with) -> None:
    def converter(spec: ExportSpec) -> Artifact:
        raise FileNotFoundError(errno.ENOENT, "No such file", "libthing.so")

    convert_with(converter)
    conversion = next(run_job(job))
    assert conversion.error is None
    assert "libthing.so" in conversion.failure


def test_a_wrong_fold_is_caught_before_anything_is_converted_from_it(job, convert_with, monkeypatch) -> None:
    from converters import graph

    honest = graph._folded

    def dropping_a_mean(conv, norm, weights):
        left = honest(conv, norm, weights)
        conv.bias.data.mul_(0.9)
        return left

    monkeypatch.setattr(graph, "_folded", dropping_a_mean)
    converted: list[ExportSpec] = []

    def converter(spec: ExportSpec) -> Artifact:
        converted.append(spec)
        return make_artifact("never")

    convert_with(converter)
    for conversion in run_job(job):
        assert isinstance(conversion.error, GateError)
        assert "a norm was folded wrongly" in conversion.failure
    assert not converted


# --- the process -----------------------------------------------------------------------------------------------------


class Crashing(JobProcess):
    """Answers the first spec and is killed by a signal."""

    program: ClassVar[str] = """
import os, pickle, sys
from converters.job import Conversion
job = pickle.load(sys.stdin.buffer)
pickle.dump(Conversion(spec=job.specs[0], artifact=None, failure="first"), sys.stdout.buffer)
sys.stdout.flush()
sys.stderr.write("a native library's last words")
sys.stderr.flush()
os.kill(os.getpid(), 11)
"""


class Hanging(JobProcess):
    """Reads the job and never answers."""

    program: ClassVar[str] = "import sys, time; sys.stdin.buffer.read(); time.sleep(600)"


def test_a_crash_leaves_the_results_before_it_and_says_the_signal_and_the_last_words(job) -> None:
    with Crashing(job) as process:
        first, second = process.conversions()
    assert first.failure == "first"
    assert second.spec == job.specs[1]
    assert second.failure == "the converter's process ended early (signal SIGSEGV): a native library's last words"


def test_a_hang_is_ended_and_said(job) -> None:
    with Hanging(job, time_limit_s=1.0) as process:
        failures = [conversion.failure for conversion in process.conversions()]
    assert failures == ["no result within 1 s: ended"] * 2


def test_a_process_can_be_ended_from_outside(job) -> None:
    with Hanging(job) as process:
        process.kill()
        failures = [conversion.failure for conversion in process.conversions()]
    assert all("ended early (signal SIGKILL)" in failure for failure in failures)


def test_leaving_the_block_leaves_no_process(job) -> None:
    with Hanging(job) as process:
        assert process._process is not None
        number = process._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_the_real_process_finds_a_checkpoint_that_vanished(job) -> None:
    gone = dataclasses.replace(job, checkpoint=job.checkpoint.with_name("gone.safetensors"))
    with JobProcess(gone) as process:
        first, second = process.conversions()
    assert isinstance(first.error, UsageError)
    assert "gone.safetensors does not exist" in first.failure
    assert second.failure == first.failure


def test_a_checkpoint_that_was_replaced_meanwhile_is_refused_before_anything_is_converted(job, convert_with) -> None:
    convert_with(lambda spec: pytest.fail("converted"))
    other = Generator(GeneratorConfig(styles=3))
    save_checkpoint(job.checkpoint, other, CheckpointInfo(name="tiny", version="1", styles=NAMES, size=(32, 32)))
    for conversion in run_job(job):
        assert isinstance(conversion.error, UsageError)
        assert "was replaced while it was being exported" in conversion.failure


def test_what_travels_between_the_processes_survives_the_journey(job) -> None:
    sent = Conversion(spec=job.specs[0], artifact=None, failure="f", error=FileTroubleError("the disk."), seconds=1.0)
    got = pickle.loads(pickle.dumps(sent))
    assert got.spec == sent.spec
    assert str(got.error) == "the disk."
    assert pickle.loads(pickle.dumps(job)) == job
