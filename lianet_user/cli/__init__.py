"""The command line: thin. Each command converts what was typed, calls one function, and prints what came of it.

Nothing heavy is imported until a command runs, so `--help` answers at once; `info` needs no torch at all.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Annotated

import typer

from lianet_user.cli import (
    change,
    check,
    compare,
    datacube,
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
    update,
    zones,
)
from lianet_user.cli.console import error, warn
from lianet_user.errors import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_INTERRUPTED, LianetError, LianetWarning

# Typer lends out only this subclass of what it raises for a mistyped command line; where the rest lives depends on its
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
        from lianet_user import __version__

        typer.echo(f"lianet-user {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--traceback", help="On an unforeseen error, print where it happened.")
    ] = False,
) -> None:
    context.obj = trace


app.command("check")(check.check)
app.command("finetune")(finetune.finetune)
app.command("predict")(predict.predict)
app.command("polygons")(polygons.polygons)
app.command("zones")(zones.zones)
app.command("suggest")(suggest.suggest)
app.command("evaluate")(evaluate.evaluate)
app.command("learning-curve")(learning_curve.learning_curve)
app.command("compare")(compare.compare)
app.command("datacube")(datacube.datacube)
app.command("change")(change.change)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("info")(info.info)
app.add_typer(models.models)
app.command("pretrain")(pretrain.pretrain)
app.command("update")(update.update)
app.command("quality")(quality.quality)
app.command("import-checkpoint")(import_checkpoint.import_checkpoint)


def main() -> None:
    """Run the command line and leave with its exit code (:mod:`lianet_user.errors`)."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    with warnings.catch_warnings():
        warnings.simplefilter("always", LianetWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]  # it ignores where a warning arose
        try:
            outcome = command.main(arguments, prog_name="lianet-user", standalone_mode=False)
        except LianetError as problem:
            error(str(problem))
            return problem.exit_code
        except USAGE_ERROR as problem:
            if arguments:  # without any, the help was printed, which says enough
                text = problem.format_message()  # type: ignore[attr-defined]
                error(f"{text.rstrip('.')}: see lianet-user --help")
            return EXIT_BAD_INPUT
        except (KeyboardInterrupt, typer.Abort):
            error("interrupted")
            return EXIT_INTERRUPTED
        except Exception as problem:
            if "--traceback" in arguments:
                traceback.print_exc()
            error(
                f"unforeseen {type(problem).__name__}: {problem}. This is a fault of lianet-user: run it again as"
                " `lianet-user --traceback ...` and report what it prints"
            )
            return EXIT_FAILURE
    return outcome if isinstance(outcome, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, LianetWarning):
        warn(str(message))
