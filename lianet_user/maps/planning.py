"""Which maps there are: what heads are mapped together, on which ground, and what each map is called."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lianet_user.errors import InputError, OutputError, listed
from lianet_user.head import Head
from lianet_user.maps.answering import Answer, Source, TileComputer, wanted_answers
from lianet_user.maps.area import Destination, MapArea, destination
from lianet_user.maps.certainty import Uncertainty
from lianet_user.maps.dates import chosen_dates
from lianet_user.maps.files import SUFFIXES
from lianet_user.maps.picture import pixel_metres
from lianet_user.maps.placing import place
from lianet_user.maps.style import attribution, tags
from lianet_user.maps.writing import MapJob, Pass

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
        raise InputError(f"--min-area {min_area:g}: expected hectares, a number above 0")


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


def ground_of(each: Together, area: MapArea) -> Destination:
    mapping = each.heads if each.mosaic else each.heads[:1]
    names = [head.region.header.name for head in mapping]
    return destination(area, [head.geobox for head in mapping], names, mapping[0].scale)


def map_pass(
    each: Together,
    ground: Destination,
    names: Names,
    turned: bool,
    min_area: float | None,
    probability: bool,
    unsure: Uncertainty | None,
) -> Pass:
    """The maps of some heads, and how to compute a tile of them."""
    side = each.heads[0].tile
    if each.mosaic:
        pairs = zip(each.heads, each.dates, strict=True)
        sources = [Source((head,), date, place(head.geobox, ground.geobox, side)) for head, date in pairs]
        credited = [(each.heads, each.dates)]
    else:
        sources = [Source(each.heads, each.dates[0], place(each.heads[0].geobox, ground.geobox, side))]
        credited = [((head,), each.dates[:1]) for head in each.heads]
    answers = [wanted_answers(of[0].header, probability, unsure) for of, _ in credited]
    smallest = 1
    if min_area is not None:
        smallest = max(1, round(min_area * HECTARE / math.prod(pixel_metres(ground.geobox))))
    jobs = [
        _job(of, dates, answer, names(of[0], dates[0]), smallest if answer.kind == "classes" else 1)
        for (of, dates), wanted in zip(credited, answers, strict=True)
        for answer in wanted
    ]
    tile = max(1, int(side / max(1.0, *(source.placement.factor for source in sources))))
    return Pass(ground.geobox, tuple(jobs), TileComputer(sources, answers, ground, turned), tile)


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
