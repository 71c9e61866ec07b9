"""What a release engineer runs: checkpoints to artifacts for every phone runtime, each proven before it is kept.

>>> import converters
>>> result = converters.export(target="coreml", out="dist")     # doctest: +SKIP
>>> result.ok                                                   # doctest: +SKIP
True

``converters.export`` is a module that can be called: ``python -m converters.export`` is its command line, and
``from converters.export import ExportResult`` works as ever. Nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.export import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    """Imports ``converters.export`` when it is first asked for (PEP 562)."""
    if name in __all__:
        return importlib.import_module(f"converters.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
