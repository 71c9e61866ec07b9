"""The table of sets: where each comes from, how it is drawn, who made it and under which licence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.sample import Client, Package
from training.data.stylesets import avatars, facesjs, fluent
from training.data.stylesets.backdrop import Manner, draw_backdrop
from training.data.stylesets.drawing import Drawing, render_svg

#: What the two functions of a set are given first: the folder its package lies in.
Draw = Callable[[Path, int, np.random.Generator], Iterator[Drawing]]
Ground = Callable[[Path, int, np.random.Generator], Image.Image]


@dataclass(frozen=True, kw_only=True)
class StyleSet:
    """One set.

    Attributes:
        name: as ``--set`` calls it.
        about: what it looks like, one line.
        package: what is fetched, or the installed distribution that draws.
        fetched: the package comes through its client into a temporary folder; else it is installed beside us.
        needs_modules: the package is fetched with what it depends on (``npm install``), for node runs it.
        licence: SPDX name.
        author: whom a licence may want named.
        side: of a picture, pixels.
        draw: folder of the package, how many, chance -> drawings.
        ground: folder of the package, side in pixels, chance -> RGB.
    """

    name: str
    about: str
    package: Package
    fetched: bool
    needs_modules: bool = False
    licence: str
    author: str
    side: int
    draw: Draw
    ground: Ground


def _drawn_ground(manner: Manner, root: Path, side: int, rng: np.random.Generator) -> Image.Image:
    del root
    return render_svg(draw_backdrop(rng, manner), side).convert("RGB")


def _avatars(name: str, about: str, licence: str, author: str, manner: Manner) -> StyleSet:
    def draw(root: Path, count: int, rng: np.random.Generator) -> Iterator[Drawing]:
        del root
        return avatars.draw(avatars.PORTRAITS[name], avatars.read_definition(name), count, rng)

    return StyleSet(
        name=name,
        about=about,
        package=Package(Client.PIP, "dicebear-styles", "10.6.0"),
        fetched=False,
        licence=licence,
        author=author,
        side=320,
        draw=draw,
        ground=partial(_drawn_ground, manner),
    )


SETS: dict[str, StyleSet] = {
    one.name: one
    for one in (
        StyleSet(
            name="facesjs",
            about="flat colours, clean black outlines, front view",
            package=Package(Client.NPM, "facesjs", "5.0.3"),
            fetched=True,
            needs_modules=True,
            licence="Apache-2.0",
            author="Jeremy Scheff",
            side=320,
            draw=facesjs.draw,
            ground=partial(_drawn_ground, Manner(line=0.008)),
        ),
        StyleSet(
            name="fluent",
            about="soft clay volumes, no lines",
            package=Package(Client.NPM, "@lobehub/fluent-emoji-3d", "1.1.0"),
            fetched=True,
            licence="MIT",
            author="Microsoft",
            side=256,
            draw=fluent.draw,
            ground=fluent.draw_ground,
        ),
        _avatars(
            "lorelei", "fine ink lines, one flat colour an area", "CC0-1.0", "Lisa Wischofsky", Manner(line=0.007)
        ),
        _avatars("open-peeps", "bold ink brush, flat colours", "CC0-1.0", "Pablo Stanley", Manner(line=0.01)),
        _avatars("toon-head", "flat colours with flat shadows, hardly a line", "CC-BY-4.0", "Johan Melin", Manner()),
    )
}
