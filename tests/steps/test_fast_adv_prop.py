"""Fast AdvProp's step: image by image with autograd, its limits, and what a run makes of it."""

import copy
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from inure.attacks import FGSM
from inure.averaging import EMA
from inure.balance import Balance, CrossEntropy
from inure.commands import main
from inure.losses import cross_entropy
from inure.methods import FastAdvProp, Standard
from inure.models import Model, build
from inure.models.adapt import adapt
from inure.models.adapters.stacks import adapter_names
from inure.optimizers import SGD
from inure.perturbation import AWP
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Regime
from inure.schedules import Ramp
from inure.settings.errors import UserError
from inure.steps import Joints, fast_adv_prop_step
from inure.threat import L2, Linf
from inure.training.passes import passes
from inure.training.step import step_of, train_step
from inure.types import Batch
from processes import TINY, assert_resumes_exactly, in_two_processes, weights
from tiny import assert_same_state, soft, state_of, tiny_batch, tiny_net

KINDS = [None, "cls_token", "norm", ["head", "lora"], "all"]
PLAIN = SGD(lr=0.1, momentum=0, nesterov=False, weight_decay=0)


@pytest.fixture
def double() -> Iterator[Fabric]:
    """One CPU process, float64; Fabric hands out logits in torch's default type."""
    torch.set_default_dtype(torch.float64)
    yield Fabric(accelerator="cpu", devices=1, precision="64-true")
    torch.set_default_dtype(torch.float32)


def net_of(kind, name: str = "vit_digits"):
    """In double precision, with domains that differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(Model(name=name), num_classes=10, shape=(1, 8, 8))
        net = net if kind is None else adapt(net, kind)
        names = adapter_names(net)
        with torch.no_grad():
            for key, p in net.named_parameters():
                if key in names:
                    p.add_(0.1 * torch.randn(p.shape))
    return net.double()


def batch_of(size: int = 10, labels: str = "hard") -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(size, 1, 8, 8, generator=generator).double()
    y = torch.randint(10, (size,), generator=generator)
    y = soft(y, classes=10).double() if labels == "soft" else y
    return Batch(x, y, torch.arange(size), 0.5)


def stepped(fabric, net, batch, method, settings=PLAIN, **joints):
    """What a step logged; the gradients stay in ``net``."""
    model, optimizer = fabric.setup(net, settings.build(net))
    joints = {"balance": Balance(), "regime": Regime(), **joints}
    return fast_adv_prop_step(fabric, model, optimizer, batch, method=method, joints=Joints(**joints))


def image_by_image(net, batch, method, criterion):
    """(parameter gradients by name, loss): every image alone, sums kept for each domain, divided at the end."""
    attacked = round(method.share * len(batch.x))
    names, domains = dict(net.named_parameters()), net.domains or ("clean", "robust")
    sums = {d: {n: torch.zeros_like(p) for n, p in names.items()} for d in domains}
    seen, losses = dict.fromkeys(domains, 0.0), dict.fromkeys(domains, 0.0)

    def pass_through(x, y, domain, weight):
        x = x.detach().clone().requires_grad_()
        loss = criterion(net(x, mix=domain) if net.domains else net(x), y).sum()
        found = torch.autograd.grad(weight * loss, [x, *names.values()], allow_unused=True)
        for n, g in zip(names, found[1:], strict=True):
            sums[domain][n] += 0 if g is None else g
        seen[domain] += weight
        losses[domain] += weight * loss.item()
        return found[0]

    for i in range(len(batch.x)):
        x, y = batch.x[i : i + 1], batch.y[i : i + 1]
        if i < len(batch.x) - attacked:
            pass_through(x, y, "clean", method.clean_weight)
            continue
        grad = pass_through(x, y, "robust", method.attack_weight)
        x_adv = (x + method.attack.threat.epsilon * grad.sign()).clamp(0, 1)
        pass_through(x_adv, y, "robust", method.adversarial_weight)
    stacked, total = adapter_names(net), sum(seen.values())
    gradients = {n: sum(sums[d][n] for d in domains) / total for n in names}
    for n in stacked & {*names}:
        gradients[n] = torch.stack([sums[d][n][k] / max(seen[d], 1e-9) for k, d in enumerate(domains)])
    return gradients, sum(losses.values()) / total


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    ("options", "labels"),
    [({}, "hard"), ({"share": 0.4, "clean_weight": 2, "attack_weight": 0.3, "adversarial_weight": 1.5}, "soft")],
)
def test_the_gradients_are_those_of_every_image_alone_averaged_over_who_reached_the_parameter(
    double, kind, options, labels
):
    net, batch = net_of(kind), batch_of(10, labels)
    method = FastAdvProp(attack=FGSM(threat=Linf(epsilon=0.05)), **options)
    balance = Balance(train=CrossEntropy(label_smoothing=0.1))
    expected, loss = image_by_image(copy.deepcopy(net), batch, method, balance.train)
    logged = stepped(double, net, batch, method, balance=balance)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-9, atol=1e-12), name
    assert logged["loss"].item() == pytest.approx(loss, rel=1e-12)
    assert list(logged) == ["loss", "clean", "attack", "adversarial", "grad_norm"]


def test_the_weights_move_against_these_gradients_and_clipping_and_averages_have_their_part(double):
    batch, method = batch_of(), FastAdvProp(attack=FGSM(threat=Linf(epsilon=0.05)))
    net, free = net_of("norm"), net_of("norm")
    before = [p.detach().clone() for p in net.parameters()]
    averager = EMA(decay=0.5, warmup=False).build(net)
    logged = stepped(double, net, batch, method, clip_norm=0.01, averager=averager)
    unclipped = stepped(double, free, batch, method)
    moved = torch.cat([(p - q).flatten() for p, q in zip(net.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-4)
    grads = torch.cat([p.grad.flatten() for p in free.parameters() if p.grad is not None])
    assert logged["grad_norm"].item() == pytest.approx(unclipped["grad_norm"].item(), rel=1e-12)
    assert logged["grad_norm"].item() == pytest.approx(grads.norm().item(), rel=1e-9)
    assert averager.updates == 1


@pytest.mark.parametrize("progress", [0.0, 0.25])
def test_the_regime_scales_epsilon_and_at_zero_both_passes_see_the_same_images(double, progress):
    batch = replace(batch_of(20), progress=progress)
    method = FastAdvProp(attack=FGSM(threat=L2(epsilon=2)))
    logged = stepped(double, net_of("norm"), batch, method, regime=Regime(epsilon=Ramp(until=1)))
    direct = FastAdvProp(attack=FGSM(threat=L2(epsilon=2 * progress)))
    assert torch.equal(logged["adversarial"], stepped(double, net_of("norm"), batch, direct)["adversarial"])
    assert (logged["adversarial"] > logged["attack"]) == (progress > 0)


@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_the_attacked_images_are_those_of_the_attack_itself(double, start):
    """As ``craft`` finds them with a gradient of its own; nor does ``losses`` say anything else than the step logs."""
    net, batch = net_of("cls_token"), batch_of(20)
    method = FastAdvProp(attack=FGSM(threat=Linf(epsilon=0.05), start=start, step_size=0.03))
    torch.manual_seed(5)
    x_adv = method.craft(net, batch, method.attack, cross_entropy)
    losses = method.losses(net, batch, x_adv, cross_entropy)
    torch.manual_seed(5)
    logged = stepped(double, net, batch, method)
    assert x_adv.shape == (4, 1, 8, 8)
    assert logged["adversarial"].item() == pytest.approx(losses.parts["adversarial"].mean().item(), rel=1e-12)
    if start == "zero":
        assert logged["loss"].item() == pytest.approx(losses.total.mean().item(), rel=1e-12)


def test_with_nothing_attacked_it_is_standard_training_bit_for_bit(fabric):
    nets, losses = [tiny_net().train(), tiny_net().train()], []
    for net, method in zip(nets, (FastAdvProp(share=0), Standard()), strict=True):
        model, optimizer = fabric.setup(net, SGD(lr=0.05).build(net))
        for seed in range(3):
            logged = step_of(method)(
                fabric,
                model,
                optimizer,
                tiny_batch(7, seed=seed),
                method=method,
                joints=Joints(balance=Balance(), regime=Regime()),
            )
            losses.append(logged["loss"])
    assert_same_state(state_of(nets[0]), state_of(nets[1]))
    assert torch.equal(torch.stack(losses[:3]), torch.stack(losses[3:]))


@pytest.mark.parametrize("kind", [None, "norm", "batchnorm"], ids=str)
def test_batch_statistics_are_those_of_each_pass_and_enter_the_running_ones_of_its_domain(double, kind):
    net, batch = net_of(kind, "wrn10_1").train(), batch_of(20)
    method = FastAdvProp(attack=FGSM(threat=Linf(epsilon=0.05)))
    slow = copy.deepcopy(net)
    robust, clean = ({"mix": "robust"}, {"mix": "clean"}) if kind else ({}, {})
    slow(batch.x[:16], **clean)
    x = batch.x[16:].clone().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(slow(x, **robust), batch.y[16:]).sum(), x)
    adversarial = cross_entropy(slow((x + 0.05 * grad.sign()).clamp(0, 1), **robust), batch.y[16:]).mean()
    logged = stepped(double, net, batch, method)
    assert logged["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-9)
    counted = 0
    for (name, ours), theirs in zip(net.named_buffers(), slow.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12), name
        if name.endswith("batches"):
            assert ours.tolist() == [1, 2]
            counted += 1
    assert (counted > 0) == (kind == "batchnorm")


def test_a_step_leaves_flags_and_the_batch_as_they_were_and_a_frozen_parameter_without_a_gradient(double):
    net, batch = net_of("norm").train(), batch_of()
    frozen = next(p for n, p in net.named_parameters() if "patch" in n)
    frozen.requires_grad_(False)
    kept, x = frozen.detach().clone(), batch.x.clone()
    flags = {n: (p.requires_grad) for n, p in net.named_parameters()}
    stepped(double, net, batch, FastAdvProp())
    assert {n: p.requires_grad for n, p in net.named_parameters()} == flags
    assert frozen.grad is None
    assert torch.equal(frozen, kept)
    assert torch.equal(batch.x, x)
    assert batch.x.grad is None
    assert not batch.x.requires_grad


def test_a_part_has_two_images_at_least_and_together_they_are_the_batch():
    for size, share, sizes in [
        (320, 0.2, (256, 64)), (8, 0.2, (6, 2)), (5, 0.9, (2, 4)), (3, 0.2, (2, 2)), (2, 0.2, (2, 2)), (8, 0, (8, 0)),
    ]:  # fmt: skip
        clean, attacked = FastAdvProp(share=share).split(tiny_batch(size))
        assert (len(clean.x), len(attacked.x)) == sizes, size
        assert {*clean.index.tolist(), *attacked.index.tolist()} == {*range(100, 100 + size)}
        assert len(clean.y) == len(clean.x)


def test_what_cannot_work_is_refused():
    method = FastAdvProp()
    with pytest.raises(UserError, match=r"perturbation: got awp; allowed null: the step of method fast_adv_prop"):
        Recipe(method=method, perturbation=AWP())
    with pytest.raises(UserError, match=r"balance.attack: got "):
        Recipe(method=method, balance=Balance(attack=CrossEntropy(label_smoothing=0.1)))
    with pytest.raises(UserError, match="robust: got clean; allowed another domain"):
        FastAdvProp(robust="clean")
    with pytest.raises(UserError, match="attack.kind: got pgd; allowed fgsm"):
        load_recipe("digits/soup", ["method.kind=fast_adv_prop", "method.attack.kind=pgd"])
    with pytest.raises(UserError, match="those of the method"):
        load_recipe("digits/soup", ["method.kind=fast_adv_prop", "method.robust=linf"])
    assert step_of(Standard()) is train_step
    assert step_of(method) is fast_adv_prop_step


def test_a_step_costs_a_fifth_more_than_a_standard_one():
    assert passes(Recipe(method=FastAdvProp())) == {"forwards": 1.2, "input_backwards": 0, "full_backwards": 1.2}


RECIPE = (
    "method.kind=fast_adv_prop",
    *TINY,
    "epochs=2",
    "batch_size=130",
    "data.examples=1437",
    "data.validation=1100",
    "checkpoint.every=2",
    "regime.epsilon=null",
)


def test_a_run_stops_and_resumes_exactly(tmp_path):
    """With BatchNorm per domain, a random start and a last batch of 77 images; SWA estimates its statistics anew."""
    overrides = [
        *RECIPE,
        "model.name=wrn10_1",
        "model.adapters=batchnorm",
        "method.attack.start=uniform",
        "averaging.kind=swa",
    ]
    recipe = load_recipe("digits/soup", [*overrides, "method.attack.threat.epsilon=0.1", "optimizer.lr=0.01"])
    whole = assert_resumes_exactly(recipe, tmp_path)
    domains = next(t for n, t in weights(whole).items() if n.endswith("means"))
    assert not torch.equal(domains[0], domains[1])


def test_a_dry_run_states_its_passes(capsys):
    main_of = ["train", "digits/soup", *RECIPE, "model.adapters=head", "--dry-run"]
    with pytest.raises(SystemExit) as leaving:
        main(main_of)
    assert leaving.value.code in (0, None)
    out = capsys.readouterr().out
    assert "# full backwards a step: 1.2 x batch" in out
    assert re.search(r"^  kind: fast_adv_prop$", out, re.MULTILINE)


# Several processes


def one_of_two(fabric, rank: int) -> dict[str, torch.Tensor | None]:
    """The gradients of a step of one process on its half of the batch."""
    batch = batch_of(20)
    rows = torch.arange(20).view(2, 10)[rank]
    mine = Batch(batch.x[rows].float(), batch.y[rows], rows, 0.5)
    net = net_of("norm").float()
    stepped(fabric, net, mine, FastAdvProp(attack=FGSM(threat=Linf(epsilon=0.05))))
    return {n: p.grad for n, p in net.named_parameters()}


@pytest.mark.distributed
def test_two_processes_find_the_gradients_of_one(fabric, tmp_path):
    batch = batch_of(20)
    # The clean part of both halves, then the attacked ones
    rows = torch.cat([torch.arange(8), torch.arange(10, 18), torch.tensor([8, 9, 18, 19])])
    net = net_of("norm").float()
    whole = Batch(batch.x[rows].float(), batch.y[rows], rows, 0.5)
    stepped(fabric, net, whole, FastAdvProp(attack=FGSM(threat=Linf(epsilon=0.05))))
    for grads in in_two_processes(one_of_two, tmp_path):
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(grads[name], parameter.grad, rtol=1e-3, atol=1e-5), name
