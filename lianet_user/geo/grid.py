"""Grids and windows: boxes on the Earth, rectangles of pixels, and the halo that a window is computed with.

A grid is an :class:`odc.geo.geobox.GeoBox` (CRS, affine transform, shape): pass it, never bounds and resolution separately.
A :class:`Window` is a rectangle of whole pixels of one GeoBox.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import CRSError, ProjError

from lianet_user.errors import AreaError, InputError, brief

Bounds = tuple[float, float, float, float]
LONLAT = CRS("EPSG:4326")
TILE = 512
"""Pixels of a map along the side of a tile, which determines the memory used, whatever the size of the map."""

SAME = 1e-3
"""Offset in pixels below which two grids count as the same."""


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: the first row and column, and the number of each."""

    row: int
    col: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """The row after the last."""
        return self.row + self.height

    @property
    def col_end(self) -> int:
        """The column after the last."""
        return self.col + self.width

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, ready to index an array whose last two axes are (y, x)."""
        return slice(self.row, self.row_end), slice(self.col, self.col_end)

    def shifted(self, rows: int, cols: int) -> Window:
        """The window moved by so many rows and columns."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def scaled(self, scale: int) -> Window:
        """The same area in pixels of a grid `scale` times as fine."""
        return Window(self.row * scale, self.col * scale, self.height * scale, self.width * scale)

    def coarsened(self, scale: int) -> Window:
        """The pixels of a grid `scale` times as coarse that contain any of these."""
        row, col = self.row // scale, self.col // scale
        return Window(row, col, -(-self.row_end // scale) - row, -(-self.col_end // scale) - col)

    def within(self, outer: Window) -> Window:
        """The same pixels counted from the corner of `outer`."""
        return self.shifted(-outer.row, -outer.col)

    def intersection(self, other: Window) -> Window | None:
        """The pixels that both windows contain, or None."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row_end, other.row_end) - row
        width = min(self.col_end, other.col_end) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def tiles(self, size: int) -> Iterator[Window]:
        """Divide the window into tiles of at most `size` pixels a side, row by row."""
        for row in range(self.row, self.row_end, size):
            for col in range(self.col, self.col_end, size):
                yield Window(row, col, min(size, self.row_end - row), min(size, self.col_end - col))

    def expanded(self, halo: int, stride: int, shape: tuple[int, int]) -> Window:
        """The window to compute so that this one is correct: `halo` more pixels on all sides, snapped outward to `stride`.

        The halo stops at the region's border, past which the field was never trained; where the region's `shape` (height,
        width) is no multiple of the stride the window is snapped past the border. Every pixel therefore has the same
        surroundings, whatever the tiling (CONTRIBUTING.md, "One rule for every pixel").
        """
        row = max(0, self.row - halo) // stride * stride
        col = max(0, self.col - halo) // stride * stride
        row_end = math.ceil(min(shape[0], self.row_end + halo) / stride) * stride
        col_end = math.ceil(min(shape[1], self.col_end + halo) / stride) * stride
        return Window(row, col, row_end - row, col_end - col)


def whole(geobox: GeoBox) -> Window:
    """The window of the whole grid."""
    height, width = geobox.shape
    return Window(0, 0, height, width)


def finer(geobox: GeoBox, scale: int) -> GeoBox:
    """The grid of the same area with pixels `scale` times as fine."""
    return geobox if scale == 1 else geobox.zoom_out(1 / scale)


def window_geobox(geobox: GeoBox, window: Window) -> GeoBox:
    """The part of `geobox` that `window` covers."""
    return geobox[window.slices]


def parse_bbox(text: str) -> Bounds:
    """Parse ``W,S,E,N``.

    Raises:
        AreaError: it is not four finite numbers, or west and east or south and north are exchanged.
    """
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != 4:
        raise AreaError(f"`bbox` {text!r} is not four numbers: expected W,S,E,N, for instance 12.50,52.42,12.60,52.46")
    west, south, east, north = values
    if not all(map(math.isfinite, values)):
        raise AreaError(f"`bbox` {text!r} holds a number that is not finite: expected W,S,E,N")
    if west > east and west <= 180 and east >= -180 and south < north and west - east > 180:
        raise AreaError(
            f"`bbox` {text!r} crosses the antimeridian: map its two sides one after the other, one box up to 180 and one"
            " from -180"
        )
    if west >= east or south >= north:
        (w, e), (s, n) = (sorted(map(str.strip, parts[first::2]), key=float) for first in (0, 1))
        hint = f"; did you mean {w},{s},{e},{n}?" if west != east and south != north else ""
        raise AreaError(f"`bbox` {text!r} is empty or inverted: expected W,S,E,N with W < E and S < N{hint}")
    return west, south, east, north


@lru_cache(maxsize=64)
def horizontal(said: Any) -> CRS:
    """The horizontal part of a CRS that somebody states: text, or an object of pyproj, rasterio or odc-geo.

    Whatever takes in a CRS, from a file or from a user, does it here. One with a shift to WGS 84 that names a registered
    CRS, as in files from before 2019, is the registered one, as GDAL has it.

    Raises:
        CRSError: it is none, or no place on a map has coordinates in it. The message says why, to be continued.
    """
    shown = brief(str(said), 60)
    try:
        crs = pyproj.CRS(said)
    except (CRSError, ValueError) as error:
        raise CRSError(f"{shown!r} is no coordinate reference system") from error
    if not isinstance(said, str) or len(said) > len(shown):
        shown = crs.name
    while crs.is_compound:
        crs = crs.sub_crs_list[0]
    crs = _registered(crs)
    crs = crs.to_2d() if len(crs.axis_info) > 2 else crs
    kind = (crs.source_crs if crs.is_bound and crs.source_crs else crs).type_name
    if not (crs.is_geographic or crs.is_projected):
        raise CRSError(f"{shown!r} ({kind}) is neither geographic nor projected")
    if crs.name.casefold().startswith("undefined"):  # as GDAL calls what a GeoPackage leaves open
        raise CRSError(f"{shown!r} ({kind}) says nothing of where its coordinates lie")
    try:
        Transformer.from_crs(crs, LONLAT.proj)
        return CRS(crs)
    except (ProjError, ValueError) as error:
        raise CRSError(f"{shown!r} ({kind}) is not tied to the Earth") from error


def _registered(crs: pyproj.CRS) -> pyproj.CRS:
    entry = crs.source_crs.to_json_dict().get("id") if crs.is_bound and crs.source_crs else None
    try:
        return crs if entry is None else pyproj.CRS.from_authority(entry["authority"], entry["code"])
    except CRSError:
        return crs


def parse_crs(said: Any, what: str, error: type[InputError] = AreaError) -> CRS:
    """Take in a CRS (:func:`horizontal`); the message of `error`, if it is of no use, begins with `what`.

    Raises:
        InputError: of the kind `error`.
    """
    try:
        return horizontal(said)
    except CRSError as reason:
        raise error(f"{what} {reason}: expected one of places on a map, for instance EPSG:25833") from reason


def same_crs(one: CRS | None, other: CRS | None) -> bool:
    """Whether two CRS are the same, whichever program wrote them."""
    return one == other or (
        one is not None
        and other is not None
        and _registered(one.proj).equals(_registered(other.proj), ignore_axis_order=True)
    )


def bounds_in(bounds: Bounds, source: CRS, target: CRS) -> Bounds:
    """Transform bounds to another CRS: the box that contains them there, with edges densified because they may be curved.

    Raises:
        AreaError: the box cannot be expressed in the target CRS.
    """
    transformer = Transformer.from_crs(source.proj, target.proj, always_xy=True)
    west, south, east, north = transformer.transform_bounds(*bounds, densify_pts=21)
    if not all(map(math.isfinite, (west, south, east, north))):
        raise AreaError(
            f"the box {format_bounds(bounds)} ({crs_name(source)}) cannot be expressed in {crs_name(target)}:"
            " check its numbers, and which coordinate reference system they are in"
        )
    return west, south, east, north


def window_of_bounds(geobox: GeoBox, bounds: Bounds, crs: CRS) -> tuple[Window, float]:
    """The pixels that a box touches, and the share of the box (by area in the grid's CRS) that lies outside the grid.

    Args:
        geobox: the region's grid.
        bounds: west, south, east, north in `crs`.
        crs: of `bounds`.

    Raises:
        AreaError: the box lies wholly outside the grid.
    """
    assert geobox.crs is not None
    try:
        west, south, east, north = bounds_in(bounds, crs, geobox.crs)
    except AreaError as error:
        raise AreaError(f"{error}{_exchange_hint(bounds, crs, geobox)}") from error
    corners = [~geobox.affine @ point for point in ((west, north), (east, north), (west, south), (east, south))]
    cols, rows = [c for c, _ in corners], [r for _, r in corners]
    # A tolerance of a millionth of a pixel, so that a box along pixel edges gains no row from rounding. A smaller box is
    # still one pixel.
    row, col = math.floor(min(rows) + 1e-6), math.floor(min(cols) + 1e-6)
    height, width = math.ceil(max(rows) - 1e-6) - row, math.ceil(max(cols) - 1e-6) - col
    asked = Window(row, col, max(1, height), max(1, width))
    inside = asked.intersection(whole(geobox))
    if inside is None:
        raise AreaError(
            f"the box {format_bounds(bounds)} ({crs_name(crs)}) lies outside the region, which covers"
            f" {format_bounds(bounds_of(geobox, crs))} in the same coordinates: choose a box that touches it"
            f"{_exchange_hint(bounds, crs, geobox)}"
        )
    return inside, 1.0 - inside.pixels / asked.pixels


def _exchange_hint(bounds: Bounds, crs: CRS, geobox: GeoBox) -> str:
    south, west, north, east = bounds
    exchanged = west, south, east, north
    if not touches(exchanged, crs, geobox):
        return ""
    return f"; with x and y exchanged it would lie in it, so give {format_bounds(exchanged)}"


def bounds_of(geobox: GeoBox, crs: CRS | None = None) -> Bounds:
    """West, south, east, north of the grid, in its own CRS or in `crs`."""
    box = geobox.boundingbox
    own: Bounds = (box.left, box.bottom, box.right, box.top)
    if crs is None or crs == geobox.crs:
        return own
    assert geobox.crs is not None
    return bounds_in(own, geobox.crs, crs)


def touches(bounds: Bounds, crs: CRS, geobox: GeoBox) -> bool:
    """Whether a box in some CRS shares ground with the grid."""
    west, south, east, north = bounds
    try:
        left, bottom, right, top = bounds_of(geobox, crs)
    except AreaError:
        return False
    return west < right and east > left and south < top and north > bottom


def in_degrees(bounds: Bounds) -> bool:
    """Whether numbers may be degrees: those of a projected CRS hardly lie so near to its origin."""
    west, south, east, north = bounds
    return max(abs(west), abs(east)) <= 360 and max(abs(south), abs(north)) <= 90


ZONE_IN_FRONT = {31: "EPSG:5649", 32: "EPSG:4647", 33: "EPSG:5650"}
"""CRS of UTM eastings that begin with the number of their zone: ETRS89 / UTM zone 33N (zE-N)."""


def zone_in_front(bounds: Bounds) -> int:
    """The UTM zone whose number all eastings begin with, as in 33330000; 0 if there is none."""
    west, _, east, _ = bounds
    zone = west // 1e6 if math.isfinite(west) else 0
    return int(zone) if 1 <= zone <= 60 and zone * 1e6 + 1e5 <= west <= east <= zone * 1e6 + 9e5 else 0


def likely_crs(bounds: Bounds) -> str:
    """A CRS for coordinates that are stated without one, in words for an advice."""
    if in_degrees(bounds):
        return "EPSG:4326 if these are degrees"
    zone = zone_in_front(bounds)
    # Zones of Gauss-Krüger coordinates have a single digit.
    return zone_advice(bounds[0], zone) if zone >= 10 else "EPSG:25833"


def zone_advice(easting: float, zone: int) -> str:
    """What to do about eastings that begin with the number of their zone, in words."""
    seem = f"{easting:.0f} seems to be an easting with the number of UTM zone {zone} in front"
    code = ZONE_IN_FRONT.get(zone)
    return f"{code}, since {seem}" if code else f"that of UTM zone {zone} after subtracting {zone}000000, since {seem}"


def crs_name(crs: CRS) -> str:
    """`EPSG:n` where there is one, else the CRS's own name."""
    return f"EPSG:{crs.epsg}" if crs.epsg else crs.proj.name


def format_bounds(bounds: Bounds) -> str:
    """Format `W,S,E,N` for a message: five decimals for degrees, none for metres."""
    places = 5 if max(map(abs, bounds)) <= 360 else 0
    return ",".join(f"{value:.{places}f}" for value in bounds)


def offset_on(source: GeoBox, target: GeoBox) -> tuple[int, int] | None:
    """Row and column of `source` at which `target` begins, if the two have the same pixels; else None."""
    if source.crs != target.crs:
        return None
    corners = ((0, 0), (target.width, 0), (0, target.height))
    places = np.array([~source.affine @ (target.affine @ corner) for corner in corners])
    if np.abs(places - places[0] - np.array(corners)).max() > SAME:
        return None
    col, row = np.rint(places[0])
    return (int(row), int(col)) if np.abs(places[0] - (col, row)).max() < SAME else None
