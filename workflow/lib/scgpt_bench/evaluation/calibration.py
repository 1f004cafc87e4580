"""How often verdicts and intervals were wrong where the truth is known.

``tests/unit/test_calibration.py`` measures it.
"""

from __future__ import annotations

import pandas as pd

METRICS = ("pearson_delta", "mse", "mae")

EQUAL = "no better than its one baseline"
BLIND = "blind, beside five baselines"
TRAIN_MEAN = "train-mean"
BETTER = "called better"
SCORE_HELD = "the interval of its score holds the true one"
DIFFERENCE_HELD = "the interval of its difference from the best baseline holds the true one"
TRUE_DIFFERENCE = "true difference from the best baseline (positive: better)"


def hinted(percent: int) -> str:
    """The blind method, told so much of the planted change, beside the five baselines."""
    return f"blind but for {percent} % of the truth, beside five baselines"


# (method, test perturbations of a draw, what was counted) -> % of the draws for each of METRICS; true differences in
# units of the metric. 200 planted draws, 180 where 40 perturbations are tested.
MEASURED: dict[tuple[str, int, str], tuple[float, float, float]] = {
    (EQUAL, 20, BETTER): (1.5, 1.0, 3.0),
    (EQUAL, 20, DIFFERENCE_HELD): (94.0, 94.0, 95.5),
    (BLIND, 20, BETTER): (0.0, 0.0, 0.0),
    (TRAIN_MEAN, 20, SCORE_HELD): (95.0, 96.0, 95.0),
    (hinted(5), 20, TRUE_DIFFERENCE): (0.0728, -0.0003, -0.0042),
    (hinted(5), 10, BETTER): (70.0, 0.0, 0.0),
    (hinted(5), 20, BETTER): (98.0, 0.0, 0.0),
    (hinted(5), 40, BETTER): (100.0, 0.0, 0.0),
    (hinted(10), 20, TRUE_DIFFERENCE): (0.1676, 0.0006, -0.0031),
    (hinted(10), 10, BETTER): (100.0, 23.0, 0.0),
    (hinted(10), 20, BETTER): (100.0, 45.5, 0.0),
    (hinted(10), 40, BETTER): (100.0, 81.1, 0.0),
    (hinted(10), 20, DIFFERENCE_HELD): (96.5, 97.5, 97.0),
}


def calibration() -> pd.DataFrame:
    """:data:`MEASURED` as a table: method, perturbations, counted, unit and a column for each of :data:`METRICS`."""
    rows = [
        (*key, "difference" if key[2] == TRUE_DIFFERENCE else "% of draws", *figures)
        for key, figures in MEASURED.items()
    ]
    return pd.DataFrame(rows, columns=["method", "perturbations", "counted", "unit", *METRICS])
