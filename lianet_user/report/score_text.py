"""Scores in words and tables: what they mean, what they do not say, and how numbers are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lianet_user.errors import STEERING
from lianet_user.files.header import AnyScores, HeadHeader, NumberScores, Scores
from lianet_user.finetuning.validation import unjudged, wide_intervals
from lianet_user.labels.split import Split

NOTHING = "-"
"""Written where there is no number."""


_UNPRINTABLE = re.compile(f"[{STEERING}\u200e\u200f]")
"""Control characters, those that change the reading direction, and lone surrogates."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    headings: Sequence[str]
    rows: Sequence[tuple[str, ...]]
    colors: Sequence[str] = ()
    """Of the rows, where they are classes."""
    total: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Headline:
    """The most important score, and what it means."""

    name: str
    figure: str
    meaning: str


def judged_where(header: HeadHeader) -> str:
    """How the scores of a head were obtained."""
    return "in cross-validation" if header.provenance.settings.get("folds") else "on labels kept for validation"


def headline(scores: AnyScores | None, unit: str) -> Headline | None:
    """The most important score with an explanation; None without scores."""
    wide = wide_intervals(scores, unit)
    limits = f" By the places that the labels lie in, the 95 % intervals are: {wide}." if wide else ""
    if isinstance(scores, Scores) and scores.macro_f1 is not None and scores.accuracy is not None:
        confusion = np.asarray(scores.confusion)
        judged = sum(each.pixels > 0 for each in scores.classes)
        meaning = (
            f"The mean of F1 over {judged} {'class' if judged == 1 else 'classes'}: 1 is a perfect map, and a class counts as"
            f" much as any other however rare it is. {share(scores.accuracy)} of {scores.pixels:,} pixels are mapped right"
        )
        if judged > 1:
            most = confusion.sum(1).max() / confusion.sum()
            meaning += f"; naming the most frequent class everywhere would be right for {share(most)}"
        return Headline("macro F1", figure(scores.macro_f1), f"{meaning}.{limits}")
    if isinstance(scores, NumberScores) and scores.mae is not None:
        meaning = (
            "The mean absolute error: on average a number on the map is this far from the reference,"
            f" over {scores.pixels:,} pixels."
        )
        if scores.bias is not None:
            side = "high" if scores.bias > 0 else "low"
            meaning += f" The map is {amount(abs(scores.bias), unit)} too {side} in the mean."
        if scores.r2 is not None:
            meaning += (
                f" R² {figure(scores.r2)}: 1 explains all differences, 0 is no better than naming the mean everywhere."
            )
        return Headline("MAE", amount(scores.mae, unit), meaning + limits)
    return None


def caveats(header: HeadHeader, split: Split | None, pixel: float) -> list[str]:
    """List what has to be kept in mind about the scores of a head, in a sentence each.

    Args:
        header: of the head, with scores.
        split: that it was trained and validated with; None if unknown.
        pixel: size of the region's pixel in metres.
    """
    sentences = []
    scores, folds = header.scores, header.provenance.settings.get("folds")
    near = f" within {length(split.buffer, pixel)} of it" if split is not None and split.buffer else ""
    if folds:
        sentences.append(
            f"Cross-validation in {folds} parts: every label was judged by a head that was trained without its block"
            f"{' and what lies' if near else ''}{near}. The head of this report was trained on all parts, so the figures are"
            " not its own."
        )
    elif split is not None and (blocks := int(split.validation.sum())):
        sentences.append(
            f"Judged on labels in {blocks} {'block' if blocks == 1 else 'blocks'} of {length(split.block, pixel)}. No such"
            f" block{' nor what lies' if near else ''}{near} was trained on."
        )
    if split is not None and not near:
        sentences.append("There is no buffer: ground right beside was trained on, and neighbouring pixels are alike.")
    choice = "The state of each member that did best on this same ground was kept, so the figures are a little too good"
    sentences.append(f"{choice}; those of the test area are not." if header.test_scores else f"{choice}.")
    sentences.append(
        "Labels lie where somebody drew them and are no random sample: the figures speak of ground like theirs, not of the"
        " whole region or of areas on the map."
    )
    if isinstance(scores, Scores) and (lacking := unjudged(scores)):
        sentences.append(f"Macro F1 and the other means are over {lacking}.")
    if isinstance(scores, Scores) and sum(each.pixels > 0 for each in scores.classes) == 1:
        sentences.append("Only one class was judged: nothing is known of how well classes are told apart.")
    return sentences


def scores_table(scores: AnyScores, header: HeadHeader) -> Table:
    """The scores of each class, with the means in the last row; or the scores of numbers, in their unit."""
    if isinstance(scores, NumberScores):
        unit = header.numbers.unit if header.numbers else ""
        return Table(
            ("", "value"),
            [
                ("pixels", f"{scores.pixels:,}"),
                ("mean absolute error (MAE)", amount(scores.mae, unit)),
                ("root mean squared error (RMSE)", amount(scores.rmse, unit)),
                ("mean squared error (MSE)", amount(scores.mse, f"{unit}²" if unit else "")),
                ("bias, predicted minus reference", amount(scores.bias, unit)),
                ("R²", figure(scores.r2)),
            ],
        )
    colors = {entry.name: entry.color for entry in header.classes}
    rows = [
        (each.name, f"{each.pixels:,}", *map(figure, (each.iou, each.precision, each.accuracy, each.f1)))
        for each in scores.classes
    ]
    means = (scores.macro_iou, scores.macro_precision, scores.macro_recall, scores.macro_f1)
    total = ("mean of the classes", f"{scores.pixels:,}", *map(figure, means))
    headings = ("class", "pixels", "IoU", "precision", "recall", "F1")
    return Table(headings, rows, [colors[each.name] for each in scores.classes], total)


def dates_table(header: HeadHeader) -> Table | None:
    """The scores at each date, and of the mean prediction over the dates; None for a single date."""
    if not header.scores_by_date:
        return None
    unit = header.numbers.unit if header.numbers else ""
    rows = [_dated(each.date.isoformat(), each.scores, unit) for each in header.scores_by_date]
    mean = header.scores_of_mean
    headings = ("MAE", "RMSE", "bias", "R²") if header.numbers else ("accuracy", "macro IoU", "macro F1")
    return Table(("date", "pixels", *headings), rows, (), _dated("mean over the dates", mean, unit) if mean else None)


def _dated(name: str, scores: AnyScores, unit: str) -> tuple[str, ...]:
    if isinstance(scores, NumberScores):
        errors = (amount(each, unit) for each in (scores.mae, scores.rmse, scores.bias))
        return (name, f"{scores.pixels:,}", *errors, figure(scores.r2))
    return (name, f"{scores.pixels:,}", *map(figure, (scores.accuracy, scores.macro_iou, scores.macro_f1)))


def figure(value: float | None) -> str:
    """Format a share or a score."""
    return NOTHING if value is None else f"{value:.3f}"


def amount(value: float | None, unit: str) -> str:
    """Format a number with its unit."""
    return NOTHING if value is None else f"{value:.4g} {unit}".rstrip()


def share(value: float) -> str:
    """Format a share in per cent."""
    return f"{value:.0%}"


def degrees(longitude: float, latitude: float) -> str:
    """Format coordinates, to about a metre."""
    return f"{abs(longitude):.5f}° {'W' if longitude < 0 else 'E'}, {abs(latitude):.5f}° {'S' if latitude < 0 else 'N'}"


def printable(text: str) -> str:
    """Replace characters that would control a terminal or change the reading direction."""
    return _UNPRINTABLE.sub("\ufffd", text)


def length(pixels: int, pixel: float) -> str:
    """Format a number of pixels with the distance on the ground."""
    metres = pixels * pixel
    return f"{pixels} px ({metres / 1000:.3g} km)" if metres >= 1000 else f"{pixels} px ({metres:.3g} m)"
