"""The wheel holds all that the package needs, and runs where there is no source tree."""

import os
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from inure.recipe.shipped import shipped_names
from processes import TINY

ROOT = Path(__file__).parents[1]


def run(*words: str | Path, folder: Path, **options: str) -> str:
    """The stdout of a command that must succeed, without the variables that would show it the source tree."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **options}
    ended = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by hatchling without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT, folder=folder)
    (path,) = folder.glob("inure-*.whl")
    return path


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory) -> Path:
    """The bin folder of a new environment: the wheel is installed, all else is borrowed from this environment."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
    bin_folder = folder / Path(sysconfig.get_path("scripts")).name
    python = bin_folder / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    options = ["--no-deps", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=folder)
    # After the environment's own packages: the wheel's inure is found before the source tree's
    borrowed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    (packages / "borrowed.pth").write_text("\n".join(dict.fromkeys(borrowed)))
    return bin_folder


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    source = ROOT / "src"
    files = {
        p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    assert names == files
    assert {"inure/py.typed", "inure/recipes/digits/pgd_at.yaml", "inure/studies/digits_methods.yaml"} <= names
    assert any(name.startswith("inure/reports/") and name.endswith(".j2") for name in names)
    assert any(name.endswith("LICENSE") for name in metadata)
    assert "entry_points.txt" in metadata


def test_the_wheel_runs_without_the_source_tree(fresh, tmp_path):
    where = run(fresh / "python", "-c", "import inure; print(inure.__file__)", folder=tmp_path).strip()
    assert Path(where).is_relative_to(fresh.parent)
    listed = run(fresh / "inure", "list", "recipes", folder=tmp_path).splitlines()
    names = [line.split("\t")[0] for line in listed]
    assert names == [name for name, _ in shipped_names()]
    out = run(fresh / "inure", "train", "digits/standard", *TINY, "epochs=1", "--out", "run", folder=tmp_path)
    assert out.splitlines()[-1] == "run"
    assert (tmp_path / "run" / "weights.safetensors").stat().st_size > 1000


@pytest.mark.slow
def test_the_wheel_evaluates_and_reports_without_the_source_tree(fresh, tmp_path):
    run(fresh / "inure", "train", "digits/standard", *TINY, "epochs=1", "--out", "run", folder=tmp_path)
    run(fresh / "inure", "evaluate", "run", "--suite", "fgsm", "--examples", "20", folder=tmp_path)
    out = run(fresh / "inure", "report", "run", folder=tmp_path)
    assert (tmp_path / out.splitlines()[-1]).stat().st_size > 10_000
