"""The published corpora (from CARL_DATA), and the user's own copies in layouts written here."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from carl.data import corpus_names, describe, load, load_corpus
from carl.data.splits import normalise
from carl.errors import CarlError, UsageError

real = pytest.mark.skipif("CARL_DATA" not in os.environ, reason="CARL_DATA is not set")
PUBLISHED = [name for name in corpus_names() if describe(name).rows]
SEEDED = [name for name in PUBLISHED if not name.startswith("emobank")]


def texts(name: str) -> dict[str, list[str]]:
    return {part: list(rows["text"]) for part, rows in load(name).items()}


@real
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_corpus(name: str) -> None:
    corpus = load_corpus(name)
    labels = np.concatenate([np.array(part["label"], dtype=np.float32) for part in corpus.splits.values()])
    left_out = 130 if name.startswith("emobank") else 0
    assert len(labels) + left_out == describe(name).rows
    assert np.nanmax(np.abs(labels)) <= 1
    assert not np.isnan(labels[:, 0]).any()
    assert np.isnan(labels[:, 1]).all() if name.startswith("vader") else not np.isnan(labels).any()
    assert list(corpus.splits) == ["train", "dev", "test"]
    assert all(part.column_names == ["text", "label"] for part in corpus.splits.values())
    assert corpus.files
    assert corpus.notes


@real
@pytest.mark.parametrize("name", ["emobank", "emobank-reader", "emobank-writer"])
def test_emobank_keeps_its_official_split(name: str) -> None:
    corpus = load_corpus(name)
    assert {part: len(rows) for part, rows in corpus.splits.items()} == {
        "train": 8062 - 130,
        "dev": 1000,
        "test": 1000,
    }
    assert corpus.notes == ("left out 130 training rows whose text also stands in dev or test",)
    held_out = {normalise(text) for part in ("dev", "test") for text in corpus.splits[part]["text"]}
    assert not held_out & {normalise(text) for text in corpus.splits["train"]["text"]}
    assert "None" in corpus.splits["dev"]["text"]


@real
def test_emobank_views_differ() -> None:
    pooled, reader, writer = (
        np.array(load(f"emobank{view}")["test"]["label"], dtype=np.float32)
        for view in ("", "-reader", "-writer")
    )
    assert np.corrcoef(reader[:, 0], writer[:, 0])[0, 1] < 0.95
    assert np.corrcoef(pooled[:, 0], (reader + writer)[:, 0])[0, 1] > 0.95


@real
@pytest.mark.parametrize("name", SEEDED)
def test_no_text_stands_in_two_seeded_splits(name: str) -> None:
    keys = {part: {normalise(text) for text in rows} for part, rows in texts(name).items()}
    assert not keys["train"] & keys["dev"]
    assert not keys["train"] & keys["test"]
    assert not keys["dev"] & keys["test"]
    assert 0.08 < len(keys["test"]) / sum(map(len, keys.values())) < 0.12


@real
def test_traps_of_the_published_files() -> None:
    assert "null" in [text for part in texts("warriner").values() for text in part]
    assert any("1 post" in note for note in load_corpus("facebook-va").notes)
    for name in ("vader-tweets", "vader-nyt", "vader-amazon"):
        assert not any("&amp;" in text for part in texts(name).values() for text in part)


def test_every_corpus_is_described() -> None:
    for name in corpus_names():
        info = describe(name)
        assert info.name == name
        assert info.scale[0] < info.scale[1]
        assert info.title
        assert info.licence
        assert info.publisher
        assert info.citation


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"There is no corpus 'emobnk': did you mean emobank"):
        load("emobnk")
    with pytest.raises(UsageError, match=r"there are emobank"):
        describe("qqqqqq")
    with pytest.raises(UsageError, match=r"There is no file nowhere/my.csv"):
        load("nowhere/my.csv", scale=(1, 9))


def test_a_known_corpus_takes_no_columns() -> None:
    with pytest.raises(UsageError, match=r"emobank has its own columns and scale"):
        load("emobank", scale=(1, 5))


# IEMOCAP, in the release's layout.

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"


def release(root: Path) -> Path:
    for session in range(1, 6):
        dialog = root / f"Session{session}" / "dialog"
        (dialog / "EmoEvaluation" / "Attribute").mkdir(parents=True)
        (dialog / "transcriptions").mkdir()
        turns = [f"Ses0{session}F_impro01_F00{i}" for i in range(3)]
        rated = "".join(
            f"[6.2901 - 8.2357]\t{turn}\tneu\t[{value:.4f}, 2.5000, 2.5000]\n"
            "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2;\t()\n\n"
            for turn, value in zip(turns, (1, 3, 5.5), strict=True)
        )
        spoken = "".join(
            f"{turn} [006.2901-008.2357]: Turn {turn[-1]} of session {session}.\n" for turn in turns
        )
        (dialog / "EmoEvaluation" / f"Ses0{session}F_impro01.txt").write_text(HEADER + rated)
        (dialog / "EmoEvaluation" / f"._Ses0{session}F_impro01.txt").write_bytes(b"\x00\x05\x16\x07[")
        (dialog / "transcriptions" / f"Ses0{session}F_impro01.txt").write_text(spoken + "F: no turn name\n")
    return root


def test_iemocap_splits_by_session(no_corpora: Path) -> None:
    release(no_corpora / "iemocap" / "IEMOCAP_full_release")
    corpus = load_corpus("iemocap")
    assert {part: len(rows) for part, rows in corpus.splits.items()} == {"train": 9, "dev": 3, "test": 3}
    assert list(corpus.splits["dev"]["text"]) == [f"Turn {i} of session 4." for i in range(3)]
    np.testing.assert_allclose(corpus.splits["test"]["label"], [[-1, -0.25], [0, -0.25], [1, -0.25]])
    notes = " | ".join(corpus.notes)
    assert "split by session" in notes
    assert "clipped 5 turns" in notes
    assert len(corpus.files) == 10


def test_iemocap_counts_turns_without_words(
    tmp_path: Path, no_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = release(tmp_path / "own" / "iemocap")  # or without the release's own folder, in CARL_DATA
    monkeypatch.setenv("CARL_DATA", str(tmp_path / "own"))
    (root / "Session5/dialog/transcriptions/Ses05F_impro01.txt").write_text(
        "Ses05F_impro01_F000 [0-1]: Only this.\n"
    )
    assert "left out 2 rated turns without a transcription" in load_corpus("iemocap").notes
    spoken = root / "Session4/dialog/transcriptions/Ses04F_impro01.txt"
    spoken.write_bytes(spoken.read_bytes().replace(b"Turn 1", b"Turn\x92s"))
    assert "1 turn with bytes that are not UTF-8, each replaced by U+FFFD" in load_corpus("iemocap").notes
    broken = root / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    broken.write_text(HEADER + "[6.2901 - 8.2357]\tSes02F_impro01_F000\tneu\n")
    with pytest.raises(CarlError, match=r"Ses02F_impro01.txt, row 3: not .*restore"):
        load("iemocap")
    broken.unlink()
    with pytest.raises(CarlError, match=r"copy the whole release"):
        load("iemocap")


def test_missing_own_copies_say_what_to_put_where(no_corpora: Path) -> None:
    with pytest.raises(CarlError) as caught:
        load("iemocap")
    assert str(no_corpora / "iemocap") in str(caught.value)
    assert "IEMOCAP_full_release" in str(caught.value)
    with pytest.raises(CarlError) as caught:
        load("emotales")
    assert str(no_corpora / "emotales") in str(caught.value)
    assert "View#1_dimensions.xlsx" in str(caught.value)


# EmoTales, in a workbook written by hand.

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(path: Path, sheets: dict[str, list[list[str | float | None]]]) -> None:
    """Write an .xlsx file: text in shared strings, numbers in place."""
    strings: list[str] = []

    def cell(row: int, column: int, value: str | float | None) -> str:
        if value is None:
            return ""
        place = f'r="{chr(65 + column)}{row}"'
        if not isinstance(value, str):
            return f"<c {place}><v>{value}</v></c>"
        strings.append(value.replace("&", "&amp;").replace("<", "&lt;"))
        return f'<c {place} t="s"><v>{len(strings) - 1}</v></c>'

    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as book:
        names = "".join(f'<sheet name="{n}" sheetId="{i}" r:id="r{i}"/>' for i, n in enumerate(sheets, 1))
        book.writestr(
            "xl/workbook.xml", f'<workbook {MAIN} xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>'
        )
        links = "".join(
            f'<Relationship Id="r{i}" Target="worksheets/s{i}.xml"/>' for i in range(1, len(sheets) + 1)
        )
        book.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{links}</Relationships>")
        for i, rows in enumerate(sheets.values(), 1):
            body = "".join(
                f'<row r="{r}">{"".join(cell(r, c, value) for c, value in enumerate(row))}</row>'
                for r, row in enumerate(rows, 1)
            )
            book.writestr(
                f"xl/worksheets/s{i}.xml", f"<worksheet {MAIN}><sheetData>{body}</sheetData></worksheet>"
            )
        items = "".join(f"<si><t>{text}</t></si>" for text in strings)
        book.writestr("xl/sharedStrings.xml", f"<sst {MAIN}>{items}</sst>")


HEADINGS: list[list[str | float | None]] = [
    ["", "Annotator 1", None, None, "Annotator 2"],
    ["Sentence", "EVA", "ACT", "POW", "EVA", "ACT", "POW"],
]


def test_emotales_takes_the_annotators_mean(no_corpora: Path) -> None:
    tales = {
        "The Fox": [*HEADINGS, ["The fox<br>didn&#39;t mind.", 9, 5, 1, 7, None, 2], ["Nobody rated this."]],
        "The Owl": [*HEADINGS, *([f"Owl sentence {i}.", 1, 9, 5, 1, 9, 5] for i in range(40))],
    }
    workbook(no_corpora / "emotales" / "View #1" / "View#1_dimensions.xlsx", tales)
    corpus = load_corpus("emotales")
    rows = {row["text"]: row["label"] for part in corpus.splits.values() for row in part}
    assert len(rows) == 41
    assert rows["The fox didn't mind."] == [0.75, 0.0]
    assert rows["Owl sentence 7."] == [-1.0, 1.0]
    assert corpus.notes[0] == "left out 1 sentence that nobody rated"


def test_emotales_in_another_form(no_corpora: Path) -> None:
    path = no_corpora / "emotales" / "View#1_dimensions.xlsx"
    workbook(path, {"The Fox": [*HEADINGS, ["The fox sat.", 12, 5, 1]]})
    with pytest.raises(CarlError, match=r"sheet 'The Fox', row 3: '12' is no rating on 1 to 9"):
        load("emotales")
    workbook(path, {"The Fox": HEADINGS})
    with pytest.raises(CarlError, match=r"holds no rated sentence"):
        load("emotales")
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CarlError, match=r"cannot be read as an .xlsx workbook"):
        load("emotales")
