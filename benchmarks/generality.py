"""Do the defaults of `finetune` hold on regions that nobody chose them on? Heads beside models on imagery, over many cells.

A cell is a region and a regime of labels: so many points in their natural frequencies (`points-200`), so many of each class
(`each-10`), a few patches of each class (`patches-5`), a share of the labelled blocks (`blocks-0.05`). Every draw of a cell is
learned from by all contenders, and judged on labels that none of them saw:

- `lianet`: `finetune` without options, on the region file alone;
- `instant`: `finetune --instant`;
- `layers`: the same without the closed form;
- `forest`, `forest-context`: random forests on the imagery, alone and with means and deviations of three neighbourhoods;
- `logistic`: logistic regression on the latter;
- `bands`, `micro-unet`: six layers and a U-Net of half a million parameters on the imagery.

The region files are those in `models/`, and what `encode` makes of the imagery beside them:

    python benchmarks/generality.py encode --data FOLDER --regions REGIONS
    python benchmarks/generality.py run --data FOLDER --regions REGIONS --results generality.jsonl \\
        [--draws 5] [--cells brazil:points-200 ...]
    python benchmarks/generality.py table --results generality.jsonl

Results are appended draw by draw, so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
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
from lianet_user.finetuning.samples import GroundMask, ReadInputs, Sample, keep, labelled_pixels, make_samples
from lianet_user.finetuning.settings import FinetuneSettings, settings_for
from lianet_user.finetuning.validation import judge
from lianet_user.geo.grid import Window
from lianet_user.imagery import ImageryOptions, open_imagery
from lianet_user.labels import LabelOptions, Labels, read_labels
from lianet_user.pretraining import RegionWords, pretrain
from lianet_user.region import Region

ROOT = Path(__file__).resolve().parents[1]
JUDGED = 20_000
"""Labelled pixels that judge a draw, at most, drawn at random."""
BLOCK = 32
"""Pixels along the side of the blocks that `blocks-` draws."""
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
        quality = header.quality.psnr if header.quality else None
        print(f"{name}: {quality} dB in {time.monotonic() - started:.0f} s", flush=True)


# --- The draws: which labelled pixels are learned from, and which judge.


def draw(labels: Labels, regime: str, seed: int) -> tuple[Mask, Mask]:
    """Where labels are learned from and where they judge: bool (height, width) each."""
    values = labels.maps[0].values
    labelled, rng = labels.maps[0].labelled, np.random.default_rng(seed)
    places = np.flatnonzero(labelled)
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
            patches, count = ndimage.label(values == value)
            sizes = np.bincount(patches.ravel())[1:]
            chosen = rng.choice(
                count, min(int(amount), max(1, count // 2)), replace=False, p=sizes**0.5 / (sizes**0.5).sum()
            )
            for number in chosen:
                own = np.flatnonzero(patches == number + 1)
                # A person draws a part of a large area, not all of it.
                middle = own[rng.integers(len(own))]
                rows, cols = np.divmod(own, values.shape[1])
                near = np.hypot(rows - middle // values.shape[1], cols - middle % values.shape[1]) < 8
                learned[own[near]] = True
    else:
        rows, cols = np.divmod(places, values.shape[1])
        blocks = rows // BLOCK * 100_000 + cols // BLOCK
        every = rng.permutation(np.unique(blocks))
        chosen = every[: max(2, round(float(amount) * len(every)))]
        learned[places[np.isin(blocks, chosen)]] = True
    judged = np.setdiff1d(places, np.flatnonzero(learned))
    mask = np.zeros(values.size, bool)
    mask[judged if len(judged) <= JUDGED else rng.choice(judged, JUDGED, replace=False)] = True
    return learned.reshape(values.shape), mask.reshape(values.shape)


def only(labels: Labels, where: Mask) -> Labels:
    """The labels at some pixels."""
    missing = IGNORE if labels.classes else np.nan
    maps = tuple(
        dataclasses.replace(each, values=np.where(where, each.values, np.asarray(missing, each.values.dtype)))
        for each in labels.maps
    )
    report = dataclasses.replace(labels.report, labelled=int((maps[0].labelled).sum()))
    return dataclasses.replace(labels, maps=maps, report=report)


# --- The contenders: from what is learned to an answer for samples of what they read.

Learned = Callable[[Sequence[Sample], Sequence[Sample], Goal, int], Any]
"""From samples to learn from and to judge by, the goal and a seed to scores."""


def _settings(labels: Labels, region: Region, closed_form: float | None = None) -> FinetuneSettings:
    chosen = settings_for("auto", labels, region.header, 1.0)
    return chosen if closed_form is None else dataclasses.replace(chosen, closed_form=closed_form)


def _logistic(training: Sequence[Sample], judged: Sequence[Sample], goal: Goal, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, labels, _ = labelled_pixels(training, 5_000, seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300) if goal.classes else Ridge(10.0))
    model.fit(values, labels)
    meter = goal.meter()
    for sample in judged:
        own = sample.judged()
        meter.update(
            own.labels[own.labelled], torch.from_numpy(model.predict(own.inputs[:, own.labelled].T.float().numpy()))
        )
    return meter.compute()


def contest(
    name: str,
    region: Region,
    place: Place,
    data: Path,
    labels: Labels,
    asked: Sequence[str],
    done: set[tuple[str, str, int]],
    cells: Sequence[str],
    draws: int,
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Run the cells of a region that are not done."""
    bands = ImageryBands(_imagery(data, place), region, region.header.dates)
    lasting = labels.lasting

    def context(window: Window, date: Any) -> Tensor:
        if not lasting:
            return bands.with_context(window, date)
        return torch.cat([bands.with_context(window, each) for each in region.header.dates])

    few = len(region.header.dates) * len(region.header.bands) <= 128
    sources: dict[str, ReadInputs] = {
        "bands": bands.of_all_dates if lasting else bands,
        "context": context if few else bands.of_all_dates,
    }
    everywhere = labels.once() if lasting else labels
    held: dict[Any, list[Sample]] = {}

    def samples_of(source: Any, read: ReadInputs) -> list[Sample]:
        if source not in held:
            held[source] = make_samples(read, everywhere, margin=MARGIN)
        return held[source]

    def on(ground: Mask) -> GroundMask:
        return lambda window: np.asarray(ground[window.slices])

    for regime in place.regimes:
        if cells and f"{name}:{regime}" not in cells and name not in cells:
            continue
        for seed in range(draws):
            learned, judged = draw(labels, regime, seed)
            own = only(labels, learned)
            for contender in asked:
                if (f"{name}:{regime}", contender, seed) in done:
                    continue
                started = time.monotonic()
                if contender in ("lianet", "instant", "layers"):
                    share = {"lianet": None, "instant": 1.0, "layers": 0.0}[contender]
                    settings = dataclasses.replace(_settings(own, region, share), seed=seed)
                    head = finetune(region, own, settings=settings).head
                    seconds = time.monotonic() - started
                    inputs = settings.inputs
                    samples = samples_of(inputs, lambda w, d, inputs=inputs: region.head_input(w, d, inputs))  # type: ignore[misc]
                    goal = Goal(head.header.classes, head.header.numbers)
                    scores = judge(
                        head.layers,
                        [s.trimmed(head.layers.halo) for s in keep(samples, on(judged))],
                        goal,
                    ).scores()
                else:
                    settings = dataclasses.replace(_settings(own, region, 0.0), seed=seed, members=1)
                    goal = Goal.of(own, settings)
                    samples = samples_of(
                        "bands" if contender in ("forest", "micro-unet") else "context",
                        sources["bands" if contender in ("forest", "micro-unet") else "context"],
                    )
                    training, judging = keep(samples, on(learned)), keep(samples, on(judged))
                    if contender == "logistic":
                        scores = _logistic(training, judging, goal, seed)
                    else:
                        learner: Any = Forest()
                        if contender == "bands":
                            learner = Networks(head_on(settings))
                        elif contender == "micro-unet":
                            settings = dataclasses.replace(settings, crop=UNET_CROP)
                            learner = Networks(lambda channels, outputs: UNet(channels, outputs, MICRO_UNET))
                        scores = learner(training, judging, goal, settings, lambda *_: None).scores
                    seconds = time.monotonic() - started
                figures = scores.model_dump(mode="json", exclude={"classes", "confusion"})
                write(
                    {
                        "cell": f"{name}:{regime}",
                        "contender": contender,
                        "draw": seed,
                        "seconds": round(seconds, 1),
                        **figures,
                    }
                )


def run(arguments: argparse.Namespace) -> None:
    """Run what the results do not hold yet."""
    rows = _rows(arguments.results)
    done = {(row["cell"], row["contender"], row["draw"]) for row in rows}

    def write(row: dict[str, Any]) -> None:
        with arguments.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        first = ("macro_f1", "accuracy") if "macro_f1" in row else ("mae", "r2")
        print(
            row["cell"],
            row["draw"],
            row["contender"],
            *(f"{row[key]:.3f}" for key in first),
            f"{row['seconds']} s",
            flush=True,
        )

    for name, place in PLACES.items():
        if arguments.cells and not any(cell.split(":")[0] == name for cell in arguments.cells):
            continue
        folder = ROOT / "models" if place.shipped else arguments.regions
        region = Region.open(folder / f"{name}.safetensors")
        labels = read_labels(arguments.data / place.labels, region.header, place.options)
        contest(
            name,
            region,
            place,
            arguments.data,
            labels,
            arguments.contenders,
            done,
            arguments.cells or (),
            arguments.draws,
            write,
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(arguments: argparse.Namespace) -> None:
    """Means over the draws of every cell, and the mean rank over all cells."""
    rows = _rows(arguments.results)
    by: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by[row["cell"]][row["contender"]].append(row)
    names = list(dict.fromkeys(row["contender"] for row in rows))
    ranks: dict[str, list[float]] = defaultdict(list)
    print("| cell | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for cell, contenders in by.items():
        keys = (
            ("accuracy", "macro_f1")
            if "macro_f1" in rows[0] and "accuracy" in next(iter(contenders.values()))[0]
            else ("mae", "r2")
        )
        means = {name: [float(np.mean([row[key] for row in own])) for key in keys] for name, own in contenders.items()}
        merit = {name: -own[0] if keys[0] == "mae" else own[1] for name, own in means.items()}
        for place, name in enumerate(sorted(merit, key=lambda each: -merit[each]), 1):
            ranks[name].append(place)
        print(
            f"| {cell} | "
            + " | ".join(" / ".join(f"{v:.3f}".lstrip("0") for v in means[n]) if n in means else "" for n in names)
            + " |"
        )
    print("| mean rank | " + " | ".join(f"{np.mean(ranks[n]):.2f}" for n in names) + " |")


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
