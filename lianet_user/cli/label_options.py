"""The options that say how labels are to be read: declared once, for every command that reads labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from lianet_user.cli.console import grouped, option_group, out
from lianet_user.errors import InputError
from lianet_user.labels.options import AskedTask, LabelOptions, OnConflict

LabelsPath = Annotated[
    Path,
    typer.Argument(
        metavar="LABELS",
        help="Labels: GeoPackage, Shapefile (zipped too), File Geodatabase, GeoJSON, FlatGeobuf, GeoParquet, a table of"
        " points (CSV), or a raster.",
    ),
]


FILE, MEANING, PIXELS, TIME = "Labels: the file", "Labels: what they mean", "Labels: pixels", "Labels: dates"


def _label_options(
    *,
    field: Annotated[str | None, grouped(FILE, "Column that holds the classes or numbers.")] = None,
    layer: Annotated[str | None, grouped(FILE, "Layer of the file, where it has several.")] = None,
    where: Annotated[
        str | None, grouped(FILE, "Condition that features meet, as \"area > 500 AND kind = 'x'\".")
    ] = None,
    labels_crs: Annotated[str | None, grouped(FILE, "CRS of a file that states none.", metavar="EPSG:n")] = None,
    encoding: Annotated[str | None, grouped(FILE, "Of the text in a shapefile or a table.")] = None,
    band: Annotated[int | None, grouped(FILE, "Band of a raster, from 1.")] = None,
    nodata: Annotated[
        list[float] | None, grouped(FILE, "Value of a raster that means no data, besides the stated one (repeat it).")
    ] = None,
    task: Annotated[AskedTask, grouped(MEANING, "Classes, numbers, or the share of a pixel that is covered.")] = "auto",
    classes: Annotated[
        Path | None, grouped(MEANING, "Order, names and colours: CSV with code, name, color; or a QGIS style (.qml).")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        grouped(
            MEANING,
            "Rename or merge a label; with nothing after the sign, drop it (repeat it).",
            "--map",
            metavar="OLD=NEW",
        ),
    ] = None,
    background: Annotated[
        str | None, grouped(MEANING, "Class of what bears no label inside --labelled-area.", metavar="NAME")
    ] = None,
    labelled_area: Annotated[
        str | None,
        grouped(
            MEANING, "Polygons inside which everything was mapped; 'region' if the whole region was.", metavar="FILE"
        ),
    ] = None,
    rule: Annotated[Literal["majority", "center"], grouped(PIXELS, "Who owns a mixed pixel.")] = "majority",
    all_touched: Annotated[bool, grouped(PIXELS, "A polygon labels every pixel it touches.", "--all-touched")] = False,
    min_coverage: Annotated[
        float, grouped(PIXELS, "Share of a pixel that its class has to cover.", metavar="SHARE")
    ] = 0.5,
    on_conflict: Annotated[OnConflict, grouped(PIXELS, "What holds where features contradict each other.")] = "ignore",
    buffer: Annotated[
        float, grouped(PIXELS, "Metres around points and lines that bear their label.", metavar="METRES")
    ] = 0.0,
    scale: Annotated[
        int, grouped(PIXELS, "4: labels on a grid of a quarter of the region's pixel.", metavar="1|4")
    ] = 1,
    date: Annotated[
        list[str] | None,
        grouped(TIME, "Acquisition the labels describe (repeat it), or 'all'.", metavar="YYYY-MM-DD"),
    ] = None,
    date_field: Annotated[str | None, grouped(TIME, "Column with the date that each feature describes.")] = None,
    date_tolerance: Annotated[
        int, grouped(TIME, "Days a date may be away from the acquisition taken for it.", metavar="DAYS")
    ] = 0,
) -> LabelOptions:
    """
    Raises:
        InputError: two options contradict each other.
    """
    if all_touched and rule == "center":
        raise InputError("--all-touched and --rule center both say who owns a mixed pixel: give one of them")
    if scale not in (1, 4):
        raise InputError(f"--scale {scale}: expected 1, the region's grid, or 4, a grid of a quarter of its pixel")
    return LabelOptions(
        field=field,
        layer=layer,
        where=where,
        labels_crs=labels_crs,
        encoding=encoding,
        band=band,
        nodata=tuple(nodata or ()),
        task=task,
        classes=classes,
        mapping=tuple(_renaming(text) for text in mapping or ()),
        background=background,
        labelled_area=labelled_area,
        rule="all-touched" if all_touched else rule,
        min_coverage=min_coverage,
        on_conflict=on_conflict,
        buffer=buffer,
        scale=scale,  # type: ignore[arg-type]  # checked above
        dates=tuple(date or ()),
        date_field=date_field,
        date_tolerance=date_tolerance,
    )


def _renaming(text: str) -> tuple[str, str | None]:
    old, sign, new = (part.strip() for part in text.partition("="))
    if not sign or not old:
        raise InputError(f"--map {text!r}: expected OLD=NEW, or OLD= to drop a label")
    return old, new or None


def print_lines(lines: Iterable[str], command: str) -> None:
    """Print lines of a library's report, with its arguments written as options of a command."""
    from lianet_user.cli import as_options  # which is made of this module's commands

    for line in lines:
        out.print(as_options(line, (command,)), soft_wrap=True)


reads_labels = option_group("labels_options", _label_options)
"""For commands with a parameter `labels_options`, a LabelOptions."""
