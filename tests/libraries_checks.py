"""Which large libraries a program loads."""

import json
import subprocess
import sys
from pathlib import Path

LARGE = ("torch", "torchvision", "timm", "lightning_fabric", "datasets", "sklearn", "matplotlib", "pandas", "scipy")


def loaded_by(script: str, *large: str, folder: Path | None = None) -> list[str]:
    """Which of ``large`` (by default ``LARGE``) are there after ``script``, in a process of its own."""
    text = f"import json, sys\n{script}\nprint(json.dumps([m for m in {large or LARGE} if m in sys.modules]))"
    command = [sys.executable, "-c", text]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])
