"""Planes that a reader found, put together: one grid for all, masks on it, and what has to be told about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from lianet_user.artifact import open_region_file
from lianet_user.errors import ImageryError, listed
from lianet_user.grid import Window, whole
from lianet_user.header import Acquisition, Band
from lianet_user.imagery.grids import described, gridded, pixel_metres
from lianet_user.imagery.masks import mask_files, mask_planes
from lianet_user.imagery.options import ImageryOptions
from lianet_user.imagery.planes import Plane, PlaneImagery
from lianet_user.imagery.rasters import RasterFile

SAMPLE = 256
"""Pixels along the side of what is looked at to see whether fractions are reflectances."""

HIGHEST_REFLECTANCE = 3.0
"""Half of all pixels above this are no reflectances: snow, glint and clouds stay below."""


def assembled(
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
    """Imagery of the planes that a reader found.

    Args:
        names: of the bands.
        wavelengths: of the bands (nm), None where unknown.
        acquisitions: in order of time.
        planes: by index of acquisition and of band, each on its own grid.
        masks: by index of acquisition, where the reader found masks that are called `options.mask`; None looks for files of
            that name if a mask is asked for.
        options: `grid` and what concerns masks.
        source: product identifiers or file names, in words.
        notes: of the reader.

    Raises:
        ImageryError: grids or masks do not fit, a band is on none of the dates, or fractions are no reflectances.
    """
    if absent := [name for band, name in enumerate(names) if not any(of == band for _, of in planes)]:
        raise ImageryError(f"band {listed(absent)} is on none of {len(acquisitions)} dates: leave it out")
    firsts = [planes[min(key for key in planes if key[1] == band)] for band in range(len(names))]
    for plane in firsts:
        _check_fractions(plane)
    grid, placed = gridded(planes, grid_asked_for(options))
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
            f"the grid is {described(grid)}",
            *_scalings(acquisitions, planes),
            *_gaps(names, acquisitions, planes),
        ],
    )


def grid_asked_for(options: ImageryOptions) -> GeoBox | None:
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
    """What digital numbers are taken for, and on which dates."""
    dates: dict[tuple[float, float], set[int]] = defaultdict(set)
    for (index, _), plane in planes.items():
        dates[plane.offset, plane.scale].add(index)
    return [
        f"reflectance = (digital number - {offset:g}) / {scale:g}"
        + (f" on {_some(acquisitions, of)}" if len(dates) > 1 else "")
        for (offset, scale), of in dates.items()
    ]


def _gaps(
    names: Sequence[str], acquisitions: Sequence[Acquisition], planes: Mapping[tuple[int, int], Plane]
) -> list[str]:
    """Which bands are missing on which dates."""
    gaps = ({n for n in range(len(acquisitions)) if (n, band) not in planes} for band in range(len(names)))
    return [f"band {name} is missing on {_some(acquisitions, of)}" for name, of in zip(names, gaps, strict=True) if of]


def _some(acquisitions: Sequence[Acquisition], indices: set[int]) -> str:
    return listed([str(acquisitions[index].date) for index in sorted(indices)], most=5)


def _check_fractions(plane: Plane) -> None:
    """
    Raises:
        ImageryError: fractions that nobody gave a scale for are far above any reflectance.
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
            f"{plane.name} would hold a reflectance of {np.median(values):g} in its middle, expected 0 to 1: give --scale,"
            " the number that is a reflectance of 1 (often 10000)"
        )
