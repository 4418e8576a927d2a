"""How long does a map of a whole Sentinel-2 tile take, and how much memory? 10980 x 10980 px from a `lite` region.

Region and head have arbitrary weights: what they say takes as long and as much memory as anything else.

    python benchmarks/large_map.py --folder FOLDER --side 3000 --kill-at 0.5

With --kill-at the process that makes the map is killed (SIGKILL) when that share of it is done, and another goes on from
what the first left (--resume). A line of JSON is printed for each process. The map stays in the folder; the region file of
10980 px takes about 200 MB.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from lianet_user.field.config import HeadConfig, HeadInput, preset
from lianet_user.field.head import HeadEnsemble
from lianet_user.field.model import NeuralField
from lianet_user.field.weights import save_region
from lianet_user.files.header import (
    Acquisition,
    Band,
    ClassEntry,
    GridHeader,
    HeadHeader,
    Provenance,
    RegionHeader,
    RegionRef,
)
from lianet_user.geo.grid import TILE, Window
from lianet_user.head import Head
from lianet_user.maps import predict
from lianet_user.maps.resume_store import store_path
from lianet_user.region import Region

SIDE, BANDS, CLASSES = 10_980, 10, 6


def region_of(path: Path, side: int, name: Literal["lite", "base"] = "lite") -> Region:
    """A region of `side` x `side` px that has learned nothing, with the field of a preset."""
    geobox = GeoBox((side, side), Affine(10.0, 0.0, 300_000.0, 0.0, -10.0, 5_900_040.0), "EPSG:32633")
    config = preset(name, height=side, width=side, dates=1, bands=BANDS)
    made = Provenance(created=dt.datetime(2025, 1, 1, tzinfo=dt.UTC), source="none", settings={}, software={})
    header = RegionHeader(
        name="large",
        title="large",
        grid=GridHeader.of(geobox),
        bands=tuple(Band(name=f"B{number:02}", gsd_m=10.0) for number in range(BANDS)),
        acquisitions=(Acquisition(date=dt.date(2021, 5, 1)),),
        field=config,
        licence="none",
        attribution="none",
        provenance=made,
        lineage="0" * 32,
    )
    if not path.exists():
        torch.manual_seed(0)
        save_region(path, header, NeuralField(config))
    return Region.open(path)


def head_on(
    region: Region,
    inputs: tuple[HeadInput, ...] = ("features", "bands", "context"),
    norm: Literal["batch", "group"] = "batch",
    members: int = 2,
) -> Head:
    """An untrained head, by default as finetune makes it."""
    config = HeadConfig(
        inputs=inputs,
        in_channels=region.channels(inputs),
        widths=(128, 128, 64, 64, 32),
        outputs=CLASSES,
        norm=norm,
        members=members,
    )
    header = region.header
    document = HeadHeader(
        task="segmentation",
        classes=tuple(ClassEntry(name=f"class {number}", color=f"#{number * 40:02x}8060") for number in range(CLASSES)),
        head=config,
        region=RegionRef(name=header.name, lineage=header.lineage, sha256=str(region.sha256), path=str(region.path)),
        dates=header.dates,
        scores=None,
        provenance=header.provenance,
        attribution="none",
    )
    torch.manual_seed(0)  # a run that is taken up again needs the same head
    return Head(document, HeadEnsemble(config), region)


def peak_mb() -> int:
    """Most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak / 1e3)


def map_it(folder: Path, side: int, *, resume: bool, probabilities: bool) -> dict[str, Any]:
    """Make the map in this process, and say what it took."""
    imports = peak_mb()
    head = head_on(region_of(folder / f"large_{side}.safetensors", side))
    opened, started = peak_mb(), time.monotonic()
    found: list[int] = []

    def note(done: int, _: int) -> None:
        if not found:
            found.append(done)

    results = predict(
        head,
        folder / "large.tif",
        overwrite=True,
        resume=resume,
        probabilities=probabilities,
        listener=note,
    )
    seconds, pixels = time.monotonic() - started, side**2 - found[0]
    return {
        "side": side,
        "resumed_at_mpx": round(found[0] / 1e6, 3),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "mpx_per_s": round(pixels / 1e6 / seconds, 4),
        "imports_mb": imports,
        "opened_mb": opened,
        "peak_mb": peak_mb(),
        "map_mb": round(sum(result.path.stat().st_size for result in results) / 1e6, 1),
    }


def kill_at(share: float, folder: Path, command: Sequence[str], tiles: int) -> dict[str, Any]:
    """Start the map in another process and kill it when `share` of its tiles are kept."""
    process = subprocess.Popen(command)
    kept = store_path(folder / "large.tif")
    while process.poll() is None and len(list(kept.glob("*.npz"))) < share * tiles:
        time.sleep(0.05)
    if process.poll() is not None:
        sys.exit(f"the run ended by itself, with {process.returncode}, before it could be killed")
    process.kill()
    process.wait()
    return {"killed_with_tiles": len(list(kept.glob("*.npz"))), "of": tiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the region and the map are or will be")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels")
    parser.add_argument("--kill-at", type=float, help="share of the tiles after which the run is killed, then resumed")
    parser.add_argument("--resume", action="store_true", help="go on from what a killed run left")
    parser.add_argument("--probabilities", action="store_true", help="write the classes' probabilities too")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves the choice to it")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.kill_at is not None:
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--side", str(arguments.side)]
        command += ["--threads", str(arguments.threads), *(["--probabilities"] if arguments.probabilities else [])]
        tiles = sum(1 for _ in Window(0, 0, arguments.side, arguments.side).tiles(TILE))
        print(json.dumps(kill_at(arguments.kill_at, arguments.folder, command, tiles)), flush=True)
        sys.exit(subprocess.run([*command, "--resume"], check=False).returncode)
    found = map_it(arguments.folder, arguments.side, resume=arguments.resume, probabilities=arguments.probabilities)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
