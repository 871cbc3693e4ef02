"""CARL's training loop: two backward passes a step, on top of ``SentenceTransformerTrainer``."""

import ctypes
import json
import logging
import math
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from carl import checkpoint as ckpt
from carl.config import CarlConfig
from carl.distributed import average_gradients, share_of_batch, world_size
from carl.evaluation.valence_arousal import score
from carl.losses.carl import CarlObjective
from carl.precision import autocast
from carl.sampler import LengthBatchSampler

logger = logging.getLogger(__name__)

HEADS = r"^(projector|detector|head|view)\."
BEST = "eval_mean_r"


def training_arguments(config: CarlConfig, rows: float, folder: Path) -> SentenceTransformerTrainingArguments:
    """Translate the configuration for a training set of ``rows`` rows an epoch; checkpoints go to ``folder``."""
    per_step = config.batch_size * config.accumulation * world_size()
    steps = max(1, math.ceil(config.epochs * math.ceil(rows / per_step)))
    every = max(1, math.ceil(steps / config.evaluations))
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        learning_rate_mapping={HEADS: config.head_learning_rate},
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=BEST,
        greater_is_better=True,
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=False,
        dataloader_drop_last=True,  # nothing is dropped: the sampler's batches come out even
        disable_tqdm=True,
        report_to="none",
    )


class DevEvaluator(BaseEvaluator):
    """Pearson r, CCC and MAE of the head's predictions on the dev splits.

    With several corpora the plain names are means over the corpora, whose own scores follow under their names.

    Args:
        objective: whose outcome predicts.
        dev: datasets by corpus, columns ``text`` and ``label``.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, objective: CarlObjective, dev: Mapping[str, Dataset], precision: str) -> None:
        super().__init__()
        self.objective, self.precision = objective, precision
        self.dev = {name: (dataset["text"][:], labels_of(dataset)) for name, dataset in dev.items()}

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Scores under the names of ``carl.evaluation.valence_arousal.score``."""
        by_corpus = {}
        for name, (texts, labels) in self.dev.items():
            with autocast(self.precision, model.device), torch.no_grad():
                encoder, head = self.objective.outcome
                embeddings = encoder.encode(
                    texts, batch_size=64, convert_to_tensor=True, show_progress_bar=False
                )
                predicted = head(embeddings)
            by_corpus[name] = score(predicted.float().cpu().numpy(), labels)
        return mean_scores(by_corpus)


def mean_scores(by_corpus: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The scores of one corpus as they are; of several, their means and then each one's as ``<corpus>_<name>``."""
    if len(by_corpus) == 1:
        return dict(*by_corpus.values())
    names = {name: None for scores in by_corpus.values() for name in scores}
    means = {name: fmean(s[name] for s in by_corpus.values() if name in s) for name in names}
    return means | {f"{corpus}_{name}": value for corpus, s in by_corpus.items() for name, value in s.items()}


def labels_of(dataset: Dataset) -> npt.NDArray[np.float32]:
    """(n, 2) ratings of a dataset; what stands behind them in its labels is left out."""
    labels = np.asarray(dataset["label"][:], dtype=np.float32)
    return labels.reshape(len(labels), -1)[:, :2] if len(labels) else np.empty((0, 2), dtype=np.float32)


class CarlTrainer(SentenceTransformerTrainer):
    """Trains a ``CarlObjective``.

    Differs from its parent in the step (two backward passes, gradients of encoder *and* heads averaged over the
    ranks and clipped), in the batches (similar lengths) and in the checkpoints (atomic, with target, queue and heads,
    no pickle), so that a resumed run ends bit-identical to a straight one.

    Args:
        objective: on the model to train.
        args: from ``training_arguments``.
        train_dataset: columns ``text`` and ``label``.
        weights: (n,) how often each row is drawn per epoch.
        evaluator: scores the dev split.
        precision: ``fp32`` or ``bf16``.
        callbacks: for progress.
    """

    def __init__(
        self,
        objective: CarlObjective,
        args: SentenceTransformerTrainingArguments,
        train_dataset: Dataset,
        weights: Sequence[float],
        evaluator: BaseEvaluator,
        precision: str,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self._weights, self._precision = weights, precision
        self._max_length = reading_limit(objective.config, objective.model)
        super().__init__(
            model=objective.model,
            args=args,
            train_dataset=train_dataset,
            loss=objective,
            evaluator=evaluator,
            callbacks=[_MoveTarget(objective), _ReturnFreedMemory(), *callbacks],
        )
        self.remove_callback(PrinterCallback)  # a library does not print; progress comes as a callback

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: the run writes a card of its own, and the inherited one asks the hub about the data."""

    def get_data_collator(self, *args: Any, **kwargs: Any) -> Any:
        """The parent's, reading no further than the configuration says."""
        collator = super().get_data_collator(*args, **kwargs)
        collator.max_length = self._max_length
        return collator

    def get_batch_sampler(
        self, dataset: Dataset, batch_size: int, *args: Any, **kwargs: Any
    ) -> LengthBatchSampler:
        """Batches of similar length, as many on every rank."""
        lengths = token_lengths(self.model, dataset["text"], limit=self._max_length)
        sampler = LengthBatchSampler(lengths, self._weights, batch_size, self.args.seed, world_size())
        self.add_callback(_SetEpoch(sampler))
        return sampler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Both passes over one batch; leaves the summed gradients and returns the detached loss."""
        objective: CarlObjective = self.loss
        objective.train()
        features, labels = self.collect_features(self._prepare_inputs(inputs))
        assert labels is not None
        scale = share_of_batch(len(labels), labels.device) / self.current_gradient_accumulation_steps
        with autocast(self._precision, labels.device):
            first = objective.sentence_pass(features[0], labels)
        total = torch.stack(list(first.losses.values())).sum()
        (total * scale).backward()
        losses = {name: part.detach() for name, part in first.losses.items()}
        if objective.config.ptd_weight > 0:
            with autocast(self._precision, labels.device):
                losses["ptd"] = objective.token_pass(first)
            (losses["ptd"] * scale).backward()
        objective.remember(first)
        if self.accelerator.gradient_state.sync_gradients:
            average_gradients(objective.parameters())
        self.track_loss_components(losses)
        reported: Tensor = torch.stack([part.detach() for part in losses.values()]).sum() * scale
        return reported

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        # The parent clips the encoder's gradient alone; the heads belong to the same step.
        trainable = [p for p in self.loss.parameters() if p.requires_grad]
        return torch.nn.utils.clip_grad_norm_(trainable, self.args.max_grad_norm)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write everything into a staging folder and rename it: a kill leaves the previous checkpoint untouched."""
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.state.best_global_step:
            best = folder.with_name(f"checkpoint-{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best)
        staging = folder.with_name(f".{folder.name}.partial")
        if self.args.should_save:
            ckpt.staging_folder(folder)
            self.model.save_pretrained(str(staging), create_model_card=False)
            ckpt.save_objective(self.loss, staging)
            ckpt.save_optimizer(self.optimizer, self.lr_scheduler, staging)
            self.state.save_to_json(str(staging / "trainer_state.json"))
        _barrier()
        ckpt.save_rng(staging, self.args.process_index)
        _barrier()
        if self.args.should_save:
            ckpt.publish(staging, folder)
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        _barrier()

    def _load_from_checkpoint(self, checkpoint_path: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(checkpoint_path)
        ckpt.load_objective(self.loss, Path(checkpoint_path))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            ckpt.load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            ckpt.load_rng(Path(checkpoint), self.args.process_index)


def reading_limit(config: CarlConfig, model: SentenceTransformer) -> int | None:
    """Tokens after which a training text is cut: the configured limit or the encoder's own, whichever is less."""
    return min(filter(None, (config.max_length, model.max_seq_length)), default=None)


def token_lengths(model: SentenceTransformer, texts: Sequence[str], *, limit: int | None = None) -> list[int]:
    """Tokens per text, special ones included, cut at ``limit``."""
    encoded = model.tokenizer(list(texts), truncation=bool(limit), max_length=limit, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def _barrier() -> None:
    if world_size() > 1:
        dist.barrier()


class _MoveTarget(TrainerCallback):
    """The target network follows once per optimizer step."""

    def __init__(self, objective: CarlObjective) -> None:
        self.objective = objective

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.objective.move_target()


class _ReturnFreedMemory(TrainerCallback):
    """glibc keeps what batches of ever new shapes have freed: without this a run grows to several times its need."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)


class _SetEpoch(TrainerCallback):
    """Tells the sampler its epoch: the parent does not reach it when several ranks resume within an epoch."""

    def __init__(self, sampler: LengthBatchSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


class MetricsFile(TrainerCallback):
    """Appends training and dev metrics to ``metrics.jsonl``, one JSON object a line, without wall-clock times."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what a killed run wrote after the checkpoint that is being resumed."""
        if state.is_world_process_zero:
            kept = (
                [r for r in read_metrics(self.path) if r["step"] <= state.global_step]
                if self.path.exists()
                else []
            )
            staging = self.path.with_suffix(".partial")
            staging.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
            staging.replace(self.path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write training parts as they are, dev scores under ``dev_``."""
        if logs is None or not state.is_world_process_zero or "train_runtime" in logs:
            return
        record: dict[str, float] = {"step": state.global_step}
        for name, value in logs.items():
            if name.startswith("eval_"):
                if not name.endswith(("_runtime", "_per_second")):
                    record[f"dev_{name.removeprefix('eval_')}"] = value
            else:
                record[name] = value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of a ``metrics.jsonl``; a last line that a kill cut short is passed over."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C ends the run after the step at hand, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def __enter__(self) -> "StopOnInterrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        logger.warning(
            "interrupted: finishing the step and writing a checkpoint (Ctrl-C again to stop at once)"
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop on all ranks if one of them was interrupted."""
        if world_size() > 1:
            flag = torch.tensor(int(self.interrupted), device=args.device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            self.interrupted = bool(flag.item())
        if self.interrupted:
            control.should_save = control.should_training_stop = True
