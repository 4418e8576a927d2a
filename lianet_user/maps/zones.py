"""Zonal statistics of a finished map: a row for each of a user's polygons, with its own fields.

A pixel counts by the share of it that a zone covers, which exactextract computes exactly. Zones may overlap: each is
counted alone. Memory depends on the zones' attributes and :data:`CELLS`, not on the map or the size of a zone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely
from exactextract import exact_extract
from exactextract.raster import RasterSource
from numpy.ma import MaskedArray
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.io import DatasetReader

from lianet_user.errors import AreaError, LabelError, OutputError, PartlyOutsideWarning, listed
from lianet_user.files.artifact import refuse_existing, replacing
from lianet_user.geo.grid import Window
from lianet_user.geo.ground_area import SQUARE_METRES, Ground, densified, ground_areas
from lianet_user.geo.transformation import transformation, warn_of_missing_grids
from lianet_user.labels.areas import read_zones
from lianet_user.labels.cover import to_pixel_coordinates
from lianet_user.labels.features import Area, areas_in_crs_of
from lianet_user.labels.label_options import LabelOptions
from lianet_user.maps.geopackage import write_geopackage
from lianet_user.maps.geotiff import FinishedMap, open_finished, opened

CELLS = 2**22
"""Pixels that are read at once."""
ROUNDING = 1e-6
"""Share of a zone below which an unmapped rest is due to rounding."""
SUFFIXES = (".csv", ".gpkg")
LAYER = "zones"
"""Name of the layer in a GeoPackage."""

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ZoneTable:
    """A row for each zone, in the order of their file.

    Attributes:
        frame: ``zone``, the feature id of each in the file (QGIS's $id; else its row, from 1), the zones' own fields, the
            statistics of the map, and the outlines as they were given.
        columns: names of the columns that the map adds: ``zone_ha`` and ``unmapped``, the share of the zone that lies outside
            the map or on pixels without a value; for classes ``majority`` (the name of the class with the largest area; none
            where nothing is mapped) and for each class of the map ``ha_NAME`` and ``share_NAME``, the share of the whole zone;
            for numbers ``mean``, ``stdev``, ``min``, ``max`` and ``count``, the pixels that the zone covers.
        unit: of numbers.
        incomplete: zones of which some part is unmapped.
    """

    frame: geopandas.GeoDataFrame
    columns: tuple[str, ...]
    unit: str
    incomplete: int

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the table: ``.csv`` without the outlines, ``.gpkg`` with them.

        Raises:
            OutputError: the name has another suffix, or the file exists or cannot be written.
        """
        path = Path(path)
        check_output(path, overwrite)
        if path.suffix.lower() == ".csv":
            with replacing(path) as temporary:
                pd.DataFrame(self.frame.drop(columns="geometry")).to_csv(temporary, index=False, float_format="%.15g")
            return
        taken = {str(name).casefold() for name in self.frame}
        if twice := sorted(taken & {"geom"}):
            raise OutputError(
                f"{path}: the zones have a field {twice[0]!r}, the name of the geometry column: write .csv"
            )
        kinds = set(self.frame.geom_type)
        write_geopackage(
            path,
            LAYER,
            [self.frame],
            geometry_type=kinds.pop() if len(kinds) == 1 else "MultiPolygon",
            fid=next(name for name in ("fid", "ogc_fid", "row_id", "zones_fid") if name not in taken),
        )


def check_output(path: Path, overwrite: bool) -> None:
    """Check that a table may be written to a path.

    Raises:
        OutputError: the suffix is of another format, or the file exists and may not be replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: expected a name that ends in .csv or .gpkg")
    refuse_existing(path, overwrite)


def zones(
    map_path: str | os.PathLike[str],
    zones_path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    labels_crs: str | None = None,
    encoding: str | None = None,
    band: int = 1,
    prefix: str = "",
    before_computing: Callable[[], None] | None = None,
    listener: Callable[[int, int], None] | None = None,
) -> ZoneTable:
    """Compute the statistics of a map in each zone.

    Hectares are measured on the ellipsoid, whatever the map's CRS, and means of numbers weight pixels by them. A zone's edges
    are straight in the CRS of its file.

    Args:
        map_path: a finished map of classes or numbers.
        zones_path: vectors with polygons, in any CRS.
        layer: of a file of zones that has several.
        labels_crs: CRS of a file of zones that states none.
        encoding: of the text in a shapefile of zones.
        band: of a map that has several, from 1.
        prefix: of the names of the added columns, where the zones have fields of the same names.
        before_computing: called when map and zones have been read; what it raises ends the call.
        listener: called with the zones done and in total.

    Raises:
        MapError: the map cannot be read.
        LabelError: the zones cannot be read, have no CRS, are not all valid polygons, have a field with the name of an
            added column, or all lie outside the map.

    Warns:
        PartlyOutsideWarning: part of the zones is not mapped.
        LabelWarning: the coordinates could be more accurate with a grid that is not installed.
    """
    source = open_finished(map_path, band)
    options = LabelOptions(layer=layer, labels_crs=labels_crs, encoding=encoding)
    area, fields = read_zones(Path(zones_path), options)
    ground = Ground(source.geobox)
    pixels = _in_pixels(area, source)
    if before_computing is not None:
        before_computing()
    extracted = _extracted(source, ground, pixels, listener)
    measured = extracted["valid_count"].to_numpy(np.float64)
    unmapped = 1 - measured / shapely.area(pixels)
    unmapped = np.where(unmapped < ROUNDING, 0.0, unmapped)
    if (measured == 0).all():
        raise LabelError(
            f"{area.path}: no zone has mapped ground in {source.path}: choose zones that overlap the map, or check"
            " their CRS"
        )
    zone_ha = ground_areas(area.geometries, area.crs) / SQUARE_METRES
    statistics = _number_columns(extracted) if source.classes is None else _class_columns(source, extracted, zone_ha)
    columns: dict[str, Array] = {"zone_ha": zone_ha, "unmapped": unmapped, **statistics}
    added = {prefix + name: values for name, values in columns.items()}
    _check_names(fields, added, area.path)
    incomplete = int((unmapped > 0).sum())
    if incomplete:
        warnings.warn(
            PartlyOutsideWarning(
                f"{incomplete} of {len(pixels)} zones lie outside {source.path.name} or on pixels without a value, at least"
                f" in part: the column {prefix}unmapped has the share of each"
            ),
            stacklevel=2,
        )
    frame = geopandas.GeoDataFrame(
        pd.concat([fields.reset_index(drop=True), pd.DataFrame(added)], axis=1),
        geometry=area.geometries,
        crs=area.crs.proj,
    )
    return ZoneTable(frame, tuple(added), source.unit, incomplete)


def _in_pixels(area: Area, source: FinishedMap) -> NDArray[np.object_]:
    """Transform the zones to (column, row) of the map: (zones,)."""
    to_map = transformation(area.crs, source.geobox)
    warn_of_missing_grids(area.path, to_map)
    dense = replace(area, geometries=densified(area.geometries, area.crs))
    try:
        moved = areas_in_crs_of(source.geobox, dense, to_map)
    except AreaError as error:
        raise LabelError(f"{area.path}: the zones lie outside {source.path}: check their CRS") from error
    points, of = shapely.get_coordinates(moved, return_index=True)
    lost = of[~np.isfinite(points).all(axis=1)]
    if len(lost):
        raise LabelError(
            f"{area.path}: row {int(lost[0]) + 1} reaches farther than the map's CRS does: cut it to the surroundings of"
            f" {source.path.name}"
        )
    return to_pixel_coordinates(moved, source.geobox)


class _Pixels(RasterSource):  # type: ignore[misc]  # exactextract ships no types
    """A raster for exactextract: each pixel is a unit square, and rows count downward from 0 as negative y."""

    def __init__(self, name: str, shape: tuple[int, int], read: Callable[[Window], MaskedArray[Any, Any]]) -> None:
        super().__init__()
        self.shape, self._read = shape, read
        self.set_name(name)

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, float, float, float]:
        height, width = self.shape
        return 0.0, -float(height), float(width), 0.0

    def nodata_value(self) -> None:
        return None

    def srs_wkt(self) -> str:
        return PIXELS.to_wkt()

    def read_window(self, x0: int, y0: int, nx: int, ny: int) -> MaskedArray[Any, Any]:
        values = self._read(Window(y0, x0, max(ny, 1), max(nx, 1)))[:ny, :nx]  # an empty window still has its dtype
        # numpy omits a mask without any True, and exactextract needs one of the right shape.
        return np.ma.masked_array(values.data, np.ma.getmaskarray(values))


PIXELS = CRS.from_wkt('LOCAL_CS["pixels",UNIT["pixel",1]]')


def _extracted(
    source: FinishedMap, ground: Ground, pixels: NDArray[np.object_], listener: Callable[[int, int], None] | None
) -> pd.DataFrame:
    """The statistics of exactextract, a row for each zone, under its own names."""
    height, width = source.geobox.shape
    shape = (height, width)
    flipped = shapely.transform(pixels, lambda points: points * (1.0, -1.0))
    frame = geopandas.GeoDataFrame(geometry=flipped, crs=PIXELS)
    with opened(source.path) as dataset:
        value = _Pixels("value", shape, lambda window: source.read(dataset, window))
        valid = _Pixels("valid", shape, lambda window: _ones(source, dataset, window))
        weight = _Pixels("ha", shape, lambda window: np.ma.masked_array(ground.pixels(window)))
        operations = ("unique", "weighted_frac") if source.classes is not None else ("weighted_mean", "weighted_stdev")
        # One call for both would name the columns after each other's raster.
        common = {"output": "pandas", "weights": weight, "max_cells_in_memory": CELLS}
        first = exact_extract(valid, frame, ["count", "weighted_sum"], **common)
        extremes = [] if source.classes is not None else ["min", "max"]
        if listener:
            common["progress"] = lambda share, _: listener(round(share * len(frame)), len(frame))
        second = exact_extract(value, frame, [*operations, *extremes], **common)
    first.columns = ["valid_count", "valid_ha"]
    second.columns = [*operations, *extremes]
    return pd.concat([first, second], axis=1)


def _ones(source: FinishedMap, dataset: DatasetReader, window: Window) -> MaskedArray[Any, Any]:
    values = source.read(dataset, window)
    return np.ma.masked_array(np.ones(values.shape), np.ma.getmaskarray(values))


def _class_columns(source: FinishedMap, extracted: pd.DataFrame, zone_ha: NDArray[np.float64]) -> dict[str, Array]:
    assert source.classes is not None
    present = {int(value) for values in extracted["unique"] for value in values}
    order = [*source.classes, *sorted(present - set(source.classes))]
    place = {value: index for index, value in enumerate(order)}
    hectares = np.zeros((len(extracted), len(order)))
    for row, (values, shares, ha) in enumerate(
        zip(extracted["unique"], extracted["weighted_frac"], extracted["valid_ha"], strict=True)
    ):
        for value, share in zip(values, shares, strict=True):
            hectares[row, place[int(value)]] = share * ha
    entries = [source.class_of(value) for value in order]
    names = _distinct([entry.name for entry in entries], order)
    most = np.array([entries[index].name for index in hectares.argmax(1)], object)
    most[~hectares.any(1)] = None
    columns: dict[str, Array] = {"majority": most}
    for index, name in enumerate(names):
        columns[f"ha_{name}"] = hectares[:, index]
        columns[f"share_{name}"] = hectares[:, index] / zone_ha
    return columns


def _distinct(names: Sequence[str], values: Sequence[int]) -> list[str]:
    """Make names differ in more than case, because a GeoPackage ignores the case of column names."""
    folded = [name.casefold() for name in names]
    return [
        f"{name}_{value}" if folded.count(key) > 1 else name
        for name, key, value in zip(names, folded, values, strict=True)
    ]


def _number_columns(extracted: pd.DataFrame) -> dict[str, Array]:
    mapped = extracted["valid_count"].to_numpy() > 0
    names = {"mean": "weighted_mean", "stdev": "weighted_stdev", "min": "min", "max": "max"}
    columns: dict[str, Array] = {
        ours: np.where(mapped, extracted[theirs].to_numpy(np.float64), np.nan) for ours, theirs in names.items()
    }
    return {**columns, "count": extracted["valid_count"].to_numpy(np.float64)}


def _check_names(fields: pd.DataFrame, added: dict[str, Array], path: Path) -> None:
    theirs = {str(name).casefold(): str(name) for name in fields}
    if twice := [theirs[name.casefold()] for name in added if name.casefold() in theirs]:
        raise LabelError(
            f"{path}: the zones have fields with the names of columns of the result ({listed(twice, 3)}): rename"
            " the columns with a `prefix`, for instance map_"
        )
