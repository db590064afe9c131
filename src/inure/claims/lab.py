"""Where claims get their nets from: trained when first asked for, kept, and shared by all claims of a scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..display.console import stderr
from ..evaluation.results import SUMMARY
from ..libraries import Tensor, torch
from ..machine import files
from ..recipe.recipe import load_recipe
from ..runs.run import Run
from ..targets.comparison import read_outcomes
from ..types import Scale

SCALES: dict[Scale, str] = {
    "smoke": "digits on a CPU, minutes: shows that the experiment works; its verdicts are about digits",
    "gpu": "CIFAR-10 on one GPU, hours",
    "paper": "ImageNet with the paper's recipe, as far as it is known: many GPUs, days",
}


@dataclass(frozen=True)
class Net:
    """A net to train: a recipe and what differs from it."""

    recipe: str
    overrides: tuple[str, ...] = ()

    def __add__(self, others: Sequence[str]) -> Net:
        return Net(self.recipe, (*self.overrides, *others))


def summary_of(folder: Path) -> dict[str, Any]:
    """What an evaluation found, from its folder."""
    return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Lab:
    """Trains and evaluates what claims ask for; what is there already is not done again.

    Args:
        folder: Of all nets of the scale.
        scale: Which recipes.
        seeds: Each net is trained once with each.
        overrides: Settings for all nets, ``key=value``: other data, fewer epochs.
        examples: At most so many test images; None is all.
        quiet: No progress on stderr.
    """

    folder: Path
    scale: Scale
    seeds: tuple[int, ...] = (0, 1)
    overrides: tuple[str, ...] = ()
    examples: int | None = None
    quiet: bool = False

    def trained(self, name: str, net: Net, seed: int) -> Run:
        """The run of a net."""
        from ..training.train import train

        recipe = load_recipe(net.recipe, [*net.overrides, *self.overrides, f"seed={seed}"])
        folder = self.folder / "nets" / name / f"seed{seed}"
        if Run(folder).info().get("status") != "finished":
            self.say(f"{self.scale}: training {name}, seed {seed}")
        return Run(train(recipe, folder, name=name, resume=True, quiet=self.quiet))

    def evaluated(
        self, run: Run, mode: str | None = None, suite: str = "quick", weights: Literal["best", "last"] | None = None
    ) -> Path:
        """The folder of an evaluation of a run in a mode; None is the usual one, and of ``weights`` those chosen."""
        from ..targets.evaluate import evaluate_target
        from ..targets.request import Request

        name = suite if mode is None else f"{suite}-{mode.replace('=', '').replace(',', '_')}"
        name = name if weights is None else f"{name}-{weights}"
        folder = run.path / "evaluations" / (name if self.examples is None else f"{name}-of-{self.examples}")
        if not (folder / SUMMARY).exists():
            self.say(f"{self.scale}: attacking {run.path.parent.name}, {run.path.name} {mode or weights or ''}")
        file = None if weights is None else run.checkpoints / f"{weights}.safetensors"
        request = Request(
            str(run.path), suite=suite, mode=mode, examples=self.examples, weights=file, out=folder, resume=True,
            quiet=True,
        )  # fmt: skip
        return evaluate_target(request)[0]

    def accuracies(self, folder: Path) -> tuple[float, float]:
        """Clean and robust accuracy of an evaluation."""
        summary = summary_of(folder)
        return summary["clean_accuracy"], summary["robust_accuracy"]

    def right(self, folder: Path, quantity: Literal["clean", "robust"]) -> Tensor:
        """(N,) float64: 1 where an evaluation found the example right, in the order of their numbers."""
        found = read_outcomes(folder)
        return torch.tensor([float(found[index][quantity == "robust"]) for index in sorted(found)]).double()

    def validations(self, run: Run) -> list[dict[str, float]]:
        """Progress, clean and robust accuracy on the validation split at every checkpoint."""
        records = [r for r in files.read_lines(run.metrics) if r.get("event") == "epoch" and r.get("validation")]
        return [{"progress": r["progress"], **r["validation"]} for r in records]

    def for_seeds(self, work: Callable[[int], Any]) -> list[Any]:
        """``work`` of every seed."""
        return [work(seed) for seed in self.seeds]

    def say(self, line: str) -> None:
        """Tell what goes on, on stderr."""
        if not self.quiet:
            stderr().print(line, markup=False)
