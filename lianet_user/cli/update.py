"""`lianet-user update`: new acquisitions into a region that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lianet_user.cli.config_file import open_given_imagery
from lianet_user.cli.console import choose_device, is_first_process, progress, region_file
from lianet_user.cli.options import (
    ConfigPath,
    Device,
    ImageryPaths,
    Overwrite,
    Quiet,
    RegionName,
    Resume,
    reads_imagery,
)
from lianet_user.cli.pretrain import (
    advise_resuming_encoding,
    encoding_progress,
    only_writer,
    print_summary,
    refuse_unfinished,
)


@reads_imagery
def update(
    context: typer.Context,
    region: RegionName,
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
    from lianet_user.cli.config_file import checked_settings, read_config
    from lianet_user.files.artifact import refuse_existing

    refuse_existing(output, overwrite)
    context.with_resource(only_writer(output))
    quiet = quiet or not is_first_process()
    tables = read_config(config)

    from lianet_user.pretraining.pretrain import checkpoint_path
    from lianet_user.pretraining.update import UpdateSettings
    from lianet_user.pretraining.update import update as run

    given = {"steps": steps, "target_db": target_db, "seed": seed}
    chosen = tables["training"] | {name: value for name, value in given.items() if value is not None}
    settings = checked_settings(UpdateSettings, "training", chosen)
    kind = choose_device(device)
    refuse_unfinished(checkpoint_path(output), output, resume or overwrite)
    path = region_file(region, quiet)
    opened = open_given_imagery(imagery, tables["imagery"], imagery_options, quiet)
    with progress(quiet) as bars, advise_resuming_encoding(output):
        header = run(
            path, opened, output, settings=settings, listener=encoding_progress(bars, quiet), resume=resume, device=kind
        )
    if not quiet:
        print_summary(header, output)
