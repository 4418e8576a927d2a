"""`predict`: maps of classes or numbers from heads, at one date or several, of one region or mosaicked over several."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

from lianet_user.errors import InputError, OutputError, did_you_mean, listed
from lianet_user.field.config import HEAD_INPUTS, HeadInput
from lianet_user.field.model import computed_in
from lianet_user.field.weights import stored
from lianet_user.geo.grid import TILE, Window
from lianet_user.head import Head
from lianet_user.maps.area import MapArea
from lianet_user.maps.dates import chosen_dates
from lianet_user.maps.engine import ArraySpec, Listener, MapGrid, MapJob, MapRequest, Pass, TileComputer, write_maps
from lianet_user.maps.geotiff import MAP_SUFFIXES, MapFiles
from lianet_user.maps.product import (
    UNCERTAINTIES,
    ClassProduct,
    NumberProduct,
    Product,
    Uncertainty,
    probabilities,
    probability_product,
    uncertainty,
    uncertainty_product,
)
from lianet_user.maps.style import attribution, head_tags
from lianet_user.maps.summary import Summary
from lianet_user.region import Region, crop

# --- Planning: which heads are mapped together, and how each map is named.


Names = Callable[[Head, dt.date], Path]
"""The path of the map of a head at a date."""


@dataclass(frozen=True, eq=False)
class HeadGroup:
    """Heads that are mapped together: one pass over the tiles computes the maps of all of them."""

    heads: tuple[Head, ...]
    dates: tuple[dt.date, ...]
    """The date that each head is mapped at; the same for all, unless they make a mosaic."""
    mosaic: bool
    """Whether the heads, each of a region of its own, make one map."""
    grid: int
    """Groups with the same number share a grid."""


def group_heads(heads: Sequence[Head], asked: Sequence[str | dt.date]) -> list[HeadGroup]:
    """Decide which heads are mapped together, in chronological order.

    Args:
        heads: of one region, or each of a region of its own.
        asked: dates to map, see :func:`lianet_user.maps.dates.chosen_dates`.

    Raises:
        DateError: a region does not hold a date, or holds several and none is given.
        InputError: the heads cannot be mapped together.
        RegionMismatchError: a region was updated since its head was trained.
    """
    if not heads:
        raise InputError("no head was given, and a map needs one")
    for head in heads:
        head.check_region()
    texts = [str(each) for each in asked]
    regions = {head.region.sha256 for head in heads}
    if len(regions) > 1:
        _check_mosaic(heads)
        held = [date for date in heads[0].region.header.dates if all(date in h.region.header.dates for h in heads)]
        if not texts:
            return [HeadGroup(tuple(heads), tuple(head.acquisition_date(None) for head in heads), True, 0)]
        return [HeadGroup(tuple(heads), (date,) * len(heads), True, 0) for date in chosen_dates(texts, held)]
    chosen = chosen_dates(texts, heads[0].region.header.dates)
    dates_of = {head: chosen or (head.acquisition_date(None),) for head in heads}
    scales = sorted({head.scale for head in heads})
    groups = []
    for date in sorted({date for dates in dates_of.values() for date in dates}):
        for scale in scales:
            members = tuple(head for head in heads if head.scale == scale and date in dates_of[head])
            if members:
                groups.append(HeadGroup(members, (date,) * len(members), False, scale))
    return groups


def map_count(groups: Sequence[HeadGroup]) -> int:
    """Count the maps by head and date; probabilities and uncertainty do not count."""
    return sum(1 if group.mosaic else len(group.heads) for group in groups)


def _check_mosaic(heads: Sequence[Head]) -> None:
    """Check that heads of different regions make one map.

    Raises:
        InputError: they do not.
    """
    first = heads[0]
    for number, head in enumerate(heads[1:], start=1):
        for other in heads[:number]:
            if head.region.sha256 == other.region.sha256:
                raise InputError(
                    f"{_name_of(other)} and {_name_of(head)} are both of the region {head.region.header.name!r}, and other"
                    " heads are of other regions: heads of several regions make one map, so give one head of each"
                )
        one, other_one = _meaning(first), _meaning(head)
        if one != other_one:
            raise InputError(
                f"{_name_of(first)} maps {one} and {_name_of(head)} maps {other_one}: heads of different regions make one map"
                " only if they map the same, so give them one after the other"
            )


def _meaning(head: Head) -> str:
    """What a head maps, in words that are equal for two heads only if they map the same."""
    if head.header.numbers is not None:
        return f"{head.header.task} in {head.header.numbers.unit or 'no unit'}"
    return f"the classes {', '.join(entry.name for entry in head.header.classes)}"


def check_head_maps(
    heads: Sequence[Head], probability: bool, unsure: Uncertainty | None, min_area: float | None
) -> None:
    """Check that the heads can make the requested products.

    Raises:
        InputError: a head cannot, or `min_area` is out of range.
    """
    for head in heads:
        head_maps(head, probability, unsure)
        if min_area is not None and head.header.numbers is not None:
            raise InputError(f"`min_area` removes patches of classes, and {_name_of(head)} maps numbers: omit it")
    if min_area is not None and not (math.isfinite(min_area) and min_area > 0):
        raise InputError(f"`min_area` {min_area:g}: expected hectares, a number above 0")


def map_names(heads: Sequence[Head], target: Path, count: int) -> Names:
    """Decide how the map of a head at a date is named.

    Raises:
        OutputError: the target is a file and there are several maps, or two of them would have the same name.
    """
    if count == 1:
        return lambda head, date: target
    if target.suffix.lower() in MAP_SUFFIXES or target.is_file():
        raise OutputError(f"{target} is the name of one map, and there are {count} to write: give a folder as `output`")
    stems = {head: head.path.stem if head.path else "head" for head in heads}
    if len(set(stems.values())) < len(heads):
        twice = listed([_name_of(head) for head in heads])
        raise OutputError(f"maps are named after their heads, and of {twice} some have the same name: rename one")
    return lambda head, date: target / f"{stems[head]}_{date}.tif"


def _grid(group: HeadGroup, request: MapRequest) -> MapGrid:
    """The grid of the maps of a group: the first head's, or as requested."""
    mapping = group.heads if group.mosaic else group.heads[:1]
    names = [head.region.header.name for head in mapping]
    return MapGrid.of(request, [head.geobox for head in mapping], names, mapping[0].scale)


def _pass(
    group: HeadGroup,
    grid: MapGrid,
    names: Names,
    turned: bool,
    min_area: float | None,
    probability: bool,
    unsure: Uncertainty | None,
) -> Pass:
    """The maps of a group, and how a tile of them is computed."""
    computed_together: list[tuple[tuple[Head, ...], dt.date]]
    if group.mosaic:
        computed_together = [((head,), date) for head, date in zip(group.heads, group.dates, strict=True)]
        origins = [(group.heads, group.dates)]
    else:
        computed_together = [(group.heads, group.dates[0])]
        origins = [((head,), group.dates[:1]) for head in group.heads]
    maps = [head_maps(heads[0], probability, unsure) for heads, _ in origins]
    all_maps = [each for of_head in maps for each in of_head]

    def stored(values: list[np.ndarray]) -> list[np.ndarray]:
        return [each.product.profile.stored(array) for each, array in zip(all_maps, values, strict=True)]

    computer = TileComputer(
        grid,
        [_compute_of(heads, date, maps, turned) for heads, date in computed_together],
        [each.array for each in all_maps],
        stored,
    )
    jobs = [
        _job(heads, dates, each, names(heads[0], dates[0]), min_area if each.array.kind == "classes" else None)
        for (heads, dates), of_head in zip(origins, maps, strict=True)
        for each in of_head
    ]
    return Pass(tuple(jobs), computer)


def _compute_of(
    heads: Sequence[Head], date: dt.date, maps: Sequence[Sequence[HeadMap]], turned: bool
) -> Callable[[Window], Iterator[np.ndarray]]:
    """A function that computes a window of the heads' grid: the region is read once for all heads, and each head is
    applied once for all its maps."""

    def compute(window: Window) -> Iterator[np.ndarray]:
        reader = SharedInput(heads) if len(heads) > 1 else None
        for head, of_head in zip(heads, maps, strict=True):
            answers = head.map_answers(window, date, read=reader, turned=turned)
            for each in of_head:
                yield each.of(answers)

    return compute


@dataclass(frozen=True, eq=False)
class HeadMap:
    """One map of a head: its product, and how it is derived from the head's answers."""

    suffix: str
    """Appended to the map's name."""
    shown: str
    """What the quick-look shows; empty for the map itself."""
    product: Product
    of: Callable[[Tensor], np.ndarray]
    """Derives uint8 or float32 (bands, h, w) from answers (outputs, h, w), before resampling."""

    @property
    def array(self) -> ArraySpec:
        """Its bands, and how they are resampled."""
        profile = self.product.profile
        if isinstance(self.product, ClassProduct):
            return ArraySpec(1, "classes", profile.dtype, profile.nodata)
        return ArraySpec(len(profile.bands))


def head_maps(head: Head, probability: bool, unsure: Uncertainty | None) -> list[HeadMap]:
    """List the maps of a head: the map itself, and probabilities and uncertainty where they are requested.

    Raises:
        InputError: a head of numbers has no probabilities, or the kind of uncertainty is unknown.
    """
    if unsure is not None and unsure not in UNCERTAINTIES:
        raise InputError(
            f"`uncertainty` {unsure!r}: expected {' or '.join(UNCERTAINTIES)}{did_you_mean(unsure, UNCERTAINTIES)}"
        )
    header = head.header
    if header.numbers is not None:
        if probability or unsure is not None:
            argument = "`probabilities`" if probability else "`uncertainty`"
            raise InputError(f"{argument} needs a head of classes, and this one maps numbers: omit it")
        return [HeadMap("", "", NumberProduct(header.numbers, header.task), head.map_values)]
    maps = [HeadMap("", "", ClassProduct(header.classes), head.map_values)]
    if probability:
        product = probability_product(header.classes)
        maps.append(HeadMap("_probabilities", "Highest probability", product, probabilities))
    if unsure is not None:
        derive = partial(uncertainty, kind=unsure)
        maps.append(HeadMap("_uncertainty", f"Uncertainty ({unsure})", uncertainty_product(unsure), derive))
    return maps


class SharedInput:
    """Reads the inputs of several heads of a region once for a window; see `head.Reader`."""

    def __init__(self, heads: Sequence[Head]) -> None:
        needed = {part for head in heads for part in head.header.head.inputs}
        self.region: Region = heads[0].region
        self.inputs = tuple(part for part in HEAD_INPUTS if part in needed)
        self.halo = max(head.layers.halo for head in heads)
        self._read: tuple[Window, dt.date | None, dict[HeadInput, Tensor]] | None = None

    def __call__(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> Tensor:
        known = self._read
        if known is None or known[1] != date or known[0].intersection(window) != window:
            # Another head may have a larger halo than the first.
            outer = window.expanded(self.halo, 1, self.region.shape)
            known = self._read = (outer, date, self.region.head_parts(outer, date, self.inputs))
        outer, _, parts = known
        return torch.cat([crop(parts[part], window, outer) for part in HEAD_INPUTS if part in inputs])


def _job(
    heads: Sequence[Head], dates: Sequence[dt.date], head_map: HeadMap, path: Path, min_area: float | None
) -> MapJob:
    product = head_map.product
    titles = ", ".join(dict.fromkeys(head.region.header.title for head in heads))
    makers = ", ".join(dict.fromkeys(Path(head.path).name for head in heads if head.path))
    what = (head_map.shown or product.title) + (f" by {makers}" if makers else "")
    return MapJob(
        path=path.with_name(f"{path.stem}{head_map.suffix}{path.suffix}"),
        product=product,
        tags=head_tags(heads, dates, product.title, product.tags),
        # The date first: long titles are cut at their end.
        heading=f"{', '.join(dict.fromkeys(map(str, dates)))}, {what}: {titles}",
        attribution=attribution(heads),
        min_area=min_area,
    )


def _name_of(head: Head) -> str:
    return str(head.path or "a head that was not saved")


# --- The command.


@dataclass(frozen=True)
class MapResult:
    """A finished map."""

    path: Path
    window: Window | None
    """Pixels of the region that the map covers; None where the map has a grid of its own."""
    geobox: GeoBox
    """The grid of the map."""
    date: dt.date
    """Of the acquisition that was mapped; of several regions, the first one's."""
    title: str
    """What it shows, as in "map of 6 classes"."""
    summary: Summary
    """What it holds: the pixels of each class, the statistics of the numbers, or the means of probabilities."""
    outside: float
    """Share of the requested area that lies outside the region and is not mapped: 0 to 1."""
    seconds: float
    """Duration of the whole call, for all its maps."""
    estimated: bool = False
    """Whether no image of the date was ever encoded."""

    @property
    def quicklook(self) -> Path:
        return MapFiles.of(self.path).png


def predict(
    heads: Head | Sequence[Head],
    output: str | os.PathLike[str],
    *,
    area: MapArea | None = None,
    dates: Sequence[str | dt.date] = (),
    probabilities: bool = False,
    uncertainty: Uncertainty | None = None,
    turned: bool = False,
    min_area: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    listener: Listener | None = None,
    creation_options: Mapping[str, str] | None = None,
    tile: int = TILE,
) -> tuple[MapResult, ...]:
    """Map an area with heads, to Cloud-Optimized GeoTIFFs.

    Classes are uint8 with colours and nodata 255, numbers float32 with their unit and nodata NaN. Beside ``map.tif`` come
    ``map.tif.aux.xml`` (for GDAL: class names and attribute table, or statistics), ``map.qml`` (style for QGIS) and
    ``map.png`` (the quick-look). All are made in a hidden folder beside the map and put in place when everything is
    finished and checked; until then earlier maps stay as they are. Memory depends on the tile, not on the map.

    Heads of one region share one reading of it. Heads of different regions are mosaicked: where regions overlap, the first
    head counts.

    Args:
        heads: opened or just trained: of one region, or each of a region of its own.
        output: ``*.tif`` or ``*.tiff`` of the one map; of several (by head or date) the folder for them, where each is
            named after its head and date.
        area: where to map; by default the whole region on its own grid.
        dates: of acquisitions, see :func:`lianet_user.maps.dates.chosen_dates`; by default the one that the head was
            trained on, or the only one of the region.
        probabilities: write ``map_probabilities.tif`` too, with a band for each class.
        uncertainty: write ``map_uncertainty.tif`` too: ``entropy`` or ``margin``.
        turned: average the answers over the eight rotations and reflections of what the head reads; takes longer.
        min_area: hectares; smaller patches of a class take the class of their largest neighbour.
        overwrite: replace earlier maps and their sidecar files.
        resume: continue an interrupted run with the same arguments.
        listener: called with the pixels done and in total, at first and after every tile. What it raises ends the run.
        creation_options: options of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`.
        tile: pixels along the side of a tile, which is computed at once and determines the memory used.

    Returns:
        The maps by date, then head, then kind.

    Raises:
        AreaError: the area lies outside the region, or the request contradicts itself.
        DateError: the region does not hold a date, or none was given and there are several.
        InputError: the heads cannot be mapped together, or cannot make a requested product.
        LabelError: the polygons of the area cannot be read.
        OutputError: a map exists, cannot be written, or does not fit on the disk; there is no run to resume.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        PartlyOutsideWarning: part of the area lies outside the region and is not mapped.
        LeftoverWarning: the tiles of an interrupted run are discarded.
    """
    started = time.monotonic()
    asked = (heads,) if isinstance(heads, Head) else tuple(heads)
    groups = group_heads(asked, dates)
    check_head_maps(asked, probabilities, uncertainty, min_area)
    request = MapRequest(Path(output), area or MapArea(), overwrite, resume, listener, creation_options, tile)
    names = map_names(asked, request.output, map_count(groups))
    grids: dict[int, MapGrid] = {}
    for group in groups:
        if group.grid not in grids:
            grids[group.grid] = _grid(group, request)
    passes = [_pass(each, grids[each.grid], names, turned, min_area, probabilities, uncertainty) for each in groups]
    depends_on = {
        "heads": [_digest(head) for head in asked],
        "regions": [head.region.sha256 for head in asked],
        "dates": [[str(date) for date in each.dates] for each in groups],
        "uncertainty": uncertainty,
        "turned": turned,
        "precision": [computed_in(head.region.device, head.region.precision) for head in asked],
    }
    write_maps(request, passes, depends_on)
    seconds = time.monotonic() - started
    return tuple(
        MapResult(
            path=job.path,
            window=run.compute.grid.window,
            geobox=run.geobox,
            date=group.dates[0],
            title=job.product.title,
            summary=job.product.summary,
            outside=run.compute.grid.destination.outside,
            seconds=seconds,
        )
        for group, run in zip(groups, passes, strict=True)
        for job in run.jobs
    )


def _digest(head: Head) -> str:
    """The hash of a head's file, or of its weights where it was not read from a file."""
    if head.sha256:
        return head.sha256
    digest = hashlib.sha256(head.header.model_dump_json().encode())
    for name, tensor in sorted(stored(head.layers).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
