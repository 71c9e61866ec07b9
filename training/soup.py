"""The weighted mean of checkpoints: ``python -m training.soup --checkpoint A=3 --checkpoint B=1 --out C``.

States of one run, or of runs that started from one another, lie in one valley: the mean of their weights draws what
lies between what they draw, and its figures lie between theirs (Wortsman et al. 2022, "Model soups"). So a state that
is good at one thing can be given a share of an earlier one that was better at another, without training. Of networks
that learned apart, the mean draws nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from sdk.errors import ToonEdgeError, UsageError
from training.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from training.models.generator import Generator
from training.models.norm import style_tables


def soup(checkpoints: Sequence[Checkpoint], weights: Sequence[float]) -> tuple[Generator, CheckpointInfo]:
    """The mean network, with the first one's styles, and what it says of itself: the first one's story and its shares.

    A style is matched by its name; its rows are the mean of those networks alone that have it.

    Args:
        checkpoints: two or more of our generator, of one architecture but for the number of styles.
        weights: a share each, 0 or more; divided by their sum.

    Raises:
        UsageError: fewer than two, a weight that is none, or another architecture.
    """
    if len(checkpoints) < 2:
        raise UsageError(f"{len(checkpoints)} checkpoint(s) have no mean: name two or more.")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"a weight of {weight:g} is no share: give 0 or more.")
    if not sum(weights):
        raise UsageError("all weights are 0: give one of them a share.")
    first = checkpoints[0]
    alike = dataclasses.replace(first.generator.config, styles=1)
    for number, other in enumerate(checkpoints[1:], 2):
        if dataclasses.replace(other.generator.config, styles=1) != alike:
            raise UsageError(
                f"checkpoint {number} ({other.info.name}) is of another architecture than the first: "
                "only networks of the same layers and widths have a mean."
            )
    made = Generator(first.generator.config)
    tables = style_tables(made)
    states = [checkpoint.generator.state_dict() for checkpoint in checkpoints]
    known = list(zip(checkpoints, states, weights, strict=True))
    mean: dict[str, Tensor] = {}
    for key, value in states[0].items():
        if not value.is_floating_point():
            mean[key] = value
        elif key in tables:
            shares = [(one.info.styles, state[key], weight) for one, state, weight in known]
            mean[key] = torch.stack([_row(style, shares) for style in first.info.styles])
        else:
            mean[key] = _mean([state[key] for state in states], weights)
    made.load_state_dict(mean)
    told = ", ".join(
        f"{weight / sum(weights):.3g} of {one.info.name} {one.sha256[:12]}"
        for one, weight in zip(checkpoints, weights, strict=True)
    )
    info = dataclasses.replace(first.info, provenance=(*first.info.provenance, f"mean of weights: {told}"))
    return made.eval(), info


def _row(style: str, shares: Sequence[tuple[Sequence[str], Tensor, float]]) -> Tensor:
    """The mean row of a style; of each network its styles, the table of their rows, and its weight."""
    having = [(table[styles.index(style)], weight) for styles, table, weight in shares if style in styles]
    rows, weights = zip(*having, strict=True)
    return _mean(rows, weights) if sum(weights) else rows[0]


def _mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    # In double precision: a mean of a network with itself is that network.
    total = sum((weight * tensor.double() for tensor, weight in zip(tensors, weights, strict=True)), torch.zeros(()))
    return (total / sum(weights)).to(tensors[0].dtype)


def _shared(text: str) -> tuple[Path, float]:
    """``FILE=WEIGHT``; a file alone has the weight 1."""
    path, found, weight = text.rpartition("=")
    if not found:
        return Path(text), 1.0
    try:
        return Path(path), float(weight)
    except ValueError as error:
        raise UsageError(f"{text!r} does not end in a weight: write FILE=WEIGHT, for example {path}=0.25.") from error


def _main(
    checkpoint: Annotated[
        list[str], typer.Option(help="FILE or FILE=WEIGHT; repeatable, the first one's styles stay.")
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
) -> None:
    """Write the weighted mean of checkpoints that come from one another."""
    try:
        shared = [_shared(text) for text in checkpoint]
        network, info = soup([load_checkpoint(path) for path, _ in shared], [weight for _, weight in shared])
        save_checkpoint(out, network, info)
        typer.echo(f"{out}: {info.provenance[-1]}")
    except ToonEdgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(int(error.exit_code)) from error


if __name__ == "__main__":
    typer.run(_main)
