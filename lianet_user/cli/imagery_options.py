"""The options that say how imagery is to be read: declared once, for every command that reads imagery."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import grouped, option_group
from lianet_user.errors import InputError

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
WHAT, CLOUDS, WHERE = "Imagery: what it holds", "Imagery: clouds", "Imagery: grid"


def _imagery_options(
    *,
    bands: Annotated[
        str | None,
        grouped(
            WHAT,
            "Bands to take, or the names of a stack's layers. Default: all that see the ground.",
            metavar="B02,...",
        ),
    ] = None,
    dates: Annotated[
        str | None, grouped(WHAT, "Of the acquisitions, where the files do not say.", metavar="YYYY-MM-DD,...")
    ] = None,
    since: Annotated[str | None, grouped(WHAT, "Leave earlier acquisitions out.", metavar="YYYY-MM-DD")] = None,
    until: Annotated[str | None, grouped(WHAT, "Leave later ones out.", metavar="YYYY-MM-DD")] = None,
    offset: Annotated[float | None, grouped(WHAT, "Subtracted from the digital numbers.")] = None,
    scale: Annotated[float | None, grouped(WHAT, "Digital numbers per reflectance 1.0.")] = None,
    nodata: Annotated[float | None, grouped(WHAT, "Digital number that is no measurement.")] = None,
    mask: Annotated[
        str | None,
        grouped(
            CLOUDS, "A variable, asset or layer, or a raster or folder of rasters, that marks clouds.", metavar="SCL"
        ),
    ] = None,
    clear: Annotated[str | None, grouped(CLOUDS, "Values of the mask that are clear.", metavar="4,5,6")] = None,
    clear_below: Annotated[float | None, grouped(CLOUDS, "Or: below this probability it is clear.")] = None,
    min_clear: Annotated[
        float | None, grouped(CLOUDS, "Leave acquisitions out of which less is clear.", metavar="SHARE")
    ] = None,
    grid: Annotated[
        str | None, grouped(WHERE, "Raster or region file on whose grid everything is resampled.", metavar="FILE")
    ] = None,
) -> dict[str, Any]:
    """What was given, by the names of ImageryOptions."""
    given = {
        "bands": bands.split(",") if bands else None,
        "dates": dates.split(",") if dates else None,
        "since": _date("--since", since),
        "until": _date("--until", until),
        "offset": offset,
        "scale": scale,
        "nodata": nodata,
        "mask": mask,
        "clear": _numbers(clear),
        "clear_below": clear_below,
        "min_clear": min_clear,
        "grid": grid,
    }
    return {name: value for name, value in given.items() if value is not None}


def _date(option: str, text: str | None) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a date: expected YYYY-MM-DD") from error


def _numbers(text: str | None) -> list[int] | None:
    try:
        return [int(part) for part in text.split(",")] if text else None
    except ValueError as error:
        raise InputError(f"--clear {text!r}: expected whole numbers, as 4,5,6,7,11") from error


reads_imagery = option_group("imagery_options", _imagery_options)
"""For commands with a parameter `imagery_options`, a dict for :func:`opened`."""

reads_imagery_beside = option_group("imagery_options", _imagery_options, "imagery_")
"""The same for commands that read labels too, whose options have the shorter names: --imagery-scale."""


def opened(paths: list[str], table: dict[str, Any], given: dict[str, Any], quiet: bool) -> Imagery:
    """Open imagery and say what was found.

    Args:
        paths: as typed.
        table: [imagery] of the configuration file.
        given: options.
        quiet: say nothing.

    Raises:
        InputError: options that cannot be.
        ImageryError: imagery that cannot be encoded as it is.
    """
    from lianet_user.cli.config_file import merged
    from lianet_user.cli.console import err, out
    from lianet_user.files.header import acquisition_of
    from lianet_user.imagery import ImageryOptions, open_imagery

    values = {**table, **given}
    if "dates" in values:
        try:
            values["dates"] = [acquisition_of(value) for value in values["dates"]]
        except ValueError as error:
            raise InputError(f"dates: {error}") from error
    imagery = open_imagery(paths, merged(ImageryOptions, "imagery", values))
    if not quiet:
        first, last = imagery.acquisitions[0].date, imagery.acquisitions[-1].date
        when = f"on {first}" if first == last else f"on {len(imagery.acquisitions)} dates from {first} to {last}"
        height, width = imagery.shape
        names = " ".join(band.name for band in imagery.bands)
        out.print(f"{imagery.source}: {width} x {height} px {when}, bands {names}", soft_wrap=True)
        for note in imagery.notes:
            err.print(note, style="dim", soft_wrap=True)
    return imagery
