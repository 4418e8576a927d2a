"""The way in: a file of labels, vector or raster, on a region's grid."""

from __future__ import annotations

import os
from pathlib import Path

from lianet_user.grid import finer
from lianet_user.header import RegionHeader
from lianet_user.labels.formats import is_raster
from lianet_user.labels.from_features import read_features
from lianet_user.labels.from_raster import read_raster
from lianet_user.labels.labelmap import Labels
from lianet_user.labels.options import LabelOptions


def read_labels(path: str | os.PathLike[str], region: RegionHeader, options: LabelOptions | None = None) -> Labels:
    """Put a file of labels on a region's grid.

    A pixel bears the class that covers most of it, if that is at least half (:mod:`lianet_user.labels.rasterize` states
    the rules exactly); where features contradict each other it is ignored and counted. Ground without a label is
    ignored too, and never a class.

    Args:
        path: vectors (anything GDAL reads, GeoParquet, or a table of points) or a raster, in any CRS.
        region: the region's header (``Region.header``): its grid and its dates.
        options: how the file is to be read.

    Raises:
        LabelError: the labels cannot be used as they are.
        DateError: they describe a date that the region does not hold, or it is not said which.

    Warns:
        LabelWarning: the coordinates could be more accurate with a grid that is not installed, or a class is left out
            because no pixel bears it.
    """
    options = options or LabelOptions()
    path = Path(path)
    geobox = finer(region.grid.geobox, options.scale)
    read = read_raster if is_raster(path) else read_features
    return read(path, region, geobox, options).labels(geobox, options.scale)
