"""Auto-PGD against a slow version, written from the paper, that climbs one image at a time in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inure.attacks import APGD
from inure.losses import cross_entropy, margin
from inure.recipe.recipe import load_recipe
from inure.recipe.regime import with_radius
from inure.settings.errors import UserError
from inure.threat import L2, Linf
from tiny import CLASSES, counting, noise_of, tiny_batch, tiny_net

IMAGES = 12
THREATS = [Linf(epsilon=0.3), L2(epsilon=1.5)]
threats = pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.kind)


def steep_net() -> nn.Module:
    """Smooth, so that nothing hangs on the last bit, and so steep that steps overshoot."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, CLASSES)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(4)
    return net


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(IMAGES, 3, 4, 4, dtype=torch.float64), torch.randint(CLASSES, (IMAGES,))


def checkpoints(steps: int) -> list[int]:
    """Section 3.1: p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), in whole steps."""
    found, length = [0], max(int(0.22 * steps), 1)
    while found[-1] + length <= steps:
        found.append(found[-1] + length)
        length = max(length - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found[1:]


class Climb:
    """Algorithm 1 for one image: every point and loss in lists, nothing in place."""

    def __init__(self, net, x, y, threat, steps, rho=0.75, first=None, loss=F.cross_entropy, start=None):
        self.net, self.x, self.y, self.threat, self.loss = net, x[None], y[None], threat, loss
        self.rose_too_seldom = self.stuck = 0
        size, plan = 2 * threat.epsilon if first is None else first, checkpoints(steps)
        points = [self.x if start is None else start[None]]
        values, gradients = [self.value(points[0])], [self.gradient(points[0])]
        current, gradient, before = points[0], gradients[0], points[0]
        halved, best_then, last = True, values[0], 0
        for k in range(1, steps + 1):
            z = self.threat.project(self.threat.ascend(current, gradient, size), self.x)
            if k == 1:
                moved = z
            else:
                moved = self.threat.project(current + 0.75 * (z - current) + 0.25 * (current - before), self.x)
            before, current = current, moved
            points.append(current)
            values.append(self.value(current))
            gradients.append(self.gradient(current))
            gradient = gradients[-1]
            if k in plan:
                rises = sum(values[i + 1] > values[i] for i in range(last, k))
                seldom, stuck = rises < rho * (k - last), not halved and max(values) <= best_then
                self.rose_too_seldom += seldom
                self.stuck += stuck and not seldom
                halved, best_then, last = seldom or stuck, max(values), k
                if halved:
                    size = size / 2
                    best = values.index(max(values))
                    current, gradient = points[best], gradients[best]
        self.points, self.values = [p[0] for p in points], values
        self.x_adv = self.points[values.index(max(values))]

    def value(self, z):
        with torch.no_grad():
            return float(self.loss(self.net(z), self.y))

    def gradient(self, z):
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(self.net(z), self.y).sum(), z)
        return gradient


@threats
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 50, 100])
def test_every_example_climbs_as_it_would_alone(threat, steps):
    net, (x, y) = steep_net(), images()
    found = APGD(threat=threat, steps=steps, start="zero")(net, x, y)
    alone = [Climb(net, image, label, threat, steps) for image, label in zip(x, y, strict=True)]
    for one, x_adv in zip(alone, found, strict=True):
        assert torch.allclose(x_adv, one.x_adv, rtol=0, atol=1e-10)
    if steps >= 20:
        assert len({climb.rose_too_seldom for climb in alone}) > 1, "all examples had the same step sizes"


@threats
@pytest.mark.parametrize(
    "settings", [{"rho": 0.0}, {"rho": 0.4}, {"rho": 1.0}, {"step_size": 0.05}, {"step_size": 0.0}], ids=str
)
def test_other_settings_climb_as_alone_too(threat, settings):
    net, (x, y) = steep_net(), images()
    found = APGD(threat=threat, steps=25, start="zero", **settings)(net, x, y)
    ours = {"first" if name == "step_size" else name: value for name, value in settings.items()}
    alone = [Climb(net, image, label, threat, 25, **ours) for image, label in zip(x, y, strict=True)]
    assert torch.allclose(found, torch.stack([one.x_adv for one in alone]), rtol=0, atol=1e-10)
    if settings == {"rho": 0.0}:
        assert sum(one.rose_too_seldom for one in alone) == 0
        assert sum(one.stuck for one in alone) > 0, "the second condition was never tried"
    if settings == {"step_size": 0.0}:
        assert torch.equal(found, x)


@threats
def test_another_loss_and_another_start_climb_as_alone_too(threat):
    net, (x, y) = steep_net(), images()
    seen = []

    def loss(logits, labels):
        return margin(logits, labels)

    class First(nn.Module):
        def forward(self, z):
            seen.append(z.detach())
            return net(z)

    found = APGD(threat=threat, steps=12)(First(), x, y, loss=loss)
    distance = threat.distance(seen[0], x)
    assert (distance > 0.5 * threat.epsilon).all()
    assert (distance <= threat.epsilon + 1e-9).all()
    alone = [
        Climb(net, image, label, threat, 12, loss=loss, start=start)
        for image, label, start in zip(x, y, seen[0], strict=True)
    ]
    assert torch.allclose(found, torch.stack([one.x_adv for one in alone]), rtol=0, atol=1e-10)


def test_the_checkpoints_of_a_hundred_steps_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@threats
@pytest.mark.parametrize("steps", [1, 7])
def test_restarts_keep_the_best_of_each_example(threat, steps):
    net, (x, y) = steep_net(), images()
    torch.manual_seed(3)
    single = APGD(threat=threat, steps=steps)
    runs = torch.stack([single(net, x, y) for _ in range(3)])
    torch.manual_seed(3)
    found = APGD(threat=threat, steps=steps, restarts=3)(net, x, y)
    losses = torch.stack([cross_entropy(net(x_adv), y) for x_adv in runs])
    best = losses.argmax(0)
    assert torch.equal(found, runs[best, torch.arange(IMAGES)])
    assert len(best.unique()) > 1


def test_the_worst_point_is_a_misclassified_one_even_if_another_has_more_loss():
    net, (x, y) = steep_net(), images()

    def loss(logits, labels):
        return logits.gather(1, labels[:, None])[:, 0]  # more of it for what is right

    kept = {
        keep: APGD(threat=Linf(epsilon=0.3), steps=5, start="sphere", keep=keep) for keep in ("loss", "worst")
    }  # fmt: skip
    wrong = {}
    for keep, attack in kept.items():
        torch.manual_seed(5)
        x_adv = attack(net, x, y, loss=loss)
        wrong[keep] = net(x_adv).argmax(1) != y
    assert (wrong["worst"] | ~wrong["loss"]).all()
    assert wrong["worst"].sum() > wrong["loss"].sum()


def test_the_last_gradient_is_not_computed():
    net, batch = tiny_net().eval(), tiny_batch()
    sizes, backwards = counting(net), []
    net.net[0].register_full_backward_hook(lambda *_: backwards.append(1))
    APGD(threat=Linf(epsilon=0.1), steps=6, restarts=2)(net, batch.x, batch.y, noise=noise_of(batch))
    assert (len(sizes()), len(backwards)) == (14, 12)


def test_restarts_that_would_all_be_the_same_are_refused():
    message = "restarts: got 3; allowed 1 with start=zero: all would be the same; try start=sphere"
    with pytest.raises(UserError, match=message):
        APGD(start="zero", restarts=3)
    with pytest.raises(UserError, match="method.attack.*got 2; allowed 1 with start=zero") as caught:
        load_recipe("digits/soup", ["method.attack.kind=apgd", "method.attack.start=zero", "method.attack.restarts=2"])
    assert "\n" not in str(caught.value)
    assert APGD(start="zero").restarts == 1


def test_examples_with_radii_and_steps_of_their_own_get_what_they_get_alone():
    """Also when others have left: with ``keep=worst`` an example that falls is not attacked again."""
    net, batch = tiny_net().eval(), tiny_batch(12)
    radii = torch.linspace(0.002, 0.1, 12)
    attack = APGD(threat=Linf(epsilon=1.0), step_size=1.5, steps=4, restarts=3, keep="worst")
    together = with_radius(attack, radii)(net, batch.x, batch.y, noise=noise_of(batch))
    fooled = net(together).argmax(1) != batch.y
    assert 0 < fooled.sum() < 12
    for i, radius in enumerate(radii):
        alone = with_radius(attack, float(radius))(net, batch.x, batch.y, noise=noise_of(batch))[i]
        assert torch.allclose(together[i], alone, atol=1e-6), i
