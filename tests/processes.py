"""Processes of the tests' own, of which only the first waits for torch and what comes with it to be imported."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = [
    "lianet_user.cli",
    "lianet_user.imagery",
    "lianet_user.region",
    "lianet_user.finetuning",
    "lianet_user.pretraining",
    "safetensors.torch",
]

if sys.platform == "linux":
    CONTEXT = multiprocessing.get_context("forkserver")
else:
    CONTEXT = multiprocessing.get_context("spawn")


class Child:
    """A process that calls a function of a module, with one thread as the tests have, and what it says.

    A server that has imported everything forks it where the system can do that safely; elsewhere it is started from nothing.

    Args:
        folder: for its standard output and standard error.
        call: what it does; its result, if any, is the exit code.
        variables: of its environment, besides those of the tests' when the first of these processes was started.
    """

    def __init__(self, folder: Path, call: Callable[..., int | None], *arguments: object, **variables: str) -> None:
        CONTEXT.set_forkserver_preload(PRELOADED)
        folder.mkdir(parents=True, exist_ok=True)
        self._said = [folder / name for name in ("out.txt", "err.txt")]
        self._process: BaseProcess = CONTEXT.Process(target=_begin, args=(self._said, variables, call, arguments))
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def stop(self, number: int, when: Callable[[], bool]) -> str:
        """Send it a signal as soon as something holds, and return what it had said on standard error when it had ended."""
        try:
            while not when():
                assert self.running, self.said
                time.sleep(0.002)
            assert self._process.pid is not None
            os.kill(self._process.pid, number)
            return self.wait(60)[1]
        finally:
            self.kill()

    def kill(self) -> None:
        """End it if it did not end by itself, and leave nothing of it but what it said."""
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float) -> tuple[str, str]:
        """Standard output and standard error of a process that ended in time.

        Raises:
            TimeoutError: it did not.
        """
        self._process.join(seconds)
        if self.running:
            raise TimeoutError(f"{self._process} still runs after {seconds} s: {self.said}")
        return self.said

    @property
    def said(self) -> tuple[str, str]:
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        return out, err

    @property
    def code(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it runs."""
        return self._process.exitcode


def _begin(
    said: list[Path], variables: dict[str, str], call: Callable[..., int | None], arguments: tuple[object, ...]
) -> None:
    import torch

    for number, path in enumerate(said, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(variables)
    torch.set_num_threads(1)
    sys.exit(call(*arguments))


def kept_often(*words: str) -> None:
    """The command line, to whose clock every step is long: what is trained is kept after each."""
    from lianet_user.files import checkpoint

    checkpoint.KEPT_EVERY = 0.0
    lianet(*words)


def lianet(*words: str) -> None:
    """The command line, to be called in a process of its own."""
    from lianet_user.cli import main

    sys.argv = ["lianet-user", *words]
    main()
