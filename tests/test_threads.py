"""Threads: as many as there are cores to use, and asleep while they wait, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lianet, refused

from lianet_user import threads
from lianet_user.errors import EXIT_BAD_INPUT


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four cores that run two threads each, of which this process may use all."""
    for number in range(8):
        folder = tmp_path / "cpu" / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text(f"{number % 4}\n")
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(threads, "TOPOLOGY", tmp_path / "cpu")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "processors", lambda: set(range(8)))
    return tmp_path


def test_a_core_counts_once_however_many_threads_it_runs(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.sensible() == 4
    monkeypatch.setattr(threads, "processors", lambda: {1, 2, 5})
    assert threads.sensible() == 2
    monkeypatch.setattr(threads, "TOPOLOGY", machine / "nowhere")  # a system that does not tell
    assert threads.sensible() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize(
    ("files", "quota", "count"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5, 1),
        ({"cpu.max": "max 100000\n"}, None, 4),
        ({"cpu.max": "1600000 100000\n"}, 16.0, 4),
        ({"cpu.max": "nonsense\n"}, None, 4),
        ({}, None, 4),
    ],
)
def test_a_container_is_given_no_more_threads_than_its_quota(
    files: dict[str, str], quota: float | None, count: int, machine: Path
) -> None:
    for name, text in files.items():
        (machine / "cgroup" / name).write_text(text)
    assert threads.quota() == quota
    assert threads.sensible() == count


def environment(*words: str, **variables: str) -> dict[str, str]:
    """The variables of a command that was started with some set, and its number of threads."""
    code = (
        "import os, lianet_user.cli as cli, lianet_user.threads as threads\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        "import torch\n"
        "print('THREADS', torch.get_num_threads())\n"
        "print(*(f'{name}={os.environ.get(name)}' for name in (*threads.SLEEPING, *threads.COUNTS)))\n"
    )
    own = {name: value for name, value in os.environ.items() if name not in (*threads.SLEEPING, *threads.COUNTS)}
    words = (sys.executable, "-c", code, *words)
    done = subprocess.run(words, env=own | variables, capture_output=True, text=True, timeout=120, check=True)
    *_, count, said = done.stdout.splitlines()
    return dict(each.split("=") for each in said.split()) | {"threads": count.split()[1]}


def test_commands_wait_asleep_and_take_the_cores_there_are() -> None:
    found = environment("models", "--help")
    assert all(found[name] == value for name, value in threads.SLEEPING.items())
    assert found["threads"] == found["OMP_NUM_THREADS"] == str(threads.sensible())


def test_what_the_user_says_holds() -> None:
    found = environment("models", "--help", OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="1")
    assert (found["OMP_WAIT_POLICY"], found["OMP_NUM_THREADS"], found["threads"]) == ("ACTIVE", "1", "1")
    assert environment("--threads", "1", "models", "list", OMP_NUM_THREADS="2")["threads"] == "1"


def test_no_thread_is_too_few(tmp_path: Path) -> None:
    assert "--threads" in refused(lianet("--threads", 0, "info", "x", code=EXIT_BAD_INPUT, cwd=tmp_path))
