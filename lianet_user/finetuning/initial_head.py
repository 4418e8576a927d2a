"""What a head begins as: new layers for labels, or those of an earlier head that is trained on."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import torch

from lianet_user.errors import InputError, LabelError, RegionMismatchError, TrainingWarning, listed
from lianet_user.field.config import HeadConfig
from lianet_user.field.head import HeadEnsemble
from lianet_user.files.header import IGNORE
from lianet_user.finetuning.settings import FinetuneSettings
from lianet_user.finetuning.targets import Goal
from lianet_user.head import Head
from lianet_user.labels import LabelMap, Labels
from lianet_user.region import Region


def new_layers(region: Region, labels: Labels, goal: Goal, settings: FinetuneSettings) -> HeadEnsemble:
    """Layers with random weights, which follow from the settings' seed."""
    config = HeadConfig(
        inputs=settings.inputs,
        in_channels=region.channels(settings.inputs),
        widths=settings.widths,
        outputs=goal.outputs,
        norm=settings.norm,
        members=settings.members,
        scale=labels.scale,  # type: ignore[arg-type]  # 1 or 4, as labels are read
        output="logits" if goal.classes else "number",
        patch=settings.crop,
    )
    torch.manual_seed(settings.seed)
    return HeadEnsemble(config).to(region.device)


def layers_of(start: Head, region: Region, labels: Labels, settings: FinetuneSettings) -> HeadEnsemble:
    """A copy of a head's layers to train, once it is certain that they fit; `start` stays as it is.

    Raises:
        InputError: the settings ask for other layers.
        RegionMismatchError: the head is of another region, or what it reads has changed its size.
    """
    start.check_lineage(region)
    config, name = start.header.head, start.path or "the head"
    if (channels := region.channels(config.inputs)) != config.in_channels:
        raise RegionMismatchError(
            f"{name} reads {config.in_channels} channels and {region.path} now gives {channels}, because its bands or"
            " dates have changed: train a new head without --from"
        )
    for what in ("inputs", "widths", "members"):
        own, asked = getattr(config, what), getattr(settings, what)
        if asked != own:
            raise InputError(
                f"{what} {asked}: {name} has {own}, and a head that is trained on keeps its layers: leave that away, or train"
                " a new head without --from"
            )
    layers = copy.deepcopy(start.layers).to(region.device).requires_grad_(True)
    layers.config = config.model_copy(update={"patch": settings.crop})
    return layers


def labels_for(head: Head, labels: Labels) -> Labels:
    """The labels with a head's classes, in its order and with its colours; classes are the same if their names are.

    Raises:
        LabelError: the labels have a class that the head lacks, are of another task, or lie on a grid of another scale.
    """
    source, name = labels.report.source, head.path or "the head"
    wanted, found = (head.header.task, head.scale), (labels.task, labels.scale)
    if wanted != found:
        raise LabelError(
            f"{source}: the labels are read as {found[0]} at scale {found[1]}, and {name} is a head for {wanted[0]} at scale"
            f" {wanted[1]}: give --task {wanted[0]} and --scale {wanted[1]}, or labels of that kind"
        )
    classes = head.header.classes
    if labels.classes == classes:
        return labels
    values = {entry.name: value for value, entry in enumerate(classes)}
    if new := [entry.name for entry in labels.classes if entry.name not in values]:
        raise LabelError(
            f"{source}: the labels have {listed(list(map(repr, new)))}, which {name} does not know (its classes are"
            f" {listed(list(values))}): merge it into one of these with --map, or train a new head without --from"
        )
    renumbered = np.full(256, IGNORE, np.uint8)
    renumbered[: len(labels.classes)] = [values[entry.name] for entry in labels.classes]
    maps = tuple(LabelMap(renumbered[each.values], each.dates) for each in labels.maps)
    return dataclasses.replace(labels, classes=classes, maps=maps)


def missing_classes(labels: Labels) -> list[int]:
    """Classes that no label bears; a warning names them."""
    if not labels.classes:
        return []
    borne = np.unique(np.concatenate([np.unique(each.values) for each in labels.maps]))
    missing = [value for value in range(len(labels.classes)) if value not in borne]
    if missing:
        names = listed([labels.classes[value].name for value in missing])
        warnings.warn(
            TrainingWarning(
                f"the labels have no {names}: the head keeps what it knows of that, as far as training on the others leaves"
                " it, and it is not validated"
            ),
            stacklevel=3,
        )
    return missing
