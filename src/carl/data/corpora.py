"""The corpora CARL knows: what each is, where its files come from, and the function that reads them.

To add one: a `Folder` with the publisher's files and hashes, a reader that turns paths into `Ratings` on the
corpus's own scale, and a line in `CORPORA`.
"""

import csv
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from carl.data import emotales, iemocap
from carl.data.fetch import Folder, RemoteFile, Sdist, fetch
from carl.data.rows import counted
from carl.data.tables import Ratings

Paths = dict[str, Path]


@dataclass(frozen=True)
class CorpusInfo:
    """What to know of a corpus before using it; `rows` is None where it depends on the user's copy."""

    name: str
    title: str
    rows: int | None
    labels: str
    scale: tuple[float, float]
    licence: str
    publisher: str
    citation: str


@dataclass(frozen=True)
class Source:
    """A corpus: `locate` gives its files by name (fetching them), `read` their ratings on `info.scale`."""

    info: CorpusInfo
    locate: Callable[[], Paths]
    read: Callable[[Paths], Ratings]


_RAW = "https://raw.githubusercontent.com"
_EMOBANK_URL = f"{_RAW}/JULIELab/EmoBank/248ce2a43e165a66d31aeaed83cff9641d6654e0/corpus"
_FACEBOOK_URL = f"{_RAW}/wwbp/additional_data_sets/2f51266add949268cd321a2d0568fd9f39da810c/valence_arousal"
_VADER_SDIST = Sdist(
    "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
_LABMT_SDIST = Sdist(
    "labMTsimple", "2.8.8", "20674802ff2d74b809f52ccc0804686bf83542d11a008679f3eb4a320d142584"
)


def _raw(name: str, sha256: str, base: str) -> RemoteFile:
    return RemoteFile(name, sha256, url=f"{base}/{name}")


def _vader(name: str, sha256: str) -> RemoteFile:
    archive = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    return RemoteFile(name, sha256, sdist=_VADER_SDIST, members=(archive, f"hutto_ICWSM_2014/{name}"))


EMOBANK = Folder(
    "emobank",
    (
        _raw("emobank.csv", "1ade4a4a453e880c0f39d0536d2b355e8a716e0cf88236c64cdb4d438cf9605b", _EMOBANK_URL),
        _raw("reader.csv", "d5398f14afde4f02d3a335393b60fc4a45d03dc5ab65b6909c7c31a633dec175", _EMOBANK_URL),
        _raw("writer.csv", "311d895d21b1047cc875a9b082e1c3e17df548011d2dec8227cf3a53b0c34e0a", _EMOBANK_URL),
    ),
)
FACEBOOK = Folder(
    "facebook-va",
    (
        _raw(
            "dataset-fb-valence-arousal-anon.csv",
            "303898828e8bace5d132783275bbead1b846c293c1d6b09f07d6f1674ebda47c",
            _FACEBOOK_URL,
        ),
    ),
)
VADER = Folder(
    "vader-icwsm",
    (
        _vader("tweets_GroundTruth.txt", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
        _vader(
            "nytEditorialSnippets_GroundTruth.txt",
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        ),
        _vader(
            "movieReviewSnippets_GroundTruth.txt",
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        ),
        _vader(
            "amazonReviewSnippets_GroundTruth.txt",
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        ),
    ),
)
WARRINER = Folder(
    "warriner",
    (
        RemoteFile(
            "BRM-emot-submit.csv",
            "85f6d7e35069b0eff3d9d88c4dbe08e6ae7dbdb81eac64be3f89ed0f5079d8e3",
            sdist=_LABMT_SDIST,
            members=("labMTsimple-2.8.8/labMTsimple/data/WK/BRM-emot-submit.csv",),
        ),
    ),
)


def _records(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file as text: the sentence "None" and the word "null" are texts, not missing values."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _labels(pairs: list[tuple[float, float]]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.array(pairs, dtype=np.float32)


def _read_emobank(paths: Paths) -> Ratings:
    """Official split; means of all raters, or by id those of `reader.csv` or `writer.csv`."""
    rows = list(_records(paths["emobank.csv"]))
    views = [path for name, path in paths.items() if name != "emobank.csv"]
    rated = {row["id"]: row for row in (_records(views[0]) if views else rows)}
    labels = [(float(rated[row["id"]]["V"]), float(rated[row["id"]]["A"])) for row in rows]
    return Ratings([row["text"] for row in rows], _labels(labels), [row["split"] for row in rows])


def _read_facebook(paths: Paths) -> Ratings:
    """Mean of the two raters. The published file has one post without text."""
    rows = list(_records(next(iter(paths.values()))))
    kept = [row for row in rows if row["Anonymized Message"].strip()]
    labels = [
        (
            (float(row["Valence1"]) + float(row["Valence2"])) / 2,
            (float(row["Arousal1"]) + float(row["Arousal2"])) / 2,
        )
        for row in kept
    ]
    notes = (f"left out {counted(len(rows) - len(kept), 'post')} that the publisher ships without text",)
    return Ratings([row["Anonymized Message"] for row in kept], _labels(labels), None, notes)


def _read_vader(paths: Paths) -> Ratings:
    """Lines of id, mean valence, text, tab separated; arousal was not rated."""
    (path,) = paths.values()
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    # Tweets and reviews hold HTML entities, the editorials some that were escaped twice.
    texts = [html.unescape(html.unescape(text)).strip() for _, _, text in lines]
    return Ratings(texts, _labels([(float(mean), np.nan) for _, mean, _ in lines]))


def _read_warriner(paths: Paths) -> Ratings:
    (path,) = paths.values()
    rows = list(_records(path))
    labels = [(float(row["V.Mean.Sum"]), float(row["A.Mean.Sum"])) for row in rows]
    return Ratings([row["Word"] for row in rows], _labels(labels))


def _emobank(name: str, title: str, *views: str) -> Source:
    info = CorpusInfo(
        name,
        title,
        10_062,
        "valence, arousal",
        (1, 5),
        "CC-BY-SA 4.0",
        "github JULIELab/EmoBank",
        "Buechel and Hahn (2017). EmoBank. EACL.",
    )
    return Source(info, partial(fetch, EMOBANK, ("emobank.csv", *views)), _read_emobank)


def _vader_part(name: str, title: str, rows: int, file: str) -> Source:
    info = CorpusInfo(
        name,
        title,
        rows,
        "valence",
        (-4, 4),
        "MIT",
        "PyPI vaderSentiment==3.3.2 (source archive)",
        "Hutto and Gilbert (2014). VADER. ICWSM.",
    )
    return Source(info, partial(fetch, VADER, (file,)), _read_vader)


_SOURCES = (
    _emobank("emobank", "Sentences of six genres, readers' and writers' views pooled"),
    _emobank("emobank-reader", "EmoBank, how readers feel", "reader.csv"),
    _emobank("emobank-writer", "EmoBank, how the writer feels", "writer.csv"),
    Source(
        CorpusInfo(
            "facebook-va",
            "Facebook status updates, mean of two raters",
            2_894,
            "valence, arousal",
            (1, 9),
            "GPL-3.0",
            "github wwbp/additional_data_sets",
            "Preoţiuc-Pietro et al. (2016). Modelling valence and arousal in Facebook posts. WASSA.",
        ),
        partial(fetch, FACEBOOK, (FACEBOOK.files[0].name,)),
        _read_facebook,
    ),
    _vader_part("vader-tweets", "Tweets, mean of 20 raters", 4_200, "tweets_GroundTruth.txt"),
    _vader_part(
        "vader-nyt", "New York Times editorial snippets", 5_190, "nytEditorialSnippets_GroundTruth.txt"
    ),
    _vader_part(
        "vader-movie",
        "Movie review snippets (the texts of MR)",
        10_605,
        "movieReviewSnippets_GroundTruth.txt",
    ),
    _vader_part(
        "vader-amazon",
        "Amazon review snippets (many texts of CR)",
        3_708,
        "amazonReviewSnippets_GroundTruth.txt",
    ),
    Source(
        CorpusInfo(
            "warriner",
            "English lemmas",
            13_915,
            "valence, arousal",
            (1, 9),
            "research use, cite the paper",
            "PyPI labMTsimple==2.8.8 (source archive)",
            "Warriner, Kuperman and Brysbaert (2013). Norms of valence, arousal, and dominance for 13,915 "
            "English lemmas. Behavior Research Methods 45.",
        ),
        partial(fetch, WARRINER, (WARRINER.files[0].name,)),
        _read_warriner,
    ),
    Source(
        CorpusInfo(
            "iemocap",
            "Turns of acted dialogues (your own copy)",
            None,
            "valence, arousal",
            iemocap.SCALE,
            "release form, no redistribution",
            "SAIL, University of Southern California",
            "Busso et al. (2008). IEMOCAP. Language Resources and Evaluation 42.",
        ),
        iemocap.find,
        iemocap.read,
    ),
    Source(
        CorpusInfo(
            "emotales",
            "Sentences of folk tales (your own copy)",
            None,
            "valence, arousal",
            emotales.SCALE,
            "from its author, no redistribution",
            "NIL, Universidad Complutense de Madrid",
            "Francisco, Hervás, Peinado and Gervás (2012). EmoTales. Language Resources and Evaluation 46.",
        ),
        emotales.find,
        emotales.read,
    ),
)
CORPORA = {source.info.name: source for source in _SOURCES}
