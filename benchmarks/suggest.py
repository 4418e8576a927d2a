"""Does it help to label where a head is unsure? Places from `lianet-user suggest` against places at random, as many.

Land cover of the Havelland. The western two thirds hold labels to draw from, the eastern third is the test. A head is
trained on one small labelled block for each class; then it is trained anew with some more places, each a square whose
labels are those of the polygons there: places that the first head suggests, or places drawn at random from the same
squares. Several seeds; every head has as many steps and one member, and none is chosen by the test.

    python benchmarks/suggest.py --results suggest.jsonl
    python benchmarks/suggest.py --results suggest.jsonl --summary

A line of JSON is appended for each seed and contender. What came out is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lianet_user.errors import LabelWarning, TrainingWarning
from lianet_user.files.header import IGNORE, Scores
from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import Sample, make_samples
from lianet_user.finetuning.validation import judge
from lianet_user.geo.grid import Window, bounds_of, window_geobox
from lianet_user.head import Head
from lianet_user.labels import LabelMap, LabelOptions, Labels, read_labels, split_labels
from lianet_user.maps.suggest import SIZE, suggest
from lianet_user.region import Region

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT / "tutorials/data/havelland_landcover.gpkg"
REGION = ROOT / "models/havelland.safetensors"
WEST = 1024
"""Columns of the region that labels are drawn from; what is east of them is the test."""
BLOCK = 32
"""Pixels along the side of a block of the first labels."""
LEAST = 100
"""Pixels that its class has in it."""

Mask = NDArray[np.bool_]


def within(labels: Labels, ground: Mask) -> Labels:
    """The labels on some ground only."""
    only = labels.maps[0]
    return dataclasses.replace(
        labels, maps=(LabelMap(np.where(ground, only.values, IGNORE).astype(np.uint8), only.dates),)
    )


def first_ground(labels: Labels, rng: np.random.Generator) -> Mask:
    """A block for each class that has at least :data:`LEAST` pixels of it."""
    values = labels.maps[0].values
    ground = np.zeros(values.shape, bool)
    tiles = list(Window(0, 0, values.shape[0], WEST).tiles(BLOCK))
    for value in range(len(labels.classes)):
        holding = [tile for tile in tiles if (values[tile.slices] == value).sum() >= LEAST]
        ground[holding[rng.integers(len(holding))].slices] = True
    return ground


def trained(region: Region, labels: Labels, seed: int, steps: int) -> Head:
    """A head on all of the labels, nothing of which is kept."""
    settings = FinetuneSettings(members=1, steps=steps, seed=seed)
    split = split_labels(labels, seed=seed)
    split = dataclasses.replace(split, validation=np.zeros_like(split.validation))
    return finetune(region, labels, settings=settings, split=split).head


def suggested(region: Region, labels: Labels, first: Mask, head: Head, n: int) -> Mask:
    """Squares where the head is unsure, wholly labelled and not on the first ground."""
    box = bounds_of(window_geobox(region.geobox, Window(0, 0, region.shape[0], WEST)))
    assert region.geobox.crs is not None
    away = ~labels.maps[0].labelled | first
    found = suggest(head, n, bbox=box, bbox_crs=region.geobox.crs.to_wkt(), away=away)
    ground = np.zeros(region.shape, bool)
    for place in found.places:
        ground[place.window.slices] = True
    return ground


def random_ground(labels: Labels, first: Mask, n: int, rng: np.random.Generator) -> Mask:
    """As many squares of the same kind, wherever they fall."""
    free = labels.maps[0].labelled & ~first
    tiles = [tile for tile in Window(0, 0, free.shape[0], WEST).tiles(SIZE) if tile.pixels == SIZE**2]
    tiles = [tile for tile in tiles if free[tile.slices].all()]
    ground = np.zeros(free.shape, bool)
    for index in rng.choice(len(tiles), n, replace=False):
        ground[tiles[index].slices] = True
    return ground


def study(region: Region, labels: Labels, test: list[Sample], seed: int, n: int, steps: int) -> list[dict[str, Any]]:
    """One seed, all contenders."""
    rng = np.random.default_rng(seed)
    first = first_ground(labels, rng)
    head = trained(region, within(labels, first), seed, steps)
    rows = [row_of("first", head, labels, first, test, seed)]
    more: dict[str, Callable[[], Mask]] = {
        "random": lambda: random_ground(labels, first, n, rng),
        "suggest": lambda: suggested(region, labels, first, head, n),
    }
    for name, draw in more.items():
        started = time.monotonic()
        ground = draw()
        spent = time.monotonic() - started
        again = trained(region, within(labels, first | ground), seed, steps)
        added = np.bincount(labels.maps[0].values[ground], minlength=len(labels.classes)).tolist()
        rows.append(row_of(name, again, labels, first | ground, test, seed) | {"added": added, "seconds": round(spent)})
    return rows


def row_of(name: str, head: Head, labels: Labels, ground: Mask, test: list[Sample], seed: int) -> dict[str, Any]:
    scores = judge(head.layers, test, Goal(labels.classes, None)).scores()
    assert isinstance(scores, Scores)
    print(f"seed {seed} {name}: macro-F1 {scores.macro_f1:.3f}", flush=True)
    return {
        "seed": seed,
        "contender": name,
        "pixels": int((ground & labels.maps[0].labelled).sum()),
        "macro_f1": scores.macro_f1,
        "accuracy": scores.accuracy,
    }


def summarize(rows: list[dict[str, Any]]) -> None:
    print("| contender | seeds | labelled pixels | mean macro-F1 | of each seed | accuracy |")
    print("|---|---|---|---|---|---|")
    for name in ("first", "random", "suggest"):
        own = sorted((row for row in rows if row["contender"] == name), key=lambda row: row["seed"])
        scores = [row["macro_f1"] for row in own]
        each = ", ".join(f"{score:.3f}" for score in scores)
        pixels = np.mean([row["pixels"] for row in own])
        accuracy = np.mean([row["accuracy"] for row in own])
        print(f"| {name} | {len(own)} | {pixels:.0f} | {np.mean(scores):.3f} | {each} | {accuracy:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--places", type=int, default=30)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    path = arguments.results
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if arguments.summary:
        summarize(rows)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", TrainingWarning)  # of a split that is not used
    warnings.simplefilter("ignore", LabelWarning)
    region = Region.open(REGION)
    labels = read_labels(LABELS, region.header, LabelOptions(field="class"))
    east = np.zeros(region.shape, bool)
    east[:, WEST:] = True
    settings = FinetuneSettings()
    test = make_samples(
        lambda window, date: region.head_input(window, date, settings.inputs), within(labels, east), margin=6
    )
    done = {row["seed"] for row in rows}
    with path.open("a") as results:
        for seed in range(arguments.seeds):
            if seed not in done:
                for row in study(region, labels, test, seed, arguments.places, arguments.steps):
                    results.write(json.dumps(row) + "\n")
                    results.flush()


if __name__ == "__main__":
    main()
