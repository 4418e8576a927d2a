"""What is shown: the labelled ground at one date, its remembered image, and what a head answers there, in one pass."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lianet_user.field.config import HeadInput
from lianet_user.geo.grid import LONLAT, TILE, Window
from lianet_user.head import Head
from lianet_user.labels import LabelMap, Labels
from lianet_user.labels.label_map import PixelValues
from lianet_user.maps.images import stretched, true_color_bands
from lianet_user.region import Region, crop

VIEW = 2048
"""Pixels of the labels a side shown, and held in memory, at most: of a larger labelled area the part with most labels is
shown."""


@dataclass(frozen=True, eq=False)
class View:
    """The labelled ground that is shown.

    Attributes:
        window: of the region.
        date: of an acquisition that the labels describe.
        scale: pixels of the labels per pixel of the region, along either axis.
        labels: (scale * height, scale * width) of the window: uint8 with IGNORE, or float32 with NaN.
        whole: whether all labels of the date are shown.
    """

    window: Window
    date: dt.date
    scale: int
    labels: PixelValues
    whole: bool

    def fine(self, values: np.ndarray) -> np.ndarray:
        """An array (height, width, ...) of the window on the labels' grid, every pixel repeated."""
        return values.repeat(self.scale, 0).repeat(self.scale, 1)


@dataclass(frozen=True, eq=False)
class MappedView:
    """A view, what the region remembers of it, and what a head answers.

    Attributes:
        view: of the head's labels.
        image: the remembered image: uint8 (height, width, 3), on the region's grid.
        values: the answers, on the labels' grid: uint8 classes or float32 numbers.
        doubt: float32, likewise. Of classes, the entropy of their probabilities as a share of the largest possible; of
            numbers, how far answer and label are apart, NaN without a label.
    """

    view: View
    image: NDArray[np.uint8]
    values: PixelValues
    doubt: NDArray[np.float32]


def map_view(head: Head, labels: Labels, tile: int = TILE) -> MappedView:
    """Compute what the figures of a head show; memory follows the view.

    Args:
        head: just trained, or opened.
        labels: on the grid of the head's maps; their classes are the head's.
        tile: pixels along the side of what is computed at once.
    """
    view, region, inputs = labelled_view(labels), head.region, head.header.head.inputs
    values, doubt = np.empty_like(view.labels), np.empty(view.labels.shape, np.float32)
    reads_bands = "bands" in inputs
    colors = np.empty((view.window.height, view.window.width, 3), np.float32)
    shown = list(true_color_bands(region.header.bands))
    for part in head.map_tiles(view.window, tile):

        def read(outer: Window, date: dt.date | None, inputs: Sequence[HeadInput], part: Window = part) -> torch.Tensor:
            parts = region.head_parts(outer, date, inputs)
            if reads_bands:  # the image is among what the head reads
                colors[part.within(view.window).slices] = _colors(crop(parts["bands"], part, outer)[shown])
            return torch.cat(list(parts.values()))

        answers = head.answers(part, view.date, read=read)
        inside = part.within(view.window).scaled(view.scale).slices
        values[inside] = head.decided(answers).cpu().numpy()
        if head.header.classes:
            doubt[inside] = (torch.special.entr(answers.exp()).sum(0) / math.log(len(answers))).cpu().numpy()
        else:
            doubt[inside] = np.abs(values[inside] - view.labels[inside])
    image = stretched(colors) if reads_bands else remembered_image(region, view.window, view.date)
    return MappedView(view, image, values, doubt)


def most_labelled(labels: Labels) -> LabelMap:
    """The label map, or of several the one with most labels."""
    return max(labels.maps, key=lambda each: int(each.labelled.sum()))


def labelled_view(labels: Labels) -> View:
    """The smallest window that holds all labels of the map with most; where it is larger than :data:`VIEW`, the part with
    most of them."""
    shown, scale = most_labelled(labels), labels.scale
    labelled = shown.labelled
    row, height = _densest(np.count_nonzero(labelled, axis=1))
    col, width = _densest(np.count_nonzero(labelled[row : row + height], axis=0))
    first_row, first_col = row // scale, col // scale
    window = Window(
        first_row, first_col, -(-(row + height) // scale) - first_row, -(-(col + width) // scale) - first_col
    )
    inside = window.scaled(scale).slices
    whole = np.count_nonzero(labelled[inside]) == np.count_nonzero(labelled)
    return View(window, shown.dates[0], scale, shown.values[inside], whole)


def _densest(counts: np.ndarray) -> tuple[int, int]:
    """Start and length of the stretch that holds all of what was counted, or the most that :data:`VIEW` places can."""
    places = np.flatnonzero(counts)
    first, length = int(places[0]), int(places[-1] - places[0]) + 1
    if length <= VIEW:
        return first, length
    before = np.concatenate([[0], np.cumsum(counts)])
    starts = np.arange(first, first + length - VIEW + 1)
    return int(starts[np.argmax(before[starts + VIEW] - before[starts])]), VIEW


def remembered_image(
    region: Region, window: Window, date: dt.date, listener: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """What the region remembers of a window, for the eye: uint8 (height, width, 3)."""
    bands = list(true_color_bands(region.header.bands))
    values = np.empty((window.height, window.width, 3), np.float32)
    done = 0
    for tile in window.tiles(TILE):
        # As a head reads them, which is faster than `reconstruct`: the colours are stretched, whatever the unit.
        values[tile.within(window).slices] = _colors(region.head_input(tile, date, ("bands",))[bands])
        done += tile.pixels
        if listener:
            listener(done, window.pixels)
    return stretched(values)


def _colors(bands: torch.Tensor) -> NDArray[np.float32]:
    """Three bands (3, height, width) as pixels (height, width, 3)."""
    colors: NDArray[np.float32] = bands.permute(1, 2, 0).cpu().numpy()
    return colors


# --- Where a head is least sure: what to look at, and to label, next.


SIDE = 64
"""Pixels of the region along the side of a place."""


@dataclass(frozen=True)
class Place:
    """A window of a view, with the mean of its doubt and where its middle is, in degrees."""

    window: Window
    doubt: float
    longitude: float
    latitude: float


def doubtful_places(mapped: MappedView, geobox: GeoBox, most: int = 6) -> list[Place]:
    """The windows of :data:`SIDE` pixels with the highest mean doubt, the highest first; none overlap.

    Args:
        mapped: the view; doubt that is NaN counts nowhere, and a window without any other is no place.
        geobox: the region's grid.
        most: how many.
    """
    view = mapped.view
    means: list[tuple[float, Window]] = []
    for tile in view.window.tiles(SIDE):
        # What is left over at the view's edges says little and shows little.
        if 2 * tile.height < min(SIDE, view.window.height) or 2 * tile.width < min(SIDE, view.window.width):
            continue
        doubt = mapped.doubt[tile.within(view.window).scaled(view.scale).slices]
        known = doubt[np.isfinite(doubt)]
        if known.size:
            means.append((float(known.mean(dtype=np.float64)), tile))
    means.sort(key=lambda each: -each[0])
    return [Place(tile, doubt, *middle(tile, geobox)) for doubt, tile in means[:most]]


def middle(window: Window, geobox: GeoBox) -> tuple[float, float]:
    """Longitude and latitude of the middle of a window of a grid, in degrees."""
    assert geobox.crs is not None
    x, y = geobox.affine @ (window.col + window.width / 2, window.row + window.height / 2)
    longitude, latitude = Transformer.from_crs(geobox.crs.proj, LONLAT.proj, always_xy=True).transform(x, y)
    return float(longitude), float(latitude)
