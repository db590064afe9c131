"""A training method of your own, used through ``train_step`` in a loop of your own.

    python examples/write_a_method.py [EPOCHS [NET]]

The method: half of the loss on clean images, half on adversarial ones (Goodfellow et al., 2015, arXiv:1412.6572).
Any class with ``craft`` and ``losses`` will do; its fields are its knobs.
"""

import sys
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import nn

import inure
from inure.attacks import PGD
from inure.balance import Balance
from inure.data import load
from inure.models import Model, build
from inure.models.modes import attack_mode
from inure.recipe.regime import Regime
from inure.schedules import Ramp
from inure.steps import Joints
from inure.types import Batch, Criterion, Images, Losses, Search


@dataclass(frozen=True)
class HalfAndHalf:
    """min E[ share * L(f(x_adv), y) + (1 - share) * L(f(x), y) ]."""

    attack: PGD
    share: float = 0.5

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The inner maximisation; ``attack`` is ``self.attack`` at its strength of the moment."""
        with attack_mode(model, "eval"):
            return attack(model, batch.x, batch.y, loss=criterion)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """The outer loss, (B,). One forward of all images: what DDP with BatchNorm needs."""
        clean, adversarial = model(torch.cat([batch.x, x_adv])).chunk(2)
        natural, robust = criterion(clean, batch.y), criterion(adversarial, batch.y)
        return Losses(self.share * robust + (1 - self.share) * natural, {"natural": natural, "robust": robust})


def main(epochs: int = 20, name: str = "vit_digits", batch_size: int = 64) -> None:
    """Train a small net on digits and evaluate it."""
    torch.manual_seed(0)
    threat = inure.Linf(epsilon=0.2)
    method, regime = HalfAndHalf(PGD(threat=threat, steps=5)), Regime(epsilon=Ramp(until=0.5))
    images, test = load("digits", "train"), load("digits", "test").head(64)
    net = build(Model(name=name), num_classes=images.num_classes, shape=images.shape)

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(net, inure.optimizers.AdamW(lr=3e-3).build(net))
    for epoch in range(epochs):
        for number, rows in enumerate(order := torch.randperm(len(images)).split(batch_size)):
            progress = (epoch + number / len(order)) / epochs
            batch = Batch(images.batch(rows).float() / 255, images.labels[rows], rows, progress)
            logged = inure.train_step(
                fabric,
                model,
                optimizer,
                batch,
                method=method,
                joints=Joints(balance=Balance(), regime=regime, clip_norm=1.0),
            )
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {float(value):.3f}" for name, value in logged.items()))

    found = inure.evaluate(net, test, suite="pgd20", threat=inure.Linf(epsilon=0.1)).summary
    print(f"clean {found['clean_accuracy']:.1%}  robust {found['robust_accuracy']:.1%} under linf:0.1")


if __name__ == "__main__":
    main(*(convert(text) for convert, text in zip((int, str), sys.argv[1:], strict=False)))
