"""The training loop's parts; whole trainings are in test_train.py and test_base_rpn.py."""

from __future__ import annotations

import pytest

from ezsd.loop import rate_factor
from ezsd.recipe import Train


def test_the_rate_warms_up_then_falls() -> None:
    step = Train(schedule="step", warmup_steps=10, milestones=(0.5, 0.9))
    assert rate_factor(0, 100, step) == pytest.approx(1 / 11) and rate_factor(20, 100, step) == 1
    assert rate_factor(50, 100, step) == pytest.approx(0.1) and rate_factor(95, 100, step) == pytest.approx(0.01)
    cosine = Train(schedule="cosine", warmup_steps=0)
    factors = [rate_factor(number, 100, cosine) for number in range(100)]
    assert factors[0] == 1 and factors == sorted(factors, reverse=True) and factors[-1] < 0.01
