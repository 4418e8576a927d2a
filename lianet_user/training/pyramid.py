"""Starting tables from the imagery itself: a pyramid of what each level can add.

Pretraining usually starts from noise, and what a table then holds is a code of the place as much as of its look: a head
trained on a few places can learn those codes by heart. Here each level, coarse to fine, starts with the strongest
principal components of what the coarser ones leave unexplained. The field begins close to the image, the minutes of
training go into the last decibels, and the encoding describes what a place looks like.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.decoder import LiteReconstruction, LiteUNet
from lianet_user.field.model import NeuralField


@torch.no_grad()
def start_from_pyramid(field: NeuralField, image: Tensor) -> None:
    """Set tables, projection and reconstruction of a `lite` field so that it reproduces `image` linearly.

    Args:
        field: a freshly built `lite` field. Hashed levels are left as they are.
        image: (bands, height, width) of the encoded shape, in units of each band's deviation from its mean; the mean over
            the acquisitions where there are several.
    """
    decoder, reconstruction = field.decoder, field.reconstruction
    assert isinstance(decoder, LiteUNet)
    assert isinstance(reconstruction, LiteReconstruction)
    encoding = field.config.encoding
    bands, height, width = image.shape
    residual = image.clone()
    weights = torch.zeros(bands, encoding.channels)
    for level in range(encoding.levels):
        if not encoding.is_direct(level):
            continue
        rows, cols = field.grid.axis(level, 0, height), field.grid.axis(level, 0, width)
        spacing = encoding.extent / encoding.cells(level)
        nodes = _at_nodes(residual, rows.count, cols.count, spacing)
        flat = nodes.flatten(1).T
        _, _, axes = torch.linalg.svd(flat.T @ flat)
        axes = axes[: encoding.features]  # fewer where there are fewer bands
        values = flat @ axes.T
        # Square roots, not full whitening: faint components become visible to the network without becoming noise.
        scale = values.std(0).clamp_min(1e-6).sqrt()
        table = field.grid.tables[field.grid.spans[level]]
        table.zero_()
        table[field.grid.entries(level, rows, cols), : len(axes)] = values / scale
        channels = slice(level * encoding.features, level * encoding.features + len(axes))
        weights[:, channels] = axes.T * scale
        encoded = field.grid([(0, 0)], height, width)[0, channels]
        residual -= torch.einsum("bc,chw->bhw", weights[:, channels], encoded)
    _pass_through(decoder.projection, encoding.channels)
    last = reconstruction.correction[-1]
    assert isinstance(last, nn.Conv2d)
    for layer in (last, reconstruction.shortcut):
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    # Features are the U-Net's output with the projection behind it.
    start = field.config.decoder.features - field.config.decoder.projection
    reconstruction.shortcut.weight[:, start : start + encoding.channels, 0, 0] = weights


def _pass_through(projection: nn.Conv2d, channels: int) -> None:
    """Let the first channels of the projection carry the encoding unchanged."""
    assert projection.bias is not None
    projection.weight[:channels] = torch.eye(channels)[:, :, None, None]
    projection.bias.zero_()


def _at_nodes(image: Tensor, rows: int, cols: int, spacing: float) -> Tensor:
    """Means of `image` (C, h, w) over a box of one spacing around every node: (C, rows, cols)."""
    size = max(1, round(spacing))
    padded = functional.pad(image[None], (size // 2, size, size // 2, size), mode="replicate")
    means = functional.avg_pool2d(padded, size, stride=1)[0]
    row = (torch.arange(rows) * spacing).round().long().clamp(max=means.shape[1] - 1)
    col = (torch.arange(cols) * spacing).round().long().clamp(max=means.shape[2] - 1)
    return means[:, row][:, :, col]
