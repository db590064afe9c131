"""AutoAttack, version standard, under Linf, in its naive form: slow, plain, and independent of ``inure.attacks``.

Every attack runs all of its steps on every example it is given; nobody leaves on the way. Gradients come by
``loss.backward()``, which computes those of the parameters too, and FAB has a forward of its own to see whether a
point is misclassified: as in the reference's code. What tests compare verdicts with, and the benchmark speed.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

STEPS, TARGETS, QUERIES = 100, 9, 5000


class Counting(nn.Module):
    """A net that counts examples: ``forwards``, and ``gradients``, those whose input required a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.gradients = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.forwards += len(x)
        self.gradients += len(x) if x.requires_grad else 0
        return self.net(x)


def cascade(
    net: nn.Module, x: Tensor, y: Tensor, epsilon: float, *, batch_size: int = 128, steps: int = STEPS,
    queries: int = QUERIES, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Who stands after the clean forward and after each of the four attacks: (N,) bool by name."""
    torch.manual_seed(seed)
    attacks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "apgd-ce": lambda a, b: _apgd(net, a, b, epsilon, steps, lambda z: _cross_entropy(z, b)),
        "apgd-t": lambda a, b: _apgd_t(net, a, b, epsilon, steps),
        "fab-t": lambda a, b: _fab_t(net, a, b, epsilon, steps),
        "square": lambda a, b: _square(net, a, b, epsilon, queries),
    }  # fmt: skip
    with torch.no_grad():
        standing = torch.cat([net(part).argmax(1) == label for part, label in _batches(x, y, batch_size)])
    found = {"clean": standing}
    for name, attack in attacks.items():
        standing = standing.clone()
        rows = standing.nonzero().flatten()
        for chosen in rows.split(batch_size):
            x_adv = attack(x[chosen], y[chosen])
            assert float((x_adv - x[chosen]).abs().max()) <= epsilon + 1e-6
            with torch.no_grad():
                standing[chosen] = net(x_adv).argmax(1) == y[chosen]
        found[name] = standing
    return found


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y, reduction="none")


def _batches(x: Tensor, y: Tensor, size: int):
    return zip(x.split(size), y.split(size), strict=True)


def _gradient(net: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the summed loss, the losses and the logits; parameters get theirs too."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = net(x)
        values = loss(logits)
        values.sum().backward()
    assert x.grad is not None
    return x.grad, values.detach(), logits.detach()


def _apgd(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """One run of APGD from the sphere: the last misclassified point, else the image."""

    def inside(z: Tensor) -> Tensor:
        return torch.min(torch.max(z, x - epsilon), x + epsilon).clamp(0, 1)

    def column(v: Tensor) -> Tensor:
        return v.view(-1, 1, 1, 1)

    t = 2 * torch.rand_like(x) - 1
    x_adv = inside(x + epsilon * t / column(t.abs().flatten(1).amax(1)))
    grad, values, logits = _gradient(net, x_adv, loss)
    broken = torch.where(column(logits.argmax(1) != y), x_adv, x)
    best, best_grad, best_loss = x_adv, grad, values
    size = torch.full_like(values, 2 * epsilon)
    at_checkpoint, rises, halved = values, torch.zeros_like(values), torch.ones_like(values, dtype=torch.bool)
    length, checkpoint, before = int(0.22 * steps), int(0.22 * steps), x_adv
    for k in range(1, steps + 1):
        z = inside(x_adv + column(size) * grad.sign())
        a = 0.75 if k > 1 else 1.0
        x_adv, before = inside(x_adv + a * (z - x_adv) + (1 - a) * (x_adv - before)), x_adv
        old = values
        grad, values, logits = _gradient(net, x_adv, loss)
        broken = torch.where(column(logits.argmax(1) != y), x_adv, broken)
        rises = rises + (values > old)
        better = values > best_loss
        best, best_grad = torch.where(column(better), x_adv, best), torch.where(column(better), grad, best_grad)
        best_loss = torch.where(better, values, best_loss)
        if k == checkpoint:
            stuck = ~halved & (best_loss <= at_checkpoint)
            halved = (rises < 0.75 * length) | stuck
            size = torch.where(halved, size / 2, size)
            x_adv, grad = torch.where(column(halved), best, x_adv), torch.where(column(halved), best_grad, grad)
            at_checkpoint, rises = best_loss, torch.zeros_like(rises)
            length = max(length - int(0.03 * steps), int(0.06 * steps))
            checkpoint += length
    return broken


def _ranked(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(B, 9) the likeliest wrong classes."""
    with torch.no_grad():
        logits = net(x)
    logits[torch.arange(len(x)), y] = -torch.inf
    return logits.argsort(1, descending=True)[:, : min(TARGETS, logits.shape[1] - 1)]


def _apgd_t(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Tensor:
    """A run towards each class; those broken are left out of the next one."""
    x_adv = x.clone()
    left = torch.arange(len(x))
    for rank in range(TARGETS):
        if not len(left):
            break
        a, b = x[left], y[left]
        target = _ranked(net, a, b)[:, rank]

        def ratio(z: Tensor, b: Tensor = b, target: Tensor = target) -> Tensor:
            ordered, rows = z.sort(1).values, torch.arange(len(z))
            return -(z[rows, b] - z[rows, target]) / (ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2 + 1e-12)

        found = _apgd(net, a, b, epsilon, steps, ratio)
        with torch.no_grad():
            fooled = net(found).argmax(1) != b
        x_adv[left[fooled]] = found[fooled]
        left = left[~fooled]
    return x_adv


def _fab_t(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int) -> Tensor:
    """Towards each class: the nearest misclassified point, if it is within epsilon."""
    x_adv, left = x.clone(), torch.arange(len(x))
    for rank in range(TARGETS):
        if not len(left):
            break
        a, b = x[left], y[left]
        found, distance = _fab(net, a, b, _ranked(net, a, b)[:, rank], steps)
        near = distance <= epsilon
        x_adv[left[near]] = found[near]
        left = left[~near]
    return x_adv


def _fab(net: nn.Module, x: Tensor, y: Tensor, target: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    rows, clean = torch.arange(len(x)), x.flatten(1)
    x_adv, found = x.clone(), x.clone()
    nearest = torch.full((len(x),), torch.inf)
    for _ in range(steps):
        grad, gap, _ = _gradient(net, x_adv, lambda z: z[rows, target] - z[rows, y])
        w, point = grad.flatten(1), x_adv.flatten(1)
        b = gap - (w * point).sum(1)
        both = _onto_plane(torch.cat([point, clean]), torch.cat([w, w]), torch.cat([b, b]))
        d, d_clean = both.chunk(2)
        size, size_clean = d.abs().amax(1).clamp_min(1e-8), d_clean.abs().amax(1).clamp_min(1e-8)
        alpha = (size / (size + size_clean)).clamp(max=0.1)[:, None]
        point = ((1 - alpha) * (point + 1.05 * d) + alpha * (clean + 1.05 * d_clean)).clamp(0, 1)
        x_adv = point.view_as(x)
        with torch.no_grad():
            fooled = net(x_adv).argmax(1) != y
        distance = (point - clean).abs().amax(1)
        better = fooled & (distance < nearest)
        nearest, found[better] = torch.where(better, distance, nearest), x_adv[better]
        x_adv = torch.where(fooled.view(-1, 1, 1, 1), x + 0.9 * (x_adv - x), x_adv)
    return found, nearest


def _onto_plane(points: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """(B, D): the moves of least maximum norm, inside [0, 1], to w . z + b = 0; as far as the box allows.

    All coordinates move by min(r, their room) towards the plane; between two rooms the sum is a line in r.
    """
    value = (w * points).sum(1) + b
    direction = -(w.sign() * value.sign()[:, None])
    room = torch.where(direction > 0, 1 - points, points) * (direction != 0)
    ordered, order = room.sort(1)
    weight = w.abs().gather(1, order)
    full, rest = (weight * ordered).cumsum(1), weight.sum(1, keepdim=True) - weight.cumsum(1)
    reached = full + ordered * rest >= value.abs()[:, None]
    last = reached.to(torch.int8).argmax(1, keepdim=True)
    here = weight.gather(1, last)
    before_full = full.gather(1, last) - here * ordered.gather(1, last)
    r = (value.abs()[:, None] - before_full) / (rest.gather(1, last) + here).clamp_min(1e-12)
    r = torch.where(reached.any(1, keepdim=True), r, ordered[:, -1:])
    return direction * torch.minimum(room, r)


def _square(net: nn.Module, x: Tensor, y: Tensor, epsilon: float, queries: int) -> Tensor:
    """Random search with windows of +-epsilon at one place for the whole batch, as in the reference."""

    def margin(z: Tensor) -> Tensor:
        own = z[torch.arange(len(z)), y]
        return own - z.scatter(1, y[:, None], -torch.inf).amax(1)

    def signs(*shape: int) -> Tensor:
        return 2 * torch.randint(0, 2, shape).to(x) - 1

    count, channels, height, width = x.shape
    x_adv = (x + epsilon * signs(count, channels, 1, width)).clamp(0, 1)
    with torch.no_grad():
        best = margin(net(x_adv))
        for k in range(queries - 1):
            if (best <= 0).all():
                break
            share = 0.8 / 2 ** sum(k > t for t in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
            side = max(round((share * height * width) ** 0.5), 1)
            top, left = int(torch.randint(0, height - side + 1, ())), int(torch.randint(0, width - side + 1, ()))
            rows = (best > 0).nonzero().flatten()
            tried = x_adv[rows].clone()
            window = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
            tried[window] = (x[rows][window] + epsilon * signs(len(rows), channels, 1, 1)).clamp(0, 1)
            logits = net(tried)
            own = logits[torch.arange(len(rows)), y[rows]]
            values = own - logits.scatter(1, y[rows, None], -torch.inf).amax(1)
            better = values < best[rows]
            best[rows[better]], x_adv[rows[better]] = values[better], tried[better]
    return x_adv
