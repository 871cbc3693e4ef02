"""Choosing between fp32 and bf16."""

import pytest
import torch
from sentence_transformers import SentenceTransformer

from carl import precision
from carl.precision import autocast, choose_precision


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_an_explicit_precision_is_taken(wanted: str, tiny_model: SentenceTransformer) -> None:
    assert choose_precision(wanted, tiny_model)[0] == wanted


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_auto_takes_what_is_clearly_faster(
    bf16: float, chosen: str, tiny_model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_step_seconds", lambda m, f, name: {"fp32": 1.0, "bf16": bf16}[name])
    assert choose_precision("auto", tiny_model)[0] == chosen


def test_auto_measures_and_leaves_no_trace(tiny_model: SentenceTransformer) -> None:
    """On an encoder with few words too."""
    tiny_model.train()
    weights = [p.clone() for p in tiny_model.parameters()]
    state = torch.get_rng_state()
    chosen, reason = choose_precision("auto", tiny_model)
    assert chosen in ("fp32", "bf16")
    assert "times as fast" in reason
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny_model.training
    assert all(p.grad is None for p in tiny_model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, tiny_model.parameters(), strict=True))


def test_autocast() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.randn(1, 2)
    with autocast("bf16", torch.device("cpu")):
        assert layer(x).dtype == torch.bfloat16
    with autocast("fp32", torch.device("cpu")):
        assert layer(x).dtype == torch.float32
    assert layer.weight.dtype == torch.float32
