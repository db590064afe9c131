"""train(): what a run leaves behind, which weights it hands on, and what it never looks at."""

import importlib
import json
import math
import signal
import sys
import time
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import inure
from faults import decode_on_demand
from inure.attacks import PGD
from inure.averaging import SWA
from inure.data import Data, ImageSet
from inure.methods import PGDAT, TRADES, Standard
from inure.models import Classifier
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.slots import EvaluationSettings
from inure.runs.load import load
from inure.runs.run import Run
from inure.settings.errors import Stop, UserError
from inure.threat import Linf
from inure.training import statistics
from inure.training.session import Session
from inure.training.train import train
from inure.training.validation import Validator, accuracies
from processes import TINY, TINY_ATTACK, assert_same_run, info, records, saved_steps, weights, write_images
from processes import inure as command
from tiny import tiny_net

STANDARD = "a recipe that does not attack"


def tiny(*overrides: str, recipe: str = "digits/pgd_at") -> Recipe:
    common = TINY if recipe == "digits/standard" else TINY_ATTACK
    return load_recipe(recipe, [*common, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run whose epsilon is still on its ramp at the first epochs."""
    torch.set_num_threads(1)
    return train(tiny("optimizer.lr=0.01"), tmp_path_factory.mktemp("finished") / "run", quiet=True)


@pytest.fixture
def sessions(monkeypatch) -> list[Session]:
    """The sessions that were trained, in the state in which they ended."""
    caught: list[Session] = []
    finish = Session.finish
    monkeypatch.setattr(Session, "finish", lambda self: (caught.append(self), finish(self))[1])
    return caught


def test_a_run_directory_holds_what_the_contract_says(finished):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file() and p.suffix != ".pt"}
    assert names == {
        "recipe.yaml", "run.json", "environment.json", "metrics.jsonl", "weights.safetensors",
        "checkpoints/index.json", "checkpoints/last.safetensors", "checkpoints/best.safetensors",
    }  # fmt: skip
    assert Run.open(finished).recipe() == tiny("optimizer.lr=0.01")
    facts = info(finished)
    assert facts["status"] == "finished"
    assert (facts["epochs_done"], facts["step"], facts["num_classes"]) == (4, 44, 10)
    assert facts["input_shape"] == [1, 8, 8]
    assert facts["class_names"] == [str(k) for k in range(10)]
    counts = facts["data"].pop("class_counts")
    assert (len(counts), sum(counts)) == (10, 323)
    assert facts["data"] | {"hash": ""} == {
        "source": "digits", "train_examples": 323, "validation_examples": 36, "hash": "", "skipped": 0,
    }  # fmt: skip
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["packages"]["safetensors"]


def test_a_record_of_an_epoch_says_where_it_is_and_how_well_it_does(finished):
    epochs = records(finished)
    assert [r["epoch"] for r in epochs] == [1, 2, 3, 4]
    assert [r["step"] for r in epochs] == [11, 22, 33, 44]
    assert [r["progress"] for r in epochs] == [0.25, 0.5, 0.75, 1.0]
    assert [r["epsilon"] for r in epochs] == pytest.approx([0.1, 0.2, 0.2, 0.2])  # ramped over the first half
    schedule = tiny().schedule
    assert [r["lr"] for r in epochs] == pytest.approx([0.01 * schedule.at((s - 0.5) / 44) for s in (11, 22, 33, 44)])
    for r in epochs:
        assert r["effective_lr_over_batch"] is None  # AdamW: lr does not say how far a step goes
        assert r["train"].keys() == {"loss", "grad_norm"}
        assert r["validation"].keys() == {
            "clean_accuracy", "clean_loss", "robust_accuracy", "fgsm_accuracy", "probe_pgd_accuracy",
            "balanced_clean_accuracy", "balanced_robust_accuracy", "worst_class_robust_accuracy",
            "alignment",
        }  # fmt: skip
        assert min(r["seconds"], r["images_per_second"]) > 0


def test_the_recorded_loss_is_the_mean_over_the_steps(tmp_path, monkeypatch):
    module, losses = importlib.import_module("inure.training.step"), []
    step = module.train_step

    def watched(*arguments, **joints):
        logged = step(*arguments, **joints)
        losses.append(float(logged["loss"]))
        return logged

    monkeypatch.setattr(module, "train_step", watched)
    run = train(tiny("checkpoint.every=3"), tmp_path / "run", quiet=True)
    first, second = records(run)
    assert (first["epoch"], second["epoch"]) == (3, 4)  # the last epoch is recorded whatever `every` says
    assert first["train"]["loss"] == pytest.approx(sum(losses[:33]) / 33, rel=1e-5)
    assert second["train"]["loss"] == pytest.approx(sum(losses[33:]) / 11, rel=1e-5)


def test_training_learns(tmp_path):
    whole = ("data.examples=1437", "batch_size=128")
    run = train(tiny("optimizer.lr=0.02", "epochs=8", *whole, recipe="digits/standard"), tmp_path / "run", quiet=True)
    first, last = records(run)[0], records(run)[-1]
    assert last["train"]["loss"] < 0.5 * first["train"]["loss"]
    assert last["validation"]["clean_accuracy"] > 0.6
    assert last["validation"]["robust_accuracy"] < last["validation"]["clean_accuracy"]


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(finished, tmp_path):
    again = train(tiny("optimizer.lr=0.01"), tmp_path / "again", quiet=True)
    other = train(tiny("optimizer.lr=0.01", "seed=1"), tmp_path / "other", quiet=True)
    assert_same_run(again, finished)
    assert not torch.equal(weights(other)["net.conv1.weight"], weights(finished)["net.conv1.weight"])


def test_training_leaves_the_callers_generator_and_signal_handlers_alone(tmp_path):
    state, handlers = torch.get_rng_state(), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    train(tiny("epochs=1"), tmp_path / "run", quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UserError):
        train(tiny("epochs=1", "trackers=[mlflow]"), tmp_path / "refused", quiet=True)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_python_mirrors_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = inure.load_recipe("digits/standard", [*TINY, "epochs=1"])
    path = inure.train(recipe, name="digits/standard", quiet=True)
    assert path.parent == Path("runs")
    assert path.name.startswith("digits_standard-seed0-")
    assert inure.load(path)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(Stop) as caught:
        inure.train(recipe, "stopped", max_minutes=1e-6, quiet=True)
    assert (caught.value.run, caught.value.signal) == (Path("stopped"), None)
    assert inure.train(recipe, "stopped", resume=True, quiet=True) == Path("stopped")
    with pytest.raises(UserError, match="--resume: got no --out"):
        inure.train(recipe, resume=True)


def test_skipped_images_are_said_and_counted_once(tmp_path, capsys):
    images = write_images(tmp_path / "train.parquet", [k % 4 for k in range(60)], bad=[3, 9])
    recipe = tiny(f"data.source={images}", "data.skip_bad=true", "data.validation=8", "epochs=1")
    run = train(recipe, tmp_path / "run")
    assert "warning: 2 images could not be decoded and were left out" in capsys.readouterr().err
    assert info(run)["data"]["skipped"] == 2


def test_the_minutes_count_from_the_start_of_the_call(tmp_path, monkeypatch):
    """Loading the data alone takes longer than allowed: the first step is the last."""
    load_training = Data.load_training

    def slow(self, *arguments):
        time.sleep(0.2)
        return load_training(self, *arguments)

    monkeypatch.setattr(Data, "load_training", slow)
    with pytest.raises(Stop):
        train(tiny(), tmp_path / "run", max_minutes=0.2 / 60, quiet=True)
    assert saved_steps(tmp_path / "run") == [1]


def test_the_averaged_weights_are_the_ones_handed_on(tmp_path, sessions):
    run = train(tiny("averaging.kind=ema", "checkpoint.select=last", "optimizer.lr=0.01"), tmp_path / "run", quiet=True)
    (session,) = sessions
    assert session.averager is not None
    trained, averaged = session.model.module.state_dict(), session.averager.module.state_dict()
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, averaged[name])
    assert not torch.equal(trained["net.fc.weight"], averaged["net.fc.weight"])


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """Train with made-up validation accuracies; what each epoch's weights were is kept in files."""

    def run(robust: list[float], *overrides: str, clean: list[float] | None = None) -> Path:
        module, made_up = importlib.import_module("inure.training.epoch_end"), zip(robust, clean or robust, strict=True)
        measured, save, kept = module.accuracies, Session.save, tmp_path / "kept"
        kept.mkdir()

        def accuracies_of(counts):
            r, c = next(made_up)
            return {**measured(counts), "robust_accuracy": r, "clean_accuracy": c}

        def saved(self, **how):
            if (last := self.run.checkpoints / "last.safetensors").exists():
                (kept / f"{self.progress.epoch}").write_bytes(last.read_bytes())
            save(self, **how)

        monkeypatch.setattr(module, "accuracies", accuracies_of)
        monkeypatch.setattr(Session, "save", saved)
        recipe = "digits/standard" if STANDARD in overrides else "digits/pgd_at"
        overrides = tuple(o for o in overrides if o != STANDARD)
        return train(tiny(*overrides, recipe=recipe), tmp_path / "run", quiet=True)

    return run


@pytest.mark.parametrize(
    ("robust", "clean", "overrides", "best"),
    [
        ([0.1, 0.5, 0.3, 0.4], None, [], 2),
        ([0.1, 0.5, 0.5, 0.4], None, [], 2),  # of equals the earlier
        ([0.5, 0.4, 0.3, 0.2], None, [], 1),
        ([0.1, 0.5, 0.3, 0.4], [0.1, 0.2, 0.9, 0.3], ["checkpoint.metric=clean"], 3),
        ([0.1, 0.5, 0.3, 0.4], [0.1, 0.2, 0.9, 0.3], ["checkpoint.metric=robust"], 2),
        ([0.1, 0.5, 0.3, 0.4], [0.1, 0.2, 0.9, 0.3], ["checkpoint.metric=auto", STANDARD], 3),
    ],
)
def test_best_is_the_epoch_of_the_highest_validation_metric(scripted, tmp_path, robust, clean, overrides, best):
    run = scripted(robust, *overrides, clean=clean)
    assert info(run)["best"]["epoch"] == best
    assert info(run)["last"]["epoch"] == 4
    assert (run / "checkpoints" / "best.safetensors").read_bytes() == (tmp_path / "kept" / f"{best}").read_bytes()
    assert (run / "checkpoints" / "last.safetensors").read_bytes() == (tmp_path / "kept" / "4").read_bytes()
    assert (run / "weights.safetensors").read_bytes() == (run / "checkpoints" / "best.safetensors").read_bytes()
    assert info(run)["selected"] == "best"


def test_select_last_hands_on_the_last_weights_and_keeps_both(scripted):
    run = scripted([0.5, 0.1, 0.1, 0.1], "checkpoint.select=last")
    best, last = ((run / "checkpoints" / f"{name}.safetensors").read_bytes() for name in ("best", "last"))
    assert best != last
    assert (run / "weights.safetensors").read_bytes() == last
    assert info(run)["selected"] == "last"


def test_the_recorded_accuracies_are_those_of_the_weights_on_the_validation_images(finished):
    _, validation = Data(examples=359, validation=0.1).load_training(None)
    x = validation.batch(torch.arange(len(validation))).float() / 255
    for name in ("best", "last"):
        net = load(finished, finished / "checkpoints" / f"{name}.safetensors")
        with torch.no_grad():
            right = (net(x).argmax(1) == validation.labels).float().mean()
        assert info(finished)[name]["clean_accuracy"] == pytest.approx(float(right))


def test_selection_never_sees_a_test_image(tmp_path, sessions):
    """The test file holds no image at all: whoever looked at one would stumble."""
    labels = [k % 4 for k in range(80)]
    write_images(tmp_path / "data" / "train.parquet", labels)
    write_images(tmp_path / "data" / "test.parquet", labels, bad=range(80))
    train(tiny(f"data.source={tmp_path}/data", "batch_size=16"), tmp_path / "run", quiet=True)
    (session,) = sessions
    trained, held_out = session.loader.image_set.index.tolist(), session.validator.images.index.tolist()
    assert sorted(trained + held_out) == list(range(80))
    with pytest.raises(UserError, match="bad image in row 0"):
        Data(source=f"{tmp_path}/data").load_test(None)


def test_the_validation_split_does_not_depend_on_the_seed_of_the_run():
    first, second = (load_recipe("digits/pgd_at", [f"seed={s}"]).data.load_training(None)[1] for s in (0, 1))
    assert torch.equal(first.index, second.index)


def test_images_decoded_on_demand_train_like_those_in_memory_and_resume_exactly(tmp_path):
    write_images(tmp_path / "train.parquet", [k % 4 for k in range(100)])
    recipe = (
        "digits/pgd_at",
        *TINY_ATTACK,
        f"data.source={tmp_path}/train.parquet",
        "batch_size=9",
        "augment.flip=true",
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    runs = {name: tmp_path / name for name in ("memory", "lazy")}
    assert command("train", *recipe, "--out", runs["memory"], folder=tmp_path).code == 0
    lazy = partial(command, "train", *recipe, "--out", runs["lazy"], folder=tmp_path, environment=environment)
    assert lazy(prepare=partial(decode_on_demand, interrupt_at=16)).code == 130
    assert command(
        "train", *recipe, "--out", runs["lazy"], "--resume", folder=tmp_path, prepare=decode_on_demand,
        environment=environment,
    ).code == 0  # fmt: skip
    assert_same_run(runs["lazy"], runs["memory"])


# BatchNorm statistics of averaged weights


class Batches:
    """A loader of random grey images."""

    def __init__(self, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (number, 8, 1, 4, 4), dtype=torch.uint8, generator=generator)
        self.batches = [(x, torch.arange(8) % 3, torch.arange(8)) for x in images]

    def epoch(self, number: int):
        yield from self.batches


def norm_net() -> Classifier:
    """BatchNorm sees the images themselves, with statistics that are far off."""
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3))
    net[0].running_mean.fill_(7.0)
    net[0].running_var.fill_(9.0)
    return Classifier(net, num_classes=3, img_size=4, in_channels=1).eval()


def estimated(method, batches: Batches) -> tuple[Classifier, list[torch.Tensor]]:
    """The net after the estimate, and what its BatchNorm saw."""
    net, seen = norm_net(), []
    norm = net.net[0]  # hooks are copied with the net: what the copy sees does not count
    norm.register_forward_pre_hook(lambda module, x: seen.append(x[0].clone()) if module is norm else None)
    recipe = Recipe(method=method, averaging=SWA())
    statistics.estimate(net, recipe, batches, 0, 3, seed=5, memory={})  # type: ignore[arg-type]
    return net, seen


@pytest.mark.parametrize(
    "method",
    [
        Standard(),
        PGDAT(attack=PGD(threat=Linf(epsilon=0.3), steps=2)),
        PGDAT(attack=PGD(threat=Linf(epsilon=0.3), steps=2), attack_mode="train"),
        TRADES(attack=PGD(threat=Linf(epsilon=0.3), steps=2, start="gaussian")),
    ],
    ids=["standard", "pgd_at", "pgd_at-train", "trades"],
)
def test_estimated_statistics_are_the_mean_over_what_the_update_sees(method):
    batches = Batches(5)
    net, seen = estimated(method, batches)
    assert len(seen) == 5  # one forward a batch: none of the attack's
    norm = net.net[0]
    assert torch.allclose(norm.running_mean, torch.stack([x.mean() for x in seen]).mean(), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([x.var() for x in seen]).mean(), atol=1e-6)
    assert (norm.momentum, net.training) == (0.1, False)
    clean = torch.stack([x for x, _, _ in batches.batches]).float() / 255
    near = (
        torch.cat(seen).view(5, -1, 1, 4, 4) - (clean.repeat(1, 2, 1, 1, 1) if method.kind == "trades" else clean)
    ).abs()
    assert near.max() <= 0.3 + 1e-6
    assert (near.max() > 0.29) == (method.kind != "standard")


def test_what_is_attacked_for_the_estimate_is_the_net_as_it_was():
    """Not one whose statistics have just been reset."""
    attacked = []

    class Spy(PGDAT):
        def craft(self, model, batch, attack, criterion):
            attacked.append(model.net[0].running_mean.clone())
            return batch.x

    estimated(Spy.model_construct(kind="pgd_at", attack=PGD(), attack_mode="eval"), Batches(3))
    assert attacked == [torch.tensor([7.0])] * 3


def test_swa_with_batch_norm_hands_on_estimated_statistics(tmp_path, monkeypatch):
    before = []
    estimate = statistics.estimate

    def watched(model, *arguments, **options):
        before.append({name: b.clone() for name, b in model.named_buffers() if name.endswith("running_mean")})
        estimate(model, *arguments, **options)

    monkeypatch.setattr(statistics, "estimate", watched)
    overrides = ["model.name=wrn10_1", "averaging.kind=swa", "checkpoint.select=last", "epochs=2", "optimizer.lr=0.01"]
    run = train(tiny(*overrides), tmp_path / "run", quiet=True)
    final = weights(run)
    assert len(before) >= 1
    assert all(final[name].isfinite().all() for name in before[-1])
    assert any(not torch.allclose(final[name], value, atol=1e-3) for name, value in before[-1].items())
    net, images = load(run), Data().load_test(None)
    with torch.no_grad():
        right = (net(images.batch(torch.arange(360)).float() / 255).argmax(1) == images.labels).float().mean()
    assert right > 0.3, "statistics that do not belong to the weights leave a net at chance"


# Validation


def image_set(n: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return ImageSet.from_arrays(pixels, torch.arange(n) % 4)


def counts(net: nn.Module, images: ImageSet, **options) -> dict[str, torch.Tensor]:
    settings = EvaluationSettings(threat=Linf(epsilon=0.02), validation_steps=3, validation_examples=20)
    validator = Validator(images, settings, torch.device("cpu"), **options)
    return validator.counts(net)


def test_validation_counts_right_answers_and_losses_of_the_whole_split():
    net, images = tiny_net().eval(), image_set()
    with torch.no_grad():
        logits = net(images.batch(torch.arange(40)).float() / 255)
    found = accuracies(counts(net, images))
    assert found["clean_accuracy"] == pytest.approx(float((logits.argmax(1) == images.labels).float().mean()))
    assert found["clean_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, images.labels)), rel=1e-5)
    assert found["robust_accuracy"] <= found["clean_accuracy"] + 0.25
    assert found["robust_accuracy"] == found["probe_pgd_accuracy"]  # 20 images are all in the probe of 128


@pytest.mark.parametrize("examples", [1, 20, 128, 129, 1000])
def test_validation_takes_any_number_of_images(examples):
    settings = EvaluationSettings(validation_steps=1, validation_examples=examples)
    found = Validator(image_set(150), settings, torch.device("cpu")).counts(tiny_net().eval())
    assert float(found["attacked"].sum()) == min(examples, 150)
    assert float(found["probe"]) == min(examples, 128)
    assert float(found["robust"].sum()) <= min(examples, 150)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_shares_of_several_processes_sum_to_the_whole(world_size):
    net, images = tiny_net().eval(), image_set()
    whole = counts(net, images)
    shares = [counts(net, images, rank=r, world_size=world_size) for r in range(world_size)]
    for name, value in whole.items():
        assert torch.allclose(sum(share[name] for share in shares), value, rtol=1e-5), name


def test_validation_changes_nothing_in_the_net_and_repeats_itself():
    net = tiny_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = counts(net, image_set())
    torch.rand(7)  # the generator plays no part
    again = counts(net, image_set())
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def long_tailed_set() -> ImageSet:
    """150 images of classes 0 and 1, and 3 of class 2."""
    labels = torch.cat([torch.arange(150) % 2, torch.full((3,), 2)])
    return ImageSet.from_arrays(image_set(153).pixels, labels, tuple("abcd"))


def test_balanced_accuracies_are_means_over_the_classes_that_have_images():
    net, images = tiny_net().eval(), long_tailed_set()
    with torch.no_grad():
        right = net(images.batch(torch.arange(153)).float() / 255).argmax(1) == images.labels
    found = accuracies(counts(net, images))
    each = [float(right[images.labels == k].float().mean()) for k in range(3)]
    assert found["balanced_clean_accuracy"] == pytest.approx(sum(each) / 3)
    made = {name: torch.tensor(value) for name, value in {
        "clean": [5.0, 1, 0, 0], "all": [10.0, 1, 4, 0], "robust": [3.0, 0, 0, 0], "attacked": [6.0, 1, 0, 0],
        "clean_loss": 3.0, "probe": 4.0, "fgsm": 1.0, "probe_pgd": 0.0,
    }.items()}  # fmt: skip
    found = accuracies(made)
    assert found["clean_accuracy"] == pytest.approx(6 / 15)
    assert found["balanced_clean_accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["robust_accuracy"] == pytest.approx(3 / 7)
    assert found["balanced_robust_accuracy"] == pytest.approx(0.25)
    assert found["worst_class_robust_accuracy"] == 0


def test_a_class_that_would_not_be_attacked_is_attacked_once_where_that_is_asked_for():
    net, images = tiny_net().eval(), long_tailed_set()
    settings = EvaluationSettings(validation_steps=1, validation_examples=2)
    few = Validator(images, settings, torch.device("cpu")).counts(net)["attacked"]
    assert few.sum() == 2
    assert few[2] == 0
    every = Validator(images, settings, torch.device("cpu"), every_class=True).counts(net)["attacked"]
    assert every[:3].min() == 1
    assert bool(((every - few)[few > 0] == 0).all())
    assert every.sum() == few.sum() + (few[:3] == 0).sum()


# Trackers


def test_a_tracker_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"trackers: got tensorboard; .* try pip install 'inure\[tensorboard\]'"):
        train(tiny("trackers=[tensorboard]", "epochs=1"), tmp_path / "run", quiet=True)


def test_tensorboard_gets_the_scalars_of_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny("trackers=[tensorboard]", "epochs=2"), tmp_path / "run", quiet=True)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    values = [(e.step, e.value) for e in events.Scalars("validation/clean_accuracy")]
    expected = [(r["step"], r["validation"]["clean_accuracy"]) for r in records(run)]
    assert values == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


def test_wandb_and_mlflow_get_the_scalars_of_every_epoch(tmp_path, monkeypatch):
    """Stand-ins for both: neither is installed for tests."""
    calls: dict[str, list] = {"wandb": [], "mlflow": [], "ended": []}
    wandb, mlflow = types.ModuleType("wandb"), types.ModuleType("mlflow")
    wandb_run = types.SimpleNamespace(
        log=lambda values, step: calls["wandb"].append((step, values)), finish=lambda: calls["ended"].append("wandb")
    )
    wandb.__dict__["init"] = lambda **options: wandb_run
    mlflow.__dict__.update(
        set_experiment=lambda name: None, start_run=lambda run_name: None, log_dict=lambda tree, name: None,
        log_metrics=lambda values, step: calls["mlflow"].append((step, values)),
        end_run=lambda: calls["ended"].append("mlflow"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    run = train(tiny("trackers=[wandb, mlflow]", "epochs=2"), tmp_path / "run", quiet=True)
    for name in ("wandb", "mlflow"):
        assert [step for step, _ in calls[name]] == [11, 22]
        for (_, values), record in zip(calls[name], records(run), strict=True):
            assert values["train/loss"] == record["train"]["loss"]
            assert values["validation/robust_accuracy"] == record["validation"]["robust_accuracy"]
            assert all(isinstance(v, int | float) and math.isfinite(v) for v in values.values())
    assert sorted(calls["ended"]) == ["mlflow", "wandb"]
