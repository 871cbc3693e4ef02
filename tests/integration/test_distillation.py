"""A teacher's predictions where nobody has rated: which texts it is asked about, and what becomes of its answers."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carl import AffectEncoder, CarlError, UsageError
from carl.config import CarlConfig
from carl.distillation import teach
from carl.trainer import labels_of
from carl.training import train
from carl.training_data import load_training_data

NEW = ["the child lost the song", "a lovely morning by the sea", "nobody kept the plain letter"]


@pytest.fixture
def gappy_table(ratings_csv: Callable[..., Path], tmp_path: Path) -> Path:
    """Ratings in which every third arousal is missing."""
    rows = list(csv.DictReader(ratings_csv().open(encoding="utf-8")))
    for row in rows[::3]:
        row["arousal"] = ""
    path = tmp_path / "ratings.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "valence", "arousal"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def config(gappy_table: Path, run_folder: Path, tiny_backbone: Path, tmp_path: Path) -> CarlConfig:
    rated = [row["text"] for row in csv.DictReader(gappy_table.open(encoding="utf-8"))]
    more = tmp_path / "more.txt"
    more.write_text("\n".join([*NEW, NEW[0].upper(), *rated]), encoding="utf-8")
    return CarlConfig(
        data=[str(gappy_table)],
        valence="valence",
        arousal="arousal",
        scale=[1, 9],
        teacher=str(run_folder),
        unlabelled=[f"{more}=0.5"],
        backbone=str(tiny_backbone),
        epochs=1,
        batch_size=16,
        queue_size=32,
        pool_size=32,
        evaluations=1,
        precision="fp32",
        output=str(tmp_path / "run"),
    )


def test_only_texts_that_are_new_are_learnt_from(config: CarlConfig) -> None:
    data = load_training_data(config)
    assert data.train["text"][-3:] == NEW
    assert np.isnan(labels_of(data.train)[-3:]).all()
    assert data.weights[-3:] == [0.5] * 3
    assert data.weights[0] == 1
    ((_, notes),) = ((k, v) for k, v in data.notes.items() if "unlabelled" in k)
    assert notes == ["3 of 124 texts are new"]


def test_the_teacher_fills_in_what_is_missing_and_nothing_else(config: CarlConfig, tmp_path: Path) -> None:
    data = load_training_data(config)
    before, said = labels_of(data.train), []
    taught = teach(data, str(config.teacher), tmp_path / "cache.safetensors", said.append)
    after, missing = labels_of(taught.train), np.isnan(before)
    assert missing[:, 1].sum() > 10
    assert not np.isnan(after).any()
    np.testing.assert_array_equal(after[~missing], before[~missing])
    expected = AffectEncoder.from_pretrained(str(config.teacher)).predict(taught.train["text"][:])
    np.testing.assert_allclose(after[missing], expected[missing], atol=1e-5)
    assert taught.train.features == data.train.features
    assert "texts read" in said[-1]


def test_the_teacher_is_asked_once(
    config: CarlConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = load_training_data(config), tmp_path / "cache.safetensors"
    first = teach(data, str(config.teacher), cache, print)
    monkeypatch.setattr("carl.distillation.AffectEncoder", None)
    again = teach(data, str(config.teacher), cache, print)
    np.testing.assert_array_equal(labels_of(first.train), labels_of(again.train))
    fewer = dataclasses.replace(data, train=data.train.select(range(len(data.train) - 1)))
    with pytest.raises(CarlError, match="other rows"):
        teach(fewer, str(config.teacher), cache, print)


def test_a_run_with_a_teacher(config: CarlConfig) -> None:
    train(config)
    facts = json.loads(Path(config.output, "run.json").read_text(encoding="utf-8"))
    assert set(facts["data"]["teacher"]) == {"model.safetensors", "affect/head.safetensors"}
    assert facts["train_rows"] > 90


def test_mistakes(config: CarlConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need a teacher"):
        CarlConfig(unlabelled=["goemotions"])
    config.teacher = str(tmp_path / "nowhere")
    with pytest.raises(CarlError, match=r"nowhere.*model trained with"):
        train(config)


def test_texts_that_are_to_be_judged_on_are_refused(config: CarlConfig, carl_data: Path) -> None:
    config.unlabelled = ["isear"]
    with pytest.raises(UsageError, match="every text of it is a test text"):
        load_training_data(config)
    config.unlabelled = ["tweeteval"]
    assert len(load_training_data(config).train) > 3000
