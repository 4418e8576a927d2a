"""How frequent a head takes the classes to be: what may be asked for, tables of areas, and how it is stored and said.

Polygons that somebody drew say where a class is and not how much of it there is, and a head that takes the first for the second
maps too much of what was drawn generously. Who knows the areas, as `zones` and `evaluate --areas` write them, states them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from lianet_user.errors import InputError, brief, did_you_mean, listed
from lianet_user.files.header import ClassEntry
from lianet_user.labels import Labels
from lianet_user.labels.class_tables import MAX_BYTES, csv_delimiter, decoded

Prior = Literal["labels", "tempered", "equal"] | tuple[float, ...]
"""As the labels have them, in proportion to the square roots of that, all alike, or in the shares that are given, in the order
of the classes; what these sum to does not matter."""

PRIOR_POWERS = {"labels": 1.0, "tempered": 0.5, "equal": 0.0}
"""Powers of the labels' frequencies."""

AREA = "area:"
"""Before the name of a table of areas."""

CLASS_COLUMNS = ("class", "name")
AREA_COLUMNS = ("area", "share", "area_ha", "ha")
ZONE_COLUMN = "ha_"
"""Before the name of a class in the columns of `zones`."""


def check_prior(prior: Prior, classes: Sequence[ClassEntry]) -> None:
    """Refuse a prior that does not suit the labels.

    Raises:
        InputError: it is neither a word of :data:`PRIOR_POWERS` nor a number above 0 for each class.
    """
    if isinstance(prior, str):
        if prior not in PRIOR_POWERS:
            raise InputError(
                f"`prior` {brief(prior)!r}: expected {', '.join(PRIOR_POWERS)}, or as many shares as there are classes"
                f"{did_you_mean(prior, PRIOR_POWERS)}"
            )
        return
    if not classes:
        raise InputError(_OF_NUMBERS)
    if len(prior) != len(classes):
        raise InputError(
            f"`prior` has {len(prior)} shares, and the labels have {len(classes)} classes"
            f" ({listed([entry.name for entry in classes])}): give one for each, in this order"
        )
    for share, entry in zip(prior, classes, strict=True):
        _checked(share, f"`prior`: the share of {entry.name!r}")


def parse_prior(text: str, classes: Sequence[ClassEntry]) -> Prior:
    """The prior that was typed: a word of :data:`PRIOR_POWERS`, or `area:FILE`.

    Raises:
        InputError: it is neither, the labels are numbers, or the file does not have an area for each class.
    """
    if not classes:
        raise InputError(_OF_NUMBERS)
    if text.startswith(AREA):
        return read_areas(Path(text.removeprefix(AREA)), classes)
    if text not in PRIOR_POWERS:
        raise InputError(
            f"`prior` {brief(text)!r}: expected {', '.join(PRIOR_POWERS)} or {AREA}FILE{did_you_mean(text, PRIOR_POWERS)}"
        )
    return text  # type: ignore[return-value]  # one of the words


_OF_NUMBERS = "`prior` says how frequent classes are, and the labels are numbers: omit it"


# --- Tables of areas.


def read_areas(path: Path, classes: Sequence[ClassEntry]) -> tuple[float, ...]:
    """The shares of the classes, in their order, from a table of their areas.

    It is a CSV file with the columns class and area (or share), JSON with a list of the same, what `zones` writes as CSV, or
    what `evaluate --areas --json` prints. Units do not matter.

    Raises:
        InputError: the file cannot be read, lacks a class, has one more or one twice, or an area is not above 0.
    """
    source = f"`prior` {path}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}): {_EXPECTED}") from error
    text = decoded(content) if len(content) <= MAX_BYTES else None
    if text is None:
        raise InputError(f"{source} is not a text table: {_EXPECTED}")
    rows = _json_rows(text, source) if text.lstrip()[:1] in ("{", "[") else _csv_rows(text, source)
    names = [entry.name for entry in classes]
    areas: dict[str, float] = {}
    for where, name, area in rows:
        if name not in names:
            raise InputError(
                f"{where}: {brief(name)!r} is not a class of the labels: expected {listed(names)}{did_you_mean(name, names)}"
            )
        if name in areas:
            raise InputError(f"{where}: {name!r} is listed twice: expected one area for each class")
        areas[name] = _checked(area, f"{where}: the area of {name!r}")
    if missing := [name for name in names if name not in areas]:
        raise InputError(f"{source} has no area of {listed(missing)}: expected one for each class of the labels")
    total = math.fsum(areas.values())
    return tuple(float(f"{areas[name] / total:.6g}") for name in names)


_EXPECTED = "expected a CSV file with the columns class and area, or JSON of the same"


def _checked(area: object, what: str) -> float:
    """An area or a share, a text or a number, as a number above 0."""
    try:
        number = float(area)  # type: ignore[arg-type]  # what is no number is refused
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(area, bool) or not 0 < number < math.inf:
        raise InputError(
            f"{what} is {'not known' if area is None else brief(str(area))}: expected a number above 0, such as 1234.5;"
            " what is not to be mapped needs no labels"
        )
    return number


def _csv_rows(text: str, source: str) -> Iterator[tuple[str, str, object]]:
    """Where it stands, the class and the area, line by line; or from a table of `zones`, column by column."""
    delimiter = csv_delimiter(text, {*CLASS_COLUMNS, *AREA_COLUMNS, "zone_ha"})
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        table = [(reader.line_num, [" ".join(cell.split()) for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{source}, line {reader.line_num}: {error}: save it again as CSV") from error
    header = table[0][1] if table else []
    rows = [(f"{source}, line {line}", cells) for line, cells in table[1:] if any(cells)]
    for where, cells in rows:
        if len(cells) != len(header):
            raise InputError(
                f"{where}: {len(cells)} columns, where the header has {len(header)}: quote a cell that contains {delimiter!r}"
            )
    names = [cell.lower() for cell in header]
    if "zone_ha" in names:
        for at, column in enumerate(header):
            if column.startswith(ZONE_COLUMN):
                hectares = [_number(cells[at], f"{where}, column {column!r}") for where, cells in rows]
                yield f"{source}, column {column!r}", column.removeprefix(ZONE_COLUMN), math.fsum(hectares)
        return
    name_at, area_at = (
        next((names.index(each) for each in known if each in names), None) for known in (CLASS_COLUMNS, AREA_COLUMNS)
    )
    if name_at is None or area_at is None:
        raise InputError(f"{source} has the columns {listed(header)}: {_EXPECTED}")
    for where, cells in rows:
        yield where, cells[name_at], cells[area_at]


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {brief(text)!r} is not a number: expected hectares") from None


def _json_rows(text: str, source: str) -> Iterator[tuple[str, str, object]]:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not valid JSON ({brief(str(error), 200)}): {_EXPECTED}") from error
    for key in ("areas", "classes"):  # of what `evaluate --areas --json` prints
        if isinstance(document, dict) and key in document:
            document = document[key]
    if not isinstance(document, list):
        raise InputError(f'{source} has no list of areas: expected [{{"class": "water", "area": 12.5}}, ...]')
    for number, row in enumerate(document, 1):
        cells = row if isinstance(row, dict) else {}
        name = next((cells[each] for each in CLASS_COLUMNS if each in cells), None)
        column = next((each for each in AREA_COLUMNS if each in cells), None)
        if not isinstance(name, str) or column is None:
            raise InputError(f"{source}, entry {number} has no class or no area: {_EXPECTED}")
        area = cells[column]
        yield f"{source}, entry {number}", name, area.get("value") if isinstance(area, dict) else area


# --- In files, and in words.


def stored_prior(prior: Prior, classes: Sequence[ClassEntry]) -> str | None:
    """A prior as a head's settings state it: a word, or JSON with the share of each class; None for numbers."""
    if isinstance(prior, str):
        return prior if classes else None
    return json.dumps({entry.name: share for entry, share in zip(classes, prior, strict=True)}, ensure_ascii=False)


def recalled_prior(stored: object, classes: Sequence[ClassEntry]) -> Prior | None:
    """The prior that :func:`stored_prior` stored; None where a file states none for these classes."""
    if stored in PRIOR_POWERS:
        return stored  # type: ignore[return-value]  # one of the words
    try:
        shares = json.loads(str(stored))
        prior = tuple(float(shares[entry.name]) for entry in classes)
        check_prior(prior, classes)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, InputError):
        return None
    return prior


def assumption(prior: Prior, labels: Labels) -> str:
    """What a head of classes takes for granted, in a sentence."""
    if not isinstance(prior, str):
        total = math.fsum(prior)
        shares = [f"{entry.name} {share / total:.1%}" for entry, share in zip(labels.classes, prior, strict=True)]
        return f"Classes are taken to be as frequent as stated: {listed(shares)}"
    words = {
        "labels": "as frequent as in the labels",
        "tempered": "as frequent as the square roots of their numbers of labels",
        "equal": "equally frequent",
    }
    features = labels.report.features
    # More pixels than features are polygons, which state frequencies only where everything was mapped.
    drawn = features is not None and features.used < labels.report.labelled < labels.report.pixels / 2
    hint = "; drawn polygons do not state frequencies: give `prior` area:FILE if you know the areas" if drawn else ""
    return f"Classes are taken to be {words[prior]}{hint}"
