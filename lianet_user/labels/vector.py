"""A vector file -> the features of one layer, with the label each has in one column."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import geopandas
import pandas as pd
import pyogrio
import shapely
from odc.geo.crs import CRS
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from lianet_user.errors import LabelError
from lianet_user.labels.rasterize import Geometries

USUAL_COLUMNS = ("class", "label", "landcover", "land_cover", "fclass", "category")
COLOR_COLUMNS = ("color", "colour")


@dataclass(frozen=True)
class Column:
    """The column that holds the classes."""

    name: str
    choice: str
    """Why this one, in words."""


@dataclass(frozen=True, eq=False)
class VectorLayer:
    """Every feature of a layer, as found."""

    path: Path
    name: str
    crs: CRS
    column: Column
    geometries: Geometries
    """(features,) of any kind, without heights; None where there is none."""
    labels: pd.Series
    """(features,) text without stray blanks; null where there is none."""
    order: Literal["name", "number"]
    """How classes are sorted: as text, or as the numbers the labels are."""
    colors: pd.Series | None
    """(features,) text of the colour column, if there is one."""
    attribution: str
    """As the file's metadata state it; empty if they do not."""

    @property
    def source(self) -> str:
        return f"{self.path.name}, layer {self.name}, column {self.column.name}"


def read_layer(path: Path, field: str | None, layer: str | None) -> VectorLayer:
    """Read one layer whole, and of its columns only those that matter.

    Raises:
        LabelError: there is no such file, layer or column, none was chosen where there are several, or the layer has no
            features or no CRS.
    """
    name = _choose_layer(path, layer)
    info = pyogrio.read_info(path, layer=name)
    crs = _layer_crs(info, path, name)
    column = _choose_column(info, path, name, field)
    colored = [entry for entry in info["fields"] if entry.lower() in COLOR_COLUMNS and entry != column.name]
    frame = _read(path, name, [column.name, *colored[:1]])
    if frame.empty:
        raise LabelError(f"{path}: layer {name!r} is empty: expected polygons with a label each")
    labels, order = _clean_labels(frame[column.name], path)
    return VectorLayer(
        path=path,
        name=name,
        crs=crs,
        column=column,
        geometries=shapely.force_2d(frame.geometry.to_numpy()),
        labels=labels,
        order=order,
        colors=frame[colored[0]].astype("string") if colored else None,
        attribution=_attribution(info),
    )


def _choose_layer(path: Path, layer: str | None) -> str:
    if not path.exists():
        raise LabelError(f"{path} does not exist: expected a vector file with labels, for instance a GeoPackage")
    try:
        listed = pyogrio.list_layers(path)
    except DataSourceError as error:
        raise LabelError(
            f"{path} cannot be read as a vector file: expected a GeoPackage, a shapefile, GeoJSON or another format"
            " that QGIS opens as a vector layer"
        ) from error
    # Tables without geometry are no layers: QGIS keeps its styles in one.
    layers = [str(name) for name, kind in listed if kind is not None]
    if not layers:
        raise LabelError(f"{path} has no layer with geometries: expected polygons with a label each")
    if layer is None:
        if len(layers) > 1:
            raise LabelError(f"{path} has {len(layers)} layers ({_listed(layers)}): choose one with --layer")
        return layers[0]
    if layer not in layers:
        raise LabelError(f"{path} has no layer {layer!r}: it has {_listed(layers)}{_suggestion(layer, layers)}")
    return layer


def _layer_crs(info: dict[str, Any], path: Path, layer: str) -> CRS:
    crs = CRS(info["crs"]) if info["crs"] else None
    if crs is None or not (crs.geographic or crs.projected):
        hint = " (the .prj file is missing)" if path.suffix.lower() == ".shp" else ""
        raise LabelError(
            f"{path}: layer {layer!r} has no coordinate reference system{hint}: assign the one its coordinates are in,"
            " for instance with QGIS or with ogr2ogr -a_srs EPSG:..."
        )
    return crs


def _choose_column(info: dict[str, Any], path: Path, layer: str, field: str | None) -> Column:
    """The column asked for, else the only one, else the only one with a usual name, else the only one with text."""
    columns = [str(name) for name in info["fields"]]
    if field is not None:
        if field in columns:
            return Column(field, "as asked")
        raise LabelError(
            f"{path}: layer {layer!r} has no column {field!r}: it has {_listed(columns)}{_suggestion(field, columns)}"
        )
    kinds = dict(zip(columns, info["ogr_types"], strict=True))
    possible = [name for name in columns if name.lower() not in COLOR_COLUMNS]
    usual = [name for name in possible if name.lower() in USUAL_COLUMNS]
    text = [name for name in possible if kinds[name] == "OFTString"]
    for names, choice in (
        (possible, "the only column"),
        (usual, "the only column with a usual name"),
        (text if not usual else [], "the only column with text"),
    ):
        if len(names) == 1:
            return Column(names[0], choice)
    raise LabelError(
        f"{path}: layer {layer!r} has {len(columns)} columns ({_listed(columns)}) and it is not plain which one"
        " holds the classes: choose it with --field"
    )


def _read(path: Path, layer: str, columns: list[str]) -> geopandas.GeoDataFrame:
    try:
        # A geometry that cannot be decoded becomes null and is counted as such.
        return pyogrio.read_dataframe(path, layer=layer, columns=columns, on_invalid="ignore")
    except (DataSourceError, DataLayerError, FeatureError) as error:
        raise LabelError(f"{path}: layer {layer!r} cannot be read ({error}): is the file whole?") from error


def _clean_labels(values: pd.Series, path: Path) -> tuple[pd.Series, Literal["name", "number"]]:
    """Labels as text without stray blanks, null where there is none, and how to sort them."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.dropna().astype(float)
        if not (numbers == numbers.round()).all():
            example = float(numbers[numbers != numbers.round()].iloc[0])
            raise LabelError(
                f"{path}: the column {values.name!r} holds fractions ({example:g}), not classes: choose a column of"
                " names or whole numbers with --field"
            )
        # By way of Int64, because a column of whole numbers with nulls is read as floating point.
        return values.astype("Int64").astype("string"), "number"
    if not (pd.api.types.is_string_dtype(values.dropna()) or pd.api.types.is_bool_dtype(values.dropna())):
        raise LabelError(
            f"{path}: the column {values.name!r} is of type {values.dtype}: choose a column of names or whole numbers"
            " with --field"
        )
    text = values.astype("string").str.split().str.join(" ")
    return text.mask(text == ""), "name"


def _attribution(info: dict[str, Any]) -> str:
    for metadata in (info.get("layer_metadata"), info.get("dataset_metadata")):
        for key, value in (metadata or {}).items():
            if key.lower() == "attribution":
                return str(value)
    return ""


def _listed(names: list[str], most: int = 20) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "") if names else "none"


def _suggestion(wanted: str, names: list[str]) -> str:
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(wanted.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""
