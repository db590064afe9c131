"""RoBal's outer loss: margins and a prior on cosine logits (Wu et al., 2021, arXiv:2104.02703)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..losses import cross_entropy
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Labels, Logits, PerExample
from .class_weights import counts_of, less_at_label, log_prior


class RoBal(Settings):
    """CE(scale (z - m_y e_y) + tau_b log(prior), y), m_y = margin + (tau_m / scale) log(n_y / n_min).

    For cosines: the net has ``model.head.kind=cosine`` with scale 1, and the criterion says so where it has not. The
    defaults are "N" (natural accuracy) of the official code on CIFAR-10-LT; "R": tau_b 1.5, tau_m 0.3. In RoBal the
    attack climbs plain cross-entropy of the unscaled cosines (``balance.attack`` as it is by default), and the method
    adds beta KL(f(x) || f(x_adv)): ``method.kind=pgd_kl``.

    Soft labels: every class has its share of its margin. A class without examples counts as having one.
    """

    needs_cosine: ClassVar[bool] = True

    kind: Literal["robal"] = "robal"
    scale: Annotated[Real, Field(gt=0)] = 10.0
    margin: Annotated[Real, Field(ge=0)] = 0.1
    """Of every class, in cosines."""
    tau_m: Annotated[Real, Field(ge=0)] = 0.0
    """More margin for classes with many examples."""
    tau_b: Annotated[Real, Field(ge=0)] = 1.2
    """Strength of the prior, as tau of balanced softmax."""

    def at(self, batch: Batch) -> Criterion:
        """The criterion with the counts of the run."""
        prior = log_prior(counts_of(batch))
        margins = (self.margin + self.tau_m / self.scale * (prior - prior.min())).to(batch.x)
        shift = (self.tau_b * prior).to(batch.x)

        def criterion(logits: Logits, y: Labels) -> PerExample:
            return cross_entropy(self.scale * less_at_label(logits, y, margins) + shift, y)

        return criterion
