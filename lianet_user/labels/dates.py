"""When labels hold: which of a region's acquisitions they describe."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lianet_user.errors import DateError
from lianet_user.files.header import RegionHeader, parse_date
from lianet_user.labels.options import EVERY_DATE

Date = dt.date


def described_dates(asked: Sequence[str], region: RegionHeader, tolerance: int) -> tuple[tuple[Date, ...], list[str]]:
    """The acquisitions that all labels describe, in the region's order, and what was decided on the way.

    Args:
        asked: dates as YYYY-MM-DD, or :data:`EVERY_DATE`; none takes the only acquisition there is.
        region: whose acquisitions they have to be.
        tolerance: days that a date may be away from the acquisition that is taken for it.

    Raises:
        DateError: one is no date or is not held, or none was given and the region holds several.
    """
    if not asked:
        if len(region.dates) > 1:
            raise DateError(
                f"region {region.name!r} holds {len(region.dates)} dates ({min(region.dates)} to {max(region.dates)})"
                " and it is not said which the labels describe: give --date YYYY-MM-DD (several, if they hold at"
                f" several), --date {EVERY_DATE} if they hold at every one, or --date-field COLUMN"
            )
        return region.dates, []
    if EVERY_DATE in asked:
        if len(asked) > 1:
            raise DateError(f"--date {EVERY_DATE} stands for every date: leave the other dates away")
        return region.dates, [f"Dates: all {len(region.dates)} of the region"]
    days = pd.Series([parse_date(text) for text in asked], dtype=object)
    indices, notes = held_dates(days, region, tolerance)
    return tuple(region.dates[index] for index in sorted(set(indices.tolist()))), notes


def held_dates(
    days: pd.Series, region: RegionHeader, tolerance: int, way_out: str = "give one of them"
) -> tuple[NDArray[np.intp], list[str]]:
    """The acquisition each date stands for: index into `region.dates`, -1 where there is no date.

    Args:
        days: ``datetime.date`` or None.
        region: whose acquisitions they have to be.
        tolerance: days that a date may be away from the acquisition nearest to it.
        way_out: what can be done about a date that is farther away, besides a larger tolerance.

    Raises:
        DateError: a date is farther than that from every acquisition.
    """
    known = days.notna().to_numpy(bool)
    indices = np.full(len(days), -1, np.intp)
    notes = []
    distinct, inverse = np.unique(np.array([day.toordinal() for day in days[known]], np.int64), return_inverse=True)
    held = np.array([date.toordinal() for date in region.dates], np.int64)
    away = np.abs(distinct[:, None] - held[None, :])
    nearest = away.argmin(axis=1)
    too_far = np.flatnonzero(away.min(axis=1) > tolerance)
    if len(too_far):
        raise _not_held([Date.fromordinal(int(distinct[index])) for index in too_far], region, tolerance, way_out)
    for index in np.flatnonzero(away.min(axis=1)):
        taken, distance = region.dates[nearest[index]], int(away[index].min())
        notes.append(
            f"Dates: {Date.fromordinal(int(distinct[index]))} taken for {taken}, {distance} day{'s'[: distance > 1]} away"
        )
    indices[known] = nearest[inverse]
    return indices, notes


def _not_held(missing: Sequence[Date], region: RegionHeader, tolerance: int, way_out: str) -> DateError:
    first = missing[0]
    nearest = sorted(sorted(region.dates, key=lambda date: abs(date - first))[:3])
    held = "nearest dates it holds are" if len(nearest) > 1 else "only date it holds is"
    more = f" and {len(missing) - 1} more dates of the labels" if len(missing) > 1 else ""
    days = max(min(abs(date - one).days for date in region.dates) for one in missing)
    within = f" within {tolerance} days" if tolerance else ""
    return DateError(
        f"region {region.name!r} does not hold {first}{more}{within}: the {held}"
        f" {', '.join(map(str, nearest))}; {way_out}, or --date-tolerance {days} to take the nearest"
    )
