"""What trained models know of other labels, without touching any test split: the measure by which settings are chosen.

Logistic regression on frozen embeddings of at most 4,000 training texts of a task, scored on its dev split (at most
2,000 texts), the best of four penalties. Every model is one line of the results file, and is measured once.

usage: python benchmarks/dev_transfer.py FOLDER|BACKBONE [...] [--threads 1]
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.linear_model import LogisticRegression

from carl.backbone import load_backbone
from carl.bench.suites import Embedder
from carl.data import load_task
from carl.evaluation.statistics import macro_f1
from carl.evaluation.transfer import CS
from carl.inference import BACKENDS, BatchEncoder
from carl.model import AffectEncoder

RESULTS = Path("benchmarks/results/dev-transfer.jsonl")
TASKS = ("tweeteval", "sst2", "sst5", "meld", "goemotions")
TRAIN, DEV = 4000, 2000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    done = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    for name in options.models:
        if name not in (json.loads(line)["model"] for line in done):
            cell = {"model": name, **measure(name)}
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell) + "\n")
            print(json.dumps(cell), flush=True)


def measure(name: str) -> dict[str, list[float]]:
    """Accuracy and macro-F1 by task."""
    encoder = AffectEncoder.from_pretrained(name).encoder if Path(name).is_dir() else load_backbone(name)
    embed = Embedder(BatchEncoder(encoder, BACKENDS["torch-bf16"](encoder)))
    scores = {}
    for task_name in TASKS:
        task = load_task(task_name)
        x, y = {}, {}
        for split, most in (("train", TRAIN), ("dev", DEV)):
            rows = np.sort(np.random.default_rng(0).permutation(len(task.texts[split]))[:most])
            x[split], y[split] = embed([task.texts[split][i] for i in rows]), task.labels[split][rows]
        found = []
        for c in CS:
            classifier = LogisticRegression(C=c, max_iter=500).fit(x["train"], y["train"])
            predicted = classifier.predict(x["dev"])
            found.append([float((predicted == y["dev"]).mean()), macro_f1(predicted, y["dev"])])
        scores[task_name] = [round(100 * value, 2) for value in max(found)]
    scores["mean"] = [round(float(np.mean([s[i] for s in scores.values()])), 2) for i in (0, 1)]
    return scores


if __name__ == "__main__":
    main()
