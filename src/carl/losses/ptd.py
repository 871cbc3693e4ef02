"""Perturbed token detection: which tokens of a sentence were replaced?"""

import torch.nn.functional as F
from torch import Tensor


def perturbed_token_detection(logits: Tensor, perturbed: Tensor, valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over the valid tokens, as in replaced-token detection (ELECTRA; DiffCSE eq. 2).

    Args:
        logits: (b, t) of the detection head; above 0 means "perturbed".
        perturbed: (b, t) bool, the truth.
        valid: (b, t) bool, false for special and padding tokens, which do not count.
    """
    cost = F.binary_cross_entropy_with_logits(logits, perturbed.to(logits.dtype), reduction="none")
    return cost.masked_fill(~valid, 0.0).sum() / valid.sum().clamp_min(1)
