"""A map in the making as plain numbers in a file, and a virtual raster (VRT) that says to GDAL what they are.

Tiles come in any order, and GDAL's COG driver copies from a whole raster only. That one is no GeoTIFF: where the disk is full,
libtiff notices late, or goes round and round in a file whose directory it could not write. Python says at once what it is.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from odc.geo.geobox import GeoBox

from lianet_user.grid import Window
from lianet_user.maps.layer import Layer

_GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}


def write_raw(
    path: Path, geobox: GeoBox, tiles: Iterable[tuple[Window, np.ndarray]], layer: Layer
) -> tuple[list[Window], int]:
    """Write tiles as numbers, band after band, row after row.

    Args:
        path: of the file.
        geobox: of the map.
        tiles: windows of it with their values (bands, height, width) of the layer's type.
        layer: how they are stored.

    Returns:
        The windows in the order in which they were written, and the checksum of their values.

    Raises:
        OSError: it cannot be written.
    """
    height, width = geobox.shape
    size = np.dtype(layer.dtype).itemsize
    written, checksum = [], 0
    with open(path, "wb") as file:
        file.truncate(height * width * layer.pixel_bytes)
        for window, values in tiles:
            for band, rows in enumerate(values):
                # Rows of a window as wide as the map follow each other.
                for row, part in enumerate([rows] if window.width == width else rows):
                    file.seek(((band * height + window.row + row) * width + window.col) * size)
                    file.write(np.ascontiguousarray(part).data.cast("B"))
            written.append(window)
            checksum = zlib.crc32(np.ascontiguousarray(values).data.cast("B"), checksum)
    return written, checksum


def write_vrt(path: Path, raw: Path, geobox: GeoBox, layer: Layer, tags: Mapping[str, str]) -> None:
    """Say what the numbers of a file are.

    Args:
        path: of the virtual raster, beside `raw`.
        raw: of :func:`write_raw`.
        geobox: of the map.
        layer: how its values are stored.
        tags: of the map.

    Raises:
        OSError: it cannot be written.
    """
    assert geobox.crs is not None
    height, width = geobox.shape
    size = np.dtype(layer.dtype).itemsize
    root = Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    _add(root, "SRS", geobox.crs.to_wkt())
    _add(root, "GeoTransform", ", ".join(map(repr, geobox.affine.to_gdal())))
    _add_tags(root, {"AREA_OR_POINT": "Area", **tags})
    colors = ("Red", "Green", "Blue") if layer.light else ("Palette",) if layer.palette else ()
    for number, name in enumerate(layer.bands):
        band = SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[layer.dtype], band=str(number + 1))
        band.set("subClass", "VRTRawRasterBand")
        if number < len(layer.band_tags):
            _add_tags(band, layer.band_tags[number])
        _add(band, "Description", name)
        _add(band, "UnitType", layer.unit)
        _add(band, "NoDataValue", repr(float(layer.nodata)))
        if layer.scale != 1:
            _add(band, "Scale", repr(layer.scale))
        _add(band, "ColorInterp", colors[number] if number < len(colors) else "Gray" if number == 0 else "Undefined")
        if layer.palette:
            table = SubElement(band, "ColorTable")
            for value in range(256):
                red, green, blue = layer.palette.get(value, (0, 0, 0))
                SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
        _add(band, "SourceFilename", raw.name).set("relativetoVRT", "1")
        _add(band, "ImageOffset", str(number * height * width * size))
        _add(band, "PixelOffset", str(size))
        _add(band, "LineOffset", str(width * size))
        _add(band, "ByteOrder", "LSB" if sys.byteorder == "little" else "MSB")
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def _add(parent: Element, tag: str, text: str) -> Element:
    element = SubElement(parent, tag)
    element.text = text
    return element


def _add_tags(parent: Element, tags: Mapping[str, str]) -> None:
    element = SubElement(parent, "Metadata")
    for key, value in tags.items():
        _add(element, "MDI", value).set("key", key)
