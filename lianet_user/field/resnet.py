"""ResNet encoders (He et al., 2016; strides in the 3x3 convolutions), without classifier and without pretrained weights.

The layers, their names and what they compute are torchvision's and segmentation-models-pytorch's, and a test compares them.
They are here because importing those two takes longer than torch itself, and every command would wait for it; and because
what runs stage by stage can leave out what nobody reads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

STEM = 64
"""Channels after the first convolution."""


def _conv(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The layer that brings a block's input to the shape of its output; None where it has that shape."""
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
        """Make an untrained encoder.

        Args:
            name: one of :data:`BLOCKS`.
            in_channels: of the window.
            depth: how often it is halved, 1 to 5.
        """
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
