"""How far to trust predictions that nobody can check: what the same methods scored where the answer was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from scgpt_bench.data.blocks import BLOCKS
from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition, listed
from scgpt_bench.data.conditions import COLUMNS as CONDITION
from scgpt_bench.data.splits import table_of_roles
from scgpt_bench.evaluation.classes import CLASS
from scgpt_bench.evaluation.metrics import HEADLINE
from scgpt_bench.evaluation.scores import KEY, Block, ScoredStudy, blocks, scores
from scgpt_bench.evaluation.verdicts import beside, decide, is_reliable, verdicts
from scgpt_bench.method_record import MethodRecord
from scgpt_bench.unmeasured.expected import prediction_interval

NOT_MEASURED = "not measured"
NO_CHANGE = "no change"
RIGHT_SIGNS = "sign_agreement_top20"
CONTEXT_LEARNED = "context_learned"
KNOWN = [*CLASS, CONTEXT_LEARNED]
TRUST_COLUMNS = [
    *("method", *KNOWN, "asked", "n_predicted", "split", "n_conditions", "mean", "ci_low", "ci_high"),
    *("expected_low", "expected_high", "skill", "right_signs"),
    *("verdict", "opponent", "against_no_change", "against_tuned_simple", "reason"),
]
_VERDICTS = ["verdict", "against_no_change", "against_tuned_simple"]
_NUMBERS = ["mean", "ci_low", "ci_high", "expected_low", "expected_high", "skill", "right_signs"]


def trust(study: ScoredStudy, split: pd.DataFrame, records: Mapping[str, MethodRecord]) -> pd.DataFrame:
    """Set beside each method of a list what it scored on measured conditions that were as well known as those listed.

    Parameters
    ----------
    study
        Of the list's data set alone, with ``asked`` (:func:`scgpt_bench.evaluation.scores.with_asked`); without a row
        of metrics where the study scores nothing.
    split
        The split of the list: its tested conditions are those predicted.
    records
        The record of each method of the list, of its first seed.

    Returns
    -------
    Columns ``TRUST_COLUMNS``. How well a condition is known:

    - ``n_genes``, ``n_genes_seen``, ``seen`` as in ``split.tsv``;
    - ``context_learned``: whether methods learn from any condition of the context;
    - ``asked``: whether the method has what it needs (token, vector, measured single) for every target, or falls back.

    A row for every class of the list, and for each question of the study that tests conditions of that class: folds
    and held-out contexts as they are pooled on the start page, any other split by itself. ``n_conditions``, ``mean``,
    its 95 % interval and ``skill`` are of :data:`HEADLINE` over the tested conditions of the class, in all contexts.
    The mean of the ``n_predicted`` listed ones is expected from ``expected_low`` to ``expected_high``, once as many
    cells of them are measured (:func:`scgpt_bench.unmeasured.expected.prediction_interval`). ``right_signs`` is the
    mean of ``sign_agreement_top20``. ``verdict`` is by the rule of ``verdicts.tsv``, the other two compare
    :data:`HEADLINE` alone. Where nothing was measured they say so, and ``reason`` says why.
    """
    wanted = with_known(split)
    wanted = wanted[wanted["role"] == "test"]
    measured = _Measured(study)
    rows = []
    for method, record in records.items():
        asked = {entry.condition for entry in record.asked}
        own = wanted.assign(asked=[Condition(*names) in asked for names in listed(wanted)])
        for (*known, is_asked), part in own.groupby([*KNOWN, "asked"]):
            base = {"method": method, **dict(zip(KNOWN, known, strict=True))}
            base |= {"asked": "yes" if is_asked else "no", "n_predicted": len(part)}
            found = measured.beside(method, known, is_asked, len(part))
            rows += [{**base, **one} for one in found]
    return pd.DataFrame(rows, columns=TRUST_COLUMNS).astype({"n_conditions": "Int64"})


def with_known(split: pd.DataFrame) -> pd.DataFrame:
    """Add ``context_learned`` to the rows of one ``split.tsv``, and count validation as seen.

    Simple methods learn from validation perturbations: what is called seen nowhere must be in neither role.
    """
    learned = set(split.loc[split["role"] != "test", "context"])
    roles = ["test" if role == "test" else "train" for role in split["role"]]
    seen = table_of_roles(dict(zip(listed(split), roles, strict=True)))[["n_genes_seen", "seen"]]
    seen = seen.set_axis(split.index)
    return split.assign(**{CONTEXT_LEARNED: split["context"].isin(learned)}, **seen)


class _Measured:
    """Scores and verdicts of a study on parts of its conditions, each computed once."""

    def __init__(self, study: ScoredStudy):
        names = study.metrics["metric"]
        judging = set(study.judging.metrics["metric"].unique())
        self.study = study.of(study.metrics[names.isin({*judging, RIGHT_SIGNS})])
        self.tuned = next((method for method, kind in study.kinds.items() if kind == "tuned-simple"), None)
        self.found: dict[frozenset[int], pd.DataFrame] = {}
        if len(study.metrics):
            known = pd.concat([with_known(part) for _, part in study.splits.groupby("split", sort=False)])
            key = ["split", *CONDITION]
            known = known.loc[known["role"] == "test", [*key, *KNOWN]]
            self.known = self.study.metrics[key].merge(known, on=key, how="left", validate="m:1")[KNOWN]

    def beside(self, method: str, known: Sequence[Any], asked: bool, n_new: int) -> list[dict[str, Any]]:
        """Give what is known of a method on conditions of a class, a row for each question.

        ``n_new`` conditions of the list are of this class.
        """
        if not len(self.study.metrics):
            return [_not_measured("the study holds out nothing that was measured")]
        metrics = self.study.metrics
        of_method = metrics["method"] == method
        if not of_method.any():
            return [_not_measured("the method has no score on this data set")]
        alike = (self.known == list(known)).all(axis=1).to_numpy()
        key = ["split", *CONDITION]
        own = metrics[of_method & alike]
        own = own.groupby(key)["asked"].all()  # in every seed
        own = own[own == asked]
        rows = alike & pd.MultiIndex.from_frame(metrics[key]).isin(own.index)
        if not rows.any():
            return [_not_measured("no split tests perturbations that are known like these")]
        part = frozenset(np.flatnonzero(rows).tolist())
        if part not in self.found:
            self.found[part] = self._of_part(metrics[rows])
        found = self.found[part]
        found = found[found["method"] == method].drop(columns="method").to_dict("records")
        scored = metrics[rows & of_method & (metrics["metric"] == HEADLINE)]
        for row in found:
            splits = self.study.pooled.get(row["split"], [row["split"]])
            values = scored[scored["split"].isin(splits)].groupby(key)["value"].mean()  # over seeds
            row["expected_low"], row["expected_high"] = prediction_interval(values, n_new)
        return found

    def _of_part(self, metrics: pd.DataFrame) -> pd.DataFrame:
        study = self.study.of(metrics)
        table = scores(study)
        table = table[(table["context"] == ALL_CONTEXTS) & table["split"].isin(questions(table["split"], study.pooled))]
        signs = table[table["metric"] == RIGHT_SIGNS].set_index(["split", "method"])["mean"]
        table = table[table["metric"] == HEADLINE].copy()
        table["right_signs"] = signs.reindex(pd.MultiIndex.from_frame(table[["split", "method"]])).to_numpy()
        judged = verdicts(study)[[*KEY, "verdict", "opponent", "reason"]]
        table = table.merge(judged, on=KEY, how="left", suffixes=("_of_score", ""))
        table["verdict"] = table["verdict"].fillna("not judged")
        reasons = table[["reason_of_score", "reason"]].fillna("").to_numpy()
        table["reason"] = ["; ".join(dict.fromkeys(filter(None, pair))) for pair in reasons]
        pairs = self._pairs(study)
        for column in ("against_no_change", "against_tuned_simple"):
            table[column] = [
                pairs.get((split, method, column), NOT_MEASURED)
                for split, method in table[["split", "method"]].itertuples(index=False)
            ]
        of_every_list = [name for name in TRUST_COLUMNS if name not in ("expected_low", "expected_high")]
        return table[["method", *of_every_list[of_every_list.index("split") :]]]

    def _pairs(self, study: ScoredStudy) -> dict[tuple[str, str, str], str]:
        """Compare every method with no change and with the tuned best, by :data:`HEADLINE`."""
        found = {}
        headline = study.of(study.metrics[study.metrics["metric"] == HEADLINE])
        for block in blocks(headline):
            if block.context != ALL_CONTEXTS:
                continue
            reliable = is_reliable(block)
            for method in block.values:
                if np.isfinite(block.no_change).all():
                    no_change = block.no_change[:, None]
                    known = {**block.without_blocks, NO_CHANGE: no_change.repeat(BLOCKS, axis=1)}
                    nothing = replace(block, values={**block.values, NO_CHANGE: no_change}, without_blocks=known)
                    found[block.split, method, "against_no_change"] = _verdict(
                        nothing, method, NO_CHANGE, reliable, study.margin
                    )
                if self.tuned in block.values:
                    found[block.split, method, "against_tuned_simple"] = _verdict(
                        block, method, self.tuned, reliable, study.margin
                    )
        return found


def _verdict(block: Block, method: str, opponent: str, reliable: bool, margin: float) -> str:
    if method == opponent:
        return "the same"
    one = beside(block, method, [opponent], margin)
    if one.difference == 0 and one.interval == (0, 0):
        return "the same"
    return decide(one, block, one.p_value, reliable)[0]


def _not_measured(reason: str) -> dict[str, Any]:
    nothing = {**dict.fromkeys(_NUMBERS, np.nan), **dict.fromkeys([*_VERDICTS, "opponent", "split"], NOT_MEASURED)}
    return {**nothing, "n_conditions": 0, "reason": reason}


def questions(splits: Sequence[str] | pd.Series, pooled: Mapping[str, Sequence[str]]) -> list[str]:
    """List the splits that have an answer each: what is pooled is left out beside its pool."""
    present = [*dict.fromkeys(splits)]
    members = {split for name, of_name in pooled.items() if name in present for split in of_name}
    return [split for split in present if split not in members]
