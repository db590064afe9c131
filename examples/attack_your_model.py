"""Attack any nn.Module that takes images in [0, 1]: by hand with PGD, and with an evaluation.

    python examples/attack_your_model.py [EXAMPLES]

``net`` is also a target for the command line:

    inure evaluate examples/attack_your_model.py:net --data digits --threat linf:0.1 --out results
"""

import sys

import torch
from torch import nn

import inure
from inure.data import ImageSet, load
from inure.losses import margin


class YourModel(nn.Module):
    """Stands for a net of yours: normalisation inside, logits out. This one knows the mean image of each class."""

    def __init__(self, images: ImageSet) -> None:
        super().__init__()
        x, y = tensors(images)
        means = torch.stack([x[y == k].mean(0).flatten() for k in range(images.num_classes)])
        # The nearest mean, as logits: |x - m|^2 up to a term that all classes share
        self.register_buffer("means", means)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] to logits (B, K)."""
        return 2 * x.flatten(1) @ self.means.T - (self.means**2).sum(1)


def net() -> nn.Module:
    """What ``inure evaluate FILE.py:net`` loads; ``--weights`` would fill it."""
    return YourModel(load("digits", "train"))


def tensors(images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as floats in [0, 1], and labels."""
    return images.batch(torch.arange(len(images))).float() / 255, images.labels


def main(examples: int) -> None:
    """Clean accuracy, PGD by hand under three norms and two losses, and an evaluation."""
    model, (x, y) = net().eval(), tensors(load("digits", "test").head(examples))
    print(f"clean: {accuracy(model, x, y):.1%} of {len(x)} images")

    for threat in (inure.Linf(epsilon=0.1), inure.L2(epsilon=0.5), inure.L1(epsilon=3)):
        attack = inure.attacks.PGD(threat=threat, steps=10, keep="worst")
        x_adv = attack(model, x, y, loss=margin)
        largest = threat.distance(x_adv, x).max()
        print(f"{threat.kind}: PGD-10 on the margin leaves {accuracy(model, x_adv, y):.1%}, distance <= {largest:.3f}")

    found = inure.evaluate(model, x, y, suite="quick", threat=inure.Linf(epsilon=0.1))
    low, high = found.summary["interval95"]["robust"]
    print(f"evaluation: robust {found.summary['robust_accuracy']:.1%} [{low:.1%}, {high:.1%}] under linf:0.1")
    print(f"images that stand: {found.robust.nonzero().flatten().tolist()[:10]} ...")


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of images that are classified as labelled."""
    return (model(x).argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 360)
