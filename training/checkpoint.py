"""Checkpoints: one ``.safetensors`` file with the weights and, in its metadata, all that rebuilds the network.

Loading runs no code from the file: safetensors holds raw tensors and strings only, never a pickled module.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdk.errors import FileTroubleError, UsageError
from training.models.generator import Generator, GeneratorConfig
from training.models.named import NamedGenerator

FORMAT = 1
_KEY = "toonedge"
#: The metadata of a named generator has its name instead of a config.
_ARCHITECTURE = "architecture"
#: The checkpoint that ships with the package.
PRETRAINED = Path(__file__).parent / "pretrained" / "toonedge.safetensors"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    Attributes:
        name, version: of the model, used in file names of artifacts.
        styles: style names in the order of the network's rows.
        size: (height, width) the network was trained for, in pixels.
        licence: SPDX expression of the weights.
        author: who trained it.
        provenance: data, teachers and steps, one line each.
    """

    name: str
    version: str
    styles: tuple[str, ...]
    size: tuple[int, int] = (256, 256)
    licence: str = "Apache-2.0"
    author: str = "The ToonEdge authors"
    provenance: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint: the network in eval mode, its description, and the file's hash (hex SHA-256)."""

    generator: Generator
    info: CheckpointInfo
    sha256: str


@dataclass(frozen=True, kw_only=True)
class NamedCheckpoint:
    """A loaded checkpoint of a generator of ``training.models.named``; attributes as those of ``Checkpoint``."""

    generator: NamedGenerator
    info: CheckpointInfo
    sha256: str


def save_checkpoint(path: Path, generator: Generator | NamedGenerator, info: CheckpointInfo) -> str:
    """Writes the checkpoint atomically (a temporary file beside it, then a rename).

    Returns:
        Hex SHA-256 of the file.

    Raises:
        UsageError: when the style names do not match the network's rows.
        FileTroubleError: when the file cannot be written; nothing is left behind.
    """
    if len(info.styles) != generator.config.styles:
        raise UsageError(
            f"{len(info.styles)} style names for a network of {generator.config.styles} style rows: name each row once."
        )
    network: dict[str, Any] = (
        {_ARCHITECTURE: generator.config.architecture}
        if isinstance(generator, NamedGenerator)
        else {"config": generator.config.to_dict()}
    )
    described = {"format": FORMAT, **network, "info": asdict(info)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    data = save(tensors, metadata={_KEY: json.dumps(described, sort_keys=True)})
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise FileTroubleError(
            f"the checkpoint {path} could not be written ({error.strerror}): check the folder and the free space."
        ) from error
    return hashlib.sha256(data).hexdigest()


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint of our generator and rebuilds its network, in eval mode.

    Raises:
        UsageError: the file is missing, truncated, not safetensors, not ours, of another architecture, or of a named
            generator.
    """
    loaded = load_any_checkpoint(path)
    if isinstance(loaded, NamedCheckpoint):
        raise UsageError(
            f"checkpoint {path} is of the named generator {loaded.generator.config.architecture!r}, which can be "
            "trained and exported, but this needs a checkpoint of our own generator: give one."
        )
    return loaded


def load_any_checkpoint(path: Path) -> Checkpoint | NamedCheckpoint:
    """Reads a checkpoint of our generator or of a named one and rebuilds its network, in eval mode.

    Raises:
        UsageError: the file is missing, truncated, not safetensors, not ours, or of another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"checkpoint {path} does not exist: give the path of a .safetensors file.")
    tensors, described = _read(path)
    generator: Generator | NamedGenerator
    try:
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described["info"].items()}
        info = CheckpointInfo(**told)
        generator = (
            NamedGenerator(described[_ARCHITECTURE])
            if _ARCHITECTURE in described
            else Generator(GeneratorConfig.from_dict(described["config"]))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"checkpoint {path} does not describe a network of this version ({error}): use a matching one."
        ) from error
    own = generator.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [k for k, v in own.items() if v.shape != tensors[k].shape]
    if wrong:
        raise UsageError(
            f"checkpoint {path} is of another architecture: {len(wrong)} tensors are absent, extra or of another shape "
            f"(first: {wrong[0]}); use a checkpoint that matches its own config."
        )
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise UsageError(f"checkpoint {path} holds values that are not finite in {bad[0]}: use an undamaged file.")
    generator.load_state_dict(tensors)
    generator.eval()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if isinstance(generator, NamedGenerator):
        return NamedCheckpoint(generator=generator, info=info, sha256=sha256)
    return Checkpoint(generator=generator, info=info, sha256=sha256)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        described = json.loads(metadata[_KEY])
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(
            f"checkpoint {path} cannot be read as safetensors ({error}): it may be truncated or of another format."
        ) from error
    except KeyError as error:
        raise UsageError(
            f"checkpoint {path} has no {_KEY!r} metadata: it was not written by training.checkpoint.save_checkpoint."
        ) from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise UsageError(f"checkpoint {path} has a format this version does not know: expected {FORMAT}.")
    return tensors, described
