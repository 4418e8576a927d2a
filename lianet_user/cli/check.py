"""`lianet-user check`: what would come of labels, before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lianet_user.cli.console import naming_options, print_lines, print_next, progress, quoted, region_file, wrote
from lianet_user.cli.options import (
    AsJson,
    LabelsPath,
    Overwrite,
    Quiet,
    RegionName,
    SplitOptions,
    reads_labels,
    splits_labels,
)
from lianet_user.labels.label_options import LabelOptions

PICTURE = Path("check.png")


@reads_labels
@splits_labels
def check(
    region: RegionName,
    labels: LabelsPath,
    labels_options: LabelOptions,
    split_options: SplitOptions,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.png",
            help="Picture to draw. Default: check.png, where it replaces an earlier one.",
        ),
    ] = None,
    picture: Annotated[bool, typer.Option(help="Draw the labels over the image that the region remembers.")] = True,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """See what becomes of your labels before any training: what is used, what is not and why, class by class.

    Example: lianet-user check models/havelland.safetensors landcover.gpkg --field class
    """
    from lianet_user.files.artifact import open_region_file, refuse_existing
    from lianet_user.labels import SHARE, check_labels, read_labels

    target = output or PICTURE

    def refuse_outputs() -> None:
        if picture:
            # Labels are checked again and again: the picture of the last time is in nobody's way.
            refuse_existing(target, overwrite or output is None)

    path = region_file(region, quiet, refuse_outputs)
    header = open_region_file(path).header
    read = naming_options(read_labels(labels, header, labels_options), "check")
    result = check_labels(
        read,
        header,
        share=split_options.validation or SHARE,
        seed=split_options.seed or 0,
        **split_options.arguments(header),
    )
    refuse_outputs()
    if picture:
        from lianet_user.region import Region
        from lianet_user.report import labels_figure

        with progress(quiet) as bars:
            labels_figure(Region.open(path), read, target, bars.task("picture"))
    if as_json:
        print(json.dumps({**result.as_dict(), "picture": str(target) if picture else None}, indent=2))
    elif not quiet:
        print_lines(result.lines(), "check")
        if picture:
            wrote(target)
        print_next(f"lianet-user finetune {quoted(region)} {quoted(labels)}, with the same options")
