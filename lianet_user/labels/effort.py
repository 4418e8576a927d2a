"""What a training on labels takes: which windows the field is computed for, and how long that and all that follows is likely to
take. `check` forecasts by it, and `finetune` tells by it how much is left."""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lianet_user.field.config import FieldConfig
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import Window
from lianet_user.labels.label_map import LabelMap, Labels
from lianet_user.labels.split import BLOCK

# --- The windows: blocks of labels with what lies around them, and which of them are computed at once.

SUPERTILE = 4
"""Blocks along the side of a square that the field is computed for at once, so that halos are computed only once."""

Place = tuple[int, int]
"""Row and column of a block."""


@dataclass(frozen=True)
class Reading:
    """A window that the field is computed for at once, and the windows of labels in it."""

    map: int
    """Number of the label map."""
    date: dt.date
    window: Window
    """Of the region, as all windows here."""
    samples: tuple[tuple[Window, Window], ...]
    """Of each block with labels, its window, and the part of it that belongs to no other."""


def readings(labels: Labels, *, margin: int, tight: bool, halo: int | None) -> list[Reading]:
    """The windows that labels are trained on, block by block and date by date, in the order in which they are computed.

    Args:
        labels: on the region's grid, or on a finer one.
        margin: pixels of surroundings kept on every side of a block's labels.
        tight: a window is no larger than the labels in its block and the margin; else it is the block and the margin.
        halo: pixels around a window that are computed with it; with it, few labels far apart are read one by one where that
            is less work. None reads those that are near each other at once, however few.
    """
    result = []
    for number, each in enumerate(labels.maps):
        shape = _shape(each, labels.scale)
        blocks = sorted(_labelled_blocks(each, labels.scale), key=_supertile)
        groups = [list(group) for _, group in itertools.groupby(blocks, key=_supertile)]
        for date in each.dates:
            for group in groups:
                windows = {place: _window(each, labels.scale, place, margin, tight) for place in group}
                for union, places in _read_at_once(windows, halo, shape):
                    parts = []
                    for place in places:
                        own = _block(shape, place).intersection(windows[place])
                        assert own is not None
                        parts.append((windows[place], own))
                    result.append(Reading(number, date, union, tuple(parts)))
    return result


def _read_at_once(
    windows: Mapping[Place, Window], halo: int | None, shape: tuple[int, int]
) -> list[tuple[Window, list[Place]]]:
    """The windows to compute, and the blocks in each: all near ones at once, or one by one where that is less work."""
    union = _union(list(windows.values()))
    if halo is None:
        return [(union, list(windows))]
    alone = sum(window.expanded(halo, 1, shape).pixels for window in windows.values())
    if alone < union.expanded(halo, 1, shape).pixels:
        return [(window, [place]) for place, window in windows.items()]
    return [(union, list(windows))]


def _labelled_blocks(labels: LabelMap, scale: int) -> list[Place]:
    rows, cols = np.nonzero(labels.labelled)
    side = BLOCK * scale
    _, across = labels.values.shape
    blocks = np.unique(rows // side * across + cols // side)
    return [divmod(int(block), across) for block in blocks]


def _supertile(place: Place) -> Place:
    return place[0] // SUPERTILE, place[1] // SUPERTILE


def _shape(labels: LabelMap, scale: int) -> tuple[int, int]:
    height, width = labels.values.shape
    return height // scale, width // scale


def _block(shape: tuple[int, int], place: Place) -> Window:
    height, width = shape
    row, col = place[0] * BLOCK, place[1] * BLOCK
    return Window(row, col, min(BLOCK, height - row), min(BLOCK, width - col))


def _window(labels: LabelMap, scale: int, place: Place, margin: int, tight: bool) -> Window:
    """The block, or the smallest window around its labels, with the margin."""
    shape = _shape(labels, scale)
    window = _block(shape, place)
    if tight:
        fine = window.scaled(scale)
        block = LabelMap(labels.values[fine.slices], labels.dates).labelled
        rows, cols = (np.flatnonzero(block.any(axis)) for axis in (1, 0))
        top, left = int(rows[0]) // scale, int(cols[0]) // scale
        bottom, right = int(rows[-1]) // scale + 1, int(cols[-1]) // scale + 1
        window = Window(window.row + top, window.col + left, bottom - top, right - left)
    return window.expanded(margin, 1, shape)


def _union(windows: Sequence[Window]) -> Window:
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.row_end for w in windows) - row, max(w.col_end for w in windows) - col)


DEFAULT_MARGIN = 16
"""Pixels around labels in the windows that `finetune` cuts by default: half the side of a crop."""

# --- Seconds on the machine that they were measured on: one core of an AMD EPYC with AVX2 only.

REFERENCE_GFLOPS = 85.0
"""Matrix products of float32 there, by :func:`matrix_gflops`."""

FIELD_SECONDS = {"resnet18": 8.3, "resnet50": 220.0, "resnet101": 460.0, None: 220.0}
"""For a million pixels of the frozen field, by the encoder of its decoder: of `lite`, with the halos; of the paper's Base and
Large, and of the later releases' light decoder, which has none, twice what they took on two cores."""

SOLVING_SECONDS = 3.4
"""For pixel models, from as many labels as they take at most."""

TRAINING_SECONDS, JUDGING_SECONDS = 85.0, 60.0
"""For 10^12 products of layers: forward and back with the looks in between, and forward twice, to weigh and to judge."""

DRAWING_SECONDS = 29.0
"""For the map, the picture and the report of a head."""


def field_seconds(plan: Sequence[Reading], field: FieldConfig) -> float:
    """Seconds for the field over all windows of a plan, at one date each."""
    decoder = field.decoder
    around = 0 if decoder.spatial_norm else 2 * decoder.halo
    pixels = sum((each.window.height + around) * (each.window.width + around) for each in plan)
    return FIELD_SECONDS[decoder.encoder] * pixels / 1e6


FEW_PIXELS = 5_000
"""With fewer pixels to train on, the pixel models see all of them, and layers add nothing to them: no region of the bench had
better maps with them (benchmarks/README.md, "Many regions")."""

CLASSES_PRODUCTS, NUMBERS_PRODUCTS, LASTING_PRODUCTS = 1.0e12, 2.1e12, 0.6e12
"""Products that training the layers takes by default, once: for classes, for numbers, and for labels that hold at all of
several dates of a `lite` field. It is done twice, or with twice the steps."""


def default_seconds(labels: Labels, region: RegionHeader, validation: float) -> float:
    """Seconds that `finetune` takes there with the settings that it chooses for such labels.

    Args:
        labels: to train on and to judge by.
        region: that they lie in.
        validation: share of the labels that is kept.
    """
    lasting = labels.lasting and region.field.decoder.architecture == "lite"
    plan = readings(
        labels.once() if lasting else labels, margin=DEFAULT_MARGIN, tight=True, halo=region.field.decoder.halo
    )
    products = LASTING_PRODUCTS if lasting else CLASSES_PRODUCTS if labels.classes else NUMBERS_PRODUCTS
    if labels.scale == 1 and (1 - validation) * labels.report.labelled < FEW_PIXELS:
        products = 0.0
    features = field_seconds(plan, region.field) * (len(region.dates) if lasting else 1)
    return features + 2 * (SOLVING_SECONDS + TRAINING_SECONDS * products / 1e12) + DRAWING_SECONDS


def layer_products(channels: Sequence[int]) -> int:
    """Products that 3x3 convolutions with these channels, the inputs first, take for a pixel."""
    return sum(9 * before * after for before, after in itertools.pairwise(channels))


def matrix_gflops() -> float:
    """Speed of this machine at matrix products, which training mostly consists of: the best of a few short tries."""
    size = 1024
    matrix = np.ones((size, size), np.float32)
    best = np.inf
    for _ in range(4):
        started = time.perf_counter()
        _ = matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9
