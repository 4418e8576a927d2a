"""The way in: a file of labels, vector or raster, on a region's grid."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from odc.geo.geobox import GeoBox

from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import finer
from lianet_user.geo.transformation import transformation
from lianet_user.labels.classes import make_legend
from lianet_user.labels.dates import described_dates
from lianet_user.labels.formats import is_raster
from lianet_user.labels.from_features import class_table, read_features, warn_of_missing_grids
from lianet_user.labels.label_values import choose_task, plain_labels
from lianet_user.labels.labelmap import LabelMap, Labels, Reading
from lianet_user.labels.options import LabelOptions
from lianet_user.labels.raster import raster_classes, raster_numbers, sample_values
from lianet_user.labels.rasterfile import open_raster
from lianet_user.labels.report import RasterCounts

# --- A raster of classes or numbers -> a label map.


def read_raster(path: Path, region: RegionHeader, geobox: GeoBox, options: LabelOptions) -> Reading:
    """Put one band of a raster on a grid.

    Args:
        path: of the file.
        region: whose dates the labels describe.
        geobox: the grid: the region's, or one that is finer.
        options: how to read it.

    Raises:
        LabelError, DateError: it cannot be used as it is.
    """
    raster = open_raster(path, options)
    dates, date_notes = described_dates(options.dates, region, options.date_tolerance)
    to_region = transformation(raster.crs, geobox)
    warn_of_missing_grids(path, to_region)
    values = pd.Series(sample_values(raster, geobox).index)
    where = f"{path}: band {raster.band}"
    table = class_table(raster.table, options)
    task, reason = choose_task(values, options, table, where)
    notes = [*raster.notes, f"Task: {task}, {reason}"]
    if task == "segmentation":
        plain = plain_labels(values, where)
        known = plain.text.notna()
        present = sorted(plain.text[known].unique())
        other = "another band with --band"
        legend = make_legend(present, present, plain.numeric, options, table, raster.colors, where, other)
        index_of = {
            float(value): legend.index_of[label] for value, label in zip(values[known], plain.text[known], strict=True)
        }
        read = raster_classes(raster, geobox, index_of, options.min_coverage, options.rule)
        notes += [*plain.notes, *legend.notes]
    else:
        legend = None
        read = raster_numbers(raster, geobox, options.min_coverage, options.rule)
    return Reading(
        path=path,
        source=raster.source,
        attribution=raster.attribution,
        task=task,
        legend=legend,
        maps=(LabelMap(read.values, dates),),
        notes=(*notes, *to_region.notes, *date_notes),
        raster=RasterCounts(read.nodata_ground, read.outside_ground, read.excluded_ground),
        labelled_ground=float(read.values.size) - read.nodata_ground - read.outside_ground - read.excluded_ground,
    )


# ---


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
