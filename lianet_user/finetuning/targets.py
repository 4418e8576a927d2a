"""What a head is trained towards: classes, or numbers brought to the size of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lianet_user.files.header import ClassEntry, Numbers
from lianet_user.finetuning.losses import CROSS_ENTROPY, Loss, make_loss
from lianet_user.finetuning.metrics import Meter, meter_for
from lianet_user.finetuning.settings import FinetuneSettings
from lianet_user.labels import Labels

SPAN = 0.99
"""Numbers are divided by this quantile of theirs, so that one absurd label does not make all others small."""


@dataclass(frozen=True)
class Goal:
    """What answers are compared with.

    Attributes:
        classes: in the order of their values; none for numbers.
        numbers: None for classes.
    """

    classes: tuple[ClassEntry, ...]
    numbers: Numbers | None

    @classmethod
    def of(cls, labels: Labels, settings: FinetuneSettings, unit: str = "") -> Goal:
        """The goal that labels set; covered shares are numbers from 0 to 1."""
        if labels.classes:
            return cls(labels.classes, None)
        summary = labels.report.numbers
        assert summary is not None
        if labels.task == "coverage":
            return cls((), Numbers(unit=unit, low=0.0, high=1.0))
        offset = min(0.0, summary.minimum)
        found = np.concatenate([each.values[each.labelled] for each in labels.maps])
        span = settings.number_scale or float(np.quantile(found, SPAN)) - offset
        scale = span if span > 0 else 1.0
        return cls((), Numbers(unit=unit, offset=offset, scale=scale, low=summary.minimum, high=summary.maximum))

    @property
    def outputs(self) -> int:
        """Channels of a network's answer."""
        return len(self.classes) or 1

    def loss(self, settings: FinetuneSettings, weights: Tensor | None, untaught: Sequence[int] = ()) -> Loss:
        """The loss that settings name, of answers (B, outputs, h, w) and targets (B, h, w).

        Args:
            settings: of the training.
            weights: float32 (classes,), None for numbers.
            untaught: classes that the loss does not see.
        """
        name = settings.loss
        if name == "auto":
            name = CROSS_ENTROPY if self.classes else "huber"
        return make_loss(
            name,
            classes=len(self.classes),
            # The other losses weigh classes by themselves.
            weights=weights if CROSS_ENTROPY in name.split("+") else None,
            label_smoothing=settings.label_smoothing,
            left_out=untaught,
        )

    def activated(self, raw: Tensor) -> Tensor:
        """A network's raw answer as the loss takes it: logits as they are, numbers through LeakyReLU (paper)."""
        return raw if self.classes else functional.leaky_relu(raw)

    def target(self, labels: Tensor) -> Tensor:
        """Labels as the loss takes them: int64 with IGNORE; or float32, scaled, with NaN."""
        if self.numbers is None:
            return labels.long()
        return (labels - self.numbers.offset) / self.numbers.scale

    def averaged(self, answers: Sequence[Tensor]) -> Tensor:
        """The mean of several answers (outputs, h, w): of class probabilities, as logarithms; or of numbers."""
        stacked = torch.stack(list(answers))
        if self.numbers is not None:
            return stacked.mean(0)
        return stacked.log_softmax(1).logsumexp(0) - math.log(len(answers))

    def decided(self, answer: Tensor) -> Tensor:
        """What a map would hold of an answer (outputs, h, w): the most probable class, or the number in its unit."""
        if self.numbers is None:
            return answer.argmax(0)
        return self.numbers.offset + self.numbers.scale * answer[0]

    def meter(self) -> Meter:
        """What counts how right answers are."""
        return meter_for(self.classes)
