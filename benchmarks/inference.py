"""How fast texts are embedded: our backends against sentence-transformers as it comes, in one process, in turn.

Short texts are EmoBank's sentences, long ones ten of them joined. Every backend embeds the same texts in each of the
rounds; the medians are written to benchmarks/results/inference.json, with what a backend costs in r on EmoBank's test
split, and the memory that a fresh process needs for it.

usage: python benchmarks/inference.py [--threads 2] [--rounds 5]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from carl.data import load_corpus
from carl.evaluation.valence_arousal import score
from carl.inference import BACKENDS
from carl.model import AffectEncoder
from carl.trainer import labels_of

RESULTS = Path("benchmarks/results/inference.json")
REFERENCE = "sentence-transformers"
BULK, ONE = 2000, 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    emobank = load_corpus("emobank")
    short = emobank.splits["train"]["text"][:BULK]
    if options.memory_of:
        encoder_of(options.memory_of)(short)
        # Not getrusage: it begins with what the parent had.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        print(int(status[status.index("VmHWM") :].split()[1]) / 1024)
        return
    encoders = {name: encoder_of(name) for name in (REFERENCE, *BACKENDS)}
    long = [" ".join(short[i : i + 10]) for i in range(0, BULK, 10)]
    work = {
        "short, bulk": short,
        "long, bulk": long,
        "short, one at a time": short[:ONE],
        "long, one at a time": long[: ONE // 4],
    }
    seconds: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in encoders} for kind in work}
    for _ in range(options.rounds):
        for kind, texts in work.items():
            for name, encode in encoders.items():
                seconds[kind][name].append(timed(encode, texts, single="one" in kind))
    model = AffectEncoder.from_pretrained()
    test = emobank.splits["test"]
    texts, rated = test["text"][:], labels_of(test)
    vectors = {name: encode(texts) for name, encode in encoders.items()}
    scores = {name: score(model.predict_embeddings(v), rated) for name, v in vectors.items()}
    reference = vectors[REFERENCE]
    results = {
        name: {
            "texts_per_second": {
                kind: round(len(work[kind]) / statistics.median(seconds[kind][name]), 1) for kind in work
            },
            "times_reference": {
                kind: round(
                    statistics.median(seconds[kind][REFERENCE]) / statistics.median(seconds[kind][name]), 2
                )
                for kind in work
            },
            "cosine": {
                "mean": round(float((vectors[name] * reference).sum(1).mean()), 5),
                "least": round(float((vectors[name] * reference).sum(1).min()), 5),
            },
            "r_lost": {
                d: round(scores[REFERENCE][f"{d}_r"] - scores[name][f"{d}_r"], 5)
                for d in ("valence", "arousal")
            },
            "peak_mb": round(memory_of(name, options.threads)),
        }
        for name in encoders
    }
    RESULTS.write_text(
        json.dumps({"threads": options.threads, "rounds": options.rounds, "backends": results}, indent=2)
        + "\n",
        encoding="utf-8",
    )
    for name, found in results.items():
        print(name, json.dumps(found))


def encoder_of(name: str) -> Callable[[list[str]], np.ndarray]:
    """texts -> embeddings, by a backend or by sentence-transformers with its own defaults."""
    if name == REFERENCE:
        encoder = AffectEncoder.from_pretrained().encoder
        return lambda texts: np.asarray(encoder.encode(texts, show_progress_bar=False))
    return AffectEncoder.from_pretrained(backend=name).encode


def timed(encode: Callable[[list[str]], np.ndarray], texts: list[str], *, single: bool) -> float:
    """Seconds for all texts."""
    started = time.perf_counter()
    for part in ([text] for text in texts) if single else (texts,):
        encode(part)
    return time.perf_counter() - started


def memory_of(name: str, threads: int) -> float:
    """Peak resident memory in MB of a process of its own that embeds the short texts."""
    command = [sys.executable, __file__, "--memory-of", name, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
