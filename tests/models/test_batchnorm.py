"""The switches of BatchNorm's estimators against the definitions of the moments."""

import copy

import pytest
import timm.layers
import torch
from torch import nn

from inure.models import Model, attack_mode, build
from inure.models.batchnorm import BatchNorm
from inure.settings.errors import UserError
from tiny import assert_same_state, state_of, tiny_batch, tiny_net


def batches(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64) * (k + 1) for k in range(count)]


def moments(x: torch.Tensor, correction: int) -> torch.Tensor:
    return x.transpose(0, 1).flatten(1).var(1, correction=correction)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, timm.layers.BatchNormAct2d])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_running_variance_takes_in_the_variance_that_is_asked_for(layer, momentum, unbiased):
    plain = layer(2).double()
    plain.momentum = momentum
    net = copy.deepcopy(nn.Sequential(plain))
    BatchNorm(unbiased=unbiased).apply(net, "net")
    expected, parts = torch.ones(2).double(), []
    for x in batches():
        out = net(x)
        assert torch.equal(out, plain(x))
        (out**2).sum().backward()
        parts.append(moments(x, int(unbiased)))
        expected = torch.stack(parts).mean(0) if momentum is None else 0.9 * expected + 0.1 * parts[-1]
        assert torch.allclose(net[0].running_var, expected, rtol=1e-12)
        assert torch.allclose(net[0].running_mean, plain.running_mean)


@pytest.mark.parametrize("mode", ["eval", "train_frozen_stats"])
def test_without_correction_nothing_moves_where_torch_moves_nothing(mode):
    net, x = tiny_net(), tiny_batch().x
    plain = copy.deepcopy(net)
    BatchNorm(unbiased=False).apply(net, "net")
    before = state_of(net)
    with attack_mode(net, mode), attack_mode(plain, mode):
        assert torch.equal(net(x), plain(x))
    assert_same_state(before, state_of(net))


def test_without_running_statistics_eval_mode_normalises_by_the_batch():
    net, x = tiny_net(), tiny_batch().x
    expected = copy.deepcopy(net).train()(x)
    BatchNorm(running=False).apply(net, "net")
    assert torch.equal(net.eval()(x), expected)
    assert not any("running" in name for name in net.state_dict())
    assert not torch.allclose(net(x)[:2], net(x[:2]))


def test_build_applies_them_to_nets_of_ours_and_of_timm():
    for name in ("wrn10_1", "resnet10t"):
        model = Model(name=name, batchnorm={"running": False})
        state = build(model, num_classes=3, shape=(3, 32, 32)).state_dict()
        assert any("weight" in key for key in state)
        assert not any("running" in key for key in state)
    with_adapters = Model(name="wrn10_1", batchnorm={"unbiased": False}, adapters={"kinds": ["batchnorm"]})
    net = build(with_adapters, num_classes=3, shape=(3, 8, 8)).train()
    x = torch.rand(4, 3, 8, 8)
    net(x, mix="robust")
    maps = net.net.stem((x - net.mean) / net.std)
    norm = net.net.blocks[0].norm1
    assert torch.allclose(norm.variances[1], 0.9 + 0.1 * moments(maps, 0), rtol=1e-5)
    assert torch.equal(norm.variances[0], torch.ones(16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vit_digits", "batchnorm": {"running": False}}, "model.batchnorm: got running=False; allowed null"),
        ({"name": "cnn_tiny", "batchnorm": {}}, "model.batchnorm: got settings; allowed null: cnn_tiny has no Batch"),
        ({"batchnorm": {"running": False, "unbiased": False}}, "batchnorm.unbiased: got False; allowed true with"),
        ({"batchnorm": {"running": False, "reestimate": "clean"}}, "batchnorm.reestimate: got clean; allowed null"),
        ({"batchnorm": {"reestimate": "clean"}, "adapters": ["norm"]}, "batchnorm.reestimate: got clean; allowed tr"),
        ({"batchnorm": {"batches": 0}}, "batchnorm.batches: got 0"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        build(Model(**{"name": "wrn10_1", **settings}), num_classes=3, shape=(3, 8, 8))
