"""The values of a column -> labels in one spelling or numbers, and which of the two they are.

A label is compared, listed and mapped in one spelling only (:func:`plain_text`), whether it comes from a column of text,
of whole numbers or of numbers with gaps, from a table of classes or from a style.
"""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from lianet_user.errors import LabelError
from lianet_user.labels.label_options import LabelOptions, Task

if TYPE_CHECKING:
    import pandas as pd

    from lianet_user.labels.class_tables import ClassTable

MANY_NUMBERS = 32
"""Up to so many different whole numbers are taken for codes of classes, more of them for measurements."""
A_BYTE = 256
"""From so many on they may as well be identifiers, and no map has as many classes: what they are is asked."""
EXACT = 2**53
"""From here on, floating point no longer tells every whole number from the next."""
SHOWN = 5
"""Notes of one kind; the rest are counted."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_CODE = re.compile(r"[+-]?0[0-9]|.*[eE][0-9]")
"""Looks like a number but was hardly meant as one: 0311 is not 311, and no software writes 1e+05 as 1E5."""
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")

Cell = bool | int | float | str
"""A value of a column; a float is finite, a text not empty."""


@dataclass(frozen=True, eq=False)
class PlainLabels:
    """The label of every feature."""

    text: pd.Series
    """(n,) of dtype "string", in the spelling of :func:`plain_text`; null where there is none."""
    numeric: bool
    """Every label is a whole number."""
    notes: tuple[str, ...]
    """What was decided on the way, for the report."""


def plain_text(text: str) -> str:
    """A label in its one spelling: no stray blanks, accents composed (NFC), a whole number without a decimal point.

    Digits with a leading zero are a code and stay as they are. A control character becomes "?": names go into heads, maps
    and terminals. Empty if nothing is left.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not text.isprintable():
        text = "".join("?" if unicodedata.category(character) == "Cc" else character for character in text)
    number = _number_meant(text)
    return text if number is None or number != number.to_integral_value() else str(int(number))


def plain_labels(values: pd.Series, where: str) -> PlainLabels:
    """Labels of classes in one spelling. Blank and infinite values count as no label.

    Args:
        values: (n,) a column as read: text, whole numbers, true and false, or a mixture.
        where: the file and the column, in words, to begin a message with.

    Raises:
        LabelError: the numbers are not whole, or too large for their type, or the column holds something else, such as dates.
    """
    import pandas as pd  # half a second: only where there is a table of labels already

    cells, infinite = _cells(values, where)
    present = [cell for cell in cells if cell is not None]
    numbers_meant = [_number(cell) for cell in present]
    numeric = bool(present) and None not in numbers_meant
    if numeric:
        _refuse_fractions(numbers_meant, where)
    if rounded := next((cell for cell in present if isinstance(cell, float) and abs(cell) >= EXACT), None):
        raise LabelError(
            f"{where} holds {rounded:.0f} as floating point, which merges it with the next whole numbers: store such codes as"
            " text, or as whole numbers of 64 bits in a column without gaps"
        )
    labels = [None if cell is None else _spelled(cell) for cell in cells]

    notes = []
    if infinite:
        notes.append(f"Labels: {infinite} infinite values count as no label")
    if numeric and any(isinstance(cell, str) for cell in present):
        notes.append("Labels: whole numbers written as text, taken and sorted as numbers")
    if not pd.api.types.is_numeric_dtype(values):
        notes += _respelled(cells, labels)
    notes += _lookalikes(Counter(label for label in labels if label is not None))
    text = pd.Series(pd.array(labels, dtype="string"), index=values.index, name=values.name)
    return PlainLabels(text, numeric, tuple(notes))


def plain_numbers(values: pd.Series, where: str) -> pd.Series:
    """(n,) float64; NaN where there is none or where it is infinite. Text that holds numbers is converted.

    Raises:
        LabelError: the column holds something else.
    """
    import pandas as pd

    cells, _ = _cells(values, where)
    measured = [float("nan") if cell is None else _measured(cell) for cell in cells]
    wrong = [cell for cell, number in zip(cells, measured, strict=True) if number is None]
    if wrong:
        example = wrong[0]
        if isinstance(example, str) and _DECIMAL_COMMA.fullmatch(example):
            advice = "write them with a decimal point"
        else:
            advice = "choose a column of numbers with `field`, or `task` segmentation if these are classes"
        raise LabelError(
            f"{where} holds {len(wrong)} of {sum(cell is not None for cell in cells)} values that are not numbers"
            f" ({example!r}), where `task` regression needs numbers: {advice}"
        )
    array = np.array(measured, np.float64)
    array[~np.isfinite(array)] = np.nan
    return pd.Series(array, index=values.index, name=values.name)


def choose_task(values: pd.Series, options: LabelOptions, table: ClassTable | None, where: str) -> tuple[Task, str]:
    """Choose classes or numbers, and state the reason, with the way to override it.

    What was asked for holds. Otherwise whatever names classes (a table, a style, `mapping`, `background`) makes it a
    segmentation, and so does text. Fractions make it a regression, and so do more than :data:`MANY_NUMBERS` different
    whole numbers. Text that holds nothing but numbers counts as numbers.

    Raises:
        LabelError: the column holds neither text nor numbers, or :data:`A_BYTE` different whole numbers or more.
    """
    if options.task != "auto":
        return options.task, "as asked"
    given = {"classes": options.classes, "mapping": options.mapping, "background": options.background}
    if named := [name for name, value in given.items() if value]:
        return "segmentation", f"`{named[0]}` names classes; omit it for `task` regression"
    if table is not None:
        return "segmentation", f"{table.source} names classes; give `task` regression if they are measurements"
    cells, _ = _cells(values, where)
    present = [cell for cell in cells if cell is not None]
    if not present:
        return "segmentation", "no feature has a label; give `task` regression if the labels are numbers"
    names = [cell for cell in present if _number(cell) is None]
    if names:
        kind = "true and false" if isinstance(names[0], bool) else f"text ({names[0]!r})"
        return "segmentation", f"the labels are {kind}; `task` regression needs a column of numbers"
    distinct = {number for cell in present if (number := _number(cell)) is not None}
    fractions = [number for number in distinct if not _is_whole(number)]
    if fractions:
        return "regression", f"the labels hold fractions ({fractions[0]:g}); `task` segmentation needs whole numbers"
    if len(distinct) >= A_BYTE:
        raise LabelError(
            f"{where} holds {len(distinct)} different whole numbers, which may be measurements, codes or mere identifiers: give"
            " `task` regression if they are measurements, and merge them into at most 254 classes with `classes` or `mapping`"
            " if they are codes"
        )
    if len(distinct) > MANY_NUMBERS:
        what = f"the labels hold {len(distinct)} different whole numbers, too many for classes"
        return "regression", f"{what}; give `task` segmentation if they are codes of classes"
    what = f"the labels are {len(distinct)} different whole numbers"
    return "segmentation", f"{what}; give `task` regression if they are measurements"


def _cells(values: pd.Series, where: str) -> tuple[list[Cell | None], int]:
    """What each cell holds, and how many cells count as empty because they are infinite."""
    import pandas as pd

    infinite = 0
    cells: list[Cell | None] = []
    for value in values.astype(object).tolist():
        if isinstance(value, str):
            cells.append(value if value.strip() else None)
        elif value is None or value is pd.NaT or value is pd.NA:
            cells.append(None)
        elif isinstance(value, bool | np.bool_):
            cells.append(bool(value))
        elif isinstance(value, numbers.Integral):
            cells.append(int(value))
        elif isinstance(value, numbers.Real | Decimal):
            infinite += math.isinf(value)
            cells.append(float(value) if math.isfinite(value) else None)
        else:
            kind = type(value).__name__ if values.dtype == object else values.dtype
            raise LabelError(f"{where} is of type {kind}: choose a column of names or numbers with `field`")
    return cells, infinite


def _number(cell: Cell) -> int | float | Decimal | None:
    """The number that a cell holds; None for other text, and for true and false."""
    if isinstance(cell, bool):
        return None
    return _number_meant(" ".join(cell.split())) if isinstance(cell, str) else cell


def _number_meant(text: str) -> Decimal | None:
    return Decimal(text) if _NUMBER.fullmatch(text) and not _CODE.match(text) else None


def _is_whole(number: float | Decimal) -> bool:
    return number == math.floor(number)


def _spelled(cell: Cell) -> str:
    """A cell as a label. A fraction only occurs here among names: elsewhere it has been refused."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return plain_text(cell) if isinstance(cell, str) else str(cell)


def _measured(cell: Cell) -> float | None:
    if isinstance(cell, str):
        return float(text) if _NUMBER.fullmatch(text := cell.strip()) else None
    return None if isinstance(cell, bool) else float(cell)


def _refuse_fractions(numbers_meant: Iterable[float | Decimal | None], where: str) -> None:
    fraction = next((number for number in numbers_meant if number is not None and not _is_whole(number)), None)
    if fraction is not None:
        raise LabelError(
            f"{where} holds fractions ({fraction:g}), not classes: choose a column of names or whole numbers with"
            " `field`, or learn the numbers themselves with `task` regression"
        )


def _respelled(cells: list[Cell | None], labels: list[str | None]) -> list[str]:
    pairs = [(str(cell), label) for cell, label in zip(cells, labels, strict=True) if cell is not None]
    respelled = [(before, after) for before, after in pairs if before != after]
    if not respelled:
        return []
    before, after = respelled[0]
    return [
        f"Labels: {len(respelled)} are taken in the spelling that all share ({before!r} as {after!r}): without stray blanks or"
        " control characters, and whole numbers without a decimal point"
    ]


def _lookalikes(counts: Counter[str]) -> list[str]:
    """Labels that may be one class, with the `mapping` that would merge the rarer into the more frequent."""
    groups: dict[str, list[str]] = {}
    for label, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        groups.setdefault(re.sub(r"^0+(?=[0-9])", "", label.casefold()), []).append(label)
    notes = []
    for first, *others in groups.values():
        if others:
            told = " and ".join(f"{label!r} ({counts[label]} times)" for label in (first, *others))
            merging = " ".join(f"`mapping` {label + '=' + first!r}" for label in others)
            notes.append(
                f"Labels: {told} differ only in case or leading zeros and are classes of their own: {merging} merges them"
            )
    rest = len(notes) - SHOWN
    return notes if rest <= 0 else [*notes[:SHOWN], f"Labels: {rest} more groups differ only in case or leading zeros"]
