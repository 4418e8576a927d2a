"""Refining: measured means are kept, and a window equals its part of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from lianet_user.imagery.grids import MARGIN, REACH, block_all, block_mean, fill, refine


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_refining_keeps_means_and_does_not_copy_blocks(factor: int) -> None:
    coarse = np.random.default_rng(0).random((9, 13), np.float32)
    fine = refine(coarse, factor)
    assert fine.shape == (9 * factor, 13 * factor)
    np.testing.assert_allclose(block_mean(fine, factor), coarse, atol=1e-6)
    # Steps inside blocks and between them are alike, which copied pixels' would not be.
    steps = np.abs(np.diff(fine, axis=1))
    between = steps[:, factor - 1 :: factor].mean()
    inside = np.delete(steps, np.s_[factor - 1 :: factor], axis=1).mean()
    assert 0.3 < inside / between < 3


def test_refining_keeps_a_plane_a_plane() -> None:
    rows, cols = np.mgrid[:48, :72].astype(np.float32)
    plane = 0.2 + 0.003 * rows + 0.002 * cols
    fine = refine(block_mean(plane, 6), 6)
    inner = (slice(12, -12), slice(12, -12))  # outside of it the plane is not known to go on
    np.testing.assert_allclose(fine[inner], plane[inner], atol=3e-4)


def test_refining_by_one_changes_nothing() -> None:
    band = np.random.default_rng(0).random((5, 7), np.float32)
    assert np.array_equal(refine(band, 1), band)


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_a_window_with_its_reach_is_refined_like_the_whole(factor: int) -> None:
    coarse = np.random.default_rng(1).random((30, 40), np.float32)
    rows, cols = slice(7, 19), slice(11, 30)
    grown = coarse[rows.start - REACH : rows.stop + REACH, cols.start - REACH : cols.stop + REACH]
    inner = slice(REACH * factor, -REACH * factor)
    fine = refine(coarse, factor)[rows.start * factor : rows.stop * factor, cols.start * factor : cols.stop * factor]
    np.testing.assert_allclose(refine(grown, factor)[inner, inner], fine, atol=1e-6)
    less = REACH - 1  # and no less will do
    grown = coarse[rows.start - less : rows.stop + less, cols.start - less : cols.stop + less]
    inner = slice(less * factor, -less * factor)
    assert np.abs(refine(grown, factor)[inner, inner] - fine).max() > 1e-5


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_window_is_refined_as_the_whole_is(share: float) -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        coarse = generator.random((45, 45), np.float32)
        measured = generator.random((45, 45)) < share
        whole = refine(fill(coarse, measured), 2)
        grown = slice(15 - MARGIN, 25 + MARGIN)
        part = refine(fill(coarse[grown, grown], measured[grown, grown]), 2)[
            MARGIN * 2 : -MARGIN * 2, MARGIN * 2 : -MARGIN * 2
        ]
        held = measured[15:25, 15:25].repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(part[held], whole[30:50, 30:50][held], atol=1e-6)


def test_filling_takes_the_nearest_measurement_and_keeps_all_others() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    measured = np.ones((3, 4), bool)
    assert fill(values, measured) is values
    measured[:, 2:] = False
    assert np.array_equal(fill(values, measured), values[:, [0, 1, 1, 1]])


def test_filling_from_nothing_gives_zeros() -> None:
    assert not fill(np.ones((3, 4), np.float32), np.zeros((3, 4), bool)).any()


def test_a_block_is_true_only_if_all_of_it_is() -> None:
    values = np.ones((4, 6), bool)
    values[3, 0] = False
    assert np.array_equal(block_all(values, 2), [[True, True, True], [False, True, True]])
    assert block_all(values, 1) is values
