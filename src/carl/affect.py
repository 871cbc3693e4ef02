"""The valence-arousal plane: label statistics and the affinity kernels of MCCL.

Labels are float tensors (n, 2) of (valence, arousal) on [-1, 1]; NaN means "not rated". In every kernel a
dimension that one side of a pair lacks drops out of the comparison, and a pair that shares no dimension has
affinity 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelStatistics:
    """What the kernels need to know of the training labels.

    Attributes:
        mean: (2,) mean of the rated labels of each dimension; 0 where nothing is rated.
        std: (2,) their standard deviation; 1 where fewer than two differ, so that dividing by it is safe.
        edges: (2, bins - 1) inner edges of equally filled bins, for the ``binned`` kernel.
    """

    mean: Tensor
    std: Tensor
    edges: Tensor


def label_statistics(labels: Tensor, bins: int) -> LabelStatistics:
    """Describe the rated part of ``labels`` (n, 2).

    Raises:
        ValueError: if not a single label is rated.
    """
    if not bool((~labels.isnan()).any()):
        raise ValueError("none of the training rows has a rating")
    mean, std, edges = torch.zeros(2), torch.ones(2), torch.zeros(2, bins - 1)
    quantiles = torch.linspace(0, 1, bins + 1)[1:-1]
    for dimension in range(2):
        rated = labels[:, dimension][~labels[:, dimension].isnan()].double()
        if len(rated) == 0:
            continue
        mean[dimension] = rated.mean()
        if bool((rated != rated[0]).any()):
            std[dimension] = rated.std()
        edges[dimension] = torch.quantile(rated, quantiles.double())
    return LabelStatistics(mean=mean, std=std, edges=edges)


def squared_distance(y: Tensor, z: Tensor) -> Tensor:
    """Squared Euclidean distance of labels ``y`` (b, 2) and ``z`` (n, 2) over the dimensions both have.

    Returns (b, n), ``inf`` where a pair shares no dimension.
    """
    difference = y[:, None, :] - z[None, :, :]
    shared = ~difference.isnan()
    distance = difference.nan_to_num(0.0).square().sum(-1)
    return distance.masked_fill(~shared.any(-1), torch.inf)


def gaussian_affinity(y: Tensor, z: Tensor, std: Tensor, sigma: float) -> Tensor:
    """exp(-|y - z|^2 / 2 sigma^2) with every dimension in units of its SD: y-aware InfoNCE (Dufumier 2021).

    ``y`` (b, 2), ``z`` (n, 2), ``std`` (2,), ``sigma`` > 0; returns (b, n) in [0, 1].
    """
    return torch.exp(-squared_distance(y / std, z / std) / (2 * sigma**2))


def sphere_affinity(y: Tensor, z: Tensor, kappa: float) -> Tensor:
    """exp(kappa (cos - 1)) between labels lifted onto the unit hemisphere (v, a, sqrt(1 - v^2 - a^2)).

    Weighted InfoNCE reaches its optimum when the labels lie on a sphere (arXiv 2605.13943). A label outside
    the unit disc is drawn back to its rim. ``y`` (b, 2), ``z`` (n, 2); returns (b, n) in [0, 1].
    """
    shared = ~(y[:, None, :].isnan() | z[None, :, :].isnan())
    left = _onto_disc(torch.where(shared, y[:, None, :], 0.0))
    right = _onto_disc(torch.where(shared, z[None, :, :], 0.0))
    height = (_height(left) * _height(right)).clamp_min(0)
    cosine = (left * right).sum(-1) + height
    return torch.exp(kappa * (cosine - 1)) * shared.any(-1)


def _onto_disc(point: Tensor) -> Tensor:
    drawn: Tensor = point / point.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return drawn


def _height(point: Tensor) -> Tensor:
    return (1 - point.square().sum(-1)).clamp_min(0).sqrt()


def binned_affinity(y: Tensor, z: Tensor, edges: Tensor) -> Tensor:
    """1 where two labels fall into the same bin in every dimension they share, else 0 (SupCon's positives).

    ``y`` (b, 2), ``z`` (n, 2), ``edges`` (2, bins - 1) ascending; returns (b, n).
    """
    same = torch.ones(len(y), len(z), dtype=torch.bool, device=y.device)
    shared_any = torch.zeros_like(same)
    for dimension in range(2):
        left, right = y[:, dimension], z[:, dimension]
        shared = ~(left.isnan()[:, None] | right.isnan()[None, :])
        bins_left = torch.bucketize(left.contiguous(), edges[dimension], right=True)
        bins_right = torch.bucketize(right.contiguous(), edges[dimension], right=True)
        same &= (bins_left[:, None] == bins_right[None, :]) | ~shared
        shared_any |= shared
    return (same & shared_any).to(y.dtype)
