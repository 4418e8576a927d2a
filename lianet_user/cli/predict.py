"""`lianet-user predict`: head in, map out."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    AsJson,
    Device,
    Overwrite,
    Progress,
    Quiet,
    StoppedError,
    choose_device,
    out,
    progress,
    region_path,
    stoppable,
    warn,
)
from lianet_user.cli.option_groups import grouped
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.head import Head
    from lianet_user.maps import MapResult

WHERE, WHAT, HOW = "Where", "What", "How it is written"
MAP, MAPS = Path("map.tif"), Path("maps")


def predict(
    heads: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[HEAD]...", help="Head files: of one region, or one of each of several regions."),
    ] = None,
    bbox: Annotated[str | None, grouped(WHERE, "Box to map. Default: the whole region.", metavar="W,S,E,N")] = None,
    bbox_crs: Annotated[
        str | None, grouped(WHERE, "Coordinate reference system of --bbox. Default: EPSG:4326, degrees.", metavar="CRS")
    ] = None,
    aoi: Annotated[
        Path | None, grouped(WHERE, "Vectors: map only pixels whose centres lie in their polygons.", metavar="FILE")
    ] = None,
    like: Annotated[Path | None, grouped(WHERE, "Raster: map on exactly its grid.", metavar="FILE")] = None,
    dst_crs: Annotated[
        str | None,
        grouped(WHERE, "Coordinate reference system of the map. Default: the region's, not resampled.", metavar="CRS"),
    ] = None,
    resolution: Annotated[
        float | None, grouped(WHERE, "Pixel size of the map in units of its CRS. Default: the region's.")
    ] = None,
    strict: Annotated[bool, grouped(WHERE, "Refuse an area that lies partly outside the region.", "--strict")] = False,
    date: Annotated[
        list[str] | None,
        grouped(WHAT, "Acquisition to map; again for more, A..B for all from A to B, or all.", metavar="YYYY-MM-DD"),
    ] = None,
    probabilities: Annotated[
        bool, grouped(WHAT, "Write MAP_probabilities.tif too: a band for each class, 0 to 1.", "--probabilities")
    ] = False,
    uncertainty: Annotated[
        str | None, grouped(WHAT, "Write MAP_uncertainty.tif too, 0 to 1: entropy or margin.", metavar="KIND")
    ] = None,
    tta: Annotated[
        bool, grouped(WHAT, "Average the answers over eight turns and mirrors; takes longer.", "--tta")
    ] = False,
    min_area: Annotated[
        float | None,
        grouped(WHAT, "Turn patches of a class smaller than this into what surrounds them.", metavar="HECTARES"),
    ] = None,
    output: Annotated[
        Path | None,
        grouped(
            HOW, "Map to write, or the folder of several. Default: map.tif, maps.", "--output", "-o", metavar="MAP"
        ),
    ] = None,
    creation: Annotated[
        list[str] | None, grouped(HOW, "Creation option of GDAL's COG driver.", "--co", metavar="KEY=VALUE")
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, grouped(HOW, "Go on from where an interrupted run of the same command stopped.", "--resume")
    ] = False,
    region: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="REGION", parser=region_path, help="Region file or name, where the head does not find it by itself."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Map a box, the polygons of a file, or the whole region, with a trained head.

    Example: lianet-user predict --bbox 12.55,52.46,12.65,52.50 -o map.tif
    """
    from lianet_user.artifact import open_head_file, refuse_existing
    from lianet_user.grid import parse_bbox

    paths = heads or [Path("head.safetensors")]
    if bbox is None and bbox_crs is not None:
        raise InputError(
            f"--bbox-crs {bbox_crs} says what the numbers of --bbox are, and there is none: give both or neither"
        )
    box = parse_bbox(bbox) if bbox is not None else None
    options = dict(_option(text) for text in creation or [])
    several = len(paths) > 1 or bool(date and (len(date) > 1 or date[0] == "all" or ".." in date[0]))
    if not several:
        refuse_existing(output or MAP, overwrite)
    for path in paths:
        open_head_file(path)  # a wrong file is refused before torch is imported

    from lianet_user.maps import MapArea
    from lianet_user.maps import predict as write_maps
    from lianet_user.maps.planning import map_count, planned

    where = MapArea(
        bbox=box,
        bbox_crs=bbox_crs or "EPSG:4326",
        aoi=aoi,
        like=like,
        crs=dst_crs,
        resolution=resolution,
        strict=strict,
    )
    with progress(quiet) as bars, stoppable() as stop_if_asked:
        opened = _open(paths, region or [], choose_device(device))
        target = output or (MAPS if map_count(planned(opened, date or ())) > 1 else MAP)
        try:
            results = write_maps(
                opened,
                target,
                area=where,
                dates=date or (),
                probabilities=probabilities,
                uncertainty=uncertainty,  # type: ignore[arg-type]  # it refuses what it does not know
                turned=tta,
                min_area=min_area,
                overwrite=overwrite,
                resume=resume,
                creation_options=options,
                listener=_shower(bars, stop_if_asked),
            )
        except (StoppedError, KeyboardInterrupt):
            from lianet_user.maps.kept import kept_path

            if kept_path(target).exists():
                warn(f"{target} is not finished: go on from where it stopped with `{_resuming()}`")
            raise
    if as_json:
        print(json.dumps(_document(results), indent=2))
    elif not quiet:
        _print(results, opened[0])


def _open(paths: Sequence[Path], given: Sequence[Path], device: str) -> list[Head]:
    """The heads; those of one region share it."""
    from lianet_user.artifact import open_head_file, open_region_file
    from lianet_user.head import Head
    from lianet_user.region import Region

    by_hash = {open_region_file(path).sha256(): path for path in given} if len(given) > 1 else {}
    regions: dict[str | None, Region] = {}
    heads = []
    for path in paths:
        wanted = open_head_file(path).header.region.sha256
        if wanted in regions:
            head = Head.open_on(path, regions[wanted])
        else:
            head = Head.open(path, by_hash.get(wanted, given[0] if given else None), device)
        regions[head.region.sha256] = head.region
        heads.append(head)
    return heads


def _shower(bars: Progress, stop_if_asked: Callable[[], None]) -> Callable[[int, int], None]:
    """What shows how far the maps are, and how fast; it ends the run where somebody asked for that."""
    begun: list[tuple[float, int]] = []

    def show(done: int, total: int) -> None:
        if not begun:
            begun.append((time.monotonic(), done))
        started, found = begun[0]  # what an earlier run had done says nothing about this one's pace
        rate = (done - found) / 1e6 / max(1e-3, time.monotonic() - started)
        bars.task("mapping")(done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} Mpx, {rate:.2g} Mpx/s")
        stop_if_asked()

    return show


def _resuming() -> str:
    given = sys.argv[1:] if "predict" in sys.argv else ["predict", "..."]
    return shlex.join(["lianet-user", *given, *([] if "--resume" in given else ["--resume"])])


def _print(results: Sequence[MapResult], head: Head) -> None:
    for result in results:
        size = f"{result.geobox.width} x {result.geobox.height} px"
        taken = f", {result.seconds:.0f} s" if len(results) == 1 else ""
        out.print(f"wrote {result.path} ({size}, {result.date}{taken}): {result.summary.line()}", soft_wrap=True)
    shown = "names and colours" if head.header.classes else "colours and unit"
    if len(results) == 1:
        out.print(f"wrote {results[0].quicklook} to look at; QGIS opens the map with its {shown}", soft_wrap=True)
    else:
        out.print(
            f"{len(results)} maps in {results[0].seconds:.0f} s, each with a .png to look at; QGIS opens them with their"
            f" {shown}",
            soft_wrap=True,
        )


def _document(results: Sequence[MapResult]) -> dict[str, Any]:
    return {
        "maps": [
            {
                "map": str(result.path),
                "quicklook": str(result.quicklook),
                "shows": result.title,
                "date": str(result.date),
                "width": result.geobox.width,
                "height": result.geobox.height,
                "outside": result.outside,
                **result.summary.as_dict(),
            }
            for result in results
        ],
        "seconds": round(results[0].seconds, 1),
    }


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--co {text!r}: expected KEY=VALUE, for instance --co COMPRESS=ZSTD")
    return key.upper(), value
