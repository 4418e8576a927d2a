"""How a map is stored, whatever it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from rasterio.enums import Resampling

from lianet_user.grid import Window


@dataclass(frozen=True)
class Layer:
    """How a map is stored: one band or several, all in the same way."""

    bands: tuple[str, ...]
    """Of what each holds: the bands' descriptions."""
    dtype: str
    nodata: float
    predictor: str
    """The value of the creation option, unless the user gives another."""
    overviews: str
    """How a pixel of an overview comes from those it stands for, likewise: a name of rasterio's `Resampling`, in capitals."""
    unit: str = ""
    scale: float = 1.0
    """What a stored number stands for, per unit of it: GDAL and QGIS show the product."""
    palette: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    """Colours of the values, where they are classes."""
    light: bool = False
    """Whether its three bands are red, green and blue for the eye."""
    band_tags: tuple[Mapping[str, str], ...] = ()
    """Of each band, where they say more than their names."""

    @property
    def pixel_bytes(self) -> int:
        """Of all bands."""
        return np.dtype(self.dtype).itemsize * len(self.bands)

    @property
    def resampling(self) -> Resampling:
        return Resampling[self.overviews.lower()]

    def empty(self, window: Window) -> np.ndarray:
        """A window without any value: (bands, height, width) of nodata."""
        return np.full((len(self.bands), window.height, window.width), self.nodata, self.dtype)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Numbers as they are stored: divided by the scale, rounded where the type is an integer; NaN becomes nodata."""
        if values.dtype == self.dtype and self.scale == 1:
            return values
        whole_numbers = np.issubdtype(self.dtype, np.integer)
        scaled = np.asarray(values, np.float64) / self.scale
        rounded = np.rint(scaled) if whole_numbers else scaled
        return np.where(np.isnan(scaled), self.nodata, rounded).astype(self.dtype)
