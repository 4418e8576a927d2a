"""How fast is it, beside the paper's loop as it was published, and beside what the machine can do?

    python -m benchmarks.bench --results benchmarks/results/speed.json
    python -m benchmarks.bench --results speed.json --only encoding step

One table is printed, and written as JSON. Whatever is not measured again is taken from the results that are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import claims, commands
from benchmarks.bench.claims import Row
from benchmarks.bench.measuring import ceilings

ROOT = Path(__file__).resolve().parents[2]
REGION = ROOT / "models/havelland.safetensors"
LABELS = ROOT / "tutorials/data/havelland_landcover.gpkg"


def measurements(folder: Path, turns: int, threads: int, runs: int) -> dict[str, Callable[[], list[Row]]]:
    """By name, in the order of the table; `agreement` needs the head that `loop` leaves."""
    return {
        "step": lambda: claims.step(folder, turns),
        "encoding": lambda: claims.encoding(2 * turns + 1),
        "map": lambda: claims.base_map(folder, turns),
        "shares": lambda: claims.shares(folder, REGION, 2 * turns + 1),
        "loop": lambda: [
            *commands.loop(REGION, LABELS, folder, threads, runs),
            *claims.agreement(folder / "points.safetensors", REGION),
        ],
        "start": lambda: commands.start_up(REGION, folder, 5),
    }


def markdown(document: dict[str, Any]) -> str:
    """The table, and what the machine could do while it was measured."""
    lines = [
        "| claim | ours | as published | times less | ceiling, share | target | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows in document["rows"].values():
        for row in rows:
            lines.append(_line(Row(**row)))
    lines += ["", "Measured on the spot, one thread: "]
    lines[-1] += "; ".join(f"{name} {value:.3g}" for name, value in document["ceilings"].items()) + "."
    return "\n".join(lines)


def _line(row: Row) -> str:
    ratio = share = ""
    if row.ratio is not None and row.baseline:
        ratio = f"**{row.ratio:.1f}**"
        if row.spread:
            ratio += f" ({row.spread[0]:.1f} to {row.spread[1]:.1f})"
    elif row.ratio is not None:
        share = f", **{row.ratio:.0%}**"
    reached = {True: "yes", False: "no", None: ""}[row.reached]
    cells = (f"{row.claim}: {row.work}", row.ours, row.baseline, ratio, row.ceiling + share, row.target, reached)
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3, help="pairs of runs that a ratio is the median of")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the whole commands")
    parser.add_argument("--runs", type=int, default=3, help="of whole commands, of which the best counts")
    parser.add_argument("--only", nargs="*", help="measure these and keep the other results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"rows": {}}
    if arguments.only and arguments.results.exists():
        document = json.loads(arguments.results.read_text())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = measurements(folder, arguments.turns, arguments.threads, arguments.runs)
        document["machine"] = {"processor": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__}
        document["ceilings"] = ceilings(folder, 5)
        found = {}
        for each, measure in every.items():
            if not arguments.only or each in arguments.only:
                document["rows"][each] = [dataclasses.asdict(row) for row in measure()]
                print("\n".join(_line(Row(**row)) for row in document["rows"][each]), flush=True)
            if each in document["rows"]:
                found[each] = document["rows"][each]
        document["rows"] = found
    arguments.results.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{markdown(document)}")


if __name__ == "__main__":
    main()
