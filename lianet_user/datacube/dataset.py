"""A cube described from headers alone: lazily computed variables, coordinates, CF attributes."""

from __future__ import annotations

import datetime as dt
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords, xr_crs_coord
from xarray.core.indexing import LazilyIndexedArray

from lianet_user.catalog.resolve import region_of_head
from lianet_user.datacube.lazy_array import CubeArray, CubeFiles, FileStamp, Quantity
from lianet_user.errors import DateError, InputError, RegionMismatchError
from lianet_user.files.artifact import declared_kind, open_head_file, open_region_file
from lianet_user.files.header import IGNORE, RegionHeader, class_flags, parse_date
from lianet_user.geo.grid import TILE, finer

GRID_MAPPING = "spatial_ref"
DEVICES = ("cpu", "cuda")
TIME_ENCODING = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "dtype": "int64"}


def lazy_dataset(
    path: Path,
    region: str | os.PathLike[str] | None = None,
    dates: Sequence[dt.date | str] | None = None,
    between: bool = False,
    probabilities: bool = False,
    device: str = "cpu",
) -> xr.Dataset:
    """Describe a cube without computing any pixel; arguments and errors as in :func:`lianet_user.datacube.open_datacube`."""
    if device not in DEVICES:
        raise InputError(f"`device` {device!r}: expected {' or '.join(DEVICES)}")
    if declared_kind(path) == "head":
        return _of_head(path, region, dates, between, probabilities, device)
    stamp = FileStamp.of(path)
    header = open_region_file(path).header
    if region is not None or probabilities:
        raise InputError(
            f"{path} is a region file, and {'`region`' if region is not None else '`probabilities`'} is for head files: omit it"
        )
    return _of_region(header, CubeFiles(stamp, None, device), dates, between)


def _of_region(
    header: RegionHeader, files: CubeFiles, dates: Sequence[dt.date | str] | None, between: bool
) -> xr.Dataset:
    chosen = _chosen(header, dates, between)
    geobox, count = header.grid.geobox, len(header.bands)
    pixels = CubeArray(files, "reflectance", chosen, _shape(geobox), "float32", channels=count, between=between)
    attributes = {"long_name": "reflectance", "units": "1"}
    coordinates = _coordinates(header, geobox, chosen)
    coordinates["band"] = ("band", np.array([band.name for band in header.bands]), {"long_name": "name of the band"})
    wavelengths = np.array([band.wavelength_nm or math.nan for band in header.bands])
    if not np.isnan(wavelengths).all():
        words = {"long_name": "central wavelength", "standard_name": "radiation_wavelength", "units": "nm"}
        coordinates["wavelength"] = ("band", wavelengths, words)
    sampled = {"long_name": "ground sampling distance of the measurements", "units": "m"}
    coordinates["gsd"] = ("band", np.array([band.gsd_m for band in header.bands]), sampled)
    variables = {"reflectance": _variable(pixels, ("time", "band", "y", "x"), attributes)}
    about = {
        "title": header.title,
        "comment": header.description,
        "source": f"{header.provenance.source}, as a neural field remembers it",
        "attribution": header.attribution,
    }
    return _dataset(variables, coordinates, about, header)


def _of_head(
    path: Path,
    region: str | os.PathLike[str] | None,
    dates: Sequence[dt.date | str] | None,
    between: bool,
    probabilities: bool,
    device: str,
) -> xr.Dataset:
    stamp = FileStamp.of(path)
    head = open_head_file(path).header
    if between:
        raise InputError(f"{path} is a head file, and heads map acquisitions only: `between` is for region files")
    if probabilities and not head.classes:
        raise InputError(
            f"{path} maps numbers, which have no probabilities: `probabilities` is for heads that map classes"
        )
    region_path = region_of_head(head, path, region)
    files = CubeFiles(FileStamp.of(region_path), stamp, device)
    header = open_region_file(region_path).header
    if header.lineage != head.region.lineage:  # whether it is the same file is checked when its pixels are read
        raise RegionMismatchError(
            f"{region_path} is not the region that {path} was trained on ({head.region.name!r}, lineage"
            f" {head.region.lineage[:12]}; found {header.name!r}, {header.lineage[:12]}): give the right one with `region`"
        )
    chosen = _chosen(header, dates, between=False)
    geobox = finer(header.grid.geobox, head.head.scale)
    coordinates = _coordinates(header, geobox, chosen)
    variables: dict[str, xr.Variable] = {}

    def add(name: str, quantity: Quantity, dtype: str, attributes: dict[str, Any], channels: int | None = None) -> None:
        pixels = CubeArray(files, quantity, chosen, _shape(geobox), dtype, channels=channels)
        dims = ("time", *(() if channels is None else ("class_name",)), "y", "x")
        variables[name] = _variable(pixels, dims, attributes)

    if head.numbers is not None:
        covered = head.task == "coverage"
        unit = head.numbers.unit or ("1" if covered else "")
        words = {"long_name": "share of the pixel that is covered" if covered else "value"}
        add("coverage" if covered else "value", "number", "float32", words | ({"units": unit} if unit else {}))
    else:
        # In the attributes, as in a file that is read without decoding, so that classes stay integers.
        flags = {"long_name": "class", **class_flags(head.classes), "_FillValue": np.uint8(IGNORE)}
        add("class", "class", "uint8", flags)
    if probabilities:
        words = {"long_name": "probability of the class", "units": "1"}
        add("probability", "probability", "float32", words, len(head.classes))
        coordinates["class_name"] = ("class_name", np.array([entry.name for entry in head.classes]))
    about = {
        "title": f"{header.title}: {'classes' if head.classes else 'numbers'} from {head.provenance.source}",
        "source": f"{path.name}, trained on {head.provenance.source}, on the region {header.name!r}",
        "attribution": head.attribution,
    }
    return _dataset(variables, coordinates, about, header)


def _chosen(header: RegionHeader, dates: Sequence[dt.date | str] | None, between: bool) -> tuple[dt.date, ...]:
    """The dates of a cube in chronological order, without duplicates.

    Raises:
        DateError: there is none, a text is not a date, or the region does not hold a date and cannot or may not estimate it.
    """
    if dates is None:
        return tuple(sorted(header.dates))
    if isinstance(dates, str) or not dates:
        raise DateError(f"`dates` {dates!r}: expected one date or more in a list, for instance ['2018-06-01']")
    chosen = sorted({parse_date(date) if isinstance(date, str) else _day(date) for date in dates})
    for date in chosen:
        header.time_of(date, between=between)
    return tuple(chosen)


def _day(date: dt.date) -> dt.date:
    return date.date() if isinstance(date, dt.datetime) else date


def _coordinates(header: RegionHeader, geobox: GeoBox, dates: Sequence[dt.date]) -> dict[str, Any]:
    assert geobox.crs is not None
    coordinates: dict[str, Any] = {
        str(name): values for name, values in xr_coords(geobox, crs_coord_name=None, always_yx=True).items()
    }
    if geobox.axis_aligned:
        geographic = geobox.crs.geographic
        for name, kind in (("y", "latitude"), ("x", "longitude")):
            standard = kind if geographic else f"projection_{name}_coordinate"
            coordinates[name].attrs |= {"standard_name": standard, "axis": name.upper()}
    # A transform would be wrong after slicing. It follows from the coordinates, unless the grid is rotated.
    transform = None if geobox.axis_aligned else geobox.affine
    coordinates[GRID_MAPPING] = xr_crs_coord(geobox.crs, GRID_MAPPING, transform=transform)
    moments = np.array([_moment(header, date) for date in dates], "datetime64[ns]")
    coordinates["time"] = xr.Variable("time", moments, {"standard_name": "time", "axis": "T"}, TIME_ENCODING)
    if not set(dates) <= set(header.dates):
        estimated = np.array([date not in header.dates for date in dates])
        coordinates["estimated"] = ("time", estimated, {"long_name": "whether the field estimates the date"})
    return coordinates


def _moment(header: RegionHeader, date: dt.date) -> dt.datetime:
    """The time of an acquisition; other dates get the time of day of the nearest one."""
    nearest = min(header.acquisitions, key=lambda held: abs(held.date - date))
    return dt.datetime.combine(date, nearest.time or dt.time())


def _variable(pixels: CubeArray, dims: tuple[str, ...], attributes: dict[str, Any]) -> xr.Variable:
    chunks = chunk_sizes(dict(zip(dims, pixels.shape, strict=True)))
    encoding = {"preferred_chunks": chunks, "grid_mapping": GRID_MAPPING}
    return xr.Variable(dims, LazilyIndexedArray(pixels), attributes, encoding)


def chunk_sizes(sizes: Mapping[Hashable, int]) -> dict[Hashable, int]:
    """What is computed at once, by dimension: one date, all bands or classes, a tile."""
    return {name: min(size, {"time": 1, "y": TILE, "x": TILE}.get(str(name), size)) for name, size in sizes.items()}


def _dataset(
    variables: dict[str, xr.Variable], coordinates: dict[str, Any], about: dict[str, str], header: RegionHeader
) -> xr.Dataset:
    attributes = {
        "Conventions": "CF-1.11",
        **about,
        "licence": header.licence,
        "license": header.licence,  # as the discovery conventions (ACDD) spell it
        "region": header.name,
        "references": "https://arxiv.org/abs/2604.07092",
        "software": f"lianet-user {version('lianet-user')}",
    }
    return xr.Dataset(variables, coordinates, {name: text for name, text in attributes.items() if text})


def _shape(geobox: GeoBox) -> tuple[int, int]:
    height, width = geobox.shape
    return int(height), int(width)
