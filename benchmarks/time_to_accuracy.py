"""How much sooner is a head as good as the published loop makes it? Minutes until the same score on the same ground.

The published loop (paper, section 3.4) computes the frozen trunk anew in every step, in float32: 32 windows of 160 px, a
random crop of 128 px of each, six layers with GroupNorm on the features alone, 50 epochs. Ours is `finetune` with its
defaults. Both get the same labels, split, machine and threads, and are judged on every label of the validation blocks.

To the published loop's advantage its looks at the validation ground are not counted in its time, and the norms of its trunk
are folded. Ours are counted, one every 20 steps, and so is all else from the call of `finetune` on.

    python benchmarks/time_to_accuracy.py --results time_to_accuracy.jsonl
    python benchmarks/time_to_accuracy.py --results time_to_accuracy.jsonl --summary

A line of JSON is appended for each contender; the published loop keeps every epoch, and goes on where it was stopped.
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
from lianet_user.grid import Window
from lianet_user.header import Scores
from lianet_user.labels import LabelOptions, Labels, Split, read_labels, split_labels
from lianet_user.region import Region
from lianet_user.training import FinetuneSettings, finetune
from lianet_user.training.finetune import WINDOW_MARGIN, FinetuneProgress
from lianet_user.training.goal import Goal
from lianet_user.training.loop import rate_at
from lianet_user.training.metrics import figure_of_merit
from lianet_user.training.samples import Sample, keep, make_samples
from lianet_user.training.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
LOOK_EPOCHS, LOOK_STEPS = 5, 20
"""Between looks at the validation ground: epochs of the published loop, steps of ours."""

PUBLISHED = dataclasses.replace(TASKS["land-cover"].settings, complete_windows=False)
"""Windows that polygons fill completely are rare: all are taken."""
EPOCHS, CLIP = PUBLISHED.epochs or 0, PUBLISHED.clip or 0.0

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
        self.loss = self.goal.loss(PUBLISHED, None)

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


def ours(region: Region, labels: Labels, split: Split, seed: int) -> Row:
    """Run `finetune` to its end; the curve is that of its first member."""
    clock, curve = Clock(), []
    settings = FinetuneSettings(seed=seed, validate_every=LOOK_STEPS)

    def listen(progress: FinetuneProgress) -> None:
        first = progress.stage == "training" and progress.done <= settings.steps
        if first and progress.figure is not None and progress.done % LOOK_STEPS == 0:
            clock.stop()
            curve.append((clock.cpu, clock.wall, progress.figure))
            clock.start()

    clock.start()
    scores = finetune(region, labels, settings=settings, split=split, listener=listen).head.header.scores
    clock.stop()
    assert isinstance(scores, Scores)
    return {"cpu_seconds": clock.cpu, "wall_seconds": clock.wall, "macro_f1": scores.macro_f1, "curve": curve}


def run(arguments: argparse.Namespace) -> None:
    """Run what the results file does not hold yet."""
    torch.set_num_threads(arguments.threads)
    region = Region.open(arguments.region)
    labels = read_labels(arguments.labels, region.header, LabelOptions(field="class"))
    done = {(row["contender"], row["split"]) for row in _rows(arguments.results)}
    for seed in arguments.splits:
        split = split_labels(labels, seed=seed)
        for name in ("finetune", "published"):
            if (name, seed) in done:
                continue
            kept = arguments.results.with_suffix(f".{seed}.pt")
            row = (
                ours(region, labels, split, seed)
                if name == "finetune"
                else published(region, labels, split, seed, kept)
            )
            with arguments.results.open("a") as file:
                file.write(json.dumps({"contender": name, "split": seed, "threads": arguments.threads} | row) + "\n")


def summary(path: Path) -> None:
    """One row per split: minutes of processor (of wall clock), and how many times less ours takes."""
    table: dict[int, dict[str, Row]] = {}
    for row in _rows(path):
        table.setdefault(row["split"], {})[row["contender"]] = row
    print("minutes of processor (of wall clock)\n")
    print(
        "| split | published: macro-F1 | minutes | finetune until then | times less | finetune to its end | macro-F1 |"
    )
    print("|---|---|---|---|---|---|---|")
    for seed, rows in sorted(table.items()):
        if len(rows) < 2:
            continue
        slow, fast = rows["published"], rows["finetune"]
        reached = next(((cpu, wall) for cpu, wall, figure in fast["curve"] if figure >= slow["macro_f1"]), None)
        until = f"{_minutes(*reached)}" if reached else "not reached"
        ratio = f"{slow['cpu_seconds'] / reached[0]:.0f} ({slow['wall_seconds'] / reached[1]:.0f})" if reached else "-"
        print(
            f"| {seed} | {slow['macro_f1']:.3f} | {_minutes(slow['cpu_seconds'], slow['wall_seconds'])} | {until} | {ratio}"
            f" | {_minutes(fast['cpu_seconds'], fast['wall_seconds'])} | {fast['macro_f1']:.3f} |"
        )


def _minutes(cpu: float, wall: float) -> str:
    return f"{cpu / 60:.2f} ({wall / 60:.2f})"


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--region", type=Path, default=ROOT / "models/havelland.safetensors")
    parser.add_argument("--labels", type=Path, default=ROOT / "tutorials/data/havelland_landcover.gpkg")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--splits", type=int, nargs="*", default=[0], help="seeds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summary", action="store_true", help="only print the table")
    given = parser.parse_args()
    if not given.summary:
        run(given)
    summary(given.results)
