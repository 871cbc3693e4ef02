"""Prediction input and output: read_texts, write_table."""

import csv
import errno
import io
import itertools
import json
import logging
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from carl.data import read_texts, write_table
from carl.errors import CarlError, UsageError

ROWS = [{"id": "1", "text": "So, so good"}, {"id": "2", "text": "null"}]


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.jsonl", "in.parquet"])
def test_tables_come_back_with_their_columns(tmp_path: Path, name: str) -> None:
    assert write_table(tmp_path / name, ROWS) == 2
    assert list(read_texts(tmp_path / name)) == [(row, row["text"]) for row in ROWS]


def test_plain_text_is_one_text_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one, two\r\n\n  three\n")
    with caplog.at_level(logging.WARNING):
        assert [text for _, text in read_texts(path)] == ["one, two", "  three"]
    assert "left out 1 blank line" in caplog.text


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("né\nzwei\n".encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert list(read_texts("-")) == [({"text": "né"}, "né"), ({"text": "zwei"}, "zwei")]
    assert not stdin.closed
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"fine\ncaf\xe9\n")))
    with pytest.raises(CarlError, match=r"standard input, row 2: not UTF-8"):
        list(read_texts("-"))


def test_reading_streams(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text\nfirst\nsecond\n" + '"open\n')
    assert [text for _, text in itertools.islice(read_texts(path), 2)] == ["first", "second"]


def test_another_column_and_a_missing_one(tmp_path: Path) -> None:
    write_table(tmp_path / "in.csv", [{"post": "hm", "n": 1}])
    assert [text for _, text in read_texts(tmp_path / "in.csv", "post")] == ["hm"]
    with pytest.raises(UsageError, match=r"no column 'text'; its columns are: post, n"):
        read_texts(tmp_path / "in.csv")  # at once, before the first row is asked for
    with pytest.raises(UsageError, match=r"There is no file"):
        read_texts(tmp_path / "none.txt")


def test_an_empty_text_is_named_or_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_table(tmp_path / "in.csv", [{"id": 1, "text": "a"}, {"id": 2, "text": ""}])
    with pytest.raises(CarlError, match=r"row 3, column 'text': the text is empty"):
        list(read_texts(tmp_path / "in.csv"))
    assert [text for _, text in read_texts(tmp_path / "in.csv", skip_bad_rows=True)] == ["a"]
    assert "left out 1 bad row: 3" in caplog.text


def test_numbers_are_written_plainly(tmp_path: Path) -> None:
    rows = [{"text": "Ünï", "v": np.float32(0.5), "n": np.int64(3), "a": math.nan}]
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        write_table(tmp_path / name, iter(rows))
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "text,v,n,a\nÜnï,0.5,3,\n"
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8")) == {
        "text": "Ünï",
        "v": 0.5,
        "n": 3,
        "a": None,
    }
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {"text": "Ünï", "v": 0.5, "n": 3, "a": None}
    ]


def test_many_rows_stream_into_every_format(tmp_path: Path) -> None:
    for name in ("out.csv", "out.parquet"):
        assert write_table(tmp_path / name, ({"text": f"t{i}", "v": i} for i in range(25_000))) == 25_000
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 25_000
    assert sum(1 for _ in csv.reader((tmp_path / "out.csv").open())) == 25_001


def test_rows_that_differ(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "v": 1}]
    for name in ("out.csv", "out.parquet"):
        with pytest.raises(CarlError, match=r"column 'v' is not in every row"):
            write_table(tmp_path / name, rows)
    with pytest.raises(CarlError, match=r"mixes types"):
        write_table(tmp_path / "out.parquet", [{"v": 1}, {"v": "x"}])
    assert write_table(tmp_path / "out.jsonl", rows) == 2
    with pytest.raises(UsageError, match=r"tables are written as"):
        write_table(tmp_path / "out.txt", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def rows():
        yield {"text": "a"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(path, rows())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CarlError, match=r"The disk is full while writing .*out.csv; free some space"):
        write_table(tmp_path / "out.csv", ROWS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(CarlError, match=r"Cannot write .*choose a folder"):
        write_table(tmp_path / "plain" / "out.csv", ROWS)
