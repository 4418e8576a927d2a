"""Pixels of a cube, computed when they are read: the region and head files, and the arrays that xarray indexes.

:class:`CubeFiles` is small and can be sent to any process; the files that it opens stay open in the process that opened them.
:class:`CubeArray` turns xarray's indices into windows, and computes each window once.
"""

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


# --- The files behind a cube.


Quantity = Literal["reflectance", "class", "probability", "number"]

MOST_OPEN = 4
"""Files that a process keeps open at most: the weights of `large` take half a gigabyte."""

_open: OrderedDict[CubeFiles, Region | Head] = OrderedDict()
_opening = threading.Lock()
_computing: threading.BoundedSemaphore | None = None


@dataclass(frozen=True)
class FileStamp:
    """The size and modification time of a file when the cube was opened, to notice changes."""

    path: str
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Read them from the file system.

        Raises:
            ArtifactError: the file does not exist or cannot be accessed.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)  # noqa: PTH100  # resolve() follows links

    def check(self) -> None:
        """Check that the file has not changed.

        Raises:
            ArtifactError: it has changed or is gone.
        """
        if (now := FileStamp.of(Path(self.path))) != self:
            raise ArtifactError(
                f"{self.path} has changed since the cube was opened ({self.size} bytes of {_moment(self.modified_ns)}, now"
                f" {now.size} of {_moment(now.modified_ns)}): open the cube again; copies on other machines must keep"
                " their times (cp -p, rsync -a)"
            )


@dataclass(frozen=True)
class CubeFiles:
    """The region and head files that a cube is computed from.

    Attributes:
        region: the region file.
        head: the head file, or None for the region itself.
        device: the torch device to compute on.
    """

    region: FileStamp
    head: FileStamp | None
    device: str

    def opened(self) -> Region | Head:
        """Open the region or head on the first call in a process; of several threads that call, only one opens it.

        Raises:
            ArtifactError: a file is damaged, or has changed since the cube was opened.
            RegionMismatchError: the region is not the one that the head was trained on.
        """
        self._check()
        with _opening:
            if self not in _open:
                _open[self] = self._read()
                self._check()  # the file did not change while it was read
                if len(_open) > MOST_OPEN:
                    _open.popitem(last=False)
            _open.move_to_end(self)
            return _open[self]

    def compute(self, quantity: Quantity, window: Window, date: dt.date, *, between: bool = False) -> np.ndarray:
        """Compute a window of a quantity: (channels, height, width), float32, or uint8 for classes.

        Args:
            quantity: reflectance for a region; class, probability or number for a head.
            window: of the cube's grid, which for a head for finer labels is finer than the region's.
            date: of an acquisition, or with `between` any date.
            between: see :meth:`lianet_user.region.Region.reconstruct`.

        Raises:
            ArtifactError: a file is damaged, or has changed since the cube was opened.
            RegionMismatchError: the region is not the one that the head was trained on.
        """
        opened = self.opened()
        with _slots():
            if self.head is None:
                return opened.reconstruct(window, date, between=between).cpu().numpy()  # type: ignore[union-attr]
            return _answers(opened, quantity, window, date)  # type: ignore[arg-type]

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


def _answers(head: Head, quantity: Quantity, window: Window, date: dt.date) -> np.ndarray:
    answers = head.map_answers(window, date)
    return answers.exp().cpu().numpy() if quantity == "probability" else head.map_values(answers)


def _slots() -> threading.BoundedSemaphore:
    """Limits the windows that are computed at once, and with them the memory, to as many as keep the cores busy.

    Torch spreads one window over its threads; dask's workers restrict it to one thread.
    """
    global _computing
    with _opening:
        if _computing is None:
            import torch

            _computing = threading.BoundedSemaphore(max(1, cores() // torch.get_num_threads()))
    return _computing


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _moment(nanoseconds: int) -> str:
    return dt.datetime.fromtimestamp(nanoseconds / 1e9, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- Indexing.


Indices = NDArray[np.intp]


class CubeArray(BackendArray):
    """One variable of a cube: (time, channels, y, x), or (time, y, x). It can be pickled, and several threads can read it.

    Args:
        files: that the pixels are computed from.
        quantity: that is computed.
        dates: along the first axis.
        grid: rows and columns.
        dtype: of the values.
        channels: number of bands or classes; None for an array without that axis.
        between: whether the field may estimate the dates.
    """

    def __init__(
        self,
        files: CubeFiles,
        quantity: Quantity,
        dates: Sequence[dt.date],
        grid: tuple[int, int],
        dtype: str,
        *,
        channels: int | None = None,
        between: bool = False,
    ) -> None:
        self.files, self.quantity, self.dates, self.between = files, quantity, tuple(dates), between
        self.shape = (len(dates), *(() if channels is None else (channels,)), *grid)
        self.dtype = np.dtype(dtype)
        self._flat = channels is None

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.VectorizedIndexer):
            return self._points(key.tuple)
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._block)

    def _block(self, key: tuple[Any, ...]) -> np.ndarray:
        """Index each axis by itself: with an integer, a slice of any step, or an array of indices in any order."""
        chosen = [np.asarray(np.arange(size)[each]) for size, each in zip(self.shape, key, strict=True)]
        shape = tuple(size for indices in chosen for size in indices.shape)  # an integer removes its axis
        times, channels, rows, cols = map(np.atleast_1d, self._with_channels(chosen))
        out = np.empty((times.size, channels.size, rows.size, cols.size), self.dtype)
        # Counted from the first pixel that is indexed: a chunk of TILE pixels is one window, wherever it begins.
        for down in _runs(rows):
            for across in _runs(cols):
                window = Window(down.start, across.start, down.size, across.size)
                for time in np.unique(times):
                    values = self._window(window, int(time))[channels][:, down.inside][:, :, across.inside]
                    for place in np.flatnonzero(times == time):
                        out[place][:, down.places[:, None], across.places] = values
        return out.reshape(shape)

    def _points(self, key: tuple[Any, ...]) -> np.ndarray:
        """Index axes together, as for a table of points: only windows that contain points are computed."""
        together = np.broadcast_shapes(*(each.shape for each in key if isinstance(each, np.ndarray)))
        slices = [place for place, each in enumerate(key) if isinstance(each, slice)]
        arrays = []
        for place, (size, each) in enumerate(zip(self.shape, key, strict=True)):
            indices = np.arange(size)[each]
            if place in slices:  # xarray puts the axes that are indexed together first, and slices last
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
        """Indices for four axes: an array without channels has a single one."""
        return [axes[0], np.zeros((), np.intp), *axes[1:]] if self._flat else axes

    def _window(self, window: Window, time: int) -> np.ndarray:
        return self.files.compute(self.quantity, window, self.dates[time], between=self.between)


@dataclass(frozen=True)
class _Run:
    """Indices along an axis that lie within TILE pixels.

    Attributes:
        places: their positions among all indices.
        start: the first pixel of the run.
        size: pixels from the first to the last.
        inside: the indices, counted from `start`.
    """

    places: Indices
    start: int
    size: int
    inside: Indices


def _runs(indices: Indices) -> Iterator[_Run]:
    """Split indices in any order into runs that are computed together."""
    if not indices.size:
        return
    tiles = (indices - indices.min()) // TILE
    for tile in np.unique(tiles):
        places = np.flatnonzero(tiles == tile)
        start = int(indices[places].min())
        inside = indices[places] - start
        yield _Run(places, start, int(inside.max()) + 1, inside)
