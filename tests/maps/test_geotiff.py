"""The files of maps: Cloud-Optimized GeoTIFFs of every pixel as it was, read back, and what libtiff prints of a disk."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.windows
from affine import Affine
from factories import CLASSES, HEIGHTS, NORTH, WEST, RegionHeaderFactory, contents, make_head, predict, read_raster
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rio_cogeo.cogeo import cog_validate

from lianet_user.errors import OutputError
from lianet_user.files.header import Numbers
from lianet_user.geo.grid import whole
from lianet_user.head import Head
from lianet_user.maps import geotiff
from lianet_user.maps.geotiff import disk_errors
from lianet_user.maps.product import ClassProduct, NumberProduct

CLASS_LAYER = ClassProduct(CLASSES).profile
NUMBER_LAYER = NumberProduct(HEIGHTS, "regression").profile
GRID = GeoBox((700, 1300), Affine(10.0, 0.0, WEST, 0.0, -10.0, NORTH), "EPSG:32633")
"""Takes several tiles and has overviews."""
STRIPES = np.arange(700 * 1300, dtype=np.uint32).reshape(700, 1300).astype(np.uint8) % 3

pytestmark = pytest.mark.usefixtures("coarse_figures")


def write_map(path: Path, values: np.ndarray, options: Mapping[str, str] | None = None) -> None:
    layer = CLASS_LAYER if values.dtype == np.uint8 else NUMBER_LAYER
    tiles = ((tile, values[tile.slices][None]) for tile in whole(GRID).tiles(300))
    geotiff.write_map(path, GRID, tiles, layer, {"REGION": "small"}, geotiff.checked_options(options or {}, layer))


def test_a_large_map_is_a_cog_whose_overviews_hold_the_most_frequent_class(tmp_path: Path) -> None:
    values = np.zeros((700, 1300), np.uint8)
    values[:, ::3] = 2  # two thirds are 0: a mean would make 1 of it
    write_map(tmp_path / "map.tif", values)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2, 4]
        assert dataset.block_shapes == [(512, 512)]
        assert np.array_equal(dataset.read(1), values)
        assert 1 not in dataset.read(1, out_shape=(175, 325))
    assert geotiff.read_decimated(tmp_path / "map.tif", 325, CLASS_LAYER).shape == (1, 175, 325)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_others_call_it_a_cog(head: Head, out: Path) -> None:
    write_map(out / "large.tif", STRIPES)
    predict(head, out / "map.tif")
    for name in ("large.tif", "map.tif"):
        assert cog_validate(out / name, strict=True, quiet=True) == (True, [], [])


@pytest.mark.parametrize(
    "options", [{"COMPRESS": "none"}, {"compress": "LZW"}, {"BLOCKSIZE": "128", "OVERVIEWS": "NONE"}]
)
def test_creation_options_reach_the_file_and_leave_the_values(
    tmp_path: Path, options: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    write_map(tmp_path / "map.tif", STRIPES, options)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert np.array_equal(dataset.read(1), STRIPES)
        compression = dataset.compression.value if dataset.compression else "NONE"
        assert compression == {key.upper(): value.upper() for key, value in options.items()}.get("COMPRESS", "DEFLATE")
        assert bool(dataset.overviews(1)) == ("OVERVIEWS" not in options)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("COMPRES", "LZW", "no such option"),
        ("COMPRESS", "JPEG", "expected one of DEFLATE, LZMA, LZW, NONE, ZSTD"),
        ("BLOCKSIZE", "abc", "no such value"),
        ("NUM_THREADS", "0", "expected one of ALL_CPUS, 1 to 64"),
    ],
)
def test_a_creation_option_that_gdal_would_pass_over_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(OutputError, match=f"`creation_options` {name}={value.upper()}: .*{message}|{message}"):
        geotiff.checked_options({name: value}, CLASS_LAYER)


def test_overviews_hold_means_and_pixels_every_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(10, 5, (700, 1300)).astype(np.float32)
    values[100:104, 200:204] = np.nan
    values[0, :3] = -0.0, np.inf, np.finfo(np.float32).smallest_subnormal
    write_map(tmp_path / "map.tif", values)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.overviews(1) == [2, 4]
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.read(1).tobytes() == values.tobytes()
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as dataset:
        half = dataset.read(1)
    blocks = values.reshape(350, 2, 650, 2)[1:]
    assert np.isnan(half[50:52, 100:102]).all()
    np.testing.assert_allclose(half[1:], blocks.mean((1, 3)), rtol=1e-5, atol=1e-5)
    assert geotiff.read_decimated(tmp_path / "map.tif", 650, NUMBER_LAYER).shape == (1, 350, 650)


@pytest.mark.parametrize("compression", geotiff.OPTIONS["COMPRESS"])
@pytest.mark.parametrize("predictor", geotiff.OPTIONS["PREDICTOR"])
def test_creation_options_leave_numbers_as_they_are(
    tmp_path: Path, compression: str, predictor: str, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.linspace(0, 30, 700 * 1300, dtype=np.float32).reshape(700, 1300)
    write_map(tmp_path / "map.tif", values, {"COMPRESS": compression, "PREDICTOR": predictor})
    assert read_raster(tmp_path / "map.tif", 1).tobytes() == values.tobytes()
    assert not caplog.records


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (np.zeros((96, 128), np.uint8), None),
        (np.array([[np.nan]], np.float32), HEIGHTS),
        (np.zeros((1, 1), np.float32), HEIGHTS),
    ],
    ids=["other classes", "a number that is none", "another number"],
)
def test_a_map_that_reads_back_different_is_not_kept(
    region_header: RegionHeaderFactory,
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: np.ndarray,
    numbers: Numbers | None,
) -> None:
    translate = rasterio.shutil.copy

    def damage(source: Path, target: Path, **options: str) -> None:
        with rasterio.open(source, "r+") as dataset:
            dataset.write(values, 1, window=rasterio.windows.Window(0, 0, *values.shape[::-1]))
        translate(source, target, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", damage)
    with pytest.raises(OutputError, match=r"map\.tif was written, but its pixels came back different"):
        predict(make_head(region_header(), tmp_path, numbers=numbers), out / "map.tif")
    assert contents(out) == {}


# --- what libtiff prints becomes an error, and what others print is printed


def printing(text: str, raised: BaseException | None = None) -> None:
    """Print as a C library does, and then fail."""
    with disk_errors():
        os.write(2, text.encode())
        if raised:
            raise raised


@pytest.mark.parametrize("raised", [None, RasterioError("Write failed. See previous exception for details.")])
def test_what_libtiff_prints_is_raised(raised: Exception | None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        printing(
            "careful\n_tiffWriteProc: No space left on device.\n_tiffWriteProc: No space left on device.\n", raised
        )
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is raised
    assert capfd.readouterr().err == "careful\n"


def test_other_errors_and_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RasterioError, match="no"):
        printing("ERROR 1: no\n", RasterioError("no"))
    with pytest.raises(KeyboardInterrupt):
        printing("_tiffWriteProc: Input/output error.\n", KeyboardInterrupt())
    printing("")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "ERROR 1: no\nafter\n"


def test_what_python_prints_is_not_held_up(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", open(2, "w", buffering=1, closefd=False))  # noqa: SIM115  # as outside of pytest
    with disk_errors():
        print("40 %", file=sys.stderr)
        assert capfd.readouterr().err == "40 %\n"


def test_more_than_a_pipe_holds_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with disk_errors():
        for _ in range(200):
            try:
                os.write(2, b"x" * 999 + b"\n")
            except BlockingIOError:
                break
    assert 10_000 < len(capfd.readouterr().err) <= 200_000
