"""Where a head is least sure: what to look at, and to label, next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lianet_user.grid import LONLAT, Window
from lianet_user.report.view import MappedView

SIDE = 64
"""Pixels of the region along the side of a place."""


@dataclass(frozen=True)
class Place:
    """A window of a view, with the mean of its doubt and where its middle is, in degrees."""

    window: Window
    doubt: float
    longitude: float
    latitude: float


def doubtful_places(mapped: MappedView, geobox: GeoBox, most: int = 6) -> list[Place]:
    """The windows of :data:`SIDE` pixels with the highest mean doubt, the highest first; none overlap.

    Args:
        mapped: the view; doubt that is NaN counts nowhere, and a window without any other is no place.
        geobox: the region's grid.
        most: how many.
    """
    view = mapped.view
    means: list[tuple[float, Window]] = []
    for tile in view.window.tiles(SIDE):
        # What is left over at the view's edges says little and shows little.
        if 2 * tile.height < min(SIDE, view.window.height) or 2 * tile.width < min(SIDE, view.window.width):
            continue
        doubt = mapped.doubt[tile.within(view.window).scaled(view.scale).slices]
        known = doubt[np.isfinite(doubt)]
        if known.size:
            means.append((float(known.mean(dtype=np.float64)), tile))
    means.sort(key=lambda each: -each[0])
    return [Place(tile, doubt, *middle(tile, geobox)) for doubt, tile in means[:most]]


def middle(window: Window, geobox: GeoBox) -> tuple[float, float]:
    """Longitude and latitude of the middle of a window of a grid, in degrees."""
    assert geobox.crs is not None
    x, y = geobox.affine @ (window.col + window.width / 2, window.row + window.height / 2)
    longitude, latitude = Transformer.from_crs(geobox.crs.proj, LONLAT.proj, always_xy=True).transform(x, y)
    return float(longitude), float(latitude)
