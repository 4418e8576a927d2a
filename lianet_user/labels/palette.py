"""Colours for classes: the ones the file brings, else the ones a map reader expects, else a qualitative palette.

The expected colours differ in lightness as well as in hue, so that the usual land-cover classes stay apart for readers
with red-green colour blindness. The qualitative palette is Paul Tol's "muted" and "bright" (SRON/EPS/TN/09-002).
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator, Mapping, Sequence

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

_HEX = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})")


def class_colors(names: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """One colour (``#rrggbb``) for each class, no two alike.

    Args:
        names: of the classes, in order.
        given: colours that the labels bring, already normalised; one that an earlier class has taken is not used.
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


def normalized_color(text: str) -> str | None:
    """``#RGB`` or ``#RRGGBB`` in any case as ``#rrggbb``; None if it is no such colour."""
    color = text.strip().lower()
    if not _HEX.fullmatch(color):
        return None
    return color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])


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
