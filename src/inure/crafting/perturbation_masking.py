"""Perturbation random masking (Mo et al., 2022, arXiv:2210.07540): before each step parts of it start again."""

from __future__ import annotations

from pydantic import Field, PrivateAttr

from ..libraries import Tensor, nn, torch
from ..schedules import Share, warm
from ..settings.config import Settings, Whole
from ..settings.errors import UserError
from ..types import Images


class PerturbationMasking(Settings):
    """Before each gradient the perturbation is set to zero on patches drawn anew: x_adv <- x + M * (x_adv - x).

    The gradient is taken at the masked image, with respect to the masked image, so that hidden patches have one too
    and move with the step. Of G^2 patches floor(G^2 (1 - r)) are hidden, r = min(progress / warmup, 1): a curriculum
    of perturbations that grow, since a patch that was hidden has only the steps since then to move.

    Note:
        As in the official code nothing is masked after the last step, so that a patch hidden there ends with one
        step; ``final_mask`` masks the result too. The readable part of the paper leaves open which is meant. Its code
        shuffles a Python list at every step, also where masking is off; here it is one sort on the device.
    """

    warmup: Share = 0.25
    """Share of training over which masking fades out; the paper's code: 10 of 40 epochs."""
    patch: Whole = Field(default=4, ge=1)
    """Side of a patch in pixels. The paper's code: 4 at 32 pixels, 16 at 224, also for Swin, whose own is smaller."""
    per_example: bool = False
    """A mask of its own for every image; by default one for the batch, as in the official code."""
    final_mask: bool = False
    """Whether the attack's result is masked too."""
    _hidden: float = PrivateAttr(default=0.0)

    def prepare(self, model: nn.Module) -> None:
        """Look at the size of the net's images, as far as it is known.

        Raises:
            UserError: If patches do not tile them.
        """
        for side in getattr(model, "img_size", None) or ():
            self._patches(side)

    def begin(self, model: nn.Module, progress: float) -> None:
        """``progress`` decides how many patches are hidden."""
        self._hidden = 1 - warm(progress, self.warmup)

    def step(self, k: int, x_adv: Images, x: Images) -> Images:
        """The image at which the next gradient is taken.

        Raises:
            UserError: If patches do not tile the images.
        """
        rows, columns = (self._patches(side) for side in x.shape[2:])
        count = int(rows * columns * self._hidden)
        if not count:
            return x_adv
        shown = self._shown(len(x) if self.per_example else 1, rows, columns, count, x)
        return torch.where(shown, x_adv, x)

    def finish(self, x_adv: Images, x: Images) -> Images:
        """The result of the attack."""
        return self.step(0, x_adv, x) if self.final_mask else x_adv

    def end(self) -> None:
        """Hide nothing."""
        self._hidden = 0.0

    def _shown(self, size: int, rows: int, columns: int, count: int, like: Tensor) -> Tensor:
        """(size, 1, H, W) bool, false on ``count`` patches of each."""
        scores = torch.rand(size, rows * columns, device=like.device)
        hidden = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(count, dim=1).indices, True)
        cells = ~hidden.view(size, 1, rows, 1, columns, 1)
        return cells.expand(-1, -1, -1, self.patch, -1, self.patch).reshape(size, 1, *like.shape[2:])

    def _patches(self, side: int) -> int:
        if side % self.patch:
            allowed = f"a divisor of {side}, the side of the images"
            raise UserError("crafting.perturbation_masking.patch", self.patch, allowed)
        return side // self.patch
