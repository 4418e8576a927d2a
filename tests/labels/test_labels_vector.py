from __future__ import annotations

import datetime as dt
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from label_files import (
    BOW_TIE,
    DEMO,
    FIELD,
    LAKE,
    LONLAT,
    UTM,
    Bad,
    Make,
    bad,
    block,
    cut,
    empty_layer,
    frame_of,
    raster,
    renamed,
    shorten,
    text,
    vector,
    write_features,
    write_shapefile,
    write_text,
    write_zip,
    written,
    zipped,
)
from odc.geo.crs import CRS

from lianet_user.errors import LabelError
from lianet_user.labels.areas import read_area
from lianet_user.labels.class_tables import ClassTable, TableEntry
from lianet_user.labels.formats import find_format, is_raster
from lianet_user.labels.label_options import LabelOptions
from lianet_user.labels.label_values import plain_labels
from lianet_user.labels.vector import VectorLayer, read_layer

THIRD = block(12, 12, 4, 4)


@contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    """A GeoPackage, to be changed as GDAL would not."""
    with closing(sqlite3.connect(path)) as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        yield database
        database.commit()


def read(path: Path, **options: Any) -> VectorLayer:
    return read_layer(path, LabelOptions(**options))


def values_of(layer: VectorLayer) -> list[Any]:
    assert layer.values is not None
    return [None if pd.isna(value) else value for value in layer.values]


def choice_of(layer: VectorLayer) -> tuple[str, str]:
    assert layer.column is not None
    return layer.column.name, layer.column.choice


# -- Formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.gdb", "a.geojson", "a.fgb", "a.kml", "a.gml", "a.parquet"])
def test_every_format_gives_the_same_layer(tmp_path: Path, name: str) -> None:
    # FlatGeobuf keeps its own order; KML and GML have columns of their own beside the one with the usual name.
    frame = frame_of((FIELD, LAKE, THIRD), label=["Wälder", None, "See"])
    path = write_features(tmp_path / name, frame)
    assert not is_raster(path)
    layer = read(path)
    assert len(layer.geometries) == len(values_of(layer)) == 3
    assert {value or None for value in values_of(layer)} == {"Wälder", None, "See"}
    assert choice_of(layer)[0] == "label"
    assert layer.notes == ()
    expected = frame.to_crs(layer.crs.proj).set_index(frame["label"].fillna("")).geometry
    assert (layer.crs.epsg == 4326) == (path.suffix == ".kml")
    for value, geometry in zip(values_of(layer), layer.geometries, strict=True):
        assert geometry.symmetric_difference(expected[value or ""]).area < 1e-6 * expected[value or ""].area
    assert layer.source == (
        "a.parquet, column label" if path.suffix == ".parquet" else f"{name}, layer a, column label"
    )


def test_every_feature_is_there_whatever_its_geometry(tmp_path: Path) -> None:
    geometries = [
        FIELD,
        None,
        shapely.Point(),
        BOW_TIE,
        shapely.Point(1, 2, 3),
        shapely.LineString([(0, 0), (np.inf, 1)]),
    ]
    layer = read(written(tmp_path / "a.gpkg", geometries, label=list("abcdef")))
    assert values_of(layer) == list("abcdef")
    assert [None if each is None else each.geom_type for each in layer.geometries] == [
        *("Polygon", None, "Point", "Polygon", "Point", "LineString")
    ]
    assert not shapely.has_z(layer.geometries).any()


def test_curves_become_lines_and_garbage_becomes_none(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gpkg", label=["curve", "garbage"])
    header = b"GP\x00\x01" + struct.pack("<i", 32633)
    points = [(0, 0), (1, 1), (2, 0), (1, -1), (0, 0)]
    arc = struct.pack("<BII", 1, 8, 5) + b"".join(struct.pack("<dd", *point) for point in points)
    with edited(path) as database:
        database.execute("UPDATE a SET geom = ? WHERE fid = 1", [header + struct.pack("<BII", 1, 10, 1) + arc])
        database.execute("UPDATE a SET geom = ? WHERE fid = 2", [header + b"\x01garbage"])
    layer = read(path)
    assert layer.geometries[0].geom_type == "Polygon"
    assert layer.geometries[0].area == pytest.approx(np.pi, rel=1e-3)
    assert layer.geometries[1] is None


def test_zip_of_one_or_several_layers(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "data").mkdir(exist_ok=True)
        written(tmp_path / "data" / f"{name}.shp", label=[name, "x"])
    both = sorted((tmp_path / "data").iterdir())
    one = [file for file in both if file.stem == "one"]
    for name in ("one.zip", "one.shz", "odd {name}.zip"):
        layer = read(write_zip(tmp_path / name, one, tmp_path))
        assert (layer.name, values_of(layer)) == ("one", ["one", "x"])
    several = write_zip(tmp_path / "several.zip", both, tmp_path)
    assert values_of(read(several, layer="two")) == ["two", "x"]
    with pytest.raises(LabelError, match=r"several\.zip has 2 layers \((one, two|two, one)\): choose one with `layer`"):
        read(several)
    written(tmp_path / "g.gdb", label=["g", "x"])
    packed = write_zip(tmp_path / "g.zip", sorted((tmp_path / "g.gdb").iterdir()), tmp_path)
    assert values_of(read(packed)) == ["g", "x"]
    written(tmp_path / "a.gpkg", label=["gp", "x"])
    readme = write_text(tmp_path / "readme.txt", "licence")
    assert values_of(read(write_zip(tmp_path / "gp.zip", [tmp_path / "a.gpkg", readme], tmp_path))) == ["gp", "x"]


def test_parquet_keeps_index_and_categories(tmp_path: Path) -> None:
    frame = frame_of(code=[1, 2], label=pd.Categorical(["x", None])).set_index("code")
    path = write_features(tmp_path / "a.parquet", frame)
    assert values_of(read(path)) == ["x", None]
    assert values_of(read(path, field="code")) == [1, 2]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LabelError, match=r"pip install 'lianet-user\[parquet\]'"):
        read(write_text(tmp_path / "a.parquet", b"PAR1"))


# -- Encodings ----------------------------------------------------------------------------------------------------------

ENCODINGS: dict[str, tuple[str, str | None, list[str], str | None]] = {
    "stated": ("UTF-8", "UTF-8", ["Wälder", "Łódź"], None),
    "stated cp1252": ("CP1252", "1252", ["Wälder", "10 €"], None),
    "stated other": ("CP1250", "1250", ["Łódź", "x"], None),
    "stated Cyrillic": ("CP1251", "1251", ["Лес", "x"], None),
    "missing, UTF-8": ("UTF-8", None, ["Wälder", "Łódź"], "UTF-8"),
    "missing, cp1252": ("CP1252", None, ["Wälder", "10 €"], "cp1252"),
    "lying, cp1252": ("CP1252", "UTF-8", ["Wälder", "10 €"], "cp1252"),
    "lying, UTF-8": ("UTF-8", "ISO-8859-1", ["Wälder", "Łódź"], "UTF-8"),
    "lying, UTF-8 as cp1252": ("UTF-8", "1252", ["Wälder", "Größe"], "UTF-8"),
    "unknown, cp1252": ("CP1252", "bogus", ["Wälder", "x"], "cp1252"),
    "ASCII": ("CP1252", None, ["a", "b"], None),
}


@pytest.mark.parametrize("case", ENCODINGS)
@pytest.mark.parametrize("where", [None, "label <> 'none'"])
def test_text_of_shapefiles_survives(tmp_path: Path, case: str, where: str | None) -> None:
    encoding, cpg, labels, said = ENCODINGS[case]
    layer = read(write_shapefile(tmp_path / "a.shp", frame_of(label=labels), encoding, cpg), where=where)
    assert values_of(layer) == labels
    assert [f"is read as {said}" in note for note in layer.notes] == ([True] if said else [])


def test_column_names_and_conditions_are_decoded_too(tmp_path: Path) -> None:
    path = write_shapefile(tmp_path / "a.shp", frame_of(label=["Wälder", "See"], größe=[1, 2]), "CP1252", "UTF-8")
    assert values_of(read(path, field="größe", where="label = 'Wälder'")) == [1]


def test_encoding_as_asked(tmp_path: Path) -> None:
    path = write_shapefile(tmp_path / "a.shp", frame_of(label=["Wälder", "x"]), "CP850")
    layer = read(path, encoding="cp850")
    assert values_of(layer) == ["Wälder", "x"]
    assert layer.notes == ()
    assert values_of(read(path, encoding="latin1")) == ["W\x84lder", "x"]
    table = write_text(tmp_path / "a.csv", "lon,lat,label\n1,2,Wälder\n".encode("cp850"))
    assert values_of(read(table, encoding="cp850")) == ["Wälder"]
    for name in (path, table):
        with pytest.raises(LabelError, match=r"`encoding` 'klingon' is not known"):
            read(name, encoding="klingon")
        with pytest.raises(LabelError, match="`encoding` 'hex' is not known"):
            read(name, encoding="hex")
        with pytest.raises(LabelError, match=r"utf-8.*`encoding`"):
            read(name, encoding="utf-8")


def test_geojson_that_is_not_utf8(tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", label=["Wälder", "x"])
    path.write_bytes(path.read_text("utf-8").encode("cp1252"))
    with pytest.raises(LabelError, match=r"its text is not UTF-8: give its encoding with `encoding`"):
        read(path)
    assert values_of(read(path, encoding="cp1252")) == ["Wälder", "x"]


# -- Conditions ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["a.gpkg", "a.shp", "a.gdb", "a.geojson", "a.csv", "a.parquet"])
def with_years(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    frame = frame_of((FIELD, LAKE, THIRD), label=["a", "b", "c"], year=[2017, 2018, 2018])
    if path.suffix != ".csv":
        return write_features(path, frame)
    points = frame.geometry.centroid
    pd.DataFrame(frame.drop(columns="geometry")).assign(x=points.x, y=points.y).to_csv(path, index=False)
    return path


def read_with_years(path: Path, **options: Any) -> VectorLayer:
    return read(path, labels_crs=UTM if path.suffix == ".csv" else None, **options)


def test_conditions_choose_features(with_years: Path) -> None:
    layer = read_with_years(with_years, where="year = 2018 AND label <> 'c'")
    assert values_of(layer) == ["b"]
    assert [shapely.intersects(LAKE, geometry) for geometry in layer.geometries] == [True]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("yaer = 2018", r"`where` 'yaer = 2018' cannot be used \(.*yaer.*\): expected a condition in OGR SQL"),
        ("year >", r"`where` 'year >' cannot be used \(.+\): expected"),
        ("year = 1900", r"no feature meets `where` 'year = 1900'"),
    ],
)
def test_bad_conditions_are_one_line(with_years: Path, where: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_with_years(with_years, where=where)


@pytest.mark.parametrize(
    "where",
    [
        *("year = 2018; DROP TABLE a", "year = 2018;", "1 = 1) OR (1 = 1", "1 = 1); DROP TABLE a --", "1 = 1 LIMIT 1"),
        *(
            "1 = 1 ORDER BY year",
            "1 = 1 UNION ALL SELECT * FROM a",
            "SELECT 1",
            "year = 2018 /*",
            "1 = 1 GROUP BY label",
        ),
        *("", " ", "-- nothing", "DROP TABLE a", "year = 2018 label"),
    ],
)
def test_a_condition_is_one_expression_and_nothing_behind_it(with_years: Path, where: str) -> None:
    with pytest.raises(
        LabelError, match=r"`where` .* cannot be used \(.+\): expected a condition in OGR SQL"
    ) as caught:
        read_with_years(with_years, where=where)
    assert "\n" not in str(caught.value)
    assert values_of(read_with_years(with_years, where="label = ';' OR year < 2018 OR label = 'c'")) == ["a", "c"]


# -- Columns ------------------------------------------------------------------------------------------------------------


def test_choice_of_the_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.gpkg", id=[1, 2], kind=["a", "b"], extra=["c", "d"], color=["#ff0000", None])
    with pytest.raises(
        LabelError, match=r"4 columns \(id, kind, extra, color\).*holds the classes: choose it with `field`"
    ):
        read(path)
    assert choice_of(read(path, field="extra")) == ("extra", "as asked")
    assert choice_of(read(path, task="regression")) == ("id", "the only column with numbers")
    coverage = read(path, task="coverage", labelled_area="region")
    assert (coverage.column, coverage.values, coverage.source) == (None, None, "a.gpkg, layer a")
    assert choice_of(read(path, task="coverage", labelled_area="region", field="id"))[0] == "id"
    colors = read(path, field="kind").colors
    assert colors is not None
    assert colors.fillna("").tolist() == ["#ff0000", ""]

    style = ClassTable("QGIS style", (TableEntry("a", "A"), TableEntry("b", "B")), "kind")
    asked: list[tuple[Path, str]] = []

    def stored_style(of: Path, layer: str) -> ClassTable:
        asked.append((of, layer))
        return style

    monkeypatch.setattr("lianet_user.labels.vector.stored_style", stored_style)
    styled = read(path)
    assert (choice_of(styled), styled.table) == (("kind", "as the QGIS style has it"), style)
    assert asked == [(path, "a")]
    assert read(path, field="extra").table is None
    assert read(path, field="kind").table is style
    assert read(path, task="coverage", labelled_area="region").table is None
    style = ClassTable("QGIS style", style.entries, "gone")
    with pytest.raises(LabelError, match="choose it with `field`"):
        read(path)


def test_regression_with_several_numbers_needs_a_choice(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gpkg", one=[1.5, 2], two=[1.0, 2], text=["a", "b"])
    with pytest.raises(LabelError, match=r"\(one, two, text\).*holds the numbers: choose it with `field`"):
        read(path, task="regression")
    assert choice_of(read(path)) == ("text", "the only column with text")


def test_true_and_false_survive_nulls(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.gpkg", label=[True, False])
    holed = written(tmp_path / "b.gpkg", (FIELD, LAKE, THIRD), label=pd.array([True, None, False], "boolean"))
    assert values_of(read(whole)) == [True, False]
    assert [str(value) for value in values_of(read(holed))] == ["True", "None", "False"]


def test_attribution_is_kept() -> None:
    layer = read(DEMO)
    assert layer.attribution == "(c) OpenStreetMap contributors, ODbL 1.0"
    assert len(layer.geometries) == pyogrio.read_info(DEMO)["features"] == 444


# -- CRS ----------------------------------------------------------------------------------------------------------------

LOCAL = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'


@pytest.mark.parametrize("crs", [None, LOCAL])
def test_labels_crs_stands_in_for_a_missing_one(tmp_path: Path, crs: str | None) -> None:
    path = written(tmp_path / "a.gpkg", crs=crs)
    with pytest.raises(LabelError, match=r"has no coordinate reference system.*`labels_crs`, for instance EPSG"):
        read(path)
    layer = read(path, labels_crs="EPSG:25833")
    assert layer.crs == CRS("EPSG:25833")
    assert any("EPSG:25833" in note and "`labels_crs`" in note for note in layer.notes)
    for wrong in ("utm 33", "EPSG:999999", "EPSG:4978", LOCAL):
        with pytest.raises(LabelError, match=r"`labels_crs` .* is (no coord|neither geo)"):
            read(path, labels_crs=wrong)


def test_labels_crs_must_agree_with_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.shp")
    layer = read(path, labels_crs="EPSG:32633")
    assert (layer.crs, layer.notes) == (CRS(UTM), ())
    with pytest.raises(
        LabelError, match=r"states EPSG:32633 \(WGS 84 / UTM zone 33N\), but `labels_crs` is EPSG:25833"
    ):
        read(path, labels_crs="EPSG:25833")


def test_missing_prj_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"the \.prj file is missing\): give it with `labels_crs`"):
        read(written(tmp_path / "a.shp", crs=None))


@pytest.mark.parametrize(("given", "flat"), [("EPSG:25832+7837", 25832), ("EPSG:4979", 4326)])
def test_heights_are_no_part_of_the_crs(tmp_path: Path, given: str, flat: int) -> None:
    layer = read(written(tmp_path / "a.gpkg", crs=given))
    assert layer.crs.proj.equals(pyproj.CRS(flat), ignore_axis_order=True)
    assert len(layer.crs.proj.axis_info) == 2


# -- Dates --------------------------------------------------------------------------------------------------------------

JUNE = dt.date(2018, 6, 4)
TEXTS = ["2018-06-04", "20180604", "2018/06/04", "2018-06-04T10:20:30Z", " 2018-06-04 23:59:59+02", "20180604T101010"]


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series(["2018-06-04", None]).astype("datetime64[ms]"),
        pd.Series(["2018-06-04T23:30:00", None]).astype("datetime64[ms]").dt.tz_localize("UTC"),
        [20180604, None],
        *([text, None] for text in TEXTS),
        ["2018-06-04", " "],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.parquet"])
def test_dates_as_people_write_them(tmp_path: Path, cells: Any, name: str) -> None:
    layer = read(written(tmp_path / name, label=["a", "b"], seen=cells), date_field="seen")
    assert layer.dates is not None
    assert layer.dates.tolist() == [JUNE, None]
    assert layer.dates.dtype == object
    # The column of dates is not taken for labels.
    assert choice_of(layer) == ("label", "the only column")


def test_dates_in_a_column_of_type_date(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gpkg", label=["a", "b"], seen=["2018-06-04", None])
    with edited(path) as database:
        database.execute("ALTER TABLE a ADD COLUMN day DATE")
        database.execute("UPDATE a SET day = seen")
    layer = read(path, field="label", date_field="day")
    assert layer.dates is not None
    assert layer.dates.tolist() == [JUNE, None]
    with pytest.raises(LabelError, match="no column 'dey': it has label, seen, day; did you mean 'day'"):
        read(path, field="label", date_field="dey")


@pytest.mark.parametrize("cell", ["June 2018", "04.06.2018", "2018", "2018-13-01", "2018-W05-1", 2018, 2018.5, True])
def test_unreadable_dates_are_named(tmp_path: Path, cell: Any) -> None:
    path = written(tmp_path / "a.gpkg", label=["a", "b"], seen=[cell, cell])
    with pytest.raises(LabelError, match=f"'{cell}' in the column 'seen' is not a date: expected YYYY-MM-DD"):
        read(path, date_field="seen")


# -- Tables -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_tables_of_points(tmp_path: Path, delimiter: str, encoding: str) -> None:
    lines = [["Label", "Longitude", "LAT"], ["Wälder", "12.5", "52.4"], ['"Acker; grün, nass|kalt"', "1e1", "-5"]]
    text = "\r\n".join(delimiter.join(line) for line in lines) + "\r\n\r\n"
    layer = read(write_text(tmp_path / "a.csv", text.encode(encoding)))
    assert values_of(layer) == ["Wälder", "Acker; grün, nass|kalt"]
    assert [(point.x, point.y) for point in layer.geometries] == [(12.5, 52.4), (10, -5)]
    assert layer.crs == CRS("EPSG:4326")
    assert (layer.name, layer.source) == ("", "a.csv, column Label")
    assert any("'Longitude', 'LAT'" in note for note in layer.notes)
    assert any("read as cp1252" in note for note in layer.notes) == (encoding == "cp1252")


@pytest.mark.parametrize(
    "pair",
    ["x,y", "Easting,Northing", "RECHTSWERT,HOCHWERT", "ostwert,nordwert", "coord_x,coord_y", "E,N"],
)
def test_projected_tables_need_a_crs(tmp_path: Path, pair: str) -> None:
    path = write_text(tmp_path / "a.tsv", f"{pair},label\n330000,5820000,a\n".replace(",", "\t"))
    with pytest.raises(LabelError, match=r"a\.tsv has no coordinate reference system: give it with `labels_crs`"):
        read(path)
    layer = read(path, labels_crs=UTM)
    assert (layer.geometries[0].x, layer.geometries[0].y, layer.crs) == (330000, 5820000, CRS(UTM))


@pytest.mark.parametrize("name", ["lon", "long", "lng", "Laenge", "Länge"])
def test_names_of_longitude(tmp_path: Path, name: str) -> None:
    assert read(write_text(tmp_path / "a.txt", f"{name};breite;label\n1;2;a\n")).crs == CRS("EPSG:4326")


def test_decimal_commas_are_read_and_announced(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "lon;lat;value;list\n12,5;52,4;0,25;1,2,3\n13;52,5;;4\n")
    layer = read(path, field="value")
    assert [(point.x, point.y) for point in layer.geometries] == [(12.5, 52.4), (13, 52.5)]
    assert values_of(layer) == [0.25, None]
    assert any("decimal comma in 'lon', 'lat', 'value'" in note for note in layer.notes)
    assert values_of(read(path, field="list")) == ["1,2,3", "4"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2"], [1, 2]),
        (["1", ""], [1.0, None]),
        (["1.5", "2"], [1.5, 2.0]),
        (["007", "12"], ["007", "12"]),
        (["12345678901234567", "1"], ["12345678901234567", "1"]),
        (["NA", "null"], ["NA", "null"]),
        (["nan", "1"], ["nan", "1"]),
        (["None", ""], ["None", None]),
        (["True", "no"], ["True", "no"]),
    ],
)
def test_labels_of_a_table_are_what_they_look_like(tmp_path: Path, cells: list[str], expected: list[Any]) -> None:
    path = write_text(tmp_path / "a.csv", "lon,lat,label\n" + "".join(f"1,2,{cell}\n" for cell in cells))
    found = values_of(read(path))
    assert found == expected
    assert [isinstance(value, str) for value in found] == [isinstance(value, str) for value in expected]


def test_rows_without_coordinates_are_kept(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "lon,lat,label\n1,2,a\n,2,b\n1, ,c\nNaN,nan,d\n,,\n")
    layer = read(path)
    assert values_of(layer) == ["a", "b", "c", "d", None]
    assert [geometry is None for geometry in layer.geometries] == [False, True, True, True, True]


def test_excel_says_its_delimiter(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "sep=;\nlon;lat;label;\n1;2;a;\n3;4;b;\n")
    assert values_of(read(path)) == ["a", "b"]
    with pytest.raises(LabelError, match="line 3 has 3 cells"):
        read(write_text(tmp_path / "b.csv", "sep=;\nlon;lat\n1;2;3\n"))


def geojson(content: str) -> str:
    return f'"{content}"'.replace("'", '""')


POINT = geojson("{'type': 'Point', 'coordinates': [1, 2]}")
OF_POSTGIS = geojson("{'type': 'Point', 'coordinates': [1, 2], 'crs': {'properties': {'name': 'EPSG:32633'}}}")
NOWHERE = geojson("{'type': 'MultiPoint', 'coordinates': []}")
EWKB = "0101000020797F0000000000000000F03F0000000000000040"
LONG = ",".join(f"{n} {n * n}" for n in range(20_000))
GEOMETRIES: dict[str, tuple[str, dict[str, Any], str, list[str | None]]] = {
    "geometry": ("geometry,label\nPOINT (1 2),a\n", {"labels_crs": UTM}, UTM, ["Point"]),
    "WKT of QGIS": ('WKT;label\n"LINESTRING (0 0, 1 1)";a\n', {"labels_crs": UTM}, UTM, ["LineString"]),
    "blank cells": ("the_geom,label\nSRID=32633;POINT (1 2),a\n,b\n", {}, UTM, ["Point", None]),
    "EWKT": ('geom;label\n"srid=32633;POLYGON ((0 0,1 0,1 1,0 0))";a\n', {}, UTM, ["Polygon"]),
    "EWKT of degrees": ('wkt,label\n"SRID=4326;POINT (1 2)",a\n', {}, LONLAT, ["Point"]),
    "EWKB": (f"Geom,label\n{EWKB},a\n", {}, UTM, ["Point"]),
    "Earth Engine": (f"system:index,label,.geo\n0_0,a,{POINT}\n0_1,b,{NOWHERE}\n", {}, LONLAT, ["Point", "MultiPoint"]),
    "Earth Engine without": (f"system:index,lon,lat,label,.geo\n0_0,1,2,a,{NOWHERE}\n", {}, LONLAT, ["Point"]),
    "GeoJSON that names a CRS": (f"geometry,label\n{OF_POSTGIS},a\n", {}, UTM, ["Point"]),
    "GeoJSON in metres": (f".geo,label\n{POINT},a\n", {"labels_crs": UTM}, UTM, ["Point"]),
    "heights": ("wkt;label\nPOINT Z (1 2 3);a\nPOINT EMPTY;b\n", {"labels_crs": UTM}, UTM, ["Point", "Point"]),
    "a long outline": (f'wkt,label\n"POLYGON (({LONG},0 0))",a\n', {"labels_crs": UTM}, UTM, ["Polygon"]),
}


@pytest.mark.parametrize("case", GEOMETRIES)
def test_tables_with_a_column_of_geometries(tmp_path: Path, case: str) -> None:
    text, options, crs, kinds = GEOMETRIES[case]
    layer = read(write_text(tmp_path / "a.csv", text), **options)
    assert layer.crs == CRS(crs)
    assert [None if each is None else each.geom_type for each in layer.geometries] == kinds
    assert values_of(layer) == list("abc")[: len(kinds)]
    assert not shapely.has_z(layer.geometries).any()


BESIDE_POINTS, BESIDE_COMMAS = "lon;lat;n\n12.5;52.4;{}\n", "lon;lat;n\n12,5;52,4;{}\n"
ONE_OR_A_THOUSAND = r"a.csv: '1[.,]100' in the column 'n' is 1100 or 1\.1: write 1100, or 1[.,]1000 for a decimal"
MIXED = "is a number in a column with thousands separators, or with points and commas mixed: write"
NUMBERS: list[tuple[str, list[Any] | str]] = [
    ('lon,lat,n\n1,2,"3,5"\n1,2,4\n', [3.5, 4.0]),
    ('lon,lat,n\n"12,5","52,4","3,5"\n', [3.5]),
    ('lon,lat,n\n1,2,"1,100"\n', ONE_OR_A_THOUSAND),
    ('lon,lat,n\n1,2,"1,100"\n1,2,"0,5"\n', [1.1, 0.5]),
    (BESIDE_COMMAS.format("1.100"), ONE_OR_A_THOUSAND),
    (BESIDE_COMMAS.format("1,100"), [1.1]),
    (BESIDE_COMMAS.format("1.1000"), [1.1]),
    (BESIDE_COMMAS.format("0.100"), [0.1]),
    (BESIDE_COMMAS.format("1.100,5"), MIXED),
    (BESIDE_POINTS.format("1.100"), [1.1]),
    (BESIDE_POINTS.format("1,100"), ONE_OR_A_THOUSAND),
    (BESIDE_POINTS.format("1,100.5"), MIXED),
    (BESIDE_POINTS.format("1,5\n12.5;52.4;1.5"), MIXED),
    (BESIDE_POINTS.format("1.100.000"), MIXED),
    (BESIDE_POINTS.format("3.1.1"), ["3.1.1"]),
    (BESIDE_POINTS.format("1,2,3"), ["1,2,3"]),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_of_a_table_are_read_or_asked_about_and_no_classes(
    tmp_path: Path, text: str, expected: list[Any] | str
) -> None:
    path = write_text(tmp_path / "a.csv", text)
    if isinstance(expected, str):
        for options in ({}, {"where": "n > 2"}, {"task": "regression", "field": "n"}):
            with pytest.raises(LabelError, match=expected):
                read(path, **options)
        assert len(read(path, task="coverage", labelled_area="region").geometries) > 0
    else:
        assert values_of(read(path)) == expected


def test_coordinates_that_may_be_thousands_are_asked_about(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "x;y;n\n330.005;5820.005;0,5\n")
    with pytest.raises(LabelError, match=r"'330\.005' in the column 'x' is 330005 or 330\.005"):
        read(path, labels_crs=UTM)
    # No degree is a thousand.
    degrees = write_text(tmp_path / "b.csv", "lon;lat;n\n12.505;52.405;0,5\n")
    assert read(degrees).geometries[0] == shapely.Point(12.505, 52.405)


@pytest.mark.parametrize(
    ("easting", "advice"),
    [
        (33_330_000, "EPSG:5650, since 33330000 seems to be an easting with the number of UTM zone 33 in front"),
        (32_500_000, "EPSG:4647, since"),
        (17_330_000, "that of UTM zone 17 after subtracting 17000000"),
        (4_500_000, "EPSG:25833,"),
    ],
)
def test_a_zone_in_front_of_an_easting_is_named(tmp_path: Path, easting: int, advice: str) -> None:
    path = write_text(tmp_path / "a.csv", f"x,y,label\n{easting},5820000,a\n")
    with pytest.raises(LabelError, match=f"give it with `labels_crs`, for instance {advice}"):
        read(path)


BAD_TABLES = {
    "lon,lat,label\n1,2,a\n1,2\n": r"line 3 has 2 cells and the header 3, separated by commas",
    'lon,lat,label\n1,2,"a\nb"\n1,2\n': r"line 4 has 2 cells",
    'lon,lat,label\n1,2,"a"b\n': r"line 2 is not a row of a table",
    "lon,lat,label\n1,2,a\n52°30',13,a\n": r"""line 3: "52°30'" in the column 'lon' is not a number""",
    "lon;lat;label\n1.234,5;2;a\n": r"'1.234,5' in the column 'lon' is a number in a column with thousands separators",
    "wkt,label\n,a\nforest,b\n": r"line 3: 'forest' in the column 'wkt' is not a geometry: expected WKT such as POINT",
    "geom,label\n0101,a\n": r"line 2: '0101' in the column 'geom' is not a geometry",
    ".geo,label\n{},a\n": r"line 2: '{}' in the column '.geo' is not a geometry",
    "wkt,label\nCURVEPOLYGON (COMPOUNDCURVE EMPTY),a\n": r"line 2: 'CURVEPOLYGON .* is not a geometry",
    "wkt,label\nSRID=4326;POINT (1 2),a\nPOINT (1 2),a\n": r"state several CRS \(EPSG:4326 in line 2, none in line 3\)",
    "wkt,lon,lat,label\nPOINT (1 2),1,2,a\n": r"geometries beside them \('wkt' and 'lon', 'lat'\): keep only one",
    "wkt,label\nPOLYGON ((0 0,1 1,0 1,0 0)),a\n": r"line 2 has 5 cells and the header 2.*quote",
    "lon,lat,label\n1,inf,a\n": r"line 2: 'inf' in the column 'lat' is not a number",
    "lon,lat,label\n52,130,a\n": r"line 2: lon 52, lat 130 .*columns seem to be exchanged",
    "lon,lat,label\n330000,5820000,a\n": r"lon 330000, lat 5.82e\+06 .*`labels_crs`",
    "name,label\na,b\n": r"no columns with usual names of coordinates: it has name, label; name them lon and lat",
    "lon,lat,x,y,label\n1,2,3,4,a\n": r"several pairs .*\('lon', 'lat' and 'x', 'y'\)",
    "lon,lat,lat\n1,2,3\n": r"two columns called 'lat'",
    "lon,lat,\n1,2,3\n": r"column 3 has no name",
    "lon,lat,label\n": r"is empty below its column names",
    "\n\n": r"no line with column names",
    "sep=:\nlon:lat\n": r"separated by ':': expected one of",
    "lon,lat\n1,2\n": r"no column that can hold labels: it has lon, lat; .*`task` coverage",
    b"lon,lat,label\n1,2,\x81\n": r"neither UTF-8 nor cp1252: give its encoding",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_bad_tables_are_one_line(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(LabelError, match=BAD_TABLES[text]):
        read(write_text(tmp_path / "a.csv", text))


def test_a_given_crs_settles_what_lon_and_lat_are(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.csv", "lon,lat,label\n330000,5820000,a\n")
    assert read(path, labels_crs=UTM).crs == CRS(UTM)
    with pytest.raises(LabelError, match="not a longitude and latitude in degrees"):
        read(path, labels_crs="EPSG:4258")
    with pytest.raises(LabelError, match="single table without layers"):
        read(path, labels_crs=UTM, layer="a")


# -- Locked files, and numbers that floating point merges ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gpkg", "a.sqlite"])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_locked_database_is_said_to_be_locked(tmp_path: Path, name: str, journal: str) -> None:
    path = written(tmp_path / name)
    statements = f"PRAGMA journal_mode={journal}", "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE"
    holding = (
        f"import sqlite3; held = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
        f"for each in {statements}: held.execute(each)\n"
        "print('held', flush=True); input()"
    )
    pyogrio.set_gdal_config_options({"SQLITE_BUSY_TIMEOUT": "100"})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holding], **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline()
        with pytest.raises(LabelError, match=rf"{name} is locked: another program is writing to it; save and close it"):
            read(path)
        other.communicate(b"\n")
    pyogrio.set_gdal_config_options({"SQLITE_BUSY_TIMEOUT": None})
    assert values_of(read(path)) == ["a", "b"]


BEYOND = [2**53, 2**53 + 1]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("whole.gpkg", BEYOND),
        ("whole.geojson", BEYOND),
        ("whole.shp", BEYOND),
        ("whole.csv", BEYOND),
        ("gaps.gpkg", [*BEYOND, None]),
        ("gaps.shp", [*BEYOND, None]),
        ("double.gpkg", np.array(BEYOND, np.float64)),
        ("double.shp", np.array([2.0**53, 2.0**60])),
        ("whole.parquet", BEYOND),
    ],
)
def test_whole_numbers_beyond_2_53_are_told_apart_or_refused(tmp_path: Path, name: str, values: Any) -> None:
    path = tmp_path / name
    if path.suffix == ".csv":
        write_text(path, "lon,lat,label\n" + "".join(f"1,2,{value}\n" for value in values))
    else:
        typed = values if isinstance(values, np.ndarray) else pd.array(values, "Int64")
        written(path, (FIELD, LAKE, THIRD)[: len(values)], label=typed)
    read_values = read(path).values
    assert read_values is not None
    if path.stem == "whole":
        assert plain_labels(read_values, "a").text.tolist() == list(map(str, BEYOND))
    else:
        with pytest.raises(LabelError, match="9007199254740992 as floating point, which merges it with the next whole"):
            plain_labels(read_values, "a")


# -- What is wrong with files -------------------------------------------------------------------------------------------


VRT = '<?xml version="1.0"?>\n<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{}</SrcDataSource></OGRVRTLayer>'
PIPELINE = '{"type": "gdal_streamed_alg", "command_line": "gdal vector"}'
ODD_NAME = """{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"geometry": "x"},
"geometry": {"type": "Point", "coordinates": [1, 2]}}]}"""
GPKG, SHAPEFILE, TIFF = vector("a.gpkg"), vector("a.shp"), raster(name="a.tif")
TWO_LAYERS = vector("a.gpkg", layers=("a", "other"))


def without(suffix: str) -> Make:
    """A shapefile that has lost one of its files."""

    def make(folder: Path) -> Path:
        SHAPEFILE(folder).with_suffix(suffix).unlink()
        return folder / "a.shp"

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "a.gdb").mkdir()
    return folder / "a.gdb"


def spreadsheet(folder: Path) -> Path:
    (folder / "xl").mkdir()
    return zipped("a.xlsx", text("xl/workbook.xml", "<x/>"))(folder)


def no_geometries(folder: Path) -> Path:
    pyogrio.write_dataframe(pd.DataFrame({"label": ["a"]}), folder / "a.gpkg")
    return folder / "a.gpkg"


def no_columns(folder: Path) -> Path:
    return write_features(folder / "a.gpkg", frame_of()[["geometry"]])


BAD_FILES: dict[str, Bad] = {
    "missing": bad(lambda tmp: tmp / "a.gpkg", "does not exist"),
    "remote": bad(lambda tmp: Path("http://localhost/a.geojson"), "does not exist"),
    "remote vsi": bad(lambda tmp: Path("/vsicurl/http://localhost/a.gpkg"), "does not exist"),
    "empty": bad(text("a.gpkg", ""), r"is empty \(0 bytes\)"),
    "text": bad(text("a.gpkg", "no"), r"called \.gpkg but looks like plain text: expected a GeoPack"),
    "text, unknown ending": bad(text("a.foo", "no"), "cannot be read as a vector file"),
    "binary": bad(text("a.foo", b"\x00\x01\x02"), "cannot be read as a vector file"),
    "GeoPackage as TIFF": bad(renamed(GPKG, "a.tif"), r"called \.tif but looks like a GeoPackage"),
    "TIFF as shapefile": bad(renamed(TIFF, "a.shp"), "looks like a TIFF image"),
    "web page": bad(text("a.geojson", "<!DOCTYPE html><html>"), "is a web page"),
    "VRT": bad(text("a.vrt", VRT), "only points to other files: give the file itself"),
    "VRT as GML": bad(text("a.gml", VRT), "only points to other files: give the file itself"),
    "VRT behind a comment": bad(text("a.kml", f"<kml><!-- {VRT} -->"), "only points to other"),
    "pipeline": bad(text("a.json", PIPELINE), "is a GDAL pipeline"),
    "service": bad(text("a.xml", "<OGRWFSDataSource><URL/>"), "only points to a server"),
    "WMS": bad(text("a.xml", '<GDAL_WMS><Service name="WMS">'), "only points to a server"),
    "style": bad(text("a.qml", "<!DOCTYPE qgis PUBLIC ''>\n<qgis>"), "is a QGIS style"),
    "raster": bad(TIFF, "is a TIFF image: expected vectors"),
    "gzip": bad(text("a.geojson.gz", b"\x1f\x8b\x08"), "compressed archive: unpack it"),
    "PDF": bad(text("a.pdf", b"%PDF-1.4"), "is a PDF"),
    "folder": bad(empty_folder, r"is a folder and not a file geodatabase \(\.gdb\)"),
    "part of a shapefile": bad(
        lambda tmp: SHAPEFILE(tmp).with_suffix(".dbf"), r"is only a part of a shapefile: give the \.shp"
    ),
    "no .shx": bad(without(".shx"), r"its \.shx file is missing"),
    "no .dbf": bad(without(".dbf"), r"no column that can hold labels \(its \.dbf file is miss"),
    "cut shapefile": bad(cut(SHAPEFILE, 0.8), r"cut off: it has \d+ bytes"),
    "cut GeoPackage": bad(cut(GPKG, 0.2), "cannot be read"),
    "cut GeoJSON": bad(cut(vector("a.geojson"), 0.7), "cannot be read"),
    "cut FlatGeobuf": bad(cut(vector("a.fgb"), 0.9), "cannot be read.*is the file"),
    "cut zip": bad(cut(zipped("a.zip", GPKG), 0.5), "damaged zip archive"),
    "zip of text": bad(zipped("a.zip", text("b.txt", "x")), r"zip with no vector file in it \(b\.txt\): unpack it"),
    "zip of several": bad(
        zipped("a.zip", GPKG, vector("b.fgb")), r"zip with 2 vector files in it \(a\.gpkg, b\.fgb\): unpack it"
    ),
    "zip of a VRT": bad(zipped("a.zip", text("b.gml", VRT)), "b.gml is a VRT"),
    "spreadsheet": bad(spreadsheet, "is a spreadsheet or a document: save the table as CSV"),
    "exclamation mark": bad(renamed(GPKG, "a!b.gpkg"), "exclamation mark: rename"),
    "images only": bad(
        raster(name="a.gpkg", driver="GPKG"), "a GeoPackage with images only has to be saved as GeoTIFF"
    ),
    "column called geometry": bad(
        text("a.geojson", ODD_NAME),
        "a column called 'geometry' cannot be read beside the geometries: rename it",
        field="geometry",
    ),
    "tables only": bad(no_geometries, "has no layer with geometries"),
    "several layers": bad(TWO_LAYERS, r"2 layers \(a, other\): choose one with `layer`"),
    "no such layer": bad(TWO_LAYERS, "'Othr': it has a, other; did.*'other'", layer="Othr"),
    "empty layer": bad(empty_layer, "layer 'labels' is empty"),
    "no such column": bad(
        vector(fclass=["a", "b"], code=[1, 2]),
        "no column 'class': it has fclass, code; did you mean 'fclass'",
        field="class",
    ),
    "no columns": bad(no_columns, "no column that can hold labels: it has none"),
    "only the date": bad(
        vector(seen=["2018-06-04", None]), "no column that can hold labels: it has seen", date_field="seen"
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_line(tmp_path: Path, case: str) -> None:
    make, message, options = BAD_FILES[case]
    with pytest.raises(LabelError, match=message) as caught:
        read(make(tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_bad_parquet_is_one_line(tmp_path: Path) -> None:
    whole = written(tmp_path / "cut.parquet")
    pd.DataFrame({"label": ["a"]}).to_parquet(tmp_path / "plain.parquet")
    for path in (tmp_path / "plain.parquet", shorten(whole, 0.5)):
        with pytest.raises(
            LabelError, match=r"cannot be read as GeoParquet \(.+\): expected a whole file with geometries"
        ):
            read(path)


def test_rasters_are_told_by_content(tmp_path: Path) -> None:
    assert is_raster(TIFF(tmp_path))
    assert is_raster(renamed(TIFF, "no_ending")(tmp_path))
    assert is_raster(write_text(tmp_path / "grid.asc", "ncols 2\nnrows 1\nxllcorner 0\nyllcorner 0\ncellsize 1\n1 2\n"))
    assert is_raster(write_text(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n"))
    write_text(tmp_path / "raw.hdr", "ENVI")
    assert is_raster(write_text(tmp_path / "raw.dat", b"\0\1\0\1"))
    assert not is_raster(GPKG(tmp_path))
    assert not is_raster(write_text(tmp_path / "a.csv", "lon,lat\n"))
    marked = write_text(tmp_path / "b.json", '\ufeff {"type": "FeatureCollection"}')
    assert find_format(marked).words.startswith("GeoJSON")
    # Web pages inside of attributes are common in KML.
    assert not is_raster(write_text(tmp_path / "a.kml", "<kml><description><![CDATA[<html>]]></description></kml>"))


# -- Areas --------------------------------------------------------------------------------------------------------------


def test_area_is_the_polygons_of_one_layer(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gpkg", (FIELD, None, BOW_TIE, shapely.Point(1, 1), shapely.MultiPolygon([LAKE])))
    write_features(path, frame_of((shapely.Point(1, 1),)), layer="points", append=True)
    area = read_area(path)
    assert [geometry.geom_type for geometry in area.geometries] == ["Polygon", "Polygon", "MultiPolygon"]
    assert area.crs == CRS(UTM)
    assert any("2 of 5 features of a.gpkg are not polygons" in note for note in area.notes)
    write_features(path, frame_of((THIRD,)), layer="second", append=True)
    with pytest.raises(LabelError, match=r"has 2 layers with polygons \(a, second\)"):
        read_area(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (vector("a.gpkg", [shapely.Point(1, 1)]), "no layer with polygons .it has a."),
        (vector(crs=None), "no coordinate reference system"),
        (vector(geometries=[BOW_TIE]), "no valid polygon"),
        (text("a.csv", "lon,lat\n1,2\n"), "a.csv is a table of points: expected polygons"),
        (text("a.csv", "lon,lat\n330000,5820000\n"), "a.csv is a table of points: expected polygons"),
        (
            text("a.csv", f'wkt\n"{FIELD.wkt}"\n'),
            "has no coordinate reference system: assign it, for instance EPSG:25833,",
        ),
        (text("a.csv", 'wkt\n"SRID=32633;POINT (330000 5820000)"\n'), "a.csv has no valid polygon"),
        (TIFF, "is a TIFF image: expected vectors"),
        (lambda folder: folder / "a.gpkg", "does not exist"),
    ],
)
def test_bad_areas_are_one_line(tmp_path: Path, make: Make, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_area(make(tmp_path))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_outlines_in_a_table_that_states_its_crs_are_an_area(tmp_path: Path, mark: str) -> None:
    area = read_area(write_text(tmp_path / "a.csv", f'{mark}wkt,name\n"SRID=32633;{FIELD.wkt}",Mühle\n'))
    assert (area.crs, area.geometries.tolist()) == (CRS(UTM), [FIELD])


def test_area_from_parquet(tmp_path: Path) -> None:
    assert len(read_area(written(tmp_path / "a.parquet")).geometries) == 2
