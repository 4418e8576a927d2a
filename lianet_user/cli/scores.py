"""Figures on the terminal: of classes or of numbers, with those of before beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lianet_user.cli.console import out

if TYPE_CHECKING:
    from lianet_user.files.header import AnyScores, DatedScores, NumberScores, Scores

SHOWN_DATES = 8


def print_scores(title: str, scores: AnyScores, unit: str = "", before: AnyScores | None = None) -> None:
    """A table of figures.

    Args:
        title: what was judged where.
        scores: to print.
        unit: of numbers.
        before: of the same kind, printed beside.
    """
    from lianet_user.files.header import Scores

    if isinstance(scores, Scores):
        _print_classes(title, scores, before if isinstance(before, Scores) else None)
    else:
        _print_numbers(title, scores, unit, None if before is None or isinstance(before, Scores) else before)


def print_dates(dated: tuple[DatedScores, ...], of_mean: AnyScores | None, unit: str = "") -> None:
    """A line for each date, of many only for the best and the worst; and one for the answers' mean over the dates."""
    from lianet_user.finetuning.metrics import figure_of_merit

    shown = list(dated)
    if len(dated) > SHOWN_DATES:
        ranked = sorted(dated, key=lambda each: figure_of_merit(each.scores))
        shown = [ranked[-1], ranked[0]]
        out.print(f"the best and the worst of {len(dated)} dates:")
    for each in shown:
        out.print(f"{each.date}: {headline(each.scores, unit)}", soft_wrap=True)
    if of_mean is not None:
        out.print(f"answers averaged over the dates: {headline(of_mean, unit)}", soft_wrap=True)


def headline(scores: AnyScores, unit: str = "") -> str:
    """The figures that say most, on a line."""
    from lianet_user.files.header import Scores

    if isinstance(scores, Scores):
        return f"macro F1 {figure(scores.macro_f1)}, accuracy {figure(scores.accuracy)}"
    return f"mean absolute error {figure(scores.mae)}{unit and f' {unit}'}, R2 {figure(scores.r2)}"


def figure(value: float | None) -> str:
    """Three places, or more digits where the value is small or large."""
    if value is None:
        return "-"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def _print_classes(title: str, scores: Scores, before: Scores | None) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("pixels", justify="right")
    for column in ("IoU", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
        if before:
            table.add_column("before", justify="right", style="dim")
    rows = _rows(scores)
    earlier = _rows(before) if before else [None] * len(rows)
    for number, (row, old) in enumerate(zip(rows, earlier, strict=True)):
        if number == len(rows) - 1:
            table.add_section()
        name, pixels, figures = row
        beside = zip(figures, old[2], strict=True) if old else zip(figures, strict=True)
        table.add_row(name, f"{pixels:,}", *(figure(value) for pair in beside for value in pair))
    out.print(table)
    out.print(f"all: means over the classes; accuracy over the pixels: {figure(scores.accuracy)}", style="dim")


def _rows(scores: Scores) -> list[tuple[str, int, tuple[float | None, ...]]]:
    """Name, pixels, and IoU, precision, recall and F1 of each class and then of all."""
    rows = [(each.name, each.pixels, (each.iou, each.precision, each.accuracy, each.f1)) for each in scores.classes]
    means = (scores.macro_iou, scores.macro_precision, scores.macro_recall, scores.macro_f1)
    return [*rows, ("all", scores.pixels, means)]


def _print_numbers(title: str, scores: NumberScores, unit: str, before: NumberScores | None) -> None:
    from rich.table import Table

    table = Table(title=f"{title} ({unit})" if unit else title, title_justify="left")
    table.add_column("figure")
    table.add_column(f"{scores.pixels:,} pixels", justify="right")
    if before:
        table.add_column("before", justify="right", style="dim")
    for name, what in (
        ("mae", "mean absolute error"),
        ("rmse", "root mean square error"),
        ("mse", "mean square error"),
        ("bias", "bias"),
        ("r2", "R2"),
    ):
        old = [figure(getattr(before, name))] if before else []
        table.add_row(what, figure(getattr(scores, name)), *old)
    out.print(table)
