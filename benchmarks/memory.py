"""Peak memory of a PGD-10 training step against a standard step of the same batch.

    python benchmarks/memory.py --net deit_tiny --batch 256

On a CPU each measurement is a fresh process: its peak resident memory less what it held before the first step
(net, optimizer and batch). On CUDA it is the allocator's peak less what was allocated before.
"""

import argparse
import multiprocessing
import resource
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from training_step import NETS, Bench

from inure.methods import Standard


def peak(net: str, batch: int, device: str, adversarial: bool) -> float:
    """MiB above the start after two steps: the second one has the optimizer's state and warm caches."""
    bench = Bench(net, batch, device, "32", compiled=False, channels_last=False)
    if not adversarial:
        bench.method = Standard()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        bench.step()
        bench.step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize() / 2**10
    bench.step()
    bench.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    table = Table("net", "batch", "standard step, MiB", "PGD-10 step, MiB", "ratio")
    for net in options.net or ["deit_tiny", "resnet18"]:
        found = []
        for adversarial in (False, True):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.append(pool.apply(peak, (net, options.batch, options.device, adversarial)))
        table.add_row(net, str(options.batch), f"{found[0]:.0f}", f"{found[1]:.0f}", f"{found[1] / found[0]:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
