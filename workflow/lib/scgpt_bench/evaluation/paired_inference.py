"""How far the mean score of a method is from those of its opponents: p-value, interval and detectable difference.

All of them come from one standard error and cannot contradict one another. It is that of a mean over conditions and
training seeds, both drawn at random:

- conditions that share a target gene, or are copies of one perturbation in several contexts, are related: the variance
  sums over all related pairs (dyadic; Aronow, Samii and Assenova 2015, Political Analysis 23:564), corrected for its
  bias and never below that of independent conditions;
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
from scipy.special import chdtri, nctdtrinc, ndtr, ndtri, stdtr, stdtrit

from scgpt_bench.data.names import genes_of
from scgpt_bench.seeding import random_generator

SIGNIFICANCE = 0.05  # two-sided
POWER = 0.8  # of the smallest detectable difference
FEWEST_CONDITIONS = 3
LOWEST_DF = 5.0  # as of six independent conditions; below, p-values rest on the assumed shape of the differences
LOWEST_BIAS = 0.3  # below, most pairs of conditions share a gene: their spread says little of the variance of the mean
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
    related
        1 where two conditions share a gene, and on the diagonal [n x n]; None where no two do.
    bias
        Expected over true variance of the dyadic estimate: the smaller of that for independent conditions and that for
        differences that are sums over genes.
    df
        Satterthwaite's degrees of freedom; n - 1 where no two conditions are related.
    """

    n: int
    related: np.ndarray | None
    bias: float
    df: float

    @property
    def refusal(self) -> str:
        """Why no verdict can be given; empty where one can."""
        needed = f"at least {LOWEST_DF + 1:.0f} independent ones are needed"
        if self.n < FEWEST_CONDITIONS or (self.related is None and self.df < LOWEST_DF):
            return f"{self.n} condition{'' if self.n == 1 else 's'}; {needed}"
        if self.bias < LOWEST_BIAS:
            return f"{self.n} conditions, most of which share one gene"
        if self.df < LOWEST_DF:
            return f"{self.n} conditions that count as {self.df + 1:.1f}, since they share genes; {needed}"
        return ""


@lru_cache(maxsize=32)
def design(perturbations: tuple[str, ...]) -> Design:
    """Find which conditions are related, given the perturbation of each."""
    n, genes = len(perturbations), [genes_of(name) for name in perturbations]
    columns = {gene: number for number, gene in enumerate(sorted({gene for own in genes for gene in own}))}
    if len(columns) == sum(map(len, genes)):
        return Design(n=n, related=None, bias=(n - 1) / n if n else 0.0, df=n - 1.0)
    targets = np.zeros((n, len(columns)))
    for row, own in zip(targets, genes, strict=True):
        row[[columns[gene] for gene in own]] = 1.0
    related = (targets @ targets.T > 0).astype(float)
    centred = related - related.mean(0) - related.mean(1)[:, None] + related.mean()
    targets /= np.sqrt(targets.sum(1, keepdims=True))
    by_genes = targets @ targets.T  # the covariance if all variance is that of effects of genes
    bias = min(np.trace(centred) / n, (centred * by_genes).sum() / by_genes.sum())
    df = np.trace(centred) ** 2 / max(np.square(centred).sum(), 1e-12)
    return Design(n=n, related=related, bias=float(max(bias, 1e-12)), df=float(df))


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
        """Say whether differences have a spread, where they are not 0 throughout; without one there is no p-value."""
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
        """One-sided p-value that the method is better than each opponent by more than ``at``.

        The largest of the p-values against each (intersection-union test): choosing among opponents needs no
        correction.
        """
        t = self._t(at)
        return float(stdtr(self.df, -np.minimum(t, _hall(t, self.skewness))).max())

    def worse(self, at: float = 0.0) -> float:
        """One-sided p-value that the difference from at least one opponent is below ``at``.

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
        """Two-sided p-value of no difference from the best opponent."""
        return min(1.0, 2 * min(self.better(), self.worse()))

    def interval(self, level: float = 1 - SIGNIFICANCE) -> tuple[float, float]:
        """Interval of the true difference from the best opponent; excludes 0 exactly where the p-value says so."""
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
        """The true difference that is found with a power of 80 % against the hardest opponent alone.

        From the standard error, never from the difference seen. Few degrees of freedom mostly give too small a standard
        error: it is corrected to be right in the median.
        """
        unbiased = self._se * np.sqrt(self.df / chdtri(self.df, 0.5))
        return float((nctdtrinc(self.df, 1 - POWER, stdtrit(self.df, 1 - SIGNIFICANCE / 2)) * unbiased).max())

    def _t(self, at: float) -> np.ndarray:
        above = self.difference - at
        exact = np.where(above == 0, 0.0, np.copysign(np.inf, above))  # without a spread: 0 throughout
        return np.divide(above, self._se, out=exact, where=self._se > 0)


def compare(differences: np.ndarray, design: Design, training: float | None = None) -> Comparison:
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
    """
    n, seeds, opponents = differences.shape
    of_condition = differences.mean(1)
    difference = of_condition.mean(0)
    deviation = of_condition - difference
    summed = deviation if design.related is None else design.related @ deviation
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
    covariance = of_conditions + of_seeds
    return Comparison(
        difference=difference,
        covariance=covariance,
        df=_degrees_of_freedom(widening * variance, np.diag(of_seeds), design.df, seeds),
        skewness=_skewness(deviation, summed, design.df, np.diag(covariance)),
    )


def _positive(covariance: np.ndarray) -> np.ndarray:
    """Set negative eigenvalues to 0: sums over related pairs need not be a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _degrees_of_freedom(of_conditions: np.ndarray, of_seeds: np.ndarray, df: float, seeds: int) -> np.ndarray:
    """Satterthwaite's, of the sum of two variances [K].

    The part of the seeds enters with its upper quartile: few seeds estimate it badly, and mostly too small.
    """
    if seeds == 1:
        return np.full(len(of_conditions), df)
    of_seeds = of_seeds * (seeds - 1) / chdtri(seeds - 1, 0.75)
    total = of_conditions + of_seeds
    squares = of_conditions**2 / df + of_seeds**2 / (seeds - 1)
    return np.divide(total**2, squares, out=np.full(len(total), df), where=squares > 0)


def _skewness(deviation: np.ndarray, summed: np.ndarray, df: float, variance: np.ndarray) -> np.ndarray:
    """Skewness of the mean [K]; for independent conditions the unbiased one of the sample over the root of n."""
    m = df + 1
    if m <= 3:
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
