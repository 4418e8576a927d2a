"""Figures of predictions compared with a reference, collected window by window.

Counts and sums are a few lines, and torchmetrics, which has them too, takes two seconds to import; the tests compare with
scikit-learn. What is a figure and what is None is decided here and in :class:`lianet_user.files.header.Scores`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianet_user.files.header import IGNORE, AnyScores, ClassEntry, ClassScore, NumberScores, Scores


class Meter(Protocol):
    """Collects predictions, and gives their figures at any time."""

    def update(self, reference: Tensor, predicted: Tensor) -> None:
        """Take in a window: two tensors of one shape. What bears no label in `reference` is not counted.

        Raises:
            ValueError: the shapes differ, or a value is not one of the meter's classes.
        """

    def compute(self) -> AnyScores:
        """Figures of everything taken in so far."""


class ClassMeter:
    """A :class:`Meter` of classes: `reference` uint8 with IGNORE where there is no label, `predicted` of any integer type."""

    def __init__(self, classes: Sequence[ClassEntry]) -> None:
        self.classes = tuple(classes)
        self._confusion = np.zeros((len(self.classes), len(self.classes)), np.int64)

    def update(self, reference: Tensor, predicted: Tensor) -> None:
        labelled = _labelled(reference, predicted, reference != IGNORE)
        for name, values in (("reference", reference[labelled]), ("predicted", predicted[labelled])):
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < len(self.classes):
                raise ValueError(
                    f"{name} has classes {int(values.min())} to {int(values.max())}, there are {len(self.classes)}"
                )
        count = len(self.classes)
        pairs = reference[labelled].long() * count + predicted[labelled].long()
        self._confusion += torch.bincount(pairs, minlength=count**2).reshape(count, count).cpu().numpy()

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Counts of labelled pixels, int64 (classes, classes): rows reference, columns predicted."""
        return self._confusion.copy()

    def compute(self) -> Scores:
        return scores(self.confusion, self.classes)


class OneClassMeter(ClassMeter):
    """A :class:`ClassMeter` of a survey of one class, which tells how much of it was found and what the rest was taken for.

    Nothing could be mistaken for that class, so that there is no precision, IoU or F1, and no macro figure.
    """

    def compute(self) -> Scores:
        found, untold = super().compute(), {"iou": None, "f1": None, "precision": None}
        means = dict.fromkeys(("macro_iou", "macro_f1", "macro_precision", "macro_recall", "micro_iou"))
        classes = tuple(each.model_copy(update=untold) for each in found.classes)
        return found.model_copy(update={**means, "classes": classes})


class NumberMeter:
    """A :class:`Meter` of numbers: both tensors float32, `reference` NaN where there is no label.

    All sums are float64, and the variance is summed around the running mean (Chan, Golub & LeVeque 1983), so that an offset
    of the numbers costs no digits.
    """

    def __init__(self) -> None:
        self._pixels = 0
        self._absolute = self._squared = 0.0
        """Sums of the errors' sizes and of their squares."""
        self._error = 0.0
        """Sum of predicted minus reference."""
        self._mean = 0.0
        """Mean of the reference."""
        self._scatter = 0.0
        """Sum of the reference's squared deviations from its mean."""

    def update(self, reference: Tensor, predicted: Tensor) -> None:
        labelled = _labelled(reference, predicted, ~reference.isnan())
        truth, answers = reference[labelled].cpu().double(), predicted[labelled].cpu().double()
        pixels = truth.numel()
        if not pixels:
            return
        errors = answers - truth
        self._absolute += float(errors.abs().sum())
        self._squared += float(errors.square().sum())
        self._error += float(errors.sum())
        mean = float(truth.mean())
        step = mean - self._mean
        total = self._pixels + pixels
        self._scatter += float((truth - mean).square().sum()) + step**2 * self._pixels * pixels / total
        self._mean += step * pixels / total
        self._pixels = total

    def compute(self) -> NumberScores:
        if not self._pixels:
            return NumberScores(pixels=0, mae=None, mse=None, rmse=None, r2=None, bias=None)
        mse = self._squared / self._pixels
        return NumberScores(
            pixels=self._pixels,
            mae=self._absolute / self._pixels,
            mse=mse,
            rmse=math.sqrt(mse),
            r2=1 - mse * self._pixels / self._scatter if self._scatter else None,
            bias=self._error / self._pixels,
        )


def meter_for(classes: Sequence[ClassEntry]) -> Meter:
    """A meter of these classes, or of numbers where there are none."""
    return ClassMeter(classes) if classes else NumberMeter()


def scores(confusion: NDArray[np.int64], classes: Sequence[ClassEntry]) -> Scores:
    """Figures from a confusion matrix.

    A class without reference pixels has no accuracy, and no IoU or F1 unless something was mistaken for it; a class that
    is nowhere predicted has no precision. Macro figures are means over the classes that have reference pixels. Among them
    one that is nowhere predicted counts as a precision of 0 (scikit-learn's `zero_division=0`): leaving it out would
    reward never predicting it.

    Args:
        confusion: counts, integers (classes, classes): rows reference, columns predicted.
        classes: in the order of its rows.
    """
    hits = np.diag(confusion)
    reference, predicted = confusion.sum(1), confusion.sum(0)
    pixels, right = confusion.sum(), hits.sum()
    each = tuple(
        ClassScore(
            name=entry.name,
            pixels=int(reference[i]),
            iou=_ratio(hits[i], reference[i] + predicted[i] - hits[i]),
            accuracy=_ratio(hits[i], reference[i]),
            f1=_ratio(2 * hits[i], reference[i] + predicted[i]),
            precision=_ratio(hits[i], predicted[i]),
        )
        for i, entry in enumerate(classes)
    )
    present = [score for score in each if score.pixels]
    return Scores(
        pixels=int(pixels),
        accuracy=_ratio(right, pixels),
        macro_iou=_mean([score.iou for score in present]),
        macro_f1=_mean([score.f1 for score in present]),
        macro_precision=_mean([score.precision for score in present]),
        macro_recall=_mean([score.accuracy for score in present]),
        micro_iou=_ratio(right, 2 * pixels - right),
        classes=each,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
    )


def figure_of_merit(scores: AnyScores) -> float:
    """What training chooses by, the higher the better: macro F1 of classes, or minus the MAE of numbers; -inf for None.

    Where only one class can be judged, the share of it that was found.
    """
    if isinstance(scores, NumberScores):
        return -math.inf if scores.mae is None else -scores.mae
    merit = scores.accuracy if scores.macro_f1 is None else scores.macro_f1
    return -math.inf if merit is None else merit


def _labelled(reference: Tensor, predicted: Tensor, labelled: Tensor) -> Tensor:
    """The mask itself, once the two are known to lie on one grid: torch would broadcast them."""
    if reference.shape != predicted.shape:
        raise ValueError(f"reference is {tuple(reference.shape)}, predicted is {tuple(predicted.shape)}")
    return labelled


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Over classes with reference pixels, where only a precision can be None: of a class that is nowhere predicted."""
    return sum(value or 0.0 for value in values) / len(values) if values else None
