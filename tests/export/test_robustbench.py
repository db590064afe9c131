"""Submissions to RobustBench: what is written computes the run's bits, says what was measured, and hides no gap."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapted import run_of, with_statistics
from inure.attacks import PGD
from inure.commands import _run
from inure.data import Data
from inure.evaluation import SUITES, Member, evaluate
from inure.export.export import export
from inure.export.robustbench import export_robustbench
from inure.export.robustbench_evidence import data_set_named
from inure.export.robustbench_model import model_source
from inure.losses import cross_entropy
from inure.models import Model, build, load_target
from inure.models.adapters import ADAPTERS
from inure.recipe.recipe import Recipe, load_recipe
from inure.runs.checkpoints import write_weights
from inure.runs.load import in_mode, load
from inure.runs.run import Run
from inure.settings.errors import UserError
from inure.targets.evaluate import evaluate_target
from inure.targets.request import Request
from inure.training.train import train

TINY = ["epochs=1", "data.examples=400", "evaluation.validation_examples=16", "evaluation.validation_steps=1"]
THREAT = "linf:8/255"
RGB = (3, 32, 32)


def members(threat, steps):
    """An attack of a few steps: the suites of AutoAttack take minutes."""
    attack = PGD(threat=threat, steps=steps, step_size=float(threat.epsilon) / 2, start="uniform", keep="worst")
    return [Member(f"pgd{steps}", attack, cross_entropy)]


@pytest.fixture(autouse=True, scope="module")
def _fast_suites():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "autoattack", partial(members, steps=1))
        patch.setitem(SUITES, "autoattack_plus", partial(members, steps=10))
        yield


@pytest.fixture(scope="module")
def soup(tmp_path_factory):
    """A ViT with domains, trained for one epoch, evaluated on 40 images in its robust mode."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("robustbench") / "soup"
    train(load_recipe("digits/soup", [*TINY, "method.attack.steps=1", "regime.epsilon=null"]), path, quiet=True)
    measured(path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A net that timm does not make, evaluated."""
    path = tmp_path_factory.mktemp("robustbench") / "plain"
    train(
        load_recipe(
            "digits/standard",
            [*TINY, "data.examples=1437", "model.name=cnn_tiny", "epochs=5", "batch_size=128", "optimizer.lr=0.02"],
        ),
        path,
        quiet=True,
    )
    measured(path)
    return path


def measured(path, name=None, **options):
    """An evaluation by the fast suite, as the command makes it."""
    settings = {"suite": "autoattack", "threat": THREAT, "examples": 40, "quiet": True, **options}
    out = path / "evaluations" / name if name else None
    return evaluate_target(Request(str(path), out=out, **settings))[1]


FRESH = """
import enum, importlib.util, sys, torch

class Data(enum.Enum):
    of = "digits"

def load(folder, *arguments):
    spec = importlib.util.spec_from_file_location("model", f"{folder}/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.load_model(*arguments)
    assert not net.training
    return net

with torch.no_grad():
    x = torch.load("x.pt")
    found = [load("soup")(x), load("soup", "Jo2026Own", "./models", Data.of, "Linf", "soup/model.safetensors")(x)]
    assert "inure" not in sys.modules, "timm alone is enough for a net that timm makes"
    found += [load("plain")(x), load("plain", "Jo2026Own", "./models", Data.of, "Linf", "plain/model.safetensors")(x)]
torch.save(found, "logits.pt")
"""


def test_a_fresh_process_gets_the_bits_of_the_folded_net(soup, plain, tmp_path):
    x, expected = torch.rand(9, 1, 8, 8), []
    for run in (soup, plain):
        folder = tmp_path / run.name
        assert export(run, "robustbench", out=folder, info={"name": "Jo2026Own", "dataset": "digits"}) == folder
        net = in_mode(load(run))
        with torch.no_grad():
            expected += [net(x)] * 2
        state, own = load_file(folder / "model.safetensors"), net.state_dict()
        assert state.keys() == own.keys()
        assert all(torch.equal(state[key], own[key]) for key in own)
        assert (folder / "summary.json").read_bytes() == (run / "evaluations/autoattack/summary.json").read_bytes()
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", FRESH], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "logits.pt")
    assert len(found) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_the_function_says_no_to_another_name(plain, tmp_path):
    folder = export(plain, "robustbench", out=tmp_path / "out", info={"dataset": "digits"})
    for argument in ("model_name=Standard", "dataset=cifar10", "threat_model=L2"):
        with pytest.raises(UserError, match="mending ValueError: this file holds .*'plain', 'digits', 'Linf'"):
            load_target(f"{folder}/model.py:load_model({argument})")


def test_evaluate_reads_the_file_and_finds_the_same(soup, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"export {soup} --format robustbench --out sent --info dataset=digits --info name=Jo2026Own"
    assert _run(shlex.split(line)) == 0
    assert capsys.readouterr().out == "sent\n"
    own = json.loads((soup / "evaluations/autoattack/summary.json").read_text())
    call = "load_model(model_name=Jo2026Own, dataset=digits, threat_model=Linf)"
    for out, function in (("one", "load_model"), ("two", call)):
        options = f"--suite autoattack --data digits --threat {THREAT} --examples 40 --out {out} -q"
        assert _run(["evaluate", f"sent/model.py:{function}", *shlex.split(options)]) == 0
        summary = json.loads(Path(out, "summary.json").read_text())
        for key in ("clean_accuracy", "robust_accuracy", "calibration"):
            assert summary[key] == own[key]
        assert shlex.split(summary["command"])[2] == f"sent/model.py:{function}"


def test_a_published_load_model_is_asked_for_its_arguments(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("zoo.py").write_text(
        "import torch\n"
        "def load_model(model_name, model_dir='./models', dataset='cifar10', threat_model='Linf', *, classes):\n"
        "    assert (model_name, dataset, classes) == ('Wang2023', 'digits', 10)\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
    )
    options = shlex.split(f"--suite fgsm --data digits --threat {THREAT} --examples 9 --out found -q")
    assert _run(["evaluate", "zoo.py:load_model", *options]) == 2
    line = capsys.readouterr().err
    assert "'zoo.py:load_model(model_name=VALUE, classes=VALUE)'" in line
    assert line.count("\n") == 1
    given = "zoo.py:load_model(model_name=Wang2023,dataset=digits,classes=10)"
    assert _run(["evaluate", given, *options]) == 0
    assert json.loads(Path("found/summary.json").read_text())["examples"] == 9


def test_what_is_sent_says_what_was_measured(plain, tmp_path):
    info = {
        "name": "Jo2026Own", "title": "Own {Nets}", "url": "https://example.org", "authors": "Jo Doe",
        "venue": "Unpublished", "dataset": "digits", "architecture": "CNN", "additional_data": "no",
        "checkpoint": "https://example.org/net", "licence": "MIT",
    }  # fmt: skip
    submission = export_robustbench(plain, out=tmp_path, info=info)
    summary = json.loads((plain / "evaluations/autoattack/summary.json").read_text())
    found = json.loads((tmp_path / "model_info/digits/Linf/Jo2026Own.json").read_text())
    clean, robust = (f"{100 * summary[key]:.2f}" for key in ("clean_accuracy", "robust_accuracy"))
    assert found == {
        "link": "https://example.org", "name": "Own {Nets}", "authors": "Jo Doe", "additional_data": False,
        "number_forward_passes": 1, "dataset": "digits", "venue": "Unpublished", "architecture": "CNN",
        "eps": "8/255", "clean_acc": clean, "reported": robust, "autoattack_acc": robust, "footnote": "",
        "unreliable": False,
    }  # fmt: skip
    text = (tmp_path / "submission.md").read_text()
    assert text.startswith("# [New Model] Jo2026Own\n")
    for line in (
        "Paper title: Own {Nets}", "Authors: Jo Doe", "Threat model: Linf", "Epsilon: 8/255",
        f"Clean accuracy: {clean} % (40 images)", f"Robust accuracy: {robust} % (40 images)", "Additional data: no",
        "Licence: MIT",
    ):  # fmt: skip
        assert f"- {line}\n" in text
    assert f"autoattack of inure {summary['protocol']['versions']['inure']} (pgd1), float32, seed 0" in text
    assert "(fill in)" not in text
    assert submission.warnings == ["RobustBench has no lists for digits, only for cifar10, cifar100, imagenet"]


def test_what_is_not_known_is_marked_and_printed(plain, tmp_path, capsys):
    line = f"export {plain} --format robustbench --out {tmp_path / 'sent'} --info dataset=digits --info external=12.5"
    assert _run(shlex.split(line)) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'sent'}\n"
    text = (tmp_path / "sent/submission.md").read_text()
    gaps = "to be filled in: title, url, authors, venue, additional_data, checkpoint, licence (--info KEY=VALUE)"
    for warning in (gaps, "the name is plain; RobustBench's names have the form NameYearFirstword"):
        assert f"- WARNING: {warning}\n" in text
        assert f"warning: {warning}\n" in err
    found = json.loads((tmp_path / "sent/model_info/digits/Linf/plain.json").read_text())
    assert found["external"] == "12.5"
    assert found["name"] == found["additional_data"] == "(fill in)"
    # As RobustBench's listing does with each of these keys that is there
    assert all(0 <= float(found[key]) <= 100 for key in ("clean_acc", "external", "autoattack_acc"))


def cifar_run(path, model, **recipe):
    """A run that nothing trained, of a net for CIFAR-10; evaluated on noise."""
    data = Data(source="DIR/cifar10-train.parquet", test="DIR/cifar10-test.parquet")
    run = Run.create(path, Recipe(model=model, data=data, **recipe), resume=False, command=["inure"])
    net = with_statistics(build(model, num_classes=10, shape=RGB, with_weights=False), torch.rand(4, *RGB))
    write_weights(run.weights, net)
    run.write_info(num_classes=10, input_shape=[*RGB], status="finished", data={"hash": "none"})
    noise = torch.rand(12, *RGB), torch.arange(12) % 10
    out = path / "evaluations/autoattack"
    evaluate(load(path), *noise, suite="autoattack", threat="linf:4/255", out=out)
    return path


@pytest.mark.parametrize(
    ("settings", "library", "additional"),
    [
        ({"name": "test_vit", "pretrained": True, "img_size": 32, "patch_size": 8}, "timm", True),
        ({"name": "wrn10_1", "weights": "gone/away.pt", "activation": "silu"}, "inure", "(fill in)"),
        ({"name": "wrn10_1", "mean": [0.4, 0.5, 0.6]}, "inure", False),
    ],
    ids=str,
)
def test_a_net_is_made_again_without_what_it_started_from(tmp_path, monkeypatch, settings, library, additional):
    def no_network(*arguments, **options):
        raise AssertionError("the network was asked")

    run = cifar_run(tmp_path / "Jo2026Own", Model(**settings))
    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    submission = export_robustbench(run)
    x = torch.rand(3, *RGB)
    found = load_target(f"{submission.folder}/model.py:load_model")
    assert torch.equal(found(x), load(run)(x))
    assert f"import {library}" in (submission.folder / "model.py").read_text().replace("from inure", "import inure")
    info = json.loads((run / "export/robustbench/model_info/cifar10/Linf/Jo2026Own.json").read_text())
    assert info["additional_data"] == additional
    assert info["dataset"] == "cifar10"
    assert submission.warnings[:2] == [
        "evaluated on 12 images; RobustBench asks for 10,000",
        "epsilon is 4/255; the list Linf of cifar10 is at 8/255",
    ]


KINDS = [(kind, "test_resnet" if kind == "batchnorm" else "vit_digits") for kind in ADAPTERS]


@pytest.mark.parametrize(("kind", "name"), [*KINDS, ("norm", "wrn10_1"), ("all", "cnn_tiny")])
def test_every_kind_of_adapter_folds_into_a_net_by_name_or_is_refused(tmp_path, kind, name):
    shape = (1, 8, 8) if name in ("vit_digits", "cnn_tiny") else RGB
    run = Run.open(run_of(tmp_path / "run", Model(name=name, adapters=kind, mean=[0.3], std=[0.2]), shape))
    mix = {"clean": -0.2, "robust": 1.2} if kind != "batchnorm" else "clean"
    folded = in_mode(load(run.path), mix)
    if kind in ("prompt", "bottleneck"):
        with pytest.raises(UserError, match="--format: got robustbench; allowed safetensors: prompts and bottlenecks"):
            export_robustbench(run.path)
        return
    source, library = model_source(run, folded, "Jo2026Own", "digits", "L2")
    assert library == ("inure" if name in ("wrn10_1", "cnn_tiny") else "timm")
    (tmp_path / "model.py").write_text(source)
    write_weights(tmp_path / "model.safetensors", folded)
    found, x = load_target(f"{tmp_path}/model.py:load_model"), torch.rand(3, *shape)
    assert torch.equal(found(x), folded(x))
    assert torch.equal(
        found(x), load(run.path)(x, mix={"clean": -0.2, "robust": 1.2} if kind != "batchnorm" else "clean")
    )


def test_a_net_of_a_file_is_refused(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    run = run_of(tmp_path / "run", Model(name=f"{tmp_path}/net.py:make"))
    with pytest.raises(UserError, match="allowed safetensors: .*net.py:make is a file of yours"):
        export_robustbench(run)


def refused(run, text, mode=None, **info):
    with pytest.raises(UserError) as caught:
        export_robustbench(run, mode=mode, info=info)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "export/robustbench/model.py").exists()


@pytest.fixture
def fresh(plain, tmp_path):
    """A copy of ``plain`` that was not evaluated."""
    shutil.copytree(plain, tmp_path / "fresh", ignore=shutil.ignore_patterns("evaluations", "export"))
    return tmp_path / "fresh"


def test_only_a_verified_evaluation_of_these_weights_on_test_images_counts(fresh):
    nothing = f"RUN: got {fresh} without one; allowed an evaluation by autoattack | autoattack_plus"
    refused(fresh, f"{nothing}; try inure evaluate {fresh} --suite autoattack")
    measured(fresh, suite="pgd20", examples=4)
    refused(fresh, nothing)
    measured(fresh, "a", threat="l1:2")
    refused(fresh, "/a, an evaluation under l1:2; allowed linf | l2: RobustBench has no list for another norm")
    measured(fresh, "b", data="digits#train")
    refused(fresh, "/b, which is unverified (training_images); allowed an evaluation without severe flags")
    for name in ("a", "b"):
        measured(fresh, name, data="digits#test@contrast:1")
    refused(fresh, "an evaluation on digits#test@contrast:1; allowed one on unchanged test images")
    write_weights(fresh / "weights.safetensors", build(Model(name="cnn_tiny"), num_classes=10, shape=(1, 8, 8)))
    refused(fresh, "/a, an evaluation of other weights; allowed one of the net to export; try inure evaluate or --mode")


def test_what_is_given_must_fit(fresh):
    measured(fresh)
    refused(fresh, "--info: got no dataset; allowed cifar10 | cifar100 | imagenet: the names of the evaluated files do")
    given = "10 classes and images of 1x8x8; allowed 10 classes and images of 3x32x32, as cifar10 has"
    refused(fresh, f"--info dataset: got cifar10 for {given}", dataset="cifar10")
    refused(fresh, "--info dataset: got ../up; allowed letters", dataset="../up")
    refused(fresh, "--info name: got a b; allowed letters", dataset="digits", name="a b")
    refused(fresh, "--info: got titel; allowed name | title | url", titel="Own")
    refused(fresh, "--info external: got lower; allowed percent", dataset="digits", external="lower")
    refused(fresh, "--info additional_data: got some; allowed yes | no", dataset="digits", additional_data="some")
    refused(fresh, "--info threat: got l2; allowed KIND:EPSILON", threat="l2")
    refused(fresh, "allowed an evaluation by autoattack | autoattack_plus under l2:0.5", threat="l2:0.5")
    refused(fresh, "--mode: got robust; allowed no mode", mode="robust")


def test_another_mode_is_another_net(soup):
    refused(soup, "/autoattack, an evaluation of mode robust; allowed one of the net to export (mode clean)", "clean")
    half = {"clean": 0.5, "robust": 0.5}
    measured(soup, "half", mode="clean=0.5,robust=0.5", threat="l2:0.5", examples=8)
    try:
        submission = export_robustbench(soup, mode=half, out=soup.parent / "half", info={"dataset": "digits"})
        assert (submission.folder / "model_info/digits/L2/soup.json").exists()
        x = torch.rand(2, 1, 8, 8)
        assert torch.equal(load_target(f"{submission.folder}/model.py:load_model")(x), load(soup)(x, mix=half))
    finally:
        shutil.rmtree(soup / "evaluations/half")


def test_the_most_examples_count_and_then_the_lowest_accuracy(fresh):
    few, weak, strong = (
        measured(fresh, name, examples=examples, threat="linf:0.1", suite=suite)
        for name, examples, suite in (
            ("few", 9, "autoattack_plus"),
            ("weak", 90, "autoattack"),
            ("strong", 90, "autoattack_plus"),
        )
    )
    assert few["robust_accuracy"] < strong["robust_accuracy"] < weak["robust_accuracy"]
    submission = export_robustbench(fresh, info={"dataset": "digits"})
    path = fresh / "evaluations/strong/summary.json"
    assert (submission.folder / "summary.json").read_bytes() == path.read_bytes()
    measured(fresh, "other", threat="l2:0.5", examples=8)
    with pytest.raises(UserError, match="--info: got no threat; allowed one of l2:0.5 . linf:0.1; try --info threat"):
        export_robustbench(fresh, info={"dataset": "digits"})
    folder = export_robustbench(fresh, out=fresh / "l2", info={"dataset": "digits", "threat": "L2:1/2"}).folder
    assert json.loads((folder / "summary.json").read_text())["examples"] == 8


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "expected"),
    [
        ("DIR/cifar10-*.parquet#test", RGB, 10, "cifar10"),
        ("DIR/CIFAR-10/test-00000.parquet", RGB, 10, "cifar10"),
        ("hub:uoft-cs/cifar10", RGB, 10, "cifar10"),
        ("hub:uoft-cs/cifar100#test", RGB, 100, "cifar100"),
        ("DIR/cifar100.parquet", RGB, 10, None),
        ("DIR/cifar10.1.parquet", RGB, 10, None),
        ("DIR/cifar10/mine.parquet", RGB, 10, None),
        ("DIR/cifar10-mine.parquet", RGB, 10, None),
        ("cifar10-c:DIR@fog:3", RGB, 10, None),
        ("DIR/cifar10-test.parquet", (3, 64, 64), 10, None),
        ("DIR/cifar10-test.parquet", (1, 32, 32), 10, None),
        ("DIR/imagenet/val", (3, 224, 224), 1000, "imagenet"),
        ("hub:ILSVRC/imagenet-1k#validation", (3, 224, 224), 1000, "imagenet"),
        ("DIR/imagenette64-validation.parquet", (3, 64, 64), 10, None),
        ("imagenet-r:DIR", (3, 224, 224), 1000, None),
        ("digits", (1, 8, 8), 10, None),
    ],
)
def test_the_data_set_is_told_by_name_and_shape(spec, shape, classes, expected):
    assert data_set_named(spec, {"num_classes": classes, "input_shape": [*shape]}) == expected


def test_options_that_mean_nothing_are_refused(plain, capsys):
    with pytest.raises(UserError, match="--info: got title; allowed nothing with --format timm"):
        export(plain, "timm", info={"title": "Own"})
    for pair in ("title", "=Own"):
        assert _run(["export", str(plain), "--format", "robustbench", "--info", pair]) == 2
        assert f"--info: got {pair}; allowed KEY=VALUE" in capsys.readouterr().err


def test_exporting_leaves_the_global_generator_alone(plain, tmp_path):
    state = torch.get_rng_state()
    export_robustbench(plain, out=tmp_path, info={"dataset": "digits"})
    assert torch.equal(state, torch.get_rng_state())
