"""A raster file -> one band of it, checked, and what the file says of its values. No pixel is read to find out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError  # what some attributes raise; rasterio has no public name for it
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from lianet_user.errors import LabelError
from lianet_user.geo.grid import crs_name
from lianet_user.labels.categories import class_table, color_table
from lianet_user.labels.classes import ClassTable
from lianet_user.labels.options import LabelOptions

DRIVERS = ("GTiff", "HFA", "AAIGrid", "ENVI", "EHdr", "SAGA", "RST", "JP2OpenJPEG", "PNG")
"""GDAL's names of the formats that are read: each holds its own pixels and points to no other file or server."""
PLAIN_DRIVERS = ("ENVI", "EHdr", "SAGA", "RST")
"""Of these, the ones without compression, where a file that is too short is read as zeros."""

MOST_PIXELS = 2**40
MOST_BLOCK_BYTES = 2**30
"""What the format makes GDAL decode at once."""

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RasterSource:
    """One band of a raster file, checked, with what the file says about it."""

    path: Path
    band: int
    """From 1."""
    crs: CRS
    transform: Affine
    """(column, row) -> x, y."""
    width: int
    height: int
    pixel: tuple[float, float]
    """Width and height of a pixel in units of the CRS."""
    dtype: str
    nodata: tuple[float, ...]
    """The values that mean "nothing known here", stated and given; masks and NaN do as well."""
    table: ClassTable | None
    """What the values are called, if the file or one beside it says so."""
    colors: Mapping[str, str]
    """Colours (``#rrggbb``) of values in the file's colour table; a colour alone makes no class."""
    attribution: str
    """As the file states it; empty if it does not."""
    description: str
    """Of the band."""
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        return f"{self.path.name}, band {self.band}" + (f" ({self.description})" if self.description else "")


def open_raster(path: Path, options: LabelOptions) -> RasterSource:
    """Check a raster and choose its band; no pixel is read.

    Raises:
        LabelError: it is no raster that can be used, or an option asks for what a raster does not have.
    """
    _check_options(path, options)
    with reading(path) as dataset:
        band = _choose_band(dataset, path, options.band)
        _check_size(dataset, path, band)
        transform = _transform(dataset, path)
        crs, crs_notes = _crs(dataset, path, options.labels_crs)
        nodata, nodata_notes = _nodata(dataset, path, band, options.nodata)
        tags = dataset.tags()
        notes = [*crs_notes, *nodata_notes]
        if len(dataset.subdatasets) > 1:
            notes.append(f"Raster: the file holds {len(dataset.subdatasets)} rasters, of which the first is read")
        if (dataset.scales[band - 1], dataset.offsets[band - 1]) != (1, 0):
            notes.append("Values: as stored; the scale and offset that the file states are not applied")
        attribution = [text for name, text in tags.items() if name.upper() in ("TIFFTAG_COPYRIGHT", "ATTRIBUTION")]
        return RasterSource(
            path=path,
            band=band,
            crs=crs,
            transform=transform,
            width=dataset.width,
            height=dataset.height,
            pixel=(math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)),
            dtype=dataset.dtypes[band - 1],
            nodata=nodata,
            table=class_table(path, band, tags),
            colors=color_table(dataset, band),
            attribution=" ".join(attribution[0].split()) if attribution else "",
            description=dataset.descriptions[band - 1] or "",
            notes=tuple(notes),
        )


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The dataset, and the errors of whatever is done with it in the field's words.

    Raises:
        LabelError: it cannot be opened or read.
    """
    if not path.is_file():
        raise LabelError(f"{path} is no file: expected a raster of labels, for instance a GeoTIFF")
    try:
        with warnings.catch_warnings(), rasterio.Env():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # said in our words by `_transform`
            # Not rasterio.open, which takes no more than one driver.
            dataset = DatasetReader(str(path), driver=list(DRIVERS))
    except UnicodeDecodeError as error:
        raise _garbled(path) from error
    except (RasterioError, CPLE_BaseError) as error:
        with path.open("rb") as file:
            if b"<VRTDataset" in file.read(4096):
                raise LabelError(f"{path}: a VRT only points to other files: give the file itself") from error
        raise LabelError(
            f"{path} cannot be read as a raster: expected a GeoTIFF or one of {', '.join(DRIVERS[1:])}; convert anything"
            " else with gdal_translate"
        ) from error
    with rasterio.Env(), dataset:
        try:
            yield dataset
        except (RasterioError, CPLE_BaseError) as error:
            raise LabelError(f"{path} cannot be read to its end ({error}): is the file whole?") from error
        except UnicodeDecodeError as error:
            raise _garbled(path) from error


def _garbled(path: Path) -> LabelError:
    """Of what rasterio reads as text and is none."""
    return LabelError(
        f"{path}: its coordinate reference system or another text in it is not UTF-8: is the file whole? If it is, write it"
        " anew with gdal_translate"
    )


def _check_options(path: Path, options: LabelOptions) -> None:
    given = {
        "--layer": options.layer,
        "--field": options.field,
        "--where": options.where,
        "--date-field": options.date_field,
        "--buffer": options.buffer,
        "--encoding": options.encoding,
        "--background": options.background,
        "--labelled-area": options.labelled_area,
        "--on-conflict": options.on_conflict != "ignore",
        "--rule all-touched": options.rule == "all-touched",
    }
    if wrong := [name for name, value in given.items() if value]:
        raise LabelError(f"{path} is a raster, and {wrong[0]} is for features (polygons, lines, points): leave it away")


def _choose_band(dataset: Any, path: Path, band: int | None) -> int:
    """The band asked for, else the only one that is no mask."""
    meanings = dataset.colorinterp
    bands = [number for number, meaning in enumerate(meanings, 1) if meaning != ColorInterp.alpha]
    listed = ", ".join(f"{number} ({dataset.descriptions[number - 1] or 'no name'})" for number in bands[:20])
    listed += f" and {len(bands) - 20} more" if len(bands) > 20 else ""
    if band is None:
        if {ColorInterp.red, ColorInterp.green, ColorInterp.blue} <= set(meanings):
            raise LabelError(
                f"{path} is a picture, not labels: its bands are red, green and blue; give a raster with one value for each"
                " class, or choose a band with --band if they are no colours"
            )
        if len(bands) != 1:
            raise LabelError(f"{path} has {len(bands)} bands: {listed}; choose the one with the labels with --band")
        band = bands[0]
    if not 1 <= band <= dataset.count:
        raise LabelError(f"{path} has no band {band}: it has {listed}")
    if dataset.dtypes[band - 1].startswith("complex"):
        raise LabelError(
            f"{path}: band {band} holds complex numbers: expected classes or numbers, so convert it to real ones"
        )
    return band


def _check_size(dataset: Any, path: Path, band: int) -> None:
    """Whether the header can be true, and reading it can do no harm."""
    if dataset.width * dataset.height > MOST_PIXELS:
        raise LabelError(f"{path} declares {dataset.width} x {dataset.height} pixels, more than can be true of labels")
    item = np.dtype(dataset.dtypes[band - 1]).itemsize
    rows, cols = dataset.block_shapes[band - 1]
    if rows * cols * item > MOST_BLOCK_BYTES:
        raise LabelError(
            f"{path} is stored in blocks of {rows} x {cols} pixels, which can only be read whole: store it in tiles, for"
            " instance with gdal_translate -co TILED=YES"
        )
    if dataset.driver in PLAIN_DRIVERS and not _packed(dataset, band):
        expected = dataset.width * dataset.height * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
        if (size := path.stat().st_size) < expected:
            raise LabelError(f"{path} is {size} bytes long, and its header says {expected} or more: is the file whole?")


def _packed(dataset: Any, band: int) -> bool:
    """Whether pixels take less room than their type."""
    return "NBITS" in dataset.tags(band, ns="IMAGE_STRUCTURE") or dataset.tags(ns="ENVI").get("file_compression") == "1"


def _crs(dataset: Any, path: Path, given: str | None) -> tuple[CRS, list[str]]:
    try:
        stated = CRS(dataset.crs.to_wkt()) if dataset.crs else None
        if stated is not None and not (stated.geographic or stated.projected):
            stated = None
    except (CRSError, RasterioError, CPLE_BaseError):
        stated = None
    if given is None:
        if stated is None:
            raise LabelError(
                f"{path} states no coordinate reference system: give the one its coordinates are in with --labels-crs"
            )
        return stated, []
    try:
        crs = CRS(given)
    except CRSError as error:
        raise LabelError(
            f"--labels-crs {given!r} is no coordinate reference system: expected a code such as EPSG:25833"
        ) from error
    if not (crs.geographic or crs.projected):
        raise LabelError(
            f"--labels-crs {given!r} does not say where on the Earth it is: expected a code such as EPSG:25833"
        )
    if stated is not None and stated != crs:
        raise LabelError(
            f"{path} states {crs_name(stated)}, and --labels-crs says {crs_name(crs)}: leave --labels-crs away, or mend"
            " the file with gdal_edit.py -a_srs if what it states is wrong"
        )
    return crs, [] if stated is not None else [
        f"Coordinates: {crs_name(crs)} as given with --labels-crs; the file states none"
    ]


def _transform(dataset: Any, path: Path) -> Affine:
    transform: Affine = dataset.transform
    if transform.is_identity:
        how = (
            "control points" if dataset.gcps[0] else "rational polynomials (RPC)" if dataset.rpcs else "nothing at all"
        )
        raise LabelError(
            f"{path} is not georeferenced: {how} instead of the place and size of its pixels; put it in its place with"
            " QGIS (Georeferencer) or gdalwarp"
        )
    # Numbers so large or small that their products are none any more.
    if transform.is_degenerate or not all(abs(number) < 1e15 for number in (*transform[:6], *(~transform)[:6])):
        raise LabelError(f"{path}: its geotransform {tuple(transform[:6])} describes no pixels: georeference it anew")
    return transform


def _nodata(dataset: Any, path: Path, band: int, given: tuple[float, ...]) -> tuple[tuple[float, ...], list[str]]:
    """Values that mean "nothing known here", and in words what does."""
    dtype = np.dtype(dataset.dtypes[band - 1])
    for value in given:
        if dtype.kind in "iu":
            fits = math.isfinite(value) and value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
        else:
            fits = not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
        if not fits:
            raise LabelError(f"--nodata {value:g}: band {band} of {path} is of type {dtype} and cannot hold this value")
    stated = dataset.nodatavals[band - 1]
    values = tuple(dict.fromkeys((*(() if stated is None else (float(stated),)), *given)))
    facts = [f"{value:g} ({'as given' if value in given else 'as the file states'})" for value in values]
    if {MaskFlags.per_dataset, MaskFlags.alpha} & set(dataset.mask_flag_enums[band - 1]):
        facts.append("what the file's mask hides")
    return values, [f"Nodata: {', '.join(facts)}" if facts else "Nodata: none is stated, so every value counts"]


def read_block(dataset: Any, raster: RasterSource, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[Array, Mask]:
    """Values as stored, and where they are known."""
    block = dataset.read(raster.band, window=(rows, cols))
    known = dataset.read_masks(raster.band, window=(rows, cols)) != 0
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):
            known &= np.isfinite(block.astype(np.float32))
    finite = [value for value in raster.nodata if math.isfinite(value)]
    known &= ~np.isin(block, np.array(finite).astype(block.dtype))
    return block, known
