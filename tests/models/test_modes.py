import pytest
import torch
from torch import nn

from inure.models import Model, attack_mode, build, frozen

MODES = ["eval", "train", "train_frozen_stats"]


class Mixed(nn.Module):
    """Every kind of module whose behaviour depends on the mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.batch = nn.BatchNorm2d(4)
        self.cumulative = nn.BatchNorm2d(4, momentum=None)
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
        self.instance = nn.InstanceNorm2d(4, track_running_stats=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.instance(self.untracked(self.cumulative(self.batch(self.conv(x))))))


def mixed() -> Mixed:
    model = Mixed().train()
    model(torch.randn(4, 3, 8, 8))
    model.batch.eval()
    model.dropout.eval()
    model.conv.weight.requires_grad_(False)
    return model


def everything(model: nn.Module) -> dict:
    state = {f"{name}.training": module.training for name, module in model.named_modules()}
    state |= {f"{n}.track": getattr(m, "track_running_stats", None) for n, m in model.named_modules()}
    state |= {f"{name}.requires_grad": p.requires_grad for name, p in model.named_parameters()}
    return state | {name: id(tensor) for name, tensor in [*model.named_buffers(), *model.named_parameters()]}


def numbers(model: nn.Module) -> dict[str, bytes]:
    return {name: buffer.numpy().tobytes() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_attack_mode_restores_every_module(mode, fails):
    model = mixed()
    before = everything(model)
    try:
        with attack_mode(model, mode):
            assert all(module.training == (mode != "eval") for module in model.modules())
            model(torch.randn(4, 3, 8, 8))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert everything(model) == before


@pytest.mark.parametrize(("mode", "moves"), [("eval", False), ("train", True), ("train_frozen_stats", False)])
def test_which_modes_move_running_statistics(mode, moves):
    model = mixed()
    before = numbers(model)
    with attack_mode(model, mode):
        model(torch.randn(4, 3, 8, 8) + 3)
    assert (numbers(model) != before) == moves


def test_train_frozen_stats_uses_the_batch_like_train_mode():
    model = build(Model(name="wrn10_1"), num_classes=3, shape=(3, 8, 8)).eval()
    x = torch.rand(8, 3, 8, 8)
    evaluated = model(x)
    with attack_mode(model, "train_frozen_stats"):
        frozen_stats = model(x)
    with attack_mode(model, "train"):
        trained = model(x)
    assert torch.equal(frozen_stats, trained)
    assert not torch.allclose(frozen_stats, evaluated)


def test_modes_nest():
    model = mixed()
    before = everything(model)
    with attack_mode(model, "train_frozen_stats"):
        inside = everything(model)
        with attack_mode(model, "eval"):
            assert not model.conv.training
        assert everything(model) == inside
    assert everything(model) == before


def test_attack_mode_reaches_through_compile():
    model = build(Model(name="wrn10_1"), num_classes=3, shape=(3, 8, 8)).eval()
    compiled = torch.compile(model, backend="eager")
    x = torch.rand(4, 3, 8, 8)
    compiled(x)
    before, buffers = everything(model), numbers(model)
    with attack_mode(compiled, "train_frozen_stats"):
        assert model.training
        inside = compiled(x)
    assert everything(model) == before
    assert numbers(model) == buffers
    with attack_mode(model, "train_frozen_stats"):
        assert torch.equal(inside, model(x))


def test_the_last_statistics_do_not_leak_into_gradients():
    model = mixed()
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    with attack_mode(model, "train_frozen_stats"):
        loss = model(x).square().sum()
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_requires_grad(fails):
    model = mixed()
    before = everything(model)
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    try:
        with frozen(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
            assert gradient.abs().sum() > 0
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert everything(model) == before
