"""The crops of samples that a step is trained on. Every draw follows from the seed that it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from lianet_user.errors import LabelError
from lianet_user.field.head import head_halo
from lianet_user.files.header import IGNORE
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample
from lianet_user.finetuning.settings import FinetuneSettings

Batch = tuple[Tensor, Tensor]
"""Inputs float32 (B, C, size, size), and labels (B, scale * size, scale * size) in the samples' type."""

PLACES = 250_000
"""The most labelled pixels of a class that crops are chosen around: more of them would only take memory."""


class Crops(Protocol):
    """Draws the crops of every step."""

    steps: int
    """Steps of the whole training."""
    steps_per_epoch: int

    def draw(self, seed: tuple[int, ...], step: int) -> Batch:
        """The crops of a step, which follow from the seed and the step alone."""


def make_crops(samples: Sequence[Sample], goal: Goal, settings: FinetuneSettings) -> Crops:
    """Crops of the kind that the settings ask for.

    Raises:
        LabelError: nothing is left to draw from.
    """
    kind = BalancedCrops if settings.sampling == "balanced" else WindowCrops
    return kind(samples, goal, settings)


def class_counts(samples: Sequence[Sample], classes: int) -> np.ndarray:
    """Labelled pixels of each class, int64 (classes,)."""
    counts = np.zeros(256, np.int64)
    for sample in samples:
        counts += np.bincount(sample.judged().labels.numpy().ravel(), minlength=256)
    return counts[:classes]


COUNTED_STEPS = 16
"""Steps whose crops tell how often training shows each class."""


def class_offsets(crops: Crops, counts: np.ndarray, prior: np.ndarray, seed: int) -> Tensor:
    """What the loss adds to the logits, so that the answers themselves assume a prior (Menon et al. 2021).

    The loss sees classes as often as crops show them; with the logarithm of that over the prior added, what the layers learn
    is the answer under the prior.

    Args:
        crops: that training draws.
        counts: labelled pixels of each class, (classes,).
        prior: that answers assume, (classes,).
        seed: of the draws that are counted.

    Returns:
        float32 (classes, 1, 1); 0 for classes without labels.
    """
    shown = np.zeros(256)
    for step in range(COUNTED_STEPS):
        shown += np.bincount(crops.draw((seed, 3), step)[1].numpy().ravel(), minlength=256)
    shown = np.maximum(shown[: len(counts)], 1.0)
    taught = counts > 0
    shares = shown / shown[taught].sum()
    offsets = np.where(taught, np.log(shares) - np.log(np.where(prior > 0, prior, 1.0)), 0.0)
    return torch.tensor(offsets, dtype=torch.float32)[:, None, None]


class BalancedCrops:
    """Crops around labelled pixels, class by class in turn, so that rare classes are seen as often as common ones.

    Numbers count as one class. Crops are rotated and mirrored. Where labels are points or little more, a crop is no larger
    than what the answer at such a label depends on, and the label lies in its middle: the rest would teach nothing.
    """

    def __init__(self, samples: Sequence[Sample], goal: Goal, settings: FinetuneSettings) -> None:
        self.samples, self.batch = samples, settings.batch
        self.size, self.inset = _crop_size(samples, settings)
        self.steps = settings.steps
        self.steps_per_epoch = settings.steps
        self.scale = samples[0].scale
        places: list[list[np.ndarray]] = [[] for _ in range(goal.outputs)]
        for number, sample in enumerate(samples):
            own = sample.judged()
            rows, cols = np.nonzero(own.labelled.numpy())
            values = own.labels.numpy()[rows, cols]
            pixels = np.stack([np.full(len(rows), number), rows // self.scale, cols // self.scale], 1).astype(np.int32)
            for index in range(goal.outputs):
                places[index].append(pixels[values == index] if goal.classes else pixels)
        rng = np.random.default_rng(settings.seed)
        limited = [_at_most(np.concatenate(pixels), PLACES, rng) for pixels in places]
        self.places = [pixels for pixels in limited if len(pixels)]

    def draw(self, seed: tuple[int, ...], step: int) -> Batch:
        rng = np.random.default_rng((*seed, step))
        crops = []
        for _ in range(self.batch):
            places = self.places[rng.integers(len(self.places))]
            number, row, col = places[rng.integers(len(places))].tolist()
            sample = self.samples[number]
            top, left = (
                _random_start(place, length, self.size, rng, self.inset)
                for place, length in ((row, sample.window.height), (col, sample.window.width))
            )
            inputs, labels = cut(sample, top, left, self.size)
            turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
            crops.append((_turned(inputs, turns, mirror), _turned(labels, turns, mirror)))
        return _stacked(crops)


class WindowCrops:
    """Every window once an epoch, in random order, a random crop of each (paper, section 3.4)."""

    def __init__(self, samples: Sequence[Sample], goal: Goal, settings: FinetuneSettings) -> None:
        self.samples, self.size, self.batch = samples, settings.crop, settings.batch
        if settings.complete_windows:
            self.samples = [sample for sample in samples if _complete(sample)]
            if not self.samples:
                raise LabelError(
                    f"none of the {len(samples)} windows is labelled completely, as this task needs them: give another"
                    " `preset`, or labels without gaps"
                )
        self.steps_per_epoch = math.ceil(len(self.samples) / self.batch)
        self.steps = settings.steps if settings.epochs is None else settings.epochs * self.steps_per_epoch

    def draw(self, seed: tuple[int, ...], step: int) -> Batch:
        epoch, part = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((*seed, 0, epoch)).permutation(len(self.samples))
        rng = np.random.default_rng((*seed, 1, step))
        crops = []
        for number in order[part * self.batch : (part + 1) * self.batch]:
            sample = self.samples[number]
            top, left = (
                int(rng.integers(max(0, length - self.size) + 1))
                for length in (sample.window.height, sample.window.width)
            )
            crops.append(cut(sample, top, left, self.size))
        return _stacked(crops)


def cut(sample: Sample, top: int, left: int, size: int) -> Batch:
    """A crop of a sample; where the sample ends before the crop, it is padded with zeros that bear no label.

    Args:
        sample: to cut.
        top: first row of the crop, in pixels of the region from the corner of the window.
        left: first column of the crop, in the same way.
        size: pixels of the region along the side of the crop.
    """
    scale = sample.scale
    part = sample.inputs[:, top : top + size, left : left + size]
    labels = sample.labels[top * scale : (top + size) * scale, left * scale : (left + size) * scale]
    if part.shape[1:] == (size, size):
        return part.float(), labels
    inputs = torch.zeros(part.shape[0], size, size)
    inputs[:, : part.shape[1], : part.shape[2]] = part
    no_label = IGNORE if labels.dtype == torch.uint8 else math.nan
    filled = torch.full((size * scale, size * scale), no_label, dtype=labels.dtype)
    filled[: labels.shape[0], : labels.shape[1]] = labels
    return inputs, filled


def _complete(sample: Sample) -> bool:
    return int(sample.judged().labelled.sum()) == sample.own.pixels * sample.scale**2


def _crop_size(samples: Sequence[Sample], settings: FinetuneSettings) -> tuple[int, int]:
    """Pixels along the side of a crop, and the least distance of the label that it is cut around from its edges."""
    reach = head_halo(len(settings.widths), samples[0].scale)
    side = _label_side(samples)
    # Around a patch of labels a larger crop holds more of it or of the next; around a point nothing more.
    needed = side + 2 * reach if side == 1 else math.ceil((side + 2 * reach) / 8) * 8
    return (needed, reach) if needed < settings.crop else (settings.crop, 0)


def _label_side(samples: Sequence[Sample]) -> int:
    """Pixels of the region along the longer side of a patch of labels; nine in ten are no larger."""
    scale, sides = samples[0].scale, []
    for sample in samples:
        patches, _ = ndimage.label(sample.judged().labelled.numpy())
        sides += [max(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in ndimage.find_objects(patches)]
    return math.ceil(float(np.quantile(sides, 0.9)) / scale)


def _random_start(place: int, length: int, size: int, rng: np.random.Generator, inset: int) -> int:
    """The first of `size` pixels along an axis, drawn so that they hold `place`, `inset` pixels from their ends if possible."""
    size = min(size, length)
    inset = min(inset, (size - 1) // 2)
    before = inset + int(rng.integers(size - 2 * inset))
    return min(max(0, place - before), length - size)


def _at_most(places: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return places if len(places) <= most else places[rng.choice(len(places), most, replace=False)]


def _turned(values: Tensor, turns: int, mirror: bool) -> Tensor:
    """Quarter turns and a reflection of the last two axes."""
    turned = torch.rot90(values, turns, (-2, -1))
    return turned.flip(-1) if mirror else turned


def _stacked(crops: Sequence[Batch]) -> Batch:
    return torch.stack([inputs for inputs, _ in crops]), torch.stack([labels for _, labels in crops])
