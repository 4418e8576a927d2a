"""Class maps as Cloud-Optimized GeoTIFFs: streamed by tiles, translated once, re-opened and checked.

GDAL's COG driver only copies: tiles go to a plain tiled GeoTIFF first, and one translation lays them out for the cloud
and adds overviews, in which a pixel is the most frequent class of those it stands for.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; rasterio has no public name for it
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from lianet_user.errors import OutputError
from lianet_user.grid import Window, bounds_in, bounds_of, whole
from lianet_user.head import TILE
from lianet_user.header import IGNORE, ClassEntry
from lianet_user.maps.style import rgb

# No predictor: neighbouring class numbers do not differ gradually, and differences of them deflate worse.
DEFAULTS = {
    "COMPRESS": "DEFLATE",
    "LEVEL": "9",
    "PREDICTOR": "NO",
    "OVERVIEW_RESAMPLING": "MODE",
    "BIGTIFF": "IF_SAFER",
}

_NUMBERS = tuple(map(str, range(1, 65)))
OPTIONS = {
    "BIGTIFF": ("IF_NEEDED", "IF_SAFER", "YES"),
    "BLOCKSIZE": ("128", "256", "512", "1024", "2048", "4096"),
    "COMPRESS": ("DEFLATE", "LZMA", "LZW", "NONE", "ZSTD"),
    "GEOTIFF_VERSION": ("1.0", "1.1", "AUTO"),
    "LEVEL": _NUMBERS[:9],
    "NUM_THREADS": ("ALL_CPUS", *_NUMBERS),
    "OVERVIEWS": ("AUTO", "NONE"),
    "OVERVIEW_RESAMPLING": ("MODE", "NEAREST"),
    "PREDICTOR": ("NO", "YES"),
}
"""Creation options of GDAL's COG driver that keep classes as they are, and their values. GDAL itself only logs a
misspelt option, after hours of work, and some wrong values end the process."""

BYTES_PER_PIXEL = 3
"""Disk space at most: the tiles uncompressed (1), their copy with overviews (4/3), and overviews in the making (1/3)."""
SPARE_BYTES = 16 * 2**20

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""What GDAL or the file system raise when they refuse."""


def checked_options(options: Mapping[str, str]) -> dict[str, str]:
    """Creation options for the COG driver: the defaults with the user's in their place.

    Raises:
        OutputError: an option or a value that is not in :data:`OPTIONS`.
    """
    given = {name.upper(): str(value).upper() for name, value in options.items()}
    for name, value in given.items():
        if name not in OPTIONS:
            raise OutputError(f"--co {name}={value}: no such option for maps, expected one of {', '.join(OPTIONS)}")
        if value not in OPTIONS[name]:
            allowed = OPTIONS[name]
            values = ", ".join(allowed) if len(allowed) < 12 else f"{allowed[0]}, {allowed[1]} to {allowed[-1]}"
            raise OutputError(f"--co {name}={value}: no such value, expected one of {values}")
    return DEFAULTS | given


def check_disk_space(folder: Path, pixels: int) -> None:
    """
    Raises:
        OutputError: `folder` has no room for a map of `pixels` and what is needed to write it.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    if free < (needed := pixels * BYTES_PER_PIXEL + SPARE_BYTES):
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, a map of {pixels} pixels may need {needed / 1e9:.1f} GB while"
            " it is written: make room, choose another place with -o, or map less with --bbox"
        )


def write_map(
    path: Path,
    geobox: GeoBox,
    values_of: Callable[[Window], np.ndarray],
    classes: Sequence[ClassEntry],
    tags: Mapping[str, str],
    options: Mapping[str, str],
) -> list[int]:
    """Write a class map and prove it: what is read from the finished file is what was computed.

    Args:
        path: of the map, in a folder of its own: temporary files are made beside it.
        geobox: of the map.
        values_of: the classes in a window of the map, uint8 (height, width); called once for each tile, row by row.
        classes: in the order of their values.
        tags: for the file.
        options: checked creation options.

    Returns:
        Pixels of each class.

    Raises:
        OutputError: what was written is not what was computed.
        GDAL_ERRORS: it cannot be written.
    """
    tiled = path.with_name("tiles.tif")
    pixels, checksum = _write_tiles(tiled, geobox, values_of, classes, tags)
    rasterio.shutil.copy(tiled, path, driver="COG", **options)
    tiled.unlink()
    _check(path, geobox, checksum)
    return pixels


def read_decimated(path: Path, side: int) -> np.ndarray:
    """A map at a glance, from its overviews: uint8 (height, width), neither more than `side`."""
    with rasterio.open(path) as dataset:
        scale = min(1.0, side / max(dataset.shape))
        shape = tuple(max(1, round(size * scale)) for size in dataset.shape)
        values: np.ndarray = dataset.read(1, out_shape=shape, resampling=Resampling.mode)
    return values


def _write_tiles(
    path: Path,
    geobox: GeoBox,
    values_of: Callable[[Window], np.ndarray],
    classes: Sequence[ClassEntry],
    tags: Mapping[str, str],
) -> tuple[list[int], int]:
    """Pixels of each class, and the checksum of the tiles."""
    assert geobox.crs is not None
    height, width = geobox.shape
    profile = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": 1,
        "dtype": "uint8",
        "nodata": IGNORE,
        "crs": rasterio.CRS.from_wkt(geobox.crs.to_wkt()),
        "transform": geobox.affine,
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "bigtiff": "IF_SAFER",
    }
    pixels, checksum = np.zeros(256, np.int64), 0
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write_colormap(1, {IGNORE: (255, 255, 255)} | {n: rgb(c.color) for n, c in enumerate(classes)})
        dataset.set_band_description(1, "class")
        dataset.update_tags(**tags)
        for tile in whole(geobox).tiles(TILE):
            values = values_of(tile)
            dataset.write(values, 1, window=_rasterio_window(tile))
            pixels += np.bincount(values.ravel(), minlength=256)
            checksum = zlib.crc32(values.tobytes(), checksum)
    return pixels[: len(classes)].tolist(), checksum


def _check(path: Path, geobox: GeoBox, checksum: int) -> None:
    """
    Raises:
        OutputError: the file is not the map that was computed.
    """
    with rasterio.open(path) as dataset:
        found = 0
        for tile in whole(geobox).tiles(TILE):
            found = zlib.crc32(dataset.read(1, window=_rasterio_window(tile)).tobytes(), found)
        facts = {
            "size": (dataset.shape, tuple(geobox.shape)),
            "transform": (dataset.transform.almost_equals(geobox.affine), True),
            "bands": (dataset.dtypes, ("uint8",)),
            "nodata value": (dataset.nodata, IGNORE),
            "layout": (dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"), "COG"),
            "coordinate reference system": (_same_place(dataset.crs.to_wkt(), geobox), True),
            "pixels": (found, checksum),
        }
    for name, (is_, expected) in facts.items():
        if is_ != expected:
            raise OutputError(
                f"{path.name} was written, but its {name} came back different (found {is_}, expected {expected}): the"
                " disk may be full or failing; the map was not kept"
            )


def _same_place(wkt: str, geobox: GeoBox) -> bool:
    """Whether the grid's bounds are the same in the CRS that was read back, to a hundredth of a pixel.

    A GeoTIFF stores a CRS as codes and numbers, so the text and names may differ while the place is the same.
    """
    assert geobox.crs is not None
    own, stored = bounds_of(geobox), CRS(wkt)
    if stored == geobox.crs:
        return True
    tolerance = 0.01 * min(abs(geobox.resolution.x), abs(geobox.resolution.y))
    return bool(np.allclose(bounds_in(own, stored, geobox.crs), own, rtol=0, atol=tolerance))


def _rasterio_window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)
