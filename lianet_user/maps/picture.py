"""Drawing figures: images of classes and numbers, keys, scale bars, and the quick-look of a map.

Figures are laid out in inches from their top left corner, because keys and small print keep their size whatever the shape of
the map. Only matplotlib's object interface is used: no global state, no display.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.offsetbox import AnchoredOffsetbox, DrawingArea, TextArea, VPacker
from matplotlib.patches import Polygon, Rectangle
from matplotlib.transforms import Affine2D
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar  # type: ignore[import-untyped]
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from lianet_user.files.header import Band, ClassEntry, Numbers
from lianet_user.geo.grid import Window, whole
from lianet_user.geo.ground_area import pixel_metres
from lianet_user.maps.style import RAMP, rgb
from lianet_user.maps.summary import NumberStatistics, format_number

DPI = 150
MARGIN, GAP = 0.25, 0.3
TITLE, PANEL_TITLE, TEXT, SMALL = 13, 10, 9, 6.5
"""Font sizes in points; a title that is too long for its sheet shrinks, but not below the size of text."""
INK, FAINT, UNCLASSED = "#222222", "#666666", "#f0f0f0"
COLUMN = 0.75
"""Width in inches of a column of numbers in a key."""
MOST_CHARACTERS = 32
"""Characters of a name in a key at most."""
ROW = 0.21
"""Height in inches of a row of a key."""
MAP_SIDE = 8.0
"""Inches of the longer side of the map in its quick-look."""
MOST_NAMES = 30
"""Rows a key has at most."""
BAR, BAR_COLUMN = (0.22, 2.6), 1.6
"""Inches of a colour bar, width and height, and of the column that it stands in with its figures."""


@dataclass(frozen=True)
class KeyRow:
    """A class in a key: its colour, its name, and a number for each heading."""

    name: str
    color: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """The meaning of the colours, with numbers beside each."""

    headings: tuple[str, ...]
    rows: Sequence[KeyRow]

    @property
    def width(self) -> float:
        """Width in inches."""
        longest = min(MOST_CHARACTERS, max((len(row.name) for row in self.rows), default=0))
        return 0.45 + 0.075 * max(longest, 8) + COLUMN * len(self.headings)

    @property
    def height(self) -> float:
        """Height in inches."""
        return (min(len(self.rows), MOST_NAMES) + 1 + (len(self.rows) > MOST_NAMES)) * ROW


class Sheet:
    """A figure laid out in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure((width, height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def title(self, text: str) -> None:
        room = self.width / 0.115  # characters
        size = min(TITLE, max(TEXT, TITLE * room / len(text)))
        self.text(MARGIN, MARGIN, shortened(text, int(room * TITLE / size)), size, bold=True)

    def small_print(self, lines: Sequence[str]) -> None:
        """Add lines at the foot of the sheet, whose height includes :func:`small_print_height` for them."""
        top = self.height - MARGIN - small_print_height(lines) + 0.1
        self.text(MARGIN, top, "\n".join(lines), SMALL, color=FAINT)

    def text(self, left: float, top: float, text: str, size: float, *, color: str = INK, bold: bool = False) -> None:
        """Add text below `top`. Dollar signs are not parsed as mathematics, because texts may come from files."""
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            text,
            size=size,
            color=color,
            weight="bold" if bold else "normal",
            va="top",
            parse_math=False,
        )


def class_image(values: np.ndarray, classes: Sequence[ClassEntry]) -> np.ndarray:
    """Colour class indices (height, width): uint8 (height, width, 3); pixels without a class are light grey."""
    colors = np.full((256, 3), rgb(UNCLASSED), np.uint8)
    for index, entry in enumerate(classes):
        colors[index] = rgb(entry.color)
    return colors[values]


def number_image(values: np.ndarray, numbers: Numbers, ramp: Colormap = RAMP) -> np.ndarray:
    """Colour numbers (height, width) with the ramp: uint8 (height, width, 3); NaN is light grey."""
    colors = ramp(Normalize(numbers.low, numbers.high)(np.nan_to_num(values)), bytes=True)[..., :3]
    return np.where(np.isnan(values)[..., None], np.array(rgb(UNCLASSED), np.uint8), colors)


def light_image(light: np.ndarray) -> np.ndarray:
    """An image uint8 (height, width, 3) from intensities (3, height, width) from 0 to 255; NaN is light grey."""
    nothing = np.isnan(light).any(0)
    image = np.nan_to_num(light).astype(np.uint8).transpose(1, 2, 0)
    return np.where(nothing[..., None], np.array(rgb(UNCLASSED), np.uint8), image)


# --- True colour: which bands are red, green and blue, and how they are stretched.


TRUE_COLOR = ((665.0, ("B04", "B4", "red")), (560.0, ("B03", "B3", "green")), (490.0, ("B02", "B2", "blue")))
"""Red, green and blue: wavelength in nanometres, and the usual names of such a band."""

NEAR_NM = 60.0
"""A band farther than this from a colour's wavelength does not show that colour."""


def true_color_bands(bands: Sequence[Band]) -> tuple[int, int, int]:
    """Indices of the bands to show as red, green and blue: by wavelength, else by name, else the first band as grey."""
    chosen = [_band_of(bands, wavelength, names) for wavelength, names in TRUE_COLOR]
    known = [index for index in chosen if index is not None]
    return (known[0], known[1], known[2]) if len(known) == 3 else (0, 0, 0)


def _band_of(bands: Sequence[Band], wavelength: float, names: Sequence[str]) -> int | None:
    known = {index: abs(band.wavelength_nm - wavelength) for index, band in enumerate(bands) if band.wavelength_nm}
    nearest = min(known, key=lambda index: known[index], default=None)
    if nearest is not None and known[nearest] <= NEAR_NM:
        return nearest
    return next((index for index, band in enumerate(bands) if band.name in names), None)


GAMMA = 1.6
"""How much the dark half of a remembered image is lightened, so that forest and fields beside clouds can be made out."""


def stretched(bands: np.ndarray) -> NDArray[np.uint8]:
    """Stretch bands (height, width, 3), in any unit, from their 2nd to their 98th percentile, dark ground lightened: uint8."""
    low, high = np.percentile(bands, (2, 98), axis=(0, 1))
    shares = np.clip((bands - low) / np.maximum(high - low, 1e-6), 0, 1)
    colors: NDArray[np.uint8] = (shares ** (1 / GAMMA) * 255).astype(np.uint8)
    return colors


# --- Parts of a sheet.


def draw_image(axes: Axes, image: np.ndarray, window: Window, geobox: GeoBox) -> None:
    """Draw an image of a window of a grid, uint8 (rows, columns, 3) at any resolution, with a scale bar and a north arrow; the
    axes then count pixels of the grid."""
    across, down = pixel_metres(geobox)
    extent = (window.col, window.col_end, window.row_end, window.row)
    axes.imshow(image, extent=extent, aspect=down / across, interpolation="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=FAINT, linewidth=0.6)
    metres = round_length(0.25 * across * window.width)
    bar = AnchoredSizeBar(
        axes.transData,
        metres / across,
        f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m",
        loc="lower left",
        pad=0.4,
        borderpad=0.5,
        sep=3,
        color=INK,
        size_vertical=0.0,
        frameon=True,
        fontproperties=FontProperties(size=TEXT - 1),
    )
    bar.patch.set(alpha=0.85, edgecolor="none")
    axes.add_artist(bar)
    if (turn := north(geobox, window)) is not None:
        _draw_north(axes, turn)


def _draw_north(axes: Axes, turn: float) -> None:
    """Draw a north arrow in the upper right corner, rotated clockwise by `turn` degrees."""
    side = 17.0  # points
    arrow = DrawingArea(side, side)
    shape = Affine2D().rotate_deg(-turn).translate(side / 2, side / 2)
    corners = np.array([(0.0, 8.0), (5.0, -7.0), (0.0, -3.5), (-5.0, -7.0)])
    arrow.add_artist(Polygon(shape.transform(corners), facecolor=INK, edgecolor="none"))
    letter = TextArea("N", textprops={"size": SMALL, "color": INK, "weight": "bold"})
    rose = AnchoredOffsetbox(
        "upper right", child=VPacker(children=[letter, arrow], align="center", pad=0, sep=1), pad=0.25, borderpad=0.5
    )
    rose.patch.set(facecolor="white", alpha=0.85, edgecolor="none")
    axes.add_artist(rose)


def draw_key(sheet: Sheet, left: float, top: float, key: Key) -> None:
    """Draw a key with its upper left corner at `left`, `top` in inches."""
    axes = sheet.axes(left, top, key.width, key.height)
    axes.set_axis_off()
    axes.set_xlim(0, key.width)
    axes.set_ylim(key.height, 0)
    columns = [key.width - COLUMN * n for n in reversed(range(len(key.headings)))]
    for x, heading in zip(columns, key.headings, strict=True):
        axes.text(x, ROW / 2, heading, size=TEXT - 1, color=FAINT, ha="right", va="center")
    for number, row in enumerate(key.rows[:MOST_NAMES], start=1):
        middle = (number + 0.5) * ROW
        swatch = Rectangle((0, middle - 0.06), 0.22, 0.12, facecolor=row.color, edgecolor=FAINT, linewidth=0.4)
        axes.add_patch(swatch)
        name = shortened(row.name, MOST_CHARACTERS)
        axes.text(0.32, middle, name, size=TEXT, color=INK, va="center", parse_math=False)
        for x, figure in zip(columns, row.figures, strict=True):
            axes.text(x, middle, figure, size=TEXT, color=INK, ha="right", va="center")
    if len(key.rows) > MOST_NAMES:
        more = f"and {len(key.rows) - MOST_NAMES} more"
        axes.text(0.32, (MOST_NAMES + 1.5) * ROW, more, size=TEXT, color=FAINT, va="center")


def draw_color_bar(
    sheet: Sheet, left: float, top: float, numbers: Numbers, statistics: NumberStatistics, ramp: Colormap = RAMP
) -> None:
    """Draw the unit and below it the ramp, with an arrow at an end beyond which numbers occur."""
    sheet.text(left, top, numbers.unit, TEXT, color=FAINT)
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    colors = ScalarMappable(Normalize(numbers.low, numbers.high), ramp)
    axes = sheet.axes(left, top + 1.3 * ROW, *BAR)
    bar = sheet.figure.colorbar(
        colors, cax=axes, extend=ends[statistics.minimum < numbers.low, statistics.maximum > numbers.high]
    )
    bar.outline.set(edgecolor=FAINT, linewidth=0.4)
    axes.tick_params(labelsize=TEXT, labelcolor=INK, color=FAINT)


def class_figure(
    values: np.ndarray,
    geobox: GeoBox,
    classes: Sequence[ClassEntry],
    pixels: Sequence[int],
    *,
    title: str,
    attribution: str,
) -> Figure:
    """Draw the quick-look of a map of classes: the map, a key with the share of each class, scale bar and attribution.

    Args:
        values: the map at any resolution: uint8 (rows, columns).
        geobox: of the whole map.
        classes: in the order of their values.
        pixels: of each class in the whole map. The key omits classes without any.
        title: one line.
        attribution: small print below the map.
    """
    key = key_of_shares(classes, pixels)
    sheet, _, corner = map_sheet(class_image(values, classes), geobox, (key.width, key.height), title, attribution)
    draw_key(sheet, *corner, key)
    return sheet.figure


def number_figure(
    values: np.ndarray,
    geobox: GeoBox,
    numbers: Numbers,
    statistics: NumberStatistics,
    *,
    title: str,
    attribution: str,
    ramp: Colormap = RAMP,
) -> Figure:
    """Draw the quick-look of a map of numbers: the map, a colour bar with unit and statistics, scale bar and attribution.

    Args as in :func:`class_figure`, but `values` are float32; `numbers` are the unit and the span of the ramp.
    """
    figures = {
        "lowest": statistics.minimum,
        "mean": statistics.mean,
        "highest": statistics.maximum,
        "deviation": statistics.deviation,
    }
    below = 2 * ROW + BAR[1]
    size = BAR_COLUMN, below + ROW * len(figures)
    sheet, _, (left, top) = map_sheet(number_image(values, numbers, ramp), geobox, size, title, attribution)
    draw_color_bar(sheet, left, top, numbers, statistics, ramp)
    for row, (name, figure) in enumerate(figures.items()):
        sheet.text(left, top + below + row * ROW, name, TEXT, color=FAINT)
        sheet.text(left + COLUMN, top + below + row * ROW, format_number(figure), TEXT)
    return sheet.figure


def image_figure(
    image: np.ndarray, geobox: GeoBox, notes: Sequence[tuple[str, str]], *, title: str, attribution: str
) -> Figure:
    """Draw the quick-look of an image: the image, notes (a name and a text each) beside it, scale bar and attribution.

    Args as in :func:`class_figure`, but the image is uint8 (rows, columns, 3).
    """
    size = COLUMN + 0.085 * max(len(text) for _, text in notes), ROW * len(notes)
    sheet, _, (left, top) = map_sheet(image, geobox, size, title, attribution)
    for row, (name, text) in enumerate(notes):
        sheet.text(left, top + row * ROW, name, TEXT, color=FAINT)
        sheet.text(left + COLUMN, top + row * ROW, text, TEXT)
    return sheet.figure


def map_sheet(
    image: np.ndarray,
    geobox: GeoBox,
    beside: tuple[float, float],
    title: str,
    attribution: str,
    *,
    window: Window | None = None,
    side: float = MAP_SIDE,
) -> tuple[Sheet, Axes, tuple[float, float]]:
    """A sheet with title, map (or a window of it) and small print; the axes of the map; and the left and top of free space
    of size `beside` beside it."""
    window = window or whole(geobox)
    panel = panel_size(geobox, window, side, side)
    sheet_width = panel[0] + GAP + beside[0] + 2 * MARGIN
    print_lines = small_print(attribution, sheet_width)
    sheet_height = max(panel[1], beside[1]) + 0.45 + 2 * MARGIN + small_print_height(print_lines)
    sheet = Sheet(sheet_width, sheet_height)
    sheet.title(title)
    top = MARGIN + 0.45
    axes = sheet.axes(MARGIN, top, *panel)
    draw_image(axes, image, window, geobox)
    sheet.small_print(print_lines)
    return sheet, axes, (MARGIN + panel[0] + GAP, top)


def key_of_shares(classes: Sequence[ClassEntry], pixels: Sequence[int]) -> Key:
    """A row for each class that occurs, with its share of the map."""
    total = sum(pixels)
    counted = zip(classes, pixels, strict=True)
    rows = [KeyRow(entry.name, entry.color, (percent(count / total),)) for entry, count in counted if count]
    return Key(("share",), rows)


def panel_size(geobox: GeoBox, window: Window, most_width: float, most_height: float) -> tuple[float, float]:
    """Width and height in inches of a window drawn to scale, as large as fits, but no thinner than an inch."""
    across, down = pixel_metres(geobox)
    width, height = across * window.width, down * window.height
    scale = min(most_width / width, most_height / height)
    return max(1.0, width * scale), max(1.0, height * scale)


def north(geobox: GeoBox, window: Window) -> float | None:
    """The direction of true north in the middle of a window: degrees clockwise from up, as drawn; None at a pole."""
    assert geobox.crs is not None
    across, down = pixel_metres(geobox)
    middle = window.col + window.width / 2, window.row + window.height / 2
    to_degrees = Transformer.from_crs(geobox.crs.proj, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(*(geobox.affine @ middle))
    further = Geod(ellps="WGS84").fwd(longitude, latitude, 0.0, across + down)[:2]
    place = ~geobox.affine @ to_degrees.transform(*further, direction="INVERSE")
    right, up = (place[0] - middle[0]) * across, (middle[1] - place[1]) * down
    turn = math.degrees(math.atan2(right, up))
    return turn if math.isfinite(turn) and abs(latitude) < 89.9 else None


def round_length(most: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... (and 0.5, 0.2, ...) that is not more than `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def percent(share: float) -> str:
    """Format a share in per cent; a class that occurs is never 0%."""
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def shortened(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: max(1, length - 1)] + "…"


def small_print(text: str, width: float) -> list[str]:
    """Wrap the attribution into lines for a sheet of `width` inches, six at most."""
    return textwrap.wrap(text, max(20, int((width - 2 * MARGIN) / 0.05)), max_lines=6, placeholder=" …")


def small_print_height(lines: Sequence[str]) -> float:
    """Height of the small print in inches."""
    return 0.12 * len(lines) + 0.1 * bool(lines)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with warnings.catch_warnings():
        # Characters that matplotlib's font lacks are drawn as boxes; the map itself has the names right.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, format="png")
