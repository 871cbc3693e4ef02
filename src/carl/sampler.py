"""Batches of similar length: little padding, every row once per epoch, reproducible from seed and epoch alone."""

from collections.abc import Iterator, Sequence

import numpy as np
from sentence_transformers.base.sampler import DefaultBatchSampler


class LengthBatchSampler(DefaultBatchSampler):
    """Shuffles, sorts neighbourhoods of ``window`` batches by length, cuts them into batches, shuffles those.

    The number of batches is a multiple of ``world_size`` and their sizes differ by at most one, so that no rank
    waits for another and no row is left over. ``set_epoch`` (inherited) picks the epoch's order.

    Args:
        lengths: (n,) tokens per row.
        weights: (n,) how often a row is drawn per epoch: 1 once, 2 twice, 0.5 every other epoch on average.
        batch_size: largest batch.
        seed: of the order.
        world_size: processes that share the batches.
        window: batches sorted together; more means less padding, and batches that are less random.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        world_size: int = 1,
        window: int = 48,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.weights = np.asarray(weights, dtype=np.float64)
        # None tells accelerate that batches vary in size: it would drop those below a fixed one in silence.
        self.batch_size = None
        self.drop_last = True
        self.seed = seed
        self.epoch = 0
        self.window = window
        # The same number of rows in every epoch, whatever the draw: progress, schedule and resume count on it.
        self.rows = max(1, round(self.weights.sum()))
        batches = max(1, -(-self.rows // batch_size))
        self.batches = -(-batches // world_size) * world_size

    def __len__(self) -> int:
        """Batches per epoch, over all processes."""
        return int(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        """The epoch's batches of row numbers."""
        random = np.random.default_rng((self.seed, self.epoch))
        rows = self._draw(random)
        size = max(1, -(-len(rows) // self.batches)) * self.window
        windows = [rows[start : start + size] for start in range(0, len(rows), size)]
        # Stable, so that rows of equal length keep their random order.
        by_length = np.concatenate([w[np.argsort(self.lengths[w], kind="stable")] for w in windows])
        batches = np.array_split(by_length, self.batches)
        for index in random.permutation(self.batches):
            yield batches[index].tolist()

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """``self.rows`` row numbers in random order: each as often as its whole weight, the rest by lot."""
        certain = np.repeat(np.arange(len(self.weights)), np.floor(self.weights).astype(int))
        fraction = self.weights - np.floor(self.weights)
        missing = self.rows - len(certain)
        if missing > 0 and fraction.any():
            # Systematic sampling: evenly spaced marks on the shuffled fractions, so that each row is hit as often as
            # its fraction says (drawing one after the other without replacement would favour the light ones).
            order = random.permutation(np.flatnonzero(fraction))
            ends = np.cumsum(fraction[order])
            marks = (random.random() + np.arange(missing)) * (ends[-1] / missing)
            drawn = order[np.searchsorted(ends, marks, side="right").clip(max=len(order) - 1)]
            certain = np.concatenate([certain, drawn])
        return random.permutation(certain)


def padding_waste(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the token slots of the batches that hold padding, in [0, 1)."""
    sizes = [[lengths[row] for row in batch] for batch in batches if batch]
    return 1.0 - sum(map(sum, sizes)) / sum(max(batch) * len(batch) for batch in sizes)
