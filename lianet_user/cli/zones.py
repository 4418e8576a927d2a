"""`lianet-user zones`: a finished map and polygons in, a table out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lianet_user.cli.console import print_next, progress, quoted, wrote
from lianet_user.cli.options import AsJson, Overwrite, Quiet
from lianet_user.cli.polygons import MapPath


def zones(
    map_path: MapPath,
    zones_path: Annotated[
        Path, typer.Argument(metavar="ZONES", help="Polygons in any CRS: stands, fields, districts.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Table to write: .csv, or .gpkg with the outlines.")
    ] = Path("zones.csv"),
    layer: Annotated[str | None, typer.Option(help="Layer of the zones' file, where it has several.")] = None,
    labels_crs: Annotated[
        str | None, typer.Option(metavar="EPSG:n", help="CRS of zones whose file states none.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Character encoding of a shapefile of zones.")] = None,
    band: Annotated[int, typer.Option(min=1, help="Band of the map, where it has several.")] = 1,
    prefix: Annotated[str, typer.Option(help="Put before the names of the columns that are added.")] = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Sum up a map in your polygons: hectares and shares of classes, or mean and spread of numbers, for each.

    Example: lianet-user zones map.tif stands.gpkg -o stands.csv
    """
    from lianet_user.maps.zones import check_output
    from lianet_user.maps.zones import zones as sum_up

    with progress(quiet) as bars:
        table = sum_up(
            map_path,
            zones_path,
            layer=layer,
            labels_crs=labels_crs,
            encoding=encoding,
            band=band,
            prefix=prefix,
            before_computing=lambda: check_output(output, overwrite),
            listener=bars.task("zones"),
        )
    table.write(output, overwrite=overwrite)
    if as_json:
        document = {
            "table": str(output),
            "zones": len(table.frame),
            "incomplete": table.incomplete,
            "unit": table.unit,
            "columns": list(table.columns),
        }
        print(json.dumps(document, indent=2))
    elif not quiet:
        numbers = f", numbers in {table.unit}" if table.unit else ""
        wrote(output, f": {len(table.frame):,} zones{numbers}")
        if output.suffix.lower() == ".gpkg":
            print_next(f"open {output} in QGIS")
        else:
            outlines = quoted(output.with_suffix(".gpkg"))
            print_next(f"open {output} in a spreadsheet; with -o {outlines} the outlines come with it, for QGIS")
