"""How often verdicts are wrong where two methods are equally good.

``tests/unit/test_calibration.py`` simulates the designs and measures it.
"""

from __future__ import annotations

import pandas as pd

DRAWS = 3000  # per design; one standard deviation of a rate of 5 % is 0.4

# (design, conditions, training seeds) -> % of the draws without a true difference that were called better or worse, and
# the same for a paired t-test over conditions, against the opponent that comes out best.
MEASURED: dict[tuple[str, int, int], tuple[float, float]] = {
    ("independent perturbations", 12, 1): (4.2, 5.3),
    ("independent perturbations", 25, 1): (4.5, 5.0),
    ("independent perturbations", 50, 1): (4.6, 4.8),
    ("independent perturbations", 100, 1): (5.0, 5.2),
    ("GEARS split, genes make none of the variance", 96, 1): (2.8, 5.0),
    ("GEARS split, genes make half of the variance", 96, 1): (4.8, 14.4),
    ("GEARS split, genes make all of the variance", 96, 1): (4.8, 23.6),
    ("one gene in a quarter of the pairs", 40, 1): (4.0, 18.0),
    ("trainings differ little", 100, 3): (3.4, 15.2),
    ("trainings differ much", 100, 3): (4.9, 44.0),
    ("trainings differ much", 50, 10): (4.4, 14.4),
    ("five folds of one dealing", 15, 1): (3.6, 14.6),
    ("five folds of one dealing", 25, 1): (2.7, 13.9),
    ("five folds of one dealing", 50, 1): (2.3, 11.4),
    ("each perturbation in 2 contexts", 50, 1): (4.8, 11.8),
    ("each perturbation in 3 contexts", 150, 1): (4.8, 16.6),
    ("GEARS split, genes make half of the variance; trainings differ much", 96, 3): (4.1, 45.4),
    ("GEARS split, genes make half of the variance; trainings differ little; 5 equal opponents", 96, 3): (1.5, 29.3),
    ("five folds of one dealing; trainings differ little", 25, 3): (2.6, 14.4),
    ("each perturbation in 2 contexts; trainings differ little", 50, 3): (3.7, 15.4),
    ("4 held-out contexts make none of the variance", 100, 1): (0.6, 13.2),
    ("4 held-out contexts make a tenth of the variance", 100, 1): (1.6, 33.8),
    ("4 held-out contexts make half of the variance", 100, 1): (2.8, 62.9),
    ("8 held-out contexts make none of the variance", 200, 1): (2.1, 22.5),
    ("8 held-out contexts make a tenth of the variance", 200, 1): (2.5, 38.0),
    ("8 held-out contexts make half of the variance", 200, 1): (3.3, 62.6),
    ("two learners in 4 held-out contexts", 100, 1): (0.9, 18.5),
    ("two learners in 8 held-out contexts", 200, 1): (3.7, 31.9),
    ("25 control cells behind the truth, constant predictions", 25, 1): (6.1, 63.1),
    ("200 control cells behind the truth, constant predictions", 100, 1): (5.0, 50.4),
    ("lognormal differences", 12, 1): (7.8, 15.5),
    ("lognormal differences", 50, 1): (4.4, 6.0),
    ("one in five perturbations responds", 25, 1): (2.7, 2.7),
}


def calibration() -> pd.DataFrame:
    """Tabulate :data:`MEASURED`: columns design, conditions, seeds, false_verdicts and by_t_test (percent)."""
    rows = [(*key, *rates) for key, rates in MEASURED.items()]
    return pd.DataFrame(rows, columns=["design", "conditions", "seeds", "false_verdicts", "by_t_test"])
