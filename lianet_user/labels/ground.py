"""Polygons -> which pixels of a window they cover wholly, and the exact areas of what they cover of the others.

Outlines are cut at the edges of pixels. What a piece shuts off to its right, summed along a row, is the share of each pixel
that a polygon covers, and between two pieces of a row a polygon covers all or nothing. Where several polygons share a
pixel, it is cut into horizontal slabs in which no two outlines cross: trapezoids, each inside the same polygons throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

UNITS = 2**30
"""Areas are whole numbers of this part of a pixel, so that their sums do not depend on an order."""

TINY = 1e-9
"""Pixels: what differs by less differs by rounding."""

AT_ONCE = 2**20
"""Cells of runs, or pairs of outlines, that are laid out at once, which bounds the memory."""

Geometries = NDArray[np.object_]
Indices = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ground:
    """What members (features, by number) cover of a window, whose pixels are numbered row by row."""

    member: Indices
    """(runs,) which covers all of the pixels from `first` up to `end`."""
    first: Indices
    end: Indices
    pixel: Indices
    """(zones,) in which a zone lies: ground inside the same members, none of which covers all of the pixel."""
    area: NDArray[np.int64]
    """(zones,) in :data:`UNITS`."""
    zone: Indices
    """(pairs,) a zone and a member that it lies in; a zone may lie in the same member twice."""
    inside: Indices

    @property
    def empty(self) -> bool:
        """Whether nothing is covered."""
        return not len(self.member) and not len(self.zone)

    def with_whole(self, member: Indices, first: Indices, end: Indices) -> Ground:
        """Add pixels that members cover wholly."""
        some = first < end
        member, first, end = member[some], first[some], end[some]
        ends = np.append(self.end, end)
        return replace(self, member=np.append(self.member, member), first=np.append(self.first, first), end=ends)

    def renumbered(self, numbers: Indices) -> Ground:
        """Give every member another number."""
        return replace(self, member=numbers[self.member], inside=numbers[self.inside])

    def grown(self) -> Ground:
        """Let every member cover all of the pixels that it covers some of."""
        pixel = self.pixel[self.zone]
        return NOTHING.with_whole(self.member, self.first, self.end).with_whole(self.inside, pixel, pixel + 1)

    def whole(self) -> Iterator[tuple[Indices, Indices]]:
        """Every member and pixel that it covers wholly, some at a time."""
        longest = int((self.end - self.first).max(initial=1))
        step = max(1, AT_ONCE // longest)
        for start in range(0, len(self.member), step):
            chunk = slice(start, start + step)
            run, pixel = _expanded(self.first[chunk], self.end[chunk])
            yield self.member[chunk][run], pixel


NOTHING = Ground(*[np.zeros(0, np.int64)] * 7)


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of lines or outlines, one after the other."""

    start: Floats
    """(edges, 2) x and y."""
    end: Floats
    of: Indices
    """(edges,) the geometry that each belongs to."""

    def __getitem__(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Edges:
        return Edges(self.start[which], self.end[which], self.of[which])

    def moved(self, x: float, y: float) -> Edges:
        """In coordinates whose origin lies elsewhere."""
        return replace(self, start=self.start + np.array([x, y]), end=self.end + np.array([x, y]))

    def cut(self, axis: int, place: float) -> Edges:
        """Cut those that cross a place on an axis."""
        one, other = self.start[:, axis], self.end[:, axis]
        crossing = np.flatnonzero((one - place) * (other - place) < 0)
        share = (place - one[crossing]) / (other[crossing] - one[crossing])
        points = self.start[crossing] + share[:, None] * (self.end[crossing] - self.start[crossing])
        points[:, axis] = place
        start, end = np.insert(self.start, crossing + 1, points, axis=0), np.insert(self.end, crossing, points, axis=0)
        return Edges(start, end, np.insert(self.of, crossing, self.of[crossing]))

    def between(self, top: float, bottom: float) -> Edges:
        """The parts between two values of y."""
        near = self[
            (np.maximum(self.start[:, 1], self.end[:, 1]) > top)
            & (np.minimum(self.start[:, 1], self.end[:, 1]) < bottom)
        ]
        near = near.cut(1, top).cut(1, bottom)
        middle = (near.start[:, 1] + near.end[:, 1]) / 2
        return near[(middle > top) & (middle < bottom)]

    def pushed(self, left: float, right: float) -> Edges:
        """With everything beyond two values of x pushed onto them, which changes nothing between them."""
        cut = self.cut(0, left).cut(0, right)
        start, end = cut.start.copy(), cut.end.copy()
        for points in (start, end):
            np.clip(points[:, 0], left, right, out=points[:, 0])
        # What runs along one of them, on and on, is one edge.
        beside = np.where((start[:, 0] == end[:, 0]), (start[:, 0] == left) * 1 + (start[:, 0] == right) * 2, 0)
        goes_on = (
            (beside[1:] > 0)
            & (beside[1:] == beside[:-1])
            & (cut.of[1:] == cut.of[:-1])
            & (start[1:] == end[:-1]).all(axis=1)
        )
        first = np.append(True, ~goes_on)[: len(start)]
        last = np.append(~goes_on, True)[: len(start)]
        return Edges(start[first], end[last], cut.of[first])


def edges_of(lines: Geometries) -> Edges:
    """The edges of lines."""
    strings, of = shapely.get_parts(lines, return_index=True)
    points, line = shapely.get_coordinates(strings, return_index=True)
    joined = np.flatnonzero(line[1:] == line[:-1])
    return Edges(points[joined], points[joined + 1], of[line[joined]])


def pieces_of(edges: Edges) -> Edges:
    """Cut edges at all edges of pixels."""
    start, step = edges.start, edges.end - edges.start
    ends = np.arange(len(start))
    segments, positions = [ends, ends], [np.zeros(len(start)), np.ones(len(start))]
    for axis in (0, 1):
        one, other = start[:, axis], edges.end[:, axis]
        first = np.floor(np.minimum(one, other)).astype(np.intp) + 1
        segment, edge = _expanded(first, np.maximum(np.ceil(np.maximum(one, other)).astype(np.intp), first))
        segments.append(segment)
        positions.append((edge - one[segment]) / step[segment, axis])
    segment, position = np.concatenate(segments), np.concatenate(positions)
    order = np.lexsort((position, segment))
    segment, position = segment[order], position[order]

    places = start[segment] + position[:, None] * step[segment]
    last = position == 1
    places[last] = edges.end[segment[last]]
    nearest = np.round(places)
    places = np.where(np.abs(places - nearest) < TINY, nearest, places)
    piece = np.flatnonzero((segment[1:] == segment[:-1]) & (places[1:] != places[:-1]).any(axis=1))
    return Edges(places[piece], places[piece + 1], edges.of[segment[piece]])


def center_ground(outlines: Edges, shape: tuple[int, int]) -> Ground:
    """Find the pixels whose centres lie in polygons, which cover them wholly.

    Args:
        outlines: of polygons, in coordinates of the window.
        shape: height and width of the window.
    """
    height, width = shape
    one, other = outlines.start, outlines.end
    low, high = np.sort(np.clip([one[:, 1], other[:, 1]], 0, height), axis=0)
    edge, row = _expanded(np.ceil(low - 0.5).astype(np.intp), np.ceil(high - 0.5).astype(np.intp))
    one, step = one[edge], (other - one)[edge]
    x = one[:, 0] + (row + 0.5 - one[:, 1]) / step[:, 1] * step[:, 0]
    col = np.ceil(np.clip(x, 0, width) - 0.5).astype(np.intp)
    of = outlines.of[edge]
    order = np.lexsort((col, row, of))  # even and odd crossings enter and leave
    first, end = (row * width + col)[order].reshape(-1, 2).T
    return NOTHING.with_whole(of[order][::2], first, end)


def exact_ground(outlines: Edges, shape: tuple[int, int]) -> Ground:
    """Find the pixels that polygons cover wholly, and the areas that they cover of others.

    The arguments are those of :func:`center_ground`. Going down (in y), an outline has the inside to its right (in x).
    """
    height, width = shape
    pieces = pieces_of(outlines)
    middle = (pieces.start + pieces.end) / 2
    within = (middle[:, 1] >= 0) & (middle[:, 1] < height)
    pieces, middle = pieces[within], middle[within]
    row = np.floor(middle[:, 1]).astype(np.intp)
    # What lies beside the window counts in a column before the first, and one behind the last.
    col = np.clip(np.floor(middle[:, 0]), -1, width).astype(np.intp)
    columns = width + 2
    cells, cell = np.unique((pieces.of * height + row) * columns + col + 1, return_inverse=True)
    down = pieces.end[:, 1] - pieces.start[:, 1]
    right = np.bincount(cell, down, len(cells))
    after = np.cumsum(right)
    share = after - right + np.bincount(cell, down * (col + 1 - middle[:, 0]), len(cells))
    line, col = np.divmod(cells, columns)
    member, row = np.divmod(line, height)
    pixel = row * width + col - 1

    run = np.flatnonzero((line[1:] == line[:-1]) & (after[:-1] > 0.5))
    area = np.rint(np.clip(share, 0, 1) * UNITS).astype(np.int64)
    inner = (col > 0) & (col <= width)
    full, part = np.flatnonzero(inner & (area == UNITS)), np.flatnonzero(inner & (area > 0) & (area < UNITS))
    ground = NOTHING.with_whole(member[run], pixel[run] + 1, pixel[run + 1])
    ground = ground.with_whole(member[full], pixel[full], pixel[full] + 1)
    _, place, sharing = np.unique(pixel[part], return_inverse=True, return_counts=True)
    alone = sharing[place] == 1
    lone, shared = part[alone], part[~alone]
    zones = [(pixel[lone], area[lone], np.arange(len(lone)), member[lone])]
    # Cells that share a pixel, pixel by pixel, and the pieces in them; pixels of many cells come last, among their like.
    shared = shared[np.lexsort((pixel[shared], sharing[place[~alone]]))]
    number = np.full(len(cells), -1)
    number[shared] = np.arange(len(shared))
    own = np.flatnonzero(number[cell] >= 0)
    own = own[np.argsort(number[cell[own]], kind="stable")]
    pieces, of_piece = pieces[own], number[cell[own]]
    corner = np.column_stack([col[shared] - 1, row[shared]])[of_piece]
    starts, ends = pieces.start - corner, pieces.end - corner
    groups = np.flatnonzero(np.diff(pixel[shared], prepend=-1))
    counts = np.add.reduceat(np.bincount(of_piece, minlength=len(shared)), groups) if len(groups) else groups
    effort = np.cumsum(counts**2) // AT_ONCE
    bounds = np.append(groups[np.flatnonzero(np.diff(effort, prepend=-1))], len(shared))
    for low, high in itertools.pairwise(bounds):
        some, here = slice(*np.searchsorted(of_piece, (low, high))), shared[low:high]
        at, size, zone, inside = _zones(pixel[here], share[here], of_piece[some] - low, starts[some], ends[some])
        zones.append((at, size, zone, member[here[inside]]))
    offsets = np.cumsum([0, *(len(at) for at, _, _, _ in zones)])
    return replace(
        ground,
        pixel=np.concatenate([at for at, _, _, _ in zones]),
        area=np.concatenate([size for _, size, _, _ in zones]),
        zone=np.concatenate([zone + offset for (_, _, zone, _), offset in zip(zones, offsets, strict=False)]),
        inside=np.concatenate([inside for _, _, _, inside in zones]),
    )


def _zones(
    pixel: Indices, share: Floats, cell: Indices, start: Floats, end: Floats
) -> tuple[Indices, NDArray[np.int64], Indices, Indices]:
    """Cut pixels that several polygons cover in part into zones.

    A cell is a pixel and a polygon.

    Args:
        pixel: (cells,) of each, side by side.
        share: (cells,) of the pixel that the polygon covers.
        cell: (pieces,) of each piece of an outline, in order.
        start: (pieces, 2) x and y within the pixel.
        end: (pieces, 2)

    Returns:
        Of each zone the pixel and the area; and pairs of a zone and a cell, inside whose polygon it lies.
    """
    _, first_cell, group, size = np.unique(pixel, return_index=True, return_inverse=True, return_counts=True)
    (x0, y0), (x1, y1) = start.T, end.T
    # Down a pixel's left side a polygon begins and ends where its outline comes in and goes out, with all below it.
    comes, goes = (x0 == 0) & (x1 > 0), (x1 == 0) & (x0 > 0)
    edge = (y0 != y1) & ((x0 > 0) | (x1 > 0))
    below = np.where(edge, (y1 - y0) * (1 - (x0 + x1) / 2), 0) + np.where(goes, 1 - y1, 0) - np.where(comes, 1 - y0, 0)
    at_top = np.rint(share - np.bincount(cell, below, len(pixel)))
    real, upward = int(edge.sum()), y1 < y0
    everywhere = np.flatnonzero(at_top)
    side = np.zeros(len(everywhere) + int(comes.sum()) + int(goes.sum()))
    # Edges: their cell, upper and lower end, and what they add to a polygon's count for all to their right.
    of = np.concatenate([cell[edge], everywhere, cell[comes], cell[goes]])
    top = np.concatenate([np.minimum(y0, y1)[edge], np.zeros(len(everywhere)), y0[comes], y1[goes]])
    bottom = np.concatenate([np.maximum(y0, y1)[edge], side + 1])
    at_start = np.concatenate([np.where(upward, x1, x0)[edge], side])
    along = np.concatenate([np.where(upward, x0 - x1, x1 - x0)[edge], side])
    adds = np.concatenate(
        [np.where(upward, -1, 1)[edge], at_top[everywhere], np.full(comes.sum(), -1), np.full(goes.sum(), 1)]
    )

    def x_at(edge: Indices, y: Floats) -> Floats:
        return at_start[edge] + (y - top[edge]) / (bottom[edge] - top[edge]) * along[edge]

    # Where outlines of two polygons cross. Edges are looked at by their upper ends, each with those that begin beside it.
    order = np.lexsort((top[:real], group[of[:real]]))
    tops, bottoms = top[order], bottom[order]
    place = 2.0 * group[of[order]]
    one, other = _expanded(np.arange(real) + 1, np.searchsorted(place + tops, place + bottoms))
    one, other = order[one], order[other]
    different = of[one] != of[other]
    one, other = one[different], other[different]
    upper, lower = top[other], np.minimum(bottom[one], bottom[other])
    before, after = x_at(one, upper) - x_at(other, upper), x_at(one, lower) - x_at(other, lower)
    cross = (np.abs(before) > TINY) & (np.abs(after) > TINY) & ((before > 0) != (after > 0)) & (lower > upper)
    crossing = (upper + (lower - upper) * before / np.where(cross, before - after, 1))[cross]

    # Slabs lie between one level and the next.
    levels = np.concatenate([top, bottom, crossing])
    of_level = group[np.concatenate([of, of, of[one[cross]]])]
    order = np.lexsort((levels, of_level))
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    levels = levels[order]
    height = np.diff(levels, append=levels[-1:])
    edge, slab = _expanded(rank[: len(of)], rank[len(of) : 2 * len(of)])
    high = height[slab] > TINY
    edge, slab = edge[high], slab[high]
    x = x_at(edge, levels[slab] + height[slab] / 2)
    order = np.lexsort((x, slab))
    edge, slab, x = edge[order], slab[order], x[order]
    new = np.diff(slab, prepend=-1) != 0
    until = np.append(x[1:], 1.0)
    until[np.append(new[1:], True)] = 1
    area = np.rint(height[slab] * (until - x) * UNITS).astype(np.int64)

    # To the right of each edge: which polygons of the pixel it lies in.
    adds = adds[edge].astype(np.intp)
    which, groups = of[edge] - first_cell[group[of[edge]]], group[of[edge]]
    begin = np.flatnonzero(new)[np.cumsum(new) - 1]
    zones, inside = [], []
    for nth in range(int(size.max(initial=0))):
        counts = np.cumsum(np.where(which == nth, adds, 0))
        before_slab = np.append(0, counts)[begin]
        zone = np.flatnonzero((counts > before_slab) & (area > 0) & (size[groups] > nth))
        zones.append(zone)
        inside.append(first_cell[groups[zone]] + nth)
    zone, pair = np.unique(np.concatenate(zones), return_inverse=True)
    return pixel[first_cell[groups[zone]]], area[zone], pair, np.concatenate(inside)


def _expanded(first: Indices, end: Indices) -> tuple[Indices, Indices]:
    """All whole numbers of each range, and the range that each comes from."""
    count = np.maximum(end - first, 0)
    of = np.repeat(np.arange(len(first)), count)
    return of, np.arange(len(of)) + np.repeat(first - (np.cumsum(count) - count), count)
