"""Teachers that are networks: any ONNX generator, drawn like the classical filters by ``training.data.render``.

A teacher is told in one word: ``NAME=FILE.onnx``, with options after commas:

* ``range=unit`` (default), ``signed`` or ``bytes``: its pictures are in [0, 1], [-1, 1] or [0, 255];
* ``scale=1`` (default) or ``2``: it sees the view in working size, or at twice that and its picture is halved (lines
  become finer and cleaner, as with the filters);
* ``style=NAME`` or ``style=NUMBER``: which style of a file with a style input; names are those in its metadata.

``clay=runs/clay/teacher.onnx,scale=2`` draws the style ``clay``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdk.errors import MissingRuntimeError, UsageError, unknown_name

#: Sides are padded to a multiple of this, as generators with several strides want.
_MULTIPLE = 32


class ValueRange(StrEnum):
    """What the numbers of a picture mean."""

    UNIT = "unit"  #: [0, 1]
    SIGNED = "signed"  #: [-1, 1]
    BYTES = "bytes"  #: [0, 255]


@dataclass(frozen=True, kw_only=True)
class NetworkTeacher:
    """An ONNX generator that draws one style.

    Attributes:
        name: of the style.
        path: the file.
        range: of its input and its result.
        scale: 1 or 2, how much larger than the working size it sees a view.
        style: of a file with a style input: a name in its metadata, or a row's number.
    """

    name: str
    path: str
    range: ValueRange = ValueRange.UNIT
    scale: int = 1
    style: str | None = None

    def draw(self, double: np.ndarray) -> np.ndarray:
        """``2S x 2S x 3`` uint8 RGB to ``S x S x 3``.

        Raises:
            UsageError: a file that takes or gives something else than one picture.
        """
        height, width = double.shape[0] // 2, double.shape[1] // 2
        view = double if self.scale == 2 else cv2.resize(double, (width, height), interpolation=cv2.INTER_AREA)
        drawn = _open(self).draw(view)
        return drawn if self.scale == 1 else cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)

    def fingerprint(self) -> str:
        """Hex digest that changes with the file and how it is used."""
        told = f"{self.range} {self.scale} {self.style}".encode()
        return hashlib.sha256(Path(self.path).read_bytes() + told).hexdigest()[:16]


def parse_teacher(text: str) -> NetworkTeacher:
    """Reads ``NAME=FILE.onnx[,range=...][,scale=...][,style=...]`` and opens the file once.

    Raises:
        UsageError: another form, an unknown option or value, a file that is missing or no such generator.
        MissingRuntimeError: ONNX Runtime is not installed.
    """
    told, *options = text.split(",")
    name, equals, path = told.partition("=")
    if not (equals and name.strip() and path.strip()):
        raise UsageError(f"teacher {text!r} is not of the form NAME=FILE.onnx: write for example clay=clay.onnx.")
    given: dict[str, Any] = {}
    for option in options:
        key, _, value = (part.strip() for part in option.partition("="))
        if key not in {"range", "scale", "style"}:
            raise unknown_name("teacher option", key, ("range", "scale", "style"))
        given[key] = value
    if "range" in given:
        try:
            given["range"] = ValueRange(given["range"])
        except ValueError as error:
            raise unknown_name("range of values", given["range"], tuple(ValueRange)) from error
    if "scale" in given:
        if given["scale"] not in {"1", "2"}:
            raise UsageError(f"teacher {name!r} has scale {given['scale']!r}: give 1 or 2.")
        given["scale"] = int(given["scale"])
    teacher = NetworkTeacher(name=name.strip(), path=path.strip(), **given)
    if not Path(teacher.path).is_file():
        raise UsageError(f"teacher {teacher.name!r}: there is no file {teacher.path}: give an ONNX generator.")
    _open(teacher)
    return teacher


def check_names(names: Iterable[str]) -> None:
    """Each style has one teacher.

    Raises:
        UsageError: a name that occurs twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"style {name!r} has two teachers: give each its own name.")
        seen.add(name)


class _Generator:
    """A loaded ONNX generator; how it takes a picture is read from its inputs."""

    def __init__(self, teacher: NetworkTeacher) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingRuntimeError.for_extra("an ONNX teacher", "onnxruntime", "onnx") from error
        self.teacher = teacher
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = 1  # views are drawn side by side, in processes
        try:
            self.session = onnxruntime.InferenceSession(teacher.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its C++ exceptions share no base but this
            reason = str(error).splitlines()[0]
            raise UsageError(f"teacher {teacher.name!r}: {teacher.path} cannot be loaded ({reason}).") from error
        inputs = self.session.get_inputs()
        images = [given for given in inputs if len(given.shape) == 4]
        others = [given for given in inputs if given not in images]
        if len(images) != 1 or len(others) > 1 or not {images[0].shape[1], images[0].shape[3]} & {3}:
            shapes = ", ".join(f"{given.name} {given.shape}" for given in inputs)
            raise UsageError(
                f"teacher {teacher.name!r}: {teacher.path} takes {shapes}: give a generator of one RGB picture "
                "(N x 3 x H x W or N x H x W x 3) and at most one input of style weights."
            )
        self.image = images[0]
        self.planar = self.image.shape[1] == 3
        self.weights = self._style_weights(others)

    def _style_weights(self, others: list[Any]) -> dict[str, np.ndarray]:
        teacher = self.teacher
        if not others:
            if teacher.style is not None:
                raise UsageError(f"teacher {teacher.name!r}: {teacher.path} draws one style: leave style= out.")
            return {}
        known = [name for name in self.session.get_modelmeta().custom_metadata_map.get("styles", "").split(",") if name]
        rows = others[0].shape[-1]
        count = rows if isinstance(rows, int) else len(known)
        wanted = "0" if teacher.style is None and count == 1 else teacher.style
        if wanted is None:
            raise UsageError(
                f"teacher {teacher.name!r}: {teacher.path} draws {count} styles: say which one with style=."
            )
        if wanted in known:
            row = known.index(wanted)
        elif wanted.isdecimal() and int(wanted) < count:
            row = int(wanted)
        else:
            raise unknown_name("style", wanted, known or [str(number) for number in range(count)])
        return {others[0].name: np.eye(count, dtype=np.float32)[row : row + 1]}

    def draw(self, view: np.ndarray) -> np.ndarray:
        """``H x W x 3`` uint8 RGB to the same."""
        height, width = view.shape[:2]
        padded = np.pad(view, ((0, -height % _MULTIPLE), (0, -width % _MULTIPLE), (0, 0)), mode="reflect")
        values = padded.astype(np.float32)
        if self.teacher.range is not ValueRange.BYTES:
            values /= np.float32(255)
        if self.teacher.range is ValueRange.SIGNED:
            values = values * 2 - 1
        given = values.transpose(2, 0, 1)[None] if self.planar else values[None]
        try:
            made = self.session.run(None, {self.image.name: np.ascontiguousarray(given), **self.weights})[0]
        except Exception as error:  # its C++ exceptions share no base but this
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"teacher {self.teacher.name!r} cannot draw a picture of {padded.shape[1]} x {padded.shape[0]} px "
                f"({reason}): export it with open sides."
            ) from error
        picture = made[0].transpose(1, 2, 0) if self.planar else made[0]
        if picture.shape != padded.shape:
            raise UsageError(
                f"teacher {self.teacher.name!r} makes {picture.shape} of a picture of {padded.shape}: give a generator "
                "that keeps the size."
            )
        if self.teacher.range is ValueRange.SIGNED:
            picture = (picture + 1) / 2
        if self.teacher.range is not ValueRange.BYTES:
            picture = picture * 255
        eight_bit: np.ndarray = (np.clip(picture, 0, 255) + 0.5).astype(np.uint8)
        return eight_bit[:height, :width]


@lru_cache(maxsize=8)
def _open(teacher: NetworkTeacher) -> _Generator:
    return _Generator(teacher)
