"""Polygons of a map: every pixel once, borders that neighbours share, names and colours that QGIS reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from factories import CLASSES, DEGREES, RegionHeaderFactory, patchy, read_raster, write_class_map
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Geod
from typer.testing import CliRunner

from lianet_user.cli import app
from lianet_user.errors import MapError, OutputError
from lianet_user.files.header import ClassEntry
from lianet_user.geo.grid import whole
from lianet_user.geo.ground_area import Ground
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.labels.class_tables import stored_style
from lianet_user.maps.geotiff import open_finished
from lianet_user.maps.polygons import pixel_outlines, polygons, with_shared_vertices


def read(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_file(path, layer="polygons")


@pytest.mark.parametrize("simplify", [0.0, 2.0, 20.0])
def test_polygons_tile_what_is_mapped_and_no_more(class_map: Path, small_geobox: GeoBox, simplify: float) -> None:
    frame = read(polygons(class_map, class_map.with_suffix(".gpkg"), simplify=simplify).path)
    assert frame.crs == small_geobox.crs
    assert shapely.is_valid(frame.geometry.to_numpy()).all()
    assert shapely.coverage_is_valid(frame.geometry.to_numpy())
    outline = shapely.union_all(frame.geometry.to_numpy())
    mapped = shapely.box(330_000, 5_819_040, 331_280, 5_820_000) - shapely.box(
        331_280 - 90, 5_820_000 - 70, 331_280, 5_820_000
    )
    assert shapely.symmetric_difference(outline, mapped).area == pytest.approx(0, abs=1e-6)


def test_hectares_are_those_of_the_pixels_however_smooth_the_borders(class_map: Path, small_geobox: GeoBox) -> None:
    values, pixels = read_raster(class_map, 1), Ground(small_geobox).pixels(whole(small_geobox))
    result = polygons(class_map, class_map.with_suffix(".gpkg"))
    frame = read(result.path)
    for value, entry in enumerate(CLASSES):
        hectares = pixels[values == value].sum()
        assert frame.loc[frame["class"] == entry.name, "area_ha"].sum() == pytest.approx(hectares, rel=1e-9)
        assert result.hectares[entry.name] == pytest.approx(hectares, rel=1e-9)
    codes = {("water", "0"), (CLASSES[1].name, "1"), ("Röhricht", "411")}
    assert set(zip(frame["class"], frame["code"], strict=True)) == codes


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 255]), min_size=6, max_size=6), min_size=5, max_size=5))
def test_any_map_burns_back_to_itself(tmp_path: Path, pixels: list[list[int]]) -> None:
    values = np.array(pixels, np.uint8)
    geobox = GeoBox(values.shape, Affine(10, 0, 330_000, 0, -10, 5_820_000), "EPSG:32633")
    source = open_finished(write_class_map(tmp_path / "map.tif", geobox, values))
    outlines, found = pixel_outlines(source)
    assert shapely.area(outlines).sum() == (values != 255).sum()
    assert shapely.is_valid(outlines).all()
    if not len(outlines):
        return
    middles = shapely.points(*(axis.ravel() + 0.5 for axis in np.meshgrid(np.arange(6), np.arange(5))))
    for pixel, value in zip(np.asarray(middles), values.ravel(), strict=True):
        assert list(found[shapely.contains(outlines, pixel)]) == ([] if value == 255 else [value])
    shared = with_shared_vertices(outlines)
    assert shapely.coverage_is_valid(shared)
    assert shapely.equals(shared, outlines).all()


def test_smoothing_takes_the_stairs_off_a_slanted_border(tmp_path: Path, small_geobox: GeoBox) -> None:
    row, col = np.indices((96, 128))
    write_class_map(tmp_path / "map.tif", small_geobox, (row > 0.6 * col).astype(np.uint8))
    stairs = polygons(tmp_path / "map.tif", tmp_path / "stairs.gpkg", simplify=0)
    smooth = polygons(tmp_path / "map.tif", tmp_path / "smooth.gpkg")
    assert smooth.polygons == stairs.polygons == 2
    assert smooth.vertices < stairs.vertices / 2
    border = shapely.intersection(*read(smooth.path).geometry)
    assert border.length < 1.02 * np.hypot(1280, 0.6 * 1280)  # stairs are a third longer


def test_areas_in_degrees_are_those_on_the_ellipsoid(tmp_path: Path) -> None:
    values = patchy((40, 60))
    write_class_map(tmp_path / "map.tif", DEGREES, values)
    frame = read(polygons(tmp_path / "map.tif", tmp_path / "map.gpkg", simplify=0).path)
    geod = Geod(ellps="WGS84")
    for outline, hectares in zip(shapely.segmentize(frame.geometry, 1e-3), frame["area_ha"], strict=True):
        assert abs(geod.geometry_area_perimeter(outline)[0]) / 1e4 == pytest.approx(hectares, rel=1e-6)
    pixels = Ground(DEGREES).pixels(whole(DEGREES))
    assert frame["area_ha"].sum() == pytest.approx(pixels[values != 255].sum(), rel=1e-9)
    assert pixels[0, 0] < pixels[-1, 0]  # the north has less


def test_feet_are_not_metres(tmp_path: Path) -> None:
    geobox = GeoBox((4, 4), Affine(10, 0, 980_000, 0, -10, 200_000), "EPSG:2263")
    write_class_map(tmp_path / "map.tif", geobox, np.ones((4, 4), np.uint8))
    result = polygons(tmp_path / "map.tif", tmp_path / "map.gpkg")
    assert result.hectares[CLASSES[1].name] == pytest.approx(
        1600 * 0.3048006**2 / 1e4, rel=3e-4
    )  # the grid is not quite true to scale


def test_qgis_and_finetune_find_names_and_colours(
    class_map: Path, tmp_path: Path, region_header: RegionHeaderFactory
) -> None:
    polygons(class_map, tmp_path / "map.gpkg", simplify=0)
    table = stored_style(tmp_path / "map.gpkg", "polygons")
    assert table is not None
    assert table.column == "class"
    assert [(each.name, each.color) for each in table.entries] == [(each.name, each.color) for each in CLASSES]
    labels = read_labels(tmp_path / "map.gpkg", region_header(), LabelOptions())
    assert np.array_equal(labels.maps[0].values, read_raster(class_map, 1))
    assert [(each.name, each.color) for each in labels.classes] == [(each.name, each.color) for each in CLASSES]


def test_a_class_that_the_map_does_not_name_is_called_by_its_number(tmp_path: Path, small_geobox: GeoBox) -> None:
    write_class_map(tmp_path / "map.tif", small_geobox, np.full((96, 128), 7, np.uint8))
    assert polygons(tmp_path / "map.tif", tmp_path / "map.gpkg").hectares == {"7": pytest.approx(122.88, rel=2e-4)}


def test_attribution_goes_along(tmp_path: Path, small_geobox: GeoBox) -> None:
    write_class_map(tmp_path / "map.tif", small_geobox, patchy((96, 128)), TIFFTAG_COPYRIGHT="© all who mapped")
    polygons(tmp_path / "map.tif", tmp_path / "map.gpkg")
    info = pyogrio.read_info(tmp_path / "map.gpkg", layer="polygons")
    assert info["layer_metadata"]["ATTRIBUTION"] == "© all who mapped"


@pytest.mark.parametrize(
    ("value", "classes", "message"),
    [
        (np.uint8(255), CLASSES, "has no pixel with a class"),
        (np.float32(1), (), "is a map of numbers: polygons are made of classes"),
        (np.uint8(1), (), "states neither classes nor a unit"),
        ("no map", (), "cannot be read as a map"),
        (None, (), "does not exist"),
    ],
    ids=["nothing is mapped", "a map of numbers", "classes without names", "a text", "no file"],
)
def test_what_is_no_map_of_classes_is_refused(
    tmp_path: Path, small_geobox: GeoBox, value: Any, classes: tuple[ClassEntry, ...], message: str
) -> None:
    path = tmp_path / "map.tif"
    if isinstance(value, str):
        path.write_text(value)
    elif value is not None:
        write_class_map(path, small_geobox, np.full((96, 128), value), classes)
    with pytest.raises(MapError, match=message):
        polygons(path, tmp_path / "map.gpkg")
    assert not list(tmp_path.glob("*.gpkg"))


def test_nothing_is_replaced_unasked_or_written_by_half(
    class_map: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "map.gpkg").write_bytes(b"earlier")
    with pytest.raises(OutputError, match=r"map\.gpkg exists"):
        polygons(class_map, tmp_path / "map.gpkg")
    with pytest.raises(OutputError, match=r"expected a name that ends in \.gpkg"):
        polygons(class_map, tmp_path / "map.shp")

    def full(*args: object, **options: object) -> None:
        raise pyogrio.errors.FeatureError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(pyogrio, "write_dataframe", full)
        with pytest.raises(OutputError, match=r"cannot write .*map\.gpkg: disk full"):
            polygons(class_map, tmp_path / "map.gpkg", overwrite=True)
    assert (tmp_path / "map.gpkg").read_bytes() == b"earlier"
    polygons(class_map, tmp_path / "map.gpkg", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.gpkg", "map.tif"]


def test_batches_are_one_layer(class_map: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(polygons(class_map, tmp_path / "whole.gpkg").path)
    monkeypatch.setattr("lianet_user.maps.polygons.BATCH", 50)
    parts = read(polygons(class_map, tmp_path / "parts.gpkg").path)
    assert len(whole) > 100
    assert parts.equals(whole)


def test_the_command_says_what_it_wrote(class_map: Path, tmp_path: Path) -> None:
    command = ["polygons", str(class_map), "-o", str(tmp_path / "map.gpkg"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["count"] == len(read(tmp_path / "map.gpkg"))
    assert sum(document["hectares"].values()) == pytest.approx(122.88 - 0.63, rel=2e-4)
