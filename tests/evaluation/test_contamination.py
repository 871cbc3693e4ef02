import os
import random

import pytest

from carl.data import load_corpus, load_task
from carl.data.splits import normalise
from carl.errors import UsageError
from carl.evaluation import contamination
from carl.evaluation.contamination import MAX_SHARE, Overlap, overlap, refusal

real = pytest.mark.skipif("CARL_DATA" not in os.environ, reason="CARL_DATA is not set")

LONG = "The kettle in the corner whistled so loudly that the cat left the kitchen."
OTHER = "Nobody at the station could tell us when the last train to the coast would leave."


def test_letters_and_digits_count_alone():
    found = overlap(
        [OTHER, LONG, LONG], [LONG.upper().replace(" ", "  ") + "!!!", "Something quite different."]
    )
    assert (found.exact, found.near, found.compared, found.texts) == (1, 0, 2, 2)
    assert found.exact_examples == ((1, 0),)
    assert found.share == 0.5


def test_short_texts_are_not_judged():
    found = overlap(
        ["Thanks a lot!", "Thank you so much", ""], ["thanks a lot", "Thank you so much.", "", "!?"]
    )
    assert (found.exact, found.near, found.compared, found.texts) == (0, 0, 0, 4)
    assert found.share == 0
    assert overlap(["Thank you so very much"], ["thank you so very much!"]).exact == 1  # 18 letters


@pytest.mark.parametrize(
    "changed",
    [
        LONG.replace("whistled", "wistled"),
        LONG.replace("kettle", "kettel").replace("kitchen", "kichen"),
        LONG[:45],
        LONG[30:],
        f"As my aunt used to say: {LONG} And then she laughed.",
        LONG.replace("the cat", "th\u00eb cat"),
    ],
)
def test_cut_and_misspelt_texts_are_near(changed):
    for train, test in (([OTHER, LONG], [changed]), ([OTHER, changed], [LONG])):
        found = overlap(train, test)
        assert (found.exact, found.near) == (0, 1)
        assert found.near_examples == ((1, 0),)


@pytest.mark.parametrize(
    "fresh",
    [
        "The cat in the kitchen whistled; the kettle left the corner.",
        "The kettle in the hall was cold, and nobody had thought of the cat.",
        "The kettle in the corner",  # a set phrase: 20 letters
        "haha" * 30,
    ],
)
def test_like_words_are_not_near(fresh):
    found = overlap([LONG, OTHER, "hahaha" * 15], [fresh])
    assert (found.exact, found.near) == (0, 0)


def test_the_best_and_first_original_is_named():
    misspelt = LONG.replace("loudly", "loudely")
    assert overlap([OTHER, f"{LONG} Twice.", f"{LONG} Twice!"], [misspelt]).near_examples == ((1, 0),)
    assert overlap([f"{LONG} Twice.", LONG[:40]], [misspelt]).near_examples == (
        (1, 0),
    )  # contained as a whole
    assert overlap([OTHER, LONG, LONG], [LONG]).exact_examples == ((1, 0),)
    assert len(overlap([LONG], [LONG] * 9, examples=2).exact_examples) == 2


def slow(train, test):
    """The definition, with sets of strings."""

    def cut(key):
        return {key[i : i + 12] for i in range(len(key) - 11)}

    keys = [normalise(text) for text in train]
    known = {key for key in keys if len(key) > 15}
    shingles = [cut(key) for key in known]
    exact = near = compared = 0
    for key in map(normalise, test):
        if len(key) <= 15:
            continue
        compared += 1
        if key in known:
            exact += 1
            continue
        mine = cut(key)
        near += any(
            min(len(mine), len(s)) >= 13 and len(mine & s) / min(len(mine), len(s)) >= 0.5 for s in shingles
        )
    return exact, near, compared


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_their_definition(seed, monkeypatch):
    monkeypatch.setattr(contamination, "_ROWS", 7)
    draw = random.Random(seed)
    words = [
        "grün",
        "l'été",
        "ab",
        "cat",
        "house",
        "\U00010428\U00010429",
        "walking",
        "12",
        "…",
        "slowly",
        "window",
        "Straße",
    ]

    def sentence():
        return " ".join(draw.choices(words, k=draw.randint(0, 25)))

    def mangled(text):
        start = draw.randint(0, max(0, len(text) // 2))
        cut = text[start : start + draw.randint(0, len(text))]
        return cut.replace(draw.choice("aeiou"), "", 1)

    train = [sentence() for _ in range(60)]
    test = [mangled(draw.choice(train)) for _ in range(40)] + [sentence() for _ in range(20)] + train[:5]
    found = overlap(train, test)
    assert (found.exact, found.near, found.compared) == slow(train, test)
    assert found.near > 5


def test_empty_sides_and_a_string():
    for train, test in (
        ([], [LONG]),
        ([LONG], []),
        ([], []),
        (["", "?"], ["", "short"]),
        ([LONG], ["\ud83d" * 20]),
    ):
        found = overlap(train, test)
        assert (found.exact, found.near, found.share) == (0, 0, 0)
    with pytest.raises(UsageError, match=r"put a single text into a list"):
        overlap(LONG, [LONG])


def test_a_cell_is_refused_above_the_stated_share():
    assert refusal(Overlap(5, 5, 1000, 2000, (), ())) is None
    assert MAX_SHARE == 0.01
    assert refusal(Overlap(0, 0, 0, 3, (), ())) is None
    reason = refusal(Overlap(1200, 1, 4000, 5000, (), ()))
    assert reason == (
        "1,201 of 4,000 test texts stand in the training texts (1,200 to the letter, 1 cut or spelt differently), "
        "more than the 1% allowed"
    )


def corpus(name):
    return [text for part in load_corpus(name).splits.values() for text in part["text"]]


def held_out(name):
    texts = load_task(name).texts
    return texts["test"] if "test" in texts else texts["all"]


@real
@pytest.mark.parametrize(
    ("train", "test", "exact", "near"),
    [
        ("vader-movie", "mr", 10_496, 6),
        ("vader-movie", "subj", 4_157, 9),
        ("vader-movie", "sst2", 1_426, 330),
        ("vader-movie", "sst5", 1_697, 413),
        ("vader-amazon", "cr", 1_279, 326),
    ],
)
def test_vader_reviews_are_the_texts_of_the_polarity_tasks(train, test, exact, near):
    found = overlap(corpus(train), held_out(test))
    assert (found.exact, found.near) == (exact, near)
    assert refusal(found)


@real
@pytest.mark.parametrize("train", ["emobank", "vader-tweets", "vader-nyt", "facebook-va"])
def test_other_corpora_are_free_of_the_tasks(train):
    texts = corpus(train)
    for test in (
        "mpqa",
        "isear",
        "goemotions",
        "tweeteval",
        "meld",
        "trec",
        "cr",
        "mr",
        "sst2",
        "sst5",
        "subj",
    ):
        found = overlap(texts, held_out(test))
        assert found.exact == 0
        assert found.share < MAX_SHARE / 2
        assert refusal(found) is None
