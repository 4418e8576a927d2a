"""The area on the ground: of a map's pixels and of any shape, on the ellipsoid of WGS 84, whatever the CRS.

Every command that counts hectares or square metres asks here, so that they agree. A map's grid says nothing of areas: a square
kilometre of EPSG:3857 is .37 square kilometres on the ground in Berlin, and one of UTM up to a thousandth more or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from lianet_user.errors import MapError
from lianet_user.geo.grid import LONLAT, Window

SQUARE_METRES = 10_000.0
"""Square metres in a hectare."""
STEP = 2_000.0
"""Metres between the places where a grid's pixels are measured; between them areas are interpolated, to better than 1e-6."""
ELLIPSOID = Geod(ellps="WGS84")

Points = NDArray[np.float64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ground:
    """The ground below a grid of any CRS on the Earth, turned or sheared or not, in hectares.

    Pixels are measured at nodes about :data:`STEP` apart, in an equal-area projection around the grid's middle.
    """

    geobox: GeoBox

    def __post_init__(self) -> None:
        """Check that areas can be computed.

        Raises:
            MapError: the grid has no CRS on the Earth, or its middle has no place there.
        """
        crs = self.geobox.crs
        if crs is None or not (crs.projected or crs.geographic):
            raise MapError("the map has no coordinate reference system on the Earth: expected one with it")
        if not np.isfinite(self._middle).all():
            raise MapError("the map's grid lies outside its own coordinate reference system: check where it was placed")

    @cached_property
    def _middle(self) -> Points:
        """(longitude, latitude) of the grid's middle."""
        height, width = self.geobox.shape
        assert self.geobox.crs is not None
        return _degrees(self.geobox.crs, _on_map(self.geobox, np.array([[width / 2, height / 2]])))[0]

    @cached_property
    def _nodes(self) -> tuple[Numbers, Numbers, Numbers]:
        """Columns (n,), rows (m,) and the hectares of a pixel around each of their crossings (m, n)."""
        height, width = self.geobox.shape
        longest = max(*pixel_metres(self.geobox), 1e-9)
        step = max(1, int(STEP / longest))
        columns, rows = (np.append(np.arange(0, side, step), side).astype(np.float64) for side in (width, height))
        across, down = np.meshgrid(columns, rows)
        places = np.stack([across, down], -1)[..., None, :] + np.array(
            [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]
        )
        assert self.geobox.crs is not None
        degrees = _degrees(self.geobox.crs, _on_map(self.geobox, places.reshape(-1, 2)))
        corners = np.column_stack(_flat(self._middle).transform(*degrees.T)).reshape(places.shape)
        (ax, ay), (bx, by) = (np.moveaxis(corners[..., far, :] - corners[..., far - 2, :], -1, 0) for far in (2, 3))
        hectares = np.abs(ax * by - ay * bx) / 2 / SQUARE_METRES
        return columns, rows, np.where(np.isfinite(hectares), hectares, 0.0)  # off the Earth there is no ground

    def pixels(self, window: Window) -> Numbers:
        """(height, width) hectares of the pixels of a window of the grid."""
        columns, rows, nodes = self._nodes
        upper, down = _between(rows, np.arange(window.row, window.row_end, dtype=np.float64) + 0.5)
        along = nodes[upper] + (nodes[upper + 1] - nodes[upper]) * (down / np.diff(rows)[upper])[:, None]
        left, right = _between(columns, np.arange(window.col, window.col_end, dtype=np.float64) + 0.5)
        before: Numbers = along[:, left]
        return before + (along[:, left + 1] - before) * (right / np.diff(columns)[left])

    def at(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> Numbers:
        """(n,) hectares of the pixels at rows and columns (n,)."""
        columns, lines, nodes = self._nodes
        upper, down = _between(lines, rows + 0.5)
        left, right = _between(columns, cols + 0.5)
        below, across = down / np.diff(lines)[upper], right / np.diff(columns)[left]
        first, second = (
            nodes[upper, side] + (nodes[upper + 1, side] - nodes[upper, side]) * below for side in (left, left + 1)
        )
        return np.asarray(first + (second - first) * across, np.float64)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Hectares of the smallest and of the largest pixel of the grid that lies on the Earth."""
        nodes = self._nodes[2]
        return float(nodes[nodes > 0].min()), float(nodes.max())

    def areas(self, outlines: NDArray[np.object_]) -> Numbers:
        """(outlines,) hectares of polygons in (column, row) that follow the edges of pixels: the sums of their pixels."""
        step = float(np.diff(self._nodes[1]).max())
        return np.asarray(shapely.area(shapely.transform(shapely.segmentize(outlines, step), self._flattened)))

    def _flattened(self, points: Points) -> Points:
        """Map columns and rows (n, 2) to a plane (n, 2) whose unit of area is a hectare: rows stay, columns are integrated."""
        columns, rows, nodes = self._nodes
        upper, down = _between(rows, points[:, 1])
        left, right = _between(columns, points[:, 0])
        width, height = np.diff(columns), np.diff(rows)
        sums = np.zeros(nodes.shape)
        np.cumsum((nodes[:, 1:] + nodes[:, :-1]) / 2 * width, axis=1, out=sums[:, 1:])

        def along(row: NDArray[np.intp]) -> Numbers:
            slope = (nodes[row, left + 1] - nodes[row, left]) / width[left]
            return np.asarray(sums[row, left] + nodes[row, left] * right + slope * right**2 / 2)

        first, share = along(upper), down / height[upper]
        return np.column_stack([first + (along(upper + 1) - first) * share, points[:, 1]])


def pixel_metres(geobox: GeoBox) -> tuple[float, float]:
    """Width and height in metres on the ground of the pixel in the middle of a grid, whatever its CRS's units."""
    assert geobox.crs is not None
    height, width = geobox.shape
    places = np.array([(width / 2, height / 2), (width / 2 + 1, height / 2), (width / 2, height / 2 + 1)])
    (x, y), *others = _degrees(geobox.crs, _on_map(geobox, places))
    across, down = (ELLIPSOID.inv(x, y, *other)[2] for other in others)
    return float(across), float(down)


def densified(shapes: NDArray[np.object_], crs: CRS) -> NDArray[np.object_]:
    """Shapes with so many vertices that areas hardly depend, by less than 1e-6, on the CRS in which edges are straight."""
    unit = crs.proj.axis_info[0].unit_conversion_factor * (ELLIPSOID.a if crs.geographic else 1.0)
    # An edge bends by the square of its length, and smaller shapes suffer less.
    around = np.maximum(shapely.length(shapes) * unit, 1e-6)
    return np.asarray(shapely.segmentize(shapes, np.sqrt(around) / unit), object)


def ground_areas(shapes: NDArray[np.object_], crs: CRS) -> Numbers:
    """(shapes,) square metres on the ellipsoid that polygons and multipolygons cover, their edges straight in their CRS."""
    parts, of = shapely.get_parts(shapes, return_index=True)
    dense = densified(parts, crs)
    places = _degrees(crs, shapely.get_coordinates(dense))
    flat = _flat(places[0]).transform(*places.T)
    return np.asarray(
        np.bincount(of, shapely.area(shapely.set_coordinates(dense, np.column_stack(flat))), len(shapes)), np.float64
    )


def _flat(around: Points) -> Transformer:
    """From longitude and latitude to metres of an equal-area projection around a place, which breaks only at its antipode.

    Shapely's areas in it keep all digits; sums over geodesics are right to a tenth of a square metre a vertex.
    """
    longitude, latitude = around
    return Transformer.from_crs(
        LONLAT.proj, f"+proj=laea +lat_0={latitude:.12f} +lon_0={longitude:.12f} +ellps=WGS84", always_xy=True
    )


def _on_map(geobox: GeoBox, points: Points) -> Points:
    """Columns and rows (n, 2) as x and y in the grid's CRS (n, 2)."""
    a, b, c, d, e, f = geobox.affine[:6]
    return points @ np.array([[a, d], [b, e]]) + (c, f)


def _degrees(crs: CRS, points: Points) -> Points:
    """x and y in a CRS (n, 2) as longitude and latitude on WGS 84 (n, 2)."""
    to_degrees = Transformer.from_crs(crs.proj, LONLAT.proj, always_xy=True)
    return np.column_stack(to_degrees.transform(points[:, 0], points[:, 1]))


def _between(nodes: Numbers, places: NDArray[np.floating[Any]]) -> tuple[NDArray[np.intp], Numbers]:
    """The node before each place, never the last one, and how far behind it the place lies."""
    before = np.clip(np.searchsorted(nodes, places, "right") - 1, 0, len(nodes) - 2)
    return before, np.asarray(places - nodes[before], np.float64)
