"""The command line: help that answers at once, one line for every mistake, exit codes, lists, the dry run."""

import importlib
import json
import os
import select
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning_fabric import Fabric

from faults import stderr_to
from inure import commands
from inure.data import Data
from inure.methods import METHODS
from inure.models import Model, build
from inure.recipe.recipe import load_recipe
from inure.steps import Joints
from inure.training.passes import passes
from inure.training.step import train_step
from inure.training.train import train
from inure.types import Batch
from processes import TINY, TINY_ATTACK, Command, weights, write_images
from processes import inure as command

VERBS = (
    "train", "evaluate", "predict", "compare", "soup", "study", "analyze", "reproduce", "report", "export", "list",
)  # fmt: skip
LISTS = (
    "models", "attacks", "methods", "adapters", "optimizers", "joints", "suites", "recipes", "studies", "analyses",
    "claims", "corruptions", "shifts", "crafting",
)  # fmt: skip
RECIPE = "digits/pgd_at"
METHOD_KINDS = [method.model_fields["kind"].default for method in METHODS]


def words(value: object) -> str:
    """A test is called after the command."""
    return " ".join(value) if isinstance(value, list) else ""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of one epoch."""
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE, [*TINY_ATTACK, "epochs=1"])
    return train(recipe, tmp_path_factory.mktemp("finished") / "run", quiet=True)


@pytest.fixture
def call(capfd, monkeypatch, tmp_path):
    """``call(*arguments)``: exit code, stdout and stderr of a command in this process, in a narrow terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            commands.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(leaving.value.code, int)
        return leaving.value.code, out, err

    return run


@pytest.fixture
def refused(call):
    """``refused(*arguments)``: the one line on stderr that a mistake gives, with exit code 2 and nothing on stdout."""

    def run(*arguments: str | Path) -> str:
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("inure: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err.removeprefix("inure: ").rstrip("\n")

    return run


def test_help_names_every_verb(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_verb_has_help(call, verb, option):
    code, out, err = call(verb, option)
    assert (code, err) == (0, "")
    assert f"Usage: inure {verb}" in out
    assert len(out.splitlines()) > 5


def test_no_command_at_all_shows_the_help(call):
    code, out, err = call()
    assert (code, err) == (2, "")
    assert out.startswith("Usage: inure")


HEAVY = ("torch", "timm", "datasets", "matplotlib", "torchvision", "sklearn", "lightning_fabric", "pyarrow", "pandas")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    """That is why it answers within a second."""
    script = (
        "import atexit, json, sys\n"
        f"atexit.register(lambda: print(json.dumps([m for m in {HEAVY} if m in sys.modules]), file=sys.stderr))\n"
        f"from inure.commands import main\nmain({arguments})"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, json.loads(ended.stderr)) == (0, [])


def test_importing_inure_imports_nothing_heavy():
    script = f"import inure, inure.settings.config, sys; print([m for m in {HEAVY} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("program", [["-m", "inure"], [str(Path(sys.executable).parent / "inure")]])
def test_the_module_and_the_script_are_the_same_command(program):
    ended = subprocess.run(
        [*([sys.executable] if program[0] == "-m" else []), *program, "--version"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    name, version = ended.stdout.split()
    assert name == "inure"
    assert version == importlib.import_module("inure").__version__


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["trian"],
            f"COMMAND: got trian; allowed {' | '.join(VERBS)}; try train",
        ),
        (["--verison"], "--verison: got an unknown option; allowed --version"),
        (["train"], "RECIPE: got nothing; allowed a value; try inure train --help"),
        (["evaluate"], "TARGET: got nothing"),
        (["predict"], "RUN: got nothing"),
        (["predict", "run"], "IMAGES...: got nothing"),
        (["compare", "a"], "B: got nothing"),
        (["study"], "STUDY: got nothing"),
        (["report"], "RUN...: got nothing"),
        (["list", "attaks"], "KIND: got attaks; allowed methods | attacks"),
        (["list", "models", "vit", "more"], "inure list: got unexpected extra argument(s) (more)"),
        (["train", RECIPE, "--resme"], "--resme: got an unknown option; allowed --out | --resume"),
        (["train", RECIPE, "-z"], "-z: got an unknown option"),
        (["train", RECIPE, "--out"], "--out: got nothing; allowed a value"),
        (["train", RECIPE, "--max-minutes", "abc"], "--max-minutes: got abc; allowed a valid number"),
        (["train", RECIPE, "--max-minutes=abc"], "--max-minutes: got abc; allowed a valid number"),
        (["train", RECIPE, "--max-minutes", "0"], "--max-minutes: got 0.0; allowed a number of minutes > 0"),
        (["train", RECIPE, "--resume"], "--resume: got no --out; allowed the folder of the run to continue"),
        (["train", RECIPE, "--quiet=3"], "inure: got Option '--quiet' does not take a value"),
        (["train", "digits/pgd"], "RECIPE: got digits/pgd; allowed"),
        (["train", "none/such"], "RECIPE: got none/such; allowed a name that `inure list recipes` shows"),
        (["train", "mine.yaml"], "RECIPE: got mine.yaml; allowed a YAML file that exists, or a shipped name"),
        (["train", RECIPE, "epoch=3"], "epoch: got an unknown field"),
        (["train", RECIPE, "method.atack.steps=3"], "method.atack: got an unknown field"),
        (["train", RECIPE, "epochs=3.5"], "epochs: got 3.5; allowed a whole number"),
        (["train", RECIPE, "epochs"], "epochs: got no '='; allowed key=value"),
        (["train", RECIPE, "epochs=["], "epochs: got [; allowed a YAML value"),
        (
            ["train", RECIPE, "method.kind=pgdat"],
            f"method.kind: got pgdat; allowed {' | '.join(METHOD_KINDS)}; try pgd_at",
        ),
        (["train", RECIPE, "method.attack.threat.epsilon=8"], "method.attack.threat.epsilon: got 8; allowed 0 to 1"),
        (["train", RECIPE, "method.attack.threat.epsilon=-8/255"], "method.attack.threat.epsilon: got -8/255"),
        (["train", RECIPE, "method.attack.steps=0"], "method.attack.steps: got 0; allowed a number >= 1"),
        (["train", RECIPE, "seed=-1"], "seed: got -1; allowed a number >= 0"),
        (["train", RECIPE, "seeds=0,a"], "seeds: got 0,a; allowed whole numbers"),
        (["train", RECIPE, "seeds=1,1"], "seeds: got [1, 1]; allowed seeds that differ"),
        (["train", RECIPE, "seeds=0,1", "--max-minutes", "1"], "--max-minutes: got 1.0; allowed no limit where"),
        (["train", RECIPE, "seeds=0,1", "epochs=0", "--dry-run"], "epochs: got 0"),
        (["train", RECIPE, "engine.precision=fp16"], "engine.precision: got fp16"),
        (["train", RECIPE, "evaluation.suite=quikc"], "evaluation.suite: got quikc; allowed clean"),
        (["evaluate", "nowhere"], "TARGET: got nowhere; allowed a run directory"),
        (["evaluate", "net.py:make"], "--threat: got nothing; allowed KIND:EPSILON"),
        (["predict", "nowhere", "x.png"], "TARGET: got nowhere"),
        (["compare", "nowhere", "nor_there"], "A: got nowhere"),
        (["report", "nowhere"], "nowhere: got no such folder; allowed a run directory"),
        (["study", "digits_method"], "STUDY: got digits_method; allowed deat_grid | digits_methods | "),
    ],
    ids=words,
)
def test_a_mistake_is_one_line(refused, arguments, line):
    assert refused(*arguments).startswith(line)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["train", "digits/pgd"], "digits/pgd_at"),
        (["train", RECIPE, "epoch=3"], "did you mean epochs?"),
        (["train", RECIPE, "method.atack.steps=3"], "did you mean attack"),
        (["train", RECIPE, "method.attack.threat.epsilon=8"], "did you mean 8/255?"),
        (["train", RECIPE, "--resme"], "try --resume"),
        (["train", RECIPE, "--seed", "3"], "try seed=VALUE"),
        (["train", RECIPE, "--epochs=3"], "try epochs=VALUE"),
        (["train", RECIPE, "model.name=deit_tini"], "deit_tiny_patch16_224"),
        (["train", RECIPE, "model.name=cnn_tiny", "model.patch_size=2"], "try model.patch_size=null"),
        (["--verison"], "try --version"),
        (["train", RECIPE, "method.kind=trade"], "try trades"),
        (["list", "recipe"], "try recipes"),
    ],
    ids=words,
)
def test_a_mistyped_name_is_answered_with_the_nearest_one(refused, typed, meant):
    assert meant in refused(*typed)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.name=resnet1888"], "model.name: got resnet1888; allowed a name that `inure list models` shows, or"),
        (["model.num_classes=7"], "model.num_classes: got 7; allowed 10, the classes of the data"),
        (["model.weights=nowhere"], "model.weights: got"),
        (["data.source=nowhere"], "data.source: got nowhere, which is not there"),
        (["data.source=corrupt.parquet"], "data.source: got a corrupt parquet file, corrupt.parquet"),
        (["data.source=bad/train.parquet"], "data.source: got a bad image in row 3 of"),
        (["data.source=mixed"], "data.test: got 5 classes, where data.source has 4"),
        (["data.source=good/train.parquet", "data.validation=41"], "data.validation: got 41"),
        (["trackers=[mlflow]"], "trackers: got mlflow; allowed an installed tracker"),
    ],
    ids=words,
)
def test_a_mistake_in_data_or_model_is_one_line(refused, tmp_path, monkeypatch, overrides, line):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    labels = [k % 4 for k in range(40)]
    (tmp_path / "corrupt.parquet").write_text("no parquet")
    write_images(tmp_path / "good" / "train.parquet", labels)
    write_images(tmp_path / "bad" / "train.parquet", labels, bad=[3])
    write_images(tmp_path / "mixed" / "train.parquet", labels)
    write_images(tmp_path / "mixed" / "test.parquet", [k % 5 for k in range(40)])
    common = [*TINY_ATTACK, "epochs=1"] if not overrides[0].startswith("model") else ["epochs=1"]
    assert refused("train", RECIPE, *common, *overrides, "--out", "run", "-q").startswith(line)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["evaluate", "RUN", "--suite", "quikc"], "--suite: got quikc"),
        (["evaluate", "RUN", "--threat", "linf:8"], "--threat: got 8; allowed 0 to 1: pixels are in [0, 1]; did you"),
        (["evaluate", "RUN", "--threat", "l9:1"], "--threat: got l9:1"),
        (["evaluate", "RUN", "--examples", "0"], "--examples: got 0"),
        (["evaluate", "RUN", "--examples", "x"], "--examples: got x; allowed a valid integer"),
        (["evaluate", "RUN", "--fail-under", "40"], "--fail-under: got 40.0; allowed a fraction"),
        (["evaluate", "RUN", "--mode", "robust"], "--mode: got robust; allowed no mode"),
        (["evaluate", "RUN", "--data", "nowhere"], "--data: got nowhere"),
        (["evaluate", "RUN", "--out", "RUN/run.json"], "--out: got"),
        (["evaluate", "RUN", "--out", "RUN"], "--out: got"),
        (["predict", "RUN", "nothing.png"], "IMAGES: got nothing.png; allowed a file that exists"),
        (["predict", "RUN", "RUN/run.json"], "IMAGES: got"),
        (["compare", "RUN", "RUN"], "A: got"),
        (["report", "RUN", "nowhere"], "nowhere: got no such folder"),
        (["report", "RUN", "--out", "RUN/run.json/report.html"], ""),
        (["train", RECIPE, "--out", "RUN"], "--out: got"),
        (["train", RECIPE, "--out", "RUN/run.json"], "--out: got"),
        (["train", RECIPE, "--out", "RUN/run.json/deeper"], ""),
    ],
    ids=words,
)
def test_a_mistake_about_a_run_is_one_line(refused, finished, arguments, line):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    assert refused(*(word.replace("RUN", str(finished)) for word in arguments)).startswith(line)
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_a_mistake_is_one_line_in_a_process_of_its_own_too(tmp_path):
    ended = command("train", RECIPE, "data.source=nowhere", folder=tmp_path, environment={"COLUMNS": "20"})
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("what", LISTS)
def test_a_list_is_names_and_texts_with_a_tab_between(call, what):
    code, out, err = call("list", what)
    narrower = "inure list recipes digits\n"
    assert code == 0
    assert err.endswith(narrower) if what == "recipes" else err == ""
    lines = out.splitlines()
    assert lines
    for line in lines:
        name, text = line.split("\t")
        assert name == name.strip() != ""
        assert text.strip()
    names = [line.split("\t")[0] for line in lines]
    assert len({*names}) == len(names)


def test_a_list_may_be_cut_to_names_that_begin_so(call):
    names = [line.split("\t")[0] for line in call("list", "recipes", "cifar10/mo_trades_ard")[1].splitlines()]
    assert "cifar10/mo_trades_ard_prm_deit_tiny" in names
    assert all(name.startswith("cifar10/mo_trades_ard") for name in names)
    assert call("list", "recipes", "nothing") == (0, "", "")


def test_everything_that_is_listed_exists(call):
    names = [line.split("\t")[0] for line in call("list", "recipes")[1].splitlines()]
    assert {"digits/pgd_at", "cifar10/trades_wrn28_10", "imagenette64/pgd_at_deit_tiny"} <= {*names}
    for name in names:
        load_recipe(name)
    methods = [line.split("\t")[0] for line in call("list", "methods")[1].splitlines()]
    assert methods == METHOD_KINDS
    assert {"standard", "pgd_at", "trades", "mart", "co_training", "fast_adv_prop", "free", "fgsm_pgi"} <= {*methods}


def test_train_prints_the_folder_last_and_writes_progress_to_stderr(call, tmp_path, monkeypatch):
    code, out, err = call("train", "digits/standard", *TINY, "epochs=2")
    assert code == 0
    (folder,) = out.splitlines()
    assert folder.startswith("runs/digits_standard-seed0-")
    assert weights(tmp_path / folder)
    assert "epoch 2/2" in err
    monkeypatch.setattr(sys, "argv", ["somewhere/bin/inure", "train", "a folder"])  # as a shell would have it
    code, again, _ = call("train", "digits/standard", *TINY, "epochs=1", "-q", "--out", "quiet")
    assert (code, again) == (0, "quiet\n")
    assert json.loads((tmp_path / "quiet" / "run.json").read_text())["command"] == "inure train 'a folder'"


def test_the_command_that_began_a_run_is_kept(tmp_path):
    arguments = ["train", "digits/standard", *TINY, "--out", "a run"]
    stopped = command(*arguments, "--max-minutes", "1e-6", folder=tmp_path)
    assert stopped.code == 0
    assert command(*arguments, "--resume", folder=tmp_path).code == 0
    kept = json.loads((tmp_path / "a run" / "run.json").read_text())["command"]
    assert kept.startswith("inure train digits/standard")
    assert kept.endswith("--out 'a run' --max-minutes 1e-6")


def test_evaluate_predict_compare_and_report_end_with_their_result(call, finished, tmp_path):
    out = tmp_path / "fgsm"
    code, stdout, _ = call("evaluate", finished, "--suite", "fgsm", "--examples", "40", "--out", out, "-q")
    assert (code, stdout.splitlines()[-1]) == (0, str(out))
    summary = json.loads((out / "summary.json").read_text())
    gate = ["--suite", "fgsm", "--examples", "40", "--out", out, "-q", "--resume", "--fail-under"]
    code, stdout, err = call("evaluate", finished, *gate, "1")
    assert (code, stdout.splitlines()[-1]) == (3, str(out))
    assert err == f"inure: --fail-under: accuracy {summary['robust_accuracy']:.4f} is under 1.0\n"
    assert call("evaluate", finished, *gate, summary["robust_accuracy"])[0] == 0
    code, stdout, _ = call("compare", out, out)
    assert code == 0
    assert all(line.endswith("p=1") for line in stdout.splitlines())
    image = _png(tmp_path)
    code, stdout, _ = call("predict", finished, image, "--top", "2")
    assert code == 0
    assert len(stdout.rstrip("\n").split("\t")) == 5
    code, stdout, _ = call("report", finished, "--out", tmp_path / "report.html")
    assert (code, stdout.splitlines()[-1]) == (0, str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 10_000


def _png(folder: Path) -> Path:
    from PIL import Image

    images = Data().load_test(None)
    Image.fromarray(images.batch(torch.tensor([0]))[0, 0].numpy()).save(folder / "digit.png")
    return folder / "digit.png"


# The dry run


@pytest.mark.parametrize("extra", [[], ["seeds=0,1"]])
def test_the_dry_run_prints_a_recipe_that_loads_again_and_trains_nothing(call, tmp_path, extra):
    overrides = [*TINY_ATTACK, "perturbation.kind=awp", "method.attack.threat.epsilon=8/255"]
    code, out, _ = call("train", RECIPE, *overrides, *extra, "--dry-run", "--out", "run")
    assert code == 0
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "resolved.yaml").write_text(out)
    assert load_recipe(str(tmp_path / "resolved.yaml")) == load_recipe(RECIPE, overrides)
    assert yaml.safe_load(out)["method"]["attack"]["threat"]["epsilon"] == 8 / 255
    notes = [line for line in out.splitlines() if line.startswith("#")]
    assert "# forwards a step: 4 x batch" in notes  # two of the attack, two of the update
    assert any("expected" in line and "minutes" in line for line in notes)


PASSES = [
    (["method.kind=standard", "regime.epsilon=null"], (1, 0, 1)),
    (["method.kind=pgd_at", "method.attack.steps=7"], (8, 7, 1)),
    (["method.kind=pgd_at", "method.attack.kind=fgsm"], (2, 1, 1)),
    (["method.kind=pgd_at", "method.attack.steps=3", "method.attack.restarts=2"], (9, 6, 1)),
    (["method.kind=pgd_at", "method.attack.steps=3", "method.attack.keep=worst"], (5, 3, 1)),
    (["method.kind=trades", "method.attack.steps=5"], (8, 5, 2)),
    (["method.kind=mart", "method.attack.steps=5"], (7, 5, 2)),
    (["method.kind=pgd_at", "method.attack.steps=2", "perturbation.kind=awp"], (4, 2, 2)),
    (["method.kind=trades", "method.attack.steps=2", "perturbation.kind=awp"], (7, 2, 4)),
]


@pytest.mark.parametrize(("overrides", "expected"), PASSES, ids=words)
def test_the_forecast_counts_the_passes_of_a_step(overrides, expected, monkeypatch):
    recipe = load_recipe(RECIPE, overrides)
    assert tuple(passes(recipe).values()) == expected
    assert counted(recipe, monkeypatch) == expected


def counted(recipe, monkeypatch) -> tuple[float, float, float]:
    """Passes of one real step: forwards by a hook, backwards by watching torch's two ways to run one."""
    images, found = 6, [0.0, 0.0, 0.0]
    net = build(Model(name="cnn_tiny"), num_classes=10, shape=(1, 8, 8))
    net.net.register_forward_hook(lambda _, arguments, __: _add(found, 0, len(arguments[0]) / images))
    grad, backward = torch.autograd.grad, torch.Tensor.backward
    width = 2 if recipe.method.kind in ("trades", "mart") else 1

    def watched_grad(*arguments, **options):
        _add(found, 1, 1)
        return grad(*arguments, **options)

    def watched_backward(self, *arguments, **options):
        _add(found, 2, width)
        return backward(self, *arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", watched_grad)
    monkeypatch.setattr(torch.Tensor, "backward", watched_backward)
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(net, recipe.optimizer.build(net))
    batch = Batch(torch.rand(images, 1, 8, 8), torch.arange(images), torch.arange(images), 0.999)
    joints = Joints(balance=recipe.balance, regime=recipe.regime, perturbation=recipe.perturbation)
    train_step(fabric, model, optimizer, batch, method=recipe.method, joints=joints)
    return found[0], found[1], found[2]


def _add(found: list[float], position: int, value: float) -> None:
    found[position] += value


def test_ctrl_c_before_training_begins_is_130(tmp_path, monkeypatch):
    module = importlib.import_module("inure.training.train")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(SystemExit) as leaving:
        commands.main(["train", RECIPE, "--out", str(tmp_path / "run")])
    assert leaving.value.code == 130


def test_a_fault_of_ours_is_a_traceback_with_code_1(tmp_path):
    """Not dressed up as the user's mistake."""
    ended = command("train", RECIPE, "--out", "run", folder=tmp_path, prepare=_break_the_loader)
    assert ended.code == 1
    assert "ZeroDivisionError" in ended.err


def _break_the_loader() -> None:
    importlib.import_module("inure.training.assembly").Loader = lambda *_, **__: 1 // 0


def test_a_terminal_shows_bars(tmp_path):
    """On a pseudo-terminal: epoch, steps, rate and accuracies, and no bar for every epoch."""
    import pty

    terminal, name = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
    arguments = ["train", "digits/standard", *TINY, "data.examples=null", "batch_size=128", "epochs=30", "--out", "run"]
    running = Command(arguments, tmp_path, partial(stderr_to, os.ttyname(name)), environment)
    shown = b""
    while running.process.is_alive() or select.select([terminal], [], [], 0)[0]:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536)
    assert running.finish().code == 0
    text = shown.decode()
    assert "epoch 30/30" in text
    assert "images/s" in text
    assert text.count("run ") > 1
    assert "steps/s" in text
