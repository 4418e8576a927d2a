"""Which acquisitions to map."""

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
    """The acquisitions that are asked for, in the order of time.

    Args:
        asked: dates as ``YYYY-MM-DD``, spans as ``A..B`` (both ends belong to it), or :data:`ALL`.
        held: acquisitions that can be mapped.

    Raises:
        DateError: one is no date or is not held, or none lies in a span.
    """
    found: set[dt.date] = set()
    for text in asked:
        if text == ALL:
            found |= set(held)
        elif SPAN in text:
            first, last = (parse_date(end) for end in text.split(SPAN, 1))
            if first > last:
                raise DateError(f"--date {text}: the span ends before it begins, expected A..B with A before B")
            within = {date for date in held if first <= date <= last}
            if not within:
                raise DateError(f"--date {text}: no date that can be mapped lies in it; {_held(held)}")
            found |= within
        else:
            date = parse_date(text)
            if date not in held:
                raise DateError(f"--date {text}: the region does not hold {date}; {_held(held)}")
            found.add(date)
    return tuple(sorted(found))


def _held(held: Sequence[dt.date]) -> str:
    if not held:
        return "there is no date that all regions hold"
    if len(held) == 1:
        return f"the only date it holds is {held[0]}"
    return f"it holds {len(held)} dates, {min(held)} to {max(held)}: `lianet-user info` lists them"


# --- When: the dates that a region is asked to remember, encoded or estimated.


@dataclass(frozen=True)
class Moment:
    """A date at which a region is read."""

    date: dt.date
    estimated: bool = False
    """Whether no acquisition of that date was encoded."""

    @property
    def words(self) -> str:
        """As a heading says it."""
        return f"{self.date} (estimated)" if self.estimated else f"{self.date}"


def moment_of(header: RegionHeader, text: str, *, extrapolate: bool = False, option: str = "--date") -> Moment:
    """One date: encoded, or estimated where the region's time is continuous.

    Args:
        header: of the region.
        text: ``YYYY-MM-DD``.
        extrapolate: estimate before the first and after the last acquisition too.
        option: where the date was given, for messages.

    Raises:
        DateError: it is no date, or the region cannot say anything about it.

    Warns:
        EstimateWarning: it is estimated.
    """
    date = parse_date(text, option)
    if date in header.dates:
        return Moment(date)
    first, last = min(header.dates), max(header.dates)
    held = f"it holds {first}" if first == last else f"it holds {len(header.dates)} dates, {first} to {last}"
    if header.field.time.kind == "index":
        raise DateError(
            f"{option} {date}: the region {header.name!r} knows its acquisitions by number and estimates nothing between"
            f" them; {held}: choose one that `lianet-user info` lists"
        )
    if not first <= date <= last and not extrapolate:
        raise DateError(
            f"{option} {date} lies outside what the region {header.name!r} has seen; {held}: choose a date from there, or"
            " estimate it all the same with --extrapolate"
        )
    before = max((each for each in header.dates if each < date), default=None)
    after = min((each for each in header.dates if each > date), default=None)
    sides = f"between {before} and {after}" if before and after else f"after {last}" if before else f"before {first}"
    message = f"no image of {date} was encoded: what is written is an estimate {sides}, not an observation"
    warnings.warn(message, EstimateWarning, stacklevel=3)
    return Moment(date, estimated=True)


def chosen_moments(header: RegionHeader, asked: Sequence[str], *, extrapolate: bool = False) -> tuple[Moment, ...]:
    """The dates that are asked for, in the order of time; of a region of one date, none asks for it.

    Args:
        header: of the region.
        asked: as in :func:`lianet_user.maps.dates.chosen_dates`, or dates between those that the region holds.
        extrapolate: as in `moment_of`.

    Raises:
        DateError: as in `moment_of`; or none is given and there are several.

    Warns:
        EstimateWarning: one is estimated.
    """
    if not asked:
        return (Moment(header.dates[header.date_index(None)]),)
    found: set[Moment] = set()
    for text in asked:
        if text == ALL or SPAN in text:
            found |= {Moment(date) for date in chosen_dates([text], header.dates)}
        else:
            found.add(moment_of(header, text, extrapolate=extrapolate))
    return tuple(sorted(found, key=lambda moment: moment.date))
