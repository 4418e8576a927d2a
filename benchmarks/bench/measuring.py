"""How time is taken on a machine that does other work too: processor seconds, in turns, and what the machine can do.

Everything in one process is timed by the processor's clock with one thread, so that a process that has to wait is not
taken for a slow one. What is compared runs in turns, and the ratio is the median of the turns' ratios: whatever slows the
machine down for a while slows both.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]


def cpu_seconds(work: Work, repeats: int = 1) -> float:
    """Processor seconds of one call, the mean of several in a row."""
    started = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - started) / repeats


@dataclass(frozen=True)
class Turns:
    """Seconds of two things that ran in turns."""

    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long the second took."""
        return statistics.median(b / a for a, b in zip(self.first, self.second, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio of a turn."""
        ratios = [b / a for a, b in zip(self.first, self.second, strict=True)]
        return min(ratios), max(ratios)

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.first), statistics.median(self.second)


def in_turns(first: Work, second: Work, turns: int, repeats: tuple[int, int] = (1, 1)) -> Turns:
    """Time two things in turns, after one run of each that does not count.

    Args:
        first: ours.
        second: what it is compared with.
        turns: how many times.
        repeats: calls of each in a turn, where a call is short.
    """
    first(), second()
    found = [(cpu_seconds(first, repeats[0]), cpu_seconds(second, repeats[1])) for _ in range(turns)]
    one, other = zip(*found, strict=True)
    return Turns(one, other)


def gflop(work: Work) -> float:
    """What a call multiplies and adds, convolutions and matrix products: 10^9 operations."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def convolution(precision: torch.dtype, channels: int = 128, side: int = 128) -> tuple[Work, float]:
    """A 3x3 convolution as the networks here have them, channels last, and its 10^9 operations."""
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last).to(precision)  # type: ignore[call-overload]
    values = torch.randn(1, channels, side, side).to(precision).contiguous(memory_format=torch.channels_last)
    return lambda: layer(values), 2 * 9 * channels**2 * side**2 / 1e9


def product(precision: torch.dtype, side: int = 1536) -> tuple[Work, float]:
    """A matrix product, and its 10^9 operations."""
    one, other = torch.randn(side, side).to(precision), torch.randn(side, side).to(precision)
    return lambda: one @ other, 2 * side**3 / 1e9


@dataclass(frozen=True)
class Share:
    """How near something comes to what convolutions of its precision reach."""

    gflop: float
    seconds: float
    share: float
    ceiling: float
    """10^9 operations a second of the convolution."""


def share_of_convolution(work: Work, precision: torch.dtype, turns: int) -> Share:
    """Time something and a convolution in turns; the ceiling is the better of two widths."""
    operations = gflop(work)
    found = []
    for channels, side in ((128, 128), (256, 64)):
        layer, own = convolution(precision, channels, side)
        timed = in_turns(work, layer, turns, (1, 8))
        seconds, unit = timed.medians
        found.append(Share(operations, seconds, timed.ratio / own * operations, own / unit))
    return min(found, key=lambda each: each.share)


def ceilings(folder: Path, turns: int) -> dict[str, float]:
    """What this machine can do with one thread, now: 10^9 operations a second, GB a second."""
    found = {}
    for name, precision in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for what, (work, operations) in {
            "matrix product": product(precision),
            "convolution": convolution(precision),
            "convolution, 256 channels": convolution(precision, 256, 64),
        }.items():
            with torch.inference_mode():
                work()
                found[f"{what}, {name}, GFLOP/s"] = operations / min(cpu_seconds(work, 4) for _ in range(turns))
    source, target = torch.ones(2**26), torch.empty(2**26)
    target.copy_(source)
    seconds = min(cpu_seconds(lambda: target.copy_(source)) for _ in range(turns))
    found["memory, read and written, GB/s"] = 2 * source.nbytes / 1e9 / seconds
    block, path = os.urandom(2**26), folder / "written"
    started = time.perf_counter()
    with path.open("wb") as file:
        file.write(block)
        os.fsync(file.fileno())
    found["disk, written, GB/s"] = len(block) / 1e9 / (time.perf_counter() - started)
    path.unlink()
    return found
