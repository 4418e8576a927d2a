"""Masks: what they call clear, on the imagery's grid, and nothing they do not call so."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from imagery_factories import write_raster
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window, whole
from lianet_user.imagery.imagery import ImageryOptions
from lianet_user.imagery.masks import MaskPlane, MaskRule, mask_files, mask_planes, mask_rule
from lianet_user.imagery.rasters import RasterFile, RasterPlane
from lianet_user.imagery.sensors import SCL_CLEAR

GRID = GeoBox((40, 60), Affine(10.0, 0.0, 400_000.0, 0.0, -10.0, 5_900_000.0), "EPSG:32633")
DATES = [Acquisition(date=dt.date(2018, 4, 29)), Acquisition(date=dt.date(2018, 5, 13))]


def write(path: Path, values: NDArray[np.generic]) -> Path:
    return write_raster(path, values, GRID)


def mask(path: Path, values: NDArray[np.generic], geobox: GeoBox, rule: MaskRule, **profile: Any) -> MaskPlane:
    return MaskPlane(RasterPlane(RasterFile.open(write_raster(path, values, geobox, **profile))), GRID, rule)


def classes(geobox: GeoBox, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 12, geobox.shape).astype(np.uint8)


PERCENT = np.linspace(0, 100, GRID.shape[0] * GRID.shape[1], dtype=np.float32).reshape(GRID.shape)
PERCENT[0, :3] = np.nan


@pytest.mark.parametrize(
    ("values", "rule", "nodata", "expected"),
    [
        (classes(GRID), MaskRule(SCL_CLEAR), None, np.isin(classes(GRID), SCL_CLEAR)),
        (PERCENT, MaskRule(below=30.0), None, PERCENT < 30),
        (classes(GRID), MaskRule(below=5.0), 0, (classes(GRID) > 0) & (classes(GRID) < 5)),
    ],
    ids=["classes", "a probability below the limit", "nodata is not"],
)
def test_what_the_rule_calls_clear_is_clear(
    tmp_path: Path, values: NDArray[Any], rule: MaskRule, nodata: float | None, expected: NDArray[np.bool_]
) -> None:
    clear = mask(tmp_path / "a.tif", values, GRID, rule, nodata=nodata).clear(whole(GRID))
    assert np.array_equal(clear, expected)


def test_nodata_that_is_called_clear_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageryError, match="declares 0 as nodata, which `clear` calls clear"):
        mask(tmp_path / "a.tif", classes(GRID), GRID, MaskRule((0, 1)), nodata=0)


def test_a_coarser_mask_is_repeated_and_of_a_finer_one_all_must_be_clear(tmp_path: Path) -> None:
    coarse, fine = GRID.zoom_out(2), GRID.zoom_out(0.5)
    values = classes(coarse)
    clear = mask(tmp_path / "a.tif", values, coarse, MaskRule(SCL_CLEAR)).clear(whole(GRID))
    assert np.array_equal(clear, np.isin(values, SCL_CLEAR).repeat(2, 0).repeat(2, 1))
    values = np.full(fine.shape, 4, np.uint8)
    values[7, 10] = 9
    expected = np.ones(GRID.shape, bool)
    expected[3, 5] = False
    assert np.array_equal(mask(tmp_path / "b.tif", values, fine, MaskRule(SCL_CLEAR)).clear(whole(GRID)), expected)


@pytest.mark.parametrize("factor", [0.5, 1, 2, 5])
def test_a_window_of_a_mask_is_its_part_of_the_whole(tmp_path: Path, factor: float) -> None:
    geobox = GRID.zoom_out(factor)
    plane = mask(tmp_path / "a.tif", classes(geobox), geobox, MaskRule(tuple(range(9))))
    everything = plane.clear(whole(GRID))
    assert 0 < everything.mean() < 1
    for window in (*whole(GRID).tiles(13), Window(39, 59, 1, 1)):
        assert np.array_equal(plane.clear(window), everything[window.slices])


def test_a_mask_of_other_ground_is_refused_and_with_a_grid_resampled(tmp_path: Path) -> None:
    shifted = GRID.translate_pix(3.5, 0)
    planes = {
        0: RasterPlane(RasterFile.open(write_raster(tmp_path / "a.tif", np.full(GRID.shape, 4, np.uint8), shifted)))
    }
    with pytest.raises(ImageryError, match=r"mask .*a\.tif covers .*`grid`"):
        mask_planes(planes, "SCL", DATES[:1], GRID, ImageryOptions())
    clear = mask_planes(planes, "SCL", DATES[:1], GRID, ImageryOptions(grid="any"))[0].clear(whole(GRID))
    assert not clear[:, :3].any()
    assert clear[:, 4:].all()


# --- which values are clear


@pytest.mark.parametrize("name", ["SCL", "scl", "masks/T33UUU_SCL_20m"])
def test_the_scene_classification_needs_no_rule(name: str) -> None:
    assert mask_rule(name, ImageryOptions()) == MaskRule(SCL_CLEAR)
    assert mask_rule(name, ImageryOptions(clear=(4,))) == MaskRule((4,))


@pytest.mark.parametrize("name", ["QA60", "sclera", "clouds"])
def test_any_other_mask_needs_a_rule(name: str) -> None:
    with pytest.raises(ImageryError, match="say which values of the mask are clear with `clear` or `clear_below`"):
        mask_rule(name, ImageryOptions())
    assert mask_rule(name, ImageryOptions(clear_below=0.3)) == MaskRule(below=0.3)


def test_two_rules_are_refused() -> None:
    with pytest.raises(ImageryError, match="both given"):
        mask_rule("SCL", ImageryOptions(clear=(4,), clear_below=0.3))


# --- masks in files of their own


def test_masks_are_found_by_the_dates_in_their_names(tmp_path: Path) -> None:
    for name, value in (("cloud_2018-05-13.tif", 2), ("cloud_20180429T103021.tif", 1), ("cloud_20190101.tif", 3)):
        write(tmp_path / "masks" / name, np.full(GRID.shape, value, np.uint8))
    found = mask_files(tmp_path / "masks", DATES)
    assert {index: int(plane.read(Window(0, 0, 1, 1))[0, 0]) for index, plane in found.items()} == {0: 1, 1: 2}


def test_one_mask_without_a_date_is_for_all_dates_or_has_a_layer_for_each(tmp_path: Path) -> None:
    one = mask_files(write(tmp_path / "one.tif", np.ones(GRID.shape, np.uint8)), DATES)
    assert sorted(one) == [0, 1]
    layers = np.stack([np.full(GRID.shape, 5, np.uint8), np.full(GRID.shape, 6, np.uint8)])
    each = mask_files(write(tmp_path / "each.tif", layers), DATES)
    assert [int(each[index].read(Window(0, 0, 1, 1))[0, 0]) for index in (0, 1)] == [5, 6]
    with pytest.raises(ImageryError, match="2 layers, the imagery 1 dates"):
        mask_files(tmp_path / "each.tif", DATES[:1])


def test_a_date_without_its_mask_is_named(tmp_path: Path) -> None:
    found = mask_files(write(tmp_path / "SCL_20180429.tif", classes(GRID)), DATES)
    with pytest.raises(ImageryError, match="found for 1 of 2 dates, and not for 2018-05-13"):
        mask_planes(found, "SCL", DATES, GRID, ImageryOptions())


def test_two_masks_of_a_date_and_masks_of_no_date_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "masks" / "a_20180429.tif", classes(GRID)).parent
    write(folder / "b_20180429.tif", classes(GRID))
    with pytest.raises(ImageryError, match="two masks of 2018-04-29"):
        mask_files(folder, DATES)
    (folder / "b_20180429.tif").rename(folder / "b.tif")
    with pytest.raises(ImageryError, match=r"b\.tif has no date"):
        mask_files(folder, DATES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageryError, match="holds no raster"):
        mask_files(tmp_path / "empty", DATES)
