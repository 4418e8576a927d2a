"""Can an area that fits into no memory be trained on? Windows from a stack of 20,000 x 20,000 px, four bands, two dates.

The stack is made up (gradients, fields of 64 px and noise; a tenth of each date is missing), one GeoTIFF per date in
compressed tiles, and is written once. What is measured is how fast windows come and how much memory that takes, and the
same of the product's pretraining for some steps, the share of time it waits for windows, and judging the result:

    python benchmarks/large_area.py --folder FOLDER --scale 0.25
    python benchmarks/large_area.py --folder FOLDER --train 60

A line of JSON is printed. The full stack takes 3 GB of disk, and is left there for the next run.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from lianet_user.geo.grid import Window
from lianet_user.imagery import Imagery, ImageryOptions, open_imagery
from lianet_user.imagery.statistics import measure
from lianet_user.pretraining.loader import Loader

SIDE, TILE, STRIDE = 20_000, 512, 32
NAMES = "B02", "B03", "B04", "B08"
DATES = (dt.date(2021, 5, 1), dt.date(2021, 8, 1))
ORIGIN = 300_000.0, 5_900_000.0


def files(folder: Path, side: int) -> list[Path]:
    return [folder / f"large_{side}_{date:%Y%m%d}.tif" for date in DATES]


def write(folder: Path, side: int) -> None:
    """The stack's files that are not there yet, each under its name only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files(folder, side)):
        if path.exists():
            continue
        unfinished = path.with_suffix(".part")
        with rasterio.open(
            unfinished, "w", driver="GTiff", dtype="uint16", count=len(NAMES), height=side, width=side, crs="EPSG:32633",
            transform=Affine(10.0, 0.0, ORIGIN[0], 0.0, -10.0, ORIGIN[1]), nodata=0, tiled=True, blockxsize=TILE,
            blockysize=TILE, interleave="band", compress="zstd", zstd_level=1, predictor=2, num_threads="all_cpus",
            sparse_ok=True, bigtiff="yes",
        ) as target:  # fmt: skip
            for window, values in content(side, number):
                target.write(values, window=RasterWindow.from_slices(*window.slices))
        unfinished.rename(path)


def content(side: int, date: int) -> Iterator[tuple[Window, NDArray[np.uint16]]]:
    """Tiles of one date that hold something: no two alike, though cut from the same noise."""
    rng = np.random.default_rng(date)
    noise = rng.integers(0, 16, (len(NAMES), 2 * TILE, 2 * TILE), np.uint16)
    for window in Window(0, 0, side, side).tiles(TILE):
        if rng.random() < 0.1:
            continue  # left out of the file: it reads as 0
        row, col = rng.integers(0, TILE, 2)
        gradient = (np.arange(window.row, window.row_end)[:, None] + np.arange(window.col, window.col_end)) // 16
        fields = rng.integers(200, 3000, (len(NAMES), TILE // 64, TILE // 64), np.uint16).repeat(64, 1).repeat(64, 2)
        fields = fields[:, : window.height, : window.width]
        yield (
            window,
            noise[:, row : row + window.height, col : col + window.width] + fields + gradient.astype(np.uint16),
        )


def measure_loader(imagery: Imagery, arguments: argparse.Namespace) -> dict[str, object]:
    """How fast windows come if nothing is done with them."""
    height, width = (-(-length // STRIDE) * STRIDE for length in imagery.shape)
    with Loader(
        imagery, size=arguments.window, stride=STRIDE, shape=(height, width), batch=arguments.batch, seed=0,
        workers=arguments.workers,
    ) as loader:  # fmt: skip
        loader.get(0)
        started = time.monotonic()
        bytes_read = sum(loader.get(step).reflectance.nbytes for step in range(1, arguments.steps + 1))
        seconds = time.monotonic() - started
    return {
        "windows": arguments.steps * arguments.batch,
        "windows_per_s": round(arguments.steps * arguments.batch / seconds, 1),
        "mb_per_s": round(bytes_read / 1e6 / seconds, 1),
    }


def train(imagery: Imagery, arguments: argparse.Namespace) -> dict[str, object]:
    """Some steps of pretraining: what they cost, and what they wait for."""
    from lianet_user.pretraining import PretrainProgress, PretrainSettings, RegionWords, pretrain

    last: list[PretrainProgress] = []
    settings = PretrainSettings(
        steps=arguments.train, window=arguments.window, workers=arguments.workers, report_every=arguments.train
    )
    words = RegionWords(name="large", title="large", licence="none", attribution="none")
    started = time.monotonic()
    pretrain(
        imagery, arguments.folder / "large.safetensors", words, settings=settings, listener=lambda at: last.append(at)
    )
    return {
        "steps": last[-1].step,
        "training_s": round(last[-1].seconds, 1),
        "waited": round(last[-1].waited, 4),
        "psnr_db": round(last[-1].psnr_db or 0.0, 2),
        "whole_s": round(time.monotonic() - started, 1),
    }


def peak_mb() -> int:
    """Most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak / 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the stack is or will be")
    parser.add_argument("--scale", type=float, default=1.0, help=f"share of {SIDE} px along a side")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--statistics", action="store_true", help="measure the bands' statistics too")
    parser.add_argument(
        "--train", type=int, default=0, metavar="STEPS", help="encode the area instead, for so many steps"
    )
    arguments = parser.parse_args()
    side = int(SIDE * arguments.scale)
    started = time.monotonic()
    # In a process of its own, whose memory does not count.
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(arguments.folder, side))
    writer.start()
    writer.join()
    if writer.exitcode:
        sys.exit(writer.exitcode)
    paths = files(arguments.folder, side)
    figures: dict[str, object] = {
        "side": side,
        "stack_gb": round(sum(path.stat().st_size for path in paths) / 1e9, 2),
        "write_s": round(time.monotonic() - started, 1),
    }
    imagery = open_imagery(paths, ImageryOptions(bands=NAMES))
    figures["before_mb"] = peak_mb()
    figures |= train(imagery, arguments) if arguments.train else measure_loader(imagery, arguments)
    figures["peak_mb"] = peak_mb()
    if arguments.statistics:
        started = time.monotonic()
        figures["statistics_exact"] = measure(imagery).exact
        figures |= {"statistics_s": round(time.monotonic() - started, 1), "statistics_peak_mb": peak_mb()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
