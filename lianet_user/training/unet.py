"""U-Nets that are trained on imagery from scratch: what the paper puts its heads beside (section 4).

The paper gives their sizes, 17.3 million parameters and 0.49 million, and no more. The shapes here are ours, chosen to have
them: `UNET` is the U-Net of Ronneberger et al. (2015) with padded convolutions, BatchNorm, and bilinear up-sampling in
place of transposed convolutions, which needs the narrower path down and up; `MICRO_UNET` is a level shallower and a quarter
as wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class UNetShape:
    """Channels on the way down and up."""

    down: tuple[int, ...]
    """Of both convolutions of every level, the full resolution first; each level halves the resolution."""
    up: tuple[tuple[int, int], ...]
    """Of the two convolutions after each doubling, the coarsest first; one fewer than the levels."""

    @property
    def stride(self) -> int:
        """Pixels along one side of a pixel of the coarsest level."""
        return 2 ** (len(self.down) - 1)


UNET = UNetShape((64, 128, 256, 512, 512), ((512, 256), (256, 128), (128, 64), (64, 64)))
MICRO_UNET = UNetShape((16, 32, 64, 128), ((64, 64), (32, 32), (16, 16)))


class UNet(nn.Module):
    """Bands (B, channels, h, w) to answers (B, outputs, h, w), of windows of any size.

    A window is filled up to multiples of the stride by repeating its last row and column, and the answer is cropped.
    """

    def __init__(self, channels: int, outputs: int, shape: UNetShape = UNET) -> None:
        super().__init__()
        self.stride = shape.stride
        self.down = nn.ModuleList(
            _double(before, width, width) for before, width in zip((channels, *shape.down), shape.down, strict=False)
        )
        below = shape.down[-1]
        up = []
        for skip, (first, second) in zip(reversed(shape.down[:-1]), shape.up, strict=True):
            up.append(_double(below + skip, first, second))
            below = second
        self.up = nn.ModuleList(up)
        self.last = nn.Conv2d(below, outputs, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs forget it

    def forward(self, bands: Tensor) -> Tensor:
        height, width = bands.shape[-2:]
        filling = (0, -width % self.stride, 0, -height % self.stride)
        x = functional.pad(bands, filling, mode="replicate")
        skips: list[Tensor] = []
        for level, convolutions in enumerate(self.down):
            x = convolutions(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for convolutions in self.up:
            doubled = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = convolutions(torch.cat([skips.pop(), doubled], 1))
        answers: Tensor = self.last(x)
        return answers[..., :height, :width]


def _double(before: int, first: int, second: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with its norm and ReLU."""
    layers: list[nn.Module] = []
    for width in (first, second):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers)
