"""Batches of similar length."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carl.sampler import LengthBatchSampler, padding_waste


def draw_lengths(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).lognormal(2.8, 0.5, n).astype(int).clip(3, 128).tolist()


@given(
    rows=st.integers(8, 300),
    batch_size=st.integers(2, 70),
    world_size=st.integers(1, 4),
    window=st.integers(1, 8),
    epoch=st.integers(0, 5),
)
@settings(deadline=None, max_examples=120)
def test_every_row_once_in_batches_for_every_rank(
    rows: int, batch_size: int, world_size: int, window: int, epoch: int
) -> None:
    sampler = LengthBatchSampler(draw_lengths(rows), [1.0] * rows, batch_size, 7, world_size, window)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(rows))
    assert len(batches) == len(sampler)
    assert len(batches) % world_size == 0
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_no_more_batches_than_needed() -> None:
    assert len(LengthBatchSampler([5] * 129, [1.0] * 129, 64, 0)) == 3
    assert len(LengthBatchSampler([5] * 129, [1.0] * 129, 64, 0, world_size=2)) == 4


def test_whole_weights_are_counts() -> None:
    weights = [1.0] * 30 + [2.0] * 30 + [3.0] * 5
    drawn = Counter(row for batch in LengthBatchSampler(draw_lengths(65), weights, 8, 0) for row in batch)
    assert [drawn[row] for row in range(65)] == [int(w) for w in weights]


def test_fractional_weights_hold_on_average() -> None:
    weights = [1.0] * 20 + [0.5] * 40 + [1.5] * 20
    sampler = LengthBatchSampler(draw_lengths(80), weights, 8, 0)
    drawn: Counter[int] = Counter()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        rows = Counter(row for batch in sampler for row in batch)
        assert sum(rows.values()) == 70, "as many rows in every epoch"
        assert all(rows[row] == 1 for row in range(20))
        assert all(rows[row] in (0, 1) for row in range(20, 60))
        assert all(rows[row] in (1, 2) for row in range(60, 80))
        drawn.update(rows)
    means = np.array([drawn[row] / 200 for row in range(80)])
    assert np.abs(means - weights).max() < 4.5 * 0.5 / 200**0.5


def test_two_corpora_of_unlike_weight_are_drawn_in_proportion() -> None:
    weights = [0.9] * 300 + [0.1] * 300
    sampler = LengthBatchSampler([5] * 600, weights, 8, 0)
    heavy = 0
    for epoch in range(60):
        sampler.set_epoch(epoch)
        heavy += sum(row < 300 for batch in sampler for row in batch)
    assert heavy / 60 / 300 == pytest.approx(0.9, abs=0.02)


def test_order_is_set_by_seed_and_epoch_alone() -> None:
    def batches(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthBatchSampler(draw_lengths(900), [1.0] * 900, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    sampler = LengthBatchSampler(draw_lengths(900), [1.0] * 900, 8, 3)
    sampler.set_epoch(2)
    assert list(sampler) == list(sampler) == batches(3, 2)
    assert batches(3, 2) != batches(3, 1)
    assert batches(3, 2) != batches(4, 2)
    sets = [{frozenset(b) for b in batches(3, epoch)} for epoch in (1, 2)]
    assert len(sets[0] & sets[1]) <= 1, "other company in other epochs"


def test_batches_of_unlike_length_come_in_mixed_order() -> None:
    lengths = draw_lengths(2048)
    sampler = LengthBatchSampler(lengths, [1.0] * 2048, 32, 0)
    means = [np.mean([lengths[row] for row in batch]) for batch in sampler]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.35, "short and long batches alternate by chance"


@pytest.mark.parametrize("rows", [500, 4000])
def test_little_padding(rows: int) -> None:
    lengths = draw_lengths(rows)
    sampler = LengthBatchSampler(lengths, [1.0] * rows, 32, 0)
    waste = padding_waste(lengths, list(sampler))
    order = np.random.default_rng(0).permutation(rows).tolist()
    random_waste = padding_waste(lengths, [order[i : i + 32] for i in range(0, rows, 32)])
    assert random_waste > 0.4
    # Of few rows the longest batch, of very unlike lengths, is a large part.
    assert waste < (0.1 if rows > 1000 else 0.15)


def test_padding_waste_equals_loops() -> None:
    lengths = draw_lengths(50)
    batches = [list(range(0, 20)), list(range(20, 27)), [], list(range(27, 50))]
    slots = padding = 0
    for batch in batches:
        longest = max((lengths[row] for row in batch), default=0)
        for row in batch:
            slots += longest
            padding += longest - lengths[row]
    assert padding_waste(lengths, batches) == pytest.approx(padding / slots)
    assert padding_waste([7, 7, 7], [[0, 1], [2]]) == 0
