"""Sentinel-2's band files: found by their names, in any folders, on any number of dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from imagery_factories import write_raster
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from lianet_user.errors import ImageryError
from lianet_user.geo.grid import Window
from lianet_user.imagery.imagery import ImageryOptions
from lianet_user.imagery.planes import PlaneImagery
from lianet_user.imagery.sensors import WAVELENGTHS_NM
from lianet_user.imagery.sentinel2 import is_sentinel2, open_sentinel2

GSD = {"B01": 60, "B02": 10, "B03": 10, "B05": 20, "B8A": 20, "B10": 60, "SCL": 20}
DAY, LATER = "20170216T102101", "20170318T102021"

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes a band file of 720 x 960 m; keywords replace what it holds and where it lies."""

    def band_file(
        band: str,
        values: np.ndarray | None = None,
        *,
        moment: str = DAY,
        east: float = 399_960.0,
        crs: str | None = "EPSG:32633",
        gsd: float | None = None,
        folder: str = "scene",
        suffix: str = "",
        tile: str = "T33UUU",
    ) -> Path:
        gsd = gsd or GSD[band]
        if values is None:
            shape = (round(720 / gsd), round(960 / gsd))
            values = np.random.default_rng(len(band) + ord(band[-1])).integers(300, 4000, shape).astype(np.uint16)
        geobox = GeoBox(values.shape, from_origin(east, 5_900_040.0, gsd, gsd), crs or "EPSG:32633")
        more = {} if crs else {"crs": None}
        return write_raster(tmp_path / folder / f"{tile}_{moment}_{band}{suffix}.tif", values, geobox, **more)

    return band_file


def opened(*paths: Path, **options: Any) -> PlaneImagery:
    return open_sentinel2(paths, ImageryOptions(**options))


def refusal(*paths: Path, **options: Any) -> str:
    with pytest.raises(ImageryError) as caught:
        opened(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(imagery: PlaneImagery) -> list[str]:
    return [band.name for band in imagery.bands]


# --- what it says


def test_imagery_lies_on_the_grid_of_its_finest_band(write: Writer) -> None:
    imagery = opened(*(write(band) for band in ("B01", "B8A", "B03")))
    assert imagery.geobox == GeoBox((72, 96), from_origin(399_960.0, 5_900_040.0, 10, 10), "EPSG:32633")
    assert imagery.factors == (6, 1, 2)
    coarse = opened(*(write(band) for band in ("B01", "B8A")))
    assert coarse.geobox == GeoBox((36, 48), from_origin(399_960.0, 5_900_040.0, 20, 20), "EPSG:32633")
    assert coarse.factors == (3, 1)


def test_imagery_says_what_each_band_is_and_where_it_comes_from(write: Writer) -> None:
    imagery = opened(*(write(band) for band in ("B8A", "B01", "B02")), scale=5_000.0)
    assert names(imagery) == ["B01", "B02", "B8A"]  # by wavelength
    assert [band.gsd_m for band in imagery.bands] == [60.0, 10.0, 20.0]
    assert [band.wavelength_nm for band in imagery.bands] == [WAVELENGTHS_NM[b] for b in ("B01", "B02", "B8A")]
    assert {(band.offset, band.scale) for band in imagery.bands} == {(0.0, 5_000.0)}
    (acquisition,) = imagery.acquisitions
    assert (acquisition.date, acquisition.time) == (dt.date(2017, 2, 16), dt.time(10, 21, 1))
    assert acquisition.id == imagery.source == "T33UUU_20170216T102101"


def test_a_zero_is_no_measurement_in_its_own_band_and_at_its_own_size(write: Writer) -> None:
    fine = np.full((72, 96), 1000, np.uint16)
    fine[10:13, 20] = 0
    fine[30, 30] = 77
    coarse = np.full((36, 48), 3000, np.uint16)
    coarse[7, 9] = 0
    imagery = opened(write("B02", fine), write("B05", coarse), nodata=77.0)
    patch = imagery.read(0, imagery.window)
    assert np.array_equal(patch.valid[0], (fine > 0) & (fine != 77))
    expected = np.ones((72, 96), bool)
    expected[14:16, 18:20] = False
    assert np.array_equal(patch.valid[1], expected)
    np.testing.assert_allclose(patch.reflectance[0], 0.1, atol=1e-6)  # filled, so that no cliff is encoded
    np.testing.assert_allclose(patch.reflectance[1], 0.3, atol=1e-6)


def test_the_offset_is_subtracted_and_reflectance_is_clipped(write: Writer) -> None:
    values = np.full((72, 96), 3000, np.uint16)
    values[0, :3] = 500, 20_000, 1000
    imagery = opened(write("B02", values), offset=1000.0)
    patch = imagery.read(0, imagery.window)
    np.testing.assert_allclose(patch.reflectance[0, 0, :4], [0.0, 1.0, 0.0, 0.2], atol=1e-6)
    assert imagery.bands[0].offset == 1000.0
    assert patch.valid.all()


# --- which files are taken


def test_the_cirrus_band_is_left_out_unless_asked_for(write: Writer) -> None:
    paths = [write(band) for band in ("B02", "B10", "B03")]
    assert names(opened(*paths)) == ["B02", "B03"]
    assert any("B10 is left out" in note for note in opened(*paths).notes)
    assert names(opened(*paths, bands=("B10", "b2"))) == ["B10", "B02"]
    assert "B10, which does not see the ground" in refusal(paths[1])


def test_folders_are_searched_for_band_files_and_the_rest_is_passed_over(write: Writer, tmp_path: Path) -> None:
    folder = write("B02").parent
    write("B05", folder="scene/deep/er")
    (folder / "MTD_MSIL1C.xml").write_text("<xml/>")
    (folder / f"T33UUU_{DAY}_TCI.jp2").write_text("a picture")
    assert names(opened(folder)) == ["B02", "B05"]
    assert is_sentinel2([folder])
    assert not is_sentinel2([tmp_path / "nowhere"])
    assert not is_sentinel2([folder / "MTD_MSIL1C.xml"])


def test_of_a_band_in_several_resolutions_the_measured_one_is_taken(write: Writer) -> None:
    for band, sizes in (("B01", (20, 60)), ("B02", (10, 20, 60)), ("B05", (20, 60))):
        for size in sizes:
            write(band, gsd=size, suffix=f"_{size}m", folder=f"scene/R{size}m")
    imagery = opened(write("B03", suffix="_10m").parent)
    assert names(imagery) == ["B01", "B02", "B03", "B05"]
    assert imagery.factors == (6, 1, 1, 2)
    assert imagery.source == f"T33UUU_{DAY}"


def test_dates_come_in_order_of_time_and_may_lack_bands(write: Writer) -> None:
    write("B02", moment=LATER, folder="later")
    write("B02")
    folder = write("B05").parent
    imagery = opened(folder.parent / "later", folder)
    assert [held.date for held in imagery.acquisitions] == [dt.date(2017, 2, 16), dt.date(2017, 3, 18)]
    assert "band B05 is missing on 2017-03-18" in imagery.notes
    assert [bool(valid.any()) for valid in imagery.read(1, imagery.window).valid] == [True, False]
    assert imagery.read(0, imagery.window).valid.all()
    assert "no file for band B11: found B02, B05" in refusal(folder, bands=("B02", "B11"))


def test_dates_are_chosen_before_anything_is_asked_about_them(write: Writer) -> None:
    paths = write("B02"), write("B02", moment="20230216T102101")
    assert "`offset`" in refusal(*paths)
    assert len(opened(*paths, until=dt.date(2020, 1, 1)).acquisitions) == 1
    assert "none of 2 dates (2017-02-16 to 2023-02-16) is left by `since` 2024-01-01" in refusal(
        *paths, since=dt.date(2024, 1, 1)
    )


# --- offsets


def test_imagery_since_2022_needs_an_offset(write: Writer) -> None:
    assert opened(write("B02", moment="20220124T102101")).bands[0].offset == 0.0
    path = write("B02", moment="20220125T102101", folder="later")
    assert "`offset` 1000 or `offset` 0" in refusal(path)
    assert opened(path, offset=0.0).bands[0].offset == 0.0
    assert opened(path, offsets={dt.date(2022, 1, 25): 1000.0}).bands[0].offset == 1000.0


def test_each_date_has_its_own_offset(write: Writer) -> None:
    values = np.full((72, 96), 2000, np.uint16)
    paths = write("B02", values), write("B02", values, moment="20230216T102101")
    imagery = opened(*paths, offset=0.0, offsets={dt.date(2023, 2, 16): 1000.0})
    means = [imagery.read(index, imagery.window).reflectance.mean() for index in (0, 1)]
    np.testing.assert_allclose(means, [0.2, 0.1], atol=1e-6)
    assert "reflectance = (digital number - 1000) / 10000 on 2023-02-16" in imagery.notes


def test_the_offset_is_read_from_the_metadata_of_the_same_product(write: Writer, tmp_path: Path) -> None:
    moment = "20230216T102101"
    path = write("B02", moment=moment, folder="S2A.SAFE/GRANULE/L2A/IMG_DATA/R10m", suffix="_10m")
    metadata = tmp_path / "S2A.SAFE" / "MTD_MSIL2A.xml"
    text = (
        "<PRODUCT_URI>S2A_MSIL2A_{}_N0509.SAFE</PRODUCT_URI><BOA_QUANTIFICATION_VALUE unit='none'>10000"
        "</BOA_QUANTIFICATION_VALUE><AOT_QUANTIFICATION_VALUE unit='none'>1000.0</AOT_QUANTIFICATION_VALUE>"
        "<BOA_ADD_OFFSET band_id='0'>-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id='1'>-1000</BOA_ADD_OFFSET>"
    )
    metadata.write_text(text.format(LATER))
    assert "`offset`" in refusal(path)
    metadata.write_text(text.format(moment))
    assert (opened(path).bands[0].offset, opened(path).bands[0].scale) == (1000.0, 10_000.0)
    assert opened(path, offset=0.0).bands[0].offset == 0.0


# --- masks


def test_the_scene_classification_masks_where_it_is_asked_for(write: Writer) -> None:
    classes = np.full((36, 48), 4, np.uint8)
    classes[10, 20] = 9
    folder = write("B02").parent
    write("SCL", classes, suffix="_20m")
    assert opened(folder).read(0, Window(20, 40, 2, 2)).valid.all()
    assert any("give SCL as the mask" in note for note in opened(folder).notes)
    imagery = opened(folder, mask="SCL")
    expected = np.ones((72, 96), bool)
    expected[20:22, 40:42] = False
    assert np.array_equal(imagery.read(0, imagery.window).valid[0], expected)
    assert not any("mask" in note for note in imagery.notes)
    assert "`mask` CLD is neither a path nor part" in refusal(folder, mask="CLD")


def test_a_mask_may_lie_elsewhere(write: Writer) -> None:
    folder = write("B02").parent
    clouds = write("SCL", np.full((72, 96), 1, np.uint8), gsd=10, folder="clouds")
    clouds = clouds.rename(clouds.with_name("c_20170216.tif"))
    assert "`clear` or `clear_below`" in refusal(folder, mask=str(clouds))
    assert not opened(folder, mask=str(clouds.parent), clear=(0,)).read(0, Window(0, 0, 5, 5)).valid.any()


# --- what is refused


REFUSED: dict[str, tuple[list[tuple[str, dict[str, Any]]], list[str]]] = {
    "a band twice": ([("B02", {}), ("B02", {"folder": "again"})], ["band B02 of 2017-02-16 is given twice"]),
    "two tiles": ([("B02", {}), ("B02", {"tile": "T33UVU"})], ["two acquisitions of 2017-02-16", "T33UVU"]),
    "two products": ([("B02", {}), ("B02", {"moment": "20170216T235959"})], ["two acquisitions"]),
    "a band that is shifted": ([("B02", {}), ("B05", {"east": 399_970.0})], ["B05.tif covers"]),
    "a size that is no multiple": ([("B02", {}), ("B05", {"gsd": 15.0})], ["B05.tif covers"]),
    "another CRS": ([("B02", {}), ("B05", {"crs": "EPSG:32632"})], ["B05.tif covers"]),
    "another extent": ([("B02", {}), ("B05", {"values": np.ones((30, 48), np.uint16)})], ["B05.tif covers"]),
    "no CRS": ([("B02", {"crs": None})], ["no coordinate reference system"]),
    "no such date": ([("B02", {"moment": "20170230T102101"})], ["has a date in its name that does not exist"]),
    "bytes": ([("B02", {"values": np.ones((72, 96), np.uint8)})], ["holds bytes"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_bands_of_one_region_are_refused(write: Writer, case: str) -> None:
    files, words = REFUSED[case]
    message = refusal(*(write(band, **changes) for band, changes in files))
    assert all(each in message for each in words)


def test_grids_that_differ_between_dates_are_refused_without_one(write: Writer) -> None:
    paths = write("B02"), write("B02", moment=LATER, east=399_963.0)
    message = refusal(*paths)
    assert all(path.name in message for path in paths)
    imagery = opened(*paths, grid=str(paths[0]))
    assert imagery.geobox.shape == (72, 96)
    assert imagery.read(1, imagery.window).valid[:, :, 1:].all()


@pytest.mark.parametrize("name", ["image.tif", "T33UUU_20170216T102101_B13.tif", f"T33UUU_{DAY}_TCI.jp2"])
def test_a_file_that_is_not_named_as_a_band_is_refused(write: Writer, name: str) -> None:
    path = write("B02")
    renamed = path.rename(path.with_name(name))
    assert "not named as a Sentinel-2 band file" in refusal(renamed)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "no Sentinel-2 band files" in refusal(tmp_path)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"T33UUU_{DAY}_B02.tif"
    path.write_text("not an image")
    assert f"cannot read {path}" in refusal(path)


def test_fractions_that_are_no_reflectance_are_refused(write: Writer) -> None:
    path = write("B03", np.full((72, 96), 812.5, np.float32))
    assert "give `scale`" in refusal(path)
    assert opened(path, scale=10_000.0).bands[0].scale == 10_000.0


# --- real imagery


def test_real_imagery_is_read_as_it_was_measured(shared_data: Path) -> None:
    folder = shared_data / "havelland"
    imagery = opened(folder)
    assert imagery.factors == (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2)
    window = Window(300, 600, 96, 96)
    patch = imagery.read(0, window)
    assert patch.valid.all()
    with rasterio.open(folder / "T33UUU_20170216T102101_B09.jp2") as source:
        numbers = source.read(1)[50:66, 100:116]
    means = patch.reflectance[9].reshape(16, 6, 16, 6).mean((1, 3))
    np.testing.assert_allclose(means, numbers / 10_000, atol=1e-6)
    larger = imagery.read(0, Window(270, 560, 150, 150)).reflectance[:, 30:126, 40:136]
    np.testing.assert_allclose(patch.reflectance, larger, atol=1e-6)


def test_rasters_that_are_no_bands_are_passed_over_by_name(write: Writer, tmp_path: Path) -> None:
    write("B02")
    for number, name in enumerate(("stack_20180429", f"T33UUU_{DAY}_TCI", "MSK_CLDPRB_20m", "clouds_20170216")):
        path = write("B03", folder="scene/clouds" if "clouds" in name else "scene", suffix=str(number))
        path.rename(path.with_name(f"{name}.tif"))
    noted = "ignored, since not named as bands of Sentinel-2: "
    assert noted + "clouds_20170216.tif, stack_20180429.tif" in opened(tmp_path).notes
    masked = opened(tmp_path, mask=str(tmp_path / "scene" / "clouds"), clear=(300,))
    assert noted + "stack_20180429.tif" in masked.notes
