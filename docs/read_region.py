"""A reader of region files without lianet_user: the header, and the hash encoding of any window.

It stands in docs/reference/file-format.md as proof that the page suffices; tests/test_docs.py compares what it computes with
lianet_user. It needs numpy and safetensors:

    python docs/read_region.py models/havelland.safetensors ROW COL HEIGHT WIDTH
"""

import json
import math
import sys

import numpy as np
from safetensors import safe_open

C1, C2 = np.int64(0x9E3779B185EBCA87 - 2**64), np.int64(0xC2B2AE3D27D4EB4F - 2**64)
SEED, SEED_STEP = 0xD6E8FEB86659FD93, 0x9E3779B97F4A7C15


class RegionFile:
    def __init__(self, path):
        with safe_open(path, "numpy") as file:
            self.header = json.loads(file.metadata()["lianet"])
            assert (self.header["format"], self.header["format_version"]) == ("lianet-region", 1)
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        self.grid = {
            "growth": 2.0,
            "tables": "per-level",
            "interpolation": "bilinear",
            **self.header["field"]["encoding"],
        }
        self.offset = np.float32(0.5 if self.grid["pixel_origin"] == "center" else 0.0)

    def level(self, number):
        """Step in cells per pixel, nodes in a row of a direct level (None: hashed), entries of a level."""
        step = np.float32(round(self.grid["n_min"] * self.grid["growth"] ** number) / self.grid["extent"])
        rows, cols = (math.floor(np.float32(size - 1 + self.offset) * step) + 2 for size in self.grid["shape"])
        if self.grid["sizing"] == "fitted" and rows * cols <= self.grid["table_size"]:
            return step, cols, rows * cols
        return step, None, self.grid["table_size"]

    def table(self, number):
        """Entries (T, F) of a level, float32."""
        shared = self.grid["tables"] == "shared"
        first = 0 if shared else sum(self.level(below)[2] for below in range(number))
        stored = self.tensors["grid.tables"][first : first + self.level(number)[2]]
        if stored.dtype != np.int8:
            return stored.astype(np.float32)
        values = self.tensors["grid.codebook"][0 if shared else number]  # (F, 256)
        return np.stack([values[f][stored[:, f].astype(int) + 128] for f in range(len(values))], 1).astype(np.float32)

    def encode(self, row, col, height, width):
        """The hash encoding of a window: float32 (levels * F, height, width)."""
        parts = []
        for number in range(self.grid["levels"]):
            step, across, size = self.level(number)
            table = self.table(number)
            y, x = (
                (np.arange(n, n + count, dtype=np.float32) + self.offset) * step
                for n, count in ((row, height), (col, width))
            )
            low_y, low_x = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
            up_y, up_x = (
                (v - np.floor(v) if self.grid["interpolation"] == "bilinear" else v * 0 + 0.5) for v in (y, x)
            )
            part = 0.0
            for iy, wy in ((low_y, 1 - up_y), (low_y + 1, up_y)):
                for ix, wx in ((low_x, 1 - up_x), (low_x + 1, up_x)):
                    if across is not None:
                        entry = iy[:, None] * across + ix[None]
                    else:
                        seed = np.uint64(SEED ^ (number * SEED_STEP % 2**64)).astype(np.int64)
                        entry = ((ix * C1)[None] ^ (iy * C2)[:, None] ^ seed) % size
                    part = part + (wy[:, None] * wx[None])[..., None] * table[entry]
            parts.append(part.transpose(2, 0, 1))
        return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    region = RegionFile(sys.argv[1])
    encoded = region.encode(*map(int, sys.argv[2:6]))
    print(region.header["title"], encoded.shape, "mean of each channel", encoded.mean((1, 2)).round(4))
