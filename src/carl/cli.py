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
from carl.errors import CarlError, Interrupted, UsageError
from carl.terminal import coloured, err, out, quiet_libraries, say, score_line, signed, table_grid

if TYPE_CHECKING:
    from carl.config import CarlConfig
    from carl.model import AffectEncoder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="CARL: emotion-aware sentence embeddings. Train on human ratings, score, explain.",
)
data_app = typer.Typer(no_args_is_help=True, help="The rated corpora that CARL knows.")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

CHUNK = 2048

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
        say(
            f'next: carl predict {settings.output} "How do you feel today?"  |  carl explain {settings.output} "..."'
        )


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
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to score.")] = None,
    file: Annotated[
        str | None, typer.Option(help="csv, tsv, jsonl, parquet or txt file, or - for stdin.")
    ] = None,
    column: Annotated[str, typer.Option(help="Text column of the file.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write a csv, jsonl or parquet file.")] = None,
    skip_bad_rows: SkipBadRows = False,
) -> None:
    """Valence and arousal of texts, each from -1 (unpleasant, calm) to 1 (pleasant, excited)."""
    from carl.data import read_texts, write_table

    if bool(texts) == (file is not None):
        raise UsageError("give either texts or --file")
    rows: Iterable[tuple[dict[str, Any], str]]
    rows = (
        read_texts(file, column, skip_bad_rows=skip_bad_rows)
        if file
        else (({"text": t}, t) for t in texts or [])
    )
    encoder = _load(model)
    scored = _scored(encoder, iter(rows))
    if output is not None:
        count = write_table(output, scored)
        say(f"{output}: {count:,} rows")
        return
    _print_scores((*list(row.values())[-2:], str(row.get(column, row.get("text")))) for row in scored)


def _print_scores(scores: Iterable[tuple[float, float, str]]) -> None:
    """One line a text, as it comes and however long."""
    out.print("valence  arousal  text", style="bold")
    for valence, arousal, text in scores:
        line = Text.assemble(" ", signed(valence), "   ", signed(arousal), "  ", " ".join(text.split()))
        out.print(line, soft_wrap=True)


def _scored(encoder: "AffectEncoder", rows: Iterator[tuple[dict[str, Any], str]]) -> Iterator[dict[str, Any]]:
    """Add two columns to each row; memory stays flat. Columns of that name in the input are kept."""
    while chunk := list(islice(rows, CHUNK)):
        texts = [text for _, text in chunk]
        for (row, _), (valence, arousal) in zip(chunk, encoder.predict(texts), strict=True):
            suffix = "_predicted" if {"valence", "arousal"} & set(row) else ""
            yield {
                **row,
                f"valence{suffix}": round(float(valence), 4),
                f"arousal{suffix}": round(float(arousal), 4),
            }


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    text: Annotated[str, typer.Argument(help="The text.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Which tokens of a text carry its affect."""
    import dataclasses

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


@data_app.command("list")
def data_list() -> None:
    """Name the known corpora."""
    from carl.data import corpus_names, describe

    grid = Grid("name", "rows", "labels", "what", box=None, pad_edge=False)
    for name in corpus_names():
        info = describe(name)
        grid.add_row(name, "" if info.rows is None else f"{info.rows:,}", info.labels, info.title)
    out.print(grid)


@data_app.command("get")
def data_get(names: Annotated[list[str], typer.Argument(help="Corpora to fetch.")]) -> None:
    """Fetch corpora into the cache, hash checked."""
    from carl.data import load_corpus

    quiet_libraries()
    for name in names:
        corpus = load_corpus(name)
        sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in corpus.splits.items())
        out.print(f"{name}: {sizes}")
        for note in corpus.notes:
            say(f"{name}: {note}")


@data_app.command("show")
def data_show(name: Annotated[str, typer.Argument(help="Corpus.")]) -> None:
    """What a corpus holds, and how it may be used."""
    import dataclasses

    from carl.data import describe

    grid = Grid(box=None, show_header=False, pad_edge=False)
    for field, value in dataclasses.asdict(describe(name)).items():
        shown = f"{value[0]:g} to {value[1]:g}" if field == "scale" else "" if value is None else str(value)
        grid.add_row(Text(field, style="bold"), Text(shown))
    out.print(grid)


@app.command()
def demo(
    config: Annotated[Path, typer.Option(help="Recipe.")] = Path("recipes/demo.yaml"),
) -> None:
    """Train on freely fetched ratings, compare with a lexicon and with the untouched backbone, write a report."""
    from carl.config import CarlConfig
    from carl.demo import SENTENCES, compare, write_demo_report
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
    predicted = model.predict(list(SENTENCES))
    _print_scores((float(v), float(a), text) for (v, a), text in zip(predicted, SENTENCES, strict=True))
    out.print(f"\nThe report, with pictures: {report}\n\nTry next:", soft_wrap=True)
    for line in (
        f'carl predict {folder} "your own sentence"',
        f'carl explain {folder} "your own sentence"',
        "carl train --data emobank --output runs/emobank",
        "carl train --data my.csv --text text --valence v --arousal a --scale 1 9 --output runs/mine",
    ):
        out.print(f"  {line}", soft_wrap=True)


def _load(folder: Path) -> "AffectEncoder":
    from carl.model import AffectEncoder

    quiet_libraries()
    return AffectEncoder.from_pretrained(folder)


if __name__ == "__main__":
    main()
