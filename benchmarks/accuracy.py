"""Is a head that has never seen imagery as good as models that have? Land cover from few OpenStreetMap labels.

Every contender gets the same labels, the same training blocks (20 % of the 128-px blocks with labels, drawn at random) and
is scored on all the others. The contenders:

- `lianet`: what `lianet-user finetune` trains, on the region file alone;
- `lianet-*`: the same with other inputs, to see what each brings;
- `bands`: the same six layers on the raw imagery itself, which shows what the file's fidelity costs;
- `forest`, `forest-context`: a random forest on the raw bands, and on raw bands with local means and deviations;
- `unet`, `unet-context`: a U-Net (ResNet-18 encoder) on the same two inputs;
- `place`: the six layers on coordinates alone, which shows what knowing the place gives away.

Networks share sampling, augmentation, loss, optimiser and ensembling. Run it with

    python benchmarks/accuracy.py --imagery FOLDER --splits 10 --results accuracy.jsonl
    python benchmarks/accuracy.py --results accuracy.jsonl --summary

Results are appended split by split, so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn
from torch.nn import functional

from lianet_user.field.context import context
from lianet_user.field.head import PAPER_WIDTHS, HeadLayers
from lianet_user.field.torchvision_ops import import_torchvision
from lianet_user.grid import Window
from lianet_user.header import IGNORE
from lianet_user.labels import read_labels
from lianet_user.region import Region
from lianet_user.training.finetune import FinetuneSettings, train_member, validate
from lianet_user.training.imagery import read_sentinel2
from lianet_user.training.metrics import confusion_matrix, scores
from lianet_user.training.samples import Sample, Source, make_samples

import_torchvision()

import segmentation_models_pytorch as smp  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MARGIN = 32
TRAIN_SHARE = 0.2
LEAST_PIXELS = 100
FOREST_PIXELS = 30_000

Row = dict[str, Any]
"""One line of the results file."""

Contender = Callable[[list[Sample], list[Sample], int, int], np.ndarray]
"""(training, test, classes, seed) to a confusion matrix."""


def draw_split(samples: Sequence[Sample], classes: int, seed: int) -> np.ndarray:
    """Which samples train: bool (samples,). Drawn again until every class has pixels on both sides."""
    rng = np.random.default_rng(seed)
    counts = np.stack([np.bincount(s.labels.numpy().ravel(), minlength=256)[:classes] for s in samples])
    while True:
        train = np.zeros(len(samples), bool)
        train[rng.choice(len(samples), round(TRAIN_SHARE * len(samples)), replace=False)] = True
        if (counts[train].sum(0) >= LEAST_PIXELS).all() and (counts[~train].sum(0) >= LEAST_PIXELS).all():
            return train


class Padded(nn.Module):
    """A network that wants multiples of 32, on windows of any size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = functional.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
        out: Tensor = self.network(padded)[..., :height, :width]
        return out


class Ensemble(nn.Module):
    """Mean class probabilities of several networks."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0)


def network(make: Callable[[int, int], nn.Module], settings: FinetuneSettings) -> Contender:
    """A contender that is trained by the product's own loop."""

    def run(training: list[Sample], test: list[Sample], classes: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        seeded = dataclasses.replace(settings, seed=seed)
        members = [make(training[0].inputs.shape[0], classes) for _ in range(settings.members)]
        for number, member in enumerate(members):
            train_member(member, training, classes, seeded, number, lambda _: None)
        return validate(Ensemble(members).eval(), test, classes)

    return run


def forest(training: list[Sample], test: list[Sample], classes: int, seed: int) -> np.ndarray:
    """A random forest on at most FOREST_PIXELS pixels."""
    rng = np.random.default_rng(seed)
    values, reference = map(np.concatenate, zip(*map(_pixels, training), strict=True))
    chosen = rng.permutation(len(reference))[:FOREST_PIXELS]
    model = RandomForestClassifier(300, min_samples_leaf=2, n_jobs=2, random_state=seed)
    model.fit(values[chosen], reference[chosen])
    confusion = np.zeros((classes, classes), np.int64)
    for sample in test:
        values, reference = _pixels(sample)
        confusion += confusion_matrix(reference, model.predict(values), classes)
    return confusion


def _pixels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    labelled = sample.labels.numpy() != IGNORE
    return sample.inputs.numpy()[:, labelled].T.astype(np.float32), sample.labels.numpy()[labelled]


def raw_source(bands: Tensor, with_context: bool) -> Source:
    """Raw imagery in units of each band's deviation, with its neighbourhood statistics on request."""
    std, mean = torch.std_mean(bands.flatten(1), dim=1)
    image = (bands - mean[:, None, None]) / std[:, None, None]
    stack = torch.cat([image, context(image[None])[0]]) if with_context else image
    return lambda window: stack[(slice(None), *window.slices)]


def place_source(height: int, width: int) -> Source:
    """Coordinates, plain and as sines of four octaves."""

    def source(window: Window) -> Tensor:
        rows = torch.arange(window.row, window.row_end) / max(height, width)
        cols = torch.arange(window.col, window.col_end) / max(height, width)
        y, x = torch.meshgrid(rows, cols, indexing="ij")
        waves = [f(2**octave * torch.pi * v) for octave in range(4) for v in (x, y) for f in (torch.sin, torch.cos)]
        return torch.stack([x, y, *waves])

    return source


def contenders(region: Region, imagery: Path) -> dict[str, tuple[Source, Contender]]:
    """Every contender's inputs and how it is trained."""
    settings = FinetuneSettings()
    bands = torch.from_numpy(read_sentinel2([imagery]).reflectance)
    raw, raw_context = raw_source(bands, False), raw_source(bands, True)

    def six_layers(channels: int, classes: int) -> nn.Module:
        return HeadLayers(channels, PAPER_WIDTHS, classes, "batch")

    def unet(channels: int, classes: int) -> nn.Module:
        return Padded(smp.Unet("resnet18", encoder_weights=None, in_channels=channels, classes=classes))

    def remembered(*inputs: str) -> Source:
        return lambda window: region.head_input(window, None, inputs)  # type: ignore[arg-type]

    head = network(six_layers, settings)
    u_net = network(unet, dataclasses.replace(settings, crop=64, steps=300))
    height, width = region.shape
    return {
        "lianet": (remembered(*settings.inputs), head),
        "lianet-features": (remembered("features"), head),
        "lianet-bands": (remembered("bands"), head),
        "lianet-context": (remembered("bands", "context"), head),
        "bands": (raw, head),
        "bands-context": (raw_context, head),
        "forest": (raw, forest),
        "forest-context": (raw_context, forest),
        "unet": (raw, u_net),
        "unet-context": (raw_context, u_net),
        "place": (place_source(height, width), head),
    }


def run(arguments: argparse.Namespace) -> None:
    """Run the splits that the results file does not hold yet."""
    region = Region.open(arguments.region)
    labels = read_labels(arguments.labels, region.geobox, field="class")
    classes = len(labels.classes)
    done = {(row["contender"], row["split"]) for row in _rows(arguments.results)}
    every = contenders(region, arguments.imagery)
    sampled: dict[str, list[Sample]] = {}
    for split in range(arguments.first, arguments.first + arguments.splits):
        for name in arguments.contenders or every:
            if (name, split) in done:
                continue
            source, contender = every[name]
            if name not in sampled:
                sampled[name] = make_samples(source, labels, margin=MARGIN)
            samples = sampled[name]
            train = draw_split(samples, classes, split)
            started = time.monotonic()
            confusion = contender(
                [s for s, t in zip(samples, train, strict=True) if t],
                [s for s, t in zip(samples, train, strict=True) if not t],
                classes,
                split,
            )
            figures = scores(confusion, labels.classes)
            row = {
                "contender": name,
                "split": split,
                "macro_f1": figures.macro_f1,
                "accuracy": figures.accuracy,
                "f1": {c.name: c.f1 for c in figures.classes},
                "seconds": round(time.monotonic() - started, 1),
                "confusion": confusion.tolist(),
            }
            with arguments.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"split {split} {name:18} macro-F1 {row['macro_f1']:.3f}  {row['seconds']} s", flush=True)


def summary(path: Path, reference: str = "lianet") -> None:
    """One row per contender: mean over its splits, pooled, and the paired ratio with its 95 % interval."""
    table: dict[str, dict[int, Row]] = {}
    for row in _rows(path):
        table.setdefault(row["contender"], {})[row["split"]] = row
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
        seconds = np.median([row["seconds"] for row in rows.values()])
        print(
            f"| {name} | {len(own)} | {own.mean():.3f} | {own.std(ddof=1):.3f} | {f1:.3f} |"
            f" {ours.mean() / theirs.mean():.3f} | {low:.3f}-{high:.3f} | {seconds:.0f} |"
        )


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--region", type=Path, default=ROOT / "models/havelland.safetensors")
    parser.add_argument("--labels", type=Path, default=ROOT / "tutorials/data/havelland_landcover.gpkg")
    parser.add_argument("--imagery", type=Path, help="folder of the Sentinel-2 band files the region was encoded from")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--contenders", nargs="*")
    parser.add_argument("--summary", action="store_true", help="only print the table")
    given = parser.parse_args()
    if not given.summary:
        run(given)
    summary(given.results)
