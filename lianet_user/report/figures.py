"""Figures: labels, prediction and remembered image side by side; suggested places; the learning curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from rasterio.features import shapes

from lianet_user.files.artifact import replacing
from lianet_user.files.header import Numbers, NumberScores, Scores
from lianet_user.geo.grid import TILE, Window
from lianet_user.head import Head
from lianet_user.labels import Labels
from lianet_user.labels.split import Split
from lianet_user.maps import picture
from lianet_user.maps.picture import Key, KeyRow, Sheet, draw_image, draw_key, percent, stretched, true_color_bands
from lianet_user.maps.suggest import Suggestion, Suggestions
from lianet_user.region import Region
from lianet_user.report import charts
from lianet_user.report.mapped_view import (
    MappedView,
    class_pixels,
    colored,
    dotted,
    labelled_view,
    map_view,
    number_steps,
    numbers_of,
    over,
    remembered_image,
)
from lianet_user.report.score_text import amount, judged_where

if TYPE_CHECKING:
    from lianet_user.evaluation.learning_curve import CurvePoint

PANEL_SIDE = 6.5
"""Longer side of a panel in inches."""

TITLE_HEIGHT, PANEL_TITLE_HEIGHT, TITLE_CHARACTER = 0.45, 0.26, 0.078


@dataclass(frozen=True)
class Layout:
    """The positions of panels and key on a sheet, in inches from the corner inside its margins."""

    panel: tuple[float, float]
    places: tuple[tuple[float, float], ...]
    """Corners of the panels, then of the key, titles included."""
    width: float
    height: float


@dataclass(frozen=True)
class Panel:
    """An image of the view with its title."""

    title: str
    image: NDArray[np.uint8]
    """(rows, columns, 3), at any resolution."""
    split: Split | None = None
    """The split whose validation blocks and test area are outlined."""


def finetune_figure(
    head: Head, labels: Labels, path: Path, split: Split | None, mapped: MappedView | None = None
) -> None:
    """Write a PNG of the labelled area: labels, prediction, the remembered image, and a key with scores.

    Args:
        head: just trained, or opened.
        labels: on the grid of the head's maps; their classes are the head's.
        path: of the PNG; an earlier one is replaced.
        split: the held-out blocks and test area, which are outlined; None without any.
        mapped: :func:`lianet_user.report.map_view` of the two, if it has been computed already.

    Raises:
        OutputError: the file cannot be written.
    """
    mapped = mapped or map_view(head, labels)
    view, numbers = mapped.view, head.header.numbers
    panels = (
        Panel(f"Labels{outlined(split)}", colored(dotted(view.labels), labels.classes, numbers), split),
        Panel(f"Prediction, {view.date}", colored(mapped.values, labels.classes, numbers)),
        Panel(f"Remembered image, {view.date}", mapped.image),
    )
    key = numbers_key(numbers) if numbers else _scored_key(head, labels)
    _draw(path, _title(head), panels, key, view.window, head.region, head.header.attribution)


def labels_figure(
    region: Region, labels: Labels, path: Path, listener: Callable[[int, int], None] | None = None
) -> None:
    """Write a PNG of the labelled area: the labels over the remembered image, that image, and a key.

    Args:
        region: opened.
        labels: on the region's grid or on one that is finer.
        path: of the PNG; an earlier one is replaced.
        listener: called with the pixels of the remembered image done and in total.

    Raises:
        OutputError: the file cannot be written.
    """
    view, numbers = labelled_view(labels), numbers_of(labels)
    image = remembered_image(region, view.window, view.date, listener)
    panels = (
        Panel(
            f"Labels over the remembered image, {view.date}",
            over(view.fine(image), view.labels, labels.classes, numbers),
        ),
        Panel(f"Remembered image, {view.date}", image),
    )
    title = f"{region.header.title}: {percent(labels.report.labelled / labels.report.pixels)} labelled"
    attribution = "; ".join(filter(None, (region.header.attribution, labels.attribution)))
    key = numbers_key(numbers) if numbers else _counted_key(labels)
    _draw(path, title, panels, key, view.window, region, attribution)


def outlined(split: Split | None) -> str:
    """Explain the outlines on the labels, in brackets; empty without any."""
    validation = split is not None and bool(split.validation.any())
    test = split is not None and split.test is not None
    if validation and test:
        return " (outlined: validation; dashed: test)"
    return " (outlined: validation)" if validation else " (dashed: test)" if test else ""


def draw_split(axes: Axes, split: Split, view: Window) -> None:
    """Outline validation blocks (solid) and the test area (dashed) in axes that count pixels of the region."""
    outline(axes, split.validation, split.block)
    if split.test is not None:
        # One more pixel on all sides, so that no line is drawn where only the view ends.
        near = view.expanded(1, 1, split.shape)
        outline(axes, split.test[near.slices], 1, (near.row, near.col), "--")


def outline(axes: Axes, mask: NDArray[np.bool_], cell: int, corner: tuple[int, int] = (0, 0), style: str = "-") -> None:
    """Outline the true cells of a mask (rows, columns); a cell has `cell` pixels a side, the first begins at `corner`."""
    rings = [
        np.array(ring, float) * cell + corner[::-1]
        for polygon, _ in shapes(mask.astype(np.uint8), mask)
        for ring in polygon["coordinates"]
    ]
    white = withStroke(linewidth=2.6, foreground="white")
    lines = LineCollection(rings, colors=picture.INK, linewidths=1.1, linestyles=style, path_effects=[white])
    axes.add_collection(lines, autolim=False)  # outlines beyond the view must not enlarge it


def _draw(
    path: Path, title: str, panels: Sequence[Panel], key: Key, view: Window, region: Region, attribution: str
) -> None:
    size = picture.panel_size(region.geobox, view, PANEL_SIDE, PANEL_SIDE)
    layout = _layout(size, key, [panel.title for panel in panels])
    small_print = picture.small_print(attribution, layout.width + 2 * picture.MARGIN)
    sheet = Sheet(
        layout.width + 2 * picture.MARGIN,
        TITLE_HEIGHT + layout.height + picture.small_print_height(small_print) + 2 * picture.MARGIN,
    )
    sheet.title(title)
    corners = [(picture.MARGIN + x, picture.MARGIN + TITLE_HEIGHT + y) for x, y in layout.places]
    for panel, (left, top) in zip(panels, corners[:-1], strict=True):
        sheet.text(left, top, panel.title, picture.PANEL_TITLE)
        axes = sheet.axes(left, top + PANEL_TITLE_HEIGHT, *layout.panel)
        draw_image(axes, panel.image, view, region.geobox)
        if panel.split is not None:
            draw_split(axes, panel.split, view)
    left, top = corners[-1]
    draw_key(sheet, left, top + PANEL_TITLE_HEIGHT, key)
    sheet.small_print(small_print)
    with replacing(path) as temporary:
        picture.save_png(sheet.figure, temporary)


def _layout(panel: tuple[float, float], key: Key, titles: Sequence[str]) -> Layout:
    """Arrange panels, one for each title, and the key two by two, or in one row where the panels are tall."""
    panels, broad = len(titles), max(panel[0], TITLE_CHARACTER * max(map(len, titles)))
    across, down = broad + picture.GAP, PANEL_TITLE_HEIGHT + panel[1] + picture.GAP
    key_height = PANEL_TITLE_HEIGHT + key.height
    if panel[1] > 1.25 * panel[0]:
        places = tuple((number * across, 0.0) for number in range(panels + 1))
        return Layout(panel, places, panels * across + key.width, max(down - picture.GAP, key_height))
    places = tuple((number % 2 * across, number // 2 * down) for number in range(panels + 1))
    last_row = key_height if panels % 2 == 0 else max(key_height, down - picture.GAP)
    return Layout(panel, places, across + max(broad, key.width), panels // 2 * down + last_row)


def _title(head: Head) -> str:
    scores, title = head.header.scores, head.region.header.title
    where = judged_where(head.header)
    if isinstance(scores, Scores) and scores.macro_f1 is not None and scores.accuracy is not None:
        return f"{title}: macro F1 {scores.macro_f1:.2f}, accuracy {scores.accuracy:.0%} {where}"
    if isinstance(scores, NumberScores) and scores.mae is not None:
        mae = amount(scores.mae, head.header.numbers.unit if head.header.numbers else "")
        return f"{title}: MAE {mae}{'' if scores.r2 is None else f', R² {scores.r2:.2f}'} {where}"
    return f"{title}: not validated"


def numbers_key(numbers: Numbers) -> Key:
    """A key with a row for each of a few numbers, the highest first."""
    return Key((), [KeyRow(amount(number, numbers.unit), color, ()) for number, color in number_steps(numbers)])


def _scored_key(head: Head, labels: Labels) -> Key:
    """A key with a row for each class: its F1 and its labelled pixels."""
    scores = head.header.scores
    f1 = {entry.name: entry.f1 for entry in scores.classes} if isinstance(scores, Scores) else {}
    rows = []
    for entry, pixels in zip(labels.classes, class_pixels(labels).tolist(), strict=True):
        score = f1.get(entry.name)
        rows.append(KeyRow(entry.name, entry.color, ("-" if score is None else f"{score:.2f}", f"{pixels:,}")))
    return Key(("F1", "labels"), rows)


def _counted_key(labels: Labels) -> Key:
    """A key with a row for each class: its labelled pixels and their share."""
    pixels = class_pixels(labels)
    total = pixels.sum()
    rows = [
        KeyRow(entry.name, entry.color, (f"{count:,}", percent(count / total)))
        for entry, count in zip(labels.classes, pixels.tolist(), strict=True)
    ]
    return Key(("pixels", "share"), rows)


def learning_curve_figure(points: Sequence[CurvePoint], path: Path, title: str, unit: str = "") -> None:
    """Write a PNG of a learning curve.

    Args:
        points: of one learning curve.
        path: of the PNG; an earlier one is replaced.
        title: above it.
        unit: of numbers.

    Raises:
        OutputError: the file cannot be written.
    """
    classes = isinstance(points[0].scores, Scores)
    name = "macro F1" if classes else f"mean absolute error{unit and f' ({unit})'}"
    with replacing(path) as temporary:
        picture.save_png(charts.learning_curve(points, name, title), temporary)


# --- Suggested places to label.


SIDE = 1200
"""Pixels at most of the longer side of the image."""
PANEL = 9.0
"""Longer side of the image in inches."""
MARK = 0.09
"""Side in inches of a mark at least, because a place itself may be tiny."""
NUMBERS = "#ffd92f"
"""The colour of marks where there are no classes."""


def suggestions_figure(suggestions: Suggestions, head: Head, path: Path) -> None:
    """Write a PNG of numbered places over the remembered image, in the colour of the predicted class; replaces an earlier one.

    Raises:
        OutputError: the file cannot be written.
    """
    region, window = head.region, suggestions.window
    width, height = picture.panel_size(region.geobox, window, PANEL, PANEL)
    key = _suggestions_key(suggestions, head)
    title = f"{region.header.title}: {len(suggestions.places)} places to label, {suggestions.date}"
    sheet, axes, corner = picture.map_sheet(
        _decimated_image(head, suggestions),
        region.geobox,
        (key.width, key.height),
        title,
        region.header.attribution,
        window=window,
        side=PANEL,
    )
    colors = {entry.name: entry.color for entry in head.header.classes}
    least = MARK * max(window.width / width, window.height / height)
    for number, place in enumerate(suggestions.places, start=1):
        _draw_place(axes, place, number, colors.get(str(place.predicted), NUMBERS), least, window)
    draw_key(sheet, *corner, key)
    with replacing(path) as temporary:
        picture.save_png(sheet.figure, temporary)


def _draw_place(axes: Axes, place: Suggestion, number: int, color: str, least: float, view: Window) -> None:
    window = place.window
    side = max(window.width, least)
    x, y = window.col + window.width / 2, window.row + window.height / 2
    white = withStroke(linewidth=3, foreground="white")
    square = (x - side / 2, y - side / 2)
    axes.add_patch(Rectangle(square, side, side, fill=False, edgecolor=color, linewidth=1.4, path_effects=[white]))
    # The number is to the upper right of its place, but inside the image.
    right = 1 if x < view.col_end - 3 * least else -1
    below = 1 if y < view.row + 3 * least else -1
    axes.text(
        x + right * side / 2,
        y + below * side / 2,
        f" {number} ",
        size=picture.TEXT - 1,
        weight="bold",
        color=picture.INK,
        ha="left" if right > 0 else "right",
        va="top" if below > 0 else "bottom",
        path_effects=[white],
        clip_on=True,
    )


def _suggestions_key(suggestions: Suggestions, head: Head) -> Key:
    if not head.header.classes:
        return Key(("places",), [KeyRow("least sure", NUMBERS, (str(len(suggestions.places)),))])
    predicted = [place.predicted for place in suggestions.places]
    rows = [
        KeyRow(e.name, e.color, (str(predicted.count(e.name)),)) for e in head.header.classes if e.name in predicted
    ]
    return Key(("places",), rows)


def _decimated_image(head: Head, suggestions: Suggestions) -> NDArray[np.uint8]:
    """Every n-th pixel of the remembered image in true colour: uint8 (rows, columns, 3)."""
    window = suggestions.window
    step = -(-max(window.width, window.height) // SIDE)
    bands = list(true_color_bands(head.region.header.bands))
    image = np.empty((-(-window.height // step), -(-window.width // step), 3), np.float32)
    for tile in window.tiles(TILE // step * step if step <= TILE else step):
        pixels = head.region.reconstruct(tile, suggestions.date)[bands, ::step, ::step].permute(1, 2, 0).cpu().numpy()
        place = tile.within(window)
        small = Window(place.row // step, place.col // step, *pixels.shape[:2])
        image[small.slices] = pixels
    return stretched(image)
