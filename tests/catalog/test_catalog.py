"""Catalogues: what publishing states, what reading believes, and what names lead to."""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from affine import Affine
from factories import RegionFactory
from odc.geo.geobox import GeoBox
from shapely.geometry import Point, mapping
from web import MODELS, editing

from lianet_user.catalog import Model, Provider, chosen_place, open_catalog, publish
from lianet_user.catalog.coverage import SAME_PLACE, View, coverage_figure, is_land, marks, place_of, sketch
from lianet_user.catalog.model import read_item
from lianet_user.catalog.read import MAX_DOCUMENT_BYTES
from lianet_user.errors import ArtifactError, CatalogError, OutputError
from lianet_user.files.artifact import open_region_file
from lianet_user.geo.grid import LONLAT, bounds_of

pystac = pytest.importorskip("pystac")
Document = dict[str, Any]


def documents(folder: Path) -> dict[str, Document]:
    """What a catalogue's files hold, by their place in its folder."""
    found = [folder / "catalog.json", *(folder / "items").glob("*.json")]
    return {str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8")) for path in found}


# --- publishing


def test_the_shipped_catalogue_is_that_of_the_shipped_regions(tmp_path: Path) -> None:
    for path in MODELS.glob("*.safetensors"):
        (tmp_path / path.name).symlink_to(path)
    publish(
        tmp_path, name="lianet-user-regions", providers=(Provider(name="lianet_user", roles=("processor", "host")),)
    )
    shipped, made = documents(MODELS), documents(tmp_path)
    for document in (*shipped.values(), *made.values()):
        for of_pystac in ("stac_version", "stac_extensions"):  # another release of it may write newer ones
            document.pop(of_pystac, None)
    assert made == shipped


def test_an_item_states_what_the_standard_and_a_user_need(make_region: RegionFactory, tmp_path: Path) -> None:
    region = make_region(name="small", dates=2)
    provider = Provider(name="Agency", roles=("host",), url="https://agency.example")
    publish(tmp_path, providers=(provider,))
    catalog = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    (item,) = catalog.get_items()
    told, asset = item.properties, item.assets["model"]
    assert item.id == told["mlm:name"] == "small"
    assert told["mlm:architecture"] == "LIANet lite"
    assert set(told["mlm:tasks"]) == {"regression", "semantic-segmentation"}
    assert told["mlm:input"][0]["bands"] == []  # a field reads no imagery
    assert [output["name"] for output in told["mlm:output"]] == ["reflectance", "features"]
    assert told["mlm:output"][0]["result"]["shape"] == [3, -1, -1]
    assert told["mlm:output"][1]["result"]["shape"] == [region.header.field.decoder.features, -1, -1]
    assert told["license"] == "CC-BY-4.0"
    assert told["providers"] == [{"name": "Agency", "roles": ["host"], "url": "https://agency.example"}]
    assert (told["start_datetime"], told["end_datetime"]) == ("2017-02-16T00:00:00Z", "2017-03-16T00:00:00Z")
    assert told["lianet:dates"] == ["2017-02-16", "2017-03-16"]
    assert asset.extra_fields["mlm:artifact_type"] == "lianet-region"
    assert asset.extra_fields["file:checksum"] == f"1220{region.sha256}"
    assert asset.extra_fields["file:size"] == (tmp_path / "small.safetensors").stat().st_size
    assert asset.roles is not None
    assert "mlm:model" in asset.roles
    assert Path(asset.get_absolute_href() or "").resolve() == (tmp_path / "small.safetensors").resolve()
    assert any("/mlm/" in uri for uri in item.stac_extensions)
    assert any("/file/" in uri for uri in item.stac_extensions)
    hrefs = [link["href"] for document in documents(tmp_path).values() for link in document["links"]]
    assert hrefs
    assert all(href.startswith("./") or href.startswith("../") for href in hrefs)


def test_reading_gives_what_was_published_and_a_moved_catalogue_the_same(
    make_region: RegionFactory, tmp_path: Path
) -> None:
    make_region(name="small", title="Ödland [b] é", licence="My own terms", description="Two\nlines")
    done = publish(tmp_path)
    assert open_catalog(str(done.catalog)).models == done.models
    shutil.move(tmp_path, moved := tmp_path.with_name("moved"))
    (model,) = open_catalog(str(moved / "catalog.json")).models
    assert model.place == str(moved / "small.safetensors")
    assert (model.title, model.licence) == ("Ödland [b] é", "My own terms")
    assert json.loads((moved / "items/small.json").read_text())["properties"]["license"] == "other"


def test_the_ground_is_the_grid_s_also_where_its_edges_bend_in_degrees(make_region: RegionFactory) -> None:
    # 770 km wide at 65 degrees north: a straight edge in degrees would be 50 km off.
    wide = GeoBox((96, 128), Affine(6_000.0, 0.0, 200_000.0, 0.0, -6_000.0, 7_500_000.0), "EPSG:32633")
    region = make_region(name="wide", geobox=wide)
    model = Model.of_file(open_region_file(region.path or ""), "0" * 64)
    dense = wide.footprint("EPSG:4326", npoints=2_000).geom
    assert model.ground.symmetric_difference(dense).area < 1e-4 * dense.area
    straight = wide.footprint("EPSG:4326", npoints=1).geom
    assert straight.symmetric_difference(dense).area > 1e-2 * dense.area


def test_ground_across_the_antimeridian_is_cut_in_two(make_region: RegionFactory, tmp_path: Path) -> None:
    fiji = GeoBox((96, 128), Affine(1_000.0, 0.0, 800_000.0, 0.0, -1_000.0, 8_100_000.0), "EPSG:32760")
    make_region(name="small", geobox=fiji)
    publish(tmp_path)
    (model,) = open_catalog(str(tmp_path / "catalog.json")).models
    assert model.geometry["type"] == "MultiPolygon"
    assert model.touches((179.9, -18, 180, -17.5))
    assert model.touches((-180, -18, -179.9, -17.5))
    assert not model.touches((0, -18, 1, -17.5))
    west, _, east, _ = documents(tmp_path)["items/small.json"]["bbox"]
    assert 179 < west < 180
    assert -180 < east < -178


def test_publishing_refuses_and_leaves_nothing(make_region: RegionFactory, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        make_region(name=name, seed=seed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match=r"both regions named 'small'"):
        publish(tmp_path)
    for content, message in (
        (b"cut off", r"b\.safetensors"),
        ((tmp_path / "a.safetensors").read_bytes()[:-1], "cut off"),
    ):
        (tmp_path / "b.safetensors").write_bytes(content)
        with pytest.raises(ArtifactError, match=message):
            publish(tmp_path)
    with pytest.raises(CatalogError, match="holds no region file"):
        publish(tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors", "empty"}


def test_a_catalogue_is_replaced_only_when_asked_and_says_what_it_left(
    make_region: RegionFactory, tmp_path: Path
) -> None:
    region = make_region(name="a")
    publish(tmp_path)
    before = (tmp_path / "catalog.json").read_bytes()
    with pytest.raises(OutputError, match="`overwrite`"):
        publish(tmp_path)
    assert (tmp_path / "catalog.json").read_bytes() == before
    assert region.path is not None
    region.path.unlink()
    make_region(name="b")
    shutil.copy(tmp_path / "items/small.json", tmp_path / "items/old.json")
    assert publish(tmp_path, overwrite=True).left == (tmp_path / "items" / "old.json",)


# --- reading what anybody wrote


@pytest.fixture
def published(original: Path, tmp_path: Path) -> Path:
    """The folder of a catalogue of one region, `romania`, to be spoiled."""
    return Path(shutil.copytree(original, tmp_path / "published"))


def linked(catalogue: Path, *hrefs: object, rel: str = "item") -> None:
    """Put more links into a catalogue."""
    with editing(catalogue) as document:
        document["links"] += [{"rel": rel, "href": href} for href in hrefs]


def changed(document: Document, path: str, value: object) -> Document:
    """A document with another value at `a/b/c`; None takes it away."""
    found = copy.deepcopy(document)
    *outer, last = path.split("/")
    inner: Any = found
    for key in outer:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return found


SQUARE = [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]
BAD_ITEMS: dict[str, tuple[str, object]] = {
    "no geometry": ("geometry", None),
    "a point": ("geometry", {"type": "Point", "coordinates": [0, 0]}),
    "geometry of words": ("geometry", {"type": "Polygon", "coordinates": "SQUARE"}),
    "no ring": ("geometry", {"type": "Polygon", "coordinates": []}),
    "a number for a ring": ("geometry", {"type": "Polygon", "coordinates": [5]}),
    "a short ring": ("geometry", {"type": "Polygon", "coordinates": [SQUARE[0][:3]]}),
    "metres": ("geometry", {"type": "Polygon", "coordinates": [[[0, 0], [9e5, 0], [9e5, 9e5], [0, 0]]]}),
    "words in a point": ("geometry", {"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [1, 1], [0, 0]]]}),
    "a bow tie": ("geometry", {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}),
    "a huge geometry": ("geometry", {"type": "MultiPolygon", "coordinates": [SQUARE] * 5_000}),
    "deeply nested": ("geometry", {"type": "MultiPolygon", "coordinates": [[[[[[[[]]]]]]]]}),
    "a name that climbs": ("id", "../../small"),
    "a name with an escape": ("id", "\x1b[2Jsmall"),
    "a hidden name": ("id", ".small"),
    "a name with a line": ("id", "small\n"),
    "an endless name": ("id", "s" * 65),
    "no name": ("id", ""),
    "two names": ("properties/mlm:name", "other"),
    "no version": ("stac_version", None),
    "another version": ("stac_version", "9.0.0"),
    "no properties": ("properties", None),
    "no licence": ("properties/license", None),
    "an endless title": ("properties/title", "x" * 2_001),
    "no dates": ("properties/lianet:dates", []),
    "dates of another calendar": ("properties/lianet:dates", ["2017-13-01"]),
    "too many dates": ("properties/lianet:dates", ["2017-01-01"] * 10_001),
    "no moment of making": ("properties/created", "yesterday"),
    "a level that is not a number": ("properties/lianet:psnr_db", "best"),
    "a provider without a name": ("properties/providers", [{"url": "https://x"}]),
    "no checksum": ("assets/model/file:checksum", None),
    "md5": ("assets/model/file:checksum", "d50110" + "0" * 32),
    "a short checksum": ("assets/model/file:checksum", "1220" + "0" * 63),
    "no size": ("assets/model/file:size", None),
    "size 0": ("assets/model/file:size", 0),
    "size below 0": ("assets/model/file:size", -1),
    "an absurd size": ("assets/model/file:size", 2**50),
    "a size that is not a number": ("assets/model/file:size", "15"),
    "no file": ("assets/model/href", None),
    "an empty address": ("assets/model/href", ""),
    "a file outside": ("assets/model/href", "../../../etc/passwd"),
    "an absolute file": ("assets/model/href", "/etc/passwd"),
    "a file address": ("assets/model/href", "file:///etc/passwd"),
    "http": ("assets/model/href", "http://example.org/small.safetensors"),
    "a script": ("assets/model/href", "javascript:alert(1)"),
    "backslashes": ("assets/model/href", "..\\..\\x"),
    "a null byte": ("assets/model/href", "x\0y"),
    "an endless address": ("assets/model/href", "https://example.org/" + "x" * 3_000),
}


@pytest.mark.parametrize("fault", BAD_ITEMS)
def test_an_item_that_is_not_as_it_should_be_is_left_out_and_named(published: Path, fault: str) -> None:
    item = published / "items" / "romania.json"
    root = str(published / "catalog.json")
    document = json.loads(item.read_text())
    assert read_item(document, str(item), root).name == "romania"
    bad = changed(document, *BAD_ITEMS[fault])
    with pytest.raises(CatalogError) as error:
        read_item(bad, str(item), root)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1_000
    item.write_text(json.dumps(bad))
    catalog = open_catalog(root)
    assert not catalog.models
    assert catalog.problems == (str(error.value),)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def places_in(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a document where a value stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places_in(each, (*path, key)))]


@hypothesis.settings(max_examples=150, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_whatever_stands_in_an_item_is_a_model_or_an_error_of_ours(original: Path, data: st.DataObject) -> None:
    item = original / "items" / "romania.json"
    document = json.loads(item.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        *outer, last = data.draw(st.sampled_from(places_in(document)[1:]))
        inner: Any = document
        for key in outer:
            inner = inner[key]
        inner[last] = data.draw(JSON)
    with suppress(CatalogError):
        model = read_item(document, str(item), str(original / "catalog.json"))
        sketch((model,))
        assert model.name.isprintable()
        assert Path(model.place).is_relative_to(original) or model.place.startswith("https://")


BAD_CATALOGUES: dict[str, tuple[bytes | Callable[[Document], object], str]] = {
    "empty": (b"", "not valid JSON"),
    "cut off": (b'{"type": "Catalog", "links": [', "not valid JSON"),
    "no text": (b"\xff\xfe\x00", "not valid JSON"),
    "a list": (b"[]", "not a JSON object"),
    "one key twice": (b'{"type": "Catalog", "type": "Feature"}', "a key appears twice"),
    "nested without end": (b'{"type":' + b"[" * 200_000, "not valid JSON"),
    "too large": (b'{"type": "Catalog"}' + b" " * MAX_DOCUMENT_BYTES, "larger than"),
    "no links": (lambda document: {**document, "links": None}, "no list of links"),
    "an item": (lambda document: {**document, "type": "Feature"}, "not a STAC catalogue"),
    "no type": (lambda document: {"links": []}, "not a STAC catalogue"),
    "too many links": (lambda document: {**document, "links": [{}] * 5_001}, "links, more than"),
}


@pytest.mark.parametrize("fault", BAD_CATALOGUES)
def test_what_is_no_catalogue_is_refused_in_a_line(published: Path, fault: str) -> None:
    root = published / "catalog.json"
    spoiled, message = BAD_CATALOGUES[fault]
    if callable(spoiled):
        spoiled = json.dumps(spoiled(json.loads(root.read_text()))).encode()
    root.write_bytes(spoiled)
    with pytest.raises(CatalogError, match=message) as error:
        open_catalog(str(root))
    assert len(str(error.value)) < 1_000


def test_links_lead_in_circles_and_out_and_no_further(published: Path) -> None:
    root = published / "catalog.json"
    outside = Path(shutil.copy(root, published.parent / "outside.json"))
    (published / "link.json").symlink_to(outside)
    astray = ("missing.json", "file:///x.json", "http://x.org/c.json", 7)
    linked(root, "./catalog.json", "../outside.json", "link.json", *astray, rel="child")
    catalog = open_catalog(str(root))
    assert [model.name for model in catalog.models] == ["romania"]
    assert len(catalog.problems) == 6
    assert sum("out of its folder" in problem for problem in catalog.problems) == 2


def test_nested_catalogues_are_read_and_other_items_skipped(published: Path, tmp_path: Path) -> None:
    outer = Path(shutil.copy(published / "catalog.json", tmp_path))
    image = shutil.copy(published / "items" / "romania.json", published / "items" / "image.json")
    with editing(Path(image)) as document:
        document |= {"id": "image", "assets": {"image": {"href": "./image.tif"}}}
    linked(published / "catalog.json", "./items/image.json")
    with editing(outer) as document:
        document["links"] = [{"rel": "child", "href": "published/catalog.json"}]
    catalog = open_catalog(str(outer))
    assert [model.name for model in catalog.models] == ["romania"]
    assert catalog.problems == ()


def test_two_models_of_one_name_are_both_left_out(published: Path) -> None:
    shutil.copy(published / "items" / "romania.json", published / "items" / "again.json")
    linked(published / "catalog.json", "./items/again.json")
    catalog = open_catalog(str(published / "catalog.json"))
    assert catalog.models == ()
    assert "2 models named 'romania'" in catalog.problems[0]


def test_a_pipe_or_a_folder_is_no_catalogue(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("pipe.json", "missing.json", "."):
        with pytest.raises(CatalogError, match="cannot read the catalogue"):
            open_catalog(chosen_place(str(tmp_path / name)) or "")


# --- choosing


def test_where_the_catalogue_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIANET_CATALOG", raising=False)
    assert chosen_place(None) == str(MODELS / "catalog.json")
    monkeypatch.setenv("LIANET_CATALOG", "https://example.org/regions/")
    assert chosen_place(None) == "https://example.org/regions/catalog.json"
    assert chosen_place(str(tmp_path)) == str(tmp_path / "catalog.json")
    assert chosen_place("hf://owner/regions@v1/catalog.json") == "hf://owner/regions@v1/catalog.json"
    for wrong in ("ftp://example.org/catalog.json", "http://example.org", "https://user:word@example.org"):
        with pytest.raises(CatalogError):
            chosen_place(wrong)


def test_models_are_found_by_place_and_time() -> None:
    models = {model.name: model for model in open_catalog(str(MODELS / "catalog.json")).models}
    for name, model in models.items():
        header = open_region_file(MODELS / f"{name}.safetensors").header
        west, south, east, north = bounds_of(header.grid.geobox, LONLAT)
        assert model.touches((west - 1, south - 1, east + 1, north + 1))
        assert model.touches(((west + east) / 2, (south + north) / 2, east + 1, north + 1))
        assert not model.touches((east + 0.001, south, east + 1, north))
        assert not model.touches((west, north + 0.001, east, north + 1))
    day = dt.date(2018, 7, 4)
    assert [name for name, model in models.items() if model.holds(day, day)] == ["bouconne", "romania"]  # between dates
    whole_year = (dt.date(2017, 1, 1), dt.date(2017, 12, 31))
    assert [name for name, model in models.items() if model.holds(*whole_year)] == ["havelland", "romania"]
    before = dt.date(2017, 2, 15)
    assert not models["havelland"].holds(before, before)
    assert not any(model.holds(dt.date(2030, 1, 1), dt.date(2031, 1, 1)) for model in models.values())


# --- coverage


def test_the_sketch_marks_every_model_where_it_lies() -> None:
    models = open_catalog(str(MODELS / "catalog.json")).models
    lines, view = sketch(models), View.of(models)
    # From north to south, west to east.
    assert [mark for line in lines for mark in line if mark.isalpha()] == ["b", "a", "c"]
    for mark, model in zip(marks(models), models, strict=True):
        (row,) = [number for number, line in enumerate(lines) if mark in line]
        lon, lat = place_of(model)
        assert view.west + lines[row].index(mark) * view.width / 72 <= lon
        assert abs(view.north - (row + 0.5) * view.height / 18 - lat) <= view.height / 36
    assert SAME_PLACE in "".join(sketch((models[0], models[0])))
    assert len(sketch(())) == 18
    far_away = models[0].model_copy(update={"geometry": mapping(Point(170, -40).buffer(0.5))})
    assert View.of((models[0], far_away)).width == 360


def test_land_is_where_it_is() -> None:
    assert all(is_land(*place) for place in [(13, 52), (-100, 40), (25, 0), (135, -25), (373, 52)])
    assert not any(is_land(*place) for place in [(-30, 40), (-150, 0), (80, -30), (150, 40)])


def test_the_picture_shows_marks(tmp_path: Path) -> None:
    import matplotlib.image

    models = open_catalog(str(MODELS / "catalog.json")).models
    coverage_figure(models, tmp_path / "with.png")
    coverage_figure((models[0],), tmp_path / "one.png")
    with_all, with_one = (matplotlib.image.imread(tmp_path / name) for name in ("with.png", "one.png"))
    marked = [((image[..., 0] > 0.7) & (image[..., 1] < 0.35)).sum() for image in (with_all, with_one)]
    assert marked[0] > 2 * marked[1] > 0
