"""Whether a method is better than every simple method: the decision, and the comparison by each metric that judges.

The decision is the row of the headline, :data:`HEADLINE`. A method is ``better`` only if its direction is better than
each simple method's *and* the other judging metrics (what is specific to a perturbation, and how large the change is)
are shown not to be worse than the best simple method's by more than the margin. The rows of the others are their own
comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.evaluation.metrics import HEADLINE, METRICS
from scgpt_bench.evaluation.paired_inference import FEWEST_CONTEXTS, SIGNIFICANCE, Comparison, compare
from scgpt_bench.evaluation.scores import KEY, Block, ScoredStudy, blocks, differences
from scgpt_bench.methods.registry import KINDS, group_of

VERDICT_COLUMNS = [
    *("dataset", "split", "context", "method", "metric", "opponent", "difference", "ci_low", "ci_high"),
    *("p_value", "smallest_detectable", "verdict", "reason"),
]
# Reasons.
ONE_TRAINING = "valid for the one training that was run"
ONE_SEED = "valid for the one seed that was run"
NOT_REPEATED = "half of the cells is not shown to predict the other half better than other perturbations do"
WITHIN_MARGIN = "the difference is significant, but the whole interval is within the margin"
COMPANIONS = [metric.name for metric in METRICS.values() if metric.judges and metric.name != HEADLINE]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A method beside its opponents on one block, before any correction for how many are compared.

    Attributes
    ----------
    difference
        The mean from the hardest ``opponent``, positive where the method is better.
    comparison
        What is known of it; None where there is no p-value: the differences do not vary, or the conditions allow none,
        for the reason ``refusal``.
    margin
        The difference that counts as none; not a number where it is not known, for the reason ``no_margin``.
    """

    method: str
    opponent: str
    difference: float
    comparison: Comparison | None
    refusal: str
    margin: float
    no_margin: str

    @property
    def p_value(self) -> float:
        """Return the two-sided p-value; NaN if there is none."""
        return self.comparison.p_value if self.comparison else np.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval; NaN if there is no p-value."""
        return self.comparison.interval() if self.comparison else (np.nan, np.nan)

    def verdict(self, p_value: float) -> str:
        """Return what the difference shows at this p-value, which may be corrected."""
        if self.within_margin:
            return "equivalent"
        if self.comparison and p_value <= SIGNIFICANCE:
            return "better" if self.comparison.better() < self.comparison.worse() else "worse"
        return "inconclusive"

    @property
    def within_margin(self) -> bool:
        """Return whether the whole interval counts as no difference; never where the margin is not known."""
        low, high = self.interval
        return -self.margin < low and high < self.margin

    @property
    def not_inferior(self) -> bool:
        """Return whether it is shown to be no worse than each opponent by more than the margin, at 2.5 %."""
        if not self.comparison or not np.isfinite(self.margin):
            return False
        return self.comparison.better(at=-self.margin) <= SIGNIFICANCE / 2

    def row(self, block: Block, p_value: float, verdict: str, reasons: Sequence[str]) -> dict[str, Any]:
        """Make a row of ``verdicts.tsv``."""
        low, high = self.interval
        return {
            **dict(zip(KEY, (*block.place, self.method, block.metric.name), strict=True)),
            "opponent": self.opponent,
            "difference": self.difference,
            "ci_low": low,
            "ci_high": high,
            "p_value": p_value,
            "smallest_detectable": self.comparison.smallest_detectable if self.comparison else np.nan,
            "verdict": verdict,
            "reason": "; ".join(filter(None, reasons)),
        }


def verdicts(study: ScoredStudy, whole: pd.DataFrame | None = None) -> pd.DataFrame:
    """Judge each method against the simple methods, by each metric that judges.

    ``difference`` is the mean from the hardest simple method, ``opponent``, positive where the method is better, errors
    included; its interval and p-value hold against whichever is the best. P-values are corrected by Holm over the
    family of the study (:attr:`ScoredStudy.family`) on the same data set, split, context and metric; those of other
    methods over all that compete.

    ``verdict``, the first that applies:

    - ``not asked``: the method was asked about none of the conditions;
    - ``too few conditions``: they are no basis for a p-value (:attr:`Design.refusal`);
    - ``unreliable data``: responses were not shown to repeat (:func:`is_reliable`);
    - ``equivalent``: the 95 % interval is within the margin, in units of skill: a difference, if any, counts as none;
    - ``better``, ``worse``: p-value of 0.05 or less; in rows of :data:`HEADLINE`, ``better`` takes the other metrics
      too, and ``reason`` says which failed;
    - ``inconclusive``: ``smallest_detectable`` is the true difference from ``opponent`` that this design finds.

    Parameters
    ----------
    whole
        As in :func:`scgpt_bench.evaluation.scores.scores`.
    """
    rows = []
    for _, of_place in groupby(blocks(study.judging, whole), lambda block: block.place):
        rows += _of_place({block.metric.name: block for block in of_place}, study)
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS)


def _of_place(found: Mapping[str, Block], study: ScoredStudy) -> list[dict[str, Any]]:
    rows = []
    judged = {name: against_simple(block, study) for name, block in found.items()}
    for name, block in found.items():
        reliable = is_reliable(block)
        known = {method: one.p_value for method, one in judged[name].items() if block.n_asked.get(method) != 0}
        family = [method for method, p in known.items() if study.corrects(method) and np.isfinite(p)]
        twins = [method for method in study.untrained if not study.corrects(method)]
        competing = [method for method, p in known.items() if method not in twins and np.isfinite(p)]
        corrected = known | dict(zip(competing, holm([known[method] for method in competing]), strict=True))
        corrected |= dict(zip(family, holm([known[method] for method in family]), strict=True))
        for method, one in judged[name].items():
            p_value = corrected.get(method, np.nan)
            verdict, reasons = decide(one, block, p_value, reliable)
            if one.p_value <= SIGNIFICANCE < p_value:
                number = len(family if study.corrects(method) else competing)
                reasons.append(f"p {one.p_value:.2g} before Holm's correction over {number} methods")
            if name == HEADLINE and verdict == "better":
                failed = _failed_companions(method, judged)
                if failed:
                    verdict = "inconclusive"
                    reasons.append("its direction is better, but " + ", ".join(failed))
            if method in twins:
                reasons.append("an untrained twin does not compete: p-value not corrected")
            elif not study.corrects(method):
                reasons.append(f"not in scores.family: p-value corrected over all {len(competing)} methods")
            reasons += [of_one_seed(method, block, study.kinds), of_contexts(block)]
            rows.append(one.row(block, p_value, verdict, reasons))
    return rows


def against_simple(block: Block, study: ScoredStudy) -> dict[str, Judged]:
    """Compare each judged method with all simple methods; none where there is no simple method."""
    simple = [method for method in block.values if group_of(study.kinds[method]).judges]
    methods = [method for method in block.values if group_of(study.kinds[method]).is_judged]
    return {method: beside(block, method, simple, study.margin) for method in methods if simple}


def beside(
    block: Block, method: str, opponents: Sequence[str], margin: float, among: np.ndarray | None = None
) -> Judged:
    """Compare a method with its opponents on the conditions that all have; ``margin`` is in units of skill.

    Only those in the mask ``among`` count, if it is given.
    """
    rows = block.rows_of(method, *opponents)
    rows = rows if among is None else rows & among
    known = block.design_of(rows)
    turned = [block.sign * block.values[name][rows] for name in (method, *opponents)]
    found = differences(turned[0], turned[1:])
    mean = found.mean((0, 1))
    of_controls = block.without_control_blocks(rows, method, *opponents)
    comparison = None if known.refusal else compare(found, known, block.training, of_controls)
    length, reason = block.length(rows)
    return Judged(
        method=method,
        opponent=opponents[int(mean.argmin())],
        difference=float(mean.min()),
        comparison=comparison if comparison and comparison.varies else None,
        refusal=known.refusal,
        margin=margin * length,
        no_margin=reason,
    )


def decide(one: Judged, block: Block, p_value: float, reliable: bool) -> tuple[str, list[str]]:
    """Give the verdict on one comparison, and what limits it; see :func:`verdicts`."""
    if block.n_asked.get(one.method) == 0:
        return "not asked", []
    if one.refusal:
        return "too few conditions", [one.refusal]
    if not reliable:
        return "unreliable data", [NOT_REPEATED]
    verdict, reasons = one.verdict(p_value), []
    if verdict == "equivalent" and p_value <= SIGNIFICANCE:
        reasons.append(WITHIN_MARGIN)
    if not one.comparison:
        reasons.append("the differences do not vary")
    elif verdict == "inconclusive" and not np.isfinite(one.margin):
        reasons.append(f"no margin of equivalence: {one.no_margin}")
    return verdict, reasons


def _failed_companions(method: str, judged: Mapping[str, Mapping[str, Judged]]) -> list[str]:
    """List which of the other judging metrics do not show that the method is as good as the best simple one."""
    failed = []
    for name in COMPANIONS:
        one = judged.get(name, {}).get(method)
        if one is None:
            failed.append(f"{name} is not known")
        elif not one.not_inferior:
            if one.verdict(one.p_value) == "worse":
                failed.append(f"{name} is worse than that of {one.opponent}")
            elif one.refusal or not np.isfinite(one.margin):
                failed.append(f"{name} cannot be compared ({one.refusal or one.no_margin})")
            else:
                failed.append(f"{name} is not shown to be as good as that of {one.opponent}")
    return failed


def of_one_seed(method: str, block: Block, kinds: Mapping[str, str]) -> str:
    """Return the limit of a result if a method that depends on its seed was run with one, or does not heed it."""
    kind, values = KINDS.get(kinds[method]), block.values[method]
    if (kind and not kind.depends_on_seed) or (values != values[:, :1]).any():
        return ""
    return ONE_TRAINING if kind and kind.is_trained else ONE_SEED


def of_contexts(block: Block) -> str:
    """Return the limit of a result if few contexts were held out."""
    number = len({*block.contexts})
    if not block.holds_out_contexts or number >= FEWEST_CONTEXTS:
        return ""
    return "of this context only" if number == 1 else f"of these {number} contexts only, not of others"


def is_reliable(block: Block) -> bool:
    """Return whether half of a condition's cells predicts the other half better than halves of other conditions do.

    At 5 % (one-sided). True where this is known of too few conditions: nothing is then known against the data.
    """
    rows = np.isfinite(block.own_half) & np.isfinite(block.other_halves)
    known = block.design_of(rows)
    if known.refusal:
        return True
    above = differences(block.sign * block.own_half[rows, None], [block.sign * block.other_halves[rows, None]])
    compared = compare(above, known)  # neither learns: pooled folds share no training that both depend on
    return compared.better() <= SIGNIFICANCE if compared.varies else bool(above.mean() > 0)


def holm(p_values: list[float]) -> list[float]:
    """Correct p-values for their number by Holm's step-down procedure; the order is kept."""
    ordered = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[ordered] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[ordered] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
