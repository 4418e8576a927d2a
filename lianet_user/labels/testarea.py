"""The area that is set aside for a test: polygons -> pixels of the region."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from rasterio.features import rasterize

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.header import RegionHeader
from lianet_user.labels.blocks import BoolArray
from lianet_user.labels.features import area_in_region
from lianet_user.labels.from_features import warn_of_missing_grids
from lianet_user.labels.rasterize import to_pixel_coordinates
from lianet_user.labels.transformation import transformation
from lianet_user.labels.vector import read_area


def read_test_area(path: str | os.PathLike[str], region: RegionHeader) -> BoolArray:
    """The pixels of a region whose centres lie inside the polygons of a file.

    Args:
        path: vectors with polygons in a single layer, in any CRS.
        region: the region's header: its grid.

    Returns:
        bool (height, width) of the region.

    Raises:
        LabelError: the file has no CRS, no polygons or several layers of them, or none holds the centre of a pixel.

    Warns:
        LabelWarning: some features are no polygons and are left out, or the coordinates could be more accurate with a grid
            that is not installed.
    """
    path = Path(path)
    area = read_area(path)
    geobox = region.grid.geobox
    to_region = transformation(area.crs, geobox)
    warn_of_missing_grids(path, to_region)
    for note in area.notes:
        warnings.warn(LabelWarning(f"{path}: {note}"), stacklevel=2)
    inside = to_pixel_coordinates(np.array([area_in_region(area, geobox, to_region)], object), geobox)
    mask: BoolArray = rasterize(inside, out_shape=tuple(geobox.shape), dtype="uint8") > 0
    if not mask.any():
        raise LabelError(f"{path}: the area holds the centre of no pixel of the region: draw a larger one")
    return mask
