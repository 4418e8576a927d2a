"""NetCDF files and Zarr stores, as they describe themselves: where their pixels lie, when they were taken, which bands they
hold."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError

from lianet_user.errors import ImageryError, listed
from lianet_user.header import Acquisition
from lianet_user.imagery.grids import registered
from lianet_user.imagery.options import ImageryOptions

if TYPE_CHECKING:
    import xarray as xr

PROVIDER = "pip install 'lianet-user[provider]'"
Y_NAMES = ("y", "lat", "latitude", "northing", "yc")
X_NAMES = ("x", "lon", "longitude", "easting", "xc")
UNEVEN = 0.05
"""Share of a pixel by which a coordinate may miss its place on an even axis: float32 coordinates in metres do, a little."""


@dataclass(frozen=True)
class Layer:
    """One band (or mask) of a cube: a variable, and where the bands have a dimension, the place along it."""

    name: str
    variable: str
    at: tuple[tuple[str, int], ...] = ()


class Cube:
    """One NetCDF file or Zarr store, opened but not read.

    Attributes:
        path: of the file or store.
        dataset: with values as they are stored.
        time, y, x: names of the dimensions; `time` is None where the cube holds one date.
        geobox: with north up.
        layers: numeric variables over (time, y, x), in the file's order.
        left: names of variables over y and x that are no layers, because they lack the dimension of time.

    Raises:
        ImageryError: not a cube of imagery, without coordinates, or without a coordinate reference system.
    """

    def __init__(self, path: Path, options: ImageryOptions) -> None:
        self.path = path
        self.dataset = _open(path)
        self.y, self.x = self._dimension("Y", Y_NAMES), self._dimension("X", X_NAMES)
        over = {
            str(name): variable
            for name, variable in self.dataset.variables.items()
            if {self.y, self.x} <= set(variable.dims) and variable.dtype.kind in "iuf"
        }
        times = [dim for dim in dict.fromkeys(d for v in over.values() for d in v.dims) if self._is_time(str(dim))]
        if len(times) > 1:
            raise ImageryError(
                f"{path} has {len(times)} dimensions of time ({listed([*map(str, times)])}): expected one"
            )
        self.time = str(times[0]) if times else None
        self.left = [name for name, variable in over.items() if self.time and self.time not in variable.dims]
        self.layers = [
            layer
            for name, variable in over.items()
            if name not in self.left
            for layer in self._layers(name, variable, options)
        ]
        if not self.layers:
            raise ImageryError(
                f"{path} holds no variable over {self.y} and {self.x}: found {listed([*map(str, self.dataset.variables)])}"
            )
        xs, self.east_left = self._axis(self.x)
        ys, north_up = self._axis(self.y)
        self.south_up = not north_up
        shape = (self.dataset.sizes[self.y], self.dataset.sizes[self.x])
        self.geobox = GeoBox(shape, Affine(xs[1], 0, xs[0], 0, -ys[1], ys[0]), self._crs())

    def attrs(self, name: str) -> Mapping[str, Any]:
        """What the file says of a layer."""
        return next((self.dataset.variables[layer.variable].attrs for layer in self.layers if layer.name == name), {})

    def moments(self) -> list[Acquisition] | None:
        """When the acquisitions were taken; None where the file does not say it.

        Raises:
            ImageryError: what it says are no dates.
        """
        names = (
            [self.time]
            if self.time
            else [n for n, v in self.dataset.variables.items() if v.ndim == 0 and v.dtype.kind == "M"]
        )
        variable = self.dataset.variables.get(names[0]) if len(names) == 1 else None
        if variable is None:
            return None
        values = np.atleast_1d(variable.values)
        if values.dtype.kind == "M":
            if np.isnat(values).any():
                raise ImageryError(
                    f"{names[0]} of {self.path} holds a time that is missing: leave that acquisition out"
                )
            moments = values.astype("datetime64[s]").tolist()
        else:
            try:
                moments = [_utc(dt.datetime.fromisoformat(str(value))) for value in values]
            except ValueError as error:
                if values.dtype.kind in "iuf":
                    return None  # a count, no dates
                raise ImageryError(
                    f"{names[0]} of {self.path} holds {str(values[0])!r}, which is no date: expected times as CF writes them"
                ) from error
        if all(moment.time() == dt.time() for moment in moments):
            return [Acquisition(date=moment.date()) for moment in moments]  # days were recorded, not times
        return [Acquisition(date=moment.date(), time=moment.time()) for moment in moments]

    def _dimension(self, axis: str, names: Sequence[str]) -> str:
        dims = [str(dim) for dim in self.dataset.dims]
        for dim in dims:
            attrs = self.dataset.variables[dim].attrs if dim in self.dataset.variables else {}
            if attrs.get("axis") == axis or attrs.get("standard_name") == f"projection_{axis.lower()}_coordinate":
                return dim
        for dim in dims:
            if dim.casefold() in names:
                return dim
        raise ImageryError(
            f"{self.path} has no dimension {names[0]}: found {listed(dims)}; expected variables over (time, y, x)"
        )

    def _is_time(self, dim: str) -> bool:
        if dim in (self.y, self.x):
            return False
        variable = self.dataset.variables.get(dim)
        return dim.casefold() in ("time", "t", "date") or (variable is not None and variable.dtype.kind == "M")

    def _layers(self, name: str, variable: xr.Variable, options: ImageryOptions) -> Iterator[Layer]:
        more = [str(dim) for dim in variable.dims if dim not in (self.time, self.y, self.x)]
        long = [dim for dim in more if variable.sizes[dim] > 1]
        at = tuple((dim, 0) for dim in more if dim not in long)
        if not long:
            # A variable of one band that the file did not care to name is named by its dimension's coordinate.
            yield Layer(name, name, at)
            return
        if len(long) > 1:
            raise ImageryError(
                f"variable {name} of {self.path} has the dimensions {listed([*map(str, variable.dims)])}: expected at most"
                " one beside time, y and x, that of the bands"
            )
        dim, count = long[0], variable.sizes[long[0]]
        for index, band in enumerate(self._band_names(dim, count, variable, options)):
            yield Layer(band, name, (*at, (dim, index)))

    def _band_names(self, dim: str, count: int, variable: xr.Variable, options: ImageryOptions) -> list[str]:
        coordinate = self.dataset.variables.get(dim)
        if coordinate is not None and coordinate.dtype.kind in "OUST":
            return [str(value) for value in coordinate.values]
        said = variable.attrs.get("long_name")
        if isinstance(said, (list, tuple, np.ndarray)) and len(said) == count:
            return [str(value) for value in said]
        if options.bands is not None and len(options.bands) == count:
            return list(options.bands)
        given = "" if options.bands is None else f", {len(options.bands)} given"
        raise ImageryError(
            f"{self.path} does not name the {count} bands along {dim}{given}: name all of them in their order with --bands"
        )

    def _axis(self, dim: str) -> tuple[tuple[float, float], bool]:
        """The grid's edge and the pixel's size along an axis, and whether the axis descends.

        The edge is that at the left or, on the axis y, at the top.
        """
        values = self.dataset.variables[dim].values if dim in self.dataset.variables else np.empty(0)
        count = self.dataset.sizes[dim]
        if values.ndim != 1 or len(values) != count or count < 2 or values.dtype.kind not in "iuf":
            raise ImageryError(
                f"{self.path} does not say where its pixels lie: expected coordinates of {dim}, 2 or more"
            )
        values = values.astype(np.float64)
        step = (values[-1] - values[0]) / (count - 1)
        missed = np.abs(values - (values[0] + step * np.arange(count))).max()
        if not np.isfinite(step) or step == 0 or not missed <= UNEVEN * abs(step):
            raise ImageryError(f"the coordinates of {dim} in {self.path} are not evenly spaced: resample it to a grid")
        descends, size = bool(step < 0), abs(float(step))
        # Nine digits are more than any grid needs, and free of what float arithmetic added.
        size = float(f"{size:.9g}")
        first = min(values[0], values[-1]) - size / 2 if dim == self.x else max(values[0], values[-1]) + size / 2
        digits = max(0, 6 - math.floor(math.log10(size)))
        return (round(float(first), digits), size), descends

    def _crs(self) -> str:
        """WKT of the one coordinate reference system that the cube names."""
        named = {name for layer in self.layers if (name := self._grid_mapping(layer.variable)) is not None}
        holders = named or {
            str(name)
            for name, v in self.dataset.variables.items()
            if {"crs_wkt", "spatial_ref", "grid_mapping_name"} & set(v.attrs)
        }
        found: list[CRS] = []
        try:
            for name in sorted(map(str, holders)):
                if name in self.dataset.variables:
                    found.append(CRS.from_cf(self.dataset.variables[name].attrs))
            if not found:
                found += [CRS.from_user_input(text) for text in self._loose_crs()]
        except (CRSError, KeyError, ValueError) as error:
            raise ImageryError(f"{self.path} names a coordinate reference system that is none: {error}") from error
        if not found:
            raise ImageryError(
                f"{self.path} has no coordinate reference system: expected a variable such as spatial_ref that its"
                " variables name as their grid_mapping (rioxarray and odc-geo write one)"
            )
        if any(crs != found[0] for crs in found):
            raise ImageryError(f"{self.path} names {len(found)} coordinate reference systems: expected one")
        return registered(found[0]).to_wkt()

    def _grid_mapping(self, name: str) -> str | None:
        variable = self.dataset.variables[name]
        said = variable.encoding.get("grid_mapping") or variable.attrs.get("grid_mapping")
        return str(said).split(":")[0].strip() if said else None

    def _loose_crs(self) -> list[str]:
        """As cubes made of STAC items hold it: a scalar coordinate or an attribute."""
        names = ("proj:code", "proj:epsg", "epsg", "crs")
        values = [self.dataset.variables[name].values for name in names if name in self.dataset.variables]
        texts = [str(value) for value in values if np.ndim(value) == 0]
        texts += [str(self.dataset.attrs[name]) for name in names if name in self.dataset.attrs]
        return [f"EPSG:{text}" if text.isdecimal() else text for text in texts]


def _utc(moment: dt.datetime) -> dt.datetime:
    return (moment.astimezone(dt.UTC) if moment.tzinfo else moment).replace(tzinfo=None, microsecond=0)


def _open(path: Path) -> xr.Dataset:
    try:
        import xarray as xr

        if path.is_dir():
            import zarr  # noqa: F401
        else:
            import netCDF4  # noqa: F401
    except ImportError as error:
        raise ImageryError(f"{path}: {error.name} is not installed, install it with {PROVIDER}") from error
    try:
        return xr.open_dataset(
            path,
            engine="zarr" if path.is_dir() else "netcdf4",
            mask_and_scale=False,
            decode_coords="all",
            cache=False,
            chunks=None,
        )
    except Exception as error:  # every library has errors of its own
        raise ImageryError(f"cannot read {path} as a NetCDF file or Zarr store: {error}") from error
