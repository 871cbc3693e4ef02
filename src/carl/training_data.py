"""What a run learns from: rated corpora with their weights, and texts that nobody rated."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from carl.config import CarlConfig
from carl.data import Corpus, load_corpus, load_task, read_texts, task_names
from carl.data.files import sha256
from carl.data.splits import normalise
from carl.errors import CarlError, UsageError


@dataclass(frozen=True)
class TrainingData:
    """The corpora of a run, joined.

    Attributes:
        corpora: the rated ones, as loaded.
        train: rows of all of them and of the unlabelled texts, columns ``text`` and ``label``.
        weights: (n,) draws per row and epoch.
        files: SHA-256 of every file read, by corpus.
        notes: every count worth telling, by corpus.
    """

    corpora: list[Corpus]
    train: Dataset
    weights: list[float]
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def dev(self) -> dict[str, Dataset]:
        """The dev split of each corpus."""
        return {corpus.name: corpus.splits["dev"] for corpus in self.corpora}


def load_training_data(config: CarlConfig) -> TrainingData:
    """Load the corpora of ``config.data``, each with its weight.

    Raises:
        UsageError, CarlError: see ``carl.data.load_corpus``; also if a split that is needed is empty.
    """
    weight_of, corpora = [], []
    for entry in config.data:
        name, weight = split_weight(entry)
        corpus = load_corpus(name, **table_options(config, name))
        for split in ("train", "dev"):
            if len(corpus.splits[split]) == 0:
                raise CarlError(f"{name}: its {split} split is empty; there is too little data to train on")
        weight_of.append(weight)
        corpora.append(corpus)
    # Each corpus keeps its own splits apart; a text of one may still stand in another's dev or test.
    held_out = {
        normalise(t) for c in corpora for split in ("dev", "test") for t in c.splits[split]["text"][:]
    }
    train, weights = [], []
    for index, weight in enumerate(weight_of):
        rows = corpora[index].splits["train"]
        kept = [i for i, text in enumerate(rows["text"][:]) if normalise(text) not in held_out]
        if len(kept) < len(rows):
            note = f"left out {len(rows) - len(kept)} training rows whose text stands in another corpus' dev or test"
            corpora[index] = dataclasses.replace(corpora[index], notes=(*corpora[index].notes, note))
        train.append(rows.select(kept))
        weights += [weight] * len(kept)
    files = {corpus.name: corpus.files for corpus in corpora}
    notes = {corpus.name: list(corpus.notes) for corpus in corpora}
    known = held_out | {normalise(text) for rows in train for text in rows["text"][:]}
    for entry in config.unlabelled:
        name, weight = split_weight(entry)
        texts, files[f"{name} (unlabelled)"] = unlabelled_texts(name, config)
        # A text counts once; one that is rated, or waits to be judged, is not learnt from here.
        new: dict[str, str] = {}
        for text in texts:
            if (key := normalise(text)) and key not in known:
                new.setdefault(key, text)
        known |= set(new)
        notes[f"{name} (unlabelled)"] = [f"{len(new):,} of {len(texts):,} texts are new"]
        train.append(_unrated(list(new.values())))
        weights += [weight] * len(new)
    return TrainingData(corpora, concatenate_datasets(train), weights, files, notes)


def unlabelled_texts(name: str, config: CarlConfig) -> tuple[list[str], dict[str, str]]:
    """Training texts of a known corpus or task, or all texts of an own file, and the hashes of what was read.

    Raises:
        UsageError, CarlError: an unknown name, a file that cannot be read, or a task whose every text is a test text.
    """
    if name in task_names():
        task = load_task(name)
        if "train" not in task.texts:
            raise UsageError(f"unlabelled {name}: it has no training split; every text of it is a test text")
        return task.texts["train"], task.files
    if Path(name).suffix:
        rows = read_texts(name, config.text, skip_bad_rows=config.skip_bad_rows)
        return [text for _, text in rows], {Path(name).name: sha256(Path(name))}
    corpus = load_corpus(name)
    return corpus.splits["train"]["text"][:], corpus.files


def _unrated(texts: list[str]) -> Dataset:
    features = Features({"text": Value("string"), "label": List(Value("float32"), 2)})
    return Dataset.from_dict({"text": texts, "label": [[np.nan, np.nan]] * len(texts)}, features=features)


def load_evaluation_data(
    entries: Sequence[str], split: str, options: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Dataset]:
    """One split of each corpus or own table (read with ``options``, see ``load_corpus``), by name.

    Raises:
        UsageError, CarlError: see ``carl.data.load_corpus``; also if a split is empty.
    """
    datasets = {}
    for name in entries:
        corpus = load_corpus(name, **(options if Path(name).suffix else {}))
        for note in corpus.notes:
            say(f"{name}: {note}")
        if len(corpus.splits[split]) == 0:
            raise CarlError(f"{name}: its {split} split is empty; choose another --split")
        datasets[name] = corpus.splits[split]
    return datasets


def split_weight(entry: str) -> tuple[str, float]:
    """``name=0.5`` -> (name, 0.5); a bare name weighs 1.

    Raises:
        UsageError: if the weight is not a number above 0.
    """
    name, separator, number = entry.rpartition("=")
    if not separator:
        return entry, 1.0
    try:
        weight = float(number)
    except ValueError:
        return entry, 1.0  # a file name with a "=" in it
    if not 0 < weight < float("inf"):
        raise UsageError(f"data {entry!r}: the weight must be above 0")
    return name, weight


def table_options(config: CarlConfig, name: str) -> dict[str, Any]:
    """The options of ``load_corpus`` for an own table; known corpora take none."""
    if not Path(name).suffix:
        return {}
    return {
        "text": config.text,
        "valence": config.valence,
        "arousal": config.arousal,
        "scale": None if config.scale is None else (config.scale[0], config.scale[1]),
        "skip_bad_rows": config.skip_bad_rows,
    }
