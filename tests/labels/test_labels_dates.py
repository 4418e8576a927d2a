"""When labels hold: the acquisitions they describe are held by the region, or the labels are refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import geopandas
import pandas as pd
import pytest
from factories import RegionHeaderFactory
from shapely import Point

from lianet_user.errors import DateError
from lianet_user.files.header import RegionHeader
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.labels.read import described_dates, nearest_acquisitions

FEBRUARY, MARCH, APRIL = (dt.date(2017, month, 16) for month in (2, 3, 4))


@pytest.fixture
def region(region_header: RegionHeaderFactory) -> RegionHeader:
    """A region of three dates."""
    return region_header(dates=3)


def test_the_only_date_needs_no_word(region_header: RegionHeaderFactory) -> None:
    assert described_dates((), region_header(), 0) == ((FEBRUARY,), [])


def test_of_several_dates_none_is_guessed(region: RegionHeader) -> None:
    with pytest.raises(
        DateError, match=r"holds 3 dates \(2017-02-16 to 2017-04-16\).*`dates` all.*`date_field` COLUMN"
    ):
        described_dates((), region, 0)


def test_a_column_that_could_hold_dates_is_named(region: RegionHeader, tmp_path: Path) -> None:
    for column, values in (
        ("surveyed", pd.to_datetime(["2017-02-16", "2017-03-16"])),
        ("Date_of_visit", ["2017-02-16", "2017-03-16"]),
    ):
        path = tmp_path / f"{column}.gpkg"
        points = [Point(330_005, 5_819_995), Point(330_015, 5_819_985)]
        frame = {"class": ["a", "b"], column: values}
        geopandas.GeoDataFrame(frame, geometry=points, crs="EPSG:32633").to_file(path)
        with pytest.raises(DateError, match=f"or `date_field` {column} if that column says it"):
            read_labels(path, region, LabelOptions(field="class"))
        assert len(read_labels(path, region, LabelOptions(field="class", date_field=column)).maps) == 2


def test_all_is_every_date_and_stands_alone(region: RegionHeader) -> None:
    assert described_dates(("all",), region, 0) == ((FEBRUARY, MARCH, APRIL), ["Dates: all 3 of the region"])
    with pytest.raises(DateError, match="omit the other dates"):
        described_dates(("all", "2017-03-16"), region, 0)


def test_dates_come_in_the_regions_order_each_once(region: RegionHeader) -> None:
    dates, notes = described_dates(("2017-04-16", "2017-02-16", "2017-04-16"), region, 0)
    assert (dates, notes) == ((FEBRUARY, APRIL), [])


def test_an_unknown_date_is_refused_with_the_nearest(region: RegionHeader) -> None:
    with pytest.raises(
        DateError,
        match=r"does not hold 2017-03-20 within 3 days: .* 2017-02-16, 2017-03-16, 2017-04-16; .*`date_tolerance` 4 ",
    ):
        described_dates(("2017-03-20",), region, 3)


def test_within_the_tolerance_the_nearest_is_taken_and_said(region: RegionHeader) -> None:
    dates, notes = described_dates(("2017-03-20", "2017-02-15"), region, 4)
    assert dates == (FEBRUARY, MARCH)
    assert sorted(notes) == [
        "Dates: 2017-02-15 taken for 2017-02-16, 1 day away",
        "Dates: 2017-03-20 taken for 2017-03-16, 4 days away",
    ]


@pytest.mark.parametrize("text", ["yesterday", "2017-13-01", "16.02.2017", ""])
def test_what_is_no_date_is_refused(region: RegionHeader, text: str) -> None:
    with pytest.raises(DateError, match="is not a date: expected YYYY-MM-DD"):
        described_dates((text,), region, 0)


def test_each_feature_gets_the_acquisition_of_its_own_date(region: RegionHeader) -> None:
    days = pd.Series([MARCH, None, FEBRUARY, dt.date(2017, 4, 18), MARCH], dtype=object)
    indices, notes = nearest_acquisitions(days, region, 2)
    assert indices.tolist() == [1, -1, 0, 2, 1]
    assert notes == ["Dates: 2017-04-18 taken for 2017-04-16, 2 days away"]


def test_features_of_dates_that_are_not_held_are_counted_in_the_refusal(region: RegionHeader) -> None:
    days = pd.Series([MARCH, dt.date(2016, 1, 1), dt.date(2016, 1, 2), dt.date(2016, 1, 1)], dtype=object)
    with pytest.raises(
        DateError,
        match=r"2016-01-01 and 1 more dates of the labels: .*; leave them out, or `date_tolerance` 412 to take the nearest",
    ):
        nearest_acquisitions(days, region, 0, "leave them out")
    indices, _ = nearest_acquisitions(days, region, 412)
    assert indices.tolist() == [1, 0, 0, 0]
