import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inure.models import Model, build
from inure.models.adapt import adapt, fold
from inure.models.conv_stem import ConvStem
from inure.settings.errors import UserError


def made(name="vit_digits", shape=(3, 16, 16), **settings):
    return build(Model(name=name, stem="conv", **settings), num_classes=10, shape=shape)


def widths(stem: nn.Module) -> list[int]:
    return [layer.out_channels for layer in stem if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [(16, [48, 96, 192, 384, 768]), (8, [48, 96, 192, 768]), (4, [48, 96, 768]), (2, [48, 768])],
)
def test_widths_double_from_48_and_end_at_the_embedding(patch, expected):
    stem = ConvStem(3, 768, patch)
    assert widths(stem) == expected
    assert stem(torch.rand(1, 3, 32, 48)).shape == (1, 768, 32 // patch, 48 // patch)


def test_a_stem_by_hand():
    stem = ConvStem(3, 8, 4)
    for layer in stem:
        if not isinstance(layer, nn.Conv2d):
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
    x = torch.rand(2, 3, 8, 8)
    z = x
    for conv, norm in ((stem[0], stem[1]), (stem[3], stem[4])):
        z = F.conv2d(F.pad(z, (1, 1, 1, 1)), conv.weight, conv.bias, stride=2)
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        z = F.gelu(z * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1))
    expected = torch.einsum("oi,bihw->bohw", stem[6].weight[:, :, 0, 0], z) + stem[6].bias.view(1, -1, 1, 1)
    assert [conv.out_channels for conv in (stem[0], stem[3], stem[6])] == [48, 96, 8]
    torch.testing.assert_close(stem(x), expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_digits", {"patch_size": 4}),
        ("vit_tiny", {"patch_size": 8}),
        ("test_vit2", {"patch_size": 4}),
        ("deit_tiny_distilled_patch16_224", {"patch_size": 8}),
        ("convit_tiny", {"patch_size": 8}),
    ],
)
def test_gradients_reach_the_stem(name, settings):
    net = made(name, **settings)
    assert isinstance(net.net.patch_embed.proj, ConvStem)
    net(torch.rand(2, 3, 16, 16)).square().sum().backward()
    for parameter in net.net.patch_embed.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_it_is_built_on_meta():
    with torch.device("meta"):
        net = made("deit_small_patch16_224", shape=(3, 224, 224))
        assert widths(net.net.patch_embed.proj) == [48, 96, 192, 384, 384]
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("swin_tiny_patch4_window7_224", {}, "model.stem: got conv; allowed null: swin_tiny_patch4_window7_224 has no"),
        ("xcit_nano_12_p16_224", {}, "model.stem: got conv; allowed null: xcit_nano_12_p16_224 has no plain patch"),
        ("resnet10t", {}, "model.stem: got conv; allowed null: resnet10t has no plain patch embedding"),
        ("cnn_tiny", {}, "model.stem: got conv; allowed nothing here: cnn_tiny has no stem"),
        ("wrn10_1", {}, "model.stem: got conv; allowed nothing here: wrn10_1 has no stem"),
        ("vit_tiny", {"img_size": 18, "patch_size": 6}, "model.patch_size: got 6; allowed 2 | 4 | 8 | 16"),
        ("test_vit2", {"patch_size": 1}, "model.patch_size: got 1; allowed 2 | 4"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name, settings, message):
    with torch.device("meta"), pytest.raises(UserError, match=message) as caught:
        made(name, shape=(3, 32, 32) if "img_size" not in settings else (3,) + (settings["img_size"],) * 2, **settings)
    assert "\n" not in str(caught.value)


def test_a_stem_may_exist_per_domain():
    net = adapt(made(patch_size=4).eval(), ["patch_embed"])
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "patch_embed" in name and name.endswith("original"):
                parameter += 0.3 * torch.randn_like(parameter)
        for mix in ("clean", "robust", {"clean": 0.3, "robust": 0.7}):
            torch.testing.assert_close(fold(net, mix)(x), net(x, mix=mix))
        assert (net(x, mix="clean") - net(x, mix="robust")).abs().max() > 1e-3
        per_image = torch.tensor([[0.3, 0.7]] * 4)
        mixed = {"clean": 0.3, "robust": 0.7}
        torch.testing.assert_close(net(x, mix=per_image), net(x, mix=mixed), rtol=1e-4, atol=1e-5)
