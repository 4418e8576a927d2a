"""The TOML file that says what options say, and more: every number of the training, offsets of single dates."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lianet_user.errors import InputError, did_you_mean
from lianet_user.files.toml import read_toml

TABLES = ("imagery", "training", "region")
T = TypeVar("T")


def read_config(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of a configuration file; all are empty without one.

    Raises:
        InputError: it cannot be read, is no TOML, or has other tables.
    """
    tables: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    if path is None:
        return tables
    for name, table in read_toml(path).items():
        if name not in TABLES or not isinstance(table, dict):
            raise InputError(f"{path} has {name!r}, expected the tables {', '.join(f'[{each}]' for each in TABLES)}")
        tables[name] = table
    return tables


def merged(kind: type[T], table: str, values: dict[str, Any]) -> T:
    """An instance of a dataclass from what a table and the options say.

    Raises:
        InputError: an unknown name, or a value of another type.
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
