"""The objective as a whole on a tiny encoder: what each pass leaves, and where gradients go."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from carl.affect import (
    binned_affinity,
    gaussian_affinity,
    label_statistics,
    sphere_affinity,
    squared_distance,
)
from carl.backbone import load_backbone, load_masked_lm, replaceable_tokens, word_embeddings
from carl.config import KERNELS, POSITIONS, SALIENCIES, STRATEGIES, CarlConfig
from carl.losses.carl import CarlObjective, SentencePass
from carl.losses.mccl import rank_n_contrast, weighted_info_nce
from carl.losses.regression import concordance_loss, mean_squared_error
from carl.perturbation import choose, valid_tokens
from carl.saliency import EmbeddingTap, gradient_norm

Tokenise = Callable[..., dict[str, Tensor]]
NAN = math.nan
LABELS = torch.tensor([[0.8, 0.5], [-0.7, 0.6], [0.0, -0.4], [-0.1, 0.1], [0.6, NAN], [NAN, 0.7]])
STATISTICS = label_statistics(LABELS, 3)
SMALL = {"queue_size": 16, "projection_dim": 12, "pool_size": 64, "bins": 3}


def objective_for(model: SentenceTransformer, **settings: object) -> CarlObjective:
    objective = CarlObjective(model, CarlConfig(**{**SMALL, **settings}), STATISTICS)
    torch.nn.init.normal_(objective.head.linear.weight, std=0.1)
    return objective.eval()


def backward(first: SentencePass) -> SentencePass:
    torch.stack(list(first.losses.values())).sum().backward()
    return first


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def in_target(name: str) -> bool:
    return name.startswith("target.")


@pytest.mark.parametrize("kernel", KERNELS)
def test_sentence_pass_equals_its_parts(
    kernel: str, tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(
        tiny_model, kernel=kernel, mccl_weight=0.7, regression_weight=0.4, temperature=0.3
    )
    features, labels = tokenise(tiny_model), LABELS.clone()
    queued_keys, queued_labels = torch.nn.functional.normalize(torch.randn(9, 12), dim=-1), torch.rand(9, 2)
    objective.queue.enqueue(queued_keys, queued_labels)
    first = objective.sentence_pass(features, labels)
    with torch.no_grad():
        embedding = tiny_model(dict(features))["sentence_embedding"]
        queries = objective.projector(embedding)
        keys = objective.target["projector"](
            objective.target["encoder"](dict(features))["sentence_embedding"]
        )
        everything, all_labels = torch.cat([keys, queued_keys]), torch.cat([labels, queued_labels])
        if kernel == "rank":
            distance = squared_distance(labels / STATISTICS.std, all_labels / STATISTICS.std)
            mccl = rank_n_contrast(queries, everything, distance, 0.3)
        else:
            affinity = {
                "gaussian": lambda: gaussian_affinity(labels, all_labels, STATISTICS.std, 1.0),
                "sphere": lambda: sphere_affinity(labels, all_labels, 30.0),
                "binned": lambda: binned_affinity(labels, all_labels, STATISTICS.edges),
            }[kernel]()
            mccl = weighted_info_nce(queries, everything, affinity, 0.3)
        regression = mean_squared_error(objective.head(embedding), labels, STATISTICS.std)
    assert set(first.losses) == {"mccl", "regression"}
    torch.testing.assert_close(first.losses["mccl"].detach(), 0.7 * mccl, rtol=0, atol=1e-6)
    torch.testing.assert_close(first.losses["regression"].detach(), regression, rtol=0, atol=1e-6)
    torch.testing.assert_close(first.embedding, embedding)
    assert not first.embedding.requires_grad
    assert first.keys is not None
    assert not first.keys.requires_grad
    torch.testing.assert_close(first.keys, keys)
    assert torch.equal(first.labels.nan_to_num(9.0), labels.nan_to_num(9.0))
    assert set(features) == {"input_ids", "attention_mask", "token_type_ids"}, "the batch is left as it was"


def test_instance_discrimination_leaves_the_labels_out(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    """SimCSE eq. 1, MoCo eq. 1: cross-entropy towards a sentence's own key, whatever the labels."""
    objective = objective_for(tiny_model, instance_share=1.0, temperature=0.3)
    objective.queue.enqueue(torch.nn.functional.normalize(torch.randn(9, 12), dim=-1), torch.rand(9, 2))
    first = objective.sentence_pass(tokenise(tiny_model), torch.full((6, 2), NAN))
    keys = torch.cat([first.keys, objective.queue.contents()[0]])
    similarity = objective.projector(first.embedding) @ keys.T / 0.3
    expected = torch.nn.functional.cross_entropy(similarity, torch.arange(6))
    torch.testing.assert_close(first.losses["mccl"].detach(), expected.detach())


@pytest.mark.parametrize("kernel", KERNELS)
def test_labels_and_instances_share_mccl(
    kernel: str, tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    features, parts = tokenise(tiny_model), {}
    for share in (0.0, 0.3, 1.0):
        torch.manual_seed(0)
        objective = objective_for(tiny_model, kernel=kernel, instance_share=share)
        objective.queue.enqueue(torch.nn.functional.normalize(torch.randn(9, 12), dim=-1), torch.rand(9, 2))
        parts[share] = objective.sentence_pass(features, LABELS.clone()).losses["mccl"].detach()
    assert parts[0.0] != parts[1.0]
    torch.testing.assert_close(parts[0.3], 0.7 * parts[0.0] + 0.3 * parts[1.0])


def test_online_keys_are_a_second_dropout_view_with_gradient(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, instance_share=1.0, keys="online", queue_size=0, ptd_weight=0)
    assert not any(name.startswith("target") for name in objective.state_dict())
    assert objective.outcome == (tiny_model, objective.head)
    features = tokenise(tiny_model)
    still = objective.sentence_pass(features, LABELS)
    torch.testing.assert_close(
        still.keys, objective.projector(still.embedding), msg="without dropout the same"
    )
    first = objective.train().sentence_pass(features, LABELS)
    assert (first.keys.detach() - objective.projector(first.embedding)).abs().max() > 1e-3
    first.keys.retain_grad()
    backward(first)
    assert first.keys.grad.abs().sum() > 0
    objective.remember(first)
    objective.move_target()


def test_queued_online_keys_carry_no_gradient(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model, keys="online", ptd_weight=0)
    for _ in range(2):
        first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
        objective.remember(first)
    assert not objective.queue.contents()[0].requires_grad
    assert len(objective.queue.contents()[0]) == 12


def test_ccc_regression(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model, regression_loss="ccc")
    first = objective.sentence_pass(tokenise(tiny_model), LABELS)
    torch.testing.assert_close(
        first.losses["regression"], concordance_loss(objective.head(first.embedding), LABELS)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_losses_under_autocast_are_those_of_fp32(
    kernel: str, tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    """The forward may run in bf16; similarities, softmax and regression may not."""
    objective = objective_for(tiny_model, kernel=kernel, regression_loss="ccc")
    features = tokenise(tiny_model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = objective.sentence_pass(features, LABELS)
    assert first.keys is not None
    plain = objective._mccl(first.embedding, LABELS, first.keys, LABELS)
    for part, expected in (("mccl", plain), ("regression", objective._regression(first.embedding, LABELS))):
        assert first.losses[part].dtype == torch.float32
        torch.testing.assert_close(first.losses[part], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "positions", "saliency"), list(itertools.product(STRATEGIES, POSITIONS, SALIENCIES))
)
def test_both_passes(
    strategy: str,
    positions: str,
    saliency: str,
    tiny_masked_lm_backbone: Path,
    tokenise: Tokenise,
) -> None:
    model = load_backbone(str(tiny_masked_lm_backbone))
    generator = load_masked_lm(str(tiny_masked_lm_backbone), model) if strategy == "mlm" else None
    config = CarlConfig(**SMALL, strategy=strategy, positions=positions, saliency=saliency, ratio=0.3)
    objective = CarlObjective(model, config, STATISTICS, generator).train()
    features = tokenise(model)
    first = backward(objective.sentence_pass(features, LABELS))
    assert all(part.isfinite() and part.ndim == 0 for part in first.losses.values())
    new, shift, perturbed, valid = objective._perturb(first)
    ids = features["input_ids"]
    expected_valid = valid_tokens(ids, features["attention_mask"], torch.arange(5))
    assert torch.equal(valid, expected_valid)
    assert perturbed.sum(1).tolist() == [math.ceil(0.3 * n - 1e-9) for n in valid.sum(1).tolist()]
    assert not perturbed[~valid].any()
    if strategy == "embedding":
        assert torch.equal(new, ids)
        assert shift is not None
        assert torch.equal(shift.norm(dim=-1) > 0, perturbed)
    else:
        assert shift is None
        assert torch.equal(new != ids, perturbed)
        assert torch.isin(new[perturbed], replaceable_tokens(model)).all()
    before = gradients(model)
    loss = objective.token_pass(first)
    assert loss.isfinite()
    assert loss > 0
    loss.backward()
    assert any(not torch.equal(grad, before[name]) for name, grad in gradients(model).items()), (
        "the encoder learns from PTD"
    )
    assert gradients(objective.detector).keys() == dict(objective.detector.named_parameters()).keys()
    assert all(grad.isfinite().all() for grad in gradients(objective).values())
    assert not word_embeddings(model)._forward_hooks
    if generator is not None:
        assert not gradients(generator)
        assert not generator.network.training


def test_saliency_decides_the_positions(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model, ratio=0.3)
    first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
    _, _, perturbed, valid = objective._perturb(first)
    assert torch.equal(perturbed, choose(gradient_norm(first.tap.gradient), valid, 0.3))
    objective.config.saliency = "grad_x_input"
    product = (first.tap.gradient * first.tap.embeddings).sum(-1).abs()
    assert torch.equal(objective._perturb(first)[2], choose(product, valid, 0.3))


def test_saliency_is_the_gradient_of_the_sentence_losses(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    """Along the gradient the loss must rise as fast as the gradient is long; keys and queue stay put."""
    objective, features = objective_for(tiny_model, regression_weight=0.3), tokenise(tiny_model)
    objective.queue.enqueue(torch.nn.functional.normalize(torch.randn(16, 12), dim=-1), torch.rand(16, 2))
    gradient = backward(objective.sentence_pass(features, LABELS)).tap.gradient
    direction = gradient / gradient.norm()

    def loss(distance: float) -> float:
        with torch.no_grad(), EmbeddingTap(word_embeddings(tiny_model), shift=direction * distance):
            losses = objective.sentence_pass(features, LABELS).losses
        return losses["mccl"].item() + 0.3 * losses["regression"].item()

    slope = (loss(0.02) - loss(-0.02)) / 0.04
    assert slope == pytest.approx(gradient.norm().item(), rel=0.02)


def test_token_pass_scores_the_perturbed_against_the_untouched_sentence(
    tiny_model: SentenceTransformer, tokenise: Tokenise, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, features = objective_for(tiny_model, ptd_weight=0.5), tokenise(tiny_model)
    first = backward(objective.sentence_pass(features, LABELS))
    fixed = objective._perturb(first)
    monkeypatch.setattr(objective, "_perturb", lambda _: fixed)
    new, _, perturbed, valid = fixed
    with torch.no_grad():
        tokens = tiny_model({**features, "input_ids": new})["token_embeddings"]
        probability = objective.detector(tokens, first.embedding).sigmoid()
    likelihood = torch.where(perturbed, probability, 1 - probability)[valid]
    torch.testing.assert_close(objective.token_pass(first).detach(), -0.5 * likelihood.log().mean())


def test_every_part_that_learns_gets_gradient_and_the_target_none(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model)
    first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
    objective.token_pass(first).backward()
    for name, p in objective.named_parameters():
        if in_target(name):
            assert not p.requires_grad
            assert p.grad is None
        elif "pooler" not in name:
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_beta_scales_what_reaches_the_encoder_and_not_the_head(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    features, reached = tokenise(tiny_model), {}
    for beta in (0.0, 0.25, 1.0):
        torch.manual_seed(1)
        objective = objective_for(tiny_model, regression_weight=beta)
        objective.zero_grad()
        objective.sentence_pass(features, LABELS).losses["regression"].backward()
        reached[beta] = gradients(tiny_model), gradients(objective.head)
    for name, whole in reached[1.0][0].items():
        torch.testing.assert_close(reached[0.25][0][name], 0.25 * whole, rtol=1e-4, atol=1e-8)
        assert (reached[0.0][0][name] == 0).all()
    assert any(grad.abs().sum() > 0 for grad in reached[1.0][0].values())
    for name, whole in reached[1.0][1].items():
        assert whole.abs().sum() > 0
        torch.testing.assert_close(reached[0.25][1][name], whole)
        torch.testing.assert_close(reached[0.0][1][name], whole)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("regression_loss", ["mse", "ccc"])
def test_a_batch_without_ratings_moves_nothing(
    kernel: str, regression_loss: str, tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, kernel=kernel, regression_loss=regression_loss)
    first = backward(objective.sentence_pass(tokenise(tiny_model), torch.full((6, 2), NAN)))
    assert all(part.item() == 0 for part in first.losses.values())
    assert all((grad == 0).all() for grad in gradients(objective).values())
    assert objective.token_pass(first).isfinite()


@pytest.mark.parametrize("strategy", ["hotflip", "embedding", "random"])
def test_a_batch_with_nothing_to_perturb(
    strategy: str, tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, strategy=strategy)
    first = backward(objective.sentence_pass(tokenise(tiny_model, ["", "☃"]), LABELS[:2]))
    loss = objective.token_pass(first)
    loss.backward()
    assert loss.item() == 0
    assert all(grad.isfinite().all() for grad in gradients(objective).values())


def test_an_unrated_sentence_does_not_pull_on_the_encoder(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    labels = LABELS.clone()
    labels[2] = NAN
    first = backward(objective_for(tiny_model).sentence_pass(tokenise(tiny_model), labels))
    saliency = gradient_norm(first.tap.gradient)
    assert (saliency[2] == 0).all()
    assert (saliency[[0, 1, 3, 4, 5], 1] > 0).all()


def test_without_mccl_there_is_no_target_and_without_ptd_no_detector(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, mccl_weight=0, ptd_weight=0)
    assert not any(name.startswith(("target", "projector", "detector")) for name in objective.state_dict())
    first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
    assert set(first.losses) == {"regression"}
    objective.remember(first)
    objective.move_target()


def test_saliency_without_mccl_comes_from_the_regression(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, mccl_weight=0)
    first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
    assert gradient_norm(first.tap.gradient).max() > 0
    assert objective.token_pass(first).isfinite()


@pytest.mark.parametrize("with_gradient", [True, False])
def test_evaluation_leaves_queue_and_target_alone(
    with_gradient: bool, tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model).train()  # as the trainer leaves it in evaluation
    features = tokenise(tiny_model)
    objective.remember(objective.sentence_pass(features, LABELS))
    before = copy.deepcopy(objective.state_dict())
    with torch.set_grad_enabled(with_gradient):
        losses = objective([features], LABELS)
    assert set(losses) == {"mccl", "regression"}
    for name, value in objective.state_dict().items():
        assert torch.equal(value.nan_to_num(9.0), before[name].nan_to_num(9.0)), name


def test_only_remember_enqueues_and_only_once(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model)
    first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
    objective.token_pass(first).backward()
    assert int(objective.queue.count) == 0
    objective.remember(first)
    keys, labels = objective.queue.contents()
    assert first.keys is not None
    assert torch.equal(keys, first.keys)
    assert torch.equal(labels.nan_to_num(9.0), LABELS.nan_to_num(9.0))
    second = objective.sentence_pass(tokenise(tiny_model), LABELS)
    assert int(objective.queue.count) == 6
    assert second.keys is not None
    assert len(second.keys) == 6, "what is remembered are the batch's keys, not the queue's again"


def test_no_queue(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model, queue_size=0)
    first = backward(objective.sentence_pass(tokenise(tiny_model), LABELS))
    objective.remember(first)
    assert objective.queue.contents()[0].shape == (0, 12)
    again = objective.sentence_pass(tokenise(tiny_model), LABELS)
    torch.testing.assert_close(again.losses["mccl"], first.losses["mccl"])


def test_target_starts_equal_and_follows_the_formula(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, momentum=0.9)
    pairs = [
        (online, dict(objective.target[part].named_parameters())[name])
        for part, network in (
            ("encoder", tiny_model),
            ("projector", objective.projector),
            ("head", objective.head),
        )
        for name, online in network.named_parameters()
    ]
    # (objective_for gives the online head other weights than it began with.)
    assert all(torch.equal(online, target) for online, target in pairs[:-2])
    assert not any(online.data_ptr() == target.data_ptr() for online, target in pairs)
    expected = [target.double() for _, target in pairs]
    for _ in range(3):
        with torch.no_grad():
            for online, _ in pairs:
                online.add_(torch.randn_like(online) * 0.1)
        expected = [0.9 * e + 0.1 * online.double() for e, (online, _) in zip(expected, pairs, strict=True)]
        objective.move_target()
    for (_, target), value in zip(pairs, expected, strict=True):
        torch.testing.assert_close(target.double(), value.detach(), rtol=0, atol=1e-6)


def test_soft_labels_trust_the_target_as_far_as_it_has_moved(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    objective = objective_for(tiny_model, soft_labels=0.5, momentum=0.9)
    features = tokenise(tiny_model)
    first = objective.sentence_pass(features, LABELS)
    torch.testing.assert_close(
        first.labels, LABELS, equal_nan=True, msg="a target that has not moved knows nothing"
    )
    for _ in range(3):
        objective.move_target()
    encoder, head = objective.target["encoder"], objective.target["head"]
    predicted = head(encoder(dict(features))["sentence_embedding"]).detach()
    share = 0.5 * (1 - 0.9**3)
    soft = (1 - share) * LABELS + share * predicted
    second = objective.sentence_pass(features, LABELS)
    torch.testing.assert_close(second.labels, soft, equal_nan=True)
    expected = mean_squared_error(objective.head(second.embedding), soft, STATISTICS.std)
    torch.testing.assert_close(second.losses["regression"].detach(), expected.detach())
    objective.remember(second)
    torch.testing.assert_close(objective.queue.contents()[1], soft, equal_nan=True)
    with torch.no_grad():
        assert torch.equal(
            objective.sentence_pass(features, LABELS).labels.nan_to_num(9), LABELS.nan_to_num(9)
        ), "evaluation is against the ratings"


def test_target_is_fp32_and_keys_have_no_dropout(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model).train()
    assert {p.dtype for p in objective.target.parameters()} == {torch.float32}
    passes = [objective.sentence_pass(tokenise(tiny_model), LABELS) for _ in range(2)]
    assert torch.equal(passes[0].keys, passes[1].keys)
    assert not torch.equal(passes[0].embedding, passes[1].embedding), "the online network has"


def test_a_few_steps_lower_every_loss(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    objective = objective_for(tiny_model, queue_size=0, momentum=0.9, strategy="random", positions="random")
    features, labels = tokenise(tiny_model), LABELS.nan_to_num(0.0)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    history: list[dict[str, float]] = []
    for _ in range(40):
        first = backward(objective.sentence_pass(features, labels))
        detection = objective.token_pass(first)
        detection.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.move_target()
        history.append({"ptd": detection.item()} | {name: part.item() for name, part in first.losses.items()})
    for name in ("mccl", "regression", "ptd"):
        start, end = (sum(step[name] for step in part) / 5 for part in (history[:5], history[-5:]))
        assert end < start, name
