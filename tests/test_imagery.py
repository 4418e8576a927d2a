"""Imagery: band files become one grid on which nothing measured is lost and nothing missing is taken for a measurement."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from lianet_user.errors import ImageryError
from lianet_user.training.imagery import WAVELENGTHS_NM, Scene, block_mean, read_sentinel2, refine

GSD = {"B01": 60, "B02": 10, "B03": 10, "B05": 20, "B8A": 20, "B10": 60}
DAY = "20170216T102101"

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
    ) -> Path:
        gsd = gsd or GSD[band]
        if values is None:
            shape = (round(720 / gsd), round(960 / gsd))
            values = np.random.default_rng(len(band) + ord(band[-1])).integers(300, 4000, shape).astype(np.uint16)
        path = tmp_path / folder / f"T33UUU_{moment}_{band}.tif"
        path.parent.mkdir(exist_ok=True)
        profile = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "crs": crs}
        height, width = values.shape
        transform = from_origin(east, 5_900_040.0, gsd, gsd)
        with rasterio.open(path, "w", height=height, width=width, transform=transform, **profile) as dataset:
            dataset.write(values, 1)
        return path

    return band_file


def numbers(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def scene_of(files: dict[str, Path], **options: float) -> Scene:
    return read_sentinel2(list(files.values()), offset=options.get("offset"), scale=options.get("scale", 10_000.0))


# --- what is measured


def test_block_means_of_every_band_are_what_was_measured(write: Writer) -> None:
    files = {band: write(band) for band in ("B01", "B02", "B05")}
    scene = scene_of(files)
    assert scene.reflectance.shape == (3, 72, 96)
    assert scene.reflectance.dtype == np.float32
    for index, (band, factor) in enumerate((("B01", 6), ("B02", 1), ("B05", 2))):
        assert scene.bands[index].name == band
        assert scene.factor(index) == factor
        measured = numbers(files[band]) / 10_000
        np.testing.assert_allclose(block_mean(scene.reflectance[index], factor), measured, atol=1e-6)
    assert scene.valid.all()


def test_a_scene_lies_on_the_grid_of_its_finest_band(write: Writer) -> None:
    scene = scene_of({band: write(band) for band in ("B01", "B8A", "B03")})
    assert scene.geobox == GeoBox((72, 96), from_origin(399_960.0, 5_900_040.0, 10, 10), "EPSG:32633")
    coarse = scene_of({band: write(band) for band in ("B01", "B8A")})
    assert coarse.geobox == GeoBox((36, 48), from_origin(399_960.0, 5_900_040.0, 20, 20), "EPSG:32633")
    assert [coarse.factor(index) for index in range(2)] == [3, 1]


def test_a_scene_says_what_each_band_is_and_where_it_comes_from(write: Writer) -> None:
    scene = scene_of({band: write(band) for band in ("B8A", "B01", "B02")}, scale=5_000.0)
    assert [band.name for band in scene.bands] == ["B01", "B02", "B8A"]  # by wavelength
    assert [band.gsd_m for band in scene.bands] == [60.0, 10.0, 20.0]
    assert [band.wavelength_nm for band in scene.bands] == [WAVELENGTHS_NM[b] for b in ("B01", "B02", "B8A")]
    assert {(band.offset, band.scale) for band in scene.bands} == {(0.0, 5_000.0)}
    assert scene.date == dt.date(2017, 2, 16)
    assert scene.source == "T33UUU_20170216T102101"


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_refining_keeps_means_and_does_not_copy_blocks(factor: int) -> None:
    coarse = np.random.default_rng(0).random((9, 13), np.float32)
    fine = refine(coarse, factor)
    assert fine.shape == (9 * factor, 13 * factor)
    np.testing.assert_allclose(block_mean(fine, factor), coarse, atol=1e-6)
    # Steps inside blocks and between them are alike, which copied pixels' would not be.
    steps = np.abs(np.diff(fine, axis=1))
    between = steps[:, factor - 1 :: factor].mean()
    inside = np.delete(steps, np.s_[factor - 1 :: factor], axis=1).mean()
    assert 0.3 < inside / between < 3


def test_refining_keeps_a_plane_a_plane() -> None:
    rows, cols = np.mgrid[:48, :72].astype(np.float32)
    plane = 0.2 + 0.003 * rows + 0.002 * cols
    fine = refine(block_mean(plane, 6), 6)
    inner = (slice(12, -12), slice(12, -12))  # outside of it the plane is not known to go on
    np.testing.assert_allclose(fine[inner], plane[inner], atol=3e-4)


def test_refining_by_one_changes_nothing() -> None:
    band = np.random.default_rng(0).random((5, 7), np.float32)
    assert np.array_equal(refine(band, 1), band)


def test_a_zero_is_no_measurement_in_its_own_band_and_at_its_own_size(write: Writer) -> None:
    fine = np.full((72, 96), 1000, np.uint16)
    fine[10:13, 20] = 0
    coarse = np.full((36, 48), 3000, np.uint16)
    coarse[7, 9] = 0
    scene = read_sentinel2([write("B02", fine), write("B05", coarse)])
    assert np.array_equal(scene.valid[0], fine > 0)
    expected = np.ones((72, 96), bool)
    expected[14:16, 18:20] = False
    assert np.array_equal(scene.valid[1], expected)
    np.testing.assert_allclose(scene.reflectance[0], 0.1, atol=1e-6)  # filled, so that no cliff is encoded
    np.testing.assert_allclose(scene.reflectance[1], 0.3, atol=1e-6)


def test_the_offset_is_subtracted_and_reflectance_stays_between_zero_and_one(write: Writer) -> None:
    values = np.full((72, 96), 3000, np.uint16)
    values[0, :3] = 500, 20_000, 1000
    scene = read_sentinel2([write("B02", values)], offset=1000.0)
    np.testing.assert_allclose(scene.reflectance[0, 0, :4], [0.0, 1.0, 0.0, 0.2], atol=1e-6)
    assert scene.bands[0].offset == 1000.0
    assert scene.valid.all()


# --- which files are taken


def test_the_cirrus_band_is_left_out_unless_asked_for(write: Writer) -> None:
    paths = [write(band) for band in ("B02", "B10", "B03")]
    assert [band.name for band in read_sentinel2(paths).bands] == ["B02", "B03"]
    assert [band.name for band in read_sentinel2(paths, bands=["B10", "B02"]).bands] == ["B10", "B02"]


def test_a_folder_is_read_for_its_band_files_and_the_rest_is_passed_over(write: Writer) -> None:
    folder = write("B02").parent
    write("B05")
    (folder / "MTD_MSIL1C.xml").write_text("<xml/>")
    (folder / f"T33UUU_{DAY}_TCI.jp2").write_text("a picture")
    assert [band.name for band in read_sentinel2([folder]).bands] == ["B02", "B05"]


def test_level_2a_names_with_a_resolution_are_band_files(write: Writer) -> None:
    path = write("B02")
    renamed = path.rename(path.with_name(f"T33UUU_{DAY}_B02_10m.tif"))
    scene = read_sentinel2([renamed])
    assert [band.name for band in scene.bands] == ["B02"]
    assert scene.source == f"T33UUU_{DAY}"


# --- what is refused


def refusal(paths: list[Path], bands: list[str] | None = None) -> str:
    with pytest.raises(ImageryError) as caught:
        read_sentinel2(paths, bands=bands)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_of_two_dates_are_refused(write: Writer) -> None:
    message = refusal([write("B02"), write("B03", moment="20170318T102021")])
    assert "2 acquisition dates (2017-02-16, 2017-03-18)" in message


def test_a_band_without_a_file_is_refused_with_those_that_have_one(write: Writer) -> None:
    message = refusal([write("B02"), write("B05")], ["B02", "B11"])
    assert "no file for band B11" in message
    assert "B02, B05" in message


def test_a_band_that_is_given_twice_is_refused(write: Writer) -> None:
    assert "band B02 of 2017-02-16 is given twice" in refusal([write("B02"), write("B02", folder="again")])


@pytest.mark.parametrize(
    "other",
    [{"east": 399_970.0}, {"gsd": 15.0}, {"crs": "EPSG:32632"}, {"values": np.ones((30, 48), np.uint16)}],
    ids=["shifted", "no whole multiple", "other CRS", "other extent"],
)
def test_bands_that_do_not_cover_the_same_ground_in_whole_pixels_are_refused(
    write: Writer, other: dict[str, object]
) -> None:
    assert "band B05 covers" in refusal([write("B02"), write("B05", **other)])


def test_a_file_without_a_coordinate_reference_system_is_refused(write: Writer) -> None:
    assert "no coordinate reference system" in refusal([write("B02", crs=None)])


def test_imagery_since_2022_needs_an_offset(write: Writer) -> None:
    assert "--offset" not in read_sentinel2([write("B02", moment="20220124T102101")]).source
    path = write("B02", moment="20220125T102101", folder="later")
    assert "--offset 1000 or --offset 0" in refusal([path])
    assert read_sentinel2([path], offset=0.0).date == dt.date(2022, 1, 25)


@pytest.mark.parametrize("name", ["image.tif", "T33UUU_20170216T102101_B13.tif", f"T33UUU_{DAY}_TCI.jp2"])
def test_a_file_that_is_not_named_as_a_band_is_refused(write: Writer, name: str) -> None:
    path = write("B02")
    renamed = path.rename(path.with_name(name))
    assert "not named as a Sentinel-2 band file" in refusal([renamed])


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal([tmp_path / "nowhere"])
    assert "no Sentinel-2 band files" in refusal([tmp_path])


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"T33UUU_{DAY}_B02.tif"
    path.write_text("not an image")
    assert f"cannot read {path}" in refusal([path])


def test_a_band_without_any_measurement_is_refused(write: Writer) -> None:
    assert "no measurement at all" in refusal([write("B02", np.zeros((72, 96), np.uint16))])


def test_the_cirrus_band_alone_is_refused_in_words(write: Writer) -> None:
    assert "B10" in refusal([write("B10")])
