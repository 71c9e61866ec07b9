"""The bundle: a folder of artifacts with the float model they are judged by, described by ``manifest.json``.

A bundle with a manifest is whole: files are written first, the manifest last, and the folder is swapped into place at
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sdk.spec import Backend, IOSpec, Precision, Target

SCHEMA = 1
MANIFEST = "manifest.json"


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
class Quantization:
    """How an int8 artifact got its ranges.

    Attributes:
        method: e.g. ``"pt2e-static, per-channel weights, min-max"``.
        calibration_sha256: hash over the calibration pictures and styles in order.
        calibration_images: photo x style pairs seen.
        float_layers: layers left in float, with the reason in the model card.
    """

    method: str
    calibration_sha256: str
    calibration_images: int
    float_layers: tuple[str, ...] = ()


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
    """One exported file (or package folder) and all that an app has to know about it. ``file`` is relative to the bundle."""

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


def artifact_name(
    model: str, size: tuple[int, int], style: str | None, backend: Backend, precision: Precision, suffix: str
) -> str:
    """``NAME_{HxW}_{multi|STYLE}_{backend}_{precision}.{suffix}``."""
    height, width = size
    return f"{model}_{height}x{width}_{style or 'multi'}_{backend}_{precision}.{suffix}"


# The functions below are this module's interface (implemented by the SDK room):
#   hash_path(path: Path) -> str            sha256 of a file; of a folder: over sorted (relative path, file sha256) lines
#   size_of(path: Path) -> int              bytes on disk of a file or folder
#   read_manifest(folder: Path) -> Manifest         UsageError in one sentence for anything malformed
#   class Bundle: .open(folder) -> Bundle; .folder; .manifest; .check() verifies all hashes; .path(artifact)
#   class BundleWriter(folder, model): context manager; works in a sibling folder; merges an existing bundle of the same
#       checkpoint, refuses another; .add(artifact), .reject(path, verdict_json), .set_reference(...), commit() swaps it in
_ = Path
