"""The features of a layer -> valid geometries in the region's CRS, and counts of what became of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from lianet_user.errors import AreaError, LabelError
from lianet_user.geo.grid import (
    LONLAT,
    Bounds,
    bounds_in,
    bounds_of,
    crs_name,
    format_bounds,
    in_degrees,
    touches,
    zone_advice,
    zone_in_front,
)
from lianet_user.geo.transformation import Transformation
from lianet_user.labels.cover import (
    Mask,
    Parts,
    pixels_along,
    pixels_of_points,
    split_parts,
    to_pixel_coordinates,
)
from lianet_user.labels.ground import Geometries
from lianet_user.labels.label_map import FeatureCounts
from lianet_user.labels.vector import VectorLayer

BEND = 0.01
"""Pixels that an edge may be off when only its ends are reprojected: a longer one gets vertices in between."""

FATES = ("used", "no_geometry", "not_polygons", "no_label", "excluded", "no_date", "outside", "duplicates")
BLOCKING = ("no_label", "excluded", "no_date")
"""Fates of features that lie in the region, but whose label at its dates is not known."""


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons that delimit an area, for instance the one that was mapped."""

    path: Path
    crs: CRS
    geometries: Geometries
    """(polygons,) polygons and multipolygons, not all of which need be valid; at least one is."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Features:
    """The features that lie in the region and can be used, each once."""

    geometries: Geometries
    """(features,) of any kind in the region's CRS, valid, not clipped to the region; with their buffer."""
    rows: NDArray[np.intp]
    """(features,) the place of each in the layer, in file order."""
    blockers: Geometries
    """(any,) features in the region without a usable label: none, one that was dropped on request, or no date. Where they
    lie, background must not be assumed."""
    counts: FeatureCounts


def features_in_region(
    layer: VectorLayer,
    *,
    labelled: Mask,
    excluded: Mask,
    dated: Mask,
    twins: pd.Series,
    geobox: GeoBox,
    transformation: Transformation,
    buffer: float,
    only_polygons: bool,
) -> Features:
    """Select the features that can be used, and count the rest.

    A feature that cannot be used is counted under the first of these that applies: no geometry, not a polygon, no
    label, excluded, no date, outside, duplicate. Edges are straight in the CRS of the file; long ones get vertices in
    between, so that they stay where they are when they are reprojected.

    Args:
        labelled: (features,) which have a label.
        excluded: (features,) whose label was dropped on request.
        dated: (features,) which hold at a date of the region.
        twins: (features,) label and date as one text: features with the same geometry and text are duplicates.
        geobox: the region's grid.
        transformation: from the CRS of the layer to that of the grid.
        buffer: metres around points and lines that bear their label too.
        only_polygons: points and lines cannot be used.

    Raises:
        LabelError: no feature can be used, or a buffer is asked for and the region's CRS is in degrees.
    """
    reach = _in_units_of(geobox, buffer)
    dimensions = shapely.get_dimensions(layer.geometries).astype(np.intp)
    whole = _has_geometry(layer.geometries, dimensions)
    fates = np.select(
        [~whole, (dimensions < 2) & only_polygons, ~labelled, excluded, ~dated],
        ["no_geometry", "not_polygons", "no_label", "excluded", "no_date"],
        "outside",
    ).astype(object)
    _refuse_useless(layer, fates)
    west, south, east, north = map(float, shapely.total_bounds(layer.geometries[fates == "outside"]))
    # Deferred: its message gives both extents in several CRSs, each with a transformation of its own.
    all_outside = partial(outside_error, layer.path, (west, south, east, north), layer.crs, geobox)
    try:
        boxes = _boxes(geobox, layer.crs, reach)
    except AreaError as error:
        raise all_outside() from error

    rows = np.flatnonzero(np.isin(fates, ("outside", *BLOCKING)))
    rows = rows[_near(shapely.bounds(layer.geometries[rows]), boxes)]
    parts = split_parts(layer.geometries[rows])
    if only_polygons:
        parts = _select(parts, parts.dimension == 2)
    valid, repaired = _repair(parts)
    cut, reduced = _cut(valid, boxes)
    moved = _reproject(cut, transformation, _longest_edge(boxes, transformation, geobox))
    partly, inside = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    partly[valid.feature[reduced]] = True
    if reach:
        moved = _with_buffer(moved, reach)
    partly[moved.feature[~shapely.covers(geobox.extent.geom, moved.geometries)]] = True
    inside[moved.feature[_reach_into(moved, geobox)]] = True

    collapsed = np.setdiff1d(np.arange(len(rows)), valid.feature)
    fates[rows[collapsed]] = "no_geometry"
    candidates = np.flatnonzero(inside & (fates[rows] == "outside"))
    again = _seen_before(layer.geometries[rows[candidates]], twins.iloc[rows[candidates]])
    fates[rows[candidates]] = np.where(again, "duplicates", "used")
    used = np.flatnonzero(fates[rows] == "used")
    if not len(used):
        _refuse_useless(layer, fates)
        raise all_outside()
    geometries = _assembled(moved, len(rows))
    kinds = dimensions[rows[used]]
    count_of = {fate: int((fates == fate).sum()) for fate in FATES}
    return Features(
        geometries=geometries[used],
        rows=rows[used],
        blockers=geometries[inside & np.isin(fates[rows], BLOCKING)],
        counts=FeatureCounts(
            read=len(fates),
            **count_of,
            partly_outside=int(partly[used].sum()),
            repaired=int(np.isin(used, repaired).sum()),
            polygons=int((kinds == 2).sum()),
            lines=int((kinds == 1).sum()),
            points=int((kinds == 0).sum()),
        ),
    )


def area_in_region(area: Area, geobox: GeoBox, transformation: Transformation) -> shapely.Geometry:
    """The part of an area that lies in the region, in the region's CRS; its edges are straight in the CRS of its file.

    Raises:
        LabelError: the area lies outside the region.
    """
    outside = LabelError(
        f"{area.path}: the area lies outside the region: choose one that reaches into it, or check its CRS"
    )
    try:
        boxes = _boxes(geobox, area.crs, 0.0)
    except AreaError as error:
        raise outside from error
    valid, _ = _repair(split_parts(area.geometries))
    cut, _ = _cut(valid, boxes)
    moved = _reproject(cut, transformation, _longest_edge(boxes, transformation, geobox))
    inside = shapely.intersection(shapely.union_all(moved.geometries), geobox.extent.geom)
    if not inside.area:
        raise outside
    return inside


def areas_in_crs_of(geobox: GeoBox, area: Area, transformation: Transformation) -> Geometries:
    """Areas as a whole in a grid's CRS, whether they lie on the grid or not; their edges are straight in the file's CRS.

    Args:
        geobox: the grid.
        area: valid polygons and multipolygons.
        transformation: from their CRS to the grid's.

    Returns:
        (polygons,) as many as there are; with coordinates that are not finite where the grid's CRS does not reach.

    Raises:
        AreaError: the grid cannot be expressed in the CRS of the areas.
    """
    longest = _longest_edge(_boxes(geobox, area.crs, 0.0), transformation, geobox)
    dense = shapely.segmentize(area.geometries, longest) if np.isfinite(longest) else area.geometries
    moved: Geometries = shapely.transform(dense, transformation.apply)
    return moved


def _in_units_of(geobox: GeoBox, metres: float) -> float:
    assert geobox.crs is not None
    if not metres:
        return 0.0
    if not geobox.crs.projected:
        raise LabelError(
            f"`buffer` {metres:g}: the region's CRS ({crs_name(geobox.crs)}) is in degrees, and a buffer in metres needs"
            " one in metres: buffer the labels beforehand, for instance with QGIS"
        )
    return metres / float(geobox.crs.proj.axis_info[0].unit_conversion_factor)


def _has_geometry(geometries: Geometries, dimensions: NDArray[np.intp]) -> Mask:
    """Which geometries exist, are finite, and are what their type says: a polygon has an area, a line a length."""
    there: Mask = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    points, of = shapely.get_coordinates(geometries, return_index=True)
    there[of[~np.isfinite(points).all(axis=1)]] = False
    lines = np.flatnonzero(there & (dimensions == 1))
    there[lines] = shapely.length(geometries[lines]) > 0
    # A bow tie's halves have areas of opposite signs: only its repair tells it from a polygon without any.
    flat = np.flatnonzero(there & (dimensions == 2))
    flat = flat[shapely.area(geometries[flat]) == 0]
    mended = shapely.make_valid(geometries[flat], method="structure", keep_collapsed=False)
    there[flat[shapely.is_empty(mended)]] = False
    return there


def _refuse_useless(layer: VectorLayer, fates: NDArray[np.object_]) -> None:
    """Raise an error if no feature has all that is required of one."""
    if (fates == "outside").any():
        return
    column = "" if layer.column is None else f" in the column {layer.column.name!r}"
    facts = {
        "no_geometry": "no geometry",
        "not_polygons": "a point or line where an area is expected",
        "no_label": f"no label{column}",
        "excluded": f"a label{column} that is dropped on request",
        "no_date": "no date that the region holds",
    }
    reasons = [f"{count} have {what}" for fate, what in facts.items() if (count := int((fates == fate).sum()))]
    if (fates == "not_polygons").any():
        hint = "draw or buffer points and lines to the areas that they describe"
    elif column:
        hint = "fill in what is missing, or choose another column with `field`"
    else:
        hint = "expected polygons"
    called = f" of layer {layer.name!r}" if layer.name else ""
    raise LabelError(
        f"{layer.path}: none of the {len(fates)} features{called} can be used: {', '.join(reasons)}: {hint}"
    )


def _boxes(geobox: GeoBox, crs: CRS, reach: float) -> list[Bounds]:
    """The region's box and its buffer in another CRS; two where it crosses the antimeridian.

    Raises:
        AreaError: the region cannot be expressed in that CRS.
    """
    assert geobox.crs is not None
    left, bottom, right, top = bounds_of(geobox)
    own = left - reach, bottom - reach, right + reach, top + reach
    west, south, east, north = own if crs == geobox.crs else bounds_in(own, geobox.crs, crs)
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    return [(left, south, right, north) for left, right in spans]


def _surroundings(boxes: list[Bounds]) -> list[Bounds]:
    """The boxes with their own size around them."""
    margin = max(max(north - south, east - west) for west, south, east, north in boxes)
    return [(west - margin, south - margin, east + margin, north + margin) for west, south, east, north in boxes]


def _near(bounds: NDArray[np.float64], boxes: list[Bounds]) -> Mask:
    """Which bounds meet the surroundings of the boxes."""
    left, bottom, right, top = bounds.T
    near = np.zeros(len(bounds), bool)
    for west, south, east, north in _surroundings(boxes):
        near |= (right >= west) & (left <= east) & (top >= south) & (bottom <= north)
    return near


def _select(parts: Parts, which: Mask) -> Parts:
    return Parts(parts.geometries[which], parts.feature[which], parts.dimension[which])


def _parts_of(geometries: Geometries, parts: Parts) -> Parts:
    """Parts changed: pieces of a lower dimension than the part had are dropped, they come from mere contact."""
    pieces = split_parts(geometries)
    pieces = _select(pieces, pieces.dimension == parts.dimension[pieces.feature])
    return Parts(pieces.geometries, parts.feature[pieces.feature], pieces.dimension)


def _repair(parts: Parts) -> tuple[Parts, NDArray[np.intp]]:
    """Valid parts, and the features of those that were not. A polygon that collapses to a line is dropped."""
    invalid = np.flatnonzero(~shapely.is_valid(parts.geometries))
    valid = parts.geometries.copy()
    # "structure" keeps an area that an outline passes twice, where "linework" would make a hole of it.
    valid[invalid] = shapely.make_valid(valid[invalid], method="structure", keep_collapsed=False)
    return _parts_of(valid, parts), parts.feature[invalid]


def _cut(parts: Parts, boxes: list[Bounds]) -> tuple[Parts, NDArray[np.intp]]:
    """Parts without what lies far from the region, and the indices of those that were cut.

    A country-wide outline is slow to reproject, if that is possible at all.
    """
    surroundings = shapely.union_all([shapely.box(*box) for box in _surroundings(boxes)])
    shapely.prepare(surroundings)
    wide = np.flatnonzero(~shapely.covers(surroundings, parts.geometries))
    cut = parts.geometries.copy()
    cut[wide] = shapely.intersection(cut[wide], surroundings)
    return _parts_of(cut, parts), wide


def _longest_edge(boxes: list[Bounds], transformation: Transformation, geobox: GeoBox) -> float:
    """How long an edge may be, in the layer's CRS, to bend by no more than :data:`BEND` pixels; inf for any length."""
    a, b, _, d, e, _ = tuple(geobox.affine)[:6]
    pixel = min(np.hypot(a, d), np.hypot(b, e))
    longest = np.inf
    for west, south, east, north in boxes:
        # Edges along, across and athwart the region: the bend grows with the square of the length.
        places = [(x, y) for x in (west, (west + east) / 2, east) for y in (south, (south + north) / 2, north)]
        pairs = np.array([(one, other) for i, one in enumerate(places) for other in places[i + 1 :]])
        one, other, middle = (transformation.apply(ends) for ends in (pairs[:, 0], pairs[:, 1], pairs.mean(axis=1)))
        known = np.isfinite(np.hstack([one, other, middle])).all(axis=1)
        bend = np.hypot(*(middle[known] - (one[known] + other[known]) / 2).T) / pixel
        length = np.hypot(*(pairs[known, 1] - pairs[known, 0]).T)
        # Rounding alone: the CRS are the same, or differ by a shift.
        bent = bend > BEND / 1000
        longest = min(longest, (length[bent] * np.sqrt(BEND / bend[bent])).min(initial=np.inf))
    return longest


def _reproject(parts: Parts, transformation: Transformation, longest: float) -> Parts:
    geometries = parts.geometries
    if np.isfinite(longest):
        long = np.flatnonzero((parts.dimension > 0) & (shapely.length(geometries) > longest))
        geometries = geometries.copy()
        geometries[long] = shapely.segmentize(geometries[long], longest)
    moved = shapely.transform(geometries, transformation.apply)
    points, of = shapely.get_coordinates(moved, return_index=True)
    somewhere = np.ones(len(moved), bool)
    somewhere[of[~np.isfinite(points).all(axis=1)]] = False
    # Rounding may make vertices meet that were just apart.
    valid, _ = _repair(_select(Parts(moved, parts.feature, parts.dimension), somewhere))
    return valid


def _with_buffer(parts: Parts, reach: float) -> Parts:
    """Points and lines with the area around them; they stay, so that a small one still labels its own pixel."""
    narrow = np.flatnonzero(parts.dimension < 2)
    areas = shapely.buffer(parts.geometries[narrow], reach)
    feature = np.append(parts.feature, parts.feature[narrow])
    order = np.argsort(feature, kind="stable")
    geometries = np.append(parts.geometries, areas)
    dimension = np.append(parts.dimension, np.full(len(narrow), 2))
    return Parts(geometries[order], feature[order], dimension[order])


def _reach_into(parts: Parts, geobox: GeoBox) -> Mask:
    """Which parts share ground with the region: not just an edge, and for points and lines, some pixel."""
    region = geobox.extent.geom
    height, width = geobox.shape
    shapely.prepare(region)
    inside: Mask = shapely.intersects(region, parts.geometries)
    inside[inside] = ~((parts.dimension[inside] == 2) & shapely.touches(region, parts.geometries[inside]))
    for dimension, pixels in ((0, pixels_of_points), (1, pixels_along)):
        some = np.flatnonzero(inside & (parts.dimension == dimension))
        claiming, _, _ = pixels(to_pixel_coordinates(parts.geometries[some], geobox), (height, width))
        inside[some] = False
        inside[some[claiming]] = True
    return inside


def _seen_before(geometries: Geometries, twins: pd.Series) -> Mask:
    frame = pd.DataFrame({"shape": shapely.to_wkb(shapely.normalize(geometries)), "twins": twins.to_numpy(object)})
    seen: Mask = frame.duplicated().to_numpy(bool)
    return seen


def _assembled(parts: Parts, features: int) -> Geometries:
    """(features,) the parts of each as one geometry; None where there is none."""
    whole: Geometries = np.full(features, None, object)
    whole[parts.feature] = parts.geometries
    several = np.bincount(parts.feature, minlength=features) > 1
    own = several[parts.feature]
    places, index = np.unique(parts.feature[own], return_inverse=True)
    if len(places):
        whole[places] = shapely.geometrycollections(parts.geometries[own], indices=index)
    return whole


# --- Labels that lie outside the region, or not exactly where they should.


def outside_error(path: Path, extent: Bounds, crs: CRS, geobox: GeoBox) -> LabelError:
    """The error for labels that cover nothing of the region: both extents, and what is likely wrong; `extent` is in `crs`."""
    assert geobox.crs is not None
    own, region = geobox.crs, bounds_of(geobox)
    degrees = in_degrees(extent)
    if degrees != crs.geographic:
        seem, kind = ("look like", "projected") if degrees else ("are not", "geographic")
        return LabelError(
            f"{path}: the coordinates ({format_bounds(extent)}) {seem} degrees, but their CRS is {kind} ({crs_name(crs)}),"
            f" and the region covers {_shown(region, own, crs)}: assign the one they are in, for instance with QGIS"
        )
    hint = "choose the region they lie in, or check their CRS"
    west, south, east, north = extent
    zone = zone_in_front(extent)
    if touches((south, west, north, east), crs, geobox):
        hint = "with x and y exchanged they would lie in it, so exchange them, for instance with QGIS (Swap X and Y)"
    elif zone and touches((west - zone * 1e6, south, east - zone * 1e6, north), crs, geobox):
        hint = (
            f"without the zone number in front they would lie in it, so give them their CRS: {zone_advice(west, zone)}"
        )
    return LabelError(
        f"{path}: all labels lie outside the region. The labels cover {_shown(extent, crs, LONLAT)}"
        f" ({_shown(extent, crs, own)}), the region {_shown(region, own, LONLAT)} ({_shown(region, own, own)}): {hint}"
    )


def _shown(bounds: Bounds, crs: CRS, target: CRS) -> str:
    try:
        return f"{format_bounds(bounds_in(bounds, crs, target))} in {crs_name(target)}"
    except AreaError:
        return f"not expressible in {crs_name(target)}"
