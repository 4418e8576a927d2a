"""The region files that ship with the project."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from agreement import assert_same_answers, assert_same_classes
from heads import entries, random_head
from torch import Tensor

from lianet_user.field.config import HeadInput
from lianet_user.field.model import computed_in
from lianet_user.files.artifact import open_region_file
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.region import Region

HAVELLAND = Path(__file__).resolve().parents[1] / "models" / "havelland.safetensors"
WHOLE = Window(149, 259, 271, 163)
"""An odd size at an odd place, to be computed in one piece: a little longer than the largest of the tiles, and wide enough
for four of the others to meet."""
TILES = (97, 128, 256)
SAMPLE = Window(300, 300, 128, 128)
"""What the head's scores are made equally large on."""
LARGE = (Window(101, 150, 67, 531), Window(101, 150, 523, 71))
"""The same for tiles as long as those of maps, and no wider than it takes: one that ends below another is no other case than
one that ends beside it, and where four of them meet, smaller ones show."""


@pytest.fixture(scope="module")
def havelland() -> Region:
    return Region.open(HAVELLAND)


@pytest.fixture(scope="module")
def head(havelland: Region) -> Head:
    """Six random layers that decide for each of the classes somewhere: as sensitive to what they read as trained ones."""
    inputs: tuple[HeadInput, ...] = ("features", "bands", "context")
    head = random_head(havelland, inputs, classes=entries(6), widths=(128, 128, 64, 64, 32))
    layers = head.layers
    with torch.inference_mode():
        read = havelland.head_input(SAMPLE, None, inputs)
        layers.mean.copy_(read.mean((1, 2), keepdim=True))
        layers.std.copy_(read.std((1, 2), keepdim=True))
        *before, last = layers.members[0].children()
        assert isinstance(last, torch.nn.Conv2d)
        assert last.bias is not None
        scores = torch.nn.Sequential(*before, last).eval()((read[None] - layers.mean) / layers.std)[0].flatten(1)
        for parameter in last.parameters():  # each class's scores to the mean 0 and the deviation 1
            parameter.div_(scores.std(1).reshape(-1, *[1] * (parameter.dim() - 1)))
        last.bias.sub_(scores.mean(1) / scores.std(1))
    return Head(head.header, layers, havelland)


@pytest.fixture(scope="module")
def features(havelland: Region) -> Tensor:
    return havelland.features(WHOLE)


@pytest.fixture(scope="module")
def logits(head: Head) -> Tensor:
    return head.answers(WHOLE)


def check_decisions(part: Tensor, whole: Tensor) -> None:
    assert_same_answers(part, whole)
    assert_same_classes(part.argmax(0), whole)


@pytest.mark.numerics
@pytest.mark.parametrize("tile", TILES)
def test_features_of_tiles_are_those_of_the_whole(havelland: Region, features: Tensor, tile: int) -> None:
    for window in WHOLE.tiles(tile):
        part = havelland.features(window)
        torch.testing.assert_close(part, features[(slice(None), *window.within(WHOLE).slices)], atol=1e-4, rtol=0)


@pytest.mark.numerics
@pytest.mark.parametrize("tile", [128, 256])
def test_logits_and_classes_of_tiles_are_those_of_the_whole(head: Head, logits: Tensor, tile: int) -> None:
    shares = logits.argmax(0).flatten().bincount() / WHOLE.pixels
    assert len(shares) == 6
    assert shares.min() > 0.01
    assert shares.max() <= 0.6
    for window in WHOLE.tiles(tile):
        check_decisions(head.answers(window), logits[(slice(None), *window.within(WHOLE).slices)])


@pytest.mark.numerics
def test_classes_of_tiles_of_512_px_are_those_of_the_whole(head: Head) -> None:
    for large in LARGE:
        whole = head.answers(large)
        first, second = large.tiles(512)
        for window in (first, second):
            check_decisions(head.answers(window), whole[(slice(None), *window.within(large).slices)])


@pytest.mark.numerics
def test_answers_in_bfloat16_are_nearly_those_in_float32(head: Head, logits: Tensor, native_answers: None) -> None:
    """Random layers are the hardest case: no class is far ahead anywhere."""
    window = Window(150, 260, 256, 160)
    exact = logits[(slice(None), *window.within(WHOLE).slices)]
    found = head.answers(window)
    assert found.dtype == torch.float32
    assert (found.exp() - exact.exp()).abs().max() < 0.1
    assert (found.argmax(0) == exact.argmax(0)).float().mean() > 0.98
    if computed_in(head.region.device, "auto") == "float32":
        torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)
    else:
        assert not torch.equal(found, exact)
    parts = Window(0, 0, window.height, window.width).tiles(128)
    whole = torch.zeros_like(found)
    for part in parts:
        whole[(slice(None), *part.slices)] = head.answers(part.shifted(window.row, window.col))
    assert (whole.argmax(0) == found.argmax(0)).float().mean() > 0.9995


@pytest.mark.numerics
def test_a_region_that_was_opened_for_float32_answers_in_it(head: Head, logits: Tensor, native_answers: None) -> None:
    window = Window(150, 260, 64, 64)
    exact = Head(head.header, head.layers, Region.open(HAVELLAND, precision="float32"))
    check_decisions(exact.answers(window), logits[(slice(None), *window.within(WHOLE).slices)])


def test_it_is_small_and_complete() -> None:
    file = open_region_file(HAVELLAND)
    assert file.size_bytes <= 16e6
    assert [band.name for band in file.header.bands] == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()
    assert "Copernicus Sentinel data 2017" in file.header.attribution


def test_it_remembers_as_well_as_it_says(havelland: Region, shared_data: Path) -> None:
    """Against the band files themselves, each at its own resolution, without the code that encoded the region."""
    remembered = np.concatenate(
        [havelland.reconstruct(window).numpy() for window in havelland.window.tiles(768)], axis=2
    )
    errors = []
    for index, (band, claimed) in enumerate(
        zip(havelland.header.bands, havelland.header.quality[0].bands, strict=True)
    ):
        (path,) = (shared_data / "havelland").glob(f"*_{band.name}.jp2")
        with rasterio.open(path) as source:
            numbers = source.read(1)
        truth = np.clip(numbers / 10_000, 0, 1)
        rows, cols = truth.shape
        factor = 768 // rows
        guess = remembered[index].reshape(rows, factor, cols, factor).mean((1, 3))
        error = ((guess - truth)[numbers > 0] ** 2).mean()
        assert -10 * np.log10(error) == pytest.approx(claimed.psnr_db, abs=0.01)
        errors.append(error)
    psnr = -10 * np.log10(np.mean(errors))
    assert psnr == pytest.approx(havelland.header.quality[0].psnr_db, abs=0.01)
    assert psnr >= 48


# --- several dates


ROMANIA, BOUCONNE = (HAVELLAND.with_name(f"{name}.safetensors") for name in ("romania", "bouconne"))
EXPECTED = {
    ROMANIA: (64, "B02 B03 B04 B08", 33.0, "Copernicus Sentinel data 2015-2020"),
    BOUCONNE: (7, "B02 B03 B04 B08 B05 B06 B07 B8A B11 B12", 42.0, "Copernicus Sentinel data 2018"),
}


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.stem)
def test_regions_of_several_dates_are_small_and_complete(path: Path) -> None:
    dates, bands, level, credit = EXPECTED[path]
    file = open_region_file(path)
    header = file.header
    assert file.size_bytes <= 15e6
    assert len(header.dates) == len(header.quality) == dates
    assert " ".join(band.name for band in header.bands) == bands
    assert all(band.wavelength_nm for band in header.bands)
    assert credit in header.attribution
    assert header.field.time.kind == "kriged"
    assert overall([quality.psnr_db for quality in header.quality]) >= level


def overall(levels: Sequence[float | None]) -> float:
    """PSNR of the mean of the squared errors that the levels stand for."""
    errors = [10 ** (-level / 10) for level in levels if level is not None]
    return float(-10 * np.log10(np.mean(errors)))


def test_romania_is_as_good_as_it_says_and_estimates_between_dates(shared_data: Path) -> None:
    """Against the cube itself, read without the code that encoded the region."""
    netcdf = pytest.importorskip("netCDF4")
    region = Region.open(ROMANIA)
    with netcdf.Dataset(shared_data / "romania/sentinel2_cube_subset_romania_10m.nc") as cube:
        cube.set_auto_maskandscale(False)
        time = cube["time"]
        days = [day.strftime("%Y-%m-%d") for day in netcdf.num2date(time[:], time.units, time.calendar)]
        images = np.stack([cube[name][:] for name in ("B2", "B3", "B4", "B8")], 1) / 10_000
        clear = np.isin(cube["SCL"][:], (4, 5, 6, 7, 11))
    assert [str(date) for date in region.header.dates] == [
        day for day, seen in zip(days, clear, strict=True) if seen.mean() >= 0.9
    ]
    for quality in region.header.quality[::9]:
        index = days.index(str(quality.date))
        remembered = region.reconstruct(region.window, quality.date).numpy()
        errors = (remembered - np.clip(images[index], 0, 1))[:, clear[index]] ** 2
        assert -10 * np.log10(errors.mean()) == pytest.approx(quality.psnr_db, abs=0.02)
    # A date that nobody encoded lies between what surrounds it: closer to both than they are to each other.
    before, after = dt.date(2018, 7, 1), dt.date(2018, 7, 21)
    at = {day: region.reconstruct(region.window, day, between=True) for day in (before, dt.date(2018, 7, 11), after)}
    middle = at[dt.date(2018, 7, 11)]
    apart = (at[before] - at[after]).abs().mean()
    assert (middle - at[before]).abs().mean() < apart
    assert (middle - at[after]).abs().mean() < apart


def test_bouconne_remembers_as_well_as_it_says(shared_data: Path) -> None:
    region = Region.open(BOUCONNE)
    with rasterio.open(shared_data / "bouconne/2018_3A_Theia_Bouconne.tif") as source:
        images = np.clip(source.read().reshape(7, 10, *source.shape) / 10_000, 0, 1)
    for image, quality in zip(images, region.header.quality, strict=True):
        errors = (region.reconstruct(region.window, quality.date).numpy() - image) ** 2
        assert -10 * np.log10(errors.mean()) == pytest.approx(quality.psnr_db, abs=0.02)
