"""A trained model as a small file: how its weights differ from its backbone's, in three bits each.

Fine-tuning moves weights little, so the difference bears coarse rounding (BitDelta, Liu 2024, goes down to one bit).
For MiniLM that is 4.6 MB instead of 91, at less cost in quality than a low-rank approximation of the same size (see
`docs/experiments.md`).
"""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from carl.errors import CarlError

#: Where eight levels serve a normal distribution best (Max 1960, table I), in standard deviations.
LEVELS = torch.tensor([-2.152, -1.344, -0.756, -0.2451, 0.2451, 0.756, 1.344, 2.152])
BITS = 3
#: Of the difference of an embedding table, of which fine-tuning moves a few rows in few directions.
RANK = 8


def difference(tuned: SentenceTransformer, backbone: SentenceTransformer) -> dict[str, Tensor]:
    """What ``apply`` needs to turn the backbone into the tuned model, up to rounding.

    By parameter: ``<name>.codes`` (packed bits) and ``<name>.scale`` (rows,) of a linear map; ``<name>.left`` (rows, 8)
    and ``<name>.right`` (8, d) of an embedding table; ``<name>.plain`` of everything else. Parameters that did not move
    are left out.

    Raises:
        CarlError: the two do not have the same parameters.
    """
    before, after = dict(backbone.named_parameters()), dict(tuned.named_parameters())
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in after.items()}:
        raise CarlError(
            "the model and its backbone differ in their parameters; name the backbone that it was trained from"
        )
    tables = _embedding_tables(tuned)
    found: dict[str, Tensor] = {}
    for name, parameter in after.items():
        moved = (parameter.detach() - before[name].detach()).float().cpu()
        if not bool(moved.any()):
            continue
        if name in tables:
            u, s, v = torch.svd_lowrank(moved, RANK + 8, niter=4)
            found[f"{name}.left"] = (u * s)[:, :RANK].half().contiguous()
            found[f"{name}.right"] = v.T[:RANK].half().contiguous()
        elif moved.ndim == 2:
            codes, scale = quantise(moved)
            found[f"{name}.codes"] = pack(codes)
            found[f"{name}.scale"] = scale.half()
        else:
            found[f"{name}.plain"] = moved.half()
    return found


def apply(backbone: SentenceTransformer, delta: dict[str, Tensor]) -> None:
    """Add what ``difference`` found to the backbone's weights, in place.

    Raises:
        CarlError: a part belongs to no parameter, or has another shape.
    """
    parameters, left = dict(backbone.named_parameters()), set(delta)
    with torch.no_grad():
        for name, parameter in parameters.items():
            kinds = {key.rpartition(".")[2] for key in delta if key.rpartition(".")[0] == name}
            if not kinds:
                continue
            left -= {f"{name}.{kind}" for kind in kinds}
            try:
                if kinds == {"left", "right"}:
                    moved = delta[f"{name}.left"].float() @ delta[f"{name}.right"].float()
                elif kinds == {"codes", "scale"}:
                    codes = unpack(delta[f"{name}.codes"], parameter.numel()).reshape(parameter.shape)
                    moved = LEVELS[codes] * delta[f"{name}.scale"].float()[:, None]
                else:
                    moved = delta[f"{name}.plain"].float()
                if moved.shape != parameter.shape:
                    raise ValueError
            except (KeyError, ValueError, RuntimeError, IndexError) as error:
                raise CarlError(
                    f"the difference of {name} does not fit the backbone; the file is damaged"
                ) from error
            parameter += moved.to(parameter)
    if left:
        raise CarlError(f"the backbone has no parameter for {min(left)}; it was trained from another one")


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (n, m) in 0..7 and a scale per row (n,): matrix ~ LEVELS[codes] * scale, the scale by least squares."""
    spread = matrix.std(dim=1, keepdim=True).clamp_min(1e-12)
    codes = torch.bucketize((matrix / spread).contiguous(), (LEVELS[1:] + LEVELS[:-1]) / 2)
    levels = LEVELS[codes]
    return codes, (matrix * levels).sum(dim=1) / levels.square().sum(dim=1)


def pack(codes: Tensor) -> Tensor:
    """Codes of ``BITS`` bits, one behind the other, as bytes."""
    flat = codes.flatten().to(torch.uint8).numpy()
    bits = (flat[:, None] >> np.arange(BITS - 1, -1, -1, dtype=np.uint8)) & 1
    return torch.from_numpy(np.packbits(bits))


def unpack(packed: Tensor, count: int) -> Tensor:
    """The inverse of ``pack``: (count,) codes.

    Raises:
        ValueError: there are fewer or more.
    """
    bits = np.unpackbits(packed.numpy(), count=count * BITS).reshape(-1, BITS)
    if len(packed) != -(-count * BITS // 8):
        raise ValueError("another number of codes")
    return torch.from_numpy(bits @ (1 << np.arange(BITS - 1, -1, -1)))


def _embedding_tables(model: SentenceTransformer) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
