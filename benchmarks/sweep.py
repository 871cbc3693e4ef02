"""Try settings on EmoBank without touching its test split.

Dev alone (1,000 rows) cannot tell apart settings .01 of r away from each other, so a quarter of the training rows is
held out beside it: train on the other three quarters, score on 3,000 rows. Every finished run is one line of the
results file, and a run that is in it is not made again.

usage: python benchmarks/sweep.py NAME [setting=value ...] [--threads 1]     (settings of the recipe, see carl.config)
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml
from datasets import concatenate_datasets

from carl.config import CarlConfig
from carl.data import load_corpus
from carl.evaluation.valence_arousal import score
from carl.trainer import labels_of, read_metrics
from carl.training import train
from carl.training_data import TrainingData

RECIPE = Path("recipes/emobank.yaml")
RESULTS = Path("benchmarks/results/sweep.jsonl")
HELD_OUT = 2000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    done = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    if options.name in (json.loads(line)["name"] for line in done):
        return
    changed = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in options.settings)}
    output = Path("runs/sweep", options.name)
    config = CarlConfig.from_yaml(RECIPE, {"evaluations": 3, **changed, "output": str(output)})
    data = without_test()
    encoder = train(config, resume=(output / "recipe.yaml").exists(), say=print, data=data)
    dev = data.dev["emobank"]
    predicted, rated = encoder.predict(dev["text"][:]), labels_of(dev)
    official = len(dev) - HELD_OUT
    learnt = [r for r in read_metrics(output / "metrics.jsonl") if "dev_valence_r" in r]
    cell = {
        "name": options.name,
        "changed": changed,
        "ridge": {
            "all": both(score(predicted, rated)),
            "dev": both(score(predicted[:official], rated[:official])),
        },
        "head": {int(record["step"]): both(record, "dev_") for record in learnt},
        "seconds": json.loads((output / "run.json").read_text(encoding="utf-8"))["seconds"],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")
    print(json.dumps(cell))


def without_test() -> TrainingData:
    """EmoBank with ``HELD_OUT`` training rows moved behind dev, and no test."""
    corpus = load_corpus("emobank")
    train_rows, test = corpus.splits["train"], corpus.splits["test"].select([])
    order = np.random.default_rng(0).permutation(len(train_rows))
    held, kept = (train_rows.select(sorted(part)) for part in (order[:HELD_OUT], order[HELD_OUT:]))
    splits = {"train": kept, "dev": concatenate_datasets([corpus.splits["dev"], held]), "test": test}
    return TrainingData(
        [dataclasses.replace(corpus, splits=splits)], kept, [1.0] * len(kept), {"emobank": corpus.files}
    )


def both(scores: dict[str, float], prefix: str = "") -> list[float]:
    """r of valence and arousal."""
    return [round(scores[f"{prefix}{name}_r"], 4) for name in ("valence", "arousal")]


if __name__ == "__main__":
    main()
