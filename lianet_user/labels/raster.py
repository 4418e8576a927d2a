"""A raster of classes or numbers -> the label grid, in any CRS, at any resolution and alignment.

Every pixel of the label grid is divided into n x n sub-pixels (:func:`_subpixels`), and each sub-pixel takes the value of
the raster's pixel in which its centre lies: nearest neighbour, so no value is invented. Then the rules of
:mod:`lianet_user.labels.rasterize` decide the pixel, as they do for features.

The centres are carried over by the very operation that carries features (:mod:`lianet_user.geo.transformation`), so
the two kinds of labels cannot lie apart. It is computed at nodes and interpolated between them, after a check that this is
right to :data:`TOLERANCE`; where it is not (poles, the antimeridian, odd projections) every centre is computed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from lianet_user.errors import LabelError, listed
from lianet_user.files.header import IGNORE
from lianet_user.geo.grid import Window, whole
from lianet_user.geo.transformation import Transformation, transformation
from lianet_user.labels.class_tables import ClassTable, raster_class_table, raster_colors
from lianet_user.labels.features import outside_error
from lianet_user.labels.file_crs import file_crs
from lianet_user.labels.label_options import LabelOptions, Rule
from lianet_user.labels.rasterize import classes_of_subpixels, enough_subpixels, numbers_of_subpixels

# --- A raster file -> one band of it, checked, with what the file states about its values. No pixel is read.


DRIVERS = ("GTiff", "HFA", "AAIGrid", "ENVI", "EHdr", "SAGA", "RST", "JP2OpenJPEG", "PNG")
"""GDAL's names of the formats that are read: each holds its own pixels and points to no other file or server."""
PLAIN_DRIVERS = ("ENVI", "EHdr", "SAGA", "RST")
"""Of these, the ones without compression, where a file that is too short is read as zeros."""

UNREAL = 3.4e38
"""Nearly the largest number of 32 bits: no measurement, but what Esri's and other software writes where there is none."""
USUAL_NODATA = -9999.0

MOST_PIXELS = 2**40
MOST_BLOCK_BYTES = 2**30
"""Size of what the format makes GDAL decode at once."""

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RasterBand:
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
    """The values that mean "no data", stated and given; masks and NaN do as well."""
    table: ClassTable | None
    """The names of the values, if the file or one beside it states them."""
    colors: Mapping[str, str]
    """Colours (``#rrggbb``) of values in the file's colour table; a colour alone makes no class."""
    attribution: str
    """The attribution that the file states; empty if it states none."""
    description: str
    """The description of the band."""
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        return f"{self.path.name}, band {self.band}" + (f" ({self.description})" if self.description else "")


def open_raster(path: Path, options: LabelOptions) -> RasterBand:
    """Check a raster and choose its band; no pixel is read.

    Raises:
        LabelError: it is not a raster that can be used, or an option is for features only.
    """
    _check_options(path, options)
    with reading(path) as dataset:
        band = _choose_band(dataset, path, options.band)
        _check_size(dataset, path, band)
        transform = _transform(dataset, path)
        crs, crs_notes = file_crs(
            str(path), dataset.crs, options.labels_crs, lambda: dataset.bounds, tool="gdal_edit.py"
        )
        nodata, nodata_notes = _nodata(dataset, path, band, options.nodata)
        tags = dataset.tags()
        notes = [*crs_notes, *nodata_notes]
        if len(dataset.subdatasets) > 1:
            notes.append(f"Raster: the file holds {len(dataset.subdatasets)} rasters, of which the first is read")
        if (dataset.scales[band - 1], dataset.offsets[band - 1]) != (1, 0):
            notes.append("Values: as stored; the scale and offset that the file states are not applied")
        attribution = [text for name, text in tags.items() if name.upper() in ("TIFFTAG_COPYRIGHT", "ATTRIBUTION")]
        return RasterBand(
            path=path,
            band=band,
            crs=crs,
            transform=transform,
            width=dataset.width,
            height=dataset.height,
            pixel=(math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)),
            dtype=dataset.dtypes[band - 1],
            nodata=nodata,
            table=raster_class_table(path, band, tags),
            colors=raster_colors(dataset, band),
            attribution=" ".join(attribution[0].split()) if attribution else "",
            description=dataset.descriptions[band - 1] or "",
            notes=tuple(notes),
        )


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Open a raster; errors of GDAL inside the block become errors about labels.

    Raises:
        LabelError: it cannot be opened or read.
    """
    if not path.is_file():
        raise LabelError(f"{path} is not a file: expected a raster of labels, for instance a GeoTIFF")
    try:
        with warnings.catch_warnings(), rasterio.Env():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # `_transform` raises an error of ours
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
    """The error for text in a raster that cannot be decoded."""
    return LabelError(
        f"{path}: its coordinate reference system or another text in it is not UTF-8: is the file whole? If it is, write it"
        " again with gdal_translate"
    )


def _check_options(path: Path, options: LabelOptions) -> None:
    given = {
        "`layer`": options.layer,
        "`field`": options.field,
        "`where`": options.where,
        "`date_field`": options.date_field,
        "`buffer`": options.buffer,
        "`encoding`": options.encoding,
        "`background`": options.background,
        "`labelled_area`": options.labelled_area,
        "`on_conflict`": options.on_conflict != "ignore",
        "`rule` all-touched": options.rule == "all-touched",
    }
    if wrong := [name for name, value in given.items() if value]:
        raise LabelError(f"{path} is a raster, and {wrong[0]} is for features (polygons, lines, points): omit it")


def _choose_band(dataset: Any, path: Path, band: int | None) -> int:
    """The band asked for, else the only one that is not a mask."""
    meanings = dataset.colorinterp
    bands = [number for number, meaning in enumerate(meanings, 1) if meaning != ColorInterp.alpha]
    shown = listed([f"{number} ({dataset.descriptions[number - 1] or 'no name'})" for number in bands])
    if band is None:
        if {ColorInterp.red, ColorInterp.green, ColorInterp.blue} <= set(meanings):
            raise LabelError(
                f"{path} is a picture, not labels: its bands are red, green and blue; give a raster with one value for each"
                " class, or choose a band with `band` if they are not colours"
            )
        if len(bands) != 1:
            raise LabelError(f"{path} has {len(bands)} bands: {shown}; choose the one with the labels with `band`")
        band = bands[0]
    if not 1 <= band <= dataset.count:
        raise LabelError(f"{path} has no band {band}: it has {shown}")
    if dataset.dtypes[band - 1].startswith("complex"):
        raise LabelError(
            f"{path}: band {band} holds complex numbers: expected classes or numbers, so convert it to real ones"
        )
    return band


def _check_size(dataset: Any, path: Path, band: int) -> None:
    """Refuse a header that cannot be true, or that would make reading unsafe."""
    if dataset.width * dataset.height > MOST_PIXELS:
        raise LabelError(
            f"{path} declares {dataset.width} x {dataset.height} pixels, more than any raster of labels has"
        )
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
    """Whether pixels take fewer bytes than their type."""
    return "NBITS" in dataset.tags(band, ns="IMAGE_STRUCTURE") or dataset.tags(ns="ENVI").get("file_compression") == "1"


def _transform(dataset: Any, path: Path) -> Affine:
    transform: Affine = dataset.transform
    if transform.is_identity:
        how = (
            "control points" if dataset.gcps[0] else "rational polynomials (RPC)" if dataset.rpcs else "nothing at all"
        )
        raise LabelError(
            f"{path} is not georeferenced: {how} instead of the place and size of its pixels; georeference it with QGIS"
            " (Georeferencer) or gdalwarp"
        )
    # Numbers so large or small that their products overflow.
    if transform.is_degenerate or not all(abs(number) < 1e15 for number in (*transform[:6], *(~transform)[:6])):
        raise LabelError(f"{path}: its geotransform {tuple(transform[:6])} describes no pixels: georeference it again")
    return transform


def _nodata(dataset: Any, path: Path, band: int, given: tuple[float, ...]) -> tuple[tuple[float, ...], list[str]]:
    """Values that mean "no data", and a note about them."""
    dtype = np.dtype(dataset.dtypes[band - 1])
    for value in given:
        if dtype.kind in "iu":
            fits = math.isfinite(value) and value == int(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
        else:
            fits = not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
        if not fits:
            raise LabelError(f"`nodata` {value:g}: band {band} of {path} is of type {dtype} and cannot hold this value")
    stated, source = dataset.nodatavals[band - 1], "as the file states"
    if stated is None and (source := _nodata_of_format(dataset, band)):
        stated = USUAL_NODATA
    values = tuple(dict.fromkeys((*(() if stated is None else (float(stated),)), *given)))
    facts = [f"{value:g} ({'as given' if value in given else source})" for value in values]
    if {MaskFlags.per_dataset, MaskFlags.alpha} & set(dataset.mask_flag_enums[band - 1]):
        facts.append("what the file's mask hides")
    counts = "every value counts" + (f" that is finite and below {UNREAL:g}" if dtype.kind == "f" else "")
    return values, [f"Nodata: {', '.join(facts)}" if facts else f"Nodata: none is stated, so {counts}"]


def _nodata_of_format(dataset: Any, band: int) -> str:
    """Why :data:`USUAL_NODATA` is certain to be nodata in a file that does not say so, in words; empty if it is not."""
    if dataset.driver == "AAIGrid":
        return "as the format has it"
    tags = dataset.tags(band)
    try:
        lowest = float(tags["STATISTICS_MINIMUM"])
    except (KeyError, ValueError):
        return ""
    # A minimum that was estimated from some pixels need not have met it.
    left_out = lowest > USUAL_NODATA and tags.get("STATISTICS_APPROXIMATE", "NO") == "NO"
    return "which the file's statistics leave out" if left_out and _holds(dataset, band, USUAL_NODATA) else ""


def _holds(dataset: Any, band: int, value: float) -> bool:
    dtype = np.dtype(dataset.dtypes[band - 1])
    return dtype.kind == "f" or float(np.iinfo(dtype).min) <= value


def read_block(dataset: Any, raster: RasterBand, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[Array, Mask]:
    """Values as stored, and where they are known."""
    block = dataset.read(raster.band, window=(rows, cols))
    known = dataset.read_masks(raster.band, window=(rows, cols)) != 0
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):
            known &= np.abs(block.astype(np.float32)) < UNREAL  # NaN is not
    finite = [value for value in raster.nodata if math.isfinite(value)]
    known &= ~np.isin(block, np.array(finite).astype(block.dtype))
    return block, known


# --- A band -> the label grid.


MOST_PIXELS_USED = 2**33
MOST_VALUES = 2**16
"""At most so many distinct values are told apart; a raster with more of them does not hold classes."""

SUBPIXELS = range(4, 17)
"""Along each side of a pixel: at least and, for rasters that are much finer, at most."""
TILE_SUBPIXELS = 1024
"""Along each side of a tile: what is decided at once, which bounds the memory; so does the raster's part under it."""
TILE_PIXELS = 2**24
NODE_SPACING = 64
"""Sub-pixels between the nodes where coordinates are computed."""
TOLERANCE = 1e-3
"""Pixels of the raster that an interpolated coordinate may be off."""
EDGE = 1e-6
"""Pixels of the raster: rounding must not carry a centre across the edge that it lies on."""


@dataclass(frozen=True, eq=False)
class RasterLabels:
    """A raster on the label grid; areas are in pixels of that grid."""

    values: Array
    """(height, width): uint8, class index or IGNORE; or float32, number or NaN."""
    nodata_ground: float
    """Covered by the raster, but without data there."""
    outside_ground: float
    """Not covered by the raster."""
    excluded_ground: float
    """Covered by values that are dropped on request."""
    undecided: int = 0
    """Pixels that classes share in a way that leaves none of them most, or enough, of it."""


def sample_values(raster: RasterBand, geobox: GeoBox) -> pd.Series:
    """The values that lie in the region: value -> how many sub-pixels have it, in the order of the values.

    Pixel centres are looked at as well, so that no rule meets another value. At most :data:`MOST_VALUES` are listed.

    Raises:
        LabelError: the raster lies outside the region, holds nothing but nodata there, or cannot be read.
    """
    total = pd.Series(dtype=np.int64)
    for rule in ("majority", "center"):
        for tile in _tiles(raster, geobox, _subpixels(raster, geobox, rule)):
            known = tile.sampled(tile.known, False)
            counts = _counted(tile.sampled(tile.block, 0)[known])
            # A centre adds a value that the sub-pixels missed, and never counts twice.
            counts = counts if rule == "majority" else counts[~counts.index.isin(total.index)]
            total = total.add(counts, fill_value=0).astype(np.int64)
            if len(total) > MOST_VALUES:
                return total.iloc[:MOST_VALUES]
    if total.empty:
        raise LabelError(
            f"{raster.path}: band {raster.band} holds nothing but nodata in the region: choose another band with `band`,"
            " or the region that its values lie in"
        )
    return total


def _counted(values: Array) -> pd.Series:
    """value -> how often it occurs, in the order of the values."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        # Several times as fast as sorting them.
        lowest = np.iinfo(values.dtype).min
        counts = np.bincount(values.astype(np.int32) - lowest)
        present = np.flatnonzero(counts)
        return pd.Series(counts[present], present + lowest)
    distinct, counts = np.unique(values, return_counts=True)
    return pd.Series(counts, distinct)


def raster_classes(
    raster: RasterBand, geobox: GeoBox, index_of_value: Mapping[float, int | None], min_coverage: float, rule: Rule
) -> RasterLabels:
    """The class of every pixel.

    Args:
        raster: opened.
        geobox: the label grid.
        index_of_value: class index of every value in :func:`sample_values`, below IGNORE; None if it is dropped.
        min_coverage: share of a pixel that its class has to cover.
        rule: "majority" or "center".

    Raises:
        LabelError: the raster lies outside the region, cannot be read, or holds a value that was not there when
            `index_of_value` was made of it.
    """
    outside, nodata, excluded, unknown = 256, 257, 258, 259
    keys = np.array(sorted(index_of_value), np.float64)
    codes = np.array([excluded if (index := index_of_value[key]) is None else index for key in keys], np.int16)
    values = np.full(geobox.shape, IGNORE, np.uint8)
    ground, undecided = np.zeros(3), 0
    for tile in _tiles(raster, geobox, n := _subpixels(raster, geobox, rule)):
        stored = tile.block[tile.known].astype(np.float64)
        place = np.minimum(np.searchsorted(keys, stored), len(keys) - 1)
        code_of = np.full(tile.block.shape, nodata, np.int16)
        # The block also holds values beside the region, which have no class and need none.
        code_of[tile.known] = np.where(keys[place] == stored, codes[place], unknown)
        owner = tile.sampled(code_of, outside)
        if (owner == unknown).any():
            raise LabelError(
                f"{raster.path}: band {raster.band} holds {stored[keys[place] != stored][0]:g}, which was not there when its"
                " values were listed: the file is damaged, or has been written to since; copy or save it again"
            )
        ground += [(owner == code).sum() for code in (nodata, outside, excluded)]
        own = np.minimum(owner, IGNORE).astype(np.uint8)
        decided = classes_of_subpixels(own, n, min_coverage)
        undecided += int(((decided == IGNORE) & enough_subpixels(own != IGNORE, n, min_coverage)).sum())
        values[tile.window.slices] = decided
    nodata_ground, outside_ground, excluded_ground = (ground / n**2).tolist()
    return RasterLabels(values, nodata_ground, outside_ground, excluded_ground, undecided)


def raster_numbers(raster: RasterBand, geobox: GeoBox, min_coverage: float, rule: Rule) -> RasterLabels:
    """The number of every pixel: the mean of its sub-pixels, if those with a number are `min_coverage` of it.

    The arguments and errors are those of :func:`raster_classes`.
    """
    values = np.full(geobox.shape, np.nan, np.float32)
    ground = np.zeros(2)
    for tile in _tiles(raster, geobox, n := _subpixels(raster, geobox, rule)):
        numbers = np.full(tile.block.shape, np.nan, np.float32)
        numbers[tile.known] = tile.block[tile.known]
        fine = tile.sampled(numbers, np.float32(np.inf))
        outside = np.isinf(fine)
        fine[outside] = np.nan
        ground += [(np.isnan(fine) & ~outside).sum(), outside.sum()]
        values[tile.window.slices] = numbers_of_subpixels(fine, n, min_coverage)
    nodata_ground, outside_ground = (ground / n**2).tolist()
    return RasterLabels(values, nodata_ground, outside_ground, excluded_ground=0.0)


@dataclass(frozen=True, eq=False)
class _Tile:
    """A window of the label grid, the raster's part under it, and which of its pixels each sub-pixel lies in."""

    window: Window
    block: Array
    """(rows, columns) as stored."""
    known: Mask
    """(rows, columns) where `block` is a finite value and not nodata."""
    place: NDArray[np.intp]
    """(h * n, w * n) index into the flat block, -1 outside the raster."""

    def sampled(self, of_block: Array, outside: Any) -> Array:
        """(rows, columns) -> (h * n, w * n)."""
        return np.append(of_block.ravel(), np.array([outside], of_block.dtype))[self.place]


def _tiles(raster: RasterBand, geobox: GeoBox, n: int) -> Iterator[_Tile]:
    """The label grid tile by tile.

    Raises:
        LabelError: no sub-pixel lies in the raster, or it cannot be read.
    """
    change = transformation(raster.crs, geobox)
    # Degrees that are declared as metres make pixels tiny, but no more can be used than the raster has.
    relative = math.prod(_relative_size(raster, geobox, change))
    used = min(math.prod(geobox.shape) * relative, raster.width * raster.height)
    if used > MOST_PIXELS_USED:
        raise LabelError(
            f"{raster.path}: some {used:.2g} of its pixels lie in the region, far more than labels need: resample it to"
            f" the region's pixel ({math.hypot(geobox.affine.a, geobox.affine.d):g}), for instance with gdalwarp -r mode -tr"
        )
    windows = list(whole(geobox).tiles(max(1, TILE_SUBPIXELS // n)))[::-1]
    covered = False
    with reading(raster.path) as dataset:
        while windows:
            window = windows.pop()
            col, row, inside = _positions(raster, geobox, change, window, n)
            if not inside.any():
                yield _Tile(window, np.empty((0, 0), raster.dtype), np.empty((0, 0), bool), np.full(inside.shape, -1))
                continue
            (left, right), (top, bottom) = ((int(of[inside].min()), int(of[inside].max()) + 1) for of in (col, row))
            if (right - left) * (bottom - top) > TILE_PIXELS and window.pixels > 1:
                windows += window.tiles((max(window.height, window.width) + 1) // 2)
                continue
            covered = True
            block, known = read_block(dataset, raster, (top, bottom), (left, right))
            yield _Tile(window, block, known, np.where(inside, (row - top) * (right - left) + col - left, -1))
    if not covered:
        raise _outside_error(raster, geobox)


def _positions(
    raster: RasterBand, geobox: GeoBox, change: Transformation, window: Window, n: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], Mask]:
    """Column and row of the raster's pixel under every sub-pixel's centre (h * n, w * n), and whether there is one."""
    to_region = geobox.affine @ Affine.translation(window.col, window.row) @ Affine.scale(1 / n)

    def exact(x: Array, y: Array) -> NDArray[np.float64]:
        """Column and row (2, y, x) at sub-pixel coordinates (x,) and (y,)."""
        columns, lines = np.meshgrid(x, y)
        return _to_raster(raster, change, _applied(to_region, columns, lines))

    height, width = window.height * n, window.width * n
    x, y = _nodes(width), _nodes(height)
    at_nodes = exact(x, y)
    halfway = (at_nodes[:, 1:, 1:] + at_nodes[:, 1:, :-1] + at_nodes[:, :-1, 1:] + at_nodes[:, :-1, :-1]) / 4
    error = np.abs(halfway - exact((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2))
    # Not `error > TOLERANCE`: what is not finite compares as neither.
    if (error <= TOLERANCE).all():
        col, row = _weights(height, y) @ at_nodes @ _weights(width, x).T
    else:
        col, row = exact(np.arange(width) + 0.5, np.arange(height) + 0.5)
    # A pixel holds its left and top edge, where the centres lie if one pixel is an even multiple of the other.
    col, row = col + EDGE, row + EDGE
    inside = (col >= 0) & (col < raster.width) & (row >= 0) & (row < raster.height)
    return np.where(inside, col, 0).astype(np.intp), np.where(inside, row, 0).astype(np.intp), inside


def _applied(affine: Affine, x: Array, y: Array) -> NDArray[np.float64]:
    """(2, ...) x and y after an affine transformation."""
    return np.stack([affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f])


def _to_raster(raster: RasterBand, change: Transformation, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, ...) x and y in the region's CRS -> (2, ...) column and row in the raster; NaN where that is impossible."""
    x, y = change.invert(points.reshape(2, -1).T).T
    x[np.isinf(x)] = np.nan
    if raster.crs.geographic:
        # Longitude repeats itself: it is counted from the raster's middle, whatever it counts from.
        turn = 2 * math.pi / raster.crs.proj.axis_info[0].unit_conversion_factor
        start = (raster.transform @ (raster.width / 2, raster.height / 2))[0] - turn / 2
        x = start + (x - start) % turn
    return _applied(~raster.transform, x, y).reshape(points.shape)


def _nodes(length: int) -> NDArray[np.float64]:
    """From the first sub-pixel's centre to the last."""
    return np.linspace(0.5, length - 0.5, max(2, math.ceil((length - 1) / NODE_SPACING) + 1))


def _weights(length: int, nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(length, nodes) of linear interpolation at every sub-pixel's centre."""
    steps = (np.arange(length) + 0.5 - nodes[0]) / (nodes[1] - nodes[0] or 1)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(steps[:, None] - np.arange(len(nodes))))
    return weights


def _relative_size(raster: RasterBand, geobox: GeoBox, change: Transformation) -> tuple[float, float]:
    """Pixels of the raster along a pixel's width and height, in the middle of the region."""
    height, width = geobox.shape
    cols, rows = np.array([0, 1, 0]) + width // 2, np.array([0, 0, 1]) + height // 2
    corner, right, below = _to_raster(raster, change, _applied(geobox.affine, cols, rows)).T
    sizes = math.dist(corner, right), math.dist(corner, below)
    return sizes if all(map(math.isfinite, sizes)) else (1.0, 1.0)


def _subpixels(raster: RasterBand, geobox: GeoBox, rule: str) -> int:
    """Sub-pixels along each side of a pixel: as many as the raster has pixels there, within :data:`SUBPIXELS`.

    One, the pixel's centre, is enough under the rule `center` and where both grids share their pixels.
    """
    if rule == "center":
        return 1
    change = transformation(raster.crs, geobox)
    if raster.crs == geobox.crs:
        between = ~raster.transform @ geobox.affine
        shifted = between @ (0, 0)
        if np.allclose(between[:6], (1, 0, round(shifted[0]), 0, 1, round(shifted[1])), rtol=0, atol=1e-6):
            return 1
    return min(max(math.ceil(max(_relative_size(raster, geobox, change))), SUBPIXELS[0]), SUBPIXELS[-1])


def _outside_error(raster: RasterBand, geobox: GeoBox) -> LabelError:
    corners = [raster.transform @ (col, row) for col in (0, raster.width) for row in (0, raster.height)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return outside_error(raster.path, (min(xs), min(ys), max(xs), max(ys)), raster.crs, geobox)
