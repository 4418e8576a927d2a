"""The part of a head that answers from single pixels: linear models and kernels, solved in seconds and not trained.

From few labels such models tell more than six convolutions do. None of them is the best everywhere, so they answer together:
on each set of channels (the bands, these with their neighbourhoods, all that the head reads, ...)

- for classes a linear discriminant whose pooled covariance is shrunk as Ledoit and Wolf (2004) propose, multinomial logistic
  regression, and the same in the space of a kernel, which Nyström's method reduces to a few hundred landmarks (Williams and
  Seeger 2001);
- for numbers ridge regression, and the same in the space of a kernel.

What is open in a model (how strongly it is regularised, how wide its kernel is) and its share in the answer follow from
cross-validation over patches of ground, because neighbouring pixels tell each other's labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from lianet_user.field.config import HeadInput, PixelModelsConfig
from lianet_user.field.head import HeadEnsemble, PixelModels
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, labelled_pixels
from lianet_user.finetuning.settings import FinetuneSettings

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

MOST_PIXELS, TRIED_PIXELS = 5_000, 2_000
"""They are solved from so many labelled pixels at most, drawn at random, and chosen and weighed by so many of these."""
LANDMARKS, TRIED_LANDMARKS = 500, 150
"""Of the kernels, and of more than so many pixels while their widths and regularisation are chosen."""
FOLDS = 5
LEAST_GROUPS = 10
"""Patches of labels are cut into smaller ones until there are so many, or single pixels."""
CLASS_WIDTHS, NUMBER_WIDTHS = (0.25, 0.5, 1.0, 2.0), (0.003, 0.01, 0.06, 0.25, 1.0)
"""Widths to try: of the kernel exp(-d) for classes, and of the rougher exp(-sqrt(d)) for numbers, where d is the squared
distance of two pixels as a multiple of the median between all, times one of these."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Regularisation of least squares to try, in the kernel's space, whose coordinates have squares of about 1."""
PENALTIES = (30.0, 3.0, 0.3, 0.03, 0.003)
"""Regularisation of logistic regression to try, the strongest first, where coordinates have squares of about 1."""
LOGISTIC_STEPS = 12
"""Of logistic regression, for each of the penalties, which begins where the one before ended."""
NEGLIGIBLE = 0.1
"""Directions whose squares sum to less than this part of the penalty are left out of logistic regression."""
SHRINKAGES = (0.0, 0.03, 0.1, 0.3, 0.7)
"""Of the discriminant's covariance, at least: the analytic one takes pixels of one patch for independent."""
TEMPERED = (0.25, 0.5, 1.0)
"""What the logits of the discriminant are multiplied by: many inputs that say the same make it too certain."""
SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""What regression on classes, from about 0 to 1, is multiplied by to make logits, where kernels are compared."""
SHARPNESSES = (0.25, 0.5, 1.0)
"""What the logits of layers are multiplied by."""
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the pixel models in the answer of a head with layers."""
EVEN = 0.3
"""Part of the answer that all models share alike. The rest is shared as cross-validation tells, which few patches leave to
chance."""
LEANING = 0.3
"""Models that are regularised, and means of models, lean towards the frequent classes by about this power of the prior, which
is taken off again. Without it rare classes were hardly answered, at no gain in accuracy."""
SMOOTHING = 1.0
"""Standard deviation in pixels of the bell over which answers are averaged. Twice as much is better where classes
cover large areas, and forgets those that cover a few pixels."""
UNLIKELY = 1e4
"""What a class that no label taught is behind the others, as a logit."""
_CERTAIN = 1e-4
"""A probability below this counts as this where models are chosen, so that one wrong label decides nothing."""


def fit_pixel_models(
    samples: Sequence[Sample], parts: Mapping[HeadInput, int], goal: Goal, settings: FinetuneSettings
) -> PixelModels:
    """Solve the pixel models of a head.

    Args:
        samples: with the labels to learn from, their inputs standardised.
        parts: what is read, by name, and how many channels each has, in the order of the channels.
        goal: what the labels are.
        settings: the seed and the prior.
    """
    values, labels, places = labelled_pixels(samples, MOST_PIXELS, settings.seed)
    targets = goal.target(torch.from_numpy(labels)).numpy()
    rng = np.random.default_rng(settings.seed)
    if goal.classes:
        prior = goal.prior(np.bincount(targets, minlength=len(goal.classes)), settings.prior)
        problem: _Problem = _Classes(targets, prior)
    else:
        problem = _Numbers(targets.astype(np.float64))
    return solved(values.astype(np.float64), _channel_sets(parts), problem, places, rng)


def solved(
    values: Array,
    sets: Sequence[NDArray[np.int64]],
    problem: _Problem,
    places: NDArray[np.int64],
    rng: np.random.Generator,
) -> PixelModels:
    """Solve models on sets of channels.

    Args:
        values: (n, channels) at labelled pixels.
        sets: channels that the models read.
        problem: the labels.
        places: (n, 4), the label map, row, column and patch of labels of every pixel.
        rng: draws the landmarks, and what models are chosen by.
    """
    order = rng.permutation(len(values))
    landmarks, rows = values[order[:LANDMARKS]], np.sort(order[:TRIED_PIXELS])
    trial = _Trial(rows, problem.at(rows), _folds(places[rows], rng))
    models: list[list[_Model]] = []
    kernels: list[_Kernel] = []
    for channels in sets:
        own, marks = values[:, channels], landmarks[:, channels]
        chosen, kernel = _kernel_model(own, marks, problem, trial)
        models.append([*problem.linear_models(own, trial), chosen])
        kernels.append(kernel)
    config = PixelModelsConfig(
        sets=tuple(map(len, sets)), linear=len(models[0]) - 1, landmarks=len(landmarks), smoothing=SMOOTHING
    )
    result = PixelModels(config, values.shape[1], problem.outputs)
    shares = trial.problem.shares([each.answers for each in itertools.chain.from_iterable(models)])
    # A class that no label taught stays behind the first of those that one did, whose logit is 0: so it is chosen nowhere.
    unlikely = np.full(problem.outputs, -UNLIKELY)
    unlikely[problem.taught] = 0

    def for_all(columns: Array) -> Array:
        """Weights (channels, taught) or offsets (taught) as those of all outputs come first."""
        result = np.zeros((problem.outputs, *columns.shape[:-1]))
        result[problem.taught] = problem.relative(columns).T
        return result

    buffers = {
        "landmarks": landmarks,
        "shares": (1 - EVEN) * shares + EVEN / len(shares),
        "offset": problem.offset,
        "low": problem.low,
        "high": problem.high,
    }
    for number, (channels, own_models, kernel) in enumerate(zip(sets, models, kernels, strict=True)):
        *linear, similar = own_models
        buffers |= {
            f"sets.{number}.{name}": value
            for name, value in (
                ("channels", channels),
                ("linear", np.stack([for_all(each.weights) for each in linear])),
                ("linear_offset", np.stack([for_all(each.offsets) + unlikely for each in linear])),
                ("kernel", for_all(kernel.axes @ similar.weights)),
                ("kernel_offset", for_all(similar.offsets) + unlikely),
                ("width", kernel.width),
                ("power", kernel.power),
            )
        }
    state = result.state_dict()
    result.load_state_dict({name: torch.as_tensor(np.asarray(buffers[name])).to(state[name].dtype) for name in state})
    return result


@torch.inference_mode()
def weigh(layers: HeadEnsemble, judged: Sequence[Sample], goal: Goal) -> tuple[float, float]:
    """What suits ground that neither saw: the share of the pixel models in the answer, and how sharp the layers' should be.

    Layers that were trained on few places are more certain than they are right; their logits are multiplied by the second.

    Args:
        layers: with pixel models, in evaluation mode.
        judged: samples with the labels to judge by, standardised. Without any, the pixel models answer alone.
        goal: what the labels are.
    """
    assert layers.pixel_models is not None
    device = layers.mean.device
    ours: list[Array] = []
    others: list[Array] = []
    targets: list[NDArray[Any]] = []
    for sample in judged:
        labelled = sample.judged().labelled
        inputs = sample.inputs[None].float().to(device)
        answers = layers.of_layers(inputs), layers.pixel_models(inputs, bool(goal.classes))
        for answer, pixels in zip(answers, (ours, others), strict=True):
            pixels.append(answer[0].cpu()[:, labelled].T.double().numpy())
        targets.append(goal.target(sample.labels[labelled]).numpy())
    if not targets:
        return 1.0, 1.0
    labels: NDArray[Any] = np.concatenate(targets)
    problem: _Problem = (
        _Classes(labels, np.bincount(labels, minlength=goal.outputs) / len(labels))
        if goal.classes
        else _Numbers(labels.astype(np.float64))
    )
    one, other = np.concatenate(ours)[:, problem.taught], np.concatenate(others)[:, problem.taught]
    tried = {
        (share, sharpness): problem.merit(problem.mixed(one * sharpness, other, share))
        for share in MIXES
        for sharpness in (SHARPNESSES if goal.classes else (1.0,))
    }
    return max(tried, key=lambda each: tried[each])


def _channel_sets(parts: Mapping[HeadInput, int]) -> list[NDArray[np.int64]]:
    """The sets of channels: the reconstructed bands, these with their neighbourhoods, those of all dates, and everything."""
    starts = dict(zip(parts, itertools.accumulate(parts.values(), initial=0), strict=False))
    own = {name: np.arange(starts[name], starts[name] + count) for name, count in parts.items()}
    sets = [
        [own[name] for name in names if name in own]
        for names in (("bands",), ("bands", "context"), ("series",), tuple(own))
    ]
    distinct = {len(channels): channels for group in sets if group for channels in [np.sort(np.concatenate(group))]}
    return list(distinct.values())


def _folds(places: NDArray[np.int64], rng: np.random.Generator) -> list[Rows]:
    """The rows of each fold; what was labelled in one piece is kept together, because its pixels are alike.

    Args:
        places: (n, 4), the label map, row, column and patch of labels of every pixel.
        rng: shuffles the patches.
    """
    side = 64
    while True:
        _, group = np.unique(places // [1, side, side, 1], axis=0, return_inverse=True)
        count = int(group.max()) + 1
        if count >= LEAST_GROUPS or side == 1:
            fold = (rng.permutation(count) % min(FOLDS, count))[group.ravel()]
            return [fold == number for number in range(min(FOLDS, count))]
        side //= 2


# --- What is learned: both kinds of labels have their linear models, say how good answers are, and share the answer out.


@dataclass
class _Model:
    """A linear model of channels or coordinates, and what it answers to the pixels of the trial where it had not seen them.

    Attributes:
        answers: (pixels of the trial, columns), by models that were solved without the fold of each.
        weights: (channels, columns), solved from all pixels.
        offsets: (columns,).
    """

    answers: Array
    weights: Array
    offsets: Array


@dataclass
class _Trial:
    """The pixels by which models are chosen and weighed.

    Attributes:
        rows: their numbers among all.
        problem: their labels.
        folds: of a cross-validation, which of them each has.
    """

    rows: NDArray[np.int64]
    problem: _Problem
    folds: Sequence[Rows]


Solver = Callable[[Array, Array, Array], Iterator[tuple[Array, Array]]]
"""Weights and offsets from values (n, channels), what they should tell (n, columns) and how much each pixel counts (n,), in
every way that is tried, one after the other."""


def _chosen(values: Array, problem: _Problem, trial: _Trial, solver: Solver) -> _Model:
    """The model that cross-validation prefers among those that a solver gives."""
    answers: list[Array] = []
    own, columns, importance = values[trial.rows], trial.problem.columns, trial.problem.weights
    for fold in trial.folds:
        kept = fold if len(trial.folds) == 1 else ~fold
        for number, (weights, offsets) in enumerate(solver(own[kept], columns[kept], importance[kept])):
            if number == len(answers):
                answers.append(np.empty_like(columns))
            answers[number][fold] = own[fold] @ weights + offsets
    best = max(range(len(answers)), key=lambda number: trial.problem.merit(answers[number]))
    return _Model(answers[best], *next(itertools.islice(solver(values, problem.columns, problem.weights), best, None)))


class _Classes:
    """Classes as targets from 0 to 1, one column each, weighted so that their frequencies are the prior."""

    power, widths = 1.0, CLASS_WIDTHS
    low = high = 0.0

    def __init__(self, labels: NDArray[np.int64], prior: Array) -> None:
        self.labels, self.whole_prior = labels, prior
        self.taught = np.flatnonzero(prior > 0)
        self.prior = prior[self.taught]
        counts = np.bincount(labels, minlength=len(prior))
        self.weights = (prior * len(labels) / np.maximum(counts, 1))[labels]
        self.columns = (labels[:, None] == self.taught).astype(np.float64)
        self.right = self.columns.argmax(1)
        self.outputs = len(prior)
        self.offset = np.zeros(len(prior))
        self.offset[self.taught] = -LEANING * np.log(self.prior)

    def at(self, rows: NDArray[Any]) -> _Classes:
        """Those of some of the pixels."""
        return _Classes(self.labels[rows], self.whole_prior)

    def linear_models(self, values: Array, trial: _Trial) -> list[_Model]:
        """A discriminant, tempered in every way that is tried (the prior is not), and logistic regression."""

        def discriminants(own: Array, columns: Array, _: Array) -> Iterator[tuple[Array, Array]]:
            for weights, offsets in _discriminants(own, columns):
                for factor in TEMPERED:
                    yield weights * factor, offsets * factor + np.log(self.prior)

        return [_chosen(values, self, trial, discriminants), self.regression(values, trial, values.shape[1])]

    def regression(self, values: Array, trial: _Trial, scale: float = 1.0) -> _Model:
        """Logistic regression on channels or coordinates (n, channels) whose squares sum to about `scale`."""
        penalties = [scale * each for each in PENALTIES]
        return _chosen(values, self, trial, partial(_logistic, penalties=penalties))

    def relative(self, columns: Array) -> Array:
        """The weights or offsets of logits (..., classes), less those of the first class: the probabilities are the same."""
        return columns - columns[..., :1]

    def sharpened(self, answers: Array) -> list[Array]:
        """What logits least squares on the classes could stand for."""
        return [answers * factor for factor in SHARPNESS]

    def merit(self, answers: Array) -> float:
        """Mean logarithm of the probability of what is right."""
        right = _softmax(answers)[np.arange(len(answers)), self.right]
        return float(np.average(np.log(np.maximum(right, _CERTAIN)), weights=self.weights))

    def mixed(self, one: Array, other: Array, share: float) -> Array:
        return np.log((1 - share) * _softmax(one) + share * _softmax(other) + 1e-12)

    def shares(self, answers: Sequence[Array]) -> Array:
        """The shares of models in a mixture under which what is right is likeliest, by expectation maximisation."""
        right = np.stack([_softmax(each)[np.arange(len(each)), self.right] for each in answers], 1)
        right = np.maximum(right, _CERTAIN)
        shares = np.full(right.shape[1], 1 / right.shape[1])
        for _ in range(50):
            shares = np.average(right * shares / (right @ shares)[:, None], axis=0, weights=self.weights)
        return shares


class _Numbers:
    """Numbers as one column. Answers stay between the lowest and the highest label."""

    power, widths = 0.5, NUMBER_WIDTHS

    def __init__(self, targets: Array, limits: tuple[float, float] | None = None) -> None:
        self.low, self.high = limits or (float(targets.min()), float(targets.max()))
        self.columns = targets[:, None]
        self.weights = np.ones(len(targets))
        self.taught, self.outputs = np.arange(1), 1
        self.offset = np.zeros(1)

    def at(self, rows: NDArray[Any]) -> _Numbers:
        """Those of some of the pixels."""
        return _Numbers(self.columns[rows, 0], (self.low, self.high))

    def linear_models(self, values: Array, trial: _Trial) -> list[_Model]:
        """Ridge regression."""
        scale = 10 * values.shape[1]
        return [_chosen(values, self, trial, partial(_ridges, scale=scale))]

    def regression(self, values: Array, trial: _Trial) -> _Model:
        """Ridge regression on coordinates (n, coordinates) of a kernel's space."""
        return _chosen(values, self, trial, _ridges)

    def relative(self, columns: Array) -> Array:
        return columns

    def sharpened(self, answers: Array) -> list[Array]:
        return [answers]

    def merit(self, answers: Array) -> float:
        """Minus the mean squared error."""
        return -float(np.square(answers.clip(self.low, self.high) - self.columns).mean())

    def mixed(self, one: Array, other: Array, share: float) -> Array:
        return (1 - share) * one + share * other

    def shares(self, answers: Sequence[Array]) -> Array:
        """The shares of models in a mean with the least squared error; they sum to 1."""
        columns = np.concatenate(answers, 1).clip(self.low, self.high) - self.columns
        # One more row, which weighs more than all others, asks for the sum.
        heavy = 1e3 * max(float(np.linalg.norm(columns)), 1e-9)
        shares, _ = nnls(np.vstack([columns, np.full(len(answers), heavy)]), np.append(np.zeros(len(columns)), heavy))
        result: Array = shares / shares.sum()
        return result


_Problem = _Classes | _Numbers


def _discriminants(values: Array, columns: Array) -> Iterator[tuple[Array, Array]]:
    """Weights (channels, classes) and offsets of linear discriminants of equally frequent classes, one for each of SHRINKAGES.

    A class without a pixel is never chosen.
    """
    counts = columns.sum(0)
    means = columns.T @ values / np.maximum(counts, 1)[:, None]
    within = values - columns @ means
    count, channels = within.shape
    scatter = within.T @ within / count
    scale = np.trace(scatter) / channels
    # Ledoit and Wolf (2004): how far single products lie from the covariance, beside how far that lies from a sphere.
    spread = (np.square(np.square(within).sum(1)).sum() / count - np.square(scatter).sum()) / count
    distance = np.square(scatter - scale * np.eye(channels)).sum()
    analytic = float(np.clip(spread / max(distance, 1e-12), 1e-4, 1.0))
    strength, axes = np.linalg.eigh(scatter)
    turned = axes.T @ means.T
    for least in SHRINKAGES:
        shrinkage = max(analytic, least)
        weights = axes @ (turned / ((1 - shrinkage) * strength + shrinkage * scale + 1e-9)[:, None])
        offsets = -0.5 * (means.T * weights).sum(0)
        yield weights, np.where(counts > 0, offsets, -UNLIKELY)


def _logistic(
    values: Array, columns: Array, weights: Array, penalties: Sequence[float]
) -> Iterator[tuple[Array, Array]]:
    """Weights (channels, classes) and offsets of multinomial logistic regressions, one for each penalty on squared weights.

    The steps are Newton's with the bound on the curvature by Boehning (1992), which is the same in every step and for every
    class, so that one decomposition serves them all; they are hastened as Nesterov's. Directions that a penalty
    keeps at nothing are left out.
    """
    inputs, targets, importance = (
        torch.from_numpy(each.astype(np.float32)) for each in (values, columns, weights[:, None])
    )
    total = importance.sum()
    middle = (importance * inputs).sum(0) / total
    centred = inputs - middle
    strength, axes = torch.linalg.eigh((centred * importance).T @ centred)
    strength, axes = strength.clamp_min(0).flip(0), axes.flip(1)
    turned = (axes.T @ centred.T).T
    slopes = torch.zeros(turned.shape[1], columns.shape[1])
    heights = ((importance * targets).sum(0) / total).clamp_min(_CERTAIN).log()
    for penalty in penalties:
        count = max(1, int((strength > NEGLIGIBLE * penalty).sum()))
        curvature = (0.5 * strength[:count] + penalty)[:, None]
        inputs, own = turned[:, :count], slopes[:count]
        before, heights_before, pace = own, heights, 1.0
        for _ in range(LOGISTIC_STEPS):
            following = (1 + math.sqrt(1 + 4 * pace**2)) / 2
            further, pace = (pace - 1) / following, following
            ahead, heights_ahead = own + further * (own - before), heights + further * (heights - heights_before)
            off = (targets - torch.addmm(heights_ahead, inputs, ahead).softmax(1)).mul_(importance)
            uphill = inputs.T @ off - penalty * ahead
            before, heights_before = own, heights
            own, heights = ahead + uphill / curvature, heights_ahead + 2 / total * off.sum(0)
            if ((own - before) * uphill).sum() < 0:
                pace = 1.0  # it went too far
        slopes[:count] = own
        result = axes @ slopes
        yield result.double().numpy(), (heights - middle @ result).double().numpy()


def _ridges(values: Array, columns: Array, weights: Array, scale: float = 1.0) -> Iterator[tuple[Array, Array]]:
    """Weights (channels, columns) and offsets of ridge regressions, one for each of RIDGES.

    Args:
        values: (n, channels), whose squares sum to about `scale`.
        columns: (n, columns), what is to be told.
        weights: (n,), how much each pixel counts.
        scale: see there.
    """
    mean, centre = (weights @ each / weights.sum() for each in (columns, values))
    centred = values - centre
    weighted = (centred * weights[:, None]).T
    strength, axes = np.linalg.eigh(weighted @ centred)
    cross = axes.T @ (weighted @ (columns - mean))
    for ridge in RIDGES:
        slopes = axes @ (cross / (np.maximum(strength, 0) + ridge * scale)[:, None])
        yield slopes, mean - centre @ slopes


# --- The kernel.


@dataclass
class _Kernel:
    """Landmarks, width and power of a kernel, and what turns similarities into coordinates of its space."""

    landmarks: Array
    width: float
    power: float
    axes: Array

    @classmethod
    def of(cls, landmarks: Array, width: float, power: float) -> _Kernel:
        strength, axes = np.linalg.eigh(_similarities(landmarks, landmarks, width, power))
        kept = strength > 1e-8 * strength.max()
        return cls(landmarks, width, power, axes[:, kept] / np.sqrt(strength[kept]))

    def coordinates(self, values: Array) -> Array:
        return _similarities(values, self.landmarks, self.width, self.power) @ self.axes


def _similarities(values: Array, landmarks: Array, width: float, power: float) -> Array:
    scaled = _distances(values, landmarks) * width
    return np.exp(-(scaled if power == 1 else np.sqrt(scaled)))


def _distances(values: Array, landmarks: Array) -> Array:
    """Squared distances (n, landmarks)."""
    squares = np.square(values).sum(1)[:, None] + np.square(landmarks).sum(1) - 2 * values @ landmarks.T
    return np.maximum(squares, 0)


def _kernel_model(values: Array, landmarks: Array, problem: _Problem, trial: _Trial) -> tuple[_Model, _Kernel]:
    """A model in the space of the kernel that cross-validation prefers, by least squares, among those that are tried."""
    few, own = landmarks[:TRIED_LANDMARKS], values[trial.rows]
    between = _distances(few, few)[np.triu_indices(len(few), 1)]
    median = max(float(np.median(between)), 1e-6) if len(between) else 1.0

    def merit(width: float) -> float:
        coordinates = _Kernel.of(few, width / median, problem.power).coordinates(own)
        return max(
            trial.problem.merit(each)
            for answers in _least_squares(coordinates, trial)
            for each in problem.sharpened(answers)
        )

    kernel = _Kernel.of(landmarks, max(problem.widths, key=merit) / median, problem.power)
    return problem.regression(kernel.coordinates(values), trial), kernel


def _least_squares(coordinates: Array, trial: _Trial) -> list[Array]:
    """Answers to every pixel of the trial by regressions that have not seen its fold, one for each of RIDGES."""
    problem, folds = trial.problem, trial.folds
    mean = np.average(problem.columns, axis=0, weights=problem.weights)
    weighted = coordinates * problem.weights[:, None]
    moments = [
        (weighted[fold].T @ coordinates[fold], weighted[fold].T @ (problem.columns[fold] - mean)) for fold in folds
    ]
    gram, cross = (np.sum([each[number] for each in moments], 0) for number in (0, 1))
    answers = [np.empty_like(problem.columns) for _ in RIDGES]
    for fold, (own_gram, own_cross) in zip(folds, moments, strict=True):
        alone = len(folds) == 1
        strength, axes = np.linalg.eigh(gram if alone else gram - own_gram)
        turned = axes.T @ (cross if alone else cross - own_cross)
        own = coordinates[fold] @ axes
        for answer, ridge in zip(answers, RIDGES, strict=True):
            answer[fold] = own @ (turned / (np.maximum(strength, 0) + ridge)[:, None]) + mean
    return answers


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    result: Array = shifted / shifted.sum(1, keepdims=True)
    return result
