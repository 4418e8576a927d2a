"""Where maps that are no head's are computed: a region's windows brought to the tiles of a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from odc.geo.geobox import GeoBox

import lianet_user.head
from lianet_user.grid import Window, whole
from lianet_user.maps.area import Destination, MapArea, destination
from lianet_user.maps.placing import Kind, Placement, place


@dataclass(frozen=True, eq=False)
class Site:
    """A map's grid, and how it lies on that of a region or of a head's maps."""

    destination: Destination
    placement: Placement
    tile: int
    """Pixels of the map along the side of a tile."""

    @classmethod
    def of(cls, area: MapArea, source: GeoBox, name: str, scale: int = 1) -> Self:
        """
        Args:
            area: what was asked for.
            source: the grid of what is computed, over the whole region.
            name: of the region, for messages.
            scale: pixels of `source` along a pixel of the region.

        Raises:
            AreaError: as in :func:`lianet_user.maps.area.destination`.
            LabelError: likewise.

        Warns:
            PartlyOutsideWarning: likewise.
        """
        found = destination(area, [source], [name], scale)
        side = lianet_user.head.TILE
        placement = place(source, found.geobox, side)
        return cls(found, placement, max(1, int(side / max(1.0, placement.factor))))

    @property
    def geobox(self) -> GeoBox:
        """Of the map."""
        return self.destination.geobox

    @property
    def window(self) -> Window | None:
        """Pixels of the source that the map covers; None where it lies on another grid."""
        offset = self.placement.offset
        return (
            None if offset is None else whole(self.geobox).shifted(*offset).intersection(whole(self.placement.source))
        )

    def read(
        self, window: Window, of: Callable[[Window], np.ndarray], empty: np.ndarray, kind: Kind = "numbers"
    ) -> np.ndarray | None:
        """What `of` says of a tile: (bands, height, width); None where nothing of it is mapped.

        Args:
            window: of the map.
            of: a window of the source -> its values, (bands, h, w) of the type of `empty`.
            empty: (bands,) what the map holds where nothing is said.
            kind: how to resample.
        """
        inside = self.destination.inside(window) if self.destination.ground is not None else None
        if inside is not None and not inside.any():
            return None
        found = np.broadcast_to(empty[:, None, None], (len(empty), window.height, window.width)).copy()
        for piece, needed in self.placement.pieces(window):
            part = piece.within(window).slices
            if inside is None or inside[part].any():
                found[:, *part] = self.placement.bring(of(needed), needed, piece, kind, float(empty[0]))
        if inside is not None and self.destination.masked:
            found[:, ~inside] = empty[:, None]
        return found
