"""``python -m training.data.stylesets --set NAME --out DIR``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sdk.errors import ToonEdgeError, UsageError
from training.data.stylesets.catalogue import SETS, StyleSet
from training.data.stylesets.write import FEWEST, make_set

app = typer.Typer(add_completion=False)


def find_set(name: str) -> StyleSet:
    """The set of a name.

    Raises:
        UsageError: there is none; the nearest name is suggested.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the sets are {', '.join(SETS)}."
        raise UsageError(f"no set is called {name}: {hint}")
    return SETS[name]


@app.command()
def main(
    *,
    set_: Annotated[
        str, typer.Option("--set", help="; ".join(f"{one.name}: {one.about} ({one.licence})" for one in SETS.values()))
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; replaced if this command wrote it.")],
    count: Annotated[int, typer.Option(help="How many different pictures.")] = 600,
    seed: Annotated[int, typer.Option(help="Source of all chance: the same seed, the same pictures.")] = 0,
    downloads: Annotated[Path | None, typer.Option(help="Keep the package here for the next time.")] = None,
) -> None:
    """Draw portraits of one style into OUT, listed with source, licence and author in OUT/index.csv."""
    console = Console(stderr=True)
    try:
        style_set = find_set(set_)
        rows = make_set(style_set, out=out, count=count, seed=seed, downloads=downloads)
    except ToonEdgeError as error:
        console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(int(error.exit_code)) from error
    if len(rows) < FEWEST:
        console.print(f"[yellow]{len(rows)} pictures are few to learn a style from: {FEWEST} or more are better.")
    console.print(f"{out}: {len(rows)} pictures of {style_set.name}, {style_set.licence}, {style_set.author}")


if __name__ == "__main__":
    app()
