"""The class-balanced focal loss (Cui et al., 2019, arXiv:1901.05555; focal: Lin et al., 2017, arXiv:1708.02002)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..libraries import F, Tensor
from ..settings.config import Real, Settings
from ..types import Batch, Criterion, Labels, Logits, PerExample
from .class_weights import counts_of, effective_weights, weight_of

_TINY = 1e-12
"""Of 1 - p: a power below 1 has no gradient at 0."""


class ClassBalancedFocal(Settings):
    """w_y times a loss that counts sure examples less; the weights are those of ``weighted``.

    ``sigmoid``, K questions: sum_k of -(1 - q_k)^gamma log q_k, q_k = sigmoid(z_k) at the label and sigmoid(-z_k)
    elsewhere. ``softmax``: -(1 - p_y)^gamma log p_y. The defaults are what the code of RoBal (arXiv:2104.02703) has
    as its baseline. Soft labels: every class has its share of either term.

    In an attack the softmax form climbs as cross-entropy does under hard labels, since it depends on p_y alone, and a
    run says so; the sigmoid form does not.

    Note:
        RoBal's code divides by the batch's number of examples, as the mean here does.
    """

    only_hard: ClassVar[bool] = True
    """What ``only_weights`` says holds of hard labels alone."""

    kind: Literal["class_balanced_focal"] = "class_balanced_focal"
    beta: Annotated[Real, Field(ge=0, le=1)] = 0.9999
    gamma: Annotated[Real, Field(ge=0)] = 2.0
    form: Literal["sigmoid", "softmax"] = "sigmoid"

    @property
    def only_weights(self) -> bool:
        """Whether its gradient is that of cross-entropy times a positive number: see ``notices.py``."""
        return self.form == "softmax"

    def at(self, batch: Batch) -> Criterion:
        """The criterion with the counts of the run."""
        weights = effective_weights(counts_of(batch), self.beta).to(batch.x)
        focal = self._sigmoid if self.form == "sigmoid" else self._softmax

        def criterion(logits: Logits, y: Labels) -> PerExample:
            shares = y if y.is_floating_point() else F.one_hot(y, logits.shape[1]).to(logits)
            return weight_of(weights, y) * focal(logits, shares)

        return criterion

    def _sigmoid(self, logits: Logits, shares: Tensor) -> PerExample:
        # Through logsigmoid, whose gradient stays finite where a power of a sigmoid that is 0 has none
        right, wrong = F.logsigmoid(logits), F.logsigmoid(-logits)
        at_label = -(self.gamma * wrong).exp() * right
        elsewhere = -(self.gamma * right).exp() * wrong
        return (shares * at_label + (1 - shares) * elsewhere).sum(1)

    def _softmax(self, logits: Logits, shares: Tensor) -> PerExample:
        logs = logits.log_softmax(1)
        return -(shares * (1 - logs.exp()).clamp_min(_TINY) ** self.gamma * logs).sum(1)
