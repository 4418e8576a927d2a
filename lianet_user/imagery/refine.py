"""Bands of coarser pixels on a finer grid, without inventing detail.

A coarser band is refined smoothly and then corrected until the mean of the fine pixels in every measured pixel is again what
was measured. Nothing is lost, so quality can be judged at each band's own resolution, on measured pixels only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ROUNDS = 4

REACH = ROUNDS
"""Coarse pixels of margin after which `refine` of a window equals that of the whole: each round looks one pixel further."""

MARGIN = REACH + math.ceil(REACH * math.sqrt(2.0))
"""The same where `fill` comes before `refine`, for every pixel that holds a measurement: what it reaches is filled from no
further away than itself, since it would do."""


def refine(band: NDArray[np.float32], factor: int, rounds: int = ROUNDS) -> NDArray[np.float32]:
    """A band on a grid `factor` times finer, smooth, whose means over each measured pixel are the measurement."""
    if factor == 1:
        return band
    fine = np.zeros((band.shape[0] * factor, band.shape[1] * factor), np.float32)
    for _ in range(rounds):
        fine += ndimage.zoom(band - block_mean(fine, factor), factor, order=1, mode="nearest", grid_mode=True)
    # The last correction is flat inside each measured pixel, which makes the means exact.
    fine += (band - block_mean(fine, factor)).repeat(factor, 0).repeat(factor, 1)
    return fine


def block_mean(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means over blocks of `factor` x `factor` along the last two axes."""
    return values if factor == 1 else blocks(values, factor).mean((-3, -1))


def block_all(values: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Whether all of each block of `factor` x `factor` along the last two axes is true."""
    return values if factor == 1 else np.asarray(blocks(values, factor).all((-3, -1)))


def blocks(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """(..., height, width) as (..., height / factor, factor, width / factor, factor)."""
    *rest, height, width = values.shape
    return values.reshape(*rest, height // factor, factor, width // factor, factor)


def fill(values: NDArray[np.float32], measured: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels without a measurement take the nearest one's value, so that refining and encoding meet no cliff.

    Args:
        values: (height, width).
        measured: bool (height, width); where nothing is, everything becomes 0.
    """
    if measured.all():
        return values
    if not measured.any():
        return np.zeros_like(values)
    nearest = ndimage.distance_transform_edt(~measured, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])
