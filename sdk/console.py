"""What every command line of the project shares: errors as one sentence with their exit code, tables, progress.

Rich is imported only when something is drawn on a terminal; into a pipe or a log goes plain text.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from sdk.errors import ExitCode, ToonEdgeError

if TYPE_CHECKING:
    import typer


def run(app: typer.Typer, *, prog_name: str | None = None) -> NoReturn:
    """Runs a Typer app and exits: a user's mistake is one line on stderr and an exit code, never a traceback.

    Typer itself answers wrong usage (exit code 2) and an interrupt (130). A mistake of ours keeps its traceback.

    Args:
        app: the app, made with ``pretty_exceptions_enable=False``.
        prog_name: how the command calls itself in its help; found out by Typer when ``None``.
    """
    try:
        app(prog_name=prog_name)
    except ToonEdgeError as error:
        fail(error)
        sys.exit(int(error.exit_code))
    except OSError as error:  # disk trouble that no deeper place gave a sentence of its own
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}: check the path, its permissions and the room on the disk.")
        sys.exit(int(ExitCode.FILE_TROUBLE))
    sys.exit(int(ExitCode.OK))


def fail(error: Exception | str) -> None:
    """One line ``error: ...`` on stderr."""
    sys.stderr.write(f"error: {error}".replace("\n", " ") + "\n")


def note(text: str) -> None:
    """One line ``note: ...`` on stderr: something a user may want to know and a script need not parse."""
    sys.stderr.write(f"note: {text}".replace("\n", " ") + "\n")


def say(text: str = "") -> None:
    """One line, or several, on stdout."""
    sys.stdout.write(text + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout: drawn by Rich on a terminal, aligned columns otherwise.

    Args:
        columns: headings.
        rows: as many texts each as there are headings.
        right: headings of the columns to align to the right.
    """
    if sys.stdout.isatty():
        _rich_table(columns, rows, right)
        return
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ]
        say("  ".join(cells).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    colours = {"pass": "green", "yes": "green", "fail": "bold red", "no": "yellow", "not_runnable": "yellow"}
    for row in rows:
        drawn.add_row(*(f"[{colours[cell]}]{cell}[/]" if cell in colours else escape(cell) for cell in row))
    Console().print(drawn)


@contextlib.contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr when that is a terminal, nothing otherwise.

    Args:
        total: steps, or ``None`` when not known.
        what: what is going on, in a word or two.

    Yields:
        A function to call after each step.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    layout = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Rich would otherwise lead stdout to its own console, stderr, away from the pipe that reads it.
    with Progress(*layout, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
