"""What AutoAttack costs here: passes, wall time against the naive cascade of the tests, memory.

    python benchmarks/evaluation.py counts ORACLE IMAGES    # a folder with net.py, weights.pt, verdicts.json
    python benchmarks/evaluation.py counts-standard RUN     # a net trained without attacks: full steps against ours
    python benchmarks/evaluation.py time ORACLE IMAGES      # ours against naive, in turn, one process
    python benchmarks/evaluation.py memory                  # peak memory at 1,000 and 10,000 examples
    python benchmarks/evaluation.py gpu RUN                 # 10,000 images, searches in bfloat16

Passes do not depend on the machine. Ratios of times come from one process, both sides in turn.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inure.data import load as load_images
from inure.evaluation import SUITES, evaluate
from inure.runs.load import load
from inure.threat import Linf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "evaluation"))
from naive_cascade import Counting, cascade  # noqa: E402

EPSILON = 8 / 255


def passes(summary: dict[str, Any]) -> tuple[int, int]:
    """Example-forwards and example-backwards of all attacks, verdicts included."""
    return sum(a["forwards"] for a in summary["attacks"]), sum(a["backwards"] for a in summary["attacks"])


def counts(oracle: Path, images: Path) -> None:
    """The suite autoattack against the reference's counts and verdicts."""
    reference = json.loads((oracle / "verdicts.json").read_text())
    net, data = load(f"{oracle / 'net.py'}:build", oracle / "weights.pt"), load_images(str(images), "test").head(128)
    found = evaluate(net, data, suite="autoattack", threat=Linf(epsilon=EPSILON), quiet=False)
    theirs = reference["cascade"]["attacks"]
    for attack in found.summary["attacks"]:
        other = theirs[attack["name"]]
        standing = round(attack["robust_accuracy"] * 128)
        passes_here = f"forwards {attack['forwards']:,} ({other['forwards']:,}), backwards {attack['backwards']:,}"
        print(f"{attack['name']}: standing {standing} ({other['standing_after']}), {passes_here} "
              f"({other['forwards_with_gradient']:,})")  # fmt: skip
    forwards, backwards = passes(found.summary)
    total = sum(a["forwards"] for a in theirs.values()), sum(a["forwards_with_gradient"] for a in theirs.values())
    print(f"in all: forwards {forwards / total[0]:.3f}, backwards {backwards / total[1]:.3f} of the reference's")


def counts_standard(run: str, examples: int) -> None:
    """Ours against a cascade in which every attack runs all steps on what it is given, on images that fall."""
    net, data = load(run), load_images(source_of(run), "test").head(examples)
    falls = ~evaluate(net, data, suite="apgd_ce", threat=Linf(epsilon=EPSILON)).robust
    data = data.subset(falls.nonzero().flatten())
    found = evaluate(net, data, suite="autoattack", threat=Linf(epsilon=EPSILON))
    given, full = round(found.summary["clean_accuracy"] * len(data)), [0, 0]
    print(f"{examples - len(data)} of {examples} stand after APGD-CE and are left out; of the others {given} are right")
    costs = {"apgd-ce": (102, 101), "apgd-t": (1 + 9 * 102, 9 * 101), "fab-t": (1 + 9 * 201, 900), "square": (5001, 0)}
    for attack in found.summary["attacks"]:
        forwards, backwards = costs[attack["name"]]
        full = [full[0] + given * forwards, full[1] + given * backwards]
        given = round(attack["robust_accuracy"] * len(data))
        print(f"{attack['name']}: {given} standing, {attack['forwards']:,} forwards, {attack['backwards']:,} backwards")
    ours = passes(found.summary)
    print(f"forwards {ours[0] / full[0]:.3f}, backwards {ours[1] / full[1]:.3f} of full steps")


def source_of(run: str) -> str:
    """The data of a run's recipe."""
    from inure.runs.run import Run

    data = Run(Path(run)).recipe().data
    return data.test or data.source


def wall_time(oracle: Path, images: Path, examples: int, steps: int, queries: int, repetitions: int) -> None:
    """The cascade, shortened on both sides alike, against its naive form."""
    from test_naive_cascade import short_autoattack

    SUITES["short"] = lambda threat: short_autoattack(threat, steps, queries)
    net, data = load(f"{oracle / 'net.py'}:build", oracle / "weights.pt"), load_images(str(images), "test")
    data = data.head(examples)
    x, y = data.batch(torch.arange(examples)).float() / 255, data.labels
    threat, verdicts = Linf(epsilon=EPSILON), {}

    def naive() -> None:
        verdicts["naive"] = int(cascade(net, x, y, EPSILON, steps=steps, queries=queries)["square"].sum())

    def ours(name: str, **options: Any) -> Callable[[], None]:
        def run() -> None:
            verdicts[name] = int(evaluate(net, x, y, suite="short", threat=threat, **options).robust.sum())

        return run

    sides: dict[str, Callable[[], None]] = {
        "float32": ours("float32"), "channels_last": ours("channels_last", channels_last=True),
    }  # fmt: skip
    if torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        sides["bfloat16"] = ours("bfloat16", channels_last=True, search_precision="bfloat16")
    best = dict.fromkeys(("naive", *sides), float("inf"))
    for _ in range(repetitions):
        for name, side in {"naive": naive, **sides}.items():
            begin = time.process_time()
            side()
            best[name] = min(best[name], time.process_time() - begin)
            print(f"{name}: {best[name]:.1f} s of CPU time, {verdicts[name]} of {examples} standing", flush=True)
    for name in sides:
        print(f"{name}: {best['naive'] / best[name]:.2f} x as fast as the naive cascade")


def memory() -> None:
    """Peak memory of a child process at 1,000 and at 10,000 examples of CIFAR size."""
    peaks = {}
    for examples in (1_000, 10_000):
        command = [sys.executable, __file__, "one", str(examples)]
        peaks[examples] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{examples} examples: {peaks[examples] / 1024:.0f} MiB")
    print(f"ratio {peaks[10_000] / peaks[1_000]:.2f}")


def one(examples: int) -> None:
    """Evaluate so many random images, kept as bytes as data sets are, and print the peak in KiB."""
    from inure.data import ImageSet

    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (examples, 3, 32, 32), dtype=torch.uint8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 10))
    labels = torch.cat([net(part.float() / 255).argmax(1) for part in pixels.split(500)])
    names = [str(k) for k in range(10)]
    evaluate(net, ImageSet.from_arrays(pixels, labels, tuple(names)), suite="quick", threat="linf:0.001")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def gpu(run: str, examples: int) -> None:
    """Seconds of AutoAttack with searches in bfloat16, and the naive form on 512 images."""
    data = load_images(source_of(run), "test").head(examples)
    net = load(run).cuda()
    for name, options in {"bfloat16": {"search_precision": "bfloat16"}, "float32": {}}.items():
        begin = time.perf_counter()
        found = evaluate(
            net, data, suite="autoattack", threat=Linf(epsilon=EPSILON), device="cuda", batch_size=1024,
            channels_last=True, quiet=False, **options,
        )  # fmt: skip
        print(f"{name}: {time.perf_counter() - begin:.0f} s, robust {found.summary['robust_accuracy']:.4f}", flush=True)
    few = data.head(512)
    x, y = (few.batch(torch.arange(512)).float() / 255).cuda(), few.labels.cuda()
    begin = time.perf_counter()
    cascade(Counting(net), x, y, EPSILON, batch_size=512)
    print(f"naive, 512 images: {time.perf_counter() - begin:.0f} s")


def main() -> None:
    """Choose by the first word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["counts", "counts-standard", "time", "memory", "gpu", "one"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=1)
    given = parser.parse_args()
    match given.what, given.arguments:
        case "counts", [oracle, images]:
            counts(Path(oracle), Path(images))
        case "counts-standard", [run]:
            counts_standard(run, given.examples)
        case "time", [oracle, images]:
            wall_time(Path(oracle), Path(images), given.examples, given.steps, given.queries, given.repetitions)
        case "memory", []:
            memory()
        case "one", [examples]:
            one(int(examples))
        case "gpu", [run]:
            gpu(run, given.examples)
        case _:
            parser.error(f"other arguments for {given.what}: see the list above")


if __name__ == "__main__":
    main()
