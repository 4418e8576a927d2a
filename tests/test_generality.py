"""A fast part of the bench of many regions: no head falls clearly behind the forest that reads the imagery itself.

The whole is `benchmarks/generality.py`. Here: a region that no default was chosen on, encoded in eight steps, the shipped
havelland, and numbers.
"""

import argparse
import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lianet_user.imagery import ImageryOptions, open_imagery
from lianet_user.pretraining import PretrainSettings, RegionWords, pretrain

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CELLS = ("brazil:points-200", "brazil:each-10", "havelland:points-200", "romania:points-100")
DRAWS = 2

_specification = importlib.util.spec_from_file_location("generality", ROOT / "benchmarks" / "generality.py")
assert _specification is not None
assert _specification.loader is not None
generality = importlib.util.module_from_spec(_specification)
sys.modules["generality"] = generality  # its dataclasses look for their module there
_specification.loader.exec_module(generality)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the imagery of the regions, ../shared/data, is not here")
def test_heads_keep_up_with_forests_on_imagery(tmp_path: Path) -> None:
    words = RegionWords(name="brazil", title="brazil", licence="CC-BY-4.0", attribution="see the README of the data")
    scenes = sorted(str(path) for path in DATA.glob(generality.PLACES["brazil"].imagery))
    pretrain(
        open_imagery(scenes, ImageryOptions()),
        tmp_path / "brazil.safetensors",
        words,
        settings=PretrainSettings(steps=8, batch=4),
    )
    results = tmp_path / "results.jsonl"
    asked = argparse.Namespace(
        data=DATA, regions=tmp_path, results=results, cells=CELLS, draws=DRAWS, contenders=["lianet", "forest-context"]
    )
    generality.run(asked)
    rows = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        figures[row["cell"], row["contender"]].append(-row["mae"] if "mae" in row else row["macro_f1"])
    assert len(figures) == 2 * len(CELLS)
    for cell in CELLS:
        head, forest = (np.mean(figures[cell, name]) for name in ("lianet", "forest-context"))
        # nine tenths of the forest's macro F1, or a tenth more of its error
        assert head > (forest * 1.1 if forest < 0 else forest * 0.9), (cell, head, forest)
