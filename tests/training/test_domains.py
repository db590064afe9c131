"""Runs whose nets have domains: which one is measured, what is averaged, and that stopping costs no bit."""

import copy
import importlib
import json
import signal
from functools import partial

import pytest
import torch
from torch import nn

import inure
from adapted import moved, run_of
from faults import signal_at_step
from inure.attacks import FGSM
from inure.averaging import EMA, SWA
from inure.commands import _run
from inure.data import load as load_images
from inure.methods import CoTraining
from inure.models import Classifier, Model, build
from inure.models.adapt import adapt, fold
from inure.models.adapters.batchnorm import MixedBatchNorm
from inure.models.adapters.stacks import PerDomain, adapter_names
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.slots import EvaluationSettings
from inure.runs.load import in_mode, load, usual_mode
from inure.settings.errors import UserError
from inure.threat import Linf
from inure.training import statistics
from inure.training.train import train
from inure.training.validation import Validator, accuracies
from processes import TINY_ATTACK, assert_same_run, records
from processes import inure as command

OTHER_NAMES = ["method.clean=nat", "method.robust=linf", "model.adapters.domains=[nat,linf]"]
CPU = torch.device("cpu")
NAT, LINF = 3, 8
"""Digits that are not equally frequent."""


def constant_net(**answers: int) -> Classifier:
    """Each domain says its own class, whatever it sees."""
    net = build(Model(name="vit_digits"), num_classes=10, shape=(1, 8, 8))
    adapted = adapt(net, "head", domains=[*answers])
    with torch.no_grad():
        adapted.get_parameter("net.head.parametrizations.weight.original").zero_()
        bias = adapted.get_parameter("net.head.parametrizations.bias.original")
        bias.copy_(torch.nn.functional.one_hot(torch.tensor([*answers.values()]), 10))
    return adapted


def validated(net: nn.Module, **domains: str | None) -> dict[str, float]:
    settings = EvaluationSettings(threat=Linf(epsilon=0.1), validation_steps=1, validation_examples=200)
    return accuracies(Validator(load_images("digits", "test"), settings, CPU, **domains).counts(net))


def shares(answer: int) -> tuple[float, float]:
    """How often ``answer`` is right: among all images, among the 200 that are attacked."""
    labels = load_images("digits", "test").labels
    attacked = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:200]]
    return float((labels == answer).double().mean()), float((attacked == answer).double().mean())


def test_validation_measures_each_domain_under_its_own_name():
    net = constant_net(nat=NAT, linf=LINF)
    found = validated(net, clean="nat", robust="linf")
    assert shares(NAT)[0] != shares(LINF)[0]
    assert shares(NAT)[1] != shares(LINF)[1]
    assert found["clean_accuracy"] == pytest.approx(shares(NAT)[0])
    assert found["robust_accuracy"] == pytest.approx(shares(LINF)[1])
    swapped = validated(net, clean="linf", robust="nat")
    assert swapped["clean_accuracy"] == pytest.approx(shares(LINF)[0])
    assert swapped["robust_accuracy"] == pytest.approx(shares(NAT)[1])
    with pytest.raises(UserError, match=r"mix: got robust; allowed nat \| linf"):
        validated(net, clean="nat", robust="robust")


def test_validation_of_a_net_without_domains_knows_no_names():
    net = build(Model(name="vit_digits"), num_classes=10, shape=(1, 8, 8))
    assert validated(net, clean="nat", robust="linf") == validated(net)


def test_training_validates_in_the_domains_of_the_method(tmp_path, monkeypatch):
    ends = importlib.import_module("inure.training.epoch_end")
    start = ends.validated
    seen = []

    def constant(self, module):
        with torch.no_grad():  # as if trained to say one class in each domain
            trained = constant_net(nat=NAT, linf=LINF)
            trained.mixture.usual = None
            seen.append((module.domains, self.validator._domains))
            return start(self, trained)

    monkeypatch.setattr(ends, "validated", constant)
    settings = ["epochs=1", "batch_size=400", "evaluation.validation_steps=1", "method.attack.steps=1", *OTHER_NAMES]
    path = train(load_recipe("digits/soup", settings), tmp_path / "run", quiet=True)
    assert seen == [(("nat", "linf"), ("nat", "linf"))]
    record = records(path)[-1]["validation"]
    images = load_recipe("digits/soup", settings).data.load_training(None)[1]
    shares = torch.bincount(images.labels, minlength=10) / len(images)
    assert shares[NAT] != shares[LINF]
    assert record["clean_accuracy"] == pytest.approx(float(shares[NAT]), abs=1e-6)
    assert record["robust_accuracy"] == pytest.approx(float(shares[LINF]), abs=1e-6)  # all of them are attacked
    assert usual_mode(load(path)) == "linf"


def test_the_domain_of_attacked_images_is_what_is_meant_without_a_mode(tmp_path, capsys):
    model = Model(name="vit_digits", adapters={"kinds": ["norm", "head"], "domains": ["nat", "linf"]})
    run = run_of(tmp_path / "run", model, method={"kind": "co_training", "clean": "nat", "robust": "linf"})
    net, x = inure.load(run), torch.rand(4, 1, 8, 8)
    assert usual_mode(net) == "linf"
    assert torch.equal(in_mode(net)(x), net(x, mix="linf"))
    assert torch.equal(inure.load(run, mode="nat")(x), net(x, mix="nat"))
    assert not torch.equal(net(x, mix="linf"), net(x, mix="nat"))
    line = ["evaluate", str(run), "--suite", "clean", "--examples", "40", "-q"]
    assert _run(line) == 0
    assert capsys.readouterr().out == f"{run}/evaluations/clean\n"
    summary = json.loads((run / "evaluations/clean/summary.json").read_text())
    images = load_images("digits", "test").head(40)
    x, y = images.batch(torch.arange(40)).float() / 255, images.labels
    assert summary["mode"] == "linf"
    assert summary["clean_accuracy"] == (net(x, mix="linf").argmax(1) == y).double().mean().item()
    assert _run([*line, "--mode", "nat"]) == 0
    assert json.loads((run / "evaluations/clean-nat/summary.json").read_text())["mode"] == "nat"
    capsys.readouterr()
    for name in ("robust", "clean", "nat=0.5,robust=0.5"):
        assert _run([*line, "--mode", name]) == 2
        err = capsys.readouterr().err
        assert err.startswith("inure: --mode: got ")
        assert "allowed nat | linf" in err
        assert err.count("\n") == 1


# Averages


def journey(steps: int = 8):
    """Adapted nets as after each step, with the progress at its beginning."""
    net = adapt(
        build(Model(name="wrn10_1"), num_classes=10, shape=(1, 8, 8)), ["batchnorm", "head", "patch_embed"]
    ).double()
    for step in range(steps):
        with torch.no_grad():
            net.train()(torch.rand(8, 1, 8, 8).double(), mix=["clean", "robust"])
            for p in net.parameters():
                p += 0.1 * torch.randn_like(p)
        yield net, step / steps


@pytest.mark.parametrize("settings", [EMA(decay=0.7, warmup=False, start=0.25), SWA(start=0.25)], ids=str)
def test_an_average_of_an_adapted_net_averages_every_stack_and_shares_nothing(settings):
    averager, expected, count = None, {}, 0
    for net, progress in journey():
        averager = averager or settings.build(net)
        state = {name: value.clone() for name, value in net.state_dict().items()}
        averager.update(net, progress)
        assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        if progress < 0.25 or not count:
            expected = floats
        elif isinstance(settings, EMA):
            expected = {name: 0.7 * expected[name] + 0.3 * value for name, value in floats.items()}
        else:
            expected = {name: (count * expected[name] + value) / (count + 1) for name, value in floats.items()}
        count += progress >= 0.25
    assert averager is not None
    average = averager.module
    assert isinstance(average, Classifier)
    found = average.state_dict()
    stacked = adapter_names(average) & expected.keys()
    assert {name.rpartition(".")[2] for name in stacked} == {"original", "means", "variances"}
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-13), name
        assert name not in stacked or not torch.equal(found[name][0], found[name][1])
    # Nothing is shared with the net that is trained: neither tensors nor the choice of a domain
    theirs = {t.data_ptr() for t in [*net.parameters(), *net.buffers()] if t.numel()}
    assert not theirs & {t.data_ptr() for t in [*average.parameters(), *average.buffers()] if t.numel()}
    assert average.mixture is not net.mixture
    for module in average.modules():
        mixture = module.mixture if isinstance(module, PerDomain) else module.__dict__.get("mixture", average.mixture)
        assert mixture is average.mixture, type(module).__name__
    x = torch.rand(4, 1, 8, 8).double()
    with net.mixture.using(net.mixture.parse("robust", 4), 4):
        assert torch.equal(average(x), average(x, mix="clean"))
    plain = fold(average, "robust").state_dict()
    assert torch.equal(plain["net.fc.weight"], found["net.fc.parametrizations.weight.original"][1])


def test_statistics_are_estimated_for_each_domain_from_its_own_images():
    net = moved(adapt(build(Model(name="wrn10_1"), num_classes=10, shape=(1, 8, 8)), "batchnorm"), 0.1)
    pixels = (torch.rand(3, 8, 1, 8, 8) * 255).byte()
    method = CoTraining(attack=FGSM(threat=Linf(epsilon=0.5)))

    class Batches:
        def epoch(self, number):
            return ((pixels[i], torch.arange(8), torch.arange(8)) for i in range(3))

    before = copy.deepcopy(net)
    attacked = copy.deepcopy(net).eval()
    statistics.estimate(net, Recipe(method=method, averaging=SWA()), Batches(), 0, 10, seed=5, memory={})  # type: ignore[arg-type]
    seen = {"clean": [], "robust": []}
    for x in pixels.float() / 255:
        seen["clean"].append(x)
        search = method.attack
        folded = fold(attacked, "robust")
        seen["robust"].append(search(folded, x, torch.arange(8)))
    for domain, (mode, sets) in enumerate(seen.items()):
        plain = fold(before, mode).train()
        norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        for x in sets:
            plain(x)
        layers = [m for m in net.modules() if isinstance(m, MixedBatchNorm)]
        for ours, theirs in zip(layers, norms, strict=True):
            assert torch.allclose(ours.means[domain], theirs.running_mean, atol=1e-4)
            assert torch.allclose(ours.variances[domain], theirs.running_var, rtol=1e-3, atol=1e-5)
            assert ours.batches[domain] == 3
    assert not torch.allclose(layers[0].means[0], layers[0].means[1], atol=1e-2)
    assert not net.training


def test_an_adapted_run_that_is_stopped_and_resumed_ends_with_the_same_bits(tmp_path):
    recipe = ["digits/soup", *TINY_ATTACK, "epochs=1", "model.name=wrn10_1", "model.adapters=[batchnorm,head]",
              "averaging.kind=ema", "batch_size=256"]  # fmt: skip
    assert command("train", *recipe, "--out", "whole", folder=tmp_path).code == 0
    stop = partial(signal_at_step, 23, signal.SIGTERM)  # of 44: it is the fourth of these six
    assert command("train", *recipe, "--out", "cut", folder=tmp_path, prepare=stop).code == 143
    assert command("train", *recipe, "--out", "cut", "--resume", folder=tmp_path).code == 0
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    net = load(tmp_path / "cut")
    assert net.domains == ("clean", "robust")
    x = torch.rand(4, 1, 8, 8)
    assert not torch.equal(net(x, mix="clean"), net(x, mix="robust"))
