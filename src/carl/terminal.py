"""The terminal: where the command line prints, and what results look like there."""

import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from carl.evaluation.report import Table
    from carl.model import Explanation

# Off a terminal, tables are not squeezed into 80 columns.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """A note beside the results, once however many processes there are."""
    if int(os.environ.get("RANK", "0")) == 0:
        err.print(f"[dim]{escape(message)}[/]", soft_wrap=True)


def quiet_libraries() -> None:
    """Hide the loaders' own progress bars and notes: ours says what matters."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def signed(value: float) -> Text:
    """A score with its sign: blue above neutral, orange below."""
    return Text(
        f"{value:+.3f}", style="blue" if value > 0.005 else "dark_orange" if value < -0.005 else "dim"
    )


def ranged(value: float, low: float, high: float) -> Text:
    """A score and the interval around it."""
    return Text.assemble(signed(value), (f" {low:+.2f}…{high:+.2f}", "dim"))


def coloured(explanation: "Explanation") -> Text:
    """The text with each token on a ground from orange (pulls valence down) to blue (pushes it up)."""
    text = Text(explanation.text)
    top = max((abs(t.valence) for t in explanation.tokens), default=0.0) or 1.0
    for token in explanation.tokens:
        strength = min(1.0, abs(token.valence) / top)
        full = (0, 90, 181) if token.valence > 0 else (220, 100, 0)
        if strength > 0.1:
            red, green, blue = (round(c * strength + 40 * (1 - strength)) for c in full)
            text.stylize(f"white on rgb({red},{green},{blue})", token.start, token.end)
    return text


def score_line(scores: dict[str, float]) -> str:
    """Scores of ``carl.evaluation.valence_arousal.score`` in one line."""
    shown = [f"{d} {s.upper() if s != 'r' else 'r'} {scores[f'{d}_{s}']:.3f}" for d in ("valence", "arousal")
             for s in ("r", "ccc", "mae") if f"{d}_{s}" in scores]  # fmt: skip
    return ", ".join(shown)


def table_grid(table: "Table") -> Grid:
    """A report's table for the terminal, the best number of each column in bold."""
    from carl.evaluation.report import format_number

    grid = Grid(title=escape(table.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(table.columns):
        grid.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    columns = zip(*table.rows, strict=True)
    best = [max((v for v in values if isinstance(v, float)), default=None) for values in columns]
    for row in table.rows:
        cells = [cell if isinstance(cell, str) else format_number(cell) for cell in row]
        grid.add_row(*(f"[bold]{c}[/]" if v == b else c for c, v, b in zip(cells, row, best, strict=True)))
    return grid
