"""TRADES: its limits, its KL, why it starts from noise, and what it caches."""

import pytest
import torch
from scipy.special import rel_entr

from inure.attacks import APGD, FGSM, NFGSM, PGD, NoisyFGSM, Pyramid, input_gradient
from inure.balance import CrossEntropy
from inure.losses import cross_entropy, kl
from inure.methods import MART, PGDKL, TRADES, Standard
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.regime import Phase, Regime
from inure.settings.errors import UserError
from inure.threat import Linf
from tiny import noise_of, soft, tiny_batch, tiny_net

ATTACK = PGD(threat=Linf(epsilon=0.1), steps=4, start="gaussian")


def crafted(method, net, batch):
    return method.craft(net, batch, lambda *a, **o: method.attack(*a, **o, noise=noise_of(batch)), cross_entropy)


def test_the_loss_is_criterion_plus_beta_times_kl_from_clean_to_adversarial(net, batch):
    x_adv, criterion = torch.rand_like(batch.x), CrossEntropy(label_smoothing=0.1)
    losses = TRADES(beta=2.5).losses(net, batch, x_adv, criterion)
    with torch.no_grad():
        clean, adversarial = net(batch.x), net(x_adv)
    p, q = clean.double().softmax(1).numpy(), adversarial.double().softmax(1).numpy()
    expected = criterion(clean, batch.y) + 2.5 * torch.from_numpy(rel_entr(p, q).sum(1)).float()
    assert torch.allclose(losses.total, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(losses.parts["natural"] + 2.5 * losses.parts["robust_kl"], losses.total)


@pytest.mark.parametrize("training", [False, True])
def test_with_beta_zero_trades_is_standard_training_on_the_clean_half(batch, training):
    """In train mode BatchNorm sees both halves, so the clean half is read from the same forward."""
    net = tiny_net().train(training)
    x_adv = torch.rand_like(batch.x)
    total = TRADES(beta=0).losses(net, batch, x_adv, cross_entropy).total
    clean = tiny_net().train(training)(torch.cat([batch.x, x_adv]))[: len(batch.x)]
    assert torch.equal(total, cross_entropy(clean, batch.y))
    if not training:
        assert torch.allclose(total, Standard().losses(net, batch, x_adv, cross_entropy).total, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_the_kl_is_zero_where_the_images_are_equal_and_positive_elsewhere(batch, training):
    net, method = tiny_net().train(training), TRADES()
    zero = method.losses(net, batch, batch.x, cross_entropy).parts["robust_kl"]
    assert zero.abs().max() < 1e-6
    positive = method.losses(net, batch, crafted(TRADES(attack=ATTACK), net, batch), cross_entropy).parts["robust_kl"]
    assert positive.min() > 1e-5


def test_the_gradient_of_the_attack_is_zero_at_the_clean_images_and_not_at_its_start(batch):
    net, x = tiny_net().eval().double(), batch.x.double()
    with torch.no_grad():
        clean = net(x).log_softmax(1)

    def gradient(at):
        return input_gradient(net, at, batch.y, lambda logits, y: kl(logits, clean))[0].flatten(1).norm(dim=1)

    start = ATTACK.threat.project(x + ATTACK.start_std * torch.randn_like(x), x)
    assert gradient(x).max() < 1e-14
    assert gradient(start).min() > 1e-5
    assert TRADES().attack.start == "gaussian"


STILL = [
    (FGSM(), "start: got zero"),
    (PGD(start="zero"), "start: got zero"),
    (APGD(start="zero"), "start: got zero"),
    (Pyramid(cells=[1], scalars=[1]), "start: got zero"),
    (PGD(start="gaussian", start_std=0), "start_std: got 0.0"),
    (NFGSM(noise=0), "noise: got 0.0"),
    (NoisyFGSM(noise=0), "noise: got 0.0"),
]


@pytest.mark.parametrize(("attack", "message"), STILL, ids=str)
def test_an_attack_from_the_image_itself_is_refused_in_phases_too(attack, message):
    reason = "; allowed another: method trades climbs a divergence, which has no gradient at the image itself "
    name = message.split(":")[0]
    with pytest.raises(UserError) as caught:
        Recipe(method=TRADES(attack=attack))
    assert f"method.attack.{message}{reason}" in str(caught.value)
    assert f"; try method.attack.{name}=" in str(caught.value)
    ladder = Regime(phases=[Phase(until=0.2), Phase(until=0.5, attack=attack)])
    with pytest.raises(UserError) as caught:
        Recipe(method=TRADES(), regime=ladder)
    assert f"regime.phases[1].attack.{message}{reason}" in str(caught.value)
    assert f"; try {name}: " in str(caught.value)
    for method in (MART(attack=attack), PGDKL(attack=attack)):  # which climb the loss at the label
        Recipe(method=method, regime=ladder)


def test_an_attack_from_elsewhere_is_not():
    for attack in (FGSM(start="uniform"), PGD(start_std=0), APGD(), NFGSM(), NoisyFGSM()):
        Recipe(method=TRADES(attack=attack), regime=Regime(phases=[Phase(until=0.5, attack=attack)]))
    assert load_recipe("cifar10/mo_trades_ard_prm_deit_tiny").crafting is not None


def test_an_attack_that_lets_go_of_who_has_fallen_gives_each_image_what_it_gets_alone():
    net, batch = tiny_net().eval(), tiny_batch(24)
    with torch.no_grad():
        right = net(batch.x).argmax(1)
    method = TRADES(attack=APGD(threat=Linf(epsilon=0.05), steps=8, keep="worst"))

    def crafted_of(rows):
        part = type(batch)(batch.x[rows], right[rows], batch.index[rows], batch.progress)
        return crafted(method, net, part)

    alone = torch.cat([crafted_of(slice(i, i + 1)) for i in range(24)])
    fallen = int((net(alone).argmax(1) != right).sum())
    assert 0 < fallen < 24
    assert torch.allclose(crafted_of(slice(24)), alone, atol=1e-6)


def test_the_attack_climbs_the_kl_to_the_clean_prediction_and_ignores_labels(net, batch):
    method = TRADES(attack=ATTACK)
    x_adv = crafted(method, net, batch)
    with torch.no_grad():
        clean = net(batch.x).log_softmax(1)
    assert torch.equal(
        x_adv, ATTACK(net, batch.x, batch.y, loss=lambda logits, y: kl(logits, clean), noise=noise_of(batch))
    )
    for y in ((batch.y + 1) % 4, soft(batch.y)):
        other = type(batch)(batch.x, y, batch.index, batch.progress)
        assert torch.equal(crafted(method, net, other), x_adv)
    raised = method.losses(net, batch, x_adv, cross_entropy).parts["robust_kl"]
    start = batch.x + 0.001 * noise_of(batch).normal(batch.x)
    assert (raised > 10 * method.losses(net, batch, start, cross_entropy).parts["robust_kl"]).all()


def test_clean_log_probabilities_are_computed_once_and_without_a_graph(net, batch):
    seen = []
    net.register_forward_pre_hook(lambda _, a: seen.append((torch.equal(a[0], batch.x), torch.is_grad_enabled())))
    crafted(TRADES(attack=ATTACK), net, batch)
    assert seen == [(True, False)] + [(False, True)] * 4


def test_gradients_flow_through_both_arguments_of_the_kl(net, batch):
    x_adv = crafted(TRADES(attack=ATTACK), net, batch)

    def gradient(loss):
        return torch.autograd.grad(loss.mean(), net.net[-1].weight)[0]

    clean, adversarial = net(batch.x).log_softmax(1), net(x_adv).log_softmax(1)
    expected = (clean.exp() * (clean - adversarial)).sum(1)
    found = gradient(TRADES(beta=1).losses(net, batch, x_adv, lambda logits, y: logits.sum(1) * 0).total)
    assert torch.allclose(found, gradient(expected), atol=1e-6)
    one_sided = (clean.detach().exp() * (clean.detach() - net(x_adv).log_softmax(1))).sum(1)
    assert not torch.allclose(found, gradient(one_sided), atol=1e-3)
