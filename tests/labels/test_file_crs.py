"""A format's default CRS is no statement: where a file states none that can be used, `labels_crs` says what it is."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import shapely
from label_files import FIELD, LAKE, LONLAT, UTM, moved, written

from lianet_user.errors import LabelError
from lianet_user.geo.grid import crs_name, horizontal
from lianet_user.labels import LabelOptions, file_crs
from lianet_user.labels.areas import read_area, read_zones
from lianet_user.labels.vector import read_layer

Make = Callable[[Path], Path]


def collection(*, properties: Mapping[str, str] | None = None, lines: bool = False, **more: Any) -> str:
    features = [
        {
            "type": "Feature",
            "properties": {"label": label, **(properties or {})},
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for label, shape in zip("ab", (FIELD, LAKE), strict=True)
    ]
    if lines:
        return "\n".join(map(json.dumps, features))
    return json.dumps({"type": "FeatureCollection", "features": features, **more})


def text(name: str, content: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def zipped(make: Make) -> Make:
    def made(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "labels.zip", "w") as archive:
            archive.write(path := make(folder), path.name)
        return folder / "labels.zip"

    return made


def file(name: str, crs: str | None = None) -> Make:
    return lambda folder: written(folder / name, crs=crs)


def of_srs(number: int) -> Make:
    """A GeoPackage with this srs_id: 0 is an undefined geographic CRS, -1 an undefined Cartesian one."""

    def make(folder: Path) -> Path:
        path = written(folder / "labels.gpkg")
        with closing(sqlite3.connect(path)) as database, database:
            # Triggers of GDAL's spatial index call functions that only GDAL has.
            for table in ("gpkg_geometry_columns", "gpkg_contents"):
                database.execute(f"UPDATE {table} SET srs_id = {number}")
        return path

    return make


def parquet_without_crs(folder: Path) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = written(folder / "labels.parquet")
    table = parquet.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    del geo["columns"][geo["primary_column"]]["crs"]
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def prj(content: str) -> Make:
    def make(folder: Path) -> Path:
        path = written(folder / "labels.shp")
        path.with_suffix(".prj").write_text(content)
        return path

    return make


MEMBER: dict[str, Any] = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}}
GEOJSON = text("labels.geojson", collection())
STATES_NONE: dict[str, tuple[Make, str]] = {
    "GeoJSON": (GEOJSON, "degrees, and its coordinates are 330000,"),
    "GeoJSON in a zip": (zipped(GEOJSON), "degrees, and its coordinates are 330000,"),
    "GeoJSON in lines": (text("labels.geojsonl", collection(lines=True)), "degrees, and its coordinates are 330000,"),
    "GeoJSON with a column of that name": (
        text("labels.json", collection(properties={"crs": "utm"})),
        "degrees, and its coordinates are 330000,",
    ),
    "GeoJSON that states that there is none": (text("labels.geojson", collection(crs=None)), ""),
    "GeoParquet": (parquet_without_crs, "degrees, and its coordinates are 330000,"),
    "GeoParquet that states that there is none": (file("labels.parquet"), ""),
    "GeoPackage, undefined geographic": (of_srs(0), "'Undefined geographic SRS'"),
    "GeoPackage, undefined Cartesian": (of_srs(-1), "'Undefined Cartesian SRS' .Engineering CRS"),
    "FlatGeobuf": (file("labels.fgb"), ""),
    "shapefile": (file("labels.shp"), "the .prj file is missing"),
    "shapefile with heights alone": (prj('VERTCS["v",VDATUM["d"],UNIT["Meter",1]]'), ""),
    "shapefile of a site": (prj('LOCAL_CS["site",UNIT["metre",1]]'), "Engineering CRS"),
}
STATES_ONE: dict[str, Make] = {
    "GeoJSON": text("labels.geojson", collection(**MEMBER)),
    "GeoJSON in a zip": zipped(text("labels.geojson", collection(**MEMBER))),
    "GeoPackage": file("labels.gpkg", UTM),
    "GeoParquet": file("labels.parquet", UTM),
    "shapefile": file("labels.shp", UTM),
}


@pytest.mark.parametrize("case", STATES_NONE)
def test_a_crs_that_no_file_states_is_asked_for_and_given(tmp_path: Path, case: str) -> None:
    make, why = STATES_NONE[case]
    path, options = make(tmp_path), LabelOptions(task="coverage", labelled_area="region")
    with pytest.raises(LabelError, match=f"has no coordinate reference system.*{why}.*: give it with `labels_crs`"):
        read_layer(path, options)
    with pytest.raises(LabelError, match=rf"has no coordinate reference system.*{why}.*: assign it, .* -a_srs$"):
        read_area(path)
    given = LabelOptions(task="coverage", labelled_area="region", labels_crs=UTM)
    layer = read_layer(path, given)
    assert layer.crs == horizontal(UTM)
    assert (
        "CRS: EPSG:32633 (WGS 84 / UTM zone 33N), as given with `labels_crs`, since the file states none" in layer.notes
    )
    assert read_zones(path, LabelOptions(labels_crs=UTM))[0].crs == layer.crs


@pytest.mark.parametrize("case", STATES_ONE)
def test_a_crs_that_the_file_states_is_not_replaced(tmp_path: Path, case: str) -> None:
    path = STATES_ONE[case](tmp_path)
    assert crs_name(read_layer(path, LabelOptions(field="label")).crs) == UTM
    with pytest.raises(LabelError, match=r"states EPSG:32633 .*, but `labels_crs` is EPSG:25833"):
        read_layer(path, LabelOptions(field="label", labels_crs="EPSG:25833"))


def degrees(folder: Path, *shapes: shapely.Geometry) -> Path:
    """GeoJSON without a crs member."""
    path = written(folder / "labels.geojson", shapes, LONLAT)
    document = json.loads(path.read_text())
    del document["crs"]
    path.write_text(json.dumps(document))
    return path


def test_a_default_holds_where_nobody_says_otherwise(tmp_path: Path) -> None:
    path = degrees(tmp_path, moved(FIELD, UTM, LONLAT))
    assert crs_name(read_layer(path, LabelOptions()).crs) == LONLAT
    assert crs_name(read_layer(path, LabelOptions(labels_crs="EPSG:4258")).crs) == "EPSG:4258"


def test_a_feature_astray_does_not_undo_a_default(tmp_path: Path) -> None:
    assert crs_name(read_layer(degrees(tmp_path, moved(FIELD, UTM, LONLAT), LAKE), LabelOptions()).crs) == LONLAT


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_member_is_found_wherever_a_read_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    content = collection(**MEMBER)
    monkeypatch.setattr(file_crs, "_CHUNK", content.index('"crs"') + cut)
    path = text("labels.geojson", content)(tmp_path)
    assert not file_crs.is_default("GeoJSON", path, str(path))
