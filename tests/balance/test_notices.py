"""Weights of examples do nothing in an attack, bit for bit, and a run says so; where they do something it does not."""

from dataclasses import replace

import pytest
import torch

from inure.attacks import APGD, FGSM, PGD
from inure.balance import Balance, BalancedSoftmax, ClassBalancedFocal, CrossEntropy, Rebalanced, Weighted
from inure.balance.notices import notices
from inure.methods import PGDAT
from inure.models.batchnorm import BatchNorm
from inure.optimizers import SGD
from inure.penalties import GradAlign
from inure.recipe.recipe import load_recipe
from inure.recipe.regime import Regime
from inure.steps import Joints
from inure.threat import L2, Linf
from inure.training.step import train_step
from processes import TINY_ATTACK, inure, records
from tiny import noise_of, soft, tiny_batch, tiny_net

LINF = Linf(epsilon=0.05)
ATTACKS = [PGD(threat=LINF), FGSM(threat=LINF, start="uniform"), APGD(threat=LINF, steps=5)]
WEIGHTS = [Weighted(beta=1), Rebalanced(), Rebalanced(faithful=True)]


def batch_of(labels="hard"):
    memory = {
        "class_counts": torch.tensor([5000.0, 300, 20, 2]).double(),
        "counter.last": torch.tensor([5300.0, 22, 4, 0]).double(),
        "counter.now": torch.zeros(4).double(),
    }
    batch = replace(tiny_batch(32), memory=memory)
    return replace(batch, y=soft(batch.y)) if labels == "soft" else batch


def crafted(criterion, attack, mode="eval", labels="hard", net=None):
    """With one start for all criteria."""
    batch = batch_of(labels)
    net = net or tiny_net().train()

    def search(*arguments, **options):
        return attack(*arguments, **options, noise=noise_of(batch))

    method = PGDAT(attack=attack, attack_mode=mode)
    return method.craft(net, batch, search, Balance(attack=criterion).attack_at(batch))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.kind)
@pytest.mark.parametrize("criterion", WEIGHTS, ids=["weighted", "rebalanced", "faithful"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_weights_do_nothing_in_a_sign_attack_in_eval_mode_bit_for_bit(attack, criterion, labels):
    plain = crafted(CrossEntropy(), attack, labels=labels)
    assert torch.equal(crafted(criterion, attack, labels=labels), plain)


def test_weights_do_nothing_under_a_normalised_gradient_up_to_rounding():
    attack = PGD(threat=L2(epsilon=0.4))
    for criterion in WEIGHTS:
        assert torch.allclose(crafted(criterion, attack), crafted(CrossEntropy(), attack), atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "train_frozen_stats"])
def test_weights_do_something_where_batchnorm_couples_the_images(mode):
    attack = ATTACKS[0]
    differing = crafted(Rebalanced(), attack, mode) != crafted(CrossEntropy(), attack, mode)
    assert differing.double().mean() > 0.1


def test_a_prior_inside_the_softmax_does_something():
    differing = crafted(BalancedSoftmax(), ATTACKS[0]) != crafted(CrossEntropy(), ATTACKS[0])
    assert differing.double().mean() > 0.1


def test_the_softmax_form_of_the_focal_loss_is_a_weight_under_hard_labels_alone():
    focal = ClassBalancedFocal(form="softmax", beta=0.99)
    for attack in ATTACKS:
        assert torch.equal(crafted(focal, attack), crafted(CrossEntropy(), attack))
    attack = ATTACKS[0]
    differing = crafted(focal, attack, labels="soft") != crafted(CrossEntropy(), attack, labels="soft")
    assert differing.double().mean() > 0.05
    softmax = "balance.attack={kind: class_balanced_focal, form: softmax}"
    assert said(softmax) == ["inert_balance"]
    assert said(softmax, "augment.mixup=1") == []
    assert said("balance.attack.kind=weighted", "augment.mixup=1") == ["inert_balance"]


def test_without_running_statistics_images_are_coupled_in_eval_mode_too():
    net = tiny_net().train()
    BatchNorm(running=False).apply(net, "tiny")
    plain, weighted = (crafted(c, ATTACKS[0], net=net) for c in (CrossEntropy(), Rebalanced()))
    assert (plain != weighted).double().mean() > 0.1
    assert said("balance.attack.kind=rebalanced", net=net) == []


def said(*overrides: str, net=None) -> list[str]:
    recipe = load_recipe("digits/pgd_at", overrides)
    return [kind for kind, _ in notices(recipe, net or tiny_net())]


def test_a_recipe_with_inert_weights_is_told_so():
    assert said("balance.attack.kind=rebalanced") == ["inert_balance"]
    assert said("balance.attack.kind=weighted", "method.attack.threat.kind=l2") == ["inert_balance"]
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert said("balance.attack.kind=rebalanced", "method.attack_mode=train", net=plain) == ["inert_balance"]


@pytest.mark.parametrize("norm", [True, False])
def test_batch_statistics_are_offered_to_nets_that_can_have_them(norm):
    recipe = load_recipe("digits/pgd_at", ["balance.attack.kind=rebalanced"])
    net = tiny_net() if norm else torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    ((_, detail),) = notices(recipe, net)
    assert ("method.attack_mode=train_frozen_stats" in detail) == norm
    assert "method.attack_mode=train " not in detail
    for remedy in detail.partition("; try ")[2].split(" or "):
        load_recipe("digits/pgd_at", [remedy])


@pytest.mark.parametrize(
    "overrides",
    [
        ["balance.train.kind=rebalanced"],
        ["balance.attack.kind=balanced_softmax"],
        ["balance.attack.kind=rebalanced", "method.attack_mode=train"],
        ["balance.attack.kind=class_balanced_focal"],
        ["balance.attack.kind=rebalanced", "method.attack={kind: noisy_fgsm, scale: gradient}"],
        ["balance.attack.kind=rebalanced", "method={kind: fgsm_pgi, attack_mode: eval}"],
    ],
)
def test_a_recipe_whose_criteria_do_something_is_not(overrides):
    assert said(*overrides) == []


def test_a_penalty_beside_the_loss_in_the_attack_gives_weights_a_meaning(monkeypatch):
    recipe = load_recipe("digits/pgd_at", ["balance.attack.kind=rebalanced"])
    monkeypatch.setattr(GradAlign, "attack_term", lambda *_: None, raising=False)
    assert [*notices(recipe.model_copy(update={"penalties": [GradAlign()]}), tiny_net())] == []


def test_criteria_for_cosines_say_so_on_another_head():
    assert said("balance.train.kind=ldam") == ["needs_cosine"]
    assert said("balance.train.kind=robal", "model.head.kind=cosine") == []


def test_a_run_warns_once_on_stderr_and_in_its_metrics(tmp_path):
    line = ("digits/pgd_at", *TINY_ATTACK, "balance.attack.kind=rebalanced", "data.examples=300", "epochs=2")
    done = inure("train", *line, "--out", "run", folder=tmp_path)
    assert done.code == 0
    assert done.err.count("warning: inert balance: balance.attack.kind=rebalanced multiplies") == 1
    (warning,) = (r for r in records(tmp_path / "run", "warning") if r["kind"] != "collapse")
    assert (warning["kind"], warning["epoch"], warning["step"]) == ("inert_balance", 0, 0)


@pytest.mark.parametrize("criterion", [Weighted(beta=1), Rebalanced(faithful=True)])
def test_training_with_inert_weights_is_training_without_them_bit_for_bit(fabric, criterion):
    """REAT without its penalty is AT-BSL."""
    nets = []
    for attack in (criterion, CrossEntropy()):
        torch.manual_seed(0)
        net = tiny_net().train()
        model, optimizer = fabric.setup(net, SGD(lr=0.1).build(net))
        balance = Balance(attack=attack, train=BalancedSoftmax())
        for _ in range(3):
            method = PGDAT(attack=PGD(threat=LINF, steps=3))
            train_step(
                fabric, model, optimizer, batch_of(), method=method, joints=Joints(balance=balance, regime=Regime())
            )
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
