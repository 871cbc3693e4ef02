"""The pictures of a report, as matplotlib figures; `svg` and `png` turn one into bytes.

Built on `Figure` objects alone: no pyplot, no global state, no window. Colours are Okabe & Ito's, which
readers with any colour vision tell apart.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from carl.errors import UsageError
from carl.evaluation.report import format_number
from carl.evaluation.valence_arousal import DIMENSIONS, Array, pearson

ORANGE, BLUE, GREEN, PURPLE = "#E69F00", "#0072B2", "#009E73", "#CC79A7"
INK, MUTED, FAINT, WHITE = "#222222", "#666666", "#cccccc", "#ffffff"

# What each colour turns into on a dark page.
DARK = {INK: "#e8e8e4", MUTED: "#9aa3ab", FAINT: "#3d4248", WHITE: "#1d2024", BLUE: "#3a9bdc"}

# Quadrants of the circumplex (Russell 1980): word, colour, sign of valence, sign of arousal.
QUADRANTS = (
    ("excited", ORANGE, 1, 1),
    ("tense", PURPLE, -1, 1),
    ("sad", BLUE, -1, -1),
    ("calm", GREEN, 1, -1),
)

LOSS_PARTS = {"loss": "loss, all parts", "mccl": "MCCL", "ptd": "PTD", "regression": "regression"}
MAX_POINTS = 300
MAX_SPACE_POINTS = 600

# Of valence and of arousal: the word for low and for high, and colours from low over neutral to high.
SPACE_COLOURS = (
    ("unpleasant", "pleasant", BLUE, "#c4c4c4", ORANGE),
    ("calm", "excited", GREEN, "#c4c4c4", "#B2478A"),
)

Record = Mapping[str, object]


def circumplex(predicted: npt.ArrayLike, rated: npt.ArrayLike, seed: int = 0) -> Figure:
    """Ratings and predictions, each (n, 2) of valence and arousal, side by side on Russell's circumplex.

    Colour is the quadrant of the rating in both panels, so a prediction that left its quadrant stands out.
    At most 300 of the fully rated items are drawn. Where no item is rated on both dimensions, this is a
    `scatter` of valence, or of arousal if valence is not rated at all.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(rated, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(y).any(axis=1))
    if not known.size:
        dimension = 0 if not np.isnan(y[:, 0]).all() else 1
        return scatter(x[:, dimension], y[:, dimension], DIMENSIONS[dimension], seed)
    known = _sample(known, MAX_POINTS, seed)
    x, y = x[known], y[known]

    figure = _figure(8.4, 4.5)
    limit = _radius(x, y)
    colour_of = {(v > 0, a > 0): colour for _, colour, v, a in QUADRANTS}
    colours = [colour_of[bool(v >= 0), bool(a >= 0)] for v, a in y]
    for axes, points, title in zip(_row(figure, 2), (y, x), ("rated by people", "predicted"), strict=True):
        _draw_circle(axes, limit)
        axes.scatter(points[:, 0], points[:, 1], s=22, c=colours, alpha=0.8, linewidths=0.4, edgecolors=WHITE)
        axes.set_title(title, color=INK, fontsize=11, pad=10)
    return figure


def scatter(predicted: npt.ArrayLike, rated: npt.ArrayLike, name: str, seed: int = 0) -> Figure:
    """Predictions (n,) over ratings (n,) of one dimension, with Pearson's r of all rated items in the title.

    At most 300 points are drawn; the dashed line is where both agree.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(rated, dtype=np.float64)
    figure = _figure(4.6, 4.5)
    known = np.flatnonzero(~np.isnan(y) & ~np.isnan(x))
    if not known.size:
        return _say(figure, f"no {name} ratings")
    r = pearson(x, y)
    shown = _sample(known, MAX_POINTS, seed)
    limit = 1.05 * max(0.1, float(np.abs([x[shown], y[shown]]).max()))
    (axes,) = _row(figure, 1)
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.scatter(y[shown], x[shown], s=22, color=BLUE, alpha=0.55, linewidths=0.4, edgecolors=WHITE, zorder=2)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.grid(color=FAINT, linewidth=0.5, alpha=0.6)
    axes.set_xlabel(f"{name}, rated", color=MUTED)
    axes.set_ylabel(f"{name}, predicted", color=MUTED)
    axes.locator_params(nbins=5)
    axes.set_title(
        name if math.isnan(r) else f"{name}, r = {format_number(r)}", color=INK, fontsize=11, pad=10
    )
    return figure


def learning_curves(train_records: Sequence[Record], eval_records: Sequence[Record]) -> Figure:
    """Every loss part over the training steps, and Pearson's r on dev in a panel of its own.

    train_records: dicts with `step` and any of `loss`, `mccl`, `ptd`, `regression`; eval_records: dicts with
    `step` and `dev_valence_r`, `dev_arousal_r`. What is missing or not finite is left out, and so are panels
    without data. The pale line is what was logged, the strong one its trailing mean.
    """
    losses = {key: _series(train_records, key) for key in LOSS_PARTS}
    losses = {key: series for key, series in losses.items() if len(series)}
    dev = {name: _series(eval_records, f"dev_{name}_r") for name in DIMENSIONS}
    dev = {name: series for name, series in dev.items() if len(series)}
    panels = len(losses) + bool(dev)
    if not panels:
        return _say(_figure(4.6, 2.4), "nothing logged yet")

    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    figure = _figure(2.8 * columns, 2.5 * rows)
    grid = figure.add_gridspec(rows, columns, hspace=0.1, wspace=0.04)
    cells = [grid[i // columns, i % columns] for i in range(panels - 1)]
    cells.append(grid[rows - 1, (panels - 1) % columns :])  # the last panel takes what is left of its row
    axes = [figure.add_subplot(cell) for cell in cells]
    last_step = max(series[:, 0].max() for series in [*losses.values(), *dev.values()])
    for ax in axes:
        _plain(ax)
        ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
        ax.locator_params(nbins=4)
        ax.set_xlim(0, 1.04 * max(1, last_step))
    for ax in axes[(rows - 1) * columns :]:
        ax.set_xlabel("step", color=MUTED, fontsize=9)
    for ax, (key, series) in zip(axes, losses.items(), strict=False):
        _draw_loss(ax, series, LOSS_PARTS[key])
    if dev:
        _draw_dev(axes[-1], dev)
    return figure


def embedding_space(
    untouched: npt.ArrayLike,
    trained: npt.ArrayLike,
    labels: npt.ArrayLike,
    titles: tuple[str, str] = ("untouched", "trained"),
    seed: int = 0,
) -> Figure:
    """The same n texts in two embedding spaces, (n, d) and (n, e): columns; coloured by labels (n, 2): rows.

    Each space is shown by its first two principal components. Only the plane's own orientation is free, so it is
    turned until valence rises to the right, and mirrored where arousal would fall upwards: both columns can be
    compared. r is the multiple correlation of the label with the two coordinates, over all n texts; at most 600
    are drawn, in random order, so that no colour hides another. The colours end where a tenth of the ratings lies
    further out. A dimension without ratings has no row.

    Raises UsageError where the shapes do not fit or there are fewer than three texts.
    """
    y = np.asarray(labels, dtype=np.float64)
    spaces = [np.asarray(x, dtype=np.float64) for x in (untouched, trained)]
    if len(y) < 3 or y.shape != (len(y), 2) or any(x.ndim != 2 or len(x) != len(y) for x in spaces):
        shapes = ", ".join(str(x.shape) for x in (*spaces, y))
        raise UsageError(f"need two embeddings (n, d) and labels (n, 2) of three texts or more, got {shapes}")
    rows = [d for d in range(2) if not np.isnan(y[:, d]).all()]
    if not rows:
        return _say(_figure(4.6, 2.4), "no ratings")
    planes = [_plane(x, y) for x in spaces]
    shown = np.random.default_rng(seed).permutation(len(y))[:MAX_SPACE_POINTS]

    figure = _figure(7.6, 3.35 * len(rows) + 0.2)
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for axes_row, d in zip(grid, rows, strict=True):
        low, high, *colours = SPACE_COLOURS[d]
        reach = max(1e-6, float(np.nanquantile(np.abs(y[:, d]), 0.9)))
        norm = Normalize(-reach, reach)
        scale = LinearSegmentedColormap.from_list(DIMENSIONS[d], colours)
        rated = shown[~np.isnan(y[shown, d])]
        for axes, (points, share) in zip(axes_row, planes, strict=True):
            axes.scatter(
                *points[rated].T, c=y[rated, d], cmap=scale, norm=norm, s=15, alpha=0.85, linewidths=0
            )
            _frame(axes, points)
            r = _multiple_correlation(points, y[:, d])
            axes.set_title(f"r = {format_number(r, 2)}", color=MUTED, fontsize=9, loc="right", pad=4)
            if d == rows[-1]:
                axes.set_xlabel(f"this plane: {100 * share:.0f} % of the variance", color=MUTED, fontsize=9)
        bar = figure.colorbar(
            ScalarMappable(norm, scale), ax=list(axes_row), ticks=[-reach, 0, reach], aspect=28, pad=0.02
        )
        bar.ax.set_yticklabels([low, "neutral", high], color=MUTED, fontsize=9)
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
        axes_row[0].set_ylabel(DIMENSIONS[d], color=INK, fontsize=11)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, color=INK, fontsize=11, loc="left", pad=4)
    return figure


def differences(values: Mapping[str, tuple[float, float, float]], title: str) -> Figure:
    """Differences by name with their intervals (difference, low, high); those that leave out 0 stand out."""
    figure = _figure(7.2, 0.9 + 0.32 * len(values))
    (axes,) = _row(figure, 1)
    for place, (difference, low, high) in enumerate(values.values()):
        colour = MUTED if low <= 0 <= high else BLUE if difference > 0 else ORANGE
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(difference, place, "o", color=colour, markersize=6)
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(values)), list(values), color=INK)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.6)
    axes.set_title(title, color=INK, fontsize=11, loc="left", pad=8)
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG: the same bytes for the same figure, text as paths, no background, light and dark.

    Which of the two shows follows the reader's `prefers-color-scheme`, inside an `<img>` as well.
    """
    with matplotlib.rc_context({"svg.hashsalt": "carl", "svg.fonttype": "path"}):
        drawn = _save(figure, "svg", facecolor="none", metadata={"Date": None})
    rules = "".join(
        f'[style*="{part}: {light.lower()}"]{{{part}:{dark}!important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return drawn.replace(b"</svg>", style.encode() + b"</svg>")


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG."""
    return _save(figure, "png", facecolor="white", dpi=dpi)


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _row(figure: Figure, count: int) -> list[Axes]:
    axes = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for ax in axes:
        _plain(ax)
    return axes


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=8, length=3, color=FAINT)


def _say(figure: Figure, message: str) -> Figure:
    figure.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, fontsize=11)
    return figure


def _sample(indices: npt.NDArray[np.intp], most: int, seed: int) -> npt.NDArray[np.intp]:
    if len(indices) <= most:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, most, replace=False))


def _radius(*points: Array) -> float:
    """Ratings often crowd around neutral: the smallest of four radii that holds nearly all points."""
    reach = float(np.quantile(np.linalg.norm(np.concatenate(points), axis=1), 0.99))
    return next((radius for radius in (0.25, 0.5, 0.75) if reach <= radius), 1.0)


def _draw_circle(axes: Axes, limit: float) -> None:
    for radius in (limit / 2, limit):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=FAINT, linewidth=1, zorder=0))
        axes.text(0, -radius, f" {radius:g}", color=MUTED, fontsize=7, ha="left", va="bottom", zorder=0)
    axes.axhline(0, color=FAINT, linewidth=1, zorder=0)
    axes.axvline(0, color=FAINT, linewidth=1, zorder=0)
    for word, colour, v, a in QUADRANTS:
        text = axes.text(0.5 + 0.48 * v, 0.5 + 0.48 * a, word, transform=axes.transAxes, color=colour)
        text.set(ha="right" if v > 0 else "left", va="top" if a > 0 else "bottom", size=11, weight="bold")
    edge = 1.12 * limit
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("valence →", color=MUTED, fontsize=9)
    axes.set_ylabel("arousal →", color=MUTED, fontsize=9)


def _plane(x: Array, y: Array) -> tuple[Array, float]:
    """First two principal components (n, 2) of x (n, d), turned by labels y (n, 2), and their share of variance."""
    left, sizes, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    points = np.zeros((len(x), 2))
    points[:, : len(sizes)] = (left * sizes)[:, :2]
    share = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), np.finfo(float).tiny))
    v, a = (_slope(points, y[:, d]) for d in range(2))
    if v.any():
        v = v / np.linalg.norm(v)
        points, a = points @ np.array([v, [-v[1], v[0]]]).T, np.array([v @ a, v[0] * a[1] - v[1] * a[0]])
    return points * (1, -1 if a[1] < 0 else 1), share


def _slope(points: Array, rated: Array) -> Array:
    """Direction (2,) of the plane in which a rating (n,) rises fastest; 0 where it does not."""
    known = ~np.isnan(rated)
    if known.sum() < 3:
        return np.zeros(2)
    centred = points[known] - points[known].mean(axis=0)
    return np.asarray(np.linalg.lstsq(centred, rated[known] - rated[known].mean(), rcond=None)[0])


def _multiple_correlation(points: Array, rated: Array) -> float:
    return pearson(points @ _slope(points, rated), rated)


def _frame(axes: Axes, points: Array) -> None:
    """A square around nearly all points, so that one outlier does not shrink the rest."""
    low, high = np.quantile(points, [0.001, 0.999], axis=0)
    half = 0.56 * max(1e-6, float((high - low).max()))
    x, y = (low + high) / 2
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color(FAINT)


def _series(records: Sequence[Record], key: str) -> Array:
    """(k, 2) of step and value, where both are finite numbers."""
    pairs = [(record.get("step"), record.get(key)) for record in records]
    numbers = [pair for pair in pairs if all(isinstance(n, int | float) and math.isfinite(n) for n in pair)]
    return np.array(numbers, dtype=np.float64).reshape(-1, 2)


def _draw_loss(axes: Axes, series: Array, name: str) -> None:
    steps, values = series.T
    window = max(1, len(values) // 15)
    if window > 1:
        axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
        # A trailing mean, so that a point never shows what came after it.
        sums = np.cumsum(np.concatenate([[0.0], values]))
        start = np.maximum(0, np.arange(1, len(values) + 1) - window)
        values = (sums[1:] - sums[start]) / (np.arange(1, len(values) + 1) - start)
    axes.plot(steps, values, color=BLUE, linewidth=1.6, marker="o" if len(values) == 1 else "", markersize=4)
    axes.set_title(name, color=INK, fontsize=10, loc="left")


def _draw_dev(axes: Axes, dev: Mapping[str, Array]) -> None:
    for (name, series), colour, marker in zip(dev.items(), (BLUE, ORANGE), ("o", "s"), strict=False):
        axes.plot(*series.T, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=name)
    axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, loc="best")
    axes.set_title("Pearson r on dev", color=INK, fontsize=10, loc="left")
