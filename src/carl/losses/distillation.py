"""Embedding distillation: the student's embedding, linearly mapped, points where the teacher's does."""

import torch.nn.functional as F
from torch import Tensor


def embedding_distillation(mapped: Tensor, views: Tensor) -> Tensor:
    """Mean of 1 - cos(W e_i, v_i), in [0, 2]: the direction counts, so that W need not learn the teacher's scale.

    Source: Romero (2015), FitNets, with a cosine in place of the squared distance, for teacher and student both compare
    texts by cosine.

    Args:
        mapped: (b, k) linear map of the student's embeddings.
        views: (b, k) principal components of the teacher's, not zero.
    """
    loss: Tensor = (1 - F.cosine_similarity(mapped, views, dim=1)).mean()
    return loss
