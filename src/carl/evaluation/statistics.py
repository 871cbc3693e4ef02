"""How sure a reported score is: intervals over seeds and test items, paired comparisons, Holm's correction.

A method was trained with s seeds and predicted the same n test items each time: predictions (s, n). Its score is
the mean over seeds of a statistic of (predicted, rated). Both seeds and items are samples, so both are resampled:
in every resample one draw of items serves all seeds, since the seeds were scored on the same items (seeds crossed
with items, Owen 2007). Drawing items anew for every seed would average the items' luck away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from carl.errors import UsageError
from carl.evaluation.valence_arousal import Array, concordance, mean_absolute_error, pearson

Values = npt.NDArray[Any]
Statistic = Callable[[Values, Values], float]
Moments = Callable[[Values, Values], tuple[Array, Callable[[Array], Array]]]

#: Resamples times items held at once: flat memory, whatever is asked for.
_BLOCK = 2_000_000
_ITEMS, _SEEDS = 0, 1  # names of the two random streams


def accuracy(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> float:
    """Share in [0, 1] of predictions (n,) that equal the labels (n,) (numbers, truth values or strings).

    With per-item outcomes in place of predictions and True as every label, it is the share that came out right.
    NaN with no item. Raises UsageError unless both are (n,).
    """
    x, y = _one_length(predicted, rated)
    return float((x == y).mean()) if y.size else float("nan")


def macro_f1(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> float:
    """Mean in [0, 1] of the F1 of every class that occurs in predictions (n,) or labels (n,).

    F1 = 2 tp / (predicted + labelled), as `sklearn.metrics.f1_score(average="macro")`. NaN with no item.
    Raises UsageError unless both are (n,).
    """
    x, y = _one_length(predicted, rated)
    scores = [2 * ((x == c) & (y == c)).sum() / ((x == c).sum() + (y == c).sum()) for c in _classes(x, y)]
    return float(np.mean(scores)) if scores else float("nan")


@dataclass(frozen=True)
class Interval:
    """A method's score over seeds, and where it would lie for other seeds and other items."""

    mean: float
    """Mean over seeds of the statistic on all items."""
    low: float
    high: float
    per_seed: tuple[float, ...]
    items: int
    """Rated items."""


@dataclass(frozen=True)
class Difference:
    """Score of method A minus that of method B on the same items."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, in (0, 1]."""
    items: int
    """Rated items."""


def mean_interval(
    predicted: npt.ArrayLike,
    rated: npt.ArrayLike,
    statistic: Statistic,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of `statistic` over seeds, with its percentile bootstrap interval over seeds and items.

    Args:
        predicted: (s, n) predictions of s seeds, or (n,) of one; with one seed, items alone are resampled.
        rated: (n,) ratings or labels; items rated NaN are dropped.
        statistic: of (predicted (n,), rated (n,)). `pearson`, `concordance`, `mean_absolute_error`, `accuracy` and
            `macro_f1` take a fast path; any other function is called n * s times.
        n: resamples.
        seed: of the resampling; the same seed gives the same interval.
        level: share of the resamples inside the interval.

    Where a seed's own score is undefined (NaN), so are mean and interval; resamples where the statistic is undefined
    do not count. With few seeds the interval is somewhat short on the seeds' part: their resampled variance is
    (s - 1) / s of the unbiased one.

    Raises:
        UsageError: shapes that do not fit, or `n` or `level` out of range.

    Sources: Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13; Owen (2007), The pigeonhole
    bootstrap, Annals of Applied Statistics 1(2).
    """
    x, y = _seeds_and_items(predicted, rated)
    _check(n, level)
    per_seed = [float(statistic(row, y)) for row in x]
    mean = float(np.mean(per_seed))
    low = high = float("nan")
    if not np.isnan(mean):
        values = _resampled(x, y, statistic, n, seed)
        low, high = _quantiles(_over_seeds(values, seed), level)
    return Interval(mean, low, high, tuple(per_seed), len(y))


def paired_bootstrap(
    predicted_a: npt.ArrayLike,
    predicted_b: npt.ArrayLike,
    rated: npt.ArrayLike,
    statistic: Statistic,
    *,
    n: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Difference A - B of the mean `statistic` over seeds, its interval, and a two-sided p against no difference.

    Every resample draws one set of items for both methods. With equally many seeds the s-th of A goes with the s-th
    of B, which is right for seeds that share their batches and does no harm where they share nothing; with different
    numbers the seeds are drawn independently. Swapping A and B turns the signs and leaves p as it is.

    p is the smallest error level at which the percentile interval leaves out 0: twice the share of the resampled
    differences on the far side of 0, counting the observed one among the resamples, so never 0. Test and interval
    thus never disagree.

    Args:
        predicted_a: (s, n) or (n,), as in `mean_interval`.
        predicted_b: (t, n) or (n,).
        rated: (n,); items rated NaN are dropped.
        statistic: as in `mean_interval`.
        n: resamples; p cannot be smaller than 2 / (n + 1).
        seed: of the resampling.
        level: of the interval.

    Undefined scores make all of the result NaN.

    Raises:
        UsageError: as `mean_interval`.

    Sources: Efron & Tibshirani (1993), chapters 13 and 15; Berg-Kirkpatrick, Burkett & Klein (2012), An Empirical
    Investigation of Statistical Significance in NLP; Dror et al. (2018), The Hitchhiker's Guide to Testing
    Statistical Significance in Natural Language Processing.
    """
    a, y = _seeds_and_items(predicted_a, rated)
    b, _ = _seeds_and_items(predicted_b, rated)
    _check(n, level)
    difference = float(np.mean([statistic(r, y) for r in a]) - np.mean([statistic(r, y) for r in b]))
    low = high = p = float("nan")
    if not np.isnan(difference):
        values = _resampled(np.concatenate([a, b]), y, statistic, n, seed)
        drawn = _over_seeds(values[:, : len(a)], seed) - _over_seeds(values[:, len(a) :], seed)
        drawn = drawn[~np.isnan(drawn)]
        drawn[np.abs(drawn) < 1e-12] = 0  # a tie that rounding has broken must count on both sides
        low, high = _quantiles(drawn, level)
        if drawn.size:
            far = min((drawn <= 0).sum(), (drawn >= 0).sum())
            p = min(1.0, 2 * (1 + float(far)) / (1 + drawn.size))
    return Difference(difference, low, high, p, len(y))


def holm(p_values: npt.ArrayLike) -> Array:
    """Holm's step-down correction: adjusted p (m,) of p (m,), in the order given.

    Rejecting where the adjusted p is at most alpha keeps the chance of any false rejection among the m at alpha,
    however the tests depend on each other. Raises UsageError unless every p lies in [0, 1].
    Source: Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6(2).
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not bool(((p >= 0) & (p <= 1)).all()):
        raise UsageError(f"Holm's correction needs a list of p-values in [0, 1], got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _one_length(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> tuple[Values, Values]:
    x, y = np.asarray(predicted), np.asarray(rated)
    if x.ndim != 1 or x.shape != y.shape:
        raise UsageError(f"need two lists of one length, got shapes {x.shape} and {y.shape}")
    known = _known(y)
    return x[known], y[known]


def _seeds_and_items(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> tuple[Values, Values]:
    x, y = np.atleast_2d(np.asarray(predicted)), np.asarray(rated)
    if x.ndim != 2 or y.ndim != 1 or x.shape[1] != len(y) or not len(x):
        raise UsageError(f"need predictions (seeds, n) and ratings (n,), got shapes {x.shape} and {y.shape}")
    known = _known(y)
    return x[:, known], y[known]


def _known(rated: Values) -> npt.NDArray[np.bool_]:
    return ~np.isnan(rated) if rated.dtype.kind == "f" else np.ones(len(rated), dtype=bool)


def _check(n: int, level: float) -> None:
    if n < 1 or not 0 < level < 1:
        raise UsageError(f"need at least one resample and a level between 0 and 1, got n={n}, level={level}")


def _quantiles(values: Array, level: float) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _over_seeds(values: Array, seed: int) -> Array:
    """Mean (n,) over resampled seeds of values (n, s).

    The stream is named after s, so that two methods with equally many seeds draw the same ones, and two with
    different numbers draw independently, whichever comes first.
    """
    s = values.shape[1]
    draws = np.random.default_rng([seed, _SEEDS, s]).integers(s, size=values.shape)
    return np.asarray(np.take_along_axis(values, draws, axis=1).mean(axis=1), dtype=np.float64)


def _resampled(x: Values, y: Values, statistic: Statistic, n: int, seed: int) -> Array:
    """The statistic (n, s) of every row of x (s, items) on each of n resamples of the items."""
    rng, items = np.random.default_rng([seed, _ITEMS]), len(y)
    moments = _MOMENTS.get(statistic)
    columns, finish = moments(x, y) if moments else (None, None)
    values = []
    rows = max(1, _BLOCK // items)
    for start in range(0, n, rows):
        draws = rng.integers(items, size=(min(rows, n - start), items))
        if columns is None or finish is None:
            values.append(np.array([[statistic(row[draw], y[draw]) for row in x] for draw in draws]))
            continue
        # How often each item was drawn: one matrix product then gives all sums of all resamples.
        size = len(draws)
        draws += items * np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * items).reshape(size, items)
        values.append(finish(counts.astype(np.float64) @ columns / items))
    return np.concatenate(values).astype(np.float64)


# Each of these gives columns (items, k), and a function from their means (n, k) over resamples to scores (n, s).


def _second_moments(x: Values, y: Values) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    s = len(x)
    mean_x, mean_y = x.mean(axis=1), y.mean()
    # In units of their SD about their mean, so that differences of squares lose no digits.
    scale_x, scale_y = x.std(axis=1), y.std()
    u, v = (x - mean_x[:, None]) / scale_x[:, None], (y - mean_y) / scale_y
    columns = np.concatenate([u, u * u, u * v, v[None], (v * v)[None]]).T

    def finish(means: Array) -> tuple[Array, ...]:
        first_u, second_u, product = means[:, :s], means[:, s : 2 * s], means[:, 2 * s : 3 * s]
        first_v, second_v = means[:, -2:-1], means[:, -1:]
        variance_u, variance_v = second_u - first_u**2, second_v - first_v**2
        covariance = product - first_u * first_v
        # A resample of one item drawn again and again has no variance, but for rounding.
        covariance = np.where((variance_u > 1e-12) & (variance_v > 1e-12), covariance, np.nan)
        gap = mean_x + scale_x * first_u - mean_y - scale_y * first_v
        return scale_x**2 * variance_u, scale_y**2 * variance_v, scale_x * scale_y * covariance, gap

    return columns, finish


def _pearson(x: Values, y: Values) -> tuple[Array, Callable[[Array], Array]]:
    columns, moments = _second_moments(x, y)

    def finish(means: Array) -> Array:
        variance_x, variance_y, covariance, _ = moments(means)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.clip(covariance / np.sqrt(variance_x) / np.sqrt(variance_y), -1, 1)

    return columns, finish


def _concordance(x: Values, y: Values) -> tuple[Array, Callable[[Array], Array]]:
    columns, moments = _second_moments(x, y)

    def finish(means: Array) -> Array:
        variance_x, variance_y, covariance, gap = moments(means)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2 * covariance / (variance_x + variance_y + gap**2))

    return columns, finish


def _absolute_error(x: Values, y: Values) -> tuple[Array, Callable[[Array], Array]]:
    return np.abs(x.astype(np.float64) - y).T, lambda means: means


def _accuracy(x: Values, y: Values) -> tuple[Array, Callable[[Array], Array]]:
    return (x == y).T.astype(np.float64), lambda means: means


def _macro_f1(x: Values, y: Values) -> tuple[Array, Callable[[Array], Array]]:
    s, classes = len(x), _classes(x, y)
    predicted, labelled = x[:, None] == classes[:, None], y == classes[:, None]  # (s, c, n), (c, n)
    columns = np.concatenate(
        [(predicted & labelled).reshape(-1, len(y)), predicted.reshape(-1, len(y)), labelled]
    )

    def finish(means: Array) -> Array:
        shape = (len(means), s, len(classes))
        hits, guesses = (
            part.reshape(shape) for part in np.split(means[:, : 2 * s * len(classes)], 2, axis=1)
        )
        size = guesses + means[:, None, 2 * s * len(classes) :]
        occurs = size > 0  # a class that this resample has left out altogether does not count
        f1 = np.where(occurs, 2 * hits / np.where(occurs, size, 1), 0)
        return np.asarray(f1.sum(axis=2) / occurs.sum(axis=2))

    return columns.T.astype(np.float64), finish


def _classes(x: Values, y: Values) -> Values:
    return np.unique(np.concatenate([x.ravel(), y]))


_MOMENTS: dict[Statistic, Moments] = {
    pearson: _pearson,
    concordance: _concordance,
    mean_absolute_error: _absolute_error,
    accuracy: _accuracy,
    macro_f1: _macro_f1,
}
