"""Samples to train a head on: windows cut around the labels, with the frozen field's answer computed once for each."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lianet_user.errors import LabelError, TrainingWarning
from lianet_user.grid import Window
from lianet_user.header import IGNORE
from lianet_user.labels import LabelMap

BLOCK = 128
"""Pixels along the side of the blocks that are trained or validated on as a whole."""

SUPERTILE = 4 * BLOCK
"""The field is computed for neighbouring blocks together, so that their halos are not computed twice."""

Block = tuple[int, int]
"""Row and column of a block."""

Source = Callable[[Window], Tensor]
Listener = Callable[[int, int], None]


@dataclass(frozen=True)
class Sample:
    """The labels of one block and what a head reads around them."""

    block: Block
    window: Window
    labels: Tensor
    """uint8 (height, width) of `window`: class index; IGNORE outside the block and where there is no label."""
    inputs: Tensor
    """float16 (channels, height, width)."""


def split_blocks(labels: LabelMap, share: float, seed: int, tries: int = 500) -> np.ndarray:
    """Choose the blocks to validate on: bool (block rows, block columns).

    Neighbouring pixels are alike, so training and validation take whole blocks of :data:`BLOCK` pixels. Every draw leaves
    each class something to train on; of many, the one is kept whose validation pixels come closest to `share` in every
    class.

    Raises:
        LabelError: all labels lie in one block, or no block can be spared.

    Warns:
        TrainingWarning: a class lies in a single block, and so cannot be validated.
    """
    counts = _block_counts(labels)
    rows, cols, classes = counts.shape
    flat = counts.reshape(-1, classes)
    labelled = np.flatnonzero(flat.sum(1))
    if len(labelled) < 2:
        raise LabelError(
            f"all labels lie within one block of {BLOCK} x {BLOCK} pixels, which leaves none to validate on: add labels"
            " elsewhere in the region"
        )
    blocks_of_class = (flat > 0).sum(0)
    if alone := [labels.classes[index].name for index in np.flatnonzero(blocks_of_class == 1)]:
        warnings.warn(
            TrainingWarning(
                f"labels of {', '.join(alone)} lie in a single block of {BLOCK} px: trained on, but not validated"
            ),
            stacklevel=2,
        )
    totals, splittable = flat.sum(0), blocks_of_class > 1
    rng = np.random.default_rng(seed)
    size = max(1, round(share * len(labelled)))
    best, best_cost = None, np.inf
    for _ in range(tries):
        drawn = _draw_blocks(flat, rng.permutation(labelled), size)
        if not drawn:
            raise LabelError(
                "every block with labels holds the only ones of some class, so that none can be spared to validate on:"
                " add labels elsewhere in the region"
            )
        shares = flat[drawn].sum(0)[splittable] / totals[splittable]
        # A class without validation pixels costs more than any imbalance.
        cost = float(np.abs(shares - share).sum() + 10 * (shares == 0).sum())
        if cost < best_cost:
            best, best_cost = drawn, cost
    chosen = np.zeros(rows * cols, bool)
    chosen[best] = True
    return chosen.reshape(rows, cols)


def _draw_blocks(counts: np.ndarray, order: np.ndarray, size: int) -> list[int]:
    """The first `size` blocks of an order that can be taken without using up a class.

    Args:
        counts: int64 (blocks, classes) labelled pixels.
        order: blocks, in the order of being asked.
        size: how many to draw at most.
    """
    drawn: list[int] = []
    left = counts.sum(0)
    for block in order.tolist():
        if ((left > counts[block]) | (counts[block] == 0)).all():
            drawn.append(block)
            left = left - counts[block]
            if len(drawn) == size:
                break
    return drawn


def make_samples(source: Source, labels: LabelMap, *, margin: int, listener: Listener | None = None) -> list[Sample]:
    """Cut the labels into windows, block by block, and compute what a head reads there: once.

    Args:
        source: gives the inputs float32 (channels, height, width) of a window.
        labels: on the region's grid.
        margin: pixels of surroundings kept on every side of a block's labels, at least the head's halo.
        listener: told how many of how many labelled blocks are done.
    """
    places = [(int(row), int(col)) for row, col in np.argwhere(_block_counts(labels).any(2))]
    samples: list[Sample] = []
    for _, group in itertools.groupby(sorted(places, key=_supertile), key=_supertile):
        windows = {place: _label_window(labels, place, margin) for place in group}
        together = _union(list(windows.values()))
        values = source(together).to(torch.float16)
        for place, window in windows.items():
            own = torch.from_numpy(_own_labels(labels, place, window))
            inputs = values[(slice(None), *window.within(together).slices)].clone()
            samples.append(Sample(place, window, own, inputs))
            if listener:
                listener(len(samples), len(places))
    return samples


def _block_counts(labels: LabelMap) -> np.ndarray:
    """Labelled pixels of every class in every block: int64 (block rows, block columns, classes)."""
    height, width = labels.values.shape
    rows, cols = -(-height // BLOCK), -(-width // BLOCK)
    row, col = np.nonzero(labels.values != IGNORE)
    classes = len(labels.classes)
    index = ((row // BLOCK) * cols + col // BLOCK) * classes + labels.values[row, col]
    return np.bincount(index, minlength=rows * cols * classes).reshape(rows, cols, classes)


def _supertile(place: Block) -> Block:
    blocks = SUPERTILE // BLOCK
    return place[0] // blocks, place[1] // blocks


def _block_window(labels: LabelMap, place: Block) -> Window:
    height, width = labels.values.shape
    row, col = place[0] * BLOCK, place[1] * BLOCK
    return Window(row, col, min(BLOCK, height - row), min(BLOCK, width - col))


def _label_window(labels: LabelMap, place: Block, margin: int) -> Window:
    """The smallest window around a block's labels, with the margin."""
    block = _block_window(labels, place)
    rows, cols = np.nonzero(labels.values[block.slices] != IGNORE)
    row, col = block.row + int(rows.min()), block.col + int(cols.min())
    tight = Window(row, col, int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
    return tight.expanded(margin, 1, labels.values.shape)


def _own_labels(labels: LabelMap, place: Block, window: Window) -> np.ndarray:
    """Labels of a window, with those of other blocks ignored."""
    own = np.full((window.height, window.width), IGNORE, np.uint8)
    inside = _block_window(labels, place).intersection(window)
    assert inside is not None
    own[inside.within(window).slices] = labels.values[inside.slices]
    return own


def _union(windows: Sequence[Window]) -> Window:
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.row_end for w in windows) - row, max(w.col_end for w in windows) - col)
