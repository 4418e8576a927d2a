"""Makes every call that writes fail in turn, and looks at what is left.

`LD_PRELOAD=failing.so python inject.py FOLDER [COMMAND ...]` where FOLDER holds region.safetensors, head.safetensors and
labels.tif. Each call fails in a process of its own, forked from one that has imported everything. Prints a line of JSON for
each command; exit code 1 where the guarantee does not hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio

from lianet_user.artifact import open_head_file
from lianet_user.cli import _run

QUICK = "--steps 4 --members 1 --batch 2 --crop 16 --block 16 -q --overwrite".split()
COMMANDS: dict[str, tuple[list[str], str]] = {
    "finetune": (["finetune", "region.safetensors", "labels.tif", "-o", "new.safetensors", *QUICK], "new.safetensors"),
    "predict": (["predict", "head.safetensors", "-o", "map.tif", "-q", "--overwrite"], "map.tif"),
}


EARLIER = b"an earlier file"


def head(path: Path) -> list[np.ndarray]:
    return list(open_head_file(path).tensors().values())


def map_(path: Path) -> list[np.ndarray]:
    with rasterio.open(path) as file:
        return [file.read()]


CONTENTS: dict[str, Callable[[Path], list[np.ndarray]]] = {"finetune": head, "predict": map_}


def attempt(source: Path, command: str, nth: int, error: int, lasting: bool) -> tuple[str, int]:
    """Run a command in a process in which the nth call fails; what is wrong with what it leaves, and calls seen."""
    arguments, name = COMMANDS[command]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "files"
        shutil.copytree(source, folder)
        (folder / name).write_bytes(EARLIER)
        said, count = Path(place) / "said", Path(place) / "count"
        child = os.fork()
        if not child:
            code = 99
            with contextlib.suppress(BaseException):
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
                os.chdir(folder)
                calls = ctypes.CDLL(None)
                calls.fault_arm(str(folder).encode(), nth, error, int(lasting))
                code = _run(arguments)
                count.write_text(str(calls.fault_seen()))
            os._exit(code)
        _, status = os.waitpid(child, 0)
        code, text = os.waitstatus_to_exitcode(status), said.read_text()
        wrong = _wrong(command, code, text, folder / name, source / name)
        seen = int(count.read_text()) if count.exists() else 0
        how = f"call {nth} {'and all later ones ' if lasting else ''}failing with {errno.errorcode.get(error)}"
        return (f"{how}: {wrong}: {text[-400:]}" if wrong else ""), seen


def _wrong(command: str, code: int, text: str, found: Path, expected: Path) -> str:
    if code not in (0, 2):
        return f"exit code {code}"
    lines = sum(line.startswith("error:") for line in text.splitlines())
    if "Traceback" in text or lines != (code == 2):
        return "no single line"
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
    for command in sys.argv[2:] or COMMANDS:
        with contextlib.chdir(source):
            if _run(COMMANDS[command][0]):  # imports everything, and leaves what is expected
                return 1
        problem, calls = attempt(source, command, 10**9, 0, lasting=False)
        problems, runs = [problem] if problem else [], 0
        for nth in range(1, calls + 1):
            # A disk that is full stays full; one that fails may do so once.
            for error, lasting in ((errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True)):
                problem, _ = attempt(source, command, nth, error, lasting)
                problems += [problem] if problem else []
                runs += 1
        print(json.dumps({"command": command, "calls": calls, "runs": runs, "problems": problems}), flush=True)
        failed += len(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
