"""Areas of interest: polygons that delimit what is set aside for a test, or what is mapped."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from rasterio.features import rasterize

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import LONLAT
from lianet_user.geo.transformation import transformation
from lianet_user.labels.features import area_in_region, warn_of_missing_grids
from lianet_user.labels.rasterize import Mask, to_pixel_coordinates
from lianet_user.labels.vector import read_area


def read_polygons(path: str | os.PathLike[str], geobox: GeoBox) -> tuple[shapely.Geometry, float]:
    """Read polygons: the part of them that lies on a grid, and how much ground all of them cover.

    Args:
        path: vectors with polygons in a single layer, in any CRS.
        geobox: the grid.

    Returns:
        The part, in the grid's CRS, and square metres on the ellipsoid of all polygons (see :func:`ground_area`).

    Raises:
        LabelError: the file has no CRS, no polygons or several layers of them, or none reaches the grid.

    Warns:
        LabelWarning: some features are not polygons and are left out, or the coordinates could be more accurate with a grid
            that is not installed.
    """
    path = Path(path)
    area = read_area(path)
    to_grid = transformation(area.crs, geobox)
    warn_of_missing_grids(path, to_grid)
    for note in area.notes:
        warnings.warn(LabelWarning(f"{path}: {note}"), stacklevel=3)
    union = shapely.union_all(shapely.make_valid(area.geometries))
    return area_in_region(area, geobox, to_grid), ground_area(union, area.crs)


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


def read_test_area(path: str | os.PathLike[str], region: RegionHeader) -> Mask:
    """The pixels of a region whose centres lie inside the polygons of a file.

    Args:
        path: vectors with polygons in a single layer, in any CRS.
        region: the region's header: its grid.

    Returns:
        bool (height, width) of the region.

    Raises:
        LabelError: the file has no CRS, no polygons or several layers of them, or none holds the centre of a pixel.

    Warns:
        LabelWarning: some features are not polygons and are left out, or the coordinates could be more accurate with a grid
            that is not installed.
    """
    geobox = region.grid.geobox
    area, _ = read_polygons(path, geobox)
    inside = to_pixel_coordinates(np.array([area], object), geobox)
    mask: Mask = rasterize(inside, out_shape=tuple(geobox.shape), dtype="uint8") > 0
    if not mask.any():
        raise LabelError(f"{path}: the area holds the centre of no pixel of the region: draw a larger one")
    return mask
