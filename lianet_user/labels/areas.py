"""Areas: polygons that delimit what was mapped, what is set aside for a test, what is wanted, or zones to count in."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from lianet_user.errors import LabelError, LabelWarning, listed
from lianet_user.files.header import RegionHeader
from lianet_user.geo.ground_area import ground_areas
from lianet_user.geo.transformation import transformation, warn_of_missing_grids
from lianet_user.labels.cover import Mask, to_pixel_coordinates
from lianet_user.labels.features import Area, area_in_region
from lianet_user.labels.formats import find_format, vector_location
from lianet_user.labels.ground import Geometries
from lianet_user.labels.label_options import LabelOptions
from lianet_user.labels.vector import LATIN1, feature_numbers, layer_crs, layers_of, open_layer

AREA_KINDS = ("Polygon", "Surface", "Unknown", "GeometryCollection")
"""Parts of the names of geometry types that may hold polygons."""
AREA_TYPES = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


def read_area(path: Path) -> Area:
    """Read the polygons that delimit an area, from the only layer that can hold some.

    Raises:
        LabelError: there is no such file or CRS, no layer or several with polygons, or no valid polygon.
    """
    # No column is read, so any encoding will do, and this one can decode everything.
    options = LabelOptions(encoding=LATIN1)
    file_format = find_format(path)
    if file_format.kind in ("vector", "zip"):
        layers = layers_of(path, vector_location(path))
        suitable = [name for name, kind in layers.items() if any(part in kind for part in AREA_KINDS)]
        if not suitable:
            raise LabelError(
                f"{path} has no layer with polygons (it has {listed(list(layers))}): expected the mapped area"
            )
        if len(suitable) > 1:
            raise LabelError(
                f"{path} has {len(suitable)} layers with polygons ({listed(suitable)}): expected only the one with the"
                " mapped area; save it in a file of its own"
            )
        options = replace(options, layer=suitable[0])
    opened = open_layer(path, options, points=False)
    crs, _ = layer_crs(opened, None, optional=False)
    _, geometries, notes = opened.read([])
    geometries, polygons = _polygons_among(geometries)
    if not (polygons & shapely.is_valid(geometries)).any():
        raise LabelError(f"{opened.where} has no valid polygon: expected the outlines of the mapped area")
    if left_out := int((~polygons).sum()):
        notes.append(
            f"Mapped area: {left_out} of {len(polygons)} features of {path.name} are not polygons and are left out"
        )
    return Area(path, crs, geometries[polygons], (*opened.notes, *notes))


def read_zones(path: Path, options: LabelOptions) -> tuple[Area, pd.DataFrame]:
    """Read polygons with all columns of their layer.

    Args:
        path: vectors with nothing but polygons.
        options: how they are to be read: `layer`, `labels_crs` and `encoding` count.

    Returns:
        The polygons, one for each feature, and (features,) the layer's columns after ``zone``: the number that the file
        gives each, or its row from 1 where a format gives none.

    Raises:
        LabelError: there is no such file, layer or CRS, the layer has no features, or one of them is not a valid polygon.
    """
    opened = open_layer(path, options)
    crs, _ = layer_crs(opened, options.labels_crs)
    frame, geometries, notes = opened.read([name for name in opened.kinds if name not in opened.no_labels])
    geometries, polygons = _polygons_among(geometries)
    if not polygons.any():
        raise LabelError(f"{opened.where} has no polygons: expected the outlines of zones")
    bad = np.flatnonzero(~polygons | ~shapely.is_valid(geometries))
    if len(bad):
        first = int(bad[0])
        reason = "a polygon that is not valid" if polygons[first] else "no polygon"
        why = f" ({shapely.is_valid_reason(geometries[first])})" if polygons[first] else ""
        raise LabelError(
            f"{opened.where}: {len(bad)} of {len(geometries)} zones cannot be used, first row {first + 1}, which has"
            f" {reason}{why}: mend or remove it, for instance with Fix geometries of QGIS"
        )
    frame = frame.reset_index(drop=True)
    # A column of this name is meant to number the zones.
    if not any(str(name).casefold() == "zone" for name in frame):
        numbers = feature_numbers(vector_location(path), opened.layer) if opened.layer else np.arange(1, len(frame) + 1)
        frame.insert(0, "zone", numbers)
    return Area(path, crs, geometries, (*opened.notes, *notes)), frame


def _polygons_among(geometries: Geometries) -> tuple[Geometries, Mask]:
    """Geometries without heights, and which of them are polygons."""
    flat: Geometries = shapely.force_2d(geometries)
    return flat, np.isin(shapely.get_type_id(flat), AREA_TYPES) & ~shapely.is_empty(flat)


def read_polygons(path: str | os.PathLike[str], geobox: GeoBox) -> tuple[shapely.Geometry, float]:
    """Read polygons: the part of them that lies on a grid, and how much ground all of them cover.

    Args:
        path: vectors with polygons in a single layer, in any CRS.
        geobox: the grid.

    Returns:
        The part, in the grid's CRS, and square metres on the ellipsoid of all polygons (see :func:`ground_areas`).

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
    return area_in_region(area, geobox, to_grid), float(ground_areas(np.array([union], object), area.crs)[0])


def read_test_area(path: str | os.PathLike[str], region: RegionHeader) -> Mask:
    """The pixels of a region whose centres lie inside the polygons of a file.

    Args:
        path: vectors with polygons in a single layer, in any CRS.
        region: the region's header: its grid.

    Returns:
        bool (height, width) of the region.

    Raises:
        LabelError: as :func:`read_polygons`, or the polygons hold no pixel's centre.

    Warns:
        LabelWarning: as :func:`read_polygons`.
    """
    geobox = region.grid.geobox
    area, _ = read_polygons(path, geobox)
    inside = to_pixel_coordinates(np.array([area], object), geobox)
    mask: Mask = rasterize(inside, out_shape=tuple(geobox.shape), dtype="uint8") > 0
    if not mask.any():
        raise LabelError(f"{path}: the area holds the centre of no pixel of the region: draw a larger one")
    return mask
