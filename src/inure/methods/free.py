"""Free adversarial training (Shafahi et al., 2019, arXiv:1904.12843): the pass that trains also attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ..attacks import FGSM
from ..libraries import Tensor, nn, torch
from ..memory import Facts, read_slots
from ..settings.config import Settings, Whole
from ..settings.errors import UserError
from ..steps.free import DELTA, free_step
from ..threat import Linf
from ..types import Batch, Criterion, Images, Losses, Memory, Search
from .pgd_at import PGDAT


class Free(Settings):
    """Each minibatch is replayed m times; every replay's backward pass updates the weights and the perturbation.

    Training goes through ``step``, whose docstring has the order of operations. The perturbation belongs to the place
    in the minibatch, not to the image: it passes from one minibatch to the next, and from epoch to epoch. An epoch is
    one pass over the data and costs m standard epochs, so a recipe takes ``epochs`` divided by m.

    Note:
        Read in the official code (TensorFlow, and PyTorch for ImageNet): the perturbation is kept in +-epsilon alone,
        the image is clamped to [0, 1] inside the graph (so the perturbation rests at pixels beyond it), a short last
        minibatch uses the first places, and the perturbation starts at zero. The PyTorch version for CIFAR-10 of
        Wong et al. clips the perturbation to the image instead. m is 8 on CIFAR-10 and 4 on ImageNet.
    """

    ignores: ClassVar[tuple[str, ...]] = ("attack",)
    """The attack climbs what is minimised: it is the same pass."""
    refuses: ClassVar[tuple[str, ...]] = ("crafting", "penalties", "perturbation")
    """Joints that ``step`` has no place for."""

    kind: Literal["free"] = "free"
    attack: FGSM = FGSM()
    """Its epsilon and ``step_size`` (None: epsilon). Linf; the start is the last perturbation."""
    replays: Annotated[Whole, Field(ge=1)] = 8
    """m. At 1 each minibatch is trained on with the perturbation of the one before."""

    @field_validator("attack")
    @classmethod
    def _one_kind_of_step(cls, attack: FGSM) -> FGSM:
        if attack.start != "zero":
            raise UserError("start", attack.start, "zero: free training starts from the last perturbation")
        if not isinstance(attack.threat, Linf):
            raise UserError("threat.kind", attack.threat.kind, "linf", "method.kind=pgd_at")
        return attack

    @property
    def step(self) -> Callable[..., dict[str, Tensor]]:
        """What is done with a batch instead of ``train_step``."""
        return free_step

    def with_attack(self, attack: Any) -> PGDAT:
        """What trains with another attack, which needs passes of its own."""
        return PGDAT(attack=attack, attack_mode="train")

    def remember(self, facts: Facts) -> Memory:
        """The perturbation of every place in the minibatch of all processes, zero at first."""
        return {DELTA: torch.zeros(facts.batch_size, *facts.shape, device=facts.device)}

    def craft(self, model: nn.Module, batch: Batch, attack: Search, criterion: Criterion) -> Images:
        """The images as the next replay would see them; no pass."""
        delta = read_slots(batch.memory[DELTA], len(batch.x))
        return self.attack.threat.project(batch.x + delta, batch.x)

    def losses(self, model: nn.Module, batch: Batch, x_adv: Images, criterion: Criterion) -> Losses:
        """One forward on the perturbed images, as a replay makes it; for BatchNorm statistics."""
        return Losses(criterion(model(x_adv), batch.y), {})
