"""Token dropping against the same blocks written out, and where it acts."""

import copy

import pytest
import torch
from nets import FAMILIES, classifier, deit, images, vit

from inure.attacks import PGD, input_gradient
from inure.crafting import TokenDropping
from inure.losses import cross_entropy
from inure.settings.errors import UserError


def by_hand(net, x, rate):
    """The forward with tokens dropped, a token and a head at a time."""
    inner = net.net
    tokens = inner._pos_embed(inner.patch_embed((x - net.mean) / net.std))
    prefix, sizes = inner.num_prefix_tokens, []
    for number, block in enumerate(inner.blocks):
        normed, heads = block.norm1(tokens), block.attn.num_heads
        sizes.append(tokens.shape[1])
        if number < len(inner.blocks) - 1:
            width = tokens.shape[2] // heads
            q, k, _ = block.attn.qkv(normed).detach().chunk(3, dim=2)
            received = torch.zeros(tokens.shape[:2], dtype=tokens.dtype)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                for query in range(tokens.shape[1]):
                    scores = (q[:, query, None, part] * k[:, :, part]).sum(2) / width**0.5
                    received += scores.softmax(1)
        tokens = tokens + block.attn(normed)
        tokens = tokens + block.mlp(block.norm2(tokens))
        if number < len(inner.blocks) - 1:
            left = int(tokens.shape[1] * (1 - rate)) - prefix
            chosen = [
                [*range(prefix), *(r[prefix:].argsort(descending=True)[:left] + prefix).tolist()] for r in received
            ]
            tokens = torch.stack([t[rows] for t, rows in zip(tokens, chosen, strict=True)])
    return inner.forward_head(inner.norm(tokens)), sizes


@pytest.mark.parametrize("make", [vit, deit, lambda: vit("avg")], ids=["vit", "deit", "average"])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_it_is_the_forward_written_out(make, rate):
    net, (x, y) = classifier(make(), torch.float64), images(dtype=torch.float64)
    expected, sizes = by_hand(net, x, rate)
    seen = []
    for block in net.net.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    trick = TokenDropping(rate=rate)
    trick.begin(net, 0.9)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)
    assert seen == sizes
    assert sizes[-1] < sizes[0]
    slow = input_gradient(lambda z: by_hand(net, z, rate)[0], x, y, cross_entropy)[0]
    torch.testing.assert_close(input_gradient(net, x, y, cross_entropy)[0], slow, rtol=0, atol=1e-12)
    trick.end()


def test_about_a_quarter_reaches_the_end_of_twelve_blocks():
    net, (x, _) = classifier(vit(depth=12)), images()
    seen = []
    net.net.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    trick = TokenDropping()
    trick.begin(net, 0.0)
    net(x)
    trick.end()
    assert seen == [2]  # of 17: floor eleven times


def test_outside_of_crafting_and_at_rate_zero_the_net_is_what_it_was_bit_for_bit():
    net, (x, y) = classifier(vit()), images()
    torch.manual_seed(0)
    logits, x_adv = net(x), PGD(steps=3)(net, x, y)
    trick = TokenDropping(rate=0.3)
    trick.begin(net, 0.0)
    assert not torch.equal(net(x), logits)
    torch.manual_seed(0)
    assert not torch.equal(PGD(steps=3)(net, x, y, crafting=trick), x_adv)
    trick.end()
    assert torch.equal(net(x), logits)
    none = TokenDropping(rate=0)
    none.begin(net, 0.0)
    torch.manual_seed(0)
    assert torch.equal(PGD(steps=3)(net, x, y, crafting=none), x_adv)
    none.end()


def test_a_compiled_net_drops_the_same_tokens():
    net, (x, y) = classifier(vit(depth=2), torch.float64), images(dtype=torch.float64)
    eager, trick = copy.deepcopy(net), TokenDropping(rate=0.4)
    trick.prepare(net)
    net.compile(backend="eager")
    found = []
    for model in (net, eager, net, eager):
        trick.begin(model, 0.0)
        found.append(input_gradient(model, x, y, cross_entropy)[0])
        trick.end()
        found.append(input_gradient(model, x, y, cross_entropy)[0])
    torch.testing.assert_close(torch.stack(found[:2]), torch.stack(found[2:4]), rtol=0, atol=1e-12)
    assert torch.equal(torch.stack(found[:2]), torch.stack(found[4:6]))
    torch.compiler.reset()


@pytest.mark.parametrize("family", ["convit", "swin"])
def test_nets_whose_tokens_cannot_leave_are_refused(family):
    with pytest.raises(UserError, match="crafting.token_dropping: got on; allowed null for nets other than"):
        TokenDropping().prepare(classifier(FAMILIES[family]()))
