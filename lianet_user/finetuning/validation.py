"""How right answers are on samples that were not trained on: over all, date by date, and of the mean over the dates."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lianet_user.files.header import AnyScores, DatedScores
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.metrics import Meter
from lianet_user.finetuning.samples import Sample

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
    """

    goal: Goal
    all: Meter = field(init=False)
    by_date: dict[dt.date, Meter] = field(default_factory=dict)
    of_mean: Meter | None = None

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

    def scores(self) -> AnyScores:
        """The figures of all samples."""
        return self.all.compute()

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
