"""A message advises only options of the command that prints it: read off the code, function by function."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely
import torch
from command_line import refusal
from factories import Folder

import lianet_user
from lianet_user.cli import _command_tree, as_options
from lianet_user.pretraining.settings import PretrainSettings, UpdateSettings

ARGUMENT = re.compile(r"`([a-z]\w*)`")
Function = tuple[str, str]
"""Module and name; of a method, with its class."""

COMMON = {name for kind in (str, Path, torch.nn.Module) for name in dir(kind)} | {"open_dataset"}
"""Methods that other libraries' objects have too."""

SETTINGS = {each.name for kind in (PretrainSettings, UpdateSettings) for each in dataclasses.fields(kind)}
"""What the file of `--config` may hold."""
NEVER_PRINTED = {
    (function, name)
    for function, names in {
        # Options that a command sets itself are in order.
        "LabelOptions.__post_init__": "background buffer date_field date_tolerance dates labelled_area min_coverage rule task",
        "_check_options": "background buffer date_field field labelled_area on_conflict rule where",
        "_choose_column": "field task",
        "_date": "date_field",
        "_in_units_of": "buffer",
        "_refuse_useless": "field",
        "_nodata": "nodata",
        "bad_where": "where",
        "nothing_left": "where",
        # An area is no table of points, its layer is found before it is opened, and its text can always be decoded.
        "_check_range": "labels_crs",
        "_decoded": "encoding",
        "_encoding_note": "encoding",
        "_known_encoding": "encoding",
        "_not_decoded": "encoding",
        "_shapefile_encoding": "encoding",
        "file_crs": "labels_crs",
        "layer_named": "layer",
        "open_layer": "labels_crs layer",
        # A default that the command replaces.
        "moment_of": "dates",
        "parse_date": "date",
        "refuse_existing": "output",
        # Reached by the name of a function only.
        "RegionHeader.date_index": "date",
        "ResumeStore.load": "resume",
        # Any map has a first band.
        "open_finished": "band",
        # Names a command.
        "_print": "reconstruct",
    }.items()
    for name in names.split()
}


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not (below := getattr(command, "commands", {})):
        yield " ".join(words), command
    for name, each in below.items():
        yield from commands(each, (*words, name))


class Code:
    """The package's functions, and which of them each one can call. Calls of methods are followed where only one class has
    a method of the name."""

    def __init__(self) -> None:
        root = Path(lianet_user.__file__).parent
        self.functions: dict[Function, ast.AST] = {}
        self.names: dict[str, dict[str, Function]] = {}
        self.methods: dict[str, list[Function]] = {}
        for path in root.rglob("*.py"):
            module = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.names[module] = {}
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lianet_user"):
                    self.names[module] |= {
                        each.asname or each.name: (node.module or "", each.name) for each in node.names
                    }
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    for method in node.body:
                        if isinstance(method, ast.FunctionDef):
                            self.functions[module, f"{node.name}.{method.name}"] = method
                            self.methods.setdefault(method.name, []).append((module, f"{node.name}.{method.name}"))
                elif isinstance(node, ast.FunctionDef):
                    self.functions[module, node.name] = node

    def _defined(self, module: str, name: str) -> Function:
        """Where a name that a module uses is defined."""
        while (module, name) not in self.functions and name in self.names.get(module, {}):
            module, name = self.names[module][name]
        return module, name

    def called(self, function: Function) -> Iterator[Function]:
        module, own = function
        for node in ast.walk(self.functions[function]):
            if isinstance(node, ast.Name):
                place, name = self._defined(module, node.id)
                yield from ((place, name), (place, f"{name}.__init__"), (place, f"{name}.__post_init__"))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                place, name = self._defined(module, node.value.id)
                yield place, f"{own.split('.')[0] if name == 'self' else name}.{node.attr}"
                yield self._defined(f"{place}.{name}", node.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owners = self.methods.get(node.func.attr, [])
                if len(owners) == 1 and node.func.attr not in COMMON:
                    yield owners[0]

    def reached(self, start: Function) -> set[Function]:
        seen, left = {start}, [start]
        while left:
            for each in self.called(left.pop()):
                if each in self.functions and each not in seen:
                    seen.add(each)
                    left.append(each)
        return seen

    def advised(self, function: Function) -> set[str]:
        """The arguments that a function's messages name."""
        node = self.functions[function]
        texts = [
            each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        docstring = ast.get_docstring(node, clean=False)  # type: ignore[arg-type]
        return {name for text in texts if text != docstring for name in ARGUMENT.findall(text)}


@cache
def code() -> Code:
    return Code()


def in_vain(words: str, command: Any) -> set[tuple[str, str]]:
    """The functions that a command can call, with each argument in their messages that is no option of the command."""
    run = inspect.unwrap(command.callback)
    keys = SETTINGS if any("--config" in each.opts for each in command.params) else set()
    return {
        (function[1], name)
        for function in code().reached((run.__module__, run.__name__))
        for name in code().advised(function) - keys
        if all(as_options(f"`{name}`", words.split(), prefix) == f"`{name}`" for prefix in ("", "imagery_"))
    }


COMMANDS = dict(commands(_command_tree()))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_message_advises_only_options_of_its_command(words: str) -> None:
    assert in_vain(words, COMMANDS[words]) <= NEVER_PRINTED


def test_the_messages_that_no_command_prints_are_few() -> None:
    assert set.union(*(in_vain(words, command) for words, command in COMMANDS.items())) == NEVER_PRINTED


def vectors(folder: Path, name: str, label: str = "a", crs: str | None = None, encoding: str | None = None) -> Path:
    shape = shapely.box(330_100, 5_819_500, 330_500, 5_819_900)
    frame = geopandas.GeoDataFrame({"label": [label]}, geometry=[shape], crs=crs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no CRS
        frame.to_file(folder / name, encoding=encoding)
    return folder / name


def undecodable(folder: Path) -> Path:
    """A shapefile that says neither its CRS nor its encoding, which is neither UTF-8 nor cp1252."""
    path = vectors(folder, "text.shp", "БНПР", encoding="cp866")
    path.with_suffix(".cpg").write_text("UTF-8")
    return path


def table(folder: Path) -> Path:
    (folder / "table.csv").write_text("lon,lat,label\n330000,5820000,a\n")
    return folder / "table.csv"


LINES = {
    "zones": "zones {folder}/labels.tif {file}",
    "an area to map": "predict {folder}/head.safetensors --aoi {file} -o {folder}/map.tif",
    "an area to reconstruct": "reconstruct {folder}/region.safetensors --aoi {file} -o {folder}/map.tif",
    "a test area": "check {folder}/region.safetensors {folder}/labels.tif --no-picture --test-area {file}",
    "labels": "check {folder}/region.safetensors {file} --no-picture",
    "a labelled area": "check {folder}/region.safetensors {own} --no-picture --background x --labelled-area {file}",
    "labels to evaluate by": "evaluate {folder}/head.safetensors {file}",
    "labels to stay away from": "suggest {folder}/head.safetensors --labels {file} -o {folder}/suggest.gpkg",
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    "make",
    [lambda folder: vectors(folder, "bare.gpkg"), lambda folder: vectors(folder, "bare.geojson"), undecodable, table],
    ids=["GeoPackage", "GeoJSON", "shapefile", "table"],
)
def test_a_file_that_does_not_say_enough_gets_advice_that_can_be_taken(
    folder: Folder, line: str, make: Callable[[Path], Path]
) -> None:
    here = folder.path
    own = vectors(here, "own.gpkg", crs="EPSG:32633")
    words = LINES[line].format(folder=here, file=make(here), own=own).split()
    told = refusal(*words)
    options = {option for each in COMMANDS[words[0]].params for option in each.opts}
    assert set(re.findall(r"(?<=\s)--[a-z-]+", told)) <= options
    assert not ARGUMENT.search(told)
