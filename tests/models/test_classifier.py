import copy

import pytest
import torch
from torch import nn

from inure.models import Classifier, Model, build
from inure.models.cnn_tiny import CNNTiny
from inure.settings.errors import UserError

RESNETS = ["preact_resnet18", "cifar_resnet18", "wrn10_1"]
SMALL = ["cnn_tiny", "vit_digits", "wrn10_1"]


def tiny(name: str = "cnn_tiny", **settings) -> Classifier:
    return build(Model(name=name, **settings), num_classes=5, shape=(3, 8, 8)).eval()


def test_forward_normalises_per_channel():
    net = CNNTiny(num_classes=5)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    classifier = Classifier(net, num_classes=5, img_size=8, in_channels=3, mean=mean, std=std)
    x = torch.rand(4, 3, 8, 8)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(classifier(x), net(by_hand), rtol=0, atol=1e-6)
    assert classifier.mean.shape == classifier.std.shape == (1, 3, 1, 1)
    assert {"mean", "std"} <= set(classifier.state_dict())


def test_no_normalisation_changes_no_bit():
    net = CNNTiny(num_classes=5)
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(Classifier(net)(x), net(x))


@pytest.mark.parametrize("name", [*RESNETS, "cnn_tiny", "vit_digits"])
def test_features_and_logits_come_from_one_forward(name):
    classifier = tiny(name)
    x = torch.rand(2, 3, 8, 8)
    calls = []
    classifier.net.register_forward_pre_hook(lambda *_: calls.append("forward"))
    logits, features = classifier(x, features=True)
    assert calls == []
    assert torch.equal(logits, classifier(x))
    head = classifier.net.get_classifier()
    assert features.shape == (2, head.in_features)
    assert torch.equal(head(features), logits)


def test_features_update_batch_statistics_once():
    plain, asked = tiny("wrn10_1").train(), tiny("wrn10_1").train()
    asked.load_state_dict(plain.state_dict())
    x = torch.rand(4, 3, 8, 8)
    plain(x), asked(x, features=True)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, asked.state_dict()[name]), name


@pytest.mark.parametrize("name", ["resnetv2_18", "levit_128s", "shvit_s1", "deit_tiny_distilled_patch16_224"])
def test_features_of_nets_with_unusual_heads(name):
    import timm

    net = timm.create_model(name, num_classes=5).eval()
    x = torch.rand(1, *net.pretrained_cfg["input_size"])
    with torch.no_grad():
        logits, features = Classifier(net, num_classes=5)(x, features=True)
        assert torch.equal(logits, net(x))
    assert features.ndim == 2


def test_features_need_a_net_that_has_them():
    with pytest.raises(UserError, match=r"^features: got Sequential; allowed a net with forward_features"):
        Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))(torch.rand(1, 3, 8, 8), features=True)


@pytest.mark.parametrize("mix", ["robust", {"clean": 0.3, "robust": 0.7}, torch.ones(1, 1)])
def test_a_net_without_domains_takes_no_mix(mix):
    classifier = tiny()
    x = torch.rand(1, 3, 8, 8)
    assert classifier.domains == ()
    assert torch.equal(classifier(x, mix=None), classifier(x))
    with pytest.raises(UserError, match="mix: got .*this net has no domains"):
        classifier(x, mix=mix)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("features", [False, True])
def test_autocast_returns_float32(name, features):
    classifier = tiny(name)
    seen = []
    classifier.net.get_classifier().register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = classifier(torch.rand(2, 3, 8, 8), features=features)
    assert seen == [torch.bfloat16]
    for tensor in result if features else [result]:
        assert tensor.dtype == torch.float32


def test_double_precision_stays_double():
    assert tiny().double()(torch.rand(2, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 1, 8, 8), None, r"images: got \(2, 1, 8, 8\); allowed \(B, 3, 8, 8\)"),
        ((2, 3, 8, 9), None, r"images: got \(2, 3, 8, 9\); allowed \(B, 3, 8, 8\)"),
        ((3, 8, 8), None, r"images: got \(3, 8, 8\); allowed \(B, 3, 8, 8\)"),
        ((2, 3, 8, 8), torch.uint8, r"images: got torch.uint8; allowed floats in \[0, 1\]"),
    ],
)
def test_wrong_images_are_refused(shape, dtype, message):
    with pytest.raises(UserError, match=message):
        tiny()(torch.zeros(shape, dtype=dtype))


def test_what_is_unknown_is_not_checked():
    classifier = Classifier(CNNTiny(num_classes=5, in_channels=1))
    assert classifier(torch.rand(2, 1, 5, 7)).shape == (2, 5)
    with pytest.raises(UserError, match=r"allowed \(B, C, H, W\)"):
        classifier(torch.rand(1, 5, 7))


class _Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("net", [CNNTiny(num_classes=4), nn.Identity(), _Pair()])
def test_an_output_that_is_no_logits_is_refused(net):
    with pytest.raises(UserError, match=r"^model: got .*; allowed a net whose output is one tensor \(B, 5\)$"):
        Classifier(net, num_classes=5)(torch.rand(2, 3, 8, 8))


def test_mean_of_the_wrong_length_is_refused():
    with pytest.raises(UserError, match="mean: got .*3 numbers, one per channel"):
        Classifier(CNNTiny(), in_channels=3, mean=[0.5], std=[0.5])


@pytest.mark.parametrize("name", ["vit_digits", "wrn10_1"])
def test_compiles_into_one_graph(name):
    classifier = tiny(name)
    compiled = torch.compile(classifier, backend="eager", fullgraph=True)
    for batch in (2, 3):
        x = torch.rand(batch, 3, 8, 8)
        assert torch.equal(compiled(x), classifier(x))
    logits, features = compiled(x, features=True)
    assert torch.equal(logits, classifier(x))
    assert torch.equal(features, classifier(x, features=True)[1])


def test_copies_are_independent():
    classifier = tiny()
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        other.net.fc.bias.add_(1)
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(other(x), classifier(x) + 1)
