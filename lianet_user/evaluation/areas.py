"""Areas and accuracies of a class map, with 95 % intervals, from reference labels counted in each class of the map.

The estimators are those of Olofsson et al. (2014, Remote Sensing of Environment 148), after Stehman and Cochran: the map's
classes are the strata, and a class's share of each stratum is weighed by the stratum's area. A map's own count of pixels is
biased wherever it errs more one way than the other; the adjusted area is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lianet_user.errors import InputError
from lianet_user.files.header import ClassEntry

CONFIDENCE: Final = 0.95
CAVEAT: Final = (
    "the intervals hold for reference pixels that were drawn at random in each class of the map, or over all of it;"
    " labels that lie where somebody chose to look, or in patches, do not justify them"
)
"""What has to be said beside the figures."""

COLUMNS: Final = ("class", "reference pixels", "mapped ha", "area ha", "user's accuracy", "producer's accuracy")
"""Headings of the columns of :meth:`Areas.rows`."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, value +- half_width.

    The value is None where the labels say nothing of it. The half width is None where they do not say how far off the value
    may be: a stratum with a single label has no variance, and labels that agree without exception seem to have none. Zero
    would be a claim to know.
    """

    value: float | None
    half_width: float | None

    def text(self, digits: int) -> str:
        """For a table: `0.88 ± 0.07`, `0.88 ± ?`, or `-`."""
        if self.value is None:
            return "-"
        width = "?" if self.half_width is None else f"{self.half_width:,.{digits}f}"
        return f"{self.value:,.{digits}f} ± {width}"


UNKNOWN: Final = Estimate(None, None)


@dataclass(frozen=True)
class ClassArea:
    """Area and accuracies of a class."""

    name: str
    pixels: int
    """Pixels of the class in the reference."""
    mapped_ha: float
    area_ha: Estimate
    """Adjusted for the map's errors."""
    users_accuracy: Estimate
    """Share of the area mapped as the class that is of it (precision)."""
    producers_accuracy: Estimate
    """Share of the class's area that is mapped as it (recall): weighed by area, so not the share of the labels."""


@dataclass(frozen=True)
class Areas:
    """Areas and accuracies of a map."""

    accuracy: Estimate
    """Share of the map's area whose class is right."""
    classes: tuple[ClassArea, ...]

    def as_dict(self) -> dict[str, Any]:
        """What JSON output holds."""
        return {"confidence": CONFIDENCE, "caveat": CAVEAT, **dataclasses.asdict(self)}

    def rows(self) -> list[tuple[str, ...]]:
        """A table's cells, class by class, under :data:`COLUMNS`."""
        return [
            (
                each.name,
                f"{each.pixels:,}",
                f"{each.mapped_ha:,.1f}",
                each.area_ha.text(1),
                each.users_accuracy.text(3),
                each.producers_accuracy.text(3),
            )
            for each in self.classes
        ]


def estimate_areas(
    confusion: NDArray[np.int64],
    mapped: NDArray[np.int64],
    hectares: NDArray[np.float64],
    classes: Sequence[ClassEntry],
) -> Areas:
    """Areas and accuracies of a map from labels of some of its pixels.

    Where a part of the map has no labels at all nothing is known of it: then no class has an area or a producer's accuracy,
    and the map no accuracy. A class that no label bears has no area either, rather than one of 0.

    Args:
        confusion: labelled pixels, integers (classes, classes): rows reference, columns the map's class.
        mapped: pixels of the whole map, integers (classes,).
        hectares: of these pixels on the ground, floats (classes,).
        classes: in the order of the rows.

    Raises:
        InputError: nothing is mapped, or a class has more labelled pixels than the map has pixels of it.
    """
    counts = np.asarray(confusion, np.int64).T  # rows are now the map's classes: the strata
    mapped = np.asarray(mapped, np.int64)
    sampled = counts.sum(1)
    for entry, labels, pixels in zip(classes, sampled, mapped, strict=True):
        if labels > pixels:
            raise InputError(
                f"{labels:,} labelled pixels were mapped as {entry.name}, and the map has {pixels:,} of it: count both on"
                " the same map of one date"
            )
    total = int(mapped.sum())
    if not total:
        raise InputError("the map has no pixel with a class: there is no area to estimate")
    total_ha = float(hectares.sum())
    weight = (hectares / total_ha)[:, None]
    there = mapped[:, None] > 0
    size = sampled[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of a stratum, the share that is of a class. NaN where it has no labels, and so is every sum over it, unless there is
        # none of it in the map.
        share = counts / size
        variance = np.where(size > 1, share * (1 - share) / (size - 1), np.nan)
        # The same, of the whole map.
        part = np.where(there, weight * share, 0.0)
        part_variance = np.where(there, weight**2 * variance, 0.0)
        area, area_variance = part.sum(0), part_variance.sum(0)
        right, right_variance = np.diag(part), np.diag(part_variance)
        missed_variance = np.where(np.eye(len(classes), dtype=bool), 0.0, part_variance).sum(0)
        producers = right / area
        producers_variance = ((1 - producers) ** 2 * right_variance + producers**2 * missed_variance) / area**2
    labels = counts.sum(0)
    each = tuple(
        ClassArea(
            name=entry.name,
            pixels=int(labels[i]),
            mapped_ha=float(hectares[i]),
            area_ha=_estimate(area[i] * total_ha, area_variance[i] * total_ha**2) if labels[i] else UNKNOWN,
            users_accuracy=_estimate(share[i, i], variance[i, i]),
            producers_accuracy=_estimate(producers[i], producers_variance[i]),
        )
        for i, entry in enumerate(classes)
    )
    return Areas(_estimate(right.sum(), right_variance.sum()), each)


def _estimate(value: float, variance: float) -> Estimate:
    """An estimate: unknown for NaN, and without an interval where that would have no width."""
    if np.isnan(value):
        return UNKNOWN
    half_width = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * np.sqrt(variance)
    return Estimate(float(value), float(half_width) if half_width > 0 else None)
