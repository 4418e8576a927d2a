"""The closed-form part of a head: a linear discriminant and a kernel machine on single pixels, solved and not trained.

From few labels such models tell more than six convolutions do, and they take a second. What is open in them (which of the
inputs they read, how wide the kernel is, how strongly they are regularised, how both are mixed) is decided by
cross-validation over patches of ground, because neighbouring pixels tell each other's labels.

- Classes: a linear discriminant whose pooled covariance is shrunk as Ledoit and Wolf (2004) propose, and ridge regression on
  the classes in the space of a Gaussian kernel, which Nyström's method reduces to a few hundred landmarks (Williams and Seeger
  2001). Both answer with probabilities under the prior that the settings ask for.
- Numbers: ridge regression on the inputs, and in the same kernel space.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lianet_user.field.config import ClosedFormConfig, HeadInput
from lianet_user.field.head import ClosedForm, HeadEnsemble
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, labelled_pixels
from lianet_user.finetuning.settings import FinetuneSettings

Array = NDArray[np.float64]

MOST_PIXELS = 5_000
"""It is solved from so many labelled pixels at most, drawn at random."""
LANDMARKS, TRIED_LANDMARKS = 500, 250
"""Of the kernel, and while its width and regularisation are chosen."""
FOLDS = 5
LEAST_GROUPS = 10
"""Patches of labels are cut into smaller ones until there are so many, or single pixels."""
KERNELS = {1.0: (0.25, 0.5, 1.0, 2.0), 0.5: (0.01, 0.06, 0.25, 1.0)}
"""Kernels to try: exp(-d), and the rougher exp(-sqrt(d)), where d is the squared distance of two pixels as a multiple of the
median between all, times one of these widths."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Regularisation to try, in the kernel's space, whose coordinates have squares of about 1."""
SHRINKAGES = (0.0, 0.03, 0.1, 0.3, 0.7)
"""Of the discriminant's covariance, at least: the analytic one takes pixels of one patch for independent."""
SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""What the regression on classes, from about 0 to 1, is multiplied by to make logits."""
TEMPERED = (0.25, 0.5, 1.0)
"""What the logits of the discriminant are multiplied by: many inputs that say the same make it too certain."""
SHARPNESSES = (0.25, 0.5, 1.0)
"""What the logits of layers are multiplied by."""
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the kernel in the answer."""
UNLIKELY = 1e4
"""What a class that no label taught is behind the others, as a logit."""
_CERTAIN = 1e-4
"""A probability below this counts as this where models are chosen, so that one wrong label decides nothing."""


def fit_closed_form(
    samples: Sequence[Sample], parts: Mapping[HeadInput, int], goal: Goal, settings: FinetuneSettings
) -> ClosedForm:
    """Solve the closed-form part of a head.

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
    folds = _folds(places, rng)
    tried = [_tried(values[:, channels], channels, problem, folds, rng) for channels in _channel_sets(parts)]
    return max(tried, key=lambda each: each.merit).solved(values, problem, rng)


@torch.inference_mode()
def weigh(layers: HeadEnsemble, judged: Sequence[Sample], goal: Goal) -> tuple[float, float]:
    """What suits ground that neither saw: the share of the closed form in the answer, and how sharp the layers' should be.

    Layers that were trained on few places are more certain than they are right; their logits are multiplied by the second.

    Args:
        layers: with a closed form, in evaluation mode.
        judged: samples with the labels to judge by, standardised. Without any, the closed form answers alone.
        goal: what the labels are.
    """
    assert layers.closed_form is not None
    device = layers.mean.device
    ours: list[Array] = []
    closed: list[Array] = []
    targets: list[NDArray[Any]] = []
    for sample in judged:
        labelled = sample.judged().labelled
        inputs = sample.inputs[None].float().to(device)
        answers = layers.of_layers(inputs), layers.closed_form(inputs, bool(goal.classes))
        for answer, pixels in zip(answers, (ours, closed), strict=True):
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
    one, other = np.concatenate(ours)[:, problem.taught], np.concatenate(closed)[:, problem.taught]
    tried = {
        (share, sharpness): problem.merit(problem.mixed(one * sharpness, other, share))
        for share in MIXES
        for sharpness in (SHARPNESSES if goal.classes else (1.0,))
    }
    return max(tried, key=lambda each: tried[each])


def _channel_sets(parts: Mapping[HeadInput, int]) -> list[NDArray[np.int64]]:
    """The sets of channels to choose from: the reconstructed bands, these with their neighbourhoods, of all dates, and all."""
    starts = dict(zip(parts, itertools.accumulate(parts.values(), initial=0), strict=False))
    own = {name: np.arange(starts[name], starts[name] + count) for name, count in parts.items()}
    sets = [
        [own[name] for name in names if name in own]
        for names in (("bands",), ("bands", "context"), ("series",), tuple(own))
    ]
    distinct = {len(channels): channels for group in sets if group for channels in [np.sort(np.concatenate(group))]}
    return list(distinct.values())


def _folds(places: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The fold of every pixel; what was labelled in one piece is kept together, because its pixels are alike.

    Args:
        places: (n, 4), the label map, row, column and patch of labels of every pixel.
        rng: shuffles the patches.
    """
    side = 64
    while True:
        _, group = np.unique(places // [1, side, side, 1], axis=0, return_inverse=True)
        count = int(group.max()) + 1
        if count >= LEAST_GROUPS or side == 1:
            return (rng.permutation(count) % min(FOLDS, count))[group.ravel()]
        side //= 2


# --- What is learned: both kinds of labels give weights and targets for least squares, and say how good answers are.


class _Classes:
    """Classes as targets from 0 to 1, one column each, weighted so that their frequencies are the prior."""

    def __init__(self, labels: NDArray[np.int64], prior: Array) -> None:
        self.labels, self.prior = labels, prior
        self.taught = np.flatnonzero(prior > 0)
        counts = np.bincount(labels, minlength=len(prior))
        self.weights = (prior * len(labels) / np.maximum(counts, 1))[labels]
        self.columns = (labels[:, None] == self.taught).astype(np.float64)
        self.outputs = len(prior)

    def linear(self, values: Array, kept: NDArray[np.bool_]) -> Iterator[tuple[Array, Array]]:
        """Weights (channels, classes) and offsets of discriminants, tempered in every way that is tried; the prior is not."""
        for weights, offsets in _discriminants(values[kept], self.columns[kept]):
            for factor in TEMPERED:
                yield weights * factor, offsets * factor + np.log(self.prior[self.taught])

    def relative(self, columns: Array) -> Array:
        """The weights or offsets of logits (..., classes), less those of the first class: the probabilities are the same."""
        return columns - columns[..., :1]

    def sharpened(self, answers: Array) -> list[Array]:
        return [answers * factor for factor in SHARPNESS]

    def merit(self, answers: Array) -> float:
        """Mean logarithm of the probability of what is right."""
        rows = np.arange(len(answers))
        right = _softmax(answers)[rows, self.labels_of_columns]
        return float(np.average(np.log(np.maximum(right, _CERTAIN)), weights=self.weights))

    @property
    def labels_of_columns(self) -> NDArray[np.int64]:
        return self.columns.argmax(1)

    def mixed(self, one: Array, other: Array, share: float) -> Array:
        return np.log((1 - share) * _softmax(one) + share * _softmax(other) + 1e-12)


class _Numbers:
    """Numbers as one column. Answers stay between the lowest and the highest label."""

    def __init__(self, targets: Array) -> None:
        self.low, self.high = float(targets.min()), float(targets.max())
        self.columns = targets[:, None]
        self.weights = np.ones(len(targets))
        self.taught, self.outputs = np.arange(1), 1

    def linear(self, values: Array, kept: NDArray[np.bool_]) -> Iterator[tuple[Array, Array]]:
        """Weights (channels, 1) and the offset of ridge regressions, as strongly regularised as is tried."""
        mean = self.columns[kept].mean(0)
        centre = values[kept].mean(0)
        scatter = (values[kept] - centre).T @ (values[kept] - centre)
        strength, axes = np.linalg.eigh(scatter)
        cross = axes.T @ ((values[kept] - centre).T @ (self.columns[kept] - mean))
        for ridge in RIDGES:
            weights = axes @ (cross / (strength + ridge * len(centre) * 10)[:, None])
            yield weights, mean - centre @ weights

    def relative(self, columns: Array) -> Array:
        return columns

    def sharpened(self, answers: Array) -> list[Array]:
        return [answers]

    def merit(self, answers: Array) -> float:
        """Minus the mean squared error."""
        return -float(np.square(answers.clip(self.low, self.high) - self.columns).mean())

    def mixed(self, one: Array, other: Array, share: float) -> Array:
        return (1 - share) * one + share * other


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


# --- The kernel, and the choice among what is tried.


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
    squares = np.square(values).sum(1)[:, None] + np.square(landmarks).sum(1) - 2 * values @ landmarks.T
    scaled = np.maximum(squares, 0) * width
    return np.exp(-(scaled if power == 1 else np.sqrt(scaled)))


def _regressions(gram: Array, cross: Array) -> list[Array]:
    """Weights (coordinates, columns) of ridge regressions, one for each of RIDGES."""
    strength, axes = np.linalg.eigh(gram)
    turned = axes.T @ cross
    return [axes @ (turned / (np.maximum(strength, 0) + ridge)[:, None]) for ridge in RIDGES]


def _moments(coordinates: Array, columns: Array, weights: Array) -> tuple[Array, Array]:
    """What a regression is solved from: products of coordinates with each other (r, r), and with the columns."""
    weighted = coordinates * weights[:, None]
    return weighted.T @ coordinates, weighted.T @ columns


def _kernel_answers(coordinates: Array, problem: _Problem, parts: Sequence[NDArray[np.bool_]]) -> list[Array]:
    """Answers to every pixel by regressions that have not seen its fold, one for each of RIDGES."""
    mean = np.average(problem.columns, axis=0, weights=problem.weights)
    own = [_moments(coordinates[part], problem.columns[part] - mean, problem.weights[part]) for part in parts]
    gram, cross = (np.sum([each[number] for each in own], 0) for number in (0, 1))
    answers = [np.empty_like(problem.columns) for _ in RIDGES]
    for part, (own_gram, own_cross) in zip(parts, own, strict=True):
        left = (gram, cross) if len(parts) == 1 else (gram - own_gram, cross - own_cross)
        for answer, weights in zip(answers, _regressions(*left), strict=True):
            answer[part] = coordinates[part] @ weights + mean
    return answers


@dataclass
class _Choice:
    """What cross-validation chose for one set of channels, and how good it was."""

    channels: NDArray[np.int64]
    merit: float
    linear: int
    width: float
    power: float
    ridge: int
    sharpness: int
    share: float

    def solved(self, values: Array, problem: _Problem, rng: np.random.Generator) -> ClosedForm:
        """The part of the head, solved from all pixels."""
        own = values[:, self.channels]
        everything = np.ones(len(own), bool)
        weights, offsets = next(itertools.islice(problem.linear(own, everything), self.linear, None))
        kernel = _Kernel.of(_some(own, LANDMARKS, rng), self.width, self.power)
        mean = np.average(problem.columns, axis=0, weights=problem.weights)
        moments = _moments(kernel.coordinates(own), problem.columns - mean, problem.weights)
        answer = _regressions(*moments)[self.ridge]
        factor = SHARPNESS[self.sharpness] if isinstance(problem, _Classes) else 1.0
        closed = ClosedForm(
            ClosedFormConfig(channels=len(self.channels), landmarks=len(kernel.landmarks)), problem.outputs
        )
        # A class that no label taught stays behind the first of those that one did, whose logit is 0: so it is chosen nowhere.
        unlikely = np.full(problem.outputs, -UNLIKELY)
        unlikely[problem.taught] = 0

        def rows(columns: Array) -> Array:
            result = np.zeros((problem.outputs, *columns.shape[:-1]))
            result[problem.taught] = problem.relative(columns).T
            return result

        for name, value in (
            ("channels", self.channels),
            ("linear", rows(weights)),
            ("linear_offset", rows(offsets) + unlikely),
            ("scale", np.sqrt(self.width)),
            ("power", self.power),
            ("landmarks", kernel.landmarks * np.sqrt(self.width)),
            ("kernel", rows(kernel.axes @ answer * factor)),
            ("kernel_offset", rows(mean * factor) + unlikely),
            ("mix", self.share),
            ("low", getattr(problem, "low", 0.0)),
            ("high", getattr(problem, "high", 0.0)),
        ):
            buffer = getattr(closed, name)
            buffer.copy_(torch.as_tensor(np.asarray(value)).to(buffer.dtype))
        return closed


def _tried(
    values: Array, channels: NDArray[np.int64], problem: _Problem, folds: NDArray[np.int64], rng: np.random.Generator
) -> _Choice:
    """Cross-validate one set of channels."""
    values = values.astype(np.float64)
    parts = [folds == fold for fold in np.unique(folds)]
    linear = _linear_answers(values, problem, parts)
    best_linear = max(range(len(linear)), key=lambda number: problem.merit(linear[number]))
    some = _some(values, TRIED_LANDMARKS, rng)
    median = _median_distance(some)
    best: tuple[float, float, float, int, int, Array] | None = None
    for power, factors in KERNELS.items():
        for factor in factors:
            coordinates = _Kernel.of(some, factor / median, power).coordinates(values)
            for ridge, answer in enumerate(_kernel_answers(coordinates, problem, parts)):
                for sharpness, sharpened in enumerate(problem.sharpened(answer)):
                    merit = problem.merit(sharpened)
                    if best is None or merit > best[0]:
                        best = merit, factor / median, power, ridge, sharpness, sharpened
    assert best is not None
    _, width, power, ridge, sharpness, kernel = best
    merits = {share: problem.merit(problem.mixed(linear[best_linear], kernel, share)) for share in MIXES}
    share = max(merits, key=lambda each: merits[each])
    return _Choice(channels, merits[share], best_linear, width, power, ridge, sharpness, share)


def _linear_answers(values: Array, problem: _Problem, parts: Sequence[NDArray[np.bool_]]) -> list[Array]:
    """Answers to every pixel by linear models that have not seen its fold, one for each that is tried."""
    result: list[Array] = []
    for part in parts:
        kept = part if len(parts) == 1 else ~part
        for number, (weights, offsets) in enumerate(problem.linear(values, kept)):
            if number == len(result):
                result.append(np.empty_like(problem.columns))
            result[number][part] = values[part] @ weights + offsets
    return result


def _median_distance(values: Array) -> float:
    """The median squared distance between two of the rows."""
    squares = np.square(values).sum(1)
    distances = squares[:, None] + squares - 2 * values @ values.T
    return max(float(np.median(distances[np.triu_indices(len(values), 1)])), 1e-6) if len(values) > 1 else 1.0


def _some(values: Array, most: int, rng: np.random.Generator) -> Array:
    return values if len(values) <= most else values[rng.choice(len(values), most, replace=False)]


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    result: Array = shifted / shifted.sum(1, keepdims=True)
    return result
