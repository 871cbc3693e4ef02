"""Does an encoder hear the word that turns the affect, or does it count words?

The minimal pairs were written for this library. Each has an `anchor`, a `same` text that says the same affect in other
words, and an `opposite`: the anchor with a small edit that flips the affect, or clearly changes its strength. The
opposite shares far more words with its anchor than the same text does, so an encoder that goes by the words is
wrong on nearly all of them.

Sources of the idea: CheckList (Ribeiro et al. 2020), whose directional tests edit one word; contrast sets (Gardner
et al. 2020); lexical overlap as the tempting wrong cue (McCoy, Pavlick & Linzen 2019).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from carl.errors import CarlError, UsageError

Kind = Literal["negation", "intensifier", "contrast", "emoji", "hashtag", "idiom"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Texts that a tokenizer cannot tell apart (unknown emoji) differ by rounding alone, which decides nothing.
_TIE = 1e-6


@dataclass(frozen=True)
class PolarityItem:
    """An anchor, a text of the same affect in other words, and a minimal edit of another affect."""

    id: str
    kind: Kind
    anchor: str
    same: str
    opposite: str
    polarity: Literal[-1, 1]
    """Sign of the anchor's affect: 1 pleasant, -1 unpleasant. An intensifier item's opposite shares it."""
    stronger: Literal["anchor", "opposite"] | None = None
    """In intensifier items, the text whose affect lies farther from neutral; None in all others."""

    @property
    def anchor_is_higher(self) -> bool:
        """Whether the anchor's valence is above the opposite's: "slightly annoyed" is above "furious"."""
        return (self.polarity > 0) == (self.stronger != "opposite")


@dataclass(frozen=True)
class PolarityScore:
    """How many items came out right.

    For an interval or a comparison give `outcomes` to `carl.evaluation.statistics` as predictions, True as every
    rating, and `accuracy` as the statistic.
    """

    accuracy: float
    """Share of all items, in [0, 1]."""
    by_kind: dict[str, float]
    """The same for every kind present, in the order of `KINDS`."""
    outcomes: npt.NDArray[np.bool_]
    """(n,) whether each item is right, in the order of the items."""
    margins: npt.NDArray[np.float64]
    """(n,) by how much: right where it is above 0 by more than rounding."""


def load_pairs() -> list[PolarityItem]:
    """The items that come with the library, in a fixed order. Raises CarlError where the file is damaged."""
    text = resources.files(__package__).joinpath("polarity_pairs.jsonl").read_text(encoding="utf-8")
    try:
        return [PolarityItem(**json.loads(line)) for line in text.splitlines()]
    except (TypeError, ValueError) as error:
        raise CarlError(
            f"polarity_pairs.jsonl, which comes with carl, is damaged ({error}); reinstall carl"
        ) from error


def triplet_accuracy(
    encode: Callable[[list[str]], npt.ArrayLike], items: Sequence[PolarityItem]
) -> PolarityScore:
    """Share of items whose anchor lies closer to `same` than to `opposite`: cos(a, s) > cos(a, o).

    Args:
        encode: from m texts to embeddings (m, d) of any length; called once, with all texts.
        items: from `load_pairs`, or one's own.

    Margins are cos(a, s) - cos(a, o), in [-2, 2]; ties are wrong. Chance is 0.5 for embeddings that know nothing,
    and far less for those that know words.

    Raises:
        UsageError: no items, or embeddings that are not (m, d), not finite or all zero.
    """
    texts = [text for item in _some(items) for text in (item.anchor, item.same, item.opposite)]
    vectors = np.asarray(encode(texts), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise UsageError(f"need one embedding for each of {len(texts)} texts, got shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise UsageError("an embedding is zero or not finite: it has no direction to compare")
    anchor, same, opposite = (vectors / lengths).reshape(len(items), 3, -1).swapaxes(0, 1)
    return _score(items, (anchor * same).sum(axis=1) - (anchor * opposite).sum(axis=1))


def valence_order_accuracy(
    predict: Callable[[list[str]], npt.ArrayLike], items: Sequence[PolarityItem]
) -> PolarityScore:
    """Share of items whose anchor and opposite stand in the right order of predicted valence.

    The pleasant text must score above the unpleasant one; of two texts that differ in strength, the stronger must
    lie farther out on its own side (above, if pleasant). Only the order counts, so any scale serves.

    Args:
        predict: from m texts to (m, 2) of valence and arousal, as `AffectEncoder.predict`, or (m,) of valence.
        items: from `load_pairs`, or one's own.

    Margins are the signed differences of valence; ties are wrong. Chance is 0.5.

    Raises:
        UsageError: no items, or predictions of another shape or not finite.
    """
    texts = [text for item in _some(items) for text in (item.anchor, item.opposite)]
    predicted = np.asarray(predict(texts), dtype=np.float64)
    if predicted.shape not in ((len(texts),), (len(texts), 2)):
        raise UsageError(f"need valence for each of {len(texts)} texts, got shape {predicted.shape}")
    valence = predicted.reshape(len(texts), -1)[:, 0].reshape(len(items), 2)
    if not np.isfinite(valence).all():
        raise UsageError("a predicted valence is not finite")
    sign = np.where([item.anchor_is_higher for item in items], 1.0, -1.0)
    return _score(items, sign * (valence[:, 0] - valence[:, 1]))


def _some(items: Sequence[PolarityItem]) -> Sequence[PolarityItem]:
    if not items:
        raise UsageError("there are no polarity items to score")
    return items


def _score(items: Sequence[PolarityItem], margins: npt.NDArray[np.float64]) -> PolarityScore:
    outcomes = margins > _TIE
    kinds = np.array([item.kind for item in items])
    by_kind = {str(kind): float(outcomes[kinds == kind].mean()) for kind in KINDS if (kinds == kind).any()}
    return PolarityScore(float(outcomes.mean()), by_kind, outcomes, margins)
