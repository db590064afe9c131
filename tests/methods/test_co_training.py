"""Co-training: which parameters each term reaches, what is attacked, and the equations by hand."""

from dataclasses import replace

import pytest
import torch

from inure.attacks import APGD, FGSM, PGD
from inure.losses import cross_entropy
from inure.methods import PGDAT, CoTraining, Standard
from inure.models import Model, build
from inure.models.adapt import adapt
from inure.models.adapters.stacks import adapter_names, plain_name
from inure.models.modes import attack_mode
from inure.recipe.recipe import Recipe, load_recipe
from inure.settings.errors import UserError
from inure.threat import L2, Linf
from inure.types import Batch
from tiny import assert_same_state, noise_of, soft, state_of

ATTACK = PGD(threat=Linf(epsilon=0.1), steps=3, start="zero")
KINDS = [None, "cls_token", "norm", ["head", "lora"], "all"]


def net_of(kind, name: str = "vit_digits", domains=("clean", "robust")):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(Model(name=name), num_classes=10, shape=(1, 8, 8))
        if kind is None:
            return net
        adapted = adapt(net, kind, domains=domains)
        names = adapter_names(adapted)
        with torch.no_grad():
            for key, tensor in adapted.state_dict().items():
                if key in names and tensor.is_floating_point() and "variances" not in key:
                    tensor.add_(0.1 * torch.randn(tensor.shape))
    return adapted


def batch_of(size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, 1, 8, 8, generator=generator)
    return Batch(x, torch.randint(10, (size,), generator=generator), torch.arange(size), 0.5)


def crafted(method, net, batch, criterion=cross_entropy):
    def attack(*arguments, search=None, **options):
        return (search or method.attack)(*arguments, **options, noise=noise_of(batch))

    return method.craft(net, batch, attack, criterion)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_the_loss_is_the_weighted_sum_of_two_separate_passes(kind, labels):
    net, batch = net_of(kind).eval(), batch_of()
    batch = replace(batch, y=soft(batch.y, classes=10)) if labels == "soft" else batch
    method = CoTraining(attack=ATTACK, alpha=0.3)
    x_adv = crafted(method, net, batch)
    losses = method.losses(net, batch, x_adv, cross_entropy)
    modes = [{}, {}] if kind is None else [{"mix": "clean"}, {"mix": "robust"}]
    clean, robust = (cross_entropy(net(x, **mode), batch.y) for x, mode in zip((batch.x, x_adv), modes, strict=True))
    assert torch.allclose(losses.total, 0.3 * clean + 0.7 * robust, atol=1e-5)
    assert torch.allclose(losses.parts["clean"], clean, atol=1e-5)
    assert torch.allclose(losses.parts["robust"], robust, atol=1e-5)


@pytest.mark.parametrize("kind", [k for k in KINDS if k], ids=str)
@pytest.mark.parametrize(("alpha", "idle"), [(1.0, 1), (0.0, 0)])
def test_at_the_ends_of_alpha_the_other_domain_gets_no_gradient(kind, alpha, idle):
    net, batch = net_of(kind).train(), batch_of()
    method = CoTraining(attack=ATTACK, alpha=alpha)
    method.losses(net, batch, crafted(method, net, batch), cross_entropy).total.mean().backward()
    names, reached = adapter_names(net), False
    for name, parameter in net.named_parameters():
        if name in names and parameter.grad is not None:
            assert not parameter.grad[idle].any(), name
            reached |= bool(parameter.grad[1 - idle].any())
    assert reached


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_attack_goes_through_the_robust_domain_and_leaves_the_net_alone(kind):
    net, batch = net_of(kind).train(), batch_of()
    before = state_of(net)
    method = CoTraining(attack=ATTACK)
    x_adv = crafted(method, net, batch)
    assert_same_state(before, state_of(net))
    if kind is None:
        return
    names = adapter_names(net)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name in names and tensor.is_floating_point() and "variances" not in name:
                tensor[0].add_(torch.randn(tensor[0].shape))
    assert torch.equal(crafted(method, net, batch), x_adv), "the clean domain took part in the attack"


def test_without_domains_and_at_the_ends_of_alpha_it_is_standard_or_adversarial_training():
    net, batch = net_of(None).eval(), batch_of()
    for alpha, other in ((1.0, Standard()), (0.0, PGDAT(attack=ATTACK))):
        method = CoTraining(attack=ATTACK, alpha=alpha)
        ours = method.losses(net, batch, crafted(method, net, batch), cross_entropy).total
        theirs = other.losses(net, batch, other.craft(net, batch, ATTACK, cross_entropy), cross_entropy).total
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("kind", [None, "norm", "batchnorm"], ids=str)
@pytest.mark.parametrize("statistics", ["joint", "separate"])
def test_batch_statistics_are_over_the_union_or_apart(kind, statistics):
    net, batch = net_of(kind, "wrn10_1").train(), batch_of(16)
    method = CoTraining(attack=ATTACK, statistics=statistics)
    x_adv = (batch.x * 0.2).clamp(0, 1)
    losses = method.losses(net, batch, x_adv, cross_entropy)
    passes = []
    other = net_of(kind, "wrn10_1").train()
    for x, mode in ((batch.x, "clean"), (x_adv, "robust")):
        passes.append(cross_entropy(other(x, **({} if kind is None else {"mix": mode})), batch.y))
    apart = torch.stack(passes).mean(0)
    same = torch.allclose(losses.total, apart, atol=1e-4)
    assert same == (statistics == "separate" or kind == "batchnorm")


def test_three_domains_share_what_is_not_clean():
    net, batch = net_of("cls_token", domains=("clean", "robust", "l2")).eval(), batch_of()
    method = CoTraining(attack=ATTACK, adversaries={"l2": PGD(threat=L2(epsilon=0.5), steps=2)}, alpha=0.4)
    x_adv = crafted(method, net, batch)
    assert x_adv.shape == (12, 1, 8, 8)
    assert Linf(epsilon=0.1).distance(x_adv[:6], batch.x).max() <= 0.1 + 1e-6
    assert L2(epsilon=0.5).distance(x_adv[6:], batch.x).max() <= 0.5 + 1e-6
    losses = method.losses(net, batch, x_adv, cross_entropy)
    terms = [
        cross_entropy(net(x, mix=mode), batch.y)
        for x, mode in ((batch.x, "clean"), (x_adv[:6], "robust"), (x_adv[6:], "l2"))
    ]
    assert torch.allclose(losses.total, 0.4 * terms[0] + 0.3 * terms[1] + 0.3 * terms[2], atol=1e-5)
    assert list(losses.parts) == ["clean", "robust", "l2", "attack_success"]


def test_a_random_target_is_another_class_and_is_approached():
    net, batch = net_of("cls_token").eval(), batch_of(200)
    method = CoTraining(attack=FGSM(threat=Linf(epsilon=0.01)), target="random")
    seen = []

    def attack(model, x, y, *, loss):
        seen.append(y)
        before = loss(model(x), y)
        x_adv = method.attack(model, x, y, loss=loss)
        assert (loss(model(x_adv), y) > before).float().mean() > 0.95
        assert torch.allclose(loss(model(x), y), -cross_entropy(model(x), y))
        return x_adv

    method.craft(net, batch, attack, cross_entropy)
    assert (seen[0] != batch.y).all()
    assert len(seen[0].unique()) == 10


@pytest.mark.parametrize("kind", ["norm", "batchnorm", ["norm", "head"], "all"], ids=str)
@pytest.mark.parametrize("attack", [ATTACK, APGD(threat=Linf(epsilon=0.1), steps=3)], ids=["pgd", "apgd"])
@pytest.mark.parametrize("mode", ["eval", "train_frozen_stats"])
def test_an_attack_leaves_the_statistics_of_an_adapted_net_alone(kind, attack, mode):
    net, batch = net_of(kind, "wrn10_1").train(), batch_of(16)
    before = state_of(net)
    method = CoTraining(attack=attack, attack_mode=mode, target="random" if attack is ATTACK else "none")
    crafted(method, net, batch)
    assert_same_state(before, state_of(net))


@pytest.mark.parametrize("kind", ["norm", "batchnorm"])
@pytest.mark.parametrize("domain", ["clean", "robust"])
def test_in_train_mode_an_attack_moves_the_statistics_that_it_moves_in_a_plain_net(kind, domain):
    plain = net_of(None, "wrn10_1").train()
    net, batch = adapt(plain, kind).train(), batch_of(16)
    names = {"clean": "robust", "robust": "clean"} if domain == "clean" else {}
    crafted(CoTraining(attack=ATTACK, attack_mode="train", **names), net, batch)
    with attack_mode(plain, "train"):
        ATTACK(plain, batch.x, batch.y, noise=noise_of(batch))
    stacked, theirs = adapter_names(net), dict(plain.named_buffers())
    fresh = dict(net_of(None, "wrn10_1").named_buffers())
    place, moved = ("clean", "robust").index(domain), 0
    for name, ours in net.named_buffers():
        if name in stacked:
            own = plain_name(name)
            assert torch.equal(ours[1 - place], fresh[own]), f"{name} of the other domain moved"
            ours = ours[place]
        else:
            own = name
        assert torch.allclose(ours, theirs[own], atol=1e-6), name
        moved += not torch.equal(ours, fresh[own])
    assert moved > 10


def test_several_attacks_and_domains_leave_the_statistics_alone():
    domains = ("clean", "robust", "l2")
    net, batch = net_of("batchnorm", "wrn10_1", domains).train(), batch_of(16)
    before = state_of(net)
    others = {"l2": PGD(threat=L2(epsilon=0.5), steps=2)}
    crafted(CoTraining(attack=ATTACK, adversaries=others, attack_mode="train_frozen_stats"), net, batch)
    assert_same_state(before, state_of(net))


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="domains that differ"):
        CoTraining(robust="clean")
    with pytest.raises(UserError, match="has no gradient"):
        Recipe(method=CoTraining(attack=ATTACK, climbs="prediction"))
    with pytest.raises(UserError, match="method.adversaries.l2.start: got zero"):
        Recipe(method=CoTraining(attack=PGD(), adversaries={"l2": FGSM(threat=L2())}, climbs="prediction"))
    method = CoTraining(attack=ATTACK, robust="linf")
    with pytest.raises(UserError, match=r"domains clean \| linf; allowed those of model.adapters: clean \| robust"):
        crafted(method, net_of("cls_token"), batch_of())
    assert load_recipe("digits/soup").method.kind == "co_training"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": PGD(keep="worst")}, "attack.keep: got worst; allowed last, and one restart"),
        ({"attack": PGD(restarts=2)}, "attack.keep: got last; allowed last, and one restart"),
        ({"attack": APGD(keep="worst")}, "attack.keep: got worst"),
        ({"attack": APGD(restarts=2)}, "attack.keep: got loss; allowed last, and one restart"),
        ({"adversaries": {"l2": PGD(threat=L2(), restarts=3)}}, "attack.keep: .* one restart"),
        ({"attack": PGD(), "climbs": "prediction"}, "climbs: got prediction; allowed criterion with target=random"),
    ],
    ids=str,
)
def test_a_random_target_takes_the_last_point_of_one_climb_alone(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        CoTraining(**{"target": "random", **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "attack", [PGD(threat=Linf(epsilon=0.3)), APGD(threat=Linf(epsilon=0.3)), FGSM(threat=Linf(epsilon=0.3))], ids=str
)
def test_what_a_random_target_allows_comes_near_its_target(attack):
    net, batch = net_of("cls_token").eval(), batch_of(100)
    with torch.no_grad():
        net.net.head.weight.mul_(20)  # sure of itself
    seen = []

    def search(model, x, y, *, loss):
        seen.append((model, y))
        return attack(model, x, y, loss=loss, noise=noise_of(batch))

    x_adv = CoTraining(attack=attack, target="random").craft(net, batch, search, cross_entropy)
    model, target = seen[0]
    before, after = (cross_entropy(model(x), target) for x in (batch.x, x_adv))
    assert (after < before).float().mean() > 0.95
    assert after.mean() < before.mean() - 0.5


@pytest.mark.parametrize("adversary", ["{kind: fgsm, threat: {kind: l2, epsilon: 0.5}}"])
def test_a_schedule_of_steps_with_an_adversary_of_one_step_is_refused(adversary):
    three = ["model.adapters.domains=[clean,robust,l2]", f"method.adversaries={{l2: {adversary}}}"]
    assert load_recipe("digits/soup", three).method.domains == ("clean", "robust", "l2")
    with pytest.raises(
        UserError, match="regime.steps: got a schedule; allowed null: attack fgsm has one step"
    ) as caught:
        load_recipe("digits/soup", [*three, "regime.steps={kind: ramp, until: 0.5}"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="attack fgsm has one step"):
        load_recipe("digits/soup", ["method.attack.kind=fgsm", "regime.steps={kind: ramp, until: 0.5}"])
    many = [three[0], "method.adversaries={l2: {kind: pgd, steps: 4, threat: {kind: l2, epsilon: 0.5}}}"]
    recipe = load_recipe("digits/soup", [*many, "regime.steps={kind: ramp, until: 0.5}"])
    assert [recipe.regime.scale(recipe.method.adversaries["l2"], p).steps for p in (0.0, 0.25, 1.0)] == [1, 2, 4]
