"""Cubes: the pixels of the region or head they come from, computed only where they are touched, and never of another file."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import odc.geo.xr  # noqa: F401  # the accessor
import pytest
import rasterio
import xarray as xr
from agreement import assert_same_classes
from factories import CLASSES, RegionFactory, RegionHeaderFactory, make_head
from rasterio.errors import NotGeoreferencedWarning
from safetensors.numpy import save_file
from xarray.backends import BackendEntrypoint

import lianet_user
from lianet_user.cli import _run
from lianet_user.datacube import LianetBackend, lazy_array, open_datacube
from lianet_user.datacube import write as writing
from lianet_user.datacube.lazy_array import CubeFiles
from lianet_user.datacube.write import write_datacube
from lianet_user.errors import (
    AreaError,
    ArtifactError,
    DateError,
    InputError,
    OutputError,
    PartlyOutsideWarning,
    RegionMismatchError,
)
from lianet_user.field.config import KrigedTime, preset
from lianet_user.files.header import IGNORE, Acquisition, Band, ClassEntry, Numbers, class_flags
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.region import Region

pytest.importorskip("netCDF4")
pytest.importorskip("zarr")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _nothing_is_open() -> Iterator[None]:
    lazy_array._open.clear()
    yield
    lazy_array._open.clear()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows even in a small region."""
    monkeypatch.setattr(lazy_array, "TILE", 60)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows that are computed."""
    computed: list[Window] = []
    compute = CubeFiles.compute

    def counted(
        self: CubeFiles, quantity: lazy_array.Quantity, window: Window, date: dt.date, **rest: bool
    ) -> np.ndarray:
        computed.append(window)
        return compute(self, quantity, window, date, **rest)

    monkeypatch.setattr(CubeFiles, "compute", counted)
    return computed


@dataclass
class Known:
    """A region, and all that it remembers."""

    region: Region
    whole: xr.DataArray


@pytest.fixture(scope="module")
def kept() -> dict[str, Known]:
    return {}


@pytest.fixture
def known(make_region: RegionFactory, tmp_path_factory: pytest.TempPathFactory, kept: dict[str, Known]) -> Known:
    """Made once: it takes a second, and nothing here changes it."""
    if not kept:
        path = shutil.move(file_of(make_region(dates=2)), tmp_path_factory.mktemp("region") / "region.safetensors")
        region = Region.open(path)
        values = np.stack([region.reconstruct(region.window, date).numpy() for date in region.header.dates])
        kept["region"] = Known(region, xr.DataArray(values, dims=("time", "band", "y", "x")))
    return kept["region"]


@pytest.fixture
def region(known: Known) -> Region:
    """Two dates, three bands, 96 x 128 px."""
    return known.region


def file_of(region: Region) -> Path:
    assert region.path is not None
    return region.path


def close(values: object, expected: object) -> None:
    """Windows of one region agree within 1e-4, however an area is cut."""
    np.testing.assert_allclose(np.asarray(values), np.asarray(expected), rtol=0, atol=1e-4)


@pytest.fixture
def head(region_header: RegionHeaderFactory, tmp_path: Path) -> Path:
    """A head file of three classes, its region with two dates beside it."""
    made = make_head(region_header(dates=2), tmp_path)
    made.save(tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def kriged() -> dict[str, Any]:
    """Fields of a header whose time is continuous, its dates not in order."""
    dates = (dt.date(2018, 5, 1), dt.date(2018, 1, 1), dt.date(2018, 3, 1))
    acquisitions = tuple(Acquisition(date=date, time=dt.time(10, 20)) for date in dates)
    time = KrigedTime(kind="kriged", codes=4, days=tuple(each.days for each in acquisitions))
    field = preset("lite", height=96, width=128, dates=3, bands=3, table_size=2**10, time=time)
    return {"acquisitions": acquisitions, "field": field}


def test_a_cube_holds_what_the_region_remembers(known: Known, small_tiles: None) -> None:
    cube = open_datacube(file_of(known.region))
    assert cube.reflectance.dims == ("time", "band", "y", "x")
    assert cube.reflectance.dtype == np.float32
    close(cube.reflectance, known.whole)


def test_a_cube_says_where_when_and_what_it_is(make_region: RegionFactory) -> None:
    bands = (Band(name="red", wavelength_nm=665.0, gsd_m=10.0), Band(name="odd", gsd_m=20.0))
    region = make_region(dates=2, band_count=2, bands=bands)
    cube = open_datacube(file_of(region))
    assert cube.odc.geobox == region.geobox
    assert cube.reflectance.odc.geobox == region.geobox
    assert cube.isel(x=slice(8, 40), y=slice(3, 50)).odc.geobox == region.geobox[3:50, 8:40]
    assert cube.reflectance.encoding["grid_mapping"] == "spatial_ref"
    assert cube.spatial_ref.attrs["grid_mapping_name"] == "transverse_mercator"
    assert cube.x.attrs["standard_name"] == "projection_x_coordinate"
    assert cube.time.values.tolist() == np.array(region.header.dates, "datetime64[ns]").tolist()
    assert cube.band.values.tolist() == ["red", "odd"]
    assert cube.wavelength.sel(band="red") == 665.0
    assert np.isnan(cube.wavelength.sel(band="odd"))
    assert cube.gsd.values.tolist() == [10.0, 20.0]
    assert cube.reflectance.units == "1"
    assert cube.attrs["title"] == region.header.title
    assert cube.attrs["attribution"] == region.header.attribution
    assert cube.attrs["licence"] == region.header.licence
    assert cube.reflectance.sel(time="2017-03-16", band="odd").dims[-2:] == ("y", "x")


def test_opening_computes_nothing_and_needs_no_torch(region: Region, head: Path, windows: list[Window]) -> None:
    repr(open_datacube(file_of(region)))
    repr(open_datacube(head, chunks={}))
    assert not windows
    assert not lazy_array._open
    code = (
        "import sys, pathlib; from lianet_user.datacube import *; backend = LianetBackend()\n"
        "for path in sys.argv[1:]: assert backend.guess_can_open(path); open_datacube(path)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(file_of(region)), str(head)], check=True, timeout=120)


ORTHOGONAL = {
    "one number": np.s_[1, 2, 95, 127],
    "one date and band": np.s_[0, 1],
    "a window": np.s_[:, :, 30:55, 39:81],
    "a step": np.s_[:, 0, ::4, ::5],
    "a step larger than a tile": np.s_[0, :, 1::50, ::90],
    "backwards": np.s_[::-1, ::-1, ::-7, 100:10:-3],
    "from the end": np.s_[-1, -1, -5:, -3],
    "nothing": np.s_[:, :, 5:5],
    "indices": np.s_[[1, 0], [2, 0], [90, 3, 3], [5, 127, 64, 0]],
    "indices and a slice": np.s_[1, :, [50, 2], 3:60],
    "no dates": np.s_[0:0],
}


@pytest.mark.parametrize("key", ORTHOGONAL.values(), ids=ORTHOGONAL)
def test_axes_are_indexed_as_numpy_would(known: Known, small_tiles: None, key: Any) -> None:
    cube, whole = open_datacube(file_of(known.region)), known.whole
    key = key if isinstance(key, tuple) else (key,)
    mine = cube.reflectance.isel(dict(zip(cube.reflectance.dims, key, strict=False)))
    expected = whole.isel(dict(zip(whole.dims, key, strict=False)))
    assert mine.shape == expected.shape
    close(mine.values, expected.values)


def test_points_are_indexed_together(known: Known, small_tiles: None, windows: list[Window]) -> None:
    cube, whole = open_datacube(file_of(known.region)).reflectance, known.whole
    rows, cols = xr.DataArray([3, 90, 4, 3], dims="p"), xr.DataArray([120, 2, 121, 120], dims="p")
    many = xr.DataArray([[0, 1], [95, 2]], dims=("a", "b"))
    for key in (
        {"y": rows, "x": cols},
        {"y": rows, "x": cols, "time": xr.DataArray([0, 1, 1, 0], dims="p")},
        {"y": rows, "x": cols, "band": slice(None, None, -2)},
        {"y": many, "x": many, "time": 1},
        {"time": xr.DataArray([1, 0], dims="p"), "band": xr.DataArray([2, 2], dims="p"), "y": slice(0, 50, 7)},
        {"y": rows[:0], "x": cols[:0]},
    ):
        close(cube.isel(key).values, whole.isel(key).values)
    windows.clear()
    cube.isel(time=0, y=rows, x=cols).load()
    assert sorted(windows) == [Window(3, 120, 2, 2), Window(90, 2, 1, 1)]


def test_only_what_is_touched_is_computed(region: Region, small_tiles: None, windows: list[Window]) -> None:
    cube = open_datacube(file_of(region)).reflectance
    cube[1, 0, 7, 9].load()
    assert windows == [Window(7, 9, 1, 1)]
    windows.clear()
    cube.isel(time=0, y=slice(11, 51), x=slice(60, 128)).load()
    assert windows == [Window(11, 60, 40, 60), Window(11, 120, 40, 8)]  # tiles begin where the slice does


def test_dates_are_in_order_and_between_them_only_where_asked_for(make_region: RegionFactory) -> None:
    region = make_region(**kriged())
    cube = open_datacube(file_of(region))
    assert cube.time.values.astype("datetime64[D]").astype(str).tolist() == ["2018-01-01", "2018-03-01", "2018-05-01"]
    assert "estimated" not in cube.coords
    window = Window(0, 0, 20, 20)
    expected = region.reconstruct(window, dt.date(2018, 3, 1)).numpy()
    close(cube.reflectance.sel(time="2018-03-01")[0, :, :20, :20], expected)

    with pytest.raises(DateError, match="does not hold 2018-04-01"):
        open_datacube(file_of(region), dates=["2018-04-01"])
    asked: list[dt.date | str] = [dt.date(2018, 5, 1), "2018-04-01", dt.datetime(2018, 5, 1, 3)]
    between = open_datacube(file_of(region), dates=asked, between=True)
    assert between.time.values.astype(str).tolist() == [
        "2018-04-01T10:20:00.000000000",
        "2018-05-01T10:20:00.000000000",
    ]
    assert between.estimated.values.tolist() == [True, False]
    expected = region.reconstruct(window, dt.date(2018, 4, 1), between=True).numpy()
    close(between.reflectance[0, :, :20, :20], expected)


@pytest.mark.parametrize("dates", [[], "2017-02-16", ["yesterday"], ["2016-01-01"]])
def test_dates_that_are_none_are_refused(region: Region, dates: Any) -> None:
    with pytest.raises(DateError):
        open_datacube(file_of(region), dates=dates)


def test_a_heads_cube_holds_its_map_and_says_what_the_values_mean(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_array, "TILE", 70)
    opened = Head.open(head)
    cube = open_datacube(head, probabilities=True)
    classes = cube["class"]
    assert classes.dims == ("time", "y", "x")
    assert classes.dtype == np.uint8
    assert classes.attrs["_FillValue"] == IGNORE
    assert classes.odc.nodata == IGNORE
    assert classes.flag_values.tolist() == [0, 1, 2]
    assert classes.flag_meanings == "water wood_scrub_5_m Röhricht"
    assert cube.attribution == opened.header.attribution
    assert cube.class_name.values.tolist() == [entry.name for entry in CLASSES]
    for index, date in enumerate(opened.region.header.dates):
        assert_same_classes(classes.isel(time=index).values, opened.answers(opened.region.window, date))
        close(cube.probability.isel(time=index), opened.answers(opened.region.window, date).exp())
    np.testing.assert_allclose(cube.probability.sum("class_name"), 1.0, rtol=0, atol=1e-5)
    assert "probability" not in open_datacube(head)


def test_a_head_for_finer_labels_has_a_finer_cube_of_numbers(
    region_header: RegionHeaderFactory, tmp_path: Path, small_tiles: None
) -> None:
    made = make_head(region_header(), tmp_path, numbers=Numbers(unit="m", low=0, high=30, scale=30), scale=4)
    made.save(tmp_path / "head.safetensors")
    cube = open_datacube(tmp_path / "head.safetensors")
    assert cube.value.shape == (1, 384, 512)
    assert cube.value.units == "m"
    assert cube.odc.geobox == made.geobox
    expected = made.values(made.region.window)
    # Windows that begin and end inside a pixel of the region.
    np.testing.assert_allclose(cube.value[0, 101:203, 7:9], expected[101:203, 7:9], rtol=0, atol=3e-3)
    np.testing.assert_allclose(cube.value[0, 383, 511], expected[383, 511], rtol=0, atol=3e-3)


def test_options_that_do_not_apply_are_refused(
    region: Region, head: Path, region_header: RegionHeaderFactory, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="`probabilities` is for head files"):
        open_datacube(file_of(region), probabilities=True)
    with pytest.raises(InputError, match="`region` is for head files"):
        open_datacube(file_of(region), region=file_of(region))
    with pytest.raises(InputError, match="acquisitions only"):
        open_datacube(head, between=True)
    with pytest.raises(InputError, match="expected cpu or cuda"):
        open_datacube(head, device="gpu")
    (tmp_path / "numbers").mkdir()
    numbers = make_head(region_header(), tmp_path / "numbers", numbers=Numbers(low=0, high=1), task="coverage")
    numbers.save(tmp_path / "numbers.safetensors")
    assert list(open_datacube(tmp_path / "numbers.safetensors").data_vars) == ["coverage"]
    with pytest.raises(InputError, match="numbers, which have no probabilities"):
        open_datacube(tmp_path / "numbers.safetensors", probabilities=True)
    with pytest.raises(ArtifactError, match="expected its path"):
        LianetBackend().open_dataset(b"bytes")


def test_threads_share_one_opening(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    openings: list[str] = []
    read = Region.open

    def counted(path: str, device: str = "cpu") -> Region:
        openings.append(path)
        return read(path, device)

    monkeypatch.setattr(Region, "open", counted)
    cube = open_datacube(file_of(known.region)).reflectance
    barrier = threading.Barrier(8)

    def pixels(index: int) -> np.ndarray:
        barrier.wait()
        return cube.isel(time=index % 2, y=slice(10 * index, 10 * index + 10)).values

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(pixels, range(8)))
    assert openings == [str(file_of(known.region))]
    for index, part in enumerate(parts):
        close(part, known.whole[index % 2, :, 10 * index : 10 * index + 10])


def test_few_files_stay_open(make_region: RegionFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_array, "MOST_OPEN", 2)
    cubes = [open_datacube(file_of(make_region(name=f"region{n}", seed=n))).reflectance for n in range(3)]
    first = [float(cube[0, :, :9, :9].mean()) for cube in cubes]
    assert len(lazy_array._open) == 2
    assert [float(cube[0, :, :9, :9].mean()) for cube in cubes] == first
    assert len(set(first)) == 3


def test_chunks_suit_the_field_and_give_the_same_pixels(known: Known, windows: list[Window]) -> None:
    region, plain = known.region, known.whole
    lazy = open_datacube(file_of(region), chunks={}).reflectance
    assert lazy.chunks == ((1, 1), (3,), (96,), (128,))
    close(lazy.compute(scheduler="threads"), plain)
    cut = open_datacube(file_of(region)).reflectance.chunk({"time": 1, "y": 50, "x": 70})
    windows.clear()
    close(cut.mean("time").compute(scheduler="threads"), plain.mean("time"))
    assert len(windows) == 2 * 2 * 2


def test_a_cube_that_was_pickled_is_the_same(head: Path) -> None:
    cube = open_datacube(head)["class"]
    assert len(pickle.dumps(cube)) < 50_000  # words, not weights
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cube)), cube)
    lazy = pickle.loads(pickle.dumps(open_datacube(head, chunks={})["class"]))
    np.testing.assert_array_equal(lazy, cube)


@pytest.mark.parametrize("touched", [False, True])
def test_a_file_that_changed_is_refused(make_region: RegionFactory, touched: bool) -> None:
    path = file_of(make_region())
    cube = open_datacube(path).reflectance
    if touched:
        cube[0, 0, 0, 0].load()
    make_region(seed=1)
    os.utime(path, ns=(0, 10**18))
    with pytest.raises(ArtifactError, match=r"has changed since the cube was opened .* open the cube again"):
        cube[0, 0, 0, 1].load()
    assert open_datacube(path).reflectance[0, 0, 0, 1].values > -1
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        open_datacube(path)


def test_a_file_that_changes_while_it_is_read_is_refused(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    read = CubeFiles._read

    def changed(self: CubeFiles) -> Any:
        opened = read(self)
        os.utime(self.region.path, ns=(0, 10**18))
        return opened

    monkeypatch.setattr(CubeFiles, "_read", changed)
    with pytest.raises(ArtifactError, match="has changed"):
        open_datacube(file_of(region)).reflectance[0, 0, 0, 0].load()


def test_a_head_on_another_region_is_refused(head: Path, make_region: RegionFactory) -> None:
    other = make_region(name="other", dates=2, lineage="f" * 32).path
    with pytest.raises(RegionMismatchError, match="is not the region"):
        open_datacube(head, region=other)
    newer = make_region(name="newer", dates=2, seed=5).path
    cube = open_datacube(head, region=newer)  # the header cannot tell
    with pytest.raises(RegionMismatchError, match="was updated since"):
        cube["class"][0, 0, 0].load()


def test_the_engine_knows_its_own_files(region: Region, head: Path, tmp_path: Path) -> None:
    backend = LianetBackend()
    assert backend.guess_can_open(file_of(region))
    assert backend.guess_can_open(str(head))
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors", {"format": "pt"})
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "bare.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"\x10")
    (tmp_path / "junk.safetensors").write_bytes(bytes(range(1, 256)))
    shutil.copy(head, tmp_path / "head.nc")
    for name in ("other", "bare", "short", "junk", "missing"):
        assert not backend.guess_can_open(tmp_path / f"{name}.safetensors"), name
    assert not backend.guess_can_open(tmp_path / "head.nc")
    assert not backend.guess_can_open(b"CDF")
    with pytest.raises(ArtifactError, match="not a LIANet region file"):
        open_datacube(tmp_path / "other.safetensors")


def test_xarray_finds_the_engine(region: Region) -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]["xarray.backends"]
    assert set(declared) == {"lianet"}
    engine = EntryPoint("lianet", declared["lianet"], "xarray.backends").load()
    assert engine is LianetBackend
    assert issubclass(engine, BackendEntrypoint)
    cube = xr.open_dataset(file_of(region), engine=engine, drop_variables="gsd", dates=["2017-03-16"])
    assert "gsd" not in cube.coords
    assert cube.sizes["time"] == 1
    assert lianet_user.open_datacube is open_datacube


def test_class_names_become_words() -> None:
    names = ("a b", "a  b", "a, b!", "?!", "Heide/Moor", "x.y+z@0-1")
    flags = class_flags([ClassEntry(name=name, color=f"#00000{n}") for n, name in enumerate(names)])
    words = flags["flag_meanings"].split()
    assert words == ["a_b", "a_b_1", "a_b_2", "class", "Heide_Moor", "x.y+z@0-1"]
    assert flags["flag_colors"].split()[2] == "#000002"


# -- Files ------------------------------------------------------------------------------------------------------------


def reopened(path: Path) -> xr.Dataset:
    if path.suffix == ".zarr":
        return xr.open_zarr(path, decode_coords="all", mask_and_scale=False)
    return xr.open_dataset(path, engine="netcdf4", decode_coords="all", mask_and_scale=False)


@pytest.mark.parametrize("name", ["cube.zarr", "cube.nc"])
def test_a_written_cube_is_the_cube(region: Region, tmp_path: Path, name: str) -> None:
    told: list[tuple[int, int]] = []
    result = write_datacube(file_of(region), tmp_path / name, listener=lambda *each: told.append(each))
    cube = open_datacube(file_of(region))
    with reopened(tmp_path / name) as written:
        np.testing.assert_array_equal(written.reflectance, cube.reflectance)
        assert written.odc.geobox == region.geobox
        assert written.band.values.tolist() == cube.band.values.tolist()
        np.testing.assert_array_equal(written.time, cube.time)
        assert written.attrs["licence"] == cube.attrs["licence"]
        assert written.reflectance.encoding["grid_mapping"] == "spatial_ref"
    assert result.sizes == dict(cube.sizes)
    assert result.bytes > cube.nbytes / 4
    assert told[-1][0] == told[-1][1] > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["cube.zarr", "cube.nc"])
def test_a_part_of_a_cube_lies_where_it_belongs(region: Region, tmp_path: Path, name: str) -> None:
    box = (330_205.0, 5_819_405.0, 330_515.0, 5_819_905.0)
    asked: dict[str, Any] = {"bands": ["B04", "B02"], "dates": ["2017-03-16"]}
    result = write_datacube(file_of(region), tmp_path / name, bbox=box, bbox_crs="EPSG:32633", **asked)
    assert result.outside == 0.0
    window = Window(9, 20, 51, 32)
    with reopened(tmp_path / name) as written:
        assert written.band.values.tolist() == ["B04", "B02"]
        assert written.odc.geobox == region.geobox[window.slices]
        expected = region.reconstruct(window, dt.date(2017, 3, 16)).numpy()[[2, 0]]
        close(written.reflectance[0], expected)
    driver = {"cube.zarr": f'ZARR:"{tmp_path / name}":/reflectance', "cube.nc": f"NETCDF:{tmp_path / name}:reflectance"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # of the container, which GDAL opens first
        with rasterio.open(driver[name]) as dataset:
            assert dataset.crs.to_epsg() == 32633
            assert dataset.transform.almost_equals(region.geobox[window.slices].affine)
            close(dataset.read(), expected)


def test_a_written_map_keeps_its_classes(head: Path, tmp_path: Path) -> None:
    write_datacube(head, tmp_path / "map.nc", probabilities=True)
    cube = open_datacube(head, probabilities=True)
    with reopened(tmp_path / "map.nc") as written:
        np.testing.assert_array_equal(written["class"], cube["class"])
        np.testing.assert_array_equal(written.probability, cube.probability)
        assert written["class"].dtype == np.uint8
        assert written["class"].attrs["_FillValue"] == IGNORE
        assert written["class"].flag_meanings == cube["class"].flag_meanings
        assert written.class_name.values.tolist() == cube.class_name.values.tolist()


def test_what_cannot_be_written_is_refused(
    region: Region, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: list[Window]
) -> None:
    path = str(file_of(region))
    (tmp_path / "photos.zarr").mkdir()
    (tmp_path / "there.nc").write_text("mine")
    for output, error, message, rest in (
        ("cube.tif", OutputError, "ends in .zarr or .nc", {}),
        ("photos.zarr", OutputError, "no Zarr store", {"overwrite": True}),
        ("there.nc", OutputError, "`overwrite`", {}),
        ("nowhere/cube.zarr", OutputError, "does not exist", {}),
        ("cube.zarr", InputError, "no such band, found B02, B03, B04; did you mean 'B03'", {"bands": ["B3"]}),
        ("cube.zarr", InputError, "each once", {"bands": ["B02", "B02"]}),
        ("cube.zarr", AreaError, "outside the region", {"bbox": (0.0, 0.0, 1.0, 1.0)}),
    ):
        with pytest.raises(error, match=message):
            write_datacube(path, tmp_path / output, **rest)
    with pytest.raises(InputError, match="no bands to choose"):
        write_datacube(head, tmp_path / "cube.nc", bands=["B02"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="make room"):
        write_datacube(path, tmp_path / "cube.nc")
    assert (tmp_path / "there.nc").read_text() == "mine"
    assert not windows


def test_a_box_that_is_partly_outside_is_told_of(region: Region, tmp_path: Path) -> None:
    box = (329_900.0, 5_819_900.0, 330_100.0, 5_820_000.0)
    with pytest.warns(PartlyOutsideWarning, match=r"50\.0% of the box"):
        result = write_datacube(file_of(region), tmp_path / "cube.nc", bbox=box, bbox_crs="EPSG:32633")
    assert result.outside == 0.5
    assert (result.sizes["y"], result.sizes["x"]) == (10, 10)


@pytest.mark.parametrize("name", ["cube.zarr", "cube.nc"])
@pytest.mark.parametrize(
    "problem", [ArtifactError("damaged"), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_a_cube_is_replaced_when_the_new_one_is_finished(
    region: Region, tmp_path: Path, name: str, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_datacube(file_of(region), tmp_path / name, dates=["2017-02-16"])
    before = sorted(path.name for path in tmp_path.iterdir())

    def broken(self: CubeFiles, quantity: str, window: Window, date: dt.date, between: bool) -> np.ndarray:
        if date.month == 3:
            raise problem
        return np.ones((3, window.height, window.width), np.float32)

    expected = OutputError if isinstance(problem, OSError) else type(problem)
    with monkeypatch.context() as patched:
        patched.setattr(CubeFiles, "compute", broken)
        with pytest.raises(expected):
            write_datacube(file_of(region), tmp_path / name, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with reopened(tmp_path / name) as kept:
        assert kept.sizes["time"] == 1
        assert float(kept.reflectance.min()) != 1.0
    with pytest.raises(OutputError, match="`overwrite`"):
        write_datacube(file_of(region), tmp_path / name)
    write_datacube(file_of(region), tmp_path / name, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with reopened(tmp_path / name) as new:
        assert new.sizes["time"] == 2


def test_an_earlier_store_comes_back_where_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cube.zarr").mkdir()
    (tmp_path / "cube.zarr" / "old").touch()
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == "new.zarr":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="no"), writing._replacing_store(tmp_path / "cube.zarr") as made:
        made.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["cube.zarr", "old"]


def test_the_command_line_writes_the_same(region: Region, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["datacube", str(file_of(region)), "-o", str(tmp_path / "cube.nc")]
    assert _run([*command, "--date", "2017-03-16", "--bands", "B03, B02", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == {"time": 1, "band": 2, "y": 96, "x": 128}
    with reopened(tmp_path / "cube.nc") as written:
        expected = open_datacube(file_of(region)).reflectance[1, [1, 0]]
        close(written.reflectance[0], expected)
    assert _run(command) == 2
    said = capsys.readouterr().err
    assert "cube.nc exists" in said
    assert said.count("\n") == 1


# -- Many processes ---------------------------------------------------------------------------------------------------


def test_workers_compute_the_same_pixels_though_one_is_killed(known: Known) -> None:
    """A worker is killed after it has computed a chunk that only it holds: the rest compute that chunk again."""
    distributed = pytest.importorskip("distributed")
    region = known.region
    chunks = {"time": 1, "y": 48, "x": 64}
    patient = {
        "distributed.comm.timeouts.connect": "300s",
        "distributed.comm.timeouts.tcp": "300s",
    }  # of a busy machine
    with (
        dask.config.set(patient),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        lazy = open_datacube(file_of(region)).reflectance.chunk(chunks)
        held = client.persist(lazy)
        futures = distributed.futures_of(held)
        pids = client.run(os.getpid)
        assert os.getpid() not in pids.values()
        first = next(distributed.as_completed(futures))
        (address,) = client.who_has([first])[first.key][:1]
        os.kill(pids[address], signal.SIGKILL)
        computed = client.gather(client.compute(held), errors="raise")
        alive = client.run(os.getpid)
    assert pids[address] not in alive.values()
    close(computed, known.whole)
    single = open_datacube(file_of(region)).reflectance.chunk(chunks).compute(scheduler="synchronous")
    np.testing.assert_array_equal(computed, single)  # the same chunks are the same bits
