"""`lianet-user suggest`: head in, places to label next out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lianet_user.cli.console import choose_device, optional_region_file, print_next, progress, quoted, wrote
from lianet_user.cli.options import WHERE, AsJson, Date, Device, Overwrite, Quiet, RegionOption, grouped
from lianet_user.errors import OutputError

if TYPE_CHECKING:
    from lianet_user.maps.suggest import Suggestions


def suggest(
    head: Annotated[Path, typer.Argument(metavar="[HEAD]", help="Head file.")] = Path("head.safetensors"),
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=10_000, help="Places to suggest.")] = 20,
    bbox: Annotated[
        str | None, grouped(WHERE, "Box to look in, in degrees. Default: the whole region.", metavar="W,S,E,N")
    ] = None,
    bbox_crs: Annotated[str, grouped(WHERE, "Coordinate reference system of --bbox.")] = "EPSG:4326",
    date: Date = None,
    size: Annotated[int, typer.Option(min=1, max=100, help="Pixels along the side of a place.")] = 5,
    spacing: Annotated[
        float | None, grouped(WHERE, "Between places. Default: from their number.", metavar="METRES", min=0)
    ] = None,
    labels: Annotated[Path | None, grouped(WHERE, "Labels you have: no place touches them.")] = None,
    layer: Annotated[str | None, grouped(WHERE, "Layer of --labels, where the file has several.")] = None,
    labels_crs: Annotated[
        str | None, grouped(WHERE, "CRS of --labels, where the file states none.", metavar="EPSG:n")
    ] = None,
    encoding: Annotated[str | None, grouped(WHERE, "Character encoding of --labels, a shapefile or a table.")] = None,
    band: Annotated[int | None, grouped(WHERE, "Band of --labels, a raster, from 1.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.gpkg", help="GeoPackage to write.")] = Path(
        "suggest.gpkg"
    ),
    picture: Annotated[bool, typer.Option(help="Draw the places over the image that the region remembers.")] = True,
    region: RegionOption = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find places to label next: where the head is least sure, apart from each other, and of all its classes.

    Example: lianet-user suggest head.safetensors -n 20 --labels landcover.gpkg -o suggest.gpkg
    """
    from lianet_user.files.artifact import open_head_file, refuse_existing
    from lianet_user.files.header import parse_date
    from lianet_user.geo.grid import parse_bbox

    if output.suffix.lower() != ".gpkg":
        raise OutputError(f"{output}: expected a name that ends in .gpkg, a GeoPackage: give one with -o")
    figure = output.with_suffix(".png")
    box = parse_bbox(bbox) if bbox is not None else None
    chosen_date = parse_date(date) if date is not None else None
    file = open_head_file(head)  # a wrong file is refused before torch is imported

    def refuse_outputs() -> None:
        for path in [output, *([figure] if picture else [])]:
            refuse_existing(path, overwrite)

    given = optional_region_file(region, quiet, refuse_outputs)

    from lianet_user.catalog import region_of_head
    from lianet_user.geo.ground_area import pixel_metres
    from lianet_user.head import Head
    from lianet_user.maps.suggest import labelled_ground, write_suggestions
    from lianet_user.maps.suggest import suggest as find

    with progress(quiet) as bars:
        opened = Head.open(file, region_of_head(file.header, head, given), choose_device(device))
        away = None
        if labels:
            away = labelled_ground(
                labels, opened.region.header, layer=layer, labels_crs=labels_crs, encoding=encoding, band=band
            )
        metres = min(pixel_metres(opened.region.geobox))
        suggestions = find(
            opened,
            number,
            bbox=box,
            bbox_crs=bbox_crs,
            date=chosen_date,
            size=size,
            spacing=None if spacing is None else spacing / metres,
            away=away,
            before_computing=refuse_outputs,
            listener=bars.task("looking"),
        )
        write_suggestions(suggestions, opened, output, overwrite=overwrite)
        if picture:
            from lianet_user.report.figures import suggestions_figure

            suggestions_figure(suggestions, opened, figure)
    if as_json:
        print(json.dumps(_document(suggestions, output, figure if picture else None), indent=2))
    elif not quiet:
        drawn = f" and {figure}" if picture else ""
        wrote(output, f"{drawn}: {_line(suggestions)}")
        column = "class" if file.header.classes else "value"
        field = "" if file.header.classes else " --field value"
        print_next(
            f"fill in the column {column!r} of {output} with QGIS (places left empty are skipped), copy the places into your"
            " labels, and train again",
            f"or go on from this head: lianet-user finetune REGION {quoted(output)}{field} --from {quoted(head)}",
        )


def _line(suggestions: Suggestions) -> str:
    values = [place.uncertainty for place in suggestions.places]
    return f"{len(values)} places, uncertainty {values[0]:.3g} (first) to {min(values):.3g}"


def _document(suggestions: Suggestions, output: Path, figure: Path | None) -> dict[str, object]:
    return {
        "suggestions": str(output),
        "picture": str(figure) if figure else None,
        "date": str(suggestions.date),
        "places": [asdict(place) for place in suggestions.places],
    }
