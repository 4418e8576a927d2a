"""Estimating moments from others: weights against the textbook, and what estimates must never do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lianet_user.field.config import KrigedTime, TemporalCovariance
from lianet_user.field.encoding import TimeCodes, covariance, kriging_weights, left_out_weights

MODEL = TemporalCovariance()
moments = st.lists(st.floats(0, 3000), min_size=2, max_size=12, unique_by=lambda day: round(day))


@given(known=moments, wanted=st.floats(0, 3000))
def test_weights_solve_the_system_of_ordinary_kriging(known: list[float], wanted: float) -> None:
    """The textbook's: covariances with a row and a column of ones, and a multiplier (Cressie 1993, section 3.2)."""
    count = len(known)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = covariance(known, known, MODEL) + MODEL.scene * np.eye(count)
    system[count, count] = 0.0
    right = np.append(covariance(known, [wanted], MODEL), 1.0)
    weights = kriging_weights(known, [wanted], MODEL)[0]
    np.testing.assert_allclose(weights, np.linalg.solve(system, right)[:count], atol=1e-8)
    assert weights.sum() == pytest.approx(1.0)


def test_a_moment_is_left_out_of_its_own_estimate() -> None:
    days = [0.0, 30.0, 365.0, 500.0]
    weights = left_out_weights(days, MODEL)
    assert (np.diag(weights) == 0).all()
    np.testing.assert_allclose(weights.sum(1), 1.0)
    np.testing.assert_allclose(weights[1, [0, 2, 3]], kriging_weights([0.0, 365.0, 500.0], [30.0], MODEL)[0])
    assert (left_out_weights([5.0], MODEL) == 0).all()


def test_the_same_season_and_the_last_weeks_tell_most() -> None:
    weights = kriging_weights([0.0, 182.0, 365.0, 547.0], [730.0], MODEL)[0]
    assert weights.argmax() == 2
    assert weights[0] > weights[1]
    near = kriging_weights([0.0, 700.0, 720.0], [730.0], MODEL)[0]
    assert near.argmax() == 2


def test_codes_are_read_at_acquisitions_and_estimated_elsewhere() -> None:
    days = (10.0, 40.5, 380.0)
    codes = TimeCodes(KrigedTime(kind="kriged", days=days, codes=2))
    at = torch.tensor([40.5, 10.0, 40.5, 200.0], dtype=torch.float64)
    with torch.no_grad():
        found = codes(at)
        own, left_out = codes(at[:3]), codes(at[:3], torch.tensor([False, False, True]))
    weight = codes.weight.detach()
    assert torch.equal(found[:3], weight[[1, 0, 1]])
    estimate = torch.from_numpy(kriging_weights(days, [200.0], MODEL)).float() @ weight
    torch.testing.assert_close(found[3:], estimate)
    assert torch.equal(own[:2], left_out[:2])
    without = torch.from_numpy(kriging_weights([10.0, 380.0], [40.5], MODEL)).float() @ weight[[0, 2]]
    torch.testing.assert_close(left_out[2:], without)
