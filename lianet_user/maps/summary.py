"""What a map came to: how much of it each class takes, or what its numbers are like."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassCounts:
    """Of a map of classes."""

    pixels: dict[str, int]
    """Of each class, by name, in the order of their values."""

    def line(self) -> str:
        """As a person reads it."""
        total = sum(self.pixels.values())
        return ", ".join(f"{name} {count / total:.0%}" for name, count in self.pixels.items())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class NumberStatistics:
    """Of a map of numbers, in the unit of the labels."""

    unit: str
    pixels: int
    minimum: float
    mean: float
    maximum: float
    deviation: float
    """Standard deviation over all the pixels."""

    def line(self) -> str:
        """As a person reads it."""
        low, high, mean, deviation = (
            spelt(each, self.unit) for each in (self.minimum, self.maximum, self.mean, self.deviation)
        )
        return f"{low} to {high}, mean {mean}, standard deviation {deviation}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"statistics": asdict(self)}


Summary = ClassCounts | NumberStatistics


def spelt(number: float, unit: str = "") -> str:
    """A number as a person writes it, to four digits or to the integer, and its unit."""
    digits = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
    return f"{digits} {unit}".rstrip()
