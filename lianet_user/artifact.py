"""Region and head files: safetensors with one typed JSON header, read strictly and written atomically. No torch here.

A file is the safetensors container (8 bytes of header length, a JSON header, the tensors) whose metadata has one entry,
``lianet``: a JSON document validated by :class:`RegionHeader` or :class:`HeadHeader`. Nothing is ever unpickled and
nothing a file names is ever imported.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

import numpy as np
import safetensors.numpy
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pydantic import Field, ValidationError, model_validator
from pyproj.exceptions import CRSError

from lianet_user.errors import ArtifactError, DateError, OutputError
from lianet_user.field.config import FieldConfig, Schema

FORMAT_VERSION: Final = 1
METADATA_KEY = "lianet"
IGNORE = 255
"""The value of a pixel that bears no class, in label maps and in class maps: 0 is a class, never nothing."""
MAX_HEADER_BYTES = 32 * 2**20
DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I64": np.dtype("<i8")}

Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=20_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Date = Annotated[dt.date, Field(strict=False)]
Setting = bool | int | float | str | None


class GridHeader(Schema):
    """Where the pixels lie."""

    crs_wkt: Annotated[str, Field(min_length=1, max_length=20_000)]
    transform: Annotated[tuple[float, float, float, float, float, float], Field(strict=False)]
    """The affine a, b, c, d, e, f: x = a * col + b * row + c, y = d * col + e * row + f."""
    width: Annotated[int, Field(ge=1, le=2**24)]
    height: Annotated[int, Field(ge=1, le=2**24)]

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if Affine(*self.transform).is_degenerate:
            raise ValueError("transform cannot be inverted")
        try:
            CRS(self.crs_wkt)
        except CRSError as error:
            raise ValueError("crs_wkt is no coordinate reference system") from error
        return self

    @classmethod
    def of(cls, geobox: GeoBox) -> Self:
        height, width = geobox.shape
        crs = geobox.crs
        assert crs is not None
        transform = tuple(float(value) for value in tuple(geobox.affine)[:6])
        return cls(crs_wkt=crs.to_wkt(), transform=transform, width=width, height=height)  # type: ignore[arg-type]

    @property
    def geobox(self) -> GeoBox:
        return GeoBox((self.height, self.width), Affine(*self.transform), self.crs_wkt)


class Band(Schema):
    """One band of the imagery: reflectance = (digital number - offset) / scale."""

    name: Name
    wavelength_nm: float | None = None
    gsd_m: Annotated[float, Field(gt=0)]
    """Ground sampling distance at which the band was measured."""
    offset: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 10_000.0


class Acquisition(Schema):
    """One date the region holds."""

    date: Date
    id: Text = ""


class BandQuality(Schema):
    """How well one band of one acquisition is remembered: valid pixels at the band's own resolution."""

    band: Name
    psnr_db: float
    """Peak = reflectance 1.0."""
    rmse: float
    """In reflectance."""
    rmse_over_std: float
    ssim: float


class Quality(Schema):
    """Fidelity of one acquisition."""

    date: Date
    psnr_db: float
    """From the mean over the bands of their mean squared errors."""
    bands: tuple[BandQuality, ...] = Field(strict=False)


class Provenance(Schema):
    """How a file came to be."""

    created: Annotated[dt.datetime, Field(strict=False)]
    source: Text
    """The imagery or labels, in words or product identifiers."""
    settings: dict[Name, Setting]
    software: dict[Name, Name]
    seconds: float | None = None


class RegionHeader(Schema):
    """The header of a region file: a field tied to the Earth."""

    format: Literal["lianet-region"] = "lianet-region"
    format_version: Literal[1] = FORMAT_VERSION
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    title: Text
    description: Text = ""
    grid: GridHeader
    bands: tuple[Band, ...] = Field(strict=False, min_length=1)
    acquisitions: tuple[Acquisition, ...] = Field(strict=False, min_length=1)
    field: FieldConfig
    quality: tuple[Quality, ...] = Field(strict=False, default=())
    licence: Text
    attribution: Text
    provenance: Provenance
    lineage: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """Drawn when a region is first encoded; an update keeps it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.field.bands != len(self.bands):
            raise ValueError(f"field has {self.field.bands} bands, header names {len(self.bands)}")
        if self.field.time.count != len(self.acquisitions):
            raise ValueError(f"field has {self.field.time.count} dates, header names {len(self.acquisitions)}")
        for what, names in (("date", self.dates), ("band", [band.name for band in self.bands])):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} appears twice")
        rows, cols = self.field.encoding.shape
        stride = self.field.decoder.stride
        if not (0 <= rows - self.grid.height < stride and 0 <= cols - self.grid.width < stride):
            raise ValueError(f"field encodes {rows} x {cols} px, grid is {self.grid.height} x {self.grid.width} px")
        return self

    @property
    def dates(self) -> tuple[dt.date, ...]:
        return tuple(acquisition.date for acquisition in self.acquisitions)

    def date_index(self, date: dt.date | None) -> int:
        """Index of the acquisition of a date; with None, of the only one there is.

        Raises:
            DateError: the region does not hold that date, or holds several and none was given.
        """
        if date is None:
            if len(self.acquisitions) == 1:
                return 0
            raise DateError(
                f"region {self.name!r} holds {len(self.dates)} dates ({self.dates[0]} to {self.dates[-1]})"
                " and none was chosen: give one with --date"
            )
        if date in self.dates:
            return self.dates.index(date)
        nearest = sorted(self.dates, key=lambda held: abs(held - date))[:3]
        raise DateError(
            f"region {self.name!r} does not hold {date}: the nearest dates it holds are"
            f" {', '.join(map(str, sorted(nearest)))}"
        )


class ClassEntry(Schema):
    """One class of a segmentation: its value in maps is its index in the head's list."""

    name: Name
    color: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    code: Annotated[str, Field(max_length=128)] = ""
    """What the labels called it, where that is not its name."""


HeadInput = Literal["features", "bands", "context"]


class HeadConfig(Schema):
    """The six trainable layers: their widths and what they read (paper, section 3.4)."""

    inputs: Annotated[tuple[HeadInput, ...], Field(strict=False, min_length=1, max_length=3)]
    in_channels: Annotated[int, Field(ge=1, le=8192)]
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(strict=False, min_length=1, max_length=16)
    """Channels after each hidden 3x3 convolution (the paper: 128, 128, 64, 64, 32)."""
    outputs: Annotated[int, Field(ge=1, le=255)]
    norm: Literal["group", "batch"]
    members: Annotated[int, Field(ge=1, le=64)] = 1
    """Heads trained from different seeds whose probabilities are averaged."""


class RegionRef(Schema):
    """The region a head belongs to: the one file whose bytes have this hash."""

    name: Name
    lineage: str
    sha256: Sha256
    path: Annotated[str, Field(max_length=4096)]
    """Where it lay when the head was trained: absolute."""


class ClassScore(Schema):
    """Validation figures of one class; None where the class has no validation pixels."""

    name: Name
    pixels: int
    iou: float | None
    accuracy: float | None
    """Share of the class's reference pixels that were found (recall, producer's accuracy)."""
    f1: float | None


class Scores(Schema):
    """Validation figures over blocks that were not trained on."""

    pixels: int
    accuracy: float | None
    macro_iou: float | None
    macro_f1: float | None
    classes: tuple[ClassScore, ...] = Field(strict=False)
    confusion: tuple[tuple[int, ...], ...] = Field(strict=False)
    """Rows reference, columns predicted."""


class HeadHeader(Schema):
    """The header of a head file: six layers tied to one region."""

    format: Literal["lianet-head"] = "lianet-head"
    format_version: Literal[1] = FORMAT_VERSION
    task: Literal["segmentation"]
    classes: tuple[ClassEntry, ...] = Field(strict=False, min_length=2, max_length=254)
    head: HeadConfig
    region: RegionRef
    dates: tuple[Date, ...] = Field(strict=False, min_length=1)
    """Acquisitions the labels described."""
    scores: Scores | None
    provenance: Provenance
    attribution: Text
    """Of the region and of the labels."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.head.outputs != len(self.classes):
            raise ValueError(f"head has {self.head.outputs} outputs, header names {len(self.classes)} classes")
        return self


Tensors = Mapping[str, np.ndarray]
Header = RegionHeader | HeadHeader
H = TypeVar("H", RegionHeader, HeadHeader)


class _TensorEntry(Schema):
    dtype: Literal["F16", "F32", "I64"]
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(strict=False, max_length=8)
    data_offsets: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = Field(strict=False)


class ArtifactFile(Generic[H]):
    """A validated file: its header is read and checked at once, tensors only when asked for."""

    def __init__(self, path: Path, header: H, entries: dict[str, _TensorEntry], data_start: int) -> None:
        self.path = path
        self.header: H = header
        self._entries = entries
        self._data_start = data_start

    @property
    def parameters(self) -> int:
        """Numbers stored in the file's tensors."""
        return sum(math.prod(entry.shape) for entry in self._entries.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self._entries.items()}

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def tensors(self) -> dict[str, np.ndarray]:
        """All tensors, as stored.

        Raises:
            ArtifactError: the file changed under us or holds a value that is not finite.
        """
        result = {}
        with _opened(self.path) as file:
            for name, entry in self._entries.items():
                start, end = entry.data_offsets
                data = _read_exactly(file, self._data_start + start, end - start, self.path)
                array = np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)
                if not np.isfinite(array).all():
                    raise ArtifactError(f"{self.path}: tensor {name!r} holds NaN or infinity: get the file again")
                result[name] = array
        return result

    def sha256(self) -> str:
        """Of the file's bytes: what a head is tied to."""
        with _opened(self.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_region_file(path: str | os.PathLike[str]) -> ArtifactFile[RegionHeader]:
    """Read and check the header of a region file.

    Raises:
        ArtifactError: it cannot be read or is not a region file this version understands.
    """
    return _open(Path(path), RegionHeader, "region")


def open_head_file(path: str | os.PathLike[str]) -> ArtifactFile[HeadHeader]:
    """Read and check the header of a head file.

    Raises:
        ArtifactError: it cannot be read or is not a head file this version understands.
    """
    return _open(Path(path), HeadHeader, "head")


def write_artifact(path: str | os.PathLike[str], header: Header, tensors: Tensors) -> None:
    """Write a region or head file whole or not at all.

    Raises:
        OutputError: the folder does not exist or cannot be written.
        ValueError: a tensor that could not be read back: of another dtype than DTYPES, or not finite.
    """
    # Not np.ascontiguousarray, which gives a scalar an axis.
    stored = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in stored.items():
        if array.dtype not in DTYPES.values() or not np.isfinite(array).all():
            raise ValueError(f"tensor {name!r} ({array.dtype}) is not stored: expected finite {', '.join(DTYPES)}")
    blob = safetensors.numpy.save(stored, metadata={METADATA_KEY: header.model_dump_json()})
    with replacing(path) as temporary:
        temporary.write_bytes(blob)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name, flushed to disk, when the block ends without an error.

    Raises:
        OutputError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    try:
        fd, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=f".partial{target.suffix}", dir=target.parent)
        os.close(fd)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {_reason(error)}: choose another place with -o") from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """
    Raises:
        OutputError: `path` exists and may not be replaced, or its folder does not exist.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file with -o")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another name with -o, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise OutputError(
            f"the folder {path.absolute().parent} does not exist: make it first, or choose another with -o"
        )


def software_versions(*packages: str) -> dict[str, str]:
    """Installed versions of this package and of `packages`, for provenance."""
    from importlib.metadata import version

    return {package: version(package) for package in ("lianet-user", *packages)}


def _open(path: Path, schema: type[H], kind: str) -> ArtifactFile[H]:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise ArtifactError(f"{path} is {size} bytes long and no {kind} file: it is empty or was cut off")
        start = bytes(_read_exactly(file, 0, 8, path))
        length = int.from_bytes(start, "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ArtifactError(f"{path} is not a {kind} file (safetensors expected): {_looks_like(start)}")
        if 8 + length > size:
            raise ArtifactError(
                f"{path} was cut off: its header needs {8 + length} bytes, the file has {size}: get it again"
            )
        raw = _read_exactly(file, 8, length, path)
    container = _parse_json(raw, path, kind)
    metadata = container.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(METADATA_KEY), str):
        raise ArtifactError(
            f"{path} is a safetensors file but not a LIANet {kind} file (no {METADATA_KEY!r} entry in its metadata)"
        )
    entries = _check_entries(container, size - 8 - length, path)
    document = _parse_json(metadata[METADATA_KEY].encode("utf-8", "surrogatepass"), path, kind)
    expected = f"lianet-{kind}"
    if document.get("format") != expected:
        raise ArtifactError(f"{path} is a {document.get('format')!r} file, expected a {expected!r} file")
    if document.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {document.get('format_version')!r}, this program reads {FORMAT_VERSION}:"
            " update lianet-user"
        )
    try:
        header = schema.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise ArtifactError(f"{path} has a header that is not valid: {where}: {first['msg']}") from error
    return ArtifactFile(path, header, entries, 8 + length)


def _check_entries(container: dict[str, Any], data_size: int, path: Path) -> dict[str, _TensorEntry]:
    """Every tensor's bytes lie inside the file, one after the other, without gap, overlap or rest."""
    entries = {}
    for name, value in container.items():
        try:
            entries[name] = _TensorEntry.model_validate(value)
        except ValidationError as error:
            raise ArtifactError(f"{path}: tensor {name!r} is described wrongly: {error.errors()[0]['msg']}") from error
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, end = entry.data_offsets
        expected = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if start != position or end - start != expected:
            raise ArtifactError(
                f"{path}: tensor {name!r} claims bytes {start} to {end}, expected {position} to {position + expected}"
            )
        position = end
    if position > data_size:
        raise ArtifactError(f"{path} was cut off: {position - data_size} bytes are missing: get it again")
    if position < data_size:
        raise ArtifactError(f"{path} has {data_size - position} bytes after its last tensor: get it again")
    return entries


def _parse_json(raw: bytes | bytearray, path: Path, kind: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key appears twice")
        return dict(pairs)

    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a {kind} file: its header is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} is not a {kind} file: its header is no JSON object")
    return document


def _looks_like(start: bytes) -> str:
    signatures: dict[bytes, str] = {
        b"PK\x03\x04": "it is a zip archive or a PyTorch checkpoint",
        b"II*\x00": "it is a TIFF image",
        b"MM\x00*": "it is a TIFF image",
        b"II+\x00": "it is a TIFF image",
        b"MM\x00+": "it is a TIFF image",
        b"SQLi": "it is a GeoPackage or another SQLite database",
        b"\x89HDF": "it is an HDF5 or NetCDF file",
    }
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it is a Python pickle, which this program never loads"
    return signatures.get(start[:4], "its first bytes make no sense as a header length")


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    try:
        # Asked before opening: a named pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ArtifactError(f"cannot read {path}: it is not a regular file")
        file = FileIO(path)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {_reason(error)}") from error
    with file:
        yield file


def _read_exactly(file: FileIO, offset: int, size: int, path: Path) -> bytearray:
    # Read, not mapped: a file that shrinks while we read is an error message and not a crash.
    data = bytearray(size)
    view, position = memoryview(data), 0
    file.seek(offset)
    while position < size:
        count = file.readinto(view[position : position + 2**26])
        if not count:
            raise ArtifactError(f"{path} ended {size - position} bytes early: it was cut off, or changed while reading")
        position += count
    return data


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
