"""Estimating a moment from others: ordinary kriging along time. No torch here.

A place looks in June much as it did last June, and today much as it did last week; over the years it changes slowly, and
every scene has haze and light of its own that no other tells anything about. `TemporalCovariance` says how much of each
there is. Ordinary kriging turns it into weights: those of the linear combination of the known moments that errs least,
and that sum to one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lianet_user.field.config import TemporalCovariance

YEAR_DAYS = 365.25

Array = NDArray[np.float64]


def covariance(first: ArrayLike, second: ArrayLike, model: TemporalCovariance) -> Array:
    """How alike moments are, relative to the season's variance: (n, m).

    Args:
        first: (n,) days.
        second: (m,) days.
        model: without its scenes' own part, which two different moments never share.
    """
    apart = np.abs(np.asarray(first, np.float64)[:, None] - np.asarray(second, np.float64)[None])
    phase = np.sin(np.pi * apart / YEAR_DAYS) / model.season_width
    season = np.exp(-2 * phase**2 - apart / model.season_days)
    years = model.years * np.exp(-0.5 * (apart / model.years_days) ** 2)
    weeks = model.weeks * np.exp(-apart / model.weeks_days)
    result: Array = season + years + weeks
    return result


def kriging_weights(known: ArrayLike, moments: ArrayLike, model: TemporalCovariance) -> Array:
    """Weights of known moments for the estimate at others: (moments, known), rows sum to one.

    Args:
        known: (n,) days.
        moments: (m,) days.
        model: how alike moments are.
    """
    inverse = np.linalg.inv(covariance(known, known, model) + model.scene * np.eye(np.size(known)))
    plain = covariance(moments, known, model) @ inverse
    total = inverse.sum(1)
    # The sum to one means that no mean has to be known, only that there is one (the multiplier of ordinary kriging).
    result: Array = plain + ((1 - plain.sum(1)) / total.sum())[:, None] * total
    return result


def left_out_weights(known: ArrayLike, model: TemporalCovariance) -> Array:
    """Weights for the estimate of every moment from the others: (n, n), zero on the diagonal. A lone moment has none."""
    days = np.asarray(known, np.float64)
    result = np.zeros((len(days), len(days)))
    for index in range(len(days) if len(days) > 1 else 0):
        others = np.arange(len(days)) != index
        result[index, others] = kriging_weights(days[others], days[index : index + 1], model)[0]
    return result
