"""Features -> one class or number per pixel of a grid, by the ground that each covers.

The rule. Under `majority` ground is measured in exact areas (:mod:`lianet_user.labels.ground`); under `center` the pixel's
centre stands for all of it, and under `all-touched` a feature covers all of a pixel that it shares ground with.

- A polygon *covers* what lies inside it. A line covers every pixel that it runs through, a point the pixel that it lies
  in. A pixel holds its top and left edge: what lies on an edge between two pixels belongs to the one below or to the right
  of it, and what lies on the grid's bottom or right edge belongs to none.
- Ground inside the mapped area that no feature and no blocker covers belongs to the background class, if there is one.
  Blockers are features that cannot be used (no label, dropped on request): they never label anything, but background is
  not assumed under them.
- Ground that features of different classes (or with different numbers) cover is *contested*. `on_conflict` says what it
  belongs to: nothing (`ignore`), or the last or first of these features in the file.
- A pixel bears the class that most of it belongs to, if that is at least the share `min_coverage`. If two classes lead
  with as much each it bears none: neither covers most of it.
- Numbers: a pixel bears the mean over its ground that belongs to a feature, if that is at least `min_coverage`. Lines and
  points measure at a place: where several lie in one pixel, their mean stands for all of them.
- A pixel that bears nothing is *contradicting* if its contested ground, which `ignore` left unlabelled, would have
  sufficed for some class (or for any number). It is *undecided* if the ground in it that belongs to classes would have
  sufficed for one. Otherwise it is unlabelled.

Pixels that bear nothing get :data:`IGNORE` (NaN among numbers); no class ever means "nothing".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
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
    Mask,
    Parts,
    cover_of,
    pixels_of_points,
    pixels_on_outline,
    split_parts,
)
from lianet_user.labels.ground import UNITS, Geometries, Ground, Indices
from lianet_user.labels.label_options import OnConflict, Rule

SAME = UNITS // 10**6
"""Areas that differ by no more are equal: coordinates are rounded."""

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
    def needed(self) -> int:
        """The smallest area, in :data:`UNITS`, that is a share of `min_coverage`."""
        return max(1, math.ceil(self.min_coverage * UNITS) - SAME)


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
    undecided: int
    """Pixels that classes share in a way that leaves none of them most, or enough, of it."""


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
    codes, empty = classes + 1, 0  # 0 is nobody's
    if background is not None:
        index, area = background
        empty = index + 1
        others = np.append(np.array([], object) if blockers is None else blockers, _unmapped(area, shape))
        shut = split_parts(others)
        parts = Parts(
            np.append(parts.geometries, shut.geometries),
            np.append(parts.feature, shut.feature + len(codes)),
            np.append(parts.dimension, shut.dimension),
        )
        codes = np.append(codes, np.zeros(len(others), np.intp))
    sides = _Sides(cover_of(parts, shape), codes, np.arange(len(codes)), rule, empty)
    values, contradicting = np.full(shape, IGNORE, np.uint8), np.zeros(shape, bool)
    labelled = contested = undecided = 0
    for window, laid in sides.laid():
        labelled += int(laid.area[laid.high > 0].sum())
        contested += int(laid.area[laid.disputed].sum())
        borne = laid.owner[: window.pixels].copy()
        pixel, code, share = laid.shares()
        borne[laid.mixed] = _most(pixel, code, share, window.pixels, rule.needed)[laid.mixed]
        against = np.zeros(window.pixels, bool)
        if rule.on_conflict == "ignore":
            against[laid.pixel[laid.disputed]] = True
            against = laid.would_suffice(against & (borne == 0), rule.needed)
        owned = np.bincount(pixel, share, window.pixels)
        undecided += int(((borne == 0) & ~against & (owned >= rule.needed)).sum())
        # Code -> class, and nobody's 0 -> IGNORE.
        values[window.slices] = (borne.astype(np.uint8) - np.uint8(1)).reshape(window.height, window.width)
        contradicting[window.slices] = against.reshape(window.height, window.width)
    return Decided(values, contradicting, labelled / UNITS, contested / UNITS, undecided)


def decide_numbers(parts: Parts, numbers: NDArray[np.float64], shape: tuple[int, int], rule: PixelRule) -> Decided:
    """Decide which number every pixel bears, to the precision of float32, as :func:`decide_classes` decides classes.

    Args:
        numbers: (features,) finite, within float32's range.
    """
    cover, values_of, order = _measured(cover_of(parts, shape), numbers.astype(np.float32), rule.on_conflict)
    table, codes = np.unique(values_of, return_inverse=True)
    table = np.append(np.float32(np.nan), table)
    sides = _Sides(cover, codes + 1, order, rule)
    values, contradicting = np.full(shape, np.nan, np.float32), np.zeros(shape, bool)
    labelled = contested = 0
    for window, laid in sides.laid():
        labelled += int(laid.area[laid.high > 0].sum())
        contested += int(laid.area[laid.disputed].sum())
        borne = table[laid.owner[: window.pixels]]
        pixel, code, share = laid.shares()
        owned = np.bincount(pixel, share, window.pixels)
        sums = np.bincount(pixel, share * table[code].astype(np.float64), window.pixels)
        borne[laid.mixed] = np.nan
        enough = owned >= rule.needed
        borne[enough] = sums[enough] / owned[enough]
        values[window.slices] = borne.reshape(window.height, window.width)
        if rule.on_conflict == "ignore":
            covered = np.bincount(laid.pixel, np.where(laid.high > 0, laid.area, 0), window.pixels)
            against = np.isnan(borne) & (covered >= rule.needed)
            contradicting[window.slices] = against.reshape(window.height, window.width)
    return Decided(values, contradicting, labelled / UNITS, contested / UNITS, 0)


def decide_coverage(parts: Parts, shape: tuple[int, int], area: shapely.Geometry | None) -> NDArray[np.float32]:
    """Compute the share of every pixel that polygons cover, where they overlap once; lines and points cover none.

    Args:
        area: where everything was mapped, in pixel coordinates; None for the whole grid.

    Returns:
        (height, width) 0 to 1, NaN in pixels that do not lie wholly inside `area`.
    """
    polygons = parts.dimension == 2
    areas = Parts(parts.geometries[polygons], np.zeros(polygons.sum(), np.intp), parts.dimension[polygons])
    cover, unmapped = cover_of(areas, shape), cover_of(split_parts(_unmapped(area, shape)), shape)
    shares = np.zeros(shape, np.float32)
    grounds, others = cover.grounds("majority", TILE), unmapped.grounds("all-touched", TILE)
    for (window, ground), (_, outside) in zip(grounds, others, strict=True):
        covered = np.bincount(ground.pixel, ground.area, window.pixels) / UNITS
        for _, pixel in ground.whole():
            covered[pixel] = 1
        for _, pixel in outside.whole():
            covered[pixel] = np.nan
        shares[window.slices] = covered.reshape(window.height, window.width)
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

    cover = cover_of(parts, shape)
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


def _unmapped(area: shapely.Geometry | None, shape: tuple[int, int]) -> Geometries:
    """What lies outside the mapped area (None for the whole grid)."""
    grid = shapely.box(-1, -1, shape[1] + 1, shape[0] + 1)
    return np.array([] if area is None else [shapely.difference(grid, shapely.make_valid(area))], object)


def _most(pixel: Indices, code: Indices, share: NDArray[np.float64], pixels: int, needed: int) -> Indices:
    """The code that has most of each pixel, if that is so much and no other has the same; else 0."""
    order = np.lexsort((share, pixel))
    pixel, code, share = pixel[order], code[order], share[order]
    best = np.flatnonzero(np.diff(pixel, append=-1))
    second = np.where(np.diff(best, prepend=-1) > 1, share[best - 1], 0)
    found = np.zeros(pixels, np.intp)
    found[pixel[best]] = np.where((share[best] >= needed) & (share[best] - second > SAME), code[best], 0)
    return found


class _Sides:
    """The lowest and highest code of all features that cover ground; where they differ it is contested.

    Args:
        cover: of the features.
        codes: (features,) from 1; 0 for a blocker.
        order: (features,) different whole numbers that increase in the order of the file.
        rule: decides which feature owns contested ground.
        empty: code of ground that nothing covers.
    """

    def __init__(self, cover: Cover, codes: Indices, order: Indices, rule: PixelRule, empty: int = 0) -> None:
        self.cover, self.codes, self.rule, self.empty = cover, codes, rule, empty
        self.top = max(int(codes.max(initial=0)), empty) + 1
        self.ranks = order + 1 if rule.on_conflict != "first" else order.max(initial=0) + 1 - order
        self.code_of_rank = np.zeros(self.ranks.max(initial=0) + 1, np.intp)
        self.code_of_rank[self.ranks] = codes

    def laid(self) -> Iterator[tuple[Window, _Laid]]:
        """Lay out what covers each window, except those in which nothing belongs to anybody."""
        for window, ground in self.cover.grounds(self.rule.rule, TILE):
            if self.empty or not ground.empty:
                yield window, self._on(window, ground)

    def _on(self, window: Window, ground: Ground) -> _Laid:
        rest = UNITS - np.bincount(ground.pixel, ground.area, window.pixels).astype(np.int64)
        pixel = np.append(np.arange(window.pixels), ground.pixel)
        low, high = np.full(window.pixels, self.top), np.zeros(window.pixels, np.intp)
        rank, shut = np.zeros(window.pixels, np.intp), np.zeros(window.pixels, bool)

        def add(member: Indices, at: Indices) -> None:
            codes = self.codes[member]
            shut[at[codes == 0]] = True
            member, at, codes = member[codes > 0], at[codes > 0], codes[codes > 0]
            np.minimum.at(low, at, codes)
            np.maximum.at(high, at, codes)
            np.maximum.at(rank, at, self.ranks[member])

        for member, at in ground.whole():
            add(member, at)
        low, high, rank, shut = low[pixel], high[pixel], rank[pixel], shut[pixel]
        add(ground.inside, ground.zone + window.pixels)
        disputed = (high > 0) & (low != high)
        owner = np.where(disputed, 0 if self.rule.on_conflict == "ignore" else self.code_of_rank[rank], high)
        owner[(high == 0) & ~shut] = self.empty
        return _Laid(ground, self.codes, pixel, np.append(np.maximum(rest, 0), ground.area), high, disputed, owner)


@dataclass(frozen=True, eq=False)
class _Laid:
    """What covers the zones of a window: first, for every pixel, the rest of it, and then the zones of its ground."""

    ground: Ground
    codes: Indices
    """(features,)"""
    pixel: Indices
    """(zones,)"""
    area: NDArray[np.int64]
    """(zones,)"""
    high: Indices
    """(zones,) the highest code of the features there, 0 where there are none."""
    disputed: Mask
    """(zones,)"""
    owner: Indices
    """(zones,) the code that the ground belongs to, or 0."""

    @cached_property
    def mixed(self) -> Indices:
        """The pixels of more than one zone, each once."""
        return np.unique(self.ground.pixel)

    def shares(self) -> tuple[Indices, Indices, NDArray[np.float64]]:
        """Of the pixels of more than one zone: pixel, code and the area that belongs to it."""
        zones = np.append(self.mixed, np.arange(len(self.pixel) - len(self.ground.pixel), len(self.pixel)))
        zones = zones[self.owner[zones] > 0]
        return _summed(self.pixel[zones], self.owner[zones], self.area[zones])

    def would_suffice(self, unsure: Mask, needed: int) -> Mask:
        """Which of the pixels `unsure` some code covers to so much, contested or not."""
        enough = unsure & (self.high[: len(unsure)] > 0)  # a feature covers all of it
        ground = self.ground
        pairs = np.flatnonzero(unsure[ground.pixel[ground.zone]] & (self.codes[ground.inside] > 0))
        zone, code, _ = _summed(ground.zone[pairs], self.codes[ground.inside[pairs]], np.zeros(len(pairs), np.int64))
        pixel, _, covered = _summed(ground.pixel[zone], code, ground.area[zone])
        enough[pixel[covered >= needed]] = True
        return enough


def _summed(one: Indices, code: Indices, area: NDArray[np.int64]) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Areas of the same place and code in one: place, code and their sum."""
    top = int(code.max(initial=0)) + 1
    keys, place = np.unique(one * top + code, return_inverse=True)
    one, code = np.divmod(keys, top)
    return one, code, np.bincount(place, area, len(keys)).astype(np.float64)


def _measured(
    cover: Cover, numbers: NDArray[np.float32], on_conflict: OnConflict
) -> tuple[Cover, NDArray[np.float32], Indices]:
    """What lines and points measure in one pixel, as one feature with their mean.

    Returns:
        The cover with these features behind the others, and for all of them the number and the order in the file: that
        of the last (or first) that took part.
    """
    width = cover.shape[1]
    pixels, place = np.unique(cover.row * width + cover.col, return_inverse=True)
    sums = np.bincount(place, weights=numbers[cover.claimant])
    means = (sums / np.bincount(place)).astype(np.float32)
    taken = np.full(len(means), -1 if on_conflict == "last" else len(numbers))
    (np.maximum if on_conflict == "last" else np.minimum).at(taken, place, cover.claimant)
    order = np.empty(len(numbers) + len(means), np.intp)
    order[np.argsort(np.append(np.arange(len(numbers)), taken), kind="stable")] = np.arange(len(order))
    row, col = np.divmod(pixels, width)
    claimant = len(numbers) + np.arange(len(means))
    return replace(cover, claimant=claimant, row=row, col=col), np.append(numbers, means), order


# --- Rasters, by sub-pixels.


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


def enough_subpixels(known: Mask, n: int, min_coverage: float) -> Mask:
    """Which pixels have so large a share of sub-pixels that are `known`: (height * n, width * n) -> (height, width)."""
    enough: Mask = _per_pixel(np.add, known, n, np.intp) >= _needed(n, min_coverage)
    return enough


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
