"""Portraits of the avatar collections that PyPI's ``dicebear-styles`` carries, drawn by ``dicebear-core`` (MIT).

Each collection has its own artist and licence, written in its definition file; ``PORTRAITS`` has CC0 and CC BY only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from sdk.errors import MissingRuntimeError, UsageError
from training.data.stylesets.drawing import Drawing, Frame
from training.data.stylesets.palette import cloth_colour, hair_colour, skin_tone

#: Licence names of definition files -> SPDX; anything else is refused.
LICENCES = {"CC0 1.0": "CC0-1.0", "CC BY 4.0": "CC-BY-4.0"}


@dataclass(frozen=True, kw_only=True)
class Portraits:
    """How a collection is asked for human portraits.

    Attributes:
        collection: name of the definition file.
        frame: where its faces are.
        skin, hair, cloth: its colour options by what they colour.
        options: fixed options, such as the variants that may be drawn; a name without ``Variant`` or ``Probability`` is
            none of the package's.
        left_out: component -> variants that are no portrait.
    """

    collection: str
    frame: Frame
    skin: tuple[str, ...]
    hair: tuple[str, ...]
    cloth: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)


PORTRAITS: dict[str, Portraits] = {
    "lorelei": Portraits(
        collection="lorelei",
        frame=Frame(centre_x=0.52, centre_y=0.5, face=0.42, smallest=0.42, largest=0.75, grounded=True),
        skin=("skinColor",),
        hair=("hairColor",),
        cloth=("hairAccessoriesColor", "earringsColor"),
        options={"beardProbability": 0},
        left_out={
            "hair": ("variant40", "variant41", "variant45"),  # over the whole face
            "eyes": ("variant03", "variant07", "variant09"),  # drops and hearts for eyes
        },
    ),
    "open-peeps": Portraits(
        collection="open-peeps",
        frame=Frame(centre_x=0.52, centre_y=0.45, face=0.45, smallest=0.42, largest=0.75, grounded=True),
        skin=("skinColor",),
        hair=("headContrastColor",),
        cloth=("clothingColor",),
        options={"maskProbability": 0},
        left_out={
            "expression": ("angryWithFang", "cyclops", "lovingGrin1", "lovingGrin2", "monster", "rage", "veryAngry"),
            "head": ("bear",),
            "accessories": ("eyepatch",),
        },
    ),
    "toon-head": Portraits(
        collection="toon-head",
        frame=Frame(centre_x=0.5, centre_y=0.5, face=0.42, smallest=0.42, largest=0.75, grounded=True),
        skin=("skinColor",),
        hair=("hairColor",),
        cloth=("clothesColor",),
        options={"beardProbability": 20},
    ),
}


def read_definition(collection: str) -> dict[str, object]:
    """A collection's definition out of the installed ``dicebear-styles``.

    Raises:
        MissingRuntimeError: the package is not installed.
        UsageError: the package has no such collection, or its licence is not one of ``LICENCES``.
    """
    try:
        file = resources.files("dicebear_styles").joinpath(f"{collection}.json")
    except ModuleNotFoundError as error:
        raise MissingRuntimeError(
            f"{collection} is drawn by dicebear-core and dicebear-styles: install toonedge[styles]."
        ) from error
    if not file.is_file():
        raise UsageError(f"dicebear-styles has no collection {collection}: use the version that pyproject.toml names.")
    definition: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    licence_of(definition, collection)
    return definition


def licence_of(definition: dict[str, object], collection: str) -> str:
    """The SPDX name of a definition's licence.

    Raises:
        UsageError: it is none that lets anybody train and publish.
    """
    meta = definition.get("meta")
    stated = meta.get("license", {}).get("name", "none") if isinstance(meta, dict) else "none"
    if stated not in LICENCES:
        raise UsageError(f"{collection} states the licence {stated!r}, not {' or '.join(LICENCES)}: leave it out.")
    return LICENCES[stated]


def author_of(definition: dict[str, object]) -> str:
    """The artist a definition names."""
    meta = definition.get("meta")
    return str(meta.get("creator", {}).get("name", "")) if isinstance(meta, dict) else ""


def draw(
    portraits: Portraits, definition: dict[str, object], count: int, rng: np.random.Generator
) -> Iterator[Drawing]:
    """Draw ``count`` portraits of a collection, skin and hair spread evenly.

    Args:
        portraits: how to ask.
        definition: the collection.
        count: how many; skin tones are spread over this many.
        rng: source of chance.

    Raises:
        MissingRuntimeError: dicebear-core is not installed.
    """
    try:
        from dicebear import Avatar, Style
    except ImportError as error:
        raise MissingRuntimeError("the dicebear collections need dicebear-core: install toonedge[styles].") from error
    style = Style(definition)
    components = definition.get("components")
    variants = {
        f"{name}Variant": [key for key in parts["variants"] if key not in portraits.left_out.get(name, ())]
        for name, parts in (components.items() if isinstance(components, dict) else ())
        if name in portraits.left_out
    }
    skins, hairs = rng.permutation(count), rng.permutation(count)
    for index in range(count):
        skin, hair = skin_tone((skins[index] + 0.5) / count), hair_colour((hairs[index] + 0.5) / count)
        seed = f"toonedge-{int(rng.integers(2**31))}"
        options: dict[str, object] = {"seed": seed, **variants, **portraits.options}
        options |= {name: [skin] for name in portraits.skin}
        options |= {name: [hair] for name in portraits.hair}
        options |= {name: [cloth_colour(rng)] for name in portraits.cloth}
        yield Drawing(
            art=Avatar(style, options).to_string(),
            frame=portraits.frame,
            source_file=f"{portraits.collection}.json {seed}",
            skin=skin,
            hair=hair,
        )
