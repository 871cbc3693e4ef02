"""The rows of a user's file, one by one, whatever its format: CSV, TSV, JSON lines or Parquet.

A row number is what the user sees: the line of a text file in an editor (1 is the header of a CSV file), the
record of a Parquet file (from 1). Text files are UTF-8 and may be gzipped.
"""

import csv
import difflib
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from carl.errors import CarlError, UsageError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet", ".txt": "txt"}
_DELIMITERS = {"csv": ",", "tsv": "\t"}
Row = dict[str, Any]


def counted(number: int, noun: str) -> str:
    """ "1 row", "2 rows": a count as a sentence needs it."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class BadRows:
    """What to do with rows that cannot be used: stop at the first one, or (`skip`) count them."""

    def __init__(self, source: str | Path, skip: bool):
        self.source = source
        self.skip = skip
        self.rows: list[int] = []
        self._first = ""

    def report(self, row: int, what: str, column: str | None = None) -> None:
        """Raise a CarlError that names file, row and column, or note the row where bad rows are skipped."""
        where = f"row {row}" + (f", column {column!r}" if column is not None else "")
        if not self.skip:
            raise CarlError(
                f"{self.source}, {where}: {what}; mend the row, or leave such rows out with --skip-bad-rows."
            )
        self._first = self._first or f"{where}: {what}"
        self.rows.append(row)

    def notes(self) -> tuple[str, ...]:
        """Nothing, or one sentence: how many rows were left out, and which (the first ten)."""
        if not self.rows:
            return ()
        listed = ", ".join(map(str, self.rows[:10])) + (", ..." if len(self.rows) > 10 else "")
        return (f"left out {counted(len(self.rows), 'bad row')}: {listed} ({self._first})",)


def format_of(path: Path) -> str:
    """The format that the file's name ends in, `.gz` aside; a UsageError lists the formats."""
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if suffix not in FORMATS or (path.suffix == ".gz" and suffix == ".parquet"):
        raise UsageError(
            f"{path}: the name must end in one of {', '.join(FORMATS)} (text forms may be gzipped, .csv.gz)."
        )
    return FORMATS[suffix]


def utf8_fault(text: str) -> str | None:
    """What is wrong with a text that was decoded with `surrogateescape`; None for proper Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        byte = f"byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"lone surrogate U+{code:04X}"
        return f"not UTF-8 ({byte}), so save the file as UTF-8"
    return None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file, gzipped or not. Bytes that are not UTF-8 come as surrogates, for `utf8_fault` to find."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        # newline="" is what the csv module asks for; iterating still ends lines where an editor does.
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield cast(TextIO, file)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}; check the path.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise CarlError(
            f"Cannot read {path} ({error}); check that the file is whole and readable."
        ) from error


def columns_of(path: Path) -> list[str]:
    """Column names: a CSV header, the keys of the first JSON line, a Parquet schema.

    Raises:
        UsageError: no such file, or a format that is not read here.
        CarlError: the file is empty, or its first row is not what its name promises.
    """
    kind = format_of(path)
    if kind == "txt":
        raise UsageError(f"{path}: plain text has no columns; give a .csv, .tsv, .jsonl or .parquet file.")
    if kind == "parquet":
        with _parquet(path) as file:
            return list(file.schema_arrow.names)
    strict = BadRows(path, skip=False)
    columns: list[str] = []
    if kind == "jsonl":
        columns = list(next(_json_rows(path, strict), (0, {}))[1])
    elif kind in _DELIMITERS:
        with open_text(path) as lines:
            try:
                columns = next(csv.reader(lines, delimiter=_DELIMITERS[kind], strict=True), [])
            except csv.Error as error:
                raise CarlError(f"{path}, row 1: the header cannot be read ({error}); mend it.") from error
    if not columns:
        raise CarlError(f"{path} is empty; it needs a row of column names and rows of data.")
    if fault := utf8_fault("".join(columns)):
        raise CarlError(f"{path}, row 1: the header is {fault}.")
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise CarlError(f"{path}, row 1: column {repeated[0]!r} stands there twice; rename one of them.")
    return columns


def require_column(path: Path, columns: Sequence[str], name: str) -> None:
    """Raise a UsageError that names the columns there are, nearest first, unless `name` is one of them."""
    if name in columns:
        return
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.4)
    listed = ", ".join(near + [column for column in columns if column not in near])
    raise UsageError(f"{path} has no column {name!r}; its columns are: {listed}.")


def iter_rows(path: Path, bad: BadRows, columns: list[str] | None = None) -> Iterator[tuple[int, Row]]:
    """Row numbers and rows of a table, streamed. `columns` spares a Parquet file's other columns the reading.

    Cells of CSV and TSV files are strings, as they stand there: "None", "NA", "null" are not missing.
    """
    kind = format_of(path)
    if kind == "parquet":
        return _parquet_rows(path, columns)
    return _json_rows(path, bad) if kind == "jsonl" else _csv_rows(path, _DELIMITERS[kind], bad)


def _csv_rows(path: Path, delimiter: str, bad: BadRows) -> Iterator[tuple[int, Row]]:
    with open_text(path) as lines:
        # strict: a stray quote is an error here; otherwise it would swallow the rows that follow.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = next(reader)
        while True:
            row = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if reader.line_num > row:  # a quote left open: how many rows it swallowed cannot be known
                    raise CarlError(
                        f"{path}, row {row}: a quote that opens there is not closed ({error}); "
                        "close it, or double the quotes inside the text."
                    ) from error
                bad.report(row, f"cannot be read ({error}), so double the quotes inside a quoted text")
                continue
            if not cells:  # a blank line
                continue
            if len(cells) != len(header):
                bad.report(
                    row, f"it has {len(cells)} cells and the header {len(header)}, so quote such texts"
                )
                continue
            record = dict(zip(header, cells, strict=True))
            if fault := next(((name, f) for name, cell in record.items() if (f := utf8_fault(cell))), None):
                bad.report(row, fault[1], fault[0])
                continue
            yield row, record


def _json_rows(path: Path, bad: BadRows) -> Iterator[tuple[int, Row]]:
    with open_text(path) as lines:
        for row, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if fault := utf8_fault(line):
                bad.report(row, fault)
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                bad.report(row, f"not a line of JSON ({error})")
                continue
            if not isinstance(record, dict):
                bad.report(row, 'not a JSON object such as {"text": "..."}')
                continue
            yield row, record


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow  # here: it is slow to import, and most commands do not read Parquet
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}; check the path.") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise CarlError(f"Cannot read {path} as Parquet ({error}); check that the file is whole.") from error


def _parquet_rows(path: Path, columns: list[str] | None) -> Iterator[tuple[int, Row]]:
    row = 0
    with _parquet(path) as file:
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for record in batch.to_pylist():
                row += 1
                yield row, record
