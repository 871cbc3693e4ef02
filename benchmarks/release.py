"""Make carl-minilm, the model that comes with the package, and measure what it is worth.

Trains recipes/carl-minilm.yaml (or takes the finished run), keeps it as its difference from the backbone, fits the
emotion classifier and the calibration to what is kept, and writes the model, its card and the measurements.

usage: python benchmarks/release.py [--threads 1] [--backend openvino]
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.linear_model import LogisticRegression

from carl.calibration import Calibration
from carl.config import CarlConfig
from carl.data import load_corpus, load_task
from carl.evaluation.statistics import macro_f1
from carl.evaluation.valence_arousal import score
from carl.model import AffectEncoder, EmotionHead, released_folder
from carl.trainer import labels_of
from carl.training import train

RECIPE = Path("recipes/carl-minilm.yaml")
RESULTS = Path("benchmarks/results/release.json")
ELSEWHERE = ("facebook-va", "vader-tweets", "vader-nyt", "vader-amazon")
CS = (0.3, 1.0, 3.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", default="torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    config = CarlConfig.from_yaml(RECIPE)
    folder = Path(config.output)
    if not (folder / "modules.json").is_file():
        train(config, resume=(folder / "recipe.yaml").is_file(), say=print)
    whole = AffectEncoder.from_pretrained(folder, backend=options.backend)
    whole.save_delta(released_folder())
    packed = AffectEncoder.from_pretrained(released_folder(), backend=options.backend)

    dev = load_corpus("emobank").splits["dev"]
    packed.calibration = Calibration.fit(packed.predict(dev["text"][:]), labels_of(dev))
    packed.emotion, emotion = fit_emotions(packed)
    # From the whole model again: rounding what is rounded already would lose more.
    whole.calibration, whole.emotion = packed.calibration, packed.emotion
    whole.save_delta(released_folder())
    results = {
        "backend": options.backend,
        "size": sum(file.stat().st_size for file in released_folder().rglob("*.safetensors")),
        "emotion": emotion,
        "whole": ratings(whole),
        "packed": ratings(packed),
        "coverage": {name: coverage(packed, name) for name in ("emobank", *ELSEWHERE)},
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (released_folder() / "README.md").write_text(card(config, results), encoding="utf-8")
    print(json.dumps(results, indent=2))


def fit_emotions(model: AffectEncoder) -> tuple[EmotionHead, dict[str, float]]:
    """Logistic regression on GoEmotions (Ekman's six and neutral), C chosen on dev by macro-F1; scores on test."""
    task = load_task("goemotions")
    x = {split: model.encode(texts) for split, texts in task.texts.items()}
    fits = [LogisticRegression(C=c, max_iter=1000).fit(x["train"], task.labels["train"]) for c in CS]
    best = max(fits, key=lambda fit: macro_f1(fit.predict(x["dev"]), task.labels["dev"]))
    weight, bias = (torch.from_numpy(part.astype(np.float32)) for part in (best.coef_, best.intercept_))
    predicted = best.predict(x["test"])
    return EmotionHead(tuple(task.classes), weight, bias), {
        "accuracy": round(float((predicted == task.labels["test"]).mean()), 4),
        "macro_f1": round(macro_f1(predicted, task.labels["test"]), 4),
    }


def ratings(model: AffectEncoder) -> dict[str, float]:
    """EmoBank's test split."""
    test = load_corpus("emobank").splits["test"]
    return {
        name: round(value, 4)
        for name, value in score(model.predict(test["text"][:]), labels_of(test)).items()
    }


def coverage(model: AffectEncoder, corpus: str) -> dict[str, float]:
    """Share of the ratings of a test split that lie in their intervals, and r, for each rated dimension."""
    test = load_corpus(corpus).splits["test"]
    predicted, rated = model.predict(test["text"][:]), labels_of(test)
    inside = (model.intervals(predicted) - rated[..., None]) * [-1, 1] >= 0
    scores = score(predicted, rated)
    found = {}
    for d, name in enumerate(("valence", "arousal")):
        known = ~np.isnan(rated[:, d])
        if known.any():
            found[f"{name}_covered"] = round(float(inside[known, d].all(axis=1).mean()), 4)
            found[f"{name}_r"] = round(scores[f"{name}_r"], 4)
    return found


def card(config: CarlConfig, results: dict) -> str:
    """The model card."""
    whole, packed, emobank = results["whole"], results["packed"], results["coverage"]["emobank"]
    elsewhere = "\n".join(
        f"| {name} | {found.get('valence_r', '-')} | {found.get('arousal_r', '-')} | "
        f"{found.get('valence_covered', '-')} | {found.get('arousal_covered', '-')} |"
        for name, found in results["coverage"].items()
    )
    settings = {k: v for k, v in dataclasses.asdict(config).items() if v != getattr(CarlConfig(), k)}
    lines = "\n".join(f"    {name}: {value}" for name, value in settings.items())
    return f"""# carl-minilm

Valence (unpleasant to pleasant) and arousal (calm to excited) of English texts, each from -1 to 1 with a 90 %
interval, the prevailing emotion of Ekman's six or neutral, and sentence embeddings in which affect counts. It
is all-MiniLM-L6-v2 (22 million parameters, Apache 2.0), fine-tuned, kept as the difference from it in
{results["size"] / 1e6:.1f} MB.

## Data

Human ratings: EmoBank's training split (CC-BY-SA 4.0). Texts that a larger model rated, itself trained on
EmoBank's training split alone: VADER's tweets and New York Times editorials (MIT) and GoEmotions' training
split (Apache 2.0), whose emotion labels trained the emotion classifier. Settings:

{lines}

## Scores

EmoBank's test split: r = {packed["valence_r"]:.3f} for valence, {packed["arousal_r"]:.3f} for arousal
({whole["valence_r"]:.3f} and {whole["arousal_r"]:.3f} before it was packed). GoEmotions' test split, seven
classes: accuracy {results["emotion"]["accuracy"]:.3f}, macro-F1 {results["emotion"]["macro_f1"]:.3f}.

The intervals are calibrated on EmoBank's dev split and promise 90 % for texts like EmoBank's:
{emobank["valence_covered"] * 100:.1f} % of the test split's valence and {emobank["arousal_covered"] * 100:.1f}
% of its arousal lie in them. Other corpora are rated on other scales by other people, and the intervals promise
nothing there:

| test split of | r valence | r arousal | covered, valence | covered, arousal |
|---|---|---|---|---|
{elsewhere}

All numbers: `benchmarks/results/release.json`, by `python benchmarks/release.py`.

## Limits, and what it must not be used for

It says how a text reads to EmoBank's raters, not what its author feels: mostly English-speaking crowd workers,
texts of news, fiction, blogs, letters and tweets. Irony, rare idioms, other languages and long arguments are
beyond it. It has learnt what its corpora hold of prejudice, and has not been audited for it. Not for decisions
about people: not for hiring, credit, policing, insurance, diagnosis, or watching employees or pupils.

"""


if __name__ == "__main__":
    main()
