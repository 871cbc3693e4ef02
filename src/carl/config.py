"""The configuration of a training run: one dataclass, read from YAML, overridden by flags."""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from carl.errors import UsageError

KERNELS = ("gaussian", "sphere", "rank", "binned")
KEYS = ("target", "online")
STRATEGIES = ("hotflip", "mlm", "embedding", "random")
POSITIONS = ("saliency", "random")
SALIENCIES = ("norm", "grad_x_input")
NETWORKS = ("online", "target")
REGRESSION_LOSSES = ("mse", "ccc")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass
class CarlConfig:
    """Everything that decides the outcome of a run. The defaults are the best configuration we know."""

    data: list[str] = field(default_factory=lambda: ["emobank"])
    """Corpora to train on: known names or paths of own tables; ``name=0.5`` draws half of it each epoch."""
    text: str = "text"
    """Text column of own tables."""
    valence: str | None = None
    """Valence column of own tables."""
    arousal: str | None = None
    """Arousal column of own tables."""
    scale: list[float] | None = None
    """Lowest and highest value of the rating scale of own tables, such as [1, 9]."""
    skip_bad_rows: bool = False
    """Leave out, count and list the bad rows of own tables instead of stopping at the first."""

    teacher: str | None = None
    """Whose ratings stand in wherever one is missing: folder of a trained model, or a file of the ratings it gave
    (``teacher.safetensors`` of an earlier run)."""
    teacher_share: float = 0.0
    """Share of a human rating for which the teacher's stands in too."""
    distillation_weight: float = 0.0
    """Weight of embedding distillation: a linear map of each embedding shall point where the teacher's embedding of the
    same text does. Hands over what two ratings cannot say; 0 leaves it out."""
    distillation_dim: int = 64
    """Principal components of the teacher's embeddings that are handed over."""
    unlabelled: list[str] = field(default_factory=list)
    """Texts for the teacher to rate: training texts of corpora and tasks, or own files; ``name=0.5`` as above."""

    backbone: str = "minilm"
    """``minilm`` (embedded), or the name or path of a Hugging Face or sentence-transformers encoder."""
    max_length: int | None = None
    """Longest training text in tokens, null for the backbone's limit; longer ones are cut, and counted. The memory of
    a step grows with it; the trained model reads as far as its backbone all the same."""

    mccl_weight: float = 1.0
    """Weight of MCCL; 0 leaves it out (with ``ptd_weight: 0``: plain regression fine-tuning)."""
    kernel: str = "gaussian"
    """Label affinity: gaussian, sphere, rank or binned."""
    instance_share: float = 0.0
    """Share of MCCL that goes to telling each text from all others, whatever the labels (MoCo, SimCSE): keeps what a
    pair of ratings does not say. 1 leaves the labels out."""
    sigma: float = 1.0
    """Width of the gaussian kernel, in SD of the training labels."""
    kappa: float = 30.0
    """Concentration of the sphere kernel; about 1 / (width in label units)^2."""
    bins: int = 4
    """Equally filled bins per dimension, for the binned kernel."""
    temperature: float = 0.2
    """Temperature tau of the contrastive softmax."""
    projection_dim: int = 128
    """Length of the vectors that MCCL compares."""
    keys: str = "target"
    """Who makes the keys: the target network (momentum), or the online network itself with other dropout, through which
    gradient flows too (as in SimCSE and SupCon)."""
    queue_size: int = 1024
    """Keys remembered from earlier batches; 0 compares within the batch only."""
    momentum: float = 0.99
    """Share m that the target network keeps of itself at each step; 0 makes it a copy of the online network."""

    soft_labels: float = 0.0
    """Share of a rating for which the target network's own prediction stands in, as far as that network has moved:
    ratings are noisy, and its average over many steps is less so (mean teacher, Tarvainen 2017). 0: ratings alone."""

    network: str = "target"
    """Which network is scored and saved: online, or target, its moving average (online where there is none)."""

    ptd_weight: float = 0.1
    """Weight lambda of perturbed token detection; 0 leaves it out, and its forward and backward with it."""
    strategy: str = "hotflip"
    """How tokens are perturbed: hotflip, mlm (needs a masked-LM head), embedding or random."""
    positions: str = "saliency"
    """Which tokens are perturbed: the most salient, or random ones (the control)."""
    saliency: str = "norm"
    """Saliency of a token: norm of its gradient, or |gradient x input| (grad_x_input)."""
    ratio: float = 0.15
    """Share rho of a sentence's tokens to perturb, rounded up."""
    pool_size: int = 4096
    """Candidate tokens that hotflip compares at each step."""
    embedding_step: float = 1.0
    """Length of the embedding strategy's step, relative to the embedding."""

    regression_weight: float = 0.5
    """Weight beta of the valence-arousal head's loss in the encoder; the head itself always learns."""
    regression_loss: str = "mse"
    """Loss of that head: mse (in SD of the labels) or ccc."""

    epochs: float = 3.0
    """Passes over the training data."""
    batch_size: int = 64
    """Sentences per step and process."""
    accumulation: int = 1
    """Batches whose gradients are added up before a step."""
    learning_rate: float = 1e-4
    """Peak learning rate of the encoder."""
    head_learning_rate: float = 1e-3
    """Peak learning rate of projector and heads, which start from nothing."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises; it falls linearly after."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it; 0 leaves them as they are."""
    seed: int = 0
    """Seed of everything random."""
    precision: str = "auto"
    """fp32, bf16 (autocast; weights stay fp32), or auto: bf16 where it is measured to be faster."""

    output: str = "runs/carl"
    """Run folder: the model, its configuration, metrics, report and checkpoints."""
    evaluations: int = 6
    """How often the dev split is scored, and a checkpoint written, at equal distances over the run."""
    logging_steps: int = 10
    """Steps between two lines of training metrics."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UsageError: naming the setting, its value and what is allowed.
        """
        for name, allowed in (
            ("kernel", KERNELS),
            ("keys", KEYS),
            ("network", NETWORKS),
            ("strategy", STRATEGIES),
            ("positions", POSITIONS),
            ("saliency", SALIENCIES),
            ("regression_loss", REGRESSION_LOSSES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}")
        for name, value in dataclasses.asdict(self).items():
            self._require(name, not isinstance(value, float) or math.isfinite(value), "a finite number")
        for name in ("sigma", "kappa", "temperature", "epochs", "learning_rate", "head_learning_rate"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("mccl_weight", "ptd_weight", "regression_weight", "weight_decay", "max_grad_norm",
                     "queue_size", "embedding_step", "distillation_weight"):  # fmt: skip
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in (
            "batch_size",
            "accumulation",
            "projection_dim",
            "distillation_dim",
            "evaluations",
            "logging_steps",
        ):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("bins", "pool_size"):
            self._require(name, getattr(self, name) >= 2, "2 or more")
        self._require("max_length", self.max_length is None or self.max_length >= 3, "3 or more, or null")
        self._require("momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        self._require("soft_labels", 0 <= self.soft_labels < 1, "at least 0 and below 1")
        self._require("instance_share", 0 <= self.instance_share <= 1, "from 0 to 1")
        self._require("teacher_share", 0 <= self.teacher_share < 1, "at least 0 and below 1")
        self._require("warmup", 0 <= self.warmup < 1, "at least 0 and below 1")
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("ratio", 0 < self.ratio <= 1, "above 0 and at most 1")
        self._require("data", len(self.data) > 0, "at least one corpus")
        if self.scale is not None:
            self._require(
                "scale", len(self.scale) == 2 and self.scale[0] < self.scale[1], "two numbers, low and high"
            )
        taught = self.unlabelled or self.teacher_share > 0 or self.distillation_weight > 0
        if taught and self.teacher is None:
            raise UsageError(
                "unlabelled, teacher_share and distillation_weight need a teacher: give the folder of a trained model"
            )
        if self.mccl_weight == 0 and self.ptd_weight == 0 and self.regression_weight == 0:
            raise UsageError(
                "mccl_weight, ptd_weight and regression_weight are all 0: there is nothing to learn"
            )
        if self.ptd_weight > 0 and self.mccl_weight == 0 and self.regression_weight == 0:
            raise UsageError(
                "ptd_weight needs mccl_weight or regression_weight above 0: saliency is their gradient"
            )

    @property
    def view_dim(self) -> int:
        """Numbers of the teacher's view of a text that training needs; 0 where it is not distilled."""
        return self.distillation_dim if self.distillation_weight > 0 else 0

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UsageError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")

    @classmethod
    def from_mapping(cls, values: dict[str, Any], source: str = "configuration") -> Self:
        """Build from plain values, converting numbers and checking names and types.

        Raises:
            UsageError: for an unknown key (with the nearest known one) or a value of the wrong type.
        """
        types_of = typing.get_type_hints(cls)
        converted = {}
        for key, value in values.items():
            if key not in types_of:
                near = difflib.get_close_matches(str(key), types_of, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise UsageError(f"{source}: unknown setting {key!r}{hint}")
            converted[key] = _convert(value, types_of[key], f"{source}: {key}")
        return cls(**converted)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """Read a recipe; ``overrides`` win.

        Raises:
            UsageError: if the file cannot be read, is not a YAML mapping, or holds an unknown or bad setting.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot read the recipe ({error})") from error
        except yaml.YAMLError as error:
            raise UsageError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
        if not isinstance(values, dict):
            raise UsageError(f"{path}: a recipe is a list of `setting: value` lines")
        return cls.from_mapping({**values, **(overrides or {})}, source=str(path))

    def to_yaml(self) -> str:
        """Every setting with its value, readable by ``from_yaml``."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def _convert(value: Any, kind: Any, where: str) -> Any:
    """``value`` as the annotated type; YAML reads 5e-5 as text and 3 as int, both fine for a float."""
    options = typing.get_args(kind) if typing.get_origin(kind) is types.UnionType else (kind,)
    if value is None and type(None) in options:
        return None
    (target,) = [option for option in options if option is not type(None)]
    if typing.get_origin(target) is list:
        (item,) = typing.get_args(target)
        if isinstance(value, str) and item is str:
            value = [value]
        if not isinstance(value, list):
            raise UsageError(f"{where} must be a list, got {value!r}")
        return [_convert(element, item, where) for element in value]
    if target is bool or isinstance(value, bool):
        if target is bool and isinstance(value, bool):
            return value
    elif target is str:
        if isinstance(value, str | int | float):
            return str(value)
    else:
        try:
            number = float(value)
            if target is float or number == int(number):
                return target(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise UsageError(f"{where} must be {getattr(target, '__name__', target)}, got {value!r}")
