"""A head against labels, and against more and more of them."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pytest
from affine import Affine
from conftest import RegionFactory, labels_on
from odc.geo.geobox import GeoBox
from sklearn.metrics import confusion_matrix

from lianet_user.errors import LabelError, TrainingWarning
from lianet_user.head import Head
from lianet_user.header import IGNORE, ClassEntry, Scores
from lianet_user.labels import LabelMap, Labels, split_folds
from lianet_user.region import Region
from lianet_user.training import FinetuneSettings, finetune
from lianet_user.training.evaluate import evaluate, mapped_pixels
from lianet_user.training.learning_curve import learning_curve

GRID = GeoBox((160, 280), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
CLASSES = tuple(ClassEntry(name=name, color=f"#00000{n}") for n, name in enumerate(("dark", "bright")))
QUICK = FinetuneSettings(
    inputs=("bands", "context"), widths=(8,), members=1, steps=20, batch=4, crop=16, rate=1e-2, validate_every=10
)


@pytest.fixture
def region(make_region: RegionFactory) -> Region:
    return make_region(geobox=GRID, dates=2)


@pytest.fixture
def labels(region: Region) -> Labels:
    """What is bright at the first date, for both dates, in a third of the pixels."""
    band = region.head_input(region.window, FIRST, ("context",))[0].numpy()
    values = np.where(np.random.default_rng(0).random(band.shape) < 1 / 3, band > np.median(band), IGNORE)
    return labels_on(GRID, values.astype(np.uint8), CLASSES, (FIRST, SECOND))


@pytest.fixture
def head(region: Region, labels: Labels) -> Head:
    return finetune(region, labels, settings=QUICK).head


def others(labels: Labels) -> Labels:
    return dataclasses.replace(labels, report=dataclasses.replace(labels.report, source="a survey"))


def test_figures_are_those_of_the_maps_at_each_date_and_of_their_mean(head: Head, labels: Labels) -> None:
    judged = evaluate(head, others(labels))
    window, reference = head.region.window, labels.maps[0].values
    inside = reference != IGNORE
    total = np.zeros((2, 2), int)
    for date in (FIRST, SECOND):
        expected = confusion_matrix(reference[inside], head.values(window, date)[inside])
        (found,) = (each.scores for each in judged.dated_scores() if each.date == date)
        assert isinstance(found, Scores)
        # Inputs are kept as float16: a pixel between two classes may fall otherwise.
        assert np.abs(np.array(found.confusion) - expected).sum() <= 0.01 * inside.sum()
        total += np.array(found.confusion)
    together = judged.scores()
    assert isinstance(together, Scores)
    assert np.array_equal(np.array(together.confusion), total)
    mean = np.mean([head.answers(window, date).exp().numpy() for date in (FIRST, SECOND)], 0).argmax(0)
    assert judged.of_mean is not None
    found = judged.of_mean.compute()
    assert isinstance(found, Scores)
    expected = confusion_matrix(reference[inside], mean[inside])
    assert np.abs(np.array(found.confusion) - expected).sum() <= 0.01 * inside.sum()


def test_a_head_holds_its_figures_for_each_date(head: Head) -> None:
    assert [each.date for each in head.header.scores_by_date] == [FIRST, SECOND]
    assert isinstance(head.header.scores, Scores)
    assert head.header.scores.pixels == sum(each.scores.pixels for each in head.header.scores_by_date)
    assert head.header.scores_of_mean is not None
    assert head.header.scores_of_mean.pixels * 2 == head.header.scores.pixels


def test_labels_that_a_head_was_trained_on_are_warned_of(head: Head, labels: Labels) -> None:
    with pytest.warns(TrainingWarning, match="flatter"):
        evaluate(head, labels)


def test_labels_of_another_kind_or_with_unknown_classes_are_refused(head: Head, labels: Labels) -> None:
    stranger = (CLASSES[0], ClassEntry(name="blue", color="#0000ff"))
    with pytest.raises(LabelError, match="'blue'"):
        evaluate(head, dataclasses.replace(others(labels), classes=stranger))
    numbers = LabelMap(labels.maps[0].values.astype(np.float32), labels.dates)
    with pytest.raises(LabelError, match="regression at scale 1"):
        evaluate(head, dataclasses.replace(others(labels), task="regression", classes=(), maps=(numbers,)))


def test_mapped_pixels_are_those_of_the_whole_map(head: Head) -> None:
    expected = np.bincount(head.values(head.region.window, SECOND).ravel(), minlength=2)
    assert mapped_pixels(head, SECOND).tolist() == expected.tolist()


def test_a_curve_is_judged_on_ground_that_no_share_of_a_repeat_was_trained_on(region: Region, labels: Labels) -> None:
    points = learning_curve(region, labels, shares=(0.2, 0.5, 1.0), repeats=2, settings=lambda _: QUICK)
    assert [(point.repeat, point.share) for point in points] == [(r, s) for r in (0, 1) for s in (0.2, 0.5, 1.0)]
    for repeat in (0, 1):
        own = [point for point in points if point.repeat == repeat]
        assert len({point.scores.pixels for point in own}) == 1
        assert [point.blocks for point in own] == sorted(point.blocks for point in own)
        assert own[0].blocks < own[2].blocks
        assert own[0].pixels < own[1].pixels < own[2].pixels
        assert not own[0].lacking


def test_folds_judge_every_label_once_and_the_head_trains_on_all_of_them(region: Region, labels: Labels) -> None:
    trained = finetune(region, labels, settings=QUICK, folds=split_folds(labels, 3))
    scores = trained.head.header.scores
    assert isinstance(scores, Scores)
    assert scores.pixels == 2 * int(labels.maps[0].labelled.sum())
    assert trained.split.trained(region.window).all()
    assert trained.head.header.provenance.settings["folds"] == 3
