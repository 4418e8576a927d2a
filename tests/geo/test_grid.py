"""Boxes become windows, and every window is computed with the surroundings its pixels always have."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from lianet_user.errors import AreaError
from lianet_user.geo.grid import (
    Bounds,
    Window,
    bounds_in,
    bounds_of,
    crs_name,
    format_bounds,
    parse_bbox,
    whole,
    window_geobox,
    window_of_bounds,
)

UTM33, WGS84 = CRS("EPSG:32633"), CRS("EPSG:4326")


@st.composite
def windows_in_a_region(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window and the shape of a region that holds it."""
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    size = draw(st.integers(1, height - row)), draw(st.integers(1, width - col))
    return Window(row, col, *size), (height, width)


def contains(outer: Window, inner: Window) -> bool:
    return outer.intersection(inner) == inner


def grown(window: Window, pixels: int) -> Window:
    return Window(window.row - pixels, window.col - pixels, window.height + 2 * pixels, window.width + 2 * pixels)


# Windows


def test_slices_pick_the_window_out_of_an_array() -> None:
    picked = np.arange(20).reshape(4, 5)[Window(1, 2, 2, 3).slices]
    assert picked.tolist() == [[7, 8, 9], [12, 13, 14]]
    assert picked.size == Window(1, 2, 2, 3).pixels


def test_intersection_is_what_both_have_or_none() -> None:
    assert Window(0, 0, 4, 4).intersection(Window(2, 3, 9, 9)) == Window(2, 3, 2, 1)
    assert Window(0, 0, 4, 4).intersection(Window(4, 0, 1, 1)) is None


def test_within_counts_from_the_outer_corner() -> None:
    inner, outer = Window(10, 20, 3, 4), Window(8, 16, 16, 16)
    array = np.arange(40 * 40).reshape(40, 40)
    assert np.array_equal(array[outer.slices][inner.within(outer).slices], array[inner.slices])


@given(windows_in_a_region(), st.integers(1, 130))
def test_tiles_partition_the_window(case: tuple[Window, tuple[int, int]], size: int) -> None:
    window, shape = case
    touched = np.zeros(shape, int)
    for tile in window.tiles(size):
        assert 0 < tile.height <= size
        assert 0 < tile.width <= size
        touched[tile.slices] += 1
    expected = np.zeros(shape, int)
    expected[window.slices] = 1
    assert np.array_equal(touched, expected)


@given(windows_in_a_region(), st.integers(0, 100), st.sampled_from([1, 8, 32]))
def test_expanded_has_the_halo_up_to_the_border(case: tuple[Window, tuple[int, int]], halo: int, stride: int) -> None:
    window, (height, width) = case
    expanded = window.expanded(halo, stride, (height, width))
    # Snapped to the stride on all four sides, never before the first pixel, past the last by less than a stride.
    assert all(edge % stride == 0 for edge in (expanded.row, expanded.col, expanded.row_end, expanded.col_end))
    assert min(expanded.row, expanded.col) >= 0
    assert expanded.row_end < height + stride
    assert expanded.col_end < width + stride
    # All the halo there is inside the region, and no more than the snapping adds.
    wanted = grown(window, halo).intersection(Window(0, 0, height, width))
    assert wanted is not None
    assert contains(expanded, wanted)
    assert contains(grown(wanted, stride), expanded)


@given(windows_in_a_region(), st.integers(0, 100), st.sampled_from([1, 8, 32]), st.integers(1, 130))
def test_a_tile_never_needs_more_than_the_whole(
    case: tuple[Window, tuple[int, int]], halo: int, stride: int, size: int
) -> None:
    window, shape = case
    expanded = window.expanded(halo, stride, shape)
    assert all(contains(expanded, tile.expanded(halo, stride, shape)) for tile in window.tiles(size))


def test_expanded_at_a_border_that_is_no_multiple_of_the_stride() -> None:
    assert Window(0, 90, 10, 10).expanded(halo=16, stride=8, shape=(97, 100)) == Window(0, 72, 32, 32)
    assert Window(90, 0, 7, 10).expanded(halo=16, stride=8, shape=(97, 100)) == Window(72, 0, 32, 32)


def test_window_geobox_lies_where_the_window_does(small_geobox: GeoBox) -> None:
    part = window_geobox(small_geobox, Window(6, 8, 10, 20))
    assert part.shape == (10, 20)
    assert part.crs == small_geobox.crs
    assert bounds_of(part) == (330_080.0, 5_819_840.0, 330_280.0, 5_819_940.0)


# Boxes as text


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("12.50,52.42,12.60,52.46", (12.5, 52.42, 12.6, 52.46)),
        (" -3.5, -1 ,4e0, +2 ", (-3.5, -1.0, 4.0, 2.0)),
    ],
)
def test_parse_bbox(text: str, bounds: Bounds) -> None:
    assert parse_bbox(text) == bounds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"`bbox` '' is not four numbers: expected W,S,E,N, for instance 12\.50"),
        ("1,2,3", "is not four numbers"),
        ("1,2,3,4,5", "is not four numbers"),
        ("1 2 3 4", "is not four numbers"),
        ("1,2,3,north", "is not four numbers"),
        ("1,2,3,nan", "holds a number that is not finite"),
        ("1,2,inf,4", "holds a number that is not finite"),
        ("3,2,1,4", "is empty or inverted: expected W,S,E,N with W < E and S < N"),
        ("1,4,3,2", "is empty or inverted"),
        ("1,2,1,4", "is empty or inverted"),
    ],
)
def test_parse_bbox_refuses(text: str, message: str) -> None:
    with pytest.raises(AreaError, match=message):
        parse_bbox(text)


def test_format_bounds_has_the_digits_a_person_needs() -> None:
    assert format_bounds((12.5, 52.42, 12.6, 52.46)) == "12.50000,52.42000,12.60000,52.46000"
    assert format_bounds((330000.4, 5819040.0, 331280.0, 5820000.0)) == "330000,5819040,331280,5820000"


def test_formatted_bounds_can_be_given_back(small_geobox: GeoBox) -> None:
    bounds = bounds_of(small_geobox, WGS84)
    assert parse_bbox(format_bounds(bounds)) == pytest.approx(bounds, abs=1e-5)


# Boxes as windows


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param((330_080.0, 5_819_840.0, 330_280.0, 5_819_940.0), id="along pixel edges"),
        pytest.param((330_089.0, 5_819_849.0, 330_271.0, 5_819_931.0), id="through the outermost pixels"),
    ],
)
def test_a_box_takes_every_pixel_it_touches_and_no_other(small_geobox: GeoBox, bounds: Bounds) -> None:
    assert window_of_bounds(small_geobox, bounds, UTM33) == (Window(6, 8, 10, 20), 0.0)


@given(st.integers(0, 95), st.integers(0, 127), st.floats(0.001, 9.999), st.floats(0.001, 9.999))
def test_a_point_like_box_is_the_pixel_it_lies_in(row: int, col: int, east: float, south: float) -> None:
    geobox = GeoBox((96, 128), Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32633")
    x, y = 330_000.0 + 10.0 * col + east, 5_820_000.0 - 10.0 * row - south
    window, _ = window_of_bounds(geobox, (x - 1e-4, y - 1e-4, x + 1e-4, y + 1e-4), UTM33)
    assert window == Window(row, col, 1, 1)


def test_a_tiny_box_on_a_pixel_edge_is_not_outside(small_geobox: GeoBox) -> None:
    window, outside = window_of_bounds(small_geobox, (330_050 - 1e-6, 5_819_501, 330_050 + 1e-6, 5_819_509), UTM33)
    assert window.pixels == 1
    assert outside == 0.0


def test_a_box_in_degrees_covers_its_corners(small_geobox: GeoBox) -> None:
    inner = window_geobox(small_geobox, Window(20, 30, 40, 50))
    window, outside = window_of_bounds(small_geobox, bounds_of(inner, WGS84), WGS84)
    assert contains(window, Window(20, 30, 40, 50))
    # The grid's axes are turned by about two degrees against the meridian here, so a box in degrees is a little larger.
    assert contains(Window(16, 26, 48, 58), window)
    assert outside == 0.0


def test_the_share_outside_is_told(small_geobox: GeoBox) -> None:
    west, south, east, north = bounds_of(small_geobox)
    window, outside = window_of_bounds(small_geobox, (west - (east - west), south, east, north), UTM33)
    assert window == whole(small_geobox)
    assert outside == pytest.approx(0.5)


@pytest.mark.parametrize(("bounds", "crs"), [((0, 0, 1000, 1000), UTM33), ((52.42, 12.5, 52.46, 12.6), WGS84)])
def test_a_box_outside_says_where_the_region_is(small_geobox: GeoBox, bounds: Bounds, crs: CRS) -> None:
    with pytest.raises(AreaError, match="lies outside the region, which covers") as caught:
        window_of_bounds(small_geobox, bounds, crs)
    assert format_bounds(bounds_of(small_geobox, crs)) in str(caught.value)
    assert crs_name(crs) in str(caught.value)


def test_a_box_with_exchanged_axes_is_said_to_be_one(small_geobox: GeoBox) -> None:
    west, south, east, north = bounds_of(small_geobox, WGS84)
    with pytest.raises(AreaError, match=f"with x and y exchanged it would lie in it, so give {west:.5f},{south:.5f},"):
        window_of_bounds(small_geobox, (south, west, north, east), WGS84)
    # There is no latitude of 130.
    far_east = GeoBox((96, 128), Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_820_000.0), "EPSG:32652")
    west, south, east, north = bounds_of(far_east, WGS84)
    with pytest.raises(AreaError, match="with x and y exchanged"):
        window_of_bounds(far_east, (south, west, north, east), WGS84)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("12.5,52.5,12.6,52.4", "12.5,52.4,12.6,52.5"),
        ("12.6,52.4,12.5,52.5", "12.5,52.4,12.6,52.5"),
        ("12.6, 52.5,12.5,52.4", "12.5,52.4,12.6,52.5"),
        ("330000.25,5822040,340000,5820000", "330000.25,5820000,340000,5822040"),
    ],
)
def test_an_inverted_box_is_said_the_right_way_round(text: str, meant: str) -> None:
    with pytest.raises(AreaError, match=rf"expected W,S,E,N with W < E and S < N; did you mean {meant}\?"):
        parse_bbox(text)
    assert parse_bbox(meant)


def test_a_box_beside_the_region_does_not_touch_it(small_geobox: GeoBox) -> None:
    _, south, east, north = bounds_of(small_geobox)
    with pytest.raises(AreaError, match="lies outside the region"):
        window_of_bounds(small_geobox, (east, south, east + 100.0, north), UTM33)


def test_a_box_that_has_no_place_in_the_grid_s_crs() -> None:
    with pytest.raises(AreaError, match=r"cannot be expressed in EPSG:32633: check its numbers, and which"):
        bounds_in((330_000.0, 5_819_000.0, 331_000.0, 5_820_000.0), WGS84, UTM33)


def test_a_crs_without_a_code_has_a_name() -> None:
    albers = CRS("+proj=aea +lat_1=29.5 +lat_2=42.5 +datum=WGS84")
    assert crs_name(UTM33) == "EPSG:32633"
    assert crs_name(albers) == albers.proj.name
