"""Samples to train a head on: windows cut around the labels, each with what a head reads there, computed once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lianet_user.errors import write_error
from lianet_user.files.header import IGNORE
from lianet_user.geo.grid import Window
from lianet_user.labels import Labels
from lianet_user.labels.effort import readings

# --- The cache of what heads read: in memory up to a limit, beyond it in a file that is mapped into memory.
#
# A pixel takes 424 bytes by default, so a completely labelled Sentinel-2 tile takes 51 GB. Training reads crops of it at random
# places, which the system reads from the disk and drops again as it needs memory.

CACHE_GB = 4.0
"""10^9 bytes of features that are kept in memory by default."""


class FeatureCache:
    """Keeps tensors: the first ones in memory, the others in a file without a name, which disappears with the process.

    Args:
        most_gb: of tensors in memory, 10^9 bytes.
        folder: for the file; None takes the system's folder for temporary files.
    """

    def __init__(self, most_gb: float = CACHE_GB, folder: Path | None = None) -> None:
        self.most_bytes, self.folder = most_gb * 1e9, folder
        self.in_memory = self.on_disk = 0
        self._file: IO[bytes] | None = None

    def keep(self, values: Tensor) -> Tensor:
        """Keep a copy of `values`, float16, and return it; it can be written to.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        if self.in_memory + values.nbytes <= self.most_bytes:
            self.in_memory += values.nbytes
            return values.clone(memory_format=torch.contiguous_format)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.folder, prefix=".lianet-features-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)  # what is mapped stays mapped
            # Written and not only mapped: a full disk is an error that can be explained, and not the end of the process.
            self._file.seek(self.on_disk)
            self._file.write(values.contiguous().numpy().tobytes())
            self._file.flush()
        except OSError as error:
            raise write_error(self.folder or Path(tempfile.gettempdir()), error) from error
        mapped = np.memmap(self._file, np.float16, "r+", self.on_disk, tuple(values.shape))
        self.on_disk += values.nbytes
        return torch.from_numpy(mapped)


# --- The samples.

ReadInputs = Callable[[Window, dt.date], Tensor]
"""Computes what a head reads of a window at a date: float32 (channels, height, width)."""
Listener = Callable[[int, int], None]
GroundMask = Callable[[Window], np.ndarray]
"""Which pixels of a window of the region count: bool (height, width)."""


@dataclass(frozen=True)
class Sample:
    """A window of labels at one date, and what a head reads there."""

    date: dt.date
    window: Window
    """Of the region."""
    own: Window
    """The part of it that belongs to no other sample of the date: where it is judged."""
    labels: Tensor
    """(scale * height, scale * width) of `window`: uint8 class index or IGNORE; or float32 number or NaN."""
    inputs: Tensor
    """float16 (channels, height, width)."""
    map: int = 0
    """Which of the label maps it was cut from: samples of one map differ in their dates only."""

    @property
    def scale(self) -> int:
        """Pixels of the labels per pixel of the region, along either axis."""
        return self.labels.shape[1] // self.window.width

    @property
    def labelled(self) -> Tensor:
        """Where there is a label: bool, as `labels`."""
        return self.labels != IGNORE if self.labels.dtype == torch.uint8 else self.labels.isfinite()

    def keeping(self, kept: np.ndarray) -> Sample:
        """The sample with labels only where `kept`, bool (height, width) of `window`, is true."""
        if kept.all():
            return self
        fine = torch.from_numpy(kept.repeat(self.scale, 0).repeat(self.scale, 1))
        nothing = torch.tensor(IGNORE if self.labels.dtype == torch.uint8 else math.nan, dtype=self.labels.dtype)
        return dataclasses.replace(self, labels=torch.where(fine, self.labels, nothing))

    def judged(self) -> Sample:
        """The sample with the labels of its own part only, so that all samples together have every label once."""
        kept = np.zeros((self.window.height, self.window.width), bool)
        kept[self.own.within(self.window).slices] = True
        return self.keeping(kept)

    def trimmed(self, halo: int) -> Sample:
        """The sample cut to what answers at the labels of its own part depend on: `halo` pixels around them."""
        rows, cols = (np.flatnonzero(self.judged().labelled.numpy().any(axis)) // self.scale for axis in (1, 0))
        inner = Window(int(rows[0]), int(cols[0]), int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1)
        part = inner.expanded(halo, 1, (self.window.height, self.window.width))
        window = part.shifted(self.window.row, self.window.col)
        own = self.own.intersection(window)
        assert own is not None
        return dataclasses.replace(
            self,
            window=window,
            own=own,
            labels=self.labels[part.scaled(self.scale).slices],
            inputs=self.inputs[(slice(None), *part.slices)],
        )


def keep(samples: Sequence[Sample], where: GroundMask) -> list[Sample]:
    """The samples with labels only where a mask of their window says so; those that are left without any are dropped."""
    kept = (sample.keeping(where(sample.window)) for sample in samples)
    return [sample for sample in kept if sample.judged().labelled.any()]


def labelled_pixels(samples: Sequence[Sample], most: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is read at labelled pixels, and the labels there.

    Args:
        samples: with the labels to take.
        most: of them, drawn at random.
        seed: of the draw.

    Returns:
        inputs float32 (n, channels), labels (n,), and for each the number of its label map, its row and its column in the
        region, and the number of the patch of labels that it is part of, int64 (n, 4).
    """
    own = [sample.judged() for sample in samples]
    counts = [int(sample.labelled.sum()) for sample in own]
    total = sum(counts)
    chosen = np.zeros(total, bool)
    chosen[np.random.default_rng(seed).permutation(total)[:most]] = True
    values, labels, places, patches = [], [], [], 0
    for sample, kept in zip(own, np.split(chosen, np.cumsum(counts)[:-1]), strict=True):
        rows, cols = (index.numpy()[kept] for index in torch.nonzero(sample.labelled, as_tuple=True))
        patch, count = ndimage.label(sample.labelled.numpy())
        labels.append(sample.labels[rows, cols].numpy())
        number = patch[rows, cols] + patches
        patches += count
        rows, cols = rows // sample.scale, cols // sample.scale
        values.append(sample.inputs[:, rows, cols].T.float().numpy())
        corner = sample.window.row, sample.window.col
        places.append(np.stack([np.full(len(rows), sample.map), rows + corner[0], cols + corner[1], number], 1))
    return np.concatenate(values), np.concatenate(labels), np.concatenate(places)


def moments(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what is read, over all pixels of the windows: float32 (channels, 1, 1) each.

    No standard deviation is 0.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for sample in samples:
        values = sample.inputs.float().flatten(1)
        variance, own = (moment.double() for moment in torch.var_mean(values, 1, correction=0))
        count += values.shape[1]
        total, squares = total + values.shape[1] * own, squares + values.shape[1] * (variance + own**2)
    mean = total / count
    std = (squares / count - mean**2).clamp_min(0).sqrt().clamp_min(1e-6)
    return mean[:, None, None].float(), std[:, None, None].float()


def standardized(samples: Sequence[Sample], mean: Tensor, std: Tensor, *, in_place: bool = False) -> list[Sample]:
    """The samples with their inputs less a mean, divided by a standard deviation.

    Args:
        samples: to standardise.
        mean: of each channel, (channels, 1, 1).
        std: standard deviation of each channel, (channels, 1, 1).
        in_place: overwrite the inputs of `samples`, and take no memory for others.
    """
    result = []
    for sample in samples:
        values = ((sample.inputs.float() - mean) / std).to(torch.float16)
        result.append(dataclasses.replace(sample, inputs=sample.inputs.copy_(values) if in_place else values))
    return result


def make_samples(
    read: ReadInputs,
    labels: Labels,
    *,
    margin: int,
    tight: bool = True,
    halo: int | None = None,
    cache: FeatureCache | None = None,
    listener: Listener | None = None,
) -> list[Sample]:
    """Cut the labels into windows, block by block and date by date, and compute what a head reads there: once.

    Args:
        read: computes what a head reads.
        labels: on the region's grid, or on a finer one.
        margin: pixels of surroundings kept on every side of a block's labels, at least the head's halo.
        tight: a window is no larger than the labels in its block and the margin; else it is the block and the margin.
        halo: pixels around a window that `read` computes with it; with it, few labels far apart are read one by one where that
            is less work. None reads those that are near each other at once, however few.
        cache: where the inputs are kept; None keeps all in memory.
        listener: called with how many of how many labelled blocks are done.
    """
    plan = readings(labels, margin=margin, tight=tight, halo=halo)
    total = sum(len(reading.samples) for reading in plan)
    samples: list[Sample] = []
    cache = cache or FeatureCache(math.inf)
    for reading in plan:
        fine = labels.maps[reading.map].values
        values = read(reading.window, reading.date).to(torch.float16).cpu()
        for window, own in reading.samples:
            own_labels = torch.from_numpy(fine[window.scaled(labels.scale).slices].copy())
            inputs = cache.keep(values[(slice(None), *window.within(reading.window).slices)])
            samples.append(Sample(reading.date, window, own, own_labels, inputs, reading.map))
            if listener:
                listener(len(samples), total)
    return samples
