"""The neural field put together: encoding, time, decoder, reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

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
        """What a head reads (B, features, height, width).

        Args:
            corners: as :meth:`encode`.
            height: likewise.
            width: likewise.
            times: likewise.
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
