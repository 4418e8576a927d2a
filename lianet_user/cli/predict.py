"""`lianet-user predict`: head in, map out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import AsJson, Date, Device, Overwrite, Quiet, RegionOption, choose_device, out, progress
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.maps import MapResult


def predict(
    head: Annotated[Path, typer.Argument(metavar="[HEAD]", help="Head file.")] = Path("head.safetensors"),
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Box to map, in degrees. Default: the whole region.")
    ] = None,
    bbox_crs: Annotated[str, typer.Option(help="Coordinate reference system of --bbox.")] = "EPSG:4326",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MAP.tif", help="Map to write.")] = Path("map.tif"),
    region: RegionOption = None,
    date: Date = None,
    creation: Annotated[
        list[str] | None, typer.Option("--co", metavar="KEY=VALUE", help="Creation option of GDAL's COG driver.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Map a box, or the whole region, with a trained head.

    Example: lianet-user predict --bbox 12.55,52.46,12.65,52.50 -o map.tif
    """
    from lianet_user.artifact import open_head_file, refuse_existing
    from lianet_user.grid import parse_bbox
    from lianet_user.header import parse_date

    refuse_existing(output, overwrite)
    box = parse_bbox(bbox) if bbox is not None else None
    options = dict(_option(text) for text in creation or [])
    chosen_date = parse_date(date) if date is not None else None
    open_head_file(head)  # a wrong file is refused before torch is imported

    from lianet_user.head import Head
    from lianet_user.maps import predict as write_map

    with progress(quiet) as bars:
        opened = Head.open(head, region, choose_device(device))
        result = write_map(
            opened,
            output,
            bbox=box,
            bbox_crs=bbox_crs,
            date=chosen_date,
            overwrite=overwrite,
            creation_options=options,
            listener=lambda done, total: bars.task("mapping")(
                done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} Mpx"
            ),
        )
    if as_json:
        print(json.dumps(_summary(result), indent=2))
    elif not quiet:
        size = f"{result.geobox.width} x {result.geobox.height} px"
        made = f"wrote {result.path} ({size}, {result.date}, {result.seconds:.0f} s): {result.summary.line()}"
        out.print(made, soft_wrap=True)
        shown = "names and colours" if opened.header.classes else "colours and unit"
        out.print(f"wrote {result.quicklook} to look at; QGIS opens the map with its {shown}", soft_wrap=True)


def _summary(result: MapResult) -> dict[str, Any]:
    return {
        "map": str(result.path),
        "quicklook": str(result.quicklook),
        "date": str(result.date),
        "width": result.geobox.width,
        "height": result.geobox.height,
        **result.summary.as_dict(),
        "outside": result.outside,
        "seconds": round(result.seconds, 1),
    }


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--co {text!r}: expected KEY=VALUE, for instance --co COMPRESS=ZSTD")
    return key.upper(), value
