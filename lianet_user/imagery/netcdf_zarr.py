"""NetCDF files and Zarr stores: a variable for each band over (time, y, x), or one variable with a dimension of bands.

Values are read as they are stored, never as xarray would decode them: whole numbers stay whole, and what the file says of
scale, offset and fill value decides the reflectance once, as in any other format.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window
from lianet_user.imagery.grids import registered
from lianet_user.imagery.imagery import ImageryOptions, Plane, in_period, none_in_period
from lianet_user.imagery.planes import PlaneImagery, assembled
from lianet_user.imagery.rasters import moment_in
from lianet_user.imagery.sensors import CIRRUS, called, position, scaling, wavelengths

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
            f"{self.path} does not name the {count} bands along {dim}{given}: name all of them in their order with `bands`"
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


# --- From files to imagery.


QUALITY = frozenset(
    "SCL AOT WVP TCI CLD CLM CLP SNW QA QA60 FMASK MASK DATAMASK QA_PIXEL MSK_CLDPRB MSK_SNWPRB".split()
)
"""Names of what stands beside bands in cubes and catalogues, and is none."""


def open_arrays(paths: Sequence[Path], options: ImageryOptions) -> PlaneImagery:
    """Open NetCDF files and Zarr stores of one area, as one cube.

    Of a band that several files hold in pixels of different sizes, the finest is taken. Sentinel-2's 0 is no measurement.

    Args:
        paths: NetCDF files and Zarr stores: of different dates, of different bands, or of different resolutions.
        options: `mask` is the name of a variable or band, or a path; `dates` are those of a file's dimension of time, where
            it does not say them.

    Raises:
        ImageryError: no cube of imagery, dates or names of bands that have to be said, a band that no file holds, one that
            is given twice for a date, or Sentinel-2's offset where it has to be said.
    """
    cubes = [Cube(path, options) for path in paths]
    names = list(dict.fromkeys(layer.name for cube in cubes for layer in cube.layers))
    bands, notes = _bands(names, cubes, options)
    mask = None
    if options.mask is not None and not Path(options.mask).exists():
        if (place := position(options.mask, names)) is None:
            raise ImageryError(
                f"`mask` {options.mask} is neither a path nor a variable of {listed([str(path) for path in paths])}: found"
                f" {listed(names)}{did_you_mean(options.mask, names)}"
            )
        mask = names[place]
    moments = {cube.path: _moments(cube, options) for cube in cubes}
    everything = [moment for held in moments.values() for moment in held]
    by_date: dict[dt.date, Acquisition] = {}
    for moment in everything:
        if in_period(moment, options) and (moment.date not in by_date or by_date[moment.date].time is None):
            by_date[moment.date] = moment
    if not by_date:
        raise none_in_period(everything, options)
    acquisitions = [by_date[date] for date in sorted(by_date)]
    spelled = [called(*pair) for pair in zip(options.bands or bands, bands, strict=True)]
    known = wavelengths(spelled)
    planes: dict[tuple[int, int], Plane] = {}
    masks: dict[int, Plane] = {}
    for name in [*bands, *([mask] if mask else [])]:
        finest, dropped = _finest(name, cubes)
        notes += [f"{name} of {cube.path.name} is left out: another file holds it in finer pixels" for cube in dropped]
        for cube, layer in finest:
            for index, moment in enumerate(moments[cube.path]):
                if not in_period(moment, options):
                    continue
                at = acquisitions.index(by_date[moment.date])
                if name == mask:
                    held: Plane | None = masks.get(at)
                    masks[at] = ArrayPlane(cube, layer, index)
                else:
                    band = bands.index(name)
                    held = planes.get((at, band))
                    sentinel2 = known[band] is not None
                    planes[at, band] = _plane(cube, layer, index, moment.date, options, sentinel2=sentinel2)
                if held is not None:
                    raise ImageryError(
                        f"{name} of {moment.date} is given twice: {held.name} and {cube.path}, {cube.time or 'date'} {index};"
                        " give each date once"
                    )
    return assembled(
        names=spelled,
        wavelengths=known,
        acquisitions=acquisitions,
        planes=planes,
        masks=masks if mask else None,
        options=options,
        source=", ".join(cube.path.name for cube in cubes),
        notes=notes,
    )


class ArrayPlane:
    """One band of one acquisition in a cube: a `Plane` of which only the window asked for is read.

    Args:
        cube: that holds it.
        layer: which band.
        index: of the acquisition in the cube.
        scale: digital numbers per reflectance 1.0.
        offset: subtracted from the digital numbers first.
        nodata: digital numbers that are no measurement, beside what the file declares and NaN.
    """

    def __init__(
        self,
        cube: Cube,
        layer: Layer,
        index: int,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: Sequence[float] = (),
    ) -> None:
        self.geobox, self.scale, self.offset = cube.geobox, scale, offset
        self.name = f"{cube.path} ({layer.name}{'' if cube.time is None else f', {cube.time} {index}'})"
        at = dict(layer.at) | ({} if cube.time is None else {cube.time: index})
        variable = cube.dataset.variables[layer.variable]
        self._cube, self._values = cube, variable.isel(at)
        self._nodata = {*nodata, *_declared(variable)}
        self._least, self._most = _range(variable.attrs)

    def read(self, window: Window) -> NDArray[Any]:
        cube = self._cube
        height, width = self.geobox.shape
        rows, cols = window.slices
        if cube.south_up:
            rows = slice(height - rows.stop, height - rows.start)
        if cube.east_left:
            cols = slice(width - cols.stop, width - cols.start)
        try:
            values = np.asarray(self._values.isel({cube.y: rows, cube.x: cols}).transpose(cube.y, cube.x).values)
        except Exception as error:  # every library and every codec raises its own
            raise ImageryError(f"cannot read {self.name}: {error}; the file is damaged: get it again") from error
        return values[:: -1 if cube.south_up else 1, :: -1 if cube.east_left else 1]

    def measured(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        result = np.isfinite(values) & (values >= self._least) & (values <= self._most)
        for number in self._nodata:
            result &= values != number
        return result


def _declared(variable: xr.Variable) -> list[float]:
    """What a variable declares to be no measurement."""
    said = [variable.attrs[name] for name in ("_FillValue", "missing_value") if name in variable.attrs]
    if variable.dtype.kind in "iu" and variable.encoding.get("fill_value") is not None:
        # Zarr's own: what a chunk holds that was never written. Of whole numbers it is 0 as a rule, no reflectance; of
        # fractions 0 may well be one, clipped.
        said.append(variable.encoding["fill_value"])
    return [float(value) for value in np.concatenate([np.ravel(value) for value in said])] if said else []


def _range(attrs: Mapping[str, Any]) -> tuple[float, float]:
    least, most = np.ravel(attrs.get("valid_range", (-math.inf, math.inf)))
    return float(attrs.get("valid_min", least)), float(attrs.get("valid_max", most))


def _bands(names: Sequence[str], cubes: Sequence[Cube], options: ImageryOptions) -> tuple[list[str], list[str]]:
    """Names of the bands to take, in their order, and notes about what is not taken."""
    if options.bands is not None:
        places = [position(name, names) for name in options.bands]
        if missing := [name for name, place in zip(options.bands, places, strict=True) if place is None]:
            raise ImageryError(
                f"no band {listed(missing)} in {listed([str(cube.path) for cube in cubes])}: found"
                f" {listed(names)}{did_you_mean(missing[0], names)}"
            )
        chosen = [names[place] for place in places if place is not None]
        if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
            raise ImageryError(f"`bands` names {listed(twice)} twice: name each band once")
        return chosen, []
    mask = options.mask.casefold() if options.mask else None
    beside = [
        name
        for name in names
        if name.upper() in QUALITY
        or name.casefold() == mask
        or any({"flag_values", "flag_masks"} & set(cube.attrs(name)) for cube in cubes)
    ]
    notes = [f"{name} is left out: it is no band" for name in beside if name.casefold() != mask]
    notes += [f"{name} of {cube.path.name} is left out: it has no dates" for cube in cubes for name in cube.left]
    if mask is None and "SCL" in beside:
        notes.append("clouds are not masked, although there is SCL: give SCL as the mask to mask them")
    bands = [name for name in names if name not in beside]
    if CIRRUS in bands and any(wavelengths(bands)):
        bands.remove(CIRRUS)
        notes.append(f"band {CIRRUS} is left out: it does not see the ground")
    if not bands:
        raise ImageryError(f"no band in {listed([str(cube.path) for cube in cubes])}: found only {listed(beside)}")
    return bands, notes


def _finest(name: str, cubes: Sequence[Cube]) -> tuple[list[tuple[Cube, Layer]], list[Cube]]:
    """The cubes that hold a band in its finest pixels, and those that hold it in coarser ones."""
    holders = [(cube, layer) for cube in cubes for layer in cube.layers if layer.name == name]
    size = min(abs(cube.geobox.affine.determinant) for cube, _ in holders)
    # Sizes come out of coordinates, so they are alike rather than equal.
    fine = [holder for holder in holders if abs(holder[0].geobox.affine.determinant) < 1.01 * size]
    return fine, [cube for cube, layer in holders if (cube, layer) not in fine]


def _moments(cube: Cube, options: ImageryOptions) -> list[Acquisition]:
    """The acquisitions of a cube, in its order.

    Raises:
        ImageryError: neither the cube nor its name nor the options say them, or a date is there twice.
    """
    count = 1 if cube.time is None else cube.dataset.sizes[cube.time]
    moments = cube.moments()
    if moments is None and options.dates is not None:
        if len(options.dates) != count:
            raise ImageryError(
                f"{cube.path} has {count} dates, `dates` names {len(options.dates)}: name all in their order"
            )
        moments = list(options.dates)
    if moments is None and count == 1 and (named := moment_in(cube.path)) is not None:
        moments = [named]
    if moments is None:
        raise ImageryError(f"{cube.path} does not say when its {count} acquisitions were taken: give `dates`")
    dates = [moment.date for moment in moments]
    if twice := sorted({str(date) for date in dates if dates.count(date) > 1}):
        raise ImageryError(f"{cube.path} holds {listed(twice)} twice: give one acquisition of each date")
    return moments


def _plane(
    cube: Cube, layer: Layer, index: int, date: dt.date, options: ImageryOptions, *, sentinel2: bool
) -> ArrayPlane:
    """
    Raises:
        ImageryError: Sentinel-2's offset has to be said, or as in `scaling`.
    """
    variable = cube.dataset.variables[layer.variable]
    told = _told(cube.path, layer.variable, variable.attrs)
    scale, offset = scaling(
        date, options, told=told, dtype=variable.dtype.name, name=f"{cube.path} ({layer.name})", sentinel2=sentinel2
    )
    nodata = [] if options.nodata is None else [options.nodata]
    if sentinel2 and variable.dtype.kind in "iu":
        nodata.append(0.0)
    return ArrayPlane(cube, layer, index, scale=scale, offset=offset, nodata=nodata)


def _told(path: Path, name: str, attrs: Mapping[str, Any]) -> tuple[float, float] | None:
    """Scale and offset as in `Band`, from those by which CF multiplies and adds; None where nothing is said."""
    scale, offset = float(attrs.get("scale_factor", 1.0)), float(attrs.get("add_offset", 0.0))
    if (scale, offset) == (1.0, 0.0):
        return None
    if not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
        raise ImageryError(
            f"{name} of {path} declares scale_factor {scale:g} and add_offset {offset:g}: expected a scale above 0"
        )
    # Decimal fractions have no exact binary ones: 1 / 0.0001 is 10000.
    return round(1.0 / scale, 9), round(-offset / scale, 9)
