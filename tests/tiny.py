"""Nets and batches small enough for thousands of attacks, all seeded; nothing touches the global generator."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from inure.memory import facts_of
from inure.models import Classifier
from inure.noise import CounterNoise
from inure.types import Batch, Memory

CLASSES, SHAPE = 4, (3, 6, 6)


def tiny_net(seed: int = 0, classes: int = CLASSES, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    """Two convolutions with BatchNorm and a linear layer, sure of itself, with running statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = shape[0]
        layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * math.ceil(shape[1] / 2) * math.ceil(shape[2] / 2), classes),
        )
        net = Classifier(
            layers, num_classes=classes, img_size=shape[1:], in_channels=channels, mean=[0.5] * channels,
            std=[0.25] * channels,
        )  # fmt: skip
        with torch.no_grad():
            layers[-1].weight.mul_(5)
            for _ in range(5):
                net(torch.rand(16, *shape))
    return net


def tiny_batch(
    size: int = 8, seed: int = 0, classes: int = CLASSES, shape: tuple[int, int, int] = SHAPE, progress: float = 0.5
) -> Batch:
    """Random images, a tenth of their pixels 0 and a tenth 1, random labels, rows that do not start at 0."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(size, *shape, generator=generator) * 1.25 - 0.125).clamp(0, 1)
    y = torch.randint(classes, (size,), generator=generator)
    return Batch(x, y, torch.arange(size) + 100, progress)


def memory_of(piece: object, size: int = 8) -> Memory:
    """What ``piece`` remembers before the first step of a run on tiny batches of ``size``; empty if nothing."""
    remember = getattr(piece, "remember", None)
    return {} if remember is None else remember(facts_of(torch.arange(300) % CLASSES, CLASSES, SHAPE, size, "cpu"))


def soft(y: Tensor, seed: int = 0, classes: int = CLASSES) -> Tensor:
    """Labels as after mixup: each row a mixture of two classes that sums to 1."""
    generator = torch.Generator().manual_seed(seed)
    share = 0.5 + 0.5 * torch.rand(len(y), 1, generator=generator)
    one_hot = nn.functional.one_hot(y, classes).float()
    return share * one_hot + (1 - share) * one_hot.roll(1, 0)


def linear_net(weight: Tensor, bias: Tensor) -> nn.Sequential:
    """logits = weight x + bias for flattened images, in the precision of ``weight``."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(bias)
    return net


def noise_of(batch: Batch, seed: int = 0, stream: int = 0) -> CounterNoise:
    """Noise that depends on the rows of ``batch`` alone."""
    return CounterNoise(seed, batch.index, stream)


def counting(net: nn.Module) -> Callable[[], list[int]]:
    """Batch sizes of the forwards of ``net`` from here on; call the result to read them."""
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    return lambda: sizes


def state_of(net: nn.Module) -> dict[str, object]:
    """All that an attack must leave as it found it: values, buffers, gradients, requires_grad and training flags."""
    return {
        **{f"value {name}": tensor.detach().clone() for name, tensor in net.state_dict().items()},
        **{f"grad {name}": None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()},
        **{f"requires_grad {name}": p.requires_grad for name, p in net.named_parameters()},
        **{f"training {name}": module.training for name, module in net.named_modules()},
    }


def assert_same_state(before: dict[str, object], after: dict[str, object]) -> None:
    """Bit for bit."""
    assert before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        same = torch.equal(old, new) if isinstance(old, Tensor) and isinstance(new, Tensor) else old is new
        assert same, f"{name} changed"
