"""Norms per domain: timm's with an activation inside, joint and separate statistics, soups of statistics."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d
from torch import nn

from adapted import moved, with_statistics
from inure.models import Classifier, Model, build
from inure.models.adapt import adapt, fold
from inure.models.adapters.batchnorm import MixedBatchNorm
from inure.models.adapters.layers import MixedNorm

BOTH = ["clean", "robust"]
WITH_BATCH_NORM = ["mobilenetv3_small_050", "test_efficientnet", "test_byobnet", "test_resnet"]
GENERATOR = torch.Generator().manual_seed(1)
UNION = torch.cat([torch.rand(4, 3, 32, 32, generator=GENERATOR), 0.2 * torch.rand(4, 3, 32, 32, generator=GENERATOR)])
"""Two halves of other statistics."""
AFFINE = torch.linspace(-0.4, 1.4, 8, dtype=torch.float64)
ROWS = torch.stack([AFFINE, 1 - AFFINE], 1)


def net_of(name: str, **settings) -> Classifier:
    return build(Model(name=name, **settings), num_classes=10, shape=(3, 32, 32))


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_the_union_of_the_domains_is_normalised_once(name):
    net = net_of(name).train()
    adapted = adapt(net, "norm").train()
    found = adapted(UNION, mix=BOTH)
    assert not adapted.mixture.whole
    assert torch.allclose(found, net(UNION), atol=1e-5)
    ours = dict(adapted.named_buffers())
    for key, value in net.named_buffers():
        assert torch.allclose(ours[key], value, rtol=1e-4, atol=1e-6), key
        assert "tracked" not in key or value == 1


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, BatchNormAct2d])
def test_joint_statistics_in_closed_form(layer):
    adapted = moved(adapt(nn.Sequential(layer(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), "norm").train())
    adapted(UNION, mix=BOTH)
    adapted(UNION, mix=BOTH)
    norm = adapted.net[0]
    mean, variance = UNION.mean((0, 2, 3)), UNION.transpose(0, 1).flatten(1).var(1)
    assert torch.allclose(norm.running_mean, 0.19 * mean, atol=1e-6)
    assert torch.allclose(norm.running_var, 0.81 + 0.19 * variance, atol=1e-6)
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize(
    "build_norm",
    [
        lambda act: BatchNormAct2d(4, act_layer=act, drop_layer=Doubled),
        lambda act: GroupNormAct(4, 2, act_layer=act, drop_layer=Doubled),
        lambda act: LayerNormAct2d(4, act_layer=act, drop_layer=Doubled),
        lambda act: LayerNormAct(5, act_layer=act, drop_layer=Doubled),
    ],
    ids=["batch", "group", "layer 2d", "layer"],
)
@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_activation_and_drop_follow_each_images_own_scale(build_norm, act):
    norm, x = build_norm(act), torch.randn(8, 4, 5, 5, dtype=torch.float64)
    plain = copy.deepcopy(norm).double().train()
    plain.act = plain.drop = nn.Identity()
    normalised = plain(x)  # scale 1, shift 0
    adapted = moved(adapt(nn.Sequential(norm, nn.Flatten(), nn.Linear(100, 2)), "norm").double().train())
    layer = adapted.net[0]
    with adapted.mixture.using(adapted.mixture.parse(ROWS, 8), 8):
        found = layer(x)
    scale, shift = (ROWS @ getattr(layer.parametrizations, name).original for name in ("weight", "bias"))
    if not isinstance(norm, LayerNormAct):
        scale, shift = scale[..., None, None], shift[..., None, None]
    else:
        scale, shift = scale[:, None, None], shift[:, None, None]
    expected = act(inplace=False)(2 * (normalised * scale + shift))
    assert torch.allclose(found, expected, atol=1e-12)
    assert (expected <= 0).any()


class Doubled(nn.Module):
    """In the place of a drop layer: twice what comes in."""

    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *[(name, {}) for name in (*WITH_BATCH_NORM, "test_efficientnet_gn", "test_efficientnet_ln", "test_convnext")],
        ("resnet18", {"norm": "group"}),
        ("wrn10_1", {"norm": "group"}),
    ],
)
def test_parts_are_separate_passes_and_rows_are_folded_nets(name, settings):
    x = UNION.double()
    adapted = adapt(with_statistics(net_of(name, **settings), UNION), "norm").double()
    adapted = moved(adapted, 0.1)
    with torch.no_grad():
        passes = torch.cat([adapted(x[:4], mix="clean"), adapted(x[4:], mix="robust")])
        tolerance = 1e-10 * float(passes.abs().max())
        assert torch.allclose(adapted(x, mix=BOTH), passes, rtol=0, atol=tolerance)
        mixed = adapted(x, mix=ROWS)
        assert not adapted.mixture.whole
        for i in (0, 3, 7):
            weights = {"clean": float(ROWS[i, 0]), "robust": float(ROWS[i, 1])}
            folded = fold(adapted, weights)(x[i : i + 1])[0]
            assert torch.allclose(mixed[i], folded, rtol=0, atol=1e-10 * float(folded.abs().max()))
        assert not torch.allclose(mixed[0], adapted(x[:1], mix="clean")[0], rtol=1e-3)


def test_gradients_of_frozen_scales_and_of_images_are_those_of_separate_passes():
    adapted = moved(adapt(with_statistics(net_of("test_efficientnet"), UNION), "norm"), 0.1).double()
    adapted.requires_grad_(False)  # as during an attack: then the norm writes into memory of its own
    x = UNION.double().requires_grad_()
    adapted(x, mix=BOTH).square().sum().backward()
    for piece, rows, mode in zip(UNION.double().chunk(2), x.grad.chunk(2), BOTH, strict=True):
        z = piece.clone().requires_grad_()
        adapted(z, mix=mode).square().sum().backward()
        assert torch.allclose(z.grad, rows, rtol=1e-9, atol=1e-14)


# Soups of statistics


def dual(means, variances) -> MixedBatchNorm:
    adapted = adapt(
        nn.Sequential(nn.BatchNorm2d(len(means[0])), nn.Flatten(), nn.Linear(len(means[0]), 2)), "batchnorm"
    )
    layer = adapted.eval().net[0]
    layer.means.copy_(torch.tensor(means))
    layer.variances.copy_(torch.tensor(variances))
    return layer


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.83, 1.0])
def test_within_the_domains_the_statistics_are_the_moments_of_the_mixture(weight):
    means, variances = [[0.0, 1.0, -3.0], [2.0, 1.0, 4.0]], [[1.0, 0.01, 0.5], [0.2, 3.0, 0.5]]
    mean, variance = dual(means, variances).mixed_statistics((weight, 1 - weight))
    for c in range(3):
        first = weight * means[0][c] + (1 - weight) * means[1][c]
        spread = weight * (1 - weight) * (means[0][c] - means[1][c]) ** 2  # of the two means about the joint one
        second = weight * variances[0][c] + (1 - weight) * variances[1][c] + spread
        assert mean[c].item() == pytest.approx(first, abs=1e-5)
        assert variance[c].item() == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("weight", [-0.4, -0.1, 1.1, 1.4])
def test_beyond_the_domains_the_variance_never_falls_under_the_least(weight):
    means, variances = [[0.0, 0.0, 0.0], [0.0, 4.0, 0.1]], [[1.0, 1.0, 3.0], [1.0, 0.5, 1.0]]
    layer = dual(means, variances)
    mean, variance = layer.mixed_statistics((weight, 1 - weight))
    assert torch.allclose(mean, weight * layer.means[0] + (1 - weight) * layer.means[1])
    w = torch.tensor([weight, 1 - weight]).double()[:, None]
    moments = (w * (layer.variances + layer.means**2)).sum(0) - (w * layer.means).sum(0) ** 2
    least = torch.tensor([1.0, 0.5, 1.0])
    assert moments[1] < 0, "the moments make no sense here"
    assert torch.allclose(variance, torch.maximum(moments.float(), least), atol=1e-6)
    assert (variance >= least).all()


def test_a_folded_soup_beyond_the_domains_has_these_statistics_and_finite_logits():
    adapted = moved(adapt(with_statistics(net_of("test_resnet"), UNION), "batchnorm"), 1.0)
    mix = {"clean": 1.4, "robust": -0.4}
    folded = fold(adapted, mix)
    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    pairs = [m for m in adapted.modules() if isinstance(m, MixedBatchNorm)]
    assert len(norms) == len(pairs) > 10
    for plain, mixed in zip(norms, pairs, strict=True):
        assert not isinstance(plain, MixedBatchNorm)
        assert (plain.running_var >= mixed.variances.amin(0)).all()
    assert torch.equal(folded(UNION), adapted(UNION, mix=mix))
    assert folded(UNION).isfinite().all()


def test_separate_statistics_are_those_of_two_plain_nets():
    net = net_of("test_resnet").train()
    adapted = adapt(net, "batchnorm").train()
    adapted(UNION, mix=BOTH)
    adapted(UNION[:4], mix="robust")
    clean, robust = copy.deepcopy(net), copy.deepcopy(net)
    for plain, sets in ((clean, [UNION[:4]]), (robust, [UNION[4:], UNION[:4]])):
        for x in sets:
            plain(x)
    for domain, mode in enumerate((clean, robust)):
        for ours, theirs in zip(
            [m for m in adapted.modules() if isinstance(m, MixedBatchNorm)],
            [m for m in mode.modules() if isinstance(m, nn.BatchNorm2d)],
            strict=True,
        ):
            assert torch.allclose(ours.means[domain], theirs.running_mean, atol=1e-5)
            assert torch.allclose(ours.variances[domain], theirs.running_var, rtol=1e-4)
            assert ours.batches[domain] == theirs.num_batches_tracked == domain + 1
    assert net.net.bn1.num_batches_tracked == 0


# Exceptions leave no trace


class Broken(Exception):
    """Raised in the middle of a forward."""


class Fuse(nn.Module):
    """The identity; raises at the call whose number is ``blows``."""

    blows = 0

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == Fuse.blows:
            raise Broken
        return F.silu(x)


def test_an_exception_in_a_norm_puts_the_scale_and_the_activation_back(monkeypatch):
    norm = BatchNormAct2d(3, act_layer=Fuse)
    adapted = moved(adapt(nn.Sequential(norm, nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), "norm").eval())
    layer, rows = adapted.net[0], ROWS.float()
    adapted(UNION, mix=rows)
    expected = [adapted(UNION, mix=mix) for mix in (rows, BOTH, "robust")]
    activation = layer.act
    assert isinstance(layer, MixedNorm)

    def fails(*arguments, **options):
        raise Broken

    with monkeypatch.context() as patch:  # in the normalisation itself
        patch.setattr(F, "batch_norm", fails)
        with pytest.raises(Broken):
            adapted(UNION, mix=rows)
    monkeypatch.setattr(Fuse, "blows", activation.calls + 1)  # in what follows
    with pytest.raises(Broken):
        adapted(UNION, mix=rows)
    assert layer.act is activation
    assert not any(p[0].mute for p in layer.parametrizations.values())
    assert adapted.mixture.choice.domain == 0
    for mix, logits in zip((rows, BOTH, "robust"), expected, strict=True):
        assert torch.equal(adapted(UNION, mix=mix), logits)


def test_an_exception_in_a_part_puts_the_domain_back(monkeypatch):
    adapted = moved(adapt(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(1800, 2)), "patch_embed").eval())
    expected = [adapted(UNION, mix=mix) for mix in (BOTH, ROWS.float(), "clean")]
    calls, convolution = [], F.conv2d

    def fails_at_second(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise Broken
        return convolution(*arguments, **options)

    layer = adapted.net[0]
    with monkeypatch.context() as patch:
        patch.setattr(F, "conv2d", fails_at_second)
        choice = adapted.mixture.parse(BOTH, 8)
        with adapted.mixture.using(choice, 8):
            with pytest.raises(Broken):
                layer(UNION)
            assert adapted.mixture.choice is choice
            assert adapted.mixture.batch == 8
    assert len(calls) == 2
    assert adapted.mixture.choice.domain == 0
    for mix, logits in zip((BOTH, ROWS.float(), "clean"), expected, strict=True):
        assert torch.equal(adapted(UNION, mix=mix), logits)


@pytest.mark.parametrize("mix", ["robust", {"clean": 0.3, "robust": 0.7}, BOTH], ids=str)
def test_an_exception_in_dual_batch_norm_leaves_the_plain_statistics_empty(monkeypatch, mix):
    adapted = moved(adapt(with_statistics(net_of("test_resnet"), UNION), "batchnorm"))
    expected, before = adapted(UNION, mix=mix), {k: v.clone() for k, v in adapted.state_dict().items()}

    def fails(*arguments, **options):
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(F, "batch_norm", fails)
        with pytest.raises(Broken):
            adapted(UNION, mix=mix)
    for layer in adapted.modules():
        if isinstance(layer, MixedBatchNorm):
            assert layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    after = adapted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(adapted(UNION, mix=mix), expected)
