"""The files behind a cube: opened once in each process, watched for changes, and asked for windows.

A :class:`Source` is a few words that travel anywhere; what it opens stays in the process that opened it.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lianet_user.errors import ArtifactError
from lianet_user.geo.grid import Window

if TYPE_CHECKING:
    from lianet_user.head import Head
    from lianet_user.region import Region

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
