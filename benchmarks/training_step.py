"""A PGD-10 training step over the sum of its parts, and what bf16, compile and channels_last bring.

    python benchmarks/training_step.py --net deit_tiny --net resnet18 --batch 64
    python benchmarks/training_step.py --net deit_tiny --device cuda --against compile

All times of a row come from one process, part and whole in turn, medians over the repetitions. Random images.
"""

import argparse
import statistics
import time

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import nn

from inure.attacks import PGD, input_gradient
from inure.balance import Balance
from inure.losses import cross_entropy
from inure.methods import PGDAT
from inure.models import Model, build
from inure.models.modes import attack_mode, frozen
from inure.recipe.regime import Regime
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import train_step
from inure.types import Batch

STEPS = 10
NETS = {
    "deit_tiny": Model(name="deit_tiny_patch16_224", img_size=32, patch_size=4),
    "resnet18": Model(name="preact_resnet18"),
    "wrn10_2": Model(name="wrn10_2"),
}


class Bench:
    """One net on one device, with the step and its parts as functions."""

    def __init__(self, net: str, batch: int, device: str, precision: str, compiled: bool, channels_last: bool) -> None:
        torch.manual_seed(0)
        self.fabric = Fabric(
            accelerator=device, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true"
        )
        module = build(NETS[net], num_classes=10, shape=(3, 32, 32))
        if channels_last:
            module = module.to(memory_format=torch.channels_last)
        if compiled:
            module.compile()
        self.model, self.optimizer = self.fabric.setup(module, torch.optim.SGD(module.parameters(), 0.01, 0.9))
        x, y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        self.batch = Batch(x.to(self.fabric.device), y.to(self.fabric.device), torch.arange(batch), 0.5)
        self.method = PGDAT(attack=PGD(threat=Linf(epsilon=8 / 255), steps=STEPS))

    def step(self) -> None:
        """The whole: what training runs."""
        train_step(
            self.fabric,
            self.model,
            self.optimizer,
            self.batch,
            method=self.method,
            joints=Joints(balance=Balance(), regime=Regime()),
        )

    def gradient(self) -> None:
        """One part: a forward and the gradient of the images; the caller has frozen the net."""
        input_gradient(self.net, self.batch.x, self.batch.y, cross_entropy)

    @property
    def net(self) -> nn.Module:
        """The net itself, as the attack sees it."""
        return self.model.module

    def update(self) -> None:
        """The other part: forward, full backward, optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(cross_entropy(self.model(self.batch.x), self.batch.y).mean())
        self.optimizer.step()

    def seconds(self, part) -> float:
        """One timed call, the device's queue empty before and after."""
        self._wait()
        begin = time.perf_counter()
        part()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def measure(bench: Bench, repetitions: int) -> tuple[float, float]:
    """Median seconds of the step, and of the floor: STEPS gradients and one update, timed alone."""
    bench.step()  # warms up, compiles
    steps, floors = [], []
    for _ in range(repetitions):
        with attack_mode(bench.net, "eval"), frozen(bench.net), bench.fabric.autocast():
            gradients = sum(bench.seconds(bench.gradient) for _ in range(STEPS))
        floors.append(gradients + bench.seconds(bench.update))
        steps.append(bench.seconds(bench.step))
    return statistics.median(steps), statistics.median(floors)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--against", action="append", choices=["bf16", "compile", "channels_last"], default=[])
    options = parser.parse_args()
    table = Table("net", "variant", "step, s", "floor, s", "step / floor", "images/s", "speed-up over float32 eager")
    for net in options.net or ["deit_tiny", "resnet18"]:
        base = None
        for variant in ["", *options.against]:
            bench = Bench(
                net,
                options.batch,
                options.device,
                "bf16" if variant == "bf16" else "32",
                compiled=variant == "compile",
                channels_last=variant == "channels_last",
            )
            step, floor = measure(bench, options.repetitions)
            base = base or step
            cells = [
                f"{step:.3g}",
                f"{floor:.3g}",
                f"{step / floor:.3f}",
                f"{options.batch / step:.1f}",
                f"{base / step:.2f}",
            ]
            table.add_row(net, variant or "float32 eager", *cells)
    console = Console()
    console.print(table)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    capability = torch.backends.cpu.get_cpu_capability()
    console.print(f"torch {torch.__version__}, {where}, {capability}, batch {options.batch}, PGD-{STEPS}")


if __name__ == "__main__":
    main()
