"""How cost grows with the work: fine-tuning with the labelled area, maps with theirs, encoding with area and dates.

    python -m benchmarks.bench.growth --results benchmarks/results/growth.json

Each figure is a process of its own with one thread: processor seconds from start to end, and memory at most. The exponent p is
that of a + b * work ** p, fitted to the relative errors: 0 does not grow, 1 grows in proportion.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from scipy.optimize import nnls

from benchmarks.bench.commands import Taken, run

ROOT = Path(__file__).resolve().parents[2]
REGION = ROOT / "models/havelland.safetensors"
SIDES = ((160, 160), (320, 320), (512, 768), (768, 1536))
"""Pixels of the Havelland's labelled or mapped ground; the last is all of it."""
STEPS = 10
"""Of every training: what does not grow is kept small."""


def exponent(work: Sequence[float], cost: Sequence[float]) -> float:
    """p of a + b * work ** p, neither a nor b below 0."""
    x, y = np.array(work) / max(work), np.array(cost)
    found = {p: nnls(np.column_stack([np.ones_like(x), x**p]) / y[:, None], np.ones_like(y))[1] for p in _STEPS}
    return min(found, key=lambda p: found[p])


_STEPS = [round(0.05 * step, 2) for step in range(1, 41)]


def raster(path: Path, values: np.ndarray, transform: Affine, crs: Any) -> Path:
    """Write (bands, height, width)."""
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(values)
    return path


def labels(folder: Path, height: int, width: int) -> Path:
    """Two classes in checks of 40 px, on every pixel of a corner of the region."""
    from lianet_user.files.artifact import open_region_file

    grid = open_region_file(REGION).header.grid.geobox
    rows, cols = np.mgrid[:height, :width] // 40
    values = ((rows + cols) % 2 + 1).astype(np.uint8)[None]
    return raster(folder / f"labels_{height}_{width}.tif", values, grid.affine, grid.crs.to_wkt() if grid.crs else None)


def imagery(folder: Path, side: int, dates: int) -> Path:
    """Smooth noise in four bands, a GeoTIFF for each date."""
    rng = np.random.default_rng(0)
    path = folder / f"imagery_{side}_{dates}"
    path.mkdir()
    for date in range(dates):
        coarse = rng.integers(200, 4000, (4, side // 16, side // 16))
        values = coarse.repeat(16, 1).repeat(16, 2) + rng.integers(0, 50, (4, side, side))
        transform = Affine(10.0, 0.0, 300_000.0, 0.0, -10.0, 5_900_040.0)
        raster(path / f"2021-{date + 1:02}-15.tif", values.astype(np.uint16), transform, "EPSG:32633")
    return path


def finetune(folder: Path, height: int, width: int) -> Taken:
    words = ["finetune", REGION, labels(folder, height, width), "-o", "head.safetensors", "--overwrite"]
    return run([*words, "--no-picture", "--no-report", "--steps", STEPS, "--members", 1], folder, 1)


def predict(folder: Path, height: int, width: int) -> Taken:
    like = labels(folder, height, width)
    words = ["predict", "head.safetensors", "--region", REGION, "--like", like, "-o", "map.tif", "--overwrite"]
    return run(words, folder, 1)


def pretrain(folder: Path, side: int, dates: int) -> Taken:
    words = ["pretrain", imagery(folder, side, dates), "--bands", "B02,B03,B04,B08"]
    words += ["-o", f"region_{side}_{dates}.safetensors", "--steps", STEPS]
    return run([*words, "--licence", "none", "--attribution", "none", "--overwrite"], folder, 1)


def table(
    title: str, unit: str, cases: Sequence[tuple[float, tuple[int, int]]], work: Callable[..., Taken], folder: Path
) -> dict[str, Any]:
    rows = []
    for amount, sizes in cases:
        taken = work(folder, *sizes)
        rows.append({unit: round(amount, 2), "cpu_seconds": round(taken.cpu, 2), "peak_mb": round(taken.peak_mb)})
        print(title, rows[-1], flush=True)
    amounts = [row[unit] for row in rows]
    return {
        "title": title,
        "rows": rows,
        "exponent_of_time": exponent(amounts, [row["cpu_seconds"] for row in rows]),
        "exponent_of_memory": exponent(amounts, [row["peak_mb"] for row in rows]),
    }


def markdown(tables: Sequence[dict[str, Any]]) -> str:
    lines = []
    for each in tables:
        unit = next(iter(each["rows"][0]))
        lines += [f"**{each['title']}**", "", f"| {unit} | processor seconds | MB at most |", "|---|---|---|"]
        lines += [f"| {row[unit]:g} | {row['cpu_seconds']:.1f} | {row['peak_mb']} |" for row in each["rows"]]
        lines += [f"| *exponent* | {each['exponent_of_time']:g} | {each['exponent_of_memory']:g} |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    areas = [(height * width / 1e4, (height, width)) for height, width in SIDES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [
            table("Fine-tuning, ten steps: labelled area", "km2", areas, finetune, folder),
            table("Map: mapped area", "km2", areas, predict, folder),
            table(
                "Encoding, ten steps, one date: area",
                "km2",
                [(side**2 / 1e4, (side, 1)) for side in (256, 512, 1024)],
                pretrain,
                folder,
            ),
            table(
                "Encoding, ten steps, 512 x 512 px: dates",
                "dates",
                [(dates, (512, dates)) for dates in (2, 4, 8)],
                pretrain,
                folder,
            ),
        ]
    arguments.results.write_text(json.dumps(tables, indent=1) + "\n")
    print(markdown(tables))


if __name__ == "__main__":
    main()
