"""The labelled tasks: the published files (from CARL_DATA), and readers on files written here."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from carl.data import tasks
from carl.data.fetch import Folder, RemoteFile
from carl.data.tasks import TASKS, load_task, task_names
from carl.errors import CarlError, UsageError

real = pytest.mark.skipif("CARL_DATA" not in os.environ, reason="CARL_DATA is not set")

PUBLISHED = {
    "mr": {"all": 10_662},
    "cr": {"all": 3_775},
    "mpqa": {"all": 10_606},
    "subj": {"all": 10_000},
    "sst2": {"train": 6_920, "dev": 872, "test": 1_821},
    "sst5": {"train": 8_544, "dev": 1_101, "test": 2_210},
    "trec": {"train": 5_452, "test": 500},
    "isear": {"all": 7_666},
    "goemotions": {"train": 43_410, "dev": 5_426, "test": 5_427},
    "tweeteval": {"train": 3_257, "dev": 374, "test": 1_421},
    "meld": {"train": 9_989, "dev": 1_109, "test": 2_610},
}
LEFT_OUT = {
    "cr": {"all": 4},
    "mpqa": {"all": 3},
    "isear": {"all": 88},
    "goemotions": {"train": 3_855, "dev": 480, "test": 459},
}


@real
@pytest.mark.parametrize("name", task_names())
def test_a_published_task(name: str) -> None:
    task = load_task(name)
    left_out = LEFT_OUT.get(name, {})
    assert {split: len(texts) + left_out.get(split, 0) for split, texts in task.texts.items()} == PUBLISHED[
        name
    ]
    for split, texts in task.texts.items():
        labels = task.labels[split]
        assert labels.dtype == np.int64
        assert labels.shape == (len(texts),)
        assert set(labels.tolist()) == set(range(len(task.classes)))
        assert all(text.strip() == text != "" for text in texts)
        # Line ends of other alphabets, and the control characters that a wrong code page leaves.
        assert not any("\x80" <= char <= "\x9f" for text in texts for char in text)
    told = " ".join(note for note in task.notes if note.startswith("left out"))
    assert all(str(count) in told for count in left_out.values())
    assert bool(told) == bool(left_out)
    assert set(task.files) == set(TASKS[name].files)


@real
def test_published_labels_mean_what_their_classes_say() -> None:
    def holds(name: str, split: str, cue: str) -> str:
        task = load_task(name)
        counts = [
            sum(
                cue in text.lower().split()
                for text, y in zip(task.texts[split], task.labels[split], strict=True)
                if y == c
            )
            / (task.labels[split] == c).sum()
            for c in range(len(task.classes))
        ]
        return task.classes[int(np.argmax(counts))]

    for name in ("mr", "cr", "mpqa"):
        assert holds(name, "all", "good") == "positive"
        assert holds(name, "all", "bad") == "negative"
    assert holds("sst2", "train", "bad") == "negative"
    assert holds("sst5", "train", "worst") == "very negative"
    assert holds("sst5", "train", "best") == "very positive"
    assert holds("subj", "all", "film") == "subjective"
    assert holds("trec", "train", "who") == "person"
    assert holds("trec", "train", "where") == "location"
    assert holds("trec", "train", "many") == "number"
    assert holds("trec", "train", "abbreviation") == "abbreviation"
    assert holds("isear", "all", "exam") in ("fear", "joy", "sadness")
    assert holds("goemotions", "train", "thanks") == "joy"
    assert holds("goemotions", "train", "sorry") == "sadness"
    assert holds("tweeteval", "train", "#depression") == "sadness"
    assert holds("meld", "train", "great!") == "joy"


@real
def test_the_mapping_to_ekman_is_that_of_the_publisher(carl_data: Path) -> None:
    """GoEmotions, appendix of Demszky et al. (2020), recomputed from the 27 emotions."""
    groups = {
        "anger": "anger annoyance disapproval",
        "disgust": "disgust",
        "fear": "fear nervousness",
        "joy": "joy amusement approval excitement gratitude love optimism relief pride admiration desire caring",
        "sadness": "sadness disappointment embarrassment grief remorse",
        "surprise": "surprise realization confusion curiosity",
        "neutral": "neutral",
    }
    group_of = {emotion: group for group, emotions in groups.items() for emotion in emotions.split()}
    folder = carl_data / "goemotions"
    names = (folder / "labels.txt").read_text(encoding="utf-8").split()
    task = load_task("goemotions")
    for split in task.texts:
        rows = (folder / f"{split}.tsv").read_text(encoding="utf-8").strip().split("\n")
        mapped = [{group_of[names[int(i)]] for i in row.split("\t")[1].split(",")} for row in rows]
        expected = [groups.pop() for groups in mapped if len(groups) == 1]
        assert [task.classes[label] for label in task.labels[split]] == expected


@real
def test_artefacts_of_the_published_files_are_gone() -> None:
    situations = load_task("isear").texts["all"]
    assert not any(mark in text for text in situations for mark in ("á", "|", "\\", "  "))
    assert all(text.count('"') % 2 == 0 for text in situations if text.startswith('"'))
    tweets = [text for part in load_task("tweeteval").texts.values() for text in part]
    assert not any(mark in text for text in tweets for mark in ("&amp;", "&lt;", "\\n"))


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"There is no task 'SST-2': did you mean .*sst2"):
        load_task("SST-2")
    with pytest.raises(UsageError, match=r"there are mr, cr, "):
        load_task("qqqq")


def test_files_are_looked_for_in_carl_data_and_checked(
    tmp_path: Path, no_corpora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"1 a fine thing\n0 a poor thing\n1 a fine thing\n"
    sha = hashlib.sha256(content).hexdigest()
    folder = Folder("sentence-polarity", (RemoteFile("custrev.all", sha, "http://127.0.0.1:9/custrev.all"),))
    source = TASKS["cr"]
    monkeypatch.setitem(
        tasks.TASKS,
        "cr",
        tasks.TaskSource(source.kind, source.classes, folder, ("custrev.all",), source.read, source.citation),
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CarlError, match=r"Could not fetch http://127.0.0.1:9/custrev.all"):
        load_task("cr")
    path = tmp_path / "own" / "sentence-polarity" / "custrev.all"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("CARL_DATA", str(tmp_path / "own"))
    task = load_task("cr")
    assert task.texts == {"all": ["a fine thing", "a poor thing", "a fine thing"]}
    assert task.labels["all"].tolist() == [1, 0, 1]
    assert task.files == {"custrev.all": sha}
    assert task.notes == ("kept 2 rows whose text stands there more than once",)
    path.write_bytes(content + b"1 another\n")
    with pytest.raises(CarlError, match=r"not the published file"):
        load_task("cr")


def test_every_file_has_an_address_and_a_hash() -> None:
    for source in TASKS.values():
        published = {file.name: file for file in source.folder.files}
        assert set(source.files) <= set(published)
        for name in source.files:
            assert published[name].url.startswith("https://raw.githubusercontent.com/")
            assert published[name].url.count("/") >= 6
            assert len(published[name].sha256) == 64
    urls = [file.url for file in tasks.GOEMOTIONS.files]
    assert [url.rsplit("/", 2)[1:] for url in urls] == [
        ["ekman", f"{s}.tsv"] for s in ("train", "dev", "test")
    ]


# Readers, on files in the publishers' layouts.


def write(folder: Path, files: dict[str, str | bytes]) -> dict[str, Path]:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {name: folder / name for name in files}


def test_sentences_keep_what_other_programs_take_for_a_line_end(tmp_path: Path) -> None:
    rows = TASKS["mr"].read(write(tmp_path, {"rt-polarity.all": b"0 dull\x85 and long \n1 \x93bright\x94\n"}))
    assert rows.texts == {"all": ["dull… and long", "“bright”"]}
    assert rows.labels == {"all": [0, 1]}


def test_sentences_without_text_are_counted(tmp_path: Path) -> None:
    rows = TASKS["cr"].read(write(tmp_path, {"custrev.all": "0 \n1 it works\n1 \n"}))
    assert rows.texts == {"all": ["it works"]}
    assert rows.notes == ("left out 2 rows that the publisher ships without text",)


@pytest.mark.parametrize("line", ["2 a third class", "x a letter", "0", "-1 below"])
def test_a_bad_sentence_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(CarlError, match=r"mpqa.all, row 2: not .*restore the published file"):
        TASKS["mpqa"].read(write(tmp_path, {"mpqa.all": f"1 good\n{line}\n"}))


def test_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(CarlError, match=r"Cannot read .*mpqa.all"):
        TASKS["mpqa"].read(write(tmp_path, {"mpqa.all": b"1 caf\xe9\n"}))


HEAD = "|".join(["column"] * 43) + "\n"


def situation(emotion: str, text: str) -> str:
    return "|".join([*["1"] * 36, emotion, "4", "3", "0110011", text, "1", ""]) + "\n"


def test_isear_is_read_around_its_broken_lines(tmp_path: Path) -> None:
    file = HEAD
    file += situation("joy", "I planted a tree with á my sister.")
    file += situation("fear", 'A dog growled \\come closer\\", so á|I ran á|home."')
    file += situation("anger", 'They wrote \\no\\" to me á|twice.').replace("|1|\n", '|1"|\n')
    file += situation("guilt", "[ No response.]") + situation("shame", "NO RESPONSE.")
    rows = TASKS["isear"].read(write(tmp_path, {"isear.csv": file}))
    assert rows.texts["all"] == [
        "I planted a tree with my sister.",
        'A dog growled "come closer", so I ran home.',
        'They wrote "no" to me twice.',
    ]
    assert [TASKS["isear"].classes[label] for label in rows.labels["all"]] == ["joy", "fear", "anger"]
    assert rows.notes == ("left out 2 rows whose text is 'no response'",)
    for bad in ("too|few|columns\n", situation("boredom", "A long queue."), "1|" * 36 + "joy|1|1|1|cut"):
        with pytest.raises(CarlError, match=r"isear.csv, row 2: not .*restore"):
            TASKS["isear"].read(write(tmp_path, {"isear.csv": HEAD + bad}))


def test_goemotions_keeps_rows_of_one_class(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "ekman_train.tsv": 'Wow, thanks!\t3,6\ta1\nSo kind.\t3\ta2\n"Hm"\t4\ta3\n',
        "ekman_dev.tsv": "Ugh.\t1\tb1\n",
        "ekman_test.tsv": "None\t4\tc1\nBoo\t2,2\tc2\n",
    }
    rows = TASKS["goemotions"].read(write(tmp_path, files))
    assert rows.texts == {"train": ["So kind.", '"Hm"'], "dev": ["Ugh."], "test": ["None", "Boo"]}
    assert rows.labels == {"train": [3, 4], "dev": [1], "test": [4, 2]}
    assert rows.notes == ("left out 1 train row with more than one emotion after the mapping",)
    for bad in ("no tabs\n", "a text\t7\tid\n", "a text\t\tid\n"):
        with pytest.raises(CarlError, match=r"ekman_dev.tsv, row 1: not"):
            TASKS["goemotions"].read(write(tmp_path, {**files, "ekman_dev.tsv": bad}))


def test_tweets_and_labels_must_match(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        f"{p}_text.txt": "me &amp; you\\nat last \nno…\x85\n" for p in ("train", "val", "test")
    }
    files |= {f"{p}_labels.txt": "1\n0\n" for p in ("train", "val", "test")}
    rows = TASKS["tweeteval"].read(write(tmp_path, files))
    assert rows.texts["dev"][0] == "me & you at last"
    assert rows.labels["dev"] == [1, 0]
    with pytest.raises(CarlError, match=r"val_labels.txt has 1 label for 2 tweets"):
        TASKS["tweeteval"].read(write(tmp_path, {**files, "val_labels.txt": "1\n"}))
    with pytest.raises(CarlError, match=r"val_labels.txt, row 2: not"):
        TASKS["tweeteval"].read(write(tmp_path, {**files, "val_labels.txt": "1\n4\n"}))


def test_meld_takes_the_utterance_alone(tmp_path: Path) -> None:
    table = 'Sr No.,Utterance,Speaker,Emotion\n1,"Well, hello.",A,joy\n2,null,B,neutral\n'
    files: dict[str, str | bytes] = {f"{split}_sent_emo.csv": table for split in ("train", "dev", "test")}
    rows = TASKS["meld"].read(write(tmp_path, files))
    assert rows.texts["train"] == ["Well, hello.", "null"]
    assert [TASKS["meld"].classes[label] for label in rows.labels["test"]] == ["joy", "neutral"]
    bad = {**files, "dev_sent_emo.csv": table.replace("joy", "bliss")}
    with pytest.raises(CarlError, match=r"dev_sent_emo.csv, row 2: not one of the labels anger"):
        TASKS["meld"].read(write(tmp_path, bad))
    with pytest.raises(CarlError, match=r"dev_sent_emo.csv, row 1: not a header"):
        TASKS["meld"].read(write(tmp_path, {**files, "dev_sent_emo.csv": "a,b\n1,2\n"}))
