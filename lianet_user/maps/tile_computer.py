"""What heads answer on a tile of a map: one reading of the region for all its heads, one answer for all its products."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

import lianet_user.head
from lianet_user.errors import InputError, did_you_mean
from lianet_user.field.config import HEAD_INPUTS, HeadInput
from lianet_user.files.header import HeadHeader
from lianet_user.geo.grid import Window, whole
from lianet_user.geo.resample import Kind, Placement, place
from lianet_user.head import Head
from lianet_user.maps.area import Destination, MapArea, destination
from lianet_user.maps.product import ClassProduct, NumberProduct, Product
from lianet_user.maps.uncertainty import (
    UNCERTAINTIES,
    Uncertainty,
    probabilities,
    probability_product,
    uncertainty,
    uncertainty_product,
)
from lianet_user.region import Region, crop


@dataclass(frozen=True, eq=False)
class Answer:
    """One map of a head: what it is, and how it follows from the head's answers."""

    suffix: str
    """Of the map's name."""
    shown: str
    """What the map at a glance shows; empty for the map itself."""
    product: Product
    of: Callable[[Tensor], np.ndarray]
    """Answers (outputs, h, w) -> uint8 or float32 (bands, h, w), before they are resampled and stored."""
    kind: Kind


def wanted_answers(header: HeadHeader, probability: bool, unsure: Uncertainty | None) -> list[Answer]:
    """What is made of a head's answers: the map itself, and what else is asked for.

    Raises:
        InputError: a head of numbers has no probabilities, or no such uncertainty is known.
    """
    if unsure is not None and unsure not in UNCERTAINTIES:
        raise InputError(
            f"--uncertainty {unsure!r}: expected {' or '.join(UNCERTAINTIES)}{did_you_mean(unsure, UNCERTAINTIES)}"
        )
    if header.numbers is not None:
        if probability or unsure is not None:
            option = "--probabilities" if probability else "--uncertainty"
            raise InputError(f"{option} needs a head of classes, and this one answers with numbers: leave it away")
        return [Answer("", "", NumberProduct(header.numbers, header.task), _numbers, "numbers")]
    found = [Answer("", "", ClassProduct(header.classes), _classes, "classes")]
    if probability:
        found.append(
            Answer(
                "_probabilities", "Highest probability", probability_product(header.classes), probabilities, "numbers"
            )
        )
    if unsure is not None:
        found.append(
            Answer(
                "_uncertainty",
                f"Uncertainty ({unsure})",
                uncertainty_product(unsure),
                partial(uncertainty, kind=unsure),
                "numbers",
            )
        )
    return found


@dataclass(frozen=True, eq=False)
class Source:
    """Heads of one region at one date, and how the map lies on their grid."""

    heads: tuple[Head, ...]
    date: dt.date
    placement: Placement


class TileComputer:
    """Computes a tile of all maps; call it with a window of their grid.

    Args:
        sources: where several can answer for a pixel, the first does.
        answers: for each head of a source, what is made of it: the same kinds for every source.
        destination: where the maps lie.
        turned: see :meth:`lianet_user.head.Head.answers`.
    """

    def __init__(
        self, sources: Sequence[Source], answers: Sequence[Sequence[Answer]], destination: Destination, turned: bool
    ) -> None:
        self.sources, self.answers = sources, answers
        self.destination, self.turned = destination, turned

    def __call__(self, window: Window) -> list[np.ndarray] | None:
        """(bands, height, width) of each answer of each head in turn, as stored; None where nothing is mapped."""
        inside = self.destination.inside(window) if self.destination.ground is not None else None
        if inside is not None and not inside.any():
            return None
        wanted = [answer for each in self.answers for answer in each]
        tiles = [answer.product.layer.empty(window) for answer in wanted]
        open_ = np.ones((window.height, window.width), bool) if inside is None else inside
        for source in self.sources:
            for piece, needed in source.placement.pieces(window):
                place = piece.within(window).slices
                if not open_[place].any():
                    continue
                found = self._answered(source, piece, needed)
                for answer, tile, values in zip(wanted, tiles, found, strict=True):
                    layer = answer.product.layer
                    before = tile[:, *place]
                    tile[:, *place] = np.where(_nothing(before, layer.nodata), layer.stored(values), before)
            if len(self.sources) > 1:
                open_ = open_ & _nothing(tiles[0], wanted[0].product.layer.nodata)[0]
        if inside is not None and self.destination.masked:
            for answer, tile in zip(wanted, tiles, strict=True):
                tile[:, ~inside] = answer.product.layer.nodata
        return tiles

    def _answered(self, source: Source, piece: Window, needed: Window) -> Iterator[np.ndarray]:
        """What each answer is over a piece, before it is stored."""
        scale = source.heads[0].scale
        ground = whole_pixels(needed, scale)
        reader = SharedReader(source.heads) if len(source.heads) > 1 else None
        for head, wanted in zip(source.heads, self.answers, strict=True):
            answers = head.answers(ground, source.date, read=reader, turned=self.turned)
            cut = crop(answers, needed, ground.scaled(scale))
            for answer in wanted:
                nodata = answer.product.layer.nodata if answer.kind == "classes" else np.nan
                yield source.placement.bring(answer.of(cut), needed, piece, answer.kind, nodata)


class SharedReader:
    """Reads for several heads of a region what all of them need together, once for a window; see `head.Reader`."""

    def __init__(self, heads: Sequence[Head]) -> None:
        needed = {part for head in heads for part in head.header.head.inputs}
        self.region: Region = heads[0].region
        self.inputs = tuple(part for part in HEAD_INPUTS if part in needed)
        self.halo = max(head.layers.halo for head in heads)
        self._read: tuple[Window, dt.date | None, Tensor] | None = None

    def __call__(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> Tensor:
        known = self._read
        if known is None or known[1] != date or known[0].intersection(window) != window:
            # The first head may look less far than another.
            outer = window.expanded(self.halo, 1, self.region.shape)
            known = self._read = (outer, date, self.region.head_input(outer, date, self.inputs))
        outer, _, values = known
        sizes = [self.region.channels((part,)) for part in self.inputs]
        parts = dict(zip(self.inputs, crop(values, window, outer).split(sizes), strict=True))
        return torch.cat([parts[part] for part in HEAD_INPUTS if part in inputs])


def _classes(answers: Tensor) -> np.ndarray:
    values: np.ndarray = answers.argmax(0, keepdim=True).to(torch.uint8).cpu().numpy()
    return values


def _numbers(answers: Tensor) -> np.ndarray:
    values: np.ndarray = answers.cpu().numpy()
    return values


def _nothing(values: np.ndarray, nodata: float) -> np.ndarray:
    return np.isnan(values) if np.isnan(nodata) else values == nodata


def whole_pixels(window: Window, scale: int) -> Window:
    """The pixels of a region that hold a window of a grid `scale` times as fine."""
    row, col = window.row // scale, window.col // scale
    return Window(row, col, -(-window.row_end // scale) - row, -(-window.col_end // scale) - col)


# --- Where maps that are no head's are computed: a region's windows brought to the tiles of a map.


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
