"""Features -> one class or number per pixel of a grid, by the ground that each covers.

The rule. Every pixel is divided into n x n sub-pixels: n = :data:`SUBPIXELS` under `majority`, and 1, so that the
pixel's centre alone decides, under `center` and `all-touched`.

- A polygon *covers* a sub-pixel whose centre it holds; under `all-touched` every pixel that it shares ground with.
- A line covers all sub-pixels of every pixel that it runs through, a point all of the pixel that it lies in. A pixel
  holds its top and left edge: what lies on an edge between two pixels belongs to the one below or to the right of it,
  and what lies on the grid's bottom or right edge belongs to none.
- Sub-pixels inside the mapped area that no feature and no blocker covers belong to the background class, if there is
  one. Blockers are features that cannot be used (no label, dropped on request): they never label anything, but
  background is not assumed under them.
- A sub-pixel that features of different classes (or with different numbers) cover is *contested*. `on_conflict` says
  what it belongs to: nothing (`ignore`), or the last or first of these features in the file.
- A pixel bears the class that most of its sub-pixels belong to, if they are at least the share `min_coverage`. If
  two classes lead with equally many it bears none: neither covers most of it.
- Numbers: a pixel bears the mean over its sub-pixels that belong to a feature, if they are at least `min_coverage`.
  Lines and points measure at a place: where several lie in one pixel, their mean stands for all of them.
- A pixel that bears nothing is *contradicting* if its contested sub-pixels, which `ignore` left unlabelled, would have
  sufficed for some class (or for any number). Otherwise it is unlabelled.

Contradicting and unlabelled pixels both get :data:`IGNORE` (NaN among numbers); no class ever means "nothing".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from lianet_user.files.header import IGNORE
from lianet_user.geo.grid import Window
from lianet_user.labels.cover import (
    Cover,
    Geometries,
    Indices,
    Mask,
    Parts,
    RankRaster,
    Tile,
    cover_of,
    pixels_of_points,
    pixels_on_outline,
    split_parts,
)
from lianet_user.labels.label_options import OnConflict, Rule

SUBPIXELS = 8
"""Sub-pixels along each side of a pixel: areas are known to about 1/64 of it."""

TILE = 256
"""Pixels along each side of what is decided at once, which bounds the memory."""

Values = NDArray[np.uint8]


@dataclass(frozen=True)
class PixelRule:
    """What makes a pixel bear a class or number."""

    rule: Rule = "majority"
    min_coverage: float = 0.5
    on_conflict: OnConflict = "ignore"

    @property
    def subpixels(self) -> int:
        """Sub-pixels along each side of a pixel."""
        return SUBPIXELS if self.rule == "majority" else 1


@dataclass(frozen=True, eq=False)
class Decided:
    """Every pixel of the grid, decided by the rule."""

    values: NDArray[Any]
    """(height, width) uint8 class index or IGNORE; float32 number or NaN."""
    contradicting: Mask
    """(height, width)"""
    labelled_ground: float
    """Ground that features cover, contested or not, without background, in pixels."""
    contested_ground: float
    """Ground that features contest, whichever of them `on_conflict` gives it to, in pixels."""


def decide_classes(
    parts: Parts,
    classes: Indices,
    shape: tuple[int, int],
    rule: PixelRule,
    *,
    blockers: Geometries | None = None,
    background: tuple[int, shapely.Geometry | None] | None = None,
) -> Decided:
    """Decide which class every pixel bears.

    Args:
        parts: of the features, in pixel coordinates.
        classes: (features,) class index of each, below 254.
        shape: height and width in pixels.
        rule: what makes a pixel bear a class or number.
        blockers: (any,) features that cannot be used, in pixel coordinates: background is not assumed there.
        background: class index, and the mapped area in pixel coordinates (None for the whole grid).
    """
    n, need = rule.subpixels, _needed(rule.subpixels, rule.min_coverage)
    cover = cover_of(parts, shape, rule.rule)
    codes = classes + 1  # 0 is nobody's
    sides = _Sides(cover, codes, np.arange(len(codes)), rule)
    empty = None if background is None else _Background(background, blockers, shape, rule)
    values, contradicting = np.full(shape, IGNORE, np.uint8), np.zeros(shape, bool)
    labelled = contested = 0
    for window in _windows(shape):
        tile = cover.tile(window)
        if empty is None and not sides.high.reaches(tile):
            continue
        low, high, owner = sides.on(tile)
        disputed = low != high
        labelled += int(np.count_nonzero(high))
        contested += int(np.count_nonzero(disputed))
        if empty is not None:
            free = empty.on(window) & (high == 0)
            for side in (low, high, owner):
                side[free] = empty.code
        owner -= np.uint8(1)  # code -> class, and nobody's 0 -> IGNORE
        here = window.slices
        values[here] = classes_of_subpixels(owner, n, rule.min_coverage)
        if rule.on_conflict == "ignore" and disputed.any():
            unsure = (values[here] == IGNORE) & _per_pixel(np.logical_or, disputed, n)
            contradicting[here] = _would_suffice(unsure, (low, high), need, cover, codes, tile, n)
    return Decided(values, contradicting, labelled / n**2, contested / n**2)


def decide_numbers(parts: Parts, numbers: NDArray[np.float64], shape: tuple[int, int], rule: PixelRule) -> Decided:
    """Decide which number every pixel bears, to the precision of float32, as :func:`decide_classes` decides classes.

    Args:
        numbers: (features,) finite, within float32's range.
    """
    n, need = rule.subpixels, _needed(rule.subpixels, rule.min_coverage)
    cover, values_of, order = _measured(cover_of(parts, shape, rule.rule), numbers.astype(np.float32), rule.on_conflict)
    table, codes = np.unique(values_of, return_inverse=True)
    table = np.append(np.float32(np.nan), table)
    sides = _Sides(cover, codes + 1, order, rule)
    values, contradicting = np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
    labelled = contested = 0
    for window in _windows(shape):
        tile = cover.tile(window)
        if not sides.high.reaches(tile):
            continue
        low, high, owner = sides.on(tile)
        disputed = low != high
        labelled += int(np.count_nonzero(high))
        contested += int(np.count_nonzero(disputed))
        here = window.slices
        # What is the same all over a pixel, nearly always, needs no mean.
        codes_here = _per_pixel(np.minimum, owner, n)
        rows, cols = np.nonzero(codes_here != _per_pixel(np.maximum, owner, n))
        mixed = table[_gather(owner, n, rows, cols)].reshape(-1, n)
        numbers_here = table[codes_here]
        numbers_here[rows, cols] = numbers_of_subpixels(mixed, n, rule.min_coverage)[:, 0]
        values[here] = numbers_here
        if rule.on_conflict == "ignore" and disputed.any():
            contradicting[here] = np.isnan(values[here]) & (_per_pixel(np.add, high > 0, n, np.intp) >= need)
    return Decided(values, contradicting, labelled / n**2, contested / n**2)


def decide_coverage(parts: Parts, shape: tuple[int, int], area: shapely.Geometry | None) -> NDArray[np.float32]:
    """Compute the share of every pixel that polygons cover, where they overlap once; lines and points cover none.

    Args:
        area: where everything was mapped, in pixel coordinates; None for the whole grid.

    Returns:
        (height, width) 0 to 1, NaN in pixels that do not lie wholly inside `area`.
    """
    polygons = np.flatnonzero(parts.dimension == 2)
    areas = Parts(parts.geometries[polygons], np.zeros(len(polygons), np.intp), parts.dimension[polygons])
    everything = RankRaster(cover_of(areas, shape, "majority"), np.ones(1, np.intp), SUBPIXELS)
    shares = np.zeros(shape, np.float32)
    for window in _windows(shape):
        counts = _per_pixel(np.add, everything.over(window), SUBPIXELS, np.intp)
        shares[window.slices] = counts / SUBPIXELS**2
    if area is not None:
        mapped = cover_of(split_parts(np.array([area], object)), shape, "center")
        centres = RankRaster(mapped, np.ones(1, np.intp), 1)
        inside = np.zeros(shape, bool)
        for window in _windows(shape):
            inside[window.slices] = centres.over(window)
        _, rows, cols = pixels_on_outline(mapped.areas, shape)
        inside[rows, cols] = False
        shares[~inside] = np.nan
    return shares


def touches_own(parts: Parts, classes: Indices | None, values: NDArray[Any], features: int) -> Mask:
    """Which of so many features touch a pixel that bears their class (or any number), and so are visible in the map.

    Args:
        parts: of the features, in pixel coordinates.
        classes: (features,) class index of each; None for numbers.
        values: (height, width) class index or IGNORE; number or NaN.
    """
    shape = (values.shape[0], values.shape[1])
    touching = np.zeros(features, bool)

    def own(feature: Any, pixels: NDArray[Any]) -> Mask:
        return np.isfinite(pixels) if classes is None else pixels == classes[feature]

    def mark(of: Indices, rows: Indices, cols: Indices) -> None:
        touching[of[own(of, values[rows, cols])]] = True

    cover = cover_of(parts, shape, "center")
    mark(cover.claimant, cover.row, cover.col)
    # A point inside settles nearly all polygons, their outline nearly all others (slivers, contested ones).
    of, rows, cols = pixels_of_points(shapely.point_on_surface(cover.areas), shape)
    mark(cover.feature[of], rows, cols)
    rest = np.flatnonzero(~touching[cover.feature])
    of, rows, cols = pixels_on_outline(cover.areas[rest], shape)
    mark(cover.feature[rest[of]], rows, cols)
    for index in rest[~touching[cover.feature[rest]]]:
        left, top, right, bottom = cover.bounds[index]
        col, row = max(0, int(left)), max(0, int(top))
        window = values[row : max(row, math.ceil(bottom)), col : max(col, math.ceil(right))]
        if (pixels := own(cover.feature[index], window)).any():
            burned = rasterize(
                [cover.areas[index]], window.shape, transform=Affine.translation(col, row), dtype="uint8"
            )
            touching[cover.feature[index]] |= bool(burned[pixels].any())
    return touching


def classes_of_subpixels(owner: Values, n: int, min_coverage: float) -> Values:
    """The class that every pixel bears by the rule, from those of its sub-pixels.

    Args:
        owner: (height * n, width * n) class index or IGNORE.
        n: sub-pixels along each side of a pixel.

    Returns:
        (height, width) class index or IGNORE.
    """
    values: Values = _per_pixel(np.minimum, owner, n)
    rows, cols = np.nonzero(values != _per_pixel(np.maximum, owner, n))
    mixed = _gather(owner, n, rows, cols)
    best, most = np.full(len(mixed), IGNORE, np.uint8), np.zeros(len(mixed), np.intp)
    for index in np.unique(mixed):
        if index != IGNORE:
            count = np.count_nonzero(mixed == index, axis=1)
            best[count == most] = IGNORE
            best[count > most] = index
            most = np.maximum(most, count)
    best[most < _needed(n, min_coverage)] = IGNORE
    values[rows, cols] = best
    return values


def numbers_of_subpixels(values: NDArray[np.float32], n: int, min_coverage: float) -> NDArray[np.float32]:
    """The number that every pixel bears by the rule, from those of its sub-pixels.

    Args:
        values: (height * n, width * n), NaN where there is none.
        n: sub-pixels along each side of a pixel.

    Returns:
        (height, width), NaN where there is none.
    """
    known = ~np.isnan(values)
    counts = _per_pixel(np.add, known, n, np.intp)
    # In float64 a sum of equal float32 numbers is exact, and so is their mean.
    sums = _per_pixel(np.add, np.where(known, values, np.float32(0)), n, np.float64)
    enough = counts >= _needed(n, min_coverage)
    means = np.full(counts.shape, np.nan, np.float32)
    means[enough] = sums[enough] / counts[enough]
    return means


def _needed(n: int, min_coverage: float) -> int:
    """The fewest sub-pixels that are a share of at least `min_coverage`."""
    return math.ceil(min_coverage * n**2 - 1e-9)


def _per_pixel(combine: np.ufunc, fine: NDArray[Any], n: int, dtype: Any = None) -> NDArray[Any]:
    """(h * n, w * n) sub-pixels -> (h, w) those of each pixel combined."""
    height, width = fine.shape[0] // n, fine.shape[1] // n
    # One axis after the other is several times faster than both at once.
    rows = combine.reduce(fine.reshape(height, n, width * n), axis=1, dtype=dtype)
    return combine.reduce(rows.reshape(height, width, n), axis=2, dtype=dtype)


def _gather(fine: NDArray[Any], n: int, rows: Indices, cols: Indices) -> NDArray[Any]:
    """(h * n, w * n) sub-pixels -> (pixels, n * n) those of the given pixels."""
    height, width = fine.shape[0] // n, fine.shape[1] // n
    return fine.reshape(height, n, width, n)[rows, :, cols, :].reshape(len(rows), n * n)


def _windows(shape: tuple[int, int]) -> Iterator[Window]:
    return Window(0, 0, *shape).tiles(TILE)


class _Sides:
    """The lowest and highest code of all features that cover a sub-pixel; where they differ it is contested.

    Args:
        cover: of the features.
        codes: (features,) from 1.
        order: (features,) different whole numbers that increase in the order of the file.
        rule: decides which feature owns contested ground.
    """

    def __init__(self, cover: Cover, codes: Indices, order: Indices, rule: PixelRule) -> None:
        n, self.top = rule.subpixels, int(codes.max(initial=0)) + 1
        self.high = RankRaster(cover, codes, n, self.top)
        self.low = RankRaster(cover, self.top - codes, n, self.top)
        self.winner = None
        if rule.on_conflict != "ignore":
            ranks = order + 1 if rule.on_conflict == "last" else order.max(initial=0) + 1 - order
            self.code_of_rank = np.zeros(ranks.max(initial=0) + 1, self.high.ranks.dtype)
            self.code_of_rank[ranks] = codes
            self.winner = RankRaster(cover, ranks, n)

    def on(self, tile: Tile) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Compute the lowest, highest and owning code in a tile: (h * n, w * n) each, 0 where there is none."""
        high = self.high.on(tile)
        low = (high.dtype.type(self.top) - self.low.on(tile)) * (high > 0)
        owner = high * (low == high)
        if self.winner is not None and (disputed := low != high).any():
            owner[disputed] = self.code_of_rank[self.winner.on(tile)[disputed]]
        return low, high, owner


class _Background:
    """Where the background class holds, except on ground that features cover."""

    def __init__(
        self,
        background: tuple[int, shapely.Geometry | None],
        blockers: Geometries | None,
        shape: tuple[int, int],
        rule: PixelRule,
    ) -> None:
        index, area = background
        self.code = index + 1
        self.mapped = None
        if area is not None:
            cover = cover_of(split_parts(np.array([area], object)), shape, "center")
            self.mapped = RankRaster(cover, np.ones(1, np.intp), rule.subpixels)
        blockers = np.array([], object) if blockers is None else blockers
        self.blocked = RankRaster(
            cover_of(split_parts(blockers), shape, rule.rule), np.ones(len(blockers), np.intp), rule.subpixels
        )

    def on(self, window: Window) -> Mask:
        """Compute where background may be in a window: (h * n, w * n)."""
        free: Mask = self.blocked.over(window) == 0
        return free if self.mapped is None else free & (self.mapped.over(window) > 0)


def _would_suffice(
    unsure: Mask,
    sides: tuple[NDArray[Any], NDArray[Any]],
    need: int,
    cover: Cover,
    codes: Indices,
    tile: Tile,
    n: int,
) -> Mask:
    """Which of the pixels `unsure` some code covers with at least `need` sub-pixels, contested or not."""
    rows, cols = np.nonzero(unsure)
    low, high = (_gather(side, n, rows, cols) for side in sides)
    enough = np.zeros(len(rows), bool)
    for code in np.unique(codes):
        plain = (low == code) | (high == code)
        enough |= np.count_nonzero(plain, axis=1) >= need
        # A third code may hide between the lowest and the highest: then it is looked for by itself.
        doubtful = np.flatnonzero(~enough & (np.count_nonzero((low <= code) & (code <= high), axis=1) >= need))
        if len(doubtful):
            alone = _gather(RankRaster(cover, codes == code, n).on(tile), n, rows[doubtful], cols[doubtful])
            enough[doubtful] = np.count_nonzero(plain[doubtful] | (alone > 0), axis=1) >= need
    unsure[rows, cols] = enough
    return unsure


def _measured(
    cover: Cover, numbers: NDArray[np.float32], on_conflict: OnConflict
) -> tuple[Cover, NDArray[np.float32], Indices]:
    """What lines and points measure in one pixel, as one feature with their mean.

    Returns:
        The cover with these features behind the others, and for all of them the number and the order in the file: that
        of the last (or first) that took part.
    """
    own = np.flatnonzero(cover.measured)
    _, first, place = np.unique(
        cover.row[own] * cover.shape[1] + cover.col[own], return_index=True, return_inverse=True
    )
    sums = np.bincount(place, weights=numbers[cover.claimant[own]])
    means = (sums / np.bincount(place)).astype(np.float32)
    taken = np.full(len(means), -1 if on_conflict == "last" else len(numbers))
    (np.maximum if on_conflict == "last" else np.minimum).at(taken, place, cover.claimant[own])
    order = np.empty(len(numbers) + len(means), np.intp)
    order[np.argsort(np.append(np.arange(len(numbers)), taken), kind="stable")] = np.arange(len(order))
    others = np.flatnonzero(~cover.measured)
    averaged = replace(
        cover,
        claimant=np.append(cover.claimant[others], len(numbers) + np.arange(len(means))),
        row=np.append(cover.row[others], cover.row[own][first]),
        col=np.append(cover.col[others], cover.col[own][first]),
    )
    return averaged, np.append(numbers, means), order
