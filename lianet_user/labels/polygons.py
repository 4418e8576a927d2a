"""The features of a layer -> valid polygons in the region's CRS, and what became of the others."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas
import numpy as np
import pandas as pd
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from lianet_user.errors import AreaError, LabelError
from lianet_user.grid import Bounds, bounds_in, bounds_of, crs_name, format_bounds
from lianet_user.labels.palette import normalized_color
from lianet_user.labels.rasterize import Geometries, Mask
from lianet_user.labels.report import FeatureCounts
from lianet_user.labels.vector import VectorLayer

LONLAT = CRS("EPSG:4326")
POLYGON, MULTIPOLYGON, COLLECTION = 3, 6, 7  # shapely.GeometryType


@dataclass(frozen=True, eq=False)
class Polygons:
    """The features that lie in the region, have a label, and are not there twice."""

    geometries: Geometries
    """(features,) Polygon or MultiPolygon in the region's CRS, valid, not clipped to the region."""
    labels: list[str]
    """(features,) the label of each."""
    colors: dict[str, str]
    """Colours that the file gives (``#rrggbb``), of the classes whose features agree on one."""
    counts: FeatureCounts


def polygons_in_region(layer: VectorLayer, geobox: GeoBox) -> Polygons:
    """Keep what can be used and count the rest.

    A feature that cannot be used is counted under the first of these that applies: no geometry, not a polygon, no
    label, outside, duplicate. Edges stay straight between their vertices when they are reprojected.

    Raises:
        LabelError: no feature can be used.
    """
    geometries, labels = layer.geometries, layer.labels
    # Bounds are NaN for a missing or empty geometry.
    finite = np.isfinite(shapely.bounds(geometries)).all(axis=1)
    polygonal = _polygonal(geometries)
    _refuse_other_kinds(layer, geometries[finite], polygonal[finite])
    labelled = labels.notna().to_numpy()
    fates = np.select([~finite, ~polygonal, ~labelled], ["no_geometry", "not_polygons", "no_label"], "outside")
    candidates = np.flatnonzero(fates == "outside")
    if not len(candidates):
        raise LabelError(
            f"{layer.path}: none of the {len(geometries)} features of layer {layer.name!r} has both a polygon and a"
            f" label in the column {layer.column.name!r}: fill it in, or choose another with --field"
        )
    outside_error = _outside_error(layer, geometries[candidates], geobox)

    try:
        surroundings = _surroundings(geobox, layer.crs)
    except AreaError as error:
        raise outside_error from error
    boxes = shapely.box(*shapely.bounds(geometries[candidates]).T)
    candidates = candidates[shapely.intersects(boxes, surroundings)]
    valid, repaired = _repair(geometries[candidates])
    moved = _reproject(_cut(valid, surroundings), layer.crs, geobox)
    region = geobox.extent.geom
    inside = shapely.intersects(region, moved)
    twins = pd.DataFrame({"shape": shapely.to_wkb(shapely.normalize(moved)), "label": labels.iloc[candidates].array})
    duplicate = inside & twins.duplicated().to_numpy()
    used = inside & ~duplicate
    if not used.any():
        raise outside_error
    fates[candidates[shapely.is_empty(valid)]] = "no_geometry"
    fates[candidates[duplicate]] = "duplicates"
    fates[candidates[used]] = "used"

    kept = labels.iloc[candidates[used]]
    return Polygons(
        geometries=moved[used],
        labels=list(kept),
        colors={} if layer.colors is None else _agreed_colors(kept, layer.colors.iloc[candidates[used]]),
        counts=FeatureCounts(
            read=len(fates),
            used=int(used.sum()),
            outside=int((fates == "outside").sum()),
            no_geometry=int((fates == "no_geometry").sum()),
            not_polygons=int((fates == "not_polygons").sum()),
            no_label=int((fates == "no_label").sum()),
            duplicates=int(duplicate.sum()),
            partly_outside=int((used & ~shapely.covers(region, moved)).sum()),
            repaired=int((used & repaired).sum()),
        ),
    )


def _polygonal(geometries: Geometries) -> Mask:
    """Which geometries are polygons or collections that hold one."""
    kinds = shapely.get_type_id(geometries)
    polygonal: Mask = (kinds == POLYGON) | (kinds == MULTIPOLYGON)
    for index in np.flatnonzero(kinds == COLLECTION):
        polygonal[index] = len(_parts(geometries[index])) > 0
    return polygonal


def _parts(geometry: shapely.Geometry) -> Geometries:
    """The polygons of a geometry, however deep they lie in collections."""
    parts = shapely.get_parts(geometry)
    while (shapely.get_type_id(parts) > POLYGON).any():
        parts = shapely.get_parts(parts)
    polygons: Geometries = parts[shapely.get_type_id(parts) == POLYGON]
    return polygons


def _refuse_other_kinds(layer: VectorLayer, geometries: Geometries, polygonal: Mask) -> None:
    if len(geometries) and not polygonal.any():
        kinds = ", ".join(sorted({geometry.geom_type for geometry in geometries}))
        raise LabelError(
            f"{layer.path}: layer {layer.name!r} holds {kinds} and no polygons: only polygons are supported, so draw or"
            " buffer them to the area that each label describes"
        )


def _surroundings(geobox: GeoBox, crs: CRS) -> shapely.Geometry:
    """The region's box in another CRS with its own size around it; in two parts if it crosses the antimeridian.

    Raises:
        AreaError: the region cannot be expressed in that CRS.
    """
    west, south, east, north = bounds_of(geobox, crs)
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    margin = max(north - south, *(right - left for left, right in spans))
    boxes = [shapely.box(left - margin, south - margin, right + margin, north + margin) for left, right in spans]
    return shapely.union_all(boxes)


def _repair(geometries: Geometries) -> tuple[Geometries, Mask]:
    """Valid polygons and multipolygons, and which were invalid before. One that collapses to a line becomes empty."""
    invalid = ~shapely.is_valid(geometries)
    valid = geometries.copy()
    # "structure" keeps an area that an outline passes twice, where "linework" would make a hole of it.
    valid[invalid] = shapely.make_valid(geometries[invalid], method="structure", keep_collapsed=False)
    return _without_other_parts(valid), invalid


def _cut(geometries: Geometries, surroundings: shapely.Geometry) -> Geometries:
    """Without what lies far from the region: a country-wide outline is slow to reproject, if it can be at all."""
    cut = geometries.copy()
    wide = ~shapely.covers(surroundings, geometries)
    cut[wide] = shapely.intersection(geometries[wide], surroundings)
    return _without_other_parts(cut)


def _without_other_parts(geometries: Geometries) -> Geometries:
    """Collections reduced to the polygons they hold."""
    for index in np.flatnonzero(shapely.get_type_id(geometries) == COLLECTION):
        geometries[index] = shapely.union_all(_parts(geometries[index]))
    return geometries


def _reproject(geometries: Geometries, crs: CRS, geobox: GeoBox) -> Geometries:
    assert geobox.crs is not None
    moved: Geometries = geopandas.GeoSeries(geometries, crs=crs.proj).to_crs(geobox.crs.proj).to_numpy()
    return moved


def _agreed_colors(labels: pd.Series, colors: pd.Series) -> dict[str, str]:
    agreed = {}
    for name, group in colors.fillna("").groupby(labels.to_numpy()):
        found = {normalized_color(text) for text in group.unique()}
        if len(found) == 1 and (color := found.pop()):
            agreed[str(name)] = color
    return agreed


def _outside_error(layer: VectorLayer, geometries: Geometries, geobox: GeoBox) -> LabelError:
    """Why no label lies in the region, as far as the extents tell."""
    assert geobox.crs is not None
    west, south, east, north = map(float, shapely.total_bounds(geometries))
    extent = west, south, east, north
    degrees = max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 90
    if degrees != layer.crs.geographic:
        seem, kind = ("look like", "projected") if degrees else ("are not", "geographic")
        return LabelError(
            f"{layer.path}: the coordinates ({format_bounds(extent)}) {seem} degrees, but the CRS that the file states"
            f" is {kind} ({crs_name(layer.crs)}): assign the one they are in, for instance with QGIS or ogr2ogr -a_srs"
        )
    own, region = geobox.crs, bounds_of(geobox)
    return LabelError(
        f"{layer.path}: all labels lie outside the region. The labels cover {_extent(extent, layer.crs, LONLAT)}"
        f" ({_extent(extent, layer.crs, own)}), the region {_extent(region, own, LONLAT)}"
        f" ({_extent(region, own, own)}): choose the region they lie in, or check their CRS"
    )


def _extent(bounds: Bounds, crs: CRS, shown: CRS) -> str:
    try:
        return f"{format_bounds(bounds_in(bounds, crs, shown))} in {crs_name(shown)}"
    except AreaError:
        return f"not expressible in {crs_name(shown)}"
