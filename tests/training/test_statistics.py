"""Statistics of BatchNorm that are estimated anew: against the plain mean, and without a trace in training."""

import pytest
import torch

from inure.attacks import FGSM
from inure.evaluation import evaluate
from inure.methods import FGSMPGI
from inure.models import read_weights
from inure.recipe.recipe import Recipe, load_recipe
from inure.runs.load import load
from inure.threat import Linf
from inure.training import statistics
from inure.training.train import train
from tiny import memory_of, tiny_batch, tiny_net

SETTINGS = ["epochs=1", "model.name=wrn10_1", "data.examples=96", "batch_size=32", "evaluation.validation_steps=1"]


class Loader:
    """Three batches of bytes."""

    def epoch(self, epoch: int):
        for seed in range(3):
            batch = tiny_batch(seed=seed + epoch)
            yield (batch.x * 255).round().to(torch.uint8), batch.y, batch.index


@pytest.mark.parametrize("source", ["training", "clean"])
@pytest.mark.parametrize("batches", [2, 5])
def test_they_are_the_plain_mean_over_batches(source, batches):
    recipe = load_recipe("digits/pgd_at", ["method.attack.steps=2", "method.attack.threat.epsilon=0.2"])
    net, original = tiny_net(), tiny_net().eval()
    statistics.estimate(net, recipe, Loader(), 0, 4, 7, {}, source=source, batches=batches)  # pyright: ignore
    means, variances = [], []
    torch.manual_seed(7)
    for pixels, labels, _ in list(Loader().epoch(0))[:batches]:
        x = pixels.float() / 255
        if source == "training":
            x = recipe.method.attack(original, x, labels)
        maps = original.net[0]((x - original.mean) / original.std).transpose(0, 1).flatten(1)
        means.append(maps.mean(1))
        variances.append(maps.var(1))
    norm = net.net[1]
    assert torch.allclose(norm.running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack(variances).mean(0), rtol=1e-5)
    assert norm.momentum == original.net[1].momentum
    assert not net.training


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(load_recipe("digits/pgd_at", SETTINGS), tmp_path_factory.mktemp("plain") / "run", quiet=True)


@pytest.mark.parametrize("source", ["training", "clean"])
def test_a_run_writes_them_and_trains_as_without(plain, tmp_path, source):
    settings = [*SETTINGS, f"model.batchnorm.reestimate={source}", "model.batchnorm.batches=2"]
    run = train(load_recipe("digits/pgd_at", settings), tmp_path / "run", quiet=True)
    before, after = (read_weights(path / "weights.safetensors") for path in (plain, run))
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]) != ("running" in name or "tracked" in name), name
    state = torch.load(next((run / "checkpoints").glob("step-*.pt")), weights_only=True)
    for name, value in state["model"].items():
        assert torch.equal(value, before[name]), name


def test_a_run_without_running_statistics_is_loaded_and_flagged(tmp_path):
    settings = [*SETTINGS, "model.batchnorm.running=false"]
    run = train(load_recipe("digits/pgd_at", settings), tmp_path / "run", quiet=True)
    net = load(run)
    assert not any("running" in name for name in net.state_dict())
    found = evaluate(net, torch.rand(32, 1, 8, 8), torch.arange(32) % 10, suite="fgsm", threat="linf:0.1")
    assert any("rest of the batch" in flag["detail"] for flag in found.summary["flags"])


@pytest.mark.parametrize("method", ["pgd_at", "trades"])
def test_a_run_with_the_biased_variance_trains(tmp_path, method):
    settings = [*SETTINGS, "model.batchnorm.unbiased=false", "method.attack.steps=1"]
    run = train(load_recipe(f"digits/{method}", settings), tmp_path / "run", quiet=True)
    variances = {name: v for name, v in read_weights(run / "weights.safetensors").items() if "running_var" in name}
    assert variances
    assert all(v.isfinite().all() for v in variances.values())


def test_they_are_of_the_priors_that_training_has_at_that_moment():
    """FGSM-PGI, in its second period, whose priors are known and zero here, and in the third, of which none is."""
    method = FGSMPGI(attack=FGSM(threat=Linf(epsilon=0.2), start="uniform"), reset=0.25)
    memory = memory_of(method)
    memory["fgsm_pgi.period"].fill_(1)
    clean, starts = next(Loader().epoch(0))[0].float() / 255, []
    for progress in (0.49, 0.5):
        net, seen = tiny_net(), []
        net.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].clone()))
        statistics.estimate(net, Recipe(method=method), Loader(), 0, 4, 7, memory, progress=progress, batches=1)  # pyright: ignore
        starts.append(seen[-1][:8])
    assert torch.allclose(starts[0], clean)
    assert (starts[1] - clean).abs().max() > 0.1


@pytest.mark.parametrize(("progress", "radius"), [(0.25, 0.1), (0.9, 0.2)])
def test_they_follow_the_radius_of_that_moment(progress, radius):
    settings = ["method.attack.steps=4", "method.attack.threat.epsilon=0.2", "regime.epsilon={kind: ramp, until: 0.5}"]
    seen, net = [], tiny_net()
    first = net.net[0]  # its hook is copied with the net: what the copy sees does not count
    first.register_forward_pre_hook(lambda layer, x: seen.append(x[0].clone()) if layer is first else None)
    recipe = load_recipe("digits/pgd_at", settings)
    statistics.estimate(net, recipe, Loader(), 0, 4, 7, {}, progress=progress, batches=1)  # pyright: ignore
    x = next(Loader().epoch(0))[0].float() / 255
    assert (seen[0] * net.std + net.mean - x).abs().max() == pytest.approx(radius, abs=1e-5)
