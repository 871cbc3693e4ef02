"""What the README shows under "Use" runs as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from .conftest import Carl

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
USE = README[README.index("## Use") : README.index("## Train on your own ratings")]
COMMANDS = [
    line
    for block in re.findall(r"```\n(.*?)```", USE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("carl ")
]


def test_there_is_something_to_run() -> None:
    assert len(COMMANDS) >= 3
    assert "```python" in USE


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, carl: Carl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"id": [1, 2], "text": ["we made it!", "we lost."]}).to_csv("posts.csv", index=False)
    outcome = carl(*shlex.split(line, comments=True)[1:])
    assert outcome.code == 0, outcome.err
    if "--output" in line:
        scored = pd.read_csv("scored.csv")
        assert scored["id"].tolist() == [1, 2]
        assert scored["valence"][0] > scored["valence"][1]


def test_python() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", USE, re.DOTALL)
    names: dict = {"texts": ["we made it!", "we lost."]}
    exec(compile(code, "README.md", "exec"), names)
    assert names["scores"].shape == (2, 2)
    assert names["scores"][0, 0] > names["scores"][1, 0]
    assert np.linalg.norm(names["vectors"], axis=1) == pytest.approx(1, abs=1e-5)
