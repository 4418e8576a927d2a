"""What else a head tells: probabilities, uncertainty, several dates and heads at once, maps without specks."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from agreement import assert_same_classes
from factories import CLASSES, HEIGHTS, RegionHeaderFactory, contents, make_head, read_raster, windows_asked
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

from lianet_user.cli import _run
from lianet_user.errors import DateError, InputError, OutputError
from lianet_user.field.config import HEAD_INPUTS, HeadInput
from lianet_user.files.header import ClassEntry, Numbers
from lianet_user.geo.grid import Window, bounds_of, offset_on, whole
from lianet_user.geo.ground_area import Ground
from lianet_user.head import Head
from lianet_user.maps import ClassCounts, MapArea, Shares, predict
from lianet_user.maps.dates import chosen_dates
from lianet_user.maps.engine import _without_small_areas
from lianet_user.maps.geotiff import RasterProfile
from lianet_user.maps.predict import SharedInput
from lianet_user.maps.product import uncertainty
from lianet_user.region import Region

HeadFactory = Callable[..., Head]
DATES = tuple(dt.date(2017, month, 16) for month in (2, 3, 4, 5))

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def made(region_header: RegionHeaderFactory, tmp_path: Path, small_geobox: GeoBox) -> HeadFactory:
    """Makes a head on a region of its own `name`; other keywords as in `make_head`, `geobox` is the region's."""

    def make(name: str = "head", geobox: GeoBox = small_geobox, region_dates: int = 2, **options: Any) -> Head:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        head = make_head(region_header(dates=region_dates, name=name, geobox=geobox), folder, **options)
        head.path = folder / f"{name}.safetensors"
        return head

    return make


# --- probabilities and uncertainty


def test_probabilities_are_those_of_the_layers_and_read_as_0_to_1(made: HeadFactory, out: Path) -> None:
    head = made()
    first, second = predict(head, out / "map.tif", probabilities=True)
    assert (first.path.name, second.path.name) == ("map.tif", "map_probabilities.tif")
    expected = head.answers(head.region.window).softmax(0).numpy()
    with rasterio.open(second.path) as dataset:
        assert dataset.descriptions == tuple(entry.name for entry in CLASSES)
        assert (set(dataset.dtypes), dataset.nodata, set(dataset.scales)) == ({"uint8"}, 255, {0.005})
        shown = dataset.read() * dataset.scales[0]
        assert dataset.tags()["REGION_SHA256"] == head.region.sha256
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    np.testing.assert_allclose(shown, expected, atol=0.0026)
    np.testing.assert_allclose(shown.sum(0), 1, atol=0.0076)
    assert isinstance(second.summary, Shares)
    assert list(second.summary.means.values()) == pytest.approx(list(shown.mean((1, 2))), abs=1e-4)
    # The class is the most probable one, but for rounding.
    decided = np.sort(shown, 0)[2] - np.sort(shown, 0)[1] > 0.01
    assert np.array_equal(shown.argmax(0)[decided], read_raster(first.path)[0][decided])
    assert cog_validate(second.path, strict=True, quiet=True)[0]


@pytest.mark.parametrize("kind", ["entropy", "margin"])
def test_uncertainty_runs_from_certain_to_undecided(kind: Any, made: HeadFactory, out: Path) -> None:
    logits = torch.tensor([[50.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, -50.0]]).log_softmax(0)[:, None]
    certain, none, between_two = uncertainty(logits, kind)[0, 0]
    assert (certain, none) == pytest.approx((0, 1), abs=1e-6)
    assert between_two == pytest.approx(1 if kind == "margin" else np.log(2) / np.log(3), abs=1e-6)
    head = made()
    *_, last = predict(head, out / "map.tif", uncertainty=kind)
    assert last.path.name == "map_uncertainty.tif"
    with rasterio.open(last.path) as dataset:
        shown = dataset.read() * dataset.scales[0]
        assert dataset.tags()["UNCERTAINTY"].startswith(f"{kind}: ")
    np.testing.assert_allclose(shown, uncertainty(head.answers(head.region.window), kind), atol=0.0026)


def test_all_that_is_made_of_answers_takes_them_once(
    made: HeadFactory, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = made()
    asked = windows_asked(head, "answers", monkeypatch)
    predict(head, out / "map.tif", probabilities=True, uncertainty="entropy")
    assert len(asked) == 1


def test_outside_polygons_and_regions_there_is_no_probability(made: HeadFactory, out: Path) -> None:
    head = made()
    for result in predict(
        head, out / "map.tif", area=MapArea(crs="EPSG:4326"), probabilities=True, uncertainty="margin"
    ):
        values = read_raster(result.path)
        nothing = values == 255
        assert 0 < nothing.mean() < 0.5
        assert np.array_equal(nothing.all(0), nothing.any(0))


@pytest.mark.parametrize(
    ("numbers", "options", "message"),
    [
        (HEIGHTS, {"probabilities": True}, "`probabilities` needs a head of classes"),
        (HEIGHTS, {"uncertainty": "entropy"}, "`uncertainty` needs a head of classes"),
        (HEIGHTS, {"min_area": 1}, r"`min_area` removes patches of classes, and .* maps numbers"),
        (None, {"uncertainty": "doubt"}, "`uncertainty` 'doubt': expected entropy or margin"),
    ],
)
def test_numbers_have_no_probabilities_and_no_patches(
    made: HeadFactory, out: Path, numbers: Numbers | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predict(made(numbers=numbers), out / "map.tif", **options)
    assert contents(out) == {}


# --- turns


@pytest.mark.parametrize("numbers", [None, HEIGHTS])
@pytest.mark.parametrize("scale", [1, 4])
def test_turned_answers_are_the_mean_over_all_turns(made: HeadFactory, numbers: Any, scale: int) -> None:
    head, window = made(numbers=numbers, scale=scale), Window(20, 30, 24, 40)
    outer = window.expanded(head.layers.halo, 1, head.region.shape)
    inputs = head.region.head_input(outer, None if len(head.region.header.dates) == 1 else DATES[0], ("features",))
    found = []
    for turns in range(4):
        for mirror in (False, True):
            turned = inputs.numpy() if not mirror else inputs.numpy()[:, :, ::-1]
            turned = np.rot90(turned, turns, (1, 2)).copy()
            with torch.inference_mode():
                answers = head.layers(torch.from_numpy(turned)[None])[0].numpy()
            back = np.rot90(answers, -turns, (1, 2))
            found.append(back[:, :, ::-1] if mirror else back)
    mean = np.stack(found).mean(0) if numbers else np.exp(np.stack(found)).mean(0)
    place = window.within(outer).scaled(scale).slices
    expected = mean[:, *place]
    got = head.answers(window, DATES[0], turned=True).numpy()
    got = (got - numbers.offset) / numbers.scale if numbers else np.exp(got)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    plain = head.answers(window, DATES[0]).numpy()
    assert np.abs(plain - head.answers(window, DATES[0], turned=True).numpy()).max() > 1e-3


def test_a_turned_map_is_made_of_turned_answers(made: HeadFactory, out: Path) -> None:
    head = made()
    (result,) = predict(head, out / "map.tif", turned=True)
    assert_same_classes(read_raster(result.path)[0], head.answers(head.region.window, turned=True))


# --- patches


def specks(head: Head, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> np.ndarray:
    """Let a head answer with patches of all sizes, and say with which."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.normal(size=(3, 96, 128)), (0, 1.5, 1.5))
    values = rough.argmax(0)

    def answers(window: Window, date: object = None, **_: object) -> torch.Tensor:
        part = values[window.slices]
        return torch.tensor(np.array([part == value for value in range(3)], np.float32)).log()

    monkeypatch.setattr(head, "answers", answers)
    return values


def patch_sizes(values: np.ndarray) -> np.ndarray:
    """Pixels of each patch of one class, joined along edges."""
    sizes = []
    for value in np.unique(values):
        marked, count = ndimage.label(values == value)
        sizes += np.bincount(marked.ravel(), minlength=count + 1)[1:].tolist()
    return np.array(sizes)


@pytest.mark.parametrize("tile", [512, 33])
def test_patches_smaller_than_the_area_go_and_others_stay(
    made: HeadFactory, out: Path, monkeypatch: pytest.MonkeyPatch, tile: int
) -> None:
    head = made()
    values = specks(head, monkeypatch)
    (result,) = predict(head, out / "map.tif", min_area=0.2, tile=tile)  # 20 pixels of 10 m
    found = read_raster(result.path)[0]
    before, after = patch_sizes(values), patch_sizes(found)
    assert (before < 20).sum() > 20
    assert not (after < 20).any()
    for value in range(3):  # what was large enough is still there
        marked, _ = ndimage.label(values == value)
        sizes = np.bincount(marked.ravel())
        large = (sizes >= 20)[marked] & (marked > 0)
        assert (found[large] == value).all()
    assert isinstance(result.summary, ClassCounts)
    assert list(result.summary.pixels.values()) == np.bincount(found.ravel()).tolist()


def test_what_replaces_a_patch_does_not_depend_on_the_tiles(
    made: HeadFactory, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = made()
    specks(head, monkeypatch, 1)
    whole = read_raster(predict(head, out / "whole.tif", min_area=0.3)[0].path)
    assert np.array_equal(read_raster(predict(head, out / "tiles.tif", min_area=0.3, tile=29)[0].path), whole)


def test_ground_that_is_not_mapped_is_no_patch(made: HeadFactory, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = made()
    specks(head, monkeypatch)
    area = MapArea(crs="EPSG:4326")
    plain, sieved = (
        read_raster(predict(head, out / name, area=area, min_area=size)[0].path)
        for name, size in (("plain.tif", None), ("sieved.tif", 0.5))
    )
    assert np.array_equal(plain == 255, sieved == 255)
    assert not np.array_equal(plain, sieved)


# --- several dates


def test_dates_are_given_one_by_one_by_span_or_all() -> None:
    assert chosen_dates([], DATES) == ()
    assert chosen_dates(["all"], DATES) == DATES
    assert chosen_dates(["2017-05-16", "2017-02-16", "2017-05-16"], DATES) == (DATES[0], DATES[3])
    assert chosen_dates(["2017-03-01..2017-04-16"], DATES) == DATES[1:3]
    assert chosen_dates(["2017-02-16..2017-02-16", "2017-05-16"], DATES) == (DATES[0], DATES[3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2017-03-17", "does not hold 2017-03-17; it holds 4 dates, 2017-02-16 to 2017-05-16"),
        ("2018-01-01..2018-12-31", "no date that can be mapped lies in it"),
        ("2017-05-01..2017-02-01", "the span ends before it begins"),
        ("2017-05-01..", "'' is not a date"),
        ("spring", "'spring' is not a date"),
    ],
)
def test_dates_that_no_map_can_have_are_refused(text: str, message: str) -> None:
    with pytest.raises(DateError, match=message):
        chosen_dates([text], DATES)


def test_each_date_gets_a_map_in_a_folder(made: HeadFactory, out: Path) -> None:
    head = made("trees", region_dates=4)
    results = predict(head, out / "maps", dates=["2017-02-01..2017-03-31", "2017-05-16"], uncertainty="margin")
    names = [f"trees_2017-0{month}-16{suffix}.tif" for month in (2, 3, 5) for suffix in ("", "_uncertainty")]
    assert [result.path.name for result in results] == names
    for result in results[::2]:
        with rasterio.open(result.path) as dataset:
            assert dataset.tags()["DATE"] == str(result.date)
            assert np.array_equal(dataset.read(1), head.values(head.region.window, result.date))
    assert len({read_raster(result.path).tobytes() for result in results[::2]}) == 3
    assert not list((out / "maps").glob(".*"))


def test_several_maps_need_a_folder_and_one_does_not(made: HeadFactory, out: Path) -> None:
    head = made(region_dates=2)
    with pytest.raises(OutputError, match=r"map\.tif is the name of one map, and there are 2 to write"):
        predict(head, out / "map.tif", dates=["all"])
    with pytest.raises(OutputError, match=r"cannot make the folder .*no/where"):
        predict(head, out / "no" / "where", dates=["all"])
    with pytest.raises(DateError):
        predict(head, out / "maps", dates=["2017-01-01"])
    assert not list(out.iterdir())


# --- several heads


def twins(made: HeadFactory, **options: Any) -> tuple[Head, Head]:
    """Two heads of one region, with other weights."""
    first = made("one")
    second = Head(
        first.header, made("two", **options).layers, first.region, first.path and first.path.with_name("two.x")
    )
    return first, second


def test_heads_of_a_region_share_one_reading(made: HeadFactory, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = twins(made)
    reads = windows_asked(Region, "head_parts", monkeypatch)
    results = predict([first, second], out / "maps", dates=["all"])
    assert len(reads) == 2  # of one tile, at two dates
    names = [f"{head}_{date}.tif" for date in DATES[:2] for head in ("one", "two")]
    assert [result.path.name for result in results] == names
    for result, head in zip(results, (first, second, first, second), strict=True):
        assert np.array_equal(read_raster(result.path)[0], head.values(head.region.window, result.date))


def test_a_shared_reading_gives_each_head_its_own_parts(made: HeadFactory) -> None:
    head = made()
    reader = SharedInput([head])
    reader.inputs = HEAD_INPUTS
    window = Window(10, 20, 30, 40)
    each: tuple[tuple[HeadInput, ...], ...] = tuple((part,) for part in HEAD_INPUTS)
    for inputs in (*each, ("bands", "encoding"), ("features", "bands", "context"), HEAD_INPUTS):
        expected = head.region.head_input(window, DATES[0], inputs)
        torch.testing.assert_close(reader(window, DATES[0], inputs), expected, atol=1e-4, rtol=0)


def test_heads_of_one_name_are_told_apart(made: HeadFactory, out: Path) -> None:
    first, second = twins(made)
    second.path = first.path
    with pytest.raises(OutputError, match="some have the same name: rename one"):
        predict([first, second], out / "maps")


def test_regions_are_mosaicked_and_the_first_wins(made: HeadFactory, out: Path) -> None:
    west = GeoBox((64, 64), Affine(10, 0, 330_000, 0, -10, 5_820_000), "EPSG:32633")
    east = GeoBox((64, 64), west.affine @ Affine.translation(48, 16), "EPSG:32633")
    first, second = made("west", west), made("east", east)
    results = predict([first, second], out / "map.tif", probabilities=True, tile=40)
    assert [result.path.name for result in results] == ["map.tif", "map_probabilities.tif"]
    result = results[0]
    assert result.geobox == GeoBox((80, 112), west.affine, "EPSG:32633")
    found = read_raster(result.path)[0]
    answers = torch.full((len(CLASSES), 80, 112), torch.nan)
    answers[:, 16:, 48:] = second.answers(second.region.window)
    answers[:, :64, :64] = first.answers(first.region.window)
    mapped = answers[0].isfinite()
    assert np.array_equal(found != 255, mapped)
    assert_same_classes(found[mapped][None], answers[:, mapped][:, None])
    assert np.array_equal((read_raster(results[1].path) != 255).any(0), mapped)
    with rasterio.open(result.path) as dataset:
        assert dataset.tags()["REGION"] == "west, east"
    swapped = read_raster(predict([second, first], out / "other.tif", tile=40)[0].path)[0]
    assert swapped.shape == found.shape
    assert np.mean(swapped[16:64, 48:64] != found[16:64, 48:64]) > 0.01


def test_regions_in_two_zones_make_one_map(made: HeadFactory, out: Path) -> None:
    first = made("west", GeoBox((64, 64), Affine(10, 0, 700_000, 0, -10, 5_820_000), "EPSG:32633"))
    second = made("east", GeoBox((64, 64), Affine(10, 0, 294_000, 0, -10, 5_820_000), "EPSG:32634"))
    (result,) = predict([first, second], out / "map.tif")
    assert result.geobox.crs == "EPSG:32633"
    mapped = read_raster(result.path)[0] != 255
    # Each is there with about the ground that it covers, the first one's pixels as they are.
    assert mapped.sum() == pytest.approx(2 * 64 * 64, rel=0.02)
    row, col = offset_on(result.geobox, first.geobox) or (-1, -1)
    assert np.array_equal(
        read_raster(result.path)[0, row : row + 64, col : col + 64], first.values(first.region.window)
    )


def test_heads_that_do_not_go_together_are_refused_by_name(made: HeadFactory, out: Path) -> None:
    other = GeoBox((64, 64), Affine(10, 0, 332_000, 0, -10, 5_820_000), "EPSG:32633")
    first = made("one")
    more = made("crops", other, classes=[*CLASSES, ClassEntry(name="maize", color="#112233")])
    for second, message in (
        (more, r"one\.safetensors maps the classes water, .*crops\.safetensors maps the classes water, .*maize"),
        (made("heights", other, numbers=HEIGHTS), r"heights\.safetensors maps regression in m"),
    ):
        with pytest.raises(InputError, match=message):
            predict([first, second], out / "map.tif")
    third = Head(first.header, first.layers, first.region, Path("again.safetensors"))
    with pytest.raises(InputError, match=r"again\.safetensors are both of the region 'one'"):
        predict([first, made("far", other), third], out / "map.tif")
    with pytest.raises(InputError, match="no head was given"):
        predict([], out / "map.tif")


# --- the command


def test_the_command_makes_several_maps_and_lists_them(
    made: HeadFactory, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out)
    head = made("trees", region_dates=3)
    head.save("trees.safetensors")
    Head(head.header, made("other").layers, head.region).save("other.safetensors")
    box = ",".join(map(str, bounds_of(head.region.geobox[10:40, 20:60])))
    arguments = ["predict", "trees.safetensors", "other.safetensors", "--date", "all", "--bbox", box]
    assert _run([*arguments, "--bbox-crs", "EPSG:32633", "--probabilities", "--json"]) == 0
    maps = json.loads(capsys.readouterr().out)["maps"]
    assert len(maps) == 12
    assert {entry["map"] for entry in maps} == {str(path) for path in Path("maps").glob("*.tif")}
    assert {(entry["width"], entry["height"]) for entry in maps} == {(40, 30)}
    assert set(maps[0]["pixels"]) == set(maps[1]["means"]) == {entry.name for entry in CLASSES}
    assert _run([*arguments[:2], "--date", "2017-02-16", "--tta", "--min-area", "0.05", "-q"]) == 0
    assert (out / "map.tif").exists()


def test_polygons_and_zone_sums_come_with_the_map_in_one_command(
    made: HeadFactory, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(out)
    head = made("trees")
    head.save("trees.safetensors")
    west, south, east, north = bounds_of(head.region.geobox)
    halves = [shapely.box(west, south, (west + east) / 2, north), shapely.box((west + east) / 2, south, east, north)]
    geopandas.GeoDataFrame({"stand": [1, 2]}, geometry=halves, crs="EPSG:32633").to_file("stands.gpkg")
    wanted = ["--polygons", "areas.gpkg", "--zones", "stands.gpkg"]
    assert _run(["predict", "trees.safetensors", *wanted, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["polygons"], document["zones"]) == ("areas.gpkg", "map_zones.csv")
    pixels = document["maps"][0]["pixels"]
    areas = geopandas.read_file("areas.gpkg", layer="polygons").groupby("class")["area_ha"].sum()
    assert areas.to_dict() == pytest.approx({name: count / 100 for name, count in pixels.items() if count}, rel=2e-4)
    table = (out / "map_zones.csv").read_text().splitlines()
    assert len(table) == 3
    assert table[0].startswith("zone,stand,")
    before = (out / "map.tif").read_bytes()
    assert _run(["predict", "trees.safetensors", *wanted]) == 2  # everything is there already
    assert _run(["predict", "trees.safetensors", "-o", "new.tif", "--zones", "none.gpkg"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not (out / "new.tif").exists()
    assert (out / "map.tif").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bbox-crs", "EPSG:32633"], "there is none: give both or neither"),
        (["--bbox", "179,50,-179,51"], "crosses the antimeridian: map its two sides"),
        (["--aoi", "nowhere.gpkg"], "nowhere.gpkg"),
        (["--like", "nowhere.tif"], "nowhere.tif cannot be read as a raster"),
        (["--resolution", "-1"], "--resolution -1: expected a positive number"),
        (["--min-area", "0"], "--min-area 0: expected hectares"),
        (["--uncertainty", "doubt"], "expected entropy or margin"),
        (["--resume"], "no unfinished run towards map.tif to resume: omit --resume"),
        (["--date", "2017-02-16..2017-01-01"], "the span ends before it begins"),
    ],
)
def test_a_command_that_makes_no_sense_says_so_in_a_line(
    made: HeadFactory,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    made().save(out / "head.safetensors")
    monkeypatch.chdir(out)
    before = contents(out)
    assert _run(["predict", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert said.count("\n") == 0
    assert message in said
    assert contents(out) == before


def test_patches_are_measured_where_they_lie(tmp_path: Path) -> None:
    """A pixel of EPSG:3857 is 2.4 % less ground at the northern end of 100 km than at the southern one."""
    geobox = GeoBox((1000, 60), Affine(100, 0, 1_500_000, 0, -100, 6_850_000), "EPSG:3857")
    values = np.zeros(geobox.shape, np.uint8)
    patches = [Window(row, 20, 20, 20) for row in range(10, 970, 30)]
    for window in patches:
        values[window.slices] = 1
        values[window.row + 5, 25] = 2  # a speck goes with the patch that it went into
    ground = Ground(geobox)
    areas = np.array([ground.pixels(each)[values[each.slices] == 1].sum() for each in patches])
    least = float(np.median(areas))
    tiles = ((tile, values[tile.slices][None]) for tile in whole(geobox).tiles(128))
    profile = RasterProfile(("class",), "uint8", 255, "2", "MODE")
    found = np.zeros_like(values)
    for window, sieved in _without_small_areas(tiles, least, geobox, profile, tmp_path):
        found[window.slices] = sieved[0]
    stays, goes = (np.array([(found[each.slices] == value).all() for each in patches]) for value in (1, 0))
    to_the_pixel = areas * (1 + 0.5 / 399)
    assert np.array_equal(stays, ~goes)
    assert stays[to_the_pixel > least * 1.0001].all()
    assert goes[to_the_pixel < least * 0.9999].all()
    assert min(stays.sum(), goes.sum()) > 5
