"""`reconstruct`: imagery as GeoTIFFs, reconstructed by a region's field at encoded dates and at dates between them."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lianet_user.errors import InputError, OutputError, did_you_mean, listed
from lianet_user.files.artifact import refuse_existing
from lianet_user.files.header import Band
from lianet_user.geo.grid import TILE, Window, whole
from lianet_user.maps.area import MapArea
from lianet_user.maps.dates import Moment, chosen_moments
from lianet_user.maps.engine import (
    ArraySpec,
    Listener,
    MapGrid,
    MapJob,
    MapRequest,
    Pass,
    TileComputer,
    only_picture,
    write_maps,
)
from lianet_user.maps.geotiff import MAP_SUFFIXES
from lianet_user.maps.picture import true_color_bands
from lianet_user.maps.predict import MapResult
from lianet_user.maps.product import (
    MeasureProduct,
    Product,
    ReflectanceProduct,
    Stretch,
    TrueColorProduct,
    around_mean,
    stretch_of,
)
from lianet_user.maps.spectral_indices import SpectralIndex, spectral_index
from lianet_user.maps.style import region_tags
from lianet_user.region import Region

SAMPLES, SAMPLE_SIDE, SAMPLE_DATES = 3, 48, 4
"""The sample that a stretch is chosen by: places along each side of the map, pixels along a side of each, and dates at most."""


HIGHEST = 6.5
"""The highest reflectance that is stored in two bytes: more than any ground, snow or cloud has."""

Names = Callable[[str, Moment], Path]
"""The path of the image of a kind at a date."""


@dataclass(frozen=True)
class ImageSelection:
    """The images to make from the reflectance of a date."""

    bands: tuple[int, ...] = ()
    """Indices of the bands to write; empty for no reflectance."""
    stretch: Stretch | None = None
    """Stretch of the true-colour image; None for no such image."""
    indices: tuple[SpectralIndex, ...] = ()
    float32: bool = False

    def products(self, bands: Sequence[Band]) -> list[tuple[str, Product]]:
        """The products, each with the beginning of its file name."""
        products: list[tuple[str, Product]] = []
        if self.bands:
            products.append(("reflectance", ReflectanceProduct([bands[each] for each in self.bands], self.float32)))
        if self.stretch is not None:
            products.append(
                ("rgb", TrueColorProduct([bands[each].name for each in true_color_bands(bands)], self.stretch))
            )
        for index in self.indices:
            products.append((index.name, MeasureProduct(index.name, index.title, index.tags(bands), around_mean)))
        return products

    def of(self, reflectance: np.ndarray, bands: Sequence[Band]) -> list[np.ndarray]:
        """Derive the products' values from all bands (bands, height, width), before they are stored; NaN is nodata."""
        values: list[np.ndarray] = []
        if self.bands:
            written = reflectance[list(self.bands)]
            values.append(written if self.float32 else np.clip(written, 0, HIGHEST))
        if self.stretch is not None:
            values.append(self.stretch.light(reflectance[list(true_color_bands(bands))]))
        return values + [index.of(reflectance)[None] for index in self.indices]


def reflectance_at(region: Region, moment: Moment) -> Callable[[Window], Iterator[np.ndarray]]:
    """A function that reconstructs a window at a date: float32 (bands, h, w) of all bands."""

    def compute(window: Window) -> Iterator[np.ndarray]:
        yield region.reconstruct(window, moment.date, between=moment.estimated, beyond=True).cpu().numpy()

    return compute


def reconstruct(
    region: Region,
    output: str | os.PathLike[str],
    *,
    area: MapArea | None = None,
    dates: Sequence[str | dt.date] = (),
    bands: Sequence[str] = (),
    rgb: bool = False,
    indices: Sequence[str] = (),
    extrapolate: bool = False,
    stretch: tuple[float, float] | None = None,
    float32: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    listener: Listener | None = None,
    creation_options: Mapping[str, str] | None = None,
    tile: int = TILE,
) -> tuple[MapResult, ...]:
    """Reconstruct imagery from a region and write it to Cloud-Optimized GeoTIFFs.

    Only the requested products are written; by default all bands. On another grid than the region's, reflectance is
    resampled, and indices are computed from the resampled values.

    Args:
        region: opened.
        output: ``*.tif`` or ``*.tiff`` of the one image; of several (by date or kind) the folder for them.
        area: to write; by default the whole region on its own grid.
        dates: as in :func:`lianet_user.maps.dates.chosen_moments`.
        bands: names of the bands to write.
        rgb: write a true-colour image of 8 bits per colour.
        indices: spectral indices to write, see :func:`lianet_user.maps.spectral_indices.spectral_index`.
        extrapolate: also estimate dates before the first and after the last acquisition.
        stretch: reflectance that the image shows as black and as full intensity; by default the 2nd and the 98th percentile of
            each colour, in a sample of the area and the dates.
        float32: write reflectance as it is computed, instead of as uint16 in steps of 0.0001.
        overwrite: replace earlier images and their sidecar files.
        resume: continue an interrupted run with the same arguments.
        listener: called with the pixels done and in total, at first and after every tile. What it raises ends the run.
        creation_options: options of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`.
        tile: pixels along the side of a tile, which is computed at once and determines the memory used.

    Returns:
        The images by date, then kind: reflectance, true colours, indices.

    Raises:
        AreaError: the area lies outside the region, or the request contradicts itself.
        DateError: the region cannot reconstruct a date, or none was given and there are several.
        InputError: the region lacks a band, or an index is unknown.
        OutputError: a file exists, cannot be written, or does not fit on the disk; there is no run to resume.

    Warns:
        EstimateWarning: a date was not encoded and is estimated.
        PartlyOutsideWarning: part of the area lies outside the region.
        LeftoverWarning: the tiles of an interrupted run are discarded.
    """
    started = time.monotonic()
    header, target = region.header, Path(output)
    chosen = _band_numbers(bands, header.bands)
    wanted_indices = tuple(
        {each.name: each for each in (spectral_index(text, header.bands) for text in indices)}.values()
    )
    shown = true_color_bands(header.bands) if rgb else ()
    if rgb and len(set(shown)) < 3:
        raise InputError(
            f"`rgb` needs bands of red, green and blue light, and the region {header.name!r} has"
            f" {listed([band.name for band in header.bands])}: write some of them with `bands`"
        )
    if stretch is not None and not stretch[0] < stretch[1]:
        raise InputError(f"`stretch` {stretch[0]:g},{stretch[1]:g}: expected LOW,HIGH in reflectance with LOW < HIGH")
    moments = chosen_moments(header, [str(each) for each in dates], extrapolate=extrapolate)
    if not bands and (rgb or indices):
        chosen = ()
    kinds = bool(chosen) + rgb + len(wanted_indices)
    name_of = _names(target, kinds, moments)
    request = MapRequest(target, area or MapArea(), overwrite, resume, listener, creation_options, tile)
    grid = MapGrid.of(request, [region.geobox], [header.name])
    if kinds * len(moments) == 1:
        refuse_existing(target, overwrite)  # now, because sampling colours takes its time
    reflectance = [ArraySpec(len(header.bands))]
    readers = [TileComputer(grid, [reflectance_at(region, moment)], reflectance, list) for moment in moments]
    light = None
    if rgb:
        light = Stretch((stretch[0],) * 3, (stretch[1],) * 3) if stretch else _sampled_stretch(readers, shown)
    selection = ImageSelection(chosen, light, wanted_indices, float32)
    depends_on = {
        "region": region.sha256,
        "bands": list(chosen),
        "stretch": light and light.words,
        "indices": [[each.name, *each.constants] for each in wanted_indices],
        "float32": float32,
        "dates": [str(moment.date) for moment in moments],
    }
    with only_picture(request) as written:
        target_of = name_of if written is request else (lambda kind, moment: written.output)
        dated = zip(readers, moments, strict=True)
        passes = [_pass(region, reader, moment, selection, target_of) for reader, moment in dated]
        write_maps(written, passes, depends_on)
    seconds = time.monotonic() - started
    return tuple(
        MapResult(
            path=name_of(kind, moment),
            window=grid.window,
            geobox=grid.geobox,
            date=moment.date,
            title=job.product.title,
            summary=job.product.summary,
            outside=grid.destination.outside,
            seconds=seconds,
            estimated=moment.estimated,
        )
        for moment, run in zip(moments, passes, strict=True)
        for job, (kind, _) in zip(run.jobs, selection.products(header.bands), strict=True)
    )


def _pass(region: Region, reader: TileComputer, moment: Moment, selection: ImageSelection, name_of: Names) -> Pass:
    """The images of a date, and how a tile of them is computed."""
    header = region.header
    products = selection.products(header.bands)
    estimate = {"ESTIMATED": "no image of this date was encoded; estimated from others"} if moment.estimated else {}
    jobs = tuple(
        MapJob(
            path=name_of(kind, moment),
            product=product,
            tags=region_tags(header, region.sha256, str(moment.date), product.title, dict(product.tags) | estimate),
            heading=f"{product.title}, {moment.words}: {header.title}",
            attribution=header.attribution,
        )
        for kind, product in products
    )

    def stored(values: list[np.ndarray]) -> list[np.ndarray]:
        made = selection.of(values[0], header.bands)
        return [product.profile.stored(each) for (_, product), each in zip(products, made, strict=True)]

    return Pass(jobs, TileComputer(reader.grid, reader.computes, reader.specs, stored))


def _band_numbers(asked: Sequence[str], bands: Sequence[Band]) -> tuple[int, ...]:
    """Look up the indices of bands by name, in the order given; by default all of them.

    Raises:
        InputError: there is no such band, or one is named twice.
    """
    names = [band.name for band in bands]
    folded = {name.casefold(): number for number, name in enumerate(names)}
    numbers: list[int] = []
    for name in asked:
        number = folded.get(name.casefold())
        if number is None:
            raise InputError(
                f"`bands` {name}: the region has no such band{did_you_mean(name, names)}; it has {listed(names)}"
            )
        if number in numbers:
            raise InputError(f"`bands` names {names[number]} twice: omit one")
        numbers.append(number)
    return tuple(numbers) or tuple(range(len(bands)))


def _names(target: Path, kinds: int, moments: Sequence[Moment]) -> Names:
    """Decide how the image of a kind at a date is named.

    Raises:
        OutputError: the target is a file and there are several images.
    """
    count = kinds * len(moments)
    if count == 1:
        return lambda kind, moment: target
    if target.suffix.lower() in (*MAP_SUFFIXES, ".png") or target.is_file():
        raise OutputError(
            f"{target} is the name of one image, and there are {count} to write: give a folder as `output`"
        )
    return lambda kind, moment: target / f"{kind}_{moment.date}.tif"


def _sampled_stretch(readers: Sequence[TileComputer], shown: Sequence[int]) -> Stretch:
    """One stretch for all dates, so that their images can be compared, from a sample of them."""
    whole_map = whole(readers[0].grid.geobox)
    samples = []
    step = -(-len(readers) // SAMPLE_DATES)
    for reader in readers[::step]:
        for row in _starts(whole_map.height):
            for col in _starts(whole_map.width):
                window = Window(row, col, SAMPLE_SIDE, SAMPLE_SIDE).intersection(whole_map)
                read = None if window is None else reader.read(window)
                if read is not None:
                    samples.append(read[0][list(shown)].reshape(3, -1))
    if not samples:  # a narrow area may pass between the sampled windows
        samples = [
            read[0][list(shown)].reshape(3, -1)
            for read in map(readers[0].read, whole_map.tiles(TILE))
            if read is not None
        ]
    return stretch_of(np.concatenate(samples, 1))


def _starts(length: int) -> list[int]:
    """Where the sampled windows begin along a side."""
    return sorted({max(0, round((place + 0.5) * length / SAMPLES - SAMPLE_SIDE / 2)) for place in range(SAMPLES)})
