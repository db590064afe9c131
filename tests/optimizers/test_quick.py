"""Optimizers without torch's guards against being compiled are torch's own, bit for bit."""

import pytest
import torch

from inure.optimizers.quick import SGD, AdamW
from libraries_checks import loaded_by

CASES = [
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.0}),
    (AdamW, torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1}),
]
cases = pytest.mark.parametrize(("ours", "theirs", "options"), CASES)


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), ())]


def descend(made, optimizer, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        assert all(p.grad is None for p in made)
        for p in made:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


@cases
def test_steps_are_torch_s_to_the_bit(ours, theirs, options):
    found = []
    for optimizer in (ours, theirs):
        made = parameters()
        update = optimizer([{"params": made[:1], "weight_decay": 0.3}, {"params": made[1:]}], **options)
        descend(made, update, 5)
        found.append(made)
    assert isinstance(ours(parameters(), **options), theirs)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@cases
def test_a_state_goes_from_one_to_the_other(ours, theirs, options):
    for first, second in ((ours, theirs), (theirs, ours)):
        made, whole = parameters(), parameters()
        begun, never_left = first(made, **options), first(whole, **options)
        descend(made, begun, 2)
        descend(whole, never_left, 2)
        state = begun.state_dict()
        assert state.keys() == {"state", "param_groups"}
        continued = second(made, **options)
        continued.load_state_dict(state)
        descend(made, continued, 2, seed=2)
        descend(whole, never_left, 2, seed=2)
        assert all(torch.equal(a, b) for a, b in zip(made, whole, strict=True))


@cases
def test_a_closure_is_called_once_with_gradients(ours, theirs, options):
    made = parameters()
    update, calls = ours(made, **options), []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = sum((p * p).sum() for p in made)
        loss.backward()
        return loss

    assert float(update.step(closure).detach()) > 0
    assert calls == [True]


def test_making_and_using_one_does_not_load_the_compiler():
    script = (
        "import torch\n"
        "from inure.optimizers import DEAT\n"
        "from inure.optimizers.quick import SGD, AdamW\n"
        "for cls in (SGD, AdamW, DEAT):\n"
        "    p = torch.nn.Parameter(torch.ones(2))\n"
        "    optimizer = cls([p], lr=0.1)\n"
        "    p.grad = torch.ones(2)\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
    )
    assert loaded_by(script, "torch._dynamo") == []
