"""Flat portraits with clean ink outlines, drawn by the npm package ``facesjs`` (Apache-2.0): as many as one wants.

The package is JavaScript: node draws, Python says what.  One run of node draws all pictures of a set, each from its own
seed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sdk.errors import MissingRuntimeError
from training.data.stylesets.drawing import Drawing, Frame
from training.data.stylesets.palette import cloth_colour, hair_colour, skin_tone

FRAME = Frame(centre_x=0.5, centre_y=0.6, face=0.52, smallest=0.42, largest=0.8, grounded=True)
#: Features that are no portrait: rings for eyes, war paint, a Santa's hat, a liar's nose.
LEFT_OUT = {
    "eye": ("female11", "female12"),
    "accessories": ("eye-black", "santa-hat"),
    "nose": ("pinocchio", "honker"),
    "mouth": ("angry",),
}
#: Drawn by node in the folder the package was installed to; reads requests, writes SVG texts, both JSON, one a list.
DRIVER = """
import { readFileSync } from "node:fs";
const requests = JSON.parse(readFileSync(0, "utf8"));
let state = 0;
Math.random = () => {  // mulberry32: facesjs has no seed of its own
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const { generate, faceToSvgString } = await import("facesjs");
const drawn = requests.map((request) => {
  state = request.seed;
  for (;;) {  // a face with a feature that is left out is drawn again
    const face = generate(request.overrides, { gender: request.gender });
    const bad = Object.entries(request.leftOut).some(([part, ids]) => ids.includes(face[part].id));
    if (!bad) return faceToSvgString(face);
  }
});
process.stdout.write(JSON.stringify(drawn));
"""


def draw(root: Path, count: int, rng: np.random.Generator) -> Iterator[Drawing]:
    """Draw ``count`` portraits, women and men in turn, skin and hair spread evenly.

    Args:
        root: folder with ``node_modules/facesjs``.
        count: how many; skin tones are spread over this many.
        rng: source of chance.

    Raises:
        MissingRuntimeError: node is not installed or could not draw.
    """
    requests: list[dict[str, object]] = []
    colours = []
    skins, hairs = rng.permutation(count), rng.permutation(count)
    for index in range(count):
        skin, hair = skin_tone((skins[index] + 0.5) / count), hair_colour((hairs[index] + 0.5) / count)
        colours.append((skin, hair))
        requests.append(
            {
                "seed": int(rng.integers(2**31)),
                "gender": ("female", "male")[index % 2],
                "leftOut": LEFT_OUT,
                "overrides": {
                    "body": {"color": skin},
                    "hair": {"color": hair},
                    "teamColors": [cloth_colour(rng) for _ in range(3)],
                },
            }
        )
    for request, (skin, hair), text in zip(requests, colours, _run_node(root, requests), strict=True):
        yield Drawing(
            art=text, frame=FRAME, source_file=f"{request['gender']} seed {request['seed']}", skin=skin, hair=hair
        )


def _run_node(root: Path, requests: list[dict[str, object]]) -> list[str]:
    node = shutil.which("node")
    if node is None:
        raise MissingRuntimeError(
            "node is not installed, so facesjs cannot draw: install it (`apt-get install nodejs npm`)."
        )
    driver = root / "draw.mjs"
    driver.write_text(DRIVER, encoding="utf-8")
    done = subprocess.run(
        [node, driver.name], cwd=root, input=json.dumps(requests), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        said = next((line.strip() for line in lines if "Error" in line), lines[-1].strip() if lines else "no message")
        raise MissingRuntimeError(f"node could not draw with facesjs ({said}): use node 18 or newer, fetch it again.")
    drawn: list[str] = json.loads(done.stdout)
    return drawn
