"""Checking labels before any training: whether they can be split, what each part holds, and how long training takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import whole
from lianet_user.labels.effort import REFERENCE_GFLOPS, default_seconds, matrix_gflops
from lianet_user.labels.label_map import LabelReport, Labels
from lianet_user.labels.split import (
    SHARE,
    BoolArray,
    labelled_blocks,
    split_labels,
    strata_of,
    stratum_pixels,
    widened,
)

FEW = 200
"""A class with fewer labelled pixels than this to train on, or to validate on, is reported."""


@dataclass(frozen=True)
class Check:
    """What training on labels would have to work with."""

    report: LabelReport
    block: int
    """Pixels of the region along the side of the blocks of the split."""
    buffer: int
    """Pixels of the region around kept ground in which labels are not trained on."""
    buffer_metres: float | None
    """`buffer` in metres; None where the region's CRS is in degrees."""
    labelled_blocks: int
    """Blocks that hold labels, outside the test area and its buffer."""
    validation_blocks: int
    """How many of these blocks the split keeps for validation."""
    training_pixels: dict[str, int]
    """Labelled pixels of each class that are trained on; of ranges of numbers, from low to high, for numbers."""
    validation_pixels: dict[str, int]
    """Labelled pixels of each class in the blocks that are kept."""
    test_pixels: dict[str, int] | None
    """Labelled pixels of each class in the test area; None where there is none."""
    seconds: float
    """Estimated duration of `finetune` with the default settings on this machine's processor, picture and report included."""

    def as_dict(self) -> dict[str, Any]:
        """The check as values that JSON can hold."""
        return {**asdict(self), "report": self.report.as_dict()}

    def lines(self) -> list[str]:
        """The check for a person: one fact per line."""
        metres = "" if self.buffer_metres is None else f" ({self.buffer_metres:g} m)"
        training, validation = sum(self.training_pixels.values()), sum(self.validation_pixels.values())
        lines = [
            *self.report.lines(),
            f"Split: {self.labelled_blocks} blocks of {self.block} x {self.block} px hold labels, {self.validation_blocks} of"
            f" them would be kept for validation, with a buffer of {self.buffer} px{metres} around them",
            f"  {training:,} pixels to train on, {validation:,} to validate on",
        ]
        if self.test_pixels is not None:
            lines.append(f"  {sum(self.test_pixels.values()):,} pixels in the test area, set aside")
        few = [name for name, count in self.training_pixels.items() if min(count, self.validation_pixels[name]) < FEW]
        lines += [
            f"  few of {name}: {self.training_pixels[name]:,} to train on, {self.validation_pixels[name]:,} to validate on"
            for name in few
        ]
        return [*lines, f"Training: about {_duration(self.seconds)} on this machine's processor"]


def check_labels(
    labels: Labels,
    region: RegionHeader,
    *,
    share: float = SHARE,
    seed: int = 0,
    buffer: int | None = None,
    block: int | None = None,
    test: BoolArray | None = None,
) -> Check:
    """Try the spatial split and estimate the training.

    Args:
        labels: on the region's grid, or on a finer one.
        region: the region's header.
        share: share of the labelled blocks that is kept for validation, as in :func:`lianet_user.labels.split_labels`.
        seed: of the random draws.
        buffer: pixels of the region between what is kept and what is trained on; None chooses it.
        block: pixels of the region along the side of a block; None chooses it.
        test: bool (height, width) of the region, an area that is set aside; None if there is none.

    Raises:
        LabelError: training would fail, because the labels cannot be split.

    Warns:
        TrainingWarning: a class cannot be validated, or the buffer was halved.
    """
    geobox = region.grid.geobox
    split = split_labels(labels, share=share, seed=seed, buffer=buffer, block=block, test=test)
    region_window = whole(geobox)
    trained, validated = split.trained(region_window), split.validated(region_window)
    tested = split.tested(region_window)
    excluded = None if test is None else widened(test, split.buffer)
    strata = strata_of(labels)
    pixels = [
        dict(zip(strata.names, counts, strict=True))
        for counts in stratum_pixels(labels, strata, (trained, validated, tested)).tolist()
    ]
    return Check(
        report=labels.report,
        block=split.block,
        buffer=split.buffer,
        buffer_metres=_metres(geobox, split.buffer),
        labelled_blocks=int(np.count_nonzero(labelled_blocks(labels, split.block, excluded=excluded))),
        validation_blocks=int(split.validation.sum()),
        training_pixels=pixels[0],
        validation_pixels=pixels[1],
        test_pixels=None if test is None else pixels[2],
        seconds=default_seconds(labels, region, share) * REFERENCE_GFLOPS / matrix_gflops(),
    )


def _metres(geobox: GeoBox, pixels: int) -> float | None:
    assert geobox.crs is not None
    if not geobox.crs.projected:
        return None
    unit = float(geobox.crs.proj.axis_info[0].unit_conversion_factor)
    return pixels * abs(geobox.resolution.x) * unit


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds / 10) * 10)} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
