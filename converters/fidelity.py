"""Whether an int8 artifact computes what its own quantized graph says: the export's part of the error, without int8's.

``sdk.verify`` compares an int8 file with the float model. What it finds is mostly the price of 8 bits, and a wrong zero
point deep in the network hides below that price. Here the same file, read back and run by its runtime on real photos in
every style, is compared with its *simulation*: the quantized graph as it left the quantizer, held in memory and run by
something that shares neither the artifact's file nor its runtime's int8 kernels. Both round to the same grids, so what
remains is how two correct programs round sums that lie between two steps, and what the export got wrong.

The first of these is noise: it has no sign, and averaging over many pixels makes it small. A fault has a sign. So the
*drift*, the mean signed difference of a colour over all photos of a style, tells the two apart better than any largest
or mean difference does, and the gate of a target (``converters.registry``) is mostly a bar for it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from converters.registry import row_for
from converters.request import ExportOptions, ExportSpec
from sdk.bundle import Artifact, Fidelity
from sdk.errors import GateError
from sdk.runtimes import RUNTIMES, get_runtime
from sdk.spec import Layout
from sdk.verify import load_photos
from sdk.worker import Worker, WorkerError

#: The step that differences are counted in: one level of an 8-bit picture.
STEPS = 255
#: Decimals of what the manifest records.
_DECIMALS = 4

#: The simulation of a PT2E graph in words.
TORCH = "PT2E graph in torch"

#: Draws one photo: ``1 x 3 x H x W`` float32 in [0, 1] and ``1 x S`` style weights (unless baked) to a picture of the
#: photo's shape and range.
Draw = Callable[..., np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """What an artifact has to draw.

    Attributes:
        simulation: what drew it, for the manifest.
        photos: ``P x H x W x 3`` float32, RGB, [0, 1], every value a multiple of 1/255.
        weights: one style's weights an entry; ``None`` for the style that is baked in.
        pictures: ``S x P x H x W x 3`` float32, RGB, [0, 1], an entry of ``weights`` each.
    """

    simulation: str
    photos: np.ndarray
    weights: tuple[list[float] | None, ...]
    pictures: np.ndarray


def expect(draw: Draw, spec: ExportSpec, options: ExportOptions, *, simulation: str) -> Expected | None:
    """Draws the photos of an export in every style with a simulation; before anything is lowered or saved.

    Args:
        draw: the simulation.
        spec: the artifact to come.
        options: its photos.
        simulation: the simulation in words.

    Returns:
        ``None`` when the options have no photos.
    """
    if not options.photos:
        return None
    photos = load_photos(options.photos, spec.size)
    rows = np.eye(len(spec.styles), dtype=np.float32)
    weights: tuple[list[float] | None, ...] = (None,) if spec.style else tuple(row.tolist() for row in rows)
    drawn = [[_draw(draw, photo, style) for photo in photos] for style in weights]
    return Expected(simulation=simulation, photos=photos, weights=weights, pictures=np.asarray(drawn, np.float32))


def _draw(draw: Draw, photo: np.ndarray, style: list[float] | None) -> np.ndarray:
    """``H x W x 3`` to ``H x W x 3``."""
    given = [np.ascontiguousarray(photo.transpose(2, 0, 1)[None])]
    if style is not None:
        given.append(np.asarray([style], np.float32))
    return draw(*given)[0].transpose(1, 2, 0)


def of_module(module: nn.Module, *, half: bool = False) -> Draw:
    """The simulation of a PT2E graph: torch runs it, quantize and dequantize nodes in float arithmetic.

    Args:
        module: the quantized graph; an fx ``GraphModule`` with ``half``.
        half: rounds every float result and every constant to fp16, for a target that computes in fp16 between the
            grids and stores the grids' scales in it. Its rounding has a sign of its own where many values lie near the
            middle of two steps (a style's row is one value for a whole channel), so it must not be taken for a fault.
    """
    run = _HalfPrecision(module).run if half else module  # type: ignore[arg-type]  # PT2E makes GraphModules

    def draw(*given: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            made: torch.Tensor = run(*(torch.from_numpy(values) for values in given))
        return made.numpy()

    return draw


class _HalfPrecision(fx.Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result for scales and limits on the grid of fp16, which is what a package stores of them."""
        stored = tuple(float(np.float16(given)) if isinstance(given, float) else given for given in args)
        return super().call_function(target, stored, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """The node's result, on the grid of fp16 if it is a float tensor that was computed or is stored."""
        made = super().run_node(n)
        if isinstance(made, torch.Tensor) and made.is_floating_point() and n.op in ("call_function", "get_attr"):
            return made.half().float()
        return made


def measured(artifact: Artifact, folder: Path, expected: Expected | None) -> Artifact:
    """The artifact with what its saved file differs from its simulation, in ``quantization.fidelity``.

    It is run in a process of its own by the first of its row's runtimes that this host has. Without such a runtime, or
    with nothing expected, it is returned as it came: ``sdk.verify`` then says ``not_runnable`` as well.

    Args:
        artifact: int8, saved in ``folder``.
        folder: where the file is.
        expected: of ``expect``.

    Raises:
        GateError: the runtime cannot load or run the file.
    """
    served = (get_runtime(name) for name in row_for(artifact.target, artifact.backend).runtimes)
    runtime = next((one for one in served if one.available().ok), None)
    if expected is None or runtime is None or artifact.quantization is None:
        return artifact
    with tempfile.TemporaryDirectory(prefix="toonedge-fidelity-") as scratch:
        photos, picture = Path(scratch, "photos.npy"), Path(scratch, "picture.npy")
        np.save(photos, expected.photos)
        drawn = []
        try:
            with Worker(threads=1) as worker:
                worker.load(RUNTIMES[runtime.name], folder / artifact.file, artifact.io)
                for style in expected.weights:
                    worker.produce(photos, style, picture)
                    drawn.append(np.load(picture))
        except WorkerError as error:
            if error.missing:
                return artifact
            raise GateError(
                f"{artifact.file} does not run under {runtime.name} ({error}): the export is wrong, not the network."
            ) from error
    wanted = expected.pictures
    if artifact.io.output.layout is Layout.IMAGE:  # it cannot be nearer than its rounding
        wanted = np.floor(np.clip(wanted, 0, 1) * np.float32(STEPS) + np.float32(0.5)) / np.float32(STEPS)
    fidelity = compare(np.stack(drawn), wanted, simulation=expected.simulation, runtime=runtime.name)
    return dataclasses.replace(artifact, quantization=dataclasses.replace(artifact.quantization, fidelity=fidelity))


def compare(drawn: np.ndarray, wanted: np.ndarray, *, simulation: str, runtime: str) -> Fidelity:
    """The figures, each of the style in which it is worst.

    A difference d is the artifact's value minus the simulation's, in steps of 1/255:

    * ``max_abs_steps``: the largest ``|d|`` of any value;
    * ``mean_abs_steps``: the mean of ``|d|`` over all values of all photos of a style;
    * ``drift_steps``: ``|mean of d|`` over all pixels of all photos of a style, of the colour where it is largest.

    Args:
        drawn: the artifact's, ``S x P x H x W x 3``, RGB, [0, 1].
        wanted: the simulation's.
        simulation, runtime: for the record.

    Returns:
        The worst a picture can be, 255 steps throughout, when a value of the artifact is not finite.
    """
    finite = bool(np.isfinite(drawn).all())
    steps = (drawn.astype(np.float64) - wanted) * STEPS if finite else np.full(wanted.shape, float(STEPS))
    figures = {
        "max_abs_steps": np.abs(steps).max(),
        "mean_abs_steps": np.abs(steps).mean((1, 2, 3, 4)).max(),
        "drift_steps": np.abs(steps.mean((1, 2, 3))).max(),
    }
    return Fidelity(
        simulation=simulation,
        runtime=runtime,
        images=wanted.shape[1],
        **{name: round(float(value), _DECIMALS) for name, value in figures.items()},
    )
