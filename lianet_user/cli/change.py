"""`lianet-user change`: a region or a head and two dates in, what differs between them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    advise_resuming,
    choose_device,
    map_document,
    mapping,
    optional_region_file,
    out,
    print_next,
    region_file,
    wrote,
)
from lianet_user.cli.options import (
    HOW,
    WHAT,
    AreaOptions,
    AsJson,
    Device,
    Quiet,
    RegionOption,
    WritingOptions,
    grouped,
    maps_an_area,
    writes_maps,
)
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.maps.change import ChangeResult

MOST_COLUMNS = 12
"""Classes of a from-to matrix that a terminal shows; of more, the largest changes are listed."""


@maps_an_area
@writes_maps
def change(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="REGION|HEAD",
            help="Region, by its file or name; or a head file, for changes between its classes.",
        ),
    ],
    first: Annotated[str, grouped(WHAT, "Date of the state before.", "--from", metavar="YYYY-MM-DD")],
    last: Annotated[str, grouped(WHAT, "Date of the state after.", "--to", metavar="YYYY-MM-DD")],
    extrapolate: Annotated[
        bool,
        grouped(WHAT, "Let a region estimate dates before its first and after its last acquisition.", "--extrapolate"),
    ] = False,
    output: Annotated[
        Path,
        grouped(
            HOW, "Map to write; of classes, MAP.csv with their areas lies beside it.", "--output", "-o", metavar="MAP"
        ),
    ] = Path("change.tif"),
    region: RegionOption = None,
    area_options: AreaOptions,
    writing_options: WritingOptions,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Map what changed between two dates: in the image a region remembers, or from class to class of a head.

    Example: lianet-user change head.safetensors --from 2018-05-13 --to 2018-09-15 -o change.tif
    """
    from lianet_user.files.artifact import declared_kind, open_head_file, open_region_file, refuse_existing

    def refuse_output() -> None:
        refuse_existing(output, writing_options.overwrite)

    path = region_file(source, quiet, refuse_output)
    # A file that is neither is refused before torch is imported.
    head_file = open_head_file(path) if declared_kind(path) == "head" else None
    own_file = open_region_file(path) if head_file is None else None
    if head_file is not None and extrapolate:
        raise InputError("--extrapolate is for regions: a head answers only at dates that its region holds")
    if own_file is not None and region is not None:
        raise InputError(f"--region {region} is for heads, and {source} is a region itself: omit it")
    given = optional_region_file(region, quiet, refuse_output)

    from lianet_user.catalog import region_of_head
    from lianet_user.head import Head
    from lianet_user.maps.change import change as write_change
    from lianet_user.region import Region

    with mapping(quiet) as listener, advise_resuming(output, "change"):
        chosen = choose_device(device)
        opened: Region | Head
        if head_file is not None:
            opened = Head.open(head_file, region_of_head(head_file.header, path, given), chosen)
        else:
            opened = Region.open(own_file or path, chosen)
        result = write_change(
            opened,
            output,
            first=first,
            last=last,
            area=area_options.area(),
            extrapolate=extrapolate,
            listener=listener,
            **writing_options.arguments,
        )
    if as_json:
        print(json.dumps(_document(result), indent=2))
    elif not quiet:
        _print(result)
        print_next(f"open {result.path} in QGIS")


def _print(result: ChangeResult) -> None:
    size = f"{result.geobox.width} x {result.geobox.height} px"
    words = f"{result.first.words} to {result.last.words}"
    about = "" if result.classes else f": {result.summary.line()}"
    wrote(result.path, f" ({result.title}, {words}; {size}, {result.seconds:.0f} s){about}")
    if result.noise is not None:
        out.print(
            f"where nothing changed it shows {result.noise:.2g} on average: the region remembers neither date exactly",
            soft_wrap=True,
        )
    if result.classes:
        _print_matrix(result)
    wrote(result.quicklook, " to look at" + (f" and {result.table} with the areas" if result.table else ""))


def _print_matrix(result: ChangeResult) -> None:
    from rich.table import Table

    areas, names = result.hectares, result.classes
    total = areas.sum()
    changed = total - areas.trace()
    out.print(f"changed: {changed:,.1f} of {total:,.1f} ha ({changed / max(total, 1e-9):.1%})", soft_wrap=True)
    if len(names) <= MOST_COLUMNS:
        table = Table(title="hectares: from the rows to the columns", title_justify="left")
        for heading in ("", *names, "sum"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, row in zip(names, areas, strict=True):
            table.add_row(name, *(f"{each:,.2f}" for each in (*row, row.sum())))
        table.add_row("sum", *(f"{each:,.2f}" for each in (*areas.sum(0), total)))
    else:
        table = Table("from", "to", "hectares", title="largest changes", title_justify="left")
        pairs = [(areas[b, a], names[b], names[a]) for b in range(len(names)) for a in range(len(names)) if a != b]
        for area, before, after in sorted(pairs, reverse=True)[:MOST_COLUMNS]:
            table.add_row(before, after, f"{area:,.2f}")
    out.print(table)


def _document(result: ChangeResult) -> dict[str, Any]:
    classes = {
        "table": str(result.table),
        "classes": list(result.classes),
        "pixels_from_to": result.pixels.tolist(),
        "hectares_from_to": result.hectares.round(4).tolist(),
    }
    moments = (result.first, result.last)
    when = {
        "from": str(result.first.date),
        "to": str(result.last.date),
        "estimated": [str(moment.date) for moment in moments if moment.estimated],
    }
    return {
        **map_document("map", result, **when),
        **(classes if result.classes else result.summary.as_dict()),
        **({"noise": result.noise} if result.noise is not None else {}),
        "seconds": round(result.seconds, 1),
    }
