"""Region and head files: safetensors with one typed JSON header, read strictly and written atomically. No torch here.

A file is the safetensors container (8 bytes of header length, a JSON header, the tensors) whose metadata has one entry,
``lianet``: a JSON document validated by :class:`RegionHeader` or :class:`HeadHeader`. Nothing is ever unpickled and
nothing a file names is ever imported.
"""

from __future__ import annotations

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
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
import safetensors.numpy
from pydantic import Field, ValidationError

from lianet_user.errors import ArtifactError, OutputError
from lianet_user.field.config import Schema
from lianet_user.header import FORMAT_VERSION, Header, HeadHeader, RegionHeader

METADATA_KEY = "lianet"
MAX_HEADER_BYTES = 32 * 2**20
DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
}

Tensors = Mapping[str, np.ndarray]
H = TypeVar("H", RegionHeader, HeadHeader)


class _TensorEntry(Schema):
    dtype: Literal["F16", "F32", "I64", "I8"]
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
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        return {name: DTYPES[entry.dtype] for name, entry in self._entries.items()}

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


def declared_kind(path: Path) -> Literal["region", "head"] | None:
    """What a file says it is, unchecked: enough to choose how to open it. None where it says neither, or cannot be read."""
    kinds: dict[object, Literal["region", "head"]] = {"lianet-region": "region", "lianet-head": "head"}
    try:
        with _opened(path) as file:
            length = int.from_bytes(_read_exactly(file, 0, 8, path), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                return None
            container = _parse_json(_read_exactly(file, 8, length, path), path, "region")
        document = _parse_json(container["__metadata__"][METADATA_KEY].encode(), path, "region")
        return kinds.get(document.get("format"))
    except (ArtifactError, AttributeError, KeyError, TypeError, UnicodeError):
        return None


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
