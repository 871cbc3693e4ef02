"""Affinity kernels and label statistics against loops written from the definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from carl.affect import (
    binned_affinity,
    gaussian_affinity,
    label_statistics,
    sphere_affinity,
    squared_distance,
)

NAN = math.nan
STD = torch.tensor([0.3, 0.7], dtype=torch.float64)
EDGES = torch.tensor([[-0.4, 0.0, 0.5], [-0.2, 0.1, 0.3]], dtype=torch.float64)


def shared_dimensions(y: list[float], z: list[float]) -> list[int]:
    return [d for d in range(2) if not math.isnan(y[d]) and not math.isnan(z[d])]


def gaussian_pair(y: list[float], z: list[float], sigma: float = 0.8) -> float:
    shared = shared_dimensions(y, z)
    if not shared:
        return 0.0
    return math.exp(-sum(((y[d] - z[d]) / float(STD[d])) ** 2 for d in shared) / (2 * sigma**2))


def lifted(point: list[float]) -> list[float]:
    length = math.hypot(*point)
    if length > 1:
        point = [p / length for p in point]
    return [*point, math.sqrt(max(0.0, 1 - sum(p * p for p in point)))]


def sphere_pair(y: list[float], z: list[float], kappa: float = 3.0) -> float:
    shared = shared_dimensions(y, z)
    if not shared:
        return 0.0
    left, right = lifted([y[d] for d in shared]), lifted([z[d] for d in shared])
    return math.exp(kappa * (sum(a * b for a, b in zip(left, right, strict=True)) - 1))


def bin_of(value: float, edges: list[float]) -> int:
    return sum(value >= edge for edge in edges)


def binned_pair(y: list[float], z: list[float]) -> float:
    shared = shared_dimensions(y, z)
    edges = EDGES.tolist()
    return float(bool(shared) and all(bin_of(y[d], edges[d]) == bin_of(z[d], edges[d]) for d in shared))


def distance_pair(y: list[float], z: list[float]) -> float:
    shared = shared_dimensions(y, z)
    return sum((y[d] - z[d]) ** 2 for d in shared) if shared else math.inf


KERNELS = {
    "gaussian": (lambda y, z: gaussian_affinity(y, z, STD, 0.8), gaussian_pair),
    "sphere": (lambda y, z: sphere_affinity(y, z, 3.0), sphere_pair),
    "binned": (lambda y, z: binned_affinity(y, z, EDGES), binned_pair),
}
#: Inside the disc, on its rim, beyond it, in a corner of the square, on a bin's edge; with and without NaN.
AWKWARD = [
    [0.2, -0.3],
    [0.6, 0.8],
    [0.9, 0.9],
    [-1.0, 1.0],
    [0.0, 0.1],
    [0.5, NAN],
    [-0.4, NAN],
    [NAN, 0.3],
    [NAN, -1.0],
    [NAN, NAN],
    [0.2, -0.3],
]


def random_labels(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return labels.masked_fill(torch.rand(n, 2, generator=generator) < 0.25, NAN)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_loops(name: str) -> None:
    kernel, pair = KERNELS[name]
    y = torch.cat([torch.tensor(AWKWARD, dtype=torch.float64), random_labels(20, 1)])
    z = torch.cat([random_labels(17, 2), torch.tensor(AWKWARD, dtype=torch.float64)])
    expected = [[pair(a, b) for b in z.tolist()] for a in y.tolist()]
    torch.testing.assert_close(kernel(y, z), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_squared_distance_equals_loops() -> None:
    y, z = torch.tensor(AWKWARD, dtype=torch.float64), random_labels(15, 3)
    expected = [[distance_pair(a, b) for b in z.tolist()] for a in y.tolist()]
    torch.testing.assert_close(
        squared_distance(y, z), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_gaussian_is_in_units_of_the_standard_deviation() -> None:
    y, z = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.3, 0.0], [0.0, 0.7], [0.3, 0.7]])
    affinity = gaussian_affinity(y, z, STD.float(), sigma=1.0)
    torch.testing.assert_close(affinity, torch.tensor([[math.exp(-0.5), math.exp(-0.5), math.exp(-1.0)]]))


def test_sphere_draws_labels_beyond_the_disc_to_its_rim() -> None:
    outside, rim = torch.tensor([[0.9, 0.9]]), torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)]])
    others = torch.tensor([[0.1, 0.2], [-0.9, 0.4], [0.9, 0.9]])
    torch.testing.assert_close(sphere_affinity(outside, others, 5.0), sphere_affinity(rim, others, 5.0))


def test_bins_follow_the_edges_and_missing_dimensions_drop_out() -> None:
    y = torch.tensor([[0.1, 0.0], [0.1, NAN], [NAN, NAN]], dtype=torch.float64)
    z = torch.tensor([[0.4, -0.1], [0.4, 0.9], [-0.1, 0.0], [NAN, 0.0]], dtype=torch.float64)
    assert binned_affinity(y, z, EDGES).tolist() == [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]


label = st.floats(-1, 1) | st.just(NAN)
labels = st.lists(st.tuples(label, label), min_size=1, max_size=8)


@pytest.mark.parametrize("name", KERNELS)
@given(rows=labels, seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=60)
def test_kernel_properties(name: str, rows: list[tuple[float, float]], seed: int) -> None:
    kernel, _ = KERNELS[name]
    y = torch.tensor(rows, dtype=torch.float64)
    affinity = kernel(y, y)
    assert affinity.isfinite().all()
    assert (affinity >= 0).all()
    assert (affinity <= 1 + 1e-12).all()
    torch.testing.assert_close(affinity, affinity.T, rtol=0, atol=1e-12)
    unrated = y.isnan().all(dim=1)
    torch.testing.assert_close(affinity.diagonal(), (~unrated).double(), rtol=0, atol=1e-9)
    shares_none = (y[:, None].isnan() | y[None].isnan()).all(-1)
    assert (affinity[shares_none] == 0).all()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(kernel(y[order], y), affinity[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(kernel(y, y[order]), affinity[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("bins", "seed"), itertools.product((2, 4, 5), (0, 1)))
def test_label_statistics_equal_numpy(bins: int, seed: int) -> None:
    rated = random_labels(101, seed).float()
    statistics = label_statistics(rated, bins)
    values = rated.double().numpy()
    np.testing.assert_allclose(statistics.mean, np.nanmean(values, axis=0), atol=1e-6)
    np.testing.assert_allclose(statistics.std, np.nanstd(values, axis=0, ddof=1), atol=1e-6)
    shares = np.arange(1, bins) / bins
    np.testing.assert_allclose(statistics.edges, np.nanquantile(values, shares, axis=0).T, atol=1e-6)
    for dimension in range(2):
        known = rated[:, dimension][~rated[:, dimension].isnan()]
        filled = torch.bucketize(known, statistics.edges[dimension], right=True).bincount(minlength=bins)
        assert filled.max() - filled.min() <= 2, "the bins are equally filled"


def test_label_statistics_of_constant_single_and_unrated_dimensions() -> None:
    constant = label_statistics(torch.tensor([[0.5, NAN], [0.5, NAN], [0.5, NAN]]), 4)
    assert constant.mean.tolist() == [0.5, 0.0]
    assert constant.std.tolist() == [1.0, 1.0]
    single = label_statistics(torch.tensor([[NAN, -0.25]]), 4)
    assert single.mean.tolist() == [0.0, -0.25]
    assert single.std.tolist() == [1.0, 1.0]
    assert constant.edges.isfinite().all()
    assert single.edges.isfinite().all()


@pytest.mark.parametrize("rows", [0, 3])
def test_label_statistics_without_a_rating(rows: int) -> None:
    with pytest.raises(ValueError, match="rating"):
        label_statistics(torch.full((rows, 2), NAN), 4)
