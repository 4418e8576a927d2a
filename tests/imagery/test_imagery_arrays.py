"""NetCDF and Zarr cubes: values as they are stored, on a grid with north up, read window by window."""

import datetime as dt
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pyproj import CRS

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window
from lianet_user.imagery.formats import open_imagery
from lianet_user.imagery.imagery import ImageryOptions
from lianet_user.imagery.netcdf_zarr import open_arrays
from lianet_user.imagery.planes import PlaneImagery

pytest.importorskip("netCDF4")
pytest.importorskip("zarr")

WEST, NORTH = 500_000.0, 5_800_000.0
DATES = ("2018-04-29", "2018-05-13", "2018-07-08")


def opened(*paths: Path, **options: Any) -> PlaneImagery:
    return open_arrays(paths, ImageryOptions(**options))


def numbers(name: str, side: int = 20, times: int = 3) -> np.ndarray:
    seed = sum(map(ord, name))
    return np.random.default_rng(seed).integers(100, 6000, (times, side, side)).astype(np.uint16)


def cube(*names: str, side: int = 20, times: tuple[str, ...] = DATES, crs: bool = True, **attrs: Any) -> xr.Dataset:
    """A cube of 200 x 200 m."""
    size = 200 / side
    dataset = xr.Dataset(
        {name: (("time", "y", "x"), numbers(name, side, len(times)), attrs) for name in names},
        coords={
            "time": np.array(times, "datetime64[ns]"),
            "y": NORTH - size * (np.arange(side) + 0.5),
            "x": WEST + size * (np.arange(side) + 0.5),
        },
    )
    if crs:
        dataset = dataset.assign_coords(spatial_ref=((), 0, CRS.from_epsg(32633).to_cf()))
        for name in names:
            dataset[name].attrs["grid_mapping"] = "spatial_ref"
    return dataset


def to_netcdf(dataset: xr.Dataset, path: Path, **encoding: Any) -> Path:
    dataset.to_netcdf(path, engine="netcdf4", encoding=dict.fromkeys(dataset.data_vars, encoding) if encoding else None)
    return path


def to_zarr(dataset: xr.Dataset, path: Path, version: int = 2, **encoding: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what other programs may not read
        dataset.to_zarr(path, zarr_format=version, encoding=dict.fromkeys(dataset.data_vars, encoding))
    return path


@pytest.mark.parametrize("kind", ["netcdf", "zarr2", "zarr3"])
def test_a_cube_is_read_as_it_was_written(tmp_path: Path, kind: str) -> None:
    dataset = cube("B2", "B8A")
    path = tmp_path / "cube"
    imagery = opened(to_netcdf(dataset, path) if kind == "netcdf" else to_zarr(dataset, path, int(kind[-1])))
    assert [(band.name, band.wavelength_nm, band.gsd_m, band.scale) for band in imagery.bands] == [
        ("B2", 492.4, 10, 10_000),
        ("B8A", 864.7, 10, 10_000),
    ]
    assert [str(held.date) for held in imagery.acquisitions] == list(DATES)
    assert all(held.time is None for held in imagery.acquisitions)
    assert imagery.geobox.crs is not None
    assert imagery.geobox.crs.epsg == 32633
    assert tuple(imagery.geobox.boundingbox.bbox) == (WEST, NORTH - 200, WEST + 200, NORTH)
    window = Window(3, 5, 7, 11)
    patch = imagery.read(1, window)
    np.testing.assert_allclose(patch.reflectance[1], numbers("B8A")[1][window.slices] / 10_000, atol=1e-7)
    assert patch.valid.all()


def test_which_way_the_axes_run_does_not_matter(tmp_path: Path) -> None:
    dataset = cube("B2", "B8A")
    plain = opened(to_netcdf(dataset, tmp_path / "c.nc"))
    turned = dataset.isel(y=slice(None, None, -1), x=slice(None, None, -1)).transpose("x", "time", "y")
    other = opened(to_netcdf(turned, tmp_path / "t.nc"))
    assert other.geobox == plain.geobox
    for window in (plain.window, Window(3, 5, 7, 11)):
        np.testing.assert_array_equal(other.read(2, window).reflectance, plain.read(2, window).reflectance)


def test_bands_along_a_dimension_are_bands(tmp_path: Path) -> None:
    dataset = cube("B2", "B8A")
    plain = opened(to_netcdf(dataset, tmp_path / "c.nc"))
    stacked = dataset.to_array("band", name="reflectance").to_dataset()
    stacked["reflectance"].attrs["grid_mapping"] = "spatial_ref"
    named = opened(to_netcdf(stacked, tmp_path / "b.nc"))
    nameless = to_netcdf(stacked.drop_vars("band"), tmp_path / "n.nc")
    told = opened(nameless, bands=("B2", "B8A"))
    for other in (named, told):
        assert [band.name for band in other.bands] == ["B2", "B8A"]
        np.testing.assert_array_equal(other.read(0, plain.window).reflectance, plain.read(0, plain.window).reflectance)
    with pytest.raises(ImageryError, match=r"does not name the 2 bands along band: name all of them .* `bands`"):
        opened(nameless)


def test_files_of_two_resolutions_join_and_the_finer_counts(tmp_path: Path) -> None:
    paths = [
        to_netcdf(cube("B8A", "B3", side=10), tmp_path / "20m.nc"),
        to_netcdf(cube("B2", "B3", side=20), tmp_path / "10m.nc"),
    ]
    imagery = opened(*paths, bands=("B2", "B3", "B8A"))
    assert imagery.shape == (20, 20)
    assert imagery.factors == (1, 1, 2)
    assert [band.gsd_m for band in imagery.bands] == [10, 10, 20]
    patch = imagery.read(0, imagery.window)
    np.testing.assert_allclose(patch.reflectance[1], numbers("B3", 20)[0] / 10_000, atol=1e-7)
    means = patch.reflectance[2].reshape(10, 2, 10, 2).mean((1, 3))
    np.testing.assert_allclose(means, numbers("B8A", 10)[0] / 10_000, atol=1e-6)
    window = Window(5, 3, 6, 9)
    np.testing.assert_allclose(imagery.read(0, window).reflectance, patch.reflectance[:, *window.slices], atol=1e-6)


def test_files_of_different_dates_join_in_order_of_time(tmp_path: Path) -> None:
    late = to_netcdf(cube("B2", times=("2018-09-15",)), tmp_path / "a.nc")
    early = to_netcdf(cube("B2", times=("2018-03-01T10:20:30",)), tmp_path / "b.nc")
    imagery = opened(late, early)
    assert [(str(held.date), held.time) for held in imagery.acquisitions] == [
        ("2018-03-01", dt.time(10, 20, 30)),
        ("2018-09-15", None),
    ]
    with pytest.raises(ImageryError, match="B2 of 2018-09-15 is given twice"):
        opened(late, to_netcdf(cube("B2", times=("2018-09-15T10:00",)), tmp_path / "c.nc"))


def test_a_date_twice_in_a_cube_is_refused(tmp_path: Path) -> None:
    path = to_netcdf(cube("B2", times=("2018-09-15T10:00", "2018-09-15T10:30")), tmp_path / "c.nc")
    with pytest.raises(ImageryError, match="holds 2018-09-15 twice"):
        opened(path)


def test_a_cube_without_dates_takes_its_names_or_those_given(tmp_path: Path) -> None:
    dateless = cube("B2").drop_vars("time")
    path = to_netcdf(dateless, tmp_path / "c.nc")
    with pytest.raises(ImageryError, match=r"when its 3 acquisitions were taken: give `dates`"):
        opened(path)
    dates = tuple(Acquisition(date=dt.date(2019, 1, day)) for day in (3, 1, 2))
    imagery = opened(path, dates=dates)
    assert [held.date.day for held in imagery.acquisitions] == [1, 2, 3]
    np.testing.assert_allclose(imagery.read(0, imagery.window).reflectance[0], numbers("B2")[1] / 10_000, atol=1e-7)
    with pytest.raises(ImageryError, match=r"has 3 dates, `dates` names 2"):
        opened(path, dates=dates[:2])
    single = to_netcdf(dateless.isel(time=0), tmp_path / "scene_20190704.nc")
    assert opened(single).acquisitions[0].date == dt.date(2019, 7, 4)


def test_scale_offset_and_nodata_are_what_the_file_says(tmp_path: Path) -> None:
    dataset = cube("green", valid_max=np.uint16(5000))
    raw = dataset["green"].values.astype(float)
    raw[0, [4, 5, 6], [4, 5, 6]] = 65535, 5001, 0
    dataset["green"] = dataset["green"].copy(data=np.where(raw == 65535, np.nan, raw * 0.0001 - 0.1))
    encoding = {"scale_factor": 0.0001, "add_offset": -0.1, "_FillValue": np.uint16(65535)}
    imagery = opened(to_netcdf(dataset, tmp_path / "c.nc", dtype="uint16", **encoding))
    assert (imagery.bands[0].scale, imagery.bands[0].offset) == (10_000, 1000)
    patch = imagery.read(0, imagery.window)
    assert patch.valid[0, [4, 5, 6], [4, 5, 6]].tolist() == [False, False, True]
    wanted = np.clip(raw[0] * 0.0001 - 0.1, 0, 1)
    np.testing.assert_allclose(patch.reflectance[patch.valid], wanted[patch.valid[0]], atol=1e-6)


def test_fractions_are_reflectances_and_nan_is_no_measurement(tmp_path: Path) -> None:
    dataset = cube("B2").astype(np.float32) / 10_000
    dataset["B2"].attrs["grid_mapping"] = "spatial_ref"
    dataset["B2"].values[0, 2, 3] = np.nan
    imagery = opened(to_netcdf(dataset, tmp_path / "c.nc"))
    assert imagery.bands[0].scale == 1
    patch = imagery.read(0, imagery.window)
    assert not patch.valid[0, 2, 3]
    assert patch.valid.sum() == 399


def test_sentinel2_since_2022_has_to_say_its_offset(tmp_path: Path) -> None:
    path = to_netcdf(cube("B2", "B8A", times=("2021-06-01", "2022-06-01")), tmp_path / "c.nc")
    with pytest.raises(ImageryError, match=r"2022-06-01.*`offset` 1000 or `offset` 0"):
        opened(path)
    imagery = opened(path, offsets={dt.date(2022, 6, 1): 1000.0})
    before, since = (imagery.read(index, imagery.window).reflectance[0] for index in (0, 1))
    raw = numbers("B2", times=2) / 10_000
    np.testing.assert_allclose(before, raw[0], atol=1e-6)
    np.testing.assert_allclose(since, np.clip(raw[1] - 0.1, 0, 1), atol=1e-6)
    assert len(opened(path, until=dt.date(2021, 12, 31)).acquisitions) == 1


def test_what_is_no_band_is_left_out_and_named(tmp_path: Path) -> None:
    dataset = cube("B2", "SCL", "B8A", "B10")
    dataset["height"] = (("y", "x"), np.ones((20, 20)))
    imagery = opened(to_netcdf(dataset, tmp_path / "c.nc"))
    assert [band.name for band in imagery.bands] == ["B2", "B8A"]
    assert {note.split()[0] for note in imagery.notes if "left out" in note} >= {"SCL", "height"}
    assert any("B10" in note for note in imagery.notes)
    assert any("clouds are not masked" in note for note in imagery.notes)


def test_a_mask_is_a_variable_or_a_raster(tmp_path: Path) -> None:
    dataset = cube("B2", "scl", "cloud")
    dataset["scl"].values[:] = 4
    dataset["scl"].values[1, 3, 4] = 9
    path = to_netcdf(dataset, tmp_path / "c.nc")
    imagery = opened(path, bands=("B2",), mask="SCL")
    assert imagery.read(0, imagery.window).valid.all()
    assert not imagery.read(1, imagery.window).valid[0, 3, 4]
    with pytest.raises(ImageryError, match=r"`clear` or `clear_below`"):
        opened(path, mask="cloud")
    unknown = r"neither a path nor a variable.*found B2, scl, cloud; did you mean 'cloud'"
    with pytest.raises(ImageryError, match=unknown):
        opened(path, mask="clouds")


def test_a_band_that_no_file_holds_is_named(tmp_path: Path) -> None:
    path = to_netcdf(cube("B2", "B3"), tmp_path / "c.nc")
    with pytest.raises(ImageryError, match=r"no band B4 in .*c.nc: found B2, B3"):
        opened(path, bands=("B02", "B4"))
    assert [band.name for band in opened(path, bands=("B03", "B2")).bands] == ["B03", "B2"]


def test_only_the_window_is_read(tmp_path: Path) -> None:
    side = 4000
    coords = {"time": np.array(DATES[:1], "datetime64[ns]"), "y": -10.0 * np.arange(side), "x": 10.0 * np.arange(side)}
    dataset = xr.Dataset({"red": (("time", "y", "x"), np.full((1, side, side), 500, np.uint16))}, coords)
    dataset = dataset.assign_coords(spatial_ref=((), 0, CRS.from_epsg(32633).to_cf()))
    paths = [
        to_netcdf(dataset, tmp_path / "c.nc", zlib=True, complevel=1, chunksizes=(1, 250, 250)),
        to_zarr(dataset, tmp_path / "c.zarr", chunks=(1, 250, 250)),
    ]
    for path in paths:
        tracemalloc.start()
        imagery = opened(path)
        patch = imagery.read(0, Window(2000, 2000, 100, 100))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert patch.valid.all()
        assert most < 8 * 2**20  # the cube is 32 MB


def test_several_threads_read_what_one_does(tmp_path: Path) -> None:
    imagery = opened(to_netcdf(cube("B2", "B8A"), tmp_path / "c.nc", zlib=True))
    places = [(index, Window(row, row, 9, 10)) for index in range(3) for row in range(10)] * 4
    with ThreadPoolExecutor(8) as threads:
        patches = list(threads.map(lambda place: imagery.read(*place), places))
    for (index, window), patch in zip(places, patches, strict=True):
        np.testing.assert_allclose(patch.reflectance[0], numbers("B2")[index][window.slices] / 10_000, atol=1e-7)


def test_a_damaged_chunk_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    dataset = cube("B2", side=100)
    store = to_zarr(dataset, tmp_path / "c.zarr", 3, chunks=(1, 50, 50))
    (store / "B2" / "c" / "1" / "0" / "0").write_bytes(b"damage")
    plain = to_netcdf(dataset, tmp_path / "c.nc", zlib=True, chunksizes=(3, 100, 100))
    raw = bytearray(plain.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 2000] = b"\x55" * 2000
    (tmp_path / "d.nc").write_bytes(raw)
    imagery = opened(store)
    assert imagery.read(0, imagery.window).valid.all()
    with pytest.raises(ImageryError, match=r"cannot read .*c.zarr \(B2, time 1\).*damaged"):
        imagery.read(1, imagery.window)
    imagery = opened(tmp_path / "d.nc")
    with pytest.raises(ImageryError, match=r"cannot read .*d.nc \(B2, time 0\).*damaged"):
        imagery.read(0, imagery.window)


def test_unwritten_chunks_of_integers_are_no_measurement(tmp_path: Path) -> None:
    store = to_zarr(cube("red", side=100), tmp_path / "c.zarr", 3, chunks=(1, 50, 50))
    (store / "red" / "c" / "0" / "1" / "0").unlink()
    valid = opened(store).read(0, Window(0, 0, 100, 100)).valid[0]
    assert not valid[50:, :50].any()
    assert valid[:50].all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.drop_vars("spatial_ref"), "no coordinate reference system"),
        (lambda c: c.rename(x="column"), "has no dimension x: found"),
        (lambda c: c.assign_coords(x=(c.x.values - WEST) ** 2), "coordinates of x .* not evenly spaced"),
        (lambda c: c.drop_vars("y"), "does not say where its pixels lie"),
        (lambda c: c.drop_vars("B2"), "no variable over y and x"),
        (lambda c: c.expand_dims(member=2, level=3), "expected at most one"),
        (lambda c: c.assign_coords(time=["then", "now", "soon"]), "'then', which is not a date"),
    ],
    ids=["no CRS", "no x", "uneven x", "no coordinates of y", "no band", "two more axes", "no dates"],
)
def test_what_is_no_cube_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    dataset = change(cube("B2", crs=False).assign_coords(spatial_ref=((), 0, CRS.from_epsg(32633).to_cf())))
    with pytest.raises(ImageryError, match=words):
        opened(to_netcdf(dataset, tmp_path / "c.nc"))


def test_what_is_no_file_of_the_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.nc"
    path.write_bytes(b"\x89HDF\r\n\x1a\ndamage")
    with pytest.raises(ImageryError, match=r"cannot read .*c.nc as a NetCDF file"):
        opened(path)


@pytest.mark.parametrize(("module", "name"), [("netCDF4", "c.nc"), ("zarr", "c.zarr")])
def test_what_is_not_installed_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    path = to_netcdf(cube("B2"), tmp_path / name) if name == "c.nc" else to_zarr(cube("B2"), tmp_path / name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageryError, match=rf"{module} is not installed.*pip install 'lianet-user\[provider\]'"):
        open_imagery([path], ImageryOptions())


def romania(shared_data: Path, metres: int) -> Path:
    return shared_data / "romania" / f"sentinel2_cube_subset_romania_{metres}m.nc"


def test_romania_is_clear_on_64_dates(shared_data: Path) -> None:
    path = romania(shared_data, 10)
    imagery = open_imagery([path], ImageryOptions(mask="SCL", min_clear=0.9))
    assert len(imagery.acquisitions) == 64
    assert all(held.time is None for held in imagery.acquisitions)
    assert any("76 of 140" in note for note in imagery.notes)
    assert [band.name for band in imagery.bands] == ["B2", "B3", "B4", "B8"]


def test_a_crs_of_a_register_is_that_entry_whatever_shift_a_file_adds(shared_data: Path) -> None:
    path = romania(shared_data, 10)
    with xr.open_dataset(path) as dataset:
        assert "TOWGS84[0,0,0,0,0,0,0]" in str(dataset["spatial_ref"].attrs)
    assert opened(path).geobox.crs == "EPSG:3035"


def test_romania_joins_10_and_20_m(shared_data: Path) -> None:
    paths = [romania(shared_data, size) for size in (10, 20)]
    imagery = opened(*paths)
    assert [band.name for band in imagery.bands] == ["B2", "B3", "B4", "B8", "B11", "B8A"]
    assert imagery.factors == (1, 1, 1, 1, 2, 2)
    assert len(imagery.acquisitions) == 140
    with xr.open_dataset(paths[1], mask_and_scale=False) as dataset:
        wanted = dataset["B11"].values[7] / 10_000
    means = imagery.read(7, imagery.window).reflectance[4].reshape(50, 2, 50, 2).mean((1, 3))
    np.testing.assert_allclose(means, np.clip(wanted, 0, 1), atol=1e-5)
