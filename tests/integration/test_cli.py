"""The command line as its user meets it: what it leaves, what it prints, and one sentence for every mistake."""

import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from carl import AffectEncoder, checkpoint
from carl.calibration import Calibration
from carl.config import CarlConfig
from carl.model import EmotionHead

from .conftest import Carl


def test_a_run_folder_holds_what_a_reader_needs(run_folder: Path, table: Path) -> None:
    config = CarlConfig.from_yaml(run_folder / "recipe.yaml")
    assert (config.data, config.epochs, config.queue_size) == ([str(table)], 6, 64)
    run = json.loads((run_folder / "run.json").read_text())
    assert len(run["data"][str(table)]["ratings.csv"]) == 64
    assert {"torch", "carl-affect", "sentence-transformers"} <= run["versions"].keys()
    assert (run_folder / "report.html").read_text().startswith("<!")
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    training = [r for r in records if "loss" in r]
    assert all({"mccl", "ptd", "regression", "learning_rate", "grad_norm"} <= r.keys() for r in training)
    for record in training:
        assert record["loss"] == pytest.approx(
            record["mccl"] + record["ptd"] + record["regression"], abs=1e-3
        )
    dev = [r for r in records if "dev_valence_r" in r]
    assert len(dev) == 3
    assert all({"dev_arousal_ccc", "dev_valence_mae", "dev_mean_r"} <= r.keys() for r in dev)


def test_training_learns_and_the_best_checkpoint_is_kept(run_folder: Path, table: Path, carl: Carl) -> None:
    scores = run_folder.parent / "scores.json"
    columns = ["--valence", "valence", "--arousal", "arousal", "--scale", "1", "9"]
    outcome = carl("evaluate", run_folder, "--data", table, *columns, "--output", scores)
    assert outcome.code == 0, outcome.err
    results = {row["dimension"]: row for row in json.loads(scores.read_text())["results"]}
    assert results["valence"]["r"] > 0.6
    assert results["valence"]["r_low"] < results["valence"]["r"] < results["valence"]["r_high"]
    assert f"{results['arousal']['r']:.3f}" in outcome.out
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    best = max((r for r in records if "dev_mean_r" in r), key=lambda r: r["dev_mean_r"])
    assert json.loads((run_folder / "run.json").read_text())["best_step"] == best["step"]
    kept = load_file(run_folder / "checkpoints" / f"checkpoint-{best['step']}" / "objective.safetensors")
    saved = load_file(run_folder / "model.safetensors")
    assert all(torch.equal(kept[f"target.encoder.0.model.{name}"], saved[name]) for name in saved)


def test_long_training_texts_are_cut_and_counted_and_the_model_reads_on(
    train_arguments: list[str], carl: Carl, tmp_path: Path
) -> None:
    arguments = [*train_arguments, "--epochs", "0.2", "--set", "max_length=9", "--output", tmp_path / "run"]
    outcome = carl("train", *arguments)
    assert outcome.code == 0, outcome.err
    cut = json.loads((tmp_path / "run" / "run.json").read_text())["truncated"]
    assert cut > 0
    assert f"{cut} training texts are longer than 9 tokens" in outcome.err
    assert AffectEncoder.from_pretrained(tmp_path / "run").encoder.max_seq_length == 64


def test_predict_texts(run_folder: Path, carl: Carl) -> None:
    outcome = carl("predict", "--model", run_folder, "the happy child", "--", "-0.5 is not an option")
    assert outcome.code == 0, outcome.err
    valence, arousal = AffectEncoder.from_pretrained(run_folder).predict("the happy child")
    assert f"{valence:+.3f}" in outcome.out
    assert f"{arousal:+.3f}" in outcome.out
    assert "…" not in outcome.out  # too few dev rows for an interval: none is invented


def test_a_calibrated_model_says_how_sure_it_is(run_folder: Path, carl: Carl, tmp_path: Path) -> None:
    model = AffectEncoder.from_pretrained(run_folder)
    model.calibration = Calibration(0.9, (0.2, 0.1), (100, 100))
    dim = model.weight.shape[1]
    model.emotion = EmotionHead(("joy", "fear"), torch.zeros(2, dim), torch.tensor([2.0, 0.0]))
    model.save_pretrained(tmp_path / "model")
    valence, arousal = model.predict("the happy child")
    outcome = carl("predict", "--model", tmp_path / "model", "the happy child", "the storm")
    assert f"{valence:+.3f} {valence - 0.2:+.2f}…{valence + 0.2:+.2f}" in outcome.out
    assert outcome.out.count("joy") == 2
    target = tmp_path / "out.jsonl"
    (tmp_path / "in.txt").write_text("the happy child\n")
    assert (
        carl("predict", "--model", tmp_path / "model", "--file", tmp_path / "in.txt", "--output", target).code
        == 0
    )
    record = json.loads(target.read_text())
    assert record["arousal_high"] == pytest.approx(arousal + 0.1, abs=1e-3)
    assert record["emotion_probability"] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-3)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_a_file_keeps_rows_order_and_columns(
    run_folder: Path, carl: Carl, tmp_path: Path, suffix: str
) -> None:
    rows = pd.DataFrame(
        {"id": range(50), "said": [f"the happy child {'x ' * (n % 7)}{n}" for n in range(50)]}
    )
    source, target = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    rows.to_json(source, orient="records", lines=True)
    outcome = carl("predict", "--model", run_folder, "--file", source, "--column", "said", "--output", target)
    assert outcome.code == 0, outcome.err
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda p: pd.read_json(p, lines=True)}[
        suffix
    ]
    result = read(target)
    assert list(result.columns) == ["id", "said", "valence", "arousal"]
    assert result["id"].tolist() == list(range(50))
    expected = AffectEncoder.from_pretrained(run_folder).predict(rows["said"].tolist())
    assert result[["valence", "arousal"]].to_numpy() == pytest.approx(expected, abs=1e-4)


def test_predict_keeps_ratings_that_the_file_already_has(
    run_folder: Path, table: Path, carl: Carl, tmp_path: Path
) -> None:
    assert carl("predict", "--model", run_folder, "--file", table, "--output", tmp_path / "out.csv").code == 0
    result = pd.read_csv(tmp_path / "out.csv")
    assert result["valence"].tolist() == pd.read_csv(table)["valence"].tolist()
    assert result["valence_predicted"].between(-1, 1).all()


def test_predict_standard_input(run_folder: Path, carl: Carl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("the happy child\nthe storm 😀\n".encode()))
    )
    outcome = carl("predict", "--model", run_folder, "--file", "-")
    assert outcome.code == 0, outcome.err
    assert "the storm 😀" in outcome.out


def test_explain_prints_and_gives_json(run_folder: Path, carl: Carl) -> None:
    outcome = carl("explain", "--model", run_folder, "the happy child")
    assert outcome.code == 0, outcome.err
    assert "happy" in outcome.out
    outcome = carl("explain", "--model", run_folder, "the happy child", "--json")
    assert [token["token"] for token in json.loads(outcome.out)["tokens"]] == ["the", "happy", "child"]


def test_data_commands(carl: Carl) -> None:
    assert "emobank" in carl("data", "list").out
    assert "CC-BY-SA" in carl("data", "show", "emobank").out


MISTAKES = [
    (["train", "--backbone", "minilm-l7", "--output", "{new}"], 2, ["minilm-l7", "minilm"]),
    (["train", "--data", "emobnk", "--output", "{new}"], 2, ["emobnk", "emobank"]),
    (["train", "--data", "{table}", "--output", "{new}"], 2, ["scale"]),
    (["train", "--data", "{table}", "--valence", "vallence", "--scale", "1", "9", "--output", "{new}"], 2,
     ["vallence", "valence"]),
    (["train", "--data", "{table}", "--scale", "1", "3", "--output", "{new}"], 1, ["row", "outside the scale"]),
    (["train", "--data", "{bad_utf8}", "--scale", "1", "9", "--output", "{new}"], 1, ["UTF-8"]),
    (["train", "--data", "{empty_text}", "--scale", "1", "9", "--output", "{new}"], 1, ["row 3", "text"]),
    (["train", "--output", "{run}"], 2, ["--overwrite", "--resume"]),
    (["train", "--output", "{other}", "--overwrite"], 2, ["not a training run"]),
    (["train", "--output", "{new}", "--resume"], 2, ["no run to resume"]),
    (["train", "--output", "{run}", "--resume", "--seed", "7"], 2, ["seed", "cannot change"]),
    (["train", "--set", "sigmaa=1", "--output", "{new}"], 2, ["sigmaa", "sigma"]),
    (["train", "--set", "sigma=wide", "--output", "{new}"], 2, ["sigma", "wide"]),
    (["train", "--set", "sigma", "--output", "{new}"], 2, ["setting=value"]),
    (["train", "--config", "{missing}"], 2, ["cannot read"]),
    (["train", "--set", "strategy=mlm", "--data", "{table}", "--scale", "1", "9", "--output", "{new}"], 2,
     ["masked-LM"]),
    (["predict", "--model", "{missing}", "text"], 1, ["no such model folder"]),
    (["predict", "--model", "{other}", "text"], 1, ["affect/"]),
    (["predict"], 2, ["--file"]),
    (["predict", "{run}", "text"], 2, ["--model"]),
    (["explain", "{run}"], 2, ["--model"]),
    (["predict", "--backend", "tpu", "text"], 2, ["tpu", "openvino"]),
    (["predict", "--model", "{run}", "--file", "{table}", "--column", "said"], 2, ["said", "text"]),
    (["predict", "--model", "{run}", "--file", "{table}", "--output", "{new}.xlsx"], 2, ["xlsx"]),
    (["evaluate", "{run}", "--split", "tset"], 2, ["tset", "test"]),
    (["data", "get", "emobankk"], 2, ["emobank"]),
    (["train", "--no-such-flag"], 2, ["--no-such-flag"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES, ids=lambda value: str(value)[:60])
def test_every_mistake_gets_one_sentence(
    arguments: list[str],
    code: int,
    words: list[str],
    carl: Carl,
    run_folder: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    (tmp_path / "bad.csv").write_bytes(b"text,valence\nfine,3\n\xff\xfe,4\n")
    (tmp_path / "empty.csv").write_text("text,valence\nfine,3\n,4\n")
    places = {
        "new": tmp_path / "new", "run": run_folder, "table": table, "other": tmp_path / "other",
        "missing": tmp_path / "missing", "bad_utf8": tmp_path / "bad.csv", "empty_text": tmp_path / "empty.csv",
    }  # fmt: skip
    before = sorted(run_folder.rglob("*"))
    outcome = carl(*(argument.format(**places) for argument in arguments))
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err
    assert sorted(run_folder.rglob("*")) == before
    assert (tmp_path / "other" / "thesis.txt").read_text() == "precious"


def test_a_full_disk_is_said_and_the_run_can_go_on(
    carl: Carl, train_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_optimizer", full)
        outcome = carl("train", *train_arguments, "--output", folder)
    assert outcome.code == 1
    assert "No space left" in outcome.err
    assert "Traceback" not in outcome.err
    assert carl("train", "--output", folder, "--resume").code == 0
    assert carl("predict", "--model", folder, "the happy child").code == 0


def test_ctrl_c_leaves_a_checkpoint_that_goes_on_as_if_nothing_had_happened(
    train_arguments: list[str], run_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "carl.cli", "train", "--output", str(folder)]
    process = subprocess.Popen(
        [*command, *train_arguments], stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "--resume" in messages
    assert "Traceback" not in messages
    assert checkpoint.checkpoints(folder / "checkpoints")
    resumed = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
    straight, broken = load_file(run_folder / "model.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(straight[name], broken[name]) for name in straight)
