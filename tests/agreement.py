"""When two computations of the same ground agree: the rule of docs/reference/equality.md, as the tests ask for it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianet_user.head import Head

ANSWERS = 1e-3
"""How far a head's answers may differ where they are computed in float32 in windows of another shape, by other instructions
or by another number of threads: logarithms of class probabilities, or numbers as a share of the head's scale. Twice what
`benchmarks/equality.py` found of a trained head: .0005, between AVX-512 and SSE 4.1."""


def assert_same_answers(found: Tensor, expected: Tensor, bound: float = ANSWERS) -> None:
    """Answers (outputs, h, w) of one ground, computed in two ways, are equal but for rounding."""
    torch.testing.assert_close(found, expected, atol=bound, rtol=0)


def assert_same_classes(found: NDArray[np.uint8] | Tensor, answers: Tensor, bound: float = ANSWERS) -> float:
    """Classes are those of other answers of the same ground, except where the two best are closer than twice the bound.

    Args:
        found: (h, w), from one computation.
        answers: (classes, h, w), from another.
        bound: of what either may be off by.

    Returns:
        The share of pixels that are so close: 0 to 1.
    """
    classes = torch.as_tensor(np.asarray(found)).long()
    best, second = answers.topk(2, 0).values
    behind = best - answers.gather(0, classes[None])[0]
    wrong = behind > 2 * bound
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {wrong.numel()} pixels have another class than the best one, by up to {behind.max():.2g}"
    )
    return float((best - second <= 2 * bound).float().mean())


NEARLY = 3e-7
"""How much the weights of nearly tied classes differ, relative to their size: a few units in the last place."""


def nearly_tied(head: Head, seed: int = 0) -> Head:
    """The same head with classes that are as good as equal on every pixel, so that rounding may decide between them."""
    layers = copy.deepcopy(head.layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for member in layers.members:
            last = list(member.children())[-1]
            assert isinstance(last, torch.nn.Conv2d)
            assert last.bias is not None
            noise = torch.randn(last.weight.shape, generator=generator)
            last.weight.copy_(last.weight[:1] * (1 + NEARLY * noise))
            last.bias.copy_(last.bias[:1].expand_as(last.bias))
    return Head(head.header, layers, head.region, head.path, head.sha256)
