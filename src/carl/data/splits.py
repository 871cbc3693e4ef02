"""Train, dev and test: official splits kept, seeded ones made from the text alone."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from carl.data.rows import counted
from carl.data.tables import Ratings
from carl.errors import CarlError

if TYPE_CHECKING:
    from datasets import DatasetDict

NAMES = ("train", "dev", "test")
_SALT = "carl-split-1:"


def normalise(text: str) -> str:
    """The key of a text: its letters and digits, casefolded; the stripped text where that leaves nothing."""
    return "".join(char for char in text.casefold() if char.isalnum()) or text.strip()


def seeded_split(text: str) -> str:
    """The split of a text where its corpus states none: 80 % train, 10 % dev, 10 % test.

    A pure function of the normalised text, so no text stands in two splits, rows may come in any order, and a
    subset of a corpus (or another corpus with the same texts) splits the same way.
    """
    digest = hashlib.sha256((_SALT + normalise(text)).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if bucket < 0.8 else "dev" if bucket < 0.9 else "test"


def split(ratings: Ratings, name: str) -> "tuple[DatasetDict, tuple[str, ...]]":
    """Put ratings into train, dev and test, each with columns `text` and `label` (float32, 2).

    Official dev and test stay as they are; a training row whose normalised text also stands in one of them is
    left out. The notes count what was left out and name the rule.

    Raises:
        CarlError: nothing is left to train on.
    """
    from datasets import (
        Dataset,
        DatasetDict,
        Features,
        List,
        Value,
    )  # here: slow to import, `data list` needs none

    notes = []
    if ratings.splits is None:
        splits = [seeded_split(text) for text in ratings.texts]
        notes.append("split 80/10/10 by a fixed hash of the text: no text stands in two splits")
    else:
        splits = list(ratings.splits)
        keys = [normalise(text) for text in ratings.texts]
        held_out = {key for key, part in zip(keys, splits, strict=True) if part != "train"}
        leaks = [i for i, part in enumerate(splits) if part == "train" and keys[i] in held_out]
        for i in leaks:
            splits[i] = ""
        if leaks:
            notes.append(
                f"left out {counted(len(leaks), 'training row')} whose text also stands in dev or test"
            )

    features = Features({"text": Value("string"), "label": List(Value("float32"), 2)})
    parts = {}
    for part in NAMES:
        rows = np.flatnonzero(np.array(splits) == part)
        columns = {"text": [ratings.texts[i] for i in rows], "label": ratings.labels[rows].tolist()}
        parts[part] = Dataset.from_dict(columns, features=features)
        if not len(rows):
            if part == "train":
                raise CarlError(f"{name} has no training row; add rows, or correct its column 'split'.")
            notes.append(f"the {part} split is empty")
    return DatasetDict(parts), tuple(notes)
