"""A vector file -> the features of one layer: which layer, which CRS, and which column holds the labels.

GDAL reads nearly all formats; GeoParquet and text tables are read without it.
"""

from __future__ import annotations

import codecs
import datetime as dt
import importlib.util
import json
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
import shapely.errors
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, GeometryError

from lianet_user.errors import LabelError, did_you_mean, listed
from lianet_user.geo.grid import Bounds, parse_crs
from lianet_user.labels.class_tables import COLOR_COLUMNS, ClassTable, stored_style
from lianet_user.labels.file_crs import file_crs, is_default, unfit_default
from lianet_user.labels.formats import PARQUET, find_format, vector_location
from lianet_user.labels.ground import Geometries
from lianet_user.labels.label_options import LabelOptions
from lianet_user.labels.point_table import read_table

USUAL_COLUMNS = ("class", "label", "landcover", "land_cover", "fclass", "category")
TABLES = (".csv", ".tsv", ".txt")
DATE = re.compile(r"\d{4}([-/])\d{2}\1\d{2}([T ].*)?|\d{8}(T.*)?")

Kind = Literal["text", "number", "boolean", "date", "other"]


@dataclass(frozen=True, eq=False)
class OpenedLayer:
    """One layer of a file, before a column is chosen and features are read."""

    path: Path
    layer: str
    """Empty where the format has no layers."""
    crs: str | None
    """As the file states it, or as its format has it by default; None if neither, or the default cannot be meant."""
    kinds: dict[str, Kind]
    """The kind of each column, in the file's order."""
    no_labels: tuple[str, ...]
    """Columns that the format needs for itself: coordinates, identifiers."""
    attribution: str
    notes: tuple[str, ...]
    read: Callable[[Sequence[str]], tuple[pd.DataFrame, Geometries, list[str]]]
    """Columns by their names -> these columns, (features,) geometries, and notes."""
    crs_by_default: bool = False
    no_crs: str = ""
    """Why a default cannot be meant, in brackets."""

    @property
    def where(self) -> str:
        """File and layer, to begin a message with."""
        return f"{self.path}: layer {self.layer!r}" if self.layer else str(self.path)


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
    date_columns: tuple[str, ...]
    """Columns that could say what `dates` does."""
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


def read_layer(path: Path, options: LabelOptions) -> VectorLayer:
    """Read one layer, and of its columns only those that matter.

    Raises:
        LabelError: there is no such file, layer or column, none was chosen where there are several, the layer has no
            features (that meet the condition) or no CRS, or its text or dates cannot be read.
    """
    opened = open_layer(path, options)
    crs, crs_notes = layer_crs(opened, options.labels_crs)
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
        date_columns=tuple(
            name for name, kind in opened.kinds.items() if kind == "date" or (kind == "text" and "date" in name.lower())
        ),
        colors=frame[color_columns[0]].astype("string") if color_columns else None,
        table=table if table is not None and column is not None and table.column == column.name else None,
        attribution=opened.attribution,
        notes=(*opened.notes, *crs_notes, *notes),
    )


def open_layer(path: Path, options: LabelOptions, *, points: bool = True) -> OpenedLayer:
    """Open the layer that is asked for, or the only one; `points` says whether a table of points will do."""
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
        degrees = None if crs is None else parse_crs(crs, "`labels_crs`", LabelError).geographic
        return table_layer(path, encoding, options.where, degrees, points)
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


def layer_crs(opened: OpenedLayer, given: str | None, *, optional: bool = True) -> tuple[CRS, list[str]]:
    """The CRS of a layer, as :func:`file_crs` decides it, and notes."""
    beside = (opened.path.with_suffix(suffix) for suffix in (".prj", ".PRJ"))
    missing = opened.path.suffix.lower() == ".shp" and not any(path.exists() for path in beside)

    def extent() -> Bounds:
        bounds: Bounds = tuple(shapely.total_bounds(opened.read([])[1]).tolist())
        return bounds

    return file_crs(
        opened.where,
        opened.crs,
        given,
        extent,
        by_default=opened.crs_by_default,
        hint=opened.no_crs or (" (the .prj file is missing)" if missing else ""),
        optional=optional,
    )


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
    objects = values.astype(object)
    cells = objects.where(objects.notna(), None)
    known = {cell: _date(cell, values.name, opened) for cell in dict.fromkeys(cells)}
    return pd.Series([known[cell] for cell in cells], index=values.index, dtype=object)


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


# --- Layers that are read without GDAL.


def table_layer(path: Path, encoding: str | None, where: str | None, degrees: bool | None, points: bool) -> OpenedLayer:
    """A table of points or other geometries, as :func:`read_table` takes it."""
    table = read_table(path, encoding, degrees, points=points)
    return _in_memory(
        path, table.frame, table.geometries, table.crs, table.no_labels, table.notes, where, doubtful=table.doubtful
    )


def parquet_layer(path: Path, where: str | None) -> OpenedLayer:
    """A GeoParquet file, whose named index counts as columns."""
    if importlib.util.find_spec("pyarrow") is None:
        raise LabelError(f"{path} is GeoParquet, which needs one more package: pip install 'lianet-user[parquet]'")
    try:
        frame = geopandas.read_parquet(path)
    except (ValueError, OSError, KeyError, TypeError, shapely.errors.ShapelyError) as error:
        raise LabelError(
            f"{path} cannot be read as GeoParquet ({str(error).partition('.')[0]}): expected a whole file with geometries"
        ) from error
    plain = pd.DataFrame(frame.drop(columns=frame.geometry.name))
    # An index with a name was a column before.
    plain = plain.reset_index(drop=all(name is None for name in plain.index.names))
    for column in plain:
        if isinstance(plain[column].dtype, pd.CategoricalDtype):
            plain[column] = plain[column].astype(plain[column].cat.categories.dtype)
    plain.columns = plain.columns.map(str)
    crs = None if frame.crs is None else frame.crs.to_string()
    return _in_memory(path, plain, frame.geometry.to_numpy(), crs, (), (), where, by_default=_parquet_default(path))


def _parquet_default(path: Path) -> bool:
    """Whether a GeoParquet file states no CRS, so that geopandas has it in degrees."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    geo = json.loads(parquet.read_schema(path).metadata[b"geo"])
    return "crs" not in geo["columns"][geo["primary_column"]]


def _in_memory(
    path: Path,
    frame: pd.DataFrame,
    geometries: Geometries,
    crs: str | None,
    no_labels: tuple[str, ...],
    notes: tuple[str, ...],
    where: str | None,
    *,
    doubtful: Mapping[str, str] | None = None,
    by_default: bool = False,
) -> OpenedLayer:
    def checked(names: Iterable[str]) -> list[str]:
        """Names of columns that are to be read, none of which raises a question."""
        names = list(names)
        if questions := [question for name, question in (doubtful or {}).items() if name in names]:
            raise LabelError(questions[0])
        return names

    if not len(frame):
        raise empty_layer(str(path))
    if where is not None:
        rows, named = _rows_where(frame, where)
        checked(named)
        if not len(rows):
            raise nothing_left(str(path), where)
        frame, geometries = frame.iloc[rows].reset_index(drop=True), geometries[rows]
    unfit = unfit_default(shapely.total_bounds(geometries).tolist()) if by_default else ""
    return OpenedLayer(
        path=path,
        layer="",
        crs=None if unfit else crs,
        kinds={str(name): _kind(frame[name]) for name in frame},
        no_labels=no_labels,
        attribution="",
        notes=notes,
        read=lambda names: (frame[checked(names)], geometries, []),
        crs_by_default=by_default,
        no_crs=unfit,
    )


def _kind(values: pd.Series) -> Kind:
    if pd.api.types.is_bool_dtype(values.dtype):
        return "boolean"
    if pd.api.types.is_numeric_dtype(values.dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return "date"
    return "text" if pd.api.types.is_string_dtype(values.dropna()) else "other"


def _rows_where(frame: pd.DataFrame, where: str) -> tuple[NDArray[np.intp], set[str]]:
    """Which rows meet a condition, and the columns that it names. SQLite decides, as GDAL lets it do for a GeoPackage."""
    plain = [name for name in frame if _kind(frame[name]) != "other"]
    named: set[str] = set()

    def note_column(_action: int, _table: str | None, column: str | None, *_: object) -> int:
        named.add(column or "")
        return sqlite3.SQLITE_OK

    with closing(sqlite3.connect(":memory:")) as database:
        try:
            frame[plain].to_sql("labels", database, index=False)
            database.set_authorizer(note_column)
            for condition in (where, in_parentheses(where)):
                # Rows are numbered from 1 in the order they came in.
                rows = database.execute(f"SELECT rowid FROM labels WHERE {condition}").fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise bad_where(where, str(error)) from error
    return np.sort(np.array([row for (row,) in rows], np.intp)) - 1, named


def in_parentheses(where: str) -> str:
    """A condition that is nothing but one expression, if it can be read in this form and as it stands.

    SQLite ignores what follows a semicolon, and takes LIMIT, ORDER BY and UNION behind a condition; in parentheses it does not.
    The line feed ends a comment.
    """
    return f"({where}\n)"


def bad_where(where: str, reason: str) -> LabelError:
    """The error for a condition that cannot be used."""
    return LabelError(
        f"`where` {where!r} cannot be used ({reason.strip().rstrip('.')}): expected a condition in OGR SQL, for instance"
        " \"year = 2018 AND class <> 'unknown'\""
    )


def nothing_left(name: str, where: str) -> LabelError:
    """The error for a condition that no feature meets."""
    return LabelError(
        f"{name}: no feature meets `where` {where!r}: check the names (columns in \"double\", text in 'single' quotes)"
        " and values"
    )


def empty_layer(name: str) -> LabelError:
    """The error for a layer without features."""
    return LabelError(f"{name} is empty: expected features with a label each")


# --- Layers that GDAL reads.


OGR_KINDS: dict[str, Kind] = {
    "OFTString": "text",
    "OFTInteger": "number",
    "OFTInteger64": "number",
    "OFTReal": "number",
    "OFTDate": "date",
    "OFTDateTime": "date",
}
LATIN1 = "ISO-8859-1"
"""Maps every byte to the character of its number: text that is read so can still be decoded as something else."""
LOCKED = "database is locked"
"""In what SQLite says of a GeoPackage that another program has not finished writing."""
READ_ERRORS = (DataSourceError, DataLayerError, FeatureError, GeometryError)


def layers_of(path: Path, location: str) -> dict[str, str]:
    """The layers with geometries, and their types of geometry; a table without geometries (QGIS's styles) is not one."""
    try:
        with _warnings_caught() as caught:
            layers = {str(name): str(kind) for name, kind in pyogrio.list_layers(location) if kind is not None}
        # Of a database that another program holds, GDAL may read an earlier state.
        if any(LOCKED in str(warning.message) for warning in caught):
            raise _locked(str(path))
        return layers
    except DataSourceError as error:
        if LOCKED in str(error):
            raise _locked(str(path)) from error
        raise LabelError(
            f"{path} cannot be read as a vector file: expected a GeoPackage, a shapefile, GeoJSON or another format"
            f" that QGIS opens as a vector layer{_images_hint(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path}: the name of a layer is not UTF-8, so no layer can be read by its name: save it again, for instance"
            " with QGIS as a GeoPackage"
        ) from error


def _locked(name: str) -> LabelError:
    return LabelError(
        f"{name} is locked: another program is writing to it; save and close it there, for instance in QGIS, and try again"
    )


def _unreadable(name: str, error: Exception) -> LabelError:
    return _locked(name) if LOCKED in str(error) else LabelError(f"{name} cannot be read ({error}): is the file whole?")


def layer_named(path: Path, layers: dict[str, str], layer: str | None) -> str:
    """The name of the layer asked for, or of the only one.

    Raises:
        LabelError: there is no such layer, or none is asked for and there are several.
    """
    names = list(layers)
    if not names:
        raise LabelError(
            f"{path} has no layer with geometries: expected features with a label each{_images_hint(path)}"
        )
    if layer is None:
        if len(names) > 1:
            raise LabelError(f"{path} has {len(names)} layers ({listed(names)}): choose one with `layer`")
        return names[0]
    if layer not in names:
        raise LabelError(f"{path} has no layer {layer!r}: it has {listed(names)}{did_you_mean(layer, names)}")
    return layer


def _images_hint(path: Path) -> str:
    return "; a GeoPackage with images only has to be saved as GeoTIFF" if path.suffix.lower() == ".gpkg" else ""


def ogr_layer(path: Path, location: str, layer: str, encoding: str | None, where: str | None) -> OpenedLayer:
    """A layer that GDAL reads, with the encoding of its text."""
    name = f"{path}: layer {layer!r}"
    notes: list[str] = []
    try:
        with _warnings_caught():
            info = pyogrio.read_info(location, layer=layer, encoding=LATIN1)
            if info["driver"] == "ESRI Shapefile":
                encoding, notes = _shapefile_encoding(name, location, layer, encoding)
            by_default = is_default(info["driver"], path, location)
            info = pyogrio.read_info(location, layer=layer, encoding=encoding, force_total_bounds=by_default)
    except READ_ERRORS as error:
        raise _unreadable(name, error) from error
    except UnicodeDecodeError as error:
        raise _not_decoded(name, encoding) from error
    if info["features"] == 0:
        raise empty_layer(name)
    columns = [str(column) for column in info["fields"]]
    kinds = {column: OGR_KINDS.get(kind, "other") for column, kind in zip(columns, info["ogr_types"], strict=True)}
    booleans = {column for column, kind in zip(columns, info["dtypes"], strict=True) if kind == "bool"}

    def read(names: Sequence[str]) -> tuple[pd.DataFrame, Geometries, list[str]]:
        if "geometry" in names:
            # geopandas keeps the geometries under that name: they would be taken for the labels.
            raise LabelError(f"{name}: a column called 'geometry' cannot be read beside the geometries: rename it")
        frame, read_notes = _read_features(name, location, layer, names, encoding, where)
        for column in booleans.intersection(names):
            # With nulls among them they arrive as 1.0, 0.0 and NaN.
            if frame[column].dtype != bool:
                frame[column] = frame[column].astype(object).map({1.0: True, 0.0: False})
        return pd.DataFrame(frame[list(names)]), frame.geometry.to_numpy(), read_notes

    unfit = unfit_default(info["total_bounds"]) if by_default else ""
    return OpenedLayer(
        path=path,
        layer=layer,
        crs=None if unfit else info["crs"],
        kinds=kinds | dict.fromkeys(booleans, "boolean"),
        no_labels=("gml_id",),
        attribution=_attribution(info),
        notes=tuple(notes),
        read=read,
        crs_by_default=by_default,
        no_crs=unfit,
    )


def feature_numbers(location: str, layer: str) -> NDArray[np.int64]:
    """(features,) the number that the file gives each feature: QGIS's $id."""
    with _warnings_caught():
        read = pyogrio.read_dataframe(location, layer=layer, columns=[], read_geometry=False, fid_as_index=True)
    return read.index.to_numpy(np.int64)


def _read_features(
    name: str, location: str, layer: str, columns: Sequence[str], encoding: str | None, where: str | None
) -> tuple[geopandas.GeoDataFrame, list[str]]:
    # Of columns that are not read, some formats also keep no values for a condition: it would meet nothing, in silence.
    needed = list(columns) if where is None else None
    condition = where
    try:
        with _warnings_caught() as caught:
            if where is not None:
                pyogrio.read_dataframe(
                    location, layer=layer, encoding=encoding, where=where, max_features=1, read_geometry=False
                )
                condition = in_parentheses(where)
            # A geometry that cannot be decoded becomes null and is counted as such.
            frame = pyogrio.read_dataframe(
                location, layer=layer, columns=needed, encoding=encoding, where=condition, on_invalid="ignore"
            )
    except READ_ERRORS as error:
        if where is not None and condition is not None and "SQL" in str(error):
            reason = str(error).rpartition(condition.replace("\n", " "))[2]
            raise bad_where(where, reason.lstrip("): ")) from error
        raise _unreadable(name, error) from error
    except UnicodeDecodeError as error:
        raise _not_decoded(name, encoding) from error
    except ValueError as error:
        if where is None or condition is None or "SQL" not in str(error):
            raise
        raise bad_where(where, _reason(location, layer, condition)) from error
    if frame.empty:
        raise nothing_left(name, where) if where is not None else empty_layer(name)
    return frame, sorted({f"Reading: {warning.message}" for warning in caught})


@contextmanager
def _warnings_caught() -> Iterator[list[warnings.WarningMessage]]:
    """Collect GDAL's warnings: they become notes when features are read, and would be repeated before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _reason(location: str, layer: str, where: str) -> str:
    """GDAL's reason for refusing a condition, which it only gives for a whole statement."""
    quoted = layer.replace('"', '\\"')
    try:
        with _warnings_caught():
            pyogrio.read_dataframe(location, sql=f'SELECT * FROM "{quoted}" WHERE {where}', max_features=1)
    except (*READ_ERRORS, ValueError) as error:
        return str(error)
    return "no condition in OGR SQL"


def _not_decoded(name: str, encoding: str | None) -> LabelError:
    return LabelError(
        f"{name}: its text is not {encoding or 'UTF-8'}: give its encoding with `encoding`, for instance cp1252"
    )


def _attribution(info: dict[str, Any]) -> str:
    for metadata in (info.get("layer_metadata"), info.get("dataset_metadata")):
        for key, value in (metadata or {}).items():
            if key.lower() == "attribution":
                return str(value)
    return ""


def _shapefile_encoding(name: str, location: str, layer: str, given: str | None) -> tuple[str | None, list[str]]:
    """The encoding to read a shapefile with (None: as it states itself), and what was decided.

    What a shapefile states in its .cpg or .dbf is often missing and sometimes wrong, but text tells: hardly any that is
    not UTF-8 can be decoded as such.
    """
    raw = _texts(location, layer, LATIN1)
    if not raw:
        return given, []
    as_bytes = [text.encode("latin-1") for text in raw]
    if given is not None:
        decoded = _decoded(as_bytes, given)
        if decoded is None or decoded != _texts(location, layer, given):
            raise _not_decoded(name, given)
        return given, []
    stated = _texts(location, layer, None)
    windows = _decoded(as_bytes, "cp1252")
    utf8 = _decoded(as_bytes, "utf-8")
    if utf8 is not None and (stated is None or stated in (raw, windows)):
        return "utf-8", [_encoding_note(name, "UTF-8, which the file does not state", utf8)]
    if stated is None or stated == raw:
        if windows is None:
            raise LabelError(f"{name}: its text is neither UTF-8 nor cp1252: give its encoding with `encoding`")
        reason = "which the file does not state" if stated else "not as UTF-8, as the file states"
        return "cp1252", [_encoding_note(name, f"cp1252, {reason}", windows)]
    return None, []


def _texts(location: str, layer: str, encoding: str | None) -> set[str] | None:
    """Column names and values that are not plain ASCII; None where some text is not in that encoding."""
    try:
        info = pyogrio.read_info(location, layer=layer, encoding=encoding)
        texts = {str(name) for name in info["fields"]}
        columns = [name for name, kind in zip(info["fields"], info["ogr_types"], strict=True) if kind == "OFTString"]
        if columns:
            frame = pyogrio.read_dataframe(
                location, layer=layer, columns=columns, encoding=encoding, read_geometry=False
            )
            for column in frame:
                texts.update(frame[column].dropna().unique())
    except UnicodeDecodeError:
        return None
    return {text for text in texts if not text.isascii()}


def _decoded(texts: Sequence[bytes], encoding: str) -> set[str] | None:
    try:
        return {text.decode(encoding) for text in texts}
    except UnicodeDecodeError:
        return None


def _encoding_note(name: str, encoding: str, texts: set[str]) -> str:
    return f"Text: {name} is read as {encoding} ({min(texts)[:40]!r}); `encoding` overrides this"
