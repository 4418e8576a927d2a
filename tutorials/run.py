"""Execute the tutorials, as the tests do, and refresh the pictures they show.

    python tutorials/run.py            # all of them, in order
    python tutorials/run.py 01 04      # some

A tutorial is a page of Markdown that jupytext turns into a notebook: ```bash and ```python fences are cells. The
first ```text fence after a cell is what that cell prints: it has to be found in the cell's output, whatever the blanks,
where `...` stands for anything. Executed notebooks, with everything that was printed, are left in tutorials/out/.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jupytext
import nbformat
from nbmake.nb_run import NotebookRun

SECONDS = 900  # after which a cell hangs; a tutorial may take 300 on two cores, but these may be busy
TEXT = re.compile(r"^```text\n(.*?)^```", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\((images/[^)]+)\)")
COLORS = re.compile(r"\x1b\[[0-9;]*m")
PROGRESS = re.compile(r"^[^\n]*: \d+% in \d[^\n]*\n?", re.MULTILINE)  # how far something is, which no page shows
# tqdm, of other packages, says in every notebook without ipywidgets that its bars would be plain.
WARNING = re.compile(r"^\S+:\d+: (?!TqdmWarning)\w*Warning: .*", re.MULTILINE)


class TutorialError(Exception):
    """A tutorial that does not run, or does not print what it shows."""


def pages(folder: Path) -> list[Path]:
    """The tutorials of a folder, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.md"))


def pictures(page: Path) -> list[str]:
    """The pictures that a page shows, relative to it."""
    return PICTURE.findall(page.read_text("utf-8"))


def execute(page: Path) -> None:
    """Execute a page in its own folder. Raises TutorialError where a cell fails, warns, or prints other things than shown."""
    out = page.with_name("out")
    out.mkdir(exist_ok=True)
    page.with_name("images").mkdir(exist_ok=True)
    strict = out / "strict.sh"
    strict.write_text("set -euo pipefail\n", "utf-8")
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # this lianet-user
        "BASH_ENV": str(strict),  # a line of a %%bash cell that fails ends it
        "COLUMNS": "110",  # of a terminal, for tables
        "IPYTHONDIR": str(out / "ipython"),  # no history in the home of whoever runs this
        "MPLBACKEND": "agg",  # pictures are drawn without a screen
    }
    source = page.with_suffix(".ipynb")
    jupytext.write(jupytext.read(page), source)
    try:
        with mock.patch.dict(os.environ, environment):
            result = NotebookRun(source, SECONDS).execute()
    finally:
        source.unlink()
    nbformat.write(result.nb, out / source.name)
    if result.error is not None:
        printed = _printed(result.nb.cells[result.error.failing_cell_index])
        raise TutorialError(f"{page.name}: {COLORS.sub('', result.error.trace)}\n{printed}")
    _compare(page.name, result.nb.cells)


def _printed(cell: Any) -> str:
    """All that a cell printed and the value it ended on, errors and warnings last, whenever they came; without progress."""
    outputs = sorted(cell.get("outputs", []), key=lambda output: output.get("name") == "stderr")
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return PROGRESS.sub("", COLORS.sub("", "".join(texts)))


def _compare(name: str, cells: list[Any]) -> None:
    wrong = []
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type != "code":
            continue
        printed = _printed(cell)
        shown = TEXT.search(following.source) if following is not None and following.cell_type == "markdown" else None
        if shown is not None:
            words = re.escape(shown[1].strip()).replace(r"\.\.\.", ".*?")
            if not re.search(re.sub(r"(\\\s|\s)+", r"\\s+", words), printed, re.DOTALL):
                wrong.append(f"{name} shows\n{shown[1]}\nbut this cell\n{cell.source}\nprints\n{printed}")
        for warning in WARNING.findall(printed):
            if shown is None or warning not in shown[1]:
                wrong.append(f"{name}: this cell\n{cell.source}\nwarns, and the page does not show it:\n{warning}")
    if wrong:
        raise TutorialError("\n\n".join(wrong))


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Execute the tutorials and refresh their pictures.")
    parser.add_argument("numbers", nargs="*", help="01, 02, ...: only these")
    arguments = parser.parse_args()
    for page in pages(here):
        if not arguments.numbers or page.name[:2] in arguments.numbers:
            execute(page)
            print(f"{page.name}: as it says; {', '.join(pictures(page)) or 'no pictures'}")


if __name__ == "__main__":
    main()
