"""The loop: a head over a window of its region, tile by tile, into files that appear finished or not at all."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from lianet_user.artifact import refuse_existing
from lianet_user.errors import OutputError
from lianet_user.grid import Bounds, Window, whole, window_geobox
from lianet_user.head import Head
from lianet_user.maps.geotiff import GDAL_ERRORS, check_disk_space, checked_options, read_decimated, write_map
from lianet_user.maps.picture import save_png
from lianet_user.maps.product import Product, product_of
from lianet_user.maps.style import tags
from lianet_user.maps.summary import Summary

Listener = Callable[[int, int], None]
SUFFIXES = (".tif", ".tiff")
QUICKLOOK_SIDE = 1200
"""Pixels of the map along the longer side of its quick-look."""


@dataclass(frozen=True)
class MapFiles:
    """A map and what lies beside it."""

    tif: Path
    pam: Path
    """Class names and attribute table, or statistics, for GDAL."""
    qml: Path
    """Style, for QGIS."""
    png: Path
    """The map at a glance."""

    @classmethod
    def of(cls, tif: Path) -> MapFiles:
        return cls(tif, tif.with_name(f"{tif.name}.aux.xml"), tif.with_suffix(".qml"), tif.with_suffix(".png"))

    @property
    def in_order(self) -> tuple[Path, ...]:
        """In the order in which they are put in place: the map last, so that it never lies there without its names."""
        return self.pam, self.qml, self.png, self.tif

    @property
    def stale(self) -> tuple[Path, ...]:
        """What GDAL would read as part of the map, and what can only belong to an earlier one: overviews and a mask."""
        return self.tif.with_name(f"{self.tif.name}.ovr"), self.tif.with_name(f"{self.tif.name}.msk")


@dataclass(frozen=True)
class MapResult:
    """A finished map."""

    path: Path
    quicklook: Path
    window: Window
    """Pixels of the region that the map covers."""
    geobox: GeoBox
    """Of the map: these pixels, or finer ones."""
    date: dt.date
    """Of the acquisition that was mapped."""
    summary: Summary
    """What it holds: the pixels of each class, or the statistics of the numbers."""
    outside: float
    """Share of the box that lies outside the region and is not mapped: 0 to 1."""
    seconds: float


def predict(
    head: Head,
    output: str | os.PathLike[str],
    *,
    bbox: Bounds | None = None,
    bbox_crs: str = "EPSG:4326",
    date: dt.date | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
    creation_options: Mapping[str, str] | None = None,
) -> MapResult:
    """Map a window of a head's region to a Cloud-Optimized GeoTIFF on the head's grid.

    Classes are uint8 with colours and nodata 255, numbers float32 with their unit and nodata NaN. Beside ``map.tif`` come
    ``map.tif.aux.xml`` (for GDAL: class names and attribute table, or statistics), ``map.qml`` (style for QGIS) and
    ``map.png`` (the map at a glance). All are made in a temporary folder beside the map and take their places when
    everything is finished and checked; until then an earlier map stays as it is. Memory follows the tile, not the map.

    Args:
        head: opened or just trained.
        output: ``*.tif`` or ``*.tiff``.
        bbox: west, south, east, north in `bbox_crs`; None maps the whole region. Every pixel of
            the region that it touches is mapped.
        bbox_crs: anything that names a CRS.
        date: of an acquisition; None takes the one the head was trained on, or the only one of the region.
        overwrite: replace an earlier map and what lies beside it.
        listener: told the map's pixels done and in all after every tile.
        creation_options: of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`.

    Raises:
        AreaError: the box lies outside the region, or its CRS is unknown.
        DateError: the region does not hold `date`, or none was given and there are several.
        OutputError: the map exists, cannot be written, or does not fit on the disk.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        PartlyOutsideWarning: part of the box lies outside the region and is not mapped.
    """
    started = time.monotonic()
    head.check_region()
    files = _files(Path(output), overwrite)
    product = product_of(head.header)
    options = checked_options(creation_options or {}, product.layer)
    mapped_date = head.acquisition_date(date)
    window, outside = head.region.window_of(bbox, bbox_crs)
    check_disk_space(files.tif.absolute().parent, window.scaled(head.scale).pixels, product.layer)
    geobox = window_geobox(head.geobox, window.scaled(head.scale))
    with _temporary_folder(files.tif) as folder:
        made = MapFiles.of(folder / files.tif.name)
        tiles = _counted(head.tiles(window, mapped_date), product, geobox, listener)
        words = tags(head, mapped_date, product.title, product.tags)
        write_map(made.tif, geobox, tiles, product.layer, words, options)
        product.write_pam(made.pam)
        product.write_qml(made.qml)
        glance = read_decimated(made.tif, QUICKLOOK_SIDE, product.layer)
        title = f"{head.region.header.title}, {mapped_date}"
        save_png(product.figure(glance, geobox, title=title, attribution=head.header.attribution), made.png)
        _put_in_place(made, files)
    return MapResult(
        path=files.tif,
        quicklook=files.png,
        window=window,
        geobox=geobox,
        date=mapped_date,
        summary=product.summary,
        outside=outside,
        seconds=time.monotonic() - started,
    )


def _counted(
    tiles: Iterable[tuple[Window, np.ndarray]], product: Product, geobox: GeoBox, listener: Listener | None
) -> Iterator[tuple[Window, np.ndarray]]:
    """The tiles of a map as they come, told to its product and to the listener."""
    total, done = whole(geobox).pixels, 0
    for window, values in tiles:
        product.add(values)
        done += window.pixels
        if listener:
            listener(done, total)
        yield window, values


def _files(output: Path, overwrite: bool) -> MapFiles:
    """
    Raises:
        OutputError: the name is no GeoTIFF's, or one of the files exists and may not be replaced.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{output}: a map is a GeoTIFF, expected a name that ends in .tif: give one with -o")
    files = MapFiles.of(output)
    for path in reversed(files.in_order):
        refuse_existing(path, overwrite)
    return files


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """A folder beside the map, on the same file system, so that finished files only need new names.

    Raises:
        OutputError: something in the block, or the folder itself, cannot be written.
    """
    parent = target.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.stem[:32]}.", suffix=".partial", dir=parent) as folder:
            yield Path(folder)
    except GDAL_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"cannot write {target}: {reason}") from error


def _put_in_place(made: MapFiles, files: MapFiles) -> None:
    for path in made.in_order:
        with open(path, "rb+") as handle:
            os.fsync(handle.fileno())
    for path in files.stale:
        path.unlink(missing_ok=True)
    for source, target in zip(made.in_order, files.in_order, strict=True):
        source.replace(target)
