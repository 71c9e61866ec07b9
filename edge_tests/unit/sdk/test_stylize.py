"""Stylizer: which artifact runs, what it is fed, and the size and blend of what comes back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import sdk
from sdk.bundle import Bundle
from sdk.errors import ExitCode, MissingRuntimeError, UsageError
from sdk.imaging import resize
from sdk.runtimes import get_runtime
from sdk.runtimes.base import Availability
from sdk.stylize import find_engines

pytest.importorskip("onnxruntime", reason="needs the extra onnx")

# Toy styles (edge_tests/conftest.py): comic is the negative, pencil the photo itself, anime its red and full blue.


@pytest.fixture
def photo() -> np.ndarray:
    """60 x 80 x 3 uint8, smooth."""
    noise = np.random.default_rng(2).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC))


def array(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def declare(bundle: Bundle, changes: dict[str, dict]) -> Bundle:
    """The bundle with fields of artifacts changed on its manifest (files and hashes stay)."""
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_text())
    for artifact in content["artifacts"]:
        artifact.update(changes.get(artifact["file"], {}))
    path.write_text(json.dumps(content))
    return Bundle.open(bundle.folder)


def uninstall(monkeypatch, *names: str) -> None:
    for name in names:
        gone = Availability(ok=False, reason=f"the package {name!r} is not installed")
        monkeypatch.setattr(type(get_runtime(name)), "available", lambda _self, gone=gone: gone)


# ------------------------------------------------------------------------------------------------------ the pictures


def test_each_style_draws_what_the_network_says(toy_bundle, photo):
    cartoonist = sdk.load(toy_bundle.folder)
    fitted = resize(photo, 32, 48).astype(int)  # 32 x 48 and 60 x 80 differ in shape
    out = array(cartoonist.stylize(fitted.astype(np.uint8), "comic"))
    assert (out == 255 - fitted).all()
    assert (array(cartoonist.stylize(fitted.astype(np.uint8), "pencil")) == fitted).all()
    out = array(cartoonist.stylize(fitted.astype(np.uint8), "anime"))
    assert (out[..., 0] == fitted[..., 0]).all()
    assert (out[..., 1] == 0).all()
    assert (out[..., 2] == 255).all()


def test_without_a_style_the_first_is_drawn(toy_bundle, photo):
    cartoonist = sdk.load(toy_bundle.folder)
    assert cartoonist.styles == ("comic", "pencil", "anime")
    assert (array(cartoonist.stylize(photo)) == array(cartoonist.stylize(photo, "comic"))).all()


def test_a_mix_is_scaled_to_sum_to_one(toy_bundle):
    cartoonist = sdk.load(toy_bundle.folder)
    grey = np.full((32, 48, 3), 200, np.uint8)
    # 3/4 comic + 1/4 pencil: gain -0.75 + 0.25, bias 0.75 of 1.
    out = array(cartoonist.stylize(grey, {"comic": 6, "pencil": 2}))
    assert (out == round(-0.5 * 200 + 0.75 * 255)).all()


def test_the_whole_photo_is_kept_with_its_aspect(toy_bundle):
    picture = np.zeros((300, 900, 3), np.uint8)
    picture[:, :20] = picture[:, -20:] = 255  # bright ends, which a crop to 32:48 would lose
    out = array(sdk.load(toy_bundle.folder).stylize(picture, "pencil"))
    height, width = out.shape[:2]
    assert height * width == pytest.approx(32 * 48, rel=0.05)
    assert width / height == pytest.approx(3, rel=0.05)
    assert out[:, 0].min() > 200
    assert out[:, -1].min() > 200
    assert out[:, width // 2].max() == 0


def test_crop_takes_the_centre_in_the_shape_of_the_artifact(toy_bundle):
    picture = np.zeros((320, 960, 3), np.uint8)
    picture[:, 240:720] = np.linspace(40, 240, 480).astype(np.uint8)[None, :, None]  # exactly the 32:48 centre
    out = array(sdk.load(toy_bundle.folder).stylize(picture, "pencil", fit="crop"))
    assert out.shape == (32, 48, 3)
    assert (out == resize(np.ascontiguousarray(picture[:, 240:720]), 32, 48)).all()


def test_full_size_gives_the_size_of_the_photo(toy_bundle, photo):
    cartoonist = sdk.load(toy_bundle.folder)
    assert cartoonist.stylize(photo, full_size=True).size == (80, 60)
    assert cartoonist.stylize(photo, full_size=True, fit="crop").size == (80, 53)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (15, 15), (5000, 30)])
def test_photos_of_any_size_are_drawn(toy_bundle, size):
    picture = np.full((*size, 3), 50, np.uint8)
    for fit in ("whole", "crop"):
        out = array(sdk.load(toy_bundle.folder).stylize(picture, "comic", fit=fit))
        assert (out == 205).all()
        assert out.shape[0] * out.shape[1] > 1000


def test_strength_blends_linearly_from_the_photo_to_the_cartoon(toy_bundle):
    cartoonist = sdk.load(toy_bundle.folder)
    picture = np.full((32, 48, 3), 40, np.uint8)
    values = [int(array(cartoonist.stylize(picture, "comic", strength=s))[0, 0, 0]) for s in (0, 0.25, 0.5, 1)]
    assert values == [40, 84, 128, 215]  # 40 + s * (215 - 40), halves up


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strength_outside_0_to_1_is_refused(toy_bundle, photo, strength):
    with pytest.raises(UsageError, match="strength"):
        sdk.load(toy_bundle.folder).stylize(photo, strength=strength)


def test_alpha_is_composited_or_kept(toy_bundle):
    rgba = np.zeros((32, 48, 4), np.uint8)
    rgba[:, 24:, 3] = 255
    cartoonist = sdk.load(toy_bundle.folder)
    out = array(cartoonist.stylize(rgba, "pencil"))
    assert out[:, 0].min() == 255
    assert out[:, -1].max() == 0
    kept = cartoonist.stylize(rgba, "pencil", keep_alpha=True)
    assert kept.mode == "RGBA"
    assert np.asarray(kept)[:, 0, 3].max() == 0
    assert np.asarray(kept)[:, -1, 3].min() == 255
    assert cartoonist.stylize(rgba[..., :3], keep_alpha=True).mode == "RGB"


def test_the_reference_draws_any_size_up_to_max_side(toy_bundle, photo):
    cartoonist = sdk.load(toy_bundle.folder, artifact="reference")
    assert cartoonist.engine_for("comic").file == "reference.onnx"
    out = array(cartoonist.stylize(photo, "comic"))
    assert out.shape == (60, 80, 3), "drawn at 64 x 80 and given back in the photo's size"
    assert np.abs(out - (255 - photo.astype(int))).mean() < 3
    assert cartoonist.stylize(photo, max_side=40).size == (40, 30)
    assert cartoonist.stylize(photo, max_side=40, full_size=True).size == (80, 60)
    assert cartoonist.stylize(photo[:1, :1]).size == (1, 1)


def test_sessions_are_opened_again_after_closing(toy_bundle, photo):
    with sdk.load(toy_bundle.folder) as cartoonist:
        first = array(cartoonist.stylize(photo))
    assert (array(cartoonist.stylize(photo)) == first).all()


# ------------------------------------------------------------------------------------------------ which one is taken


def test_a_baked_bundle_draws_each_of_its_styles(make_toy_bundle):
    bundle = make_toy_bundle(artifacts=(("comic", (32, 48)), ("anime", (32, 48))))
    cartoonist = sdk.load(bundle.folder)
    assert cartoonist.styles == ("comic", "anime")
    grey = np.full((32, 48, 3), 90, np.uint8)
    assert (array(cartoonist.stylize(grey, "comic")) == 165).all()
    assert array(cartoonist.stylize(grey, "anime"))[0, 0].tolist() == [90, 0, 255]
    assert (array(cartoonist.stylize(grey, {"comic": 2})) == 165).all(), "a mix of one is that one"
    with pytest.raises(UsageError, match=r"cannot be mixed.*comic, anime"):
        cartoonist.stylize(grey, {"comic": 0.5, "anime": 0.5})
    with pytest.raises(UsageError, match=r"unknown style 'pencil'.*comic, anime"):
        cartoonist.stylize(grey, "pencil")


def test_multi_style_is_preferred_then_precision_then_size(make_toy_bundle):
    bundle = make_toy_bundle(artifacts=(("comic", (64, 64)), (None, (32, 48)), (None, (32, 32)), (None, (16, 16))))
    declare(
        bundle,
        {
            "toy_32x48_multi_ort_fp32.onnx": {"precision": "int8"},
            "toy_16x16_multi_ort_fp32.onnx": {"precision": "fp16"},
        },
    )
    engines = find_engines(Bundle.open(bundle.folder))
    assert [e.file for e in engines] == [
        "toy_32x32_multi_ort_fp32.onnx",
        "toy_16x16_multi_ort_fp32.onnx",
        "toy_32x48_multi_ort_fp32.onnx",
        "toy_64x64_comic_ort_fp32.onnx",
    ]


def test_the_faster_runtime_is_preferred_among_equals(make_toy_bundle, monkeypatch):
    bundle = make_toy_bundle(artifacts=((None, (32, 32)), (None, (32, 48))))
    bundle = declare(bundle, {"toy_32x32_multi_ort_fp32.onnx": {"target": "tflite", "backend": "litert"}})
    monkeypatch.setattr(type(get_runtime("litert")), "available", lambda _self: Availability(ok=True, version="2"))
    assert [e.runtime.name for e in find_engines(bundle)] == ["litert", "onnxruntime"]
    uninstall(monkeypatch, "litert")
    assert [e.runtime.name for e in find_engines(bundle)] == ["onnxruntime"]


def test_the_reference_stands_in_when_no_artifact_can_run(toy_bundle, photo, monkeypatch):
    bundle = declare(toy_bundle, {"toy_32x48_multi_ort_fp32.onnx": {"target": "executorch", "backend": "xnnpack"}})
    uninstall(monkeypatch, "executorch")
    cartoonist = sdk.load(bundle.folder)
    assert [e.file for e in cartoonist.engines] == ["reference.onnx"]
    assert cartoonist.stylize(photo).size == (80, 60)


def test_without_any_runtime_the_extras_are_named(toy_bundle, monkeypatch):
    uninstall(monkeypatch, "onnxruntime")
    with pytest.raises(MissingRuntimeError, match=r"toonedge\[onnx\]") as error:
        sdk.load(toy_bundle.folder)
    assert error.value.exit_code == ExitCode.MISSING_RUNTIME
    assert "\n" not in str(error.value)


def test_a_runtime_that_was_asked_for_and_is_missing_is_named(toy_bundle, monkeypatch):
    uninstall(monkeypatch, "onnxruntime", "litert")
    for options in ({"runtime": "onnxruntime"}, {"artifact": "reference"}, {"artifact": toy_bundle.artifacts[0].file}):
        with pytest.raises(MissingRuntimeError, match=r"onnxruntime.*toonedge\[onnx\]"):
            sdk.load(toy_bundle.folder, **options)
    with pytest.raises(MissingRuntimeError, match=r"litert.*toonedge\[tflite\]"):
        sdk.load(toy_bundle.folder, runtime="litert")


def test_a_runtime_that_does_not_execute_the_artifact_is_refused(toy_bundle, monkeypatch):
    monkeypatch.setattr(type(get_runtime("litert")), "available", lambda _self: Availability(ok=True, version="2"))
    with pytest.raises(UsageError, match=r"'litert' does not execute toy_32x48.*use onnxruntime"):
        sdk.load(toy_bundle.folder, runtime="litert", artifact=toy_bundle.artifacts[0].file)
    with pytest.raises(UsageError, match=r"nothing for the runtime 'litert'.*onnx"):
        sdk.load(toy_bundle.folder, runtime="litert")
    with pytest.raises(UsageError, match=r"'litert' does not execute the reference"):
        sdk.load(toy_bundle.folder, runtime="litert", artifact="reference")


def test_an_artifact_is_found_by_its_own_path(make_toy_bundle):
    bundle = make_toy_bundle(artifacts=((None, (32, 32)), (None, (32, 48))))
    path = bundle.folder / "toy_32x32_multi_ort_fp32.onnx"
    assert [e.file for e in sdk.load(path).engines] == [path.name]
    assert [e.file for e in sdk.load(bundle.folder / "reference.onnx").engines] == ["reference.onnx"]
    with pytest.raises(UsageError, match="name one of them"):
        sdk.load(path, artifact="reference")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"artifact": "toy_32x48_multi_ort_fp16.onnx"}, "did you mean 'toy_32x48_multi_ort_fp32.onnx'"),
        ({"artifact": "referense"}, "did you mean 'reference'"),
        ({"runtime": "onnxruntim"}, "did you mean 'onnxruntime'"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_arguments_get_one_sentence(toy_bundle, options, words):
    with pytest.raises(UsageError, match=words):
        sdk.load(toy_bundle.folder, **options)


def test_unknown_styles_suggest_the_nearest(toy_bundle, photo):
    cartoonist = sdk.load(toy_bundle.folder)
    with pytest.raises(UsageError, match="did you mean 'pencil'"):
        cartoonist.stylize(photo, "pensil")
    with pytest.raises(UsageError, match="did you mean 'crop'"):
        cartoonist.stylize(photo, fit="corp")


# -------------------------------------------------------------------------------------------------- bundles and files


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        sdk.load(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        sdk.load(tmp_path / "nowhere")
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a file"):
        sdk.load(tmp_path / "a.onnx")


@pytest.mark.parametrize("artifact", [None, "reference"])
def test_a_changed_file_is_refused_before_it_is_loaded(toy_bundle, artifact):
    file = "reference.onnx" if artifact else toy_bundle.artifacts[0].file
    path = toy_bundle.folder / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"SHA-256.*changed"):
        sdk.load(toy_bundle.folder, artifact=artifact)


def test_a_missing_file_is_refused(toy_bundle):
    (toy_bundle.folder / toy_bundle.artifacts[0].file).unlink()
    with pytest.raises(UsageError, match="not whole"):
        sdk.load(toy_bundle.folder)


def test_a_moved_bundle_still_works(toy_bundle, tmp_path, photo):
    shutil.move(toy_bundle.folder, tmp_path / "moved")
    assert sdk.load(tmp_path / "moved").stylize(photo).mode == "RGB"


def test_an_unreadable_photo_is_refused_by_name(toy_bundle, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        sdk.load(toy_bundle.folder).stylize(tmp_path / "broken.jpg")
