"""Validation figures of a segmentation, all of them read off one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lianet_user.header import IGNORE, ClassEntry, ClassScore, Scores


def confusion_matrix(reference: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts of labelled pixels, int64 (classes, classes): rows reference, columns predicted. IGNORE is not counted."""
    labelled = reference != IGNORE
    index = reference[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def scores(confusion: np.ndarray, classes: Sequence[ClassEntry]) -> Scores:
    """Figures from a confusion matrix.

    A class without reference pixels has no accuracy, and no IoU or F1 unless something was mistaken for it; macro figures
    are means over the classes that have reference pixels.
    """
    hits = np.diag(confusion)
    reference, predicted = confusion.sum(1), confusion.sum(0)
    each = tuple(
        ClassScore(
            name=entry.name,
            pixels=int(reference[i]),
            iou=_ratio(hits[i], reference[i] + predicted[i] - hits[i]),
            accuracy=_ratio(hits[i], reference[i]),
            f1=_ratio(2 * hits[i], reference[i] + predicted[i]),
        )
        for i, entry in enumerate(classes)
    )
    present = [score for score in each if score.pixels]
    return Scores(
        pixels=int(confusion.sum()),
        accuracy=_ratio(hits.sum(), confusion.sum()),
        macro_iou=_mean([score.iou for score in present]),
        macro_f1=_mean([score.f1 for score in present]),
        classes=each,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
    )


def _ratio(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
