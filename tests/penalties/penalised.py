"""A net with BatchNorm and features, and steps of training with penalties and a memory."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from inure import memory
from inure.attacks import PGD
from inure.balance import Balance
from inure.losses import cross_entropy
from inure.methods import PGDAT
from inure.models import Classifier
from inure.optimizers import SGD
from inure.penalties import Outer
from inure.recipe.recipe import Recipe
from inure.recipe.regime import Regime
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import train_step
from tiny import CLASSES, SHAPE, tiny_batch

ROWS = 120
"""Images of the imagined training set; those of ``tiny_batch`` have numbers from 100 on."""
LINF = Linf(epsilon=0.05)
ATTACK = PGD(threat=LINF, steps=2, start="gaussian")


class FeatureNet(nn.Module):
    """One convolution with BatchNorm, six hidden units, which are the features, and a linear layer."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(SHAPE[0], 5, 3, stride=2, padding=1), nn.BatchNorm2d(5)
        self.hidden, self.fc = nn.Linear(5 * 9, 6), nn.Linear(6, CLASSES)
        self.activation = activation()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        hidden = torch.tanh(self.hidden(x.flatten(1)))
        return hidden if pre_logits else self.fc(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def feature_net(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> Classifier:
    """With running statistics as after some training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(FeatureNet(activation), num_classes=CLASSES, mean=[0.5] * 3, std=[0.25] * 3)
        with torch.no_grad():
            for _ in range(5):
                net(torch.rand(16, *SHAPE))
    return net


def facts(counts=(60, 30, 20, 10)) -> memory.Facts:
    return memory.Facts(ROWS, torch.tensor(counts, dtype=torch.float64), SHAPE, 8)


def memory_of(penalties, method=None) -> dict[str, Tensor]:
    """The memory of a run that has made no step."""
    return memory.begin(Recipe(method=method or PGDAT(), penalties=penalties), facts())


def batch_of(remembered, size: int = 8, seed: int = 0, progress: float = 0.5):
    return replace(tiny_batch(size, seed=seed, progress=progress), memory=remembered)


def outer_of(net, batch, *, method=None, x_adv=None, features=None, criterion=cross_entropy, attack=ATTACK):
    """What a penalty sees where the method predicts ``x_adv`` alone."""
    x_adv = batch.x if x_adv is None else x_adv
    return Outer(net, method or PGDAT(), batch, x_adv, net(x_adv), None, features, attack, criterion)


def train(
    fabric, method, penalties, *, steps=2, progress=0.5, net=None, remembered=None, batches=None, optimizer=None,
    **joints,
):  # fmt: skip
    """(net, what each step logged, memory) after some steps from the same start."""
    torch.manual_seed(0)
    optimizer = optimizer or SGD(lr=0.05)
    net = (net or feature_net()).train()
    model, wrapped = fabric.setup(net, optimizer.build(net))
    remembered = memory_of(penalties, method) if remembered is None else remembered
    if batches is None:
        batches = [batch_of(remembered, seed=step, progress=progress) for step in range(steps)]
    logged = [
        train_step(
            fabric,
            model,
            wrapped,
            batch,
            method=method,
            joints=Joints(balance=Balance(), regime=Regime(), penalties=penalties, **joints),
        )
        for batch in batches
    ]
    return net, logged, remembered
