"""The pure losses against slow loops written from their definitions, and against SupConLoss."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from scipy.special import expit, logsumexp
from torch import Tensor

from carl.affect import binned_affinity, gaussian_affinity, label_statistics, squared_distance
from carl.losses.distillation import embedding_distillation
from carl.losses.mccl import rank_n_contrast, weighted_info_nce
from carl.losses.ptd import perturbed_token_detection
from carl.losses.regression import concordance_loss, mean_squared_error

NAN, INF = math.nan, math.inf


def unit(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def labels(n: int, missing: float = 0.2) -> Tensor:
    rated = torch.rand(n, 2, dtype=torch.float64) * 2 - 1
    return rated.masked_fill(torch.rand(n, 2) < missing, NAN)


# --- MCCL ------------------------------------------------------------------------------------------------------


def mccl_by_loops(queries: Tensor, keys: Tensor, affinity: Tensor, temperature: float) -> float:
    q, k, w = queries.detach().numpy(), keys.detach().numpy(), affinity.detach().numpy()
    per_query = []
    for i in range(len(q)):
        total = sum(w[i, j] for j in range(len(k)))
        if total == 0:
            continue
        scores = [sum(q[i, d] * k[j, d] for d in range(q.shape[1])) / temperature for j in range(len(k))]
        loss = 0.0
        for j in range(len(k)):
            loss -= w[i, j] / total * (scores[j] - logsumexp(scores))
        per_query.append(loss)
    return sum(per_query) / len(per_query) if per_query else 0.0


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("queued", [0, 9])
def test_mccl_equals_loops(temperature: float, queued: int) -> None:
    queries, keys = unit(6, 5), torch.cat([unit(6, 5), unit(queued, 5)])
    y, queue_labels = labels(6), labels(queued)
    affinity = gaussian_affinity(
        y, torch.cat([y, queue_labels]), torch.tensor([0.4, 0.6], dtype=torch.float64), 1.0
    )
    for weights in (affinity, torch.rand(6, 6 + queued, dtype=torch.float64) * 3):
        computed = weighted_info_nce(queries, keys, weights, temperature).item()
        assert computed == pytest.approx(mccl_by_loops(queries, keys, weights, temperature), abs=1e-6)


def test_mccl_in_single_precision_is_within_a_millionth() -> None:
    queries, keys, affinity = unit(8, 16), unit(40, 16), torch.rand(8, 40, dtype=torch.float64)
    computed = weighted_info_nce(queries.float(), keys.float(), affinity.float(), 0.2).item()
    assert computed == pytest.approx(mccl_by_loops(queries, keys, affinity, 0.2), rel=1e-6)


def test_mccl_leaves_out_queries_without_affinity() -> None:
    queries, keys, affinity = unit(4, 3), unit(5, 3), torch.rand(4, 5, dtype=torch.float64)
    affinity[1] = 0
    expected = weighted_info_nce(queries[[0, 2, 3]], keys, affinity[[0, 2, 3]], 0.2)
    torch.testing.assert_close(weighted_info_nce(queries, keys, affinity, 0.2), expected)
    queries.requires_grad_()
    weighted_info_nce(queries, keys, affinity, 0.2).backward()
    assert queries.grad is not None
    assert (queries.grad[1] == 0).all()
    assert queries.grad[0].abs().sum() > 0


def test_mccl_of_a_batch_without_ratings_is_a_zero_with_zero_gradient() -> None:
    queries = unit(3, 4).requires_grad_()
    loss = weighted_info_nce(queries, unit(3, 4), torch.zeros(3, 3, dtype=torch.float64), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert (queries.grad == 0).all()


def test_mccl_does_not_depend_on_the_scale_of_the_affinities() -> None:
    queries, keys, affinity = unit(4, 3), unit(5, 3), torch.rand(4, 5, dtype=torch.float64)
    scaled = affinity * torch.tensor([[1e-30], [7.0], [1e3], [0.5]], dtype=torch.float64)
    torch.testing.assert_close(
        weighted_info_nce(queries, keys, scaled, 0.2), weighted_info_nce(queries, keys, affinity, 0.2)
    )


def test_mccl_is_at_least_the_entropy_of_the_weights_and_reaches_it() -> None:
    weights = torch.rand(5, 7, dtype=torch.float64)
    weights[0, 2] = 0
    weights = weights / weights.sum(1, keepdim=True)
    entropy = torch.special.entr(weights).sum(1).mean()
    for _ in range(20):
        assert weighted_info_nce(unit(5, 7), unit(7, 7), weights, 0.3) >= entropy
    # With orthonormal keys the similarities are the query's own entries, so tau log w is the optimum.
    optimum = 0.3 * weights.clamp_min(1e-30).log()
    at_optimum = weighted_info_nce(optimum, torch.eye(7, dtype=torch.float64), weights, 0.3)
    torch.testing.assert_close(at_optimum, entropy)


def test_mccl_gradient() -> None:
    keys, affinity = unit(7, 4), torch.rand(3, 7, dtype=torch.float64)
    affinity[1] = 0
    raw = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q: weighted_info_nce(F.normalize(q, dim=-1), keys, affinity, 0.2), (raw,)
    )


@pytest.mark.parametrize("bins", [2, 4])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_mccl_with_binned_labels_and_no_queue_is_supcon(bins: int, temperature: float) -> None:
    queries, keys = unit(24, 8), unit(24, 8)
    y = labels(24, missing=0)
    edges = label_statistics(y, bins).edges.double()
    classes = sum(torch.bucketize(y[:, d].contiguous(), edges[d], right=True) * bins**d for d in range(2))
    # A copy of the labels: handed the same object, the library takes queries and keys for the same vectors.
    expected = SupConLoss(temperature=temperature)(queries, classes, ref_emb=keys, ref_labels=classes.clone())
    computed = weighted_info_nce(queries, keys, binned_affinity(y, y, edges), temperature)
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-6)


def test_mccl_equals_supcon_where_some_queries_have_no_positive() -> None:
    queries, keys = unit(6, 8), unit(5, 8)
    query_classes, key_classes = torch.tensor([0, 1, 2, 9, 0, 8]), torch.tensor([0, 0, 1, 2, 2])
    affinity = (query_classes[:, None] == key_classes[None]).double()
    expected = SupConLoss(temperature=0.1)(queries, query_classes, ref_emb=keys, ref_labels=key_classes)
    torch.testing.assert_close(weighted_info_nce(queries, keys, affinity, 0.1), expected, rtol=0, atol=1e-6)


# --- Rank-N-Contrast -------------------------------------------------------------------------------------------


def rank_by_loops(queries: Tensor, keys: Tensor, distance: Tensor, temperature: float) -> float:
    similarity = (queries @ keys.T).detach().numpy() / temperature
    d = distance.numpy()
    per_query = []
    for i in range(len(d)):
        costs = []
        for j in range(d.shape[1]):
            if math.isinf(d[i, j]):
                continue
            further = [
                similarity[i, n] for n in range(d.shape[1]) if d[i, n] >= d[i, j] and not math.isinf(d[i, n])
            ]
            costs.append(logsumexp(further) - similarity[i, j])
        if costs:
            per_query.append(np.mean(costs))
    return float(np.mean(per_query)) if per_query else 0.0


@pytest.mark.parametrize("temperature", [0.05, 0.2, 2.0])
def test_rank_n_contrast_equals_loops(temperature: float) -> None:
    queries, keys = unit(7, 5), unit(12, 5)
    ties = torch.randint(0, 4, (7, 12)).double()
    ties[0] = 1.0  # everything equally far
    partly = ties.masked_fill(torch.rand(7, 12) < 0.3, INF)
    partly[3] = INF  # a query that can be compared with nothing
    partly[4] = INF
    partly[4, 5] = 0.0  # with one key only: it says nothing, but counts
    for distance in (torch.rand(7, 12, dtype=torch.float64), ties, partly):
        computed = rank_n_contrast(queries, keys, distance, temperature).item()
        assert computed == pytest.approx(rank_by_loops(queries, keys, distance, temperature), abs=1e-6)


def test_rank_n_contrast_of_labels_with_gaps() -> None:
    y, z = labels(6, missing=0.4), labels(10, missing=0.4)
    queries, keys, distance = unit(6, 5), unit(10, 5), squared_distance(y, z)
    computed = rank_n_contrast(queries, keys, distance, 0.2).item()
    assert computed == pytest.approx(rank_by_loops(queries, keys, distance, 0.2), abs=1e-6)


def test_rank_n_contrast_gradient() -> None:
    keys = unit(8, 4)
    distance = torch.randint(0, 3, (4, 8)).double().masked_fill(torch.rand(4, 8) < 0.3, INF)
    distance[2] = INF
    raw = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def loss(q: Tensor) -> Tensor:
        return rank_n_contrast(F.normalize(q, dim=-1), keys, distance, 0.2)

    assert torch.autograd.gradcheck(loss, (raw,))
    loss(raw).backward()
    assert raw.grad is not None
    assert (raw.grad[2] == 0).all()


def test_rank_n_contrast_gradient_is_finite_in_single_precision() -> None:
    raw = torch.randn(16, 8, requires_grad=True)
    distance = torch.rand(16, 300).masked_fill(torch.rand(16, 300) < 0.5, INF)
    rank_n_contrast(F.normalize(raw, dim=-1), unit(300, 8, dtype=torch.float32), distance, 0.05).backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert raw.grad.abs().sum() > 0


def test_rank_n_contrast_of_a_batch_without_ratings() -> None:
    queries = unit(3, 4).requires_grad_()
    loss = rank_n_contrast(queries, unit(3, 4), torch.full((3, 3), INF, dtype=torch.float64), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert (queries.grad == 0).all()


def test_rank_n_contrast_prefers_similarities_in_the_order_of_the_distances() -> None:
    keys = torch.eye(5, dtype=torch.float64)
    distance = torch.arange(5, dtype=torch.float64)[None]
    ordered = torch.tensor([[0.9, 0.7, 0.5, 0.3, 0.1]], dtype=torch.float64)
    assert rank_n_contrast(ordered, keys, distance, 0.1) < rank_n_contrast(
        ordered.flip(1), keys, distance, 0.1
    )


# --- PTD -------------------------------------------------------------------------------------------------------


def test_token_detection_equals_loops() -> None:
    logits = torch.randn(4, 7, dtype=torch.float64) * 5
    perturbed, valid = torch.rand(4, 7) < 0.3, torch.rand(4, 7) < 0.7
    costs = [
        -math.log(expit(float(logits[i, t])) if perturbed[i, t] else expit(-float(logits[i, t])))
        for i in range(4)
        for t in range(7)
        if valid[i, t]
    ]
    computed = perturbed_token_detection(logits, perturbed, valid).item()
    assert computed == pytest.approx(sum(costs) / len(costs), abs=1e-9)


def test_token_detection_ignores_what_is_not_valid() -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    valid = torch.tensor([[True, True, False, False], [True, False, False, False]])
    perturbed = torch.tensor([[True, False, True, False], [False, True, True, True]])
    perturbed_token_detection(logits, perturbed, valid).backward()
    assert logits.grad is not None
    assert ((logits.grad != 0) == valid).all()


def test_token_detection_without_valid_tokens() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = perturbed_token_detection(logits, torch.ones(2, 3).bool(), torch.zeros(2, 3).bool())
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


# --- Regression ------------------------------------------------------------------------------------------------


def test_mean_squared_error_equals_loops() -> None:
    predicted, rated = torch.randn(9, 2, dtype=torch.float64), labels(9)
    std = torch.tensor([0.2, 0.5], dtype=torch.float64)
    errors = [
        ((float(predicted[i, d]) - float(rated[i, d])) / float(std[d])) ** 2
        for i in range(9)
        for d in range(2)
        if not math.isnan(rated[i, d])
    ]
    assert mean_squared_error(predicted, rated, std).item() == pytest.approx(np.mean(errors), abs=1e-9)


def test_mean_squared_error_does_not_hide_a_diverged_prediction() -> None:
    rated = torch.tensor([[0.5, NAN], [0.1, 0.2]])
    for bad in (NAN, INF):
        predicted = torch.tensor([[bad, 0.0], [0.0, 0.0]])
        assert not mean_squared_error(predicted, rated, torch.ones(2)).isfinite()


def ccc_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    rho = np.corrcoef(x, y)[0, 1]
    return float(2 * rho * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


def test_concordance_loss_equals_the_definition() -> None:
    predicted, rated = torch.randn(12, 2, dtype=torch.float64), labels(12)
    per_dimension = []
    for d in range(2):
        known = ~rated[:, d].isnan()
        per_dimension.append(1 - ccc_by_definition(predicted[known, d].numpy(), rated[known, d].numpy()))
    assert concordance_loss(predicted, rated).item() == pytest.approx(np.mean(per_dimension), abs=1e-9)


def test_concordance_loss_leaves_out_a_dimension_that_does_not_vary() -> None:
    predicted, rated = torch.randn(6, 2, dtype=torch.float64), labels(6, missing=0)
    rated[:, 1] = 0.3
    alone = 1 - ccc_by_definition(predicted[:, 0].numpy(), rated[:, 0].numpy())
    assert concordance_loss(predicted, rated).item() == pytest.approx(alone, abs=1e-9)
    rated[:, 1] = NAN
    assert concordance_loss(predicted, rated).item() == pytest.approx(alone, abs=1e-9)


def test_concordance_loss_runs_from_0_to_2() -> None:
    rated = labels(8, missing=0)
    assert concordance_loss(rated.clone(), rated).item() == pytest.approx(0, abs=1e-12)
    mirrored = 2 * rated.mean(0) - rated
    assert concordance_loss(mirrored, rated).item() == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize(
    "loss", [lambda p, y: mean_squared_error(p, y, torch.ones(2, dtype=torch.float64)), concordance_loss]
)
def test_regression_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    rated = labels(6)
    predicted = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: loss(p, rated), (predicted,))
    loss(predicted, rated).backward()
    assert predicted.grad is not None
    assert (predicted.grad[rated.isnan()] == 0).all()


@pytest.mark.parametrize("loss", [lambda p, y: mean_squared_error(p, y, torch.ones(2)), concordance_loss])
@pytest.mark.parametrize("rows", [1, 4])
def test_regression_on_a_batch_without_ratings(loss: Callable[[Tensor, Tensor], Tensor], rows: int) -> None:
    predicted = torch.randn(rows, 2, requires_grad=True)
    value = loss(predicted, torch.full((rows, 2), NAN))
    value.backward()
    assert value.item() == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


def test_embedding_distillation_is_one_minus_the_mean_cosine() -> None:
    mapped, views = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    slow = np.mean([1 - float(m @ v / (m.norm() * v.norm())) for m, v in zip(mapped, views, strict=True)])
    assert float(embedding_distillation(mapped, views)) == pytest.approx(slow)
    assert float(embedding_distillation(views * 3, views)) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda x: embedding_distillation(x, views), mapped.requires_grad_())
