"""A tile of a map: what regions and heads say of the ground under it, brought to the map's grid.

One :class:`TileComputer` serves `predict`, `reconstruct` and `change`: they differ in what a source computes for a window of
its own grid, and in what is stored of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from odc.geo.geobox import GeoBox

from lianet_user.geo.grid import Window, whole
from lianet_user.geo.resample import Kind, Placement, place
from lianet_user.maps.area import Destination, MapArea, destination


@dataclass(frozen=True, eq=False)
class Site:
    """A map's grid, and how it lies on the grids of what it is computed from."""

    destination: Destination
    placements: tuple[Placement, ...]
    """On the grid of each source."""
    tile: int
    """Pixels of the map along the side of a tile."""

    @classmethod
    def of(cls, area: MapArea, grids: Sequence[GeoBox], names: Sequence[str], *, tile: int, scale: int = 1) -> Self:
        """
        Args:
            area: what was asked for.
            grids: of what is computed, over the whole region of each; the first one leads.
            names: of the regions, for messages.
            tile: pixels of a source along the side of what is computed at once.
            scale: pixels of the first grid along a pixel of its region.

        Raises:
            AreaError: as in :func:`lianet_user.maps.area.destination`.
            LabelError: likewise.

        Warns:
            PartlyOutsideWarning: likewise.
        """
        found = destination(area, grids, names, scale)
        side = max(scale, tile // scale * scale)
        placements = tuple(place(grid, found.geobox, side) for grid in grids)
        factor = max(1.0, *(placement.factor for placement in placements))
        return cls(found, placements, max(1, int(side / factor)))

    @property
    def geobox(self) -> GeoBox:
        """Of the map."""
        return self.destination.geobox

    @property
    def window(self) -> Window | None:
        """Pixels of the first source that the map covers; None where it lies on another grid."""
        first = self.placements[0]
        if first.offset is None:
            return None
        return whole(self.geobox).shifted(*first.offset).intersection(whole(first.source))


@dataclass(frozen=True)
class Values:
    """One of the arrays that a source computes: how it is resampled, and what stands for nothing."""

    bands: int
    kind: Kind = "numbers"
    dtype: str = "float32"
    nodata: float = math.nan

    def empty(self, window: Window) -> np.ndarray:
        """(bands, height, width) of nothing."""
        return np.full((self.bands, window.height, window.width), self.nodata, self.dtype)

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Where nothing is: bool, as `values`."""
        return np.isnan(values) if math.isnan(self.nodata) else values == self.nodata


Compute = Callable[[Window], Iterable[np.ndarray]]
"""A window of a source's grid -> its values there: (bands, h, w) for each of the :class:`Values` in turn."""


class TileComputer:
    """Computes tiles of all maps of a pass; call it with a window of their grid.

    Args:
        site: the maps' grid, and how it lies on the sources'.
        sources: what is computed on each of the site's source grids; where several say something, the first does.
        values: what every source computes.
        stored: makes of these values on the maps' grid what each map holds: (bands, h, w) of its layer's type.
    """

    def __init__(
        self,
        site: Site,
        sources: Sequence[Compute],
        values: Sequence[Values],
        stored: Callable[[list[np.ndarray]], list[np.ndarray]],
    ) -> None:
        self.site, self.sources, self.values, self.stored = site, tuple(sources), tuple(values), stored

    def __call__(self, window: Window) -> list[np.ndarray] | None:
        """What each map holds over a window, as stored; None where nothing is mapped."""
        found = self.read(window)
        return None if found is None else self.stored(found)

    def read(self, window: Window) -> list[np.ndarray] | None:
        """The values on the maps' grid, before they are stored: (bands, h, w) each; None where nothing is mapped."""
        destination = self.site.destination
        inside = destination.inside(window) if destination.ground is not None else None
        if inside is not None and not inside.any():
            return None
        tiles = [each.empty(window) for each in self.values]
        unanswered = np.ones((window.height, window.width), bool) if inside is None else inside
        for compute, placement in zip(self.sources, self.site.placements, strict=True):
            for piece, needed in placement.pieces(window):
                part = piece.within(window).slices
                if not unanswered[part].any():
                    continue
                for each, tile, values in zip(self.values, tiles, compute(needed), strict=True):
                    brought = placement.bring(values, needed, piece, each.kind, each.nodata)
                    before = tile[:, *part]
                    tile[:, *part] = np.where(each.missing(before), brought, before)
            if len(self.sources) > 1:
                unanswered = unanswered & self.values[0].missing(tiles[0])[0]
        if inside is not None and destination.masked:
            for each, tile in zip(self.values, tiles, strict=True):
                tile[:, ~inside] = each.nodata
        return tiles
