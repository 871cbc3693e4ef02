"""What results look like on a terminal. Returns renderables; printing is the command line's."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from carl.evaluation.report import Table
    from carl.model import Explanation


def signed(value: float) -> Text:
    """A score with its sign: blue above neutral, orange below."""
    return Text(
        f"{value:+.3f}", style="blue" if value > 0.005 else "dark_orange" if value < -0.005 else "dim"
    )


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
