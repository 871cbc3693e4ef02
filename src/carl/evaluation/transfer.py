"""What frozen embeddings know of other labels: logistic regression on top, as SentEval does it.

Source: Conneau & Kiela (2018), SentEval, LREC. As there, features are taken as they are (not standardised), C is
chosen within the training part (SentEval: by 10 inner folds; here 3), and tasks without an official split are
scored by stratified 10-fold.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carl.data.tasks import Task
from carl.errors import CarlError
from carl.evaluation.statistics import macro_f1

Encode = Callable[[list[str]], npt.ArrayLike]
Features = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

CS = (0.1, 1.0, 10.0, 100.0)
"""Inverse penalties to choose from, ascending: unit-length embeddings want the higher ones, raw ones the lower."""
FOLDS = 10
INNER_FOLDS = 3
TOLERANCE = 1e-5
"""The largest entry of the mean loss's gradient at which a final fit has converged."""
CHOICE_TOLERANCE = 1e-4
"""The same for the fits that only choose C, which is scikit-learn's own default. Every fit starts from zero:
started from the fit at a smaller C, one at this tolerance may stop where it starts."""
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class TransferScore:
    """How well a linear classifier on frozen embeddings tells a task's classes apart."""

    task: str
    protocol: str
    """ "official": trained on train, scored on test; "10-fold": every item scored by the fold that left it out."""
    accuracy: float
    """Share of the n test items that are right, in [0, 1]; with folds, over the items of all of them."""
    macro_f1: float
    """Mean F1 of the classes that are met or predicted, in [0, 1]."""
    chosen_c: tuple[float, ...]
    """One per fold, or a single one."""
    predicted: Labels
    """(n,) class indices, in the order of the task's test texts (of `all` with folds)."""
    labels: Labels
    """(n,) the true ones."""
    fits: int
    not_converged: int
    """Fits that stopped at `MAX_ITERATIONS` or for want of numerical precision, of `fits`."""


def score_task(task: Task, embeddings: Encode | Mapping[str, npt.ArrayLike], seed: int = 0) -> TransferScore:
    """Score embeddings on a task.

    Args:
        task: from `carl.data.load_task`.
        embeddings: a function from n texts to (n, d), called once per split; or those arrays by split.
        seed: of the folds. They follow from it and the labels alone, so that two encoders' predictions are pairs.

    The same input gives the same result. C is chosen by accuracy, the strongest penalty of equals: on dev where
    the task has one, else by stratified 3-fold cross-validation within the training part.

    Raises:
        CarlError: embeddings of another shape or number, values that are not finite, a class with fewer
            texts than folds, or a training part with a single class.
    """
    features = {
        split: _checked(embeddings(texts) if callable(embeddings) else embeddings.get(split), task, split)
        for split, texts in task.texts.items()
    }
    if len({x.shape[1] for x in features.values()}) > 1:
        widths = ", ".join(f"{split} {x.shape[1]}" for split, x in features.items())
        raise CarlError(f"{task.name}: the splits' embeddings differ in width ({widths}); use one encoder.")
    counter = _Counter()
    if "test" in task.texts:
        truth = task.labels["test"]
        predicted, c = _official(task, features, seed, counter)
        protocol, chosen = "official", [c]
    else:
        truth = task.labels["all"]
        predicted, chosen = _folds(task, features["all"], seed, counter)
        protocol = f"{FOLDS}-fold"
    return TransferScore(
        task.name,
        protocol,
        float((predicted == truth).mean()),
        macro_f1(predicted, truth),
        tuple(chosen),
        predicted,
        truth,
        counter.fits,
        counter.not_converged,
    )


@dataclass
class _Counter:
    """How many fits there were, and how many of them did not converge."""

    fits: int = 0
    not_converged: int = 0


def _official(
    task: Task, features: Mapping[str, Features], seed: int, counter: _Counter
) -> tuple[Labels, float]:
    x, y = features["train"], task.labels["train"]
    if "dev" in features:
        _require_members(task, "train", y, 1)
        dev = task.labels["dev"]
        c = CS[int(np.argmax(_right_answers(x, y, features["dev"], dev, counter)))]
    else:
        _require_members(task, "train", y, INNER_FOLDS)
        c = _cross_validated(x, y, seed, counter)
    return _fit(x, y, c, TOLERANCE, counter)(features["test"]), c


def _folds(task: Task, x: Features, seed: int, counter: _Counter) -> tuple[Labels, list[float]]:
    y = task.labels["all"]
    _require_members(task, "all", y, FOLDS)
    predicted, chosen = np.empty_like(y), []
    for train, test in _stratified(y, FOLDS, seed):
        c = _cross_validated(x[train], y[train], seed, counter)
        predicted[test] = _fit(x[train], y[train], c, TOLERANCE, counter)(x[test])
        chosen.append(c)
    return predicted, chosen


def _cross_validated(x: Features, y: Labels, seed: int, counter: _Counter) -> float:
    """The C with the most right answers over the inner folds."""
    right = np.zeros(len(CS), dtype=np.int64)
    for train, held_out in _stratified(y, INNER_FOLDS, seed):
        right += _right_answers(x[train], y[train], x[held_out], y[held_out], counter)
    return CS[int(np.argmax(right))]


def _right_answers(
    x: Features, y: Labels, held_out: Features, truth: Labels, counter: _Counter
) -> npt.NDArray[np.int64]:
    """How many of the held-out items each C gets right, (len(CS),)."""
    fits = (_fit(x, y, c, CHOICE_TOLERANCE, counter) for c in CS)
    return np.array([(predict(held_out) == truth).sum() for predict in fits], dtype=np.int64)


def _fit(
    x: Features, y: Labels, c: float, tolerance: float, counter: _Counter
) -> Callable[[Features], Labels]:
    """Multinomial logistic regression (binomial for two classes); returns what predicts classes."""
    from sklearn.exceptions import ConvergenceWarning  # here: slow to import
    from sklearn.linear_model import LogisticRegression

    # The intercept is not penalised, so the optimum is the same without the mean, and much sooner reached.
    centre = x.mean(axis=0)
    classifier = LogisticRegression(C=c, tol=tolerance, max_iter=MAX_ITERATIONS, solver="lbfgs")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(x - centre, y)
    counter.fits += 1
    counter.not_converged += any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return lambda asked: np.asarray(classifier.predict(asked - centre), dtype=np.int64)


def _stratified(
    y: Labels, folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    from sklearn.model_selection import StratifiedKFold

    yield from StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)


def _checked(values: npt.ArrayLike | None, task: Task, split: str) -> Features:
    """(n, d) in float64: in float32 the line search of lbfgs can stall before the gradient is small enough."""
    if values is None:
        raise CarlError(f"{task.name}: there are no embeddings of its split {split!r}; give those as well.")
    x = np.asarray(values, dtype=np.float64)
    count = len(task.texts[split])
    if x.ndim != 2 or len(x) != count or not x.shape[1]:
        raise CarlError(
            f"{task.name}, {split}: the embeddings have shape {x.shape} and should have ({count}, width); "
            "encode its texts in their order."
        )
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise CarlError(
            f"{task.name}, {split}, text {int(np.argmin(finite))}: its embedding holds values that are not "
            "finite; check the encoder."
        )
    return x


def _require_members(task: Task, split: str, y: Labels, least: int) -> None:
    """Every class that a part has must reach each of its folds, and a classifier needs two classes."""
    present, counts = np.unique(y, return_counts=True)
    if len(present) < 2:
        raise CarlError(f"{task.name}, {split}: a classifier needs texts of two classes; add the others.")
    if counts.min() < least:
        rare = task.classes[present[np.argmin(counts)]]
        raise CarlError(
            f"{task.name}, {split}: class {rare!r} has {counts.min()} texts and {least}-fold cross-validation "
            f"needs {least}; add some, or leave the class out."
        )
