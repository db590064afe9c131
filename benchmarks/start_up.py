"""How long commands take to start, beside those of an earlier commit, in one call.

    python benchmarks/start_up.py --against 99a4b05 --repetitions 5

Both trees run with the packages of the python that runs this; each command is run in a process of its own, the two
trees by turns. Prints the median seconds of each and their ratio. ``import torch`` alone stands first: what loads torch
cannot be faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[1]
CNN = ["model.name=cnn_tiny", "epochs=1", "evaluation.validation_steps=1", "evaluation.validation_examples=16"]
KINDS = (
    "models", "attacks", "methods", "adapters", "crafting", "optimizers", "joints", "suites", "recipes", "corruptions",
    "shifts", "analyses", "claims", "studies",
)  # fmt: skip
COMMANDS = {
    "a key that does not exist": ["train", "digits/pgd_at", "epoch=1"],
    "a recipe that does not exist": ["train", "digits/pgd_att"],
    "a kind that does not exist": ["train", "digits/pgd_at", "method.kind=trade"],
    "settings that do not go together": ["train", "digits/standard", "regime.steps=1"],
    **{f"list {kind}": ["list", kind] for kind in KINDS},
    "compare": ["compare", "first", "second"],
    "report": ["report", "cnn", "--out", "report.html"],
    "predict, a CNN": ["predict", "cnn", "digit.png"],
    "evaluate, a CNN": ["evaluate", "cnn", "--suite", "fgsm", "--examples", "16", "--out", "found", "-q"],
    "train, a CNN, one step": ["train", "digits/pgd_at", *CNN, "--max-minutes", "1e-6", "-q"],
    "predict, a ViT": ["predict", "vit", "digit.png"],
    "evaluate, a ViT": ["evaluate", "vit", "--suite", "fgsm", "--examples", "16", "--out", "found", "-q"],
    "train, a ViT, one step": ["train", "digits/pgd_at", "--max-minutes", "1e-6", "-q"],
}


def run(source: Path, folder: Path, words: list[str]) -> tuple[float, int]:
    """Seconds of one command, and its exit code. Bytecode is cached, as it is for who uses a program twice."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": ""}
    begin = time.perf_counter()
    ended = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False)
    return time.perf_counter() - begin, ended.returncode


def prepare(source: Path, folder: Path) -> None:
    """Two runs, an image and two evaluations."""
    from PIL import Image

    Image.new("L", (8, 8), 128).save(folder / "digit.png")
    inure = ["-m", "inure"]
    run(source, folder, [*inure, "train", "digits/pgd_at", *CNN, "-q", "--out", "cnn"])
    run(source, folder, [*inure, "train", "digits/pgd_at", *CNN[1:], "-q", "--out", "vit"])
    for out in ("first", "second"):
        run(source, folder, [*inure, "evaluate", "cnn", "--suite", "fgsm", "--examples", "16", "-q", "--out", out])
    assert (folder / "second" / "summary.json").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="99a4b05", help="a commit to compare with")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", default="", help="commands whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        archive = subprocess.run(
            ["git", "archive", "--format=tar", options.against, "src"], cwd=ROOT, capture_output=True, check=True
        )
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(place / "before", filter="data")
        trees = (place / "before" / "src", ROOT / "src")
        for number, source in enumerate(trees):
            (place / str(number)).mkdir()
            prepare(source, place / str(number))
        alone = statistics.median(run(trees[1], place, ["-c", "import torch"])[0] for _ in range(options.repetitions))
        print(f"{'import torch alone':34} {alone:6.2f} s")
        for title, words in COMMANDS.items():
            if options.only not in title:
                continue
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(options.repetitions):
                codes = []
                for number, source in enumerate(trees):
                    took, code = run(source, place / str(number), ["-m", "inure", *words])
                    seconds[number].append(took)
                    codes.append(code)
                assert codes[0] == codes[1], (title, codes)  # a command that fails early is quick
            before, after = map(statistics.median, seconds)
            print(f"{title:34} {before:6.2f} {after:6.2f}   ratio {after / before:.2f}", flush=True)


if __name__ == "__main__":
    main()
