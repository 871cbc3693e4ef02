"""What a prediction is worth: an affine correction, and intervals that cover a stated share of the ratings."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

LEVEL = 0.9
#: Rated rows below which a dimension is not calibrated: its interval would say nothing.
FEWEST = 30

Pairs = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Calibration:
    """Split conformal intervals (Lei 2018): prediction +- half width covers the rating with probability ``level``, for
    texts that come from where the calibration texts came from.

    Attributes:
        level: in (0, 1).
        half_width: of valence and of arousal; NaN where there were too few ratings.
        rows: how many ratings each rests on.
    """

    level: float
    half_width: tuple[float, float]
    rows: tuple[int, int]

    @classmethod
    def fit(cls, predicted: Pairs, rated: Pairs, level: float = LEVEL) -> Self:
        """From predictions and ratings (n, 2) of texts that the model was not trained on; NaN where not rated."""
        widths, rows = [], []
        for x, y in zip(predicted.T, rated.T, strict=True):
            errors = np.sort(np.abs(x - y)[~np.isnan(y)])
            # The ceil((n + 1) level)-th smallest error: exact coverage for any distribution, if n is large enough.
            rank = int(np.ceil((len(errors) + 1) * level))
            enough = len(errors) >= FEWEST and rank <= len(errors)
            widths.append(float(errors[rank - 1]) if enough else float("nan"))
            rows.append(len(errors))
        return cls(level, (widths[0], widths[1]), (rows[0], rows[1]))

    def intervals(self, predicted: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(n, 2, 2) low and high end around predictions (n, 2), within [-1, 1]; NaN where unknown."""
        centre = np.asarray(predicted, dtype=np.float32)[..., None]
        half = np.asarray(self.half_width, dtype=np.float32)[:, None] * np.array([-1, 1], dtype=np.float32)
        return np.asarray(np.clip(centre + half, -1, 1), dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a model's description."""
        widths = [None if np.isnan(width) else round(width, 5) for width in self.half_width]
        return {"level": self.level, "half_width": widths, "rows": list(self.rows)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse.

        Raises:
            ValueError, KeyError, TypeError: it is not one.
        """
        low, high = (float("nan") if width is None else float(width) for width in values["half_width"])
        valence, arousal = (int(n) for n in values["rows"])
        return cls(float(values["level"]), (low, high), (valence, arousal))


def affine_correction(
    predicted: Pairs, rated: Pairs
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Slope (2,) and intercept (2,) that bring predictions (n, 2) nearest to the ratings, by least squares.

    1 and 0 for a dimension with too few ratings, or whose predictions go against them.
    """
    slope, intercept = np.ones(2), np.zeros(2)
    for d in range(2):
        known = ~np.isnan(rated[:, d])
        x, y = predicted[known, d].astype(np.float64), rated[known, d].astype(np.float64)
        if known.sum() >= FEWEST and x.std() > 0:
            fitted = ((x - x.mean()) * (y - y.mean())).mean() / x.var()
            if fitted > 0:
                slope[d], intercept[d] = fitted, y.mean() - fitted * x.mean()
    return slope, intercept
