"""STAC: an acquisition is a solar day, a mosaic of its items, of which only windows are read."""

import datetime as dt
import functools
import http.server
import json
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from imagery_factories import write_raster
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterWindow

from lianet_user.errors import ImageryError
from lianet_user.geo.grid import Window, whole
from lianet_user.imagery.formats import open_imagery
from lianet_user.imagery.imagery import ImageryOptions
from lianet_user.imagery.planes import PlaneImagery
from lianet_user.imagery.stac import open_stac, read_items

pytest.importorskip("odc.stac")

WEST, NORTH = 300_000.0, 5_800_020.0
SIDE = 24
"""Pixels of 10 m along the side of a tile."""
EXTENSIONS = [
    f"https://stac-extensions.github.io/{name}/v{version}/schema.json"
    for name, version in (("projection", "1.1.0"), ("raster", "1.1.0"), ("eo", "1.1.0"))
]
BANDS = {"red": ("B04", 0.665, 10), "nir": ("B08", 0.842, 10), "swir16": ("B11", 1.61, 20)}


def opened(*places: Path | str, **options: Any) -> PlaneImagery:
    return open_stac(places, ImageryOptions(**options))


def numbers(key: str, tile: int, day: int, gsd: int) -> np.ndarray:
    side = SIDE * 10 // gsd
    return np.random.default_rng([ord(key[0]), tile, day]).integers(1200, 5000, (side, side)).astype(np.uint16)


def geobox_of(values: np.ndarray, gsd: float, west: float, epsg: int = 32633) -> GeoBox:
    return GeoBox(values.shape, Affine(gsd, 0, west, 0, -gsd, NORTH), f"EPSG:{epsg}")


def make_item(
    folder: Path, tile: int = 0, day: int = 1, month: int = 6, *, offset: float | None = -0.1, time: str = "10:00:31",
    proj: bool = True, keys: tuple[str, ...] = (*BANDS, "scl"), epsg: int = 32633, applied: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An item as Earth Search writes those of Sentinel-2, with its files beside it."""
    name = f"S2B_33U{'XYZ'[tile]}_2022{month:02}{day:02}_0_L2A"
    (folder / name).mkdir(parents=True)
    west = WEST + tile * SIDE * 10
    assets: dict[str, Any] = {}
    for key in keys:
        band, micrometres, gsd = BANDS.get(key, ("", 0, 20))
        if key == "scl":
            values = np.full((SIDE // 2, SIDE // 2), 4, np.uint8)
            values[:2] = 9
        else:
            values = numbers(key, tile, day, gsd)
        write_raster(folder / name / f"{key}.tif", values, geobox_of(values, gsd, west, epsg), nodata=0)
        raster: dict[str, Any] = {"nodata": 0, "data_type": str(values.dtype)}
        if band:
            raster |= {"scale": 0.0001} | ({} if offset is None else {"offset": offset})
        kind = "image/tiff; application=geotiff; profile=cloud-optimized"
        assets[key] = {"href": f"./{key}.tif", "type": kind, "roles": ["data", "reflectance"], "raster:bands": [raster]}
        if band:
            assets[key]["eo:bands"] = [{"name": key, "common_name": key, "center_wavelength": micrometres}]
            assets[f"{key}-jp2"] = assets[key] | {"href": "s3://elsewhere/B.jp2", "type": "image/jp2"}
        if proj:
            assets[key] |= {"proj:shape": list(values.shape), "proj:transform": [gsd, 0, west, 0, -gsd, NORTH]}
    assets["thumbnail"] = {"href": "thumbnail.jpg", "type": "image/jpeg", "roles": ["thumbnail"]}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": EXTENSIONS, "id": name,
        "geometry": None, "bbox": [12.0, 52.0, 12.1, 52.1], "links": [], "assets": assets,
        "properties": {
            "datetime": f"2022-{month:02}-{day:02}T{time}Z", "platform": "sentinel-2b", "proj:epsg": epsg,
            **({} if applied is None else {"earthsearch:boa_offset_applied": applied}),
        },
    }  # fmt: skip
    (folder / name / "item.json").write_text(json.dumps(item))
    return item


def catalogue(folder: Path) -> Path:
    """A static catalogue of the items in a folder, through a collection."""
    items = sorted(folder.glob("*/item.json"))
    common = {"stac_version": "1.0.0", "description": "", "license": "proprietary"}
    child = {**common, "type": "Collection", "id": "c", "links": [
        {"rel": "item", "href": f"./{item.parent.name}/item.json"} for item in items
    ] + [{"rel": "parent", "href": "./catalog.json"}]}  # fmt: skip
    root = {**common, "type": "Catalog", "id": "r", "links": [{"rel": "child", "href": "./collection.json"}]}
    (folder / "collection.json").write_text(json.dumps(child))
    (folder / "catalog.json").write_text(json.dumps(root))
    return folder / "catalog.json"


def one(folder: Path) -> Path:
    (path,) = folder.glob("*/item.json")
    return path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and where it is served on this computer."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_item_is_read_as_it_was_measured(tmp_path: Path) -> None:
    make_item(tmp_path)
    imagery = opened(one(tmp_path))
    assert [band.name for band in imagery.bands] == ["red", "nir", "swir16"]
    assert [band.wavelength_nm for band in imagery.bands] == [665, 842, 1610]
    assert [(band.scale, band.offset) for band in imagery.bands] == [(10_000, 1000)] * 3
    assert imagery.factors == (1, 1, 2)
    (held,) = imagery.acquisitions
    assert (held.date, held.time) == (dt.date(2022, 6, 1), dt.time(10, 0, 31))
    patch = imagery.read(0, imagery.window)
    assert patch.valid.all()
    np.testing.assert_allclose(patch.reflectance[0], (numbers("red", 0, 1, 10) - 1000.0) / 10_000, atol=1e-6)
    means = patch.reflectance[2].reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    np.testing.assert_allclose(means, (numbers("swir16", 0, 1, 20) - 1000.0) / 10_000, atol=1e-5)


def test_a_window_equals_its_part_of_the_whole(tmp_path: Path) -> None:
    make_item(tmp_path)
    imagery = opened(one(tmp_path))
    everything, window = imagery.read(0, imagery.window), Window(5, 7, 11, 9)
    patch = imagery.read(0, window)
    np.testing.assert_allclose(patch.reflectance, everything.reflectance[:, *window.slices], atol=1e-6)


def test_several_threads_read_what_one_does(tmp_path: Path) -> None:
    make_item(tmp_path)
    imagery = opened(one(tmp_path), bands=("red",))
    windows = [Window(row, 2 * row, 5, 4) for row in range(10)] * 4
    with ThreadPoolExecutor(8) as threads:
        patches = list(threads.map(lambda window: imagery.read(0, window), windows))
    for window, patch in zip(windows, patches, strict=True):
        wanted = (numbers("red", 0, 1, 10)[window.slices] - 1000.0) / 10_000
        np.testing.assert_allclose(patch.reflectance[0], wanted, atol=1e-6)


def test_neighbouring_tiles_of_one_day_are_one_mosaic(tmp_path: Path) -> None:
    make_item(tmp_path, 0, time="10:00:45")
    make_item(tmp_path, 1, time="10:00:31")
    imagery = open_imagery([catalogue(tmp_path)], ImageryOptions(bands=("red", "swir16")))
    assert imagery.shape == (SIDE, 2 * SIDE)
    assert len(imagery.acquisitions) == 1
    assert imagery.acquisitions[0].time == dt.time(10, 0, 31)
    assert any("mosaic of 2" in note for note in imagery.notes)
    patch = imagery.read(0, Window(0, SIDE - 4, SIDE, 8))
    wanted = np.hstack([numbers("red", 0, 1, 10)[:, -4:], numbers("red", 1, 1, 10)[:, :4]])
    np.testing.assert_allclose(patch.reflectance[0], (wanted - 1000.0) / 10_000, atol=1e-6)


def test_a_tile_without_a_neighbour_that_day_is_valid_alone(tmp_path: Path) -> None:
    make_item(tmp_path, 0, 1)
    make_item(tmp_path, 1, 1)
    make_item(tmp_path, 1, 3)
    imagery = open_imagery([catalogue(tmp_path)], ImageryOptions())
    assert [held.date.day for held in imagery.acquisitions] == [1, 3]
    valid = imagery.read(1, imagery.window).valid
    assert not valid[:, :, :SIDE].any()
    assert valid[:, :, SIDE:].all()


def test_solar_days_do_not_end_at_midnight_of_greenwich(tmp_path: Path) -> None:
    # On the other side of the Earth one pass may cross it.
    for tile, day, time in ((0, 1, "23:59:50"), (1, 2, "00:00:05")):
        item = make_item(tmp_path, tile, day, time=time) | {"bbox": [150.0, -30.0, 150.1, -29.9]}
        (tmp_path / item["id"] / "item.json").write_text(json.dumps(item))
    imagery = opened(catalogue(tmp_path), bands=("red",))
    assert [(held.date.day, held.time) for held in imagery.acquisitions] == [(1, dt.time(23, 59, 50))]


def test_each_date_is_scaled_as_its_items_say(tmp_path: Path) -> None:
    make_item(tmp_path, 0, 1, 1, offset=0)
    make_item(tmp_path, 0, 2, 6, offset=-0.1)
    make_item(tmp_path, 0, 3, 7, offset=-0.1, applied=True)
    imagery = open_imagery([catalogue(tmp_path)], ImageryOptions(bands=("red",)))
    for index, offset in enumerate((0, 1000, 0)):
        wanted = (numbers("red", 0, index + 1, 10) - float(offset)) / 10_000
        np.testing.assert_allclose(imagery.read(index, imagery.window).reflectance[0], wanted, atol=1e-6)
    assert any("subtracted already" in note and "2022-07-03" in note for note in imagery.notes)


def test_what_the_provider_says_comes_before_the_items(tmp_path: Path) -> None:
    make_item(tmp_path)
    imagery = opened(one(tmp_path), bands=("red",), offset=0.0)
    found = imagery.read(0, imagery.window).reflectance[0]
    np.testing.assert_allclose(found, numbers("red", 0, 1, 10) / 10_000.0, atol=1e-6)


def test_an_offset_that_nobody_says_is_asked_for(tmp_path: Path) -> None:
    make_item(tmp_path, offset=None)
    with pytest.raises(ImageryError, match=r"with or without the offset.*`offset` 1000 or `offset` 0"):
        opened(one(tmp_path))


def test_one_day_scaled_in_two_ways_is_refused(tmp_path: Path) -> None:
    make_item(tmp_path, 0)
    make_item(tmp_path, 1, offset=0)
    with pytest.raises(ImageryError, match="scaled in different ways"):
        opened(catalogue(tmp_path))


def test_the_scene_classification_masks_clouds(tmp_path: Path) -> None:
    make_item(tmp_path)
    imagery = opened(one(tmp_path), mask="SCL")
    valid = imagery.read(0, imagery.window).valid
    assert not valid[:, :4].any()
    assert valid[:, 4:].all()
    with pytest.raises(ImageryError, match="none of 1 acquisitions is clear"):
        open_imagery([one(tmp_path)], ImageryOptions(mask="scl", min_clear=0.9))


def test_nodata_is_no_measurement(tmp_path: Path) -> None:
    item = make_item(tmp_path, keys=("red",))
    values = numbers("red", 0, 1, 10)
    values[3, 5] = 0
    write_raster(tmp_path / item["id"] / "red.tif", values, geobox_of(values, 10, WEST), nodata=0)
    valid = opened(one(tmp_path)).read(0, Window(0, 0, SIDE, SIDE)).valid
    assert not valid[0, 3, 5]
    assert valid.sum() == valid.size - 1


def test_items_without_the_projection_extension_say_it_in_their_files(tmp_path: Path) -> None:
    make_item(tmp_path / "with")
    make_item(tmp_path / "without", proj=False)
    there, not_there = (opened(one(tmp_path / name)) for name in ("with", "without"))
    assert there.geobox == not_there.geobox
    np.testing.assert_array_equal(there.read(0, there.window).reflectance, not_there.read(0, there.window).reflectance)


def test_bands_go_by_key_common_name_or_name(tmp_path: Path) -> None:
    item = make_item(tmp_path, keys=("red", "nir"))
    item["assets"]["B04_10m"] = item["assets"].pop("red")
    item["assets"]["B04_10m"]["eo:bands"][0]["name"] = "B04"
    del item["assets"]["red-jp2"]
    one(tmp_path).write_text(json.dumps(item))
    reads = [
        opened(one(tmp_path), bands=(name,)).read(0, Window(0, 0, 4, 4)).reflectance
        for name in ("B04_10m", "B04", "red", "RED")
    ]
    for other in reads[1:]:
        np.testing.assert_array_equal(other, reads[0])
    with pytest.raises(ImageryError, match=r"no item has the asset blue: found nir, .*B04_10m"):
        opened(one(tmp_path), bands=("blue",))


def test_item_collections_and_catalogues_hold_the_same(tmp_path: Path) -> None:
    items = [make_item(tmp_path, 0, day) for day in (1, 2)]
    for item in items:
        for asset in item["assets"].values():
            if asset["href"].startswith("./"):
                asset["href"] = f"{item['id']}/{asset['href'][2:]}"
    collection = tmp_path / "found.json"
    collection.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    one_by_one = sorted(tmp_path.glob("*/item.json"))
    reads = []
    for paths in ([collection], [catalogue(tmp_path)], one_by_one):
        imagery = open_imagery(paths, ImageryOptions())
        assert [held.date.day for held in imagery.acquisitions] == [1, 2]
        reads.append(imagery.read(1, imagery.window).reflectance)
    for other in reads[1:]:
        np.testing.assert_array_equal(other, reads[0])


def test_the_first_page_of_a_search_says_that_there_is_more(tmp_path: Path) -> None:
    page = {"type": "FeatureCollection", "features": [make_item(tmp_path)], "links": [{"rel": "next", "href": "x"}]}
    (tmp_path / "page.json").write_text(json.dumps(page))
    items, notes = read_items(str(tmp_path / "page.json"))
    assert len(items) == 1
    assert "first page" in notes[0]


def test_a_catalogue_is_read_over_http(served: tuple[Path, str]) -> None:
    folder, url = served
    make_item(folder, 0)
    make_item(folder, 1)
    here = open_imagery([catalogue(folder)], ImageryOptions(mask="scl"))
    there = open_imagery([f"{url}/catalog.json"], ImageryOptions(mask="scl"))
    assert there.geobox == here.geobox
    for window in (Window(3, SIDE - 5, 9, 12), whole(here.geobox)):
        ours, theirs = here.read(0, window), there.read(0, window)
        np.testing.assert_array_equal(ours.reflectance, theirs.reflectance)
        np.testing.assert_array_equal(ours.valid, theirs.valid)


def test_a_file_that_is_gone_is_an_error_when_it_is_read(served: tuple[Path, str]) -> None:
    folder, url = served
    item = make_item(folder)
    imagery = opened(f"{url}/{item['id']}/item.json", bands=("red",))
    (folder / item["id"] / "red.tif").unlink()
    with pytest.raises(ImageryError, match=r"cannot read http://127.*red.tif.*damaged or out of reach"):
        imagery.read(0, imagery.window)


def test_a_damaged_file_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    imagery = opened(one(tmp_path), bands=("red",))
    path = tmp_path / item["id"] / "red.tif"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageryError, match=r"cannot read .*red.tif"):
        imagery.read(0, imagery.window)


def test_only_the_window_of_a_large_file_is_read(tmp_path: Path) -> None:
    item = make_item(tmp_path, keys=("red",))
    side, path = 4000, tmp_path / item["id"] / "red.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=1, dtype="uint16", nodata=0, crs="EPSG:32633",
        transform=Affine(10, 0, WEST, 0, -10, NORTH), tiled=True, blockxsize=256, blockysize=256, sparse_ok=True,
        compress="deflate",
    ) as target:  # fmt: skip
        target.write(np.full((256, 256), 3000, np.uint16), 1, window=RasterWindow(2048, 2048, 256, 256))
    item["assets"]["red"]["proj:shape"] = [side, side]
    one(tmp_path).write_text(json.dumps(item))
    imagery = opened(one(tmp_path))
    # Tiles that reading the window does not need are broken: whoever reads them meets an error.
    with rasterio.open(path, "r+") as target:
        target.write(np.full((256, 256), 1, np.uint16), 1, window=RasterWindow(0, 0, 256, 256))
    with rasterio.open(path) as source:
        first = int(
            source.tags(1, ns="TIFF").get("BLOCK_OFFSET_0_0") or source.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1)
        )
    raw = bytearray(path.read_bytes())
    raw[first : first + 32] = b"\xff" * 32
    path.write_bytes(raw)
    tracemalloc.start()
    patch = imagery.read(0, Window(2048, 2048, 128, 128))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert patch.valid.all()
    assert most < 4 * 2**20  # the file holds 32 MB
    with pytest.raises(ImageryError):
        imagery.read(0, Window(0, 0, 128, 128))


def test_tiles_of_two_zones_need_a_grid(tmp_path: Path) -> None:
    make_item(tmp_path, 0, keys=("red",))
    make_item(tmp_path, 1, keys=("red",), epsg=32632)
    with pytest.raises(ImageryError, match=r"EPSG:32633.*EPSG:32632.*`grid`"):
        opened(catalogue(tmp_path))
    blank = np.zeros((10, 12), np.uint8)
    grid = write_raster(tmp_path / "grid.tif", blank, geobox_of(blank, 10, WEST))
    imagery = opened(catalogue(tmp_path), grid=str(grid))
    assert imagery.shape == (10, 12)
    wanted = (numbers("red", 0, 1, 10)[:10, :12] - 1000.0) / 10_000
    np.testing.assert_allclose(imagery.read(0, imagery.window).reflectance[0], wanted, atol=1e-4)


def catalogue_with(rel: str, href: str) -> str:
    return json.dumps({"type": "Catalog", "links": [{"rel": rel, "href": href}]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is not a JSON object"),
        ("{", "is not JSON"),
        ('{"type": "Polygon"}', "'Polygon': expected a STAC Item"),
        ('{"type": "Feature"}', "not a STAC Item"),
        ('{"type": "FeatureCollection", "features": []}', "leads to no STAC item"),
        (catalogue_with("items", "x"), "STAC API"),
        (catalogue_with("item", "gone.json"), "cannot read .*gone.json"),
        (catalogue_with("item", "ftp://x/y.json"), "only https and local"),
        (catalogue_with("item", "http://example.com/y.json"), "only https and local"),
    ],
    ids=["a list", "half JSON", "a polygon", "any feature", "no items", "an API", "a lost item", "FTP", "HTTP"],
)
def test_what_is_no_stac_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "it.json"
    path.write_text(text)
    with pytest.raises(ImageryError, match=words):
        opened(path)


def test_a_remote_document_cannot_name_local_files(served: tuple[Path, str]) -> None:
    folder, url = served
    item = make_item(folder, keys=("red",))
    item["assets"]["red"]["href"] = f"file://{folder}/{item['id']}/red.tif"
    one(folder).write_text(json.dumps(item))
    with pytest.raises(ImageryError, match="reached by file"):
        opened(f"{url}/{item['id']}/item.json")


def test_since_and_until_open_no_file_that_they_leave_out(tmp_path: Path) -> None:
    items = [make_item(tmp_path, 0, day) for day in (1, 2)]
    (tmp_path / items[0]["id"] / "red.tif").unlink()
    imagery = opened(catalogue(tmp_path), since=dt.date(2022, 6, 2))
    assert [held.date.day for held in imagery.acquisitions] == [2]
    with pytest.raises(ImageryError, match=r"red.tif .* does not exist"):
        opened(catalogue(tmp_path))


def test_what_is_not_installed_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_item(tmp_path)
    monkeypatch.setitem(sys.modules, "odc.stac", None)
    with pytest.raises(ImageryError, match=r"odc.stac, which is not installed.*pip install 'lianet-user\[provider\]'"):
        open_imagery([one(tmp_path)], ImageryOptions())
