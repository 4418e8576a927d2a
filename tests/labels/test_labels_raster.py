"""Rasters of labels: the right value in the right place from any grid, and nothing read that was not meant as a label."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from label_files import CORNER, LONLAT, PLAIN, UTM, bad, placed, raster, shorten, text, write_raster, write_text
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.control import GroundControlPoint

from lianet_user.errors import LabelError
from lianet_user.files.header import IGNORE
from lianet_user.geo.transformation import transformation
from lianet_user.labels.class_tables import ClassTable, TableEntry
from lianet_user.labels.label_options import LabelOptions
from lianet_user.labels.raster import RasterBand, open_raster, raster_classes, raster_numbers, sample_values

GRID = GeoBox((40, 60), CORNER, UTM)
ROTATED = GeoBox((40, 60), CORNER @ Affine.rotation(25), UTM)
ONES = np.ones(GRID.shape, np.uint8)
RANDOM = np.random.default_rng(0).integers(0, 5, GRID.shape).astype(np.uint8)


def opened(
    folder: Path, values: Any = ONES, transform: Affine | None = CORNER, crs: Any = UTM, **more: Any
) -> RasterBand:
    """A GeoTIFF with these values, opened without options."""
    return open_raster(write_raster(folder / "labels.tif", values, transform, crs, **more), PLAIN)


@contextmanager
def edited(path: Path, values: Any = ONES, **layout: Any) -> Iterator[Any]:
    """A GeoTIFF that has just been written, open for what is written afterwards."""
    with rasterio.open(write_raster(path, values, **layout), "r+") as dataset:
        yield dataset


def covering(grid: GeoBox, crs: str, size: float, turn: float = 0.0) -> tuple[Affine, tuple[int, int]]:
    """A grid of another CRS and pixel, at no round coordinates, that covers `grid` with room to spare."""
    change = Transformer.from_crs(grid.crs, crs, always_xy=True)
    west, south, east, north = change.transform_bounds(*grid.boundingbox.bbox)
    margin = max(east - west, north - south)
    corner = Affine.translation(west - 0.77 * margin, north + 0.77 * margin)
    return corner @ Affine.rotation(turn) @ Affine.scale(size, -size), (
        int((north - south + 2 * margin) / size),
        int((east - west + 2 * margin) / size),
    )


def classes(raster: RasterBand, grid: GeoBox = GRID, rule: Any = "majority", coverage: float = 0.5) -> Any:
    values = sample_values(raster, grid).index
    return raster_classes(raster, grid, {float(value): int(value) for value in values}, coverage, rule)


def source_pixels(raster: RasterBand, grid: GeoBox, n: int) -> NDArray[np.float64]:
    """(2, h * n, w * n) column and row under every sub-pixel's centre, each transformed by itself."""
    height, width = grid.shape
    cols, rows = np.meshgrid((np.arange(width * n) + 0.5) / n, (np.arange(height * n) + 0.5) / n)
    places = placed(shapely.points(cols.ravel(), rows.ravel()), grid.affine)
    x, y = transformation(raster.crs, grid).invert(shapely.get_coordinates(places)).T
    return np.stack(~raster.transform @ (x, y)).reshape(2, *cols.shape)


def borne(fine: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    """The class that most of a pixel's sub-pixels have, if it is half of them and no other has as many."""
    height, width = fine.shape[0] // n, fine.shape[1] // n
    blocks = fine.reshape(height, n, width, n).transpose(0, 2, 1, 3).reshape(height, width, n * n)
    counts = np.stack([(blocks == value).sum(axis=-1) for value in range(5)])
    most = counts.max(axis=0)
    alone = (counts == most).sum(axis=0) == 1
    return np.where(alone & (2 * most >= n * n), counts.argmax(axis=0), IGNORE).astype(np.uint8)


@pytest.mark.parametrize("grid", [GRID, ROTATED], ids=["north-up", "rotated"])
@pytest.mark.parametrize("turn", [0, 30], ids=["", "turned"])
@pytest.mark.parametrize(
    ("crs", "size", "n"),
    [
        ("EPSG:32633", 7.3, 4),
        ("EPSG:4326", 1e-4, 4),
        ("EPSG:32632", 25.0, 4),
        ("EPSG:31468", 10.0, 4),
        ("EPSG:25833", 1.5, 7),
        ("EPSG:3035", 0.8, 13),
    ],
)
def test_every_pixel_is_where_it_belongs(
    tmp_path: Path, crs: str, size: float, n: int, turn: float, grid: GeoBox
) -> None:
    transform, (height, width) = covering(grid, crs, size, turn)
    rows, cols = np.mgrid[:height, :width]
    # Patches about as large as a pixel, no two neighbours alike, so that a shift of one pixel shows everywhere.
    patch = n if n > 4 else 1
    values = ((3 * (cols // patch) + 2 * (rows // patch)) % 5).astype(np.uint8)
    raster = opened(tmp_path, values, transform, crs)
    col, row = source_pixels(raster, grid, n)
    edge = np.minimum(*(patch * np.abs(axis / patch - np.round(axis / patch)) for axis in (col, row))) < 2e-3
    unsure = edge.reshape(grid.shape[0], n, grid.shape[1], n).any(axis=(1, 3))
    inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
    col, row = np.where(inside, col, 0).astype(int), np.where(inside, row, 0).astype(int)
    expected = borne(np.where(inside, values[row, col], IGNORE).astype(np.uint8), n)
    found = classes(raster, grid)
    assert (~unsure).mean() > 0.3
    assert (expected[~unsure] != IGNORE).mean() > 0.2
    np.testing.assert_array_equal(found.values[~unsure], expected[~unsure])
    assert found.outside_ground == pytest.approx((~inside).sum() / n**2, abs=0.01 * grid.shape[0])


def test_the_same_grid_is_read_straight(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (50, 70)).astype(np.uint8)
    shifted = CORNER @ Affine.translation(-4, -3)
    found = classes(opened(tmp_path, values, shifted))
    np.testing.assert_array_equal(found.values, values[3:43, 4:64])
    assert (found.nodata_ground, found.outside_ground, found.excluded_ground) == (0, 0, 0)


def test_a_grid_that_counts_rows_from_the_south(tmp_path: Path) -> None:
    upward = CORNER @ Affine(1, 0, 0, 0, -1, GRID.shape[0])
    found = classes(opened(tmp_path, RANDOM[::-1], upward))
    np.testing.assert_array_equal(found.values, RANDOM)


def test_half_a_pixel_counts(tmp_path: Path) -> None:
    """A raster of the same pixel, half of one to the east: each pixel sees two values in exact halves."""
    values = np.tile(np.arange(60, dtype=np.uint8) % 5, (40, 1))
    half = opened(tmp_path, values, CORNER @ Affine.translation(0.5, 0))
    assert (classes(half).values[:, 1:] == IGNORE).all()
    assert classes(half).undecided == 40 * 59
    # A quarter is not half.
    quarter = opened(tmp_path, values, CORNER @ Affine.translation(0.25, 0))
    np.testing.assert_array_equal(classes(quarter).values, values)


def test_center_asks_the_centre_alone(tmp_path: Path) -> None:
    """Thin lines through the centres of the pixels: the centre sees them, the area does not."""
    values = np.zeros((400, 600), np.uint8)
    values[:, 5::10] = 1
    raster = opened(tmp_path, values, CORNER @ Affine.scale(0.1))
    assert (classes(raster, rule="center").values == 1).all()
    assert (classes(raster).values == 0).all()


def test_no_rule_meets_a_value_that_was_not_told(tmp_path: Path) -> None:
    """Fifty pixels in one: the area is known from a sixteenth of its length, and the centre lies between."""
    region = GeoBox((4, 6), CORNER, GRID.crs)
    values = np.zeros((200, 300), np.uint8)
    values[25::50, 25::50] = 1
    raster = opened(tmp_path, values, CORNER @ Affine.scale(0.02))
    assert sample_values(raster, region).index.tolist() == [0, 1]
    assert (classes(raster, region, "center").values == 1).all()
    assert (classes(raster, region).values == 0).all()


def test_tiles_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform, shape = covering(GRID, "EPSG:4326", 3e-5)
    values = np.random.default_rng(1).integers(0, 2, shape).astype(np.uint8)
    raster = opened(tmp_path, values, transform, "EPSG:4326", nodata=1)
    at_once = raster_numbers(raster, GRID, 0.25, "majority")
    monkeypatch.setattr("lianet_user.labels.raster.TILE_SUBPIXELS", 7 * 11)
    monkeypatch.setattr("lianet_user.labels.raster.TILE_PIXELS", 500)
    in_tiles = raster_numbers(raster, GRID, 0.25, "majority")
    assert (at_once.values == in_tiles.values).mean() + np.isnan(at_once.values).mean() > 0.99
    assert at_once.nodata_ground == pytest.approx(in_tiles.nodata_ground, rel=1e-3)


def test_ground_is_counted(tmp_path: Path) -> None:
    values = np.zeros((40, 60), np.uint8)
    values[:10], values[10:20], values[20:30] = 9, 1, 2
    raster = opened(tmp_path, values[:, :45], nodata=9)
    found = raster_classes(raster, GRID, {0.0: 0, 1.0: None, 2.0: 1}, 0.5, "majority")
    assert (found.nodata_ground, found.outside_ground, found.excluded_ground) == (450, 600, 450)
    expected = np.full(GRID.shape, IGNORE)
    expected[20:30, :45], expected[30:, :45] = 1, 0
    np.testing.assert_array_equal(found.values, expected)
    assert sample_values(raster, GRID).to_dict() == {0: 450, 1: 450, 2: 450}
    with pytest.raises(LabelError, match="holds 1, which was not there when its values were listed"):
        raster_classes(raster, GRID, {0.0: 0, 2.0: 1}, 0.5, "majority")


def test_only_values_in_the_region_are_told(tmp_path: Path) -> None:
    values = np.full((80, 120), 7, np.uint16)
    values[20:60, 30:90] = np.random.default_rng(0).integers(1000, 1003, (40, 60))
    raster = opened(tmp_path, values, CORNER @ Affine.translation(-30, -20))
    assert sample_values(raster, GRID).index.tolist() == [1000, 1001, 1002]


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
def test_every_type_of_number(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).integers(1, 5, GRID.shape).astype(dtype)
    raster = opened(tmp_path, values)
    np.testing.assert_array_equal(classes(raster).values, values)
    counts = sample_values(raster, GRID)
    assert counts.to_dict() == {value: int((values == value).sum()) for value in range(1, 5)}
    np.testing.assert_array_equal(raster_numbers(raster, GRID, 0.5, "majority").values, values)


def test_numbers_are_means_of_what_is_known(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-5, 50, (160, 240)).astype(np.float32)
    values[::4], values[1, 5], values[2, 6] = np.nan, np.inf, -9999
    raster = opened(tmp_path, values, CORNER @ Affine.scale(0.25), nodata=-9999)
    found = raster_numbers(raster, GRID, 0.5, "majority")
    unknown = ~np.isfinite(values) | (values == -9999)
    blocks = np.where(unknown, np.nan, values).reshape(40, 4, 60, 4)
    np.testing.assert_allclose(found.values, np.nanmean(blocks, axis=(1, 3)), rtol=1e-5)
    assert found.nodata_ground == pytest.approx(unknown.sum() / 16)
    assert np.isnan(raster_numbers(raster, GRID, 0.8, "majority").values).all()


def test_everything_that_means_nodata(tmp_path: Path) -> None:
    values = np.zeros(GRID.shape, np.float32)
    values[0], values[1], values[2], values[3], values[4] = -1, -2, -3, np.nan, 5
    options = LabelOptions(nodata=(-2.0, -3.0, float("nan")))
    raster = open_raster(write_raster(tmp_path / "labels.tif", values, nodata=-1), options)
    assert sample_values(raster, GRID).index.tolist() == [0, 5]
    assert raster_numbers(raster, GRID, 0.5, "majority").nodata_ground == 4 * 60
    (note,) = raster.notes
    assert note == "Nodata: -1 (as the file states), -2 (as given), -3 (as given), nan (as given)"


LOWEST = float(np.finfo(np.float32).min)
STATISTICS = {"STATISTICS_MINIMUM": "0", "STATISTICS_MAXIMUM": "50"}


@pytest.mark.parametrize(
    ("value", "dtype", "layout", "tags", "hidden"),
    [
        (LOWEST, "float32", {}, {}, True),
        (-LOWEST, "float32", {}, {}, True),
        (-3.40282306074e38, "float32", {}, {}, True),  # as ArcGIS rounds it
        (LOWEST, "float64", {}, {}, True),
        (-1.7e308, "float64", {}, {}, True),
        (LOWEST, "float32", {"nodata": 7}, {}, True),
        (-3.3e38, "float32", {}, {}, False),
        (-9999, "float32", {}, {}, False),
        (-9999, "int16", {}, {}, False),
        (-9999, "float32", {}, STATISTICS, True),
        (-9999, "int16", {}, STATISTICS, True),
        (-9999, "float32", {}, {**STATISTICS, "STATISTICS_MINIMUM": "-9999"}, False),
        (-9999, "float32", {}, {**STATISTICS, "STATISTICS_APPROXIMATE": "YES"}, False),
        (-9999, "float32", {}, {**STATISTICS, "STATISTICS_MINIMUM": "none"}, False),
        (-9999, "float32", {"nodata": 7}, STATISTICS, False),
        (200, "uint8", {}, STATISTICS, False),
        (-9999, "float32", {"driver": "AAIGrid"}, {}, True),
        (-9999, "float32", {"driver": "AAIGrid", "nodata": 7}, {}, False),
    ],
)
def test_nodata_that_no_file_states_is_known_where_it_is_certain(
    tmp_path: Path, value: float, dtype: str, layout: dict[str, Any], tags: dict[str, str], hidden: bool
) -> None:
    values = np.full(GRID.shape, 5, dtype)
    values[0] = value
    path = write_raster(tmp_path / "labels.tif", values, **{key: layout[key] for key in layout if key != "driver"})
    if tags:
        with rasterio.open(path, "r+") as file:
            file.update_tags(1, **tags)
    if "driver" in layout:
        path = tmp_path / "labels.asc"
        stated = "".join(f"NODATA_value {layout[key]}\n" for key in layout if key == "nodata")
        rows = "\n".join(" ".join(f"{cell:.1f}" for cell in row) for row in values)
        size = f"ncols {GRID.width}\nnrows {GRID.height}\nxllcorner 330000\nyllcorner {5_822_040 - 10 * GRID.height}\n"
        write_text(path, f"{size}cellsize 10\n{stated}{rows}\n")
    raster = open_raster(path, LabelOptions(labels_crs=UTM))
    assert (value not in sample_values(raster, GRID).index) == hidden
    assert raster_numbers(raster, GRID, 0.5, "majority").nodata_ground == hidden * GRID.width


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_masks_mean_nodata(tmp_path: Path, kind: str) -> None:
    shown = np.full(GRID.shape, 255, np.uint8)
    shown[:10] = 0
    path = tmp_path / "labels.tif"
    if kind == "alpha":
        write_raster(path, np.stack([ONES, shown]), alpha="yes")
    else:
        with edited(path) as file:
            file.write_mask(shown)
    raster = open_raster(path, PLAIN)
    assert raster.band == 1
    assert classes(raster).nodata_ground == 600
    assert raster.notes == ("Nodata: what the file's mask hides",)


def test_nothing_but_nodata_in_the_region(tmp_path: Path) -> None:
    raster = opened(tmp_path, nodata=1)
    with pytest.raises(LabelError, match=r"labels.tif: band 1 holds nothing but nodata in the region"):
        sample_values(raster, GRID)


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 256), ("uint8", -1), ("uint8", 0.5), ("int16", float("nan")), ("float32", 1e300)]
)
def test_nodata_that_no_pixel_can_hold(tmp_path: Path, dtype: str, value: float) -> None:
    path = write_raster(tmp_path / "labels.tif", ONES.astype(dtype))
    with pytest.raises(LabelError, match=f"`nodata` .* of type {dtype} and cannot hold this value"):
        open_raster(path, LabelOptions(nodata=(value,)))


def test_longitudes_from_0_to_360_and_across_the_antimeridian(tmp_path: Path) -> None:
    region = GeoBox((40, 60), Affine(1000, 0, 620_000, 0, -1000, 7_200_000), "EPSG:32660")
    rows, cols = np.mgrid[:1800, :3600]
    by_place = ((cols // 5 + rows // 3) % 5).astype(np.uint8)
    first, second = (
        classes(opened(tmp_path, np.roll(by_place, shift, 1), Affine(0.1, 0, west, 0, -0.1, 90), LONLAT), region)
        for west, shift in ((-180, 0), (0, 1800))
    )
    row, col = np.mgrid[:40, :60] + 0.5
    lon, lat = Transformer.from_crs("EPSG:32660", LONLAT, always_xy=True).transform(*(region.affine @ (col, row)))
    assert lon.min() < -179
    assert lon.max() > 179
    expected = by_place[((90 - lat) / 0.1).astype(int), ((lon + 180) / 0.1).astype(int)]
    decided = first.values != IGNORE
    assert decided.mean() > 0.9
    assert first.outside_ground == second.outside_ground == 0
    np.testing.assert_array_equal(first.values, second.values)
    assert (first.values[decided] == expected[decided]).mean() > 0.95


def test_a_region_around_a_pole(tmp_path: Path) -> None:
    region = GeoBox((40, 40), Affine(10_000, 0, -200_000, 0, -10_000, 200_000), "EPSG:3413")
    quadrant = np.broadcast_to(np.arange(3600) // 900, (1800, 3600)).astype(np.uint8)
    raster = opened(tmp_path, quadrant, Affine(0.1, 0, -180, 0, -0.1, 90), LONLAT)
    found = classes(raster, region, "center").values
    row, col = np.mgrid[:40, :40] + 0.5
    lon, _ = Transformer.from_crs("EPSG:3413", LONLAT, always_xy=True).transform(*(region.affine @ (col, row)))
    np.testing.assert_array_equal(found, ((lon + 180) // 90).astype(np.uint8) % 4)


def test_several_bands_want_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    with edited(path, np.stack([4 * ONES, 5 * ONES])) as file:
        file.descriptions = ("2017", "2018")
    with pytest.raises(LabelError, match=r"labels.tif has 2 bands: 1 \(2017\), 2 \(2018\); choose .* with `band`"):
        open_raster(path, PLAIN)
    raster = open_raster(path, LabelOptions(band=2))
    assert raster.source == "labels.tif, band 2 (2018)"
    assert sample_values(raster, GRID).index.tolist() == [5]
    for band in (0, 3, -1):
        with pytest.raises(LabelError, match=f"has no band {band}: it has 1"):
            open_raster(path, LabelOptions(band=band))


POINTS = [GroundControlPoint(row, col, col, -row) for row, col in ((0, 0), (0, 60), (40, 0))]
OF_FEATURES: dict[str, dict[str, Any]] = {
    "layer": {"layer": "x"},
    "field": {"field": "x"},
    "where": {"where": "x > 1"},
    "date_field": {"date_field": "x"},
    "buffer": {"buffer": 10.0},
    "encoding": {"encoding": "utf-8"},
    "on_conflict": {"on_conflict": "last"},
    "rule": {"rule": "all-touched"},
    "background": {"background": "rest", "labelled_area": "region"},
    "labelled_area": {"labelled_area": "region", "task": "coverage"},
}
BAD = {
    "a picture": bad(raster(np.zeros((3, 20, 30)), photometric="RGB"), "a picture, not labels"),
    "complex numbers": bad(raster(dtype="complex64"), "band 1 holds complex numbers"),
    "no CRS": bad(raster(crs=None), r"has no coordinate reference system: .* `labels_crs`"),
    "no CRS, and nonsense for it": bad(
        raster(crs=None), "`labels_crs` 'nonsense' is no coordinate reference system", labels_crs="nonsense"
    ),
    "another CRS": bad(raster(), "states EPSG:32633 .*, but `labels_crs` is EPSG:25833", labels_crs="EPSG:25833"),
    "no place": bad(raster(transform=Affine.identity()), "is not georeferenced: nothing at all"),
    "control points": bad(raster(transform=None, gcps=POINTS), "is not georeferenced: control points"),
    **{
        f"{name} is given": bad(raster(), f"is a raster, and `{name}`.* is for features", **options)
        for name, options in OF_FEATURES.items()
    },
    "text": bad(text("text.tif", "no raster at all"), r"text.tif cannot be read as a raster: expected a GeoTIFF"),
    "absent": bad(lambda folder: folder / "absent.tif", "is not a file: expected a raster"),
    "a folder": bad(lambda folder: folder, "is not a file: expected a raster"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_raster_of_labels_is_refused(tmp_path: Path, case: str) -> None:
    make, message, options = BAD[case]
    with pytest.raises(LabelError, match=message):
        open_raster(make(tmp_path), LabelOptions(**options))


def test_a_band_of_a_picture_can_be_chosen(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "photo.tif", np.stack([ONES] * 3), photometric="RGB")
    assert open_raster(path, LabelOptions(band=2)).band == 2


def test_a_crs_is_given_where_the_file_states_none(tmp_path: Path) -> None:
    given = LabelOptions(labels_crs=UTM)
    bare = open_raster(write_raster(tmp_path / "bare.tif", ONES, crs=None), given)
    assert (
        bare.notes[0]
        == "CRS: EPSG:32633 (WGS 84 / UTM zone 33N), as given with `labels_crs`, since the file states none"
    )
    assert (classes(bare).values == 1).all()
    assert len(open_raster(write_raster(tmp_path / "stated.tif", ONES), given).notes) == 1


def test_outside_is_said_with_both_extents(tmp_path: Path) -> None:
    away = CORNER @ Affine.translation(1000, 0)
    raster = opened(tmp_path, ONES, away)
    match = r"lie outside the region. The labels cover 12.*EPSG:4326 \(340000,5821640,.*, the region 12.*\(330000,"
    with pytest.raises(LabelError, match=match):
        sample_values(raster, GRID)
    with pytest.raises(LabelError, match=match):
        raster_numbers(raster, GRID, 0.5, "majority")
    degrees = opened(tmp_path, ONES[:4, :4], Affine(0.1, 0, 12, 0, -0.1, 53))
    with pytest.raises(LabelError, match="look like degrees, but their CRS is projected"):
        sample_values(degrees, GRID)


def test_files_that_only_point_to_a_raster_are_refused(tmp_path: Path) -> None:
    target = write_raster(tmp_path / "labels.tif", ONES)
    vrt = tmp_path / "labels.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="60" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{target}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(LabelError, match="a VRT only points to other files: give the file itself"):
        open_raster(vrt, PLAIN)


def test_a_file_that_ends_too_early(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (400, 600)).astype(np.uint8)
    path = shorten(write_raster(tmp_path / "labels.tif", values), 0.4)
    with pytest.raises(LabelError, match="cannot be read to its end"):
        sample_values(open_raster(path, PLAIN), GeoBox(values.shape, CORNER, GRID.crs))
    raw = shorten(write_raster(tmp_path / "labels.img", values, driver="ENVI"), 0.5)
    with pytest.raises(LabelError, match="is 120000 bytes long, and its header says 240000 or more"):
        open_raster(raw, PLAIN)


@pytest.mark.parametrize(("width", "height"), [(2**21, 2**20), (2**15, 2**19)])
def test_sizes_that_no_labels_have(tmp_path: Path, width: int, height: int) -> None:
    """Sparse files of a few kilobytes that declare terabytes, or gigabytes within the region."""
    path, fine = tmp_path / "huge.tif", CORNER @ Affine.scale(2**-12)
    shape = {"width": width, "height": height, "count": 1, "dtype": "uint8", "transform": fine, "crs": "EPSG:32633"}
    layout = {"sparse_ok": True, "bigtiff": "YES", "tiled": True, "blockxsize": 2**14, "blockysize": 2**14}
    with rasterio.open(path, "w", driver="GTiff", **shape, **layout):
        pass
    start = time.perf_counter()
    with pytest.raises(LabelError, match=r"more than any raster of labels has|far more than labels need: resample it"):
        sample_values(open_raster(path, PLAIN), GRID)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("driver", "suffix"),
    [("HFA", ".img"), ("AAIGrid", ".asc"), ("ENVI", ".bil"), ("EHdr", ".bil"), ("SAGA", ".sdat"), ("RST", ".rst")],
)
def test_formats(tmp_path: Path, driver: str, suffix: str) -> None:
    tif = write_raster(tmp_path / "labels.tif", RANDOM)
    path = tif.with_suffix(suffix)
    rasterio.shutil.copy(tif, path, driver=driver)
    np.testing.assert_array_equal(classes(open_raster(path, PLAIN)).values, RANDOM)


def test_names_are_taken_from_where_they_are(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "labels.tif", ONES)

    def table() -> ClassTable:
        found = open_raster(path, PLAIN).table
        assert found is not None
        return found

    assert open_raster(path, PLAIN).table is None

    frame = pd.DataFrame({"VALUE": [1, 2], "COUNT": [5, 6], "NAME": ["Wald", "Röhricht"], "RED": [0, 9]})
    pyogrio.write_dataframe(frame, tmp_path / "labels.tif.dbf", driver="ESRI Shapefile", encoding="UTF-8")
    (tmp_path / "labels.tif.dbf").rename(tmp_path / "labels.tif.vat.dbf")
    for leftover in tmp_path.glob("labels.tif.cpg"):
        leftover.rename(tmp_path / "labels.tif.vat.cpg")
    assert table().source == "attribute table labels.tif.vat.dbf"
    assert table().entries == (TableEntry("1", "Wald"), TableEntry("2", "Röhricht"))

    sidecar = tmp_path / "labels.tif.aux.xml"
    names = "<CategoryNames><Category></Category><Category>wood</Category><Category>reed</Category></CategoryNames>"
    sidecar.write_text(f'<PAMDataset><PAMRasterBand band="1">{names}</PAMRasterBand></PAMDataset>')
    assert table().entries == (TableEntry("1", "wood"), TableEntry("2", "reed"))

    fields = (("Value", 5), ("Class", 2), ("R", 6), ("G", 7), ("B", 8))
    columns = "".join(f"<FieldDefn><Name>{name}</Name><Usage>{usage}</Usage></FieldDefn>" for name, usage in fields)
    cells = "".join(f"<F>{cell}</F>" for cell in (2, "reeds", 255, 128, 0))
    rat = f"<GDALRasterAttributeTable>{columns}<Row>{cells}</Row></GDALRasterAttributeTable>"
    sidecar.write_text(f'<PAMDataset><PAMRasterBand band="1">{names}{rat}</PAMRasterBand></PAMDataset>')
    assert table().entries == (TableEntry("2", "reeds", "#ff8000"),)

    palette = '<paletteEntry value="1" label="trees" color="#112233" alpha="255"/>'
    qml = (
        f'<qgis><pipe><rasterrenderer type="paletted" band="1"><colorPalette>{palette}</colorPalette></rasterrenderer>'
    )
    (tmp_path / "labels.qml").write_text(f"{qml}</pipe></qgis>")
    assert table().entries == (TableEntry("1", "trees", "#112233"),)

    with rasterio.open(path, "r+") as file:
        file.update_tags(CLASSES=json.dumps([{"value": 0, "name": "water", "color": "#2b7bba", "code": "411"}]))
    assert table().entries == (TableEntry("0", "water", "#2b7bba"),)


@pytest.mark.parametrize("tag", ["5", "null", "[5]", '{"a": 1}', '[{"value": 1}]', "[", "[]"])
def test_a_tag_of_another_program_names_nothing(tmp_path: Path, tag: str) -> None:
    with edited(tmp_path / "labels.tif") as file:
        file.update_tags(CLASSES=tag)
    assert open_raster(tmp_path / "labels.tif", PLAIN).table is None


def test_sidecars_are_not_trusted(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "labels.tif", ONES)
    sidecar = tmp_path / "labels.tif.aux.xml"
    for content, message in (
        ('<!DOCTYPE a [<!ENTITY b "c">]><PAMDataset/>', "declares entities"),
        ("<PAMDataset>", r"labels.tif.aux.xml is not readable XML"),
    ):
        sidecar.write_text(content)
        with pytest.raises(LabelError, match=message):
            open_raster(path, PLAIN)


def test_colors_of_the_colour_table_make_no_classes(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    with edited(path, photometric="palette") as file:
        file.write_colormap(1, {1: (255, 0, 0, 255), 2: (0, 128, 255, 255)})
    raster = open_raster(path, PLAIN)
    assert raster.table is None
    assert raster.colors == {"1": "#ff0000", "2": "#0080ff"}


@pytest.mark.parametrize("tag", ["TIFFTAG_COPYRIGHT", "attribution"])
def test_attribution_is_kept(tmp_path: Path, tag: str) -> None:
    with edited(tmp_path / "labels.tif") as file:
        file.update_tags(**{tag: "© those who drew it"})
    assert open_raster(tmp_path / "labels.tif", PLAIN).attribution == "© those who drew it"


def test_a_scale_is_not_applied_silently(tmp_path: Path) -> None:
    with edited(tmp_path / "labels.tif") as file:
        file.scales = (0.5,)
    assert any("not applied" in note for note in open_raster(tmp_path / "labels.tif", PLAIN).notes)


def test_tree_cover_of_romania_keeps_its_mean(shared_data: Path) -> None:
    raster = open_raster(shared_data / "romania" / "tree_cover_density_2018_romania.tif", PLAIN)
    grid = GeoBox((110, 110), Affine(10, 0, 5_271_940, 0, -10, 2_533_040), "EPSG:3035")
    found = raster_numbers(raster, grid, 0.5, "majority")
    with rasterio.open(raster.path) as file:
        values = file.read(1, masked=True)
    assert np.nanmean(found.values) == pytest.approx(float(values.mean()), abs=0.5)
    assert found.outside_ground + found.nodata_ground == pytest.approx(110 * 110 - 4 * values.count(), abs=1)
