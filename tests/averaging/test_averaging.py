"""EMA and SWA against slow loops in float64, BatchNorm statistics included."""

import io

import pytest
import torch
from torch import nn

from inure.averaging import EMA, SWA
from tiny import tiny_batch, tiny_net

START = 0.5


def journey(steps: int = 12) -> list[tuple[nn.Module, float]]:
    """Nets as after each step of a training, and the progress at the beginning of that step."""
    net, path = tiny_net().double().train(), []
    for step in range(steps):
        with torch.no_grad():
            net(tiny_batch(seed=step).x.double())
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
        copy = tiny_net().double()
        copy.load_state_dict(net.state_dict())
        path.append((copy, step / steps))
    return path


def floats(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: v.clone() for name, v in net.state_dict().items() if v.is_floating_point()}


def follow(settings, path):
    averager = settings.build(tiny_net().double())
    for net, progress in path:
        averager.update(net, progress)
    return averager


def slow_ema(path, decay_of) -> dict[str, torch.Tensor]:
    average: dict[str, torch.Tensor] = {}
    updates = 0
    for net, progress in path:
        if progress < START or not updates:
            average = floats(net)
            updates = int(progress >= START)
            continue
        d = decay_of(updates)
        average = {name: d * average[name] + (1 - d) * value for name, value in floats(net).items()}
        updates += 1
    return average


def assert_close(net: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = floats(net)
    assert found.keys() == expected.keys()
    assert any("running_var" in name for name in found)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-14), name


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_a_slow_loop_over_weights_and_batch_norm_statistics(decay, warmup):
    path = journey()
    averager = follow(EMA(decay=decay, warmup=warmup, start=START), path)
    limit = (lambda t: min(decay, (1 + t) / (10 + t))) if warmup else (lambda t: decay)
    assert_close(averager.module, slow_ema(path, limit))


def test_the_warm_up_of_ema_gives_two_elevenths_to_the_past_at_first():
    path = journey(2)
    averager = follow(EMA(decay=0.999), path)
    first, second = (floats(net) for net, _ in path)
    assert_close(averager.module, {name: 2 / 11 * first[name] + 9 / 11 * second[name] for name in first})


@pytest.mark.parametrize("settings", [EMA(decay=0), EMA(decay=0, warmup=False), EMA(start=1), SWA(start=1)], ids=str)
def test_without_memory_the_average_is_the_net_bit_for_bit(settings):
    path = journey()
    module = follow(settings, path).module
    for name, value in path[-1][0].state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


@pytest.mark.parametrize("start", [0.0, 0.4, 0.5])
def test_swa_is_the_plain_mean_of_the_weights_after_every_step_from_start_on(start):
    path = journey()
    kept = [floats(net) for net, progress in path if progress >= start]
    assert len(kept) in (12, 7, 6)
    mean = {name: torch.stack([k[name] for k in kept]).mean(0) for name in kept[0]}
    assert_close(follow(SWA(start=start), path).module, mean)


@pytest.mark.parametrize("settings", [EMA(decay=0.9), SWA(start=0)], ids=str)
def test_counters_are_copied_not_averaged(settings):
    path = journey()
    averager = follow(settings, path)
    for name, value in path[-1][0].state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(averager.module.state_dict()[name], value)


@pytest.mark.parametrize("settings", [EMA(decay=0.9), EMA(decay=0.9, start=START), SWA(start=0), SWA()], ids=str)
@pytest.mark.parametrize("cut", [1, 5, 6, 7, 11])
def test_a_state_dict_continues_exactly(settings, cut):
    path = journey()
    whole = follow(settings, path)
    file = io.BytesIO()
    torch.save(follow(settings, path[:cut]).state_dict(), file)
    file.seek(0)
    resumed = settings.build(tiny_net(seed=5).double())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for net, progress in path[cut:]:
        resumed.update(net, progress)
    assert resumed.updates == whole.updates
    for name, value in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], value), name


def test_averaging_leaves_the_trained_net_alone_and_needs_no_gradient():
    net = tiny_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    averager = EMA().build(net)
    for _ in range(3):
        averager.update(net, 0.0)
    assert net.training
    assert not averager.module.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(p.requires_grad for p in averager.module.parameters())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
