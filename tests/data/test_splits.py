import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carl.data import load_corpus
from carl.data.splits import normalise, seeded_split, split
from carl.data.tables import Ratings
from carl.errors import CarlError


def ratings(texts: list[str], splits: list[str] | None = None) -> Ratings:
    return Ratings(texts, np.zeros((len(texts), 2), dtype=np.float32), splits)


def test_texts_are_compared_by_letters_and_digits() -> None:
    assert normalise("It's  FINE, no. 7!") == normalise("its fine (no 7)") == "itsfineno7"
    assert normalise(" :-) ") == ":-)"
    assert normalise("STRASSE") == normalise("straße")


def test_the_seeded_split_never_changes() -> None:
    # Published results hang on it: a change of the rule must be a decision, not an accident.
    first = "".join(seeded_split(f"text number {i}")[-1] for i in range(30))
    assert first == "nnvnnnnnnnvnvnnnnnvnntvttnnnnn"
    assert seeded_split("text number 2") == seeded_split("TEXT, number 2!") == "dev"
    parts = [seeded_split(f"sentence {i}") for i in range(20_000)]
    assert [round(parts.count(part) / 20_000, 2) for part in ("train", "dev", "test")] == [0.8, 0.1, 0.1]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text("abC !?é🙂", min_size=1, max_size=4).filter(str.strip), min_size=30), st.randoms())
def test_seeded_splits_are_disjoint_and_know_no_order(texts: list[str], shuffler: random.Random) -> None:
    def parts(rows: list[str]) -> dict[str, list[str]]:
        try:
            return {name: sorted(part["text"]) for name, part in split(ratings(rows), "t")[0].items()}
        except CarlError:  # no text fell into train
            return {}

    straight = parts(texts)
    keys = [{normalise(text) for text in part} for part in straight.values()]
    assert not any(a & b for i, a in enumerate(keys) for b in keys[i + 1 :])
    assert sum(map(len, straight.values())) in (0, len(texts))
    shuffled = texts.copy()
    shuffler.shuffle(shuffled)
    assert parts(shuffled) == straight
    subset = parts(texts[::2])
    assert all(set(subset[name]) <= set(straight[name]) for name in subset if straight)


def test_training_rows_that_stand_in_dev_or_test_are_left_out() -> None:
    texts = ["Same!", "same", "only train", "Other.", "other", "same"]
    splits, notes = split(ratings(texts, ["train", "dev", "train", "train", "test", "test"]), "t")
    assert list(splits["train"]["text"]) == ["only train"]
    assert list(splits["dev"]["text"]) == ["same"]
    assert list(splits["test"]["text"]) == ["other", "same"]  # dev and test stay as they are
    assert notes == ("left out 2 training rows whose text also stands in dev or test",)


def test_nothing_to_train_on() -> None:
    with pytest.raises(CarlError, match=r"no training row"):
        split(ratings(["a"], ["test"]), "mine.csv")


def test_an_own_table_loads_as_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text(
        "text,v,split\ngood day,9,train\nbad day,1,dev\nGood day!,8,train\nbad  day,2,train\nday,x,test\n"
    )
    corpus = load_corpus(path, valence="v", scale=(1, 9), skip_bad_rows=True)
    assert list(corpus.splits) == ["train", "dev", "test"]
    assert list(corpus.splits["train"]["text"]) == ["good day", "Good day!"]
    assert corpus.splits["train"].column_names == ["text", "label"]
    assert str(corpus.splits["train"].features["label"]) == "List(Value('float32'), length=2)"
    assert corpus.splits["dev"]["label"][0][0] == -1
    assert np.isnan(corpus.splits["dev"]["label"][0][1])
    assert list(corpus.files) == ["my.csv"]
    notes = " | ".join(corpus.notes)
    for said in (
        "left out 1 bad row: 6",
        "official split",
        "left out 1 training row",
        "test split is empty",
    ):
        assert said in notes
