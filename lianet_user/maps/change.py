"""`change`: the difference between two dates, in the reflectance that a region reconstructs or in the maps of a head."""

from __future__ import annotations

import csv
import datetime as dt
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from matplotlib import colormaps
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from lianet_user.errors import DateError, InputError
from lianet_user.field.config import reads_a_date
from lianet_user.files.artifact import refuse_existing, replacing
from lianet_user.files.header import IGNORE, ClassEntry, RegionHeader, parse_date
from lianet_user.geo.grid import TILE, Window, whole
from lianet_user.geo.ground_area import Ground
from lianet_user.head import Head
from lianet_user.maps import picture, style
from lianet_user.maps.area import MapArea
from lianet_user.maps.dates import Moment, moment_of
from lianet_user.maps.engine import ArraySpec, Listener, MapGrid, MapJob, MapRequest, Pass, TileComputer, write_maps
from lianet_user.maps.geotiff import MapFiles, RasterProfile, rasterio_window
from lianet_user.maps.product import MeasureProduct, Product
from lianet_user.maps.reconstruct import reflectance_at
from lianet_user.maps.style import attribution, head_tags, region_tags
from lianet_user.maps.summary import ClassCounts, NumberStatistics, Summary
from lianet_user.region import Region

# --- From-to maps: the class of each pixel before and after as one code, and the area of each transition.


PALE, FORMER = 0.8, 0.25
"""Share of white in the colour of unchanged pixels, and of the former class's colour in that of changed ones."""
LONGEST = 60
"""Characters of a class's name in the name of a change."""
NO_CHANGE_KNOWN = 65535
"""In maps of two bytes; in those of one, as in maps of classes, it is 255."""
SHOWN = 250
"""Codes at most that a picture distinguishes."""


class TransitionProduct:
    """A map of from-to codes, ``from * classes + to``: uint8 up to 15 classes, else uint16.

    Unchanged pixels have a pale tint of their class's colour; changed ones have the colour of the new class, mixed with
    some of the former one.
    """

    def __init__(self, classes: tuple[ClassEntry, ...]) -> None:
        self.classes = classes
        count = len(classes)
        self.small = count**2 <= IGNORE
        nodata = IGNORE if self.small else NO_CHANGE_KNOWN
        self.entries = [_entry(before, after) for before in classes for after in classes]
        palette = {code: style.rgb(entry.color) for code, entry in enumerate(self.entries)} if self.small else {}
        self.profile = RasterProfile(
            bands=("change",),
            dtype="uint8" if self.small else "uint16",
            nodata=nodata,
            predictor="NO",
            overviews="MODE",
            palette={nodata: (255, 255, 255)} | palette if palette else {},
        )
        self.tags = {
            "CODES": f"value = {count} * class before + class after, classes from 0: {', '.join(_names(classes))}",
            **(style.class_tags(self.entries) if self.small else {}),
        }
        self.title = f"change between {count} classes"
        self._pixels = np.zeros(count**2, np.int64)

    def codes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Compute the codes of class indices before and after, uint8 of any shape."""
        codes: np.ndarray = (before.astype(np.int64) * len(self.classes) + after).astype(self.profile.dtype)
        return codes

    def add(self, values: np.ndarray) -> None:
        known = values[values != self.profile.nodata]
        self._pixels += np.bincount(known.ravel(), minlength=len(self._pixels))

    @property
    def matrix(self) -> np.ndarray:
        """int64 (classes, classes): pixels of each class before, by their class after."""
        return self._pixels.reshape(len(self.classes), len(self.classes))

    @property
    def summary(self) -> ClassCounts:
        """Pixels of each code that occurs."""
        return ClassCounts({self.entries[code].name: int(self._pixels[code]) for code in np.flatnonzero(self._pixels)})

    def write_pam(self, path: Path) -> None:
        if self.small:
            style.write_pam(path, self.entries, self._pixels.tolist())
        else:
            codes = np.flatnonzero(self._pixels)
            style.write_pam(path, [self.entries[code] for code in codes], self._pixels[codes].tolist(), codes.tolist())

    def write_qml(self, path: Path) -> None:
        codes = np.flatnonzero(self._pixels)
        style.write_qml(path, [self.entries[code] for code in codes], codes.tolist())

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        codes = self._in_order()[:SHOWN]
        place = np.full(NO_CHANGE_KNOWN + 1, IGNORE, np.uint8)
        place[codes] = np.arange(len(codes))
        shown = [self.entries[code] for code in codes]
        pixels = self._pixels[codes].tolist()
        return picture.class_figure(place[values[0]], geobox, shown, pixels, title=title, attribution=attribution)

    def _in_order(self) -> list[int]:
        """The codes that occur: changes by area, the largest first, then unchanged classes."""
        count = len(self.classes)
        occurring = [int(code) for code in np.flatnonzero(self._pixels)]
        return sorted(occurring, key=lambda code: (code // count == code % count, -self._pixels[code]))


def write_matrix(path: Path, classes: tuple[ClassEntry, ...], hectares: np.ndarray) -> None:
    """Write a table of hectares with sums: a row for each class before, a column for each class after.

    Args:
        path: of the CSV file.
        classes: in the order of the matrix.
        hectares: (classes, classes).

    Raises:
        OutputError: it cannot be written.
    """
    names = [entry.name for entry in classes]
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["hectares from \\ to", *names, "sum"])
        for name, row in zip(names, hectares, strict=True):
            rows.writerow([name, *(f"{each:.4f}" for each in (*row, row.sum()))])
        rows.writerow(["sum", *(f"{each:.4f}" for each in (*hectares.sum(0), hectares.sum()))])


def _entry(before: ClassEntry, after: ClassEntry) -> ClassEntry:
    first, second = _names((before, after))
    if before == after:
        return ClassEntry(name=f"{first} (unchanged)", color=_mixed("#ffffff", before.color, PALE))
    return ClassEntry(name=f"{first} -> {second}", color=_mixed(before.color, after.color, FORMER))


def _names(classes: tuple[ClassEntry, ...]) -> list[str]:
    return [picture.shortened(entry.name, LONGEST) for entry in classes]


def _mixed(one: str, other: str, share: float) -> str:
    """Blend two colours; `share` is that of the first."""
    pairs = zip(style.rgb(one), style.rgb(other), strict=True)
    red, green, blue = (round(share * first + (1 - share) * second) for first, second in pairs)
    return f"#{red:02x}{green:02x}{blue:02x}"


# --- The command.


DIFFERENCES = colormaps["PuOr"]
"""From a decrease (orange) over no difference (white) to an increase (violet): safe for the colour-blind too."""


@dataclass(frozen=True, eq=False)
class ChangeResult:
    """A finished map of change."""

    path: Path
    table: Path | None
    """The from-to matrix as CSV; None for maps of numbers."""
    geobox: GeoBox
    first: Moment
    last: Moment
    title: str
    summary: Summary
    classes: tuple[str, ...]
    """Names of the classes; empty for maps of numbers."""
    pixels: np.ndarray
    """int64 (classes, classes): rows before, columns after."""
    hectares: np.ndarray
    """float64 (classes, classes): the area of each transition."""
    noise: float | None
    """Change in reflectance that a region shows on average where nothing changed, because it reconstructs neither date
    exactly; None where the errors are not known."""
    outside: float
    """Share of the requested area that lies outside the region: 0 to 1."""
    seconds: float

    @property
    def quicklook(self) -> Path:
        return MapFiles.of(self.path).png


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is mapped, and how a tile of it is computed."""

    product: Product
    computer: TileComputer
    tags: Mapping[str, str]
    attribution: str
    region: RegionHeader
    noise: float | None = None


def change(
    source: Region | Head,
    output: str | os.PathLike[str],
    *,
    first: str | dt.date,
    last: str | dt.date,
    area: MapArea | None = None,
    extrapolate: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    listener: Listener | None = None,
    creation_options: Mapping[str, str] | None = None,
    tile: int = TILE,
) -> ChangeResult:
    """Map what differs between two dates.

    For a region: the mean over its bands of the absolute difference in reflectance. It has the unit of the region's
    reconstruction error, so that the two can be compared, and means the same in every region; standardised bands, the
    alternative, differ from region to region and magnify changes in bands that are always dark.

    For a head of classes: from-to codes, and beside the map a table of their areas. For a head of numbers: last minus first.

    Args:
        source: a region, or a head of one.
        output: ``*.tif`` of the map.
        first: date of the state before; it may lie between acquisitions where the region's time encoding is continuous.
        last: date of the state after, as `first`.
        area: to map; by default the whole region on its own grid.
        extrapolate: let a region estimate dates before its first acquisition and after its last.
        overwrite: replace an earlier map and what lies beside it.
        resume: continue an interrupted run with the same arguments.
        listener: called with the pixels done and in total, at first and after every tile. What it raises ends the run.
        creation_options: of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`.
        tile: pixels along the side of a tile, which is computed at once and determines the memory used.

    Raises:
        AreaError: the area lies outside the region, or the request contradicts itself.
        DateError: the region cannot reconstruct a date, or the dates are not in order.
        InputError: the head does not depend on the date.
        MapError: areas on the ground cannot be computed on the map's grid.
        OutputError: a file exists, cannot be written, or does not fit on the disk; there is nothing to resume.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        EstimateWarning: a date was not encoded and is estimated.
        LeftoverWarning: the tiles of an interrupted run are discarded.
        PartlyOutsideWarning: part of the area lies outside the region.
    """
    started = time.monotonic()
    target = Path(output)
    moments = _moments(source, str(first), str(last), extrapolate)
    request = MapRequest(target, area or MapArea(), overwrite, resume, listener, creation_options, tile)
    plan = _of_head(source, moments, request) if isinstance(source, Head) else _of_region(source, moments, request)
    product, grid = plan.product, plan.computer.grid
    table = target.with_suffix(".csv") if isinstance(product, TransitionProduct) else None
    ground = None
    if table is not None:
        refuse_existing(table, overwrite)
        ground = Ground(grid.geobox)
    words = f"{moments[0].words} to {moments[1].words}"
    job = MapJob(target, product, plan.tags, f"{product.title}, {words}: {plan.region.title}", plan.attribution)
    depends_on = {"of": source.sha256, "dates": [str(moment.date) for moment in moments]}
    write_maps(request, [Pass((job,), plan.computer)], depends_on)
    names: tuple[str, ...] = ()
    pixels: np.ndarray = np.zeros((0, 0), np.int64)
    hectares: np.ndarray = np.zeros((0, 0))
    if isinstance(product, TransitionProduct):
        assert table is not None and ground is not None  # noqa: PT018
        names, pixels = tuple(entry.name for entry in product.classes), product.matrix
        hectares = _hectares(target, product, ground)
        write_matrix(table, product.classes, hectares)
    return ChangeResult(
        path=target,
        table=table,
        geobox=grid.geobox,
        first=moments[0],
        last=moments[1],
        title=product.title,
        summary=product.summary,
        classes=names,
        pixels=pixels,
        hectares=hectares,
        noise=plan.noise,
        outside=grid.destination.outside,
        seconds=time.monotonic() - started,
    )


def _moments(source: Region | Head, first: str, last: str, extrapolate: bool) -> tuple[Moment, Moment]:
    """Read and check the two dates.

    Raises:
        DateError: a text is not a date, the region cannot reconstruct it, or the two are not in order.
        InputError: nothing that the head reads depends on the date.
        RegionMismatchError: the region was updated since the head was trained.
    """
    dates = parse_date(first, "`first`"), parse_date(last, "`last`")
    if dates[0] >= dates[1]:
        raise DateError(
            f"`first` {first}, `last` {last}: change goes from an earlier date to a later one: give two dates in this order"
        )
    if isinstance(source, Region):
        before, after = (
            moment_of(source.header, text, extrapolate=extrapolate, argument=argument)
            for text, argument in ((first, "`first`"), (last, "`last`"))
        )
        return before, after
    source.check_region()
    if not reads_a_date(source.header.head.inputs):
        raise InputError(
            f"{source.path or 'the head'} reads only what all dates have in common, so its map is the same at each: train one"
            " on labels of single dates (`lianet-user finetune --date`), or map the change of the region itself"
        )
    held = source.region.header.dates
    for argument, date in zip(("`first`", "`last`"), dates, strict=True):
        if date not in held:
            raise DateError(
                f"{argument} {date}: a head maps dates that its region holds, and this is none of the {len(held)}"
                f" between {min(held)} and {max(held)}: choose one that `lianet-user info` lists"
            )
    return Moment(dates[0]), Moment(dates[1])


def _of_region(region: Region, moments: tuple[Moment, Moment], request: MapRequest) -> _Plan:
    header = region.header
    grid = MapGrid.of(request, [region.geobox], [header.name])
    at_first, at_last = (reflectance_at(region, moment) for moment in moments)
    noise = _noise(header, moments)
    meaning = {
        "QUANTITY": "mean over the bands of the absolute difference in reflectance",
        **({"NOISE": f"{noise:.5f}, on average, where nothing changed"} if noise is not None else {}),
        **_estimates(moments),
    }

    def compute(window: Window) -> Iterator[np.ndarray]:
        yield from at_first(window)
        yield from at_last(window)

    def stored(values: list[np.ndarray]) -> list[np.ndarray]:
        before, after = values
        return [np.abs(after - before).mean(0, keepdims=True)]

    def span(statistics: NumberStatistics) -> tuple[float, float]:
        return 0.0, min(statistics.maximum, statistics.mean + 3 * statistics.deviation)

    product = MeasureProduct("change", "change in reflectance", meaning, span)
    day = f"{moments[0].date}, {moments[1].date}"
    own = region_tags(header, region.sha256, day, product.title, product.tags)
    computer = TileComputer(grid, [compute], [ArraySpec(len(header.bands))] * 2, stored)
    return _Plan(product, computer, own, header.attribution, header, noise)


def _of_head(head: Head, moments: tuple[Moment, Moment], request: MapRequest) -> _Plan:
    grid = MapGrid.of(request, [head.geobox], [head.region.header.name], head.scale)
    dates = tuple(moment.date for moment in moments)
    product: Product
    compute: Callable[[Window], Iterator[np.ndarray]]
    if head.header.numbers is None:
        product = transitions = TransitionProduct(head.header.classes)
        values = ArraySpec(1, "classes", product.profile.dtype, product.profile.nodata)

        def compute(window: Window) -> Iterator[np.ndarray]:
            before, after = (head.map_values(head.map_answers(window, date)) for date in dates)
            yield transitions.codes(before, after)
    else:
        unit = head.header.numbers.unit
        product = MeasureProduct(
            "difference",
            "difference of numbers" if head.header.task == "regression" else "difference of coverage",
            {"QUANTITY": f"value at {dates[1]} - value at {dates[0]}"},
            _symmetric,
            unit,
            DIFFERENCES,
        )
        values = ArraySpec(1)

        def compute(window: Window) -> Iterator[np.ndarray]:
            before, after = (head.map_answers(window, date) for date in dates)
            yield (after - before).cpu().numpy()

    own = head_tags([head], dates, product.title, product.tags)
    own["DATE"] = ", ".join(map(str, dates))
    computer = TileComputer(grid, [compute], [values], list)
    return _Plan(product, computer, own, attribution([head]), head.region.header)


def _symmetric(statistics: NumberStatistics) -> tuple[float, float]:
    """A span around 0, so that no difference has the middle colour."""
    most = max(abs(statistics.minimum), abs(statistics.maximum))
    reach = min(most, abs(statistics.mean) + 3 * statistics.deviation)
    return -reach, reach


def _noise(header: RegionHeader, moments: tuple[Moment, Moment]) -> float | None:
    """The mean change that a region shows where nothing changed, from its reconstruction errors at the two dates.

    Errors are taken as normally distributed with the bands' RMSE as standard deviation, independent between the dates.
    """
    errors = {each.date: {band.band: band.rmse for band in each.bands} for each in header.quality}
    if any(moment.estimated or moment.date not in errors for moment in moments):
        return None
    pairs = [[errors[moment.date].get(band.name) for moment in moments] for band in header.bands]
    known = [[error for error in pair if error is not None] for pair in pairs]
    if any(len(pair) < 2 for pair in known):
        return None
    return math.sqrt(2 / math.pi) * float(np.mean([math.hypot(*pair) for pair in known]))


def _estimates(moments: tuple[Moment, Moment]) -> dict[str, str]:
    estimated = [str(moment.date) for moment in moments if moment.estimated]
    return {"ESTIMATED": f"{', '.join(estimated)}: no image was encoded; estimated from others"} if estimated else {}


def _hectares(path: Path, product: TransitionProduct, ground: Ground) -> np.ndarray:
    """Hectares of each transition, (classes, classes), on the ground."""
    hectares = np.zeros(len(product.entries))
    with rasterio.open(path) as dataset:
        for window in whole(ground.geobox).tiles(TILE):
            values = dataset.read(1, window=rasterio_window(window))
            known = values != product.profile.nodata
            hectares += np.bincount(values[known], weights=ground.pixels(window)[known], minlength=len(hectares))
    return hectares.reshape(product.matrix.shape)
