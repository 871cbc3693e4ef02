"""Encoding many texts fast: similar lengths together, a bounded number of tokens a batch, in the runtime of choice."""

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from carl.backbone import is_normalised
from carl.errors import CarlError
from carl.precision import autocast

#: Texts that are tokenised and sorted at a time: memory does not grow with the number of texts.
CHUNK = 8192
CHARACTERS = 1 << 22
#: Token slots of a batch, padding included: enough to keep the processor busy, few enough to stay in its cache.
BUDGET = 1024

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Texts of similar length.

    Attributes:
        rows: (b,) where the texts stand among all.
        ids: (b, t) tokens, padded.
        mask: (b, t) 1 for a token, 0 for padding.
    """

    rows: npt.NDArray[np.intp]
    ids: Ids
    mask: Ids


class Runtime(Protocol):
    """What computes the embeddings of batches."""

    name: str

    def fill(self, batches: Iterable[Batch], vectors: Vectors) -> None:
        """Write the embedding of each text of ``batches`` into its row of ``vectors`` (n, d)."""


class TorchRuntime:
    """The encoder as it is.

    Args:
        encoder: on any device.
        precision: ``fp32`` or ``bf16`` (autocast).
    """

    def __init__(self, encoder: SentenceTransformer, precision: str = "fp32") -> None:
        self.encoder, self.precision = encoder.eval(), precision
        self.name = f"torch {precision}"

    def fill(self, batches: Iterable[Batch], vectors: Vectors) -> None:
        """See ``Runtime``."""
        device = self.encoder.device
        with torch.inference_mode(), autocast(self.precision, device):
            for batch in batches:
                features: dict[str, Any] = {
                    "input_ids": torch.from_numpy(batch.ids).to(device),
                    "attention_mask": torch.from_numpy(batch.mask).to(device),
                }
                vectors[batch.rows] = self.encoder(features)["sentence_embedding"].float().cpu().numpy()


class OpenVinoRuntime:
    """The encoder compiled by OpenVINO, in the arithmetic that it finds fastest on this processor (bf16 where that is
    built in), one stream a thread.

    Args:
        encoder: whose pipeline ``torch.export`` can follow; it is left as it is.
        threads: None for as many as torch uses.

    Raises:
        CarlError: OpenVINO is not installed.
    """

    def __init__(self, encoder: SentenceTransformer, threads: int | None = None) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise CarlError("the openvino backend is not installed; run `pip install carl-affect[openvino]`")
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own future
            model = openvino.convert_model(exported(encoder))
        threads = threads or torch.get_num_threads()
        self._jobs = threads
        self._compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
                "PERFORMANCE_HINT": "THROUGHPUT",
                "PERFORMANCE_HINT_NUM_REQUESTS": threads,
            },
        )
        kind = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.name = f"openvino {'fp32' if kind == 'f32' else kind}"

    def fill(self, batches: Iterable[Batch], vectors: Vectors) -> None:
        """See ``Runtime``."""
        import openvino

        def keep(request: Any, rows: npt.NDArray[np.intp]) -> None:
            vectors[rows] = request.get_output_tensor(0).data

        queue = openvino.AsyncInferQueue(self._compiled, self._jobs)
        queue.set_callback(keep)
        for batch in batches:
            queue.start_async([batch.ids, batch.mask], batch.rows)
        queue.wait_all()


class _Pipeline(nn.Module):
    """A sentence-transformers pipeline as a function of tensors."""

    def __init__(self, encoder: SentenceTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        embedding: Tensor = self.encoder(features)["sentence_embedding"]
        return embedding


def exported(encoder: SentenceTransformer) -> torch.export.ExportedProgram:
    """The whole pipeline from ``input_ids`` and ``attention_mask`` (b, t) to embeddings (b, d), b and t free."""
    ids = torch.arange(1, 25).reshape(2, 12) % 100
    longest = encoder.max_seq_length or 512
    free = {
        0: torch.export.Dim("batch", min=1, max=1 << 16),
        1: torch.export.Dim("tokens", min=2, max=longest),
    }
    with torch.no_grad():
        return torch.export.export(
            _Pipeline(encoder.eval()), (ids, torch.ones_like(ids)), dynamic_shapes=(free, free)
        )


BACKENDS: dict[str, Callable[[SentenceTransformer], Runtime]] = {
    "torch": TorchRuntime,
    "torch-bf16": lambda encoder: TorchRuntime(encoder, "bf16"),
    "openvino": OpenVinoRuntime,
}
"""Runtimes by name."""


class BatchEncoder:
    """Embeds texts in the runtime given. A text longer than the encoder reads is embedded window by window; its vector
    is the mean of theirs, weighted by their tokens.

    Args:
        encoder: whose tokenizer and reading limit are used.
        runtime: computes the embeddings.
        budget: token slots of a batch, padding included; a single longer text is a batch of its own.
    """

    def __init__(self, encoder: SentenceTransformer, runtime: Runtime, budget: int = BUDGET) -> None:
        self.runtime, self._budget = runtime, budget
        self._tokenizer, self._limit = encoder.tokenizer, encoder.max_seq_length
        self._dim, self._unit = encoder.get_embedding_dimension(), is_normalised(encoder)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """(n, d) embeddings of n texts, in their order."""
        vectors = np.empty((len(texts), self._dim), dtype=np.float32)
        start = 0
        while start < len(texts):
            end, characters = start, 0
            while end < min(start + CHUNK, len(texts)) and (characters < CHARACTERS or end == start):
                characters += len(texts[end])
                end += 1
            vectors[start:end] = self._embed(texts[start:end])
            start = end
        return vectors

    def _embed(self, texts: Sequence[str]) -> Vectors:
        windows, text_of = self._windows(texts)
        vectors = np.empty((len(windows), self._dim), dtype=np.float32)
        self.runtime.fill(self._batches(windows), vectors)
        if len(windows) == len(texts):
            return vectors
        lengths = np.array([len(window) for window in windows], dtype=np.float32)
        sums = np.zeros((len(texts), self._dim), dtype=np.float32)
        np.add.at(sums, text_of, vectors * lengths[:, None])
        sums /= np.bincount(text_of, lengths, len(texts))[:, None]
        if self._unit:
            sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return sums

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[int]], npt.NDArray[np.intp]]:
        """Tokens of every window, and the text that each is of."""
        encoded = self._tokenizer(
            [_well_formed(text) for text in texts],
            truncation=bool(self._limit),
            max_length=self._limit,
            return_overflowing_tokens=bool(self._limit),
            return_attention_mask=False,
            verbose=False,
        )
        text_of = encoded["overflow_to_sample_mapping"] if self._limit else range(len(texts))
        return encoded["input_ids"], np.array(text_of, dtype=np.intp)

    def _batches(self, tokens: list[list[int]]) -> Iterator[Batch]:
        lengths = np.array([len(ids) for ids in tokens])
        order = np.argsort(-lengths, kind="stable")  # longest first: what memory will be needed shows at once
        start = 0
        while start < len(order):
            longest = max(2, int(lengths[order[start]]))
            rows = order[start : start + max(1, self._budget // longest)]
            ids = np.full((len(rows), longest), self._tokenizer.pad_token_id or 0, dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(rows):
                ids[row, : lengths[index]] = tokens[index]
                mask[row, : lengths[index]] = 1
            yield Batch(rows, ids, mask)
            start += len(rows)


def _well_formed(text: str) -> str:
    """Half a surrogate pair, which no tokenizer takes, becomes the replacement character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
