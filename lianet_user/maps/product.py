"""What a map holds, classes or numbers, and all that follows: how it is stored, counted, styled and drawn.

The rest of the package asks a :class:`Product` and never which kind it is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from lianet_user.header import IGNORE, ClassEntry, HeadHeader, Numbers
from lianet_user.maps import picture, style
from lianet_user.maps.geotiff import Layer
from lianet_user.maps.summary import ClassCounts, NumberStatistics, Summary


class Product(Protocol):
    """A map in the making: what its one band holds, told tile by tile, and then what is written beside it."""

    @property
    def layer(self) -> Layer:
        """How it is stored."""

    @property
    def tags(self) -> dict[str, str]:
        """What its values mean, as TIFF tags."""

    @property
    def title(self) -> str:
        """What it shows, as in "map of 6 classes"."""

    def add(self, values: np.ndarray) -> None:
        """Count in a tile: (height, width) of the layer's type."""

    @property
    def summary(self) -> Summary:
        """Of the tiles so far, one at least."""

    def write_pam(self, path: Path) -> None:
        """Write what GDAL reads beside the map."""

    def write_qml(self, path: Path) -> None:
        """Write what QGIS reads beside the map."""

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        """The map at a glance; arguments as in :func:`lianet_user.maps.picture.class_figure`."""


def product_of(header: HeadHeader) -> Product:
    """The product of a head's task, before the first tile."""
    return ClassProduct(header.classes) if header.numbers is None else NumberProduct(header.numbers, header.task)


class ClassProduct:
    """A map of classes: uint8, each pixel the index of its class; without a class, 255."""

    def __init__(self, classes: tuple[ClassEntry, ...]) -> None:
        self.classes = classes
        self.layer = Layer(
            name="class",
            dtype="uint8",
            nodata=IGNORE,
            # Neighbouring class numbers do not differ gradually, and differences of them deflate worse.
            predictor="NO",
            # The most frequent class: between two of them there is none.
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
        return picture.class_figure(values, geobox, self.classes, pixels, title=title, attribution=attribution)


class NumberProduct:
    """A map of numbers: float32, in the unit of the labels; without a number, NaN."""

    def __init__(self, numbers: Numbers, task: str) -> None:
        self.numbers = numbers
        self.layer = Layer(
            name="coverage" if task == "coverage" else "value",
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
        self._pixels, self._mean, self._squares = 0, 0.0, 0.0  # squares: of the differences from the mean, summed
        self._minimum, self._maximum = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        # Tiles are merged by their means (Chan et al. 1979): sums of squares would cancel where numbers are large.
        exact = values.astype(np.float64)
        mean = float(exact.mean())
        difference, before = mean - self._mean, self._pixels
        self._pixels += values.size
        self._mean += difference * values.size / self._pixels
        self._squares += float(((exact - mean) ** 2).sum()) + difference**2 * before * values.size / self._pixels
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))

    @property
    def summary(self) -> NumberStatistics:
        return NumberStatistics(
            unit=self.numbers.unit,
            pixels=self._pixels,
            minimum=self._minimum,
            mean=self._mean,
            maximum=self._maximum,
            deviation=math.sqrt(self._squares / self._pixels),
        )

    def write_pam(self, path: Path) -> None:
        style.write_statistics_pam(path, self.summary)

    def write_qml(self, path: Path) -> None:
        style.write_ramp_qml(path, self.numbers)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        return picture.number_figure(values, geobox, self.numbers, self.summary, title=title, attribution=attribution)
