import re
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carl.errors import CarlError, UsageError
from carl.evaluation import polarity
from carl.evaluation.polarity import (
    KINDS,
    PolarityItem,
    load_pairs,
    triplet_accuracy,
    valence_order_accuracy,
)
from carl.evaluation.statistics import accuracy, mean_interval, paired_bootstrap

ITEMS = load_pairs()
BY_KIND = {kind: [item for item in ITEMS if item.kind == kind] for kind in KINDS}


def words(text):
    return re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower())


def jaccard(a, b):
    a, b = set(words(a)), set(words(b))
    return len(a & b) / len(a | b)


def bag_of_words(texts):
    vocabulary = {word: i for i, word in enumerate(sorted({w for text in texts for w in words(text)}))}
    counts = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        for word in words(text):
            counts[row, vocabulary[word]] += 1
    return counts


def knowing_all(texts):
    """Valence in steps of strength, told from the items themselves: what a perfect predictor would say."""
    valence = {}
    for item in ITEMS:
        for name in ("anchor", "opposite"):
            flips = name == "opposite" and item.stronger is None
            strength = 0.2 if item.stronger not in (None, name) else 0.8
            valence[getattr(item, name)] = item.polarity * (-strength if flips else strength)
    return np.array([valence[text] for text in texts])


def test_there_are_enough_items_of_every_kind_and_no_text_twice():
    assert len(ITEMS) >= 240
    assert min(map(len, BY_KIND.values())) >= 40
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    texts = [text for item in ITEMS for text in (item.anchor, item.same, item.opposite)]
    assert [text for text, times in Counter(texts).items() if times > 1] == []
    assert all(text == text.strip() and 1 < len(words(text)) <= 25 for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_pleasant_and_unpleasant_anchors_are_balanced(kind):
    """Else a predictor that calls every shorter or longer or negated text unpleasant would look clever."""
    assert 0.4 <= np.mean([item.polarity > 0 for item in BY_KIND[kind]]) <= 0.6
    assert 0.4 <= np.mean([item.anchor_is_higher for item in BY_KIND[kind]]) <= 0.6


def test_intensifiers_say_which_text_is_stronger_and_no_other_kind_does():
    assert all((item.stronger is None) == (item.kind != "intensifier") for item in ITEMS)
    assert 0.4 <= np.mean([item.stronger == "anchor" for item in BY_KIND["intensifier"]]) <= 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_shared_words_point_the_wrong_way(kind):
    same = [jaccard(item.anchor, item.same) for item in BY_KIND[kind]]
    opposite = [jaccard(item.anchor, item.opposite) for item in BY_KIND[kind]]
    assert np.mean(same) + 0.3 < np.mean(opposite)
    assert all(s < o for s, o in zip(same, opposite, strict=True))


def test_emoji_and_hashtag_items_differ_in_nothing_else():
    for item in BY_KIND["hashtag"]:
        assert item.anchor.count("#") == item.opposite.count("#") == 1
        assert item.anchor.split("#")[0] == item.opposite.split("#")[0]
    for item in BY_KIND["emoji"]:
        plain = [re.sub(r"[^\x00-\x7f]", "", text) for text in (item.anchor, item.opposite)]
        assert plain[0] == plain[1]
        assert item.anchor != item.opposite


def test_no_sentence_frame_is_used_again_and_again():
    starts = Counter(tuple(words(item.anchor)[:3]) for item in ITEMS)
    assert max(starts.values()) <= 4


def test_counting_words_gets_nearly_all_wrong():
    assert triplet_accuracy(bag_of_words, ITEMS).accuracy < 0.05


def test_knowing_the_affect_gets_all_right():
    def encode(texts):
        item_of = {t: i for i in ITEMS for t in (i.anchor, i.same, i.opposite)}
        turned = np.array([text == item_of[text].opposite for text in texts])
        return np.stack([np.where(turned, -0.2, 1.0), np.ones(len(texts))], axis=1)

    found = triplet_accuracy(encode, ITEMS)
    assert found.accuracy == 1
    assert found.by_kind == dict.fromkeys(KINDS, 1.0)
    assert valence_order_accuracy(knowing_all, ITEMS).accuracy == 1
    assert valence_order_accuracy(lambda texts: -knowing_all(texts), ITEMS).accuracy == 0


def test_triplets_equal_a_slow_loop_whatever_the_length_of_the_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3 * len(ITEMS), 8)) * rng.uniform(0.1, 10, size=(3 * len(ITEMS), 1))
    found = triplet_accuracy(lambda texts: vectors, ITEMS)

    def cosine(a, b):
        return a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)

    for i, (a, s, o) in enumerate(vectors.reshape(len(ITEMS), 3, 8)):
        assert found.margins[i] == pytest.approx(cosine(a, s) - cosine(a, o))
        assert found.outcomes[i] == (cosine(a, s) > cosine(a, o))
    assert found.accuracy == pytest.approx(sum(found.outcomes) / len(ITEMS))
    per_kind = Counter()
    for item, right in zip(ITEMS, found.outcomes, strict=True):
        per_kind[item.kind] += int(right)
    assert found.by_kind == pytest.approx({kind: per_kind[kind] / len(BY_KIND[kind]) for kind in KINDS})
    assert 0.4 < found.accuracy < 0.6


def test_valence_may_come_with_arousal_and_on_any_scale():
    rng = np.random.default_rng(0)
    values = rng.normal(size=2 * len(ITEMS))
    alone = valence_order_accuracy(lambda texts: values, ITEMS)
    both = valence_order_accuracy(lambda texts: np.stack([7 + 3 * values, -values], axis=1), ITEMS)
    np.testing.assert_array_equal(alone.outcomes, both.outcomes)


@pytest.mark.parametrize(
    ("polarity", "stronger", "higher"),
    [
        (1, None, True), (-1, None, False),
        (1, "anchor", True), (1, "opposite", False), (-1, "anchor", False), (-1, "opposite", True),
    ],
)  # fmt: skip
def test_which_text_is_more_pleasant(polarity, stronger, higher):
    item = PolarityItem("x", "intensifier" if stronger else "idiom", "a", "s", "o", polarity, stronger)
    assert item.anchor_is_higher is higher


def test_texts_that_look_alike_to_the_model_are_wrong():
    def blind(texts):
        return 1 + np.random.default_rng(0).normal(scale=1e-9, size=(len(texts), 4))

    assert triplet_accuracy(blind, ITEMS).accuracy == 0
    assert valence_order_accuracy(lambda texts: blind(texts)[:, 0], ITEMS).accuracy == 0


def test_outcomes_go_into_the_bootstrap():
    first = triplet_accuracy(bag_of_words, ITEMS)
    second = valence_order_accuracy(knowing_all, ITEMS)
    truth = np.ones(len(ITEMS), dtype=bool)
    found = mean_interval(first.outcomes, truth, accuracy, n=200)
    assert found.mean == pytest.approx(first.accuracy)
    assert found.low <= found.mean <= found.high
    assert paired_bootstrap(second.outcomes, first.outcomes, truth, accuracy, n=200).p < 0.05


def test_bad_embeddings_and_predictions_are_refused():
    few = ITEMS[:2]
    for encode in (
        lambda t: np.ones((3, 4)),
        lambda t: np.ones(6),
        lambda t: np.zeros((6, 4)),
        lambda t: np.full((6, 4), np.nan),
    ):
        with pytest.raises(UsageError):
            triplet_accuracy(encode, few)
    for predict in (lambda t: np.ones(3), lambda t: np.ones((4, 3)), lambda t: np.full(4, np.nan)):
        with pytest.raises(UsageError):
            valence_order_accuracy(predict, few)
    for measure in (triplet_accuracy, valence_order_accuracy):
        with pytest.raises(UsageError, match="no polarity items"):
            measure(bag_of_words, [])


def test_kinds_that_are_absent_are_not_reported():
    found = triplet_accuracy(bag_of_words, [*BY_KIND["idiom"], replace(BY_KIND["emoji"][0])])
    assert list(found.by_kind) == ["emoji", "idiom"]


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    (tmp_path / "polarity_pairs.jsonl").write_text('{"id": "x"}\n', encoding="utf-8")
    monkeypatch.setattr(polarity.resources, "files", lambda package: tmp_path)
    with pytest.raises(CarlError, match=r"polarity_pairs\.jsonl"):
        load_pairs()


def test_the_wheel_holds_the_pairs(tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=root, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert "carl/evaluation/polarity_pairs.jsonl" in zipfile.ZipFile(wheel).namelist()
