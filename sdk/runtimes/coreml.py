"""Core ML itself, on macOS: the device's own numerics. Elsewhere ``mil`` is the reference executor."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from sdk.errors import UsageError
from sdk.runtimes.base import Availability, Session, first_line, installed, require
from sdk.spec import IOSpec, Kind, Layout, Target


class CoreMLRuntime:
    """Executes ``.mlpackage`` folders with Core ML through coremltools.

    Core ML chooses its own threads and processor (CPU, GPU, Neural Engine); ``threads`` is not obeyed.
    """

    name: ClassVar[str] = "coreml"
    kind: ClassVar[Kind] = Kind.HOST
    targets: ClassVar[frozenset[Target]] = frozenset({Target.COREML})
    extra: ClassVar[str] = "coreml"

    def available(self) -> Availability:
        """Whether this is macOS and the package ``coremltools`` is installed."""
        if platform.system() != "Darwin":
            return Availability(ok=False, reason=f"Core ML runs on macOS, this is {platform.system()}", by_host=True)
        return installed({"coremltools": "coremltools"})

    def load(self, path: Path, io: IOSpec, *, threads: int = 1) -> Session:  # noqa: ARG002 - Core ML chooses them
        """Loads a ``.mlpackage``; see ``Runtime.load``."""
        require(self)
        import coremltools

        try:
            model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.ALL)
        except Exception as error:  # its Objective-C++ bridge raises bare Exceptions
            raise UsageError(f"Core ML cannot load {str(path)!r} ({first_line(error)}): export it again.") from error
        description = model.get_spec().description
        have = sorted([tensor.name for tensor in description.input] + [tensor.name for tensor in description.output])
        want = sorted(tensor.name for tensor in (io.image, io.style, io.output) if tensor is not None)
        if have != want:
            raise UsageError(
                f"{str(path)!r} has the tensors {', '.join(have)}, but its manifest states {', '.join(want)}: "
                "export it again."
            )
        return _CoreMLSession(io, model)


class _CoreMLSession(Session):
    def __init__(self, io: IOSpec, model: Any) -> None:
        super().__init__(io)
        self._model = model

    def _execute(self, image: np.ndarray, style: np.ndarray | None) -> np.ndarray:
        picture = Image.fromarray(image[0]) if self.io.image.layout is Layout.IMAGE else image
        feeds: dict[str, Any] = {self.io.image.name: picture}
        if self.io.style is not None and style is not None:
            feeds[self.io.style.name] = style
        result = self._model.predict(feeds)[self.io.output.name]
        if self.io.output.layout is Layout.IMAGE:
            return np.asarray(result.convert("RGB"), dtype=np.uint8)[None]
        return np.asarray(result)

    def close(self) -> None:
        self._model = None
