"""`lianet-user quality`: how well a region remembers its imagery, and what image codecs make of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import choose_device, out, print_next, progress, region_file
from lianet_user.cli.imagery import ConfigPath, ImageryPaths, open_given_imagery, read_config, reads_imagery
from lianet_user.cli.info import format_figure, print_quality_by_date
from lianet_user.cli.options import AsJson, Device, Quiet, RegionName

if TYPE_CHECKING:
    from lianet_user.pretraining.compression import CodecRow


@reads_imagery
def quality(
    region: RegionName,
    imagery: ImageryPaths,
    rate: Annotated[
        bool, typer.Option("--rate/--no-rate", help="Compare its size with JPEG 2000's and GeoTIFF's.")
    ] = True,
    config: ConfigPath = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    imagery_options: dict[str, Any],
) -> None:
    """Measure how well a region remembers imagery, and what image codecs would make of as many bytes.

    Example: lianet-user quality models/havelland.safetensors imagery/
    """
    from lianet_user.files.artifact import open_region_file

    table = read_config(config)["imagery"]
    path = region_file(region, quiet)
    table.setdefault("bands", [band.name for band in open_region_file(path).header.bands])
    truth = open_given_imagery(imagery, table, imagery_options, quiet or as_json)

    from lianet_user.pretraining.compression import codec_table
    from lianet_user.pretraining.quality import measure_quality
    from lianet_user.region import Region

    where = choose_device(device)
    with progress(quiet) as bars:
        measured = measure_quality(Region.open(path, where), truth, listener=bars.task("comparing"))
        rows: tuple[CodecRow, ...] = ()
        if rate:
            done = 0

            def show(codec: str) -> None:
                nonlocal done
                done += 1
                bars.task("codecs")(done, done + 1, codec)

            rows = codec_table(path, truth, device=where, listener=show)
    if as_json:
        document: dict[str, Any] = {"quality": [one.model_dump(mode="json") for one in measured]}
        if rate:
            document["rate"] = [
                dataclasses.asdict(row) | {"quality": [one.model_dump(mode="json") for one in row.quality]}
                for row in rows
            ]
        print(json.dumps(document, indent=2))
        return
    print_quality_by_date(measured)
    if rows:
        _print_rate(rows)
    if not quiet:
        print_next(
            "lianet-user models publish FOLDER, to give the region away",
            "if it remembers too little: lianet-user pretrain with more --steps, or a larger --table-size",
        )


def _print_rate(rows: Sequence[CodecRow]) -> None:
    from rich.table import Table

    table = Table(title="What it costs, and what image codecs make of it", title_justify="left")
    for column in ("stored as", "bytes", "bits", "PSNR", "SSIM", "spectral angle"):
        table.add_column(column, justify="left" if column == "stored as" else "right")
    for row in rows:
        table.add_row(
            row.codec,
            f"{row.bytes:,}",
            f"{row.bits:.2f}",
            format_figure(row.psnr_db, ".2f", " dB"),
            format_figure(row.ssim, ".4f"),
            format_figure(row.spectral_angle_deg, ".3f", " degrees"),
        )
    out.print(table)
    out.print("bits: per pixel, date and band, each band at its own resolution", style="dim")
