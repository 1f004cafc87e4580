"""What a list of predictions is expected to score, once somebody measures it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def prediction_interval(scores: Sequence[float], n_new: int, level: float = 0.95) -> tuple[float, float]:
    """Give the interval in which the mean score of ``n_new`` new conditions is expected.

    ``mean +- t * sd * sqrt(1/n + 1/n_new)``: wider than a confidence interval of the mean, since the new conditions
    have a spread of their own. It takes both to be drawn alike and one by one: conditions that share genes, contexts or
    a training seed make it too narrow, and a list that was chosen otherwise than the tested conditions is not covered.

    Parameters
    ----------
    scores
        Of tested conditions, one each, without NaN.
    n_new
        Conditions of the list.
    level
        How often the mean is expected inside.

    Returns
    -------
    Lower and upper end; NaN of fewer than two scores.
    """
    n = len(scores)
    if n < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(scores, ddof=1) * np.sqrt(1 / n + 1 / n_new)
    return float(np.mean(scores) - half), float(np.mean(scores) + half)
