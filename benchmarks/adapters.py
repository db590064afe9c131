"""What parameters per domain cost: forwards in a mode, mixes per image, a co-training step, a sweep of soups.

    python benchmarks/adapters.py            # forwards and the training step, random images
    python benchmarks/adapters.py --run RUN  # a 19-point sweep of a digits run against 19 separate evaluations

All times of a row come from one process, both sides in turn, medians over the repetitions.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import nn

from inure.attacks import APGD, input_gradient
from inure.averaging.soup import affine_grid
from inure.balance import Balance
from inure.data import load as load_images
from inure.evaluation import SUITES, evaluate
from inure.evaluation.examples import Examples
from inure.evaluation.sweep import sweep
from inure.losses import cross_entropy
from inure.methods import CoTraining
from inure.models import Model, build
from inure.models.adapt import adapt
from inure.models.domains import in_domain
from inure.models.modes import attack_mode, frozen
from inure.recipe.regime import Regime
from inure.runs.load import load
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import train_step
from inure.types import Batch

NET = Model(name="deit_tiny_patch16_224", img_size=32, patch_size=4)


def seconds(part: Callable[[], object]) -> float:
    """One timed call."""
    begin = time.perf_counter()
    part()
    return time.perf_counter() - begin


def ratio(ours: Callable[[], object], theirs: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median seconds of both, in turn."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repetitions)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def forwards(table: Table, batch: int, repetitions: int) -> None:
    """An adapted net in one mode and with a mix per image, over the plain net."""
    net = build(NET, num_classes=10, shape=(3, 32, 32)).eval()
    x = torch.rand(batch, 3, 32, 32)
    rows = torch.rand(batch, 1)
    rows = torch.cat([rows, 1 - rows], 1)
    with torch.no_grad():
        for kind in ("cls_token", "norm"):
            adapted = adapt(net, kind)
            for name, mix in (("clean mode", "clean"), ("a mix per image", rows)):
                ours, theirs = ratio(lambda a=adapted, m=mix: a(x, mix=m), lambda: net(x), repetitions)
                add(table, f"forward, {kind}, {name}", "plain forward", ours, theirs)


def training_step(table: Table, batch: int, repetitions: int) -> None:
    """A co-training step with APGD-2 over the sum of its passes, timed alone."""
    fabric = Fabric(accelerator="cpu", devices=1)
    module = adapt(build(NET, num_classes=10, shape=(3, 32, 32)), "cls_token")
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), 0.01, 0.9))
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
    method = CoTraining(attack=APGD(threat=Linf(epsilon=8 / 255), steps=2, start="zero"))
    local: nn.Module = model.module
    both = torch.cat([x, x])

    def step() -> None:
        train_step(
            fabric,
            model,
            optimizer,
            Batch(x, y, torch.arange(batch), 0.5),
            method=method,
            joints=Joints(balance=Balance(), regime=Regime()),
        )

    def parts() -> None:
        robust = in_domain(local, "robust")
        with attack_mode(local, "eval"), frozen(local):
            for last in (False, False, True):
                input_gradient(robust, x, y, cross_entropy, backward=not last)
        optimizer.zero_grad(set_to_none=True)
        logits = model(both, mix=("clean", "robust"))
        fabric.backward(cross_entropy(logits, torch.cat([y, y])).mean())
        optimizer.step()

    add(table, "co-training step, APGD-2", "the sum of its passes", *ratio(step, parts, repetitions))


def soups(table: Table, run: str) -> None:
    """A 19-point sweep with PGD-20 at each soup over 19 evaluations."""
    net, images, threat = load(run), load_images("digits", "test"), Linf(epsilon=0.2)
    mixes, passes = affine_grid(net.domains), [0, 0]

    def together() -> None:
        found = sweep(net, Examples.of(images, None), mixes, SUITES["pgd20"](threat), threat=threat)
        passes[0] = found.forwards + found.backwards

    def apart() -> None:
        total = 0
        for mix in mixes:
            summary = evaluate(net, images, suite="pgd20", threat=threat, mode=mix).summary
            total += len(images) + sum(a["forwards"] + a["backwards"] for a in summary["attacks"])
        passes[1] = total

    ours, theirs = seconds(together), seconds(apart)
    add(table, f"sweep of {len(mixes)} soups, PGD-20", "separate evaluations", ours, theirs)
    table.add_row("passes of the same", "", f"{passes[0]:,}", f"{passes[1]:,}", f"{passes[0] / passes[1]:.2f}")


def add(table: Table, what: str, over: str, ours: float, theirs: float) -> None:
    """One row."""
    table.add_row(what, over, f"{ours:.3g} s", f"{theirs:.3g} s", f"{ours / theirs:.3f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--run", help="a run of digits/soup, for the sweep")
    options = parser.parse_args()
    table = Table("what", "over", "ours", "theirs", "ratio")
    if options.run:
        soups(table, options.run)
    else:
        forwards(table, options.batch, options.repetitions)
        training_step(table, options.batch, options.repetitions)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
