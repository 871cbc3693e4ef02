"""What is said of a text: one flat record, the same for the command line, files and the server."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from carl.model import AffectEncoder


def score_texts(model: AffectEncoder, texts: Sequence[str]) -> list[dict[str, Any]]:
    """See ``score_embeddings``."""
    return score_embeddings(model, model.encode(texts))


def score_embeddings(model: AffectEncoder, embeddings: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """For each of (n, d) ``valence`` and ``arousal`` in [-1, 1]; with a calibration the ends of their intervals,
    ``valence_low`` and so on; and the ``emotion`` with its ``emotion_probability``, where the model names it.
    """
    predicted = model.predict_embeddings(embeddings)
    columns: dict[str, Any] = {}
    intervals = None if model.calibration is None else model.intervals(predicted)
    for d, name in enumerate(("valence", "arousal")):
        columns[name] = predicted[:, d]
        if intervals is not None and not np.isnan(intervals[:, d]).any():
            columns[f"{name}_low"], columns[f"{name}_high"] = intervals[:, d].T
    records: list[dict[str, Any]] = [
        {name: round(float(values[i]), 4) for name, values in columns.items()} for i in range(len(predicted))
    ]
    if model.emotion is not None:
        probabilities = model.emotions(embeddings)
        for record, row in zip(records, probabilities, strict=True):
            record["emotion"] = model.emotion.names[int(row.argmax())]
            record["emotion_probability"] = round(float(row.max()), 4)
    return records
