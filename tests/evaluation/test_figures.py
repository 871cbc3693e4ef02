import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from carl.evaluation import figures
from carl.evaluation.figures import circumplex, learning_curves, png, scatter, svg

NAN = float("nan")


def cloud(n=500, seed=0):
    rng = np.random.default_rng(seed)
    rated = np.clip(rng.normal(scale=0.4, size=(n, 2)), -1, 1)
    return 0.6 * rated + 0.1 * rng.normal(size=rated.shape), rated


def points(axes):
    return sum(len(collection.get_offsets()) for collection in axes.collections)


def render(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ElementTree.fromstring(svg(figure))
        assert png(figure, dpi=40).startswith(b"\x89PNG")
    return figure


def test_circumplex_shows_the_same_sample_twice():
    left, right = render(circumplex(*cloud())).axes
    assert points(left) == points(right) == figures.MAX_POINTS
    assert (left.get_title(), right.get_title()) == ("rated by people", "predicted")
    assert {text.get_text() for text in left.texts} >= {"excited", "tense", "sad", "calm"}
    np.testing.assert_array_equal(left.collections[0].get_facecolor(), right.collections[0].get_facecolor())


def test_circumplex_colours_by_the_rated_quadrant():
    rated = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    left, _ = circumplex(-rated, rated).axes
    colours = [figures.QUADRANTS[i][1] for i in range(4)]
    expected = [tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in colours]
    np.testing.assert_allclose(left.collections[0].get_facecolor()[:, :3], expected)


def test_circumplex_zooms_on_timid_ratings():
    x, y = cloud()
    wide, _ = circumplex(x, y).axes
    close, _ = circumplex(0.2 * x, 0.2 * y).axes
    assert close.get_xlim()[1] < wide.get_xlim()[1]


def test_circumplex_of_one_point_of_none_and_without_arousal():
    render(circumplex([[0.2, 0.1]], [[0.3, 0.4]]))
    render(circumplex(np.zeros((0, 2)), np.zeros((0, 2))))
    render(circumplex([[0.2, 0.1]], [[NAN, NAN]]))
    x, y = cloud()
    y[:, 1] = NAN
    (axes,) = render(circumplex(x, y)).axes
    assert axes.get_xlabel() == "valence, rated"
    (axes,) = circumplex(x[:, ::-1], y[:, ::-1]).axes
    assert axes.get_xlabel() == "arousal, rated"


def test_scatter_says_r_of_all_items_not_of_the_sample():
    x, y = cloud(2000)
    (axes,) = render(scatter(x[:, 0], y[:, 0], "valence")).axes
    assert axes.get_title() == f"valence, r = {np.corrcoef(x[:, 0], y[:, 0])[0, 1]:.3f}".replace("0.", ".")
    assert points(axes) == figures.MAX_POINTS
    (axes,) = render(scatter([0.1], [0.2], "arousal")).axes
    assert axes.get_title() == "arousal"
    assert not render(scatter([0.1], [NAN], "arousal")).axes


TRAIN = [{"step": s, "loss": 3 / s, "mccl": 2 / s, "ptd": 1 / s, "epoch": s / 9} for s in range(1, 40)]
EVAL = [{"step": s, "dev_valence_r": 0.5, "dev_arousal_r": 0.3, "dev_valence_ccc": 0.2} for s in (10, 20, 30)]


def test_learning_curves_have_a_panel_for_each_loss_and_one_for_dev():
    titles = [axes.get_title(loc="left") for axes in render(learning_curves(TRAIN, EVAL)).axes]
    assert titles == ["loss, all parts", "MCCL", "PTD", "Pearson r on dev"]


@pytest.mark.parametrize(
    ("train", "dev", "panels"),
    [
        (TRAIN, [], 3),
        ([], EVAL, 1),
        ([], [], 0),
        (TRAIN[:1], EVAL[:1], 4),
        ([{"step": 1, "loss": NAN}, {"step": 2, "loss": None}, {"loss": 1.0}], [], 0),
        (TRAIN, [{"step": 5, "dev_valence_r": 0.4}], 4),
    ],
)
def test_learning_curves_of_scanty_records(train, dev, panels):
    assert len(render(learning_curves(train, dev)).axes) == panels


def test_trailing_mean_equals_its_definition():
    values = np.random.default_rng(0).normal(size=60)
    figure = learning_curves([{"step": i, "loss": v} for i, v in enumerate(values)], [])
    smooth = figure.axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(smooth, [values[max(0, i - 3) : i + 1].mean() for i in range(60)])


def test_svg_is_the_same_for_the_same_figure_and_knows_the_dark():
    first, second = (svg(circumplex(*cloud())) for _ in range(2))
    assert first == second
    assert b"prefers-color-scheme: dark" in first


def test_dark_colours_replace_colours_that_are_drawn():
    drawn = svg(learning_curves(TRAIN, EVAL)).split(b"<style>@media")[0]
    for light in (figures.INK, figures.MUTED, figures.FAINT, figures.BLUE):
        assert light.lower().encode() in drawn
