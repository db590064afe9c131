"""Factors at known points of training."""

import math

import pytest

from inure.attacks import FGSM, PGD
from inure.recipe.regime import Regime
from inure.schedules import Constant, Cosine, OneCycle, Piecewise, Ramp
from inure.settings.errors import UserError
from inure.threat import L2, Linf


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Constant(), {0: 1, 0.5: 1, 1: 1}),
        (Constant(warmup=0.2), {0: 0, 0.1: 0.5, 0.2: 1, 1: 1}),
        (Piecewise(), {0: 1, 0.4999: 1, 0.5: 0.1, 0.7499: 0.1, 0.75: 0.01, 1: 0.01}),
        (Piecewise(milestones=[35 / 40, 38 / 40]), {0.874: 1, 0.875: 0.1, 0.95: 0.01}),
        (Piecewise(milestones=[0.5], factor=0.5, warmup=0.5), {0: 0, 0.25: 0.5, 0.5: 0.5, 0.9: 0.5}),
        (Piecewise(milestones=[]), {0: 1, 1: 1}),
        (Cosine(), {0: 1, 0.5: 0.5, 1: 0, 0.25: (1 + math.sqrt(0.5)) / 2}),
        (Cosine(warmup=0.2, final=0.1), {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.55, 1: 0.1}),
        (Cosine(warmup=1), {0: 0, 0.5: 0.5, 1: 1}),
        (OneCycle(), {0: 0, 0.2: 0.5, 0.4: 1, 0.7: 0.5, 1: 0}),
        (OneCycle(peak=0.5), {0.25: 0.5, 0.5: 1, 0.75: 0.5}),
        (Ramp(), {0: 0, 0.25: 0.5, 0.5: 1, 1: 1}),
        (Ramp(start=0.2, begin=0.1, until=0.3), {0: 0.2, 0.1: 0.2, 0.2: 0.6, 0.3: 1, 0.9: 1}),
        (Ramp(start=3, until=1), {0: 3, 0.5: 2, 1: 1}),
        (Ramp(begin=0.5, until=0.5), {0.4: 0, 0.5: 1, 0.6: 1}),
        (Ramp(until=0), {0: 1, 0.5: 1}),
    ],
)
def test_a_schedule_has_its_values_at_known_points(schedule, points):
    for progress, value in points.items():
        assert schedule.at(progress) == pytest.approx(value, abs=1e-12), progress


@pytest.mark.parametrize("schedule", [Cosine(warmup=0.1), OneCycle(), Ramp(), Constant(warmup=0.3)])
def test_continuous_schedules_have_no_jumps_and_stay_between_0_and_1(schedule):
    values = [schedule.at(step / 10_000) for step in range(10_001)]
    assert max(abs(b - a) for a, b in zip(values, values[1:], strict=False)) < 2e-3
    assert min(values) >= 0
    assert max(values) <= 1 + 1e-12


@pytest.mark.parametrize("attack", [PGD(steps=5), FGSM(), PGD(threat=L2(epsilon=1))])
def test_a_regime_scales_epsilon_and_the_implied_step_size_follows(attack):
    scaled = Regime(epsilon=Ramp(until=0.5)).scale(attack, 0.125)
    assert scaled.threat.epsilon == 0.25 * attack.threat.epsilon
    assert scaled.step_size is None
    assert scaled.model_copy(update={"threat": attack.threat}) == attack


def test_a_regime_scales_an_explicit_step_size_with_epsilon():
    attack = PGD(threat=Linf(epsilon=0.1), step_size=0.02, steps=7)
    scaled = Regime(epsilon=Ramp(until=0.5)).scale(attack, 0.25)
    assert (scaled.threat.epsilon, scaled.step_size, scaled.steps) == (0.05, 0.01, 7)
    assert (attack.threat.epsilon, attack.step_size) == (0.1, 0.02)


def test_a_regime_scales_the_steps_rounded_and_at_least_one():
    regime = Regime(steps=Ramp(until=1))
    assert [regime.scale(PGD(steps=10), progress).steps for progress in (0, 0.04, 0.26, 0.5, 1)] == [1, 1, 3, 5, 10]
    grown = Regime(steps=Piecewise(milestones=[0.5], factor=2)).scale(PGD(steps=10), 0.5)
    assert grown.steps == 20


def test_an_empty_regime_hands_back_the_attack_itself():
    attack = PGD()
    assert Regime().scale(attack, 0.3) is attack


def test_a_regime_with_factor_1_changes_no_bit():
    attack = PGD(threat=Linf(epsilon=8 / 255), step_size=2 / 255)
    assert Regime(epsilon=Ramp(until=0), steps=Ramp(until=0)).scale(attack, 0.1) == attack


@pytest.mark.parametrize(
    ("make", "mistake"),
    [
        (lambda: Piecewise(milestones=[0.7, 0.5]), "milestones: got [0.7, 0.5]; allowed fractions of training in"),
        (lambda: Piecewise(milestones=[100]), "milestones[0]: got 100; allowed a number <= 1"),
        (lambda: Ramp(begin=0.8), "until: got 0.5; allowed a fraction of training >= begin (0.8)"),
        (lambda: OneCycle(peak=1), "peak: got 1; allowed a number < 1"),
        (lambda: Cosine(warmup=2), "warmup: got 2; allowed a number <= 1"),
    ],
)
def test_impossible_schedules_are_refused(make, mistake):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value).startswith(mistake)
