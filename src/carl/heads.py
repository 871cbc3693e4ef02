"""The small networks on top of the encoder."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """MLP from sentence embeddings to the space of the contrastive loss; used in training only (SimCLR).

    The leading layer norm makes it indifferent to whether the encoder normalises its output.
    """

    def __init__(self, embedding_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embedding_dim)
        self.hidden = nn.Linear(embedding_dim, embedding_dim)
        self.output = nn.Linear(embedding_dim, projection_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, d) -> (b, p), L2-normalised, in fp32."""
        with torch.autocast(embedding.device.type, enabled=False):
            projected = self.output(F.gelu(self.hidden(self.norm(embedding.float()))))
            return F.normalize(projected, dim=-1)


class TokenDetectionHead(nn.Module):
    """Scores each token as perturbed or not, given the embedding of the untouched sentence (DiffCSE).

    The sentence embedding is layer-normalised first, so that it weighs as much as a token's state whether or not the
    encoder brings it to length 1.
    """

    def __init__(self, token_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.token = nn.Linear(token_dim, token_dim)
        # One product per sentence instead of one per token: the same map as a Linear over [token; sentence].
        self.sentence = nn.Linear(embedding_dim, token_dim, bias=False)
        self.output = nn.Linear(token_dim, 1)

    def forward(self, tokens: Tensor, sentence: Tensor) -> Tensor:
        """Tokens (b, t, h) of the perturbed sentence, sentence (b, d) -> logits (b, t) in fp32."""
        sentence = F.layer_norm(sentence, sentence.shape[-1:])
        hidden = F.gelu(self.token(tokens) + self.sentence(sentence)[:, None, :])
        logits: Tensor = self.output(hidden).squeeze(-1).float()
        return logits


class ValenceArousalHead(nn.Module):
    """Affine map from a sentence embedding to (valence, arousal).

    It learns in standardised units, on embeddings brought to unit variance per entry, so that one learning
    rate suits every corpus and encoder; ``as_affine`` gives the plain weight and bias that are saved.

    Args:
        embedding_dim: d.
        mean: (2,) label mean; the prediction before any training.
        std: (2,) label SD.
        normalised: whether the encoder's embeddings have length 1 (their entries are then about 1/sqrt(d)).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, embedding_dim: int, mean: Tensor, std: Tensor, *, normalised: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.gain = math.sqrt(embedding_dim) if normalised else 1.0
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, embedding: Tensor) -> Tensor:
        """(b, d) -> (b, 2) in fp32, not clipped."""
        weight, bias = self.as_affine()
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(embedding.float(), weight, bias)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Weight (2, d) and bias (2,) of the whole map."""
        weight = self.linear.weight * (self.gain * self.std[:, None])
        bias = self.linear.bias * self.std + self.mean
        return weight, bias


def encoder_gradient_scale(embedding: Tensor, scale: float) -> Tensor:
    """The embedding itself, but ``scale`` times its gradient flows back into the encoder."""
    return embedding.lerp(embedding.detach(), 1.0 - scale) if scale != 1.0 else embedding
