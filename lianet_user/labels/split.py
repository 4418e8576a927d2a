"""Which ground is trained on and which is kept for validation: whole blocks, because neighbouring pixels are alike.

Labels are counted by block, and by the zones of blocks that a buffer reaches as a whole or not at all. A label map is read in
strips, so that no array of indices is as large as the map; zones without labels are not stored. Lengths are in pixels of the
region, and counts sum over all dates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lianet_user.errors import LabelError, TrainingWarning, listed
from lianet_user.geo.grid import Window
from lianet_user.labels.label_map import LabelMap, Labels, PixelValues

BoolArray = NDArray[np.bool_]
Counts = NDArray[np.int64]
Indices = NDArray[np.intp]

BLOCK, SMALLEST = 128, 16
"""The largest and smallest side of a block that is chosen automatically; those between are halved each time. Windows that are
trained on have the side of the largest."""

BUFFER = 10
"""Pixels of the region: 100 m with the pixels of Sentinel-2."""

LEAST_BLOCK = 8
"""Pixels along the side: a smaller block is not independent of its neighbours."""

ENOUGH_BLOCKS = 10
"""Blocks with labels that a split should have to draw from; a cross-validation needs four for each fold."""

SHARE = 0.2
"""Share of the labelled blocks that is kept for validation by default."""

DRAWS = 500
"""Random draws, of which the best is taken; fewer where there are very many blocks, whose draws differ less."""

STRATA = 5
"""Numbers are stratified into so many ranges with about equally many pixels each."""

SAMPLED = 1_000_000
"""About how many numbers, at most, the ranges are computed from."""


@dataclass(frozen=True, eq=False)
class Split:
    """Which ground is trained on, and which is kept for validation and test, in pixels of the region.

    Every pixel is trained on, validated, tested, or lies in the buffer and is none of these.

    Attributes:
        shape: height and width of the region.
        block: side of the blocks, each of which is kept as a whole or not.
        validation: bool (block rows, block columns), the blocks kept for validation; all false if none is.
        buffer: ground within this distance of kept ground is not trained on; within this distance of the test area it is
            not validated either.
        test: bool (height, width), an area that was set aside; None if there is none.
    """

    shape: tuple[int, int]
    block: int
    validation: BoolArray
    buffer: int = 0
    test: BoolArray | None = None

    def digest(self) -> str:
        """A hash of the whole split."""
        digest = hashlib.sha256(json.dumps([self.shape, self.block, self.buffer]).encode())
        digest.update(self.validation.tobytes())
        if self.test is not None:
            digest.update(self.test.tobytes())
        return digest.hexdigest()

    def validated(self, window: Window) -> BoolArray:
        """Where labels are kept for validation: bool (height, width) of a window."""
        kept = self._kept(window)
        return kept if self.test is None else kept & ~self._around(self.tested, window)

    def tested(self, window: Window) -> BoolArray:
        """Where labels are set aside for the test: bool (height, width) of a window."""
        if self.test is None:
            return np.zeros((window.height, window.width), bool)
        return self.test[window.slices]

    def trained(self, window: Window) -> BoolArray:
        """Where labels are trained on: bool (height, width) of a window.

        This ground lies neither in kept blocks or the test area, nor within `buffer` pixels of them, diagonally too.
        """
        return ~self._around(lambda outer: self._kept(outer) | self.tested(outer), window)

    def _kept(self, window: Window) -> BoolArray:
        rows = np.arange(window.row, window.row_end) // self.block
        cols = np.arange(window.col, window.col_end) // self.block
        kept: BoolArray = self.validation[np.ix_(rows, cols)]
        return kept

    def _around(self, ground: Callable[[Window], BoolArray], window: Window) -> BoolArray:
        """Some ground, dilated by the buffer."""
        outer = window.expanded(self.buffer, 1, self.shape)
        return widened(ground(outer), self.buffer)[window.within(outer).slices]


def split_labels(
    labels: Labels,
    *,
    share: float = SHARE,
    seed: int = 0,
    buffer: int | None = None,
    block: int | None = None,
    test: BoolArray | None = None,
) -> Split:
    """Choose the blocks to validate on.

    Neighbouring pixels are similar, so whole blocks are kept, the same at all dates, and the buffer around them is not
    trained on. Every draw leaves each class something to train on; of many draws, the one is taken whose validation pixels
    come closest to `share` in every class. Numbers are treated as five classes, from low to high.

    Args:
        labels: on the region's grid, or on a finer one.
        share: share of the labelled blocks that is kept, between 0 and 1.
        seed: of the random draws.
        buffer: pixels of the region between what is kept and what is trained on, 0 or more; None takes :data:`BUFFER`, or
            a quarter of the block's side where that is less. It is halved where it would leave some class nothing to train
            on whichever block is kept.
        block: pixels of the region along the side of a block, 8 or more. None takes 128, halved (to no less than 16) until
            10 blocks hold labels, or as many as can.
        test: bool (height, width) of the region, an area that is set aside. Its labels are ignored here, and so are
            those within the buffer around it.

    Raises:
        LabelError: all labels lie in one block, no block can be spared, the test area holds no labels or the only ones of a
            class, or an argument is out of range.

    Warns:
        TrainingWarning: a class cannot be validated, or the buffer was halved.
    """
    if not 0 < share < 1:
        raise LabelError(f"`share` {share:g} of the blocks for validation: expected more than 0 and less than 1")
    buffer, needed = _checked(labels, ENOUGH_BLOCKS, buffer, block, test)
    for zones, side, tried in _attempts(labels, ENOUGH_BLOCKS, buffer, block, test):
        if len(zones.blocks) < 2 or not zones.totals[needed].all():
            continue
        kept = _best_draw(zones, share, np.random.default_rng(seed))
        if kept.any():
            _warn_of_buffer(buffer, tried)
            _warn_of_unvalidated(zones, kept, side)
            return Split(region_shape(labels), side, zones.mask(kept), tried, test)
    where = "" if test is None else " outside the test area"
    if len(zones.blocks) < 2:
        raise LabelError(
            f"all labels{where} lie within one block of {side} x {side} pixels, which leaves none to validate on: add labels"
            " elsewhere in the region"
        )
    raise LabelError(
        f"every block with labels{where} holds the only ones of some class, so that none can be spared to validate on: add"
        " labels elsewhere in the region"
    )


def split_folds(
    labels: Labels,
    folds: int,
    *,
    seed: int = 0,
    buffer: int | None = None,
    block: int | None = None,
    test: BoolArray | None = None,
) -> tuple[Split, ...]:
    """Deal the blocks to folds for a cross-validation: every labelled block is validated in exactly one of them.

    Blocks of the rarest class are dealt first, each to the fold that has the fewest pixels of it; of many deals the most
    even one is taken. (For single samples this is known as iterative stratification: Sechidis et al. 2011.)

    Args:
        labels: on the region's grid, or on a finer one.
        folds: 2 or more.
        seed: of the random deals.
        buffer: as in :func:`split_labels`. It is halved where a fold would have nothing to train on.
        block: as in :func:`split_labels`, but None halves until there are 4 labelled blocks for each fold.
        test: as in :func:`split_labels`.

    Raises:
        LabelError: fewer blocks with labels than folds, a fold with nothing to train on, the test area holds no labels or
            the only ones of a class, or an argument is out of range.

    Warns:
        TrainingWarning: a class lies in fewer blocks than there are folds or is not trained on in some fold, or the buffer
            was halved.
    """
    if folds < 2:
        raise LabelError(f"`folds` {folds}: expected 2 or more")
    buffer, needed = _checked(labels, 4 * folds, buffer, block, test)
    for zones, side, tried in _attempts(labels, 4 * folds, buffer, block, test):
        if len(zones.blocks) < folds or not zones.totals[needed].all():
            continue
        fold_of = _best_deal(zones, folds, np.random.default_rng(seed))
        left = np.stack([zones.left(fold_of == fold) for fold in range(folds)])
        if left.any(1).all():
            _warn_of_buffer(buffer, tried)
            _warn_of_folds(zones, left, side)
            shape = region_shape(labels)
            return tuple(Split(shape, side, zones.mask(fold_of == fold), tried, test) for fold in range(folds))
    where = "" if test is None else " outside the test area"
    if len(zones.blocks) < folds:
        raise LabelError(
            f"labels{where} lie in {len(zones.blocks)} blocks of {side} x {side} pixels, too few for {folds} folds: take"
            " fewer folds or smaller blocks, or add labels elsewhere in the region"
        )
    raise LabelError(f"{folds} folds leave nothing to train on in one of them: add labels elsewhere in the region")


def _checked(
    labels: Labels, enough: int, buffer: int | None, block: int | None, test: BoolArray | None
) -> tuple[int, Indices]:
    """The buffer asked for, or by default one that leaves small blocks something to train on; and the classes that the buffer
    around a test area must not use up: all those with labels outside the area.

    Raises:
        LabelError: a number is out of range, or the test area cannot be used.
    """
    if buffer is None:
        buffer = min(BUFFER, (chosen_block(labels, enough, None) if block is None else block) // 4)
    if buffer < 0:
        raise LabelError(f"a buffer of {buffer} pixels around validation ground: expected 0 or more")
    if block is not None and block < LEAST_BLOCK:
        raise LabelError(f"`block` {block}: expected {LEAST_BLOCK} pixels or more along a side")
    if test is None:
        return buffer, np.zeros(0, np.intp)
    shape = region_shape(labels)
    if test.shape != shape:
        raise LabelError(
            f"a test area of {test.shape[0]} x {test.shape[1]} pixels: expected the region's {shape[0]} x {shape[1]}"
        )
    strata = strata_of(labels)
    inside, outside = stratum_pixels(labels, strata, (test, ~test))
    if not inside.any():
        raise LabelError(
            f"the test area of {np.count_nonzero(test):,} pixels holds no labels: choose one that labels lie in"
        )
    if not outside.any():
        raise LabelError(f"the test area holds all {inside.sum():,} labelled pixels: leave some outside to train on")
    if not labels.classes:
        return buffer, np.zeros(0, np.intp)
    if len(gone := np.flatnonzero((outside == 0) & (inside > 0))):
        raise LabelError(
            f"the test area holds all labelled pixels of {_named(strata.names, gone, inside)}: leave some of each class"
            " outside to train on"
        )
    return buffer, np.flatnonzero(outside)


def _named(names: Sequence[str], which: Indices, pixels: Counts | None = None) -> str:
    """Names of classes for a message, with their pixels."""
    return listed([names[n] if pixels is None else f"{names[n]} ({pixels[n]:,})" for n in which.tolist()])


def _attempts(
    labels: Labels, enough: int, buffer: int, block: int | None, test: BoolArray | None
) -> Iterator[tuple[Zones, int, int]]:
    """Labels outside the test area and its buffer in zones, the side of the blocks, and the buffer: halved until it is none."""
    while True:
        excluded = None if test is None else widened(test, buffer)
        side = chosen_block(labels, enough, excluded) if block is None else block
        yield count_zones(labels, side, buffer, excluded), side, buffer
        if not buffer:
            return
        buffer //= 2


def _best_draw(zones: Zones, share: float, rng: np.random.Generator) -> BoolArray:
    """The blocks to keep, by the best of many draws: bool (blocks,), all false where none can be spared."""
    kept = _draws(zones, max(1, round(share * len(zones.blocks))), rng)
    several = (zones.inside > 0).sum(0) > 1
    shares = kept @ zones.inside[:, several] / zones.totals[several]
    # A class without validation pixels costs more than any imbalance.
    costs = np.abs(shares - share).sum(1) + 10 * (shares == 0).sum(1)
    best: BoolArray = kept[np.where(kept.any(1), costs, np.inf).argmin()]
    return best


def _draws(zones: Zones, size: int, rng: np.random.Generator) -> BoolArray:
    """Draw blocks at random, up to `size` of them, each of which leaves every class something to train on.

    All draws proceed in step: in each turn every draw considers the next block of its own order.

    Returns:
        bool (draws, blocks).
    """
    blocks = len(zones.blocks)
    draws = _tries(blocks)
    orders = rng.permuted(np.tile(np.arange(blocks), (draws, 1)), axis=1)
    kept, number = np.zeros((draws, blocks), bool), np.zeros(draws, np.intp)
    hidden = np.zeros((draws, len(zones.counts)), bool)
    left = np.tile(zones.totals, (draws, 1))
    for block in orders.T:
        active = np.flatnonzero(number < size)
        if not len(active):
            break
        near = zones.hidden[block[active]]
        lost = np.einsum("dzc,dz->dc", zones.counts[near], ~hidden[active[:, None], near])
        spared = ((left[active] > lost) | (lost == 0)).all(1)
        active, near, lost = active[spared], near[spared], lost[spared]
        kept[active, block[active]] = True
        number[active] += 1
        hidden[active[:, None], near] = True
        left[active] -= lost
    return kept


def _tries(blocks: int) -> int:
    return max(20, min(DRAWS, 1_000_000 // blocks))


def _best_deal(zones: Zones, folds: int, rng: np.random.Generator) -> Indices:
    """The fold of every block, by the most even of many deals: (blocks,)."""
    best, least = np.zeros(len(zones.blocks), np.intp), np.inf
    totals = np.maximum(zones.totals, 1)
    for _ in range(_tries(len(zones.blocks)) // 10):
        fold_of = _deal(zones, folds, rng)
        shares = np.stack([zones.inside[fold_of == fold].sum(0) for fold in range(folds)]) / totals
        unevenness = np.abs(shares - 1 / folds).sum()
        if unevenness < least:
            best, least = fold_of, unevenness
    return best


def _deal(zones: Zones, folds: int, rng: np.random.Generator) -> Indices:
    present = zones.inside > 0
    by_rarity = np.argsort(present.sum(0), kind="stable")
    rarest = by_rarity[present[:, by_rarity].argmax(1)]
    rank = np.argsort(by_rarity)[rarest]
    order = np.lexsort((rng.permutation(len(rarest)), rank))
    ties = rng.permutation(folds)
    pixels, blocks = np.zeros((folds, zones.inside.shape[1]), np.int64), np.zeros(folds, np.intp)
    fold_of = np.zeros(len(rarest), np.intp)
    for block in order.tolist():
        # A fold without blocks has no pixels of any class: it is among the first to be dealt to.
        fold = np.lexsort((ties, blocks, pixels[:, rarest[block]]))[0]
        fold_of[block] = fold
        pixels[fold] += zones.inside[block]
        blocks[fold] += 1
    return fold_of


def _warn_of_buffer(asked: int, taken: int) -> None:
    if taken < asked:
        _warn(
            f"a buffer of {asked} px around what is kept would leave nothing of some class to train on: it is {taken} px, so"
            " that validation may look better than maps of new ground"
        )


def _warn_of_unvalidated(zones: Zones, kept: BoolArray, side: int) -> None:
    """Warn of classes only: a range of numbers has neighbours that are validated."""
    if zones.strata.edges is not None:
        return
    blocks, validated = (zones.inside > 0).sum(0), zones.inside[kept].sum(0)
    if len(alone := np.flatnonzero(blocks == 1)):
        names = _named(zones.strata.names, alone)
        _warn(f"labels of {names} lie in a single block of {side} px: trained on, but not validated")
    if len(missed := np.flatnonzero((blocks > 1) & (validated == 0))):
        names = _named(zones.strata.names, missed)
        _warn(f"no block of {side} px with labels of {names} could be kept: trained on, but not validated")


def _warn_of_folds(zones: Zones, left: Counts, side: int) -> None:
    if zones.strata.edges is not None:
        return
    blocks = (zones.inside > 0).sum(0)
    if len(few := np.flatnonzero((blocks > 0) & (blocks < len(left)))):
        names = listed([f"{zones.strata.names[n]} ({blocks[n]})" for n in few.tolist()])
        _warn(f"fewer blocks of {side} px than {len(left)} folds hold labels of {names}: not validated in every fold")
    if len(untrained := np.flatnonzero(((left == 0) & (zones.totals > 0)).any(0))):
        names = _named(zones.strata.names, untrained)
        _warn(f"a fold leaves no labels of {names} to train on: its figures for them are those of a class never seen")


def _warn(message: str) -> None:
    warnings.warn(TrainingWarning(message), stacklevel=4)


# --- Counts of labels.


def widened(ground: BoolArray, reach: int) -> BoolArray:
    """Dilate a mask by `reach` pixels, diagonally too: bool, of the shape of `ground`."""
    rows, cols = np.flatnonzero(ground.any(1)), np.flatnonzero(ground.any(0))
    if not reach or not len(rows):
        return ground
    from scipy.ndimage import maximum_filter1d  # a fifth of a second, which what reads settings need not wait for

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
    block = BLOCK
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
    """Count labelled pixels inside several masks, each bool (height, width) of the region: int64 (parts, strata)."""
    height, _ = region_shape(labels)
    counts: Counts = np.zeros((len(parts), len(strata.names)), np.int64)
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
        """(strata,) labelled pixels that remain for training when some of the blocks are kept: bool (blocks,)."""
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
    number = len(strata.names)
    # A buffer ends so far behind an edge of some block, and so far before the opposite one.
    past = buffer % block
    low, high = min(past, block - past), max(past, block - past)
    reach = 3 * (buffer // block) + (0 if not past else 1 if past == low else 2)

    pixel = np.arange(max(height, width))
    zone_of = 3 * (pixel // block) + (pixel % block >= low) + (pixel % block >= high)
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
        for top in range(start, min(stop, height // scale), BLOCK):
            strip = each.values[top * scale : min(stop, top + BLOCK) * scale]
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
