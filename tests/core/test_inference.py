"""Batched inference: the same vectors whatever the batches and the runtime, in the order of the texts."""

import sys
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from sentence_transformers import SentenceTransformer

from carl import inference
from carl.backbone import is_normalised
from carl.errors import CarlError
from carl.inference import Batch, BatchEncoder, OpenVinoRuntime, TorchRuntime

TEXTS = [
    "the dog",
    "",
    "we loved the wonderful party!",
    "awful storm " * 30,
    "the dog",
    "😊",
    "nobody saw the child",
]


class Recording:
    """Keeps the batches; a text's vector is its number of tokens."""

    name = "recording"

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def fill(self, batches: Iterable[Batch], vectors: npt.NDArray[np.float32]) -> None:
        for batch in batches:
            self.batches.append(batch)
            vectors[batch.rows] = batch.mask.sum(axis=1, keepdims=True)


def test_the_vectors_are_those_of_sentence_transformers(tiny_model: SentenceTransformer) -> None:
    expected = tiny_model.encode(TEXTS, show_progress_bar=False)
    found = BatchEncoder(tiny_model, TorchRuntime(tiny_model))(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_openvino_computes_what_torch_does(tiny_model: SentenceTransformer) -> None:
    runtime = OpenVinoRuntime(tiny_model, threads=2)
    encode = BatchEncoder(tiny_model, runtime, budget=64)
    expected = tiny_model.encode(TEXTS, show_progress_bar=False)
    cosine = (encode(TEXTS) * expected).sum(1) / np.linalg.norm(expected, axis=1) ** 2
    assert cosine.min() > 0.999  # bf16 where the processor has it
    assert runtime.name in ("openvino bf16", "openvino fp32")
    np.testing.assert_array_equal(encode(TEXTS), encode(TEXTS))


def test_each_text_gets_its_own_vector_across_chunks(
    tiny_model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "CHUNK", 3)
    counts = [len(tiny_model.tokenizer(text)["input_ids"]) for text in TEXTS]
    found = BatchEncoder(tiny_model, Recording(), budget=20)(TEXTS)
    assert found[:, 0].tolist() == [min(count, tiny_model.max_seq_length) for count in counts]


@pytest.mark.parametrize("budget", [1, 16, 64])
def test_batches_keep_to_the_budget_and_hold_similar_lengths(
    tiny_model: SentenceTransformer, budget: int
) -> None:
    runtime = Recording()
    BatchEncoder(tiny_model, runtime, budget)(TEXTS)
    assert all(batch.ids.size <= budget or len(batch.rows) == 1 for batch in runtime.batches)
    longest = [batch.mask.sum(axis=1).max() for batch in runtime.batches]
    assert longest == sorted(longest, reverse=True)
    assert sorted(row for batch in runtime.batches for row in batch.rows) == list(range(len(TEXTS)))


def test_a_long_text_is_read_to_its_end_in_windows(tiny_model: SentenceTransformer) -> None:
    limit = tiny_model.max_seq_length
    words = "we loved the wonderful party they hated the awful storm".split()
    long = " ".join(words[i * i % len(words)] for i in range(3 * limit))
    ids = tiny_model.tokenizer(long, add_special_tokens=False, verbose=False)["input_ids"]
    expected, total = np.zeros(tiny_model.get_embedding_dimension()), 0
    for start in range(0, len(ids), limit - 2):  # by hand: two special tokens a window
        window = ids[start : start + limit - 2]
        vector = tiny_model.encode(tiny_model.tokenizer.decode(window), show_progress_bar=False)
        expected += vector * (len(window) + 2)
        total += len(window) + 2
    expected /= total
    if is_normalised(tiny_model):
        expected /= np.linalg.norm(expected)
    found = BatchEncoder(tiny_model, TorchRuntime(tiny_model))(["short", long, "also short"])
    np.testing.assert_allclose(found[1], expected, atol=1e-4)
    np.testing.assert_allclose(found[2], tiny_model.encode("also short"), atol=1e-5)


def test_no_texts_no_vectors(tiny_model: SentenceTransformer) -> None:
    assert BatchEncoder(tiny_model, Recording())([]).shape == (0, tiny_model.get_embedding_dimension())


def test_without_openvino_the_remedy_is_named(
    tiny_model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(CarlError, match=r"pip install carl-affect\[openvino\]"):
        OpenVinoRuntime(tiny_model)
