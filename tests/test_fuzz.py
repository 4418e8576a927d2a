"""Readers of files from anywhere answer or refuse, whatever they are given."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "fuzz"
SECONDS = int(os.environ.get("LIANET_FUZZ_SECONDS", "600"))


def load_targets() -> object:
    spec = importlib.util.spec_from_file_location("fuzz_targets", FOLDER / "targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


targets = load_targets()
NAMES = sorted(targets.TARGETS)  # type: ignore[attr-defined]


def seeds(name: str) -> list[Path]:
    return sorted((FOLDER / "corpus" / name).iterdir())


@pytest.mark.parametrize("path", [path for name in NAMES for path in seeds(name)], ids=lambda path: path.parent.name)
def test_every_seed_and_every_finding_is_answered_or_refused(path: Path) -> None:
    targets.run(path.parent.name, path.read_bytes())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_seeds_with_a_few_bytes_changed_are_answered_or_refused(name: str) -> None:
    draw = random.Random(0)
    for number in range(60):
        data = bytearray(draw.choice(seeds(name)).read_bytes())
        for _ in range(draw.choice((1, 3, 30))):
            # The first bytes hold the header, where nearly all decisions are taken.
            place = draw.randrange(min(len(data), 6000) or 1)
            if number % 3 == 0 and data:
                del data[place : place + draw.randrange(1, 40)]
            elif number % 3 == 1 and data:
                data[place % len(data)] = draw.randrange(256)
            else:
                data[place:place] = draw.choice((b"null", b"-1", b"1e999", b'"', b"[", b"\\u0000", b"9" * 400))
        targets.run(name, bytes(data))  # type: ignore[attr-defined]


STRANGE: tuple[Any, ...] = (
    None,
    -1,
    0,
    7,
    2**62,
    10**30,
    1e308,
    1e-300,
    "",
    "\x1b[2J",
    "x" * 30_000,
    [],
    {},
    True,
    [1e308] * 6,
    "9999-12-31",
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a document."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from leaves(each, (*path, key))


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("head_header", "document"),
        ("region_header", "document"),
        ("catalogue_item", "antimeridian"),
        ("catalogue_item", "remote"),
        ("catalogue_item", "catalogue"),
    ],
)
def test_documents_with_one_strange_value_are_answered_or_refused(name: str, seed: str) -> None:
    whole = (FOLDER / "corpus" / name / seed).read_bytes()
    mode, text = whole[:1], whole[1:]
    draw = random.Random(1)
    for path in leaves(json.loads(text)):
        document = json.loads(text)
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = draw.choice(STRANGE)
        targets.run(name, mode + json.dumps(document).encode())  # type: ignore[attr-defined]


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_atheris_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    (tmp_path / "grown").mkdir()
    words = [
        *(sys.executable, FOLDER / "targets.py", name, tmp_path / "grown", FOLDER / "corpus" / name),
        *(f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/", "-timeout=20", "-rss_limit_mb=4096"),
        *("-max_len=200000", "-print_final_stats=1"),
    ]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=SECONDS + 300, cwd=tmp_path)
    print(done.stderr[-3000:])
    assert done.returncode == 0, done.stderr[-3000:]
