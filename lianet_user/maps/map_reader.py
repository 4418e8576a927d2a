"""Reads a finished map: what its values mean, and its pixels window by window."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from numpy.ma import MaskedArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from lianet_user.errors import MapError
from lianet_user.files.header import ClassEntry
from lianet_user.geo.grid import Window, parse_crs
from lianet_user.labels.class_tables import TAG, raster_class_table

UNNAMED = "#9e9e9e"
"""The colour of a class for which the map has none."""


@dataclass(frozen=True, eq=False)
class FinishedMap:
    """One band of a map that was written earlier, by this program or another.

    Attributes:
        path: of the map.
        band: from 1.
        geobox: its grid, with a CRS.
        classes: by their values, as named in the file; None where the band holds numbers.
        unit: of numbers; empty where the file states none.
        nodata: the nodata value; None where there is none.
        attribution: as stated in the file; empty without any.
    """

    path: Path
    band: int
    geobox: GeoBox
    classes: Mapping[int, ClassEntry] | None
    unit: str
    nodata: float | None
    attribution: str

    def class_of(self, value: int) -> ClassEntry:
        """The class of a value; where the file does not name it, its name is the number."""
        assert self.classes is not None
        return self.classes.get(value) or ClassEntry(name=str(value), color=UNNAMED)

    def read(self, dataset: DatasetReader, window: Window) -> MaskedArray[Any, Any]:
        """Read the values of a window (height, width): classes as stored, numbers in their unit; nodata is masked."""
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        values = dataset.read(self.band, window=place, masked=True)
        if self.classes is not None:
            return values
        scale, offset = dataset.scales[self.band - 1], dataset.offsets[self.band - 1]
        return np.ma.masked_invalid(values.astype(np.float64) * scale + offset)


def open_finished(path: str | os.PathLike[str], band: int = 1) -> FinishedMap:
    """Read the metadata of a map; no pixel is read.

    Raises:
        MapError: it is not a raster, lacks the band or a CRS, or holds integers without classes or a unit.
        LabelError: a sidecar file that names its classes cannot be read.
    """
    path = Path(path)
    with opened(path) as dataset:
        if not 1 <= band <= dataset.count:
            raise MapError(f"{path} has no band {band}: expected `band` from 1 to {dataset.count}")
        if dataset.crs is None:
            raise MapError(f"{path} has no coordinate reference system: expected a map that predict wrote")
        crs = parse_crs(dataset.crs, f"{path}: its CRS", MapError)
        tags = dataset.tags()
        scaled = (dataset.scales[band - 1], dataset.offsets[band - 1]) != (1.0, 0.0)
        whole = np.issubdtype(np.dtype(dataset.dtypes[band - 1]), np.integer) and not scaled
        classes = _classes(path, band, tags) if whole else None
        # Where the CRS has heights, GDAL says their unit here, whatever the values are.
        heights = len(pyproj.CRS(dataset.crs).axis_info) > 2
        unit = ("" if heights else dataset.units[band - 1]) or tags.get("UNIT", "")
        if whole and classes is None and not unit:
            raise MapError(
                f"{path}: band {band} holds whole numbers and states neither classes nor a unit: expected a map that"
                " predict wrote, with its sidecar files"
            )
        return FinishedMap(
            path=path,
            band=band,
            geobox=GeoBox(dataset.shape, dataset.transform, crs),
            classes=classes,
            unit=unit,
            nodata=dataset.nodata,
            attribution=tags.get("TIFFTAG_COPYRIGHT", ""),
        )


def opened(path: Path) -> DatasetReader:
    """Open a map as a raster.

    Raises:
        MapError: that is not possible.
    """
    if not path.exists():
        raise MapError(f"{path} does not exist: expected a map (GeoTIFF) that predict wrote")
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise MapError(f"{path} cannot be read as a map: expected a GeoTIFF that predict wrote") from error


def _classes(path: Path, band: int, tags: Mapping[str, str]) -> dict[int, ClassEntry] | None:
    table = raster_class_table(path, band, tags)
    if table is None:
        return None
    codes: dict[int, str] = {}
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        codes = {int(entry["value"]): str(entry.get("code", "")) for entry in json.loads(tags.get(TAG, ""))}
    classes = {}
    for entry in table.entries:
        with suppress(ValueError):
            number = float(entry.label)
            if math.isfinite(number) and number.is_integer():
                value = int(number)
                classes[value] = ClassEntry(
                    name=entry.name[:128], color=entry.color or UNNAMED, code=codes.get(value, "")
                )
    return classes or None
