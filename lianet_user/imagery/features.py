"""Rasters of features, such as the embeddings of a foundation model: any bands, CRS and resolution, read on a region's grid.

GDAL warps them window by window, bilinearly; where they are finer than the grid it takes weighted means. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT

from lianet_user.errors import ImageryError
from lianet_user.geo.grid import LONLAT, Window, bounds_of, format_bounds, whole
from lianet_user.imagery.rasters import RasterFile

TILE = 256
MOST_PIXELS = 2**24
"""The statistics of a grid with more pixels are those of a sample of its tiles."""

TOLERANCE = 0.001
"""Largest error of GDAL's transformer, in pixels of the raster."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of every band over the valid pixels: float64 (bands,). A constant band has the
    deviation 1."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class FeatureRaster:
    """A raster of features, warped to a region's grid. Its values apply to every date.

    A pixel is valid where all of its bands are: neither nodata nor masked, finite, and inside the raster.

    Attributes:
        path: of the file.
        geobox: the region's grid.
        bands: how many it has.

    Args:
        path: of a raster that GDAL reads.
        geobox: the region's grid.

    Raises:
        ImageryError: it cannot be read or is not georeferenced.
    """

    def __init__(self, path: Path, geobox: GeoBox) -> None:
        self.path, self.geobox = path, geobox
        self._file = RasterFile.open(path)
        self.bands = self._file.layers
        self._source = rasterio.open(path)
        # Nothing was measured where a float is NaN, whether the file says so or not.
        undeclared = self._source.nodata is None and np.dtype(self._source.dtypes[0]).kind == "f"
        height, width = geobox.shape
        assert geobox.crs is not None
        self._warped = WarpedVRT(
            self._source,
            crs=rasterio.crs.CRS.from_wkt(geobox.crs.to_wkt()),
            transform=geobox.affine,
            width=width,
            height=height,
            resampling=Resampling.bilinear,
            tolerance=TOLERANCE,
            dtype="float32",
            src_nodata=np.nan if undeclared else self._source.nodata,
            nodata=np.nan,
            UNIFIED_SRC_NODATA="NO",  # a band without a value must not pass because others have one
        )

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values float32 (bands, height, width) of a window of the grid, and which are valid, bool (height, width).

        Invalid pixels are 0.

        Raises:
            ImageryError: the file is damaged.
        """
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        try:
            values = self._warped.read(window=place)
        except RasterioError as error:
            raise ImageryError(
                f"cannot read {self.path}: {error.__cause__ or error}; expected an undamaged raster: get the file again"
            ) from error
        valid: NDArray[np.bool_] = np.isfinite(values).all(0)
        return np.where(valid, values, np.float32(0)), valid

    def moments(self) -> Moments:
        """Mean and standard deviation of every band over the grid, computed tile by tile.

        Raises:
            ImageryError: no pixel is valid, or the file is damaged.
        """
        tiles = list(whole(self.geobox).tiles(TILE))
        step = max(1, round(whole(self.geobox).pixels / MOST_PIXELS))
        count, total, squares = 0, np.zeros(self.bands), np.zeros(self.bands)
        origin: NDArray[np.float64] | None = None
        for tile in tiles[::step]:
            values, valid = self.read(tile)
            chosen = values[:, valid].astype(np.float64)
            if not chosen.size:
                continue
            # Deviations from some pixel, so that squares are no difference of large sums.
            origin = chosen[:, 0].copy() if origin is None else origin
            chosen -= origin[:, None]
            count += chosen.shape[1]
            total += chosen.sum(1)
            squares += np.square(chosen).sum(1)
        if origin is None:
            raise ImageryError(
                f"{self.path} has no valid pixel in the region (all of it is nodata or lies elsewhere: {self._where()}): give a"
                " raster that covers it"
            )
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        return Moments(origin + mean, np.where(std > 0, std, 1.0))

    def require_cover(self, labelled: NDArray[np.bool_]) -> None:
        """Refuse a raster that does not cover all labelled pixels.

        Args:
            labelled: bool (height, width) of the grid.

        Raises:
            ImageryError: a labelled pixel lies outside the raster.
        """
        rows, cols = np.nonzero(labelled)
        outside = ~self._inside(rows, cols)
        if not outside.any():
            return
        covered = 1.0 - float(outside.mean())
        share = f"covers {covered:.1%} of the labelled ground" if covered else "covers none of the labelled ground"
        raise ImageryError(
            f"{self.path} {share}: it lies at {self._where()}, the region at {format_bounds(bounds_of(self.geobox, LONLAT))}"
            " (W,S,E,N in degrees); give a raster that covers all labels, or labels that lie inside it"
        )

    def _inside(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pixels' centres lie on the raster."""
        own = self._file.geobox
        assert own.crs is not None
        assert self.geobox.crs is not None
        a, b, c, d, e, f = tuple(self.geobox.affine)[:6]
        x, y = a * (cols + 0.5) + b * (rows + 0.5) + c, d * (cols + 0.5) + e * (rows + 0.5) + f
        if own.crs != self.geobox.crs:
            x, y = Transformer.from_crs(self.geobox.crs.proj, own.crs.proj, always_xy=True).transform(x, y)
        a, b, c, d, e, f = tuple(~own.affine)[:6]
        col, row = a * x + b * y + c, d * x + e * y + f
        height, width = own.shape
        inside: NDArray[np.bool_] = (row >= 0) & (row <= height) & (col >= 0) & (col <= width)
        return inside

    def _where(self) -> str:
        return format_bounds(bounds_of(self._file.geobox, LONLAT))
