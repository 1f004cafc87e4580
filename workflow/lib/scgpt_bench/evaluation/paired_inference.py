"""How far the mean score of a method is from those of its opponents: p-value, interval and detectable difference.

All of them come from one standard error and cannot contradict one another. It is that of a mean over conditions and
training seeds, both drawn at random:

- conditions that share a target gene, or are copies of one perturbation in several contexts, are related: the variance
  sums over all related pairs (dyadic; Aronow, Samii and Assenova 2015, Political Analysis 23:564), corrected for its
  bias and never below that of independent conditions;
- where the answer is to hold in other contexts than those that were held out, conditions of one context are related too
  (two-way clustering; Cameron, Gelbach and Miller 2011, Journal of Business & Economic Statistics 29:238), and the
  degrees of freedom are those of a mean over contexts;
- seeds are crossed with conditions, so that a seed effect does not average out over conditions;
- over pooled folds of one dealing the part of the conditions is widened, because training sets overlap (Nadeau and
  Bengio 2003, Machine Learning 52:239).

Degrees of freedom are Satterthwaite's. For skewed differences the outer one of t and Hall's transformation of it counts
(Hall 1992, Journal of the Royal Statistical Society B 54:221). Without relatives, seeds and folds, and for symmetric
differences, it is the paired t-test.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import sparse
from scipy.special import chdtri, nctdtrinc, ndtr, ndtri, stdtr, stdtrit

from scgpt_bench.data.names import genes_of
from scgpt_bench.seeding import random_generator

SIGNIFICANCE = 0.05  # two-sided
POWER = 0.8  # of the smallest detectable difference
FEWEST_CONDITIONS = 3
LOWEST_DF = 5.0  # as of six independent conditions; below, p-values rest on the assumed shape of the differences
NEEDED = f"at least {LOWEST_DF + 1:.0f} independent ones are needed"
LOWEST_BIAS = 0.3  # below, most pairs of conditions share a gene: their spread says little of the variance of the mean
FEWEST_CONTEXTS = 4  # that say something of others
LOWEST_DF_OF_CONTEXTS = 2.0  # as of three contexts of one size: each is a mean over conditions, of nearly normal shape
# A p-value of 0.05 is known to 0.002 (one standard deviation), the smallest is 0.0001: Holm's correction reaches 0.05
# for hundreds of methods. With one more, 2.5 % of the draws are a whole number, so that p-value and interval agree.
DRAWS = 19_999


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is known of the variance of a mean over these conditions before any score is.

    Attributes
    ----------
    n
        Number of conditions.
    bias
        Expected over true variance of the dyadic estimate: the smallest of those for independent conditions, for
        differences that are sums over genes and, where contexts are drawn too, for differences between contexts.
    df
        Degrees of freedom: Satterthwaite's; n - 1 where no two conditions are related. Where contexts are drawn too,
        those of a mean over contexts, if they are fewer.
    refusal
        Why no verdict can be given; empty where one can.
    genes
        1 where two conditions share a gene, and on the diagonal, sparse [n x n]; None where no two are related at all.
    contexts
        1 where a condition is of a context [n x contexts]; None where contexts are taken as given.
    """

    n: int
    bias: float
    df: float
    refusal: str
    genes: sparse.csr_array | None = None
    contexts: np.ndarray | None = None

    def over_related(self, values: np.ndarray) -> np.ndarray:
        """Sum values [n x K] over the conditions that are related to each, itself included."""
        if self.genes is None:
            return values
        summed = self.genes @ values
        if self.contexts is None:
            return summed
        return summed + self.contexts @ (self.contexts.T @ values) - _within(self.genes, self.contexts) @ values


@lru_cache(maxsize=32)
def design(perturbations: tuple[str, ...], contexts: tuple[str, ...] = ()) -> Design:
    """Find which conditions are related.

    Parameters
    ----------
    perturbations
        Of each condition.
    contexts
        Of each condition, where the mean is to speak of contexts that were not tested: those of one context are
        related then. Fewer than :data:`FEWEST_CONTEXTS` are taken as given.
    """
    n, genes = len(perturbations), [genes_of(name) for name in perturbations]
    columns = {gene: number for number, gene in enumerate(sorted({gene for own in genes for gene in own}))}
    names = sorted({*contexts})
    independent = len(columns) == sum(map(len, genes))
    if independent and len(names) < FEWEST_CONTEXTS:
        refusal = f"{n} condition{'' if n == 1 else 's'}; {NEEDED}" if n - 1 < LOWEST_DF else ""
        return Design(n=n, bias=(n - 1) / n if n else 0.0, df=n - 1.0, refusal=refusal)
    rows = np.repeat(np.arange(n), [len(own) for own in genes])
    places = (rows, [columns[gene] for own in genes for gene in own])
    targets = sparse.csr_array((np.ones(len(rows)), places), shape=(n, len(columns)))
    related = ((targets @ targets.T) > 0).astype(float)
    shares = sparse.csr_array((1 / np.sqrt(np.diff(targets.indptr))[rows], places), shape=targets.shape)
    by_genes = shares @ shares.T  # the covariance if all variance is that of effects of genes
    total = (related.sum(1), float(related.nnz))
    bias, df = min(_bias(n, total), _bias(n, total, by_genes.sum(1))), _df(n, total)
    refusal = _refusal(n, bias, df)
    if len(names) < FEWEST_CONTEXTS:
        return Design(n=n, bias=bias, df=df, refusal=refusal, genes=related)
    of_context = (np.array(contexts)[:, None] == np.array(names)).astype(float)
    sizes = of_context.sum(0)
    own = of_context @ sizes
    shared = _within(related, of_context)
    total = (total[0] + own - shared.sum(1), total[1] + float(np.square(sizes).sum()) - shared.nnz)
    bias = min(_bias(n, total), _bias(n, total, by_genes.sum(1)), _bias(n, total, own))
    df_of_contexts = _df(n, (own, float(np.square(sizes).sum())))
    if not refusal and (bias < LOWEST_BIAS or df_of_contexts < LOWEST_DF_OF_CONTEXTS):
        refusal = f"{n} conditions in {len(names)} contexts, most of them in one or two"
    return Design(n=n, bias=bias, df=min(df, df_of_contexts), refusal=refusal, genes=related, contexts=of_context)


def _within(genes: sparse.csr_array, contexts: np.ndarray) -> sparse.csr_array:
    """Keep the pairs that share a gene which are of one context too."""
    pairs, code = genes.tocoo(), contexts.argmax(1)
    kept = code[pairs.row] == code[pairs.col]
    return sparse.csr_array((pairs.data[kept], (pairs.row[kept], pairs.col[kept])), shape=genes.shape)


# A matrix of 0 and 1, symmetric and with a diagonal of 1, is given by its row sums and their total: of it, centred by
# rows and columns, only the trace, the sum of squares and the product with another such matrix are needed.
_Sums = tuple[np.ndarray, float]


def _bias(n: int, related: _Sums, covariance: np.ndarray | None = None) -> float:
    """Give expected over true variance where the covariance [n x n], of the pairs that are related, has these row sums.

    Without one, that is of independent conditions.
    """
    rows, total = related
    of_covariance = np.ones(n) if covariance is None else covariance
    whole = of_covariance.sum()
    centred = whole - 2 * rows @ of_covariance / n + total * whole / n**2
    return float(max(centred / whole, 1e-12))


def _df(n: int, related: _Sums) -> float:
    """Give Satterthwaite's degrees of freedom of the dyadic estimate for independent conditions."""
    rows, total = related
    squares = total - 2 * rows @ rows / n + total**2 / n**2
    return float((n - total / n) ** 2 / max(squares, 1e-12))


def _refusal(n: int, bias: float, df: float) -> str:
    if n < FEWEST_CONDITIONS:
        return f"{n} condition{'' if n == 1 else 's'}; {NEEDED}"
    if bias < LOWEST_BIAS:
        return f"{n} conditions, most of which share one gene"
    return f"{n} conditions that count as {df + 1:.1f}, since they share genes; {NEEDED}" if df < LOWEST_DF else ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Mean differences of one method from K opponents, positive where it is better, and how well they are known.

    Attributes
    ----------
    difference
        The mean over conditions and seeds [K].
    covariance
        Of ``difference`` [K x K].
    df, skewness
        Degrees of freedom of each difference, and the skewness of each mean [K].
    """

    difference: np.ndarray
    covariance: np.ndarray
    df: np.ndarray
    skewness: np.ndarray

    @property
    def varies(self) -> bool:
        """Return whether differences that are not all 0 have a spread; without one there is no p-value."""
        return bool(((self._se > 0) | (self.difference == 0)).all())

    @cached_property
    def _se(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))

    @cached_property
    def _lowest(self) -> np.ndarray:
        """Sorted draws of the lowest of K standard normals that are correlated like the differences."""
        safe = np.where(self._se > 0, self._se, 1.0)
        correlation = self.covariance / np.outer(safe, safe)
        np.fill_diagonal(correlation, 1.0)
        values, vectors = np.linalg.eigh(correlation)
        drawn = _normals(len(safe)) @ (vectors * np.sqrt(np.maximum(values, 0))).T
        return np.sort(drawn.min(1))

    def better(self, at: float = 0.0) -> float:
        """Return the one-sided p-value that the method is better than each opponent by more than ``at``.

        The largest of the p-values against each (intersection-union test): choosing among opponents needs no
        correction.
        """
        t = self._t(at)
        return float(stdtr(self.df, -np.minimum(t, _hall(t, self.skewness))).max())

    def worse(self, at: float = 0.0) -> float:
        """Return the one-sided p-value that the difference from at least one opponent is below ``at``.

        From the distribution of the most extreme of the K statistics (max-T). Each keeps the t distribution of its own
        degrees of freedom; together they are as dependent as normal ones (a normal copula).
        """
        t = self._t(at)
        z = ndtri(stdtr(self.df, np.maximum(t, _hall(t, self.skewness)))).min()
        if len(self.difference) == 1:
            return float(ndtr(z))
        return float((np.searchsorted(self._lowest, z, side="right") + 1) / (DRAWS + 1))

    @property
    def p_value(self) -> float:
        """Return the two-sided p-value of no difference from the best opponent."""
        return min(1.0, 2 * min(self.better(), self.worse()))

    def interval(self, level: float = 1 - SIGNIFICANCE) -> tuple[float, float]:
        """Return the interval of the true difference from the best opponent, consistent with the p-value."""
        tail = (1 - level) / 2
        q = stdtrit(self.df, 1 - tail)
        low = (self.difference - self._se * np.maximum(q, _hall_inverse(q, self.skewness))).min()
        z = ndtri(tail)
        if len(self.difference) > 1:
            z = self._lowest[int(tail * (DRAWS + 1) + 1e-6) - 1]
        q = stdtrit(self.df, ndtr(z))
        high = (self.difference - self._se * np.minimum(q, _hall_inverse(q, self.skewness))).min()
        return float(low), float(high)

    @property
    def smallest_detectable(self) -> float:
        """Return the true difference that is found with a power of 80 % against the hardest opponent alone.

        That is the one from which ``difference`` is smallest. From its standard error, never from the difference seen.
        Few degrees of freedom mostly give too small a standard error: it is corrected to be right in the median.
        """
        hardest = self.difference.argmin()
        df = self.df[hardest]
        unbiased = self._se[hardest] * np.sqrt(df / chdtri(df, 0.5))
        return float(nctdtrinc(df, 1 - POWER, stdtrit(df, 1 - SIGNIFICANCE / 2)) * unbiased)

    def _t(self, at: float) -> np.ndarray:
        above = self.difference - at
        exact = np.where(above == 0, 0.0, np.copysign(np.inf, above))  # without a spread: 0 throughout
        return np.divide(above, self._se, out=exact, where=self._se > 0)


def compare(
    differences: np.ndarray, design: Design, training: float | None = None, without_blocks: np.ndarray | None = None
) -> Comparison:
    """Estimate the mean difference from each opponent.

    Parameters
    ----------
    differences
        Score of the method under a seed minus that of an opponent on a condition, positive where the method is better
        [conditions x seeds x opponents].
    design
        Of these conditions.
    training
        For pooled folds of one dealing: the mean number of conditions that a fold trains on. None for one split, whose
        training set is then taken as given.
    without_blocks
        The mean differences without each block of the control cells that the truth is counted from [blocks x
        opponents]; None takes the mean of these cells as given.
    """
    n, seeds, opponents = differences.shape
    of_condition = differences.mean(1)
    difference = of_condition.mean(0)
    deviation = of_condition - difference
    summed = design.over_related(deviation)
    dyadic = deviation.T @ summed / (n * n * design.bias)
    plain = deviation.T @ deviation / (n * (n - 1))
    variance = np.maximum(np.diag(dyadic), np.diag(plain))
    joint = plain if (np.diag(dyadic) < np.diag(plain)).any() else _positive(dyadic)
    spread = np.sqrt(np.maximum(np.diag(joint), 1e-300))
    scale = np.sqrt(variance) / spread
    widening = 1.0 if training is None else 1.0 + n / training
    of_conditions, of_seeds = widening * joint * np.outer(scale, scale), np.zeros((opponents, opponents))
    if seeds > 1:
        deviation_of_seed = differences.mean(0) - difference
        of_seeds = deviation_of_seed.T @ deviation_of_seed / (seeds * (seeds - 1))
    of_controls, blocks = np.zeros((opponents, opponents)), 0
    if without_blocks is not None:
        blocks = len(without_blocks)
        deviation_of_block = without_blocks - without_blocks.mean(0)
        of_controls = deviation_of_block.T @ deviation_of_block * (blocks - 1) / blocks  # delete-a-group jackknife
    covariance = of_conditions + of_seeds + of_controls
    return Comparison(
        difference=difference,
        covariance=covariance,
        df=_degrees_of_freedom(
            (widening * variance, design.df),
            # Few seeds estimate their variance badly, and mostly too small: its upper quartile takes its place.
            (np.diag(of_seeds) * ((seeds - 1) / chdtri(seeds - 1, 0.75) if seeds > 1 else 1), seeds - 1),
            (np.diag(of_controls), blocks - 1),
        ),
        skewness=_skewness(deviation, summed, design.df, np.diag(covariance)),
    )


def _positive(covariance: np.ndarray) -> np.ndarray:
    """Set negative eigenvalues to 0: sums over related pairs need not be a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _degrees_of_freedom(*parts: tuple[np.ndarray, float]) -> np.ndarray:
    """Satterthwaite's, of a sum of variances [K] that have so many degrees of freedom; a part without any is 0."""
    known = [(variance, df) for variance, df in parts if df > 0]
    total = np.sum([variance for variance, _ in known], axis=0)
    squares = np.sum([variance**2 / df for variance, df in known], axis=0)
    return np.divide(total**2, squares, out=np.full(len(total), known[0][1]), where=squares > 0)


def _skewness(deviation: np.ndarray, summed: np.ndarray, df: float, variance: np.ndarray) -> np.ndarray:
    """Skewness of the mean [K]; for independent conditions the unbiased one of the sample over the root of n."""
    m = df + 1
    if df < LOWEST_DF:  # of few contexts: a skewness of four means says nothing
        return np.zeros(len(variance))
    third = (deviation * summed**2).sum(0) / len(deviation) ** 3 * m * m / ((m - 1) * (m - 2))
    return np.divide(third, variance**1.5, out=np.zeros(len(variance)), where=variance > 0)


def _hall(t: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    g = np.where(np.abs(skewness) < 1e-8, 1.0, skewness)
    return np.where(g == skewness, ((1 + g * t / 3) ** 3 - 1) / g + g / 6, t)


def _hall_inverse(x: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    g = np.where(np.abs(skewness) < 1e-8, 1.0, skewness)
    return np.where(g == skewness, 3 / g * (np.cbrt(1 + g * (x - g / 6)) - 1), x)


@lru_cache(maxsize=8)
def _normals(opponents: int) -> np.ndarray:
    """Independent standard normals [draws x K], the same for every comparison."""
    return random_generator(0, "lowest of several normals", opponents).standard_normal((DRAWS, opponents))
