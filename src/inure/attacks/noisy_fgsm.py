"""FGSM from anisotropic noise: our instantiation of an idea of Li et al. (2023, arXiv:2312.02236)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..libraries import Tensor, nn, np, torch
from ..losses import cross_entropy
from ..models.modes import frozen
from ..noise import GeneratorNoise
from ..settings.config import Real, Settings
from ..settings.errors import UserError
from ..threat import Linf, per_image
from ..types import Crafting, Criterion, Images, Labels, Noise
from .gradient import crafted_gradient, input_gradient


class NoisyFGSM(Settings):
    """x_adv = clamp(z + step_size * sign of the gradient at z, 0, 1), z = clamp(x + noise * epsilon * s N(0, 1), 0, 1).

    s, one number for each pixel and channel with a root mean square of 1, says where there is more noise: ``data``
    where the images of the batch differ most (their standard deviation), ``gradient`` where the loss is steepest (the
    mean absolute gradient over the batch, with a forward and a backward of its own), ``file`` where a file says so.

    For training only: nothing is projected into the ball unless ``clip``.

    Note:
        OURS. The paper (as its reviews tell) cures catastrophic overfitting by anisotropic noise; its formula, its
        scale, and whether the noise comes before or after the step were not found. Nothing here reproduces it.
    """

    kind: Literal["noisy_fgsm"] = "noisy_fgsm"
    threat: Linf = Linf()
    noise: Annotated[Real, Field(ge=0)] = 1.0
    """Root mean square of the noise in multiples of epsilon; 0 is FGSM."""
    scale: Literal["data", "gradient", "file"] = "data"
    file: str | None = None
    """With ``scale=file``: a .npy of non-negative numbers, (C, H, W) or what broadcasts to it."""
    step_size: Annotated[Real, Field(ge=0)] | None = None
    """In the units of epsilon. None: epsilon."""
    clip: bool = False
    """Whether the result is projected into the ball."""

    @property
    def couples(self) -> bool:
        """Whether the images of a batch depend on each other's losses."""
        return self.scale == "gradient"

    @model_validator(mode="after")
    def _file_where_asked(self) -> NoisyFGSM:
        if (self.scale == "file") != (self.file is not None):
            raise UserError("file", self.file, "a .npy file with scale=file, else nothing")
        return self

    def of_any_shape(self) -> NoisyFGSM:
        """The same passes without a file, which is of one shape."""
        return self.model_copy(update={"scale": "data", "file": None}) if self.scale == "file" else self

    def check(self, shape: tuple[int, ...]) -> None:
        """Before anything is trained: is there such a file, and does it fit images of ``shape``, (C, H, W)?

        Raises:
            UserError: If not.
        """
        if self.file is not None:
            self._from_file(shape, torch.device("cpu"), torch.float32)

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        *,
        loss: Criterion = cross_entropy,
        crafting: Crafting | None = None,
        noise: Noise | None = None,
    ) -> Images:
        """As ``PGD.__call__``. Passes: one forward and backward, two with ``scale=gradient``."""
        step_size = self.threat.epsilon if self.step_size is None else self.step_size
        with frozen(model):
            s = self._scale(model, x, y, loss)
            z = (noise or GeneratorNoise()).normal(x)
            x_adv = (x + self.noise * per_image(self.threat.epsilon, x) * s * z).clamp(0, 1)
            x_adv, grad = crafted_gradient(model, x_adv, x, y, loss, crafting)
        x_adv = self.threat.ascend(x_adv, grad, step_size)
        return (self.threat.project(x_adv, x) if self.clip else x_adv.clamp(0, 1)).detach()

    def _scale(self, model: nn.Module, x: Images, y: Labels, loss: Criterion) -> Tensor:
        """(C, H, W), or what broadcasts to it; ones where all are equal to zero."""
        if self.file is not None:
            s = self._from_file(x.shape[1:], x.device, x.dtype)
        elif self.scale == "data":
            s = x.std(0, correction=0)
        else:
            s = input_gradient(model, x, y, loss)[0].abs().mean(0)
        size = s.square().mean().sqrt()
        return torch.where(size > 0, s / torch.where(size > 0, size, 1), 1)

    def _from_file(self, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
        assert self.file is not None
        s = _read(self.file, _stamp(self.file), device, dtype)
        try:
            return s.expand(*shape)
        except RuntimeError:
            raise UserError("file", f"{self.file} of shape {(*s.shape,)}", f"what broadcasts to {(*shape,)}") from None


def _stamp(file: str) -> tuple[int, int] | None:
    """What changes with the file; None if it is not there."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4)
def _read(file: str, stamp: tuple[int, int] | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Once for a file as it is and a device: a copy at each step would wait for the device."""
    try:
        numbers = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError("file", file, f"a .npy file of numbers ({error})") from None
    found = torch.from_numpy(np.asarray(numbers, dtype=np.float32))
    if not (found.isfinite() & (found >= 0)).all():
        raise UserError("file", file, "numbers that are finite and not negative")
    return found.to(device, dtype)
