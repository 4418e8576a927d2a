"""`lianet-user pretrain` and `update`: imagery in, region file out; new acquisitions into a region that is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import (
    Progress,
    choose_device,
    is_first_process,
    print_next,
    progress,
    quoted,
    region_file,
    stoppable,
    wrote,
)
from lianet_user.cli.imagery import (
    ConfigPath,
    ImageryPaths,
    checked_settings,
    open_given_imagery,
    read_config,
    reads_imagery,
)
from lianet_user.cli.options import Device, Overwrite, Quiet, Resume, grouped, option_group
from lianet_user.cli.options import RegionName as RegionToUpdate
from lianet_user.cli.runs import only_writer, refuse_unfinished, resumable
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.files.header import RegionHeader
    from lianet_user.pretraining import PretrainProgress

WORDS = "What the region file states"
RegionName = Annotated[str | None, grouped(WORDS, "Short name of the region. Default: the file's name.")]
RegionTitle = Annotated[str | None, grouped(WORDS, "What people will read first.")]
RegionDescription = Annotated[str | None, grouped(WORDS, "A sentence or two more.")]
RegionLicence = Annotated[str | None, grouped(WORDS, "Licence of the region file.")]
RegionAttribution = Annotated[str | None, grouped(WORDS, "Credit for the imagery, which every map carries.")]

TRAINING = "Training (all other numbers: --config)"


def _training_options(
    *,
    preset: Annotated[str | None, grouped(TRAINING, "lite (default), base or large.")] = None,
    steps: Annotated[int | None, grouped(TRAINING, "Steps at most.", min=1)] = None,
    target_db: Annotated[float | None, grouped(TRAINING, "Stop at this PSNR.", metavar="DB")] = None,
    batch: Annotated[int | None, grouped(TRAINING, "Windows per step.", min=1)] = None,
    window: Annotated[int | None, grouped(TRAINING, "Pixels along the side of a window.", min=32)] = None,
    rate: Annotated[float | None, grouped(TRAINING, "Learning rate of the decoder.")] = None,
    table_rate: Annotated[float | None, grouped(TRAINING, "Learning rate of the tables.")] = None,
    table_size: Annotated[int | None, grouped(TRAINING, "Entries a level of the grid may have.", min=1)] = None,
    features: Annotated[int | None, grouped(TRAINING, "Features per entry.", min=1)] = None,
    tables: Annotated[str | None, grouped(TRAINING, "Store them as: same (float16) or int8, half the size.")] = None,
    time: Annotated[
        str | None, grouped(TRAINING, "How dates enter: index, kriged, sinusoidal, fourier or mlp.")
    ] = None,
    start: Annotated[str | None, grouped(TRAINING, "From: pyramid (the imagery's own) or noise.")] = None,
    seed: Annotated[int | None, grouped(TRAINING, "Seed of every random draw.", min=0)] = None,
) -> dict[str, Any]:
    """The options that were given, by their names in PretrainSettings."""
    return {name: value for name, value in locals().items() if value is not None}


trains = option_group("training_options", _training_options)
"""For commands with a parameter `training_options`, a dict."""


@reads_imagery
@trains
def pretrain(
    context: typer.Context,
    imagery: ImageryPaths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Region file to write.")] = Path("region.safetensors"),
    name: RegionName = None,
    title: RegionTitle = None,
    description: RegionDescription = None,
    licence: RegionLicence = None,
    attribution: RegionAttribution = None,
    config: ConfigPath = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    imagery_options: dict[str, Any],
    training_options: dict[str, Any],
) -> None:
    """Encode a region: turn imagery into the one file that users need.

    Several GPUs or machines share the work when it is started by torchrun.

    Example: lianet-user pretrain imagery/ -o havelland.safetensors --licence CC-BY-4.0 --attribution "..."
    """
    from lianet_user.files.artifact import refuse_existing

    quiet = quiet or not is_first_process()
    tables = read_config(config)
    said = {"title": title, "description": description, "licence": licence, "attribution": attribution, "name": name}
    words = {"name": output.stem, "title": output.stem}
    words |= tables["region"] | {key: value for key, value in said.items() if value is not None}
    if missing := [f"--{key}" for key in ("licence", "attribution") if not words.get(key)]:
        raise InputError(
            f"{' and '.join(missing)} missing: a region file says whose imagery it was made from and what others may do"
        )

    from lianet_user.pretraining.settings import PretrainSettings, RegionWords, checkpoint_path

    about = checked_settings(RegionWords, "region", words)
    settings = checked_settings(PretrainSettings, "training", tables["training"] | training_options)
    settings.check()
    opened = open_given_imagery(imagery, tables["imagery"], imagery_options, quiet)
    refuse_existing(output, overwrite)
    context.with_resource(only_writer(output))
    refuse_unfinished(checkpoint_path(output), output, resume or overwrite)

    from lianet_user.pretraining import pretrain as encode  # brings torch

    kind = choose_device(device)
    with progress(quiet) as bars, encoding_that_stops(output) as stop_if_asked:
        header = encode(
            opened,
            output,
            about,
            settings=settings,
            listener=encoding_progress(bars, stop_if_asked),
            resume=resume,
            device=kind,
        )
    if not quiet:
        print_summary(header, output)


@reads_imagery
def update(
    context: typer.Context,
    region: RegionToUpdate,
    imagery: ImageryPaths,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Region file to write; REGION itself is not changed.")
    ] = Path("updated.safetensors"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    target_db: Annotated[float | None, typer.Option(metavar="DB", help="Stop at this PSNR.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random draw.")] = None,
    config: ConfigPath = None,
    device: Device = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    imagery_options: dict[str, Any],
) -> None:
    """Add new acquisitions to a region, without starting again and without forgetting.

    The imagery of the old dates is not needed: the region remembers it. Heads of the old file go on with finetune --from.

    Example: lianet-user update havelland.safetensors new/ -o havelland-2018.safetensors
    """
    from lianet_user.files.artifact import open_region_file, refuse_existing

    quiet = quiet or not is_first_process()
    tables = read_config(config)

    from lianet_user.pretraining.settings import UpdateSettings, checkpoint_path

    given = {"steps": steps, "target_db": target_db, "seed": seed}
    chosen = tables["training"] | {name: value for name, value in given.items() if value is not None}
    settings = checked_settings(UpdateSettings, "training", chosen)
    path = region_file(region, quiet, lambda: refuse_existing(output, overwrite))
    open_region_file(path)  # a wrong file is refused before torch is imported
    opened = open_given_imagery(imagery, tables["imagery"], imagery_options, quiet)
    refuse_existing(output, overwrite)
    context.with_resource(only_writer(output))
    refuse_unfinished(checkpoint_path(output), output, resume or overwrite)

    from lianet_user.pretraining import update as run  # brings torch

    kind = choose_device(device)
    with progress(quiet) as bars, encoding_that_stops(output) as stop_if_asked:
        header = run(
            path,
            opened,
            output,
            settings=settings,
            listener=encoding_progress(bars, stop_if_asked),
            resume=resume,
            device=kind,
        )
    if not quiet:
        print_summary(header, output)


ENCODING = (("encoding", 0.97), ("judging", 0.03))
"""The stages of an encoding, and the shares of the time that they are expected to take."""


def encoding_progress(bars: Progress, stop_if_asked: Callable[[], None]) -> Callable[[PretrainProgress], None]:
    """A listener that shows the steps, and with them how good the field was when last measured; and that ends the run."""
    show_task = bars.task("encoding")
    level, waited = "", ""

    def show(state: PretrainProgress) -> None:
        nonlocal level, waited
        if state.psnr_db is not None:
            level = f", {state.psnr_db:.2f} dB"
            waited = f", {state.waited:.0%} of the time waiting for windows" if state.waited >= 0.01 else ""
        if state.judged:
            show_task(state.judged, 1, f"comparing with the imagery{level}", ENCODING, 1)
        else:
            show_task(state.step, state.steps, f"step {state.step} of {state.steps}{level}{waited}", ENCODING)
        stop_if_asked()

    return show


def print_summary(header: RegionHeader, output: Path) -> None:
    """Print what was written, how well it reconstructs, and what to do next."""
    levels = [quality.psnr_db for quality in header.quality if quality.psnr_db is not None]
    about = ""
    if levels:
        spread = f" ({min(levels):.2f} to {max(levels):.2f} over {len(levels)} dates)" if len(levels) > 1 else ""
        about = f": {sum(levels) / len(levels):.2f} dB{spread}"
    wrote(output, about)
    print_next(f"lianet-user info {quoted(output)}", "lianet-user models publish FOLDER, to give it away")


@contextmanager
def encoding_that_stops(output: Path) -> Iterator[Callable[[], None]]:
    """Let Ctrl-C and SIGTERM end a run after a step, where it is kept, and say how to resume it.

    Yields:
        a function to call after every step. Until the first one both end the run at once: there is nothing to keep.
    """
    from lianet_user.pretraining.settings import checkpoint_path

    with ExitStack() as stack, resumable(checkpoint_path(output), output):
        checks: list[Callable[[], None]] = []

        def stop_if_asked() -> None:
            if not checks:
                checks.append(stack.enter_context(stoppable()))
            checks[0]()

        yield stop_if_asked
