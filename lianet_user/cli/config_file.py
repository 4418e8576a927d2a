"""The configuration file (--config): a TOML file that holds what options say and more, such as every number of the training.

Options override it, table by table; imagery is opened with the two together.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lianet_user.errors import InputError, did_you_mean
from lianet_user.files.container import read_toml

if TYPE_CHECKING:
    from lianet_user.imagery import Imagery

TABLES = ("imagery", "training", "region")
T = TypeVar("T")


def read_config(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of a configuration file; all are empty without one.

    Raises:
        InputError: the file cannot be read, is not TOML, or has other tables.
    """
    tables: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    if path is None:
        return tables
    for name, table in read_toml(path).items():
        if name not in TABLES or not isinstance(table, dict):
            raise InputError(f"{path} has {name!r}, expected the tables {', '.join(f'[{each}]' for each in TABLES)}")
        tables[name] = table
    return tables


def checked_settings(kind: type[T], table: str, values: dict[str, Any]) -> T:
    """An instance of a dataclass of settings, from the values of a table and the options.

    Raises:
        InputError: a name is unknown, or a value has the wrong type.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all of them are dataclasses
    for name in values:
        if name not in known:
            raise InputError(f"[{table}] has no {name!r}: it has {', '.join(known)}{did_you_mean(name, known)}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        choices = re.findall(r"'([^']*)'", first["msg"]) if first["type"] == "literal_error" else []
        close = did_you_mean(str(first["input"]), choices)
        raise InputError(f"[{table}] {where} cannot be {first['input']!r}: {first['msg']}{close}") from error


def open_given_imagery(paths: list[str], table: dict[str, Any], given: dict[str, Any], quiet: bool) -> Imagery:
    """Open imagery, and print what it holds.

    Args:
        paths: as typed.
        table: the table [imagery] of the configuration file.
        given: the options, which override it.
        quiet: print nothing.

    Raises:
        InputError: a setting is unknown or its value is not possible.
        ImageryError: imagery that cannot be encoded as it is.
    """
    from lianet_user.cli.console import err, out
    from lianet_user.files.header import acquisition_of
    from lianet_user.imagery import ImageryOptions, open_imagery

    values = {**table, **given}
    if "dates" in values:
        try:
            values["dates"] = [acquisition_of(value) for value in values["dates"]]
        except ValueError as error:
            raise InputError(f"dates: {error}") from error
    imagery = open_imagery(paths, checked_settings(ImageryOptions, "imagery", values))
    if not quiet:
        first, last = imagery.acquisitions[0].date, imagery.acquisitions[-1].date
        when = f"on {first}" if first == last else f"on {len(imagery.acquisitions)} dates from {first} to {last}"
        height, width = imagery.shape
        names = " ".join(band.name for band in imagery.bands)
        out.print(f"{imagery.source}: {width} x {height} px {when}, bands {names}", soft_wrap=True)
        for note in imagery.notes:
            err.print(note, style="dim", soft_wrap=True)
    return imagery
