"""One layer of a file of labels, with nothing chosen yet; and the layers that are read without GDAL."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import geopandas
import numpy as np
import pandas as pd
import shapely.errors
from numpy.typing import NDArray

from lianet_user.errors import LabelError
from lianet_user.labels.rasterize import Geometries
from lianet_user.labels.table import read_table

Kind = Literal["text", "number", "boolean", "other"]


@dataclass(frozen=True, eq=False)
class Source:
    """One layer of a file, with nothing chosen yet."""

    path: Path
    layer: str
    """Empty where the format has no layers."""
    crs: str | None
    """As the file states it; None if it does not."""
    kinds: dict[str, Kind]
    """Of each column, in the file's order."""
    no_labels: tuple[str, ...]
    """Columns that the format needs for itself: coordinates, identifiers."""
    attribution: str
    notes: tuple[str, ...]
    read: Callable[[Sequence[str]], tuple[pd.DataFrame, Geometries, list[str]]]
    """Columns by their names -> these columns, (features,) geometries, and notes."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}: layer {self.layer!r}" if self.layer else str(self.path)


def table_source(path: Path, encoding: str | None, where: str | None, degrees: bool | None) -> Source:
    """A table of points; columns called longitude and latitude mean WGS 84 unless `degrees` says that a CRS is given."""
    table = read_table(path, encoding, degrees)
    crs = "EPSG:4326" if table.lonlat and degrees is None else None
    return _in_memory(path, table.frame, table.geometries, crs, table.coordinates, table.notes, where)


def parquet_source(path: Path, where: str | None) -> Source:
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
    return _in_memory(path, plain, frame.geometry.to_numpy(), crs, (), (), where)


def _in_memory(
    path: Path,
    frame: pd.DataFrame,
    geometries: Geometries,
    crs: str | None,
    no_labels: tuple[str, ...],
    notes: tuple[str, ...],
    where: str | None,
) -> Source:
    if not len(frame):
        raise empty_layer(str(path))
    if where is not None:
        rows = _rows_where(frame, where)
        if not len(rows):
            raise nothing_left(str(path), where)
        frame, geometries = frame.iloc[rows].reset_index(drop=True), geometries[rows]
    return Source(
        path=path,
        layer="",
        crs=crs,
        kinds={str(name): _kind(frame[name]) for name in frame},
        no_labels=no_labels,
        attribution="",
        notes=notes,
        read=lambda wanted: (frame[list(wanted)], geometries, []),
    )


def _kind(values: pd.Series) -> Kind:
    if pd.api.types.is_bool_dtype(values.dtype):
        return "boolean"
    if pd.api.types.is_numeric_dtype(values.dtype):
        return "number"
    return "text" if pd.api.types.is_string_dtype(values.dropna()) else "other"


def _rows_where(frame: pd.DataFrame, where: str) -> NDArray[np.intp]:
    """Which rows meet a condition. SQLite decides, as GDAL lets it do for a GeoPackage."""
    plain = [
        name for name in frame if _kind(frame[name]) != "other" or pd.api.types.is_datetime64_any_dtype(frame[name])
    ]
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            frame[plain].to_sql("labels", database, index=False)
            # Rows are numbered from 1 in the order they came in.
            found = database.execute(f"SELECT rowid FROM labels WHERE {where}").fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise bad_where(where, str(error)) from error
    return np.sort(np.array([row for (row,) in found], np.intp)) - 1


def bad_where(where: str, reason: str) -> LabelError:
    return LabelError(
        f"--where {where!r} cannot be used ({reason.strip().rstrip('.')}): expected a condition in OGR SQL, for instance"
        " \"year = 2018 AND class <> 'unknown'\""
    )


def nothing_left(name: str, where: str) -> LabelError:
    return LabelError(
        f"{name}: no feature meets --where {where!r}: check the names (columns in \"double\", text in 'single' quotes)"
        " and values"
    )


def empty_layer(name: str) -> LabelError:
    return LabelError(f"{name} is empty: expected features with a label each")
