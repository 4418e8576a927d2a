"""The neural field put together: encoding, time, decoder, reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lianet_user.field.config import FieldConfig
from lianet_user.field.decoder import LiteReconstruction, LiteUNet, Reconstruction, ResUNet
from lianet_user.field.encoding import Corner, HashGrid, TimeVectors


class NeuralField(nn.Module):
    """f(x, y, t): windows of coordinates and an acquisition in, features and reflectance out.

    Windows start and end at multiples of the decoder's stride; :class:`lianet_user.region.Region` sees to that.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.encoding.channels
        self.grid = HashGrid(config.encoding)
        self.time = TimeVectors(config.time, channels)
        decoder = config.decoder
        self.decoder: ResUNet | LiteUNet
        self.reconstruction: Reconstruction | LiteReconstruction
        if decoder.architecture == "resunet":
            self.decoder = ResUNet(decoder, channels)
            self.reconstruction = Reconstruction(decoder.features, config.bands)
        else:
            self.decoder = LiteUNet(decoder, channels)
            self.reconstruction = LiteReconstruction(decoder.features, config.bands)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it

    def encode(self, corners: Sequence[Corner], height: int, width: int, acquisitions: Tensor) -> Tensor:
        """Encoded windows with the time vector added: (B, L * F, height, width).

        Args:
            corners: row and column of each window's first pixel.
            height: of every window.
            width: of every window.
            acquisitions: (B,) index of each window's date.
        """
        return self.grid(corners, height, width) + self.time(acquisitions)[:, :, None, None]

    def features(self, corners: Sequence[Corner], height: int, width: int, acquisitions: Tensor) -> Tensor:
        """What a head reads (B, features, height, width); arguments as :meth:`encode`."""
        decoded: Tensor = self.decoder(self.encode(corners, height, width, acquisitions))
        return decoded

    def forward(self, corners: Sequence[Corner], height: int, width: int, acquisitions: Tensor) -> Tensor:
        """Reflectance (B, bands, height, width); arguments as :meth:`encode`."""
        reflectance: Tensor = self.reconstruction(self.features(corners, height, width, acquisitions))
        return reflectance
