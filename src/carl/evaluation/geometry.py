"""The shape of an embedding space, and whether it is an affective one: texts that feel alike lie close together.

Embeddings (n, d) are brought to length 1 first. Labels (n, 2) are valence and arousal, NaN = not rated; distances
between them are in units of each dimension's SD, over the dimensions that both texts have. Pairs are sampled, in a
fixed order for a fixed seed, so that memory does not grow with n squared. What is undefined, with too few texts or
no such pair, is NaN.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from carl.errors import UsageError
from carl.evaluation.valence_arousal import Array, pearson

Indices = npt.NDArray[np.intp]

PAIRS = 100_000
WITHIN = 0.5
"""Label SDs up to which two texts count as feeling alike; about 6 of 100 pairs, were the labels Gaussian."""

_BLOCK = 1 << 18  # candidate pairs looked at in one go
_TRIES = 64  # blocks after which the search for rare pairs ends
_ROWS = 1 << 12  # pairs whose embeddings are held at once


@dataclass(frozen=True)
class Geometry:
    """What `describe_geometry` finds."""

    alignment: float
    uniformity: float
    distance_spearman: float
    neighbour_ratio: float
    texts: int


def describe_geometry(
    embeddings: npt.ArrayLike, labels: npt.ArrayLike, *, within: float = WITHIN, k: int = 10, seed: int = 0
) -> Geometry:
    """All measures of this module on embeddings (n, d) and labels (n, 2). Raises UsageError as they do."""
    return Geometry(
        alignment=alignment(embeddings, labels, within=within, seed=seed),
        uniformity=uniformity(embeddings, seed=seed),
        distance_spearman=distance_spearman(embeddings, labels, seed=seed),
        neighbour_ratio=nearest_label_agreement(embeddings, labels, k=k, seed=seed),
        texts=len(np.asarray(labels)),
    )


def alignment(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    within: float = WITHIN,
    power: float = 2.0,
    pairs: int = PAIRS,
    seed: int = 0,
) -> float:
    """Mean of |x - y|^power over pairs of texts that feel alike; lower is closer, 0 to 2^power.

    Alike are texts whose labels lie at most `within` SDs apart. A space that has collapsed to a point is perfectly
    aligned, so read it beside `uniformity`.

    Args:
        embeddings: (n, d).
        labels: (n, 2).
        within: in label SDs, at least 0.
        power: of the distance, above 0; the paper's alpha.
        pairs: how many to sample at most; all of them where there are fewer.
        seed: of the sampling.

    Raises:
        UsageError: shapes that do not fit, embeddings that are zero or not finite, or a setting out of range.

    Source: Wang & Isola (2020), Understanding Contrastive Representation Learning through Alignment and Uniformity
    on the Hypersphere, ICML, whose positive pairs are two views of one image.
    """
    x, y = _both(embeddings, labels)
    if not (within >= 0 and power > 0):
        raise UsageError(f"need within at least 0 and power above 0, got {within} and {power}")
    left, right = _sample_pairs(len(x), pairs, seed, lambda i, j: _label_distance(y[i], y[j]) <= within)
    return _mean(_squared_distances(x, left, right) ** (power / 2))


def uniformity(
    embeddings: npt.ArrayLike, *, temperature: float = 2.0, pairs: int = PAIRS, seed: int = 0
) -> float:
    """Log of the mean of exp(-t |x - y|^2) over pairs of texts: how evenly the sphere is filled.

    Lower is more even: 0 where all texts fall on one point, about -2t for directions drawn at random in many
    dimensions. Embeddings (n, d), temperature t above 0, `pairs` and `seed` as in `alignment`.
    Raises UsageError as `alignment`. Source: Wang & Isola (2020).
    """
    x = _unit(embeddings)
    if not temperature > 0:
        raise UsageError(f"need a temperature above 0, got {temperature}")
    left, right = _sample_pairs(len(x), pairs, seed)
    potential = _mean(np.exp(-temperature * _squared_distances(x, left, right)))
    return float(np.log(potential))


def distance_spearman(
    embeddings: npt.ArrayLike, labels: npt.ArrayLike, *, pairs: int = PAIRS, seed: int = 0
) -> float:
    """Spearman correlation, in [-1, 1], of label distance with embedding distance over pairs of texts.

    1: the further apart two texts feel, the further apart they lie. Cosine and Euclidean distance give the same
    ranks. Embeddings (n, d), labels (n, 2), `pairs` and `seed` as in `alignment`. NaN where either distance is
    the same for all pairs. Raises UsageError as `alignment`.
    Source: Kriegeskorte, Mur & Bandettini (2008), Representational similarity analysis.
    """
    x, y = _both(embeddings, labels)
    left, right = _sample_pairs(len(x), pairs, seed, lambda i, j: ~np.isnan(_label_distance(y[i], y[j])))
    if not len(left):
        return float("nan")
    apart = _label_distance(y[left], y[right])
    return pearson(rankdata(_squared_distances(x, left, right)), rankdata(apart))


def nearest_label_agreement(
    embeddings: npt.ArrayLike, labels: npt.ArrayLike, *, k: int = 10, queries: int = 2000, seed: int = 0
) -> float:
    """Mean label distance to the k nearest texts over that to all other texts: 1 is chance, lower is affective.

    Unlike the other measures it looks at neighbourhoods alone, which is what a search by feeling returns.

    Args:
        embeddings: (n, d); nearest by cosine.
        labels: (n, 2); neighbours that share no dimension with the query do not count.
        k: neighbours, at least 1; all others where there are fewer.
        queries: texts to ask for, sampled where there are more.
        seed: of that sampling.

    NaN where there is nothing to compare or all labels agree. Raises UsageError as `alignment`.
    """
    x, y = _both(embeddings, labels)
    if k < 1 or queries < 1:
        raise UsageError(f"need k and queries of at least 1, got {k} and {queries}")
    n = len(x)
    if n < 2:
        return float("nan")
    asked = np.arange(n)
    if n > queries:
        asked = np.sort(np.random.default_rng(seed).choice(n, queries, replace=False))
    k = min(k, n - 1)
    sums, counts = np.zeros(2), np.zeros(2)  # of the distances to neighbours, and to all
    rows = max(1, (1 << 20) // n)
    for start in range(0, len(asked), rows):
        block = asked[start : start + rows]
        cosine = x[block] @ x.T
        cosine[np.arange(len(block)), block] = -np.inf  # a text is no neighbour of itself
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        apart = _label_distance(y[block, None], y[None])  # (rows, n)
        apart[np.arange(len(block)), block] = np.nan
        for i, values in enumerate((np.take_along_axis(apart, nearest, axis=1), apart)):
            sums[i] += np.nansum(values)
            counts[i] += (~np.isnan(values)).sum()
    return float(sums[0] / counts[0] / (sums[1] / counts[1])) if counts[0] and sums[1] > 0 else float("nan")


def _unit(embeddings: npt.ArrayLike) -> Array:
    x = np.asarray(embeddings, dtype=np.float64)
    if x.ndim != 2:
        raise UsageError(f"need embeddings (n, d), got shape {x.shape}")
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if bad.size:
        raise UsageError(f"embedding {bad[0]} is zero or not finite: it has no direction")
    return np.asarray(x / lengths, dtype=np.float64)


def _both(embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, Array]:
    """Unit embeddings (n, d) and labels (n, 2) in units of each dimension's SD."""
    x, y = _unit(embeddings), np.asarray(labels, dtype=np.float64)
    if y.shape != (len(x), 2):
        raise UsageError(f"need labels ({len(x)}, 2), valence and arousal, got shape {y.shape}")
    scaled = np.full_like(y, np.nan)
    for d in range(2):
        rated = y[~np.isnan(y[:, d]), d]
        # Labels that are all alike are at distance 0 in any unit.
        scaled[:, d] = y[:, d] / (rated.std() if rated.size and np.ptp(rated) > 0 else 1.0)
    return x, scaled


def _label_distance(a: Array, b: Array) -> Array:
    """Euclidean distance (...) of labels (..., 2) over the dimensions both have; NaN where they share none."""
    squared = np.square(a - b)
    distance = np.sqrt(np.nansum(squared, axis=-1))
    return np.asarray(np.where(np.isnan(squared).all(axis=-1), np.nan, distance))


def _squared_distances(x: Array, left: Indices, right: Indices) -> Array:
    """|x_i - x_j|^2 (m,) of unit vectors, for a few thousand pairs at a time."""
    parts = [
        np.square(x[left[s : s + _ROWS]] - x[right[s : s + _ROWS]]).sum(axis=1)
        for s in range(0, len(left), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else float("nan")


def _sample_pairs(
    n: int, most: int, seed: int, keep: Callable[[Indices, Indices], npt.NDArray[np.bool_]] | None = None
) -> tuple[Indices, Indices]:
    """At most `most` pairs (m,), (m,) of different texts that `keep` accepts.

    Where all pairs fit into one block, none is taken twice; above that they are drawn with replacement, and the
    search for rare ones ends after a fixed number of draws.
    """
    if most < 1:
        raise UsageError(f"need at least one pair, got {most}")
    left: list[Indices] = []
    right: list[Indices] = []
    found = 0
    for i, j in _candidates(n, seed):
        if keep is not None:
            accepted = keep(i, j)
            i, j = i[accepted], j[accepted]
        left.append(i)
        right.append(j)
        found += len(i)
        if found >= most:
            break
    none = np.zeros(0, dtype=np.intp)
    return np.concatenate([none, *left])[:most], np.concatenate([none, *right])[:most]


def _candidates(n: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    if n < 2:
        return
    rng = np.random.default_rng(seed)
    if n * (n - 1) // 2 <= _BLOCK:
        i, j = np.triu_indices(n, 1)
        order = rng.permutation(len(i))  # so that the first few of them are a fair sample
        yield i[order], j[order]
        return
    for _ in range(_TRIES):
        i, j = rng.integers(n, size=_BLOCK), rng.integers(n - 1, size=_BLOCK)
        yield i, j + (j >= i)
