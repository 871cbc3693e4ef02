"""The model that comes with the package, as someone meets it who has just installed it."""

from pathlib import Path

import numpy as np
import pytest

from carl import AffectEncoder
from carl.data import load_corpus
from carl.evaluation.valence_arousal import score
from carl.model import released_folder
from carl.trainer import labels_of

from .conftest import Carl


@pytest.fixture(scope="module")
def released() -> AffectEncoder:
    return AffectEncoder.from_pretrained(device="cpu")


def test_it_is_small_and_has_a_card() -> None:
    size = sum(file.stat().st_size for file in released_folder().rglob("*") if file.is_file())
    assert size <= 5_000_000
    text = (released_folder() / "README.md").read_text(encoding="utf-8")
    for part in (
        "## Data",
        "## Scores",
        "## Limits, and what it must not be used for",
        "EmoBank",
        "GoEmotions",
    ):
        assert part in text


def test_a_newcomers_first_command(carl: Carl) -> None:
    outcome = carl("predict", "no complaints, it just works 😊")
    assert outcome.code == 0, outcome.err
    line = outcome.out.splitlines()[-1]
    assert line.startswith("+")
    assert "…" in line
    assert "no complaints" in line


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("I am happy", "I am not happy"),
        ("not bad at all", "not good at all"),
        ("the food was great", "the food was awful"),
        ("we won 🎉", "we lost 😭"),
        ("everything I hoped for", "nothing I hoped for"),
    ],
)
def test_it_hears_what_turns_the_affect(released: AffectEncoder, better: str, worse: str) -> None:
    high, low = released.predict([better, worse])
    assert high[0] > low[0] + 0.1


def test_excitement_is_arousal(released: AffectEncoder) -> None:
    calm, excited = released.predict(["a quiet afternoon by the lake", "run, the house is on fire!!!"])
    assert excited[1] > calm[1] + 0.1


def test_emotions_are_named(released: AffectEncoder) -> None:
    texts = [
        "I am so afraid of the dark",
        "how dare you, you liar",
        "I miss her, I cried all night",
        "best day ever!",
    ]
    probabilities = released.emotions(released.encode(texts))
    assert released.emotion is not None
    assert [released.emotion.names[i] for i in probabilities.argmax(1)] == ["fear", "anger", "sadness", "joy"]


def test_nine_in_ten_ratings_lie_in_their_intervals(released: AffectEncoder, carl_data: Path) -> None:
    test = load_corpus("emobank").splits["test"]
    predicted, rated = released.predict(test["text"][:]), labels_of(test)
    low, high = np.moveaxis(released.intervals(predicted), -1, 0)
    covered = ((low <= rated) & (rated <= high)).mean(axis=0)
    assert (covered > 0.88).all()
    assert (covered < 0.92).all()
    scores = score(predicted, rated)
    assert scores["valence_r"] > 0.74
    assert scores["arousal_r"] > 0.52
