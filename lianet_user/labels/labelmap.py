"""The label map: one class index per pixel of the region's grid, made from a file of labels."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.header import IGNORE, ClassEntry
from lianet_user.labels.palette import class_colors
from lianet_user.labels.polygons import polygons_in_region
from lianet_user.labels.rasterize import (
    Values,
    rasterize_classes,
    to_pixel_coordinates,
    touches_own_class,
)
from lianet_user.labels.report import ClassCount, LabelReport
from lianet_user.labels.vector import VectorLayer, read_layer

MAX_CLASSES = 254
"""A map is uint8 with 255 for "no data"; 254 stays free."""

MAX_NAME = 128


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels on a region's grid."""

    geobox: GeoBox
    values: Values
    """(height, width) index into `classes`, or IGNORE."""
    classes: tuple[ClassEntry, ...]
    report: LabelReport
    attribution: str
    """As the file states it; empty if it states none."""
    source: str
    """File, layer and column."""


def read_labels(
    path: str | os.PathLike[str], geobox: GeoBox, *, field: str | None = None, layer: str | None = None
) -> LabelMap:
    """Put a file of labelled polygons on a region's grid.

    A pixel bears a class if that class alone covers at least half of it; a pixel that different classes cover is
    ignored and counted (:mod:`lianet_user.labels.rasterize` states the rule exactly). Whatever no polygon
    covers is IGNORE.

    Args:
        path: anything GDAL reads as vectors, with polygons, in any CRS.
        geobox: the region's grid.
        field: the column that holds the classes, as text or whole numbers. Without it: the only column there is, else
            the only one with a usual name (class, label, landcover, land_cover, fclass, category), else the only one
            with text.
        layer: the layer, where the file has several.

    Returns:
        The label map. Classes are sorted by name, or by number where the labels are numbers; their colours are those in
        a column `color` or `colour` (hex) where the file has one, else usual ones.

    Raises:
        LabelError: the labels cannot be used as they are.

    Warns:
        LabelWarning: points and lines among the polygons are not used, or a class is left out because no pixel
            bears it.
    """
    vector = read_layer(Path(path), field, layer)
    polygons = polygons_in_region(vector, geobox)
    names = sorted(set(polygons.labels), key=int if vector.order == "number" else None)
    _check_names(names, vector)
    index_of = {name: index for index, name in enumerate(names)}
    indices = np.array([index_of[label] for label in polygons.labels], np.intp)
    geometries = to_pixel_coordinates(polygons.geometries, geobox)
    height, width = geobox.shape
    values, contradicting = rasterize_classes(geometries, indices, (height, width))

    pixels = np.bincount(values.ravel(), minlength=256)[: len(names)]
    borne = np.flatnonzero(pixels)
    _check_pixels(names, pixels, vector)
    if polygons.counts.not_polygons:
        message = f"{path}: {polygons.counts.not_polygons} points or lines are not used, only the polygons are"
        warnings.warn(message, LabelWarning, stacklevel=2)
    if len(borne) < len(names):
        message = f"{path}: no pixel bears {_without_pixels(names, pixels)}: the map goes without"
        warnings.warn(message, LabelWarning, stacklevel=2)

    counts = np.bincount(indices).tolist()
    report = LabelReport(
        source=vector.source,
        column_choice=vector.column.choice,
        features=polygons.counts,
        vanished=int((~touches_own_class(geometries, indices, values)).sum()),
        region_pixels=values.size,
        contradicting=int(contradicting.sum()),
        classes=tuple(map(ClassCount, names, counts, pixels.tolist())),
    )
    kept = [names[index] for index in borne]
    colors = class_colors(kept, polygons.colors)
    renumbered = np.full(256, IGNORE, np.uint8)
    renumbered[borne] = np.arange(len(borne))
    return LabelMap(
        geobox=geobox,
        values=renumbered[values],
        classes=tuple(ClassEntry(name=name, color=color) for name, color in zip(kept, colors, strict=True)),
        report=report,
        attribution=vector.attribution,
        source=vector.source,
    )


def _check_names(names: list[str], vector: VectorLayer) -> None:
    found = f"{vector.path}: the column {vector.column.name!r} holds"
    if len(names) == 1:
        raise LabelError(
            f"{found} a single class in the region ({names[0]!r}), expected two or more: label what is not that class"
            " too, or choose another column with --field"
        )
    if len(names) > MAX_CLASSES:
        raise LabelError(
            f"{found} {len(names)} classes in the region, expected at most {MAX_CLASSES}: group them, or choose another"
            " column with --field"
        )
    longest = max(names, key=len)
    if len(longest) > MAX_NAME:
        raise LabelError(
            f"{found} a class name of {len(longest)} characters ({longest[:40]!r}...), expected at most {MAX_NAME}:"
            " shorten it, or choose another column with --field"
        )


def _check_pixels(names: list[str], pixels: np.ndarray, vector: VectorLayer) -> None:
    borne = np.count_nonzero(pixels)
    if borne < 2:
        raise LabelError(
            f"{vector.path}: {borne} of the {len(names)} classes cover pixels of the region, expected two or more: no"
            f" pixel bears {_without_pixels(names, pixels)}"
        )


def _without_pixels(names: list[str], pixels: np.ndarray) -> str:
    missing = ", ".join(repr(name) for name, count in zip(names, pixels, strict=True) if not count)
    return f"{missing} (too small for the grid, or contradicted)"
