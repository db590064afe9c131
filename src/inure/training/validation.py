"""Accuracy on the validation split during training: what selects the best checkpoint, and what the guards look at."""

from typing import Any

import torch
from torch import Tensor, nn

from ..attacks import FGSM, PGD
from ..data import ImageSet
from ..losses import cross_entropy
from ..measures.alignment import gradient_alignment
from ..models.adapt import adapter_products
from ..models.domains import in_domain
from ..models.modes import attack_mode, frozen
from ..noise import CounterNoise
from ..recipe.slots import EvaluationSettings
from ..threat import Linf

_PROBE = 128
_BATCH = 256


class Validator:
    """Clean accuracy of the whole split, PGD accuracy of its first images, and of a fixed probe what tells a net that
    overfits to a single step: FGSM accuracy, and under Linf how well the loss's gradients agree within the ball.

    A net with domains is measured in two of them: clean accuracy in the clean one, the others in the robust one.

    The attacks are the same function of the image at every epoch (counter-based noise), so that differences
    between epochs are differences between nets. In several processes each takes its share.

    Args:
        images: The validation split.
        settings: The threat, the steps, how many images are attacked.
        device: Where to compute.
        rank: Of this process.
        world_size: Number of processes.
        clean: Domain of the method's clean images, None if it has no domains.
        robust: Domain of its attacked images.
        every_class: Attack an image more of each class that would not be attacked at all, for balanced accuracies.
    """

    def __init__(
        self,
        images: ImageSet,
        settings: EvaluationSettings,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        *,
        clean: str | None = None,
        robust: str | None = None,
        every_class: bool = False,
    ) -> None:
        self._domains = clean, robust
        self.images, self._device = images, device
        # A fixed shuffle, or "the first" would mean the first classes of a sorted folder
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self._rows = order[rank::world_size]
        attacked = order[: settings.validation_examples]
        if every_class:
            attacked = torch.cat([attacked, _first_of_missing_classes(images.labels, order, len(attacked))])
        self._attacked = attacked[rank::world_size]
        self._probe = order[: min(_PROBE, settings.validation_examples)][rank::world_size]
        self._linf = settings.threat.epsilon if isinstance(settings.threat, Linf) else None
        self._pgd = PGD(threat=settings.threat, steps=settings.validation_steps)
        self._fgsm = FGSM(threat=settings.threat)

    def counts(self, model: nn.Module) -> dict[str, Tensor]:
        """Sums to be added over processes and divided: right answers, losses, examples.

        ``clean`` and ``robust`` right answers, and how many images of ``all`` and of the ``attacked``, by class: (K,).
        """
        clean, robust = (in_domain(model, name) for name in self._domains)
        with attack_mode(model, "eval"), frozen(model):
            right, loss = self._measure(clean, self._rows, None)
            probe_pgd, _ = self._measure(robust, self._probe, self._pgd)
            rest = self._attacked[len(self._probe) :]
            others, _ = self._measure(robust, rest, self._pgd)
            fgsm, _ = self._measure(robust, self._probe, self._fgsm)
            aligned = {} if self._linf is None else {"alignment": self._alignment(robust, self._linf)}
        return {
            "clean": right,
            "clean_loss": loss,
            "robust": probe_pgd + others,
            "probe_pgd": probe_pgd.sum(),
            "fgsm": fgsm.sum(),
            **aligned,
            "probe": torch.tensor(float(len(self._probe)), device=self._device),
            "all": self._of_each_class(self._rows),
            "attacked": self._of_each_class(self._attacked),
        }

    def _of_each_class(self, rows: Tensor) -> Tensor:
        return torch.bincount(self.images.labels[rows], minlength=self.images.num_classes).float().to(self._device)

    def _alignment(self, model: nn.Module, epsilon: float) -> Tensor:
        """The cosine of ``gradient_alignment`` times the images that it is the mean of."""
        x, y, noise = self._images(self._probe)
        return gradient_alignment(model, x, y, epsilon=epsilon, noise=noise) * len(x) if len(x) else x.new_zeros(())

    def _images(self, rows: Tensor) -> tuple[Tensor, Tensor, CounterNoise]:
        x, y, index = self.images.examples(rows, self._device)
        return x, y, CounterNoise(0, index)

    def _measure(self, model: nn.Module, rows: Tensor, attack: Any) -> tuple[Tensor, Tensor]:
        """Right answers of each class, (K,), and the sum of the losses."""
        right = torch.zeros(self.images.num_classes, device=self._device)
        loss = torch.zeros((), device=self._device)
        for chosen in rows.split(_BATCH) if len(rows) else ():
            x, y, noise = self._images(chosen)
            if attack is not None:
                x = attack(model, x, y, noise=noise)
            with torch.no_grad():
                logits = model(x)
            right.index_add_(0, y, (logits.argmax(1) == y).float())
            loss += cross_entropy(logits, y).sum()
        return right, loss


def domain_distance(model: nn.Module) -> dict[str, Tensor]:
    """Of the parameters of the first two domains: distance over the first one's norm, and cosine.

    Two that stay equal (distance 0, cosine 1) are one mode; empty for a net without domains.
    """
    if not getattr(model, "domains", ()):
        return {}
    products = adapter_products(model)
    first, second, both = products[0, 0], products[1, 1], products[0, 1]
    distance = (first + second - 2 * both).clamp_min(0).sqrt()
    return {
        "adapter_distance": distance / first.sqrt().clamp_min(1e-12),
        "adapter_cosine": both / (first * second).sqrt().clamp_min(1e-12),
    }


def accuracies(counts: dict[str, Tensor]) -> dict[str, float]:
    """The numbers of one validation, from counts summed over processes.

    Balanced accuracies are means over the classes that have an image here, each class counted once.
    """
    c = {name: value.cpu().double() for name, value in counts.items()}
    sums = {name: float(value.sum()) for name, value in c.items()}
    clean, robust = (c[right][c[of] > 0] / c[of][c[of] > 0] for right, of in (("clean", "all"), ("robust", "attacked")))
    aligned = {"alignment": sums["alignment"] / max(sums["probe"], 1)} if "alignment" in sums else {}
    return {
        "clean_accuracy": sums["clean"] / max(sums["all"], 1),
        "clean_loss": sums["clean_loss"] / max(sums["all"], 1),
        "robust_accuracy": sums["robust"] / max(sums["attacked"], 1),
        "fgsm_accuracy": sums["fgsm"] / max(sums["probe"], 1),
        "probe_pgd_accuracy": sums["probe_pgd"] / max(sums["probe"], 1),
        "balanced_clean_accuracy": float(clean.mean()),
        "balanced_robust_accuracy": float(robust.mean()),
        "worst_class_robust_accuracy": float(robust.min()),
        **aligned,
    }


def _first_of_missing_classes(labels: Tensor, order: Tensor, attacked: int) -> Tensor:
    """The first row in ``order`` of every class that is not among the first ``attacked`` rows, but later."""
    rest = order[attacked:]
    missing = [k for k in labels[rest].unique().tolist() if not (labels[order[:attacked]] == k).any()]
    return torch.stack([rest[labels[rest] == k][0] for k in missing]) if missing else rest[:0]
