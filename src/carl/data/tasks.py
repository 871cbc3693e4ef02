"""The labelled tasks that show what an encoder learnt beyond its ratings: polarity, sentiment, emotion, controls.

load_task("isear").texts["all"][0]  ->  "..."

To add one: its files in a `Folder`, a reader that turns paths into `Rows`, and a line in `TASKS`.
"""

import difflib
import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from carl.data.fetch import Folder, RemoteFile, fetch
from carl.data.files import sha256
from carl.data.rows import BadRows, counted, iter_rows
from carl.data.splits import NAMES, normalise
from carl.errors import CarlError, UsageError

Kind = Literal["polarity", "sentiment", "emotion", "control"]
Paths = Mapping[str, Path]


@dataclass(frozen=True)
class Task:
    """A classification task: n texts and n labels per split.

    A task with an official split has `test`, `train` and mostly `dev`; one without has `all` alone and is
    scored by 10-fold cross-validation.
    """

    name: str
    kind: Kind
    """What is told apart; a control has nothing to do with affect."""
    classes: tuple[str, ...]
    texts: dict[str, list[str]]
    labels: dict[str, npt.NDArray[np.int64]]
    """Indices into `classes`, (n,) per split."""
    files: dict[str, str]
    """The SHA-256 of every file read."""
    notes: tuple[str, ...]
    """What was left out, and what repeats, counted."""
    citation: str


class Rows(NamedTuple):
    """A task as read: per split the texts and the indices of their classes."""

    texts: dict[str, list[str]]
    labels: dict[str, list[int]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskSource:
    """A task's files, those of `folder` that `files` names, and the function that reads them."""

    kind: Kind
    classes: tuple[str, ...]
    folder: Folder
    files: tuple[str, ...]
    read: Callable[[Paths], Rows]
    citation: str


def task_names() -> list[str]:
    """The names that `load_task` knows."""
    return list(TASKS)


def load_task(name: str) -> Task:
    """Load a task; its files are fetched where they are not on this machine yet.

    Official splits stay as they are published, rows that repeat each other included: the notes count them.

    Raises:
        UsageError: an unknown name; the sentence gives the nearest ones.
        CarlError: a file that cannot be had, is not the published one, or has a row in another form.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name.lower(), TASKS, n=4, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(TASKS)}."
        raise UsageError(f"There is no task {name!r}: {hint}")
    source = TASKS[name]
    paths = fetch(source.folder, source.files)
    rows = source.read(paths)
    labels = {split: np.array(part, dtype=np.int64) for split, part in rows.labels.items()}
    files = {file: sha256(path) for file, path in paths.items()}
    notes = (*rows.notes, *_repeats(rows.texts))
    return Task(name, source.kind, source.classes, rows.texts, labels, files, notes, source.citation)


def _repeats(texts: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    keys = {split: [normalise(text) for text in part] for split, part in texts.items()}
    if "test" not in keys:
        counts = Counter(keys["all"])
        repeats = sum(count for count in counts.values() if count > 1)
        return (f"kept {counted(repeats, 'row')} whose text stands there more than once",) if repeats else ()
    seen = {key for split, part in keys.items() if split != "test" for key in part}
    repeats = sum(key in seen for key in keys["test"])
    return (f"kept {counted(repeats, 'test row')} whose text also stands in train or dev",) if repeats else ()


def _lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Row numbers and lines. Only a newline ends a line: some texts hold other characters that could."""
    try:
        content = path.read_text(encoding=encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise CarlError(f"Cannot read {path} ({error}); restore the published file.") from error
    for row, line in enumerate(content.split("\n"), 1):
        if line:
            yield row, line


def _other_form(path: Path, row: int, expected: str) -> CarlError:
    return CarlError(f"{path}, row {row}: not {expected}; restore the published file.")


def _index(label: str, classes: Sequence[str], path: Path, row: int) -> int:
    if label not in classes:
        raise _other_form(path, row, f"one of the labels {', '.join(classes)}")
    return list(classes).index(label)


def _digit(label: str, count: int, path: Path, row: int) -> int:
    return _index(label, [str(digit) for digit in range(count)], path, row)


def _left_out(counts: Mapping[str, int], why: str) -> tuple[str, ...]:
    """Nothing, or one sentence with the count of every split; a task without splits needs no split's name."""
    told = [
        counted(n, "row" if split == "all" else f"{split} row") if n else "" for split, n in counts.items()
    ]
    return (f"left out {', '.join(filter(None, told))} {why}",) if any(told) else ()


def _read_sentences(paths: Paths, splits: Mapping[str, str], count: int, encoding: str = "utf-8") -> Rows:
    """Lines of a digit, a space and a text, in files whose split `splits` names."""
    texts: dict[str, list[str]] = {split: [] for split in splits.values()}
    labels: dict[str, list[int]] = {split: [] for split in splits.values()}
    empty = dict.fromkeys(splits.values(), 0)
    for name, split in splits.items():
        for row, line in _lines(paths[name], encoding):
            label, space, text = line.partition(" ")
            if not space:
                raise _other_form(paths[name], row, "a label, a space and a text")
            index = _digit(label, count, paths[name], row)
            if not text.strip():
                empty[split] += 1
                continue
            texts[split].append(text.strip())
            labels[split].append(index)
    return Rows(texts, labels, _left_out(empty, "that the publisher ships without text"))


_ISEAR_REST = re.compile(r"(.*)\|\d*\"?\|")


def _read_isear(paths: Paths) -> Rows:
    """The situations; seven emotions. The published file has bars in texts where a line broke, so no reader
    of tables gets its columns right: the 40 before the text are counted, the one after it is a number.
    """
    (path,) = paths.values()
    texts, labels, silent = [], [], 0
    for row, line in _lines(path):
        if row == 1:  # column names
            continue
        cells = line.split("|", 40)
        rest = _ISEAR_REST.fullmatch(cells[-1])
        if len(cells) != 41 or rest is None:
            raise _other_form(path, row, "43 columns with the situation in the 41st")
        index = _index(cells[36], EMOTIONS_OF_ISEAR, path, row)
        text = _situation(rest[1])
        if re.fullmatch(r"\W*no res?ponse\W*", text.casefold()):
            silent += 1
            continue
        texts.append(text)
        labels.append(index)
    notes = _left_out({"all": silent}, "whose text is 'no response'")
    return Rows({"all": texts}, {"all": labels}, notes)


def _situation(text: str) -> str:
    """A text as it was written: an a-acute marks where a line ended, backslashes are what is left of quotes."""
    if "\\" in text:
        text = text.rstrip().removesuffix('"')  # of the table, around the whole cell
        text = text.replace('\\"', '"').replace("\\", '"')
    return " ".join(text.replace("á", " ").replace("|", " ").split())


def _read_goemotions(paths: Paths) -> Rows:
    """Lines of text, class indices and id, tab separated, in the publisher's mapping to Ekman's emotions."""
    texts: dict[str, list[str]] = {split: [] for split in NAMES}
    labels: dict[str, list[int]] = {split: [] for split in NAMES}
    several = dict.fromkeys(NAMES, 0)
    for split in NAMES:
        path = paths[f"ekman_{split}.tsv"]
        for row, line in _lines(path):
            cells = line.split("\t")
            if len(cells) != 3:
                raise _other_form(path, row, "a text, its labels and an id, with tabs between them")
            indices = {_digit(label, len(EKMAN), path, row) for label in cells[1].split(",")}
            if len(indices) > 1:
                several[split] += 1
                continue
            texts[split].append(cells[0].strip())
            labels[split].append(indices.pop())
    return Rows(texts, labels, _left_out(several, "with more than one emotion after the mapping"))


def _read_tweeteval(paths: Paths) -> Rows:
    """A file of tweets and one of class indices per split."""
    texts, labels = {}, {}
    for split, prefix in {"train": "train", "dev": "val", "test": "test"}.items():
        tweets, path = list(_lines(paths[f"{prefix}_text.txt"])), paths[f"{prefix}_labels.txt"]
        labels[split] = [_digit(label, len(EMOTIONS_OF_TWEETS), path, row) for row, label in _lines(path)]
        # Tweets hold HTML entities, and line breaks written as a backslash and an n.
        texts[split] = [html.unescape(tweet).replace("\\n", " ").strip() for _, tweet in tweets]
        if len(texts[split]) != len(labels[split]):
            raise CarlError(
                f"{path} has {counted(len(labels[split]), 'label')} for {counted(len(tweets), 'tweet')}; "
                "restore the published files."
            )
    return Rows(texts, labels)


def _read_meld(paths: Paths) -> Rows:
    """Each turn by itself, without the dialogue around it."""
    texts: dict[str, list[str]] = {split: [] for split in NAMES}
    labels: dict[str, list[int]] = {split: [] for split in NAMES}
    for split in NAMES:
        path = paths[f"{split}_sent_emo.csv"]
        for row, record in iter_rows(path, BadRows(path, skip=False)):
            if not {"Utterance", "Emotion"} <= record.keys():
                raise _other_form(path, 1, "a header with the columns Utterance and Emotion")
            labels[split].append(_index(record["Emotion"], EKMAN, path, row))
            texts[split].append(record["Utterance"].strip())
    return Rows(texts, labels)


POLARITY = ("negative", "positive")
EKMAN = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
EMOTIONS_OF_ISEAR = ("anger", "disgust", "fear", "guilt", "joy", "sadness", "shame")
EMOTIONS_OF_TWEETS = ("anger", "joy", "optimism", "sadness")
QUESTIONS = ("description", "entity", "abbreviation", "person", "location", "number")


def _folder(name: str, repository: str, hashes: Mapping[str, str], under: Callable[[str], str]) -> Folder:
    """Files of a GitHub repository at a commit; `under` gives a file's path there."""
    base = f"https://raw.githubusercontent.com/{repository}"
    return Folder(name, tuple(RemoteFile(file, sha, f"{base}/{under(file)}") for file, sha in hashes.items()))


SENTENCES = _folder(
    "sentence-polarity",
    "harvardnlp/sent-conv-torch/fb6348c1c4393658f2c8bb77ebfebb371201ccdc",
    {
        "rt-polarity.all": "b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a",
        "custrev.all": "a3839a79bd3285177a07158c6104b49038a7a06ab2abe897734cde5d22e5e325",
        "mpqa.all": "661de8a069da4b9845fc8b9ae59cc97ffe554f3018fa6bf0e640e3d626a4eaf7",
        "subj.all": "f3ffbe2aa8e4f3ba3e63e46dce51613854edbca122fb3aa758b9bce047ded23c",
        "stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
        "stsa.binary.dev": "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
        "stsa.binary.test": "6a80dc9b9a0db2d3b37f2f809304febad31c90ab67a5b4157b7d9f881c53ef5b",
        "stsa.fine.train": "9b52b5f686ed438d4d0274c385369251b3d579b578fddd340ba8a9bae2ca4bee",
        "stsa.fine.dev": "b2f76c62b960f9fda5c6d751edb125abab4f878eb94a8754239b7f4af647f4c3",
        "stsa.fine.test": "0e2ebb450c231f7b3d67fc932066e7bb26ae7bad8c88488f45ed44ef02eb3c73",
        "TREC.train.all": "c8183fd8c2a5cc4a9a1c56548d7c6410a8b71ed7843df9ef1f0a05cd7cf2fb3e",
        "TREC.test.all": "92a6a3cede5678b447ef5f1d7ec474134fcda211e6590e6fa627b4a2c68e4566",
    },
    "data/{}".format,
)
ISEAR = _folder(
    "isear",
    "sinmaniphel/py_isear_dataset/948f4cf80161ea28e6dc5bfb4ad729f21ff47723",
    {"isear.csv": "370110fff70a1e1d9e23b10cf6db1f64876120fa02276afe5916fbfeb038cdca"},
    str,
)
GOEMOTIONS = _folder(
    "goemotions",
    "monologg/GoEmotions-pytorch/47f5afbbd1b49401e3204c8b1f228e21bfbd6ee0",
    {
        "ekman_train.tsv": "bb74d10aec0975674c665205741ba9fe644cd70f682214624997f3770fd9e53f",
        "ekman_dev.tsv": "011e6579adc4d9bb2ffd908879b99e1594e7647b262cbb2e1c5c9c1c4d7d8bcc",
        "ekman_test.tsv": "f9f9b91827fe134259469368b93abddc2a52e2e2a87beab661023b06cf490baa",
    },
    lambda name: f"data/{name.replace('_', '/', 1)}",
)
TWEETS = _folder(
    "tweeteval-emotion",
    "cardiffnlp/tweeteval/4fbd22cd78421f05b1ecdb4fc5725bc7a7bd8f66",
    {
        "train_text.txt": "2c62f67aeb3eac1aea0e5a9c3d0f4bc337992581f3f858061786a1fb4d79d95e",
        "train_labels.txt": "987e767d8679e18abdf7de37a6d2bcd0a40a296ddd704e8d515cf0e3033c8d9c",
        "val_text.txt": "e2e30c86b8cbb97944d6543aedc06eace3bb275cb2f381aba787b838b4f23ca5",
        "val_labels.txt": "313730630160b7e0a6b4235b800c76683f4aeeb72d094eb69646630cd5cfe338",
        "test_text.txt": "7e1070f5d3e3fcece5bc73680bff9981e90d8f7b2f1009bfe7a01d059d1c6091",
        "test_labels.txt": "245072348c711961785be6d395997f97cf7fcda3effeae7805664171dc75f913",
    },
    "datasets/emotion/{}".format,
)
MELD = _folder(
    "meld",
    "declare-lab/MELD/2d2011b409d3ca2d7e94460cd007d434b1d0a102",
    {
        "train_sent_emo.csv": "d2fa2d6529cf03cac2989efec05c9b27d8fd2f4c8fc5974c7ae88aa537fa02db",
        "dev_sent_emo.csv": "2e89c6f8aa182d6f62f8c6331aece905ac7273ca4999660bfb5213e1d0370c1c",
        "test_sent_emo.csv": "8d37103938f7067600839fe29d5a114a6cd1bcdafb75bec101e06464c5006888",
    },
    "data/MELD/{}".format,
)


def _sentences(
    kind: Kind, classes: tuple[str, ...], splits: dict[str, str], citation: str, encoding: str = "utf-8"
) -> TaskSource:
    read = partial(_read_sentences, splits=splits, count=len(classes), encoding=encoding)
    return TaskSource(kind, classes, SENTENCES, tuple(splits), read, citation)


def _treebank(prefix: str) -> dict[str, str]:
    return {f"{prefix}.{split}": split for split in NAMES}


def _whole(
    kind: Kind, classes: tuple[str, ...], folder: Folder, read: Callable[[Paths], Rows], citation: str
) -> TaskSource:
    return TaskSource(kind, classes, folder, tuple(file.name for file in folder.files), read, citation)


_SOCHER = "Socher et al. (2013). Recursive deep models for semantic compositionality. EMNLP."

TASKS = {
    "mr": _sentences(
        "polarity",
        POLARITY,
        {"rt-polarity.all": "all"},
        "Pang and Lee (2005). Seeing stars. ACL.",
        "cp1252",  # it has this code page's dashes and ellipses, which Latin-1 turns into control characters
    ),
    "cr": _sentences(
        "polarity",
        POLARITY,
        {"custrev.all": "all"},
        "Hu and Liu (2004). Mining and summarizing customer reviews. KDD.",
    ),
    "mpqa": _sentences(
        "polarity",
        POLARITY,
        {"mpqa.all": "all"},
        "Wiebe, Wilson and Cardie (2005). Annotating expressions of opinions and emotions in language. LRE 39.",
    ),
    "subj": _sentences(
        "control",
        ("subjective", "objective"),
        {"subj.all": "all"},
        "Pang and Lee (2004). A sentimental education. ACL.",
        "cp1252",
    ),
    "sst2": _sentences("polarity", POLARITY, _treebank("stsa.binary"), _SOCHER),
    "sst5": _sentences(
        "sentiment",
        ("very negative", "negative", "neutral", "positive", "very positive"),
        _treebank("stsa.fine"),
        _SOCHER,
    ),
    "trec": _sentences(
        "control",
        QUESTIONS,
        {"TREC.train.all": "train", "TREC.test.all": "test"},
        "Li and Roth (2002). Learning question classifiers. COLING.",
        "cp1252",
    ),
    "isear": _whole(
        "emotion",
        EMOTIONS_OF_ISEAR,
        ISEAR,
        _read_isear,
        "Scherer and Wallbott (1994). Evidence for universality and cultural variation of differential emotion "
        "response patterning. JPSP 66.",
    ),
    "goemotions": _whole(
        "emotion", EKMAN, GOEMOTIONS, _read_goemotions, "Demszky et al. (2020). GoEmotions. ACL."
    ),
    "tweeteval": _whole(
        "emotion", EMOTIONS_OF_TWEETS, TWEETS, _read_tweeteval, "Barbieri et al. (2020). TweetEval. EMNLP."
    ),
    "meld": _whole("emotion", EKMAN, MELD, _read_meld, "Poria et al. (2019). MELD. ACL."),
}
