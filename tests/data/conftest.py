from pathlib import Path

import pytest


@pytest.fixture
def no_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without corpora: an empty cache, no CARL_DATA. Returns the cache's data folder."""
    monkeypatch.delenv("CARL_DATA", raising=False)
    monkeypatch.setenv("CARL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"
