"""A checkpoint with some of another one's styles: ``python -m training.keep_styles --checkpoint SEVEN --style comic``.

A style is a row in every conditional norm, so a network that is to draw fewer styles is the same network with fewer
rows: what is kept draws as before, bit for bit. An app that ships two styles ships two. A kept style may get another
name (``--style cel2=cel``): so a row that ``task: personalize-pairs`` learned anew takes the place of the old one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sdk.errors import ToonEdgeError, UsageError, unknown_name
from training.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.generator import Generator
from training.models.norm import style_tables


def keep_styles(checkpoint: Checkpoint, styles: Sequence[str]) -> tuple[Generator, CheckpointInfo]:
    """The network with the rows of these styles alone, in this order, and what it says of itself.

    Args:
        checkpoint: of our generator; stays as it is.
        styles: some of its styles, each once; ``OLD=NEW`` gives one another name.

    Raises:
        UsageError: none, one twice, two of one name, or one that it does not have.
    """
    known = checkpoint.info.styles
    if not styles:
        raise UsageError("no style is named: say which ones to keep.")
    kept = [style.partition("=")[0] for style in styles]
    names = [new if found else old for old, found, new in (style.partition("=") for style in styles)]
    for number, (style, name) in enumerate(zip(kept, names, strict=True)):
        if style not in known:
            raise unknown_name("style", style, known)
        if not name:
            raise UsageError(f"the style {style!r} gets an empty name: write {style}=NAME.")
        if style in kept[:number]:
            raise UsageError(f"the style {style!r} is named twice: name each once.")
        if name in names[:number]:
            raise UsageError(f"two styles are to be called {name!r}: give each a name of its own.")
    rows = [known.index(style) for style in kept]
    network = checkpoint.generator
    made = Generator(dataclasses.replace(network.config, styles=len(rows)))
    tables = style_tables(network)
    made.load_state_dict({key: x[rows] if key in tables else x for key, x in network.state_dict().items()})
    left_out = [style for style in known if style not in kept]
    story = [f"the styles {', '.join(left_out)} were left out"] if left_out else []
    story += [f"{old} was called {new}" for old, new in zip(kept, names, strict=True) if old != new]
    info = dataclasses.replace(checkpoint.info, styles=tuple(names), provenance=(*checkpoint.info.provenance, *story))
    return made.eval(), info


def _main(
    checkpoint: Annotated[Path, typer.Option(help="A .safetensors checkpoint.")],
    style: Annotated[
        list[str], typer.Option(help="Style to keep, OLD=NEW renames it; repeatable, in the order of the new rows.")
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
) -> None:
    """Write a checkpoint with some of another one's styles, which draw as before."""
    try:
        network, info = keep_styles(load_checkpoint(checkpoint), style)
        save_checkpoint(out, network, info)
        typer.echo(f"{out}: {', '.join(info.styles)}")
    except ToonEdgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(int(error.exit_code)) from error


if __name__ == "__main__":
    typer.run(_main)
