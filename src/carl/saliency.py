"""Gradient saliency: how strongly each input token moves a loss or a prediction."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn


class EmbeddingTap:
    """Context manager that catches the word embeddings of the forwards inside it, with their gradient.

    ``embeddings`` (b, t, h) is set by the forward, ``gradient`` (b, t, h) by the backward pass that follows,
    whichever it is: saliency costs no pass of its own. With ``shift`` the embeddings are moved before the
    encoder sees them.

    Args:
        layer: the input embedding layer (``model.get_input_embeddings()``).
        shift: (b, t, h) added to the embeddings, or None.
    """

    def __init__(self, layer: nn.Module, shift: Tensor | None = None) -> None:
        self._layer = layer
        self._shift = shift
        self.embeddings: Tensor | None = None

    def __enter__(self) -> Self:
        self._handle = self._layer.register_forward_hook(self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _catch(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._shift is not None:
            output = output + self._shift.to(output.dtype)
        if not output.requires_grad:  # frozen embeddings: make a leaf of them
            output = output.detach().requires_grad_()
        output.retain_grad()
        self.embeddings = output
        return output

    @property
    def gradient(self) -> Tensor:
        """(b, t, h) gradient of what was backpropagated.

        Raises:
            RuntimeError: before a forward and a backward pass have been made.
        """
        if self.embeddings is None or self.embeddings.grad is None:
            raise RuntimeError("no gradient yet: run a forward inside the tap and a backward after it")
        return self.embeddings.grad


def gradient_norm(gradient: Tensor) -> Tensor:
    """s_it = |dL/de_it|_2: (b, t, h) -> (b, t)."""
    norm: Tensor = gradient.float().norm(dim=-1)
    return norm


def gradient_times_input(gradient: Tensor, embeddings: Tensor) -> Tensor:
    """Signed first-order contribution dL/de_it . e_it: two (b, t, h) -> (b, t)."""
    return (gradient.float() * embeddings.float()).sum(-1)


def integrated_gradients(
    forward: Callable[[dict[str, Tensor]], Tensor],
    features: dict[str, Tensor],
    layer: nn.Embedding,
    baseline: int,
    movable: Tensor,
    steps: int = 32,
) -> Tensor:
    """Contribution of each token to each output of ``forward`` (Sundararajan 2017), on the way from a blank sentence.

    The contributions of a sentence's tokens add up to f(sentence) - f(blank), where the movable tokens of the blank
    sentence are the ``baseline`` token (the mask).

    Args:
        forward: maps tokenised features of b sentences to (b, o).
        features: of one sentence, (1, t).
        layer: the input embedding layer.
        baseline: token id of the blank.
        movable: (1, t) bool; other tokens stay as they are and contribute 0.
        steps: points on the path (midpoint rule).

    Returns:
        (t, o).
    """
    ids = features["input_ids"]
    weight = layer.weight.detach()
    difference = (weight[ids] - weight[baseline]) * movable[..., None]
    position = (torch.arange(steps, device=ids.device) + 0.5) / steps
    shift = (position - 1)[:, None, None] * difference
    repeated = {name: value.expand(steps, *value.shape[1:]) for name, value in features.items()}
    with torch.enable_grad(), EmbeddingTap(layer, shift=shift) as tap:
        output = forward(repeated)
    assert tap.embeddings is not None
    gradients = [
        torch.autograd.grad(output[:, o].sum(), tap.embeddings, retain_graph=True)[0].mean(dim=0)
        for o in range(output.shape[1])
    ]
    return torch.stack([(gradient * difference[0]).sum(-1) for gradient in gradients], dim=-1)
