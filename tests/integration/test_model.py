"""The saved model: what others can load, that nothing is lost on the way, and what a damaged folder says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from carl import AffectEncoder, CarlError, UsageError
from carl.calibration import Calibration
from carl.data import load_corpus
from carl.evaluation.valence_arousal import RidgeProbe, score
from carl.model import EmotionHead
from carl.trainer import labels_of

TEXTS = [
    "the happy child",
    "nobody liked the terrible storm",
    "",
    "😀",
    "x " * 400,
    "\u202eright to left\x00",
    "a",
]


@pytest.fixture(scope="module")
def model(run_folder: Path) -> AffectEncoder:
    return AffectEncoder.from_pretrained(run_folder, device="cpu")


def test_sentence_transformers_loads_it_without_our_code(run_folder: Path, model: AffectEncoder) -> None:
    plain = SentenceTransformer(str(run_folder), device="cpu", trust_remote_code=False)
    texts = [text for text in TEXTS if len(text) < 400]  # of longer ones it reads the beginning alone
    np.testing.assert_allclose(plain.encode(texts), model.encode(texts), atol=1e-5)


def test_saving_and_loading_keeps_the_predictions(model: AffectEncoder, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    again = AffectEncoder.from_pretrained(tmp_path / "copy", device="cpu")
    np.testing.assert_allclose(again.predict(TEXTS), model.predict(TEXTS), atol=1e-6)
    assert again.card == model.card


def test_the_head_is_the_best_on_dev_of_ridge_learnt_and_their_mean(
    run_folder: Path, model: AffectEncoder, table: Path
) -> None:
    options = {"text": "text", "valence": "valence", "arousal": "arousal", "scale": (1, 9)}
    splits = load_corpus(str(table), **options).splits
    x, y = (
        {s: f(splits[s]) for s in ("train", "dev")} for f in (lambda d: model.encode(d["text"][:]), labels_of)
    )
    ridge = RidgeProbe.fit(x["train"], y["train"], x["dev"], y["dev"])
    head = load_file(run_folder / "learnt_head.safetensors")
    learnt = head["weight"].numpy(), head["bias"].numpy()
    heads = {
        "ridge": (ridge.weight, ridge.bias),
        "mean": ((ridge.weight + learnt[0]) / 2, (ridge.bias + learnt[1]) / 2),
        "learnt": learnt,
    }
    r = {n: score(np.clip(x["dev"] @ w.T + b, -1, 1), y["dev"])["mean_r"] for n, (w, b) in heads.items()}
    chosen = model.card["head"]
    assert r[chosen] == max(r.values())
    np.testing.assert_allclose(model.weight.numpy(), heads[chosen][0], atol=1e-4)
    assert model.card["dev"]["mean_r"] == pytest.approx(r[chosen], abs=1e-3)


def test_saving_over_a_model_replaces_it(model: AffectEncoder, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    negated = AffectEncoder(model.encoder, -model.weight, -model.bias)
    negated.save_pretrained(tmp_path)
    again = AffectEncoder.from_pretrained(tmp_path, device="cpu")
    np.testing.assert_allclose(again.predict(TEXTS), -model.predict(TEXTS), atol=1e-6)


def test_shapes_range_and_any_string(model: AffectEncoder) -> None:
    predicted = model.predict(TEXTS)
    assert predicted.shape == (len(TEXTS), 2)
    assert predicted.dtype == np.float32
    assert np.isfinite(predicted).all()
    assert (np.abs(predicted) <= 1).all()
    assert model.predict("one text").shape == (2,)
    assert model.encode("one text").shape == (32,)
    assert model.encode([]).size == 0


def test_order_and_company_do_not_matter(model: AffectEncoder) -> None:
    forward, backward = model.predict(TEXTS), model.predict(TEXTS[::-1])[::-1]
    np.testing.assert_allclose(forward, backward, atol=1e-5)
    np.testing.assert_allclose(forward, [model.predict(text) for text in TEXTS], atol=1e-5)


def test_predict_is_the_head_on_the_embeddings(model: AffectEncoder) -> None:
    embeddings = model.encode(TEXTS)
    np.testing.assert_allclose(model.predict_embeddings(embeddings), model.predict(TEXTS), atol=1e-6)


def test_explanation_adds_up_to_the_prediction(model: AffectEncoder) -> None:
    text = "the happy child loved the storm"
    explanation = model.explain(text, steps=256)
    unclipped = model.encode(text) @ model.weight.numpy().T + model.bias.numpy()
    for dimension, name in enumerate(("valence", "arousal")):
        total = sum(getattr(token, name) for token in explanation.tokens)
        assert total == pytest.approx(unclipped[dimension] - explanation.baseline[dimension], abs=2e-3)
    assert all(text[token.start : token.end] == token.token for token in explanation.tokens)


def test_explanation_of_texts_without_a_word(model: AffectEncoder) -> None:
    assert model.explain("").tokens == ()
    assert model.explain("x " * 400).truncated
    assert not model.explain("short").truncated


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\t",
        "😊",
        "\x00\x07",
        "\ud800",
        "שלום עולם",
        "a\u202eb",
        "word " * 200_000,
        "x" * 1_000_000,
        "\u0301" * 50,
    ],
    ids=[
        "empty",
        "blank",
        "breaks",
        "emoji",
        "control",
        "surrogate",
        "hebrew",
        "bidi",
        "1 MB",
        "one word",
        "accents",
    ],
)
def test_any_string_has_a_score(model: AffectEncoder, text: str) -> None:
    predicted = model.predict([text, "an ordinary sentence"])
    assert np.isfinite(predicted).all()
    assert np.abs(predicted).max() <= 1
    np.testing.assert_allclose(predicted[1], model.predict("an ordinary sentence"), atol=1e-5)


def test_a_model_can_be_kept_as_its_difference(model: AffectEncoder, tmp_path: Path) -> None:
    model.save_delta(tmp_path / "small")
    whole = (sum(f.stat().st_size for f in d.rglob("*.safetensors")) for d in (tmp_path / "small",))
    assert sum(whole) < 0.5 * sum(p.numel() * 4 for p in model.encoder.parameters())
    again = AffectEncoder.from_pretrained(tmp_path / "small", device="cpu")
    assert again.card["backbone"] == model.card["backbone"]
    np.testing.assert_allclose(again.predict(TEXTS), model.predict(TEXTS), atol=0.1)
    assert np.corrcoef(again.encode(TEXTS[:2]).ravel(), model.encode(TEXTS[:2]).ravel())[0, 1] > 0.99
    with pytest.raises(CarlError, match="does not say from which backbone"):
        AffectEncoder(model.encoder, model.weight, model.bias).save_delta(tmp_path / "other")
    (tmp_path / "small" / "delta.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CarlError, match="cannot be loaded"):
        AffectEncoder.from_pretrained(tmp_path / "small")


def test_calibration_and_emotions_are_kept(model: AffectEncoder, tmp_path: Path) -> None:
    with pytest.raises(CarlError, match="names no emotions"):
        model.emotions(model.encode(TEXTS))
    head = EmotionHead(("joy", "fear", "anger"), torch.randn(32, 3).T, torch.randn(3))
    calibration = Calibration(0.9, (0.25, float("nan")), (50, 3))
    full = AffectEncoder(model.encoder, model.weight, model.bias, calibration=calibration, emotion=head)
    full.save_pretrained(tmp_path / "full")
    again = AffectEncoder.from_pretrained(tmp_path / "full", device="cpu")
    embeddings = again.encode(TEXTS)
    probabilities = again.emotions(embeddings)
    assert again.emotion is not None
    assert again.emotion.names == head.names
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    scores = embeddings @ head.weight.numpy().T + head.bias.numpy()
    assert probabilities.argmax(1).tolist() == scores.argmax(1).tolist()
    intervals = again.intervals(again.predict_embeddings(embeddings))
    assert (intervals[:, 0, 0] <= intervals[:, 0, 1]).all()
    assert np.isnan(intervals[:, 1]).all()


def test_an_unknown_backend_is_named(run_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown backend 'tpu'; choose from torch"):
        AffectEncoder.from_pretrained(run_folder, backend="tpu")


def test_a_run_folder_holds_no_pickle(run_folder: Path) -> None:
    kinds = {path.suffix for path in run_folder.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".jsonl", ".yaml", ".html", ".txt", ".md"}


def damaged(run_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return folder


def test_missing_folder_and_missing_head(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CarlError, match="no such model folder"):
        AffectEncoder.from_pretrained(tmp_path / "nowhere")
    folder = damaged(run_folder, tmp_path)
    shutil.rmtree(folder / "affect")
    with pytest.raises(CarlError, match="no valence-arousal head"):
        AffectEncoder.from_pretrained(folder)


def test_head_of_another_encoder(run_folder: Path, tmp_path: Path) -> None:
    folder = damaged(run_folder, tmp_path)
    save_file({"weight": torch.zeros(2, 7), "bias": torch.zeros(2)}, folder / "affect" / "head.safetensors")
    with pytest.raises(CarlError, match=r"\(2, 7\)"):
        AffectEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["affect/head.safetensors", "affect/config.json", "model.safetensors"])
def test_damaged_file(run_folder: Path, tmp_path: Path, name: str) -> None:
    folder = damaged(run_folder, tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CarlError, match=r"cannot be loaded|damaged"):
        AffectEncoder.from_pretrained(folder)


def test_a_newer_format_is_refused(run_folder: Path, tmp_path: Path) -> None:
    folder = damaged(run_folder, tmp_path)
    path = folder / "affect" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(CarlError, match="upgrade"):
        AffectEncoder.from_pretrained(folder)
