from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from skimage.color import rgb2lab

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.labels import IGNORE, ClassCount, LabelMap, read_labels
from lianet_user.labels.palette import EXPECTED, class_colors, normalized_color
from lianet_user.labels.rasterize import SUBPIXELS, rasterize_classes, to_pixel_coordinates

DEMO = Path(__file__).parents[1] / "tutorials/data/havelland_landcover.gpkg"
HAVELLAND = GeoBox((768, 1536), Affine(10, 0, 330_000, 0, -10, 5_822_040), "EPSG:32633")
GRID = GeoBox((20, 30), Affine(10, 0, 330_000, 0, -10, 5_822_040), "EPSG:32633")
ROTATED = GeoBox((20, 30), GRID.affine @ Affine.rotation(25), "EPSG:32633")


def from_pixels(shapes: Any, grid: GeoBox) -> Any:
    """Shapes in (column, row), in the grid's CRS."""
    a, b, c, d, e, f = tuple(grid.affine)[:6]
    return shapely.transform(shapes, lambda points: points @ np.array([[a, d], [b, e]]) + (c, f))


def block(col: float, row: float, width: float, height: float) -> Any:
    """A rectangle of GRID's pixels, in its CRS."""
    return from_pixels(shapely.box(col, row, col + width, row + height), GRID)


FIELD, LAKE, FAR = block(0, 0, 10, 10), block(15, 0, 10, 10), block(5000, 0, 10, 10)


def written(path: Path, geometries: list[Any], crs: str | None = "EPSG:32633", **columns: Any) -> Path:
    frame = geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.write_dataframe(frame, path)
    return path


def labels_of(tmp_path: Path, geometries: list[Any], labels: list[Any], **columns: Any) -> LabelMap:
    return read_labels(written(tmp_path / "labels.gpkg", geometries, label=labels, **columns), GRID)


def blobs(seed: int, count: int) -> NDArray[np.object_]:
    """Star-shaped polygons of many sizes over GRID, in its CRS."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    polygons = []
    for _ in range(count):
        center = rng.uniform((330_000, 5_821_840), (330_300, 5_822_040))
        radius = rng.uniform(0.3, 1.0, 9) * rng.uniform(5, 60)
        polygons.append(shapely.Polygon(center + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])))
    return np.array(polygons, object)


@pytest.mark.parametrize("grid", [GRID, ROTATED], ids=["north-up", "rotated"])
def test_pixels_follow_the_exact_areas(grid: GeoBox) -> None:
    polygons, classes = blobs(0, 40), np.arange(40) % 3
    height, width = grid.shape
    values, contradicting = rasterize_classes(to_pixel_coordinates(polygons, grid), classes, (height, width))

    cols, rows = (corner.ravel() for corner in np.meshgrid(np.arange(width), np.arange(height)))
    pixels = from_pixels(shapely.box(cols, rows, cols + 1, rows + 1), grid)
    union = [shapely.union_all(polygons[classes == index]) for index in range(3)]
    alone = [union[index].difference(shapely.union_all([*union[:index], *union[index + 1 :]])) for index in range(3)]
    covered = np.array([shapely.area(shapely.intersection(pixels, shape)) / 100 for shape in union])
    alone_share = np.array([shapely.area(shapely.intersection(pixels, shape)) / 100 for shape in alone])
    expected = np.where((alone_share >= 0.5).any(axis=0), alone_share.argmax(axis=0), IGNORE)
    expected_contradicting = (expected == IGNORE) & (covered >= 0.5).any(axis=0)

    # Sub-pixels know areas to about 1/16: pixels nearer to one half than that may fall either way.
    plain = (np.abs(np.concatenate([covered, alone_share]) - 0.5) > 1.5 / SUBPIXELS**2).all(axis=0)
    assert plain.mean() > 0.7
    assert (expected[plain] != IGNORE).sum() > 100
    assert expected_contradicting[plain].sum() > 20
    np.testing.assert_array_equal(values.ravel()[plain], expected[plain])
    np.testing.assert_array_equal(contradicting.ravel()[plain], expected_contradicting[plain])
    assert (values[contradicting] == IGNORE).all()


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    polygons, classes = to_pixel_coordinates(blobs(1, 30), GRID), np.arange(30) % 4
    whole = rasterize_classes(polygons, classes, (20, 30))
    monkeypatch.setattr("lianet_user.labels.rasterize.STRIP_PIXELS", 3 * 30)
    for at_once, in_strips in zip(whole, rasterize_classes(polygons, classes, (20, 30)), strict=True):
        np.testing.assert_array_equal(at_once, in_strips)


def test_half_a_pixel_is_enough_and_less_is_not() -> None:
    spans = [(0, 0.5), (1, 1.3), (2, 2.5), (2.5, 3)]
    shapes = np.array([shapely.box(left, 0, right, 1) for left, right in spans], object)
    values, contradicting = rasterize_classes(shapes, np.array([0, 1, 0, 1]), (1, 3))
    # The last pixel is shared in exact halves: no class covers most of it, and none contradicts the other.
    assert values.tolist() == [[0, IGNORE, IGNORE]]
    assert not contradicting.any()


def test_unlabelled_is_ignore_and_never_a_class(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, [FIELD, LAKE], ["field", "water"])
    expected = np.full((20, 30), IGNORE, np.uint8)
    expected[:10, :10], expected[:10, 15:25] = 0, 1
    np.testing.assert_array_equal(labels.values, expected)
    assert [entry.name for entry in labels.classes] == ["field", "water"]
    assert labels.report.labelled == 200
    assert labels.report.region_pixels == 600


def test_contradictions_are_ignored_and_counted(tmp_path: Path) -> None:
    pond = block(2, 2, 3, 4)
    report = (labels := labels_of(tmp_path, [FIELD, LAKE, pond], ["field", "water", "water"])).report
    assert (labels.values[2:6, 2:5] == IGNORE).all()
    assert report.contradicting == 12
    assert report.contradicting_share == 12 / 200
    assert report.vanished == 1
    assert report.classes == (ClassCount("field", 1, 88), ClassCount("water", 2, 100))
    assert any("12 more ignored" in line for line in report.lines())


def test_overlap_of_one_class_is_no_contradiction(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, [FIELD, block(5, 5, 10, 10), LAKE], ["field", "field", "water"])
    assert labels.report.contradicting == 0
    assert labels.report.classes[0] == ClassCount("field", 2, 175)


def test_reprojected_labels_move_by_less_than_a_pixel(tmp_path: Path) -> None:
    grid = HAVELLAND[300:500, 600:900]
    original = read_labels(DEMO, grid)
    geopandas.read_file(DEMO).to_crs("EPSG:4326").to_file(path := tmp_path / "lonlat.gpkg")
    moved = read_labels(path, grid, field="class")
    assert [entry.name for entry in moved.classes] == [entry.name for entry in original.classes]
    differing = moved.values != original.values
    assert differing.mean() < 0.002
    # Where a pixel and its eight neighbours bear one value in the original, the reprojected map has it too.
    shifted = np.lib.stride_tricks.sliding_window_view(original.values, (3, 3))
    interior = shifted.min(axis=(2, 3)) == shifted.max(axis=(2, 3))
    assert not (differing[1:-1, 1:-1] & interior).any()


def test_every_feature_has_one_fate(tmp_path: Path) -> None:
    bow_tie = shapely.Polygon([(330_010, 5_821_900), (330_090, 5_821_860), (330_090, 5_821_900), (330_010, 5_821_860)])
    line = shapely.LineString([(330_000, 5_822_000), (330_100, 5_822_000)])
    flat = shapely.Polygon([(330_000, 5_822_000), (330_100, 5_822_000), (330_050, 5_822_000)])
    collection = shapely.GeometryCollection([line, block(12, 12, 3, 3)])
    speck = block(12.1, 0.1, 0.2, 0.2)
    beyond = block(28, 15, 10, 10)
    geometries = [FIELD, FIELD, LAKE, LAKE, beyond, bow_tie, collection, speck, FAR, None, flat, line]
    labels = ["a", "a", "b", " ", "b", "b", "a", "a", "a", "a", "a", "a"]
    path = written(tmp_path / "labels.geojson", geometries, label=labels)
    with pytest.warns(LabelWarning, match="1 points or lines"):
        report = read_labels(path, GRID).report
    counts = report.features
    assert (counts.read, counts.used) == (12, 6)
    assert (counts.outside, counts.no_geometry, counts.not_polygons) == (1, 2, 1)
    assert (counts.no_label, counts.duplicates) == (1, 1)
    assert (counts.partly_outside, counts.repaired) == (1, 1)
    assert report.vanished == 1
    assert sum(entry.polygons for entry in report.classes) == counts.used
    assert sum(line.startswith("  ") for line in report.lines()) == 8 + len(report.classes)


def test_same_place_with_another_label_is_no_duplicate(tmp_path: Path) -> None:
    report = labels_of(tmp_path, [FIELD, FIELD, LAKE, block(0, 12, 5, 5)], ["a", "b", "b", "a"]).report
    assert report.features.duplicates == 0
    assert report.contradicting == 100


def test_class_without_a_pixel_is_left_out_and_said(tmp_path: Path) -> None:
    with pytest.warns(LabelWarning, match="no pixel bears 'hut'"):
        labels = labels_of(tmp_path, [FIELD, LAKE, block(12, 12, 0.3, 0.3)], ["field", "water", "hut"])
    assert [entry.name for entry in labels.classes] == ["field", "water"]
    assert set(np.unique(labels.values)) == {0, 1, IGNORE}
    assert ClassCount("hut", 1, 0) in labels.report.classes


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    labels = labels_of(tmp_path, [FIELD, LAKE, block(0, 12, 5, 5)], [10, 9, None])
    assert [entry.name for entry in labels.classes] == ["9", "10"]
    assert labels.report.features.no_label == 1


def test_country_wide_polygon_is_cut_before_it_is_reprojected(tmp_path: Path) -> None:
    lake = geopandas.GeoSeries([LAKE], crs="EPSG:32633").to_crs("EPSG:4326")[0]
    land = shapely.box(-179, -89, 179, 89).difference(lake)
    path = written(tmp_path / "labels.gpkg", [land, lake], "EPSG:4326", label=["land", "water"])
    labels = read_labels(path, GRID)
    assert [entry.pixels for entry in labels.report.classes] == [500, 100]
    assert labels.report.features.partly_outside == 1


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"kind": ["a", "b"]}, "the only column"),
        ({"osm_id": ["1", "2"], "Class": ["a", "b"], "name": ["x", "y"]}, "the only column with a usual name"),
        ({"id": [1, 2], "kind": ["a", "b"]}, "the only column with text"),
        ({"kind": ["a", "b"], "color": ["#ff0000", "#00ff00"]}, "the only column"),
    ],
)
def test_column_is_chosen_where_it_is_plain(tmp_path: Path, columns: dict[str, Any], expected: str) -> None:
    labels = read_labels(written(tmp_path / "labels.gpkg", [FIELD, LAKE], **columns), GRID)
    assert [entry.name for entry in labels.classes] == ["a", "b"]
    assert labels.report.column_choice == expected


def test_table_of_styles_is_no_layer(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.gpkg", [FIELD, LAKE], label=["a", "b"])
    pyogrio.write_dataframe(pd.DataFrame({"qml": ["..."]}), path, layer="layer_styles", append=True)
    assert read_labels(path, GRID).source == "labels.gpkg, layer labels, column label"


def test_colors_of_the_file_are_used_where_each_class_has_one(tmp_path: Path) -> None:
    geometries = [FIELD, LAKE, block(0, 12, 5, 5), block(10, 12, 5, 5)]
    labels = labels_of(tmp_path, geometries, ["a", "b", "b", "water"], Colour=["#F00", "#00ff00", "#0000ff", "red"])
    colors = {entry.name: entry.color for entry in labels.classes}
    assert colors["a"] == "#ff0000"
    assert colors["b"] not in ("#00ff00", "#0000ff")
    assert colors["water"] == class_colors(["water"], {})[0]


def test_no_two_classes_share_a_color() -> None:
    names = ["water", "lake", "Water body", *(f"class {index}" for index in range(251))]
    colors = class_colors(names, {"lake": "#123456", "class 0": "#123456", "class 1": "#332288"})
    assert len(set(colors)) == 254
    assert colors[1] == "#123456"
    assert all(normalized_color(color) == color for color in colors)


# Machado et al. 2009, severity 1.0, in linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}


@pytest.mark.parametrize("vision", VISION)
def test_expected_colors_stay_apart(vision: str) -> None:
    srgb = np.array([[int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)] for color in EXPECTED])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ VISION[vision].T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))
    # A difference of about 2.3 is just noticeable side by side; patches on a map need several times that.
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2)) > 12


def _two_layers(path: Path) -> Path:
    written(path, [FIELD, LAKE], label=["a", "b"])
    frame = geopandas.GeoDataFrame({"label": ["a"]}, geometry=[FIELD], crs="EPSG:32633")
    pyogrio.write_dataframe(frame, path, layer="other", append=True)
    return path


def _text(path: Path) -> Path:
    path.write_text("no vector file")
    return path


def _table(path: Path) -> Path:
    path = path.with_suffix(".csv")
    path.write_text("label\na\n")
    return path


def _empty(path: Path) -> Path:
    frame = geopandas.GeoDataFrame({"label": pd.Series([], dtype=str)}, geometry=[], crs="EPSG:32633")
    pyogrio.write_dataframe(frame, path, geometry_type="Polygon")
    return path


LONLAT_FIELD = shapely.box(12.495, 52.521, 12.496, 52.522)
MANY = [block(index % 30, index // 30, 1, 1) for index in range(300)]

BAD: dict[str, tuple[Callable[[Path], Path], dict[str, str], str]] = {
    "missing": (lambda path: path, {}, "does not exist"),
    "not vector": (_text, {}, "cannot be read as a vector file"),
    "table": (_table, {}, "no layer with geometries"),
    "no CRS": (lambda path: written(path, [FIELD, LAKE], None, label=["a", "b"]), {}, "no coordinate reference system"),
    "no .prj": (
        lambda path: written(path.with_suffix(".shp"), [FIELD, LAKE], None, label=["a", "b"]),
        {},
        r"\.prj file is missing",
    ),
    "several layers": (_two_layers, {}, r"2 layers \(labels, other\): choose one with --layer"),
    "no such layer": (_two_layers, {"layer": "Lables"}, "no layer 'Lables'.*did you mean 'labels'"),
    "no such column": (
        lambda path: written(path, [FIELD, LAKE], fclass=["a", "b"], code=[1, 2]),
        {"field": "class"},
        r"no column 'class': it has fclass, code; did you mean 'fclass'",
    ),
    "unclear column": (
        lambda path: written(path, [FIELD, LAKE], one=["a", "b"], two=["a", "b"]),
        {},
        r"2 columns \(one, two\).*--field",
    ),
    "empty layer": (_empty, {}, "layer 'labels' is empty"),
    "fractions": (lambda path: written(path, [FIELD, LAKE], label=[0.5, 1.0]), {}, r"fractions \(0.5\)"),
    "dates": (
        lambda path: written(path, [FIELD, LAKE], label=list(pd.to_datetime(["2020-01-01", "2021-01-01"]))),
        {},
        "is of type datetime",
    ),
    "null labels": (lambda path: written(path, [FIELD, LAKE], label=["", None]), {}, "none of the 2 features"),
    "points": (
        lambda path: written(path, [FIELD.centroid, LAKE.centroid], label=["a", "b"]),
        {},
        "holds Point and no polygons: only polygons are supported",
    ),
    "outside": (
        lambda path: written(path, [FAR, FAR.buffer(10)], label=["a", "b"]),
        {},
        r"cover 13\.\d+,52\.\d+,.* in EPSG:4326 \(379990,.*EPSG:32633\), the region 12\.\d+,52\..*\(330000,5821840,",
    ),
    "degrees called metres": (
        lambda path: written(path, [LONLAT_FIELD], label=["a"]),
        {},
        r"look like degrees, but .* projected \(EPSG:32633\)",
    ),
    "metres called degrees": (
        lambda path: written(path, [FIELD], "EPSG:4326", label=["a"]),
        {},
        r"are not degrees, but .* geographic \(EPSG:4326\)",
    ),
    "single class": (lambda path: written(path, [FIELD, LAKE], label=["a", "a"]), {}, r"a single class .*\('a'\)"),
    "too many classes": (
        lambda path: written(path, MANY, label=[f"c{index}" for index in range(300)]),
        {},
        "300 classes in the region, expected at most 254",
    ),
    "long name": (lambda path: written(path, [FIELD, LAKE], label=["a", "b" * 200]), {}, "name of 200 characters"),
    "nothing left": (
        lambda path: written(path, [FIELD, FIELD, FIELD], label=["a", "b", "c"]),
        {},
        "0 of the 3 classes cover pixels of the region",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path: Path, case: str) -> None:
    make, arguments, message = BAD[case]
    with pytest.raises(LabelError, match=message) as caught:
        read_labels(make(tmp_path / "labels.gpkg"), GRID, **arguments)
    assert "\n" not in str(caught.value)


def test_demo_labels_have_six_classes() -> None:
    labels = read_labels(DEMO, HAVELLAND)
    report, counts = labels.report, labels.report.features
    assert [entry.name for entry in labels.classes] == [
        *("farmland", "forest", "grassland", "residential", "water", "wetland")
    ]
    assert labels.attribution == "(c) OpenStreetMap contributors, ODbL 1.0"
    assert [entry.color for entry in labels.classes] == class_colors([entry.name for entry in labels.classes], {})
    assert counts.read == pyogrio.read_info(DEMO)["features"] == 444
    dropped = counts.outside + counts.no_geometry + counts.not_polygons + counts.no_label + counts.duplicates
    assert counts.used + dropped == counts.read
    assert [entry.pixels for entry in report.classes] == [
        np.count_nonzero(labels.values == index) for index in range(6)
    ]
    # Hectares of the polygons inside the region, and of their pixels: 100 pixels to the hectare.
    inside = geopandas.read_file(DEMO).clip(HAVELLAND.extent.geom)
    hectares = inside.dissolve("class").area / 1e4
    for entry in report.classes:
        assert entry.pixels / 100 == pytest.approx(hectares[entry.name], rel=0.05)
    assert 0 < report.contradicting_share < 0.005


def test_labels_need_no_torch() -> None:
    code = "import sys, lianet_user.labels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
