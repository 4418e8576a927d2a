"""`lianet-user info`: what a region or head file holds, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import AsJson, out

if TYPE_CHECKING:
    from lianet_user.artifact import ArtifactFile
    from lianet_user.header import RegionHeader


def info(
    region: Annotated[Path, typer.Argument(metavar="REGION", help="Region file (.safetensors).")],
    as_json: AsJson = False,
) -> None:
    """Where a region is, what it holds, how good it is and whose it is.

    Example: lianet-user info models/havelland.safetensors
    """
    from lianet_user.artifact import open_region_file

    file = open_region_file(region)
    if as_json:
        print(json.dumps(_summary(file, file.header), indent=2))
    else:
        _print(file, file.header)


def _summary(file: ArtifactFile[RegionHeader], header: RegionHeader) -> dict[str, Any]:
    from odc.geo.crs import CRS

    from lianet_user.grid import bounds_of

    geobox = header.grid.geobox
    return {
        "path": str(file.path),
        "megabytes": round(file.size_bytes / 1e6, 2),
        "parameters": file.parameters,
        "bounds": bounds_of(geobox),
        "bounds_lonlat": bounds_of(geobox, CRS("EPSG:4326")),
        "pixel_size": [abs(geobox.resolution.x), abs(geobox.resolution.y)],
        **header.model_dump(mode="json"),
    }


def _print(file: ArtifactFile[RegionHeader], header: RegionHeader) -> None:
    from odc.geo.crs import CRS
    from rich.table import Table

    from lianet_user.grid import bounds_of, crs_name, format_bounds

    geobox = header.grid.geobox
    assert geobox.crs is not None
    pixel = abs(geobox.resolution.x)
    unit = "m" if geobox.crs.projected else "degrees"
    lonlat = bounds_of(geobox, CRS("EPSG:4326"))
    dates = (
        ", ".join(map(str, header.dates))
        if len(header.dates) <= 6
        else (f"{len(header.dates)} dates from {min(header.dates)} to {max(header.dates)}")
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in (
        ("region", f"{header.name}: {header.title}"),
        ("", header.description),
        ("where", f"{format_bounds(lonlat)} (W,S,E,N in degrees)"),
        ("", f"{format_bounds(bounds_of(geobox))} ({crs_name(geobox.crs)})"),
        ("size", f"{header.grid.width} x {header.grid.height} px of {pixel:g} {unit}"
                 + (f", {geobox.extent.area / 1e6:,.0f} km2" if unit == "m" else "")),
        ("dates", dates),
        ("field", f"preset {header.field.preset}, {file.parameters:,} parameters, {file.size_bytes / 1e6:.1f} MB"),
        ("encoded", f"{header.provenance.created:%Y-%m-%d} from {header.provenance.source}"
                    + (f" in {header.provenance.seconds / 60:.0f} minutes" if header.provenance.seconds else "")),
        ("licence", header.licence),
        ("credit", header.attribution),
    ):  # fmt: skip
        if value:
            facts.add_row(name, value)
    out.print(facts)
    for quality in header.quality[:6]:
        table = Table(
            title=f"How well {quality.date} is remembered: {quality.psnr_db:.1f} dB over all bands",
            title_justify="left",
        )
        for column in ("band", "wavelength", "measured at", "PSNR", "RMSE", "RMSE / deviation", "SSIM"):
            table.add_column(column, justify="left" if column == "band" else "right")
        for band, figures in zip(header.bands, quality.bands, strict=True):
            table.add_row(
                band.name,
                f"{band.wavelength_nm:.0f} nm" if band.wavelength_nm else "",
                f"{band.gsd_m:g} m",
                f"{figures.psnr_db:.1f} dB",
                f"{figures.rmse:.5f}",
                f"{figures.rmse_over_std:.3f}",
                f"{figures.ssim:.4f}",
            )
        out.print(table)
    if len(header.quality) > 6:
        out.print(f"... and {len(header.quality) - 6} more dates: --json has them all")
