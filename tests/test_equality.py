"""What is promised about equality (docs/reference/equality.md), asked of the hardest case: every pixel a near tie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from agreement import assert_same_answers, assert_same_classes, nearly_tied
from factories import FIRST, LAST, RegionHeaderFactory, make_head, read_raster
from odc.geo.geobox import GeoBox

from lianet_user.datacube import open_datacube
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.maps import change, predict

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("coarse_figures")]

GRID = GeoBox((75, 110), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
TILE = 64
"""Pixels of the region along the side of a tile."""


@pytest.fixture(params=[1, 4])
def tied(region_header: RegionHeaderFactory, tmp_path: Path, request: pytest.FixtureRequest) -> Head:
    return nearly_tied(make_head(region_header(geobox=GRID, dates=2), tmp_path, scale=request.param))


def test_nothing_but_rounding_decides(tied: Head) -> None:
    """Or the tests below prove nothing."""
    answers = tied.answers(tied.region.window, FIRST)
    best, second = answers.topk(2, 0).values
    assert (best - second).max() < 1e-4
    assert all(share > 0.1 for share in answers.argmax(0).flatten().bincount(minlength=3) / answers[0].numel())


def test_other_windows_answer_within_the_bound(tied: Head) -> None:
    whole = tied.answers(tied.region.window, FIRST)
    for window in (Window(0, 0, 37, 41), Window(31, 17, 40, 61), Window(74, 0, 1, 110), Window(10, 109, 65, 1)):
        place = (slice(None), *window.scaled(tied.scale).slices)
        part = tied.answers(window, FIRST)
        assert_same_answers(part, whole[place])
        assert assert_same_classes(part.argmax(0), whole[place]) == 1.0


def test_another_number_of_threads_answers_within_the_bound(tied: Head) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(tied.answers(tied.region.window, FIRST))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert_same_answers(other, found[0])
        assert_same_classes(other.argmax(0), found[0])


def test_maps_of_one_tile_grid_are_the_same_to_the_bit(
    tied: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, written again, taken up again after an interruption, in memory, as a cube, and as a change of classes."""
    tile = TILE * tied.scale
    monkeypatch.setattr("lianet_user.datacube.lazy_array.TILE", tile)
    predict(tied, tmp_path / "once.tif", dates=[FIRST], tile=tile)
    predict(tied, tmp_path / "again.tif", dates=[FIRST], tile=tile)
    once = read_raster(tmp_path / "once.tif", 1)
    assert np.array_equal(read_raster(tmp_path / "again.tif", 1), once)

    def stop(done: int, total: int) -> None:
        if done > total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(tied, tmp_path / "resumed.tif", dates=[FIRST], listener=stop, tile=tile)
    told: list[int] = []
    listener = lambda done, _: told.append(done)  # noqa: E731
    predict(tied, tmp_path / "resumed.tif", dates=[FIRST], resume=True, listener=listener, tile=tile)
    assert told[0] > 0  # it did not begin anew
    assert np.array_equal(read_raster(tmp_path / "resumed.tif", 1), once)
    assert np.array_equal(tied.predict(date=FIRST, tile=tile).to_numpy(), once)
    tied.save(tmp_path / "head.safetensors")
    assert np.array_equal(open_datacube(tmp_path / "head.safetensors")["class"].sel(time=str(FIRST)).squeeze(), once)
    predict(tied, tmp_path / "last.tif", dates=[LAST], tile=tile)
    change(tied, tmp_path / "change.tif", first=FIRST, last=LAST, tile=tile)
    codes = once.astype(int) * len(tied.header.classes) + read_raster(tmp_path / "last.tif", 1)
    assert np.array_equal(read_raster(tmp_path / "change.tif", 1), codes)


def test_heads_mapped_together_answer_within_the_bound(tied: Head, tmp_path: Path) -> None:
    other = Head(tied.header, tied.layers, tied.region, tmp_path / "other.safetensors")
    tied.path = tmp_path / "tied.safetensors"
    predict([tied, other], tmp_path / "maps", dates=[FIRST], tile=TILE * tied.scale)
    for name in ("tied", "other"):
        assert_same_classes(
            read_raster(tmp_path / "maps" / f"{name}_{FIRST}.tif", 1), tied.answers(tied.region.window, FIRST)
        )


def test_folded_norms_answer_within_the_bound(tied: Head) -> None:
    inputs = tied.region.head_input(tied.region.window, FIRST, tied.header.head.inputs)[None]
    with torch.inference_mode():
        as_trained = tied.layers(inputs)[0]
    assert_same_answers(tied.answers(tied.region.window, FIRST), as_trained)
