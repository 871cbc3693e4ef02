"""A trained model as teacher: its ratings stand in wherever nobody has rated (Hinton 2015).

They are kept in a small file, each under the hash of its text: whoever has the texts can train on the file without the
teacher, and the texts are not in it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from carl.data.files import atomic_path, sha256
from carl.errors import CarlError
from carl.model import AffectEncoder
from carl.precision import autocast
from carl.trainer import labels_of
from carl.training_data import TrainingData

CHUNK = 1024
Rating = tuple[float, float]


def teach(
    data: TrainingData,
    teacher: str,
    cache: Path,
    say: Callable[[str], None],
    *,
    share: float = 0.0,
    precision: str = "fp32",
) -> TrainingData:
    """Fill in the missing ratings of the training rows, dimension by dimension.

    Args:
        data: labels (n, 2) with NaN where a rating is missing.
        teacher: folder of a trained model, or a file of its ratings (the ``cache`` of an earlier run).
        cache: where the ratings of a model are kept as they come, so that each text is read once.
        say: told how far it is.
        share: of the ratings that are there, for which the teacher's stand in, in [0, 1).
        precision: ``fp32`` or ``bf16``, of the teacher.

    Raises:
        CarlError: there is no teacher, its file is damaged, or it lacks ratings that are needed.
    """
    labels = labels_of(data.train)
    asked = np.isnan(labels).any(axis=1) | np.full(len(labels), share > 0)
    texts = [text for text, wanted in zip(data.train["text"][:], asked.tolist(), strict=True) if wanted]
    process = PartialState()
    if Path(teacher).is_file():
        ratings = read_ratings(Path(teacher))
    else:
        if process.is_main_process:
            _rate(texts, teacher, cache, precision, say)
        process.wait_for_everyone()
        ratings = read_ratings(cache) if texts else {}
    missing = sum(_key(text) not in ratings for text in texts)
    if missing:
        raise CarlError(
            f"teacher {teacher}: has no rating for {missing:,} of the {len(texts):,} texts; "
            "give the folder of the model itself"
        )
    found = np.array([ratings[_key(text)] for text in texts], dtype=np.float32).reshape(-1, 2)
    filled = labels.copy()
    blended = (1 - share) * labels[asked] + share * found
    filled[asked] = np.where(np.isnan(blended), found, blended)
    feature = data.train.features["label"]
    train = data.train.remove_columns("label").add_column("label", filled.tolist(), feature=feature)
    return dataclasses.replace(data, train=train)


def teacher_files(teacher: str) -> dict[str, str]:
    """SHA-256 of the teacher's weights and head, or of its file of ratings.

    Raises:
        CarlError: there is neither.
    """
    if Path(teacher).is_file():
        return {Path(teacher).name: sha256(Path(teacher))}
    names = ("model.safetensors", "affect/head.safetensors")
    for name in names:
        if not Path(teacher, name).is_file():
            raise CarlError(
                f"teacher {teacher}: {name} is missing; give the folder of a model trained with `carl train`, "
                "or a file of its ratings"
            )
    return {name: sha256(Path(teacher, name)) for name in names}


def read_ratings(path: Path) -> dict[int, Rating]:
    """Ratings by the keys of their texts.

    Raises:
        CarlError: the file cannot be read or is not one of ratings.
    """
    try:
        tensors = load_file(path)
        keys, values = tensors["text"], tensors["rating"]
        if keys.dtype != torch.int64 or values.shape != (*keys.shape, 2) or not bool(values.isfinite().all()):
            raise ValueError
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CarlError(
            f"{path}: not a file of ratings, or a damaged one; delete it, or give a model's folder"
        ) from error
    return dict(zip(keys.tolist(), map(tuple, values.tolist()), strict=True))


def write_ratings(path: Path, ratings: Mapping[int, Rating]) -> None:
    """The inverse of ``read_ratings``, atomically."""
    keys = sorted(ratings)
    tensors = {
        "text": torch.tensor(keys, dtype=torch.int64),
        "rating": torch.tensor([ratings[key] for key in keys], dtype=torch.float32).reshape(-1, 2),
    }
    with atomic_path(path) as staging:
        save_file(tensors, staging)


def _key(text: str) -> int:
    """The first eight bytes of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def _rate(
    texts: Iterable[str], teacher: str, cache: Path, precision: str, say: Callable[[str], None]
) -> None:
    """Add to the cache what it lacks."""
    ratings = read_ratings(cache) if cache.is_file() else {}
    # Longest first, so that batches hold little padding across chunks too, and the first line tells the worst pace.
    todo = sorted({text for text in texts if _key(text) not in ratings}, key=lambda text: (-len(text), text))
    if not todo:
        return
    model = AffectEncoder.from_pretrained(teacher)
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        with autocast(precision, model.encoder.device):
            predicted: npt.NDArray[np.float32] = model.predict(chunk, batch_size=64)
        ratings |= {_key(t): (float(v), float(a)) for t, (v, a) in zip(chunk, predicted, strict=True)}
        write_ratings(cache, ratings)
        say(f"teacher: {min(start + CHUNK, len(todo)):,} of {len(todo):,} texts rated")
