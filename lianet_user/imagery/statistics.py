"""What training needs to know about imagery: means and standard deviations of its bands, and how much of it is valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lianet_user.errors import ImageryError, listed
from lianet_user.geo.grid import Window
from lianet_user.imagery.imagery import Imagery

TILE = 512
"""Side, in pixels, of the tiles that are read; only one is held at a time."""

Listener = Callable[[int, int], None]
"""Called with the number of tiles that were read, and their total."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of the valid pixels of all acquisitions.

    Attributes:
        mean: float64 (bands,), reflectance.
        std: float64 (bands,), the population's, above 0.
        valid: float64 (acquisitions, bands), the share of valid pixels among those that were read.
        exact: every pixel was read, not a sample of tiles.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    valid: NDArray[np.float64]
    exact: bool


def measure(
    imagery: Imagery, *, limit_pixels: int = 2**28, seed: int = 0, listener: Listener | None = None
) -> Statistics:
    """Measure imagery tile by tile.

    Imagery with more than `limit_pixels` (acquisitions x height x width) is sampled: about that many pixels, in equally many
    tiles of every date, drawn from the seed. No date or band is refused because of a sample: the rest is read first, until it
    shows what the sample did not.

    Raises:
        ImageryError: a date has no valid pixel, a band has none or one value everywhere, or a file cannot be read.
    """
    survey = _Survey(imagery, limit_pixels, seed, listener)
    for index, tiles in enumerate(survey.plan):
        for tile in tiles:
            survey.look(index, tile)
    for index in range(len(imagery.acquisitions)):
        survey.search([index], partial(survey.shows, index))
    if empty := [str(a.date) for a, valid in zip(imagery.acquisitions, survey.valid, strict=True) if not valid.any()]:
        raise ImageryError(
            f"no pixel of {listed(empty)} is valid (nothing was measured, or all of it is masked), expected some on every"
            " date: leave empty dates out with `min_clear`, `since` or `until`"
        )
    survey.search(range(len(imagery.acquisitions)), survey.varies)
    for index, band in enumerate(imagery.bands):
        if not survey.count[index]:
            raise ImageryError(f"band {band.name} has no valid pixel on any date: leave it out with `bands`")
        if not survey.squares[index]:
            raise ImageryError(
                f"band {band.name} has one value everywhere ({survey.mean[index]:g}): there is nothing to encode,"
                " leave it out with `bands`"
            )
    return Statistics(
        mean=survey.mean,
        std=np.sqrt(survey.squares / survey.count),
        valid=survey.valid / survey.pixels[:, None],
        exact=not any(survey.rest),
    )


class _Survey:
    """The statistics of the tiles that were read, and the tiles that were not.

    Attributes:
        count: valid pixels of each band.
        mean: of each band.
        squares: of each band, the sum of the squared deviations from its mean.
        valid: valid pixels (acquisitions, bands).
        pixels: pixels of each acquisition that were read.
        rest: of each acquisition, the tiles that were not sampled.
    """

    def __init__(self, imagery: Imagery, limit_pixels: int, seed: int, listener: Listener | None) -> None:
        dates, bands = len(imagery.acquisitions), len(imagery.bands)
        self.imagery, self.listener = imagery, listener
        self.count = np.zeros(bands, np.int64)
        self.mean, self.squares = np.zeros(bands), np.zeros(bands)
        self.valid = np.zeros((dates, bands), np.int64)
        self.pixels = np.zeros(dates, np.int64)
        tiles = list(imagery.window.tiles(TILE))
        self.plan: list[list[Window]] = [tiles] * dates
        self.rest: list[list[Window]] = [[] for _ in range(dates)]
        if dates * imagery.window.pixels > limit_pixels:
            sampled = max(1, limit_pixels // (dates * TILE**2))
            for index in range(dates):
                order = np.random.default_rng((seed, index)).permutation(len(tiles))
                self.plan[index] = [tiles[number] for number in sorted(order[:sampled])]
                self.rest[index] = [tiles[number] for number in order[sampled:]]
        self.seen, self.planned = 0, sum(map(len, self.plan))

    def search(self, indices: Sequence[int], done: Callable[[], bool]) -> None:
        """Read the rest of some acquisitions, a tile of each in turn, until `done` or nothing is left."""
        while not done() and any(self.rest[index] for index in indices):
            for index in indices:
                if self.rest[index]:
                    self.look(index, self.rest[index].pop())

    def shows(self, index: int) -> bool:
        """Whether a valid pixel of an acquisition was read."""
        return bool(self.valid[index].any())

    def varies(self) -> bool:
        """Whether different values of every band were read."""
        return bool((self.squares > 0).all())

    def look(self, index: int, tile: Window) -> None:
        """Read a tile and merge its moments into those of all before it (Chan, Golub and LeVeque 1983): no difference of
        large sums.

        A band of one value has `squares` of exactly 0: in float64, sums of a tile's float32 values lose nothing.
        """
        patch = self.imagery.read(index, tile)
        for band, (values, valid) in enumerate(zip(patch.reflectance, patch.valid, strict=True)):
            chosen = values[valid].astype(np.float64)
            if not chosen.size:
                continue
            mean = chosen.mean()
            chosen -= mean
            before, total = self.count[band], self.count[band] + chosen.size
            step = mean - self.mean[band] if before else 0.0
            self.squares[band] += np.dot(chosen, chosen) + step**2 * before * (chosen.size / total)
            self.mean[band] = self.mean[band] + step * (chosen.size / total) if before else mean
            self.count[band] = total
            self.valid[index, band] += chosen.size
        self.pixels[index] += tile.pixels
        self.seen += 1
        if self.listener:
            self.listener(self.seen, max(self.seen, self.planned))
