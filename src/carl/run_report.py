"""The report of a training run: what was learnt, in numbers, pictures and explained sentences."""

import json
from collections.abc import Sequence
from pathlib import Path

from carl.evaluation.figures import circumplex, learning_curves, svg
from carl.evaluation.report import ExplainedSentence, Table, write_report
from carl.evaluation.valence_arousal import score
from carl.model import AffectEncoder
from carl.trainer import labels_of, read_metrics
from carl.training_data import TrainingData

#: Sentences of our own that every report explains: plain, negated, mixed, ironic, with emoji.
EXAMPLES = (
    "I can't believe we made it!",
    "The service was not bad at all, I would come back.",
    "Nobody told her the concert was cancelled, and she waited in the rain.",
    "no complaints, it just works 😊",
    "He slammed the door and screamed until his voice gave out.",
    "A quiet evening with tea, a blanket and nowhere to be.",
)


def explained(model: AffectEncoder, texts: Sequence[str] = EXAMPLES) -> list[ExplainedSentence]:
    """Explain ``texts`` in the form that the report draws."""
    result = []
    for text in texts:
        explanation = model.explain(text)
        tokens = [(t.token, t.valence, t.arousal) for t in explanation.tokens]
        result.append(ExplainedSentence(text, tokens, explanation.valence, explanation.arousal))
    return result


def write_run_report(
    folder: Path,
    model: AffectEncoder,
    data: TrainingData,
    *,
    split: str = "dev",
    tables: Sequence[Table] = (),
    title: str = "CARL training run",
    summary: str = "",
) -> Path:
    """Write ``report.html`` into the run folder and return its path.

    Args:
        folder: of the run.
        model: as trained.
        data: what it was trained on; ``split`` of each corpus is predicted and drawn.
        split: ``dev`` or ``test``.
        tables: to show above the scores.
        title: of the page.
        summary: a sentence or two; by default, what was trained on what.
    """
    rows: list[list[str | float | None]] = []
    figures = []
    statistics = [f"{name}_{key}" for name in ("valence", "arousal") for key in ("r", "ccc", "mae")]
    for corpus in data.corpora:
        dataset = corpus.splits[split]
        rated = labels_of(dataset)
        predicted = model.predict(dataset["text"][:])
        scores = score(predicted, rated)
        rows.append([corpus.name, len(rated), *(scores.get(name) for name in statistics)])
        figures.append(
            (f"{corpus.name}, {split} split: predicted against rated", svg(circumplex(predicted, rated)))
        )
    columns = [split, "rows", *(f"{d} {s}" for d in ("valence", "arousal") for s in ("r", "CCC", "MAE"))]
    note = "Pearson r, Lin's concordance and mean absolute error on the scale from -1 to 1."
    records = read_metrics(folder / "metrics.jsonl")
    train_records = [r for r in records if "loss" in r]
    dev_records = [r for r in records if any(name.startswith("dev_") for name in r)]
    figures.append(
        (
            "Learning curves. MCCL rises while the queue fills: every query then chooses among more keys.",
            svg(learning_curves(train_records, dev_records)),
        )
    )
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    details = {
        "recipe": (folder / "recipe.yaml").read_text(encoding="utf-8"),
        "versions": "\n".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "data (sha256)": "\n".join(
            f"{corpus}/{name} {digest}" for corpus, files in facts["data"].items() for name, digest in files.items()
        ),
        "what was left out": "\n".join(
            f"{corpus}: {note}" for corpus, notes in facts["notes"].items() for note in notes
        ) or "nothing",
    }  # fmt: skip
    default = f"Trained on {facts['train_rows']:,} rated texts of {', '.join(c.name for c in data.corpora)}."
    path = folder / "report.html"
    write_report(
        path,
        title=title,
        summary=summary or default,
        tables=[*tables, Table(f"Scores on the {split} split", columns, rows, note)],
        figures=figures,
        explained=explained(model),
        details=details,
    )
    return path
