"""The precision to train in: bfloat16 where the processor computes it natively, float32 elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def training_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on CUDA and on processors with AVX-512 BF16 or AMX; emulated, it would only be slower.

    Decided by what the processor says of itself and not by timing, so that a run can be repeated.
    """
    # Not public, and absent in some versions of torch; without the answer float32 is right everywhere.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    native = device.type == "cuda" or (device.type == "cpu" and bool(supported()))
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
