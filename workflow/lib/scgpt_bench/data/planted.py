"""A small Perturb-seq experiment whose answer is known.

Genes are organised in modules. A gene loads strongly on its own module and weakly on a second one; a cell's expected
expression is ``exp(base + loadings @ module activities)``. An atlas of unperturbed cells of many states shows which
genes move together, and so does what a knock-down does: the target itself goes down, and its module moves to where
the module is when the target is low. What a method can learn from other perturbations or from the atlas is
therefore exactly the modules; ``structure: false`` takes that away and leaves everything else.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from pydantic import Field
from scipy import sparse

from scgpt_bench.data.conditions import ALL_CONTEXTS, Condition, table_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.names import CONTROL, JOINED_BY, genes_of
from scgpt_bench.errors import InputError
from scgpt_bench.options import Generated, Number, checked
from scgpt_bench.seeding import random_generator

SYMBOL = re.compile(r"[A-Z]{3,5}[1-9]?")
CELL_LINE = "cell_line"

BASE_SD = 0.6  # of a gene's log expression where every module activity is 0
LOADING = (0.4, 1.2)  # size of a gene's loading on its own module
POSITIVE_SHARE = 0.8  # of the genes rise with their module, the others fall
SECOND_LOADING_SD = 0.2  # of a gene's loading on one other module
STATE_SD = 1.0  # of the module activities between states
CELL_SD = 0.4  # of the module activities between cells of a state
ACTIVITY_CHANGE = (0.8, 1.6)  # of the target's module in a knock-down
RESIDUAL = (0.5, 0.8)  # share of the target's expression that a knock-down leaves, beside its module's change
DISPERSION = 0.15  # of the counts: variance = mean + DISPERSION * mean^2
LIBRARY_SD = 0.3  # of the log library size
BATCH_SD = 0.1  # of the log of a batch's factor for a gene


class PlantedOptions(Generated):
    """What can be asked of the experiment."""

    target_sum: Number = Field(400.0, ge=1)
    """Only sets the scale of the true means."""


@dataclass(frozen=True)
class Planted:
    """The experiment.

    Attributes
    ----------
    cells
        Perturb-seq of one cell line: raw counts [cells x measured genes], CSR float32; obs ``perturbation``, ``batch``,
        ``cell_type`` and, where there are several, ``context``. Batches are balanced over perturbations.
    atlas
        Unperturbed cells of other states: raw counts [cells x all genes], CSR float32; the same obs, ``perturbation``
        being ``control``, ``cell_type`` the state, and ``half`` that which methods may see.
    truth
        Expected log1p(counts scaled to ``target_sum``), float64 [control and perturbations x measured genes], over
        cells, library sizes and batches in equal parts. A Monte-Carlo mean: obs ``n_draws`` and ``standard_error``
        (root mean square over genes, of a mean; cells are drawn once and shared by all rows, so the error of a
        difference between rows is smaller). obs ``activity_change`` is what the knock-down does to ``module`` (both
        empty for combinations and control, and where ``carried_over`` is below 1); var ``module`` and ``loading`` are a
        gene's own. With contexts, rows for each, named by obs ``perturbation`` and ``context``.
    """

    cells: anndata.AnnData
    atlas: anndata.AnnData
    truth: anndata.AnnData


@dataclass(frozen=True)
class _Genes:
    """Names, own module and loadings [genes x modules], base log expression and log batch factors [batches x genes]."""

    names: np.ndarray
    module: np.ndarray
    loadings: np.ndarray
    base: np.ndarray
    batch_factors: np.ndarray

    @property
    def own_loading(self) -> np.ndarray:
        return self.loadings[np.arange(len(self.names)), self.module]


def generate(options: Mapping[str, Any]) -> Planted:
    """Simulate the experiment that ``options`` (those of :class:`PlantedOptions`, all optional) ask for.

    A knock-down lowers the activity of the target's module by 0.8 to 1.6, or raises it by as much where the target
    falls with rising activity; the target itself falls to another 50 to 80 %, to about a quarter in all. Effects of a
    combination add up in log expected expression, before the scaling to library sizes, so they are not exactly additive
    in the scale of ``truth``.

    With ``structure: false`` the changes of each perturbation, the target's own included, go to genes drawn at random,
    with random signs: the same sizes, which nothing learned from other perturbations, from the atlas or from the
    target's identity predicts.

    With ``carried_over`` below 1, the change of a perturbation in a context is ``sqrt(carried_over)`` times the one
    above, and ``sqrt(1 - carried_over)`` times one of the same sizes on genes drawn at random, with random signs, for
    this perturbation in this context.

    Raises
    ------
    InputError
        For an unknown option or a value out of range.
    """
    chosen = checked(PlantedOptions, options, "planted data")
    targets_of_module = [slice(start, start + chosen.targets_per_module) for start in _module_starts(chosen)]
    genes = _genes(chosen, targets_of_module)
    singles = np.concatenate([genes.names[targets] for targets in targets_of_module])
    effects = _effects(chosen, genes, singles)
    measured = ~np.isin(genes.names, _generator(chosen, "unmeasured").permutation(singles)[: chosen.unmeasured_targets])
    contexts = [f"line{number + 1}" for number in range(chosen.contexts)] or [ALL_CONTEXTS]
    of_contexts = {context: _in_context(chosen, context, effects) for context in contexts}
    states = {
        context: _generator(chosen, "state", CELL_LINE if context == ALL_CONTEXTS else context).normal(
            0, STATE_SD, chosen.modules
        )
        for context in contexts
    }
    return Planted(
        _cells(chosen, genes, states, of_contexts, measured),
        _atlas(chosen, genes),
        _truth(chosen, genes, states, of_contexts, measured),
    )


def _generator(options: PlantedOptions, *names: str | int) -> np.random.Generator:
    return random_generator(options.seed, "planted", *names)


def vocabulary_symbols() -> list[str]:
    """List, sorted, symbols of scGPT's human vocabulary that look like protein-coding genes (``STAT1``, ``MYC``).

    Read from the installed ``scgpt`` package (0.2.4) without importing it, which would take seconds.
    """
    package = importlib.util.find_spec("scgpt")
    if package is None or not package.submodule_search_locations:
        raise InputError("planted data", "gene symbols", "no package scgpt", "scgpt 0.2.4, for its vocabulary")
    folder = Path(package.submodule_search_locations[0])
    vocabulary = json.loads((folder / "tokenizer" / "default_census_vocab.json").read_text())
    return sorted(filter(SYMBOL.fullmatch, vocabulary))


def _module_starts(options: PlantedOptions) -> range:
    return range(0, options.modules * options.genes_per_module, options.genes_per_module)


def _genes(options: PlantedOptions, targets_of_module: list[slice]) -> _Genes:
    module = np.repeat(np.arange(options.modules), options.genes_per_module)
    n_genes = len(module)
    names = _names(options, n_genes, targets_of_module)
    random = _generator(options, "genes")
    loadings = np.zeros((n_genes, options.modules))
    sign = np.where(random.random(n_genes) < POSITIVE_SHARE, 1, -1)
    loadings[np.arange(n_genes), module] = sign * random.uniform(*LOADING, n_genes)
    second = (module + random.integers(1, options.modules, n_genes)) % options.modules
    loadings[np.arange(n_genes), second] = random.normal(0, SECOND_LOADING_SD, n_genes)
    base = random.normal(0, BASE_SD, n_genes)
    batch_factors = random.normal(0, BATCH_SD, (options.batches, n_genes))
    return _Genes(names, module, loadings, base, batch_factors)


def _names(options: PlantedOptions, n_genes: int, targets_of_module: list[slice]) -> np.ndarray:
    symbols = vocabulary_symbols()
    if n_genes > len(symbols):
        expected = f"at most {len(symbols)}, the symbols in scGPT's vocabulary"
        raise InputError("planted data", "modules x genes_per_module", str(n_genes), expected)
    names = _generator(options, "symbols").permutation(np.array(symbols, dtype=object))[:n_genes]
    others = np.ones(n_genes, dtype=bool)
    for targets in targets_of_module:
        others[targets] = False
    outside = _generator(options, "outside").permutation(np.flatnonzero(others))[: options.genes_outside_vocabulary]
    names[outside] = [f"PLANTED-{number}" for number in range(1, len(outside) + 1)]
    return names


@dataclass(frozen=True)
class _Effect:
    """Change of the log expected expression [genes]; module and change of its activity where there is one target."""

    change: np.ndarray
    module: int | None = None
    activity_change: float | None = None


Effects = Mapping[str, Mapping[str, _Effect]]  # by context and perturbation


def _effects(options: PlantedOptions, genes: _Genes, singles: np.ndarray) -> dict[str, _Effect]:
    """Compute the effects: control first, then single targets, then combinations."""
    effects = {CONTROL: _Effect(np.zeros(len(genes.names)))}
    effects |= {target: _knock_down(options, genes, target) for target in singles}
    pairs = [JOINED_BY.join(sorted(pair)) for pair in combinations(singles, 2)]
    for pair in _generator(options, "combinations").permutation(np.array(pairs, dtype=object))[: options.combinations]:
        effects[pair] = _Effect(sum(effects[target].change for target in genes_of(pair)))
    if options.structure:
        return effects
    return {name: _Effect(_scattered(options, effect.change, name)) for name, effect in effects.items()}


def _in_context(options: PlantedOptions, context: str, effects: dict[str, _Effect]) -> dict[str, _Effect]:
    """Mix what is the same in all contexts with what is not."""
    shared = options.carried_over
    if shared == 1:
        return effects
    return {
        name: _Effect(
            np.sqrt(shared) * effect.change
            + np.sqrt(1 - shared) * _scattered(options, effect.change, *Condition(name, context).drawn_for)
        )
        for name, effect in effects.items()
    }


def _knock_down(options: PlantedOptions, genes: _Genes, target: str) -> _Effect:
    random = _generator(options, "knock-down", target)
    position = int(np.flatnonzero(genes.names == target)[0])
    module = int(genes.module[position])
    activity_change = -np.sign(genes.own_loading[position]) * random.uniform(*ACTIVITY_CHANGE)
    change = genes.loadings[:, module] * activity_change
    change[position] += np.log(random.uniform(*RESIDUAL))
    return _Effect(change, module, float(activity_change))


def _scattered(options: PlantedOptions, change: np.ndarray, *drawn_for: str) -> np.ndarray:
    random = _generator(options, "scattered", *drawn_for)
    return random.permutation(change) * random.choice([-1, 1], len(change))


@dataclass(frozen=True)
class _Latent:
    """Cells before counting: log expression and gamma noise [cells x genes], library sizes [cells]."""

    log_expression: np.ndarray
    noise: np.ndarray
    library: np.ndarray


def _latent(
    random: np.random.Generator, options: PlantedOptions, genes: _Genes, states: np.ndarray, batch: np.ndarray | None
) -> _Latent:
    """Draw cells around ``states`` (module activities [cells x modules]); ``batch`` [cells] None: no batch effects."""
    n_cells, n_genes = len(states), len(genes.names)
    activities = states + random.normal(0, CELL_SD, states.shape)
    log_expression = genes.base + activities @ genes.loadings.T
    if batch is not None:
        log_expression += genes.batch_factors[batch]
    noise = random.standard_gamma(1 / DISPERSION, (n_cells, n_genes)) * DISPERSION
    library = options.library_size * np.exp(random.normal(0, LIBRARY_SD, n_cells))
    return _Latent(log_expression, noise, library)


def _counts(random: np.random.Generator, latent: _Latent, change: np.ndarray | float = 0.0) -> np.ndarray:
    """Draw gamma-Poisson counts [cells x genes] after a change of log expression."""
    expression = np.exp(latent.log_expression + change)
    expression *= latent.library[:, None] / expression.sum(axis=1, keepdims=True)
    return random.poisson(expression * latent.noise)


def _dealt(n_cells: int, groups: int) -> np.ndarray:
    return np.arange(n_cells) % groups


def _cells(
    options: PlantedOptions, genes: _Genes, states: Mapping[str, np.ndarray], effects: Effects, measured: np.ndarray
) -> anndata.AnnData:
    parts, tables = [], []
    for context, state in states.items():
        for perturbation, effect in effects[context].items():
            condition = Condition(perturbation, context)
            n_cells = options.control_cells if perturbation == CONTROL else options.cells_per_perturbation
            random = _generator(options, "cells", *condition.drawn_for)
            batch = _dealt(n_cells, options.batches)
            latent = _latent(random, options, genes, np.tile(state, (n_cells, 1)), batch)
            parts.append(_counts(random, latent, effect.change)[:, measured])
            names = ["-".join([*condition.drawn_for, str(number)]) for number in range(1, n_cells + 1)]
            batches = [f"batch{number + 1}" for number in batch]
            table = _observations(names, [perturbation] * n_cells, batches, [CELL_LINE] * n_cells)
            tables.append(table if context == ALL_CONTEXTS else table.assign(context=context, cell_type=context))
    return _raw(np.concatenate(parts), pd.concat(tables), genes.names[measured])


def _atlas(options: PlantedOptions, genes: _Genes) -> anndata.AnnData:
    state_of_cell = _dealt(options.atlas_cells, options.atlas_states)
    names = [f"state{number + 1}" for number in range(options.atlas_states)]
    states = np.stack([_generator(options, "state", name).normal(0, STATE_SD, options.modules) for name in names])
    random = _generator(options, "atlas")
    counts = _counts(random, _latent(random, options, genes, states[state_of_cell], batch=None))
    n_cells = options.atlas_cells
    cell_names = [f"atlas-{number}" for number in range(1, n_cells + 1)]
    obs = _observations(cell_names, [CONTROL] * n_cells, ["atlas"] * n_cells, [names[i] for i in state_of_cell])
    obs["half"] = INPUT  # no measured change is compared with them
    return _raw(counts, obs, genes.names)


def _observations(names: list[str], perturbation: list[str], batch: list[str], cell_type: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"perturbation": perturbation, "batch": batch, "cell_type": cell_type}, index=names)


def _raw(counts: np.ndarray, obs: pd.DataFrame, names: np.ndarray) -> anndata.AnnData:
    obs = obs.astype("category")
    return anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=names))


def _truth(
    options: PlantedOptions, genes: _Genes, states: Mapping[str, np.ndarray], effects: Effects, measured: np.ndarray
) -> anndata.AnnData:
    n_draws = options.truth_draws
    batch = _dealt(n_draws, options.batches)
    means, errors = [], []
    for context, state in states.items():
        random = _generator(options, "truth", *([] if context == ALL_CONTEXTS else ["context", context]))
        latent = _latent(random, options, genes, np.tile(state, (n_draws, 1)), batch)
        for perturbation, effect in effects[context].items():
            random = _generator(options, "truth", *Condition(perturbation, context).drawn_for)
            counts = _counts(random, latent, effect.change)[:, measured]
            values = np.log1p(counts * (options.target_sum / counts.sum(axis=1, keepdims=True)))
            means.append(values.mean(axis=0))
            errors.append(np.sqrt(np.mean(values.var(axis=0, ddof=1)) / n_draws))
    repeated = [effect for context in states for effect in effects[context].values()]
    names = [name for context in states for name in effects[context]]
    modules = [None if effect.module is None else f"module{effect.module + 1}" for effect in repeated]
    obs = pd.DataFrame(
        {
            "n_draws": n_draws,
            "standard_error": errors,
            "module": pd.Categorical(modules),
            "activity_change": np.array([effect.activity_change for effect in repeated], dtype=np.float64),
        },
        index=pd.Index(names, name="perturbation"),
    )
    if options.contexts:
        conditions = table_of([Condition(name, context) for context in states for name in effects[context]])
        obs = pd.concat([conditions, obs.set_axis(conditions.index)], axis=1).rename_axis("condition")
    var = pd.DataFrame(
        {"module": [f"module{number + 1}" for number in genes.module], "loading": genes.own_loading}, index=genes.names
    )
    return anndata.AnnData(np.stack(means), obs=obs, var=var[measured], uns={"target_sum": float(options.target_sum)})
