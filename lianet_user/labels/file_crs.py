"""The CRS of a file of labels or areas: what it states, else what is asked for. The default of a format is no statement."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from odc.geo.crs import CRS
from pyproj.exceptions import CRSError

from lianet_user.errors import LabelError
from lianet_user.geo.grid import Bounds, crs_name, format_bounds, horizontal, likely_crs, parse_crs, same_crs

DEFAULT_DRIVERS = ("GeoJSON", "GeoJSONSeq")
"""GDAL's drivers that have a file in degrees (WGS 84) where it states nothing else. KML and GPX are never in anything else."""
_MEMBER = re.compile(rb'"crs"\s*:\s*\{\s*"(type|properties)"')
_CHUNK = 2**20


def file_crs(
    where: str,
    stated: Any,
    given: str | None,
    extent: Callable[[], Bounds],
    *,
    by_default: bool = False,
    hint: str = "",
    tool: str = "ogr2ogr",
    optional: bool = True,
) -> tuple[CRS, list[str]]:
    """The CRS of a file, horizontal only, and a note where it is not the file's own.

    Args:
        where: the file, to begin a message with.
        stated: by the file, as :func:`horizontal` takes it; None or empty where it states none.
        given: `labels_crs`, by the user.
        extent: of the coordinates, from which one is proposed where there is none.
        by_default: `stated` is what the format has where a file states nothing.
        hint: why nothing is stated, in brackets.
        tool: of GDAL, that assigns a CRS to such a file.
        optional: whether `labels_crs` can be given for this file.

    Raises:
        LabelError: nobody says what it is, or the file and the user contradict each other.
    """
    asked = None if given is None else parse_crs(given, "`labels_crs`", LabelError)
    own = None
    try:
        own = horizontal(stated) if stated else None
    except CRSError as reason:
        hint = f" that can be used ({reason})"
    assign = f"with QGIS or {tool} -a_srs"
    if asked is None and own is None:
        likely = f"for instance {likely_crs(extent())}"
        advice = f"give it with `labels_crs`, {likely}, or assign it" if optional else f"assign it, {likely},"
        raise LabelError(f"{where} has no coordinate reference system{hint}: {advice} {assign}")
    if asked is None or (own is not None and not by_default and same_crs(own, asked)):
        assert own is not None
        return own, []
    if own is None or by_default:
        return asked, [f"CRS: {_words(asked)}, as given with `labels_crs`, since the file states none"]
    raise LabelError(
        f"{where} states {_words(own)}, but `labels_crs` is {_words(asked)}: omit `labels_crs`, or assign the right one to"
        f" the file {assign}"
    )


def is_default(driver: str, path: Path, location: str) -> bool:
    """Whether the CRS of a file that GDAL reads is that of its format only. GDAL does not tell it for GeoJSON."""
    return driver in DEFAULT_DRIVERS and not (driver == "GeoJSON" and _has_crs_member(path, location))


def unfit_default(bounds: Sequence[float]) -> str:
    """Why coordinates with these bounds cannot be the degrees of a format's default; empty where they can."""
    west, south, east, north = bounds
    if not (west > 360 or east < -360 or south > 90 or north < -90):
        return ""
    return (
        f" (the default of its format is degrees, and its coordinates are {format_bounds((west, south, east, north))})"
    )


def _has_crs_member(path: Path, location: str) -> bool:
    inside = location.partition("}/")[2]
    with zipfile.Path(path, inside).open("rb") if inside else path.open("rb") as file:
        end = b""
        while chunk := file.read(_CHUNK):
            if _MEMBER.search(end + chunk):
                return True
            end = chunk[-200:]
    return False


def _words(crs: CRS) -> str:
    return f"{crs_name(crs)} ({crs.proj.name})" if crs.epsg else crs_name(crs)
