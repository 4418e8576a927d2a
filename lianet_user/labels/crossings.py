"""Which pixels points lie in, lines run through, and polygons share ground with only in part.

GDAL's `all_touched` also burns pixels that a line meets at a corner, and misses others: these are exact. Geometries are in
pixel coordinates; every answer is three arrays: index of the geometry, row, column, each combination once. Pixels beyond
the grid are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

SHORTEST = 1e-9
"""Pixels. A shorter piece is a corner that two coordinates met at, but for rounding."""

Geometries = NDArray[np.object_]
Pixels = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


def pixels_of_points(points: Geometries, shape: tuple[int, int]) -> Pixels:
    """The pixels that points and multipoints lie in; each holds its top and left edge."""
    places, of = shapely.get_coordinates(points, return_index=True)
    return _pixels(places, of, shape)


def pixels_along(lines: Geometries, shape: tuple[int, int]) -> Pixels:
    """The pixels that lines run through over some length; along the edge of two, the one below or to the right."""
    places, of = _pieces(lines, shape)
    return _pixels(places, of, shape)


def pixels_on_outline(polygons: Geometries, shape: tuple[int, int]) -> Pixels:
    """The pixels whose inside the outlines of polygons run through: polygons share some of their ground, but not all."""
    places, of = _pieces(shapely.boundary(polygons), shape)
    within = (places != np.floor(places)).all(axis=1)
    return _pixels(places[within], of[within], shape)


def _pieces(lines: Geometries, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
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


def _pixels(places: NDArray[Any], of: NDArray[np.intp], shape: tuple[int, int]) -> Pixels:
    height, width = shape
    cols, rows = np.floor(places).T
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    pixels = rows[inside].astype(np.intp) * width + cols[inside].astype(np.intp)
    index, pixel = np.divmod(np.unique(of[inside].astype(np.intp) * (height * width) + pixels), height * width)
    row, col = np.divmod(pixel, width)
    return index, row, col
