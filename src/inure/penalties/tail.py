"""TAIL: the feature penalty of REAT for rare classes (Li et al., 2023, arXiv:2307.10205)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..libraries import Tensor, torch
from ..losses import hard
from ..memory import CLASS_COUNTS
from ..settings.config import Real, Settings
from ..types import Labels, PerExample
from .penalty import Outer


class TAIL(Settings):
    """weight * mean over the images b of rare classes, and over all j, of s_bj KL(softmax z_b || softmax z_j).

    z are the pooled features of the adversarial images, those of b detached; s_bj = V_b + V_j, negative where b and j
    share their class (j = b included), V = sqrt(N / n) of n examples of a class. Minimised with ``sign=1``, other
    classes come towards the rare one and its own images part. 0 where the batch holds no rare class.

    Note:
        Known from the official code alone; the paper's text was not available, and whether it means this sign is not
        known. In the code a deprecated argument makes one number of the KL of a whole batch, the mean over images and
        features: that is ``reduction=faithful``, about as many times smaller as there are features, and the sign of a
        pair then acts on no pair. Rare classes there are the last by number, one fewer than a third where 3 divides
        the number of classes and none of three; labels that are not sorted by frequency want ``rule=counts``, which
        takes as many, the rarest. With soft labels the likeliest class is meant.
    """

    kind: Literal["tail"] = "tail"
    weight: Annotated[Real, Field(ge=0)] = 1.0
    reduction: Literal["faithful", "pairwise"] = "faithful"
    """``faithful``: as in the code, mean KL of the batch over D; ``pairwise``: as in the formula above."""
    sign: Literal[1, -1] = 1
    """1 as in the code; -1 brings the images of a rare class together and keeps others away."""
    rule: Literal["index", "counts"] = "index"
    """Which classes are rare: the last by number, or those with the fewest training examples."""

    @property
    def features(self) -> bool:
        """Whether the net is asked for its features."""
        return self.weight > 0

    def __call__(self, outer: Outer) -> PerExample:
        """(A * B,), zero but for the images of rare classes; the mean is the penalty."""
        if self.weight == 0:
            return outer.adversarial.new_zeros(len(outer.adversarial))
        counts, z = outer.batch.memory[CLASS_COUNTS], outer.features
        assert z is not None
        y = hard(outer.batch.y).repeat(len(z) // len(outer.batch.x))
        with torch.autocast(z.device.type, enabled=False):  # a difference of near numbers
            values = self._anchored(z, y, counts)
        anchors = self.rare(counts)[y]
        # Masked, not chosen: choosing an unknown number of rows would wait for the device
        return self.sign * self.weight * torch.where(anchors, values, 0.0) * (len(y) / anchors.sum().clamp_min(1))

    def rare(self, counts: Tensor) -> Tensor:
        """(K,) bool for ``counts`` (K,): the rare classes, from position 2 floor(K / 3) + 1 on."""
        place = torch.arange(len(counts), device=counts.device)
        if self.rule == "counts":
            place = counts.argsort(descending=True, stable=True).argsort()
        return place > len(counts) // 3 * 2

    def _anchored(self, z: Tensor, y: Labels, counts: Tensor) -> PerExample:
        """(B,): for every b as if its class were rare, the sum over j of w_bj KL(q_b || p_j).

        w depends on b through its class alone, so that K rows of sums over j do for all b.
        """
        rarity = (counts.sum() / counts.clamp_min(1)).sqrt().to(z.dtype)
        same = torch.arange(len(counts), device=y.device)[:, None] == y
        weights = (rarity[:, None] + rarity[y]) * torch.where(same, -1.0, 1.0) / len(y)  # (K, B)
        if self.reduction == "faithful":
            weights = (weights.sum(1, keepdim=True) / z.numel()).expand_as(weights)
        log_probs = z.log_softmax(1)
        anchor = log_probs.detach()
        probs = anchor.exp()
        entropy = -(probs * anchor).sum(1)
        cross = probs @ (weights @ log_probs).T  # (B, K): every class of an anchor, of which one is its own
        return -(weights.sum(1)[y] * entropy + cross.gather(1, y[:, None]).squeeze(1))
