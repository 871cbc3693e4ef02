"""The collectives CARL needs; each does nothing in a single process."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (n_r, ...) of all ranks, in rank order; the n_r may differ. Gradient flows to our own rows."""
    if world_size() == 1:
        return rows
    counts = _row_counts(rows)
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
    parts[dist.get_rank()] = rows
    return torch.cat(parts)


def first_row(rows: Tensor) -> int:
    """Where this rank's rows begin in what ``gather_rows`` returns."""
    return sum(_row_counts(rows)[: dist.get_rank()]) if world_size() > 1 else 0


def _row_counts(rows: Tensor) -> list[int]:
    sizes = [torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor(len(rows), device=rows.device))
    return [int(size) for size in sizes]


def share_of_batch(rows: int, device: torch.device) -> float:
    """This rank's rows over the mean rank's: with this weight the mean over ranks is the mean over rows."""
    if world_size() == 1:
        return 1.0
    total = torch.tensor(float(rows), device=device)
    dist.all_reduce(total)
    return rows * world_size() / total.item()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each trainable parameter's gradient by its mean over the ranks.

    One flat all-reduce per optimizer step covers encoder and heads alike, however many backward passes the step
    made and whichever parameters each of them used. A gradient that a rank lacks counts as 0; one that all lack stays
    missing, so that the optimizer leaves its parameter alone, as in a single process.
    """
    if world_size() == 1:
        return
    trainable = [p for p in parameters if p.requires_grad]
    used = torch.tensor([p.grad is not None for p in trainable], dtype=torch.int, device=trainable[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    trainable = [p for p, anywhere in zip(trainable, used.tolist(), strict=True) if anywhere]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trainable])
    dist.all_reduce(flat)
    flat /= world_size()
    for parameter, gradient in zip(trainable, torch.split(flat, [p.numel() for p in trainable]), strict=True):
        parameter.grad = gradient.view_as(parameter)
