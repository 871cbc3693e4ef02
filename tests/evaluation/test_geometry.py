import itertools
import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from carl.errors import UsageError
from carl.evaluation import geometry
from carl.evaluation.geometry import (
    alignment,
    describe_geometry,
    distance_spearman,
    nearest_label_agreement,
    uniformity,
)

NAN = float("nan")


def cloud(n=60, d=5, seed=0):
    """Embeddings of any length, and labels of which a third lacks a dimension."""
    rng = np.random.default_rng(seed)
    labels = np.clip(rng.normal(scale=[0.5, 0.2], size=(n, 2)), -1, 1)
    labels[rng.random((n, 2)) < 0.15] = NAN
    return rng.normal(size=(n, d)) * rng.uniform(0.1, 9, size=(n, 1)), labels


def affective(n=400, seed=0):
    """Embeddings that are their labels, lifted onto the sphere."""
    labels = np.random.default_rng(seed).uniform(-0.7, 0.7, size=(n, 2))
    return np.column_stack([labels, np.sqrt(1 - (labels**2).sum(axis=1))]), labels


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_label_distance(labels, i, j):
    total, shared = 0.0, 0
    for d in range(2):
        rated = [value for value in labels[:, d] if not np.isnan(value)]
        if not np.isnan(labels[i, d]) and not np.isnan(labels[j, d]):
            total += ((labels[i, d] - labels[j, d]) / np.std(rated)) ** 2
            shared += 1
    return total**0.5 if shared else NAN


def slow_pairs(x, labels):
    """(label distance, embedding distance) of every pair, one at a time."""
    x = unit(x)
    for i, j in itertools.combinations(range(len(x)), 2):
        yield slow_label_distance(labels, i, j), sum((x[i] - x[j]) ** 2) ** 0.5


@pytest.mark.parametrize(("within", "power"), [(0.5, 2), (1.5, 1), (0.8, 3)])
def test_alignment_equals_a_slow_loop(within, power):
    x, y = cloud()
    expected = np.mean([apart**power for label, apart in slow_pairs(x, y) if label <= within])
    assert alignment(x, y, within=within, power=power) == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_uniformity_is_the_papers(temperature):
    x, _ = cloud()
    expected = np.log(np.exp(-temperature * pdist(unit(x)) ** 2).mean())
    assert uniformity(x, temperature=temperature) == pytest.approx(expected)


def test_spearman_is_scipys_over_all_pairs():
    x, y = cloud()
    labels, apart = np.array(list(slow_pairs(x, y))).T
    known = ~np.isnan(labels)
    assert not known.all()
    assert distance_spearman(x, y) == pytest.approx(spearmanr(labels[known], apart[known]).statistic)
    assert distance_spearman(*affective()) > 0.95
    assert abs(distance_spearman(cloud(400, 50)[0], affective()[1])) < 0.05


def test_neighbours_equal_a_slow_loop():
    x, y = cloud(40)
    z, k = unit(x), 4
    near, overall = [], []
    for i in range(len(x)):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -(z[i] @ z[j]))
        near += [slow_label_distance(y, i, j) for j in others[:k]]
        overall += [slow_label_distance(y, i, j) for j in others]
    assert nearest_label_agreement(x, y, k=k) == pytest.approx(np.nanmean(near) / np.nanmean(overall))


def test_neighbours_tell_an_affective_space_from_a_random_one():
    x, y = affective()
    assert nearest_label_agreement(x, y) < 0.2
    shuffled = np.random.default_rng(0).permutation(y)
    assert nearest_label_agreement(x, shuffled) == pytest.approx(1, abs=0.05)
    assert nearest_label_agreement(x, y, k=len(x)) == pytest.approx(1)
    assert nearest_label_agreement(x, y, queries=100) == pytest.approx(
        nearest_label_agreement(x, y), abs=0.05
    )


def test_a_collapsed_space_is_aligned_but_not_uniform():
    _, y = affective()
    collapsed = np.ones((len(y), 3))
    assert alignment(collapsed, y) == pytest.approx(0)
    assert uniformity(collapsed) == pytest.approx(0)
    assert np.isnan(distance_spearman(collapsed, y))
    spread = np.random.default_rng(0).normal(size=(len(y), 2000))
    assert alignment(spread, y) == pytest.approx(2, abs=0.05)
    assert uniformity(spread) == pytest.approx(-4, abs=0.05)  # -2t


def test_turning_and_stretching_change_nothing():
    x, y = cloud()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    turned = (3 * x) @ rotation
    before, after = describe_geometry(x, y), describe_geometry(turned, 0.1 * y + 0.3)
    assert before.texts == after.texts == 60
    for name in ("alignment", "uniformity", "distance_spearman", "neighbour_ratio"):
        assert getattr(before, name) == pytest.approx(getattr(after, name)), name


def test_one_rated_dimension_is_enough():
    x, y = affective()
    y[:, 1] = NAN
    found = describe_geometry(x, y)
    assert found.distance_spearman > 0.3
    assert found.neighbour_ratio < 0.3


def test_sampling_is_deterministic_and_close_to_all_pairs(monkeypatch):
    x, y = affective()
    exact = describe_geometry(x, y)  # 79,800 pairs: all are taken
    few = [f(x, y, pairs=2000, seed=s) for f in (alignment, distance_spearman) for s in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert few[3] == few[4] != few[5]
    assert few[0] == pytest.approx(exact.alignment, rel=0.05)
    assert few[3] == pytest.approx(exact.distance_spearman, abs=0.02)
    monkeypatch.setattr(geometry, "_BLOCK", 1000)  # too few for all pairs: drawn in blocks, with replacement
    assert alignment(x, y, pairs=5000) == pytest.approx(exact.alignment, rel=0.05)
    assert uniformity(x, pairs=5000) == pytest.approx(exact.uniformity, rel=0.05)


def test_drawn_pairs_are_of_different_texts_and_hit_all_of_them(monkeypatch):
    monkeypatch.setattr(geometry, "_BLOCK", 10)
    left, right = geometry._sample_pairs(30, 640, 0)
    assert len(left) == 640
    assert (left != right).all()
    assert set(left) == set(right) == set(range(30))
    left, _ = geometry._sample_pairs(30, 10_000, 0, lambda i, j: (i == 3) & (j == 4))
    assert len(left) < 20  # the search for a rare pair ends


def test_memory_stays_flat():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8_000, 4)), rng.uniform(-1, 1, size=(8_000, 2))
    tracemalloc.start()
    describe_geometry(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all pairs of labels alone would take 512 MB


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_texts_are_undefined(n):
    found = describe_geometry(np.ones((n, 3)), np.zeros((n, 2)))
    values = [found.alignment, found.uniformity, found.distance_spearman, found.neighbour_ratio]
    assert np.isnan(values).all()


def test_no_pair_to_speak_of_is_undefined():
    x, _ = cloud(4)
    unrated = np.full((4, 2), NAN)
    assert np.isnan(alignment(x, unrated))
    assert np.isnan(distance_spearman(x, unrated))
    assert np.isnan(nearest_label_agreement(x, unrated))
    far = np.array([[-1, -1], [1, 1], [-1, 1], [1, -1.0]])
    assert np.isnan(alignment(x, far, within=0.1))
    alike = np.zeros((4, 2))
    assert alignment(x, alike) > 0
    assert np.isnan(nearest_label_agreement(x, alike))


def test_bad_requests_name_what_is_wrong():
    x, y = cloud(5)
    with pytest.raises(UsageError, match=r"\(n, d\)"):
        uniformity(x[0])
    with pytest.raises(UsageError, match=r"labels \(5, 2\)"):
        alignment(x, y[:4])
    for bad in (0, NAN, np.inf):
        broken = x.copy()
        broken[2] = bad
        with pytest.raises(UsageError, match="embedding 2"):
            distance_spearman(broken, y)
    for call in (
        lambda: alignment(x, y, within=-1),
        lambda: alignment(x, y, power=0),
        lambda: alignment(x, y, pairs=0),
        lambda: uniformity(x, temperature=0),
        lambda: nearest_label_agreement(x, y, k=0),
    ):
        with pytest.raises(UsageError):
            call()
