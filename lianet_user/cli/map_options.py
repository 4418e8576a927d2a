"""What the commands that write maps share: where to map, how to write, and what is shown meanwhile."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lianet_user.cli.console import Progress, StoppedError, grouped, option_group, warn
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.maps import MapArea

WHERE, WHAT, HOW = "Where", "What", "How it is written"


@dataclass(frozen=True)
class AreaOptions:
    """What was typed about where to map."""

    bbox: tuple[float, float, float, float] | None
    given: dict[str, Any]
    """The rest, by the names of MapArea."""

    def area(self) -> MapArea:
        from lianet_user.maps import MapArea

        return MapArea(bbox=self.bbox, **self.given)


@dataclass(frozen=True)
class WritingOptions:
    """What was typed about how to write."""

    overwrite: bool
    resume: bool
    creation: dict[str, str]

    @property
    def words(self) -> dict[str, Any]:
        """By the names of the functions that write maps."""
        return {"overwrite": self.overwrite, "resume": self.resume, "creation_options": self.creation}


def _area_options(
    *,
    bbox: Annotated[str | None, grouped(WHERE, "Box to map. Default: the whole region.", metavar="W,S,E,N")] = None,
    bbox_crs: Annotated[
        str | None, grouped(WHERE, "Coordinate reference system of --bbox. Default: EPSG:4326, degrees.", metavar="CRS")
    ] = None,
    aoi: Annotated[
        Path | None, grouped(WHERE, "Vectors: map only pixels whose centres lie in their polygons.", metavar="FILE")
    ] = None,
    like: Annotated[Path | None, grouped(WHERE, "Raster: map on exactly its grid.", metavar="FILE")] = None,
    dst_crs: Annotated[
        str | None,
        grouped(WHERE, "Coordinate reference system of the map. Default: the region's, not resampled.", metavar="CRS"),
    ] = None,
    resolution: Annotated[
        float | None, grouped(WHERE, "Pixel size of the map in units of its CRS. Default: the region's.")
    ] = None,
    strict: Annotated[bool, grouped(WHERE, "Refuse an area that lies partly outside the region.", "--strict")] = False,
) -> AreaOptions:
    from lianet_user.geo.grid import parse_bbox

    if bbox is None and bbox_crs is not None:
        raise InputError(
            f"--bbox-crs {bbox_crs} says what the numbers of --bbox are, and there is none: give both or neither"
        )
    box = parse_bbox(bbox) if bbox is not None else None
    given = {
        "bbox_crs": bbox_crs or "EPSG:4326",
        "aoi": aoi,
        "like": like,
        "crs": dst_crs,
        "resolution": resolution,
        "strict": strict,
    }
    return AreaOptions(box, given)


maps_an_area = option_group("area_options", _area_options)
"""For commands with a parameter `area_options`, an AreaOptions."""


def _writing_options(
    *,
    creation: Annotated[
        list[str] | None, grouped(HOW, "Creation option of GDAL's COG driver.", "--co", metavar="KEY=VALUE")
    ] = None,
    overwrite: Annotated[bool, grouped(HOW, "Replace outputs that exist.", "--overwrite")] = False,
    resume: Annotated[
        bool, grouped(HOW, "Go on from where an interrupted run of the same command stopped.", "--resume")
    ] = False,
) -> WritingOptions:
    return WritingOptions(overwrite, resume, dict(_option(text) for text in creation or []))


writes_maps = option_group("writing_options", _writing_options)
"""For commands with a parameter `writing_options`, a WritingOptions."""


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--co {text!r}: expected KEY=VALUE, for instance --co COMPRESS=ZSTD")
    return key.upper(), value


def shower(bars: Progress, stop_if_asked: Callable[[], None]) -> Callable[[int, int], None]:
    """What shows how far the maps are, and how fast; it ends the run where somebody asked for that."""
    begun: list[tuple[float, int]] = []

    def show(done: int, total: int) -> None:
        if not begun:
            begun.append((time.monotonic(), done))
        started, found = begun[0]  # what an earlier run had done says nothing about this one's pace
        rate = (done - found) / 1e6 / max(1e-3, time.monotonic() - started)
        bars.task("mapping")(done, total, f"{done / 1e6:.1f} of {total / 1e6:.1f} Mpx, {rate:.2g} Mpx/s")
        stop_if_asked()

    return show


@contextmanager
def resumable(target: Path, command: str) -> Iterator[None]:
    """Say how to go on, where what the block writes is interrupted and something of it is kept."""
    try:
        yield
    except (StoppedError, KeyboardInterrupt):
        from lianet_user.maps.resume_store import store_path

        if store_path(target).exists():
            given = sys.argv[1:] if command in sys.argv else [command, "..."]
            words = shlex.join(["lianet-user", *given, *([] if "--resume" in given else ["--resume"])])
            warn(f"{target} is not finished: go on from where it stopped with `{words}`")
        raise
