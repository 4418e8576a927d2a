"""A text table (CSV, TSV) of points, or of geometries as text -> columns with types, and the geometries.

Tables say neither their encoding nor their delimiter nor whether 12,5 is a number. All three are derived from the content, and
what was decided is noted; where 1.100 may be two numbers, the column cannot be read. Only empty cells are null: "NA" may be
the name of a class.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
import shapely.errors
from numpy.typing import NDArray

from lianet_user.errors import LabelError, listed
from lianet_user.geo.grid import likely_crs
from lianet_user.labels.ground import Geometries

DELIMITERS = {";": "semicolons", ",": "commas", "\t": "tabs", "|": "vertical bars"}

LONGITUDE = ("lon", "long", "lng", "longitude", "laenge", "länge")
LATITUDE = ("lat", "latitude", "breite")
PROJECTED = (
    ("x", "y"),
    ("easting", "northing"),
    ("rechtswert", "hochwert"),
    ("ostwert", "nordwert"),
    ("coord_x", "coord_y"),
    ("e", "n"),
)
PAIRS = (*itertools.product(LONGITUDE, LATITUDE), *PROJECTED)
GEOMETRY = ("geometry", "wkt", "the_geom", "geom", ".geo")
"""Columns with a geometry as text: WKT, with its SRID or without, GeoJSON (Earth Engine's ``.geo``), or WKB in hexadecimal."""
PLACES = (*((name,) for name in GEOMETRY), *PAIRS)
OF_EARTH_ENGINE = (".geo", "system:index")
"""Columns that hold no labels, whether there is a geometry in the first of them or not."""

DEGREES = "EPSG:4326"
HEADER_CHARACTERS = 2**16

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}[.,]\d{3}")
"""One thousand, or one and some thousandths."""
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?|[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
SRID = re.compile(r"SRID=(\d+);", re.IGNORECASE)
NOWHERE = re.compile(r'"coordinates"\s*:\s*\[\s*\]')
GEOJSON_CRS = re.compile(r'"properties"\s*:\s*\{\s*"name"\s*:\s*"([^"]+)"')
HEXADECIMAL = re.compile(r"0[01][0-9a-fA-F]+")
WHOLE = re.compile(r"[-+]?(0|[1-9]\d{0,14})")
CODE = re.compile(r"[-+]?(0\d+|\d{16,})")
"""Digits that a number would lose: leading zeros, or more than float64 holds."""


@dataclass(frozen=True, eq=False)
class PointTable:
    """A table of points or other geometries as read."""

    frame: pd.DataFrame
    """One row for each feature; whole numbers, floating point or text, null where the cell is empty."""
    no_labels: tuple[str, ...]
    """Names of the columns with the coordinates or geometries."""
    geometries: Geometries
    """(rows,) points, or what the column of geometries holds; None where a coordinate or cell is blank."""
    crs: str | None
    """As names of columns (longitude and latitude), SRIDs or GeoJSON state it; None if nothing does."""
    doubtful: Mapping[str, str]
    """Columns whose numbers may be read in two ways, which nobody may read: the question that each raises."""
    notes: tuple[str, ...]


def read_table(path: Path, encoding: str | None, degrees: bool | None, *, points: bool = True) -> PointTable:
    """Read a table of points or of geometries as text.

    Args:
        path: text with one line of column names and one line for each feature.
        encoding: a name that Python knows; None tries UTF-8, then cp1252.
        degrees: whether the coordinates are degrees; None if only the columns' names can tell, or that they are GeoJSON.
        points: whether points will do, or geometries of their own are expected.

    Raises:
        LabelError: the text cannot be decoded, rows differ in length, no columns hold coordinates or several do, a
            coordinate is not a number, a cell is no geometry, or degrees are out of range.
    """
    text, notes = _decoded(path, encoding)
    delimiter, header, rows, lines = _split(path, text)
    if not rows:
        raise LabelError(f"{path} is empty below its column names: expected one line for each point")
    cells = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    # Earth Engine writes the column for tables without geometries too.
    place = _coordinate_columns(path, [name for name in header if not all(map(NOWHERE.search, cells[name]))])
    if len(place) == 2 and not points:
        raise LabelError(f"{path} is a table of points: expected polygons, for instance in a GeoPackage")
    lonlat = place[0].lower() in LONGITUDE
    in_degrees = lonlat if degrees is None else degrees
    comma, doubtful = _number_styles(path, cells, delimiter, certain=place if in_degrees else ())
    for name in comma:
        cells[name] = [cell.replace(",", ".") for cell in cells[name]]
    if asked := [doubtful[name] for name in place if name in doubtful]:
        raise LabelError(asked[0])
    if len(place) == 1:
        geometries, crs = _geometries(path, place[0], cells[place[0]], lines, DEGREES if degrees is None else None)
        what = "geometries from the column"
    else:
        pairs = np.column_stack([_coordinates(path, name, cells[name], lines) for name in place])
        if in_degrees:
            _check_range(path, place, pairs, lines)
        geometries = np.full(len(rows), None, object)
        known = ~np.isnan(pairs).any(axis=1)
        geometries[known] = shapely.points(pairs[known])
        crs = DEGREES if lonlat and degrees is None else None
        what = "points from the columns"
    notes.append(f"Table: columns separated by {DELIMITERS[delimiter]}, {what} {', '.join(map(repr, place))}")
    if comma:
        notes.append(f"Table: the decimal comma in {', '.join(map(repr, comma))} is read as a point")
    frame = pd.DataFrame({name: _typed(values) for name, values in cells.items()})
    return PointTable(
        frame=frame,
        no_labels=(*place, *OF_EARTH_ENGINE),
        geometries=geometries,
        crs=crs,
        doubtful=doubtful,
        notes=tuple(notes),
    )


def _decoded(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if encoding is None and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), []
        except UnicodeError as error:
            raise LabelError(f"{path} cannot be decoded as {encoding}: give the right one with `encoding`") from error
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is neither UTF-8 nor cp1252: give its encoding with `encoding`") from error
    # Split at ASCII white space only: a no-break space may be the very character that is not ASCII.
    example = next(word for word in re.split("[ \t\r\n]+", text) if not word.isascii())
    return text, [f"Text: {path.name} is not UTF-8, read as cp1252 ({example[:40]!r}); `encoding` overrides this"]


def _split(path: Path, text: str) -> tuple[str, list[str], list[list[str]], list[int]]:
    """Delimiter, column names, rows, and the line on which each row ends."""
    start, delimiter = 0, None
    # Excel writes and reads the delimiter on a line of its own.
    if declared := re.match(r"sep=(.)\r?\n", text):
        start, delimiter = declared.end(), declared[1]
        if delimiter not in DELIMITERS:
            raise LabelError(f"{path}: its columns are separated by {delimiter!r}: expected one of ; , tab |")
    body = text[start:]
    offset = 1 if start else 0
    if delimiter is None:
        delimiter = _sniffed(body)
    csv.field_size_limit(max(csv.field_size_limit(), len(body)))  # an outline is longer than Python allows a cell to be
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    header: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = row
                continue
            if len(row) != len(header):
                raise LabelError(
                    f"{path}: line {reader.line_num + offset} has {len(row)} cells and the header {len(header)}, separated"
                    f" by {DELIMITERS[delimiter]}: quote a cell that contains one"
                )
            rows.append(row)
            lines.append(reader.line_num + offset)
    except csv.Error as error:
        raise LabelError(
            f"{path}: line {reader.line_num + offset} is not a row of a table ({error}): correct it"
        ) from error
    if header is None:
        raise LabelError(f"{path} has no line with column names: expected a table of points")
    header, rows = _named(path, header, rows)
    return delimiter, header, rows, lines


def _sniffed(body: str) -> str:
    """The delimiter that finds coordinate columns in the header, else the one that finds most columns."""

    def header(delimiter: str) -> list[str]:
        try:
            rows = csv.reader(io.StringIO(body[:HEADER_CHARACTERS], newline=""), delimiter=delimiter)
            return next((row for row in rows if row), [])
        except csv.Error:
            return []

    def merit(delimiter: str) -> tuple[bool, int]:
        names = {name.strip().lower() for name in header(delimiter)}
        return any(set(place) <= names for place in PLACES), len(names)

    return max(DELIMITERS, key=merit)


def _named(path: Path, header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Column names without blanks; columns that have neither a name nor content are left out."""
    names = [name.strip() for name in header]
    kept = [index for index, name in enumerate(names) if name or any(row[index].strip() for row in rows)]
    if unnamed := [index + 1 for index in kept if not names[index]]:
        raise LabelError(f"{path}: column {unnamed[0]} has no name in the first line: give it one")
    names = [names[index] for index in kept]
    if twice := [name for name in names if names.count(name) > 1]:
        raise LabelError(f"{path} has two columns called {twice[0]!r}: rename one of them")
    if len(kept) < len(header):
        rows = [[row[index] for index in kept] for row in rows]
    return names, rows


def _coordinate_columns(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    """The two columns with coordinates, or the one with geometries."""
    by_name: dict[str, list[str]] = {}
    for name in header:
        by_name.setdefault(name.lower(), []).append(name)
    places = [names for place in PLACES for names in itertools.product(*(by_name.get(name, []) for name in place))]
    if len(places) == 1:
        return places[0]
    if places:
        shown = " and ".join(", ".join(map(repr, names)) for names in places)
        raise LabelError(
            f"{path} has several pairs of columns with coordinates, or geometries beside them ({shown}): keep only one of them"
        )
    raise LabelError(
        f"{path} has no columns with usual names of coordinates: it has {listed(header)}; name them lon and lat (degrees),"
        " or x and y or easting and northing, or one column of WKT geometry"
    )


def _number_styles(
    path: Path, cells: Mapping[str, Sequence[str]], delimiter: str, certain: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Columns with decimal commas, and the question that each column raises whose numbers may be read in two ways.

    What all columns hold decides: 1.100 is a decimal in a table without decimal commas, and 1,100 in one that has them. Columns
    that are `certain` hold degrees, which never reach a thousand.
    """
    given = {name: [cell.strip() for cell in column if cell.strip()] for name, column in cells.items()}
    points = [name for name, column in given.items() if _has_decimals(column, ".")]
    commas = [name for name, column in given.items() if _has_decimals(column, ",")]
    mixed = [name for name, column in given.items() if name not in (*points, *commas) and _is_mixed(column)]
    grouped = {name for name in given if name not in certain and all(map(_may_be_grouped, given[name]))}
    asked = [name for name in points if name in grouped and (commas or mixed)]
    if grouped.issuperset(commas) and (points or mixed or delimiter == ","):
        asked += commas
    doubtful = {}
    for name in (*asked, *mixed):
        example = next(cell for cell in given[name] if "." in cell or "," in cell)
        where = f"{path}: {example[:40]!r} in the column {name!r}"
        whole = re.sub("[.,]", "", example)
        doubtful[name] = (
            f"{where} is {whole} or {float(example.replace(',', '.')):g}: write {whole}, or {example}0 for a decimal"
            if name in asked
            else f"{where} is a number in a column with thousands separators, or with points and commas mixed: write all of its"
            " numbers without separators and with a decimal point"
        )
    return [name for name in commas if name not in doubtful], doubtful


def _has_decimals(given: Sequence[str], mark: str) -> bool:
    """Every cell is a number, and some have this mark and none the other."""
    other = "," if mark == "." else "."
    some = any(mark in cell for cell in given)
    return some and all(other not in cell and NUMBER.fullmatch(cell.replace(mark, ".")) for cell in given)


def _may_be_grouped(cell: str) -> bool:
    return bool(GROUPED.fullmatch(cell)) or cell.lstrip("+-").isdecimal()


def _is_mixed(given: Sequence[str]) -> bool:
    """Every cell is a number in some country, but not all of them in the same, or some with thousands separators."""
    marked = any("." in cell or "," in cell for cell in given)
    return marked and all(THOUSANDS.fullmatch(cell) or NUMBER.fullmatch(cell.replace(",", ".")) for cell in given)


def _geometries(
    path: Path, name: str, cells: Sequence[str], lines: Sequence[int], of_geojson: str | None
) -> tuple[Geometries, str | None]:
    """(rows,) geometries, None where the cell is blank, and the CRS that they state."""
    geometries = np.full(len(cells), None, object)
    stated: dict[str | None, int] = {}
    for index, cell in enumerate(cells):
        text = cell.strip()
        if not text:
            continue
        crs: str | None = None
        try:
            if text.startswith("{"):
                geometry = shapely.from_geojson(text)
                crs = match[1] if (match := GEOJSON_CRS.search(text)) else of_geojson
            elif HEXADECIMAL.fullmatch(text):
                geometry = shapely.from_wkb(text)
            else:
                geometry = shapely.from_wkt(SRID.sub("", text, count=1))
        except (shapely.errors.ShapelyError, NotImplementedError) as error:
            raise LabelError(
                f"{path}: line {lines[index]}: {text[:40]!r} in the column {name!r} is not a geometry: expected WKT such as"
                " POINT (12.5 52.4), GeoJSON, or an empty cell"
            ) from error
        if srid := int(match[1]) if (match := SRID.match(text)) else shapely.get_srid(geometry):
            crs = f"EPSG:{srid}"
        geometries[index] = geometry
        stated.setdefault(crs, lines[index])
    if len(stated) > 1:
        shown = listed([f"{crs or 'none'} in line {line}" for crs, line in stated.items()], 4)
        raise LabelError(
            f"{path}: the geometries of the column {name!r} state several CRS ({shown}): bring them to one"
        )
    return geometries, next(iter(stated), None)


def _coordinates(path: Path, name: str, cells: Sequence[str], lines: Sequence[int]) -> NDArray[np.float64]:
    values = np.full(len(cells), np.nan)
    for index, cell in enumerate(cells):
        text = cell.strip()
        if NUMBER.fullmatch(text):
            values[index] = float(text)
        elif text and text.lower() != "nan":
            raise LabelError(
                f"{path}: line {lines[index]}: {text[:40]!r} in the column {name!r} is not a number: expected a coordinate"
                " such as 12.5, without units or thousands separators, or an empty cell"
            )
    return values


def _check_range(path: Path, pair: Sequence[str], points: NDArray[np.float64], lines: Sequence[int]) -> None:
    beyond = (np.abs(points) > (180, 90)).any(axis=1)
    if not beyond.any():
        return
    index = int(np.argmax(beyond))
    known = points[~np.isnan(points).any(axis=1)]
    x, y = (float(value) for value in points[index])
    advice = (
        "the two columns seem to be exchanged: rename them"
        if (np.abs(known) <= (90, 180)).all()
        else f"if they are not degrees, give their CRS with `labels_crs`, for instance {likely_crs((x, y, x, y))}"
    )
    raise LabelError(
        f"{path}: line {lines[index]}: {pair[0]} {x:g}, {pair[1]} {y:g} is not a longitude and latitude in degrees: {advice}"
    )


def _typed(cells: Sequence[str]) -> pd.Series:
    """Numbers where every cell is one or empty, else text; codes such as 007 stay text."""
    given = [cell.strip() for cell in cells if cell.strip()]
    if given and all(NUMBER.fullmatch(cell) for cell in given) and not any(CODE.fullmatch(cell) for cell in given):
        if len(given) == len(cells) and all(WHOLE.fullmatch(cell) for cell in given):
            return pd.Series([int(cell) for cell in given], dtype="int64")
        # Stripped as they were when they were looked at: float() knows less white space than strip() does.
        return pd.Series([float(cell.strip()) if cell.strip() else np.nan for cell in cells], dtype="float64")
    return pd.Series([cell or None for cell in cells])
