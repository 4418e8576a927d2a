"""Counts of labels by block, and by the zones of blocks that a buffer reaches as a whole or not at all.

A label map is read in strips, so that no array of indices is as large as the map; zones without labels are not stored.
Lengths are in pixels of the region, and counts sum over all dates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from lianet_user.labels.label_map import LabelMap, Labels, PixelValues

BoolArray = NDArray[np.bool_]
Counts = NDArray[np.int64]
Indices = NDArray[np.intp]

LARGEST, SMALLEST = 128, 16
"""The largest and smallest side of a block that is chosen automatically; those between are halved each time."""

STRATA = 5
"""Numbers are stratified into so many ranges with about equally many pixels each."""

SAMPLED = 1_000_000
"""About how many numbers, at most, the ranges are computed from."""


def widened(ground: BoolArray, reach: int) -> BoolArray:
    """Dilate a mask by `reach` pixels, diagonally too: bool, of the shape of `ground`."""
    rows, cols = np.flatnonzero(ground.any(1)), np.flatnonzero(ground.any(0))
    if not reach or not len(rows):
        return ground
    near = tuple(slice(max(0, at[0] - reach), at[-1] + reach + 1) for at in (rows, cols))
    # Filtering is slow: only around the ground, and as bytes.
    filled = ground[near].astype(np.uint8)
    for axis in (0, 1):
        filled = maximum_filter1d(filled, 2 * reach + 1, axis, mode="constant")
    wide = np.zeros(ground.shape, bool)
    wide[near] = filled
    return wide


def labelled_blocks(
    labels: Labels, block: int, *, only: LabelMap | None = None, excluded: BoolArray | None = None
) -> BoolArray:
    """Which blocks hold labels, of all maps or of one, outside the mask `excluded`: bool (block rows, block columns)."""
    height, width = region_shape(labels)
    labelled = np.zeros((-(-height // block), -(-width // block)), bool)
    for rows, cols, _ in _strips(labels.maps if only is None else (only,), labels.scale, 0, height, excluded):
        labelled[rows // block, cols // block] = True
    return labelled


def chosen_block(labels: Labels, enough: int, excluded: BoolArray | None) -> int:
    """The largest side with which at least `enough` blocks hold labels, or else the one with which the most do."""
    cells = labelled_blocks(labels, SMALLEST, excluded=excluded)
    counts = {}
    block = LARGEST
    while block >= SMALLEST:
        factor = block // SMALLEST
        padded = np.pad(cells, [(0, -size % factor) for size in cells.shape])
        rows, cols = (size // factor for size in padded.shape)
        counts[block] = np.count_nonzero(padded.reshape(rows, factor, cols, factor).any((1, 3)))
        block //= 2
    sufficient = (block for block, count in counts.items() if count >= enough)
    return next(sufficient, max(counts, key=lambda block: counts[block]))


@dataclass(frozen=True)
class Strata:
    """The strata that a split balances: classes, or ranges of numbers."""

    names: tuple[str, ...]
    edges: NDArray[np.float32] | None
    """(strata - 1,) the lowest number of each stratum except the first; None for classes."""

    def of(self, values: PixelValues) -> Indices:
        """The stratum of each labelled value."""
        if self.edges is None:
            return values.astype(np.intp)
        return np.searchsorted(self.edges, values, side="right")


def strata_of(labels: Labels, excluded: BoolArray | None = None) -> Strata:
    """The classes; for numbers, up to five ranges with about equally many pixels each, none of them empty."""
    if labels.classes:
        return Strata(tuple(entry.name for entry in labels.classes), None)
    height, _ = region_shape(labels)
    step = 1 + sum(np.count_nonzero(each.labelled) for each in labels.maps) // SAMPLED
    strips = _strips(labels.maps, labels.scale, 0, height, excluded)
    numbers = np.concatenate([np.zeros(0, np.float32), *(values[::step] for _, _, values in strips)])
    if not len(numbers):
        return Strata(("numbers",), np.zeros(0, np.float32))
    # Observed numbers rather than interpolated ones, so that no stratum is empty.
    edges = np.unique(np.quantile(numbers, np.arange(1, STRATA) / STRATA, method="higher"))
    edges = edges[edges > numbers.min()].astype(np.float32)
    ends = [numbers.min(), *edges, numbers.max()]
    names = tuple(f"{low:.4g} to {high:.4g}" for low, high in pairwise(ends))
    return Strata(names, edges)


def stratum_pixels(labels: Labels, strata: Strata, parts: Sequence[BoolArray]) -> Counts:
    """Count labelled pixels inside several masks.

    Args:
        labels: on the region's grid.
        strata: of the labels.
        parts: masks, each bool (height, width) of the region.

    Returns:
        int64 (parts, strata).
    """
    height, _ = region_shape(labels)
    counts = np.zeros((len(parts), len(strata.names)), np.int64)
    for rows, cols, values in _strips(labels.maps, labels.scale, 0, height, None):
        stratum = strata.of(values)
        for part, count in zip(parts, counts, strict=True):
            count += np.bincount(stratum[part[rows, cols]], minlength=len(count))
    return counts


@dataclass(frozen=True, eq=False)
class Zones:
    """Labels counted in zones. Blocks are cut where the buffer of another block ends, into 3 x 3 zones at most, so that
    keeping a block for validation takes a zone from training as a whole or not at all."""

    shape: tuple[int, int]
    """Rows and columns of blocks."""
    strata: Strata
    blocks: Indices
    """(blocks,) the blocks with labels: row times columns plus column, in order."""
    inside: Counts
    """(blocks, strata) labelled pixels in each of them."""
    counts: Counts
    """(zones + 1, strata) labelled pixels in each zone that holds some; the last row is of none."""
    hidden: NDArray[np.int32]
    """(blocks, n) the zones in each block or within the buffer around it; padded with the last, empty one."""

    @property
    def totals(self) -> Counts:
        """Labelled pixels of each stratum: (strata,)."""
        totals: Counts = self.counts.sum(0)
        return totals

    def left(self, kept: BoolArray) -> Counts:
        """Labelled pixels that remain for training when some of the `blocks` are kept.

        Args:
            kept: bool (blocks,).

        Returns:
            (strata,).
        """
        left: Counts = self.totals - self.counts[np.unique(self.hidden[kept])].sum(0)
        return left

    def mask(self, kept: BoolArray) -> BoolArray:
        """Spread bool (blocks,) to bool (block rows, block columns)."""
        mask = np.zeros(self.shape, bool)
        mask.flat[self.blocks[kept]] = True
        return mask


def count_zones(labels: Labels, block: int, buffer: int, excluded: BoolArray | None) -> Zones:
    """Count labels in the zones that blocks of a side and a buffer make.

    Args:
        labels: on the region's grid.
        block: pixels along the side of a block.
        buffer: pixels around a block that is kept.
        excluded: bool (height, width), ground whose labels are ignored.
    """
    strata = strata_of(labels, excluded)
    height, width = region_shape(labels)
    block_rows, block_cols = -(-height // block), -(-width // block)
    # A buffer ends so far behind an edge of some block, and so far before the opposite one.
    past = buffer % block
    low, high = min(past, block - past), max(past, block - past)
    reach = 3 * (buffer // block) + (0 if not past else 1 if past == low else 2)

    pixel = np.arange(max(height, width))
    zone_of = 3 * (pixel // block) + (pixel % block >= low) + (pixel % block >= high)
    number = len(strata.names)
    zones, counts = [], [np.zeros((0, number), np.int64)]
    for row in range(block_rows):
        bins = 3 * 3 * block_cols
        counted = np.zeros(bins * number, np.int64)
        for rows, cols, values in _strips(labels.maps, labels.scale, row * block, (row + 1) * block, excluded):
            zone = (zone_of[rows] - 3 * row) * (3 * block_cols) + zone_of[cols]
            counted += np.bincount(zone * number + strata.of(values), minlength=len(counted))
        table = counted.reshape(bins, number)
        held = np.flatnonzero(table.any(1))
        zones.append(row * bins + held)
        counts.append(table[held])
    zone_row, zone_col = np.divmod(np.concatenate(zones), 3 * block_cols)
    table = np.concatenate([*counts, np.zeros((1, number), np.int64)])

    empty = len(zone_row)
    grid = np.full((3 * block_rows + 2 * reach, 3 * block_cols + 2 * reach), empty, np.int32)
    grid[reach + zone_row, reach + zone_col] = np.arange(empty)
    around = sliding_window_view(grid, (3 + 2 * reach, 3 + 2 * reach))[::3, ::3]
    blocks = np.unique((zone_row // 3) * block_cols + zone_col // 3)
    hidden = around[np.divmod(blocks, block_cols)]
    own = hidden[:, reach : reach + 3, reach : reach + 3]
    inside = table[own.reshape(len(blocks), 9)].sum(1)
    return Zones((block_rows, block_cols), strata, blocks, inside, table, hidden.reshape(len(blocks), -1))


def region_shape(labels: Labels) -> tuple[int, int]:
    """Height and width in pixels of the region, also where the labels are on a finer grid."""
    height, width = labels.maps[0].values.shape
    return height // labels.scale, width // labels.scale


def _strips(
    maps: Sequence[LabelMap], scale: int, start: int, stop: int, excluded: BoolArray | None
) -> Iterator[tuple[Indices, Indices, PixelValues]]:
    """Yield the labelled pixels of the rows `start` to `stop`, strip by strip: region rows and columns, and values."""
    for each in maps:
        height, width = each.values.shape
        for top in range(start, min(stop, height // scale), LARGEST):
            strip = each.values[top * scale : min(stop, top + LARGEST) * scale]
            labelled = dataclasses.replace(each, values=strip).labelled
            if not labelled.any():
                continue
            places = np.flatnonzero(labelled)
            rows, cols = np.divmod(places, width)
            rows, cols = top + rows // scale, cols // scale
            values = strip.reshape(-1)[places]
            if excluded is not None:
                keep = ~excluded[rows, cols]
                rows, cols, values = rows[keep], cols[keep], values[keep]
            yield rows, cols, values
