"""Reading images and label maps from files, writing label maps, and the PASCAL VOC colours."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from minifcn.data.dataset import DataError
from minifcn.files import replace_file
from minifcn.plain_text import one_line

# What Pillow raises for files that are damaged in one way or another.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# What it raises for more pixels than its own limit, which is one for all threads.
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# Formats of pixels. Pillow knows others, but some of them make it start programs (EPS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MOST_PIXELS = 250_000_000  # of an image; the bytes of a photograph say nothing of its size
LIMIT = "MINIFCN_MAX_PIXELS"  # the environment variable for another number
_guard = threading.Lock()
_limits: list[int | None] = []  # those that Pillow had before images were read, one a reader


def read_image(path: str | Path) -> np.ndarray:
    """Return any image file as red, green, blue.

    Gray becomes three equal channels, 16-bit gray is scaled to 0-255, palette and CMYK images are
    converted, transparent pixels are laid over white (as most viewers and web pages show them), and
    a photograph is turned as its EXIF orientation says. Of several frames the first is read.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3).

    Raises
    ------
    DataError
        If the file is missing, is no image, is damaged or cut short, or holds float or 32-bit
        values, whose range is not known.
    """
    with _open(path) as picture:
        _load(picture, path)
        _turn_upright(picture, path)
    if _is_gray16(picture):
        values = np.asarray(picture).astype(np.uint32)
        gray = ((values + 128) // 257).astype(np.uint8)  # 65535 -> 255, rounded
        return np.repeat(gray[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise DataError(
            f"{path}: pixels are {'float' if picture.mode == 'F' else '32-bit integer'} numbers of "
            "unknown range: save the image with 8 bits per channel"
        )
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def read_size(path: str | Path) -> tuple[int, int]:
    """Return the height and width of the image that `read_image` gives, from the file's header.

    Raises
    ------
    DataError
        If the file is missing or is no image, or its EXIF data are damaged.
    """
    with _open(path) as picture:
        width, height = picture.size
        try:
            sideways = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except BROKEN as error:
            raise DataError(f"{path}: EXIF data are damaged: {error}") from None
    return (width, height) if sideways else (height, width)


def read_gray16(path: str | Path) -> np.ndarray:
    """Return the values of a 16-bit gray image as they are, as depth maps are stored.

    Returns
    -------
    numpy.ndarray
        uint16 (H, W).

    Raises
    ------
    DataError
        If the file is missing or damaged, or is an image of another kind.
    """
    with _open(path) as picture:
        _load(picture, path)
    if not _is_gray16(picture):
        raise DataError(f"{path}: image is of mode {picture.mode}: it must be 16-bit gray")
    return np.asarray(picture).astype(np.uint16)


class LabelPixels(NamedTuple):
    """What a label file holds, before it is known what it means.

    Attributes
    ----------
    values
        uint8 or uint16 (H, W), or the colours of the pixels, uint8 (H, W, 3).
    palette
        uint8 (N, 3), the colours in which the first values are shown; None if there is no palette.
    """

    values: np.ndarray
    palette: np.ndarray | None = None


ADVICE = "a label must be a PNG of palette indices or 8-bit gray values, the class numbers"


def read_label(path: str | Path) -> np.ndarray:
    """Return a label file's class numbers, one per pixel: palette indices or gray values.

    The colours of a palette image are not looked at: its indices are the class numbers, as in
    PASCAL VOC. Everything that does not hold class numbers exactly is refused.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W).

    Raises
    ------
    DataError
        If the file is missing or damaged, is an RGB, 1-bit or JPEG image, or has 16 bits and a
        value above 255.
    """
    values = read_label_pixels(path).values
    if values.max() > 255:
        row, column = np.argwhere(values > 255)[0].tolist()
        raise DataError(
            f"{path}: label value {values[row, column]} at row {row}, column {column}: {ADVICE}"
        )
    return values.astype(np.uint8, copy=False)


def read_label_pixels(path: str | Path, *, colours: bool = False) -> LabelPixels:
    """Return what a label file holds: 8-bit or 16-bit numbers, or colours where they are wanted.

    Raises
    ------
    DataError
        If the file is missing or damaged, or is an image that cannot hold labels exactly.
    """
    with _open(path) as picture:
        if picture.format == "JPEG":
            raise DataError(
                f"{path}: JPEG changes pixel values, and class numbers with them: {ADVICE}"
            )
        # Pillow stretches 2-bit and 4-bit gray to 0-255, which would multiply the class numbers.
        few_bits = any(tile.args in ("L;2", "L;4") for tile in getattr(picture, "tile", ()))
        _load(picture, path)
    mode = picture.mode
    if few_bits:
        raise DataError(f"{path}: image is gray with 2 or 4 bits: {ADVICE}")
    if mode == "P":
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return LabelPixels(np.array(picture), palette)
    if mode == "L":
        return LabelPixels(np.array(picture))
    if _is_gray16(picture):
        return LabelPixels(np.asarray(picture).astype(np.uint16))
    if mode in ("RGB", "RGBA") and colours:
        return LabelPixels(_opaque(np.asarray(picture), path))
    hint = ""
    if mode in ("RGB", "RGBA"):
        channels = np.asarray(picture)[:, :, :3]
        equal = (channels == channels[:, :, :1]).all()
        hint = " (its three channels are equal: save one of them)" if equal else COLOURS_HINT
    raise DataError(f"{path}: image is of mode {mode}{hint}: {ADVICE}")


COLOURS_HINT = (
    " (colours are not numbers: give each class its colour in classes.txt, as 'road 128 64 128')"
)


def _opaque(pixels: np.ndarray, path: str | Path) -> np.ndarray:
    """Return red, green, blue, where there is nothing that shines through."""
    if pixels.shape[2] == 4 and (pixels[:, :, 3] != 255).any():
        row, column = np.argwhere(pixels[:, :, 3] != 255)[0].tolist()
        raise DataError(
            f"{path}: label is transparent at row {row}, column {column} (alpha "
            f"{pixels[row, column, 3]}): save it without an alpha channel"
        )
    return pixels[:, :, :3]


def save_label(path: str | Path, label: np.ndarray, palette: np.ndarray) -> None:
    """Write class numbers as a palette PNG, so that it holds the numbers and shows the colours.

    The file appears complete or not at all. :func:`read_label` gives the same numbers back.

    Parameters
    ----------
    path
        File to write.
    label
        Integers 0 to 255, (H, W).
    palette
        uint8 (K, 3), the colour of each class; the other numbers are black.

    Raises
    ------
    DataError
        If the label is not two-dimensional or holds other numbers.
    WriteError
        If the file cannot be written.
    """
    if label.ndim != 2 or label.dtype.kind not in "ui":
        raise DataError(
            f"{path}: label to save is {label.dtype} of shape {label.shape}: "
            "it must be integers of shape (H, W)"
        )
    if label.size and (label.min() < 0 or label.max() > 255):
        raise DataError(
            f"{path}: label to save holds {label.min()} to {label.max()}: a PNG index is 0 to 255"
        )
    picture = Image.fromarray(np.ascontiguousarray(label, np.uint8))
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    save_image(path, picture)


def save_image(path: str | Path, picture: Image.Image, quick: bool = False) -> None:
    """Write a picture as a PNG file, complete or not at all.

    ``quick`` takes less than half of the time; the file may be a tenth larger.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, format="PNG", compress_level=1 if quick else 6)
    replace_file(path, content.getvalue())


def voc_palette(count: int = 256) -> np.ndarray:
    """Return the PASCAL VOC colours of class 0 to ``count - 1``, uint8 (count, 3).

    The bits of the class number are dealt out to red, green and blue in turn, the highest bit of a
    colour first, so that neighbouring numbers get colours far apart.

    >>> voc_palette(3).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    number = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((number >> (3 * bit + channel) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def image_format(path: str | Path) -> str:
    """Return format and mode of an image file, as ``"PNG P"``; raises as `read_size`."""
    with _open(path) as picture:
        return f"{picture.format} {picture.mode}"


def most_pixels() -> int:
    """Return how many pixels an image may have: 250 million, or ``MINIFCN_MAX_PIXELS``.

    Raises
    ------
    DataError
        If this environment variable is no number above 0.

    Examples
    --------
    >>> most_pixels()
    250000000
    """
    text = os.environ.get(LIMIT, str(MOST_PIXELS))
    if not text.isdecimal() or len(text) > 18 or not int(text):
        raise DataError(
            f"{LIMIT} is {text[:30]!r}: it must be a number of pixels, as {MOST_PIXELS}"
        )
    return int(text)


@contextlib.contextmanager
def _pillow_limit(pixels: int | None) -> Iterator[None]:
    """Set Pillow's own limit, a variable of its module; the last reader of all puts it back."""
    with _guard:
        _limits.append(_limits[0] if _limits else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        with _guard:
            usual = _limits.pop()
            if not _limits:
                Image.MAX_IMAGE_PIXELS = usual


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of our formats that this Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(path: str | Path) -> Image.Image:
    """Open an image file (its header only), or say why it cannot be read."""
    limit = most_pixels()
    try:
        with _pillow_limit(None):  # the size is checked below
            picture = Image.open(path, formats=_formats())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not an image file") from None
    except UnidentifiedImageError:
        size = Path(path).stat().st_size
        known = f"{size} bytes of no known image format ({', '.join(_formats())})"
        raise DataError(f"{path}: not an image: {known if size else 'the file is empty'}") from None
    except (*BROKEN, *BOMBS) as error:  # the second while another thread has set a limit
        raise DataError(f"{path}: cannot be read: {_told(error)}") from None
    if picture.width * picture.height > limit:
        picture.close()
        raise DataError(
            f"{path}: image is {picture.height} x {picture.width} (height x width), "
            f"{picture.width * picture.height} pixels, and at most {limit} are read: cut the image "
            f"into parts, or set the environment variable {LIMIT}"
        )
    return picture


def _load(picture: Image.Image, path: str | Path) -> None:
    """Decode the pixels, or say that the file is damaged."""
    try:
        with _pillow_limit(most_pixels()):  # of tiles and frames, whose sizes are others
            picture.load()
    except BOMBS as error:
        raise DataError(f"{path}: image file is damaged: {_told(error)}") from None
    except BROKEN as error:
        raise DataError(f"{path}: image file is damaged or cut short: {_told(error)}") from None
    except MemoryError:
        raise DataError(
            f"{path}: an image of {picture.height} x {picture.width} (height x width) does not fit "
            "into memory: cut it into parts"
        ) from None
    if 0 in picture.size:
        raise DataError(
            f"{path}: image has no pixels: width {picture.width}, height {picture.height}"
        )


def _told(error: BaseException) -> str:
    """Return what an error of Pillow says, on one line of bounded length."""
    return one_line(str(error)) or type(error).__name__


def _is_gray16(picture: Image.Image) -> bool:
    """Tell whether values are 16-bit gray; Pillow may hold those of a PNG file in 32 bits."""
    return picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")


def _turn_upright(picture: Image.Image, path: str | Path) -> None:
    """Turn a photograph as its EXIF orientation says."""
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except BROKEN as error:
        raise DataError(
            f"{path}: EXIF data are damaged: {error}: save the image again without them"
        ) from None
