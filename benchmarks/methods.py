"""What each method of a study costs: the time of training over standard training's, and of a step over its passes.

    python benchmarks/methods.py --study which_method --net wrn10_1 --batch 64
    python benchmarks/methods.py --scale gpu --net resnet18 --device cuda

Every cell's recipe, but for net and batch size, which are the same for all; digits or random images of the net's size.
CPU time of one thread (on a GPU: time), all methods in turn within one process, medians over the repetitions. A pass is
a forward alone, one with the backward to the images, or one with the full backward, each timed by itself; the second
derivative of GradAlign counts as nothing, so that its step must take longer than its passes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from inure import memory
from inure.attacks import input_gradient
from inure.losses import cross_entropy
from inure.models import Model, build
from inure.models.adapters import settle
from inure.models.modes import attack_mode, frozen
from inure.recipe.recipe import Recipe
from inure.recipe.regime import END
from inure.steps import Joints
from inure.study import load_study
from inure.study.jobs import jobs_of
from inure.training.passes import passes
from inure.training.step import step_of
from inure.types import Batch

NETS = {
    "cnn_digits": (Model(name="cnn_digits"), (1, 16, 16)),
    "wrn10_1": (Model(name="wrn10_1"), (3, 32, 32)),
    "resnet18": (Model(name="preact_resnet18"), (3, 32, 32)),
}
CLASSES = 10


class Bench:
    """One method at full strength, on a net of its own."""

    def __init__(self, recipe: Recipe, net: str, size: int, device: str) -> None:
        torch.manual_seed(0)
        self.recipe, (model, shape) = recipe, NETS[net]
        self.fabric = Fabric(accelerator=device, devices=1)
        adapters = recipe.model.adapters
        module = build(model.model_copy(update={"adapters": adapters}), num_classes=CLASSES, shape=shape)
        self.averager = recipe.averaging.build(module) if recipe.averaging else None
        x, y = torch.rand(size, *shape), torch.arange(size) % CLASSES
        if module.mixture is not None:
            settle(module, x[:2])
        self.model, self.optimizer = self.fabric.setup(module, recipe.optimizer.build(module))
        self.x, self.y = x.to(self.fabric.device), y.to(self.fabric.device)
        remembered = memory.begin(recipe, memory.facts_of(y, CLASSES, shape, size, self.fabric.device))
        self.batch = Batch(self.x, self.y, torch.arange(size, device=self.fabric.device), END, remembered)

    def step(self) -> None:
        """What training does with a batch."""
        recipe = self.recipe
        step_of(recipe.method)(
            self.fabric,
            self.model,
            self.optimizer,
            self.batch,
            method=recipe.method,
            joints=Joints(
                balance=recipe.balance,
                regime=recipe.regime,
                penalties=recipe.penalties,
                perturbation=recipe.perturbation,
                averager=self.averager,
            ),
        )

    def forward(self) -> None:
        """A pass without gradients, as in an attack."""
        with torch.no_grad(), attack_mode(self.model.module, "eval"):
            self.model.module(self.x)

    def to_images(self) -> None:
        """A pass with the backward to the images."""
        with attack_mode(self.model.module, "eval"), frozen(self.model.module):
            input_gradient(self.model.module, self.x, self.y, cross_entropy)

    def update(self) -> None:
        """A pass with the full backward, and the optimizer's step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(cross_entropy(self.model(self.x), self.y).mean())
        self.optimizer.step()


def clock(device: str) -> Callable[[], float]:
    """CPU time of the thread; on a GPU the time when its queue is empty."""

    def of_gpu() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return of_gpu if device == "cuda" else time.thread_time


def medians(calls: dict[str, Callable[[], None]], repetitions: int, now: Callable[[], float]) -> dict[str, float]:
    """Seconds of each, all in turn, after one call that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            begin = now()
            call()
            if repetition:
                taken[name].append(now() - begin)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="which_method")
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--net", default="wrn10_1", choices=NETS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    study = load_study(given.study).at(given.scale).model_copy(update={"seeds": [0]})
    recipes = {job.name: job.recipe for job in jobs_of(study, Path("unused"))}
    benches = {name: Bench(recipe, given.net, given.batch, given.device) for name, recipe in recipes.items()}
    first = next(iter(benches.values()))
    parts = {"forward": first.forward, "images": first.to_images, "update": first.update}
    steps = {name: bench.step for name, bench in benches.items()}
    taken = medians({**parts, **steps}, given.repetitions, clock(given.device))
    standard = next(name for name, recipe in recipes.items() if recipe.method.kind == "standard")
    table = Table("method", "forwards a step", "epochs", "training / standard", "step / passes")
    for name, recipe in recipes.items():
        counted = passes(recipe)
        alone = counted["forwards"] - counted["input_backwards"] - counted["full_backwards"]
        floor = (
            alone * taken["forward"] + counted["input_backwards"] * taken["images"]
            + counted["full_backwards"] * taken["update"]
        )  # fmt: skip
        clean = recipe.regime.phases[-1].until if recipe.regime.phases else 0  # the phases of studies are clean epochs
        mean = clean * taken[standard] + (1 - clean) * taken[name]
        ratio = mean * recipe.epochs / (taken[standard] * recipes[standard].epochs)
        cells = f"{counted['forwards']:g}", f"{recipe.epochs}", f"{ratio:.1f}", f"{taken[name] / floor:.2f}"
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
