"""Products of heads (classes, numbers, probabilities, uncertainty): how each is stored, summarised, styled and drawn.

The rest of the package uses the protocol :class:`Product` and never asks which kind it is; the products of reconstructed
imagery are in `images`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.files.header import IGNORE, ClassEntry, Numbers
from lianet_user.maps import picture, style
from lianet_user.maps.geotiff import RasterProfile
from lianet_user.maps.summary import ClassCounts, NumberStatistics, RunningStatistics, Shares, Summary


class Product(Protocol):
    """A map that is being made: its tiles are added one by one, then its sidecar files are written."""

    @property
    def profile(self) -> RasterProfile:
        """How it is stored."""

    @property
    def tags(self) -> dict[str, str]:
        """What its values mean, as TIFF tags."""

    @property
    def title(self) -> str:
        """What it shows, as in "map of 6 classes"."""

    def add(self, values: np.ndarray) -> None:
        """Add a tile to the summary: (bands, height, width) of the profile's type."""

    @property
    def summary(self) -> Summary:
        """Summary of the tiles so far, of which at least one holds a value."""

    def write_pam(self, path: Path) -> None:
        """Write the sidecar file for GDAL, if the product has one."""

    def write_qml(self, path: Path) -> None:
        """Write the style for QGIS."""

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        """Draw the quick-look of `values` (bands, rows, columns); see :func:`lianet_user.maps.picture.class_figure`."""


class ClassProduct:
    """A map of classes: uint8, the index of each pixel's class, or 255 without one."""

    def __init__(self, classes: tuple[ClassEntry, ...]) -> None:
        self.classes = classes
        self.profile = RasterProfile(
            bands=("class",),
            dtype="uint8",
            nodata=IGNORE,
            # Neighbouring class numbers do not differ gradually, and differences of them deflate worse.
            predictor="NO",
            # The most frequent class, because classes cannot be averaged.
            overviews="MODE",
            palette={IGNORE: (255, 255, 255)} | {value: style.rgb(entry.color) for value, entry in enumerate(classes)},
        )
        self.tags = style.class_tags(classes)
        self.title = f"map of {len(classes)} classes"
        self._pixels = np.zeros(256, np.int64)

    def add(self, values: np.ndarray) -> None:
        self._pixels += np.bincount(values.ravel(), minlength=256)

    @property
    def summary(self) -> ClassCounts:
        return ClassCounts({entry.name: int(self._pixels[value]) for value, entry in enumerate(self.classes)})

    def write_pam(self, path: Path) -> None:
        style.write_pam(path, self.classes, list(self.summary.pixels.values()))

    def write_qml(self, path: Path) -> None:
        style.write_qml(path, self.classes)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        pixels = list(self.summary.pixels.values())
        return picture.class_figure(values[0], geobox, self.classes, pixels, title=title, attribution=attribution)


class NumberProduct:
    """A map of numbers: float32 in the unit of the labels; NaN is nodata."""

    def __init__(self, numbers: Numbers, task: str) -> None:
        self.numbers = numbers
        self.profile = RasterProfile(
            bands=("coverage" if task == "coverage" else "value",),
            dtype="float32",
            nodata=math.nan,
            predictor="YES",  # GDAL takes the one for floating point
            overviews="AVERAGE",
            unit=numbers.unit,
        )
        self.tags = {"UNIT": numbers.unit} if numbers.unit else {}
        self.title = (
            "map of coverage" if task == "coverage" else f"map of numbers{numbers.unit and ' in '}{numbers.unit}"
        )
        self._statistics = RunningStatistics()

    def add(self, values: np.ndarray) -> None:
        self._statistics.add(values)

    @property
    def summary(self) -> NumberStatistics:
        return self._statistics.summary(self.numbers.unit)

    def write_pam(self, path: Path) -> None:
        style.write_statistics_pam(path, self.summary)

    def write_qml(self, path: Path) -> None:
        style.write_ramp_qml(path, self.numbers)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        return picture.number_figure(
            values[0], geobox, self.numbers, self.summary, title=title, attribution=attribution
        )


# --- Probabilities and uncertainty, stored in one byte in steps of 0.005 with a scale tag: GDAL and QGIS show 0 to 1.


Uncertainty = Literal["entropy", "margin"]
UNCERTAINTIES: tuple[Uncertainty, ...] = ("entropy", "margin")

STEP = 0.005
"""The value of a stored 1: 200 is 1.0, and 255 is nodata."""
SPAN = Numbers(low=0.0, high=1.0)

MEANINGS = {
    "entropy": "entropy of the class probabilities over that of even ones: 0 certain, 1 no idea",
    "margin": "1 - (probability of the first class - that of the second): 0 certain, 1 undecided between two",
}


class ShareProduct:
    """A map of numbers from 0 to 1, in one band or several."""

    def __init__(self, bands: Sequence[str], title: str, tags: dict[str, str]) -> None:
        self.profile = RasterProfile(
            bands=tuple(bands), dtype="uint8", nodata=IGNORE, predictor="YES", overviews="AVERAGE", scale=STEP
        )
        self.title, self.tags = title, tags
        self._of_bands = [RunningStatistics() for _ in bands]
        self._of_highest = RunningStatistics()

    def add(self, values: np.ndarray) -> None:
        shares = self._shares(values)
        for statistics, band in zip(self._of_bands, shares, strict=True):
            statistics.add(band)
        self._of_highest.add(shares.max(0))

    @property
    def summary(self) -> Shares:
        means = [statistics.summary("").mean for statistics in self._of_bands]
        return Shares(dict(zip(self.profile.bands, means, strict=True)))

    def write_pam(self, path: Path) -> None:
        """Write nothing: the map itself holds the names and the scale of its bands."""

    def write_qml(self, path: Path) -> None:
        style.write_ramp_qml(path, SPAN)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        """Draw the one band, or the highest value over all bands."""
        statistics = self._of_highest.summary("")
        return picture.number_figure(
            self._shares(values).max(0), geobox, SPAN, statistics, title=title, attribution=attribution
        )

    def _shares(self, values: np.ndarray) -> np.ndarray:
        return np.where(values == IGNORE, np.float32(np.nan), values * np.float32(STEP))


def probability_product(classes: Sequence[ClassEntry]) -> ShareProduct:
    """The product with a band of probability for each class, in their order."""
    names = [entry.name for entry in classes]
    return ShareProduct(names, f"probabilities of {len(classes)} classes", style.class_tags(classes))


def uncertainty_product(kind: Uncertainty) -> ShareProduct:
    """The product with one band of uncertainty."""
    return ShareProduct(["uncertainty"], f"uncertainty ({kind})", {"UNCERTAINTY": f"{kind}: {MEANINGS[kind]}"})


def probabilities(answers: Tensor) -> np.ndarray:
    """Class probabilities from their logarithms (classes, h, w): float32 (classes, h, w)."""
    shares: np.ndarray = answers.softmax(0).cpu().numpy()
    return shares


def uncertainty(answers: Tensor, kind: Uncertainty) -> np.ndarray:
    """Uncertainty from the logarithms of class probabilities (classes, h, w): float32 (1, h, w) from 0, certain, to 1."""
    shares = answers.softmax(0)
    if kind == "margin":
        first, second = shares.topk(2, 0).values
        unsure = 1 - (first - second)
    else:
        unsure = -shares.xlogy(shares).sum(0) / np.log(len(answers))
    values: np.ndarray = unsure.clamp(0, 1)[None].cpu().numpy()
    return values
