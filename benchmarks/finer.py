"""Does a head on a grid four times as fine know more than a native head's answers, drawn finer? Polygons at 2.5 m.

The same polygons, split and settings; one head has labels of 10 m, the other of 2.5 m. Both are judged on every 2.5 m pixel
of the validation blocks:

- `4x`: the head for the finer grid;
- `bilinear`: the native head's answers (logarithms of probabilities), up-sampled bilinearly, then the most probable class;
- `nearest`: the native head's map as it is, each pixel as 16.

The same is told for the pixels within 10 m of a polygon's outline (`edges`), where the two differ, and for all others
(`inside`).

    python benchmarks/finer.py --results finer.jsonl                # all polygons, which have 1 to 50 ha
    python benchmarks/finer.py --results finer.jsonl --largest 3    # only those of less than 3 ha
    python benchmarks/finer.py --results finer.jsonl --summary

A line of JSON is appended for each head and split, so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import geopandas
import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.features import rasterize
from torch.nn import functional

from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.finetuning.metrics import ClassMeter
from lianet_user.finetuning.settings import settings_for
from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import LabelOptions, Labels, Split, read_labels, split_labels
from lianet_user.region import Region
from lianet_user.region import crop as cropped

ROOT = Path(__file__).resolve().parents[1]
SCALE: Final = 4
SCALES: Final[tuple[Literal[1, 4], ...]] = (1, SCALE)
EDGE = 10.0
"""Metres: what is nearer to an outline is within a pixel of it on the native grid."""

Row = dict[str, Any]
"""One line of the results file."""
Answers = dict[str, torch.Tensor]
"""By name, classes (4 * height, 4 * width) of a window."""


def answers(head: Head, window: Window) -> Answers:
    """What a head's map says on the finer grid, in each of the ways that there are."""
    if head.scale == SCALE:
        return {"4x": head.answers(window).argmax(0)}
    outer = window.expanded(1, 1, head.region.shape)  # bilinear: the neighbour on either side
    native = head.answers(outer)
    finer = functional.interpolate(native[None], scale_factor=SCALE, mode="bilinear", align_corners=False)[0]
    coarse = cropped(native, window, outer).argmax(0)
    return {
        "bilinear": cropped(finer, window.scaled(SCALE), outer.scaled(SCALE)).argmax(0),
        "nearest": coarse.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1),
    }


def smaller(path: Path, largest: float | None, folder: Path) -> Path:
    """The file itself, or one of its polygons of less than so many hectares."""
    if largest is None:
        return path
    polygons = geopandas.read_file(path)
    chosen = folder / "polygons.gpkg"
    polygons[polygons.to_crs(polygons.estimate_utm_crs()).area < largest * 1e4].to_file(chosen)
    return chosen


def near_edges(labels: Labels, path: Path) -> NDArray[np.bool_]:
    """The pixels of the labels whose centre lies within `EDGE` of an outline."""
    outlines = geopandas.read_file(path).to_crs(labels.geobox.crs).boundary.buffer(EDGE)
    near: NDArray[np.bool_] = rasterize(outlines, labels.geobox.shape, transform=labels.geobox.affine).astype(bool)
    return near


def kept_blocks(split: Split) -> Iterator[Window]:
    """The validation blocks, cut at the region's border."""
    for row, col in np.argwhere(split.validation) * split.block:
        height, width = min(split.block, split.shape[0] - row), min(split.block, split.shape[1] - col)
        yield Window(int(row), int(col), int(height), int(width))


def judge(head: Head, fine: Labels, split: Split, edges: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """Macro IoU by way and ground, and the IoU of each class."""
    meters: dict[tuple[str, str], ClassMeter] = {}
    for window in kept_blocks(split):
        place = window.scaled(SCALE).slices
        reference, edge = torch.from_numpy(fine.maps[0].values[place]), torch.from_numpy(edges[place])
        for way, found in answers(head, window).items():
            for ground, kept in {"all": torch.ones_like(edge), "edges": edge, "inside": ~edge}.items():
                meter = meters.setdefault((way, ground), ClassMeter(fine.classes))
                meter.update(reference[kept], found[kept])
    found_scores: dict[str, dict[str, Any]] = {}
    for (way, ground), meter in meters.items():
        scores = meter.compute()
        own = found_scores.setdefault(way, {})
        own[ground] = scores.macro_iou
        if ground == "all":
            own["classes"] = {each.name: each.iou for each in scores.classes}
    return found_scores


def run(arguments: argparse.Namespace) -> None:
    """Train and judge what the results file does not hold yet."""
    region = Region.open(arguments.region)
    with tempfile.TemporaryDirectory() as folder:
        path = smaller(arguments.labels, arguments.largest, Path(folder))
        labels = {
            scale: read_labels(path, region.header, LabelOptions(field=arguments.field, scale=scale))
            for scale in SCALES
        }
        edges = near_edges(labels[SCALE], path)
    fine = labels[SCALE]
    done = {(row["largest"], row["split"], row["scale"], row["note"]) for row in _rows(arguments.results)}
    for seed in range(arguments.first, arguments.first + arguments.splits):
        split = split_labels(fine, seed=seed)
        for scale in arguments.scales:
            if (arguments.largest, seed, scale, arguments.note) in done:
                continue
            settings = changed(settings_for("auto", labels[scale], region.header), arguments, seed)
            started = time.monotonic()
            head = finetune(region, labels[scale], settings=settings, split=split).head
            row = {
                "largest": arguments.largest,
                "split": seed,
                "scale": scale,
                "note": arguments.note,
                "seconds": round(time.monotonic() - started, 1),
                "iou": judge(head, fine, split, edges),
            }
            with arguments.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            figures = {way: {ground: own[ground] for ground in ("all", "edges")} for way, own in row["iou"].items()}
            print(f"split {seed} scale {scale} {row['seconds']} s", figures, flush=True)


def changed(settings: FinetuneSettings, arguments: argparse.Namespace, seed: int) -> FinetuneSettings:
    """The settings with what was asked for."""
    asked = {name: getattr(arguments, name) for name in ("members", "steps", "crop", "batch")}
    return dataclasses.replace(
        settings, seed=seed, **{name: value for name, value in asked.items() if value is not None}
    )


def summary(path: Path) -> None:
    """One row per kind of polygons and way of answering: means over the splits that both heads have run."""
    rows = _rows(path)
    both = {(row["largest"], row["split"]) for row in rows if row["scale"] == 1}
    both &= {(row["largest"], row["split"]) for row in rows if row["scale"] == SCALE}
    table: dict[tuple[float | None, str, str], list[Row]] = {}
    for row in rows:
        if (row["largest"], row["split"]) not in both:
            continue
        for way, own in row["iou"].items():
            table.setdefault((row["largest"], row["note"], way), []).append(own | {"seconds": row["seconds"]})
    print("| polygons | map | splits | macro IoU | edges | inside | splits, one by one | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for (largest, note, way), own_rows in table.items():
        means = [float(np.mean([row[ground] for row in own_rows])) for ground in ("all", "edges", "inside")]
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        each = " ".join(f"{row['all']:.3f}" for row in own_rows)
        seconds = np.median([row["seconds"] for row in own_rows])
        polygons = "all" if largest is None else f"< {largest:g} ha"
        name = f"{way} ({note})" if note else way
        print(f"| {polygons} | {name} | {len(own_rows)} | {cells} | {each} | {seconds:.0f} |")


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--region", type=Path, default=ROOT / "models/havelland.safetensors")
    parser.add_argument("--labels", type=Path, default=ROOT / "tutorials/data/havelland_landcover.gpkg")
    parser.add_argument("--field", default="class")
    parser.add_argument("--largest", type=float, help="hectares: only polygons of less than that")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--scales", type=int, nargs="*", choices=(1, SCALE), default=[1, SCALE])
    parser.add_argument("--members", type=int, help="instead of the default, as the next three")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--note", default="", help="says in the table what was changed")
    parser.add_argument("--summary", action="store_true", help="only print the table")
    given = parser.parse_args()
    if not given.summary:
        run(given)
    summary(given.results)
