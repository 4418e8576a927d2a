"""What is fuzzed: readers of files from anywhere. Whatever they are given, they answer or raise a LianetError.

`python tests/fuzz/targets.py NAME [libFuzzer options]` runs one of them under atheris; `tests/test_fuzz.py` does so for ten
minutes each, and runs every seed and finding of `corpus/NAME` in every test run.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from lianet_user.errors import LianetError

CORPUS = Path(__file__).parent / "corpus"


def region_header(path: Path) -> None:
    from lianet_user.artifact import open_region_file

    open_region_file(path).tensors()


def head_header(path: Path) -> None:
    from lianet_user.artifact import open_head_file

    open_head_file(path).tensors()


def labels(path: Path) -> None:
    from lianet_user.artifact import open_region_file
    from lianet_user.labels import LabelOptions, read_labels

    header = open_region_file(CORPUS / "region_header" / "whole").header
    read_labels(path, header, LabelOptions())


TARGETS: dict[str, Callable[[Path], None]] = {
    "region_header": region_header,
    "head_header": head_header,
    "labels": labels,
}


def run(name: str, data: bytes) -> None:
    """One target on one file. What it raises besides a refusal is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input"
        path.write_bytes(data)
        with contextlib.suppress(LianetError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](path)


def main() -> None:
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["lianet_user"]):
        import lianet_user.artifact
        import lianet_user.labels  # noqa: F401

    atheris.Setup(sys.argv, lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
