"""Writing to disk without leaving half a file behind, and one sentence when the disk says no."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sdk.errors import FileTroubleError

_REMEDY = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission is missing: change it or choose another folder",
    errno.EPERM: "permission is missing: change it or choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another folder",
    errno.EXDEV: "it lies on another disk than its parent folder: choose a folder below it",
    errno.EBUSY: "it is in use, perhaps as a mount point: choose a folder below it",
    errno.EIO: "the disk reports an input/output error: choose another disk",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def trouble(action: str, path: Path, error: OSError) -> FileTroubleError:
    """The sentence for an operating system's error.

    Args:
        action: what failed, an infinitive: ``"write the bundle"``.
        path: what it failed on.
        error: what the operating system said.
    """
    remedy = _REMEDY.get(error.errno or 0, f"{error.strerror or error}: check the path and try again")
    return FileTroubleError(f"could not {action} {str(path)!r}: {remedy}.")


@contextlib.contextmanager
def disk_trouble(action: str, path: Path) -> Iterator[None]:
    """Turns an ``OSError`` inside into a ``FileTroubleError`` (exit code 4) that says what failed and what to do."""
    try:
        yield
    except FileTroubleError:
        raise
    except OSError as error:
        raise trouble(action, path, error) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file as a whole or not at all: into a temporary neighbour first, which is then renamed.

    Parent folders are made. Text is UTF-8 with the line ends as given.

    Raises:
        FileTroubleError: when the disk says no; an older file of that name is then still as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with disk_trouble("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(name).chmod(0o666 & ~umask())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise


def umask() -> int:
    """The process's file mode mask."""
    # The mask can only be read by setting it; temporary files are made private and shall end up like any other file.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
