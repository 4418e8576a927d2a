"""One run at a time for each output: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lianet_user.errors import LianetWarning, OutputError, write_error

try:
    import fcntl
except ImportError:  # Windows, which has no such lock: runs are not kept apart there
    fcntl = None  # type: ignore[assignment]

_HELD = (errno.EAGAIN, errno.EACCES)
_UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What file systems say that know no locks."""


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Be the only run that writes `output` while the block lasts, and clear away what a killed one left half-written.

    A file `.NAME.lock` beside the output is locked and, at the end, removed. A run that is killed leaves the file but not the
    lock. Entering also tells, before hours of work, whether the folder can be written.

    Args:
        output: that is to be written; its folder has to exist.

    Raises:
        OutputError: another run writes it, or its folder cannot be written.

    Warns:
        LianetWarning: the file system knows no locks, so two runs are not kept apart.
    """
    path = output.with_name(f".{output.name}.lock")
    fd = _acquired(path, output)
    try:
        _clear_away(output)
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile finds that it is not this name's file any more.
        with suppress(OSError):
            path.unlink()
        os.close(fd)


def _acquired(path: Path, output: Path) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise write_error(output, error) from error
        try:
            if _locked(fd, path, output):
                os.ftruncate(fd, 0)
                os.write(fd, f"{os.getpid()}\n".encode())
                return fd
        except OSError as error:
            os.close(fd)
            raise write_error(output, error) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _locked(fd: int, path: Path, output: Path) -> bool:
    """Take the lock; False where the file lost its name while we did, and has to be opened again."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNKNOWN:
            message = (
                f"the file system of {output} knows no locks: see to it yourself that no other run writes it meanwhile"
            )
            warnings.warn(LianetWarning(message), stacklevel=5)
            return True
        if error.errno not in _HELD:
            raise
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        process = f" (process {holder})" if holder.isdecimal() else ""
        raise OutputError(
            f"another run{process} is writing {output}: wait until it has ended, or give this one another name with -o"
        ) from error
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _clear_away(output: Path) -> None:
    """Remove the temporary files of runs towards `output` that were killed; nobody else writes them now."""
    left = re.compile(rf"\.{re.escape(output.stem)}\.[a-z0-9_]{{8}}\.partial{re.escape(output.suffix)}")
    for path in output.absolute().parent.glob(".*.partial*"):
        if left.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
