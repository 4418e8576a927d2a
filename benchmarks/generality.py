"""Do the defaults of `finetune` hold on regions that nobody chose them on? Heads beside models on imagery, over many cells.

A cell is a region and a regime of labels: so many points in their natural frequencies (`points-200`), so many of each class
(`each-10`), a few patches of each class (`patches-5`), a share of the labelled blocks (`blocks-0.05`). Every draw of a cell is
learned from by all contenders, and judged on labels that none of them saw:

- `lianet`: `finetune` without options, on the region file alone;
- `instant`: `finetune --instant`;
- `layers`: the same without the pixel models;
- `forest`, `forest-context`: random forests on the imagery, alone and with means and deviations of three neighbourhoods;
- `logistic`: logistic regression on the latter;
- `bands`, `micro-unet`: six layers and a U-Net of half a million parameters on the imagery.

The region files are those in `models/`, and what `encode` makes of the imagery beside them:

    python benchmarks/generality.py encode --data FOLDER --regions REGIONS
    python benchmarks/generality.py run --data FOLDER --regions REGIONS --results generality.jsonl
    python benchmarks/generality.py table --results generality.jsonl

`--draws`, `--cells brazil romania:points-50` and `--contenders` run a part of it. Results are appended draw by draw, so a run
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lianet_user.evaluation.baselines import MICRO_UNET, Forest, ImageryBands, Networks, UNet, head_on
from lianet_user.evaluation.compare import MARGIN, UNET_CROP
from lianet_user.files.header import IGNORE
from lianet_user.finetuning import finetune
from lianet_user.finetuning.losses import Goal
from lianet_user.finetuning.samples import ReadInputs, Sample, labelled_pixels, make_samples
from lianet_user.finetuning.settings import settings_for
from lianet_user.finetuning.validation import judge
from lianet_user.geo.grid import Window
from lianet_user.imagery import ImageryOptions, open_imagery
from lianet_user.labels import LabelOptions, Labels, read_labels
from lianet_user.pretraining import RegionWords, pretrain
from lianet_user.region import Region

ROOT = Path(__file__).resolve().parents[1]
JUDGED = 20_000
"""Labelled pixels that judge a draw, at most, drawn at random."""
MOST_CHANNELS = 128
"""Bands of all dates together of which a forest also reads the neighbourhoods."""
BLOCK = 32
"""Pixels along the side of the blocks that `blocks-` draws."""
IN_A_MAP = np.zeros((3, 3, 3), bool)
"""What joins pixels to a patch: a side, in the same label map."""
IN_A_MAP[1, 1, :] = IN_A_MAP[1, :, 1] = True
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """A region, its imagery and labels, and the regimes that they allow."""

    labels: str
    options: LabelOptions
    regimes: tuple[str, ...]
    imagery: str
    bands: tuple[str, ...] | None = None
    shipped: bool = False
    scale: float | None = None


POINTS = ("each-10", "points-50", "points-200", "points-1000")
PLACES = {
    "havelland": Place(
        str(ROOT / "tutorials/data/havelland_landcover.gpkg"),
        LabelOptions(field="class"),
        (*POINTS, "patches-5", "blocks-0.05", "blocks-0.2"),
        "havelland",
        tuple("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()),
        shipped=True,
    ),
    "brazil": Place("brazil/landcover.tif", LabelOptions(), (*POINTS, "patches-5", "blocks-0.2"), "brazil/S2L2A*.tif"),
    "denmark": Place(
        "denmark/landcover.tif", LabelOptions(), (*POINTS, "patches-5", "blocks-0.2"), "denmark/S2L2A*.tif"
    ),
    "slovenia": Place(
        "slovenia/landuse.gpkg", LabelOptions(field="class", dates=("all",)), (*POINTS, "patches-5"), "slovenia/S2*.tif"
    ),
    "netherlands": Place(
        "netherlands/corine_points.gpkg",
        LabelOptions(field="label", date_field="date", date_tolerance=24),
        ("points-128",),
        "netherlands/landsat*.tif",
        scale=255.0,
    ),
    "romania": Place(
        str(ROOT / "tutorials/data/romania_tree_cover_2018.tif"),
        LabelOptions(task="regression", dates=("all",)),
        ("points-50", "points-100", "points-500", "blocks-0.8"),
        "romania",
        shipped=True,
    ),
}


def _imagery(data: Path, place: Place, region: Region | None = None) -> Any:
    folder = data / place.imagery
    paths = sorted(folder.parent.glob(folder.name))
    options = ImageryOptions(bands=place.bands, scale=place.scale)
    return open_imagery([str(path) for path in paths], options)


def encode(arguments: argparse.Namespace) -> None:
    """Encode the regions that do not ship, with the defaults of `pretrain`."""
    for name, place in PLACES.items():
        path = arguments.regions / f"{name}.safetensors"
        if place.shipped or path.exists():
            continue
        words = RegionWords(name=name, title=name, licence="CC-BY-4.0", attribution="see the README of the data")
        started = time.monotonic()
        header = pretrain(_imagery(arguments.data, place), path, words)
        quality = np.mean([each.psnr_db or 0.0 for each in header.quality])
        print(f"{name}: {quality:.1f} dB in {time.monotonic() - started:.0f} s", flush=True)


# --- The draws: which labelled pixels are learned from, and which judge.


def draw(labels: Labels, regime: str, seed: int) -> tuple[Mask, Mask]:
    """Where labels are learned from and where they judge: bool (maps, height, width) each."""
    values = np.stack([each.values for each in labels.maps])
    labelled, rng = np.stack([each.labelled for each in labels.maps]), np.random.default_rng(seed)
    places, width = np.flatnonzero(labelled), values.shape[-1]
    kind, amount = regime.split("-")
    learned = np.zeros(values.size, bool)
    classes = range(len(labels.classes))
    if kind == "points":
        learned[rng.choice(places, min(int(amount), len(places) // 2), replace=False)] = True
    elif kind == "each":
        for value in classes:
            own = places[values.flat[places] == value]
            learned[rng.choice(own, min(int(amount), len(own) // 2), replace=False)] = True
    elif kind == "patches":
        for value in classes:
            patches, count = ndimage.label(values == value, IN_A_MAP)
            sizes = np.bincount(patches.ravel())[1:]
            chosen = rng.choice(
                count, min(int(amount), max(1, count // 2)), replace=False, p=sizes**0.5 / (sizes**0.5).sum()
            )
            for number in chosen:
                own = np.flatnonzero(patches == number + 1)
                # A person draws a part of a large area, not all of it.
                middle = own[rng.integers(len(own))]
                rows, cols = np.divmod(own, width)
                near = np.hypot(rows - middle // width, cols - middle % width) < 8
                learned[own[near]] = True
    else:
        rows, cols = np.divmod(places, width)
        blocks = rows // BLOCK * 100_000 + cols // BLOCK
        every = rng.permutation(np.unique(blocks))
        chosen = every[: max(2, round(float(amount) * len(every)))]
        learned[places[np.isin(blocks, chosen)]] = True
    judged = np.setdiff1d(places, np.flatnonzero(learned))
    mask = np.zeros(values.size, bool)
    mask[judged if len(judged) <= JUDGED else rng.choice(judged, JUDGED, replace=False)] = True
    return learned.reshape(values.shape), mask.reshape(values.shape)


def only(labels: Labels, where: Mask) -> Labels:
    """The labels at some pixels, bool (maps, height, width)."""
    missing = IGNORE if labels.classes else np.nan
    maps = tuple(
        dataclasses.replace(each, values=np.where(kept, each.values, np.asarray(missing, each.values.dtype)))
        for each, kept in zip(labels.maps, where, strict=True)
    )
    report = dataclasses.replace(labels.report, labelled=sum(int(each.labelled.sum()) for each in maps))
    return dataclasses.replace(labels, maps=maps, report=report)


# --- The contenders: each learns from some labels and is judged by others.

OURS = {"lianet": None, "instant": 1.0, "layers": 0.0}
"""Contenders on the region file, and the share of the pixel models in their answers; None is the default's."""


class Arena:
    """A region with its labels and imagery; what contenders read of it is computed once."""

    def __init__(self, region: Region, place: Place, data: Path, labels: Labels) -> None:
        self.region, self.labels = region, labels
        self.bands = ImageryBands(_imagery(data, place), region, region.header.dates)
        self._held: dict[Any, list[Sample]] = {}

    def samples(self, source: Any, read: ReadInputs, where: Mask) -> list[Sample]:
        """The samples of what `read` gives, with labels only where a mask says so."""
        if source not in self._held:
            labels = self.labels.once() if self.labels.lasting else self.labels
            self._held[source] = make_samples(read, labels, margin=MARGIN)
        kept = (each.keeping(where[each.map][each.window.slices]) for each in self._held[source])
        return [each for each in kept if each.judged().labelled.any()]

    def context(self, window: Window, date: Any) -> Tensor:
        """The imagery with its neighbourhoods; of all dates where labels hold at all, unless that is too much."""
        if not self.labels.lasting:
            return self.bands.with_context(window, date)
        if len(self.region.header.dates) * len(self.region.header.bands) > MOST_CHANNELS:
            return self.bands.of_all_dates(window, date)
        return torch.cat([self.bands.with_context(window, each) for each in self.region.header.dates])

    def judged(self, contender: str, learned: Mask, judged: Mask, seed: int) -> Any:
        """The scores of a contender."""
        labels = only(self.labels, learned)
        settings = dataclasses.replace(settings_for("auto", labels, self.region.header, 1.0), seed=seed)
        if contender in OURS:
            if (share := OURS[contender]) is not None:
                settings = dataclasses.replace(settings, pixel_share=share)
            head = finetune(self.region, labels, settings=settings).head
            own = self.samples(settings.inputs, lambda w, d: self.region.head_input(w, d, settings.inputs), judged)
            goal = Goal(head.header.classes, head.header.numbers)
            return judge(head.layers, [each.trimmed(head.layers.halo) for each in own], goal).scores()
        goal, settings = Goal.of(labels, settings), dataclasses.replace(settings, members=1)
        alone = contender in ("forest", "micro-unet")
        read = (self.bands.of_all_dates if self.labels.lasting else self.bands) if alone else self.context
        training, own = self.samples(alone, read, learned), self.samples(alone, read, judged)
        learner: Any = Forest()
        if contender == "logistic":
            return _logistic(training, own, goal, seed)
        if contender == "bands":
            learner = Networks(head_on(settings))
        elif contender == "micro-unet":
            settings = dataclasses.replace(settings, crop=UNET_CROP)
            learner = Networks(lambda channels, outputs: UNet(channels, outputs, MICRO_UNET))
        return learner(training, own, goal, settings, lambda *_: None).scores


def _logistic(training: Sequence[Sample], judged: Sequence[Sample], goal: Goal, seed: int) -> Any:
    """Logistic regression, or ridge regression of numbers."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, labels, _ = labelled_pixels(training, 5_000, seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300) if goal.classes else Ridge(10.0))
    model.fit(values, labels)
    meter = goal.meter()
    for sample in judged:
        own = sample.judged()
        answers = model.predict(own.inputs[:, own.labelled].T.float().numpy())
        meter.update(own.labels[own.labelled], torch.from_numpy(answers))
    return meter.compute()


def run(arguments: argparse.Namespace) -> None:
    """Run what the results do not hold yet."""
    done = {(row["cell"], row["contender"], row["draw"]) for row in _rows(arguments.results)}
    for name, place in PLACES.items():
        regimes = [
            each for each in place.regimes if not arguments.cells or {name, f"{name}:{each}"} & set(arguments.cells)
        ]
        if not regimes:
            continue
        folder = ROOT / "models" if place.shipped else arguments.regions
        region = Region.open(folder / f"{name}.safetensors")
        arena = Arena(
            region, place, arguments.data, read_labels(arguments.data / place.labels, region.header, place.options)
        )
        for regime, seed in itertools.product(regimes, range(arguments.draws)):
            learned, judged = draw(arena.labels, regime, seed)
            for contender in arguments.contenders:
                cell = f"{name}:{regime}"
                if (cell, contender, seed) in done:
                    continue
                started = time.monotonic()
                scores = arena.judged(contender, learned, judged, seed)
                figures = scores.model_dump(mode="json", exclude={"classes", "confusion"})
                row = {
                    "cell": cell,
                    "contender": contender,
                    "draw": seed,
                    "seconds": round(time.monotonic() - started, 1),
                }
                with arguments.results.open("a") as file:
                    file.write(json.dumps(row | figures) + "\n")
                two = [f"{figures[key]:.3f}" for key in ("accuracy", "macro_f1", "mae", "r2") if key in figures]
                print(cell, seed, contender, *two, f"{row['seconds']} s", flush=True)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(arguments: argparse.Namespace) -> None:
    """Means over the draws of every cell, and the mean rank over all cells."""
    rows = _rows(arguments.results)
    names = list(dict.fromkeys(row["contender"] for row in rows))
    ranks: dict[str, list[int]] = defaultdict(list)
    print("| cell | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for cell in dict.fromkeys(row["cell"] for row in rows):
        means: dict[str, list[float]] = {}
        for name in names:
            own = [row for row in rows if row["cell"] == cell and row["contender"] == name]
            keys = ("mae",) if any("mae" in row for row in own) else ("accuracy", "macro_f1")
            if own:
                means[name] = [float(np.mean([row[key] for row in own])) for key in keys]
        ranked = sorted(means, key=lambda name: means[name][0] if len(means[name]) == 1 else -means[name][1])
        for place, name in enumerate(ranked, 1):
            ranks[name].append(place)
        texts = [" / ".join(f"{value:.3f}" for value in means.get(name, [])) for name in names]
        print(f"| {cell} | " + " | ".join(texts) + " |")
    print("| mean rank | " + " | ".join(f"{np.mean(ranks[name]):.2f}" for name in names) + " |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["encode", "run", "table"])
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--regions", type=Path, default=Path("generality"))
    parser.add_argument("--results", type=Path, default=Path("generality.jsonl"))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--cells", nargs="+")
    parser.add_argument(
        "--contenders", nargs="+", default=["lianet", "instant", "forest", "forest-context", "logistic"]
    )
    arguments = parser.parse_args()
    {"encode": encode, "run": run, "table": table}[arguments.what](arguments)


if __name__ == "__main__":
    main()
