"""Decoders: convolutional trunks that turn encoded windows into features, and the reconstruction layer behind them.

`ResUNet` is the paper's (section 3.2), `FlatDecoder` that of its authors' later releases. `LiteUNet` is ours: it has no
statistics over space, so what it computes at a pixel does not depend on how an area is cut into windows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.config import DecoderConfig
from lianet_user.field.resnet import ResNetEncoder

Part = tuple[slice, slice]
"""Rows and columns of a window."""

LIMIT = 100.0
"""Encodings are clamped to +-LIMIT before the projection (paper's release)."""


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the paper's groups: 4 up to 64 channels, 8 up to 128, 16 up to 256, 32 above."""
    groups = next((g for limit, g in ((64, 4), (128, 8), (256, 16)) if channels <= limit), 32)
    return nn.GroupNorm(groups, channels)


def _projection(config: DecoderConfig, channels: int) -> tuple[nn.Module, int]:
    """The 1x1 convolution in front of a decoder, or nothing, and the channels behind it."""
    if config.projection is None:
        return nn.Identity(), channels
    return nn.Conv2d(channels, config.projection, 1), config.projection


def _encoder(config: DecoderConfig, channels: int) -> ResNetEncoder:
    assert config.encoder is not None  # the configuration sees to that
    return ResNetEncoder(config.encoder, channels, config.depth)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            group_norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            group_norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.block(x) + x)


class UpBlock(nn.Module):
    """Bilinear x2, the skip beside it, a fusing 3x3 convolution and three residual blocks."""

    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(nn.Conv2d(channels + skip, out, 3, padding=1), group_norm(out), nn.ReLU(inplace=True))
        self.resblocks = nn.Sequential(*(ResBlock(out) for _ in range(3)))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = functional.interpolate(x, scale_factor=2, mode="bilinear")
        out: Tensor = self.resblocks(self.fuse(torch.cat([up, skip], 1)))
        return out


class ResUNet(nn.Module):
    """The paper's decoder: a ResNet encoder and four GroupNorm up-blocks (Base: ResNet-50, Large: ResNet-101)."""

    def __init__(self, config: DecoderConfig, channels: int) -> None:
        super().__init__()
        self.projection, inputs = _projection(config, channels)
        self.encoder = _encoder(config, inputs)
        skips = self.encoder.out_channels
        width = skips[-1]
        self.up = nn.ModuleList()
        for out, skip in zip(config.widths, reversed(skips[:-1]), strict=True):
            self.up.append(UpBlock(width, skip, out))
            width = out
        self.last_up = nn.Conv2d(width, 256, 3, padding=1)
        self.last_block = ResBlock(256)
        self.out = nn.Conv2d(256, config.features, 1)

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, L*F, h, w) to (B, features, h, w); h and w are multiples of the stride."""
        skips = self.encoder(self.projection(encoded.clamp(-LIMIT, LIMIT)))
        x = skips.pop()
        for block in self.up:
            x = block(x, skips.pop())
        x = functional.interpolate(x, scale_factor=2, mode="bilinear")
        out: Tensor = self.out(self.last_block(functional.relu(self.last_up(x))))
        return out


class FlatBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and GELU, a tenth of which is added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            group_norm(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            group_norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x + 0.1 * self.block(x))


class FlatDecoder(nn.Module):
    """The later releases' light decoder: residual blocks at full resolution, and encodings are not clamped."""

    def __init__(self, config: DecoderConfig, channels: int) -> None:
        super().__init__()
        self.projection, inputs = _projection(config, channels)
        width, *blocks = config.widths
        self.stem = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), group_norm(width), nn.GELU())
        self.blocks = nn.Sequential(*(FlatBlock(block) for block in blocks))
        self.out = nn.Conv2d(width, config.features, 1)

    def forward(self, encoded: Tensor) -> Tensor:
        """(B, L*F, h, w) to (B, features, h, w)."""
        features: Tensor = self.out(self.blocks(self.stem(self.projection(encoded))))
        return features


def _conv_bn(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class CodedProjection(nn.Module):
    """A 1x1 convolution that a time code steers: its weights are an affine function of the code.

    Multiplying, where the paper adds: places that look alike in winter can then go different ways in summer. And since
    everything is affine in the code, a mean of codes projects to the mean of what they project to.
    """

    def __init__(self, channels: int, out: int, codes: int) -> None:
        super().__init__()
        self.constant = nn.Conv2d(channels, out, 1)
        self.weight = nn.Parameter(torch.zeros(codes, out, channels))
        self.bias = nn.Parameter(torch.zeros(codes, out))

    @property
    def out_channels(self) -> int:
        return self.constant.out_channels

    def forward(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """(B, channels, h, w) and codes (B, codes) to (B, out, h, w)."""
        assert self.constant.bias is not None
        weight = self.constant.weight[None, :, :, 0, 0] + torch.einsum("bk,koc->boc", codes, self.weight)
        bias = self.constant.bias + codes @ self.bias
        # As matrix products over channels-last pixels, the layout that encodings and convolutions have anyway.
        pixels = encoded.permute(0, 2, 3, 1).flatten(1, 2)
        projected = torch.bmm(pixels, weight.transpose(1, 2)) + bias[:, None]
        return projected.unflatten(1, encoded.shape[2:]).permute(0, 3, 1, 2)


class LiteUNet(nn.Module):
    """A light U-Net whose output carries the projected encoding beside the decoded context.

    The projection keeps the pixel itself, sharp; the U-Net adds what surrounds it.
    """

    def __init__(self, config: DecoderConfig, channels: int, codes: int | None) -> None:
        """Make an untrained decoder.

        Args:
            config: of the decoder.
            channels: of the encoding.
            codes: length of the time codes that steer the projection; None where the time is added to the encoding.
        """
        super().__init__()
        assert config.projection is not None  # the configuration sees to that
        self.projection: nn.Conv2d | CodedProjection
        if codes is None:
            self.projection = nn.Conv2d(channels, config.projection, 1)
        else:
            self.projection = CodedProjection(channels, config.projection, codes)
        self.encoder = _encoder(config, config.projection)
        *skips, width = self.encoder.out_channels
        self.up = nn.ModuleList()
        for out, skip in zip(config.widths, [*reversed(skips), 0], strict=True):
            self.up.append(nn.Sequential(_conv_bn(width + skip, out), _conv_bn(out, out)))
            width = out

    def forward(self, encoded: Tensor, *codes: Tensor, keep: Part | None = None) -> Tensor:
        """Features of a window, or of a part of it.

        Args:
            encoded: (B, L*F, h, w); h and w are multiples of the stride.
            codes: time codes, where there are any.
            keep: the part that is asked for; its edges are multiples of the stride. What it does not depend on is not
                computed: the encoder looks far, and is coarse; what follows it is fine, and looks a few pixels far.

        Returns:
            (B, features, h, w) of the window or the part.
        """
        projected = self.projection(encoded.clamp(-LIMIT, LIMIT), *codes)
        skips = self.encoder(projected)
        x, corner = skips.pop(), (0, 0)
        cell = encoded.shape[2] // x.shape[2]
        for block, margin in zip(self.up, self._margins(), strict=True):
            if keep is not None:
                x, corner = _cut(x, corner, _around(keep, cell, margin))
            # Nearest, not bilinear: it looks no further than its own pixel, which keeps the halo small.
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            cell, corner = cell // 2, (2 * corner[0], 2 * corner[1])
            if skips:
                top, left = corner
                skip = skips.pop()[..., top : top + x.shape[2], left : left + x.shape[3]]
                x = torch.cat([x, skip], 1)
            x = block(x)
        if keep is not None:
            (x, _), (projected, _) = _cut(x, corner, keep), _cut(projected, (0, 0), keep)
        return torch.cat([x, projected], 1)

    def _margins(self) -> list[int]:
        """Before each up-block, in pixels as large as they are there: how far around a part it has to know what it reads."""
        margins, margin = [], 0
        for _ in self.up:
            margin = (margin + UP_REACH + 1) // 2
            margins.append(margin)
        return margins[::-1]


UP_REACH = 2
"""Pixels that an up-block of `lite`, two 3x3 convolutions, looks around."""


def _around(part: Part, cell: int, margin: int) -> Part:
    """A part of a window in cells of so many pixels, with a margin of cells; it may go beyond the window."""
    rows, cols = (slice(along.start // cell - margin, along.stop // cell + margin) for along in part)
    return rows, cols


def _cut(values: Tensor, corner: tuple[int, int], part: Part) -> tuple[Tensor, tuple[int, int]]:
    """The part of values (B, C, h, w), which begin at `corner`, that lies in `part`; and the corner of the result."""
    begin = [max(along.start, first) for along, first in zip(part, corner, strict=True)]
    end = [min(along.stop, first + length) for along, first, length in zip(part, corner, values.shape[2:], strict=True)]
    rows, cols = (slice(b - first, e - first) for b, e, first in zip(begin, end, corner, strict=True))
    return values[..., rows, cols], (begin[0], begin[1])


class Reconstruction(nn.Module):
    """The paper's reconstruction layer: 3x3 convolution to 64, GroupNorm, ReLU, 3x3 convolution to the bands, ReLU.

    Later releases leave the last ReLU out (`activation="none"`): reflectance may then be a little negative.
    """

    def __init__(self, features: int, bands: int, activation: Literal["relu", "none"]) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.Sequential(
            nn.Conv2d(features, 64, 3, padding=1),
            group_norm(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, bands, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to reflectance (B, bands, h, w)."""
        return self.standardized(features)

    def standardized(self, features: Tensor) -> Tensor:
        """Bands in the unit they are trained in: reflectance itself."""
        bands: Tensor = self.layers(features).float()
        return bands.relu() if self.activation == "relu" else bands


class LiteReconstruction(nn.Module):
    """Reconstruction for `lite`: a linear shortcut and a correction of two 3x3 convolutions, in units of each band's
    deviation."""

    halo = 2
    """Pixels around a pixel that its reflectance depends on."""

    def __init__(self, features: int, bands: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(features, bands, 1)
        self.correction = nn.Sequential(_conv_bn(features, 64), nn.Conv2d(64, bands, 3, padding=1))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("std", torch.ones(bands))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to reflectance (B, bands, h, w)."""
        return functional.relu(self.standardized(features) * self.std[:, None, None] + self.mean[:, None, None])

    def standardized(self, features: Tensor) -> Tensor:
        """Reflectance in units of each band's deviation from its mean: what `lite` is trained on."""
        return self.shortcut(features).float() + self.correction(features).float()
