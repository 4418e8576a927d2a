"""Classes as QGIS styles describe them: the style a file carries, or a .qml.

QGIS keeps the style of a GeoPackage's layer in the table ``layer_styles`` of the same file, and that of any other file in
``<name>.qml`` beside it. Two kinds say what the classes are called and how they are coloured: *Categorized* for vectors
and *Paletted/Unique values* for rasters. Every other kind says nothing of classes.
"""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.labels.classes import ClassTable, TableEntry
from lianet_user.labels.label_values import plain_text
from lianet_user.labels.palette import normalized_color

# --- XML from files that somebody else made: no entities, no more than a few megabytes.


MAX_BYTES = 16 * 2**20
"""A style with thousands of categories and drawn symbols has a few; embedded images do not belong to classes."""


class _EntitiesError(Exception):
    """A document type that may declare entities, which can grow without bounds or name files."""


def parse_xml(text: str | bytes, source: str, remedy: str) -> Element:
    """The root of a document.

    Args:
        text: of the document. A document type that only names itself, as QGIS writes it, is fine.
        source: where it comes from, for messages.
        remedy: what to do if it cannot be read, for messages.

    Raises:
        LabelError: it is too large, declares entities, or is no XML.
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
        raise LabelError(f"{source} is no readable XML ({error}): {remedy}") from error
    return builder.close()


# ---


SQLITE = b"SQLite format 3\0"
COLOR_OPTIONS = ("color", "line_color")
"""Of fills and markers, and of lines."""

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
        LabelError: it is no XML, more than 16 MB, or declares entities.
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
    """The classes of the style that a file brings: in its table ``layer_styles``, else in a .qml of its name beside it.

    Of several styles for a layer the default one counts (the newest, should several be), else the only one. `path` is
    only ever read, and so is what lies beside it: nothing is created there.

    Warns:
        LabelWarning: there is a style that cannot be read, or several of which none is the default. The labels are
            usable all the same, under their own names.
    """
    try:
        found = _style_in_database(path, layer) or _style_beside(path)
        return parse_style(*found) if found is not None else None
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
    """Of the lowest layer that has one. Since 3.26 QGIS writes options, before that properties, and for long both."""
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
    red, green, blue = map(int, channels)
    return f"#{red:02x}{green:02x}{blue:02x}" if max(red, green, blue) <= 255 else ""


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
    writes. Where a -wal file says that somebody does, what is new lies in there and it has to be read too.
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
