"""Which dates to map: acquisitions that were encoded, and dates between them, which are estimated."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from lianet_user.errors import DateError, EstimateWarning
from lianet_user.files.header import RegionHeader, parse_date

ALL = "all"
SPAN = ".."


def chosen_dates(asked: Sequence[str], held: Sequence[dt.date]) -> tuple[dt.date, ...]:
    """Select acquisitions, in chronological order.

    Args:
        asked: dates as ``YYYY-MM-DD``, spans as ``A..B`` (both ends included), or :data:`ALL`.
        held: acquisitions that can be mapped.

    Raises:
        DateError: a text is not a date, the region does not hold it, or no acquisition lies in a span.
    """
    chosen: set[dt.date] = set()
    for text in asked:
        if text == ALL:
            chosen |= set(held)
        elif SPAN in text:
            first, last = (parse_date(end) for end in text.split(SPAN, 1))
            if first > last:
                raise DateError(f"`dates` {text}: the span ends before it begins, expected A..B with A before B")
            within = {date for date in held if first <= date <= last}
            if not within:
                raise DateError(f"`dates` {text}: no date that can be mapped lies in it; {_held(held)}")
            chosen |= within
        else:
            date = parse_date(text)
            if date not in held:
                raise DateError(f"`dates` {text}: the region does not hold {date}; {_held(held)}")
            chosen.add(date)
    return tuple(sorted(chosen))


def _held(held: Sequence[dt.date]) -> str:
    if not held:
        return "there is no date that all regions hold"
    if len(held) == 1:
        return f"the only date it holds is {held[0]}"
    return f"it holds {len(held)} dates, {min(held)} to {max(held)}: `lianet-user info` lists them"


# --- Dates to reconstruct, which may lie between acquisitions.


@dataclass(frozen=True)
class Moment:
    """A date at which a region is read."""

    date: dt.date
    estimated: bool = False
    """Whether no acquisition of that date was encoded."""

    @property
    def words(self) -> str:
        """For headings."""
        return f"{self.date} (estimated)" if self.estimated else f"{self.date}"


def moment_of(header: RegionHeader, text: str, *, extrapolate: bool = False, argument: str = "`dates`") -> Moment:
    """Read one date: an acquisition, or an estimate where the region's time encoding is continuous.

    Args:
        header: of the region.
        text: ``YYYY-MM-DD``.
        extrapolate: estimate before the first and after the last acquisition too.
        argument: that gave the date, for messages.

    Raises:
        DateError: it is not a date, or the region cannot reconstruct it.

    Warns:
        EstimateWarning: it is estimated.
    """
    date = parse_date(text, argument)
    if date in header.dates:
        return Moment(date)
    first, last = min(header.dates), max(header.dates)
    held = f"it holds {first}" if first == last else f"it holds {len(header.dates)} dates, {first} to {last}"
    if header.field.time.kind == "index":
        raise DateError(
            f"{argument} {date}: the region {header.name!r} encodes its acquisitions by number and estimates none between"
            f" them; {held}: choose one that `lianet-user info` lists"
        )
    if not first <= date <= last and not extrapolate:
        raise DateError(
            f"{argument} {date} lies outside the dates of the region {header.name!r}; {held}: choose a date between them, or"
            " estimate it all the same with `extrapolate`"
        )
    before = max((each for each in header.dates if each < date), default=None)
    after = min((each for each in header.dates if each > date), default=None)
    sides = f"between {before} and {after}" if before and after else f"after {last}" if before else f"before {first}"
    message = f"no image of {date} was encoded: what is written is an estimate {sides}, not an observation"
    warnings.warn(message, EstimateWarning, stacklevel=3)
    return Moment(date, estimated=True)


def chosen_moments(header: RegionHeader, asked: Sequence[str], *, extrapolate: bool = False) -> tuple[Moment, ...]:
    """Select dates to reconstruct, in chronological order; a region of one date needs none.

    Args:
        header: of the region.
        asked: as in :func:`lianet_user.maps.dates.chosen_dates`, or dates between those that the region holds.
        extrapolate: as in `moment_of`.

    Raises:
        DateError: as in `moment_of`; or no date is given and the region has several.

    Warns:
        EstimateWarning: a date is estimated.
    """
    if not asked:
        return (Moment(header.dates[header.date_index(None)]),)
    moments: set[Moment] = set()
    for text in asked:
        if text == ALL or SPAN in text:
            moments |= {Moment(date) for date in chosen_dates([text], header.dates)}
        else:
            moments.add(moment_of(header, text, extrapolate=extrapolate))
    return tuple(sorted(moments, key=lambda moment: moment.date))
