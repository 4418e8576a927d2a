"""Figures: those of scikit-learn, however the pixels come in, and None where there is nothing to divide by."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from heads import entries
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    mean_absolute_error,
    mean_squared_error,
    precision_score,
    r2_score,
    recall_score,
)

from lianet_user.files.header import IGNORE, AnyScores, HeadHeader, Numbers, NumberScores, Scores
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.metrics import ClassMeter, NumberMeter, figure_of_merit, meter_for, scores
from lianet_user.finetuning.samples import Sample
from lianet_user.finetuning.validation import Judgement, intervals, unjudged, verdict, wide_intervals
from lianet_user.geo.grid import Window

Floats = NDArray[np.float32]


def class_scores(reference: NDArray[np.uint8], predicted: NDArray[np.generic], classes: int) -> Scores:
    meter = ClassMeter(entries(classes))
    meter.update(torch.from_numpy(reference), torch.from_numpy(predicted))
    return meter.compute()


def number_scores(*windows: tuple[Floats, Floats]) -> NumberScores:
    meter = NumberMeter()
    for reference, predicted in windows:
        meter.update(torch.from_numpy(reference), torch.from_numpy(predicted))
    return meter.compute()


# --- classes


@st.composite
def class_maps(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Reference and predicted of one shape: classes may be absent in either or both, pixels unlabelled, even all of them."""
    classes = draw(st.integers(1, 6))
    in_reference = draw(st.lists(st.sampled_from([*range(classes), IGNORE]), min_size=1, unique=True))
    in_predicted = draw(st.lists(st.sampled_from(range(classes)), min_size=1, unique=True))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(in_reference, shape).astype(np.uint8), rng.choice(in_predicted, shape), classes


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # scikit-learn's, of one class
@given(class_maps())
def test_figures_are_those_of_scikit_learn(maps: tuple[NDArray[np.uint8], NDArray[np.int64], int]) -> None:
    reference, predicted, classes = maps
    truth, guess = reference[reference != IGNORE], predicted[reference != IGNORE]
    found = class_scores(*maps)
    assert found.pixels == truth.size
    if not truth.size:
        assert np.sum(found.confusion) == 0
        return
    every, present = list(range(classes)), np.unique(truth).tolist()
    assert np.array_equal(found.confusion, confusion_matrix(truth, guess, labels=every))
    assert found.accuracy == pytest.approx(accuracy_score(truth, guess))
    assert found.micro_iou == pytest.approx(jaccard_score(truth, guess, labels=every, average="micro"))
    names = ("iou", "f1", "accuracy", "precision")
    macro = (found.macro_iou, found.macro_f1, found.macro_recall, found.macro_precision)
    functions = (jaccard_score, f1_score, recall_score, precision_score)
    for name, mean, function in zip(names, macro, functions, strict=True):
        each = function(truth, guess, labels=every, average=None, zero_division=0)
        assert mean == pytest.approx(function(truth, guess, labels=present, average="macro", zero_division=0))
        for index, entry in enumerate(found.classes):
            figure = getattr(entry, name)
            assert figure is None or figure == pytest.approx(each[index])
    for index, entry in enumerate(found.classes):
        of_it, as_it = (truth == index).any(), (guess == index).any()
        assert entry.pixels == (truth == index).sum()
        assert (entry.accuracy is None) == (not of_it)
        assert (entry.precision is None) == (not as_it)
        assert (entry.iou is None) == (entry.f1 is None) == (not of_it and not as_it)


@given(class_maps(), st.integers(0, 6))
def test_classes_in_pieces_have_the_figures_of_the_whole(
    maps: tuple[NDArray[np.uint8], NDArray[np.int64], int], row: int
) -> None:
    reference, predicted, classes = maps
    meter = ClassMeter(entries(classes))
    for piece in (np.s_[:row], np.s_[row:]):
        meter.update(torch.from_numpy(reference[piece]), torch.from_numpy(predicted[piece]))
        meter.compute()  # a look in between changes nothing
    assert meter.compute() == class_scores(*maps)


def test_a_class_nowhere_predicted_counts_as_a_precision_of_nothing_right() -> None:
    found = scores(np.array([[8, 2, 0], [5, 5, 0], [4, 0, 0]]), entries(3))
    assert found.classes[2].precision is None
    assert found.macro_precision == pytest.approx((8 / 17 + 5 / 7 + 0) / 3)


def test_a_class_without_reference_has_no_accuracy_and_is_in_no_mean() -> None:
    found = scores(np.array([[8, 0, 2, 0], [0, 6, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), entries(4))
    mistaken, absent = found.classes[2:]
    assert (mistaken.iou, mistaken.accuracy, mistaken.f1, mistaken.precision) == (0.0, None, 0.0, 0.0)
    assert (absent.iou, absent.accuracy, absent.f1, absent.precision) == (None, None, None, None)
    assert found.macro_recall == pytest.approx(0.7)
    assert found.macro_iou == pytest.approx(0.7)
    assert found.macro_precision == 1


def test_figures_of_no_pixels_are_none_and_not_zero() -> None:
    for found in (ClassMeter(entries(3)).compute(), scores(np.zeros((3, 3), np.int64), entries(3))):
        assert found.pixels == 0
        assert [found.accuracy, found.macro_iou, found.macro_f1, found.macro_precision] == [None] * 4
        assert [found.macro_recall, found.micro_iou] == [None] * 2


def test_a_single_class_is_right_everywhere() -> None:
    reference = np.array([[0, IGNORE], [0, 0]], np.uint8)
    found = class_scores(reference, np.zeros((2, 2), np.uint8), 1)
    assert (found.pixels, found.confusion, found.accuracy, found.macro_f1) == (3, ((3,),), 1.0, 1.0)


def test_counts_of_many_classes_do_not_overflow_a_byte() -> None:
    reference = np.arange(254, dtype=np.uint8)[None]
    assert np.array_equal(class_scores(reference, reference, 254).confusion, np.eye(254))


@pytest.mark.parametrize(("reference", "predicted"), [(0, 3), (3, 0), (0, IGNORE), (0, -1)])
def test_a_class_the_meter_does_not_know_is_refused(reference: int, predicted: int) -> None:
    with pytest.raises(ValueError, match="there are 3"):
        class_scores(np.array([[reference]], np.uint8), np.array([[predicted]]), 3)


def test_what_is_predicted_without_a_reference_may_be_anything() -> None:
    assert class_scores(np.array([[1, IGNORE]], np.uint8), np.array([[1, 77]]), 3).pixels == 1


# --- numbers


def numbers(seed: int, offset: float, size: float, shape: tuple[int, int] = (40, 50)) -> tuple[Floats, Floats]:
    """Reference with gaps, and predictions that explain a part of it and have gaps of no matter."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(offset, size, shape)
    predicted = reference + rng.normal(0.2 * size, 0.5 * size, shape)
    unlabelled = rng.random(shape) < 0.2
    reference[unlabelled] = np.nan
    predicted[unlabelled & (rng.random(shape) < 0.5)] = np.nan
    return reference.astype(np.float32), predicted.astype(np.float32)


@pytest.mark.parametrize(("offset", "size"), [(0.0, 1.0), (0.5, 1e-3), (1e4, 1.0), (-1e6, 1.0), (3.0, 1e6)])
def test_figures_of_numbers_are_those_of_scikit_learn(offset: float, size: float) -> None:
    windows = [numbers(seed, offset, size) for seed in range(5)]
    found = number_scores(*windows)
    reference, predicted = (np.concatenate(side).astype(np.float64) for side in zip(*windows, strict=True))
    labelled = np.isfinite(reference)
    truth, guess = reference[labelled], predicted[labelled]
    assert found.pixels == truth.size
    assert found.mae == pytest.approx(mean_absolute_error(truth, guess), rel=1e-9)
    assert found.mse == pytest.approx(mean_squared_error(truth, guess), rel=1e-9)
    assert found.rmse == pytest.approx(np.sqrt(mean_squared_error(truth, guess)), rel=1e-9)
    assert found.r2 == pytest.approx(r2_score(truth, guess), rel=1e-9)
    assert found.bias == pytest.approx((guess - truth).mean(), rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 12), max_size=3), st.sampled_from([0.0, 1e4]))
def test_numbers_in_pieces_have_the_figures_of_the_whole(seed: int, cuts: list[int], offset: float) -> None:
    reference, predicted = numbers(seed, offset, 1.0, (12, 3))
    edges = [0, *sorted(cuts), 12]
    pieces = [(reference[a:b], predicted[a:b]) for a, b in itertools.pairwise(edges)]
    found, whole = (
        each.model_dump(exclude_none=True) for each in (number_scores(*pieces), number_scores((reference, predicted)))
    )
    assert found == pytest.approx(whole, rel=1e-9, abs=1e-12)


def test_a_few_pixels_of_small_shares_have_their_r2() -> None:
    reference = np.array([[0.001, 0.002, 0.003, 0.004]], np.float32)
    predicted = np.array([[0.002, 0.002, 0.003, 0.003]], np.float32)
    assert number_scores((reference, predicted)).r2 == pytest.approx(1 - 2e-6 / 5e-6, rel=1e-4)


def test_numbers_that_do_not_vary_have_no_r2_and_none_have_nothing() -> None:
    constant = np.full((3, 4), 0.1, np.float32)
    found = number_scores((constant, constant + 1), (constant, constant))
    assert found.r2 is None
    assert (found.mae, found.bias) == pytest.approx((0.5, 0.5))
    empty = np.full((3, 4), np.nan, np.float32)
    nothing = {
        "pixels": 0,
        "mae": None,
        "mse": None,
        "rmse": None,
        "r2": None,
        "bias": None,
        "places": None,
        "median_mae": None,
    }
    assert number_scores().model_dump() == number_scores((empty, constant)).model_dump() == nothing


# --- both


@pytest.mark.parametrize("meter", [ClassMeter(entries(2)), NumberMeter()])
def test_two_shapes_are_refused_and_not_broadcast(meter: ClassMeter | NumberMeter) -> None:
    with pytest.raises(ValueError, match=r"reference is \(4, 3\), predicted is \(1, 3\)"):
        meter.update(torch.zeros(4, 3), torch.zeros(1, 3))


def test_meters_count_in_inference_mode_and_are_read_outside() -> None:
    with torch.inference_mode():
        meters = ClassMeter(entries(2)), NumberMeter()
        for meter in meters:
            meter.update(torch.zeros(2, 3), torch.zeros(2, 3))
            meter.update(torch.zeros(2, 3), torch.zeros(2, 3))
    assert [meter.compute().pixels for meter in meters] == [12, 12]


def test_labels_have_the_meter_of_their_kind() -> None:
    assert isinstance(meter_for(entries(2)), ClassMeter)
    assert isinstance(meter_for(()), NumberMeter)


def test_merit_grows_with_f1_and_shrinks_with_the_error() -> None:
    good, bad = (scores(np.array([[9, 1], [off, 10 - off]]), entries(2)) for off in (1, 4))
    assert good.macro_f1 == figure_of_merit(good) > figure_of_merit(bad)
    near, far = (number_scores((np.zeros((1, 2), np.float32), np.full((1, 2), x, np.float32))) for x in (0.5, -2.0))
    assert (figure_of_merit(near), figure_of_merit(far)) == (-0.5, -2.0)
    assert figure_of_merit(number_scores()) == figure_of_merit(ClassMeter(entries(2)).compute()) == -math.inf


# --- what figures are worth


NAMES = ("field", "wood", "water")
DATE = dt.date(2017, 2, 16)


def header_of(found: AnyScores, numbers: Numbers | None = None) -> HeadHeader:
    """A header of which only the figures matter."""
    fields: dict[str, Any] = {"scores": found, "numbers": numbers}
    return HeadHeader.model_construct(**fields)


def judged(confusion: Sequence[Sequence[int]], places: Sequence[float | None]) -> HeadHeader:
    """A head's header with these counts on so many places of each class."""
    found = scores(np.array(confusion), entries(NAMES))
    classes = (each.model_copy(update={"places": count}) for each, count in zip(found.classes, places, strict=True))
    return header_of(found.model_copy(update={"classes": tuple(classes)}))


def judged_numbers(places: float, *, mae: float = 1.0, r2: float = 0.0, median_mae: float = 1.0) -> HeadHeader:
    found = NumberScores(
        pixels=900, mae=mae, mse=2 * mae**2, rmse=mae, r2=r2, bias=0.0, places=places, median_mae=median_mae
    )
    return header_of(found, Numbers(unit="m", low=0, high=9))


def sample(labels: NDArray[np.generic], row: int = 0, col: int = 0, scale: int = 1, map_: int = 0) -> Sample:
    height, width = labels.shape
    window = Window(row, col, height // scale, width // scale)
    return Sample(DATE, window, window, torch.from_numpy(labels), torch.zeros(1, height, width), map_)


def drawn(*boxes: tuple[int, int, int, int, int], shape: tuple[int, int] = (64, 64)) -> NDArray[np.uint8]:
    """A label map with boxes of row, column, height, width and class."""
    values = np.full(shape, IGNORE, np.uint8)
    for row, col, height, width, value in boxes:
        values[row : row + height, col : col + width] = value
    return values


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([sample(drawn((0, 0, 4, 4, 0), (40, 40, 4, 4, 0)))], 2.0),
        ([sample(drawn((0, 0, 30, 30, 0)))], 1.0),
        ([sample(drawn((0, 0, 1, 1, 0), (0, 3, 1, 1, 0), (5, 5, 1, 1, 0)))], 1.0),
        ([sample(drawn((0, 0, 30, 30, 0), (40, 40, 1, 1, 0)))], 901**2 / (900**2 + 1)),
        ([sample(drawn((0, 0, 4, 4, 0))), sample(drawn((0, 0, 4, 4, 0)), map_=1)], 1.0),
        ([sample(drawn((0, 0, 4, 4, 0))), sample(drawn((0, 0, 4, 4, 0)), row=64)], 2.0),
        ([sample(drawn((0, 0, 4, 4, 0), (0, 32, 4, 4, 0)), scale=4)], 1.0),
        (
            [sample(drawn((0, 0, 8, 8, 0), (0, 8, 8, 8, 1), (8, 0, 8, 8, 1), (20, 40, 4, 4, 0)))],
            80**2 / (64**2 + 16**2),
        ),
    ],
    ids=["two", "a large one", "side by side", "unequal", "other dates", "other samples", "finer", "touching classes"],
)
def test_labels_are_counted_by_patches_and_not_by_pixels(samples: list[Sample], expected: float) -> None:
    judgement = Judgement(Goal(entries(NAMES), None))
    judgement.locate(samples, math.nan)
    found = judgement.scores()
    assert isinstance(found, Scores)
    assert found.classes[0].places == pytest.approx(expected)
    assert found.classes[2].places is None


def test_numbers_are_counted_by_squares_and_compared_with_the_median() -> None:
    numbers = np.full((64, 64), math.nan, np.float32)
    numbers[:32] = 4.0
    judgement = Judgement(Goal((), Numbers(low=0, high=9)))
    judgement.locate([sample(numbers)], 1.5)
    found = judgement.scores()
    assert isinstance(found, NumberScores)
    assert (found.places, found.median_mae) == (8.0, 2.5)


@pytest.mark.parametrize(("right", "places"), [(0, 3), (3, 3), (7, 10), (50, 60)])
def test_the_interval_is_wilsons_on_places(right: int, places: int) -> None:
    header = judged([[100 * right, 100 * (places - right), 0], [0, 0, 0], [0, 0, 0]], [places, None, None])
    expected = binomtest(right, places).proportion_ci(0.95, "wilson")
    assert intervals(header.scores)["accuracy"] == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_a_mean_over_classes_is_as_uncertain_as_its_rarest_class() -> None:
    confusion = [[900, 100, 0], [20, 80, 0], [0, 0, 0]]
    many, few = (intervals(judged(confusion, [200, rare, None]).scores) for rare in (200, 5))
    assert many["macro_f1"][1] - many["macro_f1"][0] < 0.1
    assert few["macro_f1"][1] - few["macro_f1"][0] > 0.3
    assert few["accuracy"][1] - few["accuracy"][0] < 0.15


@pytest.mark.parametrize(
    ("confusion", "places", "expected"),
    [
        ([[500, 0, 0], [300, 0, 0], [200, 0, 0]], (50, 50, 50), "answering field everywhere"),
        ([[170, 170, 160], [100, 100, 100], [70, 65, 65]], (400, 400, 400), "label more of water, wood, field"),
        ([[90, 5, 5], [5, 90, 5], [5, 5, 90]], (40, 40, 40), None),
        ([[80, 10, 10], [10, 80, 10], [10, 10, 80]], (1, 1, 1), "accuracy 0.8, interval 0.2"),
        ([[930, 20, 0], [10, 40, 0], [0, 0, 0]], (200, 60, None), None),
        ([[90, 0, 0], [0, 0, 0], [0, 0, 0]], (90, None, None), "label more of wood, water"),
        ([[500, 0, 0], [300, 0, 0], [200, 0, 0]], (None, None, None), None),
        ([[0, 0, 0]] * 3, (None, None, None), None),
    ],
    ids=[
        "one class",
        "at random",
        "good",
        "good on few",
        "a rare class",
        "one judged",
        "of an old head",
        "nothing judged",
    ],
)
def test_a_head_of_classes_no_better_than_none_says_so(
    confusion: list[list[int]], places: tuple[float | None, ...], expected: str | None
) -> None:
    said = verdict(judged(confusion, places), "head.png")
    assert (said is None) == (expected is None)
    if said is not None and expected is not None:
        assert expected in said
        assert "look at head.png" in said
        assert "\n" not in said


@pytest.mark.parametrize(
    ("header", "failed"),
    [
        (judged_numbers(100, median_mae=1.1), True),
        (judged_numbers(100, median_mae=1.5), False),
        (judged_numbers(4, median_mae=1.5), True),
        (judged_numbers(1, median_mae=2.0), True),
        (judged_numbers(100, median_mae=0.9, r2=0.5), False),
        (judged_numbers(4, median_mae=0.9, r2=0.5), True),
        (judged_numbers(100, r2=-3.0), True),
    ],
    ids=["hardly", "clearly", "few places", "one place", "mostly zeros", "few zeros", "worse"],
)
def test_a_head_of_numbers_no_better_than_the_median_says_so(header: HeadHeader, failed: bool) -> None:
    said = verdict(header, "head.png")
    assert (said is not None) == failed
    assert said is None or (f"against {header.scores.median_mae:.3g} m)" in said and "median" in said)  # type: ignore[union-attr]


def test_only_wide_intervals_are_shown() -> None:
    confusion = [[90, 5, 5], [5, 90, 5], [5, 5, 90]]
    assert wide_intervals(judged(confusion, (20, 20, 20)).scores) == "macro F1 0.799 to 0.953, accuracy 0.799 to 0.953"
    assert wide_intervals(judged(confusion, (9000, 9000, 9000)).scores) == ""
    assert wide_intervals(judged_numbers(5).scores, "m") == "mean absolute error 0 to 2.39 m"


def test_classes_that_the_means_leave_out_are_named() -> None:
    found = judged([[9, 1, 0], [1, 9, 0], [0, 0, 0]], (5, 5, None)).scores
    assert isinstance(found, Scores)
    assert unjudged(found) == "2 of 3 classes: no pixel of water to judge by"
    assert unjudged(scores(np.eye(3, dtype=np.int64), entries(NAMES))) == ""
