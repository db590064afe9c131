"""Tricks as a slot of the recipe: how they are written, with every method, and that only crafting sees them."""

import pytest
import torch
from lightning_fabric import Fabric
from nets import classifier, convit, images, vit

from inure.attacks import APGD, FGSM, PGD
from inure.balance import Balance
from inure.crafting import TRICKS, AttentionDropping, PerturbationMasking, TokenDropping, Tricks
from inure.crafting.gates import gates_of
from inure.methods import MART, PGDAT, TRADES, CoTraining
from inure.models.adapters import Adapters, attach
from inure.optimizers import SGD
from inure.recipe.recipe import load_recipe
from inure.recipe.regime import Regime
from inure.settings.errors import UserError
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import train_step
from inure.types import Batch

ATTACK = PGD(threat=Linf(epsilon=0.05), steps=3, start="gaussian")
METHODS = [
    PGDAT(attack=ATTACK), TRADES(attack=ATTACK), MART(attack=ATTACK), CoTraining(attack=ATTACK),
    PGDAT(attack=FGSM(start="uniform")), PGDAT(attack=APGD(steps=2)), PGDAT(attack=ATTACK, attack_mode="train"),
]  # fmt: skip
EACH = {
    "attention_dropping": AttentionDropping(warmup=1),
    "perturbation_masking": PerturbationMasking(warmup=1, patch=2),
    "token_dropping": TokenDropping(rate=0.2),
}
ALL = Tricks(**EACH)


def step(method, crafting, progress=0.5, seed=0, net=None):
    fabric = Fabric(accelerator="cpu", devices=1)
    net = net or classifier(vit()).train()
    model, optimizer = fabric.setup(net, SGD(lr=0.01).build(net))
    x, y = images(8)
    torch.manual_seed(seed)
    logged = train_step(
        fabric,
        model,
        optimizer,
        Batch(x, y, torch.arange(8), progress),
        method=method,
        joints=Joints(balance=Balance(), regime=Regime(), crafting=crafting),
    )
    return net, logged


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.kind}-{m.attack.kind}")
@pytest.mark.parametrize("names", [*([name] for name in EACH), list(EACH)], ids="+".join)
def test_every_method_takes_a_step_with_every_trick_and_is_changed_by_it(method, names):
    plain, _ = step(method, None)
    net, logged = step(method, Tricks(**{name: EACH[name] for name in names}))
    assert all(value.isfinite() for value in logged.values())
    assert not torch.equal(weights(net), weights(plain))
    assert all(gate.kept is True for gate in gates_of(net))


def test_through_a_domain_of_an_adapted_net():
    net = classifier(vit())
    net.mixture = attach(net.net, Adapters(kinds=["cls_token", "norm"]))
    net, logged = step(CoTraining(attack=ATTACK), ALL, net=net.train())
    assert all(value.isfinite() for value in logged.values())


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.kind}-{m.attack.kind}")
def test_no_trick_and_tricks_that_are_over_are_absent_bit_for_bit(method):
    over = Tricks(**{name: EACH[name] for name in ("attention_dropping", "perturbation_masking")})
    plain, _ = step(method, None, progress=1)
    for crafting in (Tricks(), over):
        assert torch.equal(weights(step(method, crafting, progress=1)[0]), weights(plain))


def test_the_update_sees_no_trick():
    """At the start the attack is blind and its result the image: what is left is clean training, attention included."""
    method = PGDAT(attack=PGD(threat=Linf(epsilon=0.05), steps=3, start="zero"))
    blind, _ = step(method, Tricks(attention_dropping=AttentionDropping()), progress=0.0)
    clean, _ = step(PGDAT(attack=PGD(threat=Linf(epsilon=0), steps=1, start="zero")), None)
    assert torch.equal(weights(blind), weights(clean))
    moved = (blind.net.blocks[0].attn.qkv.weight - classifier(vit()).net.blocks[0].attn.qkv.weight).abs().max()
    assert moved > 0


def test_a_trick_that_does_not_fit_leaves_no_other_one_begun():
    net = classifier(convit()).train()
    with pytest.raises(UserError, match="token_dropping"):
        step(METHODS[0], ALL, progress=0.0, net=net)
    assert ALL.attention_dropping is not None
    assert not ALL.attention_dropping._gates
    assert all(gate.kept is True for gate in gates_of(net))


def test_gates_open_and_tokens_stay_after_an_exception():
    net = classifier(vit()).train()
    x, _ = images()
    before = net.eval()(x)
    with pytest.raises(IndexError):
        step(_Failing(attack=ATTACK), ALL, net=net.train())
    assert torch.equal(net.eval()(x), before)


class _Failing(PGDAT):
    def craft(self, model, batch, attack, criterion):
        super().craft(model, batch, attack, criterion)
        raise IndexError


def test_the_result_is_handed_to_the_trick_that_wants_the_last_word():
    method = PGDAT(attack=PGD(threat=Linf(epsilon=0.05), steps=1, start="zero"))
    seen = []

    class Spy(PGDAT):
        def losses(self, model, batch, x_adv, criterion):
            seen.append((x_adv == batch.x).all(1).double().mean())
            return super().losses(model, batch, x_adv, criterion)

    for final_mask in (False, True):
        trick = PerturbationMasking(warmup=1, patch=2, final_mask=final_mask)
        step(Spy(attack=method.attack), Tricks(perturbation_masking=trick))
    assert seen[0] < 0.1 < 0.5 <= seen[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crafting=attention_dropping", Tricks(attention_dropping=AttentionDropping())),
        (
            "crafting=[attention_dropping, perturbation_masking]",
            Tricks(attention_dropping=AttentionDropping(), perturbation_masking=PerturbationMasking()),
        ),
        ("crafting.token_dropping.rate=0.2", Tricks(token_dropping=TokenDropping(rate=0.2))),
        ("crafting={perturbation_masking: {patch: 2}}", Tricks(perturbation_masking=PerturbationMasking(patch=2))),
        ("crafting=null", None),
    ],
)
def test_how_tricks_are_written(text, expected):
    assert load_recipe("digits/pgd_at", [text]).crafting == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["method.kind=standard", "regime.epsilon=null"],
            "crafting: got attention_dropping; allowed null: method standard does not",
        ),
        (["method.kind=fast_adv_prop"], "crafting: got attention_dropping; allowed null: the step of method"),
        (["crafting.attention_dropping.warmup=2"], "crafting.attention_dropping.warmup: got 2; allowed a number <= 1"),
        (
            ["crafting=perturbation_masking", "method.attack.kind=pyramid"],
            "crafting.perturbation_masking: got on; allowed null: attack pyramid perturbs cells",
        ),
        (["crafting=[masking]"], "crafting.masking: got an unknown field; allowed attention_dropping |"),
        (["crafting=3"], "crafting: got 3; allowed a mapping"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, message):
    with pytest.raises(UserError) as error:
        load_recipe("digits/pgd_at", ["crafting.attention_dropping.warmup=0.5", *overrides])
    assert message in str(error.value)


def test_the_slot_lists_every_trick():
    assert [*TRICKS] == [*Tricks.model_fields]
