"""Scores of valence-arousal predictions against human ratings, and the two baselines to compare with.

Ratings live on [-1, 1] and are NaN where nobody rated. Arrays of both dimensions hold valence, then arousal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carl.errors import CarlError

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array, Array], float]

DIMENSIONS = ("valence", "arousal")

# Half-decade steps: wide enough for unit-length embeddings as well as for unnormalised ones.
ALPHAS = tuple(float(alpha) for alpha in np.logspace(-3, 3, 13))


def pearson(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> float:
    """Pearson's correlation of predictions (n,) with ratings (n,), in [-1, 1].

    Items with a NaN rating are dropped; a NaN prediction makes the result NaN.
    NaN, too, with fewer than two rated items, or where either side is constant.
    """
    x, y = rated_pairs(predicted, rated)
    if _undefined(x, y):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    # Scaled before the product, so that tiny spreads do not underflow.
    r = (x / np.linalg.norm(x)) @ (y / np.linalg.norm(y))
    return float(np.clip(r, -1.0, 1.0))


def concordance(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> float:
    """Lin's concordance correlation coefficient of (n,) with (n,), in [-1, 1], by population variances.

    2 cov(x, y) / (var x + var y + (mean x - mean y)^2): correlation that also asks for the right scale and
    mean. NaN in the same cases as `pearson`. Source: Lin (1989), Biometrics 45(1), with n as the divisor.
    """
    x, y = rated_pairs(predicted, rated)
    if _undefined(x, y):
        return float("nan")
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def mean_absolute_error(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> float:
    """Mean of |prediction - rating| over the rated items of (n,) and (n,); NaN where none is rated."""
    x, y = rated_pairs(predicted, rated)
    return float(np.abs(x - y).mean()) if x.size else float("nan")


STATISTICS: dict[str, Statistic] = {"r": pearson, "ccc": concordance, "mae": mean_absolute_error}


def score(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> dict[str, float]:
    """Every statistic of every rated dimension: predictions (n, 2) against ratings (n, 2).

    Returns `valence_r`, `valence_ccc`, `valence_mae`, the same for arousal, and `mean_r`, the mean of r over
    the dimensions that are rated. A dimension without ratings is left out; with neither, the dict is empty.
    Raises ValueError unless both arrays are (n, 2).
    """
    x, y = _both_dimensions(predicted), _both_dimensions(rated)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} predictions for {len(y)} ratings")
    present = [(d, name) for d, name in enumerate(DIMENSIONS) if not np.isnan(y[:, d]).all()]
    scores = {
        f"{name}_{key}": statistic(x[:, d], y[:, d])
        for d, name in present
        for key, statistic in STATISTICS.items()
    }
    if present:
        scores["mean_r"] = float(np.mean([scores[f"{name}_r"] for _, name in present]))
    return scores


@dataclass(frozen=True)
class RidgeProbe:
    """A linear map from embeddings to valence and arousal: what an encoder knows without further training."""

    weight: Array
    """(2, d); row 0 is valence."""
    bias: Array
    """(2,)"""
    alpha: Array
    """(2,) the chosen penalties; NaN for a dimension that could not be fitted."""

    @classmethod
    def fit(
        cls,
        embeddings: npt.ArrayLike,
        labels: npt.ArrayLike,
        dev_embeddings: npt.ArrayLike | None = None,
        dev_labels: npt.ArrayLike | None = None,
    ) -> "RidgeProbe":
        """Ridge regression with intercept from raw embeddings (n, d) to labels (n, 2), NaN = not rated.

        Each dimension uses the items rated on it and chooses its penalty out of `ALPHAS`: by Pearson's r on
        dev_embeddings (m, d) and dev_labels (m, 2) where these are given and r is defined, else by
        leave-one-out error. A dimension without ratings gets weight 0 and bias 0; with a single rating,
        weight 0 and that rating as bias. Raises ValueError where the shapes do not fit.
        """
        x, y = np.asarray(embeddings, dtype=np.float64), _both_dimensions(labels)
        if len(x) != len(y):
            raise ValueError(f"{len(x)} embeddings for {len(y)} labels")
        weight, bias, alpha = np.zeros((2, x.shape[1])), np.zeros(2), np.full(2, np.nan)
        for d in range(2):
            rated = ~np.isnan(y[:, d])
            if rated.sum() < 2:
                bias[d] = y[rated, d].sum()
                continue
            weights, errors = _ridge_path(x[rated], y[rated, d])
            best = int(np.argmin(errors))
            if dev_embeddings is not None and dev_labels is not None:
                dev_x, dev_y = (
                    np.asarray(dev_embeddings, dtype=np.float64),
                    _both_dimensions(dev_labels)[:, d],
                )
                # Correlation ignores the intercept.
                r = [pearson(predicted, dev_y) for predicted in (dev_x @ weights.T).T]
                best = best if np.isnan(r).all() else int(np.nanargmax(r))
            weight[d], alpha[d] = weights[best], ALPHAS[best]
            bias[d] = y[rated, d].mean() - x[rated].mean(axis=0) @ weight[d]
        return cls(weight, bias, alpha)

    def predict(self, embeddings: npt.ArrayLike) -> Array:
        """Valence and arousal (n, 2) of embeddings (n, d). Not clipped: extreme texts may leave [-1, 1]."""
        predicted: Array = np.asarray(embeddings, dtype=np.float64) @ self.weight.T + self.bias
        return predicted


def vader_score(texts: Sequence[str]) -> Array:
    """VADER's compound score (n,) in [-1, 1]: a lexicon with rules, no training, valence only.

    Raises CarlError where the package vaderSentiment is missing. Source: Hutto & Gilbert (2014), ICWSM.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise CarlError(
            "VADER needs the package vaderSentiment: pip install 'carl-affect[baselines]'"
        ) from error
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)


def rated_pairs(predicted: npt.ArrayLike, rated: npt.ArrayLike) -> tuple[Array, Array]:
    """Predictions (n,) and ratings (n,) of the items that are rated. Raises ValueError for other shapes."""
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(rated, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"need two 1-D arrays of one length, got shapes {x.shape} and {y.shape}")
    known = ~np.isnan(y)
    return x[known], y[known]


def _both_dimensions(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"need (n, 2), valence and arousal, got shape {array.shape}")
    return array


def _undefined(x: Array, y: Array) -> bool:
    return bool(x.size < 2 or np.isnan(x).any() or np.ptp(x) == 0 or np.ptp(y) == 0)


def _ridge_path(x: Array, y: Array) -> tuple[Array, Array]:
    """Ridge weights (alphas, d) and leave-one-out errors (alphas,), squared, of x (n, d), y (n,) by `ALPHAS`.

    One eigendecomposition of the centred Gram matrix serves every penalty. The left-out residual is the
    residual over 1 - leverage. Source: Golub, Heath & Wahba (1979), Technometrics 21(2).
    """
    x, y = x - x.mean(axis=0), y - y.mean()
    eigenvalues, vectors = np.linalg.eigh(x.T @ x)
    rotated = x @ vectors  # (n, d)
    shrink = 1 / (np.maximum(eigenvalues, 0) + np.array(ALPHAS)[:, None])  # (alphas, d)
    coefficients = shrink * (rotated.T @ y)
    residuals = y - coefficients @ rotated.T  # (alphas, n)
    leverage = 1 / len(x) + shrink @ (rotated**2).T
    return coefficients @ vectors.T, ((residuals / (1 - leverage)) ** 2).mean(axis=1)
