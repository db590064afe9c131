"""What penalties cost: TAIL against its loops, the memory of temporal ensembling, and steps over their passes.

    python benchmarks/penalties.py --net resnet18 --batch 32

Every row: CPU time of one thread (on a GPU: time), part and whole in turn in one process. Random images. Medians, but
of TAIL, which takes less than a slice of a busy machine's time, the least.
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
from torch import Tensor
from torch.nn import functional as F

from inure import memory
from inure.attacks import FGSM, PGD, input_gradient
from inure.balance import Balance
from inure.losses import cross_entropy
from inure.methods import PGDAT
from inure.models import Model, build
from inure.models.modes import attack_mode, frozen
from inure.penalties import TAIL, GradAlign, Outer, TemporalEnsembling
from inure.recipe.regime import Regime
from inure.steps import Joints
from inure.threat import Linf
from inure.training.step import train_step
from inure.types import Batch

LINF = Linf(epsilon=8 / 255)
NETS = {
    "deit_tiny": Model(name="deit_tiny_patch16_224", img_size=32, patch_size=4),
    "resnet18": Model(name="preact_resnet18"),
    "wrn10_1": Model(name="wrn10_1"),
}
EXAMPLES, CLASSES, WIDTH, SIZE = 50_000, 10, 512, 128
LONG_TAILED = torch.tensor([5000.0, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100], dtype=torch.float64)
TE = TemporalEnsembling(start=0, end=0)


def tail_loop(tail: TAIL, z: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """TAIL anchor by anchor and pair by pair; of ``faithful`` every pair has the one divergence of its anchor."""
    rare, v, log_probs = tail.rare(counts), (counts.sum() / counts).sqrt().to(z.dtype), z.log_softmax(1)
    total, anchors = z.new_zeros(()), 0
    for b in range(len(y)):
        if not rare[y[b]].item():
            continue
        anchor, anchors = z[b].detach().softmax(0), anchors + 1
        divergence = F.kl_div(log_probs, anchor.expand_as(z), reduction="none").mean()
        for j in range(len(y)):
            if tail.reduction == "pairwise":
                divergence = F.kl_div(log_probs[j], anchor, reduction="sum")
            sign = -1 if y[j].item() == y[b].item() else 1
            total = total + sign * (v[y[b]] + v[y[j]]) * divergence / len(y)
    return tail.sign * tail.weight * total / max(anchors, 1)


class Tails:
    """A batch of a long-tailed CIFAR-10 (imbalance 50), drawn as it is or balanced; TAIL of it, with its gradient."""

    def __init__(self, tail: TAIL, balanced: bool, device: str) -> None:
        torch.manual_seed(0)
        self.tail, self.counts = tail, LONG_TAILED.to(device)
        self.z = torch.randn(SIZE, WIDTH, device=device, requires_grad=True)
        shares = torch.ones_like(LONG_TAILED) if balanced else LONG_TAILED
        self.y = torch.multinomial(shares, SIZE, replacement=True).to(device)
        batch = Batch(self.z, self.y, self.y, 0.5, {memory.CLASS_COUNTS: self.counts})
        net = torch.nn.Identity()
        self.outer = Outer(net, PGDAT(), batch, self.z, self.z, None, self.z, None, cross_entropy)

    def vectorised(self) -> Tensor:
        """The penalty of the library."""
        return self._gradient(self.tail(self.outer).mean())

    def looped(self) -> Tensor:
        """The loop."""
        return self._gradient(tail_loop(self.tail, self.z, self.y, self.counts))

    def _gradient(self, value: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(value, self.z)
        return torch.cat([value.detach().view(1, 1).expand(1, WIDTH), grad])


class Steps:
    """One net on one device, steps with penalties, and their passes with nothing between them."""

    def __init__(self, net: str, size: int, device: str, precision: str) -> None:
        torch.manual_seed(0)
        self.fabric = Fabric(
            accelerator=device, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true"
        )
        module = build(NETS[net], num_classes=CLASSES, shape=(3, 32, 32))
        self.model, self.optimizer = self.fabric.setup(module, torch.optim.SGD(module.parameters(), 0.01, 0.9))
        where: Any = self.fabric.device
        facts = memory.Facts(EXAMPLES, torch.full((CLASSES,), 5000.0, device=where), (3, 32, 32), size)
        x, y = torch.rand(size, 3, 32, 32, device=where), torch.randint(CLASSES, (size,), device=where)
        kept = {memory.CLASS_COUNTS: facts.class_counts, **TE.remember(facts)}
        self.batch = Batch(x, y, torch.randperm(EXAMPLES, device=where)[:size], 0.5, kept)
        self.logits = torch.randn(size, CLASSES, device=where)

    def step(self, attack: Any, *penalties: Any) -> Callable[[], object]:
        """A step of training."""
        return lambda: train_step(
            self.fabric,
            self.model,
            self.optimizer,
            self.batch,
            method=PGDAT(attack=attack),
            joints=Joints(balance=Balance(), regime=Regime(), penalties=penalties),
        )

    def passes(self, gradients: int, *, clean: bool = False, aligned: bool = False) -> Callable[[], object]:
        """So many gradients of the images, perhaps a clean forward, and an update, perhaps with a second gradient."""
        net, x, y = self.model.module, self.batch.x, self.batch.y

        def gradient(again: bool) -> Tensor:
            pixels = x.detach().requires_grad_()
            return torch.autograd.grad(cross_entropy(net(pixels), y).sum(), pixels, create_graph=again)[0]

        def run() -> None:
            with self.fabric.autocast(), attack_mode(net, "eval"):
                if clean:
                    with torch.no_grad():
                        net(x)
                with frozen(net):
                    for _ in range(gradients):
                        input_gradient(net, x, y, cross_entropy)
            self.optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(self.model(x), y).mean()
            if aligned:
                with self.fabric.autocast():
                    loss = loss + (gradient(False) * gradient(True)).sum()
            self.fabric.backward(loss)
            self.optimizer.step()

        return run

    def note(self) -> None:
        """What temporal ensembling does beside its clean forward: the memory, and the term of attack and update."""
        TE.update(self.batch, self.logits)


def seconds(
    parts: list[Callable[[], object]], repetitions: int, device: str, of: Callable[[list[float]], float]
) -> list[float]:
    """The median (or another number) ``of`` the times of each, taken in turn."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    times: list[list[float]] = [[] for _ in parts]
    for repetition in range(repetitions + 1):  # the first one warms up
        for part, found in zip(parts, times, strict=True):
            begin = clock()
            part()
            if device == "cuda":
                torch.cuda.synchronize()
            if repetition:
                found.append(clock() - begin)
    return [of(found) for found in times]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("what", "seconds", "over", "seconds", "ratio")

    def row(what: str, whole: float, over: str, part: float) -> None:
        table.add_row(what, f"{whole:.4g}", over, f"{part:.4g}", f"{whole / part:.4f}")

    def timed(*parts: Callable[[], object], times: int = 1, of: Any = statistics.median) -> list[float]:
        return seconds([*parts], times * options.repetitions, options.device, of)

    console = Console()
    for balanced in (False, True):
        for tail in (TAIL(), TAIL(reduction="pairwise")):
            tails = Tails(tail, balanced, options.device)
            assert torch.allclose(tails.vectorised(), tails.looped(), rtol=1e-3, atol=1e-7)
            looped, vectorised = timed(tails.looped, tails.vectorised, times=5, of=min)
            rare = int(tail.rare(tails.counts)[tails.y].sum())
            row(f"TAIL {tail.reduction}, loop, B {SIZE}, D {WIDTH}, {rare} rare", looped, "vectorised", vectorised)
    steps = Steps(options.net, options.batch, options.device, options.precision)
    pgd = PGD(threat=LINF, steps=10)
    whole, passes, plain = timed(steps.step(pgd, TE), steps.passes(10, clean=True), steps.step(pgd))
    (note,) = timed(steps.note, times=20)
    row("memory of temporal ensembling", note, "a PGD-10 step", plain)
    row("PGD-10 step with temporal ensembling", whole, "its passes", passes)
    whole, passes, plain = timed(
        steps.step(FGSM(threat=LINF), GradAlign()), steps.passes(1, aligned=True), steps.step(FGSM(threat=LINF))
    )
    row("FGSM step with GradAlign", whole, "its passes", passes)
    row("the same", whole, "an FGSM step", plain)
    console.print(table)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, 1 thread"
    console.print(f"torch {torch.__version__}, {where}, {options.net}, batch {options.batch}, {options.precision}")


if __name__ == "__main__":
    main()
