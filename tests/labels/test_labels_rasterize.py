"""Features on a grid: every pixel against the exact areas, lengths and places."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from exact_maps import exact_classes, shares
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_files import CORNER, GRID, UTM, array, placed, squares
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from lianet_user.files.header import IGNORE
from lianet_user.labels.cover import split_parts, to_pixel_coordinates
from lianet_user.labels.label_options import OnConflict, Rule
from lianet_user.labels.rasterize import (
    Decided,
    PixelRule,
    classes_of_subpixels,
    decide_classes,
    decide_coverage,
    decide_numbers,
    numbers_of_subpixels,
    touches_own,
)

SHAPE = (20, 30)
PIXELS = squares(SHAPE)
ROTATED = GeoBox(SHAPE, CORNER @ Affine.rotation(25), UTM)
RULES: tuple[Rule, ...] = ("majority", "center", "all-touched")


def classes_of(
    geometries: NDArray[np.object_], classes: Any, shape: tuple[int, int] = SHAPE, rule: Rule = "majority", **more: Any
) -> Decided:
    given = {key: more.pop(key) for key in ("min_coverage", "on_conflict") if key in more}
    return decide_classes(
        split_parts(geometries), np.asarray(classes, np.intp), shape, PixelRule(rule, **given), **more
    )


def numbers_of(
    geometries: NDArray[np.object_], numbers: Any, shape: tuple[int, int] = SHAPE, rule: Rule = "majority", **given: Any
) -> Decided:
    return decide_numbers(split_parts(geometries), np.asarray(numbers, np.float64), shape, PixelRule(rule, **given))


def blobs(seed: int, count: int) -> NDArray[np.object_]:
    """Star-shaped polygons of many sizes, some beyond the grid."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    made = []
    for _ in range(count):
        center = rng.uniform((-2, -2), (32, 22))
        radius = rng.uniform(0.3, 1.0, 9) * rng.uniform(0.3, 6)
        made.append(shapely.Polygon(center + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])))
    return array(*made)


def walks(seed: int, count: int) -> NDArray[np.object_]:
    """Lines of several edges in all directions, some along edges of pixels, some beyond the grid."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        steps = rng.uniform(-4, 4, (5, 2)) * rng.integers(0, 2, (5, 2))
        lines.append(shapely.LineString(rng.uniform((-2, -2), (32, 22)) + np.cumsum(np.vstack([[1.3, 0.7], steps]), 0)))
    return array(*lines)


def mixed(seed: int) -> NDArray[np.object_]:
    rng = np.random.default_rng(seed)
    points = shapely.points(rng.uniform((-2, -2), (32, 22), (30, 2)))
    made = np.concatenate([blobs(seed, 20), walks(seed, 10), points])
    rng.shuffle(made)
    return made


@pytest.mark.parametrize("min_coverage", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("grid", [GRID, ROTATED], ids=["north-up", "rotated"])
def test_pixels_follow_the_exact_areas(grid: GeoBox, min_coverage: float) -> None:
    outlines, classes = blobs(0, 60), np.arange(60) % 3
    polygons = to_pixel_coordinates(placed(outlines, grid.affine), grid)
    decided = classes_of(polygons, classes, min_coverage=min_coverage)
    exact = exact_classes(list(outlines), classes.tolist(), SHAPE, least=min_coverage, near=1e-5)
    sure = exact.sure
    assert sure.mean() > 0.97
    assert (exact.values[sure] != IGNORE).sum() > 30
    assert exact.contradicting[sure].sum() > 10
    np.testing.assert_array_equal(decided.values[sure], exact.values[sure])
    np.testing.assert_array_equal(decided.contradicting[sure], exact.contradicting[sure])
    assert (decided.values[decided.contradicting] == IGNORE).all()
    assert decided.labelled_ground == pytest.approx(exact.labelled, abs=1e-4)
    assert decided.contested_ground == pytest.approx(exact.contested, abs=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("on_conflict", ["ignore", "last", "first"])
def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch, rule: Rule, on_conflict: OnConflict) -> None:
    features, classes, rest = mixed(1), np.arange(60) % 5, mixed(2)[:5]
    area = shapely.box(3.3, 2, 25.2, 18).difference(blobs(3, 1)[0])

    def decide() -> list[Decided]:
        more: dict[str, Any] = {"rule": rule, "on_conflict": on_conflict}
        return [
            classes_of(features, classes, **more, blockers=rest, background=(5, area)),
            numbers_of(features, classes / 3, **more),
        ]

    at_once, coverage = decide(), decide_coverage(split_parts(features), SHAPE, area)
    monkeypatch.setattr("lianet_user.labels.rasterize.TILE", 7)
    for one, other in zip(at_once, decide(), strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.contradicting, other.contradicting)
        assert one.undecided == other.undecided
        assert one.labelled_ground == pytest.approx(other.labelled_ground, abs=1e-6)
        assert one.contested_ground == pytest.approx(other.contested_ground, abs=1e-6)
    np.testing.assert_array_equal(coverage, decide_coverage(split_parts(features), SHAPE, area))


@pytest.mark.parametrize("rule", RULES)
def test_windows_make_up_the_whole(rule: Rule) -> None:
    features, classes = placed(mixed(4), ROTATED.affine), np.arange(60) % 4
    whole = classes_of(to_pixel_coordinates(features, ROTATED), classes, rule=rule)
    for rows, cols in ((slice(0, 9), slice(0, 30)), (slice(9, 20), slice(0, 13)), (slice(9, 20), slice(13, 30))):
        window = ROTATED[rows, cols]
        height, width = window.shape
        part = classes_of(to_pixel_coordinates(features, window), classes, (height, width), rule=rule)
        np.testing.assert_array_equal(part.values, whole.values[rows, cols])
        np.testing.assert_array_equal(part.contradicting, whole.contradicting[rows, cols])


@pytest.mark.parametrize("rule", RULES)
def test_lines_claim_exactly_the_pixels_they_run_through(rule: Rule) -> None:
    for line in walks(5, 40):
        along = shapely.intersection(line, PIXELS)
        expected = (shapely.length(along) > 1e-6) & ~shapely.covered_by(along, shapely.boundary(PIXELS))
        got = classes_of(array(line), [3], rule=rule).values == 3
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Through corners: the pixels beside them are only touched.
        ([(0, 0), (3, 3)], {(0, 0), (1, 1), (2, 2)}),
        ([(0, 3), (3, 0)], {(2, 0), (1, 1), (0, 2)}),
        # Along an edge between pixels: the one below or to the right.
        ([(0, 1), (2, 1)], {(1, 0), (1, 1)}),
        ([(1, 2), (1, 0)], {(0, 1), (1, 1)}),
        # Along the far edges, and beyond: none.
        ([(0, 3), (3, 3)], set()),
        ([(3, 0), (3, 3)], set()),
        ([(-5, -1), (9, -1)], set()),
        # From far away, and ending on an edge.
        ([(-1000, 0.5), (1, 0.5)], {(0, 0)}),
        # Steps that are shorter than a pixel.
        ([(0.1, 0.5), (0.2, 0.5), (0.3, 0.5), (1.1, 0.5)], {(0, 0), (0, 1)}),
    ],
)
def test_lines_at_corners_and_edges(line: list[tuple[float, float]], expected: set[tuple[int, int]]) -> None:
    values = classes_of(array(shapely.LineString(line)), [0], (3, 3)).values
    assert {(int(row), int(col)) for row, col in zip(*np.nonzero(values == 0), strict=True)} == expected


@pytest.mark.parametrize("rule", RULES)
def test_points_label_the_pixel_they_lie_in(rule: Rule) -> None:
    places = [(0, 0), (1, 1), (2.999, 0.5), (3, 1), (1, 3), (-0.001, 2), (1e9, -1e9)]
    values = classes_of(array(shapely.MultiPoint(places)), [7], (3, 3), rule).values
    assert values.tolist() == [[7, IGNORE, 7], [IGNORE, 7, IGNORE], [IGNORE] * 3]


def test_rounding_moves_nothing_across_an_edge() -> None:
    grid = GeoBox((1000, 1000), Affine(0.1, 0, 330_000.1, 0, -0.1, 5_822_040.3), "EPSG:32633")
    at = np.arange(1000)
    places = np.column_stack([330_000.1 + 0.1 * at, 5_822_040.3 - 0.1 * at])
    points = to_pixel_coordinates(array(shapely.MultiPoint(places)), grid)
    values = classes_of(points, [0], (1000, 1000), "center").values
    np.testing.assert_array_equal(values == 0, np.eye(1000, dtype=bool))


def test_center_is_what_the_middle_of_the_pixel_says() -> None:
    polygons, classes = blobs(6, 30), np.arange(30) % 3
    decided = classes_of(polygons, classes, rule="center")
    unions = [shapely.union_all(polygons[classes == index]) for index in range(3)]
    held = np.array([shapely.contains(union, shapely.centroid(PIXELS)) for union in unions])
    expected = np.where(held.sum(axis=0) == 1, held.argmax(axis=0), IGNORE)
    np.testing.assert_array_equal(decided.values, expected)
    np.testing.assert_array_equal(decided.contradicting, held.sum(axis=0) > 1)
    assert decided.contradicting.any()
    assert decided.labelled_ground == held.any(axis=0).sum()


def test_all_touched_is_every_pixel_with_some_of_the_ground() -> None:
    polygons, classes = blobs(7, 30), np.arange(30) % 3
    decided = classes_of(polygons, classes, rule="all-touched")
    held = np.array([shares(shapely.union_all(polygons[classes == index]), SHAPE) > 1e-9 for index in range(3)])
    np.testing.assert_array_equal(decided.values, np.where(held.sum(axis=0) == 1, held.argmax(axis=0), IGNORE))
    np.testing.assert_array_equal(decided.contradicting, held.sum(axis=0) > 1)


@pytest.mark.parametrize("rule", RULES)
def test_a_box_along_pixel_edges_claims_its_pixels_and_no_other(rule: Rule) -> None:
    expected = np.full(SHAPE, IGNORE, np.uint8)
    expected[3:7, 4:9] = 1
    np.testing.assert_array_equal(classes_of(array(shapely.box(4, 3, 9, 7)), [1], rule=rule).values, expected)


def test_half_a_pixel_is_enough_and_less_is_not() -> None:
    spans = [(0, 0.5), (1, 1.3), (2, 2.5), (2.5, 3)]
    boxes = array(*(shapely.box(left, 0, right, 1) for left, right in spans))
    decided = classes_of(boxes, [0, 1, 0, 1], (1, 3))
    # The last pixel is shared in exact halves: no class covers most of it, and none contradicts the other.
    assert decided.values.tolist() == [[0, IGNORE, IGNORE]]
    assert (decided.undecided, decided.contradicting.sum()) == (1, 0)
    for least, expected in ((0.25, [0, 1, IGNORE]), (0.75, [IGNORE] * 3)):
        assert classes_of(boxes, [0, 1, 0, 1], (1, 3), min_coverage=least).values.tolist() == [expected]


@pytest.mark.parametrize(
    ("shares", "min_coverage", "expected", "undecided"),
    [
        ((0.445,), 0.5, IGNORE, 0),
        ((0.501,), 0.5, 0, 0),
        ((0.445, 0.555), 0.5, 1, 0),
        ((0.55, 0.45), 0.5, 0, 0),
        ((0.499999, 0.500001), 0.5, 1, 0),
        ((0.5, 0.5), 0.5, IGNORE, 1),
        ((0.4, 0.35, 0.25), 0.5, IGNORE, 1),
        ((0.4, 0.35, 0.25), 0.38, 0, 0),
        ((0.3, 0.1), 0.5, IGNORE, 0),
        ((0.7, 0.3), 0.8, IGNORE, 1),
    ],
)
def test_what_covers_most_is_told_by_a_hair(
    shares: tuple[float, ...], min_coverage: float, expected: int, undecided: int
) -> None:
    ends = np.cumsum([0.0, *shares])
    boxes = array(*(shapely.box(-1, top, 9, bottom) for top, bottom in itertools.pairwise(ends)))
    decided = classes_of(boxes, np.arange(len(shares)), (2, 4), min_coverage=min_coverage)
    assert decided.values.tolist() == [[expected] * 4, [IGNORE] * 4]
    assert (decided.undecided, decided.contradicting.sum()) == (4 * undecided, 0)


@given(seed=st.integers(0, 2**32 - 1), places=st.sampled_from([0, 1, 7]), tile=st.sampled_from([3, 8, 256]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_areas_are_those_of_shapely(monkeypatch: pytest.MonkeyPatch, seed: int, places: int, tile: int) -> None:
    """Outlines with corners on those of pixels and tiles too."""
    monkeypatch.setattr("lianet_user.labels.rasterize.TILE", tile)
    rounded = shapely.set_precision(shapely.set_precision(blobs(seed, 8), 10.0**-places), 0)
    polygons = rounded[~shapely.is_empty(rounded)]
    classes = np.arange(len(polygons)) % 3
    coverage = decide_coverage(split_parts(polygons), SHAPE, None)
    np.testing.assert_allclose(coverage, shares(shapely.union_all(polygons), SHAPE), atol=1e-6)
    decided = classes_of(polygons, classes)
    exact = exact_classes(list(polygons), classes.tolist(), SHAPE, near=2e-6)
    np.testing.assert_array_equal(decided.values[exact.sure], exact.values[exact.sure])
    np.testing.assert_array_equal(decided.contradicting[exact.sure], exact.contradicting[exact.sure])
    ground = (decided.labelled_ground, decided.contested_ground)
    assert ground == pytest.approx((exact.labelled, exact.contested), abs=1e-6)


@pytest.mark.parametrize("places", [1, 7])
def test_neighbours_share_pixels_without_remainder(places: int) -> None:
    seeds = np.random.default_rng(0).uniform((0, 0), (30, 20), (200, 2))
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.multipoints(seeds), extend_to=shapely.box(-9, -9, 40, 30))
    )
    cells = shapely.coverage_simplify(shapely.transform(cells, lambda points: np.round(points, places)), 0)
    decided = classes_of(cells, np.arange(200))
    own = shapely.area(shapely.intersection(cells[:, None, None], PIXELS))
    borne = np.where(own.max(axis=0) >= 0.5, own.argmax(axis=0), IGNORE)
    sure = np.abs(own.max(axis=0) - 0.5) > 1e-6
    np.testing.assert_array_equal(decided.values[sure], borne[sure])
    assert decided.undecided == pytest.approx((borne == IGNORE).sum(), abs=int((~sure).sum()))
    assert decided.labelled_ground == pytest.approx(600, abs=1e-5)
    assert decided.contested_ground == pytest.approx(0, abs=1e-5)


def test_small_objects_cover_what_they_cover() -> None:
    corners = np.random.default_rng(0).uniform((0, 0), (29, 19), (300, 2))
    objects = array(*(shapely.box(x, y, x + 0.1, y + 0.38) for x, y in corners))
    found = decide_coverage(split_parts(objects), SHAPE, None)
    assert found.sum() == pytest.approx(shapely.union_all(objects).area, rel=1e-6)


def test_a_third_class_under_two_others_is_seen() -> None:
    """Classes 0 and 2 alone would not suffice anywhere; class 1, between them in every order, would."""
    left, middle, right = shapely.box(0, 0, 0.4, 1), shapely.box(0, 0, 0.75, 1), shapely.box(0, 0, 0.4, 1)
    decided = classes_of(array(left, middle, right), [0, 1, 2], (1, 1), min_coverage=0.7)
    assert decided.values.tolist() == [[IGNORE]]
    assert decided.contradicting.all()
    assert not classes_of(array(left, middle, right), [0, 1, 2], (1, 1), min_coverage=0.8).contradicting.any()


@pytest.mark.parametrize(
    ("on_conflict", "expected", "contradicting"),
    [("ignore", [0, IGNORE, 1, IGNORE], 2), ("last", [0, 1, 1, 0], 0), ("first", [0, 0, 1, 1], 0)],
)
def test_conflicts_go_to_whom_the_user_says(on_conflict: OnConflict, expected: list[int], contradicting: int) -> None:
    # The order in the file decides, not the kind: a point comes last, and one line is there twice.
    features = array(shapely.box(0, 0, 2, 1), shapely.box(1, 0, 4, 1), shapely.Point(3.2, 0.3))
    decided = classes_of(features, [0, 1, 0], (1, 4), on_conflict=on_conflict)
    assert decided.values.tolist() == [expected]
    assert decided.contradicting.sum() == contradicting
    assert (decided.labelled_ground, decided.contested_ground) == (4, 2)


@given(seed=st.integers(0, 2**32 - 1), on_conflict=st.sampled_from(["last", "first"]))
@settings(max_examples=15)
def test_conflicts_solved_are_a_painting(seed: int, on_conflict: OnConflict) -> None:
    """With one centre per pixel, what lies on top is what was painted last."""
    features, classes = mixed(seed), np.random.default_rng(seed).integers(0, 9, 60)
    decided = classes_of(features, classes, rule="center", on_conflict=on_conflict)
    painted = np.full(SHAPE, IGNORE, np.uint8)
    for index in range(60) if on_conflict == "last" else range(59, -1, -1):
        alone = classes_of(features[[index]], classes[[index]], rule="center").values
        painted[alone != IGNORE] = classes[index]
    np.testing.assert_array_equal(decided.values, painted)
    assert not decided.contradicting.any()


def test_overlap_of_one_class_is_no_contradiction() -> None:
    decided = classes_of(array(shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3), shapely.Point(1.5, 1.5)), [0, 0, 0])
    assert (decided.values == 0).sum() == decided.labelled_ground == 7
    assert decided.contested_ground == 0


@pytest.mark.parametrize("rule", RULES)
def test_background_is_what_nothing_covers_where_all_was_mapped(rule: Rule) -> None:
    area = shapely.box(2, 2, 12, 8)
    field, blocker = shapely.box(3, 3, 5, 5), shapely.box(7, 3, 9, 5)
    road, unknown = shapely.LineString([(2, 6.5), (12, 6.5)]), shapely.Point(10.5, 2.5)
    decided = classes_of(array(field, road), [0, 1], rule=rule, blockers=array(blocker, unknown), background=(2, area))
    expected = np.full(SHAPE, IGNORE, np.uint8)
    expected[2:8, 2:12] = 2
    expected[3:5, 3:5], expected[6, 2:12] = 0, 1
    expected[3:5, 7:9], expected[2, 10] = IGNORE, IGNORE
    np.testing.assert_array_equal(decided.values, expected)
    assert decided.labelled_ground == 14
    everywhere = classes_of(array(field), [0], rule=rule, background=(2, None)).values
    assert ((everywhere == 2).sum(), (everywhere == 0).sum()) == (596, 4)


def test_blockers_take_nothing_from_labels() -> None:
    field = array(shapely.box(0, 0, 10, 10))
    bare = classes_of(field, [0])
    np.testing.assert_array_equal(classes_of(field, [0], blockers=array(shapely.box(5, 5, 15, 15))).values, bare.values)


def test_background_shares_pixels_by_the_same_rule() -> None:
    boxes = array(shapely.box(0, 0, 0.4, 1), shapely.box(1, 0, 1.6, 1), shapely.box(2, 0, 2.5, 1))
    assert classes_of(boxes, [0, 0, 0], (1, 4), background=(1, None)).values.tolist() == [[1, 0, IGNORE, 1]]


def test_no_features_at_all() -> None:
    nothing = np.array([], object)
    assert (classes_of(nothing, []).values == IGNORE).all()
    assert (classes_of(nothing, [], background=(0, None)).values == 0).all()
    assert np.isnan(numbers_of(nothing, []).values).all()
    assert (decide_coverage(split_parts(nothing), SHAPE, None) == 0).all()


def test_254_classes_are_told_apart() -> None:
    rows, cols = np.divmod(np.arange(254), 30)
    boxes = shapely.box(cols, rows, cols + 1, rows + 1)
    decided = classes_of(boxes, np.arange(254)[::-1], background=(253, None))
    np.testing.assert_array_equal(decided.values.ravel()[:254], np.arange(254)[::-1])
    assert (decided.values.ravel()[254:] == 253).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0.1, -7.3e-12, 1 / 3, 16777217.0, 0.0])
def test_a_constant_is_exactly_that_constant(value: float, rule: Rule) -> None:
    decided = numbers_of(mixed(8), np.full(60, value), rule=rule)
    labelled = np.isfinite(decided.values)
    assert labelled.sum() > 100
    assert (decided.values[labelled] == np.float32(value)).all()
    assert decided.values.dtype == np.float32
    assert decided.contested_ground == 0


def test_numbers_are_means_over_what_is_known() -> None:
    boxes = array(shapely.box(0, 0, 0.25, 1), shapely.box(0.25, 0, 1, 1), shapely.box(1, 0, 1.25, 1))
    values = numbers_of(boxes, [10, 20, 5], (1, 3)).values
    assert values[0, 0] == 17.5
    assert np.isnan(values[0, 1:]).all()
    assert numbers_of(boxes, [10, 20, 5], (1, 3), min_coverage=0.25).values[0, 1] == 5


@pytest.mark.parametrize(
    ("on_conflict", "expected"), [("ignore", [10, np.nan]), ("last", [10, 20]), ("first", [10, 10])]
)
def test_overlapping_numbers_are_contested(on_conflict: OnConflict, expected: list[float]) -> None:
    boxes = array(shapely.box(0, 0, 2, 1), shapely.box(1, 0, 2, 1))
    decided = numbers_of(boxes, [10, 20], (1, 2), on_conflict=on_conflict)
    np.testing.assert_array_equal(decided.values, [expected])
    assert decided.contradicting.tolist() == [[False, on_conflict == "ignore"]]
    assert (decided.labelled_ground, decided.contested_ground) == (2, 1)


def test_measurements_in_one_pixel_are_averaged() -> None:
    points = array(shapely.Point(0.1, 0.1), shapely.Point(0.9, 0.9), shapely.LineString([(0.2, 0.5), (1.5, 0.5)]))
    assert numbers_of(points, [1, 2, 6], (1, 2)).values.tolist() == [[3, 6]]
    # Against a polygon they stand together, and for the order in the file the last (or first) of them counts.
    among = array(points[0], shapely.box(0, 0, 1, 1), points[1])
    assert np.isnan(numbers_of(among, [1, 9, 2], (1, 1)).values).all()
    assert numbers_of(among, [1, 9, 2], (1, 1), on_conflict="last").values.tolist() == [[1.5]]
    assert numbers_of(among, [1, 9, 2], (1, 1), on_conflict="first").values.tolist() == [[1.5]]
    assert numbers_of(among[[0, 2, 1]], [1, 2, 9], (1, 1), on_conflict="last").values.tolist() == [[9]]
    assert numbers_of(among[[1, 0, 2]], [9, 1, 2], (1, 1), on_conflict="first").values.tolist() == [[9]]


def test_more_numbers_than_a_byte_holds() -> None:
    rows, cols = np.divmod(np.arange(600), 30)
    boxes = shapely.box(cols, rows, cols + 1, rows + 1)
    for count in (254, 255, 256, 600):
        decided = numbers_of(boxes[:count], np.arange(count) - 7.0)
        np.testing.assert_array_equal(decided.values.ravel()[:count], np.arange(count) - 7.0)


def test_coverage_is_the_share_of_the_union() -> None:
    polygons = np.append(blobs(9, 30), [shapely.Point(1, 1), shapely.LineString([(0, 19.5), (30, 19.5)])])
    got = decide_coverage(split_parts(polygons), SHAPE, None)
    exact = shares(shapely.union_all(blobs(9, 30)), SHAPE)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact, atol=1e-6)
    np.testing.assert_array_equal(got[exact == 0], 0)
    np.testing.assert_array_equal(got[exact > 1 - 1e-12], 1)


def test_coverage_is_unknown_where_not_all_was_mapped() -> None:
    area = shapely.box(2.001, 3, 20, 10).difference(shapely.box(5.4, 5.4, 5.45, 5.45)).union(blobs(10, 4)[3])
    got = decide_coverage(split_parts(blobs(9, 5)), SHAPE, area)
    np.testing.assert_array_equal(np.isfinite(got), shapely.covers(area, PIXELS))


def test_parts_of_nested_collections_keep_their_feature_and_order() -> None:
    point, line, square = shapely.Point(1, 1), shapely.LineString([(0, 0), (1, 1)]), shapely.box(0, 0, 1, 1)
    deep = shapely.GeometryCollection([point, shapely.GeometryCollection([line, shapely.GeometryCollection([square])])])
    both = shapely.MultiPolygon([square, shapely.box(2, 2, 3, 3)])
    parts = split_parts(
        array(square, deep, None, shapely.Polygon(), both, shapely.GeometryCollection([square, square]))
    )
    assert parts.feature.tolist() == [0, 1, 1, 1, 4, 5, 5]
    assert sorted(parts.dimension[1:4].tolist()) == [0, 1, 2]
    assert parts.geometries[4].equals(both)
    # Two squares of one feature on the same ground do not cut each other out.
    decided = classes_of(array(shapely.GeometryCollection([square, shapely.box(0, 0, 1, 1)])), [0], (1, 1))
    assert decided.values.tolist() == [[0]]


@pytest.mark.parametrize("rule", RULES)
def test_every_trace_is_found(rule: Rule) -> None:
    features, classes = mixed(11), np.arange(60) % 3
    values, numbers = (make(features, classes, rule=rule).values for make in (classes_of, numbers_of))
    of_class = touches_own(split_parts(features), classes, values, 60)
    of_any = touches_own(split_parts(features), None, numbers, 60)
    for index in range(60):
        ground = classes_of(features[[index]], [0], rule="all-touched").values == 0
        assert of_class[index] == (values[ground] == classes[index]).any()
        assert of_any[index] == np.isfinite(numbers[ground]).any()
    assert 0 < of_class.sum() < 60


def test_a_trace_in_the_middle_counts() -> None:
    """Its outline and its heart belong to others, but not all of it."""
    forest, pond = shapely.box(0, 0, 20, 20), shapely.Point(10, 10).buffer(3)
    fence = shapely.boundary(forest).buffer(2)
    features = array(forest, pond, fence)
    values = classes_of(features, [0, 1, 1]).values
    assert touches_own(split_parts(features), np.array([0, 1, 1]), values, 3).tolist() == [True, False, True]


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), min_coverage=st.sampled_from([0.1, 0.34, 0.5, 1.0]))
@settings(max_examples=50)
def test_subpixels_vote(seed: int, n: int, min_coverage: float) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.choice(np.array([0, 1, 253, IGNORE], np.uint8), (3 * n, 4 * n))
    values = classes_of_subpixels(owner, n, min_coverage)
    numbers = np.where(owner == IGNORE, np.float32(np.nan), owner.astype(np.float32))
    means = numbers_of_subpixels(numbers, n, min_coverage)
    for row in range(3):
        for col in range(4):
            inside = owner[row * n : row * n + n, col * n : col * n + n].ravel()
            known = inside[inside != IGNORE]
            counts = sorted(((int((known == index).sum()), int(index)) for index in (0, 1, 253)), reverse=True)
            borne = counts[0][0] >= min_coverage * n * n - 1e-9 and counts[0][0] > counts[1][0]
            assert values[row, col] == (counts[0][1] if borne else IGNORE)
            if len(known) >= min_coverage * n * n - 1e-9:
                assert means[row, col] == np.float32(known.astype(float).mean())
            else:
                assert np.isnan(means[row, col])


def test_clipping_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A polygon much larger than its tiles, with many holes and a ragged edge."""
    rng = np.random.default_rng(12)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 2000))
    ring = (15, 10) + rng.uniform(9, 14, (2000, 1)) * np.column_stack([np.cos(angles), np.sin(angles)])
    shape = shapely.difference(shapely.Polygon(ring), shapely.union_all(blobs(13, 40)))
    whole = classes_of(array(shape), [0]).values
    centres = classes_of(array(shape), [0], rule="center").values
    np.testing.assert_array_equal(centres == 0, shapely.contains(shape, shapely.centroid(PIXELS)))
    for size in (3, 5, 11):
        monkeypatch.setattr("lianet_user.labels.rasterize.TILE", size)
        np.testing.assert_array_equal(classes_of(array(shape), [0]).values, whole)
