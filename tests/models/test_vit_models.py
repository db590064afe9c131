"""The nets of Mo et al. (2022) and their relatives, in the sizes that the recipes use."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn import functional as F

from inure.averaging import EMA
from inure.models import Classifier, Model, build
from inure.settings.errors import UserError


class Size(NamedTuple):
    side: int
    patch: int | None = None
    window: int | None = None


TOKENS = (Size(32, 4), Size(64, 8), Size(224))
WINDOWS = (Size(32, 2, 4), Size(64, 4, 4), Size(224))
FAMILIES = {
    "vit_{}_patch16_224": TOKENS,
    "deit_{}_patch16_224": TOKENS,
    "convit_{}": TOKENS,
    "swin_{}_patch4_window7_224": WINDOWS,
}


def table() -> Iterator[Any]:
    """Every family, width and size; those that are not slow meet each of them once."""
    for family, sizes in FAMILIES.items():
        for width in ("tiny", "small", "base"):
            for size in sizes:
                quick = (width, size) in (("small", sizes[1]), ("base", sizes[2]))
                yield pytest.param(family.format(width), size, marks=() if quick else pytest.mark.slow)
    yield pytest.param("vit_small_legacy", Size(64, 8))
    yield pytest.param("vit_small_legacy", Size(224, 16), marks=pytest.mark.slow)


REAL = [
    ("vit_tiny_patch16_224", Size(32, 4)),
    ("deit_tiny_patch16_224", Size(64, 8)),
    ("convit_tiny", Size(32, 4)),
    ("swin_tiny_patch4_window7_224", Size(32, 2, 4)),
    ("vit_small_legacy", Size(32, 8)),
]


def made(name: str, size: Size) -> Classifier:
    settings = Model(name=name, img_size=size.side, patch_size=size.patch, window_size=size.window)
    return build(settings, num_classes=10, shape=(3, size.side, size.side))


@pytest.mark.parametrize(("name", "size"), list(table()), ids=str)
def test_every_net_runs_forward_and_backward_on_meta(name, size):
    with torch.device("meta"):
        net = made(name, size)
        logits = net(torch.empty(2, 3, size.side, size.side))
        F.cross_entropy(logits, torch.zeros(2, dtype=torch.long)).backward()
    assert logits.shape == (2, 10)
    grid = (size.side // (size.patch or net.net.patch_embed.patch_size[0]),) * 2
    assert net.net.patch_embed.grid_size == grid
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(("name", "size"), REAL, ids=str)
def test_gradients_are_finite_and_reach_every_parameter(name, size):
    net = made(name, size)
    F.cross_entropy(net(torch.rand(2, 3, size.side, size.side)), torch.tensor([1, 7])).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def test_windows_of_swin_on_small_images():
    net = made("swin_tiny_patch4_window7_224", Size(32, 2, 4)).net
    windows = [stage.blocks[1].window_size for stage in net.layers]
    shifts = [stage.blocks[1].shift_size for stage in net.layers]
    assert windows == [(4, 4), (4, 4), (4, 4), (2, 2)]  # the last grid has 2 x 2 patches
    assert shifts == [(2, 2), (2, 2), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deit_tiny_patch16_224", "model.window_size: got 4; allowed null: deit_tiny_patch16_224 has no window_size"),
        ("resnet10t", "model.window_size: got 4; allowed null: resnet10t has no window_size"),
        ("vit_tiny", "model.window_size: got 4; allowed nothing here: vit_tiny has no window_size"),
    ],
)
def test_windows_are_for_nets_that_have_them(name, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        made(name, Size(32, None, 4))


def test_the_legacy_small_vit_is_made_as_described():
    with torch.device("meta"):
        net = build(Model(name="vit_small_legacy", patch_size=16), num_classes=1000, shape=(3, 224, 224)).net
    block = 4 * 768 + (3 * 768 * 768) + (768 * 768 + 768) + (2 * 768 * 3 * 768 + 4 * 768)
    rest = (3 * 256 + 1) * 768 + 768 + 197 * 768 + 2 * 768 + 769 * 1000
    assert sum(p.numel() for p in net.parameters()) == 8 * block + rest == 48_754_408
    attention = net.blocks[0].attn
    assert (len(net.blocks), attention.num_heads, attention.qkv.bias) == (8, 8, None)
    assert attention.scale == pytest.approx(96**-0.5)
    assert {module.eps for module in net.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-5}


def test_an_average_of_a_convit_follows_it():
    """timm would change the shape of its buffers in the first forward, after the average has been made."""
    net = made("convit_tiny", Size(32, 8))
    before = {name: buffer.shape for name, buffer in net.named_buffers()}
    averager = EMA(decay=0.5).build(net)
    net(torch.rand(1, 3, 32, 32))
    assert {name: buffer.shape for name, buffer in net.named_buffers()} == before
    averager.update(net, 0.5)
    x = torch.rand(1, 3, 32, 32)
    net.eval()
    torch.testing.assert_close(averager.module(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_positions_of_a_convit_are_those_of_its_grid():
    indices = made("convit_tiny", Size(32, 8)).net.blocks[0].attn.rel_indices[0]
    for a in range(16):
        for b in range(16):
            down, right = b // 4 - a // 4, b % 4 - a % 4
            assert indices[a, b].tolist() == [right, down, down**2 + right**2]


def test_a_convit_wants_square_images():
    message = "model.img_size: got convit_tiny with 2x8 patches; allowed a square"
    with torch.device("meta"), pytest.raises(UserError, match=message):
        build(Model(name="convit_tiny", patch_size=8), num_classes=10, shape=(3, 16, 64))
