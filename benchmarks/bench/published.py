"""The paper's loop as it was published, built from our own modules: what the claims are compared with.

Four gathers per pixel and level; float32, channels first; the trunk computed anew in every step, one patch after the other,
the reconstruction with it; patches side by side for a map. Whatever it computes is compared with ours before it is timed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.encoding import _C1, _C2, HashGrid, level_seed
from lianet_user.field.head import HeadLayers
from lianet_user.field.model import NeuralField
from lianet_user.finetuning.settings import TASKS

PATCH = 128
SETTINGS = TASKS["land-cover"].settings

Corner = tuple[int, int]


def four_gathers(grid: HashGrid, tables: Tensor, corner: Corner, height: int, width: int) -> Tensor:
    """A window of a hashed grid (1, L * F, height, width): each pixel hashes and gathers its own four nodes on each level."""
    offset = 0.5 if grid.config.pixel_origin == "center" else 0.0
    rows, cols = (torch.arange(first, first + count) for first, count in zip(corner, (height, width), strict=True))
    places = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1).view(-1, 2).float() + offset
    size, levels = grid.config.table_size, []
    for level, span in enumerate(grid.spans):
        assert not grid.config.is_direct(level)
        position = places * (grid.config.cells(level) / grid.config.extent)
        node = position.floor()
        (v, u), (row, col) = (position - node).unbind(1), node.long().unbind(1)
        own, total = tables[span], torch.zeros(len(places), grid.config.features)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            hashed = ((col + right) * _C1 ^ (row + down) * _C2 ^ level_seed(level)).remainder(size)
            weight = (v if down else 1 - v) * (u if right else 1 - u)
            total = total + own[hashed] * weight[:, None]
        levels.append(total)
    return torch.cat(levels, 1).view(1, height, width, -1).permute(0, 3, 1, 2)


class PublishedField:
    """A field of the paper's kind, as the published loop computes it."""

    def __init__(self, field: NeuralField, train: bool = False) -> None:
        """
        Args:
            field: a copy of its own; its layout is changed.
            train: leave the encoder's BatchNorm in training mode, as the published loop does by oversight.
        """
        self.field = field.to(memory_format=torch.contiguous_format).train(train)  # type: ignore[call-overload]

    @torch.no_grad()
    def patch(self, corner: Corner, time: int) -> Tensor:
        """What a head reads of a patch (1, features, 128, 128); the reconstruction is computed too."""
        field = self.field
        encoded = four_gathers(field.grid, field.grid.tables, corner, PATCH, PATCH)
        encoded = (encoded + field.time(torch.tensor([time]))[:, :, None, None]).contiguous()
        features: Tensor = field.decoder(encoded)
        field.reconstruction(features)
        return features.relu()


class PublishedStep:
    """A step of the published loop: the trunk of every patch, the head, its gradients and the update."""

    def __init__(self, field: PublishedField, head: HeadLayers, corners: Sequence[Corner], labels: Tensor) -> None:
        """
        Args:
            field: of the patches.
            head: a copy of its own.
            corners: of the batch.
            labels: int64 (B, 128, 128).
        """
        self.field, self.corners, self.labels = field, corners, labels
        self.head = head.to(memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(head.parameters(), SETTINGS.rate, weight_decay=SETTINGS.weight_decay)

    def loss(self) -> Tensor:
        features = torch.cat([self.field.patch(corner, 0) for corner in self.corners])
        return functional.cross_entropy(self.head(features), self.labels)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), SETTINGS.clip or 1.0)
        self.optimizer.step()


@torch.no_grad()
def map_of_patches(field: PublishedField, head: HeadLayers, shape: tuple[int, int]) -> Tensor:
    """Classes (height, width) of an area whose sides are multiples of 128: patch after patch, side by side."""
    found = torch.zeros(shape, dtype=torch.int64)
    for row in range(0, shape[0], PATCH):
        for col in range(0, shape[1], PATCH):
            answer = head(field.patch((row, col), 0))[0].argmax(0)
            found[row : row + PATCH, col : col + PATCH] = answer
    return found
