"""Choosing tokens and replacing them. Pure tensor functions over a batch (b, t) of token ids.

To add a strategy, write a function here that returns new ids (or a shift of the embeddings) for the chosen
positions, and call it in ``losses/carl.py``.
"""

import torch
from torch import Tensor


def valid_tokens(input_ids: Tensor, attention_mask: Tensor, special_ids: Tensor) -> Tensor:
    """(b, t) bool: true for the tokens that may be perturbed, which special and padding tokens may not."""
    return attention_mask.bool() & ~torch.isin(input_ids, special_ids)


def choose(score: Tensor, valid: Tensor, ratio: float) -> Tensor:
    """The ceil(ratio * T_i) valid tokens with the highest score in each sentence of T_i valid tokens.

    Random positions are ``choose(torch.rand_like(score), ...)``.

    Args:
        score: (b, t) saliency.
        valid: (b, t) bool.
        ratio: rho in [0, 1].

    Returns:
        (b, t) bool.
    """
    # Rounding first: 0.15 * 20 is 3.0000000000000004 in floating point, and must not become 4.
    wanted = (valid.sum(dim=1).double() * ratio).mul(1e9).round().div(1e9).ceil().long()
    rank = (
        score.float()
        .masked_fill(~valid, -torch.inf)
        .argsort(dim=1, descending=True, stable=True)
        .argsort(dim=1)
    )
    return (rank < wanted[:, None]) & valid


def random_tokens(input_ids: Tensor, chosen: Tensor, candidates: Tensor) -> Tensor:
    """Replace the chosen tokens by candidates drawn uniformly, never by themselves.

    ``input_ids`` (b, t), ``chosen`` (b, t) bool, ``candidates`` (v,) ids without repeats, v >= 2.
    """
    old = input_ids[chosen]
    pick = torch.randint(len(candidates), old.shape, device=old.device)
    pick = torch.where(candidates[pick] == old, (pick + 1) % len(candidates), pick)
    return _replaced(input_ids, chosen, candidates[pick])


def hotflip_tokens(
    input_ids: Tensor, chosen: Tensor, gradient: Tensor, embedding_matrix: Tensor, pool: Tensor
) -> Tensor:
    """Replace each chosen token by the one of the pool that raises the loss most, to first order (HotFlip).

    The gain of putting e_new for e_old is (e_new - e_old) . dL/de; e_old is the same for all candidates and
    drops out of the comparison. A pool drawn at random at each step makes the choice a sample, and keeps it cheap.

    Args:
        input_ids: (b, t).
        chosen: (b, t) bool.
        gradient: (b, t, h), dL/de at the word embeddings.
        embedding_matrix: (vocabulary, h).
        pool: (v,) candidate ids without repeats, v >= 2.
    """
    old = input_ids[chosen]
    gain = gradient[chosen].to(embedding_matrix.dtype) @ embedding_matrix[pool].T
    gain = gain.masked_fill(pool[None, :] == old[:, None], -torch.inf)
    return _replaced(input_ids, chosen, pool[gain.argmax(dim=1)])


def masked_lm_tokens(input_ids: Tensor, chosen: Tensor, logits: Tensor, candidates: Tensor) -> Tensor:
    """Replace the chosen tokens by samples of a masked language model, never by themselves (ELECTRA).

    ``logits`` (k, vocabulary) are the model's for the k chosen positions, in row-major order.
    """
    old = input_ids[chosen]
    scores = logits.float()[:, candidates].masked_fill(candidates[None, :] == old[:, None], -torch.inf)
    return _replaced(input_ids, chosen, candidates[torch.multinomial(scores.softmax(-1), 1)[:, 0]])


def embedding_shift(gradient: Tensor, embeddings: Tensor, chosen: Tensor, step: float) -> Tensor:
    """A move of the chosen embeddings along the gradient, ``step`` times as long as the embedding itself.

    The norm-bounded adversarial perturbation of Miyato (2017), per token. All (b, t, h) but ``chosen`` (b, t).
    """
    direction = torch.nn.functional.normalize(gradient.float(), dim=-1)
    length = step * embeddings.detach().float().norm(dim=-1, keepdim=True)
    shift: Tensor = direction * length * chosen[..., None]
    return shift


def _replaced(input_ids: Tensor, chosen: Tensor, new: Tensor) -> Tensor:
    result = input_ids.clone()
    result[chosen] = new
    return result
