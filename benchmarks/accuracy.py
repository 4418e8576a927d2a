"""Is a head that has never seen imagery as good as models that have? Land cover from few OpenStreetMap labels.

Every contender gets the same labels, the same training blocks (by default 20 % of those with labels, `SplitPlan`) and is
scored on all the others. Those of `lianet-user compare`, trained by the same code, and more that explain them:

- `lianet-*`: the head on other inputs, on inputs as they are, with layers of the paper's widths, or with one member of all
  steps, to see what each brings;
- `bands-alone`: the same six layers on the raw imagery without its neighbourhood statistics;
- `unet-context`: the U-Net with these statistics;
- `place`: the six layers on coordinates alone, which shows what knowing the place gives away.

Run it with

    python benchmarks/accuracy.py --imagery FOLDER --splits 10 --results accuracy.jsonl
    python benchmarks/accuracy.py --results accuracy.jsonl --summary

With `--points N` only so many labelled pixels of the training blocks teach, drawn at random, and three of every class at least.

Results are appended split by split, so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lianet_user.evaluation.baselines import (
    MICRO_UNET,
    UNET,
    Forest,
    ImageryBands,
    Learner,
    Networks,
    RegionHead,
    UNet,
    head_on,
)
from lianet_user.evaluation.compare import MARGIN, UNET_CROP, SplitPlan, common_ground
from lianet_user.field.config import PAPER_WIDTHS
from lianet_user.files.header import Scores
from lianet_user.finetuning import FinetuneSettings
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import ReadInputs, Sample, keep, make_samples
from lianet_user.finetuning.settings import settings_for
from lianet_user.geo.grid import Window
from lianet_user.imagery import ImageryOptions, open_imagery
from lianet_user.labels import LabelOptions, Labels, read_labels
from lianet_user.region import Region

ROOT = Path(__file__).resolve().parents[1]
LEAST_POINTS = 3
"""Of every class."""

Row = dict[str, Any]
"""One line of the results file."""


@dataclass(frozen=True)
class Contender:
    """What is read, what learns from it, and how networks are trained."""

    source: ReadInputs
    learner: Learner
    settings: FinetuneSettings


def place_source(height: int, width: int) -> ReadInputs:
    """Coordinates, plain and as sines of four octaves."""

    def source(window: Window, _: dt.date) -> Tensor:
        rows = torch.arange(window.row, window.row_end) / max(height, width)
        cols = torch.arange(window.col, window.col_end) / max(height, width)
        y, x = torch.meshgrid(rows, cols, indexing="ij")
        waves = [f(2**octave * torch.pi * v) for octave in range(4) for v in (x, y) for f in (torch.sin, torch.cos)]
        return torch.stack([x, y, *waves])

    return source


def contenders(
    region: Region, labels: Labels, bands: ImageryBands, settings: FinetuneSettings, device: str
) -> dict[str, Contender]:
    """By name."""
    plain = dataclasses.replace(settings, standardize=False)
    wide = dataclasses.replace(settings, crop=UNET_CROP)
    one = dataclasses.replace(settings, members=1, steps=settings.steps * settings.members)
    paper = dataclasses.replace(settings, widths=PAPER_WIDTHS)
    head = Networks(head_on(settings), device)
    unet = Networks(lambda channels, outputs: UNet(channels, outputs, UNET), device)
    micro = Networks(lambda channels, outputs: UNet(channels, outputs, MICRO_UNET), device)

    def remembered(*inputs: Any) -> ReadInputs:
        return lambda window, date: region.head_input(window, date, inputs)

    return {
        "lianet": Contender(remembered(*settings.inputs), RegionHead(region, labels), settings),
        "lianet-layers": Contender(remembered(*settings.inputs), head, settings),
        "lianet-features": Contender(remembered("features"), head, settings),
        "lianet-bands": Contender(remembered("bands"), head, settings),
        "lianet-context": Contender(remembered("bands", "context"), head, settings),
        "lianet-plain": Contender(remembered(*settings.inputs), head, plain),
        "lianet-one": Contender(remembered(*settings.inputs), head, one),
        "lianet-wide": Contender(remembered(*paper.inputs), Networks(head_on(paper), device), paper),
        "bands": Contender(bands.with_context, head, settings),
        "bands-alone": Contender(bands, head, settings),
        "forest": Contender(bands, Forest(), settings),
        "forest-context": Contender(bands.with_context, Forest(), settings),
        "unet": Contender(bands, unet, wide),
        "unet-context": Contender(bands.with_context, unet, wide),
        "micro-unet": Contender(bands, micro, wide),
        "place": Contender(place_source(*region.shape), head, settings),
    }


def points(samples: Sequence[Sample], goal: Goal, count: int, seed: int) -> list[Sample]:
    """The samples with so many labelled pixels at random, three of every class among them."""
    places, classes = [], []
    for number, sample in enumerate(samples):
        own = sample.judged()
        rows, cols = np.nonzero(own.labelled.numpy())
        places.append(np.stack([np.full(len(rows), number), rows, cols], 1))
        classes.append(own.labels.numpy()[rows, cols])
    every, values, rng = np.concatenate(places), np.concatenate(classes), np.random.default_rng(seed)
    least = [rng.choice(np.flatnonzero(values == index), LEAST_POINTS) for index in range(len(goal.classes))]
    chosen = every[np.concatenate([*least, rng.choice(len(every), count - LEAST_POINTS * len(goal.classes))])]

    def mask(number: int, sample: Sample) -> np.ndarray:
        found = np.zeros((sample.window.height, sample.window.width), bool)
        found[tuple(chosen[chosen[:, 0] == number, 1:].T)] = True
        return found

    kept = [sample.keeping(mask(number, sample)) for number, sample in enumerate(samples)]
    return [sample for sample in kept if sample.labelled.any()]


def run(arguments: argparse.Namespace) -> None:
    """Run the splits that the results file does not hold yet."""
    region = Region.open(arguments.region, arguments.device)
    labels = read_labels(arguments.labels, region.header, LabelOptions(field="class"))
    names = tuple(band.name for band in region.header.bands)
    scene = open_imagery([str(arguments.imagery)], ImageryOptions(bands=names))
    bands = ImageryBands(scene, region, labels.dates)
    ground = common_ground(labels, [bands.valid])
    trained = arguments.points / labels.report.labelled if arguments.points else arguments.share
    settings = settings_for("auto", labels, region.header, trained)
    goal = Goal.of(ground.labels, settings)
    asked = {"share": arguments.share, "points": arguments.points}
    done = {(row["contender"], row["split"]) for row in _rows(arguments.results, asked)}
    every = contenders(region, ground.labels, bands, settings, arguments.device)
    for name in arguments.contenders or every:
        wanted = [n for n in range(arguments.first, arguments.first + arguments.splits) if (name, n) not in done]
        samples: list[Sample] = make_samples(every[name].source, ground.labels, margin=MARGIN) if wanted else []
        for number in wanted:
            (split,) = SplitPlan(share_train=arguments.share, seed=number).splits(ground.labels)
            seeded = dataclasses.replace(every[name].settings, seed=number)
            started = time.monotonic()
            training, judged = keep(samples, split.trained), keep(samples, split.validated)
            if arguments.points:
                training = points(training, goal, arguments.points, number)
            scores = every[name].learner(training, judged, goal, seeded, lambda *_: None).scores
            assert isinstance(scores, Scores)
            row = {
                "contender": name,
                **asked,
                "split": number,
                "macro_f1": scores.macro_f1,
                "accuracy": scores.accuracy,
                "f1": {each.name: each.f1 for each in scores.classes},
                "seconds": round(time.monotonic() - started, 1),
                "confusion": scores.confusion,
            }
            with arguments.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"split {number} {name:18} macro-F1 {row['macro_f1']:.3f}  {row['seconds']} s", flush=True)


def summary(path: Path, share: float, points: int, reference: str = "lianet") -> None:
    """One row per contender: mean over its splits, pooled, and the paired ratio with its 95 % interval."""
    table: dict[str, dict[int, Row]] = {}
    for row in _rows(path, {"share": share, "points": points}):
        table.setdefault(row["contender"], {})[row["split"]] = row
    if reference not in table:
        return  # there is nothing to put beside it yet
    rng = np.random.default_rng(0)
    print(f"ratio: {reference} over the contender on the splits both ran, 95 % by bootstrap over these splits\n")
    print("| contender | splits | mean macro-F1 | deviation | pooled macro-F1 | ratio | 95 % | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    means = {name: np.mean([row["macro_f1"] for row in rows.values()]) for name, rows in table.items()}
    for name in sorted(table, key=lambda name: -means[name]):
        rows = table[name]
        own = np.array([row["macro_f1"] for row in rows.values()])
        pooled = np.sum([row["confusion"] for row in rows.values()], 0)
        f1 = (2 * np.diag(pooled) / (pooled.sum(0) + pooled.sum(1))).mean()
        shared = sorted(rows.keys() & table[reference].keys())
        ours, theirs = (np.array([table[each][split]["macro_f1"] for split in shared]) for each in (reference, name))
        draws = rng.integers(len(shared), size=(10_000, len(shared)))
        low, high = np.percentile(ours[draws].mean(1) / theirs[draws].mean(1), [2.5, 97.5])
        deviation = f"{own.std(ddof=1):.3f}" if len(own) > 1 else "-"
        seconds = np.median([row["seconds"] for row in rows.values()])
        print(
            f"| {name} | {len(own)} | {own.mean():.3f} | {deviation} | {f1:.3f} |"
            f" {ours.mean() / theirs.mean():.3f} | {low:.3f}-{high:.3f} | {seconds:.0f} |"
        )


def _rows(path: Path, asked: Row) -> list[Row]:
    rows = [{"points": 0} | json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if asked.items() <= row.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--region", type=Path, default=ROOT / "models/havelland.safetensors")
    parser.add_argument("--labels", type=Path, default=ROOT / "tutorials/data/havelland_landcover.gpkg")
    parser.add_argument("--imagery", type=Path, help="folder of the Sentinel-2 band files the region was encoded from")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.2, help="of the labelled blocks, to train on")
    parser.add_argument("--points", type=int, default=0, help="labelled pixels to train on; 0 takes all")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--contenders", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--summary", action="store_true", help="only print the table")
    given = parser.parse_args()
    if not given.summary:
        run(given)
    summary(given.results, given.share, given.points)
