"""Which index knows ground that no label taught? One class after the other is left out of what is learned from.

An index of applicability should be high where the labels teach nothing. Each class of the labels is left out in turn; of the
labelled pixels that a fold keeps for validation, the question is which are of that class. Every index answers with a
number, and the figure is the area under its ROC curve: 0.5 is guessing.

- `entropy`, `margin`: of the probabilities of the pixel models, which have not seen the class;
- `variance`: of a Gaussian process with the kernel and landmarks of the pixel models on all channels (Williams and Seeger
  2001);
- `nearest`: distance to the nearest of a thousand labelled pixels in all standardised channels (Meyer and Pebesma 2021, without
  weights);
- `nearest-bands`: the mean distance to the nearest five, in the reconstructed bands alone;
- `variance-bands`: as `variance`, with a Gaussian kernel of the median width on the bands;
- `ratio`: how much rarer such ground is among the labels than in the windows around them, a least-squares density ratio
  (Kanamori et al. 2009) in the space of the same kernel.

`--window` asks besides which share of a place and of the whole region `variance-bands` flags: what is above the 95th percentile
of labelled pixels in folds that it has not seen. Every sixth pixel is looked at, of the window every third.

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
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import euclidean_distances

from lianet_user.field.config import HeadInput
from lianet_user.files.header import IGNORE
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.pixel_models import fit_pixel_models
from lianet_user.finetuning.samples import Sample, keep, labelled_pixels, make_samples, moments, standardized
from lianet_user.finetuning.settings import settings_for
from lianet_user.geo.grid import Window
from lianet_user.labels import LabelOptions, read_labels, split_folds
from lianet_user.region import Region

Array = NDArray[np.float64]
FOLDS = 5
LEARNED, NEAREST, LANDMARKS = 1_500, 1_000, 300
JUDGED = 2_500
"""Validation pixels of a fold, at most, drawn at random."""
LEAST = 30
"""Validation pixels of the class that is left out, without which a fold tells nothing."""
NOISE, RIDGE = 0.1, 1.0
"""Of the Gaussian process, whose prior variance is 1; and of the density ratio's regression."""
SEEN = 0.95
"""Share of the labelled pixels of unseen folds that is not flagged."""


def some(values: Array, most: int) -> Array:
    """So many of the rows, evenly: neighbours in the array are neighbours on the ground."""
    return values[np.linspace(0, len(values) - 1, min(most, len(values))).astype(np.intp)]


class Kernel:
    """The space of a Gaussian kernel between landmarks, as wide as the median distance between them."""

    def __init__(self, landmarks: Array) -> None:
        self.landmarks = landmarks
        self.width = 1 / np.median(euclidean_distances(landmarks, landmarks, squared=True))
        strength, axes = np.linalg.eigh(self.similarities(landmarks))
        kept = strength > 1e-8 * strength.max()
        self.axes = axes[:, kept] / np.sqrt(strength[kept])

    def similarities(self, values: Array) -> Array:
        return np.exp(-euclidean_distances(values, self.landmarks, squared=True) * self.width)

    def coordinates(self, values: Array) -> Array:
        result: Array = self.similarities(values) @ self.axes
        return result


def variance(labelled: Array, judged: Array) -> Array:
    """How little labelled pixels tell of the judged ones: the posterior variance of a Gaussian process, 0 to 1."""
    kernel = Kernel(some(labelled, LANDMARKS))
    own, near = kernel.coordinates(labelled), kernel.coordinates(judged)
    posterior = np.linalg.inv(np.eye(own.shape[1]) + own.T @ own / NOISE)
    result: Array = 1 - np.square(near).sum(1) + ((near @ posterior) * near).sum(1)
    return result


def ratio(labelled: Array, ground: Array, judged: Array) -> Array:
    """How much rarer than in the ground pixels like the judged ones are among the labelled: 0, unlike any label; else less."""
    kernel = Kernel(some(labelled, LANDMARKS))
    ours, theirs = kernel.coordinates(labelled), kernel.coordinates(ground)
    gram = ours.T @ ours + theirs.T @ theirs + RIDGE * np.eye(ours.shape[1])
    result: Array = -(kernel.coordinates(judged) @ np.linalg.solve(gram, ours.sum(0)))
    return result


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
    parser.add_argument("--window", type=int, nargs=4, metavar=("ROW", "COL", "HEIGHT", "WIDTH"))
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
    mean, std = moments(samples)
    samples = standardized(samples, mean, std, in_place=True)
    parts = {part: region.channels((part,)) for part in settings.inputs}
    starts = dict(zip(parts, np.cumsum([0, *parts.values()]).tolist(), strict=False))
    shown: HeadInput = "bands" if "bands" in parts else "series"
    bands = slice(starts[shown], starts[shown] + parts[shown])
    if arguments.window:

        def read(window: Window, step: int) -> Array:
            values = (region.head_input(window, labels.dates[0], settings.inputs) - mean) / std
            return values[bands, ::step, ::step].flatten(1).T.double().numpy()

        unseen = []
        for split in split_folds(labels, FOLDS, seed=settings.seed):
            taught, held = (
                labelled_pixels(keep(samples, where), LEARNED, settings.seed)[0][:, bands].astype(np.float64)
                for where in (split.trained, split.validated)
            )
            unseen.append(variance(taught, held))
        threshold = np.quantile(np.concatenate(unseen), SEEN)
        everything = labelled_pixels(samples, LEARNED, settings.seed)[0][:, bands].astype(np.float64)
        place = read(Window(*arguments.window), 3)
        ground = np.concatenate([read(tile, 6) for tile in region.window.tiles(256)])
        shares = [float((variance(everything, values) > threshold).mean()) for values in (place, ground)]
        print(f"flagged: {shares[0]:.1%} of the window, {shares[1]:.1%} of the region")
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
            models = fit_pixel_models(trained, parts, goal, settings)
            learned = labelled_pixels(trained, LEARNED, settings.seed)[0].astype(np.float64)
            logits = models(torch.from_numpy(judged.T[None, :, :, None]), True)[0, :, :, 0].double().numpy()
            judged = judged.astype(np.float64)
            shares = np.exp(logits)
            first, second = -np.partition(-shares, 1, axis=0)[:2]
            solved = {name: each.double().numpy() for name, each in models.named_buffers()}
            marks, widest = solved["landmarks"], f"sets.{len(models.sets) - 1}."
            near, own = (
                np.exp(
                    -(
                        (euclidean_distances(each, marks, squared=True) * solved[widest + "width"])
                        ** solved[widest + "power"]
                    )
                )
                for each in (judged, marks)
            )
            indices = {
                "entropy": -(shares * np.log(shares + 1e-12)).sum(0),
                "margin": second - first,
                "variance": -(near * np.linalg.solve(own + 0.01 * np.eye(len(own)), near.T).T).sum(1),
                "nearest": euclidean_distances(judged, some(learned, NEAREST), squared=True).min(1),
                "nearest-bands": np.partition(
                    euclidean_distances(judged[:, bands], some(learned, NEAREST)[:, bands], squared=True), 4, 1
                )[:, :5].mean(1),
                "variance-bands": variance(learned[:, bands], judged[:, bands]),
                "ratio": ratio(learned[:, bands], ground, judged[:, bands]),
            }
            for name, index in indices.items():
                figures[name][entry.name].append(float(roc_auc_score(positive, index)))
    names = list(dict.fromkeys(name for own in figures.values() for name in own))
    print("| index | " + " | ".join(names) + " | mean |\n|---|" + "---|" * (len(names) + 1))
    for name, by_class in figures.items():
        means = [float(np.mean(by_class[each])) for each in names]
        print(f"| {name} | " + " | ".join(f"{mean:.2f}" for mean in [*means, float(np.mean(means))]) + " |")


if __name__ == "__main__":
    main()
