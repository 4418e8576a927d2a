"""`lianet-user info`: what a region or head file holds, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lianet_user.cli.console import out, print_next, quoted, region_file
from lianet_user.cli.options import AsJson, RegionName
from lianet_user.errors import printable

if TYPE_CHECKING:
    from lianet_user.files.artifact import ArtifactFile
    from lianet_user.files.header import Quality, RegionHeader

BANDS_SHOWN = 6
"""Dates that a region has at most for the figures of every band to be printed."""


def info(
    region: RegionName,
    as_json: AsJson = False,
) -> None:
    """Where a region is, what it holds, how good it is and whose it is.

    Example: lianet-user info models/havelland.safetensors
    """
    from lianet_user.files.artifact import open_region_file

    file = open_region_file(region_file(region, quiet=False))
    if as_json:
        print(json.dumps(_summary(file, file.header), indent=2))
    else:
        _print(file, file.header)
        print_next(f"lianet-user check {quoted(region)} LABELS")


def _summary(file: ArtifactFile[RegionHeader], header: RegionHeader) -> dict[str, Any]:
    from lianet_user.geo.grid import LONLAT, bounds_of

    geobox = header.grid.geobox
    return {
        "path": str(file.path),
        "megabytes": round(file.size_bytes / 1e6, 2),
        "parameters": file.parameters,
        "bounds": bounds_of(geobox),
        "bounds_lonlat": bounds_of(geobox, LONLAT),
        "pixel_size": [abs(geobox.resolution.x), abs(geobox.resolution.y)],
        **header.model_dump(mode="json"),
    }


def _print(file: ArtifactFile[RegionHeader], header: RegionHeader) -> None:
    from rich.table import Table

    from lianet_user.geo.grid import LONLAT, bounds_of, crs_name, format_bounds

    geobox = header.grid.geobox
    assert geobox.crs is not None
    pixel = abs(geobox.resolution.x)
    unit = "m" if geobox.crs.projected else "degrees"
    lonlat = bounds_of(geobox, LONLAT)
    dates = (
        ", ".join(map(str, header.dates))
        if len(header.dates) <= 6
        else (f"{len(header.dates)} dates from {min(header.dates)} to {max(header.dates)}")
    )
    continuous = ""
    if header.field.time.kind != "index" and len(header.dates) > 1:
        continuous = f"continuous time ({header.field.time.kind}): `reconstruct` estimates dates between"
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in (
        ("region", f"{header.name}: {header.title}"),
        ("", header.description),
        ("where", f"{format_bounds(lonlat)} (W,S,E,N in degrees)"),
        ("", f"{format_bounds(bounds_of(geobox))} ({crs_name(geobox.crs)})"),
        ("size", f"{header.grid.width} x {header.grid.height} px of {pixel:g} {unit}"
                 + (f", {_format_area(geobox.extent.area / 1e6)} km2" if unit == "m" else "")),
        ("dates", dates),
        ("", continuous),
        ("field", f"preset {header.field.preset}, {file.parameters:,} parameters, {file.size_bytes / 1e6:.1f} MB"),
        ("encoded", f"{header.provenance.created:%Y-%m-%d} from {header.provenance.source}"
                    + (f" in {header.provenance.seconds / 60:.0f} minutes" if header.provenance.seconds else "")),
        ("licence", header.licence),
        ("credit", header.attribution),
    ):  # fmt: skip
        if value:
            facts.add_row(name, printable(value))
    out.print(facts)
    if len(header.quality) > 1:
        print_quality_by_date(header.quality)
    for quality in header.quality if len(header.quality) <= BANDS_SHOWN else ():
        table = Table(
            title=f"How well {quality.date} is remembered: {format_figure(quality.psnr_db, '.1f', ' dB')} over all bands"
            + (
                f", spectra {quality.spectral_angle_deg:.2f} degrees apart"
                if quality.spectral_angle_deg is not None
                else ""
            ),
            title_justify="left",
        )
        for column in ("band", "wavelength", "measured at", "PSNR", "RMSE", "RMSE / deviation", "SSIM"):
            table.add_column(column, justify="left" if column == "band" else "right")
        for band, figures in zip(header.bands, quality.bands, strict=True):
            table.add_row(
                printable(band.name),
                f"{band.wavelength_nm:.0f} nm" if band.wavelength_nm else "",
                f"{band.gsd_m:g} m",
                format_figure(figures.psnr_db, ".1f", " dB"),
                format_figure(figures.rmse, ".5f"),
                format_figure(figures.rmse_over_std, ".3f"),
                format_figure(figures.ssim, ".4f"),
            )
        out.print(table)
    if len(header.quality) > BANDS_SHOWN:
        out.print("every band of every date: --json", style="dim")


def print_quality_by_date(measured: Sequence[Quality]) -> None:
    """Print a line for each date: how well all its bands are reconstructed."""
    from rich.table import Table

    table = Table(title="How well each date is remembered", title_justify="left")
    for column in ("date", "judged", "PSNR", "SSIM", "spectral angle", "worst band"):
        table.add_column(column, justify="left" if column in ("date", "worst band") else "right")
    for one in measured:
        similar = [band.ssim for band in one.bands if band.ssim is not None]
        judged = [(band.psnr_db, band.band) for band in one.bands if band.psnr_db is not None]
        table.add_row(
            str(one.date),
            format_figure(one.judged, ".0%"),
            format_figure(one.psnr_db, ".2f", " dB"),
            format_figure(sum(similar) / len(similar) if similar else None, ".4f"),
            format_figure(one.spectral_angle_deg, ".3f", " degrees"),
            printable("{1}, {0:.2f} dB".format(*min(judged))) if judged else "-",
        )
    out.print(table)


def format_figure(value: float | None, places: str, unit: str = "") -> str:
    """A number for a table; a dash for None."""
    return "-" if value is None else f"{value:{places}}{unit}"


def _format_area(number: float) -> str:
    """A whole number, or two significant digits below 1."""
    return f"{number:,.0f}" if number >= 1 else f"{number:.2g}"
