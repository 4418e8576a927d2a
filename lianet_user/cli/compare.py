"""`lianet-user compare`: how good a head is beside models that read imagery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    choose_device,
    err,
    format_score,
    out,
    print_next,
    progress,
    quoted,
    region_file,
    stoppable,
    wrote,
)
from lianet_user.cli.imagery import ConfigPath, open_given_imagery, read_config, reads_imagery_beside
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
    from rich.text import Text

    from lianet_user.evaluation.compare import Comparison, Row


@reads_labels
@trains_heads
@splits_labels
@reads_imagery_beside
def compare(
    context: typer.Context,
    region: RegionName,
    labels: LabelsPath,
    imagery: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="The region's imagery, as pretrain takes it, for models that read it (repeat it)."
        ),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RASTER", help="Any raster of features, such as embeddings, to train a head on (repeat it)."
        ),
    ] = None,
    contenders: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="lianet, bands, unet, micro-unet, forest, forest-context, forest-dates. Default: all there is input for.",
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, max=50, help="Parts of the labelled blocks, each judged once. Default: 5.")
    ] = None,
    share_train: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Or: train on this share of the blocks, and judge the rest.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions, each with other blocks.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="TABLE.csv", help="Table to write.")] = None,
    config: ConfigPath = None,
    resume: Resume = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    labels_options: LabelOptions,
    training_options: TrainingOptions,
    split_options: SplitOptions,
    imagery_options: dict[str, Any],
) -> None:
    """See how good your labels' head is beside U-Nets and random forests that are trained on imagery.

    Example: lianet-user compare models/havelland.safetensors landcover.gpkg --field class --imagery imagery/
    """
    from lianet_user.files.artifact import open_region_file, refuse_existing
    from lianet_user.files.checkpoint import remove_checkpoints

    if folds is not None and share_train is not None:
        raise InputError("--folds and --share-train both say which ground is judged: give one of them")
    if split_options.validation is not None:
        raise InputError("compare splits by --folds or --share-train: omit --validation")
    if resume and output is None:
        raise InputError("--resume goes on from what lies beside the table of an earlier run: give it with --output")

    def refuse_outputs() -> None:
        if output is not None:
            refuse_existing(output, overwrite)

    path = region_file(region, quiet, refuse_outputs)
    header = open_region_file(path).header

    from lianet_user.labels import read_labels

    label_map = read_labels(labels, header, labels_options)
    scene = None
    if imagery:
        table = read_config(config)["imagery"]
        table.setdefault("bands", [band.name for band in header.bands])
        scene = open_given_imagery(imagery, table, imagery_options, quiet or as_json)
    elif imagery_options or config:
        raise InputError("there are options for imagery, but no imagery: give it with --imagery")

    from lianet_user.evaluation.compare import SplitPlan
    from lianet_user.evaluation.compare import compare as run
    from lianet_user.region import Region

    words = split_options.arguments(header) | {"seed": split_options.seed or 0}
    plan = SplitPlan(folds=folds or 5, share_train=share_train, repeats=repeats, **words)
    settings = training_options.settings(label_map, header, split_options, plan.trained)
    checkpoint = None
    refuse_outputs()
    if output is not None:
        checkpoint = training_checkpoint(context, output, resume=resume, overwrite=overwrite)
    where = choose_device(device)
    with progress(quiet) as bars, stoppable() as stop_if_asked, resumable(checkpoint, output):

        def show(stage: str, done: float, total: float) -> None:
            bars.task(stage)(done, total)
            stop_if_asked()

        comparison = run(
            Region.open(path, where),
            label_map,
            imagery=scene,
            features=features or (),
            contenders=contenders.split(",") if contenders else None,
            plan=plan,
            settings=settings,
            device=where,
            checkpoint=checkpoint,
            resume=resume,
            listener=show,
        )
    if output is not None:
        comparison.write_csv(output)
        remove_checkpoints(output)
    if as_json:
        print(json.dumps(comparison.as_dict(), indent=2))
    elif not quiet:
        _print(comparison)
        if output is not None:
            wrote(output)
        print_next(
            f"lianet-user finetune {quoted(region)} {quoted(labels)}, with the same options of labels and training"
        )


def _print(comparison: Comparison) -> None:
    from rich.table import Table

    rows = comparison.rows()
    splits = len({outcome.split for outcome in comparison.outcomes})
    table = Table(
        title=f"On ground that was not trained on, mean of {splits} split{'s' * (splits > 1)}", title_justify="left"
    )
    table.add_column("model")
    table.add_column("reads")
    for figure in comparison.figures:
        table.add_column(figure.title, justify="right")
    table.add_column("seconds", justify="right")
    best = {figure.name: comparison.best(figure) for figure in comparison.figures}
    for row in rows:
        cells = [_cell(row, figure.name, best[figure.name]) for figure in comparison.figures]
        table.add_row(row.contender, row.reads, *cells, f"{row.seconds:.0f}")
    out.print(table)
    err.print("means and deviations over the splits; seconds: of training and answering, each time", style="dim")
    if comparison.left_out:
        out.print(
            f"{comparison.left_out:,} of {comparison.labelled:,} labels count for none of them, because imagery or features"
            " are not valid there (clouds, nodata)",
            soft_wrap=True,
        )
    out.print(comparison.sentence(), soft_wrap=True)


def _cell(row: Row, figure: str, best: float | None) -> Text:
    from rich.text import Text

    mean, deviation = row.means[figure], row.deviations[figure]
    if mean is None:
        return Text("-")
    text = format_score(mean) + ("" if deviation is None else f" ± {format_score(deviation)}")
    return Text(text, style="bold" if mean == best else "")
