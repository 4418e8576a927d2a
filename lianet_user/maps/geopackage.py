"""Writes GeoPackages that QGIS opens in the classes' colours: layers in batches, and the style inside the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import geopandas
import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

from lianet_user.errors import OutputError, printable
from lianet_user.files.artifact import refuse_existing, replacing
from lianet_user.files.header import ClassEntry
from lianet_user.maps.style import rgb

WRITE_ERRORS = (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError)
STYLES = "layer_styles"
"""The table where QGIS keeps the styles of a GeoPackage's layers."""


def check_geopackage(path: Path, overwrite: bool) -> None:
    """Check that a GeoPackage may be written to a path.

    Raises:
        OutputError: the name is not that of a GeoPackage, or the file exists and may not be replaced.
    """
    if path.suffix.lower() != ".gpkg":
        raise OutputError(f"{path}: expected a name that ends in .gpkg, a GeoPackage")
    refuse_existing(path, overwrite)


def write_geopackage(
    path: Path,
    layer: str,
    batches: Iterable[geopandas.GeoDataFrame],
    *,
    geometry_type: str,
    style: str = "",
    metadata: Mapping[str, str] | None = None,
    fid: str = "fid",
) -> None:
    """Write one layer, batch by batch, to a file that appears when it is finished.

    Args:
        path: ``*.gpkg``; an earlier file is replaced.
        layer: its name.
        batches: rows with the same columns and CRS; at least one batch.
        geometry_type: of all rows, as OGR names it, for instance "Polygon".
        style: QML with which QGIS shows the layer; empty for none.
        metadata: of the layer.
        fid: the name of the column that numbers the rows.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.unlink()  # GDAL makes it: an empty file is no GeoPackage
        try:
            for number, batch in enumerate(batches):
                pyogrio.write_dataframe(
                    batch,
                    temporary,
                    layer=layer,
                    driver="GPKG",
                    geometry_type=geometry_type,
                    append=number > 0,
                    layer_metadata=None if number else dict(metadata or {}),
                    **({} if number else {"layer_options": {"FID": fid, "GEOMETRY_NAME": "geom"}}),
                )
            if style:
                frame = pd.DataFrame([_style_row(layer, style)])
                pyogrio.write_dataframe(
                    frame, temporary, layer=STYLES, driver="GPKG", append=True, layer_options={"FID": "id"}
                )
        except WRITE_ERRORS as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _style_row(layer: str, style: str) -> dict[str, object]:
    """The row that QGIS looks for when it opens the layer."""
    return {
        "f_table_catalog": "",
        "f_table_schema": "",
        "f_table_name": layer,
        "f_geometry_column": "geom",
        "styleName": "classes",
        "styleQML": style,
        "styleSLD": "",
        "useAsDefault": True,
        "description": "",
        "owner": "",
        "ui": "",
        "update_time": pd.Timestamp.now(tz="UTC").floor("s"),
    }


def categories_qml(
    column: str, classes: Sequence[ClassEntry], *, outlined: bool = False, choices: Sequence[str] = ()
) -> str:
    """Write the style that fills polygons by the class in a column, as QML.

    Args:
        column: that holds the classes' names.
        classes: in the order of the legend.
        outlined: draw outlines, also of polygons without a class; else no line separates areas.
        choices: names that QGIS offers when the column is filled in; without any, it accepts all text.
    """
    parts = "Symbology|Fields|Forms" if choices else "Symbology"
    root = Element("qgis", version="3.16", styleCategories=parts)
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr=f'"{column}"', enableorderby="0")
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for number, entry in enumerate(classes):
        name = printable(entry.name)
        SubElement(categories, "category", value=name, label=name, symbol=str(number), type="string", render="true")
        _add_symbol(symbols, str(number), ",".join(map(str, rgb(entry.color))) + ",255", "solid", outlined)
    if outlined:
        rest = str(len(classes))
        SubElement(categories, "category", value="", label="no class yet", symbol=rest, type="string", render="true")
        _add_symbol(symbols, rest, "0,0,0,0", "no", outlined)
    if choices:
        _add_choices(root, column, choices)
    return ElementTree.tostring(root, encoding="unicode")


def _add_symbol(symbols: Element, name: str, color: str, style: str, outlined: bool) -> None:
    """Add a fill symbol. QGIS reads options since 3.18, and before that properties."""
    symbol = SubElement(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    options = SubElement(layer, "Option", type="Map")
    values = {
        "color": color,
        "style": style,
        "outline_style": "solid" if outlined else "no",
        "outline_color": "230,0,120,255",
        "outline_width": "0.5",
        "outline_width_unit": "MM",
    }
    for key, value in values.items():
        SubElement(options, "Option", type="QString", name=key, value=value)
        SubElement(layer, "prop", k=key, v=value)


def _add_choices(root: Element, column: str, choices: Sequence[str]) -> None:
    """Add a list of choices to the form and the attribute table."""
    field = SubElement(SubElement(root, "fieldConfiguration"), "field", name=column)
    config = SubElement(SubElement(field, "editWidget", type="ValueMap"), "config")
    entries = SubElement(SubElement(config, "Option", type="Map"), "Option", type="List", name="map")
    for choice in map(printable, choices):
        SubElement(SubElement(entries, "Option", type="Map"), "Option", type="QString", name=choice, value=choice)
