"""Makes every call that writes fail in turn, and looks at what is left.

`LD_PRELOAD=failing.so python inject.py FOLDER` where FOLDER holds region.safetensors, head.safetensors and labels.tif. Each
call fails in a process of its own, forked from one that has imported everything. Prints a line of JSON for each command;
exit code 1 where the guarantee does not hold.
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

import rasterio

from lianet_user.artifact import open_head_file
from lianet_user.cli import _run

QUICK = "--steps 4 --members 1 --batch 2 --crop 16 --block 16 -q --overwrite".split()
COMMANDS: dict[str, tuple[list[str], str]] = {
    "finetune": (["finetune", "region.safetensors", "labels.tif", "-o", "new.safetensors", *QUICK], "new.safetensors"),
    "predict": (["predict", "head.safetensors", "-o", "map.tif", "-q", "--overwrite"], "map.tif"),
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


def whole_head(path: Path) -> None:
    open_head_file(path).tensors()


def whole_map(path: Path) -> None:
    with rasterio.open(path) as file:
        file.read()


WHOLE: dict[str, Callable[[Path], None]] = {"finetune": whole_head, "predict": whole_map}


def attempt(source: Path, command: str, nth: int, error: int) -> tuple[str, int]:
    """Run a command in a process in which the nth call fails; what is wrong with what it leaves, and calls seen."""
    arguments, name = COMMANDS[command]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "files"
        shutil.copytree(source, folder)
        earlier = (folder / name).read_bytes() if (folder / name).exists() else None
        said, count = Path(place) / "said", Path(place) / "count"
        child = os.fork()
        if not child:
            code = 99
            with contextlib.suppress(BaseException):
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
                os.chdir(folder)
                calls = ctypes.CDLL(None)
                calls.fault_arm(str(folder).encode(), nth, error)
                code = _run(arguments)
                seen = calls.fault_seen()
                count.write_text(str(seen))
            os._exit(code)
        _, status = os.waitpid(child, 0)
        code, text = os.waitstatus_to_exitcode(status), said.read_text()
        seen = int(count.read_text()) if count.exists() else 0
        now = (folder / name).read_bytes() if (folder / name).exists() else None
        wrong = ""
        if code not in (0, 2):
            wrong = f"exit code {code}"
        elif "Traceback" in text or sum(line.startswith("error:") for line in text.splitlines()) != (code == 2):
            wrong = "no single line"
        elif now != earlier:
            try:
                WHOLE[command](folder / name)
            except Exception as problem:
                wrong = f"{name} is neither the earlier file nor whole: {problem}"
        elif code == 0 and nth > 0 and now == earlier:
            wrong = "it claims success and wrote nothing"
        return (f"call {nth} failing with {errno.errorcode.get(error)}: {wrong}: {text[-400:]}" if wrong else ""), seen


def main() -> int:
    source, failed = Path(sys.argv[1]), 0
    warnings.simplefilter("ignore")
    for command, (arguments, _) in COMMANDS.items():
        with contextlib.chdir(source):
            if _run(arguments):  # imports everything, and leaves the earlier output
                return 1
        problem, calls = attempt(source, command, 10**9, 0)
        problems = [problem] if problem else []
        for nth in range(1, calls + 1):
            for error in ERRORS:
                problem, _ = attempt(source, command, nth, error)
                problems += [problem] if problem else []
        print(
            json.dumps({"command": command, "calls": calls, "runs": calls * len(ERRORS), "problems": problems}),
            flush=True,
        )
        failed += len(problems)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
