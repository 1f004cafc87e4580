"""Simple methods: each maps what was measured to learn from to the shift of every test perturbation, in one context.

Every method has the form ``method(training, test, **options) -> Shifts``. It sees control cells and pseudo-bulks of the
training and validation conditions (unlike scGPT, which stops training by the latter, it needs none to stop): those of
the context, or of all contexts where it has too few (:mod:`scgpt_bench.methods.training_data`). Some methods transfer
what a perturbation does in another context. Expression of test conditions is never read. An option that takes several
values is chosen by cross-validation (:mod:`scgpt_bench.methods.tuning`). :func:`predict` fits a method in each context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata
import numpy as np
import pandas as pd
from scipy import linalg, sparse

from scgpt_bench.data.gene_vectors import principal_scores
from scgpt_bench.data.means import FEWEST, group_means
from scgpt_bench.data.names import genes_of
from scgpt_bench.files import read_h5ad
from scgpt_bench.method_record import Embeddings
from scgpt_bench.methods import by_context
from scgpt_bench.methods.training_data import Shifts, ToPredict, TrainingData
from scgpt_bench.methods.tuning import NamedOptions, Tunable, listed, tuned
from scgpt_bench.predictions import Write

Number = float | Sequence[float]  # of an option: fixed, or candidates
Whole = int | Sequence[int]
Vectors = Callable[[TrainingData], pd.DataFrame]  # of genes, for what is learned from
Embedded: TypeAlias = "pd.DataFrame | VectorsOfContexts | None"  # None: what a method computes from the context itself
NEIGHBOURS = (1, 2, 3, 5, 10, 20)
COMPONENTS = (5, 10, 20, 50)
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


def predict(
    cells: anndata.AnnData,
    split: pd.DataFrame,
    controls: anndata.AnnData,
    method: Callable[..., Shifts],
    embeddings: Embedded = None,
    *,
    write: Write,
    **options: Any,
) -> dict[str, Any]:
    """Fit a simple method in each context and write every drawn control cell as predicted.

    Parameters
    ----------
    cells, split, controls, write
        As in :func:`by_context.predict`.
    method
        One of the functions below.
    embeddings
        Gene vectors [genes x dimensions], index: symbols, for the methods that can use them instead of their own;
        ``attrs`` tells where they come from and is written beside the prediction. Or :class:`VectorsOfContexts`.
    options
        Options of that method.

    Returns
    -------
    Entries of the method record.
    """
    given = options if embeddings is None else {**options, "embeddings": embeddings}
    record = by_context.predict(
        cells,
        split,
        controls,
        partial(method, **given),
        transfers=method in TRANSFERRING or isinstance(embeddings, VectorsOfContexts),
        learns=method is not control_mean,
        by_cell_type=method is type_mean,
        write=write,
    )
    if isinstance(embeddings, pd.DataFrame):
        without = int((~cells.var_names.isin(embeddings.index)).sum())
        sizes = {"dimensions": embeddings.shape[1], "genes_without_vector": without}
        record["embeddings"] = Embeddings(**embeddings.attrs, **sizes)
    return record


def control_mean(training: TrainingData, test: ToPredict) -> Shifts:
    """Predict no change."""
    return Shifts(np.zeros(test.control_means.shape))


def train_mean(
    training: TrainingData,
    test: ToPredict,
    weighting: Literal["perturbation", "cell"] = "perturbation",
    scaled: bool = True,
) -> Shifts:
    """Predict the mean change of the training perturbations; each counts once, or each of its cells."""

    def predict(training: TrainingData, test: ToPredict) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        weights = training.n_cells if weighting == "cell" else None
        mean_shift = np.average(training.shifts, axis=0, weights=weights)
        yield (), np.tile(mean_shift, (len(test.perturbations), 1))

    return tuned([Tunable("train-mean", {}, predict)], training, test, scaled, beside_mean=False)


def type_mean(training: TrainingData, test: ToPredict) -> Shifts:
    """Predict the mean change of each cell type, mixed as the cells of the perturbation are.

    The same as the mean over all cells to learn from, where there is one type. A type without such a cell has the mean
    of the training perturbations.
    """
    if training.of_cell_types is None:
        raise ValueError("no changes of cell types")
    changes = training.of_cell_types.reindex(test.cell_types.columns).to_numpy(copy=True)
    changes[np.isnan(changes).any(axis=1)] = training.shifts.mean(axis=0)
    return Shifts(test.cell_types.to_numpy() @ changes)


def context_mean(training: TrainingData, test: ToPredict, scaled: bool = True) -> Shifts:
    """Predict the mean, over contexts that count alike, of what their perturbations do on average."""

    def predict(training: TrainingData, test: ToPredict) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        yield (), np.tile(training.mean_over_contexts(), (len(test.perturbations), 1))

    return tuned([Tunable("context-mean", {}, predict)], training, test, scaled, beside_mean=False)


def same_perturbation(training: TrainingData, test: ToPredict, scaled: bool = True) -> Shifts:
    """Predict what the perturbation does in other contexts, in the same direction: the mean of its changes there.

    One that no other context shows is predicted as the mean of all perturbations, a fallback.
    """
    return _carried_over(tuned([_same()], training, test, scaled, beside_mean=False), training, test)


def same_perturbation_and_context(training: TrainingData, test: ToPredict, scaled: bool = True) -> Shifts:
    """Predict what a perturbation does in other contexts beside their mean change, from that of this context.

    ``m(c) + mean over c' of (shift(p, c') - m(c'))``, where ``m`` is the mean change of all perturbations. That of a
    context without enough training of its own is the mean over the others. Fallbacks are those of
    :func:`same_perturbation`.
    """
    return _carried_over(tuned([_same_and_context()], training, test, scaled, beside_mean=False), training, test)


def _same() -> Tunable:
    def predict(training: TrainingData, test: ToPredict) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        values, known = training.elsewhere(test.perturbations)
        values[~known] = training.shifts.mean(axis=0)
        yield (), values

    return Tunable("same-perturbation", {}, predict, transfers=True)


def _same_and_context() -> Tunable:
    def predict(training: TrainingData, test: ToPredict) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        values, known = training.elsewhere(test.perturbations, centred=True)
        own = training.shifts.mean(axis=0) if training.is_own else training.mean_over_contexts()
        values[known] += own
        values[~known] = training.shifts.mean(axis=0)
        yield (), values

    return Tunable("same-perturbation-and-context", {}, predict, transfers=True)


def _carried_over(shifts: Shifts, training: TrainingData, test: ToPredict) -> Shifts:
    """Note the perturbations that no other context shows."""
    names = [] if training.asks_of_seen else test.perturbations
    instead = ("not seen in another context in this direction", "mean of all training perturbations")
    return Shifts(shifts.values, dict.fromkeys(names, instead), shifts.chosen)


def additive(training: TrainingData, test: ToPredict, scaled: bool = True) -> Shifts:
    """Predict that a combination does the sum of what its genes did alone.

    A gene that was not perturbed alone counts with the mean shift of the single-gene perturbations (of all
    perturbations, where there is no single one): a fallback.
    """
    shifts = tuned([_sums()], training, test, scaled, beside_mean=False)
    fallbacks = {}
    for name in test.perturbations:
        genes = genes_of(name)
        missing = [gene for gene in genes if gene not in training.perturbations]
        if missing:
            which = "" if len(missing) == len(genes) else f"{', '.join(missing)} "
            fallbacks[name] = (f"{which}not perturbed alone in training", "mean single shift instead")
    return Shifts(shifts.values, fallbacks, shifts.chosen)


def _sums() -> Tunable:
    def predict(training: TrainingData, test: ToPredict) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        single = {
            name: shift for name, shift in zip(training.perturbations, training.shifts, strict=True) if "+" not in name
        }
        unseen = np.mean(list(single.values()) or training.shifts, axis=0)
        yield (), np.array([sum(single.get(gene, unseen) for gene in genes_of(name)) for name in test.perturbations])

    return Tunable("additive", {}, predict)


def ridge(
    training: TrainingData,
    test: ToPredict,
    embeddings: Embedded = None,
    penalty: Number = PENALTIES,
    components: Whole = COMPONENTS,
    scaled: bool = True,
) -> Shifts:
    """Fit the bilinear model Y - b ~ G K P' of Ahlmann-Eltze, Huber and Anders (2025, Nature Methods).

    ``Y`` [genes x conditions] are the changes of the perturbations and of the control, which is 0; ``b`` their mean;
    ``G`` [genes x components] the principal component scores of the genes over the pseudo-bulks of the same conditions;
    ``P`` [conditions x dimensions] the rows of ``G`` (or of ``embeddings``) of the perturbed genes. The closed form
    with the penalty on both sides is that of the authors' ``solve_y_axb`` (run_linear_pretrained_model.R):
    ``K = (G'G + penalty)^-1 G'(Y - b)P (P'P + penalty)^-1``. They have a penalty of 0.1 and 10 components.

    Rules where the paper has none: the row of a combination is the sum of its genes' rows; a gene without a row, like
    the control, counts as a row of zeros, so a perturbation of such genes is predicted as ``b``.
    """
    member = _bilinear(embeddings, penalty, components)
    shifts = tuned([_on(embeddings, member)], training, test, scaled)
    rows = pd.DataFrame(index=training.genes) if embeddings is None else _vectors(embeddings)(training)
    return Shifts(shifts.values, _without_vector(_perturbation_rows(test.perturbations, rows)[1]), shifts.chosen)


def _bilinear(embeddings: Embedded, penalty: Number, components: Whole) -> Tunable:
    def predict(
        training: TrainingData, test: ToPredict, penalty: Sequence[float], components: Sequence[int]
    ) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        control = (training.means - training.shifts).mean(axis=0, keepdims=True)
        scores = _gene_scores(np.concatenate([control, training.means]), max(components))
        Y = np.concatenate([np.zeros_like(control), training.shifts])
        b = Y.mean(axis=0)
        projected = (Y - b) @ scores
        smooth: dict[float, np.ndarray] = {}  # of each penalty: what each condition counts for each test perturbation
        for number in components:
            G = scores[:, :number]
            if embeddings is None or not smooth:
                rows = pd.DataFrame(G, index=training.genes) if embeddings is None else _vectors(embeddings)(training)
                P, _ = _perturbation_rows(training.perturbations, rows)
                P, test_rows = np.concatenate([0 * P[:1], P]), _perturbation_rows(test.perturbations, rows)[0]
                smooth = {each: _smoother(P, test_rows, each) for each in penalty}
            for each in penalty:
                left = np.linalg.solve(_penalized(G.T @ G, each), (smooth[each] @ projected[:, :number]).T)
                yield (("penalty", each), ("components", number)), b + left.T @ G.T

    name = "ridge" if embeddings is None else "ridge on vectors"
    return Tunable(name, {"penalty": listed(penalty), "components": listed(components)}, predict)


def _smoother(P: np.ndarray, test_rows: np.ndarray, penalty: float) -> np.ndarray:
    """Compute ``test_rows (P'P + penalty)^-1 P'`` [tests x conditions] through P'P or, if that is smaller, PP'."""
    if P.shape[1] > len(P):
        return np.linalg.solve(_penalized(P @ P.T, penalty), P @ test_rows.T).T
    return test_rows @ np.linalg.solve(_penalized(P.T @ P, penalty), P.T)


def _penalized(gram: np.ndarray, penalty: float) -> np.ndarray:
    return gram + penalty * np.eye(len(gram))


def _gene_scores(expression: np.ndarray, components: int) -> np.ndarray:
    """Principal component scores of genes [genes x components], conditions being the variables [conditions x genes]."""
    return _principal(expression - expression.mean(axis=1, keepdims=True), components)


def _principal(matrix: np.ndarray, components: int) -> np.ndarray:
    """Multiply a transposed matrix [rows x genes] with its first left singular vectors: [genes x components].

    Through the smaller of rows x rows and genes x genes. The first has most variance; those without any are left out.
    """
    wide = matrix.shape[1] >= len(matrix)
    squares = matrix @ matrix.T if wide else matrix.T @ matrix
    n = len(squares)
    variances, axes = linalg.eigh(squares, subset_by_index=[max(n - components, 0), n - 1])
    kept = (variances > 1e-12 * variances[-1]).nonzero()[0][::-1]
    return matrix.T @ axes[:, kept] if wide else axes[:, kept] * np.sqrt(variances[kept])


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
    embeddings: Embedded = None,
    neighbours: Whole = NEIGHBOURS,
    components: Whole = COMPONENTS,
    scaled: bool = True,
) -> Shifts:
    """Predict the mean shift of the perturbations whose genes are most similar to the perturbed genes.

    Similarity is the cosine of gene vectors: ``embeddings``, or co-expression among the control cells
    (:func:`coexpression`). A combination has the sum of its genes' vectors. Ties go to the name that sorts first. A
    perturbation without any vector is nobody's neighbour: fewer than ``neighbours`` are averaged where fewer have one.
    One without any vector gets the mean of all perturbations, as all do where none of those has a vector, and the
    record says so: as where fewer than ``FEWEST`` control cells show any co-expression.
    """
    vectors = _vectors(embeddings, max(listed(components)))
    member = _nearest(vectors, neighbours, components if embeddings is None else ())
    shifts = tuned([_on(embeddings, member)], training, test, scaled)
    rows = vectors(training)
    test_rows, missing = _perturbation_rows(test.perturbations, rows)
    known = _perturbation_rows(training.perturbations, rows)[0].any()
    why = "no vector" if rows.shape[1] else f"no co-expression in {training.controls.n_obs} control cells"
    not_asked = [test.perturbations[i] for i in np.flatnonzero(~(test_rows.any(axis=1) & known))]
    instead = dict.fromkeys(not_asked, (why, "mean of all training perturbations"))
    return Shifts(shifts.values, _without_vector(missing) | instead, shifts.chosen)


@dataclass
class VectorsOfContexts:
    """Gene vectors from the other contexts of what is learned from: principal components of their changes.

    Genes that are perturbed alone in some other context have one: :func:`gene_vectors.principal_scores` of the mean of
    their changes there. None has, where fewer than ``FEWEST`` genes are.
    """

    components: int
    _made_of: Mapping[str, TrainingData] | None = None  # the last, which folds of one context share
    _last: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __call__(self, training: TrainingData) -> pd.DataFrame:
        """Compute them, float32 [genes x components]."""
        if self._made_of is not training.others:
            names = {name for other in training.others.values() for name in other.perturbations}
            single = sorted(name for name in names if len(genes_of(name)) == 1)
            changes = pd.DataFrame(training.elsewhere(single)[0], index=single)
            empty = pd.DataFrame(index=pd.Index([], dtype=object))
            self._last = principal_scores(changes, self.components) if len(single) >= FEWEST else empty
            self._made_of = training.others
        return self._last


def _vectors(embeddings: Embedded, components: int = 0) -> Vectors:
    """Give the gene vectors of a context: ``embeddings``, or else co-expression among its control cells."""
    known: dict[int, pd.DataFrame] = {}  # by the control cells, which folds of one context share

    def vectors(training: TrainingData) -> pd.DataFrame:
        if isinstance(embeddings, pd.DataFrame):
            return embeddings
        if embeddings is not None:
            return embeddings(training)
        if id(training.controls) not in known:
            known[id(training.controls)] = coexpression(training.controls, components)
        return known[id(training.controls)]

    return vectors


def _on(embeddings: Embedded, member: Tunable) -> Tunable:
    """Note that a method transfers from other contexts, if its gene vectors do."""
    return replace(member, transfers=isinstance(embeddings, VectorsOfContexts))


def _nearest(vectors: Vectors, neighbours: Whole, components: Whole) -> Tunable:
    """Average neighbours by gene vectors, or by the first ``components`` of them where it names some."""

    def predict(
        training: TrainingData, test: ToPredict, neighbours: Sequence[int], components: Sequence[int] = ()
    ) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        rows = vectors(training)
        train_rows, _ = _perturbation_rows(training.perturbations, rows)
        test_rows, _ = _perturbation_rows(test.perturbations, rows)
        known = train_rows.any(axis=1)
        unknown = ~(test_rows.any(axis=1) & known.any())
        for number in components or [rows.shape[1]]:
            similarity = _unit(test_rows[:, :number]) @ _unit(train_rows[:, :number]).T
            similarity[:, ~known] = -np.inf
            order = np.argsort(-similarity, axis=1, kind="stable")
            total, averaged = np.zeros((len(test_rows), len(training.genes))), 0
            for wanted in sorted(neighbours):
                for _ in range(averaged, max(1, min(wanted, known.sum()))):
                    total += training.shifts[order[:, averaged]]
                    averaged += 1
                values = total / averaged
                values[unknown] = training.shifts.mean(axis=0)
                options = (("neighbours", wanted), ("components", number))
                yield options if components else options[:1], values

    if not listed(components):
        return Tunable("knn on vectors", {"neighbours": listed(neighbours)}, predict)
    return Tunable("knn", {"neighbours": listed(neighbours), "components": listed(components)}, predict)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def coexpression(controls: anndata.AnnData, components: int) -> pd.DataFrame:
    """Compute vectors [genes x components] whose cosine is the correlation of two genes over control cells, denoised.

    Principal components of control expression, the first with most variance, centred within cell type and scaled to
    unit variance per gene. Genes without variance have no row; nor has any gene where fewer than ``FEWEST`` cells or
    genes vary.

    Parameters
    ----------
    controls
        Control cells of one context, which are made dense: not more than some thousands.
    components
        Components; fewer where there are fewer cells or genes.
    """
    types = pd.Categorical(controls.obs["cell_type"].astype(str))
    means, _ = group_means(controls.X, types, list(types.categories))
    cells = controls.X.astype(np.float64)
    cells = cells.toarray() if sparse.issparse(cells) else cells
    for code, mean in enumerate(means):
        cells[types.codes == code] -= mean
    variances = np.einsum("cg,cg->g", cells, cells) / max(len(cells), 1)
    varying = variances > 1e-12
    fewest = min(len(cells), int(varying.sum()))
    if fewest < FEWEST:
        return pd.DataFrame(index=controls.var_names[:0])
    cells /= np.where(varying, np.sqrt(variances), np.inf)
    scores = _principal(cells, min(components, fewest - 1))
    return pd.DataFrame(scores[varying], index=controls.var_names[varying])


def forest(
    training: TrainingData,
    test: ToPredict,
    embeddings: Embedded = None,
    components: int = 20,
    trees: int = 100,
    max_features: Number = (0.3, 1.0),
    max_depth: Whole = (3, 10),
    scaled: bool = True,
    seed: int = 0,
) -> Shifts:
    """Predict principal components of the changes by a random forest on gene vectors.

    Vectors are those of :func:`knn`, and ``components`` their number where they are of co-expression. The forest is
    scikit-learn's; it predicts the first 20 principal components of the changes that it learns from.
    """
    vectors = _vectors(embeddings, components)
    member = _grown(vectors, trees, max_features, max_depth, seed)
    shifts = tuned([_on(embeddings, member)], training, test, scaled)
    rows = vectors(training)
    return Shifts(shifts.values, _without_vector(_perturbation_rows(test.perturbations, rows)[1]), shifts.chosen)


def _grown(vectors: Vectors, trees: int, max_features: Number, max_depth: Whole, seed: int) -> Tunable:
    def predict(
        training: TrainingData, test: ToPredict, max_features: Sequence[float], max_depth: Sequence[int]
    ) -> Iterator[tuple[NamedOptions, np.ndarray]]:
        from sklearn.ensemble import RandomForestRegressor

        rows = vectors(training)
        train_rows, _ = _perturbation_rows(training.perturbations, rows)
        test_rows, _ = _perturbation_rows(test.perturbations, rows)
        mean = training.shifts.mean(axis=0)
        axes = _principal(training.shifts - mean, 20)
        axes /= np.linalg.norm(axes, axis=0)
        targets, predicted = (training.shifts - mean) @ axes, np.zeros((len(test_rows), axes.shape[1]))
        targets = targets.ravel() if axes.shape[1] == 1 else targets  # as scikit-learn wants a single one
        for share, depth in product(max_features, max_depth):
            if targets.size and rows.shape[1]:
                # A whole number would be one of features.
                grown = RandomForestRegressor(trees, max_depth=depth, max_features=float(share), random_state=seed)
                predicted = grown.fit(train_rows, targets).predict(test_rows).reshape(predicted.shape)
            yield (("max_features", share), ("max_depth", depth)), mean + predicted @ axes.T

    return Tunable("forest", {"max_features": listed(max_features), "max_depth": listed(max_depth)}, predict)


def tuned_simple(training: TrainingData, test: ToPredict, embeddings: Embedded = None) -> Shifts:
    """Add up what the simple methods with options predict beside the mean change, each with a weight of its own.

    They are :func:`ridge` and :func:`knn`, on ``embeddings`` as well if there are any, and :func:`additive` where some
    combination can be learned from; also :func:`same_perturbation` and :func:`same_perturbation_and_context` for
    perturbations that other contexts show.
    """
    members = [_bilinear(None, PENALTIES, COMPONENTS)]
    members.append(_nearest(_vectors(None, max(COMPONENTS)), NEIGHBOURS, COMPONENTS))
    if embeddings is not None:
        members.append(_on(embeddings, _bilinear(embeddings, PENALTIES, COMPONENTS)))
        members.append(_on(embeddings, _nearest(_vectors(embeddings), NEIGHBOURS, ())))
    if any("+" in name for name in training.perturbations):
        members.append(_sums())
    if training.asks_of_seen:
        members += [_same(), _same_and_context()]
    return tuned(members, training, test)


def target_only(training: TrainingData, test: ToPredict) -> Shifts:
    """Change only the targeted genes, by the relative expression that training perturbations left of their targets.

    On the scale of normalized counts: ``remaining = sum expm1(mean of the target) / sum expm1(its control mean)`` over
    all measured targets of training perturbations, so that well measured targets count most. A target with control
    mean ``c`` (log1p) is predicted as ``log1p(remaining * expm1(c))``. A target that was not measured changes nothing
    that is measured; without any measured target in training ``remaining`` is 1. Notes say so.
    """
    left = before = 0.0
    for i, name in enumerate(training.perturbations):
        targets = training.genes.get_indexer(genes_of(name))
        targets = targets[targets >= 0]
        left += np.expm1(np.maximum(training.means[i, targets], 0)).sum()  # no mean over contexts is below 0
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


TRANSFERRING = (context_mean, same_perturbation, same_perturbation_and_context, tuned_simple)


def read_embeddings(path: str | Path) -> pd.DataFrame:
    """Read gene vectors for :func:`predict` from an h5ad of genes x dimensions; ``uns`` has their origin."""
    embeddings = read_h5ad(path)
    table = embeddings.to_df()
    table.attrs = {key: value.item() if hasattr(value, "item") else value for key, value in embeddings.uns.items()}
    return table
