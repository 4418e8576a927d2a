"""How right answers are on samples that were not trained on: over all, date by date, and of the mean over the dates; and
whether that is more than chance, in words that the command line and the report share."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from scipy.special import stdtrit
from torch import Tensor

from lianet_user.errors import listed
from lianet_user.files.header import AnyScores, DatedScores, HeadHeader, NumberScores, Scores
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.metrics import Meter, NumberMeter
from lianet_user.finetuning.samples import Sample
from lianet_user.labels.split import SMALLEST

Answer = Callable[[Tensor], Tensor]
"""From inputs float32 (1, C, h, w) to logits or numbers (1, outputs, scale * h, scale * w)."""


@dataclass
class Judgement:
    """Counts of how right answers are; several can be added up by judging into the same one.

    Attributes:
        goal: what the labels are.
        all: every sample.
        by_date: the same, date by date.
        of_mean: the answers' means over the dates, where label maps describe several; empty where none does.
        places: labelled pixels by class (0 for numbers), row and column of the place; see :meth:`locate`.
        of_median: the median of the training labels in place of numbers.
    """

    goal: Goal
    all: Meter = field(init=False)
    by_date: dict[dt.date, Meter] = field(default_factory=dict)
    of_mean: Meter | None = None
    places: Counter[tuple[int, ...]] = field(default_factory=Counter)
    of_median: NumberMeter = field(default_factory=NumberMeter)

    def __post_init__(self) -> None:
        self.all = self.goal.meter()

    def count(self, date: dt.date, reference: Tensor, decided: Tensor) -> None:
        """Compare the map of a date with labels, as :meth:`lianet_user.finetuning.metrics.Meter.update` does."""
        if date not in self.by_date:
            self.by_date[date] = self.goal.meter()
        for meter in (self.all, self.by_date[date]):
            meter.update(reference, decided)

    def count_mean(self, reference: Tensor, decided: Tensor) -> None:
        """Compare a map of the mean over several dates with labels."""
        self.of_mean = self.of_mean or self.goal.meter()
        self.of_mean.update(reference, decided)

    def locate(self, samples: Sequence[Sample], median: float) -> None:
        """Count the places that the labels of samples lie in.

        A place is a patch of one class, and what begins within the same square of 16 px is one place, at whatever dates:
        labels of one field, or points side by side, tell the same. Numbers have no patches: their places are the squares.

        Args:
            samples: that are judged.
            median: of the labels that were trained on, where they are numbers.
        """
        for sample in samples:
            own = sample.judged()
            values, labelled = own.labels.numpy(), own.labelled.numpy()
            begins = np.arange(values.size).reshape(values.shape)
            if self.goal.numbers:
                self.of_median.update(own.labels, torch.full_like(own.labels, median))
            else:
                for value in np.unique(values[labelled]):
                    patch, count = ndimage.label(values == value)
                    first = np.asarray(ndimage.minimum(begins, patch, np.arange(1, count + 1)))
                    begins[patch > 0] = first[patch[patch > 0] - 1]
            rows, cols = np.divmod(begins[labelled], values.shape[1])
            rows, cols = own.window.row + rows // own.scale, own.window.col + cols // own.scale
            kinds = np.zeros_like(rows) if self.goal.numbers else values[labelled].astype(rows.dtype)
            keys, pixels = np.unique(
                np.stack([kinds, rows // SMALLEST, cols // SMALLEST], 1), axis=0, return_counts=True
            )
            self.places.update(dict(zip(map(tuple, keys.tolist()), pixels.tolist(), strict=True)))

    def scores(self) -> AnyScores:
        """The figures of all samples, with the number of places if they were located."""
        scores = self.all.compute()
        if isinstance(scores, NumberScores):
            median = self.of_median.compute().mae
            return scores.model_copy(update={"places": effective(self.places.values()), "median_mae": median})
        sizes: dict[int, list[int]] = {}
        for (kind, *_), pixels in self.places.items():
            sizes.setdefault(kind, []).append(pixels)
        classes = (
            each.model_copy(update={"places": effective(sizes.get(kind, ()))})
            for kind, each in enumerate(scores.classes)
        )
        return scores.model_copy(update={"classes": tuple(classes)})

    def dated_scores(self) -> tuple[DatedScores, ...]:
        """The figures date by date; empty where there is only one."""
        if len(self.by_date) < 2:
            return ()
        return tuple(DatedScores(date=date, scores=self.by_date[date].compute()) for date in sorted(self.by_date))


@torch.inference_mode()
def judge(
    answer: Answer,
    samples: Sequence[Sample],
    goal: Goal,
    into: Judgement | None = None,
    device: torch.device | str = "cpu",
) -> Judgement:
    """Compare answers with labels; every label counts once for each of its dates.

    Args:
        answer: computed by networks in evaluation mode.
        samples: with the labels to judge by.
        goal: what the labels are.
        into: counts to add to; None begins anew.
        device: that `answer` computes on.
    """
    judgement = into or Judgement(goal)
    ordered = sorted(samples, key=_ground)
    for _, group in itertools.groupby(ordered, key=_ground):
        answers: list[Tensor] = []
        any_date: Tensor | None = None  # labels that count at one of the dates at least
        for sample in group:
            given = answer(sample.inputs[None].float().to(device))[0].cpu()
            own = sample.judged()
            reference = own.labels
            any_date = reference if any_date is None else torch.where(own.labelled, reference, any_date)
            judgement.count(sample.date, reference, goal.decided(given))
            answers.append(given)
        if len(answers) > 1 and any_date is not None:
            judgement.count_mean(any_date, goal.decided(goal.averaged(answers)))
    return judgement


def _ground(sample: Sample) -> tuple[int, int, int]:
    return sample.map, sample.own.row, sample.own.col


# --- What figures are worth.

NORMAL = 1.96
"""Deviations of a normal distribution that hold 95 %."""
WIDE = 0.05
"""An interval wider than this, or than this share of an error, is shown."""
WEAK = 0.5
"""A class whose F1 is lower is named where a head has failed."""
NAMES = {"macro_f1": "macro F1", "accuracy": "accuracy", "mae": "mean absolute error"}


def effective(sizes: Iterable[int]) -> float | None:
    """How many places of equal size a mean over places of these sizes is as certain as (Kish 1965); None for no place."""
    pixels = np.asarray(list(sizes), np.float64)
    return float(pixels.sum() ** 2 / np.square(pixels).sum()) if len(pixels) else None


def intervals(scores: AnyScores | None) -> dict[str, tuple[float, float]]:
    """95 % intervals of macro F1 and accuracy, or of the mae; empty where places were not counted.

    All pixels of a place are taken to be right or wrong together, so that places count and not pixels. Shares have Wilson's
    interval (1927) for as many draws as there are effective places, of a mean over pixels or of one over classes; macro F1 is
    treated as such a mean. The mae has Student's interval, from the deviation of the pixels' errors.
    """
    if isinstance(scores, NumberScores):
        if scores.places is None or scores.mae is None or scores.mse is None:
            return {}
        degrees = max(scores.places, 2.0) - 1  # of a single place nothing is known, of two hardly more
        half = float(stdtrit(degrees, 0.975)) * math.sqrt(max(scores.mse - scores.mae**2, 0.0) / degrees)
        return {"mae": (max(0.0, scores.mae - half), scores.mae + half)}
    judged = [(each.pixels, each.places) for each in scores.classes if each.pixels and each.places] if scores else []
    if not scores or not judged or scores.accuracy is None or scores.macro_f1 is None:
        return {}
    return {
        "macro_f1": _wilson(scores.macro_f1, len(judged) ** 2 / sum(1 / places for _, places in judged)),
        "accuracy": _wilson(scores.accuracy, scores.pixels**2 / sum(pixels**2 / places for pixels, places in judged)),
    }


def _wilson(share: float, draws: float) -> tuple[float, float]:
    spread = NORMAL**2 / draws
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4)
    low, high = ((share + spread / 2 + side * half) / (1 + spread) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def wide_intervals(scores: AnyScores | None, unit: str = "") -> str:
    """The intervals that a reader should know of, as "macro F1 0.41 to 0.72, accuracy 0.80 to 0.97"; or nothing."""
    least = WIDE * (scores.mae or 0.0) if isinstance(scores, NumberScores) else WIDE
    shown = {name: ends for name, ends in intervals(scores).items() if ends[1] - ends[0] > least}
    form = ".3g" if isinstance(scores, NumberScores) else ".3f"  # as the scores themselves are written
    return ", ".join(
        f"{NAMES[name]} {low:{form}} to {high:{form}} {unit}".rstrip() for name, (low, high) in shown.items()
    )


def unjudged(scores: Scores) -> str:
    """Which classes the macro figures leave out, as "5 of 6 classes: no pixel of wetland to judge by"; or nothing."""
    lacking, count = [each.name for each in scores.classes if not each.pixels], len(scores.classes)
    return f"{count - len(lacking)} of {count} classes: no pixel of {listed(lacking)} to judge by" if lacking else ""


def verdict(header: HeadHeader, look_at: str) -> str | None:
    """What to do about a head that is not clearly better than no head, in a sentence; None if it is, or nothing is known.

    Clearly: by the whole of an interval (:func:`intervals`). Classes pass by an accuracy above that of the commonest class
    everywhere; or, because a head that finds rare classes need not have that, by a macro F1 above that of the commonest class
    and above that of the head's own answers dealt out at random. Numbers pass by an error below that of the training labels'
    median; or, because the median is hard to beat where most numbers are 0, by an R2 above 0: answers correlate with the
    truth by its root at least, whose interval is Fisher's.

    Args:
        header: of the head.
        look_at: where labels and map can be compared.
    """
    scores, known = header.scores, intervals(header.scores)
    if isinstance(scores, NumberScores):
        if not known or scores.median_mae is None or scores.places is None:
            return None
        root = math.sqrt(min(max(scores.r2 or 0.0, 0.0), 0.999))
        explains = math.atanh(root) * math.sqrt(max(scores.places - 3, 0.0)) > NORMAL
        passed, baselines = explains or known["mae"][1] < scores.median_mae, {"mae": scores.median_mae}
        instead, more, what = "the median of the training labels everywhere", "low and of high numbers", "numbers"
    elif scores and known:
        shares = np.asarray(scores.confusion, np.float64) / scores.pixels
        reference, answered = shares.sum(1), shares.sum(0)
        judged, most = reference > 0, float(reference.max())
        dealt = float((2 * reference * answered)[judged] @ (1 / (reference + answered)[judged])) / judged.sum()
        baselines = {"accuracy": most, "macro_f1": max(dealt, 2 * most / (1 + most) / judged.sum())}
        passed = any(known[name][0] > baseline for name, baseline in baselines.items())
        instead = f"{scores.classes[int(reference.argmax())].name} everywhere, or at random"
        ranked = sorted(scores.classes, key=lambda each: each.f1 or 0.0)
        weak = [each.name for each in ranked if (each.f1 or 0.0) < WEAK] or [ranked[0].name]
        more, what = listed(weak, 5), "classes"
    else:
        return None
    if passed:
        return None
    unit = header.numbers.unit if header.numbers else ""
    figures = "; ".join(
        f"{NAMES[name]} {getattr(scores, name):.3g}, interval {low:.3g} to {high:.3g}, against {baselines[name]:.3g}"
        for name, (low, high) in known.items()
    )
    return (
        f"this head is not clearly better than answering {instead} ({figures}{unit and f' {unit}'}): label more of {more},"
        f" look at {look_at}, and check the labels' dates and {what}"
    )
