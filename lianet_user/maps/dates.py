"""Which acquisitions to map."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from lianet_user.errors import DateError
from lianet_user.header import parse_date

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
