"""The metadata of a map: TIFF tags, GDAL's sidecar file with class names or statistics, and a style for QGIS.

rasterio cannot write category names or attribute tables, so the sidecar file is written as GDAL would write it: a PAM
file ``<map>.tif.aux.xml``, which GDAL (and with it QGIS and rasterio) reads whenever it opens the map. QGIS finds its style
``<map>.qml`` beside the map.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex

from lianet_user.files.header import ClassEntry, Numbers, RegionHeader
from lianet_user.head import Head
from lianet_user.maps.summary import NumberStatistics, format_number

RAMP = colormaps["viridis"]
"""The colours of numbers, from the lowest to the highest: equal steps look equal, to the colour-blind too."""
STOPS = 21
"""Colours of the ramp in a QGIS style; QGIS interpolates between them with an error of at most 4 of 255."""

ONE_BAND = {"band": "1", "nodataColor": ""}
"""Attributes of QGIS's renderers of one band."""

RGB = tuple[int, int, int]

# The numbers of GDALRATFieldType and GDALRATFieldUsage (gdal.h).
_INTEGER, _REAL, _STRING = 0, 1, 2
_PIXEL_COUNT, _NAME, _MIN_MAX, _RED, _GREEN, _BLUE = 1, 2, 5, 6, 7, 8
COLUMNS = (
    ("Value", _INTEGER, _MIN_MAX),
    ("Class", _STRING, _NAME),
    ("Count", _REAL, _PIXEL_COUNT),  # real: GDAL's integers end at 2**31, a map's pixels do not
    ("Red", _INTEGER, _RED),
    ("Green", _INTEGER, _GREEN),
    ("Blue", _INTEGER, _BLUE),
)

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def rgb(color: str) -> RGB:
    """``#rrggbb`` as three numbers from 0 to 255."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def head_tags(
    heads: Sequence[Head], dates: Sequence[dt.date], title: str, meaning: Mapping[str, str]
) -> dict[str, str]:
    """The TIFF tags of a map made with heads: region, date, head, attribution, software, and the meaning of its values.

    Args:
        heads: one, or several that are mosaicked: every tag then lists the values of all, in their order.
        dates: of the acquisition of each.
        title: what the map shows.
        meaning: tags that explain the values.
    """
    regions = [head.region.header for head in heads]

    def joined(values: Iterable[str], between: str = ", ") -> str:
        return between.join(dict.fromkeys(values))

    day = joined(date.isoformat() for date in dates)
    hashes = [head.sha256 for head in heads if head.sha256]
    return {
        "TIFFTAG_IMAGEDESCRIPTION": f"{joined(region.title for region in regions)}: {title}, {day}",
        "TIFFTAG_SOFTWARE": f"lianet-user {version('lianet-user')}",
        "TIFFTAG_COPYRIGHT": attribution(heads),
        "REGION": joined(region.name for region in regions),
        "REGION_SHA256": joined(head.header.region.sha256 for head in heads),
        "REGION_LICENCE": joined(region.licence for region in regions),
        "DATE": day,
        "LABELS": joined(head.header.provenance.source for head in heads),
        **({"HEAD_SHA256": joined(hashes)} if hashes else {}),
        "HEAD_CREATED": joined(head.header.provenance.created.isoformat() for head in heads),
        "TASK": heads[0].header.task,
        **meaning,
    }


def attribution(heads: Sequence[Head]) -> str:
    """The attribution that a map of these heads has to carry."""
    return "; ".join(dict.fromkeys(head.header.attribution for head in heads))


def class_tags(classes: Sequence[ClassEntry]) -> dict[str, str]:
    """The classes as a TIFF tag, from which `lianet_user.labels` reads them when the map is given as labels."""
    entries = [{"value": value, **entry.model_dump(exclude_defaults=True)} for value, entry in enumerate(classes)]
    return {"CLASSES": json.dumps(entries, ensure_ascii=False)}


def write_pam(
    path: Path, classes: Sequence[ClassEntry], pixels: Sequence[int], values: Sequence[int] | None = None
) -> None:
    """Write the sidecar file with category names and the raster attribute table.

    Args:
        path: ``<map>.tif.aux.xml``.
        classes: in the order of their values.
        pixels: of each class in the map.
        values: of the classes, where they are not 0, 1, 2, ...: only the attribute table then names them.
    """
    root = Element("PAMDataset")
    band = SubElement(root, "PAMRasterBand", band="1")
    if values is None:  # category names are those of 0, 1, 2, ...
        names = SubElement(band, "CategoryNames")
        for entry in classes:
            SubElement(names, "Category").text = _xml(entry.name)
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(COLUMNS):
        column = SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            SubElement(column, tag).text = str(value)
    numbers = range(len(classes)) if values is None else values
    for index, (value, entry, count) in enumerate(zip(numbers, classes, pixels, strict=True)):
        row = SubElement(table, "Row", index=str(index))
        for cell in (value, _xml(entry.name), count, *rgb(entry.color)):
            SubElement(row, "F").text = str(cell)
    _write(path, root)


def write_statistics_pam(path: Path, statistics: NumberStatistics) -> None:
    """Write the sidecar file with the statistics of all the band's valid pixels, under GDAL's names."""
    root = Element("PAMDataset")
    metadata = SubElement(SubElement(root, "PAMRasterBand", band="1"), "Metadata")
    for name, value in (
        ("MAXIMUM", statistics.maximum),
        ("MEAN", statistics.mean),
        ("MINIMUM", statistics.minimum),
        ("STDDEV", statistics.deviation),
        ("VALID_PERCENT", 100 if statistics.valid == 1 else 100 * statistics.valid),
    ):
        SubElement(metadata, "MDI", key=f"STATISTICS_{name}").text = repr(value)
    _write(path, root)


def write_qml(path: Path, classes: Sequence[ClassEntry], values: Sequence[int] | None = None) -> None:
    """Write the style with which QGIS shows a map of classes: a palette with their names and colours.

    Args:
        path: of the style.
        classes: in the order of their values.
        values: of the classes, where they are not 0, 1, 2, ...
    """
    root, renderer = _renderer("paletted", ONE_BAND)
    palette = SubElement(renderer, "colorPalette")
    for value, entry in zip(range(len(classes)) if values is None else values, classes, strict=True):
        SubElement(palette, "paletteEntry", value=str(value), label=_xml(entry.name), color=entry.color, alpha="255")
    _write(path, root)


def write_ramp_qml(path: Path, numbers: Numbers, ramp: Colormap = RAMP) -> None:
    """Write the style with which QGIS shows a map of numbers: the ramp from `numbers.low` to `numbers.high`.

    Numbers beyond are shown in the colour of the nearer end.
    """
    low, high = repr(numbers.low), repr(numbers.high)
    span = {"classificationMin": low, "classificationMax": high}
    root, renderer = _renderer("singlebandpseudocolor", ONE_BAND | span)
    shader = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="2",  # of equal intervals
        clip="0",
        minimumValue=low,
        maximumValue=high,
    )
    shares = [stop / (STOPS - 1) for stop in range(STOPS)]
    colors = [to_hex(ramp(share)) for share in shares]
    _add_gradient(shader, shares, colors)
    unit = _xml(numbers.unit)
    for share, color in zip(shares, colors, strict=True):
        number = (1 - share) * numbers.low + share * numbers.high
        SubElement(shader, "item", value=repr(number), label=format_number(number, unit), color=color, alpha="255")
    legend = SubElement(shader, "rampLegendSettings", useContinuousLegend="1", prefix="", suffix=f" {unit}".rstrip())
    SubElement(legend, "numericFormat", id="basic")
    _write(path, root)


def write_rgb_qml(path: Path, bands: Sequence[int], low: Sequence[float], high: Sequence[float]) -> None:
    """Write the style with which QGIS shows an image: three of its bands as red, green and blue.

    Args:
        path: of the style.
        bands: their indices from 0.
        low: the value of each that is shown as 0.
        high: the value of each that is shown as 255.
    """
    names = ("red", "green", "blue")
    shown = {f"{name}Band": str(band + 1) for name, band in zip(names, bands, strict=True)}
    root, renderer = _renderer("multibandcolor", shown)
    for name, least, most in zip(names, low, high, strict=True):
        contrast = SubElement(renderer, f"{name}ContrastEnhancement")
        for tag, value in (
            ("minValue", repr(float(least))),
            ("maxValue", repr(float(most))),
            ("algorithm", "StretchToMinimumMaximum"),
        ):
            SubElement(contrast, tag).text = value
    _write(path, root)


def region_tags(
    region: RegionHeader, sha256: str | None, day: str, title: str, meaning: Mapping[str, str]
) -> dict[str, str]:
    """The TIFF tags of an image reconstructed from a region; see :func:`head_tags`."""
    return {
        "TIFFTAG_IMAGEDESCRIPTION": f"{region.title}: {title}, {day}",
        "TIFFTAG_SOFTWARE": f"lianet-user {version('lianet-user')}",
        "TIFFTAG_COPYRIGHT": region.attribution,
        "REGION": region.name,
        **({"REGION_SHA256": sha256} if sha256 else {}),
        "REGION_LICENCE": region.licence,
        "DATE": day,
        **meaning,
    }


def _add_gradient(shader: Element, shares: Sequence[float], colors: Sequence[str]) -> None:
    """Add the ramp that the legend shows, and that QGIS applies again when a user changes the span."""
    first, *between, last = (f"{','.join(map(str, rgb(color)))},255" for color in colors)
    stops = ":".join(f"{share:g};{color}" for share, color in zip(shares[1:-1], between, strict=True))
    ramp = SubElement(shader, "colorramp", type="gradient", name="[source]")
    properties = {"color1": first, "color2": last, "discrete": "0", "rampType": "gradient", "stops": stops}
    for key, value in properties.items():
        SubElement(ramp, "prop", k=key, v=value)


def _renderer(kind: str, attributes: Mapping[str, str]) -> tuple[Element, Element]:
    """A QGIS style, and its renderer, still empty."""
    root = Element("qgis", version="3.16", styleCategories="Symbology")
    renderer = SubElement(SubElement(root, "pipe"), "rasterrenderer", type=kind, opacity="1", alphaBand="-1")
    renderer.attrib |= attributes
    SubElement(renderer, "rasterTransparency")
    return root, renderer


def _xml(text: str) -> str:
    """`text` without the control characters that no XML file may hold."""
    return _NOT_XML.sub("\ufffd", text)


def _write(path: Path, root: Element) -> None:
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)
