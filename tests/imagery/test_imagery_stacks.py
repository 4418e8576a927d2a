"""Stacks: every layer is the band and the date that names say, and nothing is taken for another."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from factories import RegionFactory
from imagery_factories import write_raster
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window
from lianet_user.imagery.imagery import ImageryOptions
from lianet_user.imagery.planes import PlaneImagery
from lianet_user.imagery.stacks import open_stacks

GRID = GeoBox((40, 60), Affine(10.0, 0.0, 400_000.0, 0.0, -10.0, 5_900_000.0), "EPSG:32633")
APRIL, MAY = Acquisition(date=dt.date(2018, 4, 29)), Acquisition(date=dt.date(2018, 5, 13), time=dt.time(10, 30))
BANDS = ("B02", "B08", "B8A")


def write(
    path: Path,
    layers: Sequence[float] = (1000, 2000, 3000),
    names: Sequence[str] | None = BANDS,
    *,
    geobox: GeoBox = GRID,
    dtype: str = "uint16",
    **more: Any,
) -> Path:
    """A stack whose layers hold one value each."""
    values: NDArray[Any] = np.broadcast_to(np.array(layers, dtype)[:, None, None], (len(layers), *geobox.shape))
    return write_raster(path, values, geobox, names=names, **more)


def opened(*paths: Path, **options: Any) -> PlaneImagery:
    return open_stacks(paths, ImageryOptions(**options))


def refusal(*paths: Path, **options: Any) -> str:
    with pytest.raises(ImageryError) as caught:
        opened(*paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values_of(imagery: PlaneImagery) -> list[list[float]]:
    """Of each date, the reflectance of each band in one pixel."""
    pixel = Window(3, 4, 1, 1)
    patches = [imagery.read(index, pixel) for index in range(len(imagery.acquisitions))]
    return [[round(float(value), 4) for value in patch.reflectance[:, 0, 0]] for patch in patches]


def names(imagery: PlaneImagery) -> list[str]:
    return [band.name for band in imagery.bands]


# --- one file a date


def test_a_file_for_each_date_is_put_in_order_of_time(tmp_path: Path) -> None:
    write(tmp_path / "z_20180429T103021.tif")
    write(tmp_path / "a_2018-05-13.tif", (1500, 2500, 3500))
    imagery = opened(tmp_path)
    assert [(held.date, held.time) for held in imagery.acquisitions] == [
        (dt.date(2018, 4, 29), dt.time(10, 30, 21)),
        (dt.date(2018, 5, 13), None),
    ]
    assert names(imagery) == list(BANDS)
    assert imagery.factors == (1, 1, 1)
    assert imagery.geobox == GRID
    assert values_of(imagery) == [[0.1, 0.2, 0.3], [0.15, 0.25, 0.35]]
    assert imagery.source == "z_20180429T103021.tif, a_2018-05-13.tif"


@pytest.mark.parametrize("name", ["x20180429.tif", "S2_2018_04_29_v2.tif", "2018.04.29.tif", "20180429103021.tif"])
def test_dates_are_read_off_names(tmp_path: Path, name: str) -> None:
    assert opened(write(tmp_path / name)).acquisitions[0].date == APRIL.date


def test_a_folder_for_each_date_holds_a_file_for_each_band(tmp_path: Path) -> None:
    for day, bright in (("2018-04-29", 0), ("20180513", 500)):
        write(tmp_path / day / "B2.tif", (1000 + bright,), None)
        write(tmp_path / day / "scene_B08_(Raw).tif", (2000 + bright,), ("Band 1",))
        write(tmp_path / day / "x.tif", (3000 + bright,), ("B8A",), geobox=GRID.zoom_out(2))
        write(tmp_path / day / "SCL.tif", (4 if bright else 9,), None, dtype="uint8", geobox=GRID.zoom_out(2))
    imagery = opened(tmp_path, mask="SCL")
    assert [held.date for held in imagery.acquisitions] == [APRIL.date, MAY.date]
    assert names(imagery) == ["B2", "B08", "B8A"]
    assert imagery.factors == (1, 1, 2)
    assert [imagery.read(index, imagery.window).valid.all() for index in (0, 1)] == [False, True]
    assert values_of(opened(tmp_path)) == [[0.1, 0.2, 0.3], [0.15, 0.25, 0.35]]
    assert names(opened(tmp_path, bands=("B8A", "B02"), mask="SCL")) == ["B8A", "B02"]
    assert imagery.source == "2018-04-29, 20180513"
    write(tmp_path / "20180513" / "B08.tif", (1,), None)
    assert "20180513 has several layers called B08" in refusal(tmp_path, mask="SCL")


def test_files_of_bands_may_lie_in_one_folder_with_dates_in_their_names(tmp_path: Path) -> None:
    for day, factor in (("20180429", 1), ("20180513", 2)):
        write(tmp_path / f"red_{day}.tif", (1000 * factor,), None)
        write(tmp_path / f"nir_{day}.tif", (2000 * factor,), None)
    imagery = opened(tmp_path)
    assert names(imagery) == ["nir", "red"]
    assert values_of(imagery) == [[0.2, 0.1], [0.4, 0.2]]


def test_the_date_in_a_files_name_comes_before_its_folders(tmp_path: Path) -> None:
    write(tmp_path / "2020-01-01" / "20180429.tif")
    write(tmp_path / "2018-05-13" / "stack.tif")
    assert [held.date for held in opened(tmp_path).acquisitions] == [APRIL.date, MAY.date]
    assert "several dates in its name" in refusal(write(tmp_path / "20180401_20180430" / "stack.tif"))


@pytest.mark.parametrize("name", ["stack.tif", "2018_3A_Theia.tif", "tile_12345678.tif", "20181345.tif"])
def test_names_without_a_date_need_dates(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    assert "has no date in its name" in refusal(path)
    assert opened(path, dates=(MAY,)).acquisitions[0] == MAY.model_copy(update={"id": path.stem})


def test_a_name_with_two_dates_is_refused(tmp_path: Path) -> None:
    assert "several dates in its name (2018-04-01, 2018-04-30)" in refusal(write(tmp_path / "20180401_20180430.tif"))


def test_dates_are_given_in_the_order_of_the_files(tmp_path: Path) -> None:
    paths = write(tmp_path / "b.tif", (1, 2, 3)), write(tmp_path / "a.tif")
    imagery = opened(*paths, dates=(MAY, APRIL))
    assert values_of(imagery) == [[0.1, 0.2, 0.3], [0.0001, 0.0002, 0.0003]]
    assert "`dates` gives 1 dates for 2 files" in refusal(*paths, dates=(MAY,))


def test_a_date_twice_is_refused_by_both_names(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "a_20180429.tif"), write(tmp_path / "b_20180429.tif"))
    assert "two acquisitions of 2018-04-29" in message
    assert "a_20180429.tif" in message
    assert "b_20180429.tif" in message


def test_bands_are_found_by_name_whatever_their_order_and_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "20180429.tif", (3000, 1000), ("B8A", "B02"))
    write(tmp_path / "20180513.tif")
    imagery = opened(tmp_path, bands=("b2", "B8", "B8A"))
    assert names(imagery) == ["B02", "B08", "B8A"]
    assert values_of(imagery) == [[0.1, 0.0, 0.3], [0.1, 0.2, 0.3]]
    assert [bool(valid.any()) for valid in imagery.read(0, imagery.window).valid] == [True, False, True]
    assert "band B08 is missing on 2018-04-29" in imagery.notes
    assert "no layer is called B11" in refusal(tmp_path, bands=("B02", "B11"))
    assert "twice" in refusal(tmp_path, bands=("B02", "B2"))


def test_layers_without_names_are_named_all_at_once(tmp_path: Path) -> None:
    for described in (None, ("Band 1", "Band 2", "Band 3")):
        path = write(tmp_path / "20180429.tif", names=described)
        assert names(opened(path, bands=("red", "green", "blue"))) == ["red", "green", "blue"]
        for bands in (None, ("red", "green")):
            assert "layers a date without names" in refusal(path, bands=bands)
    assert "several layers called B02" in refusal(write(path, names=("B02", "B02", "B03")))
    assert "names some of its layers" in refusal(write(path, names=("B02", "", "B03")))


def test_wavelengths_of_sentinel_2_need_its_band_names(tmp_path: Path) -> None:
    path = write(tmp_path / "20180429.tif")
    assert [band.wavelength_nm for band in opened(path).bands] == [492.4, 832.8, 864.7]
    assert [band.gsd_m for band in opened(path).bands] == [10.0] * 3  # what the file holds
    for landsat in (("B2", "B3", "B4"), ("B02", "B05", "B06"), ("red", "green", "B8A")):
        assert {band.wavelength_nm for band in opened(write(path, names=landsat)).bands} == {None}


def test_the_cirrus_band_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "20180429.tif", names=("B08", "B10", "B12"))
    assert names(opened(path)) == ["B08", "B12"]
    assert names(opened(path, bands=("B10", "B08"))) == ["B10", "B08"]


# --- all dates in one file


def test_dates_after_one_another_are_taken_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tif", (1, 2, 3, 4, 5, 6), None)
    imagery = opened(path, bands=BANDS, dates=(APRIL, MAY))
    assert values_of(imagery) == [[0.0001, 0.0002, 0.0003], [0.0004, 0.0005, 0.0006]]
    reversed_dates = opened(path, bands=BANDS, dates=(MAY, APRIL))
    assert [held.date for held in reversed_dates.acquisitions] == [APRIL.date, MAY.date]
    assert values_of(reversed_dates) == values_of(imagery)[::-1]
    assert "6 layers, which are not 2 dates of 2 bands" in refusal(path, bands=("B02", "B03"), dates=(APRIL, MAY))
    assert "`bands`" in refusal(path, dates=(APRIL, MAY))


def test_names_that_repeat_for_each_date_are_those_of_bands(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tif", (1, 2, 3, 4), ("B02", "B8A") * 2)
    imagery = opened(path, bands=("B8A",), dates=(APRIL, MAY))
    assert values_of(imagery) == [[0.0002], [0.0004]]


def test_dates_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tif", (1, 2, 3, 4), None)
    imagery = opened(path, bands=("a", "b"), dates=(APRIL, MAY), since=dt.date(2018, 5, 1))
    assert values_of(imagery) == [[0.0003, 0.0004]]
    assert "is left by `until`" in refusal(path, bands=("a", "b"), dates=(APRIL, MAY), until=dt.date(2018, 1, 1))


# --- digital numbers


def test_scale_and_offset_come_from_the_provider_then_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "20180429.tif", (2000, 2000), ("a", "b"), scales=(1e-4, 2e-4), offsets=(-0.1, 0.0))
    assert values_of(opened(path)) == [[0.1, 0.4]]
    assert values_of(opened(path, scale=5000.0, offset=500.0)) == [[0.3, 0.3]]
    assert values_of(opened(path, scale=5000.0, offset=0.0, scales={APRIL.date: 8000.0})) == [[0.25, 0.25]]
    assert values_of(opened(write(path, (0.25, 0.5), ("a", "b"), dtype="float32"))) == [[0.25, 0.5]]


def test_numbers_that_cannot_be_reflectance_are_refused(tmp_path: Path) -> None:
    assert "holds bytes" in refusal(write(tmp_path / "20180429.tif", (100,), ("red",), dtype="uint8"))
    path = write(tmp_path / "20180429.tif", (0.2, 1200.0), ("a", "b"), dtype="float32")
    assert "layer 2 would hold a reflectance of 1200" in refusal(path)
    assert values_of(opened(path, scale=10_000.0)) == [[0.0, 0.12]]


def test_numbers_of_sentinel_2_since_2022_need_an_offset(tmp_path: Path) -> None:
    path = write(tmp_path / "20230429.tif", (2000, 2000), ("B02", "B8A"))
    assert "`offset` 1000 or `offset` 0" in refusal(path)
    assert values_of(opened(path, offset=1000.0)) == [[0.1, 0.1]]


def test_nodata_is_what_the_file_declares_and_what_is_said_beside(tmp_path: Path) -> None:
    path = write(tmp_path / "20180429.tif", (9, 7, 1000), nodata=9)
    valid = [bool(band.any()) for band in opened(path, nodata=7.0).read(0, Window(0, 0, 2, 2)).valid]
    assert valid == [False, False, True]


# --- masks and grids


def test_a_layer_may_be_the_mask(tmp_path: Path) -> None:
    for name, described in (("20180429.tif", ("B02", "SCL", "B8A")), ("20180513.tif", ("B02", "SCL", "B8A"))):
        write(tmp_path / name, (1000, 4 if "0429" in name else 9, 3000), described)
    imagery = opened(tmp_path, mask="SCL")
    assert names(imagery) == ["B02", "B8A"]
    assert [imagery.read(index, imagery.window).valid.all() for index in (0, 1)] == [True, False]
    unmasked = opened(tmp_path)
    assert names(unmasked) == ["B02", "B8A"]
    assert any("give SCL as the mask" in note for note in unmasked.notes)
    assert "did you mean 'SCL'" in refusal(tmp_path, mask="SLC")


def test_masks_beside_the_stacks_are_no_stacks(tmp_path: Path) -> None:
    write(tmp_path / "20180429.tif")
    write(tmp_path / "clouds" / "20180429.tif", (1,), ("cloud",), dtype="uint8")
    imagery = opened(tmp_path, mask=str(tmp_path / "clouds"), clear=(0,))
    assert not imagery.read(0, imagery.window).valid.any()
    (tmp_path / "clouds" / "20180429.tif").rename(tmp_path / "clouds" / "20180430.tif")
    message = refusal(tmp_path, mask=str(tmp_path / "clouds"), clear=(0,))
    assert "found for 0 of 1 dates, and not for 2018-04-29" in message


def test_grids_that_differ_between_dates_are_refused_without_one(tmp_path: Path) -> None:
    paths = write(tmp_path / "20180429.tif"), write(tmp_path / "20180513.tif", geobox=GRID.translate_pix(0.5, 0))
    message = refusal(*paths)
    assert all(path.name in message for path in paths)
    imagery = opened(*paths, grid=str(paths[0]))
    assert imagery.geobox == GRID
    assert imagery.read(1, imagery.window).valid[:, :, 1:].all()


def test_the_grid_asked_for_may_be_a_regions(tmp_path: Path, make_region: RegionFactory) -> None:
    path = make_region(geobox=GRID).path
    imagery = opened(write(tmp_path / "20180429.tif", geobox=GRID.translate_pix(-3.5, 0.5)), grid=str(path))
    assert imagery.geobox == GRID
    assert values_of(imagery) == [[0.1, 0.2, 0.3]]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "no rasters" in refusal(tmp_path)


# --- real imagery


def test_real_layers_are_read_as_they_are(shared_data: Path) -> None:
    path = shared_data / "bouconne" / "2018_3A_Theia_Bouconne.tif"
    bands = tuple("B2 B3 B4 B8 B5 B6 B7 B8A B11 B12".split())
    days = [(4, 29), (5, 13), (7, 8), (8, 15), (9, 15), (10, 15), (11, 15)]
    imagery = opened(path, bands=bands, dates=tuple(Acquisition(date=dt.date(2018, *day)) for day in days))
    assert len(imagery.acquisitions) == 7
    assert imagery.bands[7].wavelength_nm == 864.7
    with rasterio.open(path) as source:
        numbers = source.read()
    patch = imagery.read(5, Window(20, 30, 128, 128))
    assert patch.valid.all()
    np.testing.assert_allclose(patch.reflectance, numbers[50:60, 20:148, 30:158] / 10_000, atol=1e-6)
