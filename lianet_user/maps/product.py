"""Products: what a map can hold (classes, numbers, probabilities, reflectance, ...), how it is stored, styled and drawn.

The rest of the package uses the protocol :class:`Product` and never asks which kind it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.files.header import IGNORE, Band, ClassEntry, Numbers
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


# --- One number per pixel.


class _OneNumber:
    """float32; NaN is nodata. The colours span `numbers`."""

    numbers: Numbers

    def __init__(self, band: str, title: str, tags: Mapping[str, str], unit: str, ramp: Colormap) -> None:
        self.profile = RasterProfile(
            bands=(band,),
            dtype="float32",
            nodata=math.nan,
            predictor="YES",  # GDAL takes the one for floating point
            overviews="AVERAGE",
            unit=unit,
        )
        self.title, self.tags = title, dict(tags) | ({"UNIT": unit} if unit else {})
        self.ramp = ramp
        self._statistics = RunningStatistics()

    def add(self, values: np.ndarray) -> None:
        self._statistics.add(values)

    @property
    def summary(self) -> NumberStatistics:
        return self._statistics.summary(self.profile.unit)

    def write_pam(self, path: Path) -> None:
        style.write_statistics_pam(path, self.summary)

    def write_qml(self, path: Path) -> None:
        style.write_ramp_qml(path, self.numbers, self.ramp)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        return picture.number_figure(
            values[0], geobox, self.numbers, self.summary, title=title, attribution=attribution, ramp=self.ramp
        )


class NumberProduct(_OneNumber):
    """A map of numbers in the unit of the labels; the colours span the labels that were trained on."""

    def __init__(self, numbers: Numbers, task: str) -> None:
        band, title = ("coverage", "map of coverage") if task == "coverage" else ("value", "map of numbers")
        if task != "coverage" and numbers.unit:
            title += f" in {numbers.unit}"
        super().__init__(band, title, {}, numbers.unit, style.RAMP)
        self.numbers = numbers


class MeasureProduct(_OneNumber):
    """A number that is derived from the field; the colours span the values that occur.

    Args:
        band: name of the band.
        title: what the map shows.
        tags: what its values mean.
        span: the lowest and the highest number of the colours, from the statistics of the map.
        unit: of the numbers.
        ramp: the colours, from the lowest to the highest.
    """

    def __init__(
        self,
        band: str,
        title: str,
        tags: Mapping[str, str],
        span: Callable[[NumberStatistics], tuple[float, float]],
        unit: str = "",
        ramp: Colormap = style.RAMP,
    ) -> None:
        super().__init__(band, title, tags, unit, ramp)
        self.span = span

    @property
    def numbers(self) -> Numbers:  # type: ignore[override]  # known when all tiles are
        low, high = self.span(self.summary)
        return Numbers(unit=self.profile.unit, low=low, high=high if high > low else low + 1e-6)


def around_mean(statistics: NumberStatistics) -> tuple[float, float]:
    """The span of two standard deviations to either side of the mean, within the range: without outliers."""
    reach = 2 * statistics.deviation
    return max(statistics.minimum, statistics.mean - reach), min(statistics.maximum, statistics.mean + reach)


# --- Several bands of numbers, each summarised by itself.


class _Bands:
    """What products of several bands have in common. Their files hold the bands' names and scale, and need no sidecar file."""

    def __init__(self, profile: RasterProfile, title: str, tags: dict[str, str]) -> None:
        self.profile, self.title, self.tags = profile, title, tags
        self._of_bands = [RunningStatistics() for _ in profile.bands]

    def add(self, values: np.ndarray) -> None:
        for statistics, band in zip(self._of_bands, self.profile.numbers(values), strict=True):
            statistics.add(band)

    @property
    def summary(self) -> Shares:
        means = [statistics.summary("").mean for statistics in self._of_bands]
        return Shares(dict(zip(self.profile.bands, means, strict=True)))

    def write_pam(self, path: Path) -> None:
        """Write nothing."""


# --- Probabilities and uncertainty, stored in one byte in steps of 0.005 with a scale tag: GDAL and QGIS show 0 to 1.


Uncertainty = Literal["entropy", "margin"]
UNCERTAINTIES: tuple[Uncertainty, ...] = ("entropy", "margin")

SHARE_STEP = 0.005
"""The value of a stored 1: 200 is 1.0, and 255 is nodata."""
SPAN = Numbers(low=0.0, high=1.0)

MEANINGS = {
    "entropy": "entropy of the class probabilities over that of even ones: 0 certain, 1 no idea",
    "margin": "1 - (probability of the first class - that of the second): 0 certain, 1 undecided between two",
}


class ShareProduct(_Bands):
    """A map of numbers from 0 to 1, in one band or several."""

    def __init__(self, bands: Sequence[str], title: str, tags: dict[str, str]) -> None:
        profile = RasterProfile(
            bands=tuple(bands), dtype="uint8", nodata=IGNORE, predictor="YES", overviews="AVERAGE", scale=SHARE_STEP
        )
        super().__init__(profile, title, tags)
        self._of_highest = RunningStatistics()

    def add(self, values: np.ndarray) -> None:
        super().add(values)
        self._of_highest.add(self.profile.numbers(values).max(0))

    def write_qml(self, path: Path) -> None:
        style.write_ramp_qml(path, SPAN)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        """Draw the one band, or the highest value over all bands."""
        highest, statistics = self.profile.numbers(values).max(0), self._of_highest.summary("")
        return picture.number_figure(highest, geobox, SPAN, statistics, title=title, attribution=attribution)


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


# --- Reconstructed imagery.


STEP = 1e-4
"""Reflectance of a stored 1: Sentinel-2's own step, and half the error of our best field."""
NO_REFLECTANCE = 65535
"""Nodata value. It is not 0, which is the reflectance of deep water and shadow."""


@dataclass(frozen=True)
class Stretch:
    """The reflectance shown as black and as full intensity, for red, green and blue."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def light(self, reflectance: np.ndarray) -> np.ndarray:
        """Scale reflectance (3, height, width) to float32 (3, height, width) from 1 to 255; NaN stays NaN."""
        low, high = (np.array(each, np.float32)[:, None, None] for each in (self.low, self.high))
        share: np.ndarray = np.clip((reflectance - low) / (high - low), 0, 1)
        return 1 + 254 * share

    @property
    def notes(self) -> list[tuple[str, str]]:
        """The span of each colour, for the key of a picture."""
        spans = zip(("red", "green", "blue"), self.low, self.high, strict=True)
        return [(color, f"{low:.3f} to {high:.3f}") for color, low, high in spans]

    @property
    def words(self) -> str:
        """The spans in one line."""
        return ", ".join(f"{color} {span}" for color, span in self.notes)


def stretch_of(reflectance: np.ndarray) -> Stretch:
    """The stretch from the 2nd to the 98th percentile of each of three bands, to a thousandth: (3, ...), NaN is ignored."""
    known = [each[~np.isnan(each)] for each in reflectance]
    ends = [np.percentile(each, (2, 98)) if each.size else (0.0, 1.0) for each in known]
    low = [math.floor(least * 1000) / 1000 for least, _ in ends]
    high = [max(math.ceil(most * 1000) / 1000, least + 0.001) for (_, most), least in zip(ends, low, strict=True)]
    return Stretch(tuple(low), tuple(high))  # type: ignore[arg-type]  # three of each


class ReflectanceProduct(_Bands):
    """Bands of reflectance: uint16 in steps of 0.0001, as users of Sentinel-2 expect; or float32 as they are.

    Two bytes are enough: the step is half the error of the best field. Negative reconstructed values are stored as 0.
    """

    def __init__(self, bands: Sequence[Band], float32: bool) -> None:
        profile = RasterProfile(
            bands=tuple(band.name for band in bands),
            dtype="float32" if float32 else "uint16",
            nodata=math.nan if float32 else NO_REFLECTANCE,
            predictor="YES",
            overviews="AVERAGE",
            scale=1.0 if float32 else STEP,
            band_tags=tuple(_band_tags(band) for band in bands),
        )
        tags = {
            "QUANTITY": "reflectance" if float32 else f"reflectance = value * {STEP:g}; below 0 stored as 0",
            "BANDS": ", ".join(profile.bands),
        }
        super().__init__(profile, f"reflectance in {len(bands)} band{'s' * (len(bands) > 1)}", tags)
        self._shown = picture.true_color_bands(bands)

    def write_qml(self, path: Path) -> None:
        shown = [self._of_bands[band].summary("") for band in self._shown]
        spread = [(max(each.minimum, each.mean - 2 * each.deviation), each) for each in shown]
        high = [max(low + STEP, min(each.maximum, each.mean + 2 * each.deviation)) for low, each in spread]
        style.write_rgb_qml(path, self._shown, [low for low, _ in spread], high)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        shown = self.profile.numbers(values)[list(self._shown)]
        stretch = stretch_of(shown)
        names = [self.profile.bands[band] for band in self._shown]
        notes = [(name, span) for name, (_, span) in zip(names, stretch.notes, strict=True)]
        notes = [("shown", "reflectance"), *notes[: len(set(names))]]
        image = picture.light_image(stretch.light(shown))
        return picture.image_figure(image, geobox, notes, title=title, attribution=attribution)


class TrueColorProduct(_Bands):
    """A true-colour image: uint8 red, green and blue from 1 to 255; 0 is nodata."""

    def __init__(self, names: Sequence[str], stretch: Stretch) -> None:
        profile = RasterProfile(
            bands=("red", "green", "blue"), dtype="uint8", nodata=0, predictor="YES", overviews="AVERAGE", light=True
        )
        tags = {
            "QUANTITY": "light: 1 + 254 * (reflectance - low) / (high - low), cut off at both ends",
            "BANDS": ", ".join(names),
            "STRETCH": f"reflectance {stretch.words}",
        }
        super().__init__(profile, f"true colour of {', '.join(dict.fromkeys(names))}", tags)
        self.stretch = stretch

    def write_qml(self, path: Path) -> None:
        style.write_rgb_qml(path, (0, 1, 2), (1.0,) * 3, (255.0,) * 3)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        image = picture.light_image(self.profile.numbers(values))
        notes = [("light", "reflectance"), *self.stretch.notes]
        return picture.image_figure(image, geobox, notes, title=title, attribution=attribution)


def _band_tags(band: Band) -> dict[str, str]:
    tags = {"GSD_M": f"{band.gsd_m:g}"}
    return tags if band.wavelength_nm is None else {"WAVELENGTH_NM": f"{band.wavelength_nm:g}"} | tags
