"""The measures as a run takes them: numbers by name, the net as it was, the same in a run that is cut."""

import math

import pytest
import torch

from inure.data import ImageSet
from inure.kernels import kernel_distance, trace_kernel
from inure.measures import MEASURES, Alignment, GradientNoiseScale, GradientStability, Kernel, Probe
from inure.measures.alignment import gradient_alignment
from inure.memory import begin, facts_of
from inure.methods import MART, PGDAT, TRADES, Standard
from inure.models.batchnorm import BatchNorm
from inure.recipe.recipe import Recipe, load_recipe
from inure.settings.errors import UserError
from processes import TINY_ATTACK, assert_same_run, inure, records
from tiny import assert_same_state, state_of, tiny_net

SMALL = [
    Alignment(examples=12),
    GradientStability(examples=12),
    GradientNoiseScale(examples=12, micro_batches=3),
    Kernel(examples=6),
]
measures = pytest.mark.parametrize("measure", SMALL, ids=lambda m: m.kind)


def probe_of(method, net=None, measures=()):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8, generator=generator)
    images = ImageSet.from_arrays(pixels, torch.arange(40) % 4)
    recipe = Recipe(method=method, measures=[*measures])
    memory = begin(recipe, facts_of(images.labels, 4, images.shape, 8, "cpu"))
    net = tiny_net().train() if net is None else net
    return Probe(net, images, recipe, method, 0.5, torch.device("cpu"), memory)


@measures
@pytest.mark.parametrize("method", [Standard(), PGDAT(), TRADES(), MART()], ids=lambda m: m.kind)
def test_a_measure_gives_its_finite_names_and_leaves_net_and_generator_as_found(measure, method):
    probe = probe_of(method, measures=[measure])
    before, random = state_of(probe.model), torch.get_rng_state()
    found = [measure(probe), measure(probe)]
    assert_same_state(before, state_of(probe.model))
    assert torch.equal(random, torch.get_rng_state())
    assert {*found[1]} == {*measure.names}
    assert all(math.isfinite(value) for value in found[1].values())
    assert found[0] == {name: found[1][name] for name in found[0]}, "not the same at the same weights"


def test_every_measure_is_among_these():
    assert {type(m) for m in SMALL} == {*MEASURES}


def test_the_kernel_is_compared_with_that_of_the_last_look():
    probe = probe_of(PGDAT(), measures=[Kernel(examples=6)])
    batch, _ = probe.batch(6)
    first = trace_kernel(probe.model, batch.x)
    assert "kernel_distance" not in Kernel(examples=6)(probe)
    with torch.no_grad():
        probe.model.net[-1].weight.mul_(torch.rand(probe.model.net[-1].weight.shape) * 4)
    second = trace_kernel(probe.model, batch.x)
    found = Kernel(examples=6)(probe)["kernel_distance"]
    assert found == pytest.approx(float(kernel_distance(first, second)), abs=1e-6)
    assert found > 1e-3
    assert Kernel(examples=6)(probe)["kernel_distance"] == pytest.approx(0, abs=1e-6)


def test_the_kernel_of_a_net_without_running_statistics_is_that_of_its_batch():
    net = tiny_net().train()
    BatchNorm(running=False).apply(net, "tiny")
    probe = probe_of(PGDAT(), net, measures=[Kernel(examples=6)])
    with pytest.raises(UserError, match="bn_mode"):
        Kernel(examples=6)(probe)
    batch, _ = probe.batch(6)
    found = Kernel(examples=6, bn_mode="batch")(probe)["kernel_trace"]
    expected = trace_kernel(net, batch.x, bn_mode="batch").diagonal().sum()
    assert found == pytest.approx(float(expected))


def test_the_radius_of_alignment_is_that_of_the_attack():
    probe = probe_of(PGDAT())
    for epsilon, given in ((8 / 255, None), (0.3, 0.3)):
        batch, noise = probe.batch(12)
        expected = gradient_alignment(probe.model, batch.x, batch.y, epsilon=epsilon, noise=noise)
        found = Alignment(examples=12, epsilon=given)(probe)["gradient_alignment"]
        assert found == pytest.approx(float(expected))


def test_mistakes_name_the_setting():
    with pytest.raises(UserError, match=r"measures\[1\]: got kernel; allowed measures that differ"):
        load_recipe("digits/pgd_at", ["measures=[{kind: kernel}, {kind: kernel, examples: 5}]"])
    with pytest.raises(UserError, match=r"measures\[0\].bn_mode: got running; allowed batch with .*running=false"):
        load_recipe("digits/pgd_at", ["model.batchnorm.running=false", "measures=[{kind: kernel}]"])
    load_recipe("digits/pgd_at", ["model.batchnorm.running=false", "measures=[{kind: kernel, bn_mode: batch}]"])
    for l2 in (
        ["method.attack.threat.kind=l2"],
        ["method.kind=standard", "regime.epsilon=null", "evaluation.threat.kind=l2"],
        ["evaluation.threat.kind=l1", "regime.phases=[{until: 0.5}]"],  # clean at first
    ):
        with pytest.raises(UserError, match=r"measures\[0\].epsilon: got None; allowed a number in pixel units"):
            load_recipe("digits/pgd_at", [*l2, "measures=[{kind: alignment}]"])
        load_recipe("digits/pgd_at", [*l2, "measures=[{kind: alignment, epsilon: 0.1}]"])
    load_recipe("digits/pgd_at", ["evaluation.threat.kind=l2", "measures=[{kind: alignment}]"])
    waits = r"regime.phases\[0\].below.measure: got kernel_distance; allowed .* there are none"
    with pytest.raises(UserError, match=waits):
        load_recipe("digits/pgd_at", ["regime.phases=[{until: 0.5, below: {value: 0.1}}]"])


def test_a_run_records_them_and_a_settled_kernel_ends_a_phase_in_a_cut_run_too(tmp_path):
    settings = (
        "measures=[{kind: kernel, every: 1, examples: 10}, {kind: alignment, every: 2}]",
        # Any distance is below 2, so the first one ends the phase: after the second epoch
        "regime.phases=[{until: 1, below: {measure: kernel_distance, value: 2, times: 1}}]",
    )
    recipe = ("digits/pgd_at", *TINY_ATTACK, *settings)
    ended = inure("train", *recipe, "--out", "whole", folder=tmp_path)
    assert ended.code == 0, ended.err
    measured = [record.get("measures", {}) for record in records(tmp_path / "whole")]
    assert ["kernel_distance" in found for found in measured] == [False, True, True, True]
    assert ["gradient_alignment" in found for found in measured] == [False, True, False, True]
    said = [line for line in ended.err.splitlines() if line.startswith("phase ")]
    assert said == ["phase 1 of 2: standard", "phase 2 of 2: pgd_at with pgd"]
    begun = [(r["epoch"], r["step"], r["phase"]) for r in records(tmp_path / "whole", "phase")]
    assert begun == [(0, 1, 0), (2, 23, 1)]
    assert [record["epsilon"] is None for record in records(tmp_path / "whole")] == [True, True, False, False]
    assert inure("train", *recipe, "--out", "cut", "--max-minutes", "0", folder=tmp_path).code != 1
    assert inure("train", *recipe, "--out", "cut", "--resume", folder=tmp_path).code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
