"""Rated texts as train, dev and test: known corpora by name, one's own tables by path.

load("emobank")["train"][0]  ->  {"text": "...", "label": [valence, arousal]}

Labels are on [-1, 1]; NaN means not rated.
"""

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carl.data.corpora import CORPORA, CorpusInfo
from carl.data.files import sha256
from carl.data.rows import FORMATS
from carl.data.splits import split
from carl.data.tables import read_ratings, read_texts, to_unit_scale
from carl.data.tasks import Task, load_task, task_names
from carl.data.write import write_table
from carl.errors import UsageError

if TYPE_CHECKING:
    from datasets import DatasetDict

__all__ = [
    "Corpus",
    "CorpusInfo",
    "Task",
    "corpus_names",
    "describe",
    "load",
    "load_corpus",
    "load_task",
    "read_ratings",
    "read_texts",
    "task_names",
    "to_unit_scale",
    "write_table",
]
logger = logging.getLogger(__name__)
_OWN = [suffix for suffix in FORMATS if suffix != ".txt"]  # plain text holds no ratings


@dataclass(frozen=True)
class Corpus:
    """A loaded corpus.

    `splits` has train, dev and test with columns `text` (string) and `label` (2 float32: valence, arousal on
    [-1, 1], NaN = not rated); `files` the SHA-256 of every file read; `notes` every count worth telling.
    """

    name: str
    splits: "DatasetDict"
    files: dict[str, str]
    notes: tuple[str, ...]


def load_corpus(
    name: str | Path,
    *,
    text: str = "text",
    valence: str | None = None,
    arousal: str | None = None,
    scale: tuple[float, float] | None = None,
    skip_bad_rows: bool = False,
) -> Corpus:
    """Load a known corpus, or the user's own .csv, .tsv, .jsonl or .parquet file.

    The options are for one's own file: its columns, the scale of its labels (lowest, highest), and whether
    rows that cannot be used are left out and counted instead of raising. See `read_ratings`.

    Raises:
        UsageError: an unknown name, column or format, or a scale that is missing.
        CarlError: files that cannot be had or read, or bad rows.
    """
    name = str(name)
    if name in CORPORA:
        if (valence, arousal, scale) != (None, None, None) or text != "text":
            raise UsageError(
                f"{name} has its own columns and scale; drop --text, --valence, --arousal and --scale."
            )
        source = CORPORA[name]
        paths = source.locate()
        ratings = source.read(paths)
        ratings = ratings._replace(labels=to_unit_scale(ratings.labels, *source.info.scale))
    elif _is_path(name):
        paths = {Path(name).name: Path(name)}
        ratings = read_ratings(
            name, text=text, valence=valence, arousal=arousal, scale=scale, skip_bad_rows=skip_bad_rows
        )
    else:
        raise _unknown(name)
    splits, split_notes = split(ratings, name)
    corpus = Corpus(
        name, splits, {file: sha256(path) for file, path in paths.items()}, (*ratings.notes, *split_notes)
    )
    for note in corpus.notes:
        logger.info("%s: %s", name, note)
    return corpus


def load(
    name: str | Path,
    *,
    text: str = "text",
    valence: str | None = None,
    arousal: str | None = None,
    scale: tuple[float, float] | None = None,
    skip_bad_rows: bool = False,
) -> "DatasetDict":
    """The splits of `load_corpus`: train, dev and test with columns `text` and `label`."""
    return load_corpus(
        name, text=text, valence=valence, arousal=arousal, scale=scale, skip_bad_rows=skip_bad_rows
    ).splits


def corpus_names() -> list[str]:
    """The names that `load` knows."""
    return list(CORPORA)


def describe(name: str) -> CorpusInfo:
    """What `carl data show` tells of a known corpus; a UsageError gives the nearest names."""
    if name not in CORPORA:
        raise _unknown(name)
    return CORPORA[name].info


def _is_path(name: str) -> bool:
    return Path(name).is_file() or any(suffix.lower() in FORMATS for suffix in Path(name).suffixes[-2:])


def _unknown(name: str) -> UsageError:
    near = difflib.get_close_matches(name.lower(), CORPORA, n=4, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(CORPORA)}."
    return UsageError(f"There is no corpus {name!r}: {hint} Your own file's name ends in {', '.join(_OWN)}.")
