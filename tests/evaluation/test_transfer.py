import os
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from carl.data import Task, load_task
from carl.errors import CarlError
from carl.evaluation import transfer
from carl.evaluation.transfer import CS, score_task

real = pytest.mark.skipif("CARL_DATA" not in os.environ, reason="CARL_DATA is not set")


def task(sizes, classes=3, width=6, seed=0, noise=1.0):
    """A task and embeddings of it in which the classes overlap."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width))
    labels = {split: rng.permutation(np.arange(n) % classes) for split, n in sizes.items()}
    embeddings = {
        split: (centres[y] + noise * rng.normal(size=(len(y), width))).astype(np.float32)
        for split, y in labels.items()
    }
    texts = {split: [f"text {i} of {split}" for i in range(n)] for split, n in sizes.items()}
    names = tuple(f"class {c}" for c in range(classes))
    return Task("made", "emotion", names, texts, labels, {}, (), ""), embeddings


def folded(**options):
    return task({"all": 240}, **options)


def official(**options):
    return task({"train": 200, "dev": 90, "test": 150}, **options)


def test_folds_equal_scikit_learns_cross_validation(monkeypatch):
    monkeypatch.setattr(transfer, "CS", (1.0,))
    made, x = folded()
    score = score_task(made, x, seed=3)
    expected = cross_val_predict(
        LogisticRegression(C=1.0, tol=1e-9, max_iter=5000),
        x["all"].astype(float),
        made.labels["all"],
        cv=StratifiedKFold(10, shuffle=True, random_state=3),
    )
    assert score.predicted.tolist() == expected.tolist()
    assert score.accuracy == (expected == made.labels["all"]).mean()
    assert score.protocol == "10-fold"
    assert score.chosen_c == (1.0,) * 10
    assert score.fits == 10 * (3 + 1)


def test_dev_chooses_c_and_test_is_predicted_by_train_alone():
    made, x = official(width=60, noise=4.0)
    score = score_task(made, x)
    fits = [
        LogisticRegression(C=c, tol=1e-9, max_iter=5000).fit(x["train"].astype(float), made.labels["train"])
        for c in CS
    ]
    best = int(np.argmax([fit.score(x["dev"], made.labels["dev"]) for fit in fits]))
    assert score.chosen_c == (CS[best],)
    assert score.predicted.tolist() == fits[best].predict(x["test"]).tolist()
    assert score.labels is made.labels["test"]
    assert score.protocol == "official"
    assert score.not_converged == 0


def test_noise_wants_the_strongest_penalty_and_a_clear_case_a_weaker_one():
    noisy, x = official(width=60, noise=30.0)
    chosen = score_task(noisy, x).chosen_c[0]
    clear, z = official(noise=0.3)
    z = {split: part / 100 for split, part in z.items()}
    assert score_task(clear, z).chosen_c[0] > chosen


def test_without_dev_the_training_part_chooses():
    made, x = task({"train": 200, "test": 60})
    score = score_task(made, x)
    assert score.protocol == "official"
    assert len(score.predicted) == 60
    assert score.fits == 3 * len(CS) + 1


def test_nothing_of_the_test_part_reaches_the_classifier():
    made, x = official()
    before = score_task(made, x)
    others = dict(made.labels, test=np.zeros(150, dtype=np.int64))
    relabelled = Task("made", "emotion", made.classes, made.texts, others, {}, (), "")
    assert score_task(relabelled, x).predicted.tolist() == before.predicted.tolist()
    moved = dict(x, test=np.concatenate([x["test"][:75], 50 + 9 * x["test"][75:]]))
    assert score_task(made, moved).predicted[:75].tolist() == before.predicted[:75].tolist()


def test_labels_without_relation_to_the_features_stay_at_chance():
    rng = np.random.default_rng(1)
    made, _ = folded(classes=2)
    scores = [score_task(made, {"all": rng.normal(size=(240, 40))}).accuracy for _ in range(2)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.08)


def test_an_offset_changes_nothing():
    made, x = folded()
    score = score_task(made, x)
    moved = score_task(made, {"all": x["all"].astype(float) + 30})
    assert moved.predicted.tolist() == score.predicted.tolist()
    assert moved.not_converged == 0


def test_the_same_input_gives_the_same_score_and_pairs_of_encoders_the_same_folds():
    made, x = folded()
    first, second, other = score_task(made, x), score_task(made, x), score_task(made, x, seed=1)
    assert first.predicted.tolist() == second.predicted.tolist()
    assert (first.accuracy, first.chosen_c) == (second.accuracy, second.chosen_c)
    assert other.predicted.tolist() != first.predicted.tolist()


def test_an_encoder_is_asked_once_per_split():
    made, x = official()
    asked = []

    def encode(texts):
        asked.append(texts)
        return x[texts[0].split()[-1]]

    assert score_task(made, encode).predicted.tolist() == score_task(made, x).predicted.tolist()
    assert asked == list(made.texts.values())


def test_fits_that_did_not_converge_are_counted_and_warn_nobody(monkeypatch):
    monkeypatch.setattr(transfer, "MAX_ITERATIONS", 2)
    made, x = official()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = score_task(made, x)
    assert score.not_converged == score.fits == len(CS) + 1


def test_macro_f1_is_that_of_scikit_learn():
    made, x = folded()
    score = score_task(made, x)
    assert score.macro_f1 == pytest.approx(f1_score(made.labels["all"], score.predicted, average="macro"))


def test_bad_embeddings_are_named():
    made, x = official()
    with pytest.raises(CarlError, match=r"made: there are no embeddings of its split 'test'"):
        score_task(made, {split: x[split] for split in ("train", "dev")})
    with pytest.raises(
        CarlError, match=r"made, dev: the embeddings have shape \(89, 6\) and should have \(90"
    ):
        score_task(made, {**x, "dev": x["dev"][1:]})
    with pytest.raises(CarlError, match=r"made, train: the embeddings have shape \(200,\)"):
        score_task(made, {**x, "train": x["train"][:, 0]})
    with pytest.raises(CarlError, match=r"differ in width \(train 6, dev 6, test 5\)"):
        score_task(made, {**x, "test": x["test"][:, 1:]})
    holed = x["test"].copy()
    holed[7, 2] = np.nan
    with pytest.raises(CarlError, match=r"made, test, text 7: .* not finite"):
        score_task(made, {**x, "test": holed})


def test_too_few_texts_of_a_class_are_named():
    made, x = folded()
    rare = made.labels["all"].copy()
    rare[np.flatnonzero(rare == 1)[9:]] = 0
    few = Task("made", "emotion", made.classes, made.texts, {"all": rare}, {}, (), "")
    with pytest.raises(CarlError, match=r"class 'class 1' has 9 texts and 10-fold cross-validation needs 10"):
        score_task(few, x)
    one = Task("made", "emotion", made.classes, made.texts, {"all": np.zeros(240, np.int64)}, {}, (), "")
    with pytest.raises(CarlError, match=r"needs texts of two classes"):
        score_task(one, x)


@real
def test_counted_words_tell_questions_apart():
    """An encoder of a few cue words, far better on questions than the commonest class."""
    cues = "who where when how many what is the name of city country year stand for".split()

    def encode(texts):
        return np.array([[text.lower().split().count(cue) for cue in cues] for text in texts], np.float32)

    trec = load_task("trec")
    score = score_task(trec, encode)
    assert score.accuracy > 0.6 > 2 * np.bincount(trec.labels["test"]).max() / 500
    assert score.not_converged == 0
