"""What is wrong with labels is said in one line, or repaired and counted: never a traceback, never a guess."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from factories import RegionHeaderFactory
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning

from lianet_user.errors import DateError, InputError, LabelError
from lianet_user.files.header import IGNORE
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.labels.label_map import FeatureCounts

UTM = "EPSG:32633"
GRID = GeoBox((20, 30), Affine(10, 0, 330_000, 0, -10, 5_822_040), UTM)
Make = Callable[[Path], Path]


def block(col: float, row: float, width: float, height: float) -> Any:
    """A rectangle of GRID's pixels, in its CRS."""
    left, top = 330_000 + 10 * col, 5_822_040 - 10 * row
    return shapely.box(left, top - 10 * height, left + 10 * width, top)


FIELD, LAKE, FAR = block(0, 0, 10, 10), block(15, 0, 10, 10), block(5000, 0, 10, 10)
DEGREES = geopandas.GeoSeries([FIELD, LAKE], crs=UTM).to_crs("EPSG:4326").tolist()
FLAT = shapely.Polygon([(330_000, 5_822_000), (330_100, 5_822_000), (330_050, 5_822_000)])
BOW_TIE = shapely.Polygon([(330_160, 5_821_900), (330_240, 5_821_860), (330_240, 5_821_900), (330_160, 5_821_860)])
with np.errstate(invalid="ignore"):
    NAN = shapely.from_wkt("POLYGON ((330000 5822000, 330100 nan, 330050 5822010, 330000 5822000))")
    INFINITE = shapely.from_wkt("POLYGON ((330000 5822000, 330100 inf, 330050 5822010, 330000 5822000))")


def vector(
    name: str = "labels.gpkg",
    geometries: Sequence[Any] = (FIELD, LAKE),
    crs: str | None = UTM,
    layers: Sequence[str | None] = (None,),
    **columns: Sequence[Any],
) -> Make:
    """Writes a file of features, by default two with the labels a and b."""

    def make(folder: Path) -> Path:
        path = folder / name
        frame = geopandas.GeoDataFrame(columns or {"label": ["a", "b"]}, geometry=list(geometries), crs=crs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a missing CRS, values that a format cannot hold
            if path.suffix == ".parquet":
                pytest.importorskip("pyarrow")
                frame.to_parquet(path)
            else:
                for layer in layers:
                    pyogrio.write_dataframe(frame, path, layer=layer, append=path.exists())
        return path

    return make


def raster(
    values: Any = None,
    name: str = "labels.tif",
    transform: Affine | None = GRID.affine,
    crs: str | None = UTM,
    **profile: Any,
) -> Make:
    """Writes a GeoTIFF, by default of the classes 1 and 2."""

    def make(folder: Path) -> Path:
        data = np.asarray(
            np.indices((20, 30)).sum(axis=0) % 2 + 1 if values is None else values, profile.get("dtype", "uint8")
        )
        bands = data if data.ndim == 3 else data[None]
        shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                folder / name, "w", **{"driver": "GTiff", "crs": crs, "transform": transform, **shape, **profile}
            ) as dataset:
                dataset.write(bands)
        return folder / name

    return make


def text(name: str, content: str | bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def renamed(make: Make, name: str) -> Make:
    return lambda folder: make(folder).rename(folder / name)


def cut(make: Make, share: float) -> Make:
    def shorten(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return path

    return shorten


def empty_layer(folder: Path) -> Path:
    frame = geopandas.GeoDataFrame({"label": pd.Series([], dtype=str)}, geometry=[], crs=UTM)
    pyogrio.write_dataframe(frame, folder / "labels.gpkg", geometry_type="Polygon")
    return folder / "labels.gpkg"


def raster_vrt(folder: Path) -> Path:
    """As GDAL writes it."""
    rasterio.shutil.copy(raster()(folder), folder / "labels.vrt", driver="VRT")
    return folder / "labels.vrt"


def absurd(folder: Path) -> Path:
    """A GeoTIFF of 300 bytes that declares 10^12 pixels."""
    layout = {"driver": "GTiff", "crs": UTM, "transform": GRID.affine, "count": 1, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "sparse_ok": True, "bigtiff": "yes"}
    with rasterio.open(folder / "labels.tif", "w", width=1_500_000, height=1_500_000, **layout, **tiles):
        pass
    return folder / "labels.tif"


MANY = [block(index % 30, index // 30, 1, 1) for index in range(300)]

BAD: dict[str, tuple[Make, dict[str, Any], str]] = {
    # Coordinates.
    "no CRS": (
        vector(crs=None),
        {},
        r"labels\.gpkg: layer 'labels' has no coordinate reference system: give it with `labels_crs`",
    ),
    "no .prj": (vector("labels.shp", crs=None), {}, r"the \.prj file is missing"),
    "no CRS in GeoParquet": (vector("labels.parquet", crs=None), {}, "no coordinate reference system"),
    "no CRS in a table": (text("labels.csv", "x;y;label\n330005;5822035;a\n"), {}, "no coordinate reference system"),
    "no CRS in a raster": (raster(crs=None), {}, "states no coordinate reference system.*`labels_crs`"),
    "degrees as UTM": (
        vector(geometries=DEGREES),
        {},
        r"\(12\.49\d*,52\.5\d*,.*\) look like degrees, but .* projected \(EPSG:32633\).*330000,5821840,330300,5822040",
    ),
    "degrees as UTM in a raster": (
        raster(transform=Affine(1e-4, 0, 12.49, 0, -1e-4, 52.52)),
        {},
        r"\(12\.49\d*,.*\) look like degrees, but .* projected \(EPSG:32633\).*330000,5821840,330300,5822040",
    ),
    "UTM as degrees": (
        vector(crs="EPSG:4326"),
        {},
        r"\(330000,.*\) are not degrees, but .* geographic \(EPSG:4326\).*12\.49\d*,52\.5",
    ),
    "UTM as degrees in a raster": (raster(crs="EPSG:4326"), {}, r"are not degrees, but .*EPSG:4326\).*12\.49\d*,52\.5"),
    "elsewhere": (
        vector(geometries=[FAR, FAR.buffer(10)]),
        {},
        r"cover 13\.\d+,52\.\d+,.* \(379990,.*EPSG:32633\), the region 12\.\d+,52\..*\(330000,5821840,",
    ),
    "raster elsewhere": (
        raster(transform=Affine(10, 0, 430_000, 0, -10, 5_822_040)),
        {},
        r"cover 13\.\d+,.*, the region 12\.\d+",
    ),
    "another CRS than stated": (
        vector(),
        {"labels_crs": "EPSG:25832"},
        "states EPSG:32633 .*but `labels_crs` is EPSG:25832",
    ),
    "raster without a place": (raster(transform=None), {}, "not georeferenced"),
    # Layers and columns.
    "empty layer": (empty_layer, {}, "layer 'labels' is empty"),
    "no features, so no columns": (
        text("labels.geojson", '{"type": "FeatureCollection", "features": []}'),
        {},
        "layer 'labels' is empty",
    ),
    "several layers": (
        vector(layers=("forests", "lakes")),
        {},
        r"2 layers \(forests, lakes\): choose one with `layer`",
    ),
    "no such layer": (
        vector(layers=("forests", "lakes")),
        {"layer": "lake"},
        "'lake': it has forests, lakes; did you mean 'lakes'",
    ),
    "no such column": (
        vector(fclass=["a", "b"], code=[1, 2]),
        {"field": "class"},
        "no column 'class': it has fclass, code; did you mean 'fclass'",
    ),
    "no such column of dates": (vector(), {"date_field": "seen"}, "no column 'seen': it has label"),
    "unclear column": (vector(one=["a", "b"], two=["a", "b"]), {}, r"2 columns \(one, two\).*`field`"),
    "condition that nothing meets": (vector(), {"where": "label = 'c'"}, "no feature meets `where`"),
    "condition that is none": (vector(), {"where": "lable = 'a'"}, "`where` \"lable = 'a'\" cannot be used"),
    # Geometries: dropped and counted, an error where none is left.
    "no geometries": (
        vector(geometries=[None, shapely.Polygon()]),
        {},
        "none of the 2 features of layer 'labels' can be used: 2 have no geometry",
    ),
    "NaN and infinite": (vector(geometries=[NAN, INFINITE]), {}, "2 have no geometry"),
    "no area": (vector("labels.geojson", [FLAT, FLAT]), {}, "2 have no geometry"),
    "points without coordinates": (
        text("labels.csv", "lon,lat,label\n,,a\n12.5,,b\n"),
        {},
        "none of the 2 features can be used: 2 have no geometry",
    ),
    "coverage by points": (
        vector(geometries=[FIELD.centroid, LAKE.centroid]),
        {"task": "coverage", "labelled_area": "region"},
        "2 have a point or line where an area is expected",
    ),
    # Labels: ignored and counted, an error where none is left.
    "null labels": (vector(label=["", None]), {}, "2 have no label in the column 'label'"),
    "NaN labels": (vector(label=[np.nan, np.nan]), {}, "2 have no label in the column 'label'"),
    "fractions as classes": (
        vector(label=[0.5, 1.0]),
        {"task": "segmentation"},
        r"fractions \(0\.5\).*`task` regression",
    ),
    "text as numbers": (vector(), {"task": "regression"}, r"2 of 2 values that are not numbers \('a'\)"),
    "dates as labels": (
        vector(label=list(pd.to_datetime(["2020-01-01", "2021-01-01"]))),
        {},
        "is of type .*choose a column of names or numbers",
    ),
    "one class": (vector(label=["a", "a"]), {}, r"a single class .*\('a'\), expected two or more"),
    "one class in a raster": (raster(np.ones((20, 30))), {}, r"a single class .*\('1'\), .*another band with `band`"),
    "one class spelled in several ways": (
        vector("labels.geojson", label=["1", "1.0"]),
        {},
        r"a single class in the region \('1'\)",
    ),
    "255 classes": (
        vector(geometries=MANY[:255], label=list(range(255))),
        {"task": "segmentation"},
        "255 classes in the region, expected at most 254.*`task` regression",
    ),
    "300 names": (
        vector(geometries=MANY, label=[f"c{index}" for index in range(300)]),
        {},
        "300 classes in the region, expected at most 254",
    ),
    "classes of a float raster": (
        raster(np.arange(600).reshape(20, 30), dtype="float32"),
        {"task": "segmentation"},
        "600 classes in the region.*`task` regression",
    ),
    "long name": (vector(label=["a", "b" * 200]), {}, "name of 200 characters"),
    "contradicted to nothing": (
        vector(geometries=[FIELD] * 3, label=["a", "b", "c"]),
        {},
        "0 of the 3 classes cover pixels of the region",
    ),
    "numbers contradicted to nothing": (
        vector(geometries=[FIELD] * 2, label=[0.5, 1.5]),
        {},
        "no pixel of the region bears a number",
    ),
    "--map of what is not there": (vector(), {"mapping": (("c", "a"),)}, "holds no 'c': it holds 'a', 'b'"),
    "--map drops everything": (
        vector(),
        {"mapping": (("a", None), ("b", None))},
        "2 have a label .* dropped on request",
    ),
    # Rasters.
    "several bands": (
        raster(np.ones((3, 20, 30)), photometric="minisblack"),
        {},
        r"has 3 bands: 1 \(no name\), 2 \(no name\), 3 \(no name\); choose the one with the labels with `band`",
    ),
    "no such band": (raster(), {"band": 2}, r"no band 2: it has 1 \(no name\)"),
    "a picture": (raster(np.ones((3, 20, 30)), photometric="rgb"), {}, "is a picture, not labels"),
    "nothing but nodata": (raster(nodata=1), {"nodata": (2.0,)}, "nothing but nodata in the region"),
    "nodata that cannot be": (raster(), {"nodata": (-1.0,)}, "`nodata` -1: .*uint8 and cannot hold this value"),
    "VRT": (raster_vrt, {}, "a VRT only points to other files: give the file itself"),
    "VRT called TIFF": (renamed(raster_vrt, "labels2.tif"), {}, "a VRT only points to other files"),
    "WMS": (text("labels.xml", '<GDAL_WMS><Service name="WMS"/></GDAL_WMS>'), {}, "only points to a server"),
    "absurd dimensions": (absurd, {}, r"declares 1500000 x 1500000 pixels, more than any raster of labels has"),
    "cut TIFF": (cut(raster(), 0.5), {}, r"cannot be read"),
    "options for features": (raster(), {"field": "label"}, "is a raster, and `field` is for features"),
    # Files that are not what their ending says.
    "missing": (lambda folder: folder / "labels.gpkg", {}, "does not exist"),
    "empty file": (text("labels.gpkg", ""), {}, r"is empty \(0 bytes\)"),
    "text called GeoPackage": (
        text("labels.gpkg", "no"),
        {},
        r"called \.gpkg but looks like plain text: expected a GeoPackage",
    ),
    "GeoPackage called TIFF": (
        renamed(vector(), "labels.tif"),
        {},
        r"called \.tif but looks like a GeoPackage: expected a TIFF",
    ),
    "TIFF called GeoPackage": (renamed(raster(), "labels.gpkg"), {}, r"called \.gpkg but looks like a TIFF image"),
    "web page called GeoJSON": (text("labels.geojson", "<!DOCTYPE html><html>"), {}, "is a web page"),
    "text called zip": (text("labels.zip", "no"), {}, r"called \.zip but looks like plain text: expected a zip"),
    "cut GeoPackage": (cut(vector(), 0.2), {}, "cannot be read"),
    # Options that contradict each other.
    "background nowhere": (vector(), {"background": "else"}, "`background` needs `labelled_area`"),
    "no share": (vector(), {"min_coverage": 0.0}, "expected a share above 0"),
    # Time.
    "no such date": (
        vector(),
        {"dates": ("2018-06-04",)},
        "does not hold 2018-06-04: the nearest dates it holds are 2017-02-16, 2017-03-16",
    ),
    "no date": (vector(), {"dates": ("June",)}, "'June'"),
    "not said which date": (vector(), {"dates": ()}, "holds 2 dates .*it is not stated which the labels describe"),
    "dates of features": (
        vector(label=["a", "b"], seen=["2017-02-16", "2017-02-20"]),
        {"field": "label", "date_field": "seen", "date_tolerance": 2},
        "does not hold 2017-02-20 within 2 days: .*; exclude those features with `where`, or `date_tolerance` 4 to take",
    ),
}
OF_DATES = ("no such date", "no date", "not said which date", "dates of features")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path: Path, region_header: RegionHeaderFactory, case: str) -> None:
    make, options, message = BAD[case]
    region = region_header(geobox=GRID, dates=2 if case in OF_DATES else 1)
    path = make(tmp_path)
    with pytest.raises(DateError if case in OF_DATES else LabelError, match=message) as caught:
        read_labels(path, region, LabelOptions(**options))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, InputError)


GOOD = (FIELD, LAKE, block(0, 12, 5, 5), block(10, 12, 5, 5))

COUNTED: dict[str, tuple[Sequence[Any], Sequence[Any], dict[str, int]]] = {
    "null, empty, NaN, infinite": ([None, shapely.Polygon(), NAN, INFINITE], "abab", {"no_geometry": 4}),
    "without area": ([FLAT, FLAT], "ab", {"no_geometry": 2}),
    "self-intersecting": ([BOW_TIE], "a", {"repaired": 1}),
    "null and blank labels": ([block(20, 12, 3, 3), block(25, 12, 3, 3)], [None, " "], {"no_label": 2}),
    "outside": ([FAR, block(30, 0, 5, 5)], "ab", {"outside": 2}),
    "partly outside": ([block(28, 14, 5, 5)], "a", {"partly_outside": 1}),
    "duplicates": ([FIELD, LAKE, FIELD], "aba", {"duplicates": 3}),
}


@pytest.mark.parametrize("case", COUNTED)
def test_what_cannot_be_used_is_counted_and_changes_nothing(
    tmp_path: Path, region_header: RegionHeaderFactory, case: str
) -> None:
    more, labels, expected = COUNTED[case]
    region = region_header(geobox=GRID)
    plain = read_labels(vector(geometries=GOOD, label=list("abab"))(tmp_path), region)
    make = vector("more.gpkg", [*GOOD, *more], label=[*"abab", *labels])
    found = read_labels(make(tmp_path), region)
    counts = found.report.features
    assert isinstance(counts, FeatureCounts)
    used = "repaired" in expected or "partly_outside" in expected
    assert counts.used == 4 + used
    assert {name: getattr(counts, name) for name in expected} == expected
    values = found.maps[0].values
    kept = plain.maps[0].labelled
    np.testing.assert_array_equal(values[kept], plain.maps[0].values[kept])
    # A bow tie's halves are triangles of 8 pixels each.
    assert (values != IGNORE).sum() - kept.sum() == {"self-intersecting": 16, "partly outside": 10}.get(case, 0)
