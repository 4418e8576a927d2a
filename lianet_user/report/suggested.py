"""The places to label next, numbered, over the image that the region remembers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from lianet_user.artifact import replacing
from lianet_user.grid import Window
from lianet_user.head import TILE, Head
from lianet_user.maps import picture
from lianet_user.maps.color import stretched, true_color_bands
from lianet_user.maps.picture import Key, KeyRow, Sheet, draw_image, draw_key
from lianet_user.maps.suggest import Suggestion, Suggestions

SIDE = 1200
"""Pixels of the image along its longer side, at most."""
PANEL = 9.0
"""Inches, likewise."""
MARK = 0.09
"""Inches of the side of a mark, at least: a place itself may be a dot."""
NUMBERS = "#ffd92f"
"""The colour of marks where there are no classes."""


def suggestions_figure(found: Suggestions, head: Head, path: Path) -> None:
    """Write a PNG of the places in the colour of the class they are taken for; an earlier one is replaced.

    Raises:
        OutputError: the place cannot be written.
    """
    region, window = head.region, found.window
    panel = picture.panel_size(region.geobox, window, PANEL, PANEL)
    key = _key(found, head)
    lines = picture.small_print(region.header.attribution, panel[0] + picture.GAP + key.width + 2 * picture.MARGIN)
    width = panel[0] + picture.GAP + key.width + 2 * picture.MARGIN
    height = max(panel[1], key.height) + 0.45 + 2 * picture.MARGIN + picture.small_print_height(lines)
    sheet = Sheet(width, height)
    sheet.title(f"{region.header.title}: {len(found.places)} places to label, {found.date}")
    axes = sheet.axes(picture.MARGIN, picture.MARGIN + 0.45, *panel)
    draw_image(axes, _decimated_image(head, found), window, region.geobox)
    colors = {entry.name: entry.color for entry in head.header.classes}
    least = MARK * max(window.width / panel[0], window.height / panel[1])
    for number, place in enumerate(found.places, start=1):
        _draw_place(axes, place, number, colors.get(str(place.predicted), NUMBERS), least, window)
    draw_key(sheet, picture.MARGIN + panel[0] + picture.GAP, picture.MARGIN + 0.45, key)
    sheet.small_print(lines)
    with replacing(path) as temporary:
        picture.save_png(sheet.figure, temporary)


def _draw_place(axes: Axes, place: Suggestion, number: int, color: str, least: float, view: Window) -> None:
    window = place.window
    side = max(window.width, least)
    x, y = window.col + window.width / 2, window.row + window.height / 2
    white = withStroke(linewidth=3, foreground="white")
    square = (x - side / 2, y - side / 2)
    axes.add_patch(Rectangle(square, side, side, fill=False, edgecolor=color, linewidth=1.4, path_effects=[white]))
    # The number stands to the upper right of its place, but not outside the image.
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


def _key(found: Suggestions, head: Head) -> Key:
    if not head.header.classes:
        return Key(("places",), [KeyRow("least sure", NUMBERS, (str(len(found.places)),))])
    predicted = [place.predicted for place in found.places]
    rows = [
        KeyRow(e.name, e.color, (str(predicted.count(e.name)),)) for e in head.header.classes if e.name in predicted
    ]
    return Key(("places",), rows)


def _decimated_image(head: Head, found: Suggestions) -> NDArray[np.uint8]:
    """Every n-th pixel of what the region remembers, for the eye: uint8 (rows, columns, 3)."""
    window = found.window
    step = -(-max(window.width, window.height) // SIDE)
    bands = list(true_color_bands(head.region.header.bands))
    image = np.empty((-(-window.height // step), -(-window.width // step), 3), np.float32)
    for tile in window.tiles(TILE // step * step if step <= TILE else step):
        remembered = head.region.reconstruct(tile, found.date)[bands, ::step, ::step].permute(1, 2, 0).cpu().numpy()
        place = tile.within(window)
        small = Window(place.row // step, place.col // step, *remembered.shape[:2])
        image[small.slices] = remembered
    return stretched(image)
