"""One training run, from configuration to run folder.

The folder holds the model (a sentence-transformers directory with ``affect/``), ``recipe.yaml`` (the resolved
configuration), ``run.json`` (versions, data hashes, what was counted, scores), ``metrics.jsonl``, ``report.html`` and
``checkpoints/``; beside them ``learnt_head.safetensors``, the head as trained (the model's is that, a ridge regression,
or the mean of both).
"""

import dataclasses
import importlib.metadata
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

from carl import checkpoint as ckpt
from carl.affect import label_statistics
from carl.backbone import load_backbone, load_masked_lm
from carl.calibration import Calibration, affine_correction
from carl.config import CarlConfig
from carl.distillation import teach, teacher_files
from carl.errors import CarlError, Interrupted, UsageError
from carl.evaluation.valence_arousal import RidgeProbe, score
from carl.inference import BatchEncoder, TorchRuntime
from carl.losses.carl import CarlObjective
from carl.model import AffectEncoder
from carl.precision import choose_precision
from carl.trainer import (
    CarlTrainer,
    DevEvaluator,
    MetricsFile,
    StopOnInterrupt,
    labels_of,
    mean_scores,
    reading_limit,
    token_lengths,
    training_arguments,
)
from carl.training_data import TrainingData, load_training_data

logger = logging.getLogger(__name__)


def prepare_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that a run may write to ``folder``.

    Raises:
        UsageError: it holds files and neither ``overwrite`` nor ``resume`` says what to do with them; or there is
            nothing to resume; or overwriting would delete what is not a run.
    """
    if resume:
        if not (folder / "recipe.yaml").is_file():
            raise UsageError(f"{folder}: holds no run to resume (recipe.yaml is missing)")
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --output")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise UsageError(
                f"{folder} is not empty; add --resume to continue its run, or --overwrite to replace it"
            )
        if not (folder / "recipe.yaml").is_file():
            raise UsageError(f"{folder} holds files that are not a training run; choose another --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def train(
    config: CarlConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], None] = logger.info,
    data: TrainingData | None = None,
) -> AffectEncoder:
    """Run the whole of it; see the module's docstring for what it leaves in ``config.output``.

    Args:
        config: of the run; when resuming, as ``resolve_resume`` returns it.
        resume: continue from the last checkpoint in the folder.
        overwrite: replace an earlier run in the folder.
        callbacks: for progress.
        say: told, in one sentence each, what is being done and what was counted.
        data: the corpora, where they are not to be loaded as ``config.data`` says (other splits of them, say).

    Raises:
        UsageError, CarlError: what the user can mend.
        Interrupted: after Ctrl-C, when the checkpoint has been written.
    """
    folder = Path(config.output)
    started = time.perf_counter()
    # Joins the other processes under `accelerate launch` or torchrun.
    process = PartialState(cpu=not torch.cuda.is_available())
    if process.is_main_process:
        prepare_folder(folder, resume=resume, overwrite=overwrite)
    data = data or load_training_data(config)
    for name, notes in data.notes.items():
        for note in notes:
            say(f"{name}: {note}")
    set_seed(config.seed)
    model = load_backbone(config.backbone)
    if torch.cuda.is_available():
        model.to("cuda")
    precision, reason = broadcast_object_list(list(choose_precision(config.precision, model)))
    say(f"precision {reason}")
    config = dataclasses.replace(config, precision=precision)
    facts = _facts(config, data, model)
    if facts["truncated"]:
        say(
            f"{facts['truncated']} training texts are longer than {facts['read_tokens']} tokens and are cut there"
        )
    if process.is_main_process:
        if resume:
            _check_same_data(folder, facts)
        _write(folder / "recipe.yaml", config.to_yaml())
        _write(folder / "run.json", json.dumps(facts, indent=2) + "\n")

    process.wait_for_everyone()
    set_seed(config.seed)  # again: measuring the precision has drawn numbers
    statistics = label_statistics(torch.from_numpy(labels_of(data.train)), config.bins)
    if config.teacher is not None:
        cache = folder / "teacher.safetensors"
        data = teach(
            data,
            config.teacher,
            cache,
            say,
            share=config.teacher_share,
            view_dim=config.view_dim,
            precision=precision,
        )
    generator = (
        load_masked_lm(config.backbone, model) if config.ptd_weight > 0 and config.strategy == "mlm" else None
    )
    objective = CarlObjective(model, config, statistics, generator)
    stop = StopOnInterrupt()
    trainer = CarlTrainer(
        objective,
        training_arguments(config, sum(data.weights), folder / "checkpoints"),
        data.train,
        data.weights,
        DevEvaluator(objective, data.dev, precision),
        precision,
        [MetricsFile(folder / "metrics.jsonl"), stop, *callbacks],
    )
    found = ckpt.checkpoints(folder / "checkpoints") if resume else []
    if found:
        say(f"resuming at step {ckpt.step_of(found[-1])}")
    process.wait_for_everyone()
    with stop:
        trainer.train(resume_from_checkpoint=str(found[-1]) if found else None)
    if stop.interrupted and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(f"{folder}: stopped at step {trainer.state.global_step}; continue with --resume")
    if process.is_main_process:
        weight, bias = (part.detach().cpu() for part in objective.outcome[1].as_affine())
        _write_tensors(folder / "learnt_head.safetensors", {"weight": weight, "bias": bias})
    say("fitting the valence-arousal head to the trained encoder")
    encoder, scores = _finish(objective, config, data, facts)
    if process.is_main_process:
        encoder.save_pretrained(folder)
        facts |= {"dev": scores, "best_step": trainer.state.best_global_step}
        facts["seconds"] = round(time.perf_counter() - started, 1)
        _write(folder / "run.json", json.dumps(facts, indent=2) + "\n")
    return encoder


def resolve_resume(folder: Path, given: dict[str, Any]) -> CarlConfig:
    """The configuration of the run in ``folder``; the settings ``given`` again may repeat it but not change it.

    Raises:
        UsageError: if there is no run, or a flag contradicts it.
    """
    prepare_folder(folder, resume=True, overwrite=False)
    config = CarlConfig.from_yaml(folder / "recipe.yaml", {"output": str(folder)})
    for name, value in given.items():
        known = getattr(config, name)
        if value != known and name != "output" and (name, value) != ("precision", "auto"):
            raise UsageError(
                f"{folder}: its run has {name} {known!r}, which --resume cannot change to {value!r}"
            )
    return config


def _finish(
    objective: CarlObjective, config: CarlConfig, data: TrainingData, facts: dict[str, Any]
) -> tuple[AffectEncoder, dict[str, float]]:
    """Choose the head on dev: a ridge regression on the final embeddings, the one learnt on the way, or the mean of the
    two, which are estimates of one map and err differently (docs/experiments.md).
    """
    network, head = objective.outcome
    learnt = AffectEncoder(network, *head.as_affine())
    encode = BatchEncoder(network, TorchRuntime(network, config.precision))
    dev = {n: (encode(d["text"][:]), labels_of(d)) for n, d in data.dev.items()}
    train_embeddings = encode(data.train["text"][:])
    dev_embeddings, dev_labels = (np.concatenate(parts) for parts in zip(*dev.values(), strict=True))
    probe = RidgeProbe.fit(train_embeddings, labels_of(data.train), dev_embeddings, dev_labels)
    weight, bias = (torch.from_numpy(part).to(learnt.weight) for part in (probe.weight, probe.bias))
    card = {"backbone": config.backbone, "data": facts["data"], "carl": facts["versions"]["carl-affect"]}
    found = []
    for name, share in (("ridge", 0.0), ("mean", 0.5), ("learnt", 1.0)):
        affine = weight.lerp(learnt.weight, share), bias.lerp(learnt.bias, share)
        encoder = AffectEncoder(network, *affine, card={**card, "head": name})
        by_corpus = {n: score(encoder.predict_embeddings(e), labels) for n, (e, labels) in dev.items()}
        found.append((encoder, mean_scores(by_corpus)))
    encoder, _ = max(
        found, key=lambda pair: np.nan_to_num(pair[1]["mean_r"], nan=-1.0)
    )  # the first of equals
    return _calibrated(encoder, dev)


def _calibrated(
    encoder: AffectEncoder, dev: dict[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[AffectEncoder, dict[str, float]]:
    """Correct the head, and learn its intervals, on the dev splits (embeddings and ratings by corpus); r stays."""
    embeddings, rated = (np.concatenate(parts) for parts in zip(*dev.values(), strict=True))
    slope, intercept = (
        torch.from_numpy(part).to(encoder.weight)
        for part in affine_correction(encoder.predict_embeddings(embeddings), rated)
    )
    affine = encoder.weight * slope[:, None], encoder.bias * slope + intercept
    corrected = AffectEncoder(encoder.encoder, *affine, card=encoder.card)
    corrected.calibration = Calibration.fit(corrected.predict_embeddings(embeddings), rated)
    scores = mean_scores({n: score(corrected.predict_embeddings(e), y) for n, (e, y) in dev.items()})
    corrected.card["dev"] = {n: round(value, 4) for n, value in scores.items()}
    return corrected, scores


def _facts(config: CarlConfig, data: TrainingData, model: Any) -> dict[str, Any]:
    packages = ("carl-affect", "torch", "transformers", "sentence-transformers", "datasets", "accelerate")
    lengths = token_lengths(model, data.train["text"][:])
    limit = reading_limit(config, model)
    return {
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in packages},
        },
        "data": data.files | ({} if config.teacher is None else {"teacher": teacher_files(config.teacher)}),
        "train_rows": len(data.train),
        "held_out_rows": {
            c.name: {name: len(c.splits[name]) for name in ("dev", "test")} for c in data.corpora
        },
        "notes": data.notes,
        "truncated": 0 if limit is None else sum(length > limit for length in lengths),
        "read_tokens": limit,
    }


def _check_same_data(folder: Path, facts: dict[str, Any]) -> None:
    before = json.loads((folder / "run.json").read_text(encoding="utf-8"))["data"]
    if before != facts["data"]:
        changed = sorted(name for name in before if before[name] != facts["data"].get(name))
        raise CarlError(
            f"{folder}: the data changed since the run began ({', '.join(changed)}); start a new run"
        )


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    staging = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, staging)
    staging.replace(path)


def _write(path: Path, text: str) -> None:
    staging = path.with_name(f".{path.name}.partial")
    staging.write_text(text, encoding="utf-8")
    staging.replace(path)
