"""Why no label lies in the region, as far as the extents tell."""

from __future__ import annotations

from pathlib import Path

from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from lianet_user.errors import AreaError, LabelError
from lianet_user.geo.grid import LONLAT, Bounds, bounds_in, bounds_of, crs_name, format_bounds


def outside_error(path: Path, extent: Bounds, crs: CRS, geobox: GeoBox) -> LabelError:
    """The error for labels that cover nothing of the region: both extents, and what is likely wrong.

    Args:
        path: of the labels.
        extent: west, south, east, north of the labels in `crs`.
        crs: that the file states.
        geobox: the region's grid.
    """
    assert geobox.crs is not None
    west, south, east, north = extent
    own, region = geobox.crs, bounds_of(geobox)
    degrees = max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 90
    if degrees != crs.geographic:
        seem, kind = ("look like", "projected") if degrees else ("are not", "geographic")
        return LabelError(
            f"{path}: the coordinates ({format_bounds(extent)}) {seem} degrees, but the CRS that the file states"
            f" is {kind} ({crs_name(crs)}), and the region covers {_shown(region, own, crs)}: assign the one they are in,"
            " for instance with QGIS"
        )
    hint = "choose the region they lie in, or check their CRS"
    if _exchanged(extent, crs, geobox):
        hint = "with x and y exchanged they would lie in it, so exchange them, for instance with QGIS (Swap X and Y)"
    return LabelError(
        f"{path}: all labels lie outside the region. The labels cover {_shown(extent, crs, LONLAT)}"
        f" ({_shown(extent, crs, own)}), the region {_shown(region, own, LONLAT)} ({_shown(region, own, own)}): {hint}"
    )


def _exchanged(extent: Bounds, crs: CRS, geobox: GeoBox) -> bool:
    try:
        west, south, east, north = bounds_of(geobox, crs)
    except AreaError:
        return False
    return extent[1] < east and extent[3] > west and extent[0] < north and extent[2] > south


def _shown(bounds: Bounds, crs: CRS, shown: CRS) -> str:
    try:
        return f"{format_bounds(bounds_in(bounds, crs, shown))} in {crs_name(shown)}"
    except AreaError:
        return f"not expressible in {crs_name(shown)}"
