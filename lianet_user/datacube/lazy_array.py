"""From indices to windows: what xarray's indexing asks of a variable that is computed."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from lianet_user.errors import ArtifactError
from lianet_user.geo.grid import TILE, Window

if TYPE_CHECKING:
    from lianet_user.head import Head
    from lianet_user.region import Region


# --- The files behind a cube: opened once in each process, watched for changes, and asked for windows.
#
# A :class:`Source` is a few words that travel anywhere; what it opens stays in the process that opened it.


Layer = Literal["reflectance", "class", "probability", "number"]

MOST_OPEN = 4
"""Files a process holds open at once: the weights of `large` take half a gigabyte."""

_open: OrderedDict[Source, Region | Head] = OrderedDict()
_opening = threading.Lock()
_computing: threading.BoundedSemaphore | None = None


@dataclass(frozen=True)
class Stamp:
    """A file as it was when the cube was opened."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """
        Raises:
            ArtifactError: there is no such file.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
        return cls(os.path.abspath(path), found.st_size, found.st_mtime_ns)  # noqa: PTH100  # resolve() follows links

    def check(self) -> None:
        """
        Raises:
            ArtifactError: the file is another one by now, or gone.
        """
        if (now := Stamp.of(Path(self.path))) != self:
            raise ArtifactError(
                f"{self.path} has changed since the cube was opened ({self.size} bytes of {_moment(self.modified_ns)}, now"
                f" {now.size} of {_moment(now.modified_ns)}): open the cube again; copies on other machines have to keep"
                " their times (cp -p, rsync -a)"
            )


@dataclass(frozen=True)
class Source:
    """What a cube is computed from.

    Attributes:
        region: the region file.
        head: the head file, or None for the region itself.
        device: to compute on.
    """

    region: Stamp
    head: Stamp | None
    device: str

    def opened(self) -> Region | Head:
        """The region or head, opened when this process asks first; of several threads that ask, one opens.

        Raises:
            ArtifactError: a file is damaged, or has changed since the cube was opened.
            RegionMismatchError: the region is not the one that the head was trained on.
        """
        self._check()
        with _opening:
            if self not in _open:
                _open[self] = self._read()
                self._check()  # what was read is what the cube was opened on
                if len(_open) > MOST_OPEN:
                    _open.popitem(last=False)
            _open.move_to_end(self)
            return _open[self]

    def compute(self, layer: Layer, window: Window, date: dt.date, *, between: bool = False) -> np.ndarray:
        """A window of a layer: (channels, height, width), float32, or uint8 of classes.

        Args:
            layer: reflectance of a region, or one of a head's.
            window: of the cube's grid, which for a head for finer labels is finer than the region's.
            date: of an acquisition, or with `between` another.
            between: see :meth:`lianet_user.region.Region.reconstruct`.

        Raises:
            ArtifactError: as :meth:`opened`.
            RegionMismatchError: likewise.
        """
        opened = self.opened()
        with _slots():
            if self.head is None:
                return opened.reconstruct(window, date, between=between).cpu().numpy()  # type: ignore[union-attr]
            return _answers(opened, layer, window, date)  # type: ignore[arg-type]

    def _check(self) -> None:
        for stamp in (self.region, self.head):
            if stamp is not None:
                stamp.check()

    def _read(self) -> Region | Head:
        if self.head is None:
            from lianet_user.region import Region

            return Region.open(self.region.path, self.device)
        from lianet_user.head import Head

        return Head.open(self.head.path, self.region.path, self.device)


def _answers(head: Head, layer: Layer, window: Window, date: dt.date) -> np.ndarray:
    answers = head.map_answers(window, date)
    values: np.ndarray = (answers.exp() if layer == "probability" else head.decided(answers)[None]).cpu().numpy()
    return values


def _slots() -> threading.BoundedSemaphore:
    """How many windows are computed at once, which bounds memory: as many as keep the cores busy, and no more.

    torch spreads one window over its threads; dask's workers tell it to use one only.
    """
    global _computing
    with _opening:
        if _computing is None:
            import torch

            _computing = threading.BoundedSemaphore(max(1, cores() // torch.get_num_threads()))
    return _computing


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _moment(nanoseconds: int) -> str:
    return dt.datetime.fromtimestamp(nanoseconds / 1e9, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# ---


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
