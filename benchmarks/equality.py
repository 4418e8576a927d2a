"""How far do two computations of the same ground differ? Windows of other shapes, threads, instructions, precision.

A head's answers (logarithms of class probabilities) over a square of its region, computed as `predict` does (its tiles,
counted from the corner of the region, in float32 by the best instructions there are) and in other ways:

- `again`: the same once more;
- `other tiles`: tiles that begin elsewhere;
- `one window`: the whole square at once;
- `two threads`;
- `avx2`, `default`: with the instructions of older processors (ATEN_CPU_CAPABILITY and DNNL_MAX_CPU_ISA);
- `bfloat16`, and its other tiles: what `predict` uses where the processor has it.

Told of each: the largest difference of an answer, the pixels whose class is another, and how far the two best classes are apart
there at most. `docs/reference/equality.md` states bounds that lie above these.

    make demo
    python -m benchmarks.equality demo/head.safetensors
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lianet_user.field.model import Precision, native_bfloat16
from lianet_user.geo.grid import Window
from lianet_user.head import Head

SIDE = 768
"""Pixels along a side of the square."""
SHIFT = (131, 77)
"""Rows and columns by which other tiles begin earlier."""
OLDER = {"avx2": ("avx2", "AVX2"), "default": ("default", "SSE41")}
"""ATEN_CPU_CAPABILITY and DNNL_MAX_CPU_ISA."""


def answers(path: Path, tiles: str = "map", precision: Precision = "float32", threads: int = 1) -> NDArray[np.float32]:
    """A head's answers over the square: float32 (classes, SIDE, SIDE)."""
    torch.set_num_threads(threads)
    head = Head.open(path, precision=precision)
    square = Window(0, 0, min(SIDE, head.region.shape[0]), min(SIDE, head.region.shape[1]))
    if tiles == "one":
        return head.answers(square).numpy()
    shift = SHIFT if tiles == "other" else (0, 0)
    around = Window(-shift[0], -shift[1], square.height + shift[0], square.width + shift[1])
    found = np.empty((len(head.header.classes), square.height, square.width), np.float32)
    for tile in head.map_tiles(around):
        part = tile.intersection(square)
        if part is not None:
            found[:, *part.slices] = head.answers(part).numpy()
    return found


def elsewhere(path: Path, capability: str) -> NDArray[np.float32]:
    """The same by older instructions, which have to be chosen before torch is loaded."""
    aten, dnnl = OLDER[capability]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.npy"
        environment = os.environ | {"ATEN_CPU_CAPABILITY": aten, "DNNL_MAX_CPU_ISA": dnnl}
        subprocess.run([sys.executable, "-m", __spec__.name, path, "--write", out], env=environment, check=True)
        found: NDArray[np.float32] = np.load(out)
        return found


def row(name: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> str:
    """A row of the table."""
    classes, best = found.argmax(0), np.sort(expected, 0)
    other = classes != expected.argmax(0)
    apart = (best[-1] - best[-2])[other].max(initial=0)
    return f"| {name} | {np.abs(found - expected).max():.2g} | {other.sum():,} of {other.size:,} | {apart:.2g} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="How far do two computations of the same ground differ?")
    parser.add_argument("head", type=Path, help="a head file, its region beside it or where it was trained")
    parser.add_argument("--write", type=Path, help="only write the answers to this file")
    arguments = parser.parse_args()
    if arguments.write:
        np.save(arguments.write, answers(arguments.head))
        return
    expected = answers(arguments.head)
    print("| computed | largest difference | other class | apart at most |\n|---|---|---|---|")
    print(row("again", answers(arguments.head), expected))
    print(row("other tiles", answers(arguments.head, "other"), expected))
    print(row("one window", answers(arguments.head, "one"), expected))
    print(row("two threads", answers(arguments.head, threads=2), expected))
    for capability in OLDER:
        print(row(capability, elsewhere(arguments.head, capability), expected), flush=True)
    if native_bfloat16(torch.device("cpu")):
        half = answers(arguments.head, precision="auto")
        print(row("bfloat16", half, expected))
        print(row("bfloat16, other tiles beside its own", answers(arguments.head, "other", "auto"), half))


if __name__ == "__main__":
    main()
