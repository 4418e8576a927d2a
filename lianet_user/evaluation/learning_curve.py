"""The learning curve: how much more labels improve a head, as in the paper's study of label efficiency."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from lianet_user.errors import LabelError
from lianet_user.files.checkpoint import FinishedRuns, run_name
from lianet_user.files.header import AnyScores, Scores, scores_from_json
from lianet_user.finetuning.finetune import WINDOW_MARGIN, check_ground, goal_for, new_layers, train_alone
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, keep, make_samples, moments, standardized
from lianet_user.finetuning.settings import FinetuneSettings, settings_for
from lianet_user.finetuning.trainer import Step
from lianet_user.finetuning.validation import judge
from lianet_user.geo.grid import Window
from lianet_user.labels import SHARE, Labels, Split, split_labels
from lianet_user.region import Region

SHARES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
TRIES = 500


@dataclass(frozen=True)
class CurvePoint:
    """One training on a share of the blocks."""

    share: float
    repeat: int
    blocks: int
    """Blocks that were trained on."""
    pixels: int
    """Labelled pixels in them, all dates together."""
    lacking: tuple[str, ...]
    """Classes without a label in them."""
    scores: AnyScores
    """On ground that is the same for every share of a repeat."""
    seconds: float

    @property
    def figure(self) -> float | None:
        """Macro F1, or the mean absolute error."""
        return self.scores.macro_f1 if isinstance(self.scores, Scores) else self.scores.mae

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return {**dataclasses.asdict(self), "scores": self.scores.model_dump(mode="json")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What :meth:`as_json` made."""
        return cls(**values | {"lacking": tuple(values["lacking"]), "scores": scores_from_json(values["scores"])})


def learning_curve(
    region: Region,
    labels: Labels,
    *,
    shares: Sequence[float] = SHARES,
    repeats: int = 3,
    settings: Callable[[float], FinetuneSettings] | None = None,
    split: Callable[[int], Split] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    listener: Callable[[str, float, int], None] | None = None,
) -> list[CurvePoint]:
    """Train on growing shares of the training blocks, and judge each on the same ground, which none of them holds.

    A larger share holds the smaller ones of the same repeat.

    Args:
        region: opened from a file.
        labels: on its grid.
        shares: of the training blocks, 0 to 1.
        repeats: how often, each time with another split and other blocks.
        settings: gives those of a share, which all read the same; None takes what `finetune` does with so many labels.
        split: gives the split of a repeat; None draws it from the settings' share and the repeat.
        checkpoint: where to keep finished runs, and the one that is under way; whoever has used the points removes it
            (:func:`lianet_user.files.checkpoint.remove_checkpoints`).
        resume: go on from it: runs on the same blocks with the same settings are not repeated.
        listener: called with what goes on ("features", then "training"), how many blocks or runs are done, a part of a run
            included, and how many there are. What it raises ends the study after the checkpoint was written.

    Raises:
        ArtifactError: `resume` without a checkpoint of the same region and labels.
        LabelError: the labels lie on another grid, or cannot be split.
    """
    report = listener or (lambda *_: None)
    check_ground(region, labels)
    settings_of = settings or (lambda share: settings_for("auto", labels, region.header, share * (1 - SHARE)))
    reading = settings_of(max(shares))
    reading.check(labels)
    goal = goal_for(labels, reading, "", None)
    goal.loss(reading)  # refused before the features are computed if it does not suit the labels
    study = {"region": region.sha256, "labels": labels.digest(), "device": region.device.type}
    runs = FinishedRuns(checkpoint, study, resume)
    samples = make_samples(
        lambda window, date: region.head_input(window, date, reading.inputs),
        labels if reading.dated else labels.once(),
        margin=max(WINDOW_MARGIN, reading.crop // 2),
        tight=reading.sampling == "balanced",
        halo=region.field.config.decoder.halo,
        listener=lambda *done: report("features", *done),
    )
    if reading.standardize:
        samples = standardized(samples, *moments(samples))
    points: list[CurvePoint] = []
    total = repeats * len(shares)
    for repeat in range(repeats):
        kept = split(repeat) if split else split_labels(labels, share=reading.validation, seed=repeat)
        judged = keep(samples, kept.validated)
        order = _block_order(keep(samples, kept.trained), kept, goal, min(shares), repeat)
        for share in sorted(shares):
            started = time.monotonic()
            chosen = np.zeros(kept.validation.shape, bool)
            count = _count(share, len(order))
            chosen[tuple(np.transpose(order[:count]))] = True
            chosen_settings = settings_of(share)
            blocks = np.flatnonzero(chosen).tolist()
            run = run_name(share, repeat, kept.digest(), blocks, dataclasses.asdict(chosen_settings))
            if known := runs.get(run):
                points.append(CurvePoint.from_json(known))
                continue
            training = keep(samples, _ChosenBlocks(kept, chosen))
            layers = new_layers(region, labels, goal, chosen_settings)

            def tell(step: Step) -> None:
                report("training", len(points) + step.done / step.total, total)

            # Without looks: choosing a state on the ground that judges would favour small shares, which fluctuate more.
            train_alone(layers, training, region, goal, chosen_settings, tell, runs.training(run))
            pixels = _class_pixels(training, goal)
            points.append(
                CurvePoint(
                    share=share,
                    repeat=repeat,
                    blocks=count,
                    pixels=int(pixels.sum()),
                    lacking=tuple(entry.name for entry, n in zip(goal.classes, pixels, strict=False) if not n),
                    scores=judge(layers.together, judged, goal, device=region.device).scores(),
                    seconds=round(time.monotonic() - started, 1),
                )
            )
            runs.keep(run, points[-1].as_json())
            report("training", len(points), total)
    return points


@dataclass(frozen=True)
class _ChosenBlocks:
    """Training ground in chosen blocks: a mask for :func:`lianet_user.finetuning.samples.keep`."""

    split: Split
    chosen: np.ndarray

    def __call__(self, window: Window) -> np.ndarray:
        rows, cols = (np.arange(start, end) // self.split.block for start, end in _spans(window))
        return self.split.trained(window) & self.chosen[np.ix_(rows, cols)]


def _spans(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.row, window.row_end), (window.col, window.col_end)


def _count(share: float, blocks: int) -> int:
    return max(1, round(share * blocks))


def _block_order(
    training: Sequence[Sample], split: Split, goal: Goal, least: float, seed: int
) -> list[tuple[int, int]]:
    """Blocks with training labels in random order; of many orders one whose smallest share has all classes, if any has.

    Raises:
        LabelError: there are fewer than two blocks to train on.
    """
    borne: dict[tuple[int, int], set[int]] = {}
    for sample in training:
        own = sample.judged()
        rows, cols = np.nonzero(own.labelled.numpy())
        values = own.labels.numpy()[rows, cols] if goal.classes else np.zeros(len(rows))
        blocks = np.stack(
            [
                (rows // sample.scale + sample.window.row) // split.block,
                (cols // sample.scale + sample.window.col) // split.block,
                values,
            ],
            1,
        )
        for row, col, value in np.unique(blocks.astype(np.int64), axis=0).tolist():
            borne.setdefault((row, col), set()).add(value)
    if len(borne) < 2:
        raise LabelError(
            f"a learning curve needs two or more blocks to train on, and {len(borne)} is left: add labels elsewhere"
        )
    places, rng = sorted(borne), np.random.default_rng(seed)
    best: list[tuple[int, int]] = []
    most = -1
    for _ in range(TRIES):
        order = [places[number] for number in rng.permutation(len(places)).tolist()]
        count = len(set().union(*(borne[place] for place in order[: _count(least, len(order))])))
        if count > most:
            best, most = order, count
        if most == goal.outputs:
            break
    return best


def _class_pixels(samples: Sequence[Sample], goal: Goal) -> np.ndarray:
    if not goal.classes:
        return np.array([sum(int(sample.judged().labelled.sum()) for sample in samples)])
    counts = sum(np.bincount(sample.judged().labels.numpy().ravel(), minlength=256) for sample in samples)
    return np.asarray(counts)[: len(goal.classes)]
