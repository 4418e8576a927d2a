"""Every feature of a layer has one fate, and those that are used lie where they should."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import (
    BOW_TIE,
    FAR,
    FIELD,
    FLAT,
    GRID,
    HAVELLAND,
    LAKE,
    LONLAT,
    NAN,
    UTM,
    Shapes,
    array,
    block,
    moved,
    placed,
)
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from lianet_user.errors import LabelError
from lianet_user.geo.transformation import transformation
from lianet_user.labels.cover import split_parts, to_pixel_coordinates
from lianet_user.labels.features import FATES, Area, Features, area_in_region, features_in_region
from lianet_user.labels.rasterize import PixelRule, decide_classes


class Moves:
    """A transformation by pyproj alone."""

    def __init__(self, source: str, target: Any) -> None:
        self.same = CRS(source) == target
        self.transformer = pyproj.Transformer.from_crs(source, target.proj, always_xy=True)

    def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points.copy() if self.same else np.column_stack(self.transformer.transform(*points.T))


def at(col: float, row: float) -> Any:
    return placed(shapely.Point(col, row))


def features_of(
    geometries: NDArray[np.object_],
    labels: list[str | None] | None = None,
    *,
    crs: str = UTM,
    grid: GeoBox = GRID,
    excluded: Any = None,
    dated: Any = None,
    buffer: float = 0.0,
    only_polygons: bool = False,
    moves: Any = None,
) -> Features:
    count = len(geometries)
    text = pd.Series(["a"] * count if labels is None else labels, dtype="string")
    column = SimpleNamespace(name="kind")
    layer: Any = SimpleNamespace(
        path=Path("labels.gpkg"), name="parcels", crs=CRS(crs), column=column, geometries=geometries
    )
    transformation: Any = Moves(crs, grid.crs) if moves is None else moves
    return features_in_region(
        layer,
        labelled=text.notna().to_numpy(bool),
        excluded=np.zeros(count, bool) if excluded is None else np.array(excluded),
        dated=np.ones(count, bool) if dated is None else np.array(dated),
        twins=text.fillna(""),
        geobox=grid,
        transformation=transformation,
        buffer=buffer,
        only_polygons=only_polygons,
    )


LINE = shapely.LineString([(330_000, 5_822_000), (330_100, 5_822_000)])
DOT = shapely.LineString([(330_000, 5_822_000), (330_000, 5_822_000)])
PAIR = shapely.GeometryCollection([LINE, block(12, 12, 3, 3)])
POINT = at(3, 15)


def test_every_feature_has_one_fate() -> None:
    cases: list[tuple[Any, str | None, str]] = [
        (FIELD, "a", "used"),
        (FIELD, "a", "duplicates"),
        (FIELD, "b", "used"),
        (FIELD.reverse(), "a", "duplicates"),
        (LAKE, None, "no_label"),
        (LAKE, "gone", "excluded"),
        (LAKE, "undated", "no_date"),
        (None, "a", "no_geometry"),
        (shapely.Polygon(), "a", "no_geometry"),
        (FLAT, None, "no_geometry"),
        (DOT, "a", "no_geometry"),
        (NAN, "a", "no_geometry"),
        (shapely.Point(np.inf, 0), "a", "no_geometry"),
        (BOW_TIE, "a", "used"),
        (PAIR, "a", "used"),
        (LINE, "a", "used"),
        (POINT, "a", "used"),
        (POINT, "a", "duplicates"),
        (shapely.MultiPoint([at(3, 15), at(9000, 15)]), "a", "used"),
        (FAR, "a", "outside"),
        (FAR, None, "no_label"),
        (block(30, 0, 5, 5), "a", "outside"),
        (block(29.9, 19.9, 5, 5), "a", "used"),
        (at(30, 5), "a", "outside"),
        (at(0, 0), "a", "used"),
    ]
    geometries, labels = array(*(case[0] for case in cases)), [case[1] for case in cases]
    got = features_of(
        geometries,
        labels,
        excluded=[label == "gone" for label in labels],
        dated=[label != "undated" for label in labels],
    )
    expected = [case[2] for case in cases]
    assert got.rows.tolist() == [row for row, fate in enumerate(expected) if fate == "used"]
    for fate in FATES:
        assert getattr(got.counts, fate) == expected.count(fate), fate
    assert got.counts.read == len(cases)
    assert (got.counts.polygons, got.counts.lines, got.counts.points) == (5, 1, 3)
    assert (got.counts.partly_outside, got.counts.repaired) == (2, 1)
    assert len(got.blockers) == 3
    assert all(shape.equals(LAKE) for shape in got.blockers)
    assert shapely.is_valid(got.geometries).all()
    assert got.geometries[2].area == 2 * 0.5 * 40 * 40


def test_only_polygons_leaves_the_others_and_their_parts() -> None:
    got = features_of(array(FIELD, LINE, POINT, PAIR, None), only_polygons=True)
    assert got.rows.tolist() == [0, 3]
    assert (got.counts.not_polygons, got.counts.no_geometry) == (2, 1)
    assert got.geometries[1].equals(block(12, 12, 3, 3))


SHAPES = (FIELD, LAKE, FAR, BOW_TIE, FLAT, LINE, DOT, PAIR, POINT, None, shapely.Polygon(), block(25, 15, 20, 20))


@given(data=st.data())
@settings(max_examples=100)
def test_fates_add_up(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    some = st.lists(st.booleans(), min_size=count, max_size=count)
    geometries = array(*(SHAPES[i] for i in data.draw(st.lists(st.integers(0, 11), min_size=count, max_size=count))))
    labels = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=count, max_size=count))
    excluded, dated = data.draw(some), data.draw(some)
    only_polygons, buffer = data.draw(st.booleans()), data.draw(st.sampled_from([0.0, 25.0]))
    try:
        got = features_of(
            geometries, labels, excluded=excluded, dated=dated, only_polygons=only_polygons, buffer=buffer
        )
    except LabelError:
        return
    counts = {entry.name: getattr(got.counts, entry.name) for entry in fields(got.counts)}
    assert counts["read"] == count == sum(counts[fate] for fate in FATES)
    assert counts["used"] == len(got.geometries) == len(got.rows) > 0
    assert counts["used"] == counts["polygons"] + counts["lines"] + counts["points"]
    assert (np.diff(got.rows) > 0).all()
    for row in got.rows:
        assert labels[row] is not None
        assert not excluded[row]
        assert dated[row]
    assert shapely.is_valid(got.geometries).all()
    assert shapely.is_valid(got.blockers).all()


def test_country_wide_features_are_cut_before_they_are_reprojected() -> None:
    lake = moved(LAKE, UTM, LONLAT)
    land = shapely.box(-179, -89, 179, 89).difference(lake)
    equator = shapely.LineString([(-179, lake.centroid.y), (179, lake.centroid.y)])
    got = features_of(array(land, lake, equator), ["land", "water", "line"], crs=LONLAT)
    assert got.counts.partly_outside == 2
    assert np.isfinite(shapely.bounds(got.geometries)).all()
    inside = shapely.intersection(got.geometries, GRID.extent.geom)
    assert shapely.area(inside)[:2] == pytest.approx([50_000, 10_000], rel=1e-3)
    assert shapely.length(inside)[2] == pytest.approx(300, rel=1e-3)


@pytest.mark.parametrize("grid", [GRID, HAVELLAND], ids=["small", "large"])
def test_long_edges_stay_straight_in_their_own_crs(grid: GeoBox) -> None:
    """A rectangle of one degree whose edges cross the region, against the same with a vertex every metre or so."""
    west, south, east, north = moved(grid.extent.geom, UTM, LONLAT).bounds
    degree = shapely.box((west + east) / 2 - 1, (south + north) / 2 - 1, (west + east) / 2, (south + north) / 2)
    line = shapely.LineString([(west - 0.4, south), (east + 0.4, north)])
    got = features_of(array(degree, line), ["a", "b"], crs=LONLAT, grid=grid)
    near = shapely.box(west, south, east, north).buffer(0.01)
    region = grid.extent.geom.buffer(-1e-6)
    for shape, original in zip(got.geometries, (shapely.boundary(degree), line), strict=True):
        truth = moved(shapely.segmentize(original.intersection(near), 1e-5), LONLAT, UTM).intersection(region)
        edge = shape if shape.geom_type == "LineString" else shape.boundary
        assert truth.length > 100
        # In metres: a pixel has ten of them.
        assert shapely.hausdorff_distance(truth, edge.intersection(region)) < 0.5
        points = shapely.points(shapely.get_coordinates(truth))
        assert shapely.distance(points, edge).max() < 0.05 * 10


def test_same_crs_changes_no_coordinate() -> None:
    shape = shapely.Polygon([(330_000.123, 5_821_900.7), (330_250.1, 5_821_990.3), (330_100, 5_822_030)])
    assert features_of(array(shape)).geometries[0].equals_exact(shape, 0)


def test_points_that_cannot_be_moved_are_outside() -> None:
    class Nowhere:
        def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.where(points[:, :1] < 330_100, np.inf, points)

    got = features_of(array(at(5, 5), at(15, 5)), moves=Nowhere())
    assert got.rows.tolist() == [1]
    assert got.counts.outside == 1


@pytest.mark.parametrize(("crs", "unit"), [(UTM, 1.0), ("EPSG:2225", 1200 / 3937)], ids=["metres", "feet"])
def test_buffers_are_metres(crs: str, unit: float) -> None:
    grid = GeoBox((20, 30), Affine(10 / unit, 0, 330_000, 0, -10 / unit, 5_822_040), crs)
    point, line = shapely.Point(330_100, 5_822_000), shapely.LineString([(330_000, 5_821_950), (330_100, 5_821_950)])
    got = features_of(array(point, line, grid.extent.geom), crs=crs, grid=grid, buffer=30)
    reach = 30 / unit
    assert shapely.area(got.geometries[0]) == pytest.approx(np.pi * reach**2, rel=0.01)
    assert shapely.area(got.geometries[1]) == pytest.approx(np.pi * reach**2 + 200 * reach, rel=0.01)
    assert got.geometries[2].equals(grid.extent.geom)
    assert (got.counts.polygons, got.counts.lines, got.counts.points) == (1, 1, 1)


def test_a_small_buffer_still_labels_its_own_pixel() -> None:
    got = features_of(array(at(3.1, 5.2), at(30.5, 5.5), at(40, 5)), buffer=6)
    # The second lies beside the region, and its disc within; not the third.
    assert got.rows.tolist() == [0, 1]
    parts = split_parts(to_pixel_coordinates(got.geometries, GRID))
    values = decide_classes(parts, np.array([0, 1]), (20, 30), PixelRule()).values
    assert values[5, 3] == 0
    assert (values == 0).sum() == 1


def test_a_wide_buffer_brings_in_what_lies_far() -> None:
    assert features_of(array(at(-1000, 5), POINT), buffer=10_100).rows.tolist() == [0, 1]


def test_the_antimeridian_splits_no_region() -> None:
    grid = GeoBox((100, 400), Affine(1000, 0, 500_000, 0, -1000, 7_500_000), "EPSG:32660")
    east, west = (moved(shapely.Point(x, 7_450_000), "EPSG:32660", LONLAT) for x in (510_000, 890_000))
    assert east.x > 170
    assert west.x < -170
    got = features_of(array(east, west, shapely.Point(0, 67)), crs=LONLAT, grid=grid)
    assert got.rows.tolist() == [0, 1]


LONLAT_FIELD = moved(FIELD, UTM, LONLAT)
SWAPPED = shapely.transform(LONLAT_FIELD, lambda points: points[:, ::-1])
GEOGRAPHIC = GeoBox((20, 30), Affine(1e-4, 0, 12.4942, 0, -1e-4, 52.5222), LONLAT)

BAD: dict[str, tuple[Shapes, dict[str, Any], str]] = {
    "outside": (
        array(FAR, FAR.buffer(10)),
        {},
        r"cover 13\.\d+,52\.\d+,.* in EPSG:4326 \(379990,.*EPSG:32633\), the region 12\.\d+,52\..*\(330000,5821840,.*CRS",
    ),
    "degrees called metres": (array(LONLAT_FIELD), {}, r"look like degrees, but .* projected \(EPSG:32633\)"),
    "metres called degrees": (array(FIELD), {"crs": LONLAT}, r"are not degrees, but .* geographic \(EPSG:4326\)"),
    "x and y exchanged": (array(SWAPPED), {"crs": LONLAT}, "with x and y exchanged they would lie in"),
    "no labels": (
        array(FIELD, LAKE, None),
        {"labels": [None, None, "a"]},
        r"none of the 3 features of layer 'parcels' can be used: 1 have no geometry, 2 have no label in the column 'kind'",
    ),
    "all dropped": (array(FIELD), {"excluded": [True]}, "dropped on request"),
    "no dates": (array(FIELD), {"dated": [False]}, "no date that the region holds"),
    "only points": (
        array(POINT, LINE),
        {"only_polygons": True},
        "2 have a point or line where an area is expected: draw or buffer",
    ),
    "no area": (array(FLAT), {}, "1 have no geometry"),
    "buffer in degrees": (
        array(POINT),
        {"grid": GEOGRAPHIC, "buffer": 5.0},
        r"`buffer` 5: the region's CRS \(EPSG:4326\) is in degrees",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    geometries, options, message = BAD[case]
    with pytest.raises(LabelError, match=message) as caught:
        features_of(geometries, **options)
    assert "\n" not in str(caught.value)


def test_a_region_in_degrees_takes_labels_in_metres() -> None:
    got = features_of(array(block(3, 3, 5, 5), POINT, LINE), grid=GEOGRAPHIC)
    assert got.counts.used == 3
    back = shapely.area(moved(got.geometries[0], LONLAT, UTM))
    assert back == pytest.approx(2500, rel=1e-3)


def test_an_area_keeps_its_straight_edges_in_the_crs_of_its_file() -> None:
    grid = GeoBox((1500, 1500), Affine(10, 0, 330_000, 0, -10, 5_822_000), UTM)
    quarter = shapely.Polygon([(12.3, 52.45), (12.9, 52.45), (12.9, 52.5), (12.3, 52.5)])
    area = Area(Path("area.gpkg"), CRS(LONLAT), array(quarter))
    inside = area_in_region(area, grid, transformation(area.crs, grid))
    expected = shapely.intersection(moved(shapely.segmentize(quarter, 1e-4), LONLAT, UTM), grid.extent.geom)
    # In pixels along an edge of the region.
    assert shapely.area(shapely.symmetric_difference(inside, expected)) / 100 / 1500 < 0.05
    far = Area(Path("area.gpkg"), CRS(UTM), array(shapely.box(0, 0, 1, 1)))
    with pytest.raises(LabelError, match=r"area\.gpkg: the area lies outside the region"):
        area_in_region(far, grid, transformation(far.crs, grid))
