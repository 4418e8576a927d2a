"""A finished head against labels that it may never have seen."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable

import numpy as np

from lianet_user.errors import TrainingWarning
from lianet_user.field.config import reads_a_date
from lianet_user.head import TILE, Head
from lianet_user.labels import Labels
from lianet_user.training.finetune import check_ground
from lianet_user.training.goal import Goal
from lianet_user.training.judging import Judgement, judge
from lianet_user.training.samples import make_samples
from lianet_user.training.start import labels_for

Listener = Callable[[int, int], None]


def evaluate(head: Head, labels: Labels, listener: Listener | None = None) -> Judgement:
    """Compare a head with labels, each at the dates it describes.

    Args:
        head: opened.
        labels: on the grid of the head's region, or four times as fine for a head of that scale.
        listener: told how many of how many labelled blocks are done.

    Raises:
        LabelError: the labels have a class that the head does not know, are of another task, or lie on another grid.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        TrainingWarning: the head was trained on these labels.
    """
    head.check_region()
    check_ground(head.region, labels)
    labels = labels_for(head, labels)
    if labels.report.source == head.header.provenance.source:
        message = (
            f"{labels.report.source} is what {head.path or 'the head'} was trained on, but for the ground that was kept to"
            " judge it: these figures flatter it"
        )
        warnings.warn(TrainingWarning(message), stacklevel=2)
    goal = Goal(head.header.classes, head.header.numbers)
    samples = make_samples(
        lambda window, date: head.region.head_input(window, date, head.header.head.inputs),
        labels if reads_a_date(head.header.head.inputs) else labels.once(),
        margin=head.layers.halo,
        # GroupNorm's statistics run over the window: no smaller one than in training.
        tight=head.header.head.norm != "group",
        halo=head.region.field.config.decoder.halo,
        listener=listener,
    )
    return judge(head.layers, samples, goal, device=head.region.device)


def mapped_pixels(head: Head, date: dt.date, listener: Listener | None = None) -> np.ndarray:
    """Pixels of each class in the map of the whole region: int64 (classes,).

    Args:
        head: of classes.
        date: of the map.
        listener: told the pixels done and in all.
    """
    counts, window = np.zeros(256, np.int64), head.region.window
    done = 0
    for tile in window.tiles(TILE // head.scale):
        counts += np.bincount(head.values(tile, date).ravel(), minlength=256)
        done += tile.pixels
        if listener:
            listener(done, window.pixels)
    return counts[: len(head.header.classes)]
