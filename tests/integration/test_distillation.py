"""A teacher's predictions where nobody has rated: which texts it is asked about, and what becomes of its answers."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from carl import AffectEncoder, CarlError, UsageError
from carl.config import CarlConfig
from carl.distillation import principal_components, read_lessons, teach, write_lessons
from carl.trainer import labels_of, read_metrics
from carl.training import train
from carl.training_data import load_training_data

RECIPES = Path(__file__).parents[2] / "recipes"
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
    assert "texts rated" in said[-1]


def test_the_teacher_may_share_in_the_ratings_that_are_there(config: CarlConfig, tmp_path: Path) -> None:
    data = load_training_data(config)
    before = labels_of(data.train)
    taught = teach(data, str(config.teacher), tmp_path / "cache.safetensors", print, share=0.25)
    rated = AffectEncoder.from_pretrained(str(config.teacher)).predict(taught.train["text"][:])
    expected = np.where(np.isnan(before), rated, 0.75 * before + 0.25 * rated)
    np.testing.assert_allclose(labels_of(taught.train), expected, atol=1e-5)


def test_the_teacher_reads_each_text_once_even_if_it_is_stopped_on_the_way(
    config: CarlConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = load_training_data(config), tmp_path / "cache.safetensors"
    whole = teach(data, str(config.teacher), tmp_path / "whole.safetensors", print)
    read: list[str] = []

    class Counted(AffectEncoder):
        def encode(self, texts: list[str], **options: object) -> np.ndarray:
            if len(read) > 20:
                raise KeyboardInterrupt
            read.extend(texts)
            return super().encode(texts, **options)

    monkeypatch.setattr("carl.distillation.CHUNK", 8)
    monkeypatch.setattr("carl.distillation.AffectEncoder", Counted)
    with pytest.raises(KeyboardInterrupt):
        teach(data, str(config.teacher), cache, print)
    assert len(read) == 24
    before, read[:] = set(read), []
    monkeypatch.setattr("carl.distillation.CHUNK", 1000)
    resumed = teach(data, str(config.teacher), cache, print)
    assert read
    assert not before & set(read)
    np.testing.assert_allclose(labels_of(resumed.train), labels_of(whole.train), atol=1e-6)
    read.clear()
    teach(data, str(config.teacher), cache, print)
    assert not read


def test_a_file_of_ratings_is_a_teacher_too(config: CarlConfig, tmp_path: Path) -> None:
    data, cache = load_training_data(config), tmp_path / "ratings.safetensors"
    asked = teach(data, str(config.teacher), cache, print)
    fewer = dataclasses.replace(data, train=data.train.select(reversed(range(5, len(data.train)))))
    again = teach(fewer, str(cache), tmp_path / "unused", print)
    np.testing.assert_array_equal(labels_of(again.train), labels_of(asked.train)[:4:-1])
    assert not (tmp_path / "unused").exists()
    content = cache.read_bytes()
    assert not any(text.encode() in content for text in NEW)

    lessons = read_lessons(cache)
    lessons.ratings.popitem()
    write_lessons(cache, lessons)
    with pytest.raises(CarlError, match=r"no rating for 1 of the \d+ texts"):
        teach(data, str(cache), tmp_path / "unused", print)
    cache.write_bytes(content[:-3])
    with pytest.raises(CarlError, match="damaged"):
        teach(data, str(cache), tmp_path / "unused", print)


def test_a_run_with_a_teacher(config: CarlConfig) -> None:
    train(config)
    facts = json.loads(Path(config.output, "run.json").read_text(encoding="utf-8"))
    assert set(facts["data"]["teacher"]) == {"model.safetensors", "affect/head.safetensors"}
    assert facts["train_rows"] > 90


def test_the_teachers_view_stands_behind_the_ratings(config: CarlConfig, tmp_path: Path) -> None:
    data, cache = load_training_data(config), tmp_path / "cache.safetensors"
    texts = data.train["text"][:]
    alone = teach(data, str(config.teacher), tmp_path / "alone.safetensors", print)
    taught = teach(data, str(config.teacher), cache, print, view_dim=5)
    labels = np.asarray(taught.train["label"][:])
    np.testing.assert_allclose(labels[:, :2], labels_of(alone.train), atol=1e-6)
    # Independently: scikit-learn's principal components of the teacher's embeddings.
    embeddings = AffectEncoder.from_pretrained(str(config.teacher)).encode(texts)
    expected = PCA(5).fit_transform(embeddings)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    views = labels[:, 2:] * np.sign((labels[:, 2:] * expected).sum(axis=0))
    np.testing.assert_allclose(views, expected, atol=0.01)

    again = teach(data, str(cache), tmp_path / "unused", print, view_dim=5)
    np.testing.assert_array_equal(again.train["label"][:], taught.train["label"][:])
    with pytest.raises(CarlError, match="in 5 numbers a text, and distillation_dim is 4"):
        teach(data, str(cache), tmp_path / "unused", print, view_dim=4)
    with pytest.raises(CarlError, match="distillation_dim is 1000"):
        teach(data, str(config.teacher), tmp_path / "other", print, view_dim=1000)


def test_principal_components_are_those_of_the_data() -> None:
    draw = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 2, generator=draw) @ torch.randn(2, 8, generator=draw) + 3
    mean, basis = principal_components(plane, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close((plane - mean) @ basis @ basis.T + mean, plane, atol=1e-4, rtol=0)


def test_distillation_brings_the_student_near_the_teacher(config: CarlConfig) -> None:
    config.distillation_weight, config.distillation_dim = 2.0, 8
    config.epochs, config.logging_steps, config.learning_rate = 6, 1, 1e-3
    train(config)
    parts = [r["distillation"] for r in read_metrics(Path(config.output, "metrics.jsonl")) if "loss" in r]
    assert 0 < parts[-1] < 0.7 * parts[0]


def test_the_committed_ratings_cover_the_recipe_that_names_them(carl_data: Path) -> None:
    recipe = CarlConfig.from_yaml(RECIPES / "emobank-minilm.yaml")
    data = load_training_data(recipe)
    ratings = RECIPES.parent / str(recipe.teacher)
    options = {"share": recipe.teacher_share, "view_dim": recipe.view_dim}
    taught = teach(data, str(ratings), Path("unused"), print, **options)
    before, after = labels_of(data.train), labels_of(taught.train)
    assert np.isnan(before).any(axis=1).sum() > 10_000
    assert not np.isnan(after).any()
    assert np.abs(after).max() <= 1
    assert ratings.stat().st_size < 5_000_000


def test_mistakes(config: CarlConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need a teacher"):
        CarlConfig(unlabelled=["goemotions"])
    with pytest.raises(UsageError, match="need a teacher"):
        CarlConfig(teacher_share=0.5)
    with pytest.raises(UsageError, match="need a teacher"):
        CarlConfig(distillation_weight=1)
    config.teacher = str(tmp_path / "nowhere")
    with pytest.raises(CarlError, match=r"nowhere.*model trained with"):
        train(config)


def test_texts_that_are_to_be_judged_on_are_refused(config: CarlConfig, carl_data: Path) -> None:
    config.unlabelled = ["isear"]
    with pytest.raises(UsageError, match="every text of it is a test text"):
        load_training_data(config)
    config.unlabelled = ["tweeteval"]
    assert len(load_training_data(config).train) > 3000
