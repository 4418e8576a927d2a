"""Planes: each band is read on its own grid, and every window of the common grid equals its part of the whole."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery_factories import write_raster
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition, Band
from lianet_user.geo.grid import Window, whole
from lianet_user.imagery.grids import (
    Resampled,
    block_mean,
    on_grid,
    pixel_factor,
    pixel_metres,
    same_grid,
    to_common_grid,
)
from lianet_user.imagery.imagery import Plane
from lianet_user.imagery.masks import MaskPlane, MaskRule
from lianet_user.imagery.planes import PlaneImagery
from lianet_user.imagery.rasters import RasterFile, RasterPlane

GRID = GeoBox((120, 180), Affine(10.0, 0.0, 400_000.0, 0.0, -10.0, 5_900_000.0), "EPSG:32633")
NOON = Acquisition(date=dt.date(2018, 4, 29))
LATER = Acquisition(date=dt.date(2018, 5, 13))


def random_numbers(geobox: GeoBox, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(300, 4000, geobox.shape).astype(np.uint16)


def plane_of(path: Path, values: NDArray[np.generic], geobox: GeoBox, **profile: Any) -> RasterPlane:
    return RasterPlane(RasterFile.open(write_raster(path, values, geobox, **profile)), scale=10_000.0, nodata=(0.0,))


def imagery_of(*planes: Plane, mask: MaskPlane | None = None, geobox: GeoBox = GRID) -> PlaneImagery:
    return PlaneImagery(
        geobox=geobox,
        bands=[Band(name=f"band {n}", gsd_m=pixel_metres(plane.geobox)) for n, plane in enumerate(planes)],
        acquisitions=[NOON],
        planes={(0, n): plane for n, plane in enumerate(planes)},
        masks={} if mask is None else {0: mask},
        source="synthetic",
    )


def three_sizes(folder: Path, holes: float = 0.0) -> list[RasterPlane]:
    planes = []
    for factor in (1, 2, 6):
        geobox = GRID.zoom_out(factor)
        values = random_numbers(geobox, factor)
        values[np.random.default_rng(factor).random(geobox.shape) < holes] = 0
        planes.append(plane_of(folder / f"{factor}.tif", values, geobox))
    return planes


# --- reading


def test_block_means_of_every_band_are_what_was_measured(tmp_path: Path) -> None:
    planes = three_sizes(tmp_path)
    imagery = imagery_of(*planes)
    patch = imagery.read(0, imagery.window)
    assert imagery.factors == (1, 2, 6)
    assert patch.reflectance.shape == patch.valid.shape == (3, 120, 180)
    assert patch.reflectance.dtype == np.float32
    assert patch.valid.all()
    for band, (plane, factor) in enumerate(zip(planes, imagery.factors, strict=True)):
        measured = plane.read(whole(plane.geobox)) / 10_000
        np.testing.assert_allclose(block_mean(patch.reflectance[band], factor), measured, atol=1e-6)


@pytest.mark.parametrize("holes", [0.0, 0.2, 0.95])
def test_a_window_is_its_part_of_the_whole(tmp_path: Path, holes: float) -> None:
    imagery = imagery_of(*three_sizes(tmp_path, holes))
    everything = imagery.read(0, imagery.window)
    generator = np.random.default_rng(0)
    corners = [Window(0, 0, 1, 1), Window(119, 179, 1, 1), Window(60, 0, 60, 180)]
    for _ in range(20):
        row, col = int(generator.integers(119)), int(generator.integers(179))
        height, width = int(generator.integers(1, 121 - row)), int(generator.integers(1, 181 - col))
        corners.append(Window(row, col, height, width))
    for window in corners:
        patch = imagery.read(0, window)
        rows, cols = window.slices
        assert np.array_equal(patch.valid, everything.valid[:, rows, cols])
        assert np.isfinite(patch.reflectance).all()
        expected = everything.reflectance[:, rows, cols][patch.valid]
        np.testing.assert_allclose(patch.reflectance[patch.valid], expected, atol=1e-6)


def test_threads_read_the_same(tmp_path: Path) -> None:
    imagery = imagery_of(*three_sizes(tmp_path))
    windows = list(imagery.window.tiles(40)) * 4
    alone = [imagery.read(0, window).reflectance for window in windows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda window: imagery.read(0, window).reflectance, windows))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_reflectance_is_clipped_and_gaps_are_filled(tmp_path: Path) -> None:
    values = np.full(GRID.shape, 0.25, np.float32)
    values[0, :5] = np.nan, np.inf, -9.0, 4.0, -1.0
    file = RasterFile.open(write_raster(tmp_path / "a.tif", values, GRID, nodata=-9.0))
    patch = imagery_of(RasterPlane(file)).read(0, whole(GRID))
    assert list(patch.valid[0, 0, :5]) == [False, False, False, True, True]
    np.testing.assert_allclose(patch.reflectance[0, 0, 3:6], [1.0, 0.0, 0.25])
    assert np.isfinite(patch.reflectance).all()


def test_a_layer_that_says_what_was_measured_is_heeded(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", random_numbers(GRID), GRID)
    told = np.full(GRID.shape, 255, np.uint8)
    told[5:9] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(told)
    patch = imagery_of(RasterPlane(RasterFile.open(path), scale=10_000.0)).read(0, whole(GRID))
    assert np.array_equal(patch.valid[0], told > 0)


def test_a_band_that_a_date_lacks_is_valid_nowhere_on_it(tmp_path: Path) -> None:
    fine, coarse, _ = three_sizes(tmp_path)
    bands = [Band(name=name, gsd_m=gsd) for name, gsd in (("fine", 10.0), ("coarse", 20.0))]
    planes: dict[tuple[int, int], Plane] = {(0, 0): fine, (1, 0): fine, (1, 1): coarse}
    imagery = PlaneImagery(geobox=GRID, bands=bands, acquisitions=[NOON, LATER], planes=planes, source="synthetic")
    assert imagery.factors == (1, 2)
    assert [bool(valid.any()) for valid in imagery.read(0, imagery.window).valid] == [True, False]
    assert imagery.read(1, imagery.window).valid.all()


def test_a_coarse_measurement_with_a_cloud_in_it_is_valid_nowhere(tmp_path: Path) -> None:
    clouds = np.zeros(GRID.shape, np.uint8)
    clouds[13, 27] = 1
    mask = MaskPlane(plane_of(tmp_path / "mask.tif", clouds + 1, GRID), GRID, MaskRule((1,)))
    patch = imagery_of(*three_sizes(tmp_path), mask=mask).read(0, whole(GRID))
    for band, (factor, row, col) in enumerate(((1, 13, 27), (2, 12, 26), (6, 12, 24))):
        expected = np.ones(GRID.shape, bool)
        expected[row : row + factor, col : col + factor] = False
        assert np.array_equal(patch.valid[band], expected)


def test_a_cloud_does_not_shine_into_what_is_refined_beside_it(tmp_path: Path) -> None:
    coarse = GRID.zoom_out(2)
    values = np.full(coarse.shape, 1000, np.uint16)
    values[20:30, 30:40] = 9000
    mask = MaskPlane(
        plane_of(tmp_path / "mask.tif", 1 + (values > 5000).astype(np.uint8), coarse), GRID, MaskRule((1,))
    )
    patch = imagery_of(plane_of(tmp_path / "a.tif", values, coarse), mask=mask).read(0, whole(GRID))
    np.testing.assert_allclose(patch.reflectance[patch.valid], 0.1, atol=1e-6)


# --- damage


@pytest.mark.parametrize("driver", ["GTiff", "JP2OpenJPEG"])
def test_a_file_that_is_cut_short_is_named_when_it_is_read(tmp_path: Path, driver: str) -> None:
    geobox = GeoBox((1200, 1200), GRID.affine, GRID.crs)
    path = write_raster(tmp_path / "a.img", random_numbers(geobox), geobox, driver=driver)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ImageryError, match=r"cannot read .*a\.img") as caught:
        imagery_of(RasterPlane(RasterFile.open(path)), geobox=geobox).read(0, Window(1190, 1190, 5, 5))
    assert "\n" not in str(caught.value)


def test_what_is_no_raster_is_named_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("not an image")
    with pytest.raises(ImageryError, match=r"cannot read .*a\.tif"):
        RasterFile.open(path)


def test_a_file_that_does_not_say_where_it_lies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageryError, match="no coordinate reference system"):
        RasterFile.open(write_raster(tmp_path / "a.tif", random_numbers(GRID), GRID, crs=None))
    nowhere = tmp_path / "b.tif"
    with pytest.warns(NotGeoreferencedWarning):
        write_raster(nowhere, np.ones((9, 9), np.uint8), GRID, transform=None)
    with pytest.raises(ImageryError, match="no transform"):
        RasterFile.open(nowhere)


# --- grids


def test_the_grid_is_that_of_the_finest_plane(tmp_path: Path) -> None:
    fine, middle, coarse = three_sizes(tmp_path)
    assert to_common_grid({1: coarse, 2: fine, 3: middle})[0] == GRID
    assert to_common_grid({1: coarse, 3: middle})[0] == GRID.zoom_out(2)


@pytest.mark.parametrize(
    "other",
    [
        GRID.zoom_out(1.5),
        GRID.translate_pix(1, 0).zoom_out(2),
        GRID[:60, :].zoom_out(2),
        GeoBox((60, 90), GRID.zoom_out(2).affine, "EPSG:32632"),
    ],
    ids=["no whole multiple", "shifted", "other extent", "other CRS"],
)
def test_planes_that_do_not_align_are_refused_without_a_grid(tmp_path: Path, other: GeoBox) -> None:
    planes = {"a": plane_of(tmp_path / "a.tif", random_numbers(GRID), GRID)}
    planes["b"] = plane_of(tmp_path / "b.tif", random_numbers(other), other)
    with pytest.raises(ImageryError, match=r"b\.tif covers .*not the ground of .*a\.tif.*`grid`"):
        to_common_grid(planes)
    grid, placed = to_common_grid(planes, GRID)
    assert imagery_of(placed["a"], placed["b"], geobox=grid).read(0, whole(grid)).valid[0].all()


def test_a_grid_inside_a_plane_only_crops_it(tmp_path: Path) -> None:
    _, middle, _ = three_sizes(tmp_path)
    grid = GRID[20:80, 40:140]
    imagery = imagery_of(on_grid(middle, grid), geobox=grid)
    assert imagery.factors == (2,)
    numbers = middle.read(whole(middle.geobox))[10:40, 20:70]
    np.testing.assert_allclose(
        block_mean(imagery.read(0, imagery.window).reflectance[0], 2), numbers / 10_000, atol=1e-6
    )


def test_ground_that_a_plane_does_not_cover_is_not_measured(tmp_path: Path) -> None:
    fine, _, _ = three_sizes(tmp_path)
    for grid in (GRID.translate_pix(-30, 0), GRID.translate_pix(-30.5, 0)):
        valid = imagery_of(on_grid(fine, grid), geobox=grid).read(0, whole(grid)).valid[0]
        assert not valid[:, :30].any()
        assert valid[:, 31:].all()
    far = GRID.translate_pix(5000, 0)
    assert not imagery_of(on_grid(fine, far), geobox=far).read(0, whole(far)).valid.any()


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("grid", [GRID.zoom_out(0.7), GRID.zoom_out(2.4), GRID.to_crs("EPSG:3035")], ids=str)
def test_a_window_of_a_resampled_plane_is_its_part_of_the_whole(tmp_path: Path, grid: GeoBox, method: str) -> None:
    values = random_numbers(GRID)
    values[40:50, 60:90] = 0
    plane = Resampled(plane_of(tmp_path / "a.tif", values, GRID), grid, method)  # type: ignore[arg-type]
    everything = plane.read(whole(grid))
    assert plane.measured(everything).mean() > 0.5
    for window in whole(grid).tiles(37):
        np.testing.assert_allclose(plane.read(window), everything[window.slices], atol=1e-3)


def test_resampling_keeps_a_slope_and_does_not_mix_nodata_in(tmp_path: Path) -> None:
    rows, cols = np.mgrid[: GRID.shape[0], : GRID.shape[1]]
    values = (1000 + 10 * rows + 4 * cols).astype(np.uint16)
    values[50:60, 50:60] = 0
    grid = GRID.translate_pix(0.5, 0.5)
    plane = Resampled(plane_of(tmp_path / "a.tif", values, GRID), grid)
    found = plane.read(whole(grid))
    assert not plane.measured(found)[51:58, 51:58].any()
    assert np.nanmin(found) >= 1000
    inner = (slice(5, 40), slice(5, 40))
    np.testing.assert_allclose(found[inner], (1007 + 10 * rows + 4 * cols)[inner], atol=0.1)


def test_resampling_to_another_projection_finds_the_place(tmp_path: Path) -> None:
    _, cols = np.mgrid[: GRID.shape[0], : GRID.shape[1]]
    grid = GRID.to_crs("EPSG:3035").zoom_out(2.5)
    plane = Resampled(plane_of(tmp_path / "a.tif", (1000 + 10 * cols).astype(np.uint16), GRID), grid)
    found = plane.read(whole(grid))
    rows, cols = np.nonzero(plane.measured(found))
    a, b, c, d, e, f = tuple(grid.affine)[:6]
    x, y = a * (cols + 0.5) + b * (rows + 0.5) + c, d * (cols + 0.5) + e * (rows + 0.5) + f
    east, north = Transformer.from_crs(3035, 32633, always_xy=True).transform(x, y)
    inner = (east > 400_050) & (east < 401_750) & (north > 5_898_850) & (north < 5_899_950)
    np.testing.assert_allclose(found[rows, cols][inner], 1000 + (east - 400_005)[inner], atol=0.5)


def test_grids_of_one_place_are_the_same_though_written_down_differently() -> None:
    noisy = GeoBox(
        GRID.shape, GRID.affine @ Affine.translation(1e-6, 0.0) @ Affine.scale(1.0 + 1e-9), CRS("EPSG:32633").to_wkt()
    )
    assert same_grid(GRID, noisy)
    assert pixel_factor(noisy.zoom_out(3), GRID) == 3
    assert not same_grid(GRID, GRID.translate_pix(1, 0))
    assert pixel_factor(GRID, GRID.zoom_out(2)) is None


def test_pixels_are_measured_in_metres_whatever_the_unit_of_the_grid() -> None:
    assert pixel_metres(GRID) == 10.0
    assert pixel_metres(GeoBox((10, 10), Affine(1e-4, 0, 12, 0, -1e-4, 52), "EPSG:4326")) == pytest.approx(
        11.13, abs=0.01
    )


def test_a_band_of_different_sizes_of_pixels_is_refused_by_both_names(tmp_path: Path) -> None:
    fine, coarse, _ = three_sizes(tmp_path)
    planes: dict[tuple[int, int], Plane] = {(0, 0): fine, (1, 0): coarse}
    with pytest.raises(ImageryError, match=r"different sizes: .*1\.tif.*2\.tif"):
        PlaneImagery(
            geobox=GRID,
            bands=[Band(name="a", gsd_m=10.0)],
            acquisitions=[NOON, LATER],
            planes=planes,
            source="synthetic",
        )
