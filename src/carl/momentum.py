"""The target network's update and the queue of its keys (MoCo, He 2020)."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """xi <- m xi + (1 - m) theta for every parameter, in the target's own precision; buffers are copied.

    Raises:
        ValueError: if the two networks do not have the same parameters.
    """
    ours: list[Tensor] = list(target.parameters())
    theirs = list(online.parameters())
    if [p.shape for p in ours] != [p.shape for p in theirs]:
        raise ValueError("target and online network differ in their parameters")
    torch._foreach_lerp_(ours, [p.to(q.dtype) for p, q in zip(theirs, ours, strict=True)], 1.0 - momentum)
    for mine, source in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(source)


class KeyQueue(nn.Module):
    """First-in-first-out store of the last ``size`` keys with their labels. All state is in buffers.

    Args:
        size: number of keys kept; 0 keeps none.
        dim: length of a key.
    """

    keys: Tensor
    labels: Tensor
    pointer: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size, 2), torch.nan))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Append keys (b, dim) and labels (b, 2) in order; the oldest give way."""
        keys, labels = keys[-self.size :], labels[-self.size :]
        if self.size == 0 or len(keys) == 0:
            return
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % self.size
        self.keys[slots] = keys.to(self.keys.dtype)
        self.labels[slots] = labels.to(self.labels.dtype)
        self.pointer.copy_((self.pointer + len(keys)) % self.size)
        self.count.copy_((self.count + len(keys)).clamp_max(self.size))

    def contents(self) -> tuple[Tensor, Tensor]:
        """The stored keys (n, dim) and labels (n, 2), n <= size, in no particular order."""
        filled = int(self.count)
        return self.keys[:filled], self.labels[:filled]
