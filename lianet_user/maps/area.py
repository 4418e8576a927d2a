"""Where to map: the grid of a map, the ground on it that is mapped, and the share of the requested area outside the region."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_output_geobox
from pyproj import Transformer
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from lianet_user.errors import AreaError, PartlyOutsideWarning, listed
from lianet_user.geo.grid import (
    LONLAT,
    SAME,
    Bounds,
    Window,
    bounds_in,
    bounds_of,
    crs_name,
    format_bounds,
    parse_crs,
    whole,
    window_geobox,
    window_of_bounds,
)
from lianet_user.geo.ground_area import ground_areas
from lianet_user.labels.cover import to_pixel_coordinates

EDGE_POINTS = 100
"""Vertices along each edge of a box that is transformed to another CRS, where straight edges become curves."""


ROUNDING = 1e-6
"""Share of an area below which a difference is due to rounding."""


@dataclass(frozen=True)
class MapArea:
    """The area and the grid that a user asks for; by default the whole region on its own grid."""

    bbox: Bounds | None = None
    """West, south, east, north. Every pixel that it touches is mapped."""
    bbox_crs: str = "EPSG:4326"
    aoi: Path | None = None
    """Vectors with polygons: pixels whose centres lie outside them are nodata."""
    like: Path | None = None
    """Raster whose grid the map adopts exactly."""
    crs: str | None = None
    """CRS of the map; by default the region's."""
    resolution: float | None = None
    """Pixel size of the map in units of its CRS; the region's by default."""
    strict: bool = False
    """Refuse an area that lies partly outside the region."""


@dataclass(frozen=True, eq=False)
class Destination:
    """The grid of a map, and the ground on it that is mapped."""

    geobox: GeoBox
    ground: BaseGeometry | None
    """The mapped ground in pixel coordinates (column, row) of the grid; None where all of the grid is mapped."""
    masked: bool
    """Whether pixels with centres outside `ground` are nodata although a region covers them."""
    outside: float
    """Share of the requested area that lies outside the region: 0 to 1."""

    def touches(self, window: Window) -> bool:
        """Whether any pixel of a window is mapped."""
        return self.ground is None or bool(self.inside(window).any())

    def inside(self, window: Window) -> np.ndarray:
        """bool (height, width): pixels of a window whose centres lie on mapped ground."""
        shape = (window.height, window.width)
        if self.ground is None:
            return np.ones(shape, bool)
        # Clipped, because rasterizing visits every vertex; to a pixel beyond the window, so that no new edge meets a centre.
        box = shapely.box(window.col - 1, window.row - 1, window.col_end + 1, window.row_end + 1)
        if not shapely.intersects(self.ground, box):
            return np.zeros(shape, bool)
        near = _polygons(shapely.intersection(self.ground, box))
        if near.is_empty:
            return np.zeros(shape, bool)
        corner = Affine.translation(window.col, window.row)
        return rasterize([near], out_shape=shape, transform=corner, dtype="uint8") > 0


def destination(area: MapArea, grids: Sequence[GeoBox], names: Sequence[str], step: int = 1) -> Destination:
    """Derive the grid and the mapped ground of a map from the request.

    Args:
        area: the request.
        grids: of the heads, each over its whole region; the first one decides the CRS and the resolution.
        names: of these regions, for messages.
        step: pixels of the first grid along a pixel of its region; pixels of the region are always mapped whole.

    Raises:
        AreaError: arguments contradict each other or are invalid, or the requested area lies outside the regions; with
            `strict`, partly outside.
        LabelError: the polygons cannot be read.

    Warns:
        PartlyOutsideWarning: part of the requested area lies outside the regions.
    """
    _check(area)
    lead = grids[0]
    assert lead.crs is not None
    name = listed([repr(each) for each in dict.fromkeys(names)])
    full = _grid_of(area.like) if area.like is not None else None
    crs = full.crs if full is not None else parse_crs(area.crs, "`crs`") if area.crs is not None else lead.crs
    assert crs is not None
    covered = shapely.union_all(
        [_reprojected(grid.extent.geom, grid.crs, crs) for grid in grids if grid.crs is not None]
    )
    if full is None:
        full = _full_grid(area, lead, crs, covered, len(grids))
    own = area.like is None and len(grids) == 1 and full == lead
    geobox, asked, words = full, covered, "the whole region"
    outside: float | None = None
    if area.bbox is not None:
        window, beyond = window_of_bounds(full, area.bbox, box_crs := parse_crs(area.bbox_crs, "`bbox_crs`"))
        geobox, words = window_geobox(full, _snapped(window, step if own else 1)), "the box"
        if own:
            outside = beyond
        else:
            asked = _reprojected(shapely.box(*area.bbox), box_crs, crs)
    elif area.like is not None:
        asked, words = full.extent.geom, f"the grid of {area.like}"
    mapped = shapely.intersection(asked, covered)
    if area.aoi is not None:
        from lianet_user.labels.areas import read_polygons  # brings geopandas

        polygons, ground = read_polygons(area.aoi, full)
        mapped, words = _polygons(shapely.intersection(mapped, polygons)), f"the area of {area.aoi}"
        outside = 1 - ground_areas(np.array([mapped], object), crs)[0] / ground
        if mapped.area and area.like is None:
            window, _ = window_of_bounds(full, mapped.bounds, crs)
            geobox = window_geobox(full, _snapped(window, step if own else 1))
    if not mapped.area:
        raise AreaError(
            f"{words} lies outside {_regions(names)} {name}: {_covers(grids, names)}: choose one that touches it"
        )
    if outside is None:
        outside = 1 - mapped.area / asked.area
    outside = 0.0 if outside < ROUNDING else outside
    limited = None if own and area.aoi is None else _in_pixels(mapped if area.aoi is not None else covered, geobox)
    result = Destination(geobox, limited, area.aoi is not None, outside)
    tiles = whole(geobox).tiles(2048)
    if limited is not None and not any(result.touches(tile) for tile in tiles):
        raise AreaError(
            f"{words} holds the centre of no pixel of the map: choose a larger one, or a finer `resolution`"
        )
    if outside:
        message = (
            f"{max(outside, 0.001):.1%} of {words} lies outside {_regions(names)} {name} and is not mapped:"
            f" {_covers(grids, names)}"
        )
        if area.strict:
            raise AreaError(f"{message}; `strict` refuses that")
        warnings.warn(message, PartlyOutsideWarning, stacklevel=3)
    return result


def _check(area: MapArea) -> None:
    """Refuse a request that contradicts itself.

    Raises:
        AreaError: arguments contradict each other, or a number is out of range.
    """
    if area.bbox is not None:
        west, south, east, north = area.bbox
        if not (all(map(math.isfinite, area.bbox)) and west < east and south < north):
            raise AreaError(
                f"the box {area.bbox} is empty, inverted or not finite: expected W,S,E,N with W < E and S < N"
            )
        if area.aoi is not None:
            raise AreaError("`bbox` and `aoi` both say where to map: give one of them")
    if area.like is not None:
        others = {"`bbox`": area.bbox, "`crs`": area.crs, "`resolution`": area.resolution}
        if given := [name for name, value in others.items() if value is not None]:
            raise AreaError(f"`like` adopts a grid as it is, and {given[0]} asks for another: give one of them")
    if area.resolution is not None and not (math.isfinite(area.resolution) and area.resolution > 0):
        raise AreaError(f"`resolution` {area.resolution:g}: expected a positive number in units of the map's CRS")


def _grid_of(path: Path) -> GeoBox:
    """Read the grid of a raster.

    Raises:
        AreaError: it is not a georeferenced raster.
    """
    try:
        with rasterio.open(path) as dataset:
            crs, transform, shape = dataset.crs, dataset.transform, dataset.shape
    except RasterioError as error:
        raise AreaError(f"`like` {path} cannot be read as a raster: {error}") from error
    if crs is None or transform.is_degenerate:
        raise AreaError(
            f"`like` {path} is not georeferenced (no coordinate reference system or no transform): assign it, for instance"
            " with gdal_edit or QGIS"
        )
    return GeoBox(shape, transform, parse_crs(crs, f"`like` {path}: its CRS"))


def _full_grid(area: MapArea, lead: GeoBox, crs: CRS, covered: BaseGeometry, regions: int) -> GeoBox:
    """The grid over all regions: an extension of the first one's grid, or a new one with north up."""
    upright = lead.affine.b == lead.affine.d == 0 and lead.affine.a > 0 > lead.affine.e
    same = math.isclose(lead.affine.a, -lead.affine.e) and upright and area.resolution in (None, lead.affine.a)
    if crs == lead.crs and (area.resolution is None or same):
        return lead if regions == 1 else _extended(lead, covered.bounds)
    size = area.resolution if area.resolution is not None else _resolution_in(crs, lead)
    return GeoBox.from_bbox(covered.bounds, crs, resolution=size)


def _resolution_in(crs: CRS, grid: GeoBox) -> float:
    """The pixel size of a grid in another CRS: the same number where that is nearly the same distance on the ground."""
    fitting = abs(compute_output_geobox(grid, crs, resolution="fit").resolution.x)
    own = abs(grid.resolution.x)
    return float(own if abs(own / fitting - 1) < 0.05 else fitting)


def _extended(grid: GeoBox, bounds: Bounds) -> GeoBox:
    """A grid extended by whole pixels on each side until it contains a box in its CRS."""
    west, south, east, north = bounds
    places = [~grid.affine @ corner for corner in ((west, north), (east, north), (west, south), (east, south))]
    cols, rows = zip(*places, strict=True)
    left, top = math.floor(min(cols) + SAME), math.floor(min(rows) + SAME)
    right, bottom = math.ceil(max(cols) - SAME), math.ceil(max(rows) - SAME)
    return GeoBox((bottom - top, right - left), grid.affine @ Affine.translation(left, top), grid.crs)


def _snapped(window: Window, step: int) -> Window:
    """A window enlarged to whole multiples of `step`."""
    row, col = window.row // step * step, window.col // step * step
    return Window(row, col, -(-window.row_end // step) * step - row, -(-window.col_end // step) * step - col)


def _reprojected(shape: BaseGeometry, source: CRS, target: CRS) -> BaseGeometry:
    """Transform a polygon to another CRS; its edges are densified, because straight edges become curves.

    Raises:
        AreaError: it cannot be expressed there, or only in two pieces.
    """
    if source == target:
        return shape
    transformer = Transformer.from_crs(source.proj, target.proj, always_xy=True)
    dense = shapely.segmentize(shape, shape.length / (4 * EDGE_POINTS))
    moved = shapely.transform(dense, lambda points: np.column_stack(transformer.transform(*points.T)))
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise AreaError(
            f"{format_bounds(shape.bounds)} ({crs_name(source)}) cannot be expressed in {crs_name(target)}: choose another"
            " coordinate reference system"
        )
    west, _, east, _ = moved.bounds
    if target.geographic and east - west > 180:
        raise AreaError(
            f"{format_bounds(shape.bounds)} ({crs_name(source)}) crosses the antimeridian in {crs_name(target)}: choose a"
            " coordinate reference system that does not break there"
        )
    return shapely.make_valid(moved)


def _in_pixels(shape: BaseGeometry, geobox: GeoBox) -> BaseGeometry:
    (moved,) = to_pixel_coordinates(np.array([_polygons(shape)], object), geobox)
    valid = _polygons(shapely.make_valid(moved))
    shapely.prepare(valid)
    return valid


def _polygons(shape: BaseGeometry) -> BaseGeometry:
    """The polygons of a geometry, without the points and lines that intersections leave where shapes only touch."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.multipolygons(parts[shapely.get_dimensions(parts) == 2])


def _regions(names: Sequence[str]) -> str:
    return "the region" if len(set(names)) == 1 else "the regions"


def _covers(grids: Sequence[GeoBox], names: Sequence[str]) -> str:
    """The bounds of the regions in degrees, for messages."""
    boxes = {}
    for grid, name in zip(grids, names, strict=True):
        assert grid.crs is not None
        boxes[name] = format_bounds(bounds_in(bounds_of(grid), grid.crs, LONLAT))
    if len(boxes) == 1:
        return f"the region covers {next(iter(boxes.values()))} (EPSG:4326)"
    return "; ".join(f"{name} covers {box}" for name, box in boxes.items()) + " (EPSG:4326)"
