"""Crafted on one net, judged on another: closed forms of linear nets, and that the attacked net is never asked."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from closed_forms import worst_case
from inure.attacks import APGD, PGD, Transferred
from inure.evaluation.examples import Examples
from inure.evaluation.metered import Metered
from inure.evaluation.protocol import weights_hash
from inure.evaluation.transfer import transfer_members
from inure.evaluation.verdicts import judge
from inure.losses import cross_entropy, margin
from inure.settings import config
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import assert_same_state, counting, linear_net, noise_of, soft, state_of, tiny_batch, tiny_net

EPSILON, CPU = 0.03, torch.device("cpu")
searches = pytest.mark.parametrize("search", [APGD(steps=20), PGD(steps=20)], ids=lambda search: search.kind)


def two_classes(seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A linear net of two classes, and the direction w in which its second logit gains."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 108, generator=generator, dtype=torch.float64)
    direction = weight[1] - weight[0]
    return linear_net(weight, torch.stack([direction.sum() / 2, direction.new_zeros(())])), direction


def inner_images(count: int = 200) -> torch.Tensor:
    """No pixel so near to 0 or 1 that the box would cut a perturbation."""
    return 0.5 + 0.4 * (2 * torch.rand(count, 3, 6, 6, dtype=torch.float64) - 1)


def margins(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = net(x)
    return (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])).squeeze(1)


@searches
def test_with_the_same_linear_net_it_breaks_who_is_within_reach_and_nobody_else(search):
    (net, w), x = two_classes(0), inner_images()
    y = net(x).argmax(1)
    attack = Transferred(threat=Linf(epsilon=EPSILON), search=search).crafted_on(net)
    broken = margins(net, attack(net, x, y), y) < 0
    before, reach = margins(net, x, y), EPSILON * w.abs().sum()
    assert torch.equal(broken, before < reach)
    assert 20 < int(broken.sum()) < 180


@searches
def test_on_another_linear_net_it_loses_what_the_two_directions_share(search):
    (source, w_source), (target, w_target), x = two_classes(1), two_classes(2), inner_images()
    y = target(x).argmax(1)
    attack = Transferred(threat=Linf(epsilon=EPSILON), search=search).crafted_on(source)
    sign = 1 - 2 * y.double()
    change = margins(target, attack(target, x, y), y) - margins(target, x, y)
    # The source's corner: x + epsilon sign(w) towards the other class, whoever the source takes the image for
    expected = -sign * EPSILON * (w_target @ (sign[:, None] * w_source.sign()).T)
    assert torch.allclose(change, expected, atol=1e-9)
    assert (source(x).argmax(1) != y).any()


@pytest.mark.parametrize("threat", [Linf(epsilon=0.03), L2(epsilon=0.25), L1(epsilon=1)], ids=lambda t: t.kind)
def test_who_fools_the_source_already_is_climbed_to_the_end(threat):
    (net, w), x = two_classes(3), torch.rand(40, 3, 6, 6, dtype=torch.float64)
    wrong = 1 - net(x).argmax(1)
    attack = Transferred(threat=threat, search=APGD(threat=threat, steps=100)).crafted_on(net)
    lost = (margins(net, x, wrong) - margins(net, attack(net, x, wrong), wrong)).numpy()
    away, flat = np.where(wrong[:, None] == 0, w, -w), x.flatten(1).numpy()
    most = np.array([worst_case(threat, direction, image) for direction, image in zip(away, flat, strict=True)])
    assert (lost <= most + 1e-9).all()
    assert (lost >= (1 - 1e-9 if threat.kind == "linf" else 0.8) * most).all()


class Unasked(nn.Module):
    def forward(self, x):
        raise AssertionError("the net that is attacked was asked")


def test_the_attacked_net_is_not_asked_and_the_source_as_often_as_the_search_says():
    source, batch = tiny_net(), tiny_batch()
    sizes = counting(source)
    attack = Transferred(threat=Linf(epsilon=EPSILON), search=APGD(steps=7, restarts=2)).crafted_on(source)
    attack(Unasked(), batch.x, batch.y, noise=noise_of(batch))
    assert sizes() == [8] * 16


def test_the_source_is_in_eval_mode_and_left_as_it_was():
    source, batch = tiny_net().train(), tiny_batch()
    source.net[0].weight.grad = torch.randn_like(source.net[0].weight)
    source.net[3].weight.requires_grad_(False)
    attack = Transferred(threat=Linf(epsilon=EPSILON)).crafted_on(source)
    before = state_of(source)
    in_train_mode = attack(Unasked(), batch.x, batch.y, noise=noise_of(batch))
    assert_same_state(before, state_of(source))
    evaluated = attack.crafted_on(tiny_net().eval())
    assert torch.equal(evaluated(Unasked(), batch.x, batch.y, noise=noise_of(batch)), in_train_mode)
    source.net[-1].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(RuntimeError, match="no"):
        attack(Unasked(), batch.x, batch.y)
    assert_same_state(before, state_of(source))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_source_of_another_precision_is_copied(dtype):
    source, batch = tiny_net().to(dtype), tiny_batch()
    before = state_of(source)
    attack = Transferred(threat=Linf(epsilon=EPSILON), search=APGD(steps=5)).crafted_on(source)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = attack(Unasked(), batch.x, batch.y, noise=noise_of(batch))
    assert_same_state(before, state_of(source))
    same = attack.crafted_on(tiny_net().to(dtype).float())
    assert torch.equal(same(Unasked(), batch.x, batch.y, noise=noise_of(batch)), x_adv)


def test_the_settings_are_the_record_and_tell_sources_apart():
    attack = Transferred(threat=L2(epsilon=1), search={"steps": 30}, source="runs/a", source_hash="f00")
    tree = config.dump(attack.crafted_on(tiny_net()))
    search = config.dump(APGD(threat=L2(epsilon=1), steps=30))
    l2 = {"kind": "l2", "epsilon": 1.0}
    assert tree == {"kind": "transferred", "threat": l2, "search": search, "source": "runs/a", "source_hash": "f00"}
    assert json.loads(json.dumps(tree)) == tree
    assert attack == attack.crafted_on(tiny_net()) == config.build(Transferred, tree)
    assert len({attack, attack.crafted_on(tiny_net())}) == 1
    assert attack != attack.model_copy(update={"source_hash": "f01"})


def test_what_does_not_fit_is_one_line():
    batch, attack = tiny_batch(), Transferred()
    for wrong, message in (
        (lambda: Transferred(search=APGD(keep="worst")), "search.keep: got worst; allowed loss"),
        (lambda: Transferred(search={"kind": "pgd", "keep": "worst"}), "search.keep: got worst; allowed loss"),
        (lambda: Transferred(search=APGD(threat=L1())), "search.threat: got .*l1.*; allowed threat="),
        (lambda: attack(tiny_net(), batch.x, batch.y), "source: got None; allowed a second net"),
        (lambda: attack.crafted_on(tiny_net())(tiny_net(), batch.x, batch.y, crafting=object()), "crafting: got"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_soft_labels_and_other_losses_climb_too():
    net, batch = tiny_net().eval(), tiny_batch()
    attack = Transferred(threat=Linf(epsilon=EPSILON), search=APGD(steps=10)).crafted_on(net)
    for y, loss in ((batch.y, margin), (soft(batch.y), cross_entropy)):
        with torch.no_grad():
            gain = loss(net(attack(Unasked(), batch.x, y, loss=loss)), y) - loss(net(batch.x), y)
        assert (gain > 0).float().mean() > 0.9


# As members of a suite


def members(sources, classes=4, attacked=""):
    batch = tiny_batch(24)
    examples = Examples.of(batch.x, batch.y)
    return transfer_members(
        sources, Linf(epsilon=EPSILON), examples, classes=classes, attacked=attacked, device=CPU
    ), examples


def test_each_source_is_a_member_with_a_name_of_its_own():
    paths = ["runs/a", "other/a", "nets.py:wide net", "C/d/", ":"]
    found, _ = members({path: tiny_net(seed=i) for i, path in enumerate(paths, start=1)})
    assert [member.name for member in found] == [
        "transfer-a", "transfer-a-2", "transfer-wide-net", "transfer-d", "transfer-net",
    ]  # fmt: skip
    for seed, (member, path) in enumerate(zip(found, paths, strict=True), start=1):
        assert member.attack == Transferred(
            threat=Linf(epsilon=EPSILON), source=path, source_hash=weights_hash(tiny_net(seed=seed))
        )
        assert member.loss is cross_entropy


def test_verdicts_do_not_depend_on_the_batch_and_only_the_last_forward_is_counted():
    found, examples = members({"runs/a": tiny_net(seed=1).half()})
    model, rows = Metered(tiny_net(seed=2).eval()), torch.arange(24)

    def judged(part):
        x, y = examples.images(part, CPU), examples.labels[part]
        return judge(model, x, y, part, found[0], threat=Linf(epsilon=EPSILON), seed=0)

    whole = judged(rows)
    assert (whole.forwards, whole.backwards) == (24, 0)
    assert float(whole.distance.min()) > 0.9 * EPSILON
    for part in rows.flip(0).split([1, 7, 16]):
        assert torch.equal(judged(part).x_adv, whole.x_adv[part])


def test_sources_that_cannot_serve_are_one_line():
    for net, options, message in (
        (tiny_net(classes=5), {}, "--transfer-from: got runs/a with 5 classes; allowed a net of 4 classes"),
        (tiny_net(classes=3), {}, "--transfer-from: got runs/a: classes 0 to 3; allowed 0 to 2"),
        (tiny_net(shape=(1, 6, 6)), {}, r"--transfer-from: got runs/a: \(8, 3, 6, 6\); allowed \(B, 1, 6, 6\)"),
        (tiny_net(), {"attacked": weights_hash(tiny_net())}, "--transfer-from: got runs/a; allowed another net"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            members({"runs/a": net}, **options)
        assert "\n" not in str(caught.value)
