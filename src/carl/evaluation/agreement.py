"""How well a model agrees with the raters of several corpora, dimension by dimension."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carl.evaluation.statistics import mean_interval
from carl.evaluation.valence_arousal import DIMENSIONS, concordance, mean_absolute_error, pearson, rated_pairs


@dataclass(frozen=True)
class DimensionScore:
    """How well one dimension of one corpus is predicted."""

    corpus: str
    dimension: str
    rows: int
    """Texts rated on this dimension."""
    r: float
    r_low: float
    """95 % bootstrap interval of r over the texts."""
    r_high: float
    ccc: float
    mae: float


def score_corpora(
    predict: Callable[[list[str]], npt.ArrayLike], corpora: Mapping[str, tuple[Sequence[str], npt.ArrayLike]]
) -> list[DimensionScore]:
    """Predict n texts of each corpus and compare with their ratings (n, 2); unrated dimensions are left out."""
    scores = []
    for corpus, (texts, labels) in corpora.items():
        predicted, rated = np.asarray(predict(list(texts))), np.asarray(labels)
        for d, name in enumerate(DIMENSIONS):
            x, y = rated_pairs(predicted[:, d], rated[:, d])
            if len(y):
                interval = mean_interval(x, y, pearson)
                scores.append(
                    DimensionScore(
                        corpus,
                        name,
                        len(y),
                        interval.mean,
                        interval.low,
                        interval.high,
                        concordance(x, y),
                        mean_absolute_error(x, y),
                    )
                )
    return scores
