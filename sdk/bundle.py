"""The bundle: a folder of artifacts with the float model they are judged by, described by ``manifest.json``.

A bundle with a manifest is whole: files are written first, the manifest last, and the folder is swapped into place at
once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, Self, TypeVar

from sdk.errors import FileTroubleError, ToonEdgeError, UsageError, unknown_name
from sdk.files import disk_trouble, trouble, umask, write_atomically
from sdk.spec import Backend, DType, IOSpec, Layout, Precision, Target, TensorSpec

SCHEMA = 1
MANIFEST = "manifest.json"
REJECTED = "rejected"

#: Where the bundle of the shipped checkpoint lies in the package (``make bundle`` writes it).
_SHIPPED = Path(__file__).with_name("default_bundle")

#: Seconds after which a work folder that nothing was written to is taken for a killed process's.
_FORGOTTEN_S = 24 * 3600


def default_bundle() -> Path:
    """The folder of the bundle that ships with the package: every target, int8 and float, of the shipped checkpoint.

    An app takes its files from there as from any other bundle; copy the folder rather than write into it.

    Raises:
        UsageError: this installation has none.
    """
    if not (_SHIPPED / MANIFEST).is_file():
        raise UsageError(
            f"no bundle ships with this installation ({_SHIPPED} has no {MANIFEST}): name a bundle's folder."
        )
    return _SHIPPED


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which network the bundle holds.

    ``params`` counts weights of the multi-style network; ``macs`` are multiply-accumulates of one
    ``macs_size`` (height, width) image.
    """

    name: str
    version: str
    checkpoint_sha256: str
    styles: tuple[str, ...]
    params: int
    macs: int
    macs_size: tuple[int, int]
    licence: str
    author: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The float model (``reference.onnx``) and the photos with its pictures that a phone compares itself with."""

    file: str
    sha256: str
    bytes: int
    io: IOSpec
    pictures: tuple[ReferencePicture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReferencePicture:
    """One photo (PNG, 8-bit RGB) and the float model's 8-bit picture of it in one style."""

    photo: str
    photo_sha256: str
    style: str
    result: str
    result_sha256: str


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near an int8 artifact, read back and run at export, came to its own simulation (``converters.fidelity``).

    The figures are in steps of 1/255, each of the style in which it is worst.

    Attributes:
        simulation: what it was compared with, e.g. ``"PT2E graph in torch"``.
        runtime: what ran the saved file.
        images: photos, each in every style of the artifact.
        max_abs_steps: largest difference of any value.
        mean_abs_steps: mean of the absolute differences.
        drift_steps: absolute mean of the signed differences, of the colour where it is largest.
    """

    simulation: str
    runtime: str
    images: int
    max_abs_steps: float
    mean_abs_steps: float
    drift_steps: float


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How an int8 artifact got its ranges.

    Attributes:
        method: e.g. ``"pt2e-static, per-channel weights, min-max"``.
        calibration_sha256: hash over the calibration pictures and styles in order.
        calibration_images: photo x style pairs seen.
        float_layers: layers left in float.
        float_macs: their share of the multiply-accumulates, [0, 1].
        fidelity: what the saved file makes of the quantized graph; ``None`` when it was not compared.
    """

    method: str
    calibration_sha256: str
    calibration_images: int
    float_layers: tuple[str, ...] = ()
    float_macs: float = 0.0
    fidelity: Fidelity | None = None


@dataclass(frozen=True, kw_only=True)
class Delegation:
    """Read from the saved file: how many delegates (or partitions) it has and which operators are outside of them.

    ``layout_copies`` counts the copies at the border that a channels-last delegate needs; they are not operators.
    """

    delegates: tuple[str, ...]
    operators_outside: tuple[str, ...]
    layout_copies: int = 0


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One exported file (or package folder) and all an app has to know about it; ``file`` is relative to the bundle."""

    file: str
    target: Target
    backend: Backend
    precision: Precision
    style: str | None
    size: tuple[int, int]
    bytes: int
    sha256: str
    io: IOSpec
    quantization: Quantization | None = None
    delegation: Delegation | None = None
    min_runtime: str | None = None
    min_os: str | None = None
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of ``manifest.json``."""

    model: ModelInfo
    reference: Reference
    artifacts: tuple[Artifact, ...]
    toonedge: str
    schema: int = SCHEMA


def artifact_name(  # noqa: PLR0917 - the order is the name's own
    model: str, size: tuple[int, int], style: str | None, backend: Backend, precision: Precision, suffix: str
) -> str:
    """``NAME_{HxW}_{multi|STYLE}_{backend}_{precision}.{suffix}``."""
    height, width = size
    return f"{model}_{height}x{width}_{style or 'multi'}_{backend}_{precision}.{suffix}"


def hash_path(path: Path) -> str:
    r"""The SHA-256 of a file or of a package folder, as 64 lower-case hexadecimal digits.

    A folder's hash is taken over one line a file, ``<sha256>  <relative path with />\n``, sorted by path: what
    ``find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` prints (without the ``./``).

    Raises:
        UsageError: when nothing is there.
        FileTroubleError: when it cannot be read.
    """
    if path.is_dir():
        lines = [f"{hash_path(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}: the bundle is not whole, export it again.")
    with disk_trouble("read", path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files of a package folder.

    Raises:
        UsageError: when nothing is there.
    """
    if path.is_dir():
        return sum(file.stat().st_size for file in _files(path))
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}: the bundle is not whole, export it again.")
    return path.stat().st_size


def _files(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix().encode())


# --- manifest.json ---------------------------------------------------------------------------------------------------


def manifest_text(manifest: Manifest) -> str:
    """``manifest.json`` as text; the same manifest gives the same bytes: sorted keys and artifacts, a final newline."""
    ordered = dataclasses.replace(manifest, artifacts=tuple(sorted(manifest.artifacts, key=lambda a: a.file)))
    return json.dumps(dataclasses.asdict(ordered), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` into ``folder``, as a whole or not at all.

    Raises:
        FileTroubleError: when the disk says no.
    """
    write_atomically(folder / MANIFEST, manifest_text(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks ``manifest.json``; fields this version does not know are passed over.

    Raises:
        UsageError: one sentence that names the field, for a folder or manifest that is missing, broken JSON, another
            schema number, a missing field, a wrong type, an unknown name, a path that leaves the bundle, two
            artifacts of one name, or a style the model does not have.
        FileTroubleError: when it cannot be read.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the bundle {str(folder)!r} {what}: give the folder that an export wrote.")
    if not path.is_file():
        raise UsageError(f"the folder {str(folder)!r} has no {MANIFEST}: give the folder that an export wrote.")
    with disk_trouble("read", path):
        data = path.read_bytes()
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is not JSON ({error}): export the bundle again.") from error
    return _manifest(_Node(content, "", path))


_T = TypeVar("_T")
_Enum = TypeVar("_Enum", bound=StrEnum)
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _Node:
    """A place in the JSON tree that knows its own name, so that every complaint can say where it is."""

    value: Any
    where: str
    path: Path

    def fail(self, wanted: str) -> UsageError:
        shown = json.dumps(self.value, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return UsageError(
            f"{str(self.path)!r}: {self.where or 'the manifest'} is {shown}, not {wanted}: export it again."
        )

    def get(self, key: str) -> _Node:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        where = f"{self.where}.{key}" if self.where else key
        if key not in self.value:
            raise UsageError(f"{str(self.path)!r}: the field {where} is missing: export the bundle again.")
        return _Node(self.value[key], where, self.path)

    def optional(self, key: str, read: Callable[[_Node], _T]) -> _T | None:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return None if self.value.get(key) is None else read(self.get(key))

    def items(self) -> list[_Node]:
        if not isinstance(self.value, list | tuple):  # a tuple when it never was JSON (``io_from_json``)
            raise self.fail("a list")
        return [_Node(value, f"{self.where}[{index}]", self.path) for index, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.fail("a text")
        return self.value

    def count(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 0:
            raise self.fail("a whole number of at least 0")
        return self.value

    def integer(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.fail("a whole number")
        return self.value

    def number(self) -> float:
        if not isinstance(self.value, int | float) or isinstance(self.value, bool):
            raise self.fail("a number")
        if not abs(float(self.value)) < float("inf"):
            raise self.fail("a finite number")
        return float(self.value)

    def one_of(self, names: type[_Enum], kind: str) -> _Enum:
        value = self.text()
        if value not in list(names):
            raise UsageError(f"{str(self.path)!r}: {self.where}: {unknown_name(kind, value, names)}")
        return names(value)

    def sha256(self) -> str:
        if not isinstance(self.value, str) or not _HEX64.fullmatch(self.value):
            raise self.fail("a SHA-256 of 64 lower-case hexadecimal digits")
        return self.value

    def size(self) -> tuple[int, int]:
        sides = [side.count() for side in self.items()]
        if len(sides) != 2 or 0 in sides:
            raise self.fail("[height, width] in pixels")
        return sides[0], sides[1]

    def file(self) -> str:
        """A path inside the bundle: relative, with ``/``, never up and out."""
        text = self.text()
        parts = text.split("/")
        odd = "\\" in text or any(ord(sign) < 32 for sign in text) or PureWindowsPath(text).drive
        if odd or PurePosixPath(text).is_absolute() or any(part in ("", ".", "..") for part in parts):
            raise self.fail("a relative path inside the bundle")
        return text


def _manifest(root: _Node) -> Manifest:
    schema = root.get("schema")
    if schema.integer() != SCHEMA:
        raise schema.fail(f"{SCHEMA}, the schema this version of toonedge reads")
    model = _model(root.get("model"))
    artifacts = [_artifact(node, model) for node in root.get("artifacts").items()]
    names = [artifact.file for artifact in artifacts]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise root.get("artifacts").items()[index].get("file").fail("the only artifact of that name")
    return Manifest(
        model=model,
        reference=_reference(root.get("reference"), model),
        artifacts=tuple(artifacts),
        toonedge=root.get("toonedge").text(),
    )


def _model(node: _Node) -> ModelInfo:
    styles = tuple(style.text() for style in node.get("styles").items())
    if not styles or len(set(styles)) != len(styles):
        raise node.get("styles").fail("a list of different style names")
    return ModelInfo(
        name=node.get("name").text(),
        version=node.get("version").text(),
        checkpoint_sha256=node.get("checkpoint_sha256").sha256(),
        styles=styles,
        params=node.get("params").count(),
        macs=node.get("macs").count(),
        macs_size=node.get("macs_size").size(),
        licence=node.get("licence").text(),
        author=node.get("author").text(),
    )


def _reference(node: _Node, model: ModelInfo) -> Reference:
    return Reference(
        file=node.get("file").file(),
        sha256=node.get("sha256").sha256(),
        bytes=node.get("bytes").count(),
        io=_io(node.get("io")),
        pictures=tuple(_picture(picture, model) for picture in node.get("pictures").items()),
    )


def _picture(node: _Node, model: ModelInfo) -> ReferencePicture:
    return ReferencePicture(
        photo=node.get("photo").file(),
        photo_sha256=node.get("photo_sha256").sha256(),
        style=_style(node.get("style"), model),
        result=node.get("result").file(),
        result_sha256=node.get("result_sha256").sha256(),
    )


def _style(node: _Node, model: ModelInfo) -> str:
    name = node.text()
    if name not in model.styles:
        raise UsageError(f"{str(node.path)!r}: {node.where}: {unknown_name('style', name, model.styles)}")
    return name


def _artifact(node: _Node, model: ModelInfo) -> Artifact:
    tools = node.get("tools")
    if not isinstance(tools.value, dict):
        raise tools.fail("an object of tool names and versions")
    artifact = Artifact(
        file=node.get("file").file(),
        target=node.get("target").one_of(Target, "target"),
        backend=node.get("backend").one_of(Backend, "backend"),
        precision=node.get("precision").one_of(Precision, "precision"),
        style=node.optional("style", lambda style: _style(style, model)),
        size=node.get("size").size(),
        bytes=node.get("bytes").count(),
        sha256=node.get("sha256").sha256(),
        io=_io(node.get("io")),
        quantization=node.optional("quantization", _quantization),
        delegation=node.optional("delegation", _delegation),
        min_runtime=node.optional("min_runtime", _Node.text),
        min_os=node.optional("min_os", _Node.text),
        tools={name: tools.get(name).text() for name in tools.value},
    )
    if (artifact.style is None) is (artifact.io.style is None):
        raise node.get("io").fail(
            "the border of a multi-style artifact, which takes style weights"
            if artifact.style is None
            else "the border of an artifact with one baked style, which takes no style weights"
        )
    return artifact


def _quantization(node: _Node) -> Quantization:
    return Quantization(
        method=node.get("method").text(),
        calibration_sha256=node.get("calibration_sha256").sha256(),
        calibration_images=node.get("calibration_images").count(),
        float_layers=tuple(layer.text() for layer in node.get("float_layers").items()),
        float_macs=node.optional("float_macs", _Node.number) or 0.0,
        fidelity=node.optional("fidelity", _fidelity),
    )


def _fidelity(node: _Node) -> Fidelity:
    return Fidelity(
        simulation=node.get("simulation").text(),
        runtime=node.get("runtime").text(),
        images=node.get("images").count(),
        max_abs_steps=node.get("max_abs_steps").number(),
        mean_abs_steps=node.get("mean_abs_steps").number(),
        drift_steps=node.get("drift_steps").number(),
    )


def _delegation(node: _Node) -> Delegation:
    return Delegation(
        delegates=tuple(delegate.text() for delegate in node.get("delegates").items()),
        operators_outside=tuple(operator.text() for operator in node.get("operators_outside").items()),
        layout_copies=node.get("layout_copies").count(),
    )


def _io(node: _Node) -> IOSpec:
    return IOSpec(
        image=_tensor(node.get("image")), output=_tensor(node.get("output")), style=node.optional("style", _tensor)
    )


def io_from_json(value: object) -> IOSpec:
    """The ``IOSpec`` whose ``dataclasses.asdict`` is ``value``; a ``UsageError`` names what is malformed."""
    return _io(_Node(value, "io", Path(MANIFEST)))


def _tensor(node: _Node) -> TensorSpec:
    extents = [None if extent.value is None else extent.count() for extent in node.get("shape").items()]
    tensor = TensorSpec(
        name=node.get("name").text(),
        layout=node.get("layout").one_of(Layout, "layout"),
        dtype=node.get("dtype").one_of(DType, "dtype"),
        shape=tuple(extents),
        low=node.get("low").number(),
        high=node.get("high").number(),
        scale=node.optional("scale", _Node.number),
        zero_point=node.optional("zero_point", _Node.integer),
    )
    axes = 2 if tensor.layout is Layout.NS else 4
    if len(extents) != axes:
        raise node.get("shape").fail(f"{axes} extents, as the layout {tensor.layout} has")
    if (tensor.scale is None) is not (tensor.dtype is DType.FLOAT32):
        raise node.get("scale").fail(f"what a tensor of {tensor.dtype} has")
    return tensor


# --- reading a bundle ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """A folder and what its manifest says about it. ``open`` reads the manifest only; ``check`` reads every byte."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Opens a bundle folder.

        Raises:
            UsageError: when there is no bundle, or its manifest is malformed (see ``read_manifest``).
        """
        path = Path(folder)
        return cls(path, read_manifest(path))

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every artifact, by file name."""
        return self.manifest.artifacts

    @property
    def styles(self) -> tuple[str, ...]:
        """The style names, in the order of the network's style weights."""
        return self.manifest.model.styles

    def path(self, item: Artifact | Reference | str) -> Path:
        """Where an artifact, the reference or a file of the bundle lies.

        Raises:
            UsageError: when it would lie outside of the bundle (a symbolic link that leads out).
        """
        file = item if isinstance(item, str) else item.file
        path = self.folder / file
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise UsageError(
                f"the bundle's file {file!r} leads out of the folder {str(self.folder)!r}: export it again."
            )
        return path

    def check(self) -> None:
        """Compares every file with its byte count and hash.

        Raises:
            UsageError: names the first file that is missing or differs.
        """
        reference = self.manifest.reference
        self.check_file(reference.file, reference.sha256, reference.bytes)
        for picture in reference.pictures:
            self.check_file(picture.photo, picture.photo_sha256)
            self.check_file(picture.result, picture.result_sha256)
        for artifact in self.artifacts:
            self.check_file(artifact.file, artifact.sha256, artifact.bytes)

    def check_file(self, file: str, sha256: str, size: int | None = None) -> None:
        """Compares one file or package folder with its hash and, when given, its bytes.

        Raises:
            UsageError: when it is missing or differs.
        """
        check_path(self.path(file), sha256, size)

    def select(
        self,
        *,
        target: Target | None = None,
        backend: Backend | None = None,
        precision: Precision | None = None,
        style: str | None = None,
        size: tuple[int, int] | None = None,
        baked: bool | None = None,
    ) -> tuple[Artifact, ...]:
        """The artifacts that meet every condition given, the most useful first.

        Multi-style before baked, then fp32, fp16, int8, then the larger picture, then by name.

        Args:
            style: a style the artifact must be able to draw (every style, for a multi-style artifact).
            size: (height, width) in pixels.
            baked: only artifacts with one baked style (True) or only multi-style ones (False).

        Raises:
            UsageError: for a style the model does not have; the nearest is suggested.
        """
        if style is not None and style not in self.styles:
            raise unknown_name("style", style, self.styles)
        chosen = [
            artifact
            for artifact in self.artifacts
            if (target is None or artifact.target is target)
            and (backend is None or artifact.backend is backend)
            and (precision is None or artifact.precision is precision)
            and (style is None or artifact.style in (None, style))
            and (size is None or artifact.size == size)
            and (baked is None or (artifact.style is not None) is baked)
        ]
        order = list(Precision)
        return tuple(
            sorted(
                chosen,
                key=lambda a: (a.style is not None, order.index(a.precision), -a.size[0] * a.size[1], a.file),
            )
        )

    def artifact(
        self,
        file: str | None = None,
        *,
        target: Target | None = None,
        backend: Backend | None = None,
        precision: Precision | None = None,
        style: str | None = None,
        size: tuple[int, int] | None = None,
        baked: bool | None = None,
    ) -> Artifact:
        """One artifact: the one of that file name, or the first that ``select`` gives.

        Raises:
            UsageError: when there is none; lists what the bundle has.
        """
        if file is not None:
            for artifact in self.artifacts:
                if artifact.file == file:
                    return artifact
            raise unknown_name("artifact", file, [artifact.file for artifact in self.artifacts])
        chosen = self.select(target=target, backend=backend, precision=precision, style=style, size=size, baked=baked)
        if chosen:
            return chosen[0]
        asked = {
            "target": target,
            "backend": backend,
            "precision": precision,
            "style": style,
            "size": size and f"{size[0]}x{size[1]}",
            "baked": baked,
        }
        said = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None) or "anything"
        has = ", ".join(artifact.file for artifact in self.artifacts) or "no artifacts"
        raise UsageError(f"the bundle {str(self.folder)!r} has no artifact with {said}: it has {has}.")


def check_path(path: Path, sha256: str, size: int | None = None) -> None:
    """Compares a file or package folder with its hash and, when given, its bytes.

    Raises:
        UsageError: when it is missing or differs; names the file and what was seen.
    """
    have = size_of(path)
    if size is not None and have != size:
        raise UsageError(
            f"the file {str(path)!r} has {have} bytes and the manifest says {size}: it was changed, export it again."
        )
    digest = hash_path(path)
    if digest != sha256:
        raise UsageError(
            f"the file {str(path)!r} has the SHA-256 {digest[:12]}... and the manifest says {sha256[:12]}...: "
            "it was changed, export it again."
        )


# --- writing a bundle ------------------------------------------------------------------------------------------------


class BundleWriter:
    """Writes a bundle, or adds to one of the same checkpoint; use it as a context manager.

    Work happens in a sibling folder (``.folder``, where callers write their files). Leaving the ``with`` block
    normally commits: files of an older bundle that were not replaced are carried over, the manifest is written last,
    and the folder is swapped into place by renaming; the older bundle is removed only then. Leaving it by an
    exception discards everything, and the older bundle is as it was.

    An artifact that fails its gate is rejected, not added: it goes to ``rejected/`` beside its verdict, outside the
    manifest, and an older proven artifact of that name stays.

        with BundleWriter("dist", model) as writer:
            (writer.folder / "reference.onnx").write_bytes(...)
            writer.set_reference(Reference(file="reference.onnx", ...))
            writer.add(artifact)                      # its file lies in writer.folder
            report = verify(writer.staged())          # from the files just written
            writer.reject(artifact, verdict_json)     # when it failed

    Raises (on entering):
        UsageError: when ``folder`` holds the bundle of another checkpoint, or files but no bundle, or is a file.
        FileTroubleError: when nothing can be written beside it.
    """

    def __init__(self, folder: str | Path, model: ModelInfo, *, toonedge: str = "") -> None:
        self.target = Path(folder).absolute()
        self.model = model
        self.toonedge = toonedge or _own_version()
        self._work: Path | None = None
        self._old: Manifest | None = None
        self._old_text = b""
        self._reference: Reference | None = None
        self._artifacts: dict[str, Artifact] = {}
        self._rejected: set[str] = set()

    @property
    def folder(self) -> Path:
        """The folder to write files into; it becomes the bundle."""
        if self._work is None:
            raise UsageError("the bundle writer is not open: use it as `with BundleWriter(...) as writer:`.")
        return self._work

    def __enter__(self) -> Self:
        if self.target.is_symlink():
            self.target = self.target.resolve()
        self._recover()
        self._old, self._old_text = self._read_old()
        with disk_trouble("write the bundle", self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._work = Path(tempfile.mkdtemp(dir=self.target.parent, prefix=f".{self.target.name}.work-"))
            self._work.chmod(0o777 & ~umask())
        try:
            self._carry_reference()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._work is not None:
                self.commit()
        finally:
            self.discard()
        disk = disk_error(error)
        if disk is not None:
            # Exporters write into our folder with their own code: a full disk there is the same trouble as here.
            raise trouble("write the bundle", self.target, disk) from error

    def staged(self) -> Bundle:
        """What was written so far, to be verified before it is committed: the reference and the new artifacts.

        Raises:
            UsageError: before a reference is set.
        """
        if self._reference is None:
            raise UsageError("the bundle has no reference yet: call set_reference first.")
        return Bundle(
            self.folder,
            Manifest(
                model=self.model,
                reference=self._reference,
                artifacts=tuple(self._artifacts[file] for file in sorted(self._artifacts)),
                toonedge=self.toonedge,
            ),
        )

    @property
    def reference(self) -> Reference | None:
        """The float model set so far, or carried over from the older bundle."""
        return self._reference

    def set_reference(self, reference: Reference) -> None:
        """Names the float model and its pictures, whose files lie in ``folder``.

        Raises:
            UsageError: when a file is missing or does not match its hash.
        """
        bundle = Bundle(self.folder, Manifest(model=self.model, reference=reference, artifacts=(), toonedge="-"))
        bundle.check()
        self._reference = reference

    def add(self, artifact: Artifact) -> None:
        """Puts an artifact, whose file lies in ``folder``, on the manifest; replaces one of the same name.

        Raises:
            UsageError: when the file is missing, does not match its hash, or its style is not one of the model's.
        """
        if artifact.style is not None and artifact.style not in self.model.styles:
            raise unknown_name("style", artifact.style, self.model.styles)
        check_path(self.folder / artifact.file, artifact.sha256, artifact.bytes)
        self._artifacts[artifact.file] = artifact
        self._rejected.discard(artifact.file)

    def reject(self, artifact: Artifact | str, verdict: str) -> Path:
        """Moves an artifact that failed its gate to ``rejected/``, with its verdict beside it.

        Args:
            artifact: the artifact, or its file name in ``folder``.
            verdict: JSON text, written to ``rejected/<file>.json``.

        Returns:
            Where it lies once the bundle is committed.
        """
        file = artifact if isinstance(artifact, str) else artifact.file
        target = self.folder / REJECTED / file
        with disk_trouble("write the bundle", self.target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(target)
            (self.folder / file).rename(target)
        write_atomically(target.with_name(target.name + ".json"), verdict if verdict.endswith("\n") else verdict + "\n")
        self._artifacts.pop(file, None)
        self._rejected.add(file)
        return self.target / REJECTED / file

    def commit(self) -> Bundle:
        """Carries over what was not replaced, writes the manifest and swaps the folder into place.

        Raises:
            UsageError: when no reference was set.
            FileTroubleError: when the disk says no, or the older bundle changed meanwhile; it is then as it was.
        """
        staged = self.staged()
        with disk_trouble("write the bundle", self.target):
            manifest = dataclasses.replace(staged.manifest, artifacts=self._merged())
            self._carry_rest(manifest)
            write_manifest(self.folder, manifest)
            self._swap()
        return Bundle(self.target, manifest)

    def discard(self) -> None:
        """Removes the work folder; the older bundle, if any, is as it was. Does nothing after a commit."""
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None

    def _read_old(self) -> tuple[Manifest | None, bytes]:
        if not self.target.exists():
            return None, b""
        if not self.target.is_dir():
            raise UsageError(f"{str(self.target)!r} is a file: give a folder for the bundle.")
        with disk_trouble("read", self.target):
            if not any(self.target.iterdir()):
                return None, b""
        if not (self.target / MANIFEST).is_file():
            raise UsageError(
                f"the folder {str(self.target)!r} is not empty and not a bundle (no {MANIFEST}): "
                "give a new or empty folder."
            )
        old = read_manifest(self.target)
        mine, theirs = self.model.checkpoint_sha256, old.model.checkpoint_sha256
        if mine != theirs:
            raise UsageError(
                f"the folder {str(self.target)!r} holds the bundle of another checkpoint ({theirs[:12]}..., "
                f"this one is {mine[:12]}...): give another folder or remove it."
            )
        return old, (self.target / MANIFEST).read_bytes()

    def _carry_reference(self) -> None:
        """An older bundle's reference is there from the start, so that new artifacts can be verified against it."""
        if self._old is None:
            return
        reference = self._old.reference
        pictures = [file for picture in reference.pictures for file in (picture.photo, picture.result)]
        for file in dict.fromkeys([reference.file, *pictures]):
            self._copy(file)
        self._reference = reference

    def _merged(self) -> tuple[Artifact, ...]:
        merged = {artifact.file: artifact for artifact in (self._old.artifacts if self._old else ())}
        merged.update(self._artifacts)
        return tuple(merged[file] for file in sorted(merged))

    def _carry_rest(self, manifest: Manifest) -> None:
        """Copies the older bundle's artifacts and unlisted files (cards, reports) that nothing new replaced."""
        if self._old is None:
            return
        listed = set(_listed(self._old))
        for artifact in self._old.artifacts:
            if artifact.file not in self._artifacts:
                self._copy(artifact.file)
        packages = [file for file in listed if (self.target / file).is_dir()]
        passed = {f"{REJECTED}/{file}" for file in self._artifacts}
        for path in sorted(self.target.rglob("*")):
            file = path.relative_to(self.target).as_posix()
            inside = any(file == package or file.startswith(package + "/") for package in packages)
            overtaken = any(file in (old, old + ".json") or file.startswith(old + "/") for old in passed)
            # Files of the older reference that the new one no longer lists are gone for good.
            if path.is_dir() or file == MANIFEST or file in listed or inside or overtaken:
                continue
            if not (self.folder / file).exists():
                self._copy(file)
        # The old files were read while an export ran, perhaps for minutes: carried over means proven to be the same.
        Bundle(self.folder, manifest).check()

    def _copy(self, file: str) -> None:
        source, target = self.target / file, self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)

    def _swap(self) -> None:
        work, backup = self.folder, self._backup
        if self._old is not None and (self.target / MANIFEST).read_bytes() != self._old_text:
            raise FileTroubleError(
                f"the bundle {str(self.target)!r} was changed by somebody else during the export: export again."
            )
        if self.target.exists():
            self.target.rename(backup)
        try:
            work.rename(self.target)
        except BaseException:
            if backup.exists():
                backup.rename(self.target)
            raise
        self._work = None
        # The new bundle is in place: a backup that cannot be removed is litter, not a failed export.
        shutil.rmtree(backup, ignore_errors=True)

    @property
    def _backup(self) -> Path:
        return self.target.with_name(f".{self.target.name}.old")

    def _recover(self) -> None:
        """Tidies up after a process that was killed: puts back a bundle that was left between the two renames, removes
        a forgotten backup, and work folders that nobody has written to for a day.
        """
        with disk_trouble("recover the bundle", self.target):
            if self._backup.is_dir() and not self.target.exists():
                self._backup.rename(self.target)
            elif self._backup.is_dir():
                shutil.rmtree(self._backup)
            for folder in self.target.parent.glob(f".{glob.escape(self.target.name)}.work-*"):
                if time.time() - folder.stat().st_mtime > _FORGOTTEN_S:
                    shutil.rmtree(folder, ignore_errors=True)


def _listed(manifest: Manifest) -> Iterable[str]:
    yield manifest.reference.file
    for picture in manifest.reference.pictures:
        yield picture.photo
        yield picture.result
    for artifact in manifest.artifacts:
        yield artifact.file


def disk_error(error: BaseException | None) -> OSError | None:
    """The disk's part in an exception: a full or read-only disk, also when a native library only says so in words."""
    if error is None or isinstance(error, ToonEdgeError):
        return None
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    ):  # fmt: skip
        return error
    if os.strerror(errno.ENOSPC) in str(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("toonedge")
    except PackageNotFoundError:
        return "0+unknown"
