"""Tricks that act only while training images are crafted. To add one: write the file, add its field here, its card."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import model_validator

from ..libraries import nn
from ..settings.config import Settings
from ..types import Images
from .attention_dropping import AttentionDropping
from .perturbation_masking import PerturbationMasking
from .token_dropping import TokenDropping


class Tricks(Settings):
    """The tricks of a run, each on with its defaults by its name alone: ``crafting=[attention_dropping]``."""

    attention_dropping: AttentionDropping | None = None
    perturbation_masking: PerturbationMasking | None = None
    token_dropping: TokenDropping | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        return {str(name): {} for name in names} if isinstance(names, list) else value

    def prepare(self, model: nn.Module) -> None:
        """Before the net is compiled.

        Raises:
            UserError: If a trick does not fit the net.
        """
        for trick in self._on:
            if hasattr(trick, "prepare"):
                trick.prepare(model)

    def begin(self, model: nn.Module, progress: float) -> None:
        """Before the first gradient of a step of training."""
        for trick in self._on:
            trick.begin(model, progress)

    def step(self, k: int, x_adv: Images, x: Images) -> Images:
        """The iterate at which gradient ``k`` is taken."""
        for trick in self._on:
            x_adv = trick.step(k, x_adv, x)
        return x_adv

    @property
    def blind(self) -> bool:
        """Whether the coming gradient is known to be zero."""
        return any(getattr(trick, "blind", False) for trick in self._on)

    def finish(self, x_adv: Images, x: Images) -> Images:
        """What becomes of an attack's result."""
        for trick in self._on:
            x_adv = trick.finish(x_adv, x) if hasattr(trick, "finish") else x_adv
        return x_adv

    def end(self) -> None:
        """After the last gradient, also after an exception."""
        for trick in self._on:
            trick.end()

    @property
    def _on(self) -> list[Any]:
        return [trick for _, trick in self if trick is not None]


TRICKS = {name: get_args(field.annotation)[0] for name, field in Tricks.model_fields.items()}

__all__ = ["TRICKS", "AttentionDropping", "PerturbationMasking", "TokenDropping", "Tricks"]
