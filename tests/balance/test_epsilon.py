"""Radii by class against a loop, their mean, their warm-up, and every attack for training inside them."""

import math
import typing
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

import inure.attacks
from inure.attacks import APGD, FGSM, NFGSM, PGD, MultiGrad, NoisyFGSM, Pyramid, ZeroGrad
from inure.balance import Balance, ClassEpsilon
from inure.methods import PGDAT
from inure.recipe.recipe import load_recipe
from inure.recipe.regime import Regime
from inure.schedules import Ramp
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import soft, tiny_batch, tiny_net

COUNTS = [50.0, 20, 7, 1]
LINF = Linf(epsilon=0.05)
ATTACKS = [
    PGD(threat=LINF, steps=3),
    PGD(threat=LINF, steps=3, step_size=0.03),
    PGD(threat=L2(epsilon=0.4), steps=3),
    PGD(threat=L1(epsilon=2), steps=3, step_size=1),
    FGSM(threat=LINF),
    FGSM(threat=LINF, start="uniform", step_size=0.0625),
    NFGSM(threat=LINF),
    NFGSM(threat=LINF, step_size=0.02),
    NoisyFGSM(threat=LINF),
    NoisyFGSM(threat=LINF, step_size=0.02, clip=True),
    ZeroGrad(threat=LINF),
    ZeroGrad(threat=LINF, step_size=0.06),
    MultiGrad(threat=LINF),
    MultiGrad(threat=LINF, step_size=0.06),
    APGD(threat=LINF, steps=3),
    APGD(threat=L1(epsilon=2), steps=3, step_size=1),
    Pyramid(threat=LINF, cells=[3, 2, 1], scalars=[2, 1.5, 1]),
    Pyramid(threat=LINF, cells=[6], scalars=[4], step_size=0.02),
]


def batch_of(counts=COUNTS, progress=0.9):
    memory = {"class_counts": torch.tensor(counts, dtype=torch.float64)}
    return replace(tiny_batch(16, progress=progress), memory=memory)


def slow_factor(y: int, counts: list[float], share: float, warmup: float, progress: float) -> float:
    now = share * min(progress / warmup, 1)
    mean = sum(n / sum(counts) * math.sqrt(math.log(max(counts) / n)) for n in counts)
    return (1 - now) + now * math.sqrt(math.log(max(counts) / counts[y])) / mean


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.8, 0.99])
def test_radii_are_those_of_the_formula(progress):
    batch = batch_of(progress=progress)
    for share, warmup in ((0.3, 0.8), (1.0, 0.5)):
        found = Balance(epsilon=ClassEpsilon(share=share, warmup=warmup)).radii(batch)
        assert found is not None
        expected = [slow_factor(y, COUNTS, share, warmup, progress) for y in batch.y.tolist()]
        assert found.tolist() == pytest.approx(expected, rel=1e-6)
        assert found.dtype == batch.x.dtype


def test_the_mean_radius_over_the_training_images_is_epsilon():
    for counts in (COUNTS, [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]):
        tensor = torch.tensor(counts, dtype=torch.float64)
        for progress in (0.0, 0.4, 1.0):
            factors = ClassEpsilon().factors(tensor, progress)
            assert (factors * tensor).sum() / tensor.sum() == pytest.approx(1, abs=1e-12)
            assert (factors.diff() >= 0).all()  # rarer classes, larger balls
        assert factors[0] == pytest.approx(0.7)


def test_equal_classes_and_no_share_give_the_whole_radius_and_empty_classes_do_no_harm():
    equal, empty = torch.full((4,), 9.0).double(), torch.tensor([9.0, 3, 0, 1]).double()
    assert ClassEpsilon().factors(equal, 1.0).tolist() == [1] * 4
    assert ClassEpsilon(share=0).factors(empty, 1.0).tolist() == [1] * 4
    assert ClassEpsilon().factors(empty, 0.0).tolist() == [1] * 4
    assert ClassEpsilon().factors(empty, 1.0).isfinite().all()


def test_a_soft_label_has_the_mean_radius_under_it():
    batch, settings = batch_of(), ClassEpsilon()
    hard = settings.radii(batch)
    assert torch.equal(settings.radii(replace(batch, y=one_hot(batch.y, 4).float())), hard)
    y = soft(batch.y)
    factors = torch.tensor([slow_factor(k, COUNTS, 0.3, 0.8, 0.9) for k in range(4)])
    assert torch.allclose(settings.radii(replace(batch, y=y)), (y * factors).sum(1), rtol=1e-6)


def test_no_attack_for_training_is_left_out_below():
    members = typing.get_args(typing.get_args(inure.attacks.Attack)[0])
    assert {type(attack) for attack in ATTACKS} == {*members}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.kind}-{a.threat.kind}")
@pytest.mark.parametrize("regime", [Regime(), Regime(epsilon=Ramp(until=1))], ids=["full", "ramp"])
def test_every_attack_for_training_takes_radii_by_class(attack, regime):
    """Each image moves as it does in an attack of its own radius and step size, alone with its like."""
    net, batch, epsilon = tiny_net().eval().double(), batch_of(), ClassEpsilon(share=0.8, warmup=0.1)
    batch = replace(batch, x=0.2 + 0.6 * batch.x.double())  # no pixel at a bound, where rounding would decide
    strength = regime.epsilon.at(batch.progress) if regime.epsilon else 1.0

    def crafted(radii, noise_seed=0):
        torch.manual_seed(noise_seed)
        return regime.search(PGDAT(attack=attack), batch.progress, radii=radii)(net, batch.x, batch.y)

    together = crafted(Balance(epsilon=epsilon).radii(batch))
    for y in range(4):
        factor = slow_factor(y, COUNTS, 0.8, 0.1, 0.9)
        change = {"threat": attack.threat.with_epsilon(attack.threat.epsilon * factor * strength)}
        if attack.step_size is not None:
            change["step_size"] = attack.step_size * factor * strength
        torch.manual_seed(0)
        alone = attack.model_copy(update=change)(net, batch.x, batch.y)
        mine = batch.y == y
        assert mine.any()
        assert torch.allclose(together[mine], alone[mine], atol=1e-6)
    assert not torch.allclose(together, crafted(None), atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (["method.kind=standard"], "method standard does not attack"),
        (["method.kind=fast_adv_prop"], "the step of method fast_adv_prop has no place for it"),
    ],
)
def test_radii_are_refused_where_nothing_takes_them(recipe, reason):
    with pytest.raises(UserError, match=f"balance.epsilon: got radii by class; allowed null: {reason}"):
        load_recipe("digits/pgd_at", [*recipe, "regime.epsilon=null", "balance.epsilon.share=0.3"])
