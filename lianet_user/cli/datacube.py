"""`lianet-user datacube`: region or head in, cube out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    AsJson,
    Device,
    Overwrite,
    Quiet,
    RegionOption,
    choose_device,
    given_region,
    out,
    progress,
)

if TYPE_CHECKING:
    from lianet_user.cube.writing import CubeResult


def datacube(
    source: Annotated[Path, typer.Argument(metavar="REGION|HEAD", help="Region or head file (.safetensors).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CUBE.zarr|CUBE.nc", help="Cube to write.")],
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Box to write, in degrees. Default: the whole region.")
    ] = None,
    bbox_crs: Annotated[str, typer.Option(help="Coordinate reference system of --bbox.")] = "EPSG:4326",
    date: Annotated[
        list[str] | None,
        typer.Option(
            metavar="YYYY-MM-DD", help="A date to write; may be given several times. Default: all acquisitions."
        ),
    ] = None,
    between: Annotated[
        bool, typer.Option("--between", help="Let the field estimate dates between its acquisitions (of regions).")
    ] = False,
    bands: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Bands of a region to write. Default: all.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write those of the classes too (of heads).")
    ] = False,
    region: RegionOption = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a region's reflectance, or what a head maps, as a data cube.

    xarray opens the files themselves as cubes, and computes what is looked at, with engine="lianet".

    Example: lianet-user datacube models/bouconne.safetensors --bands B04,B08 -o cube.zarr
    """
    from lianet_user.cube.dataset import described
    from lianet_user.cube.writing import check_output, write_datacube
    from lianet_user.grid import parse_bbox

    check_output(output, overwrite)
    box = parse_bbox(bbox) if bbox is not None else None
    given = given_region(region, quiet)
    chosen: dict[str, Any] = {"region": given, "dates": date, "between": between, "probabilities": probabilities}
    described(source, **chosen)  # what is wrong with the files is said before torch is imported
    with progress(quiet) as bars:
        result = write_datacube(
            source,
            output,
            bbox=box,
            bbox_crs=bbox_crs,
            bands=[name.strip() for name in bands.split(",")] if bands is not None else None,
            device=choose_device(device),
            overwrite=overwrite,
            listener=lambda done, total: bars.task("computing")(done, total),
            **chosen,
        )
    if as_json:
        print(json.dumps(_summary(result), indent=2))
    elif not quiet:
        sizes = " x ".join(f"{size} {name}" for name, size in result.sizes.items())
        size = f"{sizes}, {result.bytes / 1e6:.1f} MB, {result.seconds:.0f} s"
        out.print(f"wrote {result.path} ({', '.join(result.variables)}: {size})", soft_wrap=True)


def _summary(result: CubeResult) -> dict[str, Any]:
    return {
        "cube": str(result.path),
        "variables": list(result.variables),
        "sizes": result.sizes,
        "bytes": result.bytes,
        "outside": result.outside,
        "seconds": round(result.seconds, 1),
    }
