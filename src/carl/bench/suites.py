"""What is measured of a model, suite by suite. Nothing here trains an encoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from carl.bench.cells import pack
from carl.data import load_corpus, load_task, task_names
from carl.evaluation.contamination import overlap, refusal
from carl.evaluation.geometry import describe_geometry
from carl.evaluation.polarity import load_pairs, triplet_accuracy, valence_order_accuracy
from carl.evaluation.transfer import score_task
from carl.evaluation.valence_arousal import DIMENSIONS, STATISTICS, RidgeProbe
from carl.trainer import labels_of

Predict = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]

FOLDS = 10
VADER_PARTS = ("vader-tweets", "vader-nyt", "vader-amazon", "vader-movie")


class Embedder:
    """Embeddings of texts, each different text encoded once whatever suites ask for it.

    Args:
        encode: n texts -> (n, d); in the same arithmetic for all methods that are compared.
    """

    def __init__(self, encode: Callable[[list[str]], npt.NDArray[np.float32]]) -> None:
        self._encode = encode
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, d) of n texts."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            self._known.update(zip(new, self._encode(new), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass
class Measured:
    """What a suite found; see ``Cell`` for the parts."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_ratings(self, column: str, predicted: npt.ArrayLike, rated: npt.ArrayLike) -> None:
        """Score predictions (n, 2) on each dimension that is rated; the column is named ``<column> V`` and ``A``."""
        x, y = np.asarray(predicted), np.asarray(rated)
        for index, dimension in enumerate(DIMENSIONS):
            if np.isnan(y[:, index]).all():
                continue
            name = f"{column} {dimension[0].upper()}"
            values = {key: statistic(x[:, index], y[:, index]) for key, statistic in STATISTICS.items()}
            self.scores[name] = {key: round(value, 5) for key, value in values.items()}
            self.items[name] = pack(np.clip(x[:, index], -3, 3))


def ratings(embed: Embedder, heads: dict[str, Predict], trained_on: Sequence[str]) -> Measured:
    """Valence and arousal: a ridge probe on the frozen embeddings, and the ``heads`` by name (``own``, ``learnt``)
    on EmoBank and, untouched by its ratings, on Facebook.
    """
    found = Measured()
    emobank = load_corpus("emobank")
    found.data["emobank"] = emobank.files
    texts = {name: emobank.splits[name]["text"][:] for name in ("train", "dev", "test")}
    rated = {name: labels_of(emobank.splits[name]) for name in texts}
    probe = RidgeProbe.fit(embed(texts["train"]), rated["train"], embed(texts["dev"]), rated["dev"])
    found.add_ratings("EmoBank", probe.predict(embed(texts["test"])), rated["test"])
    for name, predict in heads.items():
        found.add_ratings(f"EmoBank, {name} head", predict(embed(texts["test"])), rated["test"])

    facebook = load_corpus("facebook-va")
    found.data["facebook-va"] = facebook.files
    posts = [text for name in texts for text in facebook.splits[name]["text"][:]]
    post_labels = np.concatenate([labels_of(facebook.splits[name]) for name in texts])
    if clean(found, "Facebook", trained_on, posts):
        found.add_ratings("Facebook", folded_ridge(embed(posts), post_labels), post_labels)
        for name, predict in heads.items():
            found.add_ratings(f"Facebook, zero-shot {name} head", predict(embed(posts)), post_labels)

    for name in VADER_PARTS:
        part = load_corpus(name)
        found.data[name] = part.files
        test = part.splits["test"]["text"][:]
        column = name.removeprefix("vader-")
        if clean(found, column, trained_on, test):
            fit = [embed(part.splits[s]["text"][:]) for s in ("train", "dev")]
            y = [labels_of(part.splits[s]) for s in ("train", "dev", "test")]
            probe = RidgeProbe.fit(fit[0], y[0], fit[1], y[1])
            found.add_ratings(column, probe.predict(embed(test)), y[2])
    return found


def folded_ridge(
    embeddings: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """(n, 2) predictions for every row by the ridge probe of the nine folds it is not in; penalty by leave-one-out."""
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    predicted = np.empty((len(labels), 2))
    for held_out in range(FOLDS):
        probe = RidgeProbe.fit(embeddings[fold != held_out], labels[fold != held_out])
        predicted[fold == held_out] = probe.predict(embeddings[fold == held_out])
    return predicted


def transfer(embed: Embedder, heads: dict[str, Predict], trained_on: Sequence[str]) -> Measured:
    """Classification by logistic regression on the frozen embeddings (SentEval)."""
    found = Measured()
    for name in task_names():
        task = load_task(name)
        found.data[name] = task.files
        test = task.texts["test" if "test" in task.texts else "all"]
        if not clean(found, name, trained_on, test):
            continue
        result = score_task(task, lambda texts: embed(texts))
        found.scores[name] = {
            "accuracy": round(result.accuracy, 5),
            "macro_f1": round(result.macro_f1, 5),
            "not_converged": result.not_converged,
        }
        found.items[name] = pack(result.predicted)
    return found


def geometry(embed: Embedder, heads: dict[str, Predict], trained_on: Sequence[str]) -> Measured:
    """Alignment, uniformity and the order of distances, on EmoBank's test split."""
    emobank = load_corpus("emobank")
    test = emobank.splits["test"]
    shape = describe_geometry(embed(test["text"][:]), labels_of(test))
    values = {name: round(float(value), 5) for name, value in vars(shape).items()}
    return Measured({"geometry": values}, {}, {"emobank": emobank.files})


def polarity(embed: Embedder, heads: dict[str, Predict], trained_on: Sequence[str]) -> Measured:
    """Minimal pairs: does the embedding, and does the head, hear the word that turns the affect?"""
    found, pairs = Measured(), load_pairs()
    results = {"triplets": triplet_accuracy(lambda texts: embed(texts), pairs)}
    if "own" in heads:
        results["valence order"] = valence_order_accuracy(lambda texts: heads["own"](embed(texts)), pairs)
    for column, result in results.items():
        parts = {"accuracy": result.accuracy, **result.by_kind}
        found.scores[column] = {name: round(value, 5) for name, value in parts.items()}
        found.items[column] = pack(np.asarray(result.outcomes, dtype=bool))
    return found


SUITES: dict[str, Callable[[Embedder, dict[str, Predict], Sequence[str]], Measured]] = {
    "ratings": ratings,
    "transfer": transfer,
    "geometry": geometry,
    "polarity": polarity,
}


def clean(found: Measured, column: str, trained_on: Sequence[str], test: Sequence[str]) -> bool:
    """Whether the model has not met the test texts in training; if it has, the refusal is noted with the count."""
    reason = refusal(overlap(trained_on, test)) if trained_on else None
    if reason is not None:
        found.notes.append(f"{column}: {reason}")
    return reason is None
