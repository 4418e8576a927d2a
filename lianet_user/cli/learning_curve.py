"""`lianet-user learning-curve`: what more labels would bring."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    choose_device,
    format_score,
    out,
    print_next,
    progress,
    quoted,
    region_file,
    stoppable,
    wrote,
)
from lianet_user.cli.options import (
    AsJson,
    Device,
    LabelsPath,
    Overwrite,
    Quiet,
    RegionName,
    Resume,
    SplitOptions,
    TrainingOptions,
    reads_labels,
    splits_labels,
    trains_heads,
)
from lianet_user.cli.runs import resumable, training_checkpoint
from lianet_user.errors import InputError
from lianet_user.labels.label_options import LabelOptions

if TYPE_CHECKING:
    from lianet_user.evaluation.learning_curve import CurvePoint
    from lianet_user.finetuning import FinetuneSettings


@reads_labels
@trains_heads
@splits_labels
def learning_curve(
    context: typer.Context,
    region: RegionName,
    labels: LabelsPath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="TABLE.csv", help="Table to write.")] = Path(
        "learning-curve.csv"
    ),
    shares: Annotated[
        str, typer.Option(metavar="S,S,...", help="Shares of the training blocks, from 0 to 1.")
    ] = "0.05,0.1,0.2,0.4,0.7,1",
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Trainings for each share, each with other blocks.")] = 3,
    resume: Resume = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    labels_options: LabelOptions,
    training_options: TrainingOptions,
    split_options: SplitOptions,
) -> None:
    """See what more labels would bring: train on growing shares of yours, and draw the curve.

    Example: lianet-user learning-curve models/havelland.safetensors landcover.gpkg --field class --repeats 2
    """
    from lianet_user.files.artifact import open_region_file, refuse_existing, replacing
    from lianet_user.files.checkpoint import remove_checkpoints
    from lianet_user.labels import read_labels

    chosen = _shares(shares)
    plot = output.with_suffix(".png")

    def refuse_outputs() -> None:
        for path in (output, plot):
            refuse_existing(path, overwrite)

    region_path = region_file(region, quiet, refuse_outputs)
    header = open_region_file(region_path).header
    read = read_labels(labels, header, labels_options)

    def settings(share: float) -> FinetuneSettings:
        return training_options.settings(read, header, split_options, share * split_options.trained)

    all_of_it = settings(1.0)
    all_of_it.check(read)
    refuse_outputs()
    checkpoint = training_checkpoint(context, output, resume=resume, overwrite=overwrite)

    # Only now torch is imported: whatever is wrong with what was typed has been told.
    from lianet_user.evaluation.learning_curve import learning_curve as study
    from lianet_user.region import Region
    from lianet_user.report import learning_curve_figure

    with progress(quiet) as bars, stoppable() as stop_if_asked, resumable(checkpoint, output):

        def show(stage: str, done: float, total: int) -> None:
            bars.task(stage)(done, total, _note(stage, done, total))
            stop_if_asked()

        points = study(
            Region.open(region_path, choose_device(device)),
            read,
            shares=chosen,
            repeats=repeats,
            settings=settings,
            split=lambda repeat: split_options.split(
                read, header, dataclasses.replace(all_of_it, seed=all_of_it.seed + repeat)
            ),
            checkpoint=checkpoint,
            resume=resume,
            listener=show,
        )
    rows = [_row(point) for point in points]
    with replacing(output) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    learning_curve_figure(points, plot, header.title)
    remove_checkpoints(output)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not quiet:
        _print(points)
        wrote(output, f" and {plot}")
        print_next(
            f"where the curve still rises more labels help: lianet-user suggest HEAD --labels {quoted(labels)} says where"
        )


def _note(stage: str, done: float, total: int) -> str:
    return f"run {max(1, math.ceil(done))} of {total}" if stage == "training" else ""


def _shares(text: str) -> list[float]:
    """The shares of a comma-separated text, ascending.

    Raises:
        InputError: they are not numbers above 0 and up to 1.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < share <= 1 for share in values):
        raise InputError(f"--shares {text!r}: expected numbers above 0 and up to 1, as 0.1,0.5,1")
    return sorted(set(values))


def _row(point: CurvePoint) -> dict[str, Any]:
    figures = {
        name: value for name, value in point.scores.model_dump().items() if isinstance(value, float) or value is None
    }
    return {
        "share": point.share,
        "repeat": point.repeat,
        "blocks": point.blocks,
        "pixels": point.pixels,
        "lacking": " ".join(point.lacking),
        **figures,
        "seconds": point.seconds,
    }


def _print(points: list[CurvePoint]) -> None:
    import numpy as np
    from rich.table import Table

    from lianet_user.files.header import Scores

    classes = isinstance(points[0].scores, Scores)
    table = Table(title="On ground that was not trained on, mean over the repeats", title_justify="left")
    for column in ("share", "blocks", "pixels", "macro F1" if classes else "MAE", "deviation", "classes lacking"):
        table.add_column(column, justify="right")
    for share in sorted({point.share for point in points}):
        own = [point for point in points if point.share == share]
        values = [point.figure for point in own if point.figure is not None]
        lacking = sorted({name for point in own for name in point.lacking})
        table.add_row(
            f"{share:.0%}",
            f"{np.mean([point.blocks for point in own]):.0f}",
            f"{np.mean([point.pixels for point in own]):,.0f}",
            format_score(float(np.mean(values))) if values else "-",
            format_score(float(np.std(values, ddof=1))) if len(values) > 1 else "-",
            ", ".join(lacking),
        )
    out.print(table)
