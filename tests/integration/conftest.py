"""A model that the command line trained once, and a way to call the command line within the process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from carl import cli


@dataclass
class Outcome:
    code: int
    out: str
    err: str


Carl = Callable[..., Outcome]


@pytest.fixture
def carl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Carl:
    """``carl("predict", "runs/x", "text")`` runs the command and returns exit code, stdout and stderr."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["carl", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def table(ratings_csv: Callable[..., Path]) -> Path:
    return ratings_csv(240)


@pytest.fixture(scope="session")
def train_arguments(table: Path, tiny_backbone: Path) -> list[str]:
    settings = ["batch_size=16", "queue_size=64", "evaluations=3", "logging_steps=4", "pool_size=50"]
    columns = ["--valence", "valence", "--arousal", "arousal", "--scale", "1", "9"]
    common = ["--data", str(table), *columns, "--backbone", str(tiny_backbone), "--precision", "fp32"]
    return [*common, "--epochs", "6", "--learning-rate", "2e-3", *(x for s in settings for x in ("--set", s))]


@pytest.fixture(scope="session")
def run_folder(train_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the tiny backbone."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    argv, sys.argv = sys.argv, ["carl", "train", *train_arguments, "--output", str(folder)]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code
    finally:
        sys.argv = argv
    return folder
