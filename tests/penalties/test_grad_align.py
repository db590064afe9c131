"""GradAlign against a slow version: image by image, by functional autograd, in float64."""

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from penalised import feature_net, train
from torch import nn
from torch.func import functional_call

from inure.attacks import FGSM, PGD
from inure.balance import CrossEntropy
from inure.losses import cross_entropy
from inure.methods import PGDAT, CoTraining, Standard
from inure.models import Model, build
from inure.models.adapters import Adapters
from inure.noise import GeneratorNoise
from inure.penalties import GradAlign
from inure.penalties.penalty import Outer
from inure.perturbation import AWP
from inure.recipe.recipe import Recipe, load_recipe
from inure.settings.errors import UserError
from inure.threat import L2, Linf
from tiny import assert_same_state, linear_net, soft, state_of, tiny_batch

ATTACK = FGSM(threat=Linf(epsilon=0.05))


def seen(net, batch, *, attack=ATTACK, criterion=cross_entropy, method=None):
    nothing = torch.zeros(len(batch.x), 4)
    return Outer(net, method or PGDAT(), batch, batch.x, nothing, None, None, attack, criterion)


def doubled(batch):
    y = batch.y.double() if batch.y.is_floating_point() else batch.y
    return replace(batch, x=batch.x.double(), y=y)


def slow(net, batch, weight, attack=ATTACK, criterion=cross_entropy):
    """(value, gradients of the weights): one image after the other, the first gradient at weights held fixed."""
    x0 = attack.threat.random_start(batch.x, GeneratorNoise())
    buffers, fixed = dict(net.named_buffers()), {name: p.detach() for name, p in net.named_parameters()}

    def gradient(parameters, image, label):
        def loss(pixels):
            return criterion(functional_call(net, (parameters, buffers), (pixels[None],)), label[None])[0]

        return torch.func.grad(loss)(image)

    def penalty(parameters):
        terms = []
        for i in range(len(batch.x)):
            one, two = gradient(fixed, batch.x[i], batch.y[i]), gradient(parameters, x0[i], batch.y[i])
            terms.append(1 - (one * two).sum() / (one.pow(2).sum() * two.pow(2).sum()).sqrt())
        return weight * torch.stack(terms).mean()

    return penalty(fixed), torch.func.grad(penalty)(fixed)


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize(
    ("attack", "criterion"),
    [(FGSM(threat=Linf(epsilon=0.4)), cross_entropy), (PGD(threat=L2(epsilon=4)), CrossEntropy(label_smoothing=0.2))],
)
def test_value_and_gradient_are_those_of_the_slow_version(labels, attack, criterion):
    net, batch = feature_net(activation=nn.Softplus).eval().double(), doubled(tiny_batch())
    batch = replace(batch, y=soft(batch.y).double()) if labels == "soft" else batch
    torch.manual_seed(5)
    expected, gradients = slow(net, batch, 0.7, attack, criterion)
    torch.manual_seed(5)
    value = GradAlign(weight=0.7, mode="eval")(seen(net, batch, attack=attack, criterion=criterion))
    assert value.shape == (8,)
    assert value.mean().item() == pytest.approx(expected.item(), rel=1e-9)
    assert expected > 1e-3
    value.mean().backward()
    for name, parameter in net.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found, gradients[name], rtol=1e-6, atol=1e-10), name
    assert net.net.hidden.weight.grad.abs().sum() > 0


def test_it_lies_between_zero_and_twice_the_weight():
    for seed in range(5):
        batch = tiny_batch(32, seed=seed)
        value = GradAlign(weight=3, mode="eval")(
            seen(feature_net(seed).eval(), batch, attack=FGSM(threat=L2(epsilon=9)))
        )
        assert (value > -1e-5).all()
        assert (value < 6 + 1e-5).all()
        assert value.max() > 0.1


def test_of_a_linear_net_of_two_classes_it_is_zero():
    """The gradient of its loss has one direction everywhere."""
    net = linear_net(torch.randn(2, 108, dtype=torch.float64), torch.randn(2, dtype=torch.float64))
    batch = doubled(tiny_batch(classes=2))
    value = GradAlign()(seen(net, batch))
    assert value.abs().max() < 1e-12


def test_gradients_too_small_for_float32_squares_still_have_directions():
    """Images that the net is sure of: their gradients are 1e-25 of those that it is not sure of."""
    net = feature_net(activation=nn.Softplus).eval()
    batch = tiny_batch()
    value = GradAlign(weight=1, mode="eval")

    def tiny_loss(logits, y):
        return cross_entropy(logits, y) * 1e-25

    found = []
    for criterion in (cross_entropy, tiny_loss):
        torch.manual_seed(5)
        net.zero_grad()
        value(seen(net, batch, criterion=criterion)).mean().backward()
        found.append(net.net.hidden.weight.grad.clone())
    assert torch.allclose(*found, rtol=1e-3, atol=1e-7)
    assert found[0].abs().max() > 1e-4


@pytest.mark.parametrize("dead", [8, 3])
def test_images_without_a_gradient_are_left_out_of_the_mean(dead):
    net, batch = feature_net().eval(), tiny_batch()
    alive = (torch.arange(8) >= dead).float()

    def some(logits, y):
        return cross_entropy(logits, y) * alive

    torch.manual_seed(5)
    value = GradAlign(weight=1, mode="eval")(seen(net, batch, criterion=some))
    assert torch.equal(value[:dead], torch.zeros(dead))
    value.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    torch.manual_seed(5)
    everything = GradAlign(weight=1, mode="eval")(seen(net, batch))
    left = everything[dead:].mean().item() if dead < 8 else 0
    assert value.mean().item() == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize("mode", ["train_frozen_stats", "eval"])
def test_the_net_stays_as_it_was(mode):
    net = feature_net().train()
    net.net.norm.eval()
    net.net.norm.track_running_stats = True
    before = state_of(net)
    GradAlign(mode=mode)(seen(net, tiny_batch()))
    assert_same_state(before, state_of(net))


def test_in_the_mode_train_running_statistics_move_as_in_the_authors_code():
    net = feature_net().train()
    before = net.net.norm.running_mean.clone()
    GradAlign(mode="train")(seen(net, tiny_batch()))
    assert not torch.equal(net.net.norm.running_mean, before)


def test_it_lowers_the_angle_that_it_measures(fabric):
    """Forty steps on one batch with and without it."""
    angles = []
    for weight in (0, 10):
        penalty, method = GradAlign(weight=weight), PGDAT(attack=ATTACK)
        batches = [tiny_batch(progress=0.5)] * 40
        net, _, _ = train(fabric, method, [penalty], batches=batches)
        torch.manual_seed(5)
        angles.append(GradAlign(weight=1, mode="eval")(seen(net.eval(), tiny_batch())).mean().item())
    assert angles[1] < 0.7 * angles[0]


def test_it_works_at_perturbed_weights_and_under_bf16():
    for precision in ("32-true", "bf16-mixed"):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        net, logged, _ = train(fabric, PGDAT(attack=ATTACK), [GradAlign()], perturbation=AWP())
        assert all(p.isfinite().all() for p in net.parameters())
        values = [step["grad_align"] for step in logged]
        assert all(0 < value <= 0.4 for value in values)


def test_attention_can_be_differentiated_twice(fabric):
    net = build(Model(name="vit_digits"), num_classes=10, shape=(1, 8, 8))
    batches = [tiny_batch(8, classes=10, shape=(1, 8, 8))]
    _, (logged,), _ = train(fabric, PGDAT(attack=ATTACK), [GradAlign()], net=net, batches=batches)
    assert logged["grad_align"] > 0


def test_of_a_net_with_domains_it_is_the_robust_one():
    net = build(Model(name="wrn10_1", adapters=Adapters(kinds=["norm"])), num_classes=4, shape=(3, 8, 8)).eval()
    batch = tiny_batch(shape=(3, 8, 8))
    method = CoTraining()
    torch.manual_seed(5)
    GradAlign()(seen(net, batch, method=method)).mean().backward()
    stacked = [p for p in net.parameters() if p.grad is not None and p.ndim == 2 and len(p) == 2]
    assert stacked
    assert all(p.grad[0].abs().sum() == 0 for p in stacked)
    assert any(p.grad[1].abs().sum() > 0 for p in stacked)


def test_what_it_cannot_have_is_refused_in_a_line():
    with pytest.raises(UserError) as caught:
        load_recipe("digits/pgd_at", ["penalties=[{kind: grad_align}]", "engine.compile=true"])
    assert str(caught.value).startswith("engine.compile: got true with penalty grad_align; allowed false")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"penalties\[0\]: got grad_align; allowed others: method standard does not"):
        Recipe(method=Standard(), penalties=[GradAlign()])
