"""Features in parts, and the pixels that they cover, wholly or in part.

Polygons cover ground (:mod:`lianet_user.labels.ground`); lines and points claim the whole pixels that they run through or
lie in. GDAL's `all_touched` also burns pixels that a line meets at a corner, and misses others: the pixels here are exact.
Geometries are in pixel coordinates. Functions that find pixels return three arrays, each combination once: index of the
geometry, row, and column. Pixels beyond the grid are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.geo.grid import Window
from lianet_user.labels.ground import Geometries, Ground, Indices, center_ground, edges_of, exact_ground, pieces_of
from lianet_user.labels.label_options import Rule

PLACES = 7
"""Decimal places of pixel coordinates: an edge drawn along pixel edges must not cross them by rounding."""

COLLECTION = 7  # shapely.GeometryType

SHORTEST = 1e-9
"""Pixels: a shorter piece of a line is a corner of a pixel that it only touches, up to rounding."""

Mask = NDArray[np.bool_]
Pixels = tuple[Indices, Indices, Indices]


@dataclass(frozen=True, eq=False)
class Parts:
    """Features by dimension, because polygons, lines and points cover ground in different ways."""

    geometries: Geometries
    """(parts,) Polygon or MultiPolygon, (Multi)LineString, or (Multi)Point, in pixel coordinates, in file order."""
    feature: Indices
    """(parts,) the feature that each belongs to."""
    dimension: NDArray[np.intp]
    """(parts,) 2, 1 or 0."""


def to_pixel_coordinates(geometries: Geometries, geobox: GeoBox) -> Geometries:
    """Geometries in the grid's CRS as (column, row), so that pixel (0, 0) is the unit square at the origin."""
    inverse = ~geobox.affine
    matrix = np.array([[inverse.a, inverse.d], [inverse.b, inverse.e]])
    offset = np.array([inverse.c, inverse.f])
    moved: Geometries = shapely.transform(geometries, lambda points: np.round(points @ matrix + offset, PLACES))
    return moved


def split_parts(geometries: Geometries) -> Parts:
    """Split collections, however deeply nested, and drop what is missing or empty.

    Args:
        geometries: (features,) of any kind, in pixel coordinates.
    """
    parts, feature = geometries, np.arange(len(geometries))
    while (nested := shapely.get_type_id(parts) == COLLECTION).any():
        inner, of = shapely.get_parts(parts[nested], return_index=True)
        parts, feature = np.append(parts[~nested], inner), np.append(feature[~nested], feature[nested][of])
    there = np.flatnonzero(~(shapely.is_missing(parts) | shapely.is_empty(parts)))
    there = there[np.argsort(feature[there], kind="stable")]
    return Parts(parts[there], feature[there], shapely.get_dimensions(parts[there]).astype(np.intp))


def pixels_of_points(points: Geometries, shape: tuple[int, int]) -> Pixels:
    """The pixels that points and multipoints lie in; each holds its top and left edge."""
    places, of = shapely.get_coordinates(points, return_index=True)
    return _pixels(places, of, shape)


def pixels_along(lines: Geometries, shape: tuple[int, int]) -> Pixels:
    """The pixels that lines run through over some length; along the edge of two pixels, the one below or to the right."""
    places, of = _pieces(lines, shape)
    return _pixels(places, of, shape)


def pixels_on_outline(polygons: Geometries, shape: tuple[int, int]) -> Pixels:
    """The pixels whose inside the outlines of polygons run through, so that polygons cover only part of them."""
    places, of = _pieces(shapely.boundary(polygons), shape)
    within = (places != np.floor(places)).all(axis=1)
    return _pixels(places[within], of[within], shape)


def _pieces(lines: Geometries, shape: tuple[int, int]) -> tuple[NDArray[np.float64], Indices]:
    """Lines cut at all edges of pixels: the middle (x, y) of every piece, and the line it belongs to."""
    # A rectangle wider than the grid, because lines along a rectangle's edge are lost.
    near = shapely.clip_by_rect(lines, -1, -1, shape[1] + 1, shape[0] + 1)
    pieces = pieces_of(edges_of(near))
    long = np.hypot(*(pieces.end - pieces.start).T) > SHORTEST
    return (pieces.start[long] + pieces.end[long]) / 2, pieces.of[long]


def _pixels(places: NDArray[Any], of: Indices, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    cols, rows = np.floor(places).T
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    pixels = rows[inside].astype(np.intp) * width + cols[inside].astype(np.intp)
    index, pixel = np.divmod(np.unique(of[inside].astype(np.intp) * (height * width) + pixels), height * width)
    row, col = np.divmod(pixel, width)
    return index, row, col


# --- Features on a grid.


@dataclass(frozen=True, eq=False)
class Cover:
    """The ground that features cover: inside polygons, and whole pixels that lines and points claim."""

    shape: tuple[int, int]
    areas: Geometries
    """(areas,) polygons and multipolygons."""
    bounds: NDArray[np.float64]
    """(areas, 4) left, top, right and bottom."""
    feature: Indices
    """(areas,) the feature that each belongs to."""
    claimant: Indices
    """(claims,) the feature that claims a pixel, row after row."""
    row: Indices
    col: Indices

    def grounds(self, rule: Rule, side: int) -> Iterator[tuple[Window, Ground]]:
        """Find what the features, which it numbers, cover in each window of so many pixels along its sides."""
        height, width = self.shape
        left, top, right, bottom = self.bounds.T
        for row in range(0, height, side):
            row_end = min(row + side, height)
            here = np.flatnonzero((bottom > row) & (top < row_end))
            outlines = edges_of(shapely.boundary(self.areas[here])).between(row - 1, row_end + 1)
            outlines = replace(outlines, of=here[outlines.of])
            claims = slice(*np.searchsorted(self.row, (row, row_end)))
            for window in Window(row, 0, row_end - row, width).tiles(side):
                near = outlines[((right > window.col) & (left < window.col_end))[outlines.of]]
                near = near.pushed(window.col - 1, window.col_end + 1).moved(-window.col, -row)
                shape = (window.height, window.width)
                ground = (center_ground if rule == "center" else exact_ground)(near, shape)
                own = (self.col[claims] >= window.col) & (self.col[claims] < window.col_end)
                pixel = (self.row[claims][own] - row) * window.width + self.col[claims][own] - window.col
                ground = ground.renumbered(self.feature).with_whole(self.claimant[claims][own], pixel, pixel + 1)
                yield window, ground.grown() if rule == "all-touched" else ground


def cover_of(parts: Parts, shape: tuple[int, int]) -> Cover:
    """Find what features cover: polygons by their bounds, and the pixels that lines and points claim.

    Args:
        parts: of the features, in pixel coordinates.
        shape: height and width of the grid in pixels.
    """
    polygons, lines, points = (np.flatnonzero(parts.dimension == each) for each in (2, 1, 0))
    # The inside of an outline lies to the right (in x) where it goes down (in y).
    areas = shapely.orient_polygons(parts.geometries[polygons], exterior_cw=True)
    along, places = pixels_along(parts.geometries[lines], shape), pixels_of_points(parts.geometries[points], shape)
    claimant = parts.feature[np.append(lines[along[0]], points[places[0]])]
    row, col = (np.append(one, other) for one, other in zip(along[1:], places[1:], strict=True))
    order = np.argsort(row, kind="stable")
    bounds = shapely.bounds(areas).reshape(-1, 4)
    return Cover(shape, areas, bounds, parts.feature[polygons], claimant[order], row[order], col[order])
