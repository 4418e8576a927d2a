"""The closed form: exact where theory says what is right, the same wherever it is computed, and only of what was taught."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from command_line import lianet, refusal
from factories import labels_on, numbers_on, split_of
from heads import entries
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from torch import Tensor

import lianet_user
from lianet_user.errors import InputError
from lianet_user.field.head import ClosedForm
from lianet_user.files.artifact import open_head_file
from lianet_user.files.header import IGNORE, Scores
from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.finetuning.closed_form import _Classes, fit_closed_form
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import Labels
from lianet_user.report import write_report

DATE = dt.date(2017, 2, 16)
SETTINGS = FinetuneSettings(closed_form=1.0, prior="labels")
THREE = Goal(entries(3), None)
GEOBOX = GeoBox((12, 12), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")


def sample(inputs: np.ndarray, labels: np.ndarray) -> Sample:
    """One window: inputs (channels, height, width), labels (height, width)."""
    window = Window(0, 0, *labels.shape)
    return Sample(DATE, window, window, torch.from_numpy(labels), torch.from_numpy(inputs).half())


def scene(seed: int = 0, channels: int = 4, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of noise and three classes that follow from them, in four of five pixels."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(channels, side, side))
    labels = np.where(rng.random((side, side)) < 0.8, np.digitize(inputs[0], (-0.5, 0.5)), IGNORE)
    return inputs, labels.astype(np.uint8)


def answers(closed: ClosedForm, inputs: np.ndarray, logits: bool = True) -> np.ndarray:
    """Of pixels (channels, height, width): (outputs, height, width)."""
    return closed(torch.from_numpy(inputs)[None].float(), logits)[0].numpy()


def fitted(labels: np.ndarray, inputs: np.ndarray, goal: Goal = THREE, **changes: Any) -> ClosedForm:
    chosen = dataclasses.replace(SETTINGS, **changes)
    return fit_closed_form([sample(inputs, labels)], {"bands": len(inputs)}, goal, chosen)


# --- numbers


def mapped(values: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """The numbers that a closed form learned from `values` answers, in their unit."""
    region: Any = SimpleNamespace(geobox=GEOBOX, shape=GEOBOX.shape, header=SimpleNamespace(dates=(DATE,)))
    goal = Goal.of(numbers_on(region, values), SETTINGS)
    closed = fitted(values.astype(np.float32), inputs, goal)
    return goal.decided(torch.from_numpy(answers(closed, inputs, logits=False))).double().numpy()


@settings(max_examples=12, deadline=None)
@given(
    factor=st.sampled_from([-3.0, -1.0, -0.25, 0.5, 1.0, 7.0, 1000.0]),
    offset=st.sampled_from([0.0, -40.0, 1950.0, 1e6]),
    seed=st.integers(0, 3),
)
def test_numbers_are_learned_alike_in_any_unit_from_any_zero(factor: float, offset: float, seed: int) -> None:
    inputs, _ = scene(seed)
    values = np.round(40 * inputs[0] + 10 * inputs[1] ** 2)
    values[np.random.default_rng(seed).random(values.shape) < 0.3] = np.nan
    expected = factor * mapped(values, inputs) + offset
    found = mapped(factor * values + offset, inputs)
    # What float32 can tell of such numbers, in the labels as in the map.
    rounding = 4 * np.spacing(np.float32(np.nanmax(np.abs(factor * values + offset))))
    assert np.abs(found - expected).max() <= rounding + 2e-3 * np.nanstd(factor * values)
    assert np.nanstd(found - factor * values - offset) < 0.5 * np.nanstd(factor * values)


# --- classes


def gaussian(pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, 2) of two classes, one pixel in four of the second, whose covariance is the same."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(pixels) % 4 == 0).astype(np.int64)
    return rng.normal(size=(pixels, 2)) @ np.array([[1.0, 0.0], [0.6, 0.8]]) + labels[:, None] * [1.5, -0.5], labels


def log_odds(prior: tuple[float, float], pixels: int = 400) -> np.ndarray:
    """Of every discriminant that is tried: (discriminants, pixels)."""
    values, labels = gaussian(pixels)
    problem = _Classes(labels, np.array(prior))
    tried = problem.linear(values, np.ones(pixels, bool))
    return np.stack([np.diff(values @ weights + offsets)[:, 0] for weights, offsets in tried])


def test_a_prior_moves_the_log_odds_of_every_discriminant_by_its_own() -> None:
    equal, rare = log_odds((0.5, 0.5)), log_odds((0.9, 0.1))
    assert equal.shape[0] > 3
    assert rare - equal == pytest.approx(np.full(equal.shape, np.log(0.1 / 0.9)), abs=1e-9)


def test_a_discriminant_of_gaussian_classes_is_bayes_rule() -> None:
    pixels, prior = 40_000, (0.8, 0.2)
    values, _ = gaussian(pixels)
    mixing = np.array([[1.0, 0.0], [0.6, 0.8]])
    inverse = np.linalg.inv(mixing.T @ mixing)
    mean = np.array([1.5, -0.5])
    bayes = values @ inverse @ mean - 0.5 * mean @ inverse @ mean + np.log(prior[1] / prior[0])
    off = np.abs(log_odds(prior, pixels) - bayes).mean(1)
    assert off.min() < 0.05


@pytest.mark.parametrize("untaught", [0, 2])
@pytest.mark.parametrize("pixels", [2, 144])
def test_a_class_without_labels_is_never_answered(untaught: int, pixels: int) -> None:
    inputs, labels = scene()
    labels[labels == untaught] = IGNORE
    kept = np.flatnonzero(labels != IGNORE)
    two = [np.flatnonzero(labels == each)[0] for each in range(3) if each != untaught]
    labels.ravel()[np.setdiff1d(kept, two if pixels == 2 else kept)] = IGNORE
    far = np.random.default_rng(1).normal(size=(4, 20, 20)) * np.geomspace(1, 1e4, 20)
    for prior in ("labels", "equal", (0.1, 0.1, 0.8), (0.8, 0.1, 0.1)):
        found = answers(fitted(labels, inputs, prior=prior), far)
        assert np.isfinite(found).all()
        assert not (found.argmax(0) == untaught).any()


def test_frequent_classes_are_answered_more_often() -> None:
    inputs, labels = scene()
    labels[np.random.default_rng(1).random(labels.shape) < 0.3] = 0  # noise, so that something is in doubt
    other = np.random.default_rng(2).normal(size=(4, 40, 40))
    shares = [
        (answers(fitted(labels, inputs, prior=(first, 1 - first - 0.1, 0.1)), other).argmax(0) == 0).mean()
        for first in (0.05, 0.45, 0.85)
    ]
    assert shares[0] < shares[1] < shares[2]


# --- whatever there is to learn from


def test_the_same_seed_gives_the_same_bits() -> None:
    inputs, labels = scene()
    one, again = (fitted(labels, inputs, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_a_channel_that_is_constant_changes_nothing_that_matters() -> None:
    inputs, labels = scene()
    more = np.concatenate([inputs, np.zeros((1, 12, 12))])
    found = answers(fitted(labels, more), more).argmax(0)
    assert (found == answers(fitted(labels, inputs), inputs).argmax(0)).mean() > 0.9
    assert (found == labels)[labels != IGNORE].mean() > 0.8


@pytest.mark.parametrize("of", ["classes", "numbers"])
def test_two_pixels_are_enough_to_answer_with_something(of: str) -> None:
    inputs, _ = scene()
    if of == "classes":
        labels = np.full((12, 12), IGNORE, np.uint8)
        labels[0, 0], labels[5, 5] = 0, 1
        found = answers(fitted(labels, inputs), inputs)
        assert [found.argmax(0)[place] for place in ((0, 0), (5, 5))] == [0, 1]
    else:
        values = np.full((12, 12), np.nan)
        values[0, 0], values[5, 5] = 3.0, 9.0
        found = mapped(values, inputs)
        assert found[0, 0] < found[5, 5]
    assert np.isfinite(found).all()


def test_one_patch_of_labels_is_judged_by_parts_of_it() -> None:
    inputs, labels = scene()
    labels[labels == IGNORE] = 0
    assert (answers(fitted(labels, inputs), inputs).argmax(0) == labels).mean() > 0.7


# --- heads of it


@pytest.fixture(scope="module")
def labels(head: Head) -> Labels:
    """Three classes by how bright a pixel is, in squares of a quarter of the ground of a region of random weights."""
    region = head.region
    band = region.head_input(region.window, region.header.dates[0], ("bands",))[0].numpy()
    values = np.digitize(band, np.quantile(band, (1 / 3, 2 / 3)))
    squares = np.indices(band.shape) // 8 % 2
    return labels_on(region.geobox, np.where(squares.sum(0) == 2, values, IGNORE), entries(3))


@pytest.fixture(scope="module")
def instant(head: Head, labels: Labels, tmp_path_factory: pytest.TempPathFactory) -> Head:
    """Saved and opened."""
    path = tmp_path_factory.mktemp("instant") / "head.safetensors"
    solved = lianet_user.instant(head.region, labels, prior=(0.2, 0.3, 0.5), inputs=("bands", "context"))
    solved.save(path)
    return Head.open(path)


def test_an_instant_head_is_solved_saved_and_opened(head: Head, labels: Labels, instant: Head) -> None:
    config, stated = instant.header.head, instant.header.provenance.settings
    assert (config.members, config.closed_form_share, config.outputs) == (0, 1.0, 3)
    assert not list(instant.layers.parameters())
    assert isinstance(instant.header.scores, Scores)
    assert instant.header.scores.accuracy is not None
    assert instant.header.scores.accuracy > 0.8
    assert json.loads(str(stated["prior"])) == {"class 0": 0.2, "class 1": 0.3, "class 2": 0.5}
    assert not {"steps", "members", "rate", "loss"} & stated.keys()
    assert FinetuneSettings.continuing(instant.header).prior == (0.2, 0.3, 0.5)


def test_a_pixel_has_one_answer_in_any_window(instant: Head) -> None:
    whole = instant.answers(instant.region.window, DATE)
    for window in (Window(0, 0, 17, 30), Window(40, 61, 33, 67), Window(95, 127, 1, 1)):
        part: Tensor = instant.answers(window, DATE)
        torch.testing.assert_close(part, whole[(slice(None), *window.slices)], atol=2e-2, rtol=1e-2)


def test_the_report_says_that_the_closed_form_answers_alone(instant: Head, labels: Labels, tmp_path: Path) -> None:
    write_report(instant, labels, tmp_path / "head.html", split_of(instant.region))
    page = (tmp_path / "head.html").read_text(encoding="utf-8")
    assert "a closed form alone: a linear model and a kernel of" in page
    assert "0 heads" not in page
    assert "convolutions each" not in page


def test_an_instant_head_is_not_trained_on_and_layers_not_solved_in_place(
    head: Head, labels: Labels, instant: Head
) -> None:
    with pytest.raises(InputError, match=r"has no layers to train on, .*omit `start`"):
        finetune(head.region, labels, start=instant)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"closed_form": 1.5}, "^`closed_form` 1.5: expected its share"),
        ({"norm": "group"}, "^`closed_form` stands beside no layers with `norm` group"),
        ({"leaky": True}, "^`closed_form` stands beside no layers"),
        ({"prior": (1.0, 2.0)}, "^`prior` has 2 shares, and the labels have 3 classes"),
    ],
)
def test_settings_that_no_head_can_have_are_refused(
    head: Head, labels: Labels, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        finetune(head.region, labels, settings=dataclasses.replace(SETTINGS, **changes))


def test_a_closed_form_alone_is_refused_on_a_finer_grid(head: Head) -> None:
    height, width = head.region.shape
    fine = numbers_on(head.region, np.ones((4 * height, 4 * width)), scale=4)
    with pytest.raises(InputError, match=r"`closed_form` .*4 times as fine: omit `scale`"):
        lianet_user.instant(head.region, fine)


def test_every_command_works_with_an_instant_head(whole_folder: Path, tmp_path: Path) -> None:
    region, labels = whole_folder / "region.safetensors", whole_folder / "labels.tif"
    (tmp_path / "areas.csv").write_text("class,area\n1,90\n2,10\n", encoding="utf-8")
    command = ("finetune", region, labels, "--instant", "-o", "head.safetensors")
    said = lianet(*command, "--prior", "area:areas.csv", cwd=tmp_path).out
    assert "Classes are taken to be as frequent as stated: 1 90.0%, 2 10.0%" in said
    assert (tmp_path / "head.png").exists()
    assert (tmp_path / "head.html").exists()
    header = open_head_file(tmp_path / "head.safetensors").header
    assert json.loads(str(header.provenance.settings["prior"])) == {"1": 0.9, "2": 0.1}
    lianet("predict", "head.safetensors", "-o", "map.tif", "-q", cwd=tmp_path)
    lianet("evaluate", "head.safetensors", labels, "--areas", "-q", cwd=tmp_path)
    lianet("suggest", "head.safetensors", "-n", 3, "-q", cwd=tmp_path)
    lianet("learning-curve", region, labels, "--instant", "--shares", "0.5,1", "--repeats", 1, "-q", cwd=tmp_path)
    assert "omit --from" in refusal(
        *command[:3], "--from", tmp_path / "head.safetensors", "-o", tmp_path / "x.safetensors"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", 5, "--deep"), "--instant has no layers, which --steps and --deep would train"),
        (("--preset", "land-cover"), "--instant has no layers, which --preset would train"),
        (("--prior", "wide"), "--prior 'wide': expected labels, tempered, equal or area:FILE"),
        (
            ("--prior", "equal", "--task", "regression"),
            "--prior says how frequent classes are, and the labels are numbers",
        ),
    ],
)
def test_options_that_contradict_an_instant_head_are_refused(
    options: tuple[object, ...], message: str, whole_folder: Path, tmp_path: Path
) -> None:
    words = ("finetune", whole_folder / "region.safetensors", whole_folder / "labels.tif", "--instant")
    assert message in refusal(*words, *options, "-o", tmp_path / "head.safetensors")
    assert not list(tmp_path.iterdir())
