"""Which tokens are perturbed, and by what: properties and slow loops."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from carl.perturbation import (
    choose,
    embedding_shift,
    hotflip_tokens,
    masked_lm_tokens,
    random_tokens,
    valid_tokens,
)

VOCABULARY, SPECIAL, PAD = 40, (0, 1, 2, 3, 4), 0
CANDIDATES = torch.arange(7, VOCABULARY)  # 5 and 6 play reserved entries
seeds = st.integers(0, 2**31)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of a few padded sentences, with special tokens in the middle too."""
    sentences = draw(st.lists(st.lists(st.integers(1, VOCABULARY - 1), max_size=14), min_size=1, max_size=5))
    width = max(map(len, sentences)) + 2
    ids = torch.full((len(sentences), width), PAD)
    mask = torch.zeros(len(sentences), width, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        tokens = [2, *sentence, 3]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


ratios = st.integers(0, 10_000).map(lambda n: n / 10_000) | st.sampled_from([0.07, 0.14, 0.15, 0.29, 0.55])


def exact_ceiling(ratio: float, count: int) -> int:
    """Of the ratio as it is written: 0.15 means 15 hundredths, not the double beside it."""
    return math.ceil(Fraction(repr(ratio)) * count)


@given(batch=batches(), ratio=ratios, seed=seeds, ties=st.booleans())
@settings(deadline=None, max_examples=200)
def test_choice(batch: tuple[Tensor, Tensor], ratio: float, seed: int, ties: bool) -> None:
    ids, mask = batch
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(ids.shape, generator=generator) * 10
    if ties:
        score = score.round() * 0.5
    valid = valid_tokens(ids, mask, torch.tensor(SPECIAL))
    # The most salient of all are the tokens that must not be chosen.
    chosen = choose(score.masked_fill(~valid, 1e6), valid, ratio)
    for row in range(len(ids)):
        allowed = [t for t in range(ids.shape[1]) if mask[row, t] == 1 and int(ids[row, t]) not in SPECIAL]
        picked = [t for t in range(ids.shape[1]) if chosen[row, t]]
        assert set(picked) <= set(allowed), "special and padding tokens are never perturbed"
        assert len(picked) == exact_ceiling(ratio, len(allowed))
        best = sorted((float(score[row, t]) for t in allowed), reverse=True)[: len(picked)]
        assert sorted((float(score[row, t]) for t in picked), reverse=True) == best, "the most salient are"


@given(count=st.integers(0, 512), ratio=ratios)
@settings(deadline=None, max_examples=300)
def test_exactly_the_ceiling_is_chosen(count: int, ratio: float) -> None:
    valid = torch.arange(514)[None] < count
    assert int(choose(torch.rand(1, 514), valid, ratio).sum()) == exact_ceiling(ratio, count)


def test_choice_at_the_limits() -> None:
    valid = torch.tensor([[True, True, False, True], [False] * 4])
    assert torch.equal(choose(torch.rand(2, 4), valid, 1.0), valid)
    assert not choose(torch.rand(2, 4), valid, 0.0).any()
    assert choose(torch.rand(2, 4), valid, 0.01).sum(1).tolist() == [1, 0]
    assert choose(torch.zeros(2, 4), valid, 0.5).sum(1).tolist() == [2, 0], "without any gradient too"


def test_random_positions_are_even() -> None:
    valid = torch.ones(4000, 8).bool()
    valid[:, 0] = valid[:, 7] = False
    often = choose(torch.rand(4000, 8), valid, 0.3).sum(0)  # 2 of 6
    assert often[0] == often[7] == 0
    assert (often[1:7] - 4000 / 3).abs().max() < 4.5 * (4000 * 2 / 9) ** 0.5


def check_replaced(ids: Tensor, chosen: Tensor, new: Tensor, candidates: Tensor) -> None:
    assert torch.equal(new[~chosen], ids[~chosen]), "only the chosen change"
    assert (new[chosen] != ids[chosen]).all(), "and they do change"
    assert torch.isin(new[chosen], candidates).all()


@given(batch=batches(), ratio=ratios, seed=seeds, pool=st.integers(2, len(CANDIDATES)))
@settings(deadline=None, max_examples=100)
def test_replacements(batch: tuple[Tensor, Tensor], ratio: float, seed: int, pool: int) -> None:
    ids, mask = batch
    torch.manual_seed(seed)
    chosen = choose(torch.rand(ids.shape), valid_tokens(ids, mask, torch.tensor(SPECIAL)), ratio)
    original = ids.clone()
    some = CANDIDATES[torch.randperm(len(CANDIDATES))[:pool]]
    check_replaced(ids, chosen, random_tokens(ids, chosen, some), some)
    gradient, matrix = torch.randn(*ids.shape, 6), torch.randn(VOCABULARY, 6)
    check_replaced(ids, chosen, hotflip_tokens(ids, chosen, gradient, matrix, some), some)
    logits = torch.randn(int(chosen.sum()), VOCABULARY)
    check_replaced(ids, chosen, masked_lm_tokens(ids, chosen, logits, some), some)
    assert torch.equal(ids, original), "the input is left as it is"


def test_hotflip_equals_a_search_over_the_pool() -> None:
    ids = torch.randint(7, VOCABULARY, (3, 9))
    chosen = torch.rand(3, 9) < 0.6
    gradient, matrix = torch.randn(3, 9, 6), torch.randn(VOCABULARY, 6)
    pool = CANDIDATES[torch.randperm(len(CANDIDATES))[:20]]
    new = hotflip_tokens(ids, chosen, gradient, matrix, pool)
    for b in range(3):
        for t in range(9):
            old = int(ids[b, t])
            gains = {
                int(candidate): sum(
                    (float(matrix[candidate, h]) - float(matrix[old, h])) * float(gradient[b, t, h])
                    for h in range(6)
                )
                for candidate in pool
                if int(candidate) != old
            }
            expected = max(gains, key=gains.__getitem__) if chosen[b, t] else old
            assert int(new[b, t]) == expected


def test_random_replacements_are_even() -> None:
    candidates = torch.tensor([10, 11, 12, 13])
    ids = torch.full((6000, 1), 30)
    drawn = random_tokens(ids, torch.ones_like(ids).bool(), candidates)
    counts = [(drawn == c).sum().item() for c in candidates]
    assert max(abs(count - 1500) for count in counts) < 4.5 * (6000 * 3 / 16) ** 0.5


def test_masked_lm_replacements_follow_the_model() -> None:
    n = 6000
    ids = torch.full((n, 1), 10)
    logits = torch.full((n, VOCABULARY), -30.0)
    logits[:, 10] = 50.0  # the original: however likely, never proposed
    logits[:, 3] = 50.0  # not a candidate
    logits[:, 20], logits[:, 21] = math.log(3.0), 0.0
    new = masked_lm_tokens(ids, torch.ones_like(ids).bool(), logits, CANDIDATES)
    assert set(new.flatten().tolist()) == {20, 21}
    assert abs((new == 20).sum().item() - n * 3 / 4) < 4.5 * (n * 3 / 16) ** 0.5


def test_masked_lm_logits_belong_to_the_chosen_in_row_major_order() -> None:
    ids = torch.full((2, 3), 9)
    chosen = torch.tensor([[False, True, True], [True, False, False]])
    logits = torch.full((3, VOCABULARY), -60.0)
    for row, token in enumerate((20, 21, 22)):
        logits[row, token] = 60.0
    assert masked_lm_tokens(ids, chosen, logits, CANDIDATES).tolist() == [[9, 20, 21], [22, 9, 9]]


@pytest.mark.parametrize("step", [0.1, 1.0, 2.5])
def test_embedding_shift(step: float) -> None:
    gradient, embeddings = torch.randn(2, 5, 6) * 1e-5, torch.randn(2, 5, 6)
    gradient[0, 1] = 0
    chosen = torch.tensor([[True, True, False, True, False], [False] * 5])
    shift = embedding_shift(gradient, embeddings, chosen, step)
    assert (shift[~chosen] == 0).all()
    assert (shift[0, 1] == 0).all(), "without a gradient there is no direction"
    for t in (0, 3):
        length = step * embeddings[0, t].norm()
        torch.testing.assert_close(shift[0, t].norm(), length)
        assert torch.cosine_similarity(shift[0, t], gradient[0, t] * 1e5, dim=0) > 0.9999, "uphill"
    assert (shift.norm(dim=-1) <= step * embeddings.norm(dim=-1) * (1 + 1e-6)).all()
