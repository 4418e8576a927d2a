"""A text table of points (CSV, TSV) -> columns with types, and the points.

Tables say neither their encoding nor their delimiter nor whether 12,5 is a number. All three are derived from the content, and
what was decided is noted. Only empty cells are null: "NA" may be the name of a class.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from lianet_user.errors import LabelError
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

HEADER_CHARACTERS = 2**16

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
WHOLE = re.compile(r"[-+]?(0|[1-9]\d{0,14})")
CODE = re.compile(r"[-+]?(0\d+|\d{16,})")
"""Digits that a number would lose: leading zeros, or more than float64 holds."""


@dataclass(frozen=True, eq=False)
class PointTable:
    """A table of points as read."""

    frame: pd.DataFrame
    """One row for each feature; whole numbers, floating point or text, null where the cell is empty."""
    coordinates: tuple[str, str]
    """Names of the columns with the coordinates."""
    geometries: Geometries
    """(rows,) points; None where a coordinate is blank."""
    lonlat: bool
    """The columns are called longitude and latitude."""
    notes: tuple[str, ...]


def read_table(path: Path, encoding: str | None, degrees: bool | None) -> PointTable:
    """Read a table of points.

    Args:
        path: text with one line of column names and one line for each point.
        encoding: a name that Python knows; None tries UTF-8, then cp1252.
        degrees: whether the coordinates are degrees; None if only the columns' names can tell.

    Raises:
        LabelError: the text cannot be decoded, rows differ in length, no columns hold coordinates or several pairs do, a
            coordinate is not a number, or degrees are out of range.
    """
    text, notes = _decoded(path, encoding)
    delimiter, header, rows, lines = _split(path, text)
    if not rows:
        raise LabelError(f"{path} is empty below its column names: expected one line for each point")
    pair = _coordinate_columns(path, header)
    cells = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    comma = [name for name in header if delimiter != "," and _has_decimal_commas(cells[name])]
    for name in comma:
        cells[name] = [cell.replace(",", ".") for cell in cells[name]]
    points = np.column_stack([_coordinates(path, name, cells[name], lines) for name in pair])
    lonlat = pair[0].lower() in LONGITUDE
    if lonlat if degrees is None else degrees:
        _check_range(path, pair, points, lines)
    notes.append(
        f"Table: columns separated by {DELIMITERS[delimiter]}, points from the columns {pair[0]!r}, {pair[1]!r}"
    )
    if comma:
        notes.append(f"Table: the decimal comma in {', '.join(map(repr, comma))} is read as a point")
    geometries = np.full(len(rows), None, object)
    known = ~np.isnan(points).any(axis=1)
    geometries[known] = shapely.points(points[known])
    frame = pd.DataFrame({name: _typed(values) for name, values in cells.items()})
    return PointTable(frame, pair, geometries, lonlat, tuple(notes))


def _decoded(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    data = path.read_bytes()
    if encoding is None and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), []
        except UnicodeError as error:
            raise LabelError(f"{path} cannot be decoded as {encoding}: give the right one with `encoding`") from error
    try:
        return data.decode("utf-8-sig"), []
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
        return any(set(pair) <= names for pair in PAIRS), len(names)

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


def _coordinate_columns(path: Path, header: Sequence[str]) -> tuple[str, str]:
    by_name: dict[str, list[str]] = {}
    for name in header:
        by_name.setdefault(name.lower(), []).append(name)
    pairs = [(one, other) for x, y in PAIRS for one in by_name.get(x, []) for other in by_name.get(y, [])]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        shown = " and ".join(f"{x!r}, {y!r}" for x, y in pairs)
        raise LabelError(f"{path} has several pairs of columns with coordinates ({shown}): keep only one of them")
    raise LabelError(
        f"{path} has no columns with usual names of coordinates: it has {', '.join(header[:20])}; name them"
        " lon and lat (degrees), or x and y or easting and northing"
    )


def _has_decimal_commas(cells: Sequence[str]) -> bool:
    """Every cell is a number or empty, some have a comma, and none has a point."""
    given = [cell.strip() for cell in cells if cell.strip()]
    commas = any("," in cell for cell in given)
    return commas and all("." not in cell and NUMBER.fullmatch(cell.replace(",", ".")) for cell in given)


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


def _check_range(path: Path, pair: tuple[str, str], points: NDArray[np.float64], lines: Sequence[int]) -> None:
    beyond = (np.abs(points) > (180, 90)).any(axis=1)
    if not beyond.any():
        return
    index = int(np.argmax(beyond))
    known = points[~np.isnan(points).any(axis=1)]
    x, y = (float(value) for value in points[index])
    advice = (
        "the two columns seem to be exchanged: rename them"
        if (np.abs(known) <= (90, 180)).all()
        else "if they are not degrees, give their CRS with `labels_crs`, for instance EPSG:25833"
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
