"""Loaded models and batches for the tests of the mathematical core."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from carl.backbone import load_backbone

SENTENCES = [
    "we loved the wonderful party!",
    "they hated the awful storm",
    "my brother quietly kept the plain letter.",
    "nobody saw the strange dog again",
    "her friend wildly praised the lovely song!",
    "the child suddenly feared the dog.",
]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def tiny_model(tiny_backbone: Path) -> SentenceTransformer:
    """A fresh tiny encoder in eval mode."""
    return load_backbone(str(tiny_backbone)).eval()


@pytest.fixture
def tokenise() -> Callable[..., dict[str, Tensor]]:
    """``tokenise(model, sentences)`` -> padded features; its default is six short sentences of unlike length."""

    def features(model: SentenceTransformer, sentences: list[str] = SENTENCES) -> dict[str, Tensor]:
        encoded = model.tokenizer(sentences, padding=True, return_tensors="pt")
        return dict(encoded)

    return features
