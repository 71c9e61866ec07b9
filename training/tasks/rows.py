"""Which row of another network a style begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from sdk.errors import UsageError, unknown_name
from training.checkpoint import Checkpoint, NamedCheckpoint, load_any_checkpoint
from training.config import Fault, Recipe
from training.models.norm import ConditionalNorm2d


def first_rows(styles: Sequence[str], known: Sequence[str], starts: Mapping[str, str]) -> dict[int, int]:
    """Rows of a network and the rows of another one that they begin with.

    Args:
        styles: of the network, in the order of its rows.
        known: those of the other one.
        starts: style to the other network's style whose row it takes; all others take the one of their own name, and
            have no entry in what is returned when there is none.

    Raises:
        UsageError: ``starts`` names what the other network does not have.
    """
    for style in starts.values():
        if style not in known:
            raise unknown_name("style of run.init", style, known)
    taken = {style: starts.get(style, style) for style in styles}
    return {row: known.index(taken[style]) for row, style in enumerate(styles) if taken[style] in known}


@torch.no_grad()
def place_rows(
    generator: nn.Module, start: Checkpoint | NamedCheckpoint, styles: Sequence[str], starts: Mapping[str, str]
) -> None:
    """Gives each style's row its values: see ``first_rows``; a style that has none begins at the mean of all.

    Of a norm with another number of channels the leading ones that both have are taken (``start_from``). Networks
    without rows of styles stay as they are.

    Args:
        generator: changed in place.
        start: the other network.
        styles, starts: see ``first_rows``.

    Raises:
        UsageError: it lacks a style of ``starts``.
    """
    rows = first_rows(styles, start.info.styles, starts)
    given = {name: norm for name, norm in start.generator.named_modules() if isinstance(norm, ConditionalNorm2d)}
    for name, norm in generator.named_modules():
        theirs = given.get(name)
        if not isinstance(norm, ConditionalNorm2d) or theirs is None:
            continue
        both = min(norm.channels, theirs.channels)
        for own, their in ((norm.gamma, theirs.gamma), (norm.beta, theirs.beta)):
            for row in range(len(styles)):
                own[row, :both] = (their[rows[row]] if row in rows else their.mean(0))[:both]


def row_faults(recipe: Recipe, key: str) -> list[Fault]:
    """What is wrong with the rows that a recipe wants from ``run.init``; see ``TaskKind.faults``.

    Args:
        recipe: any; without ``run.init`` nothing is.
        key: of the recipe, that says which rows (``Recipe.starts``).
    """
    if recipe.run.init is None:
        return []
    try:
        first_rows(recipe.styles, load_any_checkpoint(Path(recipe.run.init)).info.styles, recipe.starts)
    except UsageError as error:
        return [Fault(f"run.init: {error}", ("run.init", key))]
    return []
