"""From indices to windows: what xarray's indexing asks of a variable that is computed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from lianet_user.datacube.source import Layer, Source
from lianet_user.geo.grid import TILE, Window

Indices = NDArray[np.intp]


class CubeArray(BackendArray):
    """One variable of a cube: (time, channels, y, x), or (time, y, x). It can be pickled, and read by several threads.

    Args:
        source: of the pixels.
        layer: which of its values.
        dates: along the first axis.
        between: whether the field may estimate them.
        channels: bands or classes; None for an array without that axis.
        grid: rows and columns.
        dtype: of the values.
    """

    def __init__(
        self,
        source: Source,
        layer: Layer,
        dates: Sequence[dt.date],
        grid: tuple[int, int],
        dtype: str,
        *,
        channels: int | None = None,
        between: bool = False,
    ) -> None:
        self.source, self.layer, self.dates, self.between = source, layer, tuple(dates), between
        self.shape = (len(dates), *(() if channels is None else (channels,)), *grid)
        self.dtype = np.dtype(dtype)
        self._flat = channels is None

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.VectorizedIndexer):
            return self._points(key.tuple)
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._block)

    def _block(self, key: tuple[Any, ...]) -> np.ndarray:
        """Each axis indexed by itself: an index, a slice with any step, or an array of indices in any order."""
        chosen = [np.asarray(np.arange(size)[each]) for size, each in zip(self.shape, key, strict=True)]
        shape = tuple(size for indices in chosen for size in indices.shape)  # an index takes its axis away
        times, channels, rows, cols = map(np.atleast_1d, self._with_channels(chosen))
        out = np.empty((times.size, channels.size, rows.size, cols.size), self.dtype)
        # From the first pixel that is asked for: a chunk of TILE pixels is one window, wherever it begins.
        for down in _runs(rows):
            for across in _runs(cols):
                window = Window(down.start, across.start, down.size, across.size)
                for time in np.unique(times):
                    values = self._window(window, int(time))[channels][:, down.inside][:, :, across.inside]
                    for place in np.flatnonzero(times == time):
                        out[place][:, down.places[:, None], across.places] = values
        return out.reshape(shape)

    def _points(self, key: tuple[Any, ...]) -> np.ndarray:
        """Axes indexed together, as in a table of points: only the windows are computed in which there are any."""
        together = np.broadcast_shapes(*(each.shape for each in key if isinstance(each, np.ndarray)))
        slices = [place for place, each in enumerate(key) if isinstance(each, slice)]
        arrays = []
        for place, (size, each) in enumerate(zip(self.shape, key, strict=True)):
            indices = np.arange(size)[each]
            if place in slices:  # xarray puts what is indexed together first, and slices behind it
                indices = indices.reshape([-1 if other == place else 1 for other in slices])
            else:
                indices = indices.reshape(*indices.shape, *[1] * len(slices))
            arrays.append(indices)
        shape = np.broadcast_shapes(together + (1,) * len(slices), *(each.shape for each in arrays))
        flat = [np.broadcast_to(each, shape).reshape(-1) for each in self._with_channels(arrays)]
        times, channels, rows, cols = flat
        out = np.empty(times.size, self.dtype)
        if out.size:
            _, group = np.unique(np.stack([times, rows // TILE, cols // TILE]), axis=1, return_inverse=True)
            order = np.argsort(group.reshape(-1), kind="stable")
            for chosen in np.split(order, np.cumsum(np.bincount(group.reshape(-1)))[:-1]):
                row, col = rows[chosen].min(), cols[chosen].min()
                window = Window(int(row), int(col), int(np.ptp(rows[chosen])) + 1, int(np.ptp(cols[chosen])) + 1)
                values = self._window(window, int(times[chosen[0]]))
                out[chosen] = values[channels[chosen], rows[chosen] - row, cols[chosen] - col]
        return out.reshape(shape)

    def _with_channels(self, axes: list[Indices]) -> list[Indices]:
        """Always four axes: where there are no channels, the first and only."""
        return [axes[0], np.zeros((), np.intp), *axes[1:]] if self._flat else axes

    def _window(self, window: Window, time: int) -> np.ndarray:
        return self.source.compute(self.layer, window, self.dates[time], between=self.between)


@dataclass(frozen=True)
class _Run:
    """Indices along an axis that lie within TILE pixels.

    Attributes:
        places: where among the indices that were asked for.
        start: the first pixel of the run.
        size: pixels up to the last.
        inside: the indices, counted from `start`.
    """

    places: Indices
    start: int
    size: int
    inside: Indices


def _runs(indices: Indices) -> Iterator[_Run]:
    """Indices in any order, cut into runs that are computed together."""
    if not indices.size:
        return
    tiles = (indices - indices.min()) // TILE
    for tile in np.unique(tiles):
        places = np.flatnonzero(tiles == tile)
        start = int(indices[places].min())
        inside = indices[places] - start
        yield _Run(places, start, int(inside.max()) + 1, inside)
