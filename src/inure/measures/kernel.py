"""How far the tangent kernel of a net moves while it trains (Li et al., 2023, arXiv:2312.02236)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..libraries import torch
from ..memory import Facts
from ..models.modes import BatchNormMode
from ..settings.config import Whole
from ..types import Memory
from .measure import Measured, Probe

_PREVIOUS = "kernel.previous"


class Kernel(Measured):
    """The trace kernel at fixed images: its distance from the one at the last look, and its spectrum.

    A kernel that no longer moves is what the phase switch of Li et al. waits for.

    Note:
        The readable part of the paper names kernel distance, specialisation and effective rank, not how many images
        or logits they are of, nor a rule for the switch: the switch epoch was chosen by hand. One image's row of the
        kernel costs as many backward passes as there are classes.
    """

    names: ClassVar[tuple[str, ...]] = ("kernel_distance", "kernel_trace", "kernel_rank", "kernel_top_share")

    kind: Literal["kernel"] = "kernel"
    every: Annotated[Whole, Field(ge=1)] = 5
    examples: Annotated[Whole, Field(ge=2)] = 100
    on: Literal["clean", "adversarial"] = "clean"
    """``adversarial``: at the attack's images, which move too."""
    bn_mode: BatchNormMode = "running"
    """``batch``: BatchNorm sees all ``examples`` at once; every entry then depends on all of them, and costs as many
    times more."""

    def remember(self, facts: Facts) -> Memory:
        """The kernel of the last look; zero before the first."""
        size = self.examples
        return {_PREVIOUS: torch.zeros(size, size, device=facts.device)}

    def __call__(self, probe: Probe) -> dict[str, float]:
        """At the first look there is no distance."""
        from ..kernels import effective_rank, kernel_distance, spectrum, top_share, trace_kernel

        batch, noise = probe.batch(self.examples)
        x = batch.x if self.on == "clean" else probe.attacked(batch, noise)
        found = trace_kernel(probe.model, x, bn_mode=self.bn_mode)
        previous = probe.memory[_PREVIOUS][: len(x), : len(x)]
        eigenvalues = spectrum(found)
        values = {
            "kernel_trace": float(found.diagonal().sum()),
            "kernel_rank": float(effective_rank(eigenvalues)),
            "kernel_top_share": float(top_share(eigenvalues)),
        }
        if previous.any():
            values["kernel_distance"] = float(kernel_distance(previous, found))
        previous.copy_(found)
        return values
