"""What a converter is asked for: one artifact (``ExportSpec``) and how to make it (``ExportOptions``).

Every ``converters/to_*.py`` has one public function ``(graph, spec, options) -> Artifact`` over these types.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import nn

from converters.calibration import CalibrationSet
from converters.ranges import RangeMethod
from sdk.bundle import artifact_name
from sdk.errors import UsageError
from sdk.spec import Backend, DType, IOSpec, Layout, Precision, Target, image_spec, style_spec
from training.checkpoint import CheckpointInfo

#: What the inputs and the output are called in every artifact; a baked one has no second input.
INPUTS = ("image", "style")
OUTPUT = "cartoon"


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """One artifact to write.

    Attributes:
        name, version, author, licence: of the model; written into the file where its format has room for them.
        styles: style names in the order of the network's rows, also when one of them is baked.
        style: the baked style, or ``None`` for a multi-style artifact.
        size: (height, width) in pixels, divisible by 16.
    """

    name: str
    version: str
    author: str
    licence: str
    styles: tuple[str, ...]
    target: Target
    backend: Backend
    precision: Precision
    size: tuple[int, int]
    style: str | None = None

    @classmethod
    def of(
        cls,
        info: CheckpointInfo,
        *,
        target: Target,
        backend: Backend,
        precision: Precision,
        size: tuple[int, int],
        style: str | None = None,
    ) -> Self:
        """An artifact of a checkpoint, which says of itself what the checkpoint does."""
        return cls(
            name=info.name,
            version=info.version,
            author=info.author,
            licence=info.licence,
            styles=info.styles,
            target=target,
            backend=backend,
            precision=precision,
            size=size,
            style=style,
        )

    def file_name(self, suffix: str) -> str:
        """The artifact's file name in a bundle."""
        return artifact_name(self.name, self.size, self.style, self.backend, self.precision, suffix)

    def io(self, layout: Layout, dtype: DType, *, style: DType = DType.FLOAT32, batch: int | None = 1) -> IOSpec:
        """The artifact's border: images in ``layout`` and ``dtype``, style weights in the dtype ``style``."""
        height, width = self.size
        return IOSpec(
            image=image_spec(INPUTS[0], layout, dtype, height, width, batch=batch),
            output=image_spec(OUTPUT, layout, dtype, height, width, batch=batch),
            style=style_spec(INPUTS[1], len(self.styles), style, batch=batch) if self.style is None else None,
        )

    def description(self) -> dict[str, str]:
        """The fields for an artifact's own metadata, as strings."""
        return {
            "name": self.name,
            "version": self.version,
            "author": self.author,
            "licence": self.licence,
            "styles": ",".join(self.styles),
            "style": self.style or "",
        }


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to make an artifact.

    Attributes:
        folder: where the file goes; it exists.
        calibration: photos and styles that give the int8 ranges; needed for int8 only.
        dynamic_batch: the file takes any batch size; only where the registry's row says that this is possible.
        ranges: how int8 ranges follow from what calibration saw.
        float_layers: module paths of the graph that int8 leaves in float.
        photos: files on which an int8 artifact, read back, is compared with its own simulation; none: it is not.
    """

    folder: Path
    calibration: CalibrationSet | None = None
    dynamic_batch: bool = False
    ranges: RangeMethod = RangeMethod.LEAST_SQUARES
    float_layers: tuple[str, ...] = ()
    photos: tuple[Path, ...] = ()

    def calibration_for(self, spec: ExportSpec) -> CalibrationSet:
        """The calibration set.

        Raises:
            UsageError: when there is none.
        """
        if self.calibration is None:
            raise UsageError(
                f"{spec.precision} for {spec.target} needs calibration photos and got none: give --calibration DIR."
            )
        return self.calibration


def check_layers(graph: nn.Module, layers: Collection[str]) -> tuple[str, ...]:
    """Layers to leave in float, each once, sorted.

    Args:
        graph: the deployed graph.
        layers: module paths.

    Raises:
        UsageError: one that the graph has not.
    """
    known = {name for name, _ in graph.named_modules()} - {""}
    for layer in layers:
        if layer not in known:
            raise UsageError(
                f"there is no layer {layer!r} to leave in float: use a module path of the deployed graph "
                "(python -m converters.sensitivity lists them)."
            )
    return tuple(sorted(set(layers)))
