"""Can a region show a date it never saw? Every fifth clear date over five years is left out, encoded without, and estimated.

Compared, on clear pixels of the dates left out, with what one would do with the images themselves: the nearest date, linear
interpolation between the neighbouring dates, and a seasonal average of all dates. Every fifth date begins at one of five
offsets; dates at the ends, which lie between no others, are left out of the comparison for all.

    python benchmarks/held_out_dates.py --cube sentinel2_cube_subset_romania_10m.nc --results held_out_dates.jsonl
    python benchmarks/held_out_dates.py --results held_out_dates.jsonl --summary

A line of JSON is appended per offset and time encoding.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lianet_user.field.config import TemporalCovariance
from lianet_user.field.encoding import YEAR_DAYS, kriging_weights
from lianet_user.imagery import Imagery, ImageryOptions, Resident, open_imagery
from lianet_user.pretraining import PretrainSettings, RegionWords, pretrain
from lianet_user.region import Region

Array = NDArray[np.float64]
EVERY = 5


def nearest(known: Array, wanted: Array) -> Array:
    return np.eye(len(known))[np.abs(wanted[:, None] - known).argmin(1)]


def linear(known: Array, wanted: Array) -> Array:
    """Weights (wanted, known) of the neighbouring dates."""
    after = np.searchsorted(known, wanted)
    share = (wanted - known[after - 1]) / (known[after] - known[after - 1])
    identity = np.eye(len(known))
    result: Array = identity[after - 1] * (1 - share)[:, None] + identity[after] * share[:, None]
    return result


def seasonal(known: Array, wanted: Array) -> Array:
    """Of all dates, those of the same season most (20 days), and of the same years (1.5 years)."""
    apart = wanted[:, None] - known
    season = (apart + YEAR_DAYS / 2) % YEAR_DAYS - YEAR_DAYS / 2
    weights = np.exp(-0.5 * (season / 20) ** 2 - np.abs(apart) / (1.5 * YEAR_DAYS))
    result: Array = weights / weights.sum(1, keepdims=True)
    return result


def kriging(known: Array, wanted: Array) -> Array:
    """The weights that codes are estimated with, on the images themselves."""
    return kriging_weights(known, wanted, TemporalCovariance())


BASELINES: dict[str, Callable[[Array, Array], Array]] = {
    "nearest": nearest, "linear": linear, "seasonal": seasonal, "kriging of images": kriging,
}  # fmt: skip


def split(count: int, offset: int) -> tuple[list[int], list[int]]:
    """Dates to encode, and dates to leave out that lie between others."""
    left_out = list(range(offset, count, EVERY))
    kept = [index for index in range(count) if index not in left_out]
    return kept, [index for index in left_out if kept[0] < index < kept[-1]]


def baseline_errors(imagery: Imagery, offset: int) -> dict[str, float]:
    """Mean absolute error of each baseline. Where a date is clouded the others' weights share what it had."""
    patches = [imagery.read(index, imagery.window) for index in range(len(imagery.acquisitions))]
    days = np.array([held.days for held in imagery.acquisitions])
    kept, left_out = split(len(patches), offset)
    images = np.stack([np.where(patches[n].valid, patches[n].reflectance, 0.0) for n in kept])
    clear = np.stack([patches[n].valid for n in kept]).astype(np.float64)
    errors = {}
    for name, weigh in BASELINES.items():
        weights, found = weigh(days[kept], days[left_out]), []
        for row, number in zip(weights, left_out, strict=True):
            total = np.tensordot(row, clear, 1)
            # A pixel that none of the dates in question shows has no estimate: every baseline is spared it.
            known = np.abs(total) > 0.3
            estimate = np.tensordot(row, images, 1) / np.where(known, total, 1.0)
            judged = patches[number].valid & known
            found.append(np.abs(estimate - patches[number].reflectance)[judged])
        errors[name] = float(np.concatenate(found).mean())
    return errors


def region_errors(imagery: Imagery, offset: int, settings: PretrainSettings) -> dict[str, float]:
    """Encode without every fifth date; mean absolute error on those, and PSNR of the dates that were encoded."""
    kept, left_out = split(len(imagery.acquisitions), offset)
    words = RegionWords(name="held-out", title="held-out", licence="none", attribution="none")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "region.safetensors"
        header = pretrain(imagery.only(kept), path, words, settings=settings)
        seconds = time.monotonic() - started
        region = Region.open(path)
    errors = []
    for number in left_out:
        patch = imagery.read(number, imagery.window)
        estimate = region.reconstruct(region.window, imagery.acquisitions[number].date, between=True).numpy()
        errors.append(np.abs(estimate - patch.reflectance)[patch.valid])
    mse = [10 ** (-quality.psnr_db / 10) for quality in header.quality if quality.psnr_db is not None]
    return {
        "mae": float(np.concatenate(errors).mean()),
        "encoded_psnr_db": -10 * math.log10(float(np.mean(mse))),
        "seconds": round(seconds),
    }


def summarize(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["contender"] for row in rows))
    offsets = sorted({row["offset"] for row in rows})
    print("| contender | " + " | ".join(f"offset {offset}" for offset in offsets) + " | mean | encoded dates |")
    print("|---" * (len(offsets) + 3) + "|")
    for name in names:
        own = {row["offset"]: row for row in rows if row["contender"] == name}
        cells = [f".{own[offset]['mae'] * 1e4:04.0f}" if offset in own else "-" for offset in offsets]
        levels = [row["encoded_psnr_db"] for row in own.values() if "encoded_psnr_db" in row]
        mean = f".{np.mean([row['mae'] for row in own.values()]) * 1e4:04.0f}"
        level = f"{np.mean(levels):.1f} dB" if levels else "-"
        print(f"| {name} | " + " | ".join(cells) + f" | {mean} | {level} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cube", type=Path, help="sentinel2_cube_subset_romania_10m.nc")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--offsets", type=int, nargs="*", default=list(range(EVERY)))
    parser.add_argument("--times", nargs="*", default=["kriged"], help="kriged, fourier, sinusoidal or mlp")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    rows = (
        [json.loads(line) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    )
    if arguments.summary:
        summarize(rows)
        return
    options = ImageryOptions(bands=("B02", "B03", "B04", "B08"), mask="SCL", min_clear=0.9)
    imagery = Resident.of(open_imagery([arguments.cube], options))
    done = {(row["contender"], row["offset"]) for row in rows}
    with arguments.results.open("a") as results:

        def add(row: dict[str, Any]) -> None:
            results.write(json.dumps(row) + "\n")
            results.flush()

        for offset in arguments.offsets:
            for name, mae in baseline_errors(imagery, offset).items():
                if (name, offset) not in done:
                    add({"contender": name, "offset": offset, "mae": mae})
            for kind in arguments.times:
                if (kind, offset) not in done:
                    settings = PretrainSettings(time=kind, steps=arguments.steps)
                    add({"contender": kind, "offset": offset} | region_errors(imagery, offset, settings))


if __name__ == "__main__":
    main()
