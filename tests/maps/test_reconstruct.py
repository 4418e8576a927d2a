"""Remembered imagery: reflectance as the region says it, indices as their formulas say, estimates that are called so."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from factories import FIRST, LAST, SENTINEL_BANDS, RegionFactory, box_of, read_raster, windows_asked

from lianet_user.cli import _run
from lianet_user.errors import DateError, EstimateWarning, InputError, OutputError
from lianet_user.files.header import Band
from lianet_user.geo.grid import Window
from lianet_user.maps import MapArea, picture
from lianet_user.maps.geotiff import MapFiles
from lianet_user.maps.reconstruct import reconstruct
from lianet_user.maps.spectral_indices import spectral_index
from lianet_user.region import Region

BETWEEN = dt.date(2017, 3, 1)

pytestmark = pytest.mark.usefixtures("coarse_figures")


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    """Of two dates that it knows by number, and four bands."""
    return make_region(dates=2, band_count=4, bands=SENTINEL_BANDS)


@pytest.fixture
def continuous(region: Region, monkeypatch: pytest.MonkeyPatch) -> Region:
    """The same with an answer for the dates between: what it is does not matter here."""
    time = region.header.field.time.model_copy(update={"kind": "fourier"})
    field = region.header.field.model_copy(update={"time": time})
    region.header = region.header.model_copy(update={"field": field})
    computed = region._computed

    def at(window: Window, time: int | float, read: Callable[[torch.Tensor], Any]) -> Any:
        return computed(window, int(time > region.header.acquisitions[0].days), read)

    monkeypatch.setattr(region, "_computed", at)
    return region


def test_reflectance_is_what_the_region_says_to_half_a_step(region: Region, tmp_path: Path) -> None:
    window = Window(10, 20, 30, 40)
    area = MapArea(**box_of(region, window))
    (result,) = reconstruct(region, tmp_path / "image.tif", area=area, dates=[LAST], bands=["B08", "b02"])
    expected = region.reconstruct(window, LAST)[[3, 0]].numpy()
    with rasterio.open(result.path) as dataset:
        values = dataset.read()
        assert (dataset.dtypes, dataset.nodata, dataset.scales) == (("uint16",) * 2, 65535, (1e-4,) * 2)
        assert dataset.descriptions == ("B08", "B02")
        assert [dataset.tags(band)["WAVELENGTH_NM"] for band in (1, 2)] == ["832.8", "492.4"]
        assert dataset.tags()["DATE"] == "2017-03-16"
    assert expected.max() > 0.01
    assert np.abs(values * 1e-4 - expected).max() <= 0.5001e-4
    assert result.window == window
    assert not result.estimated


def test_float32_holds_every_digit(region: Region, tmp_path: Path) -> None:
    (result,) = reconstruct(region, tmp_path / "image.tif", dates=[FIRST], float32=True)
    assert np.array_equal(read_raster(result.path), region.reconstruct(region.window, FIRST).numpy())


def test_an_image_for_the_eye_states_its_stretch_and_keeps_to_it(region: Region, tmp_path: Path) -> None:
    (result,) = reconstruct(region, tmp_path / "image.tif", dates=[FIRST], rgb=True, stretch=(0.1, 0.9))
    reflectance = region.reconstruct(region.window, FIRST)[[2, 1, 0]].numpy()
    with rasterio.open(result.path) as dataset:
        values = dataset.read()
        assert [each.name for each in dataset.colorinterp] == ["red", "green", "blue"]
        assert dataset.tags()["STRETCH"] == "reflectance red 0.100 to 0.900, green 0.100 to 0.900, blue 0.100 to 0.900"
        assert (dataset.dtypes, dataset.nodata) == (("uint8",) * 3, 0)
    assert np.abs(values - (1 + 254 * np.clip((reflectance - 0.1) / 0.8, 0, 1))).max() < 0.51
    (chosen,) = reconstruct(region, tmp_path / "auto.tif", dates=[FIRST], rgb=True)
    for band, values in zip(reflectance, read_raster(chosen.path), strict=True):
        assert 0.0 < np.mean(values == 255) < 0.1
        assert np.corrcoef(band.ravel(), values.ravel())[0, 1] > 0.9


def test_an_index_follows_its_formula_and_says_so(region: Region, tmp_path: Path) -> None:
    (result,) = reconstruct(region, tmp_path / "ndvi.tif", dates=[FIRST], indices=["ndvi"])
    _, _, red, near = region.reconstruct(region.window, FIRST).double().numpy()
    with rasterio.open(result.path) as dataset:
        (values,) = dataset.read()
        assert dataset.tags()["INDEX_FORMULA"] == "(N-R)/(N+R), N = B08, R = B04"
    with np.errstate(invalid="ignore"):
        expected = (near - red) / (near + red)
    assert np.array_equal(np.isnan(values), ~np.isfinite(expected))
    assert np.nanmax(np.abs(values - expected)) < 1e-6


def test_constants_of_an_index_are_the_usual_ones_or_ones_own() -> None:
    assert dict(spectral_index("SAVI", SENTINEL_BANDS).constants) == {"L": 0.5}
    assert dict(spectral_index("savi:L=0.25", SENTINEL_BANDS).constants) == {"L": 0.25}


def test_bands_without_wavelengths_are_known_by_their_names() -> None:
    bands = [Band(name=name, gsd_m=10.0) for name in ("B04", "nir", "B11")]
    assert dict(spectral_index("ndvi", bands).bands) == {"N": 1, "R": 0}
    assert dict(spectral_index("ndmi", bands).bands) == {"N": 1, "S1": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nbr", r"S2 \(.*2080 to 2350 nm\), which the region lacks: it has B02, B03, B04, B08"),
        ("ndvii", "did you mean 'NDVI'"),
        ("ndvi:L=2", "has no constant L"),
        ("savi:L=much", "KEY=NUMBER"),
        ("kNDVI", "not measured in a band"),
    ],
)
def test_an_index_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        spectral_index(text, SENTINEL_BANDS)


def test_without_spyndex_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spyndex", None)
    with pytest.raises(InputError, match=r"lianet-user\[indices\]"):
        spectral_index("ndvi", SENTINEL_BANDS)


def test_several_dates_and_kinds_go_to_a_folder(region: Region, tmp_path: Path) -> None:
    results = reconstruct(region, tmp_path / "images", dates=["all"], bands=["B04"], rgb=True, indices=["ndvi"])
    names = [f"{kind}_{date}.tif" for date in (FIRST, LAST) for kind in ("reflectance", "rgb", "NDVI")]
    assert [result.path.name for result in results] == names
    assert all(result.path.is_file() and result.quicklook.is_file() for result in results)
    assert not any(path.name.startswith(".") for path in (tmp_path / "images").iterdir())
    with pytest.raises(OutputError, match="there are 2 to write"):
        reconstruct(region, tmp_path / "image.tif", dates=["all"])


def test_a_date_between_is_an_estimate_and_says_so_everywhere(
    continuous: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(picture.Sheet, "title", lambda self, text: titles.append(text))
    with pytest.warns(EstimateWarning, match="between 2017-02-16 and 2017-03-16"):
        (result,) = reconstruct(continuous, tmp_path / "image.tif", dates=[BETWEEN])
    assert result.estimated
    assert "2017-03-01 (estimated)" in titles[0]
    with rasterio.open(result.path) as dataset:
        assert "estimated" in dataset.tags()["ESTIMATED"]
    (seen,) = reconstruct(continuous, tmp_path / "seen.tif", dates=[LAST])
    with rasterio.open(seen.path) as dataset:
        assert "ESTIMATED" not in dataset.tags()


def test_dates_outside_are_refused_until_one_insists(continuous: Region, tmp_path: Path) -> None:
    with pytest.raises(DateError, match="`extrapolate`"):
        reconstruct(continuous, tmp_path / "image.tif", dates=["2018-01-01"])
    with pytest.warns(EstimateWarning, match="after 2017-03-16"):
        (result,) = reconstruct(continuous, tmp_path / "image.tif", dates=["2018-01-01"], extrapolate=True)
    assert result.estimated


def test_a_region_that_numbers_its_dates_estimates_none(region: Region, tmp_path: Path) -> None:
    with pytest.raises(DateError, match="by number"):
        reconstruct(region, tmp_path / "image.tif", dates=[BETWEEN], extrapolate=True)
    assert not list(tmp_path.glob("image*"))


def test_another_grid_and_an_area_leave_nothing_outside(region: Region, tmp_path: Path) -> None:
    area = MapArea(crs="EPSG:4326", resolution=0.0002)
    (result,) = reconstruct(region, tmp_path / "image.tif", area=area, dates=[FIRST])
    values = read_raster(result.path)
    empty = values == 65535
    assert empty.any()
    assert np.array_equal(empty.all(0), empty.any(0))
    known = region.reconstruct(region.window, FIRST).numpy()
    assert (values[~empty] * 1e-4).max() <= known.max() + 1e-4


def test_a_picture_alone_leaves_nothing_else(region: Region, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (result,) = reconstruct(region, tmp_path / "out" / "look.png", dates=[FIRST], rgb=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["look.png"]
    assert result.path == result.quicklook
    with pytest.raises(OutputError, match="overwrite"):
        reconstruct(region, result.path, dates=[FIRST], rgb=True)
    with pytest.raises(OutputError, match="resume"):
        reconstruct(region, result.path, dates=[FIRST], rgb=True, resume=True)


def test_an_interrupted_run_goes_on_to_the_same_image(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(region, tmp_path / "image.tif", dates=[FIRST], listener=stop, tile=64)
    expected = region.reconstruct(region.window, FIRST).numpy()
    asked = windows_asked(region, "reconstruct", monkeypatch)
    (result,) = reconstruct(region, tmp_path / "image.tif", dates=[FIRST], resume=True, tile=64)
    assert 0 < len(asked) < 4
    assert np.abs(read_raster(result.path) * 1e-4 - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bands": ["B4"]}, "did you mean 'B04'"),
        ({"bands": ["B04", "b04"]}, "twice"),
        ({"rgb": True, "stretch": (0.5, 0.5)}, "LOW < HIGH"),
        ({"dates": []}, "holds 2 dates"),
    ],
)
def test_what_cannot_be_is_refused(region: Region, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        reconstruct(region, tmp_path / "image.tif", **({"dates": [FIRST]} | options))


def test_true_colours_need_the_colours(make_region: RegionFactory, tmp_path: Path) -> None:
    region = make_region(band_count=2, bands=SENTINEL_BANDS[2:])
    with pytest.raises(InputError, match="B04, B08"):
        reconstruct(region, tmp_path / "image.tif", rgb=True)


def test_the_command_line_says_what_it_wrote(
    region: Region, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reconstruct", str(region.path), "--date", "2017-02-16", "-o", str(tmp_path / "image.tif")]
    assert _run([*words, "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert (image["date"], image["estimated"], image["width"]) == ("2017-02-16", False, 128)
    assert all(path.is_file() for path in MapFiles.of(Path(image["image"])).in_order if path.suffix != ".xml")
    for refused, says in (
        (words, "--overwrite"),
        ([*words, "--overwrite", "--stretch", "0,1"], "--rgb"),
        ([*words, "--overwrite", "--date", "2017-02-20"], "by number"),
    ):
        assert _run(refused) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
