"""`lianet-user pretrain`: imagery in, region file out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import Overwrite, Quiet, err, out, progress, warn

if TYPE_CHECKING:
    from lianet_user.training import PretrainProgress


def pretrain(
    imagery: Annotated[
        list[Path], typer.Argument(metavar="IMAGERY...", help="Sentinel-2 band files of one date, or a folder of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Region file to write.")] = Path("region.safetensors"),
    name: Annotated[str | None, typer.Option(help="Short name of the region. Default: the file's name.")] = None,
    title: Annotated[str, typer.Option(help="What people will read first.")] = "",
    description: Annotated[str, typer.Option(help="A sentence or two more.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the region file.")] = "",
    attribution: Annotated[str, typer.Option(help="Credit for the imagery, which every map will carry.")] = "",
    bands: Annotated[
        str | None, typer.Option(metavar="B02,B03,...", help="Bands to encode. Default: all but the cirrus band B10.")
    ] = None,
    offset: Annotated[float | None, typer.Option(help="Subtracted from the digital numbers.")] = None,
    scale: Annotated[float, typer.Option(help="Digital numbers per reflectance 1.0.")] = 10_000.0,
    preset: Annotated[str, typer.Option(help="lite, base or large.")] = "lite",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows per step.")] = None,
    window: Annotated[int | None, typer.Option(min=32, help="Pixels along the side of a window.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate of the decoder.")] = None,
    table_rate: Annotated[float | None, typer.Option(help="Learning rate of the tables.")] = None,
    table_size: Annotated[int | None, typer.Option(min=1, help="Entries a level of the grid may have.")] = None,
    start: Annotated[str | None, typer.Option(help="Tables start from: pyramid (the imagery's own) or noise.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encode a region: turn imagery into the one file that users need.

    Example: lianet-user pretrain imagery/ -o havelland.safetensors --title "Havelland" --attribution "..."
    """
    import dataclasses

    from lianet_user.artifact import refuse_existing
    from lianet_user.errors import InputError, OutputError
    from lianet_user.field.config import PRESETS

    refuse_existing(output, overwrite)
    if preset not in PRESETS:
        raise InputError(f"--preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if start not in (None, "pyramid", "noise"):
        raise InputError(f"--start {start!r}: expected pyramid or noise")
    if not licence or not attribution:
        missing = " and ".join(f for f, given in (("--licence", licence), ("--attribution", attribution)) if not given)
        raise InputError(f"{missing} missing: a region file says whose imagery it was made from and what others may do")

    from lianet_user.training.imagery import read_sentinel2
    from lianet_user.training.pretrain import PretrainSettings, checkpoint_path
    from lianet_user.training.pretrain import pretrain as encode

    if checkpoint_path(output).exists() and not (resume or overwrite):
        raise OutputError(
            f"an unfinished run towards {output} left {checkpoint_path(output)}: go on from it with --resume, or start again"
            " with --overwrite"
        )
    scene = read_sentinel2(imagery, bands=bands.split(",") if bands else None, offset=offset, scale=scale)
    _, height, width = scene.reflectance.shape
    if not quiet:
        names = " ".join(band.name for band in scene.bands)
        out.print(f"{scene.source} of {scene.date}: {width} x {height} px, bands {names}", soft_wrap=True)
    given: dict[str, Any] = {
        "steps": steps, "batch": batch, "window": window, "rate": rate, "table_rate": table_rate,
        "table_size": table_size, "start": start, "seed": seed,
    }  # fmt: skip
    settings = dataclasses.replace(
        PretrainSettings(preset=preset), **{key: value for key, value in given.items() if value is not None}
    )
    with progress(quiet) as bars, _resumable(output):

        def show(state: PretrainProgress) -> None:
            if state.psnr_db is not None and not err.is_terminal and not quiet:
                err.print(f"step {state.step} of {state.steps}, {state.seconds:.0f} s, {state.psnr_db:.2f} dB")
            bars.task("encoding")(state.step, state.steps, f"{state.psnr_db:.1f} dB" if state.psnr_db else "")

        header = encode(
            scene,
            output,
            name=name or output.stem,
            title=title or output.stem,
            description=description,
            licence=licence,
            attribution=attribution,
            settings=settings,
            listener=show,
            resume=resume,
        )
    if not quiet:
        out.print(f"wrote {output}: {header.quality[0].psnr_db:.2f} dB", soft_wrap=True)
        err.print(f"next: lianet-user info {output}", style="dim", soft_wrap=True)


@contextmanager
def _resumable(output: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        warn(f"{output} is not finished: the same command with --resume goes on from the last checkpoint")
        raise
