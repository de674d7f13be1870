"""Depth as an image for a net: its logarithm, or three channels of geometry (HHA)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minifcn.data.dataset import DataError
from minifcn.data.images import read_gray16, read_image


def read_log_depth(path: str | Path) -> np.ndarray:
    """Return the logarithm of a depth map, a 16-bit gray PNG of millimetres.

    Depth doubles from one object to the next as easily near by as far away; its logarithm gives
    both the same step.

    Returns
    -------
    numpy.ndarray
        float32 (H, W, 1), log(depth in mm): 6.9 at 1 m, 9.2 at 10 m.

    Raises
    ------
    DataError
        If the file cannot be read or is not 16-bit gray; if a depth is 0, as where the camera
        measured none: it has no logarithm.
    """
    depth = read_gray16(path)
    if not depth.all():
        row, column = np.argwhere(depth == 0)[0].tolist()
        raise DataError(
            f"{path}: depth is 0 at row {row}, column {column} ({int((depth == 0).sum())} such "
            "pixels): its logarithm needs every depth above 0, in mm: use the depth maps with "
            "missing measurements filled in"
        )
    return np.log(depth, dtype=np.float32)[:, :, None]  # (H, W) -> (H, W, 1)


def read_hha(path: str | Path) -> np.ndarray:
    """Return depth coded as three channels: disparity, height above ground, angle with gravity.

    These are no colours: they are never turned into blue, green, red.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3).

    Raises
    ------
    DataError
        If the file cannot be read, or is a gray image.
    """
    image = read_image(path)
    first, second, third = np.moveaxis(image, 2, 0)  # (H, W, 3) -> 3 of (H, W)
    if np.array_equal(first, second) and np.array_equal(second, third):
        raise DataError(
            f"{path}: its three channels are equal, so it is a gray image, maybe a depth map: an "
            "HHA image has disparity, height and angle in them"
        )
    return image
