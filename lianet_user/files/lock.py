"""One run at a time for each output: locks that the system releases when their holder ends, however it ends."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lianet_user.errors import LianetWarning, OutputError, write_error

_UNKNOWN = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""Error numbers of file systems that support no locks."""


class HeldError(Exception):
    """Another process holds a lock; the text is its number, or empty where that is not known."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock while the block lasts.

    Args:
        path: of the lock file; its folder has to exist. At the end it is removed. A process that is killed leaves the file but
            not the lock.
        wait: for another process that holds it.

    Raises:
        HeldError: another process holds it.
        OSError: the file cannot be written.

    Warns:
        LianetWarning: the file system knows no locks, so two processes are not kept apart.
    """
    descriptors: list[int] = []
    # Never the library's fallback, a lock by existence alone, which a killed process would hold for ever.
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False, on_acquired=descriptors.append)
    try:
        lock.acquire()
    except Timeout as error:
        raise HeldError(_signature(path)) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _UNKNOWN:
            raise
        message = f"the file system of {path.parent} knows no locks: see to it that no other run writes there meanwhile"
        warnings.warn(LianetWarning(message), stacklevel=5)
    try:
        for descriptor in descriptors:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):  # a failing disk fails here too, and its first error is the one to report
            if lock.is_locked:
                # Removed while it is held: whoever opened it meanwhile sees that the name belongs to no file or to another.
                path.unlink(missing_ok=True)
        with suppress(OSError):
            lock.release()


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Be the only run that writes `output` while the block lasts, and clear away what a killed one left half-written.

    The lock is a file `.NAME.lock` beside a file, or `.lock` in a folder. Entering also tells, before hours of work, whether
    the place can be written.

    Args:
        output: that is to be written: a file, whose folder has to exist, or a folder that exists.

    Raises:
        OutputError: another run writes it, or its folder cannot be written.

    Warns:
        LianetWarning: the file system knows no locks.
    """
    path = output / ".lock" if output.is_dir() else output.with_name(f".{output.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except HeldError as error:
            process = f" (process {error})" if str(error) else ""
            raise OutputError(
                f"another run{process} is writing {output}: wait until it has ended, or choose another name with `output`"
            ) from error
        except OSError as error:
            raise write_error(output, error) from error
        _clear_away(output)
        yield


def _signature(path: Path) -> str:
    text = ""
    with suppress(OSError), open(path, "rb") as file:  # Windows lets nobody read it
        text = file.read(32).decode("ascii", "replace").strip()
    return text if text.isdecimal() else ""


def _clear_away(output: Path) -> None:
    """Remove the temporary files of runs towards `output` that were killed; nobody else writes them now."""
    left = re.compile(rf"\.{re.escape(output.stem)}\.[a-z0-9_]{{8}}\.partial{re.escape(output.suffix)}")
    for path in output.absolute().parent.glob(".*.partial*"):
        if left.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
