"""The area on the ground: of a map's pixels, in the plane of a projected grid or else on the ellipsoid, and of any shape."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod, Proj, Transformer

from lianet_user.errors import AreaWarning, MapError
from lianet_user.geo.grid import LONLAT, crs_name

SQUARE_METRES = 10_000.0
"""Square metres in a hectare."""

DISTORTED = 0.01
"""Relative difference between areas on a projected grid and on the ground above which to warn; UTM stays below 0.002."""

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ground:
    """Areas on a grid, in hectares."""

    geobox: GeoBox
    """Projected, or in degrees with its rows along parallels."""

    def __post_init__(self) -> None:
        """Check that areas can be computed.

        Raises:
            MapError: the grid is in degrees and rotated, or has no CRS on the Earth.

        Warns:
            AreaWarning: areas of the projected grid are far from those on the ground.
        """
        crs, affine = self.geobox.crs, self.geobox.affine
        if crs is None or not (crs.projected or crs.geographic):
            raise MapError("the map has no coordinate reference system on the Earth: expected one with it")
        if crs.geographic and (affine.b or affine.d):
            raise MapError("the map's grid is in degrees and turned against the meridians: warp it north up first")
        if crs.projected:
            across, down = pixel_metres(self.geobox)
            ratio = self._metres**2 * abs(affine.determinant) / (across * down)
            if abs(ratio - 1) > DISTORTED:
                message = (
                    f"areas in {crs_name(crs)} are {ratio:.2f} times those on the ground here: hectares are given as the"
                    " grid has them"
                )
                warnings.warn(AreaWarning(message), stacklevel=3)

    @property
    def _metres(self) -> float:
        """Metres in a unit of the projected CRS."""
        assert self.geobox.crs is not None
        return float(self.geobox.crs.proj.axis_info[0].unit_conversion_factor)

    def flattened(self, points: Points) -> Points:
        """Map columns and rows (n, 2) to a plane (n, 2) whose unit of area is a hectare.

        In degrees this is Lambert's cylindrical equal-area projection on the CRS's own ellipsoid: parallels and
        meridians, which are the edges of pixels, stay straight, so that areas of whole pixels are exact.
        """
        crs, affine = self.geobox.crs, self.geobox.affine
        assert crs is not None
        if crs.projected:
            across = self._metres**2 * abs(affine.determinant) / SQUARE_METRES
            return points * (across, 1.0)
        unit = np.degrees(crs.proj.axis_info[0].unit_conversion_factor)
        longitude = (affine.a * points[:, 0] + affine.c) * unit
        latitude = np.clip((affine.e * points[:, 1] + affine.f) * unit, -90, 90)
        ellipsoid = crs.proj.ellipsoid
        assert ellipsoid is not None
        a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
        _, y = Proj(proj="cea", a=a, b=b)(np.zeros(len(points)), latitude)
        return np.column_stack([np.radians(longitude) * a / SQUARE_METRES, y])

    @property
    def rows(self) -> NDArray[np.float64]:
        """(height,) hectares of a pixel in each row."""
        height, _ = self.geobox.shape
        edges = np.arange(height + 1.0)
        left = self.flattened(np.column_stack([np.zeros(height + 1), edges]))
        right = self.flattened(np.column_stack([np.ones(height + 1), edges]))
        return np.abs(np.diff(left[:, 1])) * np.abs(right[:-1, 0] - left[:-1, 0])


def pixel_metres(geobox: GeoBox) -> tuple[float, float]:
    """Width and height in metres on the ground of the pixel in the middle of a grid, whatever its CRS's units."""
    assert geobox.crs is not None
    height, width = geobox.shape
    places = [(width / 2, height / 2), (width / 2 + 1, height / 2), (width / 2, height / 2 + 1)]
    x, y = zip(*(geobox.affine @ place for place in places), strict=True)
    longitudes, latitudes = Transformer.from_crs(geobox.crs.proj, "EPSG:4326", always_xy=True).transform(x, y)
    geod = Geod(ellps="WGS84")
    across, down = (geod.inv(longitudes[0], latitudes[0], longitudes[other], latitudes[other])[2] for other in (1, 2))
    return float(across), float(down)


def ground_area(shape: shapely.Geometry, crs: CRS) -> float:
    """Square metres on the ellipsoid that a shape covers, its vertices joined by geodesics."""
    to_degrees = Transformer.from_crs(crs.proj, LONLAT.proj, always_xy=True)
    moved = shapely.transform(shape, lambda points: np.column_stack(to_degrees.transform(*points.T)))
    # Each outline by itself: the direction in which it was drawn has no meaning here.
    return float(sum(_outline_area(each) for each in shapely.get_parts(moved)))


def _outline_area(polygon: shapely.Polygon) -> float:
    geod = Geod(ellps="WGS84")
    rings = [abs(geod.geometry_area_perimeter(shapely.Polygon(ring))[0]) for ring in shapely.get_rings(polygon)]
    return rings[0] - sum(rings[1:])
