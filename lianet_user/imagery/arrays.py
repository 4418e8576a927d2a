"""Cubes in NetCDF or Zarr: a variable for each band over (time, y, x), or one variable with a dimension of bands.

Values are read as they are stored, never as xarray would decode them: whole numbers stay whole, and what the file says of
scale, offset and fill value decides the reflectance once, as for any other source.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lianet_user.errors import ImageryError, did_you_mean, listed
from lianet_user.grid import Window
from lianet_user.header import Acquisition
from lianet_user.imagery.assembly import assembled
from lianet_user.imagery.cubes import Cube, Layer
from lianet_user.imagery.named import moment_in, none_left, wanted
from lianet_user.imagery.options import ImageryOptions
from lianet_user.imagery.planes import Plane, PlaneImagery
from lianet_user.imagery.sensors import CIRRUS, called, position, scaling, wavelengths

if TYPE_CHECKING:
    import xarray as xr


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
                f"--mask {options.mask} is neither a path nor a variable of {listed([str(path) for path in paths])}: found"
                f" {listed(names)}{did_you_mean(options.mask, names)}"
            )
        mask = names[place]
    moments = {cube.path: _moments(cube, options) for cube in cubes}
    everything = [moment for held in moments.values() for moment in held]
    by_date: dict[dt.date, Acquisition] = {}
    for moment in everything:
        if wanted(moment, options) and (moment.date not in by_date or by_date[moment.date].time is None):
            by_date[moment.date] = moment
    if not by_date:
        raise none_left(everything, options)
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
                if not wanted(moment, options):
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
            raise ImageryError(f"--bands names {listed(twice)} twice: name each band once")
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
        notes.append("clouds are not masked, though there is SCL: --mask SCL uses it")
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
                f"{cube.path} has {count} dates, --dates names {len(options.dates)}: name all in their order"
            )
        moments = list(options.dates)
    if moments is None and count == 1 and (named := moment_in(cube.path)) is not None:
        moments = [named]
    if moments is None:
        raise ImageryError(f"{cube.path} does not say when its {count} acquisitions were taken: give --dates")
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
