"""What a map says about itself: tags in the TIFF, GDAL's sidecar with the class names, and a style for QGIS.

rasterio has no call for category names or attribute tables, so the sidecar is written as GDAL would write it: a PAM
file ``<map>.tif.aux.xml``, which GDAL (and with it QGIS and rasterio) reads whenever it opens the map. The QGIS style
``<map>.qml`` lies beside the map under its name, where QGIS looks for it.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from lianet_user.head import Head
from lianet_user.header import ClassEntry

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


def tags(head: Head, date: dt.date) -> dict[str, str]:
    """Where a map comes from, as TIFF tags: region, date, head, classes, attribution, software."""
    region = head.region.header
    classes = [
        {"value": value, **entry.model_dump(exclude_defaults=True)} for value, entry in enumerate(head.header.classes)
    ]
    return {
        "TIFFTAG_IMAGEDESCRIPTION": f"{region.title}: map of {len(classes)} classes, {date}",
        "TIFFTAG_SOFTWARE": f"lianet-user {version('lianet-user')}",
        "TIFFTAG_COPYRIGHT": head.header.attribution,
        "REGION": region.name,
        "REGION_SHA256": head.header.region.sha256,
        "REGION_LICENCE": region.licence,
        "DATE": date.isoformat(),
        "LABELS": head.header.provenance.source,
        **({"HEAD_SHA256": head.sha256} if head.sha256 else {}),
        "HEAD_CREATED": head.header.provenance.created.isoformat(),
        "CLASSES": json.dumps(classes, ensure_ascii=False),
    }


def write_pam(path: Path, classes: Sequence[ClassEntry], pixels: Sequence[int]) -> None:
    """Write the sidecar with category names and the raster attribute table.

    Args:
        path: ``<map>.tif.aux.xml``.
        classes: in the order of their values.
        pixels: of each class in the map.
    """
    root = Element("PAMDataset")
    band = SubElement(root, "PAMRasterBand", band="1")
    names = SubElement(band, "CategoryNames")
    for entry in classes:
        SubElement(names, "Category").text = _xml(entry.name)
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(COLUMNS):
        column = SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            SubElement(column, tag).text = str(value)
    for value, (entry, count) in enumerate(zip(classes, pixels, strict=True)):
        row = SubElement(table, "Row", index=str(value))
        for cell in (value, _xml(entry.name), count, *rgb(entry.color)):
            SubElement(row, "F").text = str(cell)
    _write(path, root)


def write_qml(path: Path, classes: Sequence[ClassEntry]) -> None:
    """Write the style with which QGIS shows the map: a palette with the classes' names and colours."""
    root = Element("qgis", version="3.16", styleCategories="Symbology")
    pipe = SubElement(root, "pipe")
    renderer = SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    SubElement(renderer, "rasterTransparency")
    palette = SubElement(renderer, "colorPalette")
    for value, entry in enumerate(classes):
        SubElement(palette, "paletteEntry", value=str(value), label=_xml(entry.name), color=entry.color, alpha="255")
    _write(path, root)


def _xml(text: str) -> str:
    """`text` without the control characters that no XML file may hold."""
    return _NOT_XML.sub("\ufffd", text)


def _write(path: Path, root: Element) -> None:
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=False)
