"""Tables of classes: the codes, names and colours that a file states, in or beside it, or that a user lists.

A user gives a CSV file or a QGIS style. QGIS keeps the style of a GeoPackage's layer in the table ``layer_styles`` of the
same file, and that of any other file in ``<name>.qml`` beside it; only its kinds *Categorized* (vectors) and
*Paletted/Unique values* (rasters) describe classes. Rasters may also bring the tag that our own maps carry, GDAL's
sidecar with an attribute table or with category names, or ArcGIS's attribute table, and are believed in this order,
with a QGIS style after the tag.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from lianet_user.errors import LabelError, LabelWarning, listed
from lianet_user.labels.label_values import plain_text

MAX_BYTES = 16 * 2**20
"""A style with thousands of categories and drawn symbols has a few; embedded images do not belong to classes."""

LABEL_COLUMNS = ("code", "value", "class", "label")
NAME_COLUMNS = ("name", "label", "class")
COLOR_COLUMNS = ("color", "colour")

_HEX = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})")


@dataclass(frozen=True)
class TableEntry:
    """One class as a table or style describes it."""

    label: str
    """The value of the labels: a text or a whole number."""
    name: str
    color: str = ""
    """``#rrggbb``, or empty."""


@dataclass(frozen=True)
class ClassTable:
    """Classes as a table, a QGIS style or a raster's category names describe them, in their order."""

    source: str
    """Where they are stated, for messages: "QGIS style 'land use' in labels.gpkg"."""
    entries: tuple[TableEntry, ...]
    column: str = ""
    """The column that a style is for; empty where it does not state one."""


def normalized_color(text: str) -> str | None:
    """``#RGB`` or ``#RRGGBB`` in any case as ``#rrggbb``; None if it is neither."""
    color = text.strip().lower()
    if not _HEX.fullmatch(color):
        return None
    return color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])


# --- What a user lists with `classes`: a CSV file or a QGIS style.


def read_class_table(path: Path) -> ClassTable:
    """The classes that a user lists: a QGIS style (.qml), or a CSV file with the columns code, name and color.

    A table has a header and is separated by semicolons, commas or tabs; it is UTF-8 or, failing that, Windows-1252. The
    code is the value of the labels. In the header it may also be called `value`, `class` or `label`; where two of these
    occur without a `name`, the later of class and label is the name. One of code and name is enough. Codes that share a
    name are one class.

    Raises:
        LabelError: the file is missing, is neither of the two, lists a code twice, or has a colour that is not one.
    """
    expected = "expected a CSV file with the columns code, name and color, or a QGIS style (.qml)"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise LabelError(f"`classes` {path} cannot be read ({error.strerror}): {expected}") from error
    if path.suffix.lower() == ".qml":
        table = parse_style(content, f"QGIS style {path}")
        if table is None:
            raise LabelError(
                f"`classes` {path} is a QGIS style without classes: expected the kind Categorized on a column (not on an"
                " expression) or, for a raster, Paletted/Unique values; save such a style with QGIS or give a CSV file"
            )
        return table
    if len(content) > MAX_BYTES or content.startswith(b"PK") or (text := decoded(content)) is None:
        raise LabelError(f"`classes` {path} is not a text table: {expected}")
    entries = _table_entries(text, f"`classes` {path}")
    return ClassTable(f"table {path}", entries)


def decoded(content: bytes) -> str | None:
    """Text as UTF-8, as spreadsheets save "Unicode text" (UTF-16), or as Windows-1252; None if it is none of these."""
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if "\0" in text else text
    return None


def _table_entries(text: str, source: str) -> tuple[TableEntry, ...]:
    delimiter = csv_delimiter(text, {*LABEL_COLUMNS, *NAME_COLUMNS, *COLOR_COLUMNS})
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    entries: dict[str, TableEntry] = {}
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        label_at, name_at, color_at = _header_columns(header, source)
        for row in rows:
            cells = [" ".join(cell.split()) for cell in row]
            line = f"{source}, line {rows.line_num}"
            if any(cells[len(header) :]):
                raise LabelError(
                    f"{line}: {len(cells)} columns, where the header has {len(header)}: quote a cell that"
                    f" contains {delimiter!r}"
                )
            cells += [""] * (len(header) - len(cells))
            label, name = (plain_text(cells[at]) if at is not None else "" for at in (label_at, name_at))
            given = cells[color_at] if color_at is not None else ""
            label, name = label or name, name or label
            if not label:
                if any(cells):
                    raise LabelError(f"{line}: neither a code nor a name: fill one in, or delete the line")
                continue
            if label in entries:
                raise LabelError(f"{line}: {label!r} is listed twice: delete one of the lines")
            color = normalized_color(given) if given else ""
            if color is None:
                raise LabelError(f"{line}: {given!r} is not a colour: expected one such as #1f77b4, or an empty cell")
            entries[label] = TableEntry(label, name, color)
    except csv.Error as error:
        raise LabelError(f"{source}, line {rows.line_num}: {error}: save it again as CSV") from error
    if not entries:
        raise LabelError(f"{source} lists no classes: expected a line for each below the header")
    return tuple(entries.values())


def csv_delimiter(text: str, known: Collection[str]) -> str:
    """The delimiter with which the first line has the most columns of known names."""
    first = text.split("\n", 1)[0].strip()

    def known_columns(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"').lower() for cell in first.split(delimiter)]
        return len(set(known).intersection(cells)), len(cells)

    return max(";\t,", key=known_columns)


def _header_columns(header: list[str], source: str) -> tuple[int | None, int | None, int | None]:
    """Indices of the columns code, name and colour; None for a missing one."""
    label = next((column for column in LABEL_COLUMNS if column in header), None)
    name = next((column for column in NAME_COLUMNS if column in header and column != label), None)
    color = next((column for column in COLOR_COLUMNS if column in header), None)
    if label is None and name is None:
        raise LabelError(
            f"{source} has no usable columns (found: {listed(header)}): expected code or name or both, and optionally color,"
            " in the first line"
        )
    for column in (label, name, color):
        if column is not None and header.count(column) > 1:
            raise LabelError(f"{source} has two columns called {column!r}: rename one of them")
    at = [None if column is None else header.index(column) for column in (label, name, color)]
    return at[0], at[1], at[2]


# --- QGIS styles: stored with the labels, or a .qml.


SQLITE = b"SQLite format 3\0"
COLOR_OPTIONS = ("color", "line_color")
"""Names of the colour options: of fills and markers, and of lines."""

_QUOTED = re.compile(r'"((?:[^"]|"")+)"')
_EXPRESSION = re.compile(r"""["'()|+*/=<>\[\]$@,]""")


def parse_style(text: str | bytes, source: str) -> ClassTable | None:
    """The classes of a style.

    The category without a value ("all other values") is left out. A category of several values gives one entry for each,
    all with the category's name. A category without a label is called what its value is.

    Args:
        text: the style as QGIS writes it (QML), of any version since 2.
        source: what it is called in :attr:`ClassTable.source` and in errors.

    Returns:
        The classes in their order, or None if the style draws something other than one class per value of a column: a
        single symbol, ranges, rules, or the values of an expression.

    Raises:
        LabelError: it is not XML, is larger than 16 MB, or declares entities.
    """
    root = parse_xml(text, source, "save the style with QGIS, as .qml")
    for renderer in root.iter("renderer-v2"):
        # A cluster or an inverted polygon wraps the renderer that knows the categories.
        if renderer.get("type") == "categorizedSymbol":
            column = _column(renderer.get("attr", ""))
            entries = tuple(_category_entries(renderer))
            return ClassTable(source, entries, column) if column and entries else None
    for renderer in root.iter("rasterrenderer"):
        if renderer.get("type") == "paletted":
            entries = tuple(_palette_entries(renderer))
            return ClassTable(source, entries) if entries else None
    return None


def stored_style(path: Path, layer: str) -> ClassTable | None:
    """The classes of the style stored with a file: in its table ``layer_styles``, else in a .qml of its name beside it.

    Of several styles for a layer the default one counts (the newest of several defaults), else the only one. `path` and
    the files beside it are only read: nothing is created there.

    Warns:
        LabelWarning: there is a style that cannot be read, or several of which none is the default. The labels are
            usable all the same, under their own names.
    """
    try:
        style = _style_in_database(path, layer) or _style_beside(path)
        return parse_style(*style) if style is not None else None
    except LabelError as error:
        warnings.warn(f"{path}: no names or colours are taken from its style: {error}", LabelWarning, stacklevel=2)
        return None


def _column(attribute: str) -> str:
    """The column that a renderer classifies by; empty if it is an expression."""
    attribute = attribute.strip()
    if quoted := _QUOTED.fullmatch(attribute):
        return quoted[1].replace('""', '"')
    return "" if _EXPRESSION.search(attribute) else attribute


def _category_entries(renderer: Element) -> Iterator[TableEntry]:
    colors = {symbol.get("name"): _symbol_color(symbol) for symbol in renderer.iterfind("symbols/symbol")}
    for category in renderer.iterfind("categories/category"):
        color = colors.get(category.get("symbol"), "")
        for holder in (category,) if "value" in category.attrib else category.iterfind("val"):
            value, kind = holder.get("value", ""), holder.get("type", "")
            if kind == "NULL" or not (label := plain_text(value)):
                continue
            # Columns of true and false are read as True and False.
            label = label.capitalize() if kind == "bool" else label
            yield TableEntry(label, plain_text(category.get("label", "")) or label, color)


def _symbol_color(symbol: Element) -> str:
    """The colour of the lowest symbol layer that has one. QGIS wrote properties before 3.26, options since, and long both."""
    for layer in symbol.iterfind("layer"):
        options = {entry.get("name"): entry.get("value", "") for entry in layer.iterfind("Option/Option")}
        properties = {entry.get("k"): entry.get("v", "") for entry in layer.iterfind("prop")}
        for key in COLOR_OPTIONS:
            if color := _hex_color(options.get(key) or properties.get(key) or ""):
                return color
    return ""


def _hex_color(text: str) -> str:
    """ "r,g,b,a", with or without the same once more as "rgb:..." behind it, as ``#rrggbb``; empty if it is neither."""
    channels = text.split(",")[:3]
    if len(channels) < 3 or not all(re.fullmatch("[0-9]{1,3}", channel) for channel in channels):
        return normalized_color(text) or ""
    return _color(channels)


def _palette_entries(renderer: Element) -> Iterator[TableEntry]:
    for entry in renderer.iterfind("colorPalette/paletteEntry"):
        if label := plain_text(entry.get("value", "")):
            name = plain_text(entry.get("label", "")) or label
            yield TableEntry(label, name, normalized_color(entry.get("color", "")) or "")


def _style_in_database(path: Path, layer: str) -> tuple[str | bytes, str] | None:
    """QML and source of the layer's style in a GeoPackage or SpatiaLite file."""
    # A file geodatabase is a folder.
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if file.read(len(SQLITE)) != SQLITE:
                return None
        styles = _layer_styles(path, layer)
    except (OSError, sqlite3.Error) as error:
        raise LabelError(f"its table layer_styles cannot be read ({error})") from error
    if not styles:
        return None
    defaults = [style for style in styles if str(style[1]).lower() in ("1", "true", "t")]
    if not defaults and len(styles) > 1:
        names = ", ".join(repr(name) for name, _, _ in styles)
        raise LabelError(f"it has {len(styles)} ({names}) and none is the default: make one the default in QGIS")
    name, _, qml = (defaults or styles)[0]
    return qml, f"QGIS style {name!r} in {path.name}"


def _layer_styles(path: Path, layer: str) -> list[tuple[str, object, str | bytes]]:
    """Name, "is default" and QML of each style of a layer, the newest first.

    SQLite creates files beside a database that was left in WAL mode, even to read it, unless it is told that nobody
    writes to it. A -wal file means that somebody may: it holds the newest content and has to be read too.
    """
    writing = path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.resolve().as_uri()}?{'mode=ro' if writing else 'immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE lower(name) = 'layer_styles'").fetchone():
            return []
        names = {str(row[1]).lower() for row in database.execute("PRAGMA table_info(layer_styles)")}
        if not {"f_table_name", "styleqml"} <= names:
            return []
        columns = ", ".join(
            name if name.lower() in names else f"'' AS {name}" for name in ("styleName", "useAsDefault", "update_time")
        )
        query = (
            f"SELECT {columns}, substr(styleQML, 1, {MAX_BYTES + 1}) FROM layer_styles"
            " WHERE f_table_name = ? AND length(styleQML) > 0 ORDER BY update_time DESC, rowid DESC"
        )
        return [(str(name or ""), default, qml) for name, default, _, qml in database.execute(query, [layer])]


def _style_beside(path: Path) -> tuple[bytes, str] | None:
    style = path.with_suffix(".qml")
    if style == path or not style.is_file():
        return None
    try:
        with style.open("rb") as file:
            return file.read(MAX_BYTES + 1), f"QGIS style {style.name}"
    except OSError as error:
        raise LabelError(f"{style.name} cannot be read ({error.strerror})") from error


# --- The names and colours of a raster's values, in the file itself or beside it.

TAG = "CLASSES"
"""The tag of a map with its classes, as `maps.style.tags` writes it."""

# The numbers of GDALRATFieldUsage (gdal.h).
_NAME, _MIN, _MIN_MAX, _RED, _GREEN, _BLUE = "2", "3", "5", "6", "7", "8"


def raster_class_table(path: Path, band: int, tags: Mapping[str, str]) -> ClassTable | None:
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


def raster_colors(dataset: Any, band: int) -> dict[str, str]:
    """Colours of the values in a band's colour table. Black is left out: it stands for "not set" as well."""
    try:
        colors = dataset.colormap(band)
    except ValueError:
        return {}
    return {str(value): _color(rgba[:3]) for value, rgba in colors.items() if any(rgba[:3])}


def _of_tag(path: Path, text: str) -> ClassTable | None:
    """The classes in the tag of a map that this program wrote; a tag of another program is ignored."""
    try:
        classes = json.loads(text)
        rows = [(entry["value"], entry["name"], entry.get("color", "")) for entry in classes]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return _table(f"tag {TAG} of {path.name}", rows)


def _of_sidecar(path: Path, band: int) -> ClassTable | None:
    """The classes in GDAL's PAM file: its attribute table if that has names, else its category names."""
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
        raise LabelError(f"{path} is larger than {MAX_BYTES // 2**20} MB, too much for names of classes: remove it")
    return parse_xml(path.read_bytes(), str(path), "remove it or write it again, no class names can be read from it")


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
    """The classes in ArcGIS's attribute table: its column VALUE, its first column of text, and colours if there are any."""
    if not path.is_file():
        return None
    import pandas as pd  # half a second, which nobody else needs to wait for
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        frame = pyogrio.read_dataframe(path, read_geometry=False)
    except (DataSourceError, DataLayerError, UnicodeDecodeError) as error:
        raise LabelError(
            f"{path} cannot be read ({error}): remove it or write it again, no class names can be read from it"
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


def _color(parts: Sequence[Any]) -> str:
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


# --- XML from unknown sources: without entities, and no larger than a few megabytes.


class _EntitiesError(Exception):
    """The document type may declare entities, which can grow without bounds or name files."""


def parse_xml(text: str | bytes, source: str, remedy: str) -> Element:
    """The root of a document.

    Args:
        text: of the document. A document type that only names itself, as QGIS writes it, is fine.
        source: where it comes from, for messages.
        remedy: what to do if it cannot be read, for messages.

    Raises:
        LabelError: it is too large, declares entities, or is not XML.
    """
    if len(text) > MAX_BYTES:
        raise LabelError(f"{source} is larger than {MAX_BYTES // 2**20} MB: {remedy}")
    builder = TreeBuilder()

    def doctype(_name: str, _system: str | None, _public: str | None, has_subset: bool) -> None:
        if has_subset:
            raise _EntitiesError

    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except _EntitiesError as error:
        raise LabelError(
            f"{source} declares entities in its document type, which no such file needs: {remedy}"
        ) from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise LabelError(f"{source} is not readable XML ({error}): {remedy}") from error
    return builder.close()
