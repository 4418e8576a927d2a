"""How good a head that never sees imagery is beside models that do: same labels, same ground, same splits."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lianet_user.errors import InputError, LabelError, did_you_mean, listed
from lianet_user.evaluation.baselines import (
    MICRO_UNET,
    UNET,
    BoolArray,
    Forest,
    ImageryBands,
    Learner,
    Networks,
    RasterFeatures,
    RegionHead,
    UNet,
    head_on,
)
from lianet_user.files.checkpoint import FinishedRuns, run_name
from lianet_user.files.header import IGNORE, AnyScores, scores_from_json
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import ReadInputs, Sample, keep, make_samples
from lianet_user.finetuning.settings import FinetuneSettings, settings_for
from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery
from lianet_user.imagery.features import FeatureRaster
from lianet_user.labels import BLOCK, LabelMap, Labels, Split, split_folds, split_labels
from lianet_user.region import Region

# --- The common ground: labels count where everything that any of the models reads is valid.

Valid = Callable[[Window, dt.date], BoolArray]
"""Gives where something is valid: bool (height, width) of a window at a date."""


@dataclass(frozen=True, eq=False)
class CommonGround:
    """Labels, and where they count at each date.

    Attributes:
        labels: as they were read, without those that count at none of their dates.
        labelled: pixels with a label as they were read, each counted at each of its dates.
        left_out: how many of them do not count.
        everywhere: every label that is left counts at all of its dates.
    """

    labels: Labels
    labelled: int
    left_out: int
    everywhere: bool
    _counting: dict[tuple[dt.date, int, int], BoolArray]
    """By date and by row and column of a block."""

    def mask(self, window: Window, date: dt.date) -> BoolArray:
        """Where labels count: bool (height, width) of a window; false where there are none."""
        result = np.zeros((window.height, window.width), bool)
        for row in range(window.row // BLOCK, -(-window.row_end // BLOCK)):
            for col in range(window.col // BLOCK, -(-window.col_end // BLOCK)):
                held = self._counting.get((date, row, col))
                if held is None:
                    continue
                block = Window(row * BLOCK, col * BLOCK, *held.shape)
                shared = block.intersection(window)
                assert shared is not None
                result[shared.within(window).slices] = held[shared.within(block).slices]
        return result


def common_ground(
    labels: Labels, readers: Sequence[Valid], listener: Callable[[int, int], None] | None = None
) -> CommonGround:
    """Find where labels count: where all readers are valid.

    Args:
        labels: on the region's own grid.
        readers: of all that is compared.
        listener: called with how many of how many labelled blocks are done, each at each of its dates.

    Raises:
        LabelError: no label is left, or none of a class.
    """
    jobs = [(each, block, date) for each in labels.maps for block in _labelled_blocks(each) for date in each.dates]
    counting: dict[tuple[dt.date, int, int], BoolArray] = {}
    some_date = {id(each): np.zeros(each.values.shape, bool) for each in labels.maps}
    total = counted = 0
    for done, (each, block, date) in enumerate(jobs, 1):
        key = date, block.row // BLOCK, block.col // BLOCK
        if key not in counting:
            counting[key] = np.logical_and.reduce(
                [np.ones((block.height, block.width), bool), *(valid(block, date) for valid in readers)]
            )
        labelled = _part(each, block).labelled
        some_date[id(each)][block.slices] |= counting[key]
        total += int(labelled.sum())
        counted += int((labelled & counting[key]).sum())
        if listener:
            listener(done, len(jobs))
    maps = tuple(LabelMap(_without(each, ~some_date[id(each)]), each.dates) for each in labels.maps)
    left = dataclasses.replace(labels, maps=maps)
    _require_all(labels, left)
    everywhere = counted == sum(int(each.labelled.sum()) * len(each.dates) for each in maps)
    return CommonGround(left, total, total - counted, everywhere, counting)


def _labelled_blocks(each: LabelMap) -> list[Window]:
    height, width = each.values.shape
    blocks = Window(0, 0, height, width).tiles(BLOCK)
    return [block for block in blocks if _part(each, block).labelled.any()]


def _part(each: LabelMap, block: Window) -> LabelMap:
    return LabelMap(each.values[block.slices], each.dates)


def _without(each: LabelMap, where: BoolArray) -> np.ndarray:
    no_label = IGNORE if each.values.dtype == np.uint8 else math.nan
    return np.where(where, np.asarray(no_label, each.values.dtype), each.values)


def _require_all(before: Labels, after: Labels) -> None:
    """Refuse labels of which the common ground leaves none, or none of a class.

    Raises:
        LabelError: see `common_ground`.
    """
    advice = "give imagery or features that cover them, or other dates"
    if not any(each.labelled.any() for each in after.maps):
        raise LabelError(
            f"{before.report.source}: no label lies where the imagery and the features are valid (clouds, nodata): {advice}"
        )
    lost = [
        repr(entry.name)
        for value, entry in enumerate(before.classes)
        if not any((each.values == value).any() for each in after.maps)
    ]
    if lost:
        raise LabelError(
            f"{before.report.source}: all labels of {listed(lost)} lie where the imagery or the features are not valid"
            f" (clouds, nodata): {advice}, or drop the class with `mapping`"
        )


# --- The result: figures under every split, and the table that sums them up.

LIANET: Final = "lianet"
"""The contender that all others are compared with."""


@dataclass(frozen=True)
class Figure:
    """A column of the table."""

    name: str
    title: str
    higher_is_better: bool


CLASS_FIGURES: Final = (
    Figure("macro_f1", "macro F1", True),
    Figure("accuracy", "accuracy", True),
    Figure("macro_iou", "macro IoU", True),
)
NUMBER_FIGURES: Final = (Figure("mae", "MAE", False), Figure("rmse", "RMSE", False), Figure("r2", "R2", True))


@dataclass(frozen=True)
class Outcome:
    """One contender under one split."""

    contender: str
    split: int
    seconds: float
    """Of training and of answering where it was judged, without computing what is read."""
    scores: AnyScores

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it: all."""
        return {**dataclasses.asdict(self), "scores": self.scores.model_dump(mode="json")}


@dataclass(frozen=True)
class Row:
    """A row of the table: a contender's figures over all splits."""

    contender: str
    reads: str
    means: dict[str, float | None]
    """Means over the splits, by the name of the figure."""
    deviations: dict[str, float | None]
    """Standard deviations over the splits; None where there is one split."""
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """The results of all contenders.

    Attributes:
        figures: columns, the one that decides first.
        reads: of every contender, in the order of the table: what it needs.
        outcomes: of every contender and split.
        labelled: labelled pixels that were read, each counted at each of its dates.
        left_out: those of them that no contender learned from or was judged by, because imagery or features are not valid.
    """

    figures: tuple[Figure, ...]
    reads: dict[str, str]
    outcomes: tuple[Outcome, ...]
    labelled: int
    left_out: int

    def rows(self) -> tuple[Row, ...]:
        """The rows of the table, one for each contender."""
        rows = []
        for name, reads in self.reads.items():
            own = [outcome for outcome in self.outcomes if outcome.contender == name]
            values_of = {figure.name: self._values(own, figure) for figure in self.figures}
            rows.append(
                Row(
                    name,
                    reads,
                    {figure: float(np.mean(values)) if values else None for figure, values in values_of.items()},
                    {f: float(np.std(values, ddof=1)) if len(values) > 1 else None for f, values in values_of.items()},
                    float(np.mean([outcome.seconds for outcome in own])),
                )
            )
        return tuple(rows)

    def best(self, figure: Figure) -> float | None:
        """The best mean in a column."""
        known = [mean for row in self.rows() if (mean := row.means[figure.name]) is not None]
        return (max if figure.higher_is_better else min)(known, default=None)

    def sentence(self) -> str:
        """The result in one sentence."""
        first = self.figures[0]
        sign = 1 if first.higher_is_better else -1
        known = {row.contender: mean for row in self.rows() if (mean := row.means[first.name]) is not None}
        ranked = sorted(known, key=lambda name: -sign * known[name])
        others = [name for name in ranked if not name.startswith(LIANET)]
        ours = [name for name in ranked if name.startswith(LIANET)]
        if not known:
            return "Nothing could be judged."
        if not ours or not others:
            return f"Best by {first.title}: {ranked[0]}, {known[ranked[0]]:.3f}."
        one, other = ours[0], others[0]
        ahead, splits = self._ahead(one, other, first)
        ratio = f", {known[one] / known[other]:.2f} times that" if known[other] > 0 else ", beside that"
        return (
            f"{one}, which needs no imagery, has a mean {first.title} of {known[one]:.3f}{ratio} of the best of the others"
            f" ({other}, {known[other]:.3f}); it is ahead in {ahead} of {splits} splits."
        )

    def as_dict(self) -> dict[str, Any]:
        """What JSON output holds."""
        return {
            "labelled": self.labelled,
            "left_out": self.left_out,
            "table": [dataclasses.asdict(row) for row in self.rows()],
            "splits": [each.as_json() for each in self.outcomes],
            "sentence": self.sentence(),
        }

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """One line for each contender: means, deviations, seconds."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = [text for f in self.figures for text in (f.name, f"{f.name}_deviation")]
            writer.writerow(["contender", "reads", *columns, "seconds"])
            for row in self.rows():
                values = [v for f in self.figures for v in (row.means[f.name], row.deviations[f.name])]
                writer.writerow([row.contender, row.reads, *values, row.seconds])

    def _values(self, outcomes: Sequence[Outcome], figure: Figure) -> list[float]:
        values = [getattr(outcome.scores, figure.name) for outcome in outcomes]
        return [value for value in values if value is not None]

    def _ahead(self, one: str, other: str, figure: Figure) -> tuple[int, int]:
        """The number of splits where one contender is better than another, of how many that have both."""
        by_split: dict[int, dict[str, float]] = {}
        for outcome in self.outcomes:
            if (value := getattr(outcome.scores, figure.name)) is not None:
                by_split.setdefault(outcome.split, {})[outcome.contender] = value
        pairs = [(each[one], each[other]) for each in by_split.values() if one in each and other in each]
        return sum((a > b) if figure.higher_is_better else (a < b) for a, b in pairs), len(pairs)


# --- The run: contenders are trained and judged, split by split.

MARGIN = 32
"""Pixels around the labels that every contender reads."""

UNET_CROP = 64
"""Pixels along the side of the crops that U-Nets are trained on: they read more surroundings than a head."""

BUILT_IN: Final = {
    LIANET: "the head that finetune trains, on the region file",
    "bands": "the same layers on the imagery, with means and deviations of three neighbourhoods",
    "unet": "the paper's U-Net, 17.3 M parameters, on the imagery",
    "micro-unet": "the paper's Micro U-Net, 0.49 M parameters, on the imagery",
    "forest": "a random forest on the imagery, pixel by pixel",
    "forest-context": "a random forest on the imagery and means and deviations of three neighbourhoods",
    "forest-dates": "a random forest on the imagery of all dates at once",
}
"""What can be compared, besides feature rasters."""

OF_MEAN: Final = " (mean of dates)"
"""Ends the name of a contender whose answers are averaged over the dates before they are judged."""

Listener = Callable[[str, float, float], None]
"""Called with what is being done, and how much of how much of it is done."""


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How often, and on which ground, contenders are judged.

    Raises:
        InputError: a number is out of its range.
    """

    folds: int = 5
    """Parts of the labelled blocks, each judged once by contenders trained on the others; has no effect with `share_train`."""
    share_train: float | None = None
    """Share of the labelled blocks that is trained on; the rest is judged. None takes folds."""
    repeats: int = 1
    """How often the folds or the draws are repeated, each time with other blocks."""
    seed: int = 0
    buffer: int | None = None
    block: int | None = None
    test: NDArray[np.bool_] | None = None
    """As in :func:`lianet_user.labels.split_labels`; what is set aside for a test takes no part."""

    def __post_init__(self) -> None:
        if self.share_train is not None and not 0 < self.share_train < 1:
            raise InputError(f"`share_train` {self.share_train:g}: expected more than 0 and less than 1")
        if self.repeats < 1:
            raise InputError(f"`repeats` {self.repeats}: expected 1 or more")

    @property
    def trained(self) -> float:
        """Share of the labelled blocks that a contender is trained on."""
        return 1 - 1 / self.folds if self.share_train is None else self.share_train

    def splits(self, labels: Labels) -> tuple[Split, ...]:
        """Split labels as planned.

        Raises:
            LabelError: the labels cannot be split as planned.
        """
        words: dict[str, Any] = {"buffer": self.buffer, "block": self.block, "test": self.test}
        seeds = range(self.seed, self.seed + self.repeats)
        if self.share_train is None:
            return tuple(split for seed in seeds for split in split_folds(labels, self.folds, seed=seed, **words))
        return tuple(split_labels(labels, share=1 - self.share_train, seed=seed, **words) for seed in seeds)


@dataclass(frozen=True)
class _Contender:
    name: str
    reads: str
    learner: Learner
    settings: FinetuneSettings


def compare(
    region: Region,
    labels: Labels,
    *,
    imagery: Imagery | None = None,
    features: Sequence[str | os.PathLike[str]] = (),
    contenders: Sequence[str] | None = None,
    plan: SplitPlan | None = None,
    settings: FinetuneSettings | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    listener: Listener | None = None,
) -> Comparison:
    """Train and judge every contender on the same ground.

    Labels count where everything that any contender reads is valid, for all of them alike. On the judged ground nothing is
    chosen: networks are trained to their last step.

    Args:
        region: opened.
        labels: on the region's own grid, classes or numbers.
        imagery: on the region's grid, of every date that the labels describe.
        features: rasters of features, each read by the layers of `lianet`.
        contenders: of :data:`BUILT_IN`; None takes all that can read what is given. Every feature raster takes part.
        plan: which ground is judged.
        settings: of all networks; U-Nets take larger crops. None takes what `finetune` would.
        device: to train networks on.
        checkpoint: where to keep finished trainings, and the one that is under way; whoever has used the comparison removes
            it (:func:`lianet_user.files.checkpoint.remove_checkpoints`).
        resume: go on from it: trainings on the same ground with the same settings are not repeated.
        listener: called with the progress. What it raises ends the comparison after the checkpoint was written.

    Raises:
        ArtifactError: `resume` without a checkpoint of the same region, labels and imagery.
        InputError: unknown contenders, ones that lack what they read, nothing to compare, or a forest without scikit-learn.
        ImageryError: imagery on another grid or without a date, or a raster that does not cover the labels.
        LabelError: labels on a finer grid, none that count, or labels that cannot be split.
        TrainingError: a loss stopped being finite.
    """
    if labels.scale != 1:
        raise LabelError("models are compared on the region's own grid: omit `scale`")
    plan = plan or SplitPlan()
    settings = settings or settings_for("auto", labels, region.header, plan.trained)
    settings.check(labels)
    report = listener or (lambda *_: None)
    rasters = _rasters(features, region, labels)
    names = _chosen(contenders, labels, imagery is not None, bool(rasters))
    bands = None
    if imagery is not None and set(names) - {LIANET}:
        bands = ImageryBands(imagery, region, labels.dates, lambda *done: report("statistics", *done))
    readers = [reader.valid for reader in (bands, *rasters.values()) if reader is not None]
    ground = common_ground(labels, readers, lambda *done: report("valid", *done))
    splits = plan.splits(ground.labels)
    goal = Goal.of(ground.labels, settings)
    teams = _teams(names, region, bands, rasters, settings, ground, device)
    study = {
        "region": region.sha256,
        "labels": ground.labels.digest(),
        "imagery": [imagery.source, *(str(each.date) for each in imagery.acquisitions)] if imagery else None,
        "features": {name: list(_stamp(path)) for name, path in zip(rasters, map(Path, features), strict=True)},
        "device": device,
    }
    runs = FinishedRuns(checkpoint, study, resume)
    outcomes: list[Outcome] = []
    reads: dict[str, str] = {}
    for read, team, one_date in teams:
        samples = make_samples(
            read,
            ground.labels.once() if one_date else ground.labels,
            margin=MARGIN,
            tight=settings.sampling == "balanced",
            listener=lambda *done: report("reading", *done),
        )
        if not one_date:
            samples = [sample.keeping(ground.mask(sample.window, sample.date)) for sample in samples]
        for contender in team:
            for outcome in _judged(contender, samples, splits, goal, ground, runs, report):
                outcomes.append(outcome)
                reads[outcome.contender] = contender.reads
    order = sorted(reads, key=lambda name: _place(name, names))
    return Comparison(
        figures=CLASS_FIGURES if goal.classes else NUMBER_FIGURES,
        reads={name: reads[name] for name in order},
        outcomes=tuple(outcomes),
        labelled=ground.labelled,
        left_out=ground.left_out,
    )


def _judged(
    contender: _Contender,
    samples: Sequence[Sample],
    splits: Sequence[Split],
    goal: Goal,
    ground: CommonGround,
    runs: FinishedRuns,
    report: Listener,
) -> Iterator[Outcome]:
    for number, split in enumerate(splits):
        training, judged = keep(samples, split.trained), keep(samples, split.validated)
        if not training or not judged:
            raise LabelError(f"split {number + 1} has no label that counts to {'judge' if training else 'train'} by")
        seeded = dataclasses.replace(contender.settings, seed=contender.settings.seed + number)
        run = run_name(contender.name, number, split.digest(), dataclasses.asdict(seeded))
        if known := runs.get(run):
            yield from (Outcome(**each | {"scores": scores_from_json(each["scores"])}) for each in known)
            continue
        started = time.monotonic()

        def tell(done: float, total: float, number: int = number) -> None:
            report(contender.name, number + done / total, len(splits))

        result = contender.learner(training, judged, goal, seeded, tell, runs.training(run))
        seconds = time.monotonic() - started
        outcomes = [Outcome(contender.name, number, seconds, result.scores)]
        if result.of_mean is not None and ground.everywhere:
            outcomes.append(Outcome(contender.name + OF_MEAN, number, seconds, result.of_mean))
        runs.keep(run, [each.as_json() for each in outcomes])
        yield from outcomes


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written again: its size, and when that was, in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


_Team = tuple[ReadInputs, list[_Contender], bool]
"""What is read of a window at a date, the contenders that read it, and whether they read all dates at once."""


def _teams(
    names: Sequence[str],
    region: Region,
    bands: ImageryBands | None,
    rasters: dict[str, RasterFeatures],
    settings: FinetuneSettings,
    ground: CommonGround,
    device: str,
) -> list[_Team]:
    head = Networks(head_on(settings), device)
    wide = dataclasses.replace(settings, crop=max(settings.crop, UNET_CROP))
    teams: list[_Team] = []

    def team(read: ReadInputs, reads: str, members: dict[str, Learner], one_date: bool = False) -> None:
        chosen = [
            _Contender(name, reads, learner, wide if name.endswith("unet") else settings)
            for name, learner in members.items()
            if name in names
        ]
        if chosen:
            teams.append((read, chosen, one_date))

    def head_input(window: Window, date: dt.date) -> Tensor:
        return region.head_input(window, date, settings.inputs)

    def references(sample: Sample) -> list[Tensor]:
        own, dates = sample.judged(), ground.labels.maps[sample.map].dates
        return [own.keeping(ground.mask(sample.window, date)).labels for date in dates]

    team(head_input, "region file", {LIANET: RegionHead(region, ground.labels)}, one_date=not settings.dated)
    if bands is not None:
        forests = {name: Forest() for name in ("forest", "forest-context") if name in names}
        unets = {
            "unet": Networks(lambda channels, outputs: UNet(channels, outputs, UNET), device),
            "micro-unet": Networks(lambda channels, outputs: UNet(channels, outputs, MICRO_UNET), device),
        }
        team(bands, "imagery", unets | {k: v for k, v in forests.items() if k == "forest"})
        team(bands.with_context, "imagery", {"bands": head} | {k: v for k, v in forests.items() if k != "forest"})
        if "forest-dates" in names:
            team(bands.of_all_dates, "imagery", {"forest-dates": Forest(references)}, one_date=True)
    for name, raster in rasters.items():
        teams.append((raster, [_Contender(name, "features", head, settings)], False))
    return teams


def _rasters(paths: Sequence[str | os.PathLike[str]], region: Region, labels: Labels) -> dict[str, RasterFeatures]:
    """The feature rasters, by the names of their files.

    Raises:
        InputError: two have the same name.
        ImageryError: one cannot be read or does not cover the labels.
    """
    labelled = np.logical_or.reduce([each.labelled for each in labels.maps])
    rasters: dict[str, RasterFeatures] = {}
    for path in map(Path, paths):
        if path.name in rasters:
            raise InputError(
                f"two feature rasters are called {path.name}: rename one, it is what the table calls them by"
            )
        raster = FeatureRaster(path, region.geobox)
        raster.require_cover(labelled)
        rasters[path.name] = RasterFeatures(raster)
    return rasters


def _chosen(asked: Sequence[str] | None, labels: Labels, imagery: bool, features: bool) -> list[str]:
    """The built-in contenders that were asked for, or all that can read what is given.

    Raises:
        InputError: see `compare`.
    """
    possible = list(BUILT_IN) if imagery else [LIANET]
    if imagery and not labels.lasting:
        possible.remove("forest-dates")
    for name in asked or ():
        if name not in BUILT_IN:
            raise InputError(
                f"`contenders`: there is no {name!r}: choose from {', '.join(BUILT_IN)}{did_you_mean(name, BUILT_IN)}"
            )
        if name not in possible:
            lacking = "labels that hold at all of several dates" if imagery else "imagery: give it with `imagery`"
            raise InputError(f"`contenders` {name} needs {lacking}")
    chosen = [name for name in BUILT_IN if name in asked] if asked else possible
    if len(chosen) + features < 2:
        raise InputError(
            f"there is nothing to compare {listed(chosen)} with: give `imagery`, `features`, or more `contenders`"
        )
    return chosen


def _place(name: str, names: Sequence[str]) -> tuple[float, str]:
    """A contender's place in the table: as listed, with feature rasters last."""
    base = name.removesuffix(OF_MEAN)
    return (names.index(base) if base in names else math.inf), name
