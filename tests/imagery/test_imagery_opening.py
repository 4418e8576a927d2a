"""Imagery is told apart by its content, and only dates that can be used are."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from imagery_factories import write_raster
from odc.geo.geobox import GeoBox

from lianet_user.cli import as_options
from lianet_user.errors import ImageryError
from lianet_user.imagery import ImageryOptions, formats, open_imagery
from lianet_user.imagery.imagery import Selection

WEST, NORTH = 500_000.0, 5_800_000.0
DAYS = (1, 5, 9)


GRID = GeoBox((20, 20), Affine(10, 0, WEST, 0, -10, NORTH), "EPSG:32633")


def opened(*places: Path | str, **options: Any) -> Selection:
    return open_imagery(places, ImageryOptions(**options))


def write(path: Path, values: np.ndarray, *, names: tuple[str, ...] = ("red", "nir")) -> Path:
    return write_raster(path, values, GRID, names=names, nodata=0)


def scene(day: int) -> np.ndarray:
    return np.random.default_rng(day).integers(100, 5000, (2, 20, 20)).astype(np.uint16)


def stacks(folder: Path, *days: int) -> Path:
    for day in days:
        write(folder / f"scene_201806{day:02}.tif", scene(day))
    return folder


def bands(folder: Path, *days: int) -> Path:
    for day in days:
        for name, values in zip(("B04", "B08"), scene(day), strict=True):
            write(folder / f"T33UUU_201806{day:02}T101021_{name}.tif", values, names=())
    return folder


def cube(path: Path, *days: int) -> Path:
    values = np.stack([scene(day) for day in days])
    dataset = xr.Dataset(
        {name: (("time", "y", "x"), values[:, index]) for index, name in enumerate(("red", "nir"))},
        {
            "time": np.array([f"2018-06-{day:02}" for day in days], "datetime64[ns]"),
            "y": NORTH - 5 - 10.0 * np.arange(20),
            "x": WEST + 5 + 10.0 * np.arange(20),
            "spatial_ref": ((), 0, {"crs_wkt": rasterio.CRS.from_epsg(32633).to_wkt()}),
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_netcdf(path, engine="netcdf4")
    return path


def items(folder: Path, *days: int) -> Path:
    for day in days:
        assets = {}
        for name, values in zip(("red", "nir"), scene(day), strict=True):
            path = write(folder / f"{day:02}_{name}.tif", values, names=())
            assets[name] = {"href": path.name, "bands": [{"name": name, "eo:common_name": name}]}
        item: dict[str, Any] = {
            "type": "Feature", "stac_version": "1.1.0", "id": f"d{day}", "geometry": None, "links": [], "assets": assets,
            "properties": {"datetime": f"2018-06-{day:02}T10:00:00Z"},
        }  # fmt: skip
        (folder / f"d{day}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"d{day}.json"} for day in days]
    (folder / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
    return folder


def test_the_same_scenes_are_the_same_in_every_kind_of_file(tmp_path: Path) -> None:
    pytest.importorskip("netCDF4")
    pytest.importorskip("odc.stac")
    cube(tmp_path / "cubes" / "no_suffix", *DAYS)
    paths = [
        stacks(tmp_path / "stacks", *DAYS),
        bands(tmp_path / "bands", *DAYS),
        tmp_path / "cubes",
        tmp_path / "cubes" / "no_suffix",
        items(tmp_path / "items", *DAYS),
        tmp_path / "items" / "catalog.json",
    ]
    for path in paths:
        imagery = opened(path)
        assert [held.date.day for held in imagery.acquisitions] == list(DAYS)
        for index, day in enumerate(DAYS):
            patch = imagery.read(index, imagery.window)
            np.testing.assert_allclose(patch.reflectance, scene(day) / 10_000, atol=1e-6, err_msg=str(path))
        assert any(note.startswith("reflectance = ") for note in imagery.notes)


def test_days_outside_since_and_until_are_left_out(tmp_path: Path) -> None:
    folder = stacks(tmp_path, *DAYS)
    chosen = opened(folder, since=dt.date(2018, 6, 2), until=dt.date(2018, 6, 8))
    assert [held.date.day for held in chosen.acquisitions] == [5]
    with pytest.raises(ImageryError, match="none of 3 dates"):
        opened(folder, since=dt.date(2019, 1, 1))


def test_cloudy_days_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = stacks(tmp_path, *DAYS)
    half, rest = scene(5), scene(9)
    half[:, :10] = 0
    rest[0, 0, :4] = 0  # 1 % of the pixels lack a band
    write(folder / "scene_20180605.tif", half)
    write(folder / "scene_20180609.tif", rest)
    for least, days in ((0.0, [1, 5, 9]), (0.5, [1, 5, 9]), (0.51, [1, 9]), (0.99, [1, 9]), (0.995, [1])):
        imagery = opened(folder, min_clear=least)
        assert [held.date.day for held in imagery.acquisitions] == days
        assert any(f"{3 - len(days)} of 3 acquisitions left out" in note for note in imagery.notes) == (len(days) < 3)
    assert imagery.read(0, imagery.window).valid.all()


def test_no_date_that_is_clear_enough_is_an_error(tmp_path: Path) -> None:
    folder = stacks(tmp_path, 1)
    half = scene(5)
    half[:, :5] = 0
    write(folder / "scene_20180601.tif", half)
    clearest = r"none of 1 acquisitions is clear over 90.0%.*2018-06-01, over 75.0%.*`min_clear`"
    with pytest.raises(ImageryError, match=clearest):
        opened(folder, min_clear=0.9)


def test_a_date_without_any_valid_pixel_is_named(tmp_path: Path) -> None:
    folder = stacks(tmp_path, *DAYS)
    write(folder / "scene_20180605.tif", scene(5) * np.uint16(0))
    found = r"1 of 3 acquisitions have no valid pixel at all \(2018-06-05\).*`min_clear`"
    with pytest.raises(ImageryError, match=found):
        opened(folder)
    assert len(opened(folder, min_clear=0.01).acquisitions) == 2


def test_a_missing_band_does_not_make_a_date_cloudy(tmp_path: Path) -> None:
    folder = bands(tmp_path, *DAYS)
    (folder / "T33UUU_20180605T101021_B08.tif").unlink()
    imagery = opened(folder, min_clear=0.9)
    assert [held.date.day for held in imagery.acquisitions] == list(DAYS)
    assert any("B08 is missing on 2018-06-05" in note for note in imagery.notes)


def test_large_imagery_is_looked_through_in_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "TILE", 7)
    corner = np.zeros((2, 20, 20), np.uint16)
    corner[:, 19, 19] = 300
    write(tmp_path / "scene_20180601.tif", corner)
    assert len(opened(tmp_path).acquisitions) == 1
    assert len(opened(tmp_path, min_clear=1 / 400).acquisitions) == 1
    with pytest.raises(ImageryError, match="lower `min_clear`"):
        opened(tmp_path, min_clear=2 / 400)


def test_kinds_are_not_mixed(tmp_path: Path) -> None:
    pytest.importorskip("netCDF4")
    with pytest.raises(ImageryError, match=r"2 formats.*\(NetCDF or Zarr\).*\(rasters\).*give files of one format"):
        opened(stacks(tmp_path / "s", 1), cube(tmp_path / "c.nc", 5))


def test_nothing_to_open_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageryError, match="no imagery given"):
        opened()
    with pytest.raises(ImageryError, match=r"gone does not exist"):
        opened(tmp_path / "gone")
    with pytest.raises(ImageryError):
        opened(tmp_path)
    (tmp_path / "notes.txt").write_text("no imagery")
    with pytest.raises(ImageryError, match=r"notes.txt"):
        opened(tmp_path / "notes.txt")


def test_a_url_stays_one_as_a_path() -> None:
    pytest.importorskip("odc.stac")
    with pytest.raises(ImageryError, match=r"cannot read http://localhost:1/x.json"):
        opened(Path("http://localhost:1/x.json"))
    with pytest.raises(ImageryError, match="only https"):
        opened("s3://bucket/x.json")


def test_importing_the_package_imports_no_reader() -> None:
    heavy = ("torch", "xarray", "odc.stac", "pystac", "rasterio", "netCDF4", "zarr")
    code = f"import sys, lianet_user.imagery; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_offset_of_a_date_that_there_is_not_is_no_mistake_to_pass_over(tmp_path: Path) -> None:
    folder = stacks(tmp_path, 1, 5)
    with pytest.raises(ImageryError, match=r"no acquisition of 2018-06-02, for which the offset was given"):
        opened(folder, offsets={dt.date(2018, 6, 2): 1000.0})
    # Of dates that are left out on purpose it may be given.
    chosen = opened(folder, since=dt.date(2018, 6, 4), offsets={dt.date(2018, 6, 1): 1000.0})
    assert len(chosen.acquisitions) == 1


@pytest.mark.parametrize(("command", "prefix"), [("pretrain", "--"), ("compare", "--imagery-")])
def test_an_error_of_imagery_names_the_options_for_imagery(command: str, prefix: str) -> None:
    """A command that reads labels, too, has a --scale of its own."""
    message = as_options("give `scale`, `dates` or `clear_below`", [command, "x"], "imagery_")
    assert message == f"give {prefix}scale, {prefix}dates or {prefix}clear-below"
