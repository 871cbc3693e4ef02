"""A trained model as teacher (Hinton 2015): its ratings stand in wherever nobody has rated, and its view of a text,
which is its embedding in a few principal components, can be distilled.

Both are kept in a small file, each text's under the hash of the text: whoever has the texts can train on the file
without the teacher, and the texts are not in it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from datasets import List, Value
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from carl.data.files import atomic_path, sha256
from carl.errors import CarlError
from carl.model import AffectEncoder
from carl.trainer import labels_of
from carl.training_data import TrainingData

CHUNK = 1024
#: Texts on which the principal components are found, drawn by their hashes.
SAMPLE = 4096


@dataclasses.dataclass
class Lessons:
    """What a teacher says of texts.

    Attributes:
        ratings: (valence, arousal) by the key of the text.
        views: (k,) int8 by the key of the text: direction of the teacher's embedding, in 1/127; k may be 0.
        mean: (d,) of the teacher's embeddings.
        basis: (d, k) their principal components.
    """

    ratings: dict[int, tuple[float, float]]
    views: dict[int, Tensor]
    mean: Tensor
    basis: Tensor

    @classmethod
    def nothing(cls) -> "Lessons":
        """Of no text."""
        return cls({}, {}, torch.zeros(0), torch.zeros(0, 0))

    @property
    def view_dim(self) -> int:
        """k."""
        return self.basis.shape[1]

    def add(self, texts: list[str], ratings: npt.NDArray[np.float32], embeddings: Tensor) -> None:
        """Ratings (n, 2) and embeddings (n, d) of n texts."""
        directions = torch.nn.functional.normalize((embeddings - self.mean) @ self.basis, dim=1)
        views = (127 * directions).round().to(torch.int8)
        for text, (valence, arousal), view in zip(texts, ratings.tolist(), views, strict=True):
            self.ratings[key_of(text)] = valence, arousal
            self.views[key_of(text)] = view


def teach(
    data: TrainingData,
    teacher: str,
    cache: Path,
    say: Callable[[str], None],
    *,
    share: float = 0.0,
    view_dim: int = 0,
    precision: str = "fp32",
) -> TrainingData:
    """Fill in the missing ratings of the training rows, dimension by dimension, and add the teacher's views.

    Args:
        data: labels (n, 2) with NaN where a rating is missing.
        teacher: folder of a trained model, or a file of what it said (the ``cache`` of an earlier run).
        cache: where what a model says is kept as it comes, so that each text is read once.
        say: told how far it is.
        share: of the ratings that are there, for which the teacher's stand in, in [0, 1).
        view_dim: numbers of the teacher's view that go behind the ratings: labels become (n, 2 + view_dim).
        precision: ``fp32`` or ``bf16``, of the teacher.

    Raises:
        CarlError: there is no teacher, its file is damaged, or it lacks what is needed.
    """
    labels = labels_of(data.train)
    texts: list[str] = data.train["text"][:]
    asked = np.isnan(labels).any(axis=1) | np.full(len(labels), share > 0 or view_dim > 0)
    wanted = [text for text, ask in zip(texts, asked.tolist(), strict=True) if ask]
    process, source = PartialState(), Path(teacher)
    if not source.is_file():
        source = cache
        if process.is_main_process:
            _ask(wanted, teacher, cache, view_dim, precision, say)
        process.wait_for_everyone()
    lessons = read_lessons(source) if wanted else Lessons.nothing()
    missing = sum(key_of(text) not in lessons.ratings for text in wanted)
    if missing:
        raise CarlError(
            f"teacher {teacher}: has no rating for {missing:,} of the {len(wanted):,} texts; "
            "give the folder of the model itself"
        )
    if wanted and view_dim not in (0, lessons.view_dim):
        raise CarlError(
            f"{source}: holds the teacher's view in {lessons.view_dim} numbers a text, and distillation_dim is "
            f"{view_dim}; set it to that, or give the folder of the model itself and delete the file"
        )
    found = np.full((len(texts), 2), np.nan, dtype=np.float32)
    found[asked] = np.array([lessons.ratings[key_of(text)] for text in wanted]).reshape(-1, 2)
    blended = np.where(np.isnan(found) | (share == 0), labels, (1 - share) * labels + share * found)
    filled = np.where(np.isnan(blended), found, blended)
    if view_dim:
        filled = np.hstack(
            [filled, torch.stack([lessons.views[key_of(text)] for text in texts]).numpy() / 127]
        )
    feature = List(Value("float32"), 2 + view_dim)
    rows = filled.astype(np.float32).tolist()
    train = data.train.remove_columns("label").add_column("label", rows, feature=feature)
    return dataclasses.replace(data, train=train)


def teacher_files(teacher: str) -> dict[str, str]:
    """SHA-256 of the teacher's weights and head, or of its file.

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


def read_lessons(path: Path) -> Lessons:
    """What ``write_lessons`` wrote.

    Raises:
        CarlError: the file cannot be read or is not one of a teacher's.
    """
    try:
        tensors = load_file(path)
        keys, ratings, views = tensors["text"], tensors["rating"], tensors["view"]
        mean, basis = tensors["mean"], tensors["basis"]
        if (
            (keys.dtype, views.dtype) != (torch.int64, torch.int8)
            or ratings.shape != (*keys.shape, 2)
            or views.shape != (*keys.shape, basis.shape[1])
            or len(mean) != len(basis)
            or not bool(ratings.isfinite().all())
        ):
            raise ValueError
    except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
        raise CarlError(
            f"{path}: not a file of a teacher's ratings, or a damaged one; delete it, or give a model's folder"
        ) from error
    rated = dict(zip(keys.tolist(), map(tuple, ratings.tolist()), strict=True))
    return Lessons(rated, dict(zip(keys.tolist(), views, strict=True)), mean, basis)


def write_lessons(path: Path, lessons: Lessons) -> None:
    """The inverse of ``read_lessons``, atomically."""
    keys = sorted(lessons.ratings)
    views = [lessons.views[key] for key in keys]
    tensors = {
        "text": torch.tensor(keys, dtype=torch.int64),
        "rating": torch.tensor([lessons.ratings[key] for key in keys], dtype=torch.float32).reshape(-1, 2),
        "view": torch.stack(views) if views else torch.zeros(0, lessons.view_dim, dtype=torch.int8),
        "mean": lessons.mean,
        "basis": lessons.basis,
    }
    with atomic_path(path) as staging:
        save_file(tensors, staging)


def key_of(text: str) -> int:
    """The first eight bytes of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def _ask(
    texts: Iterable[str],
    teacher: str,
    cache: Path,
    view_dim: int,
    precision: str,
    say: Callable[[str], None],
) -> None:
    """Add to the cache what it lacks."""
    lessons = read_lessons(cache) if cache.is_file() else Lessons.nothing()
    if view_dim not in (0, lessons.view_dim):
        lessons = Lessons.nothing()  # other components, or none: they are found anew
    todo = {text for text in texts if key_of(text) not in lessons.ratings}
    if not todo:
        return
    model = AffectEncoder.from_pretrained(teacher, backend="torch-bf16" if precision == "bf16" else "torch")

    def embed(part: list[str]) -> Tensor:
        return torch.from_numpy(model.encode(part))

    if not lessons.ratings:
        sample = (
            embed(sorted(todo, key=key_of)[:SAMPLE]) if view_dim else torch.zeros(1, model.weight.shape[1])
        )
        lessons.mean, lessons.basis = principal_components(sample, view_dim)
    # Longest first, so that batches hold little padding across chunks too, and the first line tells the worst pace.
    order = sorted(todo, key=lambda text: (-len(text), text))
    for start in range(0, len(order), CHUNK):
        part = order[start : start + CHUNK]
        embeddings = embed(part)
        lessons.add(part, model.predict_embeddings(embeddings.numpy()), embeddings)
        write_lessons(cache, lessons)
        say(f"teacher: {min(start + CHUNK, len(order)):,} of {len(order):,} texts rated")


def principal_components(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) of the rows of ``x`` (n, d) and the (d, k) directions in which they vary most.

    Raises:
        CarlError: there are fewer than k directions.
    """
    mean = x.double().mean(dim=0)
    directions = torch.linalg.svd(x.double() - mean, full_matrices=False).Vh[:k].T
    if directions.shape[1] < k:
        raise CarlError(
            f"distillation_dim is {k}, but {len(x)} texts with embeddings of {x.shape[1]} numbers have no more than "
            f"{directions.shape[1]} components; lower it"
        )
    return mean.float().contiguous(), directions.float().contiguous()
