"""The format of a file, by its content: vector, raster, table, or something that holds no labels by itself.

The ending decides nothing, but one that contradicts the content is an error: something went wrong when the file was
saved, downloaded or named. Files that only point to others (VRT, services, pipelines) are refused: reading labels must
not open other files or servers.
"""

from __future__ import annotations

import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from lianet_user.errors import LabelError, listed

HEAD_BYTES = 4096


@dataclass(frozen=True)
class Format:
    """A format of files, as far as reading labels has to tell it from others."""

    kind: Literal["vector", "raster", "table", "parquet", "zip", "unknown"]
    words: str
    """Its name with the article, for messages."""


GEOPACKAGE = Format("vector", "a GeoPackage")
SQLITE = Format("vector", "an SQLite database")
SHAPEFILE = Format("vector", "a shapefile")
FLATGEOBUF = Format("vector", "a FlatGeobuf file")
GEODATABASE = Format("vector", "a file geodatabase")
JSON = Format("vector", "GeoJSON or other JSON")
XML = Format("vector", "XML")
TEXT = Format("table", "plain text")
PARQUET = Format("parquet", "a Parquet file")
ZIP = Format("zip", "a zip archive")
TIFF = Format("raster", "a TIFF image")
PNG = Format("raster", "a PNG image")
JPEG = Format("raster", "a JPEG image")
JPEG2000 = Format("raster", "a JPEG 2000 image")
NETCDF = Format("raster", "a NetCDF or HDF5 file")
GRID = Format("raster", "an Esri ASCII grid")
RASTER = Format("raster", "a raster")
UNKNOWN = Format("unknown", "nothing that is known here")

SIGNATURES = {
    b"SQLite format 3\0": SQLITE,
    b"\0\0\x27\x0a": SHAPEFILE,
    b"fgb\x03fgb": FLATGEOBUF,
    b"PAR1": PARQUET,
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TIFF),
    b"\x89PNG\r\n": PNG,
    b"\xff\xd8\xff": JPEG,
    **dict.fromkeys((b"\0\0\0\x0cjP  ", b"\xffO\xffQ"), JPEG2000),
    **dict.fromkeys((b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n"), NETCDF),
    **dict.fromkeys((b"EHFA_HEADER_TAG", b"PCIDSK  ", b"GIF8"), RASTER),
}

ENDINGS = {
    ".gpkg": (GEOPACKAGE,),
    ".shp": (SHAPEFILE,),
    ".fgb": (FLATGEOBUF,),
    **dict.fromkeys((".parquet", ".geoparquet"), (PARQUET,)),
    **dict.fromkeys((".json", ".geojson"), (JSON,)),
    **dict.fromkeys((".kml", ".gml", ".gpx"), (XML,)),
    **dict.fromkeys((".csv", ".tsv", ".txt"), (TEXT, GRID)),
    **dict.fromkeys((".zip", ".shz", ".kmz"), (ZIP,)),
    **dict.fromkeys((".tif", ".tiff"), (TIFF,)),
    ".png": (PNG,),
    **dict.fromkeys((".jpg", ".jpeg"), (JPEG,)),
    ".jp2": (JPEG2000,),
    **dict.fromkeys((".nc", ".h5"), (NETCDF,)),
}

ARCHIVE = "is a compressed archive: unpack it and give what is inside"
SPREADSHEET = "is a spreadsheet or a document: save the table as CSV"
SERVER = "only points to a server: save the layer as a file"

USELESS = {
    **dict.fromkeys((b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ"), ARCHIVE),
    b"\xd0\xcf\x11\xe0": SPREADSHEET,
    b"%PDF": "is a PDF: give the data that it was drawn from",
}
"""By the first bytes: files that cannot hold labels, and what to do instead."""

POINTERS = {
    rb"<(ogr)?vrt(dataset|datasource)": "is a VRT, and a VRT only points to other files: give the file itself",
    rb'"gdal_streamed_alg"': "is a GDAL pipeline, which only points to other files: give the file that it makes",
    rb'"stac_version"': "is a STAC document, which only points to other files: give the file itself",
    rb"<(ogr(wfs|csw)datasource|gdal_w|wcs_gdal|tilemap|(\w+:)?\w*capabilities)": SERVER,
    rb'"tilejson"': SERVER,
    rb"^\s*(<\?xml[^>]*>\s*)?<(!doctype html|html)": "is a web page and not the file itself: download it again",
    rb"^\s*(<\?xml[^>]*>\s*)?<(!doctype qgis|qgis)": "is a QGIS style or project: give the file of the layer",
}
"""By a pattern in the first bytes of a text, in lower case: files that only point to others."""

COMPANIONS = (".dbf", ".shx", ".prj", ".cpg", ".sbn", ".sbx", ".qix")
ZIPPED = (".gpkg", ".fgb", ".geojson", ".json", ".kml", ".gml")
"""Endings of what is looked for in a zip, besides shapefiles and geodatabases."""


def find_format(path: Path) -> Format:
    """Find the format of a file by its content.

    Raises:
        LabelError: the file is missing, empty, cut off, is not what its ending says, or holds no labels by itself.
    """
    if not path.exists():
        raise LabelError(f"{path} does not exist: expected a file with labels, for instance a GeoPackage")
    if path.is_dir():
        if any(path.glob("*.gdbtable")):
            return GEODATABASE
        raise LabelError(f"{path} is a folder and not a file geodatabase (.gdb): give the file with the labels in it")
    if not path.is_file():
        raise LabelError(f"{path} is not a regular file: expected a file with labels, for instance a GeoPackage")
    suffix = path.suffix.lower()
    if suffix in COMPANIONS:
        raise LabelError(f"{path} is only a part of a shapefile: give the .shp, with all other parts beside it")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise LabelError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if not head:
        raise LabelError(f"{path} is empty (0 bytes): save or download it again")
    content = _by_content(head, str(path))
    if content is ZIP:
        _check_no_spreadsheet(path)
    expected = ENDINGS.get(suffix, (content,))
    if content not in expected:
        raise LabelError(
            f"{path} is called {suffix} but looks like {content.words}: expected {expected[0].words};"
            " correct its ending, or save or download it again"
        )
    if content is SHAPEFILE:
        _check_shapefile(path, head)
    # Raw rasters (ENVI, BIL) have no signature, only a header beside them.
    return RASTER if content is UNKNOWN and path.with_suffix(".hdr").exists() else content


def is_raster(path: Path) -> bool:
    """Whether the file is a raster, by its content; a GeoPackage counts as vector.

    Raises:
        LabelError: the format cannot be told, as in :func:`find_format`.
    """
    return find_format(path).kind == "raster"


def vector_location(path: Path) -> str:
    """The name by which GDAL opens a vector file: an absolute path, and for a zip the part inside it.

    Raises:
        LabelError: a zip holds no vector file or several, or is damaged or encrypted.
    """
    location = str(path.resolve())
    if "!" in location:
        raise LabelError(f"{path}: GDAL cannot open a path with an exclamation mark: rename the file or folder")
    if find_format(path) is not ZIP or path.suffix.lower() == ".kmz":
        return location
    inside = _inside_zip(path)
    # Braces end the archive's name, which need not end in .zip then.
    return f"/vsizip/{{{location}}}" + (f"/{inside}" if inside != "." else "")


def _by_content(head: bytes, where: str) -> Format:
    for mark, reason in USELESS.items():
        if head.startswith(mark):
            raise LabelError(f"{where} {reason}")
    for mark, content in SIGNATURES.items():
        if head.startswith(mark):
            return GEOPACKAGE if content is SQLITE and head[68:72] in (b"GPKG", b"GP10", b"GP11") else content
    text = head.lower().removeprefix(b"\xef\xbb\xbf")
    for pattern, reason in POINTERS.items():
        if re.search(pattern, text):
            raise LabelError(f"{where} {reason}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return TEXT
    text = text.lstrip()
    if text.startswith(b"<"):
        return XML
    if text.startswith((b"{", b"[")):
        return JSON
    if re.match(rb"ncols\s+\d+\s+nrows\s", text):
        return GRID
    return UNKNOWN if b"\0" in head else TEXT


def _check_shapefile(path: Path, head: bytes) -> None:
    size = path.stat().st_size
    (words,) = struct.unpack_from(">i", head.ljust(28, b"\0"), 24)
    if size < max(100, 2 * words):
        raise LabelError(
            f"{path} is cut off: it has {size} bytes and should have {max(100, 2 * words)}; copy or download it again"
        )
    beside = {entry.suffix.lower() for entry in path.parent.iterdir() if entry.stem == path.stem}
    if ".shx" not in beside:
        raise LabelError(f"{path}: its .shx file is missing: copy all parts of the shapefile (.shp, .shx, .dbf, .prj)")


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise LabelError(f"{path} is a damaged zip archive ({error}): download it again") from error
    hidden = (".", "__MACOSX")
    return [
        member
        for member in members
        if not member.is_dir() and not any(part.startswith(hidden) for part in PurePosixPath(member.filename).parts)
    ]


def _check_no_spreadsheet(path: Path) -> None:
    names = {member.filename for member in _members(path)}
    if names & {"xl/workbook.xml", "word/document.xml", "content.xml"}:
        raise LabelError(f"{path} {SPREADSHEET}")
    if any(name.endswith(".qgs") for name in names):
        raise LabelError(f"{path} is a QGIS project: give the file of the layer")


def _inside_zip(path: Path) -> str:
    """The one vector file, folder of shapefiles, or geodatabase in a zip."""
    members = _members(path)
    if any(member.flag_bits & 1 for member in members):
        raise LabelError(f"{path} is encrypted: unpack it and give what is inside")
    names = [PurePosixPath(member.filename) for member in members]
    shapefiles = [name for name in names if name.suffix.lower() == ".shp"]
    folders = {str(name.parent) for name in shapefiles}
    candidates = {str(name.parent) for name in names if name.suffix.lower() == ".gdbtable"}
    candidates |= {str(name) for name in names if name.suffix.lower() in ZIPPED}
    # A folder has its shapefiles as layers.
    candidates |= {str(shapefiles[0])} if len(shapefiles) == 1 else folders
    if len(candidates) != 1:
        what = f"{len(candidates)} vector files" if candidates else "no vector file"
        shown = listed(sorted(candidates) or sorted(map(str, names)), 5)
        raise LabelError(f"{path} is a zip with {what} in it ({shown}): unpack it and give the file with the labels")
    inside = candidates.pop()
    if PurePosixPath(inside) in names:
        with zipfile.ZipFile(path) as archive, archive.open(inside) as file:
            _by_content(file.read(HEAD_BYTES), f"{path}: {inside}")
    return inside
