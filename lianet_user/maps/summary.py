"""Summaries of maps: pixels of each class, means of probabilities, statistics of numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ClassCounts:
    """Summary of a map of classes."""

    pixels: dict[str, int]
    """Pixels of each class, by name, in the order of their values."""

    def line(self) -> str:
        """The summary in one line, for a reader."""
        total = sum(self.pixels.values())
        return ", ".join(f"{name} {count / max(1, total):.0%}" for name, count in self.pixels.items())

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Shares:
    """Summary of a map of probabilities or uncertainty."""

    means: dict[str, float]
    """Mean of each band, by name."""

    def line(self) -> str:
        """The summary in one line, for a reader."""
        return ", ".join(f"{name} {mean:.2f}" for name, mean in self.means.items())

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class NumberStatistics:
    """Summary of a map of numbers, in the unit of the labels."""

    unit: str
    pixels: int
    """Valid pixels."""
    minimum: float
    mean: float
    maximum: float
    deviation: float
    """Standard deviation over all valid pixels."""
    valid: float = 1.0
    """Share of the map's pixels that are valid."""

    def line(self) -> str:
        """The summary in one line, for a reader."""
        low, high, mean, deviation = (
            format_number(each, self.unit) for each in (self.minimum, self.maximum, self.mean, self.deviation)
        )
        return f"{low} to {high}, mean {mean}, standard deviation {deviation}"

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON can hold it."""
        return {"statistics": asdict(self)}


class RunningStatistics:
    """Statistics of numbers that are added tile by tile; NaN is nodata."""

    def __init__(self) -> None:
        self._all, self._pixels = 0, 0
        self._mean, self._squares = 0.0, 0.0  # squares: of the differences from the mean, summed
        self._minimum, self._maximum = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        """Add numbers of any shape."""
        self._all += values.size
        exact = values[~np.isnan(values)].astype(np.float64)
        if not exact.size:
            return
        # Tiles are merged by their means (Chan et al. 1979): sums of squares would cancel where numbers are large.
        mean = float(exact.mean())
        difference, before = mean - self._mean, self._pixels
        self._pixels += exact.size
        self._mean += difference * exact.size / self._pixels
        self._squares += float(((exact - mean) ** 2).sum()) + difference**2 * before * exact.size / self._pixels
        self._minimum = min(self._minimum, float(exact.min()))
        self._maximum = max(self._maximum, float(exact.max()))

    def summary(self, unit: str) -> NumberStatistics:
        """The statistics of all numbers so far, of which there is at least one."""
        return NumberStatistics(
            unit=unit,
            pixels=self._pixels,
            minimum=self._minimum,
            mean=self._mean,
            maximum=self._maximum,
            deviation=math.sqrt(self._squares / self._pixels),
            valid=self._pixels / self._all,
        )


Summary = ClassCounts | NumberStatistics | Shares


def format_number(number: float, unit: str = "") -> str:
    """Format a number for a reader, to four significant digits or to the integer, with its unit."""
    digits = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
    return f"{digits} {unit}".rstrip()
