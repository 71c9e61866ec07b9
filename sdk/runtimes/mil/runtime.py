"""The executor as one of the SDK's runtimes: serves Core ML artifacts on every host, as a reference."""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path
from typing import ClassVar

import numpy as np

from sdk.errors import UsageError
from sdk.runtimes.base import Availability, Session, require
from sdk.runtimes.mil.features import Feature
from sdk.runtimes.mil.model import MILModel, load
from sdk.spec import IOSpec, Kind, Layout, Target, TensorSpec


class MILRuntime:
    """``mil``: reference numerics of a saved ``.mlpackage``; never a latency."""

    name: ClassVar[str] = "mil"
    kind: ClassVar[Kind] = Kind.REFERENCE
    targets: ClassVar[frozenset[Target]] = frozenset({Target.COREML})
    extra: ClassVar[str] = "mil"

    def available(self) -> Availability:
        for package in ("torch", "coremltools"):
            if util.find_spec(package) is None:
                return Availability(ok=False, reason=f"the package {package!r} is not installed")
        return Availability(ok=True, version=metadata.version("coremltools"))

    def load(self, path: Path, io: IOSpec, *, threads: int = 1) -> Session:
        require(self)
        model = load(path)
        _check(model, io)
        return MILSession(model, io, threads)


class MILSession(Session):
    """One loaded package. ``model`` gives access to everything else (``find_non_finite``, ``trace``)."""

    def __init__(self, model: MILModel, io: IOSpec, threads: int) -> None:
        super().__init__(io)
        self.model = model
        self._threads = threads

    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        import torch

        inputs = {self.io.image.name: image}
        if style is not None and self.io.style is not None:
            inputs[self.io.style.name] = style
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return self.model.predict(inputs)[self.io.output.name]
        finally:
            torch.set_num_threads(before)


def _check(model: MILModel, io: IOSpec) -> None:
    """Refuses a package whose border is not what its manifest states."""
    stated = [io.image] if io.style is None else [io.image, io.style]
    for wanted, found, side in ((stated, model.inputs, "inputs"), ([io.output], model.outputs, "outputs")):
        have = {feature.name: feature for feature in found}
        if set(have) != {spec.name for spec in wanted}:
            raise UsageError(
                f"{model.path} has the {side} {', '.join(have)}, "
                f"but its manifest states {', '.join(spec.name for spec in wanted)}."
            )
        for spec in wanted:
            if not _matches(have[spec.name], spec):
                feature = have[spec.name]
                raise UsageError(
                    f"{model.path} takes or gives {spec.name!r} as {feature.color or 'array'} {feature.dtype} "
                    f"{feature.shape}, but its manifest states {spec.layout} {spec.dtype} {spec.shape}."
                )


def _matches(feature: Feature, spec: TensorSpec) -> bool:
    fixed = len(feature.shape) == len(spec.shape) and all(
        have is None or want is None or have == want for have, want in zip(feature.shape, spec.shape, strict=True)
    )
    return fixed and feature.dtype == spec.dtype.value and (feature.color is not None) == (spec.layout is Layout.IMAGE)
