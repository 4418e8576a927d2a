"""The colours of remembered images: which bands are red, green and blue, and how reflectance becomes light."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lianet_user.header import Band

TRUE_COLOR = ((665.0, ("B04", "B4", "red")), (560.0, ("B03", "B3", "green")), (490.0, ("B02", "B2", "blue")))
"""Red, green and blue: wavelength in nanometres, and the names such a band goes by."""

NEAR_NM = 60.0
"""A band farther than this from a colour's wavelength does not show that colour."""


def true_color_bands(bands: Sequence[Band]) -> tuple[int, int, int]:
    """Indices of the bands to show as red, green and blue: by wavelength, else by name, else the first band as grey."""
    chosen = [_band_of(bands, wavelength, names) for wavelength, names in TRUE_COLOR]
    known = [index for index in chosen if index is not None]
    return (known[0], known[1], known[2]) if len(known) == 3 else (0, 0, 0)


def _band_of(bands: Sequence[Band], wavelength: float, names: Sequence[str]) -> int | None:
    known = {index: abs(band.wavelength_nm - wavelength) for index, band in enumerate(bands) if band.wavelength_nm}
    nearest = min(known, key=lambda index: known[index], default=None)
    if nearest is not None and known[nearest] <= NEAR_NM:
        return nearest
    return next((index for index, band in enumerate(bands) if band.name in names), None)


def stretched(bands: np.ndarray) -> NDArray[np.uint8]:
    """Bands (height, width, 3), in any unit, for the eye: each from its 2nd to its 98th percentile, as uint8."""
    low, high = np.percentile(bands, (2, 98), axis=(0, 1))
    scaled = (bands - low) / np.maximum(high - low, 1e-6)
    colors: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return colors
