"""The run directory: written atomically, read back, resumed. Stages talk through these files only."""

import json
import platform
import shlex
import sys
import time
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ..machine import files
from ..recipe.recipe import Recipe
from ..settings import config, trees
from ..settings.errors import UserError

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "pydantic",
    "numpy",
    "pyarrow",
    "datasets",
    "safetensors",
)


class Run:
    """One run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.weights = path / "weights.safetensors"
        self.metrics = path / "metrics.jsonl"

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, out: Path, recipe: Recipe, *, resume: bool, command: list[str]) -> "Run":
        """A new run in ``out``, or the one that is there if ``resume``.

        Raises:
            UserError: If ``out`` holds something else, or a run with other settings.
        """
        run = cls(out)
        tree = config.dump(recipe)
        if out.exists() and not out.is_dir():
            raise UserError("--out", str(out), "a folder", f"another name than the file {out.name}")
        if out.is_dir() and any(p for p in out.iterdir() if not p.name.endswith(".tmp")) and not run._never_began():
            run._check_reusable(tree, resume=resume)
        else:
            files.write_text(out / "recipe.yaml", trees.to_yaml(tree))
            files.write_json(out / "environment.json", environment(command))
        files.make_folder(run.checkpoints)
        files.clear_leftovers(out)
        files.clear_leftovers(run.checkpoints)
        if not (out / "environment.json").exists():
            files.write_json(out / "environment.json", environment(command))
        return run

    def _never_began(self) -> bool:
        """Whether a command got no further than the settings: a mistake in them must not cost the name."""
        ours = (self.path / "recipe.yaml").exists() and (self.path / "environment.json").exists()
        return ours and not (self.path / "run.json").exists() and not any(self.path.glob("checkpoints/*"))

    def _check_reusable(self, tree: dict[str, Any], *, resume: bool) -> None:
        path = self.path / "recipe.yaml"
        if not path.exists():
            raise UserError("--out", str(self.path), "an absent or empty folder, or a run's own with --resume")
        if not resume:
            remedy = "--resume to continue that run, or another --out"
            raise UserError("--out", str(self.path), "an absent or empty folder: this one holds a run", remedy)
        theirs = config.dump(config.build(Recipe, trees.read_yaml(path)))
        if changed := [key for key in trees.differences(theirs, tree) if key != "about"]:
            raise UserError("--resume", f"other settings ({', '.join(changed)})", "the run's own settings", f"{path}")

    @classmethod
    def open(cls, path: Path, setting: str = "RUN") -> "Run":
        """An existing run directory.

        Raises:
            UserError: If ``path`` is not one.
        """
        if not (path / "recipe.yaml").is_file():
            raise UserError(setting, str(path), "a run directory (it holds recipe.yaml)", "inure train RECIPE first")
        return cls(path)

    def recipe(self) -> Recipe:
        """The complete recipe of the run."""
        return config.build(Recipe, trees.read_yaml(self.path / "recipe.yaml"))

    def info(self) -> dict[str, Any]:
        """run.json, or an empty dictionary before the first checkpoint."""
        path = self.path / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except json.JSONDecodeError as error:
            raise UserError(
                str(path), f"damaged JSON ({error})", "the file that training wrote", "train --resume"
            ) from None

    def command(self) -> str:
        """The command that began the run, as a shell would take it."""
        return shlex.join(json.loads((self.path / "environment.json").read_text())["command"])

    def write_info(self, **changes: Any) -> None:
        """Update run.json."""
        files.write_json(self.path / "run.json", {**self.info(), **changes})

    def log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl."""
        files.append_line(self.metrics, record)

    def forget_after(self, step: int, epoch: int) -> None:
        """Drop the records of steps that will be repeated, and of the end of an epoch whose last step was the last."""
        records = files.read_lines(self.metrics)
        kept = [r for r in records if r.get("step", 0) <= step and r.get("epoch", 0) <= epoch]
        files.write_text(self.metrics, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))


def default_out(name: str, seed: int) -> Path:
    """``runs/<recipe>-seed<seed>-<date>``: a folder that does not exist yet."""
    stem = name.removesuffix(".yaml").removesuffix(".yml").strip("/").replace("/", "_")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{stem}-seed{seed}-{stamp}"
    number = 2
    while path.exists():
        path = Path("runs") / f"{stem}-seed{seed}-{stamp}-{number}"
        number += 1
    return path


def environment(command: list[str]) -> dict[str, Any]:
    """What a reader needs to repeat the run: versions, machine, command."""
    import torch

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "inure": metadata.version("inure"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": packages["timm"],
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": packages,
        "command": command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def command_line() -> list[str]:
    """The command as the user gave it."""
    return ["inure", *sys.argv[1:]] if Path(sys.argv[0]).name in ("inure", "__main__.py") else list(sys.argv)


def yaml_of(recipe: Recipe) -> str:
    """The complete recipe as YAML."""
    return yaml.safe_dump(config.dump(recipe), sort_keys=False)
