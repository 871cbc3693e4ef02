"""Scores of a model on several corpora, of which some leave a dimension unrated."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from carl.evaluation.agreement import score_corpora


def test_each_rated_dimension_of_each_corpus() -> None:
    draw = np.random.default_rng(0)
    rated = draw.uniform(-1, 1, (300, 2))
    gaps = rated.copy()
    gaps[:, 1] = np.nan
    gaps[::3, 0] = np.nan
    predicted = rated + draw.normal(scale=0.3, size=rated.shape)
    texts = [str(i) for i in range(300)]
    both, alone = {"both": (texts, rated)}, {"valence only": (texts, gaps)}
    scores = score_corpora(lambda asked: predicted[[int(text) for text in asked]], both | alone)
    assert [(s.corpus, s.dimension, s.rows) for s in scores] == [
        ("both", "valence", 300),
        ("both", "arousal", 300),
        ("valence only", "valence", 200),
    ]
    for score, (d, kept) in zip(
        scores, [(0, slice(None)), (1, slice(None)), (0, ~np.isnan(gaps[:, 0]))], strict=True
    ):
        r = pearsonr(predicted[kept, d], rated[kept, d])
        assert score.r == pytest.approx(r.statistic)
        assert score.r_low < score.r < score.r_high
        fisher = r.confidence_interval(0.95)  # another way to the interval, close to it at this size
        assert (score.r_low, score.r_high) == pytest.approx((fisher.low, fisher.high), abs=0.02)
        assert score.mae == pytest.approx(np.abs(predicted[kept, d] - rated[kept, d]).mean())
