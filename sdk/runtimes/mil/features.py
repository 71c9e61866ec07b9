"""The border of a model: pictures and arrays in, pictures and arrays out.

How a saved package describes an image: ``description.input[].type.imageType`` has width, height and colour space,
nothing else.  The scale and bias that ``coremltools.ImageType`` was given are operators of the program (coremltools
inserts a ``mul`` and an ``add`` behind the input), so the program's input is the bare picture, ``1 x 3 x H x W``,
float32 in [0, 255].  An image output is the program's ``1 x 3 x H x W`` result, again in [0, 255].

How an image output becomes 8-bit: Apple does not document it.  Here values are **clamped to [0, 255] and rounded to the
nearest integer, halves up**, which is what Apple's own conversion routine is documented to do
(``vImageConvert_PlanarFtoPlanar8``: ``SATURATED_CLIP_0_to_255(x + 0.5)``); NaN becomes 0, as in ARM's conversion.  A
device that truncates instead differs by at most 1/255.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from PIL import Image

from sdk.errors import UsageError


class Color(StrEnum):
    """Colour spaces of an image, as in Core ML's ``ImageFeatureType``."""

    RGB = "RGB"
    BGR = "BGR"
    GRAYSCALE = "GRAYSCALE"
    GRAYSCALE_FLOAT16 = "GRAYSCALE_FLOAT16"

    @property
    def channels(self) -> int:
        return 3 if self in (Color.RGB, Color.BGR) else 1

    @property
    def dtype(self) -> str:
        return "float16" if self is Color.GRAYSCALE_FLOAT16 else "uint8"


_ARRAY_DTYPES = {"FLOAT32": "float32", "DOUBLE": "float64", "INT32": "int32", "FLOAT16": "float16", "INT8": "int8"}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input or output of a model.

    Attributes:
        name: as in the package's description.
        dtype: numpy name of the element type at the border; ``uint8`` for 8-bit images.
        shape: extents, ``None`` where any is taken; images are ``1 x H x W x C`` (RGB or grey) whatever the
            program uses.
        color: the colour space of an image, ``None`` for an array.
        shapes: the shapes taken when the package enumerates them, else empty.
        ranges: for each extent the least and the largest taken (``None``: no upper bound) when the package says so,
            else empty.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    color: Color | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    def to_program(self, value: Any) -> np.ndarray:
        """What a caller gives, as the program takes it.

        Args:
            value: an array of this shape (an image also ``H x W x C``, grey also ``H x W``; 8-bit) or a PIL image.

        Returns:
            Images as ``1 x C x H x W`` float32 in [0, 255] in the colour order of the package, arrays in ``dtype``.

        Raises:
            UsageError: when type or shape do not fit.
        """
        if self.color is not None:
            return self._image_to_program(value, self.color)
        array = np.asarray(value)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_) or np.iscomplexobj(array):
            raise UsageError(f"the input {self.name!r} is {array.dtype}: give an array of real numbers ({self.dtype}).")
        self._check_shape(array.shape)
        return np.ascontiguousarray(array, dtype=self.dtype)

    def from_program(self, value: np.ndarray) -> np.ndarray:
        """The program's result as a caller gets it: arrays in ``dtype``, images ``1 x H x W x C``, 8-bit."""
        if self.color is None:
            return value.astype(self.dtype)
        picture = value.reshape(1, *value.shape[-3:]).transpose(0, 2, 3, 1)
        if self.color is Color.BGR:
            picture = picture[..., ::-1]
        if self.color is Color.GRAYSCALE_FLOAT16:
            return np.ascontiguousarray(picture, dtype=np.float16)
        clamped = np.clip(np.nan_to_num(picture.astype(np.float64), nan=0.0), 0.0, 255.0)
        return np.ascontiguousarray(np.floor(clamped + 0.5).astype(np.uint8))

    def _image_to_program(self, value: Any, color: Color) -> np.ndarray:
        if isinstance(value, Image.Image):
            value = np.asarray(value.convert("RGB" if color.channels == 3 else "L"))
        pixels = np.asarray(value)
        if pixels.dtype not in (np.dtype(color.dtype), np.dtype(np.uint8)):
            raise UsageError(
                f"the image {self.name!r} is {pixels.dtype}: give {color.dtype} pixels"
                f"{' from 0 to 255' if color.dtype == 'uint8' else ''}."
            )
        if pixels.ndim == 2 and color.channels == 1:
            pixels = pixels[..., None]
        if pixels.ndim == 3:
            pixels = pixels[None]
        self._check_shape(pixels.shape)
        if color is Color.BGR:
            pixels = pixels[..., ::-1]
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        fits = len(shape) == len(self.shape) and all(
            want is None or want == have for want, have in zip(self.shape, shape, strict=True)
        )
        if fits and self.shapes:
            fits = shape in self.shapes
        if fits and self.ranges:
            fits = all(
                low <= have and (high is None or have <= high)
                for (low, high), have in zip(self.ranges, shape, strict=True)
            )
        if not fits:
            raise UsageError(f"the input {self.name!r} has the shape {_times(shape)}: the model takes {self._takes()}.")

    def _takes(self) -> str:
        if self.shapes:
            return " or ".join(_times(shape) for shape in self.shapes)
        if self.ranges:
            return _times(str(low) if low == high else f"[{low}..{high or ''}]" for low, high in self.ranges)
        return _times("any" if extent is None else extent for extent in self.shape)


def _times(extents: Any) -> str:
    return " x ".join(str(extent) for extent in extents) or "a scalar"


def feature_of(description: Any) -> Feature:
    """A ``FeatureDescription`` of the package.

    Raises:
        UsageError: for a feature that is neither an image nor an array (a dictionary, a sequence, a state).
    """
    kind = description.type.WhichOneof("Type")
    if kind == "imageType":
        return _image_feature(description.name, description.type.imageType)
    if kind == "multiArrayType":
        return _array_feature(description.name, description.type.multiArrayType)
    raise UsageError(
        f"the model's feature {description.name!r} is of the type {kind}: only images and arrays can be executed."
    )


def _image_feature(name: str, image: Any) -> Feature:
    color = Color(image.ColorSpace.Name(image.colorSpace))
    flexibility = image.WhichOneof("SizeFlexibility")
    height, width = (image.height or None), (image.width or None)
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    if flexibility == "enumeratedSizes":
        shapes = tuple((1, int(size.height), int(size.width), color.channels) for size in image.enumeratedSizes.sizes)
        height = width = None
    elif flexibility == "imageSizeRange":
        sides = image.imageSizeRange
        ranges = ((1, 1), _bounds(sides.heightRange), _bounds(sides.widthRange), (color.channels, color.channels))
        height = width = None
    return Feature(
        name=name,
        dtype=color.dtype,
        shape=(1, height, width, color.channels),
        color=color,
        shapes=shapes,
        ranges=ranges,
    )


def _array_feature(name: str, array: Any) -> Feature:
    spelled = array.ArrayDataType.Name(array.dataType)
    if spelled not in _ARRAY_DTYPES:
        raise UsageError(f"the model's feature {name!r} has no element type ({spelled}): save the package again.")
    flexibility = array.WhichOneof("ShapeFlexibility")
    shape: tuple[int | None, ...] = tuple(int(extent) for extent in array.shape)
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    if flexibility == "enumeratedShapes":
        shapes = tuple(tuple(int(extent) for extent in one.shape) for one in array.enumeratedShapes.shapes)
        shape = (None,) * len(shape)
    elif flexibility == "shapeRange":
        ranges = tuple(_bounds(size) for size in array.shapeRange.sizeRanges)
        shape = tuple(low if low == high else None for low, high in ranges)
    return Feature(name=name, dtype=_ARRAY_DTYPES[spelled], shape=shape, shapes=shapes, ranges=ranges)


def _bounds(size: Any) -> tuple[int, int | None]:
    return int(size.lowerBound), None if size.upperBound < 0 else int(size.upperBound)
