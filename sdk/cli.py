"""The command line: ``python -m sdk`` and ``toonedge``.

This file says what the commands are called and how their results look; the work is in the modules they import, each
inside its command, so that ``--help`` loads neither numpy nor a runtime. ``export``, ``prune``, ``qat``,
``train`` and ``evaluate`` belong to other rooms: their arguments are handed on as they are.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sdk import console
from sdk.errors import MissingRuntimeError, ToonEdgeError, UsageError, unknown_name

if TYPE_CHECKING:
    from sdk.bench import Measurement
    from sdk.bundle import Artifact, Bundle
    from sdk.profile import ArtifactProfile
    from sdk.stylize import Stylizer
    from sdk.verify import Verdict

#: Where an export goes unless told otherwise, and so where a bundle is looked for first.
EXPORTED = Path("dist")

#: Command to (module that is run, extra that it needs, what ``--help`` says).
FORWARDED: dict[str, tuple[str, str, str]] = {
    "export": ("converters.export", "export", "Export a checkpoint to phone runtimes and prove each artifact."),
    "prune": ("converters.prune", "export", "Prune a checkpoint step by step, with recovery."),
    "qat": ("converters.qat", "export", "Fine-tune a checkpoint with int8 rounding in its graph."),
    "train": ("training.train", "train", "Train a generator."),
    "evaluate": ("training.evaluate", "train", "Judge a checkpoint on held-out photos."),
}

app = typer.Typer(
    name="toonedge",
    help="Read back, prove, time and use the artifacts of a cartoon bundle.",
    no_args_is_help=True,
    # Rich's help would double the time of --help; a traceback is for mistakes of ours and stays plain.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

_FOUND = "[default: dist, or else the one that ships with toonedge]"
_BundleArgument = Annotated[Path | None, typer.Argument(help=f"The bundle's folder.  {_FOUND}", show_default=False)]
_BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help=f"The bundle's folder, or one artifact in it.  {_FOUND}")
]
_PhotosArgument = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO...")]
_RuntimesOption = Annotated[
    list[str] | None,
    typer.Option("--runtimes", help="Only these runtimes: names, comma-separated or repeated.  [default: all here]"),
]
_ArtifactOption = Annotated[
    str | None, typer.Option(help="The artifact's file name, or 'reference'.  [default: the best that runs here]")
]
_RuntimeOption = Annotated[str | None, typer.Option(help="The runtime.  [default: the fastest that is here]")]
_ThreadsOption = Annotated[int, typer.Option(help="Worker threads of each runtime.")]
_JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file, as JSON.")]


def main() -> NoReturn:
    """Runs the command line and exits (see ``sdk.console.run``)."""
    console.run(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            console.say(f"toonedge {version('toonedge')}")
        except PackageNotFoundError:
            console.say("toonedge, run from its sources")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Holds the options of ``toonedge`` itself."""


# ------------------------------------------------------------------------------------------------ proving and timing


@app.command()
def verify(
    *,
    bundle: _BundleArgument = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of photos to verify with.  [default: the project's test photos]")
    ] = None,
    json: _JsonOption = None,
    runtimes: _RuntimesOption = None,
    artifact: Annotated[list[str] | None, typer.Option(help="Only this artifact; repeatable.")] = None,
    threads: _ThreadsOption = 2,
) -> None:
    """Prove every artifact against the float model; exit 1 when one fails its gate."""
    from sdk.report import write_json
    from sdk.verify import Outcome
    from sdk.verify import verify as run_verify

    _check_json(json)
    with console.progress(None, "verifying") as step:
        report = run_verify(
            _bundle_or_default(bundle),
            images=images,
            runtimes=_names(runtimes),
            artifacts=artifact,
            threads=threads,
            progress=lambda _: step(),
        )
    if json is not None:
        write_json(report, json)
    console.table(_VERDICT_COLUMNS, [_verdict_row(v) for v in report.results], right=_VERDICT_COLUMNS[3:])
    for verdict in report.results:
        if verdict.reason:
            console.say(f"{verdict.verdict}: {verdict.file} ({verdict.runtime}): {verdict.reason}")
    for passed in report.left_out:
        console.say(f"left out: {passed.runtime}: {passed.reason}")
    counts = {outcome: sum(v.verdict is outcome for v in report.results) for outcome in Outcome}
    console.say(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    raise typer.Exit(int(report.exit_code))


@app.command()
def bench(
    *,
    bundle: _BundleArgument = None,
    threads: _ThreadsOption = 2,
    runs: Annotated[int, typer.Option(help="Timed runs of each artifact in a round.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds; the artifacts take turns in each.")] = 5,
    warm_up: Annotated[int, typer.Option(help="Runs before that do not count.")] = 10,
    json: _JsonOption = None,
    runtimes: _RuntimesOption = None,
    artifact: Annotated[list[str] | None, typer.Option(help="Only this artifact; repeatable.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Time every operator instead of the whole.")] = False,
) -> None:
    """Time every artifact on this host: latency, load time and memory (never a phone's).

    With --profile: what each operator takes, by the runtime's own profiler, over rounds x runs runs.
    """
    from sdk.bench import bench as run_bench
    from sdk.report import write_bench_json

    _check_json(json)
    folder = _bundle_or_default(bundle)
    if profile:
        _bench_operators(folder, _names(runtimes), artifact, threads, runs * rounds, warm_up, json)
        return
    report = run_bench(
        folder,
        runtimes=_names(runtimes),
        artifacts=artifact,
        threads=threads,
        rounds=rounds,
        runs=runs,
        warm_up=warm_up,
    )
    if json is not None:
        write_bench_json(report, json)
    console.say(f"{report.host.cpu} ({', '.join(report.host.isa) or 'no extensions known'}), {threads} threads")
    console.table(_BENCH_COLUMNS, [_bench_row(m) for m in report.results], right=_BENCH_COLUMNS[2:])
    for measurement in report.results:
        if measurement.reason:
            console.say(f"not timed: {measurement.file} ({measurement.runtime}): {measurement.reason}")


def _bench_operators(  # noqa: PLR0917 - the options of ``bench``, in its order
    bundle: Path,
    runtimes: list[str] | None,
    artifacts: list[str] | None,
    threads: int,
    runs: int,
    warm_up: int,
    json: Path | None,
) -> None:
    from sdk.profile import profile as run_profile
    from sdk.report import write_profile_json

    made = run_profile(bundle, runtimes=runtimes, artifacts=artifacts, threads=threads, runs=runs, warm_up=warm_up)
    if json is not None:
        write_profile_json(made, json)
    console.say(f"{made.host.cpu} ({', '.join(made.host.isa) or 'no extensions known'}), {threads} threads")
    for one in made.profiles:
        if one.latency_ms is not None:
            _show_profile(one)
    for one in made.profiles:
        if one.reason:
            console.say(f"not profiled: {one.file} ({one.runtime}): {one.reason}")


def _show_profile(profile: ArtifactProfile) -> None:
    from sdk.report.profile_ import dearest, extents

    assert profile.latency_ms is not None
    console.say(f"\n{profile.file} ({profile.runtime}): p50 {profile.latency_ms.p50:.2f} ms bare")
    rows = [[kind.kind, str(kind.count), f"{kind.ms:.3f}", f"{kind.share:.1%}"] for kind in profile.kinds]
    for name, ms in (("outside operators", profile.outside_ms), ("whole run, profiled", profile.profiled_ms)):
        assert ms is not None
        assert profile.profiled_ms is not None
        rows.append([name, "", f"{ms:.3f}", f"{ms / profile.profiled_ms:.1%}"])
    console.table(_KIND_COLUMNS, rows, right=_KIND_COLUMNS[1:])
    console.say()
    top = [
        [one.name, extents(one), one.delegate or "no", f"{one.ms:.3f}", f"{one.share:.1%}"] for one in dearest(profile)
    ]
    console.table(_OPERATOR_COLUMNS, top, right=_OPERATOR_COLUMNS[3:])


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="The JSON that verify or bench wrote.", metavar="REPORT.json")],
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")] = None,
) -> None:
    """Show a report as a Markdown table."""
    from sdk.bench import BenchReport
    from sdk.files import write_atomically
    from sdk.profile import ProfileReport
    from sdk.report import bench_markdown_text, markdown_text, profile_markdown_text
    from sdk.report.read import read_json

    content = read_json(file)
    if isinstance(content, BenchReport):
        text = bench_markdown_text(content)
    else:
        text = profile_markdown_text(content) if isinstance(content, ProfileReport) else markdown_text(content)
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomically(out, text)


# ----------------------------------------------------------------------------------------------------------- looking


@app.command()
def info(bundle: _BundleArgument = None) -> None:
    """Show what a bundle holds."""
    from sdk.bundle import Bundle

    opened = Bundle.open(_bundle_or_default(bundle))
    model = opened.manifest.model
    height, width = model.macs_size
    lines = {
        "model": f"{model.name} {model.version} ({model.licence}, {model.author})",
        "styles": ", ".join(model.styles),
        "size": f"{model.params:,} parameters, {model.macs / 1e9:.2f} GMAC at {height}x{width}",
        "checkpoint": model.checkpoint_sha256[:16],
        "reference": f"{opened.manifest.reference.file}, {opened.manifest.reference.bytes:,} bytes",
        "toonedge": opened.manifest.toonedge,
    }
    for name, value in lines.items():
        console.say(f"{name + ':':<12}{value}")
    console.say()
    console.table(_INFO_COLUMNS, [_info_row(a) for a in opened.artifacts], right=("bytes",))


@app.command()
def doctor() -> None:
    """Show which runtimes are here and what installs the others."""
    from sdk.runtimes import RUNTIMES, get_runtime

    rows = []
    for name in RUNTIMES:
        runtime = get_runtime(name)
        found = runtime.available()
        remedy = found.reason if found.by_host else f"pip install 'toonedge[{runtime.extra}]'"
        targets = ", ".join(sorted(target.value for target in runtime.targets))
        rows.append([name, targets, "yes" if found.ok else "no", found.version or "", "" if found.ok else remedy])
    heif = importlib.util.find_spec("pillow_heif") is not None
    rows.append(["HEIC photos", "", "yes" if heif else "no", "", "" if heif else "pip install 'toonedge[heif]'"])
    for command, (_, extra, _) in FORWARDED.items():
        ready = _is_ready(command)
        remedy = "" if ready else f"pip install 'toonedge[{extra}]'"
        rows.append([f"toonedge {command}", "", "yes" if ready else "no", "", remedy])
    console.table(("runtime or command", "targets", "here", "version", "to get it"), rows)


# ----------------------------------------------------------------------------------------------------------- drawing


@app.command()
def stylize(
    *,
    photos: _PhotosArgument,
    bundle: _BundleOption = None,
    style: Annotated[
        list[str] | None,
        typer.Option(help="A style, a mix like comic=0.7,pencil=0.3, or 'all'; repeatable.  [default: the first]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .png or .jpg for one picture, a folder for several.  [default: .]")
    ] = None,
    strength: Annotated[float, typer.Option(help="From 0, the photo, to 1, the cartoon.")] = 1.0,
    fit: Annotated[str, typer.Option(help="'whole' keeps all of the photo, 'crop' its centre.")] = "whole",
    full_size: Annotated[bool, typer.Option("--full-size", help="Resize the result to the photo's size.")] = False,
    max_side: Annotated[int, typer.Option(help="Longest side, px, with --artifact reference.")] = 1024,
    keep_alpha: Annotated[bool, typer.Option("--keep-alpha", help="Keep a photo's transparency (PNG).")] = False,
    artifact: _ArtifactOption = None,
    runtime: _RuntimeOption = None,
    threads: Annotated[int | None, typer.Option(help="Worker threads.  [default: one a processor, at most 4]")] = None,
) -> None:
    """Draw photos in a style, or in several."""
    from sdk.imaging import read_photo, save_picture
    from sdk.stylize import FITS, load

    if fit not in FITS:
        raise unknown_name("fit", fit, FITS)
    files = _photo_files(photos)
    stylizer = load(_bundle_or_default(bundle), artifact=artifact, runtime=runtime, threads=threads)
    styles = _parse_styles(style, stylizer)
    places = _places(files, list(styles), out)
    troubles: list[ToonEdgeError] = []
    with console.progress(len(places), "drawing") as step:
        for file in files:
            try:
                photo = read_photo(file)
            except ToonEdgeError as error:  # one bad photo among many: say it, draw the others, and fail at the end
                console.fail(error)
                troubles.append(error)
                continue
            for text in photo.notes:
                console.note(f"{file}: {text}")
            for label, mix in styles.items():
                picture = stylizer.stylize(
                    photo,
                    mix,
                    strength=strength,
                    fit=fit,  # type: ignore[arg-type]  # checked above
                    full_size=full_size,
                    max_side=max_side,
                    keep_alpha=keep_alpha,
                )
                console.say(str(save_picture(picture, places[file, label])))
                step()
    if troubles:
        raise typer.Exit(int(troubles[0].exit_code))


@app.command()
def sheet(
    *,
    bundle: Annotated[
        Path | None, typer.Argument(help=f"The bundle's folder, or one artifact in it.  {_FOUND}", show_default=False)
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="A photo or a folder of photos; repeatable.  [default: the bundle's own photos]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="The sheet, .png or .jpg.")] = Path("contact_sheet.png"),
    style: Annotated[list[str] | None, typer.Option(help="A style; repeatable.  [default: all]")] = None,
    cell: Annotated[int, typer.Option(help="Side of a picture on the sheet, px.")] = 224,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many photos.")] = None,
    artifact: _ArtifactOption = None,
    runtime: _RuntimeOption = None,
) -> None:
    """Lay photos and their cartoons out on one contact sheet."""
    from sdk.imaging import check_save_path, save_picture
    from sdk.sheet import stylized_sheet
    from sdk.stylize import load

    check_save_path(out)
    stylizer = load(_bundle_or_default(bundle), artifact=artifact, runtime=runtime)
    files = (_photo_files(images) if images else _own_photos(stylizer.bundle))[:limit]
    model, file = stylizer.bundle.manifest.model, stylizer.engines[0].file
    count = len(files) * len(style or stylizer.styles)
    with console.progress(count, "drawing") as step:
        picture = stylized_sheet(
            stylizer, files, styles=style, title=f"{model.name} {model.version}, {file}", cell=cell, progress=step
        )
    console.say(str(save_picture(picture, out)))


# ------------------------------------------------------------------------------------------------------- other rooms


def _forwarder(command: str) -> None:
    _, _, text = FORWARDED[command]

    @app.command(
        name=command,
        help=text,
        add_help_option=False,  # --help belongs to the command that is run
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    def forwarded(context: typer.Context) -> None:
        forward(command, context.args)


for _command in FORWARDED:
    _forwarder(_command)


def forward(command: str, arguments: Sequence[str]) -> None:
    """Runs another room's command as ``python -m`` would.

    Raises:
        MissingRuntimeError: a package it needs is not installed; names the extra.
    """
    module, extra, _ = FORWARDED[command]
    sys.argv = [f"toonedge {command}", *arguments]
    try:
        if importlib.util.find_spec(module) is None:
            raise MissingRuntimeError(
                f"`toonedge {command}` is not part of this installation: use the whole repository."
            )
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "sdk"):
            raise
        if package in ("training", "converters"):
            raise MissingRuntimeError(
                f"`toonedge {command}` needs the folder {package!r}, which is not installed: use the whole repository."
            ) from error
        raise MissingRuntimeError.for_extra(f"`toonedge {command}`", package, extra) from error


#: Packages that tell whether an extra is installed as a whole.
_TELLTALES = {
    "export": ("torch", "executorch", "litert_torch", "coremltools", "onnxscript"),
    "train": ("torch", "timm", "lightning"),
}


def _is_ready(command: str) -> bool:
    """Whether all that a forwarded command may need is installed; imports nothing."""
    module, extra, _ = FORWARDED[command]
    packages = (module.partition(".")[0], *_TELLTALES[extra])
    return all(importlib.util.find_spec(package) is not None for package in packages)


# ----------------------------------------------------------------------------------------------- reading arguments


def _names(values: Iterable[str] | None) -> list[str] | None:
    """``["a,b", "c"]`` to ``["a", "b", "c"]``."""
    names = [name.strip() for value in values or () for name in value.split(",") if name.strip()]
    return names or None


def _check_json(path: Path | None) -> None:
    if path is not None and path.is_dir():
        raise UsageError(f"cannot write JSON to {path}: it is a folder; add a file name.")


def _bundle_or_default(bundle: Path | None) -> Path:
    if bundle is not None:
        return bundle
    from sdk.bundle import MANIFEST, default_bundle

    return EXPORTED if (EXPORTED / MANIFEST).is_file() else default_bundle()


def _own_photos(bundle: Bundle) -> list[Path]:
    """The reference photos of a bundle, each once, compared with their hashes."""
    photos = {picture.photo: picture.photo_sha256 for picture in bundle.manifest.reference.pictures}
    if not photos:
        raise UsageError(f"the bundle {str(bundle.folder)!r} holds no photos of its own: name some with --images.")
    for photo, sha256 in photos.items():
        bundle.check_file(photo, sha256)
    return [bundle.path(photo) for photo in photos]


def _photo_files(arguments: Sequence[Path]) -> list[Path]:
    from sdk.imaging import list_photos

    files: list[Path] = []
    for argument in arguments:
        files += list_photos(argument) if argument.is_dir() else [argument]
    return list(dict.fromkeys(files))


def _parse_styles(values: Sequence[str] | None, stylizer: Stylizer) -> dict[str, dict[str, float]]:
    """What ``--style`` said, as label (for file names) to mix; asks the stylizer whether it can draw each."""
    wanted: list[str] = []
    for value in values or stylizer.styles[:1]:
        parts = [value] if "=" in value else [name.strip() for name in value.split(",")]
        wanted += [name for part in parts for name in (stylizer.styles if part == "all" else (part,))]
    mixes = {}
    for text in wanted:
        mix = _parse_mix(text)
        stylizer.engine_for(mix)
        mixes[text.replace("=", "").replace(",", "+").replace(" ", "")] = mix
    return mixes


def _parse_mix(text: str) -> dict[str, float]:
    if "=" not in text:
        return {text: 1.0}
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.partition("=")
        try:
            mix[name.strip()] = mix.get(name.strip(), 0.0) + float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(
                f"style mix {text!r} is not of the form NAME=SHARE,NAME=SHARE: write comic=0.7,pencil=0.3."
            )
    return mix


def _places(files: Sequence[Path], labels: Sequence[str], out: Path | None) -> dict[tuple[Path, str], Path]:
    """Where each photo's picture in each style is saved; refused before anything is drawn when two would collide."""
    from sdk.imaging import check_save_path

    pairs = [(file, label) for file in files for label in labels]
    if out is not None and out.suffix and not out.is_dir():
        if len(pairs) != 1:
            raise UsageError(f"--out {out} is one file for {len(pairs)} pictures: name a folder.")
        check_save_path(out)
        places = {pairs[0]: out}
    else:
        places = {pair: (out or Path()) / f"{pair[0].stem}_{pair[1]}.png" for pair in pairs}
    inputs = {file.resolve(): file for file in files}
    taken: dict[Path, Path] = {}
    for (file, _), place in places.items():
        if place.resolve() in inputs:
            raise UsageError(f"{place} would replace the photo {inputs[place.resolve()]}: choose another --out.")
        if place in taken:
            raise UsageError(f"{taken[place]} and {file} would both be saved as {place}: draw them apart.")
        taken[place] = file
    return places


# ----------------------------------------------------------------------------------------------------- showing rows

_VERDICT_COLUMNS = ("verdict", "artifact", "runtime", "SSIM", "worst", "max-abs", "p50 ms")
_BENCH_COLUMNS = ("artifact", "runtime", "p50 ms", "p90 ms", "min ms", "load ms", "RSS MB", "bytes")
_KIND_COLUMNS = ("kind", "operators", "ms", "share")
_OPERATOR_COLUMNS = ("operator", "output", "in delegate", "ms", "share")
_INFO_COLUMNS = ("artifact", "target", "precision", "style", "size", "bytes", "delegates", "fidelity")


def _verdict_row(verdict: Verdict) -> list[str]:
    ssim, latency = verdict.ssim, verdict.latency_ms
    return [
        verdict.verdict.value,
        verdict.file,
        verdict.runtime,
        "" if ssim is None else f"{ssim.mean:.4f}",
        "" if ssim is None else f"{ssim.worst:.4f}",
        "" if verdict.max_abs is None else f"{verdict.max_abs:.2g}",
        "" if latency is None else f"{latency.p50:.1f}",
    ]


def _bench_row(measurement: Measurement) -> list[str]:
    latency = measurement.latency_ms
    return [
        measurement.file,
        measurement.runtime,
        *(["", "", ""] if latency is None else [f"{ms:.2f}" for ms in (latency.p50, latency.p90, latency.min)]),
        "" if measurement.load_ms is None else f"{measurement.load_ms:.1f}",
        "" if measurement.peak_rss_bytes is None else f"{measurement.peak_rss_bytes / 1e6:.0f}",
        f"{measurement.bytes:,}",
    ]


def _info_row(artifact: Artifact) -> list[str]:
    height, width = artifact.size
    delegation = artifact.delegation
    delegates = "" if delegation is None else str(len(delegation.delegates))
    if delegation is not None and delegation.operators_outside:
        delegates += f" + {len(delegation.operators_outside)} operators outside"
    return [
        artifact.file,
        artifact.target.value,
        artifact.precision.value,
        artifact.style or "multi",
        f"{height}x{width}",
        f"{artifact.bytes:,}",
        delegates,
        _fidelity(artifact),
    ]


def _fidelity(artifact: Artifact) -> str:
    """What an int8 file differs from its own simulation by, in steps of 1/255; empty when it was not compared."""
    fidelity = artifact.quantization.fidelity if artifact.quantization is not None else None
    return "" if fidelity is None else f"mean {fidelity.mean_abs_steps:.2f}, drift {fidelity.drift_steps:.3f}"


__all__ = ["FORWARDED", "app", "forward", "main"]
