"""Errors a user can cause, each one sentence long and each with its exit code.

A message has three parts: what failed, the value seen, what to do.  The command lines print the message alone (no
traceback) and exit with ``exit_code``; Python callers catch ``ToonEdgeError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command in this project."""

    OK = 0
    GATE_FAILED = 1
    USAGE = 2
    MISSING_RUNTIME = 3
    FILE_TROUBLE = 4


class ToonEdgeError(Exception):
    """Base of all errors meant for the user's eyes."""

    exit_code: ExitCode = ExitCode.USAGE


class UsageError(ToonEdgeError, ValueError):
    """Wrong use or unusable input: an unknown name, a bad size, a broken checkpoint, an unreadable photo."""

    exit_code = ExitCode.USAGE


class GateError(ToonEdgeError):
    """An artifact did not reach its gate."""

    exit_code = ExitCode.GATE_FAILED


class MissingRuntimeError(ToonEdgeError, ImportError):
    """A runtime or tool that was asked for is not installed or not available on this host."""

    exit_code = ExitCode.MISSING_RUNTIME

    @classmethod
    def for_extra(cls, what: str, package: str, extra: str) -> MissingRuntimeError:
        """The sentence for an optional package that is not installed."""
        return cls(
            f"{what} needs the package {package!r}, which is not installed: run `pip install 'toonedge[{extra}]'`."
        )


class FileTroubleError(ToonEdgeError, OSError):
    """The disk said no: read-only folder, full disk, missing permission, a file that changed under our hands."""

    exit_code = ExitCode.FILE_TROUBLE

    def __str__(self) -> str:  # OSError would print an errno tuple
        return str(self.args[0]) if self.args else ""


def unknown_name(kind: str, value: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table; suggests the nearest one.

    Args:
        kind: what the name stands for, e.g. ``"target"``.
        value: the name as given.
        known: the legal names.
    """
    names = [str(name) for name in known]  # an enumeration member would show as its repr
    near = difflib.get_close_matches(value.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    nearest = next((n for n in names if near and n.lower() == near[0]), None)
    hint = f"did you mean {nearest!r}? " if nearest else ""
    return UsageError(f"unknown {kind} {value!r}: {hint}choose from {', '.join(names)}.")


def check_ranges(settings: object, needs: Mapping[str, tuple[bool, str]]) -> None:
    """Refuses settings that make no sense.

    Args:
        settings: has an attribute of each name.
        needs: name to whether its value fits, and what to give instead.

    Raises:
        UsageError: names the first that does not fit, as the command line spells it.
    """
    for name, (fits, remedy) in needs.items():
        if not fits:
            raise UsageError(f"{name.replace('_', '-')} {getattr(settings, name)} is out of range: give {remedy}.")
