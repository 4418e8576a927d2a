"""What libtiff prints of a disk becomes an error; what others print is printed."""

from __future__ import annotations

import errno
import os
import sys

import pytest
from rasterio.errors import RasterioError

from lianet_user.maps.geotiff import disk_errors


def printing(text: str, raised: BaseException | None = None) -> None:
    """Print as a C library does, and then fail."""
    with disk_errors():
        os.write(2, text.encode())
        if raised:
            raise raised


@pytest.mark.parametrize("raised", [None, RasterioError("Write failed. See previous exception for details.")])
def test_what_libtiff_prints_is_raised(raised: Exception | None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        printing(
            "careful\n_tiffWriteProc: No space left on device.\n_tiffWriteProc: No space left on device.\n", raised
        )
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is raised
    assert capfd.readouterr().err == "careful\n"


def test_other_errors_and_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RasterioError, match="no"):
        printing("ERROR 1: no\n", RasterioError("no"))
    with pytest.raises(KeyboardInterrupt):
        printing("_tiffWriteProc: Input/output error.\n", KeyboardInterrupt())
    printing("")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "ERROR 1: no\nafter\n"


def test_what_python_prints_is_not_held_up(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", open(2, "w", buffering=1, closefd=False))  # noqa: SIM115  # as outside of pytest
    with disk_errors():
        print("40 %", file=sys.stderr)
        assert capfd.readouterr().err == "40 %\n"


def test_more_than_a_pipe_holds_stops_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with disk_errors():
        for _ in range(200):
            try:
                os.write(2, b"x" * 999 + b"\n")
            except BlockingIOError:
                break
    assert 10_000 < len(capfd.readouterr().err) <= 200_000
