"""Training checkpoints: written whole or not at all, safetensors and JSON only.

A checkpoint folder holds the encoder (a sentence-transformers directory), ``objective.safetensors`` (target, queue,
heads), ``optimizer.safetensors`` with ``optimizer.json``, ``scheduler.json``, ``rng-<rank>.safetensors`` with its
``.json``, and the trainer's ``trainer_state.json``.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

#: Parts of the objective that are saved elsewhere (the encoder) or never change (the generator).
ELSEWHERE = ("model.", "generator.")


def save_objective(objective: nn.Module, folder: Path) -> None:
    """Write target network, queue and heads."""
    state = {
        k: v.detach().cpu().contiguous()
        for k, v in objective.state_dict().items()
        if not k.startswith(ELSEWHERE)
    }
    save_file({k: v.clone() for k, v in state.items()}, folder / "objective.safetensors")


def load_objective(objective: nn.Module, folder: Path) -> None:
    """Read them back.

    Raises:
        RuntimeError: if the file does not fit the objective.
    """
    state = load_file(folder / "objective.safetensors")
    missing, unexpected = objective.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(ELSEWHERE)]
    if missing or unexpected:
        raise RuntimeError(f"{folder / 'objective.safetensors'} does not fit: {[*missing, *unexpected][:3]}")


def save_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Write optimizer moments as tensors, and everything that is a plain number as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()},
        folder / "optimizer.safetensors",
    )
    _write_json(folder / "optimizer.json", {"param_groups": state["param_groups"], "numbers": numbers})
    _write_json(folder / "scheduler.json", scheduler.state_dict())


def load_optimizer(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Read both back."""
    plain = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**load_file(folder / "optimizer.safetensors"), **plain["numbers"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    for group in plain["param_groups"]:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": plain["param_groups"]})
    scheduler.load_state_dict(json.loads((folder / "scheduler.json").read_text(encoding="utf-8")))


def save_rng(folder: Path, rank: int) -> None:
    """Write the state of every random number generator of this process."""
    numpy_state = np.random.get_state(legacy=True)
    assert isinstance(numpy_state, tuple)
    name, keys, position, has_gauss, gauss = numpy_state
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys.astype(np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, folder / f"rng-{rank}.safetensors")
    numbers = {"python": random.getstate(), "numpy": [name, int(position), int(has_gauss), float(gauss)]}
    _write_json(folder / f"rng-{rank}.json", numbers)


def load_rng(folder: Path, rank: int) -> None:
    """Put them back."""
    tensors = load_file(folder / f"rng-{rank}.safetensors")
    numbers = json.loads((folder / f"rng-{rank}.json").read_text(encoding="utf-8"))
    version, internal, gauss_next = numbers["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, position, has_gauss, gauss = numbers["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def staging_folder(folder: Path) -> Path:
    """An empty folder beside ``folder`` to fill before ``publish``; the rest of a broken attempt is removed."""
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish(staging: Path, folder: Path) -> None:
    """Rename the filled staging folder to its final name, in one step."""
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first."""
    found = [
        p for p in folder.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps made when the checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
