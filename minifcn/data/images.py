"""Reading images and label maps from files, writing label maps, and the PASCAL VOC colours."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from minifcn.data.dataset import DataError
from minifcn.files import replacing

# What Pillow raises for files that are damaged in one way or another.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


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


def save_image(path: str | Path, picture: Image.Image) -> None:
    """Write a picture as a PNG file, complete or not at all."""
    content = io.BytesIO()
    picture.save(content, format="PNG")
    replace_file(path, content.getvalue())


def replace_file(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it."""
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


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


def _open(path: str | Path) -> Image.Image:
    """Open an image file (its header only), or say why it cannot be read."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not an image file") from None
    except UnidentifiedImageError:
        size = Path(path).stat().st_size
        detail = "the file is empty" if size == 0 else f"{size} bytes of no known image format"
        raise DataError(f"{path}: not an image: {detail}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}: cut the image into parts") from None
    except BROKEN as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _load(picture: Image.Image, path: str | Path) -> None:
    """Decode the pixels, or say that the file is damaged."""
    try:
        picture.load()
    except BROKEN as error:
        raise DataError(f"{path}: image file is damaged or cut short: {error}") from None
    if 0 in picture.size:
        raise DataError(
            f"{path}: image has no pixels: width {picture.width}, height {picture.height}"
        )


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
