"""Grids of imagery: whether two of them match, cropping and resampling to one of them, and refining coarse bands.

A coarse band is refined smoothly and then corrected until the mean of the fine pixels in every coarse pixel is the measurement
again. Nothing is lost, so quality can be judged at each band's own resolution, on measured pixels only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage

from lianet_user.errors import ImageryError
from lianet_user.geo.grid import Window, bounds_of, crs_name, format_bounds, same_crs, whole
from lianet_user.imagery.imagery import Plane

Key = TypeVar("Key", bound=Hashable)

TOLERANCE = 0.01
"""In pixels: grids that differ by less are the same."""


def same_grid(one: GeoBox, other: GeoBox) -> bool:
    """Whether two grids have the same pixels, to a hundredth of one."""
    return one.shape == other.shape and same_crs(one.crs, other.crs) and _shift(one, other) == (0, 0)


def pixel_factor(geobox: GeoBox, grid: GeoBox) -> int | None:
    """How many pixels of `grid` lie along one side of a pixel of `geobox`; None unless that is a whole number and both
    cover the same ground."""
    factor = _ratio(geobox, grid)
    if factor is None or any(length % factor for length in grid.shape):
        return None
    return factor if same_grid(geobox, grid.zoom_out(factor)) else None


def pixel_metres(geobox: GeoBox) -> float:
    """Size of a pixel on the ground; of a grid in degrees, along a meridian."""
    assert geobox.crs is not None
    crs = geobox.crs.proj
    to_metres = crs.axis_info[0].unit_conversion_factor * (6_378_137.0 if crs.is_geographic else 1.0)
    return float(round(abs(geobox.resolution.y) * to_metres, 6))


def describe_grid(geobox: GeoBox) -> str:
    """Describe a grid for a message."""
    assert geobox.crs is not None
    size = abs(geobox.resolution.x)
    unit = "m" if geobox.crs.projected else "degrees"
    height, width = geobox.shape
    return f"{width} x {height} px of {size:g} {unit} at {format_bounds(bounds_of(geobox))} ({crs_name(geobox.crs)})"


def to_common_grid(planes: Mapping[Key, Plane], target: GeoBox | None = None) -> tuple[GeoBox, dict[Key, Plane]]:
    """Put planes on one grid; returns the grid and the planes on it.

    Args:
        planes: of bands, by any key.
        target: the grid to put them on. Planes whose pixels are whole multiples of its pixels are cropped to it and keep
            their size; others are resampled, bilinearly. None takes the grid of the finest plane.

    Raises:
        ImageryError: no target is given, and a plane does not cover the finest one's ground in a whole multiple of its pixels.
    """
    if target is not None:
        return target, {key: on_grid(plane, target) for key, plane in planes.items()}
    finest = min(planes.values(), key=lambda plane: abs(plane.geobox.affine.determinant))
    for plane in planes.values():
        if pixel_factor(plane.geobox, finest.geobox) is None:
            raise ImageryError(
                f"{plane.name} covers {describe_grid(plane.geobox)}, which is not the ground of {finest.name}"
                f" ({describe_grid(finest.geobox)}) in a whole multiple of its pixels:"
                " clip both to the same area, or give `grid` to resample"
            )
    return finest.geobox, dict(planes)


def on_grid(plane: Plane, grid: GeoBox, method: Literal["bilinear", "nearest"] = "bilinear") -> Plane:
    """Put a plane on a grid: unchanged, cropped in its own pixels, or resampled."""
    if pixel_factor(plane.geobox, grid) is not None:
        return plane
    factor = _ratio(plane.geobox, grid)
    if factor is not None and not any(length % factor for length in grid.shape):
        coarse = grid.zoom_out(factor)
        if (shift := _shift(coarse, plane.geobox)) is not None:
            return Cropped(plane, coarse, shift)
    return Resampled(plane, grid, method)


class Cropped(Plane):
    """Another plane, cropped or padded to a grid with the same pixels; what it does not cover is not measured.

    Args:
        plane: to be read.
        geobox: the grid, in the plane's pixels.
        shift: row and column of the grid's first pixel in the plane.
    """

    def __init__(self, plane: Plane, geobox: GeoBox, shift: tuple[int, int]) -> None:
        super().__init__(geobox, plane.name, plane.scale, plane.offset)
        self._plane, self._shift = plane, shift

    def read(self, window: Window) -> NDArray[np.float32]:
        values = np.full((window.height, window.width), np.nan, np.float32)
        shifted = window.shifted(*self._shift)
        if inside := shifted.intersection(whole(self._plane.geobox)):
            values[inside.within(shifted).slices] = _measured(self._plane, inside)
        return values


class Resampled(Plane):
    """Another plane, resampled onto a grid. A pixel is measured where the plane's pixel at its centre is.

    Nodata is not mixed in. Every pixel is computed from its own coordinates, without the approximations that a warper makes
    for a window as a whole, so that a window equals its part of the whole. A grid of larger pixels takes means of several
    samples a pixel.

    Args:
        plane: to be read.
        geobox: the grid.
        method: `bilinear` for numbers, `nearest` for classes.
    """

    def __init__(self, plane: Plane, geobox: GeoBox, method: Literal["bilinear", "nearest"] = "bilinear") -> None:
        super().__init__(geobox, plane.name, plane.scale, plane.offset)
        source = plane.geobox
        assert geobox.crs is not None
        assert source.crs is not None
        self._plane, self._nearest = plane, method == "nearest"
        self._transformer = (
            None
            if same_crs(geobox.crs, source.crs)
            else Transformer.from_crs(geobox.crs.proj, source.crs.proj, always_xy=True)
        )
        middle = np.array([[0.5, 0.5], [0.5, 1.5], [1.5, 0.5]]) + np.array(geobox.shape) // 2
        at, right, below = np.stack(self._places(middle[:, 0], middle[:, 1]), -1)
        ratio = max(float(np.hypot(*(right - at))), float(np.hypot(*(below - at))))
        self._samples = 1 if self._nearest or not np.isfinite(ratio) else max(1, round(ratio))

    def read(self, window: Window) -> NDArray[np.float32]:
        samples = self._samples
        down, right = (
            (np.arange(length * samples) + 0.5) / samples + first
            for first, length in ((window.row, window.height), (window.col, window.width))
        )
        rows, cols = self._places(*np.meshgrid(down, right, indexing="ij"))
        inside = np.isfinite(rows) & np.isfinite(cols)
        height, width = self._plane.geobox.shape
        inside[inside] &= (rows[inside] >= 0) & (rows[inside] < height) & (cols[inside] >= 0) & (cols[inside] < width)
        values = np.full(inside.shape, np.nan, np.float32)
        if inside.any():
            values[inside] = self._values(rows[inside], cols[inside])
        return values if samples == 1 else _mean_of_measured(values, samples)

    def _places(
        self, rows: NDArray[np.float64], cols: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows and columns of the plane at rows and columns of the grid; not finite where there are none."""
        a, b, c, d, e, f = tuple(self.geobox.affine)[:6]
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        if self._transformer is not None:
            x, y = self._transformer.transform(x, y)
        a, b, c, d, e, f = tuple(~self._plane.geobox.affine)[:6]
        return d * x + e * y + f, a * x + b * y + c

    def _values(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float32]:
        """The values at positions inside the plane: float32, NaN where the pixel is not measured."""
        first = int(rows.min()) - 1, int(cols.min()) - 1
        reach = Window(*first, int(rows.max()) + 2 - first[0], int(cols.max()) + 2 - first[1])
        touched = reach.intersection(whole(self._plane.geobox))
        assert touched is not None
        numbers = _measured(self._plane, touched)
        rows, cols = rows - touched.row, cols - touched.col
        nearest: NDArray[np.float32] = numbers[rows.astype(int), cols.astype(int)]
        if self._nearest:
            return nearest
        row, col = np.floor(rows - 0.5).astype(int), np.floor(cols - 0.5).astype(int)
        below, right = rows - 0.5 - row, cols - 0.5 - col
        total, weights = np.zeros(rows.shape), np.zeros(rows.shape)
        for step_down, step_right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (below if step_down else 1 - below) * (right if step_right else 1 - right)
            corner = numbers[
                (row + step_down).clip(0, touched.height - 1), (col + step_right).clip(0, touched.width - 1)
            ]
            weight = np.where(np.isfinite(corner), weight, 0.0)
            total += weight * np.nan_to_num(corner)
            weights += weight
        # The pixel at the place itself weighs a quarter at least.
        return np.where(np.isfinite(nearest), total / np.maximum(weights, 0.25), np.nan).astype(np.float32)


def _mean_of_measured(values: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Means over blocks of `samples` x `samples`, NaN where less than half of one is measured."""
    parts = blocks(values, samples)
    measured = np.isfinite(parts)
    count = measured.sum((-3, -1))
    total = np.where(measured, parts, 0.0).sum((-3, -1), dtype=np.float64)
    return np.where(2 * count >= samples**2, total / np.maximum(count, 1), np.nan).astype(np.float32)


def _measured(plane: Plane, window: Window) -> NDArray[np.float32]:
    """Digital numbers, NaN where nothing was measured."""
    values = plane.read(window)
    return np.where(plane.measured(values), values, np.nan).astype(np.float32)


def _ratio(geobox: GeoBox, grid: GeoBox) -> int | None:
    """How many times larger the pixels of `geobox` are than those of `grid`; None where not a whole number of times."""
    if not same_crs(geobox.crs, grid.crs):
        return None
    ratio = abs(geobox.affine.determinant / grid.affine.determinant) ** 0.5
    factor = round(ratio)
    return factor if factor >= 1 and abs(ratio / factor - 1.0) < TOLERANCE else None


def _shift(geobox: GeoBox, within: GeoBox) -> tuple[int, int] | None:
    """Row and column of the first pixel of `geobox` counted in `within`; None where their pixels do not coincide."""
    height, width = geobox.shape
    to_within: Affine = ~within.affine @ geobox.affine
    col, row = to_within @ (0, 0)
    shift = round(row), round(col)
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        x, y = to_within @ corner
        if max(abs(x - corner[0] - shift[1]), abs(y - corner[1] - shift[0])) > TOLERANCE:
            return None
    return shift


# --- Coarse bands on a finer grid: smooth, and with the measured mean in every coarse pixel, so that no detail is invented.


ROUNDS = 4

REACH = ROUNDS
"""Coarse pixels of margin after which `refine` of a window equals that of the whole: each round looks one pixel further."""

MARGIN = REACH + math.ceil(REACH * math.sqrt(2.0))
"""The same where `fill` precedes `refine`, for every measured pixel: the gaps in its reach are filled from no further away than
the pixel itself."""


def refine(band: NDArray[np.float32], factor: int, rounds: int = ROUNDS) -> NDArray[np.float32]:
    """A band on a grid `factor` times finer, smooth, whose means over each measured pixel are the measurement."""
    if factor == 1:
        return band
    fine = np.zeros((band.shape[0] * factor, band.shape[1] * factor), np.float32)
    for _ in range(rounds):
        fine += ndimage.zoom(band - block_mean(fine, factor), factor, order=1, mode="nearest", grid_mode=True)
    # The last correction is flat inside each measured pixel, which makes the means exact.
    fine += (band - block_mean(fine, factor)).repeat(factor, 0).repeat(factor, 1)
    return fine


def block_mean(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Means over blocks of `factor` x `factor` along the last two axes."""
    return values if factor == 1 else blocks(values, factor).mean((-3, -1))


def block_all(values: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Whether all of each block of `factor` x `factor` along the last two axes is true."""
    return values if factor == 1 else np.asarray(blocks(values, factor).all((-3, -1)))


def finer(window: Window, factor: int) -> Window:
    """A window in pixels of which `factor` x `factor` cover one of its own."""
    return Window(*(factor * length for length in (window.row, window.col, window.height, window.width)))


def blocks(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """(..., height, width) as (..., height / factor, factor, width / factor, factor)."""
    *rest, height, width = values.shape
    return values.reshape(*rest, height // factor, factor, width // factor, factor)


def fill(values: NDArray[np.float32], measured: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels without a measurement take the nearest one's value, so that refining and encoding meet no cliff.

    Args:
        values: (height, width).
        measured: bool (height, width); where nothing is, everything becomes 0.
    """
    if measured.all():
        return values
    if not measured.any():
        return np.zeros_like(values)
    nearest = ndimage.distance_transform_edt(~measured, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])
