"""Splits: every pixel has one fate, buffers are as wide as they say, and every class is on both sides where it can be."""

from __future__ import annotations

import dataclasses
import datetime as dt
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from factories import RegionHeaderFactory, labels_on
from hypothesis import given
from hypothesis import strategies as st
from label_files import UTM, Make, moved, vector, written
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import distance_transform_cdt

from lianet_user.errors import LabelError, LabelWarning, TrainingWarning
from lianet_user.files.header import IGNORE, ClassEntry, RegionHeader
from lianet_user.geo.grid import Window, whole
from lianet_user.labels import BLOCK, LabelMap, Labels, Split, read_test_area, split_folds, split_labels
from lianet_user.labels.split import count_zones, strata_of

BoolArray = NDArray[np.bool_]
DATES = dt.date(2017, 2, 16), dt.date(2017, 3, 16)
ORIGIN = Affine(10.0, 0.0, 330_000.0, 0.0, -10.0, 5_820_000.0)


def grid(height: int, width: int) -> GeoBox:
    return GeoBox((height, width), ORIGIN, "EPSG:32633")


def classes_of(values: np.ndarray, classes: int) -> Labels:
    entries = [ClassEntry(name=f"class {n}", color=f"#0000{n:02x}") for n in range(classes)]
    return labels_on(grid(*values.shape), values, entries)


def numbers_of(values: np.ndarray) -> Labels:
    labels = classes_of(np.full(values.shape, IGNORE), 2)
    maps = (LabelMap(values.astype(np.float32), DATES[:1]),)
    return dataclasses.replace(labels, task="regression", classes=(), maps=maps)


def patches(height: int, width: int, classes: int, seed: int, count: int = 60) -> Labels:
    """Small labelled rectangles here and there, most of the map without a label."""
    rng = np.random.default_rng(seed)
    values = np.full((height, width), IGNORE)
    for number in range(count):
        row, col = rng.integers(height), rng.integers(width)
        values[row : row + rng.integers(1, 25), col : col + rng.integers(1, 25)] = number % classes
    return classes_of(values, classes)


def mosaic(height: int, width: int, classes: int, seed: int, patch: int = 10) -> Labels:
    """A label on every pixel, in square patches."""
    patches = np.random.default_rng(seed).integers(0, classes, (-(-height // patch), -(-width // patch)))
    return classes_of(patches.repeat(patch, 0).repeat(patch, 1)[:height, :width], classes)


def side_by_side() -> Labels:
    """Two blocks of 16 px with labels, beside each other."""
    values = np.full((40, 40), IGNORE)
    values[:16, :32] = np.arange(32) // 4 % 2
    return classes_of(values, 2)


def rectangle(shape: tuple[int, int], rows: slice, cols: slice = slice(None)) -> BoolArray:
    """Ground that is set aside."""
    ground = np.zeros(shape, bool)
    ground[rows, cols] = True
    return ground


def window_of(labels: Labels) -> Window:
    return whole(grid(*(size // labels.scale for size in labels.maps[0].values.shape)))


def kept_ground(split: Split) -> BoolArray:
    """The kept blocks pixel by pixel."""
    height, width = split.shape
    return split.validation.repeat(split.block, 0).repeat(split.block, 1)[:height, :width]


def far_from(ground: BoolArray, buffer: int) -> BoolArray:
    """Further than `buffer` from some ground, rows and columns counting alike."""
    return ~ground if ground.all() or not ground.any() else distance_transform_cdt(~ground, "chessboard") > buffer


def blocks_with(labels: Labels, block: int, index: int | None = None) -> set[tuple[int, int]]:
    """Blocks that hold labels, or those of one class."""
    values = labels.maps[0].values
    rows, cols = np.nonzero(labels.maps[0].labelled if index is None else values == index)
    return set(zip((rows // block).tolist(), (cols // block).tolist(), strict=True))


def blocks_of(split: Split) -> set[tuple[int, int]]:
    return {(row, col) for row, col in np.argwhere(split.validation).tolist()}


# --- grounds


@st.composite
def splits(draw: st.DrawFn) -> Split:
    shape = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    block = draw(st.integers(8, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    validation = rng.random((-(-shape[0] // block), -(-shape[1] // block))) < draw(st.sampled_from([0.0, 0.1, 0.3]))
    test = None
    if draw(st.booleans()):
        test = np.zeros(shape, bool)
        row, col = rng.integers(shape[0]), rng.integers(shape[1])
        test[row : row + rng.integers(1, 30), col : col + rng.integers(1, 30)] = True
    return Split(shape, block, validation, draw(st.integers(0, 25)), test)


@given(splits())
def test_every_pixel_has_one_fate_and_buffers_are_as_wide_as_they_say(split: Split) -> None:
    window = Window(0, 0, *split.shape)
    trained, validated, tested = split.trained(window), split.validated(window), split.tested(window)
    assert not (trained & validated | trained & tested | validated & tested).any()
    kept, test = kept_ground(split), np.zeros(split.shape, bool) if split.test is None else split.test
    assert np.array_equal(tested, test)
    assert np.array_equal(validated, kept & far_from(test, split.buffer))
    assert np.array_equal(trained, far_from(kept | test, split.buffer))


@given(splits(), st.data())
def test_windows_see_what_the_whole_region_sees(split: Split, data: st.DataObject) -> None:
    (height, width), whole_region = split.shape, Window(0, 0, *split.shape)
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    for ground in (split.trained, split.validated, split.tested):
        assert np.array_equal(ground(window), ground(whole_region)[window.slices])


# --- one split


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("buffer", [0, 10])
def test_every_class_is_trained_on_and_validated_about_as_much_as_asked(seed: int, buffer: int) -> None:
    labels = patches(4 * BLOCK + 17, 6 * BLOCK - 30, 5, seed)
    split = split_labels(labels, share=0.25, seed=seed, buffer=buffer)
    assert (split.shape, split.block, split.buffer) == (labels.maps[0].values.shape, BLOCK, buffer)
    assert split.validation.shape == (5, 6)
    trained, validated = split.trained(window_of(labels)), split.validated(window_of(labels))
    assert len(blocks_with(labels, BLOCK)) > 10
    shares = []
    for index in range(5):
        pixels = labels.maps[0].values == index
        assert (pixels & trained).any()
        assert (pixels & validated).any()
        shares.append((pixels & validated).sum() / pixels.sum())
    assert np.mean(shares) == pytest.approx(0.25, abs=0.1)


def test_only_blocks_with_labels_are_validated_on() -> None:
    labels = patches(6 * BLOCK, 6 * BLOCK, 2, 0, count=12)
    split = split_labels(labels, share=0.3)
    assert blocks_of(split) < blocks_with(labels, split.block)


def test_a_split_is_drawn_from_its_seed() -> None:
    labels = patches(6 * BLOCK, 6 * BLOCK, 3, 0)
    first, again, *others = (split_labels(labels, seed=seed).validation for seed in (1, 1, 2, 3, 4, 5))
    assert np.array_equal(first, again)
    assert any(not np.array_equal(first, other) for other in others)


def one_block_each(rows: int, cols: int, common: bool) -> Labels:
    """A class of its own in every block but the last row's, and with `common` one class in all blocks."""
    values = np.full((rows * BLOCK, cols * BLOCK), IGNORE)
    classes = 0
    for row in range(rows):
        for col in range(cols):
            top, left = row * BLOCK, col * BLOCK
            if common:
                values[top : top + 40, left : left + 40] = 0
            if not common or row < rows - 1:
                classes += 1
                values[top : top + 40, left : left + 10] = classes - (0 if common else 1)
    return classes_of(values, classes + common)


@pytest.mark.parametrize("seed", range(4))
def test_a_class_in_one_block_is_warned_of_and_trained_on(seed: int) -> None:
    # 20 of 25 blocks hold the only labels of a class: nearly every random draw takes one of them.
    labels = one_block_each(5, 5, common=True)
    with pytest.warns(TrainingWarning, match=r"class 1, .*class 20 lie in a single block of 128 px: trained on"):
        split = split_labels(labels, seed=seed)
    trained = split.trained(window_of(labels))
    for index in range(1, 21):
        assert not blocks_with(labels, BLOCK, index) & blocks_of(split)
        assert (trained & (labels.maps[0].values == index)).any()
    assert split.validation.any()


def test_a_class_that_no_draw_could_validate_is_warned_of() -> None:
    # One block of ten is kept: it cannot hold both rare classes.
    values = np.full((BLOCK, 10 * BLOCK), 0)
    values[:50, : 2 * BLOCK] = 1
    values[:50, 4 * BLOCK : 6 * BLOCK] = 2
    with pytest.warns(TrainingWarning, match=r"no block of 128 px with labels of class [12] could be kept"):
        split_labels(classes_of(values, 3), share=0.1, block=BLOCK)


def test_labels_of_which_no_block_can_be_spared_are_refused() -> None:
    with pytest.raises(LabelError, match="every block with labels holds the only ones of some class"):
        split_labels(one_block_each(1, 3, common=False), share=0.3, block=BLOCK)


@pytest.mark.parametrize(
    ("size", "asked"),
    [
        pytest.param(BLOCK, {"block": BLOCK}, id="a whole block of labels"),
        pytest.param(16, {}, id="so few labels that no smaller blocks would help"),
    ],
)
def test_labels_within_one_block_are_refused(size: int, asked: dict[str, int]) -> None:
    values = np.full((3 * BLOCK, 3 * BLOCK), IGNORE)
    values[BLOCK : BLOCK + size, BLOCK : BLOCK + size] = np.arange(size) % 2
    with pytest.raises(LabelError, match="within one block of 128 x 128 pixels"):
        split_labels(classes_of(values, 2), **asked)  # type: ignore[arg-type]


# --- blocks


@pytest.mark.parametrize(
    ("height", "width", "block"), [(300, 500, 128), (300, 300, 64), (100, 100, 32), (64, 70, 16), (33, 40, 16)]
)
def test_small_regions_get_small_blocks(height: int, width: int, block: int) -> None:
    values = np.random.default_rng(0).normal(size=(height, width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        split = split_labels(numbers_of(values))
    assert split.block == block
    assert split.trained(Window(0, 0, height, width)).any()
    assert split.validated(Window(0, 0, height, width)).any()


def test_blocks_are_halved_as_far_as_that_brings_more_of_them() -> None:
    values = np.full((4 * BLOCK, 4 * BLOCK), IGNORE)
    # Three places in three blocks, one of which is cut by the edge between two of 64 px.
    for row, col in ((10, 10), (200, 190), (300, 300)):
        values[row : row + 4, col : col + 4] = np.arange(4) % 2
    assert split_labels(classes_of(values, 2), buffer=0).block == 64


def test_a_block_that_is_given_is_taken() -> None:
    labels = patches(200, 300, 3, 0)
    split = split_labels(labels, block=50, share=0.3)
    assert (split.block, split.validation.shape) == (50, (4, 6))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"block": 7}, "`block` 7: expected 8 pixels or more"),
        ({"buffer": -1}, "buffer of -1 pixels .* expected 0 or more"),
        ({"share": 0.0}, "`share` 0 of the blocks .* more than 0 and less than 1"),
        ({"share": 1.0}, "`share` 1 of the blocks"),
        ({"test": np.zeros((200, 299), bool)}, "test area of 200 x 299 pixels: expected the region's 200 x 300"),
    ],
)
def test_numbers_out_of_range_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        split_labels(patches(200, 300, 3, 0), **asked)  # type: ignore[arg-type]


# --- buffers


@given(
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    block=st.integers(8, 40),
    buffer=st.integers(0, 50),
    seed=st.integers(0, 2**32),
)
def test_zones_count_what_a_buffer_leaves(height: int, width: int, block: int, buffer: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = patches(height, width, 3, seed, count=12)
    away = rng.random((height, width)) < 0.1
    zones = count_zones(labels, block, buffer, away)
    kept = rng.random(len(zones.blocks)) < 0.2
    split = Split((height, width), block, zones.mask(kept), buffer)
    window = Window(0, 0, height, width)

    def counts(ground: BoolArray) -> list[int]:
        return np.bincount(labels.maps[0].values[ground & labels.maps[0].labelled & ~away], minlength=3).tolist()

    assert zones.totals.tolist() == counts(np.ones((height, width), bool))
    assert zones.left(kept).tolist() == counts(split.trained(window))
    assert zones.inside[kept].sum(0).tolist() == counts(split.validated(window))


@pytest.mark.parametrize("seed", range(6))
def test_every_class_keeps_pixels_outside_the_buffer(seed: int) -> None:
    # 16 px blocks in a small region: a buffer of 10 px reaches over more than half of every neighbour.
    labels = patches(96, 96, 4, seed, count=40)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no block of", TrainingWarning)
        split = split_labels(labels, seed=seed)
    assert (split.block, split.buffer) == (32, 10) or split.block == 16
    trained = split.trained(window_of(labels))
    assert all((trained & (labels.maps[0].values == index)).any() for index in range(4))


def test_a_buffer_that_leaves_nothing_to_train_on_is_halved_with_a_warning() -> None:
    labels = side_by_side()
    # A buffer of 16 px takes all of the other one; of 8, half of it.
    with pytest.warns(TrainingWarning, match=r"a buffer of 33 px .* would leave nothing of some class .* it is 8 px"):
        split = split_labels(labels, buffer=33, block=16)
    assert split.buffer == 8
    assert split.trained(window_of(labels))[:16, :32].sum() == 16 * 8
    assert split_labels(labels, buffer=11, block=16).buffer == 11


# --- test areas


@pytest.mark.parametrize(("block", "buffer"), [(128, 10), (64, 10), (32, 8), (16, 4)])
def test_small_blocks_have_small_buffers_unless_one_is_asked_for(block: int, buffer: int) -> None:
    labels = mosaic(400, 500, 3, 0)
    assert split_labels(labels, block=block).buffer == buffer
    assert split_folds(labels, 3, block=block)[0].buffer == buffer
    assert split_labels(labels, block=block, buffer=1).buffer == 1


def test_ground_set_aside_takes_no_part() -> None:
    labels = mosaic(400, 500, 3, 0)
    test = rectangle((400, 500), slice(130, 270), slice(100, 420))
    split = split_labels(labels, test=test, block=32, buffer=10)
    masks = [ground(window_of(labels)) for ground in (split.trained, split.validated)]
    assert all((far_from(test, 10) | ~mask).all() for mask in masks)
    # No block is drawn in which only set-aside ground or the buffer around it holds labels.
    usable = far_from(test, split.buffer)
    assert all(usable[32 * row : 32 * row + 32, 32 * col : 32 * col + 32].any() for row, col in blocks_of(split))
    # What is drawn does not depend on the labels there.
    other = labels.maps[0].values.copy()
    other[~usable & ~test] = IGNORE
    again = split_labels(classes_of(other, 3), test=test, block=32, buffer=10)
    assert np.array_equal(split.validation, again.validation)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (slice(120, 180), "test area of 18,000 pixels holds no labels"),
        (slice(120, None), r"test area holds all labelled pixels of class 1 \(30,000\): leave some"),
        (slice(None), "test area holds all 60,000 labelled pixels"),
    ],
)
def test_test_areas_that_do_not_suit_are_refused(rows: slice, message: str) -> None:
    values = np.full((300, 300), IGNORE)
    values[:100], values[200:] = 0, 1
    with pytest.raises(LabelError, match=message):
        split_labels(classes_of(values, 2), test=rectangle((300, 300), rows))


def test_the_buffer_around_a_test_area_is_halved_before_it_takes_a_class() -> None:
    values = np.full((200, 200), 0)
    values[100:104, :80] = 1
    test = rectangle((200, 200), slice(104, 140))
    # All of class 1 lies within 4 px of the test area.
    with pytest.warns(TrainingWarning, match="10 px .* would leave nothing of some class .* it is 2 px"):
        split = split_labels(classes_of(values, 2), test=test, block=16, buffer=10)
    assert split.buffer == 2


# --- numbers, dates, finer grids, large maps


def test_numbers_are_split_so_that_both_parts_hold_low_and_high_ones() -> None:
    labelled = patches(6 * BLOCK, 6 * BLOCK, 1, 0).maps[0].labelled
    east = np.arange(6 * BLOCK, dtype=np.float32)[None, :].repeat(6 * BLOCK, 0)
    numbers = np.where(labelled, east, np.nan)
    split = split_labels(numbers_of(numbers), share=0.25)
    validated = numbers[split.validated(Window(0, 0, *numbers.shape)) & labelled]
    assert np.quantile(validated, 0.1) < 0.25 * 6 * BLOCK
    assert np.quantile(validated, 0.9) > 0.75 * 6 * BLOCK


@given(st.lists(st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60))
def test_strata_of_numbers_are_never_empty_and_keep_their_order(numbers: list[float]) -> None:
    strata = strata_of(numbers_of(np.array([numbers])))
    stratum = strata.of(np.array(sorted(numbers), np.float32))
    assert set(stratum.tolist()) == set(range(len(strata.names)))
    assert (np.diff(stratum) >= 0).all()
    assert len(strata.names) <= min(5, len(set(numbers)))


def test_labels_of_several_dates_are_split_together() -> None:
    labels = patches(3 * BLOCK, 6 * BLOCK, 3, 0)
    values = labels.maps[0].values
    west = np.where(np.arange(values.shape[1]) < 300, values, IGNORE).astype(np.uint8)
    east = np.where(np.arange(values.shape[1]) < 300, IGNORE, values).astype(np.uint8)
    parted = dataclasses.replace(labels, maps=(LabelMap(west, DATES[:1]), LabelMap(east, DATES[1:])))
    assert np.array_equal(split_labels(parted).validation, split_labels(labels).validation)


def test_labels_on_a_finer_grid_are_split_on_the_regions() -> None:
    labels = patches(3 * BLOCK, 5 * BLOCK - 11, 3, 0)
    values = labels.maps[0].values.repeat(4, 0).repeat(4, 1)
    fine = dataclasses.replace(labels, scale=4, maps=(LabelMap(values, DATES[:1]),))
    test = rectangle(labels.maps[0].values.shape, slice(40, 150), slice(30, 290))
    coarse_split, fine_split = (split_labels(each, test=test) for each in (labels, fine))
    assert fine_split.shape == coarse_split.shape == (3 * BLOCK, 5 * BLOCK - 11)
    assert np.array_equal(fine_split.validation, coarse_split.validation)


def test_a_large_map_is_counted_strip_by_strip() -> None:
    labels = mosaic(3000, 2900, 6, 0, patch=50)
    tracemalloc.start()
    split_labels(labels)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * labels.maps[0].values.size


# --- folds


@pytest.mark.parametrize(("folds", "seed"), [(2, 0), (5, 1), (10, 2)])
def test_folds_share_out_the_labelled_blocks(folds: int, seed: int) -> None:
    labels = patches(5 * BLOCK + 9, 6 * BLOCK - 30, 3, seed, count=200)
    splits = split_folds(labels, folds, seed=seed)
    assert len(splits) == folds
    assert len({split.block for split in splits}) == 1
    assert np.stack([split.validation for split in splits]).sum(0).max() == 1
    assert set().union(*map(blocks_of, splits)) == blocks_with(labels, splits[0].block)
    assert min(len(blocks_of(split)) for split in splits) >= 1


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_spread_over_the_folds_more_evenly_than_by_chance(seed: int) -> None:
    labels = patches(800, 900, 5, seed, count=300)
    values, window = labels.maps[0].values, window_of(labels)
    splits = split_folds(labels, 5, seed=seed)

    def unevenness(grounds: list[BoolArray]) -> float:
        table = np.array([[(ground & (values == n)).sum() for n in range(5)] for ground in grounds])
        assert (table.sum(0) == [(values == n).sum() for n in range(5)]).all()
        return float(np.abs(table / table.sum(0) - 1 / 5).sum())

    dealt = unevenness([split.validated(window) for split in splits])
    rng, block = np.random.default_rng(seed), splits[0].block
    by_chance = []
    for _ in range(30):
        fold = rng.integers(0, 5, splits[0].validation.shape).repeat(block, 0).repeat(block, 1)[:800, :900]
        by_chance.append(unevenness([fold == n for n in range(5)]))
    assert dealt < min(by_chance)
    for split in splits:
        trained = split.trained(window)
        assert all((trained & (values == n)).any() for n in range(5))


@pytest.mark.parametrize("seed", range(4))
def test_rare_classes_are_in_as_many_folds_as_they_have_blocks(seed: int) -> None:
    # Class 0 everywhere; two classes in ten blocks of sixty each, in five of them both, and one in three.
    cells = np.random.default_rng(seed).permutation(60)
    values = np.zeros((6 * 32, 10 * 32), int)
    for index, blocks in ((1, cells[:10]), (2, cells[5:15]), (3, cells[20:23])):
        for row, col in zip(*np.divmod(blocks, 10), strict=True):
            top, left = 32 * row + 3 * index, 32 * col + 3 * index
            values[top : top + 3, left : left + 8] = index
    labels = classes_of(values, 4)
    with pytest.warns(TrainingWarning, match=r"labels of class 3 \(3\): not validated in every fold"):
        splits = split_folds(labels, 10, block=32, buffer=0, seed=seed)
    for index, folds in ((1, 10), (2, 10), (3, 3)):
        validated = [split.validated(window_of(labels)) & (values == index) for split in splits]
        assert sum(mask.any() for mask in validated) == folds
    assert max(len(blocks_of(split)) for split in splits) <= 8


@pytest.mark.filterwarnings("ignore::lianet_user.errors.TrainingWarning")
def test_no_fold_is_empty() -> None:
    splits = split_folds(one_block_each(2, 3, common=False), 6, block=BLOCK)
    assert [len(blocks_of(split)) for split in splits] == [1] * 6


def test_folds_are_dealt_from_their_seed() -> None:
    labels = patches(800, 900, 3, 0, count=200)
    first, again, other = ([split.validation for split in split_folds(labels, 4, seed=seed)] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_folds_get_smaller_blocks_until_there_are_four_for_each() -> None:
    values = np.random.default_rng(0).normal(size=(256, 256))
    assert split_folds(numbers_of(values), 2)[0].block == 64
    assert split_folds(numbers_of(values), 5)[0].block == 32


def test_a_class_in_fewer_blocks_than_folds_is_named() -> None:
    values = np.full((4 * BLOCK, 4 * BLOCK), 0)
    values[5:40, 5:40] = 1
    values[300:340, 5:40] = 1
    values[200:240, 200:240] = 2
    with pytest.warns(TrainingWarning) as caught:
        splits = split_folds(classes_of(values, 3), 4, block=BLOCK)
    said = [str(each.message) for each in caught]
    assert len(said) == 2
    assert "fewer blocks of 128 px than 4 folds hold labels of class 1 (2), class 2 (1)" in said[0]
    assert "a fold leaves no labels of class 2 to train on" in said[1]
    holding = [blocks_of(split) & {(0, 0), (2, 0)} for split in splits]
    assert sorted(map(len, holding)) == [0, 0, 1, 1]


def test_a_test_area_is_in_no_fold() -> None:
    labels = mosaic(256, 256, 2, 0)
    test = rectangle((256, 256), slice(100), slice(100))
    splits = split_folds(labels, 4, test=test)
    validated = np.stack([split.validated(window_of(labels)) for split in splits])
    assert np.array_equal(validated.sum(0), far_from(test, 10).astype(int))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (1, "`folds` 1: expected 2 or more"),
        (5, "lie in 4 blocks of 64 x 64 pixels, too few for 5 folds: take fewer folds"),
    ],
)
def test_too_few_blocks_for_the_folds_are_refused(folds: int, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        split_folds(mosaic(128, 128, 2, 0), folds, block=64)


def test_folds_of_labels_side_by_side_have_a_narrower_buffer() -> None:
    with pytest.warns(TrainingWarning, match=r"a buffer of 16 px .* it is 8 px"):
        splits = split_folds(side_by_side(), 2, buffer=16, block=16)
    assert [split.buffer for split in splits] == [8, 8]


# --- the file of a test area


@pytest.fixture
def region(region_header: RegionHeaderFactory) -> RegionHeader:
    return region_header(geobox=grid(60, 80))


def star(x: float, y: float, radius: float) -> shapely.Polygon:
    angles = np.linspace(0, 2 * np.pi, 11)[:-1]
    reach = radius * np.where(np.arange(10) % 2, 0.4, 1.0)
    return shapely.Polygon(np.column_stack([x + reach * np.cos(angles), y + reach * np.sin(angles)]))


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_a_pixel_is_set_aside_if_its_centre_lies_inside(crs: str, region: RegionHeader, tmp_path: Path) -> None:
    # The second reaches beyond the region, the third overlaps the first.
    shapes = star(330_300, 5_819_700, 187), star(330_790, 5_819_410, 143), star(330_350, 5_819_650, 91)
    mask = read_test_area(written(tmp_path / "area.gpkg", [moved(shape, UTM, crs) for shape in shapes], crs), region)
    rows, cols = np.mgrid[:60, :80]
    x, y = ORIGIN @ (cols + 0.5, rows + 0.5)
    expected = shapely.contains_xy(shapely.union_all(shapes), x, y)
    assert mask.dtype == bool
    assert expected.sum() > 300
    # Coordinates are rounded on their way through another CRS: the closest call here is far from that.
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (vector("area.gpkg", [star(330_300, 5_819_700, 100)], crs=None), "no coordinate reference system"),
        (vector("area.gpkg", [shapely.Point(330_300, 5_819_700)]), "no layer with polygons"),
        (vector("area.gpkg", [star(430_300, 5_819_700, 100)]), "the area lies outside the region"),
        (vector("area.gpkg", [shapely.box(330_301, 5_819_701, 330_304, 5_819_704)]), "the centre of no pixel"),
    ],
)
def test_areas_that_hold_nothing_are_refused(make: Make, message: str, region: RegionHeader, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=message):
        read_test_area(make(tmp_path), region)


def test_what_is_no_polygon_is_left_out_with_a_warning(region: RegionHeader, tmp_path: Path) -> None:
    shapes = shapely.box(330_100, 5_819_700, 330_200, 5_819_800), shapely.Point(330_500, 5_819_700)
    path = written(tmp_path / "area.geojson", shapes)
    with pytest.warns(LabelWarning, match="1 of 2 features .* are not polygons and are left out"):
        mask = read_test_area(path, region)
    assert mask.sum() == 100
