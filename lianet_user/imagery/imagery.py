"""What all imagery offers, whatever its format: acquisitions of one area on one grid, read window by window."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition, Band
from lianet_user.geo.grid import Window, whole


@dataclass(frozen=True, kw_only=True)
class ImageryOptions:
    """How imagery is read. Nothing is guessed: what neither the files nor these options say is refused with a request
    for it."""

    bands: tuple[str, ...] | None = None
    """Names of the bands to take, in this order. For stacks whose layers have no names, the names of all layers of one
    acquisition. None takes what there is; of Sentinel-2 all but the cirrus band, which does not see the ground."""
    dates: tuple[Acquisition, ...] | None = None
    """Dates of the acquisitions, in the order of the files, where neither the files nor their names say them."""
    since: dt.date | None = None
    until: dt.date | None = None
    """Acquisitions before `since` or after `until` are left out."""
    offset: float | None = None
    """Subtracted from the digital numbers. None: what the files say, else 0, but refused for Sentinel-2 since 2022-01-25."""
    scale: float | None = None
    """Digital numbers per reflectance 1.0. None: what the files say, else 10000 for whole numbers and 1 for fractions."""
    offsets: Mapping[dt.date, float] = field(default_factory=dict)
    scales: Mapping[dt.date, float] = field(default_factory=dict)
    """Offsets and scales of single dates, which take precedence over the common ones."""
    nodata: float | None = None
    """Digital number that means "not measured", in addition to what the files declare and to Sentinel-2's 0."""
    mask: str | None = None
    """Where clouds are marked: the name of a variable, of an asset, or of a layer's description, or the path of a raster or
    of a folder of rasters with dates in their names."""
    clear: tuple[int, ...] | None = None
    """Values of the mask that are clear; by default 4 to 7 and 11 where the mask is called SCL."""
    clear_below: float | None = None
    """Alternatively: the mask is a probability of clouds, and values below this are clear."""
    min_clear: float = 0.0
    """Acquisitions with a smaller share of clear pixels (all bands valid) are left out."""
    grid: str | None = None
    """A raster or a region file whose grid everything is put on by resampling. None refuses grids that do not match."""


def in_period(acquisition: Acquisition, options: ImageryOptions) -> bool:
    """Whether an acquisition lies between `since` and `until`."""
    date = acquisition.date
    return (options.since is None or date >= options.since) and (options.until is None or date <= options.until)


def none_in_period(acquisitions: Sequence[Acquisition], options: ImageryOptions) -> ImageryError:
    """The error that no acquisition lies between `since` and `until`."""
    dates = sorted(each.date for each in acquisitions)
    bounds = [f"{name} {bound}" for name, bound in (("`since`", options.since), ("`until`", options.until)) if bound]
    return ImageryError(
        f"none of {len(dates)} dates ({dates[0]} to {dates[-1]}) is left by {' and '.join(bounds)}: choose others"
    )


@dataclass(frozen=True)
class Patch:
    """One window at one acquisition.

    Attributes:
        reflectance: float32 (bands, height, width), finite everywhere; it has no meaning where `valid` is False.
        valid: bool (bands, height, width): measured, and not masked (clouds). A band that an acquisition lacks is valid
            nowhere.
    """

    reflectance: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Imagery(ABC):
    """Acquisitions of one area on one grid.

    Attributes:
        geobox: the grid: that of the finest band, or the requested one.
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

    def __init__(self, imagery: Imagery, indices: Sequence[int], notes: Sequence[str] = ()) -> None:
        self.geobox, self.bands = imagery.geobox, imagery.bands
        self.factors, self.source = imagery.factors, imagery.source
        self.acquisitions = tuple(imagery.acquisitions[index] for index in indices)
        self.notes = tuple(notes)
        self._imagery, self._indices = imagery, tuple(indices)

    def read(self, index: int, window: Window) -> Patch:
        return self._imagery.read(self._indices[index], window)


class Resident(Imagery):
    """Imagery held in memory.

    Args:
        imagery: whose grid, bands and acquisitions it has.
        patches: of the whole grid, one for each acquisition.
    """

    def __init__(self, imagery: Imagery, patches: Sequence[Patch]) -> None:
        self.geobox, self.bands = imagery.geobox, imagery.bands
        self.factors, self.source = imagery.factors, imagery.source
        self.acquisitions = imagery.acquisitions
        self._patches = tuple(patches)

    @classmethod
    def of(cls, imagery: Imagery) -> Resident:
        """Read imagery into memory."""
        return cls(imagery, [imagery.read(index, imagery.window) for index in range(len(imagery.acquisitions))])

    def read(self, index: int, window: Window) -> Patch:
        patch = self._patches[index]
        rows, cols = window.slices
        return Patch(patch.reflectance[:, rows, cols], patch.valid[:, rows, cols])


class Plane(ABC):
    """One band of one acquisition, or one mask, on its own grid.

    Args:
        geobox: its own grid.
        name: of the file (and the layer), for messages.
        scale: digital numbers per reflectance 1.0, as finally decided.
        offset: subtracted from the digital numbers first: reflectance = (digital number - offset) / scale.
        nodata: digital numbers that mean "not measured", in addition to NaN.
    """

    def __init__(
        self, geobox: GeoBox, name: str, scale: float = 1.0, offset: float = 0.0, nodata: Iterable[float] = ()
    ) -> None:
        self.geobox, self.name, self.scale, self.offset = geobox, name, scale, offset
        self._nodata = frozenset(nodata)

    @abstractmethod
    def read(self, window: Window) -> NDArray[Any]:
        """Digital numbers (height, width) of a window inside the plane's own grid, as they are stored. Safe to call from
        several threads.

        Raises:
            ImageryError: the file cannot be read, or is damaged.
        """

    def measured(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of what `read` returned is a measurement."""
        result = np.isfinite(values)
        for number in self._nodata:
            result &= values != number
        return result
