"""The head: six trainable 3x3 convolutions on frozen features (paper, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lianet_user.field.config import HeadConfig
from lianet_user.field.decoder import group_norm

PAPER_WIDTHS = (128, 128, 64, 64, 32)


class HeadLayers(nn.Sequential):
    """3x3 convolutions to `widths` and then to `outputs`, with a norm and ReLU between them.

    With `norm="group"` it is the paper's; with `norm="batch"` it has no statistics over space, so that its logits do not
    depend on how an area is cut into windows.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], outputs: int, norm: str) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [
                nn.Conv2d(in_channels, width, 3, padding=1),
                group_norm(width) if norm == "group" else nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            in_channels = width
        super().__init__(*layers, nn.Conv2d(in_channels, outputs, 3, padding=1))


class HeadEnsemble(nn.Module):
    """Heads of one shape, trained from different seeds, that answer together.

    Attributes:
        halo: pixels of surroundings a decision depends on, on each side.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(
            HeadLayers(config.in_channels, config.widths, config.outputs, config.norm) for _ in range(config.members)
        )
        self.halo = len(config.widths) + 1
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it

    def forward(self, features: Tensor) -> Tensor:
        """Inputs (B, C, h, w) to the logarithm of the members' mean class probabilities (B, outputs, h, w)."""
        logs = torch.stack([member(features).float().log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - torch.tensor(float(len(self.members))).log()
