"""Error bars and tests: exact where they say so, and corrected for how many were made."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dragwidget.bench.statistics import bootstrap, exact_interval, holm, sign_flip


def test_the_bootstrap_covers_the_mean_and_has_no_width_without_spread():
    found = bootstrap([0.0, 1.0] * 50)
    assert found["mean"] == 0.5
    assert found["low"] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert found["high"] == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)
    assert set(bootstrap([2.0] * 5).values()) == {2.0}


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),
        (10, 10, 0.6915, 1.0),
        (5, 10, 0.1871, 0.8129),
        (1, 96, 0.00026, 0.0567),
    ],
)
def test_the_interval_of_a_count_is_that_of_clopper_and_pearson(count, n, low, high):
    assert exact_interval(count, n) == pytest.approx((low, high), abs=1e-4)


def test_a_count_beyond_its_number_is_an_error():
    with pytest.raises(ValueError, match="count must be 0 to n and n at least 1, got 3 of 2"):
        exact_interval(3, 2)


def test_the_test_of_a_sign_counts_all_flips_where_they_are_few():
    values = [0.3, 0.1, -0.2, 0.4, 0.25]
    sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=5)]
    expected = np.mean([total >= abs(sum(values)) - 1e-12 for total in sums])
    assert sign_flip(values) == pytest.approx(expected)
    assert sign_flip([*values, 0.0, 0.0]) == pytest.approx(expected)
    assert sign_flip([0.0, 0.0]) == 1.0


def test_the_test_of_a_sign_rejects_five_in_a_hundred_where_there_is_nothing():
    numbers = np.random.default_rng(1)
    found = [sign_flip(numbers.normal(size=12)) < 0.05 for _ in range(300)]
    assert 0.02 <= np.mean(found) <= 0.09
    assert sign_flip(numbers.normal(1.0, 1.0, size=96)) < 0.001


def test_holms_correction_is_by_rank_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
