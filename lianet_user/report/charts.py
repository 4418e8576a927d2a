"""Charts: training curves, confusion matrix, predicted against reference, learning curve. One style, without global state.

Colours are those of Okabe and Ito, which people with any colour vision can distinguish, and ramps of one hue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from lianet_user.maps import picture
from lianet_user.maps.picture import FAINT, INK, TEXT, shortened
from lianet_user.report.score_text import printable

if TYPE_CHECKING:
    from lianet_user.evaluation.learning_curve import CurvePoint
    from lianet_user.finetuning.trainer import History

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of members; more members than these are all drawn in the first, because nobody can distinguish twenty lines."""

SHARES = colormaps["Blues"]
DENSITY = colormaps["cividis"]

NAMED, COUNTED = 60, 30
"""Classes at most of which a confusion matrix shows the names, and the counts."""

CELL = 0.46
"""Side in inches of a cell with a count."""

NAME = 26
"""Characters at most of a class's name beside a matrix."""

THOUSANDS = EngFormatter(places=1, sep="")

BINS = 80
"""Bins along either axis of predicted against reference."""


def curves(history: Sequence[History], figure_name: str) -> Figure:
    """Draw the loss by step, and beside it the validation score, a line for each member; the chosen steps are marked.

    Args:
        history: of each member, one or more.
        figure_name: name of the validation score.
    """
    validated = any(each.looks for each in history)
    figure = _figure(9.0 if validated else 4.6, 3.0)
    losses, *right = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    _lines(losses, history, [each.losses for each in history], "loss of training")
    for looks in right:
        _lines(looks, history, [each.looks for each in history], figure_name)
        markers = []
        for number, each in enumerate(history):
            if (best := dict(each.looks).get(each.best_step)) is not None:
                label = f"member {each.member + 1}: {best:.3g} at step {each.best_step}"
                markers += looks.plot(each.best_step, best, "o", color=_line_color(number, history), label=label)
        if 0 < len(markers) <= len(LINES):
            looks.legend(handles=markers, frameon=False, fontsize=TEXT - 1)
    return figure


def _lines(axes: Axes, history: Sequence[History], series: Sequence[Sequence[tuple[int, float]]], name: str) -> None:
    _style(axes)
    for number, points in enumerate(series):
        steps, values = zip(*points, strict=True) if points else ((), ())
        marker = "." if len(points) < 3 else ""  # a line of one point is none
        axes.plot(steps, values, color=_line_color(number, history), marker=marker, linewidth=1.4)
    axes.set_xlabel("step", size=TEXT)
    axes.set_ylabel(name, size=TEXT, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))


def _line_color(number: int, history: Sequence[History]) -> str:
    return LINES[number] if len(history) <= len(LINES) else LINES[0]


def confusion_matrix(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: reference classes as rows, mapped classes as columns, coloured by the share of the row.

    Args:
        confusion: (classes, classes) pixels.
        names: of the classes.
    """
    counts = np.asarray(confusion, np.int64)
    classes = len(names)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    cell = CELL if classes <= COUNTED else max(0.16, 9.0 / classes) if classes <= NAMED else 9.0 / classes
    side = max(1.6, cell * classes)
    labels = [shortened(printable(name), NAME) for name in names]
    margin = 0.35 + 0.075 * max(map(len, labels)) if classes <= NAMED else 0.5
    width, height = margin + side + 1.0, margin + side + 0.3
    figure = _figure(width, height, constrained=False)
    axes = figure.add_axes((margin / width, 0.1 / height, side / width, side / height))
    image = axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted", size=TEXT + 1, weight="bold")
    axes.set_ylabel("reference", size=TEXT + 1, weight="bold")
    axes.spines[:].set(color=FAINT, linewidth=0.6)
    if classes <= NAMED:
        size = min(TEXT, 72 * cell * 0.62)
        axes.set_xticks(range(classes), labels, size=size, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), labels, size=size, parse_math=False)
    axes.tick_params(length=0, colors=INK)
    if classes <= COUNTED:
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        for (row, col), count in np.ndenumerate(counts):
            if count:
                dark = shares[row, col] > 0.55
                axes.text(
                    col,
                    row,
                    short_count(int(count)),
                    size=TEXT - 1.5,
                    color="white" if dark else INK,
                    ha="center",
                    va="center",
                )
    bar = figure.colorbar(
        image, cax=figure.add_axes(((margin + side + 0.15) / width, 0.1 / height, 0.12 / width, side / height))
    )
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bar.ax.tick_params(labelsize=TEXT - 1.5, colors=INK, length=2)
    bar.outline.set_visible(False)
    bar.set_label("of the reference class", size=TEXT - 1, color=INK)
    return figure


def learning_curve(points: Sequence[CurvePoint], figure_name: str, title: str) -> Figure:
    """Draw the score on held-out labels over the number of labelled pixels trained on: each run, and the mean of the repeats.

    Args:
        points: of one learning curve.
        figure_name: name of the score: macro F1, or the mean absolute error with its unit.
        title: above it.
    """
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    _style(axes)
    by_share: dict[float, list[tuple[int, float]]] = {}
    for point in points:
        value = point.figure
        if value is not None:
            by_share.setdefault(point.share, []).append((point.pixels, value))
    means = [np.mean(runs, 0) for _, runs in sorted(by_share.items())]
    all_runs = np.array([run for runs in by_share.values() for run in runs]).reshape(-1, 2)
    axes.plot(*np.array(means).reshape(-1, 2).T, color=LINES[0], linewidth=1.8, marker="o", label="mean of the repeats")
    axes.plot(*all_runs.T, "o", color=LINES[0], alpha=0.35, markersize=4, label="a run")
    axes.set_xscale("log")
    axes.set_xlabel("labelled pixels trained on", size=TEXT)
    axes.set_ylabel(figure_name, size=TEXT, parse_math=False)
    axes.set_title(printable(title), size=TEXT + 2, loc="left", parse_math=False)
    axes.legend(frameon=False, fontsize=TEXT)
    return figure


def short_count(count: int) -> str:
    """Format a count in at most six characters: 9,999, 12.3k, 4.0M."""
    return f"{count:,}" if count < 10_000 else THOUSANDS(count)


def predicted_against_reference(reference: NDArray[np.floating], predicted: NDArray[np.floating], unit: str) -> Figure:
    """Draw how often each pair of numbers occurs, with the line on which they agree.

    Args:
        reference: (pixels,) finite.
        predicted: (pixels,) finite.
        unit: of both; empty for none.
    """
    low = float(min(reference.min(), predicted.min()))
    high = float(max(reference.max(), predicted.max()))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    figure = _figure(4.9, 4.2)
    axes = figure.add_subplot()
    _style(axes)
    counts, edges, _ = np.histogram2d(reference, predicted, BINS, [(low, high), (low, high)])
    mesh = axes.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts.T, 0),
        cmap=DENSITY,
        norm=LogNorm(1, max(10.0, float(counts.max()))),
        rasterized=True,
    )
    axes.plot([low, high], [low, high], color=LINES[1], linewidth=1.2, linestyle="--", label="1:1")
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    in_unit = f" ({unit})" if unit else ""
    axes.set_xlabel(f"reference{in_unit}", size=TEXT, parse_math=False)
    axes.set_ylabel(f"predicted{in_unit}", size=TEXT, parse_math=False)
    axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=TEXT - 1, loc="upper left")
    bar = figure.colorbar(mesh, ax=axes, fraction=0.045, pad=0.03)
    bar.set_label("pixels", size=TEXT - 1, color=INK)
    bar.ax.tick_params(labelsize=TEXT - 1.5, colors=INK)
    bar.outline.set_visible(False)
    return figure


def _figure(width: float, height: float, constrained: bool = True) -> Figure:
    figure = Figure((width, height), dpi=picture.DPI, facecolor="white", layout="constrained" if constrained else None)
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=FAINT, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=TEXT - 1, width=0.8)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
