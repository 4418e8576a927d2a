"""The look ahead at a training: its figures are those of the split that training would use."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pytest
from affine import Affine
from factories import RegionHeaderFactory, labels_on
from odc.geo.geobox import GeoBox

from lianet_user.cli.console import naming_options, print_lines
from lianet_user.errors import LabelError, TrainingWarning
from lianet_user.field.config import preset
from lianet_user.files.header import IGNORE, ClassEntry, RegionHeader
from lianet_user.geo.grid import whole
from lianet_user.labels import LabelMap, Labels, check, check_labels, split_labels

GRID = GeoBox((300, 400), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
DEGREES = GeoBox((300, 400), Affine(1e-4, 0.0, 12.5, 0.0, -1e-4, 52.5), "EPSG:4326")
CLASSES = tuple(ClassEntry(name=name, color=color) for name, color in (("wood", "#00ff00"), ("lake", "#0000ff")))


@pytest.fixture
def region(region_header: RegionHeaderFactory) -> RegionHeader:
    return region_header(geobox=GRID)


def labels(geobox: GeoBox = GRID) -> Labels:
    """Wood nearly everywhere, lakes in few places."""
    values = np.full((300, 400), 0)
    values[:, 100:140] = IGNORE
    values[::60, ::90] = 1
    return labels_on(geobox, values, CLASSES)


def test_pixels_are_those_of_the_split(region: RegionHeader) -> None:
    own, test = labels(), np.zeros((300, 400), bool)
    test[250:, 200:] = True
    asked = {"share": 0.3, "seed": 3, "buffer": 6, "block": 50, "test": test}
    check = check_labels(own, region, **asked)  # type: ignore[arg-type]
    split = split_labels(own, **asked)  # type: ignore[arg-type]
    values = own.maps[0].values
    for counts, ground in (
        (check.training_pixels, split.trained),
        (check.validation_pixels, split.validated),
        (check.test_pixels, split.tested),
    ):
        mask = ground(whole(GRID))
        assert counts == {"wood": int((values[mask] == 0).sum()), "lake": int((values[mask] == 1).sum())}
    assert (check.block, check.buffer, check.buffer_metres) == (50, 6, 60.0)
    assert check.validation_blocks == split.validation.sum()
    # Six rows of eight blocks. Of those that the test area's buffer takes whole or in part, four still hold labels.
    assert check.labelled_blocks == 6 * 8 - 4


def test_what_is_said_of_the_split(region: RegionHeader) -> None:
    check = check_labels(labels(), region)
    said = "\n".join(check.lines())
    assert "12 blocks of 128 x 128 px hold labels, 2 of them would be kept" in said
    assert "with a buffer of 10 px (100 m) around them" in said
    assert f"{sum(check.training_pixels.values()):,} pixels to train on" in said
    counts = f"{check.training_pixels['lake']} to train on, {check.validation_pixels['lake']} to validate on"
    assert f"few of lake: {counts}" in said
    assert "few of wood" not in said
    assert "test area" not in said
    assert check.as_dict()["test_pixels"] is None
    test = np.zeros((300, 400), bool)
    test[:50, :70] = True
    said = "\n".join(check_labels(labels(), region, test=test).lines())
    assert "3,500 pixels in the test area, set aside" in said


def test_a_buffer_in_degrees_is_not_said_in_metres(region_header: RegionHeaderFactory) -> None:
    check = check_labels(labels(DEGREES), region_header(geobox=DEGREES))
    assert check.buffer_metres is None
    assert any("with a buffer of 10 px around them" in line for line in check.lines())


def test_numbers_are_told_by_their_ranges(region: RegionHeader) -> None:
    numbers = np.random.default_rng(0).uniform(0, 50, (300, 400)).astype(np.float32)
    heights = dataclasses.replace(
        labels(), task="regression", classes=(), maps=(LabelMap(numbers, (dt.date(2017, 2, 16),)),)
    )
    check = check_labels(heights, region)
    assert len(check.validation_pixels) == 5
    lows, highs = zip(*(map(float, name.split(" to ")) for name in check.validation_pixels), strict=True)
    assert lows[1:] == highs[:-1]
    assert lows == pytest.approx([0, 10, 20, 30, 40], abs=0.5)
    assert sum(check.validation_pixels.values()) > 0.1 * numbers.size


def test_labels_that_cannot_be_trained_on_are_refused(region: RegionHeader) -> None:
    values = np.full((300, 400), IGNORE)
    values[20:25, 20:30] = np.arange(10) % 2
    with pytest.raises(LabelError, match="within one block of"):
        check_labels(labels_on(GRID, values, CLASSES), region)


def test_what_cannot_be_validated_is_warned_of(region: RegionHeader) -> None:
    values = np.full((300, 400), 0)
    values[20:40, 20:40] = 1
    with pytest.warns(TrainingWarning, match="lake lie in a single block"):
        check = check_labels(labels_on(GRID, values, CLASSES), region)
    assert check.validation_pixels["lake"] == 0
    assert check.training_pixels["lake"] == 400


@pytest.mark.parametrize("name", ["base", "large"])
def test_the_papers_fields_take_longer_than_lite(
    region: RegionHeader, region_header: RegionHeaderFactory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "matrix_gflops", lambda: 100.0)  # a machine as busy for one as for the other
    slow = region_header(geobox=GRID, field=preset(name, height=300, width=400, bands=3))
    assert check_labels(labels(), slow).seconds > check_labels(labels(), region).seconds


@pytest.mark.parametrize("command", ["check", "evaluate", "finetune"])
def test_printed_reports_name_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["give `task` regression", "`mapping` 'a=b' merges [them]", "`labels_crs`, `dates`"], command)
    assert capsys.readouterr().out == "give --task regression\n--map 'a=b' merges [them]\n--labels-crs, --date\n"


def test_the_report_that_a_command_shows_or_stores_names_options() -> None:
    read = labels()
    noted = dataclasses.replace(read.report, notes=("Task: numbers; give `task` segmentation",))
    told = naming_options(dataclasses.replace(read, report=noted), "finetune")
    assert told.report.notes == ("Task: numbers; give --task segmentation",)
    assert "Task: numbers; give --task segmentation" in told.report.lines()
    assert told.digest() == read.digest()
