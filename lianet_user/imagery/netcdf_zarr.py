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
import pyproj
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window, parse_crs
from lianet_user.imagery.imagery import ImageryOptions, Plane, in_period, none_in_period
from lianet_user.imagery.planes import PlaneImagery, assemble
from lianet_user.imagery.rasters import date_in_name
from lianet_user.imagery.sensors import CIRRUS, band_index, band_name, declared_scaling, scaling, wavelengths

if TYPE_CHECKING:
    import xarray as xr

PROVIDER = "pip install 'lianet-user[provider]'"
Y_NAMES = ("y", "lat", "latitude", "northing", "yc")
X_NAMES = ("x", "lon", "longitude", "easting", "xc")
UNEVEN = 0.05
"""Pixels by which a coordinate may deviate from an even axis: float32 coordinates in metres do, a little."""


@dataclass(frozen=True)
class ArrayLayer:
    """One band (or mask) of a file: a variable and, where the bands have a dimension, the index along it."""

    name: str
    variable: str
    at: tuple[tuple[str, int], ...] = ()


class ArrayFile:
    """One NetCDF file or Zarr store, opened but not read.

    Attributes:
        path: of the file or store.
        dataset: with values as they are stored.
        time, y, x: names of the dimensions; `time` is None where the file holds one date.
        geobox: with north up.
        layers: numeric variables over (time, y, x), in the file's order.
        timeless: names of variables over y and x that are not layers, because they have no dimension of time.

    Raises:
        ImageryError: it holds no imagery, no coordinates, or no coordinate reference system.
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
            raise ImageryError(f"{path} has {len(times)} time dimensions ({listed([*map(str, times)])}): expected one")
        self.time = str(times[0]) if times else None
        self.timeless = [name for name, variable in over.items() if self.time and self.time not in variable.dims]
        self.layers = [
            layer
            for name, variable in over.items()
            if name not in self.timeless
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
        """The attributes of a layer's variable."""
        return next((self.dataset.variables[layer.variable].attrs for layer in self.layers if layer.name == name), {})

    def acquisitions(self) -> list[Acquisition] | None:
        """Dates and times of the acquisitions; None where the file does not say them.

        Raises:
            ImageryError: a time is missing, or is not a date.
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
                    return None  # a count, not dates
                raise ImageryError(
                    f"{names[0]} of {self.path} holds {str(values[0])!r}, which is not a date: expected times as CF writes them"
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

    def _layers(self, name: str, variable: xr.Variable, options: ImageryOptions) -> Iterator[ArrayLayer]:
        more = [str(dim) for dim in variable.dims if dim not in (self.time, self.y, self.x)]
        long = [dim for dim in more if variable.sizes[dim] > 1]
        at = tuple((dim, 0) for dim in more if dim not in long)
        if not long:
            # A variable of one band that the file did not care to name is named by its dimension's coordinate.
            yield ArrayLayer(name, name, at)
            return
        if len(long) > 1:
            raise ImageryError(
                f"variable {name} of {self.path} has the dimensions {listed([*map(str, variable.dims)])}: expected at most"
                " one beside time, y and x, that of the bands"
            )
        dim, count = long[0], variable.sizes[long[0]]
        for index, band in enumerate(self._band_names(dim, count, variable, options)):
            yield ArrayLayer(band, name, (*at, (dim, index)))

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

    def _crs(self) -> CRS:
        """The one coordinate reference system that the file names."""
        named = {name for layer in self.layers if (name := self._grid_mapping(layer.variable)) is not None}
        holders = named or {
            str(name)
            for name, v in self.dataset.variables.items()
            if {"crs_wkt", "spatial_ref", "grid_mapping_name"} & set(v.attrs)
        }
        candidates: list[pyproj.CRS] = []
        try:
            for name in sorted(map(str, holders)):
                if name in self.dataset.variables:
                    candidates.append(pyproj.CRS.from_cf(self.dataset.variables[name].attrs))
            if not candidates:
                candidates += [pyproj.CRS(text) for text in self._loose_crs()]
        except (CRSError, KeyError, ValueError) as error:
            raise ImageryError(f"{self.path} names an invalid coordinate reference system: {error}") from error
        if not candidates:
            raise ImageryError(
                f"{self.path} has no coordinate reference system: expected a variable such as spatial_ref that its"
                " variables name as their grid_mapping (rioxarray and odc-geo write one)"
            )
        if any(crs != candidates[0] for crs in candidates):
            raise ImageryError(f"{self.path} names {len(candidates)} coordinate reference systems: expected one")
        return parse_crs(candidates[0], f"{self.path}: its CRS", ImageryError)

    def _grid_mapping(self, name: str) -> str | None:
        variable = self.dataset.variables[name]
        said = variable.encoding.get("grid_mapping") or variable.attrs.get("grid_mapping")
        return str(said).split(":")[0].strip() if said else None

    def _loose_crs(self) -> list[str]:
        """The CRS as cubes made from STAC items give it: a scalar coordinate or an attribute."""
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
"""Names of layers that accompany the bands in cubes and catalogues: masks, classes and products."""


def open_arrays(paths: Sequence[Path], options: ImageryOptions) -> PlaneImagery:
    """Open NetCDF files and Zarr stores of one area, as one set of acquisitions.

    Of a band that several files hold in pixels of different sizes, the finest is taken. Sentinel-2's 0 is not a measurement.

    Args:
        paths: NetCDF files and Zarr stores: of different dates, of different bands, or of different resolutions.
        options: `mask` is the name of a variable or band, or a path; `dates` are those of a file's dimension of time,
            where the file does not say them.

    Raises:
        ImageryError: a file without imagery, dates or names of bands that have to be given, a band that no file holds
            or that is given twice for a date, or Sentinel-2's offset where it has to be given.
    """
    files = [ArrayFile(path, options) for path in paths]
    names = list(dict.fromkeys(layer.name for file in files for layer in file.layers))
    bands, notes = _bands(names, files, options)
    mask = None
    if options.mask is not None and not Path(options.mask).exists():
        if (place := band_index(options.mask, names)) is None:
            raise ImageryError(
                f"`mask` {options.mask} is neither a path nor a variable of {listed([str(path) for path in paths])}: found"
                f" {listed(names)}{did_you_mean(options.mask, names)}"
            )
        mask = names[place]
    moments = {file.path: _acquisitions(file, options) for file in files}
    everything = [moment for held in moments.values() for moment in held]
    by_date: dict[dt.date, Acquisition] = {}
    for moment in everything:
        if in_period(moment, options) and (moment.date not in by_date or by_date[moment.date].time is None):
            by_date[moment.date] = moment
    if not by_date:
        raise none_in_period(everything, options)
    acquisitions = [by_date[date] for date in sorted(by_date)]
    spelled = [band_name(*pair) for pair in zip(options.bands or bands, bands, strict=True)]
    known = wavelengths(spelled)
    planes: dict[tuple[int, int], Plane] = {}
    masks: dict[int, Plane] = {}
    for name in [*bands, *([mask] if mask else [])]:
        finest, dropped = _finest(name, files)
        notes += [f"{name} of {file.path.name} is left out: another file holds it in finer pixels" for file in dropped]
        for file, layer in finest:
            for index, moment in enumerate(moments[file.path]):
                if not in_period(moment, options):
                    continue
                at = acquisitions.index(by_date[moment.date])
                if name == mask:
                    held: Plane | None = masks.get(at)
                    masks[at] = ArrayPlane(file, layer, index)
                else:
                    band = bands.index(name)
                    held = planes.get((at, band))
                    sentinel2 = known[band] is not None
                    planes[at, band] = _plane(file, layer, index, moment.date, options, sentinel2=sentinel2)
                if held is not None:
                    raise ImageryError(
                        f"{name} of {moment.date} is given twice: {held.name} and {file.path}, {file.time or 'date'} {index};"
                        " give each date once"
                    )
    return assemble(
        names=spelled,
        wavelengths=known,
        acquisitions=acquisitions,
        planes=planes,
        masks=masks if mask else None,
        options=options,
        source=", ".join(file.path.name for file in files),
        notes=notes,
    )


class ArrayPlane(Plane):
    """One band of the acquisition of that index in a file, of which only the requested window is read. `nodata` is in
    addition to what the file declares."""

    def __init__(
        self,
        file: ArrayFile,
        layer: ArrayLayer,
        index: int,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: Sequence[float] = (),
    ) -> None:
        name = f"{file.path} ({layer.name}{'' if file.time is None else f', {file.time} {index}'})"
        variable = file.dataset.variables[layer.variable]
        super().__init__(file.geobox, name, scale, offset, [*nodata, *_declared_nodata(variable)])
        at = dict(layer.at) | ({} if file.time is None else {file.time: index})
        self._file, self._values = file, variable.isel(at)
        least, most = np.ravel(variable.attrs.get("valid_range", (-math.inf, math.inf)))
        self._least = float(variable.attrs.get("valid_min", least))
        self._most = float(variable.attrs.get("valid_max", most))

    def read(self, window: Window) -> NDArray[Any]:
        file = self._file
        height, width = self.geobox.shape
        rows, cols = window.slices
        if file.south_up:
            rows = slice(height - rows.stop, height - rows.start)
        if file.east_left:
            cols = slice(width - cols.stop, width - cols.start)
        try:
            values = np.asarray(self._values.isel({file.y: rows, file.x: cols}).transpose(file.y, file.x).values)
        except Exception as error:  # every library and every codec raises its own
            raise ImageryError(f"cannot read {self.name}: {error}; the file is damaged: get it again") from error
        return values[:: -1 if file.south_up else 1, :: -1 if file.east_left else 1]

    def measured(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        return super().measured(values) & (values >= self._least) & (values <= self._most)


def _declared_nodata(variable: xr.Variable) -> list[float]:
    """The values that a variable declares as nodata."""
    said = [variable.attrs[name] for name in ("_FillValue", "missing_value") if name in variable.attrs]
    if variable.dtype.kind in "iu" and variable.encoding.get("fill_value") is not None:
        # Zarr's own: what a chunk holds that was never written. Of whole numbers it is 0 as a rule, no reflectance; of
        # fractions 0 may well be one, clipped.
        said.append(variable.encoding["fill_value"])
    return [float(value) for value in np.concatenate([np.ravel(value) for value in said])] if said else []


def _bands(names: Sequence[str], files: Sequence[ArrayFile], options: ImageryOptions) -> tuple[list[str], list[str]]:
    """Names of the bands to take, in their order, and notes on what is left out."""
    if options.bands is not None:
        places = [band_index(name, names) for name in options.bands]
        if missing := [name for name, place in zip(options.bands, places, strict=True) if place is None]:
            raise ImageryError(
                f"no band {listed(missing)} in {listed([str(file.path) for file in files])}: found"
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
        or any({"flag_values", "flag_masks"} & set(file.attrs(name)) for file in files)
    ]
    notes = [f"{name} is left out: it is not a band" for name in beside if name.casefold() != mask]
    notes += [f"{name} of {file.path.name} is left out: it has no dates" for file in files for name in file.timeless]
    if mask is None and "SCL" in beside:
        notes.append("clouds are not masked, although there is SCL: give SCL as the mask to mask them")
    bands = [name for name in names if name not in beside]
    if CIRRUS in bands and any(wavelengths(bands)):
        bands.remove(CIRRUS)
        notes.append(f"band {CIRRUS} is left out: it does not see the ground")
    if not bands:
        raise ImageryError(f"no band in {listed([str(file.path) for file in files])}: found only {listed(beside)}")
    return bands, notes


def _finest(name: str, files: Sequence[ArrayFile]) -> tuple[list[tuple[ArrayFile, ArrayLayer]], list[ArrayFile]]:
    """The files that hold a band in its finest pixels, and those that hold it in coarser ones."""
    holders = [(file, layer) for file in files for layer in file.layers if layer.name == name]
    size = min(abs(file.geobox.affine.determinant) for file, _ in holders)
    # Sizes come out of coordinates, so they are alike rather than equal.
    fine = [holder for holder in holders if abs(holder[0].geobox.affine.determinant) < 1.01 * size]
    return fine, [file for file, layer in holders if (file, layer) not in fine]


def _acquisitions(file: ArrayFile, options: ImageryOptions) -> list[Acquisition]:
    """The acquisitions of a file, in its order.

    Raises:
        ImageryError: neither the file nor its name nor the options say them, or a date appears twice.
    """
    count = 1 if file.time is None else file.dataset.sizes[file.time]
    moments = file.acquisitions()
    if moments is None and options.dates is not None:
        if len(options.dates) != count:
            raise ImageryError(
                f"{file.path} has {count} dates, `dates` names {len(options.dates)}: name all in their order"
            )
        moments = list(options.dates)
    if moments is None and count == 1 and (named := date_in_name(file.path)) is not None:
        moments = [named]
    if moments is None:
        raise ImageryError(f"{file.path} does not say when its {count} acquisitions were taken: give `dates`")
    dates = [moment.date for moment in moments]
    if twice := sorted({str(date) for date in dates if dates.count(date) > 1}):
        raise ImageryError(f"{file.path} holds {listed(twice)} twice: give one acquisition of each date")
    return moments


def _plane(
    file: ArrayFile, layer: ArrayLayer, index: int, date: dt.date, options: ImageryOptions, *, sentinel2: bool
) -> ArrayPlane:
    """The plane of one band at one acquisition, scaled as CF declares it. Errors as in `scaling`."""
    variable = file.dataset.variables[layer.variable]
    factor, summand = float(variable.attrs.get("scale_factor", 1.0)), float(variable.attrs.get("add_offset", 0.0))
    words = f"{layer.variable} of {file.path} declares scale_factor {factor:g} and add_offset {summand:g}"
    scale, offset = scaling(
        date,
        options,
        declared=declared_scaling(factor, summand, words),
        dtype=variable.dtype.name,
        name=f"{file.path} ({layer.name})",
        sentinel2=sentinel2,
    )
    nodata = [] if options.nodata is None else [options.nodata]
    if sentinel2 and variable.dtype.kind in "iu":
        nodata.append(0.0)
    return ArrayPlane(file, layer, index, scale=scale, offset=offset, nodata=nodata)
