"""Where models lie: as characters for the terminal, as a picture for everywhere else."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from lianet_user.catalog.model import Model, excerpt
from lianet_user.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# --- Land in cells of 2.5 degrees, where land covers two fifths of a cell or more. It shows on which continent a model lies
# without loading a map. After Natural Earth's countries at 1:110 million (public domain).


CELL: Final = 2.5


@cache
def land() -> NDArray[np.bool_]:
    """(72, 144), from 90 degrees north and 180 degrees west on."""
    rows = [np.frombuffer(bytes.fromhex(row), np.uint8) for row in _ROWS.split()]
    return np.unpackbits(np.stack(rows), axis=1).astype(bool)


def is_land(lon: float, lat: float) -> bool:
    """Whether there is land at a place; longitudes may go past 180 degrees."""
    row = min(max(int((90 - lat) // CELL), 0), 71)
    return bool(land()[row, int((lon + 180) // CELL) % 144])


_ROWS: Final = """
    000000000000000000000000000000000000 000000000000000000000000000000000000 000000000000007000000000000000000000
    000000003fffffffc0000000000200000000 000000003fdfffff0007c000000300000000 000000e8bf0fffff000000008003f8018000
    00000380af007fff00000002007ffe408000 0040037ceff03ffe000010041ffffffff800 83fffffefb781ffc0001fe01ffffffffffff
    e7fffffffe3e1fc0c007ffffffffffffffff 03fffffff21c1f01801f7fffffffffffffff 03ffffffe0700e00003e7ffffffffffffef8
    00e0ffffe07e0000003e3fffffffffff8080 00801ffff87f0000021cfffffffffffe0380 00000ffffeffc0000f1fffffffffffff0300
    000007ffffffc00003ffffffffffffff8000 000003fffffce00001ffffffffffffff0000 000003fffffe000001fffff7fffffffe0000
    000003fffff0000005ebe0effffffffcc000 000003ffffe000000f86fff7fffffff08000 000001ffffc000000f009ff7fffffe208000
    000001ffffc0000006f01fffffffffb30000 000000ffff80000007f803ffffffff0e0000 0000007fff0000000ffeffffffffff800000
    0000003fc10000001fffffefffffff800000 0000000f810000003ffffff1ffffff000000 00000007800000003ffffdfe1ffffe800000
    0000000388c000007ffffeff0fe7f8000000 00000003d81000007ffffefe07c7e0000000 00000000f80000007fffff780783e0800000
    000000000e0000007fffffe00301f0800000 00000000063800003fffffd0030160000000 00000000017f00001ffffff0008100600000
    00000000007f80000ffffff0000082000000 00000000007ff000001fffe0000186000000 0000000000fff000000fffc000018e000000
    0000000000fffc00000fff800000ce840000 0000000000ffff80000fff0000004087c000 0000000000ffffc00007ff0000002001e000
    0000000000ffffc00007ff0000000000b000 00000000007fff800007ff00000000000000 00000000007fff800007ff100000000e4000
    00000000003fff800007ff300000007ec000 00000000000fff000007fe300000007fe000 00000000000fff000007fc60000003fff000
    00000000000ffc000003fc60000007fff800 00000000000ff8000003f800000007fff800 00000000001ff0000003f800000003fff800
    00000000001ff0000001f000000003fff800 00000000001fe0000001e00000000383f800 00000000001f80000000000000000000f000
    00000000001f800000000000000000002002 00000000003e000000000000000000002004 00000000003c000000000000000000000008
    000000000038000000000000000000000010 000000000038000000000000000000000000 000000000038000000000000000000000000
    000000000018000000000000000000000000 000000000000000000000000000000000000 000000000000000000000000000000000000
    000000000000000000000000000000000000 000000000000000000000000000000000000 0000000000060000000000060000cc0e0000
    0000000000040000000004fff1fffffffc00 00000000001e00000ffffffff7fffffffff0 00000101ffff00003ffffffffffffffffff0
    0007fffffff80007ffffffffffffffffffc0 017fffffff800c3fffffffffffffffffffc0 001fffffffff1dffffffffffffffffffff80
    001ffffffffffffffffffffffffffffffff8 ffffffffffffffffffffffffffffffffffff ffffffffffffffffffffffffffffffffffff
"""


# --- Sketch and figure.


COLUMNS: Final = 72
ROWS: Final = 18
"""Characters are about twice as high as they are wide, and a view twice as wide as it is high."""
WIDTHS: Final = (90.0, 180.0, 360.0)
"""Degrees that a view may be wide."""
MARKS: Final = string.ascii_lowercase + string.ascii_uppercase
SAME_PLACE: Final = "*"


@dataclass(frozen=True)
class View:
    """A part of the Earth, twice as wide in degrees as it is high."""

    west: float
    north: float
    width: float

    @property
    def height(self) -> float:
        return self.width / 2

    @classmethod
    def of(cls, models: Sequence[Model]) -> View:
        """The closest view that shows all models, with room around them."""
        places = [place_of(model) for model in models] or [(0.0, 0.0)]
        lons, lats = [lon for lon, _ in places], [lat for _, lat in places]
        for width in WIDTHS[:-1]:
            if max(lons) - min(lons) <= 0.7 * width and max(lats) - min(lats) <= 0.7 * width / 2:
                west = (min(lons) + max(lons) - width) / 2
                north = (min(lats) + max(lats) + width / 2) / 2
                return cls(west, min(90.0, max(north, -90.0 + width / 2)), width)
        return cls(-180.0, 90.0, 360.0)


def place_of(model: Model) -> tuple[float, float]:
    """Longitude and latitude of a place within a model's ground."""
    point = model.ground.representative_point()
    return point.x, point.y


def marks(models: Sequence[Model]) -> list[str]:
    """A letter for each model, in their order; the last ones share one where there are more than letters."""
    return [MARKS[number] if number < len(MARKS) else SAME_PLACE for number in range(len(models))]


def sketch(models: Sequence[Model]) -> list[str]:
    """Lines of characters: dots for land, a letter where a model is, a star where several are."""
    view = View.of(models)
    step_x, step_y = view.width / COLUMNS, view.height / ROWS
    lines = [
        [
            "." if is_land(view.west + (col + 0.5) * step_x, view.north - (row + 0.5) * step_y) else " "
            for col in range(COLUMNS)
        ]
        for row in range(ROWS)
    ]
    for mark, model in zip(marks(models), models, strict=True):
        lon, lat = place_of(model)
        row = min(max(int((view.north - lat) / step_y), 0), ROWS - 1)
        col = min(max(int((lon - view.west) / step_x), 0), COLUMNS - 1)
        lines[row][col] = mark if lines[row][col] in " ." else SAME_PLACE
    return ["".join(line).rstrip() for line in lines]


def coverage_figure(models: Sequence[Model], path: Path) -> None:
    """Draw where models lie, and what each holds, into a PNG.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    from lianet_user.files.artifact import replacing

    shown = models[:40]
    lines = [_words(mark, model) for mark, model in zip(marks(models), shown, strict=False)]
    if len(models) > len(shown):
        lines.append(f"and {len(models) - len(shown)} more")
    text_height = 0.24 * max(1, len(lines)) + 0.3
    figure = Figure(figsize=(10.0, 5.4 + text_height), facecolor="white")
    height = 5.4 + text_height
    axes = figure.add_axes((0.06, (text_height + 0.35) / height, 0.91, 4.65 / height))
    _draw_view(axes, View.of(models))
    for mark, model in zip(marks(models), models, strict=True):
        _draw_model(axes, mark, model)
    plural = "" if len(models) == 1 else "s"
    figure.text(0.06, 1 - 0.26 / height, f"{len(models)} model{plural}", fontsize=12, weight="bold", va="center")
    for number, line in enumerate(lines):
        figure.text(
            0.06, (text_height - 0.25 - 0.24 * number) / height, line, fontsize=9, va="center", parse_math=False
        )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_view(axes: Axes, view: View) -> None:
    from matplotlib.colors import ListedColormap

    # Three times around, for views that go past the antimeridian.
    axes.imshow(
        np.tile(land(), (1, 3)),
        extent=(-540, 540, -90, 90),
        cmap=ListedColormap(["#eaf1f6", "#d9d6cc"]),
        interpolation="nearest",
        aspect="auto",
    )
    step = {90.0: 10, 180.0: 20}.get(view.width, 30)
    axes.set_xticks([value for value in range(-540, 541, step) if view.west <= value <= view.west + view.width])
    axes.set_yticks([value for value in range(-90, 91, step) if view.north - view.height <= value <= view.north])
    axes.set_xlim(view.west, view.west + view.width)
    axes.set_ylim(view.north - view.height, view.north)
    axes.xaxis.set_major_formatter(lambda value, _: _degrees((value + 180) % 360 - 180, "E", "W"))
    axes.yaxis.set_major_formatter(lambda value, _: _degrees(value, "N", "S"))
    axes.grid(color="white", linewidth=0.8)
    axes.tick_params(length=0, labelsize=8, colors="#555555")
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def _draw_model(axes: Axes, mark: str, model: Model) -> None:
    from matplotlib.patches import Polygon

    coordinates = model.geometry["coordinates"]
    for polygon in [coordinates] if model.geometry["type"] == "Polygon" else coordinates:
        axes.add_patch(
            Polygon([point[:2] for point in polygon[0]], facecolor="#c2410c55", edgecolor="#c2410c", linewidth=1)
        )
    lon, lat = place_of(model)
    axes.plot([lon], [lat], marker="o", markersize=5, color="#c2410c", markeredgecolor="white", markeredgewidth=0.7)
    axes.annotate(
        f"{mark} {model.name}", (lon, lat), xytext=(6, 4), textcoords="offset points", fontsize=9, weight="bold",
        color="#7c2d12", annotation_clip=True, parse_math=False,
    )  # fmt: skip


def _words(mark: str, model: Model) -> str:
    dates = dates_of(model)
    return printable(
        f"{mark}   {model.name}: {excerpt(model.title, 64)} ({dates}; {model.megabytes}; {model.licence[:30]})"
    )


def dates_of(model: Model) -> str:
    """The dates of a model in few words."""
    if len(model.dates) == 1:
        return str(model.dates[0])
    return f"{len(model.dates)} dates, {model.dates[0]} to {model.dates[-1]}"


def _degrees(value: float, positive: str, negative: str) -> str:
    return "0" if value == 0 else f"{abs(value):g}{positive if value > 0 else negative}"
