"""Region and head files: a safetensors container with one typed JSON header, read strictly, written atomically. No torch.

Also here: writing any file whole or not at all, and the quantised tables of a region file (a codebook and one byte a
number).

The container's metadata has one entry, ``lianet``: a JSON document validated by :class:`RegionHeader` or
:class:`HeadHeader`. Nothing is ever unpickled and nothing a file names is ever imported.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from lianet_user.errors import ArtifactError, OutputError, brief, write_error
from lianet_user.files.container import (
    DTYPES,
    Container,
    Tensors,
    first_problem,
    open_container,
    parse_json,
    write_container,
)
from lianet_user.files.header import FORMAT_VERSION, Header, HeadHeader, RegionHeader

METADATA_KEY = "lianet"
NAMES_BESIDE = 32
"""Bytes by which the names of files that are made beside an output may exceed its own (``.last-good``, ``.checkpoint``)."""

H = TypeVar("H", RegionHeader, HeadHeader)


@dataclass(frozen=True, eq=False)
class ArtifactFile(Container, Generic[H]):
    """A validated file: its header is read and checked at once, tensors only when asked for."""

    header: H

    @property
    def parameters(self) -> int:
        """How many numbers the file's tensors hold."""
        return sum(math.prod(shape) for shape in self.shapes.values())


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


def region_beside(header: HeadHeader, head_path: Path) -> Path | None:
    """The region file of a head: where it was at training, else beside the head under the same name, else None."""
    return next((place for place in region_places(header, head_path) if place.is_file()), None)


def region_places(header: HeadHeader, head_path: Path) -> tuple[Path, Path]:
    """Where the region file of a head may be."""
    recorded = Path(header.region.path)
    return recorded, head_path.absolute().parent / recorded.name


def declared_kind(path: Path) -> Literal["region", "head"] | None:
    """The kind that a file states, unchecked: enough to choose how to open it; None where it states none or is unreadable."""
    kinds: dict[object, Literal["region", "head"]] = {"lianet-region": "region", "lianet-head": "head"}
    try:
        metadata = open_container(path, "region").metadata
        document = parse_json(metadata[METADATA_KEY].encode(), path, "region")
        return kinds.get(document.get("format"))
    except (ArtifactError, KeyError, UnicodeError):
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
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write_container(file, stored, {METADATA_KEY: header.model_dump_json()})


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
        raise write_error(target, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        with suppress(OSError):  # a failing disk fails here too, and its first error is the one to report
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, on systems that offer it."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def free_bytes(folder: Path) -> int:
    """The room on the disk of a folder.

    Raises:
        OSError: the folder is not there, or is not on a disk.
    """
    first, second = (*folder.resolve().parts, "", "")[1:3]
    if os.name == "posix" and (first in ("proc", "sys") or (first == "dev" and second != "shm")):
        raise OSError(errno.ENODEV, "its folder is not on a disk", str(folder))
    return shutil.disk_usage(folder).free


def check_place(path: Path, other: str) -> None:
    """Refuse an output whose folder is on no disk, or whose name leaves its disk no room for those of the files beside it;
    `other` says what to choose in its place.

    Raises:
        OutputError: the name is too long, or its folder cannot be written.
    """
    folder = path.absolute().parent
    try:
        free_bytes(folder)
        longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise write_error(path, error) from error
    if (beyond := len(os.fsencode(path.name)) + NAMES_BESIDE - longest) > 0:
        raise OutputError(
            f"the name {brief(path.name)!r} is too long by {beyond} bytes for its disk and for the longer names of files made"
            f" beside it: choose {other}"
        )


def refuse_existing(path: Path, overwrite: bool, other: str = "another name with `output`") -> None:
    """Refuse an output before any work begins; `other` says what to choose in its place.

    Raises:
        OutputError: `path` exists and may not be replaced, its folder does not exist or is on no disk, or its name is too long.
    """
    check_place(path, other)
    if path.is_dir():
        raise OutputError(f"{path} is a folder and not the name of a file: choose {other}")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose {other}, or replace it with `overwrite`")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"the folder {path.absolute().parent} does not exist: create it first, or choose {other}")


def software_versions(*packages: str) -> dict[str, str]:
    """Installed versions of this package and of `packages`, for provenance."""
    from importlib.metadata import version

    return {package: version(package) for package in ("lianet-user", *packages)}


def _open(path: Path, schema: type[H], kind: str) -> ArtifactFile[H]:
    container = open_container(path, kind)
    text = container.metadata.get(METADATA_KEY)
    if text is None:
        raise ArtifactError(
            f"{path} is a safetensors file but not a LIANet {kind} file (no {METADATA_KEY!r} entry in its metadata)"
        )
    document = parse_json(text.encode("utf-8", "surrogatepass"), path, kind)
    expected = f"lianet-{kind}"
    if document.get("format") != expected:
        raise ArtifactError(f"{path} is a {brief(repr(document.get('format')))} file, expected a {expected!r} file")
    if document.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {brief(repr(document.get('format_version')))}, this program reads"
            f" {FORMAT_VERSION}: update lianet-user"
        )
    try:
        header = schema.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} has a header that is not valid: {first_problem(error)}: get the file again"
        ) from error
    return ArtifactFile(**vars(container), header=header)


# --- Quantised tables: one byte a number, which selects one of 256 values chosen for its table and column.
#
# Entries of a hash grid have heavy tails: in the first region that ships, the extremes of the finest level are 130 times its
# standard deviation. 256 equal steps between them lose a sixth of it, however they are clipped; 256 values that lie densest
# where the entries do lose a sixtieth, for a few kilobytes a level.

CODEBOOK_SIZE = 256
LLOYD_ROUNDS = 20


def encode_tables(tables: NDArray[np.float32], spans: Sequence[slice]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Replace a table's numbers by the places of the nearest among the 256 values chosen for their span and column.

    Args:
        tables: (N, F), finite.
        spans: of rows, which together cover all.

    Returns:
        Codes (N, F), -128..127, and the values (spans, F, 256), ascending.
    """
    codes = np.empty(tables.shape, np.int8)
    values = np.empty((len(spans), tables.shape[1], CODEBOOK_SIZE), np.float32)
    for number, span in enumerate(spans):
        for column in range(tables.shape[1]):
            chosen = _fitted_values(tables[span, column]).astype(np.float32)
            values[number, column] = chosen
            nearest = np.searchsorted(_middles(chosen.astype(np.float64)), tables[span, column])
            codes[span, column] = (nearest - CODEBOOK_SIZE // 2).astype(np.int8)
    return codes, values


def decode_tables(codes: NDArray[np.int8], values: NDArray[np.float32], spans: Sequence[slice]) -> NDArray[np.float32]:
    """The tables (N, F) that codes and values stand for; arguments as `encode_tables` returns them."""
    tables = np.empty(codes.shape, np.float32)
    for number, span in enumerate(spans):
        for column in range(codes.shape[1]):
            tables[span, column] = values[number, column][codes[span, column].astype(np.intp) + CODEBOOK_SIZE // 2]
    return tables


def _fitted_values(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    """256 ascending values with a small mean squared distance to the numbers (Lloyd 1982)."""
    ordered = np.sort(numbers.astype(np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= CODEBOOK_SIZE:
        return np.pad(distinct, (0, CODEBOOK_SIZE - len(distinct)), mode="edge")
    # The start that is best for many values: as dense as the cube root of the numbers' own density (Panter and Dite 1951).
    quantiles = ordered[np.linspace(0, len(ordered) - 1, 16 * CODEBOOK_SIZE).astype(np.intp)]
    weight = np.concatenate([[0.0], np.cumsum(np.diff(quantiles) ** (2 / 3))])
    values = np.interp((np.arange(CODEBOOK_SIZE) + 0.5) / CODEBOOK_SIZE * weight[-1], weight, quantiles)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(LLOYD_ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(ordered, _middles(values)), [len(ordered)]])
        counts = np.diff(ends)
        values = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), values)
    return np.asarray(np.sort(values))


def _middles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values[1:] + values[:-1]) / 2
