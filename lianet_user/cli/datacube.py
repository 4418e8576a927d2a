"""`lianet-user datacube`: region or head in, cube out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import choose_device, optional_region_file, print_next, progress, wrote
from lianet_user.cli.options import WHAT, WHERE, AsJson, Device, Overwrite, Quiet, RegionOption, grouped

if TYPE_CHECKING:
    from lianet_user.datacube.write import CubeResult


def datacube(
    source: Annotated[Path, typer.Argument(metavar="REGION|HEAD", help="Region or head file (.safetensors).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CUBE.zarr|CUBE.nc", help="Cube to write.")],
    bbox: Annotated[
        str | None, grouped(WHERE, "Box to write, in degrees. Default: the whole region.", metavar="W,S,E,N")
    ] = None,
    bbox_crs: Annotated[str, grouped(WHERE, "Coordinate reference system of --bbox.")] = "EPSG:4326",
    date: Annotated[
        list[str] | None,
        grouped(WHAT, "A date to write; again for more. Default: all acquisitions.", metavar="YYYY-MM-DD"),
    ] = None,
    between: Annotated[
        bool, grouped(WHAT, "Let the field estimate dates between its acquisitions (of regions).", "--between")
    ] = False,
    bands: Annotated[
        str | None, grouped(WHAT, "Bands of a region to write. Default: all.", metavar="NAME,NAME")
    ] = None,
    probabilities: Annotated[
        bool, grouped(WHAT, "Write those of the classes too (of heads).", "--probabilities")
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
    from lianet_user.datacube.dataset import lazy_dataset
    from lianet_user.datacube.write import check_output, write_datacube
    from lianet_user.geo.grid import parse_bbox

    box = parse_bbox(bbox) if bbox is not None else None
    given = optional_region_file(region, quiet, lambda: check_output(output, overwrite))
    chosen: dict[str, Any] = {"region": given, "dates": date, "between": between, "probabilities": probabilities}
    lazy_dataset(source, **chosen)  # what is wrong with the files is said before torch is imported
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
        wrote(result.path, f" ({', '.join(result.variables)}: {size})")
        opener = "open_zarr" if result.path.suffix == ".zarr" else "open_dataset"
        print_next(f"in Python: xarray.{opener}({str(result.path)!r})")


def _summary(result: CubeResult) -> dict[str, Any]:
    return {
        "cube": str(result.path),
        "variables": list(result.variables),
        "sizes": result.sizes,
        "bytes": result.bytes,
        "outside": result.outside,
        "seconds": round(result.seconds, 1),
    }
