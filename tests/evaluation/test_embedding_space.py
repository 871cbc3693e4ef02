import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from carl.errors import UsageError
from carl.evaluation import figures
from carl.evaluation.figures import embedding_space, png, svg

NAN = float("nan")


def spaces(n=300, seed=0):
    """Noise of six dimensions, and a space whose two widest directions are the labels, turned by some angle."""
    rng = np.random.default_rng(seed)
    labels = rng.uniform(-0.6, 0.6, size=(n, 2))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    trained = np.concatenate([labels * [3, 2], 0.05 * rng.normal(size=(n, 4))], axis=1) @ turn
    return rng.normal(size=(n, 6)), trained, labels


def panels(figure):
    return [axes for axes in figure.axes if axes.get_aspect() == 1.0 and axes.collections]


def render(figure):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ElementTree.fromstring(svg(figure))
        assert png(figure, dpi=40).startswith(b"\x89PNG")
    return figure


def test_rows_are_dimensions_and_columns_are_spaces():
    grid = panels(render(embedding_space(*spaces())))
    assert [axes.get_ylabel() for axes in grid] == ["valence", "", "arousal", ""]
    assert [axes.get_title(loc="left") for axes in grid] == ["untouched", "trained", "", ""]
    for above, below in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(*(grid[i].collections[0].get_offsets() for i in (above, below)))


def test_the_plane_is_that_of_the_first_two_components():
    x, _, y = spaces()
    points, share = figures._plane(x, y)
    pca = PCA(2).fit(x)
    theirs = pca.transform(x)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum())
    # The same plane, turned or mirrored: all distances agree.
    gaps = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (points, theirs)]
    np.testing.assert_allclose(*gaps, atol=1e-9)


def test_valence_rises_to_the_right_and_arousal_upwards():
    for seed in range(5):
        _, trained, y = spaces(seed=seed)
        points, _ = figures._plane(trained, y)
        assert np.corrcoef(points[:, 0], y[:, 0])[0, 1] > 0.95
        assert np.corrcoef(points[:, 1], y[:, 1])[0, 1] > 0.95
        slope = LinearRegression().fit(points, y[:, 0]).coef_
        assert slope[0] > 0
        assert abs(slope[1]) < 1e-9


def test_the_title_gives_the_multiple_correlation():
    x, trained, y = spaces()
    plane, _ = figures._plane(x, y)
    r = np.sqrt(LinearRegression().fit(plane, y[:, 1]).score(plane, y[:, 1]))
    titles = [axes.get_title(loc="right") for axes in panels(embedding_space(x, trained, y))]
    assert titles[2] == f"r = {f'{r:.2f}'[1:]}"
    assert titles[1] in ("r = .99", "r = 1.00")


def test_colours_run_from_low_to_high_and_points_are_bounded():
    x, trained, y = spaces(2000)
    y[::3, 1] = NAN
    grid = panels(render(embedding_space(x, trained, y)))
    drawn = [len(axes.collections[0].get_offsets()) for axes in grid]
    assert drawn[0] == drawn[1] == figures.MAX_SPACE_POINTS
    assert drawn[2] == drawn[3] < figures.MAX_SPACE_POINTS
    values, colours = grid[0].collections[0].get_array(), grid[0].collections[0].get_facecolor()
    order = np.argsort(values)
    red, blue = colours[order, 0], colours[order, 2]
    assert red[0] < red[-1]  # from blue to orange
    assert blue[0] > blue[-1]


def test_unrated_dimensions_have_no_row():
    x, trained, y = spaces(50)
    y[:, 1] = NAN
    assert len(panels(render(embedding_space(x, trained, y)))) == 2
    assert not panels(render(embedding_space(x, trained, np.full_like(y, NAN))))


def test_degenerate_spaces_are_drawn():
    _, _, y = spaces(20)
    render(embedding_space(np.ones((20, 4)), np.arange(20.0)[:, None], y))
    render(embedding_space(np.ones((20, 4)), np.arange(20.0)[:, None], np.zeros((20, 2))))


def test_what_does_not_fit_is_refused():
    x, trained, y = spaces(20)
    for bad in ((x[:-1], trained, y), (x, trained[0], y), (x, trained, y[:, 0]), (x[:2], trained[:2], y[:2])):
        with pytest.raises(UsageError, match="need two embeddings"):
            embedding_space(*bad)
