"""What holds of label maps whatever the labels are, and of the labels that people really have."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from factories import RegionHeaderFactory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_files import CORNER, DEMO, HAVELLAND, UTM, array, frame_of, placed, squares
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize

from lianet_user.files.header import IGNORE
from lianet_user.labels import LabelOptions, Labels, check_labels, read_labels

# The labels drawn here are often too small or contradict each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*no pixel bears:lianet_user.errors.LabelWarning")

DATA = Path(__file__).parents[3] / "shared/data/havelland/osm_landuse.gpkg"
GRID = GeoBox((24, 32), CORNER, UTM)
NAMES = ("forest", "meadow", "water")

repeated = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def features(draw: st.DrawFn) -> geopandas.GeoDataFrame:
    """Polygons, lines and points of three classes in and around GRID, overlapping, in its CRS."""
    place = st.tuples(st.floats(-2, 34), st.floats(-2, 26))
    shapes: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(["polygon", "polygon", "line", "point"]), min_size=1, max_size=10)):
        x, y = draw(place)
        size = draw(st.floats(0.2, 9))
        if kind == "polygon":
            corners = draw(st.integers(3, 8))
            angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + draw(st.floats(0, 1))
            shapes.append(shapely.Polygon(np.column_stack([x + size * np.cos(angles), y + size * np.sin(angles)])))
        elif kind == "line":
            shapes.append(shapely.LineString([(x, y), (x + size, y + size / 2), (x - size, y + size)]))
        else:
            shapes.append(shapely.Point(x, y))
    words = draw(st.lists(st.sampled_from(NAMES), min_size=len(shapes), max_size=len(shapes)))
    # Something of two classes that is always there: labels of one class alone are refused.
    shapes += [shapely.box(0.1, 0.2, 3.3, 3.1), shapely.box(9.2, 9.1, 12.4, 12.3), shapely.box(20.4, 1.7, 23.9, 4.8)]
    return frame_of(placed(array(*shapes)), label=[*words, *NAMES])


def read(path: Path, region_header: RegionHeaderFactory, grid: GeoBox = GRID, **options: Any) -> Labels:
    return read_labels(path, region_header(geobox=grid), LabelOptions(field="label", **options))


def saved(folder: Path, frame: geopandas.GeoDataFrame, name: str = "labels.gpkg") -> Path:
    path = folder / name
    path.unlink(missing_ok=True)
    frame.to_file(path)
    return path


def names_on(labels: Labels) -> NDArray[np.object_]:
    """The name of each pixel's class, None where it has none: windows may hold other classes than the whole."""
    table = np.array([*(entry.name for entry in labels.classes)] + [None] * (256 - len(labels.classes)), object)
    return table[labels.maps[0].values]


def touched(frame: geopandas.GeoDataFrame, grow: float, *, borders: bool = False) -> NDArray[np.bool_]:
    """Pixels of GRID within so many metres of features, or of their borders."""
    shapes = frame.geometry.boundary.where(frame.geom_type == "Polygon", frame.geometry) if borders else frame.geometry
    found: NDArray[np.bool_] = shapely.dwithin(placed(squares((24, 32))), shapely.union_all(shapes.to_numpy()), grow)
    return found


@repeated
@given(frame=features(), crs=st.sampled_from(["EPSG:4326", "EPSG:32632", "EPSG:3035", "EPSG:3857"]))
def test_labels_in_another_crs_give_the_same_map_but_at_borders(
    tmp_path: Path, region_header: RegionHeaderFactory, frame: geopandas.GeoDataFrame, crs: str
) -> None:
    original = names_on(read(saved(tmp_path, frame), region_header))
    elsewhere = names_on(read(saved(tmp_path, frame.to_crs(crs), "elsewhere.gpkg"), region_header))
    changed = original != elsewhere
    assert not (changed & ~touched(frame, 10, borders=True)).any()
    # A hair's breadth may turn pixels that are shared in halves, or that a line touches at a corner, and no more.
    assert changed.sum() <= 4


@repeated
@given(frame=features(), row=st.integers(1, 23), col=st.integers(1, 31), rule=st.sampled_from(["majority", "center"]))
def test_maps_of_windows_make_the_map_of_the_whole(
    tmp_path: Path, region_header: RegionHeaderFactory, frame: geopandas.GeoDataFrame, row: int, col: int, rule: str
) -> None:
    path = saved(tmp_path, frame)
    whole = names_on(read(path, region_header, rule=rule))
    windows = itertools.product(((0, row), (row, 24)), ((0, col), (col, 32)))
    for (top, bottom), (left, right) in windows:
        expected = whole[top:bottom, left:right]
        if len({name for name in expected.ravel() if name is not None}) < 2:
            continue  # labels of one class, or of none, are refused
        part = names_on(read(path, region_header, GRID[top:bottom, left:right], rule=rule))
        np.testing.assert_array_equal(part, expected)


@repeated
@given(frame=features(), faults=st.lists(st.sampled_from(["null", "empty", "blank", "twice", "far", "dropped"])))
def test_every_feature_has_one_fate(
    tmp_path: Path, region_header: RegionHeaderFactory, frame: geopandas.GeoDataFrame, faults: list[str]
) -> None:
    rows: list[dict[str, Any]] = []
    for index, fault in enumerate(faults):
        ground = shapely.box(330_000 + index, 5_821_990, 330_030 + index, 5_822_000)
        changes: dict[str, dict[str, Any]] = {
            "null": {"geometry": None},
            "empty": {"geometry": shapely.Polygon()},
            "blank": {"label": None if index % 2 else "  "},
            "twice": {"geometry": frame.geometry.iloc[-1], "label": frame.label.iloc[-1]},
            "far": {"geometry": shapely.box(400_000, 5_700_000, 400_010, 5_700_010)},
            "dropped": {"label": "road"},
        }
        rows.append({"label": "forest", "geometry": ground, **changes[fault]})
    shapes, words = ([*frame[name], *(row[name] for row in rows)] for name in ("geometry", "label"))
    frame = frame_of(shapes, label=words)
    path = saved(tmp_path, frame)
    mapping = (("road", None),) if "dropped" in faults else ()
    labels = read(path, region_header, mapping=mapping)
    counts = labels.report.features
    assert counts is not None
    assert counts.read == len(geopandas.read_file(path)) == len(frame)
    assert counts.no_geometry == faults.count("null") + faults.count("empty")
    assert counts.no_label == faults.count("blank")
    assert counts.excluded == faults.count("dropped")
    fates = (counts.no_geometry, counts.not_polygons, counts.no_label, counts.excluded, counts.no_date, counts.outside)
    assert counts.read == counts.used + sum(fates) + counts.duplicates
    assert counts.used == counts.polygons + counts.lines + counts.points
    assert counts.used == sum(entry.features for entry in labels.report.classes)
    assert counts.outside >= faults.count("far")
    assert counts.duplicates >= faults.count("twice")


@repeated
@given(frame=features(), rule=st.sampled_from(["majority", "center", "all-touched"]))
def test_ground_without_features_bears_no_class(
    tmp_path: Path, region_header: RegionHeaderFactory, frame: geopandas.GeoDataFrame, rule: str
) -> None:
    labels = read(saved(tmp_path, frame), region_header, rule=rule)
    values = labels.maps[0].values
    assert (values[~touched(frame, 1e-6)] == IGNORE).all()
    assert set(np.unique(values)) <= {*range(len(labels.classes)), IGNORE}
    assert labels.report.labelled == np.count_nonzero(values != IGNORE) > 0


def test_labels_of_the_demonstration(region_header: RegionHeaderFactory) -> None:
    labels = read_labels(DEMO, region_header(geobox=HAVELLAND), LabelOptions(field="class"))
    frame = geopandas.read_file(DEMO)
    counts = labels.report.features
    assert counts is not None
    assert counts.read == len(frame)
    assert (counts.duplicates, counts.no_label, counts.no_geometry) == (0, 0, 0)
    kinds = frame.clip(HAVELLAND.extent.geom).dissolve("class").geometry
    for entry in labels.report.classes:
        own = kinds[entry.name].difference(kinds.drop(entry.name).union_all())
        assert entry.pixels == pytest.approx(own.area / 100, rel=0.03), entry.name
    result = check_labels(labels, region_header(geobox=HAVELLAND))
    assert result.labelled_blocks > 50
    assert set(result.validation_pixels) == {entry.name for entry in labels.classes}
    assert min(result.validation_pixels.values()) > 0
    assert 0 < result.seconds < 3600


def test_water_kept_for_checks_bears_no_label(region_header: RegionHeaderFactory) -> None:
    labels = read_labels(
        DEMO.with_name("havelland_demo.gpkg"), region_header(geobox=HAVELLAND), LabelOptions(field="class")
    )
    values, water = labels.maps[0].values, [entry.name for entry in labels.classes].index("water")
    shores = geopandas.read_file(DEMO.with_name("havelland_water_check.gpkg")).buffer(-10)
    kept = rasterize(shores, HAVELLAND.shape, transform=HAVELLAND.affine).astype(bool)
    assert (values[kept] == IGNORE).all()
    assert np.count_nonzero(values == water) > np.count_nonzero(kept) > 20_000
    assert "OpenStreetMap" in labels.attribution
    assert "Copernicus" in labels.attribution


@pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA.name}, which is not shipped")
def test_landuse_as_openstreetmap_has_it(region_header: RegionHeaderFactory) -> None:
    """604 features with double entries and disputed ground, counted here with geopandas alone."""
    frame = geopandas.read_file(DATA)
    start = time.perf_counter()
    labels = read_labels(DATA, region_header(geobox=HAVELLAND), LabelOptions(field="fclass"))
    assert time.perf_counter() - start < 5
    report, counts = labels.report, labels.report.features
    assert counts is not None
    assert counts.read == len(frame) == 604

    local = frame.to_crs(UTM)
    local["geometry"] = local.make_valid()
    local = local[local.intersects(HAVELLAND.extent.geom)]
    assert counts.outside == len(frame) - len(local)
    unique = local.loc[~frame.loc[local.index].assign(shape=frame.normalize().to_wkb()).duplicated(["shape", "fclass"])]
    assert counts.duplicates == len(local) - len(unique) == 57

    kinds = unique.clip(HAVELLAND.extent.geom).dissolve("fclass")
    pairs = kinds.reset_index().overlay(kinds.reset_index(), keep_geom_type=True)
    disputed = pairs[pairs.fclass_1 < pairs.fclass_2].union_all().area
    share = disputed / kinds.union_all().area
    assert share == pytest.approx(0.00276, rel=0.02)
    assert report.contested_share == pytest.approx(share, rel=0.02)
    assert report.contested_ground == pytest.approx(disputed / 100, rel=0.02)
    for entry in report.classes:
        own = kinds.geometry[entry.name].difference(kinds.geometry.drop(entry.name).union_all())
        assert entry.pixels == pytest.approx(own.area / 100, rel=0.03, abs=15), entry.name
