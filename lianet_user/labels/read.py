"""Reading labels: a file of features or a raster -> a label map on a region's grid. Each step has a module of its own."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import DateError, LabelError
from lianet_user.files.header import RegionHeader, parse_date
from lianet_user.geo.grid import finer
from lianet_user.geo.transformation import transformation, warn_of_missing_grids
from lianet_user.labels.areas import read_area
from lianet_user.labels.class_tables import ClassTable, normalized_color, read_class_table
from lianet_user.labels.classes import Legend, make_legend
from lianet_user.labels.cover import split_parts, to_pixel_coordinates
from lianet_user.labels.features import Features, area_in_region, features_in_region
from lianet_user.labels.formats import is_raster
from lianet_user.labels.label_map import LabelMap, Labels, RasterCounts, RawLabels
from lianet_user.labels.label_options import EVERY_DATE, WHOLE_REGION, LabelOptions, Task
from lianet_user.labels.label_values import choose_task, plain_labels, plain_numbers, plain_text
from lianet_user.labels.raster import open_raster, raster_classes, raster_numbers, sample_values
from lianet_user.labels.rasterize import (
    Decided,
    PixelRule,
    decide_classes,
    decide_coverage,
    decide_numbers,
    touches_own,
)
from lianet_user.labels.vector import VectorLayer, read_layer


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
        DateError: they describe a date that the region does not hold, or it is not stated which.

    Warns:
        LabelWarning: the coordinates could be more accurate with a grid that is not installed, or a class is left out
            because no pixel bears it.
    """
    options = options or LabelOptions()
    path = Path(path)
    geobox = finer(region.grid.geobox, options.scale)
    reader = read_raster if is_raster(path) else read_features
    return reader(path, region, geobox, options).labels(geobox, options.scale)


# --- Rasters: one band.


def read_raster(path: Path, region: RegionHeader, geobox: GeoBox, options: LabelOptions) -> RawLabels:
    """Put one band of a raster on a grid, the region's or one that is finer. Errors are those of :func:`read_labels`."""
    raster = open_raster(path, options)
    dates, date_notes = described_dates(options.dates, region, options.date_tolerance)
    to_region = transformation(raster.crs, geobox)
    warn_of_missing_grids(path, to_region)
    values = pd.Series(sample_values(raster, geobox).index)
    where = f"{path}: band {raster.band}"
    table = chosen_class_table(raster.table, options)
    task, reason = choose_task(values, options, table, where)
    notes = [*raster.notes, f"Task: {task}, {reason}"]
    if task == "segmentation":
        plain = plain_labels(values, where)
        known = plain.text.notna()
        present = sorted(plain.text[known].unique())
        other = "another band with `band`"
        legend = make_legend(present, present, plain.numeric, options, table, raster.colors, where, other)
        index_of = {
            float(value): legend.index_of[label] for value, label in zip(values[known], plain.text[known], strict=True)
        }
        if len(index_of) < known.sum():
            raise LabelError(
                f"{where} holds whole numbers beyond 2^53 that only differ in their last digits: number its classes anew"
            )
        sampled = raster_classes(raster, geobox, index_of, options.min_coverage, options.rule)
        notes += [*plain.notes, *legend.notes]
    else:
        legend = None
        sampled = raster_numbers(raster, geobox, options.min_coverage, options.rule)
    return RawLabels(
        path=path,
        source=raster.source,
        attribution=raster.attribution,
        task=task,
        legend=legend,
        maps=(LabelMap(sampled.values, dates),),
        notes=(*notes, *to_region.notes, *date_notes),
        raster=(ground := RasterCounts(sampled.nodata_ground, sampled.outside_ground, sampled.excluded_ground)),
        undecided=sampled.undecided,
        labelled_ground=float(sampled.values.size) - ground.nodata - ground.outside - ground.excluded,
    )


# --- Vectors: what each feature says, where it lies, and which pixels bear it.


@dataclass(frozen=True, eq=False)
class _FeatureLabels:
    """The labels of the features of a layer."""

    task: Task
    values: pd.Series
    """(features,) plain text for classes, float64 for numbers, empty text for coverage; null where there is none."""
    numeric: bool
    """Whether the classes are whole numbers."""
    table: ClassTable | None
    notes: tuple[str, ...]


def read_features(path: Path, region: RegionHeader, geobox: GeoBox, options: LabelOptions) -> RawLabels:
    """Put the features of one layer on a grid, the region's or one that is finer. Errors are those of :func:`read_labels`."""
    layer = read_layer(path, options)
    labels = _feature_labels(layer, options)
    to_region = transformation(layer.crs, geobox)
    warn_of_missing_grids(path, to_region)
    date_groups, dates_of_group, date_notes = _date_groups(layer, region, options)
    dropped = [plain_text(old) for old, new in options.mapping if new is None]
    features = features_in_region(
        layer,
        labelled=labels.values.notna().to_numpy(bool),
        excluded=labels.values.isin(dropped).to_numpy(bool),
        dated=date_groups >= 0,
        twins=labels.values.astype("string").fillna("") + pd.Series(date_groups, labels.values.index).astype("string"),
        geobox=geobox,
        transformation=to_region,
        buffer=options.buffer,
        only_polygons=labels.task == "coverage",
    )
    date_groups = date_groups[features.rows]
    used = labels.values.iloc[features.rows]
    legend = _legend(layer, labels, used, features, options) if labels.task == "segmentation" else None
    classes = np.array([legend.index_of[label] for label in used] if legend else [], np.intp)
    height, width = geobox.shape
    shape, rule = (height, width), PixelRule(options.rule, options.min_coverage, options.on_conflict)
    blockers = to_pixel_coordinates(features.blockers, geobox)
    mapped, mapped_notes = _mapped_area(options, geobox)
    background = None if legend is None or legend.background is None else (legend.background, mapped)
    decided, maps, traced = [], [], np.zeros(len(used), bool)
    for group in np.unique(date_groups):
        own = np.flatnonzero(date_groups == group)
        parts = split_parts(to_pixel_coordinates(features.geometries[own], geobox))
        if legend is not None:
            result = decide_classes(parts, classes[own], shape, rule, blockers=blockers, background=background)
            traced[own] = touches_own(parts, classes[own], result.values, len(own))
        elif labels.task == "regression":
            result = decide_numbers(parts, used.iloc[own].to_numpy(np.float64), shape, rule)
            traced[own] = touches_own(parts, None, result.values, len(own))
        else:
            shares = decide_coverage(parts, shape, mapped)
            result = Decided(shares, np.zeros(shape, bool), float(np.isfinite(shares).sum()), 0.0, 0)
            traced[own] = True
        decided.append(result)
        maps.append(LabelMap(result.values, dates_of_group[group]))
    return RawLabels(
        path=path,
        source=layer.source,
        attribution=layer.attribution,
        task=labels.task,
        legend=legend,
        maps=tuple(maps),
        notes=(
            *layer.notes,
            *labels.notes,
            *(legend.notes if legend else ()),
            *to_region.notes,
            *date_notes,
            *mapped_notes,
            *_pixel_notes(options, features),
        ),
        features=features.counts,
        class_features=np.bincount(classes, minlength=len(legend.classes)).tolist() if legend else None,
        vanished=int((~traced).sum()),
        contradicting=sum(int(each.contradicting.sum()) for each in decided),
        undecided=sum(each.undecided for each in decided),
        labelled_ground=sum(each.labelled_ground for each in decided),
        contested_ground=sum(each.contested_ground for each in decided),
    )


def _date_groups(
    layer: VectorLayer, region: RegionHeader, options: LabelOptions
) -> tuple[NDArray[np.intp], list[tuple[dt.date, ...]], list[str]]:
    """The group of dates that each feature describes (-1 for none), the dates of each group, and notes.

    Features without dates of their own share one group, which may have several dates.
    """
    if options.date_field is None:
        dates, notes = described_dates(options.dates, region, options.date_tolerance, layer.date_columns)
        return np.zeros(len(layer.geometries), np.intp), [dates], notes
    assert layer.dates is not None
    date_groups, notes = nearest_acquisitions(
        layer.dates, region, options.date_tolerance, "exclude those features with `where`"
    )
    return date_groups, [(date,) for date in region.dates], notes


def chosen_class_table(stored: ClassTable | None, options: LabelOptions) -> ClassTable | None:
    """The table that the options name, else the one stored with the labels."""
    return read_class_table(options.classes) if options.classes is not None else stored


def _feature_labels(layer: VectorLayer, options: LabelOptions) -> _FeatureLabels:
    if layer.column is None or layer.values is None:
        everything = pd.Series("", index=range(len(layer.geometries)), dtype="string")
        return _FeatureLabels("coverage", everything, False, None, ("Task: coverage, as asked",))
    where = f"{layer.path}: the column {layer.column.name!r}"
    table = chosen_class_table(layer.table, options)
    task, reason = choose_task(layer.values, options, table, where)
    notes = (f"Column: {layer.column.name}, {layer.column.choice}", f"Task: {task}, {reason}")
    if task == "segmentation":
        plain = plain_labels(layer.values, where)
        return _FeatureLabels(task, plain.text, plain.numeric, table, (*notes, *plain.notes))
    if task == "regression":
        return _FeatureLabels(task, plain_numbers(layer.values, where), False, None, notes)
    return _FeatureLabels(task, pd.Series("", index=layer.values.index, dtype="string"), False, None, notes)


def _legend(
    layer: VectorLayer, labels: _FeatureLabels, used: pd.Series, features: Features, options: LabelOptions
) -> Legend:
    assert layer.column is not None
    colors = {} if layer.colors is None else _agreed_colors(used, layer.colors.iloc[features.rows])
    return make_legend(
        sorted(used.unique()),
        sorted(labels.values.dropna().unique()),
        labels.numeric,
        options,
        labels.table,
        colors,
        f"{layer.path}: the column {layer.column.name!r}",
    )


def _agreed_colors(labels: pd.Series, colors: pd.Series) -> dict[str, str]:
    """Colours of those classes whose features all have the same."""
    agreed = {}
    for name, group in colors.fillna("").groupby(labels.to_numpy()):
        distinct = {normalized_color(text) for text in group.unique()}
        if len(distinct) == 1 and (color := distinct.pop()):
            agreed[str(name)] = color
    return agreed


def _mapped_area(options: LabelOptions, geobox: GeoBox) -> tuple[shapely.Geometry | None, tuple[str, ...]]:
    """The area in which everything was mapped, in pixel coordinates (None for the whole grid), and notes about it."""
    if options.labelled_area in (None, WHOLE_REGION):
        return None, ()
    area = read_area(Path(options.labelled_area))
    inside = area_in_region(area, geobox, transformation(area.crs, geobox))
    return to_pixel_coordinates(np.array([inside], object), geobox)[0], area.notes


def _pixel_notes(options: LabelOptions, features: Features) -> list[str]:
    """Notes on how pixels were decided, where that is not the default."""
    notes = []
    counts = features.counts
    if options.buffer and counts.lines + counts.points:
        notes.append(f"Points and lines: with {options.buffer:g} m around them")
    elif counts.points and not counts.lines:
        notes.append("Points: each labels the pixel it lies in")
    elif counts.lines:
        notes.append("Lines: each labels the pixels it passes through")
    if options.rule != "majority":
        notes.append(f"Pixels: by the rule {options.rule}")
    elif options.min_coverage != 0.5:
        notes.append(f"Pixels: a class has to cover {options.min_coverage:.0%} of them")
    if options.on_conflict != "ignore":
        notes.append(f"Contradictions: the {options.on_conflict} feature of the file holds")
    if options.background is not None:
        where = "in the whole region" if options.labelled_area == WHOLE_REGION else f"inside {options.labelled_area}"
        notes.append(f"Background: what bears no label {where} is {options.background!r}")
    return notes


# --- Dates: which of the region's acquisitions the labels describe.


Date = dt.date


def described_dates(
    given: Sequence[str], region: RegionHeader, tolerance: int, columns: Sequence[str] = ()
) -> tuple[tuple[Date, ...], list[str]]:
    """The acquisitions that all labels describe, in the region's order, and notes on how they were chosen.

    Args:
        given: dates as YYYY-MM-DD, or :data:`EVERY_DATE`; none takes the only acquisition there is.
        region: whose acquisitions they have to be.
        tolerance: days that a date may be away from the acquisition that is taken for it.
        columns: that could hold a date for each feature, which the message names.

    Raises:
        DateError: one is not a date, the region does not hold one, or none is given and the region holds several.
    """
    if not given:
        if len(region.dates) > 1:
            raise DateError(
                f"region {region.name!r} holds {len(region.dates)} dates ({min(region.dates)} to {max(region.dates)})"
                " and it is not stated which the labels describe: give `dates` YYYY-MM-DD (several, if they hold at"
                f" several), `dates` {EVERY_DATE} if they hold at every one, or `date_field`"
                f" {columns[0] if columns else 'COLUMN'} if that column says it for each feature"
            )
        return region.dates, []
    if EVERY_DATE in given:
        if len(given) > 1:
            raise DateError(f"`dates` {EVERY_DATE} stands for every date: omit the other dates")
        return region.dates, [f"Dates: all {len(region.dates)} of the region"]
    days = pd.Series([parse_date(text) for text in given], dtype=object)
    indices, notes = nearest_acquisitions(days, region, tolerance)
    return tuple(region.dates[index] for index in sorted(set(indices.tolist()))), notes


def nearest_acquisitions(
    days: pd.Series, region: RegionHeader, tolerance: int, remedy: str = "give one of them"
) -> tuple[NDArray[np.intp], list[str]]:
    """The acquisition each date stands for: index into `region.dates`, -1 where there is no date.

    Args:
        days: ``datetime.date`` or None.
        region: whose acquisitions they have to be.
        tolerance: days that a date may be away from the acquisition nearest to it.
        remedy: what to do about a date that is farther away, besides a larger tolerance.

    Raises:
        DateError: a date is farther than that from every acquisition.
    """
    known = days.notna().to_numpy(bool)
    indices = np.full(len(days), -1, np.intp)
    notes = []
    distinct, inverse = np.unique(np.array([day.toordinal() for day in days[known]], np.int64), return_inverse=True)
    held = np.array([date.toordinal() for date in region.dates], np.int64)
    days_apart = np.abs(distinct[:, None] - held[None, :])
    nearest = days_apart.argmin(axis=1)
    too_far = np.flatnonzero(days_apart.min(axis=1) > tolerance)
    if len(too_far):
        raise _not_held([Date.fromordinal(int(distinct[index])) for index in too_far], region, tolerance, remedy)
    for index in np.flatnonzero(days_apart.min(axis=1)):
        taken, distance = region.dates[nearest[index]], int(days_apart[index].min())
        notes.append(
            f"Dates: {Date.fromordinal(int(distinct[index]))} taken for {taken}, {distance} day{'s'[: distance > 1]} away"
        )
    indices[known] = nearest[inverse]
    return indices, notes


def _not_held(missing: Sequence[Date], region: RegionHeader, tolerance: int, remedy: str) -> DateError:
    first = missing[0]
    nearest = sorted(sorted(region.dates, key=lambda date: abs(date - first))[:3])
    held = "nearest dates it holds are" if len(nearest) > 1 else "only date it holds is"
    more = f" and {len(missing) - 1} more dates of the labels" if len(missing) > 1 else ""
    days = max(min(abs(date - one).days for date in region.dates) for one in missing)
    within = f" within {tolerance} days" if tolerance else ""
    return DateError(
        f"region {region.name!r} does not hold {first}{more}{within}: the {held}"
        f" {', '.join(map(str, nearest))}; {remedy}, or `date_tolerance` {days} to take the nearest"
    )
