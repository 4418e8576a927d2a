"""The training loop of heads: networks are trained on samples, one after the other, in steps that can be resumed.

What a step is trained on, and what it leaves out, follow from the seed, the member and the step alone. A run that was
killed and resumed therefore gives, on the same machine, bit for bit the result of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lianet_user.errors import TrainingError, TrainingWarning
from lianet_user.field.model import training_autocast
from lianet_user.files.checkpoint import (
    Checkpoint,
    Clock,
    load_checkpoint,
    moments_like,
    restoring,
    same_shapes,
    save_checkpoint,
)
from lianet_user.files.header import IGNORE
from lianet_user.finetuning.crops import BalancedCrops, Batch, class_counts, class_offsets, make_crops
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.metrics import figure_of_merit
from lianet_user.finetuning.samples import Sample
from lianet_user.finetuning.settings import FinetuneSettings
from lianet_user.finetuning.validation import judge

CHECKPOINT_EVERY = 50
"""Steps between checkpoints at most: where each is quick, few go by until the next one is due by the clock."""

REPORTED = 10
"""Steps whose mean loss is one point of the loss curve."""

LOOKED_AT = 24
"""Validation windows that a look during training judges; the final figures are of all."""

LOWEST, COSINE_LOWEST = 1 / 250_000, 0.01
"""The last learning rate as a share of the highest: one-cycle's, and the paper's."""


@dataclass
class History:
    """How the training of one member went."""

    member: int
    losses: list[tuple[int, float]] = field(default_factory=list)
    """Step, and the mean loss of the steps since the last entry."""
    looks: list[tuple[int, float]] = field(default_factory=list)
    """Step, and the figure on validation ground: macro F1, or the mean absolute error in the unit of the labels."""
    best_step: int = 0
    """The number of steps after which the kept state was reached."""


@dataclass(frozen=True)
class Step:
    """How far training is."""

    done: int
    total: int
    """Of all members; fewer may be needed."""
    loss: float
    figure: float | None
    """Of the last look, None before there was one."""


class NotFiniteError(TrainingError):
    """The loss stopped being finite.

    Attributes:
        usable: how many of the networks, from the first on, were left in a good state.
    """

    def __init__(self, message: str, usable: int) -> None:
        super().__init__(message)
        self.usable = usable


def fit(
    members: Sequence[nn.Module],
    training: Sequence[Sample],
    validation: Sequence[Sample],
    goal: Goal,
    settings: FinetuneSettings,
    *,
    listener: Callable[[Step], None] | None = None,
    checkpoint: Checkpoint | None = None,
    untaught: Sequence[int] = (),
) -> tuple[History, ...]:
    """Train networks in place, one after the other, and leave each in evaluation mode in the best state that was seen.

    A look every so many steps judges the network on validation ground; without any, the last state is kept.

    Args:
        members: map (B, C, size, size) to raw answers (B, outputs, scale * size, scale * size).
        training: samples with the labels to train on, see :func:`lianet_user.finetuning.samples.keep`.
        validation: samples with the labels to judge by; none where nothing is kept.
        goal: what the labels are.
        settings: of the training.
        listener: called after every step. What it raises ends the run, once the checkpoint is written.
        checkpoint: where to keep the run, None to keep nothing.
        untaught: classes that an earlier training taught and these samples lack: they are left out of the loss, which
            would otherwise unlearn them (water on the Havelland's labels: IoU 0.58 before, 0.00 after, and 0.49 in this way).

    Raises:
        NotFiniteError: the loss stopped being finite; the networks are left in the best states seen until then.
        ArtifactError: the checkpoint to go on from is not of this run.
        LabelError: no sample suits the task.
    """
    run = HeadTrainer(members, training, validation, goal, settings, untaught)
    if checkpoint and checkpoint.resume:
        saved = load_checkpoint(checkpoint.path, checkpoint.fingerprint)
        with restoring(checkpoint.path):
            run.restore(*saved)

    clock = Clock()

    def save() -> None:
        if checkpoint:
            save_checkpoint(checkpoint.path, checkpoint.fingerprint, *run.state())
        clock.restart()

    while not run.finished:
        step = run.advance()
        if step is None:
            continue
        try:
            if listener:
                listener(step)
        except BaseException:
            save()
            raise
        if step.done % CHECKPOINT_EVERY == 0 or clock.due:
            save()
    save()
    return tuple(run.histories)


class HeadTrainer:
    """One training of several members: the steps that are done, and everything that decides how it goes on."""

    def __init__(
        self,
        members: Sequence[nn.Module],
        training: Sequence[Sample],
        validation: Sequence[Sample],
        goal: Goal,
        settings: FinetuneSettings,
        untaught: Sequence[int],
    ) -> None:
        self.members, self.goal, self.settings = members, goal, settings
        self.device = next(members[0].parameters()).device
        self.crops = make_crops(training, goal, settings)
        self.steps = self.crops.steps
        self.looked_at = _some(validation, settings.seed)
        self.loss = goal.loss(settings, untaught)
        self.offsets: Tensor | None = None
        if goal.classes and isinstance(self.crops, BalancedCrops):
            counts = class_counts(training, len(goal.classes))
            prior = goal.prior(counts, settings.prior)
            self.offsets = class_offsets(self.crops, counts, prior, settings.seed).to(self.device)
        self.parts = 1
        """How many parts a batch is computed in: more than one where the device's memory does not hold it."""
        self.histories = [History(0)]
        self.step, self.finished = 0, False
        self.best: dict[str, Tensor] | None = None
        self.best_figure, self.since_best = -math.inf, 0
        self.recent: list[float] = []
        self._begin()

    @property
    def number(self) -> int:
        """The number of the member in training."""
        return len(self.histories) - 1

    @property
    def member(self) -> nn.Module:
        return self.members[self.number]

    def _begin(self) -> None:
        self.member.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.optimizer = torch.optim.AdamW(
            self.member.parameters(), self.settings.rate, weight_decay=self.settings.weight_decay
        )

    def advance(self) -> Step | None:
        """Train one step, with the look that is due after it; None where the step only ended a member."""
        history = self.histories[-1]
        if self.step >= self.steps or (
            self.settings.patience is not None and self.since_best >= self.settings.patience
        ):
            self._end()
            return None
        self.member.train()
        rate, momentum = rate_at(self.settings, self.step, self.steps, self.crops.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (momentum, group["betas"][1])
        loss = self._trained_step(rate)
        self.step += 1
        self.recent.append(loss)
        if self.step % REPORTED == 0 or self.step == self.steps:
            history.losses.append((self.step, float(np.mean(self.recent))))
            self.recent.clear()
        if self.looked_at and (self.step % self.settings.validate_every == 0 or self.step == self.steps):
            self._look()
        done = self.number * self.steps + self.step
        figure = history.looks[-1][1] if history.looks else None
        return Step(done, len(self.members) * self.steps, loss, figure)

    def _trained_step(self, rate: float) -> float:
        inputs, labels = self.crops.draw((self.settings.seed, self.number), self.step)
        if self.settings.dropout:
            inputs = self._thinned(inputs)
        batch = inputs.to(self.device), self.goal.target(labels.to(self.device))
        while True:
            try:
                loss = self._gradients(batch)
                break
            except torch.OutOfMemoryError:
                # BatchNorm has seen the parts that fitted; a few windows twice do not matter to its running statistics.
                self._halve(len(inputs))
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"the loss is not finite at step {self.step} of member {self.number + 1} (rate {rate:.2g}): give a lower"
                " `rate`",
                usable=self.number + self._fall_back(),
            )
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.member.parameters(), self.settings.clip)
        self.optimizer.step()
        return loss

    def _gradients(self, batch: Batch) -> float:
        """Set the gradients of a batch, computed in parts where need be, and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        labelled = self._labelled(batch[1])
        for inputs, target in zip(*(part.chunk(self.parts) for part in batch), strict=True):
            with training_autocast(self.device):
                raw = self.member(inputs.contiguous(memory_format=torch.channels_last))
            answers = self.goal.activated(raw.float())
            loss = self.loss(answers if self.offsets is None else answers + self.offsets, target)
            if self.parts > 1:  # weighted so that the parts give the mean over the batch
                loss = loss * (self._labelled(target) / max(labelled, 1))
            loss.backward()
            total += loss.item()
        return total

    def _labelled(self, target: Tensor) -> int:
        return int((target != IGNORE).sum() if self.goal.classes else target.isfinite().sum())

    def _halve(self, size: int) -> None:
        """Compute batches in twice as many parts.

        Raises:
            TrainingError: not even a single crop fits.
        """
        if self.parts >= size:
            raise TrainingError(
                f"the memory of {self.device} does not hold a single crop of {self.settings.crop} px: give a smaller `crop`,"
                " or `device` cpu"
            ) from None
        self.parts = min(2 * self.parts, size)
        torch.cuda.empty_cache()
        message = (
            f"the memory of {self.device} does not hold {size} crops at once: they are computed in {self.parts} parts, whose"
            " gradients are added up"
        )
        warnings.warn(TrainingWarning(message), stacklevel=2)

    def _thinned(self, inputs: Tensor) -> Tensor:
        """Inputs with a random share of the channels set to 0, and the others scaled up to make up for it."""
        rng = np.random.default_rng((self.settings.seed, self.number, 2, self.step))
        kept = rng.random((*inputs.shape[:2], 1, 1)) >= self.settings.dropout
        return inputs * torch.from_numpy(kept / (1 - self.settings.dropout)).float()

    def _answer(self, inputs: Tensor) -> Tensor:
        with training_autocast(self.device):
            raw = self.member(inputs.contiguous(memory_format=torch.channels_last))
        return self.goal.activated(raw.float())

    def _look(self) -> None:
        """Judge the member, and keep its state if it is the best so far."""
        self.member.eval()
        scores = judge(self._answer, self.looked_at, self.goal, device=self.device).scores()
        merit = figure_of_merit(scores)
        history = self.histories[-1]
        history.looks.append((self.step, merit if self.goal.classes else -merit))
        self.since_best += 1
        if merit > self.best_figure:
            self.best_figure, self.since_best = merit, 0
            self.best = {name: tensor.clone() for name, tensor in self.member.state_dict().items()}
            history.best_step = self.step

    def _end(self) -> None:
        """Leave the member in its best state or its last, and go on to the next."""
        if self.settings.keep_best or self.settings.patience is not None:
            self._fall_back()
        else:
            self.histories[-1].best_step = self.step
            self.member.eval()
        if len(self.histories) == len(self.members):
            self.finished = True
            return
        self.histories.append(History(len(self.histories)))
        self.step, self.best = 0, None
        self.best_figure, self.since_best = -math.inf, 0
        self.recent.clear()
        self._begin()

    def _fall_back(self) -> bool:
        if self.best is None:
            self.histories[-1].best_step = self.step
        else:
            self.member.load_state_dict(self.best)
        self.member.eval()
        return self.best is not None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that is needed to go on: tensors, and what JSON can hold."""
        tensors = {
            f"member.{number}.{name}": tensor
            for number, member in enumerate(self.members[: self.number + 1])
            for name, tensor in member.state_dict().items()
        }
        tensors |= {f"best.{name}": tensor for name, tensor in (self.best or {}).items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
        return tensors, {
            "finished": self.finished,
            "step": self.step,
            "parts": self.parts,
            "best_figure": None if self.best is None else self.best_figure,
            "since_best": self.since_best,
            "recent": self.recent,
            "histories": [dataclasses.asdict(history) for history in self.histories],
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Return to where :meth:`state` was taken."""
        self.histories = [
            History(
                member=each["member"],
                losses=[(int(step), float(loss)) for step, loss in each["losses"]],
                looks=[(int(step), float(figure)) for step, figure in each["looks"]],
                best_step=each["best_step"],
            )
            for each in state["histories"]
        ]
        self.finished, self.step, self.parts = bool(state["finished"]), int(state["step"]), int(state["parts"])
        if not (1 <= len(self.histories) <= len(self.members) and 0 <= self.step <= self.steps and self.parts >= 1):
            raise ValueError(f"step {self.step} of member {len(self.histories)} is not a step of this run")
        self.since_best, self.recent = int(state["since_best"]), [float(loss) for loss in state["recent"]]
        for number, member in enumerate(self.members[: self.number + 1]):
            member.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
            member.load_state_dict(_under(f"member.{number}.", tensors))
            member.eval()
        if state["best_figure"] is not None:
            self.best_figure = float(state["best_figure"])
            own = self.member.state_dict()
            same_shapes(own, _under("best.", tensors))
            self.best = {n: torch.empty_like(own[n]).copy_(t) for n, t in _under("best.", tensors).items()}
        self._begin()
        moments = moments_like(list(self.member.parameters()), _under("optimizer.", tensors))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def rate_at(settings: FinetuneSettings, step: int, steps: int, steps_per_epoch: int) -> tuple[float, float]:
    """Learning rate and first momentum of a step, which depend on nothing else.

    One-cycle (Smith and Topin, 2018): both follow cosines, the rate up and down again, the momentum the other way round.
    Cosine (paper, section 3.4): a linear warm-up, then epoch by epoch along a cosine down to 1 % of the rate.
    """
    if settings.schedule == "one-cycle":
        peak = max(settings.warmup * steps - 1, 1e-9)
        if step <= peak:
            rising = _swing(0.0, 1.0, step / peak)
            return settings.rate * (0.04 + 0.96 * rising), 0.95 - 0.1 * rising
        falling = _swing(1.0, 0.0, (step - peak) / max(steps - 1 - peak, 1e-9))
        return settings.rate * (LOWEST + (1 - LOWEST) * falling), 0.95 - 0.1 * falling
    epoch, epochs = step // steps_per_epoch, max(1, steps // steps_per_epoch)
    warm = round(settings.warmup * epochs)
    if epoch < warm:
        return settings.rate * (epoch + 1) / (warm + 1), 0.9
    share = (epoch - warm) / max(1, epochs - warm)
    return settings.rate * _swing(1.0, COSINE_LOWEST, share), 0.9


def _swing(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _some(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """A few samples at random, always the same."""
    if len(samples) <= LOOKED_AT:
        return list(samples)
    chosen = np.random.default_rng(seed).choice(len(samples), LOOKED_AT, replace=False)
    return [samples[number] for number in sorted(chosen.tolist())]
