"""FGSM-PGI (Jia et al., 2022, arXiv:2207.08859): one step from what the last epochs found for the same image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..attacks import FGSM
from ..libraries import Tensor, nn, torch
from ..memory import Facts, everywhere, new_rows, write_rows
from ..models.modes import AttackMode, attack_mode
from ..schedules import Share
from ..settings.config import Real, Settings
from ..settings.errors import UserError
from ..threat import Linf, per_image
from ..types import Batch, Criterion, Images, Losses, Memory, Search
from .pairs import paired_logits
from .pgd_at import PGDAT

_PRIOR, _MOMENTUM, _SIZE, _PERIOD, _START = (
    f"fgsm_pgi.{what}" for what in ("prior", "momentum", "size", "period", "start")
)
_LEVELS = 127
_TINY = 1e-12


class FGSMPGI(Settings):
    """min E[ criterion(f(x_adv), y) + weight * mean over the K logits of (f(x_adv) - f(x_0))^2 ], where x_0 = x + prior
    and x_adv = project(x_0 + step_size * sign(g)), g the gradient of the attack's criterion at x_0.

    The prior belongs to the image: project(x_0 + step_size * sign(m)) - x of its last visit, where m = g / |g|_1 +
    momentum * (m before) (FGSM-MEP). With momentum 0 it is the last x_adv (FGSM-EP). At the first visit, and again
    after each ``reset`` of training, it is a random corner of the ball and m is zero.

    It needs C x H x W numbers for each training image, twice that with momentum (CIFAR-10, float16: 0.6 GB).

    Note:
        Read in the official code (FGSM_MEP.py): step epsilon, weight 10, momentum 0.3, a reset every 40 of 110 epochs,
        label smoothing that leaves 0.6 to the true class in attack and update (``label_smoothing`` 4/9 of ten classes),
        train mode, a start that is a random corner. |g|_1 is the norm of the whole batch there (``norm: batch``); with
        ``image`` an image's prior does not depend on the others. Crops and flips move the image, but there as here not
        its prior. Deviations: images are clamped to [0, 1] at the start too; the prior is kept in units of epsilon, so
        that a ramp of epsilon scales it; the two forwards that train are one, so the attack has its own (one forward
        more, but no gradient of the weights, which the official code computes there and throws away). Not verified:
        the paper's text.
    """

    kind: Literal["fgsm_pgi"] = "fgsm_pgi"
    attack: FGSM = FGSM(start="uniform")
    """Linf. The start is the prior."""
    weight: Annotated[Real, Field(ge=0)] = 10.0
    momentum: Annotated[Real, Field(ge=0)] = 0.3
    norm: Literal["batch", "image"] = "batch"
    """Over what |g|_1 is taken."""
    reset: Annotated[Share, Field(gt=0)] = 40 / 110
    """Share of training after which all priors begin anew."""
    storage: Literal["float32", "float16", "int8"] = "float16"
    """Of the priors: exact, within 2^-12 or 1/254 of epsilon. The momentum is never int8, but float16 then, in units of
    the image's largest entry."""
    attack_mode: AttackMode = "train"

    @field_validator("attack")
    @classmethod
    def _starts_from_the_prior(cls, attack: FGSM) -> FGSM:
        if attack.start != "uniform":
            raise UserError("start", attack.start, "uniform: the prior takes the place of its noise")
        if not isinstance(attack.threat, Linf):
            raise UserError("threat.kind", attack.threat.kind, "linf", "method.kind=pgd_at")
        return attack

    @property
    def couples(self) -> bool:
        """Whether the images of a batch depend on each other's losses, besides through BatchNorm."""
        return self.norm == "batch" and self.momentum > 0

    def with_attack(self, attack: Any) -> PGDAT:
        """What trains with another attack, which has no use for a prior."""
        return PGDAT(attack=attack, attack_mode=self.attack_mode)

    def remember(self, facts: Facts) -> Memory:
        """Prior and momentum of every image, when they began, and the starts of the batch in progress.

        The starts alone differ between processes: each reads its own, in the step that wrote them.
        """
        device, kind = facts.device, getattr(torch, self.storage)
        finer = torch.float16 if kind == torch.int8 else kind
        rows = {_PRIOR: new_rows(facts.examples, *facts.shape, device=device, dtype=kind)}
        if self.momentum:
            rows[_MOMENTUM] = new_rows(facts.examples, *facts.shape, device=device, dtype=finer)
            rows[_SIZE] = new_rows(facts.examples, device=device)
        period = new_rows(facts.examples, device=device, dtype=torch.int32) - 1
        return {**rows, _PERIOD: period, _START: torch.zeros(facts.batch_size, *facts.shape, device=device)}

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """One forward and backward at the prior; takes note of the next one."""
        x, memory, rows = batch.x, batch.memory, batch.index
        period = int(batch.progress / self.reset)
        known = (memory[_PERIOD][rows] == period).view(-1, 1, 1, 1)
        prior = torch.where(known, self._read(memory, rows), torch.rand_like(x).sub(0.5).sign())
        with attack_mode(model, self.attack_mode), _watched(model) as seen:
            x_adv = attack(model, x, batch.y, loss=criterion, noise=_Prior(prior))
        # A crafting trick may have made the gradient zero without a pass
        start, grad = seen.get("start", x_adv), seen.get("grad", torch.zeros_like(x))
        memory[_START][: len(start)] = start  # read in this step by this process alone: not the same in the others
        upward = grad
        if self.momentum:
            upward = grad / self._size(grad) + self.momentum * known * _momentum(memory, rows)
            _take_note(memory, rows, upward)
        threat = getattr(attack, "threat", self.attack.threat)
        step_size = getattr(attack, "step_size", self.attack.step_size)
        step_size = threat.epsilon if step_size is None else step_size
        following = threat.project(threat.ascend(start, upward, step_size), x) - x
        radius = torch.zeros_like(x[:, :1, :1, :1]) + per_image(threat.epsilon, x)
        self._write(memory, rows, following / radius.clamp_min(_TINY))
        write_rows(memory[_PERIOD], rows, torch.full_like(rows, period))
        return x_adv

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward of 2B images: the starts, then the adversarial ones."""
        before, adversarial = paired_logits(model, batch.memory[_START][: len(x_adv)].to(x_adv), x_adv)
        robust = criterion(adversarial, batch.y)
        away = (adversarial - before).square().mean(1)
        return Losses(robust + self.weight * away, {"robust": robust, "prior_distance": away})

    def _size(self, grad: Tensor) -> Tensor:
        """The mean absolute value, which is the L1 norm but for a factor that no sign sees."""
        sizes = grad.abs().mean((1, 2, 3), keepdim=True)
        return (sizes if self.norm == "image" else everywhere(sizes.mean().view(1)).mean()).clamp_min(_TINY)

    def _read(self, memory: Memory, rows: Tensor) -> Tensor:
        prior = memory[_PRIOR][rows].float()
        return prior / _LEVELS if self.storage == "int8" else prior

    def _write(self, memory: Memory, rows: Tensor, prior: Tensor) -> None:
        prior = prior.clamp(-1, 1)
        write_rows(memory[_PRIOR], rows, (prior * _LEVELS).round() if self.storage == "int8" else prior)


def _momentum(memory: Memory, rows: Tensor) -> Tensor:
    return memory[_MOMENTUM][rows].float() * memory[_SIZE][rows].view(-1, 1, 1, 1)


def _take_note(memory: Memory, rows: Tensor, momentum: Tensor) -> None:
    """In units of the image's largest entry: beside the mean of a batch a sure image's are less than float16 has."""
    size = momentum.abs().amax((1, 2, 3))
    write_rows(memory[_MOMENTUM], rows, momentum / torch.where(size > 0, size, 1.0).view(-1, 1, 1, 1))
    write_rows(memory[_SIZE], rows, size)


class _Prior:
    """In place of the noise of a uniform start: what makes that start x + epsilon * prior."""

    def __init__(self, prior: Tensor) -> None:
        self._prior = prior

    def uniform(self, like: Tensor) -> Tensor:
        """(prior + 1) / 2."""
        return (self._prior.to(like) + 1) / 2

    def normal(self, like: Tensor) -> Tensor:
        """Not asked for by an attack whose start is uniform."""
        raise NotImplementedError


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What is seen of the first forward inside: where it was (``start``), and the gradient there (``grad``)."""
    seen: dict[str, Tensor] = {}

    def look(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x = arguments[0]
        if "start" in seen or not x.requires_grad:
            return None
        seen["start"] = x.detach()
        x = x.view_as(x)
        x.register_hook(lambda grad: seen.update(grad=grad.detach()))
        return (x, *arguments[1:])

    hook = model.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()
