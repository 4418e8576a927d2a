"""`lianet-user finetune`: labels in, head out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    AsJson,
    Date,
    Device,
    Overwrite,
    Quiet,
    RegionPath,
    choose_device,
    err,
    out,
    parse_date,
    progress,
)

if TYPE_CHECKING:
    from lianet_user.header import Scores
    from lianet_user.training import FinetuneProgress


def finetune(
    region: RegionPath,
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Polygons with a class: GeoPackage, Shapefile, ...")],
    field: Annotated[str | None, typer.Option(help="Column that holds the class.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the file, where it has several.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Head file to write.")] = Path("head.safetensors"),
    date: Date = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each member.")] = None,
    members: Annotated[int | None, typer.Option(min=1, max=64, help="Heads that answer together.")] = None,
    validation: Annotated[
        float | None, typer.Option(min=0.05, max=0.5, help="Share of the labelled blocks kept for validation.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.0, help="Learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    device: Device = "auto",
    picture: Annotated[bool, typer.Option(help="Draw labels, prediction and reconstruction beside the head.")] = True,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a head on your labels: six layers on top of a region, in minutes, with no imagery.

    Example: lianet-user finetune models/havelland.safetensors landcover.gpkg --field class
    """
    from lianet_user.artifact import open_region_file, refuse_existing

    figure = output.with_suffix(".png")
    for path in (output, figure) if picture else (output,):
        refuse_existing(path, overwrite)
    chosen_date = parse_date(date)
    header = open_region_file(region).header  # a wrong file is refused before torch is imported

    from lianet_user.labels import read_labels

    label_map = read_labels(labels, header.grid.geobox, field=field, layer=layer)
    if not quiet and not as_json:
        for line in label_map.report.lines():
            out.print(line, soft_wrap=True)

    import dataclasses

    from lianet_user.region import Region
    from lianet_user.training import FinetuneSettings, split_blocks
    from lianet_user.training import finetune as train

    given: dict[str, Any] = {"steps": steps, "members": members, "validation": validation, "rate": rate, "seed": seed}
    settings = dataclasses.replace(FinetuneSettings(), **{key: v for key, v in given.items() if v is not None})
    held_out = split_blocks(label_map, settings.validation, settings.seed)
    with progress(quiet) as bars:

        def show(state: FinetuneProgress) -> None:
            bars.task(state.stage)(state.done, state.total, f"loss {state.loss:.3f}" if state.loss is not None else "")

        opened = Region.open(region, choose_device(device))
        head = train(opened, label_map, date=chosen_date, settings=settings, validation_blocks=held_out, listener=show)
    head.save(output)
    if picture:
        from lianet_user.report import finetune_figure

        finetune_figure(head, label_map, figure, held_out)
    scores = head.header.scores
    assert scores is not None
    if as_json:
        drawn = str(figure) if picture else None
        print(json.dumps({"head": str(output), "picture": drawn, "scores": scores.model_dump(mode="json")}, indent=2))
    elif not quiet:
        _print_scores(scores)
        written = f"wrote {output}" + (f" and {figure}" if picture else "")
        out.print(f"{written} in {head.header.provenance.seconds:.0f} s of training", soft_wrap=True)
        name = "" if output == Path("head.safetensors") else f" {output}"
        err.print(f"next: lianet-user predict{name}", style="dim", soft_wrap=True)


def _print_scores(scores: Scores) -> None:
    from rich.table import Table

    table = Table(title="Validation, on blocks that were not trained on", title_justify="left")
    for column in ("class", "pixels", "IoU", "accuracy", "F1"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for each in scores.classes:
        table.add_row(each.name, f"{each.pixels:,}", *(_figure(value) for value in (each.iou, each.accuracy, each.f1)))
    table.add_section()
    table.add_row(
        "all", f"{scores.pixels:,}", *(_figure(value) for value in (scores.macro_iou, scores.accuracy, scores.macro_f1))
    )
    out.print(table)
    out.print("all: IoU and F1 are means over the classes, accuracy is over the pixels", style="dim")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
