"""What a checkpoint holds comes back bit for bit, and a broken one never counts."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import get_linear_schedule_with_warmup

from carl import checkpoint as ckpt
from carl.affect import LabelStatistics
from carl.config import CarlConfig
from carl.losses.carl import CarlObjective

STATISTICS = LabelStatistics(torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4]), torch.zeros(2, 3))


class Training:
    """A small network with an optimizer of two groups, one of them with a parameter that is never used."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
        self.unused = nn.Parameter(torch.ones(3))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.network[0].parameters(), "lr": 1e-2, "weight_decay": 0.1},
                {"params": [*self.network[2].parameters(), self.unused], "lr": 3e-3},
            ],
            betas=(0.8, 0.95),
        )
        self.scheduler = get_linear_schedule_with_warmup(self.optimizer, 3, 20)

    def steps(self, count: int) -> None:
        for _ in range(count):
            loss = self.network(torch.randn(8, 4)).square().mean() + random.random() * np.random.rand()
            (loss * float(1 + np.random.randn() ** 2)).backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def everything(self) -> list[Any]:
        return [p.detach().clone() for p in [*self.network.parameters(), self.unused]]


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(2)
    straight = Training(3)
    straight.steps(5)
    assert np.random.get_state()[3] == 1, "half of a pair of gaussians waits in numpy's state"
    ckpt.save_optimizer(straight.optimizer, straight.scheduler, tmp_path)
    ckpt.save_rng(tmp_path, 0)
    weights = {k: v.clone() for k, v in straight.network.state_dict().items()}
    straight.steps(6)
    draws = [torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1)]

    resumed = Training(99)
    random.seed(50)
    resumed.steps(2)
    resumed.network.load_state_dict(weights)
    ckpt.load_optimizer(resumed.optimizer, resumed.scheduler, tmp_path)
    ckpt.load_rng(tmp_path, 0)
    resumed.steps(6)
    assert [torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1)] == draws
    for a, b in zip(straight.everything(), resumed.everything(), strict=True):
        assert torch.equal(a, b)
    assert straight.scheduler.state_dict() == resumed.scheduler.state_dict()
    assert straight.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]
    a, b = straight.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for index, entries in a["state"].items():
        for name, value in entries.items():
            assert torch.equal(value, b["state"][index][name])


def test_no_pickle_is_written(tmp_path: Path, tiny_model: SentenceTransformer) -> None:
    training = Training(0)
    training.steps(1)
    ckpt.save_optimizer(training.optimizer, training.scheduler, tmp_path)
    ckpt.save_rng(tmp_path, 3)
    ckpt.save_objective(CarlObjective(tiny_model, CarlConfig(queue_size=4), STATISTICS), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "objective.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "scheduler.json",
        "rng-3.safetensors",
        "rng-3.json",
    }
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_ranks_have_their_own_random_numbers(tmp_path: Path) -> None:
    drawn = {}
    for rank in (0, 1):
        torch.manual_seed(rank)
        ckpt.save_rng(tmp_path, rank)
        drawn[rank] = torch.rand(2).tolist()
    ckpt.load_rng(tmp_path, 0)
    assert torch.rand(2).tolist() == drawn[0] != drawn[1]


def objective(model: SentenceTransformer, **settings: object) -> CarlObjective:
    return CarlObjective(model, CarlConfig(**{"queue_size": 5, "projection_dim": 8, **settings}), STATISTICS)


def test_objective_round_trip(tmp_path: Path, tiny_model: SentenceTransformer) -> None:
    saved = objective(tiny_model)
    with torch.no_grad():
        for p in saved.parameters():
            p.add_(torch.randn_like(p))
    for count in (3, 4):
        saved.queue.enqueue(torch.randn(count, 8), torch.full((count, 2), torch.nan))
    ckpt.save_objective(saved, tmp_path)
    restored = objective(tiny_model)
    encoder = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    ckpt.load_objective(restored, tmp_path)
    for name, value in saved.state_dict().items():
        assert torch.equal(value.nan_to_num(9.0), restored.state_dict()[name].nan_to_num(9.0)), name
    assert int(restored.queue.pointer) == 2
    assert not torch.equal(
        next(restored.target["encoder"].parameters()), next(restored.model.parameters())
    ), "target and encoder are different networks"
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, encoder[name]), "the encoder is read elsewhere"


@pytest.mark.parametrize("other", [{"ptd_weight": 0.0}, {"mccl_weight": 0.0}, {"queue_size": 6}])
def test_an_objective_that_does_not_fit(
    other: dict[str, Any], tmp_path: Path, tiny_model: SentenceTransformer
) -> None:
    """Whether the file holds too little or too much."""
    for saved, restored in ((other, {}), ({}, other)):
        ckpt.save_objective(objective(tiny_model, **saved), tmp_path)
        with pytest.raises(RuntimeError, match=r"fit|size mismatch"):
            ckpt.load_objective(objective(tiny_model, **restored), tmp_path)


def test_an_objective_with_a_part_missing(tmp_path: Path, tiny_model: SentenceTransformer) -> None:
    state = {
        k: v.clone()
        for k, v in objective(tiny_model).state_dict().items()
        if not k.startswith(ckpt.ELSEWHERE) and k != "queue.pointer"
    }
    save_file(state, tmp_path / "objective.safetensors")
    with pytest.raises(RuntimeError, match=r"queue\.pointer"):
        ckpt.load_objective(objective(tiny_model), tmp_path)


def test_an_optimizer_that_does_not_fit(tmp_path: Path) -> None:
    training = Training(0)
    training.steps(1)
    ckpt.save_optimizer(training.optimizer, training.scheduler, tmp_path)
    other = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    with pytest.raises(ValueError, match="param"):
        ckpt.load_optimizer(other, get_linear_schedule_with_warmup(other, 1, 2), tmp_path)


def test_only_published_checkpoints_count(tmp_path: Path) -> None:
    for step in (5, 40, 10):
        folder = tmp_path / f"checkpoint-{step}"
        staging = ckpt.staging_folder(folder)
        (staging / "file").write_text(str(step))
        assert folder not in ckpt.checkpoints(tmp_path), "not before it is whole"
        ckpt.publish(staging, folder)
        assert not staging.exists()
    broken = ckpt.staging_folder(tmp_path / "checkpoint-50")
    (broken / "half").write_text("x")
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "checkpoint-60").write_text("a file")
    found = ckpt.checkpoints(tmp_path)
    assert [ckpt.step_of(folder) for folder in found] == [5, 10, 40], "in order of steps, not of names"
    assert [(folder / "file").read_text() for folder in found] == ["5", "10", "40"]
    assert ckpt.checkpoints(tmp_path / "nowhere") == []


def test_a_broken_attempt_leaves_nothing_behind_in_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    (ckpt.staging_folder(folder) / "rest").write_text("x")
    staging = ckpt.staging_folder(folder)
    assert list(staging.iterdir()) == []
    (staging / "file").write_text("new")
    folder.mkdir()
    (folder / "old").write_text("x")
    ckpt.publish(staging, folder)
    assert [p.name for p in folder.iterdir()] == ["file"]
