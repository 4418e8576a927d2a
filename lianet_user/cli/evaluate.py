"""`lianet-user evaluate`: how right a finished head is, on labels of one's own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lianet_user.cli.console import (
    choose_device,
    optional_region_file,
    out,
    print_lines,
    print_next,
    print_scores,
    print_scores_by_date,
    progress,
    quoted,
    warn,
)
from lianet_user.cli.options import AsJson, Device, LabelsPath, Quiet, RegionOption, reads_labels
from lianet_user.labels.label_options import LabelOptions

if TYPE_CHECKING:
    from lianet_user.evaluation.evaluate import Evaluation
    from lianet_user.head import Head


@reads_labels
def evaluate(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Head file.")],
    labels: LabelsPath,
    labels_options: LabelOptions,
    region: RegionOption = None,
    areas: Annotated[
        bool,
        typer.Option(
            "--areas", help="Map the region, and estimate each class's area and accuracy with 95 % intervals."
        ),
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a head with labels it was not trained on.

    Example: lianet-user evaluate head.safetensors plots.gpkg --field class --areas
    """
    from lianet_user.files.artifact import open_head_file

    file = open_head_file(head)  # a wrong file is refused before torch is imported
    given = optional_region_file(region, quiet)

    from lianet_user.catalog import region_of_head
    from lianet_user.evaluation.evaluate import evaluate as run
    from lianet_user.head import Head
    from lianet_user.labels import read_labels

    opened = Head.open(file, region_of_head(file.header, head, given), choose_device(device))
    read = read_labels(labels, opened.region.header, dataclasses.replace(labels_options, one_class=True))
    if not quiet and not as_json:
        print_lines(read.report.lines(), "evaluate")
    with progress(quiet) as bars:
        evaluation = run(opened, read, areas=areas, listener=bars.task("mapping"))
    if as_json:
        print(json.dumps(_document(evaluation), indent=2))
    elif not quiet:
        _print(opened, evaluation)
        name = quoted(head)
        print_next(f"lianet-user predict {name}", f"to do better where it is least sure: lianet-user suggest {name}")


def _print(head: Head, evaluation: Evaluation) -> None:
    from rich.table import Table

    judgement, areas = evaluation.judgement, evaluation.areas
    unit = head.header.numbers.unit if head.header.numbers else ""
    print_scores("Against these labels", judgement.scores(), unit)
    print_scores_by_date(judgement.dated_scores(), judgement.of_mean.compute() if judgement.of_mean else None, unit)
    if areas is not None:
        from lianet_user.evaluation.areas import CAVEAT, COLUMNS

        table = Table(title="Areas in hectares and accuracies, with 95 % intervals", title_justify="left")
        for number, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if number else "left")
        for row in areas.rows():
            table.add_row(*row)
        out.print(table)
        out.print(f"accuracy of the map: {areas.accuracy.text(3)}")
        warn(CAVEAT)


def _document(evaluation: Evaluation) -> dict[str, object]:
    judgement = evaluation.judgement
    return {
        "scores": judgement.scores().model_dump(mode="json"),
        "scores_by_date": [each.model_dump(mode="json") for each in judgement.dated_scores()],
        "scores_of_mean": judgement.of_mean.compute().model_dump(mode="json") if judgement.of_mean else None,
        "areas": evaluation.areas.as_dict() if evaluation.areas else None,
    }
