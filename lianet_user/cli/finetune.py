"""`lianet-user finetune`: labels in, head out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lianet_user.cli.console import (
    choose_device,
    headline,
    naming_options,
    out,
    print_lines,
    print_next,
    print_scores,
    print_scores_by_date,
    progress,
    quoted,
    region_file,
    stoppable,
    warn,
    wrote,
)
from lianet_user.cli.options import (
    RUNNING,
    AsJson,
    Device,
    LabelsPath,
    Overwrite,
    Quiet,
    RegionName,
    Resume,
    SplitOptions,
    TrainingOptions,
    grouped,
    reads_labels,
    splits_labels,
    trains_heads,
)
from lianet_user.cli.runs import resumable, training_checkpoint
from lianet_user.errors import InputError, TrainingError
from lianet_user.labels.label_options import LabelOptions

if TYPE_CHECKING:
    from lianet_user.files.header import AnyScores
    from lianet_user.finetuning import Finetuned, FinetuneProgress

DRAWN_MAP = 0.8
"""Share of the time of drawing that the map of the labelled ground takes; the picture and the report share the rest."""


@reads_labels
@trains_heads
@splits_labels
def finetune(
    context: typer.Context,
    region: RegionName,
    labels: LabelsPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Head file to write.")] = Path("head.safetensors"),
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="HEAD",
            help="Train this head on, from its weights: its region was updated, or its labels.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, max=20, help="Judge by cross-validation of so many parts; the head then trains on all labels."
        ),
    ] = None,
    unit: Annotated[str, typer.Option(help="Of numbers, as 'm' or '%'.")] = "",
    resume: Resume = False,
    cache_gb: Annotated[
        float,
        grouped(
            RUNNING,
            "GB of features kept in memory; what is more lies in a file beside the head meanwhile.",
            "--cache-gb",
            min=0.0,
        ),
    ] = 4.0,
    device: Device = "auto",
    picture: Annotated[bool, typer.Option(help="Draw labels, prediction and reconstruction beside the head.")] = True,
    report: Annotated[bool, typer.Option(help="Write a report (.html) beside the head.")] = True,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 1, after writing, if the head is not clearly better than no head."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    labels_options: LabelOptions,
    training_options: TrainingOptions,
    split_options: SplitOptions,
) -> None:
    """Train a head on your labels: on top of a region, in minutes, or with --instant in seconds, with no imagery.

    Example: lianet-user finetune models/havelland.safetensors landcover.gpkg --field class
    """
    from lianet_user.files.artifact import open_head_file, open_region_file, refuse_existing

    figure, page = output.with_suffix(".png"), output.with_suffix(".html")
    written = [output, *([figure] if picture else []), *([page] if report else [])]
    if folds is not None and split_options.validation is not None:
        raise InputError("--folds and --validation both say what is kept to judge by: give one of them")
    start_header = open_head_file(start).header if start else None

    def refuse_outputs() -> None:
        for path in written:
            refuse_existing(path, overwrite)

    region_path = region_file(region, quiet, refuse_outputs)
    header = open_region_file(region_path).header  # a wrong file is refused before torch is imported

    from lianet_user.files.checkpoint import remove_checkpoints
    from lianet_user.labels import read_labels

    label_map = naming_options(read_labels(labels, header, labels_options), "finetune")
    if not quiet and not as_json:
        print_lines(label_map.report.lines(), "finetune")

    share = split_options.trained if folds is None else 1.0
    settings = training_options.settings(label_map, header, split_options, share, start_header)
    if start_header is None:  # else the classes are those of the earlier head, which training compares
        settings.check(label_map)
    parts = split_options.folds(label_map, header, settings, folds) if folds is not None else ()
    split = None if parts else split_options.split(label_map, header, settings)
    refuse_outputs()
    checkpoint = training_checkpoint(context, output, resume=resume, overwrite=overwrite)

    # Only now torch is imported: whatever is wrong with what was typed has been told.
    from lianet_user.finetuning import finetune as train
    from lianet_user.finetuning.finetune import UnfinishedError
    from lianet_user.finetuning.validation import verdict
    from lianet_user.head import Head
    from lianet_user.labels.effort import DRAWING_SECONDS
    from lianet_user.region import Region

    before: AnyScores | None = None
    drawing = (("drawing", DRAWING_SECONDS),) if picture or report else ()
    with progress(quiet) as bars:
        show_task = bars.task("fine-tuning")
        stages: tuple[tuple[str, float], ...] = ()

        def show(state: FinetuneProgress) -> None:
            nonlocal before, stages
            if state.scores is not None:
                before = state.scores
                if not quiet and not as_json:
                    out.print(_before(start, before), soft_wrap=True)
            else:
                stages = state.stages + drawing
                show_task(state.done, state.total, _note(state), stages, state.at)
            stop_if_asked()

        opened = Region.open(region_path, choose_device(device))
        earlier = Head.open_on(start, opened) if start else None
        with stoppable() as stop_if_asked, resumable(checkpoint, output):
            try:
                trained = train(
                    opened,
                    label_map,
                    settings=settings,
                    start=earlier,
                    split=split,
                    folds=parts,
                    unit=unit,
                    checkpoint=checkpoint,
                    resume=resume,
                    cache_gb=cache_gb,
                    listener=show,
                )
            except UnfinishedError as error:
                raise UnfinishedError(f"{error}{_kept(error.last_good, output)}", error.last_good) from error
        trained.head.save(output)
        remove_checkpoints(output)
        if drawing:
            from lianet_user.report import finetune_figure, map_view, write_report

            def drawn(done: float, total: float = 1.0, note: str = "drawing") -> None:
                show_task(done, total, note, stages, len(stages) - 1)

            drawn(0.0)
            mapped = map_view(trained.head, trained.labels, listener=lambda done, total: drawn(DRAWN_MAP * done, total))
            if picture:
                finetune_figure(trained.head, trained.labels, figure, trained.split, mapped)
            if report:
                drawn((1 + DRAWN_MAP) / 2, note="writing the report")
                write_report(
                    trained.head, trained.labels, page, trained.split, trained.history, head_path=output, mapped=mapped
                )
            drawn(1.0, note="")
    failed = verdict(trained.head.header, str(figure) if picture else "a map of it")
    if as_json:
        print(json.dumps(_document(trained, written, before, failed), indent=2))
    elif not quiet:
        _print(trained, before, folds)
        names = [str(path) for path in written]
        listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        wrote(listed, f" in {trained.head.header.provenance.seconds:.0f} s of training")
    if failed and strict:
        raise TrainingError(f"{output} is written, and fails --strict: {failed}")
    if failed:
        warn(failed)
    if not as_json and not quiet:
        name = "" if output == Path("head.safetensors") else f" {quoted(output)}"
        print_next(f"lianet-user predict{name}", f"lianet-user suggest{name} --labels {quoted(labels)}")


def _note(state: FinetuneProgress) -> str:
    """The stage, which round of several it is part of, and how good the head is so far."""
    kinds = [kind for kind, _ in state.stages]
    turn, turns = kinds[: state.at + 1].count(state.stage), kinds.count(state.stage)
    words = [
        state.stage + (f" {turn} of {turns}" if turns > 1 else ""),
        "" if state.loss is None else f"loss {state.loss:.3f}",
        "" if state.figure is None else f"validation {state.figure:.3f}",
    ]
    return ", ".join(filter(None, words))


def _kept(last_good: Finetuned | None, output: Path) -> str:
    """Save what was reached before training failed, and say where."""
    if last_good is None:
        return ""
    path = output.with_name(f"{output.stem}.last-good{output.suffix}")
    last_good.head.save(path)
    return f"; what had been reached before is kept as {path}"


def _before(start: Path | None, scores: AnyScores) -> str:
    return (
        f"Before: {start} has {headline(scores)} on the validation blocks of these labels and the region as it is now; if"
        " its labels were others, it may have been trained on some of these blocks"
    )


def _print(trained: Finetuned, before: AnyScores | None, folds: int | None) -> None:
    from lianet_user.finetuning.priors import assumption, recalled_prior

    header = trained.head.header
    unit = header.numbers.unit if header.numbers else ""
    if prior := recalled_prior(header.provenance.settings["prior"], header.classes):
        print_lines([assumption(prior, trained.labels)], "finetune")
    if header.scores is not None:
        how = f"Cross-validation of {folds} parts" if folds else "Validation"
        print_scores(f"{how}, on blocks that were not trained on", header.scores, unit, before)
    print_scores_by_date(header.scores_by_date, header.scores_of_mean, unit)
    if header.test_scores is not None:
        print_scores("Test area, which nothing was chosen by", header.test_scores, unit)


def _document(
    trained: Finetuned, written: list[Path], before: AnyScores | None, failed: str | None
) -> dict[str, object]:
    from lianet_user.finetuning.validation import intervals

    header = trained.head.header

    def dumped(scores: AnyScores | None) -> object:
        return scores.model_dump(mode="json") if scores else None

    by_suffix = {path.suffix: str(path) for path in written}
    return {
        "head": by_suffix[written[0].suffix],
        "picture": by_suffix.get(".png"),
        "report": by_suffix.get(".html"),
        "verdict": failed,
        "scores": dumped(header.scores),
        "intervals": intervals(header.scores),
        "scores_by_date": [each.model_dump(mode="json") for each in header.scores_by_date],
        "scores_of_mean": dumped(header.scores_of_mean),
        "test_scores": dumped(header.test_scores),
        "test_intervals": intervals(header.test_scores),
        "scores_before": dumped(before),
    }
