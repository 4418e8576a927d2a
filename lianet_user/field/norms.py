"""Normalisation: over groups of channels and space, over the channels of a pixel, and BatchNorm folded into convolutions.

In a finished network only GroupNorm has statistics over space, so that a pixel depends on the window it is computed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the paper's groups: 4 up to 64 channels, 8 up to 128, 16 up to 256, 32 above."""
    groups = next((g for limit, g in ((64, 4), (128, 8), (256, 16)) if channels <= limit), 32)
    return nn.GroupNorm(groups, channels)


class ChannelNorm(nn.LayerNorm):
    """Brings the channels of every pixel to one mean and deviation, and then each to a scale and offset of its own.

    Unlike BatchNorm it computes the same in training as in a finished head, which tells most where few pixels teach
    numbers; unlike GroupNorm it looks at one pixel only.
    """

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return super().forward(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[int], nn.Module]] = {"group": group_norm, "batch": nn.BatchNorm2d, "channel": ChannelNorm}
"""Norms of a head, by the name in its configuration."""


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Fold every BatchNorm of a module in evaluation mode into the convolution before it, in place: the same function, in
    fewer passes over memory.

    Pairs are recognised as `nn.Sequential` neighbours and by torchvision's names (`conv1` and `bn1`, ...).
    """
    assert not module.training
    for parent in module.modules():
        children = dict(parent.named_children())
        names = list(children)
        pairs = [(name, name.replace("conv", "bn")) for name in names if name.startswith("conv")]
        if isinstance(parent, nn.Sequential):
            pairs += itertools.pairwise(names)
        for conv_name, norm_name in pairs:
            conv, norm = children[conv_name], children.get(norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, nn.Identity())
