"""What a label map has to be, by the areas and lengths that shapely computes exactly, in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from label_files import squares
from numpy.typing import NDArray

from lianet_user.files.header import IGNORE

Grid = NDArray[Any]


def shares(ground: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """(height, width) of each pixel that lies on the ground."""
    pixels, found = squares(shape), np.zeros(shape)
    shapely.prepare(ground)
    some = shapely.intersects(ground, pixels)
    found[some] = shapely.area(shapely.intersection(pixels[some], ground))
    return found


def ground_of(geometry: Any, shape: tuple[int, int], rule: str = "majority", reach: float = 0.0) -> Any:
    """The ground that a feature claims: a line whole pixels that it runs through, a point the whole pixel it is in."""
    claimed = []
    pixels = squares(shape)
    for part in shapely.get_parts(shapely.get_parts(geometry)):
        if part.geom_type == "Polygon":
            if rule == "majority":
                claimed.append(part)
            elif rule == "center":
                claimed.extend(pixels[shapely.intersects(part, shapely.centroid(pixels))])
            else:
                claimed.extend(pixels[shapely.area(shapely.intersection(part, pixels)) > 0])
        elif part.geom_type == "LineString":
            claimed.extend(pixels[shapely.length(shapely.intersection(part, pixels)) > 0])
        else:
            col, row = np.floor((part.x, part.y)).astype(int)
            if 0 <= row < shape[0] and 0 <= col < shape[1]:
                claimed.append(pixels[row, col])
        if reach and part.geom_type != "Polygon":
            claimed.append(part.buffer(reach, quad_segs=64))
    return shapely.union_all(claimed)


@dataclass(frozen=True, eq=False)
class Exact:
    """The label map by areas, and which pixels it is sure of."""

    values: Grid
    contradicting: Grid
    sure: Grid
    labelled: float
    contested: float


def exact_classes(
    grounds: Sequence[Any],
    kinds: Sequence[int | None],
    shape: tuple[int, int],
    *,
    least: float = 0.5,
    on_conflict: str = "ignore",
    background: tuple[int, Any] | None = None,
    near: float = 1e-3,
) -> Exact:
    """The class with the largest share of its own of each pixel, if that is at least `least`.

    Args:
        grounds: of every feature, in pixels.
        kinds: class index of every feature, None where it labels nothing.
        shape: height and width.
        least: share of a pixel.
        on_conflict: whose the ground is that several classes claim.
        background: its class index, and the ground on which it is what nothing else claims.
        near: shares closer to a threshold than this are left to either side.
    """
    whole = shapely.box(0, 0, shape[1], shape[0])
    present = sorted({kind for kind in kinds if kind is not None})
    claims = {k: shapely.union_all([g for g, kind in zip(grounds, kinds, strict=True) if kind == k]) for k in present}
    alone = {k: claims[k].difference(shapely.union_all([claims[j] for j in present if j != k])) for k in present}
    own = dict(alone)
    if on_conflict != "ignore":
        own, taken = {k: shapely.Polygon() for k in present}, shapely.Polygon()
        order = list(zip(grounds, kinds, strict=True))
        for ground, kind in order if on_conflict == "first" else reversed(order):
            if kind is not None:
                own[kind] = own[kind].union(ground.difference(taken))
                taken = taken.union(ground)
    if background is not None:
        kind, area = background
        free = area.difference(shapely.union_all(list(grounds)))
        own[kind] = own.get(kind, shapely.Polygon()).union(free)
    index = np.array(sorted(own))
    share = np.array([shares(own[k], shape) for k in index])
    ranked = np.sort(np.concatenate([np.zeros((2, *shape)), share]), axis=0)
    first, second = ranked[-1], ranked[-2]
    borne = (first >= least) & (second < first)
    values = np.where(borne, index[share.argmax(axis=0)], IGNORE)
    claimed = np.array([shares(claims[k], shape) for k in present])
    would = ~borne & (claimed >= least).any(axis=0) & (on_conflict == "ignore")
    away = np.abs(np.concatenate([share, claimed]) - least).min(axis=0)
    sure = (away > near) & ((first - second > near) | (first < least))
    everything = shapely.union_all(list(claims.values())).intersection(whole)
    undisputed = sum(alone[k].intersection(whole).area for k in present)
    return Exact(values, would, sure, everything.area, everything.area - undisputed)
