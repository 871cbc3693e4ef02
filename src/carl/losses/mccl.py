"""Momentum continuous contrastive learning: cross-entropy between label affinity and embedding similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_info_nce(queries: Tensor, keys: Tensor, affinity: Tensor, temperature: float) -> Tensor:
    """MCCL = -(1/B) sum_i sum_j w_ij log softmax_j(q_i . k_j / tau), with w_ij = affinity normalised over j.

    With 0/1 affinities this is SupCon (Khosla 2020, eq. 2); with a gaussian of the label distance, y-aware
    InfoNCE (Dufumier 2021, eq. 3). A query whose affinities are all 0 says nothing and is left out of the mean.

    Args:
        queries: (b, d) L2-normalised projections of the online network.
        keys: (n, d) L2-normalised projections of the target network: the batch's and the queue's.
        affinity: (b, n), not negative.
        temperature: tau > 0.
    """
    log_probability = (queries @ keys.T / temperature).log_softmax(dim=1)
    total = affinity.sum(dim=1, keepdim=True)
    weight = affinity / total.clamp_min(torch.finfo(affinity.dtype).tiny)
    per_query = -(weight * log_probability).sum(dim=1)
    return _mean_over(per_query, total[:, 0] > 0)


def rank_n_contrast(queries: Tensor, keys: Tensor, distance: Tensor, temperature: float) -> Tensor:
    """Rank-N-Contrast (Zha 2023, eq. 1 and 2) with keys from the target network.

    Each key j is in turn the positive of query i, against all keys whose label is at least as far away:
    -mean_j log( exp(q_i . k_j / tau) / sum_{l: d_il >= d_ij} exp(q_i . k_l / tau) ). Sorting the keys by
    distance turns the n denominators of a query into one cumulative log-sum-exp.

    Args:
        queries: (b, d) L2-normalised.
        keys: (n, d) L2-normalised.
        distance: (b, n) of the labels, not negative; ``inf`` for a pair that shares no dimension.
        temperature: tau > 0.
    """
    similarity = queries @ keys.T / temperature
    ordered, order = distance.sort(dim=1)
    comparable = ordered.isfinite()
    # A large negative number instead of -inf: the same sums, and no NaN in the gradient.
    ordered_similarity = similarity.gather(1, order).masked_fill(~comparable, -1e4)
    from_here_on = ordered_similarity.flip(1).logcumsumexp(1).flip(1)
    # Keys at equal distance share the denominator of the first of them.
    first_of_ties = torch.searchsorted(ordered, ordered, right=False).clamp_max(ordered.shape[1] - 1)
    per_pair = from_here_on.gather(1, first_of_ties) - ordered_similarity
    count = comparable.sum(dim=1)
    per_query = per_pair.masked_fill(~comparable, 0.0).sum(dim=1) / count.clamp_min(1)
    return _mean_over(per_query, count > 0)


def instance_discrimination(queries: Tensor, keys: Tensor, own: Tensor, temperature: float) -> Tensor:
    """-(1/B) sum_i log softmax_j(q_i . k_j / tau) at j = own_i: InfoNCE (MoCo, eq. 1; SimCSE, eq. 1).

    Args:
        queries: (b, d) L2-normalised.
        keys: (n, d) L2-normalised.
        own: (b,) row of each query's own key.
        temperature: tau > 0.
    """
    loss: Tensor = F.cross_entropy(queries @ keys.T / temperature, own)
    return loss


def _mean_over(values: Tensor, counted: Tensor) -> Tensor:
    return values.masked_fill(~counted, 0.0).sum() / counted.sum().clamp_min(1)
