"""What an artifact is timed with, whoever times it: seeded noise in the first style; and why it cannot be timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdk.bundle import Artifact, Bundle
from sdk.files import disk_trouble
from sdk.runtimes import Runtime
from sdk.worker import TIMED_KINDS


def obstacle(runtime: Runtime) -> str:
    """Why a runtime has no latency here, one clause, or nothing."""
    availability = runtime.available()
    if not availability.ok:
        return availability.reason
    return "" if runtime.kind in TIMED_KINDS else f"a {runtime.kind} runtime has no latency"


def noise_file(folder: Path, shape: tuple[int, ...]) -> Path:
    """An ``.npy`` file of seeded noise, float32, multiples of 1/255 in [0, 1]: its content does not change the work.

    Args:
        folder: where it is looked for and, if need be, written.
        shape: ``N x H x W x 3`` for pictures.

    Raises:
        FileTroubleError: no room for it.
    """
    path = folder / f"{'x'.join(map(str, shape))}.npy"
    if not path.exists():
        values = np.random.default_rng(0).integers(0, 256, shape)
        with disk_trouble("keep a picture in", folder):
            np.save(path, values.astype(np.float32) / np.float32(255))
    return path


def pictures_for(artifact: Artifact, folder: Path) -> Path:
    """``noise_file`` for one run of an artifact: ``N x H x W x 3`` of its batch and size."""
    return noise_file(folder, (artifact.io.image.shape[0] or 1, *artifact.size, 3))


def first_style(styles: int) -> list[float]:
    """The weights that choose the first of ``styles`` styles."""
    return [float(row == 0) for row in range(styles)]


def style_for(bundle: Bundle, artifact: Artifact) -> list[float] | None:
    """The first style's weights; ``None`` when the artifact has one baked in."""
    return None if artifact.style is not None else first_style(len(bundle.styles))
