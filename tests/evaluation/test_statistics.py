import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from carl.errors import UsageError
from carl.evaluation.statistics import accuracy, holm, macro_f1, mean_interval, paired_bootstrap
from carl.evaluation.valence_arousal import concordance, mean_absolute_error, pearson

NAN = float("nan")
CONTINUOUS = (pearson, concordance, mean_absolute_error)
CATEGORICAL = (accuracy, macro_f1)


def ratings(n=60, seeds=3, noise=0.7, seed=0):
    """Predictions (seeds, n) whose error is partly the items' (shared) and partly the seeds' own."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    shared = noise * rng.normal(size=n)
    return 0.3 + 0.5 * (y + shared + 0.2 * rng.normal(size=(seeds, n))), y


def classes(n=80, seeds=3, c=4, right=0.6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(c, size=n)
    return np.where(rng.random((seeds, n)) < right, y, rng.integers(c, size=(seeds, n))), y


def data_for(statistic, **options):
    return ratings(**options) if statistic in CONTINUOUS else classes(**options)


def slow_bootstrap(x, y, statistic, n, rng):
    """Seeds with replacement, items with replacement, mean of the statistic: written as one would say it."""
    values = []
    for _ in range(n):
        items = [rng.integers(len(y)) for _ in y]
        seeds = [rng.integers(len(x)) for _ in x]
        values.append(np.mean([statistic(x[s][items], y[items]) for s in seeds]))
    return np.quantile(values, [0.025, 0.975])


def test_accuracy_and_macro_f1_are_sklearns():
    (x,), y = classes(seeds=1, c=5)
    assert accuracy(x, y) == pytest.approx(sum(a == b for a, b in zip(x, y, strict=True)) / len(y))
    assert macro_f1(x, y) == pytest.approx(f1_score(y, x, average="macro"))
    x[x == 4] = 7  # one class never predicted, another never labelled
    assert macro_f1(x, y) == pytest.approx(f1_score(y, x, average="macro", zero_division=0))


def test_labels_may_be_words():
    words = np.array(["joy", "anger", "fear", "calm"])
    x, y = classes()
    by_number = mean_interval(x, y, macro_f1, n=200)
    by_word = mean_interval(words[x], words[y], macro_f1, n=200)
    assert by_word.low == pytest.approx(by_number.low)
    assert by_word.per_seed == pytest.approx(by_number.per_seed)


@pytest.mark.parametrize("statistic", CONTINUOUS + CATEGORICAL)
def test_fast_path_gives_what_calling_the_statistic_gives(statistic):
    x, y = data_for(statistic, n=37)
    fast = mean_interval(x, y, statistic, n=150)
    slow = mean_interval(x, y, lambda a, b: statistic(a, b), n=150)
    np.testing.assert_allclose([fast.low, fast.high], [slow.low, slow.high], atol=1e-10)
    assert fast.mean == pytest.approx(np.mean([statistic(row, y) for row in x]))
    assert fast.per_seed == slow.per_seed


def test_fast_pearson_keeps_its_digits_far_from_zero():
    x, y = ratings(n=40)
    near, far = mean_interval(x, y, pearson, n=200), mean_interval(1e6 + 1e-3 * x, y - 1e5, pearson, n=200)
    np.testing.assert_allclose([near.low, near.high], [far.low, far.high], atol=1e-6)


@pytest.mark.parametrize("statistic", [pearson, accuracy, macro_f1])
def test_interval_agrees_with_a_slow_bootstrap(statistic):
    x, y = data_for(statistic)
    expected = slow_bootstrap(x, y, statistic, 2000, np.random.default_rng(99))
    found = mean_interval(x, y, statistic, n=4000)
    width = expected[1] - expected[0]
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.08 * width)


def test_interval_of_one_seed_is_scipys():
    (x,), y = ratings(seeds=1, n=150)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b)[0], paired=True, vectorized=False, n_resamples=3000,
        method="percentile", rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    ours = mean_interval(x, y, pearson, n=3000)
    np.testing.assert_allclose([ours.low, ours.high], theirs, atol=0.015)
    assert mean_interval(x[None], y, pearson, n=3000) == ours


def test_interval_of_accuracy_has_the_binomial_standard_error():
    right = np.arange(400) < 300
    found = mean_interval(right, np.ones(400, dtype=bool), accuracy, n=5000)
    assert found.mean == 0.75
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.05)


def test_seeds_that_agree_leave_the_items_uncertainty_whole():
    """Five copies of one model are no more certain than one: drawing items per seed would shrink this."""
    x, y = ratings(seeds=1, n=100)
    once, five = (mean_interval(np.repeat(x, s, axis=0), y, pearson) for s in (1, 5))
    assert (five.low, five.high) == pytest.approx((once.low, once.high))


def test_interval_covers_the_truth_over_seeds_and_items():
    """Scores made of an item, a seed and a residual effect: about 95 of 100 intervals hold the true mean."""
    rng, held, items_only = np.random.default_rng(5), 0, 0
    runs, s, n = 300, 8, 60
    for run in range(runs):
        seed_effect = 0.3 * rng.normal(size=(s, 1))
        values = 0.5 + seed_effect + rng.normal(size=n) + 0.5 * rng.normal(size=(s, n))
        # The mean absolute error of positive numbers against 0 is their mean: truth 10.5.
        found = mean_interval(10 + values, np.zeros(n), mean_absolute_error, n=400, seed=run)
        held += found.low <= 10.5 <= found.high
        pooled = mean_interval(10 + values.mean(axis=0), np.zeros(n), mean_absolute_error, n=400, seed=run)
        items_only += pooled.low <= 10.5 <= pooled.high
    assert 0.90 <= held / runs <= 0.99
    assert items_only < held


@pytest.mark.parametrize("statistic", [pearson, macro_f1])
def test_single_seed_intervals_cover_the_population_value(statistic):
    (big_x,), big_y = data_for(statistic, n=200_000, seeds=1, seed=1)
    truth, runs = statistic(big_x, big_y), 300
    held = 0
    for i in range(runs):
        part = slice(150 * i, 150 * (i + 1))
        found = mean_interval(big_x[part], big_y[part], statistic, n=400)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / runs <= 0.98


def test_the_same_seed_gives_the_same_interval_whatever_the_block(monkeypatch):
    x, y = ratings()
    first = mean_interval(x, y, pearson, n=300)
    assert mean_interval(x, y, pearson, n=300) == first
    assert mean_interval(x, y, pearson, n=300, seed=1) != first
    monkeypatch.setattr("carl.evaluation.statistics._BLOCK", 700)
    split = mean_interval(x, y, pearson, n=300)
    assert (split.low, split.high) == pytest.approx((first.low, first.high))


def test_unrated_items_are_dropped():
    x, y = ratings()
    holes = y.copy()
    holes[::4] = NAN
    kept = ~np.isnan(holes)
    assert mean_interval(x, holes, pearson) == mean_interval(x[:, kept], y[kept], pearson)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([[]], []),
        ([[1.0, 2.0]], [NAN, NAN]),
        ([[1.0, 1.0]], [0.0, 1.0]),
        ([[1.0, NAN, 3.0]], [0.0, 1.0, 2.0]),
    ],
)
def test_undefined_scores_give_nan(x, y):
    found = mean_interval(x, y, pearson, n=50)
    assert np.isnan([found.mean, found.low, found.high]).all()
    compared = paired_bootstrap(x, x, y, pearson, n=50)
    assert np.isnan([compared.difference, compared.low, compared.high, compared.p]).all()


def test_undefined_resamples_do_not_count():
    """With three items many resamples repeat one item; r is undefined there, +1 or -1 or between elsewhere."""
    found = mean_interval([[0.0, 1.0, 5.0]], [0.1, 1.0, 1.1], pearson, n=500)
    slow = mean_interval([[0.0, 1.0, 5.0]], [0.1, 1.0, 1.1], lambda a, b: pearson(a, b), n=500)
    assert -1 <= found.low <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))


def test_bad_requests_name_what_is_wrong():
    with pytest.raises(UsageError, match=r"\(2, 3\) and \(4,\)"):
        mean_interval(np.zeros((2, 3)), np.zeros(4), pearson)
    with pytest.raises(UsageError, match="need predictions"):
        paired_bootstrap(np.zeros((1, 2, 3)), np.zeros((2, 3)), np.zeros(3), pearson)
    with pytest.raises(UsageError, match="n=0"):
        mean_interval([[1.0, 2.0]], [1.0, 2.0], pearson, n=0)
    with pytest.raises(UsageError, match=r"level=1\.5"):
        mean_interval([[1.0, 2.0]], [1.0, 2.0], pearson, level=1.5)
    with pytest.raises(UsageError, match="one length"):
        accuracy([1, 2], [1])


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(3, 3), (1, 4), (5, 2)])
@pytest.mark.parametrize("statistic", [pearson, macro_f1])
def test_swapping_the_methods_turns_the_signs_and_keeps_p(statistic, seeds_a, seeds_b):
    a, y = data_for(statistic, seeds=seeds_a)
    b = data_for(statistic, seeds=seeds_b, seed=0)[0][:, ::-1]
    there, back = (paired_bootstrap(*pair, y, statistic, n=500) for pair in ((a, b), (b, a)))
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p


def test_a_method_against_itself_is_no_different():
    x, y = ratings()
    found = paired_bootstrap(x, x, y, pearson, n=300)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_paired_p_is_that_of_the_sign_test_for_accuracies():
    """A is right where B is wrong on 30 items, wrong where B is right on 12: McNemar's situation."""
    a, b = np.ones(200, dtype=bool), np.ones(200, dtype=bool)
    b[:30], a[30:42] = False, False
    found = paired_bootstrap(a, b, np.ones(200, dtype=bool), accuracy, n=20_000)
    assert found.difference == pytest.approx(18 / 200)
    mid_p = 2 * (stats.binom.sf(30, 42, 0.5) + 0.5 * stats.binom.pmf(30, 42, 0.5))
    assert found.p == pytest.approx(mid_p, abs=0.006)
    assert found.low > 0


def test_pairing_sees_what_two_separate_intervals_cannot():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    hard = rng.normal(size=200)  # the items' difficulty, shared by both methods
    a, b = y + hard + 0.1 * rng.normal(size=(3, 200)), y + 1.15 * hard + 0.1 * rng.normal(size=(3, 200))
    assert mean_interval(a, y, pearson).low < mean_interval(b, y, pearson).high
    assert paired_bootstrap(a, b, y, pearson, n=2000).p < 0.01


def test_equal_methods_are_told_apart_about_once_in_twenty():
    rng, false_alarms, runs = np.random.default_rng(11), 0, 300
    for _ in range(runs):
        y = rng.normal(size=100)
        hard = rng.normal(size=100)
        a, b = (y + hard + 0.7 * rng.normal(size=100) for _ in range(2))
        false_alarms += paired_bootstrap(a, b, y, pearson, n=400).p <= 0.05
    assert 0.02 <= false_alarms / runs <= 0.09


def test_p_and_interval_agree_and_p_is_never_zero():
    for gap in (0.0, 0.1, 0.2, 0.3, 0.5, 5.0):
        rng = np.random.default_rng(2)
        y = rng.normal(size=80)
        a, b = y + rng.normal(size=(4, 80)), y + (1 + gap) * rng.normal(size=(4, 80))
        found = paired_bootstrap(a, b, y, pearson, n=999)
        assert found.p >= 2 / 1000
        if abs(found.p - 0.05) > 0.01:
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_holm_of_a_worked_example():
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04; the last may not fall below .06.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_lies_between_no_correction_and_bonferroni():
    p = np.random.default_rng(0).uniform(size=12) ** 2
    adjusted = holm(p)
    assert ((adjusted >= p) & (adjusted <= np.minimum(1, 12 * p) + 1e-15)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    shuffled = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(holm(p[shuffled]), adjusted[shuffled])


def test_holm_at_the_edges():
    assert holm([]).shape == (0,)
    assert holm([0.03]).tolist() == [0.03]
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    for bad in ([0.1, NAN], [1.2], [-0.1], [[0.1]]):
        with pytest.raises(UsageError, match="p-values"):
            holm(bad)
