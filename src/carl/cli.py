"""The command line. Everything that prints is here; results go to stdout, progress and messages to stderr."""

import errno
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from carl.bench.cli import app as bench_app
from carl.data.cli import app as data_app
from carl.errors import CarlError, Interrupted, UsageError
from carl.server.cli import serve
from carl.terminal import coloured, err, out, quiet_libraries, ranged, say, score_line, signed, table_grid

if TYPE_CHECKING:
    from carl.config import CarlConfig
    from carl.model import AffectEncoder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="CARL: emotion-aware sentence embeddings. Train on human ratings, score, explain.",
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.command()(serve)

CHUNK = 2048
RELEASED = "carl-minilm"

Model = Annotated[
    str, typer.Option("--model", help="Model folder, or carl-minilm, which comes with the package.")
]
Data = Annotated[
    list[str] | None, typer.Option(help="Corpus name or table file; name=0.5 weighs it. Repeatable.")
]
TextColumn = Annotated[str | None, typer.Option("--text", help="Text column of own tables.")]
ValenceColumn = Annotated[str | None, typer.Option("--valence", help="Valence column of own tables.")]
ArousalColumn = Annotated[str | None, typer.Option("--arousal", help="Arousal column of own tables.")]
Scale = Annotated[
    tuple[float, float] | None, typer.Option(help="Lowest and highest rating in own tables, as in 1 9.")
]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out, count and list bad rows.")]


def main() -> None:
    """Entry point: turns errors into one sentence and an exit code (2 usage, 1 failure, 130 interrupted)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except Interrupted as error:
        _fail(str(error), 130)
    except UsageError as error:
        _fail(str(error), 2)
    except CarlError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            _fail(
                f"{error.filename or 'the output'}: {error.strerror}; free some space or choose another place",
                1,
            )
        raise


def _fail(message: str, code: int) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


@app.command()
def train(
    config: Annotated[Path | None, typer.Option(help="Recipe (YAML); flags override it.")] = None,
    data: Data = None,
    backbone: Annotated[str | None, typer.Option(help="minilm, a folder, or a Hugging Face name.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sentences per step and process.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of the encoder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    text: TextColumn = None,
    valence: ValenceColumn = None,
    arousal: ArousalColumn = None,
    scale: Scale = None,
    skip_bad_rows: SkipBadRows = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as in sigma=0.5.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --output.")] = False,
) -> None:
    """Train CARL on human ratings."""
    import dataclasses

    from carl.config import CarlConfig
    from carl.training import resolve_resume

    flags: dict[str, Any] = {
        "data": data, "backbone": backbone, "output": None if output is None else str(output), "epochs": epochs,
        "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "precision": precision, "text": text,
        "valence": valence, "arousal": arousal, "scale": None if scale is None else list(scale),
        "skip_bad_rows": skip_bad_rows or None,
    }  # fmt: skip
    flags = {name: value for name, value in flags.items() if value is not None}
    for item in set_ or []:
        name, separator, value = item.partition("=")
        if not separator:
            raise UsageError(f"--set {item}: write it as setting=value")
        flags[name.strip().replace("-", "_")] = None if value in ("null", "none") else _yaml_value(value)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    settings = (
        CarlConfig.from_yaml(config, flags)
        if config
        else CarlConfig.from_mapping(flags, source="command line")
    )
    if resume:
        given = dataclasses.asdict(settings)
        settings = resolve_resume(
            Path(settings.output), given if config else {name: given[name] for name in flags}
        )
    if _train(settings, resume=resume, overwrite=overwrite) is not None:
        say(f'next: carl predict --model {settings.output} "How do you feel today?"')


def _yaml_value(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _train(config: "CarlConfig", *, resume: bool, overwrite: bool) -> "AffectEncoder | None":
    """Train and write the report; returns the model on the main process."""
    import torch

    from carl.progress import TrainingProgress
    from carl.run_report import write_run_report
    from carl.training import train as run
    from carl.training_data import load_training_data

    quiet_libraries()
    progress = TrainingProgress(err)
    try:
        model = run(config, resume=resume, overwrite=overwrite, callbacks=[progress], say=say)
    finally:
        progress.close()
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return None
    folder = Path(config.output)
    report = write_run_report(folder, model, load_training_data(config))
    scores = json.loads((folder / "run.json").read_text(encoding="utf-8"))["dev"]
    out.print(f"dev: {score_line(scores)}", soft_wrap=True)
    out.print(f"model: {folder}   report: {report}", soft_wrap=True)
    return model


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Data = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    text: TextColumn = None,
    valence: ValenceColumn = None,
    arousal: ArousalColumn = None,
    scale: Scale = None,
    skip_bad_rows: SkipBadRows = False,
    output: Annotated[Path | None, typer.Option(help="Also write the scores as JSON.")] = None,
) -> None:
    """Score a model against human ratings: Pearson r with its 95 % bootstrap interval, CCC and MAE."""
    import dataclasses

    from carl.evaluation.agreement import score_corpora
    from carl.trainer import labels_of
    from carl.training_data import load_evaluation_data

    if split not in ("train", "dev", "test"):
        raise UsageError(f"--split is {split!r}; choose train, dev or test")
    options = {"text": text or "text", "valence": valence, "arousal": arousal, "scale": scale,
               "skip_bad_rows": skip_bad_rows}  # fmt: skip
    encoder = _load(model)
    corpora = load_evaluation_data(data or ["emobank"], split, options, say)
    texts_and_labels = {name: (d["text"][:], labels_of(d)) for name, d in corpora.items()}
    results = [dataclasses.asdict(row) for row in score_corpora(encoder.predict, texts_and_labels)]
    grid = Grid("corpus", "dimension", "rows", "r", "95 % interval", "CCC", "MAE", box=None, pad_edge=False)
    for row in results:
        interval = f"{row['r_low']:.3f} to {row['r_high']:.3f}"
        numbers = (f"{row['r']:.3f}", interval, f"{row['ccc']:.3f}", f"{row['mae']:.3f}")
        grid.add_row(row["corpus"], row["dimension"], f"{row['rows']:,}", *numbers)
    out.print(grid)
    if output is not None:
        from carl.data.files import atomic_path

        with atomic_path(output) as part:
            part.write_text(
                json.dumps({"split": split, "results": results}, indent=2) + "\n", encoding="utf-8"
            )


@app.command()
def predict(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to score.")] = None,
    model: Model = RELEASED,
    file: Annotated[
        str | None, typer.Option(help="csv, tsv, jsonl, parquet or txt file, or - for stdin.")
    ] = None,
    column: Annotated[str, typer.Option(help="Text column of the file.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write a csv, jsonl or parquet file.")] = None,
    backend: Annotated[str, typer.Option(help="torch, torch-bf16 or openvino.")] = "torch",
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Valence and arousal of texts, each from -1 (unpleasant, calm) to 1 (pleasant, excited), with 90 % intervals."""
    from carl.data import read_texts, write_table

    if bool(texts) == (file is not None):
        raise UsageError("give either texts or --file")
    if texts and Path(texts[0], "affect").is_dir():
        raise UsageError(f"{texts[0]} is a model, not a text; write --model {texts[0]}")
    rows: Iterable[tuple[dict[str, Any], str]]
    rows = (
        read_texts(file, column, skip_bad_rows=skip_bad_rows)
        if file
        else (({"text": t}, t) for t in texts or [])
    )
    encoder = _load(model, backend)
    scored = _scored(encoder, iter(rows))
    if output is not None:
        count = write_table(
            output, (row | {names[k]: v for k, v in score.items()} for row, _, score, names in scored)
        )
        say(f"{output}: {count:,} rows")
        return
    _print_scores((score, text) for _, text, score, _ in scored)


def _print_scores(scores: Iterable[tuple[dict[str, Any], str]]) -> None:
    """One line a text, as it comes and however long."""
    head = True
    for score, text in scores:
        shown = [
            ranged(score[d], score[f"{d}_low"], score[f"{d}_high"])
            if f"{d}_low" in score
            else signed(score[d])
            for d in ("valence", "arousal")
        ]
        emotion = f"{score['emotion']:9}" if "emotion" in score else ""
        if head:
            titles = [f"{d:{len(part)}}" for d, part in zip(("valence", "arousal"), shown, strict=True)]
            out.print("  ".join(filter(None, [*titles, emotion and f"{'emotion':9}", "text"])), style="bold")
            head = False
        line = Text("  ").join([*shown, *([Text(emotion)] if emotion else []), Text(" ".join(text.split()))])
        out.print(line, soft_wrap=True)


def _scored(
    encoder: "AffectEncoder", rows: Iterator[tuple[dict[str, Any], str]]
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any], dict[str, str]]]:
    """Each row with its text, its scores, and the columns they go to: not those that the row has already. Memory stays
    flat.
    """
    from carl.scores import score_texts

    while chunk := list(islice(rows, CHUNK)):
        scores = score_texts(encoder, [text for _, text in chunk])
        for (row, text), score in zip(chunk, scores, strict=True):
            suffix = "_predicted" if set(score) & set(row) else ""
            yield row, text, score, {name: f"{name}{suffix}" for name in score}


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="The text.")],
    model: Model = RELEASED,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Which tokens of a text carry its affect."""
    import dataclasses

    if Path(text, "affect").is_dir():
        raise UsageError(f"{text} is a model, not a text; write --model {text}")
    explanation = _load(model).explain(text)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(explanation), ensure_ascii=False))
        return
    out.print(f"valence {signed(explanation.valence).markup}   arousal {signed(explanation.arousal).markup}")
    out.print(coloured(explanation))
    grid = Grid("token", "valence", "arousal", box=None, pad_edge=False)
    for token in sorted(explanation.tokens, key=lambda t: -t.saliency)[:8]:
        grid.add_row(Text(token.token), signed(token.valence), signed(token.arousal))
    out.print(grid)
    if explanation.truncated:
        say("the text is longer than the encoder reads at once; only its beginning was explained")


@app.command()
def demo(
    config: Annotated[Path, typer.Option(help="Recipe.")] = Path("recipes/demo.yaml"),
) -> None:
    """Train on freely fetched ratings, compare with a lexicon and with the untouched backbone, write a report."""
    from carl.config import CarlConfig
    from carl.demo import SENTENCES, compare, write_demo_report
    from carl.scores import score_texts
    from carl.training_data import load_training_data

    settings = CarlConfig.from_yaml(config)
    folder = Path(settings.output)
    quiet_libraries()
    if (folder / "modules.json").is_file():
        say(f"{folder} holds a finished run, which is used again; delete it to train anew")
        model = _load(folder)
    else:
        begun = (folder / "recipe.yaml").is_file()
        trained = _train(settings, resume=begun, overwrite=False)
        assert trained is not None
        model = trained
    data = load_training_data(settings)
    table = compare(model, data, settings.backbone, folder, say)
    report = write_demo_report(model, data, table, folder)
    out.print()
    out.print(table_grid(table))
    out.print(f"[dim]{escape(table.note)}[/]")
    out.print("\nWhat CARL makes of a few sentences, from -1 to 1:\n")
    _print_scores(zip(score_texts(model, list(SENTENCES)), SENTENCES, strict=True))
    out.print(f"\nThe report, with pictures: {report}\n\nTry next:", soft_wrap=True)
    for line in (
        f'carl predict --model {folder} "your own sentence"',
        f'carl explain --model {folder} "your own sentence"',
        "carl train --data emobank --output runs/emobank",
        "carl train --data my.csv --text text --valence v --arousal a --scale 1 9 --output runs/mine",
    ):
        out.print(f"  {line}", soft_wrap=True)


def _load(folder: str | Path, backend: str = "torch") -> "AffectEncoder":
    from carl.model import AffectEncoder

    quiet_libraries()
    return AffectEncoder.from_pretrained(folder, backend=backend)


if __name__ == "__main__":
    main()
