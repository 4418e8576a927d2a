"""Labels on a region's grid: a class or a number per pixel, with the dates they describe and a report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import LabelError, LabelWarning, printable
from lianet_user.files.header import IGNORE, ClassEntry
from lianet_user.labels.classes import Legend
from lianet_user.labels.label_options import Task

# --- The report: what became of every feature of a file, and of every pixel.


@dataclass(frozen=True)
class ClassCount:
    """One class: the features used (none of a raster, none of the background), and the pixels that bear it."""

    name: str
    features: int
    pixels: int


@dataclass(frozen=True)
class NumberSummary:
    """The numbers that pixels bear."""

    minimum: float
    mean: float
    maximum: float
    deviation: float


@dataclass(frozen=True)
class RasterCounts:
    """Ground without a label in a raster of labels, in pixels of the label map."""

    nodata: float
    outside: float
    """In the region, but not covered by the raster."""
    excluded: float
    """Of a class that was dropped on request."""


@dataclass(frozen=True)
class FeatureCounts:
    """Features of the layer. Each has exactly one fate:

    ``read = used + no_geometry + not_polygons + no_label + excluded + no_date + outside + duplicates``.
    """

    read: int
    used: int
    no_geometry: int
    """Null, empty, not finite, or a polygon without any area."""
    not_polygons: int
    """Points and lines where only polygons can be used: they cover no area."""
    no_label: int
    """Null or blank in the column."""
    excluded: int
    """Bears a class that was dropped on request."""
    no_date: int
    """Null in the column of dates."""
    outside: int
    """Entirely outside the region."""
    duplicates: int
    """Repeat the geometry, label and date of an earlier feature."""
    partly_outside: int
    """Used, but only the part that lies in the region."""
    repaired: int
    """Used after their self-intersections were repaired."""
    polygons: int
    """Used, with an area; a feature of mixed parts counts as what its largest dimension is."""
    lines: int
    points: int


@dataclass(frozen=True)
class LabelReport:
    """Counts of features and of pixels. Where labels describe different dates, pixels are counted once for each."""

    source: str
    """File, layer and column, or file and band."""
    task: Task
    notes: tuple[str, ...]
    """What was decided while reading, and why: one fact per line."""
    features: FeatureCounts | None
    """None for a raster."""
    raster: RasterCounts | None
    """None for features."""
    vanished: int
    """Features used although no pixel they touch bears their class: too small, too thin, or contradicted."""
    pixels: int
    """Pixels of the label map: the region's, or sixteen times as many on the finer grid."""
    contradicting: int
    """Pixels that features of different classes cover, and that are therefore ignored."""
    undecided: int
    """Pixels ignored because classes share them so that none covers enough of them, or two as much as each other."""
    labelled_ground: float
    """Ground under labels, in pixels, however little of a pixel it is; contested ground included."""
    contested_ground: float
    """Ground that features contradict each other about, in pixels."""
    classes: tuple[ClassCount, ...]
    """Every class of the labels used, also one that is left out because no pixel bears it; empty for numbers."""
    numbers: NumberSummary | None
    """None for classes."""
    labelled: int
    """Pixels that bear a class or a number."""

    @property
    def contested_share(self) -> float:
        """Contested ground over all ground under labels: 0 to 1."""
        return self.contested_ground / self.labelled_ground if self.labelled_ground else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        return {**asdict(self), "contested_share": self.contested_share}

    def lines(self) -> list[str]:
        """The report for a person: one fact per line, without what did not occur."""
        lines = [f"Labels: {self.source}", *self.notes]
        if self.features is not None:
            lines += _feature_lines(self.features, self.vanished)
        lines.append(f"Pixels: {self.labelled:,} of {self.pixels:,} labelled ({_percent(self.labelled / self.pixels)})")
        if self.raster is not None:
            ground = (
                (self.raster.nodata, "without data in the raster"),
                (self.raster.outside, "outside the raster"),
                (self.raster.excluded, "of classes dropped on request"),
            )
            lines += [f"  ground of {round(pixels):,} px is {what}" for pixels, what in ground if round(pixels)]
        if self.undecided:
            lines.append(
                f"  shared: {self.undecided:,} pixels are ignored because no class covers enough of them, or two cover as much"
            )
        if self.contested_ground:
            lines.append(
                f"  contradictions: features disagree about {_percent(self.contested_share)} of the labelled ground;"
                f" {self.contradicting:,} pixels are ignored for it"
            )
        if self.numbers is not None:
            numbers = self.numbers
            lines.append(
                f"  from {numbers.minimum:g} to {numbers.maximum:g}, mean {numbers.mean:.4g},"
                f" standard deviation {numbers.deviation:.4g}"
            )
        width = max((len(entry.name) for entry in self.classes), default=0)
        for entry in self.classes:
            origin = f" from {entry.features:,} feature{'s'[: entry.features != 1]}" if entry.features else ""
            share = _percent(entry.pixels / max(1, self.labelled))
            lines.append(f"  {entry.name:<{width}}  {entry.pixels:>11,} px  {share:>6}{origin}")
        return [printable(line) for line in lines]


def _feature_lines(features: FeatureCounts, vanished: int) -> list[str]:
    kinds = ((features.polygons, "polygon"), (features.lines, "line"), (features.points, "point"))
    used = ", ".join(f"{count:,} {kind}{'s'[: count != 1]}" for count, kind in kinds if count)
    facts = (
        (features.no_geometry, "dropped: no geometry, or one without area"),
        (features.not_polygons, "dropped: points or lines, which cover no area"),
        (features.no_label, "dropped: no label"),
        (features.excluded, "dropped on request, with their class"),
        (features.no_date, "dropped: no date"),
        (features.outside, "dropped: outside the region"),
        (features.duplicates, "dropped: exact duplicates (same geometry, same label)"),
        (features.partly_outside, "used, but only as far as they lie in the region"),
        (features.repaired, "used, after repairing self-intersections"),
        (vanished, "used, but no pixel they touch bears their label (too small or contradicted)"),
    )
    return [
        f"Features: {features.read:,} read, {features.used:,} used ({used})",
        *(f"  {count:,} {what}" for count, what in facts if count),
    ]


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


# --- Label maps, and the labels of a whole file.


PixelValues = NDArray[Any]
"""(height, width): uint8, index of a class or IGNORE; or float32, a number or NaN."""


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels on the grid, and the acquisitions they describe."""

    values: PixelValues
    dates: tuple[dt.date, ...]

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Where there is a label."""
        return self.values != IGNORE if self.values.dtype == np.uint8 else np.isfinite(self.values)


@dataclass(frozen=True, eq=False)
class Labels:
    """A file of labels, put on a region's grid."""

    geobox: GeoBox
    """The region's grid, or one `scale` times as fine."""
    scale: int
    task: Task
    classes: tuple[ClassEntry, ...]
    """In the order of their values; none for numbers."""
    maps: tuple[LabelMap, ...]
    """One map; where each feature has a date, one map for each date."""
    report: LabelReport
    attribution: str
    """The attribution that the file states; empty if it states none."""

    @property
    def dates(self) -> tuple[dt.date, ...]:
        """Every acquisition that labels describe, in order."""
        return tuple(sorted({date for each in self.maps for date in each.dates}))

    @property
    def lasting(self) -> bool:
        """Whether every label holds at each of several dates, as a forest does and a harvest does not."""
        return len(self.dates) > 1 and all(set(each.dates) == set(self.dates) for each in self.maps)

    def digest(self) -> str:
        """A hash of everything that training depends on."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.task, self.scale, [each.model_dump() for each in self.classes]]).encode())
        for each in self.maps:
            digest.update(json.dumps([str(date) for date in each.dates]).encode())
            digest.update(each.values.tobytes())
        return digest.hexdigest()

    def once(self) -> Labels:
        """The same labels, each at one of its dates only: for a model that predicts the same at all of them."""
        return dataclasses.replace(self, maps=tuple(LabelMap(each.values, each.dates[:1]) for each in self.maps))


@dataclass(frozen=True, eq=False)
class RawLabels:
    """Labels on the grid as they were read, still with the classes that no pixel bears."""

    path: Path
    source: str
    attribution: str
    task: Task
    legend: Legend | None
    """None for numbers."""
    maps: tuple[LabelMap, ...]
    notes: tuple[str, ...]
    features: FeatureCounts | None = None
    class_features: Sequence[int] | None = None
    """(classes,) features used of each; None for a raster."""
    raster: RasterCounts | None = None
    vanished: int = 0
    contradicting: int = 0
    undecided: int = 0
    labelled_ground: float = 0.0
    contested_ground: float = 0.0

    def labels(self, geobox: GeoBox, scale: int) -> Labels:
        """Count the pixels, remove the classes that no pixel bears, and write the report.

        Raises:
            LabelError: fewer than two classes, or no numbers, are left.

        Warns:
            LabelWarning: a class is removed.
        """
        classes: tuple[ClassEntry, ...] = ()
        counts: tuple[ClassCount, ...] = ()
        numbers, maps = None, self.maps
        if self.legend is None:
            numbers = self._summary()
        else:
            pixels = sum(np.bincount(each.values.ravel(), minlength=256)[:IGNORE] for each in maps)
            assert isinstance(pixels, np.ndarray)
            names = [entry.name for entry in self.legend.classes]
            features = self.class_features or [0] * len(names)
            counts = tuple(map(ClassCount, names, features, pixels[: len(names)].tolist()))
            borne = np.flatnonzero(pixels)
            self._check_borne(counts)
            classes = tuple(self.legend.classes[index] for index in borne)
            renumbered = np.full(256, IGNORE, np.uint8)
            renumbered[borne] = np.arange(len(borne))
            maps = tuple(LabelMap(renumbered[each.values], each.dates) for each in maps)
        report = LabelReport(
            source=self.source,
            task=self.task,
            notes=self.notes,
            features=self.features,
            raster=self.raster,
            vanished=self.vanished,
            pixels=sum(each.values.size for each in maps),
            contradicting=self.contradicting,
            undecided=self.undecided,
            labelled_ground=self.labelled_ground,
            contested_ground=self.contested_ground,
            classes=counts,
            numbers=numbers,
            labelled=sum(int(each.labelled.sum()) for each in maps),
        )
        return Labels(geobox, scale, self.task, classes, maps, report, self.attribution)

    def _check_borne(self, counts: Sequence[ClassCount]) -> None:
        missing = ", ".join(repr(entry.name) for entry in counts if not entry.pixels)
        borne = sum(entry.pixels > 0 for entry in counts)
        if borne < 2:
            raise LabelError(
                f"{self.path}: {borne} of the {len(counts)} classes cover pixels of the region, expected two or more: no"
                f" pixel bears {missing} (too small for the grid, or contradicted)"
            )
        if missing:
            message = (
                f"{self.path}: no pixel bears {missing} (too small for the grid, or contradicted): the map omits it"
            )
            warnings.warn(message, LabelWarning, stacklevel=4)

    def _summary(self) -> NumberSummary:
        numbers = np.concatenate([each.values[each.labelled] for each in self.maps]).astype(np.float64)
        if not len(numbers):
            raise LabelError(
                f"{self.path}: no pixel of the region bears a number: what is labelled is too small for the grid, or"
                " contradicted"
            )
        return NumberSummary(float(numbers.min()), float(numbers.mean()), float(numbers.max()), float(numbers.std()))
