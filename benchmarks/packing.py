"""How to keep a fine-tuned MiniLM in five megabytes: three bits a weight (carl.delta) or low rank (LoRA afterwards).

Scores on EmoBank's dev split, and cosines to the embeddings of the whole model.

usage: python benchmarks/packing.py [FOLDER] [--threads 1]
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer

from carl.backbone import load_backbone
from carl.data import load_corpus
from carl.delta import apply, difference
from carl.evaluation.valence_arousal import score
from carl.inference import BatchEncoder, TorchRuntime
from carl.model import AffectEncoder
from carl.trainer import labels_of

RESULTS = Path("benchmarks/results/packing.json")
RANKS = (16, 32, 48)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="runs/carl-minilm")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    model = AffectEncoder.from_pretrained(options.folder)
    dev = load_corpus("emobank").splits["dev"]
    texts, rated = dev["text"][:], labels_of(dev)
    whole = BatchEncoder(model.encoder, TorchRuntime(model.encoder))(texts)
    delta = difference(model.encoder, load_backbone("minilm"))
    packed = load_backbone("minilm")
    apply(packed, delta)
    ways = {"whole": (model.encoder, 0), "three bits": (packed, bytes_of(delta.values()))}
    ways |= {f"rank {rank}": low_rank(model.encoder, delta, rank) for rank in RANKS}
    found = {}
    for name, (encoder, size) in ways.items():
        vectors = BatchEncoder(encoder, TorchRuntime(encoder))(texts)
        scores = score(model.predict_embeddings(vectors), rated)
        found[name] = {
            "mb": round(size / 1e6, 2),
            "valence_r": round(scores["valence_r"], 4),
            "arousal_r": round(scores["arousal_r"], 4),
            "cosine": round(float((vectors * whole).sum(1).mean()), 4),
        }
        print(name, found[name], flush=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def low_rank(
    tuned: SentenceTransformer, delta: dict[str, torch.Tensor], rank: int
) -> tuple[SentenceTransformer, int]:
    """Each linear map's difference in its best approximation of that rank, half precision; the rest as it is kept."""
    encoder, after = load_backbone("minilm"), dict(tuned.named_parameters())
    rest = {name: part for name, part in delta.items() if not name.endswith((".codes", ".scale"))}
    size = bytes_of(rest.values())
    apply(encoder, rest)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if f"{name}.codes" in delta:
                u, s, v = torch.linalg.svd((after[name] - parameter).double(), full_matrices=False)
                parameter += ((u[:, :rank] * s[:rank]) @ v[:rank]).float()
                size += 2 * rank * sum(parameter.shape)
    return encoder, size


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Of their elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    main()
