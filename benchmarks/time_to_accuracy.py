"""How much sooner is a head as good as the published loop makes it? Minutes until the same score on the same ground.

The published loop (paper, section 3.4) computes the frozen trunk anew in every step, in float32: 32 windows of 160 px, a
random crop of 128 px of each, six layers with GroupNorm on the features alone, 50 epochs. Ours is `finetune` with its
defaults. Both get the same labels, split, machine and threads, and are judged on every label of the validation blocks.

To the published loop's advantage its looks at the validation ground are not counted in its time, and the norms of its trunk
are folded. Ours are counted, and so is all else from the call of `finetune` to its end; its score is that of the finished
head. How much it depends on the seed of the head is seen by training several on the same split.

    python benchmarks/time_to_accuracy.py --results time_to_accuracy.jsonl
    python benchmarks/time_to_accuracy.py --results time_to_accuracy.jsonl --summary

A line of JSON is appended for each contender; the published loop keeps every epoch, and goes on where it was stopped.
Where it has run before, one epoch of it is timed again beside ours, because the speed of a shared machine changes: 50 of
these are what the times are compared with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lianet_user.field.head import HeadLayers
from lianet_user.files.header import Scores
from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.finetuning.finetune import WINDOW_MARGIN, FinetuneProgress
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.metrics import figure_of_merit
from lianet_user.finetuning.samples import Sample, keep, make_samples
from lianet_user.finetuning.settings import CLASSES, TASKS, settings_for
from lianet_user.finetuning.trainer import rate_at
from lianet_user.geo.grid import Window
from lianet_user.labels import LabelOptions, Labels, Split, read_labels, split_labels
from lianet_user.region import Region

ROOT = Path(__file__).resolve().parents[1]
LOOK_EPOCHS = 5
"""Between looks of the published loop at the validation ground."""

PUBLISHED = dataclasses.replace(TASKS["land-cover"].settings, complete_windows=False)
"""Windows that polygons fill completely are rare: all are taken."""
EPOCHS, CLIP = PUBLISHED.epochs or 0, PUBLISHED.clip or 0.0

TRAININGS = {"finetune-some": CLASSES, "finetune-paper-widths": FinetuneSettings()}
"""What `finetune` would train from fewer labels, and what it trained before that depended on their number."""

Row = dict[str, Any]
"""One line of the results file. `curve` holds seconds of processor and of wall clock, and the macro F1 reached by then."""


@dataclass
class Clock:
    """Seconds of one contender, of the processor and of the wall, which only run between `start` and `stop`."""

    cpu: float = 0.0
    wall: float = 0.0
    _since: tuple[float, float] = field(default=(0.0, 0.0))

    def start(self) -> None:
        self._since = time.process_time(), time.monotonic()

    def stop(self) -> None:
        self.cpu += time.process_time() - self._since[0]
        self.wall += time.monotonic() - self._since[1]


class PublishedLoop:
    """Head, optimizer, and the trunk in every step."""

    def __init__(self, region: Region, labels: Labels, split: Split, seed: int) -> None:
        self.region, self.seed = region, seed
        self.goal = Goal.of(labels, PUBLISHED)
        # Nothing is kept of the windows but their labels.
        samples = make_samples(lambda window, _: torch.empty(0, window.height, window.width), labels,
                               margin=WINDOW_MARGIN, tight=False)  # fmt: skip
        self.training, self.validation = keep(samples, split.trained), keep(samples, split.validated)
        self.time = region.header.time_of(labels.dates[0])
        torch.manual_seed(seed)
        channels = region.channels(PUBLISHED.inputs)
        self.head = HeadLayers(channels, PUBLISHED.widths, self.goal.outputs, "group")
        self.optimizer = torch.optim.AdamW(self.head.parameters(), PUBLISHED.rate, weight_decay=PUBLISHED.weight_decay)
        self.loss = self.goal.loss(PUBLISHED)

    def trunk(self, windows: Sequence[Window]) -> Tensor:
        """Features of windows, each by itself: float32 (B, channels, height, width)."""
        corners = [(window.row, window.col) for window in windows]
        times = torch.full((len(windows),), self.time)
        with torch.no_grad():
            return self.region.field.features(corners, windows[0].height, windows[0].width, times).contiguous()

    def epoch(self, number: int) -> None:
        """Every training window once, in random order; all that is drawn follows from the seed and the epoch."""
        self.head.train()
        rng = np.random.default_rng((self.seed, number))
        order = rng.permutation(len(self.training))
        parts = [order[at : at + PUBLISHED.batch] for at in range(0, len(order), PUBLISHED.batch)]
        for index, part in enumerate(parts):
            step = number * len(parts) + index
            rate, _ = rate_at(PUBLISHED, step, EPOCHS * len(parts), len(parts))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            crops = [self._crop(self.training[which], rng) for which in part]
            target = torch.stack([labels for _, labels in crops]).long()
            loss = self.loss(self.head(self.trunk([window for window, _ in crops])), target)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.head.parameters(), CLIP)
            self.optimizer.step()

    def _crop(self, sample: Sample, rng: np.random.Generator) -> tuple[Window, Tensor]:
        """A random crop, on the decoder's stride like every window of a field."""
        stride, window = self.region.field.config.decoder.stride, sample.window
        row, col = (
            int(rng.integers((length - PUBLISHED.crop) // stride + 1)) * stride
            for length in (window.height, window.width)
        )
        crop = Window(row, col, PUBLISHED.crop, PUBLISHED.crop)
        return crop.shifted(window.row, window.col), sample.labels[crop.slices]

    @torch.no_grad()
    def score(self) -> float:
        """Macro F1 on the validation blocks, each by itself."""
        self.head.eval()
        meter = self.goal.meter()
        for sample in self.validation:
            answer = self.head(self.trunk([sample.own]))[0]
            meter.update(sample.labels[sample.own.within(sample.window).slices], answer.argmax(0))
        return figure_of_merit(meter.compute())


def published(region: Region, labels: Labels, split: Split, seed: int, kept: Path) -> Row:
    """Train the published loop to its end.

    Args:
        region: opened.
        labels: at one date.
        split: of the labels.
        seed: of the head and the draws.
        kept: where the training is kept from epoch to epoch.
    """
    clock = Clock()
    clock.start()
    loop = PublishedLoop(region, labels, split, seed)
    clock.stop()
    first, curve = 0, []
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        loop.head.load_state_dict(state["head"])
        loop.optimizer.load_state_dict(state["optimizer"])
        first, curve, (clock.cpu, clock.wall) = state["epochs"], state["curve"], state["clock"]
    for number in range(first, EPOCHS):
        clock.start()
        loop.epoch(number)
        clock.stop()
        done = number + 1
        if done % LOOK_EPOCHS == 0 or done == EPOCHS:
            curve.append((clock.cpu, clock.wall, loop.score()))
            print(f"published: epoch {done}, {clock.cpu:.0f} s of CPU, macro-F1 {curve[-1][2]:.3f}", flush=True)
        state = {"head": loop.head.state_dict(), "optimizer": loop.optimizer.state_dict(), "epochs": done}
        state |= {"curve": curve, "clock": (clock.cpu, clock.wall)}
        partial = kept.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(kept)
    kept.unlink()
    return {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall, "macro_f1": curve[-1][2], "curve": curve}


def one_epoch(region: Region, labels: Labels, split: Split, seed: int) -> Row:
    """Seconds of the published loop's first epoch."""
    loop, clock = PublishedLoop(region, labels, split, seed), Clock()
    clock.start()
    loop.epoch(0)
    clock.stop()
    return {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}


def ours(region: Region, labels: Labels, split: Split, settings: FinetuneSettings) -> Row:
    """Run `finetune` to its end; the curve holds the looks at its members, and last the finished head."""
    clock, curve = Clock(), list[tuple[float, float, float | None]]()

    def listen(progress: FinetuneProgress) -> None:
        looked = progress.stage == "training" and progress.done % settings.validate_every == 0
        if looked and progress.figure is not None:
            clock.stop()
            curve.append((clock.cpu, clock.wall, progress.figure))
            clock.start()

    clock.start()
    scores = finetune(region, labels, settings=settings, split=split, listener=listen).head.header.scores
    clock.stop()
    assert isinstance(scores, Scores)
    curve.append((clock.cpu, clock.wall, scores.macro_f1))
    f1 = {each.name: each.f1 for each in scores.classes}
    seconds = {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall}
    return seconds | {"macro_f1": scores.macro_f1, "f1": f1, "curve": curve}


def run(arguments: argparse.Namespace) -> None:
    """Run what the results file does not hold yet."""
    torch.set_num_threads(arguments.threads)
    region = Region.open(arguments.region)
    labels = read_labels(arguments.labels, region.header, LabelOptions(field="class"))
    done = {(row["contender"], row["split"], row["seed"]) for row in _rows(arguments.results)}

    def add(name: str, number: int, seed: int, row: Row) -> None:
        words = {"contender": name, "split": number, "seed": seed, "threads": arguments.threads, "note": arguments.note}
        with arguments.results.open("a") as file:
            file.write(json.dumps(words | row) + "\n")

    for number in arguments.splits:
        split = split_labels(labels, seed=number)
        for name in arguments.trainings:
            settings = TRAININGS.get(name) or settings_for("auto", labels, region.header)
            for seed in arguments.seeds:
                if (name, number, seed) not in done:
                    add(name, number, seed, ours(region, labels, split, dataclasses.replace(settings, seed=seed)))
        if ("published", number, number) not in done:
            kept = arguments.results.with_suffix(f".{number}.pt")
            add("published", number, number, published(region, labels, split, number, kept))
        elif ("epoch", number, number) not in done:
            add("epoch", number, number, one_epoch(region, labels, split, number))


def summary(path: Path) -> None:
    """One row per head of ours: its score beside the published loop's, and how many times less time it took."""
    rows = _rows(path)
    print("minutes of processor\n")
    print("| split | published: macro-F1 | minutes | finetune: seed | macro-F1 | reached | minutes | times less |")
    print("|---|---|---|---|---|---|---|---|")
    for slow in (row for row in rows if row["contender"] == "published"):
        here = [row for row in rows if row["split"] == slow["split"]]
        again = [EPOCHS * row["cpu_seconds"] for row in here if row["contender"] == "epoch"]
        seconds = again[-1] if again else slow["cpu_seconds"]
        for fast in (row for row in here if row["contender"].startswith("finetune")):
            reached = "yes" if fast["macro_f1"] >= slow["macro_f1"] else "no"
            own, seed = fast["cpu_seconds"], f"{fast['seed']} {fast['note'] or fast['contender']}"
            print(
                f"| {slow['split']} | {slow['macro_f1']:.3f} | {seconds / 60:.1f} | {seed} | {fast['macro_f1']:.3f} |"
                f" {reached} | {own / 60:.2f} | {seconds / own:.1f} |"
            )


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--region", type=Path, default=ROOT / "models/havelland.safetensors")
    parser.add_argument("--labels", type=Path, default=ROOT / "tutorials/data/havelland_landcover.gpkg")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--splits", type=int, nargs="*", default=[0], help="seeds of the splits")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of our heads, on each split")
    parser.add_argument(
        "--trainings", nargs="*", default=["finetune"], choices=["finetune", *TRAININGS], help="of ours"
    )
    parser.add_argument("--note", default="", help="kept with the results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summary", action="store_true", help="only print the table")
    given = parser.parse_args()
    if not given.summary:
        run(given)
    summary(given.results)
