"""Maps as Cloud-Optimized GeoTIFFs: streamed by tiles, checked, put in place with their sidecar files, and read again.

GDAL's COG driver only copies: tiles go to a file of raw numbers first, and one translation lays them out for the cloud and adds
overviews.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pyproj
import rasterio
import rasterio.shutil
from numpy.ma import MaskedArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from lianet_user.errors import MapError, OutputError
from lianet_user.files.artifact import free_bytes, refuse_existing
from lianet_user.files.header import ClassEntry
from lianet_user.geo.grid import Window, bounds_in, bounds_of, horizontal, parse_crs

# --- Errors of the disk, which libtiff only prints to the terminal.


GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""What GDAL and the file system raise where a file cannot be written."""

_ERROR_NUMBERS = {os.strerror(number): number for number in errno.errorcode}
_LIBTIFF_MESSAGE = re.compile(r"_tiff\w+Proc: (.*?)\.?")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise the errors that libtiff prints.

    Where a disk fails, libtiff prints `_tiffWriteProc: No space left on device.`; GDAL only reports that something failed
    or, where it closes a file, nothing at all.

    Raises:
        OSError: a file could not be written.
    """
    printed: list[str] = []
    problem: Exception | None = None
    with _standard_error_to(printed):
        try:
            yield
        except GDAL_ERRORS as error:
            problem = error
    for line in printed:
        if match := _LIBTIFF_MESSAGE.fullmatch(line.strip()):
            raise OSError(_ERROR_NUMBERS.get(match[1], errno.EIO), match[1]) from problem
    if problem is not None:
        raise problem


@contextmanager
def _standard_error_to(lines: list[str]) -> Iterator[None]:
    """Collect what libraries print to standard error; at the end all but libtiff's is printed there. Python's own, such as a
    progress bar, goes there as ever."""
    try:
        terminal = os.dup(2)
    except OSError:  # a process that has none
        yield
        return
    end, start = os.pipe()
    for descriptor in (end, start):
        os.set_blocking(descriptor, False)  # what the pipe cannot hold is lost, not waited for
    own = sys.stderr
    os.dup2(start, 2)
    os.close(start)
    with suppress(OSError, ValueError, AttributeError):  # of a stream that is no file, as notebooks have
        if own.fileno() == 2:
            sys.stderr = open(  # noqa: SIM115  # closed where its descriptor is
                terminal, "w", buffering=1, encoding=own.encoding, errors="replace", closefd=False
            )
    try:
        yield
    finally:
        sys.stderr = own
        os.dup2(terminal, 2)
        text = b""
        with suppress(BlockingIOError):  # where another program still holds the pipe
            while part := os.read(end, 2**16):
                text += part
        lines += text.decode(errors="replace").splitlines(keepends=True)
        with suppress(OSError):
            os.write(2, "".join(line for line in lines if not _LIBTIFF_MESSAGE.fullmatch(line.strip())).encode())
        os.close(terminal)
        os.close(end)


# --- How a map is stored: bands, data type, nodata, colours.


@dataclass(frozen=True)
class RasterProfile:
    """How a map is stored: one band or several, all alike."""

    bands: tuple[str, ...]
    """Descriptions of the bands."""
    dtype: str
    nodata: float
    predictor: str
    """The value of the creation option, unless the user gives another."""
    overviews: str
    """How overviews are resampled, unless the user gives another way: a name of rasterio's `Resampling`, in capitals."""
    unit: str = ""
    scale: float = 1.0
    """The value of a stored 1: GDAL and QGIS show stored numbers times this."""
    palette: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    """Colours of the values, where they are classes."""
    light: bool = False
    """Whether its three bands are red, green and blue to be seen."""
    band_tags: tuple[Mapping[str, str], ...] = ()
    """Tags of each band, where there are any."""

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel over all bands."""
        return np.dtype(self.dtype).itemsize * len(self.bands)

    @property
    def resampling(self) -> Resampling:
        return Resampling[self.overviews.lower()]

    def empty(self, window: Window) -> np.ndarray:
        """A window of nodata: (bands, height, width)."""
        return np.full((len(self.bands), window.height, window.width), self.nodata, self.dtype)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Convert numbers to what is stored: divided by the scale, rounded where the type is an integer; NaN becomes nodata."""
        if values.dtype == self.dtype and self.scale == 1:
            return values
        whole_numbers = np.issubdtype(self.dtype, np.integer)
        scaled = np.asarray(values, np.float64) / self.scale
        rounded = np.rint(scaled) if whole_numbers else scaled
        return np.where(np.isnan(scaled), self.nodata, rounded).astype(self.dtype)

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """Convert what is stored to numbers: float32, NaN where it is nodata."""
        if values.dtype == np.float32:
            return values
        return np.where(values == self.nodata, np.float32(np.nan), values * np.float32(self.scale))


# --- The intermediate file: raw numbers, and a virtual raster (VRT) that describes them to GDAL.
#
# Tiles come in any order, and GDAL's COG driver copies whole rasters only. The intermediate file is no GeoTIFF: on a full disk
# libtiff fails late, or loops in a file whose directory it could not write, while Python raises at once.


_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}


def write_raw(
    path: Path, geobox: GeoBox, tiles: Iterable[tuple[Window, np.ndarray]], profile: RasterProfile
) -> tuple[list[Window], int]:
    """Write tiles as raw numbers, band after band, row after row; arguments as in :func:`write_map`.

    Returns:
        The windows in the order in which they were written, and the checksum of their values.

    Raises:
        OSError: it cannot be written.
    """
    height, width = geobox.shape
    size = np.dtype(profile.dtype).itemsize
    written, checksum = [], 0
    with open(path, "wb") as file:
        file.truncate(height * width * profile.pixel_bytes)
        for window, values in tiles:
            for band, rows in enumerate(values):
                # Rows of a window as wide as the map follow each other.
                for row, part in enumerate([rows] if window.width == width else rows):
                    file.seek(((band * height + window.row + row) * width + window.col) * size)
                    file.write(np.ascontiguousarray(part).data.cast("B"))
            written.append(window)
            checksum = zlib.crc32(np.ascontiguousarray(values).data.cast("B"), checksum)
    return written, checksum


def write_vrt(path: Path, raw: Path, geobox: GeoBox, profile: RasterProfile, tags: Mapping[str, str]) -> None:
    """Describe the file `raw` of :func:`write_raw` to GDAL, in a virtual raster beside it.

    Raises:
        OSError: it cannot be written.
    """
    assert geobox.crs is not None
    height, width = geobox.shape
    size = np.dtype(profile.dtype).itemsize
    root = Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    _add(root, "SRS", geobox.crs.to_wkt())
    _add(root, "GeoTransform", ", ".join(map(repr, geobox.affine.to_gdal())))
    _add_tags(root, {"AREA_OR_POINT": "Area", **tags})
    colors = ("Red", "Green", "Blue") if profile.light else ("Palette",) if profile.palette else ()
    for number, name in enumerate(profile.bands):
        band = SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[profile.dtype], band=str(number + 1))
        band.set("subClass", "VRTRawRasterBand")
        if number < len(profile.band_tags):
            _add_tags(band, profile.band_tags[number])
        _add(band, "Description", name)
        _add(band, "UnitType", profile.unit)
        _add(band, "NoDataValue", repr(float(profile.nodata)))
        if profile.scale != 1:
            _add(band, "Scale", repr(profile.scale))
        _add(band, "ColorInterp", colors[number] if number < len(colors) else "Gray" if number == 0 else "Undefined")
        if profile.palette:
            table = SubElement(band, "ColorTable")
            for value in range(256):
                red, green, blue = profile.palette.get(value, (0, 0, 0))
                SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
        _add(band, "SourceFilename", raw.name).set("relativetoVRT", "1")
        _add(band, "ImageOffset", str(number * height * width * size))
        _add(band, "PixelOffset", str(size))
        _add(band, "LineOffset", str(width * size))
        _add(band, "ByteOrder", "LSB" if sys.byteorder == "little" else "MSB")
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def _add(parent: Element, tag: str, text: str) -> Element:
    element = SubElement(parent, tag)
    element.text = text
    return element


def _add_tags(parent: Element, tags: Mapping[str, str]) -> None:
    element = SubElement(parent, "Metadata")
    for key, value in tags.items():
        _add(element, "MDI", value).set("key", key)


# --- The finished file.


DEFAULTS = {"BIGTIFF": "IF_SAFER", "COMPRESS": "DEFLATE", "LEVEL": "9"}

_NUMBERS = tuple(map(str, range(1, 65)))
OPTIONS = {
    "BIGTIFF": ("IF_NEEDED", "IF_SAFER", "YES"),
    "BLOCKSIZE": ("128", "256", "512", "1024", "2048", "4096"),
    "COMPRESS": ("DEFLATE", "LZMA", "LZW", "NONE", "ZSTD"),
    "GEOTIFF_VERSION": ("1.0", "1.1", "AUTO"),
    "LEVEL": _NUMBERS[:9],
    "NUM_THREADS": ("ALL_CPUS", *_NUMBERS),
    "OVERVIEWS": ("AUTO", "NONE"),
    "PREDICTOR": ("NO", "YES"),
}
"""Creation options of GDAL's COG driver that keep pixels as they are, and their values; OVERVIEW_RESAMPLING is the
profile's or NEAREST. GDAL itself only logs a misspelt option, after hours of work, and some wrong values crash the process."""

SPARE_BYTES = 16 * 2**20

CACHE_MB = 256
"""Size of GDAL's cache of the files that are being written; its default is a twentieth of the machine's memory."""


def checked_options(options: Mapping[str, str], profile: RasterProfile) -> dict[str, str]:
    """Merge the creation options for the COG driver: the user's override those of the profile and the defaults.

    Raises:
        OutputError: an option or a value that is not in :data:`OPTIONS`.
    """
    choices = OPTIONS | {"OVERVIEW_RESAMPLING": (profile.overviews, "NEAREST")}
    given = {name.upper(): str(value).upper() for name, value in options.items()}
    for name, value in given.items():
        if name not in choices:
            expected = ", ".join(sorted(choices))
            raise OutputError(f"`creation_options` {name}={value}: no such option for maps, expected one of {expected}")
        if value not in choices[name]:
            allowed = choices[name]
            values = ", ".join(allowed) if len(allowed) < 12 else f"{allowed[0]}, {allowed[1]} to {allowed[-1]}"
            raise OutputError(f"`creation_options` {name}={value}: no such value, expected one of {values}")
    return DEFAULTS | {"PREDICTOR": profile.predictor, "OVERVIEW_RESAMPLING": profile.overviews} | given


def check_disk_space(folder: Path, maps: Sequence[tuple[int, RasterProfile]]) -> None:
    """Check that the disk has room for maps and for the intermediate files.

    Uncompressed, every map needs its computed tiles (1) and the file with overviews (4/3) until all are finished, and the one
    that is being written the raw numbers (1) and overviews not yet in place (1/3). Compression only reduces this.

    Args:
        folder: where they are written.
        maps: the pixels and the profile of each.

    Raises:
        OutputError: there is not enough room.
    """
    try:
        free = free_bytes(folder)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}: choose another `output`") from error
    sizes = [pixels * profile.pixel_bytes for pixels, profile in maps]
    needed = math.ceil(sum(sizes) * 7 / 3 + max(sizes) * 4 / 3) + SPARE_BYTES
    if free < needed:
        what = f"a map of {maps[0][0]} pixels" if len(maps) == 1 else f"{len(maps)} maps of {maps[0][0]} pixels"
        raise OutputError(
            f"{folder} has {free / 1e9:.1f} GB free, {what} may need {needed / 1e9:.1f} GB while written: make room, choose"
            " another `output`, or map less with `bbox`"
        )


def write_map(
    path: Path,
    geobox: GeoBox,
    tiles: Iterable[tuple[Window, np.ndarray]],
    profile: RasterProfile,
    tags: Mapping[str, str],
    options: Mapping[str, str],
) -> None:
    """Write a map and verify it: what is read from the finished file equals what was computed, bit for bit.

    Args:
        path: of the map, in a folder of its own: temporary files are made beside it.
        geobox: of the map.
        tiles: windows of the map, which together are all of it, with their values (bands, height, width) of the profile's
            type; each is taken when the one before it has been written.
        profile: how they are stored.
        tags: for the file.
        options: checked creation options.

    Raises:
        OutputError: what was written is not what was computed.
        GDAL_ERRORS: it cannot be written.
    """
    raw, vrt = path.with_name(f"{path.stem}.raw"), path.with_name(f"{path.stem}.vrt")
    written, checksum = write_raw(raw, geobox, tiles, profile)
    write_vrt(vrt, raw, geobox, profile, tags)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB, GDAL_VRT_ENABLE_RAWRASTERBAND="YES"):
        with disk_errors():
            rasterio.shutil.copy(vrt, path, driver="COG", **options)
        raw.unlink()
        vrt.unlink()
        _check(path, geobox, profile, written, checksum)


def read_decimated(path: Path, side: int, profile: RasterProfile) -> np.ndarray:
    """Read a map from its overviews: (bands, height, width) of the profile's type, no side more than `side` pixels."""
    with rasterio.open(path) as dataset:
        scale = min(1.0, side / max(dataset.shape))
        height, width = (max(1, round(size * scale)) for size in dataset.shape)
        values: np.ndarray = dataset.read(out_shape=(dataset.count, height, width), resampling=profile.resampling)
    return values


def _check(path: Path, geobox: GeoBox, profile: RasterProfile, written: Iterable[Window], checksum: int) -> None:
    """Compare the finished file with what was computed.

    Raises:
        OutputError: they differ.
    """
    with rasterio.open(path) as dataset:
        checksum_read = 0
        for window in written:
            checksum_read = zlib.crc32(dataset.read(window=rasterio_window(window)).tobytes(), checksum_read)
        facts = {
            "size": (dataset.shape, tuple(geobox.shape)),
            "transform": (dataset.transform.almost_equals(geobox.affine), True),
            "bands": (dataset.dtypes, (profile.dtype,) * len(profile.bands)),
            "names of bands": (dataset.descriptions, profile.bands),
            "scale": (set(dataset.scales), {profile.scale}),
            "nodata value": (str(dataset.nodata), str(float(profile.nodata))),  # as text, because NaN is not NaN
            "layout": (dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"), "COG"),
            "coordinate reference system": (_same_place(dataset.crs.to_wkt(), geobox), True),
            "pixels": (checksum_read, checksum),
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
    own, stored = bounds_of(geobox), horizontal(wkt)
    if stored == geobox.crs:
        return True
    tolerance = 0.01 * min(abs(geobox.resolution.x), abs(geobox.resolution.y))
    return bool(np.allclose(bounds_in(own, stored, geobox.crs), own, rtol=0, atol=tolerance))


def rasterio_window(window: Window) -> RasterioWindow:
    return RasterioWindow(window.col, window.row, window.width, window.height)


# --- A map and its sidecar files: their names, what may be replaced, and how finished files are put in place.


MAP_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class MapFiles:
    """The paths of a map and its sidecar files."""

    tif: Path
    pam: Path
    """Class names and attribute table, or statistics, for GDAL."""
    qml: Path
    """Style, for QGIS."""
    png: Path
    """The quick-look."""

    @classmethod
    def of(cls, tif: Path) -> MapFiles:
        """The paths that belong to a GeoTIFF."""
        return cls(tif, tif.with_name(f"{tif.name}.aux.xml"), tif.with_suffix(".qml"), tif.with_suffix(".png"))

    @property
    def in_order(self) -> tuple[Path, ...]:
        """In the order in which they are put in place: the map last, so that it is never without its class names."""
        return self.pam, self.qml, self.png, self.tif

    @property
    def stale(self) -> tuple[Path, ...]:
        """Files that GDAL would read as part of the map and that can only belong to an earlier one: overviews and a mask."""
        return self.tif.with_name(f"{self.tif.name}.ovr"), self.tif.with_name(f"{self.tif.name}.msk")


def map_files(path: Path, overwrite: bool) -> MapFiles:
    """Derive and check the paths of a map that is to be written.

    Raises:
        OutputError: the name is not that of a GeoTIFF, or one of the files exists and may not be replaced.
    """
    if path.suffix.lower() not in MAP_SUFFIXES:
        raise OutputError(f"{path}: a map is a GeoTIFF, expected a name that ends in .tif: give one as `output`")
    files = MapFiles.of(path)
    for each in reversed(files.in_order):
        refuse_existing(each, overwrite)
    return files


def put_in_place(made: MapFiles, files: MapFiles) -> None:
    """Move finished files to their final names, and remove files of an earlier map that this one does not have."""
    finished = [
        (source, target) for source, target in zip(made.in_order, files.in_order, strict=True) if source.exists()
    ]
    for source, _ in finished:
        with open(source, "rb+") as handle:
            os.fsync(handle.fileno())
    for path in {*files.in_order, *files.stale} - {target for _, target in finished}:
        path.unlink(missing_ok=True)
    for source, target in finished:
        source.replace(target)


# --- Finished maps, read by those who count on them: their classes or unit, and their pixels window by window.


UNNAMED = "#9e9e9e"
"""The colour of a class for which the map has none."""


@dataclass(frozen=True, eq=False)
class FinishedMap:
    """One band of a map that was written earlier, by this program or another.

    Attributes:
        path: of the map.
        band: from 1.
        geobox: its grid, with a CRS.
        classes: by their values, as named in the file; None where the band holds numbers.
        unit: of numbers; empty where the file states none.
        nodata: the nodata value; None where there is none.
        attribution: as stated in the file; empty without any.
    """

    path: Path
    band: int
    geobox: GeoBox
    classes: Mapping[int, ClassEntry] | None
    unit: str
    nodata: float | None
    attribution: str

    def class_of(self, value: int) -> ClassEntry:
        """The class of a value; where the file does not name it, its name is the number."""
        assert self.classes is not None
        return self.classes.get(value) or ClassEntry(name=str(value), color=UNNAMED)

    def read(self, dataset: DatasetReader, window: Window) -> MaskedArray[Any, Any]:
        """Read the values of a window (height, width): classes as stored, numbers in their unit; nodata is masked."""
        values = dataset.read(self.band, window=rasterio_window(window), masked=True)
        if self.classes is not None:
            return values
        scale, offset = dataset.scales[self.band - 1], dataset.offsets[self.band - 1]
        return np.ma.masked_invalid(values.astype(np.float64) * scale + offset)


def open_finished(path: str | os.PathLike[str], band: int = 1) -> FinishedMap:
    """Read the metadata of a map; no pixel is read.

    Raises:
        MapError: it is not a raster, lacks the band or a CRS, or holds integers without classes or a unit.
        LabelError: a sidecar file that names its classes cannot be read.
    """
    path = Path(path)
    with opened(path) as dataset:
        if not 1 <= band <= dataset.count:
            raise MapError(f"{path} has no band {band}: expected `band` from 1 to {dataset.count}")
        if dataset.crs is None:
            raise MapError(f"{path} has no coordinate reference system: expected a map that predict wrote")
        crs = parse_crs(dataset.crs, f"{path}: its CRS", MapError)
        tags = dataset.tags()
        scaled = (dataset.scales[band - 1], dataset.offsets[band - 1]) != (1.0, 0.0)
        integers = np.issubdtype(np.dtype(dataset.dtypes[band - 1]), np.integer) and not scaled
        classes = _classes(path, band, tags) if integers else None
        # Where the CRS has heights, GDAL says their unit here, whatever the values are.
        heights = len(pyproj.CRS(dataset.crs).axis_info) > 2
        unit = ("" if heights else dataset.units[band - 1]) or tags.get("UNIT", "")
        if integers and classes is None and not unit:
            raise MapError(
                f"{path}: band {band} holds whole numbers and states neither classes nor a unit: expected a map that"
                " predict wrote, with its sidecar files"
            )
        return FinishedMap(
            path=path,
            band=band,
            geobox=GeoBox(dataset.shape, dataset.transform, crs),
            classes=classes,
            unit=unit,
            nodata=dataset.nodata,
            attribution=tags.get("TIFFTAG_COPYRIGHT", ""),
        )


def opened(path: Path) -> DatasetReader:
    """Open a map as a raster.

    Raises:
        MapError: that is not possible.
    """
    if not path.exists():
        raise MapError(f"{path} does not exist: expected a map (GeoTIFF) that predict wrote")
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise MapError(f"{path} cannot be read as a map: expected a GeoTIFF that predict wrote") from error


def _classes(path: Path, band: int, tags: Mapping[str, str]) -> dict[int, ClassEntry] | None:
    from lianet_user.labels.class_tables import TAG, raster_class_table  # brings pandas

    table = raster_class_table(path, band, tags)
    if table is None:
        return None
    codes: dict[int, str] = {}
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        codes = {int(entry["value"]): str(entry.get("code", "")) for entry in json.loads(tags.get(TAG, ""))}
    classes = {}
    for entry in table.entries:
        with suppress(ValueError):
            number = float(entry.label)
            if math.isfinite(number) and number.is_integer():
                value = int(number)
                classes[value] = ClassEntry(
                    name=entry.name[:128], color=entry.color or UNNAMED, code=codes.get(value, "")
                )
    return classes or None
