"""The training loop of a field: steps, learning rates, checkpoints. The caller provides the windows of every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lianet_user.errors import TrainingError
from lianet_user.field.encoding import Corner
from lianet_user.field.model import NeuralField, training_autocast
from lianet_user.files.checkpoint import (
    Clock,
    Fingerprint,
    load_checkpoint,
    moments_like,
    restoring,
    same_shapes,
    save_checkpoint,
)
from lianet_user.pretraining.distributed import Processes, synchronize_norms
from lianet_user.pretraining.settings import Schedule
from lianet_user.region import psnr


@dataclass(frozen=True)
class Windows:
    """What a step trains on.

    Attributes:
        corners: first row and column of each of B windows.
        times: (B,) as the field's time encoding reads them.
        left_out: bool (B,), True where the time code is to be estimated from the other dates; None where the field cannot.
        reflectance: float32 (B, bands, size, size).
        valid: bool (B, bands, size, size).
    """

    corners: Sequence[Corner]
    times: Tensor
    left_out: Tensor | None
    reflectance: Tensor
    valid: Tensor


@dataclass(frozen=True)
class PretrainProgress:
    """How far the training of a field is."""

    step: int
    steps: int
    seconds: float
    psnr_db: float | None
    """Of the windows since the last report, on valid pixels; None between reports."""
    waited: float
    """Share of the time that was spent waiting for windows."""


class _Objective(nn.Module):
    """A field and its loss: one module, as distributed training needs it."""

    def __init__(self, field: NeuralField, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.field = field
        self.lite = field.config.decoder.architecture == "lite"
        # Not buffers: what the field keeps of them is its own.
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def forward(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """The loss, and (2,) the sum of squared errors of reflectance over valid pixels with their number."""
        size = windows.reflectance.shape[-1]
        truth = (windows.reflectance - self.mean) / self.std if self.lite else windows.reflectance
        with training_autocast(truth.device):
            features = self.field.features(windows.corners, size, size, windows.times, windows.left_out)
            error = self.field.reconstruction.standardized(features) - truth
        error = torch.where(windows.valid, error, 0.0)
        # L1 is the paper's; lite starts so close that squares, which PSNR is made of, pay better.
        loss = error.square().mean() if self.lite else error.abs().mean()
        own = windows.valid
        if windows.left_out is not None:  # at these dates the region will not use an estimate
            own = own & ~windows.left_out[:, None, None, None]
        plain = torch.where(own, error.detach() * self.std if self.lite else error.detach(), 0.0)
        return loss, torch.stack([plain.double().square().sum(), own.sum().double()])


class Trainer:
    """One training of a field: its optimizer, and the steps that are done.

    Args:
        field: to train, on the processes' device.
        schedule: of the steps.
        windows: gives those of a step, on the same device.
        mean: of the reflectance, (bands,).
        std: standard deviation of the reflectance, (bands,).
        fingerprint: of everything that a checkpoint must agree with.
        checkpoint: file that it is kept in.
        processes: that train together.
        waited: gives the share of time that was spent waiting for windows.
    """

    def __init__(
        self,
        field: NeuralField,
        schedule: Schedule,
        windows: Callable[[int], Windows],
        *,
        mean: Tensor,
        std: Tensor,
        fingerprint: Fingerprint,
        checkpoint: Path,
        processes: Processes,
        waited: Callable[[], float],
    ) -> None:
        self.field, self.schedule, self.windows = field, schedule, windows
        self.fingerprint, self.checkpoint = fingerprint, checkpoint
        self.processes, self.waited = processes, waited
        synchronize_norms(field)
        tables = [field.grid.tables, *field.time.parameters()]
        rest = [p for n, p in field.named_parameters() if not n.startswith(("grid.", "time."))]
        lite = field.config.decoder.architecture == "lite"
        self.rates = [schedule.table_rate, schedule.rate]
        self.optimizer = torch.optim.AdamW(
            [{"params": tables, "lr": self.rates[0]}, {"params": rest, "lr": self.rates[1]}],
            betas=(0.9, 0.99) if lite else (0.9, 0.999),
            eps=1e-15 if lite else 1e-8,
            weight_decay=0.0,
            fused=True,
        )
        self.objective = processes.wrap(_Objective(field, mean.to(processes.device), std.to(processes.device)))
        self.step, self.seconds = 0, 0.0

    def train(self) -> Iterator[PretrainProgress]:
        """Train to the end, and yield the progress after every step.

        Raises:
            TrainingError: the loss stopped being finite.
        """
        schedule, steps = self.schedule, self.schedule.steps
        started = time.monotonic() - self.seconds
        squares, clock = torch.zeros(2, dtype=torch.float64), Clock()
        done = self.step >= steps
        while not done:
            loss, more = self._train_step(self.step / steps)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is not finite at step {self.step} (rates {self.rates}): start again with a lower `rate`"
                    " or `table_rate`"
                )
            self.step += 1
            squares += more
            self.seconds = time.monotonic() - started
            done, level = self.step == steps, None
            if done or self.step % schedule.report_every == 0:
                level = psnr(self.processes.mean(float(squares[0])) / max(self.processes.mean(float(squares[1])), 1.0))
                squares.zero_()
                done = done or (schedule.target_db is not None and level >= schedule.target_db)
            if done or self.step % schedule.checkpoint_every == 0 or clock.due:
                self.save()
                clock.restart()
            yield PretrainProgress(self.step, steps, self.seconds, level, self.waited())

    def _train_step(self, progress: float) -> tuple[float, Tensor]:
        """One step; its loss over all processes, and this process's squared errors."""
        scale = min(1.0, (self.step + 1) / max(1, self.schedule.warmup)) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.field.train()
        if progress >= self.schedule.frozen_norm:
            freeze_norms(self.field)
        loss, squares = self.objective(self.windows(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return self.processes.mean(loss.item()), squares.cpu()

    def release(self) -> None:
        """Free the gradients and moments, three times what the field itself takes, once training is over."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()

    def save(self) -> None:
        """Write the checkpoint: the field, the optimizer's moments, the step and what this run is."""
        if self.processes.rank:
            return
        tensors = {f"field.{name}": tensor for name, tensor in self.field.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        state = {"step": self.step, "seconds": self.seconds}
        save_checkpoint(self.checkpoint, self.fingerprint, tensors, state)

    def restore(self) -> None:
        """Go on from the checkpoint.

        Raises:
            ArtifactError: there is none, it cannot be read, or it belongs to other imagery or settings, which are named.
        """
        tensors, saved = load_checkpoint(self.checkpoint, self.fingerprint)
        with restoring(self.checkpoint):
            self._restore(tensors, saved)

    def _restore(self, tensors: dict[str, Tensor], saved: Mapping[str, Any]) -> None:
        step, seconds = int(saved["step"]), float(saved["seconds"])
        if not (0 <= step <= self.schedule.steps and seconds >= 0):
            raise ValueError(f"step {step} after {seconds} s is not a step of this run")
        field, moments = (
            {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            for prefix in ("field.", "optimizer.")
        )
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = moments_like(parameters, moments)
        same_shapes(self.field.state_dict(), field)
        self.field.load_state_dict(field)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.seconds = step, seconds


def freeze_norms(field: NeuralField) -> None:
    """Make BatchNorm keep its running statistics and normalise with them."""
    for module in field.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
