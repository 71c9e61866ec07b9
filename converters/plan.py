"""What an export will do, worked out and checked before anything is done.

Everything that can be refused is refused here, and all of it at once.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters.problems import Problems
from converters.ranges import RangeMethod
from converters.registry import ALL, EXTRA, REFERENCE_PACKAGES, Choice, TargetRow, choose, missing_packages
from sdk.bundle import BundleWriter, ModelInfo
from sdk.errors import MissingRuntimeError, UsageError, unknown_name
from sdk.files import disk_trouble
from sdk.spec import Precision, Target, parse_size

if TYPE_CHECKING:
    from converters.request import ExportSpec
    from training.checkpoint import Checkpoint, NamedCheckpoint

#: Words for ``--float-layers``: as few as the gates need, and none at all.
AUTO, NONE = "auto", "none"
#: How many photos the float model is proven with, and ``reference/`` holds.
PICTURES = 3
#: Model and style names become parts of file names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was found to be possible.

    Attributes:
        checkpoint_file, checkpoint, model: what is exported, and what a bundle says of it.
        specs: the artifacts; those of one target, style and size come one after another.
        refused: what ``all`` stands for and this network cannot be exported to, each with the reason.
        photos: to prove the float model with.
        calibration: a folder of photos that were read once; ``None`` when no spec is int8.
        out: the bundle's folder.
        ranges: how int8 ranges follow from what calibration saw.
        float_layers: module paths that int8 leaves in float; ``None``: as few as the gates need.
        min_ssim, verify, dynamic_batch, seed, jobs: as ``converters.export.export`` takes them.
    """

    checkpoint_file: Path
    checkpoint: Checkpoint | NamedCheckpoint
    model: ModelInfo
    specs: tuple[ExportSpec, ...]
    photos: tuple[Path, ...]
    calibration: Path | None
    out: Path
    min_ssim: float | None
    verify: bool
    dynamic_batch: bool
    seed: int
    jobs: int
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES
    float_layers: tuple[str, ...] | None = None
    refused: tuple[tuple[ExportSpec, str], ...] = ()


def make_plan(
    *,
    targets: Sequence[str],
    backend: str | None,
    precisions: Sequence[str],
    checkpoint: Path | None,
    styles: Sequence[str],
    sizes: Sequence[str],
    out: Path,
    calibration: Path | None,
    min_ssim: float | None,
    verify: bool,
    dynamic_batch: bool,
    seed: int,
    jobs: int,
    ranges: str = RangeMethod.LEAST_SQUARES,
    float_layers: Sequence[str] = (AUTO,),
) -> Plan:
    """Checks a request; arguments as ``converters.export.export`` has them, each as a sequence or path.

    Raises:
        UsageError, MissingRuntimeError, FileTroubleError: what is wrong, everything in one error.
    """
    problems = Problems()
    choices = choose(targets, backend, precisions, problems=problems)
    parsed: list[tuple[int, int]] = []
    for text in dict.fromkeys(sizes):
        with problems.collect():
            parsed.append(parse_size(text))
    if min_ssim is not None and not 0 < min_ssim <= 1:
        problems.add(UsageError(f"--min-ssim is {min_ssim:g}: give a number above 0 and at most 1."))
    method = RangeMethod.LEAST_SQUARES
    if ranges in list(RangeMethod):
        method = RangeMethod(ranges)
    else:
        problems.add(unknown_name("range method", ranges, list(RangeMethod)))
    if jobs < 1:
        problems.add(UsageError(f"--jobs is {jobs}: give at least 1."))
    if dynamic_batch and choices and not any(choice.row.dynamic_batch for choice in choices):
        rows = ", ".join(dict.fromkeys(choice.row.target for choice in choices))
        problems.add(UsageError(f"--dynamic-batch is not possible for {rows}: leave it out, or export onnx."))
    with problems.collect():
        _check_writable(out)
    _check_tools(problems)
    loaded, file = _load_checkpoint(checkpoint, problems)
    obstacles: list[tuple[Choice, str]] = []
    if loaded is not None:
        obstacles = _check_exportable(loaded, choices, targets, precisions, problems)
        refused = [choice for choice, _ in obstacles]
        choices = tuple(choice for choice in choices if choice not in refused)
    _check_converters(choices, problems)
    baked: list[str | None] = [None]
    if loaded is not None:
        baked = _check_styles(styles, loaded.info.styles, problems)
        _check_names(loaded, problems)
        with problems.collect(), BundleWriter(out, _model_info(loaded)) as writer:
            writer.discard()  # only asked whether it could
    folder: Path | None = None
    if any(choice.precision is Precision.INT8 for choice in choices):
        folder = _check_int8(loaded, calibration, parsed, problems)
    layers = _check_float_layers(float_layers, loaded, baked, problems)
    photos: tuple[Path, ...] = ()
    with problems.collect():
        photos = _find_photos(folder or calibration)
    problems.raise_any()
    assert loaded is not None
    measures = parsed or [loaded.info.size]
    return Plan(
        checkpoint_file=file,
        checkpoint=loaded,
        model=_model_info(loaded),
        specs=tuple(_specs(loaded, choices, baked, measures)),
        refused=tuple((spec, why) for choice, why in obstacles for spec in _specs(loaded, (choice,), baked, measures)),
        photos=photos,
        calibration=folder,
        out=out,
        min_ssim=min_ssim,
        verify=verify,
        dynamic_batch=dynamic_batch,
        seed=seed,
        jobs=jobs,
        ranges=method,
        float_layers=layers,
    )


def _check_tools(problems: Problems) -> None:
    """What every export needs; nothing further can be looked at without it."""
    for package in missing_packages(REFERENCE_PACKAGES):
        problems.add(MissingRuntimeError.for_extra("exporting", package, EXTRA))
    _stop_without_tools(problems)


def _check_converters(choices: Iterable[Choice], problems: Problems) -> None:
    """What the targets need that are left, which is not asked of a host for those that are refused."""
    for row in unique_rows(choice.row for choice in choices):
        with problems.collect():
            row.require()
    _stop_without_tools(problems)


def _stop_without_tools(problems: Problems) -> None:
    if any(isinstance(problem, MissingRuntimeError) for problem in problems.found):
        problems.raise_any()


def _load_checkpoint(path: Path | None, problems: Problems) -> tuple[Checkpoint | NamedCheckpoint | None, Path]:
    from training.checkpoint import PRETRAINED, load_any_checkpoint

    file = path or PRETRAINED
    with problems.collect():
        return load_any_checkpoint(file), file
    return None, file


def _check_exportable(
    checkpoint: Checkpoint | NamedCheckpoint,
    choices: Sequence[Choice],
    targets: Sequence[str],
    precisions: Sequence[str],
    problems: Problems,
) -> list[tuple[Choice, str]]:
    """The choices that the network cannot be exported to, and why.

    ``all`` means what there is, so that they are left out then. It is a mistake when a target or a precision that was
    named has nothing left, or a pair of them was named in full.
    """
    from converters.graph import export_obstacle

    obstacles: list[tuple[Choice, str]] = []
    served: set[str] = set()
    for choice in choices:
        obstacle = export_obstacle(checkpoint.generator, choice.row.target, choice.precision)
        if obstacle is None:
            served |= {choice.row.target, choice.precision}
        else:
            obstacles.append((choice, obstacle))
    unserved = {*targets, *precisions} - served - {ALL}
    in_full = ALL not in targets and ALL not in precisions
    for choice, obstacle in obstacles:
        if in_full or not served or unserved & {choice.row.target, choice.precision}:
            problems.add(
                UsageError(
                    f"{checkpoint.info.name} cannot be exported to {choice.row.target} as {choice.precision}: "
                    f"{obstacle}; export {Target.ONNX} as {Precision.FP32}."
                )
            )
    return obstacles


def _check_styles(names: Sequence[str], known: tuple[str, ...], problems: Problems) -> list[str | None]:
    """Styles to bake; ``None`` is the artifact with all of them."""
    chosen: list[str | None] = []
    for name in dict.fromkeys(names or (ALL,)):
        if name == ALL:
            chosen.append(None)
        elif name in known:
            chosen.append(name)
        else:
            problems.add(unknown_name("style", name, [*known, ALL]))
    return chosen


def _check_names(checkpoint: Checkpoint | NamedCheckpoint, problems: Problems) -> None:
    for kind, name in [("model", checkpoint.info.name), *(("style", style) for style in checkpoint.info.styles)]:
        if not _NAME.fullmatch(name):
            problems.add(
                UsageError(
                    f"the checkpoint's {kind} name {name!r} cannot be a part of a file name: "
                    "use letters, digits, dots and hyphens."
                )
            )


def _check_int8(
    checkpoint: Checkpoint | NamedCheckpoint | None,
    folder: Path | None,
    sizes: Sequence[tuple[int, int]],
    problems: Problems,
) -> Path:
    """The folder of calibration photos, all of which were read."""
    from converters.calibration import DEFAULT_PHOTOS, load_calibration
    from converters.graph import deployable, require_int8

    folder = folder or DEFAULT_PHOTOS
    if checkpoint is not None:
        with problems.collect():
            require_int8(deployable(checkpoint.generator))
    with problems.collect():
        load_calibration(folder, size=sizes[0] if sizes else (64, 64), styles=1)
    return folder


def _check_float_layers(
    names: Sequence[str],
    checkpoint: Checkpoint | NamedCheckpoint | None,
    styles: Sequence[str | None],
    problems: Problems,
) -> tuple[str, ...] | None:
    """The layers named; ``None`` for ``auto``, nothing for ``none``."""
    from converters.graph import deployable
    from converters.request import check_layers
    from sdk.spec import style_weights

    words = [name for name in names if name in (AUTO, NONE)]
    if words and len(names) > 1:
        problems.add(UsageError(f"--float-layers {words[0]} stands alone: leave it out, or the other layers."))
    elif words or not names:
        return None if AUTO in words else ()
    elif checkpoint is not None:
        for style in styles[:1] if None in styles else styles:
            weights = None if style is None else style_weights(style, checkpoint.info.styles)
            with problems.collect():
                check_layers(deployable(checkpoint.generator, style=weights), names)
    return tuple(dict.fromkeys(names))


def _check_writable(out: Path) -> None:
    """Looks whether a folder can be made beside ``out``, which is where the work happens.

    Raises:
        FileTroubleError: when it cannot.
    """
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    with disk_trouble("write the bundle", out):
        Path(tempfile.mkdtemp(dir=place, prefix=f".{out.name}.probe-")).rmdir()


def _find_photos(calibration: Path | None) -> tuple[Path, ...]:
    """Photos to prove the float model with: the test photos of the repository, else the calibration photos."""
    from converters.calibration import DEFAULT_PHOTOS
    from sdk.imaging import list_photos

    test = DEFAULT_PHOTOS.parent / "test"
    for folder in (test, calibration):
        if folder is not None and folder.is_dir():
            photos = list_photos(folder)
            step = max(1, len(photos) // PICTURES)
            return tuple(photos[step // 2 :: step][:PICTURES])
    raise UsageError(
        f"there are no photos to prove the export with (no folder {test}): give a folder with --calibration."
    )


def _model_info(checkpoint: Checkpoint | NamedCheckpoint) -> ModelInfo:
    from training.models.generator import count_params
    from training.models.named import network_macs

    info = checkpoint.info
    return ModelInfo(
        name=info.name,
        version=info.version,
        checkpoint_sha256=checkpoint.sha256,
        styles=info.styles,
        params=count_params(checkpoint.generator),
        macs=network_macs(checkpoint.generator, *info.size),
        macs_size=info.size,
        licence=info.licence,
        author=info.author,
    )


def _specs(
    checkpoint: Checkpoint | NamedCheckpoint,
    choices: Sequence[Choice],
    styles: Sequence[str | None],
    sizes: Sequence[tuple[int, int]],
) -> Iterator[ExportSpec]:
    from converters.request import ExportSpec

    # Precisions innermost: the artifacts of one graph and size come one after another and share its trace.
    for row in unique_rows(choice.row for choice in choices):
        for style in styles:
            for size in sizes:
                for choice in choices:
                    if choice.row is row:
                        yield ExportSpec.of(
                            checkpoint.info,
                            target=row.target,
                            backend=row.backend,
                            precision=choice.precision,
                            size=size,
                            style=style,
                        )


def unique_rows(rows: Iterable[TargetRow]) -> list[TargetRow]:
    """Each row once, in the order they come."""
    found: list[TargetRow] = []
    for row in rows:
        if row not in found:
            found.append(row)
    return found
