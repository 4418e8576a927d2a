"""What a head is trained towards: losses by name, and the goal that labels set (classes, or numbers scaled to about 1).

The losses are those of segmentation-models-pytorch and torch, over the labelled pixels and nothing else.

Pixels without a label are taken out before a loss sees the rest, so they have no influence whatever they hold. No library's
own way of ignoring is relied on. With nothing labelled, torch's means and smp's FocalLoss are NaN and smp's LovaszLoss is an
empty tensor; smp's DiceLoss multiplies ignored answers by 0, which keeps what is not finite.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lianet_user.errors import InputError
from lianet_user.field.torchvision_ops import import_torchvision
from lianet_user.files.header import IGNORE, ClassEntry, Numbers
from lianet_user.finetuning.metrics import Meter, meter_for
from lianet_user.finetuning.priors import PRIOR_POWERS, Prior
from lianet_user.finetuning.settings import CROSS_ENTROPY, FinetuneSettings, check_loss
from lianet_user.labels import Labels

HUBER_DELTA: Final = 0.1
"""Errors above it count linearly: the paper's, for building density."""
FOCAL_GAMMA: Final = 2.0
"""How fast pixels lose weight as their answers become right (Lin et al. 2017)."""

Mean = Callable[[Tensor, Tensor], Tensor]
"""From one labelled pixel or more, answers (N, classes) and classes int64 (N,), or two rows of numbers (N,), to a scalar."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""From answers float32 (B, outputs, h, w) and reference, int64 with IGNORE or float32 with NaN (B, h, w), to a scalar."""


@cache
def _smp() -> ModuleType:
    """The losses of segmentation-models-pytorch. Importing them takes seconds, so it is done for those who ask for one only."""
    import_torchvision()
    return importlib.import_module("segmentation_models_pytorch.losses")


def _focal(answers: Tensor, reference: Tensor) -> Tensor:
    return _smp().FocalLoss("multiclass", gamma=FOCAL_GAMMA)(answers, reference)


def _dice(answers: Tensor, reference: Tensor) -> Tensor:
    # smp counts an absent class as 0 in its mean: the fewer classes a batch shows, the less weight dice would have.
    present = reference.unique()
    return _smp().DiceLoss("multiclass", classes=present)(answers.T[None], reference[None])


def _lovasz(answers: Tensor, reference: Tensor) -> Tensor:
    return _smp().LovaszLoss("multiclass")(answers, reference)


@dataclass(frozen=True)
class NamedLoss:
    """A loss that can be asked for by name (:data:`lianet_user.finetuning.settings.LOSS_KINDS` says for which labels)."""

    summary: str
    mean: Mean


LOSSES: Final = {
    CROSS_ENTROPY: NamedLoss("the paper's; takes label smoothing", functional.cross_entropy),
    "focal": NamedLoss("each class against the rest, pixels that are right count less", _focal),
    "dice": NamedLoss("1 - F1 of the probabilities, mean over the classes there are", _dice),
    "lovasz": NamedLoss("1 - IoU made smooth (Berman et al. 2018), mean over the classes there are", _lovasz),
    "l1": NamedLoss("mean absolute error", functional.l1_loss),
    "mse": NamedLoss("mean squared error", functional.mse_loss),
    "huber": NamedLoss(f"squares up to {HUBER_DELTA}, linear above", partial(functional.huber_loss, delta=HUBER_DELTA)),
}


def make_loss(
    name: str,
    *,
    classes: int,
    label_smoothing: float = 0.0,
    left_out: Sequence[int] = (),
) -> Loss:
    """Make the loss of a name, or the sum of several whose names are joined by +.

    It is a mean over the labelled pixels. With none it is 0, and so is its gradient.

    Args:
        name: of :data:`LOSSES`, for instance `cross-entropy+dice`.
        classes: how many there are, 2 or more; 0 for numbers.
        label_smoothing: of cross-entropy: the share of a label that is spread over all classes, from 0 to below 1.
        left_out: classes whose answers the loss does not see, neither to raise nor to lower them. The reference must not
            hold them.

    Raises:
        InputError: no loss has that name, it is for another kind of labels, it does not take smoothing, or fewer
            than two classes are left.
        ValueError: raised by the loss itself where the reference holds a class that is left out.
    """
    names = check_loss(name, classes=classes > 0, label_smoothing=label_smoothing)
    kept = [index for index in range(classes) if index not in left_out]
    if classes and len(kept) < 2:
        raise InputError(
            f"a loss needs two classes or more to tell apart, and there are {len(kept)}: label another class"
        )
    place = torch.full((classes,), -1)
    place[kept] = torch.arange(len(kept))
    cross_entropy = partial(functional.cross_entropy, label_smoothing=label_smoothing)
    terms = [cross_entropy if part == CROSS_ENTROPY else LOSSES[part].mean for part in names]

    def loss(answers: Tensor, reference: Tensor) -> Tensor:
        labelled = reference != IGNORE if classes else ~reference.isnan()
        chosen, truth = answers.movedim(1, -1)[labelled], reference[labelled]
        if not len(truth):
            return chosen.sum()  # of nothing: 0, with a gradient of 0
        if not classes:
            chosen = chosen.squeeze(1)
        elif left_out:
            chosen, truth = chosen[:, kept], place.to(truth.device)[truth]
            if bool((truth < 0).any()):  # smp's focal and lovasz would silently take it for no class
                raise ValueError(f"the reference holds a class of {list(left_out)}, which are left out")
        return torch.stack([term(chosen, truth) for term in terms]).sum()

    return loss


# --- The goal: classes, or numbers scaled to about 1.

SPAN = 0.99
"""The paper's numbers are divided by this quantile of theirs, so that a single outlier does not make all others small."""

MIDDLE = (0.16, 0.84)
"""Quantiles between which all other numbers lie one deviation from their median, whatever a few outliers do."""


@dataclass(frozen=True)
class Goal:
    """What a head is trained towards and judged by: classes, or numbers and how they are scaled.

    Attributes:
        classes: in the order of their values; none for numbers.
        numbers: None for classes.
        leaky: numbers end with LeakyReLU (the paper's).
    """

    classes: tuple[ClassEntry, ...]
    numbers: Numbers | None
    leaky: bool = False

    @classmethod
    def of(cls, labels: Labels, settings: FinetuneSettings, unit: str = "") -> Goal:
        """The goal that labels set; covered shares are numbers from 0 to 1."""
        if labels.classes:
            return cls(labels.classes, None)
        summary = labels.report.numbers
        assert summary is not None
        if labels.task == "coverage":
            return cls((), Numbers(unit=unit, low=0.0, high=1.0))
        values = np.concatenate([each.values[each.labelled] for each in labels.maps]).astype(np.float64)
        if settings.leaky:
            offset = min(0.0, summary.minimum)
            span = settings.number_scale or float(np.quantile(values, SPAN)) - offset
        else:
            offset = float(np.median(values))
            low, high = np.quantile(values, MIDDLE)
            # Where most numbers are the same, what deviates from them says how large they are.
            span = (high - low) / 2 or float(values.std())
        scale = float(span) if span > 0 else 1.0
        numbers = Numbers(unit=unit, offset=offset, scale=scale, low=summary.minimum, high=summary.maximum)
        return cls((), numbers, settings.leaky)

    @property
    def output(self) -> Literal["logits", "number", "linear"]:
        """The kind of a head's answer, as its configuration names it."""
        return "logits" if self.classes else "number" if self.leaky else "linear"

    def prior(self, counts: np.ndarray, kind: Prior) -> np.ndarray:
        """The frequencies that answers assume: (classes,), 0 for a class that has no labels.

        Args:
            counts: labelled pixels of each class.
            kind: see :data:`lianet_user.finetuning.priors.Prior`.
        """
        if isinstance(kind, tuple):
            shares = np.where(counts > 0, np.asarray(kind, np.float64), 0.0)
        else:
            shares = np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** PRIOR_POWERS[kind], 0.0)
        return np.asarray(shares / shares.sum())

    @property
    def outputs(self) -> int:
        """Channels of a network's answer."""
        return len(self.classes) or 1

    def loss(self, settings: FinetuneSettings, untaught: Sequence[int] = ()) -> Loss:
        """The loss that settings name, of answers (B, outputs, h, w) and targets (B, h, w).

        Args:
            settings: of the training.
            untaught: classes that the loss does not see.
        """
        name = settings.loss
        if name == "auto":
            name = CROSS_ENTROPY if self.classes else "huber"
        return make_loss(name, classes=len(self.classes), label_smoothing=settings.label_smoothing, left_out=untaught)

    def activated(self, raw: Tensor) -> Tensor:
        """A network's raw answer as the loss takes it: the paper's numbers go through LeakyReLU."""
        return functional.leaky_relu(raw) if self.leaky else raw

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
        """The value that a map holds for an answer (outputs, h, w): the most probable class, or the number in its unit."""
        if self.numbers is None:
            return answer.argmax(0)
        return self.numbers.offset + self.numbers.scale * answer[0]

    def meter(self) -> Meter:
        """A new meter of how right answers are."""
        return meter_for(self.classes)
