"""A head against labels, and against more and more of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from agreement import nearly_tied
from factories import RegionFactory, labels_on
from heads import entries
from odc.geo.geobox import GeoBox
from sklearn.metrics import confusion_matrix

from lianet_user.errors import InputError, LabelError, TrainingWarning
from lianet_user.evaluation.evaluate import evaluate
from lianet_user.evaluation.learning_curve import learning_curve
from lianet_user.files.header import IGNORE, ClassEntry, Scores
from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.geo.grid import Window, whole
from lianet_user.geo.ground_area import Ground
from lianet_user.head import Head
from lianet_user.labels import LabelMap, Labels, Split, split_folds
from lianet_user.labels.label_map import NumberSummary
from lianet_user.maps import picture, predict
from lianet_user.region import Region

GRID = GeoBox((160, 280), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
FIRST, SECOND = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
CLASSES = entries(("dark", "bright"))
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


@pytest.mark.numerics
def test_figures_are_those_of_the_maps_that_predict_writes(head: Head, labels: Labels, tmp_path: Path) -> None:
    """To the pixel, of a head that is undecided everywhere too: both are counted on the same tiles."""
    reference = labels.maps[0].values
    inside = reference != IGNORE
    for number, each in enumerate((head, nearly_tied(head))):
        maps = []
        judged = evaluate(each, others(labels), tile=96).judgement
        for date in (FIRST, SECOND):
            (written,) = predict(each, tmp_path / f"{number}-{date}.tif", dates=[date], tile=96)
            with rasterio.open(written.path) as file:
                maps.append(file.read(1))
            (found,) = (dated.scores for dated in judged.dated_scores() if dated.date == date)
            assert isinstance(found, Scores)
            assert np.array_equal(found.confusion, confusion_matrix(reference[inside], maps[-1][inside]))
        together = judged.scores()
        assert isinstance(together, Scores)
        expected = [confusion_matrix(reference[inside], mapped[inside]) for mapped in maps]
        assert np.array_equal(together.confusion, np.sum(expected, 0))


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_the_mean_over_the_dates_is_of_probabilities_or_of_numbers(
    head: Head, labels: Labels, region: Region, kind: str
) -> None:
    if kind == "numbers":
        shares = np.where(labels.maps[0].labelled, labels.maps[0].values / 2 + 0.25, np.nan).astype(np.float32)
        report = dataclasses.replace(labels.report, numbers=NumberSummary(0.25, 0.5, 0.75, 0.25))
        dated = (LabelMap(shares, labels.dates),)
        labels = dataclasses.replace(labels, task="regression", classes=(), maps=dated, report=report)
        head = finetune(region, labels, settings=QUICK).head
    judged = evaluate(head, others(labels)).judgement
    assert judged.of_mean is not None
    found = judged.of_mean.compute()
    (window,) = head.map_tiles(region.window)
    answers = torch.stack([head.answers(window, date) for date in (FIRST, SECOND)])
    each, inside = labels.maps[0], labels.maps[0].labelled
    if isinstance(found, Scores):
        mean = answers.exp().mean(0).argmax(0).numpy()
        assert np.array_equal(found.confusion, confusion_matrix(each.values[inside], mean[inside]))
    else:
        mean = answers.mean(0)[0].numpy()
        assert found.mae == pytest.approx(np.abs(mean - each.values)[inside].mean(), rel=1e-5)


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


def test_tiles_without_labels_are_computed_for_areas_only(
    head: Head, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full_like(labels.maps[0].values, IGNORE)
    values[100, 200], values[150, 279] = 0, 1
    few = dataclasses.replace(others(labels), maps=(LabelMap(values, (SECOND,)),))
    asked: list[tuple[Window, dt.date | None]] = []
    answers = head.answers

    def counted(window: Window, date: dt.date | None = None) -> torch.Tensor:
        asked.append((window, date))
        return answers(window, date)

    monkeypatch.setattr(head, "answers", counted)
    told: list[tuple[int, int]] = []
    evaluate(head, few, listener=lambda *done: told.append(done), tile=96)
    assert asked == [(Window(96, 192, 64, 88), SECOND)]
    assert told == [(64 * 88, 64 * 88)]
    found = evaluate(head, few, areas=True, tile=96).areas
    assert {date for _, date in asked} == {SECOND}
    assert len(asked) == 1 + 6
    assert found is not None
    assert sum(each.mapped_ha for each in found.classes) == pytest.approx(160 * 280 / 100, rel=2e-4)


@pytest.mark.numerics
def test_areas_of_short_trainings_are_those_of_their_maps(
    make_region: RegionFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undecided heads, whose classes rounding decides here and there; and a survey of all ground, so that no pixel may go
    another way in the map than among the labels."""
    monkeypatch.setattr(picture, "DPI", 30)
    geobox = GeoBox((56, 72), GRID.affine, GRID.crs)
    region = make_region(name="little", geobox=geobox)
    brightness = region.head_input(region.window, FIRST, ("context",))[0].numpy()
    every = (brightness > np.median(brightness)).astype(np.uint8)
    some = np.where(np.random.default_rng(0).random(every.shape) < 1 / 3, every, IGNORE)
    survey, training = others(labels_on(geobox, every, CLASSES)), labels_on(geobox, some, CLASSES)
    chosen = np.zeros((4, 5), bool)
    chosen[1, 1] = chosen[2, 3] = True
    for seed in range(20):
        quick = dataclasses.replace(QUICK, steps=4, seed=seed)
        head = finetune(region, training, settings=quick, split=Split(every.shape, 16, chosen)).head
        found = evaluate(head, survey, areas=True, tile=40).areas
        assert found is not None
        (result,) = predict(head, tmp_path / f"{seed}.tif", tile=40)
        with rasterio.open(result.path) as file:
            hectares = np.bincount(file.read(1).ravel(), Ground(geobox).pixels(whole(geobox)).ravel(), minlength=2)
        assert [each.mapped_ha for each in found.classes] == pytest.approx(hectares.tolist(), rel=1e-12)


def test_a_curve_is_judged_on_ground_no_share_was_trained_on(region: Region, labels: Labels) -> None:
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


def test_a_survey_of_one_class_tells_how_much_of_it_is_found(head: Head, labels: Labels) -> None:
    """Nothing else could be mistaken for it: there is no precision and no mean, and no area."""
    (only,) = labels.maps
    bright = LabelMap(np.where(only.values == 1, np.uint8(0), np.uint8(IGNORE)), only.dates)
    survey = dataclasses.replace(others(labels), classes=CLASSES[1:], maps=(bright,))
    both, one = (evaluate(head, each).judgement.scores() for each in (others(labels), survey))
    assert isinstance(both, Scores)
    assert isinstance(one, Scores)
    assert one.confusion[1] == both.confusion[1]
    assert one.classes[1].accuracy == both.classes[1].accuracy
    assert {one.macro_f1, one.macro_iou, one.macro_precision, one.macro_recall} == {None}
    assert {value for each in one.classes for value in (each.precision, each.f1, each.iou)} == {None}
    with pytest.raises(InputError, match=r"`areas`: the labels hold a single class \('bright'\)"):
        evaluate(head, dataclasses.replace(survey, maps=(LabelMap(bright.values, (FIRST,)),)), areas=True)
    with pytest.raises(InputError, match=r"a survey holds a single class \('bright'\), expected two or more to train"):
        finetune(head.region, survey, settings=QUICK)
