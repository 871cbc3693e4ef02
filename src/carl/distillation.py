"""A trained model as teacher: its predictions stand in wherever nobody has rated."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from carl.data.files import atomic_path, sha256
from carl.errors import CarlError
from carl.model import AffectEncoder
from carl.trainer import labels_of
from carl.training_data import TrainingData

CHUNK = 2048


def teach(data: TrainingData, teacher: str, cache: Path, say: Callable[[str], None]) -> TrainingData:
    """Fill in the missing ratings of the training rows, dimension by dimension (Hinton 2015).

    Args:
        data: labels (n, 2) with NaN where a rating is missing.
        teacher: folder of a trained model.
        cache: file that keeps its predictions, so that a resumed run has the same ones without asking again.
        say: told how far it is.

    Raises:
        CarlError: the folder holds no model, or the cache is of other rows.
    """
    labels = labels_of(data.train)
    missing = np.asarray(np.isnan(labels).any(axis=1))
    process = PartialState()
    if process.is_main_process and not cache.is_file():
        texts = [
            text for text, unrated in zip(data.train["text"][:], missing.tolist(), strict=True) if unrated
        ]
        predicted = _predict(texts, teacher, say)
        with atomic_path(cache) as staging:
            save_file({"predicted": torch.from_numpy(predicted)}, staging)
    process.wait_for_everyone()
    predicted = load_file(cache)["predicted"].numpy()
    if len(predicted) != missing.sum():
        raise CarlError(
            f"{cache}: holds predictions for other rows than the {missing.sum():,} without a rating; delete it"
        )
    filled = labels.copy()
    filled[missing] = np.where(np.isnan(labels[missing]), predicted, labels[missing])
    feature = data.train.features["label"]
    train = data.train.remove_columns("label").add_column("label", filled.tolist(), feature=feature)
    return dataclasses.replace(data, train=train)


def teacher_files(teacher: str) -> dict[str, str]:
    """SHA-256 of the teacher's weights and head.

    Raises:
        CarlError: the folder holds no model.
    """
    names = ("model.safetensors", "affect/head.safetensors")
    for name in names:
        if not Path(teacher, name).is_file():
            raise CarlError(
                f"teacher {teacher}: {name} is missing; give the folder of a model trained with `carl train`"
            )
    return {name: sha256(Path(teacher, name)) for name in names}


def _predict(texts: list[str], teacher: str, say: Callable[[str], None]) -> npt.NDArray[np.float32]:
    model = AffectEncoder.from_pretrained(teacher)
    # Longest first, so that batches hold little padding across chunks too, and the first line tells the worst pace.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    predicted = np.empty((len(texts), 2), dtype=np.float32)
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        predicted[rows] = model.predict([texts[i] for i in rows], batch_size=64)
        say(f"teacher: {min(start + CHUNK, len(order)):,} of {len(order):,} texts read")
    return predicted
