"""The safetensors container, read strictly and written in one go. No torch here.

A container is 8 bytes of header length, a JSON header that places every tensor, and the tensors. The reader checks the
whole header against the file's size before a tensor is touched, and reads with plain reads: a mapped file that shrinks
under its reader ends the process.

The JSON and TOML documents that come with such files are parsed here too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from lianet_user.errors import ArtifactError, InputError, brief
from lianet_user.field.config import Schema

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 2**16
DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
}

Tensors = Mapping[str, np.ndarray]
Place = Annotated[int, Field(ge=0, lt=2**63)]


class TensorEntry(Schema):
    """Where a tensor lies, in bytes after the header, and what it is."""

    dtype: Literal["F16", "F32", "I64", "I8"]
    shape: tuple[Place, ...] = Field(strict=False, max_length=8)
    data_offsets: tuple[Place, Place] = Field(strict=False)


class _Identity(NamedTuple):
    """What distinguishes a file from another of the same name, and from itself after a change."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, file: FileIO) -> _Identity:
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Container:
    """A container whose header was checked; tensors are read when asked for.

    Attributes:
        path: of the file.
        metadata: texts by name.
        entries: of the tensors, by name.
        data_start: byte at which the tensors begin.
    """

    path: Path
    metadata: dict[str, str]
    entries: dict[str, TensorEntry]
    data_start: int
    _identity: _Identity

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        return {name: DTYPES[entry.dtype] for name, entry in self.entries.items()}

    @property
    def size_bytes(self) -> int:
        return self._identity.size

    def tensors(self) -> dict[str, np.ndarray]:
        """All tensors, as stored.

        Raises:
            ArtifactError: the file is another than the one whose header was read, or holds a value that is not finite.
        """
        result = {}
        with self._same_file() as file:
            for name, entry in self.entries.items():
                start, end = entry.data_offsets
                data = _read_exactly(file, self.data_start + start, end - start, self.path)
                array = np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)
                if not np.isfinite(array).all():
                    raise ArtifactError(
                        f"{self.path}: tensor {brief(name)!r} holds NaN or infinity: get the file again"
                    )
                result[name] = array
        return result

    def sha256(self) -> str:
        """SHA-256 of the file's bytes, which ties a head to its region.

        Raises:
            ArtifactError: as in `tensors`.
        """
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        with self._same_file() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def _same_file(self) -> Iterator[FileIO]:
        """The file once more, which has to be the one whose header was read, from the first byte to the last."""
        with _opened(self.path) as file:
            before = _Identity.of(file)
            if before == self._identity:
                yield file
            if before != self._identity or _Identity.of(file) != self._identity:
                raise ArtifactError(
                    f"{self.path} was replaced or rewritten while it was read: run the command again once it stays as it is"
                )


def open_container(path: Path, kind: str) -> Container:
    """Read and check the header of a container.

    Args:
        path: of the file.
        kind: what it should be, for messages.

    Raises:
        ArtifactError: it cannot be read, is something else, or its header does not fit its size.
    """
    with _opened(path) as file:
        identity = _Identity.of(file)
        size = identity.size
        if size < 8:
            raise ArtifactError(
                f"{path} is {size} bytes long and no {kind} file: it is empty or was cut off: get it again"
            )
        start = bytes(_read_exactly(file, 0, 8, path))
        length = int.from_bytes(start, "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ArtifactError(f"{path} is not a {kind} file (safetensors expected): {_looks_like(start)}")
        if 8 + length > size:
            raise ArtifactError(
                f"{path} was cut off: its header needs {8 + length} bytes, the file has {size}: get it again"
            )
        raw = _read_exactly(file, 8, length, path)
    document = parse_json(raw, path, kind)
    metadata = document.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        metadata = {}
    return Container(path, metadata, _check_entries(document, size - 8 - length, path), 8 + length, identity)


def write_container(file: BinaryIO, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a container, as the safetensors library would: wide numbers first, so that each lies at a multiple of its size.

    Args:
        file: opened for writing.
        tensors: of the dtypes in DTYPES.
        metadata: texts by name.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    arrays = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, array in arrays:
        end = position + array.nbytes
        document[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": (position, end)}
        position = end
    raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    file.write(len(raw).to_bytes(8, "little") + raw)
    for _, array in arrays:
        # Not np.ascontiguousarray, which gives a scalar an axis; nor tobytes, which copies.
        file.write(np.asarray(array, order="C").reshape(-1).data.cast("B") if array.size else b"")


def parse_json(raw: bytes | bytearray, path: Path, kind: str) -> dict[str, Any]:
    """Parse a JSON object in which no key appears twice.

    Raises:
        ArtifactError: it is not one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not a {kind} file: its header is not valid JSON ({brief(str(error), 200)}): get it again"
        ) from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path} is not a {kind} file: its header is not a JSON object: get it again")
    return document


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a document, and where."""
    problems = error.errors(include_input=False, include_url=False)
    # For a union every type reports why it does not match; the message of a check of ours is the most useful.
    first = min(problems, key=lambda problem: problem["type"] != "value_error")
    where = ".".join(brief(str(part), 60) for part in first["loc"]) or "header"
    return brief(f"{where}: {first['msg']}", 400)


def _check_entries(document: dict[str, Any], data_size: int, path: Path) -> dict[str, TensorEntry]:
    """Every tensor's bytes lie inside the file, one after the other, without gap, overlap or rest."""
    if len(document) > MAX_TENSORS:
        raise ArtifactError(
            f"{path} describes {len(document)} tensors, more than the {MAX_TENSORS} that any such file has: get it again"
        )
    entries = {}
    for name, value in document.items():
        try:
            entries[name] = TensorEntry.model_validate(value)
        except ValidationError as error:
            raise ArtifactError(
                f"{path}: tensor {brief(name)!r} is described wrongly: {error.errors()[0]['msg']}: get the file again"
            ) from error
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, end = entry.data_offsets
        expected = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if start != position or end - start != expected:
            raise ArtifactError(
                f"{path}: tensor {brief(name)!r} claims bytes {start} to {end}, expected {position} to"
                f" {position + expected}: get the file again"
            )
        position = end
    if position > data_size:
        raise ArtifactError(f"{path} was cut off: {position - data_size} bytes are missing: get it again")
    if position < data_size:
        raise ArtifactError(f"{path} has {data_size - position} bytes after its last tensor: get it again")
    return entries


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "it is a zip archive or a PyTorch checkpoint"),
    (b"\x1f\x8b", "it is a gzip archive"),
    (b"7z\xbc\xaf", "it is a 7-Zip archive"),
    (b"Rar!", "it is a RAR archive"),
    (b"\xfd7zXZ", "it is an xz archive"),
    (b"BZh", "it is a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "it is a Zstandard archive"),
    (b"II*\x00", "it is a TIFF image"),
    (b"MM\x00*", "it is a TIFF image"),
    (b"II+\x00", "it is a TIFF image"),
    (b"MM\x00+", "it is a TIFF image"),
    (b"\x89PNG", "it is a PNG image"),
    (b"SQLi", "it is a GeoPackage or another SQLite database"),
    (b"\x89HDF", "it is an HDF5 or NetCDF file"),
    (b"CDF", "it is a NetCDF file"),
    (b"\x7fELF", "it is a program"),
    (b"<!DO", "it is a web page, perhaps one that a download link led to"),
    (b"<htm", "it is a web page, perhaps one that a download link led to"),
    (b"version ", "it is a pointer of Git LFS, not the file: fetch it with `git lfs pull`"),
)


def _looks_like(start: bytes) -> str:
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it is a Python pickle, which this program never loads"
    for signature, what in _SIGNATURES:
        if start.startswith(signature):
            return what
    return "its first bytes make no sense as a header length"


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    try:
        # Asked before opening: a named pipe would wait for a writer.
        regular = stat.S_ISREG(path.stat().st_mode)
        file = FileIO(path) if regular else None
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror or error}: give the name of a file that is there"
        ) from error
    except ValueError as error:  # of a name with a zero byte in it
        raise ArtifactError(f"cannot read {path}: its name is not valid ({error}): give another") from error
    if file is None:
        raise ArtifactError(f"cannot read {path}: it is not a regular file: give the name of a file")
    with file:
        try:
            yield file
        except OSError as error:
            raise ArtifactError(
                f"cannot read {path}: {error.strerror or error}: copy it to another disk, or get it again"
            ) from error


def _read_exactly(file: FileIO, offset: int, size: int, path: Path) -> bytearray:
    data = bytearray(size)
    view, position = memoryview(data), 0
    read: Callable[[memoryview], int | None] = file.readinto
    file.seek(offset)
    while position < size:
        count = read(view[position : position + 2**26])
        if not count:
            raise ArtifactError(
                f"{path} ended {size - position} bytes early: it was cut off, or changed while reading: get it again"
            )
        position += count
    return data


# --- TOML files, which people write by hand.


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
