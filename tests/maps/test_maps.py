"""Maps: right values in the right place, names and colours that other programs read, and never half a map."""

from __future__ import annotations

import datetime as dt
import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from agreement import assert_same_classes
from factories import CLASSES, box_of, contents, ignoring, predict, read_raster
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from lianet_user.errors import AreaError, DateError, OutputError, PartlyOutsideWarning
from lianet_user.files.header import IGNORE, ClassEntry
from lianet_user.geo.grid import Window, bounds_of, whole, window_geobox
from lianet_user.geo.ground_area import pixel_metres
from lianet_user.head import Head
from lianet_user.maps import ClassCounts, picture, style
from lianet_user.maps.resume_store import store_path

SIDECARS = ("map.tif.aux.xml", "map.qml", "map.png")

pytestmark = pytest.mark.usefixtures("coarse_figures")


def test_the_map_of_a_whole_region_holds_its_classes_on_its_grid(head: Head, out: Path) -> None:
    result = predict(head, out / "map.tif")
    expected = head.values(head.region.window)
    with rasterio.open(result.path) as dataset:
        assert np.array_equal(dataset.read(1), expected)
        assert dataset.transform == head.region.geobox.affine
        assert tuple(dataset.bounds) == bounds_of(head.region.geobox)
        assert dataset.crs.to_epsg() == 32633
        assert (dataset.dtypes, dataset.nodata, dataset.descriptions) == (("uint8",), IGNORE, ("class",))
    counts = np.bincount(expected.ravel(), minlength=len(CLASSES)).tolist()
    assert len(np.unique(expected)) > 1
    assert result.summary == ClassCounts(dict(zip([entry.name for entry in CLASSES], counts, strict=True)))
    assert result.geobox == head.region.geobox
    assert (result.window, result.outside, result.date) == (head.region.window, 0.0, dt.date(2017, 2, 16))


@pytest.mark.parametrize("window", [Window(0, 0, 1, 1), Window(13, 7, 31, 45), Window(95, 127, 1, 1)])
def test_a_box_maps_exactly_its_pixels_wherever_it_begins(head: Head, out: Path, window: Window) -> None:
    result = predict(head, out / "map.tif", **box_of(head.region, window))
    assert result.window == window
    with rasterio.open(result.path) as dataset:
        assert dataset.transform.almost_equals(window_geobox(head.region.geobox, window).affine)
        assert np.array_equal(dataset.read(1), head.values(window))


def test_a_box_in_degrees_is_covered(head: Head, out: Path) -> None:
    window = Window(20, 30, 40, 50)
    geobox = window_geobox(head.region.geobox, window)
    result = predict(head, out / "map.tif", bbox=bounds_of(geobox, CRS("EPSG:4326")))
    assert result.window is not None
    assert result.window.intersection(window) == window


def test_a_map_in_tiles_is_the_map_in_one(head: Head, out: Path) -> None:
    progress: list[tuple[int, int]] = []
    predict(head, out / "map.tif", listener=lambda done, total: progress.append((done, total)), tile=80)
    assert_same_classes(read_raster(out / "map.tif", 1), head.answers(head.region.window))
    assert len(progress) == 5
    assert progress[0] == (0, 96 * 128)
    assert progress == sorted(progress)
    assert progress[-1] == (96 * 128, 96 * 128)


def test_a_head_maps_any_date_of_its_region_and_no_other(head: Head, out: Path) -> None:
    assert predict(head, out / "map.tif", dates=[dt.date(2017, 3, 16)]).date == dt.date(2017, 3, 16)
    with rasterio.open(out / "map.tif") as dataset:
        assert dataset.tags()["DATE"] == "2017-03-16"
    with pytest.raises(DateError, match="does not hold 2018-01-01"):
        predict(head, out / "other.tif", dates=["2018-01-01"])


def test_a_map_tells_where_it_comes_from(head: Head, out: Path) -> None:
    with rasterio.open(predict(head, out / "map.tif").path) as dataset:
        tags = dataset.tags()
    assert tags["REGION"] == "small"
    assert tags["REGION_SHA256"] == head.region.sha256
    assert tags["TIFFTAG_COPYRIGHT"] == head.header.attribution
    assert tags["TIFFTAG_SOFTWARE"].startswith("lianet-user ")
    assert json.loads(tags["CLASSES"])[2] == {"value": 2, "name": "Röhricht", "color": "#f2d64b", "code": "411"}


def test_other_programs_read_names_and_colours(head: Head, out: Path) -> None:
    predict(head, out / "map.tif")
    with rasterio.open(out / "map.tif") as dataset:
        colors = dataset.colormap(1)
    assert [colors[value][:3] for value in range(3)] == [(43, 123, 186), (20, 83, 45), (242, 214, 75)]
    # rasterio does not show category names; GDAL writes those it has read into a VRT.
    rasterio.shutil.copy(out / "map.tif", out / "map.vrt", driver="VRT")
    names = [element.text for element in ElementTree.parse(out / "map.vrt").iter("Category")]
    assert names == [entry.name for entry in CLASSES]


def test_the_qgis_style_has_every_class(tmp_path: Path) -> None:
    style.write_qml(tmp_path / "map.qml", CLASSES)
    renderer = ElementTree.parse(tmp_path / "map.qml").find("pipe/rasterrenderer")
    assert renderer is not None
    assert renderer.get("type") == "paletted"
    entries = [(e.get("value"), e.get("label"), e.get("color")) for e in renderer.iter("paletteEntry")]
    assert entries == [(str(value), entry.name, entry.color) for value, entry in enumerate(CLASSES)]


def test_what_xml_cannot_hold_in_a_name_leaves_the_sidecars_readable(tmp_path: Path) -> None:
    classes = [ClassEntry(name="bell", color="#000000"), ClassEntry(name="\ufffe", color="#ffffff")]
    style.write_qml(tmp_path / "map.qml", classes)
    style.write_pam(tmp_path / "map.tif.aux.xml", classes, [1, 2])
    names = [element.text for element in ElementTree.parse(tmp_path / "map.tif.aux.xml").iter("Category")]
    assert names == ["bell", "\ufffd"]
    assert ElementTree.parse(tmp_path / "map.qml").find(".//paletteEntry") is not None


@pytest.mark.parametrize("there", ["map.tif", *SIDECARS])
def test_whatever_lies_where_a_map_goes_is_not_replaced_unasked(head: Head, out: Path, there: str) -> None:
    (out / there).write_bytes(b"earlier")
    with pytest.raises(
        OutputError, match=f"{there} exists: choose another name with `output`, or replace it with `overwrite`"
    ):
        predict(head, out / "map.tif")
    assert contents(out) == {there: b"earlier"}
    predict(head, out / "map.tif", overwrite=True)
    assert contents(out).keys() == {"map.tif", *SIDECARS}
    assert (out / there).read_bytes() != b"earlier"


def test_overviews_of_an_earlier_map_do_not_outlive_it(head: Head, out: Path) -> None:
    (out / "map.tif.ovr").write_bytes(b"earlier")
    predict(head, out / "map.tif", overwrite=True)
    assert not (out / "map.tif.ovr").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("map.png", r"expected a name that ends in \.tif"),
        ("map", r"expected a name that ends in \.tif"),
        ("map.gpkg", r"expected a name that ends in \.tif"),
        ("nowhere/map.tif", "nowhere does not exist"),
    ],
)
def test_a_map_is_a_tif_in_a_folder_that_exists(head: Head, out: Path, name: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        predict(head, out / name)


def test_a_failure_leaves_the_earlier_map_as_it_was(head: Head, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(head, out / "map.tif")
    earlier = contents(out)

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rasterio.shutil, "copy", full)
    with pytest.raises(OutputError, match=r"cannot write .*map\.tif: No space left on device"):
        predict(head, out / "map.tif", overwrite=True)
    shutil.rmtree(store_path(out / "map.tif"))
    assert contents(out) == earlier


def test_an_interruption_before_anything_was_computed_leaves_nothing(head: Head, out: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(head, out / "map.tif", listener=interrupt)
    assert contents(out) == {}


def test_a_disk_without_room_is_found_early(head: Head, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(head, "answers", None)
    with pytest.raises(OutputError, match="GB free, a map of 12288 pixels may need"):
        predict(head, out / "map.tif")


def test_a_box_outside_the_region_is_refused(head: Head, out: Path) -> None:
    with pytest.raises(AreaError, match="lies outside the region"):
        predict(head, out / "map.tif", bbox=(20.0, 50.0, 20.1, 50.1))
    with pytest.raises(AreaError, match="'EPSG:zzz' is no coordinate reference system"):
        predict(head, out / "map.tif", bbox=(12.0, 52.0, 13.0, 53.0), bbox_crs="EPSG:zzz")
    assert contents(out) == {}


def test_a_box_partly_outside_is_mapped_inside_with_a_warning(head: Head, out: Path) -> None:
    west, south, east, north = bounds_of(head.region.geobox)
    area: dict[str, Any] = {"bbox": (west - (east - west), south, east, north), "bbox_crs": "EPSG:32633"}
    # Not pytest.warns, which would raise again, as errors, what pyproject.toml ignores in others' modules.
    with pytest.raises(PartlyOutsideWarning, match=r"50\.0% of the box lies outside the region 'small'"):
        predict(head, out / "map.tif", **area)
    assert contents(out) == {}
    with ignoring(PartlyOutsideWarning):
        result = predict(head, out / "map.tif", **area)
    assert result.window == head.region.window
    assert result.outside == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("crs", "resolution", "metres"),
    [("EPSG:32633", 10.0, 10.0), ("EPSG:4326", 1 / 3600, 31.0), ("EPSG:3857", 10.0, 10.0), ("EPSG:2263", 10.0, 3.05)],
)
def test_pixels_are_measured_on_the_ground(crs: str, resolution: float, metres: float) -> None:
    origin = {"EPSG:32633": (500_000, 5_800_000), "EPSG:2263": (980_000, 200_000)}.get(crs, (0, 0))
    affine = Affine(resolution, 0, origin[0], 0, -resolution, origin[1])
    across, down = pixel_metres(GeoBox((10, 10), affine, crs))
    assert across == pytest.approx(metres, rel=0.01)
    assert down == pytest.approx(metres, rel=0.01)


@pytest.mark.parametrize(
    ("crs", "affine", "turn"),
    [
        ("EPSG:32633", Affine(10, 0, 500_000, 0, -10, 5_800_000), 0.0),
        ("EPSG:32633", Affine(0, 10, 500_000, 10, 0, 5_800_000), 90.0),  # columns go north
        ("EPSG:32633", Affine(10, 0, 330_000, 0, -10, 5_820_000), 1.98),  # (15 - 12.5) degrees x sin(52.5)
        ("EPSG:3035", Affine(10, 0, 5_272_000, 0, -10, 2_533_000), -8.9),
        ("EPSG:4326", Affine(1e-4, 0, 12, 0, -1e-4, 52), 0.0),
        ("EPSG:3413", Affine(10, 0, -50, 0, -10, 50), None),  # the north pole itself
    ],
)
def test_the_arrow_points_to_true_north(crs: str, affine: Affine, turn: float | None) -> None:
    geobox = GeoBox((10, 10), affine, crs)
    assert picture.north(geobox, whole(geobox)) == (turn if turn is None else pytest.approx(turn, abs=0.1))


@pytest.mark.parametrize(("most", "length"), [(1.0, 1.0), (19.9, 10.0), (5000.0, 5000.0), (0.3, 0.2), (999.0, 500.0)])
def test_scale_bars_have_round_lengths(most: float, length: float) -> None:
    assert picture.round_length(most) == pytest.approx(length)


@pytest.mark.parametrize("shape", [(1, 1), (2000, 20), (20, 2000)])
def test_a_quicklook_bears_any_shape_and_any_name(tmp_path: Path, shape: tuple[int, int]) -> None:
    names = ["$x_1$ costs 5$", "_hidden", "水田", "n" * 128, *(f"class {n}" for n in range(200))]
    classes = [ClassEntry(name=name, color="#123456") for name in names]
    geobox = GeoBox(shape, Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
    values = np.zeros(tuple(min(size, 100) for size in shape), np.uint8)
    figure = picture.class_figure(values, geobox, classes, [1] * 204, title="A $ region", attribution="© $ all " * 300)
    picture.save_png(figure, tmp_path / "map.png")
    assert max(figure.get_size_inches()) < 16
