"""A user's own tables: ratings to learn from, texts to predict for. Unusable rows are named or counted."""

import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from carl.data.rows import (
    BadRows,
    Row,
    columns_of,
    counted,
    format_of,
    iter_rows,
    open_text,
    require_column,
    utf8_fault,
)
from carl.errors import CarlError, UsageError

logger = logging.getLogger(__name__)
_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}


class Ratings(NamedTuple):
    """Rated texts as read: n `texts`, `labels` (n, 2) float32 = valence, arousal (NaN = not rated).

    `splits` names each row's split ("train", "dev", "test") where the file states one; `notes` holds every
    count worth telling.
    """

    texts: list[str]
    labels: npt.NDArray[np.float32]
    splits: list[str] | None = None
    notes: tuple[str, ...] = ()


def to_unit_scale(values: npt.ArrayLike, low: float, high: float) -> npt.NDArray[np.float32]:
    """Map ratings from [low, high] to [-1, 1]: 2 (x - low) / (high - low) - 1. Any shape; NaN stays NaN."""
    unit = 2.0 * (np.asarray(values, dtype=np.float64) - low) / (high - low) - 1.0
    return unit.astype(np.float32)


class _BadCellError(Exception):
    """A cell that makes its row unusable."""

    def __init__(self, column: str | None, what: str):
        self.column = column
        self.what = what


def read_ratings(
    path: str | Path,
    *,
    text: str = "text",
    valence: str | None = None,
    arousal: str | None = None,
    scale: tuple[float, float] | None = None,
    skip_bad_rows: bool = False,
) -> Ratings:
    """Read a table of rated texts; labels come mapped from `scale` to [-1, 1].

    `valence` and `arousal` name columns; None takes the column of that very name where there is one. An empty
    label cell means not rated. A column `split` (train, dev or validation, test) is the official split.

    Raises:
        UsageError: no such file, column or format, or no scale.
        CarlError: a bad row (an empty text, a label that is no number or outside its scale, no label at all,
            not UTF-8, a ragged CSV row, malformed JSON) without `skip_bad_rows`; no usable row with it.
    """
    path = Path(path)
    columns = columns_of(path)
    low, high = _checked_scale(path, scale)
    require_column(path, columns, text)
    rated = _label_columns(path, columns, valence, arousal)
    wanted = [text, *(name for name in rated if name)]
    official = "split" in columns and "split" not in wanted

    bad = BadRows(path, skip_bad_rows)
    texts: list[str] = []
    labels: list[tuple[float, float]] = []
    splits: list[str] = []
    for row, cells in iter_rows(path, bad, [*wanted, "split"] if official else wanted):
        try:
            sentence = _text(text, cells.get(text))
            v, a = (_rating(name, cells.get(name), low, high) if name else math.nan for name in rated)
            if math.isnan(v) and math.isnan(a):
                raise _BadCellError(" and ".join(name for name in rated if name), "no rating in the row")
            if official:
                splits.append(_split(cells.get("split")))
        except _BadCellError as error:
            bad.report(row, error.what, error.column)
            continue
        texts.append(sentence)
        labels.append((v, a))
    if not texts:
        raise CarlError(f"{path} has no usable row{'; '.join(('', *bad.notes()))}; check its columns.")

    array = to_unit_scale(labels, low, high)
    notes = list(bad.notes())
    for name, missing in zip(("valence", "arousal"), np.isnan(array).sum(axis=0), strict=True):
        if missing:
            notes.append(f"{missing} of {len(texts)} rows have no {name} rating")
    if official:
        notes.append("the column 'split' is taken as the official split")
    return Ratings(texts, array, splits if official else None, tuple(notes))


def _checked_scale(path: Path, scale: tuple[float, float] | None) -> tuple[float, float]:
    if scale is None:
        raise UsageError(
            f"{path}: say on which scale its labels are, lowest and highest, such as --scale 1 9."
        )
    low, high = scale
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"A scale goes from a lower to a higher number, such as --scale 1 9, not {low} {high}."
        )
    return low, high


def _label_columns(
    path: Path, columns: list[str], valence: str | None, arousal: str | None
) -> tuple[str | None, str | None]:
    for name in (valence, arousal):
        if name is not None:
            require_column(path, columns, name)
    if valence is None and arousal is None:
        valence, arousal = (name if name in columns else None for name in ("valence", "arousal"))
    if valence is None and arousal is None:
        raise UsageError(
            f"{path}: name the label columns (--valence, --arousal); its columns are: {', '.join(columns)}."
        )
    return valence, arousal


def _text(column: str, cell: Any) -> str:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise _BadCellError(column, "the text is empty")
    if not isinstance(cell, str):
        raise _BadCellError(column, f"{_short(cell)} is not a text")
    if fault := utf8_fault(cell):  # JSON can spell half a character, "\ud83d"
        raise _BadCellError(column, fault)
    return cell


def _rating(column: str, cell: Any, low: float, high: float) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        raise _BadCellError(column, f"{_short(cell)} is not a number") from None
    if isinstance(cell, str | bool) and math.isnan(value):  # the word nan; a float NaN is a missing value
        raise _BadCellError(column, f"{_short(cell)} is not a number")
    if value < low or value > high:
        raise _BadCellError(column, f"{value:g} lies outside the scale {low:g} to {high:g}")
    return value


def _split(cell: Any) -> str:
    split = _SPLITS.get(str(cell).strip().lower())
    if split is None:
        raise _BadCellError(
            "split", f"{_short(cell)} is none of train, dev, test (rename a column that means else)"
        )
    return split


def _short(cell: Any) -> str:
    shown = repr(cell)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def read_texts(
    source: str | Path, column: str = "text", *, skip_bad_rows: bool = False
) -> Iterator[tuple[Row, str]]:
    """Texts to predict for, streamed: the row with its original columns, and its text.

    `source` is a .csv, .tsv, .jsonl, .parquet or .txt file (a text a line), or "-" for standard input.
    Blank lines of plain text are no texts; bad rows raise a CarlError, or are left out with `skip_bad_rows`;
    both are counted in a warning of the log.

    Raises:
        UsageError: no such file, column or format (at once, not at the first row).
    """
    if source == "-":
        return _plain_texts(_stdin_lines(), BadRows("standard input", skip_bad_rows))
    path = Path(source)
    bad = BadRows(path, skip_bad_rows)
    if format_of(path) == "txt":
        with open_text(path):  # a missing file is told at once
            pass
        return _plain_texts(_file_lines(path), bad)
    require_column(path, columns_of(path), column)
    return _table_texts(path, column, bad)


def _table_texts(path: Path, column: str, bad: BadRows) -> Iterator[tuple[Row, str]]:
    for number, row in iter_rows(path, bad):
        try:
            text = _text(column, row.get(column))
        except _BadCellError as error:
            bad.report(number, error.what, error.column)
            continue
        yield row, text
    for note in bad.notes():
        logger.warning("%s: %s", path, note)


def _plain_texts(lines: Iterator[str], bad: BadRows) -> Iterator[tuple[Row, str]]:
    blank = 0
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if fault := utf8_fault(text):
            bad.report(number, fault)
        elif text.strip():
            yield {"text": text}, text
        else:
            blank += 1
    for note in (*bad.notes(), *([f"left out {counted(blank, 'blank line')}"] if blank else [])):
        logger.warning("%s: %s", bad.source, note)


def _file_lines(path: Path) -> Iterator[str]:
    with open_text(path) as lines:
        yield from lines


def _stdin_lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8-sig", errors="surrogateescape")
