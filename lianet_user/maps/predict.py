"""`predict`: the maps of heads, from what a user asks for to what came of it."""

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
from lianet_user.field.inference import computed_in
from lianet_user.field.weights import stored
from lianet_user.files.header import HeadHeader
from lianet_user.geo.grid import TILE, Window, offset_on, whole
from lianet_user.geo.ground_area import pixel_metres
from lianet_user.head import Head
from lianet_user.maps.area import MapArea
from lianet_user.maps.dates import chosen_dates
from lianet_user.maps.engine import Listener, MapJob, MapRequest, Pass, Site, TileComputer, Values, write_maps
from lianet_user.maps.geotiff import SUFFIXES, MapFiles
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
from lianet_user.maps.style import attribution, tags
from lianet_user.maps.summary import Summary
from lianet_user.region import Region, crop

# --- Which maps there are: what heads are mapped together, on which ground, and what each map is called.


HECTARE = 10_000.0
"""Square metres."""

Names = Callable[[Head, dt.date], Path]


@dataclass(frozen=True, eq=False)
class Together:
    """Heads that are mapped in one pass over the ground."""

    heads: tuple[Head, ...]
    dates: tuple[dt.date, ...]
    """Of the acquisition that each works on; one for all, unless it is a mosaic."""
    mosaic: bool
    """Whether the heads, each of a region of its own, make one map."""
    group: int
    """Those of one number map on one grid."""


def planned(heads: Sequence[Head], asked: Sequence[str | dt.date]) -> list[Together]:
    """Which heads are mapped together, in the order of dates.

    Args:
        heads: of one region, or each of a region of its own.
        asked: dates, see :func:`lianet_user.maps.dates.chosen_dates`.

    Raises:
        DateError: a region does not hold what is asked for, or holds several dates and none is asked for.
        InputError: the heads do not go together.
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
            return [Together(tuple(heads), tuple(head.acquisition_date(None) for head in heads), True, 0)]
        return [Together(tuple(heads), (date,) * len(heads), True, 0) for date in chosen_dates(texts, held)]
    chosen = chosen_dates(texts, heads[0].region.header.dates)
    wanted = {head: chosen or (head.acquisition_date(None),) for head in heads}
    scales = sorted({head.scale for head in heads})
    found = []
    for date in sorted({date for dates in wanted.values() for date in dates}):
        for scale in scales:
            at_once = tuple(head for head in heads if head.scale == scale and date in wanted[head])
            if at_once:
                found.append(Together(at_once, (date,) * len(at_once), False, scale))
    return found


def map_count(together: Sequence[Together]) -> int:
    """Maps by head and date, whatever else is made of each."""
    return sum(1 if each.mosaic else len(each.heads) for each in together)


def _check_mosaic(heads: Sequence[Head]) -> None:
    """
    Raises:
        InputError: the heads do not make one map.
    """
    first = heads[0]
    for number, head in enumerate(heads[1:], start=1):
        for other in heads[:number]:
            if head.region.sha256 == other.region.sha256:
                raise InputError(
                    f"{_called(other)} and {_called(head)} are both of the region {head.region.header.name!r}, and other heads"
                    " are of other regions: heads of several regions make one map, so give one head of each"
                )
        one, other_one = _meaning(first), _meaning(head)
        if one != other_one:
            raise InputError(
                f"{_called(first)} maps {one} and {_called(head)} maps {other_one}: heads of different regions make one map"
                " only if they map the same, so give them one after the other"
            )


def _meaning(head: Head) -> str:
    """What a head maps, in words that are the same for two heads only if they map the same."""
    if head.header.numbers is not None:
        return f"{head.header.task} in {head.header.numbers.unit or 'no unit'}"
    return f"the classes {', '.join(entry.name for entry in head.header.classes)}"


def check_answers(heads: Sequence[Head], probability: bool, unsure: Uncertainty | None, min_area: float | None) -> None:
    """Ask whether the heads have what is wanted of them.

    Raises:
        InputError: a head does not have what is asked for.
    """
    for head in heads:
        wanted_answers(head.header, probability, unsure)
        if min_area is not None and head.header.numbers is not None:
            raise InputError(f"--min-area removes patches of classes, and {_called(head)} maps numbers: leave it away")
    if min_area is not None and not (math.isfinite(min_area) and min_area > 0):
        raise InputError(f"`min_area` {min_area:g}: expected hectares, a number above 0")


def map_names(heads: Sequence[Head], target: Path, count: int) -> Names:
    """What the map of a head at a date is called.

    Raises:
        OutputError: the target does not suit so many maps, or two would have the same name.
    """
    if count == 1:
        return lambda head, date: target
    if target.suffix.lower() in SUFFIXES or target.is_file():
        raise OutputError(
            f"{target} is the name of one map, and there are {count} to write: give the name of a folder with -o"
        )
    stems = {head: head.path.stem if head.path else "head" for head in heads}
    if len(set(stems.values())) < len(heads):
        twice = listed([_called(head) for head in heads])
        raise OutputError(f"maps are called by their heads, and of {twice} some have the same name: rename one")
    return lambda head, date: target / f"{stems[head]}_{date}.tif"


def _site(each: Together, request: MapRequest) -> Site:
    """Where the maps of heads that go together lie, on the first head's grid or as the request says."""
    mapping = each.heads if each.mosaic else each.heads[:1]
    names = [head.region.header.name for head in mapping]
    return Site.of(request.area, [head.geobox for head in mapping], names, tile=request.tile, scale=mapping[0].scale)


def _pass(
    each: Together,
    site: Site,
    names: Names,
    turned: bool,
    min_area: float | None,
    probability: bool,
    unsure: Uncertainty | None,
) -> Pass:
    """The maps of some heads, and how to compute a tile of them."""
    if each.mosaic:
        answering = [((head,), date) for head, date in zip(each.heads, each.dates, strict=True)]
        credited = [(each.heads, each.dates)]
    else:
        answering = [(each.heads, each.dates[0])]
        credited = [((head,), each.dates[:1]) for head in each.heads]
    answers = [wanted_answers(of[0].header, probability, unsure) for of, _ in credited]
    every = [answer for wanted in answers for answer in wanted]

    def stored(values: list[np.ndarray]) -> list[np.ndarray]:
        return [answer.product.layer.stored(each) for answer, each in zip(every, values, strict=True)]

    computer = TileComputer(
        site,
        [_answering(heads, date, answers, turned) for heads, date in answering],
        [answer.values for answer in every],
        stored,
    )
    smallest = 1
    if min_area is not None:
        smallest = max(1, round(min_area * HECTARE / math.prod(pixel_metres(site.geobox))))
    jobs = [
        _job(of, dates, answer, names(of[0], dates[0]), smallest if answer.values.kind == "classes" else 1)
        for (of, dates), wanted in zip(credited, answers, strict=True)
        for answer in wanted
    ]
    return Pass(site.destination, tuple(jobs), computer, site.tile)


def _answering(
    heads: Sequence[Head], date: dt.date, answers: Sequence[Sequence[Answer]], turned: bool
) -> Callable[[Window], Iterator[np.ndarray]]:
    """What computes a window of the heads' grid: one reading of the region for all of them, one answer of each for all that
    is made of it."""

    def compute(window: Window) -> Iterator[np.ndarray]:
        reader = SharedReader(heads) if len(heads) > 1 else None
        for head, wanted in zip(heads, answers, strict=True):
            found = head.map_answers(window, date, read=reader, turned=turned)
            for answer in wanted:
                yield answer.of(found)

    return compute


@dataclass(frozen=True, eq=False)
class Answer:
    """One map of a head: what it is, and how it follows from the head's answers."""

    suffix: str
    """Of the map's name."""
    shown: str
    """What the map at a glance shows; empty for the map itself."""
    product: Product
    of: Callable[[Tensor], np.ndarray]
    """Answers (outputs, h, w) -> uint8 or float32 (bands, h, w), before they are resampled and stored."""

    @property
    def values(self) -> Values:
        """How they are resampled."""
        layer = self.product.layer
        if isinstance(self.product, ClassProduct):
            return Values(1, "classes", layer.dtype, layer.nodata)
        return Values(len(layer.bands))


def wanted_answers(header: HeadHeader, probability: bool, unsure: Uncertainty | None) -> list[Answer]:
    """What is made of a head's answers: the map itself, and what else is asked for.

    Raises:
        InputError: a head of numbers has no probabilities, or no such uncertainty is known.
    """
    if unsure is not None and unsure not in UNCERTAINTIES:
        raise InputError(
            f"--uncertainty {unsure!r}: expected {' or '.join(UNCERTAINTIES)}{did_you_mean(unsure, UNCERTAINTIES)}"
        )
    if header.numbers is not None:
        if probability or unsure is not None:
            option = "--probabilities" if probability else "--uncertainty"
            raise InputError(f"{option} needs a head of classes, and this one answers with numbers: leave it away")
        return [Answer("", "", NumberProduct(header.numbers, header.task), _numbers)]
    found = [Answer("", "", ClassProduct(header.classes), _classes)]
    if probability:
        found.append(
            Answer("_probabilities", "Highest probability", probability_product(header.classes), probabilities)
        )
    if unsure is not None:
        found.append(
            Answer(
                "_uncertainty",
                f"Uncertainty ({unsure})",
                uncertainty_product(unsure),
                partial(uncertainty, kind=unsure),
            )
        )
    return found


class SharedReader:
    """Reads for several heads of a region what all of them need together, once for a window; see `head.Reader`."""

    def __init__(self, heads: Sequence[Head]) -> None:
        needed = {part for head in heads for part in head.header.head.inputs}
        self.region: Region = heads[0].region
        self.inputs = tuple(part for part in HEAD_INPUTS if part in needed)
        self.halo = max(head.layers.halo for head in heads)
        self._read: tuple[Window, dt.date | None, dict[HeadInput, Tensor]] | None = None

    def __call__(self, window: Window, date: dt.date | None, inputs: Sequence[HeadInput]) -> Tensor:
        known = self._read
        if known is None or known[1] != date or known[0].intersection(window) != window:
            # The first head may look less far than another.
            outer = window.expanded(self.halo, 1, self.region.shape)
            known = self._read = (outer, date, self.region.head_parts(outer, date, self.inputs))
        outer, _, parts = known
        return torch.cat([crop(parts[part], window, outer) for part in HEAD_INPUTS if part in inputs])


def _classes(answers: Tensor) -> np.ndarray:
    values: np.ndarray = answers.argmax(0, keepdim=True).to(torch.uint8).cpu().numpy()
    return values


def _numbers(answers: Tensor) -> np.ndarray:
    values: np.ndarray = answers.cpu().numpy()
    return values


def _job(heads: Sequence[Head], dates: Sequence[dt.date], answer: Answer, path: Path, smallest: int) -> MapJob:
    product = answer.product
    titles = ", ".join(dict.fromkeys(head.region.header.title for head in heads))
    shown = f"{answer.shown}: " if answer.shown else ""
    return MapJob(
        path=path.with_name(f"{path.stem}{answer.suffix}{path.suffix}"),
        product=product,
        tags=tags(heads, dates, product.title, product.tags),
        # The date first: long titles are cut at their end.
        heading=f"{', '.join(dict.fromkeys(map(str, dates)))}: {shown}{titles}",
        attribution=attribution(heads),
        smallest=smallest,
    )


def _called(head: Head) -> str:
    return str(head.path or "a head that was not saved")


# ---


@dataclass(frozen=True)
class MapResult:
    """A finished map."""

    path: Path
    quicklook: Path
    window: Window | None
    """Pixels of the region that the map covers; None where it lies on another grid."""
    geobox: GeoBox
    """Of the map."""
    date: dt.date
    """Of the acquisition that was mapped; of several regions, the first one's."""
    title: str
    """What it shows, as in "map of 6 classes"."""
    summary: Summary
    """What it holds: the pixels of each class, the statistics of the numbers, or the means of probabilities."""
    outside: float
    """Share of what was asked for that lies outside the region and is not mapped: 0 to 1."""
    seconds: float
    """That all maps of this call took together."""
    estimated: bool = False
    """Whether no image of the date was ever encoded."""


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
    ``map.png`` (the map at a glance). All are made in a hidden folder beside the map and take their places when
    everything is finished and checked; until then earlier maps stay as they are. Memory follows the tile, not the map.

    Heads of one region share one reading of it. Heads of different regions are mosaicked: where several regions could say
    what a pixel is, the first head's does.

    Args:
        heads: opened or just trained: of one region, or each of a region of its own.
        output: ``*.tif`` or ``*.tiff`` of the one map; of several (by head or date) the folder for them, where each is
            called by its head and date.
        area: where to map; by default the whole region on its own grid.
        dates: of acquisitions, see :func:`lianet_user.maps.dates.chosen_dates`; none takes the one that the head was trained
            on, or the only one of the region.
        probabilities: write ``map_probabilities.tif`` too, with a band for each class.
        uncertainty: write ``map_uncertainty.tif`` too: ``entropy`` or ``margin``.
        turned: average the answers over the eight turns and mirrors of what the head reads; takes longer.
        min_area: hectares; smaller patches of a class become the largest of their neighbours.
        overwrite: replace earlier maps and what lies beside them.
        resume: go on from what an interrupted run with the same arguments left.
        listener: told the pixels done and in all, at first and after every tile. What it raises ends the run.
        creation_options: of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`.
        tile: pixels along the side of what is computed at once: what memory follows.

    Returns:
        The maps by date, then head, then kind.

    Raises:
        AreaError: the area lies outside the region, or what was asked for contradicts itself.
        DateError: the region does not hold a date, or none was given and there are several.
        InputError: the heads do not go together, or do not have what was asked for.
        LabelError: the polygons of the area cannot be read.
        OutputError: a map exists, cannot be written, or does not fit on the disk; there is nothing to resume.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        PartlyOutsideWarning: part of the area lies outside the region and is not mapped.
        LeftoverWarning: what an interrupted run left is discarded.
    """
    started = time.monotonic()
    asked = (heads,) if isinstance(heads, Head) else tuple(heads)
    together = planned(asked, dates)
    check_answers(asked, probabilities, uncertainty, min_area)
    request = MapRequest(
        output=Path(output),
        area=area or MapArea(),
        overwrite=overwrite,
        resume=resume,
        listener=listener,
        creation_options=creation_options,
        tile=tile,
    )
    names = map_names(asked, request.output, map_count(together))
    sites: dict[int, Site] = {}
    for each in together:
        if each.group not in sites:
            sites[each.group] = _site(each, request)
    passes = [_pass(each, sites[each.group], names, turned, min_area, probabilities, uncertainty) for each in together]
    depends_on = {
        "heads": [_digest(head) for head in asked],
        "regions": [head.region.sha256 for head in asked],
        "dates": [[str(date) for date in each.dates] for each in together],
        "uncertainty": uncertainty,
        "turned": turned,
        "precision": [computed_in(head.region.device, head.region.precision) for head in asked],
    }
    write_maps(request, passes, depends_on)
    seconds = time.monotonic() - started
    return tuple(
        MapResult(
            path=job.path,
            quicklook=MapFiles.of(job.path).png,
            window=_window(each.heads[0], run.geobox),
            geobox=run.geobox,
            date=each.dates[0],
            title=job.product.title,
            summary=job.product.summary,
            outside=run.destination.outside,
            seconds=seconds,
        )
        for each, run in zip(together, passes, strict=True)
        for job in run.jobs
    )


def _window(head: Head, geobox: GeoBox) -> Window | None:
    offset = offset_on(head.geobox, geobox)
    if offset is None:
        return None
    mapped = whole(geobox).shifted(*offset).intersection(whole(head.geobox))
    return mapped and mapped.coarsened(head.scale)


def _digest(head: Head) -> str:
    """Of the file, or of the weights of a head that was not read from one."""
    if head.sha256:
        return head.sha256
    digest = hashlib.sha256(head.header.model_dump_json().encode())
    for name, tensor in sorted(stored(head.layers).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
