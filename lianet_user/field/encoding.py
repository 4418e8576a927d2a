"""Coordinates and dates in, encoded windows out: the multi-resolution hash grid and the time vectors (paper, 3.1).

Over a window that follows the axes a level needs only its own block of nodes, and bilinear interpolation separates into
columns and rows. So each level gathers its block once and interpolates it twice in one dimension: the same numbers as
four gathers per pixel, for a fraction of the memory traffic, and a backward pass that adds whole blocks instead of
scattering every pixel. One dimension is interpolated by a matrix product where its nodes are few, and else by adding rows
of the block, which are long.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from lianet_user.field.config import (
    EPOCH,
    EncodingConfig,
    FourierTime,
    IndexTime,
    KrigedTime,
    MlpTime,
    SinusoidalTime,
    TemporalCovariance,
    TimeConfig,
)

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
    mixed = (cols * _C1)[None, :] ^ ((rows * _C2) ^ level_seed(level))[:, None]
    if table_size & (table_size - 1) == 0:
        return mixed.bitwise_and_(table_size - 1)  # the same remainder, without a division for every node
    return torch.remainder(mixed, table_size)


FEW_NODES = 48
"""Along a dimension: for so many a matrix product, most of whose factors are zeros, is still the fastest."""


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
    matrix: Tensor | None
    """(pixels, nodes) of weights, where the nodes are few."""

    @property
    def count(self) -> int:
        return self.nodes.shape[0]

    def spread(self, block: Tensor) -> Tensor:
        """Nodes (count, channels) to pixels (pixels, channels)."""
        if self.matrix is not None:
            return self.matrix @ block
        if self.aligned:
            return block if self.count == len(self.lower) else block.index_select(0, self.lower)
        below, above = block.index_select(0, self.lower), block.index_select(0, self.lower + 1)
        return below.lerp_(above, self.weight[:, None])

    def gather(self, pixels: Tensor) -> Tensor:
        """The transpose of :meth:`spread`: gradients of pixels (pixels, channels) to gradients of nodes."""
        if self.matrix is not None:
            return self.matrix.T @ pixels
        if self.aligned and self.count == len(self.lower):
            return pixels
        block = pixels.new_zeros(self.count, pixels.shape[1])
        if self.aligned:
            return block.index_add_(0, self.lower, pixels)
        above = pixels * self.weight[:, None]
        return block.index_add_(0, self.lower, pixels - above).index_add_(0, self.lower + 1, above)


def _axis(lower: np.ndarray, weight: np.ndarray, aligned: bool, furthest: int, device: torch.device) -> _Axis:
    """The nodes and weights of one axis at one level, from the node below each pixel (ascending), the weight of the node
    above it, whether no pixel needs that one, and the most that `lower` grows from one pixel to the next."""

    def held(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    above = 0 if aligned else 1
    if furthest <= 1 + above:  # no node between the first and the last is left out
        nodes, place = np.arange(lower[0], lower[-1] + above + 1), lower - lower[0]
    else:
        nodes = np.unique(np.concatenate([lower, lower + above]))
        place = np.searchsorted(nodes, lower)
    matrix = None
    if not aligned and len(nodes) <= FEW_NODES:
        matrix = np.zeros((len(lower), len(nodes)), np.float32)
        pixel = np.arange(len(lower))
        matrix[pixel, place], matrix[pixel, place + 1] = 1 - weight, weight
    return _Axis(held(nodes), held(place), held(weight), aligned, None if matrix is None else held(matrix))


class HashGrid(nn.Module):
    """The multi-resolution hash grid: one flat table, levels one after the other unless they share it.

    Attributes:
        tables: (total entries, F). Level l reads `spans[l]`.
    """

    def __init__(self, config: EncodingConfig) -> None:
        super().__init__()
        self.config = config
        entries = [config.entries(level) for level in range(config.levels)]
        shared = config.tables == "shared"
        starts = [0 if shared else sum(entries[:level]) for level in range(config.levels)]
        self.spans = [slice(start, start + count) for start, count in zip(starts, entries, strict=True)]
        self.tables = nn.Parameter(torch.empty(self.spans[-1].stop, config.features))
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
        with torch.autocast(self.tables.device.type, enabled=False):  # entries differ in their last digits
            encoded: Tensor = _Encode.apply(  # type: ignore[no-untyped-call]
                self.tables, self, tuple(corners), height, width
            )
        return encoded.permute(0, 3, 1, 2)

    def axes(self, first_pixel: int, count: int) -> list[_Axis]:
        """For each level nodes and weights of `count` pixels from `first_pixel` on, along either axis."""
        offset = 0.5 if self.config.pixel_origin == "center" else 0.0
        # float32 and one product, as in the paper's release: far from the origin its rounding is part of the model.
        pixels = np.arange(first_pixel, first_pixel + count, dtype=np.float32) + np.float32(offset)
        positions = pixels * self._units[:, None]
        nodes = np.floor(positions)
        weights = positions - nodes if self.config.interpolation == "bilinear" else np.full_like(nodes, 0.5)
        lowers = nodes.astype(np.int64)
        furthest = np.diff(lowers).max(1, initial=0)
        aligned = ~weights.any(1)
        return [
            _axis(*each, self.tables.device)
            for each in zip(lowers, weights, aligned.tolist(), furthest.tolist(), strict=True)
        ]

    @cached_property
    def _units(self) -> np.ndarray:
        """Nodes per pixel of each level: float32 (levels,)."""
        cells = [self.config.cells(level) / self.config.extent for level in range(self.config.levels)]
        return np.array(cells, np.float32)

    def entries(self, level: int, rows: _Axis, cols: _Axis) -> Tensor:
        """Entries of the level's table at a block of nodes, column by column: int64 (C * R,)."""
        if self.config.is_direct(level):
            return (cols.nodes[:, None] + rows.nodes[None, :] * self.config.nodes(level)[1]).view(-1)
        return hash_nodes(rows.nodes, cols.nodes, level, self.config.table_size).T.reshape(-1)


class _Encode(torch.autograd.Function):
    """Windows of the grid, with one dense gradient for all of them together."""

    @staticmethod
    def forward(
        ctx: Any, tables: Tensor, grid: HashGrid, corners: tuple[Corner, ...], height: int, width: int
    ) -> Tensor:
        out = tables.new_empty(len(corners), height, width, grid.config.channels)
        plan = []
        for index, (row, col) in enumerate(corners):
            levels = []
            for level, (rows, cols) in enumerate(zip(grid.axes(row, height), grid.axes(col, width), strict=True)):
                entries = grid.entries(level, rows, cols)
                block = tables[grid.spans[level]].index_select(0, entries).view(cols.count, -1)
                # (C, R, F) to (width, R, F) to (R, width, F) to (height, width, F)
                across = cols.spread(block).view(width, rows.count, -1).transpose(0, 1).reshape(rows.count, -1)
                levels.append(rows.spread(across).view(height, width, -1))
                plan.append((index, level, rows, cols, entries))
            torch.cat(levels, 2, out=out[index])
        ctx.grid, ctx.plan, ctx.table_shape = grid, plan, tables.shape
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = grad_outputs
        tables = grad.new_zeros(ctx.table_shape, dtype=torch.float32)
        features = ctx.grid.config.features
        with torch.autocast(grad.device.type, enabled=False):
            for index, level, rows, cols, entries in ctx.plan:
                pixels = grad[index, :, :, level * features : (level + 1) * features].float()
                height, width = pixels.shape[:2]
                across = rows.gather(pixels.reshape(height, -1)).view(rows.count, width, features)
                block = cols.gather(across.transpose(0, 1).reshape(width, -1))
                tables[ctx.grid.spans[level]].index_add_(0, entries, block.view(-1, features))
        return tables, None, None, None, None


# --- The date.


class TimeVectors(nn.Module):
    """A learned vector per acquisition, added to every pixel's encoding (paper, 3.1)."""

    def __init__(self, config: IndexTime, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.count, channels))

    def forward(self, acquisitions: Tensor) -> Tensor:
        """Vectors (B, C) of acquisition indices (B,)."""
        return self.weight[acquisitions]


class TimeWaves(nn.Module):
    """Sines and cosines of the days through a linear layer (later releases): fixed or learned frequencies."""

    def __init__(self, config: SinusoidalTime | FourierTime, channels: int) -> None:
        super().__init__()
        self.config = config
        if config.kind == "fourier":
            self.frequencies = nn.Parameter(torch.randn(config.frequencies))
        self.layer = nn.Linear(2 * config.frequencies, channels)

    def forward(self, days: Tensor) -> Tensor:
        """Vectors (B, C) of days since the epoch (B,)."""
        # float32 from here on, as in the release: at 128 radians a day its rounding is part of the model.
        days = days.to(torch.float32)[:, None]
        if self.config.kind == "fourier":
            angles = days * self.frequencies
        else:
            angles = days * 2 ** torch.arange(self.config.frequencies, dtype=torch.float32, device=days.device)
        encoded: Tensor = self.layer(torch.cat([angles.sin(), angles.cos()], 1))
        return encoded


class TimeMlp(nn.Module):
    """The days, and sine and cosine of the day of the year, through linear layers with GELU (later releases)."""

    def __init__(self, config: MlpTime, channels: int) -> None:
        super().__init__()
        widths = [3, *[config.hidden] * (config.layers - 1), channels]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, days: Tensor) -> Tensor:
        """Vectors (B, C) of days since the epoch (B,)."""
        rows = []
        for day in days.tolist():
            # Whole days from 1 January on, of 365 a year: 31 December of a leap year is 1 January once more.
            angle = 2 * math.pi * ((EPOCH + dt.timedelta(days=day)).timetuple().tm_yday - 1) / 365.0
            rows.append([day, math.sin(angle), math.cos(angle)])
        encoded: Tensor = self.layers(torch.tensor(rows, dtype=torch.float32, device=days.device))
        return encoded


class TimeCodes(nn.Module):
    """A learned code per acquisition; any other moment's is estimated from them.

    Attributes:
        weight: (acquisitions, codes).
    """

    def __init__(self, config: KrigedTime) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.count, config.codes) * 0.1)

    @cached_property
    def _left_out(self) -> Tensor:
        # Only training asks for it, and it takes an inversion for each acquisition.
        return torch.from_numpy(left_out_weights(self.config.days, self.config.covariance)).float()

    def forward(self, days: Tensor, left_out: Tensor | None = None) -> Tensor:
        """Codes (B, codes).

        Args:
            days: (B,) since the epoch; at an acquisition's own moment its own code is read.
            left_out: bool (B,), all `days` being those of acquisitions: whether the code is to be estimated from the
                other acquisitions instead, which is how training learns to be right about moments it has not seen.
        """
        known = torch.tensor(self.config.days, dtype=torch.float64)
        own = (days.cpu()[:, None] == known).float()
        if left_out is not None:
            own = torch.where(left_out.cpu()[:, None], own @ self._left_out, own)
        elif (elsewhere := ~own.any(1)).any():
            moments = days.cpu()[elsewhere].numpy()
            estimated = kriging_weights(self.config.days, moments, self.config.covariance)
            own[elsewhere] = torch.from_numpy(estimated).float()
        return own.to(self.weight.device) @ self.weight


TimeEncoding = TimeVectors | TimeWaves | TimeMlp | TimeCodes


def time_encoding(config: TimeConfig, channels: int) -> TimeEncoding:
    """The module that a configuration describes."""
    match config.kind:
        case "index":
            return TimeVectors(config, channels)
        case "mlp":
            return TimeMlp(config, channels)
        case "kriged":
            return TimeCodes(config)
        case _:
            return TimeWaves(config, channels)


# --- A moment estimated from others: ordinary kriging along time.
#
# A place looks in June much as it did last June, and today much as it did last week; over the years it changes slowly, and
# every scene has haze and light of its own that no other tells anything about. `TemporalCovariance` says how much of each
# there is. Ordinary kriging turns it into weights: those of the linear combination of the known moments that errs least,
# and that sum to one.


YEAR_DAYS = 365.25

Array = NDArray[np.float64]


def covariance(first: ArrayLike, second: ArrayLike, model: TemporalCovariance) -> Array:
    """How alike moments are, relative to the season's variance: (n, m).

    Args:
        first: (n,) days.
        second: (m,) days.
        model: without its scenes' own part, which two different moments never share.
    """
    apart = np.abs(np.asarray(first, np.float64)[:, None] - np.asarray(second, np.float64)[None])
    phase = np.sin(np.pi * apart / YEAR_DAYS) / model.season_width
    season = np.exp(-2 * phase**2 - apart / model.season_days)
    years = model.years * np.exp(-0.5 * (apart / model.years_days) ** 2)
    weeks = model.weeks * np.exp(-apart / model.weeks_days)
    result: Array = season + years + weeks
    return result


def kriging_weights(known: ArrayLike, moments: ArrayLike, model: TemporalCovariance) -> Array:
    """Weights of known moments for the estimate at others: (moments, known), rows sum to one.

    Args:
        known: (n,) days.
        moments: (m,) days.
        model: how alike moments are.
    """
    inverse = np.linalg.inv(covariance(known, known, model) + model.scene * np.eye(np.size(known)))
    plain = covariance(moments, known, model) @ inverse
    total = inverse.sum(1)
    # The sum to one means that no mean has to be known, only that there is one (the multiplier of ordinary kriging).
    result: Array = plain + ((1 - plain.sum(1)) / total.sum())[:, None] * total
    return result


def left_out_weights(known: ArrayLike, model: TemporalCovariance) -> Array:
    """Weights for the estimate of every moment from the others: (n, n), zero on the diagonal. A lone moment has none."""
    days = np.asarray(known, np.float64)
    result = np.zeros((len(days), len(days)))
    for index in range(len(days) if len(days) > 1 else 0):
        others = np.arange(len(days)) != index
        result[index, others] = kriging_weights(days[others], days[index : index + 1], model)[0]
    return result
