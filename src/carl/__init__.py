"""CARL: emotion-aware sentence embeddings, trained on continuous valence-arousal ratings.

>>> from carl import AffectEncoder
>>> model = AffectEncoder.from_pretrained("runs/emobank")
>>> model.predict(["I can't believe we made it!"])  # valence and arousal in [-1, 1]
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carl.config import CarlConfig
    from carl.data import load
    from carl.errors import CarlError, UsageError
    from carl.model import AffectEncoder
    from carl.training import train

__all__ = ["AffectEncoder", "CarlConfig", "CarlError", "UsageError", "load", "train"]
__version__ = importlib.metadata.version("carl-affect")

# Imported on first use, so that `import carl` and `carl --help` do not wait for torch.
_HOME = {
    "AffectEncoder": "carl.model",
    "CarlConfig": "carl.config",
    "CarlError": "carl.errors",
    "UsageError": "carl.errors",
    "load": "carl.data",
    "train": "carl.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'carl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
