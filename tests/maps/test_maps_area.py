"""Where maps lie: every pixel on its place in any CRS, only the ground that was asked for, and plain refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from factories import (
    HEIGHTS,
    NORTH,
    WEST,
    RegionHeaderFactory,
    answer_slope,
    contents,
    ignoring,
    make_head,
    read_raster,
    slope,
    windows_asked,
    write_raster,
)
from factories import predict as predict_map
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from lianet_user.errors import AreaError, LabelError, PartlyOutsideWarning
from lianet_user.geo.grid import Window, bounds_of, offset_on, whole
from lianet_user.geo.resample import place
from lianet_user.head import Head
from lianet_user.maps import MapArea, MapResult
from lianet_user.maps.area import Destination, destination

UTM33, UTM32, DEGREES, LAEA = "EPSG:32633", "EPSG:32632", "EPSG:4326", "EPSG:3035"
GRID = GeoBox((96, 128), Affine(10.0, 0.0, WEST, 0.0, -10.0, NORTH), UTM33)


pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def made_heads(region_header: RegionHeaderFactory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    return {
        "numbers": make_head(region_header(), tmp_path_factory.mktemp("numbers"), numbers=HEIGHTS),
        "classes": make_head(region_header(), tmp_path_factory.mktemp("classes")),
    }


@pytest.fixture
def heads(made_heads: dict[str, Head], monkeypatch: pytest.MonkeyPatch) -> dict[str, Head]:
    """A head of numbers and one of classes, whose answers follow from the coordinates alone."""
    for head in made_heads.values():
        answer_slope(head, monkeypatch)
    return made_heads


def predict(head: Head, output: Path, *, tile: int = 50, **options: Any) -> MapResult:
    return predict_map(head, output, tile=tile, **options)


def where(area: MapArea, *grids: GeoBox) -> Destination:
    return destination(area, grids or [GRID], [f"region {n}" for n in range(len(grids) or 1)])


def quietly(area: MapArea, *grids: GeoBox) -> Destination:
    with ignoring(PartlyOutsideWarning):
        return where(area, *grids)


def centres(dataset: Any, crs: str = UTM33) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel's centre in another CRS."""
    rows, cols = np.indices(dataset.shape)
    x, y = dataset.transform @ (cols + 0.5, rows + 0.5)
    moved = Transformer.from_crs(dataset.crs, crs, always_xy=True).transform(x, y)
    return np.asarray(moved[0]), np.asarray(moved[1])


def placed(path: Path) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The pixels of a map, and x and y of their centres in the region's CRS."""
    with rasterio.open(path) as dataset:
        return dataset.read(1), centres(dataset)


def within(col: np.ndarray, row: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Whether places on the region's grid lie inside it, by more than so many pixels."""
    return (col > margin) & (row > margin) & (col < 128 - margin) & (row < 96 - margin)


def on_grid(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of places on the region's grid."""
    return (x - WEST) / 10, (NORTH - y) / 10


# --- in the right place, whatever the grid


@pytest.mark.parametrize("crs", [UTM33, UTM32, DEGREES, LAEA])
def test_numbers_lie_on_their_places_in_any_crs(heads: dict[str, Head], out: Path, crs: str) -> None:
    result = predict(heads["numbers"], out / "map.tif", area=MapArea(crs=crs))
    with rasterio.open(result.path) as dataset:
        assert dataset.crs == rasterio.CRS.from_user_input(crs)
        found = dataset.read(1)
        x, y = centres(dataset)
    col, row = on_grid(x, y)
    inside = within(col, row)
    assert np.array_equal(np.isfinite(found), inside)
    # Half a pixel beside its place a number would be off by 5 or 15.
    well = within(col, row, 0.6)
    assert well.sum() > 5000
    assert np.abs(found - slope(x, y))[well].max() < 0.1
    assert (result.window is None) == (crs != UTM33)
    assert result.outside == 0


@pytest.mark.parametrize("crs", [UTM32, DEGREES])
def test_classes_are_those_of_the_pixel_underneath(heads: dict[str, Head], out: Path, crs: str) -> None:
    result = predict(heads["classes"], out / "map.tif", area=MapArea(crs=crs))
    found, places = placed(result.path)
    col, row = on_grid(*places)
    inside = within(col, row)
    assert np.array_equal(found != 255, inside)
    plain = inside & (np.abs(col - np.rint(col)) > 0.01) & (np.abs(row - np.rint(row)) > 0.01)
    expected = slope(WEST + 10 * (np.floor(col) + 0.5), NORTH - 10 * (np.floor(row) + 0.5)) // 100 % 3
    assert plain.sum() > 5000
    assert np.array_equal(found[plain], expected[plain])


def test_a_finer_head_lies_as_well(
    region_header: RegionHeaderFactory, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_head(region_header(), tmp_path, numbers=HEIGHTS, scale=4)
    answer_slope(head, monkeypatch)
    result = predict(head, out / "map.tif", area=MapArea(crs=DEGREES))
    found, (x, y) = placed(result.path)
    col, row = on_grid(x, y)
    well = within(col, row, 0.2)
    assert well.sum() > 80_000
    assert np.abs(found - slope(x, y))[well].max() < 0.1


def test_coarse_pixels_hold_the_mean_and_the_most_frequent_class(heads: dict[str, Head], out: Path) -> None:
    predict(heads["numbers"], out / "mean.tif", area=MapArea(resolution=40))
    with rasterio.open(out / "mean.tif") as dataset:
        assert dataset.res == (40, 40)
        assert np.allclose(dataset.read(1), slope(*centres(dataset)), atol=0.01)
    predict(heads["classes"], out / "mode.tif", area=MapArea(resolution=40))
    found = read_raster(out / "mode.tif", 1)
    fine = heads["classes"].values(Window(0, 0, 96, 128))
    counts = np.stack([(fine == value).reshape(24, 4, 32, 4).sum((1, 3)) for value in range(3)])
    decided = np.sort(counts, 0)[2] > np.sort(counts, 0)[1]
    assert decided.sum() > 300
    assert np.array_equal(found[decided], counts.argmax(0)[decided])


def test_memory_follows_the_tile_whatever_the_resolution() -> None:
    for resolution in (5.0, 10.0, 70.0, 900.0, 4000.0):
        found = where(MapArea(resolution=resolution, crs=UTM32))
        placement = place(GRID, found.geobox, 16)
        tile = max(1, int(16 / max(1.0, placement.factor)))
        seen = np.zeros(tuple(found.geobox.shape), int)
        for window in whole(found.geobox).tiles(tile):
            for piece, needed in placement.pieces(window):
                seen[piece.slices] += 1
                assert needed.pixels <= placement.most_pixels or piece.pixels == 1
        assert seen.max() == 1


def test_a_pixel_larger_than_a_tile_of_the_region_is_refused() -> None:
    wide = GeoBox((2000, 2000), GRID.affine, UTM33)
    target = where(MapArea(resolution=6000.0), wide).geobox
    with pytest.raises(AreaError, match="would be 600 pixels of the region wide, at most 512"):
        place(wide, target, 512)


def test_the_regions_resolution_is_kept_where_units_are_alike() -> None:
    assert where(MapArea(crs=UTM32)).geobox.resolution.x == 10
    assert where(MapArea(crs=UTM33, resolution=10.0)).geobox == GRID
    mercator = where(MapArea(crs="EPSG:3857")).geobox
    assert 15 < mercator.resolution.x < 17  # 10 m on the ground at this latitude
    size = where(MapArea(crs=DEGREES)).geobox.resolution
    assert size.x == -size.y


def test_pixel_edges_are_multiples_of_the_resolution() -> None:
    west, south, east, north = bounds_of(GRID)
    left = where(MapArea(bbox=(west, south, west + 603, north), bbox_crs=UTM33, resolution=20.0)).geobox
    right = where(MapArea(bbox=(west + 603, south, east, north), bbox_crs=UTM33, resolution=20.0)).geobox
    assert offset_on(left, right) is not None


# --- the grid of a raster


def raster(path: Path, geobox: GeoBox, **profile: object) -> Path:
    with ignoring():  # of what the refusal is about
        return write_raster(path, geobox, np.zeros(geobox.shape, np.uint8), {}, **profile)


def test_a_map_like_a_raster_has_its_grid_and_nothing_outside_the_region(
    heads: dict[str, Head], out: Path, tmp_path: Path
) -> None:
    turned = Affine.translation(WEST + 500, NORTH - 300) @ Affine.rotation(30) @ Affine.scale(7.0, -9.0)
    grid = GeoBox((90, 110), turned, UTM33)
    like = raster(tmp_path / "like.tif", grid)
    with ignoring(PartlyOutsideWarning):
        result = predict(heads["numbers"], out / "map.tif", area=MapArea(like=like))
    found, (x, y) = placed(result.path)
    col, row = on_grid(x, y)
    inside = within(col, row)
    assert 0 < inside.mean() < 1
    assert np.array_equal(np.isfinite(found), inside)
    assert result.outside == pytest.approx(1 - inside.mean(), abs=0.01)
    with rasterio.open(result.path) as dataset:
        assert (dataset.transform, dataset.shape) == (turned, (90, 110))
        assert float(dataset.tags(1)["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * inside.mean())
    well = within(col, row, 0.6)
    assert np.abs(found - slope(x, y))[well].max() < 0.1


def test_a_raster_on_the_regions_own_pixels_is_not_resampled(heads: dict[str, Head], out: Path, tmp_path: Path) -> None:
    grid = GeoBox((40, 60), GRID.affine @ Affine.translation(-20, 70), UTM33)
    with ignoring(PartlyOutsideWarning):
        area = MapArea(like=raster(tmp_path / "like.tif", grid))
        result = predict(heads["numbers"], out / "map.tif", area=area)
    found, places = placed(result.path)
    expected = slope(*places).astype(np.float32)
    assert np.isnan(found[26:]).all()
    assert np.isnan(found[:, :20]).all()
    assert np.array_equal(found[:26, 20:], expected[:26, 20:])
    assert result.window == Window(70, 0, 26, 40)


# --- polygons


def star(x: float, y: float, radius: float) -> shapely.Polygon:
    angles = np.linspace(0, 2 * np.pi, 11)[:-1]
    reach = radius * np.where(np.arange(10) % 2, 0.4, 1.0)
    return shapely.Polygon(np.column_stack([x + reach * np.cos(angles), y + reach * np.sin(angles)]))


def polygons(path: Path, *shapes: shapely.Geometry, to: str | None = UTM33) -> Path:
    frame = gpd.GeoDataFrame(geometry=list(shapes), crs=UTM33 if to else None)
    with ignoring():  # geopandas warns of a missing CRS
        (frame.to_crs(to) if to and to != UTM33 else frame).to_file(path)
    return path


@pytest.mark.parametrize("crs", [UTM33, DEGREES])
@pytest.mark.parametrize("onto", [None, UTM32])
def test_only_pixels_with_centres_in_the_polygons_are_mapped(
    heads: dict[str, Head], out: Path, tmp_path: Path, crs: str, onto: str | None
) -> None:
    shapes = star(WEST + 300, NORTH - 300, 187), star(WEST + 1000, NORTH - 700, 143)
    area = MapArea(aoi=polygons(tmp_path / "area.gpkg", *shapes, to=crs), crs=onto)
    result = predict(heads["classes"], out / "map.tif", area=area)
    assert result.outside == pytest.approx(0, abs=1e-3)
    values, (x, y) = placed(result.path)
    found = values != 255
    together = shapely.union_all(shapes)
    expected = shapely.contains_xy(together, x, y)
    close = shapely.distance(together.boundary, shapely.points(x, y)) < 0.05
    assert expected.sum() > 250
    assert np.array_equal(found[~close], expected[~close])
    if onto is None:
        # As small as the polygons allow: some pixel of every border row and column touches them.
        touched = shapely.intersects(together, shapely.box(x - 5, y - 5, x + 5, y + 5))
        assert all(edge.any() for edge in (touched[0], touched[-1], touched[:, 0], touched[:, -1]))


def test_ground_outside_the_polygons_is_not_computed(
    heads: dict[str, Head], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = heads["classes"]
    computed = windows_asked(head, "answers", monkeypatch)
    corners = (
        shapely.box(WEST, NORTH - 95, WEST + 95, NORTH),
        shapely.box(WEST + 1205, NORTH - 960, WEST + 1280, NORTH - 900),
    )
    area = MapArea(aoi=polygons(tmp_path / "area.gpkg", *corners))
    progress: list[tuple[int, int]] = []
    predict(head, out / "map.tif", area=area, listener=lambda *at: progress.append(at), tile=20)
    assert len(computed) == 2
    assert progress[-1] == (96 * 128, 96 * 128)


def test_polygons_on_the_grid_of_a_raster_leave_it_as_it_is(heads: dict[str, Head], out: Path, tmp_path: Path) -> None:
    like = raster(tmp_path / "like.tif", GRID[10:60, 20:90])
    area = MapArea(like=like, aoi=polygons(tmp_path / "area.gpkg", star(WEST + 500, NORTH - 300, 100)))
    result = predict(heads["classes"], out / "map.tif", area=area)
    assert result.geobox == GRID[10:60, 20:90]
    assert 0 < (read_raster(result.path, 1) != 255).sum() < 400


def test_the_share_of_polygons_outside_is_that_of_the_ground(tmp_path: Path) -> None:
    shapes = (
        shapely.box(WEST - 300, NORTH - 500, WEST + 100, NORTH - 100),
        shapely.box(WEST + 500, NORTH - 600, WEST + 700, NORTH - 400),
    )
    aoi = polygons(tmp_path / "area.gpkg", *shapes, to=DEGREES)
    with pytest.raises(PartlyOutsideWarning, match=r"60\.0% of the area of .*area\.gpkg lies outside"):
        where(MapArea(aoi=aoi))
    assert quietly(MapArea(aoi=aoi)).outside == pytest.approx(300 * 400 / (400 * 400 + 200 * 200), abs=1e-3)
    assert quietly(MapArea(aoi=aoi, crs=LAEA)).outside == pytest.approx(0.6, abs=1e-3)


# --- refusals


def test_areas_that_lie_outside_or_hold_nothing_are_refused(tmp_path: Path) -> None:
    far = polygons(tmp_path / "far.gpkg", star(WEST + 100_000, NORTH, 100))
    tiny = polygons(tmp_path / "tiny.gpkg", shapely.box(WEST + 1, NORTH - 4, WEST + 4, NORTH - 1))
    nowhere = polygons(tmp_path / "nowhere.gpkg", star(WEST, NORTH, 9), to=None)
    like = raster(tmp_path / "like.tif", GeoBox((5, 5), Affine(10, 0, WEST + 90_000, 0, -10, NORTH), UTM33))
    for area, kind, message in (
        (MapArea(bbox=(20.0, 50.0, 20.1, 50.1)), AreaError, "lies outside the region"),
        (MapArea(bbox=(20.0, 50.0, 20.1, 50.1), crs=UTM32), AreaError, "lies outside the region"),
        (MapArea(aoi=far), LabelError, "the area lies outside the region"),
        (MapArea(aoi=tiny), AreaError, "holds the centre of no pixel of the map: choose a larger one"),
        (
            MapArea(like=like),
            AreaError,
            r"the grid of .*like\.tif lies outside the region 'region 0': the region covers",
        ),
        (MapArea(aoi=nowhere), LabelError, "no coordinate reference"),
        (
            MapArea(aoi=polygons(tmp_path / "dot.gpkg", shapely.Point(WEST, NORTH))),
            LabelError,
            "no layer with polygons",
        ),
    ):
        with pytest.raises(kind, match=message):
            where(area)


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    box, there = (12.5, 52.49, 12.51, 52.5), Path("somewhere.gpkg")
    for area, message in (
        (MapArea(bbox=box, aoi=there), "`bbox` and `aoi` both say where"),
        (MapArea(bbox=box, like=there), "`bbox` asks for another"),
        (MapArea(like=there, crs=UTM32), "`crs` asks for another"),
        (MapArea(like=there, resolution=10.0), "`resolution` asks for another"),
        (MapArea(resolution=0.0), "`resolution` 0: expected a positive number"),
        (MapArea(resolution=float("nan")), "`resolution` nan: expected a positive number"),
        (MapArea(bbox=(12.5, 52.5, 12.5, 52.6)), "empty, inverted or not finite"),
        (MapArea(bbox=(float("nan"), 52.5, 12.5, 52.6)), "empty, inverted or not finite"),
        (MapArea(crs="EPSG:zzz"), "`crs` 'EPSG:zzz' is no coordinate reference system"),
        (MapArea(like=there), "somewhere.gpkg cannot be read as a raster"),
        (MapArea(like=raster(tmp_path / "bare.tif", GRID, crs=None)), "is not georeferenced"),
    ):
        with pytest.raises(AreaError, match=message):
            where(area)


def test_strict_refuses_what_is_otherwise_a_warning() -> None:
    west, south, east, north = bounds_of(GRID)
    area = MapArea(bbox=(west - 1280, south, east, north), bbox_crs=UTM33)
    with pytest.raises(PartlyOutsideWarning, match=r"50\.0% of the box lies outside the region 'region 0'"):
        where(area)
    with pytest.raises(AreaError, match=r"50\.0% of the box lies outside .*; `strict` refuses that"):
        where(MapArea(bbox=area.bbox, bbox_crs=UTM33, strict=True))
    assert quietly(MapArea(bbox=area.bbox, bbox_crs=UTM33, crs=UTM32)).outside == pytest.approx(0.5, abs=1e-3)


def test_a_region_across_the_antimeridian_is_mapped_on_its_own_grid() -> None:
    grid = GeoBox((100, 100), Affine(10, 0, 298_000, 0, -10, 7_000_000), "EPSG:32601")
    found = where(MapArea(), grid)
    assert found.geobox == grid
    across = GeoBox((100, 2000), Affine(100, 0, 250_000, 0, -100, 7_000_000), "EPSG:32601")
    with pytest.raises(AreaError, match="crosses the antimeridian in EPSG:4326"):
        where(MapArea(crs=DEGREES), across)


# --- several regions


def test_regions_beside_each_other_are_mapped_together_on_the_firsts_grid() -> None:
    other = GeoBox((50, 60), GRID.affine @ Affine.translation(100, -20), UTM33)
    found = where(MapArea(), GRID, other)
    assert found.geobox == GeoBox((116, 160), GRID.affine @ Affine.translation(0, -20), UTM33)
    inside = found.inside(whole(found.geobox))
    assert inside.sum() == 96 * 128 + 50 * 60 - 28 * 30
    assert not inside[:20, :100].any()


def test_a_refused_map_leaves_nothing(heads: dict[str, Head], out: Path) -> None:
    with pytest.raises(AreaError):
        predict(heads["classes"], out / "map.tif", area=MapArea(bbox=(20.0, 50.0, 20.1, 50.1)))
    assert contents(out) == {}
