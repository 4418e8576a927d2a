"""What the commands share: the terminal, progress, and options that mean the same everywhere."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lianet_user.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    InputError,
    LianetError,
    did_you_mean,
    one_line,
    printable,
)

if TYPE_CHECKING:
    from lianet_user.field.inference import Precision


# --- Options that several commands have: declared once, as a function's parameters, and put into each command's own.


Command = Callable[..., None]


def grouped(panel: str, help_text: str, *names: str, metavar: str | None = None, **more: Any) -> Any:
    """An option that the help shows in a panel of its own."""
    return typer.Option(*names, help=help_text, metavar=metavar, rich_help_panel=panel, **more)


def option_group(name: str, build: Callable[..., Any], prefix: str = "") -> Callable[[Command], Command]:
    """A decorator that gives a command all parameters of `build` in the place of its parameter `name`.

    Args:
        name: of the command's parameter, which receives what `build` makes of the options.
        build: keyword-only parameters, declared as Typer wants them.
        prefix: put before their names, for a command that has options of these names already.
    """
    shared = [
        each.replace(name=prefix + each.name, kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(build, eval_str=True).parameters.values()
    ]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            chosen = {each.name.removeprefix(prefix): arguments.pop(each.name) for each in shared}
            command(**arguments, **{name: build(**chosen)})

        kept = [parameter for each, parameter in own.parameters.items() if each != name]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*kept, *shared)]
        wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate


# ---


# Square brackets are never markup: paths, names and titles have them too.
out = Console(highlight=False, markup=False)
"""Results: standard output."""
err = Console(stderr=True, highlight=False, markup=False)
"""Progress, warnings and errors: standard error."""

RUNNING = "Running"
Overwrite = Annotated[bool, grouped(RUNNING, "Replace outputs that exist.", "--overwrite")]
Quiet = Annotated[bool, grouped(RUNNING, "Print nothing but errors and warnings.", "--quiet", "-q")]
Resume = Annotated[bool, grouped(RUNNING, "Go on from where an interrupted run stopped.", "--resume")]
AsJson = Annotated[bool, grouped(RUNNING, "Print the result as JSON, for machines.", "--json")]
Device = Annotated[str, grouped(RUNNING, "Where to compute: auto, cpu or cuda.")]
ComputedIn = Annotated[
    str,
    grouped(
        RUNNING,
        "auto, or float32: slower where the processor has bfloat16, and the same on every machine but for rounding.",
        "--precision",
        metavar="KIND",
    ),
]
Date = Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Acquisition of the region to work on.")]


RegionName = Annotated[
    str,
    typer.Argument(metavar="REGION", help="Region file (.safetensors), or the name of a model (`models list`)."),
]
RegionOption = Annotated[
    str | None,
    typer.Option(metavar="REGION", help="Region file or name, where the head does not find it by itself."),
]


def region_file(text: str, quiet: bool) -> Path:
    """The file that somebody means by REGION: a path, or the name of a model, which is fetched where it is not here.

    A command calls it once it has refused what it can refuse without the region, so that nothing is fetched in vain.

    Raises:
        LianetError: as `lianet_user.catalog.find_region`.
    """
    path = Path(text)
    if path.is_file():  # nothing to look up, and nothing to import
        return path
    from lianet_user.catalog import find_region

    with progress(quiet) as bars:
        return find_region(text, announce=announcer(quiet), listener=in_megabytes(bars.task("fetching")))


def given_region(text: str | None, quiet: bool) -> Path | None:
    """:func:`region_file` of an option that may be left away."""
    return None if text is None else region_file(text, quiet)


def announcer(quiet: bool) -> Callable[[str], None]:
    """What prints a line on standard error about what takes time or goes over the network."""

    def announce(line: str) -> None:
        if not quiet:
            err.print(printable(line), style="dim", soft_wrap=True)

    return announce


def in_megabytes(task: Task) -> Callable[[int, int], None]:
    """What shows bytes done, of how many, on a bar."""
    return lambda done, total: task(done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")


def error(message: str) -> None:
    """One line on standard error."""
    err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)), soft_wrap=True)


def warn(message: str) -> None:
    """One line on standard error."""
    err.print(Text.assemble(("warning:", "bold yellow"), " ", one_line(message)), soft_wrap=True)


def wrote(path: object, about: str = "") -> None:
    """A line on standard output about a file that is finished now: every command says each of them in this way."""
    out.print(Text.assemble(("wrote", "bold green"), printable(f" {path}{about}")), soft_wrap=True)


def then(*steps: str) -> None:
    """What to do next, a line each on standard error: the last thing that a command says."""
    for number, step in enumerate(steps):
        err.print(printable(f"{'' if number else 'next:':5} {step}"), style="dim", soft_wrap=True)


def speaks() -> bool:
    """Whether this process reports: of those that torchrun started, the first does for all."""
    return os.environ.get("RANK", "0") == "0"


def watched() -> bool:
    """Whether standard error is a terminal: colours may be forced elsewhere (notebooks do), moving bars may not."""
    return sys.stderr.isatty()


class StoppedError(LianetError):
    """Somebody asked the work to end, and it came to a point where it can be taken up again.

    Attributes:
        exit_code: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("interrupted")
        self.exit_code = exit_code


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C and SIGTERM wait for the end of a step; a second one does not wait.

    Yields:
        a function to call after every step: it raises :class:`StoppedError` where somebody asked for that.
    """
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED
        if asked:
            raise StoppedError(code)
        asked.append(code)

    def check() -> None:
        if asked:
            raise StoppedError(asked[0])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    with Display(*columns, console=err, disable=quiet or not watched()) as display:
        yield Progress(display)


def choose_device(name: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where there is one.

    Raises:
        InputError: unknown name, or CUDA was asked for and there is none.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name!r}: expected auto, cpu or cuda{did_you_mean(name, ('auto', 'cpu', 'cuda'))}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine or this build of torch has no CUDA: use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def choose_precision(name: str) -> Precision:
    """
    Raises:
        InputError: unknown name.
    """
    if name not in ("auto", "float32"):
        raise InputError(f"--precision {name!r}: expected auto or float32")
    return name  # type: ignore[return-value]  # it was checked
