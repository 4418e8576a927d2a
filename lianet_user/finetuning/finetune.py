"""Fine-tuning: a head's pixel models are solved, and its six layers, new or an earlier head's, trained (paper, section 3.4)."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lianet_user.errors import (
    InputError,
    LabelError,
    RegionMismatchError,
    TrainingError,
    TrainingWarning,
    brief,
    listed,
    printable,
)
from lianet_user.field.config import HEAD_INPUTS, HeadConfig, PixelModelsConfig
from lianet_user.field.head import HeadEnsemble
from lianet_user.files.artifact import software_versions
from lianet_user.files.checkpoint import Checkpoint, Fingerprint, load_checkpoint, round_path
from lianet_user.files.header import IGNORE, AnyScores, HeadHeader, Provenance, RegionRef
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.pixel_models import LANDMARKS, SMOOTHING, fit_pixel_models, weigh
from lianet_user.finetuning.priors import stored_prior
from lianet_user.finetuning.samples import (
    CACHE_GB,
    FeatureCache,
    GroundMask,
    Sample,
    keep,
    make_samples,
    moments,
    standardized,
)
from lianet_user.finetuning.settings import SOLVED, FinetuneSettings, settings_for
from lianet_user.finetuning.trainer import History, NotFiniteError, Step, fit
from lianet_user.finetuning.validation import Judgement, judge
from lianet_user.geo.grid import Window, finer
from lianet_user.head import Head
from lianet_user.labels import LabelMap, Labels, Split, split_labels
from lianet_user.labels.effort import (
    JUDGING_SECONDS,
    SOLVING_SECONDS,
    TRAINING_SECONDS,
    field_seconds,
    layer_products,
    readings,
)
from lianet_user.region import Region

# --- What a head begins as: new layers, or those of an earlier head.


def new_layers(region: Region, labels: Labels, goal: Goal, settings: FinetuneSettings) -> HeadEnsemble:
    """New layers, with random weights that follow from the settings' seed; pixel models are attached once they are solved."""
    # Labels may be finer than what pixel models read, and the paper's heads have none.
    without = labels.scale != 1 or (settings.pixel_share is None and (settings.norm == "group" or settings.leaky))
    share = 0.0 if without else settings.pixel_share
    config = HeadConfig(
        inputs=settings.inputs,
        in_channels=region.channels(settings.inputs),
        widths=settings.widths,
        outputs=goal.outputs,
        norm=settings.norm,
        members=0 if share == 1 else settings.members,
        pixel_models=None if share == 0 else PixelModelsConfig(sets=(1,), linear=1, landmarks=1, smoothing=SMOOTHING),
        pixel_share=0.5 if share is None else share,
        scale=labels.scale,  # type: ignore[arg-type]  # 1 or 4, as labels are read
        output=goal.output,
        patch=settings.crop,
    )
    torch.manual_seed(settings.seed)
    return HeadEnsemble(config).to(region.device)


def solve(
    layers: HeadEnsemble, training: Sequence[Sample], region: Region, goal: Goal, settings: FinetuneSettings
) -> None:
    """Give layers that have pixel models those that the training samples, standardised, ask for."""
    if layers.config.pixel_models:
        parts = {part: region.channels((part,)) for part in HEAD_INPUTS if part in layers.config.inputs}
        layers.attach(fit_pixel_models(training, parts, goal, settings))


HELD_OUT = 5
"""Of so many windows with labels, one stands for the validation ground where there is none."""


def train_alone(
    layers: HeadEnsemble,
    training: Sequence[Sample],
    region: Region,
    goal: Goal,
    settings: FinetuneSettings,
    listener: Callable[[Step], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train new layers and their pixel models on samples, standardised, without any validation ground.

    What :func:`finetune` chooses on that ground is chosen here on a part of the samples.
    """
    weighed = settings.pixel_share is None and layers.pixel_models is not None
    held = training[::HELD_OUT] if weighed and len(training) >= HELD_OUT else []
    taught = [sample for sample in training if all(sample is not each for each in held)]
    solve(layers, taught, region, goal, settings)
    if layers.members:
        fit(list(layers.members), taught, (), goal, settings, listener=listener, checkpoint=checkpoint)
    layers.eval()
    if weighed:
        share, sharpness = weigh(layers, held, goal)
        layers.weigh(share, sharpness)
        solve(layers, training, region, goal, settings)
        if share == 1:
            layers.drop_members()


def layers_of(start: Head, region: Region, labels: Labels, settings: FinetuneSettings) -> HeadEnsemble:
    """A copy of a head's layers to train, once it is certain that they fit; `start` is not changed.

    Raises:
        InputError: the settings ask for other layers.
        RegionMismatchError: the head is of another region, or what it reads has another number of channels.
    """
    start.check_lineage(region)
    config, name = start.header.head, start.path or "the head"
    if not config.members:
        raise InputError(
            f"{name} has no layers to train on, because it was solved from its labels at once: omit `start`, and solve a new"
            " one from the old labels and the new together"
        )
    if (channels := region.channels(config.inputs)) != config.in_channels:
        raise RegionMismatchError(
            f"{name} reads {config.in_channels} channels and {region.path} now gives {channels}, because its bands or"
            " dates have changed: train a new head without `start`"
        )
    for what, own in (
        ("inputs", config.inputs),
        ("widths", config.widths),
        ("members", config.members),
        ("pixel_share", config.pixel_share),
    ):
        asked = getattr(settings, what)
        if asked != own and not (what == "pixel_share" and asked is None and config.pixel_models):
            raise InputError(
                f"`{what}` {asked}: {name} has {own}, and a head that is trained on keeps its layers: omit it, or train a"
                " new head without `start`"
            )
    layers = copy.deepcopy(start.layers).to(region.device).requires_grad_(True)
    layers.config = config.model_copy(update={"patch": settings.crop})
    return layers


def labels_for(head: Head, labels: Labels) -> Labels:
    """The labels with a head's classes, in its order and with its colours; classes are identified by their names.

    Raises:
        LabelError: the labels have a class that the head lacks, are of another task, or lie on a grid of another scale.
    """
    source, name = labels.report.source, head.path or "the head"
    task, scale = head.header.task, head.scale
    if (labels.task, labels.scale) != (task, scale):
        raise LabelError(
            f"{source}: the labels are read as {labels.task} at scale {labels.scale}, and {name} is a head for {task} at"
            f" scale {scale}: give `task` {task} and `scale` {scale}, or labels of that kind"
        )
    classes = head.header.classes
    if labels.classes == classes:
        return labels
    values = {entry.name: value for value, entry in enumerate(classes)}
    if new := [entry.name for entry in labels.classes if entry.name not in values]:
        raise LabelError(
            f"{source}: the labels have {listed(list(map(repr, new)))}, which {name} lacks (its classes are"
            f" {listed(list(values))}): merge it into one of these with `mapping`, or train a new head on these"
        )
    renumbered = np.full(256, IGNORE, np.uint8)
    renumbered[: len(labels.classes)] = [values[entry.name] for entry in labels.classes]
    maps = tuple(LabelMap(renumbered[each.values], each.dates) for each in labels.maps)
    return dataclasses.replace(labels, classes=classes, maps=maps)


def missing_classes(labels: Labels) -> list[int]:
    """The values of classes that no label bears; a warning names them."""
    if not labels.classes:
        return []
    borne = np.unique(np.concatenate([np.unique(each.values) for each in labels.maps]))
    missing = [value for value in range(len(labels.classes)) if value not in borne]
    if missing:
        names = listed([labels.classes[value].name for value in missing])
        warnings.warn(
            TrainingWarning(
                f"the labels have no {names}: the head keeps what it has learned of them, as far as training on the other"
                " classes leaves it, and they are not validated"
            ),
            stacklevel=3,
        )
    return missing


# --- The run: from labels to a head.

WINDOW_MARGIN = 16
"""Pixels around a block in a window of the paper's size: 160 px in all."""


@dataclass(frozen=True)
class FinetuneProgress:
    """How far fine-tuning is: `done` of `total` blocks ("features") or steps of a round ("training"), or nothing yet of a stage
    that has begun ("solving", "judging").

    Where an earlier head is trained on, one event ("start") after the features brings its `scores`.
    """

    stage: str
    done: int
    total: int
    stages: tuple[tuple[str, float], ...] = ()
    """All stages, one after the other, each with the seconds that :mod:`lianet_user.labels.effort` expects."""
    at: int = 0
    """The number of this stage among them."""
    loss: float | None = None
    figure: float | None = None
    """Of the last look at the validation ground: macro F1, or the mean absolute error."""
    scores: AnyScores | None = None
    """Of the earlier head, before any training, on the validation blocks of the new labels and the region as it is now."""


@dataclass(frozen=True)
class Finetuned:
    """A trained head, the labels with its classes, the ground that was kept, and how the training went."""

    head: Head
    labels: Labels
    split: Split
    history: tuple[History, ...]


class UnfinishedError(TrainingError):
    """Training could not go on.

    Attributes:
        last_good: the best head until then by the validation ground; None where there was none.
    """

    def __init__(self, message: str, last_good: Finetuned | None) -> None:
        super().__init__(message)
        self.last_good = last_good


Listener = Callable[[FinetuneProgress], None]


def finetune(
    region: Region,
    labels: Labels,
    *,
    settings: FinetuneSettings | None = None,
    start: Head | None = None,
    split: Split | None = None,
    folds: Sequence[Split] = (),
    unit: str = "",
    checkpoint: Path | None = None,
    resume: bool = False,
    cache_gb: float = CACHE_GB,
    listener: Listener | None = None,
) -> Finetuned:
    """Train a head on labels.

    The field is frozen, so what the head reads is computed once for every window that holds labels; the epochs then cost
    only the head.

    Args:
        region: opened from a file: the head is tied to the file's hash.
        labels: on the region's grid or four times as fine, each at the dates it describes.
        settings: how to train; None takes the defaults for such labels, with `start` those of
            :meth:`lianet_user.finetuning.settings.FinetuneSettings.continuing`.
        start: an earlier head to train on, from its weights (:meth:`lianet_user.head.Head.open_on`): its region may have
            been updated since, or the labels may be others. The new head has its layers and its classes.
        split: which ground trains and which judges; None draws it from the settings' share and seed.
        folds: of a cross-validation (:func:`lianet_user.labels.split_folds`), instead of `split`: for each of them a head is
            trained, and the figures are these heads' on what they have not seen. The head that is returned has trained on
            all labels outside the test area.
        unit: of numbers.
        checkpoint: where to keep the run (:func:`lianet_user.files.checkpoint.head_checkpoint_path`); whoever saves the
            head removes it (:func:`lianet_user.files.checkpoint.remove_checkpoints`).
        resume: go on from it.
        cache_gb: 10^9 bytes of features in memory; what is beyond them lies in a file, beside the checkpoint if there is one.
        listener: called with the progress. What it raises ends the run after the checkpoint was written.

    Raises:
        ArtifactError: `resume` without a checkpoint of this very run.
        InputError: the settings do not suit the labels, or ask for other layers than those of `start`.
        LabelError: the labels lie on another grid, have a class that `start` lacks, or cannot be split.
        OutputError: there is no room for features beyond `cache_gb`.
        RegionMismatchError: `start` is a head of another region.
        UnfinishedError: the loss stopped being finite.

    Warns:
        TrainingWarning: the labels lack a class of `start`, or the split cannot be what was asked.
    """
    report = listener or (lambda progress: None)
    check_ground(region, labels)
    untaught: list[int] = []
    if start:
        labels = labels_for(start, labels)
        untaught = missing_classes(labels)
    if settings is None:
        settings = FinetuneSettings.continuing(start.header) if start else settings_for("auto", labels, region.header)
    settings.check(labels)
    goal = goal_for(labels, settings, unit, start)
    run = _Finetuning(region, labels, settings, goal, start, report, untaught, checkpoint, resume, cache_gb)
    split = split or (folds[0] if folds else split_labels(labels, share=settings.validation, seed=settings.seed))
    if settings.refit:
        folds = folds or (split,)
    if folds:
        split = dataclasses.replace(split, validation=np.zeros_like(split.validation))
    return run.go(split, folds)


def instant(
    region: Region,
    labels: Labels,
    *,
    split: Split | None = None,
    folds: Sequence[Split] = (),
    unit: str = "",
    cache_gb: float = CACHE_GB,
    listener: Listener | None = None,
    **settings: Any,
) -> Head:
    """Solve a head without layers, in seconds: :func:`finetune` with the pixel models alone.

    Args:
        region: as in `finetune`, like all that is not named here.
        labels: on the region's grid.
        settings: fields of :class:`FinetuneSettings` that differ from those for such labels: `prior`, `inputs`, `validation`,
            `seed`.

    Raises:
        InputError: a setting does not suit the labels.
        LabelError: the labels lie on another grid, or cannot be split.
    """
    chosen = dataclasses.replace(settings_for("auto", labels, region.header), **settings | {"pixel_share": 1.0})
    return finetune(
        region, labels, settings=chosen, split=split, folds=folds, unit=unit, cache_gb=cache_gb, listener=listener
    ).head


def check_ground(region: Region, labels: Labels) -> None:
    """Refuse labels that do not belong to a region, and a region without a file.

    Raises:
        TrainingError: the region has no file that a head could be tied to.
        LabelError: the labels lie on another grid than the region, or describe other dates.
    """
    if region.path is None or region.sha256 is None:
        raise TrainingError("a head can only be trained on a region opened from a file: save the region first")
    if labels.geobox != finer(region.geobox, labels.scale) or not set(labels.dates) <= set(region.header.dates):
        raise LabelError("the labels lie on another grid than the region: read them with region.header")


def goal_for(labels: Labels, settings: FinetuneSettings, unit: str, start: Head | None) -> Goal:
    """The goal of a training; a head that is trained on keeps the scaling of its numbers."""
    if start and start.header.numbers is not None:
        return Goal((), start.header.numbers, start.header.head.output == "number")
    return Goal.of(labels, settings, unit)


@dataclass
class _Finetuning:
    """What the rounds of one fine-tuning share: there is one round, or with folds one for each of them and a last for all."""

    region: Region
    labels: Labels
    settings: FinetuneSettings
    goal: Goal
    start: Head | None
    report: Listener
    untaught: Sequence[int]
    checkpoint: Path | None
    resume: bool
    cache_gb: float
    moments: tuple[Tensor, Tensor] | None = None
    """Mean and standard deviation of what is read, where it is standardised."""
    started: float = field(default_factory=time.monotonic)
    stages: tuple[tuple[str, float], ...] = ()
    at: int = 0

    def go(self, split: Split, parts: Sequence[Split]) -> Finetuned:
        layers = self._layers()
        self._refuse(parts[0] if parts else split)
        self.stages = self._expected(layers, [*parts, split])
        samples = self._samples(layers)
        if self.start:
            known = [sample for part in parts or (split,) for sample in self._judged(layers, samples, part.validated)]
            before = judge(layers.eval(), known, self.goal, device=self.region.device).scores()
            self.report(FinetuneProgress("start", 1, 1, self.stages, self.at, scores=before))
        if self.settings.standardize:
            # A head that is trained on keeps its standardisation, unless what its region gives has changed.
            same = self.start and self.start.header.region.sha256 == self.region.sha256
            self.moments = (layers.mean.cpu(), layers.std.cpu()) if same else moments(samples)
            samples = standardized(samples, *self.moments, in_place=True)
            layers = self._layers()
        if not keep(samples, split.trained):
            raise LabelError(
                "all labelled ground is kept for validation or set aside for a test, which leaves none to train on: give a"
                " lower `validation`, or set less aside"
            )
        judgement = Judgement(self.goal)
        weights: list[tuple[float, float]] = []
        for number, part in enumerate(parts):
            fold = self._layers()
            self._solve(fold, samples, part)
            self._fit(fold, samples, part, number, judgement)
            self._begin("judging")
            weights.append(self._weigh(fold, samples, part))
            self._judge(fold, samples, part, part.validated, judgement)
        self._solve(layers, samples, split)
        if weights and np.mean(weights, 0)[0] == 1:
            layers.drop_members()
        history = self._fit(layers, samples, split, len(parts), judgement)
        self._begin("judging")
        if weights and layers.members:
            share, sharpness = np.mean(weights, 0).tolist()
            layers.weigh(share, sharpness)
        elif not weights:
            self._weigh(layers, samples, split)
        self._judge(layers, samples, split, split.validated, judgement)
        return self._finished(layers, samples, split, judgement, history, folds=len(parts))

    def _expected(self, layers: HeadEnsemble, splits: Sequence[Split]) -> tuple[tuple[str, float], ...]:
        """The stages, with the seconds that each is expected to take (:mod:`lianet_user.labels.effort`)."""
        config, settings, labels = layers.config, self.settings, self._labels
        plan = readings(labels, **self._cut(layers))
        crops = settings.steps * settings.batch * settings.crop**2
        if settings.epochs:
            crops = settings.epochs * sum(window.pixels for each in plan for window, _ in each.samples)
        products = config.members * layer_products((config.in_channels, *config.widths, config.outputs))
        answered = products + (LANDMARKS * config.in_channels if config.pixel_models else 0)
        dates = len(self.region.header.dates) if "series" in config.inputs else 1
        stages = [("features", dates * field_seconds(plan, self.region.header.field))]
        for split in splits:
            kept = float(split.validation.mean()) * sum(own.pixels for each in plan for _, own in each.samples)
            stages.append(("solving", SOLVING_SECONDS if config.pixel_models else 0.0))
            if config.members:
                stages.append(("training", TRAINING_SECONDS * crops * products / 1e12))
            stages.append(("judging", JUDGING_SECONDS * kept * answered / 1e12))
        return tuple(stages)

    def _begin(self, stage: str) -> None:
        """Go on to the next stage of a kind. Training speaks for itself, as it may go on from where it stopped."""
        self.at = next(number for number, (kind, _) in enumerate(self.stages) if number > self.at and kind == stage)
        if stage != "training":
            self._tell(0, 1)

    def _tell(self, done: int, total: int, **more: Any) -> None:
        self.report(FinetuneProgress(self.stages[self.at][0], done, total, self.stages, self.at, **more))

    def _refuse(self, first: Split) -> None:
        """Refuse invalid settings before the features are computed, which takes minutes on a large region.

        Raises:
            ArtifactError: the checkpoint to go on from is missing, or of another run.
            InputError: the loss does not suit such labels.
        """
        self.goal.loss(self.settings, self.untaught)
        if self.checkpoint and self.resume:
            load_checkpoint(self.checkpoint, self._fingerprint(first))

    def _judge(
        self, layers: HeadEnsemble, samples: Sequence[Sample], split: Split, where: GroundMask, judgement: Judgement
    ) -> None:
        """Judge layers that were trained as a split says, on some of the ground that it keeps."""
        if judged := self._judged(layers, samples, where):
            judge(layers.together, judged, self.goal, judgement, self.region.device)
            own = (sample.judged() for sample in keep(samples, split.trained) if not self.goal.classes)
            trained = [sample.labels[sample.labelled].numpy() for sample in own]
            judgement.locate(judged, float(np.median(np.concatenate(trained))) if trained else math.nan)

    def _judged(self, layers: HeadEnsemble, samples: Sequence[Sample], where: GroundMask) -> list[Sample]:
        """The samples to judge by, no larger than the answers at their labels depend on."""
        kept = keep(samples, where)
        if layers.config.norm == "group":  # its statistics run over the whole window
            return kept
        return [sample.trimmed(layers.halo) for sample in kept]

    def _layers(self) -> HeadEnsemble:
        if self.start:
            layers = layers_of(self.start, self.region, self.labels, self.settings)
        else:
            layers = new_layers(self.region, self.labels, self.goal, self.settings)
        if self.moments:
            layers.mean.copy_(self.moments[0])
            layers.std.copy_(self.moments[1])
        return layers

    def _samples(self, layers: HeadEnsemble) -> list[Sample]:
        return make_samples(
            self._inputs,
            self._labels,
            cache=FeatureCache(self.cache_gb, self.checkpoint.parent if self.checkpoint else None),
            listener=self._tell,
            **self._cut(layers),
        )

    @property
    def _labels(self) -> Labels:
        """The labels at the dates at which something is read."""
        return self.labels if self.settings.dated else self.labels.once()

    def _cut(self, layers: HeadEnsemble) -> dict[str, Any]:
        """How windows are cut around the labels: arguments of :func:`lianet_user.labels.effort.readings`."""
        windows = self.settings.sampling == "windows"
        return {
            "margin": max(WINDOW_MARGIN if windows else self.settings.crop // 2, layers.halo),
            "tight": not windows,
            "halo": self.region.field.config.decoder.halo,
        }

    def _solve(self, layers: HeadEnsemble, samples: Sequence[Sample], split: Split) -> None:
        """Solve the pixel models of layers from what is trained on. Those of an earlier head stay where the labels lack a
        class of it."""
        self._begin("solving")
        if not self.untaught:
            solve(layers, keep(samples, split.trained), self.region, self.goal, self.settings)

    def _weigh(self, layers: HeadEnsemble, samples: Sequence[Sample], split: Split) -> tuple[float, float]:
        """Choose the shares of layers and pixel models on the validation ground, where the settings leave that open."""
        if self.settings.pixel_share is not None or not layers.members or layers.pixel_models is None:
            return layers.config.pixel_share, 1.0
        weights = weigh(layers, self._judged(layers, samples, split.validated), self.goal)
        layers.weigh(*weights)
        return weights

    def _inputs(self, window: Window, date: dt.date) -> Tensor:
        return self.region.head_input(window, date, self.settings.inputs)

    def _fit(
        self,
        layers: HeadEnsemble,
        samples: Sequence[Sample],
        split: Split,
        number: int,
        judgement: Judgement,
    ) -> tuple[History, ...]:
        """Train layers in one of several rounds; a loss that is not finite leaves the head that was best until then."""

        def tell(step: Step) -> None:
            self._tell(step.done, step.total, loss=step.loss, figure=step.figure)

        if not layers.members:
            layers.eval()
            return ()
        self._begin("training")
        checkpoint = None
        if self.checkpoint:
            path = round_path(self.checkpoint, number)
            # Rounds of a cross-validation that were not reached have no checkpoint yet.
            resume = self.resume and (number == 0 or path.exists())
            checkpoint = Checkpoint(path, self._fingerprint(split), resume)
        try:
            history = fit(
                list(layers.members),
                keep(samples, split.trained),
                self._judged(layers, samples, split.validated),
                self.goal,
                self.settings,
                listener=tell,
                checkpoint=checkpoint,
                untaught=self.untaught,
            )
        except NotFiniteError as error:
            last_good = None
            if error.usable:
                kept = _first_members(layers, error.usable)
                self._judge(kept, samples, split, split.validated, judgement)
                last_good = self._finished(kept, samples, split, judgement, ())
            raise UnfinishedError(str(error), last_good) from error
        layers.eval()
        return history

    def _fingerprint(self, split: Split) -> Fingerprint:
        return {
            "region": self.region.sha256,
            "labels": self.labels.digest(),
            "split": split.digest(),
            "from": self.start.sha256 if self.start else None,
            "device": self.region.device.type,
            **{
                name: value if not isinstance(value, tuple) else list(value)
                for name, value in dataclasses.asdict(self.settings).items()
            },
        }

    def _finished(
        self,
        layers: HeadEnsemble,
        samples: Sequence[Sample],
        split: Split,
        judgement: Judgement,
        history: tuple[History, ...],
        folds: int = 0,
    ) -> Finetuned:
        region, labels = self.region, self.labels
        assert region.sha256 is not None
        tested = Judgement(self.goal)
        self._judge(layers, samples, split, split.tested, tested)
        settings = {
            name: value if not isinstance(value, tuple) else " ".join(map(str, value))
            for name, value in dataclasses.asdict(self.settings).items()
        }
        settings["prior"] = stored_prior(self.settings.prior, labels.classes)
        if not layers.members:
            settings = {name: settings[name] for name in SOLVED}
        settings |= {"block": split.block, "buffer": split.buffer, "folds": folds if folds > 1 else None}
        if self.start:
            settings |= {"from_sha256": self.start.sha256}
        header = HeadHeader(
            task=labels.task,
            classes=labels.classes,
            numbers=self.goal.numbers,
            head=layers.config,
            region=RegionRef(
                name=region.header.name,
                lineage=region.header.lineage,
                sha256=region.sha256,
                path=printable(str(region.path)),
            ),
            dates=labels.dates,
            scores=judgement.scores() if judgement.by_date else None,
            scores_by_date=judgement.dated_scores(),
            scores_of_mean=judgement.of_mean.compute() if judgement.of_mean else None,
            test_scores=tested.scores() if tested.by_date else None,
            provenance=Provenance(
                created=dt.datetime.now(dt.UTC).replace(microsecond=0),
                source=printable(labels.report.source),
                settings=settings,
                software=software_versions("torch"),
                seconds=round(time.monotonic() - self.started, 1),
            ),
            attribution=brief(printable(_attribution(region, labels, self.start)), 20_000),
        )
        return Finetuned(Head(header, layers, region), labels, split, history)


def _first_members(layers: HeadEnsemble, count: int) -> HeadEnsemble:
    """An ensemble of some members of another, in evaluation mode."""
    kept = HeadEnsemble(layers.config.model_copy(update={"members": count})).to(layers.mean.device)
    names = kept.state_dict().keys()
    kept.load_state_dict({name: tensor for name, tensor in layers.state_dict().items() if name in names})
    return kept.eval()


def _attribution(region: Region, labels: Labels, start: Head | None) -> str:
    """The credits of the region and of all labels that went into the weights, each once."""
    credits = (region.header.attribution, labels.attribution, start.header.attribution if start else "")
    return "; ".join(dict.fromkeys("; ".join(filter(None, credits)).split("; ")))
