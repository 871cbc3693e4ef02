"""The trained model: an encoder with a valence-arousal head beside it."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from carl.backbone import load_backbone, special_tokens, word_embeddings
from carl.calibration import Calibration
from carl.checkpoint import staging_folder
from carl.delta import apply, difference
from carl.errors import CarlError, UsageError
from carl.inference import BACKENDS, BatchEncoder, Runtime
from carl.perturbation import valid_tokens
from carl.saliency import integrated_gradients

logger = logging.getLogger(__name__)

#: Version of the files in ``affect/``; a reader refuses what is newer than itself.
FORMAT = 1
#: The model that comes with the package.
RELEASED = "carl-minilm"


@dataclass(frozen=True)
class TokenSaliency:
    """One token of an explained text.

    Attributes:
        token: the piece of the text it stands for.
        start: index of its first character in the text.
        end: index behind its last.
        valence: its contribution to the predicted valence; the contributions of all tokens add up to
            prediction minus ``Explanation.baseline``.
        arousal: likewise.
    """

    token: str
    start: int
    end: int
    valence: float
    arousal: float

    @property
    def saliency(self) -> float:
        """Length of the contribution, >= 0."""
        return float(np.hypot(self.valence, self.arousal))


@dataclass(frozen=True)
class Explanation:
    """What in a text carries its affect.

    Attributes:
        text: as given.
        valence: predicted, in [-1, 1].
        arousal: likewise.
        tokens: in the order of the text.
        baseline: (valence, arousal) that the model gives to the text with every token masked.
        truncated: whether the text was longer than the encoder reads.
    """

    text: str
    valence: float
    arousal: float
    tokens: tuple[TokenSaliency, ...]
    baseline: tuple[float, float]
    truncated: bool


@dataclass(frozen=True)
class EmotionHead:
    """Multinomial logistic regression on the embeddings.

    Attributes:
        names: of the k emotions.
        weight: (k, d).
        bias: (k,).
    """

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor


class AffectEncoder:
    """Sentence embeddings in which affect counts, and the valence and arousal read off them.

    Args:
        encoder: any sentence-transformers pipeline.
        weight: (2, d) of the affine valence-arousal head.
        bias: (2,).
        card: what to say of the model in its ``affect/config.json``: backbone, data, scores.
        backend: what computes the embeddings; see ``carl.inference.BACKENDS``.
        calibration: what the predictions are worth, if known.
        emotion: names the emotion, if one was trained.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        weight: Tensor,
        bias: Tensor,
        card: dict[str, Any] | None = None,
        backend: str = "torch",
        calibration: Calibration | None = None,
        emotion: EmotionHead | None = None,
    ) -> None:
        dim = encoder.get_embedding_dimension()
        if tuple(weight.shape) != (2, dim) or tuple(bias.shape) != (2,):
            raise CarlError(
                f"the valence-arousal head has shapes {tuple(weight.shape)} and {tuple(bias.shape)}, "
                f"but the encoder needs (2, {dim}) and (2,)"
            )
        self.encoder = encoder.eval()
        self.weight = weight.detach().float().to(encoder.device)
        self.bias = bias.detach().float().to(encoder.device)
        self.card = dict(card or {})
        self.calibration, self.emotion = calibration, emotion
        self._encode = BatchEncoder(encoder, _runtime(backend)(encoder))

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str] = RELEASED, device: str | None = None, backend: str = "torch"
    ) -> Self:
        """Load a folder written by ``save_pretrained``, ``save_delta`` or ``carl train``.

        Args:
            path: the folder, or ``carl-minilm``, the model that comes with the package.
            device: such as ``cpu`` or ``cuda``; None takes the best at hand.
            backend: ``torch``, ``torch-bf16`` (half the time where the processor has bf16) or ``openvino`` (a third, on
                any processor; compiles for some seconds first).

        Raises:
            CarlError: if the folder is missing, holds no valence-arousal head, is damaged, or was written by a newer
                version.
            UsageError: an unknown backend.
        """
        _runtime(backend)  # before anything is read
        folder = released_folder() if str(path) == RELEASED else Path(path)
        config_path, head_path = folder / "affect" / "config.json", folder / "affect" / "head.safetensors"
        if not folder.is_dir():
            raise CarlError(f"{folder}: no such model folder; train one with `carl train --output {folder}`")
        if not config_path.is_file() or not head_path.is_file():
            raise CarlError(
                f"{folder}: holds no valence-arousal head (affect/ is missing); train one with `carl train`"
            )
        try:
            card = json.loads(config_path.read_text(encoding="utf-8"))
            version = card.pop("format")
            if version == FORMAT:
                interval, names = card.pop("interval", None), card.pop("emotions", None)
                calibration = None if interval is None else Calibration.from_json(interval)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CarlError(f"{config_path}: not a valid model description; the folder is damaged") from error
        if version != FORMAT:
            raise CarlError(
                f"{config_path}: format {version} is not the {FORMAT} this version reads; upgrade carl-affect"
            )
        try:
            head = load_file(head_path)
            emotion = (
                EmotionHead(tuple(names), head["emotion_weight"], head["emotion_bias"]) if names else None
            )
            encoder = _load_encoder(folder, card, device)
            return cls(encoder, head["weight"], head["bias"], card, backend, calibration, emotion)
        except UsageError:
            raise
        except CarlError as error:
            raise CarlError(f"{folder}: {error}") from error
        except Exception as error:  # a damaged folder makes the loaders raise whatever they like
            raise CarlError(
                f"{folder}: the model cannot be loaded ({' '.join(str(error).split())[:200]})"
            ) from error

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write a plain sentence-transformers directory with ``affect/`` beside it.

        The files are written aside and then moved in, ``modules.json`` last, so that a folder that loads is whole.
        """
        with _replacing(Path(path), last="modules.json") as staging:
            self.encoder.save_pretrained(str(staging), create_model_card=False)
            self._save_affect(staging)

    def save_delta(self, path: str | os.PathLike[str]) -> None:
        """Write a small folder: only how the encoder differs from its backbone, rounded (see ``carl.delta``).

        Whoever loads it needs the same backbone at hand.

        Raises:
            CarlError: the card does not name the backbone, or another one than the encoder was trained from.
        """
        if "backbone" not in self.card:
            raise CarlError("the model does not say from which backbone it was trained")
        delta = difference(self.encoder, load_backbone(self.card["backbone"]))
        with _replacing(Path(path), last="delta.safetensors") as staging:
            save_file(delta, staging / "delta.safetensors")
            self._save_affect(staging)

    def _save_affect(self, folder: Path) -> None:
        (folder / "affect").mkdir()
        head = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        description = {"format": FORMAT, "outputs": ["valence", "arousal"], "range": [-1, 1], **self.card}
        if self.calibration is not None:
            description["interval"] = self.calibration.to_json()
        if self.emotion is not None:
            description["emotions"] = list(self.emotion.names)
            head |= {"emotion_weight": self.emotion.weight, "emotion_bias": self.emotion.bias}
        save_file(
            {name: part.contiguous() for name, part in head.items()}, folder / "affect" / "head.safetensors"
        )
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (folder / "affect" / "config.json").write_text(text, encoding="utf-8")

    def encode(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings (n, d) of n texts, or (d,) of one. Of any length: see ``carl.inference.BatchEncoder``."""
        vectors = self._encode([texts] if isinstance(texts, str) else list(texts))
        return np.asarray(vectors[0] if isinstance(texts, str) else vectors)

    def predict(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Valence and arousal in [-1, 1]: (n, 2) for n texts, (2,) for one; 0 is neutral."""
        return self.predict_embeddings(self.encode(texts))

    def predict_embeddings(self, embeddings: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The same for what ``encode`` returned: (n, d) -> (n, 2)."""
        values = np.asarray(embeddings, dtype=np.float32)
        scores = values @ self.weight.cpu().numpy().T + self.bias.cpu().numpy()
        return np.asarray(np.clip(scores, -1.0, 1.0), dtype=np.float32)

    def intervals(self, predicted: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Low and high end (n, 2, 2) around predictions (n, 2), covering ``calibration.level`` of the ratings.

        Raises:
            CarlError: the model was not calibrated.
        """
        if self.calibration is None:
            raise CarlError("the model has no calibration; train it with this version of carl-affect")
        return self.calibration.intervals(predicted)

    def emotions(self, embeddings: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Probabilities (n, k) of ``emotion.names`` for embeddings (n, d).

        Raises:
            CarlError: the model names no emotions.
        """
        if self.emotion is None:
            raise CarlError("the model names no emotions; carl-minilm does")
        x = torch.from_numpy(np.asarray(embeddings, dtype=np.float32))
        return F.linear(x, self.emotion.weight, self.emotion.bias).softmax(dim=1).numpy()

    def explain(self, text: str, steps: int = 32) -> Explanation:
        """Each token's signed contribution to valence and arousal, by integrated gradients.

        Args:
            text: one text.
            steps: points on the path from the masked text to the text; more is more exact.
        """
        tokenizer, layer = self.encoder.tokenizer, word_embeddings(self.encoder)
        limit = self.encoder.max_seq_length
        encoded = tokenizer(
            [text], return_offsets_mapping=True, return_tensors="pt", truncation=bool(limit), max_length=limit
        )
        offsets = encoded.pop("offset_mapping")[0].tolist()
        features = {name: value.to(self.encoder.device) for name, value in encoded.items()}
        special = special_tokens(self.encoder).to(self.encoder.device)
        movable = valid_tokens(features["input_ids"], features["attention_mask"], special)
        # An unknown token (an emoji, say) has an embedding that may carry affect, so it takes part.
        if tokenizer.unk_token_id is not None:
            movable |= features["input_ids"] == tokenizer.unk_token_id
        blank = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.pad_token_id
        contributions = integrated_gradients(self._scores, features, layer, blank, movable, steps)
        with torch.no_grad():
            blanked = {**features, "input_ids": torch.where(movable, blank, features["input_ids"])}
            baseline = self._scores(blanked)[0].tolist()
        valence, arousal = (float(score) for score in self.predict(text))
        spans: dict[
            tuple[int, int], Tensor
        ] = {}  # an emoji's several tokens have one span and are one to the reader
        for (start, end), contribution, counts in zip(
            offsets, contributions.cpu(), movable[0].tolist(), strict=True
        ):
            if counts and end > start:
                spans[start, end] = spans.get((start, end), 0) + contribution
        tokens = tuple(
            TokenSaliency(text[start:end], start, end, float(contribution[0]), float(contribution[1]))
            for (start, end), contribution in spans.items()
        )
        truncated = bool(limit) and len(tokenizer(text, verbose=False)["input_ids"]) > limit
        return Explanation(text, valence, arousal, tokens, (baseline[0], baseline[1]), truncated)

    def _scores(self, features: dict[str, Tensor]) -> Tensor:
        embedding = self.encoder(dict(features))["sentence_embedding"]
        return F.linear(embedding.float(), self.weight, self.bias)


def _runtime(backend: str) -> Callable[[SentenceTransformer], Runtime]:
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
    return BACKENDS[backend]


def released_folder() -> Path:
    """Where the package keeps ``carl-minilm``."""
    return Path(__file__).parent / "models" / RELEASED


def _load_encoder(folder: Path, card: dict[str, Any], device: str | None) -> SentenceTransformer:
    if not (folder / "delta.safetensors").is_file():
        return SentenceTransformer(str(folder), device=device, trust_remote_code=False, local_files_only=True)
    encoder = load_backbone(card["backbone"])
    apply(encoder, load_file(folder / "delta.safetensors"))
    return encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def _replacing(folder: Path, *, last: str) -> Iterator[Path]:
    """A folder aside to write into, whose parts are then moved into ``folder``, ``last`` in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    staging = staging_folder(folder / "model")
    yield staging
    for source in sorted(staging.iterdir(), key=lambda p: p.name == last):
        target = folder / source.name
        if target.is_dir():
            shutil.rmtree(target)
        source.replace(target)
    staging.rmdir()
