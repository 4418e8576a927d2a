"""Image codecs that a region file is compared with: digital numbers in, bytes out, reflectance back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from lianet_user.errors import OutputError
from lianet_user.grid import Window
from lianet_user.imagery.cube import Imagery
from lianet_user.imagery.refine import fill
from lianet_user.training.quality import measured_pixels

STEPS_PER_REFLECTANCE = 10_000.0
"""Digital numbers per reflectance 1.0 of bands that do not come in whole numbers."""

SEARCH_STEPS = 16

Encode = Callable[[NDArray[np.uint16]], bytes]
"""Compress an image (bands, h, w)."""


@dataclass(frozen=True)
class Numbers:
    """One acquisition as a codec gets it: an image for each resolution.

    Attributes:
        bands: of each image, which of the imagery's bands it holds.
        images: uint16 (bands, h, w), digital numbers with offset 0.
    """

    bands: tuple[tuple[int, ...], ...]
    images: tuple[NDArray[np.uint16], ...]

    @classmethod
    def of(cls, imagery: Imagery, index: int) -> Numbers:
        """Read an acquisition whole. A band that it lacks costs nothing; what is not valid takes its neighbour's value,
        which costs little.

        Raises:
            ImageryError: a file cannot be read.
        """
        patch, scales = imagery.read(index, imagery.window), _scales(imagery)
        groups: dict[int, dict[int, NDArray[np.uint16]]] = {}
        for band, (values, valid) in enumerate(measured_pixels(patch, imagery.factors)):
            if valid.any():
                numbers = np.clip(fill(values.astype(np.float32), valid), 0.0, 1.0).astype(np.float64) * scales[band]
                groups.setdefault(imagery.factors[band], {})[band] = numbers.round().astype(np.uint16)
        return cls(
            tuple(map(tuple, groups.values())), tuple(np.stack(list(group.values())) for group in groups.values())
        )


class Archive:
    """All acquisitions of imagery, compressed: one file for each and each resolution.

    Args:
        imagery: it is made from.
        numbers: of each acquisition.
        encode: the codec.
        step: digital numbers are rounded to multiples of this first.

    Attributes:
        bytes: of all files.
    """

    def __init__(self, imagery: Imagery, numbers: Sequence[Numbers], encode: Encode, step: float = 1.0) -> None:
        self._imagery, self._step = imagery, step
        self._bands = [one.bands for one in numbers]
        self._files = [[encode((image / step).round().astype(np.uint16)) for image in one.images] for one in numbers]
        self.bytes = sum(len(file) for files in self._files for file in files)
        self._decoded: tuple[int, dict[int, NDArray[np.float32]]] | None = None

    def recall(self, index: int, window: Window) -> NDArray[np.float32]:
        """The reflectance (bands, h, w) of a window: coarser bands repeated, 0 in a band that the acquisition lacks."""
        if self._decoded is None or self._decoded[0] != index:  # windows come date by date
            self._decoded = (index, self._decode(index))
        result = np.zeros((len(self._imagery.bands), window.height, window.width), np.float32)
        for band, values in self._decoded[1].items():
            factor = self._imagery.factors[band]
            rows = np.minimum(np.arange(window.row, window.row_end) // factor, values.shape[0] - 1)
            cols = np.minimum(np.arange(window.col, window.col_end) // factor, values.shape[1] - 1)
            result[band] = values[np.ix_(rows, cols)]
        return result

    def _decode(self, index: int) -> dict[int, NDArray[np.float32]]:
        scales, decoded = _scales(self._imagery), {}
        for bands, file in zip(self._bands[index], self._files[index], strict=True):
            for band, numbers in zip(bands, _read(file), strict=True):
                reflectance = numbers.astype(np.float64) * (self._step / scales[band])
                decoded[band] = np.minimum(reflectance, 1.0).astype(np.float32)
        return decoded


def jpeg2000(quality: float | None) -> Encode:
    """JPEG 2000 in so many percent of the uncompressed size, or without loss (None)."""
    wavelet: dict[str, Any] = {"QUALITY": quality or 100, "REVERSIBLE": "YES" if quality is None else "NO"}
    return partial(_write, driver="JP2OpenJPEG", YCBCR420="NO", GMLJP2="NO", GEOJP2="NO", **wavelet)


def zstd(image: NDArray[np.uint16]) -> bytes:
    """A GeoTIFF of horizontal differences, compressed band by band with ZSTD."""
    strip = image.shape[1]
    return _write(
        image, driver="GTiff", compress="zstd", predictor=2, zstd_level=15, interleave="band", blockysize=strip
    )


def search(
    make: Callable[[float], Archive], low: float, high: float, excess: Callable[[Archive], float], tolerance: float
) -> tuple[float, Archive]:
    """Bisect for the strength at which `excess` is 0; the closest one tried where the tolerance cannot be met.

    Args:
        make: an archive of some strength.
        low: a positive strength with too little, whose excess is negative.
        high: one with too much; it may be the smaller number.
        excess: rises from `low` to `high`.
        tolerance: of the excess.
    """
    nearest, closest = math.inf, None
    for _ in range(SEARCH_STEPS):
        strength = math.sqrt(low * high)
        archive = make(strength)
        over = excess(archive)
        if closest is None or abs(over) < nearest:
            nearest, closest = abs(over), (strength, archive)
        if nearest <= tolerance:
            break
        low, high = (low, strength) if over > 0 else (strength, high)
    assert closest is not None
    return closest


def _write(image: NDArray[np.uint16], **options: Any) -> bytes:
    count, height, width = image.shape
    try:
        with warnings.catch_warnings(), MemoryFile() as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # where it lies is no part of the cost
            with memory.open(count=count, height=height, width=width, dtype="uint16", **options) as file:
                file.write(image)
            return bytes(memory.getbuffer())
    except RasterioError as error:
        raise OutputError(
            f"this build of GDAL cannot write {options['driver']} ({error}): leave the comparison out with --no-rate"
        ) from error


def _read(file: bytes) -> NDArray[np.uint16]:
    with warnings.catch_warnings(), MemoryFile(file) as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open() as opened:
            image: NDArray[np.uint16] = opened.read()
            return image


def _scales(imagery: Imagery) -> list[float]:
    """Digital numbers per reflectance 1.0 of each band, in 16 bits."""
    return [min(band.scale, 65_535.0) if band.scale >= 256 else STEPS_PER_REFLECTANCE for band in imagery.bands]
