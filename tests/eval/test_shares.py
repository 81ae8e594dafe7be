"""Wilson's interval, against SciPy's."""

import pytest
import scipy.stats

from lcv_jax.eval.shares import share, wilson


@pytest.mark.parametrize(("right", "of"), [(0, 10), (10, 10), (1, 1), (181, 200), (50, 100)])
def test_the_interval_is_wilsons(right, of):
    expected = scipy.stats.binomtest(right, of).proportion_ci(method="wilson")
    assert wilson(right, of) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_share_by_hand():
    assert share(1, 4) == {"right": 1, "of": 4, "share": 0.25, "interval": list(wilson(1, 4))}
