"""``carl data``: the corpora that CARL knows by name."""

from typing import Annotated

import typer
from rich.table import Table as Grid
from rich.text import Text

from carl.terminal import out, quiet_libraries, say

app = typer.Typer(no_args_is_help=True, help="The rated corpora that CARL knows.")


@app.command("list")
def data_list() -> None:
    """Name the known corpora."""
    from carl.data import corpus_names, describe

    grid = Grid("name", "rows", "labels", "what", box=None, pad_edge=False)
    for name in corpus_names():
        info = describe(name)
        grid.add_row(name, "" if info.rows is None else f"{info.rows:,}", info.labels, info.title)
    out.print(grid)


@app.command("get")
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


@app.command("show")
def data_show(name: Annotated[str, typer.Argument(help="Corpus.")]) -> None:
    """What a corpus holds, and how it may be used."""
    import dataclasses

    from carl.data import describe

    grid = Grid(box=None, show_header=False, pad_edge=False)
    for field, value in dataclasses.asdict(describe(name)).items():
        shown = f"{value[0]:g} to {value[1]:g}" if field == "scale" else "" if value is None else str(value)
        grid.add_row(Text(field, style="bold"), Text(shown))
    out.print(grid)
