from __future__ import annotations

import pytest

from metier.train.schedule import constant, cosine, linear

SCHEDULES = [constant.rate, linear.rate, cosine.rate]


@pytest.mark.parametrize("rate", SCHEDULES)
def test_the_rate_rises_in_the_warm_up_and_never_after(rate):
    values = [rate(i / 1000, warmup=0.2) for i in range(1001)]
    assert values[0] == 0 and values[100] == pytest.approx(0.5) and values[200] == pytest.approx(1)
    assert values[200:] == sorted(values[200:], reverse=True)
    assert all(0 <= v <= 1 for v in values)


def test_exact_values():
    assert constant.rate(0.0) == constant.rate(1.0) == 1
    assert linear.rate(0.25) == 0.75 and linear.rate(0.6, warmup=0.2) == pytest.approx(0.5)
    assert linear.rate(1.0, floor=0.1) == pytest.approx(0.1) and linear.rate(0.5, floor=0.1) == pytest.approx(0.55)
    assert cosine.rate(0.5, warmup=0.0) == pytest.approx(0.5) and cosine.rate(1.0) == pytest.approx(0, abs=1e-12)
    assert cosine.rate(0.25, warmup=0.0) == pytest.approx(0.8535533905932737)
    assert cosine.rate(1.0, floor=0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("rate", [linear.rate, cosine.rate])
def test_a_warm_up_all_the_way_is_no_division_by_zero(rate):
    assert rate(0.5, warmup=1.0) == 0.5 and rate(1.0, warmup=1.0) >= 0
