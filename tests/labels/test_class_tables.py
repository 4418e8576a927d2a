"""What names and colours classes: QGIS styles in and beside files, and tables of classes."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import geopandas
import pandas as pd
import pyogrio
import pytest
import shapely

from lianet_user.errors import LabelError, LabelWarning
from lianet_user.files.header import ClassEntry
from lianet_user.labels.class_tables import (
    MAX_BYTES,
    ClassTable,
    TableEntry,
    parse_style,
    read_class_table,
    stored_style,
)
from lianet_user.labels.label_values import plain_labels
from lianet_user.maps.style import write_qml

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

# As QGIS 3.40 writes it, with the colour in full precision behind the old one.
NEW_STYLE = (
    DOCTYPE
    + """<qgis version="3.40.1-Bratislava"><renderer-v2 type="categorizedSymbol" attr="fclass" forceraster="0">
  <categories>
    <category type="string" value="forest" symbol="0" label="Wald" render="true" uuid="{1}"/>
    <category symbol="1" label="Wasser" render="false">
      <val type="string" value="lake"/><val type="string" value="river"/>
    </category>
    <category type="string" value="scrub" symbol="2" label="" render="true"/>
    <category type="string" value="" symbol="3" label="all other values" render="true"/>
    <category type="NULL" value="NULL" symbol="3" label="nothing" render="true"/>
  </categories>
  <symbols>
    <symbol name="0" type="fill"><layer class="SimpleFill"><Option type="Map">
      <Option name="border_width_map_unit_scale" type="QString" value="3x:0,0,0,0,0,0"/>
      <Option name="color" type="QString" value="20,83,45,255,rgb:0.0784314,0.3254902,0.1764706,1"/>
    </Option></layer></symbol>
    <symbol name="1" type="line"><layer class="SimpleLine"><Option type="Map">
      <Option name="line_color" type="QString" value="43,123,186,255"/>
    </Option></layer></symbol>
    <symbol name="2" type="fill"><layer class="SVGFill"><Option type="Map"/></layer></symbol>
  </symbols>
</renderer-v2></qgis>"""
)
OLD_STYLE = (
    DOCTYPE
    + """<qgis version="2.18"><renderer-v2 attr="&quot;land use&quot;" type="categorizedSymbol">
  <categories>
    <category render="true" symbol="0" value="1.0" label="Wald"/>
    <category render="true" symbol="1" value="2" label="Wasser"/>
  </categories>
  <symbols>
    <symbol name="1"><layer><prop k="outline_color" v="1,2,3,255"/><prop k="color" v="43,123,186,255"/></layer></symbol>
    <symbol name="0"><layer><prop k="color" v="20,83,45,255"/></layer></symbol>
  </symbols>
</renderer-v2></qgis>"""
)
NEW_ENTRIES = (
    TableEntry("forest", "Wald", "#14532d"),
    TableEntry("lake", "Wasser", "#2b7bba"),
    TableEntry("river", "Wasser", "#2b7bba"),
    TableEntry("scrub", "scrub", ""),
)
OLD_ENTRIES = (TableEntry("1", "Wald", "#14532d"), TableEntry("2", "Wasser", "#2b7bba"))


def geopackage(path: Path, *styles: tuple[str, str, object, str]) -> Path:
    """A layer `land` with styles (layer, name, is default, QML), in the table that QGIS makes."""
    frame = geopandas.GeoDataFrame({"fclass": ["forest"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:32633")
    pyogrio.write_dataframe(frame, path, layer="land")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),"
            " f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30),"
            " styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),"
            " update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        database.executemany(
            "INSERT INTO layer_styles (f_table_name, styleName, useAsDefault, styleQML) VALUES (?, ?, ?, ?)", styles
        )
    return path


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(statement)


def entries_in(path: Path) -> tuple[TableEntry, ...]:
    """What the style of the layer `land` calls its classes."""
    table = stored_style(path, "land")
    assert table is not None
    return table.entries


# --- styles


@pytest.mark.parametrize("encode", [str, str.encode], ids=["text", "bytes"])
def test_both_dialects_of_qml_are_read(encode: Callable[[str], str | bytes]) -> None:
    assert parse_style(encode(NEW_STYLE), "s") == ClassTable("s", NEW_ENTRIES, "fclass")
    assert parse_style(encode(OLD_STYLE), "s") == ClassTable("s", OLD_ENTRIES, "land use")


def test_true_and_false_are_called_as_their_labels_are() -> None:
    style = NEW_STYLE.replace('type="string" value="forest"', 'type="bool" value="true"')
    table = parse_style(style, "s")
    assert table is not None
    assert table.entries[0].label == plain_labels(pd.Series([True]), "a column").text[0]


def test_style_of_clustered_points_is_that_of_the_points() -> None:
    renderer = NEW_STYLE[NEW_STYLE.index("<renderer") : NEW_STYLE.index("</qgis>")]
    wrapped = f'<qgis><renderer-v2 type="pointCluster">{renderer}</renderer-v2></qgis>'
    assert parse_style(wrapped, "s") == parse_style(NEW_STYLE, "s")


def test_own_maps_style_is_read_back(tmp_path: Path) -> None:
    classes = [ClassEntry(name="Wald & Moor", color="#14532d"), ClassEntry(name="water", color="#2b7bba")]
    write_qml(path := tmp_path / "map.qml", classes)
    table = read_class_table(path)
    assert table.entries == (TableEntry("0", "Wald & Moor", "#14532d"), TableEntry("1", "water", "#2b7bba"))
    assert stored_style(tmp_path / "map.tif", "") == ClassTable("QGIS style map.qml", table.entries)


@pytest.mark.parametrize(
    "style",
    [
        '<qgis><renderer-v2 type="singleSymbol"/></qgis>',
        '<qgis><renderer-v2 type="graduatedSymbol" attr="height"/></qgis>',
        '<qgis><pipe><rasterrenderer type="singlebandgray"/></pipe></qgis>',
        '<qgis><renderer-v2 type="categorizedSymbol" attr="fclass"/></qgis>',
        NEW_STYLE.replace('attr="fclass"', 'attr="lower(fclass)"'),
        NEW_STYLE.replace('attr="fclass"', 'attr="&quot;a&quot; || &quot;b&quot;"'),
    ],
)
def test_other_styles_say_nothing_of_classes(style: str) -> None:
    assert parse_style(style, "s") is None


BOMB = (
    '<!DOCTYPE qgis [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    "<qgis>&c;</qgis>"
)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (BOMB, "declares entities"),
        ('<!DOCTYPE qgis [<!ENTITY f SYSTEM "file:///etc/passwd">]><qgis>&f;</qgis>', "declares entities"),
        ("no XML", "not readable XML"),
        ("", "not readable XML"),
        (NEW_STYLE[:900], "not readable XML"),
        (b'<?xml version="1.0" encoding="no-such"?><qgis/>', "not readable XML"),
        ("<qgis>" + " " * MAX_BYTES + "</qgis>", "larger than 16 MB"),
    ],
    ids=["bomb", "file", "text", "empty", "cut", "encoding", "large"],
)
def test_styles_are_not_trusted(tmp_path: Path, style: str | bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_style(style, "s")
    path = tmp_path / "land.shp"
    path.with_suffix(".qml").write_bytes(style if isinstance(style, bytes) else style.encode())
    with pytest.warns(LabelWarning, match=message) as caught:
        assert stored_style(path, "land") is None
    assert "\n" not in str(caught[0].message)


def test_default_style_of_the_layer_comes_first(tmp_path: Path) -> None:
    other = OLD_STYLE.replace("land use", "other")
    path = geopackage(
        tmp_path / "land.gpkg",
        ("elsewhere", "one", 1, other),
        ("land", "two", 0, other),
        ("land", "land use", 1, NEW_STYLE),
        ("land", "three", 0, other),
    )
    assert stored_style(path, "land") == ClassTable("QGIS style 'land use' in land.gpkg", NEW_ENTRIES, "fclass")
    assert stored_style(path, "no style of mine") is None


def test_only_style_needs_not_be_the_default(tmp_path: Path) -> None:
    assert entries_in(geopackage(tmp_path / "land.gpkg", ("land", "a", 0, OLD_STYLE))) == OLD_ENTRIES


def test_style_kept_as_bytes_is_read_too(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "land.gpkg", ("land", "a", 1, OLD_STYLE))
    changed(path, "UPDATE layer_styles SET styleQML = CAST(styleQML AS BLOB)")
    assert entries_in(path) == OLD_ENTRIES


def test_no_style_is_guessed_among_several(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "land.gpkg", ("land", "a", 0, OLD_STYLE), ("land", "b", None, NEW_STYLE))
    with pytest.warns(LabelWarning, match=r"2 \('b', 'a'\) and none is the default"):
        assert stored_style(path, "land") is None


def test_style_in_the_file_comes_before_the_one_beside(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "land.gpkg", ("land", "in", 1, NEW_STYLE))
    path.with_suffix(".qml").write_text(OLD_STYLE)
    assert entries_in(path) == NEW_ENTRIES
    changed(path, "DELETE FROM layer_styles")
    assert entries_in(path) == OLD_ENTRIES
    path.with_suffix(".qml").unlink()
    assert stored_style(path, "land") is None
    changed(path, "DROP TABLE layer_styles")
    assert stored_style(path, "land") is None


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_reading_a_style_leaves_the_folder_as_it_was(tmp_path: Path, journal: str) -> None:
    path = geopackage(tmp_path / "my land #1?.gpkg", ("land", "in", 1, NEW_STYLE))
    changed(path, f"PRAGMA journal_mode = {journal}")
    before = path.read_bytes()
    assert stored_style(path, "land") is not None
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_style_that_qgis_has_just_saved_is_seen(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "land.gpkg", ("land", "old", 1, OLD_STYLE))
    with closing(sqlite3.connect(path)) as open_in_qgis:
        open_in_qgis.execute("PRAGMA journal_mode = wal")
        with open_in_qgis:
            open_in_qgis.execute("UPDATE layer_styles SET styleQML = ?", [NEW_STYLE])
        assert path.with_name("land.gpkg-wal").exists()
        assert entries_in(path) == NEW_ENTRIES


def test_damaged_database_is_said_and_not_fatal(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "land.gpkg", ("land", "in", 1, NEW_STYLE))
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996
    path.write_bytes(content)
    with pytest.warns(LabelWarning, match="layer_styles cannot be read"):
        assert stored_style(path, "land") is None


# --- tables of classes


@pytest.mark.parametrize(
    ("content", "entries"),
    [
        ("code,name,color\n1,forest,#14532D\n2,water,\n", [("1", "forest", "#14532d"), ("2", "water", "")]),
        ("name;code\nWald, dicht;1.0\nMoor;02\n", [("1", "Wald, dicht", ""), ("02", "Moor", "")]),
        ("Code\tColour\r\nforest\t#0f0\r\n\r\nwater\t\r\n", [("forest", "forest", "#00ff00"), ("water", "water", "")]),
        ("name\n forest \n", [("forest", "forest", "")]),
        ("value,label\n1,forest\n", [("1", "forest", "")]),
        ("class;label;note\n1;forest;x\n", [("1", "forest", "")]),
        ("label,name\nf,forest\n", [("f", "forest", "")]),
        ('code,name\n"a, b","c ""d"""\n,background\ne\n', [("a, b", 'c "d"', ""), ("background",) * 2, ("e", "e")]),
    ],
)
def test_tables_are_read_as_they_come(tmp_path: Path, content: str, entries: list[tuple[str, ...]]) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes(content.encode())
    table = read_class_table(path)
    assert table.entries == tuple(TableEntry(*entry) for entry in entries)
    assert table.column == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_umlauts_survive_every_usual_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes("code;name\nä;Größe\n".encode(encoding))
    assert read_class_table(path).entries == (TableEntry("ä", "Größe"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file"),
        (b"", r"no usable columns \(found: none\)"),
        (b"kind,colour\na,#fff\n", r"no usable columns \(found: kind, colour\)"),
        (b"code,name\n", "lists no classes"),
        (b"code,name\n1,a\n\n1.0,b\n", "line 4: '1' is listed twice"),
        (b"name\na\na\n", "line 3: 'a' is listed twice"),
        (b"code,color\n1,red\n", "line 2: 'red' is not a colour: expected one such as #1f77b4"),
        (b"code,color\n,#ff0000\n", "line 2: neither a code nor a name"),
        (b"code,name\n1,wood, dense\n", "line 2: 3 columns, where the header has 2"),
        (b"code,name,name\n1,a,b\n", "two columns called 'name'"),
        (b'code,name\n1,"a\n', "line 2: unexpected end of data"),
        (b"PK\x03\x04", "not a text table"),
        (b"code\0name", "not a text table"),
        (b"code\n\x81\n", "not a text table"),
    ],
)
def test_bad_tables_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "classes.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=message) as caught:
        read_class_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_style_without_classes_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "s.QML"
    path.write_text('<qgis><renderer-v2 type="singleSymbol"/></qgis>')
    with pytest.raises(LabelError, match=r"s\.QML is a QGIS style without classes"):
        read_class_table(path)
    path.write_text(BOMB)
    with pytest.raises(LabelError, match=r"s\.QML declares entities"):
        read_class_table(path)


def test_nothing_warns_where_there_is_no_style(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:32633")
    pyogrio.write_dataframe(frame, tmp_path / "a.gpkg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stored_style(tmp_path / "a.gpkg", "a") is None
        assert stored_style(tmp_path / "none.shp", "a") is None
