"""Raster files: which files of a folder are rasters, which dates their names hold, and reading them window by window."""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from lianet_user.errors import ImageryError
from lianet_user.files.header import Acquisition
from lianet_user.geo.grid import Window, parse_crs
from lianet_user.imagery.imagery import Plane

# GDAL keeps decoded blocks of up to 5 % of the memory. Windows are drawn at random, so that few are met again.
os.environ.setdefault("GDAL_CACHEMAX", "256")

OPEN_FILES = 64
"""Files that a thread keeps open: opening costs more than reading a window."""


@dataclass(frozen=True, eq=False)
class RasterFile:
    """A raster and what its header says.

    Attributes:
        path: of the file.
        geobox: its grid.
        names: of its layers: their descriptions, empty where they have none.
        dtypes: of its layers, as numpy calls them.
        nodata: of its layers: the number that is not a measurement.
        scaling: of its layers: scale and offset as in `Band`, where the file says them.
        masked: of its layers: whether the file's own mask says which pixels were measured.
    """

    path: Path
    geobox: GeoBox
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    scaling: tuple[tuple[float, float] | None, ...]
    masked: tuple[bool, ...]

    @classmethod
    def open(cls, path: Path) -> RasterFile:
        """Read the header of a raster.

        Raises:
            ImageryError: it cannot be read, is not a raster, or is not georeferenced.
        """
        with _translated(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused below, in our words
            with rasterio.open(path) as source:
                if source.crs is None or source.transform.is_identity:
                    what = "coordinate reference system" if source.crs is None else "transform to coordinates"
                    raise ImageryError(f"{path} has no {what}: imagery must be georeferenced")
                if source.transform.is_degenerate or any("complex" in dtype for dtype in source.dtypes):
                    raise ImageryError(f"{path} holds complex numbers, or pixels without size: expected a plain raster")
                return cls(
                    path,
                    GeoBox(
                        source.shape,
                        source.transform,
                        parse_crs(source.crs, f"{path}: its CRS", ImageryError),
                    ),
                    tuple(name or "" for name in source.descriptions),
                    tuple(source.dtypes),
                    tuple(source.nodatavals),
                    tuple(_scaling(path, *declared) for declared in zip(source.scales, source.offsets, strict=True)),
                    tuple(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums),
                )

    @property
    def layers(self) -> int:
        return len(self.dtypes)


class RasterPlane(Plane):
    """One layer of a raster, counted from 1. `nodata` is in addition to what the file declares."""

    def __init__(
        self,
        file: RasterFile,
        layer: int = 1,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: tuple[float, ...] = (),
    ) -> None:
        name = str(file.path) if file.layers == 1 else f"{file.path} layer {layer}"
        declared = file.nodata[layer - 1]
        super().__init__(file.geobox, name, scale, offset, nodata if declared is None else (*nodata, declared))
        self.file, self.layer = file, layer

    def read(self, window: Window) -> NDArray[Any]:
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        with _translated(self.file.path):
            source = _HANDLES.get(self.file)
            values: NDArray[Any] = source.read(self.layer, window=place)
            if not self.file.masked[self.layer - 1]:
                return values
            mask = source.read_masks(self.layer, window=place)
        return np.where(mask > 0, values, np.nan).astype(np.float32)


class _Handles(threading.local):
    """Files that this thread holds open: GDAL allows no file in two threads at once."""

    def __init__(self) -> None:
        self._open: OrderedDict[RasterFile, DatasetReader] = OrderedDict()

    def get(self, file: RasterFile) -> DatasetReader:
        if file in self._open:
            self._open.move_to_end(file)
        else:
            self._open[file] = rasterio.open(file.path)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        return self._open[file]


_HANDLES = _Handles()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Raise GDAL's errors as ImageryError."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        reason = error.__cause__ or error
        raise ImageryError(
            f"cannot read {path}: {reason}; expected an undamaged raster (GeoTIFF, JPEG2000, ...): get the file again"
        ) from error


def _scaling(path: Path, scale: float, offset: float) -> tuple[float, float] | None:
    """Scale and offset as in `Band` from GDAL's, which multiplies and adds."""
    if (scale, offset) == (1.0, 0.0):
        return None  # GDAL's values for a file that declares nothing, too
    if not (np.isfinite(scale) and np.isfinite(offset) and scale > 0):
        raise ImageryError(
            f"{path} declares a scale of {scale:g} and an offset of {offset:g}: expected a scale above 0"
        )
    return 1.0 / scale, -offset / scale


# --- Files in folders, and the dates in their names.


RASTER_SUFFIXES = {".tif", ".tiff", ".jp2", ".vrt", ".img"}

DATE_PATTERN = re.compile(
    r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<dash>[-_.]?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:T?(?P<hour>\d\d)[-:]?(?P<minute>\d\d)[-:]?(?P<second>\d\d)Z?)?(?!\d)",
    re.I,
)


def files_in(path: Path) -> Iterator[Path]:
    """A file, or those of a folder and of the folders in it, in order; hidden ones are skipped.

    Raises:
        ImageryError: it does not exist.
    """
    if not path.exists():
        raise ImageryError(f"{path} does not exist: expected imagery, a file or a folder of files")
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        if not entry.name.startswith("."):
            yield from files_in(entry)


def rasters_in(path: Path) -> list[Path]:
    """A file, or the rasters of a folder and of the folders in it, by their suffixes."""
    return [file for file in files_in(path) if file == path or file.suffix.lower() in RASTER_SUFFIXES]


def date_in_name(path: Path) -> Acquisition | None:
    """The date in a file's name, with the time of day if there is exactly one; None if there is none.

    Raises:
        ImageryError: the name holds several dates.
    """
    return _moment(path, path.stem)


def date_of_file(path: Path) -> Acquisition | None:
    """The date in a file's name as in `date_in_name`, or else in that of the folder it lies in.

    Raises:
        ImageryError: the name holds several dates.
    """
    folder = path.absolute().parent
    return date_in_name(path) or _moment(folder, folder.name)


def _moment(path: Path, text: str) -> Acquisition | None:
    times: dict[dt.date, set[dt.time]] = {}
    for match in DATE_PATTERN.finditer(text):
        with suppress(ValueError):  # digits that are no date, or no time of day
            of_date = times.setdefault(dt.date(int(match["year"]), int(match["month"]), int(match["day"])), set())
            if match["hour"]:
                of_date.add(dt.time(int(match["hour"]), int(match["minute"]), int(match["second"])))
    if len(times) > 1:
        raise ImageryError(
            f"{path} has several dates in its name ({', '.join(map(str, times))}): rename it after one, or give `dates`"
        )
    for date, of_date in times.items():
        return Acquisition(date=date, time=of_date.pop() if len(of_date) == 1 else None)
    return None
