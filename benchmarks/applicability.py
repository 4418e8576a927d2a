"""Which index knows ground that no label taught? One class after the other is left out of what is learned from.

An index of applicability should be high where the labels teach nothing. Each class of the labels is left out in turn; of the
labelled pixels that a fold keeps for validation, the question is which are of that class. Every index answers with a
number, and the figure is the area under its ROC curve: 0.5 is guessing.

- `entropy`, `margin`: of the probabilities of the closed form, which has not seen the class;
- `variance`: of a Gaussian process with the closed form's kernel and landmarks (Williams and Seeger 2001);
- `nearest`: distance to the nearest of a thousand labelled pixels in all standardised channels (Meyer and Pebesma 2021, without
  weights);
- `nearest-bands`: the mean distance to the nearest five, in the reconstructed bands alone;
- `ratio`: how much rarer such ground is among the labels than in the windows around them, a least-squares density ratio
  (Kanamori et al. 2009) in the space of a rough kernel on the bands.

    python benchmarks/applicability.py models/havelland.safetensors tutorials/data/havelland_landcover.gpkg --field class
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lianet_user.files.header import IGNORE
from lianet_user.finetuning.closed_form import fit_closed_form
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, keep, labelled_pixels, make_samples, moments, standardized
from lianet_user.finetuning.settings import settings_for
from lianet_user.labels import LabelOptions, read_labels, split_folds
from lianet_user.region import Region

Array = NDArray[np.float64]
FOLDS = 5
LEARNED, NEAREST, LANDMARKS = 1_500, 1_000, 300
JUDGED = 2_500
"""Validation pixels of a fold, at most, drawn at random."""
LEAST = 30
"""Validation pixels of the class that is left out, without which a fold tells nothing."""
WIDTH, RIDGE = 0.5, 1.0
"""Of the density ratio's kernel, exp(-sqrt(width * squared distance / its median)), and of its regression."""


def squared_distances(values: Array, others: Array) -> Array:
    """Squared distances (n, m) of the rows of two arrays."""
    result: Array = np.square(values).sum(1)[:, None] + np.square(others).sum(1) - 2 * values @ others.T
    return np.maximum(result, 0)


def ratio(labelled: Array, ground: Array, judged: Array) -> Array:
    """How much rarer than in the ground pixels like the judged ones are among the labelled: near 0, unlike any label."""
    landmarks = labelled[:LANDMARKS]
    width = WIDTH / np.median(squared_distances(landmarks, landmarks))
    strength, axes = np.linalg.eigh(np.exp(-np.sqrt(squared_distances(landmarks, landmarks) * width)))
    axes = axes[:, strength > 1e-8 * strength.max()] / np.sqrt(strength[strength > 1e-8 * strength.max()])
    near, ours, theirs = (
        np.exp(-np.sqrt(squared_distances(values, landmarks) * width)) @ axes for values in (judged, labelled, ground)
    )
    gram = ours.T @ ours + theirs.T @ theirs + RIDGE * np.eye(axes.shape[1])
    result: Array = -(near @ np.linalg.solve(gram, ours.sum(0)))
    return result


def auroc(index: Array, positive: NDArray[np.bool_]) -> float:
    """The probability that a positive has a higher index than a negative."""
    _, place, count = np.unique(index, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    own, others = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - own * (own + 1) / 2) / (own * others))


def without(samples: Sequence[Sample], value: int) -> list[Sample]:
    """The samples without the labels of a class."""
    cut = [
        dataclasses.replace(
            each, labels=torch.where(each.labels == value, torch.tensor(IGNORE).to(each.labels), each.labels)
        )
        for each in samples
    ]
    return [each for each in cut if each.judged().labelled.any()]


def unlabelled_pixels(samples: Sequence[Sample], most: int, seed: int) -> Array:
    """What is read at pixels of the windows that bear no label: (n, channels)."""
    rng = np.random.default_rng(seed)
    share = most / max(1, sum(int((~each.labelled).sum()) for each in samples))
    parts = []
    for sample in samples:
        values = sample.inputs[:, ~sample.labelled].T
        parts.append(values[torch.from_numpy(rng.random(len(values)) < share)].double().numpy())
    return np.concatenate(parts)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("region", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--field")
    parser.add_argument("--folds", type=int, default=2, help=f"of {FOLDS} that are judged")
    arguments = parser.parse_args()
    region = Region.open(arguments.region)
    labels = read_labels(arguments.labels, region.header, LabelOptions(field=arguments.field))
    settings = settings_for("auto", labels, region.header)
    goal = Goal.of(labels, settings)
    samples = make_samples(
        lambda window, date: region.head_input(window, date, settings.inputs),
        labels if settings.dated else labels.once(),
        margin=16,
        halo=region.field.config.decoder.halo,
    )
    samples = standardized(samples, *moments(samples), in_place=True)
    parts = {part: region.channels((part,)) for part in settings.inputs}
    starts = dict(zip(parts, np.cumsum([0, *parts.values()]).tolist(), strict=False))
    shown = "bands" if "bands" in parts else "series"
    bands = slice(starts[shown], starts[shown] + parts[shown])
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for value, entry in enumerate(labels.classes):
        left = without(samples, value)
        ground = unlabelled_pixels(left, LEARNED, settings.seed)[:, bands]
        for split in split_folds(labels, FOLDS, seed=settings.seed)[: arguments.folds]:
            judged, truth, _ = labelled_pixels(keep(samples, split.validated), JUDGED, settings.seed)
            positive = truth == value
            if positive.sum() < LEAST:
                continue
            trained = keep(left, split.trained)
            closed = fit_closed_form(trained, parts, goal, settings)
            learned = labelled_pixels(trained, LEARNED, settings.seed)[0].astype(np.float64)
            logits = closed(torch.from_numpy(judged.T[None, :, :, None]), True)[0, :, :, 0].double().numpy()
            judged = judged.astype(np.float64)
            shares = np.exp(logits)
            first, second = -np.partition(-shares, 1, axis=0)[:2]
            scale, power, marks = float(closed.scale), float(closed.power), closed.landmarks.double().numpy()
            near, own = (
                np.exp(-(squared_distances(each, marks) ** power))
                for each in (judged[:, closed.channels.numpy()] * scale, marks)
            )
            indices = {
                "entropy": -(shares * np.log(shares + 1e-12)).sum(0),
                "margin": second - first,
                "variance": -(near * np.linalg.solve(own + 0.01 * np.eye(len(own)), near.T).T).sum(1),
                "nearest": squared_distances(judged, learned[:NEAREST]).min(1),
                "nearest-bands": np.partition(squared_distances(judged[:, bands], learned[:NEAREST, bands]), 4, 1)[
                    :, :5
                ].mean(1),
                "ratio": ratio(learned[:, bands], ground, judged[:, bands]),
            }
            for name, index in indices.items():
                figures[name][entry.name].append(auroc(index, positive))
    names = list(dict.fromkeys(name for own in figures.values() for name in own))
    print("| index | " + " | ".join(names) + " | mean |\n|---|" + "---|" * (len(names) + 1))
    for name, by_class in figures.items():
        means = [float(np.mean(by_class[each])) for each in names]
        print(f"| {name} | " + " | ".join(f"{mean:.2f}" for mean in [*means, float(np.mean(means))]) + " |")


if __name__ == "__main__":
    main()
