"""Files: written whole or not at all, and one sentence for every way a disk can refuse."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sdk.errors import ExitCode, FileTroubleError
from sdk.files import disk_trouble, trouble, umask, write_atomically


def test_text_and_bytes_are_written_as_given_with_their_folders(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "t.txt", "zwei\nZeilen ü\n")
    write_atomically(tmp_path / "t.bin", b"\x00\r\n")
    assert (tmp_path / "a" / "b" / "t.txt").read_bytes() == "zwei\nZeilen ü\n".encode()
    assert (tmp_path / "t.bin").read_bytes() == b"\x00\r\n"


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
def test_a_file_gets_the_mode_any_new_file_gets(tmp_path: Path) -> None:
    before = umask()
    write_atomically(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert umask() == before


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_failure_leaves_the_older_file_and_no_litter(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("older")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: object, **__: object) -> None:
        raise full

    monkeypatch.setattr(*(("sdk.files.os.fdopen", refuse) if step == "write" else (Path, "replace", refuse)))
    with pytest.raises(FileTroubleError, match=r"could not write '.*f': the disk is full.*choose another folder") as e:
        write_atomically(tmp_path / "f", "newer")
    monkeypatch.undo()
    assert e.value.exit_code is ExitCode.FILE_TROUBLE
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "older"


def test_a_folder_in_the_place_of_the_file_is_trouble(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(FileTroubleError, match="could not write"):
        write_atomically(tmp_path / "f", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_trouble_inside_trouble_is_said_once(tmp_path: Path) -> None:
    inner = trouble("write", tmp_path / "inner", OSError(errno.EROFS, "x"))
    with pytest.raises(FileTroubleError) as caught, disk_trouble("write", tmp_path / "outer"):
        raise inner
    assert caught.value is inner
    assert "read-only" in str(inner)


def test_an_error_without_a_remedy_of_ours_keeps_the_systems_words(tmp_path: Path) -> None:
    assert "Bad file descriptor" in str(trouble("read", tmp_path, OSError(errno.EBADF, os.strerror(errno.EBADF))))
    assert "6 requested and 2 written" in str(trouble("write", tmp_path, OSError("6 requested and 2 written")))
