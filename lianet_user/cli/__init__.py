"""The command line. Each command is thin: it converts what was typed, calls one function and prints the result.

Nothing heavy is imported until a command runs, so `--help` answers at once; `info` needs no torch at all.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import platform
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lianet_user.cli import (
    change,
    check,
    compare,
    datacube,
    doctor,
    evaluate,
    finetune,
    import_checkpoint,
    info,
    learning_curve,
    models,
    polygons,
    predict,
    pretrain,
    quality,
    reconstruct,
    suggest,
    zones,
)
from lianet_user.cli.console import error, warn
from lianet_user.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    ImageryError,
    LianetError,
    LianetWarning,
    did_you_mean,
    log_folder,
    write_error,
)
from lianet_user.threads import prepare

LOGS_KEPT = 20
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}

# Typer exports only this subclass of what it raises for a mistyped command line; where its base class lives depends on the
# version.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="lianet-user",
    help="Turn your labels into a satellite map, with no satellite imagery.",
    epilog="Start here: lianet-user finetune region.safetensors labels.gpkg, then: lianet-user predict",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lianet-user {version('lianet-user')}")
        raise typer.Exit


@app.callback()
def _common(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Threads that compute. Default: OMP_NUM_THREADS, or the cores that may be used."
        ),
    ] = None,
    trace: Annotated[
        bool, typer.Option("--traceback", help="On an unforeseen error, print where it happened.")
    ] = False,
) -> None:
    # --traceback is read off the command line where an error is caught.
    del show_version, trace
    if threads is not None:
        prepare(threads)


PANELS = {
    "From labels to maps": (
        check.check,
        finetune.finetune,
        predict.predict,
        polygons.polygons,
        zones.zones,
        suggest.suggest,
    ),
    "How good is it?": (evaluate.evaluate, learning_curve.learning_curve, compare.compare),
    "What a region remembers": (reconstruct.reconstruct, change.change, datacube.datacube, info.info),
    "For providers": (pretrain.pretrain, pretrain.update, quality.quality, import_checkpoint.import_checkpoint),
    "Models, and this installation": (doctor.doctor,),
}
"""The commands as the help groups them; each has the name of its function."""
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(models.models, rich_help_panel="Models, and this installation")


def main() -> None:
    """Run the command line and leave with its exit code (:mod:`lianet_user.errors`)."""
    prepare()  # before anything that computes is imported
    sys.exit(_run(sys.argv[1:]))


@cache
def _command_tree() -> Any:
    """The commands as click has them. Typer makes them anew at each request, which takes 30 ms."""
    root = typer.main.get_command(app)
    waiting = [root]
    while waiting:
        command: Any = waiting.pop()
        command.get_params = partial(_with_words, command.get_params)
        waiting += getattr(command, "commands", {}).values()
    return root


WORDS = {"int": "N", "float": "NUMBER", "str": "TEXT", "Path": "PATH", "bool": ""}
"""What stands behind an option for a value of a type, where the option does not say it itself."""


def _with_words(parameters: Callable[[Any], list[Any]], context: Any) -> list[Any]:
    """A command's parameters; those without a word for their value take one, for Typer writes `<int range>` there."""
    result = parameters(context)
    for each in result:
        kind = re.search(r"\b(int|float|str|Path|bool)\b", str(each.type_descriptor.annotation))
        if each.param_type_name == "argument":
            each.display_type_rich = lambda ctx: None  # its name says what it is
        elif each.metavar is None and kind:
            each.metavar = WORDS[kind[1]]
    return result


def _run(arguments: list[str]) -> int:
    command = _command_tree()
    with warnings.catch_warnings():
        warnings.simplefilter("always", LianetWarning)
        # It ignores where a warning arose.
        warnings.showwarning = partial(_show_warning, arguments)
        try:
            outcome = command.main(arguments, prog_name="lianet-user", standalone_mode=False)
            sys.stdout.flush()  # so that a full disk is reported here, and not by Python as it exits
        except LianetError as problem:
            error(as_options(str(problem), arguments, "imagery_" if isinstance(problem, ImageryError) else ""))
            return problem.exit_code
        except USAGE_ERROR as problem:
            if arguments:  # without any, the help was printed, which says enough
                error(_usage(problem))
            return EXIT_BAD_INPUT
        except (KeyboardInterrupt, typer.Abort):
            error("interrupted")
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # `lianet-user info ... | head` has read enough
            _drop_output()
            return EXIT_FAILURE
        except MemoryError as problem:
            asked = f" ({problem})" if str(problem) else ""
            error(
                f"this machine's memory does not suffice{asked}: close other programs, map a smaller --bbox, or train with a"
                " smaller --batch or on fewer labels"
            )
            return EXIT_FAILURE
        except Exception as problem:
            if isinstance(problem, OSError) and problem.errno in DISK_ERRORS:  # not a fault of this program
                _drop_output()
                refusal = write_error(problem.filename or "what it had to", problem)
                error(str(refusal))
                return refusal.exit_code
            if "--traceback" in arguments:
                traceback.print_exc()
            error(unforeseen(problem, arguments))
            return EXIT_FAILURE
    if outcome == EXIT_INTERRUPTED:  # Typer's own answer to Ctrl-C, which prints nothing
        error("interrupted")
    return outcome if isinstance(outcome, int) else EXIT_OK


def _usage(problem: Exception) -> str:
    """What is wrong with a command line, and which command's help to read."""
    context = getattr(problem, "ctx", None)
    path = context.command_path if context else "lianet-user"
    text: str = problem.format_message()  # type: ignore[attr-defined]
    if hasattr(problem, "possibilities"):  # a mistyped option: Typer lists what is like it, from a to z
        close = did_you_mean(problem.option_name, problem.possibilities or ())  # type: ignore[attr-defined]
        text = f"No such option: {problem.option_name}{close}"  # type: ignore[attr-defined]
    elif listed := re.search(r"'([^']*)' is not one of (.+)", text):
        text = text.replace("Value error, ", "").rstrip(".") + did_you_mean(
            listed[1], re.findall(r"'([^']*)'", listed[2])
        )
    return f"{text} See {path} --help" if text.endswith("?") else f"{text.rstrip('.')}: see {path} --help"


def _drop_output() -> None:
    """Discard what is still to be printed, so that Python does not fail once more as it exits."""
    with suppress(OSError, ValueError):  # of a stream that is no file, as tests have
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# --- Unforeseen errors: what to say of them, and the log file that keeps their details.


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


# --- The library's messages, in the words of the command line.


def _show_warning(arguments: Sequence[str], message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, LianetWarning):
        warn(as_options(str(message), arguments))


ARGUMENT = re.compile(r"`([a-z]\w*)`")
"""An argument in a message of the library."""

PARAMETERS = {
    "pixel_share": "instant",
    "creation_options": "creation",
    "crs": "dst_crs",
    "dates": "date",
    "indices": "index",
    "n": "number",
    "share": "validation",
    "turned": "tta",
}
"""Arguments of the library whose command line parameter has another name."""


def as_options(message: str, arguments: Sequence[str], prefix: str = "") -> str:
    """A message of the library with its arguments written as the options of the command that was typed.

    An argument for which the command has no option stays as it is.

    Args:
        message: names arguments in backticks, as in Python.
        arguments: of the command line.
        prefix: of the parameters that are meant, where a command has parameters of the same names without it.
    """
    command = _command_tree()
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    options = {each.name: max(each.opts, key=len) for each in command.params if each.param_type_name == "option"}

    def option(match: re.Match[str]) -> str:
        names = [each for each in (PARAMETERS.get(match[1]), match[1]) if each]
        candidates = (*(prefix + each for each in names), *names, f"imagery_{match[1]}")
        return next((options[name] for name in candidates if name in options), match[0])

    return ARGUMENT.sub(option, message)
