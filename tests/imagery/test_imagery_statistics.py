"""Statistics are those of all valid pixels, however imagery is cut, and only what is true of all of it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from imagery_factories import Held

from lianet_user.errors import ImageryError
from lianet_user.imagery.statistics import TILE, measure


def random_imagery(dates: int = 2, bands: int = 3, height: int = 600, width: int = 1100) -> Held:
    """Levels far above the deviations, where a difference of sums of squares would be off."""
    rng = np.random.default_rng(3)
    values = rng.normal(0.9, 1e-4, (dates, bands, height, width)).astype(np.float32)
    return Held(values, rng.random(values.shape) < 0.7)


def pixels_read(imagery: Held) -> list[int]:
    """How many of each acquisition."""
    return [sum(window.pixels for read, window in imagery.reads if read == n) for n in range(len(imagery.values))]


def test_figures_are_numpys_over_all_valid_pixels() -> None:
    imagery = random_imagery()
    imagery.valid[1, 2] = False  # a band that a date lacks
    imagery.values[~imagery.valid] = 7.0
    found = measure(imagery)
    for band in range(3):
        chosen = imagery.values[:, band][imagery.valid[:, band]].astype(np.float64)
        assert found.mean[band] == pytest.approx(chosen.mean(), rel=1e-12)
        assert found.std[band] == pytest.approx(chosen.std(), rel=1e-9)
    np.testing.assert_allclose(found.valid, imagery.valid.mean((2, 3)), rtol=1e-12)
    assert found.valid[1, 2] == 0
    assert [values.dtype.name for values in (found.mean, found.std, found.valid)] == ["float64"] * 3
    assert found.exact


def test_everything_is_read_once_tile_by_tile() -> None:
    imagery = random_imagery()
    told: list[tuple[int, int]] = []
    measure(imagery, listener=lambda done, total: told.append((done, total)))
    assert pixels_read(imagery) == [600 * 1100] * 2
    assert max(window.pixels for _, window in imagery.reads) == TILE**2
    assert told == [(done, 12) for done in range(1, 13)]


def test_a_sample_is_repeatable_and_equal_for_every_date() -> None:
    first, second, other = random_imagery(), random_imagery(), random_imagery()
    whole = measure(random_imagery())
    limit = 4 * TILE**2
    found = measure(first, limit_pixels=limit)
    assert not found.exact
    assert sum(pixels_read(first)) <= limit
    assert min(pixels_read(first)) > 0
    np.testing.assert_allclose(found.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(found.std, whole.std, rtol=0.02)
    np.testing.assert_allclose(found.valid, 0.7, atol=0.01)
    assert np.array_equal(found.mean, measure(second, limit_pixels=limit).mean)
    assert not np.array_equal(found.mean, measure(other, limit_pixels=limit, seed=1).mean)


@pytest.mark.parametrize("where", range(6))
def test_a_date_is_searched_to_its_first_valid_pixel_before_it_is_given_up(where: int) -> None:
    imagery = random_imagery(dates=3)
    tile = list(imagery.window.tiles(TILE))[where]
    imagery.valid[1] = False
    imagery.valid[1, 0, tile.row, tile.col] = True
    found = measure(imagery, limit_pixels=TILE**2)
    assert found.valid[1, 0] > 0
    assert pixels_read(imagery)[0] <= TILE**2  # a date that has shown something is left alone
    assert not found.exact


def test_a_band_is_searched_until_it_varies_before_it_is_refused() -> None:
    imagery = random_imagery()
    imagery.values[:, 1] = 0.25
    imagery.values[1, 1, 599, 1099], imagery.valid[1, 1, 599, 1099] = 0.5, True
    found = measure(imagery, limit_pixels=TILE**2)
    assert found.std[1] > 0
    imagery.valid[:, 2] = False
    imagery.valid[0, 2, 0, :2] = True
    found = measure(imagery, limit_pixels=TILE**2)
    assert found.mean[2] == pytest.approx(imagery.values[0, 2, 0, :2].mean())


@pytest.mark.parametrize("limit", [2**28, TILE**2])
def test_dates_without_a_valid_pixel_are_refused_by_name(limit: int) -> None:
    imagery = random_imagery(dates=3)
    imagery.valid[[0, 2]] = False
    with pytest.raises(ImageryError, match=r"no pixel of 2017-02-16, 2017-04-16 is valid .* leave empty dates out"):
        measure(imagery, limit_pixels=limit)


@pytest.mark.parametrize("limit", [2**28, TILE**2])
@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 1e-30])
def test_a_band_of_one_value_or_of_none_is_refused_by_name(level: float, limit: int) -> None:
    imagery = random_imagery()
    imagery.values[:, 1] = np.where(imagery.valid[:, 1], np.float32(level), 0.7)
    with pytest.raises(ImageryError, match=r"band B03 has one value everywhere \(.*leave it out with `bands`"):
        measure(imagery, limit_pixels=limit)
    imagery.valid[:, 1] = False
    with pytest.raises(ImageryError, match=r"band B03 has no valid pixel on any date: leave it out with `bands`"):
        measure(imagery, limit_pixels=limit)
