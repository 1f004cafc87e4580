"""Options of simple methods chosen by cross-validation, beside scikit-learn's GridSearchCV on the same grid and folds.

GridSearchCV fits every candidate in every fold on its own, by the same functions and with the same criterion; ours fits
once a fold. Both must give the same scores. The largest size is compared with limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

import measure
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV

from scgpt_bench.methods import baselines
from scgpt_bench.methods.training_data import Shifts, ToPredict, TrainingData
from scgpt_bench.methods.tuning import folds, unit

WORK, PEER = "tuning of ridge and knn", "GridSearchCV, scikit-learn 1.9.1"
SIZE, LARGEST = (300, 8000), (2000, 8000)  # perturbations to learn from, genes
TIME_GOAL, TOLERANCE, SECONDS, MEMORY = 10.0, 1e-6, 300.0, 4096.0
VECTORS, TESTED, CONTROLS = 50, 100, 5000


def rows(size: tuple[int, int] = SIZE, largest: tuple[int, int] = LARGEST) -> list[dict]:
    """The table: times of both, the largest difference of scores, and time and memory of all that is tuned."""
    seconds = measure.in_fresh_process(__file__, "compare", *size)
    limits = measure.in_fresh_process(__file__, "largest", *largest)
    name, large = ("{} perturbations x {} genes".format(*numbers) for numbers in (size, largest))
    ours, peer, difference = seconds["ours"], seconds["peer"], max(seconds["difference"], 1e-16)

    def against(what: str, size: str, quantity: str, unit: str, ours: float, limit: float) -> dict:
        return measure.row(what, size, quantity, unit, ours, "allowed", limit, limit / ours, 1.0)

    return [
        measure.row(WORK, name, "time", "s", ours, PEER, peer, peer / ours, TIME_GOAL if size == SIZE else None),
        against(WORK, name, "largest difference", "1", difference, TOLERANCE),
        against("tuned-simple", large, "time", "s", limits["s"], SECONDS),
        against("tuned-simple", large, "peak memory", "MB", limits["MB"], MEMORY),
    ]


def made_up(perturbations: int, genes: int) -> tuple[TrainingData, ToPredict, pd.DataFrame]:
    """Changes of rank 20 with noise, control cells with 10 % of the genes expressed, and vectors of all genes."""
    random = np.random.default_rng(0)
    names = pd.Index([f"G{i}" for i in range(genes)])
    vectors = pd.DataFrame(random.normal(size=(genes, VECTORS)), index=names)
    effects = vectors.to_numpy()[:perturbations, :20] @ random.normal(0, 0.1, (20, genes))
    shifts = effects + random.normal(0, 0.1, effects.shape)
    obs = pd.DataFrame({"cell_type": "T"}, index=map(str, range(CONTROLS)))
    X = sparse.random(CONTROLS, genes, 0.1, "csr", np.float32, random_state=1)
    controls = AnnData(X, obs=obs, var=pd.DataFrame(index=names))
    judged, n_cells = shifts + random.normal(0, 0.01, genes), np.full(perturbations, 50)
    learned = TrainingData(
        names, controls, np.full(genes, 0.5), [*names[:perturbations]], 0.5 + shifts, shifts, shifts, judged, n_cells
    )  # fmt: skip
    return learned, ToPredict([*names[-TESTED:]], np.full((TESTED, genes), 0.5)), vectors


class Method(BaseEstimator):
    """A simple method as scikit-learn has estimators: X are rows of the perturbations."""

    def __init__(self, learned: Any, predict: Any, vectors: Any, options: dict | None = None):
        self.learned, self.predict, self.vectors, self.options = learned, predict, vectors, options

    def fit(self, X: np.ndarray, y: np.ndarray) -> Method:
        self.fitted_ = self.learned.only(X)
        return self

    def score(self, X: np.ndarray, y: np.ndarray) -> float:
        names = [self.learned.perturbations[row] for row in X]
        test = ToPredict(names, np.full(y.shape, 0.5))
        made = self.predict(self.fitted_, test, embeddings=self.vectors, scaled=False, **self.options)
        targets = self.learned.targets_of(names)
        return float(np.vdot(unit(made.values, targets), unit(y, targets)) / len(X))


def compared(perturbations: int, genes: int) -> dict:
    """Seconds of both, over all candidates of ridge and of knn, and the largest difference of their scores."""
    learned, test, vectors = made_up(perturbations, genes)
    dealt, found = folds(learned.perturbations), {"ours": 0.0, "peer": 0.0, "difference": 0.0}
    for method, embeddings in ((baselines.ridge, None), (baselines.knn, vectors)):
        start = time.perf_counter()
        made: Shifts = method(learned, test, embeddings=embeddings, scaled=False)
        found["ours"] += time.perf_counter() - start
        candidates = [candidate.options for candidate in made.chosen.candidates]
        estimator = Method(learned, method, embeddings)
        start = time.perf_counter()
        search = GridSearchCV(estimator, {"options": candidates}, cv=dealt, refit=False)
        search.fit(np.arange(perturbations), learned.shifts_to_judge)
        found["peer"] += time.perf_counter() - start
        theirs = search.cv_results_["mean_test_score"]
        differences = [abs(c.score - score) for c, score in zip(made.chosen.candidates, theirs, strict=True)]
        found["difference"] = max(found["difference"], *differences)
    return found


def largest(perturbations: int, genes: int) -> dict:
    """Seconds and peak memory of ``tuned-simple``, which chooses among all candidates of ridge and of knn."""
    learned, test, _ = made_up(perturbations, genes)
    start = time.perf_counter()
    baselines.tuned_simple(learned, test)
    return {"s": time.perf_counter() - start, "MB": measure.peak_memory_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("compare", "largest"))
    parser.add_argument("size", nargs=2, type=int, help="perturbations to learn from, genes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    json.dump({"compare": compared, "largest": largest}[arguments.what](*arguments.size), sys.stdout)
    print()


if __name__ == "__main__":
    main()
