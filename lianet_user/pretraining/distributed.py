"""Training by several processes, each with its share of every batch: what they compute is what one alone would."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lianet_user.errors import InputError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
VARIABLES = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells the processes that it starts."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and which of them this one is.

    Attributes:
        rank: 0 to world - 1; rank 0 reports and writes for all.
        world: how many there are.
        local_rank: the rank on this machine.
        device: that this process trains on.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @classmethod
    def join(cls, device: str | None = None) -> Self:
        """Join the processes that torchrun started; without torchrun, this is the only one.

        Every process of a run has to call it.

        Args:
            device: `cpu` or `cuda`; None takes CUDA where there is a device.

        Raises:
            InputError: torchrun's variables are not all there or are no ranks, or there are more processes than devices.
        """
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if not any(name in os.environ for name in NUMBERS):
            return cls(0, 1, 0, torch.device(kind))
        rank, world, local_rank = _numbers()
        if kind == "cuda":
            if local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"process {local_rank} of this machine has no CUDA device of its own, there are"
                    f" {torch.cuda.device_count()}: start one process per device (torchrun --nproc-per-node)"
                )
            torch.cuda.set_device(local_rank)
        processes = cls(
            rank, world, local_rank, torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
        )
        if world > 1:
            distributed.init_process_group("nccl" if kind == "cuda" else "gloo", rank=rank, world_size=world)
        return processes

    def leave(self) -> None:
        """Leave the other processes at the end. A process that failed just ends: torchrun then ends the others."""
        if self.world > 1:
            distributed.destroy_process_group()

    def mean(self, value: float) -> float:
        """The mean over the processes, the same in each. All of them have to call it."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.item() / self.world

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are means over the processes; the module itself where there is only one.

        All parameters have to take part in every call, which must be of the module and not of its parts. Every process
        begins with the parameters and buffers of rank 0.
        """
        if self.world == 1:
            return module
        devices = [self.local_rank] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)


def _numbers() -> tuple[int, int, int]:
    """Rank, world and local rank from the environment."""
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise InputError(
            f"the environment has some of torchrun's variables but not {', '.join(missing)}: start with torchrun, or unset"
            f" {', '.join(name for name in VARIABLES if name in os.environ)}"
        )
    texts = [os.environ[name] for name in NUMBERS]
    try:
        rank, world, local_rank = map(int, texts)
    except ValueError:
        rank, world, local_rank = -1, 0, -1
    if not (0 <= rank < world and 0 <= local_rank < world):
        said = ", ".join(f"{name}={text}" for name, text in zip(NUMBERS, texts, strict=True))
        raise InputError(
            f"the environment says {said}, expected ranks below the number of processes: start with torchrun"
        )
    return rank, world, local_rank


class SyncNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics run over the batches of all processes. torch's own, SyncBatchNorm, needs CUDA.

    The shares may differ in size. In evaluation mode, and in its state, it is the BatchNorm that it replaces.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Self:
        """A SyncNorm that shares the parameters and buffers of `norm`."""
        assert norm.affine
        assert norm.track_running_stats
        assert norm.momentum is not None
        sync = cls(norm.num_features, norm.eps, norm.momentum)
        sync.weight, sync.bias = norm.weight, norm.bias
        sync.running_mean, sync.running_var = norm.running_mean, norm.running_var
        sync.num_batches_tracked = norm.num_batches_tracked
        return sync.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, h, w) of any floating type."""
        if not self.training:
            return super().forward(input)
        mean, var, count = _moments(input.detach())
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        normalized: Tensor = _Normalize.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, mean, var, count, self.eps
        )
        return normalized


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and population variance (C,) over all processes' (B, C, h, w), and the number of values in each.

    Every process fills its own row of a table of zeros, so that one sum gives all of them the whole table; merging means and
    variances then loses no digits, as a difference of sums of squares would.
    """
    var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    row = torch.cat([mean, var, mean.new_tensor([x.numel() // x.shape[1]])])
    table = row.new_zeros(distributed.get_world_size(), len(row))
    table[distributed.get_rank()] = row
    distributed.all_reduce(table)
    means, variances, counts = table.split([len(mean), len(mean), 1], dim=1)
    count = counts.sum()
    weights = counts / count
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0), count


class _Normalize(torch.autograd.Function):
    """Normalisation by the mean and variance of all processes' values, with the gradient that flows through both.

    Written out because torch's all_reduce with a gradient is deprecated; it also stores nothing but its input.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), count)
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad = grads[0].float()
        normalized = (x.float() - mean[:, None, None]) * scale[:, None, None]
        bias_grad, weight_grad = grad.sum((0, 2, 3)), (grad * normalized).sum((0, 2, 3))
        sums = torch.stack([bias_grad, weight_grad])
        distributed.all_reduce(sums)
        shift, tilt = (sums / count)[:, :, None, None]
        x_grad = (grad - shift - normalized * tilt) * (weight * scale)[:, None, None]
        return x_grad.to(x.dtype), weight_grad, bias_grad, None, None, None, None


def synchronize_norms(field: nn.Module) -> None:
    """Make every BatchNorm of a field run over all processes' batches; a single process leaves the field as it is.

    Parameters stay the same objects, so that an optimizer may have been made before. Call it before `Processes.wrap`.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    for module in list(field.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SyncNorm.of(child))
