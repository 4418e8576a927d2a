"""What surrounds a pixel: means and deviations of the remembered bands in square neighbourhoods.

A head of six 3x3 convolutions sees 13 pixels and must learn from a few polygons what texture is. Handing it the first two
moments of three neighbourhoods spares it that; they are computed from the reconstruction, so they cost no parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURHOODS = (3, 7, 15)
"""Sides of the neighbourhoods in pixels."""
CONTEXT_HALO = max(NEIGHBOURHOODS) // 2
STATISTICS = 2 * len(NEIGHBOURHOODS)
"""Context channels per band."""

_FLOOR = 1e-4  # keeps the square root smooth where a neighbourhood is uniform


def context(bands: Tensor) -> Tensor:
    """Neighbourhood statistics of bands (B, C, h, w): (B, STATISTICS * C, h, w), mean then deviation per neighbourhood.

    At the edge of the array a neighbourhood is the part of it that lies inside.
    """
    both = torch.cat([bands, bands**2], 1)
    ones = torch.ones_like(both[:1, :1])
    parts = []
    for side in NEIGHBOURHOODS:
        mean, square = (_box_sum(both, side) / _box_sum(ones, side)).chunk(2, 1)
        parts += [mean, (square - mean**2).clamp_min(0.0).add(_FLOOR).sqrt()]
    return torch.cat(parts, 1)


def _box_sum(values: Tensor, side: int) -> Tensor:
    """Sums over a square, one axis after the other."""
    half = side // 2
    rows = functional.avg_pool2d(values, (side, 1), 1, (half, 0), divisor_override=1)
    return functional.avg_pool2d(rows, (1, side), 1, (0, half), divisor_override=1)
