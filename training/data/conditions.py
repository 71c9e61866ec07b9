"""Maps drawn from a picture: what a network may be conditioned on, and the edge-smoothed negatives of CartoonGAN.

Every map is ``C x H x W`` uint8 like the pictures the datasets hand out, so a task divides all of them by 255. A map is
drawn from the whole picture at its working size and cropped with it: a mask needs to see the whole person.

``CONDITIONS`` is the table; a new condition is one function and one row.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdk.errors import MissingRuntimeError, UsageError, unknown_name
from sdk.imaging import resize
from sdk.runtimes.litert import open_interpreter

#: Hysteresis thresholds of ``cv2.Canny`` on 0..255 grey, those of CartoonGAN's and ControlNet's code.
CANNY_LOW, CANNY_HIGH = 100, 200
#: Side of the square that widens an edge, and of the Gaussian that smooths it (CartoonGAN's published code), px.
SMOOTH_SIDE = 5
#: Where the wheels of mediapipe up to 0.10.21 carry their person mask.
_PACKAGED_MODEL = Path("modules") / "selfie_segmentation" / "selfie_segmentation.tflite"


def canny(rgb: np.ndarray) -> np.ndarray:
    """Edge pixels of the grey picture (Canny 1986, doi:10.1109/TPAMI.1986.4767851).

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        ``1 x H x W`` uint8: 255 on an edge, one pixel wide, else 0.
    """
    return np.asarray(cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), CANNY_LOW, CANNY_HIGH))[None]


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of the picture (CIE 15:2004; sRGB, D65, 2 degrees), in 8 bits.

    By way of floats: OpenCV's own 8-bit conversion is off by up to 2.2 in a.

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        ``3 x H x W`` uint8: ``L * 255 / 100``, ``a + 128``, ``b + 128``, each to the nearest.
    """
    lightness, a, b = lab_planes(rgb)
    # Rounds, and holds the values in 0..255; the magnitude it takes changes nothing, for none is below 0.
    scaled = (cv2.convertScaleAbs(lightness, alpha=2.55), cv2.convertScaleAbs(a, beta=128))
    return np.stack([*scaled, cv2.convertScaleAbs(b, beta=128)])


def lab_planes(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* in its own units (see ``lab``).

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        ``3 x H x W`` float32: L in [0, 100], a in [-87, 99], b in [-108, 95] for colours of sRGB. OpenCV interpolates
        the curves: at most 0.45 from scikit-image's ``rgb2lab``.
    """
    planes = cv2.cvtColor(np.divide(rgb, np.float32(255), dtype=np.float32), cv2.COLOR_RGB2LAB)
    return np.stack(cv2.split(planes))


def edge_smoothed(rgb: np.ndarray) -> np.ndarray:
    """A cartoon without its sharp edges: what the discriminator must not take for one.

    CartoonGAN (Chen, Lai and Liu 2018, doi:10.1109/CVPR.2018.00986, section 3.2.1): find edges with Canny, widen them,
    smooth the picture with a Gaussian on the widened edges alone. Sizes as in the authors' code: 5 x 5 both, at a
    working size of 256 px; the kernel of one axis is (1, 4, 6, 4, 1) / 16.

    Args:
        rgb: ``H x W x 3`` uint8.

    Returns:
        ``H x W x 3`` uint8; more than two pixels away from an edge it is the picture itself.
    """
    wide = cv2.dilate(canny(rgb)[0], np.ones((SMOOTH_SIDE, SMOOTH_SIDE), np.uint8))
    blurred = cv2.GaussianBlur(rgb, (SMOOTH_SIDE, SMOOTH_SIDE), 0)
    return np.asarray(cv2.copyTo(blurred, wide, rgb.copy()))


def selfie(rgb: np.ndarray, *, model: Path | None = None) -> np.ndarray:
    """The share of each pixel that is foreground, by a segmentation network.

    Args:
        rgb: ``H x W x 3`` uint8.
        model: see ``Segmenter``; ``None``: mediapipe's selfie segmentation (MobileNetV3; its model card of 2021).

    Returns:
        ``1 x H x W`` uint8: 255 foreground, 0 background; of a model with several classes, all but the first are
        foreground.

    Raises:
        MissingRuntimeError: no LiteRT, or no model.
        UsageError: a model that cannot be used.
    """
    shares = segmenter(model).shares(rgb)
    foreground = shares if len(shares) == 1 else 1 - shares[:1]
    return _to_bytes(foreground)


def semantic(rgb: np.ndarray, *, model: Path | None = None) -> np.ndarray:
    """The share of each pixel that is of each class, by a segmentation network.

    Args:
        rgb: ``H x W x 3`` uint8.
        model: see ``Segmenter``.

    Returns:
        ``C x H x W`` uint8, a plane a class of the model; of several classes, they sum to 255 up to rounding.

    Raises:
        MissingRuntimeError: no LiteRT, or no model.
        UsageError: a model that cannot be used.
    """
    return _to_bytes(segmenter(model).shares(rgb))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A row of ``CONDITIONS``.

    Attributes:
        draw: ``H x W x 3`` uint8 to ``C x H x W`` uint8; takes ``model=`` when ``segments``.
        planes: C; ``None``: as many as the model has classes.
        segments: needs a segmentation model and LiteRT.
    """

    draw: Callable[..., np.ndarray]
    planes: int | None
    segments: bool = False


#: What a network may be conditioned on, by the name a recipe gives.
CONDITIONS: dict[str, Condition] = {
    "canny": Condition(draw=canny, planes=1),
    "lab": Condition(draw=lab, planes=3),
    "selfie": Condition(draw=selfie, planes=1, segments=True),
    "semantic": Condition(draw=semantic, planes=None, segments=True),
}


def condition(name: str) -> Condition:
    """The row of a name.

    Raises:
        UsageError: there is no such row; suggests the nearest.
    """
    if name not in CONDITIONS:
        raise unknown_name("condition", name, CONDITIONS)
    return CONDITIONS[name]


def draw_conditions(rgb: np.ndarray, names: Sequence[str], *, model: Path | None = None) -> list[np.ndarray]:
    """The maps of a picture, ``C x H x W`` uint8 each, in the order of ``names``; see the functions."""
    rows = [condition(name) for name in names]
    return [row.draw(rgb, model=model) if row.segments else row.draw(rgb) for row in rows]


class Segmenter:
    """A segmentation network in a ``.tflite`` file, executed by LiteRT on one thread.

    It must have one input, an RGB picture ``1 x h x w x 3`` (float32 in [0, 1], or integers with scale and zero point),
    and one output ``1 x h' x w' x C``: C = 1 the foreground, above that a score a class. Values outside [0, 1], or
    scores that do not sum to 1, are taken for logits (sigmoid, softmax).

    Raises:
        MissingRuntimeError: LiteRT is not installed (extra ``tflite``).
        UsageError: no such file, or not such a network.
    """

    def __init__(self, path: Path) -> None:
        remedy = "give the .tflite file of a segmentation network"
        if not path.is_file():
            raise UsageError(f"segmentation model {path} does not exist: {remedy}.")
        self._interpreter = open_interpreter(path, remedy=remedy)
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = [tuple(int(n) for n in tensor["shape"]) for tensor in (*inputs, *outputs)]
        fits = len(inputs) == len(outputs) == 1 and all(len(shape) == 4 and shape[0] == 1 for shape in shapes)
        if not fits or shapes[0][3] != 3:
            raise UsageError(
                f"segmentation model {path} has the inputs and outputs {', '.join(map(str, shapes))}: it must take "
                f"(1, h, w, 3) and give (1, h, w, classes); {remedy}."
            )
        self._input, self._output, self._size = inputs[0], outputs[0], shapes[0][1:3]
        #: Planes of ``shares``.
        self.classes = shapes[1][3]

    def shares(self, rgb: np.ndarray) -> np.ndarray:
        """The network's answer at the picture's own size.

        Args:
            rgb: ``H x W x 3`` uint8; scaled to the network's input, shape not kept.

        Returns:
            ``C x H x W`` float32 in [0, 1]; of several classes they sum to 1.
        """
        image = resize(rgb, *self._size).astype(np.float32)[None] / np.float32(255)
        self._interpreter.set_tensor(self._input["index"], _quantized(image, self._input))
        self._interpreter.invoke()
        scores = _real(self._interpreter.get_tensor(self._output["index"]), self._output)[0]
        return np.ascontiguousarray(resize(_shares(scores), *rgb.shape[:2]).transpose(2, 0, 1))


@lru_cache(maxsize=2)
def segmenter(model: Path | None) -> Segmenter:
    """The segmenter of this process for a model, loaded at its first use.

    Raises:
        MissingRuntimeError: ``model`` is ``None`` and mediapipe brings none; or no LiteRT.
        UsageError: see ``Segmenter``.
    """
    return Segmenter(model or packaged_model())


def packaged_model() -> Path:
    """mediapipe's selfie segmentation, where the package is installed and has it; it is read, never imported.

    Raises:
        MissingRuntimeError: it is not there.
    """
    found = importlib.util.find_spec("mediapipe")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / _PACKAGED_MODEL).is_file():
            return Path(place) / _PACKAGED_MODEL
    raise MissingRuntimeError(
        f"a mask needs a segmentation model, and mediapipe's {_PACKAGED_MODEL.name} is not installed: give a .tflite "
        "file with the key `segmentation`, for example out of the wheel of mediapipe 0.10.21."
    )


def _quantized(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    if np.issubdtype(tensor["dtype"], np.floating):
        return values.astype(tensor["dtype"])
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.rint(values / (scale or 1 / 255)) + zero_point, limits.min, limits.max).astype(tensor["dtype"])


def _real(values: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    if np.issubdtype(tensor["dtype"], np.floating):
        return values.astype(np.float32)
    scale, zero_point = tensor["quantization"]
    return ((values.astype(np.float32) - zero_point) * (scale or 1 / 255)).astype(np.float32)


def _shares(scores: np.ndarray) -> np.ndarray:
    """``h x w x C`` scores as shares in [0, 1]; those that are shares already stay as they are."""
    inside = bool((scores >= 0).all() and (scores <= 1).all())
    if scores.shape[2] == 1:
        return scores if inside else (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)
    if inside and np.allclose(scores.sum(axis=2), 1, atol=0.02):
        return scores
    powers = np.exp(scores - scores.max(axis=2, keepdims=True))
    return (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32)


def _to_bytes(shares: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(shares, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
