"""Runs the grid: trains each model once, measures it on every suite, and writes each cell down as it is finished."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from carl.backbone import load_backbone
from carl.bench.cells import Cell, append_cell, read_cells
from carl.bench.methods import BY_NAME, METHODS, Method
from carl.bench.suites import SUITES, Embedder, Predict
from carl.config import CarlConfig
from carl.errors import UsageError
from carl.evaluation.valence_arousal import RidgeProbe
from carl.inference import BACKENDS, BatchEncoder
from carl.model import AffectEncoder
from carl.trainer import labels_of
from carl.training import resolve_resume, train
from carl.training_data import TrainingData, load_training_data

PACKAGES = ("carl-affect", "torch", "transformers", "sentence-transformers", "scikit-learn", "numpy")
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """One model and the suites that are still to be measured on it."""

    method: Method
    seed: int
    suites: tuple[str, ...]


def planned(
    results: Path, backbone: str, methods: Sequence[str], seeds: int | None, suites: Sequence[str]
) -> list[Job]:
    """What is left to do, the most telling first: one seed of every method before the second of any.

    Args:
        results: file of finished cells.
        backbone: name.
        methods: names; empty for all.
        seeds: at most so many of each method; None for as many as each method asks for.
        suites: names; empty for all.

    Raises:
        UsageError: an unknown method or suite.
    """
    for kind, given, known in (("method", methods, BY_NAME), ("suite", suites, SUITES)):
        for name in given:
            if name not in known:
                raise UsageError(f"unknown {kind} {name!r}; choose from {', '.join(known)}")
    finished = {cell.key for cell in read_cells(results)}
    chosen = [method for method in METHODS if not methods or method.name in methods]
    jobs = []
    for seed in range(max(method.seeds for method in chosen)):
        for method in chosen:
            if seed < min(method.seeds, method.seeds if seeds is None else seeds):
                left = [s for s in SUITES if (not suites or s in suites)
                        and (backbone, method.name, seed, s) not in finished]  # fmt: skip
                if left:
                    jobs.append(Job(method, seed, tuple(left)))
    return jobs


def estimate(results: Path, jobs: Sequence[Job]) -> str:
    """What the jobs will cost, from the cells that are finished."""
    cells = read_cells(results)
    count = sum(len(job.suites) for job in jobs)
    training = [cell.seconds["train"] for cell in cells if cell.seconds["train"] > 0]
    measuring = {name: [c.seconds["measure"] for c in cells if c.suite == name] for name in SUITES}
    if not training or not all(measuring.values()):
        return (
            f"{count} cells on {len(jobs)} models to do; what one costs is known when the first are finished"
        )
    per_suite = {name: statistics.median(values) for name, values in measuring.items()}
    per_model = statistics.median(training)
    total = sum(
        per_model * (job.method.changes is not None) + sum(per_suite[s] for s in job.suites) for job in jobs
    )
    suites = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in per_suite.items())
    return (
        f"{count} cells on {len(jobs)} models to do, about {total / 3600:.1f} hours at the speed so far "
        f"(medians in minutes: training {per_model / 60:.1f}, {suites})"
    )


def run_job(
    job: Job, recipe: CarlConfig, results: Path, runs: Path, say: Say, backend: str = "torch"
) -> None:
    """Train the job's model, or go on where it was stopped, and measure it with ``backend`` (see carl.inference)."""
    config = configuration(job, recipe, runs)
    data = load_training_data(config)
    heads: dict[str, Predict] = {}
    if job.method.changes is None:
        encoder, seconds = load_backbone(config.backbone), 0.0
    else:
        encoder, heads, seconds = _trained(config, say)
    runtime = BACKENDS[backend](encoder)
    embed = Embedder(BatchEncoder(encoder, runtime))
    if not heads:
        heads["own"] = _ridge_head(embed, data)
    for suite in job.suites:
        started = time.perf_counter()
        say(f"{job.method.name}, seed {job.seed}: {suite}")
        found = SUITES[suite](embed, heads, data.train["text"][:])
        cell = Cell(
            backbone=recipe.backbone,
            method=job.method.name,
            seed=job.seed,
            suite=suite,
            scores=found.scores,
            items=found.items,
            config=_settings(config),
            data={**{c.name: c.files for c in data.corpora}, **found.data},
            versions={
                "python": platform.python_version(),
                **{p: importlib.metadata.version(p) for p in PACKAGES},
            },
            device=f"{_device()}, {runtime.name}",
            seconds={"train": seconds, "measure": round(time.perf_counter() - started, 1)},
            notes=found.notes,
        )
        append_cell(results, cell)
        seconds = 0.0


def configuration(job: Job, recipe: CarlConfig, runs: Path) -> CarlConfig:
    """Of the job's training; a method with a recipe of its own shares backbone and arithmetic with the others."""
    shared = recipe
    if job.method.recipe is not None:
        shared = CarlConfig.from_yaml(
            job.method.recipe, {"backbone": recipe.backbone, "precision": recipe.precision}
        )
    folder = runs / recipe.backbone.replace("/", "-") / f"{job.method.name}-{job.seed}"
    return dataclasses.replace(shared, **(job.method.changes or {}), seed=job.seed, output=str(folder))


def _trained(config: CarlConfig, say: Say) -> tuple[SentenceTransformer, dict[str, Predict], float]:
    folder = Path(config.output)
    if not (folder / "modules.json").is_file():
        begun = (folder / "recipe.yaml").is_file()
        train(resolve_resume(folder, {}) if begun else config, resume=begun, say=say)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    model = AffectEncoder.from_pretrained(folder)
    learnt = load_file(folder / "learnt_head.safetensors")
    learnt_model = AffectEncoder(model.encoder, learnt["weight"], learnt["bias"])
    seconds = json.loads((folder / "run.json").read_text(encoding="utf-8"))["seconds"]
    return (
        model.encoder,
        {"own": model.predict_embeddings, "learnt": learnt_model.predict_embeddings},
        seconds,
    )


def _ridge_head(embed: Embedder, data: TrainingData) -> Predict:
    """For the untouched backbone, which has learnt no head."""
    (dev,) = data.dev.values()
    parts = [(embed(rows["text"][:]), labels_of(rows)) for rows in (data.train, dev)]
    return RidgeProbe.fit(*parts[0], *parts[1]).predict


def _settings(config: CarlConfig) -> dict[str, object]:
    """As the run resolved them; empty where nothing was trained."""
    path = Path(config.output, "recipe.yaml")
    resolved = dataclasses.asdict(CarlConfig.from_yaml(path)) if path.is_file() else {}
    return {name: value for name, value in resolved.items() if name != "output"}


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def fingerprint(cell: Cell) -> str:
    """What must be equal when a cell is run again on the same machine: scores and predictions."""
    return hashlib.sha256(json.dumps([cell.scores, cell.items], sort_keys=True).encode()).hexdigest()
