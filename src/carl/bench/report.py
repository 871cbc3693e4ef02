"""From the finished cells to ``docs/results.md`` and its picture; the same cells give the same bytes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from carl.bench.cells import Cell, read_cells, unpack
from carl.bench.methods import BY_NAME, METHODS
from carl.data import load_corpus, load_task, task_names
from carl.data.files import atomic_path
from carl.errors import CarlError
from carl.evaluation.figures import differences, svg
from carl.evaluation.statistics import Difference, Interval, accuracy, holm, mean_interval, paired_bootstrap
from carl.evaluation.valence_arousal import Array, pearson
from carl.trainer import labels_of

#: The twelve columns that decide, and the two controls.
MAIN = (
    "EmoBank V",
    "EmoBank A",
    "Facebook V",
    "Facebook A",
    "mr",
    "sst2",
    "sst5",
    "mpqa",
    "isear",
    "goemotions",
    "tweeteval",
    "meld",
)
CONTROLS = ("subj", "trec")
MORE = ("cr", "tweets V", "nyt V", "amazon V", "movie V", "EmoBank, own head V", "EmoBank, own head A",
        "EmoBank, learnt head V", "EmoBank, learnt head A", "Facebook, zero-shot own head V",
        "Facebook, zero-shot own head A")  # fmt: skip
EMOTION = ("isear", "goemotions", "tweeteval", "meld")
PAPER_GAIN = 15.5


class Results:
    """The cells of one backbone, with the labels that their predictions are held against."""

    def __init__(self, cells: Sequence[Cell], gold: Mapping[str, Array]) -> None:
        self.cells, self.gold = cells, gold
        self._intervals: dict[tuple[str, str], Interval | None] = {}
        self._differences: dict[tuple[str, str, str], Difference | None] = {}

    def methods(self, *groups: str) -> list[str]:
        """Those with cells, in the order of ``METHODS``."""
        present = {cell.method for cell in self.cells}
        return [m.name for m in METHODS if m.name in present and m.group in groups]

    def predictions(self, method: str, column: str) -> Array | None:
        """(seeds, n), or None where the cell is not there or was refused."""
        rows = [unpack(c.items[column]) for c in self._of(method) if column in c.items]
        return np.stack(rows) if rows else None

    def interval(self, method: str, column: str) -> Interval | None:
        """Mean over seeds with its 95 % interval over seeds and test items."""
        if (method, column) not in self._intervals:
            predicted = self.predictions(method, column)
            self._intervals[method, column] = (
                None if predicted is None else mean_interval(predicted, self.gold[column], statistic(column))
            )
        return self._intervals[method, column]

    def difference(self, one: str, other: str, column: str) -> Difference | None:
        """One method minus another on the same test items."""
        if (one, other, column) not in self._differences:
            a, b = self.predictions(one, column), self.predictions(other, column)
            self._differences[one, other, column] = (
                None
                if a is None or b is None
                else paired_bootstrap(a, b, self.gold[column], statistic(column), n=4000)
            )
        return self._differences[one, other, column]

    def mean(self, method: str, column: str, key: str) -> float | None:
        """Mean over seeds of a score that has no items."""
        values = [c.scores[column][key] for c in self._of(method) if column in c.scores]
        return float(np.mean(values)) if values else None

    def seeds(self, method: str) -> int:
        """Seeds with at least one cell."""
        return len({cell.seed for cell in self._of(method)})

    def _of(self, method: str) -> list[Cell]:
        return sorted((c for c in self.cells if c.method == method), key=lambda c: c.seed)


def statistic(column: str) -> Callable[[Array, Array], float]:
    """Pearson's r for ratings, accuracy for classes."""
    return pearson if column[-2:] in (" V", " A") else accuracy


def write_report(results: Path, folder: Path) -> Path:
    """Write ``results.md`` and its pictures into ``folder``; returns the page.

    Raises:
        CarlError: if there are no cells.
    """
    cells = read_cells(results)
    if not cells:
        raise CarlError(f"{results}: no finished cells yet; run `carl bench run` first")
    gold = _gold({column for cell in cells for column in cell.items})
    parts = [INTRODUCTION]
    for backbone in dict.fromkeys(cell.backbone for cell in cells):
        found = Results([c for c in cells if c.backbone == backbone], gold)
        parts.append(_section(backbone, found, folder))
    page = folder / "results.md"
    with atomic_path(page) as staging:
        staging.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    return page


INTRODUCTION = """# Results

Every method has the same backbone, training data (EmoBank's training split; further texts under "With a teacher"
alone), batches, schedule and closing ridge regression, and differs in its losses alone;
[the experiments](experiments.md) say how the settings were chosen.

Numbers are means over seeds, with half the width of the 95 % bootstrap interval over seeds and test items: 100 times
Pearson's r for ratings (V valence, A arousal; ridge regression on frozen embeddings), accuracy in % for classes
(logistic regression on frozen embeddings, SentEval's protocol). Bold: best, or not told apart from the best by the
paired bootstrap at 5 %. `carl bench report` writes this page from `benchmarks/results/bench.jsonl`.
"""


TEACHER = """A larger model, trained on EmoBank's training split alone, has rated further texts that nobody rated
(`recipes/emobank-minilm.yaml`). One can learn its ratings by regression, as one would learn a human's; CARL also learns
from how far apart they are, and where the teacher's embeddings point."""


def _gold(columns: set[str]) -> dict[str, Array]:
    """Labels of the test items of every column, in the order in which they were scored."""
    gold: dict[str, Array] = {}
    for name in task_names():
        if name in columns:
            task = load_task(name)
            gold[name] = task.labels["test" if "test" in task.labels else "all"].astype(np.float64)
    whole = load_corpus("facebook-va").splits
    rated = {"EmoBank": labels_of(load_corpus("emobank").splits["test"]),
             "Facebook": np.concatenate([labels_of(whole[s]) for s in ("train", "dev", "test")])}  # fmt: skip
    for name in ("tweets", "nyt", "amazon", "movie"):
        if f"{name} V" in columns:
            rated[name] = labels_of(load_corpus(f"vader-{name}").splits["test"])
    for column in columns - set(gold):
        labels = rated.get(column[:-2].split(",")[0])
        if labels is not None:
            gold[column] = labels[:, "VA".index(column[-1])].astype(np.float64)
    return gold


def _section(backbone: str, found: Results, folder: Path) -> str:
    compared = found.methods("other", "part", "carl")
    lines = [f"\n## {backbone}\n", *_main_table(found, compared, MAIN), ""]
    if "carl" in compared and len(compared) > 1:
        lines += _verdict(found, "carl", compared)
        opponent = "mse" if "mse" in compared else compared[0]
        pairs = {column: found.difference("carl", opponent, column) for column in (*MAIN, *CONTROLS)}
        shown = {
            column: (d.difference * 100, d.low * 100, d.high * 100)
            for column, d in pairs.items()
            if d is not None
        }
        if shown:
            name = f"results-{backbone.replace('/', '-')}.svg"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            title = f"CARL minus {BY_NAME[opponent].title}, points"
            with atomic_path(folder / "images" / name) as staging:
                staging.write_bytes(svg(differences(shown, title)))
            lines += [f"![{title}, with 95 % intervals](images/{name})", ""]
    taught = found.methods("taught")
    if "carl-taught" in taught:
        beside = [m for m in ("untouched", "mse", "carl") if m in compared]
        lines += ["### With a teacher", "", TEACHER, "", *_main_table(found, [*beside, *taught], MAIN), ""]
        lines += _verdict(found, "carl-taught", [*beside, *taught])
    compared = [*compared, *taught]
    lines += ["### Controls and further columns", "", *_main_table(found, compared, (*CONTROLS, *MORE)), ""]
    ablations = found.methods("carl", "ablation")
    if len(ablations) > 1:
        lines += ["### What each part is worth", "", *_main_table(found, ablations, (*MAIN, *CONTROLS)), ""]
    lines += ["### Polarity: minimal pairs", "", *_polarity(found, compared), ""]
    lines += ["### Geometry of the space", "", *_geometry(found, compared), ""]
    refused = list(dict.fromkeys(note for cell in found.cells for note in cell.notes))
    if refused:
        lines += ["### Refused", "", *(f"- {note}" for note in refused), ""]
    return "\n".join([*lines, *_costs(found)])


def _main_table(found: Results, methods: Sequence[str], columns: Sequence[str]) -> list[str]:
    columns = [c for c in columns if any(found.predictions(m, c) is not None for m in methods)]
    body = {m: {c: found.interval(m, c) for c in columns} for m in methods}
    bold = {c: _best(found, methods, c) for c in columns}
    rows = [
        [BY_NAME[m].title, str(found.seeds(m)), *(_number(body[m][c], m in bold[c]) for c in columns)]
        for m in methods
    ]
    return _table(["method", "seeds", *columns], rows)


def _best(found: Results, methods: Sequence[str], column: str) -> set[str]:
    means = {m: i.mean for m in methods if (i := found.interval(m, column)) is not None}
    top = max(means, key=lambda m: means[m])
    differences_ = {m: found.difference(top, m, column) for m in means if m != top}
    return {top, *(m for m, d in differences_.items() if d is not None and d.p > 0.05)}


def _number(interval: Interval | None, bold: bool) -> str:
    if interval is None:
        return "-"
    text = f"{interval.mean * 100:.1f} ± {(interval.high - interval.low) * 50:.1f}"
    return f"**{text}**" if bold else text


def _verdict(found: Results, ours: str, methods: Sequence[str]) -> list[str]:
    """What the table says, in words and counts."""
    columns = [c for c in MAIN if found.predictions(ours, c) is not None]
    best = sum(ours in _best(found, methods, c) for c in columns)
    lines = [
        f"{BY_NAME[ours].title} is best or not told apart from the best in {best} of {len(columns)} columns."
    ]
    for other in methods:
        if other == ours:
            continue
        known = {c: d for c in columns if (d := found.difference(ours, other, c)) is not None}
        adjusted = dict(zip(known, holm([d.p for d in known.values()]), strict=True))
        better = [c for c, d in known.items() if d.difference > 0 and adjusted[c] <= 0.05]
        worse = [c for c, d in known.items() if d.difference < 0 and adjusted[c] <= 0.05]
        lines.append(
            f"- against {BY_NAME[other].title}: significantly better in {len(better)}"
            f"{' (' + ', '.join(better) + ')' if better else ''}, worse in {len(worse)}"
            f"{' (' + ', '.join(worse) + ')' if worse else ''} of {len(known)} (paired bootstrap, Holm)"
        )
    gains = []
    for column in EMOTION:
        reached, untouched = found.interval(ours, column), found.interval("untouched", column)
        if reached is not None and untouched is not None:
            gains.append(f"{column} {(reached.mean / untouched.mean - 1) * 100:+.1f} %")
    if gains:
        lines.append(
            f"- relative gain over the untouched backbone on emotion classification: {', '.join(gains)} "
            f"(the paper reports up to {PAPER_GAIN} %)"
        )
    return [lines[0], "", *lines[1:], ""]


def _polarity(found: Results, methods: Sequence[str]) -> list[str]:
    rows, kinds = [], []
    for column in ("triplets", "valence order"):
        for m in methods:
            scores = [c.scores[column] for c in found.cells if c.method == m and column in c.scores]
            if scores:
                kinds = list(scores[0])
                means = [f"{np.mean([score[kind] for score in scores]) * 100:.1f}" for kind in kinds]
                rows.append([column, BY_NAME[m].title, *means])
    return _table(["test", "method", *kinds], rows) if rows else []


def _geometry(found: Results, methods: Sequence[str]) -> list[str]:
    keys = ("alignment", "uniformity", "distance_spearman", "neighbour_ratio")
    rows = []
    for m in methods:
        values = [found.mean(m, "geometry", key) for key in keys]
        if None not in values:
            rows.append([BY_NAME[m].title, *(f"{value:.3f}" for value in values)])
    return _table(["method", *(key.replace("_", " ") for key in keys)], rows) if rows else []


def _costs(found: Results) -> list[str]:
    times = [c.seconds["train"] for c in found.cells if c.seconds["train"] > 0]
    devices = "; ".join(dict.fromkeys(cell.device for cell in found.cells))
    median = f" Training took {np.median(times) / 60:.1f} minutes in the median." if times else ""
    return [f"Measured on: {devices}.{median} {len(found.cells)} cells.", ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
