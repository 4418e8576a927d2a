"""Labels as people write them -> the classes of a map, with an order, names, codes and colours."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lianet_user.errors import LabelError, did_you_mean, listed
from lianet_user.files.header import ClassEntry
from lianet_user.labels.class_tables import ClassTable, TableEntry
from lianet_user.labels.label_options import LabelOptions
from lianet_user.labels.label_values import plain_text

MAX_CLASSES = 254
"""A map is uint8 with 255 for "no data"; 254 stays free."""

MAX_NAME = 128


@dataclass(frozen=True)
class Legend:
    """The classes of a map, and which of them each label is."""

    classes: tuple[ClassEntry, ...]
    index_of: Mapping[str, int | None]
    """The class of every label in the region, as the file spells it; None where it was dropped on request."""
    notes: tuple[str, ...]
    dropped: tuple[str, ...]
    """Labels in the region that were dropped on request, sorted."""
    background: int | None = None
    """The class of what bears no label inside the labelled area."""


def make_legend(
    present: Sequence[str],
    in_file: Sequence[str],
    numeric: bool,
    options: LabelOptions,
    table: ClassTable | None,
    colors: Mapping[str, str],
    where: str,
    another: str = "another column with `field`",
) -> Legend:
    """Classes of the labels in the region: renamed and merged by `mapping`, then named, ordered and coloured by the table.

    Each label is mapped once: with ``a=b`` and ``b=c``, what was a is b and what was b is c. A mapped label is looked up in
    the table by its code and then, in this very case, by its name. Without a table classes are called what they are
    mapped to and are sorted, numbers as numbers and before names. Classes that do not occur are left out.

    Args:
        present: distinct plain labels of what is used in the region.
        in_file: distinct plain labels of the whole file, among them all of `present`.
        numeric: every label is a whole number.
        options: with `mapping`, `background` and `classes`.
        table: the one that `classes` names, else the file's style or categories, else None.
        colors: (label, ``#rrggbb``) as the features of a label agree on; the table's come first.
        where: the file and the column, in words, to begin a message with.
        another: where labels may stand instead, in words, for the advice in a message.

    Raises:
        LabelError: an old label of `mapping` is nowhere in the file, a label in the region is not in `classes`, or there are
            fewer than two classes (without `one_class`), more than 254, or one with a name of more than 128 characters.
    """
    mapping, notes = _mapping(options, present, in_file, where)
    target = {label: mapping.get(label, label) for label in present}
    resolve = _TableLookup(table)
    name_of = {label: None if new is None else resolve.name(new) for label, new in target.items()}
    _check_listed({new for new in target.values() if new is not None}, resolve, options, where)

    background = None if options.background is None else resolve.name(plain_text(options.background))
    used = {name for name in name_of.values() if name is not None}
    names = [name for name in resolve.names if name in used or name == background]
    unlisted = sorted(used - set(names), key=_sort_key)
    names += unlisted
    if background in used:
        notes.append(f"Classes: `background` {background!r} is also a class of the labels: they are one class")
    elif background is not None and background not in names:
        names.append(background)
    _check_names(names, numeric, options, where, another)

    if table is not None:
        notes += resolve.notes(names, unlisted)
    given = {name: resolve.color(name) or _agreed_color(name, name_of, colors) for name in names}
    chosen = class_colors(names, given)
    for name, wish, color in zip(names, given.values(), chosen, strict=True):
        if wish and wish != color:
            notes.append(
                f"Classes: the colour {wish} of {name!r} is already that of another class: {color} is used instead"
            )
    codes = {name: resolve.code(name) or _code(name, name_of) for name in names}
    return Legend(
        classes=tuple(
            ClassEntry(name=name, color=color, code=codes[name]) for name, color in zip(names, chosen, strict=True)
        ),
        index_of={label: None if name is None else names.index(name) for label, name in name_of.items()},
        notes=tuple(notes),
        dropped=tuple(sorted((label for label, name in name_of.items() if name is None), key=_sort_key)),
        background=None if background is None else names.index(background),
    )


class _TableLookup:
    """What a table states about labels and classes: nothing, where there is no table."""

    def __init__(self, table: ClassTable | None) -> None:
        self._source = table.source if table else ""
        self._entries = table.entries if table else ()
        # QGIS, too, draws the last of several categories of one value.
        self._by_label = {entry.label: entry for entry in self._entries}
        self._of_name: dict[str, list[TableEntry]] = {}
        for entry in self._by_label.values():
            self._of_name.setdefault(entry.name, []).append(entry)

    @property
    def names(self) -> list[str]:
        """The names of the classes, in the table's order."""
        return list(self._of_name)

    def lists(self, label: str) -> bool:
        """Whether the table has a label, as a code or as a name."""
        return label in self._by_label or label in self._of_name

    def spellings(self) -> list[str]:
        """All codes and names of the table."""
        return [*self._by_label, *self._of_name]

    def name(self, label: str) -> str:
        """The name of the class that a label belongs to; the label itself, if the table does not list it."""
        return self._by_label[label].name if label in self._by_label else label

    def color(self, name: str) -> str:
        """The colour of a class; empty if the table has none."""
        return next((entry.color for entry in self._of_name.get(name, []) if entry.color), "")

    def code(self, name: str) -> str:
        """The first label that the table has for a class, where that is not its name."""
        labels = [entry.label for entry in self._of_name.get(name, [])]
        return "" if not labels or name in labels else _cut(labels[0])

    def notes(self, names: list[str], unlisted: list[str]) -> list[str]:
        """State what the table decided, for the report."""
        absent = [name for name in self.names if name not in names]
        merged = [name for name in self.names if name in names and len(self._of_name[name]) > 1]
        notes = [f"Classes: named, ordered and coloured by {self._source}"]
        if absent:
            notes.append(f"Classes: left out, since the region lacks them: {listed(_quoted(absent))}")
        for name in merged[:20]:
            notes.append(f"Classes: {name!r} is {listed(_quoted(entry.label for entry in self._of_name[name]))}")
        if unlisted:
            notes.append(f"Classes: not described there, and put last: {listed(_quoted(unlisted))}")
        return notes


def _mapping(
    options: LabelOptions, present: Sequence[str], in_file: Sequence[str], where: str
) -> tuple[dict[str, str | None], list[str]]:
    """What each label of `mapping` becomes; None where it is dropped."""
    mapping: dict[str, str | None] = {}
    for given, given_new in options.mapping:
        old, new = plain_text(given), None if given_new is None else plain_text(given_new) or None
        if mapping.get(old, new) != new:
            raise LabelError(f"`mapping` gives {old!r} two meanings ({mapping[old]!r} and {new!r}): omit one of them")
        mapping[old] = new
    known = set(in_file)
    for old in mapping:
        if old not in known:
            raise LabelError(
                f"`mapping`: {where} holds no {old!r}: it holds {listed(_quoted(sorted(known, key=_sort_key)))}"
                f"{did_you_mean(old, known)}"
            )
    # Whoever drops labels may have taken them out of `present` already.
    idle = [old for old, new in mapping.items() if new is not None and old not in set(present)]
    return mapping, [
        f"Classes: `mapping` has no effect on {listed(_quoted(idle))}, which the region lacks"
    ] if idle else []


def _check_listed(targets: set[str], resolve: _TableLookup, options: LabelOptions, where: str) -> None:
    if options.classes is None:
        return
    missing = sorted((label for label in targets if not resolve.lists(label)), key=_sort_key)
    if missing:
        raise LabelError(
            f"{where} holds labels that `classes` {options.classes} does not list: {listed(_quoted(missing))}"
            f"{did_you_mean(missing[0], resolve.spellings())}; add them there, or drop them with `mapping` {missing[0] + '='!r}"
        )


def _check_names(names: list[str], numeric: bool, options: LabelOptions, where: str, another: str) -> None:
    holds = f"{where} holds"
    if "" in names:
        raise LabelError("`background` is blank: give the class a name")
    if not names:
        raise LabelError(f"{holds} no class in the region, expected two or more: `mapping` drops every label")
    if len(names) == 1 and not options.one_class:
        advice = "; if everything else in some area is not that class, state that with `background` and `labelled_area`"
        raise LabelError(
            f"{holds} a single class in the region ({names[0]!r}), expected two or more: label what is not that class"
            f" too, or choose {another}{'' if options.background else advice}"
        )
    if len(names) > MAX_CLASSES:
        advice = " learn the numbers themselves with `task` regression," if numeric else ""
        raise LabelError(
            f"{holds} {len(names)} classes in the region, expected at most {MAX_CLASSES}: group them with `mapping` or"
            f" `classes`,{advice} or choose {another}"
        )
    longest = max(names, key=len)
    if len(longest) > MAX_NAME:
        raise LabelError(
            f"{holds} a class name of {len(longest)} characters ({longest[:40]!r}...), expected at most {MAX_NAME}:"
            f" shorten it with `mapping` or `classes`, or choose {another}"
        )


def _agreed_color(name: str, name_of: Mapping[str, str | None], colors: Mapping[str, str]) -> str:
    """The colour of the label that gives the class its name, else the one that all its labels agree on."""
    if name_of.get(name) == name and colors.get(name):
        return colors[name]
    agreed = {colors.get(label, "") for label, other in name_of.items() if other == name}
    return agreed.pop() if len(agreed) == 1 else ""


def _code(name: str, name_of: Mapping[str, str | None]) -> str:
    """The first label of a class that no table describes, where none is its name."""
    labels = sorted((label for label, other in name_of.items() if other == name), key=_sort_key)
    return "" if not labels or name in labels else _cut(labels[0])


def _cut(code: str) -> str:
    return code if len(code) <= MAX_NAME else f"{code[: MAX_NAME - 1]}…"


def _sort_key(label: str) -> tuple[bool, int, str]:
    """Whole numbers in their order, then everything else as text."""
    whole = len(label) <= 40 and label.isascii() and label.removeprefix("-").isdecimal()
    return not whole, int(label) if whole else 0, label


def _quoted(labels: Iterable[str]) -> list[str]:
    return [repr(label) for label in labels]


# --- Colours: those of the labels, else those that a map reader expects, else a qualitative palette.
#
# The expected colours differ in lightness as well as in hue, so that the usual land-cover classes stay apart for readers
# with red-green colour blindness. The qualitative palette is Paul Tol's "muted" and "bright" (SRON/EPS/TN/09-002).


WATER, FOREST, CROPS, GRASS, PASTURE = "#2b7bba", "#14532d", "#f2c230", "#bfe8a0", "#7fb069"
WETLAND, BUILT, SHRUB, BARE, SNOW = "#2aa198", "#e34a33", "#b49fcc", "#c9b29b", "#eaf4fb"

EXPECTED = {
    WATER: "water water_body water_bodies waterbody lake river",
    FOREST: "forest forests wood woodland trees tree_cover",
    CROPS: "farmland farm cropland crops crop arable agriculture",
    GRASS: "grassland grass",
    PASTURE: "meadow pasture",
    WETLAND: "wetland wetlands flooded_vegetation marsh swamp",
    BUILT: "residential urban built_up built built_area settlement",
    SHRUB: "scrub shrub shrubland heath",
    BARE: "bare bare_ground bare_soil sand rock",
    SNOW: "snow ice snow_and_ice",
}
COLOR_OF_NAME = {name: color for color, names in EXPECTED.items() for name in names.split()}

QUALITATIVE = (
    *("#332288", "#ddcc77", "#88ccee", "#882255", "#44aa99", "#999933", "#cc6677", "#117733", "#aa4499"),
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb"),
)


def class_colors(names: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """One colour (``#rrggbb``) for each class, no two alike.

    Args:
        names: of the classes, in order.
        given: colours of the labels, already normalised; one that an earlier class has taken is not used.
    """
    taken: set[str] = set()
    colors: dict[str, str] = {}
    for wish in (given, {name: COLOR_OF_NAME.get(_key(name), "") for name in names}):
        for name in names:
            color = wish.get(name, "")
            if name not in colors and color and color not in taken:
                colors[name] = color
                taken.add(color)
    spare = (color for color in _spare_colors() if color not in taken)
    return [colors.get(name) or next(spare) for name in names]


def _key(name: str) -> str:
    return re.sub(r"[\s/-]+", "_", name.strip().casefold())


def _spare_colors() -> Iterator[str]:
    """The qualitative palette, then hues by the golden ratio at three lightnesses, each colour once, without end."""
    yield from QUALITATIVE
    seen = set(QUALITATIVE)
    step = 0
    while True:
        red, green, blue = colorsys.hls_to_rgb(step * 0.6180339887 % 1, (0.35, 0.55, 0.75)[step % 3], 0.55)
        color = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        if color not in seen:
            yield color
            seen.add(color)
        step += 1
