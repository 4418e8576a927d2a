"""Figures for people: what a head was taught, what it answers, and the image behind both, side by side."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke

from lianet_user.artifact import replacing
from lianet_user.grid import Window
from lianet_user.head import TILE, Head
from lianet_user.header import IGNORE, Band
from lianet_user.labels import LabelMap
from lianet_user.maps import picture
from lianet_user.maps.picture import Key, KeyRow, Sheet, class_image, draw_image, draw_key
from lianet_user.training.samples import BLOCK

VIEW = 2048
"""Pixels a side shown, and held in memory, at most: of a larger labelled area the part with most labels is shown."""

PANEL_SIDE = 6.5
"""Inches of the longer side of a panel."""

TITLE_HEIGHT, PANEL_TITLE_HEIGHT, PANEL_TITLE_WIDTH = 0.45, 0.26, 2.4

TRUE_COLOR = ((665.0, ("B04", "B4", "red")), (560.0, ("B03", "B3", "green")), (490.0, ("B02", "B2", "blue")))
"""Red, green and blue: wavelength in nanometres, and the names such a band goes by."""

NEAR_NM = 60.0
"""A band farther than this from a colour's wavelength does not show that colour."""


@dataclass(frozen=True)
class Layout:
    """Where things stand on the sheet, in inches from the corner of its margins."""

    panel: tuple[float, float]
    places: tuple[tuple[float, float], ...]
    """Corners of the three panels and of the key, titles included."""
    width: float
    height: float


def finetune_figure(head: Head, labels: LabelMap, path: Path, validation: np.ndarray | None) -> None:
    """Write a PNG of the labelled area: labels, prediction, the remembered image, and a key with each class's F1.

    Args:
        head: just trained, or opened.
        labels: on the region's grid; their classes are the head's.
        path: of the PNG; an earlier one is replaced.
        validation: bool (block rows, block columns), the blocks kept from training
            (:func:`lianet_user.training.samples.split_blocks`), which are outlined; None where there are none.

    Raises:
        OutputError: the place cannot be written.
    """
    view, date = labelled_view(labels.values), head.header.dates[0]
    predicted, remembered = _computed(head, view, date)
    outlined = "" if validation is None else " (outlined: validation)"
    panels = (
        (f"Labels{outlined}", class_image(labels.values[view.slices], labels.classes)),
        (f"Prediction, {date}", class_image(predicted, labels.classes)),
        (f"Remembered image, {date}", remembered),
    )
    key = _key(head, labels)
    layout = _layout(picture.panel_size(labels.geobox, view, PANEL_SIDE, PANEL_SIDE), key)
    small_print = picture.small_print(head.header.attribution, layout.width + 2 * picture.MARGIN)
    sheet = Sheet(
        layout.width + 2 * picture.MARGIN,
        TITLE_HEIGHT + layout.height + picture.small_print_height(small_print) + 2 * picture.MARGIN,
    )
    sheet.title(_title(head))
    corners = [(picture.MARGIN + x, picture.MARGIN + TITLE_HEIGHT + y) for x, y in layout.places]
    for number, ((title, image), (left, top)) in enumerate(zip(panels, corners[:3], strict=True)):
        sheet.text(left, top, title, picture.PANEL_TITLE)
        axes = sheet.axes(left, top + PANEL_TITLE_HEIGHT, *layout.panel)
        draw_image(axes, image, view, labels.geobox)
        if number == 0 and validation is not None:
            outline_blocks(axes, validation)
    left, top = corners[3]
    draw_key(sheet, left, top + PANEL_TITLE_HEIGHT, key)
    sheet.small_print(small_print)
    with replacing(path) as temporary:
        picture.save_png(sheet.figure, temporary)


def labelled_view(values: np.ndarray) -> Window:
    """The smallest window that holds all labels; where that is larger than :data:`VIEW`, the part with most of them.

    Args:
        values: class indices or IGNORE, uint8 (height, width), with at least one label.
    """
    row, height = _densest(np.count_nonzero(values != IGNORE, axis=1))
    col, width = _densest(np.count_nonzero(values[row : row + height] != IGNORE, axis=0))
    return Window(row, col, height, width)


def _densest(counts: np.ndarray) -> tuple[int, int]:
    """Start and length of the stretch that holds all of what was counted, or the most that :data:`VIEW` places can."""
    places = np.flatnonzero(counts)
    first, length = int(places[0]), int(places[-1] - places[0]) + 1
    if length <= VIEW:
        return first, length
    before = np.concatenate([[0], np.cumsum(counts)])
    starts = np.arange(first, first + length - VIEW + 1)
    return int(starts[np.argmax(before[starts + VIEW] - before[starts])]), VIEW


def true_color_bands(bands: Sequence[Band]) -> tuple[int, int, int]:
    """Indices of the bands to show as red, green and blue: by wavelength, else by name, else the first band as grey."""
    chosen = [_band_of(bands, wavelength, names) for wavelength, names in TRUE_COLOR]
    known = [index for index in chosen if index is not None]
    return (known[0], known[1], known[2]) if len(known) == 3 else (0, 0, 0)


def _band_of(bands: Sequence[Band], wavelength: float, names: Sequence[str]) -> int | None:
    known = {index: abs(band.wavelength_nm - wavelength) for index, band in enumerate(bands) if band.wavelength_nm}
    nearest = min(known, key=lambda index: known[index], default=None)
    if nearest is not None and known[nearest] <= NEAR_NM:
        return nearest
    return next((index for index, band in enumerate(bands) if band.name in names), None)


def stretched(reflectance: np.ndarray) -> np.ndarray:
    """Reflectance (height, width, 3) for the eye: each band from its 2nd to its 98th percentile, as uint8."""
    low, high = np.percentile(reflectance, (2, 98), axis=(0, 1))
    scaled = (reflectance - low) / np.maximum(high - low, 1e-6)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def outline_blocks(axes: Axes, blocks: np.ndarray) -> None:
    """Outline groups of blocks, bool (block rows, block columns), in axes that count pixels of the region."""
    padded = np.pad(blocks, 1)
    lines = []
    for row, col in np.argwhere(padded[1:, 1:] != padded[:-1, 1:]).tolist():
        lines.append([(col, row), (col + 1, row)])
    for row, col in np.argwhere(padded[1:, 1:] != padded[1:, :-1]).tolist():
        lines.append([(col, row), (col, row + 1)])
    edges = np.array(lines, float).reshape(-1, 2, 2) * BLOCK
    white = withStroke(linewidth=2.6, foreground="white")
    outlines = LineCollection(list(edges), colors=picture.INK, linewidths=1.1, path_effects=[white])
    axes.add_collection(outlines, autolim=False)  # what lies outside the view stays outside


def _computed(head: Head, view: Window, date: dt.date) -> tuple[np.ndarray, np.ndarray]:
    """Classes uint8 (height, width) and the remembered image uint8 (height, width, 3) of a window."""
    bands = list(true_color_bands(head.region.header.bands))
    predicted = np.empty((view.height, view.width), np.uint8)
    reflectance = np.empty((view.height, view.width, 3), np.float32)
    for tile in view.tiles(TILE):
        here = tile.within(view).slices
        predicted[here] = head.classify(tile, date)
        reflectance[here] = head.region.reconstruct(tile, date)[bands].permute(1, 2, 0).cpu().numpy()
    return predicted, stretched(reflectance)


def _layout(panel: tuple[float, float], key: Key) -> Layout:
    """Panels and key two by two, or in one row where the panels are tall."""
    across, down = max(panel[0], PANEL_TITLE_WIDTH) + picture.GAP, PANEL_TITLE_HEIGHT + panel[1] + picture.GAP
    cell_height = PANEL_TITLE_HEIGHT + max(panel[1], key.height)
    if panel[1] > 1.25 * panel[0]:
        places = ((0.0, 0.0), (across, 0.0), (2 * across, 0.0), (3 * across, 0.0))
        return Layout(panel, places, 3 * across + key.width, cell_height)
    places = ((0.0, 0.0), (across, 0.0), (0.0, down), (across, down))
    return Layout(panel, places, across + max(panel[0], key.width), down + cell_height)


def _title(head: Head) -> str:
    scores = head.header.scores
    title = head.region.header.title
    if scores is None or scores.macro_f1 is None or scores.accuracy is None:
        return f"{title}: not validated"
    return f"{title}: macro F1 {scores.macro_f1:.2f}, accuracy {scores.accuracy:.0%} on labels kept for validation"


def _key(head: Head, labels: LabelMap) -> Key:
    """A row for each class, with its F1 and its labelled pixels."""
    scores = head.header.scores
    f1 = {entry.name: entry.f1 for entry in scores.classes} if scores else {}
    pixels = np.bincount(labels.values.ravel(), minlength=256)
    rows = []
    for value, entry in enumerate(labels.classes):
        score = f1.get(entry.name)
        rows.append(KeyRow(entry.name, entry.color, ("-" if score is None else f"{score:.2f}", f"{pixels[value]:,}")))
    return Key(("F1", "labels"), rows)
