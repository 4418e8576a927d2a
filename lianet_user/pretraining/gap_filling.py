"""Images without gaps, to start a field from: what clouds hide on one date the others estimate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lianet_user.field.config import TemporalCovariance
from lianet_user.field.kriging import left_out_weights
from lianet_user.imagery.imagery import Imagery
from lianet_user.imagery.statistics import Statistics


def images_without_gaps(
    imagery: Imagery, statistics: Statistics, covariance: TemporalCovariance
) -> NDArray[np.float32]:
    """All dates of imagery that fits into memory.

    Where a date shows nothing valid, the others that do are averaged, each as much as it tells about that date; where none
    shows anything, the nearest pixel of the date is taken.

    Args:
        imagery: to read.
        statistics: of it.
        covariance: how alike two moments are.

    Returns:
        float32 (dates, bands, height, width) in units of each band's deviation from its mean.
    """
    patches = [imagery.read(index, imagery.window) for index in range(len(imagery.acquisitions))]
    valid = np.stack([patch.valid for patch in patches])
    images = np.stack([patch.reflectance for patch in patches])
    images -= statistics.mean[:, None, None].astype(np.float32)
    images /= statistics.std[:, None, None].astype(np.float32)
    images[~valid] = 0.0
    days = [held.days for held in imagery.acquisitions]
    _fill(images, valid, days, covariance)
    return images


def _fill(
    images: NDArray[np.float32], valid: NDArray[np.bool_], days: list[float], covariance: TemporalCovariance
) -> None:
    """Fill what is not valid, where `images` are 0, in place."""
    # Estimates may subtract; averages over whatever dates happen to be clear should not.
    weights = left_out_weights(days, covariance).clip(min=0.0).astype(np.float32)
    estimates: dict[int, NDArray[np.float32]] = {}
    for index in np.flatnonzero(~valid.all((1, 2, 3))).tolist():
        known = np.tensordot(weights[index], valid.astype(np.float32), 1)
        total = np.tensordot(weights[index], images, 1)
        estimates[index] = np.where(known > 0.1, total / np.maximum(known, 0.1), np.nan)
    # Only now, so that no estimate is made from estimates.
    for index, estimate in estimates.items():
        gaps = ~valid[index]
        images[index][gaps] = estimate[gaps]
        for band in images[index]:
            _fill_nearest(band)


def _fill_nearest(band: NDArray[np.float32]) -> None:
    gaps = np.isnan(band)
    if gaps.all():
        band[:] = 0.0  # the mean
    elif gaps.any():
        nearest = ndimage.distance_transform_edt(gaps, return_distances=False, return_indices=True)
        band[:] = band[tuple(nearest)]
