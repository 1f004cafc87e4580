"""The convention ledger: what every metric of this project means, and which tools it agrees with.

The same name gives different figures in different tools. An agreement stands here only if ``tests/parity`` tests it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from scgpt_bench.errors import InputError

COLUMNS = ["metric", "reference", "gene_set", "denominator", "tie_rule", "targets", "source", "agrees_with"]
MATCHED_CONTROL = "all control cells of the same cell types, the same on both sides"
NO_TIES = "none arise"
OFFICIAL = {"cell_eval": "cell-eval", "cell_eval2": "cell-eval2"}


@dataclass(frozen=True)
class Convention:
    """One metric: with what it is compared, what it is divided by, what happens to ties, who defined it.

    ``agrees_with``: (tool with version and name there, decimal digits), for the metric over all genes.
    """

    reference: str
    denominator: str
    source: str
    tie_rule: str = NO_TIES
    agrees_with: tuple[tuple[str, int], ...] = ()


CONVENTIONS = {
    "pearson": Convention(
        "none: the mean vectors themselves",
        "product of the norms around each side's mean over genes",
        "scGPT (Cui et al. 2024), GEARS (Roohani et al. 2024)",
        agrees_with=(("scgpt 0.2.4 compute_perturbation_metrics", 6),),
    ),
    "mse": Convention(
        "none: the mean vectors themselves",
        "number of genes",
        "GEARS (Roohani et al. 2024)",
        agrees_with=(("cell-eval 0.8.2 mse", 6),),
    ),
    "mae": Convention(
        "none: the mean vectors themselves",
        "number of genes",
        "Virtual Cell Challenge 2025",
        agrees_with=(("cell-eval 0.8.2 mae", 6),),
    ),
    "pearson_delta": Convention(
        MATCHED_CONTROL,
        "product of the norms around each side's mean over genes",
        "scGPT (Cui et al. 2024)",
        agrees_with=(("cell-eval 0.8.2 pearson_delta", 6), ("scgpt 0.2.4 compute_perturbation_metrics", 6)),
    ),
    "pearson_delta_centroid": Convention(
        "the matched control mean plus the mean shift of the training perturbations, the same on both sides; where "
        "test perturbations do nothing, predicting no change is right by it, and the mean shift of training is not",
        "product of the norms around each side's mean over genes",
        "Systema (Viñas Torné et al. 2025)",
    ),
    "cosine_delta": Convention(MATCHED_CONTROL, "product of the norms", "cosine of the changes"),
    "r2_delta": Convention(
        MATCHED_CONTROL,
        "sum of squares of the true changes around their mean over genes",
        "coefficient of determination",
    ),
    "sign_agreement": Convention(
        MATCHED_CONTROL, "genes with a true change", "share of right directions", "no predicted change counts as a half"
    ),
    "discrimination_l1": Convention(
        MATCHED_CONTROL,
        "n, the number of test perturbations",
        "Virtual Cell Challenge 2025, discrimination_score_l1",
        "ties count as halves (cell-eval breaks them at random)",
        agrees_with=(("cell-eval 0.8.2 discrimination_score", 6),),
    ),
    "energy_distance": Convention(
        "measured cells, in the principal components of the measured test and control cells",
        "pairs of different cells",
        "Székely and Rizzo 2013; in perturbation data: scPerturb (Peidli et al. 2024)",
        "identical predicted cells count once",
    ),
}

_ALL_GENES, _COUNTED = "all genes", "counted like any gene"
GENE_SETS = {
    "": (_ALL_GENES, _COUNTED),
    "_top20": ("the 20 most differentially expressed genes of the perturbation (Wilcoxon, measured cells)", _COUNTED),
    "_top50": ("the 50 most differentially expressed genes of the perturbation (Wilcoxon, measured cells)", _COUNTED),
    "_top100": ("the 100 most differentially expressed genes of the perturbation (Wilcoxon, measured cells)", _COUNTED),
    "_high1000": ("the 1,000 genes with the highest mean in the matched control", _COUNTED),
    "_no_target": ("all genes but the perturbation's own targets", "left out"),
}
# Metrics that handle targets in a way of their own.
TARGETS = {
    "discrimination_l1": "those of the predicted perturbation are left out of all distances",
    "energy_distance": "counted, as far as the principal components show them",
}


def ledger(metrics: Iterable[str]) -> pd.DataFrame:
    """The conventions of these metrics, one row each, in their order; columns ``COLUMNS``.

    Official scorers' metrics (``cell_eval.<name>``, ``cell_eval2.<name>``) are computed by the tools themselves, and
    their rows say so.

    Raises
    ------
    InputError
        For a metric whose conventions are not known.
    """
    return pd.DataFrame([_row(metric) for metric in metrics], columns=COLUMNS)


def _row(metric: str) -> tuple[str, ...]:
    scorer, _, name = metric.partition(".")
    if name and scorer in OFFICIAL:
        theirs = f"as {OFFICIAL[scorer]} defines it"
        note = "computed by the tool itself; docs/evaluation.md says from what"
        return (metric, *[theirs] * 5, f"{OFFICIAL[scorer]}, {name}", note)
    for suffix, (gene_set, targets) in GENE_SETS.items():
        name = metric.removesuffix(suffix) if suffix else metric
        if name not in CONVENTIONS or not metric.endswith(suffix):
            continue
        convention = CONVENTIONS[name]
        agreements = convention.agrees_with if not suffix else ()
        agrees_with = "; ".join(f"{tool}: {digits} digits" for tool, digits in agreements)
        return (
            *(metric, convention.reference, gene_set, convention.denominator, convention.tie_rule),
            *(TARGETS.get(name, targets), convention.source, agrees_with),
        )
    raise InputError(
        "convention ledger", "metric", repr(metric), "a metric in scgpt_bench.evaluation.ledger.CONVENTIONS"
    )
