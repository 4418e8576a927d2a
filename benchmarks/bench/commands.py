"""The claims about whole commands: processes of their own, from the start of Python to their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np

from benchmarks.bench.claims import Row

POINTS = 100


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds of the wall clock, of processors, and MB of memory at most.

    Linux counts the memory of the process that started it too, so the last is only right if that one is smaller.
    """

    wall: float
    cpu: float
    peak_mb: float


def run(arguments: Sequence[object], folder: Path, threads: int) -> Taken:
    """Run the command line in a folder.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    words = [sys.executable, "-m", "lianet_user", *map(str, arguments)]
    paths = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
    started = time.monotonic()
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, stderr=said)
    peak = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Taken(time.monotonic() - started, used.ru_utime + used.ru_stime, peak)


def best(arguments: Sequence[object], folder: Path, threads: int, times: int) -> Taken:
    """The least of several runs, of each figure."""
    found = [run(arguments, folder, threads) for _ in range(times)]
    return Taken(min(t.wall for t in found), min(t.cpu for t in found), min(t.peak_mb for t in found))


def command_row(claim: str, work: str, taken: Taken, target: float) -> Row:
    """What a process took, beside the seconds that it may."""
    return Row(
        claim=claim,
        work=work,
        ours=f"{taken.wall:.3g} s, {taken.cpu:.3g} s of processors",
        baseline="",
        ratio=None,
        spread=None,
        ceiling="",
        target=f"{target:g} s",
        reached=taken.wall <= target,
    )


def start_up(region: Path, folder: Path, times: int) -> list[Row]:
    """What answers before torch is there."""
    rows = []
    for words, target in ((["--help"], 0.3), (["info", region], 0.6)):
        taken = best(words, folder, 1, times)
        rows.append(command_row(f"lianet-user {words[0]}", "a process, the best of several", taken, target))
    return rows


def points(polygons: Path, path: Path, seed: int = 0) -> Path:
    """A hundred points at random places of labelled polygons, each with their class."""
    found = geopandas.read_file(polygons)
    areas = found.geometry.area.to_numpy()
    chosen = np.random.default_rng(seed).choice(len(found), POINTS, p=areas / areas.sum())
    rows = found.iloc[chosen]
    places = [shape.sample_points(1, rng=seed + n).iloc[0] for n, shape in enumerate(_each(rows))]
    geopandas.GeoDataFrame({"class": rows["class"].to_numpy()}, geometry=places, crs=found.crs).to_file(path)
    return path


def _each(rows: geopandas.GeoDataFrame) -> list[geopandas.GeoSeries]:
    return [geopandas.GeoSeries([shape], crs=rows.crs) for shape in rows.geometry]


def loop(region: Path, polygons: Path, folder: Path, threads: int, times: int) -> list[Row]:
    """From a hundred points to a head, and from a head to the map of the whole region.

    The head is left as `head.safetensors` in the folder.
    """
    labels = points(polygons, folder / "points.gpkg")
    command = ["finetune", region, labels, "--field", "class", "-o", "points.safetensors", "--overwrite"]
    taught = best(command, folder, threads, times)
    quick = best([*command, "--no-picture", "--no-report"], folder, threads, times)
    whole = ["predict", "points.safetensors", "--region", region, "-o", "map.tif", "--overwrite"]
    mapped = best(whole, folder, threads, times)
    exact = best([*whole, "--precision", "float32"], folder, threads, times)
    started = run(["predict", "--help"], folder, threads)
    words = f"{threads} thread{'s' * (threads > 1)}, the best of {times}"
    return [
        command_row(f"fine-tuning from {POINTS} points", f"lite, picture and report included; {words}", taught, 20),
        command_row("the same without picture and report", words, quick, 20),
        command_row("map of the Havelland from lite", f"118 km2; {words}", mapped, 12),
        command_row("the same in float32", words, exact, 12),
        command_row("of which the command line starts", words, started, 0.5),
    ]
