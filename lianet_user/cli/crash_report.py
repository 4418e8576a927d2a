"""Unforeseen errors: what to say of them, and the log file that keeps their details."""

from __future__ import annotations

import datetime as dt
import errno
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

from lianet_user.errors import log_folder

LOGS_KEPT = 20
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


def is_disk_error(problem: Exception) -> TypeGuard[OSError]:
    """Whether the disk is to blame for an error, and not this program."""
    return isinstance(problem, OSError) and problem.errno in _DISK


def out_of_memory(problem: MemoryError) -> str:
    """The message for a machine that has too little memory."""
    asked = f" ({problem})" if str(problem) else ""
    return (
        f"this machine's memory does not suffice{asked}: close other programs, map a smaller --bbox, or train with a smaller"
        " --batch or on fewer labels"
    )


def unforeseen(problem: Exception, arguments: Sequence[str]) -> str:
    """The message for an unforeseen error; its details go to a log file, which the message names."""
    what = f"unforeseen {type(problem).__name__}: {problem}. This is a fault of lianet-user"
    log = _logged(problem, arguments)
    if log is not None:
        return f"{what}: report it with the file {log}, or run it again as `lianet-user --traceback ...` to see where"
    return f"{what}: run it again as `lianet-user --traceback ...` and report what it prints"


def _logged(problem: Exception, arguments: Sequence[str]) -> Path | None:
    """Write the log file of an error; None where none can be written."""
    text = "\n".join([*_circumstances(arguments), "", *traceback.format_exception(problem)])
    name = f"lianet-user-error-{dt.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for folder in (log_folder, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError, RuntimeError):  # RuntimeError: nobody's home folder is known
            path = folder() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            _prune(path.parent)
            return path
    return None


def _circumstances(arguments: Sequence[str]) -> list[str]:
    from importlib.metadata import PackageNotFoundError, version

    lines = [
        f"command    lianet-user {' '.join(arguments)}",
        f"at         {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC",
        f"platform   {platform.platform()}, Python {platform.python_version()}",
    ]
    for package in ("lianet-user", "torch", "torchvision", "rasterio", "pyogrio", "geopandas", "numpy", "pydantic"):
        with suppress(PackageNotFoundError):
            lines.append(f"{package:10} {version(package)}")
    lines.append(f"loaded     torch: {'torch' in sys.modules}, rasterio: {'rasterio' in sys.modules}")
    return lines


def _prune(folder: Path) -> None:
    """Keep the latest log files only."""
    for path in sorted(folder.glob("lianet-user-error-*.log"))[:-LOGS_KEPT]:
        path.unlink(missing_ok=True)
