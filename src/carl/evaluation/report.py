"""The report of a run: one HTML file that holds all it shows and asks no other machine for anything."""

import base64
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from carl.errors import CarlError

Cell = str | float | None


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under column names; None and NaN are shown as an en dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    """One or two sentences below the table."""
    best: bool = False
    """Highlight the best number of every column that holds at least two; ties share it."""
    lower_is_better: Collection[str] = ()
    """The columns where the best number is the lowest."""


@dataclass(frozen=True)
class ExplainedSentence:
    """A sentence, what the model predicts for it, and what each of its tokens contributes."""

    text: str
    tokens: Sequence[tuple[str, float, float]]
    """(token, valence contribution, arousal contribution) in reading order, special tokens left out."""
    valence: float
    arousal: float


def format_number(value: float | None, decimals: int = 3) -> str:
    """`.737`, `1.250`: no zero before the point, as the field writes correlations; an integer as `8,062`.

    A negative number has a true minus sign, one that rounds to zero has none. None and NaN become an en dash.
    """
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    if isinstance(value, int):
        text = f"{value:,}"
    elif math.isinf(value):
        text = "∞" if value > 0 else "-∞"
    else:
        text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.{decimals}f}")
        if not text.strip("-.0"):
            text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: str,
    tables: Sequence[Table] = (),
    figures: Sequence[tuple[str, bytes]] = (),
    explained: Sequence[ExplainedSentence] = (),
    details: Mapping[str, str] | None = None,
) -> None:
    """Write the report to `path`, replacing what is there only once the whole of it is on disk.

    `summary` and every other text is plain, a blank line starting a new paragraph of the summary. `figures`
    are (caption, SVG or PNG bytes). Parts that are empty are left out.
    Raises CarlError where the file cannot be written, ValueError for another kind of image or a ragged table.
    """
    sections = [_table(table) for table in tables] + [_figure(*figure) for figure in figures]
    if explained:
        sections.append(_explained(explained))
    if details:
        sections.append(_details(details))
    page = Template(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    html = page.substitute(
        title=escape(title),
        summary="\n".join(f"<p>{escape(part)}</p>" for part in re.split(r"\n\s*\n", summary.strip()) if part),
        sections="\n".join(f"<section>\n{section}\n</section>" for section in sections),
    )
    _write_atomically(Path(path), html)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("w", encoding="utf-8", errors="replace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CarlError(f"the report {path} cannot be written: {error.strerror or error}") from error


def _table(table: Table) -> str:
    if any(len(row) != len(table.columns) for row in table.rows):
        raise ValueError(f"table {table.title!r}: every row needs {len(table.columns)} cells")
    numeric = [any(_is_number(row[c]) for row in table.rows) for c in range(len(table.columns))]
    winners = [_best(table, c) if table.best else None for c in range(len(table.columns))]

    def cell(value: Cell, c: int) -> str:
        text = escape(value) if isinstance(value, str) else format_number(value)
        classes = "number" if numeric[c] else ""
        if winners[c] is not None and text == winners[c]:
            classes += " best"
        return f'<td class="{classes}">{text}</td>' if classes else f"<td>{text}</td>"

    head = "".join(
        f'<th scope="col" class="number">{escape(name)}</th>'
        if right
        else f'<th scope="col">{escape(name)}</th>'
        for name, right in zip(table.columns, numeric, strict=True)
    )
    body = "\n".join(
        f"<tr>{''.join(cell(value, c) for c, value in enumerate(row))}</tr>" for row in table.rows
    )
    note = f'\n<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="scroll"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>{note}"
    )


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _best(table: Table, column: int) -> str | None:
    """The best number of a column as it is shown, so that what looks the same is highlighted alike."""
    numbers = [
        value for row in table.rows if isinstance(value := row[column], int | float) and _is_number(value)
    ]
    if len(numbers) < 2:
        return None
    return format_number(min(numbers) if table.columns[column] in table.lower_is_better else max(numbers))


def _figure(caption: str, image: bytes) -> str:
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "image/png"
    elif b"<svg" in image[:4096]:
        kind = "image/svg+xml"
    else:
        raise ValueError(f"the figure {caption!r} is neither SVG nor PNG")
    # As an image of its own, not inline: ids inside one SVG cannot clash with those of another.
    source = f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
    text = escape(caption)
    # On a phone a picture of several panels is scrolled rather than shrunk beyond reading.
    box = re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', image[:4096])
    wide = ' class="wide"' if box and float(box[1]) > 1.3 * float(box[2]) else ""
    return (
        f'<figure>\n<div class="scroll"><img{wide} src="{source}" alt="{text}"></div>\n'
        f"<figcaption>{text}</figcaption>\n</figure>"
    )


def _explained(sentences: Sequence[ExplainedSentence]) -> str:
    # One scale for all sentences: a word that matters little stays pale, be it the strongest of its sentence.
    tokens = [token for sentence in sentences for token in sentence.tokens]
    most_valence = max((abs(valence) for _, valence, _ in tokens), default=0.0) or 1.0
    most_arousal = max((abs(arousal) for _, _, arousal in tokens), default=0.0) or 1.0
    legend = (
        '<p class="legend">What each word adds to the prediction. Background: '
        '<span class="token up" style="--shade:.5">raises valence</span> '
        '<span class="token down" style="--shade:.5">lowers valence</span>, the deeper the more. Line below: '
        '<span class="token rouse" style="--thick:3px">raises arousal</span> '
        '<span class="token soothe" style="--thick:3px">lowers arousal</span>, the thicker the more. '
        "All sentences share one scale; rest the pointer on a word for its numbers.</p>"
    )
    blocks = [
        f'<div class="sentence">\n<p class="text">{_tokens(sentence, most_valence, most_arousal)}</p>\n'
        f'<p class="score">valence {format_number(sentence.valence)} · '
        f"arousal {format_number(sentence.arousal)}</p>\n</div>"
        for sentence in sentences
    ]
    return "\n".join(["<h2>What carries the affect</h2>", legend, *blocks])


def _tokens(sentence: ExplainedSentence, most_valence: float, most_arousal: float) -> str:
    parts = []
    for text, contribution in align_tokens(sentence.text, sentence.tokens):
        if contribution is None:
            parts.append(escape(text))
            continue
        valence, arousal = contribution
        shade, thick = 0.62 * abs(valence) / most_valence, 4 * abs(arousal) / most_arousal
        classes = ["token", "up" if valence >= 0 else "down"]
        if thick >= 0.5:
            classes.append("rouse" if arousal > 0 else "soothe")
        numbers = f"valence {format_number(valence)}, arousal {format_number(arousal)}"
        style = f"--shade:{shade:.2f};--thick:{thick:.1f}px"
        parts.append(
            f'<span class="{" ".join(classes)}" style="{style}" title="{numbers}">{escape(text)}</span>'
        )
    return "".join(parts)


def align_tokens(
    text: str, tokens: Sequence[tuple[str, float, float]]
) -> list[tuple[str, tuple[float, float] | None]]:
    """Lay tokens over their text: stretches that join up to `text`, each with (valence, arousal) or None.

    Subword marks (`##`, `Ġ`, `▁`) and case do not matter. Tokens that do not stand in the text (an emoji that
    became `[UNK]`, a letter that lost its accent) hand the sum of their contributions to the stretch they
    must have come from: the part of the text between the found tokens around them.
    """
    stretches: list[tuple[str, tuple[float, float] | None]] = []
    position, waiting = 0, (0.0, 0.0)
    lost = False

    def gap(until: int) -> None:
        between = text[position:until]
        core = between.strip()
        if not (lost and core):
            if between:
                stretches.append((between, None))
            return
        before, after = between.split(core, 1)
        pieces = ((before, None), (core, waiting), (after, None))
        stretches.extend(piece for piece in pieces if piece[0])

    for token, valence, arousal in tokens:
        bare = token.removeprefix("##").lstrip("Ġ▁").strip()
        found = re.compile(re.escape(bare), re.IGNORECASE).search(text, position) if bare else None
        # Far ahead, it would be another word that happens to hold the same letters.
        if found is None or (not lost and text[position : found.start()].strip()):
            waiting, lost = (waiting[0] + valence, waiting[1] + arousal), True
            continue
        gap(found.start())
        stretches.append((found.group(), (valence, arousal)))
        position, waiting, lost = found.end(), (0.0, 0.0), False
    gap(len(text))
    return stretches


def _details(details: Mapping[str, str]) -> str:
    entries = "\n".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in details.items())
    return f"<details>\n<summary>Details of the run</summary>\n<dl>\n{entries}\n</dl>\n</details>"
