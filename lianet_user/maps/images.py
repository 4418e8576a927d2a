"""Products of reconstructed imagery: reflectance, true-colour images, and numbers derived from reflectance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.files.header import Band, Numbers
from lianet_user.maps import picture, style
from lianet_user.maps.geotiff import RasterProfile
from lianet_user.maps.summary import NumberStatistics, RunningStatistics, Shares

# --- True colour: which bands are red, green and blue, and how they are stretched.


TRUE_COLOR = ((665.0, ("B04", "B4", "red")), (560.0, ("B03", "B3", "green")), (490.0, ("B02", "B2", "blue")))
"""Red, green and blue: wavelength in nanometres, and the usual names of such a band."""

NEAR_NM = 60.0
"""A band farther than this from a colour's wavelength does not show that colour."""


def true_color_bands(bands: Sequence[Band]) -> tuple[int, int, int]:
    """Indices of the bands to show as red, green and blue: by wavelength, else by name, else the first band as grey."""
    chosen = [_band_of(bands, wavelength, names) for wavelength, names in TRUE_COLOR]
    known = [index for index in chosen if index is not None]
    return (known[0], known[1], known[2]) if len(known) == 3 else (0, 0, 0)


def _band_of(bands: Sequence[Band], wavelength: float, names: Sequence[str]) -> int | None:
    known = {index: abs(band.wavelength_nm - wavelength) for index, band in enumerate(bands) if band.wavelength_nm}
    nearest = min(known, key=lambda index: known[index], default=None)
    if nearest is not None and known[nearest] <= NEAR_NM:
        return nearest
    return next((index for index, band in enumerate(bands) if band.name in names), None)


def stretched(bands: np.ndarray) -> NDArray[np.uint8]:
    """Stretch bands (height, width, 3), in any unit, from their 2nd to their 98th percentile: uint8."""
    low, high = np.percentile(bands, (2, 98), axis=(0, 1))
    scaled = (bands - low) / np.maximum(high - low, 1e-6)
    colors: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return colors


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


class ReflectanceProduct:
    """Bands of reflectance: uint16 in steps of 0.0001, as users of Sentinel-2 expect; or float32 as they are.

    Two bytes are enough: the step is half the error of the best field. Negative reconstructed values are stored as 0.
    """

    def __init__(self, bands: Sequence[Band], float32: bool) -> None:
        self.profile = RasterProfile(
            bands=tuple(band.name for band in bands),
            dtype="float32" if float32 else "uint16",
            nodata=math.nan if float32 else NO_REFLECTANCE,
            predictor="YES",
            overviews="AVERAGE",
            scale=1.0 if float32 else STEP,
            band_tags=tuple(_band_tags(band) for band in bands),
        )
        self.tags = {
            "QUANTITY": "reflectance" if float32 else f"reflectance = value * {STEP:g}; below 0 stored as 0",
            "BANDS": ", ".join(self.profile.bands),
        }
        self.title = f"reflectance in {len(bands)} band{'s' * (len(bands) > 1)}"
        self._shown = true_color_bands(bands)
        self._of_bands = [RunningStatistics() for _ in bands]

    def add(self, values: np.ndarray) -> None:
        for statistics, band in zip(self._of_bands, self._reflectance(values), strict=True):
            statistics.add(band)

    @property
    def summary(self) -> Shares:
        return Shares(dict(zip(self.profile.bands, (each.mean for each in self._statistics), strict=True)))

    def write_pam(self, path: Path) -> None:
        """Write nothing: the map itself holds the names and the scale of its bands."""

    def write_qml(self, path: Path) -> None:
        shown = [self._statistics[band] for band in self._shown]
        spread = [(max(each.minimum, each.mean - 2 * each.deviation), each) for each in shown]
        high = [max(low + STEP, min(each.maximum, each.mean + 2 * each.deviation)) for low, each in spread]
        style.write_rgb_qml(path, self._shown, [low for low, _ in spread], high)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        shown = self._reflectance(values)[list(self._shown)]
        stretch = stretch_of(shown)
        names = [self.profile.bands[band] for band in self._shown]
        notes = [(name, span) for name, (_, span) in zip(names, stretch.notes, strict=True)]
        notes = notes[: len(set(names))]
        return picture.image_figure(
            _image(stretch.light(shown)),
            geobox,
            [("shown", "reflectance"), *notes],
            title=title,
            attribution=attribution,
        )

    @property
    def _statistics(self) -> list[NumberStatistics]:
        return [each.summary("") for each in self._of_bands]

    def _reflectance(self, values: np.ndarray) -> np.ndarray:
        if self.profile.scale == 1:
            return values
        return np.where(values == NO_REFLECTANCE, np.float32(np.nan), values * np.float32(STEP))


class TrueColorProduct:
    """A true-colour image: uint8 red, green and blue from 1 to 255; 0 is nodata."""

    def __init__(self, names: Sequence[str], stretch: Stretch) -> None:
        self.stretch = stretch
        self.profile = RasterProfile(
            bands=("red", "green", "blue"), dtype="uint8", nodata=0, predictor="YES", overviews="AVERAGE", light=True
        )
        self.title = f"true colour of {', '.join(dict.fromkeys(names))}"
        self.tags = {
            "QUANTITY": "light: 1 + 254 * (reflectance - low) / (high - low), cut off at both ends",
            "BANDS": ", ".join(names),
            "STRETCH": f"reflectance {stretch.words}",
        }
        self._of_bands = [RunningStatistics() for _ in names]

    def add(self, values: np.ndarray) -> None:
        for statistics, band in zip(self._of_bands, values, strict=True):
            statistics.add(np.where(band == 0, np.float32(np.nan), band))

    @property
    def summary(self) -> Shares:
        return Shares(
            {name: each.summary("").mean for name, each in zip(self.profile.bands, self._of_bands, strict=True)}
        )

    def write_pam(self, path: Path) -> None:
        """Write nothing: the map itself says that its bands are red, green and blue."""

    def write_qml(self, path: Path) -> None:
        style.write_rgb_qml(path, (0, 1, 2), (1.0,) * 3, (255.0,) * 3)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        shown = np.where(values == 0, np.float32(np.nan), values)
        notes = [("light", "reflectance"), *self.stretch.notes]
        return picture.image_figure(_image(shown), geobox, notes, title=title, attribution=attribution)


class MeasureProduct:
    """One number per pixel, derived from the field: float32, NaN is nodata; the colours span the values that occur.

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
        self.profile = RasterProfile(
            bands=(band,), dtype="float32", nodata=math.nan, predictor="YES", overviews="AVERAGE", unit=unit
        )
        self.title, self.tags = title, dict(tags) | ({"UNIT": unit} if unit else {})
        self.span, self.unit, self.ramp = span, unit, ramp
        self._statistics = RunningStatistics()

    def add(self, values: np.ndarray) -> None:
        self._statistics.add(values)

    @property
    def summary(self) -> NumberStatistics:
        return self._statistics.summary(self.unit)

    @property
    def numbers(self) -> Numbers:
        """The unit, and the span of the colours."""
        low, high = self.span(self.summary)
        return Numbers(unit=self.unit, low=low, high=high if high > low else low + 1e-6)

    def write_pam(self, path: Path) -> None:
        style.write_statistics_pam(path, self.summary)

    def write_qml(self, path: Path) -> None:
        style.write_ramp_qml(path, self.numbers, self.ramp)

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        return picture.number_figure(
            values[0], geobox, self.numbers, self.summary, title=title, attribution=attribution, ramp=self.ramp
        )


def around_mean(statistics: NumberStatistics) -> tuple[float, float]:
    """The span of two standard deviations to either side of the mean, within the range: without outliers."""
    reach = 2 * statistics.deviation
    return max(statistics.minimum, statistics.mean - reach), min(statistics.maximum, statistics.mean + reach)


def _band_tags(band: Band) -> dict[str, str]:
    tags = {"GSD_M": f"{band.gsd_m:g}"}
    return tags if band.wavelength_nm is None else {"WAVELENGTH_NM": f"{band.wavelength_nm:g}"} | tags


def _image(light: np.ndarray) -> np.ndarray:
    """An image uint8 (height, width, 3) from intensities (3, height, width) from 0 to 255; NaN is light grey."""
    nothing = np.isnan(light).any(0)
    image = np.nan_to_num(light).astype(np.uint8).transpose(1, 2, 0)
    return np.where(nothing[..., None], np.array(style.rgb(picture.UNCLASSED), np.uint8), image)
