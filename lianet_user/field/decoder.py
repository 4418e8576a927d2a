"""Decoders: convolutional trunks (U-Nets on a ResNet) that turn encoded windows into features, and the reconstruction
layer behind them.

`ResUNet` is the paper's (section 3.2), `FlatDecoder` that of its authors' later releases. `LiteUNet` is ours: it has no
statistics over space, so what it computes at a pixel does not depend on how an area is cut into windows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.config import DecoderConfig
from lianet_user.field.norms import group_norm

Part = tuple[slice, slice]
"""Rows and columns of a window."""

LIMIT = 100.0
"""Encodings are clamped to +-LIMIT before the projection (paper's release)."""


# --- The encoder: a ResNet (He et al., 2016; strides in the 3x3 convolutions), without classifier and pretrained weights.
#
# The layers, their names and what they compute are torchvision's and segmentation-models-pytorch's, and a test compares them.
# They are here because importing those two takes longer than torch itself, and every command would wait for it.


STEM = 64
"""Channels after the first convolution."""


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Brings a block's input to the shape of its output; None where it has that shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return functional.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution, and a shortcut; four times as many channels come out as are in the middle."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return functional.relu(out, inplace=True)


BLOCKS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""The kind of block, and how many of them each stage has."""


class ResNetEncoder(nn.Module):
    """A ResNet without its classifier, which halves a window stage by stage.

    Attributes:
        out_channels: after each halving: 64, 256, 512, 1024, 2048 for a whole ResNet-50.
    """

    def __init__(self, name: str, in_channels: int, depth: int) -> None:
        """An untrained encoder of :data:`BLOCKS`, which halves a window `depth` times (1 to 5)."""
        super().__init__()
        block, counts = BLOCKS[name]
        self.conv1 = nn.Conv2d(in_channels, STEM, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.out_channels, width = [STEM], STEM
        for number in range(1, depth):
            middle, outputs = STEM * 2 ** (number - 1), STEM * 2 ** (number - 1) * block.expansion
            strides = [1 if number == 1 else 2] + [1] * (counts[number - 1] - 1)
            blocks = [block(width if first == 0 else outputs, middle, stride) for first, stride in enumerate(strides)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            self.out_channels.append(width := outputs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, channels, h, w) to what each halving leaves, the finest first."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        outputs = [x]
        for number in range(1, len(self.out_channels)):
            x = functional.max_pool2d(x, 3, 2, 1) if number == 1 else x
            outputs.append(x := getattr(self, f"layer{number}")(x))
        return outputs


# --- The decoders.


def _projection(config: DecoderConfig, channels: int) -> tuple[nn.Module, int]:
    """The 1x1 convolution in front of a decoder, or nothing, and the channels behind it."""
    if config.projection is None:
        return nn.Identity(), channels
    return nn.Conv2d(channels, config.projection, 1), config.projection


def _encoder(config: DecoderConfig, channels: int) -> ResNetEncoder:
    assert config.encoder is not None  # the configuration sees to that
    return ResNetEncoder(config.encoder, channels, config.depth)


def _two_convolutions(channels: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        group_norm(channels),
        activation,
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        group_norm(channels),
    )


class ResBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = _two_convolutions(channels, nn.ReLU(inplace=True))

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
        self.block = _two_convolutions(channels, nn.GELU())

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
        """An untrained decoder of an encoding of so many channels. `codes` is the length of the time codes that steer the
        projection; None where the time is added to the encoding."""
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
