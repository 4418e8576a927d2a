"""A raster of classes or numbers -> a label map."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from odc.geo.geobox import GeoBox

from lianet_user.header import RegionHeader
from lianet_user.labels.classes import make_legend
from lianet_user.labels.dates import described_dates
from lianet_user.labels.from_features import class_table, warn_of_missing_grids
from lianet_user.labels.labelmap import LabelMap, Reading
from lianet_user.labels.options import LabelOptions
from lianet_user.labels.plain import choose_task, plain_labels
from lianet_user.labels.raster import raster_classes, raster_numbers, sample_values
from lianet_user.labels.rasterfile import open_raster
from lianet_user.labels.report import RasterCounts
from lianet_user.labels.transformation import transformation


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
