"""The recipes in the wheel: each loads, its net builds, and its numbers are those of the paper that it names."""

import json
from functools import cache

import pytest
import torch
import yaml
from torch import nn

from inure.attacks import PGD
from inure.balance import BalancedSoftmax, Rebalanced
from inure.data.long_tailed import Exponential
from inure.models import Model, build
from inure.models.heads import CosineHead
from inure.recipe.recipe import Recipe, load_recipe
from inure.recipe.shipped import recipe_tree, shipped_names
from inure.schedules import Cosine, Ramp
from inure.settings import config, trees
from inure.threat import Linf

SHIPPED = [name for name, _ in shipped_names()]
SIZES = {"digits": 8, "cifar10": 32, "imagenette64": 64, "imagenette": 224, "imagenet": 224}
LONG_TAILED = {"cifar10_lt50": 10, "cifar100_lt10": 100}
SIZES |= dict.fromkeys(LONG_TAILED, 32)
SINGLE_STEP = ("fgsm", "rs_fgsm", "n_fgsm", "zero_grad", "multi_grad", "grad_align", "free", "fgsm_pgi")
SUCCESSORS = (
    "mo_", "singh_", "debenedetti_", "te_", "random_labels", "noisy_labels", "long_tail", *SINGLE_STEP,
)  # fmt: skip
"""What recipes begin with that are called after a paper, an attack or what they are for, not after a method."""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_says_what_it_is_and_survives_yaml(name):
    built = load_recipe(name)
    assert len(built.about) > 20
    assert config.build(Recipe, yaml.safe_load(trees.to_yaml(config.dump(built)))) == built
    kind = built.method.kind
    if name.split("/")[0] in LONG_TAILED:
        return
    assert name.split("/")[1].startswith(("soup" if kind == "co_training" else kind, *SUCCESSORS))


@cache
def net_of(model: str, shape: tuple[int, int, int]) -> nn.Module:
    """The net of a ``model`` section (as JSON), built once, without memory for its weights."""
    with torch.device("meta"):
        return build(Model(**json.loads(model)), num_classes=10, shape=shape)


def one_of_each_net() -> list[object]:
    """Names of recipes; of those with the same net the first, and of families all but two of the slow ones."""
    nets = {}
    for name in SHIPPED:
        key = name.split("/")[0], json.dumps(config.dump(load_recipe(name).model))
        nets.setdefault(key, name)
    fast = ("cifar10/mo_pgd_at_deit_tiny", "cifar10/mo_pgd_at_swin_tiny")
    slow = [n for n in nets.values() if ("/mo_" in n and n not in fast) or n.startswith("cifar100_lt10")]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in nets.values()]


@pytest.mark.parametrize("name", one_of_each_net())
def test_the_net_and_the_optimizer_of_every_shipped_recipe_build(name):
    built = load_recipe(name)
    folder = name.split("/")[0]
    side = built.model.img_size if folder == "digits" and built.model.img_size else SIZES[folder]
    shape = (1 if folder == "digits" else 3, side, side)
    net = net_of(json.dumps(config.dump(built.model)), shape)
    assert net(torch.empty(2, *shape, device="meta")).shape == (2, 10)
    assert len(built.optimizer.build(net).param_groups) == (1 if built.optimizer.decay_all else 2)


def test_the_shipped_recipes_are_those_of_the_plan():
    methods = ("standard", "pgd_at", "trades", "mart")
    cifar = {f"cifar10/{m}_{net}" for m in methods for net in ("resnet18", "wrn28_10", "deit_tiny")}
    soups = {"digits/soup", *(f"cifar10/soup_{net}" for net in ("resnet18", "deit_tiny", "vit_small"))}
    imagenette = {"imagenette64/pgd_at_deit_tiny", "imagenette64/soup_deit_tiny"}
    imagenet = {f"imagenet/{m}_vit_b16" for m in ("soup", "pgd_at", "standard")}
    assert {*SHIPPED} >= {f"digits/{m}" for m in methods} | cifar | soups | imagenette | imagenet


def factors(schedule, *epochs: float, of: int) -> list[float]:
    return [round(schedule.at(epoch / of), 6) for epoch in epochs]


@pytest.mark.parametrize("net", ["resnet18", "wrn28_10"])
def test_cifar_cnns_have_the_numbers_of_rice_et_al(net):
    built = load_recipe(f"cifar10/pgd_at_{net}")
    assert (built.epochs, built.batch_size) == (200, 128)
    sgd = built.optimizer
    assert (sgd.kind, sgd.lr, sgd.momentum, sgd.weight_decay, sgd.decay_all) == ("sgd", 0.1, 0.9, 5e-4, True)
    assert factors(built.schedule, 0, 99, 100, 149, 150, 199, of=200) == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert (built.augment.crop_padding, built.augment.crop_mode, built.augment.flip) == (4, "reflect", True)
    assert built.method.attack == PGD(threat=Linf(epsilon=8 / 255), steps=10, step_size=2 / 255, start="uniform")
    assert built.method.attack_mode == "train"
    assert built.data.validation == 1000


def test_cifar_vits_have_the_numbers_of_mo_et_al():
    built = load_recipe("cifar10/pgd_at_deit_tiny")
    assert (built.epochs, built.batch_size, built.model.patch_size, built.model.img_size) == (40, 64, 4, 32)
    sgd = built.optimizer
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.decay_all, sgd.clip_norm) == (0.1, 0.9, 1e-4, True, 1.0)
    assert factors(built.schedule, 0, 34, 35, 37, 38, of=40) == [1, 1, 0.1, 0.1, 0.01]
    assert (built.augment.mixup, built.augment.cutmix, built.augment.mix_probability) == (0.8, 1.0, 0.3)
    assert load_recipe("cifar10/trades_deit_tiny").augment.mixes is False
    assert (built.method.attack_mode, built.evaluation.threat) == ("eval", Linf(epsilon=8 / 255))


def test_trades_and_mart_have_the_numbers_of_their_papers():
    trades, mart = load_recipe("cifar10/trades_resnet18").method, load_recipe("cifar10/mart_resnet18").method
    assert (trades.beta, mart.beta, load_recipe("cifar10/mart_wrn28_10").method.beta) == (6, 5, 6)
    for method in (trades, mart):
        assert (method.attack.start, method.attack.start_std, method.attack_mode) == ("gaussian", 1e-3, "eval")


def test_temporal_ensembling_has_the_numbers_of_dong_et_al():
    built, trades = load_recipe("cifar10/te_resnet18"), load_recipe("cifar10/te_trades_resnet18")
    for recipe in (built, trades):
        assert (recipe.epochs, recipe.batch_size) == (200, 128)
        assert (recipe.model.name, recipe.model.mean, recipe.model.std) == ("cifar_resnet18", None, None)
        assert (recipe.augment.crop_padding, recipe.augment.crop_mode, recipe.augment.flip) == (4, "zeros", True)
        assert factors(recipe.schedule, 0, 99, 100, 149, 150, 199, of=200) == [1, 1, 0.1, 0.1, 0.01, 0.01]
        sgd = recipe.optimizer
        assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.decay_all) == (0.1, 0.9, 5e-4, True)
        (te,) = recipe.penalties
        assert (te.kind, te.weight, te.momentum, te.on) == ("temporal_ensembling", 30, 0.9, "auto")
        assert (te.start, te.end) == (89 / 200, 149 / 200)
        assert recipe.method.attack_mode == "eval"
    assert built.method.attack == PGD(threat=Linf(epsilon=8 / 255), steps=10, step_size=2 / 255, start="uniform")
    assert (trades.method.beta, trades.method.attack.start) == (6, "gaussian")


@pytest.mark.parametrize("method", ["pgd_at", "trades"])
def test_random_labels_have_the_numbers_of_dong_et_al(method):
    built = load_recipe(f"cifar10/random_labels_{method}_wrn28_10")
    assert (built.epochs, built.batch_size, built.model.name, built.augment) == (300, 128, "wrn28_10", None)
    assert (built.data.label_noise.kind, built.data.label_noise.rate) == ("symmetric", 1)
    assert (built.optimizer.lr, built.optimizer.momentum, built.optimizer.weight_decay) == (0.1, 0.9, 0)
    assert factors(built.schedule, 0, 99, 100, 199, 200, of=300) == [1, 1, 0.1, 0.1, 0.01]
    assert (built.method.kind, built.method.attack.steps, built.method.attack_mode) == (method, 10, "eval")


def test_the_digits_recipes_have_the_settings_of_the_trial():
    built = load_recipe("digits/pgd_at")
    assert (built.epochs, built.batch_size, built.model.name) == (40, 64, "vit_digits")
    adamw = built.optimizer
    assert (adamw.kind, adamw.lr, adamw.weight_decay, adamw.clip_norm, adamw.decay_all) == (
        "adamw",
        3e-3,
        0.05,
        1,
        False,
    )
    assert built.schedule == Cosine(warmup=3 / 40)
    assert built.method.attack == PGD(steps=5, threat=Linf(epsilon=0.2))
    assert built.regime.epsilon == Ramp(until=0.5)
    assert "regime" not in recipe_tree("digits/standard")


@pytest.mark.parametrize(("folder", "classes"), LONG_TAILED.items())
def test_long_tailed_recipes_have_the_settings_of_their_papers(folder, classes):
    reat, control, bsl = (load_recipe(f"{folder}/{name}") for name in ("reat", "at_bsl_80", "at_bsl"))
    assert (reat.epochs, reat.batch_size, bsl.epochs) == (80, 128, 100)
    assert factors(reat.schedule, 0, 59, 60, 74, 75, of=80) == [1, 1, 0.1, 0.1, 0.01]
    assert factors(bsl.schedule, 0, 74, 75, 89, 90, of=100) == [1, 1, 0.1, 0.1, 0.01]
    assert reat.method.attack == PGD(threat=Linf(epsilon=8 / 255), steps=10, step_size=2 / 255, start="uniform")
    assert (bsl.method.attack.start, bsl.method.attack.start_std, bsl.method.attack_mode) == ("gaussian", 1e-3, "eval")
    assert reat.balance.attack == Rebalanced(faithful=True)
    assert reat.balance.train == bsl.balance.train == control.balance.train == BalancedSoftmax()
    assert [penalty.kind for penalty in reat.penalties] == ["tail"]
    same = {"about", "penalties", "balance"}
    assert {key for key in type(reat).model_fields if getattr(reat, key) != getattr(control, key)} == same
    for name in shipped_in(folder):
        built = load_recipe(f"{folder}/{name}")
        assert built.balance.counter is not None
        assert built.data.long_tail == Exponential(ratio=50 if classes == 10 else 10)
        assert (built.model.mean, built.model.std) == ([0], [1])
    robal = load_recipe(f"{folder}/robal_r_wrn34_10")
    assert robal.model.head == CosineHead(gamma=1 / 32 if classes == 10 else 1 / 16)
    assert (robal.method.kind, robal.method.beta, robal.method.attack.steps, robal.batch_size) == ("pgd_kl", 6, 5, 64)


def shipped_in(folder: str) -> list[str]:
    return [name.split("/")[1] for name in SHIPPED if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("method", SINGLE_STEP)
def test_single_step_recipes_have_the_settings_of_the_specification(method):
    built, small = load_recipe(f"cifar10/{method}_preact_resnet18"), load_recipe(f"digits/{method}")
    assert built.method.attack.threat == built.evaluation.threat == Linf(epsilon=8 / 255)
    assert small.method.attack.threat == small.evaluation.threat == Linf(epsilon=0.1)
    assert (built.batch_size, built.optimizer.weight_decay, built.optimizer.decay_all) == (128, 5e-4, True)
    epochs = {"fgsm": 15, "rs_fgsm": 15, "free": 10, "fgsm_pgi": 110}
    rates = {"grad_align": 0.3, "free": 0.04, "fgsm_pgi": 0.1}
    assert (built.epochs, built.optimizer.lr) == (epochs.get(method, 30), rates.get(method, 0.2))
    for recipe in (built, small):
        assert type(recipe.method) is type(built.method)
        assert recipe.method.attack.kind == built.method.attack.kind
        if hasattr(recipe.method, "attack_mode"):
            assert recipe.method.attack_mode == "train"
    if method == "rs_fgsm":
        for recipe in (built, small):
            attack = recipe.method.attack
            assert (attack.start, attack.step_size) == ("uniform", pytest.approx(1.25 * attack.threat.epsilon))
    if method == "grad_align":
        assert (built.penalties[0].weight, built.schedule.at(0.4)) == (0.2, 1)
    if method == "free":
        assert (built.method.replays, built.epochs * built.method.replays) == (8, 80)
        assert small.epochs * small.method.replays == 20
    if method == "fgsm_pgi":
        smoothed = built.balance.train.label_smoothing
        assert 1 - smoothed + smoothed / 10 == pytest.approx(0.6)
        assert built.balance.attack == built.balance.train
        assert (built.method.weight, built.method.momentum, built.method.reset * 110) == (10, 0.3, pytest.approx(40))
        assert factors(built.schedule, 99, 100, 104, 105, of=110) == [1, 0.1, 0.1, 0.01]
