"""Gradients at the word embeddings against finite differences and other independent ways to them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from carl.affect import gaussian_affinity
from carl.backbone import special_tokens, word_embeddings
from carl.losses.mccl import weighted_info_nce
from carl.perturbation import valid_tokens
from carl.saliency import EmbeddingTap, gradient_norm, gradient_times_input, integrated_gradients

Tokenise = Callable[..., dict[str, Tensor]]
Loss = Callable[[Tensor | None], tuple[Tensor, EmbeddingTap]]


@pytest.fixture
def double_loss(tiny_model: SentenceTransformer, tokenise: Tokenise) -> tuple[dict[str, Tensor], Loss]:
    """The batch and its MCCL in float64, as a function of a shift of the word embeddings."""
    model = tiny_model.double()
    features = tokenise(model)
    keys = F.normalize(torch.randn(10, 32, dtype=torch.float64), dim=-1)
    affinity = gaussian_affinity(torch.rand(6, 2), torch.rand(10, 2), torch.ones(2), 0.3).double()

    def loss(shift: Tensor | None) -> tuple[Tensor, EmbeddingTap]:
        with EmbeddingTap(word_embeddings(model), shift) as tap:
            embedding = model(dict(features))["sentence_embedding"]
        return weighted_info_nce(embedding, keys, affinity, 0.1), tap

    return features, loss


def test_gradient_equals_finite_differences(double_loss: tuple[dict[str, Tensor], Loss]) -> None:
    features, loss = double_loss
    value, tap = loss(None)
    value.backward()
    gradient = tap.gradient
    shape = gradient.shape
    # Every entry of one token (so that its saliency can be checked), and entries drawn all over the batch.
    tokens = [(0, 2)]
    entries = [(b, t, h) for b, t in tokens for h in range(shape[2])]
    entries += [tuple(int(torch.randint(n, ())) for n in shape) for _ in range(24)]
    numeric = {}
    for entry in entries:
        shift = torch.zeros(shape, dtype=torch.float64)
        shift[entry] = 1e-5
        with torch.no_grad():
            numeric[entry] = (loss(shift)[0] - loss(-shift)[0]).item() / 2e-5
        assert gradient[entry].item() == pytest.approx(numeric[entry], rel=1e-5, abs=1e-9)
    for b, t in tokens:
        norm = sum(numeric[b, t, h] ** 2 for h in range(shape[2])) ** 0.5
        assert norm > 1e-4, "the test would say nothing"
        assert gradient_norm(gradient)[b, t].item() == pytest.approx(norm, rel=1e-4)
    padding = features["attention_mask"] == 0
    assert padding.any()
    assert gradient_norm(gradient)[padding].max() < 1e-12


def test_gradient_adds_up_to_that_of_the_embedding_matrix(
    tiny_model: SentenceTransformer, tokenise: Tokenise
) -> None:
    """In train mode too: the gradient caught is that of this very forward, dropout included."""
    tiny_model.train()
    features, layer = tokenise(tiny_model), word_embeddings(tiny_model)
    with EmbeddingTap(layer) as tap:
        embedding = tiny_model(dict(features))["sentence_embedding"]
    (embedding * torch.randn_like(embedding)).sum().backward()
    expected = torch.zeros_like(layer.weight)
    for row, ids in enumerate(features["input_ids"].tolist()):
        for position, token in enumerate(ids):
            if token != layer.padding_idx:
                expected[token] += tap.gradient[row, position]
    assert layer.weight.grad is not None
    assert expected.abs().max() > 0
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0, atol=1e-6)


def test_saliency_costs_no_backward_of_its_own(
    tiny_model: SentenceTransformer, tokenise: Tokenise, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    with EmbeddingTap(word_embeddings(tiny_model)) as tap:
        embedding = tiny_model(tokenise(tiny_model))["sentence_embedding"]
    embedding.register_hook(lambda gradient: passes.append(1))
    with pytest.raises(RuntimeError, match="no gradient yet"):
        _ = tap.gradient
    embedding.square().sum().backward()
    for name in ("grad", "backward"):
        monkeypatch.setattr(torch.autograd, name, lambda *a, **k: pytest.fail("a second pass"))
    assert gradient_norm(tap.gradient).shape == tap.embeddings.shape[:2]
    assert passes == [1]


def test_tap_before_a_forward() -> None:
    with pytest.raises(RuntimeError, match="no gradient yet"):
        _ = EmbeddingTap(torch.nn.Embedding(3, 2)).gradient


def test_tap_is_removed_after_the_context_even_after_an_error(tiny_model: SentenceTransformer) -> None:
    layer = word_embeddings(tiny_model)
    ids = torch.tensor([[8, 9]])
    plain = layer(ids).detach()
    with EmbeddingTap(layer, shift=torch.ones(1, 2, 32)) as tap:
        torch.testing.assert_close(layer(ids).detach(), plain + 1)
    caught = tap.embeddings
    assert torch.equal(layer(ids), plain)
    assert tap.embeddings is caught, "later forwards are not caught"
    with pytest.raises(KeyError), EmbeddingTap(layer, shift=torch.ones(1, 2, 32)):
        raise KeyError
    assert torch.equal(layer(ids), plain)
    assert not layer._forward_hooks


def test_tap_leaves_the_output_as_it_is(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    features = tokenise(tiny_model)
    plain = tiny_model(dict(features))["sentence_embedding"]
    with EmbeddingTap(word_embeddings(tiny_model)):
        assert torch.equal(tiny_model(dict(features))["sentence_embedding"], plain)


def test_tap_works_on_frozen_embeddings(tiny_model: SentenceTransformer, tokenise: Tokenise) -> None:
    features = tokenise(tiny_model)
    direction = torch.randn(6, 32)
    gradients = []
    for frozen in (False, True):
        word_embeddings(tiny_model).weight.requires_grad_(not frozen)
        with EmbeddingTap(word_embeddings(tiny_model)) as tap:
            embedding = tiny_model(dict(features))["sentence_embedding"]
        (embedding * direction).sum().backward()
        gradients.append(tap.gradient.clone())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[1].abs().sum() > 0


def test_saliency_measures_equal_loops() -> None:
    gradient, embeddings = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    norm, product = gradient_norm(gradient), gradient_times_input(gradient, embeddings)
    for b in range(2):
        for t in range(3):
            g, e = gradient[b, t].tolist(), embeddings[b, t].tolist()
            assert norm[b, t].item() == pytest.approx(sum(x * x for x in g) ** 0.5, rel=1e-5)
            assert product[b, t].item() == pytest.approx(
                sum(x * y for x, y in zip(g, e, strict=True)), abs=1e-5
            )
    assert gradient_norm(gradient.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("sentence", ["the child suddenly feared the dog!", "awful"])
def test_integrated_gradients_are_complete(tiny_model: SentenceTransformer, sentence: str) -> None:
    features = dict(tiny_model.tokenizer([sentence], return_tensors="pt"))
    head = torch.nn.Linear(32, 2)
    movable = valid_tokens(features["input_ids"], features["attention_mask"], special_tokens(tiny_model))
    mask = tiny_model.tokenizer.mask_token_id

    def forward(batch: dict[str, Tensor]) -> Tensor:
        return head(tiny_model(dict(batch))["sentence_embedding"])

    contributions = integrated_gradients(
        forward, features, word_embeddings(tiny_model), mask, movable, steps=32
    )
    blank = {**features, "input_ids": features["input_ids"].masked_fill(movable, mask)}
    with torch.no_grad():
        difference = (forward(features) - forward(blank))[0]
    assert contributions.shape == (features["input_ids"].shape[1], 2)
    assert difference.abs().max() > 0.02, "the test would say nothing"
    torch.testing.assert_close(contributions.sum(0), difference, rtol=0, atol=1e-4)
    assert (contributions[~movable[0]] == 0).all()
    assert (contributions[movable[0]] != 0).all()


def test_integrated_gradients_leave_tokens_that_may_not_move(tiny_model: SentenceTransformer) -> None:
    features = dict(tiny_model.tokenizer(["we loved the lovely song"], return_tensors="pt"))
    movable = torch.zeros_like(features["input_ids"]).bool()
    movable[0, 2] = True

    def forward(batch: dict[str, Tensor]) -> Tensor:
        return tiny_model(dict(batch))["sentence_embedding"][:, :3]

    mask = tiny_model.tokenizer.mask_token_id
    contributions = integrated_gradients(
        forward, features, word_embeddings(tiny_model), mask, movable, steps=32
    )
    blank = {**features, "input_ids": features["input_ids"].masked_fill(movable, mask)}
    with torch.no_grad():
        torch.testing.assert_close(
            contributions[2], (forward(features) - forward(blank))[0], rtol=0, atol=1e-4
        )
    assert (contributions[[0, 1, 3, 4, 5, 6]] == 0).all()


def test_integrated_gradients_of_a_linear_model_are_exact() -> None:
    """f = sum_t w_t . e_t: token t contributes w_t . (e_t - e_blank), whatever the number of steps."""
    layer = torch.nn.Embedding(9, 4)
    weight = torch.randn(3, 4)
    ids = torch.tensor([[5, 6, 7]])
    contributions = integrated_gradients(
        lambda batch: (layer(batch["input_ids"]) * weight).sum(-1).sum(-1, keepdim=True),
        {"input_ids": ids},
        layer,
        2,
        torch.tensor([[True, False, True]]),
        steps=3,
    )
    expected = ((layer.weight[ids[0]] - layer.weight[2]) * weight).sum(-1).detach()
    expected[1] = 0
    torch.testing.assert_close(contributions[:, 0], expected)
