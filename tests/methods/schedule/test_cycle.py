from __future__ import annotations

import pytest

from metier.train.schedule import cycle, restart


@pytest.mark.parametrize("shape", ["triangle", "sine", "cosine"])
def test_it_goes_between_low_and_the_peak(shape):
    up = [cycle.rate(x, shape=shape, period=0.5, low=0.2) for x in (0, 0.25, 0.5, 0.75)]
    down = [cycle.rate(x, shape=shape, start="high", period=0.5, low=0.2) for x in (0, 0.25, 0.5, 0.75)]
    assert up == pytest.approx([0.2, 1, 0.2, 1]) and down == pytest.approx([1, 0.2, 1, 0.2])
    assert all(0.2 - 1e-9 <= cycle.rate(i / 97, shape=shape, period=0.3, low=0.2) <= 1 + 1e-9 for i in range(97))


def test_shapes_differ_between_the_ends():
    quarter = [cycle.rate(0.125, shape=s, period=0.5, low=0) for s in ("triangle", "sine", "cosine")]
    assert quarter == pytest.approx([0.5, 2**-0.5, 0.5])
    eighth = [cycle.rate(0.0625, shape=s, period=0.5, low=0) for s in ("triangle", "cosine")]
    assert eighth == pytest.approx([0.25, 0.14644660940672624])


def test_peaks_stay_are_halved_or_fall_to_what_is_left_at_the_end():
    def peaks(height):
        return [cycle.rate(x, period=0.5, low=0, height=height) for x in (0.25, 0.75)]

    assert peaks("same") == pytest.approx([1, 1]) and peaks("halved") == pytest.approx([1, 0.5])
    assert peaks(0.01) == pytest.approx([0.01**0.25, 0.01**0.75])


@pytest.mark.parametrize("shape, halfway", [("line", 0.5), ("sine", 2**-0.5), ("cosine", 0.5)])
def test_restarts_fall_and_jump(shape, halfway):
    assert restart.rate(0.125, shape=shape) == pytest.approx(halfway)
    before, at, after = (restart.rate(x, shape=shape) for x in (0.25 - 1e-9, 0.25, 0.25 + 1e-9))
    assert before < 1e-6 and at == 1 and after > 1 - 1e-6
    assert restart.rate(0.25, shape=shape, fix_restart=False) == 0
    assert restart.rate(0.5, shape=shape, low=0.1, height="halved") == pytest.approx(0.1 + 0.9 / 4)
    assert restart.rate(0.5, shape=shape, low=0.1, height=0.04) == pytest.approx(0.1 + 0.9 * 0.2)
