"""What is wrong with labels is said in one line, or repaired and counted: never a traceback, never a guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from factories import RegionHeaderFactory
from label_files import (
    BOW_TIE,
    CORNER,
    FAR,
    FIELD,
    FLAT,
    GRID,
    LAKE,
    LONLAT,
    NAN,
    UTM,
    Bad,
    bad,
    block,
    cut,
    empty_layer,
    moved,
    raster,
    renamed,
    text,
    vector,
)

from lianet_user.errors import DateError, InputError, LabelError
from lianet_user.files.header import IGNORE
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.labels.label_map import FeatureCounts

DEGREES = [moved(shape, UTM, LONLAT) for shape in (FIELD, LAKE)]
with np.errstate(invalid="ignore"):
    INFINITE = shapely.from_wkt("POLYGON ((330000 5822000, 330100 inf, 330050 5822010, 330000 5822000))")


def raster_vrt(folder: Path) -> Path:
    """As GDAL writes it."""
    rasterio.shutil.copy(raster()(folder), folder / "labels.vrt", driver="VRT")
    return folder / "labels.vrt"


def absurd(folder: Path) -> Path:
    """A GeoTIFF of 300 bytes that declares 10^12 pixels."""
    layout = {"driver": "GTiff", "crs": UTM, "transform": CORNER, "count": 1, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "sparse_ok": True, "bigtiff": "yes"}
    with rasterio.open(folder / "labels.tif", "w", width=1_500_000, height=1_500_000, **layout, **tiles):
        pass
    return folder / "labels.tif"


MANY = [block(index % 30, index // 30, 1, 1) for index in range(300)]

BAD: dict[str, Bad] = {
    # Coordinates.
    "no CRS": bad(
        vector(crs=None), r"labels\.gpkg: layer 'labels' has no coordinate reference system: give it with `labels_crs`"
    ),
    "no .prj": bad(vector("labels.shp", crs=None), r"the \.prj file is missing"),
    "no CRS in GeoParquet": bad(vector("labels.parquet", crs=None), "no coordinate reference system"),
    "no CRS in a table": bad(text("labels.csv", "x;y;label\n330005;5822035;a\n"), "no coordinate reference system"),
    "no CRS in a raster": bad(raster(crs=None), "has no coordinate reference system.*`labels_crs`, for instance EPSG"),
    "degrees as UTM": bad(
        vector(geometries=DEGREES),
        r"\(12\.49\d*,52\.5\d*,.*\) look like degrees, but .* projected \(EPSG:32633\).*330000,5821840,330300,5822040",
    ),
    "degrees as UTM in a raster": bad(
        raster(transform=Affine(1e-4, 0, 12.49, 0, -1e-4, 52.52)),
        r"\(12\.49\d*,.*\) look like degrees, but .* projected \(EPSG:32633\).*330000,5821840,330300,5822040",
    ),
    "UTM as degrees": bad(
        vector(crs="EPSG:4326"), r"\(330000,.*\) are not degrees, but .* geographic \(EPSG:4326\).*12\.49\d*,52\.5"
    ),
    "UTM as degrees in a raster": bad(raster(crs="EPSG:4326"), r"are not degrees, but .*EPSG:4326\).*12\.49\d*,52\.5"),
    "elsewhere": bad(
        vector(geometries=[FAR, FAR.buffer(10)]),
        r"cover 13\.\d+,52\.\d+,.* \(379990,.*EPSG:32633\), the region 12\.\d+,52\..*\(330000,5821840,",
    ),
    "a zone in front of eastings": bad(
        text("labels.csv", "x;y;label\n33330005;5822035;a\n33330015;5822035;b\n"),
        "without the zone number in front they would lie in it, so give them their CRS: EPSG:5650, since 33330005 seems",
        labels_crs=UTM,
    ),
    "axes exchanged in WKT": bad(
        text("labels.csv", "wkt,label\nSRID=4326;POINT (52.521 12.496),a\n"),
        r"with x and y exchanged they would lie in it.*Swap X and Y",
    ),
    "raster elsewhere": bad(
        raster(transform=Affine(10, 0, 430_000, 0, -10, 5_822_040)), r"cover 13\.\d+,.*, the region 12\.\d+"
    ),
    "another CRS than stated": bad(
        vector(), "states EPSG:32633 .*but `labels_crs` is EPSG:25832", labels_crs="EPSG:25832"
    ),
    "raster without a place": bad(raster(transform=None), "not georeferenced"),
    # Layers and columns.
    "empty layer": bad(empty_layer, "layer 'labels' is empty"),
    "no features, so no columns": bad(
        text("labels.geojson", '{"type": "FeatureCollection", "features": []}'), "layer 'labels' is empty"
    ),
    "several layers": bad(vector(layers=("forests", "lakes")), r"2 layers \(forests, lakes\): choose one with `layer`"),
    "no such layer": bad(
        vector(layers=("forests", "lakes")), "'lake': it has forests, lakes; did you mean 'lakes'", layer="lake"
    ),
    "no such column": bad(
        vector(fclass=["a", "b"], code=[1, 2]),
        "no column 'class': it has fclass, code; did you mean 'fclass'",
        field="class",
    ),
    "no such column of dates": bad(vector(), "no column 'seen': it has label", date_field="seen"),
    "unclear column": bad(vector(one=["a", "b"], two=["a", "b"]), r"2 columns \(one, two\).*`field`"),
    "condition that nothing meets": bad(vector(), "no feature meets `where`", where="label = 'c'"),
    "condition that is none": bad(vector(), "`where` \"lable = 'a'\" cannot be used", where="lable = 'a'"),
    # Geometries: dropped and counted, an error where none is left.
    "no geometries": bad(
        vector(geometries=[None, shapely.Polygon()]),
        "none of the 2 features of layer 'labels' can be used: 2 have no geometry",
    ),
    "NaN and infinite": bad(vector(geometries=[NAN, INFINITE]), "2 have no geometry"),
    "no area": bad(vector("labels.geojson", [FLAT, FLAT]), "2 have no geometry"),
    "points without coordinates": bad(
        text("labels.csv", "lon,lat,label\n,,a\n12.5,,b\n"), "none of the 2 features can be used: 2 have no geometry"
    ),
    "coverage by points": bad(
        vector(geometries=[FIELD.centroid, LAKE.centroid]),
        "2 have a point or line where an area is expected",
        task="coverage",
        labelled_area="region",
    ),
    # Labels: ignored and counted, an error where none is left.
    "null labels": bad(vector(label=["", None]), "2 have no label in the column 'label'"),
    "NaN labels": bad(vector(label=[np.nan, np.nan]), "2 have no label in the column 'label'"),
    "fractions as classes": bad(
        vector(label=[0.5, 1.0]), r"fractions \(0\.5\).*`task` regression", task="segmentation"
    ),
    "text as numbers": bad(vector(), r"2 of 2 values that are not numbers \('a'\)", task="regression"),
    "dates as labels": bad(
        vector(label=list(pd.to_datetime(["2020-01-01", "2021-01-01"]))),
        "is of type .*choose a column of names or numbers",
    ),
    "one class": bad(vector(label=["a", "a"]), r"a single class .*\('a'\), expected two or more"),
    "one class in a raster": bad(raster(np.ones((20, 30))), r"a single class .*\('1'\), .*another band with `band`"),
    "one class spelled in several ways": bad(
        vector("labels.geojson", label=["1", "1.0"]), r"a single class in the region \('1'\)"
    ),
    "255 classes": bad(
        vector(geometries=MANY[:255], label=list(range(255))),
        "255 classes in the region, expected at most 254.*`task` regression",
        task="segmentation",
    ),
    "300 names": bad(
        vector(geometries=MANY, label=[f"c{index}" for index in range(300)]),
        "300 classes in the region, expected at most 254",
    ),
    "classes of a float raster": bad(
        raster(np.arange(600).reshape(20, 30), dtype="float32"),
        "600 classes in the region.*`task` regression",
        task="segmentation",
    ),
    "long name": bad(vector(label=["a", "b" * 200]), "name of 200 characters"),
    "contradicted to nothing": bad(
        vector(geometries=[FIELD] * 3, label=["a", "b", "c"]), "0 of the 3 classes cover pixels of the region"
    ),
    "numbers contradicted to nothing": bad(
        vector(geometries=[FIELD] * 2, label=[0.5, 1.5]), "no pixel of the region bears a number"
    ),
    "--map of what is not there": bad(vector(), "holds no 'c': it holds 'a', 'b'", mapping=(("c", "a"),)),
    "--map drops everything": bad(vector(), "2 have a label .* dropped on request", mapping=(("a", None), ("b", None))),
    # Rasters.
    "several bands": bad(
        raster(np.ones((3, 20, 30)), photometric="minisblack"),
        r"has 3 bands: 1 \(no name\), 2 \(no name\), 3 \(no name\); choose the one with the labels with `band`",
    ),
    "no such band": bad(raster(), r"no band 2: it has 1 \(no name\)", band=2),
    "a picture": bad(raster(np.ones((3, 20, 30)), photometric="rgb"), "is a picture, not labels"),
    "nothing but nodata": bad(raster(nodata=1), "nothing but nodata in the region", nodata=(2.0,)),
    "nodata that cannot be": bad(raster(), "`nodata` -1: .*uint8 and cannot hold this value", nodata=(-1.0,)),
    "VRT": bad(raster_vrt, "a VRT only points to other files: give the file itself"),
    "VRT called TIFF": bad(renamed(raster_vrt, "labels2.tif"), "a VRT only points to other files"),
    "WMS": bad(text("labels.xml", '<GDAL_WMS><Service name="WMS"/></GDAL_WMS>'), "only points to a server"),
    "absurd dimensions": bad(absurd, r"declares 1500000 x 1500000 pixels, more than any raster of labels has"),
    "cut TIFF": bad(cut(raster(), 0.5), r"cannot be read"),
    "options for features": bad(raster(), "is a raster, and `field` is for features", field="label"),
    # Files that are not what their ending says.
    "missing": bad(lambda folder: folder / "labels.gpkg", "does not exist"),
    "empty file": bad(text("labels.gpkg", ""), r"is empty \(0 bytes\)"),
    "text called GeoPackage": bad(
        text("labels.gpkg", "no"), r"called \.gpkg but looks like plain text: expected a GeoPackage"
    ),
    "GeoPackage called TIFF": bad(
        renamed(vector(), "labels.tif"), r"called \.tif but looks like a GeoPackage: expected a TIFF"
    ),
    "TIFF called GeoPackage": bad(renamed(raster(), "labels.gpkg"), r"called \.gpkg but looks like a TIFF image"),
    "web page called GeoJSON": bad(text("labels.geojson", "<!DOCTYPE html><html>"), "is a web page"),
    "text called zip": bad(text("labels.zip", "no"), r"called \.zip but looks like plain text: expected a zip"),
    "cut GeoPackage": bad(cut(vector(), 0.2), "cannot be read"),
    # Options that contradict each other.
    "background nowhere": bad(vector(), "`background` needs `labelled_area`", background="else"),
    "no share": bad(vector(), "expected a share above 0", min_coverage=0.0),
    # Time.
    "no such date": bad(
        vector(),
        "does not hold 2018-06-04: the nearest dates it holds are 2017-02-16, 2017-03-16",
        dates=("2018-06-04",),
    ),
    "no date": bad(vector(), "'June'", dates=("June",)),
    "not said which date": bad(vector(), "holds 2 dates .*it is not stated which the labels describe", dates=()),
    "dates of features": bad(
        vector(label=["a", "b"], seen=["2017-02-16", "2017-02-20"]),
        "does not hold 2017-02-20 within 2 days: .*; exclude those features with `where`, or `date_tolerance` 4 to take",
        field="label",
        date_field="seen",
        date_tolerance=2,
    ),
}
OF_DATES = ("no such date", "no date", "not said which date", "dates of features")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path: Path, region_header: RegionHeaderFactory, case: str) -> None:
    make, message, options = BAD[case]
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
