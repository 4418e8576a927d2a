"""Labels on a region's grid: a class or a number per pixel, with the dates they describe and a report."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.files.header import IGNORE, ClassEntry
from lianet_user.labels.classes import Legend
from lianet_user.labels.options import Task
from lianet_user.labels.report import ClassCount, FeatureCounts, LabelReport, NumberSummary, RasterCounts

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
    """One; with a date for each feature, one for each date."""
    report: LabelReport
    attribution: str
    """As the file states it; empty if it states none."""

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
        """The same with every label at one of its dates only: for what answers the same at all of them."""
        return dataclasses.replace(self, maps=tuple(LabelMap(each.values, each.dates[:1]) for each in self.maps))


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read from a file, before classes that no pixel bears are taken out."""

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
    labelled_ground: float = 0.0
    contested_ground: float = 0.0

    def labels(self, geobox: GeoBox, scale: int) -> Labels:
        """Count, take out the classes that no pixel bears, and put everything together.

        Raises:
            LabelError: fewer than two classes, or no numbers, are left.

        Warns:
            LabelWarning: a class is taken out.
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
                f"{self.path}: no pixel bears {missing} (too small for the grid, or contradicted): the map goes without"
            )
            warnings.warn(message, LabelWarning, stacklevel=4)

    def _summary(self) -> NumberSummary:
        found = np.concatenate([each.values[each.labelled] for each in self.maps]).astype(np.float64)
        if not len(found):
            raise LabelError(
                f"{self.path}: no pixel of the region bears a number: what is labelled is too small for the grid, or"
                " contradicted"
            )
        return NumberSummary(float(found.min()), float(found.mean()), float(found.max()), float(found.std()))
