"""How commands read imagery: its options, the configuration file (--config), and opening it with the two together.

The configuration file is a TOML file that holds what options say and more, such as every number of the training. Options
override it, table by table.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lianet_user.cli.console import err, out
from lianet_user.cli.options import grouped, option_group
from lianet_user.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from lianet_user.imagery import Imagery

ImageryPaths = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGERY...",
        help="Sentinel-2 band files, GeoTIFFs with dates in their names or their folders', NetCDF or Zarr cubes, STAC"
        " items, or folders of them.",
    ),
]
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file with the tables imagery, training and region; options override what it says."
    ),
]
IMAGERY, CLOUDS, IMAGERY_GRID = "Imagery: what it holds", "Imagery: clouds", "Imagery: grid"


def _imagery_options(
    *,
    bands: Annotated[
        str | None,
        grouped(
            IMAGERY,
            "Bands to take, or the names of a stack's layers. Default: all that see the ground.",
            metavar="B02,...",
        ),
    ] = None,
    dates: Annotated[
        str | None,
        grouped(IMAGERY, "Dates of the acquisitions, where the files do not state them.", metavar="YYYY-MM-DD,..."),
    ] = None,
    since: Annotated[str | None, grouped(IMAGERY, "Skip earlier acquisitions.", metavar="YYYY-MM-DD")] = None,
    until: Annotated[str | None, grouped(IMAGERY, "Skip later acquisitions.", metavar="YYYY-MM-DD")] = None,
    offset: Annotated[float | None, grouped(IMAGERY, "Subtracted from the digital numbers.")] = None,
    scale: Annotated[float | None, grouped(IMAGERY, "Digital numbers per reflectance 1.0.")] = None,
    nodata: Annotated[float | None, grouped(IMAGERY, "Digital number of missing measurements.")] = None,
    mask: Annotated[
        str | None,
        grouped(
            CLOUDS, "A variable, asset or layer, or a raster or folder of rasters, that marks clouds.", metavar="SCL"
        ),
    ] = None,
    clear: Annotated[str | None, grouped(CLOUDS, "Values of the mask that are clear.", metavar="4,5,6")] = None,
    clear_below: Annotated[float | None, grouped(CLOUDS, "Or: a pixel below this probability is clear.")] = None,
    min_clear: Annotated[
        float | None, grouped(CLOUDS, "Skip acquisitions of which a smaller share is clear.", metavar="SHARE")
    ] = None,
    grid: Annotated[
        str | None,
        grouped(IMAGERY_GRID, "Raster or region file on whose grid everything is resampled.", metavar="FILE"),
    ] = None,
) -> dict[str, Any]:
    """The options that were given, by their names in ImageryOptions."""
    given = locals() | {
        "bands": bands.split(",") if bands else None,
        "dates": dates.split(",") if dates else None,
        "since": _given_date("--since", since),
        "until": _given_date("--until", until),
        "clear": _whole_numbers(clear),
    }
    return {name: value for name, value in given.items() if value is not None}


def _given_date(option: str, text: str | None) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a date: expected YYYY-MM-DD") from error


def _whole_numbers(text: str | None) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise InputError(f"--clear {text!r}: expected whole numbers, as 4,5,6,7,11") from error


reads_imagery = option_group("imagery_options", _imagery_options)
"""For commands with a parameter `imagery_options`, a dict for :func:`open_given_imagery`."""

reads_imagery_beside = option_group("imagery_options", _imagery_options, "imagery_")
"""As `reads_imagery`, for commands that read labels too: options are called --imagery-scale and so on."""


# --- The configuration file.

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
    from lianet_user.files.container import read_toml

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
    from pydantic import TypeAdapter, ValidationError

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
