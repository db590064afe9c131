"""Attention random dropping against the detach form, backward hooks, and what must follow from it."""

import copy

import pytest
import torch
from nets import FAMILIES, classifier, convit, images, vit
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from inure.attacks import APGD, FGSM, PGD, Pyramid, input_gradient
from inure.crafting import AttentionDropping, PerturbationMasking, Tricks
from inure.crafting.gates import find_carriers, gates_of
from inure.losses import cross_entropy
from inure.settings.errors import UserError
from inure.threat import L2, Linf

LINF = Linf(epsilon=0.1)
families = pytest.mark.parametrize("family", FAMILIES)


def net_of(family, dtype=torch.float64):
    torch.manual_seed(0)
    return classifier(FAMILIES[family](), dtype)


def gradient(net, x, y):
    return input_gradient(net, x, y, cross_entropy)[0]


def branches(net):
    """The attention of each block."""
    return [module.attn for module in net.modules() if hasattr(module, "attn") and hasattr(module, "mlp")]


def draws(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, generator=generator) < 0.5 for _ in range(4)]


@families
def test_a_gate_equals_a_backward_hook_that_scales_what_a_branch_hands_back(family):
    net, (x, y) = net_of(family), images(dtype=torch.float64)
    slow, gates = copy.deepcopy(net), gates_of(net)
    assert len(gates) == len(branches(slow))
    for kept in draws(len(gates)):
        for gate, keep in zip(gates, kept.tolist(), strict=True):
            gate.kept = keep
        handles = [
            branch.register_full_backward_hook(lambda m, grads, _, keep=keep: tuple(g * keep for g in grads))
            for branch, keep in zip(branches(slow), kept.double(), strict=True)
        ]
        expected = gradient(slow, x, y)
        for handle in handles:
            handle.remove()
        assert not torch.equal(expected, gradient(slow, x, y))
        torch.testing.assert_close(gradient(net, x, y), expected, rtol=0, atol=1e-12)


def test_a_gate_equals_a_detached_branch_written_out():
    net, (x, y) = net_of("vit"), images(dtype=torch.float64)
    gates, inner = gates_of(net), net.net

    def by_hand(z, kept):
        tokens = inner._pos_embed(inner.patch_embed((z - net.mean) / net.std))
        for block, keep in zip(inner.blocks, kept, strict=True):
            branch = block.attn(block.norm1(tokens))
            tokens = tokens + (branch if keep else branch.detach())
            tokens = tokens + block.mlp(block.norm2(tokens))
        return inner.head(inner.norm(tokens)[:, 0])

    for kept in draws(3):
        for gate in gates:
            gate.kept = True
        expected = gradient(lambda z, kept=kept: by_hand(z, kept), x, y)
        for gate, keep in zip(gates, kept.tolist(), strict=True):
            gate.kept = keep
        torch.testing.assert_close(gradient(net, x, y), expected, rtol=0, atol=1e-12)


@families
def test_the_forward_stays_as_it_is_bit_for_bit(family):
    net, (x, _) = net_of(family, torch.float32), images()
    before = net(x)
    dropping = AttentionDropping(warmup=1)
    dropping.begin(net, 0.2)
    dropping.step(0, x, x)
    assert torch.equal(net(x.requires_grad_()), before)
    dropping.end()
    assert torch.equal(net(x), before)


@families
@pytest.mark.parametrize("compiled", [False, True])
def test_a_draw_for_each_image_is_the_draw_of_its_own_batch(family, compiled):
    net, (x, y) = net_of(family), images(dtype=torch.float64)
    gates = gates_of(net)
    kept = torch.stack(draws(len(gates))).T  # (gates, 4 images)
    expected = []
    for image in range(4):
        for gate, keep in zip(gates, kept[:, image], strict=True):
            gate.kept = keep if compiled else bool(keep)
        expected.append(gradient(net, x[image : image + 1], y[image : image + 1]))
    for gate, row in zip(gates, kept, strict=True):
        gate.kept = row
    torch.testing.assert_close(gradient(net, x, y), torch.cat(expected), rtol=0, atol=1e-12)


def test_with_all_dropped_a_class_token_gets_no_gradient_and_averaged_tokens_get_some():
    x, y = images()
    for net, silent in ((vit(), True), (vit("avg"), False), (FAMILIES["swin"](), False), (FAMILIES["deit"](), True)):
        net = classifier(net)
        for gate in gates_of(net):
            gate.kept = False
        assert bool((gradient(net, x, y) == 0).all()) is silent


def test_pixels_reach_a_class_token_through_the_blocks_that_hold_it():
    for net, carries in (
        (vit(), [True] * 3),
        (vit("avg"), [False] * 3),
        (convit(), [False, False, True, True]),
        (FAMILIES["swin"](), [False] * 4),
    ):
        net = classifier(net)
        gates = gates_of(net)
        find_carriers(net, gates, images()[0])
        assert [gate.carries for gate in gates] == carries
        assert all(gate.kept is True for gate in gates)


@pytest.mark.parametrize("asleep", ["head", "blocks.0.attn.proj", "blocks.2.attn.proj"])
def test_a_layer_that_starts_at_zero_may_carry_later(asleep):
    net = classifier(vit())
    layer = net.net.get_submodule(asleep)
    nn.init.zeros_(layer.weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gates = gates_of(net)
    find_carriers(net, gates, images()[0])
    assert [gate.carries for gate in gates] == [True] * 3
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


ATTACKS = [
    PGD(threat=LINF, steps=4), PGD(threat=L2(epsilon=0.5), steps=4), PGD(threat=LINF, steps=4, keep="worst"),
    FGSM(threat=LINF, start="uniform"), APGD(threat=LINF, steps=4), Pyramid(threat=LINF, cells=[4, 1], scalars=[2, 1]),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.kind}-{a.threat.kind}")
@pytest.mark.parametrize("trick", [AttentionDropping(warmup=0.25), PerturbationMasking(warmup=0.25, patch=2)])
def test_after_the_warmup_it_is_the_plain_attack_bit_for_bit(attack, trick):
    net, (x, y) = classifier(vit()), images()
    torch.manual_seed(1)
    plain = attack(net, x, y)
    for progress in (0.25, 0.9):
        trick.begin(net, progress)
        torch.manual_seed(1)
        assert torch.equal(attack(net, x, y, crafting=trick), plain)
        trick.end()
    trick.begin(net, 0.1)
    torch.manual_seed(1)
    assert not torch.equal(attack(net, x, y, crafting=trick), plain)
    trick.end()
    torch.manual_seed(1)
    assert torch.equal(attack(net, x, y), plain)


@pytest.mark.parametrize("attack", ATTACKS[:3] + ATTACKS[5:], ids=lambda a: f"{a.kind}-{a.threat.kind}")
def test_blind_steps_are_not_computed_and_change_nothing(attack):
    class Open(AttentionDropping):
        """Without the knowledge that saves passes."""

        @property
        def blind(self):
            return False

    net, (x, y) = classifier(vit(depth=2)), images()
    found, forwards = {}, {}
    for trick in (AttentionDropping(warmup=1), Open(warmup=1)):
        sizes = []
        for progress in (0.0, 0.1, 0.2, 0.3):
            trick.begin(net, progress)
            trick.step(0, x, x)  # the search for carriers is over
            handle = net.register_forward_pre_hook(lambda _, inputs, sizes=sizes: sizes.append(len(inputs[0])))
            torch.manual_seed(3)
            found[type(trick), progress] = attack(net, x, y, crafting=trick)
            handle.remove()
            trick.end()
        forwards[type(trick)] = len(sizes)
    for progress in (0.0, 0.1, 0.2, 0.3):
        torch.testing.assert_close(
            found[AttentionDropping, progress], found[Open, progress], rtol=0, atol=0 if attack.threat is LINF else 1e-6
        )
    saved = forwards[Open] - forwards[AttentionDropping]
    assert saved == 0 if getattr(attack, "keep", "") == "worst" else saved >= 4


def test_the_share_kept_grows_linearly_with_progress():
    net, (x, _) = classifier(vit()), images()
    gates = gates_of(net)
    dropping = AttentionDropping(warmup=0.4)
    torch.manual_seed(0)
    for progress in (0.0, 0.1, 0.2, 0.3):
        dropping.begin(net, progress)
        kept = []
        for k in range(400):
            dropping.step(k, x, x)
            kept += [bool(gate.kept) for gate in gates]
        dropping.end()
        assert abs(sum(kept) / 1200 - progress / 0.4) < 0.05  # three standard errors


def test_blocks_and_images_are_drawn_independently():
    net, (x, _) = classifier(vit()), images(64)
    dropping = AttentionDropping(warmup=1, per_example=True)
    torch.manual_seed(0)
    dropping.begin(net, 0.5)
    dropping.step(0, x, x)
    kept = torch.stack([gate.kept for gate in gates_of(net)]).double()
    assert kept.shape == (3, 64)
    assert torch.corrcoef(kept).fill_diagonal_(0).abs().max() < 0.4
    assert len({tuple(column.tolist()) for column in kept.T}) == 8
    dropping.end()


def test_a_compiled_net_has_one_graph_for_all_draws_and_the_eager_gradient():
    net, (x, y) = classifier(vit(depth=2), torch.float64), images(dtype=torch.float64)
    eager = copy.deepcopy(net)
    dropping = AttentionDropping(warmup=1)
    dropping.prepare(net)
    counter = CompileCounterWithBackend("aot_eager")
    net.compile(backend=counter)
    frames = []
    for number in range(6):
        found = []
        for model in (net, eager):
            dropping.begin(model, 0.5)
            torch.manual_seed(number)
            dropping.step(0, x, x)
            found.append(gradient(model, x, y))
            dropping.end()
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1] > 0
    torch.testing.assert_close(gradient(net, x, y), gradient(eager, x, y), rtol=0, atol=1e-12)
    torch.compiler.reset()


def test_a_net_that_was_compiled_before_still_gets_its_gates():
    net, (x, y) = classifier(vit(depth=2), torch.float64), images(dtype=torch.float64)
    net.compile(backend="eager")
    assert gradient(net, x, y).abs().max() > 0
    dropping = AttentionDropping(warmup=1)
    dropping.begin(net, 0.0)
    dropping.step(0, x, x)
    assert (gradient(net, x, y) == 0).all()
    dropping.end()
    torch.compiler.reset()


def test_a_copy_of_a_net_has_gates_of_its_own():
    net = classifier(vit())
    gates = gates_of(net)
    others = gates_of(copy.deepcopy(net))
    assert gates_of(net) == gates
    assert not {*gates} & {*others}
    for gate in gates:
        gate.kept = False
    x, y = images()
    twin = classifier(vit())
    assert gradient(net, x, y).abs().max() == 0 < gradient(twin, x, y).abs().max()


class Encoder(nn.Module):
    """torch's own transformer, with images or tokens first."""

    def __init__(self, batch_first):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first, norm_first=True)
        self.batch_first, self.embed, self.head = batch_first, nn.Linear(12, 16), nn.Linear(16, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        tokens = self.embed(x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 16, 12))
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        if self.batch_first:
            return self.head(self.encoder(tokens)[:, 0])
        return self.head(self.encoder(tokens.transpose(0, 1))[0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_attention_is_gated_too_for_all_images_or_each(batch_first):
    net, (x, y) = Encoder(batch_first).double().eval(), images(dtype=torch.float64)
    gates = gates_of(net)
    assert len(gates) == 2
    kept = torch.tensor([[True, False, True, False], [True, True, False, False]])
    expected = []
    for image in range(4):
        for gate, keep in zip(gates, kept[:, image].tolist(), strict=True):
            gate.kept = keep
        expected.append(gradient(net, x[image : image + 1], y[image : image + 1]))
    assert [bool(grad.any()) for grad in expected] == [True, True, True, False]
    for gate, row in zip(gates, kept, strict=True):
        gate.kept = row
    torch.testing.assert_close(gradient(net, x, y), torch.cat(expected), rtol=0, atol=1e-12)


def test_a_pool_that_attends_is_no_branch():
    net = classifier(vit("map"))
    x, y = images()
    for gate in gates_of(net):
        gate.kept = False
    assert gradient(net, x, y).abs().max() > 0


def test_a_net_without_attention_is_refused_in_one_line():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(UserError, match="crafting.attention_dropping: got on; allowed null for a net without"):
        Tricks(attention_dropping=AttentionDropping()).prepare(net)
