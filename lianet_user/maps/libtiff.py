"""What libtiff says of a disk that fails: to nobody but the terminal."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; rasterio has no public name for it
from rasterio.errors import RasterioError

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)
"""What GDAL or the file system raise when they refuse."""

_NUMBERS = {os.strerror(number): number for number in errno.errorcode}
_SAID = re.compile(r"_tiff\w+Proc: (.*?)\.?")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise what libtiff prints.

    Where a disk fails, libtiff prints `_tiffWriteProc: No space left on device.`; GDAL says no more than that something
    failed or, where it closes a file, nothing at all.

    Raises:
        OSError: a file could not be written.
    """
    said: list[str] = []
    problem: Exception | None = None
    with _standard_error_to(said):
        try:
            yield
        except GDAL_ERRORS as error:
            problem = error
    for line in said:
        if match := _SAID.fullmatch(line.strip()):
            raise OSError(_NUMBERS.get(match[1], errno.EIO), match[1]) from problem
    if problem is not None:
        raise problem


@contextmanager
def _standard_error_to(lines: list[str]) -> Iterator[None]:
    """Collect what libraries print to standard error; at the end all but libtiff's is printed there. Python's own, such as a
    progress bar, goes there as ever."""
    try:
        terminal = os.dup(2)
    except OSError:  # a process that has none
        yield
        return
    end, start = os.pipe()
    for descriptor in (end, start):
        os.set_blocking(descriptor, False)  # what the pipe cannot hold is lost, not waited for
    own = sys.stderr
    os.dup2(start, 2)
    os.close(start)
    with suppress(OSError, ValueError, AttributeError):  # of a stream that is no file, as notebooks have
        if own.fileno() == 2:
            sys.stderr = open(  # noqa: SIM115  # closed where its descriptor is
                terminal, "w", buffering=1, encoding=own.encoding, errors="replace", closefd=False
            )
    try:
        yield
    finally:
        sys.stderr = own
        os.dup2(terminal, 2)
        text = b""
        with suppress(BlockingIOError):  # where another program still holds the pipe
            while part := os.read(end, 2**16):
                text += part
        lines += text.decode(errors="replace").splitlines(keepends=True)
        with suppress(OSError):
            os.write(2, "".join(line for line in lines if not _SAID.fullmatch(line.strip())).encode())
        os.close(terminal)
        os.close(end)
