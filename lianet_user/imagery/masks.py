"""Cloud masks: which pixels of an acquisition show the ground."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError, listed
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window
from lianet_user.imagery.grids import block_all, describe_grid, finer, on_grid, pixel_factor
from lianet_user.imagery.imagery import ImageryOptions, Plane
from lianet_user.imagery.rasters import RasterFile, RasterPlane, date_of_file, rasters_in
from lianet_user.imagery.sensors import SCL, SCL_CLEAR


@dataclass(frozen=True)
class MaskRule:
    """Which values of a mask are clear: the listed ones, or those below a number."""

    values: tuple[int, ...] = ()
    below: float | None = None


def mask_rule(name: str, options: ImageryOptions) -> MaskRule:
    """The rule of a mask: the requested one, or for a mask called SCL the classes that show the ground.

    Args:
        name: of the mask: a layer, a variable, an asset, or a file.
        options: `clear` and `clear_below`.

    Raises:
        ImageryError: both are given, or neither and the mask is not called SCL.
    """
    if options.clear is not None and options.clear_below is not None:
        raise ImageryError("`clear` and `clear_below` are both given: a mask holds either classes or a probability")
    if options.clear_below is not None:
        return MaskRule(below=options.clear_below)
    if options.clear:
        return MaskRule(options.clear)
    if SCL in re.split(r"[^A-Z0-9]+", name.upper()):
        return MaskRule(SCL_CLEAR)
    raise ImageryError(
        f"mask {name} does not say which of its values are clear: say which values of the mask are clear with `clear`"
        " or `clear_below`"
    )


class MaskPlane:
    """A mask on the imagery's grid.

    Args:
        plane: to be read; what it does not measure is not clear.
        grid: the imagery's.
        rule: which values are clear.

    Raises:
        ImageryError: neither its pixels nor the grid's are multiples of the other's, or the file declares as nodata
            what the rule calls clear.
    """

    def __init__(self, plane: Plane, grid: GeoBox, rule: MaskRule) -> None:
        self.name, self._plane, self._rule = plane.name, plane, rule
        coarser, smaller = pixel_factor(plane.geobox, grid), pixel_factor(grid, plane.geobox)
        if coarser is None and smaller is None:
            raise ImageryError(
                f"mask {plane.name} covers {describe_grid(plane.geobox)}, which is not the ground of the imagery"
                f" ({describe_grid(grid)}) in whole pixels: clip both to the same area, or give `grid` to resample"
            )
        self._coarser, self._finer = coarser or 1, smaller or 1
        if rule.values:
            clear = np.array(rule.values, np.float32)
            if lost := [str(value) for value, kept in zip(rule.values, plane.measured(clear), strict=True) if not kept]:
                raise ImageryError(
                    f"mask {plane.name} declares {', '.join(lost)} as nodata, which `clear` calls clear: remove the"
                    " declaration from the file, or that value from `clear`"
                )

    def clear(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window of the imagery's grid are clear: bool (height, width). A finer mask has to be clear all
        over a pixel.

        Raises:
            ImageryError: the file cannot be read, or is damaged.
        """
        if self._finer > 1:
            return block_all(self._clear(finer(window, self._finer)), self._finer)
        factor = self._coarser
        row, col = window.row // factor, window.col // factor
        row_end, col_end = -(-window.row_end // factor), -(-window.col_end // factor)
        clear = self._clear(Window(row, col, row_end - row, col_end - col))
        rows, cols = window.shifted(-row * factor, -col * factor).slices
        return clear.repeat(factor, 0).repeat(factor, 1)[rows, cols]

    def _clear(self, window: Window) -> NDArray[np.bool_]:
        values = self._plane.read(window)
        measured = self._plane.measured(values)
        if self._rule.below is not None:
            probability = (np.where(measured, values, 0) - self._plane.offset) / self._plane.scale
            return np.asarray(measured & (probability < self._rule.below))
        return np.asarray(measured & np.isin(values, self._rule.values))


def mask_planes(
    planes: Mapping[int, Plane], name: str, acquisitions: Sequence[Acquisition], grid: GeoBox, options: ImageryOptions
) -> dict[int, MaskPlane]:
    """Put masks on the imagery's grid, one for each of its acquisitions; resample them if `options.grid` is given.

    Args:
        planes: by index of acquisition.
        name: of the mask, which decides the rule.
        acquisitions, grid: of the imagery.
        options: `clear`, `clear_below` and `grid`.

    Raises:
        ImageryError: an acquisition has no mask, or as in `mask_rule` and `MaskPlane`.
    """
    rule = mask_rule(name, options)
    if lacking := [str(each.date) for index, each in enumerate(acquisitions) if index not in planes]:
        raise ImageryError(
            f"mask {name} was found for {len(planes)} of {len(acquisitions)} dates, and not for {listed(lacking)}: give"
            " it for every date, or leave these dates out"
        )
    # A finer mask stays as it is: a pixel is clear only if all of it is.
    keep = options.grid is None
    placed = {
        index: plane if keep or pixel_factor(grid, plane.geobox) else on_grid(plane, grid, "nearest")
        for index, plane in planes.items()
    }
    return {index: MaskPlane(plane, grid, rule) for index, plane in placed.items()}


def mask_files(path: Path, acquisitions: Sequence[Acquisition]) -> dict[int, Plane]:
    """Masks in files of their own, by index of acquisition.

    Args:
        path: a raster, or a folder of rasters with dates in their names or their folders'. A single raster without a date is
            the mask of all dates if it has one layer, and else of one date a layer, in order of time.
        acquisitions: of the imagery; masks of other dates are ignored.

    Raises:
        ImageryError: no raster, a raster without a date in its name, two of one date, or a number of layers that is not
            that of the dates.
    """
    dates = [each.date for each in acquisitions]
    files = rasters_in(path)
    if not files:
        raise ImageryError(
            f"{path} holds no raster: `mask` expects one raster, or a folder of rasters with dates in their names"
        )
    if len(files) == 1 and date_of_file(files[0]) is None:
        file = RasterFile.open(files[0])
        if file.layers not in (1, len(dates)):
            raise ImageryError(
                f"mask {path} has {file.layers} layers, the imagery {len(dates)} dates: expected one layer, or one a date"
            )
        return {index: RasterPlane(file, 1 if file.layers == 1 else index + 1) for index in range(len(dates))}
    planes: dict[int, Plane] = {}
    for name in files:
        if (moment := date_of_file(name)) is None:
            raise ImageryError(
                f"mask {name} has no date in its name or its folder's: expected, for instance, mask_20180429.tif"
            )
        if moment.date not in dates:
            continue
        if (index := dates.index(moment.date)) in planes:
            raise ImageryError(f"two masks of {moment.date}: {planes[index].name} and {name}; leave one out")
        planes[index] = RasterPlane(RasterFile.open(name))
    return planes
