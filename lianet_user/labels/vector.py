"""A vector file -> the features of one layer: which layer, which CRS, and which column holds the labels."""

from __future__ import annotations

import codecs
import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import shapely
from odc.geo.crs import CRS
from pyproj.exceptions import CRSError

from lianet_user.errors import LabelError, did_you_mean, listed
from lianet_user.labels.class_tables import COLOR_COLUMNS, ClassTable, stored_style
from lianet_user.labels.cover import Geometries
from lianet_user.labels.formats import PARQUET, find_format, vector_location
from lianet_user.labels.layers import (
    OpenedLayer,
    feature_numbers,
    layer_named,
    layers_of,
    ogr_layer,
    parquet_layer,
    table_layer,
)
from lianet_user.labels.options import LabelOptions

USUAL_COLUMNS = ("class", "label", "landcover", "land_cover", "fclass", "category")
TABLES = (".csv", ".tsv", ".txt")
AREA_KINDS = ("Polygon", "Surface", "Unknown", "GeometryCollection")
"""Parts of the names of geometry types that may hold polygons."""
AREA_TYPES = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)

DATE = re.compile(r"\d{4}([-/])\d{2}\1\d{2}([T ].*)?|\d{8}(T.*)?")


@dataclass(frozen=True)
class Column:
    """The column that holds the labels."""

    name: str
    choice: str
    """Why this one, in words."""


@dataclass(frozen=True, eq=False)
class VectorLayer:
    """Every feature of a layer (or every one that meets a condition), as read."""

    path: Path
    name: str
    """Empty where the format has no layers."""
    crs: CRS
    """Without heights."""
    geometries: Geometries
    """(features,) of any kind, without heights; None where there is none or it cannot be decoded."""
    column: Column | None
    """None only where presence alone counts (task "coverage") and no column was asked for."""
    values: pd.Series | None
    """(features,) of that column, as read."""
    dates: pd.Series | None
    """(features,) the ``datetime.date`` each describes, None where there is none; None without a column of dates."""
    colors: pd.Series | None
    """(features,) text of the colour column, if there is one."""
    table: ClassTable | None
    """The classes of the QGIS style that the file brings, if it is for that column."""
    attribution: str
    """The attribution that the file's metadata state; empty if they state none."""
    notes: tuple[str, ...]
    """What was decided while reading, in words."""

    @property
    def source(self) -> str:
        layer = f", layer {self.name}" if self.name else ""
        return f"{self.path.name}{layer}" + (f", column {self.column.name}" if self.column else "")


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons that delimit an area, for instance the one that was mapped."""

    path: Path
    crs: CRS
    geometries: Geometries
    """(polygons,) polygons and multipolygons, not all of which need be valid; at least one is."""
    notes: tuple[str, ...] = ()


def read_layer(path: Path, options: LabelOptions) -> VectorLayer:
    """Read one layer, and of its columns only those that matter.

    Raises:
        LabelError: there is no such file, layer or column, none was chosen where there are several, the layer has no
            features (that meet the condition) or no CRS, or its text or dates cannot be read.
    """
    opened = _open(path, options)
    crs, crs_notes = _layer_crs(opened, options.labels_crs)
    if options.date_field is not None:
        _check_column(opened, options.date_field)
    table = stored_style(path, opened.layer)
    column = _choose_column(opened, options, table)
    color_columns = [
        name for name in opened.kinds if name.lower() in COLOR_COLUMNS and (column is None or name != column.name)
    ]
    names = dict.fromkeys([*([column.name] if column else []), *color_columns[:1]])
    if options.date_field is not None:
        names[options.date_field] = None
    frame, geometries, notes = opened.read(list(names))
    return VectorLayer(
        path=path,
        name=opened.layer,
        crs=crs,
        geometries=shapely.force_2d(geometries),
        column=column,
        values=frame[column.name] if column else None,
        dates=_dates(frame[options.date_field], opened) if options.date_field is not None else None,
        colors=frame[color_columns[0]].astype("string") if color_columns else None,
        table=table if table is not None and column is not None and table.column == column.name else None,
        attribution=opened.attribution,
        notes=(*opened.notes, *crs_notes, *notes),
    )


def read_area(path: Path) -> Area:
    """Read the polygons that delimit an area, from the only layer that can hold some.

    Raises:
        LabelError: there is no such file or CRS, no layer or several with polygons, or no valid polygon.
    """
    options = LabelOptions()
    file_format = find_format(path)
    if file_format.kind == "vector" or file_format.kind == "zip":
        layers = layers_of(path, vector_location(path))
        suitable = [name for name, kind in layers.items() if any(part in kind for part in AREA_KINDS)]
        if not suitable:
            raise LabelError(
                f"{path} has no layer with polygons (it has {listed(list(layers))}): expected the mapped area"
            )
        if len(suitable) > 1:
            raise LabelError(
                f"{path} has {len(suitable)} layers with polygons ({listed(suitable)}): expected only the one with the"
                " mapped area; save it in a file of its own"
            )
        options = LabelOptions(layer=suitable[0])
    opened = _open(path, options)
    crs, _ = _layer_crs(opened, None)
    _, geometries, notes = opened.read([])
    geometries = shapely.force_2d(geometries)
    polygons = np.isin(shapely.get_type_id(geometries), AREA_TYPES) & ~shapely.is_empty(geometries)
    if not (polygons & shapely.is_valid(geometries)).any():
        raise LabelError(f"{opened.where} has no valid polygon: expected the outlines of the mapped area")
    left_out = int((~polygons).sum())
    if left_out:
        notes = [
            *notes,
            f"Mapped area: {left_out} of {len(polygons)} features of {path.name} are not polygons and are left out",
        ]
    return Area(path, crs, geometries[polygons], (*opened.notes, *notes))


def read_zones(path: Path, layer: str | None = None) -> tuple[Area, pd.DataFrame]:
    """Read polygons with all columns of their layer.

    Args:
        path: vectors with nothing but polygons.
        layer: of a file that has several.

    Returns:
        The polygons, one for each feature, and (features,) the layer's columns after ``zone``: the number that the file
        gives each, or its row from 1 where a format gives none.

    Raises:
        LabelError: there is no such file, layer or CRS, the layer has no features, or one of them is not a valid polygon.
    """
    opened = _open(path, LabelOptions(layer=layer))
    crs, _ = _layer_crs(opened, None)
    frame, geometries, notes = opened.read([name for name in opened.kinds if name not in opened.no_labels])
    geometries = shapely.force_2d(geometries)
    polygons = np.isin(shapely.get_type_id(geometries), AREA_TYPES) & ~shapely.is_empty(geometries)
    if not polygons.any():
        raise LabelError(f"{opened.where} has no polygons: expected the outlines of zones")
    bad = np.flatnonzero(~polygons | ~shapely.is_valid(geometries))
    if len(bad):
        first = int(bad[0])
        reason = "a polygon that is not valid" if polygons[first] else "no polygon"
        why = f" ({shapely.is_valid_reason(geometries[first])})" if polygons[first] else ""
        raise LabelError(
            f"{opened.where}: {len(bad)} of {len(geometries)} zones cannot be used, first row {first + 1}, which has"
            f" {reason}{why}: mend or remove it, for instance with Fix geometries of QGIS"
        )
    frame = frame.reset_index(drop=True)
    if any(str(name).casefold() == "zone" for name in frame):
        return Area(
            path, crs, geometries, (*opened.notes, *notes)
        ), frame  # a column of this name is meant to number the zones
    numbers = feature_numbers(vector_location(path), opened.layer) if opened.layer else np.arange(1, len(frame) + 1)
    frame.insert(0, "zone", numbers)
    return Area(path, crs, geometries, (*opened.notes, *notes)), frame


def _open(path: Path, options: LabelOptions) -> OpenedLayer:
    """Open the layer that is asked for, or the only one."""
    file_format = find_format(path)
    encoding = _known_encoding(options.encoding)
    if file_format.kind == "raster":
        raise LabelError(f"{path} is {file_format.words}: expected vectors")
    tabular = file_format.kind == "table" and path.suffix.lower() in TABLES
    if (tabular or file_format is PARQUET) and options.layer is not None:
        raise LabelError(f"{path} is a single table without layers: omit `layer` {options.layer!r}")
    if file_format is PARQUET:
        return parquet_layer(path, options.where)
    if tabular:
        crs = options.labels_crs
        return table_layer(path, encoding, options.where, None if crs is None else _asked_crs(crs).is_geographic)
    location = vector_location(path)
    name = layer_named(path, layers_of(path, location), options.layer)
    return ogr_layer(path, location, name, encoding, options.where)


def _known_encoding(name: str | None) -> str | None:
    """Python's name of an encoding."""
    if name is None:
        return None
    try:
        "x".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise LabelError(f"`encoding` {name!r} is not known: expected a name such as utf-8, cp1252 or cp850") from error


def _layer_crs(opened: OpenedLayer, given: str | None) -> tuple[CRS, list[str]]:
    """The CRS that the file states, else the one that is asked for; horizontal only."""
    stated = _horizontal(opened.crs)
    given_crs = _asked_crs(given) if given is not None else None
    if stated is None and given_crs is None:
        shapefile = opened.path.suffix.lower() == ".shp" and not opened.crs
        hint = " (the .prj file is missing)" if shapefile and not _has_prj(opened.path) else ""
        if opened.crs:
            hint = f" on the Earth (what it states is neither geographic nor projected: {opened.crs[:60]!r})"
        raise LabelError(
            f"{opened.where} has no coordinate reference system{hint}: give it with `labels_crs`, for instance"
            " EPSG:25833, or assign it with QGIS or ogr2ogr -a_srs"
        )
    if stated is None:
        assert given_crs is not None
        return CRS(given_crs), [
            f"CRS: {_crs_words(given_crs)}, as given with `labels_crs`, since {opened.path.name} states none"
        ]
    if given_crs is not None and not stated.equals(given_crs, ignore_axis_order=True):
        raise LabelError(
            f"{opened.where} states {_crs_words(stated)}, but `labels_crs` is {_crs_words(given_crs)}: omit `labels_crs`,"
            " or assign the right one to the file with QGIS or ogr2ogr -a_srs"
        )
    return CRS(stated), []


def _has_prj(path: Path) -> bool:
    return any(path.with_suffix(suffix).exists() for suffix in (".prj", ".PRJ"))


def _horizontal(text: str | None) -> pyproj.CRS | None:
    """A CRS without heights; None if there is none, or one that is not tied to the Earth."""
    if not text:
        return None
    try:
        crs = pyproj.CRS(text)
    except CRSError:
        return None
    if not (crs.is_geographic or crs.is_projected):
        return None
    if crs.is_compound:
        crs = crs.sub_crs_list[0]
    return crs.to_2d() if len(crs.axis_info) > 2 else crs


def _asked_crs(text: str) -> pyproj.CRS:
    crs = _horizontal(text)
    if crs is None:
        raise LabelError(
            f"`labels_crs` {text!r} is not a geographic or projected coordinate reference system: expected a code such as"
            " EPSG:25833"
        )
    return crs


def _crs_words(crs: pyproj.CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code} ({crs.name})" if code else crs.name


def _choose_column(opened: OpenedLayer, options: LabelOptions, table: ClassTable | None) -> Column | None:
    """The column asked for, the one that a style is for, or the only one that it can be."""
    kinds = opened.kinds
    if options.field is not None:
        _check_column(opened, options.field)
        return Column(options.field, "as asked")
    if options.task == "coverage":
        return None
    excluded = {*opened.no_labels, options.date_field}
    possible = [name for name in kinds if name.lower() not in COLOR_COLUMNS and name not in excluded]
    usual = [name for name in possible if name.lower() in USUAL_COLUMNS]
    numbers = [name for name in possible if kinds[name] == "number"]
    text = [name for name in possible if kinds[name] == "text"]
    styled = [name for name in possible if table is not None and table.column == name]
    of_classes = options.task != "regression"
    for names, choice in (
        (styled if of_classes else [], "as the QGIS style has it"),
        ([] if of_classes else numbers, "the only column with numbers"),
        (possible, "the only column"),
        (usual, "the only column with a usual name"),
        (text if of_classes and not usual else [], "the only column with text"),
    ):
        if len(names) == 1:
            return Column(names[0], choice)
    if not possible:
        missing = opened.path.suffix.lower() == ".shp" and not opened.path.with_suffix(".dbf").exists()
        hint = " (its .dbf file is missing)" if missing else ""
        raise LabelError(
            f"{opened.where} has no column that can hold labels{hint}: it has {listed(list(kinds))}; give a file with"
            " labels, or use `task` coverage if only presence counts"
        )
    raise LabelError(
        f"{opened.where} has {len(kinds)} columns ({listed(list(kinds))}) and it is not clear which one holds the"
        f" {'classes' if of_classes else 'numbers'}: choose it with `field`"
    )


def _check_column(opened: OpenedLayer, name: str) -> None:
    columns = list(opened.kinds)
    if name not in columns:
        raise LabelError(
            f"{opened.where} has no column {name!r}: it has {listed(columns)}{did_you_mean(name, columns)}"
        )


def _dates(values: pd.Series, opened: OpenedLayer) -> pd.Series:
    """(features,) ``datetime.date``, None where there is none."""
    known: dict[object, dt.date | None] = {}

    def each(cells: Iterable[object]) -> list[dt.date | None]:
        days = []
        for cell in cells:
            if cell not in known:
                known[cell] = _date(cell, values.name, opened)
            days.append(known[cell])
        return days

    objects = values.astype(object)
    return pd.Series(each(objects.where(objects.notna(), None)), index=values.index, dtype=object)


def _date(value: object, column: object, opened: OpenedLayer) -> dt.date | None:
    if value is None:
        return None
    if isinstance(value, dt.datetime):
        return value.date()
    if isinstance(value, dt.date):
        return value
    whole = isinstance(value, float) and value.is_integer()
    text = str(int(value)) if whole else str(value).strip()  # type: ignore[call-overload]
    if not text:
        return None
    try:
        if DATE.fullmatch(text):
            return dt.datetime.fromisoformat(text.replace("/", "-")).date()
    except ValueError:
        pass
    raise LabelError(
        f"{opened.where}: {text[:40]!r} in the column {column!r} is not a date: expected YYYY-MM-DD or YYYYMMDD in `date_field`"
    )
