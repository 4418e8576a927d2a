"""What every source of imagery offers: acquisitions of one area on one grid, read window by window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.files.header import Acquisition, Band
from lianet_user.geo.grid import Window, whole


@dataclass(frozen=True)
class Patch:
    """One window at one acquisition.

    Attributes:
        reflectance: float32 (bands, height, width), finite everywhere; where `valid` is False it says nothing.
        valid: bool (bands, height, width): measured, and not masked (clouds). A band that an acquisition lacks is valid
            nowhere.
    """

    reflectance: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Imagery(ABC):
    """Acquisitions of one area on one grid.

    Attributes:
        geobox: the grid: that of the finest band, or the one that was asked for.
        bands: in the order of every patch.
        factors: of each band, how many pixels of the grid lie along one side of a pixel it was measured at; 1 where it was
            measured on the grid, or resampled onto it.
        acquisitions: in order of time; a date appears once.
        source: product identifiers or file names, in words.
        notes: lines for the provider: what was decided, and what was left out.
    """

    geobox: GeoBox
    bands: tuple[Band, ...]
    factors: tuple[int, ...]
    acquisitions: tuple[Acquisition, ...]
    source: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, index: int, window: Window) -> Patch:
        """Read a window, inside the grid, of the acquisition of that index. Safe to call from several threads.

        Raises:
            ImageryError: a file cannot be read, or is damaged.
        """

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.geobox.shape
        return int(height), int(width)

    @property
    def window(self) -> Window:
        """The whole grid."""
        return whole(self.geobox)

    def only(self, indices: Sequence[int]) -> Imagery:
        """The same imagery with some of its acquisitions."""
        return Selection(self, indices)


class Selection(Imagery):
    """Some acquisitions of other imagery."""

    def __init__(self, imagery: Imagery, indices: Sequence[int]) -> None:
        self.geobox, self.bands, self.factors, self.source = (
            imagery.geobox,
            imagery.bands,
            imagery.factors,
            imagery.source,
        )
        self.acquisitions = tuple(imagery.acquisitions[index] for index in indices)
        self._imagery, self._indices = imagery, tuple(indices)

    def read(self, index: int, window: Window) -> Patch:
        return self._imagery.read(self._indices[index], window)


class Resident(Imagery):
    """Imagery held in memory.

    Args:
        imagery: to be described like.
        patches: of the whole grid, one for each acquisition.
    """

    def __init__(self, imagery: Imagery, patches: Sequence[Patch]) -> None:
        self.geobox, self.bands, self.factors, self.source = (
            imagery.geobox,
            imagery.bands,
            imagery.factors,
            imagery.source,
        )
        self.acquisitions = imagery.acquisitions
        self._patches = tuple(patches)

    @classmethod
    def of(cls, imagery: Imagery) -> Resident:
        """Read all of it, once."""
        return cls(imagery, [imagery.read(index, imagery.window) for index in range(len(imagery.acquisitions))])

    def read(self, index: int, window: Window) -> Patch:
        patch = self._patches[index]
        rows, cols = window.slices
        return Patch(patch.reflectance[:, rows, cols], patch.valid[:, rows, cols])
