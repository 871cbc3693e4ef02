"""Settings: read, checked, explained."""

import ast
import dataclasses
import inspect
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carl import config as config_module
from carl.config import CarlConfig
from carl.errors import UsageError

FIELDS = {field.name for field in dataclasses.fields(CarlConfig)}


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_round_trip(tmp_path: Path) -> None:
    for written in (
        CarlConfig(),
        CarlConfig(
            data=["emobank=0.5", "mein Tagebuch.csv"],
            scale=[1, 9],
            valence="válence",
            max_length=64,
            learning_rate=2e-5,
            skip_bad_rows=True,
            kernel="rank",
        ),
    ):
        assert CarlConfig.from_yaml(recipe(tmp_path, written.to_yaml())) == written


@given(
    rate=st.floats(1e-12, 10),
    seed=st.integers(0, 2**31),
    ratio=st.floats(1e-6, 1),
    text=st.text(min_size=1, max_size=20).filter(lambda s: s.isprintable()),
)
@settings(deadline=None, max_examples=80)
def test_yaml_round_trip_of_any_value(
    rate: float, seed: int, ratio: float, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written = CarlConfig(learning_rate=rate, seed=seed, ratio=ratio, valence=text, data=[text])
    path = recipe(tmp_path_factory.mktemp("recipe"), written.to_yaml())
    assert CarlConfig.from_yaml(path) == written


def test_overrides_win_and_the_rest_stays(tmp_path: Path) -> None:
    path = recipe(tmp_path, "learning_rate: 1e-4\nkernel: rank\ndata: warriner\n")
    config = CarlConfig.from_yaml(path, {"kernel": "sphere", "epochs": 1})
    assert (config.learning_rate, config.kernel, config.epochs) == (1e-4, "sphere", 1.0)
    assert config.data == ["warriner"]
    assert config.batch_size == CarlConfig().batch_size


@pytest.mark.parametrize("value", ["5e-5", 5e-5, "0.00005"])
def test_numbers_that_yaml_reads_as_text(value: Any) -> None:
    assert CarlConfig.from_mapping({"learning_rate": value}).learning_rate == 5e-5


def test_values_get_the_type_of_their_field() -> None:
    config = CarlConfig.from_mapping(
        {"epochs": 2, "batch_size": 32.0, "scale": [1, "9"], "text": 7, "max_length": None}
    )
    assert (config.epochs, config.batch_size, config.scale, config.text) == (2.0, 32, [1.0, 9.0], "7")
    assert isinstance(config.epochs, float)
    assert isinstance(config.batch_size, int)
    assert config.max_length is None


@pytest.mark.parametrize(
    ("given_name", "nearest"),
    [("learning_rte", "learning_rate"), ("kernal", "kernel"), ("batchsize", "batch_size")],
)
def test_unknown_setting_names_the_nearest(given_name: str, nearest: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"recipe\.yaml.*'{given_name}'.*'{nearest}'"):
        CarlConfig.from_yaml(recipe(tmp_path, f"{given_name}: 1\n"))


@pytest.mark.parametrize("key", ["xyzzyxyzzy", 1, True, None])
def test_unknown_setting_that_resembles_nothing(key: Any) -> None:
    with pytest.raises(UsageError, match="unknown setting"):
        CarlConfig.from_mapping({key: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "three"),
        ("epochs", None),
        ("epochs", True),
        ("epochs", [3]),
        ("batch_size", 1.5),
        ("batch_size", "1.5"),
        ("batch_size", float("inf")),
        ("batch_size", float("nan")),
        ("max_length", "long"),
        ("max_length", False),
        ("skip_bad_rows", "yes"),
        ("skip_bad_rows", 1),
        ("skip_bad_rows", None),
        ("kernel", ["gaussian"]),
        ("kernel", None),
        ("text", True),
        ("valence", {"a": 1}),
        ("scale", "1 9"),
        ("scale", ["low", "high"]),
        ("data", 5),
        ("data", None),
        ("data", [["emobank"]]),
    ],
)
def test_wrong_types(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"\b{name}\b"):
        CarlConfig.from_mapping({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "magic") for name in ("kernel", "strategy", "positions", "saliency", "regression_loss")),
        ("precision", "fp16"),
        *((name, 0) for name in ("sigma", "kappa", "temperature", "epochs", "learning_rate")),
        *((name, -0.1) for name in ("mccl_weight", "ptd_weight", "regression_weight", "weight_decay")),
        *((name, 0) for name in ("batch_size", "accumulation", "projection_dim", "evaluations")),
        *((name, math.nan) for name in ("sigma", "temperature", "mccl_weight", "learning_rate", "ratio")),
        ("head_learning_rate", -1e-3),
        ("max_grad_norm", -1),
        ("queue_size", -1),
        ("embedding_step", -1),
        ("logging_steps", 0),
        ("bins", 1),
        ("pool_size", 1),
        ("max_length", 2),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("ratio", 0.0),
        ("ratio", 1.1),
        ("data", []),
        ("scale", [9, 1]),
        ("scale", [1, 1]),
        ("scale", [1, 5, 9]),
    ],
)
def test_bad_values(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{name} is "):
        CarlConfig.from_mapping({name: value})


def test_values_at_their_limits_are_fine() -> None:
    CarlConfig(
        ratio=1.0, momentum=0.0, warmup=0.0, queue_size=0, bins=2, pool_size=2, max_length=3, scale=[0, 1]
    )


def test_nothing_to_learn() -> None:
    with pytest.raises(UsageError, match="nothing to learn"):
        CarlConfig(mccl_weight=0, ptd_weight=0, regression_weight=0)
    with pytest.raises(UsageError, match="ptd_weight needs"):
        CarlConfig(mccl_weight=0, ptd_weight=1, regression_weight=0)
    CarlConfig(mccl_weight=0, ptd_weight=0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b\n", "setting: value"),
        ("", "setting: value"),
        ("just words", "setting: value"),
        ("a: [1,", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_files_that_are_no_recipe(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"recipe\.yaml: .*{complaint}") as caught:
        CarlConfig.from_yaml(recipe(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        CarlConfig.from_yaml(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="cannot read"):
        CarlConfig.from_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"text: caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.yaml"):
        CarlConfig.from_yaml(tmp_path / "latin.yaml")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not valid YAML"):
        CarlConfig.from_yaml(recipe(tmp_path, "text: !!python/object/apply:os.getcwd []\n"))


def test_every_setting_has_a_line_of_documentation() -> None:
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(config_module)).body
        if isinstance(node, ast.ClassDef) and node.name == "CarlConfig"
    ]
    documented = {
        statement.target.id
        for statement, after in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
        and after.value.value.strip()
    }
    assert documented == FIELDS
