"""Starting a field from the imagery itself: a pyramid of what each level can add.

Pretraining usually starts from noise, and what a table then holds is a code of the place as much as of its look: a head
trained on a few places can learn those codes by heart. Here each level, coarse to fine, starts with the strongest
principal components of what the coarser ones leave unexplained. The field begins close to the imagery, the minutes of
training go into the last decibels, and the encoding describes what a place looks like.

Where time codes steer the projection, the components are those of all dates' bands together, and the codes are the
strongest components of how the dates combine them: a Tucker decomposition of the imagery, level by level. It is linear in
the codes, so moments between the dates begin as the best linear estimate from them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.config import TemporalCovariance
from lianet_user.field.decoder import CodedProjection, LiteReconstruction, LiteUNet
from lianet_user.field.encoding import TimeCodes, left_out_weights
from lianet_user.field.model import NeuralField
from lianet_user.imagery.imagery import Imagery
from lianet_user.imagery.statistics import Statistics


@torch.no_grad()
def start_from_pyramid(field: NeuralField, images: Tensor) -> None:
    """Set tables, projection, codes and reconstruction of a `lite` field so that it reproduces `images` linearly.

    Args:
        field: a freshly built `lite` field. Hashed levels are left as they are.
        images: (dates, bands, height, width) of the encoded shape, without gaps, in units of each band's deviation from
            its mean. A field without time codes starts from their mean.
    """
    decoder, reconstruction = field.decoder, field.reconstruction
    assert isinstance(decoder, LiteUNet)
    assert isinstance(reconstruction, LiteReconstruction)
    coded = isinstance(field.time, TimeCodes)
    dates, bands = images.shape[:2] if coded else (1, images.shape[1])
    weights = _fill_tables(field, (images if coded else images.mean(0, keepdim=True)).flatten(0, 1))
    channels = weights.shape[1]
    projection = decoder.projection
    last = reconstruction.correction[-1]
    assert isinstance(last, nn.Conv2d)
    for layer in (last, reconstruction.shortcut):
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    # Features are the U-Net's output with the projection behind it.
    start = field.config.decoder.features - projection.out_channels
    if isinstance(projection, CodedProjection):
        assert isinstance(field.time, TimeCodes)
        _pass_through(projection.constant, channels)
        own = slice(channels, channels + bands)
        mean = weights.view(dates, bands, channels).mean(0)
        codes, directions = _codes(weights.view(dates, -1) - mean.flatten(), field.time.weight.shape[1])
        field.time.weight.copy_(codes)
        projection.constant.weight[own, :, 0, 0] = mean
        projection.weight[:, own] = directions.view(-1, bands, channels)
        reconstruction.shortcut.weight[:, start + channels : start + channels + bands, 0, 0] = torch.eye(bands)
    else:
        _pass_through(projection, channels)
        reconstruction.shortcut.weight[:, start : start + channels, 0, 0] = weights


def _fill_tables(field: NeuralField, images: Tensor) -> Tensor:
    """Fill the directly addressed levels with components of `images` (N, h, w); what turns encodings into them: (N, L * F)."""
    encoding = field.config.encoding
    count, height, width = images.shape
    residual = images.clone()
    weights = torch.zeros(count, encoding.channels)
    for level in range(encoding.levels):
        if not encoding.is_direct(level):
            continue
        rows, cols = field.grid.axes(0, height)[level], field.grid.axes(0, width)[level]
        spacing = encoding.extent / encoding.cells(level)
        nodes = _at_nodes(residual, rows.count, cols.count, spacing)
        flat = nodes.mT.flatten(1).T  # column by column, as entries are
        _, _, axes = torch.linalg.svd(flat.T @ flat)
        axes = axes[: encoding.features]  # fewer where there are fewer images
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
    return weights


def _codes(deviations: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Codes (dates, length) of deviation one, and directions (length, n), whose products are close to `deviations`."""
    dates = len(deviations)
    left, strength, right = torch.linalg.svd(deviations, full_matrices=False)
    kept = min(length, len(strength))
    codes, directions = torch.zeros(dates, length), torch.zeros(length, deviations.shape[1])
    codes[:, :kept] = left[:, :kept] * math.sqrt(dates)
    directions[:kept] = right[:kept] * strength[:kept, None] / math.sqrt(dates)
    return codes, directions


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


# --- The images to start from have no gaps: what clouds hide on one date is estimated from the others.


def images_without_gaps(
    imagery: Imagery, statistics: Statistics, covariance: TemporalCovariance
) -> NDArray[np.float32]:
    """Read all dates of imagery that fits into memory, and fill what clouds hide.

    Where a date is not valid, the dates that are valid there are averaged, each weighted by how much it tells about that date;
    where no date is valid, the nearest pixel of the date is taken.

    Args:
        imagery: to read.
        statistics: of the imagery.
        covariance: of two acquisitions, by the time between them.

    Returns:
        float32 (dates, bands, height, width) in units of each band's deviation from its mean.
    """
    patches = [imagery.read(index, imagery.window) for index in range(len(imagery.acquisitions))]
    valid = np.stack([patch.valid for patch in patches])
    images = np.stack([patch.reflectance for patch in patches])
    images -= statistics.mean[:, None, None].astype(np.float32)
    images /= statistics.std[:, None, None].astype(np.float32)
    images[~valid] = 0.0
    days = [acquisition.days for acquisition in imagery.acquisitions]
    _fill(images, valid, days, covariance)
    return images


def _fill(
    images: NDArray[np.float32], valid: NDArray[np.bool_], days: list[float], covariance: TemporalCovariance
) -> None:
    """Fill what is not valid, where `images` are 0, in place."""
    # Estimates may subtract; averages over whatever dates happen to be clear should not.
    weights = left_out_weights(days, covariance).clip(min=0.0).astype(np.float32)
    estimates: dict[int, NDArray[np.float32]] = {}
    for index in np.flatnonzero(~valid.all((1, 2, 3))).tolist():
        known = np.tensordot(weights[index], valid.astype(np.float32), 1)
        total = np.tensordot(weights[index], images, 1)
        estimates[index] = np.where(known > 0.1, total / np.maximum(known, 0.1), np.nan)
    # Only now, so that no estimate is made from estimates.
    for index, estimate in estimates.items():
        gaps = ~valid[index]
        images[index][gaps] = estimate[gaps]
        for band in images[index]:
            _fill_nearest(band)


def _fill_nearest(band: NDArray[np.float32]) -> None:
    gaps = np.isnan(band)
    if gaps.all():
        band[:] = 0.0  # the mean
    elif gaps.any():
        nearest = ndimage.distance_transform_edt(gaps, return_distances=False, return_indices=True)
        band[:] = band[tuple(nearest)]
