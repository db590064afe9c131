"""On a device without float64 a run counts in float32, and nothing makes a float64 tensor there.

The device of torch that has no memory plays the part: every operation is asked what it returns.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contracts import CRITERIA, METHODS, PENALTIES
from inure import memory
from inure.balance import Balance, ClassEpsilon, Counter
from inure.machine import precision
from inure.machine.precision import finest
from inure.measures.gradient_noise import noise_of
from inure.methods import PGDAT
from inure.penalties import TAIL
from inure.recipe.recipe import Recipe
from inure.types import Batch


class NoDouble(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                assert leaf.dtype != torch.float64, func
        return out


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(precision, "_WITHOUT_FLOAT64", {"mps", "meta"})
    with NoDouble():
        yield torch.device("meta")


def facts_on(device):
    return memory.facts_of(torch.arange(30) % 4, 4, (3, 6, 6), 8, device)


def test_most_devices_have_float64_and_mps_has_not():
    assert [finest(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [torch.float64] * 2 + [torch.float32]
    assert facts_on("cpu").class_counts.dtype == torch.float64
    assert facts_on(torch.device("cpu")).class_counts.tolist() == [8, 8, 7, 7]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("criterion", CRITERIA, ids=str)
def test_criteria_radii_and_the_counter_do_without(device, criterion, soft):
    recipe = Recipe(method=PGDAT(), balance=Balance(train=criterion, epsilon=ClassEpsilon(), counts=True))
    begun = memory.begin(recipe, facts_on(device))
    y = torch.rand(8, 4, device=device) if soft else torch.zeros(8, dtype=torch.long, device=device)
    rows = torch.zeros(8, dtype=torch.long, device=device)
    batch = Batch(torch.rand(8, 3, 6, 6, device=device), y, rows, 0.9, begun)
    logits = torch.rand(8, 4, device=device)
    assert recipe.balance.train_at(batch)(logits, y).dtype == torch.float32
    assert recipe.balance.radii(batch).dtype == torch.float32
    Counter().observe(batch, logits)


def test_what_is_remembered_has_none(device):
    pieces = [line.method for line in METHODS] + [line.penalty for line in PENALTIES]
    for piece in pieces:
        if hasattr(piece, "remember"):
            assert all(t.device == device for t in piece.remember(facts_on(device)).values())


def test_the_rare_classes_and_the_noise_of_gradients_do_without(device):
    facts, y = facts_on(device), torch.zeros(8, dtype=torch.long, device=device)
    assert TAIL(rule="counts").rare(facts.class_counts).shape == (4,)
    assert TAIL()._anchored(torch.rand(8, 5, device=device), y, facts.class_counts).dtype == torch.float32
    noise = noise_of(([torch.rand(5, device=device)] for _ in range(3)), 4)
    assert noise.scale.dtype == torch.float32
