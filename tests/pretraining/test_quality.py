"""How well imagery is remembered: the figures of tiles are those of whole images, and nothing invalid counts."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from factories import RegionFactory
from imagery_factories import Held
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj.crs import BoundCRS
from pyproj.crs.coordinate_operation import ToWGS84Transformation
from skimage.metrics import structural_similarity

from lianet_user.cli import _run
from lianet_user.errors import ImageryError
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import Acquisition, Band, BandQuality, Quality
from lianet_user.geo.grid import Window
from lianet_user.imagery.grids import block_mean, refine
from lianet_user.pretraining.quality import compare, measure_quality
from lianet_user.region import Region

HEIGHT, WIDTH = 96, 132
GSD = (10, 20, 60, 10)


def imagery(
    gsd: tuple[int, ...] = GSD, dates: int = 2, height: int = HEIGHT, width: int = WIDTH, clouds: bool = True
) -> Held:
    """Hills and noise, each band at its own resolution, with holes and one large cloud a date."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    values = np.empty((dates, len(gsd), height, width), np.float32)
    valid = np.ones(values.shape, np.bool_)
    for date in range(dates):
        for band, metres in enumerate(gsd):
            scene = 0.2 + 0.1 * np.sin(y / (9 + band + date)) * np.cos(x / 8) + rng.normal(0, 0.02, (height, width))
            factor = metres // 10
            whole = scene[: height // factor * factor, : width // factor * factor]
            fine = refine(block_mean(whole, factor).astype(np.float32), factor)
            values[date, band] = np.pad(fine, [(0, height - fine.shape[0]), (0, width - fine.shape[1])], mode="edge")
        if clouds:
            valid[date, :, 20 + 30 * date : 50 + 30 * date, 40:90] = False
            valid[date][rng.random(valid[date].shape) < 0.0005] = False
    values[~valid] = 0.9  # what must count for nothing
    return Held(values, valid, gsd)


def noisy(truth: Held) -> NDArray[np.float32]:
    return truth.values + np.random.default_rng(1).normal(0, 0.01, truth.values.shape).astype(np.float32)


def judged(truth: Held, copy: NDArray[np.float32], tile: int = 48, most_pixels: int = 2**26) -> tuple[Quality, ...]:
    return compare(
        truth,
        lambda index, window: copy[(index, slice(None), *window.slices)],
        acquisitions=range(len(truth.acquisitions)),
        tile=tile,
        most_pixels=most_pixels,
    )


def direct(truth: Held, copy: NDArray[np.float32], date: int) -> Quality:
    """The same figures from whole images, pixel by pixel where that is simple."""
    bands, errors, fine, all_valid, shares = [], [], [], np.ones(truth.shape, np.bool_), []
    for band, factor in enumerate(truth.factors):
        rows, cols = truth.shape[0] // factor, truth.shape[1] // factor
        first = np.zeros((rows, cols))
        second, ok = first.copy(), np.zeros((rows, cols), np.bool_)
        for row in range(rows):
            for col in range(cols):
                place = (date, band, slice(row * factor, (row + 1) * factor), slice(col * factor, (col + 1) * factor))
                first[row, col] = truth.values[place].astype(float).mean()
                second[row, col] = copy[place].astype(float).mean()
                ok[row, col] = truth.valid[place].all()
        similar = []
        _, similarity = structural_similarity(first, second, win_size=7, data_range=1.0, full=True)
        for row in range(3, rows - 3):
            for col in range(3, cols - 3):
                if ok[row - 3 : row + 4, col - 3 : col + 4].all():
                    similar.append(similarity[row, col])
        mse = float(np.mean((first - second)[ok] ** 2))
        errors.append(mse)
        shares.append(ok.mean())
        bands.append(
            BandQuality(
                band=truth.bands[band].name,
                psnr_db=-10 * math.log10(mse),
                rmse=math.sqrt(mse),
                rmse_over_std=math.sqrt(mse) / float(first[ok].std()),
                ssim=float(np.mean(similar)) if similar else None,
            )
        )
        grid = np.zeros((2, *truth.shape))
        repeated = np.stack([first, second]).repeat(factor, 1).repeat(factor, 2)
        grid[:, : rows * factor, : cols * factor] = repeated
        whole = np.zeros(truth.shape, np.bool_)
        whole[: rows * factor, : cols * factor] = ok.repeat(factor, 0).repeat(factor, 1)
        all_valid &= whole
        fine.append(grid)
    one, other = (np.stack([pair[n][all_valid] for pair in fine]) for n in (0, 1))
    cosine = (one * other).sum(0) / np.prod([np.linalg.norm(v, axis=0) + 1e-30 for v in (one, other)], 0)
    return Quality(
        date=truth.acquisitions[date].date,
        psnr_db=-10 * math.log10(float(np.mean(errors))),
        bands=tuple(bands),
        spectral_angle_deg=float(np.degrees(np.arccos(cosine)).mean()),
        judged=float(np.mean(shares)),
    )


def assert_same(found: Quality, expected: Quality) -> None:
    assert found.date == expected.date
    for name in ("psnr_db", "spectral_angle_deg", "judged"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-7), name
    for one, other in zip(found.bands, expected.bands, strict=True):
        assert one.band == other.band
        for name in ("psnr_db", "rmse", "rmse_over_std", "ssim"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-7), (one.band, name)


# --- the figures


@pytest.mark.parametrize(
    ("gsd", "height", "width"), [(GSD, HEIGHT, WIDTH), ((10, 20), 95, 131), ((20, 30, 10), 60, 66)]
)
@pytest.mark.parametrize("tile", [48, 60, 1000])
def test_figures_of_tiles_are_those_of_whole_images(gsd: tuple[int, ...], height: int, width: int, tile: int) -> None:
    truth = imagery(gsd, height=height, width=width)
    copy = noisy(truth)
    for date, found in enumerate(judged(truth, copy, tile)):
        assert_same(found, direct(truth, copy, date))


def test_a_perfect_copy_has_no_error() -> None:
    truth = imagery()
    for quality in judged(truth, truth.values):
        assert quality.psnr_db == 120.0  # what `psnr` calls perfect
        assert quality.spectral_angle_deg == pytest.approx(0.0, abs=1e-6)
        assert all(band.rmse == 0 and band.ssim == pytest.approx(1.0, abs=1e-12) for band in quality.bands)


def test_the_spectral_angle_ignores_brightness_and_sees_small_differences() -> None:
    truth = imagery((10, 10), dates=1, clouds=False)
    (brighter,) = judged(truth, (truth.values * 1.25).astype(np.float32))
    assert brighter.spectral_angle_deg == pytest.approx(0.0, abs=1e-5)
    angle = np.radians(0.001)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    copy = np.einsum("ij,djhw->dihw", turn, truth.values.astype(np.float64))
    (turned,) = compare(truth, lambda i, window: copy[(i, slice(None), *window.slices)], acquisitions=[0])
    assert turned.spectral_angle_deg == pytest.approx(0.001, rel=1e-4)


def test_what_an_acquisition_lacks_has_no_figures_and_the_rest_has() -> None:
    truth = imagery()
    truth.valid[1, 2] = False
    complete, partial = judged(truth, noisy(truth))
    lacking = partial.bands[2]
    assert (lacking.psnr_db, lacking.rmse, lacking.rmse_over_std, lacking.ssim) == (None,) * 4
    assert partial.spectral_angle_deg is None  # no spectrum is whole
    assert partial.psnr_db == pytest.approx(40.0, abs=2)
    assert complete.spectral_angle_deg is not None
    truth.valid[0] = False
    cloudy, _ = judged(truth, noisy(truth))
    assert (cloudy.psnr_db, cloudy.spectral_angle_deg, cloudy.judged) == (None, None, 0.0)


def test_a_band_that_shows_no_whole_neighbourhood_has_no_similarity() -> None:
    truth = imagery((10, 60), dates=1, height=36, width=132, clouds=False)  # 6 pixels of 60 m high
    (quality,) = judged(truth, noisy(truth))
    assert quality.bands[1].ssim is None
    assert quality.bands[1].psnr_db is not None
    truth.valid[:, 0, ::6, ::6] = False
    (quality,) = judged(truth, noisy(truth))
    assert quality.bands[0].ssim is None


def test_a_band_of_one_value_has_no_relative_error() -> None:
    truth = imagery((10,), dates=1, clouds=False)
    truth.values[:] = 0.25
    (quality,) = judged(truth, noisy(truth))
    assert quality.bands[0].rmse_over_std is None
    assert quality.bands[0].rmse == pytest.approx(0.01, rel=0.05)


# --- how it works through imagery


def test_only_tiles_are_held_and_only_valid_ones_reconstructed() -> None:
    truth = imagery()
    truth.valid[1, :, :, 48:] = False
    asked: list[tuple[int, Window]] = []

    def read_copy(index: int, window: Window) -> NDArray[np.float32]:
        asked.append((index, window))
        return truth.values[(index, slice(None), *window.slices)]

    told: list[tuple[int, int]] = []
    compare(truth, read_copy, acquisitions=[0, 1], tile=48, listener=lambda done, most: told.append((done, most)))
    assert max(window.height for _, window in truth.reads) <= 48 + 2 * 18
    assert [index for index, _ in asked] == [0] * 6 + [1] * 2
    assert told == [(done, 12) for done in range(1, 9)]


def test_a_sample_is_repeatable_and_taken_where_imagery_is_valid() -> None:
    truth = imagery(dates=2)
    copy = noisy(truth)
    truth.valid[0, :, :, 48:] = False
    limit = 2 * 2 * 48 * 48
    first, second = judged(truth, copy, 48, limit), judged(truth, copy, 48, limit)
    assert first == second
    whole = judged(truth, copy)
    for sample, all_of_it in zip(first, whole, strict=True):
        assert sample.psnr_db == pytest.approx(all_of_it.psnr_db, abs=1)
        assert sample.judged is not None
    assert first[0] == whole[0]  # two of its tiles are valid, and two are taken
    assert (first[1].judged or 0) < 0.4 < (whole[1].judged or 0)


# --- of a region


def test_a_region_is_judged_by_what_it_reconstructs_date_by_date(make_region: RegionFactory) -> None:
    truth = imagery((10, 10, 20), height=96, width=128)
    bands = tuple(Band(name=band.name, gsd_m=band.gsd_m) for band in truth.bands)
    region = make_region(dates=2, bands=bands)
    remembered = np.stack([region.reconstruct(region.window, date).numpy() for date in region.header.dates])
    found = measure_quality(region, truth, tile=48)
    for date, quality in enumerate(found):
        expected = direct(truth, remembered, date)
        assert quality.psnr_db == pytest.approx(expected.psnr_db, abs=1e-4)
        assert quality.spectral_angle_deg == pytest.approx(expected.spectral_angle_deg, abs=1e-3)
        assert [band.ssim for band in quality.bands] == pytest.approx([band.ssim for band in expected.bands], abs=1e-4)
    assert measure_quality(region, truth, tile=48, acquisitions=[1]) == found[1:]


def test_dates_are_matched_by_date_and_not_by_number(make_region: RegionFactory) -> None:
    truth = imagery((10, 10, 10), height=96, width=128)
    region = make_region(dates=2)
    assert measure_quality(region, truth.only([1])) == measure_quality(region, truth)[1:]


def test_imagery_that_is_not_the_regions_is_refused(make_region: RegionFactory) -> None:
    region = make_region(dates=1)
    truth = imagery((10, 10, 10), height=96, width=128)
    with pytest.raises(ImageryError, match=r"region 'small' does not hold 2017-03-16 of the imagery: .*2017-02-16"):
        measure_quality(region, truth)
    assert len(measure_quality(region, truth, acquisitions=[0])) == 1
    with pytest.raises(ImageryError, match=r"bands B02, B03, the region 'small' B02, B03, B04: .*`bands`"):
        measure_quality(region, imagery((10, 10), dates=1, height=96, width=128))
    with pytest.raises(ImageryError, match=r"grid \(132 x 96 px .* is not that of the region .*\(128 x 96 px.*`grid`"):
        measure_quality(region, imagery((10, 10, 10), dates=1))


def test_a_grid_is_the_regions_however_its_crs_is_written_down(make_region: RegionFactory) -> None:
    region = make_region(dates=1)
    truth = imagery((10, 10, 10), dates=1, height=96, width=128)
    bound = BoundCRS("EPSG:32633", "EPSG:4326", ToWGS84Transformation("EPSG:4326"))  # by nothing, as old files say
    expected = measure_quality(region, truth)
    truth.geobox = GeoBox(truth.geobox.shape, truth.geobox.affine, bound.to_wkt())
    assert truth.geobox != region.geobox
    assert measure_quality(region, truth) == expected


def test_a_region_of_before_these_figures_still_opens(shared_models: Path) -> None:
    (quality,) = open_region_file(shared_models / "havelland.safetensors").header.quality
    assert quality.psnr_db == pytest.approx(59.36, abs=0.01)


@pytest.fixture
def shared_models() -> Path:
    return Path(__file__).resolve().parents[2] / "models"


# --- the command


@pytest.mark.heavy
def test_the_command_confirms_what_the_shipped_region_says_of_itself(
    shared_models: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_models / "havelland.safetensors"
    assert (
        _run(["quality", str(path), str(shared_data / "havelland"), "--offset", "0", "--no-rate", "--json", "-q"]) == 0
    )
    (found,) = json.loads(capsys.readouterr().out)["quality"]
    (claimed,) = Region.open(path).header.quality
    assert found["psnr_db"] == pytest.approx(claimed.psnr_db, abs=0.02)


def written(truth: Held, folder: Path) -> Path:
    """The first date as a GeoTIFF of digital numbers."""
    path = folder / "scene_20170216.tif"
    numbers = (truth.values[0] * 10_000).round().astype(np.uint16)
    profile = {"driver": "GTiff", "height": 96, "width": 128, "count": 3, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", transform=truth.geobox.affine, **profile) as file:
        file.write(numbers)
        file.descriptions = tuple(band.name for band in truth.bands)
    return path


def test_the_command_prints_the_same_figures_and_the_codecs_beside_them(
    make_region: RegionFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region = make_region()
    truth = imagery((10, 10, 10), dates=1, height=96, width=128, clouds=False)
    path = written(truth, tmp_path)
    assert _run(["quality", str(region.path), str(path), "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    values = (truth.values * 10_000).round() / np.float32(10_000)
    (expected,) = measure_quality(region, Held(values, truth.valid, (10, 10, 10)))
    assert Quality.model_validate(document["quality"][0]).psnr_db == pytest.approx(expected.psnr_db, abs=1e-4)
    assert document["rate"][0]["psnr_db"] == pytest.approx(expected.psnr_db, abs=1e-4)
    assert "JPEG 2000, lossless" in [row["codec"] for row in document["rate"]]
    assert _run(["quality", str(region.path), str(path), "--no-rate"]) == 0
    text = capsys.readouterr().out
    assert "2017-02-16" in text
    assert "JPEG" not in text


def test_imagery_of_other_dates_ends_in_one_line(
    make_region: RegionFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region = make_region(acquisitions=(Acquisition(date=dt.date(2016, 1, 1)),))
    truth = imagery((10, 10, 10), dates=1, height=96, width=128)
    assert _run(["quality", str(region.path), str(written(truth, tmp_path)), "--quiet"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "does not hold 2017-02-16" in message
