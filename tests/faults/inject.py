"""Makes every call that writes fail in turn, and looks at what is left.

`LD_PRELOAD=failing.so python inject.py FOLDER [COMMAND ...]` where FOLDER holds region.safetensors, head.safetensors and
labels.tif. Each call fails in a process of its own, forked from one that has imported everything, one for each core at a
time. Prints what breaks the guarantee as it is found and, at the end of each command, a line of JSON; exit code 1 where
anything did.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import rasterio
from matplotlib.figure import Figure

from lianet_user.cli import _run
from lianet_user.files.artifact import open_head_file

QUICK = "--steps 4 --members 1 --batch 2 --crop 16 --block 16 -q --overwrite".split()
COMMANDS: dict[str, tuple[list[str], str]] = {
    "finetune": (["finetune", "region.safetensors", "labels.tif", "-o", "new.safetensors", *QUICK], "new.safetensors"),
    "predict": (["predict", "head.safetensors", "-o", "map.tif", "-q", "--overwrite"], "map.tif"),
}
FAULTS = ((errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True))
"""A disk that is full stays full, and so does one that can only be read; one that fails may do so once."""
LIMIT_S = int(os.environ.get("LIANET_FAULT_SECONDS", "120"))
"""What does not end on its own is a finding too."""

EARLIER = b"an earlier file"


def head(path: Path) -> list[np.ndarray]:
    return list(open_head_file(path).tensors().values())


def map_(path: Path) -> list[np.ndarray]:
    with rasterio.open(path) as file:
        return [file.read()]


CONTENTS: dict[str, Callable[[Path], list[np.ndarray]]] = {"finetune": head, "predict": map_}


@dataclass(frozen=True)
class Attempt:
    """A command in which the nth call fails, and all later ones if that lasts."""

    command: str
    nth: int
    number: int = 0
    lasting: bool = False

    def run(self, place: Path) -> None:
        """In a process of its own, which ends with it. Leaves beside the files what was said and how many calls there were."""
        code = 99
        with contextlib.suppress(BaseException):
            os.dup2(os.open(place / "said", os.O_WRONLY | os.O_CREAT), 2)
            os.chdir(place / "files")
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT_S)
            calls = ctypes.CDLL(None)
            calls.fault_failed.restype = ctypes.c_char_p
            calls.fault_arm(os.fsencode(Path.cwd()), self.nth, self.number, int(self.lasting))
            code = _run(COMMANDS[self.command][0])
            (place / "calls").write_text(f"{calls.fault_seen()}\n{os.fsdecode(calls.fault_failed())}")
        os._exit(code)

    def judged(self, place: Path, status: int, source: Path) -> tuple[str, int]:
        """What is wrong with what it left, in words, and how many calls there were."""
        name = COMMANDS[self.command][1]
        code, text = os.waitstatus_to_exitcode(status), (place / "said").read_text()
        wrong = _wrong(self.command, code, text, place / "files" / name, source / name)
        seen, _, what = (place / "calls").read_text().partition("\n") if (place / "calls").exists() else ("0", "", "?")
        how = f"call {self.nth} ({what.replace(str(place), '')}) {'and all later ones ' if self.lasting else ''}"
        return (f"{how}failing with {errno.errorcode.get(self.number)}: {wrong}: {text}" if wrong else ""), int(seen)


def results(attempts: Sequence[Attempt], source: Path) -> Iterator[tuple[str, int]]:
    """Of each attempt as it ends, one for each core at a time, each in a folder of its own."""
    waiting, running = list(reversed(attempts)), dict[int, tuple[Attempt, tempfile.TemporaryDirectory[str]]]()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            attempt, folder = waiting.pop(), tempfile.TemporaryDirectory()
            shutil.copytree(source, Path(folder.name) / "files")
            (Path(folder.name) / "files" / COMMANDS[attempt.command][1]).write_bytes(EARLIER)
            child = os.fork()
            if not child:
                attempt.run(Path(folder.name))
            running[child] = attempt, folder
        child, status = os.wait()
        attempt, folder = running.pop(child)
        with folder:
            yield attempt.judged(Path(folder.name), status, source)


def _wrong(command: str, code: int, text: str, found: Path, expected: Path) -> str:
    if code == -signal.SIGALRM:
        return "it does not end"
    if code not in (0, 2):
        return f"exit code {code}"
    lines = text.splitlines()
    if sum(line.startswith("error: ") for line in lines) != (code == 2):
        return "no single line"
    if not all(line.startswith(("error: ", "warning: ")) for line in lines):
        return "it says what no user should read"
    if found.exists() and found.read_bytes() == EARLIER:
        return "" if code == 2 else "it claims success and wrote nothing"
    try:
        pairs = zip(CONTENTS[command](found), CONTENTS[command](expected), strict=True)
        return "" if all(np.array_equal(one, other) for one, other in pairs) else "it holds something else"
    except Exception as problem:
        return f"it is neither the earlier file nor whole: {problem}"


def main() -> int:
    source, failed = Path(sys.argv[1]), 0
    warnings.simplefilter("ignore")
    # Half of the time of a small fine-tuning; pictures are drawn in memory, and a blank one is written like any other.
    mock.patch.object(Figure, "draw").start()
    for command in sys.argv[2:] or COMMANDS:
        began = time.monotonic()
        with contextlib.chdir(source):
            if _run(COMMANDS[command][0]):  # imports everything, and leaves what is expected
                return 1
        ((problem, calls),) = results([Attempt(command, 10**9)], source)
        problems = [problem] if problem else []
        attempts = [Attempt(command, nth, *fault) for nth in range(1, calls + 1) for fault in FAULTS]
        for problem, _ in results(attempts, source):
            if problem:
                print(problem, file=sys.stderr, flush=True)
                problems.append(problem)
        figures = {"command": command, "calls": calls, "runs": len(attempts), "problems": problems}
        print(json.dumps(figures | {"seconds": round(time.monotonic() - began)}), flush=True)
        failed += len(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
