"""Does a region forget when it learns new dates? Bouconne with five dates, updated by two, beside encoding all seven anew.

    python benchmarks/update.py --stack 2018_3A_Theia_Bouconne.tif --folder FOLDER

The five dates are encoded first, then updated with the other two from their imagery alone; `naive` does the same without
being held to what was remembered. All figures are PSNR against the imagery itself, in dB; one JSON document is printed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from pathlib import Path

import numpy as np

from lianet_user.files.header import Acquisition
from lianet_user.imagery import Imagery, ImageryOptions, Resident, open_imagery
from lianet_user.pretraining import PretrainSettings, RegionWords, UpdateSettings, pretrain, update
from lianet_user.pretraining.quality import measure_quality
from lianet_user.region import Region

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
DAYS = ("04-29", "05-13", "07-08", "08-15", "09-15", "10-15", "11-15")
NEW = (3, 6)
"""A date between the others, and one after them."""
WORDS = RegionWords(name="bouconne", title="Bouconne", licence="none", attribution="none")


def levels(path: Path, imagery: Imagery) -> dict[str, float]:
    """Mean PSNR over the old dates that a file holds, and over the new ones."""
    region = Region.open(path)
    found: dict[str, list[float]] = {"old": [], "new": []}
    for index, held in enumerate(imagery.acquisitions):
        if held.date in region.header.dates:
            (quality,) = measure_quality(region, imagery, acquisitions=[index])
            found["new" if index in NEW else "old"].append(quality.psnr_db or 0.0)
    return {name: round(float(np.mean(values)), 2) for name, values in found.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, default=300, help="of encoding anew; updating takes as many as --update-steps"
    )
    parser.add_argument("--update-steps", type=int, default=150)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    dates = tuple(Acquisition(date=dt.date.fromisoformat(f"2018-{day}")) for day in DAYS)
    imagery = Resident.of(open_imagery([arguments.stack], ImageryOptions(bands=BANDS, dates=dates)))
    old = imagery.only([index for index in range(len(dates)) if index not in NEW])
    new = imagery.only(NEW)
    before, after, anew = (arguments.folder / f"{name}.safetensors" for name in ("before", "after", "anew"))
    report: dict[str, dict[str, float]] = {}

    def timed(name: str, path: Path, started: float) -> None:
        report[name] = levels(path, imagery) | {"seconds": round(time.monotonic() - started)}

    started = time.monotonic()
    pretrain(old, before, WORDS, settings=PretrainSettings(steps=arguments.steps))
    timed("five dates", before, started)
    for name, replay in (("updated", True), ("naive", False)):
        started = time.monotonic()
        update(before, new, after, settings=UpdateSettings(steps=arguments.update_steps, replay=replay))
        timed(name, after, started)
    started = time.monotonic()
    pretrain(imagery, anew, WORDS, settings=PretrainSettings(steps=arguments.steps))
    timed("seven dates anew", anew, started)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
