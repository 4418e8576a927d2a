"""Polygons -> class indices on a pixel grid, by the area each class covers.

Every pixel is divided into :data:`SUBPIXELS` x :data:`SUBPIXELS` sub-pixels. A class covers a sub-pixel if one of its
polygons holds the sub-pixel's centre, however many of them do. The rule:

- A pixel *bears a class* if that class alone covers at least half of its sub-pixels. Sub-pixels that two or more
  classes cover count for none of them.
- Otherwise it is *contradicting* if some class does cover at least half of it, though not alone: only the overlap with
  another class kept it from bearing that one.
- Otherwise it is unlabelled. So is a pixel that two classes share in exact halves without overlap: neither covers most
  of it, and yet the labels do not contradict each other.

Contradicting and unlabelled pixels both get :data:`IGNORE`; no class ever means "nothing".
"""

from __future__ import annotations

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from lianet_user.header import IGNORE

SUBPIXELS = 4
"""Sub-pixels along each side of a pixel: areas are known to about 1/16 of it."""

STRIP_PIXELS = 2**20
"""Pixels decided at once, which bounds the memory: sixteen times as many sub-pixels, in four arrays of bytes."""

Geometries = NDArray[np.object_]
Values = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def to_pixel_coordinates(geometries: Geometries, geobox: GeoBox) -> Geometries:
    """Geometries in the grid's CRS as (column, row), so that pixel (0, 0) is the unit square at the origin."""
    inverse = ~geobox.affine
    matrix = np.array([[inverse.a, inverse.d], [inverse.b, inverse.e]])
    offset = np.array([inverse.c, inverse.f])
    moved: Geometries = shapely.transform(geometries, lambda points: points @ matrix + offset)
    return moved


def rasterize_classes(geometries: Geometries, classes: NDArray[np.intp], shape: tuple[int, int]) -> tuple[Values, Mask]:
    """Decide every pixel by the rule above.

    Args:
        geometries: (features,) polygons and multipolygons in pixel coordinates.
        classes: (features,) class index of each, below IGNORE.
        shape: height and width in pixels.

    Returns:
        values: (height, width) class index or IGNORE.
        contradicting: (height, width) where the labels contradict each other; `values` is IGNORE there.
    """
    height, width = shape
    values = np.full(shape, IGNORE, np.uint8)
    contradicting = np.zeros(shape, bool)
    tops, bottoms = shapely.bounds(geometries)[:, [1, 3]].T
    rows = max(1, STRIP_PIXELS // width)
    for row in range(0, height, rows):
        strip = slice(row, min(row + rows, height))
        here = (bottoms > strip.start) & (tops < strip.stop)
        if here.any():
            size = (strip.stop - strip.start, width)
            values[strip], contradicting[strip] = _decide_strip(geometries[here], classes[here], row, size)
    return values, contradicting


def touches_own_class(geometries: Geometries, classes: NDArray[np.intp], values: Values) -> Mask:
    """Which polygons touch a pixel that bears their class, and so left a trace in the map.

    Args:
        geometries: (features,) polygons in pixel coordinates.
        classes: (features,) class index of each.
        values: (height, width) class index or IGNORE.
    """
    height, width = values.shape
    cols, rows = np.floor(shapely.get_coordinates(shapely.point_on_surface(geometries))).astype(np.intp).T
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    touching = np.zeros(len(geometries), bool)
    touching[inside] = values[rows[inside], cols[inside]] == classes[inside]
    # The point settles nearly all of them; the rest (slivers, contradicted polygons) are looked at one by one.
    for index in np.flatnonzero(~touching):
        left, top, right, bottom = shapely.bounds(geometries[index])
        col, row = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        window = values[row : max(row, int(np.ceil(bottom))), col : max(col, int(np.ceil(right)))]
        own = window == classes[index]
        if own.any():
            corner = Affine.translation(col, row)
            burned = rasterize([geometries[index]], window.shape, transform=corner, all_touched=True, dtype="uint8")
            touching[index] = bool((burned[own] == 1).any())
    return touching


def _decide_strip(
    geometries: Geometries, classes: NDArray[np.intp], row: int, shape: tuple[int, int]
) -> tuple[Values, Mask]:
    """The rule on rows `row` to `row + shape[0]`, for the polygons that reach into them."""
    half = SUBPIXELS**2 / 2
    fine = (shape[0] * SUBPIXELS, shape[1] * SUBPIXELS)
    transform = Affine(1 / SUBPIXELS, 0, 0, 0, 1 / SUBPIXELS, row)
    owner = np.full(fine, IGNORE, np.uint8)
    contested = np.zeros(fine, bool)
    covered = np.zeros(shape, bool)
    present = np.unique(classes)
    for index in present:
        burned = rasterize(geometries[classes == index], fine, transform=transform, dtype="uint8").view(bool)
        contested |= burned & (owner != IGNORE)
        owner[burned] = index
        covered |= _per_pixel(burned) >= half
    owner[contested] = IGNORE
    values = np.full(shape, IGNORE, np.uint8)
    borne = np.zeros(shape, np.uint8)
    for index in present:
        alone = _per_pixel(owner == index) >= half
        values[alone] = index
        borne += alone
    values[borne != 1] = IGNORE
    return values, covered & (borne == 0)


def _per_pixel(fine: Mask) -> Values:
    """(h * n, w * n) sub-pixels -> (h, w) how many of each pixel's are set."""
    height, width = fine.shape[0] // SUBPIXELS, fine.shape[1] // SUBPIXELS
    blocks = fine.view(np.uint8).reshape(height, SUBPIXELS, width, SUBPIXELS)
    # Two sums of one axis each run several times faster than one over both.
    counts: Values = blocks.sum(axis=1, dtype=np.uint8).sum(axis=2, dtype=np.uint8)
    return counts
