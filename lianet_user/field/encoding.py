"""Coordinates and dates in, encoded windows out: the multi-resolution hash grid and the time vectors (paper, 3.1).

Over a window that follows the axes a level needs only its own block of nodes, and bilinear interpolation separates into
columns and rows. So each level gathers its block once and interpolates it twice in one dimension: the same numbers as
four gathers per pixel, for a fraction of the memory traffic, and a backward pass that adds whole blocks instead of
scattering every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lianet_user.field.config import EncodingConfig, TimeConfig

# Wrapping signed 64-bit constants of the paper's release; levels differ by their seed.
_C1 = 0x9E3779B185EBCA87 - 2**64
_C2 = 0xC2B2AE3D27D4EB4F - 2**64
_SEED = 0xD6E8FEB86659FD93
_SEED_STEP = 0x9E3779B97F4A7C15

Corner = tuple[int, int]
"""Row and column of a window's first pixel."""


def level_seed(level: int) -> int:
    """The signed 64-bit seed that is mixed into a level's hash."""
    seed = _SEED ^ (level * _SEED_STEP % 2**64)
    return seed - 2**64 if seed >= 2**63 else seed


def hash_nodes(rows: Tensor, cols: Tensor, level: int, table_size: int) -> Tensor:
    """Table entries of the block of nodes `rows` x `cols` (int64 vectors of length R and C): int64 (R, C)."""
    mixed = (cols * _C1)[None, :] ^ (rows * _C2)[:, None] ^ level_seed(level)
    return torch.remainder(mixed, table_size)


@dataclass(frozen=True)
class _Axis:
    """Where the pixels of one axis fall between the nodes of one level."""

    nodes: Tensor
    """Numbers of the block's nodes, ascending: those between which a pixel lies, and no others."""
    lower: Tensor
    """Per pixel the node below it, as an index into `nodes`; the node above it is the next one."""
    weight: Tensor
    """Per pixel the weight of the node above it, 0..1."""
    aligned: bool
    """Every pixel lies on its lower node: there is nothing to interpolate."""

    @property
    def count(self) -> int:
        return self.nodes.shape[0]


class HashGrid(nn.Module):
    """The multi-resolution hash grid: one flat table, levels one after the other.

    Attributes:
        tables: (total entries, F). Level l owns `spans[l]`.
    """

    def __init__(self, config: EncodingConfig) -> None:
        super().__init__()
        self.config = config
        entries = [config.entries(level) for level in range(config.levels)]
        starts = [sum(entries[:level]) for level in range(config.levels)]
        self.spans = [slice(start, start + count) for start, count in zip(starts, entries, strict=True)]
        self.tables = nn.Parameter(torch.empty(sum(entries), config.features))
        nn.init.uniform_(self.tables, -1e-4, 1e-4)

    def forward(self, corners: Sequence[Corner], height: int, width: int) -> Tensor:
        """Encode equally large windows.

        Args:
            corners: of the windows, in pixels of the region.
            height: of every window.
            width: of every window.

        Returns:
            (windows, L * F, height, width), laid out channels last.
        """
        encoded: Tensor = _Encode.apply(  # type: ignore[no-untyped-call]
            self.tables, self, tuple(corners), height, width
        )
        return encoded.permute(0, 3, 1, 2)

    def axis(self, level: int, first_pixel: int, count: int) -> _Axis:
        """Nodes and weights of `count` pixels from `first_pixel` on, along either axis."""
        offset = 0.5 if self.config.pixel_origin == "center" else 0.0
        # float32 and one product, as in the paper's release: far from the origin its rounding is part of the model.
        pixels = torch.arange(first_pixel, first_pixel + count, dtype=torch.float32, device=self.tables.device)
        position = (pixels + offset) * (self.config.cells(level) / self.config.extent)
        node = position.floor()
        weight = position - node
        lower = node.to(torch.int64)
        aligned = not bool(weight.any())
        nodes = torch.unique(lower if aligned else torch.cat([lower, lower + 1]))
        return _Axis(nodes, torch.searchsorted(nodes, lower), weight, aligned)

    def entries(self, level: int, rows: _Axis, cols: _Axis) -> Tensor:
        """Entries of the level's table at a block of nodes, row by row: int64 (R * C,)."""
        if self.config.is_direct(level):
            return (rows.nodes[:, None] * self.config.nodes(level)[1] + cols.nodes[None, :]).reshape(-1)
        return hash_nodes(rows.nodes, cols.nodes, level, self.config.table_size).reshape(-1)


def _spread(block: Tensor, axis: _Axis, dim: int) -> Tensor:
    """Nodes to pixels along one dimension."""
    if axis.aligned:
        return block if block.shape[dim] == axis.lower.shape[0] else block.index_select(dim, axis.lower)
    shape = [1] * block.dim()
    shape[dim] = -1
    below = block.index_select(dim, axis.lower)
    above = block.index_select(dim, axis.lower + 1)
    return below.lerp_(above, axis.weight.view(shape))


def _gather(pixels: Tensor, axis: _Axis, dim: int) -> Tensor:
    """The transpose of :func:`_spread`: gradients of pixels to gradients of nodes."""
    if axis.aligned and pixels.shape[dim] == axis.count:
        return pixels
    shape = list(pixels.shape)
    shape[dim] = axis.count
    block = pixels.new_zeros(shape)
    if axis.aligned:
        return block.index_add_(dim, axis.lower, pixels)
    view = [1] * pixels.dim()
    view[dim] = -1
    above = pixels * axis.weight.view(view)
    return block.index_add_(dim, axis.lower, pixels - above).index_add_(dim, axis.lower + 1, above)


class _Encode(torch.autograd.Function):
    """Windows of the grid, with one dense gradient for all of them together."""

    @staticmethod
    def forward(
        ctx: Any, tables: Tensor, grid: HashGrid, corners: tuple[Corner, ...], height: int, width: int
    ) -> Tensor:
        config = grid.config
        out = tables.new_empty(len(corners), height, width, config.channels)
        plan = []
        for index, (row, col) in enumerate(corners):
            for level in range(config.levels):
                rows, cols = grid.axis(level, row, height), grid.axis(level, col, width)
                entries = grid.entries(level, rows, cols)
                block = tables[grid.spans[level]].index_select(0, entries).view(rows.count, cols.count, -1)
                channels = slice(level * config.features, (level + 1) * config.features)
                out[index, :, :, channels] = _spread(_spread(block, rows, 0), cols, 1)
                plan.append((index, level, rows, cols, entries))
        ctx.grid, ctx.plan, ctx.table_shape = grid, plan, tables.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = grad_outputs
        features = ctx.grid.config.features
        tables = grad.new_zeros(ctx.table_shape, dtype=torch.float32)
        for index, level, rows, cols, entries in ctx.plan:
            pixels = grad[index, :, :, level * features : (level + 1) * features].float().contiguous()
            block = _gather(_gather(pixels, cols, 1), rows, 0)
            tables[ctx.grid.spans[level]].index_add_(0, entries, block.reshape(-1, features))
        return tables, None, None, None, None


class TimeVectors(nn.Module):
    """A learned vector per acquisition, added to every pixel's encoding (paper, 3.1)."""

    def __init__(self, config: TimeConfig, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.count, channels))

    def forward(self, acquisitions: Tensor) -> Tensor:
        """Vectors (B, C) of acquisition indices (B,)."""
        return self.weight[acquisitions]
