"""A run that is killed and resumed ends bit for bit where a straight run ends; so do the ranks of one run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

DRIVER = Path(__file__).with_name("run_training.py")


def launch(config: dict[str, Any], *flags: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DRIVER), json.dumps(config), *flags]
    if processes > 1:
        # Port 0 lets torchrun pick a free one, so that test runs do not collide.
        rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        command[:1] = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={processes}",
            *rendezvous,
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


def contents(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on whether the run was interrupted."""
    last = max((folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    tensors = {
        "model": load_file(folder / "model.safetensors"),
        "head": load_file(folder / "affect" / "head.safetensors"),
        "last model": load_file(last / "model.safetensors"),
        "target, queue, heads": load_file(last / "objective.safetensors"),
        "optimizer": load_file(last / "optimizer.safetensors"),
    }
    run = json.loads((folder / "run.json").read_text())
    run.pop("seconds")
    return {"tensors": tensors, "metrics": (folder / "metrics.jsonl").read_text(), "run": run}


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    for part, tensors in left["tensors"].items():
        assert tensors.keys() == right["tensors"][part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, right["tensors"][part][name]), f"{part}: {name}"
    assert left["metrics"] == right["metrics"]
    assert left["run"] == right["run"]


@pytest.fixture(scope="module")
def config(tiny_backbone: Path, ratings_csv: Callable[..., Path]) -> dict[str, Any]:
    table = ratings_csv(200)
    return {
        "data": [str(table)], "valence": "valence", "arousal": "arousal", "scale": [1, 9],
        "backbone": str(tiny_backbone), "epochs": 3, "batch_size": 16, "queue_size": 40, "precision": "fp32",
        "evaluations": 5, "logging_steps": 2, "learning_rate": 1e-3, "pool_size": 50,
    }  # fmt: skip


def interrupted_runs(config: dict[str, Any], kills: Sequence[tuple[str, int]], processes: int = 1) -> None:
    for flag, where in kills:
        resume = ["--resume"] if Path(config["output"], "recipe.yaml").exists() else []
        killed = launch(config, *resume, f"--kill-{flag}", str(where), processes=processes)
        assert killed.returncode == (-signal.SIGKILL if processes == 1 else 1), killed.stderr[-2000:]
    finished = launch(config, "--resume", processes=processes)
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_killed_and_resumed_run_equals_a_straight_one(config: dict[str, Any], tmp_path: Path) -> None:
    straight = launch({**config, "output": str(tmp_path / "straight")})
    assert straight.returncode == 0, straight.stderr[-2000:]
    broken = {**config, "output": str(tmp_path / "broken")}
    # Before the first checkpoint, between two, in the middle of writing one, and in the last epoch.
    interrupted_runs(broken, [("at-step", 3), ("at-step", 9), ("in-checkpoint", 1), ("at-step", 27)])
    assert_same(contents(tmp_path / "straight"), contents(tmp_path / "broken"))


def test_two_ranks_resume_exactly(config: dict[str, Any], tmp_path: Path) -> None:
    config = {**config, "epochs": 2, "batch_size": 8}
    straight = launch({**config, "output": str(tmp_path / "straight")}, processes=2)
    assert straight.returncode == 0, straight.stderr[-2000:]
    interrupted_runs(
        {**config, "output": str(tmp_path / "broken")}, [("at-step", 5), ("at-step", 13)], processes=2
    )
    assert_same(contents(tmp_path / "straight"), contents(tmp_path / "broken"))
