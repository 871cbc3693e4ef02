import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl.data import read_ratings, to_unit_scale
from carl.errors import CarlError, UsageError

GOOD = "text,v,a\nWhat a morning!,9,7\nIt rained again.,3,\n"


def write(folder: Path, content: str | bytes, name: str = "my.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, skip: bool = False):
    return read_ratings(path, valence="v", arousal="a", scale=(1, 9), skip_bad_rows=skip)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1),
    st.floats(-1e3, 1e3),
    st.floats(1e-2, 1e3),
)
def test_scale_maps_ends_to_ends_and_back(values: list[float], low: float, width: float) -> None:
    high = low + width
    np.testing.assert_allclose(to_unit_scale([low, (low + high) / 2, high], low, high), [-1, 0, 1], atol=1e-4)
    inside = low + (np.array(values) % width)
    unit = to_unit_scale(inside, low, high)
    assert unit.dtype == np.float32
    assert np.abs(unit).max() <= 1 + 1e-6
    np.testing.assert_allclose(
        (unit.astype(float) + 1) / 2 * width + low, inside, atol=1e-6 * (abs(low) + width)
    )


def test_scale_keeps_missing_ratings_missing() -> None:
    assert np.isnan(to_unit_scale([[np.nan, 5.0]], 1, 9)).tolist() == [[True, False]]


def test_csv_ratings(tmp_path: Path) -> None:
    ratings = read(write(tmp_path, GOOD))
    assert ratings.texts == ["What a morning!", "It rained again."]
    np.testing.assert_allclose(ratings.labels, [[1, 0.5], [-0.5, np.nan]])
    assert ratings.labels.dtype == np.float32
    assert ratings.notes == ("1 of 2 rows have no arousal rating",)
    assert ratings.splits is None


def test_every_format_reads_the_same(tmp_path: Path) -> None:
    rows = [
        {"text": "Tabs\tand, commas", "v": 1.0, "a": 9.0},
        {"text": 'a "quoted"\nword', "v": 5.0, "a": None},
    ]
    write(tmp_path, 'text,v,a\n"Tabs\tand, commas",1,9\n"a ""quoted""\nword",5,\n', "r.csv")
    write(tmp_path, '\ufefftext\tv\ta\r\n"Tabs\tand, commas"\t1\t9\r\n"a ""quoted""\nword"\t5\t\r\n', "r.tsv")
    write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "r.jsonl")
    write(tmp_path, gzip.compress((tmp_path / "r.csv").read_bytes()), "r.csv.gz")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    expected = read(tmp_path / "r.csv")
    assert expected.texts == [row["text"] for row in rows]
    for name in ("r.tsv", "r.jsonl", "r.csv.gz", "r.parquet"):
        ratings = read(tmp_path / name)
        assert ratings.texts == expected.texts, name
        np.testing.assert_array_equal(ratings.labels, expected.labels)


def test_words_that_look_missing_are_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "text,v,a\nNone,5,5\nnull,5,5\nNA,5,5\nnan,5,5\n")
    assert read(path).texts == ["None", "null", "NA", "nan"]


BAD_ROWS = {
    "outside": ("text,v,a\nfine,5,5\nhigh,9.5,5\n", "row 3, column 'v': 9.5 lies outside the scale 1 to 9"),
    "infinite": ("text,v,a\nfine,5,5\nhigh,5,inf\n", "row 3, column 'a': inf lies outside"),
    "word": ("text,v,a\nfine,5,5\n\nhigh,good,5\n", "row 4, column 'v': 'good' is not a number"),
    "nan word": ("text,v,a\nfine,5,5\nhigh,nan,5\n", "row 3, column 'v': 'nan' is not a number"),
    "decimal comma": ('text,v,a\nfine,5,5\nhigh,"3,5",5\n', "row 3, column 'v': '3,5' is not a number"),
    "empty text": ("text,v,a\nfine,5,5\n  ,5,5\n", "row 3, column 'text': the text is empty"),
    "unrated": ("text,v,a\nfine,5,5\nhm,, \n", "row 3, column 'v and a': no rating"),
    "ragged": ("text,v,a\nfine,5,5\nwell, well,5,5\n", "row 3: it has 4 cells and the header 3"),
    "short": ("text,v,a\nfine,5,5\nwell,5\n", "row 3: it has 2 cells and the header 3"),
    "quote": ('text,v,a\nfine,5,5\n"No" she said,5,5\n', "row 3: cannot be read"),
    "after lines in a text": ('text,v,a\n"two\nlines",5,5\nhigh,x,5\n', "row 4, column 'v'"),
    "latin-1": (b"text,v,a\nfine,5,5\ncaf\xe9,5,5\n", "row 3, column 'text': not UTF-8 (byte 0xE9)"),
}


@pytest.mark.parametrize(("content", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_csv_row_is_named_or_counted(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CarlError) as caught:
        read(path)
    assert f"{path}, {message}" in str(caught.value)
    assert "--skip-bad-rows" in str(caught.value)
    ratings = read(path, skip=True)
    assert len(ratings.texts) == 1
    assert len(ratings.labels) == 1
    row = message.split(":")[0].split(",")[0].removeprefix("row ")
    assert ratings.notes[0].startswith(f"left out 1 bad row: {row} (row {row}")


BAD_LINES = {
    "malformed": ('{"text": "b", "v": 5', "row 2: not a line of JSON"),
    "list": ("[1, 2]", "row 2: not a JSON object"),
    "number as text": ('{"text": 7, "v": 5}', "row 2, column 'text': 7 is not a text"),
    "bool": ('{"text": "b", "v": true}', "row 2, column 'v': True is not a number"),
    "no text": ('{"v": 5}', "row 2, column 'text': the text is empty"),
    "half a character": ('{"text": "\\ud83d", "v": 5}', "row 2, column 'text': not UTF-8 (lone surrogate"),
    "latin-1": (b'{"text": "caf\xe9", "v": 5}', "row 2: not UTF-8 (byte 0xE9)"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_json_line_is_named_or_counted(tmp_path: Path, line: str | bytes, message: str) -> None:
    first = b'{"text": "a", "v": 5, "a": NaN}\n'
    path = write(tmp_path, first + (line.encode() if isinstance(line, str) else line) + b"\n", "my.jsonl")
    with pytest.raises(CarlError, match=r"my\.jsonl, row 2") as caught:
        read(path)
    assert message in str(caught.value)
    assert read(path, skip=True).texts == ["a"]


def test_bad_parquet_row_is_named(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": ["a", None], "v": [5.0, 5.0], "a": [math.nan, 2.0]}), tmp_path / "my.parquet"
    )
    with pytest.raises(CarlError, match=r"row 2, column 'text': the text is empty"):
        read(tmp_path / "my.parquet")
    assert read(tmp_path / "my.parquet", skip=True).texts == ["a"]


def test_skipping_lists_the_first_ten_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "text,v,a\nfine,5,5\n" + "bad,x,5\n" * 12)
    assert read(path, skip=True).notes == (
        "left out 12 bad rows: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ... (row 3, column 'v': 'x' is not a number)",
    )


def test_an_open_quote_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,v,a\n"open,5,5\n' + "lost,5,5\n" * 5)
    with pytest.raises(CarlError, match=r"row 2: a quote that opens there is not closed"):
        read(path, skip=True)


def test_no_usable_row(tmp_path: Path) -> None:
    with pytest.raises(CarlError, match=r"no usable row; left out 1 bad row: 2"):
        read(write(tmp_path, "text,v,a\nbad,x,5\n"), skip=True)


@pytest.mark.parametrize(
    ("content", "name", "error", "message"),
    [
        ("txet,v,a\nb,5,5\n", "my.csv", UsageError, "has no column 'text'; its columns are: txet, v, a"),
        ("", "my.csv", CarlError, "is empty"),
        ("text,v,v\nb,5,5\n", "my.csv", CarlError, "column 'v' stands there twice"),
        (b"text,\xe9\nb,5\n", "my.csv", CarlError, "the header is not UTF-8"),
        ("text\xff".encode("utf-16"), "my.csv", CarlError, "not UTF-8 .byte 0xFF"),
        (b"PAR1", "my.parquet", CarlError, "Cannot read .*my.parquet as Parquet"),
        (gzip.compress(GOOD.encode())[:-12], "my.csv.gz", CarlError, "Cannot read .*my.csv.gz"),
        ("not gzip", "my.csv.gz", CarlError, "Cannot read .*my.csv.gz"),
        (GOOD, "my.xlsx", UsageError, "must end in one of .csv"),
        (GOOD, "my.txt", UsageError, "plain text has no columns"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("my.") else "",
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, content: str | bytes, name: str, error: type[CarlError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        read(write(tmp_path, content, name))
    assert type(caught.value) is error


def test_a_missing_label_column_names_the_nearest_first(tmp_path: Path) -> None:
    path = write(tmp_path, "text,a,happiness,valance\nb,5,5,5\n")
    with pytest.raises(UsageError, match=r"no column 'valence'; its columns are: valance, text"):
        read_ratings(path, valence="valence", scale=(1, 9))
    with pytest.raises(UsageError, match=r"name the label columns"):
        read_ratings(path, scale=(1, 9))


@pytest.mark.parametrize("scale", [None, (9, 1), (1, 1), (1, math.nan)])
def test_a_scale_is_needed(tmp_path: Path, scale: tuple[float, float] | None) -> None:
    with pytest.raises(UsageError, match=r"--scale 1 9"):
        read_ratings(write(tmp_path, GOOD), valence="v", scale=scale)


def test_a_missing_file(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet", "none.csv.gz"):
        with pytest.raises(UsageError, match=r"There is no file"):
            read(tmp_path / name)


def test_label_columns_are_found_by_their_own_names(tmp_path: Path) -> None:
    ratings = read_ratings(write(tmp_path, "text,arousal\nb,5\n"), scale=(1, 9))
    assert np.isnan(ratings.labels[0, 0])
    assert ratings.labels[0, 1] == 0


def test_a_split_column_is_official(tmp_path: Path) -> None:
    path = write(tmp_path, "text,v,a,split\nb,5,5,train\nc,5,5,Validation\nd,5,5,test\n")
    ratings = read(path)
    assert ratings.splits == ["train", "dev", "test"]
    assert any("official split" in note for note in ratings.notes)
    with pytest.raises(CarlError, match=r"row 2, column 'split': 'fold7' is none of train, dev, test"):
        read(write(tmp_path, "text,v,a,split\nb,5,5,fold7\n"))
