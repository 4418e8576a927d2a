"""Resampling from a source grid (a region's or head's) to a map's: the source window that a tile needs, and its values.

Where the two grids have the same pixels nothing is resampled. Otherwise each tile is warped by itself, with an exact
transformation of every pixel: nearest neighbour for classes, bilinear for numbers; and where a pixel of the map is at least
twice as large as one of the source, the mode or the mean of all source pixels in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject

from lianet_user.errors import AreaError
from lianet_user.geo.grid import Window, offset_on, whole, window_geobox
from lianet_user.geo.transformation import Transformation, transformation

COARSE = 2.0
"""Source pixels along a pixel of the map from which on mode and mean are used."""
MOST = 512.0
"""Source pixels along a pixel of the map at most: a single pixel then takes as much memory as a tile."""
SAMPLES = 17
"""Points along each side of a tile that are transformed to find its source window."""

Kind = Literal["classes", "numbers"]


@dataclass(frozen=True, eq=False)
class Placement:
    """The position of a map's grid on a source grid."""

    source: GeoBox
    target: GeoBox
    offset: tuple[int, int] | None
    """Row and column of the source at which the map begins, if the two have the same pixels; else None."""
    factor: float
    """Pixels of the source along one of the map, in the middle of the map."""
    most_pixels: int
    """Pixels at most of a source window that is read at once."""
    _to_source: Transformation

    def pieces(self, tile: Window) -> Iterator[tuple[Window, Window]]:
        """Divide the part of a tile that the source covers into pieces that respect the memory limit.

        Yields:
            A piece of the tile, and the source window that it needs.
        """
        if self.offset is not None:
            shifted = tile.shifted(*self.offset).intersection(whole(self.source))
            if shifted is not None:
                yield shifted.shifted(-self.offset[0], -self.offset[1]), shifted
            return
        window = self._reach(tile)
        if window is None:
            return
        if window.pixels <= self.most_pixels or tile.pixels == 1:
            yield tile, window
            return
        for part in tile.tiles(math.ceil(max(tile.height, tile.width) / 2)):
            yield from self.pieces(part)

    def resample(self, values: np.ndarray, window: Window, piece: Window, kind: Kind, nodata: float) -> np.ndarray:
        """Resample values (bands, h, w) of a source window to the piece of a tile that it was read for: (bands, h, w).

        Args:
            values: uint8 classes or float32 numbers.
            window: of the source.
            piece: of the map's grid.
            kind: of the values, which decides the method.
            nodata: of the values, and of the result outside the source.
        """
        if self.offset is not None:
            return values
        resampled = np.full((len(values), piece.height, piece.width), nodata, values.dtype)
        source, target = window_geobox(self.source, window), window_geobox(self.target, piece)
        assert source.crs is not None and target.crs is not None  # noqa: PT018
        coarse = {"classes": Resampling.mode, "numbers": Resampling.average}
        fine = {"classes": Resampling.nearest, "numbers": Resampling.bilinear}
        reproject(
            np.ascontiguousarray(values),
            resampled,
            src_transform=source.affine,
            src_crs=rasterio.CRS.from_wkt(source.crs.to_wkt()),
            src_nodata=nodata,
            dst_transform=target.affine,
            dst_crs=rasterio.CRS.from_wkt(target.crs.to_wkt()),
            dst_nodata=nodata,
            resampling=(coarse if self.factor >= COARSE else fine)[kind],
            tolerance=0,
            # Otherwise GDAL estimates its scale from each window, and the borders of tiles would be visible.
            XSCALE="1",
            YSCALE="1",
        )
        return resampled

    def _reach(self, tile: Window) -> Window | None:
        """The source window under a tile, with a margin for the resampling."""
        cols = np.linspace(tile.col, tile.col_end, SAMPLES)
        rows = np.linspace(tile.row, tile.row_end, SAMPLES)
        places = np.stack(np.meshgrid(cols, rows), -1).reshape(-1, 2)
        col, row = _on_source(self.source, self.target, self._to_source, places)
        known = np.isfinite(col) & np.isfinite(row)
        if not known.any():
            return None
        margin = 2 + math.ceil(self.factor)
        top, left = math.floor(row[known].min()) - margin, math.floor(col[known].min()) - margin
        bottom, right = math.ceil(row[known].max()) + margin, math.ceil(col[known].max()) + margin
        return Window(top, left, bottom - top, right - left).intersection(whole(self.source))


def place(source: GeoBox, target: GeoBox, tile: int) -> Placement:
    """Compute the position of a map's grid on a source grid.

    Args:
        source: over the whole region.
        target: the map's.
        tile: pixels along the side of a source window for which memory is planned.

    Raises:
        AreaError: a pixel of the map is too large.
        LabelError: there is no transformation from one CRS to the other.
    """
    assert target.crs is not None
    to_source = transformation(target.crs, source)
    offset = offset_on(source, target)
    factor = 1.0 if offset is not None else _factor(source, target, to_source)
    if factor > MOST:
        raise AreaError(
            f"a pixel of the map ({target.resolution.x:g} in units of its CRS) would be {factor:.0f} pixels of the region"
            f" wide, at most {MOST:.0f} are possible: choose a finer `resolution`"
        )
    return Placement(source, target, offset, factor, 4 * tile**2, to_source)


def _factor(source: GeoBox, target: GeoBox, to_source: Transformation) -> float:
    """Source pixels along a pixel of the map (the larger of width and height), the median where the map is on the source."""
    height, width = target.shape
    cols, rows = np.meshgrid(np.linspace(0.5, width - 0.5, SAMPLES), np.linspace(0.5, height - 0.5, SAMPLES))
    middles = np.stack([cols, rows], -1).reshape(-1, 2)

    on_source = partial(_on_source, source, target, to_source)
    with np.errstate(invalid="ignore"):
        across, down = (
            np.hypot(*(on_source(middles + half) - on_source(middles - half)))
            for half in (np.array([0.5, 0.0]), np.array([0.0, 0.5]))
        )
    sizes = np.maximum(across, down)
    col, row = on_source(middles)
    there = np.isfinite(sizes) & (col >= 0) & (row >= 0) & (col <= source.width) & (row <= source.height)
    known = there if there.any() else np.isfinite(sizes)
    return float(np.median(sizes[known])) if known.any() else 1.0


def _on_source(source: GeoBox, target: GeoBox, to_source: Transformation, places: np.ndarray) -> np.ndarray:
    """(n, 2) columns and rows of the map -> (2, n) columns and rows of the source."""
    moved = to_source.apply(np.column_stack(target.affine @ places.T))
    return np.stack(~source.affine @ moved.T)
