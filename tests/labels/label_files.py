"""What several tests of labels draw, in pixels or on the Earth, and the files they write it to."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning

from lianet_user.labels import LabelOptions

Shapes = NDArray[np.object_]
Make = Callable[[Path], Path]
"""Writes a file into a folder."""

UTM, LONLAT = "EPSG:32633", "EPSG:4326"
CORNER = Affine(10, 0, 330_000, 0, -10, 5_822_040)
GRID = GeoBox((20, 30), CORNER, UTM)
HAVELLAND = GeoBox((768, 1536), CORNER, UTM)
DEMO = Path(__file__).parents[2] / "tutorials/data/havelland_landcover.gpkg"
PLAIN = LabelOptions()


# -- Geometries ---------------------------------------------------------------------------------------------------------


def array(*geometries: Any) -> Shapes:
    made = np.empty(len(geometries), object)
    made[:] = geometries
    return made


def squares(shape: tuple[int, int]) -> Shapes:
    """(height, width) of what pixels are."""
    cols, rows = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    boxes: Shapes = shapely.box(cols, rows, cols + 1, rows + 1)
    return boxes


def placed(shapes: Any, transform: Affine = CORNER) -> Any:
    """Shapes in (column, row), in the coordinates that these have on the Earth."""
    a, b, c, d, e, f = tuple(transform)[:6]
    return shapely.transform(shapes, lambda points: points @ np.array([[a, d], [b, e]]) + (c, f))


def moved(geometry: Any, source: str, target: str) -> Any:
    transformer = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(geometry, lambda points: np.column_stack(transformer.transform(*points.T)))


def block(col: float, row: float, width: float, height: float) -> Any:
    """A rectangle of the pixels of `GRID`, in its CRS."""
    return placed(shapely.box(col, row, col + width, row + height))


FIELD, LAKE, FAR = block(0, 0, 10, 10), block(15, 0, 10, 10), block(5000, 0, 10, 10)
BOW_TIE = shapely.Polygon([(330_160, 5_821_900), (330_240, 5_821_860), (330_240, 5_821_900), (330_160, 5_821_860)])
FLAT = shapely.Polygon([(330_000, 5_822_000), (330_100, 5_822_000), (330_050, 5_822_000)])
with np.errstate(invalid="ignore"):
    NAN = shapely.from_wkt("POLYGON ((330000 5822000, 330100 nan, 330050 5822010, 330000 5822000))")


# -- Files, written by the libraries that people use --------------------------------------------------------------------


def frame_of(
    geometries: Sequence[Any] = (FIELD, LAKE), crs: str | None = UTM, **columns: Any
) -> geopandas.GeoDataFrame:
    """Features, with the labels a and b in turn unless columns are given."""
    return geopandas.GeoDataFrame(
        columns or {"label": ["ab"[n % 2] for n in range(len(geometries))]}, geometry=list(geometries), crs=crs
    )


def write_features(path: Path, frame: geopandas.GeoDataFrame, **options: Any) -> Path:
    """In the format that the ending names; where GeoParquet cannot be written the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing CRS, and what a format does to the types of columns
        if path.suffix == ".parquet":
            pytest.importorskip("pyarrow")
            frame.to_parquet(path)
        else:
            driver = {".gdb": "OpenFileGDB", ".kml": "LIBKML"}.get(path.suffix)
            pyogrio.write_dataframe(frame, path, driver=driver, **options)
    return path


def written(path: Path, geometries: Sequence[Any] = (FIELD, LAKE), crs: str | None = UTM, **columns: Any) -> Path:
    return write_features(path, frame_of(geometries, crs, **columns))


def write_shapefile(path: Path, frame: geopandas.GeoDataFrame, encoding: str, cpg: str | None = None) -> Path:
    """A shapefile that states what `cpg` says, whatever its text is in."""
    write_features(path, frame, encoding=encoding)
    table = bytearray(path.with_suffix(".dbf").read_bytes())
    table[29] = 0  # the language of the table, another place to state an encoding
    path.with_suffix(".dbf").write_bytes(table)
    path.with_suffix(".cpg").unlink(missing_ok=True)
    if cpg is not None:
        path.with_suffix(".cpg").write_text(cpg)
    return path


def write_raster(path: Path, values: Any, transform: Affine | None = CORNER, crs: Any = UTM, **profile: Any) -> Path:
    """A GeoTIFF, or another format with `driver`, of (rows, columns) or (bands, rows, columns)."""
    values = np.asarray(values)
    bands = values if values.ndim == 3 else values[None]
    count, height, width = bands.shape
    layout = {"driver": "GTiff", "crs": crs, "transform": transform, "dtype": bands.dtype, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", count=count, height=height, width=width, **layout) as dataset:
            dataset.write(bands)
    return path


def write_text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_zip(path: Path, files: Iterable[Path], root: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(root))
    return path


# -- Rows of tables of bad files ----------------------------------------------------------------------------------------


class Bad(NamedTuple):
    """A file, what is said of it, and the options it is read with."""

    make: Make
    message: str
    options: dict[str, Any]


def bad(make: Make, message: str, **options: Any) -> Bad:
    return Bad(make, message, options)


def vector(
    name: str = "labels.gpkg",
    geometries: Sequence[Any] = (FIELD, LAKE),
    crs: str | None = UTM,
    layers: Sequence[str | None] = (None,),
    **columns: Any,
) -> Make:
    """Writes features into one layer or into several alike."""

    def make(folder: Path) -> Path:
        frame = frame_of(geometries, crs, **columns)
        for layer in layers:
            write_features(folder / name, frame, layer=layer, append=(folder / name).exists())
        return folder / name

    return make


def raster(values: Any = None, name: str = "labels.tif", dtype: str = "uint8", **layout: Any) -> Make:
    """Writes a GeoTIFF, by default of the classes 1 and 2."""
    data = np.asarray(np.indices((20, 30)).sum(axis=0) % 2 + 1 if values is None else values, dtype)
    return lambda folder: write_raster(folder / name, data, **layout)


def text(name: str, content: str | bytes) -> Make:
    return lambda folder: write_text(folder / name, content)


def renamed(make: Make, name: str) -> Make:
    return lambda folder: make(folder).rename(folder / name)


def shorten(path: Path, share: float) -> Path:
    return write_text(path, path.read_bytes()[: int(path.stat().st_size * share)])


def cut(make: Make, share: float) -> Make:
    return lambda folder: shorten(make(folder), share)


def zipped(name: str, *makes: Make) -> Make:
    return lambda folder: write_zip(folder / name, [make(folder) for make in makes], folder)


def empty_layer(folder: Path) -> Path:
    return write_features(folder / "labels.gpkg", frame_of((), label=np.array([], object)), geometry_type="Polygon")
