"""Pictures in and out: any photo file to 8-bit sRGB, one written resize algorithm, crops, saving without half files.

Decoding ends in one form whatever the file held: ``H x W x 3`` uint8, sRGB, upright, composited on white, with the
alpha channel beside it. The network's own input, ``[0, 1]`` or int8, is made from these bytes by
``sdk.spec.TensorSpec.encode``.

``resize`` is part of the contract with the apps: Kotlin and Swift reproduce it within 1/255, so it is written out here
in full instead of being borrowed from Pillow, whose 8-bit intermediate and fixed-point weights are its own affair.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from sdk.errors import MissingRuntimeError, UsageError, unknown_name
from sdk.files import trouble, write_atomically
from sdk.spec import SIZE_MULTIPLE

#: Suffixes that ``list_photos`` takes for photos (the decoder itself goes by the file's content, not its name).
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")

#: Most pixels that are decoded: bounds the memory of one photo (about 12 bytes a pixel at the peak). Baseline JPEGs
#: above it are read at 1/2, 1/4 or 1/8 of their size, which the format makes cheap; everything else is refused.
MAX_DECODED_PIXELS = 80_000_000

#: What the decoders of Pillow raise for broken files, apart from OSError. Its plugins parse bytes in plain Python.
_BROKEN_FILE = (
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}
_SAVE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A decoded photo.

    Attributes:
        rgb: ``H x W x 3`` uint8, sRGB, upright, composited on white where the file is transparent.
        alpha: ``H x W`` uint8, 255 opaque; ``None`` when every pixel is opaque.
        notes: what a user may want to know, one sentence each ("animated: the first of 12 frames is used").
        name: what stands for it in messages: "photo me.jpg".
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    name: str = "the picture"

    @property
    def height(self) -> int:
        """Rows, px."""
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        """Columns, px."""
        return int(self.rgb.shape[1])


#: What every function that works on a photo takes.
PhotoLike: TypeAlias = str | os.PathLike[str] | Photo | Image.Image | np.ndarray

# ---------------------------------------------------------------------------------------------------------- reading


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Decodes a photo file to upright 8-bit sRGB.

    EXIF orientation is applied; an embedded ICC profile (RGB, grey or CMYK) is converted to sRGB with perceptual
    intent; transparency is composited on white and kept in ``alpha``; of an animation the first frame is taken and
    noted. 16-bit samples are scaled, not clipped: grey ones are rounded (``v * 255 / 65535``), RGB ones keep their high
    byte, which is what Pillow's decoder gives and is off by less than one level of 255. CMYK JPEGs are inverted exactly
    when Adobe's marker says that they are stored so.

    Args:
        path: JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF and whatever else Pillow reads; HEIC with the extra ``heif``.

    Raises:
        UsageError: missing, empty, truncated, not an image, or more than ``MAX_DECODED_PIXELS`` in a format that cannot
            be read at a reduced size.
        MissingRuntimeError: a HEIC photo without the extra ``heif``.
        FileTroubleError: the file exists but the system does not let us read it.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise UsageError(f"photo {path} does not exist: check the path.")
        if not path.is_file():
            raise UsageError(f"photo {path} is not a file: name a picture, or a folder where a command takes folders.")
        if path.stat().st_size == 0:
            raise UsageError(f"photo {path} has zero bytes: copy it again from its source.")
        with path.open("rb") as file:
            return _decode_file(file, f"photo {path}")
    except OSError as error:
        raise trouble("read photo", path, error) from error


def as_photo(image: PhotoLike, *, name: str = "the picture") -> Photo:
    """A photo from whatever holds one.

    Args:
        image: a path (see ``read_photo``); a ``Photo``, given back as it is; a Pillow image of any mode (its EXIF and
            ICC profile are honoured); or an sRGB array ``H x W``, ``H x W x 3`` or ``H x W x 4`` (alpha last) of uint8,
            uint16, or floats in [0, 1].
        name: what stands for a nameless picture in messages.

    Raises:
        UsageError: an array of another shape, type or range; and all that ``read_photo`` raises.
    """
    if isinstance(image, Photo):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read_photo(image)
    if isinstance(image, np.ndarray):
        return _photo_from_array(image, name)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise UsageError(f"{name} is {image.width} x {image.height} px: give a picture with at least one pixel.")
        with _broken_files_refused(name):
            image.load()  # an opened file is decoded only now
        return _decode(image, name, notes=[])
    raise UsageError(f"{name} is a {type(image).__name__}: give a path, a PIL.Image or a numpy array.")


def list_photos(
    folder: str | os.PathLike[str], *, recursive: bool = False, what: str = "photo folder"
) -> tuple[Path, ...]:
    """The photo files directly in a folder, sorted by path; hidden files and other suffixes are left out.

    Args:
        folder: where to look.
        recursive: in its subfolders too.
        what: what stands for the folder in messages.

    Raises:
        UsageError: not a folder, or no photo in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{what} {folder} does not exist or is not a folder: check the path.")
    found = folder.rglob("*") if recursive else folder.iterdir()
    photos = tuple(sorted(p for p in found if p.suffix.lower() in PHOTO_SUFFIXES and not p.name.startswith(".")))
    if not photos:
        raise UsageError(f"{what} {folder} holds no picture ({', '.join(PHOTO_SUFFIXES)}): put pictures into it.")
    return photos


def _decode_file(file: BinaryIO, name: str) -> Photo:
    notes: list[str] = []
    try:
        image = _load(file, name, notes)
        return _decode(image, name, notes)
    except MemoryError as error:
        raise UsageError(f"{name} does not fit in memory: scale it down and try again.") from error


def _load(file: BinaryIO, name: str, notes: list[str]) -> Image.Image:
    with _broken_files_refused(name):
        image = _open(file, name)
        _bound_memory(image, name, notes)
        _note_animation(image, notes)
        image.load()
        return image


@contextlib.contextmanager
def _broken_files_refused(name: str) -> Iterator[None]:
    """Turns what Pillow's decoders raise into one sentence; errors of the disk pass as they are."""
    try:
        with warnings.catch_warnings():
            # Pillow warns on stderr about large pictures and odd metadata; size is judged below, metadata by its use.
            warnings.simplefilter("ignore")
            yield
    except (UsageError, MissingRuntimeError):
        raise
    except UnidentifiedImageError as error:
        raise UsageError(f"{name} is not an image, or cut off in its head: give a JPEG, PNG or WebP.") from error
    except Image.DecompressionBombError as error:
        raise UsageError(
            f"{name} is far too large ({_reason(error)}): scale it down to at most "
            f"{MAX_DECODED_PIXELS // 10**6} megapixels."
        ) from error
    except (OSError, *_BROKEN_FILE) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the decoder
            raise
        raise UsageError(f"{name} is truncated or broken ({_reason(error)}): copy it again from its source.") from error


def _open(file: BinaryIO, name: str) -> Image.Image:
    head = file.read(32)
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        # Constructed directly: Image.open would refuse a large photo that draft mode reads in little memory.
        return JpegImageFile(file)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _register_heif(name)
    return Image.open(file)


def _register_heif(name: str) -> None:
    try:
        import pillow_heif  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError.for_extra(f"the HEIC {name}", "pillow-heif", "heif") from error
    pillow_heif.register_heif_opener()


def _bound_memory(image: Image.Image, name: str, notes: list[str]) -> None:
    width, height = image.size
    if width * height <= MAX_DECODED_PIXELS:
        return
    if isinstance(image, JpegImageFile) and not image.info.get("progressive"):
        # A progressive file would still hold all its coefficients in memory, so it is treated like the other formats.
        part = next(n for n in (2, 4, 8) if width * height <= MAX_DECODED_PIXELS * n * n)
        image.draft(None, (width // part, height // part))
        notes.append(f"large: {width} x {height} px, read at 1/{part} of its size")
        return
    raise UsageError(
        f"{name} is {width} x {height} px ({width * height / 1e6:.0f} megapixels), more than the "
        f"{MAX_DECODED_PIXELS // 10**6} that are read: scale it down, or save it as a baseline JPEG, which is read at "
        "a reduced size."
    )


def _note_animation(image: Image.Image, notes: list[str]) -> None:
    try:
        frames = int(getattr(image, "n_frames", 1))
    except (OSError, *_BROKEN_FILE):  # a broken later frame; the first one is judged by its own loading
        notes.append("animated: the first frame is used, a later one is broken")
        image.seek(0)
        return
    # A JPEG never gets here with more than one: its further pictures (MPO) are previews and depth maps, and not opened.
    if frames > 1:
        what = "pages" if image.format == "TIFF" else "frames"
        notes.append(f"{'several pages' if what == 'pages' else 'animated'}: the first of {frames} {what} is used")


def _decode(image: Image.Image, name: str, notes: list[str]) -> Photo:
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        # Pillow assumes Adobe's inverted storage for every CMYK JPEG; without the marker 255 means full ink.
        inverted = image.convert("CMYK").point([255 - v for v in range(256)] * 4)
        inverted.info = image.info
        image = inverted
    image = _upright(image, notes)
    colour, alpha = _split_alpha(image, name)
    rgb = np.asarray(_to_srgb(colour, profile, notes), dtype=np.uint8)
    return _composited(rgb, None if alpha is None else np.asarray(alpha, dtype=np.uint8), name, notes)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, *_BROKEN_FILE) as error:
        notes.append(f"EXIF data broken ({_reason(error)}): shown as stored")
        return image


def _split_alpha(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Colour as an 8-bit image (L, RGB, CMYK, LAB) and alpha (L) or ``None``."""
    key = image.info.get("transparency")
    if image.mode in _GREY_16 or image.mode in ("I", "F"):
        return _grey_to_8_bit(image, name, key)
    if isinstance(key, tuple) and max(key) > 255:
        # A colour key of a 16-bit PNG, whose samples Pillow has already cut to their high byte.
        image.info["transparency"] = tuple(v >> 8 for v in key)
    if image.mode in _ALPHA_MODES or key is not None:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _grey_to_8_bit(image: Image.Image, name: str, key: object) -> tuple[Image.Image, Image.Image | None]:
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise UsageError(
                f"{name} has float samples outside [0, 1] ({values.min():g} to {values.max():g}): "
                "save it with 8 or 16 bits."
            )
        return Image.fromarray(_round_half_up(values.astype(np.float32) * 255)), None
    if values.min() < 0 or values.max() > 65535:
        raise UsageError(f"{name} has 32-bit samples ({values.min()} to {values.max()}): save it with 8 or 16 bits.")
    grey = Image.fromarray(_from_16_bit(values))
    if isinstance(key, int):
        return grey, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    return grey, None


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 to 0..255 uint8, ``round(v * 255 / 65535)``."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _to_srgb(colour: Image.Image, icc: bytes | None, notes: list[str]) -> Image.Image:
    if not icc and colour.mode != "LAB":
        return colour.convert("RGB")
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc) if icc else ImageCms.createProfile("LAB"))
        space = source.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space)
        if mode is None or (mode in ("CMYK", "LAB")) != (colour.mode in ("CMYK", "LAB")):
            raise ImageCms.PyCMSError(f"a {space or 'nameless'} profile on {colour.mode} pixels")
        converted = ImageCms.profileToProfile(
            colour.convert(mode), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, *_BROKEN_FILE) as error:
        notes.append(f"colour profile unusable ({_reason(error)}): taken for sRGB")
        return colour.convert("RGB")
    assert converted is not None  # only None when converting in place
    return converted


def _photo_from_array(array: np.ndarray, name: str) -> Photo:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        raise UsageError(f"{name} has the shape {array.shape}: give H x W, H x W x 3 or H x W x 4.")
    if array.dtype == np.uint16:
        array = _from_16_bit(array)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise UsageError(
                f"{name} has float values from {array.min():g} to {array.max():g}: floats must lie in [0, 1]; "
                "divide by 255 or give uint8."
            )
        array = _round_half_up(array.astype(np.float32) * 255)
    elif array.dtype != np.uint8:
        raise UsageError(f"{name} has the type {array.dtype}: give uint8, uint16 or floats in [0, 1].")
    array = array.reshape(array.shape[0], array.shape[1], channels)
    rgb = np.repeat(array, 3, axis=2) if channels == 1 else array[..., :3]
    return _composited(rgb, array[..., 3] if channels == 4 else None, name, notes=[])


def _composited(rgb: np.ndarray, alpha: np.ndarray | None, name: str, notes: list[str]) -> Photo:
    """On white: ``(rgb * a + 255 * (255 - a)) / 255``, rounded to the nearest; uint16 holds the sum of the products."""
    if alpha is None or bool((alpha == 255).all()):
        return Photo(rgb=np.ascontiguousarray(rgb), notes=tuple(notes), name=name)
    share = alpha.astype(np.uint16)[..., None]
    mixed = ((rgb.astype(np.uint16) * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return Photo(rgb=mixed, alpha=np.ascontiguousarray(alpha), notes=tuple(notes), name=name)


def _reason(error: BaseException) -> str:
    """The first line of a foreign error, short enough to stand inside our own sentence."""
    text = str(error).strip().splitlines()
    return (text[0][:120] if text else type(error).__name__).rstrip(".:")


# --------------------------------------------------------------------------------------------------------- resizing


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize: the one algorithm of this project, on hosts and phones.

    Each axis is resampled by itself, rows first, then columns. For an axis of ``n`` samples resized to ``m``::

        scale   = n / m                              # double precision, as all of the weights
        support = max(1, scale)                      # half width of the triangle, in source samples
        centre  = (k + 0.5) * scale                  # of output sample k, in source coordinates
        first   = max(0, floor(centre - support + 0.5))
        last    = min(n, floor(centre + support + 0.5))          # exclusive
        w[i]    = max(0, 1 - |i + 0.5 - centre| / support)       # for first <= i < last
        out[k]  = sum(w[i] * in[i]) / sum(w[i])

    Normalising by the sum of the weights that lie inside the picture is the whole border rule: nothing is padded. The
    normalised weights are rounded to float32; sums and the intermediate picture are float32 and are **not** rounded
    between the two passes; a uint8 result is rounded half up, ``floor(x + 0.5)``. Upscaling (``scale < 1``) is thereby
    plain bilinear interpolation with half-pixel centres. The filter is that of Pillow's ``BILINEAR``, which also rounds
    between the passes; the two agree within one level of 255.

    Args:
        image: ``H x W`` or ``H x W x C``, uint8 (0..255) or float32 (any range).
        height: rows of the result, >= 1.
        width: columns of the result, >= 1.

    Returns:
        ``height x width (x C)``, the same type as ``image``, C-contiguous, never the array given.

    Raises:
        UsageError: another type or number of axes, or a side below 1.
    """
    if image.ndim not in (2, 3) or image.size == 0 or image.dtype not in (np.uint8, np.float32):
        raise UsageError(f"cannot resize an array of {image.dtype} {image.shape}: give H x W (x C), uint8 or float32.")
    if height < 1 or width < 1:
        raise UsageError(f"cannot resize to {height}x{width}: both sides must be at least 1.")
    source_height, source_width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    rows = _resample(image.reshape(source_height, source_width * channels), height)
    columns = rows.reshape(height, source_width, channels).transpose(1, 0, 2).reshape(source_width, height * channels)
    result = _resample(columns, width).reshape(width, height, channels).transpose(1, 0, 2)
    result = _round_half_up(result) if image.dtype == np.uint8 else np.array(result, dtype=np.float32, order="C")
    return np.ascontiguousarray(result.reshape(height, width, *image.shape[2:]))


def triangle_weights(source: int, target: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The taps of ``resize`` for one axis.

    Args:
        source: samples of the axis, >= 1.
        target: samples wanted, >= 1.

    Returns:
        ``first``: ``target`` int64, the first source sample of each output sample; ``weights``: ``target`` float32
        arrays that each sum to 1.
    """
    scale = source / target
    support = max(1.0, scale)
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum(0, np.floor(centres - support + 0.5)).astype(np.int64)
    last = np.minimum(source, np.floor(centres + support + 0.5)).astype(np.int64)
    taps = np.arange(int((last - first).max()))
    position = first[:, None] + taps
    weights = np.maximum(0.0, 1.0 - np.abs(position + 0.5 - centres[:, None]) / support)
    weights[position >= last[:, None]] = 0.0
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return first, [row[:count] for row, count in zip(weights, last - first, strict=True)]


def _resample(samples: np.ndarray, target: int) -> np.ndarray:
    """``N x M`` (uint8 or float32) to ``target x M`` float32 along the first axis."""
    if len(samples) == target:  # every output sample is one input sample with weight 1
        return samples.astype(np.float32)
    first, weights = triangle_weights(len(samples), target)
    out = np.empty((target, samples.shape[1]), dtype=np.float32)
    for k, (start, taps) in enumerate(zip(first, weights, strict=True)):
        # One band at a time: it stays in the cache, and a large photo is never held as floats.
        np.dot(taps, samples[start : start + len(taps)].astype(np.float32, copy=False), out=out[k])
    return out


def _round_half_up(values: np.ndarray) -> np.ndarray:
    """Float values of 0..255 to uint8, ``floor(x + 0.5)``."""
    return np.floor(values + np.float32(0.5)).astype(np.uint8)


# -------------------------------------------------------------------------------------------------------- geometry


def centre_crop(image: np.ndarray, aspect: float) -> np.ndarray:
    """The largest centred part with the given shape.

    Args:
        image: ``H x W (x C)``.
        aspect: width / height of the part, > 0.

    Returns:
        A view ``h x w (x C)``, ``w / h`` as near to ``aspect`` as whole pixels allow; of an odd remainder the extra row
        or column is cut at the bottom or right.
    """
    if not (math.isfinite(aspect) and aspect > 0):
        raise UsageError(f"aspect {aspect} is not a shape: give width / height, above 0.")
    height, width = image.shape[:2]
    if width > height * aspect:
        new_height, new_width = height, max(1, math.floor(height * aspect + 0.5))
    else:
        new_height, new_width = max(1, math.floor(width / aspect + 0.5)), width
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[top : top + new_height, left : left + new_width]


def fit_size(height: int, width: int, *, max_side: int, multiple: int = SIZE_MULTIPLE) -> tuple[int, int]:
    """The size nearest to a photo's own that a network of any size takes.

    Args:
        height, width: of the photo, px.
        max_side: no side becomes longer than this (rounded down to ``multiple``); photos below it are not enlarged.
        multiple: both sides become a multiple of it, at least one.

    Returns:
        ``(height, width)``; the shape changes by at most half a multiple a side.
    """
    largest = max(multiple, max_side // multiple * multiple)
    scale = min(1.0, max_side / max(height, width))
    sides = [max(multiple, math.floor(side * scale / multiple + 0.5) * multiple) for side in (height, width)]
    return min(sides[0], largest), min(sides[1], largest)


def size_with_aspect(pixels: int, height: int, width: int) -> tuple[int, int]:
    """The size with a photo's aspect and about ``pixels`` pixels: ``h = sqrt(pixels * height / width)``, rounded, >= 1.

    Args:
        pixels: pixels wanted, >= 1.
        height, width: the photo's size, px.

    Returns:
        ``(height, width)``.
    """
    new_height = math.sqrt(pixels * height / width)
    return max(1, math.floor(new_height + 0.5)), max(1, math.floor(new_height * width / height + 0.5))


# ----------------------------------------------------------------------------------------------------------- saving


def check_save_path(path: str | os.PathLike[str]) -> str:
    """Pillow's format name for a file name, asked before the work so that a typo costs nothing.

    Raises:
        UsageError: a suffix other than .png, .jpg or .jpeg, or an existing folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"cannot save a picture as {path}: it is a folder; add a file name.")
    if path.suffix.lower() not in _SAVE_FORMATS:
        raise unknown_name("picture suffix", path.suffix or path.name, _SAVE_FORMATS)
    return _SAVE_FORMATS[path.suffix.lower()]


def save_picture(image: Image.Image | np.ndarray, path: str | os.PathLike[str], *, quality: int = 92) -> Path:
    """Saves a picture as PNG or JPEG by its suffix, whole or not at all.

    Args:
        image: a Pillow image, or ``H x W (x 3 or 4)`` uint8. JPEG has no alpha: it is composited on white.
        path: .png, .jpg or .jpeg; missing parent folders are made.
        quality: JPEG quality, 1..95.

    Raises:
        UsageError: an unknown suffix, or a folder's name.
        FileTroubleError: read-only folder, full disk.
    """
    path = Path(path)
    kind = check_save_path(path)
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    if kind == "JPEG":
        Image.fromarray(as_photo(picture).rgb).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    else:
        picture.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
    return path
