"""What CARL is compared with, and what is taken out of it: each a few settings away from one recipe.

All share backbone, data, batches, schedule and the choice of head in the end; a method differs in its losses alone.
"""

from dataclasses import dataclass, field
from typing import Any

#: Contrastive baselines compare two dropout views of the batch: no target network, no queue, no head's loss.
_IN_BATCH = {
    "keys": "online",
    "queue_size": 0,
    "network": "online",
    "regression_weight": 0.0,
    "ptd_weight": 0.0,
}
_TAUGHT = "recipes/emobank-minilm.yaml"
_REGRESSION = {"mccl_weight": 0.0, "ptd_weight": 0.0, "regression_weight": 1.0}


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: on the command line and in the results file.
        title: in the tables.
        group: ``other`` (what one would do instead), ``part`` (of CARL), ``carl``, ``ablation``, or ``taught``
            (learns from a teacher too, and is compared with its like).
        seeds: how many are asked for.
        changes: settings that differ from the recipe; None where nothing is trained.
        recipe: another recipe than the one all share.
    """

    name: str
    title: str
    group: str
    seeds: int
    changes: dict[str, Any] | None = field(default_factory=dict)
    recipe: str | None = None


METHODS = (
    Method("untouched", "untouched backbone", "other", 1, None),
    Method("mse", "MSE fine-tuning", "other", 5, _REGRESSION),
    Method("carl", "CARL", "carl", 5),
    Method("carl-taught", "CARL with a teacher", "taught", 5, recipe=_TAUGHT),
    Method("mccl", "MCCL alone", "part", 5, {"ptd_weight": 0.0, "regression_weight": 0.0}),
    Method(
        "supcon", "SupCon, binned labels", "other", 5, {**_IN_BATCH, "kernel": "binned", "temperature": 0.1}
    ),
    Method("ccc", "CCC fine-tuning", "other", 3, {**_REGRESSION, "regression_loss": "ccc"}),
    Method("simcse", "SimCSE", "other", 3, {**_IN_BATCH, "instance_share": 1.0, "temperature": 0.05}),
    Method("y-aware", "y-aware InfoNCE", "other", 3, _IN_BATCH),
    Method("rank-n-contrast", "Rank-N-Contrast", "other", 3, {**_IN_BATCH, "kernel": "rank"}),
    Method(
        "rtd",
        "replaced-token detection",
        "other",
        3,
        {
            **_IN_BATCH,
            "instance_share": 1.0,
            "temperature": 0.05,
            "ptd_weight": 0.1,
            "positions": "random",
            "strategy": "random",
        },
    ),
    # MCCL at next to no weight: it points out the salient tokens and teaches nothing.
    Method("ptd", "PTD alone", "part", 3, {"mccl_weight": 1e-6, "ptd_weight": 1.0, "regression_weight": 0.0}),
    Method("mccl-ptd", "MCCL + PTD", "part", 3, {"regression_weight": 0.0}),
    Method(
        "mse-taught",
        "MSE on the teacher's ratings",
        "taught",
        3,
        {**_REGRESSION, "distillation_weight": 0.0},
        _TAUGHT,
    ),
    Method("distilled", "MSE and distillation, no MCCL", "taught", 3, _REGRESSION, _TAUGHT),
    Method("no-momentum", "CARL without momentum", "ablation", 2, {"keys": "online", "network": "online"}),
    Method("no-queue", "CARL without queue", "ablation", 2, {"queue_size": 0}),
    Method("sphere", "CARL, labels on the sphere", "ablation", 2, {"kernel": "sphere"}),
    Method("binned", "CARL, binned labels", "ablation", 2, {"kernel": "binned"}),
    Method("random-positions", "CARL, random positions", "ablation", 2, {"positions": "random"}),
    Method("random-tokens", "CARL, random replacements", "ablation", 2, {"strategy": "random"}),
)
BY_NAME = {method.name: method for method in METHODS}
