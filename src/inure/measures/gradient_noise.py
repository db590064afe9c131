"""How noisy the gradient of a batch is: its covariance's trace, its squared length, and their ratio.

The simple noise scale is that of McCandlish et al. (2018, arXiv:1812.06162): the batch size at which noise and signal
weigh the same. Sun et al. (2023, arXiv:2306.02618) argue with the noise of PGD-AT's gradient but never measure it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..libraries import Tensor, nn, torch
from ..losses import cross_entropy
from ..machine.precision import finest
from ..models.modes import AttackMode, attack_mode
from ..settings.config import Whole
from ..settings.errors import UserError
from ..types import Images, Labels, PerExample
from .measure import Measured, Probe


@dataclass(frozen=True)
class GradientNoise:
    """0-d tensors on the device of the gradients, in float64 where it has that: reading them is up to the caller."""

    trace: Tensor
    """tr(Sigma): the summed variances of one example's gradient, all parameters together. Unbiased."""
    squared_norm: Tensor
    """|G|^2 of the expected gradient. Unbiased, so it is negative at times where the noise is large."""

    @property
    def scale(self) -> Tensor:
        """tr(Sigma) / |G|^2, in examples. A ratio of unbiased estimates, itself biased; without meaning below 0."""
        return self.trace / self.squared_norm


def gradient_noise(
    model: nn.Module,
    x_adv: Images,
    y: Labels,
    criterion: Callable[[Tensor, Tensor], PerExample] = cross_entropy,
    *,
    micro_batches: int = 8,
    mode: AttackMode = "eval",
) -> GradientNoise:
    """The noise of the gradient at ``x_adv``, from its parts.

    Args:
        model: Left as found: ``.grad``, mode, buffers.
        x_adv: (N, C, H, W) examples, drawn independently of each other. For a training step's noise they are
            adversarial examples of the present weights.
        y: (N,) or (N, K).
        criterion: ``(logits, y) -> (B,)``.
        micro_batches: M >= 2 parts of equal size; what is left over is not used. M = N is the least variance.
        mode: ``eval``: running statistics, no dropout, so that an example's gradient is its own.
            ``train_frozen_stats``: as in a training step with batches of N / M; then BatchNorm couples the examples
            of a part, and ``trace`` is size times the variance of such a batch's gradient. ``train`` is refused: it
            changes the buffers.

    Raises:
        UserError: For less than 2 parts or more parts than examples, or mode ``train``.
    """
    if mode == "train":
        raise UserError("mode", mode, "eval | train_frozen_stats")
    if not 2 <= micro_batches <= len(x_adv):
        raise UserError("micro_batches", micro_batches, f"2 to {len(x_adv)}: the number of examples")
    size = len(x_adv) // micro_batches
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(part: int) -> Sequence[Tensor]:
        rows = slice(part * size, (part + 1) * size)
        with torch.enable_grad():
            loss = criterion(model(x_adv[rows]), y[rows]).mean()
            return torch.autograd.grad(loss, parameters, materialize_grads=True)

    with attack_mode(model, mode):
        return noise_of(map(gradient, range(micro_batches)), size)


def noise_of(gradients: Iterable[Sequence[Tensor]], size: int) -> GradientNoise:
    """The noise from mean gradients of independent micro-batches.

        S = sum_m |g_m - g|^2 / (M - 1),   tr(Sigma) = size * S,   |G|^2 = |g|^2 - S / M,   g the mean of all g_m

    Args:
        gradients: M >= 2 times one tensor for each parameter. Taken one after the other: one mean is kept.
        size: Examples in each micro-batch.

    Raises:
        UserError: For less than two.
    """
    count, mean, spread = 0, [], torch.zeros(())
    for gradient in gradients:
        count += 1
        if count == 1:
            mean = [g.detach().clone() for g in gradient]
            spread = torch.zeros((), dtype=finest(mean[0].device), device=mean[0].device)
            continue
        # Welford's recurrence: no difference of two large sums
        away = [g.detach() - m for g, m in zip(gradient, mean, strict=True)]
        spread = spread + (count - 1) / count * _squared_norm(away)
        torch._foreach_add_(mean, away, alpha=1 / count)
    if count < 2:
        raise UserError("gradients", count, "at least 2 micro-batches")
    variance = spread / (count - 1)
    return GradientNoise(size * variance, _squared_norm(mean) - variance / count)


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.to(finest(t.device)).square().sum() for t in tensors]).sum()


class GradientNoiseScale(Measured):
    """How noisy the gradient of training is at adversarial images of the present weights.

    The probe has equally many images of each class. So it is the noise of balanced batches, also where training is on a
    long tail; and as the shares of the classes are fixed, not drawn, ``gradient_squared_norm`` is biased low by the
    variance between classes over the number of examples.
    """

    names: ClassVar[tuple[str, ...]] = ("gradient_noise_trace", "gradient_squared_norm", "gradient_noise_scale")

    kind: Literal["gradient_noise"] = "gradient_noise"
    examples: Annotated[Whole, Field(ge=2)] = 256
    micro_batches: Annotated[Whole, Field(ge=2)] = 8

    def __call__(self, probe: Probe) -> dict[str, float]:
        """tr(Sigma), |G|^2 and their ratio (see ``GradientNoise``) of the training criterion."""
        batch, noise = probe.batch(self.examples)
        criterion = probe.recipe.balance.train_at(batch)
        # By class the images are in order: parts must not be of single classes
        order = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(0)).to(batch.x.device)
        x_adv, y = probe.attacked(batch, noise)[order], batch.y[order]
        parts = min(self.micro_batches, len(x_adv))
        found = gradient_noise(probe.model, x_adv, y, criterion, micro_batches=parts)
        return dict(zip(self.names, map(float, (found.trace, found.squared_norm, found.scale)), strict=True))
