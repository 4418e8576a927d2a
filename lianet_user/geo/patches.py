"""Blending of patches at fixed places: how windows are computed where a network normalises over space.

GroupNorm's statistics run over its whole input, so a pixel's value depends on the window that it is computed in. Such
networks are therefore computed in patches of the size that they were trained on, at places that depend only on the region:
multiples of a step from its first pixel, and the last patch moved back so that it ends at the border. A pixel is the weighted
mean of the patches that contain it; weights fall to zero towards a patch's edge and sum to one. So every pixel has one value,
whatever window is asked for, without visible seams between patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lianet_user.geo.grid import Window

CACHE_BYTES = 2**28
"""Size of the cache: 32 patches of Base, which is what a tile of 512 px shares with the next one."""

Parts = tuple[Tensor, ...]
Compute = Callable[[Sequence[Window]], Iterable[Parts]]
"""Computes for each patch, in order, tensors whose last two axes are (scale * height, scale * width)."""


@dataclass(frozen=True)
class Axis:
    """The positions of patches along one axis: `length` pixels, in patches of `patch` that start at multiples of `step`."""

    length: int
    patch: int
    step: int

    @classmethod
    def of(cls, length: int, patch: int) -> Axis:
        """Patches that overlap by a quarter of their side: an overlap of a half would cost more than twice as much and is
        no smoother (CONTRIBUTING.md, "One rule for every pixel")."""
        return cls(length, patch, max(1, patch * 3 // 4))

    @property
    def starts(self) -> tuple[int, ...]:
        """First pixels of the patches. The last patch ends with the axis, unless the axis is shorter than one."""
        last = max(0, self.length - self.patch)
        return (*range(0, last, self.step), last)

    def touching(self, begin: int, end: int) -> list[int]:
        """First pixels of the patches that contain any pixel from `begin` up to `end`."""
        return [start for start in self.starts if start < end and start + self.patch > begin]

    def weights(self, start: int, scale: int = 1) -> np.ndarray:
        """The weights of the pixels of the patch at `start`: float32 (scale * patch,), `scale` for each pixel of the axis; they
        sum to one over the patches."""
        own = self._bump(scale)
        total = np.zeros_like(own)
        for other in self.touching(start, start + self.patch):
            shift = (other - start) * scale
            here = slice(max(0, shift), len(own) + min(0, shift))
            total[here] += own[max(0, -shift) : len(own) - max(0, shift)]
        return (own / total).astype(np.float32)

    def _bump(self, scale: int) -> np.ndarray:
        """Weights before normalisation: one in the middle, falling at both ends as a raised cosine along the overlap."""
        size, overlap = self.patch * scale, max(1, (self.patch - self.step) * scale)
        inward = np.arange(size) + 0.5
        rise = np.minimum(1.0, np.minimum(inward, size - inward) / overlap)
        bump: np.ndarray = np.sin(np.pi / 2 * rise) ** 2
        return bump


@dataclass(frozen=True)
class Lattice:
    """The positions of patches on a region: every row of one axis with every column of the other."""

    rows: Axis
    cols: Axis

    def patches(self, window: Window) -> list[Window]:
        """The patches that contain any pixel of a window, column by column.

        Maps are computed in rows of tiles, so the last patches are those that the next tile needs again.
        """
        rows = self.rows.touching(window.row, window.row_end)
        cols = self.cols.touching(window.col, window.col_end)
        return [Window(row, col, self.rows.patch, self.cols.patch) for col in cols for row in rows]

    def around(self, window: Window) -> Window:
        """The window that the patches of a window cover together."""
        patches = self.patches(window)
        first, last = patches[0], patches[-1]
        return Window(first.row, first.col, last.row_end - first.row, last.col_end - first.col)

    def weights(self, patch: Window, scale: int = 1) -> Tensor:
        """The weights of a patch's pixels: float32 (scale * height, scale * width)."""
        rows, cols = self.rows.weights(patch.row, scale), self.cols.weights(patch.col, scale)
        return torch.from_numpy(np.outer(rows, cols))


def blended(lattice: Lattice, window: Window, compute: Compute, scale: int = 1) -> Parts:
    """Compute a window from its patches, blended.

    Args:
        lattice: the positions of the patches.
        window: inside the lattice.
        compute: computes each patch's tensors.
        scale: pixels of the tensors per pixel of the lattice, along either axis.

    Returns:
        The same tensors with (scale * height, scale * width) of `window` as their last two axes.
    """
    sums: Parts = ()
    patches = lattice.patches(window)
    fine = window.scaled(scale)
    for patch, parts in zip(patches, compute(patches), strict=True):
        inside = patch.intersection(window)
        assert inside is not None
        source, place = (inside.scaled(scale).within(other).slices for other in (patch.scaled(scale), fine))
        if not sums:
            sums = tuple(part.new_zeros(*part.shape[:-2], fine.height, fine.width) for part in parts)
        weights = lattice.weights(patch, scale)[source].to(parts[0].device)
        for total, part in zip(sums, parts, strict=True):
            total[(..., *place)].addcmul_(part[(..., *source)], weights)
    return sums


class PatchCache:
    """A cache of the patches that were used last, up to a number of bytes."""

    def __init__(self, most_bytes: int = CACHE_BYTES) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable) -> Tensor | None:
        """The tensor of a key, or None."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key]

    def put(self, key: Hashable, values: Tensor) -> None:
        """Store a tensor under a new key, and drop the oldest ones that no longer fit."""
        assert key not in self._held
        self._held[key] = values
        self.bytes += values.nbytes
        while self.bytes > self.most_bytes:
            _, oldest = self._held.popitem(last=False)
            self.bytes -= oldest.nbytes
