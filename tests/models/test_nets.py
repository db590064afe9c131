import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inure.models import Model, build, catalogue
from inure.models.norms import norm_layer
from inure.models.own import OWN_NETS
from inure.models.preact_resnet import PreActBlock
from inure.models.wide_resnet import WideResNet
from inure.settings.errors import UserError

NAMES = list(OWN_NETS)
RESNETS = ["preact_resnet18", "cifar_resnet18", "wrn28_10", "wrn34_10", "wrn16_4"]


def on_meta(name: str, shape=(3, 32, 32), num_classes=10, **settings):
    with torch.device("meta"):
        return build(Model(name=name, **settings), num_classes=num_classes, shape=shape)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("preact_resnet18", 11_172_170),
        ("cifar_resnet18", 11_173_962),
        ("wrn28_10", 36_479_194),
        ("wrn34_10", 46_160_474),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    assert parameters(on_meta(name)) == count


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("name", RESNETS)
def test_every_norm_has_the_same_number_of_parameters(name, norm):
    model = on_meta(name, norm=norm)
    assert parameters(model) == parameters(on_meta(name))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", [*RESNETS, "cnn_digits"])
def test_a_net_may_have_no_norm(name):
    model = on_meta(name, norm="none")
    assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm) for module in model.modules())
    assert 0 < parameters(model) < parameters(on_meta(name))
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "dim", "depth", "patch"), [("vit_tiny", 192, 12, 4), ("vit_small", 384, 12, 4), ("vit_digits", 48, 3, 2)]
)
def test_vit_parameter_counts_follow_the_formula(name, dim, depth, patch):
    tokens = (32 // patch) ** 2 + 1
    block = 2 * 2 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim)
    rest = (3 * patch * patch + 1) * dim + dim + tokens * dim + 2 * dim + (dim + 1) * 10
    assert parameters(on_meta(name)) == depth * block + rest


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 32)])
@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_and_runs_on_meta(name, shape):
    model = on_meta(name, shape, num_classes=7)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    logits, features = model(torch.empty(2, *shape, device="meta"), features=True)
    assert logits.shape == (2, 7)
    assert features.shape[0] == 2


@pytest.mark.parametrize(
    "name", ["preact_resnet18", "cifar_resnet18", "wrn10_1", "vit_tiny", "vit_digits", "cnn_tiny", "cnn_digits"]
)
def test_gradients_reach_every_parameter(name):
    model = build(Model(name=name), num_classes=5, shape=(3, 8, 8))
    x = torch.rand(3, 3, 8, 8)
    F.cross_entropy(model(x), torch.tensor([0, 1, 2])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("patch_size", [2, 8])
def test_vit_patches(patch_size):
    model = on_meta("vit_tiny", patch_size=patch_size)
    assert model.net.patch_embed.num_patches == (32 // patch_size) ** 2
    assert model.net.pos_embed.shape == (1, (32 // patch_size) ** 2 + 1, 192)


def test_vit_is_made_as_described():
    model = build(Model(name="vit_digits", drop_path="1/5"), num_classes=10, shape=(1, 8, 8))
    net = model.net
    weights = torch.cat([m.weight.flatten() for m in net.blocks.modules() if isinstance(m, nn.Linear)])
    assert abs(weights.std().item() - 0.02) < 0.001
    assert abs(net.pos_embed.std().item() - 0.02) < 0.004
    assert all(block.attn.qkv.bias is not None for block in net.blocks)
    assert [getattr(block.drop_path1, "drop_prob", 0) for block in net.blocks] == pytest.approx([0, 0.1, 0.2])
    assert (len(net.blocks), net.embed_dim, net.blocks[0].attn.num_heads) == (3, 48, 4)


def test_vit_uses_scaled_dot_product_attention(monkeypatch):
    calls = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or attend(*a, **k))
    build(Model(name="vit_digits"), num_classes=10, shape=(1, 8, 8))(torch.rand(1, 1, 8, 8))
    assert len(calls) == 3


def test_preact_block_by_hand():
    block = PreActBlock(4, 6, stride=2, norm="batch").eval()
    x = torch.randn(2, 4, 6, 6)
    activated = F.relu(x / (1 + 1e-5) ** 0.5)
    inner = F.relu(F.conv2d(activated, block.conv1.weight, stride=2, padding=1) / (1 + 1e-5) ** 0.5)
    expected = F.conv2d(inner, block.conv2.weight, padding=1)
    expected = expected + F.conv2d(activated, block.shortcut.weight, stride=2)
    torch.testing.assert_close(block(x), expected)


def test_layer_norm_is_over_channels_and_pixels():
    x = torch.randn(3, 6, 4, 4) * 2 + 1
    flat = x.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm_layer("layer")(6)(x), expected.view_as(x))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (16, 16), (48, 24), (160, 32), (37, 1), (1, 1)])
def test_group_norm_takes_the_largest_divisor(channels, groups):
    assert norm_layer("group")(channels).num_groups == groups


def test_silu_changes_the_wide_net_only_in_its_activation():
    relu, silu = WideResNet(10, 1).eval(), WideResNet(10, 1, activation="silu").eval()
    silu.load_state_dict(relu.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(relu(x), silu(x))
    assert any(isinstance(module, nn.SiLU) for module in silu.modules())
    assert not any(isinstance(module, nn.ReLU) for module in silu.modules())


@pytest.mark.parametrize("name", ["wrn29_10", "wrn4_1"])
def test_wide_nets_that_do_not_exist(name):
    with pytest.raises(UserError, match=f"model.name: got {name}; allowed wrnDEPTH_WIDTH"):
        on_meta(name)


def test_catalogue_lists_ours_and_no_name_is_timms():
    import timm

    names = [name for name, _ in catalogue()]
    assert names[:-1] == NAMES
    assert not set(NAMES) & set(timm.list_models())
    assert all(text and "\n" not in text and "\t" not in text for _, text in catalogue())


@pytest.mark.parametrize("size", [8, 16, 10])
def test_the_net_for_digits_has_the_layers_of_the_test_bed(size):
    quarter = math.ceil(math.ceil(size / 2) / 2)
    convolutions = sum(9 * a * b + b + 2 * b for a, b in [(1, 16), (16, 32), (32, 64)])
    dense = (64 * quarter**2 + 1) * 128 + 129 * 10
    model = build(Model(name="cnn_digits"), num_classes=10, shape=(1, size, size))
    assert parameters(model) == convolutions + dense
    features = model.net.forward_features(torch.rand(2, 1, size, size))
    assert features.shape == (2, 64, quarter, quarter)
    hidden = model.net.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, 128)
    assert bool((hidden >= 0).all())
    assert torch.equal(model.net.get_classifier()(hidden), model.net.forward_head(features))
