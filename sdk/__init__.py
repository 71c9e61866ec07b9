"""ToonEdge's SDK: read back, prove, time and use the artifacts of a cartoon bundle.

>>> import sdk
>>> cartoonist = sdk.load()                             # doctest: +SKIP
>>> cartoonist.stylize("photo.jpg", style="comic")      # doctest: +SKIP
<PIL.Image.Image ...>

``import sdk`` loads nothing but this file: numpy and Pillow come with the first name that needs them, a runtime with
the first artifact that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.bundle import Bundle, default_bundle
    from sdk.errors import FileTroubleError, GateError, MissingRuntimeError, ToonEdgeError, UsageError
    from sdk.imaging import Photo, read_photo, resize
    from sdk.stylize import Stylizer, load

__all__ = [
    "Bundle",
    "FileTroubleError",
    "GateError",
    "MissingRuntimeError",
    "Photo",
    "Stylizer",
    "ToonEdgeError",
    "UsageError",
    "default_bundle",
    "load",
    "read_photo",
    "resize",
]

_HOMES = {
    "Bundle": "sdk.bundle",
    "FileTroubleError": "sdk.errors",
    "GateError": "sdk.errors",
    "MissingRuntimeError": "sdk.errors",
    "Photo": "sdk.imaging",
    "Stylizer": "sdk.stylize",
    "ToonEdgeError": "sdk.errors",
    "UsageError": "sdk.errors",
    "default_bundle": "sdk.bundle",
    "load": "sdk.stylize",
    "read_photo": "sdk.imaging",
    "resize": "sdk.imaging",
}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
