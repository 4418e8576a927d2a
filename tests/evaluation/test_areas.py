"""Areas and accuracies: the published example, an interval that covers, and no figure where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
from heads import entries

from lianet_user.errors import InputError
from lianet_user.evaluation.areas import CAVEAT, COLUMNS, Estimate, estimate_areas

MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])
"""Pixels of 30 m: deforestation, forest gain, stable forest, stable non-forest (Olofsson et al. 2014)."""
SAMPLED = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
"""Rows the map's class, columns the reference's, as the paper has them."""


def pair(estimate: Estimate) -> tuple[float | None, float | None]:
    return estimate.value, estimate.half_width


def test_the_example_of_olofsson_et_al_is_reproduced() -> None:
    found = estimate_areas(SAMPLED.T, MAPPED, MAPPED * 0.09, entries(4))
    assert [each.mapped_ha for each in found.classes] == pytest.approx([18_000, 13_500, 288_000, 580_500])
    published = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    for each, area in zip(found.classes, published, strict=True):
        assert pair(each.area_ha) == pytest.approx(area, abs=1)
    assert pair(found.accuracy) == pytest.approx((0.95, 0.02), abs=0.005)
    for each, users in zip(found.classes, [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)], strict=True):
        assert pair(each.users_accuracy) == pytest.approx(users, abs=0.005)
    producers = [each.producers_accuracy.value for each in found.classes]
    assert producers == pytest.approx([0.75, 0.85, 0.93, 0.96], abs=0.005)
    assert [each.pixels for each in found.classes] == [69, 56, 175, 340]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    mapped = np.array([20_000, 60_000, 200_000])
    truth = np.array([[0.80, 0.15, 0.05], [0.08, 0.85, 0.07], [0.04, 0.06, 0.90]])  # of each stratum
    pixels = truth * mapped[:, None]
    expected = {"area": pixels.sum(0), "users": np.diag(truth), "producers": np.diag(pixels) / pixels.sum(0)}
    right = np.diag(pixels).sum() / pixels.sum()
    repeats = 2000
    covered = {name: np.zeros(3) for name in expected}
    covered_right = 0
    for _ in range(repeats):
        drawn = np.stack([rng.multinomial(600, shares) for shares in truth])
        found = estimate_areas(drawn.T, mapped, mapped * 1.0, entries(3))
        for index, each in enumerate(found.classes):
            estimates = {"area": each.area_ha, "users": each.users_accuracy, "producers": each.producers_accuracy}
            for name, estimate in estimates.items():
                covered[name][index] += covers(estimate, expected[name][index])
        covered_right += covers(found.accuracy, right)
    shares = [*np.concatenate(list(covered.values())) / repeats, covered_right / repeats]
    # Binomial noise of 2000 repeats is 0.005; normal intervals of shares near 0.9 cover a little less than they say.
    assert min(shares) > 0.93
    assert max(shares) < 0.97
    assert np.mean(shares) == pytest.approx(0.95, abs=0.01)


def covers(estimate: Estimate, truth: float) -> bool:
    assert estimate.value is not None
    assert estimate.half_width is not None
    return abs(estimate.value - truth) <= estimate.half_width


def test_adjusted_areas_sum_to_the_map() -> None:
    found = estimate_areas(SAMPLED.T, MAPPED, MAPPED * 0.09, entries(4))
    assert sum(each.area_ha.value or 0 for each in found.classes) == pytest.approx(MAPPED.sum() * 0.09)


def test_a_stratum_without_labels_leaves_only_the_others_users_accuracies() -> None:
    sampled = SAMPLED.copy()
    sampled[1] = 0
    found = estimate_areas(sampled.T, MAPPED, MAPPED * 0.09, entries(4))
    whole = estimate_areas(SAMPLED.T, MAPPED, MAPPED * 0.09, entries(4))
    assert pair(found.accuracy) == (None, None)
    for index, (each, complete) in enumerate(zip(found.classes, whole.classes, strict=True)):
        assert pair(each.area_ha) == pair(each.producers_accuracy) == (None, None)
        assert each.mapped_ha == complete.mapped_ha
        assert each.users_accuracy == (Estimate(None, None) if index == 1 else complete.users_accuracy)


def test_a_class_that_is_not_mapped_may_have_an_area() -> None:
    sampled = np.array([[40, 5, 5], [3, 45, 2], [0, 0, 0]])
    found = estimate_areas(sampled.T, np.array([1000, 3000, 0]), np.array([1000, 3000, 0]) * 0.01, entries(3))
    unmapped = found.classes[2]
    assert unmapped.area_ha.value == pytest.approx((1000 * 0.1 + 3000 * 0.04) / 100)
    assert unmapped.area_ha.half_width is not None
    assert pair(unmapped.users_accuracy) == (None, None)
    assert pair(unmapped.producers_accuracy) == (0.0, None)
    assert found.accuracy.value == pytest.approx((1000 * 0.8 + 3000 * 0.9) / 4000)


def test_a_class_that_no_label_bears_has_no_area_rather_than_none_of_it() -> None:
    sampled = np.array([[40, 5, 0], [3, 45, 0], [2, 8, 0]])
    found = estimate_areas(
        sampled.T, np.array([1000, 3000, 500]), np.array([1000, 3000, 500]) * 0.01, entries(3)
    ).classes[2]
    assert (found.pixels, found.mapped_ha) == (0, 5.0)
    assert pair(found.area_ha) == pair(found.producers_accuracy) == (None, None)
    assert pair(found.users_accuracy) == (0.0, None)


def test_labels_that_agree_without_exception_or_stand_alone_give_no_width() -> None:
    agreeing = estimate_areas(np.diag([10, 20]), np.array([1000, 3000]), np.array([1000, 3000]) * 0.01, entries(2))
    assert pair(agreeing.accuracy) == (1.0, None)
    assert [pair(each.area_ha) for each in agreeing.classes] == [(10.0, None), (30.0, None)]
    alone = estimate_areas(
        np.array([[1, 5], [0, 15]]), np.array([1000, 3000]), np.array([1000, 3000]) * 0.01, entries(2)
    )
    assert alone.accuracy.value == pytest.approx(0.25 + 0.75 * 0.75)
    assert alone.accuracy.half_width is None
    assert alone.classes[0].area_ha.half_width is None
    assert alone.classes[1].users_accuracy.half_width is not None


def test_rows_and_json_say_what_is_known_and_what_is_not() -> None:
    found = estimate_areas(
        np.array([[40, 0], [10, 20]]), np.array([150_000, 3000]), np.array([150_000, 3000]) * 0.01, entries(2)
    )
    first, second = found.rows()
    assert len(first) == len(second) == len(COLUMNS)
    assert first == ("class 0", "40", "1,500.0", "1,200.0 ± 168.0", "0.800 ± 0.112", "1.000 ± ?")
    assert second[4] == "1.000 ± ?"
    assert Estimate(None, None).text(3) == "-"
    told = found.as_dict()
    assert (told["confidence"], told["caveat"]) == (0.95, CAVEAT)
    assert told["classes"][0]["area_ha"]["value"] == pytest.approx(1200)
    assert told["classes"][1]["users_accuracy"] == {"value": 1.0, "half_width": None}


def test_counts_of_two_maps_are_refused() -> None:
    with pytest.raises(InputError, match="50 labelled pixels were mapped as class 1, and the map has 7 of it"):
        estimate_areas(
            np.array([[40, 20], [10, 30]]), np.array([150_000, 7]), np.array([150_000, 7]) * 0.01, entries(2)
        )
    with pytest.raises(InputError, match="no pixel with a class"):
        estimate_areas(np.zeros((2, 2), np.int64), np.zeros(2, np.int64), np.zeros(2), entries(2))
