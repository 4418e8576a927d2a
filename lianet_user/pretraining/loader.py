"""The windows that a field is trained on: drawn from the seed and the step's number alone, and read ahead by threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lianet_user.errors import InputError
from lianet_user.field.config import FieldConfig
from lianet_user.geo.grid import Window
from lianet_user.imagery.imagery import Imagery

REDRAWS = 20
"""How often a window without a valid pixel is drawn again, at another place of the same acquisition."""

GRACE_S = 1.0
"""Seconds that closing waits for a read that is under way: it cannot be interrupted, and nobody needs its result."""

Corner = tuple[int, int]
"""Row and column of a window's first pixel."""


@dataclass(frozen=True)
class Batch:
    """Equally large windows, as one process trains on them.

    Attributes:
        corners: of each window, multiples of the stride.
        acquisitions: int64 (B,), index of each window's acquisition.
        reflectance: float32 (B, bands, size, size), finite everywhere; past the imagery its edge is repeated.
        valid: bool (B, bands, size, size), False past the imagery.
    """

    corners: tuple[Corner, ...]
    acquisitions: NDArray[np.int64]
    reflectance: NDArray[np.float32]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class _Reading:
    """A step's batch while it is being read: every window is written into its place, then its future holds its corner."""

    acquisitions: NDArray[np.int64]
    reflectance: NDArray[np.float32]
    valid: NDArray[np.bool_]
    corners: list[Future[Corner]]

    def result(self) -> Batch:
        """Wait for all windows; the first error in their order is raised."""
        corners = tuple(corner.result() for corner in self.corners)
        return Batch(corners, self.acquisitions, self.reflectance, self.valid)

    def cancel(self) -> None:
        for corner in self.corners:
            corner.cancel()


class Loader:
    """Windows of imagery, step by step: acquisitions and places drawn uniformly.

    What a step trains on depends on the seed and the step's number and on nothing else: not on the steps before it, nor on
    how many processes share the work, nor on which thread reads. Enter it as a context, or close it. `get` belongs to one
    thread.

    Args:
        imagery: to draw from.
        size: pixels along the side of a window, a multiple of the stride.
        stride: of the decoder: windows begin at its multiples.
        shape: height and width that the field encodes: the imagery's, each rounded up to the stride.
        batch: windows per step, of all processes together.
        seed: of all random draws, 0 or more.
        workers: threads that read.
        prefetch: how many steps are read ahead.
        rank: of this process, which gets windows rank, rank + world, ... of each step.
        world: processes that share a step.

    Attributes:
        waited: seconds that `get` waited for windows.

    Raises:
        InputError: the processes' shares of a batch would not be equally large, as averaging their gradients assumes.
    """

    def __init__(
        self,
        imagery: Imagery,
        *,
        size: int,
        stride: int,
        shape: tuple[int, int],
        batch: int,
        seed: int,
        workers: int = 2,
        prefetch: int = 4,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        assert size % stride == 0
        assert size <= min(shape)
        assert all(padded == -(-length // stride) * stride for padded, length in zip(shape, imagery.shape, strict=True))
        if batch % world:
            raise InputError(
                f"a batch of {batch} windows cannot be shared equally by {world} processes: give a multiple of {world}"
                " as `batch`"
            )
        self._imagery, self._size, self._stride = imagery, size, stride
        self._places = tuple((length - size) // stride + 1 for length in shape)
        self._batch, self._seed, self._prefetch = batch, seed, prefetch
        self._rank, self._world = rank, world
        self.waited = 0.0
        self._first: float | None = None
        self._closed, self._lock = False, threading.Lock()
        self._readings: dict[int, _Reading] = {}
        self._tasks: queue.SimpleQueue[tuple[Future[Corner], Callable[[], Corner]] | None] = queue.SimpleQueue()
        # Not concurrent.futures' threads: those the interpreter waits for at its end, however long a read takes.
        self._threads = [threading.Thread(target=_work, args=(self._tasks,), daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def share(self) -> float:
        """Of the time since `get` was first called, the share spent waiting for windows, 0..1."""
        return 0.0 if self._first is None else self.waited / max(time.monotonic() - self._first, 1e-9)

    def get(self, step: int) -> Batch:
        """This process's windows of a step; the steps after it are read meanwhile, in their order.

        Raises:
            ImageryError: a file cannot be read, or is damaged.
        """
        started = time.monotonic()
        self._first = self._first or started
        needed = range(step, step + 1 + self._prefetch)
        with self._lock:
            if self._closed:
                raise RuntimeError("the loader is closed")
            for number in [number for number in self._readings if number not in needed]:
                self._readings.pop(number).cancel()
            for number in needed:
                if number not in self._readings:
                    self._readings[number] = self._start(number)
            reading = self._readings[step]
        try:
            return reading.result()
        except CancelledError:
            raise RuntimeError("the loader was closed while it was read from") from None
        finally:
            with self._lock:
                self._readings.pop(step, reading).cancel()  # after an error, what is left of it
            self.waited += time.monotonic() - started

    def close(self) -> None:
        """Stop reading. A read that is under way gets a moment to end, and is then abandoned."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for reading in self._readings.values():
                reading.cancel()
            for _ in self._threads:
                self._tasks.put(None)
        deadline = time.monotonic() + GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, step: int) -> _Reading:
        """Draw a step's windows, and queue this process's share of them for reading."""
        generator = np.random.default_rng((self._seed, step))
        acquisitions = generator.integers(len(self._imagery.acquisitions), size=self._batch)
        rows, cols = (generator.integers(places, size=self._batch) * self._stride for places in self._places)
        samples = range(self._rank, self._batch, self._world)
        shape = (len(samples), len(self._imagery.bands), self._size, self._size)
        reading = _Reading(acquisitions[samples], np.empty(shape, np.float32), np.empty(shape, np.bool_), [])
        for place, sample in enumerate(samples):
            future: Future[Corner] = Future()
            reading.corners.append(future)
            outputs = reading.reflectance[place], reading.valid[place]
            corner = int(rows[sample]), int(cols[sample])
            self._tasks.put((future, partial(self._read, step, sample, int(acquisitions[sample]), corner, *outputs)))
        return reading

    def _read(
        self,
        step: int,
        sample: int,
        acquisition: int,
        corner: Corner,
        reflectance: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> Corner:
        """Read a window into its place, and return its corner: another one where nothing was valid at the first."""
        self._fill(acquisition, corner, reflectance, valid)
        if valid.any():
            return corner
        # Only the place is drawn again, so that cloudy dates are not seen less often. And not (..., 0) for the first
        # sample: numpy seeds alike what differs by zeros at the end, and (seed, step) is taken.
        generator = np.random.default_rng((self._seed, step, 1 + sample))
        for _ in range(REDRAWS):
            row, col = (int(generator.integers(places)) * self._stride for places in self._places)
            corner = row, col
            self._fill(acquisition, corner, reflectance, valid)
            if valid.any():
                break
        return corner

    def _fill(
        self, acquisition: int, corner: Corner, reflectance: NDArray[np.float32], valid: NDArray[np.bool_]
    ) -> None:
        """Read one window, and repeat the edge of the imagery past its end."""
        inside = Window(*corner, self._size, self._size).intersection(self._imagery.window)
        assert inside is not None  # the imagery ends less than a stride before `shape`
        height, width = inside.height, inside.width
        patch = self._imagery.read(acquisition, inside)
        reflectance[:, :height, :width], valid[:, :height, :width] = patch.reflectance, patch.valid
        reflectance[:, height:, :width] = reflectance[:, height - 1 : height, :width]
        reflectance[:, :, width:] = reflectance[:, :, width - 1 : width]
        valid[:, height:], valid[:, :, width:] = False, False


def _work(tasks: queue.SimpleQueue[tuple[Future[Corner], Callable[[], Corner]] | None]) -> None:
    """Read one window after the other until the queue ends: what every thread runs."""
    while (task := tasks.get()) is not None:
        future, read = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read())
            except BaseException as error:  # whatever it is, it is raised where the window is waited for
                future.set_exception(error)
        del task, future, read  # or an idle thread holds a batch that nobody else needs


def drawn_from(config: FieldConfig, shape: tuple[int, int]) -> tuple[int, int, tuple[int, int]]:
    """The size and the possible places of the windows that a field is trained on, over imagery of `shape` (height, width).

    A field that normalises over space is trained on patches inside the imagery, at any pixel, as in the paper: where it is
    computed later on. The others are computed at multiples of their stride and past the border.

    Returns:
        Side of the windows, what their first rows and columns are multiples of, and the height and width they lie in.
    """
    stride, encoded = config.decoder.stride, config.encoding.shape
    if config.decoder.spatial_norm and min(shape) >= stride:
        return config.decoder.patch_within(shape), 1, shape
    return config.decoder.patch_within(encoded), stride, encoded
