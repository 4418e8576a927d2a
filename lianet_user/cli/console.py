"""The terminal: results, messages, progress bars, tables of scores, Ctrl-C; and what a typed REGION or --device stands for."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from lianet_user.errors import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    InputError,
    LianetError,
    one_line,
    printable,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

    from lianet_user.field.model import Precision
    from lianet_user.files.header import AnyScores, DatedScores, NumberScores, Scores
    from lianet_user.labels import Labels
    from lianet_user.maps import ChangeResult, MapResult


# Square brackets are never markup: paths, names and titles have them too.
out = Console(highlight=False, markup=False)
"""Results: standard output."""
err = Console(stderr=True, highlight=False, markup=False)
"""Progress, warnings and errors: standard error."""


def region_file(text: str, quiet: bool, before_fetching: Callable[[], None] | None = None) -> Path:
    """The file that REGION stands for: a path, or a model's name, whose file is downloaded unless it is on this machine.

    A command calls this after every check that needs no region, so that nothing is downloaded in vain.

    Args:
        text: as typed.
        quiet: print nothing.
        before_fetching: called before a download, with which a command refuses outputs that exist; where nothing has to be
            downloaded, it does so after it has examined all inputs.

    Raises:
        LianetError: as `lianet_user.catalog.find_region`, or raised by `before_fetching`.
    """
    path = Path(text)
    if path.is_file():  # nothing to look up, and nothing to import
        return path
    from lianet_user.catalog import find_region

    say = announcer(quiet)

    def announce(line: str) -> None:
        if before_fetching is not None:
            before_fetching()
        say(line)

    with progress(quiet) as bars:
        return find_region(text, announce=announce, listener=in_megabytes(bars.task("fetching")))


def optional_region_file(
    text: str | None, quiet: bool, before_fetching: Callable[[], None] | None = None
) -> Path | None:
    """:func:`region_file` of an option that may be omitted."""
    return None if text is None else region_file(text, quiet, before_fetching)


def announcer(quiet: bool) -> Callable[[str], None]:
    """A function that prints a line on standard error about what takes time or uses the network."""

    def announce(line: str) -> None:
        if not quiet:
            err.print(printable(line), style="dim", soft_wrap=True)

    return announce


def in_megabytes(task: Callable[..., None]) -> Callable[[int, int], None]:
    """A listener that shows on a bar how many bytes of how many are done."""
    return lambda done, total: task(done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")


def print_lines(lines: Iterable[str], command: str) -> None:
    """Print lines of a library's report, with its arguments written as options of a command."""
    from lianet_user.cli import as_options  # which is made of the commands that import this module

    for line in lines:
        out.print(as_options(line, (command,)), soft_wrap=True)


def naming_options(labels: Labels, command: str) -> Labels:
    """Labels whose report has the library's arguments written as options of a command, wherever it is shown or stored."""
    from lianet_user.cli import as_options

    notes = tuple(as_options(note, (command,)) for note in labels.report.notes)
    return replace(labels, report=replace(labels.report, notes=notes))


def error(message: str) -> None:
    """One line on standard error."""
    err.print(Text.assemble(("error:", "bold red"), " ", one_line(message)), soft_wrap=True)


def warn(message: str) -> None:
    """One line on standard error."""
    err.print(Text.assemble(("warning:", "bold yellow"), " ", one_line(message)), soft_wrap=True)


def wrote(path: object, about: str = "") -> None:
    """Say on standard output that a file is finished; every command reports each of its files in this way."""
    out.print(Text.assemble(("wrote", "bold green"), printable(f" {path}{about}")), soft_wrap=True)


def quoted(path: object) -> str:
    """A path in a command that can be copied into a shell."""
    return shlex.quote(str(path))


def print_next(*steps: str) -> None:
    """Suggest what to do next, a line each on standard error: the last thing that a command prints."""
    for number, step in enumerate(steps):
        err.print(printable(f"{'' if number else 'next:':5} {step}"), style="dim", soft_wrap=True)


def is_first_process() -> bool:
    """Whether this process reports: of those that torchrun started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def is_terminal() -> bool:
    """Whether standard error is a terminal. Colours may be forced elsewhere (notebooks do so), moving bars may not."""
    return sys.stderr.isatty()


class StoppedError(LianetError):
    """The user asked the work to end, and it has reached a point from which it can be resumed.

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
        a function to call after every step: it raises :class:`StoppedError` once a signal has arrived.
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


# --- Progress: bars in a terminal, lines now and then elsewhere, both with the time that is left.

RECENT = 20.0
"""Seconds over which the pace of a stage is measured, or the last third of the stage where that is longer."""
MARKS_APART = 0.2
"""Seconds between the times that are kept for that."""
SURE = 0.1
"""Share of a stage after which only its own pace counts, and no longer what was expected of it."""
LINE_AFTER, LINES_APART, LINE_WITHIN = 5.0, 2.0, 60.0
"""Where standard error is no terminal: seconds before the first line, at least between two, and at most between two."""

Stages = Sequence[tuple[str, float]]
"""The parts of some work, one after the other: the kind of each, and the seconds that it was expected to take somewhere."""
ONE_STAGE: Stages = (("", 1.0),)


class Pace:
    """How much of some work is done, and how long the rest will take.

    How fast a stage was of late says how long the rest of it takes. Stages to come take as long as those of their kind did,
    beside what was expected of them; a kind that has not been met, as long as all that was met.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # what is shown is asked for by another thread
        self._started = clock()
        self._stages, self._at = ONE_STAGE, -1
        self._began = (self._started, 0.0)
        self._marks: deque[tuple[float, float]] = deque()
        """Times, and the share of the stage that was done by then."""
        self._past: dict[str, tuple[float, float]] = {}
        """Of each kind, the seconds that its finished stages were expected to take, and those that they took."""

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return self._clock() - self._started

    @property
    def share(self) -> float:
        """How much is done, by the seconds that were expected."""
        if not self._marks:
            return 0.0
        expected = [seconds for _, seconds in self._stages]
        return (sum(expected[: self._at]) + expected[self._at] * self._marks[-1][1]) / sum(expected)

    def update(self, done: float, stages: Stages = ONE_STAGE, at: int = 0) -> None:
        """Note how far the work is.

        Args:
            done: share of the stage that is done. A resumed run begins with what an earlier one did.
            stages: all of them.
            at: number of the stage.
        """
        with self._lock:
            now = self._clock()
            if at != self._at:
                if self._at >= 0:
                    kind, expected = self._stages[self._at]
                    (since, resumed_at), before = self._began, self._past.get(kind, (0.0, 0.0))
                    self._past[kind] = before[0] + expected * (1 - resumed_at), before[1] + now - since
                self._at, self._began = at, (now, done)
                self._marks.clear()
            self._stages = stages
            if len(self._marks) > 1 and now - self._marks[-2][0] < MARKS_APART:
                self._marks.pop()
            self._marks.append((now, done))
            while len(self._marks) > 2 and self._marks[1][0] < now - max(RECENT, (now - self._began[0]) / 3):
                self._marks.popleft()

    def left(self) -> float | None:
        """Seconds until the end of the last stage; None as long as nothing tells."""
        with self._lock:
            if not self._marks:
                return None
            (first, before), (last, done), (_, resumed_at) = self._marks[0], self._marks[-1], self._began
            (kind, expected), ahead, past = self._stages[self._at], self._stages[self._at + 1 :], dict(self._past)
        whole = (last - first) / (done - before) if done > before and last > first else None
        if (ratio := _ratio(kind, past)) is not None:
            sure = 0.0 if whole is None else min(1.0, (done - resumed_at) / SURE)
            whole = sure * (whole or 0.0) + (1 - sure) * expected * ratio
        if whole is None:
            return None
        past[kind] = expected, whole  # as fast as it is now, and not as it was
        later = sum(each * (_ratio(name, past) or 0.0) for name, each in ahead)
        return max(0.0, whole * (1 - done) - (self._clock() - last)) + later


def _ratio(kind: str, past: Mapping[str, tuple[float, float]]) -> float | None:
    """Seconds taken for each second expected; None where nothing tells."""
    own = [past[kind]] if kind in past else list(past.values())
    expected = sum(each for each, _ in own)
    return sum(taken for _, taken in own) / expected if expected else None


class Progress:
    """Tasks that are going on, each shown on standard error; made by :func:`progress`."""

    def __init__(self, display: Display | None, lines: bool) -> None:
        self._display, self._lines = display, lines
        self._tasks: dict[str, _Task] = {}
        self._last: _Task | None = None
        self._printing = threading.Lock()

    def task(self, name: str) -> Callable[..., None]:
        """The task of that name, which its first call begins: call it with what is done, what is in total, and a note; where it
        has stages, with all of them and the number of the one that this is."""

        def show(done: float, total: float, note: str = "", stages: Stages = ONE_STAGE, at: int = 0) -> None:
            task = self._last = self._tasks.setdefault(name, _Task(name))
            task.note = note
            task.pace.update(done / total if total else 1.0, stages, at)
            if self._lines:
                self.beat()
            elif self._display is not None:
                if task.bar is None:
                    task.bar = self._display.add_task(name, total=1.0, task=task)
                self._display.update(task.bar, completed=task.pace.share)

        return show

    def beat(self) -> None:
        """Print a line if one is due: while a task tells nothing, too."""
        with self._printing:
            if self._last is not None:
                self._last.print_if_due()


class _Task:
    """A bar, or a row of lines."""

    def __init__(self, name: str) -> None:
        self.name, self.note = name, ""
        self.pace = Pace()
        self.bar: TaskID | None = None
        self._tenth, self._printed = 0, 0.0

    def time_left(self) -> str:
        left = self.pace.left()
        return "" if left is None else f"about {minutes(left)} left"

    def print_if_due(self) -> None:
        share, elapsed = self.pace.share, self.pace.elapsed
        since, tenth = elapsed - self._printed, int(share * 10 + 1e-9)
        late = share < 1 and since >= LINE_WITHIN
        # What is over before there was anything to say has no last line either.
        if late or (
            tenth > self._tenth and elapsed >= LINE_AFTER and since >= LINES_APART and (share < 1 or self._printed)
        ):
            self._tenth, self._printed = tenth, elapsed
            parts = f"{share:.0%} in {minutes(elapsed)}", self.time_left() if share < 1 else "", self.note
            err.print(printable(f"{self.name}: {', '.join(filter(None, parts))}"), style="dim", soft_wrap=True)


def minutes(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole // 60}:{whole % 60:02}:{rest:02}" if whole >= 60 else f"{whole}:{rest:02}"


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show how far tasks are while the block runs, and how long the rest of each takes: bars in a terminal, elsewhere a line at
    every tenth and at least once a minute, or none if a task takes no more than a few seconds."""
    if quiet:
        yield Progress(None, lines=False)
    elif is_terminal():
        with _display() as display:
            yield Progress(display, lines=False)
    else:
        bars, over = Progress(None, lines=True), threading.Event()

        def beat() -> None:
            while not over.wait(1.0):
                bars.beat()

        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        try:
            yield bars
        finally:
            over.set()
            beating.join()


def _display() -> Display:
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    class Told(ProgressColumn):
        """What a task says of itself."""

        def render(self, task: Task) -> Text:
            own: _Task = task.fields["task"]
            return Text("  ".join(filter(None, (own.time_left(), own.note))))

    columns = (
        TextColumn("{task.description:>11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        Told(),
    )
    return Display(*columns, console=err)


@contextmanager
def mapping(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Bars of a command that writes maps, which Ctrl-C ends between two tiles.

    Yields:
        a listener that shows how far the maps are, and how fast they grow; it ends the run where the user asked for that.
    """
    begun: list[tuple[float, int]] = []

    def show(done: int, total: int) -> None:
        if not begun:
            begun.append((time.monotonic(), done))
        started, resumed_at = begun[0]  # tiles of an earlier run do not count for the speed of this one
        rate = (done - resumed_at) / 1e6 / max(1e-3, time.monotonic() - started)
        bars.task("mapping")(done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} Mpx, {rate:.2g} Mpx/s")
        stop_if_asked()

    with progress(quiet) as bars, stoppable() as stop_if_asked:
        yield show


def map_document(kind: str, result: MapResult | ChangeResult, **when: object) -> dict[str, Any]:
    """What --json says of a map or image, without its summary; `when` are the entries about its dates."""
    return {
        kind: str(result.path),
        "quicklook": str(result.quicklook),
        "shows": result.title,
        **when,
        "width": result.geobox.width,
        "height": result.geobox.height,
        "outside": result.outside,
    }


@contextmanager
def advise_resuming(target: Path, command: str) -> Iterator[None]:
    """Where the block is interrupted and finished tiles are kept, say which command resumes the run."""
    try:
        yield
    except (StoppedError, KeyboardInterrupt):
        from lianet_user.maps.resume_store import store_path

        if store_path(target).exists():
            given = sys.argv[1:] if command in sys.argv else [command, "..."]
            words = shlex.join(["lianet-user", *given, *([] if "--resume" in given else ["--resume"])])
            warn(f"{target} is not finished: go on from where it stopped with `{words}`")
        raise


def choose_device(name: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where it is available.

    Raises:
        InputError: CUDA is not available.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine or this build of torch has no CUDA: use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def choose_precision(name: str) -> Precision:
    """The precision that --precision names.

    Raises:
        InputError: the name is unknown.
    """
    if name not in ("auto", "float32"):
        raise InputError(f"--precision {name!r}: expected auto or float32")
    return name  # type: ignore[return-value]  # it was checked


# --- Tables of scores: of classes or of numbers, with earlier scores beside them.

SHOWN_DATES = 8


def print_scores(title: str, scores: AnyScores, unit: str = "", before: AnyScores | None = None) -> None:
    """Print a table of scores.

    Args:
        title: what was evaluated, and where.
        scores: to print.
        unit: of the numbers, where they are not classes.
        before: earlier scores of the same kind, printed beside them.
    """
    from lianet_user.files.header import Scores
    from lianet_user.finetuning.validation import unjudged, wide_intervals

    if isinstance(scores, Scores):
        _print_classes(title, scores, before if isinstance(before, Scores) else None)
        if lacking := unjudged(scores):
            out.print(f"macro F1 over {lacking}", soft_wrap=True)
    else:
        _print_numbers(title, scores, unit, None if before is None or isinstance(before, Scores) else before)
    if wide := wide_intervals(scores, unit):
        out.print(f"95 % intervals, by the places that the labels lie in: {wide}", soft_wrap=True)


def print_scores_by_date(dated: tuple[DatedScores, ...], of_mean: AnyScores | None, unit: str = "") -> None:
    """Print the scores of each date (of many, only the best and the worst), and of the answers averaged over the dates."""
    from lianet_user.finetuning.metrics import figure_of_merit

    shown = list(dated)
    if len(dated) > SHOWN_DATES:
        ranked = sorted(dated, key=lambda each: figure_of_merit(each.scores))
        shown = [ranked[-1], ranked[0]]
        out.print(f"the best and the worst of {len(dated)} dates:")
    for each in shown:
        out.print(f"{each.date}: {headline(each.scores, unit)}", soft_wrap=True)
    if of_mean is not None:
        out.print(f"answers averaged over the dates: {headline(of_mean, unit)}", soft_wrap=True)


def headline(scores: AnyScores, unit: str = "") -> str:
    """The most telling scores, on one line."""
    from lianet_user.files.header import Scores

    if isinstance(scores, Scores):
        return f"macro F1 {format_score(scores.macro_f1)}, accuracy {format_score(scores.accuracy)}"
    return f"mean absolute error {format_score(scores.mae)}{unit and f' {unit}'}, R2 {format_score(scores.r2)}"


def format_score(value: float | None) -> str:
    """Three decimals, or three significant digits where the value is small or large; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"


def _print_classes(title: str, scores: Scores, before: Scores | None) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("pixels", justify="right")
    for column in ("IoU", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
        if before:
            table.add_column("before", justify="right", style="dim")
    rows = _rows(scores)
    earlier = _rows(before) if before else [None] * len(rows)
    for number, (row, old) in enumerate(zip(rows, earlier, strict=True)):
        if number == len(rows) - 1:
            table.add_section()
        name, pixels, figures = row
        beside = zip(figures, old[2], strict=True) if old else zip(figures, strict=True)
        table.add_row(name, f"{pixels:,}", *(format_score(value) for pair in beside for value in pair))
    out.print(table)
    out.print(f"all: means over the classes; accuracy over the pixels: {format_score(scores.accuracy)}", style="dim")


def _rows(scores: Scores) -> list[tuple[str, int, tuple[float | None, ...]]]:
    """Name, pixels, and IoU, precision, recall and F1 of each class and then of all."""
    rows = [(each.name, each.pixels, (each.iou, each.precision, each.accuracy, each.f1)) for each in scores.classes]
    means = (scores.macro_iou, scores.macro_precision, scores.macro_recall, scores.macro_f1)
    return [*rows, ("all", scores.pixels, means)]


def _print_numbers(title: str, scores: NumberScores, unit: str, before: NumberScores | None) -> None:
    from rich.table import Table

    table = Table(title=f"{title} ({unit})" if unit else title, title_justify="left")
    table.add_column("figure")
    table.add_column(f"{scores.pixels:,} pixels", justify="right")
    if before:
        table.add_column("before", justify="right", style="dim")
    for name, what in (
        ("mae", "mean absolute error"),
        ("rmse", "root mean square error"),
        ("mse", "mean square error"),
        ("bias", "bias"),
        ("r2", "R2"),
    ):
        old = [format_score(getattr(before, name))] if before else []
        table.add_row(what, format_score(getattr(scores, name)), *old)
    out.print(table)
