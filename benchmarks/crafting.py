"""What the tricks of crafting cost and save, and a TRADES step over its passes.

    python benchmarks/crafting.py --net deit_tiny --batch 64
    python benchmarks/crafting.py --net deit_tiny --batch 256 --device cuda --precision bf16

Every row: medians of CPU time of one thread (on a GPU: of time), part and whole in turn in one process. Random images.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from inure.attacks import PGD, input_gradient
from inure.balance import Balance
from inure.crafting import AttentionDropping, PerturbationMasking, TokenDropping, Tricks
from inure.losses import kl
from inure.methods import PGDAT, TRADES
from inure.models import Model, build
from inure.models.modes import attack_mode, frozen
from inure.recipe.regime import Regime
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import train_step
from inure.types import Batch

STEPS, LINF = 10, Linf(epsilon=8 / 255)
NETS = {
    "deit_tiny": Model(name="deit_tiny_patch16_224", img_size=32, patch_size=4),
    "vit_digits": Model(name="vit_digits", patch_size=4),
}
BOTH = Tricks(attention_dropping=AttentionDropping(warmup=1), perturbation_masking=PerturbationMasking(warmup=1))


class Bench:
    """One net on one device."""

    def __init__(self, net: str, size: int, device: str, precision: str) -> None:
        torch.manual_seed(0)
        self.fabric = Fabric(
            accelerator=device, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true"
        )
        module = build(NETS[net], num_classes=10, shape=(3, 32, 32))
        self.model, self.optimizer = self.fabric.setup(module, torch.optim.SGD(module.parameters(), 0.01, 0.9))
        x, y = torch.rand(size, 3, 32, 32), torch.randint(10, (size,))
        self.x, self.y = x.to(self.fabric.device), y.to(self.fabric.device)

    @property
    def net(self) -> Any:
        """The net itself, as the attack sees it."""
        return self.model.module

    def step(self, method: Any, crafting: Tricks | None = None, progress: float = 0.5) -> Callable[[], object]:
        """A step of training."""
        batch = Batch(self.x, self.y, torch.arange(len(self.x)), progress)
        return lambda: train_step(
            self.fabric,
            self.model,
            self.optimizer,
            batch,
            method=method,
            joints=Joints(balance=Balance(), regime=Regime(), crafting=crafting),
        )

    def attack(self, crafting: TokenDropping | None = None) -> Callable[[], object]:
        """The attack alone."""

        def run() -> None:
            with self.fabric.autocast(), attack_mode(self.net, "eval"):
                if crafting is not None:
                    crafting.begin(self.net, 0.5)
                PGD(threat=LINF, steps=STEPS)(self.net, self.x, self.y, crafting=crafting)
                if crafting is not None:
                    crafting.end()

        return run

    def trades_parts(self) -> None:
        """The passes of a TRADES step and nothing between them."""
        x_adv = self.x + 0.01
        with self.fabric.autocast(), attack_mode(self.net, "eval"), frozen(self.net):
            with torch.no_grad():
                clean = self.net(self.x).log_softmax(1)
            for _ in range(STEPS):
                input_gradient(self.net, x_adv, self.y, lambda logits, y: kl(logits, clean))
        self.optimizer.zero_grad(set_to_none=True)
        logits, adversarial = self.model(torch.cat([self.x, x_adv])).chunk(2)
        self.fabric.backward((logits.mean(1) + kl(adversarial, logits.log_softmax(1))).mean())
        self.optimizer.step()

    def masks(self) -> None:
        """What masking does in one step of training."""
        BOTH.perturbation_masking.begin(self.net, 0.5)
        for k in range(STEPS):
            BOTH.perturbation_masking.step(k, self.x, self.x)
        BOTH.perturbation_masking.end()

    def seconds(self, parts: list[Callable[[], object]], repetitions: int) -> list[float]:
        """The median of each, taken in turn."""
        cuda = self.fabric.device.type == "cuda"
        clock = time.perf_counter if cuda else time.process_time
        times: list[list[float]] = [[] for _ in parts]
        for repetition in range(repetitions + 1):  # the first one warms up
            for part, found in zip(parts, times, strict=True):
                begin = clock()
                part()
                if cuda:
                    torch.cuda.synchronize()
                if repetition:
                    found.append(clock() - begin)
        return [statistics.median(found) for found in times]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="deit_tiny")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.net, options.batch, options.device, options.precision)
    table = Table("what", "seconds", "over", "seconds", "ratio")

    def row(what: str, whole: float, over: str, part: float) -> None:
        table.add_row(what, f"{whole:.4g}", over, f"{part:.4g}", f"{whole / part:.4f}")

    pgd_at, trades = PGDAT(attack=PGD(threat=LINF, steps=STEPS)), TRADES(attack=PGD(threat=LINF, start="gaussian"))
    shares = (0.1, 0.5, 0.9, 1.0)
    plain, *tricked = bench.seconds(
        [bench.step(pgd_at), *(bench.step(pgd_at, BOTH, progress=r) for r in shares)], options.repetitions
    )
    for r, seconds in zip(shares, tricked, strict=True):
        row(f"PGD-AT step with both tricks, r = {r}", seconds, "without", plain)
    (masking,) = bench.seconds([bench.masks], 20 * options.repetitions)
    row("ten masks", masking, "the step", plain)
    step, passes = bench.seconds([bench.step(trades), bench.trades_parts], options.repetitions)
    row("TRADES step", step, "its passes", passes)
    rates = (0.05, 0.1, 0.2, 0.3)
    attack, *dropped = bench.seconds(
        [bench.attack(), *(bench.attack(TokenDropping(rate=rate)) for rate in rates)], options.repetitions
    )
    for rate, seconds in zip(rates, dropped, strict=True):
        row(f"attack passes, tokens dropped at {rate}", seconds, "all tokens", attack)
    console = Console()
    console.print(table)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, 1 thread"
    console.print(f"torch {torch.__version__}, {where}, {options.net}, batch {options.batch}, {options.precision}")


if __name__ == "__main__":
    main()
