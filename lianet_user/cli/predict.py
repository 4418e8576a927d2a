"""`lianet-user predict`: head in, map out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    advise_resuming,
    choose_device,
    choose_precision,
    map_document,
    mapping,
    out,
    print_next,
    quoted,
    region_file,
    wrote,
)
from lianet_user.cli.options import (
    HOW,
    WHAT,
    AreaOptions,
    AsJson,
    ComputedIn,
    Device,
    Quiet,
    WritingOptions,
    grouped,
    maps_an_area,
    writes_maps,
)
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.field.model import Precision
    from lianet_user.files.artifact import ArtifactFile
    from lianet_user.files.header import HeadHeader
    from lianet_user.head import Head
    from lianet_user.maps import MapResult

MAP, MAPS = Path("map.tif"), Path("maps")


@maps_an_area
@writes_maps
def predict(
    *,
    heads: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[HEAD]...", help="Head files: of one region, or one of each of several regions."),
    ] = None,
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
    polygons: Annotated[
        Path | None, grouped(WHAT, "Write the areas of the map of classes as polygons too.", metavar="FILE.gpkg")
    ] = None,
    zones: Annotated[
        Path | None, grouped(WHAT, "Sum the map up in these polygons too, in MAP_zones.csv.", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None,
        grouped(
            HOW, "Map to write, or the folder of several. Default: map.tif, maps.", "--output", "-o", metavar="MAP"
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGION", help="Region file or name, where the head's region is not in its recorded place."
        ),
    ] = None,
    area_options: AreaOptions,
    writing_options: WritingOptions,
    device: Device = "auto",
    precision: ComputedIn = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Map a box, the polygons of a file, or the whole region, with a trained head.

    Example: lianet-user predict --bbox 12.55,52.46,12.65,52.50 -o map.tif
    """
    from lianet_user.files.artifact import open_head_file, refuse_existing

    paths = heads or [Path("head.safetensors")]
    several = len(paths) > 1 or bool(date and (len(date) > 1 or date[0] == "all" or ".." in date[0]))
    files = [open_head_file(path) for path in paths]  # a wrong file is refused before torch is imported
    kind = choose_precision(precision)
    beside = _Beside.of(polygons, zones, output or MAP, several)

    def refuse_outputs() -> None:
        if not several:
            refuse_existing(output or MAP, writing_options.overwrite)
        beside.refuse_existing(writing_options.overwrite)

    regions = [region_file(text, quiet, refuse_outputs) for text in region or ()]

    from lianet_user.maps import predict as write_maps
    from lianet_user.maps.predict import group_heads, map_count

    with mapping(quiet) as listener:
        opened = _open(files, regions, choose_device(device), kind)
        target = output or (MAPS if map_count(group_heads(opened, date or ())) > 1 else MAP)
        if polygons and opened[0].header.numbers is not None:
            raise InputError("--polygons is for maps of classes, and this head answers with numbers: omit it")
        beside.refuse_existing(writing_options.overwrite)
        with advise_resuming(target, "predict"):
            results = write_maps(
                opened,
                target,
                area=area_options.area(),
                dates=date or (),
                probabilities=probabilities,
                uncertainty=uncertainty,  # type: ignore[arg-type]  # it refuses what it does not know
                turned=tta,
                min_area=min_area,
                listener=listener,
                **writing_options.arguments,
            )
    beside.write(results[0].path, writing_options.overwrite)
    if as_json:
        print(json.dumps(_document(results) | beside.document, indent=2))
    elif not quiet:
        _print(results)
        for made in beside.document.values():
            wrote(made)
        _print_next(results, opened[0])


@dataclass(frozen=True)
class _Beside:
    """What is made of a single finished map: polygons of its areas, and sums in polygons of the user."""

    polygons: Path | None
    zones: Path | None
    table: Path | None

    @classmethod
    def of(cls, polygons: Path | None, zones: Path | None, target: Path, several: bool) -> _Beside:
        """What was asked for, where it can be made.

        Raises:
            InputError: there are several maps, or no zones file.
        """
        table = target.with_name(f"{target.stem}_zones.csv") if zones else None
        if several and (polygons or zones):
            option, command = ("--polygons", "polygons") if polygons else ("--zones", "zones")
            raise InputError(
                f"{option} is for a single map, and several were asked for: use `lianet-user {command} MAP` on each"
            )
        if zones and not zones.exists():
            raise InputError(f"--zones {zones}: there is no such file")
        return cls(polygons, zones, table)

    def refuse_existing(self, overwrite: bool) -> None:
        """Refuse files before any map is computed.

        Raises:
            OutputError: a file exists and may not be replaced, or its name has the wrong ending.
        """
        if self.polygons:
            from lianet_user.maps.geopackage import check_geopackage

            check_geopackage(self.polygons, overwrite)
        if self.table:
            from lianet_user.files.artifact import refuse_existing

            refuse_existing(self.table, overwrite)

    @property
    def document(self) -> dict[str, str]:
        made = {"polygons": self.polygons, "zones": self.table}
        return {name: str(path) for name, path in made.items() if path}

    def write(self, finished: Path, overwrite: bool) -> None:
        if self.polygons:
            from lianet_user.maps.polygons import polygons as write_polygons

            write_polygons(finished, self.polygons, overwrite=overwrite)
        if self.zones and self.table:
            from lianet_user.maps.zones import zones as sum_up

            sum_up(finished, self.zones).write(self.table, overwrite=overwrite)


def _open(
    files: Sequence[ArtifactFile[HeadHeader]], given: Sequence[Path], device: str, precision: Precision
) -> list[Head]:
    """Open the heads; heads of one region share it."""
    from lianet_user.catalog import region_of_head
    from lianet_user.files.artifact import open_region_file
    from lianet_user.head import Head
    from lianet_user.region import Region

    named = [open_region_file(path) for path in given]
    by_hash = {file.sha256(): file for file in named} if len(named) > 1 else {}
    regions: dict[str | None, Region] = {}
    heads = []
    for file in files:
        own_hash = file.header.region.sha256
        if own_hash in regions:
            head = Head.open_on(file, regions[own_hash])
        else:
            region = by_hash.get(own_hash) or (named[0] if named else region_of_head(file.header, file.path))
            head = Head.open(file, region, device, precision)
        regions[head.region.sha256] = head.region
        heads.append(head)
    return heads


def _print(results: Sequence[MapResult]) -> None:
    for result in results:
        size = f"{result.geobox.width} x {result.geobox.height} px"
        taken = f", {result.seconds:.0f} s" if len(results) == 1 else ""
        wrote(result.path, f" ({size}, {result.date}{taken}): {result.summary.line()}")
    if len(results) == 1:
        wrote(results[0].quicklook, " to look at")
    else:
        out.print(f"{len(results)} maps in {results[0].seconds:.0f} s, each with a .png to look at", soft_wrap=True)


def _print_next(results: Sequence[MapResult], head: Head) -> None:
    path = results[0].path if len(results) == 1 else "MAP"
    if head.header.classes:
        print_next(
            f"open {path} in QGIS, which shows its names and colours",
            f"lianet-user polygons {quoted(path)}",
            f"lianet-user zones {quoted(path)} ZONES",
        )
    else:
        print_next(f"open {path} in QGIS, which shows its colours and unit", f"lianet-user zones {quoted(path)} ZONES")


def _document(results: Sequence[MapResult]) -> dict[str, Any]:
    return {
        "maps": [map_document("map", result, date=str(result.date)) | result.summary.as_dict() for result in results],
        "seconds": round(results[0].seconds, 1),
    }
