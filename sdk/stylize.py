"""Photo in, cartoon out: one class over whatever artifact of a bundle this host can run.

An artifact has a fixed size, a photo has any. By default the **whole** photo is kept: it is resized to the artifact's
size with its shape ignored, and the picture that comes back is resized to the photo's own aspect with as many pixels as
the network drew (a 3000 x 2000 photo through a 256 x 256 artifact comes back as 314 x 209). ``fit="crop"`` takes the
largest centred part of the artifact's shape instead, so that nothing is stretched on the way. ``artifact="reference"``
runs the float model itself under ONNX Runtime, which takes any size divisible by 16: the way to a large picture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from PIL import Image

from sdk.bundle import MANIFEST, Artifact, Bundle, Reference, default_bundle
from sdk.errors import MissingRuntimeError, UsageError, unknown_name
from sdk.imaging import Photo, PhotoLike, as_photo, centre_crop, fit_size, resize, size_with_aspect
from sdk.runtimes import RUNTIMES, Runtime, Session, get_runtime, require, runtimes_for
from sdk.spec import IOSpec, Kind, Precision, Target, style_weights

#: The name that asks for ``reference.onnx`` in place of an artifact's file name.
REFERENCE = "reference"

#: Longest side, px, that the reference draws unless told otherwise.
MAX_SIDE = 1024

Fit = Literal["whole", "crop"]
FITS: tuple[Fit, ...] = ("whole", "crop")

#: Which runtime is taken when several could run artifacts of the same precision: measured order of speed on a host.
_RUNTIME_ORDER = ("litert", "onnxruntime", "coreml", "executorch", "mil")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An artifact (or the reference) and the runtime that executes it.

    Attributes:
        file: relative to the bundle.
        style: the baked style; ``None`` when every style can be asked for.
        size: (height, width), px; ``None`` when any size divisible by 16 is taken.
    """

    file: str
    sha256: str
    bytes: int
    io: IOSpec
    style: str | None
    size: tuple[int, int] | None
    runtime: Runtime


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    artifact: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
) -> Stylizer:
    """Opens a bundle for stylizing.

    Without further words the best artifact that this host can run is taken: multi-style before baked, fp32 before fp16
    before int8, then the faster runtime, then the larger picture; ``reference.onnx`` when none of them can run, and at
    last what only a reference executor can run. A file is compared with its hash before it is loaded; the preferred one
    is loaded at once.

    Args:
        path: the bundle's folder, or one artifact in it; by default the bundle that ships with the package.
        artifact: file name of an artifact, or ``"reference"``; not together with the path of an artifact.
        runtime: one of ``sdk.runtimes.RUNTIMES``.
        threads: worker threads of the runtime, >= 1; by default one per processor, at most 4.

    Raises:
        UsageError: no bundle there, a file that does not match its hash, an unknown artifact or runtime (the nearest is
            suggested), a runtime that does not execute that artifact, ``threads`` below 1.
        MissingRuntimeError: the runtime asked for is not here, or no artifact can run here; names the extras.
    """
    folder, file = _find_bundle(default_bundle() if path is None else Path(path))
    if file is not None and artifact is not None and artifact != file:
        raise UsageError(f"both the artifact {file!r} and artifact={artifact!r} were given: name one of them.")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: give at least 1.")
    bundle = Bundle.open(folder)
    engines = find_engines(bundle, artifact=file or artifact, runtime=runtime)
    stylizer = Stylizer(bundle, engines, threads=threads or min(4, os.cpu_count() or 1))
    stylizer.open()
    return stylizer


def find_engines(bundle: Bundle, *, artifact: str | None = None, runtime: str | None = None) -> tuple[Engine, ...]:
    """What of a bundle this host can run, the preferred first (see ``load`` for the order and the errors)."""
    if runtime is not None:
        require(get_runtime(runtime))
    reference = bundle.manifest.reference
    if artifact in (REFERENCE, reference.file):
        return (_reference_engine(bundle, runtime),)
    wanted = bundle.artifacts
    if artifact is not None:
        try:
            wanted = (bundle.artifact(artifact),)
        except UsageError:
            raise unknown_name("artifact", artifact, [*(a.file for a in bundle.artifacts), REFERENCE]) from None
    names = None if runtime is None else [runtime]
    pairs = [(a, r) for a in wanted for r in runtimes_for(a.target, names)]
    if artifact is not None and not pairs:
        fitting = ", ".join(r.name for r in runtimes_for(wanted[0].target))
        raise UsageError(f"the runtime {runtime!r} does not execute {wanted[0].file}: use {fitting}.")
    runnable = sorted(((a, r) for a, r in pairs if r.available().ok), key=_preference)
    engines = tuple(_engine(a, r) for a, r in runnable)
    if artifact is not None and not engines:
        require(pairs[0][1])
    if artifact is not None or runtime is not None:
        chosen = engines
    else:
        chosen = tuple(engine for engine in engines if engine.runtime.kind is not Kind.REFERENCE)
    if chosen:
        return chosen
    if runtime in (None, "onnxruntime") and get_runtime("onnxruntime").available().ok:
        return (_reference_engine(bundle, runtime),)
    if engines:
        return engines
    if runtime is not None:
        raise UsageError(
            f"the bundle {str(bundle.folder)!r} has nothing for the runtime {runtime!r}: it has "
            f"{', '.join(sorted({a.target.value for a in bundle.artifacts})) or 'no'} artifacts."
        )
    extras = sorted({r.extra for _, r in pairs if not r.available().by_host} | {get_runtime("onnxruntime").extra})
    commands = " or ".join(f"`pip install 'toonedge[{extra}]'`" for extra in extras)
    raise MissingRuntimeError(f"no runtime for the bundle {str(bundle.folder)!r} is installed: run {commands}.")


class Stylizer:
    """Draws photos in the styles of a bundle. Sessions are opened when first needed and kept.

    >>> with sdk.load("dist") as cartoonist:                                  # doctest: +SKIP
    ...     cartoonist.stylize("me.jpg", style={"comic": 0.7, "pencil": 0.3})
    """

    def __init__(self, bundle: Bundle, engines: tuple[Engine, ...], *, threads: int) -> None:
        """Use ``sdk.load``; this takes what it found."""
        self.bundle = bundle
        self.engines = engines
        self.threads = threads
        self._sessions: dict[str, Session] = {}

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles that can be asked for, in the order of the network's style weights."""
        drawable = {engine.style for engine in self.engines}
        return tuple(s for s in self.bundle.styles if None in drawable or s in drawable)

    def engine_for(self, style: str | Mapping[str, float] | None = None) -> Engine:
        """The artifact and runtime that ``stylize`` uses for a style or mix (see there for the errors)."""
        weights = self._weights(style)
        named = self.bundle.styles[int(weights.argmax())] if np.count_nonzero(weights) == 1 else None
        for engine in self.engines:
            if engine.style is None or engine.style == named:
                return engine
        have = ", ".join(self.styles)
        if named is None:
            raise UsageError(f"styles cannot be mixed by artifacts with one baked style: ask for one of {have}.")
        raise unknown_name("style", named, self.styles)

    def stylize(
        self,
        image: PhotoLike,
        style: str | Mapping[str, float] | None = None,
        *,
        strength: float = 1.0,
        fit: Fit = "whole",
        full_size: bool = False,
        max_side: int = MAX_SIDE,
        keep_alpha: bool = False,
    ) -> Image.Image:
        """Draws one photo.

        Args:
            image: a path, ``sdk.Photo``, Pillow image or array (see ``sdk.imaging.as_photo``).
            style: a name, a mix by name and share (``{"comic": 0.7, "pencil": 0.3}``, scaled to sum to 1), or ``None``
                for the first of ``styles``.
            strength: 0 gives the photo, 1 the cartoon, between them both are blended linearly (in sRGB values).
            fit: ``"whole"`` keeps all of the photo, ``"crop"`` its largest centred part of the artifact's shape.
            full_size: resize the result to the photo's own size (that of the part kept); by default it has the pixels
                that the network drew, in the aspect of the photo.
            max_side: longest side, px, when the artifact takes any size (the reference); fixed sizes ignore it.
            keep_alpha: give a transparent photo its alpha back (mode RGBA); by default it is composited on white.

        Returns:
            An RGB (or RGBA) image, sRGB.

        Raises:
            UsageError: a photo that cannot be read, an unknown style (the nearest is suggested), a mix for baked
                artifacts, ``strength`` outside [0, 1], an unknown ``fit``, ``max_side`` below 1.
            MissingRuntimeError: a HEIC photo without the extra.
        """
        if not 0 <= strength <= 1:
            raise UsageError(f"strength is {strength}: give a number from 0 (the photo) to 1 (the cartoon).")
        if fit not in FITS:
            raise unknown_name("fit", str(fit), FITS)
        if max_side < 1:
            raise UsageError(f"max_side is {max_side}: give at least 1 px.")
        photo = as_photo(image)
        engine = self.engine_for(style)
        size = engine.size or fit_size(photo.height, photo.width, max_side=max_side)
        if fit == "crop":
            photo = _cropped(photo, size)
        session = self._session(engine)
        network_input = resize(photo.rgb, *size).astype(np.float32) / np.float32(255)
        weights = None if engine.style is not None else self._weights(style)
        drawn = _to_8_bit(255 * session.stylize(network_input[None], weights)[0])
        target = _target_size(photo, size, fixed=engine.size is not None, full_size=full_size, max_side=max_side)
        picture = resize(drawn, *target)
        if strength < 1:
            original = resize(photo.rgb, *target).astype(np.float32)
            picture = _to_8_bit(original + np.float32(strength) * (picture.astype(np.float32) - original))
        if keep_alpha and photo.alpha is not None:
            picture = np.dstack([picture, resize(photo.alpha, *target)])
        return Image.fromarray(picture)

    def open(self) -> None:
        """Loads the preferred artifact now, so that a file that was changed or cannot be loaded is known at once."""
        self._session(self.engines[0])

    def close(self) -> None:
        """Gives the runtimes' memory back; the next ``stylize`` loads again."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _weights(self, style: str | Mapping[str, float] | None) -> np.ndarray:
        return style_weights(self.styles[0] if style is None else style, self.bundle.styles)

    def _session(self, engine: Engine) -> Session:
        if engine.file not in self._sessions:
            self.bundle.check_file(engine.file, engine.sha256, engine.bytes)
            path = self.bundle.path(engine.file)
            self._sessions[engine.file] = engine.runtime.load(path, engine.io, threads=self.threads)
        return self._sessions[engine.file]


def _find_bundle(path: Path) -> tuple[Path, str | None]:
    """The bundle's folder and, when ``path`` is one of its files, that file's name in the manifest."""
    if (path / MANIFEST).is_file() or not path.exists():
        return path, None
    for folder in path.resolve().parents:
        if (folder / MANIFEST).is_file():
            return folder, path.resolve().relative_to(folder).as_posix()
    return path, None  # Bundle.open says what is wrong with it


def _preference(pair: tuple[Artifact, Runtime]) -> tuple[bool, int, int, int, str]:
    artifact, runtime = pair
    return (
        artifact.style is not None,
        list(Precision).index(artifact.precision),
        _RUNTIME_ORDER.index(runtime.name) if runtime.name in _RUNTIME_ORDER else len(RUNTIMES),
        -artifact.size[0] * artifact.size[1],
        artifact.file,
    )


def _engine(item: Artifact | Reference, runtime: Runtime) -> Engine:
    return Engine(
        file=item.file,
        sha256=item.sha256,
        bytes=item.bytes,
        io=item.io,
        style=item.style if isinstance(item, Artifact) else None,
        size=item.size if isinstance(item, Artifact) else None,
        runtime=runtime,
    )


def _reference_engine(bundle: Bundle, runtime: str | None) -> Engine:
    names = None if runtime is None else [runtime]
    fitting = runtimes_for(Target.ONNX, names)
    if not fitting:
        raise UsageError(f"the runtime {runtime!r} does not execute the reference: use onnxruntime.")
    require(fitting[0])
    return _engine(bundle.manifest.reference, fitting[0])


def _cropped(photo: Photo, size: tuple[int, int]) -> Photo:
    aspect = size[1] / size[0]
    alpha = None if photo.alpha is None else centre_crop(photo.alpha, aspect)
    return Photo(rgb=centre_crop(photo.rgb, aspect), alpha=alpha, notes=photo.notes, name=photo.name)


def _target_size(
    photo: Photo, size: tuple[int, int], *, fixed: bool, full_size: bool, max_side: int
) -> tuple[int, int]:
    if full_size:
        return photo.height, photo.width
    if fixed:
        return size_with_aspect(size[0] * size[1], photo.height, photo.width)
    scale = min(1.0, max_side / max(photo.height, photo.width))
    return max(1, round(photo.height * scale)), max(1, round(photo.width * scale))


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Floats of about 0..255 to uint8: clipped, rounded half up."""
    return np.floor(np.clip(values, 0, 255) + np.float32(0.5)).astype(np.uint8)
