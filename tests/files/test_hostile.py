"""Files that somebody else made, to break things: each is refused in one line, before anything is allocated.

A row of the table is a file, the command that is given it, the class of the refusal and what its line has to say.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from factories import Folder, refused

from lianet_user import errors
from lianet_user.errors import (
    AreaError,
    ArtifactError,
    CatalogError,
    ImageryError,
    LabelError,
    LianetError,
    MapError,
    RegionMismatchError,
)
from lianet_user.field.config import PixelModelsConfig
from lianet_user.field.head import HeadEnsemble
from lianet_user.files.artifact import METADATA_KEY, open_head_file, open_region_file, write_artifact
from lianet_user.files.container import MAX_TENSORS, parse_json
from lianet_user.head import Head

Change = Callable[[dict[str, Any]], object]
Make = Callable[[Folder], Path]


@dataclass(frozen=True)
class Bad:
    """A bad input.

    Attributes:
        make: writes it.
        says: what the line has to say.
        command: that is given it, `{}` in its place.
        error: how it is refused.
    """

    make: Make
    says: str
    command: str = "info {}"
    error: type[LianetError] = ArtifactError


def raw(content: bytes) -> Make:
    return lambda folder: folder.file(content)


def forged(container: dict[str, Any] | str, data: bytes = b"", length: int | None = None) -> bytes:
    """A container with any JSON and any header length: what no writer would make."""
    text = (container if isinstance(container, str) else json.dumps(container)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON header of a container and its data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def container(change: Change, of: str = "region") -> Make:
    """A whole file of which the container's header was changed."""

    def make(folder: Folder) -> Path:
        document, data = split(folder.whole(of))
        change(document)
        return folder.file(forged(document, data))

    return make


def header(change: Change, of: str = "region") -> Make:
    """A whole file of which what it says of itself was changed."""

    def make(folder: Folder) -> Path:
        document, data = split(folder.whole(of))
        said = json.loads(document["__metadata__"][METADATA_KEY])
        change(said)
        document["__metadata__"][METADATA_KEY] = json.dumps(said)
        return folder.file(forged(document, data))

    return make


def said(*path: str | int, of: str = "region", **values: object) -> Make:
    """A whole file that says something else in one part of what it says of itself."""

    def change(document: dict[str, Any]) -> None:
        part: Any = document
        for key in path:
            part = part[key]
        part.update(values)

    return header(change, of)


def weights(name: str, values: Callable[[np.ndarray], np.ndarray], of: str = "region") -> Make:
    """A whole file in which one tensor holds something else of the same size."""

    def make(folder: Folder) -> Path:
        document, data = split(folder.whole(of))
        entry = document[name]
        start, end = entry["data_offsets"]
        dtype = {"F16": "<f2", "F32": "<f4", "I64": "<i8"}[entry["dtype"]]
        array = values(np.frombuffer(data[start:end], dtype).copy()).astype(dtype)
        return folder.file(forged(document, data[:start] + array.tobytes() + data[end:]))

    return make


def cut(size: int | float, of: str = "region") -> Make:
    def make(folder: Folder) -> Path:
        whole = folder.whole(of)
        return folder.file(whole[: size if isinstance(size, int) else int(size * len(whole))])

    return make


SOLVED = {"sets": [2], "linear": 1, "landmarks": 3}
CHANNELS = "pixel_models.sets.0.channels"


def solved(change: Make, channels: np.ndarray | None = None) -> Make:
    """A change of `solved.safetensors`, a head of pixel models alone."""

    def make(folder: Folder) -> Path:
        head = Head.open(folder.path / "head.safetensors")
        parts = {"members": 0, "pixel_models": PixelModelsConfig.model_validate(SOLVED), "pixel_share": 1.0}
        config = head.header.head.model_copy(update=parts)
        tensors = {name: tensor.numpy() for name, tensor in HeadEnsemble(config).state_dict().items()}
        if channels is not None:
            tensors[CHANNELS] = channels
        write_artifact(folder.path / "solved.safetensors", head.header.model_copy(update={"head": config}), tensors)
        return change(folder)

    return make


def without(name: str, of: str = "region") -> Make:
    """A file that lacks a tensor, and is a whole container otherwise."""

    def make(folder: Folder) -> Path:
        document, data = split(folder.whole(of))
        start, end = document.pop(name)["data_offsets"]
        for entry in document.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [place - (end - start) for place in entry["data_offsets"]]
        return folder.file(forged(document, data[:start] + data[end:]))

    return make


def with_more(folder: Folder) -> Path:
    document, data = split(folder.whole("region"))
    document["extra"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    return folder.file(forged(document, data + b"\0" * 4))


def misshapen(folder: Folder) -> Path:
    document, data = split(folder.whole("region"))
    entry = document["grid.tables"]
    entry["shape"] = entry["shape"][::-1]
    return folder.file(forged(document, data))


def duplicate(folder: Folder) -> Path:
    document, data = split(folder.whole("region"))
    text = json.dumps(document)[:-1] + ', "grid.tables": {}}'
    return folder.file(forged(text, data))


def duplicate_inside(folder: Folder) -> Path:
    document, data = split(folder.whole("region"))
    said = document["__metadata__"]
    said[METADATA_KEY] = said[METADATA_KEY][:-1] + ', "name": "other"}'
    return folder.file(forged(document, data))


def place(entry: dict[str, Any], start: int, end: int) -> None:
    entry["data_offsets"] = [start, end]


def first(document: dict[str, Any]) -> dict[str, Any]:
    """The tensor that comes first."""
    return next(entry for name, entry in document.items() if name != "__metadata__" and entry["data_offsets"][0] == 0)


def archive(kind: str) -> bytes:
    """An archive whose one member wants to be written elsewhere."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("../../evil.safetensors", b"x")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "gz" else "w:xz") as tar:
            link = tarfile.TarInfo("region.safetensors")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
    return buffer.getvalue()


class Trap:
    """Fails the test that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return pytest.fail, ("a pickle was loaded",)


def pickled(name: str) -> Make:
    """A pickle under a name that promises something else."""
    return lambda folder: folder.file(pickle.dumps(Trap()), name)


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def pipe(folder: Folder) -> Path:
    os.mkfifo(folder.path / "pipe")
    return folder.path / "pipe"


def loop(folder: Folder) -> Path:
    (folder.path / "loop.safetensors").symlink_to(folder.path / "loop.safetensors")
    return folder.path / "loop.safetensors"


LONG = "x" * 1_000_000
MANY = {f"t{n}": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]} for n in range(MAX_TENSORS + 1)}
ABSURD: dict[str, Any] = {"levels": 24, "features": 1024, "table_size": 2**26, "sizing": "uniform", "growth": 1.0}
LOCAL = 'LOCAL_CS["here",UNIT["metre",1]]'
ESC = "a\x1b[2Jb"

PREDICT, MAP = "predict {} -o x.tif", "predict head.safetensors --region {} -o x.tif"

REGIONS: dict[str, Bad] = {
    # What is no container.
    "empty": Bad(raw(b""), "is 0 bytes long"),
    "seven bytes": Bad(raw(b"\0" * 7), "is 7 bytes long"),
    "zeros": Bad(raw(b"\0" * 4096), "make no sense as a header length"),
    "cut in the header": Bad(cut(100), "was cut off: its header needs"),
    "cut in the data": Bad(cut(0.9), "bytes are missing: get it again"),
    "trailing bytes": Bad(lambda f: f.file(f.whole("region") + b"x"), "has 1 bytes after"),
    "length 1": Bad(raw(forged("{}", length=1)), "make no sense"),
    "length 2**63": Bad(raw(forged("{}", length=2**63)), "make no sense"),
    "length 2**26": Bad(raw(forged("{}", length=2**26)), "make no sense"),
    "length past the end": Bad(raw(forged("{}", length=2**20)), "was cut off"),
    "pickle": Bad(raw(pickle.dumps(Trap())), "a Python pickle, which this program never loads"),
    "old pickle": Bad(raw(pickle.dumps(Trap(), 0) + b"0" * 8), "make no sense"),
    "PyTorch checkpoint": Bad(raw(torch_file()), "a PyTorch checkpoint"),
    "zip with a path out of it": Bad(raw(archive("zip")), "a zip archive"),
    "tar.gz with a link": Bad(raw(archive("gz")), "a gzip archive"),
    "tar.xz with a link": Bad(raw(archive("xz")), "an xz archive"),
    "web page": Bad(raw(b"<!DOCTYPE html><title>404"), "a web page"),
    "Git LFS pointer": Bad(raw(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "folder": Bad(lambda f: f.path, "not a regular file"),
    "named pipe": Bad(pipe, "not a regular file"),
    "endless device": Bad(lambda f: Path("/dev/zero"), "not a regular file"),
    "link to itself": Bad(loop, "cannot read"),
    "not there": Bad(lambda f: f.path / "none", "No such file"),
    # Containers that lie.
    "array": Bad(raw(forged("[]")), "not a JSON object"),
    "nested without end": Bad(raw(forged("[" * 200_000)), "not valid JSON"),
    "not UTF-8": Bad(raw(struct.pack("<Q", 7) + b'{"\xff":1}'), "not valid JSON"),
    "NaN in JSON": Bad(raw(forged('{"a": NaN}')), "NaN is not a number"),
    "duplicate tensor": Bad(duplicate, "a key appears twice"),
    "duplicate entry": Bad(duplicate_inside, "a key appears twice"),
    "a number without end": Bad(raw(forged('{"a": ' + "9" * 5000 + "}")), "not valid JSON"),
    "overlap": Bad(container(lambda d: place(d["grid.tables"], 0, 8)), "claims bytes"),
    "backwards": Bad(container(lambda d: place(first(d), 8, 0)), "claims bytes 8 to 0"),
    "gap": Bad(container(lambda d: place(first(d), 4, 12)), "claims bytes 4 to 12, expected 0"),
    "out of range": Bad(container(lambda d: place(first(d), 0, 2**62)), "claims bytes 0 to"),
    "offset past 64 bits": Bad(container(lambda d: place(first(d), 0, 10**4000)), "wrongly"),
    "negative offset": Bad(container(lambda d: place(first(d), -8, 0)), "is described wrongly"),
    "absurd shape": Bad(container(lambda d: first(d).update(shape=[2**62] * 8)), "claims bytes"),
    "shape past 64 bits": Bad(container(lambda d: first(d).update(shape=[10**4000] * 8)), "is described wrongly"),
    "negative shape": Bad(container(lambda d: first(d).update(shape=[-1])), "described wrongly"),
    "nine axes": Bad(container(lambda d: first(d).update(shape=[1] * 9)), "described wrongly"),
    "unknown dtype": Bad(container(lambda d: first(d).update(dtype="BF16")), "'F16', 'F32'"),
    "more about a tensor": Bad(container(lambda d: first(d).update(hook="os.system")), "Extra"),
    "tensor that is a text": Bad(container(lambda d: d.update({ESC: "x"})), r"tensor 'a\x1b[2Jb' is"),
    "tensor with a megabyte of name": Bad(container(lambda d: d.update({LONG: 1})), "xxx...'"),
    "too many tensors": Bad(raw(forged(MANY)), f"more than the {MAX_TENSORS}"),
    "metadata of no texts": Bad(container(lambda d: d["__metadata__"].update(other=1)), "not a LIANet region file"),
    "no LIANet file": Bad(container(lambda d: d.pop("__metadata__")), "not a LIANet region file"),
    # Headers that cannot be.
    "a head": Bad(lambda f: f.path / "head.safetensors", "is a 'lianet-head' file"),
    "another format": Bad(said(format=LONG), "xxx... file, expected a"),
    "another version": Bad(said(format_version=2), "update lianet-user"),
    "no version": Bad(header(lambda d: d.pop("format_version")), "has format version None"),
    "a hook": Bad(said(hook="os.system"), "hook: Extra inputs"),
    "a class path": Bad(said("field", "decoder", architecture="os.system"), "architecture"),
    "no licence": Bad(header(lambda d: d.pop("licence")), "licence: Field required"),
    "a path as name": Bad(said(name="../../evil"), "name: String should"),
    "a hidden name": Bad(said(name=".bashrc"), "name: String should"),
    "an over-long title": Bad(said(title=LONG), "at most 20000"),
    "a megabyte as key": Bad(header(lambda d: d.update({LONG: 1})), "xxx...: Extra inputs"),
    "a title that clears the screen": Bad(said(title=ESC), "title: Value error, it holds control characters"),
    "a band that turns the reading direction": Bad(said("bands", 0, name="B\u202e02"), "control characters"),
    "a setting that clears the screen": Bad(said("provenance", "settings", rate=ESC), "control characters"),
    "a CRS that is none": Bad(said("grid", crs_wkt="here"), "crs_wkt is no"),
    "a CRS that names a file": Bad(
        said("grid", crs_wkt="+proj=longlat +nadgrids=/etc/passwd +type=crs"),
        "crs_wkt is not a coordinate reference system",
    ),
    "a CRS of no place": Bad(said("grid", crs_wkt=LOCAL), "crs_wkt is no"),
    "a grid without extent": Bad(said("grid", transform=[0.0] * 6), "transform cannot be inverted"),
    "a grid off the Earth": Bad(said("grid", transform=[10.0, 0.0, 1e30, 0.0, -10.0, 1e30]), "grid: "),
    "a grid of no pixels": Bad(said("grid", transform=[10.0, 0.0, 330_000.0, 2.0**62, -10.0, 5_800_000.0]), "grid: "),
    "an infinite grid": Bad(lambda f: f.file(f.whole("region").replace(b"330000.0", b"9e999999")), "transform.2"),
    "another size": Bad(said("grid", width=4096), "field encodes"),
    "bands that are not there": Bad(header(lambda d: d["bands"].pop()), "field has 3 bands"),
    "a date twice": Bad(header(lambda d: d["acquisitions"].append(d["acquisitions"][0])), "header names 2"),
    "quality of other bands": Bad(
        said(quality=[{"date": "2017-02-16", "psnr_db": 1.0, "bands": []}]), "quality of 2017-02-16"
    ),
    "a table beyond the schema": Bad(said("field", "encoding", table_size=2**40), "table_size"),
    # What asks for memory, and weights that are none.
    "terabytes of tables": Bad(said("field", "encoding", **ABSURD), "do not fit what its header", MAP),
    "layers that do not fit together": Bad(said("field", "decoder", features=4096), "do not fit", MAP),
    "too few up-blocks": Bad(said("field", "decoder", widths=[64]), "do not fit together", MAP),
    "a tensor is missing": Bad(without("grid.tables"), "'grid.tables' (None, expected", MAP),
    "a tensor too many": Bad(with_more, "'extra' ((1,), expected None)", MAP),
    "a misshapen tensor": Bad(misshapen, "first 'grid.tables'", MAP),
    "NaN in the weights": Bad(weights("grid.tables", lambda a: np.full_like(a, np.nan)), "NaN or infinity", MAP),
    "infinity in the weights": Bad(weights("grid.tables", lambda a: np.full_like(a, np.inf)), "NaN or infinity", MAP),
    "a negative variance": Bad(
        weights("decoder.encoder.bn1.running_var", lambda a: -a), "which no variance or deviation can be", MAP
    ),
    "a band that never varies": Bad(
        weights("reconstruction.std", np.zeros_like), "which no variance or deviation can be", MAP
    ),
}


def scores(names: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    figures = {"iou": 1.0, "accuracy": 1.0, "f1": 1.0}
    each = [{"name": name, "pixels": 1, **figures} for name in names]
    return {"pixels": 2, "accuracy": 1.0, "macro_iou": 1.0, "macro_f1": 1.0, "classes": each, "confusion": confusion}


NUMBERS = {"pixels": 1, "mae": 1.0, "mse": 1.0, "rmse": 1.0, "r2": None, "bias": 0.0}
TWO = [[1, 0], [0, 1]]

HEADS: dict[str, Bad] = {
    "head is empty": Bad(raw(b""), "no head file", PREDICT),
    "head is cut": Bad(cut(0.5, "head"), "cut off", PREDICT),
    "head is a pickle": Bad(raw(pickle.dumps(Trap())), "pickle", PREDICT),
    "head is a region": Bad(lambda f: f.path / "region.safetensors", "'lianet-region' file", PREDICT),
    "head of terabytes": Bad(said("head", of="head", widths=[4096] * 16, members=64), "do not fit", PREDICT),
    "head of other outputs": Bad(said("head", of="head", outputs=3), "head has 3 outputs", PREDICT),
    "head that reads other channels": Bad(
        said("head", of="head", inputs=["features"]), "the region 'small' has", PREDICT
    ),
    "head without a tensor": Bad(without("mean", "head"), "'mean' (None, expected", PREDICT),
    "head of NaN": Bad(weights("mean", lambda a: a * np.nan, "head"), "NaN or infinity", PREDICT),
    "head that divides by nothing": Bad(weights("std", np.zeros_like, "head"), "'std' holds 0", PREDICT),
    "head that divides by less": Bad(weights("std", lambda a: -a, "head"), "'std' holds -1", PREDICT),
    "head with a class twice": Bad(said("classes", 1, of="head", name="forest"), "the same name", PREDICT),
    "head with a style for a colour": Bad(said("classes", 0, of="head", color="#fff;}<"), "classes.0.color", PREDICT),
    "head whose class clears the screen": Bad(said("classes", 0, of="head", name=ESC), "control characters", PREDICT),
    "head whose class is a megabyte": Bad(said("classes", 0, of="head", name=LONG), "at most 128", PREDICT),
    "head with figures of other classes": Bad(
        said(of="head", scores=scores(["forest", "sea"], TWO)), "of other classes", PREDICT
    ),
    "head with figures of numbers": Bad(said(of="head", scores=NUMBERS), "not those of a segmentation", PREDICT),
    "head with half a confusion": Bad(
        said(of="head", test_scores=scores(["forest", "water"], TWO[:1])), "no square", PREDICT
    ),
    "head with counts below nothing": Bad(
        said(of="head", scores=scores(["forest", "water"], [[-1, 0], [0, 1]])), "scores", PREDICT
    ),
    "head judged at another date": Bad(
        said(of="head", scores_by_date=[{"date": "1999-01-01", "scores": scores(["forest", "water"], TWO)}]),
        "at a date that its labels did not describe",
        PREDICT,
    ),
    "head whose region's path steers": Bad(
        said("region", of="head", path="/data/\x1b]0;x\x07"), "region.path", PREDICT
    ),
    "head whose region's path has a zero": Bad(said("region", of="head", path="/data/a\0b"), "region.path", PREDICT),
    "head whose region is nowhere": Bad(said("region", of="head", path="/none/../none"), "with --region", PREDICT),
    "head of no hash": Bad(said("region", of="head", sha256="0"), "sha256", PREDICT),
    "head of another region": Bad(
        said("region", of="head", sha256="0" * 64, lineage="1" * 32),
        "is not the region that",
        PREDICT,
        RegionMismatchError,
    ),
    "head of the region as it was": Bad(
        said("region", of="head", sha256="0" * 64), "was updated since", PREDICT, RegionMismatchError
    ),
    "pixel models of channels there are not": Bad(
        solved(weights(CHANNELS, lambda a: a + 10**6, "solved")), "none of the", PREDICT
    ),
    "pixel models of channels below nothing": Bad(
        solved(weights(CHANNELS, lambda a: a - 1, "solved")), "none of the", PREDICT
    ),
    "pixel models of half a channel": Bad(
        solved(lambda f: f.path / "solved.safetensors", np.array([0, 0.5], np.float32)), "none of the", PREDICT
    ),
    "pixel models with more than all of the answer": Bad(
        solved(weights("pixel_models.shares", lambda a: a + 2, "solved")), "do not sum to 1", PREDICT
    ),
    "pixel models with less than none of the answer": Bad(
        solved(weights("pixel_models.shares", lambda a: a * 0 + [-1, 2], "solved")), "do not sum to 1", PREDICT
    ),
    "pixel models of NaN": Bad(
        solved(weights("pixel_models.shares", lambda a: a * np.nan, "solved")), "NaN or infinity", PREDICT
    ),
    "pixel models of more landmarks": Bad(
        solved(said("head", of="solved", pixel_models=SOLVED | {"landmarks": 4096})), "do not fit", PREDICT
    ),
    "pixel models of more channels than there are": Bad(
        solved(said("head", of="solved", pixel_models=SOLVED | {"sets": [8000]})), "more channels than", PREDICT
    ),
    "pixel models of no channels": Bad(
        solved(said("head", of="solved", pixel_models=SOLVED | {"sets": []})), "pixel_models.sets: ", PREDICT
    ),
    "pixel models on a finer grid": Bad(solved(said("head", of="solved", scale=4)), "region's own grid", PREDICT),
    "pixel models alone with half a share": Bad(
        solved(said("head", of="solved", pixel_share=0.5)), "the pixel models answer alone", PREDICT
    ),
    "pixel models that are not there": Bad(
        solved(said("head", of="solved", pixel_models=None)), "layers, pixel models, or both", PREDICT
    ),
    "head with a share and no pixel models": Bad(
        said("head", of="head", pixel_share=0.5), "gives them no share", PREDICT
    ),
    "head without dates": Bad(said(of="head", dates=[]), "dates: ", PREDICT),
}

CHECK = "check region.safetensors {} --no-picture"
LABELS: dict[str, Bad] = {
    "labels are a pickle": Bad(pickled("labels.gpkg"), "labels.gpkg", CHECK, LabelError),
    "labels are a web page": Bad(
        lambda f: f.file(b"<!DOCTYPE html><title>404", "labels.geojson"), "labels.geojson", CHECK, LabelError
    ),
    "labels are half a GeoTIFF": Bad(
        lambda f: f.file((f.path / "labels.tif").read_bytes()[:200], "half.tif"), "half.tif", CHECK, LabelError
    ),
    "labels are an archive with a path out of it": Bad(
        lambda f: f.file(archive("zip"), "labels.zip"), "labels.zip", CHECK, LabelError
    ),
    "labels are a region": Bad(lambda f: f.path / "region.safetensors", "region.safetensors", CHECK, LabelError),
    "labels are an endless device": Bad(lambda f: Path("/dev/zero"), "/dev/zero", CHECK, LabelError),
    "labels are a link to themselves": Bad(loop, "does not exist", CHECK, LabelError),
    **{
        f"labels are a pickle called {name}": Bad(pickled(name), name, CHECK, LabelError)
        for name in "labels.tif labels.csv labels.parquet labels.shp labels.zip labels.gpkg.zip labels".split()
    },
}

BESIDE: dict[str, Bad] = {
    "a style that is a pickle": Bad(
        pickled("style.qml"), "style.qml", "check region.safetensors labels.tif --no-picture --classes {}", LabelError
    ),
    "a table of classes that is a pickle": Bad(
        pickled("names.csv"), "names.csv", "check region.safetensors labels.tif --no-picture --classes {}", LabelError
    ),
    "an area that is a pickle": Bad(
        pickled("area.gpkg"), "area.gpkg", "predict head.safetensors -o map.tif --aoi {}", LabelError
    ),
    "a grid that is a pickle": Bad(
        pickled("grid.tif"), "grid.tif", "predict head.safetensors -o map.tif --like {}", AreaError
    ),
    "a map that is a pickle": Bad(pickled("map.tif"), "map.tif", "polygons {} -o map.gpkg", MapError),
    "a map to sum up that is a pickle": Bad(
        pickled("map.tif"), "map.tif", "zones {} region.safetensors -o zones.csv", MapError
    ),
    "imagery that is a pickle": Bad(
        pickled("image.tif"),
        "image.tif",
        "pretrain {} -o new.safetensors --licence CC0-1.0 --attribution me",
        ImageryError,
    ),
    "a model to add that is a pickle": Bad(pickled("mine.safetensors"), "pickle", "models add {}"),
    "a catalogue that is a pickle": Bad(
        pickled("catalog.json"), "catalog.json is not a STAC document", "models list --catalog {}", CatalogError
    ),
}

TABLE = REGIONS | HEADS | LABELS | BESIDE


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_file_is_refused_in_one_line(name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    case = TABLE[name]
    path = case.make(folder)
    before = sorted(folder.path.iterdir())
    problem, line = refused([word.format(path) for word in case.command.split()], folder.path, monkeypatch)
    assert type(problem) is case.error, line
    assert problem.exit_code == errors.EXIT_BAD_INPUT
    assert case.says in line
    assert len(line) < 1500
    assert "Traceback" not in line
    assert errors.printable(line) == line
    assert sorted(folder.path.iterdir()) == before


def test_the_whole_files_are_accepted(folder: Folder) -> None:
    # Otherwise the table would prove nothing.
    open_region_file(folder.path / "region.safetensors")
    open_head_file(folder.path / "head.safetensors")
    assert folder.run("predict", "head.safetensors", "-o", "map.tif", "-q") == 0
    with rasterio.open(folder.path / "map.tif") as file:
        assert file.count == 1
    assert len(TABLE) >= 60


def test_no_memory_is_taken_before_the_tensors_are_known_to_be_there(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = said("field", "encoding", **ABSURD)(folder)
    made: list[int] = []
    empty = torch.empty

    def counted(*size: Any, **more: Any) -> torch.Tensor:
        tensor: torch.Tensor = empty(*size, **more)
        made.append(tensor.untyped_storage().nbytes() if tensor.device.type != "meta" else 0)
        return tensor

    monkeypatch.setattr(torch, "empty", counted)
    monkeypatch.setattr(torch, "zeros", counted)
    refused(["predict", "head.safetensors", "--region", str(path), "-o", "x.tif"], folder.path, monkeypatch)
    assert made
    assert max(made) < 2**28


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "</pre><img src=x onerror=alert(1)>", '" onload="x'])
def test_html_in_names_is_text_in_the_report(text: str) -> None:
    from lianet_user.report.html import _environment

    template = _environment().from_string('<td title="{{ value }}">{{ value }}</td>')
    html = template.render(value=text)
    assert "<script" not in html
    assert "<img" not in html
    assert html.count('"') == 2


@pytest.mark.parametrize("stream", ["warning", "error"])
def test_what_steers_a_terminal_is_not_printed(stream: str, capfd: pytest.CaptureFixture[str]) -> None:
    from lianet_user.cli import _show_warning
    from lianet_user.cli.console import error

    if stream == "warning":
        _show_warning([], errors.LabelWarning(f"{ESC}\nerror: forged\r\x9b2J"), errors.LabelWarning)
    else:
        error(f"unforeseen KeyError: {ESC}\nerror: forged\r\x9b2J")
    said = capfd.readouterr().err
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert said.count("\n") == 1


def test_a_name_with_a_zero_byte_is_no_file() -> None:
    with pytest.raises(ArtifactError, match="its name is not valid"):
        open_region_file("a\0b")


def test_what_reads_json_reads_numbers_as_others_do() -> None:
    assert parse_json(b'{"a": 1e3}', Path("x"), "region") == {"a": 1000.0}
    with pytest.raises(ArtifactError):
        parse_json(b'{"a": Infinity}', Path("x"), "region")
