"""What is said of a text: one flat record, the same for the command line, files and the server."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from carl.model import AffectEncoder


def score_texts(model: AffectEncoder, texts: Sequence[str]) -> list[dict[str, Any]]:
    """For each text ``valence`` and ``arousal`` in [-1, 1]; with a calibration the ends of their intervals,
    ``valence_low`` and so on; and the ``emotion`` with its ``emotion_probability``, where the model names it.
    """
    embeddings = model.encode(texts)
    predicted = model.predict_embeddings(embeddings)
    columns: dict[str, Any] = {}
    intervals = None if model.calibration is None else model.intervals(predicted)
    for d, name in enumerate(("valence", "arousal")):
        columns[name] = predicted[:, d]
        if intervals is not None and not np.isnan(intervals[:, d]).any():
            columns[f"{name}_low"], columns[f"{name}_high"] = intervals[:, d].T
    records: list[dict[str, Any]] = [
        {name: round(float(values[i]), 4) for name, values in columns.items()} for i in range(len(texts))
    ]
    if model.emotion is not None:
        probabilities = model.emotions(embeddings)
        for record, row in zip(records, probabilities, strict=True):
            record["emotion"] = model.emotion.names[int(row.argmax())]
            record["emotion_probability"] = round(float(row.max()), 4)
    return records
