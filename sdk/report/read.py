"""A written report back as the frozen classes it was made of, for the Markdown of an older run."""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sdk.bench import BenchReport
from sdk.errors import UsageError
from sdk.files import disk_trouble
from sdk.profile import ProfileReport
from sdk.report.json_ import SCHEMA
from sdk.verify import Report

_T = TypeVar("_T")


def read_json(path: Path) -> Report | BenchReport | ProfileReport:
    """What ``write_json``, ``write_bench_json`` or ``write_profile_json`` wrote.

    Fields this version does not know are passed over.

    A ``null`` where a number must stand is NaN: a figure that was not finite.

    Raises:
        UsageError: one sentence, for a file that is missing, not JSON, of another schema, or lacks a field; names it.
        FileTroubleError: when it cannot be read.
    """
    content = _read(path, SCHEMA)
    try:
        if "profiles" in content:
            return _object(ProfileReport, content, "")
        if "rounds" in content:
            return _object(BenchReport, content, "")
        return _object(Report, content, "")
    except _MismatchError as error:
        raise UsageError(f"the report {str(path)!r}: {error}: write it again with verify or bench.") from error


def read_as(kind: type[_T], path: Path, *, schema: int = SCHEMA) -> _T:
    """A JSON file with a ``schema`` and the fields of a frozen dataclass, as that class; other fields are passed over.

    Raises:
        UsageError: as ``read_json``.
        FileTroubleError: when it cannot be read.
    """
    try:
        return _object(kind, _read(path, schema), "")
    except _MismatchError as error:
        raise UsageError(f"the report {str(path)!r}: {error}: write it again.") from error


def _read(path: Path, schema: int) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"the report {str(path)!r} does not exist: write one with verify --json or bench --json.")
    with disk_trouble("read", path):
        data = path.read_bytes()
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the report {str(path)!r} is not JSON ({error}): write it again.") from error
    if not isinstance(content, dict) or content.get("schema") != schema:
        have = content.get("schema") if isinstance(content, dict) else None
        raise UsageError(f"{str(path)!r} is not a report of schema {schema} (it says {have!r}): write it again.")
    return content


class _MismatchError(Exception):
    """The JSON is not what the classes say; the message is a clause."""


def _object(kind: type[_T], content: Any, where: str) -> _T:
    if not isinstance(content, dict):
        raise _wrong(content, where, "an object")
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]  # only called with dataclasses
        place = f"{where}.{field.name}".lstrip(".")
        if field.name in content:
            values[field.name] = _value(hints[field.name], content[field.name], place)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _MismatchError(f"the field {place} is missing")
    return kind(**values)


def _value(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one return a kind of type
    if get_origin(kind) in (Union, types.UnionType):
        return None if value is None else _value(get_args(kind)[0], value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _wrong(value, where, "a list")
        return tuple(_value(get_args(kind)[0], part, f"{where}[{i}]") for i, part in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        return {name: _value(get_args(kind)[1], part, f"{where}.{name}") for name, part in value.items()}
    if is_dataclass(kind):
        return _object(kind, value, where)  # type: ignore[arg-type]
    if kind is float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(value, where, "a number")
        return float(value)
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise _wrong(value, where, f"one of {', '.join(kind)}")
        return kind(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(value, where, {str: "a text", int: "a whole number", bool: "true or false"}[kind])
    return value


def _wrong(value: Any, where: str, wanted: str) -> _MismatchError:
    shown = json.dumps(value, ensure_ascii=False)
    return _MismatchError(f"{where or 'it'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {wanted}")
