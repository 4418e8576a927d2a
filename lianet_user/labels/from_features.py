"""Features of a layer -> label maps: what each feature means, where it lies, which pixels bear it."""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.errors import LabelWarning
from lianet_user.files.header import RegionHeader
from lianet_user.geo.transformation import Transformation, transformation
from lianet_user.labels.classes import ClassTable, Legend, make_legend, read_class_table
from lianet_user.labels.dates import described_dates, held_dates
from lianet_user.labels.features import Features, area_in_region, features_in_region
from lianet_user.labels.label_values import choose_task, plain_labels, plain_numbers, plain_text
from lianet_user.labels.labelmap import LabelMap, Reading
from lianet_user.labels.options import WHOLE_REGION, LabelOptions, Task
from lianet_user.labels.palette import normalized_color
from lianet_user.labels.rasterize import (
    Decided,
    Parts,
    PixelRule,
    decide_classes,
    decide_coverage,
    decide_numbers,
    split_parts,
    to_pixel_coordinates,
    touches_own,
)
from lianet_user.labels.vector import VectorLayer, read_area, read_layer


@dataclass(frozen=True, eq=False)
class _Meaning:
    """What the features of a layer say, feature by feature."""

    task: Task
    labels: pd.Series
    """(features,) plain text for classes, float64 for numbers, empty text for coverage; null where there is none."""
    numeric: bool
    """Classes are whole numbers."""
    table: ClassTable | None
    notes: tuple[str, ...]


def read_features(path: Path, region: RegionHeader, geobox: GeoBox, options: LabelOptions) -> Reading:
    """Put the features of one layer on a grid.

    Args:
        path: of the file.
        region: whose dates the labels describe.
        geobox: the grid: the region's, or one that is finer.
        options: how to read them.

    Raises:
        LabelError, DateError: they cannot be used as they are.
    """
    layer = read_layer(path, options)
    meaning = _meaning(layer, options)
    to_region = transformation(layer.crs, geobox)
    warn_of_missing_grids(path, to_region)
    moments, described, date_notes = _moments(layer, region, options)
    dropped = [plain_text(old) for old, new in options.mapping if new is None]
    features = features_in_region(
        layer,
        labelled=meaning.labels.notna().to_numpy(bool),
        excluded=meaning.labels.isin(dropped).to_numpy(bool),
        dated=moments >= 0,
        twins=meaning.labels.astype("string").fillna("") + pd.Series(moments, meaning.labels.index).astype("string"),
        geobox=geobox,
        transformation=to_region,
        buffer=options.buffer,
        only_polygons=meaning.task == "coverage",
    )
    moments = moments[features.rows]
    used = meaning.labels.iloc[features.rows]
    legend = _legend(layer, meaning, used, features, options) if meaning.task == "segmentation" else None
    classes = np.array([legend.index_of[label] for label in used] if legend else [], np.intp)
    grid = _Grid(geobox, options, features)
    decided, maps, traced = [], [], np.zeros(len(used), bool)
    for moment in np.unique(moments):
        own = np.flatnonzero(moments == moment)
        parts = split_parts(to_pixel_coordinates(features.geometries[own], geobox))
        if legend is not None:
            result = grid.classes(parts, classes[own], legend)
            traced[own] = touches_own(parts, classes[own], result.values, len(own))
        elif meaning.task == "regression":
            result = grid.numbers(parts, used.iloc[own].to_numpy(np.float64))
            traced[own] = touches_own(parts, None, result.values, len(own))
        else:
            result = grid.coverage(parts)
            traced[own] = True
        decided.append(result)
        maps.append(LabelMap(result.values, described[moment]))
    return Reading(
        path=path,
        source=layer.source,
        attribution=layer.attribution,
        task=meaning.task,
        legend=legend,
        maps=tuple(maps),
        notes=(
            *layer.notes,
            *meaning.notes,
            *(legend.notes if legend else ()),
            *to_region.notes,
            *date_notes,
            *grid.notes,
            *_pixel_notes(options, features),
        ),
        features=features.counts,
        class_features=np.bincount(classes, minlength=len(legend.classes)).tolist() if legend else None,
        vanished=int((~traced).sum()),
        contradicting=sum(int(each.contradicting.sum()) for each in decided),
        labelled_ground=sum(each.labelled_ground for each in decided),
        contested_ground=sum(each.contested_ground for each in decided),
    )


def _moments(
    layer: VectorLayer, region: RegionHeader, options: LabelOptions
) -> tuple[NDArray[np.intp], list[tuple[dt.date, ...]], list[str]]:
    """When features hold: each one's moment (-1 without a date), the dates of each moment, and what was decided.

    Labels without dates of their own hold at one moment, which may have several dates.
    """
    if options.date_field is None:
        dates, notes = described_dates(options.dates, region, options.date_tolerance)
        return np.zeros(len(layer.geometries), np.intp), [dates], notes
    assert layer.dates is not None
    moments, notes = held_dates(layer.dates, region, options.date_tolerance, "leave those features out with --where")
    return moments, [(date,) for date in region.dates], notes


def warn_of_missing_grids(path: Path, used: Transformation) -> None:
    """
    Warns:
        LabelWarning: PROJ knows a better way than the one it can take here.
    """
    if used.missing:
        accuracy = f"{used.accuracy:g} m" if used.accuracy is not None else "an unknown distance"
        message = (
            f"{path}: its coordinates reach the region's grid to within {accuracy} only, because PROJ lacks"
            f" {', '.join(used.missing)}: get it with `projsync --file` or your package of PROJ data, if that matters"
        )
        warnings.warn(message, LabelWarning, stacklevel=4)


def class_table(stored: ClassTable | None, options: LabelOptions) -> ClassTable | None:
    """The table asked for, else the one that came with the labels."""
    return read_class_table(options.classes) if options.classes is not None else stored


def _meaning(layer: VectorLayer, options: LabelOptions) -> _Meaning:
    if layer.column is None or layer.values is None:
        everything = pd.Series("", index=range(len(layer.geometries)), dtype="string")
        return _Meaning("coverage", everything, False, None, ("Task: coverage, as asked",))
    where = f"{layer.path}: the column {layer.column.name!r}"
    table = class_table(layer.table, options)
    task, reason = choose_task(layer.values, options, table, where)
    notes = (f"Column: {layer.column.name}, {layer.column.choice}", f"Task: {task}, {reason}")
    if task == "segmentation":
        plain = plain_labels(layer.values, where)
        return _Meaning(task, plain.text, plain.numeric, table, (*notes, *plain.notes))
    if task == "regression":
        return _Meaning(task, plain_numbers(layer.values, where), False, None, notes)
    return _Meaning(task, pd.Series("", index=layer.values.index, dtype="string"), False, None, notes)


def _legend(
    layer: VectorLayer, meaning: _Meaning, used: pd.Series, features: Features, options: LabelOptions
) -> Legend:
    assert layer.column is not None
    colors = {} if layer.colors is None else _agreed_colors(used, layer.colors.iloc[features.rows])
    return make_legend(
        sorted(used.unique()),
        sorted(meaning.labels.dropna().unique()),
        meaning.numeric,
        options,
        meaning.table,
        colors,
        f"{layer.path}: the column {layer.column.name!r}",
    )


def _agreed_colors(labels: pd.Series, colors: pd.Series) -> dict[str, str]:
    """Colours of the classes whose features agree on one."""
    agreed = {}
    for name, group in colors.fillna("").groupby(labels.to_numpy()):
        found = {normalized_color(text) for text in group.unique()}
        if len(found) == 1 and (color := found.pop()):
            agreed[str(name)] = color
    return agreed


class _Grid:
    """The pixels, and what decides them.

    Attributes:
        notes: what was decided about the labelled area.
    """

    def __init__(self, geobox: GeoBox, options: LabelOptions, features: Features) -> None:
        height, width = geobox.shape
        self.shape = (height, width)
        self.rule = PixelRule(options.rule, options.min_coverage, options.on_conflict)
        self.blockers = to_pixel_coordinates(features.blockers, geobox)
        self.area: shapely.Geometry | None = None
        self.notes: tuple[str, ...] = ()
        if options.labelled_area not in (None, WHOLE_REGION):
            area = read_area(Path(options.labelled_area))
            inside = area_in_region(area, geobox, transformation(area.crs, geobox))
            self.area, self.notes = to_pixel_coordinates(np.array([inside], object), geobox)[0], area.notes

    def classes(self, parts: Parts, classes: NDArray[np.intp], legend: Legend) -> Decided:
        background = None if legend.background is None else (legend.background, self.area)
        return decide_classes(parts, classes, self.shape, self.rule, blockers=self.blockers, background=background)

    def numbers(self, parts: Parts, numbers: NDArray[np.float64]) -> Decided:
        return decide_numbers(parts, numbers, self.shape, self.rule)

    def coverage(self, parts: Parts) -> Decided:
        values = decide_coverage(parts, self.shape, self.area)
        return Decided(values, np.zeros(self.shape, bool), float(np.isfinite(values).sum()), 0.0)


def _pixel_notes(options: LabelOptions, features: Features) -> list[str]:
    """How pixels were decided, where that is not the default."""
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
