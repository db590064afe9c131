import math

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inure.models.resize import fit_sizes, resize_kernel, resize_positions, same_shapes
from inure.models.small_vit import small_vit
from inure.settings.errors import UserError

ACCURACY = {torch.float64: 1e-12, torch.float32: 1e-5}


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Nearest-neighbour upsampling, written by hand."""
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def vit(patch_size: int, side: int, **settings) -> nn.Module:
    settings = {"dim": 16, "depth": 2, "heads": 2, "num_classes": 5, **settings}
    return small_vit(patch_size=patch_size, img_size=(side, side), **settings).double().eval()


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize(("old", "new"), [(16, 4), (16, 8), (16, 2), (16, 1), (8, 4), (4, 2), (14, 7)])
def test_a_smaller_kernel_is_nearest_upsampling_and_the_old_one(old, new, dtype):
    kernel, x = torch.randn(6, 3, old, old, dtype=dtype), torch.rand(2, 3, 8 * new, 4 * new, dtype=dtype)
    small = resize_kernel(kernel, (new, new))
    assert small.shape == (6, 3, new, new)
    expected = F.conv2d(enlarged(x, old // new), kernel, stride=old)
    torch.testing.assert_close(F.conv2d(x, small, stride=new), expected, rtol=0, atol=ACCURACY[dtype] * old)


@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
def test_a_larger_kernel_is_the_mean_of_blocks_and_the_old_one(dtype):
    kernel, x = torch.randn(6, 3, 4, 4, dtype=dtype), torch.rand(2, 3, 48, 24, dtype=dtype)
    expected = F.conv2d(F.avg_pool2d(x, 3), kernel, stride=4)
    small = F.conv2d(x, resize_kernel(kernel, (12, 12)), stride=12)
    torch.testing.assert_close(small, expected, rtol=0, atol=10 * ACCURACY[dtype])


def test_blocks_are_summed_and_not_averaged():
    assert torch.equal(resize_kernel(torch.ones(2, 3, 16, 16), (4, 8)), torch.full((2, 3, 4, 8), 8.0))


def test_sums_of_half_precision_are_taken_in_float32():
    kernel = torch.randn(2, 3, 16, 16).bfloat16()
    assert torch.equal(resize_kernel(kernel, (2, 2)), resize_kernel(kernel.float(), (2, 2)).bfloat16())


def test_patches_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(UserError) as caught:
        resize_kernel(torch.ones(2, 3, 16, 16), (5, 5))
    allowed = "1 | 2 | 4 | 8 | 16, or a multiple of 16: the weights have patches of 16 pixels"
    assert str(caught.value) == f"model.patch_size: got 5; allowed {allowed}"


def by_hand(grid: Tensor, new: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of (H, W, D), cell centres at half-integers, edges continued."""
    result = torch.empty(*new, grid.shape[2], dtype=grid.dtype)

    def neighbours(index: int, old: int, size: int) -> list[tuple[int, float]]:
        place = max((index + 0.5) * old / size - 0.5, 0.0)
        low = min(int(place), old - 1)
        share = place - low
        return [(low, 1 - share), (min(low + 1, old - 1), share)]

    for i in range(new[0]):
        for j in range(new[1]):
            rows, columns = neighbours(i, grid.shape[0], new[0]), neighbours(j, grid.shape[1], new[1])
            result[i, j] = sum(a * b * grid[r, c] for r, a in rows for c, b in columns)
    return result


@pytest.mark.parametrize("new", [(8, 8), (20, 20), (4, 7), (14, 14), (1, 1)])
@pytest.mark.parametrize("tokens", [0, 1, 2, 5])
def test_positions_are_interpolated_bilinearly_and_tokens_kept(new, tokens):
    positions = torch.randn(1, tokens + 14 * 14, 3, dtype=torch.float64)
    resized = resize_positions(positions, (14, 14), new)
    assert torch.equal(resized[:, :tokens], positions[:, :tokens])
    expected = by_hand(positions[0, tokens:].view(14, 14, 3), new)
    torch.testing.assert_close(resized[0, tokens:].view(*new, 3), expected)


@pytest.mark.parametrize("new", [2, 4, 8])
def test_a_converted_vit_sees_small_images_as_if_they_were_enlarged(new):
    large = vit(16, 64)
    small = vit(new, 4 * new)
    small.load_state_dict(fit_sizes(large.state_dict(), small))
    x = torch.rand(3, 3, 4 * new, 4 * new, dtype=torch.float64)
    torch.testing.assert_close(small(x), large(enlarged(x, 16 // new)), rtol=0, atol=1e-12)


def test_positions_of_a_vit_get_its_new_grid():
    state = vit(4, 56).state_dict()
    net = vit(4, 32)
    fitted = fit_sizes(state, net)
    assert same_shapes(fitted, net)
    assert not same_shapes(state, net)
    expected = by_hand(state["pos_embed"][0, 1:].view(14, 14, 16), (8, 8)).flatten(0, 1)
    torch.testing.assert_close(fitted["pos_embed"][0, 1:], expected)
    assert torch.equal(fitted["pos_embed"][0, 0], state["pos_embed"][0, 0])
    assert all(fitted[name] is state[name] for name in state if name != "pos_embed")


def test_positions_of_images_that_are_not_square():
    net = small_vit(dim=16, depth=1, heads=2, patch_size=4, img_size=(16, 40), num_classes=5)
    fitted = fit_sizes(vit(4, 32, depth=1).state_dict(), net)
    assert same_shapes(fitted, net)


@pytest.mark.parametrize("name", ["convit_tiny", "deit_tiny_distilled_patch16_224"])
def test_tokens_before_the_grid_are_found_from_the_net(name):
    arguments = {"embed_dim": 8, "depth": 3, "num_heads": 4, "num_classes": 5}
    large = timm.create_model(name, img_size=64, **arguments).eval()
    small = timm.create_model(name, img_size=16, patch_size=4, **arguments).eval()
    state = fit_sizes(large.state_dict(), small)
    assert torch.equal(state["pos_embed"], large.pos_embed)
    small.load_state_dict(state)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(small(x), large(enlarged(x, 4)), rtol=0, atol=1e-5)
    tokens = {"convit_tiny": 0}.get(name, 2)
    other = timm.create_model(name, img_size=32, patch_size=4, **arguments)
    expected = resize_positions(large.pos_embed, (4, 4), (8, 8))
    assert expected.shape[1] == tokens + 64
    assert torch.equal(fit_sizes(large.state_dict(), other)["pos_embed"], expected)


def test_swin_gets_small_patches_and_windows_of_timms_interpolation():
    arguments = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 5}
    large = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, **arguments)
    small = timm.create_model("swin_tiny_patch4_window7_224", img_size=16, patch_size=2, window_size=4, **arguments)
    state = large.state_dict()
    fitted = fit_sizes(state, small)
    small.load_state_dict(fitted)
    name = "layers.0.blocks.1.attn.relative_position_bias_table"
    assert (state[name].shape, fitted[name].shape) == ((13 * 13, 2), (7 * 7, 2))
    before, after = (table[name].view(side, side, 2) for table, side in ((state, 13), (fitted, 7)))
    # A smaller window keeps what was learned of short distances, but for 1 % a patch, which timm stretches them by
    weights = torch.zeros(7, 13)
    weights[3, 6] = 1
    for distance, (low, high) in {1: (0.0, 1.0), 2: (1.0, 2.01), 3: (2.01, 3.0301)}.items():
        share = (distance - low) / (high - low)
        for sign in (-1, 1):
            weights[3 + sign * distance, 6 + sign * distance] = share
            weights[3 + sign * distance, 6 + sign * (distance - 1)] = 1 - share
    expected = torch.einsum("ia,jb,abh->ijh", weights, weights, before)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    blocks = state["patch_embed.proj.weight"].view(8, 3, 2, 2, 2, 2).sum((3, 5))
    torch.testing.assert_close(fitted["patch_embed.proj.weight"], blocks)


def test_on_the_meta_device_only_sizes_are_computed():
    with torch.device("meta"):
        large, small = vit(16, 64), vit(4, 32)
        assert same_shapes(fit_sizes(large.state_dict(), small), small)
        swin = timm.create_model("swin_tiny_patch4_window7_224")
        net = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4)
        assert same_shapes(fit_sizes(swin.state_dict(), net), net)


def test_what_it_does_not_know_stays_as_it_is():
    state, net = vit(16, 64).state_dict(), vit(4, 16, dim=32, heads=4)
    fitted = fit_sizes(state, net)
    assert not same_shapes(fitted, net)
    assert fitted["blocks.0.attn.qkv.weight"] is state["blocks.0.attn.qkv.weight"]
    odd = {**state, "pos_embed": torch.zeros(1, 1 + 15, 16)}  # no square
    assert fit_sizes(odd, vit(4, 8))["pos_embed"] is odd["pos_embed"]
    plain = nn.Linear(2, 3)
    assert fit_sizes(plain.state_dict(), nn.Linear(3, 3)).keys() == plain.state_dict().keys()


def test_timms_own_resampling_is_another_one():
    """Why it is replaced: the enlarged image's logits are not those of timm's kernel."""
    from timm.layers.patch_embed import resample_patch_embed

    kernel = torch.randn(4, 3, 16, 16)
    ours, theirs = resize_kernel(kernel, (4, 4)), resample_patch_embed(kernel, [4, 4])
    assert (ours - theirs).abs().max() > 0.1 * math.sqrt(ours.square().mean())
