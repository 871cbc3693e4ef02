"""What a CARL training step costs over the passes it cannot do without, and how much padding the batches hold.

The step (both passes, perturbation, queue, clipping, optimizer, target update) is timed against the sum of its three
passes, each timed alone on the same batch: target forward; online forward and backward; forward and backward on the
perturbed tokens. All are timed in turn in one process, and medians are compared.

In bf16 the passes shrink and what stays in fp32 does not (optimizer, clipping, target update: every training has most
of it); how long that part takes alone is printed too.

usage: python benchmarks/step.py [--precision bf16] [--steps 15] [--batch-size 64] [--tokens 24] [--output FILE]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from carl.affect import label_statistics
from carl.backbone import load_backbone
from carl.config import CarlConfig
from carl.data import load
from carl.errors import CarlError
from carl.losses.carl import CarlObjective
from carl.precision import autocast
from carl.sampler import LengthBatchSampler, padding_waste
from carl.trainer import token_lengths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()

    torch.manual_seed(0)
    model = load_backbone("minilm")
    config = CarlConfig()
    labels = torch.rand(options.batch_size, 2) * 2 - 1
    objective = CarlObjective(model, config, label_statistics(labels, config.bins)).train()
    ids = objective.candidates[torch.randint(len(objective.candidates), (options.batch_size, options.tokens))]
    ids[:, 0], ids[:, -1] = model.tokenizer.cls_token_id, model.tokenizer.sep_token_id
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    trainable = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-6, fused=True)  # as the trainer has it

    def passes() -> None:
        with autocast(options.precision, model.device):
            first = objective.sentence_pass(features, labels)
        torch.stack(list(first.losses.values())).sum().backward()
        with autocast(options.precision, model.device):
            loss = objective.token_pass(first)
        loss.backward()
        objective.remember(first)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(trainable, config.max_grad_norm)
        optimizer.step()
        objective.move_target()

    def step() -> None:
        passes()
        update()
        optimizer.zero_grad()

    def target_forward() -> None:
        with torch.no_grad(), autocast(options.precision, model.device):
            objective.target["encoder"](dict(features))

    def forward_backward() -> None:
        with autocast(options.precision, model.device):
            tokens = model(dict(features))["token_embeddings"]
        tokens.float().sum().backward()
        optimizer.zero_grad()

    timed = {"step": step, "target forward": target_forward, "online forward + backward": forward_backward,
             "perturbed forward + backward": forward_backward}  # fmt: skip
    times = in_turn(timed, options.steps)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    # A ratio a round, so that a slow spell of the machine falls on both sides of it.
    passes_alone = [
        sum(turn) for turn in zip(*(values for name, values in times.items() if name != "step"), strict=True)
    ]
    ratio = statistics.median(step / alone for step, alone in zip(times["step"], passes_alone, strict=True))
    passes()
    result = {
        "precision": options.precision,
        "batch_size": options.batch_size,
        "tokens": options.tokens,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "ratio": round(ratio, 3),
        "of it clipping, optimizer and target update": round(
            statistics.median(in_turn({"update": update}, options.steps)["update"])
            / statistics.median(passes_alone),
            3,
        ),
        "padding_waste": {name: round(waste, 4) for name, waste in wastes(model, options.batch_size).items()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def in_turn(timed: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time each function once a round, so that a slow spell hits them all; the first two rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds + 2):
        for name, function in timed.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: values[2:] for name, values in times.items()}


def wastes(model, batch_size: int) -> dict[str, float]:
    """Padding in our batches and in random ones, for the corpora that can be had."""
    result = {}
    for name in ("emobank", "vader-tweets"):
        try:
            texts = load(name)["train"]["text"][:]
        except CarlError as error:
            print(f"{name}: {error}")
            continue
        lengths = token_lengths(model, texts)
        sampler = LengthBatchSampler(lengths, [1.0] * len(texts), batch_size, seed=0)
        order = torch.randperm(len(texts)).tolist()
        random = [order[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        result[name] = padding_waste(lengths, list(sampler))
        result[f"{name}, random batches"] = padding_waste(lengths, random)
    return result


if __name__ == "__main__":
    main()
