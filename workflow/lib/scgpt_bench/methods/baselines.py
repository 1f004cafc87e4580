"""Simple methods: each maps what training perturbations did to the shift of every test perturbation, in one context.

Every method has the form ``method(training, test, **options) -> Shifts``. It sees control cells and pseudo-bulks of the
training perturbations of the context: expression of test perturbations is never read, and neither is that of validation
perturbations, which scGPT uses only to stop training. :func:`predict` fits it in each context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import linalg, sparse
from scipy.sparse import linalg as sparse_linalg

from scgpt_bench.data.conditions import CONTEXT, Condition, conditions_of, contexts_of
from scgpt_bench.data.controls import control_means_of
from scgpt_bench.data.halves import INPUT
from scgpt_bench.data.means import FEWEST, cells_of, condition_means, group_means
from scgpt_bench.data.names import CONTROL, genes_of
from scgpt_bench.data.references import references
from scgpt_bench.errors import InputError
from scgpt_bench.files import read_h5ad
from scgpt_bench.method_record import Embeddings, Training
from scgpt_bench.predictions import shifted_controls


@dataclass(frozen=True)
class TrainingData:
    """All that a method may learn from, of one context.

    Attributes
    ----------
    genes
        The genes of ``cells.h5ad``.
    controls
        All control cells.
    perturbations
        Training perturbations, sorted.
    means, shifts
        float64 [perturbations x genes]: mean over the cells, and the same minus the matched control mean.
    n_cells
        int64 [perturbations].
    """

    genes: pd.Index
    controls: anndata.AnnData
    perturbations: list[str]
    means: np.ndarray
    shifts: np.ndarray
    n_cells: np.ndarray


@dataclass(frozen=True)
class ToPredict:
    """What a method may know of the perturbations to predict in a context: names, and the control means
    [perturbations x genes] that they are compared with, which depend on the cell types in which they were measured, not
    on what was measured.
    """

    perturbations: list[str]
    control_means: np.ndarray


@dataclass(frozen=True)
class Shifts:
    """Predicted change of the mean, float64 [perturbations x genes].

    ``fallbacks`` has, for each perturbation that the method could not be asked about, what it lacked of which target
    and what it predicts instead.
    """

    values: np.ndarray
    fallbacks: dict[str, tuple[str, str]] = field(default_factory=dict)


def training_data(cells: anndata.AnnData, split: pd.DataFrame, context: str = CONTEXT) -> TrainingData:
    """Average the cells of the training conditions of a context; of other cells only its controls count."""
    conditions = [c for c in conditions_of(split, "train") if c.context == context]
    if not conditions:
        found = "no perturbation with role 'train'" + ("" if context == CONTEXT else f" in context {context!r}")
        raise InputError("split.tsv", "role", found, "at least one to learn from")
    means, n_cells = condition_means(cells, conditions)
    shifts = means - references(cells, conditions, INPUT)
    controls = cells_of(cells, [Condition(CONTROL, context)], INPUT)
    names = [condition.perturbation for condition in conditions]
    return TrainingData(cells.var_names, controls, names, means, shifts, n_cells)


def to_predict(controls: anndata.AnnData, context: str = CONTEXT) -> ToPredict:
    """List the test perturbations of a context, sorted, with their control means: those of ``controls.h5ad``."""
    means = {c.perturbation: mean for c, mean in control_means_of(controls).items() if c.context == context}
    return ToPredict([*means], np.array([*means.values()]))


def predict(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    controls: anndata.AnnData,
    method: Callable[..., Shifts],
    embeddings: pd.DataFrame | None = None,
    **options: Any,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit a method in each context and predict every drawn control cell.

    In a context without training conditions nothing can be learned: no change is predicted, and the record says so.

    Parameters
    ----------
    cells, split, controls
        ``cells.h5ad``, whose X may stay on disk; ``split.tsv``, ``controls.h5ad``.
    method
        One of the functions below.
    embeddings
        Gene vectors [genes x dimensions], index: symbols, for the methods that can use them instead of their own;
        ``attrs`` tells where they come from and is written beside the prediction.
    options
        Options of that method.

    Returns
    -------
    Predicted cells, float32 [rows of ``controls`` x genes], and entries of the method record.
    """
    given = {} if embeddings is None else {"embeddings": embeddings}
    trained = conditions_of(split, "train")
    shifts: dict[Condition, np.ndarray] = {}
    fallbacks: dict[Condition, tuple[str, str]] = {}
    learned, n_cells = set(), 0
    for context in contexts_of(controls.obs):
        test = to_predict(controls, context)
        if trained and not any(condition.context == context for condition in trained):
            asked = test.perturbations if method is not control_mean else []  # it has nothing to learn
            nothing = dict.fromkeys(asked, ("nothing to learn from in this context", "no change"))
            of_context = Shifts(np.zeros(test.control_means.shape), nothing)
        else:
            training = training_data(cells, split, context)
            learned.update(training.perturbations)
            n_cells += int(training.n_cells.sum())
            of_context = method(training, test, **given, **options)
        tested = [Condition(name, context) for name in test.perturbations]
        shifts |= dict(zip(tested, of_context.values, strict=True))
        fallbacks |= {Condition(name, context): fallback for name, fallback in of_context.fallbacks.items()}
    record: dict[str, Any] = {
        "fallbacks": fallbacks,
        "training": Training(perturbations=len(learned), cells=n_cells),
    }
    if embeddings is not None:
        without = int((~cells.var_names.isin(embeddings.index)).sum())
        found = {"dimensions": embeddings.shape[1], "genes_without_vector": without}
        record["embeddings"] = Embeddings(**embeddings.attrs, **found)
    means = control_means_of(controls)
    moved = shifted_controls(controls, [*means], np.array([*means.values()]), np.array([shifts[c] for c in means]))
    return moved, record


def control_mean(training: TrainingData, test: ToPredict) -> Shifts:
    """Nothing changes."""
    return Shifts(np.zeros(test.control_means.shape))


def train_mean(
    training: TrainingData, test: ToPredict, weighting: Literal["perturbation", "cell"] = "perturbation"
) -> Shifts:
    """Every perturbation does what the training perturbations do on average, each of them (or each cell) once."""
    weights = training.n_cells if weighting == "cell" else None
    mean_shift = np.average(training.shifts, axis=0, weights=weights)
    return Shifts(np.tile(mean_shift, (len(test.perturbations), 1)))


def additive(training: TrainingData, test: ToPredict) -> Shifts:
    """Predict that a combination does the sum of what its genes did alone.

    A gene that was not perturbed alone in training counts with the mean shift of the single-gene training
    perturbations (of all training perturbations, where there is no single one): a fallback.
    """
    single = {
        name: shift for name, shift in zip(training.perturbations, training.shifts, strict=True) if "+" not in name
    }
    unseen = np.mean(list(single.values()) or training.shifts, axis=0)
    values, fallbacks = [], {}
    for name in test.perturbations:
        genes = genes_of(name)
        values.append(sum(single.get(gene, unseen) for gene in genes))
        missing = [gene for gene in genes if gene not in single]
        if missing:
            which = "" if len(missing) == len(genes) else f"{', '.join(missing)} "
            fallbacks[name] = (f"{which}not perturbed alone in training", "mean single shift instead")
    return Shifts(np.array(values), fallbacks)


def ridge(
    training: TrainingData,
    test: ToPredict,
    embeddings: pd.DataFrame | None = None,
    penalty: float = 0.1,
    components: int = 10,
) -> Shifts:
    """Fit the bilinear model Y - b ~ G K P' of Ahlmann-Eltze, Huber and Anders (2025, Nature Methods).

    ``Y`` [genes x conditions] are the changes of the training perturbations and of the control, which is 0; ``b`` their
    mean; ``G`` [genes x components] the principal component scores of the genes over the pseudo-bulks of the same
    conditions; ``P`` [conditions x dimensions] the rows of ``G`` (or of ``embeddings``) of the perturbed genes. The
    closed form with the penalty on both sides is that of the authors' ``solve_y_axb``
    (run_linear_pretrained_model.R): ``K = (G'G + penalty)^-1 G'(Y - b)P (P'P + penalty)^-1``.

    Rules where the paper has none: the row of a combination is the sum of its genes' rows; a gene without a row, like
    the control, counts as a row of zeros, so a perturbation of such genes is predicted as ``b``.
    """
    control = np.asarray(training.controls.X.mean(axis=0, dtype=np.float64)).reshape(1, -1)
    G = _gene_scores(np.concatenate([control, training.means]), components)
    rows = pd.DataFrame(G, index=training.genes) if embeddings is None else embeddings
    P, _ = _perturbation_rows(training.perturbations, rows)
    P = np.concatenate([np.zeros((1, P.shape[1])), P])
    Y = np.concatenate([np.zeros_like(control), training.shifts])
    b = Y.mean(axis=0)
    left = np.linalg.solve(_penalized(G.T @ G, penalty), ((Y - b) @ G).T @ P)
    K = np.linalg.solve(_penalized(P.T @ P, penalty), left.T)
    test_rows, missing = _perturbation_rows(test.perturbations, rows)
    return Shifts(b + test_rows @ K @ G.T, _without_vector(missing))


def _penalized(gram: np.ndarray, penalty: float) -> np.ndarray:
    return gram + penalty * np.eye(len(gram))


def _gene_scores(expression: np.ndarray, components: int) -> np.ndarray:
    """Principal component scores of genes [genes x components], conditions being the variables [conditions x genes].

    Through the small conditions x conditions matrix; components without variance are left out.
    """
    centred = expression - expression.mean(axis=1, keepdims=True)
    n = len(centred)
    variances, axes = linalg.eigh(centred @ centred.T, subset_by_index=[max(n - components, 0), n - 1])
    return centred.T @ axes[:, variances > 1e-12 * variances[-1]]


def _perturbation_rows(perturbations: list[str], rows: pd.DataFrame) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Sum of the rows of each perturbation's genes [perturbations x dimensions], and the genes without a row."""
    vector_of = dict(zip(rows.index, rows.to_numpy(), strict=True))
    nothing = np.zeros(rows.shape[1])
    values = [sum((vector_of.get(gene, nothing) for gene in genes_of(name)), nothing) for name in perturbations]
    missing = {name: [gene for gene in genes_of(name) if gene not in vector_of] for name in perturbations}
    return np.array(values), {name: genes for name, genes in missing.items() if genes}


def _without_vector(missing: dict[str, list[str]]) -> dict[str, tuple[str, str]]:
    """Fallbacks of perturbations with genes that have no vector."""
    fallbacks = {}
    for name, genes in missing.items():
        which = "" if len(genes) == len(genes_of(name)) else f" of {', '.join(genes)}"
        fallbacks[name] = (f"no vector{which}", "counted as zero")
    return fallbacks


def knn(
    training: TrainingData,
    test: ToPredict,
    embeddings: pd.DataFrame | None = None,
    neighbours: int = 5,
    components: int = 10,
) -> Shifts:
    """Predict the mean shift of the training perturbations whose genes are most similar to the perturbed genes.

    Similarity is the cosine of gene vectors: ``embeddings``, or co-expression among the control cells
    (:func:`coexpression`). A combination has the sum of its genes' vectors. Ties go to the name that sorts first. A
    training perturbation without any vector is nobody's neighbour: fewer than ``neighbours`` are averaged where fewer
    have one. A perturbation without any vector gets the mean of all training perturbations, as all do where none of
    those has a vector, and the record says so: as where fewer than ``FEWEST`` control cells show any co-expression.
    """
    rows = coexpression(training.controls, components) if embeddings is None else embeddings
    train_rows, _ = _perturbation_rows(training.perturbations, rows)
    test_rows, missing = _perturbation_rows(test.perturbations, rows)
    similarity = _unit(test_rows) @ _unit(train_rows).T
    known = train_rows.any(axis=1)
    similarity[:, ~known] = -np.inf
    averaged = max(1, min(neighbours, known.sum()))  # with none known, any: the values are replaced below
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :averaged]
    values = training.shifts[nearest].mean(axis=1)
    unknown = ~(test_rows.any(axis=1) & known.any())
    values[unknown] = training.shifts.mean(axis=0)
    not_asked = [test.perturbations[i] for i in np.flatnonzero(unknown)]
    why = "no vector" if rows.shape[1] else f"no co-expression in {training.controls.n_obs} control cells"
    instead = dict.fromkeys(not_asked, (why, "mean of all training perturbations"))
    return Shifts(values, _without_vector(missing) | instead)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def coexpression(controls: anndata.AnnData, components: int) -> pd.DataFrame:
    """Gene vectors [genes x components] whose cosine is the correlation of two genes over control cells, denoised.

    Principal components of control expression, centred within cell type and scaled to unit variance per gene. Genes
    without variance have no row; nor has any gene where fewer than ``FEWEST`` cells or genes vary.
    """
    types = pd.Categorical(controls.obs["cell_type"].astype(str))
    X = sparse.csr_matrix(controls.X, dtype=np.float64)
    means, n_cells = group_means(X, types, list(types.categories))
    squares = np.bincount(X.indices, weights=np.square(X.data), minlength=X.shape[1])
    variances = np.maximum(squares - n_cells @ np.square(means), 0) / X.shape[0]
    varying = np.flatnonzero(variances > 1e-12)
    if min(X.shape[0], len(varying)) < FEWEST:
        return pd.DataFrame(index=controls.var_names[:0])
    X, means, deviations = X[:, varying], means[:, varying], np.sqrt(variances[varying])

    def forward(v: np.ndarray) -> np.ndarray:
        v = v.ravel() / deviations
        return X @ v - (means @ v)[types.codes]

    def backward(u: np.ndarray) -> np.ndarray:
        u = u.ravel()
        return (X.T @ u - means.T @ np.bincount(types.codes, weights=u, minlength=len(means))) / deviations

    operator = sparse_linalg.LinearOperator(X.shape, matvec=forward, rmatvec=backward, dtype=np.float64)
    k = min(components, min(X.shape) - 1)
    # A fixed start makes the iteration, and so the neighbours, the same in every run. It has the smaller length: over
    # cells, equal values would be nothing once centred.
    start = np.ones(X.shape[1])
    start = start if X.shape[0] > X.shape[1] else forward(start)
    _, scales, axes = sparse_linalg.svds(operator, k=k, v0=start)
    return pd.DataFrame(axes.T * scales, index=controls.var_names[varying])


def target_only(training: TrainingData, test: ToPredict) -> Shifts:
    """Only the targeted genes change, by the relative expression that training perturbations left of their targets.

    On the scale of normalized counts: ``remaining = sum expm1(mean of the target) / sum expm1(its control mean)`` over
    all measured targets of training perturbations, so that well measured targets count most. A target with control
    mean ``c`` (log1p) is predicted as ``log1p(remaining * expm1(c))``. A target that was not measured changes nothing
    that is measured; without any measured target in training ``remaining`` is 1. Notes say so.
    """
    left = before = 0.0
    for i, name in enumerate(training.perturbations):
        targets = training.genes.get_indexer(genes_of(name))
        targets = targets[targets >= 0]
        left += np.expm1(training.means[i, targets]).sum()
        before += np.expm1(training.means[i, targets] - training.shifts[i, targets]).sum()
    remaining = left / before if before > 0 else 1.0
    values, fallbacks = np.zeros(test.control_means.shape), {}
    for i, name in enumerate(test.perturbations):
        targets = training.genes.get_indexer(genes_of(name))
        if (targets < 0).any():
            fallbacks[name] = ("not every target is measured", "no change by the others")
        targets = targets[targets >= 0]
        values[i, targets] = (
            np.log1p(remaining * np.expm1(test.control_means[i, targets])) - test.control_means[i, targets]
        )
    if before <= 0:
        fallbacks = dict.fromkeys(test.perturbations, ("no target expressed in training", "no change"))
    return Shifts(values, fallbacks)


def read_embeddings(path: str | Path) -> pd.DataFrame:
    """Gene vectors for :func:`predict` from an h5ad of genes x dimensions whose ``uns`` tells where they come from."""
    embeddings = read_h5ad(path)
    table = embeddings.to_df()
    table.attrs = {key: value.item() if hasattr(value, "item") else value for key, value in embeddings.uns.items()}
    return table
