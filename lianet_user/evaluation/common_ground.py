"""The ground that models are compared on: labels count where everything that any of them reads is valid."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lianet_user.errors import LabelError, listed
from lianet_user.files.header import IGNORE
from lianet_user.geo.grid import Window
from lianet_user.labels import BLOCK, LabelMap, Labels

BoolArray = NDArray[np.bool_]

Valid = Callable[[Window, dt.date], BoolArray]
"""Where something is valid: bool (height, width) of a window at a date."""
Listener = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class CommonGround:
    """Labels, and where they count at which date.

    Attributes:
        labels: as they were read, without those that count at none of their dates.
        found: labelled pixels as they were read, each counted at each of its dates.
        left_out: how many of them do not count.
        everywhere: every label that is left counts at all of its dates.
    """

    labels: Labels
    found: int
    left_out: int
    everywhere: bool
    _counting: dict[tuple[dt.date, int, int], BoolArray]
    """By date and by row and column of a block."""

    def mask(self, window: Window, date: dt.date) -> BoolArray:
        """Where labels count: bool (height, width) of a window; false where there are none."""
        result = np.zeros((window.height, window.width), bool)
        for row in range(window.row // BLOCK, -(-window.row_end // BLOCK)):
            for col in range(window.col // BLOCK, -(-window.col_end // BLOCK)):
                held = self._counting.get((date, row, col))
                if held is None:
                    continue
                block = Window(row * BLOCK, col * BLOCK, *held.shape)
                shared = block.intersection(window)
                assert shared is not None
                result[shared.within(window).slices] = held[shared.within(block).slices]
        return result


def common_ground(labels: Labels, readers: Sequence[Valid], listener: Listener | None = None) -> CommonGround:
    """Find out where labels count.

    Args:
        labels: on the region's own grid.
        readers: of all that is compared.
        listener: told how many of how many blocks with labels are done, each at each of its dates.

    Raises:
        LabelError: no label is left, or none of a class.
    """
    jobs = [(each, block, date) for each in labels.maps for block in _labelled_blocks(each) for date in each.dates]
    counting: dict[tuple[dt.date, int, int], BoolArray] = {}
    some_date = {id(each): np.zeros(each.values.shape, bool) for each in labels.maps}
    found = counted = 0
    for done, (each, block, date) in enumerate(jobs, 1):
        key = date, block.row // BLOCK, block.col // BLOCK
        if key not in counting:
            counting[key] = np.logical_and.reduce(
                [np.ones((block.height, block.width), bool), *(valid(block, date) for valid in readers)]
            )
        labelled = _part(each, block).labelled
        some_date[id(each)][block.slices] |= counting[key]
        found += int(labelled.sum())
        counted += int((labelled & counting[key]).sum())
        if listener:
            listener(done, len(jobs))
    maps = tuple(LabelMap(_without(each, ~some_date[id(each)]), each.dates) for each in labels.maps)
    left = dataclasses.replace(labels, maps=maps)
    _require_all(labels, left)
    everywhere = counted == sum(int(each.labelled.sum()) * len(each.dates) for each in maps)
    return CommonGround(left, found, found - counted, everywhere, counting)


def _labelled_blocks(each: LabelMap) -> list[Window]:
    height, width = each.values.shape
    blocks = Window(0, 0, height, width).tiles(BLOCK)
    return [block for block in blocks if _part(each, block).labelled.any()]


def _part(each: LabelMap, block: Window) -> LabelMap:
    return LabelMap(each.values[block.slices], each.dates)


def _without(each: LabelMap, where: BoolArray) -> np.ndarray:
    nothing = IGNORE if each.values.dtype == np.uint8 else math.nan
    return np.where(where, np.asarray(nothing, each.values.dtype), each.values)


def _require_all(before: Labels, after: Labels) -> None:
    """
    Raises:
        LabelError: see `common_ground`.
    """
    advice = "give imagery or features that cover them, or other dates"
    if not any(each.labelled.any() for each in after.maps):
        raise LabelError(
            f"{before.report.source}: no label lies where the imagery and the features are valid (clouds, nodata): {advice}"
        )
    lost = [
        repr(entry.name)
        for value, entry in enumerate(before.classes)
        if not any((each.values == value).any() for each in after.maps)
    ]
    if lost:
        raise LabelError(
            f"{before.report.source}: all labels of {listed(lost)} lie where the imagery or the features are not valid"
            f" (clouds, nodata): {advice}, or drop the class with --map"
        )
