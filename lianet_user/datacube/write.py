"""Writes cubes to Zarr or NetCDF, chunk by chunk; a file appears only when it is finished."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import xarray as xr
from dask import config
from dask.callbacks import Callback

from lianet_user.datacube.backend import open_datacube
from lianet_user.datacube.dataset import GRID_MAPPING, chunk_sizes
from lianet_user.datacube.lazy_array import cores
from lianet_user.errors import InputError, OutputError, PartlyOutsideWarning, did_you_mean, listed
from lianet_user.files.artifact import check_place, free_bytes, refuse_existing, replacing
from lianet_user.geo.grid import LONLAT, Bounds, bounds_of, format_bounds, parse_crs, window_of_bounds

Listener = Callable[[int, int], None]
Format = Literal["zarr", "netcdf"]
SUFFIXES: dict[str, Format] = {".zarr": "zarr", ".nc": "netcdf", ".nc4": "netcdf"}
ZARR_MARKS = (".zgroup", ".zmetadata", "zarr.json")
"""Files by which the folder of a Zarr store is recognised."""
PACKAGES: dict[Format, tuple[str, str]] = {"zarr": ("Zarr", "zarr"), "netcdf": ("NetCDF", "netCDF4")}


@dataclass(frozen=True)
class CubeResult:
    """A cube that was written."""

    path: Path
    variables: tuple[str, ...]
    sizes: dict[str, int]
    """Lengths of the dimensions."""
    bytes: int
    """Size on the disk."""
    outside: float
    """Share of the box that lies outside the region and is not in the cube: 0 to 1."""
    seconds: float


def write_datacube(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bbox: Bounds | None = None,
    bbox_crs: str = "EPSG:4326",
    bands: Sequence[str] | None = None,
    dates: Sequence[dt.date | str] | None = None,
    between: bool = False,
    probabilities: bool = False,
    region: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    listener: Listener | None = None,
) -> CubeResult:
    """Write the cube of a region or head file, or a part of it.

    Memory depends on the chunk (one date, all bands, 512 x 512 px) and the number of cores, not on the cube. With a client
    of dask.distributed its workers compute the chunks. An earlier cube stays as it is until the new one is finished.

    Args:
        path: of a region or head file.
        output: `*.zarr` (Zarr, version 2 of the format, which most programs read) or `*.nc` (NetCDF 4).
        bbox: west, south, east, north in `bbox_crs`; None writes the whole region. Every pixel that it touches is written.
        bbox_crs: anything that names a CRS.
        bands: of a region, by name; None writes all.
        dates: as in :func:`open_datacube`.
        between: as in :func:`open_datacube`.
        probabilities: as in :func:`open_datacube`.
        region: as in :func:`open_datacube`.
        device: as in :func:`open_datacube`.
        overwrite: replace an earlier cube.
        listener: called with the tasks done and in total.

    Raises:
        AreaError: the box lies outside the region, or its CRS is unknown.
        InputError: the region lacks a band, or a package is not installed.
        OutputError: the cube exists, cannot be written, or does not fit on the disk.
        LianetError: as raised by :func:`open_datacube` and by reading pixels.

    Warns:
        PartlyOutsideWarning: part of the box lies outside the region and is not written.
    """
    started = time.monotonic()
    target = Path(output)
    kind = _format(target)
    cube = open_datacube(path, region=region, dates=dates, between=between, probabilities=probabilities, device=device)
    cube, outside = _part(cube, path, bbox, bbox_crs)
    cube = _with_bands(cube, bands, path)
    check_output(target, overwrite)
    cube.attrs["history"] = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}: lianet-user datacube {Path(path).name}"
    _check_disk_space(target.absolute().parent, cube.nbytes)
    chunks = chunk_sizes(cube.sizes)
    chunked = cube.chunk(chunks)
    for variable in chunked.data_vars.values():
        variable.encoding = _encoding(variable, chunks, kind)  # passed to the writers, it would lose the grid mapping
    try:
        # The pool is closed before the file is moved, so that no thread can still write to it.
        with (
            (_replacing_store if kind == "zarr" else replacing)(target) as temporary,
            ThreadPoolExecutor(cores()) as pool,
            config.set(pool=pool),
            _ProgressCallback(listener),
        ):
            if kind == "zarr":
                # Version 3 has no agreed way to store text yet, and GDAL and others also read version 2.
                chunked.to_zarr(temporary, mode="w", zarr_format=2, consolidated=True)
            else:
                chunked.to_netcdf(temporary, engine="netcdf4")
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    return CubeResult(
        path=target,
        variables=tuple(map(str, cube.data_vars)),
        sizes={str(name): size for name, size in cube.sizes.items()},
        bytes=_bytes(target),
        outside=outside,
        seconds=time.monotonic() - started,
    )


def check_output(target: Path, overwrite: bool) -> None:
    """Check that a cube may be written to a path, before anything is computed.

    Raises:
        InputError: the package that writes the format is not installed.
        OutputError: the suffix is of another format, or the path exists and may not be replaced.
    """
    check_place(target, "another `output`")
    kind = _format(target)
    title, package = PACKAGES[kind]
    if find_spec(package) is None:
        raise InputError(f"{target} is {title}, which needs one more package: pip install 'lianet-user[cube]'")
    if kind == "zarr" and target.is_dir():
        if not any((target / mark).exists() for mark in ZARR_MARKS):  # never delete anything but a cube
            raise OutputError(f"{target} is a folder and no Zarr store: choose another `output`")
        if not overwrite:
            raise OutputError(f"{target} exists: choose another `output`, or replace it with `overwrite`")
    else:
        refuse_existing(target, overwrite)


def _format(target: Path) -> Format:
    if (kind := SUFFIXES.get(target.suffix.lower())) is None:
        raise OutputError(
            f"{target}: a cube is Zarr or NetCDF, expected a name that ends in .zarr or .nc: give one as `output`"
        )
    return kind


def _part(cube: xr.Dataset, path: Any, bbox: Bounds | None, crs: str) -> tuple[xr.Dataset, float]:
    """Cut a box out of the cube; also returns the share of the box that lies outside the region."""
    if bbox is None:
        return cube, 0.0
    geobox = cube.odc.geobox
    window, outside = window_of_bounds(geobox, bbox, parse_crs(crs, "`bbox_crs`"))
    if outside:
        covered = format_bounds(bounds_of(geobox, LONLAT))
        message = (
            f"{max(outside, 0.001):.1%} of the box lies outside the region and is not written: {path} covers {covered}"
            " (EPSG:4326)"
        )
        warnings.warn(message, PartlyOutsideWarning, stacklevel=3)
    rows, cols = window.slices
    return cube.isel(y=rows, x=cols), outside


def _with_bands(cube: xr.Dataset, bands: Sequence[str] | None, path: Any) -> xr.Dataset:
    if bands is None:
        return cube
    if "band" not in cube.dims:
        raise InputError(f"{path} is a head file, whose maps have no bands to choose: omit `bands`")
    names = cube.band.values.tolist()
    if wrong := [name for name in bands if name not in names]:
        raise InputError(
            f"`bands` {wrong[0]}: {path} has no such band, found {listed(names)}{did_you_mean(wrong[0], names)}"
        )
    if len(set(bands)) < len(bands) or not bands:
        raise InputError(f"`bands` {','.join(bands)}: expected one name or more, each once")
    return cube.sel(band=list(bands))


def _encoding(variable: xr.DataArray, chunks: Mapping[Any, int], kind: Format) -> dict[str, Any]:
    sizes = tuple(chunks[name] for name in variable.dims)
    stored = (
        {"chunks": sizes} if kind == "zarr" else {"chunksizes": sizes, "zlib": True, "complevel": 4, "shuffle": True}
    )
    return {"grid_mapping": GRID_MAPPING, **stored}


def _check_disk_space(folder: Path, needed: int) -> None:
    if (free := free_bytes(folder)) < needed:
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, the cube takes up to {needed / 1e9:.1f} GB: make room, choose another"
            " `output`, or write less with `bbox`, `dates` or `bands`"
        )


@contextmanager
def _replacing_store(target: Path) -> Iterator[Path]:
    """A path beside `target` for a folder, which replaces `target` when the block ends without an error.

    A folder cannot be renamed onto another: the earlier one is moved aside first, and deleted when the new one is in place.
    """
    parent = target.absolute().parent
    with tempfile.TemporaryDirectory(prefix=f".{target.stem[:32]}.", suffix=".partial", dir=parent) as folder:
        made, earlier = Path(folder) / "new.zarr", Path(folder) / "earlier.zarr"
        yield made
        if target.is_file():
            target.unlink()
        elif target.exists():
            target.rename(earlier)
        try:
            made.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise


class _ProgressCallback(Callback):
    """Reports the progress of dask to a listener; dask.distributed has a dashboard of its own."""

    def __init__(self, listener: Listener | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._listener = listener

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Mapping[str, Any], worker_id: Any) -> None:
        if self._listener:
            done = len(state["finished"])
            self._listener(done, done + sum(len(state[name]) for name in ("ready", "waiting", "running")))


def _bytes(path: Path) -> int:
    return (
        sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) if path.is_dir() else path.stat().st_size
    )
