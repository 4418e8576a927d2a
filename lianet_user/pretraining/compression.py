"""A region file as a compressed image: its size and fidelity beside those of codecs made for images.

A codec stores digital numbers, each band at the resolution it was measured at. What it gives back is judged in the same way
as a region's reconstruction (:func:`lianet_user.pretraining.quality.compare`). The codecs make no use of what bands and dates
have in common, and a region file serves for more than reconstruction: the figures are a scale, not a contest.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from lianet_user.errors import ArtifactError, OutputError
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import TABLES, load_stored, save_region
from lianet_user.files.artifact import ArtifactFile, open_region_file
from lianet_user.files.header import Quality, RegionHeader
from lianet_user.geo.grid import Window
from lianet_user.imagery.grids import fill
from lianet_user.imagery.imagery import Imagery
from lianet_user.pretraining.quality import (
    MOST_PIXELS,
    TILE,
    ReadCopy,
    compare,
    measured_pixels,
    reconstructed,
    require_match,
)
from lianet_user.region import Region, psnr

# --- The codecs: digital numbers in, bytes out, reflectance back.

STEPS_PER_REFLECTANCE = 10_000.0
"""Digital numbers per reflectance 1.0 of bands that do not come in whole numbers."""

SEARCH_STEPS = 16

Encode = Callable[[NDArray[np.uint16]], bytes]
"""Compress an image (bands, h, w)."""


@dataclass(frozen=True)
class DigitalNumbers:
    """One acquisition as a codec gets it: an image for each resolution.

    Attributes:
        bands: of each image, which of the imagery's bands it holds.
        images: uint16 (bands, h, w), digital numbers with offset 0.
    """

    bands: tuple[tuple[int, ...], ...]
    images: tuple[NDArray[np.uint16], ...]

    @classmethod
    def of(cls, imagery: Imagery, index: int) -> DigitalNumbers:
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
        imagery: that the archive is made from.
        numbers: the digital numbers of each acquisition.
        encode: the codec.
        step: digital numbers are rounded to multiples of this first.

    Attributes:
        bytes: the size of all files.
    """

    def __init__(self, imagery: Imagery, numbers: Sequence[DigitalNumbers], encode: Encode, step: float = 1.0) -> None:
        self._imagery, self._step = imagery, step
        self._bands = [one.bands for one in numbers]
        self._files = [[encode((image / step).round().astype(np.uint16)) for image in one.images] for one in numbers]
        self.bytes = sum(len(file) for files in self._files for file in files)
        self._decoded: tuple[int, dict[int, NDArray[np.float32]]] | None = None

    def read(self, index: int, window: Window) -> NDArray[np.float32]:
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
    """A codec that writes JPEG 2000 of a given size, in percent of the uncompressed one, or without loss (None)."""
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
        make: compresses at a given strength.
        low: a positive strength, whose excess is negative.
        high: a positive strength, whose excess is positive; it may be the smaller number.
        excess: rises from `low` to `high`.
        tolerance: how far from 0 the excess may be.
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
            f"this build of GDAL cannot write {options['driver']} ({error}): install one that can, or omit the comparison"
            " (lianet-user quality --no-rate)"
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


# --- The comparison: one row for the region file, and some for each codec.

SIZE_TOLERANCE = 0.03
"""Fraction by which a codec's size may differ from the region file's."""
PSNR_TOLERANCE_DB = 0.1

Listener = Callable[[str], None]
"""Called with the name of what is being measured."""


@dataclass(frozen=True)
class CodecRow:
    """What one way to store the imagery costs, and what it gives back.

    Attributes:
        codec: how the imagery is stored, in words.
        bytes: the size of the region file, or of all files that a codec made of the acquisitions that were judged.
        bits: per pixel, date and band, each band at its own resolution.
        psnr_db: from the mean over the dates of their mean squared errors.
        ssim: mean over dates and bands.
        spectral_angle_deg: mean over the dates.
        quality: of each date.
    """

    codec: str
    bytes: int
    bits: float
    psnr_db: float | None
    ssim: float | None
    spectral_angle_deg: float | None
    quality: tuple[Quality, ...]


def codec_table(
    region_path: str | os.PathLike[str],
    imagery: Imagery,
    *,
    tile: int = TILE,
    most_pixels: int = MOST_PIXELS,
    device: str = "cpu",
    listener: Listener | None = None,
) -> tuple[CodecRow, ...]:
    """Compare a region file with other ways to store the imagery it was encoded from.

    Rows: the region file as it is, and with fewer bits a weight; JPEG 2000 without loss, as large as the region file, and
    as close to the imagery; GeoTIFF with ZSTD without loss, and rounded to steps that make it as large as the region file.
    A codec that needs fewer bits than the region file without any loss has no row with as many.

    Args:
        region_path: of the region file.
        imagery: some or all of the region's dates. Of more than `most_pixels` (acquisitions x height x width), dates
            spread evenly are taken, at least one. Sizes are matched by bits per pixel, date and band. One acquisition is
            held in memory whole, and the digital numbers and compressed files of all.
        tile: as in `compare`.
        most_pixels: see above.
        device: to compute the region's answers on.
        listener: is told of every row.

    Raises:
        ArtifactError: the region file cannot be read.
        ImageryError: imagery of another grid, other bands or dates, or a file that cannot be read.
        OutputError: this build of GDAL lacks a codec.
    """
    file = open_region_file(region_path)
    region = Region.open(region_path, device)
    require_match(region, imagery, range(len(imagery.acquisitions)))
    if len(imagery.acquisitions) * imagery.window.pixels > most_pixels:
        count = max(1, most_pixels // imagery.window.pixels)
        imagery = imagery.only(np.linspace(0, len(imagery.acquisitions) - 1, count).round().astype(int).tolist())
    judge = _Judge(imagery, len(region.header.acquisitions), tile, listener or (lambda codec: None))
    given = judge.region(f"region file, {_precision(file)}", region)
    return given, *judge.lighter(file, device), *judge.jpeg2000(given), *judge.zstd(given)


class _Judge:
    """Measures the region file and the archives of each codec.

    Args:
        imagery: the truth.
        encoded: number of acquisitions in the region file, which share its size.
        tile: as in `compare`.
        listener: is told of every row.
    """

    def __init__(self, imagery: Imagery, encoded: int, tile: int, listener: Listener) -> None:
        self.imagery, self.encoded, self.tile, self.listener = imagery, encoded, tile, listener
        self.count = len(imagery.acquisitions)
        height, width = imagery.shape
        self.samples = sum((height // factor) * (width // factor) for factor in imagery.factors)
        self.numbers = [DigitalNumbers.of(imagery, index) for index in range(self.count)]

    def region(self, name: str, region: Region) -> CodecRow:
        """The row of a region file."""
        assert region.path is not None
        return self._rate(name, region.path.stat().st_size, self.encoded, reconstructed(region, self.imagery))

    def lighter(self, file: ArtifactFile[RegionHeader], device: str) -> Iterator[CodecRow]:
        """The region file in half precision, and with tables of one byte a number, as far as it has more and its weights are
        small enough."""
        stored = file.dtypes[TABLES]
        field = NeuralField(file.header.field)  # not an opened region's, whose norms are folded
        load_stored(field, file)
        with tempfile.TemporaryDirectory() as folder, suppress(ArtifactError):
            path = Path(folder) / "region.safetensors"
            if stored == np.float32:
                save_region(path, file.header, field)
                yield self.region("region file, float16", Region.open(path, device))
            if stored != np.int8:
                save_region(path, file.header, field, tables="int8")
                yield self.region("region file, tables in int8", Region.open(path, device))

    def jpeg2000(self, target: CodecRow) -> Iterator[CodecRow]:
        """JPEG 2000 without loss, as large as the target, and as close to the imagery."""

        def make(quality: float | None) -> Archive:
            return Archive(self.imagery, self.numbers, jpeg2000(quality))

        def closer(archive: Archive) -> float:
            return (self._archive(name, archive).psnr_db or 0.0) - (target.psnr_db or 0.0)

        whole = make(None)
        yield self._archive("JPEG 2000, lossless", whole)
        if self._larger(whole, target) > 0:
            _, archive = search(make, 0.02, 100.0, lambda one: self._larger(one, target), SIZE_TOLERANCE)
            yield self._archive("JPEG 2000, same size", archive)
        if target.psnr_db is not None:
            name = "JPEG 2000, same PSNR"
            _, archive = search(make, 0.02, 100.0, closer, PSNR_TOLERANCE_DB)
            yield self._archive(name, archive)

    def zstd(self, target: CodecRow) -> Iterator[CodecRow]:
        """GeoTIFF with ZSTD without loss, and rounded until it is as large as the target."""

        def make(step: float) -> Archive:
            return Archive(self.imagery, self.numbers, zstd, step)

        whole = make(1.0)
        yield self._archive("GeoTIFF ZSTD, lossless", whole)
        if self._larger(whole, target) > 0:
            step, archive = search(make, 10_000.0, 1.0, lambda one: self._larger(one, target), SIZE_TOLERANCE)
            yield self._archive(f"GeoTIFF ZSTD, steps of {step:.3g}, same size", archive)

    def _larger(self, archive: Archive, target: CodecRow) -> float:
        """By what fraction an archive exceeds the target's bits."""
        return 8 * archive.bytes / (self.samples * self.count) / target.bits - 1

    def _archive(self, name: str, archive: Archive) -> CodecRow:
        return self._rate(name, archive.bytes, self.count, archive.read)

    def _rate(self, name: str, size: int, acquisitions: int, read_copy: ReadCopy) -> CodecRow:
        self.listener(name)
        limit = self.count * self.imagery.window.pixels  # what is to be judged was chosen before
        quality = compare(self.imagery, read_copy, acquisitions=range(self.count), tile=self.tile, most_pixels=limit)
        errors = [10 ** (-one.psnr_db / 10) for one in quality if one.psnr_db is not None]
        return CodecRow(
            codec=name,
            bytes=size,
            bits=8 * size / (self.samples * acquisitions),
            psnr_db=psnr(float(np.mean(errors))) if errors else None,
            ssim=_mean(band.ssim for one in quality for band in one.bands),
            spectral_angle_deg=_mean(one.spectral_angle_deg for one in quality),
            quality=quality,
        )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _precision(file: ArtifactFile[RegionHeader]) -> str:
    tables = file.dtypes[TABLES]
    return "tables in int8" if tables == np.int8 else str(tables)
