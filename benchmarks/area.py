"""How much ground fits into one field? Quality and downstream score as the area grows and the model does not.

The paper's question, on crops of the Havelland: 384 x 384, 768 x 768 and 768 x 1536 px around the same middle. Tables have
the same number of entries for all of them, so that more and more pixels share one; steps grow in proportion to the area.
Two decoders, the second twice as wide. The downstream score is always that of the same labels, those in the middle
384 x 384 px: mean over splits of the macro-F1 on blocks that were not trained on.

    python benchmarks/area.py --imagery FOLDER --results area.jsonl
    python benchmarks/area.py --results area.jsonl --summary

A line of JSON is appended for each area and decoder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lianet_user.files.header import Scores
from lianet_user.finetuning import FinetuneSettings, finetune
from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery, ImageryOptions, Patch, Resident, open_imagery
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.pretraining import PretrainSettings, RegionWords, pretrain
from lianet_user.region import Region

LABELS = Path(__file__).resolve().parents[1] / "tutorials/data/havelland_landcover.gpkg"
MIDDLE = Window(192, 576, 384, 384)
AREAS = (MIDDLE, Window(0, 384, 768, 768), Window(0, 0, 768, 1536))
DECODERS = {"lite": (96, 64, 64), "twice as wide": (192, 128, 128)}
ENTRIES = 2**15


class Crop(Imagery):
    """A window of imagery as imagery of its own."""

    def __init__(self, imagery: Imagery, window: Window) -> None:
        self.bands, self.factors, self.source = imagery.bands, imagery.factors, imagery.source
        self.acquisitions, self.geobox = imagery.acquisitions, imagery.geobox[window.slices]
        self._imagery, self._window = imagery, window

    def read(self, index: int, window: Window) -> Patch:
        return self._imagery.read(index, window.shifted(self._window.row, self._window.col))


def labels_in_the_middle(imagery: Imagery, folder: Path) -> Path:
    """The labels, cut to the middle."""
    import geopandas

    frame = geopandas.read_file(LABELS)
    west, south, east, north = imagery.geobox[MIDDLE.slices].boundingbox.bbox
    path = folder / "labels.gpkg"
    frame.to_crs(imagery.geobox.crs).clip(shapely.box(west, south, east, north)).to_file(path)
    return path


def study(
    imagery: Imagery, window: Window, widths: tuple[int, int, int], steps: int, splits: int, folder: Path
) -> dict[str, Any]:
    """Encode a crop, and train heads on the labels in its middle."""
    crop = Resident.of(Crop(imagery, window))
    started = time.monotonic()
    settings = PretrainSettings(
        steps=round(steps * window.pixels / MIDDLE.pixels), table_size=ENTRIES, start="noise", widths=widths
    )
    words = RegionWords(name="crop", title="crop", licence="none", attribution="none")
    path = folder / "crop.safetensors"
    header = pretrain(crop, path, words, settings=settings)
    region = Region.open(path)
    labels = read_labels(labels_in_the_middle(imagery, folder), region.header, LabelOptions(field="class"))
    scores = []
    for seed in range(splits):
        head = finetune(region, labels, settings=FinetuneSettings(members=1, steps=200, seed=seed)).head
        assert isinstance(head.header.scores, Scores)
        scores.append(head.header.scores.macro_f1 or 0.0)
    return {
        "pixels": window.pixels,
        "steps": settings.steps,
        "parameters": sum(parameter.numel() for parameter in region.field.parameters()),
        "psnr_db": header.quality[0].psnr_db,
        "macro_f1": float(np.mean(scores)),
        "macro_f1_deviation": float(np.std(scores)),
        "seconds": round(time.monotonic() - started),
    }


def summarize(rows: list[dict[str, Any]]) -> None:
    print("| decoder | area | steps | parameters | PSNR | macro-F1 | deviation | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['decoder']} | {row['pixels'] / 1e4:.1f} km2 | {row['steps']} | {row['parameters'] / 1e6:.2f} M"
            f" | {row['psnr_db']:.1f} dB | {row['macro_f1']:.3f} | {row['macro_f1_deviation']:.3f} | {row['seconds']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagery", type=Path, help="folder of the Sentinel-2 band files")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100, help="for the smallest area")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    path = arguments.results
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if arguments.summary:
        summarize(rows)
        return
    imagery = Resident.of(open_imagery([arguments.imagery], ImageryOptions()))
    done = {(row["decoder"], row["pixels"]) for row in rows}
    with path.open("a") as results, tempfile.TemporaryDirectory() as folder:
        for name, widths in DECODERS.items():
            for window in AREAS:
                if (name, window.pixels) not in done:
                    found = study(imagery, window, widths, arguments.steps, arguments.splits, Path(folder))
                    results.write(json.dumps({"decoder": name} | found) + "\n")
                    results.flush()


if __name__ == "__main__":
    main()
