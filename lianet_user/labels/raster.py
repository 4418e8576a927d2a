"""A raster of classes or numbers -> the label grid, in any CRS, at any resolution and alignment.

Every pixel of the label grid is divided into n x n sub-pixels (:func:`_subpixels`), and each sub-pixel takes the value of
the raster's pixel in which its centre lies: nearest neighbour, so no value is invented. Then the rules of
:mod:`lianet_user.labels.rasterize` decide the pixel, as they do for features.

The centres are carried over by the very operation that carries features (:mod:`lianet_user.geo.transformation`), so
the two kinds of labels cannot lie apart. It is computed at nodes and interpolated between them, after a check that this is
right to :data:`TOLERANCE`; where it is not (poles, the antimeridian, odd projections) every centre is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import LabelError
from lianet_user.files.header import IGNORE
from lianet_user.geo.grid import Window, whole
from lianet_user.geo.transformation import Transformation, transformation
from lianet_user.labels.options import Rule
from lianet_user.labels.outside import outside_error
from lianet_user.labels.rasterfile import Array, Mask, RasterSource, read_block, reading
from lianet_user.labels.rasterize import classes_of_subpixels, numbers_of_subpixels

MOST_PIXELS_USED = 2**33
MOST_VALUES = 2**16
"""Distinct values that are told apart: with more of them they are no classes."""

SUBPIXELS = range(4, 17)
"""Along each side of a pixel: at least and, for rasters that are much finer, at most."""
TILE_SUBPIXELS = 1024
"""Along each side of a tile: what is decided at once, which bounds the memory; so does the raster's part under it."""
TILE_PIXELS = 2**24
NODE_SPACING = 64
"""Sub-pixels between the nodes where coordinates are computed."""
TOLERANCE = 1e-3
"""Pixels of the raster that an interpolated coordinate may be off."""
EDGE = 1e-6
"""Pixels of the raster: rounding must not carry a centre across the edge that it lies on."""


@dataclass(frozen=True, eq=False)
class RasterLabels:
    """A raster on the label grid; areas are in pixels of that grid."""

    values: Array
    """(height, width): uint8, class index or IGNORE; or float32, number or NaN."""
    nodata_ground: float
    """Covered by the raster, but nothing is known there."""
    outside_ground: float
    """Not covered by the raster."""
    excluded_ground: float
    """Of values that are dropped on request."""


def sample_values(raster: RasterSource, geobox: GeoBox) -> pd.Series:
    """The values that lie in the region: value -> how many sub-pixels have it, in the order of the values.

    Pixel centres are looked at as well, so that no rule meets another value. At most :data:`MOST_VALUES` are listed.

    Raises:
        LabelError: the raster lies outside the region, holds nothing but nodata there, or cannot be read.
    """
    total = pd.Series(dtype=np.int64)
    for rule in ("majority", "center"):
        for tile in _tiles(raster, geobox, _subpixels(raster, geobox, rule)):
            known = tile.sampled(tile.known, False)
            found = _counted(tile.sampled(tile.block, 0)[known])
            # A centre adds a value that the sub-pixels missed, and never counts twice.
            found = found if rule == "majority" else found[~found.index.isin(total.index)]
            total = total.add(found, fill_value=0).astype(np.int64)
            if len(total) > MOST_VALUES:
                return total.iloc[:MOST_VALUES]
    if total.empty:
        raise LabelError(
            f"{raster.path}: band {raster.band} holds nothing but nodata in the region: choose another band with --band, or"
            " the region that its values lie in"
        )
    return total


def _counted(values: Array) -> pd.Series:
    """value -> how often it occurs, in the order of the values."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        # Several times as fast as sorting them.
        lowest = np.iinfo(values.dtype).min
        counts = np.bincount(values.astype(np.int32) - lowest)
        present = np.flatnonzero(counts)
        return pd.Series(counts[present], present + lowest)
    distinct, counts = np.unique(values, return_counts=True)
    return pd.Series(counts, distinct)


def raster_classes(
    raster: RasterSource, geobox: GeoBox, index_of_value: Mapping[float, int | None], min_coverage: float, rule: Rule
) -> RasterLabels:
    """The class of every pixel.

    Args:
        raster: opened.
        geobox: the label grid.
        index_of_value: class index of every value in :func:`sample_values`, below IGNORE; None if it is dropped.
        min_coverage: share of a pixel that its class has to cover.
        rule: "majority" or "center".

    Raises:
        LabelError: the raster lies outside the region, cannot be read, or holds a value that was not there when
            `index_of_value` was made of it.
    """
    outside, nodata, excluded, unknown = 256, 257, 258, 259
    keys = np.array(sorted(index_of_value), np.float64)
    codes = np.array([excluded if (index := index_of_value[key]) is None else index for key in keys], np.int16)
    values = np.full(geobox.shape, IGNORE, np.uint8)
    ground = np.zeros(3)
    for tile in _tiles(raster, geobox, n := _subpixels(raster, geobox, rule)):
        found = tile.block[tile.known].astype(np.float64)
        place = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
        code_of = np.full(tile.block.shape, nodata, np.int16)
        # The block also holds values beside the region, which have no class and need none.
        code_of[tile.known] = np.where(keys[place] == found, codes[place], unknown)
        owner = tile.sampled(code_of, outside)
        if (owner == unknown).any():
            raise LabelError(
                f"{raster.path}: band {raster.band} holds {found[keys[place] != found][0]:g}, which was not there when its"
                " values were listed: the file is damaged, or was written to meanwhile; get or save it again"
            )
        ground += [(owner == code).sum() for code in (nodata, outside, excluded)]
        values[tile.window.slices] = classes_of_subpixels(np.minimum(owner, IGNORE).astype(np.uint8), n, min_coverage)
    nodata_ground, outside_ground, excluded_ground = (ground / n**2).tolist()
    return RasterLabels(values, nodata_ground, outside_ground, excluded_ground)


def raster_numbers(raster: RasterSource, geobox: GeoBox, min_coverage: float, rule: Rule) -> RasterLabels:
    """The number of every pixel: the mean of its sub-pixels, if those with a number are `min_coverage` of it.

    Args and Raises as for :func:`raster_classes`.
    """
    values = np.full(geobox.shape, np.nan, np.float32)
    ground = np.zeros(2)
    for tile in _tiles(raster, geobox, n := _subpixels(raster, geobox, rule)):
        numbers = np.full(tile.block.shape, np.nan, np.float32)
        numbers[tile.known] = tile.block[tile.known]
        fine = tile.sampled(numbers, np.float32(np.inf))
        outside = np.isinf(fine)
        fine[outside] = np.nan
        ground += [(np.isnan(fine) & ~outside).sum(), outside.sum()]
        values[tile.window.slices] = numbers_of_subpixels(fine, n, min_coverage)
    nodata_ground, outside_ground = (ground / n**2).tolist()
    return RasterLabels(values, nodata_ground, outside_ground, excluded_ground=0.0)


@dataclass(frozen=True, eq=False)
class _Tile:
    """A window of the label grid, the raster's part under it, and which of its pixels each sub-pixel lies in."""

    window: Window
    block: Array
    """(rows, columns) as stored."""
    known: Mask
    """(rows, columns) where `block` is a finite value and not nodata."""
    place: NDArray[np.intp]
    """(h * n, w * n) index into the flat block, -1 outside the raster."""

    def sampled(self, of_block: Array, outside: Any) -> Array:
        """(rows, columns) -> (h * n, w * n)."""
        return np.append(of_block.ravel(), np.array([outside], of_block.dtype))[self.place]


def _tiles(raster: RasterSource, geobox: GeoBox, n: int) -> Iterator[_Tile]:
    """The label grid tile by tile.

    Raises:
        LabelError: no sub-pixel lies in the raster, or it cannot be read.
    """
    change = transformation(raster.crs, geobox)
    # Degrees that are called metres make pixels of nothing: there are no more than the raster has.
    relative = math.prod(_relative_size(raster, geobox, change))
    used = min(math.prod(geobox.shape) * relative, raster.width * raster.height)
    if used > MOST_PIXELS_USED:
        raise LabelError(
            f"{raster.path}: some {used:.2g} of its pixels lie in the region, far more than labels need: resample it to"
            f" the region's pixel ({math.hypot(geobox.affine.a, geobox.affine.d):g}), for instance with gdalwarp -r mode -tr"
        )
    windows = list(whole(geobox).tiles(max(1, TILE_SUBPIXELS // n)))[::-1]
    covered = False
    with reading(raster.path) as dataset:
        while windows:
            window = windows.pop()
            col, row, inside = _positions(raster, geobox, change, window, n)
            if not inside.any():
                yield _Tile(window, np.empty((0, 0), raster.dtype), np.empty((0, 0), bool), np.full(inside.shape, -1))
                continue
            (left, right), (top, bottom) = ((int(of[inside].min()), int(of[inside].max()) + 1) for of in (col, row))
            if (right - left) * (bottom - top) > TILE_PIXELS and window.pixels > 1:
                windows += window.tiles((max(window.height, window.width) + 1) // 2)
                continue
            covered = True
            block, known = read_block(dataset, raster, (top, bottom), (left, right))
            yield _Tile(window, block, known, np.where(inside, (row - top) * (right - left) + col - left, -1))
    if not covered:
        raise _outside_error(raster, geobox)


def _positions(
    raster: RasterSource, geobox: GeoBox, change: Transformation, window: Window, n: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], Mask]:
    """Column and row of the raster's pixel under every sub-pixel's centre (h * n, w * n), and whether there is one."""
    to_region = geobox.affine @ Affine.translation(window.col, window.row) @ Affine.scale(1 / n)

    def exact(x: Array, y: Array) -> NDArray[np.float64]:
        """Column and row (2, y, x) at sub-pixel coordinates (x,) and (y,)."""
        columns, lines = np.meshgrid(x, y)
        return _to_raster(raster, change, _applied(to_region, columns, lines))

    height, width = window.height * n, window.width * n
    x, y = _nodes(width), _nodes(height)
    at_nodes = exact(x, y)
    halfway = (at_nodes[:, 1:, 1:] + at_nodes[:, 1:, :-1] + at_nodes[:, :-1, 1:] + at_nodes[:, :-1, :-1]) / 4
    error = np.abs(halfway - exact((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2))
    # Not `error > TOLERANCE`: what is not finite compares as neither.
    if (error <= TOLERANCE).all():
        col, row = _weights(height, y) @ at_nodes @ _weights(width, x).T
    else:
        col, row = exact(np.arange(width) + 0.5, np.arange(height) + 0.5)
    # A pixel holds its left and top edge, where the centres lie if one pixel is an even multiple of the other.
    col, row = col + EDGE, row + EDGE
    inside = (col >= 0) & (col < raster.width) & (row >= 0) & (row < raster.height)
    return np.where(inside, col, 0).astype(np.intp), np.where(inside, row, 0).astype(np.intp), inside


def _applied(affine: Affine, x: Array, y: Array) -> NDArray[np.float64]:
    """(2, ...) x and y after an affine transformation."""
    return np.stack([affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f])


def _to_raster(raster: RasterSource, change: Transformation, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, ...) x and y in the region's CRS -> (2, ...) column and row in the raster; NaN where that is impossible."""
    x, y = change.invert(points.reshape(2, -1).T).T
    x[np.isinf(x)] = np.nan
    if raster.crs.geographic:
        # Longitude repeats itself: it is counted from the raster's middle, whatever it counts from.
        turn = 2 * math.pi / raster.crs.proj.axis_info[0].unit_conversion_factor
        start = (raster.transform @ (raster.width / 2, raster.height / 2))[0] - turn / 2
        x = start + (x - start) % turn
    return _applied(~raster.transform, x, y).reshape(points.shape)


def _nodes(length: int) -> NDArray[np.float64]:
    """From the first sub-pixel's centre to the last."""
    return np.linspace(0.5, length - 0.5, max(2, math.ceil((length - 1) / NODE_SPACING) + 1))


def _weights(length: int, nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(length, nodes) of linear interpolation at every sub-pixel's centre."""
    steps = (np.arange(length) + 0.5 - nodes[0]) / (nodes[1] - nodes[0] or 1)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(steps[:, None] - np.arange(len(nodes))))
    return weights


def _relative_size(raster: RasterSource, geobox: GeoBox, change: Transformation) -> tuple[float, float]:
    """Pixels of the raster along a pixel's width and height, in the middle of the region."""
    height, width = geobox.shape
    cols, rows = np.array([0, 1, 0]) + width // 2, np.array([0, 0, 1]) + height // 2
    corner, right, below = _to_raster(raster, change, _applied(geobox.affine, cols, rows)).T
    sizes = math.dist(corner, right), math.dist(corner, below)
    return sizes if all(map(math.isfinite, sizes)) else (1.0, 1.0)


def _subpixels(raster: RasterSource, geobox: GeoBox, rule: str) -> int:
    """Sub-pixels along each side of a pixel: as many as the raster has pixels there, within :data:`SUBPIXELS`.

    One, the pixel's centre, is enough under the rule `center` and where both grids share their pixels.
    """
    if rule == "center":
        return 1
    change = transformation(raster.crs, geobox)
    if raster.crs == geobox.crs:
        between = ~raster.transform @ geobox.affine
        shifted = between @ (0, 0)
        if np.allclose(between[:6], (1, 0, round(shifted[0]), 0, 1, round(shifted[1])), rtol=0, atol=1e-6):
            return 1
    return min(max(math.ceil(max(_relative_size(raster, geobox, change))), SUBPIXELS[0]), SUBPIXELS[-1])


def _outside_error(raster: RasterSource, geobox: GeoBox) -> LabelError:
    corners = [raster.transform @ (col, row) for col in (0, raster.width) for row in (0, raster.height)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return outside_error(raster.path, (min(xs), min(ys), max(xs), max(ys)), raster.crs, geobox)
