"""Imagery that is made of planes: one band of one acquisition each, read on its own grid and put on the common one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import ImageryError, listed
from lianet_user.files.artifact import open_region_file
from lianet_user.files.header import Acquisition, Band
from lianet_user.geo.grid import Window, whole
from lianet_user.imagery.grids import (
    MARGIN,
    block_all,
    describe_grid,
    fill,
    finer,
    pixel_factor,
    pixel_metres,
    refine,
    to_common_grid,
)
from lianet_user.imagery.imagery import Imagery, ImageryOptions, Patch, Plane
from lianet_user.imagery.masks import MaskPlane, mask_files, mask_planes
from lianet_user.imagery.rasters import RasterFile


class PlaneImagery(Imagery):
    """Imagery made of planes.

    Reflectance is clipped to 0..1 as it was measured; refining a coarser band may overshoot that a little between its
    measurements. A coarser pixel that is masked in part is not valid anywhere: its measurement mixes all it covers. What is
    not valid is filled from the nearest that is, so that no cloud's brightness leaks into what is refined beside it.

    Args:
        geobox: the common grid.
        bands: in the order of every patch.
        acquisitions: in order of time.
        planes: by index of acquisition and of band; what is missing is valid nowhere. Each covers the grid's ground, in pixels
            that are whole multiples of the grid's (`grids.to_common_grid` sees to that), the same for all dates of a band.
        masks: by index of acquisition; a date without one is clear.
        source: product identifiers or file names, in words.
        notes: lines about what was decided or left out, for the provider.

    Raises:
        ImageryError: a plane does not fit the grid, or a band's pixels have different sizes on different dates.
    """

    def __init__(
        self,
        *,
        geobox: GeoBox,
        bands: Sequence[Band],
        acquisitions: Sequence[Acquisition],
        planes: Mapping[tuple[int, int], Plane],
        masks: Mapping[int, MaskPlane] | None = None,
        source: str,
        notes: Sequence[str] = (),
    ) -> None:
        self.geobox, self.bands, self.acquisitions = geobox, tuple(bands), tuple(acquisitions)
        self.source, self.notes = source, tuple(notes)
        self._planes, self._masks = dict(planes), dict(masks or {})
        self.factors = tuple(self._factor(band) for band in range(len(self.bands)))

    def read(self, index: int, window: Window) -> Patch:
        reflectance = np.zeros((len(self.bands), window.height, window.width), np.float32)
        valid = np.zeros(reflectance.shape, np.bool_)
        clear: dict[int, NDArray[np.bool_]] = {}  # on the grid of each size of pixels
        for band, factor in enumerate(self.factors):
            if (plane := self._planes.get((index, band))) is None:
                continue
            coarse = self._measured_window(window, factor)
            if factor not in clear:
                clear[factor] = self._clear(index, coarse, factor)
            numbers = plane.read(coarse)
            holds = plane.measured(numbers) & clear[factor]
            measured = np.where(holds, numbers, 0).astype(np.float32)
            measured = np.clip((measured - np.float32(plane.offset)) / np.float32(plane.scale), 0.0, 1.0)
            inside = window.within(finer(coarse, factor))
            reflectance[band] = refine(fill(measured, holds), factor)[inside.slices]
            valid[band] = holds.repeat(factor, 0).repeat(factor, 1)[inside.slices]
        return Patch(reflectance, valid)

    def _measured_window(self, window: Window, factor: int) -> Window:
        """What has to be read, in pixels `factor` times the grid's, so that refining a window equals refining the whole."""
        if factor == 1:
            return window
        row, col = window.row // factor - MARGIN, window.col // factor - MARGIN
        row_end, col_end = -(-window.row_end // factor) + MARGIN, -(-window.col_end // factor) + MARGIN
        inside = Window(row, col, row_end - row, col_end - col).intersection(whole(self.geobox.zoom_out(factor)))
        assert inside is not None
        return inside

    def _clear(self, index: int, coarse: Window, factor: int) -> NDArray[np.bool_]:
        if (mask := self._masks.get(index)) is None:
            return np.ones((coarse.height, coarse.width), np.bool_)
        return block_all(mask.clear(finer(coarse, factor)), factor)

    def _factor(self, band: int) -> int:
        """Of a band, the same on all of its dates."""
        first: tuple[int, Plane] | None = None
        for (_, of), plane in sorted(self._planes.items(), key=lambda item: item[0]):
            if of != band:
                continue
            factor = pixel_factor(plane.geobox, self.geobox)
            if factor is None:
                raise ImageryError(
                    f"{plane.name} has {describe_grid(plane.geobox)}, which does not lie in whole pixels on the grid"
                    f" ({describe_grid(self.geobox)}): clip all bands to the same area, or give `grid`"
                )
            if first and first[0] != factor:
                raise ImageryError(
                    f"band {self.bands[band].name} has pixels of different sizes: {describe_grid(first[1].geobox)} in"
                    f" {first[1].name}, {describe_grid(plane.geobox)} in {plane.name};"
                    " give one size for all dates, or give `grid`"
                )
            first = first or (factor, plane)
        return first[0] if first else 1


# --- Assembling the planes of a reader: one grid for all of them, masks, and notes for the provider.


SAMPLE = 256
"""Side, in pixels, of the sample that shows whether fractions are reflectances."""

HIGHEST_REFLECTANCE = 3.0
"""A median above this is not a reflectance: snow, glint and clouds stay below."""


def assemble(
    *,
    names: Sequence[str],
    wavelengths: Sequence[float | None],
    acquisitions: Sequence[Acquisition],
    planes: Mapping[tuple[int, int], Plane],
    masks: Mapping[int, Plane] | None,
    options: ImageryOptions,
    source: str,
    notes: Sequence[str] = (),
) -> PlaneImagery:
    """Assemble imagery from the planes of a reader, each on its own grid; other arguments as :class:`PlaneImagery`.

    Args:
        names, wavelengths: of the bands; nm, None where unknown.
        masks: by index of acquisition, where the reader has masks called `options.mask`; None reads them from files of
            that name.
        options: `grid` and what concerns masks.

    Raises:
        ImageryError: grids or masks do not fit, a band is on none of the dates, or fractions are no reflectances.
    """
    if absent := [name for band, name in enumerate(names) if not any(of == band for _, of in planes)]:
        raise ImageryError(f"band {listed(absent)} is on none of {len(acquisitions)} dates: leave it out")
    firsts = [planes[min(key for key in planes if key[1] == band)] for band in range(len(names))]
    for plane in firsts:
        _check_fractions(plane)
    grid, placed = to_common_grid(planes, requested_grid(options))
    if masks is None and options.mask is not None:
        masks = mask_files(Path(options.mask), acquisitions)
    bands = [
        Band(name=name, wavelength_nm=nm, gsd_m=pixel_metres(plane.geobox), offset=plane.offset, scale=plane.scale)
        for name, nm, plane in zip(names, wavelengths, firsts, strict=True)
    ]
    return PlaneImagery(
        geobox=grid,
        bands=bands,
        acquisitions=acquisitions,
        planes=placed,
        masks=mask_planes(masks, options.mask, acquisitions, grid, options)
        if masks is not None and options.mask
        else None,
        source=source,
        notes=[
            *notes,
            f"the grid is {describe_grid(grid)}",
            *_scalings(acquisitions, planes),
            *_missing_bands(names, acquisitions, planes),
        ],
    )


def requested_grid(options: ImageryOptions) -> GeoBox | None:
    """The grid of the raster or region file that `options.grid` names.

    Raises:
        ImageryError: the raster cannot be read.
        ArtifactError: the region file cannot be read.
    """
    if options.grid is None:
        return None
    path = Path(options.grid)
    if path.suffix.lower() == ".safetensors":
        return open_region_file(path).header.grid.geobox
    return RasterFile.open(path).geobox


def _scalings(acquisitions: Sequence[Acquisition], planes: Mapping[tuple[int, int], Plane]) -> list[str]:
    """Notes on how digital numbers become reflectance, and on which dates."""
    dates: dict[tuple[float, float], set[int]] = defaultdict(set)
    for (index, _), plane in planes.items():
        dates[plane.offset, plane.scale].add(index)
    return [
        f"reflectance = (digital number - {offset:g}) / {scale:g}"
        + (f" on {_listed_dates(acquisitions, of)}" if len(dates) > 1 else "")
        for (offset, scale), of in dates.items()
    ]


def _missing_bands(
    names: Sequence[str], acquisitions: Sequence[Acquisition], planes: Mapping[tuple[int, int], Plane]
) -> list[str]:
    """Notes on bands that are missing on some dates."""
    gaps = ({n for n in range(len(acquisitions)) if (n, band) not in planes} for band in range(len(names)))
    return [
        f"band {name} is missing on {_listed_dates(acquisitions, of)}"
        for name, of in zip(names, gaps, strict=True)
        if of
    ]


def _listed_dates(acquisitions: Sequence[Acquisition], indices: set[int]) -> str:
    return listed([str(acquisitions[index].date) for index in sorted(indices)], most=5)


def _check_fractions(plane: Plane) -> None:
    """Refuse fractions without a scale that are far above any reflectance.

    Raises:
        ImageryError: the plane holds such fractions.
    """
    if (plane.scale, plane.offset) != (1.0, 0.0):
        return
    height, width = plane.geobox.shape
    middle = Window((height - SAMPLE) // 2, (width - SAMPLE) // 2, SAMPLE, SAMPLE).intersection(whole(plane.geobox))
    assert middle is not None
    values = plane.read(middle)
    values = values[plane.measured(values)]
    if values.size and np.median(values) > HIGHEST_REFLECTANCE:
        raise ImageryError(
            f"{plane.name} would hold a reflectance of {np.median(values):g} in its middle, expected 0 to 1: give `scale`,"
            " the number that is a reflectance of 1 (often 10000)"
        )
