"""`lianet-user import-checkpoint`: a field that the paper's authors' code encoded, as a region file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lianet_user.cli.console import print_next, quoted, wrote
from lianet_user.cli.options import Overwrite, Quiet, grouped
from lianet_user.cli.pretrain import (
    WORDS,
    RegionAttribution,
    RegionDescription,
    RegionLicence,
    RegionName,
    RegionTitle,
)
from lianet_user.errors import InputError

GRID, IMAGERY, FIELD = "The grid", "The imagery it was trained on", "What the checkpoint may not say"


def import_checkpoint(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where their training wrote used_parameters.json and a .pt file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Region file to write.")] = Path("region.safetensors"),
    about: Annotated[
        Path | None, typer.Option(help="TOML file that says what the options below say; an option overrides it.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The .pt file, where there are several.")] = None,
    name: RegionName = None,
    title: RegionTitle = None,
    description: RegionDescription = None,
    licence: RegionLicence = None,
    attribution: RegionAttribution = None,
    source: Annotated[str | None, grouped(WORDS, "The imagery, in words or product identifiers.")] = None,
    crs: Annotated[str | None, grouped(GRID, "CRS of the grid.", metavar="EPSG:32632")] = None,
    origin: Annotated[str | None, grouped(GRID, "Upper-left corner of the first pixel.", metavar="X,Y")] = None,
    pixel_size: Annotated[float | None, grouped(GRID, "Side of a pixel, in units of the CRS.")] = None,
    width: Annotated[int | None, grouped(GRID, "Pixels across.")] = None,
    height: Annotated[int | None, grouped(GRID, "Pixels down.")] = None,
    dates: Annotated[
        str | None,
        grouped(IMAGERY, "Acquisitions in the checkpoint's order; THH:MM:SS may follow.", metavar="YYYY-MM-DD,..."),
    ] = None,
    bands: Annotated[str | None, grouped(IMAGERY, "Bands in the checkpoint's order.", metavar="B01,B02,...")] = None,
    offset: Annotated[float | None, grouped(IMAGERY, "Number that was subtracted from the digital numbers.")] = None,
    scale: Annotated[float | None, grouped(IMAGERY, "Digital numbers per reflectance 1.0. Default: 10000.")] = None,
    pixel_origin: Annotated[
        str | None, grouped(FIELD, "Where pixels are looked up: center (v1.0.1) or corner (later releases).")
    ] = None,
    extent: Annotated[
        int | None, grouped(FIELD, "Pixels that the grid's cells span, where the checkpoint does not say.")
    ] = None,
    interpolation: Annotated[str | None, grouped(FIELD, "bilinear or mean, where the checkpoint does not say.")] = None,
    region_index: Annotated[int | None, grouped(FIELD, "Which region, where the checkpoint holds several.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Turn a field encoded by the paper's authors' code into a region file.

    Example: lianet-user import-checkpoint results/ --about region.toml -o munich.safetensors
    """
    said = locals()
    said = {key: said[key] for key in said.keys() - {"folder", "output", "about", "checkpoint", "overwrite", "quiet"}}

    from lianet_user.paper_import import import_checkpoint as run
    from lianet_user.paper_import import read_about

    try:
        corner = [float(part) for part in origin.split(",")] if origin else None
    except ValueError as error:
        raise InputError(f"--origin {origin!r}: expected two numbers X,Y") from error
    said |= {
        "origin": corner,
        "dates": dates.split(",") if dates else None,
        "bands": bands.split(",") if bands else None,
    }
    header = run(folder, output, read_about(about, **said, fallback_name=output.stem), checkpoint, overwrite=overwrite)
    if not quiet:
        size = f"{header.grid.width} x {header.grid.height} px"
        wrote(output, f": {size}, {len(header.dates)} dates, {len(header.bands)} bands")
        print_next(f"lianet-user info {quoted(output)}")
