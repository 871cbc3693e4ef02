"""The results file: one JSON object a line, one line a finished cell, appended and never changed."""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from carl.errors import CarlError

Key = tuple[str, str, int, str]


@dataclass(frozen=True)
class Cell:
    """What one model, that is one method with one seed, scored on one suite.

    Attributes:
        backbone: name.
        method: name.
        seed: of the training.
        suite: name.
        scores: by column, the statistics of that column (``r``, ``accuracy`` ...).
        items: by column, the packed predictions of the test items, in the order of the test split.
        config: settings of the training; empty where nothing was trained.
        data: file hashes of the training corpora and of what was tested on.
        notes: what was refused or left out, counted.
        versions: of the packages that matter.
        device: processor or accelerator.
        seconds: training (``train``; 0 where an earlier cell trained the model) and measuring (``measure``).
    """

    backbone: str
    method: str
    seed: int
    suite: str
    scores: dict[str, dict[str, float]]
    items: dict[str, str]
    config: dict[str, Any]
    data: dict[str, dict[str, str]]
    versions: dict[str, str]
    device: str
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """What makes the cell itself."""
        return self.backbone, self.method, self.seed, self.suite


def read_cells(path: Path) -> list[Cell]:
    """The finished cells; a last line that a kill cut short is passed over.

    Raises:
        CarlError: naming the line that is damaged otherwise, or that repeats a cell.
    """
    if not path.exists():
        return []
    cells: dict[Key, Cell] = {}
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line or (number == len(lines)):
            continue
        try:
            cell = Cell(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CarlError(f"{path}, line {number}: not a result cell; remove the line") from error
        if cell.key in cells:
            raise CarlError(f"{path}, line {number}: repeats the cell {cell.key}; remove one of the two")
        cells[cell.key] = cell
    return list(cells.values())


def append_cell(path: Path, cell: Cell) -> None:
    """Add a finished cell; a line that an earlier kill cut short is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(cell)) + "\n"
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(line.encode())


def pack(values: npt.ArrayLike) -> str:
    """Predictions of n items as text: classes and truth values as bytes, reals to 1e-4 (range -3.2 to 3.2)."""
    array = np.asarray(values)
    if array.dtype.kind == "f":
        if array.size and not np.abs(array).max() < 3.2:
            raise ValueError("predictions must be finite and within -3.2 to 3.2")
        kind, raw = "r", np.round(array * 1e4).astype("<i2").tobytes()
    else:
        kind, raw = "c", array.astype("u1").tobytes()
    return kind + base64.b85encode(zlib.compress(raw, 9)).decode()


def unpack(text: str) -> npt.NDArray[Any]:
    """The inverse of ``pack``: (n,) float64, or (n,) int64."""
    raw = zlib.decompress(base64.b85decode(text[1:]))
    if text[0] == "r":
        return np.frombuffer(raw, "<i2").astype(np.float64) / 1e4
    return np.frombuffer(raw, "u1").astype(np.int64)


def by_method(cells: list[Cell], backbone: str) -> Mapping[str, list[Cell]]:
    """The cells of a backbone, by method."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.backbone == backbone:
            grouped.setdefault(cell.method, []).append(cell)
    return grouped
