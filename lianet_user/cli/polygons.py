"""`lianet-user polygons`: a finished map of classes in, its areas as polygons out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lianet_user.cli.console import print_next, wrote
from lianet_user.cli.options import AsJson, Overwrite, Quiet

MapPath = Annotated[Path, typer.Argument(metavar="MAP", help="Map (GeoTIFF) that predict wrote.")]


def polygons(
    map_path: MapPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.gpkg", help="GeoPackage to write.")] = Path(
        "polygons.gpkg"
    ),
    simplify: Annotated[
        float,
        typer.Option(
            metavar="PIXELS", help="Smooth the stairs that pixels make, for both neighbours alike. 0: not at all."
        ),
    ] = 2.0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a map of classes into polygons that share their borders, with class, code and hectares.

    Example: lianet-user polygons map.tif -o polygons.gpkg
    """
    from lianet_user.maps.polygons import polygons as write_polygons

    result = write_polygons(map_path, output, simplify=simplify, overwrite=overwrite)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
    elif not quiet:
        areas = ", ".join(f"{name} {hectares:,.1f} ha" for name, hectares in result.hectares.items())
        wrote(result.path, f" ({result.polygons:,} polygons, {result.seconds:.0f} s): {areas}")
        print_next(f"open {result.path} in QGIS, which shows the map's colours")
