"""What the values of a raster mean, as the file itself or one beside it says.

In the order in which they are believed: the tag that our own maps carry, a QGIS style, GDAL's sidecar with an attribute
table or with category names, ArcGIS's attribute table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from lianet_user.errors import LabelError
from lianet_user.labels.classes import ClassTable, TableEntry
from lianet_user.labels.label_values import plain_text
from lianet_user.labels.palette import normalized_color
from lianet_user.labels.qgis import MAX_BYTES, parse_xml, stored_style

TAG = "CLASSES"
"""As `maps.style.tags` writes it."""

# The numbers of GDALRATFieldUsage (gdal.h).
_NAME, _MIN, _MIN_MAX, _RED, _GREEN, _BLUE = "2", "3", "5", "6", "7", "8"


def class_table(path: Path, band: int, tags: Mapping[str, str]) -> ClassTable | None:
    """The names and colours of a band's values; None if nothing states them.

    Raises:
        LabelError: a file beside the raster that should state them cannot be read.
    """
    return (
        _of_tag(path, tags.get(TAG, ""))
        or stored_style(path, "")
        or _of_sidecar(path.with_name(path.name + ".aux.xml"), band)
        or _of_dbf(path.with_name(path.name + ".vat.dbf"))
    )


def color_table(dataset: Any, band: int) -> dict[str, str]:
    """Colours of the values in a band's colour table. Black is left out: it stands for "not set" as well."""
    try:
        colors = dataset.colormap(band)
    except ValueError:
        return {}
    return {str(value): _color(list(rgba[:3])) for value, rgba in colors.items() if any(rgba[:3])}


def _of_tag(path: Path, text: str) -> ClassTable | None:
    """Of a map that this program wrote; the tag of another program is none of ours."""
    try:
        classes = json.loads(text)
        rows = [(entry["value"], entry["name"], entry.get("color", "")) for entry in classes]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return _table(f"tag {TAG} of {path.name}", rows)


def _of_sidecar(path: Path, band: int) -> ClassTable | None:
    """Of GDAL's PAM file: the attribute table if it has names, else the category names."""
    root = _xml(path)
    if root is None:
        return None
    for element in root.iter("PAMRasterBand"):
        if element.get("band") == str(band):
            table = element.find("GDALRasterAttributeTable")
            rows = [] if table is None else list(_attribute_rows(table))
            names = [(index, entry.text, "") for index, entry in enumerate(element.iterfind("CategoryNames/Category"))]
            return _table(f"attribute table in {path.name}", rows) or _table(f"category names in {path.name}", names)
    return None


def _xml(path: Path) -> Element | None:
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise LabelError(f"{path} is larger than {MAX_BYTES // 2**20} MB, no sidecar of names: take it away")
    return parse_xml(path.read_bytes(), str(path), "take it away or write it anew, it names no classes")


def _attribute_rows(table: Element) -> Iterator[tuple[Any, Any, str]]:
    """Value, name and colour of each row."""
    usages: list[str] = []
    names: list[str] = []
    for definition in table.iterfind("FieldDefn"):
        usages.append(definition.findtext("Usage", ""))
        names.append(definition.findtext("Name", "").lower())

    def column(usage: str, *usual: str) -> int | None:
        if usage in usages:
            return usages.index(usage)
        return next((names.index(name) for name in usual if name in names), None)

    value = column(_MIN_MAX, "value")
    value = column(_MIN) if value is None else value
    name = column(_NAME, "class", "class_name", "classname", "name")
    colors = [column(usage, color) for usage, color in ((_RED, "red"), (_GREEN, "green"), (_BLUE, "blue"))]
    if value is None or name is None:
        return
    for row in table.iterfind("Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        if len(cells) == len(usages):
            yield cells[value], cells[name], _color([None if color is None else cells[color] for color in colors])


def _of_dbf(path: Path) -> ClassTable | None:
    """Of ArcGIS: the column VALUE, the first column of text, and colours if there are any."""
    if not path.is_file():
        return None
    try:
        frame = pyogrio.read_dataframe(path, read_geometry=False)
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        raise LabelError(
            f"{path} cannot be read ({error}): take it away or write it anew, it names no classes"
        ) from error
    columns = {str(name).lower(): name for name in frame.columns}
    text = [name for name in frame.columns if pd.api.types.is_string_dtype(frame[name].dropna())]
    if "value" not in columns or not text:
        return None
    colors = [columns.get(name) for name in ("red", "green", "blue")]
    rows = [
        (row[columns["value"]], row[text[0]], _color([None if name is None else row[name] for name in colors]))
        for _, row in frame.iterrows()
    ]
    return _table(f"attribute table {path.name}", rows)


def _color(parts: list[Any]) -> str:
    """``#rrggbb`` of three numbers from 0 to 255; empty if they are not."""
    try:
        red, green, blue = (int(float(part)) for part in parts)
    except (TypeError, ValueError, OverflowError):
        return ""
    return f"#{red:02x}{green:02x}{blue:02x}" if all(0 <= part <= 255 for part in (red, green, blue)) else ""


def _table(source: str, rows: list[tuple[Any, Any, str]]) -> ClassTable | None:
    """The rows that have a name, the first of each value; None if there are none."""
    entries: dict[str, TableEntry] = {}
    for value, name, color in rows:
        label, name = plain_text(str(value)), plain_text(str(name or ""))
        if label and name:
            entries.setdefault(label, TableEntry(label, name, normalized_color(str(color)) or ""))
    return ClassTable(source, tuple(entries.values())) if entries else None
