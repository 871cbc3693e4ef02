"""Which test texts a model has met in training: the same to the letter, or cut and spelt differently.

A score on texts whose ratings a model was trained on says nothing about transfer, so such a cell is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from carl.data.splits import normalise
from carl.errors import UsageError

SHORTEST = 16
"""Letters and digits a text needs to be compared: shorter ones ("Thank you so much") coincide by chance."""
SHINGLE = 12
"""Letters of a shingle: two or three words, so that texts on one topic share few of them."""
CONTAINED = 0.5
"""The share of the shorter text's shingles that makes a near-duplicate. One changed letter costs 12 of them:
a sentence of 60 letters may have two, or be cut in half. Set phrases stay below: most texts go on beyond them."""
LEAST_SHINGLES = 13
"""Different shingles that both texts of a near-duplicate need: 24 letters, less is a set phrase."""
MAX_SHARE = 0.01
"""Test texts that training may have met. Each moves accuracy by at most one item, so 1 % bounds the gain by
a point; what it gains in practice (the error rate among them) is below the sampling error of these tasks."""
_ROWS = 2048  # test texts whose overlap with all training texts is held in memory at once

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Overlap:
    """How many test texts stand in the training texts. Pairs are (training index, test index)."""

    exact: int
    """Test texts whose letters and digits are those of a training text."""
    near: int
    """Further test texts that share most of the shorter text's shingles with a training text."""
    compared: int
    """Test texts of at least 16 letters and digits; shorter ones are not judged."""
    texts: int
    """All test texts."""
    exact_examples: Pairs
    near_examples: Pairs

    @property
    def share(self) -> float:
        """(exact + near) / compared, in [0, 1]; 0 where nothing can be compared."""
        return (self.exact + self.near) / self.compared if self.compared else 0.0


def overlap(train: Sequence[str], test: Sequence[str], examples: int = 5) -> Overlap:
    """Compare n training texts with m test texts, letters and digits alone, case folded.

    Near-duplicates are found by containment of character shingles (Broder 1997, On the resemblance and
    containment of documents): |A ∩ B| / min(|A|, |B|) of the 12-letter shingles A and B of two texts. Time and
    memory grow with the shingles that both sides have; 25,000 texts against as many take seconds.

    Raises:
        UsageError: a string was given where a list of texts belongs.
    """
    if isinstance(train, str) or isinstance(test, str):
        raise UsageError("Texts are compared as two lists; put a single text into a list.")
    train_keys, test_keys = [normalise(text) for text in train], [normalise(text) for text in test]
    # The first of equal training texts stands for all of them.
    first = {key: i for i, key in reversed(list(enumerate(train_keys))) if len(key) >= SHORTEST}
    exact = [(first[key], j) for j, key in enumerate(test_keys) if key in first]
    rest = [j for j, key in enumerate(test_keys) if len(key) >= SHORTEST and key not in first]
    originals = list(first.values())
    near = [
        (originals[i], rest[j])
        for i, j in _contained([train_keys[i] for i in originals], [test_keys[j] for j in rest])
    ]
    return Overlap(
        len(exact),
        len(near),
        len(exact) + len(rest),
        len(test_keys),
        tuple(exact[:examples]),
        tuple(near[:examples]),
    )


def refusal(found: Overlap) -> str | None:
    """Why a score on these test texts must not be reported, or None where it may.

    Refused is more than `MAX_SHARE` of the texts that can be compared.
    """
    if found.share <= MAX_SHARE:
        return None
    return (
        f"{found.exact + found.near:,} of {found.compared:,} test texts stand in the training texts "
        f"({found.exact:,} to the letter, {found.near:,} cut or spelt differently), "
        f"more than the {MAX_SHARE:.0%} allowed"
    )


def _contained(train: Sequence[str], test: Sequence[str]) -> list[tuple[int, int]]:
    """For each test key with near-duplicates, (train, test) of the one that contains most, the first of equals."""
    train_hashes, train_rows = _shingles(train)
    test_hashes, test_rows = _shingles(test)
    _, columns = np.unique(np.concatenate([train_hashes, test_hashes]), return_inverse=True)
    width = int(columns.max(initial=-1)) + 1
    known = _incidence(train_rows, columns[: len(train_rows)], len(train), width)
    asked = _incidence(test_rows, columns[len(train_rows) :], len(test), width)
    sizes, test_sizes = np.diff(known.indptr), np.diff(asked.indptr)
    by_shingle = known.T.tocsr()
    pairs = []
    for start in range(0, len(test), _ROWS):
        shared = (asked[start : start + _ROWS] @ by_shingle).tocoo()
        rows, found = shared.row + start, shared.col
        smaller = np.minimum(sizes[found], test_sizes[rows])
        share = shared.data / smaller
        hits = np.flatnonzero((share >= CONTAINED) & (smaller >= LEAST_SHINGLES))
        hits = hits[np.lexsort((found[hits], -share[hits], rows[hits]))]
        _, firsts = np.unique(rows[hits], return_index=True)
        pairs += [(int(found[hit]), int(rows[hit])) for hit in hits[firsts]]
    return pairs


def _shingles(keys: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """64-bit hashes of all shingles of the keys, and the key that each comes from."""
    codes = np.frombuffer("".join(keys).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.array([len(key) for key in keys], dtype=np.int64)
    count = max(0, len(codes) - SHINGLE + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for j in range(SHINGLE):  # a polynomial modulo 2^64, of all positions at once
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[j : j + count]
    ends = np.repeat(np.cumsum(lengths), lengths)[:count]
    whole = np.arange(count) + SHINGLE <= ends  # not across two keys
    return hashes[whole], np.repeat(np.arange(len(keys)), lengths)[:count][whole]


def _incidence(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], height: int, width: int
) -> "sparse.csr_matrix":
    """1 where a text has a shingle, however often."""
    matrix = sparse.csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(height, width))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
