"""Imagery to encode: band files of one acquisition, put on one grid without inventing detail.

Sentinel-2 comes in bands of 10, 20 and 60 m. The grid is that of the finest band; a coarser band is refined to it smoothly
and then corrected until the mean of the fine pixels in every measured pixel is again what was measured. Nothing is lost, so
quality can be judged at each band's own resolution, on measured pixels only.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioIOError
from scipy import ndimage

from lianet_user.errors import ImageryError
from lianet_user.header import Band

WAVELENGTHS_NM = {
    "B01": 442.7, "B02": 492.4, "B03": 559.8, "B04": 664.6, "B05": 704.1, "B06": 740.5, "B07": 782.8,
    "B08": 832.8, "B8A": 864.7, "B09": 945.1, "B10": 1373.5, "B11": 1613.7, "B12": 2202.4,
}  # fmt: skip
"""Central wavelengths of Sentinel-2A's bands."""

SENTINEL2_NAME = re.compile(r"(?P<date>\d{8})T\d{6}_(?P<band>B(?:0[1-9]|1[0-2]|8A))(?:_\d\dm)?\.(?:jp2|tiff?)$", re.I)
CIRRUS = "B10"
OFFSET_SINCE = dt.date(2022, 1, 25)
"""First day of processing baseline 04.00, which adds 1000 to every digital number."""


@dataclass(frozen=True)
class Scene:
    """One acquisition on one grid.

    Attributes:
        geobox: of the finest band.
        bands: in the order of `reflectance`; `gsd_m` is what each was measured at.
        date: of acquisition.
        reflectance: float32 (bands, height, width), measured values within 0..1; refining a coarser band may overshoot
            them a little between its measurements.
        valid: bool (bands, height, width), False where the file holds no measurement.
        source: product identifier.
    """

    geobox: GeoBox
    bands: tuple[Band, ...]
    date: dt.date
    reflectance: np.ndarray
    valid: np.ndarray
    source: str

    def factor(self, band: int) -> int:
        """Grid pixels along one side of a measured pixel of `band`."""
        return round(self.bands[band].gsd_m / abs(self.geobox.resolution.x))


def read_sentinel2(
    paths: Sequence[Path], *, bands: Sequence[str] | None = None, offset: float | None = None, scale: float = 10_000.0
) -> Scene:
    """Read Sentinel-2 band files of one acquisition.

    Args:
        paths: files named ``..._YYYYMMDDTHHMMSS_Bnn.jp2`` (or .tif), or folders of them.
        bands: names to take, in this order; None takes all but the cirrus band B10, which does not see the ground.
        offset: subtracted from the digital numbers; None means 0, which is right before 2022-01-25 only.
        scale: digital numbers per reflectance 1.0.

    Raises:
        ImageryError: no band files, several acquisitions, bands that do not share a grid, or an offset that must be given.
    """
    found = _find(paths)
    dates = {date for date, _ in found}
    if len(dates) > 1:
        raise ImageryError(f"found {len(dates)} acquisition dates ({_join(dates)}): give the band files of one date")
    (date,) = dates
    files = {band: path for (_, band), path in found.items()}
    names = list(bands) if bands else sorted(set(files) - {CIRRUS}, key=lambda name: WAVELENGTHS_NM[name])
    if not names:
        raise ImageryError(f"found only {_join(files)}, which does not see the ground: give other bands too")
    if missing := [name for name in names if name not in files]:
        raise ImageryError(f"no file for band {_join(missing)}: found {_join(files)}")
    if offset is None and date >= OFFSET_SINCE:
        raise ImageryError(
            f"imagery of {date} may have been processed with or without the offset that came on {OFFSET_SINCE}:"
            " give --offset 1000 or --offset 0"
        )
    numbers = {name: _read(files[name]) for name in names}
    finest = min(numbers.values(), key=lambda item: item[1].resolution.x)[1]
    stack, valid, described = [], [], []
    for name in names:
        values, geobox = numbers[name]
        factor = _factor(name, geobox, finest)
        measured = values > 0  # 0 is Sentinel-2's "no data"
        reflectance = np.clip((values.astype(np.float32) - (offset or 0.0)) / scale, 0.0, 1.0)
        stack.append(refine(_filled(reflectance, measured), factor))
        valid.append(measured.repeat(factor, 0).repeat(factor, 1))
        described.append(
            Band(
                name=name,
                wavelength_nm=WAVELENGTHS_NM[name],
                gsd_m=float(geobox.resolution.x),
                offset=offset or 0.0,
                scale=scale,
            )
        )
    source = re.sub(r"_?(?:B\d\d|B8A)(?:_\d\dm)?$", "", files[names[0]].stem)
    return Scene(finest, tuple(described), date, np.stack(stack), np.stack(valid), source)


def refine(band: np.ndarray, factor: int, rounds: int = 4) -> np.ndarray:
    """A band on a grid `factor` times finer, smooth, whose means over each measured pixel are the measurement."""
    if factor == 1:
        return band
    fine = np.zeros((band.shape[0] * factor, band.shape[1] * factor), np.float32)
    for _ in range(rounds):
        fine += ndimage.zoom(band - block_mean(fine, factor), factor, order=1, mode="nearest", grid_mode=True)
    # The last correction is flat inside each measured pixel, which makes the means exact.
    fine += (band - block_mean(fine, factor)).repeat(factor, 0).repeat(factor, 1)
    return fine


def block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of `factor` x `factor` along the last two axes."""
    if factor == 1:
        return values
    *rest, height, width = values.shape
    return values.reshape(*rest, height // factor, factor, width // factor, factor).mean((-3, -1))


def _find(paths: Sequence[Path]) -> dict[tuple[dt.date, str], Path]:
    found: dict[tuple[dt.date, str], Path] = {}
    for path in paths:
        if not path.exists():
            raise ImageryError(f"{path} does not exist: give Sentinel-2 band files or a folder of them")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            match = SENTINEL2_NAME.search(file.name)
            if match is None:
                if file is path:
                    raise ImageryError(f"{path} is not named as a Sentinel-2 band file (..._20170216T102101_B02.jp2)")
                continue
            key = (_date(match["date"], file), match["band"].upper())
            if key in found:
                raise ImageryError(f"band {key[1]} of {key[0]} is given twice: {found[key]} and {file}")
            found[key] = file
    if not found:
        raise ImageryError(f"no Sentinel-2 band files (..._20170216T102101_B02.jp2) in {_join(map(str, paths))}")
    return found


def _date(text: str, file: Path) -> dt.date:
    try:
        return dt.datetime.strptime(text, "%Y%m%d").date()
    except ValueError as error:
        raise ImageryError(f"{file} is named after a date that does not exist ({text}): expected YYYYMMDD") from error


def _read(path: Path) -> tuple[np.ndarray, GeoBox]:
    try:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise ImageryError(f"{path} has no coordinate reference system: imagery must say where it lies")
            return source.read(1), GeoBox(source.shape, source.transform, source.crs.to_wkt())
    except RasterioIOError as error:
        raise ImageryError(f"cannot read {path}: {error}") from error


def _factor(name: str, geobox: GeoBox, finest: GeoBox) -> int:
    """How many times coarser `geobox` is than `finest`, where both cover the same ground in whole pixels."""
    factor = round(geobox.resolution.x / finest.resolution.x)
    if geobox.zoom_out(1 / factor) != finest:
        raise ImageryError(
            f"band {name} covers {geobox.boundingbox.bbox} in pixels of {geobox.resolution.x:g} m, which is not the"
            f" ground of the finest band ({finest.boundingbox.bbox}) in a whole multiple of its pixels: clip both alike"
        )
    return factor


def _filled(values: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Pixels without a measurement take the nearest one's value, so that refining and encoding meet no cliff."""
    if measured.all():
        return values
    if not measured.any():
        raise ImageryError("a band holds no measurement at all: every pixel is 0")
    nearest = ndimage.distance_transform_edt(~measured, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def _join(values: object) -> str:
    return ", ".join(sorted(map(str, values)))  # type: ignore[call-overload]
