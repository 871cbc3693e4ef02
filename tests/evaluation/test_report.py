import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from carl.errors import CarlError
from carl.evaluation.figures import circumplex, png, svg
from carl.evaluation.report import ExplainedSentence, Table, align_tokens, format_number, write_report

NAN = float("nan")
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
EVIL = "<script>alert('1')</script> & \"co\" $title ${x}"


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong place; keeps text, tags and attributes."""

    void = frozenset({"meta", "link", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parse(path):
    parser = Balance()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def full_report(path, words="fine"):
    figure = circumplex(np.array([[0.2, 0.1]]), np.array([[0.3, 0.4]]))
    write_report(
        path,
        title=f"A run {words}",
        summary=f"First {words}.\n\nSecond.",
        tables=[Table(f"Scores {words}", ["method", f"r {words}"], [[words, 0.5], ["b", None]], note=words)],
        figures=[(f"drawn {words}", svg(figure)), ("pixels", png(figure, dpi=40))],
        explained=[
            ExplainedSentence(f"What luck {words}", [("what", 0.1, 0.2), ("luck", -0.3, -0.4)], 0.2, NAN)
        ],
        details={f"seed {words}": words},
    )
    return parse(path)


def test_report_is_whole_and_balanced(tmp_path):
    page = full_report(tmp_path / "report.html")
    for tag in ("title", "h1", "table", "figure", "img", "details", "dl"):
        assert tag in page.tags
    assert "First fine." in page.text
    assert f"valence .200 · arousal {DASH}" in page.text
    assert os.listdir(tmp_path) == ["report.html"]


def test_report_asks_nobody_for_anything(tmp_path):
    page = full_report(tmp_path / "report.html")
    assert "script" not in page.tags
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert len(links) == 3
    assert all(link.startswith("data:") for link in links)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|//\w", re.sub(r"base64,[\w+/=]+", "", source))
    assert "default-src 'none'" in source


def test_report_escapes_every_text(tmp_path):
    page = full_report(tmp_path / "report.html", EVIL)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 8
    assert page.text.count("$title") == page.text.count(EVIL)
    assert f"drawn {EVIL}" in dict.fromkeys(value for name, value in page.attributes if name == "alt")


def test_report_without_parts(tmp_path):
    write_report(tmp_path / "report.html", title="Bare", summary="")
    page = parse(tmp_path / "report.html")
    assert "section" not in page.tags
    assert "p" not in page.tags


def test_failure_in_the_middle_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CarlError, match=r"report\.html cannot be written: No space left"):
        write_report(path, title="new", summary="")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(CarlError, match=r"cannot be written: No such file"):
        write_report(tmp_path / "nowhere" / "report.html", title="x", summary="")


def test_other_images_and_ragged_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither SVG nor PNG"):
        write_report(tmp_path / "r.html", title="x", summary="", figures=[("a", b"GIF89a")])
    with pytest.raises(ValueError, match="needs 2 cells"):
        write_report(tmp_path / "r.html", title="x", summary="", tables=[Table("t", ["a", "b"], [["only"]])])
    assert os.listdir(tmp_path) == []


def best_cells(tmp_path, **options):
    columns = ["method", "r", "mae", "alone"]
    rows = [["a", 0.5, 0.2, None], ["b", 0.70001, 0.1, 0.3], ["c", 0.70002, NAN, None]]
    write_report(tmp_path / "r.html", title="x", summary="", tables=[Table("t", columns, rows, **options)])
    return re.findall(r'best">([^<]*)<', (tmp_path / "r.html").read_text(encoding="utf-8"))


def test_best_of_each_column(tmp_path):
    assert best_cells(tmp_path, best=True, lower_is_better=("mae",)) == [".700", ".100", ".700"]
    assert best_cells(tmp_path, best=True) == [".200", ".700", ".700"]
    assert best_cells(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.7374, ".737"), (-0.12, f"{MINUS}.120"), (1.25, "1.250"), (10.5, "10.500"), (1.0, "1.000"),
        (0.0, ".000"), (-0.0001, ".000"), (8062, "8,062"), (-3, f"{MINUS}3"), (0, "0"),
        (None, DASH), (NAN, DASH), (float("-inf"), f"{MINUS}∞"),
    ],
)  # fmt: skip
def test_format_number(value, shown):
    assert format_number(value) == shown


def test_format_number_of_numpy_and_other_precision():
    assert format_number(np.float32(0.25)) == ".250"
    assert format_number(0.7374, 1) == ".7"


def align(text, *tokens):
    stretches = align_tokens(text, [(token, float(i), 0.0) for i, token in enumerate(tokens, 1)])
    assert "".join(stretch for stretch, _ in stretches) == text
    return [(stretch, what[0]) for stretch, what in stretches if what is not None]


def test_tokens_lie_over_their_text():
    assert align("Can't sleep!", "can", "'", "t", "sleep", "!") == [
        ("Can", 1), ("'", 2), ("t", 3), ("sleep", 4), ("!", 5)
    ]  # fmt: skip
    assert align("unkindly so", "unkind", "##ly", "so") == [("unkind", 1), ("ly", 2), ("so", 3)]
    assert align("So glad", "So", "Ġglad") == [("So", 1), ("glad", 2)]
    assert align("so glad", "▁so", "▁", "glad") == [("so", 1), ("glad", 3)]


def test_lost_tokens_hand_their_share_to_the_text_between():
    assert align("Yes 🎉 we did", "yes", "[UNK]", "we", "did") == [
        ("Yes", 1),
        ("🎉", 2),
        ("we", 3),
        ("did", 4),
    ]
    assert align("Oh 😀😀", "oh", "[UNK]", "[UNK]") == [("Oh", 1), ("😀😀", 5)]
    assert align("a café at noon", "a", "cafe", "at", "noon") == [
        ("a", 1),
        ("café", 2),
        ("at", 3),
        ("noon", 4),
    ]
    assert align("cut off here", "cut") == [("cut", 1)]
    assert align("", "x") == []


def test_only_wide_pictures_are_scrolled_on_a_phone(tmp_path: Path) -> None:
    drawn = b'<svg viewBox="0 0 %d 300" xmlns="http://www.w3.org/2000/svg"></svg>'
    write_report(
        tmp_path / "r.html", title="t", summary="", figures=[("wide", drawn % 600), ("square", drawn % 330)]
    )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count('<img class="wide"') == 1
    assert page.count("<img ") == 2
