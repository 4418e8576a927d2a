"""What a provider says about imagery that the imagery does not say itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field

from lianet_user.files.header import Acquisition

SCL_CLEAR = (4, 5, 6, 7, 11)
"""Values of Sentinel-2's scene classification that show the ground: vegetation, bare, water, unclassified, snow."""


@dataclass(frozen=True, kw_only=True)
class ImageryOptions:
    """How imagery is read. Nothing here is guessed: what is left open and cannot be read off the files is asked for."""

    bands: tuple[str, ...] | None = None
    """Names of the bands to take, in this order. For stacks whose layers have no names, the names of all layers of one
    acquisition. None takes what there is; of Sentinel-2 all but the cirrus band, which does not see the ground."""
    dates: tuple[Acquisition, ...] | None = None
    """Of the acquisitions, where neither the files nor their names say, in their order."""
    since: dt.date | None = None
    until: dt.date | None = None
    """Acquisitions before the one or after the other are left out."""
    offset: float | None = None
    """Subtracted from the digital numbers. None: what the files say, else 0, but refused for Sentinel-2 since 2022-01-25."""
    scale: float | None = None
    """Digital numbers per reflectance 1.0. None: what the files say, else 10000 for whole numbers and 1 for fractions."""
    offsets: Mapping[dt.date, float] = field(default_factory=dict)
    scales: Mapping[dt.date, float] = field(default_factory=dict)
    """Of single dates, before the common ones."""
    nodata: float | None = None
    """Digital number that is no measurement, beside what the files declare. Sentinel-2's is 0 in any case."""
    mask: str | None = None
    """Where clouds are marked: the name of a variable, of an asset, or of a layer's description, or the path of a raster or
    of a folder of rasters with dates in their names."""
    clear: tuple[int, ...] | None = None
    """Values of the mask that are clear; by default `SCL_CLEAR` where the mask is called SCL."""
    clear_below: float | None = None
    """Or: the mask is a probability of clouds, and less than this is clear."""
    min_clear: float = 0.0
    """Acquisitions with a smaller share of clear pixels (all bands valid) are left out."""
    grid: str | None = None
    """A raster or a region file whose grid everything is put on by resampling. None refuses grids that do not match."""
