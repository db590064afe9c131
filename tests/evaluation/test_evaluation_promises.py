"""What an evaluation promises beyond its numbers: settings of suites, invariance of the cascade, the caller's state."""

import sys

import pytest
import torch
from digit_nets import by_example, fingerprint, tensors
from test_naive_cascade import short_autoattack
from torch import nn

from inure.evaluation import SUITES, evaluate
from inure.evaluation.examples import Examples
from inure.evaluation.metered import Metered
from inure.evaluation.probes import probe
from inure.losses import cross_entropy, dlr
from inure.settings.config import dump
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf

CPU = torch.device("cpu")


def described(suite: str, threat) -> list[dict]:
    return [{"name": m.name, **dump(m.attack)} for m in SUITES[suite](threat)]


@pytest.mark.parametrize("threat", [Linf(epsilon=8 / 255), L2(epsilon=0.5)], ids=lambda t: t.kind)
def test_the_standard_version_has_the_parameters_of_the_reference(threat):
    ce, targeted, fab, square = described("autoattack", threat)
    assert (ce["name"], ce["steps"], ce["restarts"], ce["rho"], ce["eot_samples"]) == ("apgd-ce", 100, 1, 0.75, 1)
    assert (targeted["targets"], targeted["search"]["steps"], targeted["search"]["restarts"]) == (9, 100, 1)
    assert (fab["targets"], fab["steps"], fab["restarts"]) == (9, 100, 1)
    assert (fab["alpha_max"], fab["eta"], fab["beta"]) == (0.1, 1.05, 0.9)
    assert (square["queries"], square["p_init"], square["restarts"], square["rescale_schedule"]) == (
        5000,
        0.8,
        1,
        False,
    )


def test_the_standard_version_under_l1_has_more_starts_fewer_classes_and_large_radii():
    ce, targeted, fab, square = described("autoattack", L1(epsilon=12))
    assert (ce["restarts"], ce["large_radii"]) == (5, True)
    assert (targeted["targets"], targeted["search"]["large_radii"], targeted["search"]["restarts"]) == (5, True, 1)
    assert (fab["targets"], square["queries"]) == (9, 5000)


def test_plus_and_rand_have_the_parameters_of_the_reference():
    plus = described("autoattack_plus", Linf())
    assert [part["name"] for part in plus] == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [part["restarts"] for part in plus[:4]] == [5, 5, 5, 1]
    assert (plus[2]["targets"], plus[4]["targets"], plus[5]["targets"]) == (None, 9, 9)
    members = SUITES["autoattack_rand"](Linf())
    assert [m.loss for m in members] == [cross_entropy, dlr]
    assert [(m.attack.steps, m.attack.restarts, m.attack.eot_samples) for m in members] == [(100, 1, 20)] * 2


@pytest.mark.parametrize("threat", [Linf(epsilon=0.06), L2(epsilon=0.4), L1(epsilon=1)], ids=lambda t: t.kind)
def test_the_cascade_gives_the_same_bits_for_every_batch_size(cnn, digits, threat):
    x, y = tensors(digits.head(34))
    members = short_autoattack(threat, 6, 12)
    alone = fingerprint(cnn, x, y, members, batch_size=64)
    assert {name for name, _ in alone} == {"clean", "apgd-ce", "apgd-t", "fab-t", "square"}
    assert fingerprint(cnn, x, y, members, batch_size=7) == alone


def test_counts_do_not_depend_on_the_batch_size(cnn, digits, monkeypatch):
    monkeypatch.setitem(SUITES, "short", lambda threat: short_autoattack(threat, 6, 12))
    one, many = (
        evaluate(cnn, digits.head(12), suite="short", threat="l1:1", batch_size=size).summary["attacks"]
        for size in (1, 64)
    )
    for name in ("apgd-ce", "apgd-t"):
        alone, together = ([a for a in found if a["name"] == name][0] for found in (one, many))
        assert (alone["forwards"], alone["backwards"]) == (together["forwards"], together["backwards"])


def test_channels_last_changes_no_verdict_and_is_in_the_protocol(cnn, digits, monkeypatch):
    monkeypatch.setitem(SUITES, "short", lambda threat: short_autoattack(threat, 6, 12))
    usual, last = (
        evaluate(cnn, digits.head(40), suite="short", threat="linf:0.06", channels_last=flag) for flag in (False, True)
    )
    assert (usual.robust != last.robust).sum() <= 1
    assert last.summary["protocol"]["memory_format"] == "channels_last"
    assert "memory_format" not in usual.summary["protocol"]
    assert all(p.is_contiguous() for p in cnn.parameters())


def test_an_active_tracer_survives_and_no_net_is_blamed_for_the_one_before(cnn, digits):
    def tracer(frame, event, argument):
        return None

    class Dynamic(nn.Module):
        def forward(self, x):
            with torch.enable_grad():
                moved = x.detach().requires_grad_()
                (grad,) = torch.autograd.grad(cnn(moved).sum(), moved)
            return cnn(x + 0 * grad)

    examples = Examples.of(digits.head(16), None)
    before = sys.gettrace()
    try:
        sys.settrace(tracer)
        first = [flag["name"] for flag in probe(Metered(Dynamic()), examples, CPU)]
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert "dynamic_forward" in first
    assert probe(Metered(cnn), examples, CPU) == []


def test_probed_examples_are_those_of_their_index_in_any_order(digits):
    images = digits.head(200)
    order = torch.randperm(200)
    one, other = Examples.of(images, None), Examples.of(images.subset(order), None)
    rows, mixed = one.sample(30), other.sample(30)
    assert torch.equal(one.index[rows], other.index[mixed])
    assert len(set(one.labels[rows].tolist())) >= 8


class Scaled(nn.Module):
    """A net whose gradient, not its output, is multiplied."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        x = x.clone()
        if x.requires_grad:
            x.register_hook(lambda grad: grad * self.factor)
        return self.net(x)


@pytest.mark.parametrize("threat", [L2(epsilon=0.8), Linf(epsilon=0.06), L1(epsilon=4)], ids=lambda t: t.kind)
def test_tiny_gradients_are_followed_all_the_same_and_flagged(cnn, digits, threat):
    usual, tiny = (evaluate(net, digits.head(40), suite="pgd20", threat=threat) for net in (cnn, Scaled(cnn, 1e-20)))
    assert (usual.robust != tiny.robust).sum() <= 2
    assert [f["name"] for f in tiny.summary["flags"]] == ["zero_gradient"]
    assert usual.summary["verified"]
    assert not tiny.summary["verified"]


class Louder(nn.Module):
    """Logits times a factor."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.factor * self.net(x)


def test_saturation_is_flagged_where_only_cross_entropy_is_climbed(cnn, digits):
    loud = Louder(cnn, 10)
    names = {
        suite: [f["name"] for f in evaluate(loud, digits.head(40), suite=suite, threat="linf:0.06").summary["flags"]]
        for suite in ("pgd20", "quick")
    }
    assert names == {"pgd20": ["saturated_logits"], "quick": []}


class Noisy(nn.Module):
    """A net that draws at random."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x + 0.3 * torch.randn_like(x))


def test_the_mean_of_many_forwards_decides_for_nets_that_draw_and_is_repeatable(cnn, digits, monkeypatch):
    from inure.attacks import APGD
    from inure.evaluation import Member

    attack = APGD(threat=Linf(epsilon=0.03), steps=3, eot_samples=8, keep="worst")
    monkeypatch.setitem(SUITES, "rand", lambda threat: [Member("apgd-ce", attack, cross_entropy)])
    first = evaluate(Noisy(cnn), digits.head(60), suite="rand", threat="linf:0.03")
    torch.manual_seed(5)
    second = evaluate(Noisy(cnn), digits.head(60), suite="rand", threat="linf:0.03")
    assert by_example(first.outcomes) == by_example(second.outcomes)
    single = evaluate(Noisy(cnn), digits.head(60), suite="clean", threat="linf:0.03")
    assert first.summary["clean_accuracy"] >= single.summary["clean_accuracy"] - 0.05


def test_a_suite_without_any_attack_for_so_few_classes_is_refused(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x, _ = tensors(digits.head(8))
    with pytest.raises(UserError, match="--suite: got apgd_t on a net of 3 classes"):
        evaluate(net, x, net(x).argmax(1), suite="apgd_t", threat="linf:0.1")


@pytest.mark.parametrize("classes", [2, 3])
def test_a_search_in_bfloat16_takes_nets_of_few_classes(digits, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    x, _ = tensors(digits.head(8))
    found = evaluate(net, x, net(x).argmax(1), suite="fgsm", threat="linf:0.1", search_precision="bfloat16")
    assert [attack["name"] for attack in found.summary["attacks"]] == ["fgsm", "apgd-margin-float32"]
    assert "low_precision_search" in [flag["name"] for flag in found.summary["flags"]]


def test_another_source_of_the_net_is_another_protocol(cnn, digits, tmp_path):
    options = {"suite": "clean", "threat": "linf:0.1", "out": tmp_path}
    evaluate(cnn, digits.head(8), source_hash="a", **options)
    with pytest.raises(UserError, match="source_hash"):
        evaluate(cnn, digits.head(8), source_hash="b", resume=True, **options)
