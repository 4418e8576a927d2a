"""The part of a region that figures show: labels, remembered image, prediction and uncertainty, and their colours."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy.ndimage import distance_transform_edt

from lianet_user.field.config import HeadInput
from lianet_user.files.header import IGNORE, ClassEntry, Numbers
from lianet_user.geo.grid import LONLAT, TILE, Window
from lianet_user.head import Head
from lianet_user.labels import Labels
from lianet_user.labels.label_map import PixelValues
from lianet_user.maps.picture import class_image, number_image, stretched, true_color_bands
from lianet_user.maps.style import RAMP
from lianet_user.region import Region, crop

VIEW = 2048
"""Pixels at most along a side of the view, which is held in memory: of a larger labelled area the part with most labels is
shown."""


@dataclass(frozen=True, eq=False)
class View:
    """The labelled area that is shown.

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
        """Repeat the pixels of an array (height, width, ...) of the window for the labels' grid."""
        return values.repeat(self.scale, 0).repeat(self.scale, 1)


@dataclass(frozen=True, eq=False)
class MappedView:
    """A view with its remembered image and a head's prediction.

    Attributes:
        view: of the head's labels.
        image: the remembered image: uint8 (height, width, 3), on the region's grid.
        values: the prediction on the labels' grid: uint8 classes or float32 numbers.
        doubt: float32, on the labels' grid. For classes, the entropy of their probabilities as a share of the
            largest possible; for numbers, the absolute error, NaN without a label.
    """

    view: View
    image: NDArray[np.uint8]
    values: PixelValues
    doubt: NDArray[np.float32]


def map_view(
    head: Head, labels: Labels, tile: int = TILE, listener: Callable[[int, int], None] | None = None
) -> MappedView:
    """Compute what the figures of a head show; memory depends on the size of the view.

    Args:
        head: just trained, or opened.
        labels: on the grid of the head's maps; their classes are the head's.
        tile: pixels along the side of a tile, which is computed at once.
        listener: called with the pixels done and in total after every tile.
    """
    view, region, inputs = labelled_view(labels), head.region, head.header.head.inputs
    values, doubt = np.empty_like(view.labels), np.empty(view.labels.shape, np.float32)
    reads_bands = "bands" in inputs
    colors = np.empty((view.window.height, view.window.width, 3), np.float32)
    shown = list(true_color_bands(region.header.bands))
    done = 0
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
        done += part.pixels
        if listener:
            listener(done, view.window.pixels)
    image = stretched(colors) if reads_bands else remembered_image(region, view.window, view.date)
    return MappedView(view, image, values, doubt)


def labelled_view(labels: Labels) -> View:
    """The smallest window that contains all labels of the map with most; if it exceeds :data:`VIEW`, the part with most
    of them."""
    shown, scale = max(labels.maps, key=lambda each: int(each.labelled.sum())), labels.scale
    labelled = shown.labelled
    row, height = _densest(np.count_nonzero(labelled, axis=1))
    col, width = _densest(np.count_nonzero(labelled[row : row + height], axis=0))
    window = Window(row, col, height, width).coarsened(scale)
    inside = window.scaled(scale).slices
    whole = np.count_nonzero(labelled[inside]) == np.count_nonzero(labelled)
    return View(window, shown.dates[0], scale, shown.values[inside], whole)


def _densest(counts: np.ndarray) -> tuple[int, int]:
    """Start and length of the interval that contains all counts, or as many of them as fit into :data:`VIEW`."""
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
    """Reconstruct a window in true colour: uint8 (height, width, 3)."""
    bands = list(true_color_bands(region.header.bands))
    values = np.empty((window.height, window.width, 3), np.float32)
    done = 0
    for tile in window.tiles(TILE):
        # The bands as a head reads them, which is faster than `reconstruct`; their unit does not matter, as they are stretched.
        values[tile.within(window).slices] = _colors(region.head_input(tile, date, ("bands",))[bands])
        done += tile.pixels
        if listener:
            listener(done, window.pixels)
    return stretched(values)


def _colors(bands: torch.Tensor) -> NDArray[np.float32]:
    """Convert three bands (3, height, width) to pixels (height, width, 3)."""
    colors: NDArray[np.float32] = bands.permute(1, 2, 0).cpu().numpy()
    return colors


# --- Places where a head is least certain.


SIDE = 64
"""Pixels of the region along the side of a place."""


@dataclass(frozen=True)
class Place:
    """A window of a view, with its mean doubt and the coordinates of its centre in degrees."""

    window: Window
    doubt: float
    longitude: float
    latitude: float


def doubtful_places(mapped: MappedView, geobox: GeoBox, most: int = 6) -> list[Place]:
    """The windows of :data:`SIDE` pixels with the highest mean doubt, the highest first, without overlap.

    Args:
        mapped: the view; NaN is ignored, and a window of NaN only is no place.
        geobox: the region's grid.
        most: number of places at most.
    """
    view = mapped.view
    means: list[tuple[float, Window]] = []
    for tile in view.window.tiles(SIDE):
        # Narrow remainders at the view's edges are not informative.
        if 2 * tile.height < min(SIDE, view.window.height) or 2 * tile.width < min(SIDE, view.window.width):
            continue
        doubt = mapped.doubt[tile.within(view.window).scaled(view.scale).slices]
        known = doubt[np.isfinite(doubt)]
        if known.size:
            means.append((float(known.mean(dtype=np.float64)), tile))
    means.sort(key=lambda each: -each[0])
    return [Place(tile, doubt, *middle(tile, geobox)) for doubt, tile in means[:most]]


def middle(window: Window, geobox: GeoBox) -> tuple[float, float]:
    """Longitude and latitude of the centre of a window of a grid, in degrees."""
    assert geobox.crs is not None
    x, y = geobox.affine @ (window.col + window.width / 2, window.row + window.height / 2)
    longitude, latitude = Transformer.from_crs(geobox.crs.proj, LONLAT.proj, always_xy=True).transform(x, y)
    return float(longitude), float(latitude)


# --- Colours of labels and predictions.


STEPS = 6
"""Numbers in a key of numbers."""

SPARSE, DOT = 0.02, 100
"""If less than this share of the view is labelled, each label is drawn as a dot, whose diameter is at least the view's longer
side divided by this number."""

OPACITY = 0.65
"""Opacity of labels over an image."""

Image = NDArray[np.uint8]
"""(height, width, 3)."""


def numbers_of(labels: Labels) -> Numbers | None:
    """The span of labels that are numbers; None for classes."""
    summary = labels.report.numbers
    return None if summary is None else Numbers(low=summary.minimum, high=summary.maximum)


def number_steps(numbers: Numbers) -> list[tuple[float, str]]:
    """A few numbers and their colours for a key, the highest first."""
    shares = np.linspace(1, 0, STEPS)
    return [(numbers.low + share * (numbers.high - numbers.low), to_hex(RAMP(share))) for share in shares.tolist()]


def colored(values: PixelValues, classes: Sequence[ClassEntry], numbers: Numbers | None) -> Image:
    """Colour labels or predictions (height, width) as numbers, or as classes where `numbers` is None."""
    return class_image(values, classes) if numbers is None else number_image(values, numbers)


def over(image: Image, values: PixelValues, classes: Sequence[ClassEntry], numbers: Numbers | None) -> Image:
    """Draw labels half transparent over an image of the same size, or as dots where they are few."""
    shown = dotted(values)
    opacity = (
        1.0 if labelled(values).mean() < SPARSE else OPACITY
    )  # dots are small enough to see the ground beside them
    mixed = opacity * colored(shown, classes, numbers) + (1 - opacity) * image
    return np.where(labelled(shown)[..., None], mixed.astype(np.uint8), image)


def labelled(values: PixelValues) -> NDArray[np.bool_]:
    """Where pixels have a class or a number."""
    return values != IGNORE if values.dtype == np.uint8 else np.isfinite(values)


def dotted(values: PixelValues) -> PixelValues:
    """Return labels as they are, or enlarged to dots where they are too few to be seen; the nearest label counts.

    Args:
        values: (height, width) uint8 with IGNORE, or float with NaN.
    """
    known = labelled(values)
    if known.mean() >= SPARSE:
        return values
    radius = max(1.0, max(values.shape) / DOT / 2)
    distance, (rows, cols) = distance_transform_edt(~known, return_indices=True)
    return np.where(distance <= radius, values[rows, cols], values)


def class_pixels(labels: Labels) -> NDArray[np.int64]:
    """Labelled pixels of each class over all dates; empty for numbers."""
    counts = np.zeros(256, np.int64)
    for each in labels.maps if labels.classes else ():
        counts += np.bincount(each.values.ravel(), minlength=256)
    return counts[: len(labels.classes)]
