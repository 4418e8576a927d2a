"""Region and head files: what is written is read back, and every way a file can lie has a message of its own."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import safetensors.numpy
import torch
from factories import RegionHeaderFactory
from odc.geo.geobox import GeoBox

from lianet_user.errors import ArtifactError, DateError, OutputError
from lianet_user.field.config import HeadConfig
from lianet_user.files import artifact
from lianet_user.files.artifact import (
    METADATA_KEY,
    free_bytes,
    open_head_file,
    open_region_file,
    refuse_existing,
    replacing,
    write_artifact,
)
from lianet_user.files.header import (
    Acquisition,
    Band,
    ClassEntry,
    GridHeader,
    HeadHeader,
    Quality,
    RegionHeader,
    RegionRef,
)

TENSORS: dict[str, np.ndarray] = {
    "encoding.table": np.linspace(-1, 1, 24, dtype=np.float16).reshape(3, 8),
    "decoder.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "decoder.batches": np.array(7, dtype=np.int64),
}


@pytest.fixture
def header(region_header: RegionHeaderFactory) -> RegionHeader:
    return region_header()


@pytest.fixture
def head_header(header: RegionHeader) -> HeadHeader:
    return HeadHeader(
        task="segmentation",
        classes=(ClassEntry(name="forest", color="#1b7837"), ClassEntry(name="water", color="#2166ac", code="7")),
        head=HeadConfig(inputs=("features",), in_channels=128, widths=(64, 32), outputs=2, norm="batch"),
        region=RegionRef(name=header.name, lineage=header.lineage, sha256="a" * 64, path="/data/small.safetensors"),
        dates=(dt.date(2017, 2, 16),),
        scores=None,
        provenance=header.provenance,
        attribution=header.attribution,
    )


@pytest.fixture
def region_file(tmp_path: Path, header: RegionHeader) -> Path:
    path = tmp_path / "small.safetensors"
    write_artifact(path, header, TENSORS)
    return path


def forge(path: Path, container: dict[str, Any] | str, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any JSON and any header length: what no writer would make."""
    raw = (container if isinstance(container, str) else json.dumps(container)).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def container_of(header: RegionHeader, **tensors: dict[str, Any]) -> dict[str, Any]:
    return {"__metadata__": {METADATA_KEY: header.model_dump_json()}, **tensors}


def tensor(start: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}


Make = Callable[[Path, RegionHeader], object]
Change = Callable[[dict[str, Any]], object]

# What is written is read back


def test_region_round_trip(region_file: Path, header: RegionHeader) -> None:
    opened = open_region_file(region_file)
    assert opened.header == header
    read = opened.tensors()
    assert read.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == opened.shapes[name] == array.shape
        assert np.array_equal(read[name], array)
    assert opened.parameters == 31
    assert opened.size_bytes == len(region_file.read_bytes())
    assert opened.sha256() == hashlib.sha256(region_file.read_bytes()).hexdigest()


def test_head_round_trip(tmp_path: Path, head_header: HeadHeader) -> None:
    path = tmp_path / "head.safetensors"
    write_artifact(path, head_header, {"layers.0.weight": TENSORS["decoder.weight"]})
    assert open_head_file(path).header == head_header


def test_any_safetensors_reader_reads_the_tensors(region_file: Path) -> None:
    read = safetensors.numpy.load_file(region_file)
    assert all(np.array_equal(read[name], array) for name, array in TENSORS.items())


def test_transposed_tensors_are_written_as_they_look(tmp_path: Path, header: RegionHeader) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_artifact(tmp_path / "a.safetensors", header, {"a": array})
    assert np.array_equal(open_region_file(tmp_path / "a.safetensors").tensors()["a"], array)


def test_empty_tensors_are_kept(tmp_path: Path, header: RegionHeader) -> None:
    write_artifact(tmp_path / "a.safetensors", header, {"a": np.zeros((0, 3), np.float32)})
    assert open_region_file(tmp_path / "a.safetensors").tensors()["a"].shape == (0, 3)


@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, np.int32), np.array([1.0, np.nan], np.float32)])
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, header: RegionHeader, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="tensor 'a'"):
        write_artifact(tmp_path / "a.safetensors", header, {"a": array})
    assert list(tmp_path.iterdir()) == []


def test_reading_a_header_needs_no_torch(region_file: Path) -> None:
    code = (
        "import sys, lianet_user.files.artifact\n"
        f"lianet_user.files.artifact.open_region_file({str(region_file)!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# Every way a file can lie

TWICE = r"its header is not valid JSON \(a key appears twice\)"
FOREIGN = r"is a safetensors file but not a LIANet region file \(no 'lianet' entry"
SENSELESS = r"is not a region file .* its first bytes make no sense"
PICKLE = r"is not a region file .* it is a Python pickle, which this program never"


def damaged(change: Callable[[bytes], bytes]) -> Make:
    """A whole file whose bytes were changed."""

    def make(path: Path, header: RegionHeader) -> None:
        write_artifact(path, header, TENSORS)
        path.write_bytes(change(path.read_bytes()))

    return make


def forged(container: dict[str, Any] | str, data: bytes = b"") -> Make:
    return lambda path, header: forge(path, container, data)


def described(metadata: object) -> Make:
    """A file with any metadata."""
    return forged({"__metadata__": metadata, "a": tensor(0, 8)}, b"\0" * 8)


def with_length(length: int) -> Make:
    """A header that claims to be as long."""
    return lambda path, header: forge(path, container_of(header), length=length)


def off_by(change: int) -> Make:
    """A header that claims to be a byte longer or shorter than it is."""

    def make(path: Path, header: RegionHeader) -> None:
        container = container_of(header, a=tensor(0, 8))
        forge(path, container, b"x" * 8, len(json.dumps(container)) + change)

    return make


def holding(**tensors: Any) -> Make:
    """A whole header of tensors as they are described here, before 20 bytes."""
    return lambda path, header: forge(path, container_of(header, **tensors), b"\0" * 20)


def says(change: Change) -> Make:
    """A file that says something else of itself."""

    def make(path: Path, header: RegionHeader) -> None:
        document = json.loads(header.model_dump_json())
        change(document)
        forge(path, {"__metadata__": {METADATA_KEY: json.dumps(document)}})

    return make


def a_tensor_twice(path: Path, header: RegionHeader) -> None:
    forge(path, json.dumps(container_of(header, a=tensor(0, 8)))[:-1] + ', "a": {}}', b"\0" * 8)


def an_entry_twice(path: Path, header: RegionHeader) -> None:
    forge(path, {"__metadata__": {METADATA_KEY: header.model_dump_json()[:-1] + ', "name": "other"}'}})


def starts(start: bytes) -> Make:
    return lambda path, header: path.write_bytes(start + b"\0" * 100)


def pickled(protocol: int) -> Make:
    return lambda path, header: path.write_bytes(pickle.dumps(Trap(), protocol))


class Trap:
    """Fails the test that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


LIES: dict[str, tuple[Make, str]] = {
    "not there": (lambda p, h: None, r"cannot read .*a\.safetensors: No such file or directory"),
    "a folder": (lambda p, h: p.mkdir(), "it is not a regular file"),
    "no bytes": (damaged(lambda whole: b""), "is 0 bytes long and no region file: it is empty or was cut off"),
    "seven bytes": (damaged(lambda whole: b"\0" * 7), "is 7 bytes long and no region file: it is empty or was cut off"),
    "cut in the header": (
        damaged(lambda whole: whole[:100]),
        r"was cut off: its header needs \d+ bytes, the file has 100: get it again",
    ),
    "cut in the data": (damaged(lambda whole: whole[:-3]), "was cut off: 3 bytes are missing: get it again"),
    "trailing bytes": (damaged(lambda whole: whole + b"rest"), "has 4 bytes after its last tensor: get it again"),
    # What is no JSON, or not the JSON of a region.
    "a header of no bytes": (with_length(0), SENSELESS),
    "a header of 1 byte": (with_length(1), SENSELESS),
    "a header beyond the limit": (with_length(2**25 + 1), SENSELESS),
    "a header of 2**63 bytes": (with_length(2**63), SENSELESS),
    "a header a byte too short": (off_by(-1), "its header is not valid JSON"),
    "a header a byte too long": (off_by(1), "its header is not valid JSON"),
    "a list": (forged("[]"), "its header is not a JSON object"),
    "null": (forged("null"), "its header is not a JSON object"),
    "a text": (forged('"text"'), "its header is not a JSON object"),
    "lists without end": (forged("[" * 200_000), "its header is not valid JSON"),
    "a tensor twice": (a_tensor_twice, TWICE),
    "an entry twice": (an_entry_twice, TWICE),
    "null as metadata": (described(None), FOREIGN),
    "empty metadata": (described({}), FOREIGN),
    "another program's metadata": (described({"format": "pt"}), FOREIGN),
    "an entry that is no text": (described({METADATA_KEY: {"name": "small"}}), FOREIGN),
    "a text as metadata": (described("text"), FOREIGN),
    "an entry of no Unicode": (forged({"__metadata__": {METADATA_KEY: "\ud800"}}), "its header is not valid JSON"),
    # Tensors that do not lie where they should.
    "an overlap": (holding(a=tensor(0, 8), b=tensor(4, 12)), "tensor 'b' claims bytes 4 to 12, expected 8 to 16"),
    "one place for two": (holding(a=tensor(0, 8), b=tensor(0, 8)), "tensor 'b' claims bytes 0 to 8, expected 8 to 16"),
    "a gap": (holding(a=tensor(0, 8), b=tensor(12, 20)), "tensor 'b' claims bytes 12 to 20, expected 8 to 16"),
    "a late start": (holding(a=tensor(4, 12)), "tensor 'a' claims bytes 4 to 12, expected 0 to 8"),
    "another size": (holding(a=tensor(0, 12)), "tensor 'a' claims bytes 0 to 12, expected 0 to 8"),
    "a huge shape": (holding(a=tensor(0, 8, shape=(2**40, 2**40))), "tensor 'a' claims bytes 0 to 8, expected 0 to"),
    "backwards": (holding(a=tensor(8, 0)), "tensor 'a' claims bytes 8 to 0, expected 0 to 8"),
    "a dtype": (
        holding(a=tensor(0, 8, dtype="BF16")),
        "tensor 'a' is described wrongly: Input should be 'F16', 'F32', 'I64' or 'I8'",
    ),
    "a negative shape": (holding(a=tensor(0, 8, shape=(-2,))), "tensor 'a' is described wrongly"),
    "a class": (holding(a={**tensor(0, 8), "class": "os.system"}), "tensor 'a' is described wrongly: Extra inputs"),
    "a tensor that is a list": (holding(a=[0, 8]), "tensor 'a' is described wrongly"),
    "another version": (
        says(lambda d: d.update(format_version=2)),
        "has format version 2, this program reads 1: update lianet-user",
    ),
    # Files of another kind.
    **{f"a pickle of protocol {protocol}": (pickled(protocol), PICKLE) for protocol in (2, 3, 4, 5)},
    "a checkpoint": (lambda p, h: torch.save({"a": torch.zeros(2)}, p), "it is a zip archive or a PyTorch checkpoint"),
    "a TIFF": (starts(b"II*\0\x08\0\0\0"), "it is a TIFF image"),
    "a big-endian TIFF": (starts(b"MM\0*\0\0\0\x08"), "it is a TIFF image"),
    "a BigTIFF": (starts(b"II+\0\x08\0\0\0"), "it is a TIFF image"),
    "a GeoPackage": (starts(b"SQLite format 3\0"), "it is a GeoPackage or another SQLite database"),
    "an HDF5 file": (starts(b"\x89HDF\r\n\x1a\n"), "it is an HDF5 or NetCDF file"),
    "unknown bytes": (starts(b"ABCDEFGH"), "its first bytes make no sense as a header length"),
}


INVALID: dict[str, tuple[Change, str]] = {
    "a hook": (lambda d: d.update(hook="os.system"), "hook: Extra inputs are not permitted"),
    "a hook inside": (lambda d: d["field"]["decoder"].update(target="a.B"), r"field\.decoder\.target: Extra inputs"),
    "a class path": (
        lambda d: d["field"]["decoder"].update(architecture="os.system"),
        r"field\.decoder\.architecture: Input",
    ),
    "no licence": (lambda d: d.pop("licence"), "licence: Field required"),
    "a text as width": (lambda d: d["grid"].update(width="128"), r"grid\.width: Input should be a valid integer"),
    "another width": (
        lambda d: d["grid"].update(width=4096),
        "header: .*field encodes 96 x 128 px, grid is 96 x 4096 px",
    ),
    "no CRS": (lambda d: d["grid"].update(crs_wkt="nowhere"), "grid: .*crs_wkt is not a coordinate reference system"),
    "no transform": (lambda d: d["grid"].update(transform=[0] * 6), "grid: .*transform cannot be inverted"),
    "a band less": (lambda d: d["bands"].pop(), "header: .*field has 3 bands, header names 2"),
    "a date more": (
        lambda d: d["acquisitions"].append({"date": "2020-01-01"}),
        "header: .*field has 1 dates, header names 2",
    ),
    "a path as name": (lambda d: d.update(name="../evil"), "name: String should match pattern"),
}
LIES |= {name: (says(change), f"has a header that is not valid: {said}") for name, (change, said) in INVALID.items()}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused_by_what_it_is(tmp_path: Path, header: RegionHeader, lie: str) -> None:
    make, message = LIES[lie]
    make(tmp_path / "a.safetensors", header)
    with pytest.raises(ArtifactError, match=message):
        open_region_file(tmp_path / "a.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = f"from lianet_user.files.artifact import open_region_file; open_region_file({str(tmp_path / 'pipe')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert "it is not a regular file" in done.stderr


def test_truncated_after_it_was_opened(region_file: Path) -> None:
    opened = open_region_file(region_file)
    region_file.write_bytes(region_file.read_bytes()[:-3])
    with pytest.raises(ArtifactError, match="was replaced or rewritten while it was read: run the command again"):
        opened.tensors()


def test_head_opened_as_region_and_back(tmp_path: Path, region_file: Path, head_header: HeadHeader) -> None:
    head_file = tmp_path / "head.safetensors"
    write_artifact(head_file, head_header, {})
    with pytest.raises(ArtifactError, match="is a 'lianet-head' file, expected a 'lianet-region' file"):
        open_region_file(head_file)
    with pytest.raises(ArtifactError, match="is a 'lianet-region' file, expected a 'lianet-head' file"):
        open_head_file(region_file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_weights_that_are_not_finite(tmp_path: Path, header: RegionHeader, dtype: str, value: float) -> None:
    data = np.array([0.0, value], {"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()
    path = forge(tmp_path / "a.safetensors", container_of(header, a=tensor(0, len(data), dtype)), data)
    opened = open_region_file(path)
    with pytest.raises(ArtifactError, match="tensor 'a' holds NaN or infinity: get the file again"):
        opened.tensors()


# The header


def test_grid_survives_the_header(small_geobox: GeoBox) -> None:
    assert GridHeader.of(small_geobox).geobox == small_geobox


def test_date_index(region_header: RegionHeaderFactory) -> None:
    one, several = region_header(), region_header(dates=3)
    assert one.date_index(None) == 0
    assert [several.date_index(date) for date in several.dates] == [0, 1, 2]


def test_dates_that_are_not_held(region_header: RegionHeaderFactory) -> None:
    several = region_header(dates=4)
    with pytest.raises(DateError, match=r"holds 4 dates \(2017-02-16 to 2017-05-16\) and none was chosen: .*`date`"):
        several.date_index(None)
    with pytest.raises(
        DateError, match=r"does not hold 2017-05-01: the nearest .* 2017-03-16, 2017-04-16, 2017-05-16$"
    ):
        several.date_index(dt.date(2017, 5, 1))


def test_a_header_is_finite_and_frozen(header: RegionHeader) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Quality(date=header.dates[0], psnr_db=float("inf"), bands=())
    with pytest.raises(ValueError, match="frozen"):
        header.name = "other"  # type: ignore[misc]


def test_dates_and_bands_can_be_told_apart(region_header: RegionHeaderFactory) -> None:
    date, band = Acquisition(date=dt.date(2017, 2, 16)), Band(name="B02", gsd_m=10.0)
    with pytest.raises(ValueError, match="a date appears twice"):
        region_header(dates=2, acquisitions=(date, date))
    with pytest.raises(ValueError, match="a band appears twice"):
        region_header(band_count=2, bands=(band, band))


# Writing


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".partial" in path.name]


def test_a_failed_write_leaves_the_earlier_file(
    region_file: Path, header: RegionHeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = region_file.read_bytes()

    def no_space(file: BinaryIO, *_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "write_container", no_space)
    with pytest.raises(
        OutputError, match=r"cannot write .*small\.safetensors: No space left on device: make room on that"
    ):
        write_artifact(region_file, header, {})
    assert region_file.read_bytes() == earlier
    assert temporaries(region_file.parent) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_earlier_file(region_file: Path, interruption: type[BaseException]) -> None:
    def write_half() -> None:
        with replacing(region_file) as temporary:
            temporary.write_bytes(b"half")
            raise interruption

    earlier = region_file.read_bytes()
    with pytest.raises(interruption):
        write_half()
    assert region_file.read_bytes() == earlier
    assert temporaries(region_file.parent) == []


def test_replacing_keeps_the_suffix_that_tells_gdal_the_format(tmp_path: Path) -> None:
    with replacing(tmp_path / "map.tif") as temporary:
        assert temporary.suffix == ".tif"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"map")
    assert (tmp_path / "map.tif").read_bytes() == b"map"
    assert temporaries(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path, region_file: Path) -> None:
    (tmp_path / "other").touch()
    assert region_file.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_does_not_exist(tmp_path: Path, header: RegionHeader) -> None:
    with pytest.raises(
        OutputError, match=r"cannot write .*: No such file or directory: choose another place with `output`"
    ):
        write_artifact(tmp_path / "none" / "a.safetensors", header, {})


def test_refuse_existing(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    refuse_existing(path, overwrite=False)
    path.touch()
    refuse_existing(path, overwrite=True)
    with pytest.raises(OutputError, match=r"a\.tif exists: choose another name with `output`, or .* `overwrite`"):
        refuse_existing(path, overwrite=False)
    with pytest.raises(OutputError, match="is a folder and not the name of a file: choose another name with `output`"):
        refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match=r"the folder .*none does not exist: create it first"):
        refuse_existing(tmp_path / "none" / "a.tif", overwrite=False)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX names")
@pytest.mark.parametrize("letter", ["a", "\u00e4"])
def test_a_name_too_long_for_what_is_made_beside_it_is_refused(tmp_path: Path, letter: str) -> None:
    for length in (225, 256, 5000):
        path = tmp_path / f"{letter * (length // len(letter.encode()))}.tif"
        with pytest.raises(
            OutputError, match=r"is too long by \d+ bytes for its disk .* choose another name with `output`"
        ):
            refuse_existing(path, overwrite=True)
    path = tmp_path / f"{'a' * 200}.safetensors"
    refuse_existing(path, overwrite=False)
    with replacing(path) as temporary:
        temporary.write_bytes(b"map")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
@pytest.mark.parametrize("folder", ["/dev", "/proc", "/proc/self", "/sys"])
def test_what_is_no_disk_is_said_to_be_none(folder: str) -> None:
    with pytest.raises(
        OutputError, match=rf"cannot write {folder}/a\.tif: its folder is not on a disk: choose another place"
    ):
        refuse_existing(Path(folder) / "a.tif", overwrite=True)
    assert free_bytes(Path("/dev/shm")) > 0
