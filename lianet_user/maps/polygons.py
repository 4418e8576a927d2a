"""A finished map of classes as polygons: neighbours share their borders, before and after smoothing.

GDAL traces the outlines with two rows of the map in memory. All polygons are in memory, because shared borders are smoothed
together, each once for the two polygons that share it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import shapes

from lianet_user.errors import MapError, OutputError
from lianet_user.geo.ground_area import Ground
from lianet_user.maps.geopackage import categories_qml, check_geopackage, write_geopackage
from lianet_user.maps.geotiff import FinishedMap, open_finished, opened

SMOOTHED = 2.0
"""Pixels. Removes the stair steps of most borders; on a land-cover map of the Havelland 2 % of the area changed its class."""
BATCH = 20_000
"""Polygons that are processed at once."""
LAYER = "polygons"

Geometries = NDArray[np.object_]


@dataclass(frozen=True)
class PolygonsResult:
    """The polygons that were written."""

    path: Path
    polygons: int
    hectares: dict[str, float]
    """Area of each class that occurs, by name, in the order of their values."""
    vertices: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "polygons": str(self.path),
            "count": self.polygons,
            "vertices": self.vertices,
            "hectares": self.hectares,
            "seconds": round(self.seconds, 1),
        }


def polygons(
    map_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    simplify: float = SMOOTHED,
    overwrite: bool = False,
) -> PolygonsResult:
    """Write the areas of a map's classes as polygons to a GeoPackage, in the map's CRS and with its colours for QGIS.

    A polygon is an area of one class whose pixels are connected by their edges. Its fields are ``class`` (the name),
    ``code`` (its code in the labels, or its value in the map) and ``area_ha``, the hectares of its pixels on the ground.
    Smoothing moves a border by a pixel or two, for both polygons that share it, so that no gap or overlap arises; the outline
    of the mapped area stays as it is.

    Args:
        map_path: a map of classes.
        output: ``*.gpkg``.
        simplify: in pixels, the square root of the area of the largest triangle that is cut off or filled; 0 keeps the pixels'
            edges.
        overwrite: replace an earlier file.

    Raises:
        MapError: the map cannot be read, holds numbers, or has no pixel with a class.
        OutputError: the file exists or cannot be written.
    """
    started = time.monotonic()
    output = Path(output)
    if not simplify >= 0 or not np.isfinite(simplify):
        raise OutputError(f"`simplify` {simplify:g}: expected pixels, 0 or more")
    source = open_finished(map_path)
    if source.classes is None:
        raise MapError(f"{source.path} is a map of numbers: polygons are made of classes")
    check_geopackage(output, overwrite)
    ground = Ground(source.geobox)
    outlines, values = pixel_outlines(source)
    if not len(outlines):
        raise MapError(f"{source.path} has no pixel with a class: there is nothing to make polygons of")
    hectares = ground.areas(outlines)
    outlines = with_shared_vertices(outlines)
    if simplify:
        # The outer boundary stays: there is no neighbour whose border could move with it.
        outlines = np.asarray(shapely.coverage_simplify(outlines, simplify, simplify_boundary=False), object)
    entries = {int(value): source.class_of(int(value)) for value in np.unique(values)}
    write_geopackage(
        output,
        LAYER,
        _batches(source, outlines, values, hectares),
        geometry_type="Polygon",
        style=categories_qml("class", list(entries.values())),
        metadata={"ATTRIBUTION": source.attribution, "MAP": source.path.name},
    )
    return PolygonsResult(
        path=output,
        polygons=len(outlines),
        hectares={entry.name: float(hectares[values == value].sum()) for value, entry in entries.items()},
        vertices=int(shapely.get_num_coordinates(outlines).sum()),
        seconds=time.monotonic() - started,
    )


def pixel_outlines(source: FinishedMap) -> tuple[Geometries, NDArray[np.int64]]:
    """Trace the areas of a map along the edges of its pixels.

    Returns:
        (areas,) polygons in whole (column, row); (areas,) the value of each.
    """
    rings, values = [np.zeros((0, 2))], []
    last_ring = [0]
    with opened(source.path) as dataset, rasterio.Env(GDAL_CACHEMAX=64):  # MB: lines are read once
        for shape, value in shapes(rasterio.band(dataset, source.band)):
            if value != source.nodata:
                rings += [np.array(ring) for ring in shape["coordinates"]]
                last_ring.append(len(rings) - 1)
                values.append(int(value))
    points = np.rint(_transformed(~source.geobox.affine, np.concatenate(rings)))
    ends = np.cumsum([len(ring) for ring in rings])
    outlines = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (ends, np.array(last_ring)))
    return outlines, np.array(values, np.int64)


def with_shared_vertices(outlines: Geometries) -> Geometries:
    """Add a vertex to each area wherever a neighbour has one, so that GEOS recognises shared borders.

    Args:
        outlines: (areas,) polygons with whole coordinates and edges along the axes.
    """
    corners = np.unique(_codes(shapely.get_coordinates(outlines)))
    shared = np.empty(len(outlines), object)
    for start in range(0, len(outlines), BATCH):
        dense = shapely.segmentize(outlines[start : start + BATCH], 1.0)
        kind, points, offsets = shapely.to_ragged_array(dense)
        points = np.rint(points)
        codes = _codes(points)
        is_corner = corners[np.minimum(np.searchsorted(corners, codes), len(corners) - 1)] == codes
        before = np.concatenate([[0], np.cumsum(is_corner)])
        rings, *parts = offsets
        shared[start : start + BATCH] = shapely.from_ragged_array(kind, points[is_corner], (before[rings], *parts))
    return shared


def _codes(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """A number for each whole (column, row)."""
    columns, rows = points.astype(np.int64).T
    return np.asarray(rows * 2**32 + columns)


def _batches(
    source: FinishedMap, outlines: Geometries, values: NDArray[np.int64], hectares: NDArray[np.float64]
) -> Iterator[geopandas.GeoDataFrame]:
    for start in range(0, len(outlines), BATCH):
        part = slice(start, start + BATCH)
        entries = [source.class_of(value) for value in values[part].tolist()]
        yield geopandas.GeoDataFrame(
            {
                "class": [entry.name for entry in entries],
                "code": [entry.code or str(value) for entry, value in zip(entries, values[part].tolist(), strict=True)],
                "area_ha": hectares[part],
            },
            geometry=shapely.transform(outlines[part], lambda points: _transformed(source.geobox.affine, points)),
            crs=_crs(source.geobox),
        )


def _transformed(affine: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply an affine transform to points (n, 2) x, y."""
    return points @ np.array([[affine.a, affine.d], [affine.b, affine.e]]) + (affine.c, affine.f)


def _crs(geobox: GeoBox) -> Any:
    assert geobox.crs is not None
    return geobox.crs.proj
