"""What is fuzzed: readers of files from anywhere. Whatever they are given, they answer or raise a LianetError.

`python tests/fuzz/targets.py NAME [libFuzzer options]` runs one of them under atheris; `tests/test_fuzz.py` does so for ten
minutes each, and runs every seed and finding of `corpus/NAME` in every test run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import importlib
import json
import pkgutil
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from lianet_user.errors import DownloadError, LianetError

if TYPE_CHECKING:
    from lianet_user.files.header import RegionHeader

CORPUS = Path(__file__).parent / "corpus"
SUFFIXES = ("", ".gpkg", ".geojson", ".csv", ".tif", ".fgb", ".shp", ".zip")


def region_header(path: Path) -> None:
    from lianet_user.files.artifact import open_region_file

    path.write_bytes(artifact(path.read_bytes()))
    open_region_file(path).tensors()


def head_header(path: Path) -> None:
    from lianet_user.files.artifact import open_head_file

    path.write_bytes(artifact(path.read_bytes()))
    open_head_file(path).tensors()


def artifact(data: bytes) -> bytes:
    """A file as it stands; or, so that mutations reach what lies deeper, around a JSON header or a LIANet document.

    The first byte chooses.
    """
    mode, rest = data[:1], data[1:]
    if mode == b"h":
        return struct.pack("<Q", len(rest)) + rest
    if mode == b"d":
        document = {"__metadata__": {"lianet": rest.decode("utf-8", "replace")}}
        return artifact(b"h" + json.dumps(document).encode())
    return rest


@functools.cache
def region() -> RegionHeader:
    from lianet_user.files.artifact import open_region_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "region.safetensors"
        path.write_bytes(artifact((CORPUS / "region_header" / "whole").read_bytes()))
        return open_region_file(path).header


def labels(path: Path) -> None:
    from lianet_user.labels import LabelOptions, read_labels

    header = region()
    data = path.read_bytes()
    # What a name ends in has a say in what is read, so the first byte says how this one ends.
    named = path.with_suffix(SUFFIXES[data[0] % len(SUFFIXES)] if data else "")
    named.write_bytes(data[1:])
    read_labels(named, header, LabelOptions())


def catalogue_item(path: Path) -> None:
    """An Item as of a local or of a remote catalogue, or a catalogue's first document; then what is done with a model.

    The first byte chooses.
    """
    from lianet_user.catalog import open_catalog
    from lianet_user.catalog.coverage import dates_of, sketch
    from lianet_user.catalog.model import is_model, read_item
    from lianet_user.catalog.read import parse_document

    mode, rest = path.read_bytes()[:1], path.read_bytes()[1:]
    folder = path.parent
    if mode == b"c":
        (folder / "items").mkdir()
        (folder / "items" / "small.json").write_bytes((CORPUS / "catalogue_item" / "local").read_bytes()[1:])
        (folder / "catalog.json").write_bytes(rest)
        with mock.patch("lianet_user.catalog.download.read_bytes", side_effect=DownloadError("no network here")):
            models = open_catalog(str(folder / "catalog.json")).models
    else:
        base = "https://example.org/regions" if mode == b"r" else str(folder)
        document = parse_document(rest, f"{base}/items/small.json")
        if not is_model(document):
            return
        models = (read_item(document, f"{base}/items/small.json", f"{base}/catalog.json"),)
    sketch(models)
    for model in models:
        model.touches((12.0, 52.0, 13.0, 53.0))
        model.holds(dt.date(2017, 1, 1), dt.date(2018, 1, 1))
        dates_of(model)


TARGETS: dict[str, Callable[[Path], None]] = {
    "region_header": region_header,
    "head_header": head_header,
    "labels": labels,
    "catalogue_item": catalogue_item,
}


def run(name: str, data: bytes) -> None:
    """One target on one file. What it raises besides a refusal is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        path.write_bytes(data)
        with contextlib.suppress(LianetError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](path)


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["lianet_user"]):
        import lianet_user.catalog
        import lianet_user.files.artifact
        import lianet_user.labels

        for package in (lianet_user.catalog, lianet_user.labels):
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")

    atheris.Setup(sys.argv, lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
