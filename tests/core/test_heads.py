"""The networks on top of the encoder."""

import pytest
import torch
import torch.nn.functional as F

from carl.heads import Projector, TokenDetectionHead, ValenceArousalHead, encoder_gradient_scale

MEAN, STD = torch.tensor([0.1, -0.4]), torch.tensor([0.3, 0.05])


@pytest.mark.parametrize("normalised", [True, False])
def test_affect_head_is_the_affine_map_that_is_saved(normalised: bool) -> None:
    head = ValenceArousalHead(12, MEAN, STD, normalised=normalised)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.normal_(head.linear.bias)
    weight, bias = head.as_affine()
    embedding = F.normalize(torch.randn(5, 12), dim=-1)
    expected = [
        [sum(w * e for w, e in zip(weight[d].tolist(), row, strict=True)) + bias[d].item() for d in range(2)]
        for row in embedding.tolist()
    ]
    torch.testing.assert_close(head(embedding), torch.tensor(expected), rtol=0, atol=1e-5)
    # Standardised units: undone, the head is its linear layer on embeddings of unit variance.
    gain = 12**0.5 if normalised else 1.0
    torch.testing.assert_close((head(embedding) - MEAN) / STD, head.linear(embedding * gain))


def test_affect_head_predicts_the_label_mean_before_training() -> None:
    head = ValenceArousalHead(12, MEAN, STD, normalised=True)
    torch.testing.assert_close(head(torch.randn(4, 12)), MEAN.expand(4, 2), rtol=0, atol=0)


def test_affect_head_keeps_its_own_copy_of_the_statistics() -> None:
    mean = MEAN.clone()
    head = ValenceArousalHead(3, mean, STD, normalised=True)
    mean += 1
    assert torch.equal(head.mean, MEAN)
    assert {"mean", "std"} <= set(head.state_dict())


def test_token_detection_is_a_linear_layer_over_the_concatenation() -> None:
    head = TokenDetectionHead(6, 4)
    tokens, sentence = torch.randn(3, 5, 6), torch.randn(3, 4)
    joint = torch.nn.Linear(10, 6)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([head.token.weight, head.sentence.weight], dim=1))
        joint.bias.copy_(head.token.bias)
    for b in range(3):
        for t in range(5):
            normalised = (sentence[b] - sentence[b].mean()) / (sentence[b].var(correction=0) + 1e-5).sqrt()
            expected = head.output(F.gelu(joint(torch.cat([tokens[b, t], normalised]))))[0]
            torch.testing.assert_close(head(tokens, sentence)[b, t], expected)


def test_projection_has_unit_length_and_ignores_the_length_of_the_embedding() -> None:
    projector = Projector(8, 5)
    embedding = torch.randn(4, 8)
    projected = projector(embedding)
    assert projected.shape == (4, 5)
    torch.testing.assert_close(projected.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(projector(embedding * 30), projected, rtol=0, atol=1e-4)


def test_what_the_losses_see_is_fp32_under_autocast() -> None:
    embedding = F.normalize(torch.randn(4, 16), dim=-1)
    head, projector = ValenceArousalHead(16, MEAN, STD, normalised=True), Projector(16, 8)
    torch.nn.init.normal_(head.linear.weight)
    plain = [head(embedding), projector(embedding)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = [head(embedding), projector(embedding)]
        logits = TokenDetectionHead(16, 16)(torch.randn(4, 3, 16), embedding)
    assert logits.dtype == torch.float32
    for a, b in zip(plain, mixed, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.5])
def test_encoder_gradient_scale(scale: float) -> None:
    embedding = torch.randn(3, 4, requires_grad=True)
    direction = torch.randn(3, 4)
    scaled = encoder_gradient_scale(embedding, scale)
    assert torch.equal(scaled, embedding)
    (scaled * direction).sum().backward()
    torch.testing.assert_close(embedding.grad, scale * direction)
