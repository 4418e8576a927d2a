"""The command line as people meet it: what it prints, its exit code, and the one line by which it refuses an input."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lianet_user.cli import _run
from lianet_user.errors import EXIT_BAD_INPUT


@dataclass(frozen=True)
class Done:
    """What a command line printed on standard output and on standard error."""

    out: str
    err: str


def lianet(*arguments: object, code: int = 0, cwd: Path | str = ".") -> Done:
    """Run it in this process and see that it ends with a code: what it lets through, a test sees as it is."""
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        returned = _run([*map(str, arguments)])
    assert returned == code, told.getvalue()
    return Done(printed.getvalue(), told.getvalue())


def process(*arguments: object, code: int = 0, cwd: Path | str = ".") -> Done:
    """The same in a process of its own, for which torch has to be imported again."""
    words = [sys.executable, "-m", "lianet_user", *map(str, arguments)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return Done(done.stdout, done.stderr)


def refused(done: Done) -> str:
    """The one line that says what is wrong; the command ended with it."""
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.err
    assert done.err.splitlines()[-1] == errors[0]
    assert "Traceback" not in done.err
    return errors[0]


def refusal(*arguments: object, cwd: Path | str = ".") -> str:
    """How a command line that is run in this process refuses its input."""
    return refused(lianet(*arguments, code=EXIT_BAD_INPUT, cwd=cwd))
