"""What the commands share: the terminal, progress, and options that mean the same everywhere."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from lianet_user.errors import DateError, InputError

out = Console(highlight=False)
"""Results: standard output."""
err = Console(stderr=True, highlight=False)
"""Progress, warnings and errors: standard error."""

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu or cuda.")]
Date = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Acquisition of the region to work on.")]
RegionPath = Annotated[Path, typer.Argument(metavar="REGION", help="Region file (.safetensors).")]


def error(message: str) -> None:
    """One line on standard error."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def warn(message: str) -> None:
    """One line on standard error."""
    err.print(f"[bold yellow]warning:[/] {escape(message)}", soft_wrap=True)


class Task:
    """One bar of a progress display; it takes whatever totals its work reports."""

    def __init__(self, display: object, number: int) -> None:
        self._display, self._number = display, number

    def __call__(self, done: float, total: float, note: str = "") -> None:
        self._display.update(self._number, completed=done, total=total, note=note)  # type: ignore[attr-defined]


class Progress:
    """Bars on standard error, silent where that is not a terminal."""

    def __init__(self, display: object) -> None:
        self._display = display
        self._tasks: dict[str, Task] = {}

    def task(self, name: str) -> Task:
        """The bar of that name, made when first asked for."""
        if name not in self._tasks:
            number = self._display.add_task(name, total=None, note="")  # type: ignore[attr-defined]
            self._tasks[name] = Task(self._display, number)
        return self._tasks[name]


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show bars with share, time left and a note while the block runs."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Display(*columns, console=err, disable=quiet or not err.is_terminal) as display:
        yield Progress(display)


def parse_date(text: str | None) -> dt.date | None:
    """
    Raises:
        DateError: not a date.
    """
    if text is None:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError as problem:
        raise DateError(f"--date {text!r} is not a date: expected YYYY-MM-DD, for instance 2017-02-16") from problem


def choose_device(name: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where there is one.

    Raises:
        InputError: unknown name, or CUDA was asked for and there is none.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine or this build of torch has no CUDA: use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
