"""Choosing the arithmetic of training: bf16 autocast where it is faster, fp32 elsewhere."""

import time

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from carl.backbone import word_embeddings

#: bf16 has to be this much faster than fp32 to be chosen: below, its rounding buys nothing.
WORTHWHILE = 1.15


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which forwards run in ``precision`` (``fp32`` or ``bf16``); weights and losses stay fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def choose_precision(wanted: str, model: SentenceTransformer) -> tuple[str, str]:
    """Resolve ``auto`` by timing a training step of ``model`` both ways, on its device.

    Returns:
        ``fp32`` or ``bf16``, and a sentence that says why.
    """
    if wanted != "auto":
        return wanted, f"{wanted}, as asked"
    ids = torch.arange(16 * 24, device=model.device).reshape(16, 24) % word_embeddings(model).weight.shape[0]
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    training = model.training
    model.eval()  # no dropout: leaves the random number generators alone
    seconds = {"fp32": float("inf"), "bf16": float("inf")}
    # In turn, and the best of each: what else the machine does only ever makes a step slower.
    for _ in range(4):
        for precision in seconds:
            seconds[precision] = min(seconds[precision], _step_seconds(model, features, precision))
    model.train(training)
    ratio = seconds["fp32"] / seconds["bf16"]
    chosen = "bf16" if ratio >= WORTHWHILE else "fp32"
    return chosen, f"{chosen}: a bf16 step runs {ratio:.2f} times as fast as an fp32 step here"


def _step_seconds(model: SentenceTransformer, features: dict[str, Tensor], precision: str) -> float:
    start = time.perf_counter()
    with autocast(precision, model.device):
        loss = model(dict(features))["sentence_embedding"].float().sum()
    loss.backward()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    model.zero_grad()
    return time.perf_counter() - start
