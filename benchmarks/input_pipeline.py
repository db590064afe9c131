"""The share of the input pipeline (order, gather, crop, flip, mix, to float) in a PGD-10 step, data in memory.

python benchmarks/input_pipeline.py --net resnet18 --batch 64
"""

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from training_step import NETS, Bench

from inure.data import Augment, ImageSet, Loader, to_batch


def input_seconds(batch: int, device: torch.device) -> float:
    """Median seconds to make one batch ready for the step."""
    pixels = torch.randint(256, (10_000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(10, (len(pixels),))
    images = ImageSet.from_arrays(pixels, labels)
    augment = Augment(crop_padding=4, flip=True, mixup=0.8, cutmix=1.0, mix_probability=0.5)
    loader = Loader(images, batch_size=batch, seed=0, device=device, augment=augment)
    times, begin = [], time.perf_counter()
    for number, (x, y, _) in enumerate(loader.epoch(0)):
        to_batch(x, y, augment, 10)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        if number == 100:
            break
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", choices=NETS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    table = Table("net", "input, ms", "PGD-10 step, ms", "share")
    for net in options.net or ["deit_tiny", "resnet18"]:
        bench = Bench(net, options.batch, options.device, "32", compiled=False, channels_last=False)
        bench.step()
        step = statistics.median(bench.seconds(bench.step) for _ in range(options.repetitions))
        ready = input_seconds(options.batch, bench.fabric.device)
        table.add_row(net, f"{1e3 * ready:.2f}", f"{1e3 * step:.0f}", f"{100 * ready / step:.2f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
