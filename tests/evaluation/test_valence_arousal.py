import math
import sys

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge

from carl.errors import CarlError
from carl.evaluation.valence_arousal import (
    ALPHAS,
    RidgeProbe,
    concordance,
    mean_absolute_error,
    pearson,
    score,
    vader_score,
)

NAN = float("nan")


def noisy_pair(n=200, seed=0):
    rng = np.random.default_rng(seed)
    rated = rng.uniform(-1, 1, n)
    return 0.4 * rated + 0.2 * rng.normal(size=n) + 0.1, rated


def slow_concordance(x, y):
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    var_x = sum((a - mean_x) ** 2 for a in x) / n
    var_y = sum((b - mean_y) ** 2 for b in y) / n
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    return 2 * covariance / (var_x + var_y + (mean_x - mean_y) ** 2)


def test_statistics_equal_their_definitions():
    x, y = noisy_pair()
    assert pearson(x, y) == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
    assert concordance(x, y) == pytest.approx(slow_concordance(x.tolist(), y.tolist()), abs=1e-12)
    assert mean_absolute_error(x, y) == pytest.approx(sum(abs(x - y)) / len(x), abs=1e-12)


def test_concordance_punishes_what_correlation_forgives():
    _, y = noisy_pair()
    assert pearson(0.5 * y + 0.3, y) == pytest.approx(1)
    assert concordance(0.5 * y + 0.3, y) < 0.8
    assert concordance(y, y) == pytest.approx(1)
    assert concordance(-y, y) < 0


def test_unrated_items_do_not_count():
    x, y = noisy_pair()
    holes = y.copy()
    holes[::3] = NAN
    kept = ~np.isnan(holes)
    for statistic in (pearson, concordance, mean_absolute_error):
        assert statistic(x, holes) == statistic(x[kept], y[kept])


@pytest.mark.parametrize("statistic", [pearson, concordance])
@pytest.mark.parametrize(
    ("x", "y"),
    [([], []), ([0.1], [0.2]), ([0.1, 0.2], [NAN, 0.3]), ([0.1, 0.1], [0.2, 0.3]), ([0.1, 0.3], [0.2, 0.2])],
)
def test_undefined_statistics_are_nan(statistic, x, y):
    assert math.isnan(statistic(x, y))


def test_mean_absolute_error_needs_one_rating():
    assert mean_absolute_error([0.1, 0.5], [NAN, 0.2]) == pytest.approx(0.3)
    assert math.isnan(mean_absolute_error([0.1], [NAN]))


def test_nan_prediction_is_never_hidden():
    assert math.isnan(pearson([NAN, 0.1, 0.2], [0.1, 0.2, 0.3]))
    assert math.isnan(mean_absolute_error([NAN, 0.1], [0.1, 0.2]))


def test_pearson_of_tiny_spread():
    x, y = noisy_pair()
    assert pearson(1e-100 * x, y) == pytest.approx(pearson(x, y))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="1-D"):
        pearson([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        score([0.1, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError, match="2 predictions for 1"):
        score([[0, 0], [0, 0]], [[0, 0]])


def test_score_names_and_leaves_out_the_unrated():
    (xv, yv), (xa, ya) = noisy_pair(), noisy_pair(seed=1)
    both = score(np.stack([xv, xa], 1), np.stack([yv, ya], 1))
    assert set(both) == {f"{d}_{s}" for d in ("valence", "arousal") for s in ("r", "ccc", "mae")} | {"mean_r"}
    assert both["arousal_ccc"] == concordance(xa, ya)
    assert both["mean_r"] == pytest.approx((pearson(xv, yv) + pearson(xa, ya)) / 2)

    one = score(np.stack([xv, xa], 1), np.stack([yv, np.full_like(ya, NAN)], 1))
    assert set(one) == {"valence_r", "valence_ccc", "valence_mae", "mean_r"}
    assert one["mean_r"] == one["valence_r"]
    assert score([[0.1, 0.2]], [[NAN, NAN]]) == {}


def test_probe_recovers_a_planted_map():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 8)), np.array([0.3, -0.2])
    embeddings = rng.normal(size=(500, 8))
    labels = embeddings @ weight.T + bias
    labels[::2, 1] = NAN  # half of the arousal ratings are missing
    probe = RidgeProbe.fit(embeddings, labels, embeddings[:50], labels[:50])
    np.testing.assert_allclose(probe.weight, weight, atol=1e-4)
    np.testing.assert_allclose(probe.bias, bias, atol=1e-4)
    np.testing.assert_allclose(probe.predict(embeddings), embeddings @ weight.T + bias, atol=1e-3)


def noisy_regression(n=120, d=60):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, d))
    return x, x[:, :2] + 3 * rng.normal(size=(n, 2))


def test_probe_takes_the_penalty_that_dev_prefers():
    x, y = noisy_regression()
    train, dev = slice(0, 80), slice(80, None)
    probe = RidgeProbe.fit(x[train], y[train], x[dev], y[dev])
    for d in range(2):
        fits = {alpha: Ridge(alpha=alpha).fit(x[train], y[train, d]) for alpha in ALPHAS}
        best = max(fits, key=lambda alpha: pearsonr(fits[alpha].predict(x[dev]), y[dev, d]).statistic)
        assert probe.alpha[d] == best
        np.testing.assert_allclose(probe.weight[d], fits[best].coef_, atol=1e-10)
        np.testing.assert_allclose(probe.predict(x)[:, d], fits[best].predict(x), atol=1e-10)


def test_probe_without_dev_leaves_one_out():
    x, y = noisy_regression(n=40, d=10)
    probe = RidgeProbe.fit(x, y)

    def error(alpha, d):
        return sum(
            (
                Ridge(alpha=alpha).fit(np.delete(x, i, 0), np.delete(y[:, d], i)).predict(x[i : i + 1])[0]
                - y[i, d]
            )
            ** 2
            for i in range(len(x))
        )

    assert [min(ALPHAS, key=lambda alpha, d=d: error(alpha, d)) for d in range(2)] == list(probe.alpha)
    unrated_dev = RidgeProbe.fit(x, y, x[:5], np.full((5, 2), NAN))
    np.testing.assert_array_equal(unrated_dev.weight, probe.weight)


def test_probe_with_hardly_any_ratings():
    x = np.random.default_rng(0).normal(size=(6, 3))
    labels = np.full((6, 2), NAN)
    labels[2, 1] = 0.4
    probe = RidgeProbe.fit(x, labels)
    np.testing.assert_array_equal(probe.weight, np.zeros((2, 3)))
    np.testing.assert_array_equal(probe.bias, [0, 0.4])
    assert np.isnan(probe.alpha).all()
    with pytest.raises(ValueError, match="6 embeddings for 5 labels"):
        RidgeProbe.fit(x, labels[:5])


def test_vader_tells_praise_from_blame():
    scores = vader_score(
        ["What a lovely, happy surprise!", "A horrible, sad mess.", "The bus leaves at nine."]
    )
    assert scores.shape == (3,)
    assert scores[0] > 0.5 > 0 > -0.5 > scores[1]
    assert scores[2] == 0
    assert vader_score([]).shape == (0,)


def test_vader_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(CarlError, match=r"carl-affect\[baselines\]"):
        vader_score(["hello"])
