"""From a checkpoint to a proven bundle: the pipeline, and the command line ``python -m converters.export``.

1. Everything that was asked for is checked, and refused at once, before any work (``converters.plan``).
2. ``reference.onnx`` is written and proven against the checkpoint's own network (``converters.to_onnx``).
3. Each target's artifacts are converted in a process of their own, two at a time (``converters.job``), and each is
   read back from disk and judged by ``sdk.verify`` (``converters.produce``); what fails goes to ``rejected/``.
4. Manifest, model card and reference pictures are written, and the folder is swapped into place.

An error leaves the output folder as it was.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from converters.plan import AUTO, NONE, Plan, make_plan
from converters.produce import Result, Status, file_of, produce
from converters.ranges import RangeMethod
from converters.registry import ALL, backend_help, precision_help, target_help
from sdk import console
from sdk.bundle import MANIFEST, Artifact, Bundle, BundleWriter, ReferencePicture, hash_path
from sdk.errors import ExitCode
from sdk.files import disk_trouble, write_atomically

if TYPE_CHECKING:
    import numpy as np

#: Where an export goes unless told otherwise.
DEFAULT_OUT = Path("dist")
#: Converter processes at a time: each needs up to 2 GB.
DEFAULT_JOBS = 2
CARD = "README.md"
#: A size no artifact has, with unequal sides, at which the float model is proven as well.
_ODD_SIZE = (96, 160)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export did; true when every gate passed.

    Attributes:
        bundle: the folder as it is now.
        results: one an artifact that was asked for, in the order of the request; last what ``all`` stands for and the
            network cannot be exported to.
        reference_max_abs: the float model's largest difference from the checkpoint's network.
        seconds: all of it.
    """

    bundle: Bundle
    results: tuple[Result, ...]
    reference_max_abs: float
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(result.status is not Status.FAIL for result in self.results)

    @property
    def exit_code(self) -> ExitCode:
        """1 when a gate failed, otherwise 0."""
        return ExitCode.OK if self.ok else ExitCode.GATE_FAILED

    def __bool__(self) -> bool:
        return self.ok

    def explain(self) -> str:
        """One sentence."""
        counts = {status: sum(result.status is status for result in self.results) for status in Status}
        said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        size = sum(artifact.bytes for artifact in self.bundle.artifacts) / 1e6
        return (
            f"{said}; {self.bundle.folder} holds {len(self.bundle.artifacts)} artifacts ({size:.1f} MB), "
            f"{self.seconds:.0f} s."
        )


def export(
    *,
    target: str | Sequence[str] = ALL,
    backend: str | None = None,
    precision: str | Sequence[str] = (),
    checkpoint: str | Path | None = None,
    style: str | Sequence[str] = (),
    size: str | Sequence[str] = (),
    out: str | Path = DEFAULT_OUT,
    calibration: str | Path | None = None,
    min_ssim: float | None = None,
    verify: bool = True,
    dynamic_batch: bool = False,
    seed: int = 0,
    jobs: int = DEFAULT_JOBS,
    ranges: str = RangeMethod.LEAST_SQUARES,
    float_layers: str | Sequence[str] = AUTO,
    progress: Callable[[Result], None] | None = None,
) -> ExportResult:
    """Exports a checkpoint and proves every artifact; adds to the bundle in ``out`` when it is of the same checkpoint.

    Args:
        target: ``executorch``, ``coreml``, ``tflite``, ``onnx`` or ``all``; one or several. What ``all`` stands for
            here or in ``precision`` and the network cannot be exported to is a result of its own, not a mistake.
        backend: where a target has several; by default its first.
        precision: ``fp32``, ``fp16``, ``int8`` or ``all``; by default each target's own default.
        checkpoint: a ``.safetensors`` file; by default the one that ships with the project.
        style: styles to bake, one artifact each; ``all`` is the artifact with every style, which is also the default.
        size: ``HxW`` in pixels, divisible by 16; by default what the network was trained for.
        out: the bundle's folder.
        calibration: a folder of at least 16 photos, for int8; by default the project's own.
        min_ssim: least SSIM that any photo in any style may have, on top of the gates of ``sdk.verify``.
        verify: read each artifact back and judge it. Without, nothing is known of what is in the bundle.
        dynamic_batch: any batch size, for the targets that can.
        seed: of the order of the calibration photos.
        jobs: converter processes at a time.
        ranges: how int8 ranges follow from what calibration saw (``converters.ranges.RangeMethod``).
        float_layers: what int8 leaves in float: module paths of the deployed graph, ``none``, or ``auto``: the few
            layers it needs to meet its gate on calibration photos, which are none when it does without
            (``converters.sensitivity``).
        progress: called with each result as it comes.

    Returns:
        What was done. A failed gate is a result, not an exception: look at ``ok``.

    Raises:
        UsageError: whatever is wrong with the request or the checkpoint, all at once.
        GateError: the float model does not reproduce the checkpoint's network.
        MissingRuntimeError: a tool is not installed; names the extra.
        FileTroubleError: the disk says no.
    """
    started = time.perf_counter()
    plan = make_plan(
        targets=_names(target),
        backend=backend,
        precisions=_names(precision),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        styles=_names(style),
        sizes=_names(size),
        out=Path(out),
        calibration=None if calibration is None else Path(calibration),
        min_ssim=min_ssim,
        verify=verify,
        dynamic_batch=dynamic_batch,
        seed=seed,
        jobs=jobs,
        ranges=ranges,
        float_layers=_names(float_layers),
    )
    refused = tuple(
        Result(file=file_of(spec), artifact=None, status=Status.REFUSED, reason=reason) for spec, reason in plan.refused
    )
    if progress is not None:
        for result in refused:
            progress(result)
    with BundleWriter(plan.out, plan.model) as writer:
        max_abs = _write_reference(plan, writer)
        results = produce(plan, writer.folder, writer.staged().manifest.reference, progress)
        for result in results:
            if result.artifact is not None and result.status is Status.FAIL:
                writer.reject(result.artifact, _verdict_text(result))
            elif result.artifact is not None:
                writer.add(result.artifact)
        _write_card(plan, writer, results)
        bundle = writer.commit()
    return ExportResult(
        bundle=bundle, results=(*results, *refused), reference_max_abs=max_abs, seconds=time.perf_counter() - started
    )


# --- the float model ----------------------------------------------------------------------------------------------


def _write_reference(plan: Plan, writer: BundleWriter) -> float:
    """Writes and proves ``reference.onnx`` and draws the reference pictures; returns the largest difference found."""
    from converters.to_onnx import draw_reference, prove_reference, write_reference
    from sdk.verify import load_photos

    earlier = writer.reference
    reference = write_reference(plan.checkpoint, writer.folder)
    sizes = tuple(dict.fromkeys(spec.size for spec in plan.specs))
    photos = {size: load_photos(plan.photos, size) for size in (*sizes, _ODD_SIZE)}
    as_bytes = [_to_bytes(photo) for size in photos for photo in photos[size]]
    path = writer.folder / reference.file
    max_abs = prove_reference(path, plan.checkpoint, as_bytes)
    pictures: list[ReferencePicture] = []
    for size in sizes:
        drawn = draw_reference(path, photos[size], len(plan.model.styles))
        pictures += _save_pictures(writer.folder, size, plan, photos[size], drawn)
    new = {picture.result for picture in pictures}
    kept = [p for p in (earlier.pictures if earlier else ()) if p.result not in new]
    writer.set_reference(dataclasses.replace(reference, pictures=(*kept, *pictures)))
    return max_abs


def _save_pictures(
    folder: Path, size: tuple[int, int], plan: Plan, photos: np.ndarray, drawn: np.ndarray
) -> list[ReferencePicture]:
    """Writes ``photos`` (``P x H x W x 3``) and ``drawn`` (``S x P x H x W x 3``), both in [0, 1], as 8-bit PNGs."""
    from PIL import Image

    place = Path("reference", f"{size[0]}x{size[1]}")
    with disk_trouble("write the bundle", plan.out):
        (folder / place).mkdir(parents=True, exist_ok=True)
        made: list[ReferencePicture] = []
        for index, source in enumerate(plan.photos):
            photo = place / f"{source.stem}.png"
            Image.fromarray(_to_bytes(photos[index])).save(folder / photo)
            for row, style in enumerate(plan.model.styles):
                result = place / f"{source.stem}_{style}.png"
                Image.fromarray(_to_bytes(drawn[row, index])).save(folder / result)
                made.append(
                    ReferencePicture(
                        photo=photo.as_posix(),
                        photo_sha256=hash_path(folder / photo),
                        style=style,
                        result=result.as_posix(),
                        result_sha256=hash_path(folder / result),
                    )
                )
    return made


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    """``H x W x 3`` in [0, 1] to uint8, rounded half to even."""
    import numpy as np

    return np.rint(np.clip(picture, 0, 1) * np.float32(255)).astype(np.uint8)


# --- the bundle ---------------------------------------------------------------------------------------------------


def _verdict_text(result: Result) -> str:
    from sdk.report import verdict_text

    assert result.verdict is not None  # what was converted and failed was verified
    return verdict_text(result.verdict)


def _write_card(plan: Plan, writer: BundleWriter, results: Sequence[Result]) -> None:
    from converters.card import model_card

    staged = writer.staged()
    artifacts = {a.file: a for a in (*_earlier_artifacts(plan.out), *staged.artifacts)}
    verdicts = {r.file: r.verdict for r in results if r.verdict is not None and r.status is not Status.FAIL}
    card = model_card(
        plan.model,
        staged.manifest.reference,
        list(artifacts.values()),
        verdicts,
        provenance=plan.checkpoint.info.provenance,
        credits=_credits(plan.photos),
    )
    write_atomically(writer.folder / CARD, card)


def _earlier_artifacts(out: Path) -> tuple[Artifact, ...]:
    return Bundle.open(out).artifacts if (out / MANIFEST).is_file() else ()


def _credits(photos: Sequence[Path]) -> list[str]:
    """Author and licence of photos that come from the repository's list, which their licences ask to be told."""
    lines = []
    for photo in photos:
        table = photo.parent.parent / "photos.csv"
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    if row["file"] == f"{photo.parent.name}/{photo.name}":
                        lines.append(
                            f"`{photo.stem}`: by {row['author']}, from {row['package']}, licence {row['licence']}; "
                            "cropped and scaled."
                        )
    return lines


def _names(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


# --- command line ----------------------------------------------------------------------------------------------------

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def command(
    *,
    target: Annotated[list[str] | None, typer.Option(help=target_help())] = None,
    backend: Annotated[str | None, typer.Option(help=backend_help())] = None,
    precision: Annotated[list[str] | None, typer.Option(help=precision_help())] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A .safetensors checkpoint.  [default: the one that ships with the project]")
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(help=f"Bake this style in; repeatable. '{ALL}' is every style in one file.  [default: {ALL}]"),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(help="HxW in pixels, divisible by 16; repeatable.  [default: what the network was trained for]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The bundle's folder; one of the same checkpoint is added to.")] = (
        DEFAULT_OUT
    ),
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of at least 16 photos, for int8.  [default: the project's]")
    ] = None,
    min_ssim: Annotated[
        float | None, typer.Option(help="Least SSIM of any photo in any style, on top of the gates.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not read the artifacts back.")] = False,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Any batch size, for targets that can.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the calibration photos.")] = 0,
    jobs: Annotated[int, typer.Option(help="Converter processes at a time.")] = DEFAULT_JOBS,
    ranges: Annotated[
        str, typer.Option(help=f"How int8 ranges follow from what calibration saw: {', '.join(RangeMethod)}.")
    ] = RangeMethod.LEAST_SQUARES.value,
    float_layers: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A layer that int8 leaves in float; repeatable. '{AUTO}': the few that it needs to meet its gate; "
            f"'{NONE}'.  [default: {AUTO}]"
        ),
    ] = None,
) -> None:
    """Export a checkpoint to phone runtimes and prove each artifact; exit 1 when one fails its gate."""
    with console.progress(None, "exporting") as step:

        def show(result: Result) -> None:
            console.say(result_line(result))
            step()

        result = export(
            target=target or ALL,
            backend=backend,
            precision=precision or (),
            checkpoint=checkpoint,
            style=style or (),
            size=size or (),
            out=out,
            calibration=calibration,
            min_ssim=min_ssim,
            verify=not no_verify,
            dynamic_batch=dynamic_batch,
            seed=seed,
            jobs=jobs,
            ranges=ranges,
            float_layers=float_layers or AUTO,
            progress=show,
        )
    console.say(result.explain())
    if no_verify:
        console.note("nothing was read back: run `python -m sdk verify` before anything is shipped.")
    raise typer.Exit(int(result.exit_code))


def result_line(result: Result) -> str:
    """One line: status, file, size, worst SSIM, largest difference, seconds, and the reason when there is one."""
    parts = [f"{result.status:<12}", result.file]
    if result.artifact is not None:
        parts.append(f"{result.artifact.bytes / 1e6:.2f} MB")
    verdict = result.verdict
    if verdict is not None and verdict.ssim is not None and verdict.max_abs is not None:
        parts.append(f"SSIM {verdict.ssim.mean:.4f} worst {verdict.ssim.worst:.4f}, max-abs {verdict.max_abs:.2g}")
    if result.status is not Status.REFUSED:
        parts.append(f"{result.seconds:.1f} s")
    return "  ".join(parts) + (f"  ({result.reason})" if result.reason else "")


class _CallableModule(ModuleType):
    """Lets ``converters.export`` be the function as well as the module: a submodule hides any name of its package."""

    def __call__(self, **options: Any) -> ExportResult:
        return export(**options)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    console.run(app, prog_name="python -m converters.export")
