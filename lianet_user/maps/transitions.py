"""From-to maps: what each pixel was and what it became, as one code, and how much ground each change takes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from lianet_user.artifact import replacing
from lianet_user.header import IGNORE, ClassEntry
from lianet_user.maps import picture, style
from lianet_user.maps.layer import Layer
from lianet_user.maps.summary import ClassCounts

PALE, FORMER = 0.8, 0.25
"""Share of white in what did not change, and of the former class's colour in what did."""
LONGEST = 60
"""Characters of a class's name in the name of a change."""
NO_CHANGE_KNOWN = 65535
"""In maps of two bytes; in those of one, as in maps of classes, it is 255."""
SHOWN = 250
"""Codes that a picture tells apart."""


class TransitionProduct:
    """A map of from-to codes, ``from * classes + to``: uint8 up to 15 classes, else uint16.

    What did not change has its class's colour, pale; what did has the colour of what it became, with some of what it was.
    """

    def __init__(self, classes: tuple[ClassEntry, ...]) -> None:
        self.classes = classes
        count = len(classes)
        self.small = count**2 <= IGNORE
        nodata = IGNORE if self.small else NO_CHANGE_KNOWN
        self.entries = [_entry(before, after) for before in classes for after in classes]
        palette = {code: style.rgb(entry.color) for code, entry in enumerate(self.entries)} if self.small else {}
        self.layer = Layer(
            bands=("change",),
            dtype="uint8" if self.small else "uint16",
            nodata=nodata,
            predictor="NO",
            overviews="MODE",
            palette={nodata: (255, 255, 255)} | palette if palette else {},
        )
        self.tags = {
            "CODES": f"value = {count} * class before + class after, classes from 0: {', '.join(_names(classes))}",
            **(style.class_tags(self.entries) if self.small else {}),
        }
        self.title = f"change between {count} classes"
        self._pixels = np.zeros(count**2, np.int64)

    def codes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Of class indices, uint8 of any shape."""
        codes: np.ndarray = (before.astype(np.int64) * len(self.classes) + after).astype(self.layer.dtype)
        return codes

    def add(self, values: np.ndarray) -> None:
        known = values[values != self.layer.nodata]
        self._pixels += np.bincount(known.ravel(), minlength=len(self._pixels))

    @property
    def matrix(self) -> np.ndarray:
        """int64 (classes, classes): pixels of each class before, by their class after."""
        return self._pixels.reshape(len(self.classes), len(self.classes))

    @property
    def summary(self) -> ClassCounts:
        """Of the codes that occur."""
        return ClassCounts({self.entries[code].name: int(self._pixels[code]) for code in np.flatnonzero(self._pixels)})

    def write_pam(self, path: Path) -> None:
        if self.small:
            style.write_pam(path, self.entries, self._pixels.tolist())
        else:
            codes = np.flatnonzero(self._pixels)
            style.write_pam(path, [self.entries[code] for code in codes], self._pixels[codes].tolist(), codes.tolist())

    def write_qml(self, path: Path) -> None:
        codes = np.flatnonzero(self._pixels)
        style.write_qml(path, [self.entries[code] for code in codes], codes.tolist())

    def figure(self, values: np.ndarray, geobox: GeoBox, *, title: str, attribution: str) -> Figure:
        codes = self._in_order()[:SHOWN]
        place = np.full(NO_CHANGE_KNOWN + 1, IGNORE, np.uint8)
        place[codes] = np.arange(len(codes))
        shown = [self.entries[code] for code in codes]
        pixels = self._pixels[codes].tolist()
        return picture.class_figure(place[values[0]], geobox, shown, pixels, title=title, attribution=attribution)

    def _in_order(self) -> list[int]:
        """The codes that occur: changes, the largest first, and then what did not change."""
        count = len(self.classes)
        occurring = [int(code) for code in np.flatnonzero(self._pixels)]
        return sorted(occurring, key=lambda code: (code // count == code % count, -self._pixels[code]))


def write_matrix(path: Path, classes: tuple[ClassEntry, ...], hectares: np.ndarray) -> None:
    """Write a table of hectares with sums: a row for each class before, a column for each class after.

    Args:
        path: of the CSV file.
        classes: in the order of the matrix.
        hectares: (classes, classes).

    Raises:
        OutputError: it cannot be written.
    """
    names = [entry.name for entry in classes]
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["hectares from \\ to", *names, "sum"])
        for name, row in zip(names, hectares, strict=True):
            rows.writerow([name, *(f"{each:.4f}" for each in (*row, row.sum()))])
        rows.writerow(["sum", *(f"{each:.4f}" for each in (*hectares.sum(0), hectares.sum()))])


def _entry(before: ClassEntry, after: ClassEntry) -> ClassEntry:
    first, second = _names((before, after))
    if before == after:
        return ClassEntry(name=f"{first} (unchanged)", color=_mixed("#ffffff", before.color, PALE))
    return ClassEntry(name=f"{first} -> {second}", color=_mixed(before.color, after.color, FORMER))


def _names(classes: tuple[ClassEntry, ...]) -> list[str]:
    return [picture.shortened(entry.name, LONGEST) for entry in classes]


def _mixed(one: str, other: str, share: float) -> str:
    """So much of one colour in the other."""
    pairs = zip(style.rgb(one), style.rgb(other), strict=True)
    red, green, blue = (round(share * first + (1 - share) * second) for first, second in pairs)
    return f"#{red:02x}{green:02x}{blue:02x}"
