"""EmoTales (Francisco, Hervás, Peinado, Gervás 2012) from the user's own copy; its author sends it by e-mail.

Layout read here, as public code that reads the release describes it (we have no copy to check against):
`View #1/View#1_dimensions.xlsx`, one sheet a tale, two rows of headings, then a row a sentence: the sentence
in column A, and evaluation, activation, power (1-9) for each annotator in B C D, E F G, and so on.
A copy in another form can be saved as a CSV file and given by its path.
"""

import html
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from carl.data.fetch import local_folders
from carl.data.rows import counted
from carl.data.tables import Ratings
from carl.errors import CarlError

SCALE = (1.0, 9.0)
_FILE = "View #1/View#1_dimensions.xlsx"
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_REL = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"


def find() -> dict[str, Path]:
    """The release's workbook; a CarlError says where to put it and where to get it."""
    places = local_folders("emotales")
    for place in places:
        for path in (place / _FILE, place / Path(_FILE).name):
            if path.is_file():
                return {path.name: path}
    raise CarlError(
        "EmoTales is not on this machine: ask its first author, Virginia Francisco (Universidad Complutense "
        f"de Madrid), for it by e-mail, and put the file '{_FILE}' into {' or '.join(map(str, places))}; "
        "a copy in another form can be saved as CSV and given by its path, with --scale 1 9."
    )


def read(files: dict[str, Path]) -> Ratings:
    """Sentences with the means over annotators of evaluation (valence) and activation (arousal), on 1-9.

    Raises:
        CarlError: not a workbook in the release's layout; names file, sheet and row.
    """
    (path,) = files.values()
    texts, labels, unrated = [], [], 0
    for sheet, row, cells in _cells(path):
        sentence = html.unescape(re.sub(r"<br\s*/?>", " ", cells.get(1, ""))).strip()
        if row <= 2 or not sentence:
            continue
        pairs = [
            [_rating(path, sheet, row, cells.get(column + i, "")) for i in range(2)]
            for column in range(2, max(cells) + 1, 3)
        ]
        values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        if np.isnan(values).all():
            unrated += 1
            continue
        rated = ~np.isnan(values)
        totals = np.where(rated, values, 0).sum(axis=0)
        counts = rated.sum(axis=0)
        labels.append(np.divide(totals, counts, out=np.full(2, np.nan), where=counts > 0))
        texts.append(sentence)
    if not texts:
        raise CarlError(f"{path} holds no rated sentence; put the release's workbook there.")
    notes = (f"left out {counted(unrated, 'sentence')} that nobody rated",) if unrated else ()
    return Ratings(texts, np.array(labels, dtype=np.float32), None, notes)


def _rating(path: Path, sheet: str, row: int, cell: str) -> float:
    if not cell.strip():
        return float("nan")
    try:
        value = float(cell)
    except ValueError:
        value = float("inf")
    if not SCALE[0] <= value <= SCALE[1]:
        raise CarlError(
            f"{path}, sheet {sheet!r}, row {row}: {cell!r} is no rating on 1 to 9; restore the file."
        )
    return value


def _cells(path: Path) -> Iterator[tuple[str, int, dict[int, str]]]:
    """Sheet name, row number and cells (column number from 1 -> text) of every row of an .xlsx workbook."""
    try:
        with zipfile.ZipFile(path) as book:
            strings = []
            if "xl/sharedStrings.xml" in book.namelist():
                items = ElementTree.fromstring(book.read("xl/sharedStrings.xml")).findall(f"{_MAIN}si")
                strings = ["".join(t.text or "" for t in item.iter(f"{_MAIN}t")) for item in items]
            relations = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
            targets = {relation.get("Id"): relation.get("Target", "") for relation in relations}
            for sheet in ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{_MAIN}sheet"):
                target = targets[sheet.get(f"{_REL}id")]
                member = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
                for row in ElementTree.fromstring(book.read(member)).iter(f"{_MAIN}row"):
                    cells = {
                        _column(cell.get("r", "")): _value(cell, strings) for cell in row.iter(f"{_MAIN}c")
                    }
                    yield sheet.get("name", ""), int(row.get("r", "0")), cells
    except (
        zipfile.BadZipFile,
        ElementTree.ParseError,
        KeyError,
        IndexError,
        ValueError,
        zlib.error,
    ) as error:
        raise CarlError(
            f"{path} cannot be read as an .xlsx workbook ({error}); restore the release's file."
        ) from error


def _column(reference: str) -> int:
    """The number of a cell's column: 1 for "A7", 27 for "AA7"."""
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def _value(cell: ElementTree.Element, strings: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return "".join(t.text or "" for t in cell.iter(f"{_MAIN}t"))
    value = cell.findtext(f"{_MAIN}v") or ""
    return strings[int(value)] if cell.get("t") == "s" else value
