"""The CARL objective: wires encoder, target network, queue and heads to the pure losses.

One training step makes two passes, each with its own backward:

1. ``sentence_pass``: target keys (no gradient) -> online forward -> MCCL + beta * regression (+ distillation). Its
   backward also leaves dL/de at the word embeddings, which is the saliency: of the whole sentence loss, beta *
   regression included.
2. ``token_pass``: salient tokens are perturbed -> online forward -> PTD, given the untouched sentence's embedding. That
   is detached: its graph went with the first backward, so PTD teaches the encoder through the tokens' states.
"""

import copy
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from carl import perturbation
from carl.affect import LabelStatistics, binned_affinity, gaussian_affinity, sphere_affinity, squared_distance
from carl.backbone import MaskedLM, is_normalised, replaceable_tokens, special_tokens, word_embeddings
from carl.config import CarlConfig
from carl.distributed import first_row, gather_rows
from carl.heads import Projector, TokenDetectionHead, ValenceArousalHead, encoder_gradient_scale
from carl.losses.distillation import embedding_distillation
from carl.losses.mccl import instance_discrimination, rank_n_contrast, weighted_info_nce
from carl.losses.ptd import perturbed_token_detection
from carl.losses.regression import concordance_loss, mean_squared_error
from carl.momentum import KeyQueue, update_target
from carl.saliency import EmbeddingTap, gradient_norm, gradient_times_input

Features = dict[str, Tensor]


@dataclass
class SentencePass:
    """What the first pass leaves for the second.

    Attributes:
        features: the batch as tokenised: ``input_ids`` and ``attention_mask`` (b, t).
        losses: weighted parts; their sum is to be backpropagated before ``token_pass``.
        tap: holds the word embeddings and, after the backward, their gradient.
        embedding: (b, d) detached sentence embeddings.
        keys: (n, p) target keys of all ranks, or None where MCCL is off.
        labels: (n, 2) their labels.
    """

    features: Features
    losses: dict[str, Tensor]
    tap: EmbeddingTap
    embedding: Tensor
    keys: Tensor | None
    labels: Tensor


class CarlObjective(nn.Module):
    """Owns what training needs beside the encoder: target network, queue, projector and heads.

    Args:
        model: the encoder being trained (the online network).
        config: see ``CarlConfig``.
        statistics: of the training labels.
        generator: masked language model for the ``mlm`` strategy.
    """

    special: Tensor
    candidates: Tensor
    label_std: Tensor
    label_edges: Tensor
    target_moves: Tensor

    def __init__(
        self,
        model: SentenceTransformer,
        config: CarlConfig,
        statistics: LabelStatistics,
        generator: MaskedLM | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.has_target = config.mccl_weight > 0 and config.keys == "target"
        dim = model.get_embedding_dimension()
        self.head = ValenceArousalHead(dim, statistics.mean, statistics.std, normalised=is_normalised(model))
        if config.mccl_weight > 0:
            self.projector = Projector(dim, config.projection_dim)
            self.queue = KeyQueue(config.queue_size, config.projection_dim)
        if self.has_target:
            self.target = nn.ModuleDict(
                {
                    "encoder": copy.deepcopy(model),
                    "projector": copy.deepcopy(self.projector),
                    "head": copy.deepcopy(self.head),
                }
            )
            self.target.requires_grad_(False).float()
            self.register_buffer("target_moves", torch.zeros((), dtype=torch.long))
        if config.distillation_weight > 0:
            self.view = nn.Linear(dim, config.distillation_dim)
        if config.ptd_weight > 0:
            self.detector = TokenDetectionHead(model[0].get_embedding_dimension(), dim)
            self.generator = generator
        self.register_buffer("special", special_tokens(model), persistent=False)
        self.register_buffer("candidates", replaceable_tokens(model), persistent=False)
        self.register_buffer("label_std", statistics.std.clone())
        self.register_buffer("label_edges", statistics.edges.clone())

    def sentence_pass(self, features: Features, labels: Tensor) -> SentencePass:
        """First pass over a batch: ``features`` tokenised (b, t), ``labels`` (b, 2) or, with the teacher's views of the
        texts behind the ratings, (b, 2 + distillation_dim).
        """
        labels, views = labels[:, :2], labels[:, 2:]
        keys, labels = self._keys(features, labels)
        key_labels = labels if keys is None else gather_rows(labels)
        with EmbeddingTap(word_embeddings(self.model)) as tap:
            embedding = self.model(dict(features))["sentence_embedding"]
        losses = {}
        # bf16 rounds similarities and sums too much.
        with torch.autocast(embedding.device.type, enabled=False):
            if keys is not None:
                losses["mccl"] = self.config.mccl_weight * self._mccl(embedding, labels, keys, key_labels)
            losses["regression"] = self._regression(embedding, labels)
            if views.shape[1] > 0:
                alike = embedding_distillation(self.view(embedding), views)
                losses["distillation"] = self.config.distillation_weight * alike
        return SentencePass(features, losses, tap, embedding.detach(), keys, key_labels)

    def token_pass(self, first: SentencePass) -> Tensor:
        """Weighted PTD loss of the batch, after the backward pass of ``first``."""
        ids, shift, perturbed, valid = self._perturb(first)
        with EmbeddingTap(word_embeddings(self.model), shift=shift):
            tokens = self.model({**first.features, "input_ids": ids})["token_embeddings"]
        logits = self.detector(tokens, first.embedding)
        return self.config.ptd_weight * perturbed_token_detection(logits, perturbed, valid)

    def remember(self, first: SentencePass) -> None:
        """Put the batch's keys into the queue."""
        if first.keys is not None:
            self.queue.enqueue(first.keys.detach(), first.labels)

    @property
    def outcome(self) -> tuple[SentenceTransformer, ValenceArousalHead]:
        """The network that is scored and saved, and its head."""
        if self.config.network == "target" and self.has_target:
            head = self.target["head"]
            assert isinstance(head, ValenceArousalHead)
            return self.target["encoder"], head
        return self.model, self.head

    def move_target(self) -> None:
        """Let the target network follow; once per optimizer step."""
        if self.has_target:
            update_target(self.target["encoder"], self.model, self.config.momentum)
            update_target(self.target["projector"], self.projector, self.config.momentum)
            update_target(self.target["head"], self.head, self.config.momentum)
            self.target_moves += 1

    def forward(self, features: list[Features], labels: Tensor) -> dict[str, Tensor]:
        """The sentence losses alone, for evaluation; leaves target and queue as they are."""
        return self.sentence_pass(features[0], labels).losses

    def _keys(self, features: Features, labels: Tensor) -> tuple[Tensor | None, Tensor]:
        """(n, p) keys of all ranks' batches, and this batch's labels, softened where one learns (see the config)."""
        if self.config.mccl_weight == 0:
            return None, labels
        if not self.has_target:
            return gather_rows(self.projector(self.model(dict(features))["sentence_embedding"])), labels
        learning = torch.is_grad_enabled()
        self.target.eval()  # keys without dropout: less noise, and the same on every rank
        with torch.no_grad():
            embedding = self.target["encoder"](dict(features))["sentence_embedding"]
            if learning and self.config.soft_labels > 0:
                # The target is worth as much as it is no longer what it began as.
                learnt = 1 - self.config.momentum ** self.target_moves.to(labels.dtype)
                labels = labels.lerp(self.target["head"](embedding), self.config.soft_labels * learnt)
            return gather_rows(self.target["projector"](embedding)), labels

    def _mccl(self, embedding: Tensor, labels: Tensor, keys: Tensor, key_labels: Tensor) -> Tensor:
        config, queries = self.config, self.projector(embedding)
        queued_keys, queued_labels = self.queue.contents()
        keys = torch.cat([keys, queued_keys])
        key_labels = torch.cat([key_labels, queued_labels])
        loss: Tensor = queries.new_zeros(())
        if config.instance_share < 1:
            loss = (1 - config.instance_share) * self._by_labels(queries, labels, keys, key_labels)
        if config.instance_share > 0:
            own = torch.arange(len(queries), device=queries.device) + first_row(queries)
            alone = instance_discrimination(queries, keys, own, config.temperature)
            loss = loss + config.instance_share * alone
        return loss

    def _by_labels(self, queries: Tensor, labels: Tensor, keys: Tensor, key_labels: Tensor) -> Tensor:
        config = self.config
        if config.kernel == "rank":
            distance = squared_distance(labels / self.label_std, key_labels / self.label_std)
            return rank_n_contrast(queries, keys, distance, config.temperature)
        if config.kernel == "gaussian":
            affinity = gaussian_affinity(labels, key_labels, self.label_std, config.sigma)
        elif config.kernel == "sphere":
            affinity = sphere_affinity(labels, key_labels, config.kappa)
        else:
            affinity = binned_affinity(labels, key_labels, self.label_edges)
        return weighted_info_nce(queries, keys, affinity, config.temperature)

    def _regression(self, embedding: Tensor, labels: Tensor) -> Tensor:
        # beta scales what reaches the encoder, not what the head sees: it learns at full weight even at 0.
        predicted = self.head(encoder_gradient_scale(embedding, self.config.regression_weight))
        if self.config.regression_loss == "ccc":
            return concordance_loss(predicted, labels)
        return mean_squared_error(predicted, labels, self.label_std)

    def _perturb(self, first: SentencePass) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """New ids (b, t), shift of the embeddings or None, which tokens are perturbed and which valid, (b, t)."""
        config, ids, gradient = self.config, first.features["input_ids"], first.tap.gradient
        assert first.tap.embeddings is not None
        valid = perturbation.valid_tokens(ids, first.features["attention_mask"], self.special)
        if config.positions == "random":
            score = torch.rand(ids.shape, device=ids.device)
        elif config.saliency == "norm":
            score = gradient_norm(gradient)
        else:
            score = gradient_times_input(gradient, first.tap.embeddings.detach()).abs()
        chosen = perturbation.choose(score, valid, config.ratio)
        if config.strategy == "embedding":
            shift = perturbation.embedding_shift(
                gradient, first.tap.embeddings, chosen, config.embedding_step
            )
            return ids, shift, chosen, valid
        if config.strategy == "hotflip":
            order = torch.randperm(len(self.candidates), device=ids.device)[: config.pool_size]
            matrix = word_embeddings(self.model).weight.detach()
            with torch.autocast(ids.device.type, enabled=False):
                new = perturbation.hotflip_tokens(ids, chosen, gradient, matrix, self.candidates[order])
        elif config.strategy == "mlm":
            assert self.generator is not None
            logits = self.generator.logits_at(first.features, chosen)
            new = perturbation.masked_lm_tokens(ids, chosen, logits, self.candidates)
        else:
            new = perturbation.random_tokens(ids, chosen, self.candidates)
        return new, None, chosen, valid
