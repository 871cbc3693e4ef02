"""A model that the command line trained once, and a way to call the command line within the process."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from carl import AffectEncoder, cli
from carl.server.app import create_app


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


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """``with serve(model) as url`` runs the server on a free port of the loopback."""

    @contextmanager
    def running(model: AffectEncoder, **options: object) -> Iterator[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(model, **options), port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(30)
        assert not thread.is_alive()

    return running
