"""Tables as one byte a number: each column of a table reads its values off 256 of its own.

Entries of a hash grid have heavy tails: in the first region that ships, the extremes of the finest level are 130 times its
deviation. 256 equal steps between them lose a sixth of the deviation, however they are clipped, and 256 values that lie
densest where the entries do lose a sixtieth, for a few kilobytes a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIZE = 256
ROUNDS = 20


def encode(tables: NDArray[np.float32], spans: Sequence[slice]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Replace a table's numbers by the places of the nearest among the 256 values chosen for their span and column.

    Args:
        tables: (N, F), finite.
        spans: of rows, which together cover all.

    Returns:
        Codes (N, F), -128..127, and the values (spans, F, 256), ascending.
    """
    codes = np.empty(tables.shape, np.int8)
    values = np.empty((len(spans), tables.shape[1], SIZE), np.float32)
    for number, span in enumerate(spans):
        for column in range(tables.shape[1]):
            chosen = _fit(tables[span, column]).astype(np.float32)
            values[number, column] = chosen
            nearest = np.searchsorted(_middles(chosen.astype(np.float64)), tables[span, column])
            codes[span, column] = (nearest - SIZE // 2).astype(np.int8)
    return codes, values


def decode(codes: NDArray[np.int8], values: NDArray[np.float32], spans: Sequence[slice]) -> NDArray[np.float32]:
    """The tables (N, F) that codes and values stand for; arguments as `encode` returns them."""
    tables = np.empty(codes.shape, np.float32)
    for number, span in enumerate(spans):
        for column in range(codes.shape[1]):
            tables[span, column] = values[number, column][codes[span, column].astype(np.intp) + SIZE // 2]
    return tables


def _fit(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    """256 ascending values with a small mean squared distance to the numbers (Lloyd 1982)."""
    ordered = np.sort(numbers.astype(np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= SIZE:
        return np.pad(distinct, (0, SIZE - len(distinct)), mode="edge")
    # The start that is best for many values: as dense as the cube root of the numbers' own density (Panter and Dite 1951).
    quantiles = ordered[np.linspace(0, len(ordered) - 1, 16 * SIZE).astype(np.intp)]
    weight = np.concatenate([[0.0], np.cumsum(np.diff(quantiles) ** (2 / 3))])
    values = np.interp((np.arange(SIZE) + 0.5) / SIZE * weight[-1], weight, quantiles)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(ROUNDS):
        ends = np.concatenate([[0], np.searchsorted(ordered, _middles(values)), [len(ordered)]])
        counts = np.diff(ends)
        values = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), values)
    return np.asarray(np.sort(values))


def _middles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values[1:] + values[:-1]) / 2
