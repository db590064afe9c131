"""Searches in bfloat16: verdicts and Square's decisions stay in float32, and the result says how it was found."""

import copy

import pytest
import torch
from digit_nets import tensors

from inure.attacks import Square
from inure.evaluation import SUITES, Member, evaluate
from inure.evaluation.metered import Metered
from inure.losses import cross_entropy
from inure.noise import CounterNoise
from inure.settings.errors import UserError
from inure.threat import Linf


def seen_dtypes(net: torch.nn.Module) -> list[torch.dtype]:
    """The precision of the logits of every forward from now on."""
    seen: list[torch.dtype] = []
    net.register_forward_hook(lambda _, arguments, logits: seen.append(logits.dtype))
    return seen


class Linear(torch.nn.Module):
    """A net whose forward is one matrix product, so that autocast decides its precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(10, 64))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_attacks_search_in_bfloat16_and_verdicts_are_in_float32(digits, monkeypatch):
    net = Linear()
    x, _ = tensors(digits.head(16))
    y = net(x).argmax(1)
    members = SUITES["pgd20"](Linf(epsilon=0.001))
    monkeypatch.setitem(SUITES, "short", lambda threat: members)
    seen = seen_dtypes(net)
    found = evaluate(net, x, y, suite="short", threat="linf:0.001", search_precision="bfloat16")
    names = [attack["name"] for attack in found.summary["attacks"]]
    assert names == ["pgd20", "apgd-t-float32"]
    low = [number for number, dtype in enumerate(seen) if dtype == torch.bfloat16]
    first, *low = low  # measures how far bfloat16 is off
    assert first < low[0] - 1
    assert len(low) == 21
    assert low == list(range(low[0], low[0] + 21))
    assert set(seen[low[-1] + 1 :]) == {torch.float32}
    assert found.summary["protocol"]["search_precision"] == "bfloat16"
    assert found.summary["protocol"]["precision"] == "float32"


def test_the_added_attack_goes_before_square_and_whole_precision_adds_none(cnn, digits, monkeypatch):
    members = [*SUITES["fgsm"](Linf()), Member("square", Square(threat=Linf(epsilon=0.06), queries=5), cross_entropy)]
    monkeypatch.setitem(SUITES, "short", lambda threat: members)
    found = evaluate(cnn, digits.head(8), suite="short", threat="linf:0.06", search_precision="bfloat16")
    assert [attack["name"] for attack in found.summary["attacks"]] == ["fgsm", "apgd-t-float32", "square"]
    plain = evaluate(cnn, digits.head(8), suite="short", threat="linf:0.06")
    assert [attack["name"] for attack in plain.summary["attacks"]] == ["fgsm", "square"]
    assert "search_precision" not in plain.summary["protocol"]


def test_verdicts_are_those_of_float32_within_two_examples(cnn, digits):
    x, y = tensors(digits.head(100))
    whole, low = (
        evaluate(cnn, x, y, suite="quick", threat="linf:0.06", search_precision=precision).robust
        for precision in ("float32", "bfloat16")
    )
    assert 20 < whole.sum() < 90
    # APGD towards 3 classes is stronger than the suite: it may break a few more
    assert low.sum() <= whole.sum() + 2


def test_square_takes_in_bfloat16_the_steps_that_it_takes_in_float32(cnn, digits):
    net = copy.deepcopy(cnn.net)
    x, y = tensors(digits.head(40))
    attack = Square(threat=Linf(epsilon=0.06), queries=60)
    whole, low, seen = Metered(net), Metered(net), seen_dtypes(net)
    results = []
    low.calibrate(x, torch.bfloat16)
    assert 0 < low.slack < 1 / 8
    assert low.forwards == 0
    for model, dtype in ((whole, None), (low, torch.bfloat16)):
        with model.searching_in(dtype):
            results.append(attack(model, x, y, noise=CounterNoise(0, torch.arange(40))))
    assert torch.equal(results[0], results[1])
    assert set(seen) == {torch.bfloat16, torch.float32}
    # A forward in bfloat16 for every query, and one in float32 where it is near
    assert whole.forwards < low.forwards < 1.9 * whole.forwards


@pytest.mark.parametrize("given", ["float16", "bf16"])
def test_other_precisions_are_refused(cnn, digits, given):
    with pytest.raises(UserError, match=f"--search-precision: got {given}; allowed float32 | bfloat16"):
        evaluate(cnn, digits.head(4), threat="linf:0.06", search_precision=given)
