"""What tests of imagery read: rasters on disk, and imagery of given values in memory."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.files.header import Acquisition, Band
from lianet_user.geo.grid import Window
from lianet_user.imagery.imagery import Imagery, Patch


def write_raster(
    path: Path,
    values: NDArray[Any],
    geobox: GeoBox,
    *,
    names: Sequence[str] | None = None,
    scales: Sequence[float] | None = None,
    offsets: Sequence[float] | None = None,
    **profile: Any,
) -> Path:
    """A GeoTIFF of one layer (h, w) or of several (count, h, w); `profile` replaces what rasterio is told of it."""
    assert geobox.crs is not None
    layers = values if values.ndim == 3 else values[None]
    count, height, width = layers.shape
    where = {"crs": geobox.crs.to_wkt(), "transform": geobox.affine, "height": height, "width": width}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", **{"driver": "GTiff", "count": count, "dtype": layers.dtype} | where | profile
    ) as file:
        file.write(layers)
        for name, said in (("descriptions", names), ("scales", scales), ("offsets", offsets)):
            if said:
                setattr(file, name, tuple(said))
    return path


class Held(Imagery):
    """Imagery of given values (acquisitions, bands, h, w) on a grid of 10 m, which notes the windows that are read."""

    source = "synthetic"

    def __init__(self, values: NDArray[Any], valid: NDArray[Any], gsd: Sequence[int] | None = None) -> None:
        dates, bands, *shape = values.shape
        gsd = gsd or (10,) * bands
        self.geobox = GeoBox(tuple(shape), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
        self.bands = tuple(Band(name=f"B{n + 2:02}", gsd_m=float(metres)) for n, metres in enumerate(gsd))
        self.factors = tuple(metres // 10 for metres in gsd)
        self.acquisitions = tuple(Acquisition(date=dt.date(2017, 2 + n, 16)) for n in range(dates))
        self.values, self.valid = values, valid
        self.reads: list[tuple[int, Window]] = []
        self.lock = threading.Lock()

    def read(self, index: int, window: Window) -> Patch:
        assert window.intersection(self.window) == window  # never asked for what is not there
        with self.lock:
            self.reads.append((index, window))
        place = (index, slice(None), *window.slices)
        return Patch(self.values[place], self.valid[place])
