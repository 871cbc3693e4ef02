"""EmoBank with MiniLM, over seeds: CARL and plain MSE fine-tuning, on EmoBank alone and with a teacher's ratings.

Each finished run is one line of the results file; a run that is in it is not made again, and one that was killed is
resumed from its checkpoint. The last lines printed are the table of the README.

usage: python benchmarks/emobank.py [--seeds 0 1 2] [--methods carl mse carl-taught ...] [--only-report]
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers

from carl.config import CarlConfig
from carl.data import load_corpus
from carl.evaluation.valence_arousal import score
from carl.model import AffectEncoder
from carl.trainer import labels_of
from carl.training import train

RESULTS = Path("benchmarks/results/emobank-minilm.jsonl")
MSE: dict[str, Any] = {"mccl_weight": 0.0, "ptd_weight": 0.0, "regression_weight": 1.0}
#: Recipe, and what a method changes in it: the same backbone, data, batches, schedule and final ridge head.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mse": ("recipes/emobank.yaml", MSE),
    "carl": ("recipes/emobank.yaml", {}),
    "mse-taught": ("recipes/emobank-minilm.yaml", MSE),
    "carl-taught": ("recipes/emobank-minilm.yaml", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["carl-taught"])
    parser.add_argument("--only-report", action="store_true", help="print the table of what is there")
    parser.add_argument("--threads", type=int, help="processor threads")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    if not options.only_report:
        for seed in options.seeds:
            for method in options.methods:
                if not any((c["method"], c["seed"]) == (method, seed) for c in finished()):
                    record(method, seed)
    report(finished())


def finished() -> list[dict[str, Any]]:
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def record(method: str, seed: int) -> None:
    output = f"runs/emobank-{method}-{seed}"
    recipe, changes = METHODS[method]
    config = CarlConfig.from_yaml(recipe, {**changes, "seed": seed, "output": output})
    if Path(output, "modules.json").exists():
        encoder = AffectEncoder.from_pretrained(output)
    else:
        encoder = train(config, resume=Path(output, "recipe.yaml").exists(), say=print)
    corpus = load_corpus("emobank")
    test = score(encoder.predict(corpus.splits["test"]["text"][:]), labels_of(corpus.splits["test"]))
    run = json.loads(Path(output, "run.json").read_text(encoding="utf-8"))
    cell = {
        "method": method,
        "seed": seed,
        "test": {name: round(value, 4) for name, value in test.items()},
        "dev": {name: round(value, 4) for name, value in run["dev"].items()},
        "best_step": run["best_step"],
        "seconds": run["seconds"],
        "threads": torch.get_num_threads(),
        "versions": run["versions"],
        "data": run["data"],
        "config": {k: v for k, v in dataclasses.asdict(config).items() if k != "output"},
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")


def report(cells: list[dict[str, Any]]) -> None:
    """Mean over seeds with the sample standard deviation."""
    print("| method | seeds | valence r | arousal r | valence CCC | arousal CCC |")
    print("|---|---|---|---|---|---|")
    for method in METHODS:
        mine = [cell for cell in cells if cell["method"] == method]
        if not mine:
            continue
        columns = []
        for name in ("valence_r", "arousal_r", "valence_ccc", "arousal_ccc"):
            values = [cell["test"][name] for cell in mine]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            columns.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {method} | {len(mine)} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
