"""Features in parts, and the ground that they cover on a grid of pixels and sub-pixels.

Polygons are burned; lines and points claim the whole pixels that they run through or lie in. GDAL's `all_touched` also
burns pixels that a line meets at a corner, and misses others: the pixels here are exact. Geometries are in pixel
coordinates. Functions that find pixels return three arrays, each combination once: index of the geometry, row, and
column. Pixels beyond the grid are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from lianet_user.geo.grid import Window
from lianet_user.labels.label_options import Rule

PLACES = 6
"""Decimal places of pixel coordinates: an edge drawn along pixel edges must not cross them by rounding."""

COLLECTION = 7  # shapely.GeometryType

SHORTEST = 1e-9
"""Pixels: a shorter piece of a line is a corner of a pixel that it only touches, up to rounding."""

Geometries = NDArray[np.object_]
Indices = NDArray[np.intp]
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
    strings, of = shapely.get_parts(near, return_index=True)
    points, string = shapely.get_coordinates(strings, return_index=True)
    joined = np.flatnonzero(string[1:] == string[:-1])
    start, step = points[joined], points[joined + 1] - points[joined]

    ends = np.arange(len(joined))
    segments, positions = [ends, ends], [np.zeros(len(joined)), np.ones(len(joined))]
    for axis in (0, 1):
        one, other = start[:, axis], start[:, axis] + step[:, axis]
        first = np.floor(np.minimum(one, other)).astype(np.intp) + 1
        count = np.maximum(np.ceil(np.maximum(one, other)).astype(np.intp) - first, 0)
        segment = np.repeat(ends, count)
        edge = np.arange(len(segment)) + np.repeat(first - (np.cumsum(count) - count), count)
        segments.append(segment)
        positions.append((edge - one[segment]) / step[segment, axis])
    segment, position = np.concatenate(segments), np.concatenate(positions)
    order = np.lexsort((position, segment))
    segment, position = segment[order], position[order]

    share = np.diff(position)
    length = np.hypot(*step.T)[segment[:-1]] * share
    piece = np.flatnonzero((segment[1:] == segment[:-1]) & (length > SHORTEST))
    segment, middle = segment[piece], position[piece] + share[piece] / 2
    return start[segment] + middle[:, None] * step[segment], of[string[joined[segment]]]


def _pixels(places: NDArray[Any], of: Indices, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    cols, rows = np.floor(places).T
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    pixels = rows[inside].astype(np.intp) * width + cols[inside].astype(np.intp)
    index, pixel = np.divmod(np.unique(of[inside].astype(np.intp) * (height * width) + pixels), height * width)
    row, col = np.divmod(pixel, width)
    return index, row, col


# --- Features on a grid of sub-pixels.


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of the grid, and the polygons that reach into it."""

    window: Window
    areas: Indices
    shapes: list[dict[str, Any]]
    """The polygons clipped and as GeoJSON, to which rasterio would otherwise convert them for every burn."""


@dataclass(frozen=True, eq=False)
class Cover:
    """The ground that features cover: inside polygons, and whole pixels that lines, points and outlines claim."""

    shape: tuple[int, int]
    areas: Geometries
    """(areas,) polygons and multipolygons."""
    bounds: NDArray[np.float64]
    """(areas, 4) left, top, right and bottom."""
    feature: Indices
    """(areas,) the feature that each belongs to."""
    claimant: Indices
    """(claims,) the feature that claims a pixel."""
    row: Indices
    col: Indices
    measured: Mask
    """(claims,) whether a line or point claims it, and not the outline of a polygon."""

    def tile(self, window: Window) -> Tile:
        """Select and clip the polygons that reach into a window."""
        row, col, row_end, col_end = window.row, window.col, window.row_end, window.col_end
        left, top, right, bottom = self.bounds.T
        here = np.flatnonzero((right > col) & (left < col_end) & (bottom > row) & (top < row_end))
        shapes = self.areas[here]
        wide = (left[here] < col) | (right[here] > col_end) | (top[here] < row) | (bottom[here] > row_end)
        # Burning takes as long as rows times vertices. The margin keeps edges that are cut out of the tile.
        shapes[wide] = shapely.clip_by_rect(shapes[wide], col - 1, row - 1, col_end + 1, row_end + 1)
        there = ~shapely.is_empty(shapes)
        return Tile(window, here[there], [shape.__geo_interface__ for shape in shapes[there]])


def cover_of(parts: Parts, shape: tuple[int, int], rule: Rule) -> Cover:
    """Find what features cover: polygons by their bounds, and the pixels that lines, points and outlines claim.

    Args:
        parts: of the features, in pixel coordinates.
        shape: height and width of the grid in pixels.
        rule: under `all-touched` the outlines of polygons claim pixels too.
    """
    polygons, lines, points = (np.flatnonzero(parts.dimension == each) for each in (2, 1, 0))
    areas = parts.geometries[polygons]
    claims = [
        (lines, pixels_along(parts.geometries[lines], shape)),
        (points, pixels_of_points(parts.geometries[points], shape)),
    ]
    if rule == "all-touched":
        claims.append((polygons, pixels_on_outline(areas, shape)))
    return Cover(
        shape=shape,
        areas=areas,
        bounds=shapely.bounds(areas).reshape(-1, 4),
        feature=parts.feature[polygons],
        claimant=np.concatenate([parts.feature[kind[of]] for kind, (of, _, _) in claims]),
        row=np.concatenate([row for _, (_, row, _) in claims]),
        col=np.concatenate([col for _, (_, _, col) in claims]),
        measured=np.concatenate([np.full(len(of), kind is not polygons) for kind, (of, _, _) in claims]),
    )


class RankRaster:
    """For every sub-pixel, the highest rank of the features that cover it: from 1, and 0 where there is none.

    Args:
        cover: of the features.
        ranks: (features,) from 1; with 0 a feature is left out.
        n: sub-pixels along each side of a pixel.
        top: highest value that the data type has to hold.
    """

    def __init__(self, cover: Cover, ranks: NDArray[Any], n: int, top: int = 1) -> None:
        dtype = np.min_scalar_type(max(top, int(ranks.max(initial=1))))
        self.cover, self.n = cover, n
        self.ranks = ranks[cover.feature].astype(dtype)
        self.claimed = np.zeros(cover.shape, dtype)
        np.maximum.at(self.claimed, (cover.row, cover.col), ranks[cover.claimant].astype(dtype))

    def reaches(self, tile: Tile) -> bool:
        """Whether anything may be covered in a tile."""
        return len(tile.areas) > 0 or bool(self.claimed[tile.window.slices].any())

    def over(self, window: Window) -> NDArray[Any]:
        """Compute the ranks in a window: (h * n, w * n)."""
        return self.on(self.cover.tile(window))

    def on(self, tile: Tile) -> NDArray[Any]:
        """Compute the ranks in a tile: (h * n, w * n)."""
        window, n = tile.window, self.n
        ranks = self.ranks[tile.areas]
        # What is burned last stays on top.
        order = np.argsort(ranks, kind="stable")
        shapes = [(tile.shapes[index], rank) for index, rank in zip(order, ranks[order].tolist(), strict=True) if rank]
        burned: NDArray[Any] = rasterize(
            shapes,
            (window.height * n, window.width * n),
            transform=Affine(1 / n, 0, window.col, 0, 1 / n, window.row),
            dtype=self.ranks.dtype,
        )
        claimed = self.claimed[window.slices]
        rows, cols = np.nonzero(claimed)
        pixels = burned.reshape(window.height, n, window.width, n)
        pixels[rows, :, cols, :] = np.maximum(pixels[rows, :, cols, :], claimed[rows, cols, None, None])
        return burned
