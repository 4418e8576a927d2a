"""Hectares are on the ground: five grids over the same place, and every command that counts."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from factories import CLASSES, write_class_map
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from shapely.geometry.base import BaseGeometry

from lianet_user.errors import MapError
from lianet_user.evaluation.areas import estimate_areas
from lianet_user.geo.grid import LONLAT, Window, whole
from lianet_user.geo.ground_area import Ground, ground_areas, pixel_metres
from lianet_user.maps.polygons import polygons
from lianet_user.maps.zones import zones

LON, LAT = 12.6, 52.45
SHEARED = Affine(28, 9, 0, -6, -31, 0)
GRIDS = {
    "EPSG:3857": Affine(40, 0, 0, 0, -40, 0),
    "EPSG:4326": Affine(4e-4, 0, 0, 0, -3e-4, 0),
    "EPSG:3035": Affine(30, 0, 0, 0, -30, 0),
    "EPSG:32633": Affine(30, 0, 0, 0, -30, 0),
    "sheared": SHEARED,
}
SHAPE = (150, 160)
ZONE = shapely.box(LON - 0.011, LAT - 0.009, LON + 0.0142, LAT + 0.0103)
TRUE = 1e-4 * abs(Geod(ellps="WGS84").geometry_area_perimeter(shapely.segmentize(ZONE, 1e-4))[0])


def grid(name: str, shape: tuple[int, int] = SHAPE) -> GeoBox:
    """The same place in the middle of each."""
    crs = "EPSG:32633" if name == "sheared" else name
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(LON, LAT)
    return GeoBox(shape, Affine.translation(x, y) @ GRIDS[name] @ Affine.translation(-shape[1] / 2, -shape[0] / 2), crs)


def outlines_of_pixels(geobox: GeoBox) -> np.ndarray:
    """(height, width) pixels in degrees, their edges with ten vertices each."""
    row, col = np.indices(tuple(geobox.shape))
    squares = shapely.segmentize(shapely.box(col, row, col + 1, row + 1), 0.1)
    assert geobox.crs is not None
    a, b, c, d, e, f = geobox.affine[:6]
    to_degrees = Transformer.from_crs(geobox.crs.proj, "EPSG:4326", always_xy=True)
    return np.asarray(
        shapely.transform(
            squares,
            lambda p: np.column_stack(
                to_degrees.transform(a * p[:, 0] + b * p[:, 1] + c, d * p[:, 0] + e * p[:, 1] + f)
            ),
        )
    )


def geodesic(outline: BaseGeometry) -> float:
    return abs(float(Geod(ellps="WGS84").geometry_area_perimeter(outline)[0])) / 1e4


@pytest.mark.parametrize("name", GRIDS)
def test_a_pixels_area_is_that_on_the_ellipsoid(name: str) -> None:
    geobox = grid(name)
    corners = [(0, 0), (0, 157), (74, 80), (149, 3), (148, 159)]
    found = Ground(geobox).pixels(whole(geobox))
    expected = outlines_of_pixels(geobox)
    for row, col in corners:
        assert found[row, col] == pytest.approx(geodesic(expected[row, col]), rel=1e-6)
    assert np.array_equal(Ground(geobox).pixels(Window(20, 30, 5, 6)), found[20:25, 30:36])


@pytest.mark.parametrize("name", GRIDS)
def test_commands_agree_on_hectares(name: str, tmp_path: Path) -> None:
    geobox, values = grid(name), np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    ground = Ground(geobox)
    source = write_class_map(tmp_path / "map.tif", geobox, values)
    pixels = ground.pixels(whole(geobox))
    counted = {entry.name: pixels[values == value].sum() for value, entry in enumerate(CLASSES)}
    assert polygons(source, tmp_path / "map.gpkg").hectares == pytest.approx(counted, rel=1e-9)

    zone = geopandas.GeoDataFrame({"n": [1]}, geometry=[ZONE], crs="EPSG:4326")
    zone.to_file(tmp_path / "zone.gpkg")
    found = zones(source, tmp_path / "zone.gpkg").frame.iloc[0]
    assert found["zone_ha"] == pytest.approx(TRUE, rel=1e-6)
    mapped = sum(found[f"ha_{entry.name}"] for entry in CLASSES)
    assert mapped == pytest.approx(TRUE, rel=1e-6)

    # What `predict` measures patches for `--min-area` with, and what `evaluate` says is mapped.
    rows, cols = np.indices(SHAPE).reshape(2, -1)
    assert ground.at(rows, cols) == pytest.approx(pixels.ravel(), rel=1e-12)
    assert ground.pixel_range == pytest.approx((pixels.min(), pixels.max()), rel=1e-3)
    of_class = np.array([(values == value).sum() for value in range(len(CLASSES))])
    areas = estimate_areas(np.diag(of_class), of_class, np.array([*counted.values()]), CLASSES)
    assert [each.mapped_ha for each in areas.classes] == pytest.approx([*counted.values()])
    assert [each.area_ha.value for each in areas.classes] == pytest.approx([*counted.values()])


@pytest.mark.parametrize("name", GRIDS)
def test_shares_of_zones_are_those_of_shapelys_intersections(name: str, tmp_path: Path) -> None:
    """Pixel by pixel in an equal-area projection, within 1e-6."""
    geobox = grid(name, (60, 50))
    values = np.random.default_rng(3).integers(0, 3, (60, 50)).astype(np.uint8)
    source = write_class_map(tmp_path / "map.tif", geobox, values)
    outlines = [
        shapely.Point(LON, LAT).buffer(0.004) - shapely.Point(LON + 0.0005, LAT).buffer(0.0011),
        shapely.Polygon([(LON - 0.0032, LAT - 0.0021), (LON + 0.0047, LAT - 0.001), (LON - 0.001, LAT + 0.0038)]),
        shapely.box(LON + 0.00011, LAT + 0.00007, LON + 0.00511, LAT + 0.00289),
    ]
    geopandas.GeoDataFrame({"n": range(3)}, geometry=outlines, crs="EPSG:4326").to_file(tmp_path / "zones.gpkg")
    frame = zones(source, tmp_path / "zones.gpkg").frame
    flat = Transformer.from_crs("EPSG:4326", f"+proj=laea +lat_0={LAT} +lon_0={LON} +ellps=WGS84", always_xy=True)

    def flattened(shapes: np.ndarray) -> np.ndarray:
        return np.asarray(shapely.transform(shapes, lambda p: np.column_stack(flat.transform(*p.T))))

    pixels = flattened(outlines_of_pixels(geobox))
    for row, outline in enumerate(flattened(shapely.segmentize(np.array(outlines, object), 1e-5))):
        inside = shapely.area(shapely.intersection(pixels, outline)) / outline.area
        assert inside.sum() == pytest.approx(1, abs=1e-6)
        for value, entry in enumerate(CLASSES):
            assert frame.loc[row, f"share_{entry.name}"] == pytest.approx(inside[values == value].sum(), abs=1e-6)


def test_large_grids_are_measured_between_their_nodes() -> None:
    geobox = GeoBox((40_000, 30_000), Affine(10, 0, 1_400_000, 0, -10, 7_400_000), "EPSG:3857")
    window = Window(31_234, 17_891, 3, 2)
    part = GeoBox((3, 2), geobox.affine @ Affine.translation(17_891, 31_234), geobox.crs)
    expected = [[geodesic(each) for each in row] for row in outlines_of_pixels(part)]
    assert Ground(geobox).pixels(window) == pytest.approx(np.array(expected), rel=1e-6)
    whole_map = shapely.box(0, 0, 30_000, 40_000)
    x, y = geobox.affine @ (0, 0), geobox.affine @ (30_000, 40_000)
    area = ground_areas(np.array([shapely.box(x[0], y[1], y[0], x[1])]), geobox.crs)[0] / 1e4  # type: ignore[arg-type]
    assert Ground(geobox).areas(np.array([whole_map])) == pytest.approx([area], rel=1e-6)


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        ("EPSG:4326", Affine(1e-3, 0, 179.98, 0, -1e-3, 10)),  # across the antimeridian
        ("EPSG:3413", Affine(1000, 0, -20_000, 0, -1000, 20_000)),  # around the pole
        ("EPSG:4326", Affine(3e-4, 2e-4, 12, 1e-4, -3e-4, 52)),  # degrees, turned
    ],
)
def test_no_place_is_odd(crs: str, affine: Affine) -> None:
    geobox = GeoBox((40, 40), affine, crs)
    found = Ground(geobox).pixels(whole(geobox))
    corners = np.array([geobox.affine @ (x, y) for x, y in ((0, 0), (40, 0), (40, 40), (0, 40))])
    area = ground_areas(np.array([shapely.Polygon(corners)]), geobox.crs)[0] / 1e4  # type: ignore[arg-type]
    assert found.min() > 0
    assert found.sum() == pytest.approx(area, rel=1e-5)


def test_a_sheared_pixel_is_smaller_than_its_sides_product() -> None:
    across, down = pixel_metres(grid("sheared"))
    (pixel,) = Ground(grid("sheared")).at(*np.array([[SHAPE[0] // 2], [SHAPE[1] // 2]])) * 1e4
    assert pixel < across * down
    assert pixel == pytest.approx(abs(SHEARED.determinant), rel=1e-3)


def test_a_grid_without_a_place_is_refused() -> None:
    with pytest.raises(MapError, match="no coordinate reference system on the Earth"):
        Ground(GeoBox((4, 4), Affine(1, 0, 0, 0, -1, 0), None))
    with pytest.raises(MapError, match="outside its own coordinate reference system"):
        Ground(GeoBox((4, 4), Affine(1e6, 0, 1e13, 0, -1e6, 1e13), "EPSG:3035"))


def test_a_shapes_area_does_not_depend_on_its_crs() -> None:
    shape = shapely.segmentize(ZONE, 1e-4)
    for name in ("EPSG:3857", "EPSG:3035", "EPSG:32633"):
        moved = geopandas.GeoSeries([shape], crs=LONLAT.proj).to_crs(name)
        found = ground_areas(moved.to_numpy(), grid(name).crs)  # type: ignore[arg-type]
        assert found == pytest.approx([TRUE * 1e4], rel=1e-6)
