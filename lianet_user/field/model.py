"""The neural field put together: encoding, time, decoder, reconstruction; and the precision in which it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from lianet_user.field.config import FieldConfig
from lianet_user.field.decoder import FlatDecoder, LiteReconstruction, LiteUNet, Part, Reconstruction, ResUNet
from lianet_user.field.encoding import Corner, HashGrid, TimeCodes, time_encoding


class NeuralField(nn.Module):
    """f(x, y, t): windows of coordinates and a time in, features and reflectance out.

    Windows start and end at multiples of the decoder's stride; :class:`lianet_user.region.Region` sees to that.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.encoding.channels
        self.grid = HashGrid(config.encoding)
        self.time = time_encoding(config.time, channels)
        decoder = config.decoder
        self.decoder: ResUNet | LiteUNet | FlatDecoder
        self.reconstruction: Reconstruction | LiteReconstruction
        if decoder.architecture == "lite":
            self.decoder = LiteUNet(decoder, channels, config.time.codes if config.time.kind == "kriged" else None)
            self.reconstruction = LiteReconstruction(decoder.features, config.bands)
        else:
            self.decoder = (ResUNet if decoder.architecture == "resunet" else FlatDecoder)(decoder, channels)
            self.reconstruction = Reconstruction(decoder.features, config.bands, config.activation)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it

    def encode(self, corners: Sequence[Corner], height: int, width: int, times: Tensor) -> Tensor:
        """Encoded windows (B, L * F, height, width), the time vector added where the field has one.

        Args:
            corners: row and column of each window's first pixel.
            height: of every window.
            width: of every window.
            times: (B,) of each window: the acquisition's index where the field's time is of kind `index`, else float64
                days since the epoch, be they an acquisition's or any others.
        """
        encoded = self.grid(corners, height, width)
        return encoded if isinstance(self.time, TimeCodes) else encoded + self.time(times)[:, :, None, None]

    def features(
        self,
        corners: Sequence[Corner],
        height: int,
        width: int,
        times: Tensor,
        left_out: Tensor | None = None,
        keep: Part | None = None,
    ) -> Tensor:
        """The decoder's features (B, features, height, width).

        Args:
            corners, height, width, times: as :meth:`encode`.
            left_out: for fields of kind `kriged`, see :class:`lianet_user.field.encoding.TimeCodes`.
            keep: of a `lite` field, the part of every window that is asked for: see
                :meth:`lianet_user.field.decoder.LiteUNet.forward`.
        """
        encoded = self.encode(corners, height, width, times)
        codes = [self.time(times, left_out)] if isinstance(self.time, TimeCodes) else []
        part = {} if keep is None else {"keep": keep}
        decoded: Tensor = self.decoder(encoded, *codes, **part)
        return decoded

    def forward(self, corners: Sequence[Corner], height: int, width: int, times: Tensor) -> Tensor:
        """Reflectance (B, bands, height, width); arguments as :meth:`encode`."""
        reflectance: Tensor = self.reconstruction(self.features(corners, height, width, times))
        return reflectance


# --- Precision: bfloat16 where the processor computes it natively, float32 elsewhere.

Precision = Literal["auto", "float32"]
"""`auto`: bfloat16 where it is native, which takes half the time, and the classes of one pixel in a thousand come out
otherwise (benchmarks/README.md). `float32`: everywhere the same but for rounding (docs/reference/equality.md)."""


LIMITED = ("DEFAULT", "AVX2")
"""Torch's names for a processor without AVX-512."""


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device computes bfloat16 itself: CUDA, and processors with AVX-512 BF16 or AMX; emulated, it is slower.

    Decided by what the processor says of itself and not by timing, so that a run can be repeated. Where torch is told to do
    without the processor's newer instructions (`ATEN_CPU_CAPABILITY`), it does without bfloat16 too.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    # Not public, and absent in some versions of torch; without the answer float32 is right everywhere.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported()) and torch.backends.cpu.get_cpu_capability() not in LIMITED


def training_autocast(device: torch.device) -> AbstractContextManager[object]:
    """The precision of a training step."""
    return torch.autocast(device.type, torch.bfloat16, enabled=native_bfloat16(device))


def computed_in(device: torch.device, precision: Precision) -> Literal["bfloat16", "float32"]:
    """The type that `precision` stands for on a device."""
    return "bfloat16" if precision == "auto" and native_bfloat16(device) else "float32"


def answering_autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The precision of what a head reads, and of its answers."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computed_in(device, precision) == "bfloat16")
