"""How the outputs of a net answer a data set that has other classes than the net."""

from __future__ import annotations

from dataclasses import dataclass

from ..libraries import F, Tensor, torch
from ..settings.errors import UserError
from ..types import Logits


@dataclass(frozen=True)
class Readout:
    """Logits over K classes of a set, from logits over the classes of a net.

    If every group is one class, the logits of those classes, the others masked away (as is usual for ImageNet-A and
    ImageNet-R). Otherwise the logarithm of the mean probability of each group, ``log((1/|G|) sum_{c in G} p_c)``: the
    mean over a group does not favour classes that many outputs belong to (Geirhos et al., 2019, arXiv:1811.12231,
    and the update of arXiv:1808.08750).

    Raises:
        UserError: If a group is empty, or holds a class twice or one that the net does not have.
    """

    groups: tuple[tuple[int, ...], ...]
    """Outputs of the net that mean class k of the set."""
    classes: int = 1000
    """Outputs of the net."""
    name: str = ""
    """The set, for messages and protocols."""

    def __post_init__(self) -> None:
        every = [output for group in self.groups for output in group]
        if not self.groups or not all(self.groups) or len(set(every)) < len(every):
            raise UserError("readout.groups", self.groups, "groups of outputs, none empty, no output twice")
        if min(every) < 0 or max(every) >= self.classes:
            raise UserError("readout.groups", f"outputs {min(every)} to {max(every)}", f"0 to {self.classes - 1}")

    @property
    def kind(self) -> str:
        """What is done, in words."""
        if self._masks:
            return f"subset of {len(self.groups)} classes"
        return f"{len(self.groups)} groups, mean probability"

    @property
    def _masks(self) -> bool:
        return all(len(group) == 1 for group in self.groups)

    def __call__(self, logits: Logits) -> Logits:
        """(B, classes) to (B, len(groups)), of the same type.

        Raises:
            UserError: If there are not ``classes`` logits.
        """
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise UserError("readout", f"logits of shape {tuple(logits.shape)}", f"(B, {self.classes})")
        if self._masks:
            return logits[:, torch.tensor([group[0] for group in self.groups], device=logits.device)]
        outputs, padding, sizes = self._table(logits.device)
        # The logarithm of a sum of exponentials, never of probabilities: those of a far class are 0 in float32.
        members = F.log_softmax(logits, 1)[:, outputs].masked_fill(padding, -torch.inf)
        return (members.logsumexp(2) - sizes.log()).to(logits.dtype)

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The groups in rows of one length, where those rows are padding, and the sizes of the groups."""
        longest = max(map(len, self.groups))
        rows = [[*group, *[group[0]] * (longest - len(group))] for group in self.groups]
        sizes = torch.tensor([len(group) for group in self.groups], device=device)
        padding = torch.arange(longest, device=device) >= sizes[:, None]
        return torch.tensor(rows, device=device), padding, sizes
