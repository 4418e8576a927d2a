"""Coordinates: the best operation at hand, stated with its accuracy, and no alarm where nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.enums import WktVersion

from lianet_user.errors import LabelError
from lianet_user.geo.grid import bounds_of
from lianet_user.geo.transformation import transformation

HAVELLAND = GeoBox((768, 1536), Affine(10, 0, 330_000, 0, -10, 5_822_040), "EPSG:32633")
TIMISOARA = GeoBox((100, 100), Affine(10, 0, 210_000, 0, -10, 5_080_000), "EPSG:32635")
LAEA = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m"
PLACE = ((330_000.0, 5_822_040.0), (337_680.0, 5_818_200.0), (345_360.0, 5_814_360.0))


def test_the_best_operation_is_used_and_the_better_one_is_named() -> None:
    change = transformation(CRS("EPSG:31468"), HAVELLAND)
    assert change.accuracy == 2
    assert change.missing == ("de_adv_BETA2007.tif (accurate to 1 m)",)
    assert change.notes == ("Coordinates: EPSG:31468 -> EPSG:32633 by 'DHDN to WGS 84 (3)', accurate to 2 m",)


def test_the_area_decides_which_operation_is_best() -> None:
    """DHDN (3) is for Saxony to Pomerania; in the west of Germany another is better."""
    west = GeoBox((100, 100), Affine(10, 0, 350_000, 0, -10, 5_640_000), "EPSG:32632")
    (note,) = transformation(CRS("EPSG:31466"), west).notes
    assert "DHDN to WGS 84 (2)" in note


@pytest.mark.parametrize(
    "code", ["EPSG:31468", "EPSG:4326", "EPSG:25833", "EPSG:3035", "EPSG:3857", "EPSG:32632", "EPSG:4314"]
)
def test_there_and_back_is_the_same_place(code: str) -> None:
    change = transformation(CRS(code), HAVELLAND)
    np.testing.assert_allclose(change.apply(change.invert(np.array(PLACE))), PLACE, rtol=0, atol=1e-3)


def test_points_are_x_then_y_whatever_the_crs_says() -> None:
    lonlat = transformation(CRS("EPSG:4326"), HAVELLAND).invert(np.array(PLACE))
    assert (np.abs(lonlat - (12.6, 52.5)) < 0.2).all()


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("EPSG:32633", "EPSG:32633"),
        ("EPSG:4326", "EPSG:32633"),
        ("EPSG:25832", "EPSG:25833"),
        ("OGC:CRS84", "EPSG:32633"),
    ],
)
def test_the_same_datum_is_no_news(code: str, target: str) -> None:
    change = transformation(CRS(code), GeoBox(HAVELLAND.shape, HAVELLAND.affine, target))
    assert (change.accuracy, change.missing, change.notes) == (0, (), ())


def test_the_same_crs_moves_nothing() -> None:
    points = np.array(PLACE) + 0.1
    change = transformation(CRS("EPSG:32633"), HAVELLAND)
    np.testing.assert_array_equal(change.apply(points), points)
    np.testing.assert_array_equal(change.invert(points), points)


@pytest.mark.parametrize("target", ["EPSG:32635", "EPSG:3035"])
@pytest.mark.parametrize("style", ["PROJ string", "WKT1"])
def test_a_datum_that_is_stated_to_be_that_of_wgs84_is_no_alarm(style: str, target: str) -> None:
    text = f"{LAEA} +towgs84=0,0,0,0,0,0,0"
    wkt = CRS(text).to_wkt(version=WktVersion.WKT1_GDAL).replace("Unknown based on GRS80 ellipsoid", "unknown")
    place = np.array([[5_272_000.0, 2_533_000.0]])
    expected = Transformer.from_crs("EPSG:3035", target, always_xy=True).transform(*place[0])
    region = GeoBox((100, 100), Affine(10, 0, expected[0], 0, -10, expected[1]), target)
    change = transformation(CRS(text if style == "PROJ string" else wkt), region)
    assert (change.missing, change.notes) == ((), ())
    np.testing.assert_allclose(change.apply(place)[0], expected, rtol=0, atol=0.01)


def test_parameters_that_a_file_brings_are_used_and_stated() -> None:
    """Seven parameters, as a GeoTIFF or a .prj without a code carries them."""
    own = "+proj=tmerc +lat_0=0 +lon_0=12 +k=1 +x_0=4500000 +y_0=0 +ellps=bessel"
    shifted = transformation(CRS(f"{own} +towgs84=612.4,77,440.2,-0.054,0.057,-2.797,2.55"), HAVELLAND)
    assert shifted.accuracy is None
    (note,) = shifted.notes
    assert "of unknown accuracy" in note
    known = transformation(CRS("EPSG:31468"), HAVELLAND)
    points = known.invert(np.array(PLACE))
    np.testing.assert_allclose(shifted.apply(points), known.apply(points), rtol=0, atol=0.01)


@pytest.mark.parametrize("source", ["EPSG:31700", LAEA])
def test_an_unknown_change_of_datum_is_said_plainly(source: str) -> None:
    change = transformation(CRS(source), TIMISOARA)
    assert change.accuracy is None
    (note,) = change.notes
    assert "without a change of datum" in note
    assert np.isfinite(change.invert(np.array([[210_000.0, 5_080_000.0]]))).all()


@pytest.mark.parametrize("source", ["EPSG:4326", "EPSG:4979", "EPSG:3857"])
@pytest.mark.parametrize(
    "region",
    [
        GeoBox((100, 100), Affine(100, 0, 810_000, 0, -100, 7_200_000), "EPSG:32660"),
        GeoBox((100, 100), Affine(0.01, 0, 179.5, 0, -0.01, 66), "EPSG:4326"),
        GeoBox((100, 100), Affine(0.01, 0, 355, 0, -0.01, 66), "EPSG:4326"),
        GeoBox((180, 360), Affine(1, 0, 0, 0, -1, 90), "EPSG:4326"),
        GeoBox((100, 100), Affine(1000, 0, -50_000, 0, -1000, 50_000), "EPSG:3031"),
        GeoBox((100, 100), Affine(1000, 0, -50_000, 0, -1000, 50_000), "EPSG:3413"),
    ],
    ids=["antimeridian, UTM", "antimeridian, degrees", "0 to 360", "the Earth from 0", "south pole", "north pole"],
)
def test_places_where_longitude_is_awkward(source: str, region: GeoBox) -> None:
    change = transformation(CRS(source), region)
    west, south, east, north = bounds_of(region)
    points = np.array([[west + (east - west) / 5, south + (north - south) / 3]])
    moved = change.apply(change.invert(points))
    finite = np.isfinite(moved)
    assert finite.all() or source == "EPSG:3857"
    difference = (moved - points)[finite]
    if region.crs == "EPSG:4326":
        difference = (difference + 180) % 360 - 180
    np.testing.assert_allclose(difference, 0, atol=1e-3)
    assert change.notes == ()


def test_what_cannot_be_projected_is_infinite() -> None:
    change = transformation(CRS("EPSG:4326"), HAVELLAND)
    moved = change.apply(np.array([[12.6, 52.4], [12.6, 152.4], [np.nan, 52.4]]))
    np.testing.assert_array_equal(np.isinf(moved), [[False] * 2, [True] * 2, [True] * 2])
    assert change.apply(np.empty((0, 2))).shape == (0, 2)


def test_coordinates_of_no_place_on_earth_are_refused() -> None:
    local = CRS(
        'ENGCRS["site",EDATUM["a corner"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    )
    with pytest.raises(LabelError, match="no transformation from site to the region's EPSG:32633: assign the labels"):
        transformation(local, HAVELLAND)
