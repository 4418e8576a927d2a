"""Evaluating a finished head with labels that it may never have seen: its map is computed, and compared with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lianet_user.errors import InputError, TrainingWarning
from lianet_user.evaluation.areas import Areas, estimate_areas
from lianet_user.field.config import reads_a_date
from lianet_user.finetuning.finetune import check_ground, labels_for
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.metrics import ClassMeter
from lianet_user.finetuning.validation import Judgement
from lianet_user.geo.grid import TILE, Window
from lianet_user.geo.ground_area import Ground
from lianet_user.head import Head
from lianet_user.labels import LabelMap, Labels

Listener = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The result of comparing a head's maps with labels."""

    judgement: Judgement
    """All labels together, date by date, and of the mean over the dates."""
    areas: Areas | None = None
    """Areas and accuracies of the map's classes; None unless they were asked for."""


def evaluate(
    head: Head, labels: Labels, *, areas: bool = False, listener: Listener | None = None, tile: int = TILE
) -> Evaluation:
    """Compare a head's maps with labels, each at the dates it describes.

    The answers are those of the map that `predict` writes of the whole region, tile by tile: on the same machine every
    figure can be read off that map. Tiles without a label are computed only for `areas`, which need the whole map.

    Args:
        head: opened.
        labels: on the grid of the head's region, or four times as fine for a head of that scale.
        areas: estimate each class's area and accuracy too, from labels of a single date.
        listener: called with the pixels of the region that are done, and how many there are.
        tile: pixels of the map along the side of a tile.

    Raises:
        InputError: areas are asked for, and the head maps numbers, or the labels describe several dates or hold one class.
        LabelError: the labels have a class that the head lacks, are of another task, or lie on another grid.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        TrainingWarning: the head was trained on these labels.
    """
    head.check_region()
    check_ground(head.region, labels)
    labels = labels_for(head, labels)
    if not reads_a_date(head.header.head.inputs):
        labels = labels.once()
    if areas:
        _check_areas(head, labels)
    if labels.report.source == head.header.provenance.source:
        message = (
            f"{labels.report.source} is what {head.path or 'the head'} was trained on, except for the ground kept for"
            " validation: these figures flatter it"
        )
        warnings.warn(TrainingWarning(message), stacklevel=2)
    judgement, mapped, hectares = _counted(head, labels, areas, listener, tile)
    if not areas:
        return Evaluation(judgement)
    assert isinstance(judgement.all, ClassMeter)
    return Evaluation(judgement, estimate_areas(judgement.all.confusion, mapped, hectares, head.header.classes))


def _check_areas(head: Head, labels: Labels) -> None:
    """Refuse areas unless there is one map of classes.

    Raises:
        InputError: the map has no areas of classes, there are several maps, or the labels do not tell classes apart.
    """
    if not head.header.classes:
        raise InputError(f"`areas`: {head.path or 'the head'} maps numbers, and only classes have areas: omit it")
    if len(labels.dates) > 1:
        raise InputError(
            f"`areas`: the labels describe {len(labels.dates)} dates, and areas are those of one map: give one with `dates`"
        )
    if len(borne := _borne(labels)) == 1:
        raise InputError(
            f"`areas`: the labels hold a single class ({head.header.classes[borne[0]].name!r}), which tells nothing of what"
            " is mistaken for it: omit it, or label what is not that class too"
        )


def _borne(labels: Labels) -> list[int]:
    """The values of the classes that some pixel bears."""
    return sorted({int(value) for each in labels.maps for value in np.unique(each.values[each.labelled])})


def _counted(
    head: Head, labels: Labels, everywhere: bool, listener: Listener | None, side: int
) -> tuple[Judgement, NDArray[np.int64], NDArray[np.float64]]:
    """The labels compared with the maps, and of each class (classes,) the pixels and hectares in all tiles, if everywhere.

    Args:
        head: opened.
        labels: with its classes.
        everywhere: compute tiles without labels too.
        listener: as in :func:`evaluate`.
        side: of a tile.
    """
    goal = Goal(head.header.classes, head.header.numbers)
    judgement = Judgement(goal, one_class=bool(goal.classes) and len(_borne(labels)) == 1)
    mapped, hectares = np.zeros(len(head.header.classes), np.int64), np.zeros(len(head.header.classes))
    ground = Ground(head.geobox) if everywhere else None
    tiles = [(tile, _labels_in(labels, tile)) for tile in head.map_tiles(head.region.window, side)]
    tiles = [(tile, parts) for tile, parts in tiles if everywhere or parts]
    done, total = 0, sum(tile.pixels for tile, _ in tiles)
    for tile, parts in tiles:
        sums: dict[int, Tensor] = {}
        for date in labels.dates:
            of_date = [number for number, part in parts.items() if date in part.dates]
            if not (of_date or everywhere):
                continue
            answers = head.answers(tile, date).cpu()
            decided = head.decided(answers)
            if ground:
                classes = decided.numpy().ravel()
                mapped += np.bincount(classes, minlength=len(mapped))
                hectares += np.bincount(classes, ground.pixels(tile.scaled(head.scale)).ravel(), len(mapped))
            for number in of_date:
                part = parts[number]
                judgement.count(date, torch.from_numpy(part.values), decided)
                if len(part.dates) > 1:
                    own = answers[:, torch.from_numpy(part.labelled)]
                    # Probabilities: a mean of their logarithms would be another.
                    sums[number] = sums.get(number, torch.zeros(())) + (own.exp() if head.header.classes else own)
        for number, summed in sums.items():
            part = parts[number]
            reference = torch.from_numpy(part.values[part.labelled])
            judgement.count_mean(reference, head.decided(summed / len(part.dates)))
        done += tile.pixels
        if listener:
            listener(done, total)
    return judgement, np.asarray(mapped, np.int64), np.asarray(hectares, np.float64)


def _labels_in(labels: Labels, tile: Window) -> dict[int, LabelMap]:
    """The part of each label map that lies in a tile, by the map's number; without those that have no label there."""
    fine = tile.scaled(labels.scale).slices
    parts = {number: LabelMap(each.values[fine], each.dates) for number, each in enumerate(labels.maps)}
    return {number: part for number, part in parts.items() if part.labelled.any()}
