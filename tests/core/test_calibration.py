"""Calibration: intervals cover what they promise, and the correction is the least-squares one."""

import json

import numpy as np
import pytest

from carl.calibration import Calibration, affine_correction


def drawn(n: int, seed: int, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    rated = draw.uniform(-0.6, 0.6, (n, 2))
    return rated + noise * draw.standard_t(4, (n, 2)) * [0.5, 1], rated


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_new_ratings_are_covered_as_often_as_promised(level: float) -> None:
    covered = []
    for seed in range(200):
        predicted, rated = drawn(99, seed)
        calibration = Calibration.fit(predicted, rated, level)
        new_predicted, new_rated = drawn(50, 1000 + seed)
        covered.append(np.abs(new_predicted - new_rated) <= calibration.half_width)
    # The mean over calibration sets is ceil((n + 1) level) / (n + 1), whatever the distribution: here the level itself.
    assert np.mean(covered, axis=(0, 1)) == pytest.approx([level] * 2, abs=0.015)


def test_the_rank_is_the_conformal_one() -> None:
    errors = np.linspace(0.01, 0.99, 99)
    predicted = np.zeros((99, 2))
    calibration = Calibration.fit(predicted, np.stack([errors, -errors], axis=1))
    assert calibration.half_width == pytest.approx((0.9, 0.9))  # the 90th of 99: ceil(100 * .9)


def test_intervals_stay_on_the_scale_and_missing_ones_say_so() -> None:
    predicted, rated = drawn(200, 0)
    rated[25:, 1] = np.nan
    calibration = Calibration.fit(predicted, rated)
    low_high = calibration.intervals(np.array([[0.0, 0.0], [0.99, 0.5]]))
    assert low_high.shape == (2, 2, 2)
    assert low_high[0, 0, 0] == pytest.approx(-low_high[0, 0, 1])
    assert low_high[1, 0, 1] == 1
    assert np.isnan(low_high[:, 1]).all()
    assert calibration.rows == (200, 25)
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    np.testing.assert_allclose(again.half_width, calibration.half_width, atol=1e-5)


def test_the_correction_is_the_regression_line() -> None:
    predicted, rated = drawn(300, 1)
    rated[::3, 1] = np.nan
    slope, intercept = affine_correction(predicted, rated)
    for d in range(2):
        known = ~np.isnan(rated[:, d])
        expected = np.polyfit(predicted[known, d], rated[known, d], 1)
        np.testing.assert_allclose([slope[d], intercept[d]], expected)


@pytest.mark.parametrize("case", ["few", "constant", "contrary"])
def test_no_correction_without_ground_for_one(case: str) -> None:
    predicted, rated = drawn(20 if case == "few" else 100, 2)
    if case == "constant":
        predicted[:] = 0.3
    if case == "contrary":
        predicted = -rated
    slope, intercept = affine_correction(predicted, rated)
    assert slope.tolist() == [1, 1]
    assert intercept.tolist() == [0, 0]
