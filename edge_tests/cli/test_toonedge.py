"""The commands of ``toonedge``: exit codes, one sentence for every mistake, and what is left on the disk."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import typer
from PIL import Image

import sdk
from sdk import cli, console
from sdk.bundle import Bundle
from sdk.errors import FileTroubleError, GateError
from sdk.imaging import read_photo
from sdk.runtimes import get_runtime
from sdk.runtimes.base import Availability

ROOT = Path(__file__).parents[2]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def toonedge(monkeypatch, capsys) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["toonedge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return Result(code, out, err)

    return run


@pytest.fixture
def photo(tmp_path) -> Path:
    """``me.jpg``, 48 x 32 px: the toy artifact's own size."""
    noise = np.random.default_rng(4).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    path = tmp_path / "me.jpg"
    Image.fromarray(noise).resize((48, 32), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


def assert_refused(result: Result, code: int, *words: str) -> None:
    """One line on stderr, of one sentence, with the exit code; nothing on stdout."""
    assert result.code == code, result
    assert result.err.startswith("error: ")
    assert result.err.endswith(".\n")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    assert result.out == ""
    for word in words:
        assert word in result.err


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# -------------------------------------------------------------------------------------------------------------- speed


def _cpu_seconds(*arguments: str, runs: int = 5) -> float:
    """CPU time of a fresh interpreter, s, the least of several runs.

    On a quiet machine this is the wall-clock time (start-up waits for nothing); beside busy neighbours it stays so.
    """
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_import_sdk_takes_at_most_300_ms():
    assert _cpu_seconds("-c", "import sdk") <= 0.3, "the interpreter's own start included"


def test_help_takes_at_most_600_ms():
    assert _cpu_seconds("-m", "sdk", "--help") <= 0.6


HEAVY = {
    "numpy", "PIL", "typer", "rich", "torch", "onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow",
    "executorch", "coremltools", "onnx", "cv2", "lightning", "timm",
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import sdk", set()),
        ("import sdk.cli", {"typer"}),
        ("import sdk; sdk.load, sdk.Stylizer, sdk.read_photo, sdk.resize, sdk.Bundle", {"numpy", "PIL"}),
        ("import sdk.verify, sdk.bench, sdk.profile, sdk.report.read, sdk.sheet", {"numpy", "PIL"}),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code, allowed):
    show = "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code + show], check=True, capture_output=True, text=True, cwd=ROOT)
    assert set(done.stdout.split()) & HEAVY <= allowed


# ------------------------------------------------------------------------------------------------------ the front door


def test_help_names_every_command(toonedge):
    result = toonedge("--help")
    assert result.code == 0
    for command in ("verify", "info", "stylize", "bench", "report", "doctor", "sheet", "export", "train"):
        assert f"\n  {command} " in result.out


@pytest.mark.parametrize("arguments", [("verifi",), ("stylize",), ("verify", "a", "--imagse", "x"), ("info", "a", "b")])
def test_wrong_use_exits_2_and_says_so(toonedge, arguments):
    result = toonedge(*arguments)
    assert result.code == 2
    assert "Error: " in result.err
    assert "Traceback" not in result.err


def test_a_mistyped_command_suggests_the_nearest(toonedge):
    assert "verify" in toonedge("verifi").err


def test_python_m_sdk_is_the_same_program(toonedge):
    command = [sys.executable, "-m", "sdk", "info", "nowhere"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert Result(done.returncode, done.stdout, done.stderr) == toonedge("info", "nowhere")


def test_the_version_is_shown(toonedge):
    result = toonedge("--version")
    assert result.code == 0
    assert result.out.startswith("toonedge")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (GateError("the gate said no."), 1, "error: the gate said no.\n"),
        (FileTroubleError("the disk\nsaid no."), 4, "error: the disk said no.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), 4, "error: x.bin: No space left on device"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_one_line_and_their_exit_code(capsys, monkeypatch, error, code, line):
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit) as stop:
        console.run(app)
    err = capsys.readouterr().err
    assert stop.value.code == code
    assert err.startswith(line)
    assert err.count("\n") <= 1


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(ZeroDivisionError):
        console.run(app)


# ------------------------------------------------------------------------------------------------------------ stylize


def test_a_photo_is_drawn_and_its_place_printed(toonedge, toy_bundle, photo, tmp_path):
    out = tmp_path / "out.png"
    result = toonedge("stylize", photo, "--bundle", toy_bundle.folder, "--style", "comic", "--out", out)
    assert result == Result(0, f"{out}\n", "")
    assert (read_photo(out).rgb == 255 - read_photo(photo).rgb).all()


def test_several_photos_and_styles_go_into_a_folder(toonedge, toy_bundle, photo, tmp_path):
    Image.new("RGB", (48, 32), (200, 200, 200)).save(tmp_path / "grey.png")
    out = tmp_path / "out"
    result = toonedge(
        "stylize", photo, tmp_path / "grey.png", "--bundle", toy_bundle.folder, "--out", out,
        "--style", "anime,pencil", "--style", "comic=6,pencil=2",
    )  # fmt: skip
    assert result.code == 0
    names = {f"{p}_{s}.png" for p in ("me", "grey") for s in ("anime", "pencil", "comic6+pencil2")}
    assert tree(out) == names
    assert len(result.out.splitlines()) == 6
    assert (read_photo(out / "grey_comic6+pencil2.png").rgb == round(-0.5 * 200 + 0.75 * 255)).all()


def test_a_folder_of_photos_is_drawn_in_all_styles(toonedge, toy_bundle, photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.rename(folder / "a.jpg")
    (folder / "notes.txt").write_text("not a photo")
    result = toonedge("stylize", folder, "--bundle", toy_bundle.folder, "--style", "all", "--out", tmp_path / "out")
    assert result.code == 0
    assert tree(tmp_path / "out") == {"a_comic.png", "a_pencil.png", "a_anime.png"}


def test_options_reach_the_stylizer(toonedge, toy_bundle, photo, tmp_path):
    out = tmp_path / "out.png"
    Image.new("RGBA", (300, 100), (40, 40, 40, 128)).save(tmp_path / "wide.png")
    common = ("stylize", tmp_path / "wide.png", "--bundle", toy_bundle.folder, "--style", "comic", "--out", out)
    assert toonedge(*common, "--fit", "crop").code == 0
    assert Image.open(out).size == (48, 32)
    assert toonedge(*common, "--full-size", "--keep-alpha").code == 0
    assert (Image.open(out).size, Image.open(out).mode) == ((300, 100), "RGBA")
    assert toonedge(*common, "--artifact", "reference", "--max-side", "150").code == 0
    assert Image.open(out).size == (150, 50)
    assert toonedge(*common, "--strength", "0").code == 0
    assert (read_photo(out).rgb == read_photo(tmp_path / "wide.png").rgb[0, 0]).all()


def test_without_a_bundle_named_the_one_in_dist_is_taken_and_else_the_shipped_one(
    toonedge, toy_bundle, photo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shipped = sdk.load().bundle.manifest.model
    assert f"model:      {shipped.name} {shipped.version}" in toonedge("info").out
    assert toonedge("stylize", photo, "--style", shipped.styles[-1]).out == f"me_{shipped.styles[-1]}.png\n"
    toy_bundle.folder.rename(tmp_path / "dist")
    assert "toy 1.0.0" in toonedge("info").out
    assert toonedge("stylize", photo).out == "me_comic.png\n"


def test_an_installation_without_a_bundle_says_so(toonedge, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sdk.bundle, "_SHIPPED", tmp_path / "default_bundle")
    for command in (("stylize", photo), ("info",), ("verify",), ("bench",), ("sheet",)):
        assert_refused(toonedge(*command), 2, "no bundle ships with this installation", "name a bundle")


def save_16_bit(path: Path) -> None:
    Image.fromarray(np.full((40, 50), 30_000, np.uint16)).save(path)


def save_animated(path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(path, save_all=True, append_images=[Image.new("RGB", (40, 40), "blue")])


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30), "red").save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("dot.png", lambda path: Image.new("RGB", (1, 1), "red").save(path)),
        ("wide.jpg", lambda path: Image.new("RGB", (20_000, 50), "red").save(path)),
        ("grey.jpg", lambda path: Image.new("L", (40, 50), 99).save(path)),
        ("cmyk.jpg", lambda path: Image.new("CMYK", (40, 50), (9, 99, 0, 0)).save(path)),
        ("deep.png", save_16_bit),
        ("moving.gif", save_animated),
        ("alpha.png", lambda path: Image.new("RGBA", (40, 50), (9, 9, 9, 9)).save(path)),
        ("turned.jpg", save_turned),
        ("odd_profile.png", lambda path: Image.new("RGB", (40, 50), "red").save(path, icc_profile=b"broken")),
    ],
)  # fmt: skip
def test_photos_of_every_kind_are_drawn(toonedge, toy_bundle, tmp_path, name, save):
    save(tmp_path / name)
    out = tmp_path / "out.png"
    result = toonedge("stylize", tmp_path / name, "--bundle", toy_bundle.folder, "--style", "pencil", "--out", out)
    assert result.code == 0
    photo = read_photo(tmp_path / name)
    drawn = Image.open(out)
    assert drawn.width * drawn.height > 1000
    assert np.abs(read_photo(out).rgb.astype(float).mean((0, 1)) - photo.rgb.mean((0, 1))).max() < 4
    assert result.err == "".join(f"note: {tmp_path / name}: {text}\n" for text in photo.notes)


BAD_PHOTOS = {
    "missing.jpg": (None, "does not exist"),
    "empty.jpg": (b"", "zero bytes"),
    "text.jpg": (b"not a picture\n" * 99, "not an image"),
    "short.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\2\0\0\0\x90\x91h6\0\0\1\0IDATx", "truncated"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_bad_photo_gets_one_sentence_and_no_file(toonedge, toy_bundle, tmp_path, name):
    content, words = BAD_PHOTOS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = tree(tmp_path)
    result = toonedge("stylize", tmp_path / name, "--bundle", toy_bundle.folder, "--out", tmp_path / "out.png")
    assert_refused(result, 2, name, words)
    assert tree(tmp_path) == before


def test_a_jpeg_cut_in_half_gets_one_sentence_and_no_file(toonedge, toy_bundle, photo, tmp_path):
    photo.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    before = tree(tmp_path)
    result = toonedge("stylize", photo, "--bundle", toy_bundle.folder, "--out", tmp_path / "out.png")
    assert_refused(result, 2, "me.jpg", "truncated")
    assert tree(tmp_path) == before


def test_one_bad_photo_among_good_ones_is_said_and_fails_the_command(toonedge, toy_bundle, photo, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    result = toonedge("stylize", tmp_path / "bad.jpg", photo, "--bundle", toy_bundle.folder, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert "bad.jpg" in result.err
    assert tree(tmp_path / "out") == {"me_comic.png"}


def test_a_heic_photo_without_the_extra_exits_3(toonedge, toy_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99)
    result = toonedge("stylize", tmp_path / "a.heic", "--bundle", toy_bundle.folder, "--out", tmp_path / "out.png")
    assert_refused(result, 3, "toonedge[heif]")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--style", "comik"), "did you mean 'comic'"),
        (("--style", "comic=0.5,pensil=0.5"), "did you mean 'pencil'"),
        (("--style", "comic=much"), "comic=0.7,pencil=0.3"),
        (("--style", "comic=-1"), "shares must be"),
        (("--style", "comic=0"), "above 0"),
        (("--fit", "corp"), "did you mean 'crop'"),
        (("--strength", "2"), "strength is 2"),
        (("--runtime", "onnx-runtime"), "did you mean 'onnxruntime'"),
        (("--artifact", "toy.onnx"), "unknown artifact 'toy.onnx'"),
        (("--threads", "0"), "threads is 0"),
        (("--out", "out.jpgg"), "did you mean '.jpg'"),
        (("--out", "out.png", "--style", "all"), "one file for 3 pictures"),
        (("--bundle", "nowhere"), "'nowhere' does not exist"),
    ],
)
def test_wrong_options_get_one_sentence_and_no_file(
    *, toonedge, toy_bundle, photo, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert_refused(toonedge("stylize", photo, "--bundle", toy_bundle.folder, *options), 2, words)
    assert tree(tmp_path) == before


def test_photos_that_would_overwrite_each_other_are_refused(toonedge, toy_bundle, photo, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "me.png")
    result = toonedge("stylize", photo, tmp_path / "me.png", "--bundle", toy_bundle.folder, "--out", tmp_path / "out")
    assert_refused(result, 2, "me_comic.png")
    assert not (tmp_path / "out").exists()


def test_the_photo_itself_is_never_replaced(toonedge, toy_bundle, photo):
    before = photo.read_bytes()
    assert_refused(toonedge("stylize", photo, "--bundle", toy_bundle.folder, "--out", photo), 2, "would replace")
    assert photo.read_bytes() == before


def test_an_output_that_cannot_be_written_exits_4_and_leaves_nothing(
    toonedge, toy_bundle, photo, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("in the way")
    before = tree(tmp_path)
    common = ("stylize", photo, "--bundle", toy_bundle.folder, "--out")
    assert_refused(toonedge(*common, tmp_path / "file" / "out.png"), 4, "out.png")

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert_refused(toonedge(*common, tmp_path / "out.png"), 4, "disk is full")
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------------------ bundles


def spoil_nothing_there(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def spoil_field(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    del content["model"]["styles"]
    (folder / "manifest.json").write_text(json.dumps(content))


def spoil_byte(folder: Path) -> None:
    path = next(folder.glob("toy_*.onnx"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def spoil_length(folder: Path) -> None:
    path = next(folder.glob("toy_*.onnx"))
    path.write_bytes(path.read_bytes()[:-5])


def spoil_gone(folder: Path) -> None:
    next(folder.glob("toy_*.onnx")).unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_nothing_there, "no manifest.json"),
        (spoil_manifest, "not JSON"),
        (spoil_field, "model.styles is missing"),
        (spoil_byte, "SHA-256"),
        (spoil_length, "the manifest says"),
        (spoil_gone, "not whole"),
    ],
)
@pytest.mark.parametrize("command", ["stylize", "sheet"])
def test_a_spoilt_bundle_gets_one_sentence_and_no_file(*, toonedge, toy_bundle, photo, tmp_path, command, spoil, words):
    spoil(toy_bundle.folder)
    before = tree(tmp_path)
    which = (photo, "--bundle", toy_bundle.folder) if command == "stylize" else (toy_bundle.folder, "--images", photo)
    assert_refused(toonedge(command, *which, "--out", tmp_path / "out.png"), 2, words)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["verify", "bench", "info"])
@pytest.mark.parametrize(("spoil", "words"), [(spoil_nothing_there, "no manifest.json"), (spoil_manifest, "not JSON")])
def test_what_is_no_bundle_is_refused_by_every_command(toonedge, toy_bundle, command, spoil, words):
    spoil(toy_bundle.folder)
    assert_refused(toonedge(command, toy_bundle.folder), 2, words)


def test_a_missing_runtime_exits_3_and_names_the_extra(toonedge, toy_bundle, photo, tmp_path, monkeypatch):
    gone = Availability(ok=False, reason="the package 'onnxruntime' is not installed")
    monkeypatch.setattr(type(get_runtime("onnxruntime")), "available", lambda _self: gone)
    common = ("--bundle", toy_bundle.folder, "--out", tmp_path / "out.png")
    assert_refused(toonedge("stylize", photo, *common), 3, "toonedge[onnx]")
    assert_refused(toonedge("stylize", photo, *common, "--runtime", "onnxruntime"), 3, "onnxruntime", "toonedge[onnx]")
    assert_refused(toonedge("verify", toy_bundle.folder), 3, "toonedge[onnx]")
    assert_refused(toonedge("bench", toy_bundle.folder, "--runtimes", "onnxruntime"), 3, "toonedge[onnx]")
    assert not (tmp_path / "out.png").exists()


def test_info_shows_the_model_and_every_artifact(toonedge, make_toy_bundle):
    bundle = make_toy_bundle(artifacts=((None, (32, 48)), ("comic", (64, 64))))
    result = toonedge("info", bundle.folder)
    assert result.code == 0
    assert "toy 1.0.0" in result.out
    assert "comic, pencil, anime" in result.out
    for artifact in bundle.artifacts:
        line = next(line for line in result.out.splitlines() if line.startswith(artifact.file))
        assert f"{artifact.size[0]}x{artifact.size[1]}" in line
        assert f"{artifact.bytes:,}" in line


# --------------------------------------------------------------------------------------------- verify, bench, report


@pytest.fixture
def photos(tmp_path, photo) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo.rename(folder / "me.jpg")
    return folder


def test_verify_passes_prints_a_table_and_writes_json(toonedge, toy_bundle, photos, tmp_path):
    result = toonedge("verify", toy_bundle.folder, "--images", photos, "--json", tmp_path / "report.json")
    assert (result.code, result.err) == (0, "")
    row = result.out.splitlines()[1].split()
    assert row[:3] == ["pass", toy_bundle.artifacts[0].file, "onnxruntime"]
    assert result.out.splitlines()[-1] == "1 pass"
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["photos"] == ["me.jpg"]
    assert content["results"][0]["verdict"] == "pass"


def test_verify_exits_1_on_an_artifact_that_draws_another_style(toonedge, make_toy_bundle, photos):
    bundle = make_toy_bundle(artifacts=(("comic", (32, 48)),))
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    content["artifacts"][0]["style"] = "anime"
    path.write_text(json.dumps(content))
    result = toonedge("verify", bundle.folder, "--images", photos)
    assert result.code == 1
    assert result.out.splitlines()[1].startswith("fail")
    assert "anime: max-abs" in result.out
    assert result.out.splitlines()[-1] == "1 fail"


def test_verify_exits_2_on_a_file_that_is_not_the_manifests(toonedge, toy_bundle, photos):
    spoil_byte(toy_bundle.folder)
    result = toonedge("verify", toy_bundle.folder, "--images", photos)
    assert result.code == 2
    assert "SHA-256" in result.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--images", "nowhere"), "nowhere"),
        (("--images", "empty"), "holds no picture"),
        (("--images", "broken"), "broken.jpg"),
        (("--runtimes", "onnxruntime,litertt"), "did you mean 'litert'"),
        (("--threads", "0"), "threads is 0"),
        (("--artifact", "x.onnx"), "unknown artifact"),
        (("--json", "empty"), "is a folder"),
    ],
)
def test_verify_refuses_wrong_options_in_one_sentence(*, toonedge, toy_bundle, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    before = tree(tmp_path)
    assert_refused(toonedge("verify", toy_bundle.folder, *options), 2, words)
    assert tree(tmp_path) == before


def test_bench_times_the_artifact_and_report_shows_it(toonedge, toy_bundle, tmp_path):
    file = tmp_path / "bench.json"
    counts = ("--runs", "3", "--rounds", "2", "--warm-up", "1", "--threads", "1")
    result = toonedge("bench", toy_bundle.folder, *counts, "--json", file)
    assert result.code == 0
    assert json.loads(file.read_text())["results"][0]["latency_ms"]["n"] == 6
    assert toy_bundle.artifacts[0].file in result.out
    shown = toonedge("report", file)
    assert shown.code == 0
    assert shown.out.startswith("# toy: latency on this host")
    assert f"| `{toy_bundle.artifacts[0].file}` | onnxruntime |" in shown.out


def test_bench_profile_shows_kinds_and_operators_and_report_shows_its_json(toonedge, toy_bundle, tmp_path):
    file = tmp_path / "profile.json"
    counts = ("--runs", "3", "--rounds", "2", "--warm-up", "1", "--threads", "1")
    result = toonedge("bench", toy_bundle.folder, "--profile", *counts, "--json", file)
    assert result.code == 0
    assert toy_bundle.artifacts[0].file in result.out
    lines = result.out.splitlines()
    assert any(line.startswith("elementwise") for line in lines)
    assert any(line.startswith("outside operators") for line in lines)
    assert any(line.startswith("Mul ") for line in lines)
    content = json.loads(file.read_text())
    assert content["runs"] == 6
    assert {"name", "kind", "ms", "share", "delegate", "output"} == set(content["profiles"][0]["operators"][0])
    shown = toonedge("report", file)
    assert shown.code == 0
    assert shown.out.startswith("# toy: where the time goes on this host")


def test_report_shows_a_verification_as_markdown(toonedge, toy_bundle, photos, tmp_path):
    file, markdown = tmp_path / "report.json", tmp_path / "report.md"
    toonedge("verify", toy_bundle.folder, "--images", photos, "--json", file)
    shown = toonedge("report", file)
    assert shown.code == 0
    assert f"| `{toy_bundle.artifacts[0].file}` | onnxruntime | host | pass |" in shown.out
    assert toonedge("report", file, "--out", markdown) == Result(0, "", "")
    assert markdown.read_text() == shown.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("{", "not JSON"),
        ("[]", "schema 1"),
        ('{"schema": 2}', "schema 1 (it says 2)"),
        ('{"schema": 1}', "field model is missing"),
        ('{"schema": 1, "rounds": 1}', "field model is missing"),
        ('{"schema": 1, "model": 7}', "model is 7, not a text"),
    ],
)
def test_what_is_no_report_is_refused(toonedge, tmp_path, content, words):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert_refused(toonedge("report", tmp_path / "report.json"), 2, words)


# ------------------------------------------------------------------------------------------------- sheet and doctor


def test_sheet_writes_photos_and_styles(toonedge, toy_bundle, photos, tmp_path):
    out = tmp_path / "sheet.png"
    result = toonedge("sheet", toy_bundle.folder, "--images", photos, "--out", out, "--cell", "48")
    assert result == Result(0, f"{out}\n", "")
    assert Image.open(out).width == 6 + 4 * (48 + 6)
    toonedge("sheet", toy_bundle.folder, "--images", photos, "--out", out, "--cell", "48", "--style", "anime")
    assert Image.open(out).width == 6 + 2 * (48 + 6)


def test_sheet_takes_no_more_photos_than_asked(toonedge, toy_bundle, photos, tmp_path):
    Image.new("RGB", (48, 32)).save(photos / "z.png")
    common = ("sheet", toy_bundle.folder, "--images", photos, "--cell", "48", "--out")
    toonedge(*common, tmp_path / "two.png")
    toonedge(*common, tmp_path / "one.png", "--limit", "1")
    assert Image.open(tmp_path / "two.png").height - Image.open(tmp_path / "one.png").height == 32 + 6


def test_sheet_takes_the_bundles_own_photos_when_none_are_named(toonedge, make_toy_bundle, photo, tmp_path):
    assert_refused(toonedge("sheet", make_toy_bundle().folder), 2, "no photos of its own", "--images")
    bundle = make_toy_bundle(photos=(photo,))
    assert toonedge("sheet", bundle.folder, "--cell", "48", "--out", tmp_path / "own.png").code == 0
    toonedge("sheet", bundle.folder, "--images", photo, "--cell", "48", "--out", tmp_path / "named.png")
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "named.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--images", "nowhere.jpg"), "does not exist"),
        (("--images", "empty"), "holds no picture"),
        (("--style", "comik"), "did you mean 'comic'"),
        (("--cell", "3"), "too small"),
        (("--out", "sheet.gif"), "unknown picture suffix"),
    ],
)
def test_sheet_refuses_wrong_options_in_one_sentence(
    *, toonedge, toy_bundle, photo, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    images = () if "--images" in options else ("--images", photo)
    assert_refused(toonedge("sheet", toy_bundle.folder, *images, *options), 2, words)
    assert tree(tmp_path) == before


def test_doctor_says_what_is_here_and_what_installs_the_rest(toonedge, monkeypatch):
    here = Availability(ok=True, version="9.9.9")
    gone = Availability(ok=False, reason="the package 'ai-edge-litert' is not installed")
    elsewhere = Availability(ok=False, reason="Core ML runs on macOS", by_host=True)
    for name, found in {"onnxruntime": here, "litert": gone, "coreml": elsewhere}.items():
        monkeypatch.setattr(type(get_runtime(name)), "available", lambda _self, found=found: found)
    result = toonedge("doctor")
    assert result.code == 0
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    assert lines["onnxruntime"].split() == ["onnxruntime", "onnx", "yes", "9.9.9"]
    assert "no" in lines["litert"].split()
    assert "pip install 'toonedge[tflite]'" in lines["litert"]
    assert "Core ML runs on macOS" in lines["coreml"]
    assert "toonedge export" in result.out


# --------------------------------------------------------------------------------------------------- other rooms


@pytest.fixture
def room(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Puts a module in the place of ``converters.export``."""

    def build(source: str) -> None:
        (tmp_path / "borrowed_room").mkdir()
        (tmp_path / "borrowed_room" / "__init__.py").touch()
        (tmp_path / "borrowed_room" / "tool.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(cli.FORWARDED, "export", ("borrowed_room.tool", "export", ""))
        for name in ("borrowed_room", "borrowed_room.tool"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    return build


def test_arguments_are_handed_on_as_they_are(toonedge, room):
    room("import sys\nif __name__ == '__main__':\n    print(sys.argv[1:])\n    sys.exit(1)\n")
    result = toonedge("export", "--target", "all", "--help", "--", "-x", "a b")
    assert result.code == 1
    assert result.out == "['--target', 'all', '--help', '--', '-x', 'a b']\n"


def test_errors_of_another_room_are_one_line_too(toonedge, room):
    room("from sdk.errors import GateError\nraise GateError('int8 is too far off.')\n")
    assert_refused(toonedge("export"), 1, "int8 is too far off.")


def test_a_missing_package_of_another_room_names_the_extra(toonedge, room):
    room("import a_package_nobody_has.inside\n")
    assert_refused(toonedge("export"), 3, "a_package_nobody_has", "pip install 'toonedge[export]'")


def test_a_room_that_is_not_installed_exits_3(toonedge, monkeypatch):
    monkeypatch.setitem(cli.FORWARDED, "export", ("converters.no_such_module", "export", ""))
    assert_refused(toonedge("export"), 3, "`toonedge export`")
    monkeypatch.setitem(sys.modules, "converters", None)
    assert_refused(toonedge("export"), 3, "`toonedge export`")


# ------------------------------------------------------------------------------------------------------------ console


def test_tables_are_aligned_text_in_a_pipe(capsys):
    console.table(("name", "ms"), [["a", "10.5"], ["long name", "9.1"]], right=("ms",))
    assert capsys.readouterr().out == "name         ms\na          10.5\nlong name   9.1\n"


def test_tables_are_drawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.table(("name", "verdict"), [["a[b]", "pass"]])
    out = capsys.readouterr().out
    assert "a[b]" in out
    assert "pass" in out
    assert "─" in out


def test_progress_is_silent_in_a_pipe_and_drawn_on_a_terminal(capsys, monkeypatch):
    with console.progress(2, "drawing") as step:
        step()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console.progress(2, "drawing") as step:
        step()
        step()
    assert "drawing" in capsys.readouterr().err


def test_a_progress_bar_on_the_terminal_does_not_swallow_what_goes_into_a_pipe():
    pty = pytest.importorskip("pty", reason="needs a POSIX terminal")
    terminal, end = pty.openpty()
    code = "from sdk import console\nwith console.progress(1, 'drawing') as step:\n    console.say('a.png')\n    step()"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, stderr=end, text=True, cwd=ROOT
    )
    os.close(end)
    drawn = os.read(terminal, 100_000)
    os.close(terminal)
    assert done.stdout == "a.png\n"
    assert b"drawing" in drawn


def test_a_bundle_is_unchanged_by_reading_it(toonedge, toy_bundle, photo, tmp_path):
    before = {path: path.read_bytes() for path in toy_bundle.folder.iterdir()}
    toonedge("stylize", photo, "--bundle", toy_bundle.folder, "--out", tmp_path / "o.png")
    toonedge("info", toy_bundle.folder)
    assert {path: path.read_bytes() for path in toy_bundle.folder.iterdir()} == before
    Bundle.open(toy_bundle.folder).check()
