"""The demo: CARL against a rule lexicon and against the untouched backbone, on ratings that need no sign-up."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from carl.backbone import load_backbone
from carl.evaluation.report import Table
from carl.evaluation.valence_arousal import RidgeProbe, pearson, vader_score
from carl.model import AffectEncoder
from carl.run_report import write_run_report
from carl.trainer import labels_of
from carl.training_data import TrainingData

VADER = "VADER's rule score"
RIDGE = "untouched backbone + ridge"
CARL = "CARL"
DIMENSIONS = ("valence", "arousal")

#: Sentences of our own to predict at the end: negated ones and emoji among them.
SENTENCES = (
    "I can't believe we made it!",
    "I am happy.",
    "I am not happy.",
    "no complaints, it just works 😊",
    "This is the worst day of my life 😭",
    "The meeting was moved to Thursday.",
)


def compare(
    model: AffectEncoder, data: TrainingData, backbone: str, folder: Path, say: Callable[[str], None]
) -> Table:
    """Pearson r of the three methods on every held-out column; computed once, then read from ``comparison.json``.

    The ridge regression gets the same training rows as CARL, and its penalty from the same dev rows.
    """
    path = folder / "comparison.json"
    if not path.is_file():
        say("scoring the untouched backbone with ridge regression, for comparison")
        untouched = load_backbone(backbone)

        def encode(name: str) -> np.ndarray:
            return np.concatenate([untouched.encode(c.splits[name]["text"][:]) for c in data.corpora])

        def rated(name: str) -> np.ndarray:
            return np.concatenate([labels_of(c.splits[name]) for c in data.corpora])

        probe = RidgeProbe.fit(encode("train"), rated("train"), encode("dev"), rated("dev"))
        scores: dict[str, dict[str, float]] = {VADER: {}, RIDGE: {}, CARL: {}}
        for corpus in data.corpora:
            texts, labels = corpus.splits["test"]["text"][:], labels_of(corpus.splits["test"])
            ridge, carl = (
                probe.predict(untouched.encode(texts)),
                model.predict(texts),
            )
            for dimension, name in enumerate(DIMENSIONS):
                if np.isnan(labels[:, dimension]).all():
                    continue
                column = f"{corpus.name.removeprefix('vader-')} {name[0].upper()}"
                scores[RIDGE][column] = pearson(ridge[:, dimension], labels[:, dimension])
                scores[CARL][column] = pearson(carl[:, dimension], labels[:, dimension])
                if dimension == 0:
                    scores[VADER][column] = pearson(vader_score(texts), labels[:, 0])
        staging = path.with_suffix(".partial")
        staging.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
        staging.replace(path)
    scores = json.loads(path.read_text(encoding="utf-8"))
    columns = list(scores[CARL])
    rows = [[method, *(scores[method].get(column) for column in columns)] for method in (VADER, RIDGE, CARL)]
    note = (
        "Pearson r of valence (V) and arousal (A) on held-out tweets, New York Times editorials, Amazon reviews and "
        "single words (Warriner) that no method has seen. VADER scores no arousal."
    )
    return Table("Held-out agreement with human raters", ["method", *columns], rows, note, best=True)


def write_demo_report(model: AffectEncoder, data: TrainingData, table: Table, folder: Path) -> Path:
    """The run's report with the comparison on top, drawn on the test splits."""
    return write_run_report(
        folder,
        model,
        data,
        split="test",
        tables=[table],
        title="CARL demo",
        summary=(
            "CARL fine-tuned a small sentence encoder (MiniLM, 22 million parameters) on human ratings of tweets, "
            "newspaper editorials, product reviews and single words. The first table sets it beside what one would "
            "do instead, on texts held out from all of them."
        ),
    )
