"""Losses of the valence-arousal head. Predictions and labels are (b, 2), labels with NaN where not rated."""

import torch
from torch import Tensor


def mean_squared_error(predicted: Tensor, rated: Tensor, std: Tensor) -> Tensor:
    """Squared error in units of the labels' SD (2,), averaged over the rated entries.

    The unit makes a narrow dimension (EmoBank's arousal) count as much as a wide one.
    """
    # Only what is not rated is left out: a prediction that is NaN must show.
    error = ((predicted - rated) / std).masked_fill(rated.isnan(), 0.0)
    return error.square().sum() / (~rated.isnan()).sum().clamp_min(1)


def concordance_loss(predicted: Tensor, rated: Tensor) -> Tensor:
    """1 - CCC (Lin 1989) of the batch, averaged over the dimensions with at least two different ratings."""
    losses = []
    for dimension in range(rated.shape[1]):
        known = ~rated[:, dimension].isnan()
        x, y = predicted[known, dimension], rated[known, dimension]
        if len(y) < 2 or bool((y == y[0]).all()):
            continue
        x_centred, y_centred = x - x.mean(), y - y.mean()
        spread = x_centred.square().mean() + y_centred.square().mean() + (x.mean() - y.mean()).square()
        losses.append(1 - 2 * (x_centred * y_centred).mean() / spread)
    # The empty sum keeps the graph, so that a batch without ratings still has a gradient: zero.
    return torch.stack(losses).mean() if losses else predicted.sum() * 0.0
