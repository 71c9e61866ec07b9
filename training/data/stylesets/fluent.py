"""Soft clay volumes: the people among Microsoft's Fluent emoji, npm package ``@lobehub/fluent-emoji-3d`` (MIT), 256 px.

Heads and busts in five skin tones, the same number of each.  Left out are whole figures, hands, couples, people with
a hidden face and creatures: a style learned from these turned human skin green.  The grounds are gradients with
trees, houses and furniture of the same package behind the person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sdk.errors import UsageError
from training.data.stylesets.backdrop import Manner, draw_backdrop
from training.data.stylesets.drawing import Drawing, Frame, render_svg

HEAD = Frame(centre_x=0.5, centre_y=0.55, face=0.72, smallest=0.55, largest=0.74, grounded=False)
BUST = Frame(centre_x=0.5, centre_y=0.38, face=0.38, smallest=0.33, largest=0.46, grounded=True)
#: Code points of the tones from light to dark, and their names.
TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: ``FIRST[-SECOND]``: the code point before the tone and the one joined after it (see ``_file``).
HEADS = _codes(
    "1f466 1f467 1f468 1f469 1f9d1 1f471 1f471-2640 1f471-2642 1f474 1f475 1f476 1f9d2 1f9d3 1f9d4 1f9d4-2640"
    " 1f9d4-2642 1f468-1f9b0 1f468-1f9b1 1f468-1f9b2 1f468-1f9b3 1f469-1f9b0 1f469-1f9b1 1f469-1f9b2 1f469-1f9b3"
    " 1f9d1-1f9b0 1f9d1-1f9b1 1f9d1-1f9b2 1f9d1-1f9b3 1f473 1f473-2640 1f473-2642"
)
_WORK = _codes("1f33e 1f373 1f393 1f3a4 1f3a8 1f3eb 1f3ed 1f4bb 1f4bc 1f527 1f52c 1f692 2695 2696 2708")
_POSES = _codes("1f46e 1f470 1f477 1f481 1f487 1f645 1f646 1f64b 1f64d 1f64e 1f935 1f937 1f939 1f9b8 1f9d6 1f9d9")
BUSTS = (
    *(f"{person}-{work}" for person in ("1f468", "1f469", "1f9d1") for work in _WORK),
    *(f"{pose}{gender}" for pose in _POSES for gender in ("", "-2640", "-2642")),
    *_codes("1f472 1f478 1f930 1f931 1f934 1f9d5 1fac3 1fac4 1fac5"),
)
#: Things of the package that may stand behind a person: trees, plants, houses, mountains, clouds, furniture, books.
THINGS = _codes(
    "1f333 1f332 1f334 1f335 1fab4 1f33b 1f337 1f33f 1f3e0 1f3e1 1f3e2 1f3eb 26f0-fe0f 1f3d4-fe0f 2601-fe0f 1f6cb-fe0f"
    " 1fa91 1f4da 1f5bc-fe0f 1f56f-fe0f 1f5fb 1f697"
)


def people(root: Path) -> list[tuple[Path, Frame, str]]:
    """Picture file, frame and tone of each person the package has, the tones of one person side by side."""
    found = []
    for codes, frame in ((HEADS, HEAD), (BUSTS, BUST)):
        for code in codes:
            for tone, name in TONES.items():
                path = _file(root, code, tone)
                if path is not None:
                    found.append((path, frame, name))
    return found


def _file(root: Path, code: str, tone: str) -> Path | None:
    """Where a person in a tone lies: ``FIRST-TONE[-200d-SECOND[-fe0f]].webp``, or nothing if the package lacks it."""
    first, _, second = code.partition("-")
    tail = f"-200d-{second}" if second else ""
    for end in ("", "-fe0f"):
        path = root / "assets" / f"{first}-{tone}{tail}{end}.webp"
        if path.is_file():
            return path
    return None


def draw(root: Path, count: int, rng: np.random.Generator) -> Iterator[Drawing]:
    """The people of the package in chance order, each once.

    Args:
        root: the unpacked package's folder with ``assets``.
        count: not used: the package has as many people as it has.
        rng: source of chance.
    """
    del count
    found = people(root)
    for index in rng.permutation(len(found)):
        path, frame, tone = found[index]
        yield Drawing(art=_read(path), frame=frame, source_file=path.relative_to(root).as_posix(), skin=tone, hair="")


def draw_ground(root: Path, side: int, rng: np.random.Generator) -> Image.Image:
    """A lit ground with up to four things of the package on it: RGB, ``side`` x ``side``."""
    ground = render_svg(draw_backdrop(rng, Manner(soft=True)), side).convert("RGB")
    things = [path for code in THINGS if (path := root / "assets" / f"{code}.webp").is_file()]
    for _ in range(int(rng.integers(0, 5)) if things else 0):
        thing = _read(things[int(rng.integers(len(things)))])
        size = int(side * rng.uniform(0.25, 0.6))
        thing = thing.resize((size, size), Image.Resampling.LANCZOS)
        left = int(rng.choice((rng.uniform(-0.25, 0.1), rng.uniform(0.55, 0.9))) * side)
        ground.paste(thing, (left, int(rng.uniform(-0.1, 0.7) * side)), thing)
    return ground


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGBA")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot decode {path.name}: {error}; fetch the package again.") from error
