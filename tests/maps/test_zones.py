"""A map summed up in zones: exact shares of pixels, the zones' own fields, and an open word about what is not mapped."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from factories import CLASSES, DEGREES, read_raster, windows_asked, write_class_map, write_raster
from odc.geo.geobox import GeoBox
from pyproj import Geod
from typer.testing import CliRunner

from lianet_user.cli import app
from lianet_user.errors import LabelError, MapError, OutputError, PartlyOutsideWarning
from lianet_user.files.header import ClassEntry
from lianet_user.geo.grid import whole
from lianet_user.geo.ground_area import Ground
from lianet_user.maps import zones as module
from lianet_user.maps.geotiff import FinishedMap
from lianet_user.maps.zones import zones

LEFT, TOP = 330_000.0, 5_820_000.0
BOX = shapely.box(330_123, 5_819_333, 330_777, 5_819_666)
RING = shapely.Point(330_500, 5_819_500).buffer(217.3) - shapely.Point(330_480, 5_819_520).buffer(61.7)
PARTS = shapely.union_all([shapely.box(330_031, 5_819_101, 330_036, 5_819_109), RING])


def write_zones(path: Path, *outlines: shapely.Geometry, crs: object = "EPSG:32633", **fields: list[object]) -> Path:
    fields = fields or {"stand": [f"S{n}" for n in range(len(outlines))]}
    geopandas.GeoDataFrame(fields, geometry=list(outlines), crs=crs).to_file(path, layer="stands")
    return path


def write_number_map(path: Path, geobox: GeoBox, values: np.ndarray, **more: object) -> Path:
    return write_raster(path, geobox, values, {"UNIT": "m"}, **more)


def covered(outline: shapely.Geometry, geobox: GeoBox) -> np.ndarray:
    """The share of each pixel, by intersecting all of them: float64 (height, width)."""
    row, col = np.indices(geobox.shape)
    a, e = geobox.affine.a, geobox.affine.e
    x, y = geobox.affine.c + a * col, geobox.affine.f + e * row
    pixels = shapely.box(x, y + e, x + a, y)
    return np.asarray(shapely.area(shapely.intersection(pixels, outline)) / abs(a * e))


@contextmanager
def partly_outside() -> Iterator[None]:
    """Not pytest.warns, which would raise again, as errors, what pyproject.toml ignores in others' modules."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PartlyOutsideWarning)
        yield
    assert [each.category for each in caught] == [PartlyOutsideWarning]


def test_classes_are_counted_by_the_exact_share_of_each_pixel(
    class_map: Path, small_geobox: GeoBox, tmp_path: Path
) -> None:
    values = read_raster(class_map, 1)
    table = zones(class_map, write_zones(tmp_path / "zones.gpkg", BOX, RING, PARTS))
    for row, outline in enumerate((BOX, RING, PARTS)):
        share = covered(outline, small_geobox)
        found = table.frame.iloc[row]
        areas = share * Ground(small_geobox).pixels(whole(small_geobox))
        hectares = {entry.name: areas[values == value].sum() for value, entry in enumerate(CLASSES)}
        for name, expected in hectares.items():
            assert found[f"ha_{name}"] == pytest.approx(expected, abs=1e-6)
            assert found[f"share_{name}"] == pytest.approx(expected / areas.sum(), abs=1e-6)
        assert found["majority"] == max(hectares, key=lambda name: hectares[name])
        assert found["zone_ha"] == pytest.approx(areas.sum())
    assert (table.frame["unmapped"] == 0).all()
    assert table.incomplete == 0
    assert list(table.frame.columns) == ["zone", "stand", *table.columns, "geometry"]


def test_numbers_are_weighed_by_the_exact_share_of_each_pixel(tmp_path: Path, small_geobox: GeoBox) -> None:
    values = np.random.default_rng(0).gamma(2, 10, (96, 128)).astype(np.float32)
    write_number_map(tmp_path / "map.tif", small_geobox, values, nodata=math.nan)
    table = zones(tmp_path / "map.tif", write_zones(tmp_path / "zones.gpkg", BOX, PARTS))
    assert table.unit == "m"
    for row, outline in enumerate((BOX, PARTS)):
        share = covered(outline, small_geobox)
        found = table.frame.iloc[row]
        mean = np.average(values, weights=share)
        assert found["mean"] == pytest.approx(mean, rel=1e-6)
        assert found["stdev"] == pytest.approx(np.sqrt(np.average((values - mean) ** 2, weights=share)), rel=1e-6)
        assert found["min"] == pytest.approx(values[share > 0].min())
        assert found["max"] == pytest.approx(values[share > 0].max())
        assert found["count"] == pytest.approx(share.sum(), rel=1e-6)


def test_scaled_integers_are_numbers(tmp_path: Path, small_geobox: GeoBox) -> None:
    write_number_map(tmp_path / "map.tif", small_geobox, np.full((96, 128), 100, np.uint8), nodata=255)
    with rasterio.open(tmp_path / "map.tif", "r+") as dataset:
        dataset.scales, dataset.offsets = (0.005,), (1.0,)
    found = zones(tmp_path / "map.tif", write_zones(tmp_path / "zones.gpkg", BOX)).frame.iloc[0]
    assert (found["mean"], found["min"]) == (pytest.approx(1.5), pytest.approx(1.5))


def test_what_is_not_mapped_is_a_column_and_a_warning(tmp_path: Path, small_geobox: GeoBox) -> None:
    values = np.zeros((96, 128), np.uint8)
    values[:10] = 255
    classes = write_class_map(tmp_path / "map.tif", small_geobox, values)
    inside = shapely.box(LEFT + 100, TOP - 400, LEFT + 200, TOP - 300)
    half_outside = shapely.box(LEFT - 100, TOP - 400, LEFT + 100, TOP - 300)
    tenth_nodata = shapely.box(LEFT + 100, TOP - 325, LEFT + 200, TOP - 75)
    away = shapely.box(LEFT + 5000, TOP - 375, LEFT + 5200, TOP)
    write_zones(tmp_path / "zones.gpkg", inside, half_outside, tenth_nodata, away)
    with partly_outside():
        table = zones(classes, tmp_path / "zones.gpkg")
    assert table.frame["unmapped"].tolist() == [0, pytest.approx(0.5), pytest.approx(0.1), 1]
    assert table.incomplete == 3
    assert table.frame["majority"].isna().tolist() == [False, False, False, True]
    shares = table.frame[[f"share_{entry.name}" for entry in CLASSES]].sum(axis=1) + table.frame["unmapped"]
    assert shares.to_numpy() == pytest.approx(1)
    numbers = np.where(values == 255, np.nan, 2.5).astype(np.float32)
    write_number_map(tmp_path / "numbers.tif", small_geobox, numbers, nodata=math.nan)
    with partly_outside():
        table = zones(tmp_path / "numbers.tif", tmp_path / "zones.gpkg")
    assert table.frame["mean"].tolist()[:3] == pytest.approx([2.5] * 3)
    assert table.frame["unmapped"].tolist()[2] == pytest.approx(0.1)
    assert math.isnan(table.frame["min"].tolist()[3])


def test_a_zone_is_where_its_own_crs_puts_it(tmp_path: Path) -> None:
    """A long edge along a parallel bends in the map's grid: the same zone with many vertices has the same sums."""
    geobox = GeoBox((300, 400), Affine(1000, 0, 300_000, 0, -1000, 5_900_000), "EPSG:32633")
    row, _ = np.indices((300, 400))
    write_class_map(tmp_path / "map.tif", geobox, (row // 2 % 3).astype(np.uint8))
    plain = shapely.box(12.5, 51.8, 16.5, 51.82)
    write_zones(tmp_path / "zones.gpkg", plain, shapely.segmentize(plain, 0.01), crs="EPSG:4326")
    frame = zones(tmp_path / "map.tif", tmp_path / "zones.gpkg").frame
    straight = geopandas.GeoSeries([plain], crs="EPSG:4326").to_crs("EPSG:32633")[0]
    write_zones(tmp_path / "straight.gpkg", straight)
    columns = [f"ha_{entry.name}" for entry in CLASSES]
    hectares = frame[columns].to_numpy()
    wrong = zones(tmp_path / "map.tif", tmp_path / "straight.gpkg").frame[columns].to_numpy()[0]
    assert hectares[0] == pytest.approx(hectares[1], rel=0.01)
    assert np.abs(wrong / hectares[1] - 1).max() > 0.1
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry[0].equals(plain)


def test_overlapping_zones_are_each_counted_alone(class_map: Path, tmp_path: Path) -> None:
    alone = zones(class_map, write_zones(tmp_path / "one.gpkg", BOX)).frame
    among = zones(class_map, write_zones(tmp_path / "many.gpkg", RING, BOX, BOX)).frame
    columns = [column for column in alone if column not in ("zone", "stand", "majority", "geometry")]
    for row in (1, 2):
        assert among.loc[row, "majority"] == alone.loc[0, "majority"]
        assert [*among.loc[row, columns]] == pytest.approx([*alone.loc[0, columns]], rel=1e-12)


def test_a_map_in_degrees_is_measured_on_the_ellipsoid(tmp_path: Path) -> None:
    values = np.zeros((40, 60), np.uint8)
    values[:, 30:] = 1
    source = write_class_map(tmp_path / "map.tif", DEGREES, values)
    outline = shapely.box(12.153, 52.331, 12.402, 52.459)
    found = zones(source, write_zones(tmp_path / "zones.gpkg", outline, crs="EPSG:4326")).frame.iloc[0]
    geod = Geod(ellps="WGS84")

    def ground(outline: shapely.Geometry) -> float:
        return abs(geod.geometry_area_perimeter(shapely.segmentize(outline, 1e-3))[0]) / 1e4

    assert found["zone_ha"] == pytest.approx(ground(outline), rel=1e-6)
    west = outline & shapely.box(12, 52, 12.3, 53)
    # Pixels that the zone cuts count by their mean: a row's north has less ground than its south, by 1e-4 here.
    assert found[f"ha_{CLASSES[0].name}"] == pytest.approx(ground(west), rel=2e-5)


def test_a_zone_as_large_as_the_map_is_read_in_parts(
    class_map: Path, tmp_path: Path, small_geobox: GeoBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlines = write_zones(tmp_path / "zones.gpkg", small_geobox.extent.geom.buffer(-1), RING)
    reads = windows_asked(FinishedMap, "read", monkeypatch)
    with partly_outside():
        whole = zones(class_map, outlines).frame
    assert max(window.pixels for window in reads) == 96 * 128
    reads.clear()
    monkeypatch.setattr(module, "CELLS", 1000)
    with partly_outside():
        parts = zones(class_map, outlines).frame
    assert max(window.pixels for window in reads) <= 1000
    numbers = [column for column in whole if column.startswith(("ha_", "share_", "unmapped"))]
    assert parts[numbers].to_numpy() == pytest.approx(whole[numbers].to_numpy(), abs=1e-5)


def test_every_class_of_the_map_is_a_column_whether_it_occurs_or_not(tmp_path: Path, small_geobox: GeoBox) -> None:
    classes = (ClassEntry(name="Wood", color="#000000"), ClassEntry(name="wood", color="#ffffff"))
    write_class_map(tmp_path / "map.tif", small_geobox, np.full((96, 128), 9, np.uint8), classes)
    write_zones(tmp_path / "zones.gpkg", BOX)
    table = zones(tmp_path / "map.tif", tmp_path / "zones.gpkg")
    assert [name for name in table.columns if name.startswith("ha_")] == ["ha_Wood_0", "ha_wood_1", "ha_9"]
    assert table.frame["majority"].tolist() == ["9"]
    assert table.frame["ha_wood_1"].tolist() == [0]
    table.write(tmp_path / "table.gpkg")  # which tells no Wood from wood


def test_the_table_goes_to_csv_or_geopackage_with_the_zones_fields(class_map: Path, tmp_path: Path) -> None:
    outlines = write_zones(tmp_path / "zones.gpkg", BOX, PARTS, fid=[7, 3], owner=["Ä, B", None])
    table = zones(class_map, outlines)
    table.write(tmp_path / "table.csv")
    table.write(tmp_path / "table.gpkg")
    text = pd.read_csv(tmp_path / "table.csv")
    drawn = geopandas.read_file(tmp_path / "table.gpkg", layer="zones")
    assert sorted(text["zone"]) == [3, 7]
    for read in (text, drawn):
        assert read["owner"].isna().sum() == 1
        assert "Ä, B" in read["owner"].tolist()
        for name in table.columns:
            written, expected = read[name], table.frame[name]
            assert written.tolist() == expected.tolist() or written.to_numpy() == pytest.approx(expected.to_numpy())
    assert shapely.equals(drawn.geometry.to_numpy(), table.frame.geometry.to_numpy()).all()
    with pytest.raises(OutputError, match=r"table\.csv exists"):
        table.write(tmp_path / "table.csv")
    with pytest.raises(OutputError, match=r"expected a name that ends in \.csv or \.gpkg"):
        table.write(tmp_path / "table.xlsx")


def test_fields_of_the_same_name_need_a_prefix(class_map: Path, tmp_path: Path) -> None:
    outlines = write_zones(tmp_path / "zones.gpkg", BOX, Majority=["mine"])
    with pytest.raises(LabelError, match=r"fields with the names of columns of the result \(Majority\).*`prefix`"):
        zones(class_map, outlines)
    table = zones(class_map, outlines, prefix="map_")
    assert table.frame["Majority"].tolist() == ["mine"]
    assert "map_majority" in table.columns


BOW_TIE = shapely.Polygon([(330_100, 5_819_100), (330_200, 5_819_200), (330_200, 5_819_100), (330_100, 5_819_200)])


@pytest.mark.parametrize(
    ("outlines", "crs", "message"),
    [
        (
            [BOX, BOW_TIE],
            "EPSG:32633",
            r"1 of 2 zones cannot be used, first row 2, which has a polygon that is not valid",
        ),
        ([BOX, shapely.Point(330_100, 5_819_100)], "EPSG:32633", "first row 2, which has no polygon"),
        ([shapely.Point(330_100, 5_819_100)], "EPSG:32633", "has no polygons: expected the outlines of zones"),
        ([BOX], None, "has no coordinate reference system"),
        ([shapely.box(400_000, 5_819_100, 400_100, 5_819_200)], "EPSG:32633", "no zone has mapped ground in"),
    ],
)
def test_zones_that_cannot_be_used_are_refused_in_one_line(
    class_map: Path, tmp_path: Path, outlines: list[shapely.Geometry], crs: str | None, message: str
) -> None:
    frame = geopandas.GeoDataFrame({"n": range(len(outlines))}, geometry=outlines, crs=crs)
    path = tmp_path / ("zones.gpkg" if crs else "zones.shp")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        frame.to_file(path)
    with pytest.raises(LabelError, match=message) as caught:
        zones(class_map, path)
    assert "\n" not in str(caught.value)


def test_a_band_that_is_not_there_is_refused(class_map: Path, tmp_path: Path) -> None:
    with pytest.raises(MapError, match="no band 2: expected `band` from 1 to 1"):
        zones(class_map, write_zones(tmp_path / "zones.gpkg", BOX), band=2)


def test_the_command_writes_the_table_and_counts_zones(class_map: Path, tmp_path: Path) -> None:
    outlines = write_zones(tmp_path / "zones.gpkg", BOX, RING)
    command = ["zones", str(class_map), str(outlines), "-o", str(tmp_path / "table.csv")]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["zones"], document["incomplete"]) == (2, 0)
    assert pd.read_csv(tmp_path / "table.csv").columns.tolist() == ["zone", "stand", *document["columns"]]
